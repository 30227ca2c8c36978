"""What InvokeModelWithResponseStream sends for Anthropic's models: their own events, each in a message of an event stream.

chunk        {"bytes": base64 of an event's JSON, "p": padding}
exception    an error of Bedrock's, which becomes Anthropic's `error` event
"""

from typing import Final

import msgspec
from msgspec import Struct, field

from tidegate.dialect.bedrock.events import error_in
from tidegate.dialect.values import json_of
from tidegate.wire import FrameError
from tidegate.wire.eventstream import MAX_MESSAGE_BYTES, EventStreamFramer, Message

_ERRORS: Final = {400: "invalid_request_error", 429: "rate_limit_error", 503: "overloaded_error"}
"""Anthropic's words by the status of Bedrock's."""


class _Chunk(Struct, gc=False):
    data: bytes | None = field(default=None, name="bytes")


class _Named(Struct, gc=False):
    type: str


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_name = msgspec.json.Decoder(_Named).decode


class InvokeFrame(Struct, eq=False):
    """One message as it came. What is in it is parsed when it is asked for, each time."""

    raw: bytes

    @property
    def data(self) -> bytes | None:
        """The JSON of Anthropic's event; None where there is none. Errors: FrameError when it cannot be read."""
        message = Message(self.raw)
        headers, payload = message.headers, message.data
        error = error_in(headers, payload)
        if error is not None:
            members = {"type": _ERRORS.get(error.status, "api_error"), "message": error.message}
            return json_of({"type": "error", "error": members})
        if headers.get(":event-type") != "chunk":
            return None
        try:
            return _decode_chunk(payload).data
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise FrameError("a chunk of the stream cannot be read") from None


class InvokeFramer:
    """Splits one stream of messages, and gives what is in them as server-sent events.

    Shape: `feed`, `finish` and `release` give the bytes as they came, like every framer, so that what was looked at can be
    given to another framer. `take` gives server-sent events for a client; a part of a message is no part of an
    event, so after it `release` gives nothing and goes on holding the part, and `inside` stays false.
    Errors: FrameError when a message cannot be read or is above `limit` bytes; the framer is of no use after it.
    """

    __slots__ = ("_messages", "_taking")

    def __init__(self, limit: int = MAX_MESSAGE_BYTES) -> None:
        self._messages = EventStreamFramer(limit)
        self._taking = False

    @property
    def held(self) -> int:
        """The bytes held: the beginning of a message."""
        return self._messages.held

    @property
    def inside(self) -> bool:
        """Whether the next byte belongs to a message whose beginning was released."""
        return self._messages.inside

    def feed(self, data: bytes, /) -> list[InvokeFrame]:
        """Give the messages that end in `data`."""
        return [InvokeFrame(message.raw) for message in self._messages.feed(data)]

    def take(self, data: bytes, /) -> bytes:
        """Give what is in all whole messages as server-sent events, and hold the rest."""
        self._taking = True
        return b"".join(_server_sent(frame.data) for frame in self.feed(data))

    def finish(self) -> tuple[()]:
        """Say that nothing more comes. Errors: FrameError when a message is unfinished."""
        self._messages.finish()
        return ()

    def release(self) -> bytes:
        """Give up what is held, unless it was to be converted."""
        return b"" if self._taking else self._messages.release()


def _server_sent(data: bytes | None) -> bytes:
    """Write an event as Anthropic's own service does. Errors: FrameError when its name cannot be read."""
    if data is None:
        return b""
    try:
        name = _decode_name(data).type.encode()
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise FrameError("an event in the stream has no type") from None
    # Between JSON's tokens alone can line ends be: as spaces they leave it one line.
    line = data.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"event: %b\ndata: %b\n\n" % (name.replace(b"\n", b" ").replace(b"\r", b" "), line)
