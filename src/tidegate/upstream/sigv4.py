"""Requests to AWS, signed by botocore's Signature Version 4, with credentials that are there before they are needed.

botocore is an extra, and slow to import: it is imported when a signer is made, and its credential chain, which reads files
and asks servers, runs in a worker thread.

    left of the credentials     ready()
    more than 5 min             gives at once
    5 min to 1 min              begins a refresh, and gives at once
    less than 1 min, or none    waits for the refresh; should it fail, the old ones are used until their end
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from math import inf
from typing import Any, Final
from urllib.parse import quote

from msgspec import Struct

from tidegate.tasks import Tasks

INSTALL: Final = "pip install 'tidegate[bedrock]'"
SOFT_S: Final = 300.0
"""How long before their end credentials are looked for anew."""
HARD_S: Final = 60.0
"""How long before their end new ones are waited for."""
PAUSE_S: Final = 10.0
"""How long the outcome of a refresh stands before there is another."""
RESOLVE_S: Final = 30.0
"""How long a refresh may take."""

Headers = tuple[tuple[str, str], ...]


class MissingExtraError(Exception):
    """botocore is not installed. Holds: the line to type as its message."""


class CredentialsError(Exception):
    """There are no credentials to sign with. Holds: why as its message."""


class AwsKeys(Struct, frozen=True):
    """Credentials as AWS gives them. Shape: `expires_at` is in seconds of the Unix epoch."""

    access_key: str
    secret_key: str
    session_token: str = ""
    expires_at: float = inf

    def __repr__(self) -> str:
        return "AwsKeys(***)"


def missing_extra() -> str:
    """Give the line to type where botocore is not installed, else nothing. Shape: looks for it, without an import."""
    return "" if find_spec("botocore") is not None else INSTALL


def segment(text: str) -> str:
    """Give a text, such as a model's id, as one segment of a request line's path."""
    return quote(text, safe="")


def chain(profile: str = "") -> Callable[[], AwsKeys]:
    """Give what asks botocore's credential chain: environment, files, web identity, container, instance. It blocks.

    Shape: each call begins anew, so that nothing is kept but by whoever calls.
    """

    def resolve() -> AwsKeys:
        from botocore.session import Session  # noqa: PLC0415 (an extra)

        return keys_of(Session(profile=profile or None).get_credentials())

    return resolve


def keys_of(credentials: Any) -> AwsKeys:
    """Read botocore's credentials. Errors: CredentialsError when there are none, and botocore's own."""
    if credentials is None:
        raise CredentialsError("botocore finds no AWS credentials: not in the environment, a profile, nor a role")
    frozen = credentials.get_frozen_credentials()
    # botocore tells nobody else when they expire; it is known once they are frozen.
    expiry = getattr(credentials, "_expiry_time", None)
    return AwsKeys(
        frozen.access_key, frozen.secret_key, frozen.token or "", expiry.timestamp() if expiry is not None else inf
    )


class AwsSigner:
    """Signs one service's requests in one region.

    Shape: `credentials` are the ones to use, or what blocks and gives them, which is called in a worker thread, one call at
    a time. `clock` gives seconds of the Unix epoch. `failure` says why the last refresh failed, '' when it did not.
    Holds: a task of `tasks` while credentials are refreshed; the last two, as answers may still quote them.
    Errors: MissingExtraError.
    """

    __slots__ = (
        "_clock", "_keys", "_last", "_refreshing", "_region", "_request", "_resolve", "_retry_at", "_service", "_sigv4",
        "_tasks", "failure",
    )  # fmt: skip

    def __init__(
        self,
        region: str,
        credentials: AwsKeys | Callable[[], AwsKeys],
        tasks: Tasks,
        clock: Callable[[], float],
        *,
        service: str = "bedrock",
    ) -> None:
        self._sigv4, self._request = _botocore()
        self._region = region
        self._service = service
        self._keys = credentials if isinstance(credentials, AwsKeys) else None
        self._resolve = (lambda: credentials) if isinstance(credentials, AwsKeys) else credentials
        self._last: AwsKeys | None = None
        self._tasks = tasks
        self._clock = clock
        self._refreshing: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self.failure = ""

    @property
    def known(self) -> tuple[str, ...]:
        """Every secret it had that an answer might still quote."""
        both = [keys for keys in (self._keys, self._last) if keys is not None]
        return tuple(
            secret for keys in both for secret in (keys.secret_key, keys.session_token, keys.access_key) if secret
        )

    @property
    def fresh(self) -> bool:
        """Whether `ready` has nothing to do."""
        left = self._left()
        if left > SOFT_S:
            return True
        if self._refreshing is not None:
            return left > HARD_S
        return left > 0 and self._clock() < self._retry_at

    async def ready(self) -> None:
        """Wait until there are credentials to sign with. Errors: CredentialsError when there are none."""
        if self.fresh:
            return
        if self._refreshing is None and self._clock() >= self._retry_at:
            self._refreshing = self._tasks.spawn(self._refresh())
        if self._refreshing is not None and self._left() <= HARD_S:
            await asyncio.wait((self._refreshing,))
        if self._left() <= 0:
            raise CredentialsError(self.failure or "the AWS credentials have expired")

    def sign(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Headers:
        """Give the headers to add. Shape: `url` is percent-encoded once, as in the request line.

        All of `headers` are signed but those that proxies change, and so is the host, as in `url` where it is not among them.
        Errors: CredentialsError.
        Source: measurement: 55 µs for a body of 2 kB, 0.6 ms for one of 1 MB; the import of botocore took 0.1 s.
        """
        keys = self._keys
        if keys is None:
            raise CredentialsError(self.failure or "there are no AWS credentials yet")
        stamp = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y%m%dT%H%M%SZ")
        added = (("x-amz-date", stamp), ("x-amz-security-token", keys.session_token))[: 2 if keys.session_token else 1]
        request = self._request(method, url, {**headers, **dict(added)}, body)
        request.context["timestamp"] = stamp
        # Its parts and not its `add_auth`, which takes no clock, and writes the token into the log.
        auth = self._sigv4(keys, self._service, self._region)
        signature = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
        names = auth.signed_headers(auth.headers_to_sign(request))
        credential = f"Credential={auth.scope(request)}, SignedHeaders={names}, Signature={signature}"
        return (("authorization", f"AWS4-HMAC-SHA256 {credential}"), *added)

    def _left(self) -> float:
        """Give the seconds until the credentials end; none where there are none."""
        return self._keys.expires_at - self._clock() if self._keys is not None else 0.0

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(RESOLVE_S):
                keys = await asyncio.to_thread(self._resolve)
        except Exception as error:  # noqa: BLE001 (botocore's providers raise what their transports do)
            self.failure = f"AWS credentials could not be had: {str(error) or f'not within {RESOLVE_S:g} s'}"
        else:
            self.failure = ""
            if keys != self._keys:
                self._last, self._keys = self._keys, keys
        finally:
            self._retry_at = self._clock() + PAUSE_S
            self._refreshing = None


def _botocore() -> tuple[Any, Any]:
    """Give the class that signs, and that of a request. Errors: MissingExtraError."""
    try:
        from botocore.auth import SigV4Auth  # noqa: PLC0415 (an extra)
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415 (an extra)
    except ImportError:
        raise MissingExtraError(INSTALL) from None
    return SigV4Auth, AWSRequest
