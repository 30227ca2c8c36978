"""How those who follow a prediction are answered where it does not end well, or they do not."""

import asyncio

import pytest
from predicted import Run, events, frame, turns, virtual

from tidegate.predictions.following import answer_creator, answer_follower, follow
from tidegate.predictions.requests import Mode, Wish
from tidegate.predictions.settings import PredictionSettings
from tidegate.tasks import Tasks
from tidegate.testing.clock import run_virtual
from tidegate.testing.memory import MemoryClient
from tidegate.verdict import CLIENT_SLOW, COMPLETED, RATE_LIMITED, Fault, Refused


@virtual
async def test_who_takes_nothing_is_cut_off_and_said_to_be_slow() -> None:
    run, tasks, client = Run(), Tasks(), MemoryClient()
    run.start()
    following = tasks.spawn(follow(run.prediction, client, None))
    await turns()
    assert client.flow is not None
    client.waiting = 10
    client.flow.pause()
    run.prediction.write(frame("output", {"chunk": 1, "index": 0}))
    assert (await following).verdict is CLIENT_SLOW
    assert not run.prediction.over


@virtual
async def test_who_hears_all_is_complete() -> None:
    run, tasks, client = Run(), Tasks(), MemoryClient()
    run.start()
    following = tasks.spawn(follow(run.prediction, client, None))
    await turns()
    run.prediction.write(frame("completed", {"status": "succeeded"}))
    assert (await following).verdict is COMPLETED
    assert [name for name, _ in events(client)] == ["start", "completed"]


@pytest.mark.parametrize("mode", ["sync", "events"])
def test_who_waited_for_one_that_never_was_is_refused_as_its_creator(mode: Mode) -> None:
    async def main() -> None:
        run, tasks = Run(), Tasks()
        following = tasks.spawn(answer_follower(run.prediction, MemoryClient(), Wish("sync"), None))
        await turns()
        fault = Refused(RATE_LIMITED)
        run.prediction.refuse(fault)
        with pytest.raises(Fault) as told:
            await following
        assert told.value is fault
        with pytest.raises(Fault) as again:
            await answer_follower(run.prediction, MemoryClient(), Wish(mode), None)
        assert again.value is fault

    run_virtual(main)


@virtual
async def test_a_creator_whose_task_is_cancelled_takes_its_prediction_along() -> None:
    run, tasks = Run("sync"), Tasks()
    run.start()
    creating = tasks.spawn(answer_creator(run.prediction, MemoryClient(), Wish("sync"), 1))
    await turns()
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert run.asked == 1


@virtual
async def test_a_follower_whose_task_is_cancelled_is_gone() -> None:
    run, tasks = Run("stream"), Tasks()
    run.start()
    following = tasks.spawn(follow(run.prediction, MemoryClient(), None))
    await turns()
    assert len(run.prediction.history) == 1
    following.cancel()
    await turns()
    assert len(run.prediction.history) == 0
    assert run.asked == 1


@virtual
async def test_nobody_follows_beyond_the_bound() -> None:
    run = Run(settings=PredictionSettings(max_subscribers=0))
    run.start()
    with pytest.raises(Refused) as refused:
        await follow(run.prediction, MemoryClient(), None)
    assert b"retry-after" in dict(refused.value.headers)
