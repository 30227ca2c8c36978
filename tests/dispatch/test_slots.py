"""The right to hold one stream open: who gets it, in which order, and what becomes of those who wait."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from dispatching import Counted
from tidegate.dispatch.service import Service
from tidegate.dispatch.settings import SlotSettings
from tidegate.dispatch.slots import Slots, slotting
from tidegate.exchange import Attempt
from tidegate.testing.clock import run_virtual
from tidegate.testing.services import Act, ScriptedService, attempt_at
from tidegate.verdict import CONNECT_REFUSED, DEADLINE_EXCEEDED, QUEUE_FULL, QUEUE_TIMEOUT, AttemptFailed, Verdict


def slots(max_streams: int, *, max_queue: int = 1000, max_queue_wait_s: float = 0.0) -> Slots:
    return Slots(SlotSettings(max_streams=max_streams, max_queue=max_queue, max_queue_wait_s=max_queue_wait_s))


def spawn(work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
    return asyncio.get_running_loop().create_task(work)


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


class Line:
    """Waiters of one Slots, by name. Shape: `served` are those who got one, in the order they did."""

    def __init__(self, target: Slots) -> None:
        self.target = target
        self.served: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def _wait(self, name: str, *, first: bool) -> None:
        await self.target.wait_taken(first=first)
        self.served.append(name)

    async def join(self, *names: str, first: bool = False) -> None:
        for name in names:
            self.tasks[name] = spawn(self._wait(name, first=first))
            await settle()

    async def over(self) -> None:
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


# --- slots -----------------------------------------------------------------------------------------------------------


def test_as_many_are_lent_as_there_are() -> None:
    target = slots(3)
    assert [target.take_nowait() for _ in range(5)] == [True, True, True, False, False]
    assert (target.in_use, target.peak, target.waiting) == (3, 3, 0)
    target.give_back()
    assert target.take_nowait()
    assert (target.in_use, target.peak) == (3, 3)


def test_without_a_limit_nobody_waits() -> None:
    target = slots(0)
    assert all(target.take_nowait() for _ in range(5000))
    assert target.peak == 5000


def test_who_came_first_is_served_first() -> None:
    async def work() -> None:
        target = slots(1)
        assert target.take_nowait()
        line = Line(target)
        await line.join("one", "two", "three")
        assert target.waiting == 3
        for count in range(1, 4):
            target.give_back()
            await settle()
            assert line.served == ["one", "two", "three"][:count]
            assert target.in_use == 1

    run_virtual(work)


def test_who_tries_again_goes_to_the_head() -> None:
    async def work() -> None:
        target = slots(1)
        assert target.take_nowait()
        line = Line(target)
        await line.join("one", "two")
        await line.join("again", first=True)
        for _ in range(3):
            target.give_back()
            await settle()
        assert line.served == ["again", "one", "two"]

    run_virtual(work)


def test_those_who_try_again_are_served_in_their_order_and_take_nobody_s_place() -> None:
    async def work() -> None:
        target = slots(1, max_queue=2)
        assert target.take_nowait()
        line = Line(target)
        await line.join("one")
        await line.join("again", "again too", "and again", first=True)
        assert not target.full
        assert target.waiting == 4
        await line.join("two")
        line.tasks["again too"].cancel()
        await settle()
        for _ in range(4):
            target.give_back()
            await settle()
        assert line.served == ["again", "and again", "one", "two"]
        assert (target.in_use, target.waiting) == (1, 0)

    run_virtual(work)


def test_nobody_overtakes_the_line() -> None:
    async def work() -> None:
        target = slots(1)
        assert target.take_nowait()
        line = Line(target)
        await line.join("one")
        target.give_back()
        assert not target.take_nowait(), "it is lent already, though the waiter has not run yet"
        await settle()
        assert line.served == ["one"]

    run_virtual(work)


def test_a_cancelled_waiter_leaves_at_once_and_the_next_is_not_kept() -> None:
    async def work() -> None:
        target = slots(1)
        assert target.take_nowait()
        line = Line(target)
        await line.join("one", "two", "three")
        line.tasks["two"].cancel()
        await settle()
        assert target.waiting == 2
        line.tasks["one"].cancel()
        target.give_back()
        await settle()
        assert line.served == ["three"]
        assert (target.in_use, target.waiting) == (1, 0)

    run_virtual(work)


def test_a_slot_that_came_in_the_moment_of_a_cancellation_goes_on_to_the_next() -> None:
    async def work() -> None:
        target = slots(1)
        assert target.take_nowait()
        line = Line(target)
        await line.join("one", "two")
        target.give_back()
        line.tasks["one"].cancel()
        await settle()
        assert line.tasks["one"].cancelled()
        assert line.served == ["two"]
        assert (target.in_use, target.waiting) == (1, 0)
        target.give_back()
        assert target.in_use == 0

    run_virtual(work)


def test_a_slot_that_comes_just_after_a_cancellation_is_not_given_back_twice() -> None:
    async def work() -> None:
        target = slots(2)
        assert target.take_nowait()
        assert target.take_nowait()
        line = Line(target)
        await line.join("one")
        line.tasks["one"].cancel()
        target.give_back()
        await settle()
        assert (target.in_use, target.waiting) == (1, 0)
        target.give_back()
        assert target.in_use == 0

    run_virtual(work)


def test_more_slots_serve_who_waits_and_fewer_take_none_away() -> None:
    async def work() -> None:
        target = slots(1)
        assert target.take_nowait()
        line = Line(target)
        await line.join("one", "two", "three", "four")
        target.resize(SlotSettings(max_streams=3))
        await settle()
        assert line.served == ["one", "two"]
        target.resize(SlotSettings(max_streams=1))
        assert target.in_use == 3
        for _ in range(2):
            target.give_back()
            await settle()
            assert line.served == ["one", "two"]
        target.give_back()
        await settle()
        assert line.served == ["one", "two", "three"]
        target.resize(SlotSettings())
        await settle()
        assert line.served == ["one", "two", "three", "four"]
        assert target.take_nowait()
        assert (target.waiting, target.peak) == (0, 3)

    run_virtual(work)


def test_full_is_when_as_many_wait_as_may() -> None:
    async def work() -> None:
        target = slots(1, max_queue=2)
        assert target.take_nowait()
        line = Line(target)
        for name in ("one", "two"):
            assert not target.full
            await line.join(name)
        assert target.full
        line.tasks["one"].cancel()
        await settle()
        assert not target.full
        line.tasks["two"].cancel()
        await line.over()

    run_virtual(work)


class Crowd:
    """People who take slots, wait, are cancelled and go. Shape: `highest` is the largest limit there was."""

    def __init__(self, limit: int) -> None:
        self.target = slots(limit)
        self.highest = limit
        self.held = 0
        self.waiting: list[asyncio.Task[None]] = []

    async def _wait(self, *, first: bool) -> None:
        await self.target.wait_taken(first=first)
        self.held += 1

    def come(self, number: int) -> None:
        self.waiting.append(spawn(self._wait(first=number % 2 == 0)))

    def take(self, _: int) -> None:
        self.held += self.target.take_nowait()

    def cancel(self, number: int) -> None:
        if self.waiting:
            self.waiting[number % len(self.waiting)].cancel()

    def give(self, _: int = 0) -> None:
        if self.held:
            self.held -= 1
            self.target.give_back()

    def resize(self, number: int) -> None:
        self.target.resize(SlotSettings(max_streams=1 + number % 5))
        self.highest = max(self.highest, 1 + number % 5)

    def check(self) -> None:
        assert self.held <= self.target.in_use <= self.target.peak <= self.highest


MOVES = st.sampled_from([Crowd.come, Crowd.come, Crowd.take, Crowd.cancel, Crowd.give, Crowd.resize, None])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4), st.lists(st.tuples(MOVES, st.integers(0, 20)), max_size=60))
def test_whatever_happens_in_whatever_order_no_slot_is_lost_or_lent_twice(
    limit: int, moves: list[tuple[Callable[[Crowd, int], None] | None, int]]
) -> None:
    async def work() -> None:
        crowd = Crowd(limit)
        for move, number in moves:
            if move is not None:
                move(crowd, number)
            else:
                await asyncio.sleep(0)
            crowd.check()
        await settle()
        assert crowd.target.in_use == crowd.held, "a slot is lent to nobody"
        while crowd.held:
            crowd.give()
            await settle()
        assert (crowd.target.in_use, crowd.target.waiting) == (0, 0)
        assert all(task.done() for task in crowd.waiting)

    run_virtual(work)


def test_who_comes_when_a_slot_is_free_does_not_wait() -> None:
    async def work() -> None:
        target = slots(1)
        await target.wait_taken(first=False)
        assert (target.in_use, target.waiting) == (1, 0)

    run_virtual(work)


# --- the layer -------------------------------------------------------------------------------------------------------


class Layered:
    """The layer around a scripted service. To be made in a loop."""

    def __init__(self, *lent: Slots, inner: ScriptedService | None = None) -> None:
        self.counts = Counted()
        self.inner = inner or ScriptedService()
        self.clock = asyncio.get_running_loop().time
        self.service: Service[Attempt] = slotting(lambda _: lent, self.counts, self.clock, Random(1))(self.inner)

    def attempt(self, *, again: bool = False, deadline: float = 0.0) -> Attempt:
        ask = attempt_at(self.clock())
        return structs.replace(ask, again=again, admitted=structs.replace(ask.admitted, deadline=deadline))

    async def hold(self, ask: Attempt | None = None, *, stay_s: float = 0.0) -> None:
        async with self.service.open(ask or self.attempt()):
            await asyncio.sleep(stay_s)


def test_a_slot_is_held_from_before_the_opening_to_the_end_of_the_stream() -> None:
    async def work() -> None:
        target = slots(1)
        layered = Layered(target, inner=ScriptedService(Act(stall_s=1.0)))
        task = spawn(layered.hold(stay_s=5.0))
        for _ in range(3):
            await asyncio.sleep(0.5)
            assert target.in_use == 1
        await asyncio.sleep(4.4)
        assert target.in_use == 1
        await task
        assert target.in_use == 0
        assert layered.counts.waits == []

    run_virtual(work)


def test_without_slots_the_layer_is_not_there() -> None:
    async def work() -> None:
        layered = Layered()
        alone = layered.inner.open(layered.attempt())
        assert type(layered.service.open(layered.attempt())) is type(alone)

    run_virtual(work)


def test_nothing_is_asked_of_the_provider_before_there_is_a_slot_and_the_wait_is_known() -> None:
    async def work() -> None:
        layered = Layered(slots(1))
        holder = spawn(layered.hold(stay_s=3.0))
        await settle()
        ask = layered.attempt()
        waiter = spawn(layered.hold(ask))
        await asyncio.sleep(2.9)
        assert [visit.entries for visit in layered.inner.visits] == [1, 0]
        await waiter
        assert [visit.entries for visit in layered.inner.visits] == [1, 1]
        assert ask.record.queued_s == pytest.approx(3.0)
        assert layered.counts.waits == [pytest.approx(3.0)]
        assert not layered.counts.seen
        await holder

    run_virtual(work)


def refused(counts: Counted, reason: str) -> bool:
    return counts.seen == {("rejected", "main", reason): 1}


@pytest.mark.parametrize("max_queue", [0, 2])
def test_a_full_queue_is_a_503_at_once(max_queue: int) -> None:
    async def work() -> None:
        target = slots(1, max_queue=max_queue)
        layered = Layered(target)
        tasks = [spawn(layered.hold(stay_s=1.0)) for _ in range(1 + max_queue)]
        await settle()
        began = layered.clock()
        with pytest.raises(AttemptFailed) as caught:
            await layered.hold()
        assert (caught.value.verdict, caught.value.status) == (QUEUE_FULL, 503)
        assert caught.value.headers[0][0] == b"retry-after"
        assert int(caught.value.headers[0][1]) in {1, 2}
        assert layered.clock() == began
        assert refused(layered.counts, "full")
        await asyncio.gather(*tasks)
        assert (target.in_use, target.waiting) == (0, 0)

    run_virtual(work)


def test_who_tries_again_waits_even_where_the_queue_is_full_and_goes_first() -> None:
    async def work() -> None:
        target, order = slots(1, max_queue=1), list[str]()
        layered = Layered(target)

        async def held(name: str, ask: Attempt) -> None:
            async with layered.service.open(ask):
                order.append(name)
                await asyncio.sleep(1.0)

        asks = {"first": layered.attempt(), "new": layered.attempt(), "again": layered.attempt(again=True)}
        tasks = []
        for name, ask in asks.items():
            tasks.append(spawn(held(name, ask)))
            await settle()
        await asyncio.gather(*tasks)
        assert order == ["first", "again", "new"]

    run_virtual(work)


@pytest.mark.parametrize(
    ("max_queue_wait_s", "deadline_s", "waits_s", "verdict"),
    [
        (2.0, 0.0, 2.0, QUEUE_TIMEOUT),
        (0.0, 3.0, 3.0, DEADLINE_EXCEEDED),
        (2.0, 3.0, 2.0, QUEUE_TIMEOUT),
        (4.0, 3.0, 3.0, DEADLINE_EXCEEDED),
        (4.0, -1.0, 0.0, DEADLINE_EXCEEDED),
    ],
    ids=["queue", "deadline alone", "queue is shorter", "deadline is shorter", "deadline has passed"],
)
def test_nobody_waits_longer_than_the_queue_or_the_exchange_allows(
    max_queue_wait_s: float, deadline_s: float, waits_s: float, verdict: Verdict
) -> None:
    async def work() -> None:
        target = slots(1, max_queue_wait_s=max_queue_wait_s)
        layered = Layered(target)
        holder = spawn(layered.hold(stay_s=100.0))
        await settle()
        began = layered.clock()
        with pytest.raises(AttemptFailed) as caught:
            await layered.hold(layered.attempt(deadline=began + deadline_s if deadline_s else 0.0))
        assert (caught.value.verdict, caught.value.status) == (verdict, verdict.status)
        assert layered.clock() - began == pytest.approx(waits_s)
        asks_back = [b"retry-after"] if verdict is QUEUE_TIMEOUT else []  # nobody can keep a deadline that has passed
        assert [name for name, _ in caught.value.headers] == asks_back
        assert refused(layered.counts, "deadline")
        assert (target.in_use, target.waiting) == (1, 0)
        assert layered.counts.waits == []
        await holder

    run_virtual(work)


def test_without_any_limit_to_the_wait_it_lasts() -> None:
    async def work() -> None:
        layered = Layered(slots(1))
        holder = spawn(layered.hold(stay_s=86_400.0))
        await settle()
        await layered.hold()
        assert layered.counts.waits == [pytest.approx(86_400.0)]
        await holder

    run_virtual(work)


def test_a_slot_that_comes_as_the_wait_ends_is_not_lost() -> None:
    async def work() -> None:
        target = slots(1, max_queue_wait_s=1.0)
        layered = Layered(target)
        outcomes: list[BaseException | None] = []
        for early_s in (0.0, 1e-9):
            holder = spawn(layered.hold(stay_s=1.0 - early_s))
            await settle()
            (outcome,) = await asyncio.gather(layered.hold(), return_exceptions=True)
            outcomes.append(outcome)
            await holder
            assert (target.in_use, target.waiting) == (0, 0)
        assert all(outcome is None or isinstance(outcome, AttemptFailed) for outcome in outcomes)

    run_virtual(work)


def test_who_is_cancelled_while_waiting_is_gone() -> None:
    async def work() -> None:
        target = slots(1)
        layered = Layered(target)
        holder = spawn(layered.hold(stay_s=5.0))
        await settle()
        waiter = spawn(layered.hold())
        await asyncio.sleep(1.0)
        assert target.waiting == 1
        waiter.cancel()
        await asyncio.wait((waiter,))
        assert waiter.cancelled()
        assert (target.in_use, target.waiting) == (1, 0)
        assert refused(layered.counts, "gone")
        await holder

    run_virtual(work)


# --- two slots -------------------------------------------------------------------------------------------------------


def test_both_slots_are_taken_in_order_and_given_back() -> None:
    async def work() -> None:
        narrow, wide = slots(1), slots(2)
        layered = Layered(narrow, wide)
        tasks = [spawn(layered.hold(stay_s=1.0)) for _ in range(2)]
        await settle()
        assert (narrow.in_use, narrow.waiting, wide.in_use, wide.waiting) == (1, 1, 1, 0)
        await asyncio.gather(*tasks)
        assert (narrow.in_use, wide.in_use) == (0, 0)

    run_virtual(work)


@pytest.mark.parametrize(("cancels", "error"), [(True, asyncio.CancelledError), (False, AttemptFailed)])
def test_who_does_not_get_the_second_slot_gives_the_first_back(*, cancels: bool, error: type[BaseException]) -> None:
    async def work() -> None:
        narrow, wide = slots(1), slots(1, max_queue_wait_s=1.0)
        assert wide.take_nowait()
        task = spawn(Layered(narrow, wide).hold())
        await asyncio.sleep(0.5)
        assert (narrow.in_use, wide.waiting) == (1, 1)
        if cancels:
            task.cancel()
        with pytest.raises(error):
            await task
        assert (narrow.in_use, narrow.waiting) == (0, 0)
        assert (wide.in_use, wide.waiting) == (1, 0)

    run_virtual(work)


@pytest.mark.parametrize(
    "error", [AttemptFailed(CONNECT_REFUSED), LookupError("a bug"), asyncio.CancelledError()], ids=["fault", "bug", "cancelled"]
)  # fmt: skip
def test_both_are_given_back_whatever_comes_out_of_the_opening(error: BaseException) -> None:
    async def work() -> None:
        narrow, wide = slots(1), slots(1)
        layered = Layered(narrow, wide, inner=ScriptedService(Act(raises=error)))
        with pytest.raises(type(error)):
            await layered.hold()
        assert (narrow.in_use, wide.in_use) == (0, 0)

    run_virtual(work)


@pytest.mark.parametrize("error", [LookupError("a bug"), asyncio.CancelledError()], ids=["bug", "cancelled"])
def test_both_are_given_back_whatever_comes_out_of_the_stream(error: BaseException) -> None:
    async def work() -> None:
        narrow, wide = slots(1), slots(1)
        layered = Layered(narrow, wide)
        with pytest.raises(type(error)):
            async with layered.service.open(layered.attempt()):
                raise error
        assert (narrow.in_use, wide.in_use) == (0, 0)

    run_virtual(work)


def test_slots_that_are_replaced_while_one_is_held_are_given_back_to_whom_they_belong() -> None:
    async def work() -> None:
        old, new = slots(1), slots(1)
        lent = [old]
        inner = ScriptedService()
        clock = asyncio.get_running_loop().time
        service = slotting(lambda _: tuple(lent), Counted(), clock, Random(1))(inner)
        async with service.open(attempt_at(clock())):
            lent[:] = [new]
            async with service.open(attempt_at(clock())):
                assert (old.in_use, new.in_use) == (1, 1)
        assert (old.in_use, new.in_use) == (0, 0)

    run_virtual(work)
