"""Connections of one provider: which are reused, how many there are, who waits, and what a dead one costs."""

import asyncio
import functools
from pathlib import Path

from harness import Reply, Running, ask, chat, connect, request_bytes, run, until
from streams import (
    HELLO,
    MESSAGE,
    ROLE,
    answer,
    answering,
    chunked,
    closing,
    error_of,
    fronting,
    payload,
    pool_of,
    settled,
    stalling,
    streamed,
    word,
)
from tidegate.testing.upstream import LAST, Peer, chunk
from tidegate.upstream.opening import STALE_S

PLAIN = chat(stream=False)
CAPPED = {"connections": {"max": 1}}


class Gated:
    """A provider that answers a request only when its gate is opened."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.gates: dict[bytes, asyncio.Event] = {}
        self.order: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        while True:
            _, body = await peer.request()
            name = body[body.index(b'"user": "') + 9 :][:1]
            self.order.append(name)
            gate = self.gates.setdefault(name, asyncio.Event())
            await gate.wait()
            self.peers.append(peer)
            await peer.send(answer(200, MESSAGE))

    def got(self, number: int) -> bool:
        return len(self.order) == number

    def open(self, name: bytes) -> None:
        self.gates.setdefault(name, asyncio.Event()).set()

    async def serve(self, name: bytes) -> None:
        await until(lambda: self.order[-1:] == [name])
        self.open(name)


async def live(running: Running, number: int) -> None:
    await until(lambda: len(running.tidegate.gateway) == number)


def test_the_cap_holds_when_a_connection_goes_to_one_who_waits() -> None:
    async def work() -> None:
        gated = Gated()
        async with fronting(gated, provider=CAPPED) as (running, _):
            pool = pool_of(running)
            most = 0
            async with asyncio.TaskGroup() as group:
                for name in "abc":
                    group.create_task(asks(running, name))
                    await asyncio.sleep(0.02)
                for number, turn in enumerate((b"a", b"b", b"c"), 1):
                    await until(functools.partial(gated.got, number))
                    gated.open(turn)
                    for _ in range(50):
                        most = max(most, pool.in_use)
                        await asyncio.sleep(0)
            assert most == 1

    run(work)


async def asks(running: Running, name: str) -> Reply:
    return await ask(running.port, chat(stream=False, user=name))


def test_the_connection_that_came_back_last_goes_out_first() -> None:
    async def work() -> None:
        provider = Gated()
        async with fronting(provider) as (running, upstream), asyncio.TaskGroup() as group:
            first = group.create_task(asks(running, "a"))
            await until(lambda: provider.order == [b"a"])
            second = group.create_task(asks(running, "b"))
            await until(lambda: provider.order == [b"a", b"b"])
            provider.open(b"b")
            assert (await second).status == 200
            provider.open(b"a")
            assert (await first).status == 200
            await until(lambda: pool_of(running).counts() == (0, 2))
            provider.open(b"c")
            await asks(running, "c")
            assert len(upstream.peers) == 2
            assert provider.peers == [upstream.peers[1], upstream.peers[0], upstream.peers[0]]

    run(work)


def test_at_most_max_connections_are_open_and_the_rest_wait_in_order() -> None:
    async def work() -> None:
        provider = Gated()
        async with fronting(provider, provider=CAPPED) as (running, upstream), asyncio.TaskGroup() as group:
            tasks = []
            for number, name in enumerate("abcd", 1):
                tasks.append(group.create_task(asks(running, name)))
                await live(running, number)
            assert pool_of(running).counts() == (1, 0)
            for turn in (b"a", b"b", b"c", b"d"):
                await provider.serve(turn)
            assert [(await task).status for task in tasks] == [200] * 4
            assert provider.order == [b"a", b"b", b"c", b"d"]
            assert len(upstream.peers) == 1
            await settled(running)
            assert pool_of(running).counts() == (0, 1)

    run(work)


def test_waiting_for_a_connection_counts_against_the_connect_deadline() -> None:
    async def work() -> None:
        provider = Gated()
        limits = {**CAPPED, "timeouts": {"connect": 0.1}}
        async with fronting(provider, provider=limits) as (running, upstream), asyncio.TaskGroup() as group:
            first = group.create_task(asks(running, "a"))
            await until(lambda: provider.order == [b"a"])
            late = await asks(running, "b")
            assert (late.status, error_of(late)["code"]) == (504, "connect_timeout")
            provider.open(b"a")
            assert (await first).status == 200
            provider.open(b"c")
            assert (await asks(running, "c")).status == 200
            assert len(upstream.peers) == 1

    run(work)


def test_a_client_that_leaves_while_it_waits_gives_its_turn_to_the_next() -> None:
    async def work() -> None:
        provider = Gated()
        async with fronting(provider, provider=CAPPED) as (running, _), asyncio.TaskGroup() as group:
            first = group.create_task(asks(running, "a"))
            await until(lambda: provider.order == [b"a"])
            async with connect(running.port) as leaver:
                await leaver.send(request_bytes(chat(stream=False, user="b")))
                await until(lambda: len(running.tidegate.gateway) == 2)
                third = group.create_task(asks(running, "c"))
                await until(lambda: len(running.tidegate.gateway) == 3)
            await until(lambda: len(running.tidegate.gateway) == 2)
            provider.open(b"a")
            provider.open(b"c")
            assert [(await task).status for task in (first, third)] == [200, 200]
            assert provider.order == [b"a", b"c"]
            assert [entry.code for entry in running.entries()] == ["client_gone", "completed", "completed"]
            await settled(running)

    run(work)


def test_a_waiter_dials_when_the_connection_it_waits_for_breaks() -> None:
    gate = asyncio.Event()
    peers: list[Peer] = []

    async def script(peer: Peer) -> None:
        peers.append(peer)
        if len(peers) > 1:
            await answering(answer(200, MESSAGE))(peer)
        await peer.request()
        await gate.wait()
        peer.reset()

    async def work() -> None:
        async with fronting(script, provider=CAPPED) as (running, _):
            async with asyncio.TaskGroup() as group:
                broken = group.create_task(ask(running.port, PLAIN))
                await until(lambda: len(peers) == 1)
                waiting = group.create_task(ask(running.port, PLAIN))
                await until(lambda: len(running.tidegate.gateway) == 2)
                gate.set()
            assert error_of(broken.result())["code"] == "connect_reset"
            assert waiting.result().status == 200
            assert len(peers) == 2
            await settled(running)

    run(work)


def test_idle_connections_expire() -> None:
    async def work() -> None:
        settings = {"connections": {"idle": 0.1}}
        async with fronting(answering(answer(200, MESSAGE)), provider=settings) as (running, upstream):
            assert (await ask(running.port, PLAIN)).status == 200
            await until(lambda: pool_of(running).counts() == (0, 0))
            assert (await ask(running.port, PLAIN)).status == 200
            assert len(upstream.peers) == 2

    run(work)


def test_idle_zero_keeps_no_connection() -> None:
    async def work() -> None:
        settings = {"connections": {"idle": 0}}
        async with fronting(answering(answer(200, MESSAGE)), provider=settings) as (running, upstream):
            for _ in range(2):
                assert (await ask(running.port, PLAIN)).status == 200
                await settled(running)
                assert pool_of(running).idle == 0
            assert len(upstream.peers) == 2

    run(work)


def test_an_idle_connection_that_the_provider_closes_leaves_the_pool() -> None:
    async def work() -> None:
        async with fronting(closing(answer(200, MESSAGE))) as (running, upstream):
            for _ in range(3):
                assert (await ask(running.port, PLAIN)).status == 200
                await until(lambda: pool_of(running).counts() == (0, 0))
            assert len(upstream.peers) == 3

    run(work)


def test_a_pooled_connection_found_dead_is_replaced_once_and_nobody_notices() -> None:
    """The provider closes an idle connection just when the next request is on its way."""

    async def work() -> None:
        for breaks in (Peer.reset, lambda _: None):
            seen: list[bytes] = []

            async def script(peer: Peer, breaks: object = breaks, seen: list[bytes] = seen) -> None:
                assert callable(breaks)
                seen.append((await peer.request())[1])
                await peer.send(streamed(*HELLO))
                if len(seen) > 1:
                    return
                await peer.request()
                breaks(peer)

            async with fronting(script) as (running, upstream):
                for _ in range(2):
                    reply = await ask(running.port, chat())
                    assert (reply.status, reply.body) == (200, payload(*HELLO))
                assert [len(peer.requests) for peer in upstream.peers] == [2, 1]
                entry = await running.entry()
                assert (entry.code, entry.attempts) == ("completed", 1)
                await settled(running)

    run(work)


def test_a_kept_connection_that_breaks_long_after_it_was_asked_was_alive_and_is_not_replaced() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(streamed(*HELLO))
        await peer.request()
        await asyncio.sleep(2 * STALE_S)
        peer.reset()

    async def work() -> None:
        async with fronting(script) as (running, upstream):
            assert (await ask(running.port, chat())).status == 200
            assert error_of(await ask(running.port, chat()))["code"] == "connect_reset"
            assert [len(peer.requests) for peer in upstream.peers] == [2]
            await settled(running)

    run(work)


def test_a_replacement_is_signed_with_the_key_as_it_is_then_and_belongs_to_the_same_attempt(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-first\n", encoding="utf-8")
    sent: list[float] = []

    async def work() -> None:
        async def script(peer: Peer) -> None:
            if not running_now.entries():
                await peer.request()
                await peer.send(streamed(*HELLO))
            await peer.request()
            (outcome,) = running_now.tidegate.gateway._live
            sent.append(outcome.attempts[0].sent_at)
            if len(sent) == 1:
                key.write_text("sk-second\n", encoding="utf-8")
                peer.reset()
            else:
                await peer.send(streamed(*HELLO))

        rotated = {"api_key": "", "api_key_file": str(key)}
        async with fronting(script, provider=rotated) as (running, upstream):
            running_now = running
            assert (await ask(running.port, chat())).status == 200
            await settled(running)
            assert (await ask(running.port, chat())).status == 200
            heads = [head.lower() for peer in upstream.peers for head, _ in peer.requests]
            assert [b"bearer sk-second\r\n" in head for head in heads] == [False, False, True]
            assert sent[0] == sent[1] > 0
            await settled(running)

    run(work)


def test_the_replacement_is_not_replaced_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if len(peers) == 1:
            await peer.send(answer(200, MESSAGE))
            await peer.request()
        peer.reset()

    peers: list[Peer] = []

    async def counted(peer: Peer) -> None:
        peers.append(peer)
        await script(peer)

    async def work() -> None:
        async with fronting(counted) as (running, _):
            assert (await ask(running.port, PLAIN)).status == 200
            reply = await ask(running.port, PLAIN)
            assert (reply.status, error_of(reply)["code"]) == (502, "connect_reset")
            assert len(peers) == 2
            await settled(running)

    run(work)


def test_a_fresh_connection_that_dies_is_a_failure() -> None:
    async def work() -> None:
        async with fronting(closing()) as (running, upstream):
            reply = await ask(running.port, PLAIN)
            assert error_of(reply)["code"] == "connect_reset"
            assert len(upstream.peers) == 1

    run(work)


def test_after_the_first_byte_of_an_answer_a_request_is_not_sent_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(200, MESSAGE))
        await peer.request()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def work() -> None:
        async with fronting(script) as (running, upstream):
            assert (await ask(running.port, PLAIN)).status == 200
            reply = await ask(running.port, PLAIN)
            assert error_of(reply)["code"] == "connect_reset"
            assert len(upstream.peers) == 1

    run(work)


def test_a_replacement_takes_the_place_of_the_dead_connection() -> None:
    """Two are idle, as many as may be; the one that is taken is dead."""

    async def work() -> None:
        provider = Gated()

        async def script(peer: Peer) -> None:
            _, body = await peer.request()
            await provider.gates.setdefault(body[-3:-2], asyncio.Event()).wait()
            await peer.send(answer(200, MESSAGE))
            await peer.request()
            peer.reset()

        limits = {"connections": {"max": 2}}
        async with fronting(script, provider=limits) as (running, upstream), asyncio.TaskGroup() as group:
            tasks = [group.create_task(asks(running, name)) for name in "ab"]
            await until(lambda: len(provider.gates) == 2)
            provider.open(b"a")
            provider.open(b"b")
            assert [(await task).status for task in tasks] == [200, 200]
            await until(lambda: pool_of(running).counts() == (0, 2))
            third = group.create_task(asks(running, "c"))
            await until(lambda: len(provider.gates) == 3)
            assert pool_of(running).counts() == (1, 1)
            provider.open(b"c")
            assert (await third).status == 200
            assert len(upstream.peers) == 3
            await until(lambda: pool_of(running).counts() == (0, 2))

    run(work)


def test_a_stream_holds_its_connection_and_a_client_that_leaves_frees_it_at_once() -> None:
    async def work() -> None:
        async with fronting(stalling(chunked(ROLE, word("Hel")))) as (running, upstream):
            async with connect(running.port) as client:
                await client.send(request_bytes(chat()))
                await client.reader.readuntil(b"Hel")
                assert pool_of(running).counts() == (1, 0)
            await settled(running)
            assert pool_of(running).counts() == (0, 0)
            assert (await running.entry()).code == "client_gone"
            assert len(upstream.peers) == 1

    run(work)


def test_connections_survive_an_error_answer() -> None:
    async def work() -> None:
        async with fronting(answering(answer(400, {"error": {"message": "no"}}))) as (running, upstream):
            for _ in range(3):
                assert (await ask(running.port, PLAIN)).status == 400
            assert len(upstream.peers) == 1

    run(work)


def test_an_answer_abandoned_in_the_middle_costs_its_connection() -> None:
    async def work() -> None:
        body = chunk(ROLE) + chunk(b'data: {"error": {"message": "no"}}\n\n') + LAST
        said = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + body
        async with fronting(answering(said[: -len(LAST)])) as (running, upstream):
            for _ in range(2):
                assert error_of(await ask(running.port, chat()))["code"] == "error_frame"
                await until(lambda: pool_of(running).counts() == (0, 0))
            assert len(upstream.peers) == 2

    run(work)
