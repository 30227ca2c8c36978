"""Rules of `limits.rate` over a store with a clock that is handed in."""

import asyncio
import json
from typing import Any

import pytest

from tidegate.admission.rates import Rates, Reservation, duration, input_tokens, shown
from tidegate.admission.settings import RateSettings
from tidegate.admission.store import Charge, Level, Limit, MemoryStore, Scope
from tidegate.exchange import Arrival, Ask, AttemptRecord, Identity, Model, Outcome, Usage
from tidegate.testing.memory import NoBody
from tidegate.verdict import RATE_LIMITED, Refused

ALICE = Identity(key_id="alice", tenant="acme")


class Bench:
    """Rates with rules, and a clock."""

    def __init__(self, *rules: RateSettings) -> None:
        self.now = 1000.0
        self.store = MemoryStore(lambda: self.now)
        self.refused: list[str] = []
        self.rates = Rates(rules, self.store, lambda: 0.0, self.refused.append)

    def look(self, identity: Identity = ALICE, peer: str = "203.0.113.1") -> None:
        asyncio.run(self.rates.look(arrival(peer), identity))

    def take(
        self, identity: Identity = ALICE, peer: str = "203.0.113.1", model: str = "m", ask: Ask | None = None
    ) -> Reservation:
        taken = self.rates.take(arrival(peer), identity, Model(model, ()), ask or asking())
        return asyncio.run(taken)

    def refusal(self, **options: Any) -> Refused:
        with pytest.raises(Refused) as caught:
            self.take(**options)
        assert caught.value.verdict is RATE_LIMITED
        return caught.value

    def left(self, unit: str = "tokens") -> int:
        """Give what is shown as remaining, without taking anything."""
        limit = next(limit for limit in self.rates._limits if limit.unit == unit)
        return asyncio.run(self.store.look([Charge(limit, "alice", 0)]))[0].remaining

    def settle(self, reservation: Reservation, outcome: Outcome, *, cancelled: bool = False) -> None:
        asyncio.run(reservation.settle(outcome, cancelled=cancelled))


def arrival(peer: str) -> Arrival:
    return Arrival("id", 1, "chat", {}, peer, NoBody(), Outcome(0.0))


def asking(text: str = "x" * 400, *, max_tokens: int = 100, choices: int = 1) -> Ask:
    return Ask("m", stream=True, wants_usage=False, body=text.encode(), max_tokens=max_tokens, choices=choices)


def outcome(*, sent: bool = True, opened: bool = True, usage: Usage | None = None) -> Outcome:
    made = Outcome(0.0)
    record = AttemptRecord("p", "m", 1.0, sent_at=2.0 if sent else 0.0, content_at=3.0 if opened else 0.0)
    made.attempts.append(record)
    made.usage = usage
    return made


def of(headers: tuple[tuple[bytes, bytes], ...]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


def by(scope: Scope, **limits: int) -> RateSettings:
    return RateSettings(by=scope, **limits)


# --- whose bucket it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "other"),
    [
        ("key", {"identity": Identity("bob", "acme")}),
        ("tenant", {"identity": Identity("alice", "other")}),
        ("ip", {"peer": "203.0.113.2"}),
        ("model", {"model": "n"}),
    ],
)
def test_each_key_tenant_address_and_model_has_its_own_bucket(scope: Scope, other: dict[str, Any]) -> None:
    bench = Bench(by(scope, requests_per_minute=1))
    bench.take()
    assert bench.refusal().verdict is RATE_LIMITED
    assert bench.refused == [scope]
    bench.take(**other)


def test_the_addresses_of_one_network_share_a_bucket() -> None:
    bench = Bench(by("ip", requests_per_minute=1))
    bench.take(peer="2001:db8::1")
    bench.refusal(peer="2001:db8::2")


def test_those_without_a_key_share_a_bucket() -> None:
    bench = Bench(by("key", requests_per_minute=1))
    bench.take(identity=Identity())
    bench.refusal(identity=Identity(), peer="203.0.113.2")


