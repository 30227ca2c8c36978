"""What the load test measures is real: the first token is noted when it is there, and nothing bad passes for a stream."""

import asyncio
import time
from typing import Any

import pytest

from harness import gateway, run
from streaming import Streamed, Streamer, StreamFailedError
from streams import DONE, FINISH, HELLO, ROLE, Script, Steps, answer, answering, chunked, closing, frame, streamed, word
from tidegate.testing.upstream import LAST, chunk, scripted_upstream


class Reading:
    """One client in a thread. Shape: `told` holds the stream as it stood when the first token was there."""

    def __init__(self, port: int) -> None:
        self.seen = Streamed()
        self.told: list[Streamed] = []
        self.failure = ""
        self.streamer = Streamer("127.0.0.1", port, time.perf_counter, 5.0)

    def read(self, knobs: str = "") -> None:
        body = {
            "model": "mock",
            "messages": [{"role": "user", "content": "Hi"}],
            "stream": True,
            "user": f"mock?{knobs}",
        }
        self.seen, self.told, self.failure = Streamed(), [], ""
        try:
            self.streamer.stream(body, self.seen, self.on_first)
        except StreamFailedError as error:
            self.failure = str(error)

    def on_first(self, seen: Streamed) -> None:
        self.told.append(Streamed(seen.began_at, seen.first_at, seen.last_at, seen.ended_at, seen.tokens))


def read_of(script: Script, times: int = 1) -> Reading:
    """Give what the last of some streams of a scripted provider came to."""
    readings = []

    async def work() -> None:
        async with scripted_upstream(script) as upstream:
            reading = Reading(upstream.port)
            for _ in range(times):
                await asyncio.to_thread(reading.read)
            reading.streamer.close()
            readings.append(reading)

    run(work)
    return readings[0]


def test_the_first_token_is_noted_before_the_provider_says_another() -> None:
    async def work() -> None:
        steps = Steps(chunked(ROLE, word("Hel")), chunk(word("lo")) + chunk(FINISH) + chunk(DONE) + LAST)
        loop = asyncio.get_running_loop()

        class Going(Reading):
            def on_first(self, seen: Streamed) -> None:
                super().on_first(seen)
                loop.call_soon_threadsafe(steps.run_out)

        async with scripted_upstream(steps) as upstream:
            reading = Going(upstream.port)
            await asyncio.to_thread(reading.read)
            reading.streamer.close()
            assert reading.failure == ""
            assert [(seen.tokens, seen.ended_at) for seen in reading.told] == [(1, 0.0)]
            assert reading.seen.tokens == 2
            assert reading.seen.began_at < reading.seen.first_at < reading.seen.last_at <= reading.seen.ended_at

    run(work)


def test_frames_without_text_are_no_tokens() -> None:
    reading = read_of(answering(streamed(ROLE, frame({"choices": []}), word("Hi"), FINISH, DONE)))
    assert (reading.failure, reading.seen.tokens) == ("", 1)


def test_a_connection_serves_one_stream_after_another() -> None:
    assert read_of(answering(streamed(*HELLO)), times=3).seen.tokens == 2


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        (answering(answer(429, {"error": {"message": "slow down"}}, "retry-after: 1")), "status 429"),
        (answering(answer(503, {"error": {"message": "no"}})), "status 503"),
        (answering(streamed(ROLE, FINISH, DONE)), "no token"),
        (answering(streamed(ROLE, word("Hel"))), "no [DONE]"),
        (
            answering(streamed(ROLE, word("Hel"), frame({"error": {"message": "no", "code": "idle_timeout"}}))),
            "error frame: idle_timeout",
        ),
        (answering(streamed(frame({"error": {"message": "no", "code": None}}), DONE)), "error frame: None"),
        (answering(streamed(b"data: {not json}\n\n", DONE)), "DecodeError"),
        (closing(chunked(ROLE, word("Hel"))), "connection closed"),
        (closing(), "connection closed"),
    ],
)
def test_what_nobody_would_be_content_with_is_a_failure(script: Script, failure: str) -> None:
    reading = read_of(script)
    assert reading.failure == failure
    assert reading.seen.ended_at >= reading.seen.began_at > 0.0


def test_a_stream_after_a_failed_one_begins_afresh() -> None:
    turns = iter([streamed(ROLE, word("Hel"), frame({"error": {"message": "no", "code": "bug"}})), streamed(*HELLO)])

    async def script(peer: Any) -> None:
        await peer.request()
        await peer.send(next(turns))

    reading = read_of(script, times=2)
    assert (reading.failure, reading.seen.tokens, len(reading.told)) == ("", 2, 1)


def test_through_the_gateway_each_token_of_the_mock_is_seen() -> None:
    async def work() -> None:
        async with gateway() as running:
            reading = Reading(running.port)
            await asyncio.to_thread(reading.read, "ttft=20ms&itl=2ms&tokens=10")
            reading.streamer.close()
            assert (reading.failure, reading.seen.tokens) == ("", 10)
            assert reading.told[0].first_at < reading.seen.last_at

    run(work)
