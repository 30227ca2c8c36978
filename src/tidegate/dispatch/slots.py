"""Slots: the right to hold one stream open. Who finds none free waits in line; a slot changes hands without a gap."""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random
from types import TracebackType
from typing import Protocol

from tidegate.dispatch.service import Layer, Service
from tidegate.dispatch.settings import SlotSettings
from tidegate.exchange import Attempt, Stream
from tidegate.kernel.backoff import retry_after
from tidegate.verdict import DEADLINE_EXCEEDED, QUEUE_FULL, QUEUE_TIMEOUT, AttemptFailed, Verdict


class Slots:
    """A bounded number of slots and a line of who waits for one.

    Holds: `in_use` grows beyond neither `max_streams` nor `room`, of which there may be less at any time; a slot that is
    given back goes to the first in line at once. Shape: `peak` is the most that were in use; `room` is None where only the settings bound it.
    """

    __slots__ = ("_head", "_limit", "_line", "in_use", "peak", "settings")

    def __init__(self, settings: SlotSettings, room: int | None = None) -> None:
        self.settings = settings
        self._limit = _limit(settings, room)
        self.in_use = 0
        self.peak = 0
        # Both first come, first served; who stood in line before and had a slot waits at the head.
        self._head: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._line: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._head) + len(self._line)

    @property
    def full(self) -> bool:
        """Whether nobody else may wait."""
        return len(self._line) >= self.settings.max_queue

    def take_nowait(self) -> bool:
        """Take a slot if one is free; while anybody waits none is."""
        if self.in_use >= self._limit:
            return False
        self._lend()
        return True

    async def wait_taken(self, *, first: bool) -> None:
        """Wait for a slot; `first` goes to the head of the line. Holds: a slot, unless it was cancelled."""
        waiter = asyncio.get_running_loop().create_future()
        line = self._head if first else self._line
        line[waiter] = None
        self._serve()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                line.pop(waiter, None)
            else:
                self.give_back()  # it came in the same moment
            raise

    def give_back(self) -> None:
        """Give a slot back, or hand it to the first in line."""
        self.in_use -= 1
        self._serve()

    def resize(self, settings: SlotSettings, room: int | None = None) -> None:
        """Take other limits; who has a slot keeps it."""
        self.settings = settings
        self._limit = _limit(settings, room)
        self._serve()

    def _serve(self) -> None:
        while self.waiting and self.in_use < self._limit:
            waiter, _ = (self._head or self._line).popitem(last=False)
            if not waiter.done():
                self._lend()
                waiter.set_result(None)

    def _lend(self) -> None:
        self.in_use += 1
        self.peak = max(self.peak, self.in_use)


def _limit(settings: SlotSettings, room: int | None) -> float:
    return min(settings.max_streams or math.inf, math.inf if room is None else room)


class SlotCounts(Protocol):
    """What is counted about waiting."""

    def slot_waited(self, seconds: float, /) -> None:
        """Count a wait that came to a slot."""
        ...

    def slot_rejected(self, provider: str, reason: str, /) -> None:
        """Count one that did not: `full`, `deadline` or `gone`."""
        ...


def slotting(
    slots_of: Callable[[tuple[str, str]], Sequence[Slots]],
    counts: SlotCounts,
    clock: Callable[[], float],
    chance: Random,
) -> Layer:
    """Give the layer that holds a slot for each attempt, from before any network work to the end of its stream."""

    def layer(inner: Service[Attempt]) -> Service[Attempt]:
        return _Slotting(inner, slots_of, counts, clock, chance)

    return layer


class _Slotting:
    __slots__ = ("chance", "clock", "counts", "inner", "slots_of")

    def __init__(
        self,
        inner: Service[Attempt],
        slots_of: Callable[[tuple[str, str]], Sequence[Slots]],
        counts: SlotCounts,
        clock: Callable[[], float],
        chance: Random,
    ) -> None:
        self.inner = inner
        self.slots_of = slots_of
        self.counts = counts
        self.clock = clock
        self.chance = chance

    def open(self, ask: Attempt, /) -> AbstractAsyncContextManager[Stream]:
        slots = self.slots_of(ask.target.key)
        context = self.inner.open(ask)
        return _Slotted(self, context, ask, slots) if slots else context


class _Slotted:
    """Holds: a slot of each, from entry to exit."""

    __slots__ = ("_attempt", "_context", "_layer", "_slots", "_taken")

    def __init__(
        self,
        layer: _Slotting,
        context: AbstractAsyncContextManager[Stream],
        attempt: Attempt,
        slots: Sequence[Slots],
    ) -> None:
        self._layer = layer
        self._context = context
        self._attempt = attempt
        self._slots = slots
        self._taken: list[Slots] = []

    async def __aenter__(self) -> Stream:
        try:
            for slots in self._slots:
                if not slots.take_nowait():
                    await self._wait(slots)
                self._taken.append(slots)
            return await self._context.__aenter__()
        except BaseException:
            self._give_back()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._context.__aexit__(kind, error, trace)
        finally:
            self._give_back()

    def _give_back(self) -> None:
        taken, self._taken = self._taken, []
        for slots in reversed(taken):
            slots.give_back()

    async def _wait(self, slots: Slots) -> None:
        layer, attempt = self._layer, self._attempt
        provider, began = attempt.target.provider, layer.clock()
        if slots.full and not attempt.again:
            raise self._refusal(QUEUE_FULL, "full", 1.0)
        patience_s, late = self._patience(slots, began)
        try:
            async with asyncio.timeout(patience_s):
                await slots.wait_taken(first=attempt.again)
        except TimeoutError:
            raise self._refusal(late, "deadline", slots.settings.max_queue_wait_s) from None
        except asyncio.CancelledError:
            if attempt.record.verdict is None:  # else it lost a race
                layer.counts.slot_rejected(provider, "gone")
            raise
        waited_s = layer.clock() - began
        attempt.record.queued_s += waited_s
        layer.counts.slot_waited(waited_s)

    def _patience(self, slots: Slots, now: float) -> tuple[float | None, Verdict]:
        """Give how long to wait at most, and what longer is: by the queue's limit or the exchange's deadline."""
        limit_s, deadline = slots.settings.max_queue_wait_s or math.inf, self._attempt.admitted.deadline
        left_s = max(0.0, deadline - now) if deadline else math.inf
        patience_s = min(limit_s, left_s)
        late = QUEUE_TIMEOUT if limit_s <= left_s else DEADLINE_EXCEEDED
        return (None if patience_s == math.inf else patience_s), late

    def _refusal(self, verdict: Verdict, reason: str, wait_s: float) -> AttemptFailed:
        self._layer.counts.slot_rejected(self._attempt.target.provider, reason)
        headers = () if verdict is DEADLINE_EXCEEDED else (retry_after(wait_s, self._layer.chance.random()),)
        return AttemptFailed(verdict, headers=headers)
