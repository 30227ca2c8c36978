"""How long each phase of an attempt may take, over real sockets; and whose cancellation is whose."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec import Struct, structs

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
from tidegate.exchange import Attempt, Stream, Timeouts
from tidegate.testing.clock import VirtualLoop, run_virtual
from tidegate.testing.memory import MemorySource, open_stream
from tidegate.testing.services import attempt_at
from tidegate.testing.upstream import HEAD, Peer, chunk
from tidegate.verdict import (
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    DEADLINE_EXCEEDED,
    FIRST_TOKEN_TIMEOUT,
    HEADERS_TIMEOUT,
    TLS_TIMEOUT,
    TOTAL_TIMEOUT,
    AttemptFailed,
    Verdict,
)

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


class Step(Struct, frozen=True):
    """What an opening has come to after some more seconds."""

    seconds: float
    reaches: str = ""


class Phases:
    """A service that goes through an opening step by step. Shape: `left` counts those that were broken off."""

    def __init__(self, *steps: Step) -> None:
        self.left = 0
        self._steps = steps

    @asynccontextmanager
    async def open(self, ask: Attempt, /) -> AsyncIterator[Stream]:
        clock = asyncio.get_running_loop().time
        try:
            for step in self._steps:
                await asyncio.sleep(step.seconds)
                if step.reaches == "securing":
                    ask.record.securing = True
                elif step.reaches:
                    setattr(ask.record, step.reaches, clock())
        except asyncio.CancelledError:
            self.left += 1
            raise
        stream = open_stream(MemorySource(), clock())
        stream.attempt = ask
        yield stream


FOREVER = Step(1e6)
CONNECTED, SECURING, SENT, HEADED = (Step(1.0, name) for name in ("connected_at", "securing", "sent_at", "headed_at"))
OFF = Timeouts(connect_s=0, headers_s=0, first_token_s=0, idle_s=0, total_s=0, response_s=0)


def limits(**seconds: float) -> Timeouts:
    return structs.replace(OFF, **{f"{name}_s": value for name, value in seconds.items()})


def attempt(timeouts: Timeouts, *, stream: bool = True, deadline_s: float = 0.0) -> Attempt:
    now = asyncio.get_running_loop().time()
    ask = attempt_at(now, timeouts)
    asked = structs.replace(ask.admitted.ask, stream=stream)
    admitted = structs.replace(ask.admitted, ask=asked, deadline=now + deadline_s if deadline_s else 0.0)
    return structs.replace(ask, admitted=admitted)


async def opens(inner: Phases, ask: Attempt) -> float:
    """Open a stream and leave it; gives the seconds until it was open."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with deadlines(loop.time)(inner).open(ask):
        return loop.time() - began


ALL = limits(connect=5, headers=10, first_token=30, total=60)


@pytest.mark.parametrize(
    ("steps", "timeouts", "verdict", "after_s"),
    [
        ((FOREVER,), ALL, CONNECT_TIMEOUT, 5),
        ((SECURING, FOREVER), ALL, TLS_TIMEOUT, 5),
        ((CONNECTED, SENT, FOREVER), ALL, HEADERS_TIMEOUT, 12),
        ((SENT, HEADED, FOREVER), ALL, FIRST_TOKEN_TIMEOUT, 31),
        ((SENT, HEADED, FOREVER), limits(connect=5, headers=10, total=60), TOTAL_TIMEOUT, 61),
        ((SENT, FOREVER), limits(connect=5, headers=90, first_token=80, total=70), TOTAL_TIMEOUT, 71),
        ((SENT, FOREVER), limits(connect=5, headers=90, first_token=80), FIRST_TOKEN_TIMEOUT, 81),
        ((Step(100.0, "sent_at"), FOREVER), limits(headers=3), HEADERS_TIMEOUT, 103),
        ((Step(100.0, "sent_at"), HEADED, FOREVER), limits(headers=3, first_token=20), FIRST_TOKEN_TIMEOUT, 120),
        ((SECURING, FOREVER), limits(connect=5, first_token=2), TLS_TIMEOUT, 5),
    ],
    ids=["connect", "tls", "headers", "first token", "total", "total is shortest", "no total", "connecting is not limited",
         "connecting is not limited and the head came", "later limits are shorter"],
)  # fmt: skip
def test_each_phase_has_its_own_limit_and_its_own_word(
    steps: tuple[Step, ...], timeouts: Timeouts, verdict: Verdict, after_s: float
) -> None:
    async def work() -> None:
        inner, began = Phases(*steps), asyncio.get_running_loop().time()
        with pytest.raises(AttemptFailed) as caught:
            await opens(inner, attempt(timeouts))
        assert (caught.value.verdict, caught.value.status) == (verdict, 504)
        assert asyncio.get_running_loop().time() - began == pytest.approx(after_s, abs=0.001)
        assert inner.left == 1

    run_virtual(work)


