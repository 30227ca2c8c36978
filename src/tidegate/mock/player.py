"""Plays beats on a transport: one timer for each answer that takes time, no task.

States: waiting (timer armed) · held (the client is not reading: no timer) · over (its end is told, or it was stopped).
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from tidegate.mock.play import Beat

WRITE_BYTES: Final = 64 * 1024
"""What is gathered into one write where nothing parts the beats."""


class Player:
    """One answer on its way out. Holds: at most one write more than the transport's high-water mark."""

    __slots__ = ("_at", "_beats", "_done", "_due", "_held", "_loop", "_timer", "_transport")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        beats: Iterator[Beat],
        done: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._beats = beats
        self._done = done
        self._at = loop.time()
        self._due = b""
        self._held = False
        self._timer: asyncio.TimerHandle | None = None

    def pause(self) -> None:
        """Stop ticking: the client is not reading."""
        self._held = True
        self.stop()

    def resume(self) -> None:
        """Tick again, from now: what was missed is not made up for."""
        self._held = False
        self._at = self._loop.time()
        self.play()

    def stop(self) -> None:
        """Disarm the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def play(self) -> None:
        """Write what is due and arm the timer for what comes next."""
        self._timer = None
        parts, self._due = [self._due], b""
        size = 0
        for silence, data in self._beats:
            if silence > 0:
                self._due = data
                self._write(parts)
                self._wait(silence)
                return
            parts.append(data)
            size += len(data)
            if size >= WRITE_BYTES:
                self._write(parts)
                parts, size = [], 0
                if self._held:
                    return
        self._write(parts)
        # Nothing is over before the client has taken it.
        if not self._held:
            self._done()

    def _write(self, parts: list[bytes]) -> None:
        if data := b"".join(parts):
            self._transport.write(data)

    def _wait(self, silence_s: float) -> None:
        self._at += silence_s
        if not self._held:
            self._timer = self._loop.call_at(self._at, self.play)
