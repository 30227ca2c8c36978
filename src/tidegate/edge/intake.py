"""A request's head: parsed by httptools, held to the rules that keep two parsers from disagreeing about it."""

import os
import re
import time
from typing import Final

import httptools
from msgspec import Struct

from tidegate.verdict import BAD_REQUEST, Refused

CHUNKED: Final = -1

_REQUEST_ID: Final = re.compile(rb"[!-~]{1,128}")
_PLAIN_PATH: Final = re.compile(rb"/[0-9A-Za-z_./-]*")
_VARIANT: Final = {f"{digit:x}": f"{digit & 0x3 | 0x8:x}" for digit in range(16)}
_LEADING: Final = re.compile(rb"(?:\r\n)*[A-Z]")


class Head(Struct, frozen=True):
    """What a request's head says.

    Shape: `query` comes with its question mark; `length` is the body's bytes, or CHUNKED; header names are lower case.
    """

    method: bytes
    path: bytes
    version: str
    headers: dict[bytes, bytes]
    length: int
    keeps: bool
    expects: bool
    query: bytes = b""


class _Collector:
    """What httptools tells about one head."""

    __slots__ = ("headers", "repeated", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.repeated: set[bytes] = set()

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self.headers
        if name in headers:
            self.repeated.add(name)
            headers[name] += b", " + value
        else:
            headers[name] = value


def plausible(start: bytes | bytearray) -> bool:
    """Say whether bytes can begin a request at all; a TLS hello on a plain port cannot."""
    return _LEADING.match(start) is not None or not bytes(start).strip(b"\r\n")


def parse(raw: bytes) -> Head:
    """Parse a head, blank line included. Errors: Refused (bad_request)."""
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # an offer that a server may ignore: RFC 9110 section 7.8
    except httptools.HttpParserError as error:
        raise Refused(BAD_REQUEST, "the request is not valid HTTP/1.1") from error
    version = parser.get_http_version()
    headers = collector.headers
    _check(version, headers, collector.repeated)
    path, query = _split(collector.target)
    length = CHUNKED if b"transfer-encoding" in headers else int(headers.get(b"content-length", b"0"))
    return Head(
        method=parser.get_method(),
        path=path,
        version=version,
        headers=headers,
        length=length,
        keeps=version == "1.1" and b"close" not in headers.get(b"connection", b"").lower(),
        expects=version == "1.1" and headers.get(b"expect", b"").lower() == b"100-continue",
        query=query,
    )


def _split(target: bytes) -> tuple[bytes, bytes]:
    """Give path and query of an origin-form or absolute-form target. Errors: Refused. Source: RFC 9112 section 3.2."""
    if _PLAIN_PATH.fullmatch(target) is not None:
        return target, b""  # nearly all are: a third of the time
    try:
        url = httptools.parse_url(target) if target.isascii() else None
    except httptools.HttpParserInvalidURLError:
        url = None
    path: bytes | None = getattr(url, "path", None)
    query: bytes | None = getattr(url, "query", None)
    if path is None or not path.startswith(b"/"):
        raise Refused(BAD_REQUEST, "the request's target is not a path or URL")
    return path, b"" if query is None else b"?" + query


def _check(version: str, headers: dict[bytes, bytes], repeated: set[bytes]) -> None:
    """Refuse what proxies and servers have read differently. Source: RFC 9112 sections 3.2, 6.1, 6.3 and 11.2."""
    if version not in {"1.1", "1.0"}:
        raise Refused(BAD_REQUEST, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if (version == "1.1" and b"host" not in headers) or b"host" in repeated:
        raise Refused(BAD_REQUEST, "there must be exactly one Host header")
    if b"content-length" in repeated:
        raise Refused(BAD_REQUEST, "there is more than one Content-Length")
    length = headers.get(b"content-length")
    if length is not None and not (length.isdigit() and len(length) < 20):
        raise Refused(BAD_REQUEST, "Content-Length is not a number")
    coding = headers.get(b"transfer-encoding")
    if coding is None:
        return
    if length is not None:
        raise Refused(BAD_REQUEST, "Content-Length and Transfer-Encoding exclude each other")
    if version == "1.0":
        raise Refused(BAD_REQUEST, "HTTP/1.0 has no Transfer-Encoding")
    if coding.strip().lower() != b"chunked":
        raise Refused(BAD_REQUEST, "the only Transfer-Encoding here is chunked")


def request_id(headers: dict[bytes, bytes]) -> str:
    """Give the client's own request id where it can be logged as it is, else a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return uuid7()


def uuid7() -> str:
    """Give a new id that sorts by time. Source: RFC 9562 section 5.7."""
    text = f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
    # The version, and the variant's two bits before the rest of that digit.
    return f"{text[:8]}-{text[8:12]}-7{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}"
