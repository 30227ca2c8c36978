"""A client that leaves is noticed at once, whatever is going on, and its provider is not paid any further."""

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest
from slow_client import read_on, slow_client

from harness import CHAT, Raw, Running, chat, connect, gateway, request_bytes, run, until
from tidegate.relay import relay as relaying
from tidegate.testing.upstream import HEAD, LAST, Peer, chunk, scripted_upstream

FRAME = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}}\n\n'


def fin(client: Raw) -> None:
    """Close as a client does that has nothing unread."""
    client.writer.close()


def half_close(client: Raw) -> None:
    """Send FIN, and keep the socket."""
    client.writer.write_eof()


def reset(client: Raw) -> None:
    """Close with RST."""
    sock: socket.socket = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


STALLS = "mock?tokens=5&fail=stall&fail_at=3"
LEAVING = pytest.mark.parametrize("leave", [fin, half_close, reset])


async def check_gone(running: Running, status: int = 499) -> None:
    """Check that nothing is left and that the one entry says why. Shape: the status is 200 where a head was sent."""
    entry = await running.entry()
    assert (entry.code, entry.status) == ("client_gone", status)
    assert len(running.entries()) == 1
    await until(lambda: not running.tidegate.edge.connections)
    pool = running.tidegate.providers["main"].pool
    assert pool.in_use == 0


@LEAVING
@pytest.mark.parametrize(
    "wish",
    ["mock?stall=head", "mock?ttft=10m", STALLS, "mock?itl=1ms&tokens=20000"],
    ids=["before the head", "before the first token", "after it, in silence", "in mid-flow"],
)
def test_the_upstream_is_closed_when_its_client_leaves(leave: Callable[[Raw], None], wish: str) -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(request_bytes(chat(wish)))
            await until(lambda: running.mock.stats.open == 1)
            begun = wish == STALLS or "itl" in wish
            if begun:
                await client.reader.readuntil(b"data: ")
            leave(client)
            await until(lambda: running.mock.stats.cancelled == 1)
            assert running.mock.stats.completed == 0
            await check_gone(running, 200 if begun else 499)

    run(work)


@LEAVING
@pytest.mark.parametrize("framing", ["content-length: 100", "transfer-encoding: chunked"])
def test_a_client_that_leaves_within_its_request_s_body_is_gone(leave: Callable[[Raw], None], framing: str) -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(f"POST {CHAT} HTTP/1.1\r\nhost: test\r\n{framing}\r\n\r\n5\r\n{{".encode())
            await until(lambda: len(running.tidegate.gateway) == 1)
            leave(client)
            await check_gone(running)
            assert running.mock.stats.started == 0

    run(work)


@LEAVING
def test_a_client_that_leaves_before_its_plain_answer_is_gone(leave: Callable[[Raw], None]) -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(request_bytes(chat("mock?ttft=10m", stream=False)))
            await until(lambda: running.mock.stats.open == 1)
            leave(client)
            await until(lambda: running.mock.stats.cancelled == 1)
            await check_gone(running)

    run(work)


@LEAVING
def test_a_client_that_leaves_in_or_between_heads_leaves_nothing(leave: Callable[[Raw], None]) -> None:
    async def work() -> None:
        async with gateway() as running:
            for start in (b"", b"POST /v1"):
                async with connect(running.port) as client:
                    await until(lambda: len(running.tidegate.edge.connections) == 1)
                    await client.send(start)
                    await asyncio.sleep(0.01)
                    leave(client)
                    await until(lambda: not running.tidegate.edge.connections)
            assert running.entries() == ()

    run(work)


@pytest.mark.parametrize("leave", [half_close, reset])
def test_a_client_that_leaves_with_much_untaken_is_gone_at_once(leave: Callable[[Raw], None]) -> None:
    """The transport cannot flush to it, and would say nothing for as long as it tries."""

    async def work() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HEAD)
            while True:
                await peer.send(chunk(FRAME % (b"x" * 10_000)))

        async with (
            scripted_upstream(script) as upstream,
            gateway(upstream.base_url) as running,
            slow_client(running) as (client, connection),
        ):
            await client.send(request_bytes(chat()))
            await until(lambda: connection._blocked)
            leave(client)
            await check_gone(running, 200)
            await asyncio.wait_for(upstream.peers[0].wait_closed_by_peer(), 5)

    run(work)


