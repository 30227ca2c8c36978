"""What is refused first: the order is seen in which of several mistakes a request is refused for."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
import structlog

from harness import ask, chat, connect, gateway, request_bytes, run
from tidegate.admission.admission import Admission
from tidegate.admission.catalogue import Catalogue
from tidegate.admission.identity import Door, gate, hash_key
from tidegate.admission.memory import MemoryGuard
from tidegate.admission.passage import ROUTE, Passages
from tidegate.admission.rates import Rates
from tidegate.admission.settings import AuthSettings, KeySettings, ModelSettings, RateSettings, TargetSettings
from tidegate.admission.store import MemoryStore
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.exchange import Admitted, Arrival, Outcome, Timeouts
from tidegate.verdict import Refused

KEY = "tg-0123456789abcdef"
AUTH = {"mode": "keys", "keys": [{"id": "laptop", "sha256": hash_key(KEY), "tenant": "acme"}]}
GOOD = {b"authorization": b"Bearer " + KEY.encode(), b"content-type": b"application/json"}


class Body:
    """An upload that says whether it was read, and how long it might take."""

    def __init__(self, body: bytes, error: BaseException | None = None) -> None:
        self.body = body
        self.error = error
        self.asked = False
        self.within_s = -1.0

    async def read(self, within_s: float = 0.0) -> bytes:
        self.asked = True
        self.within_s = within_s
        if self.error is not None:
            raise self.error
        return self.body


class House:
    """An admission with all its parts, and what they hold."""

    def __init__(
        self, *, draining: bool = False, held: int = 0, rates: bool = False, request_timeout_s: float = 0.0
    ) -> None:
        self.now = 100.0
        self.store = MemoryStore(self.clock)
        self.refused: list[str] = []
        self.memory = MemoryGuard(
            1000,
            1000,
            held=lambda: held,
            readers=lambda: (),
            chance=lambda: 0.0,
            log=structlog.get_logger(),
        )
        self.memory.sample()
        models = (ModelSettings(name="m", targets=(TargetSettings(provider="p"),), aliases=("alias",)),)
        keys = (KeySettings(id="laptop", sha256=hash_key(KEY), tenant="acme"),)
        rules = (RateSettings(by="key", requests_per_minute=1, max_streams=1),)
        self.admission = Admission(
            door=Door(gate(AuthSettings(mode="keys", keys=keys)), self.clock, lambda: 0.0),
            catalogue=Catalogue(models),
            dialects={"chat": OpenAIChat()},
            finders={ROUTE: Passages({"main": Timeouts()}).find},
            draining=lambda: draining,
            memory=self.memory,
            rates=Rates(rules, self.store, lambda: 0.0, self.refused.append) if rates else None,
            request_timeout_s=request_timeout_s,
            clock=self.clock,
            chance=lambda: 0.0,
        )

    def clock(self) -> float:
        return self.now

    def admit(self, headers: Mapping[bytes, bytes], body: Body) -> tuple[Admitted, Outcome]:
        """Give what admission makes of a request. Errors: Refused."""
        outcome = Outcome(self.now)
        arrival = Arrival("id", 1, "chat", headers, "127.0.0.1", body, outcome)

        async def work() -> Admitted:
            async with self.admission.admit(arrival) as admitted:
                assert self.admission.held() == len(body.body)
                return admitted

        try:
            return asyncio.run(work()), outcome
        finally:
            assert self.admission.inside == set()
            assert self.admission.held() == 0


def admit(headers: Mapping[bytes, bytes], body: Body, **options: Any) -> tuple[Admitted, Outcome]:
    return House(**options).admit(headers, body)


def code(headers: Mapping[bytes, bytes], body: Body, **options: Any) -> str:
    with pytest.raises(Refused) as caught:
        admit(headers, body, **options)
    return caught.value.verdict.code


def test_an_admitted_exchange_knows_who_asks_and_for_which_model() -> None:
    body = Body(json.dumps(chat("alias")).encode())
    admitted, outcome = admit(GOOD, body)
    assert (admitted.model.name, admitted.identity.key_id, admitted.identity.tenant) == ("m", "laptop", "acme")
    assert (outcome.model, outcome.key_id, outcome.tenant, outcome.stream) == ("m", "laptop", "acme", True)
    assert outcome.prompt_bytes == len(body.body)


def test_refusals_come_in_the_order_of_what_they_cost() -> None:
    """Each request has all mistakes that come later as well."""
    everything = {b"content-type": b"text/plain", b"x-request-timeout": b"soon"}
    nonsense = Body(b"no json")
    assert code(everything, nonsense, draining=True, held=1001) == "draining"
    assert code(everything, nonsense, held=1001) == "overloaded"
    assert code(everything, nonsense) == "unauthenticated"
    assert code({**GOOD, **everything}, nonsense) == "bad_request"
    everything[b"x-request-timeout"] = b"5"
    assert code({**GOOD, **everything}, nonsense) == "media_type"
    assert not nonsense.asked
    assert code(GOOD, nonsense) == "bad_request"
    assert nonsense.asked
    assert code(GOOD, Body(json.dumps(chat("none")).encode())) == "unknown_model"


def test_a_limit_that_is_used_up_refuses_before_the_body_is_read() -> None:
    house = House(rates=True)
    house.admit(GOOD, Body(json.dumps(chat("m")).encode()))
    house.now += 1  # the one that never opened has given everything back
    admitted, _ = house.admit(GOOD, Body(json.dumps(chat("m")).encode()))
    assert dict(admitted.headers)[b"x-ratelimit-remaining-requests"] == b"0"
    assert len(house.store) == 0


def test_while_one_is_inside_the_next_is_refused_and_spends_nothing() -> None:
    house = House(rates=True)
    late = Body(b"")

    async def work() -> None:
        arrival = Arrival("id", 1, "chat", GOOD, "", Body(json.dumps(chat("m")).encode()), Outcome(house.now))
        async with house.admission.admit(arrival):
            for _ in range(3):
                with pytest.raises(Refused) as caught:
                    await house.admission.admit(Arrival("id", 1, "chat", GOOD, "", late, Outcome(0.0))).__aenter__()
                assert caught.value.verdict.code == "rate_limited"
            assert len(house.admission.inside) == 1

    asyncio.run(work())
    assert not late.asked
    assert house.refused == ["key"] * 3
    assert len(house.store) == 0


@pytest.mark.parametrize("error", [asyncio.CancelledError(), RuntimeError(), None])
def test_whatever_ends_an_exchange_it_gives_back_what_it_held(error: BaseException | None) -> None:
    house = House(rates=True)

    async def work() -> None:
        arrival = Arrival("id", 1, "chat", GOOD, "", Body(json.dumps(chat("m")).encode()), Outcome(house.now))
        async with house.admission.admit(arrival):
            assert len(house.store) == 2
            if error is not None:
                raise error

    if error is None:
        asyncio.run(work())
    else:
        with pytest.raises(type(error)):
            asyncio.run(work())
    assert len(house.store) == 0
    assert house.admission.inside == set()


def test_a_body_that_breaks_off_is_no_longer_expected() -> None:
    house = House()
    headers = {**GOOD, b"content-length": b"450"}
    with pytest.raises(ConnectionError):
        house.admit(headers, Body(b"", ConnectionError()))
    assert_refuses_now_but_not_later(house, headers)


def assert_refuses_now_but_not_later(house: House, headers: Mapping[bytes, bytes]) -> None:
    with pytest.raises(Refused):
        house.admit(headers, Body(b""))
    house.memory.sample()
    house.admit(headers, Body(json.dumps(chat("m")).encode()))


@pytest.mark.parametrize(
    ("most_s", "header", "until"), [(0.0, None, 0.0), (20.0, None, 120.0), (20.0, b"5", 105.0), (0.0, b"250ms", 100.25)]
)
def test_the_deadline_counts_from_the_arrival_and_for_the_body_too(
    most_s: float, header: bytes | None, until: float
) -> None:
    headers = GOOD if header is None else {**GOOD, b"x-request-timeout": header}
    body = Body(json.dumps(chat("m")).encode())
    admitted, _ = admit(headers, body, request_timeout_s=most_s)
    assert admitted.deadline == until
    assert body.within_s == pytest.approx(until - 100.0 if until else 0.0)


def test_a_request_whose_time_is_up_already_is_refused() -> None:
    house = House()
    body = Body(b"")
    arrival = Arrival("id", 1, "chat", {**GOOD, b"x-request-timeout": b"1"}, "", body, Outcome(house.now - 2))
    with pytest.raises(Refused) as caught:
        asyncio.run(house.admission.admit(arrival).__aenter__())
    assert caught.value.verdict.code == "deadline_exceeded"
    assert not body.asked


def test_a_refusal_while_draining_says_when_to_come_again() -> None:
    with pytest.raises(Refused) as caught:
        admit(GOOD, Body(b""), draining=True)
    assert dict(caught.value.headers)[b"retry-after"].isdigit()


def test_a_refused_exchange_has_no_model_but_keeps_its_key_for_the_record() -> None:
    outcome = Outcome(0.0)
    body = Body(json.dumps(chat("none")).encode())
    with pytest.raises(Refused):
        asyncio.run(House().admission.admit(Arrival("id", 1, "chat", GOOD, "", body, outcome)).__aenter__())
    assert (outcome.model, outcome.key_id) == ("", "laptop")


@pytest.mark.parametrize(
    "kind",
    ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json;x=1", None],
)
def test_a_body_of_json_or_of_no_named_type_is_read(kind: str | None) -> None:
    headers = {name: value for name, value in GOOD.items() if name != b"content-type"}
    if kind is not None:
        headers[b"content-type"] = kind.encode()
    assert admit(headers, Body(json.dumps(chat("m")).encode()))[0].model.name == "m"


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=a", "application/jsonp", "json", ""])
def test_another_media_type_is_refused_before_its_body_is_read(kind: str) -> None:
    body = Body(b"")
    assert code({**GOOD, b"content-type": kind.encode()}, body) == "media_type"
    assert not body.asked


# --- over real sockets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "api-key", "x-goog-api-key"])
def test_a_key_opens_the_gateway_in_each_of_the_usual_headers(name: str) -> None:
    async def work() -> None:
        async with gateway(auth=AUTH) as running:
            value = f"Bearer {KEY}" if name == "authorization" else KEY
            assert (await ask(running.port, chat("mock?tokens=1"), headers={name: value})).status == 200
            assert (await running.entry()).key_id == "laptop"
            assert (await ask(running.port, b"", method="GET", path="/v1/models", headers={name: value})).status == 200

    run(work)


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "tg-unknown-key"}, {"authorization": "Bearer x"}])
def test_without_a_known_key_every_route_but_health_answers_401(headers: dict[str, str]) -> None:
    async def work() -> None:
        async with gateway(auth=AUTH) as running:
            for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/mock")):
                reply = await ask(running.port, chat(), method=method, path=path, headers=headers)
                assert (reply.status, reply.json()["error"]["code"]) == (401, "unauthenticated")
                assert reply.json()["error"]["type"] == "authentication_error"
                assert reply.headers["x-should-retry"] == "false"
            assert (await ask(running.port, b"", method="GET", path="/health/live", headers=headers)).status == 200
            assert running.mock.stats.started == 0

    run(work)


def test_a_stranger_is_refused_before_the_body_is_sent() -> None:
    async def work() -> None:
        async with gateway(auth=AUTH) as running, connect(running.port) as client:
            request = request_bytes(chat(), headers={"content-length": "1000000", "expect": "100-continue"})
            await client.send(request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            assert (await client.reply()).status == 401

    run(work)


def test_a_known_client_is_told_to_go_on_with_its_body() -> None:
    async def work() -> None:
        async with gateway(auth=AUTH) as running, connect(running.port) as client:
            headers = {"expect": "100-continue", "x-api-key": KEY}
            head, _, body = request_bytes(chat("mock?tokens=1"), headers=headers).partition(b"\r\n\r\n")
            await client.send(head + b"\r\n\r\n")
            assert (await client.reply()).status == 100
            await client.send(body)
            assert (await client.reply()).status == 200

    run(work)


def test_an_alias_is_answered_by_the_model_and_recorded_under_its_name() -> None:
    models: list[dict[str, Any]] = [
        {"name": "public", "aliases": ["other"], "targets": [{"provider": "main", "model": "mock"}]}
    ]

    async def work() -> None:
        async with gateway(models=models) as running:
            for name in ("public", "other", "other?tokens=2"):
                reply = await ask(running.port, chat(name))
                assert reply.status == 200
                assert (await running.entry()).model == "public"
            sent = [json.loads(body)["model"] for _, _, body in running.mock.stats.requests]
            assert sent == ["mock", "mock", "mock?tokens=2"]
            unknown = await ask(running.port, chat("mock"))
            assert (unknown.status, unknown.json()["error"]["param"]) == (404, "model")

    run(work)
