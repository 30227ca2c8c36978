"""The registry gives one prediction for one key, and keeps those that are over within its bounds."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.edge.settings import ServerSettings
from tidegate.exchange import Outcome, ReplyHead
from tidegate.predictions.prediction import Key, Order, Prediction, Terms
from tidegate.predictions.registry import Registry
from tidegate.predictions.settings import PredictionSettings
from tidegate.testing.clock import run_virtual
from tidegate.testing.memory import MemoryClient
from tidegate.verdict import QUEUE_FULL, Refused


class Stock:
    """A registry and what makes predictions for it."""

    def __init__(self, bounds: PredictionSettings | None = None) -> None:
        self.bounds = bounds or PredictionSettings()
        self.clock = asyncio.get_running_loop().time
        self.registry = Registry(self.bounds, self.clock)
        self.made = 0

    def make(self, name: str) -> Prediction:
        self.made += 1
        order = Order(id=name, tenant="acme", model="m", input=b"{}", policy="async")
        terms = Terms(settings=self.bounds, server=ServerSettings, clock=self.clock, wall=self.clock, report=broken)
        return Prediction(order, terms, Outcome(1.0), lambda _: True)

    def create(self, name: str) -> Prediction:
        return self.registry.create(key(name), lambda: self.make(name))

    def held(self) -> int:
        """Give the bytes that are held for all of them."""
        return self.registry.kept_bytes + sum(prediction.held() for prediction in self.registry.live())

    def finished(self, name: str, size: int = 0) -> Prediction:
        prediction = self.create(name)
        prediction.start(ReplyHead(200, ()))
        finish(prediction, size)
        return prediction


def broken(prediction: str, error: Exception) -> None:
    raise AssertionError(prediction) from error


def key(name: str) -> Key:
    return "acme", "m", name


def finish(prediction: Prediction, size: int = 0) -> None:
    if size:
        prediction.write(b'event: value\ndata: {"chunk":"%b"}\n\n' % (b"x" * size))
    prediction.write(b'event: completed\ndata: {"status":"succeeded"}\n\n')


def virtual(main: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def test() -> None:
        run_virtual(main)

    test.__name__ = main.__name__
    return test


@virtual
async def test_a_key_that_is_in_use_is_given_to_no_other_prediction_running_or_over() -> None:
    stock = Stock()
    first = stock.create("a")
    with pytest.raises(ValueError, match="in use"):
        stock.create("a")
    assert (stock.registry.running, len(stock.registry)) == (1, 1)
    finish(first)
    with pytest.raises(ValueError, match="in use"):
        stock.create("a")
    assert (stock.registry.running, len(stock.registry)) == (0, 1)
    assert (stock.made, stock.registry.find(key("a"))) == (1, first)


@virtual
async def test_tenants_and_models_do_not_see_each_other() -> None:
    stock = Stock()
    stock.create("a")
    assert stock.registry.find(("other", "m", "a")) is None
    assert stock.registry.find(("acme", "other", "a")) is None


@virtual
async def test_one_that_is_over_is_kept_for_so_long_and_then_gone_without_being_asked_for() -> None:
    stock = Stock(PredictionSettings(retain_s=60.0))
    done = stock.finished("a")
    await asyncio.sleep(30.0)
    stock.finished("b")
    await asyncio.sleep(29.0)
    assert stock.registry.find(key("a")) is done
    await asyncio.sleep(2.0)
    assert len(stock.registry) == 1
    await asyncio.sleep(30.0)
    assert len(stock.registry) == 0
    assert stock.held() == 0
    stock.create("a")


@virtual
async def test_expired_ones_are_not_found_where_the_timer_is_stopped() -> None:
    stock = Stock(PredictionSettings(retain_s=60.0))
    stock.finished("a")
    stock.registry.close()
    stock.registry.close()
    await asyncio.sleep(61.0)
    assert stock.registry.find(key("a")) is None


@virtual
async def test_nothing_is_kept_where_nothing_is_to_be_kept() -> None:
    stock = Stock(PredictionSettings(retain_s=0.0))
    stock.finished("a")
    assert len(stock.registry) == 0


@virtual
async def test_a_running_one_is_kept_however_long_it_runs() -> None:
    stock = Stock(PredictionSettings(retain_s=1.0, max_retained=1, max_retained_bytes=1))
    running = stock.create("a")
    stock.finished("b")
    await asyncio.sleep(1000.0)
    assert stock.registry.find(key("a")) is running
    assert list(stock.registry.live()) == [running]


@virtual
async def test_the_first_that_ended_goes_first_for_count_and_for_bytes() -> None:
    many = Stock(PredictionSettings(max_retained=2))
    for name in "abc":
        many.finished(name)
    assert [name for name in "abc" if many.registry.find(key(name))] == ["b", "c"]
    large = Stock(PredictionSettings(max_retained_bytes=10_000))
    for name in "abc":
        large.finished(name, 1500)
    assert [name for name in "abc" if large.registry.find(key(name))] == ["b", "c"]
    assert 4500 < large.held() <= 10_000


@virtual
async def test_what_runs_is_held_too() -> None:
    stock = Stock()
    prediction = stock.create("a")
    prediction.write(b'event: output\ndata: {"chunk":"%b"}\n\n' % (b"x" * 1000))
    assert stock.held() > 2000


@virtual
async def test_a_forgotten_one_is_not_found_and_does_not_come_back() -> None:
    stock = Stock()
    running, done = stock.create("a"), stock.finished("b")
    stock.registry.forget(running)
    stock.registry.forget(done)
    finish(running)
    assert len(stock.registry) == 0
    assert stock.held() == 0
    again = stock.create("a")
    stock.registry.forget(running)
    assert stock.registry.find(key("a")) is again
    finish(again)
    stock.registry.forget(running)
    assert stock.registry.find(key("a")) is again


@virtual
async def test_one_that_was_refused_at_once_is_not_kept() -> None:
    stock = Stock()
    prediction = stock.create("a")
    prediction.refuse(Refused(QUEUE_FULL))
    assert len(stock.registry) == 0
    stock.create("a")


@virtual
async def test_who_still_reads_when_a_prediction_expires_gets_everything_to_the_end() -> None:
    stock = Stock(PredictionSettings(retain_s=5.0))
    prediction = stock.create("a")
    client = MemoryClient()
    reader = prediction.attach(client)
    assert reader is not None
    prediction.start(ReplyHead(200, ()))
    reader.pause()
    finish(prediction, 100)
    del prediction
    await asyncio.sleep(10.0)
    assert len(stock.registry) == 0
    reader.resume()
    await reader.wait_over()
    told = b"".join(client.written)
    assert [line for line in told.split(b"\n") if line.startswith(b"event")] == [
        b"event: start",
        b"event: output",
        b"event: completed",
    ]
    assert client.ending is not None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(("create", "finish", "forget", "sleep", "refuse")), st.sampled_from("abcde")),
        max_size=60,
    )
)
def test_whatever_happens_the_bounds_hold_and_the_bytes_add_up(steps: list[tuple[str, str]]) -> None:
    async def main() -> None:
        stock = Stock(PredictionSettings(retain_s=3.0, max_retained=2, max_retained_bytes=4000))
        for step, name in steps:
            there = stock.registry.find(key(name))
            if step == "create":
                found = there or stock.create(name)
                assert stock.registry.find(key(name)) is found
            elif step == "sleep":
                await asyncio.sleep(1.0)
            elif there is not None:
                act(stock.registry, step, there)
            kept = len(stock.registry) - stock.registry.running
            running = sum(prediction.held() for prediction in stock.registry.live())
            assert kept <= 2
            assert 0 <= stock.held() - running <= 4000
            assert (stock.held() == running) == (kept == 0)
        for prediction in stock.registry.live():
            finish(prediction)
        await asyncio.sleep(4.0)
        assert (len(stock.registry), stock.held()) == (0, 0)

    run_virtual(main)


def act(registry: Registry, step: str, prediction: Prediction) -> None:
    if step == "finish":
        finish(prediction, 50)
    elif step == "refuse":
        prediction.refuse(Refused(QUEUE_FULL))
    else:
        registry.forget(prediction)


@virtual
async def test_one_that_expired_makes_room_for_another_of_its_name_before_any_timer_comes() -> None:
    stock, now = Stock(), [0.0]
    stock.registry = Registry(stock.bounds, lambda: now[0])
    stock.finished("a", 1000)
    now[0] = stock.bounds.retain_s
    assert stock.registry.find(key("a")) is None
    stock.create("a")
    assert (stock.registry.kept_bytes, len(stock.registry)) == (0, 1)
    stock.registry.close()
