"""What framings share that find a frame's end as bytes come: what is held, its limit, and its release in pieces.

A framing says where its frames end; it sees each byte once, and what is held is never looked at again.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from tidegate.wire import Framed, FrameError

FrameT = TypeVar("FrameT", bound=Framed)


class Cutter(ABC, Generic[FrameT]):
    """Cuts one stream where `_find` says, and makes frames of the pieces.

    Errors: FrameError when a frame, released pieces included, is above `limit` bytes, or is none; the framer is of no use
    after it.
    """

    __slots__ = ("_held", "_inside", "_limit", "_make", "_passed")

    def __init__(self, make: Callable[[bytes], FrameT], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._held = bytearray()
        self._passed = 0
        self._inside = False

    @property
    def held(self) -> int:
        """The bytes held: the beginning of a frame."""
        return len(self._held)

    @property
    def inside(self) -> bool:
        """Whether the next byte belongs to a frame whose beginning was released."""
        return self._inside

    def feed(self, data: bytes, /) -> list[FrameT]:
        """Give the frames that end in `data`. After a release the first one is the rest of the released frame."""
        ends = self._cut(data)
        if not ends:
            self._held += data
            return []
        make, start = self._make, ends[0]
        frames = [make(self._joined(data[:start]))]
        for end in ends[1:]:
            frames.append(make(data[start:end]))
            start = end
        self._rest(data, start)
        return frames

    def take(self, data: bytes, /) -> bytes:
        """Give all whole frames as one piece, as they came, and hold the rest."""
        ends = self._cut(data)
        if not ends:
            self._held += data
            return self.release() if self._inside else b""
        piece = self._joined(data[: ends[-1]])
        self._rest(data, ends[-1])
        return piece

    def finish(self) -> Sequence[FrameT]:
        """Say that nothing more comes. Errors: FrameError when a frame is unfinished."""
        if self._inside or self._unfinished():
            raise FrameError("the stream ended inside a frame")
        return ()

    def release(self) -> bytes:
        """Give up what is held: the unfinished frame goes on in pieces from here."""
        piece = bytes(self._held)
        self._inside = self._inside or self._unfinished()
        self._held = bytearray()
        self._passed += len(piece)
        return piece

    @abstractmethod
    def _find(self, data: bytes) -> list[int]:
        """Give where frames end in `data`, which is seen but once. Errors: FrameError when it is no part of a frame."""

    @abstractmethod
    def _unfinished(self) -> bool:
        """Whether what is held is the beginning of a frame."""

    def _cut(self, data: bytes) -> list[int]:
        """Give where frames end in `data`. Errors: FrameError; nothing is held after it."""
        try:
            ends = self._find(data)
            if len(self._held) + self._passed + len(data) > self._limit:
                self._check(ends, len(data))
        except FrameError:
            self._held = bytearray()
            raise
        return ends

    def _check(self, ends: list[int], size: int) -> None:
        """Refuse a frame above the limit. Shape: one begins where another ends, the first one in what was seen before."""
        start = -len(self._held) - self._passed
        for end in (*ends, size):
            if end - start > self._limit:
                raise FrameError(f"a frame is larger than {self._limit} bytes")
            start = end

    def _joined(self, rest: bytes) -> bytes:
        """Give what is held with what follows it."""
        if not self._held:
            return rest
        self._held += rest
        return bytes(self._held)

    def _rest(self, data: bytes, end: int) -> None:
        """Stand after the frame that ends at `end` of `data`, and hold what follows it."""
        self._held = bytearray(data[end:])
        self._inside = False
        self._passed = 0
