"""What ended predictions owe their receivers: bounded, and nothing of one host at the cost of another."""

import asyncio
import gc
import weakref

import pytest
from hook_servers import Names, run, serving, speaking, until
from webhooking import ALL, Receiver, Sender, Story, sending

from tidegate.hooks.webhooks import SENDERS_OF_A_HOST


async def _mute(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


class Crowd:
    """Predictions that end. Shape: their numbers are in the log."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def end(self, url: str, number: int, body: bytes = b"{}", event: str = "") -> None:
        ids = {"prediction": str(number), "request": "r1"}
        tell = self._sender.hooks.hook(url, ALL, {}, lambda: body, ids)
        if event:
            tell(event)
        tell("completed")

    def lost(self) -> list[int]:
        return [int(line["prediction"]) for line in self._sender.lines() if line["event"] == "webhook_lost"]


@pytest.mark.parametrize("event", ["", "start", "output"])
def test_a_silent_receiver_is_owed_so_many_and_the_oldest_are_lost(event: str) -> None:
    async def work() -> None:
        async with speaking(_mute) as dead, sending(timeout_s=600.0, most=50) as sender:
            crowd = Crowd(sender)
            for number in range(300):
                crowd.end(dead, number, event=event)
            assert crowd.lost() == list(range(250))
            assert sender.counts == ["lost"] * 250
            assert sender.lines()[0]["reason"] == "too many are owed"
            assert sender.hooks.owed == 50
            await until(lambda: len(sender.tasks) == 50)
            # Those that are being sent are no more in line, and never lost.
            await until(lambda: sender.hooks.sending_bytes > 0)
            for number in range(300, 400):
                crowd.end(dead, number, event=event)
            assert crowd.lost() == [*range(250), *range(250 + SENDERS_OF_A_HOST, 350)]
            assert sender.hooks.owed == 50 + SENDERS_OF_A_HOST
            await until(lambda: len(sender.tasks) == 50 + SENDERS_OF_A_HOST)

    run(work)


def test_what_is_owed_is_bounded_by_its_bytes_and_told() -> None:
    async def work() -> None:
        async with speaking(_mute) as dead, sending(timeout_s=600.0, most_bytes=1_000_000) as sender:
            assert sender.hooks.held() == 0
            crowd = Crowd(sender)
            for number in range(50):
                crowd.end(dead, number, b"x" * 100_000)
                assert sender.hooks.held() <= 1_000_000 + 110_000
            assert crowd.lost() == list(range(40))
            await until(lambda: sender.hooks.sending_bytes == SENDERS_OF_A_HOST * 100_000)
            assert sender.hooks.held() >= 10 * 100_000
            await sender.hooks.close()
            assert sender.hooks.held() == sender.hooks.owed == 0

    run(work)


def test_a_host_that_is_silent_loses_its_own_and_nothing_of_others() -> None:
    async def work() -> None:
        receiver = Receiver(500)
        names = Names(silent_test=[["127.0.0.1"]], heard_test=[["127.0.0.1"]])
        async with (
            speaking(_mute) as dead,
            serving(receiver.answer) as alive,
            sending(names, timeout_s=600.0, most=20) as sender,
        ):
            crowd = Crowd(sender)
            crowd.end(alive.replace("127.0.0.1", "heard.test"), 1000)
            await until(lambda: "retried" in sender.counts)
            for number in range(100):
                crowd.end(dead.replace("127.0.0.1", "silent.test"), number)
            assert 1000 not in crowd.lost()
            assert len(crowd.lost()) == 81
            await until(lambda: "sent" in sender.counts)

    run(work)


def test_a_prediction_that_is_over_is_let_go_while_its_webhook_is_owed() -> None:
    async def work() -> None:
        async with speaking(_mute) as dead, sending(timeout_s=600.0) as sender:
            story = Story(sender, dead)
            story.tell("start")
            story.end()
            gone = weakref.ref(story)
            del story
            gc.collect()
            assert gone() is None
            assert sender.hooks.owed == 1

    run(work)


def test_what_was_sent_is_held_no_more() -> None:
    async def work() -> None:
        receiver = Receiver(503)
        async with serving(receiver.answer) as base, sending() as sender:
            Crowd(sender).end(base, 1, b'"%b"' % (b"x" * 100_000), "start")
            assert sender.hooks.held() > 100_000
            assert await sender.hooks.wait_delivered(20.0)
            assert sender.hooks.held() == sender.hooks.owed == 0
            assert len(receiver.raw) == 2

    run(work)