def test_an_answer_that_is_no_stream_has_one_limit_once_it_is_asked_for() -> None:
    async def work() -> None:
        timeouts = structs.replace(ALL, response_s=200.0)
        for steps, verdict, after_s in (
            ((FOREVER,), CONNECT_TIMEOUT, 5),
            ((SENT, FOREVER), TOTAL_TIMEOUT, 201),
            ((SENT, HEADED, FOREVER), TOTAL_TIMEOUT, 201),
        ):
            began = asyncio.get_running_loop().time()
            with pytest.raises(AttemptFailed) as caught:
                await opens(Phases(*steps), attempt(timeouts, stream=False))
            assert caught.value.verdict is verdict
            assert asyncio.get_running_loop().time() - began == pytest.approx(after_s, abs=0.001)

    run_virtual(work)


@pytest.mark.parametrize("timeouts", [OFF, ALL], ids=["alone", "beside others"])
@pytest.mark.parametrize(
    "steps", [(FOREVER,), (SENT, FOREVER), (SENT, HEADED, FOREVER)], ids=["connecting", "sent", "headed"]
)
def test_the_exchange_s_own_deadline_counts_in_every_phase(steps: tuple[Step, ...], timeouts: Timeouts) -> None:
    async def work() -> None:
        began = asyncio.get_running_loop().time()
        with pytest.raises(AttemptFailed) as caught:
            await opens(Phases(*steps), attempt(timeouts, deadline_s=4.0))
        assert (caught.value.verdict, caught.value.status) == (DEADLINE_EXCEEDED, 504)
        assert asyncio.get_running_loop().time() - began == pytest.approx(4.0, abs=0.001)

    run_virtual(work)


def test_a_deadline_that_has_passed_ends_an_attempt_before_it_is_far() -> None:
    async def work() -> None:
        with pytest.raises(AttemptFailed) as caught:
            await opens(Phases(FOREVER), attempt(ALL, deadline_s=-1.0))
        assert caught.value.verdict is DEADLINE_EXCEEDED

    run_virtual(work)


@pytest.mark.parametrize("timeouts", [OFF, ALL], ids=["off", "on"])
def test_what_opens_in_time_stays_open_whatever_the_limits_were(timeouts: Timeouts) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        inner = Phases(Step(4.0, "sent_at"), Step(9.0, "headed_at"), Step(20.0))
        async with deadlines(loop.time)(inner).open(attempt(timeouts)):
            await asyncio.sleep(10_000.0)
        assert inner.left == 0

    run_virtual(work)


def test_without_limits_there_is_no_timer() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        task = loop.create_task(opens(Phases(FOREVER), attempt(OFF)))
        await asyncio.sleep(0)
        assert len(loop.timers()) == 1, "that of the service itself"
        task.cancel()
        await asyncio.wait((task,))

    run_virtual(work)


def test_an_error_of_the_opening_itself_comes_out_as_it_is() -> None:
    class Refusing(Phases):
        @asynccontextmanager
        async def open(self, ask: Attempt, /) -> AsyncIterator[Stream]:
            await asyncio.sleep(1.0)
            raise AttemptFailed(CONNECT_REFUSED, "closed")
            yield

    async def work() -> None:
        with pytest.raises(AttemptFailed, match="closed"):
            await opens(Refusing(), attempt(ALL))

    run_virtual(work)


def test_only_the_layer_s_own_cancellation_becomes_a_fault() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        inner, patient = Phases(FOREVER), limits(connect=30)
        with pytest.raises(AttemptFailed) as caught:
            await opens(inner, attempt(limits(connect=2)))
        assert caught.value.verdict is CONNECT_TIMEOUT
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

        foreign = loop.create_task(opens(inner, attempt(patient)))
        await asyncio.sleep(1.0)
        foreign.cancel()
        with pytest.raises(asyncio.CancelledError):
            await foreign

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                await opens(inner, attempt(patient))
        assert inner.left == 3

    run_virtual(work)


def test_a_foreign_cancellation_in_the_same_instant_goes_on() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(opens(Phases(FOREVER), attempt(limits(connect=2))))
        await asyncio.sleep(0)
        loop.call_at(loop.time() + 2.0, task.cancel)
        await asyncio.wait((task,))
        assert task.cancelled()

    run_virtual(work)
