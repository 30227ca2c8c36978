r"""JSON a line: a value on each line, and lines end in LF or CRLF. A CR alone is white space.

Source: ndjson.org; RFC 8259 section 2 for white space.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from tidegate.wire import FrameError
from tidegate.wire.cutter import Cutter

MAX_LINE_BYTES: Final = 4 * 1024 * 1024
"""As of server-sent events: the largest that providers send carry an image or a whole file of audio."""

_line_feeds = re.compile(rb"\n").finditer


class Line(Struct, eq=False):
    """One line as it came, with its end."""

    raw: bytes

    @property
    def data(self) -> bytes | None:
        """What is on the line, without white space around it; None when it is blank."""
        return self.raw.strip(b" \t\r\n") or None


class NdjsonFramer(Cutter[Line]):
    """Splits one stream of lines. Shape: a blank line is a frame without data."""

    __slots__ = ()

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        super().__init__(Line, limit)

    def finish(self) -> Sequence[Line]:
        """Say that nothing more comes, and give a last line that has no end. Errors: FrameError when it is not whole JSON."""
        line = Line(bytes(self._held))
        if self._inside or (line.data is not None and not _is_whole(line.data)):
            raise FrameError("the stream ended inside a line")
        if line.data is None:
            return ()
        self._held = bytearray()
        return (line,)

    def _find(self, data: bytes) -> list[int]:
        return [found.end() for found in _line_feeds(data)]

    def _unfinished(self) -> bool:
        return bool(self._held)


def _is_whole(data: bytes) -> bool:
    """Whether this is a JSON value: nothing else tells a line without its end from half a line."""
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
