"""The only way out of this room: sessions that connect to checked addresses and carry nothing of ours along.

A name is looked up once for a connection, all its addresses are judged, and those very addresses are dialled: what
the name says a moment later does not matter.
"""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from tidegate.hooks.addresses import GuardError, PrivateError, public

LOOKUPS: Final = 128
"""Names looked up at a time, twice as many as may be asked for: names that clients choose may take as long as they like
to resolve, and nothing ends a look-up whose request was given up."""
LOOKUPS_OF_A_DOMAIN: Final = 32
"""Of those, so many under the same last two labels: whoever has a domain has as many names as he likes."""
LOOKUPS_OF_A_NAME: Final = 2
"""Of those, so many of one name; who comes then gets what the newest of them finds."""
KEPT_S: Final = 2.0
"""How long an idle connection is kept: less than any common server does, which would close it under a request."""


Found = list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int]]]
Asked = tuple[str, socket.AddressFamily]


class BusyError(OSError):
    """A name that is not looked up, because too many others still are."""


def _look_up(host: str, family: socket.AddressFamily) -> Found:
    # The types of the standard library leave room for address families that are not asked for here.
    return socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)  # type: ignore[return-value]


class Lookup(AbstractResolver):
    """The system's resolver. Holds: a thread for each look-up that is under way, as many as LOOKUPS and what follows it say.

    Shape: `look_up` blocks, and says by OSError that there is no address.
    """

    def __init__(self, look_up: Callable[[str, socket.AddressFamily], Found] = _look_up) -> None:
        self._look_up = look_up
        self._going: dict[Asked, list[asyncio.Future[Found]]] = {}
        self._of: Counter[str] = Counter()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Give a name's addresses. Errors: OSError when it has none, BusyError when it was not looked up."""
        asked = host, family
        going = self._going.get(asked, [])
        answer = going[-1] if len(going) == LOOKUPS_OF_A_NAME else self._begin(asked)
        # Others may wait for the same, and a look-up cannot be stopped.
        found = await asyncio.shield(answer)
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=0)
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Do nothing: the threads end when they are through, or with the process."""

    def _begin(self, asked: Asked) -> asyncio.Future[Found]:
        domain = _domain(asked[0])
        if self._of[domain] >= LOOKUPS_OF_A_DOMAIN or self._of.total() >= LOOKUPS:
            raise BusyError("too many names are being looked up")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Found] = loop.create_future()
        answer.add_done_callback(_seen)

        def work() -> None:
            found: Found = []
            failed: OSError | None = None
            try:
                found = self._look_up(*asked)
            except OSError as error:
                failed = error
            except Exception as error:  # noqa: BLE001 (UnicodeError from names that no resolver is asked for; its place must come back)
                failed = OSError(f"{asked[0]} cannot be looked up: {type(error).__name__}")
            with suppress(RuntimeError):  # the loop may be gone by now
                loop.call_soon_threadsafe(self._end, asked, answer, found, failed)

        try:
            # No pool: its threads are waited for when the process ends, however long that takes.
            threading.Thread(target=work, name="tidegate-lookup", daemon=True).start()
        except RuntimeError as error:
            raise BusyError("no thread can be started to look it up") from error
        self._of[domain] += 1
        self._going.setdefault(asked, []).append(answer)
        return answer

    def _end(self, asked: Asked, answer: "asyncio.Future[Found]", found: Found, failed: OSError | None) -> None:
        domain, going = _domain(asked[0]), self._going[asked]
        self._of[domain] -= 1
        if not self._of[domain]:
            del self._of[domain]
        going.remove(answer)
        if not going:
            del self._going[asked]
        if failed is not None:
            answer.set_exception(failed)
        else:
            answer.set_result(found)


def _domain(host: str) -> str:
    """Give the last two labels of a name."""
    return ".".join(host.rstrip(".").lower().rsplit(".", 2)[-2:])


def _seen(answer: "asyncio.Future[Found]") -> None:
    """Take notice of what it raised, that nobody may have waited for."""
    if not answer.cancelled():
        answer.exception()


class Guarded(AbstractResolver):
    """A resolver that gives addresses of public hosts only: one address that is not spoils the name."""

    def __init__(self, inner: AbstractResolver, *, allow_private: bool) -> None:
        self._inner = inner
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Give a name's addresses. Errors: OSError when it has none, GuardError when they are not for us."""
        found = await self._inner.resolve(host, port, family)
        if not found:
            raise OSError(f"{host} has no address")
        if not self._allow_private and not all(public(each["host"]) for each in found):
            raise PrivateError(f"{host} is not on the public internet")
        return found

    async def close(self) -> None:
        """Close the resolver within."""
        await self._inner.close()


class Door:
    """One guarded session, opened with its first use. Holds: connections, until `close`.

    Shape: no cookies, no proxies or passwords from the environment; redirects are for the caller to follow.
    """

    def __init__(
        self,
        *,
        agent: str,
        allow_private: bool,
        connections: int,
        decode: bool = True,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._agent = agent
        self._resolver = Guarded(resolver or Lookup(), allow_private=allow_private)
        self._connections = connections
        self._decode = decode
        self._session: aiohttp.ClientSession | None = None
        self.closed = False

    def session(self) -> aiohttp.ClientSession:
        """Give the session. Errors: GuardError when the door is closed."""
        if self.closed:
            raise GuardError("the server is shutting down")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # No cache of names: what was judged an hour ago is no reason to trust a name now.
                connector=aiohttp.TCPConnector(
                    resolver=self._resolver,
                    use_dns_cache=False,
                    limit=self._connections,
                    keepalive_timeout=KEPT_S,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"user-agent": self._agent},
                # Callers bound the whole of what they do with one deadline.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                auto_decompress=self._decode,
                trust_env=False,
            )
        return self._session

    async def close(self) -> None:
        """Cut what is open."""
        self.closed = True
        if self._session is not None:
            await self._session.close()
        await self._resolver.close()


_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (TimeoutError, "it took too long"),
    (aiohttp.ClientConnectorCertificateError, "there is no trusted TLS connection to it"),
    (aiohttp.ClientConnectorSSLError, "there is no trusted TLS connection to it"),
    (aiohttp.ClientConnectorDNSError, "its name does not resolve"),
    (aiohttp.ClientConnectorError, "it cannot be reached"),
    (aiohttp.ClientPayloadError, "its answer broke off or cannot be decoded"),
    (aiohttp.ClientResponseError, "its answer is not HTTP"),
)
"""The first that fits counts: later ones are wider."""


def reason(error: Exception) -> str:
    """Say in a few words why a request failed, without any of its URL."""
    if isinstance(error, GuardError):
        return str(error)
    if isinstance(error, aiohttp.ClientConnectorDNSError) and isinstance(error.os_error, BusyError):
        return str(error.os_error)
    return next((words for kind, words in _REASONS if isinstance(error, kind)), "the connection broke")
