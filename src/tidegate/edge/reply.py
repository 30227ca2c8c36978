"""Heads and error answers in the client's dialect."""

import email.utils
import http
import time
from typing import Final

from tidegate.dialect import Refusing
from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.anthropic.tokens import CountTokens
from tidegate.exchange import ReplyHead
from tidegate.verdict import Again, Fault

_REASONS: Final = {status.value: status.phrase.encode() for status in http.HTTPStatus}
_EVENTS: Final = b"text/event-stream"
_MESSAGES: Final = frozenset({Anthropic.name, CountTokens.name})
"""Whose clients know a request's id by another name. Source: Anthropic, "Errors", "Request id"."""


class Dates:
    """The Date header's value, made once a second."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def now(self) -> bytes:
        """Give the date in HTTP's form."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = email.utils.formatdate(second, usegmt=True).encode()
        return self._text


def render(head: ReplyHead, dialect: Refusing, request_id: str, date: bytes, *, framing: bytes, keeps: bool) -> bytes:
    """Give a reply's head as bytes. Shape: `framing` is a header line that says how the body ends, or empty."""
    status = head.status
    parts = [b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b"Unknown"))]
    for name, value in head.headers:
        parts.append(b"%b: %b\r\n" % (name, value))
        if name == b"content-type" and value.startswith(_EVENTS):
            # Proxies buffer by default; nginx obeys the second line.
            parts.append(b"cache-control: no-cache\r\nx-accel-buffering: no\r\n")
    ident = request_id.encode()
    parts.append(b"x-request-id: %b\r\ndate: %b\r\n%b" % (ident, date, framing))
    if dialect.name in _MESSAGES:
        parts.append(b"request-id: %b\r\n" % ident)
    parts.append(b"\r\n" if keeps else b"connection: close\r\n\r\n")
    return b"".join(parts)


def refusal(fault: Fault, dialect: Refusing, request_id: str, date: bytes, *, keeps: bool) -> bytes:
    """Give a whole error answer."""
    kind, body = fault.body or (b"application/json", error_body(fault, dialect))
    headers = [(b"content-type", kind), *fault.headers]
    if fault.verdict.again is Again.NEVER:
        headers.append((b"x-should-retry", b"false"))
    # A provider's own status is kept, or was translated with its words.
    status = dialect.status(fault.status) if fault.status == fault.verdict.status else fault.status
    head = ReplyHead(status, tuple(headers))
    framing = b"content-length: %d\r\n" % len(body)
    return render(head, dialect, request_id, date, framing=framing, keeps=keeps) + body


def error_body(fault: Fault, dialect: Refusing) -> bytes:
    """Give a fault in the dialect's envelope: a provider's own code stays its own, else the table's word."""
    code = fault.code or fault.verdict.code
    return dialect.error_body(code, fault.message, kind=fault.kind, param=fault.param, status=fault.status)
