"""Every setting of the file changes something that can be seen from outside: one test for each that no room shows."""

import asyncio
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest

from certificates import Authority
from harness import Running, ask, chat, connect, gateway, make_config, request_bytes, run, until
from processes import serving, write_config
from tidegate.assemble import Tidegate
from tidegate.mock.server import MockProvider
from tidegate.testing.upstream import HEAD, LAST, Peer, chunk, scripted_upstream

CONTENT = chunk(b'data: {"choices":[{"index":0,"delta":{"content":"tide"},"finish_reason":null}]}\n\n')
DONE = chunk(b"data: [DONE]\n\n")
LONG_S = 0.3
"""Longer than the deadlines that tests set, shorter than those that come by themselves."""


def free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


async def code_of(running: Running, **members: Any) -> str:
    """Ask, and give how it ended."""
    await ask(running.port, chat(**members))
    return (await running.entry()).code


async def closes(running: Running, data: bytes, timeout_s: float) -> bool:
    """Say whether the gateway closes a connection on which this was sent."""
    async with connect(running.port) as client:
        await client.send(data)
        return await client.closed(timeout_s)


# --- server --------------------------------------------------------------------------------------------------------


def test_server_host_is_where_it_listens() -> None:
    async def work() -> None:
        async with gateway(server={"host": "127.0.0.2"}) as running:
            _, writer = await asyncio.open_connection("127.0.0.2", running.port)
            writer.close()
            with pytest.raises(ConnectionRefusedError):
                async with connect(running.port):
                    pass

    run(work)


def test_server_port_is_where_it_listens() -> None:
    async def work() -> None:
        port = free_port()
        async with gateway(server={"port": port}) as running:
            assert running.port == port
            assert (await ask(port, chat("mock?tokens=1"))).status == 200

    run(work)


