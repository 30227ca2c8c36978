"""Providers as rows: dialect × framing × signer × endpoint. A provider is a row, not a class."""

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from tidegate.dialect import Dialect
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.exchange import Arrival
from tidegate.upstream.pool import Pool
from tidegate.upstream.settings import ProviderSettings
from tidegate.wire import Framer
from tidegate.wire.sse import SseFramer

Signer = Callable[[str], tuple[tuple[str, str], ...]]
"""Gives the headers that carry a credential."""

_UP: Final = frozenset({b"accept", b"idempotency-key", b"traceparent", b"tracestate"})
_UP_PREFIXES: Final = (b"openai-", b"anthropic-", b"x-stainless-")
_DOWN: Final = frozenset({b"content-type", b"retry-after"})
_DOWN_PREFIXES: Final = (b"openai-", b"anthropic-")
_RATE_LIMIT: Final = b"x-ratelimit-"


def bearer(credential: str) -> tuple[tuple[str, str], ...]:
    """Give `authorization: Bearer`. Source: RFC 6750 section 2.1."""
    return (("authorization", f"Bearer {credential}"),) if credential else ()


class Row(Struct, frozen=True):
    """What is common to all providers of one kind."""

    dialect: Dialect
    framer: Callable[[], Framer]
    signer: Signer
    endpoint: str


ROWS: Final[Mapping[str, Row]] = {
    "openai": Row(OpenAIChat(), SseFramer, bearer, "/chat/completions"),
    "mock": Row(OpenAIChat(), SseFramer, bearer, "/chat/completions"),
}


class Provider:
    """A configured provider: its row, its pool, and the part of a request's head that never changes."""

    def __init__(self, settings: ProviderSettings, pool: Pool, authority: str, agent: str) -> None:
        self.name = settings.name
        self.row = ROWS[settings.kind]
        self.pool = pool
        self._secrets = tuple(
            str(secret) for secret in (settings.api_key, *settings.headers.values()) if len(secret) > 3
        )
        self._secret_bytes = tuple(secret.encode() for secret in self._secrets)
        path = urlsplit(settings.base_url).path.rstrip("/") + self.row.endpoint
        fixed = {
            "host": authority,
            "user-agent": agent,
            "content-type": "application/json",
            "accept-encoding": "identity",
            **dict(self.row.signer(settings.api_key)),
            **{name.lower(): value for name, value in settings.headers.items()},
        }
        self._own = frozenset(name.encode() for name in fixed)
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fixed.items())]
        self._prefix = "\r\n".join(lines).encode("latin-1")

    def write(self, arrival: Arrival, body: bytes) -> bytes:
        """Give a whole request: our head, what of the client's head may go up, and the body."""
        parts = [self._prefix]
        own = self._own
        for name, value in arrival.headers.items():
            if (name in _UP or name.startswith(_UP_PREFIXES)) and name not in own:
                parts.append(b"\r\n%b: %b" % (name, value))
        parts.append(b"\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (arrival.request_id.encode(), len(body)))
        parts.append(body)
        return b"".join(parts)

    def redact(self, text: str) -> str:
        """Give a provider's text without the gateway's own secrets, should it quote them."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def headers_down(self, headers: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
        """Give the headers of an answer that a client may see; the provider's own limits get a name of their own.

        One that quotes a secret of the gateway is left out.
        """
        down = []
        for name, value in headers:
            if any(secret in value for secret in self._secret_bytes):
                continue
            if name in _DOWN or name.startswith(_DOWN_PREFIXES):
                down.append((name, value))
            elif name.startswith(_RATE_LIMIT):
                down.append((b"x-upstream-" + name[2:], value))
        return tuple(down)
