"""What dispatch costs an exchange: choosing a target, waiting in line, and the whole stack around an opening."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from random import Random
from types import TracebackType
from typing import Any

import pytest
import uvloop
from msgspec import structs
from pytest_benchmark.fixture import BenchmarkFixture

from dispatching import Room, Settings, fleet_of
from tidegate.dispatch.balance import Group, Member
from tidegate.dispatch.route import Router
from tidegate.dispatch.settings import BreakerSettings, RetryBudgetSettings, SlotSettings
from tidegate.dispatch.slots import Slots
from tidegate.exchange import Attempt, Balance, Identity, Model, Stream, Target, Timeouts
from tidegate.testing.memory import MemorySource, open_stream
from tidegate.testing.services import admitted_at, attempt_at

NOW_S = 1000.0
PEOPLE = 5000


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Give a loop of the kind that production runs on."""
    loop = uvloop.new_event_loop()
    yield loop
    loop.close()


def inside(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    """Do something synchronous in a task, where a running loop and a current task can be found."""

    async def task() -> None:
        work()

    loop.run_until_complete(task())


def straight(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never has to wait."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError


# --- which target ----------------------------------------------------------------------------------------------------


def targets(count: int) -> tuple[Target, ...]:
    return tuple(Target(f"provider-{number}", "model") for number in range(count))


def busy_router(count: int, balance: Balance) -> tuple[Router, Model]:
    """Give a router whose targets have been seen, each with a first-token time and streams of its own."""
    model = Model("m", targets(count), balance=balance)
    fleet = fleet_of(model.targets, Settings(breaker=BreakerSettings()), now=NOW_S)
    for number, state in enumerate(fleet.states.values()):
        state.took(0.2 + number / 100, NOW_S)
        state.in_flight = number % 3
    return Router(fleet, Random(1)), model


@pytest.mark.parametrize("balance", ["p2c_ewma", "round_robin", "weighted", "least_in_flight"])
@pytest.mark.parametrize("count", [3, 10])
def test_ordering_of_targets(benchmark: BenchmarkFixture, count: int, balance: Balance) -> None:
    router, model = busy_router(count, balance)
    (group,) = router.groups(model)

    def order() -> tuple[Group, tuple[Member, ...]]:
        return group, tuple(group.order(group.members, 0, NOW_S))

    _, ordered = benchmark(order)
    assert sorted(member.index for member in ordered) == list(range(count))


@pytest.mark.parametrize("count", [3, 10])
def test_the_plan_of_an_exchange_and_its_first_target(benchmark: BenchmarkFixture, count: int) -> None:
    """Breakers and pauses of all targets are looked at, too."""
    router, model = busy_router(count, "p2c_ewma")
    admitted = structs.replace(admitted_at(NOW_S), model=model)
    benchmark.extra_info["targets"] = count

    def first() -> Target | None:
        return router.plan(admitted).next(NOW_S)

    target = benchmark(first)
    assert target in model.targets
    router.fleet[target.key].cool(NOW_S + 1)
    assert all(first() != target for _ in range(100))


@pytest.mark.parametrize("hit", [True, False], ids=["hit", "miss"])
def test_sticky(benchmark: BenchmarkFixture, *, hit: bool) -> None:
    """Of three targets the key's own is there, or is cooling and the next one takes it."""
    router, model = busy_router(3, "sticky")
    admitted = structs.replace(admitted_at(NOW_S), model=model, identity=Identity("alice"))
    own = router.plan(admitted).next(NOW_S)
    assert own is not None
    if not hit:
        router.fleet[own.key].cool(NOW_S + 1)
    target = benchmark(lambda: router.plan(admitted).next(NOW_S))
    assert target in model.targets
    assert (target == own) is hit
    assert router.plan(admitted).next(NOW_S) == target


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_5000_wait_for_a_slot_and_get_it(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop) -> None:
    """All join the line, then each slot that is given back goes to the next; no task is switched to."""
    slots = Slots(SlotSettings(max_streams=1, max_queue=PEOPLE))
    seen: list[int] = []

    def all_wait() -> None:
        assert slots.take_nowait()
        waiters = [slots.wait_taken(first=False) for _ in range(PEOPLE)]
        for waiter in waiters:
            waiter.send(None)
        seen.append(slots.waiting)
        for waiter in waiters:
            slots.give_back()
            straight(waiter)
        slots.give_back()

    inside(loop, lambda: benchmark(all_wait))
    assert set(seen) == {PEOPLE}
    assert (slots.in_use, slots.waiting, slots.peak) == (0, 0, 1)


# --- the whole stack -------------------------------------------------------------------------------------------------


class Instant:
    """A service that opens at once. Shape: `opened` counts how often it did."""

    def __init__(self) -> None:
        self.opened = 0
        self._stream = open_stream(MemorySource(), NOW_S)
        self._head = self._stream.head

    def open(self, ask: Attempt, /) -> "_Opened":
        return _Opened(self, ask)

    def stream(self, ask: Attempt) -> Stream:
        stream, record = self._stream, ask.record
        self.opened += 1
        stream.attempt, stream.head = ask, self._head
        record.content_at = time.monotonic()
        record.connected_at = record.sent_at = record.headed_at = record.content_at - 0.2
        return stream


class _Opened:
    __slots__ = ("_ask", "_service")

    def __init__(self, service: Instant, ask: Attempt) -> None:
        self._service = service
        self._ask = ask

    async def __aenter__(self) -> Stream:
        return self._service.stream(self._ask)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


FULL = Settings(budget=RetryBudgetSettings(), breaker=BreakerSettings(), slots=SlotSettings(max_streams=100))
LIMITED = tuple(Target(f"provider-{number}", "model", Timeouts(), max_streams=50) for number in range(3))


def test_an_opening_with_nothing_around_it(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop) -> None:
    """What the next one is to be compared with: the difference is what dispatch costs an exchange."""
    inner, ask = Instant(), attempt_at(NOW_S)

    async def exchange() -> None:
        async with inner.open(ask):
            pass

    inside(loop, lambda: benchmark(lambda: straight(exchange())))
    assert inner.opened > 0


@pytest.mark.parametrize("bounded", [True, False], ids=["two slots each", "no slots"])
def test_turn_slots_breaker_and_deadlines(
    benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, *, bounded: bool
) -> None:
    inner = Instant()
    plain = tuple(structs.replace(target, max_streams=0) for target in LIMITED)
    room = Room(
        inner,
        *(LIMITED if bounded else plain),
        settings=FULL if bounded else structs.replace(FULL, slots=SlotSettings()),
        model={"balance": "p2c_ewma"},
        clock=time.monotonic,
    )
    for state in room.fleet.states.values():
        state.took(0.2, time.monotonic())
    admitted = structs.replace(room.admitted(), deadline=time.monotonic() + 86_400.0)
    attempts = admitted.arrival.outcome.attempts

    async def exchange() -> None:
        attempts.clear()
        async with room.service.open(admitted):
            pass

    inside(loop, lambda: benchmark(lambda: straight(exchange())))
    assert inner.opened > 0
    assert room.held() == {}
    assert sum(slots.peak for slots in room.slots()) >= 2 * bounded
    (record,) = attempts
    assert record.content_at
    assert all(state.cost(time.monotonic()) > 0 for state in room.fleet.states.values())
    assert all(state.budget.available(time.monotonic()) == FULL.budget.burst for state in room.fleet.states.values())
