"""What is refused first: the order is seen in which of several mistakes a request is refused for."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from harness import ask, chat, connect, gateway, request_bytes, run
from tidegate.admission.admission import Admission
from tidegate.admission.catalogue import Catalogue
from tidegate.admission.identity import gate, hash_key
from tidegate.admission.settings import AuthSettings, KeySettings, ModelSettings, TargetSettings
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.exchange import Admitted, Arrival, Outcome, Timeouts
from tidegate.verdict import Refused

KEY = "tg-0123456789abcdef"
AUTH = {"mode": "keys", "keys": [{"id": "laptop", "sha256": hash_key(KEY), "tenant": "acme"}]}
GOOD = {b"authorization": b"Bearer " + KEY.encode(), b"content-type": b"application/json"}


class Body:
    """An upload that says whether it was read."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.asked = False

    async def read(self, within_s: float = 0.0) -> bytes:
        self.asked = True
        return self.body


def admit(headers: Mapping[bytes, bytes], body: Body, *, draining: bool = False) -> tuple[Admitted, Outcome]:
    """Give what admission makes of a request. Errors: Refused."""
    models = (ModelSettings(name="m", targets=(TargetSettings(provider="p"),), aliases=("alias",)),)
    keys = (KeySettings(id="laptop", sha256=hash_key(KEY), tenant="acme"),)
    admission = Admission(
        gate(AuthSettings(mode="keys", keys=keys)),
        Catalogue(models, {"p": Timeouts()}, frozenset()),
        {"chat": OpenAIChat()},
        lambda: draining,
    )
    outcome = Outcome(0.0)
    arrival = Arrival("id", 1, "chat", headers, "127.0.0.1", body, outcome)

    async def work() -> Admitted:
        async with admission.admit(arrival) as admitted:
            return admitted

    return asyncio.run(work()), outcome


def code(headers: Mapping[bytes, bytes], body: Body, *, draining: bool = False) -> str:
    with pytest.raises(Refused) as caught:
        admit(headers, body, draining=draining)
    return caught.value.verdict.code


def test_an_admitted_exchange_knows_who_asks_and_for_which_model() -> None:
    body = Body(json.dumps(chat("alias")).encode())
    admitted, outcome = admit(GOOD, body)
    assert (admitted.model.name, admitted.identity.key_id, admitted.identity.tenant) == ("m", "laptop", "acme")
    assert (outcome.model, outcome.key_id, outcome.tenant, outcome.stream) == ("m", "laptop", "acme", True)
    assert outcome.prompt_bytes == len(body.body)


def test_refusals_come_in_the_order_of_what_they_cost() -> None:
    """Each request has all mistakes that come later as well."""
    everything = {b"content-type": b"text/plain"}
    nonsense = Body(b"no json")
    assert code(everything, nonsense, draining=True) == "draining"
    assert code(everything, nonsense) == "unauthenticated"
    assert code({**GOOD, **everything}, nonsense) == "media_type"
    assert not nonsense.asked
    assert code(GOOD, nonsense) == "bad_request"
    assert nonsense.asked
    assert code(GOOD, Body(json.dumps(chat("none")).encode())) == "unknown_model"


def test_a_refusal_while_draining_says_when_to_come_again() -> None:
    with pytest.raises(Refused) as caught:
        admit(GOOD, Body(b""), draining=True)
    assert dict(caught.value.headers)[b"retry-after"].isdigit()


def test_a_refused_exchange_has_no_model_but_keeps_its_key_for_the_record() -> None:
    outcome = Outcome(0.0)
    body = Body(json.dumps(chat("none")).encode())
    admission = Admission(
        gate(AuthSettings(mode="keys", keys=(KeySettings(id="laptop", sha256=hash_key(KEY)),))),
        Catalogue((), {}, frozenset()),
        {"chat": OpenAIChat()},
        lambda: False,
    )
    with pytest.raises(Refused):
        asyncio.run(admission.check(Arrival("id", 1, "chat", GOOD, "", body, outcome)))
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
