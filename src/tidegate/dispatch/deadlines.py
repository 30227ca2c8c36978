"""Opening deadlines: each phase of an attempt has its own. They end when the stream is open."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from operator import itemgetter
from types import TracebackType

from tidegate.dispatch.service import Layer, Service
from tidegate.exchange import Attempt, Stream
from tidegate.verdict import (
    CONNECT_TIMEOUT,
    DEADLINE_EXCEEDED,
    FIRST_TOKEN_TIMEOUT,
    HEADERS_TIMEOUT,
    TLS_TIMEOUT,
    TOTAL_TIMEOUT,
    AttemptFailed,
    Verdict,
)


def deadlines(clock: Callable[[], float]) -> Layer:
    """Give the layer that fails an attempt whose current phase takes too long."""

    def layer(inner: Service[Attempt]) -> Service[Attempt]:
        return _Deadlines(inner, clock)

    return layer


def _after(began: float, seconds: float, verdict: Verdict) -> tuple[float, Verdict]:
    """Give when a limit is reached; 0.0 for one that is off."""
    return (began + seconds if seconds else 0.0), verdict


class _Deadlines:
    __slots__ = ("_clock", "_inner")

    def __init__(self, inner: Service[Attempt], clock: Callable[[], float]) -> None:
        self._inner = inner
        self._clock = clock

    def open(self, ask: Attempt, /) -> "_Opening":
        return _Opening(self._inner.open(ask), ask, self._clock)


class _Opening:
    """Holds: one timer while the stream opens, re-armed only when it fires in a later phase; none after that."""

    __slots__ = ("_attempt", "_began", "_cancelling", "_clock", "_context", "_expired", "_task", "_timer")

    def __init__(
        self, context: AbstractAsyncContextManager[Stream], attempt: Attempt, clock: Callable[[], float]
    ) -> None:
        self._context = context
        self._attempt = attempt
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._expired: Verdict | None = None
        self._began = 0.0

    async def __aenter__(self) -> Stream:
        self._began = self._clock()
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task is not None else 0
        self._arm(self._shortest())
        try:
            return await self._context.__aenter__()
        except asyncio.CancelledError:
            # Only our own cancellation is ours to convert: somebody else's goes on.
            if self._expired is None or self._task is None or self._task.uncancel() > self._cancelling:
                raise
            raise AttemptFailed(self._expired, status=504) from None
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._task = self._timer = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._context.__aexit__(kind, error, trace)

    def _shortest(self) -> float:
        """Give the least seconds after which any phase can be late; 0.0 when all are off."""
        limits = self._attempt.target.timeouts
        admitted = self._attempt.admitted
        if admitted.ask.stream:
            phases: tuple[float, ...] = (limits.connect_s, limits.headers_s, limits.first_token_s, limits.total_s)
        else:
            phases = (limits.connect_s, limits.response_s)
        shortest = min(filter(None, phases), default=0.0)
        if admitted.deadline:
            left = max(admitted.deadline - self._clock(), 0.0005)
            return min(shortest, left) if shortest else left
        return shortest

    def _due(self) -> tuple[float, Verdict]:
        """Give the instant at which the attempt is late as things are, 0.0 for never, and what that means."""
        record, limits = self._attempt.record, self._attempt.target.timeouts
        admitted = self._attempt.admitted
        late = [(admitted.deadline, DEADLINE_EXCEEDED)]
        if not record.sent_at:
            late.append(_after(self._began, limits.connect_s, TLS_TIMEOUT if record.securing else CONNECT_TIMEOUT))
        elif not admitted.ask.stream:
            late.append(_after(record.sent_at, limits.response_s, TOTAL_TIMEOUT))
        else:
            late.append(_after(record.sent_at, limits.first_token_s, FIRST_TOKEN_TIMEOUT))
            late.append(_after(record.sent_at, limits.total_s, TOTAL_TIMEOUT))
            if not record.headed_at:
                late.append(_after(record.sent_at, limits.headers_s, HEADERS_TIMEOUT))
        return min((limit for limit in late if limit[0]), key=itemgetter(0), default=(0.0, TOTAL_TIMEOUT))

    def _arm(self, seconds: float) -> None:
        if seconds:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._fire)

    def _fire(self) -> None:
        due, verdict = self._due()
        left = due - self._clock()
        if not due:
            # This phase has no limit, but a later one may: look again after the shortest.
            self._arm(self._shortest())
        elif left > 0.0005:  # timers of the loop are as fine as a millisecond
            self._arm(min(left, self._shortest()))
        elif self._task is not None:
            self._expired = verdict
            self._task.cancel()
