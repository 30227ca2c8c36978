"""Who asks: a key's digest looked up in one dict. The key itself is kept nowhere."""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from tidegate.admission.address import group
from tidegate.admission.settings import AuthSettings
from tidegate.admission.store import Buckets, Charge, Limit
from tidegate.exchange import Identity
from tidegate.kernel.backoff import retry_after
from tidegate.verdict import TOO_MANY_FAILURES, UNAUTHENTICATED, Refused

FAILURES_PER_MINUTE: Final = 20
_FAILURES: Final = Limit.per_minute("failures", "ip", "requests", FAILURES_PER_MINUTE)

_HEADERS: Final = (b"x-api-key", b"api-key", b"x-goog-api-key")
_KEY: Final = re.compile(rb"[!-~]{8,256}")
"""What can be a key at all: 8 to 256 printable characters without spaces. Checked before anything is hashed."""

NOBODY: Final = Identity()


class Gate(Protocol):
    """Says who asks, from a request's headers alone."""

    def identify(self, headers: Mapping[bytes, bytes], /) -> Identity:
        """Give who asks. Errors: Refused (unauthenticated)."""
        ...


class OpenGate:
    """Lets everybody in."""

    def identify(self, headers: Mapping[bytes, bytes], /) -> Identity:  # noqa: ARG002
        """Give nobody in particular."""
        return NOBODY


class KeyGate:
    """Lets the holders of configured keys in."""

    def __init__(self, settings: AuthSettings) -> None:
        self._known = {
            bytes.fromhex(key.sha256): (bytes.fromhex(key.sha256), Identity(key_id=key.id, tenant=key.tenant))
            for key in settings.keys
        }

    def identify(self, headers: Mapping[bytes, bytes], /) -> Identity:
        """Give the key's owner. Errors: Refused (unauthenticated)."""
        key = credential(headers)
        if not key:
            raise Refused(UNAUTHENTICATED, "no API key: send it as 'Authorization: Bearer KEY'")
        if _KEY.fullmatch(key) is None:
            raise Refused(UNAUTHENTICATED, "the API key is malformed")
        digest = hashlib.sha256(key).digest()
        found = self._known.get(digest)
        # The dict finds by a hash of the digest; the compare that decides takes the same time for all.
        if found is None or not hmac.compare_digest(found[0], digest):
            raise Refused(UNAUTHENTICATED, "the API key is not known")
        return found[1]


class Door:
    """A gate that tells addresses with many failing attempts to wait. A good key from there still passes.

    Holds: a count for each address that failed within the last minute, bounded as the store's are.
    """

    def __init__(self, gate: Gate, clock: Callable[[], float], chance: Callable[[], float]) -> None:
        self._gate = gate
        self._clock = clock
        self._chance = chance
        self._failures = Buckets()

    def use(self, gate: Gate) -> None:
        """Let another gate decide; who has failed before is remembered."""
        self._gate = gate

    @property
    def open(self) -> bool:
        """Whether nobody needs a key."""
        return isinstance(self._gate, OpenGate)

    def identify(self, headers: Mapping[bytes, bytes], address: str, /) -> Identity:
        """Give who asks. Errors: Refused (unauthenticated, too_many_failures)."""
        try:
            return self._gate.identify(headers)
        except Refused as fault:
            level = self._failures.take(Charge(_FAILURES, group(address), 1), self._clock())
            if not level.wait_s:
                raise
            wait = retry_after(level.wait_s, self._chance())
            raise Refused(TOO_MANY_FAILURES, headers=(wait,)) from fault


def gate(settings: AuthSettings) -> Gate:
    """Give the gate that the settings ask for."""
    return OpenGate() if settings.mode == "open" else KeyGate(settings)


def credential(headers: Mapping[bytes, bytes]) -> bytes:
    """Give the key that a client sent in one of the usual headers, or nothing."""
    value = headers.get(b"authorization", b"")
    if value:
        scheme, _, key = value.partition(b" ")
        return key.strip() if scheme.lower() == b"bearer" else b""
    for name in _HEADERS:
        if value := headers.get(name, b""):
            return value
    return b""


def hash_key(key: str) -> str:
    """Give the hex digest that the configuration holds instead of a key. Errors: ValueError for what can be no key."""
    raw = key.encode()
    if _KEY.fullmatch(raw) is None:
        raise ValueError("a key is 8 to 256 printable ASCII characters without spaces")
    return hashlib.sha256(raw).hexdigest()
