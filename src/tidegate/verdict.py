"""The one table of endings: what happened, whose doing it was, what may be tried, what the client is told.

Retry, breaker, quota, metrics, log, ledger and the error body read a row and nothing else. Pure words: no I/O, no clock.
"""

from enum import Enum
from typing import Final

from msgspec import Struct


class Party(Enum):
    """Whose doing an ending is."""

    NOBODY = "nobody"
    CLIENT = "client"
    GATEWAY = "gateway"
    UPSTREAM = "upstream"


class Again(Enum):
    """Where another attempt makes sense."""

    NEVER = "never"
    ELSEWHERE = "elsewhere"
    ANYWHERE = "anywhere"


class Verdict(Struct, frozen=True):
    """A row: `code` is the only word for an ending in logs, metrics, records and error bodies."""

    code: str
    stage: str
    party: Party
    again: Again
    trips: bool
    status: int
    meaning: str


def _rows(stage: str, party: Party, *rows: tuple[str, int, Again, bool, str]) -> dict[str, Verdict]:
    return {
        code: Verdict(code=code, stage=stage, party=party, again=again, trips=trips, status=status, meaning=meaning)
        for code, status, again, trips, meaning in rows
    }


_NEVER, _ELSEWHERE, _ANYWHERE = Again.NEVER, Again.ELSEWHERE, Again.ANYWHERE

TABLE: Final[dict[str, Verdict]] = {
    **_rows("end", Party.NOBODY, ("completed", 200, _NEVER, False, "The stream reached its terminal event.")),
    **_rows(
        "end",
        Party.CLIENT,
        ("client_gone", 499, _NEVER, False, "The client closed its connection before the end."),
        ("client_slow", 499, _NEVER, False, "The client took nothing for `server.slow_client_timeout`."),
    ),
    **_rows(
        "refusal",
        Party.CLIENT,
        ("bad_request", 400, _NEVER, False, "The request is not valid; `param` names the member."),
        ("unauthenticated", 401, _NEVER, False, "No key, or one that is not known."),
        ("unknown_model", 404, _NEVER, False, "No configured model has this name."),
        ("not_found", 404, _NEVER, False, "No route has this path."),
        ("method", 405, _NEVER, False, "The route does not answer this method; see `Allow`."),
        ("request_timeout", 408, _ANYWHERE, False, "The head or the body of the request came too slowly."),
        ("too_large", 413, _NEVER, False, "The body is larger than `server.max_body_bytes`."),
        ("media_type", 415, _NEVER, False, "The body is not `application/json`."),
        ("header_too_large", 431, _NEVER, False, "The head is larger than `server.max_header_bytes`."),
        ("rate_limited", 429, _ANYWHERE, False, "A limit of `limits.rate` is used up; `Retry-After` says until when."),
        ("too_many_failures", 429, _ANYWHERE, False, "Too many keys that are not known came from this address."),
    ),
    **_rows(
        "refusal",
        Party.GATEWAY,
        ("draining", 503, _ANYWHERE, False, "This process is shutting down and takes no new work."),
        ("connections_full", 503, _ANYWHERE, False, "`limits.max_connections`, or those of one address, are in use."),
        ("overloaded", 503, _ANYWHERE, False, "`limits.max_buffered_bytes` are held for streams and requests."),
        ("queue_full", 503, _ELSEWHERE, False, "All slots are in use, and `slots.max_queue` wait for one."),
        ("queue_timeout", 503, _ELSEWHERE, False, "No slot came free within `slots.max_queue_wait`."),
    ),
    **_rows(
        "opening",
        Party.UPSTREAM,
        (
            "connect_refused",
            502,
            _ANYWHERE,
            True,
            "The provider's address refused the connection or cannot be reached.",
        ),
        ("connect_reset", 502, _ANYWHERE, True, "The provider closed the connection before it answered."),
        ("dns_failed", 502, _NEVER, True, "The provider's host name does not resolve."),
        ("tls_failed", 502, _NEVER, True, "No trusted TLS connection to the provider could be made."),
        ("connect_timeout", 504, _ANYWHERE, True, "No connection within `timeouts.connect`."),
        ("tls_timeout", 504, _ANYWHERE, True, "Connected, but no TLS handshake within `timeouts.connect`."),
        ("headers_timeout", 504, _ANYWHERE, True, "No response head within `timeouts.headers`."),
        ("first_token_timeout", 504, _ANYWHERE, True, "No content within `timeouts.first_token`."),
        (
            "provider_auth",
            502,
            _ELSEWHERE,
            False,
            "The provider refused the gateway's own credentials (its 401 or 403).",
        ),
        ("model_unavailable", 503, _ELSEWHERE, False, "The model's own processes are not set up, or cannot be."),
        ("upstream_rate_limited", 429, _ANYWHERE, False, "The provider answered 429."),
        ("upstream_rejected", 400, _NEVER, False, "The provider refused the request; its own 4xx status is kept."),
        ("upstream_failed", 502, _ANYWHERE, True, "The provider answered 5xx, 408 or 425; the status is kept."),
        ("error_frame", 502, _ANYWHERE, True, "An error object came in a 200 before any content."),
        ("empty_stream", 502, _ANYWHERE, True, "The stream ended without any frame."),
        ("bad_frame", 502, _ELSEWHERE, True, "What the provider sent is not HTTP, not a frame or above a limit."),
    ),
    **_rows(
        "opening",
        Party.CLIENT,
        (
            "untranslatable",
            400,
            _ELSEWHERE,
            False,
            "The provider speaks another dialect, and cannot be told what `param` asks for.",
        ),
    ),
    **_rows(
        "opening",
        Party.GATEWAY,
        ("breaker_open", 503, _ELSEWHERE, False, "The target failed too often, and is left alone for a while."),
        (
            "deadline_exceeded",
            504,
            _NEVER,
            False,
            "It took longer than `server.request_timeout`, the client's `x-request-timeout` or a prediction's `timeout`.",
        ),
    ),
    **_rows(
        "streaming",
        Party.UPSTREAM,
        ("upstream_truncated", 502, _ANYWHERE, True, "The stream or body ended before its terminal event or length."),
        ("upstream_reset", 502, _ANYWHERE, True, "The provider's connection broke in mid-stream."),
        ("upstream_error_frame", 502, _ANYWHERE, True, "An error object came after content."),
        ("idle_timeout", 504, _ANYWHERE, True, "No frame within `timeouts.idle`."),
        ("total_timeout", 504, _NEVER, True, "Not finished within `timeouts.total`, or `timeouts.response`."),
    ),
    **_rows(
        "streaming",
        Party.GATEWAY,
        ("server_shutdown", 503, _ANYWHERE, False, "`server.drain_timeout` passed while this ran."),
    ),
    **_rows(
        "ours",
        Party.GATEWAY,
        ("cancelled", 500, _NEVER, False, "The gateway's own task was cancelled."),
        ("bug", 500, _NEVER, False, "An unexpected exception; the log has it."),
    ),
}

