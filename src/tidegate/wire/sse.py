"""Server-sent events: where a frame ends. An empty line ends it; lines end in CRLF, LF or CR, also mixed.

What is held is never looked at again. To know the line ends in new bytes, the one byte before them is enough:

    last byte    new bytes begin with    meaning
    CR           LF                      the rest of that line end
    CR or LF     a line end              an empty line: the frame ends
    any other    a line end              the end of a line

A stream begins as after a line end, and so does a byte order mark at its start.
Source: WHATWG HTML, 9.2.5 "Parsing an event stream".
"""

import re
from typing import Final

from tidegate.wire import Frame, FrameError

MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
"""Above any frame that providers send: their largest carry an image or a whole file of audio."""

_BOM: Final = b"\xef\xbb\xbf"

# A line end and, seen but not taken, the empty line after it: so that three in a row are two empty lines.
_empty_lines = re.compile(rb"(?:\r\n?+|\n)(?=(\r\n?+|\n))").finditer
# The same where no CR occurs: 34 frames in 8 µs instead of 62 µs.
_empty_lf_lines = re.compile(rb"\n(?=\n)").finditer


class SseFramer:
    """Splits one stream of server-sent events.

    Shape: a frame whose empty line is a lone CR at the end of what came is given at once; an LF that comes next belongs
    to it: `take` gives it at once, `feed` as the first byte of the next frame.
    Errors: FrameError when a frame, released pieces included, is above `limit` bytes; the framer is of no use after it.
    """

    __slots__ = ("_began", "_held", "_inside", "_last", "_limit", "_passed", "_resting", "_skip")

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._limit = limit
        self._held = bytearray()
        self._last = b"\n"
        self._began = False
        self._skip = 0
        self._passed = 0
        self._inside = False
        # Nothing held, and an LF before: what ends in two line feeds is whole frames then, whatever is in it.
        self._resting = False

    @property
    def held(self) -> int:
        """The bytes held: the beginning of a frame."""
        return len(self._held)

    @property
    def inside(self) -> bool:
        """Whether the next byte belongs to a frame whose beginning was released."""
        return self._inside

    def feed(self, data: bytes, /) -> list[Frame]:
        """Give the frames that end in `data`. After a release the first one is the rest of the released frame."""
        if self._resting and self._is_one(data):
            return [Frame(data)]
        ends = self._find(data)
        if not ends:
            self._held += data
            self._resting = False
            return []
        frames = [Frame(bytes(self._held) + data[: ends[0]], self._skip)]
        start = ends[0]
        for end in ends[1:]:
            frames.append(Frame(data[start:end]))
            start = end
        self._rest(data, start)
        return frames

    def take(self, data: bytes, /) -> bytes:
        """Give all whole frames as one piece, as they came, and hold the rest."""
        if data.endswith((b"\n\n", b"\r\n\r\n")) and len(data) <= self._limit:
            if self._resting:
                return data
            if not self._began and not self._held and data[:1] != _BOM[:1]:
                self._began = self._resting = True
                self._last = b"\n"
                return data
        completes = self._last == b"\r" and data.startswith(b"\n") and not self._held and not self._inside
        ends = self._find(data)
        if not ends and self._inside:
            self._held += data
            return self.release()
        end = ends[-1] if ends else int(completes)
        if not end:
            self._held += data
            self._resting = False
            return b""
        piece = bytes(self._held) + data[:end] if self._held else data[:end]
        self._rest(data, end)
        return piece

    def finish(self) -> tuple[()]:
        """Say that nothing more comes: no frame ends there. Errors: FrameError when one is unfinished."""
        if self._inside or self._unfinished():
            raise FrameError("the stream ended inside a frame")
        return ()

    def release(self) -> bytes:
        """Give up what is held: the unfinished frame goes on in pieces from here."""
        piece = bytes(self._held)
        self._inside = self._inside or self._unfinished()
        self._began = self._began or bool(piece)
        self._held = bytearray()
        self._passed += len(piece)
        self._skip = 0
        return piece

    def _is_one(self, data: bytes) -> bool:
        """Whether this, where nothing is held, is one frame with its line feeds: as most reads of paced streams are."""
        size = len(data)
        return 2 < size <= self._limit and data.find(b"\n\n") == size - 2 and data[:1] != b"\n" and b"\r" not in data

    def _unfinished(self) -> bool:
        """Whether more is held than a byte order mark or the rest of a line end."""
        return bytes(self._held[self._skip :]) not in {b"", b"\n"}

    def _rest(self, data: bytes, end: int) -> None:
        """Stand after the frame that ends at `end` of `data`, and hold what follows it."""
        self._held = bytearray(data[end:])
        self._resting = end == len(data) and self._last == b"\n"
        self._inside = False
        self._passed = 0
        self._skip = 0

    def _find(self, data: bytes) -> list[int]:
        """Give where frames end in `data`, which is taken as seen from here on."""
        if self._began:
            ends = _ends(self._last, data)
            self._last = data[-1:] or self._last
        else:
            ends = self._begin(data)
        if len(self._held) + self._passed + len(data) > self._limit:
            self._check(ends, len(data))
        return ends

    def _begin(self, data: bytes) -> list[int]:
        """Find frames while it is open whether the stream begins with a byte order mark."""
        before = len(self._held)
        head = bytes(self._held) + data[:3]
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._last = head[-1:] or self._last
            return []
        self._began = True
        if not head.startswith(_BOM):
            ends = _ends(self._last, data)
            self._last = data[-1:]
            return ends
        self._skip = len(_BOM)
        lines = data[len(_BOM) - before :]
        self._last = lines[-1:] or b"\n"
        return [len(data) - len(lines) + end for end in _ends(b"\n", lines)]

    def _check(self, ends: list[int], size: int) -> None:
        """Refuse a frame above the limit. Shape: one begins where another ends, the first one in what was seen before."""
        start = -len(self._held) - self._passed
        for end in (*ends, size):
            if end - start > self._limit:
                self._held = bytearray()
                raise FrameError(f"a frame is larger than {self._limit} bytes")
            start = end


def _ends(last: bytes, data: bytes) -> list[int]:
    """Give the offsets in `data` behind each empty line, where `last` is the byte before it."""
    seen = last + data
    if b"\r" in seen:
        return [found.end(1) - 1 for found in _empty_lines(seen)]
    return [found.end() for found in _empty_lf_lines(seen)]


def split(block: bytes) -> list[Frame]:
    """Give the frames of a block of whole frames from the middle of a stream. Shape: what is behind the last is a frame, too."""
    ends = _ends(b"\n", block)
    if (ends[-1] if ends else 0) < len(block):
        ends.append(len(block))
    frames: list[Frame] = []
    start = 0
    for end in ends:
        frames.append(Frame(block[start:end]))
        start = end
    return frames
