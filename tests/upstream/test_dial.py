"""How the gateway reaches a provider: names, addresses, TLS and proxies, and what is said when it does not."""

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority
from harness import Reply, Running, ask, chat, gateway, make_config, run
from streams import HELLO, Script, answering, error_of, full_backlog, payload, pool_of, settled, stalling, streamed
from tidegate.assemble import Tidegate
from tidegate.config import proxy_of
from tidegate.testing.upstream import Peer, scripted_upstream
from tidegate.upstream.dial import KEEPALIVE_S

KEPT = {
    name: value
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_S // 3),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 2000 * KEEPALIVE_S),
    )
    if hasattr(socket, name)
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def through_proxy(proxy: str, base_url: str, **sections: Any) -> AsyncIterator[Running]:
    """Serve a gateway that reaches its provider through a proxy."""
    tidegate = Tidegate(make_config(base_url, **sections), {"main": proxy} if proxy else {})
    port, ops_port = await tidegate.start()
    try:
        yield Running(tidegate, port, ops_port, None)
    finally:
        await tidegate.stop(delay_s=0.0)


def check_failed(reply: Reply, status: int, code: str, *said: str) -> None:
    error = error_of(reply)
    assert (reply.status, error["code"]) == (status, code)
    for words in said:
        assert words in error["message"]


async def failure_at(base_url: str, **provider: Any) -> Reply:
    async with gateway(base_url, provider=provider) as running:
        reply = await ask(running.port, chat())
        await settled(running)
        return reply


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# --- names and addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["provider.invalid", "a" * 64 + ".example"])
def test_a_name_that_does_not_resolve_is_dns_failed_and_never_tried_again(host: str) -> None:
    async def work() -> None:
        reply = await failure_at(f"http://{host}/v1")
        check_failed(reply, 502, "dns_failed", host)
        assert reply.headers["x-should-retry"] == "false"

    run(work)


def test_a_port_without_a_listener_is_connect_refused() -> None:
    async def work() -> None:
        port = free_port()
        check_failed(await failure_at(f"http://127.0.0.1:{port}/v1"), 502, "connect_refused", f"127.0.0.1:{port}")

    run(work)


def test_a_listener_that_answers_no_syn_is_connect_timeout() -> None:
    async def work() -> None:
        with full_backlog() as port:
            reply = await failure_at(f"http://127.0.0.1:{port}/v1", timeouts={"connect": 0.1})
            check_failed(reply, 504, "connect_timeout")

    run(work)


def test_the_kernel_looks_after_a_connection_whose_peer_may_vanish() -> None:
    async def work() -> None:
        async with scripted_upstream(answering(streamed(*HELLO))) as upstream, gateway(upstream.base_url) as running:
            await ask(running.port, chat())
            await settled(running)
            (connection,) = pool_of(running)._idle
            assert connection._transport is not None
            sock = connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            options = {name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in KEPT}
            assert options == KEPT

    run(work)


def test_a_name_with_several_addresses_reaches_the_one_that_listens() -> None:
    """`localhost` is both ::1 and 127.0.0.1 on most machines; only the latter listens."""

    async def work() -> None:
        async with (
            scripted_upstream(answering(streamed(*HELLO))) as upstream,
            gateway(f"http://localhost:{upstream.port}/v1") as running,
        ):
            assert (await ask(running.port, chat())).body == payload(*HELLO)

    run(work)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 on this machine")
def test_an_ipv6_literal_is_dialled_and_bracketed_in_the_host_header() -> None:
    async def work() -> None:
        heads = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(streamed(*HELLO))
            writer.close()

        try:
            server = await asyncio.start_server(serve, "::1", 0)
        except OSError:
            pytest.skip("no IPv6 loopback on this machine")
        async with server:
            port = server.sockets[0].getsockname()[1]
            async with gateway(f"http://[::1]:{port}/v1") as running:
                assert (await ask(running.port, chat())).body == payload(*HELLO)
                assert f"\r\nhost: [::1]:{port}\r\n".encode() in heads[0]

    run(work)


# --- TLS -------------------------------------------------------------------------------------------------------------


