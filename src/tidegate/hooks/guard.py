"""The only way out of this room: sessions that connect to checked addresses and carry nothing of ours along.

A name is looked up once for a connection, all its addresses are judged, and those very addresses are dialled: what
the name says a moment later does not matter.
"""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from tidegate.hooks.addresses import GuardError, public

LOOKUPS: Final = 16
"""Names looked up at a time. Threads of their own: names that clients choose may take as long as they like to resolve."""
KEPT_S: Final = 2.0
"""How long an idle connection is kept: less than any common server does, which would close it under a request."""


class Lookup(AbstractResolver):
    """The system's resolver. Holds: LOOKUPS threads, from the first name to `close`."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="tidegate-hooks")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Give a name's addresses. Errors: OSError when it has none."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, _look_up, host, port, family)
        except UnicodeError as error:  # from names that no resolver is asked for
            raise OSError(f"{host} is no name") from error
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=0)
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Let the threads end, when they are through."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(
    host: str, port: int, family: socket.AddressFamily
) -> list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int]]]:
    # The types of the standard library leave room for address families that are not asked for here.
    return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)  # type: ignore[return-value]


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
            raise GuardError(f"{host} is not on the public internet")
        return found

    async def close(self) -> None:
        """Close the resolver within."""
        await self._inner.close()


class Door:
    """One guarded session, opened with its first use. Holds: connections and threads, until `close`.

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
    return next((words for kind, words in _REASONS if isinstance(error, kind)), "the connection broke")