def test_server_tls_serves_with_the_certificate_and_its_key_and_not_without(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.context("127.0.0.1")
    files = {"cert": str(tmp_path / "127.0.0.1.pem"), "key": str(tmp_path / "127.0.0.1.key")}

    async def work() -> None:
        async with gateway(server={"tls": files}) as running:
            trust = ssl.create_default_context(cafile=authority.ca_file)
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port, ssl=trust)
            writer.write(request_bytes(chat("mock?tokens=3"), headers={"connection": "close"}))
            assert (await reader.read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            writer.close()
            with pytest.raises(EOFError):
                await ask(running.port, chat())

    run(work)


def test_server_tls_key_must_be_the_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    for name in ("one", "other"):
        authority.context(name)
    cert, other = str(tmp_path / "one.pem"), str(tmp_path / "other.key")
    with pytest.raises(ssl.SSLError):
        Tidegate(make_config("http://127.0.0.1:1", server={"tls": {"cert": cert, "key": other}}))


@pytest.mark.parametrize(("limit", "status"), [(1024, 431), (4096, 200)])
def test_server_max_header_bytes_bounds_a_head(limit: int, status: int) -> None:
    async def work() -> None:
        async with gateway(server={"max_header_bytes": limit}) as running:
            reply = await ask(running.port, chat("mock?tokens=1"), headers={"x-large": "x" * 2000})
            assert reply.status == status

    run(work)


@pytest.mark.parametrize(("limit", "status"), [(1024, 413), (4096, 200)])
def test_server_max_body_bytes_bounds_a_body(limit: int, status: int) -> None:
    async def work() -> None:
        async with gateway(server={"max_body_bytes": limit}) as running:
            assert (await ask(running.port, chat("mock?tokens=1", user="x" * 2000))).status == status

    run(work)


@pytest.mark.parametrize("timeout", [0.05, 0])
def test_server_header_timeout_bounds_the_wait_for_a_head(timeout: float) -> None:
    async def work() -> None:
        async with gateway(server={"header_timeout": timeout}) as running:
            assert await closes(running, b"POST /v1/chat", LONG_S) is bool(timeout)
            assert [entry.code for entry in running.entries()] == ["request_timeout"] * bool(timeout)

    run(work)


@pytest.mark.parametrize("timeout", [0.05, 0])
def test_server_body_timeout_bounds_the_wait_for_a_body(timeout: float) -> None:
    async def work() -> None:
        async with gateway(server={"body_timeout": timeout}) as running:
            assert await closes(running, request_bytes(chat())[:-5], LONG_S) is bool(timeout)
            await running.entry()
            assert running.entries()[0].code == ("request_timeout" if timeout else "client_gone")

    run(work)


@pytest.mark.parametrize("timeout", [0.05, 0])
def test_server_keep_alive_bounds_the_wait_for_another_request(timeout: float) -> None:
    async def work() -> None:
        async with gateway(server={"keep_alive": timeout}) as running, connect(running.port) as client:
            await client.send(request_bytes(chat("mock?tokens=1")))
            assert (await client.reply()).complete
            assert await client.closed(LONG_S) is bool(timeout)

    run(work)


@pytest.mark.parametrize("every", [0.02, 0])
def test_server_heartbeat_fills_silence(every: float) -> None:
    async def work() -> None:
        async with gateway(server={"heartbeat": every}) as running:
            reply = await ask(running.port, chat("mock?ttft=1ms&itl=100ms&tokens=3"))
            assert (b": heartbeat" in reply.body) is bool(every)

    run(work)


@pytest.mark.parametrize("timeout", [0.1, 0])
def test_server_slow_client_timeout_cuts_a_client_that_takes_nothing(timeout: float) -> None:
    async def work() -> None:
        async with gateway(server={"slow_client_timeout": timeout}) as running:
            loop = asyncio.get_running_loop()
            with socket.socket() as client:
                client.setblocking(False)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await loop.sock_connect(client, ("127.0.0.1", running.port))
                await loop.sock_sendall(client, request_bytes(chat("mock?tokens=20000&bigframe=8MiB")))
                if timeout:
                    await until(lambda: bool(running.entries()))
                else:
                    await asyncio.sleep(LONG_S)
                    assert not running.entries()
            assert (await running.entry()).code == ("client_slow" if timeout else "client_gone")

    run(work)


@pytest.mark.parametrize(("policy", "completed"), [("cancel", 0), ("finish", 1)])
def test_server_on_client_disconnect_decides_whether_the_provider_goes_on(policy: str, completed: int) -> None:
    async def work() -> None:
        async with gateway(server={"on_client_disconnect": policy}) as running:
            async with connect(running.port) as client:
                await client.send(request_bytes(chat("mock?itl=5ms&tokens=20")))
                await client.reader.readuntil(b'"content":')
            assert (await running.entry()).code == "client_gone"
            stats = running.mock.stats
            await until(lambda: not stats.open)
            assert (stats.completed, stats.cancelled) == (completed, 1 - completed)

    run(work)


@pytest.mark.parametrize("delay", [3600, 0])
def test_server_drain_delay_is_how_long_it_still_accepts(delay: float) -> None:
    async def work() -> None:
        async with gateway(server={"drain_delay": delay}) as running:
            stopping = asyncio.ensure_future(running.tidegate.stop())
            await until(lambda: running.tidegate.draining)
            if delay:
                assert (await ask(running.port, chat("mock?tokens=1"))).status == 200
                assert not stopping.done()
                stopping.cancel()
            else:
                await stopping
                with pytest.raises(ConnectionRefusedError):
                    await ask(running.port, chat())

    run(work)


# --- ops, observe --------------------------------------------------------------------------------------------------


def test_ops_listen_is_where_metrics_are_and_empty_is_nowhere() -> None:
    async def work() -> None:
        port = free_port()
        config = make_config("http://127.0.0.1:1")
        for listen in (f"127.0.0.1:{port}", ""):
            ops = msgspec.structs.replace(config.ops, listen=listen)
            tidegate = Tidegate(msgspec.structs.replace(config, ops=ops))
            _, ops_port = await tidegate.start()
            try:
                assert ops_port == (port if listen else 0)
                if listen:
                    assert (await ask(port, b"", method="GET", path="/metrics")).status == 200
                else:
                    with pytest.raises(ConnectionRefusedError):
                        await ask(port, b"")
            finally:
                await tidegate.stop(delay_s=0.0)

    run(work)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "is_json"), [("json", True), ("auto", True), ("text", False)])
def test_observe_log_is_the_form_of_a_line(form: str, is_json: bool, tmp_path: Path) -> None:
    with serving("serve", "-c", str(write_config(tmp_path, observe={"log": form}))) as served:
        line = served.line("serving")
        assert line.startswith("{") is is_json
        served.signal()
        assert served.wait() == 0


# --- providers -----------------------------------------------------------------------------------------------------