def test_a_stream_comes_over_tls_from_a_server_that_ca_file_vouches_for(authority: Authority) -> None:
    async def work() -> None:
        names: list[object] = []

        def note(_: object, name: object, __: object) -> None:
            names.append(name)

        for host in ("127.0.0.1", "localhost"):
            context = authority.context(host)
            context.sni_callback = note
            async with scripted_upstream(answering(streamed(*HELLO)), context) as upstream:
                base_url = f"https://{host}:{upstream.port}/v1"
                async with gateway(base_url, provider={"ca_file": str(authority.ca_file)}) as running:
                    for _ in range(2):
                        reply = await ask(running.port, chat())
                        assert (reply.status, reply.body, reply.complete) == (200, payload(*HELLO), True)
                    assert len(upstream.peers) == 1
                    assert (await running.entry()).code == "completed"
        assert names == [None, "localhost"]

    run(work)


def test_an_untrusted_certificate_is_tls_failed(authority: Authority) -> None:
    async def work() -> None:
        async with scripted_upstream(answering(streamed(*HELLO)), authority.context("127.0.0.1")) as upstream:
            reply = await failure_at(upstream.base_url)
            check_failed(reply, 502, "tls_failed", "unable to get local issuer certificate")
            assert reply.headers["x-should-retry"] == "false"
            assert all(not peer.requests for peer in upstream.peers)

    run(work)


def test_a_certificate_for_another_host_is_tls_failed(authority: Authority) -> None:
    async def work() -> None:
        async with scripted_upstream(answering(streamed(*HELLO)), authority.context("provider.example")) as upstream:
            reply = await failure_at(upstream.base_url, ca_file=str(authority.ca_file))
            check_failed(reply, 502, "tls_failed", "IP address mismatch")

    run(work)


def test_a_server_without_tls_is_tls_failed(authority: Authority) -> None:
    async def work() -> None:
        async def plain(peer: Peer) -> None:
            await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        async def shut(peer: Peer) -> None:
            peer.reset()

        for script in (plain, shut):
            async with scripted_upstream(script) as upstream:
                reply = await failure_at(
                    upstream.base_url.replace("http", "https"), ca_file=str(authority.ca_file), timeouts={"connect": 5}
                )
                check_failed(reply, 502, "tls_failed")

    run(work)


def test_a_handshake_that_takes_too_long_is_tls_timeout(authority: Authority) -> None:
    async def work() -> None:
        async def silent(peer: Peer) -> None:
            await peer.wait_closed_by_peer()
            gone.set()

        gone = asyncio.Event()
        async with scripted_upstream(silent) as upstream:
            base_url = upstream.base_url.replace("http", "https")
            reply = await failure_at(base_url, ca_file=str(authority.ca_file), timeouts={"connect": 0.2})
            check_failed(reply, 504, "tls_timeout")
            async with asyncio.timeout(5):
                await gone.wait()

    run(work)


def test_a_tls_connection_that_closes_in_mid_stream_is_truncated(authority: Authority) -> None:
    async def work() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(streamed(*HELLO)[:-300])

        async with (
            scripted_upstream(script, authority.context("127.0.0.1")) as upstream,
            gateway(upstream.base_url, provider={"ca_file": str(authority.ca_file)}) as running,
        ):
            reply = await ask(running.port, chat())
            assert (reply.status, reply.complete) == (200, True)
            assert b'"upstream_truncated"' in reply.body

    run(work)


# --- proxies ---------------------------------------------------------------------------------------------------------


def tunnelling(port: int) -> Script:
    """Give a proxy's script: it answers CONNECT and passes bytes to a port of this machine, whatever was asked for."""

    async def script(peer: Peer) -> None:
        await peer.request()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await peer.send(b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(peer._reader, writer))
                group.create_task(pump(reader, peer._writer))
        finally:
            writer.close()

    return script


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()


