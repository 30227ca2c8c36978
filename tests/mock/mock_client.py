"""A plain HTTP client over asyncio streams that tells exactly how a response ended. For the tests of the mock."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import uvloop
from msgspec import Struct

from tidegate.mock.server import MockProvider, MockStats

PATIENCE_S = 20.0

T = TypeVar("T")


class Reply(Struct):
    """A response. Shape: `ended` is complete, closed (until close), truncated, reset, malformed or silent."""

    status: int
    headers: dict[str, str]
    body: bytes
    ended: str
    wire: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def data(self) -> list[str]:
        frames = self.body.replace(b"\r\n", b"\n").decode().split("\n\n")
        return [frame.removeprefix("data:").removeprefix(" ") for frame in frames if frame.startswith("data:")]

    def chunks(self) -> list[dict[str, Any]]:
        return [json.loads(data) for data in self.data() if data != "[DONE]"]

    def deltas(self, choice: int = 0) -> list[dict[str, Any]]:
        return [c["delta"] for chunk in self.chunks() for c in chunk.get("choices", []) if c["index"] == choice]

    def text(self, choice: int = 0) -> str:
        return "".join(delta.get("content") or "" for delta in self.deltas(choice))


def body(query: str = "", **members: Any) -> bytes:
    """Give a request body whose model carries a query."""
    said: dict[str, Any] = {
        "model": f"mock?{query}" if query else "mock",
        "messages": [{"role": "user", "content": "How do tides work?"}],
        "stream": True,
    }
    return json.dumps(said | members).encode()


def request(
    content: bytes, path: str = "/v1/chat/completions", headers: str = "", version: str = "1.1", method: str = "POST"
) -> bytes:
    """Give the bytes of a request."""
    top = f"{method} {path} HTTP/{version}\r\nhost: mock\r\ncontent-length: {len(content)}\r\n{headers}\r\n"
    return top.encode() + content


class Peer:
    """A connection to the mock."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._wire = bytearray()
        self._silence_s = PATIENCE_S
        self._patience: asyncio.Timeout

    async def exchange(self, data: bytes, silence_s: float = PATIENCE_S) -> Reply:
        self.writer.write(data)
        return await self.read_reply(silence_s)

    async def read_reply(self, silence_s: float = PATIENCE_S) -> Reply:
        self._wire.clear()
        reply = Reply(0, {}, b"", "", b"")
        got = bytearray()
        try:
            async with asyncio.timeout(silence_s) as self._patience:
                self._silence_s = silence_s
                reply.ended = await self._read(reply, got)
        except TimeoutError:
            reply.ended = "silent"
        except asyncio.IncompleteReadError as error:
            self._wire += error.partial
            got += error.partial
            reply.ended = "truncated"
        except ConnectionResetError:
            reply.ended = "reset"
        except ValueError:
            reply.ended = "malformed"
        reply.body, reply.wire = bytes(got), bytes(self._wire)
        return reply

    async def _read(self, reply: Reply, got: bytearray) -> str:
        status, *lines = (await self._until(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        reply.status = int(status.split()[1])
        reply.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if length := reply.headers.get("content-length"):
            await self._take(int(length), got)
            return "complete"
        if "transfer-encoding" not in reply.headers:
            while data := await self.reader.read(65536):
                self._heard(data)
                got += data
            return "closed"
        while size := int(await self._until(b"\r\n"), 16):
            await self._take(size, got)
            await self._until(b"\r\n")
        await self._until(b"\r\n")
        return "complete"

    async def _until(self, mark: bytes) -> bytes:
        data = await self.reader.readuntil(mark)
        self._heard(data)
        return data

    async def _take(self, size: int, got: bytearray) -> None:
        while size:
            data = await self.reader.read(size)
            if not data:
                raise asyncio.IncompleteReadError(b"", size)
            self._heard(data)
            got += data
            size -= len(data)

    def _heard(self, data: bytes) -> None:
        self._wire += data
        # Patience is with silence, so that a slow machine is not taken for a mock that stalls.
        self._patience.reschedule(asyncio.get_running_loop().time() + self._silence_s)

    async def is_closed(self) -> bool:
        """Say whether the mock closes this connection without another byte."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read(1) == b""

    def abort(self) -> None:
        self.writer.transport.abort()


class Mock:
    """A running mock, and connections to it."""

    def __init__(self, provider: MockProvider, port: int) -> None:
        self.provider = provider
        self.port = port
        self._peers: list[Peer] = []

    @property
    def stats(self) -> MockStats:
        return self.provider.stats

    async def connect(self) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port, limit=16 * 1024 * 1024))
        self._peers.append(peer)
        return peer

    async def ask(self, query: str = "", *, silence_s: float = PATIENCE_S, **members: Any) -> Reply:
        """Give the reply to one request on a connection of its own."""
        peer = await self.connect()
        return await peer.exchange(request(body(query, **members)), silence_s)

    async def wait_until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                await asyncio.sleep(0.002)

    def drop(self) -> None:
        for peer in self._peers:
            peer.abort()


@asynccontextmanager
async def running(seed: int = 0) -> AsyncIterator[Mock]:
    provider = MockProvider(seed)
    mock = Mock(provider, await provider.start())
    try:
        yield mock
    finally:
        mock.drop()
        await provider.close()


def with_mock(scenario: Callable[[Mock], Awaitable[T]], seed: int = 0) -> T:
    """Run a scenario against a mock of its own and give its result."""

    async def run() -> T:
        async with running(seed) as mock:
            return await scenario(mock)

    return uvloop.run(run())


def ask(query: str = "", *, silence_s: float = PATIENCE_S, seed: int = 0, **members: Any) -> Reply:
    """Give the reply of a fresh mock to one request."""
    return with_mock(lambda mock: mock.ask(query, silence_s=silence_s, **members), seed)
