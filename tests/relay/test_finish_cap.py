"""What `server.on_client_disconnect: finish` costs at most: a minute for each stream, and so many streams at a time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from streams import DONE, FINISH, USAGE, USAGE_MEMBER, word
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.exchange import Ending, Outcome
from tidegate.relay.relay import FINISH_STREAMS, Relay, RelayRules
from tidegate.tasks import Tasks
from tidegate.testing.clock import run_virtual
from tidegate.testing.memory import MemoryClient, MemorySource, open_stream
from tidegate.verdict import CLIENT_GONE, SERVER_SHUTDOWN
from tidegate.wire.sse import SseFramer

BEGUN = word("Hel")
CAP_S = 60


class Streaming:
    """A stream that is relayed to a client in memory. Shape: `aborted_at` is when its source was aborted, 0.0 for never."""

    def __init__(self, rules: RelayRules) -> None:
        self._clock = rules.clock
        self.client = MemoryClient()
        self.source = MemorySource(BEGUN)
        stream = open_stream(self.source, rules.clock())
        self.outcome: Outcome = stream.attempt.admitted.arrival.outcome
        self.relay = Relay(self.client, stream, self.outcome, rules)
        self.aborted_at = 0.0

    async def run(self) -> None:
        """Relay to the end; the source is aborted in the moment in which the relay ends."""
        await self.relay.run()
        self.aborted_at = self._clock() if self.source.aborted else 0.0

    def says(self, data: bytes) -> None:
        """Let the provider say something."""
        assert self.source.sink is not None
        self.source.sink.write(data)

    @property
    def code(self) -> str:
        """How it ended; empty while it goes on."""
        return self.outcome.ending.verdict.code if self.outcome.ending is not None else ""


def relaying(
    work: Callable[[Callable[[], Coroutine[Any, Any, Streaming]], RelayRules], Coroutine[Any, Any, None]],
) -> None:
    """Run a test in virtual time. Shape: it gets what opens a stream, and what all streams share."""

    async def main() -> None:
        tasks = Tasks()
        rules = RelayRules(
            dialect=OpenAIChat(),
            framer=SseFramer,
            clock=asyncio.get_running_loop().time,
            heartbeat_s=15,
            slow_client_s=30,
            finishes=True,
        )

        async def begin() -> Streaming:
            streaming = Streaming(rules)
            tasks.start(streaming.run())
            await asyncio.sleep(0)
            assert streaming.client.written == [BEGUN]
            return streaming

        await work(begin, rules)
        await asyncio.sleep(0.001)  # tasks that have ended are let go
        assert len(tasks) == 0, "each stream has ended"
        assert rules.finishing == 0

    run_virtual(main)


Begin = Callable[[], Coroutine[Any, Any, Streaming]]


@pytest.mark.parametrize("every_s", [0.5, 7.0, 29.0])
def test_a_stream_whose_client_left_is_read_for_a_minute_and_then_ended_although_events_keep_coming(
    every_s: float,
) -> None:
    async def work(begin: Begin, rules: RelayRules) -> None:
        streaming = await begin()
        await asyncio.sleep(10)
        left_at = rules.clock()
        streaming.relay.gone()
        assert rules.finishing == 1
        streaming.says(USAGE)
        while not streaming.code:
            streaming.says(word("more"))
            assert not streaming.source.aborted
            assert rules.clock() < left_at + CAP_S
            await asyncio.sleep(every_s)
        assert (streaming.code, streaming.source.aborted) == ("client_gone", True)
        assert streaming.aborted_at == streaming.outcome.ended_at == left_at + CAP_S
        usage = streaming.outcome.usage
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens) == (
            USAGE_MEMBER["prompt_tokens"],
            USAGE_MEMBER["completion_tokens"],
        )
        assert streaming.outcome.flowing.frames > CAP_S / every_s
        assert streaming.client.written == [BEGUN], "nothing is sent to who has left"
        assert (streaming.client.aborted, streaming.client.ending) == (True, None)

    relaying(work)


def test_a_stream_that_was_held_back_for_its_client_is_read_again_once_that_has_left() -> None:
    async def work(begin: Begin, rules: RelayRules) -> None:
        streaming = await begin()
        streaming.relay.pause()
        assert streaming.source.paused
        streaming.relay.gone()
        assert not streaming.source.paused
        streaming.relay.gone()
        assert rules.finishing == 1, "who has left is counted once"
        streaming.says(FINISH + DONE)
        assert streaming.code == "client_gone"
        assert streaming.outcome.finish_reason == "stop"

    relaying(work)


@pytest.mark.parametrize(
    "end",
    [
        lambda streaming: streaming.says(FINISH + DONE),
        lambda streaming: streaming.says(b"data: {}}\n\n" + DONE),
        lambda streaming: streaming.relay.end(Ending(SERVER_SHUTDOWN)),
        lambda streaming: streaming.source.sink.finish(Ending(CLIENT_GONE)),
    ],
    ids=["completed", "spoilt", "ended from outside", "broken"],
)
def test_however_such_a_stream_ends_before_its_client_had_left_it(end: Callable[[Streaming], None]) -> None:
    async def work(begin: Begin, rules: RelayRules) -> None:
        streaming = await begin()
        streaming.relay.gone()
        await asyncio.sleep(5)
        ended_at = rules.clock()
        end(streaming)
        assert rules.finishing == 0
        assert (streaming.code, streaming.outcome.ended_at) == ("client_gone", ended_at)
        streaming.relay.gone()
        assert rules.finishing == 0

    relaying(work)


def test_silence_ends_such_a_stream_before_its_minute_is_over() -> None:
    async def work(begin: Begin, rules: RelayRules) -> None:
        streaming = await begin()
        began_at = rules.clock()
        streaming.relay.gone()
        await asyncio.sleep(CAP_S)
        assert streaming.code == "client_gone"
        assert streaming.aborted_at == began_at + 30, "30 s is the target's idle timeout"

    relaying(work)


def test_the_stream_beyond_the_count_is_ended_at_once_and_an_end_makes_room() -> None:
    async def work(begin: Begin, rules: RelayRules) -> None:
        carried = [await begin() for _ in range(FINISH_STREAMS)]
        for streaming in carried:
            streaming.relay.gone()
        assert rules.finishing == FINISH_STREAMS
        beyond = await begin()
        beyond.relay.gone()
        assert (beyond.code, beyond.source.aborted) == ("client_gone", True)
        assert rules.finishing == FINISH_STREAMS
        assert not any(streaming.code for streaming in carried)

        carried[0].says(FINISH + DONE)
        assert rules.finishing == FINISH_STREAMS - 1
        after = await begin()
        after.relay.gone()
        assert (after.code, rules.finishing) == ("", FINISH_STREAMS)
        for _ in range(CAP_S):
            for streaming in (*carried, after):
                streaming.says(word("more"))
            await asyncio.sleep(1)
        assert {streaming.code for streaming in (*carried, after)} == {"client_gone"}

    relaying(work)
