"""What edge/cold.py uses of uvicorn, pinned: a new uvicorn that breaks one of these breaks us."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from harness import run, until

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 5), "sockname": ("127.0.0.1", 6)})
        self.written = b""
        self.closed = False
        self.reading = True
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


async def hello(scope: Any, receive: Any, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


def loaded(app: Any) -> uvicorn.Config:
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", server_header=False, proxy_headers=False
    )
    config.load()
    return config


def made(app: Any, state: ServerState | None = None) -> tuple[HttpToolsProtocol, Transport]:
    """Give a protocol on a transport, made as a connection's owner makes one."""
    protocol = HttpToolsProtocol(config=loaded(app), server_state=state or ServerState(), app_state={})
    transport = Transport()
    protocol.connection_made(transport)
    return protocol, transport


def test_a_config_takes_our_arguments_and_loads_without_a_server() -> None:
    config = loaded(hello)
    assert config.loaded
    assert config.ws_protocol_class is None


def test_a_protocol_is_made_of_a_config_a_state_and_an_app_state() -> None:
    parameters = inspect.signature(HttpToolsProtocol).parameters
    needed = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    assert needed == ["config", "server_state", "app_state"]


def test_a_state_has_the_connections_and_the_tasks() -> None:
    state = ServerState()
    assert (state.connections, state.tasks) == (set(), set())


def test_bytes_may_be_given_before_the_transport_knows_the_protocol() -> None:
    async def work() -> None:
        protocol, transport = made(hello)
        protocol.data_received(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        transport.set_protocol(protocol)
        await until(lambda: transport.closed)
        head, _, body = transport.written.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close" in head.lower()
        assert b"server:" not in head.lower()
        assert body == b"hi"

    run(work)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_connection_header_before_the_client_s_own_closes(version: str) -> None:
    async def work() -> None:
        protocol, transport = made(hello)
        lines = f"GET / HTTP/{version}\r\nconnection: close\r\nhost: h\r\nconnection: keep-alive\r\n\r\n"
        protocol.data_received(lines.encode() + b"GET /pipelined HTTP/1.1\r\nhost: h\r\n\r\n")
        await until(lambda: transport.closed)
        assert transport.written.count(b"HTTP/1.1 200 OK") == 1

    run(work)


def test_the_client_is_who_the_protocol_says_once_the_connection_is_made() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Send) -> None:
        seen.append(scope["client"])
        await hello(scope, receive, send)

    async def work() -> None:
        protocol, transport = made(app)
        assert protocol.client == ("127.0.0.1", 5)
        protocol.client = ("198.51.100.1", 0)
        protocol.data_received(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        await until(lambda: transport.closed)
        assert seen == [("198.51.100.1", 0)]

    run(work)


def test_a_protocol_may_be_inherited_and_calls_its_own_methods() -> None:
    class Told(HttpToolsProtocol):
        lost = 0

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self.lost += 1

    async def work() -> None:
        state = ServerState()
        protocol = Told(config=loaded(hello), server_state=state, app_state={})
        protocol.connection_made(Transport())
        assert len(state.connections) == 1
        protocol.connection_lost(None)
        assert (len(state.connections), protocol.lost) == (0, 1)

    run(work)


def test_a_websocket_offer_is_answered_as_plain_http() -> None:
    async def work() -> None:
        protocol, transport = made(hello)
        protocol.data_received(
            b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close, upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        await until(lambda: b"HTTP/1.1 200 OK" in transport.written)

    run(work)


def test_a_connection_is_in_the_state_while_it_lasts_and_a_request_while_it_runs() -> None:
    async def work() -> None:
        state, go_on = ServerState(), asyncio.Event()

        async def waiting(scope: Any, receive: Any, send: Send) -> None:
            await go_on.wait()
            await hello(scope, receive, send)

        protocol, transport = made(waiting, state)
        assert state.connections == {protocol}
        protocol.data_received(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        await asyncio.sleep(0)
        assert len(state.tasks) == 1
        go_on.set()
        await until(lambda: not state.tasks)
        protocol.connection_lost(None)
        assert not state.connections
        assert transport.closed

    run(work)


def test_shutdown_closes_an_idle_connection_and_lets_a_busy_one_finish() -> None:
    async def work() -> None:
        go_on = asyncio.Event()

        async def waiting(scope: Any, receive: Any, send: Send) -> None:
            await go_on.wait()
            await hello(scope, receive, send)

        idle, idle_transport = made(waiting)
        idle.shutdown()
        assert idle_transport.closed
        busy, busy_transport = made(waiting)
        busy.data_received(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        busy.shutdown()
        assert not busy_transport.closed
        go_on.set()
        await until(lambda: busy_transport.closed)
        assert busy_transport.written.endswith(b"hi")

    run(work)


def test_a_body_may_be_received_after_the_answer_as_long_as_its_end_was_not_sent() -> None:
    async def work() -> None:
        received = []

        async def late(scope: Any, receive: Any, send: Send) -> None:
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"no", "more_body": True})
            while (message := await receive()).get("more_body", False):
                received.append(message["body"])
            received.append(message["body"])
            await send({"type": "http.response.body", "body": b""})

        protocol, transport = made(late)
        protocol.data_received(b"POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 6\r\n\r\n")
        await until(lambda: transport.written.endswith(b"no"))
        assert not transport.closed
        protocol.data_received(b"abc")
        await asyncio.sleep(0.01)
        protocol.data_received(b"def")
        await until(lambda: transport.closed)
        assert b"".join(received) == b"abcdef"

    run(work)


def test_the_protocol_says_the_transport_s_addresses_and_scheme() -> None:
    async def work() -> None:
        seen: list[dict[str, Any]] = []

        async def looking(scope: Any, receive: Any, send: Send) -> None:
            seen.append(cast("dict[str, Any]", scope))
            await hello(scope, receive, send)

        protocol, transport = made(looking)
        protocol.data_received(b"GET /a%20b?c HTTP/1.1\r\nHost: h\r\nconnection: close\r\n\r\n")
        await until(lambda: transport.closed)
        assert (seen[0]["client"], seen[0]["scheme"], seen[0]["path"]) == (("127.0.0.1", 5), "http", "/a b")
        assert (b"host", b"h") in seen[0]["headers"]
        assert seen[0]["state"] == {}

    run(work)
