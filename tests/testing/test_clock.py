"""Time that is made up: hours pass at once, in the same order each time, and what would hang says so."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tidegate.testing.clock import HORIZON_S, LeakError, StuckError, VirtualLoop, run_virtual


async def sleeps(seconds: float) -> None:
    await asyncio.sleep(seconds)


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_week_passes_without_real_time() -> None:
    async def work() -> tuple[float, float]:
        clock = asyncio.get_running_loop().time
        began = clock()
        await asyncio.sleep(7 * 86400)
        return began, clock()

    real = time.monotonic()
    began, ended = run_virtual(work)
    assert ended - began == 7 * 86400
    assert began > 0, "zero stands for never in records"
    assert time.monotonic() - real < 3600


def test_timers_run_by_instant_and_those_of_one_instant_in_the_order_they_were_set() -> None:
    async def work() -> list[tuple[float, int]]:
        loop = asyncio.get_running_loop()
        began, seen = loop.time(), []

        def note(number: int) -> None:
            seen.append((loop.time() - began, number))

        for number, delay in enumerate([3.0, 1.0, 2.0, 1.0, 3.0, 1.0, 1.0, 2.0]):
            loop.call_later(delay, note, number)
        await asyncio.sleep(3.0)
        return seen

    assert run_virtual(work) == [(1, 1), (1, 3), (1, 5), (1, 6), (2, 2), (2, 7), (3, 0), (3, 4)]


def test_time_stands_still_while_anything_can_run() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        began, rang = loop.time(), asyncio.Event()
        loop.call_later(0.001, rang.set)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert loop.time() == began
        assert not rang.is_set()
        await asyncio.sleep(0.001)
        assert rang.is_set()

    run_virtual(work)


def test_a_timer_that_is_due_is_not_kept_back_by_what_is_always_ready() -> None:
    async def work() -> None:
        rang = asyncio.Event()
        asyncio.get_running_loop().call_later(0, rang.set)
        for _ in range(3):
            await asyncio.sleep(0)
        assert rang.is_set()

    run_virtual(work)


def test_a_timer_of_the_past_runs_now_and_time_does_not_go_back() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        began, rang = loop.time(), asyncio.Event()
        loop.call_at(began - 5, rang.set)
        await rang.wait()
        assert loop.time() == began

    run_virtual(work)


def test_a_cancelled_timer_neither_runs_nor_takes_time() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        began = loop.time()
        loop.call_later(1, pytest.fail, "cancelled").cancel()
        late = loop.call_later(9, pytest.fail, "cancelled")
        soon = loop.call_later(5, late.cancel)
        assert loop.timers() == [soon, late]
        await asyncio.sleep(6)
        assert loop.time() == began + 6
        assert loop.timers() == []

    run_virtual(work)


def test_a_callback_cancelled_while_it_is_due_does_not_run() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()

        def first() -> None:
            second.cancel()

        loop.call_soon(first)
        second = loop.call_soon(pytest.fail, "cancelled")
        await asyncio.sleep(0)

    run_virtual(work)


def test_of_nested_timeouts_the_shortest_fires_and_the_others_are_left() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(30) as outer:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(20), asyncio.timeout(10) as inner:
                    await asyncio.sleep(15)
            assert loop.time() == began + 10
            assert inner.expired()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await asyncio.get_running_loop().create_future()
        assert loop.time() == began + 15
        assert not outer.expired()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), asyncio.timeout(2):
                await asyncio.sleep(15)
        assert loop.time() == began + 16

    run_virtual(work)


def test_the_same_program_takes_the_same_course_each_time() -> None:
    async def work() -> list[tuple[float, int]]:
        clock, seen = asyncio.get_running_loop().time, []

        async def worker(number: int) -> None:
            for step in range(5):
                await asyncio.sleep((number * 7 + step * 3) % 5 / 10)
                seen.append((clock(), number))

        await asyncio.gather(*map(worker, range(20)))
        return seen

    assert run_virtual(work) == run_virtual(work)


# --- what it gives and raises ----------------------------------------------------------------------------------------


def test_the_result_is_given_and_what_is_raised_comes_out() -> None:
    async def gives() -> str:
        return "done"

    async def raises() -> None:
        await asyncio.sleep(1)
        raise ZeroDivisionError

    assert run_virtual(gives) == "done"
    with pytest.raises(ZeroDivisionError):
        run_virtual(raises)


def test_asynchronous_generators_are_closed() -> None:
    closed = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(1)
            closed.append(True)

    async def work() -> None:
        kept.append(numbers())
        assert await anext(kept[0]) == 1

    kept: list[AsyncIterator[int]] = []
    run_virtual(work)
    assert closed


# --- what would hang or be lost --------------------------------------------------------------------------------------


def test_waiting_for_nothing_is_an_error_that_says_who_waits_and_where() -> None:
    async def waits_for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    async def work() -> None:
        await asyncio.sleep(4)
        await waits_for_ever()

    with pytest.raises(StuckError, match=r"no timer is set after 4 s.*waits_for_ever:\d+"):
        run_virtual(work)


def test_a_cancelled_timer_does_not_hide_that_somebody_waits_for_ever() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(50, int).cancel()
        await loop.create_future()

    with pytest.raises(StuckError, match="no timer is set after 0 s"):
        run_virtual(work)


@pytest.mark.parametrize("seconds", [float("inf"), HORIZON_S + 1])
def test_a_timer_that_nobody_will_live_to_see_counts_as_none(seconds: float) -> None:
    with pytest.raises(StuckError, match="out of reach"):
        run_virtual(lambda: sleeps(seconds))


def test_what_ticks_for_ever_does_not_hide_that_somebody_waits_for_ever() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()

        def tick() -> None:
            loop.call_later(3600, tick)

        tick()
        await loop.create_future()

    with pytest.raises(StuckError):
        run_virtual(work)


def test_a_stuck_program_is_cancelled_and_cleans_up() -> None:
    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(1)
            cleaned.append(True)

    cleaned: list[bool] = []
    with pytest.raises(StuckError):
        run_virtual(work)
    assert cleaned


def test_a_task_that_outlives_the_program_is_an_error_and_is_cancelled() -> None:
    async def leaks() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(True)

    async def work() -> None:
        kept.extend(asyncio.ensure_future(leaks()) for _ in range(12))
        await asyncio.sleep(1)

    ended: list[bool] = []
    kept: list[asyncio.Task[None]] = []
    with pytest.raises(LeakError, match=r"leaks:\d+.*; and 2 more"):
        run_virtual(work)
    assert len(ended) == 12


def test_an_error_in_a_callback_or_a_forgotten_task_is_not_lost() -> None:
    async def calls() -> None:
        asyncio.get_running_loop().call_soon(int, "nonsense")
        await asyncio.sleep(1)

    async def forgets() -> None:
        task = asyncio.ensure_future(fails())
        await asyncio.sleep(1)
        del task

    async def fails() -> None:
        raise ZeroDivisionError

    for work, kind in ((calls, ValueError), (forgets, ZeroDivisionError)):
        with pytest.raises(LeakError, match="nobody saw an error") as caught:
            run_virtual(work)
        assert isinstance(caught.value.__cause__, kind)


def test_threads_are_refused_at_once() -> None:
    async def executes() -> None:
        await asyncio.to_thread(int)

    async def dials() -> None:
        await asyncio.open_connection("localhost", 1)

    for work in (executes, dials):
        with pytest.raises(RuntimeError, match="does not wait for threads"):
            run_virtual(work)


def test_a_call_from_another_thread_fails_there_and_one_from_here_is_a_call() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        called = asyncio.Event()
        loop.call_soon_threadsafe(called.set)
        await called.wait()
        thread = threading.Thread(target=elsewhere, args=(loop.call_soon_threadsafe,))
        thread.start()
        thread.join()

    def elsewhere(call: Callable[..., Any]) -> None:
        with contextlib.suppress(RuntimeError):
            call(pytest.fail, "never")
            failures.append("no error")

    failures: list[str] = []
    run_virtual(work)
    assert not failures


def test_a_closed_loop_takes_no_timer() -> None:
    async def work() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    with pytest.raises(RuntimeError, match="closed"):
        run_virtual(work).call_later(1, int)
