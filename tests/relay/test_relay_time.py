"""When a stream is cut: by its own deadlines, by clients that leave or take nothing; and what is counted meanwhile."""

import asyncio
import functools
from typing import cast

from harness import Reply, Running, ask, chat, connect, request_bytes, run, until
from streams import (
    DONE,
    FINISH,
    HELLO,
    ROLE,
    Steps,
    check_broken_off,
    chunked,
    fronting,
    payload,
    pool_of,
    settled,
    stalling,
    word,
)
from tidegate.testing.upstream import HEAD, LAST, Peer, chunk


def test_silence_in_mid_stream_is_idle_timeout_and_comments_do_not_count() -> None:
    async def comments(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(word("Hel")))
        while True:
            await peer.send(chunk(b": still here\n\n"))
            await asyncio.sleep(0.02)

    async def work() -> None:
        for script in (stalling(chunked(word("Hel"))), comments):
            async with fronting(script, provider={"timeouts": {"idle": 0.2}}) as (running, _):
                reply = await ask(running.port, chat())
                said = reply.body.replace(b": still here\n\n", b"")
                check_broken_off(Reply(200, {}, said, complete=reply.complete), "idle_timeout", word("Hel"))
                assert (await running.entry()).code == "idle_timeout"

    run(work)


def test_frames_keep_a_stream_alive_that_lasts_longer_than_idle() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        for _ in range(12):
            await peer.send(chunk(word("a")))
            await asyncio.sleep(0.05)
        await peer.send(chunk(FINISH), chunk(DONE), LAST)

    async def work() -> None:
        async with fronting(script, provider={"timeouts": {"idle": 0.3}}) as (running, _):
            reply = await ask(running.port, chat())
            assert reply.body == payload(*[word("a")] * 12, FINISH, DONE)

    run(work)


def test_a_stream_that_never_ends_is_total_timeout() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        while True:
            await peer.send(chunk(word("a")))
            await asyncio.sleep(0.02)

    async def work() -> None:
        async with fronting(script, provider={"timeouts": {"total": 0.3}}) as (running, _):
            reply = await ask(running.port, chat())
            assert reply.complete
            assert reply.body.count(b'"total_timeout"') == 1
            assert b"[DONE]" not in reply.body
            assert (await running.entry()).code == "total_timeout"

    run(work)


def test_silence_is_noticed_soon_after_a_slow_client_caught_up() -> None:
    """While a client is held back the provider's silence is our doing; afterwards it counts again."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        for _ in range(400):
            await peer.send(chunk(word("x" * 50_000)))
        sent.set()
        await peer.wait_closed_by_peer()

    async def work() -> None:
        limits = {"timeouts": {"idle": 0.3, "total": 0}}
        slow = {"slow_client_timeout": 60}
        async with fronting(script, provider=limits, server=slow) as (running, _), connect(running.port) as client:
            transport = cast("asyncio.ReadTransport", client.writer.transport)  # uvloop's do not inherit it
            await client.send(request_bytes(chat()))
            await client.reader.readuntil(b"x" * 1000)
            transport.pause_reading()
            await asyncio.sleep(0.6)
            assert len(running.tidegate.gateway) == 1, "no idle timeout while the client takes nothing"
            assert not sent.is_set()
            transport.resume_reading()
            async with asyncio.timeout(10):
                assert b'"idle_timeout"' in await client.reader.readuntil(b"\r\n0\r\n\r\n")

    sent = asyncio.Event()
    run(work)


async def lent(running: Running) -> None:
    """Wait until the provider has had time to say what it says."""
    await until(lambda: pool_of(running).in_use == 1)
    await asyncio.sleep(0.05)


# --- clients that leave ----------------------------------------------------------------------------------------------


def test_a_client_that_leaves_ends_the_provider_s_work_at_once() -> None:
    async def work() -> None:
        gone = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(begun)
            await peer.wait_closed_by_peer()
            gone.set()

        for begun in (b"", chunked(ROLE), chunked(ROLE, word("Hel"))):
            gone.clear()
            async with fronting(script) as (running, _):
                async with connect(running.port) as client:
                    await client.send(request_bytes(chat()))
                    await lent(running)
                async with asyncio.timeout(5):
                    await gone.wait()
                entry = await running.entry()
                assert (entry.code, entry.status) == ("client_gone", 200 if b"Hel" in begun else 499)
                assert entry.usage.estimated == (b"Hel" in begun)
                await settled(running)

    run(work)


def test_under_finish_a_stream_goes_on_without_its_client() -> None:
    async def work() -> None:
        steps = Steps(chunked(ROLE, word("Hel")), chunked(*HELLO[2:], head=b"") + LAST)
        async with fronting(steps, server={"on_client_disconnect": "finish"}) as (running, _):
            async with connect(running.port) as client:
                await client.send(request_bytes(chat()))
                await client.reader.readuntil(b'"Hel"}')
            await until(lambda: running.tidegate.rules.finishing == 1)
            steps.go_on()
            entry = await running.entry()
            assert (entry.code, entry.finish_reason) == ("client_gone", "stop")
            await settled(running)

    run(work)


def test_a_client_that_takes_nothing_is_cut() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        while True:
            await peer.send(chunk(word("x" * 50_000)))

    async def work() -> None:
        slow = {"slow_client_timeout": 0.3}
        async with fronting(script, server=slow) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(chat()))
            await client.reader.readuntil(b"\r\n\r\n")
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            entry = await running.entry()
            assert entry.code == "client_slow"
            assert entry.blocked_s > 0
            await settled(running)

    run(work)


def test_started_is_finished_and_in_flight_at_every_moment() -> None:
    async def work() -> None:
        steps = Steps(chunked(*HELLO[:2]), chunked(*HELLO[2:], head=b"") + LAST)
        async with fronting(steps) as (running, _), connect(running.port) as client:

            def counted() -> tuple[float, float, float]:
                families = {family.name: family.samples for family in running.tidegate.metrics.families()}
                total = functools.partial(sum)
                return (
                    families["tidegate_exchanges_started"][0].value,
                    total(sample.value for sample in families["tidegate_requests"]),
                    families["tidegate_exchanges_in_flight"][0].value,
                )

            assert counted() == (0, 0, 0)
            await client.send(request_bytes(chat()))
            await client.reader.readuntil(b'"Hel"}')
            assert counted() == (1, 0, 1)
            assert (await ask(running.port, chat("unknown"))).status == 404
            assert counted() == (2, 1, 1)
            steps.go_on()
            await client.reader.readuntil(b"\r\n0\r\n\r\n")
            await settled(running, connections=1)
            assert counted() == (2, 2, 0)

    run(work)
