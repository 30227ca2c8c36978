"""The outermost layer: one exchange out of attempts. Where the next one is made, when, and whether it is paid for.

Nothing is tried again once a stream is open: its first content may be on its way to the client.
"""

import asyncio
import math
import re
from collections.abc import Callable
from random import Random
from types import TracebackType
from typing import Final, Protocol

from msgspec import Struct

from tidegate.dispatch.hedge import Runner, race
from tidegate.dispatch.route import Plan, Router
from tidegate.dispatch.service import Service, Turn
from tidegate.dispatch.settings import RetrySettings
from tidegate.dispatch.trial import Trial, asked_wait_s
from tidegate.exchange import Admitted, Attempt, ReplyHead, Stream, Target
from tidegate.tasks import Tasks
from tidegate.verdict import UPSTREAM_RATE_LIMITED, Again, AttemptFailed

MAX_EXPONENT: Final = 30
_ATTEMPTS: Final = b"x-tidegate-attempts"
_is_shown = re.compile(r"[!-~]{1,256}").fullmatch
"""What a client asked for can stand in a header."""
_ONE: Final = (_ATTEMPTS, b"1")


class TurnCounts(Protocol):
    """What is counted about attempts after the first."""

    def retried(self, provider: str, outcome: str, /) -> None:
        """Count an attempt after one that failed: `opened`, `failed`, `cancelled`, or `denied` by the budget."""
        ...

    def fell_back(self, source: str, target: str, /) -> None:
        """Count an exchange that went on to another target."""
        ...

    def hedged(self, outcome: str, /) -> None:
        """Count a hedge: `won`, `lost`, `failed`, or `denied` when there was no target or no budget."""
        ...


class Rules(Struct, frozen=True):
    """What all turns share. Shape: `clock` is monotonic, `wall` Unix time; both in seconds."""

    router: Router
    counts: TurnCounts
    tasks: Tasks
    chance: Random
    clock: Callable[[], float]
    wall: Callable[[], float]


def directing(rules: Rules) -> Turn:
    """Give the turn: route, retry, fall back, hedge, within the budget."""

    def turn(inner: Service[Attempt]) -> Service[Admitted]:
        return _Directing(inner, rules)

    return turn


class _Directing:
    __slots__ = ("_inner", "_rules")

    def __init__(self, inner: Service[Attempt], rules: Rules) -> None:
        self._inner = inner
        self._rules = rules

    def open(self, ask: Admitted, /) -> "_Turn":
        return _Turn(self._inner, ask, self._rules)


