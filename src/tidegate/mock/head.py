"""Response heads of the mock: status line, framing, and the headers that a real provider sends along."""

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, Literal

from msgspec import Struct

JSON: Final = b"application/json"
GOOGLE_JSON: Final = b"application/json; charset=UTF-8"
EVENTS: Final = b"text/event-stream; charset=utf-8"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
UNTIL_CLOSE: Final = b""

Family = Literal["openai", "anthropic", "google", "aws", "ollama"]
"""Whose headers are sent."""

_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus} | {529: b"Overloaded"}
# A gateway must let some of these through and keep others to itself: all are there, so that both can be seen.
_TOP: Final = (
    b"HTTP/1.1 %d %b\r\n"
    b"date: %b\r\n"
    b"server: tidegate-mock\r\n"
    b"content-type: %b\r\n"
    b"cache-control: no-cache\r\n"
)  # fmt: skip
_BOTTOM: Final = b"set-cookie: __mock_session=never-forward-this; path=/; HttpOnly; Secure\r\n%b%b%b\r\n"
# Each names how long the answer took in milliseconds and then its id.
_OWN: Final[dict[Family, bytes]] = {
    "openai": (
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
    ),
    "anthropic": (
        b"anthropic-organization-id: mock-org\r\n"
        b"anthropic-ratelimit-requests-limit: 4000\r\n"
        b"anthropic-ratelimit-requests-remaining: 3999\r\n"
        b"anthropic-ratelimit-tokens-limit: 2000000\r\n"
        b"anthropic-ratelimit-tokens-remaining: 1999900\r\n"
        b"x-envoy-upstream-service-time: %d\r\n"
        b"request-id: req_%b\r\n"
    ),
    "google": (
        b"vary: Origin, X-Origin, Referer\r\n"
        b"x-content-type-options: nosniff\r\n"
        b"x-frame-options: SAMEORIGIN\r\n"
        b"x-xss-protection: 0\r\n"
        b"server-timing: gfet4t7; dur=%d\r\n"
        b"x-request-id: %b\r\n"
    ),
    "aws": (
        b"x-amzn-bedrock-content-type: application/json\r\n"
        b"x-amzn-bedrock-invocation-latency: %d\r\n"
        b"x-amzn-requestid: %b\r\n"
    ),
    "ollama": b"x-process-time-ms: %d\r\nx-request-id: %b\r\n",
}
_HEADS: Final = {family: _TOP + own + _BOTTOM for family, own in _OWN.items()}


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
    family: Family,
    keep: bool,
    extra: bytes = b"",
    took_s: float = 0.0,
) -> bytes:
    """Give a response head. Shape: `framing` and `extra` are whole lines; without `keep` it says `connection: close`."""
    closing = b"" if keep else b"connection: close\r\n"
    phrase = _PHRASES.get(status, b"")
    took_ms = took_s * 1000 + 1
    return _HEADS[family] % (status, phrase, now.date, content_type, took_ms, ident, framing, closing, extra)
