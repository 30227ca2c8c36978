"""Makes connections: name look-up, happy eyeballs, a proxy's CONNECT, TLS. What fails is an AttemptFailed with its row."""

import asyncio
import ipaddress
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import aiohappyeyeballs
from msgspec import Struct

from tidegate.upstream.connection import UpstreamConnection
from tidegate.verdict import CONNECT_REFUSED, CONNECT_RESET, DNS_FAILED, TLS_FAILED, TLS_TIMEOUT, AttemptFailed

HANDSHAKES: Final = 64
"""TLS handshakes at a time: each is milliseconds of CPU, and a herd of them starves running streams."""
KEEPALIVE_S: Final = 15
"""Silence after which the kernel asks a provider's host whether it is there; it is gone after twice as long."""
HAPPY_EYEBALLS_DELAY_S: Final = 0.25
"""RFC 8305 section 5."""
MAX_PROXY_REPLY_BYTES: Final = 16 * 1024

AddressInfo = tuple[int, int, int, str, tuple[object, ...]]


class Origin(Struct, frozen=True):
    """Where connections go. Shape: `proxy` is an http:// URL, or empty."""

    scheme: str
    host: str
    port: int
    ca_file: str = ""
    proxy: str = ""

    @property
    def authority(self) -> str:
        """The Host header's value: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"http": 80, "https": 443}[self.scheme]
        return host if self.port == usual else f"{host}:{self.port}"

    @staticmethod
    def of(base_url: str, ca_file: str = "", proxy: str = "") -> "Origin":
        """Give the origin of a URL that the configuration has checked."""
        url: SplitResult = urlsplit(base_url)
        return Origin(
            url.scheme, url.hostname or "", url.port or (443 if url.scheme == "https" else 80), ca_file, proxy
        )


class Dialer:
    """Dials one origin. Holds: one TLS context; at most HANDSHAKES handshakes at a time."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._handshakes = asyncio.Semaphore(HANDSHAKES)
        self._tls: ssl.SSLContext | None = None
        if origin.scheme == "https":
            self._tls = ssl.create_default_context(cafile=origin.ca_file or None)
            self._tls.set_alpn_protocols(["http/1.1"])

    async def connect(self, connection: UpstreamConnection, on_tls: Callable[[], None] = lambda: None) -> None:
        """Connect a protocol; `on_tls` hears when the handshake begins. Errors: AttemptFailed (dns_failed, connect_refused, connect_reset, tls_failed)."""
        origin = self._origin
        try:
            if origin.proxy:
                sock = await self._through_proxy(origin)
            else:
                sock = await _reach(origin.host, origin.port)
        except (socket.gaierror, UnicodeError) as error:  # the latter from names that no resolver is asked for
            whose, host = ("proxy", urlsplit(origin.proxy).hostname) if origin.proxy else ("provider", origin.host)
            raise AttemptFailed(DNS_FAILED, f"the {whose}'s host name {host!r} does not resolve") from error
        except ConnectionResetError as error:
            raise AttemptFailed(CONNECT_RESET) from error
        except OSError as error:
            raise AttemptFailed(CONNECT_REFUSED, _why(origin, error)) from error
        try:
            await self._adopt(sock, connection, on_tls)
        except BaseException:
            sock.close()
            raise

    async def _adopt(self, sock: socket.socket, connection: UpstreamConnection, on_tls: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        if self._tls is None:
            await loop.create_connection(lambda: connection, sock=sock)
            return
        try:
            async with self._handshakes:
                on_tls()
                await loop.create_connection(
                    lambda: connection, sock=sock, ssl=self._tls, server_hostname=self._origin.host
                )
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or "handshake failed"
            raise AttemptFailed(TLS_FAILED, f"no trusted TLS connection to {self._origin.host!r}: {reason}") from error
        except TimeoutError as error:
            raise AttemptFailed(TLS_TIMEOUT) from error
        except OSError as error:
            raise AttemptFailed(TLS_FAILED, f"{self._origin.host!r} closed the connection during TLS") from error

    async def _through_proxy(self, origin: Origin) -> socket.socket:
        proxy = urlsplit(origin.proxy)
        sock = await _reach(proxy.hostname or "", proxy.port or 8080)
        try:
            await _tunnel(sock, origin, proxy)
        except BaseException:
            sock.close()
            raise
        return sock


async def _reach(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    infos: list[AddressInfo] = await _addresses(loop, host, port)
    sock = await aiohappyeyeballs.start_connection(
        infos,
        happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY_S,
    )
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _keep_alive(sock)
    return sock


def _keep_alive(sock: socket.socket) -> None:
    """Have the kernel find out about a peer that vanished without a word, where it can."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_S // 3),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 2000 * KEEPALIVE_S),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _addresses(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[AddressInfo]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return list(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    # A literal needs no resolver and none of its threads.
    if address.version == 4:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
    return [(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0))]


async def _tunnel(sock: socket.socket, origin: Origin, proxy: SplitResult) -> None:
    """Ask a proxy for a tunnel. Source: RFC 9110 section 9.3.6."""
    loop = asyncio.get_running_loop()
    target = f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"host: {target}"]
    if proxy.username is not None:
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        lines.append(f"proxy-authorization: Basic {b64encode(pair.encode()).decode()}")
    await loop.sock_sendall(sock, ("\r\n".join(lines) + "\r\n\r\n").encode())
    reply = b""
    while b"\r\n\r\n" not in reply:
        data = await loop.sock_recv(sock, 4096)
        reply += data
        if not data or len(reply) > MAX_PROXY_REPLY_BYTES:
            raise ConnectionResetError("the proxy closed the connection or sent too much")
    status = reply.split(b" ", 2)[1:2]
    if status != [b"200"]:
        said = status[0].decode("latin-1") if status else "nothing"
        raise ConnectionRefusedError(f"the proxy answered {said[:3]} to CONNECT")


def _why(origin: Origin, error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError) and origin.proxy:
        return str(error) if "proxy" in str(error) else "the proxy refused the connection"
    if isinstance(error, ConnectionRefusedError):
        return f"{origin.host}:{origin.port} refused the connection"
    return f"{origin.host}:{origin.port} cannot be reached"
