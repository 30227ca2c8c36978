"""How a request carries the gateway's credential: a header, or a query."""

import time
from collections.abc import Callable
from typing import Final, Literal, Protocol
from urllib.parse import quote, urlsplit

from tidegate.tasks import Tasks
from tidegate.upstream.credentials import FixedKey, KeyFile
from tidegate.upstream.settings import ProviderSettings
from tidegate.upstream.sigv4 import AwsKeys, AwsSigner, CredentialsError, chain
from tidegate.verdict import PROVIDER_AUTH, AttemptFailed

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
        """Give the target as it is asked for, and the header lines that go along, each with its line end before it.

        Errors: AttemptFailed (provider_auth).
        """
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


class AwsSigning:
    """Signs each request with Signature Version 4. Shape: the host is signed with it, and no other header of ours."""

    __slots__ = ("_root", "_signer")

    def __init__(self, signer: AwsSigner, root: str) -> None:
        self._signer = signer
        self._root = root

    @property
    def fresh(self) -> bool:
        """Whether there are credentials that need no refresh."""
        return self._signer.fresh

    async def wait_fresh(self) -> None:
        """Wait for credentials."""
        try:
            await self._signer.ready()
        except CredentialsError as error:
            raise AttemptFailed(PROVIDER_AUTH, str(error)) from None

    def sign(self, method: str, target: str, body: bytes, /) -> tuple[str, bytes]:
        """Give the target as it is, and the signature's lines."""
        try:
            headers = self._signer.sign(method, self._root + target, {}, body)
        except CredentialsError as error:
            raise AttemptFailed(PROVIDER_AUTH, str(error)) from None
        return target, "".join(f"\r\n{name}: {value}" for name, value in headers).encode("latin-1")

    @property
    def secrets(self) -> tuple[str, ...]:
        """What credentials hold."""
        return secrets(*self._signer.known)


def signer_of(settings: ProviderSettings, auth: Auth, tasks: Tasks) -> Signer:
    """Give what signs a provider's requests, in the way its settings or else its kind says."""
    auth = settings.auth or auth
    if auth == "aws":
        aws = settings.aws
        keys = AwsKeys(aws.access_key_id, aws.secret_access_key, aws.session_token)
        url = urlsplit(settings.base_url)
        signer = AwsSigner(aws.region, keys if keys.access_key else chain(aws.profile), tasks, time.time)
        return AwsSigning(signer, f"{url.scheme}://{url.netloc}")
    credential = KeyFile(settings.api_key_file) if settings.api_key_file else FixedKey(settings.api_key)
    return KeySigner(auth, credential, frozenset(name.lower() for name in settings.headers))


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
