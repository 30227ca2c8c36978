"""Response heads of the mock: status line, framing, and the headers that a real provider sends along."""

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from msgspec import Struct

JSON: Final = b"application/json"
EVENTS: Final = b"text/event-stream; charset=utf-8"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
UNTIL_CLOSE: Final = b""

_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
# A gateway must let some of these through and keep others to itself: all are there, so that both can be seen.
_HEAD: Final = (
    b"HTTP/1.1 %d %b\r\n"
    b"date: %b\r\n"
    b"server: tidegate-mock\r\n"
    b"content-type: %b\r\n"
    b"cache-control: no-cache\r\n"
    b"openai-organization: mock-org\r\n"
    b"openai-processing-ms: %d\r\n"
    b"openai-version: 2020-10-01\r\n"
    b"x-ratelimit-limit-requests: 10000\r\n"
    b"x-ratelimit-limit-tokens: 2000000\r\n"
    b"x-ratelimit-remaining-requests: 9999\r\n"
    b"x-ratelimit-remaining-tokens: 1999900\r\n"
    b"x-ratelimit-reset-requests: 6ms\r\n"
    b"x-ratelimit-reset-tokens: 3ms\r\n"
    b"x-request-id: req_%b\r\n"
    b"set-cookie: __mock_session=never-forward-this; path=/; HttpOnly; Secure\r\n"
    b"%b%b%b\r\n"
)


class Now(Struct, frozen=True):
    """One second: its number, as an answer's `created`, and as a Date."""

    second: int
    created: bytes
    date: bytes


class Clock:
    """The wall clock, rendered once a second."""

    def __init__(self) -> None:
        self._now = Now(0, b"", b"")

    def now(self) -> Now:
        """Give the current second."""
        second = int(time.time())
        if second != self._now.second:
            self._now = Now(second, b"%010d" % second, formatdate(second, usegmt=True).encode())
        return self._now


def length(size: int) -> bytes:
    """Give the framing of a body of `size` bytes."""
    return b"content-length: %d\r\n" % size


def render_head(
    now: Now,
    ident: bytes,
    status: int,
    content_type: bytes,
    framing: bytes,
    *,
    keep: bool,
    extra: bytes = b"",
    took_s: float = 0.0,
) -> bytes:
    """Give a response head. Shape: `framing` and `extra` are whole lines; without `keep` it says `connection: close`."""
    closing = b"" if keep else b"connection: close\r\n"
    phrase = _PHRASES.get(status, b"")
    return _HEAD % (status, phrase, now.date, content_type, took_s * 1000 + 1, ident, framing, closing, extra)