def test_tls_goes_through_the_proxy_s_tunnel(authority: Authority) -> None:
    async def work() -> None:
        async with (
            scripted_upstream(answering(streamed(*HELLO)), authority.context("provider.example")) as upstream,
            scripted_upstream(tunnelling(upstream.port)) as proxy,
            through_proxy(
                f"http://127.0.0.1:{proxy.port}",
                "https://provider.example/v1",
                provider={"ca_file": str(authority.ca_file)},
            ) as running,
        ):
            for _ in range(2):
                assert (await ask(running.port, chat())).body == payload(*HELLO)
            head, _ = proxy.peers[0].requests[0]
            assert head == b"CONNECT provider.example:443 HTTP/1.1\r\nhost: provider.example:443\r\n\r\n"
            assert len(proxy.peers) == 1
            assert b"\r\nhost: provider.example\r\n" in upstream.peers[0].requests[0][0]

    run(work)


def test_the_proxy_gets_its_credentials_and_the_provider_does_not(authority: Authority) -> None:
    async def work() -> None:
        async with (
            scripted_upstream(answering(streamed(*HELLO)), authority.context("provider.example")) as upstream,
            scripted_upstream(tunnelling(upstream.port)) as proxy,
            through_proxy(
                f"http://us%40er:pass%3Aword@127.0.0.1:{proxy.port}",
                "https://provider.example/v1",
                provider={"ca_file": str(authority.ca_file)},
            ) as running,
        ):
            assert (await ask(running.port, chat())).status == 200
            pair = base64.b64encode(b"us@er:pass:word")
            assert b"\r\nproxy-authorization: Basic " + pair + b"\r\n" in proxy.peers[0].requests[0][0]
            assert b"proxy-authorization" not in upstream.peers[0].requests[0][0]
            assert b"sk-upstream-secret" not in proxy.peers[0].requests[0][0]

    run(work)


@pytest.mark.parametrize(
    ("said", "status", "code", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", 502, "connect_refused", "the proxy answered 407"),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 2\r\n\r\nno", 502, "connect_refused", "the proxy answered 502"),
        (b"HTTP/1.1 200", 502, "connect_reset", ""),
        (b"x" * 20_000, 502, "connect_reset", ""),
    ],
)
def test_a_proxy_that_gives_no_tunnel_fails_the_attempt(said: bytes, status: int, code: str, words: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(said)

    async def work() -> None:
        async with (
            scripted_upstream(script) as proxy,
            through_proxy(f"http://127.0.0.1:{proxy.port}", "https://provider.example/v1") as running,
        ):
            check_failed(await ask(running.port, chat()), status, code, words)
            await settled(running)

    run(work)


def test_a_proxy_that_never_answers_is_connect_timeout() -> None:
    async def work() -> None:
        async with (
            scripted_upstream(stalling()) as proxy,
            through_proxy(
                f"http://127.0.0.1:{proxy.port}",
                "https://provider.example/v1",
                provider={"timeouts": {"connect": 0.1}},
            ) as running,
        ):
            check_failed(await ask(running.port, chat()), 504, "connect_timeout")
            await settled(running)
            assert pool_of(running).counts() == (0, 0)

    run(work)


def test_a_proxy_that_cannot_be_reached_is_told_apart_from_the_provider() -> None:
    async def work() -> None:
        async with through_proxy(f"http://127.0.0.1:{free_port()}", "https://provider.example/v1") as running:
            check_failed(await ask(running.port, chat()), 502, "connect_refused", "the proxy refused")
        async with through_proxy("http://proxy.invalid:3128", "https://provider.example/v1") as running:
            check_failed(await ask(running.port, chat()), 502, "dns_failed", "the proxy's host name 'proxy.invalid'")

    run(work)


def test_no_proxy_goes_direct(authority: Authority, tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            scripted_upstream(answering(streamed(*HELLO)), authority.context("127.0.0.1")) as upstream,
            scripted_upstream(tunnelling(upstream.port)) as proxy,
        ):
            variables = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}
            for no_proxy, tunnels in (("", 1), ("127.0.0.1", 1), ("*", 1), ("other.example", 2)):
                url = proxy_of(upstream.base_url, {**variables, "NO_PROXY": no_proxy})
                async with through_proxy(
                    url, upstream.base_url, provider={"ca_file": str(authority.ca_file)}
                ) as running:
                    assert (await ask(running.port, chat())).status == 200
                assert len(proxy.peers) == tunnels

    run(work)
