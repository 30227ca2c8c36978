"""Several requests on one connection, sent before the first is answered."""

import asyncio
from typing import Any

import pytest
from slow_client import read_on, slow_client

from harness import Raw, Running, chat, connect, gateway, request_bytes, run, until
from tidegate.edge.connection import Connection
from tidegate.testing.upstream import HEAD, LAST, Peer, chunk, scripted_upstream


def numbered(number: int, size: int = 0) -> bytes:
    padded = chat("mock?tokens=3", user="u" * size) if size else chat("mock?tokens=3")
    return request_bytes(padded, headers={"x-request-id": f"id-{number}"})


async def check_answered(client: Raw, number: int) -> None:
    reply = await client.reply()
    assert (reply.status, reply.complete) == (200, True)
    assert reply.headers["x-request-id"] == f"id-{number}"


@pytest.mark.parametrize("size", [0, 1])
def test_pipelined_requests_are_answered_in_order_with_their_own_ids(size: int) -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            data = b"".join(numbered(number) for number in range(5))
            for start in range(0, len(data), size or len(data)):
                client.writer.write(data[start : start + (size or len(data))])
                await asyncio.sleep(0)
            for number in range(5):
                await check_answered(client, number)
            await running.entry()
            assert [entry.request_id for entry in running.entries()] == [f"id-{number}" for number in range(5)]

    run(work)


def test_chunked_and_counted_bodies_may_be_pipelined_behind_each_other() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            counted = numbered(1)
            head, _, body = numbered(2).partition(b"\r\n\r\n")
            lines = [line for line in head.split(b"\r\n") if not line.startswith(b"content-length")]
            coded = b"\r\n".join([*lines, b"transfer-encoding: chunked", b"", chunk(body) + LAST])
            await client.send(counted + coded + counted + coded)
            for number in (1, 2, 1, 2):
                await check_answered(client, number)

    run(work)


def test_a_second_request_is_not_begun_while_the_first_is_in_work() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(request_bytes(chat("mock?ttft=100ms&itl=2ms&tokens=20")) + numbered(2))
            await until(lambda: running.mock.stats.started == 1)
            while not running.entries():
                assert running.mock.stats.started == 1
                assert len(running.tidegate.gateway) == 1
                await asyncio.sleep(0.002)
            assert (await client.reply()).complete
            await check_answered(client, 2)

    run(work)


def test_eight_requests_may_wait_and_the_ninth_ends_the_connection() -> None:
    async def work() -> None:
        async with gateway() as running:
            async with connect(running.port) as client:
                await client.send(request_bytes(chat("mock?ttft=50ms")) + b"".join(numbered(n) for n in range(8)))
                assert (await client.reply()).complete
                for number in range(8):
                    await check_answered(client, number)
            async with connect(running.port) as client:
                await client.send(request_bytes(chat("mock?ttft=10s")))
                await until(lambda: running.mock.stats.open == 1)
                await client.send(b"".join(numbered(n) for n in range(9)))
                assert await client.closed()
            assert (await running.entry()).code == "client_gone"
            await until(lambda: running.mock.stats.open == 0)

    run(work)


def test_64_kib_may_wait_and_more_ends_the_connection() -> None:
    async def work() -> None:
        async with gateway() as running:
            async with connect(running.port) as client:
                await client.send(request_bytes(chat("mock?ttft=50ms")) + numbered(2, size=63 * 1024))
                assert (await client.reply()).complete
                await check_answered(client, 2)
            async with connect(running.port) as client:
                await client.send(request_bytes(chat("mock?ttft=10s")))
                await until(lambda: running.mock.stats.open == 1)
                await client.send(numbered(2, size=64 * 1024))
                assert await client.closed()
            assert (await running.entry()).code == "client_gone"

    run(work)


def test_what_is_pipelined_in_the_first_bytes_is_bounded_as_well() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(request_bytes(chat("mock?ttft=10s")) + b"".join(numbered(n) for n in range(9)))
            assert await client.closed()

    run(work)


@pytest.mark.parametrize("waits", [True, False], ids=["in turn", "pipelined"])
@pytest.mark.parametrize(
    "bounds",
    [
        {"limits": {"rate": [{"by": "ip", "max_streams": 1}]}},
        {"limits": {"rate": [{"by": "ip", "tokens_per_minute": 2000}]}},
        {"provider": {"slots": {"max_streams": 1, "max_queue": 0}}},
    ],
    ids=["streams", "tokens", "slots"],
)
def test_a_request_is_not_refused_for_what_the_one_before_it_held(bounds: dict[str, Any], waits: bool) -> None:
    async def work() -> None:
        async with gateway(**bounds) as running, connect(running.port) as client:
            request = request_bytes(chat("mock?tokens=4&itl=2ms&ttft=2ms"))
            await client.send(request * (1 if waits else 4))
            for number in range(4):
                if waits and number:
                    await client.send(request)
                assert (await client.reply()).status == 200

    run(work)


