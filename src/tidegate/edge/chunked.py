"""Decodes a chunked request body, and says where it ends: what follows belongs to the next request.

httptools parses our heads and all of the providers' answers, but does not tell where a message ended within the bytes it was
given, which pipelining needs. Source: RFC 9112 section 7.1.

    SIZE --line--> DATA --n bytes--> CRLF --> SIZE ...   SIZE --"0"--> TRAILER --empty line--> DONE
"""

from typing import Final

from tidegate.verdict import BAD_REQUEST, HEADER_TOO_LARGE, TOO_LARGE, Refused

MAX_LINE_BYTES: Final = 16 * 1024
PLAIN_FRAMING_BYTES: Final = 16
"""What the framing of a chunk may take that counts as payload's own: an honest client may send many small chunks."""
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_SIZE, _DATA, _CRLF, _TRAILER, _DONE = range(5)


class ChunkedBody:
    """A body in the making. Holds: at most `max_body` bytes; `max_framing` bounds size lines, extensions and trailers."""

    __slots__ = ("_body", "_chunks", "_framing", "_left", "_line", "_max_body", "_max_framing", "_size", "_state")

    def __init__(self, max_body: int, max_framing: int) -> None:
        self._max_body = max_body
        self._max_framing = max_framing
        self._body = bytearray()
        self._chunks = 0
        self._framing = 0
        self._left = 0
        self._line = bytearray()
        self._state = _SIZE
        self._size = 0

    def take(self) -> bytes:
        """Give what came so far, and hold it no longer."""
        body = bytes(self._body)
        self._body.clear()
        return body

    @property
    def held(self) -> int:
        """Bytes of the body that are held."""
        return len(self._body)

    @property
    def done(self) -> bool:
        """Whether the last chunk and its trailers are in."""
        return self._state == _DONE

    def feed(self, data: bytes) -> bytes:
        """Take bytes; give those after the body's end. Errors: Refused (bad_request, too_large, header_too_large)."""
        position = 0
        while position < len(data) and self._state != _DONE:
            take = self._payload if self._state == _DATA else self._text
            position = take(data, position)
        return data[position:]

    def _payload(self, data: bytes, position: int) -> int:
        piece = data[position : position + self._left]
        self._body += piece
        self._left -= len(piece)
        if not self._left:
            self._state = _CRLF
        return position + len(piece)

    def _text(self, data: bytes, position: int) -> int:
        """Collect a line; act on it when its end is in."""
        end = data.find(b"\n", position)
        stop = len(data) if end < 0 else end + 1
        self._line += data[position:stop]
        self._framing += stop - position
        if len(self._line) > MAX_LINE_BYTES or self._framing > self._max_framing + self._chunks * PLAIN_FRAMING_BYTES:
            raise Refused(HEADER_TOO_LARGE, "chunk extensions or trailers are too large")
        if end >= 0:
            line = bytes(self._line)
            self._line.clear()
            if not line.endswith(b"\r\n"):
                raise Refused(BAD_REQUEST, "a line of the chunked body does not end in CRLF")
            self._act(line[:-2])
        return stop

    def _act(self, line: bytes) -> None:
        if self._state == _CRLF:
            if line:
                raise Refused(BAD_REQUEST, "a chunk is longer than its size says")
            self._state = _SIZE
        elif self._state == _TRAILER:
            if not line:
                self._state = _DONE
        else:
            self._begin(line.partition(b";")[0].strip(b" \t"))

    def _begin(self, digits: bytes) -> None:
        if not 0 < len(digits) <= 16 or not _HEX.issuperset(digits):
            raise Refused(BAD_REQUEST, "a chunk's size is not a hexadecimal number")
        self._chunks += 1
        self._left = int(digits, 16)
        self._size += self._left
        if self._size > self._max_body:
            raise Refused(TOO_LARGE, f"the body is larger than {self._max_body} bytes")
        self._state = _DATA if self._left else _TRAILER
