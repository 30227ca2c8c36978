"""Providers as rows: dialect × framing × signer × endpoint. A provider is a row, not a class."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from tidegate.dialect import Dialect
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.exchange import Arrival
from tidegate.upstream.credentials import FixedKey, KeyFile
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
MAX_NAMES: Final = 256
LONGEST_NAME: Final = 64
"""Names of a provider's headers that are remembered with what becomes of them."""

MIN_SECRET_CHARS: Final = 4
"""What is shorter would turn up in words that are nobody's secret."""


def bearer(credential: str) -> tuple[tuple[str, str], ...]:
    """Give `authorization: Bearer`. Source: RFC 6750 section 2.1."""
    return (("authorization", f"Bearer {credential}"),) if credential else ()


class Row(Struct, frozen=True):
    """What is common to all providers of one kind."""

    dialect: Dialect
    framer: Callable[[], Framer]
    signer: Signer
    endpoint: str
    listing: str = "/models"


ROWS: Final[Mapping[str, Row]] = {
    "openai": Row(OpenAIChat(), SseFramer, bearer, "/chat/completions"),
    "mock": Row(OpenAIChat(), SseFramer, bearer, "/chat/completions"),
}


class Provider:
    """A configured provider: its row, its pool, and the part of a request's head that never changes."""

    def __init__(self, settings: ProviderSettings, pool: Pool, authority: str, agent: str) -> None:
        self.name = settings.name
        self.base_url = settings.base_url
        self.row = ROWS[settings.kind]
        self.pool = pool
        self._credential = KeyFile(settings.api_key_file) if settings.api_key_file else FixedKey(settings.api_key)
        self._values = tuple(secret for value in settings.headers.values() for secret in _secrets_in(value))
        path = urlsplit(settings.base_url).path.rstrip("/")
        fixed = {
            "host": authority,
            "user-agent": agent,
            "content-type": "application/json",
            "accept-encoding": "identity",
            **{name.lower(): value for name, value in settings.headers.items()},
        }
        self._own = frozenset(name.encode() for name in fixed)
        head = "".join(f"\r\n{name}: {value}" for name, value in fixed.items())
        self._prefix = f"POST {path}{self.row.endpoint} HTTP/1.1{head}".encode("latin-1")
        self._listing = f"GET {path}{self.row.listing} HTTP/1.1{head}".encode("latin-1")
        self._overridden = frozenset(name.lower() for name in settings.headers)
        self._names_down: dict[bytes, bytes] = {}
        self._signed_with: str | None = None
        self._signed = b""
        self._secrets: tuple[str, ...] = ()
        self._secret_bytes: tuple[bytes, ...] = ()
        self._sign()

    def write(self, arrival: Arrival, body: bytes) -> bytes:
        """Give a whole request: our head, signed anew, what of the client's head may go up, and the body."""
        parts = [self._prefix, self._sign()]
        own = self._own
        for name, value in arrival.headers.items():
            if (name in _UP or name.startswith(_UP_PREFIXES)) and name not in own:
                parts.append(b"\r\n%b: %b" % (name, value))
        parts.append(b"\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (arrival.request_id.encode(), len(body)))
        parts.append(body)
        return b"".join(parts)

    def write_listing(self) -> bytes:
        """Give the request for the provider's models."""
        return b"".join((self._listing, self._sign(), b"\r\n\r\n"))

    def redact(self, text: str) -> str:
        """Give a provider's text without the gateway's own secrets, should it quote them."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _sign(self) -> bytes:
        """Give the lines that carry the credential as it is now; made again only when it is another."""
        key = self._credential()
        if key != self._signed_with:
            lines = [f"\r\n{name}: {value}" for name, value in self.row.signer(key) if name not in self._overridden]
            self._signed_with, self._signed = key, "".join(lines).encode("latin-1")
            secrets = {text for text in (*self._credential.known, *self._values) if len(text) >= MIN_SECRET_CHARS}
            self._secrets = tuple(sorted(secrets, key=len, reverse=True))  # one may begin with another
            self._secret_bytes = tuple(text.encode() for text in self._secrets)
        return self._signed

    def headers_down(self, headers: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
        """Give the headers of an answer that a client may see; the provider's own limits get a name of their own.

        One that quotes a secret of the gateway is left out.
        """
        names = self._names_down
        down = []
        for name, value in headers:
            shown = names.get(name)
            if shown is None:
                shown = _name_down(name)
                if len(names) < MAX_NAMES and len(name) <= LONGEST_NAME:
                    names[name] = shown
            if shown:
                down.append((shown, value))
        if self._quotes(b"\n".join([value for _, value in down])):
            down = [(name, value) for name, value in down if not self._quotes(value)]
        return tuple(down)

    def _quotes(self, text: bytes) -> bool:
        """Whether a text holds a secret of the gateway."""
        return any(secret in text for secret in self._secret_bytes)


def _name_down(name: bytes) -> bytes:
    """Give the name under which a header goes to the client; empty for one that does not."""
    if name.startswith(_RATE_LIMIT):
        return b"x-upstream-" + name[2:]
    return name if name in _DOWN or name.startswith(_DOWN_PREFIXES) else b""


def _secrets_in(value: str) -> Iterator[str]:
    """Give what a header's value has to hide: all of it, and what follows a scheme, which is quoted without it."""
    yield value
    _, _, credential = value.partition(" ")
    if credential:
        yield credential
