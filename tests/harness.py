"""A whole gateway on real sockets, for tests: mock or scripted provider behind, raw sockets in front."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import uvloop

from tidegate.assemble import Tidegate
from tidegate.config import Config, filled
from tidegate.ledger.ledger import Entry
from tidegate.mock.server import MockProvider

CHAT = "/v1/chat/completions"


def run(work: Callable[[], Coroutine[Any, Any, None]], timeout_s: float = 60.0) -> None:
    """Run an async test on uvloop, as production does."""

    async def bounded() -> None:
        async with asyncio.timeout(timeout_s):
            await work()

    uvloop.run(bounded())


ONCE: dict[str, Any] = {"retry": {"max_attempts": 1}, "breaker": {"failures": 0, "ratio": 0}}
"""One attempt, and no memory of failures: what tests of anything but these want."""


def make_config(base_url: str, **sections: Any) -> Config:
    """Give a Config for one provider `main` and the model `mock`. Shape: sections by their YAML names, plain values.

    `provider` overrides members of the one provider, `providers` and `models` replace the lists; what a provider leaves
    out is as the one provider has it, and there is one attempt where a test does not say otherwise. Counts, seconds and bytes are plain numbers.
    """
    provider = {"name": "main", "kind": "mock", "base_url": base_url, "api_key": "sk-upstream-secret", **ONCE}
    plain = {
        "server": {"port": 0, **sections.get("server", {})},
        "ops": {"listen": "127.0.0.1:0"},
        "auth": sections.get("auth", {}),
        "providers": [{**provider, **given} for given in sections.get("providers", [sections.get("provider", {})])],
        "models": sections.get("models", [{"name": "mock", "targets": [{"provider": "main", "model": "mock"}]}]),
        "limits": sections.get("limits", {}),
        "predictions": sections.get("predictions", {}),
    }
    return msgspec.convert(filled(plain), Config)


class Running:
    """A gateway that serves. Holds: nothing that its context does not."""

    def __init__(self, tidegate: Tidegate, port: int, ops_port: int, mock: MockProvider | None) -> None:
        self.tidegate = tidegate
        self.port = port
        self.ops_port = ops_port
        self._mock = mock

    @property
    def mock(self) -> MockProvider:
        """The mock provider behind it."""
        assert self._mock is not None
        return self._mock

    def entries(self) -> tuple[Entry, ...]:
        """The records so far."""
        self.tidegate.ledger.write()
        return self.tidegate.entries.recent()

    async def entry(self, timeout_s: float = 5.0) -> Entry:
        """Wait until nothing is live and there is a record; gives the last."""
        await until(lambda: bool(self.entries()) and not len(self.tidegate.gateway), timeout_s)
        return self.entries()[-1]


@asynccontextmanager
async def gateway(base_url: str = "", *, translates: bool = False, **sections: Any) -> AsyncIterator[Running]:
    """Serve a gateway in front of `base_url`, or of a mock provider of its own."""
    mock = None
    if not base_url:
        mock = MockProvider()
        base_url = f"http://127.0.0.1:{await mock.start()}/v1"
    tidegate = Tidegate(make_config(base_url, **sections), translates=translates)
    port, ops_port = await tidegate.start()
    try:
        yield Running(tidegate, port, ops_port, mock)
    finally:
        await tidegate.stop(delay_s=0.0)
        if mock is not None:
            await mock.close()


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for a condition. Errors: TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


def chat(model: str = "mock", *, stream: bool = True, **members: Any) -> dict[str, Any]:
    """Give the members of a small chat request."""
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": stream, **members}


def request_bytes(
    body: Any, *, path: str = CHAT, method: str = "POST", headers: Mapping[str, str] | None = None
) -> bytes:
    """Give a whole HTTP/1.1 request."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "content-length": str(len(payload)),
        **(headers or {}),
    }
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


class Reply:
    """A parsed answer. Shape: header names are lower case; `complete` is false when the connection broke before the end."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, *, complete: bool) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.complete = complete

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    def events(self) -> list[str]:
        """The data of each event."""
        return [
            block.removeprefix("data:").strip()
            for block in self.body.decode().split("\n\n")
            if block.startswith("data:")
        ]


class Raw:
    """A client on a raw socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, timeout_s: float = 10.0) -> Reply:
        """Read one answer to its end. Errors: EOFError when there is none."""
        async with asyncio.timeout(timeout_s):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise EOFError from error
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            if status == 100:
                return Reply(status, {}, b"", complete=True)
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
            }
            body, complete = await self._body(headers)
            return Reply(status, headers, body, complete=complete)

    async def _body(self, headers: Mapping[str, str]) -> tuple[bytes, bool]:
        parts: list[bytes] = []
        try:
            if "content-length" in headers:
                return await self.reader.readexactly(int(headers["content-length"])), True
            if headers.get("transfer-encoding") != "chunked":
                return await self.reader.read(), True
            while True:
                size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
                data = await self.reader.readexactly(size + 2)
                if not size:
                    return b"".join(parts), True
                parts.append(data[:-2])
        except asyncio.IncompleteReadError as error:
            return b"".join([*parts, error.partial]), False
        except ConnectionError:
            return b"".join(parts), False

    async def closed(self, timeout_s: float = 5.0) -> bool:
        """Whether the gateway closes the connection in time; what still comes is dropped."""
        try:
            async with asyncio.timeout(timeout_s):
                while await self.reader.read(65536):
                    pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[Raw]:
    """Give a raw connection to a port of this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=64 * 1024 * 1024)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


async def ask(port: int, body: Any, **options: Any) -> Reply:
    """Send one request on a connection of its own; gives the answer."""
    async with connect(port) as client:
        await client.send(request_bytes(body, **options))
        return await client.reply()
