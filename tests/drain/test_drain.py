"""A process that is told to stop while it is busy."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from harness import Raw, Reply, ask, chat, connect, gateway, request_bytes, run
from processes import Served, serving, write_config

RUNNING = 200
TOKENS = 80
IN_TIME = f"mock?itl=50ms&tokens={TOKENS}"
TOO_LONG = "mock?itl=200ms&tokens=5000"
SETTINGS = {"drain_delay": "2s", "drain_timeout": "4s"}


async def open_stream(port: int, model: str, ready: asyncio.Semaphore) -> tuple[str, Reply]:
    """Stream to the end; `ready` is told once the head is here."""
    async with connect(port) as client:
        await client.send(request_bytes(chat(model)))
        first = await client.reader.readexactly(1)
        ready.release()
        return model, await Raw(_Again(first, client.reader), client.writer).reply(timeout_s=40)  # type: ignore[arg-type]


class _Again:
    """A reader whose first byte was read already."""

    def __init__(self, first: bytes, reader: asyncio.StreamReader) -> None:
        self._first = first
        self._reader = reader
        self.readexactly = reader.readexactly
        self.read = reader.read

    async def readuntil(self, separator: bytes) -> bytes:
        first, self._first = self._first, b""
        return first + await self._reader.readuntil(separator)


async def status(port: int, path: str) -> int:
    return (await ask(port, b"", method="GET", path=path)).status


async def until_refused(port: int) -> None:
    """Wait until nobody listens on a port."""
    async with asyncio.timeout(20):
        while True:
            try:
                async with connect(port):
                    await asyncio.sleep(0.02)
            except OSError:
                return


async def until_not_ready(ops_port: int) -> None:
    async with asyncio.timeout(20):
        while await status(ops_port, "/health/ready") != 503:
            await asyncio.sleep(0.01)


def content(reply: Reply) -> list[str]:
    """Give the pieces of text in a stream."""
    events = [json.loads(event) for event in reply.events() if event != "[DONE]"]
    deltas = [choice["delta"] for event in events for choice in event.get("choices", ())]
    return [delta["content"] for delta in deltas if delta.get("content")]


async def drain(served: Served) -> list[tuple[str, Reply]]:
    port, ops_port = await asyncio.to_thread(served.ports)
    ready = asyncio.Semaphore(0)
    async with connect(port) as idle, asyncio.TaskGroup() as group:
        await idle.send(request_bytes(chat("mock?tokens=1")))
        assert (await idle.reply()).complete
        streams = [
            group.create_task(open_stream(port, model, ready))
            for model in (IN_TIME, TOO_LONG)
            for _ in range(RUNNING // 2)
        ]
        for _ in range(RUNNING):
            await ready.acquire()
        served.signal(signal.SIGTERM)
        await until_not_ready(ops_port)
        late = await ask(port, chat("mock?tokens=3"))
        assert (late.status, late.events()[-1]) == (200, "[DONE]")
        assert await status(port, "/health/live") == 200
        assert not idle.reader.at_eof()
        await until_refused(port)
        assert await idle.closed()
        assert await status(ops_port, "/health/ready") == 503
    return [stream.result() for stream in streams]


@pytest.mark.slow
def test_two_hundred_running_streams_end_well_or_say_why_they_did_not(tmp_path: Path) -> None:
    replies: list[tuple[str, Reply]] = []

    async def work() -> None:
        replies.extend(await drain(served))

    with serving("serve", "-c", str(write_config(tmp_path, server=SETTINGS))) as served:
        run(work)
        assert served.wait() == 0
        assert json.loads(served.line('"event":"draining"'))["exchanges"] == RUNNING
        codes = [json.loads(line)["code"] for line in served.lines if '"event":"exchange"' in line]
    assert all(reply.complete for _, reply in replies)
    in_time = [reply for model, reply in replies if model == IN_TIME]
    assert [len(content(reply)) for reply in in_time] == [TOKENS] * (RUNNING // 2)
    assert all(reply.events()[-1] == "[DONE]" for reply in in_time)
    cut = [reply for model, reply in replies if model == TOO_LONG]
    for reply in cut:
        assert "[DONE]" not in reply.events()
        assert content(reply)
        assert json.loads(reply.events()[-1])["error"]["code"] == "server_shutdown"
    assert sorted(codes) == sorted(["completed"] * (RUNNING // 2 + 2) + ["server_shutdown"] * (RUNNING // 2))


@pytest.mark.parametrize("stream", [True, False])
def test_an_exchange_that_has_no_answer_yet_when_time_is_up_is_refused_with_503(stream: bool) -> None:
    async def work() -> None:
        async with gateway(server={"drain_timeout": 0.05}) as running:
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(ask(running.port, chat("mock?stall=head", stream=stream)))
                while not running.mock.stats.open:
                    await asyncio.sleep(0.01)
                await running.tidegate.stop(delay_s=0.0)
            reply = asking.result()
            assert (reply.status, reply.json()["error"]["code"]) == (503, "server_shutdown")
            assert reply.headers["connection"] == "close"
            assert (await running.entry()).code == "server_shutdown"

    run(work)


def test_a_connection_that_was_open_before_the_drain_gets_no_new_work_after_it() -> None:
    async def work() -> None:
        async with gateway(server={"drain_timeout": 5}) as running, connect(running.port) as client:
            await client.send(request_bytes(chat("mock?itl=50ms&tokens=10")))
            await client.reader.readexactly(1)
            async with asyncio.TaskGroup() as group:
                group.create_task(running.tidegate.stop(delay_s=0.0))
                while not running.tidegate.edge.closing:
                    await asyncio.sleep(0)
                await client.send(request_bytes(chat("mock?tokens=1")))
                rest = await client.reader.read()
            assert rest.count(b"HTTP/1.1") == 0
            assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            assert running.mock.stats.started == 1

    run(work)
