"""One attempt from its start to the end of its stream."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final

from tidegate.dispatch.fleet import TargetState
from tidegate.dispatch.service import Service
from tidegate.exchange import Admitted, Attempt, AttemptRecord, Stream, Target
from tidegate.kernel.backoff import read_retry_after
from tidegate.verdict import BUG, CANCELLED, UPSTREAM_RATE_LIMITED, AttemptFailed, Fault, Verdict

LONGEST_COOLING_S: Final = 600.0
"""What a provider's Retry-After is believed at most."""


def asked_wait_s(failed: AttemptFailed, wall: float) -> float:
    """Give the seconds that a failure's Retry-After asks for; 0.0 where it has none."""
    for name, value in failed.headers:
        if name == b"retry-after":
            return read_retry_after(value, wall) or 0.0
    return 0.0


def _verdict_of(error: BaseException) -> Verdict:
    if isinstance(error, Fault):
        return error.verdict
    return CANCELLED if isinstance(error, asyncio.CancelledError) else BUG


class Trial:
    """One attempt at one target. Holds: a place among what the target has in flight, from `open` to `close`."""

    __slots__ = ("_admitted", "_clock", "_context", "_state", "_wall", "record", "target")

    def __init__(
        self,
        inner: Service[Attempt],
        admitted: Admitted,
        target: Target,
        state: TargetState,
        clocks: tuple[Callable[[], float], Callable[[], float]],
        *,
        again: bool = False,
        hedge: bool = False,
    ) -> None:
        self.target = target
        self._clock, self._wall = clocks
        self.record = AttemptRecord(provider=target.provider, model=target.model, started_at=self._clock(), hedge=hedge)
        self._admitted = admitted
        self._state = state
        admitted.arrival.outcome.attempts.append(self.record)
        self._context = inner.open(Attempt(admitted=admitted, target=target, record=self.record, again=again))

    async def open(self) -> Stream:
        """Give the stream. Errors: AttemptFailed; what it took is given back by then."""
        state, record = self._state, self.record
        state.in_flight += 1
        try:
            stream = await self._context.__aenter__()
        except BaseException as error:
            state.in_flight -= 1
            record.ended_at = self._clock()
            if isinstance(error, AttemptFailed):
                self._learn(error)
            if record.verdict is None:
                record.verdict = _verdict_of(error)
            raise
        if state.compared:
            state.took(record.content_at - record.sent_at, record.content_at)
        return stream

    def _learn(self, failed: AttemptFailed) -> None:
        """Keep what a failure says about the target."""
        now, record = self._clock(), self.record
        if failed.verdict is UPSTREAM_RATE_LIMITED:
            self._state.of(self.target).cool(now + min(asked_wait_s(failed, self._wall()), LONGEST_COOLING_S))
        elif failed.verdict.trips:
            self._state.failed(now - (record.sent_at or record.started_at + record.queued_s), now)

    def lose(self) -> None:
        """Have lost a race; the target takes longer than it has taken so far."""
        now, record = self._clock(), self.record
        if record.verdict is not None:
            return
        record.verdict = CANCELLED
        if record.sent_at:
            self._state.took(now - record.sent_at, now)

    async def close(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """End the attempt with the exchange's ending, unless it has a verdict of its own."""
        record, ending = self.record, self._admitted.arrival.outcome.ending
        if record.verdict is None and ending is not None:
            record.verdict = ending.verdict
        elif record.verdict is None and error is not None:
            record.verdict = _verdict_of(error)
        try:
            await self._context.__aexit__(kind, error, trace)
        finally:
            self.record.ended_at = self._clock()
            self._state.in_flight -= 1