COMPLETED: Final = TABLE["completed"]
CLIENT_GONE: Final = TABLE["client_gone"]
CLIENT_SLOW: Final = TABLE["client_slow"]
BAD_REQUEST: Final = TABLE["bad_request"]
UNAUTHENTICATED: Final = TABLE["unauthenticated"]
UNKNOWN_MODEL: Final = TABLE["unknown_model"]
NOT_FOUND: Final = TABLE["not_found"]
METHOD: Final = TABLE["method"]
REQUEST_TIMEOUT: Final = TABLE["request_timeout"]
TOO_LARGE: Final = TABLE["too_large"]
MEDIA_TYPE: Final = TABLE["media_type"]
HEADER_TOO_LARGE: Final = TABLE["header_too_large"]
RATE_LIMITED: Final = TABLE["rate_limited"]
TOO_MANY_FAILURES: Final = TABLE["too_many_failures"]
DRAINING: Final = TABLE["draining"]
CONNECTIONS_FULL: Final = TABLE["connections_full"]
OVERLOADED: Final = TABLE["overloaded"]
QUEUE_FULL: Final = TABLE["queue_full"]
QUEUE_TIMEOUT: Final = TABLE["queue_timeout"]
UNTRANSLATABLE: Final = TABLE["untranslatable"]
BREAKER_OPEN: Final = TABLE["breaker_open"]
DEADLINE_EXCEEDED: Final = TABLE["deadline_exceeded"]
CONNECT_REFUSED: Final = TABLE["connect_refused"]
CONNECT_RESET: Final = TABLE["connect_reset"]
DNS_FAILED: Final = TABLE["dns_failed"]
TLS_FAILED: Final = TABLE["tls_failed"]
CONNECT_TIMEOUT: Final = TABLE["connect_timeout"]
TLS_TIMEOUT: Final = TABLE["tls_timeout"]
HEADERS_TIMEOUT: Final = TABLE["headers_timeout"]
FIRST_TOKEN_TIMEOUT: Final = TABLE["first_token_timeout"]
MODEL_UNAVAILABLE: Final = TABLE["model_unavailable"]
PROVIDER_AUTH: Final = TABLE["provider_auth"]
UPSTREAM_RATE_LIMITED: Final = TABLE["upstream_rate_limited"]
UPSTREAM_REJECTED: Final = TABLE["upstream_rejected"]
UPSTREAM_FAILED: Final = TABLE["upstream_failed"]
ERROR_FRAME: Final = TABLE["error_frame"]
EMPTY_STREAM: Final = TABLE["empty_stream"]
BAD_FRAME: Final = TABLE["bad_frame"]
UPSTREAM_TRUNCATED: Final = TABLE["upstream_truncated"]
UPSTREAM_RESET: Final = TABLE["upstream_reset"]
UPSTREAM_ERROR_FRAME: Final = TABLE["upstream_error_frame"]
IDLE_TIMEOUT: Final = TABLE["idle_timeout"]
TOTAL_TIMEOUT: Final = TABLE["total_timeout"]
SERVER_SHUTDOWN: Final = TABLE["server_shutdown"]
CANCELLED: Final = TABLE["cancelled"]
BUG: Final = TABLE["bug"]


class Fault(Exception):  # noqa: N818 (the design's word)
    """An exchange that ends before its stream is open.

    Holds: `message` and `param` are shown to the client; `status` replaces the row's where the provider's own is kept;
    `headers` go into the answer as they are (`retry-after`, `allow`); `kind` and `code` are a provider's own words; `body`, with its type
    before it, is the whole of them for a client who wants them so.
    """

    def __init__(
        self,
        verdict: Verdict,
        message: str = "",
        *,
        param: str | None = None,
        status: int = 0,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        kind: str | None = None,
        code: str | None = None,
        body: tuple[bytes, bytes] | None = None,
    ) -> None:
        super().__init__(message or verdict.meaning)
        self.verdict = verdict
        self.message = message or verdict.meaning
        self.param = param
        self.status = status or verdict.status
        self.headers = headers
        self.kind = kind
        self.code = code
        self.body = body


class Refused(Fault):
    """The edge or admission says no; nothing was sent to a provider."""


class AttemptFailed(Fault):
    """One attempt ended before its first content."""
