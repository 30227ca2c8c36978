"""How predictions end that somebody stops, refuses or leaves."""

import asyncio

import pytest
from predicted import CANCELED, HEAD, SUCCEEDED, Run, events, frame, turns, virtual

from tidegate.exchange import Ending
from tidegate.predictions.prediction import Policy
from tidegate.predictions.settings import HistorySettings, PredictionSettings
from tidegate.tasks import Tasks
from tidegate.testing.clock import run_virtual
from tidegate.testing.memory import MemoryClient
from tidegate.verdict import (
    CANCELLED,
    CLIENT_GONE,
    IDLE_TIMEOUT,
    QUEUE_FULL,
    QUEUE_TIMEOUT,
    AttemptFailed,
    Fault,
    Refused,
)

# --- cancelling ------------------------------------------------------------------------------------------------------


@virtual
async def test_a_running_one_is_cancelled_by_its_worker_and_keeps_what_it_gave() -> None:
    run = Run()
    client = run.follow()
    prediction = run.start()
    prediction.write(frame("output", {"chunk": 1, "index": 0}))
    prediction.cancel()
    prediction.cancel()
    assert run.asked == 1
    assert not prediction.over
    prediction.write(frame("log", {"source": "stdout", "data": "cleaning up\n"}))
    prediction.write(CANCELED)
    await turns()
    assert run.outcome.ending == Ending(CLIENT_GONE)
    assert events(client)[-1][1]["status"] == "canceled"
    assert events(client)[-1][1]["output"] == [1]
    assert events(client)[-1][1]["logs"] == "cleaning up\n"
    assert "error" not in run.snapshot()


@virtual
async def test_one_that_its_worker_cancelled_by_itself_is_canceled() -> None:
    run = Run()
    run.start().write(CANCELED)
    assert run.snapshot()["status"] == "canceled"
    assert run.left


@virtual
async def test_one_that_ended_before_it_heard_of_the_cancellation_keeps_its_end() -> None:
    run = Run()
    prediction = run.start()
    prediction.cancel()
    prediction.write(SUCCEEDED)
    prediction.cancel()
    assert run.snapshot()["status"] == "succeeded"
    assert run.asked == 1


@virtual
async def test_one_that_runs_where_nobody_can_be_asked_is_broken_off() -> None:
    run = Run(hears=False)
    run.start().cancel()
    assert run.left
    assert run.snapshot()["status"] == "canceled"


@virtual
async def test_a_run_that_ends_badly_after_it_was_asked_to_stop_is_canceled() -> None:
    run = Run()
    prediction = run.start()
    prediction.cancel()
    prediction.finish(Ending(IDLE_TIMEOUT))
    assert run.snapshot()["status"] == "canceled"


@virtual
async def test_one_that_ran_out_of_time_has_failed_and_says_so() -> None:
    run = Run()
    prediction = run.start()
    prediction.expire("timed out after 1 s")
    prediction.expire("again")
    assert run.asked == 1
    prediction.write(frame("output", {"chunk": 1, "index": 0}) + CANCELED)
    shown = run.snapshot()
    assert (shown["status"], shown["error"], shown["output"]) == ("failed", "timed out after 1 s", [1])
    prediction.expire("too late")
    assert run.snapshot() == shown


async def conduct(run: Run, opened: asyncio.Event) -> None:
    """Open as the gateway does; the opening waits in line."""
    try:
        async with run.prediction.present():
            run.try_it()
            opened.set()
            await asyncio.Event().wait()
    except Fault as fault:
        run.outcome.end(Ending(fault.verdict, fault.message), 2.0)
        run.prediction.refuse(fault)


@virtual
async def test_one_that_waits_in_line_is_cancelled_as_a_client_that_left() -> None:
    run, tasks, opened = Run(hears=False), Tasks(), asyncio.Event()
    client = run.follow()
    tasks.start(conduct(run, opened))
    await opened.wait()
    run.prediction.cancel()
    await run.prediction.wait_over()
    await turns()
    assert run.outcome.ending is not None
    assert run.outcome.ending.verdict is CLIENT_GONE
    assert [event for event, _ in events(client)] == ["completed"]
    assert events(client)[0][1]["status"] == "canceled"
    assert run.told == ["completed"]
    await tasks.close()


@virtual
async def test_a_cancellation_before_anything_ran_is_remembered() -> None:
    run, tasks = Run(hears=False), Tasks()
    run.prediction.cancel()
    assert not run.prediction.over
    tasks.start(conduct(run, asyncio.Event()))
    await run.prediction.wait_over()
    assert run.outcome.attempts == []
    assert run.snapshot()["status"] == "canceled"
    assert not run.prediction.refused_early
    await tasks.close()


@virtual
async def test_a_cancellation_in_the_moment_of_opening_reaches_the_relay() -> None:
    run = Run(hears=False)
    run.prediction.cancel()
    run.prediction.bind(run)
    assert run.left
    assert run.snapshot()["status"] == "canceled"


