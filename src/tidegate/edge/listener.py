"""Listening sockets, accepting, TLS, descriptors and drain. Accepting is ours because it must survive a full descriptor table."""

import asyncio
import contextlib
import errno
import resource
import socket
import ssl
from collections.abc import Callable
from typing import Final

import structlog

from tidegate.edge.settings import TlsSettings
from tidegate.tasks import Tasks

BACKLOG: Final = 4096
ACCEPTS_A_WAKE: Final = 64
"""Connections accepted before running streams get their turn."""
EXHAUSTED_PAUSE_S: Final = 0.1
"""How long accepting rests when descriptors or memory are out: new clients wait in the backlog."""
HANDSHAKE_S: Final = 10.0
UNSENT_BYTES: Final = 128 * 1024
"""What the kernel may hold for a client beyond what is on the wire. Its own bound is some MiB a socket, which nobody counts,
and behind which a client that takes nothing looks as if it read."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class PortBusyError(Exception):
    """The address cannot be listened on; the text says which and why."""


class Listener:
    """Accepts connections on one address. Holds: the listening socket, from `open` to `close`."""

    def __init__(self, protocol: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None = None) -> None:
        self._protocol = protocol
        self.tls = tls
        self._socket: socket.socket | None = None
        self._paused: asyncio.TimerHandle | None = None
        self._tasks = Tasks()
        self._log = structlog.get_logger()
        self.exhausted = 0

    def open(self, host: str, port: int, *, shared: bool = False) -> int:
        """Listen; gives the port. Errors: PortBusyError.

        Shape: `shared` lets other processes that share it listen on the same port; the kernel spreads the connections.
        """
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, number, _, address = infos[0]
            sock = socket.socket(family, kind, number)
        except OSError as error:
            raise PortBusyError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise PortBusyError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock, self._accept)
        bound = sock.getsockname()
        return int(bound[1])

    def close(self) -> None:
        """Stop accepting; connections that are there stay."""
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def wait_closed(self) -> None:
        """Cancel handshakes that are still going on."""
        await self._tasks.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_WAKE):
            if self._socket is None:
                return
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue  # this client gave up while it waited: accept(2)
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            self._tasks.start(self._adopt(sock))

    async def _adopt(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        handshake = {"ssl": self.tls, "ssl_handshake_timeout": HANDSHAKE_S} if self.tls is not None else {}
        try:
            await loop.connect_accepted_socket(self._protocol, sock, **handshake)  # type: ignore[arg-type]
        except (OSError, asyncio.CancelledError) as error:
            sock.close()  # a failed handshake is the client's affair
            if isinstance(error, asyncio.CancelledError):
                raise

    def _pause(self, error: OSError) -> None:
        """Rest instead of spinning on a socket that stays readable."""
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        self._paused = loop.call_later(EXHAUSTED_PAUSE_S, self._resume)
        if not self.exhausted:
            self._log.warning(
                "accept_paused", reason=errno.errorcode.get(error.errno or 0, "?"), hint="raise ulimit -n"
            )
        self.exhausted += 1

    def _resume(self) -> None:
        self._paused = None
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._accept)


def tls_context(settings: TlsSettings) -> ssl.SSLContext | None:
    """Give the server's TLS context, or None for plain HTTP."""
    if not settings.cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(settings.cert, settings.key)
    return context


def raise_nofile_limit() -> int:
    """Raise the soft limit of open files to the hard one; gives the limit now in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
