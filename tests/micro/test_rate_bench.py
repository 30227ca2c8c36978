"""What limits cost a request. Aimed at: 1.5 µs a rule and check, in the store as it is asked in production."""

import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.admission.address import Proxies
from tidegate.admission.crowd import Crowd
from tidegate.admission.rates import Rates, Reservation, input_tokens
from tidegate.admission.settings import RateSettings
from tidegate.admission.store import Charge, Level, Limit, MemoryStore
from tidegate.exchange import Arrival, Ask, AttemptRecord, Identity, Model, Outcome, Usage
from tidegate.testing.memory import NoBody

T = TypeVar("T")

PLENTY = 1_000_000_000
ALICE = Identity(key_id="alice", tenant="acme")
MODEL = Model("gpt-4o-mini", ())
ASK = Ask("gpt-4o-mini", stream=True, wants_usage=True, body=b"x" * 2000, max_tokens=400)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run what waits for nothing, without a loop's costs."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waited")


def charges(count: int) -> list[Charge]:
    return [
        Charge(Limit.per_minute(str(number), "key", "requests", PLENTY), "203.0.113.9", 1) for number in range(count)
    ]


def ready() -> MemoryStore:
    """Give a store as it is in use: other subjects are in every shard."""
    store = MemoryStore(time.monotonic)
    for number in range(20_000):
        at_once(store.spend([Charge(charges(1)[0].limit, f"198.51.{number}", 1)]))
    return store


@pytest.mark.parametrize("rules", [1, 4])
def test_a_check_that_uses(benchmark: BenchmarkFixture, rules: int) -> None:
    store, asked = ready(), charges(rules)
    levels: list[Level] = benchmark(lambda: at_once(store.spend(asked)))
    assert [level.wait_s for level in levels] == [0.0] * rules
    assert all(level.used > 0 for level in levels)


def test_a_check_that_only_looks(benchmark: BenchmarkFixture) -> None:
    store, asked = ready(), charges(1)
    levels: list[Level] = benchmark(lambda: at_once(store.look(asked)))
    assert levels[0].wait_s == 0.0


def test_a_check_that_refuses(benchmark: BenchmarkFixture) -> None:
    store = ready()
    limit = Limit.per_minute("one", "ip", "requests", 1)
    at_once(store.spend([Charge(limit, "203.0.113.9", 1)]))
    asked = [Charge(limit, "203.0.113.9", 1)]
    levels: list[Level] = benchmark(lambda: at_once(store.spend(asked)))
    assert levels[0].wait_s > 0


def test_all_that_one_rule_costs_an_exchange(benchmark: BenchmarkFixture) -> None:
    """The look at the head, requests, tokens and a place, the headers, and the settlement."""
    rule = RateSettings(by="key", requests_per_minute=PLENTY, tokens_per_minute=PLENTY, max_streams=10)
    store = ready()
    rates = Rates((rule,), store, lambda: 0.0, lambda _: None)
    outcome = Outcome(0.0)
    outcome.attempts.append(AttemptRecord("p", "m", 1.0, sent_at=2.0, content_at=3.0))
    outcome.usage = Usage(input_tokens=500, output_tokens=200)
    arrival = Arrival("id", 1, "chat", {}, "203.0.113.9", NoBody(), outcome)

    def exchange() -> Reservation:
        at_once(rates.look(arrival, ALICE))
        reservation = at_once(rates.take(arrival, ALICE, MODEL, ASK))
        at_once(reservation.settle(outcome, cancelled=False))
        return reservation

    assert len(benchmark(exchange).headers) == 8
    assert at_once(store.look([Charge(Limit.at_a_time("0:key:streams", "key", 10), "alice", 0)]))[0].used == 0


def test_the_judgement_of_a_body_of_a_megabyte_with_an_image(benchmark: BenchmarkFixture) -> None:
    body = b'{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,%b"}}]}' % (b"iVBO" * 250_000)
    assert 1000 <= benchmark(input_tokens, body) < 1100


def request_of(crowd: Crowd, peer: str, headers: dict[bytes, bytes]) -> Callable[[], str | None]:
    seat = crowd.join(peer)

    def request() -> str | None:
        client = seat.begin(headers)
        seat.done()
        return client

    return request


def test_a_request_of_a_direct_client_finds_its_seat(benchmark: BenchmarkFixture) -> None:
    assert benchmark(request_of(Crowd(100, 10), "203.0.113.9", {})) == "203.0.113.9"


def test_a_request_behind_a_proxy_finds_its_seat(benchmark: BenchmarkFixture) -> None:
    crowd = Crowd(100, 10, Proxies(["10.0.0.0/8"]))
    request = request_of(crowd, "10.0.0.1", {b"x-forwarded-for": b"1.1.1.1, 203.0.113.9, 10.0.0.2"})
    assert benchmark(request) == "203.0.113.9"
