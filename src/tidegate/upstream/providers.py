"""A configured provider: where it is, how its requests are written and signed, what of its answers clients may see."""

from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, urlsplit

from tidegate.exchange import Arrival
from tidegate.tasks import Tasks
from tidegate.upstream.kinds import KINDS
from tidegate.upstream.pool import Pool
from tidegate.upstream.settings import ProviderSettings
from tidegate.upstream.signing import secrets, signer_of

_UP: Final = frozenset({b"accept", b"idempotency-key", b"traceparent", b"tracestate"})
_UP_PREFIXES: Final = (b"openai-", b"anthropic-", b"x-stainless-")
_DOWN: Final = frozenset({b"content-type", b"retry-after"})
_DOWN_PREFIXES: Final = (b"openai-", b"anthropic-")
_JSON: Final = b"\r\ncontent-type: application/json"
_RATE_LIMIT: Final = b"x-ratelimit-"
_IDS: Final = frozenset({b"request-id", b"x-request-id", b"x-amzn-requestid"})
MAX_TARGETS: Final = 64
"""Targets of requests that are remembered, with the part of the head that is always the same for them."""
MAX_NAMES: Final = 256
LONGEST_NAME: Final = 64
"""Names of a provider's headers that are remembered with what becomes of them."""


class Provider:
    """A configured provider: its kind, its pool, and the part of a request's head that never changes."""

    def __init__(self, settings: ProviderSettings, pool: Pool, authority: str, agent: str, tasks: Tasks) -> None:
        self.name = settings.name
        self.base_url = settings.base_url
        self.kind = KINDS[settings.kind]
        self.pool = pool
        self._api_version = settings.api_version
        self._path = urlsplit(settings.base_url).path.rstrip("/")
        self._values = tuple(secret for value in settings.headers.values() for secret in _secrets_in(value))
        given = {name.lower(): value for name, value in settings.headers.items()}
        self.signer = signer_of(settings, self.kind.auth, tasks)
        # Behind Amazon's door nobody reads what other doors are told in headers.
        self._prefixes = () if self.kind.auth == "aws" else _UP_PREFIXES
        fixed = {
            "host": authority,
            "user-agent": agent,
            "accept-encoding": "identity",
            **given,
        }
        self._own = frozenset(name.encode() for name in fixed)
        self._head = "".join(f"\r\n{name}: {value}" for name, value in fixed.items()).encode("latin-1")
        self._defaults = [
            (name.encode(), value.encode()) for name, value in self.kind.headers.items() if name not in fixed
        ]
        self._begun: dict[str, bytes] = {}
        self._names_down: dict[bytes, bytes] = {}
        self._signed: tuple[str, ...] | None = None
        self._secrets: tuple[str, ...] = ()
        self._secret_bytes: tuple[bytes, ...] = ()

    def write(self, arrival: Arrival, endpoint: str, model: str, body: bytes, *, passes: bool) -> bytes:
        """Give a whole request: our head, signed anew, what of the client's head may go up, and the body.

        Shape: with `passes` the client speaks the provider's dialect, and its headers may go up.
        """
        if "{" in endpoint:
            endpoint = endpoint.replace("{model}", quote(model, safe="")).replace("{api_version}", self._api_version)
        own, headers = self._own, arrival.headers
        passed = [
            (name, value)
            for name, value in headers.items()
            if (name in _UP or (passes and name.startswith(self._prefixes))) and name not in own
        ]
        for name, default in self._defaults:
            if not passes or name not in headers:
                passed.append((name, default))
        target, signed = self.signer.sign("POST", self._path + endpoint, body)
        begun = self._begun.get(target)
        if begun is None:
            begun = f"POST {target} HTTP/1.1".encode("latin-1") + self._head + _JSON
            if len(self._begun) < MAX_TARGETS:
                self._begun[target] = begun
        return _written(begun + signed, passed, arrival.request_id, body)

    def write_passage(self, arrival: Arrival, body: bytes) -> bytes:
        """Give a request that passes as it is, but for its head: the client's own credentials end here."""
        own = self._own
        passed = [
            (name, value)
            for name, value in arrival.headers.items()
            if (name in _UP or name.startswith(_UP_PREFIXES)) and name not in own
        ]
        passed += [pair for pair in self._defaults if pair[0] not in arrival.headers]
        kind = arrival.headers.get(b"content-type")
        line = b"\r\ncontent-type: " + kind if kind is not None else b""
        # SDKs add the version themselves, that most base URLs end in already.
        version = "/" + self._path.rpartition("/")[2]
        asked = arrival.target.removeprefix(version) if arrival.target.startswith(version + "/") else arrival.target
        target, signed = self.signer.sign(arrival.method, self._path + asked, body)
        begun = f"{arrival.method} {target} HTTP/1.1".encode("latin-1") + self._head + line + signed
        return _written(begun, passed, arrival.request_id, body)

    def write_listing(self) -> bytes:
        """Give the request for the provider's models."""
        target, signed = self.signer.sign("GET", self._path + self.kind.listing, b"")
        return b"".join((b"GET %b HTTP/1.1" % target.encode("latin-1"), self._head, signed, b"\r\n\r\n"))

    def redact(self, text: str) -> str:
        """Give a provider's text without the gateway's own secrets, should it quote them."""
        self._look_for_secrets()
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _look_for_secrets(self) -> None:
        """Take the secrets as they are now; they are another tuple when they are others."""
        signed = self.signer.secrets
        if signed is not self._signed:
            self._signed = signed
            self._secrets = secrets(*signed, *self._values)
            self._secret_bytes = tuple(text.encode() for text in self._secrets)

    def headers_down(self, headers: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
        """Give the headers of an answer that a client may see; the provider's own limits and ids get names of their own.

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
        self._look_for_secrets()
        return any(secret in text for secret in self._secret_bytes)


def _name_down(name: bytes) -> bytes:
    """Give the name under which a header goes to the client; empty for one that does not."""
    if name.startswith(_RATE_LIMIT):
        return b"x-upstream-" + name[2:]
    if name in _IDS:
        return b"x-upstream-request-id"
    return name if name in _DOWN or name.startswith(_DOWN_PREFIXES) else b""


def _written(begun: bytes, passed: list[tuple[bytes, bytes]], request_id: str, body: bytes) -> bytes:
    """Give a request whose head is begun."""
    lines = [begun, *[b"\r\n%b: %b" % pair for pair in passed]]
    lines += (b"\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (request_id.encode(), len(body)), body)
    return b"".join(lines)


def _secrets_in(value: str) -> Iterator[str]:
    """Give what a header's value has to hide: all of it, and what follows a scheme, which is quoted without it."""
    yield value
    _, _, credential = value.partition(" ")
    if credential:
        yield credential
