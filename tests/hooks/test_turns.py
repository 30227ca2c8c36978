"""Hosts take turns, each has so many places, and a place that nobody wants any more goes on."""

import asyncio
import random

import pytest

from tidegate.hooks.turns import Turns
from tidegate.testing.clock import run_virtual


class Crowd:
    """Those who ask for turns and hold them until they are told. Holds: its tasks."""

    def __init__(self, most: int, most_each: int) -> None:
        self.turns = Turns(most, most_each)
        self.order: list[str] = []
        self.holding: dict[asyncio.Task[None], str] = {}
        self._go: dict[asyncio.Task[None], asyncio.Event] = {}

    def ask(self, host: str) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self._hold(host))
        self._go[task] = asyncio.Event()
        return task

    async def _hold(self, host: str) -> None:
        async with self.turns.turn(host):
            task = asyncio.current_task()
            assert task is not None
            self.order.append(host)
            self.holding[task] = host
            try:
                await self._go[task].wait()
            finally:
                del self.holding[task]

    def let_go(self, task: asyncio.Task[None]) -> None:
        self._go[task].set()

    async def end(self) -> None:
        for go in self._go.values():
            go.set()
        await asyncio.gather(*self._go, return_exceptions=True)
        assert not self.holding
        assert (self.turns._taken, dict(self.turns._of), dict(self.turns._lines)) == (0, {}, {})


async def settled() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def test_a_host_has_no_more_than_its_places_and_leaves_the_others_theirs() -> None:
    async def work() -> None:
        crowd = Crowd(4, 2)
        tasks = []
        for host in ("silent", "silent", "silent", "other", "third", "fourth"):
            tasks.append(crowd.ask(host))
            await settled()
        assert crowd.order == ["silent", "silent", "other", "third"]
        await crowd.end()
        assert sorted(crowd.order[4:]) == ["fourth", "silent"]
        assert all(task.done() for task in tasks)

    run_virtual(work)


def test_hosts_that_wait_take_turns_however_many_wait_for_one() -> None:
    async def work() -> None:
        crowd = Crowd(1, 1)
        first = crowd.ask("a")
        waiting = [crowd.ask(host) for host in ("a", "a", "a", "b", "c", "b")]
        await settled()
        crowd.let_go(first)
        for _ in waiting:
            await settled()
            (task,) = crowd.holding
            crowd.let_go(task)
        await crowd.end()
        assert crowd.order == ["a", "a", "b", "c", "a", "b", "a"]

    run_virtual(work)


def test_who_leaves_the_line_holds_up_nobody() -> None:
    async def work() -> None:
        crowd = Crowd(1, 1)
        first = crowd.ask("a")
        leaver, patient = crowd.ask("b"), crowd.ask("b")
        await settled()
        leaver.cancel()
        crowd.let_go(first)
        await settled()
        assert list(crowd.holding) == [patient]
        await crowd.end()
        assert leaver.cancelled()

    run_virtual(work)


def test_who_leaves_in_the_moment_of_being_called_passes_the_place_on() -> None:
    async def work() -> None:
        crowd = Crowd(1, 1)
        async with crowd.turns.turn("a"):
            leaver, patient = crowd.ask("b"), crowd.ask("b")
            await settled()
        leaver.cancel()  # the place is its own by now, and it has not run since
        await settled()
        assert list(crowd.holding) == [patient]
        await crowd.end()
        assert leaver.cancelled()

    run_virtual(work)


def test_the_last_of_a_line_that_leaves_takes_its_line_along() -> None:
    async def work() -> None:
        crowd = Crowd(1, 1)
        first = crowd.ask("a")
        leaver = crowd.ask("b")
        await settled()
        leaver.cancel()
        await settled()
        assert not crowd.turns._lines
        assert list(crowd.holding) == [first]
        await crowd.end()

    run_virtual(work)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_the_bounds_hold_and_all_who_stay_have_their_turn(seed: int) -> None:
    chance = random.Random(seed)

    async def work() -> None:
        crowd = Crowd(5, 2)
        tasks: list[asyncio.Task[None]] = []
        left: set[asyncio.Task[None]] = set()
        for _ in range(300):
            match chance.choice(("ask", "ask", "go", "leave", "wait")):
                case "ask":
                    tasks.append(crowd.ask(chance.choice("abcdefg")))
                case "go" if crowd.holding:
                    crowd.let_go(chance.choice(list(crowd.holding)))
                case "leave" if tasks:
                    task = chance.choice(tasks)
                    if task.cancel():
                        left.add(task)
                case _:
                    await settled()
            of = list(crowd.holding.values())
            assert len(of) <= 5
            assert all(of.count(host) <= 2 for host in of)
        await crowd.end()
        assert all(task.cancelled() == (task in left) for task in tasks)

    run_virtual(work)