# --- on_client_disconnect: finish -------------------------------------------------------------------------------------

FINISH = {"on_client_disconnect": "finish"}


@LEAVING
def test_a_stream_may_finish_without_its_client_for_the_sake_of_its_usage(leave: Callable[[Raw], None]) -> None:
    async def work() -> None:
        going_on = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HEAD, chunk(FRAME % b"one"))
            await going_on.wait()
            await peer.send(*[chunk(FRAME % b"more")] * 50, chunk(USAGE), chunk(b"data: [DONE]\n\n") + LAST)

        async with scripted_upstream(script) as upstream, gateway(upstream.base_url, server=FINISH) as running:
            async with connect(running.port) as client:
                await client.send(request_bytes(chat()))
                await client.reader.readuntil(b"one")
                leave(client)
                await until(lambda: running.tidegate.rules.finishing == 1)
            assert running.entries() == ()
            going_on.set()
            entry = await running.entry()
            assert entry.code == "client_gone"
            assert not entry.usage.estimated
            assert (entry.usage.input_tokens, entry.usage.output_tokens) == (11, 7)
            assert running.tidegate.rules.finishing == 0

    run(work)


def test_a_blocked_stream_finishes_too_when_its_client_leaves() -> None:
    async def work() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(
                HEAD, *[chunk(FRAME % (b"x" * 10_000))] * 100, chunk(USAGE), chunk(b"data: [DONE]\n\n") + LAST
            )

        async with (
            scripted_upstream(script) as upstream,
            gateway(upstream.base_url, server=FINISH) as running,
            slow_client(running) as (client, connection),
        ):
            await client.send(request_bytes(chat()))
            await until(lambda: connection._blocked)
            reset(client)
            entry = await running.entry()
            assert (entry.code, entry.usage.output_tokens) == ("client_gone", 7)

    run(work)


def test_before_the_first_token_leaving_cancels_whatever_the_policy() -> None:
    async def work() -> None:
        async with gateway(server=FINISH) as running, connect(running.port) as client:
            await client.send(request_bytes(chat("mock?ttft=10m")))
            await until(lambda: running.mock.stats.open == 1)
            fin(client)
            await until(lambda: running.mock.stats.cancelled == 1)
            await check_gone(running)

    run(work)


def test_no_more_streams_finish_at_a_time_than_the_cap() -> None:
    async def work() -> None:
        async with gateway(server={**FINISH, "drain_timeout": 0.05}) as running:
            running.tidegate.rules.detached.streams = relaying.FINISH_STREAMS - 1
            for left in (0, 1):
                async with connect(running.port) as client:
                    await client.send(request_bytes(chat(STALLS)))
                    await client.reader.readuntil(b"data: ")
                    fin(client)
                await until(lambda left=left: running.mock.stats.cancelled == left)  # type: ignore[misc]
                await until(lambda: running.tidegate.rules.finishing == relaying.FINISH_STREAMS)
            assert [entry.code for entry in running.entries()] == ["client_gone"]
            assert running.mock.stats.open == 1

    run(work)


# --- leaving, and draining, of those who are done --------------------------------------------------------------------


def test_a_client_that_leaves_after_its_answer_has_completed() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(request_bytes(chat("mock?tokens=3")))
            reply = await client.reply()
            reset(client)
            assert reply.complete
            await until(lambda: not running.tidegate.edge.connections)
            assert (await running.entry()).code == "completed"

    run(work)


def test_what_a_slow_client_has_not_taken_yet_survives_the_drain() -> None:
    async def work() -> None:
        whole = FRAME % (b"x" * 60_000)

        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.send(HEAD + chunk(whole) + chunk(b"data: [DONE]\n\n") + LAST)

        async with (
            scripted_upstream(script) as upstream,
            gateway(upstream.base_url) as running,
            slow_client(running) as (client, connection),
        ):
            await client.send(request_bytes(chat()) + request_bytes(chat()))
            await until(lambda: len(running.entries()) == 2 or connection._blocked)
            assert connection.unsent() > 0
            stopping = asyncio.ensure_future(running.tidegate.stop(delay_s=0))
            await until(lambda: running.tidegate.edge.closing)
            await asyncio.sleep(0.05)
            read_on(client)
            reply = await client.reply()
            assert (reply.complete, reply.events()[-1]) == (True, "[DONE]")
            assert len(reply.body) > 60_000
            await stopping

    run(work)
