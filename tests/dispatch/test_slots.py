"""The right to hold one stream open: who gets it, in which order, and what becomes of those who wait."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatching import settle, slots, spawn
from tidegate.dispatch.settings import SlotSettings
from tidegate.dispatch.slots import Slots
from tidegate.testing.clock import run_virtual


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


@pytest.mark.parametrize(
    ("most", "room", "lent"), [(3, 2, 2), (2, 3, 2), (0, 2, 2), (3, 0, 0), (0, 0, 0), (3, None, 3)]
)
def test_no_more_are_lent_than_there_is_room_for_at_present(most: int, room: int | None, lent: int) -> None:
    for target in (Slots(SlotSettings(max_streams=most), room), slots(9)):
        target.resize(SlotSettings(max_streams=most), room)
        assert [target.take_nowait() for _ in range(4)].count(True) == lent


def test_who_waits_for_room_is_served_when_there_is_some() -> None:
    async def work() -> None:
        target = Slots(SlotSettings(max_streams=2), 1)
        assert target.take_nowait()
        line = Line(target)
        await line.join("a", "b")
        target.resize(target.settings, 0)
        target.give_back()
        await settle()
        assert (target.in_use, line.served) == (0, [])
        target.resize(target.settings, 2)
        await line.over()
        assert (target.in_use, line.served) == (2, ["a", "b"])

    run_virtual(work)


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
