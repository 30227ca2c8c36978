"""AWS's binary event stream, `application/vnd.amazon.eventstream`: messages with their length first and two checksums.

    bytes    what
    4        length of the message
    4        length of the headers
    4        CRC-32 of these eight
    ...      headers: length and name, type, value
    ...      payload
    4        CRC-32 of all before it

A header `:message-type` says what a message is: an `event` has an `:event-type`; an `exception` is modelled by the service
and has an `:exception-type` and a payload; an `error` is not, and has an `:error-code` and an `:error-message`.
Source: Smithy 2.0, "Amazon Event Stream".
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from struct import Struct as Layout
from typing import Final
from uuid import UUID
from zlib import crc32

from msgspec import Struct

from tidegate.wire import FrameError
from tidegate.wire.cutter import Cutter

MIN_MESSAGE_BYTES: Final = 16
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""Above any message that AWS sends: its own limit for a payload has been 16 MiB and is 24 MiB now."""

Value = bool | int | bytes | str | datetime | UUID
"""A header's value. Shape: an integer is written in as few of 1, 2, 4 and 8 bytes as hold it, a time in whole milliseconds."""

_PRELUDE_BYTES: Final = 12
_CHECKSUM_BYTES: Final = 4
_prelude = Layout(">III")

_BYTES: Final = 6
_TEXT: Final = 7
_TIMESTAMP: Final = 8
_UUID: Final = 9
_INTEGERS: Final = {1: 2, 2: 3, 4: 4, 8: 5}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


class Message(Struct, eq=False):
    """One message as it came. Its headers are parsed when they are asked for, each time."""

    raw: bytes

    @property
    def data(self) -> bytes:
        """The payload."""
        return self.raw[self._payload_at() : -_CHECKSUM_BYTES]

    @property
    def headers(self) -> dict[str, Value]:
        """The headers. Errors: FrameError when they cannot be read, or one comes twice."""
        return _read_headers(self.raw[_PRELUDE_BYTES : self._payload_at()])

    def _payload_at(self) -> int:
        return _PRELUDE_BYTES + int.from_bytes(self.raw[4:8])


class EventStreamFramer(Cutter[Message]):
    """Splits one stream of messages.

    Errors: FrameError as soon as a length is known to be wrong, and when a checksum is; so no length is believed that a
    broken stream makes up.
    """

    __slots__ = ("_checksum", "_left", "_start", "_trailer")

    def __init__(self, limit: int = MAX_MESSAGE_BYTES) -> None:
        super().__init__(Message, limit)
        self._start = b""
        self._left = 0
        self._checksum = 0
        self._trailer = b""

    def _unfinished(self) -> bool:
        return bool(self._start or self._left)

    def _find(self, data: bytes) -> list[int]:
        ends: list[int] = []
        view = memoryview(data)
        at, size = 0, len(data)
        while at < size:
            if self._left:
                at += self._go_on(view[at : at + self._left])
                if not self._left:
                    ends.append(at)
            else:
                at += self._begin(data[at : at + _PRELUDE_BYTES - len(self._start)])
        return ends

    def _begin(self, piece: bytes) -> int:
        """Take bytes of a prelude; give their number."""
        self._start += piece
        if len(self._start) == _PRELUDE_BYTES:
            self._left = self._read_prelude(self._start) - _PRELUDE_BYTES
            self._checksum = crc32(self._start)
            self._start = b""
        return len(piece)

    def _read_prelude(self, prelude: bytes) -> int:
        """Give the length of a message. Errors: FrameError."""
        size, headers, checksum = _prelude.unpack(prelude)
        if crc32(prelude[:8]) != checksum:
            raise FrameError("the checksum of a message's lengths is wrong")
        if size < MIN_MESSAGE_BYTES + headers:
            raise FrameError("a message is shorter than what it has to hold")
        if size > self._limit:
            raise FrameError(f"a frame is larger than {self._limit} bytes")
        return int(size)

    def _go_on(self, piece: memoryview) -> int:
        """Take bytes of a message behind its prelude; give their number. Errors: FrameError when the checksum is wrong."""
        body = max(self._left - _CHECKSUM_BYTES, 0)
        self._checksum = crc32(piece[:body], self._checksum)
        self._trailer += piece[body:]
        self._left -= len(piece)
        if not self._left:
            if int.from_bytes(self._trailer) != self._checksum:
                raise FrameError("the checksum of a message is wrong")
            self._trailer = b""
        return len(piece)


