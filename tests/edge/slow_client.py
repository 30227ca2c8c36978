"""A client that takes nothing until it is told to, and for which the kernel holds only a little."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from harness import Raw, Running, until
from tidegate.edge.connection import Connection

SMALL_BYTES = 16 * 1024


@asynccontextmanager
async def slow_client(running: Running) -> AsyncIterator[tuple[Raw, Connection]]:
    """Give a client that does not read, and the gateway's side of it. `read_on` lets it read."""
    before = set(running.tidegate.edge.connections)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", running.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=64 * 1024 * 1024)
    cast("asyncio.Transport", writer.transport).pause_reading()
    try:
        await until(lambda: len(running.tidegate.edge.connections) > len(before))
        (connection,) = running.tidegate.edge.connections - before
        socket_of(connection).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
        yield Raw(reader, writer), connection
    finally:
        writer.close()


def read_on(client: Raw) -> None:
    """Let a slow client read."""
    cast("asyncio.Transport", client.writer.transport).resume_reading()


def read_no_more(client: Raw) -> None:
    """Let it take nothing again."""
    cast("asyncio.Transport", client.writer.transport).pause_reading()


def socket_of(connection: Connection) -> socket.socket:
    """Give the socket of the gateway's side."""
    assert connection._transport is not None
    found: socket.socket = connection._transport.get_extra_info("socket")
    return found