@virtual
async def test_a_cancellation_by_others_is_not_taken_for_its_own() -> None:
    run, opened, tasks = Run(), asyncio.Event(), Tasks()
    task = tasks.spawn(conduct(run, opened))
    await opened.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    run.prediction.refuse(Fault(CANCELLED))
    assert run.snapshot()["status"] == "failed"


@virtual
async def test_a_drain_ends_one_that_waits() -> None:
    run, opened, tasks = Run(), asyncio.Event(), Tasks()
    tasks.start(conduct(run, opened))
    await opened.wait()
    run.prediction.end(Ending(IDLE_TIMEOUT, "over"))
    run.prediction.end(Ending(CLIENT_GONE))
    await run.prediction.wait_over()
    assert run.snapshot()["error"] == "over"
    assert run.prediction.fault is not None
    assert not run.prediction.refused_early
    await tasks.close()


# --- refusals and waiting --------------------------------------------------------------------------------------------


@virtual
async def test_one_that_admission_refuses_never_was() -> None:
    run = Run()
    client = run.follow()
    run.prediction.refuse(Refused(QUEUE_FULL, "no room"))
    await run.prediction.wait_decided()
    await turns()
    assert run.prediction.refused_early
    assert run.prediction.fault is not None
    assert run.told == []
    assert events(client)[-1][1]["error"] == "no room"


@virtual
async def test_one_that_is_refused_in_the_step_it_is_tried_in_never_was() -> None:
    run = Run()
    run.try_it()
    run.prediction.refuse(AttemptFailed(QUEUE_FULL))
    await turns()
    assert run.prediction.refused_early


@virtual
async def test_one_that_waited_in_line_and_was_refused_then_has_failed() -> None:
    run = Run()
    run.try_it()
    run.try_it()
    await run.prediction.wait_decided()
    assert run.snapshot()["status"] == "starting"
    run.prediction.refuse(AttemptFailed(QUEUE_TIMEOUT))
    run.prediction.refuse(AttemptFailed(QUEUE_FULL))
    assert not run.prediction.refused_early
    assert run.prediction.fault is not None
    assert run.prediction.fault.verdict is QUEUE_TIMEOUT
    assert run.told == ["completed"]


@virtual
async def test_it_is_decided_once_it_runs_and_not_before() -> None:
    run, tasks = Run(), Tasks()
    waiting = tasks.spawn(run.prediction.wait_decided())
    await turns()
    assert not waiting.done()
    run.prediction.bind(run)
    run.prediction.start(HEAD)
    run.prediction.start(HEAD)
    await waiting
    assert run.told == ["start"]


# --- who leaves ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "cancelled"), [("sync", 0), ("stream", 1), ("async", 0)])
def test_the_last_follower_to_leave_cancels_what_streams_for_them(policy: Policy, cancelled: int) -> None:
    async def main() -> None:
        run = Run(policy)
        run.start()
        first, second = run.follow(), run.follow()
        assert first.flow is not None
        assert second.flow is not None
        first.flow.gone()
        assert run.asked == 0
        second.flow.gone()
        assert run.asked == cancelled

    run_virtual(main)


@virtual
async def test_who_waits_for_the_end_is_a_follower_too() -> None:
    run, tasks = Run("stream"), Tasks()
    run.start()
    client = run.follow()
    waiting = tasks.spawn(run.prediction.wait_over())
    await turns()
    assert client.flow is not None
    client.flow.gone()
    assert run.asked == 0
    waiting.cancel()
    await turns()
    assert run.asked == 1


@virtual
async def test_a_slow_follower_that_is_cut_off_has_not_left() -> None:
    run = Run("stream")
    run.start()
    client = run.follow()
    assert client.flow is not None
    client.waiting = 10
    client.flow.pause()
    await asyncio.sleep(100.0)
    assert client.aborted
    assert run.asked == 0


@virtual
async def test_a_follower_that_has_everything_has_not_left() -> None:
    run = Run("stream")
    run.start().write(SUCCEEDED)
    run.follow()
    await turns()
    assert run.asked == 0


@virtual
async def test_no_more_than_so_many_follow_it() -> None:
    run = Run(settings=PredictionSettings(max_subscribers=2))
    first = run.follow()
    run.follow()
    assert run.prediction.attach(MemoryClient()) is None
    assert first.flow is not None
    first.flow.gone()
    assert run.prediction.attach(MemoryClient()) is not None


@virtual
async def test_who_comes_when_all_is_over_is_told_the_end_even_where_nothing_is_kept() -> None:
    run = Run(settings=PredictionSettings(history=HistorySettings(mode="none")))
    prediction = run.start()
    prediction.write(frame("output", {"chunk": 1, "index": 0}) + SUCCEEDED)
    client = run.follow()
    await turns()
    assert b"".join(client.written).startswith(b"id: 3\nevent: completed\n")
    assert client.ending is not None