def encode(headers: Mapping[str, Value], payload: bytes) -> bytes:
    """Write a message. Errors: FrameError when it, or a header, is too large."""
    block = b"".join(_write_header(name, value) for name, value in headers.items())
    size = MIN_MESSAGE_BYTES + len(block) + len(payload)
    if size > MAX_MESSAGE_BYTES:
        raise FrameError(f"a frame is larger than {MAX_MESSAGE_BYTES} bytes")
    lengths = size.to_bytes(4) + len(block).to_bytes(4)
    message = b"".join((lengths, crc32(lengths).to_bytes(4), block, payload))
    return message + crc32(message).to_bytes(4)


def _write_header(name: str, value: Value) -> bytes:
    encoded = name.encode()
    try:
        return len(encoded).to_bytes(1) + encoded + _write_value(value)
    except OverflowError:
        raise FrameError(f"the header {name[:64]} is too large") from None


def _write_value(value: Value) -> bytes:
    match value:
        case bool():
            return b"\0" if value else b"\1"
        case int():
            return _write_integer(value)
        case bytes():
            return bytes((_BYTES,)) + len(value).to_bytes(2) + value
        case str():
            text = value.encode()
            return bytes((_TEXT,)) + len(text).to_bytes(2) + text
        case datetime():
            return bytes((_TIMESTAMP,)) + ((value - _EPOCH) // _MS).to_bytes(8, signed=True)
        case _:
            return bytes((_UUID,)) + value.bytes


def _write_integer(value: int) -> bytes:
    needed = (value if value >= 0 else ~value).bit_length() + 1
    size = next((size for size in _INTEGERS if 8 * size >= needed), 8)
    return bytes((_INTEGERS[size],)) + value.to_bytes(size, signed=True)


def _read_headers(block: bytes) -> dict[str, Value]:
    headers: dict[str, Value] = {}
    at = 0
    while at < len(block):
        try:
            name, value, at = _read_header(block, at)
        except (LookupError, OverflowError, ValueError):
            raise FrameError("a header of a message cannot be read") from None
        if not name or at > len(block):
            raise FrameError("a header of a message cannot be read")
        if name in headers:
            raise FrameError(f"a message has the header {name[:64]} twice")
        headers[name] = value
    return headers


def _read_header(block: bytes, at: int) -> tuple[str, Value, int]:
    """Give a header and where the next one begins: behind the block, if this one is cut. Errors: of what reads its parts."""
    kind_at = at + 1 + block[at]
    size, make = _KINDS[block[kind_at]]
    value_at = kind_at + 1
    if size is None:
        size = block[value_at] << 8 | block[value_at + 1]
        value_at += 2
    end = value_at + size
    return block[at + 1 : kind_at].decode(), make(block[value_at:end]), end


def _integer(raw: bytes) -> int:
    return int.from_bytes(raw, signed=True)


_KINDS: Final[Mapping[int, tuple[int | None, Callable[[bytes], Value]]]] = {
    0: (0, lambda _: True),
    1: (0, lambda _: False),
    **{kind: (size, _integer) for size, kind in _INTEGERS.items()},
    _BYTES: (None, bytes),
    _TEXT: (None, bytes.decode),
    _TIMESTAMP: (8, lambda raw: _EPOCH + _integer(raw) * _MS),
    _UUID: (16, lambda raw: UUID(bytes=raw)),
}
"""The size of each type's value, None where it comes before the value, and what reads it. Types 0 and 1 are true and false."""
