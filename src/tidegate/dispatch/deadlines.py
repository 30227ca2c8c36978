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
    FIRST_TOKEN_TIMEOUT,
    HEADERS_TIMEOUT,
    TOTAL_TIMEOUT,
    AttemptFailed,
    Verdict,
)


def deadlines(clock: Callable[[], float]) -> Layer:
    """Give the layer that fails an attempt whose current phase takes too long."""

    def layer(inner: Service[Attempt]) -> Service[Attempt]:
        return _Deadlines(inner, clock)

    return layer


class _Deadlines:
    __slots__ = ("_clock", "_inner")

    def __init__(self, inner: Service[Attempt], clock: Callable[[], float]) -> None:
        self._inner = inner
        self._clock = clock

    def open(self, ask: Attempt, /) -> "_Opening":
        return _Opening(self._inner.open(ask), ask, self._clock)


class _Opening:
    """Holds: one timer while the stream opens, re-armed only when it fires in a later phase; none after that."""

    __slots__ = ("_attempt", "_cancelling", "_clock", "_context", "_expired", "_task", "_timer")

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

    async def __aenter__(self) -> Stream:
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
        streams = self._attempt.admitted.ask.stream
        later = (limits.headers_s, limits.first_token_s, limits.total_s) if streams else (limits.response_s,)
        phases = (limits.connect_s, *later)
        return min((seconds for seconds in phases if seconds), default=0.0)

    def _phase(self) -> tuple[float, float, Verdict]:
        """Give the current phase: when it began, its seconds (0 is off), and what being late means."""
        record, limits = self._attempt.record, self._attempt.target.timeouts
        if not record.sent_at:
            return record.started_at, limits.connect_s, CONNECT_TIMEOUT
        if not self._attempt.admitted.ask.stream:
            return record.sent_at, limits.response_s, TOTAL_TIMEOUT
        late = [(limits.first_token_s, FIRST_TOKEN_TIMEOUT), (limits.total_s, TOTAL_TIMEOUT)]
        if not record.headed_at:
            late.insert(0, (limits.headers_s, HEADERS_TIMEOUT))
        on = [limit for limit in late if limit[0]]
        seconds, verdict = min(on, key=itemgetter(0)) if on else (0.0, TOTAL_TIMEOUT)
        return record.sent_at, seconds, verdict

    def _arm(self, seconds: float) -> None:
        if seconds:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._fire)

    def _fire(self) -> None:
        began, seconds, verdict = self._phase()
        left = began + seconds - self._clock()
        if not seconds:
            # This phase has no limit, but a later one may: look again after the shortest.
            self._arm(self._shortest())
        elif left > 0.0005:  # timers of the loop are as fine as a millisecond
            self._arm(min(left, self._shortest()))
        elif self._task is not None:
            self._expired = verdict
            self._task.cancel()
