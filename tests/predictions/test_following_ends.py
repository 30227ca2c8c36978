"""How those who follow a prediction are answered where it does not end well, or they do not."""

import asyncio
import json
from random import Random

import pytest
from predicted import CANCELED, SUCCEEDED, Run, events, frame, turns, virtual

from tidegate.edge.settings import ServerSettings
from tidegate.predictions.following import answer_caller, answer_follower, follow
from tidegate.predictions.requests import Mode, Wish
from tidegate.predictions.settings import PredictionSettings
from tidegate.replay.history import KEEP_ALIVE
from tidegate.tasks import Tasks
from tidegate.testing.clock import run_virtual
from tidegate.testing.memory import MemoryClient
from tidegate.verdict import BUG, CLIENT_SLOW, COMPLETED, RATE_LIMITED, Fault, Refused

CHANCE = Random(1).random


class Broken(MemoryClient):
    """A client whose connection breaks its contract."""

    def write(self, data: bytes, /) -> None:
        raise ZeroDivisionError


@virtual
async def test_who_takes_nothing_is_cut_off_and_said_to_be_slow() -> None:
    run, tasks, client = Run(), Tasks(), MemoryClient()
    run.start()
    following = tasks.spawn(follow(run.prediction, client, None, CHANCE))
    await turns()
    assert client.flow is not None
    client.waiting = 10
    client.flow.pause()
    run.prediction.write(frame("output", {"chunk": 1, "index": 0}))
    assert (await following).verdict is CLIENT_SLOW
    assert not run.prediction.over


@virtual
async def test_a_follower_that_raises_is_reported_and_did_not_leave_so_that_the_prediction_goes_on() -> None:
    run, tasks, client = Run("stream"), Tasks(), Broken()
    run.start()
    assert (await tasks.spawn(follow(run.prediction, client, None, CHANCE))).verdict is BUG
    ((prediction, error),) = run.reported
    assert (prediction, type(error)) == ("p1", ZeroDivisionError)
    assert client.aborted
    assert (run.asked, run.prediction.over) == (0, False)


@virtual
async def test_followers_go_by_the_server_s_settings_as_they_are_when_they_come() -> None:
    run, before, after, slow = Run(), MemoryClient(), MemoryClient(), MemoryClient()
    run.start()
    run.prediction.attach(before)
    run.server = ServerSettings(heartbeat_s=2.0, slow_client_timeout_s=3.0)
    run.prediction.attach(after)
    run.prediction.attach(slow)
    assert slow.flow is not None
    slow.waiting = 10
    slow.flow.pause()
    await asyncio.sleep(5.0)
    assert [client.written.count(KEEP_ALIVE) for client in (before, after)] == [0, 2]
    assert [client.aborted for client in (before, after, slow)] == [False, False, True]
    run.prediction.write(frame("completed", {"status": "succeeded"}))
    await turns()


@virtual
async def test_who_hears_all_is_complete() -> None:
    run, tasks, client = Run(), Tasks(), MemoryClient()
    run.start()
    following = tasks.spawn(follow(run.prediction, client, None, CHANCE))
    await turns()
    run.prediction.write(frame("completed", {"status": "succeeded"}))
    assert (await following).verdict is COMPLETED
    assert [name for name, _ in events(client)] == ["start", "completed"]


@pytest.mark.parametrize("mode", ["sync", "events"])
def test_who_waited_for_one_that_never_was_is_refused_as_its_creator(mode: Mode) -> None:
    async def main() -> None:
        run, tasks = Run(), Tasks()
        following = tasks.spawn(answer_follower(run.prediction, MemoryClient(), Wish("sync"), None, CHANCE))
        await turns()
        fault = Refused(RATE_LIMITED)
        run.prediction.refuse(fault)
        with pytest.raises(Fault) as told:
            await following
        assert told.value is fault
        with pytest.raises(Fault) as again:
            await answer_follower(run.prediction, MemoryClient(), Wish(mode), None, CHANCE)
        assert again.value is fault

    run_virtual(main)


# --- who waits for the end -------------------------------------------------------------------------------------------


class Calling:
    """A client that waits for a prediction's end, whose exchange lasts until the test says so."""

    def __init__(self, run: Run) -> None:
        self.client = MemoryClient()
        self.exchange: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answering = Tasks().spawn(answer_caller(run.prediction, self.client, self.exchange, 1))

    async def end(self) -> None:
        """Have the exchange end."""
        self.exchange.set_result(None)
        await self.answering

    async def leave(self) -> None:
        """Be gone."""
        await turns()
        assert self.client.flow is not None
        self.client.flow.gone()


@virtual
async def test_who_waits_is_answered_at_the_end_and_not_when_all_is_given_back() -> None:
    run = Run("sync")
    calling = Calling(run)
    await turns()
    run.start().write(SUCCEEDED)
    assert calling.client.head is not None
    assert calling.client.head.status == 200
    (body,) = calling.client.written
    assert json.loads(body)["status"] == "succeeded"
    await turns()
    assert not calling.answering.done()
    await calling.end()
    assert len(calling.client.written) == 1


@virtual
async def test_who_waits_for_one_that_does_not_run_is_refused() -> None:
    run = Run("sync")
    calling = Calling(run)
    await turns()
    fault = Refused(RATE_LIMITED)
    run.prediction.refuse(fault)
    with pytest.raises(Fault) as told:
        await calling.end()
    assert told.value is fault
    assert calling.client.written == []


@virtual
async def test_who_waits_alone_takes_its_prediction_along_and_is_answered_no_more() -> None:
    run = Run("sync")
    run.start()
    calling = Calling(run)
    await calling.leave()
    await calling.leave()
    assert run.asked == 1
    run.prediction.write(CANCELED)
    assert run.prediction.status == "canceled"
    await calling.end()
    assert (calling.client.head, calling.client.written) == (None, [])


@virtual
async def test_a_prediction_that_another_waits_for_goes_on_until_both_have_left() -> None:
    run = Run("sync")
    run.start()
    calling = Calling(run)
    waiting = Tasks().spawn(run.prediction.wait_over())
    await calling.leave()
    assert run.asked == 0
    waiting.cancel()
    await turns()
    assert run.asked == 1
    await calling.end()


@virtual
async def test_a_prediction_goes_on_without_the_other_while_its_caller_waits() -> None:
    run = Run("sync")
    run.start()
    calling = Calling(run)
    waiting = Tasks().spawn(run.prediction.wait_over())
    await turns()
    waiting.cancel()
    await turns()
    assert run.asked == 0
    await calling.leave()
    assert run.asked == 1
    await calling.end()


@virtual
async def test_a_caller_whose_task_is_cancelled_takes_the_exchange_along() -> None:
    run = Run("sync")
    run.start()
    calling = Calling(run)
    await turns()
    calling.answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling.answering
    assert calling.exchange.cancelled()


@virtual
async def test_a_caller_that_takes_the_answer_slowly_holds_nothing_up() -> None:
    run = Run("sync")
    calling = Calling(run)
    await turns()
    assert calling.client.flow is not None
    calling.client.flow.pause()
    calling.client.flow.resume()
    run.start().write(SUCCEEDED)
    assert len(calling.client.written) == 1
    await calling.end()


@virtual
async def test_a_follower_whose_task_is_cancelled_is_gone() -> None:
    run, tasks = Run("stream"), Tasks()
    run.start()
    following = tasks.spawn(follow(run.prediction, MemoryClient(), None, CHANCE))
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
        await follow(run.prediction, MemoryClient(), None, CHANCE)
    assert b"retry-after" in dict(refused.value.headers)
