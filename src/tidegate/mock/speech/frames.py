"""How frames follow each other on the wire: server-sent events, an array of JSON, lines of it, and AWS's event stream."""

from typing import Protocol

from tidegate.mock.script import Script
from tidegate.wire import eventstream

Frame = tuple[str, bytes]
"""A frame: its event's name, where it has one, and its JSON."""


class Framer(Protocol):
    """Frames one stream. Shape: `end` closes what the frames opened; a `comment` says nothing."""

    def frame(self, frame: Frame, /) -> bytes:
        """Give a frame's bytes."""
        ...

    def failure(self, frame: Frame, /) -> bytes:
        """Give the bytes of a frame that says what went wrong."""
        ...

    def end(self) -> bytes:
        """Give what stands behind the last frame."""
        ...

    def comment(self) -> bytes:
        """Give what fills a silence."""
        ...


def _line_end(script: Script) -> bytes:
    return b"\r\n" if script.crlf else b"\n"


class Events:
    """Server-sent events."""

    def __init__(self, script: Script) -> None:
        self._end = _line_end(script)
        self._space = b"" if script.nospace else b" "

    def frame(self, frame: Frame) -> bytes:
        """Give an event; one without a name is data alone."""
        name, data = frame
        named = b"event:%b%b%b" % (self._space, name.encode(), self._end) if name else b""
        return b"%bdata:%b%b%b" % (named, self._space, data, self._end * 2)

    failure = frame

    def end(self) -> bytes:
        """Give nothing."""
        return b""

    def comment(self) -> bytes:
        """Give a comment."""
        return b": ping" + self._end * 2


class Lines:
    """A line of JSON a frame."""

    def __init__(self, script: Script) -> None:
        self._end = _line_end(script)

    def frame(self, frame: Frame) -> bytes:
        """Give a line."""
        return frame[1] + self._end

    failure = frame

    def end(self) -> bytes:
        """Give nothing."""
        return b""

    def comment(self) -> bytes:
        """Give an empty line."""
        return self._end


class Array(Lines):
    """An array of JSON, an element a frame."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self._before = b"["

    def frame(self, frame: Frame) -> bytes:
        """Give an element and what parts it from the one before."""
        before, self._before = self._before, self._end + b"," + self._end
        return before + frame[1]

    failure = frame

    def end(self) -> bytes:
        """Give the closing bracket."""
        return b"[]" if self._before == b"[" else self._end + b"]"


class Messages:
    """AWS's event stream: checksummed messages with headers."""

    def __init__(self, script: Script) -> None:
        del script

    def frame(self, frame: Frame) -> bytes:
        """Give an event."""
        return _message("event", ":event-type", frame)

    def failure(self, frame: Frame) -> bytes:
        """Give an exception that the service's model knows."""
        return _message("exception", ":exception-type", frame)

    def end(self) -> bytes:
        """Give nothing."""
        return b""

    def comment(self) -> bytes:
        """Give nothing: an event stream has no word for it."""
        return b""


def _message(kind: str, key: str, frame: Frame) -> bytes:
    headers: dict[str, eventstream.Value] = {
        key: frame[0],
        ":content-type": "application/json",
        ":message-type": kind,
    }
    return eventstream.encode(headers, frame[1])
