"""Bytes held for all streams and requests, and what happens when they come near the limit.

The sum is taken by a sampler, not at every request; in between, the bodies that were promised since are added to it.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from tidegate.exchange import Ending
from tidegate.kernel.backoff import retry_after
from tidegate.verdict import CLIENT_SLOW, OVERLOADED, Refused

SAMPLE_S: Final = 0.5
WARN_SHARE: Final = 0.9
RETRY_S: Final = 1.0
COPIES: Final = 2
"""How often a body is held while it is on its way to a provider: as it came, and in the request."""


class Reader(Protocol):
    """A client whose stream runs."""

    def backlog(self) -> tuple[int, float]:
        """Give the bytes that it has not taken, and for how many seconds it has taken none."""
        ...

    def end(self, ending: Ending, /) -> None:
        """End its stream."""
        ...


class MemoryGuard:
    """Refuses work while too much is held, and ends the slowest readers. Shape: `max_bytes` 0 guards nothing.

    Holds: one timer, from `start` to `stop`. A body of more than `max_body_bytes` is not counted: it is refused for its
    size. Shape: `held` sums up; what it finds of bodies that are still coming is counted twice for that while.
    """

    def __init__(
        self,
        max_bytes: int = 0,
        max_body_bytes: int = 0,
        *,
        held: Callable[[], int],
        readers: Callable[[], Iterable[Reader]],
        chance: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self.max_bytes = max_bytes
        self.max_body_bytes = max_body_bytes
        self._held = held
        self._readers = readers
        self._chance = chance
        self._log = log
        self._sampled = 0
        self._coming = self._came = 0
        self._warned = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to sample."""
        self._timer = asyncio.get_running_loop().call_later(SAMPLE_S, self._beat)

    def stop(self) -> None:
        """Sample no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def judge(self, length: int) -> None:
        """Refuse a body that there is no room for; nothing is spent. Errors: Refused (overloaded)."""
        if length <= self.max_body_bytes and not self._has_room(COPIES * length):
            raise Refused(OVERLOADED, headers=(retry_after(RETRY_S, self._chance()),))

    def grows(self, nbytes: int) -> bool:
        """Count a piece of a body whose length nobody told, until the next sample finds it; gives whether there is room."""
        if not self._has_room(nbytes):
            return False
        self._coming += nbytes
        self._came += nbytes
        return True

    def _has_room(self, nbytes: int) -> bool:
        return not self.max_bytes or self._sampled + self._coming + nbytes <= self.max_bytes

    def expect(self, length: int) -> int:
        """Count a body that is about to be read; gives what it was counted as."""
        counted = COPIES * length if length <= self.max_body_bytes else 0
        self._coming += counted
        return counted

    def came(self, counted: int) -> None:
        """Take note that no more of an expected body is coming; the next sample finds it, if it is kept."""
        self._came += counted

    def sample(self) -> None:
        """Sum up; warn once where it gets tight; end the slowest readers above the limit."""
        held = self._held()
        if held > self.max_bytes:
            held -= self._relieve(held - self.max_bytes)
        self._sampled = held
        self._coming -= self._came
        self._came = 0
        tight = held >= WARN_SHARE * self.max_bytes
        if tight and not self._warned:
            self._log.warning("memory is nearly used up", held_bytes=held, max_buffered_bytes=self.max_bytes)
        self._warned = tight

    def _beat(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SAMPLE_S, self._beat)
        if self.max_bytes:
            self.sample()

    def _relieve(self, excess: int) -> int:
        """End the readers with the most bytes for the longest time, until the excess is gone; gives what that freed."""
        slow = [
            (unsent * idle_s, unsent, reader) for reader in self._readers() for unsent, idle_s in (reader.backlog(),)
        ]
        freed = 0
        for _, unsent, reader in sorted(slow, key=lambda found: found[:2], reverse=True):
            if freed >= excess or not unsent:
                break
            reader.end(Ending(CLIENT_SLOW))
            freed += unsent
        return freed
