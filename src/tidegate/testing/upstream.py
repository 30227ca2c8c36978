"""A provider that says exactly the bytes a test wants, when it wants: lies, cuts and silences included."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
"""The usual head of a stream."""
LAST = b"0\r\n\r\n"
"""The chunk that ends a body."""
MAX_REQUEST_BYTES = 32 * 1024 * 1024


class Peer:
    """One connection of a scripted upstream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.requests: list[tuple[bytes, bytes]] = []

    async def request(self) -> tuple[bytes, bytes]:
        """Read one request; gives head and body. Errors: EOFError when there is none."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise EOFError from error
        length = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = await self._reader.readexactly(length)
        self.requests.append((head, body))
        return head, body

    async def send(self, *pieces: bytes) -> None:
        """Send bytes, each piece in a write of its own. Errors: EOFError when the connection is closed."""
        for piece in pieces:
            if self._writer.is_closing():
                raise EOFError
            self._writer.write(piece)
            await self._writer.drain()

    async def wait_closed_by_peer(self) -> None:
        """Wait until the gateway has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65536):
                pass

    def reset(self) -> None:
        """Close with RST."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def chunk(data: bytes) -> bytes:
    """Give data as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class ScriptedUpstream:
    """A server whose connections run a script. Shape: `peers` are the connections, in their order."""

    def __init__(self, port: int, scheme: str) -> None:
        self.port = port
        self._scheme = scheme
        self.peers: list[Peer] = []

    @property
    def base_url(self) -> str:
        """What a provider's `base_url` is set to."""
        return f"{self._scheme}://127.0.0.1:{self.port}/v1"


@asynccontextmanager
async def scripted_upstream(
    script: Callable[[Peer], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedUpstream]:
    """Serve a script on a free port. Holds: the server and its connections until the exit."""
    running: set[asyncio.Task[object]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            running.add(task)
        peer = Peer(reader, writer)
        upstream.peers.append(peer)
        try:
            with contextlib.suppress(EOFError, ConnectionError, asyncio.CancelledError):
                await script(peer)
        finally:
            writer.close()
            if task is not None:
                running.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=MAX_REQUEST_BYTES, ssl=tls)
    upstream = ScriptedUpstream(server.sockets[0].getsockname()[1], "https" if tls is not None else "http")
    try:
        yield upstream
    finally:
        server.close()
        for task in tuple(running):
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=2)