def test_a_failure_to_turn_to_the_next_request_leaves_nothing_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> asyncio.Protocol:
        raise OSError("no memory")

    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            monkeypatch.setattr(running.tidegate.edge, "cold", fail)
            cold = request_bytes(b"", path="/v1/models", method="GET")
            await client.send(request_bytes(chat("mock?tokens=4&itl=2ms")) + cold)
            assert (await client.reply()).complete
            await until(lambda: not len(running.tidegate.gateway) and not len(running.tidegate.edge.tasks))
            assert (await running.entry()).code == "completed"

    run(work)


def test_garbage_behind_a_request_is_refused_after_its_answer() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(numbered(1) + b"\x16\x03\x01 what is this\r\n\r\n")
            await check_answered(client, 1)
            reply = await client.reply()
            assert (reply.status, reply.json()["error"]["code"]) == (400, "bad_request")
            assert await client.closed()

    run(work)


def test_half_a_head_behind_a_request_has_a_deadline_of_its_own() -> None:
    async def work() -> None:
        async with gateway(server={"header_timeout": 0.1}) as running, connect(running.port) as client:
            await client.send(request_bytes(chat("mock?ttft=200ms&tokens=2")) + b"POST /v1/chat")
            assert (await client.reply()).status == 200
            assert (await client.reply()).status == 408
            assert await client.closed()

    run(work)


def test_a_cold_request_behind_a_hot_one_is_answered_and_ends_the_connection() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            cold = request_bytes(b"", path="/v1/models", method="GET")
            await client.send(numbered(1) + numbered(2) + cold + numbered(3))
            await check_answered(client, 1)
            await check_answered(client, 2)
            reply = await client.reply()
            assert reply.json()["object"] == "list"
            assert reply.headers["connection"] == "close"
            assert await client.closed()

    run(work)


async def fill(client: Raw, running: Running, connection: Connection) -> int:
    """Ask until answers wait that the client has not taken; gives how many requests were sent, the last still waits."""
    sent = 0
    while not connection._blocked:
        sent += 1
        await client.send(numbered(sent))
        await until(lambda count=sent: len(running.entries()) == count)  # type: ignore[misc]
    await client.send(numbered(sent + 1))
    await until(lambda: bool(connection._pending))
    return sent + 1


async def answer_20_kib(peer: Peer) -> None:
    frame = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 20_000)
    while True:
        await peer.request()
        await peer.send(HEAD + chunk(frame) + chunk(b"data: [DONE]\n\n") + LAST)


def test_the_next_request_waits_until_the_client_has_taken_the_answers_before_it() -> None:
    async def work() -> None:
        async with (
            scripted_upstream(answer_20_kib) as upstream,
            gateway(upstream.base_url) as running,
            slow_client(running) as (client, connection),
        ):
            sent = await fill(client, running, connection)
            await asyncio.sleep(0.05)
            assert sum(len(peer.requests) for peer in upstream.peers) == sent - 1
            assert running.tidegate.buffered_bytes() < 256 * 1024
            read_on(client)
            for number in range(1, sent + 1):
                await check_answered(client, number)

    run(work)


def test_what_waits_behind_untaken_answers_is_bounded() -> None:
    async def work() -> None:
        async with (
            scripted_upstream(answer_20_kib) as upstream,
            gateway(upstream.base_url) as running,
            slow_client(running) as (client, connection),
        ):
            sent = await fill(client, running, connection)
            client.writer.write(b"".join(numbered(number) for number in range(9)))
            await until(lambda: not running.tidegate.edge.connections)
            assert len(running.entries()) == sent - 1

    run(work)


def test_a_client_that_never_takes_its_answers_is_cut_between_requests() -> None:
    async def work() -> None:
        async with (
            scripted_upstream(answer_20_kib) as upstream,
            gateway(upstream.base_url, server={"slow_client_timeout": 0.1}) as running,
            slow_client(running) as (client, connection),
        ):
            sent = await fill(client, running, connection)
            await until(lambda: not running.tidegate.edge.connections)
            assert len(running.entries()) == sent - 1

    run(work)