def test_the_head_decides_what_it_can_and_uses_nothing() -> None:
    bench = Bench(by("key", requests_per_minute=2, tokens_per_minute=10_000), by("model", requests_per_minute=1))
    for _ in range(5):
        bench.look()
    bench.take()
    bench.look()  # the model's rule is used up, which the head does not know
    assert bench.refused == []
    bench.take(model="n")
    with pytest.raises(Refused):
        bench.look()
    assert bench.refused == ["key"]


def test_a_refused_request_uses_nothing_of_any_rule() -> None:
    bench = Bench(by("key", requests_per_minute=10), by("model", requests_per_minute=1))
    bench.take()
    assert bench.left("requests") == 9
    for _ in range(3):
        bench.refusal()
    assert bench.left("requests") == 9


# --- what is reserved, and what it comes to ---------------------------------------------------------------------------


def test_text_and_the_longest_answer_are_reserved() -> None:
    bench = Bench(by("key", tokens_per_minute=10_000))
    bench.take(ask=asking("x" * 400, max_tokens=100))
    assert bench.left() == 10_000 - 100 - 100
    bench.take(ask=asking("x" * 400, max_tokens=0))
    assert bench.left() == 10_000 - 200 - 100 - 1024
    bench.take(ask=asking("", max_tokens=100, choices=3))
    assert bench.left() == 10_000 - 1324 - 300


def test_a_reservation_is_never_more_than_the_bucket_holds() -> None:
    bench = Bench(by("key", tokens_per_minute=1000))
    bench.take(ask=asking(max_tokens=1_000_000))
    assert bench.left() == 0
    bench.refusal(ask=asking("", max_tokens=1))


def test_the_reservation_becomes_what_the_provider_counted() -> None:
    bench = Bench(by("key", tokens_per_minute=10_000))
    reservation = bench.take(ask=asking(max_tokens=5000))
    bench.settle(reservation, outcome(usage=Usage(input_tokens=120, output_tokens=30)))
    assert bench.left() == 9850
    reservation = bench.take(ask=asking("", max_tokens=10))
    bench.settle(reservation, outcome(usage=Usage(input_tokens=120, output_tokens=5000)))
    assert bench.left() == 9850 - 5120


def test_where_the_provider_did_not_count_what_was_seen_is_charged() -> None:
    bench = Bench(by("key", tokens_per_minute=10_000))
    reservation = bench.take(ask=asking("x" * 400))
    streamed = outcome()
    streamed.flowing.frames, streamed.flowing.content_bytes = 7, 80
    bench.settle(reservation, streamed)
    assert bench.left() == 10_000 - 100 - 20


def test_an_exchange_that_never_opened_gives_everything_back() -> None:
    bench = Bench(by("key", requests_per_minute=10, tokens_per_minute=10_000, max_streams=1))
    for failed in (outcome(opened=False), outcome(sent=False, opened=False), Outcome(0.0)):
        bench.settle(bench.take(), failed)
        assert (bench.left("requests"), bench.left("tokens"), bench.left("streams")) == (10, 10_000, 1)


def test_a_client_that_left_after_its_request_was_sent_pays_for_the_input() -> None:
    bench = Bench(by("key", requests_per_minute=10, tokens_per_minute=10_000))
    bench.settle(bench.take(ask=asking("x" * 400)), outcome(opened=False), cancelled=True)
    assert (bench.left("requests"), bench.left("tokens")) == (9, 9900)
    bench.settle(bench.take(), outcome(sent=False, opened=False), cancelled=True)
    assert (bench.left("requests"), bench.left("tokens")) == (9, 9900)


def test_a_place_is_held_until_the_exchange_is_over() -> None:
    bench = Bench(by("key", max_streams=2))
    first = bench.take()
    bench.take()
    fault = bench.refusal()
    assert of(fault.headers) == {"retry-after": "1"}
    assert "2 streams at a time" in fault.message
    bench.settle(first, outcome())
    bench.take()


def test_images_are_counted_and_not_weighed() -> None:
    data = "iVBORw0KGgo" * 100_000
    message = {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
            {"type": "image_url", "image_url": {"url": "https://example.org/tide.png"}},
        ],
    }
    for separators in ((",", ":"), (", ", ": ")):
        body = json.dumps({"messages": [message]}, separators=separators).encode()
        text = len(body) - len(data)
        assert input_tokens(body) == text // 4 + 2000
        slashed = body.replace(b"/", b"\\/")
        assert 0 < input_tokens(slashed) - text // 4 - 2000 < 10


