"""How long each phase of an attempt may take, over real sockets; and whose cancellation is whose."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from harness import ask, chat, connect, request_bytes, run, until
from streams import (
    HELLO,
    MESSAGE,
    ROLE,
    Script,
    answer,
    check_broken_off,
    chunked,
    delta,
    error_of,
    fronting,
    payload,
    settled,
    stalling,
    streamed,
    word,
)
from tidegate.dispatch.deadlines import deadlines
from tidegate.exchange import (
    Admitted,
    Arrival,
    Ask,
    Attempt,
    AttemptRecord,
    Identity,
    Model,
    Outcome,
    Stream,
    Target,
    Timeouts,
)
from tidegate.testing.upstream import HEAD, Peer, chunk
from tidegate.verdict import AttemptFailed

ROLES = chunked(b": ping\n\n", ROLE, delta({}), delta({"content": ""}))


async def drips_comments(peer: Peer) -> None:
    """Say over and over what is no content."""
    await peer.request()
    await peer.send(HEAD)
    while True:
        await peer.send(chunk(b": thinking\n\n"))
        await asyncio.sleep(0.02)


def slow(said: bytes, *, every_s: float, size: int) -> Script:
    """Give a script that says something slowly."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for start in range(0, len(said), size):
            await peer.send(said[start : start + size])
            await asyncio.sleep(every_s)

    return script


@pytest.mark.parametrize(
    ("script", "limits", "code"),
    [
        (stalling(), {"headers": 0.1}, "headers_timeout"),
        (stalling(b"HTTP/1.1 200 OK\r\ncontent-"), {"headers": 0.1}, "headers_timeout"),
        (stalling(b"HTTP/1.1 100 Continue\r\n\r\n"), {"headers": 0.1}, "headers_timeout"),
        (stalling(), {"headers": 5, "first_token": 0.1}, "first_token_timeout"),
        (stalling(), {"headers": 0, "first_token": 0.1}, "first_token_timeout"),
        (stalling(HEAD), {"headers": 0.05, "first_token": 0.2}, "first_token_timeout"),
        (stalling(), {"headers": 0, "first_token": 0, "total": 0.1}, "total_timeout"),
        (stalling(HEAD), {"headers": 0.05, "first_token": 5, "total": 0.2}, "total_timeout"),
        (stalling(ROLES), {"first_token": 0.1}, "first_token_timeout"),
        (drips_comments, {"first_token": 0.1}, "first_token_timeout"),
        (stalling(HEAD, chunk(b'data: {"choices"')), {"first_token": 0.1}, "first_token_timeout"),
        (stalling(HEAD), {"connect": 0.05, "headers": 0.05, "first_token": 0.2}, "first_token_timeout"),
    ],
    ids=[
        "no head", "half a head", "interim alone", "first token is shorter", "headers are off", "head alone", "total alone", "total is shortest",
        "role and comments", "comments", "half a frame", "all phases",
    ],
)  # fmt: skip
def test_a_stream_that_does_not_begin_in_time_is_a_504(script: Script, limits: dict[str, float], code: str) -> None:
    async def work() -> None:
        async with fronting(script, provider={"timeouts": limits}) as (running, _):
            reply = await ask(running.port, chat())
            assert (reply.status, error_of(reply)["code"]) == (504, code)
            entry = await running.entry()
            assert (entry.code, entry.status) == (code, 504)
            await settled(running)

    run(work)


def test_what_begins_in_time_is_not_cut_by_the_deadlines_of_its_beginning() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(ROLE, word("Hel")))
        await asyncio.sleep(0.5)
        await peer.send(streamed(*HELLO[2:], head=b""))

    async def work() -> None:
        limits = {"connect": 0.3, "headers": 0.3, "first_token": 0.3}
        async with fronting(script, provider={"timeouts": limits}) as (running, _):
            assert (await ask(running.port, chat())).body == payload(*HELLO)

    run(work)


