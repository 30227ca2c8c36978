"""One exchange, its attempt, and what both know of each other at the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from harness import run
from tidegate.dispatch.turn import directing
from tidegate.exchange import (
    Admitted,
    Arrival,
    Ask,
    Attempt,
    Ending,
    Identity,
    Model,
    Outcome,
    ReplyHead,
    Sink,
    Stream,
    Target,
)
from tidegate.verdict import COMPLETED, DNS_FAILED, AttemptFailed


class NoBody:
    async def read(self, within_s: float = 0.0) -> bytes:
        return b""


class NoSource:
    def attach(self, sink: Sink, /) -> None: ...
    def divert(self, plain: object, /) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def abort(self) -> None: ...


class Once:
    """A service that opens, or fails as it is told to."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.seen: list[Attempt] = []
        self.body = b""
        self.open_now = 0

    @asynccontextmanager
    async def open(self, ask: Attempt, /) -> AsyncIterator[Stream]:
        self.seen.append(ask)
        self.body = ask.admitted.ask.body
        if self.fault is not None:
            raise self.fault
        self.open_now += 1
        try:
            yield Stream(
                attempt=ask,
                source=NoSource(),
                head=ReplyHead(200, ()),
                events=True,
                whole=False,
                strips_usage=False,
                changed=False,
                redact=str,
            )
        finally:
            self.open_now -= 1


def admitted() -> Admitted:
    targets = (Target("main", "upstream-model"), Target("other", "never"))
    arrival = Arrival("r", 1, "chat", {}, "", NoBody(), Outcome(0.0))
    asked = Ask("mock", stream=True, wants_usage=False, body=b"prompt")
    return Admitted(arrival, Identity(), asked, Model("mock", targets))


def test_an_attempt_is_recorded_before_it_begins_and_gets_the_exchange_s_ending() -> None:
    async def work() -> None:
        inner, ask = Once(), admitted()
        outcome = ask.arrival.outcome
        async with directing(lambda: 5.0)(inner).open(ask) as stream:
            assert inner.open_now == 1
            (record,) = outcome.attempts
            assert (record.provider, record.model, record.started_at) == ("main", "upstream-model", 5.0)
            assert stream.attempt.record is record
            assert record.verdict is None
            outcome.end(Ending(COMPLETED), 6.0)
        assert record.verdict is COMPLETED
        assert inner.open_now == 0

    run(work)


def test_the_prompt_is_there_for_the_attempt_and_let_go_once_the_stream_is_open() -> None:
    async def work() -> None:
        inner, ask = Once(), admitted()
        async with directing(lambda: 0.0)(inner).open(ask):
            assert inner.body == b"prompt"
            assert ask.ask.body == b""

    run(work)


def test_a_failed_attempt_keeps_its_own_verdict_and_leaves_the_prompt() -> None:
    async def work() -> None:
        inner, ask = Once(AttemptFailed(DNS_FAILED)), admitted()
        with pytest.raises(AttemptFailed):
            async with directing(lambda: 0.0)(inner).open(ask):
                pass
        (record,) = ask.arrival.outcome.attempts
        assert record.verdict is DNS_FAILED
        assert ask.ask.body == b"prompt"

    run(work)


def test_what_is_raised_in_an_open_stream_passes_through_and_closes_it() -> None:
    async def work() -> None:
        for error in (RuntimeError("bug"), asyncio.CancelledError()):
            inner, ask = Once(), admitted()
            with pytest.raises(type(error)):
                async with directing(lambda: 0.0)(inner).open(ask):
                    raise error
            assert inner.open_now == 0

    run(work)