def test_providers_name_is_the_label_of_what_is_counted() -> None:
    async def work() -> None:
        models = [{"name": "mock", "targets": [{"provider": "tidal", "model": "mock"}]}]
        async with gateway(provider={"name": "tidal"}, models=models) as running:
            await ask(running.port, chat("mock?tokens=1"))
            assert (await running.entry()).provider == "tidal"
            page = (await ask(running.ops_port, b"", method="GET", path="/metrics")).body
            assert b'tidegate_upstream_connections{provider="tidal",state="idle"} 1.0' in page

    run(work)


@pytest.mark.parametrize(("kind", "status"), [("mock", 200), ("openai", 404)])
def test_providers_kind_decides_whether_a_models_name_takes_parameters(kind: str, status: int) -> None:
    async def work() -> None:
        async with gateway(provider={"kind": kind}) as running:
            assert (await ask(running.port, chat("mock?tokens=1"))).status == status
            assert (await ask(running.port, chat("mock"))).status == 200

    run(work)


class Recorder:
    """A provider that completes everything and keeps the heads it was sent."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            self.heads.append(head)
            await peer.send(HEAD, CONTENT, DONE, LAST)


async def head_sent(path: str = "/v1", **provider: Any) -> bytes:
    """Give the head that a provider with these settings gets."""
    recorder = Recorder()
    async with (
        scripted_upstream(recorder) as upstream,
        gateway(f"http://127.0.0.1:{upstream.port}{path}", provider=provider) as running,
    ):
        assert (await ask(running.port, chat())).status == 200
    return recorder.heads[0]


@pytest.mark.parametrize("path", ["/v1", "/deep/er", ""])
def test_providers_base_url_is_where_requests_go(path: str) -> None:
    async def work() -> None:
        assert (await head_sent(path)).startswith(f"POST {path}/chat/completions HTTP/1.1\r\n".encode())

    run(work)


def test_providers_api_key_is_the_credential_that_the_provider_gets() -> None:
    async def work() -> None:
        assert b"\r\nauthorization: Bearer sk-mine\r\n" in await head_sent(api_key="sk-mine")
        assert b"authorization" not in await head_sent(api_key="")

    run(work)


def test_providers_headers_are_added_to_each_request() -> None:
    async def work() -> None:
        assert b"\r\nx-tide: high\r\n" in await head_sent(headers={"X-Tide": "high"})
        assert b"x-tide" not in await head_sent()

    run(work)


@pytest.mark.parametrize("trusted", [True, False])
def test_providers_ca_file_is_who_is_trusted(trusted: bool, tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    async def work() -> None:
        mock = MockProvider()
        port = await mock.start(ssl=authority.context("127.0.0.1"))
        try:
            provider = {"ca_file": str(authority.ca_file)} if trusted else {}
            async with gateway(f"https://127.0.0.1:{port}/v1", provider=provider) as running:
                assert await code_of(running, model="mock?tokens=1") == ("completed" if trusted else "tls_failed")
        finally:
            await mock.close()

    run(work)


OFF = dict.fromkeys(("connect", "headers", "first_token", "idle", "total", "response"), 0)


async def late(pieces: tuple[bytes, ...], *, scheme: str = "http", stream: bool = True, **timeouts: float) -> str:
    """Give how an exchange ends whose provider sends some bytes and then one event now and then, or nothing."""

    async def script(peer: Peer) -> None:
        if scheme == "http":
            await peer.request()
            await peer.send(*pieces)
        while CONTENT in pieces and "total" in timeouts:
            await asyncio.sleep(0.02)
            await peer.send(CONTENT)
        await peer.wait_closed_by_peer()

    async with scripted_upstream(script) as upstream:
        base_url = f"{scheme}://127.0.0.1:{upstream.port}/v1"
        async with gateway(base_url, provider={"timeouts": {**OFF, **timeouts}}) as running:
            return await code_of(running, stream=stream)


def test_providers_timeouts_connect_bounds_connecting_with_tls() -> None:
    async def work() -> None:
        assert await late((), scheme="https", connect=0.1) == "tls_timeout"

    run(work)


def test_providers_timeouts_headers_bounds_the_wait_for_a_head() -> None:
    async def work() -> None:
        assert await late((), headers=0.1) == "headers_timeout"

    run(work)


def test_providers_timeouts_first_token_bounds_the_wait_for_content() -> None:
    async def work() -> None:
        assert await late((HEAD,), first_token=0.1) == "first_token_timeout"

    run(work)


def test_providers_timeouts_idle_bounds_silence() -> None:
    async def work() -> None:
        assert await late((HEAD, CONTENT), idle=0.1) == "idle_timeout"

    run(work)


def test_providers_timeouts_total_bounds_a_stream_that_goes_on() -> None:
    async def work() -> None:
        assert await late((HEAD, CONTENT), total=0.2) == "total_timeout"

    run(work)


def test_providers_timeouts_response_bounds_the_wait_for_a_whole_answer() -> None:
    async def work() -> None:
        assert await late((), stream=False, response=0.1) == "total_timeout"

    run(work)


@pytest.mark.parametrize("timeout", ["connect", "headers", "first_token", "idle", "total", "response"])
def test_providers_timeouts_of_zero_are_off(timeout: str) -> None:
    async def work() -> None:
        pieces = () if timeout in {"connect", "headers", "response"} else (HEAD, CONTENT)
        scheme = "https" if timeout == "connect" else "http"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(LONG_S):
                await late(pieces, scheme=scheme, stream=timeout != "response", **{timeout: 0.0})

    run(work)


@pytest.mark.parametrize(("cap", "at_once"), [(1, 1), (2, 2), (0, 3)])
def test_providers_connections_max_bounds_the_connections(cap: int, at_once: int) -> None:
    async def work() -> None:
        async with gateway(provider={"connections": {"max": cap}}) as running:
            stalled = chat("mock?fail=stall&tokens=1")
            asking = [asyncio.ensure_future(ask(running.port, stalled)) for _ in range(3)]
            await until(lambda: len(running.tidegate.gateway) == 3 and running.mock.stats.open == at_once)
            await asyncio.sleep(0.05)
            assert running.mock.stats.open == running.mock.stats.connections == at_once
            for request in asking:
                request.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    run(work)


@pytest.mark.parametrize(("idle", "connections"), [(0.05, 2), (90, 1)])
def test_providers_connections_idle_is_how_long_one_is_kept(idle: float, connections: int) -> None:
    async def work() -> None:
        async with gateway(provider={"connections": {"idle": idle}}) as running:
            pool = running.tidegate.providers["main"].pool
            assert await code_of(running, model="mock?tokens=1") == "completed"
            await until(lambda: pool.idle == (1 if connections == 1 else 0) and not pool.in_use)
            assert await code_of(running, model="mock?tokens=1") == "completed"
            assert running.mock.stats.connections == connections

    run(work)


# --- models --------------------------------------------------------------------------------------------------------


def test_models_name_is_what_clients_ask_for() -> None:
    async def work() -> None:
        models = [{"name": "tide-1", "targets": [{"provider": "main", "model": "mock"}]}]
        async with gateway(models=models) as running:
            assert (await ask(running.port, chat("tide-1"))).status == 200
            assert (await ask(running.port, chat("mock"))).status == 404
            listed = (await ask(running.port, b"", method="GET", path="/v1/models")).json()
            assert [model["id"] for model in listed["data"]] == ["tide-1"]

    run(work)


@pytest.mark.parametrize(("target", "sent"), [({"model": "mock?tokens=2"}, "mock?tokens=2"), ({}, "tide-1")])
def test_models_targets_model_is_the_name_at_the_provider(target: dict[str, str], sent: str) -> None:
    async def work() -> None:
        models = [{"name": "tide-1", "targets": [{"provider": "main", **target}]}]
        async with gateway(models=models) as running:
            await ask(running.port, chat("tide-1"))
            assert json.loads(running.mock.stats.requests[-1][2])["model"] == sent

    run(work)


@pytest.mark.parametrize("name", ["main", "other"])
def test_models_targets_provider_is_who_is_asked(name: str) -> None:
    async def work() -> None:
        mocks = {"main": MockProvider(), "other": MockProvider()}
        urls = {provider: f"http://127.0.0.1:{await mock.start()}/v1" for provider, mock in mocks.items()}
        models: Any = [{"name": "mock", "targets": [{"provider": name}]}]
        config = make_config(urls["main"], models=models)
        other = msgspec.structs.replace(config.providers[0], name="other", base_url=urls["other"])
        tidegate = Tidegate(msgspec.structs.replace(config, providers=(*config.providers, other)))
        port, _ = await tidegate.start()
        try:
            assert (await ask(port, chat("mock?tokens=1"))).status == 200
            assert [provider for provider, mock in mocks.items() if mock.stats.started] == [name]
        finally:
            await tidegate.stop(delay_s=0.0)
            for mock in mocks.values():
                await mock.close()

    run(work)
