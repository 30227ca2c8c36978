"""Everything that is not hot: models, health, wrong paths and methods, and the ops listener."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import structs
from starlette.types import ASGIApp

from harness import CHAT, Reply, ask, chat, connect, gateway, make_config, request_bytes, run, until
from tidegate.admission.identity import hash_key
from tidegate.assemble import Tidegate
from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.edge.cold import UvicornHost, client_app
from tidegate.edge.listener import Listener
from tidegate.edge.settings import OpsSettings
from tidegate.exchange import Arrival, Identity, Outcome
from tidegate.testing.upstream import chunk

KEY = "sk-client-0123456789"
KEYS = {"mode": "keys", "keys": [{"id": "k1", "sha256": hash_key(KEY)}]}
BEARER = {"authorization": f"Bearer {KEY}"}


async def get(port: int, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Reply:
    return await ask(port, b"", path=path, method=method, headers=headers)


async def head_of(port: int, path: str, method: str) -> tuple[int, dict[str, str], bytes]:
    """Give an answer's status and headers, and whatever comes behind its head."""
    async with connect(port) as client:
        await client.send(f"{method} {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
        head, _, rest = (await client.reader.read()).partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(first.split()[1]), headers, rest


def check_error(reply: Reply, status: int, code: str) -> None:
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-should-retry"] == "false"
    assert reply.json()["error"]["code"] == code


# --- models ----------------------------------------------------------------------------------------------------------


def test_the_models_are_listed_by_their_public_names() -> None:
    async def work() -> None:
        target = [{"provider": "main", "model": "hidden"}]
        models = [{"name": "fast", "targets": target, "aliases": ["quick"]}, {"name": "org/large", "targets": target}]
        async with gateway(models=models) as running:
            reply = await get(running.port, "/v1/models")
            assert reply.status == 200
            names = [model["id"] for model in reply.json()["data"]]
            assert {"fast", "org/large"} <= set(names)
            assert b"hidden" not in reply.body
            for name in names:
                one = await get(running.port, f"/v1/models/{name}")
                assert (one.status, one.json()["id"], one.json()["object"]) == (200, name, "model")

    run(work)


def test_an_unknown_model_is_404_in_the_dialect_s_envelope() -> None:
    async def work() -> None:
        async with gateway() as running:
            for path in ("/v1/models/nope", "/v1/models/", "/v1/models/a/b"):
                reply = await get(running.port, path)
                check_error(reply, 404, "unknown_model")
                assert reply.json()["error"]["param"] == "model"

    run(work)


def test_models_are_shown_to_holders_of_keys_alone() -> None:
    async def work() -> None:
        async with gateway(auth=KEYS) as running:
            for path in ("/v1/models", "/v1/models/mock"):
                check_error(await get(running.port, path), 401, "unauthenticated")
                check_error(await get(running.port, path, headers={"x-api-key": KEY + "x"}), 401, "unauthenticated")
                assert (await get(running.port, path, headers=BEARER)).status == 200

    run(work)


# --- wrong paths and methods ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/nope", f"{CHAT}/", "/v1/completions", "/metrics", "/v1/%6d", "//v1/models"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_path_is_404_in_the_dialect_s_envelope(path: str, method: str) -> None:
    async def work() -> None:
        async with gateway() as running:
            check_error(await get(running.port, path, method=method), 404, "not_found")
            assert (await running.entry()).code == "not_found"

    run(work)


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
def test_a_hot_path_answers_other_methods_with_405_and_says_what_it_allows(method: str) -> None:
    async def work() -> None:
        async with gateway() as running:
            reply = await get(running.port, CHAT, method=method)
            check_error(reply, 405, "method")
            assert reply.headers["allow"] == "POST"
            assert (await running.entry()).code == "method"

    run(work)


def test_a_cold_path_answers_other_methods_with_405_and_says_what_it_allows() -> None:
    async def work() -> None:
        async with gateway() as running:
            reply = await get(running.port, "/v1/models", method="POST")
            check_error(reply, 405, "method")
            assert set(reply.headers["allow"].split(", ")) == {"GET", "HEAD"}

    run(work)


def test_who_looks_for_metrics_on_the_main_port_is_told_where_they_are() -> None:
    async def work() -> None:
        async with gateway() as running:
            message = (await get(running.port, "/metrics")).json()["error"]["message"]
            assert message == f"metrics are on port {running.ops_port} (ops.listen)"
        config = structs.replace(make_config("http://127.0.0.1:1/v1"), ops=OpsSettings(listen=""))
        tidegate = Tidegate(config)
        port, _ = await tidegate.start()
        assert (await get(port, "/metrics")).json()["error"]["message"] == "ops.listen is off"
        await tidegate.stop(delay_s=0)

    run(work)


def test_an_unknown_path_is_told_which_there_are() -> None:
    async def work() -> None:
        async with gateway() as running:
            message = (await get(running.port, "/nope")).json()["error"]["message"]
            assert "/v1/chat/completions" in message
            assert "/predictions" not in message

    run(work)


@pytest.mark.parametrize(("path", "status"), [(CHAT, 405), ("/nope", 404), ("/v1/models", 200), ("/health", 200)])
def test_head_gets_a_head_and_no_body(path: str, status: int) -> None:
    async def work() -> None:
        async with gateway() as running:
            got, headers, rest = await head_of(running.port, path, "HEAD")
            assert (got, rest) == (status, b"")
            assert headers.get("allow") == ("POST" if status == 405 else None)

    run(work)


@pytest.mark.parametrize("path", ["/healthzzz", "/health/other"])
def test_what_only_looks_like_health_is_recorded_as_any_other(path: str) -> None:
    async def work() -> None:
        async with gateway() as running:
            check_error(await get(running.port, path), 404, "not_found")
            assert (await running.entry()).code == "not_found"
            await get(running.port, "/health")
            assert len(running.entries()) == 1

    run(work)


@pytest.mark.parametrize("coded", [False, True])
def test_the_body_of_a_refused_request_is_read_to_its_end(coded: bool) -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            framing = "transfer-encoding: chunked" if coded else "content-length: 200000"
            await client.send(f"POST /nope HTTP/1.1\r\nhost: test\r\n{framing}\r\n\r\n".encode())
            check_error(await client.reply(), 404, "not_found")
            await asyncio.sleep(0.02)
            for _ in range(20):
                await client.send(chunk(b"x" * 10_000) if coded else b"x" * 10_000)
            assert running.tidegate._cold.connections == 1
            await client.send(b"0\r\n\r\n" if coded else b"")
            assert await client.reader.read() == b""

    run(work)


# --- connections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("path", ["/v1/models", "/nope", "/health/live"])
def test_the_connection_closes_after_a_cold_answer_whatever_the_client_wishes(version: str, path: str) -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(f"GET {path} HTTP/{version}\r\nhost: test\r\nconnection: keep-alive\r\n\r\n".encode())
            reply = await client.reply()
            assert reply.complete
            assert reply.headers["connection"] == "close"
            assert await client.reader.read() == b""
            await until(lambda: not running.tidegate.connections())

    run(work)


def test_a_cold_request_may_follow_a_hot_one_on_its_connection() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(request_bytes(chat("mock?tokens=3")))
            assert (await client.reply()).complete
            await client.send(request_bytes(b"", path="/v1/models", method="GET"))
            assert (await client.reply()).json()["object"] == "list"

    run(work)


def test_connections_behind_uvicorn_are_counted_too() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(b"POST /nope HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n")
            assert (await client.reply()).status == 404
            assert running.tidegate.connections() == 1
            assert not running.tidegate.edge.connections

    run(work)


def test_a_cold_exchange_is_started_ended_and_recorded_under_its_own_id() -> None:
    async def work() -> None:
        async with gateway() as running:
            reply = await get(running.port, "/v1/models", headers={"x-request-id": "cold-1"})
            assert reply.headers["x-request-id"] == "cold-1"
            entry = await running.entry()
            assert (entry.request_id, entry.route, entry.code, entry.status) == ("cold-1", "models", "completed", 200)
            assert len(running.tidegate.ledger) == 0

    run(work)


# --- health and metrics ----------------------------------------------------------------------------------------------


def test_health_needs_no_key_and_leaves_no_entry() -> None:
    async def work() -> None:
        async with gateway(auth=KEYS) as running:
            for port in (running.port, running.ops_port):
                assert (await get(port, "/health/live")).json() == {"status": "live"}
                assert (await get(port, "/health/ready")).json() == {"status": "ready"}
                summary = (await get(port, "/health")).json()
                assert summary["status"] == "healthy"
                assert summary["providers"]["main"]["reachable"] is True
            assert running.entries() == ()

    run(work)


def test_ready_is_503_when_no_provider_can_be_dialled() -> None:
    async def work() -> None:
        async with gateway("http://127.0.0.1:1/v1") as running:
            for port in (running.port, running.ops_port):
                reply = await get(port, "/health/ready")
                assert (reply.status, reply.json()) == (503, {"status": "not ready"})
                assert (await get(port, "/health")).json()["status"] == "degraded"
                assert (await get(port, "/health/live")).status == 200

    run(work)


def test_ready_is_503_while_draining_and_live_is_200() -> None:
    async def work() -> None:
        async with gateway() as running:
            running.tidegate.draining = True
            assert (await get(running.port, "/health/ready")).status == 503
            assert (await get(running.port, "/health")).json()["status"] == "draining"
            assert (await get(running.ops_port, "/health/live")).status == 200

    run(work)


def test_the_summary_counts_what_is_going_on() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(request_bytes(chat("mock?tokens=5&fail=stall&fail_at=3")))
            await client.reader.readuntil(b"data: ")
            summary = (await get(running.ops_port, "/health")).json()
            assert (summary["active_connections"], summary["exchanges_in_flight"]) == (1, 1)
            assert summary["providers"]["main"]["connections_in_use"] == 1
            assert 0 < summary["utilisation"] < 1

    run(work)


def test_the_ops_listener_serves_metrics_without_a_key_and_nothing_else() -> None:
    async def work() -> None:
        async with gateway(auth=KEYS) as running:
            reply = await get(running.ops_port, "/metrics")
            assert reply.status == 200
            assert reply.headers["content-type"].startswith("text/plain")
            assert b"tidegate_exchanges_started_total" in reply.body
            opened = await get(running.ops_port, "/metrics", headers={"accept": "application/openmetrics-text"})
            assert opened.headers["content-type"].startswith("application/openmetrics-text")
            assert (await get(running.ops_port, "/v1/models")).status == 404

    run(work)


def test_an_ops_connection_has_the_head_deadline_too() -> None:
    async def work() -> None:
        async with gateway(server={"header_timeout": 0.1}) as running, connect(running.ops_port) as client:
            await client.send(b"GET /metrics HTT")
            assert (await client.reply()).status == 408
            assert await client.closed()

    run(work)


def test_the_ops_port_has_no_hot_route() -> None:
    async def work() -> None:
        async with gateway() as running:
            assert (await ask(running.ops_port, chat())).status == 404

    run(work)


def test_without_an_ops_address_there_is_no_ops_listener() -> None:
    async def work() -> None:
        config = structs.replace(make_config("http://127.0.0.1:1/v1"), ops=OpsSettings(listen=""))
        tidegate = Tidegate(config)
        port, ops_port = await tidegate.start()
        assert (port > 0, ops_port) == (True, 0)
        await tidegate.stop(delay_s=0)

    run(work)


# --- failures of our own ---------------------------------------------------------------------------------------------


class BrokenGate:
    def identify(self, headers: Mapping[bytes, bytes], address: str, /) -> Identity:
        raise RuntimeError("a secret that nobody should read")


class Records:
    def __init__(self) -> None:
        self.begun = 0
        self.written: list[str] = []

    def started(self, arrival: Arrival) -> None:
        self.begun += 1

    def record(self, arrival: Arrival, outcome: Outcome) -> None:
        self.written.append(outcome.ending.verdict.code if outcome.ending else "")


class Ill:
    async def ready(self) -> bool:
        return True

    def summary(self) -> dict[str, object]:
        raise ValueError("a secret that nobody should read")


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[int]:
    host = UvicornHost(app)
    listener = Listener(lambda: host("127.0.0.1", lambda: None))
    try:
        yield listener.open("127.0.0.1", 0)
    finally:
        listener.close()
        host.shut_down()
        await host.wait_closed(1.0)
        await listener.wait_closed()


async def no_models() -> list[str]:
    return []


def test_a_bug_behind_a_cold_route_is_500_and_says_nothing_of_itself() -> None:
    async def work() -> None:
        records = Records()
        app = client_app(
            gate=BrokenGate(), models=no_models, find=str, dialect=OpenAIChat(), anthropic=Anthropic(), absent=str, hot_paths=[CHAT], health=Ill(),
            ledger=records, clock=asyncio.get_running_loop().time,
        )  # fmt: skip
        async with serving(app) as port:
            ill = await get(port, "/health")
            assert (ill.status, ill.json()["error"]["code"]) == (500, "bug")
            assert b"secret" not in ill.body
            reply = await get(port, "/v1/models")
            assert (reply.status, reply.json()["error"]["code"]) == (500, "bug")
            assert b"secret" not in reply.body
            assert reply.headers["x-request-id"]
            assert (records.begun, records.written) == (1, ["bug"])

    run(work)


# --- shutting down ---------------------------------------------------------------------------------------------------


def test_a_cold_answer_in_work_is_waited_for_and_idle_connections_close() -> None:
    async def work() -> None:
        answering, answer = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            answering.set()
            await answer.wait()
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        host = UvicornHost(app)
        listener = Listener(lambda: host("127.0.0.1", lambda: None))
        port = listener.open("127.0.0.1", 0)
        async with connect(port) as busy, connect(port) as idle:
            await busy.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
            await asyncio.wait_for(answering.wait(), 5)
            await until(lambda: host.connections == 2)
            host.shut_down()
            assert await idle.reader.read() == b""
            await host.wait_closed(0.01)
            assert host.connections == 1
            answer.set()
            await host.wait_closed(5)
            assert (await busy.reader.read()).startswith(b"HTTP/1.1 204 ")
            await until(lambda: host.connections == 0)
            await host.wait_closed(0)
        listener.close()
        await listener.wait_closed()

    run(work)
