"""Gates before providers: they let requests through or do to them what a provider in trouble does, and count them."""

import asyncio
import contextlib
import random
import socket
import struct
from typing import Any, Final, Literal, cast

import httptools

Mode = Literal["fine", "refuse", "reset", "stall", "busy", "failing", "flaky"]
"""What a gate does: `refuse` listens no more, `busy` is 429, `failing` 503, `flaky` 503 to every other request."""

_RESET: Final = struct.pack("ii", 1, 0)
_BUSY: Final = b"HTTP/1.1 429 No\r\nretry-after: 1\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}"
_FAILING: Final = b"HTTP/1.1 503 No\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}"


class Gate:
    """The gate of one provider. Shape: of the `hits`, `extra` are those whose id some gate had seen before."""

    def __init__(self, port: int, behind: int, seen: set[str], dice: random.Random) -> None:
        self.port = port
        self.behind = behind
        self.mode: Mode = "fine"
        self.hits = 0
        self.extra = 0
        self.fronts: set[_Front] = set()
        self._seen = seen
        self._dice = dice
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Front(self), "127.0.0.1", self.port, backlog=1024)

    async def close(self) -> None:
        """Listen no more, and reset what is connected."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for front in tuple(self.fronts):
            front.reset()

    async def turn(self, mode: Mode) -> None:
        """Begin to do something else. Shape: whatever is held is let through when the gate stalls no more."""
        self.mode = mode
        if mode == "refuse":
            await self.close()
        elif self._server is None:
            await self.open()
        for front in tuple(self.fronts):
            if mode == "reset":
                front.reset()
            elif mode != "stall":
                front.let_through()

    def arrived(self, front: "_Front", request: bytes, request_id: str) -> None:
        """Do with a request what the mode says."""
        self.hits += 1
        self.extra += request_id in self._seen
        self._seen.add(request_id)
        if self.mode in {"fine", "stall"}:
            front.forward(request)
        elif self.mode == "reset":
            front.reset()
        elif self.mode == "busy":
            front.answer(_BUSY)
        elif self.mode == "failing" or self._dice.random() < 0.5:
            front.answer(_FAILING)
        else:
            front.forward(request)


class _Side(asyncio.Protocol):
    """One end of a connection through the gate. Shape: what is to be sent while the gate stalls is held."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.other: _Side | None = None
        self.transport: asyncio.Transport | None = None
        self._held: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.let_through()

    def send(self, data: bytes) -> None:
        """Write, now or when it is possible."""
        self._held.append(data)
        self.let_through()

    def let_through(self) -> None:
        if self.transport is None or self.gate.mode == "stall":
            return
        data, self._held = b"".join(self._held), []
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def reset(self) -> None:
        """Close with RST."""
        if self.transport is not None and not self.transport.is_closing():
            with contextlib.suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        other, self.other = self.other, None
        if other is not None:
            other.reset()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()


class _Back(_Side):
    """The end that the mock is at."""

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.send(data)


class _Front(_Side):
    """The end that the gateway is at: one request after another. Holds: its place among the gate's connections."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(gate)
        self._parser: Any = httptools.HttpRequestParser(self)
        self._request = bytearray()
        self._id = ""
        self._whole = False
        self._dialling: asyncio.Task[None] | None = None
        gate.fronts.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gate.fronts.discard(self)
        if self._dialling is not None:
            self._dialling.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._request += data
        self._parser.feed_data(data)
        if self._whole:
            request, self._request, self._whole = bytes(self._request), bytearray(), False
            self.gate.arrived(self, request, self._id)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self._id = value.decode()

    def on_message_complete(self) -> None:
        self._whole = True

    def let_through(self) -> None:
        super().let_through()
        if self.other is not None:
            self.other.let_through()

    def answer(self, data: bytes) -> None:
        """Answer in the provider's place."""
        self.send(data)

    def forward(self, request: bytes) -> None:
        """Pass a request on to the mock."""
        if self.other is None:
            self.other = _Back(self.gate)
            self.other.other = self
            self._dialling = asyncio.get_running_loop().create_task(self._dial(self.other))
        self.other.send(request)

    async def _dial(self, back: "_Side") -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: back, "127.0.0.1", self.gate.behind)
        except OSError:
            self.reset()