@pytest.mark.parametrize(
    "text", ['"type":"image_url"', 'a "data:image/png;base64,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"', "image", '"image"']
)
def test_words_about_images_are_words(text: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    assert input_tokens(body) == len(body) // 4


@pytest.mark.parametrize(
    "body", [b"", b'"data:image', b'{"u":"data:image/png;base64,AAAA', b'{"u":"data:image/png,A"}']
)
def test_a_body_that_is_cut_or_odd_is_judged_all_the_same(body: bytes) -> None:
    assert 0 <= input_tokens(body) <= len(body) // 4


# --- what clients are told --------------------------------------------------------------------------------------------


def test_the_headers_say_how_requests_and_tokens_stand() -> None:
    bench = Bench(by("key", requests_per_minute=600, burst=60, tokens_per_minute=60_000, max_streams=5))
    headers = of(bench.take(ask=asking("x" * 400, max_tokens=500)).headers)
    assert headers == {
        "ratelimit-policy": '"default";q=600;w=60, "tokens";q=60000;w=60;qu="tokens"',
        "ratelimit": '"default";r=59;t=1, "tokens";r=59400;t=1',
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "60000",
        "x-ratelimit-remaining-tokens": "59400",
        "x-ratelimit-reset-tokens": "600ms",
    }


def test_a_refusal_has_them_too_and_says_when_to_come_again() -> None:
    bench = Bench(by("key", requests_per_minute=6, burst=2))
    bench.take()
    bench.take()
    fault = bench.refusal()
    headers = of(fault.headers)
    assert headers["retry-after"] == "10"
    assert headers["ratelimit-policy"] == '"default";q=6;w=60'
    assert headers["ratelimit"] == '"default";r=0;t=20'
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert not any("tokens" in name for name in headers)
    assert "6 requests a minute for this key" in fault.message
    bench.now += 10
    bench.take()


def test_of_several_rules_the_tightest_is_shown() -> None:
    bench = Bench(
        by("key", requests_per_minute=1000), by("ip", requests_per_minute=10), by("model", tokens_per_minute=9000)
    )
    headers = of(bench.take(ask=asking("")).headers)
    assert headers["ratelimit-policy"] == '"default";q=10;w=60, "tokens";q=9000;w=60;qu="tokens"'
    assert headers["x-ratelimit-remaining-requests"] == "9"


def test_the_rule_that_refuses_is_shown_even_where_more_is_left_of_it() -> None:
    bench = Bench(by("key", tokens_per_minute=1000), by("ip", tokens_per_minute=100_000))
    bench.take(ask=asking("", max_tokens=400))
    headers = of(bench.refusal(ask=asking("", max_tokens=700)).headers)
    assert headers["x-ratelimit-remaining-tokens"] == "600"
    assert headers["retry-after"] == "6"


def test_the_longest_wait_is_the_one_to_wait_for() -> None:
    bench = Bench(by("key", requests_per_minute=60, burst=1), by("ip", requests_per_minute=6, burst=1))
    bench.take()
    assert of(bench.refusal().headers)["retry-after"] == "10"
    assert bench.refused == ["ip"]


def test_without_limits_of_requests_or_tokens_there_is_nothing_to_show() -> None:
    assert shown([Level(Limit.at_a_time("s", "key", 1), 1)]) == ()
    assert Bench(by("key", max_streams=2)).take().headers == ()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, b"0ms"),
        (0.02, b"20ms"),
        (0.0201, b"21ms"),
        (1, b"1s"),
        (1.5, b"1.5s"),
        (8.64, b"8.64s"),
        (10, b"10s"),
        (60, b"1m0s"),
        (360, b"6m0s"),
        (72.5, b"1m12.5s"),
        (3600, b"1h0m0s"),
        (0.9999, b"1s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: bytes) -> None:
    assert duration(seconds) == text


def test_what_is_known_to_be_no_text_is_no_input() -> None:
    body = b'{"input":{"image":"data:image/png;base64,%b"}}' % (b"A" * 4000)
    assert input_tokens(body, 4000) == (len(body) - 4000) // 4
    assert input_tokens(body, len(body) + 9) == 0
