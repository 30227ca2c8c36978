"""Connections beyond the limits, and who counts as whom behind a proxy."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from slow_client import slow_client

from harness import Raw, Reply, Running, ask, chat, connect, gateway, request_bytes, run, until
from streams import HELLO, answering, fronting, settled, streamed
from tidegate.testing.upstream import HEAD, Peer, chunk

SHORT = "mock?tokens=2"
ENDLESS = "mock?tokens=5&fail=stall&fail_at=3"
LOCAL = {"trusted_proxies": ["127.0.0.1"]}


def check_full(reply: Reply) -> None:
    assert (reply.status, reply.json()["error"]["code"]) == (503, "connections_full")
    assert int(reply.headers["retry-after"]) in {1, 2}
    assert reply.headers["connection"] == "close"


def via(*hops: str) -> dict[str, str]:
    return {"x-forwarded-for": ", ".join(hops)}


async def begun(running: Running, stack: AsyncExitStack, **headers: str) -> Raw:
    """Give a client whose stream has begun."""
    client = await stack.enter_async_context(connect(running.port))
    await client.send(request_bytes(chat(ENDLESS), headers=headers))
    await client.reader.readuntil(b"data: ")
    return client


async def get(running: Running, path: str, port: int = 0) -> Reply:
    return await ask(port or running.port, b"", method="GET", path=path)


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_ip"])
def test_a_connection_beyond_the_limit_is_refused_at_its_first_request_and_closed(limit: str) -> None:
    async def work() -> None:
        async with gateway(limits={limit: 2}) as running, connect(running.port) as one, connect(running.port) as two:
            await until(lambda: len(running.tidegate.crowd) == 2)
            async with connect(running.port) as third:
                await third.send(request_bytes(chat(SHORT), headers={"x-request-id": "mine"}))
                reply = await third.reply()
                check_full(reply)
                assert reply.headers["x-request-id"] == "mine"
                assert await third.closed()
            check_full(await get(running, "/v1/models"))
            for client in (one, two):
                await client.send(request_bytes(chat(SHORT)))
                assert (await client.reply()).status == 200
            assert sorted((entry.route, entry.code) for entry in running.entries()) == [
                ("chat", "completed"),
                ("chat", "completed"),
                ("chat", "connections_full"),
                ("other", "connections_full"),
            ]

    run(work)


def test_health_answers_on_a_connection_beyond_the_limit_and_the_ops_port_has_none() -> None:
    async def work() -> None:
        async with gateway(limits={"max_connections": 1}) as running, connect(running.port):
            await until(lambda: len(running.tidegate.crowd) == 1)
            for path in ("/health", "/health/live", "/health/ready"):
                assert (await get(running, path)).status == 200
            assert (await get(running, "/metrics", running.ops_port)).status == 200
            assert (await get(running, "/health", running.ops_port)).status == 200
            assert (await get(running, "/health")).json()["unique_ips"] == 1

    run(work)


def test_a_place_that_came_free_serves_a_connection_that_waited_for_its_first_request() -> None:
    async def work() -> None:
        async with gateway(limits={"max_connections": 1}) as running, AsyncExitStack() as stack:
            async with connect(running.port):
                await until(lambda: len(running.tidegate.crowd) == 1)
                second = await stack.enter_async_context(connect(running.port))
                await until(lambda: len(running.tidegate.edge.connections) == 2)
            await until(lambda: len(running.tidegate.crowd) == 0)
            await second.send(request_bytes(chat(SHORT)))
            assert (await second.reply()).status == 200

    run(work)


def test_connections_on_the_cold_side_count_until_they_close() -> None:
    async def work() -> None:
        async with gateway(limits={"max_connections": 1}) as running:
            async with connect(running.port) as cold:
                await cold.send(b"POST /nope HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n")
                assert (await cold.reply()).status == 404
                assert len(running.tidegate.crowd) == 1
                check_full(await ask(running.port, chat(SHORT)))
            await until(lambda: len(running.tidegate.crowd) == 0)
            assert (await get(running, "/v1/models")).status == 200
            await until(lambda: len(running.tidegate.crowd) == 0)
            assert (await ask(running.port, chat(SHORT))).status == 200

    run(work)


def test_behind_one_address_as_many_stream_as_the_limit_says_and_the_others_still_come() -> None:
    async def work() -> None:
        async with gateway(limits={"max_connections_per_ip": 2}) as running, AsyncExitStack() as stack:
            for _ in range(2):
                await begun(running, stack)
            check_full(await ask(running.port, chat(SHORT)))
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", running.port, local_addr=("127.0.0.2", 0), limit=1 << 20
            )
            other = Raw(reader, writer)
            await other.send(request_bytes(chat(SHORT)))
            assert (await other.reply()).status == 200
            writer.close()

    run(work)


# --- behind a proxy --------------------------------------------------------------------------------------------------


def test_a_client_behind_a_proxy_is_who_the_proxy_says_and_counts_while_its_request_is_in_work() -> None:
    async def work() -> None:
        async with gateway(limits={"max_connections_per_ip": 1}, server=LOCAL) as running, AsyncExitStack() as stack:
            await begun(running, stack, **via("203.0.113.7", "198.51.100.1"))
            assert running.tidegate.crowd.addresses == 1
            check_full(await ask(running.port, chat(SHORT), headers=via("198.51.100.1")))
            check_full(await ask(running.port, b"", method="GET", path="/v1/models", headers=via("198.51.100.1")))
            for neighbour in ("198.51.100.2", "203.0.113.7", "2001:db8::1"):
                assert (await ask(running.port, chat(SHORT), headers=via(neighbour))).status == 200
            await stack.aclose()
            await until(lambda: not running.tidegate.crowd.addresses)
            assert (await ask(running.port, chat(SHORT), headers=via("198.51.100.1"))).status == 200

    run(work)


def test_a_proxy_s_kept_connection_serves_many_clients_one_after_the_other() -> None:
    async def work() -> None:
        limits = {"max_connections_per_ip": 1, "rate": [{"by": "ip", "requests_per_minute": 1}]}
        async with gateway(limits=limits, server=LOCAL) as running, connect(running.port) as proxy:
            statuses = []
            for address in ("198.51.100.1", "198.51.100.2", "198.51.100.1"):
                await proxy.send(request_bytes(chat(SHORT), headers=via(address)))
                statuses.append((await proxy.reply()).status)
            assert statuses == [200, 200, 429]
            assert running.tidegate.crowd.addresses == 0

    run(work)


@pytest.mark.parametrize(
    ("server", "header", "shared"),
    [
        ({}, "198.51.100.1", True),
        (LOCAL, "198.51.100.1", False),
        (LOCAL, "not an address", True),
        ({"trusted_proxies": ["192.0.2.0/24"]}, "198.51.100.1", True),
    ],
)
def test_the_header_counts_from_a_trusted_proxy_alone(server: dict[str, Any], header: str, shared: bool) -> None:
    async def work() -> None:
        async with gateway(server=server, limits={"rate": [{"by": "ip", "requests_per_minute": 1}]}) as running:
            assert (await ask(running.port, chat(SHORT))).status == 200
            reply = await ask(running.port, chat(SHORT), headers=via(header))
            assert reply.status == (429 if shared else 200)

    run(work)


# --- memory: who is cut ----------------------------------------------------------------------------------------------


async def endless(peer: Peer) -> None:
    await peer.request()
    await peer.send(HEAD)
    while True:
        await peer.send(chunk(b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 30_000)))
        await asyncio.sleep(0)


def test_above_the_limit_a_reader_that_takes_nothing_is_cut_and_the_others_go_on() -> None:
    async def work() -> None:
        async with (
            fronting(endless, limits={"max_buffered_bytes": 100_000}) as (running, _),
            slow_client(running) as (slow, connection),
            connect(running.port) as quick,
        ):
            await slow.send(request_bytes(chat()))
            await until(lambda: connection.unsent() > 60_000)
            await quick.send(request_bytes(chat(), headers={"x-request-id": "quick"}))
            await quick.reader.readuntil(b"data: ")
            running.tidegate._memory.sample()  # what waits for one slow reader is within the limit
            assert not running.entries()
            running.tidegate._memory.max_bytes = 50_000
            running.tidegate._memory.sample()
            entry = await taking(running, quick)
            assert entry == "client_slow"
            assert len(running.tidegate.gateway) == 1

    run(work)


async def taking(running: Running, client: Raw) -> str:
    """Read until there is a record; gives its code."""
    while not running.entries():
        await client.reader.read(65536)
    return running.entries()[-1].code


def test_the_guard_looks_by_itself_while_the_gateway_serves() -> None:
    async def work() -> None:
        async with (
            fronting(endless, limits={"max_buffered_bytes": 50_000}) as (running, _),
            slow_client(running) as (slow, _),
        ):
            await slow.send(request_bytes(chat()))
            assert (await running.entry()).code == "client_slow"
        assert running.tidegate._memory._timer is None

    run(work)


def test_nothing_is_left_in_the_crowd_when_everybody_has_left() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(*HELLO)), server=LOCAL) as (running, _):
            for header in (via("198.51.100.1"), {}):
                assert (await ask(running.port, chat(), headers=header)).status == 200
                assert (await ask(running.port, b"", method="GET", path="/v1/models", headers=header)).status == 200
            await settled(running)
            await until(lambda: not running.tidegate._cold.connections)
            assert (len(running.tidegate.crowd), running.tidegate.crowd.addresses) == (0, 0)

    run(work)