class _Turn:
    """Holds: the attempt that opened, until the exchange is over."""

    __slots__ = ("_admitted", "_denied", "_here", "_inner", "_last", "_open", "_plan", "_rules", "_sent", "_told")

    def __init__(self, inner: Service[Attempt], admitted: Admitted, rules: Rules) -> None:
        self._inner = inner
        self._admitted = admitted
        self._rules = rules
        self._plan: Plan = rules.router.plan(admitted)
        self._open: Trial | Runner | None = None
        self._here = 0
        self._sent = False
        self._denied = False
        self._told: AttemptFailed | None = None

    async def __aenter__(self) -> Stream:
        rules, hedge_after_s = self._rules, self._admitted.model.hedge_after_s
        now = rules.clock()
        target = self._plan.next(now)
        if target is None:
            raise self._unavailable(now)
        delay_s = 0.0
        try:
            while True:
                try:
                    if delay_s:
                        await asyncio.sleep(delay_s)
                    trial = self._trial(target)
                    self._here += 1
                    if hedge_after_s:
                        self._open, stream = await self._race(trial, hedge_after_s)
                    else:
                        stream = await trial.open()
                        self._open = trial
                except asyncio.CancelledError:
                    self._count("cancelled")
                    raise
                except AttemptFailed as failed:
                    self._count("failed")
                    step = self._after(failed)
                    if step is None:
                        raise self._final(failed) from None
                else:
                    self._count("opened")
                    return self._opened(stream)
                target, delay_s = step
        finally:
            self._told = None  # its traceback holds this frame, which would be a cycle

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self._open, Trial):
            await self._open.close(kind, error, trace)
        elif self._open is not None:
            self._open.release()
            await self._open.over()

    # --- one attempt, or two ---------------------------------------------------------------------------------------

    def _trial(self, target: Target, *, hedge: bool = False) -> Trial:
        rules = self._rules
        state = rules.router.fleet[target.key]
        trial = self._last = Trial(
            self._inner,
            self._admitted,
            target,
            state,
            (rules.clock, rules.wall),
            again=self._here > 0 and not hedge,
            hedge=hedge,
        )
        return trial

    async def _race(self, first: Trial, after_s: float) -> tuple[Runner, Stream]:
        rules, rivals = self._rules, list[Trial]()

        def rival() -> Trial | None:
            now = rules.clock()
            target = self._plan.next(now)
            if target is None or not rules.router.fleet[target.key].budget.take(now):
                if target is not None:
                    self._plan.give_back(target)
                rules.counts.hedged("denied")
                return None
            rivals.append(self._trial(target, hedge=True))
            return rivals[0]

        won = "failed"
        try:
            decisive, result = await race(first, after_s, rival, rules.tasks)
            self._last = decisive.trial
            if isinstance(result, AttemptFailed):
                try:
                    raise result
                finally:
                    del result, decisive  # the traceback holds this frame: no cycle for the collector
            won = "lost" if decisive.trial is first else "won"
        finally:
            if rivals:
                rules.counts.hedged(won)
        return decisive, result

    def _count(self, outcome: str) -> None:
        """Count an attempt, if there was another before it."""
        if self._told is not None:
            self._rules.counts.retried(self._last.target.provider, outcome)

    def _opened(self, stream: Stream) -> Stream:
        """Say in the answer what was used; nobody sends the body again."""
        admitted = self._admitted
        if not self._sent:
            self._credit(stream.attempt.target)
        if not (stream.translates and stream.events):
            admitted.ask.body = b""  # whoever translates a stream looks at it once more
        admitted.arrival.outcome.served = stream.attempt.record
        headers = (*stream.head.headers, *admitted.headers, *self._used(stream.attempt.target))
        stream.head = ReplyHead(stream.head.status, headers)
        return stream

    def _used(self, target: Target) -> tuple[tuple[bytes, bytes], ...]:
        attempts = len(self._admitted.arrival.outcome.attempts)
        header = self._rules.router.fleet[target.key].header
        if target.asked and _is_shown(target.model):
            header = header[0], f"{target.provider}/{target.model}".encode("ascii", "replace")
        return header, _ONE if attempts == 1 else (_ATTEMPTS, b"%d" % attempts)

    def _credit(self, target: Target) -> None:
        """Add to the budget what an exchange brings whose first attempt was sent."""
        self._rules.router.fleet[target.key].budget.credit(self._rules.clock())

    # --- what comes after a failure --------------------------------------------------------------------------------

    def _after(self, failed: AttemptFailed) -> tuple[Target, float] | None:
        """Decide where the next attempt is made and after how many seconds; None when there is none."""
        last, sent = self._last, self._sent
        self._sent = any(record.sent_at for record in self._admitted.arrival.outcome.attempts)
        if self._sent and not sent:
            self._credit(last.target)
        if last.record.sent_at or not self._sent or self._told is None:
            self._told = failed
        step = self._step(last.target, failed)
        if step is not None and step[0] is not last.target:
            fleet = self._rules.router.fleet
            self._rules.counts.fell_back(fleet[last.target.key].label, fleet[step[0].key].label)
            self._here = 0
        return step

    def _step(self, target: Target, failed: AttemptFailed) -> tuple[Target, float] | None:
        """Give the next attempt's target and delay in seconds; None to give up."""
        if failed.verdict.again is Again.NEVER or self._admitted.model.once:
            return None
        rules, fleet = self._rules, self._rules.router.fleet
        now, asked_s = rules.clock(), asked_wait_s(failed, rules.wall())
        delay_s = self._delay_here(fleet.retry_of(target.key), failed, asked_s)
        left_s = self._admitted.deadline - now if self._admitted.deadline else math.inf
        if delay_s is not None and (delay_s >= left_s or not fleet.breaker_of(target).admits(now + delay_s)):
            delay_s = None  # the deadline comes first; or this failure, or one beside it, opened the breaker
        step = None if delay_s is None else (target, delay_s)
        if step is None or asked_s or failed.verdict is UPSTREAM_RATE_LIMITED:
            # Who was told to wait, or has had enough, goes on at once where there is somewhere to go.
            other = self._plan.next(now)
            step = step if other is None else (other, 0.0)
        return None if step is None or left_s <= 0 else self._paid(step, now)

    def _paid(self, step: tuple[Target, float], now: float) -> tuple[Target, float] | None:
        """Pay for the next attempt; where its target's budget is empty, for one at the next that can pay."""
        rules, fleet = self._rules, self._rules.router.fleet
        if not self._sent or fleet[step[0].key].budget.take(now):
            return step
        rules.counts.retried(step[0].provider, "denied")
        while (other := self._plan.next(now)) is not None:
            if fleet[other.key].budget.take(now):
                return other, 0.0
        self._denied = True
        return None

    def _delay_here(self, retry: RetrySettings, failed: AttemptFailed, asked_s: float) -> float | None:
        """Give after how many seconds the same target may be tried again; None for not at all."""
        if failed.verdict.again is not Again.ANYWHERE or self._here >= retry.max_attempts:
            return None
        chance = self._rules.chance.random()
        if asked_s:
            # Never before the time asked for, and not all in the same instant.
            return asked_s + chance * retry.initial_delay_s if asked_s <= retry.max_retry_after_s else None
        exponent = min(self._here - 1, MAX_EXPONENT)
        return chance * min(retry.max_delay_s, retry.initial_delay_s * 2.0**exponent)

    def _unavailable(self, now: float) -> AttemptFailed:
        """Give the failure of an exchange that no target can be asked for."""
        told = self._plan.unavailable(now)
        told.headers = (*told.headers, *self._admitted.headers)
        return told

    def _final(self, last: AttemptFailed) -> AttemptFailed:
        """Give the failure that the client hears of: the last of an attempt that was sent, else the last of all."""
        told = self._told or last
        told.headers = (*told.headers, *self._admitted.headers, *self._used(self._last.target))
        if self._denied:
            told.headers = (*told.headers, (b"x-should-retry", b"false"))
        return told
