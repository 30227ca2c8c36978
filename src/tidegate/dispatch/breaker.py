"""Leaves a target alone that failed too often, and tries it again carefully.

Plain objects, the instant is handed in; and the layer that asks them before each attempt.

    CLOSED --failures in a row, or their ratio--> OPEN --time--> HALF_OPEN --successes--> CLOSED
                                                   ^                 |
                                                   +----a failure----+   each time OPEN lasts longer
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import IntEnum
from random import Random
from types import TracebackType
from typing import Final

from msgspec import Struct

from tidegate.dispatch.service import Layer, Service
from tidegate.dispatch.settings import BreakerSettings
from tidegate.exchange import Attempt, Stream, Target
from tidegate.kernel.backoff import retry_after
from tidegate.verdict import BREAKER_OPEN, COMPLETED, AttemptFailed, Verdict

GROWTH: Final = 2.0
LONGEST_S: Final = 300.0
"""How long a breaker stays open at most, unless `open_for` itself is longer."""
SLICES: Final = 12
"""The window forgets in so many steps."""


class BreakerState(IntEnum):
    """Values of `tidegate_breaker_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Permit(Struct):
    """Leave to call a target. Holds: a probe's place, until it is known how the opening went."""

    epoch: int
    probe: bool = False


class _Window:
    """Calls and failures of the last seconds, in slices. Shape: `[number of the slice, calls, failures]` each."""

    __slots__ = ("_slice_s", "_slices")

    def __init__(self, window_s: float) -> None:
        self._slice_s = max(window_s, 0.001) / SLICES
        self._slices = [[-1, 0, 0] for _ in range(SLICES)]

    def add(self, now: float, *, calls: int = 0, failures: int = 0) -> None:
        number = int(now / self._slice_s)
        piece = self._slices[number % SLICES]
        if piece[0] != number:
            piece[:] = [number, 0, 0]
        piece[1] += calls
        piece[2] += failures

    def totals(self, now: float) -> tuple[int, int]:
        """Give the calls and the failures in the window. Shape: a stream that is cut may have opened before it."""
        oldest = int(now / self._slice_s) - SLICES
        recent = [piece for piece in self._slices if piece[0] > oldest]
        failures = sum(piece[2] for piece in recent)
        return max(failures, sum(piece[1] for piece in recent)), failures


class Breaker:
    """The breaker of one target.

    Holds: results count only in the epoch of their permit, so that streams from before a trip do not prolong it. A call is
    good from the moment it opens until its stream is cut: streams last for minutes, failures come at once, and were the
    good ones only counted when they are over, a target that is busy and well would look like one that always fails.
    """

    def __init__(self, settings: BreakerSettings, on_change: Callable[[BreakerState], None] = lambda _: None) -> None:
        self.settings = settings
        self._on_change = on_change
        self._state = BreakerState.CLOSED
        self._everyday = Permit(0)
        self._window = _Window(settings.window_s)
        self._unopened = 0
        self._cut = 0
        self._trips = 0
        self._until = 0.0
        self._probing = 0
        self._successes = 0

    def twin(self) -> "Breaker":
        """Give another one that goes by the same settings and tells the same."""
        return Breaker(self.settings, self._on_change)

    def state(self, now: float) -> BreakerState:
        """Give the state; one whose time is up is half open, whether or not anybody came since."""
        if self._state is BreakerState.OPEN and now >= self._until:
            return BreakerState.HALF_OPEN
        return self._state

    def wait_s(self, now: float) -> float:
        """Give the seconds until it can admit again; 0.0 when that is not known by time."""
        return max(0.0, self._until - now) if self._state is BreakerState.OPEN else 0.0

    def admits(self, now: float) -> bool:
        """Say whether a call would be let through."""
        if self._state is BreakerState.CLOSED:
            return True
        return self.state(now) is BreakerState.HALF_OPEN and self._probing < max(1, self.settings.probes)

    def admit(self, now: float) -> Permit | None:
        """Let a call through, or not. Holds: each permit is answered by `failed`, or by `opened` and then `ended`."""
        if self._state is BreakerState.CLOSED:
            return self._everyday
        if not self.admits(now):
            return None
        if self._state is BreakerState.OPEN:
            self._successes = 0
            self._become(BreakerState.HALF_OPEN)
        self._probing += 1
        return Permit(self._everyday.epoch, probe=True)

    def opened(self, permit: Permit, now: float) -> None:
        """Take the first content of a call: what a probe is there to see."""
        self._free(permit)
        if not self._is_current(permit):
            return
        self._unopened = 0
        self._window.add(now, calls=1)
        if self._state is BreakerState.HALF_OPEN:
            self._successes += 1
            if self._successes >= self.settings.successes:
                self._close()

    def failed(self, permit: Permit, verdict: Verdict | None, now: float) -> None:
        """Take why a call did not open. Shape: None, a client's doing and a 429 say nothing about the target."""
        self._free(permit)
        if verdict is not None and verdict.trips and self._is_current(permit):
            self._unopened += 1
            self._window.add(now, calls=1, failures=1)
            self._judge(self._unopened, now)

    def ended(self, permit: Permit, verdict: Verdict | None, now: float) -> None:
        """Take how the stream of a call ended that had opened. Shape: as for `failed`."""
        self._free(permit)
        if verdict is None or not self._is_current(permit):
            return
        if verdict is COMPLETED:
            self._cut = 0
            if self._state is BreakerState.CLOSED:
                self._trips = 0
        elif verdict.trips:
            self._cut += 1
            self._window.add(now, failures=1)
            self._judge(self._cut, now)

    def _is_current(self, permit: Permit) -> bool:
        return permit.epoch == self._everyday.epoch

    def _free(self, permit: Permit) -> None:
        if permit.probe:
            permit.probe = False
            self._probing -= 1

    def _judge(self, in_a_row: int, now: float) -> None:
        """Open after a failure that is one too many."""
        settings = self.settings
        if self._state is BreakerState.HALF_OPEN or (settings.failures and in_a_row >= settings.failures):
            self._trip(now)
        elif settings.ratio:
            calls, failures = self._window.totals(now)
            if calls >= settings.min_calls and failures >= settings.ratio * calls:
                self._trip(now)

    def _trip(self, now: float) -> None:
        settings = self.settings
        open_for_s = min(settings.open_for_s * GROWTH**self._trips, max(LONGEST_S, settings.open_for_s))
        self._trips = min(self._trips + 1, 64)
        self._until = now + open_for_s
        self._everyday = Permit(self._everyday.epoch + 1)
        self._become(BreakerState.OPEN)

    def _close(self) -> None:
        self._cut = 0
        self._window = _Window(self.settings.window_s)
        self._become(BreakerState.CLOSED)

    def _become(self, state: BreakerState) -> None:
        self._state = state
        self._on_change(state)


def breaking(breaker_of: Callable[[Target], Breaker], clock: Callable[[], float], chance: Random) -> Layer:
    """Give the layer that holds a permit for each attempt, and tells the breaker how its stream ended."""

    def layer(inner: Service[Attempt]) -> Service[Attempt]:
        return _Breaking(inner, breaker_of, clock, chance)

    return layer


class _Breaking:
    __slots__ = ("_breaker_of", "_chance", "_clock", "_inner")

    def __init__(
        self,
        inner: Service[Attempt],
        breaker_of: Callable[[Target], Breaker],
        clock: Callable[[], float],
        chance: Random,
    ) -> None:
        self._inner = inner
        self._breaker_of = breaker_of
        self._clock = clock
        self._chance = chance

    def open(self, ask: Attempt, /) -> "_Permitted":
        return _Permitted(self._inner.open(ask), ask, self._breaker_of(ask.target), self._clock, self._chance)


class _Permitted:
    """Holds: a permit, from entry to exit."""

    __slots__ = ("_attempt", "_breaker", "_chance", "_clock", "_context", "_permit")

    def __init__(
        self,
        context: AbstractAsyncContextManager[Stream],
        attempt: Attempt,
        breaker: Breaker,
        clock: Callable[[], float],
        chance: Random,
    ) -> None:
        self._context = context
        self._attempt = attempt
        self._breaker = breaker
        self._clock = clock
        self._chance = chance

    async def __aenter__(self) -> Stream:
        breaker, now = self._breaker, self._clock()
        permit = breaker.admit(now)
        if permit is None:
            wait_s = breaker.wait_s(now) or breaker.settings.open_for_s
            raise AttemptFailed(BREAKER_OPEN, headers=(retry_after(wait_s, self._chance.random()),))
        self._permit = permit
        try:
            stream = await self._context.__aenter__()
        except BaseException as error:
            breaker.failed(permit, error.verdict if isinstance(error, AttemptFailed) else None, self._clock())
            raise
        breaker.opened(permit, self._clock())
        return stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._context.__aexit__(kind, error, trace)
        finally:
            self._breaker.ended(self._permit, self._attempt.record.verdict, self._clock())
