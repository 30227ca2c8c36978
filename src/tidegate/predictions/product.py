"""What a run has said so far, until its end makes it one."""

from collections import deque
from typing import Any, Final

from msgspec import Raw

_CUT_LOGS: Final = "[%d bytes of earlier logs were cut]\n"


class Logs:
    """What was printed. Holds: the newest `max_bytes`, and a note of how much is missing before them."""

    __slots__ = ("_max_bytes", "_parts", "cut", "held")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: deque[tuple[str, int]] = deque()
        self.held = 0
        self.cut = 0

    def add(self, text: str) -> None:
        """Add what was printed."""
        size = len(text) if text.isascii() else len(text.encode(errors="replace"))
        self._parts.append((text, size))
        self.held += size
        while self.held > self._max_bytes:
            self._shorten()

    def _shorten(self) -> None:
        """Take away the oldest part, or its beginning where there is no other."""
        text, size = self._parts.popleft()
        self.held -= size
        if not self._parts and size:
            kept = text.encode(errors="replace")[size - self._max_bytes :].decode(errors="ignore")
            left = len(kept.encode())
            self._parts.append((kept, left))
            self.held += left
            size -= left
        self.cut += size

    def text(self) -> str:
        """Give it as one."""
        note = _CUT_LOGS % self.cut if self.cut else ""
        return note + "".join(text for text, _ in self._parts)


class Product:
    """What a run has said so far.

    Shape: `outputs` are JSON, one each, of an output that is a list where `array`; `pieces` are the beginning of a frame.
    """

    __slots__ = ("array", "logs", "metrics", "output_bytes", "outputs", "pieces")

    def __init__(self, max_log_bytes: int) -> None:
        self.outputs: list[bytes] = []
        self.output_bytes = 0
        self.array = False
        self.logs = Logs(max_log_bytes)
        self.metrics: dict[str, Any] = {}
        self.pieces: list[bytes] = []

    def held(self) -> int:
        """Give the bytes of it."""
        return self.output_bytes + self.logs.held + sum(map(len, self.pieces))

    def output(self) -> Raw:
        """Give the output as one."""
        if self.array:
            return Raw(b"[" + b",".join(self.outputs) + b"]")
        return Raw(self.outputs[-1] if self.outputs else b"null")

    def whole(self, data: bytes) -> bytes:
        """Give the whole frames, and hold the beginning of the next."""
        pieces = self.pieces
        if pieces:
            seam = pieces[-1][-1:] + data
            pieces.append(data)
            if b"\n\n" not in seam:
                return b""
            data = b"".join(pieces)
            pieces.clear()
        end = data.rfind(b"\n\n") + 2
        end = end if end > 1 else 0
        if end < len(data):
            pieces.append(data[end:])
        return data[:end]