def test_a_plain_answer_has_one_deadline_and_no_other() -> None:
    said = answer(200, MESSAGE)

    async def work() -> None:
        other = {"headers": 0.05, "first_token": 0.05, "idle": 0.05, "total": 0.05}
        patient = slow(said, every_s=0.05, size=len(said) // 5)
        async with fronting(patient, provider={"timeouts": {**other, "response": 20}}) as (running, _):
            reply = await ask(running.port, chat(stream=False))
            assert (reply.status, reply.json()) == (200, MESSAGE)
        for script in (stalling(), stalling(said[:-10]), patient):
            async with fronting(script, provider={"timeouts": {"response": 0.15}}) as (running, _):
                reply = await ask(running.port, chat(stream=False))
                assert (reply.status, error_of(reply)["code"]) == (504, "total_timeout")
                await settled(running)

    run(work)


def test_a_plain_answer_too_large_to_hold_is_cut_by_the_same_deadline() -> None:
    async def work() -> None:
        said = answer(200, {**MESSAGE, "pad": "x" * 600_000})
        async with fronting(stalling(said[:-10]), provider={"timeouts": {"response": 0.3}}) as (running, _):
            reply = await ask(running.port, chat(stream=False))
            assert (reply.status, reply.complete) == (200, False)
            assert (await running.entry()).code == "total_timeout"
            await settled(running)

    run(work)


def test_deadlines_that_are_off_never_end_anything() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.2)
        await peer.send(streamed(*HELLO))

    async def work() -> None:
        off = dict.fromkeys(("connect", "headers", "first_token", "idle", "total", "response"), 0)
        async with fronting(script, provider={"timeouts": off}) as (running, _):
            assert (await ask(running.port, chat())).body == payload(*HELLO)

    run(work)


def test_a_total_timeout_counts_from_the_request_also_while_opening() -> None:
    async def work() -> None:
        async with fronting(stalling(chunked(ROLE, word("Hel"))), provider={"timeouts": {"total": 0.2, "idle": 0}}) as (
            running,
            _,
        ):
            check_broken_off(await ask(running.port, chat()), "total_timeout", ROLE, word("Hel"))

    run(work)


def test_a_client_that_leaves_while_a_stream_opens_is_client_gone_and_not_late() -> None:
    async def work() -> None:
        async with fronting(stalling(), provider={"timeouts": {"headers": 30}}) as (running, upstream):
            async with connect(running.port) as client:
                await client.send(request_bytes(chat()))
                await until(lambda: bool(upstream.peers) and bool(upstream.peers[0].requests))
            entry = await running.entry()
            assert (entry.code, entry.status) == ("client_gone", 499)
            await settled(running)

    run(work)


# --- the layer alone -------------------------------------------------------------------------------------------------


class Never:
    """A service that never opens."""

    def __init__(self) -> None:
        self.left = 0

    @asynccontextmanager
    async def open(self, ask: Attempt, /) -> AsyncIterator[Stream]:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.left += 1
        raise AssertionError
        yield


class NoBody:
    async def read(self, within_s: float = 0.0) -> bytes:
        return b""


def attempt(timeouts: Timeouts) -> Attempt:
    now = asyncio.get_running_loop().time()
    target = Target("main", "mock", timeouts)
    arrival = Arrival("r", 1, "chat", {}, "", NoBody(), Outcome(now))
    admitted = Admitted(
        arrival, Identity(), Ask("mock", stream=True, wants_usage=False, body=b""), Model("mock", (target,))
    )
    return Attempt(admitted, target, AttemptRecord("main", "mock", now))


def test_only_the_layer_s_own_cancellation_becomes_a_fault() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        inner = Never()
        service = deadlines(loop.time)(inner)

        async def opens(timeouts: Timeouts) -> None:
            async with service.open(attempt(timeouts)):
                pass

        with pytest.raises(AttemptFailed) as caught:
            await opens(Timeouts(connect_s=0.02))
        assert caught.value.verdict.code == "connect_timeout"
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

        foreign = loop.create_task(opens(Timeouts(connect_s=30)))
        await asyncio.sleep(0.01)
        foreign.cancel()
        with pytest.raises(asyncio.CancelledError):
            await foreign

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await opens(Timeouts(connect_s=30))
        assert inner.left == 3

    run(work)
