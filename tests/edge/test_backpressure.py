"""Back-pressure is end to end: what a client does not take is not read from its provider."""

import asyncio
import socket

import pytest
from slow_client import read_no_more, read_on, slow_client, socket_of

from harness import chat, connect, gateway, request_bytes, run, until
from tidegate.testing.upstream import HEAD, LAST, Peer, chunk, scripted_upstream

FRAME_BYTES = 10_000
BOUND_BYTES = 256 * 1024 + FRAME_BYTES
MANY = 5_000  # frames: 50 MB


def frame(number: int) -> bytes:
    head, tail = b'data: {"choices":[{"index":0,"delta":{"content":"%08d' % number, b'"}}]}\n\n'
    return head + b"x" * (FRAME_BYTES - len(head) - len(tail)) + tail


class Flood:
    """An upstream that sends frames as long as it can. Shape: `sent` counts those that the kernel took."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self.sent = 0

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        for number in range(self._frames):
            await peer.send(chunk(frame(number)))
            self.sent += 1
        await peer.send(chunk(b"data: [DONE]\n\n") + LAST)


async def settled(flood: Flood) -> int:
    """Wait until the flood stands still; gives how many frames it came to."""
    last = -1
    while flood.sent != last or not last:
        last = flood.sent
        await asyncio.sleep(0.2)
    return last


@pytest.mark.slow
def test_a_client_that_reads_nothing_holds_its_provider_back_and_loses_nothing() -> None:
    async def work() -> None:
        flood = Flood(MANY)
        async with (
            scripted_upstream(flood) as upstream,
            gateway(upstream.base_url) as running,
            slow_client(running) as (client, connection),
        ):
            await client.send(request_bytes(chat()))
            stood = await settled(flood)
            assert stood * FRAME_BYTES < 25_000_000  # no more than the kernel's buffers between the two
            assert connection._blocked
            assert 0 < running.tidegate.buffered_bytes() <= BOUND_BYTES
            await asyncio.sleep(0.3)
            assert flood.sent == stood
            read_on(client)
            reply = await client.reply(timeout_s=30)
            assert reply.complete
            assert reply.body == b"".join(frame(number) for number in range(MANY)) + b"data: [DONE]\n\n"
            entry = await running.entry()
            assert entry.code == "completed"
            assert entry.blocked_s > 0

    run(work)


def test_a_client_that_reads_all_the_time_does_not_make_the_gateway_hold_more() -> None:
    async def work() -> None:
        flood = Flood(MANY)
        async with (
            scripted_upstream(flood) as upstream,
            gateway(upstream.base_url) as running,
            slow_client(running) as (client, _),
        ):
            await client.send(request_bytes(chat()))
            read_on(client)
            most = 0
            reading = asyncio.ensure_future(client.reply(timeout_s=30))
            while not reading.done():
                most = max(most, running.tidegate.buffered_bytes())
                await asyncio.sleep(0.001)
            assert (await reading).complete
            assert 0 < most <= BOUND_BYTES

    run(work)


def test_a_long_plain_answer_is_held_back_as_well() -> None:
    async def work() -> None:
        body = b'{"id":"x","choices":[],"pad":"%b"}' % (b"x" * 20_000_000)
        sent = 0

        async def script(peer: Peer) -> None:
            nonlocal sent
            await peer.request()
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            await peer.send(head)
            for start in range(0, len(body), 100_000):
                await peer.send(body[start : start + 100_000])
                sent += 1

        async with (
            scripted_upstream(script) as upstream,
            gateway(upstream.base_url) as running,
            slow_client(running) as (client, connection),
        ):
            await client.send(request_bytes(chat(stream=False)))
            await until(lambda: connection._blocked)
            # What was held for the verdict over a short body is written before the client's side can say no.
            assert running.tidegate.buffered_bytes() <= BOUND_BYTES + 2 * 64 * 1024
            read_on(client)
            assert (await client.reply()).body == body

    run(work)


def test_a_client_that_takes_nothing_for_too_long_is_cut() -> None:
    async def work() -> None:
        async with (
            scripted_upstream(Flood(MANY)) as upstream,
            gateway(upstream.base_url, server={"slow_client_timeout": 0.2}) as running,
            slow_client(running) as (client, _),
        ):
            await client.send(request_bytes(chat()))
            entry = await running.entry()
            assert entry.code == "client_slow"
            await until(lambda: not running.tidegate.edge.connections)
            await asyncio.wait_for(upstream.peers[0].wait_closed_by_peer(), 5)
            read_on(client)
            assert not (await client.reply()).complete

    run(work)


@pytest.mark.slow
def test_a_client_that_takes_little_but_takes_is_not_cut() -> None:
    async def work() -> None:
        async with (
            scripted_upstream(Flood(90)) as upstream,
            gateway(upstream.base_url, server={"slow_client_timeout": 0.5}) as running,
            slow_client(running) as (client, _),
        ):
            await client.send(request_bytes(chat()))
            taken = 0
            while taken < 90 * FRAME_BYTES:
                await asyncio.sleep(0.06)
                read_on(client)
                taken += len(await client.reader.read(65536))
                read_no_more(client)
            entry = await running.entry()
            assert entry.code == "completed"
            assert entry.duration_s > 0.5

    run(work)


# --- what else latency depends on ------------------------------------------------------------------------------------


def test_small_segments_are_not_delayed_on_either_side() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(request_bytes(chat("mock?tokens=5&fail=stall&fail_at=3")))
            await client.reader.readuntil(b"data: ")
            (connection,) = running.tidegate.edge.connections
            assert socket_of(connection).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            (lent,) = running.tidegate.providers["main"].pool._lent
            assert lent._transport is not None
            upstream: socket.socket = lent._transport.get_extra_info("socket")
            assert upstream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(work)


def test_head_and_first_frame_come_in_one_segment() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            for _ in range(5):
                await client.send(request_bytes(chat("mock?tokens=5&ttft=5ms&itl=10ms")))
                first = await client.reader.read(65536)
                assert first.startswith(b"HTTP/1.1 200 OK\r\n")
                assert b"\r\n\r\n" in first
                assert b"data: {" in first
                await client.reader.readuntil(b"0\r\n\r\n")

    run(work)
