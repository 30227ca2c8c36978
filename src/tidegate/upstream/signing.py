"""How a request carries the gateway's credential: a header, or a query."""

from collections.abc import Callable
from typing import Final, Literal, Protocol
from urllib.parse import quote

Auth = Literal["bearer", "x-api-key", "api-key", "x-goog-api-key", "query", "aws"]
"""The ways: `query` is Google's `?key=`, `aws` signs each request by itself."""

MIN_SECRET_CHARS: Final = 4
"""What is shorter would turn up in words that are nobody's secret."""


class Credential(Protocol):
    """A key that may be replaced while the gateway runs."""

    def __call__(self) -> str:
        """Give the key as it is now."""
        ...

    @property
    def known(self) -> tuple[str, ...]:
        """Every value it had that an answer might still quote."""
        ...


class Signer(Protocol):
    """Signs requests to one provider."""

    @property
    def fresh(self) -> bool:
        """Whether `sign` can be called at once."""
        ...

    async def wait_fresh(self) -> None:
        """Wait until it can. Errors: AttemptFailed (provider_auth) when there is nothing to sign with."""
        ...

    def sign(self, method: str, target: str, body: bytes, /) -> tuple[str, bytes]:
        """Give the target as it is asked for, and the header lines that go along, each with its line end before it."""
        ...

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no client may see, should the provider quote it; the longest first, as one may begin with another."""
        ...


class KeySigner:
    """Signs with a key, in a header or the query. Shape: its lines are made again only when the key is another."""

    __slots__ = ("_auth", "_credential", "_key", "_lines", "_overridden", "_query", "secrets")

    fresh = True

    def __init__(self, auth: Auth, credential: Credential, overridden: frozenset[str]) -> None:
        self._auth = auth
        self._credential = credential
        self._overridden = overridden
        self._key: str | None = None
        self._lines = b""
        self._query = ""
        self.secrets: tuple[str, ...] = ()
        self._renew(credential())

    async def wait_fresh(self) -> None:
        """Nothing to wait for."""

    def sign(self, _method: str, target: str, _body: bytes, /) -> tuple[str, bytes]:
        """Give the target and the lines with the key as it is now."""
        key = self._credential()
        if key != self._key:
            self._renew(key)
        if self._query:
            target += ("&" if "?" in target else "?") + self._query
        return target, self._lines

    def _renew(self, key: str) -> None:
        self._key = key
        known = self._credential.known
        self.secrets = secrets(*known, *map(_quoted, known)) if self._auth == "query" else secrets(*known)
        if not key:
            self._lines, self._query = b"", ""
        elif self._auth == "query":
            self._query = f"key={_quoted(key)}"
        else:
            name, value = _HEADERS[self._auth](key)
            self._lines = b"" if name in self._overridden else f"\r\n{name}: {value}".encode("latin-1")


def secrets(*values: str) -> tuple[str, ...]:
    """Give what has to be hidden, the longest first."""
    return tuple(sorted({value for value in values if len(value) >= MIN_SECRET_CHARS}, key=len, reverse=True))


def _quoted(key: str) -> str:
    return quote(key, safe="")


def _bearer(key: str) -> tuple[str, str]:
    """Give `authorization: Bearer`. Source: RFC 6750 section 2.1."""
    return "authorization", f"Bearer {key}"


_HEADERS: Final[dict[str, Callable[[str], tuple[str, str]]]] = {
    "bearer": _bearer,
    "x-api-key": lambda key: ("x-api-key", key),
    "api-key": lambda key: ("api-key", key),
    "x-goog-api-key": lambda key: ("x-goog-api-key", key),
}
