"""Listening, TLS, and what happens when descriptors are out."""

import asyncio
import datetime as dt
import errno
import functools
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import structs

from harness import Raw, chat, connect, gateway, make_config, request_bytes, run, until
from tidegate.assemble import Tidegate
from tidegate.edge.listener import Listener, PortBusyError, raise_nofile_limit, tls_context
from tidegate.edge.settings import OpsSettings, TlsSettings
from tidegate.mock.server import MockProvider

CLIENTS = 400


class Echo(asyncio.Protocol):
    """Says what it is told."""

    def __init__(self, made: list["Echo"]) -> None:
        made.append(self)
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> TlsSettings:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    settings = TlsSettings(cert=str(folder / "cert.pem"), key=str(folder / "key.pem"))
    Path(settings.cert).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    Path(settings.key).write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return settings


@asynccontextmanager
async def listening(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Listener, int, list[Echo]]]:
    made: list[Echo] = []
    listener = Listener(lambda: Echo(made), tls)
    try:
        yield listener, listener.open("127.0.0.1", 0), made
    finally:
        listener.close()
        await listener.wait_closed()
        for echo in made:
            if echo.transport is not None:
                echo.transport.abort()
        await asyncio.sleep(0)


async def check_echo(client: Raw, said: bytes = b"hello") -> None:
    await client.send(said)
    assert await asyncio.wait_for(client.reader.readexactly(len(said)), 5) == said


# --- addresses -------------------------------------------------------------------------------------------------------


def test_many_clients_at_once_are_accepted_in_turns() -> None:
    async def work() -> None:
        async with listening() as (_, port, made):
            socks = []
            for _ in range(150):
                sock = socket.create_connection(("127.0.0.1", port))
                socks.append(sock)
            await until(lambda: len(made) == 150)
            for sock in socks:
                sock.close()

    run(work)


def test_a_busy_port_is_one_line_that_says_which_and_why() -> None:
    async def work() -> None:
        async with listening() as (_, port, _):
            with pytest.raises(PortBusyError) as caught:
                Listener(asyncio.Protocol).open("127.0.0.1", port)
            assert str(caught.value) == f"cannot listen on 127.0.0.1:{port}: {os.strerror(errno.EADDRINUSE)}"

    run(work)


def test_an_address_that_is_not_ours_or_no_name_is_one_line_too() -> None:
    async def work() -> None:
        for host in ("192.0.2.1", "no-such-host.invalid"):
            with pytest.raises(PortBusyError) as caught:
                Listener(asyncio.Protocol).open(host, 0)
            assert str(caught.value).startswith(f"cannot listen on {host}:0: ")
            assert "\n" not in str(caught.value)

    run(work)


def test_a_port_is_shared_by_nobody_unawares_and_free_again_after_close() -> None:
    async def work() -> None:
        async with listening() as (listener, port, made):
            with pytest.raises(PortBusyError):
                Listener(asyncio.Protocol).open("127.0.0.1", port, shared=True)
            async with connect(port) as client:
                await check_echo(client)
                listener.close()
                await check_echo(client)  # connections that are there stay
                again = Listener(lambda: Echo(made))
                assert again.open("127.0.0.1", port) == port
                again.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))

    run(work)


def test_replicas_that_share_a_port_both_get_connections() -> None:
    async def work() -> None:
        made: list[list[Echo]] = [[], []]
        first, second = (Listener(functools.partial(Echo, mine)) for mine in made)
        port = first.open("127.0.0.1", 0, shared=True)
        assert second.open("127.0.0.1", port, shared=True) == port
        async with AsyncExitStack() as stack:
            for _ in range(64):
                await check_echo(await stack.enter_async_context(connect(port)))
        assert all(made)
        for listener in (first, second):
            listener.close()
            await listener.wait_closed()

    run(work)


def test_an_ipv6_address_is_listened_on() -> None:
    async def work() -> None:
        made: list[Echo] = []
        listener = Listener(lambda: Echo(made))
        port = listener.open("::1", 0)
        reader, writer = await asyncio.open_connection("::1", port)
        await check_echo(Raw(reader, writer))
        writer.close()
        listener.close()
        await listener.wait_closed()

    run(work)


def test_a_gateway_whose_ops_port_is_busy_gives_its_main_port_back() -> None:
    async def work() -> None:
        async with listening() as (_, busy, _):
            config = structs.replace(make_config("http://127.0.0.1:1/v1"), ops=OpsSettings(listen=f"127.0.0.1:{busy}"))
            tidegate = Tidegate(config)
            with pytest.raises(PortBusyError):
                await tidegate.start()
            assert tidegate._listener._socket is None

    run(work)


# --- TLS -------------------------------------------------------------------------------------------------------------


def test_without_a_certificate_there_is_no_tls() -> None:
    assert tls_context(TlsSettings()) is None


def test_a_stream_passes_over_tls(certificate: TlsSettings) -> None:
    async def work() -> None:
        trust = ssl.create_default_context(cafile=certificate.cert)
        trust.set_alpn_protocols(["h2", "http/1.1"])
        tls = {"cert": certificate.cert, "key": certificate.key}
        async with gateway(server={"tls": tls}) as running:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", running.port, ssl=trust, server_hostname="localhost"
            )
            client = Raw(reader, writer)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
            for _ in range(2):
                await client.send(request_bytes(chat("mock?tokens=5")))
                reply = await client.reply()
                assert (reply.status, reply.complete, reply.events()[-1]) == (200, True, "[DONE]")
            await client.send(request_bytes(b"", path="/v1/models", method="GET"))
            assert (await client.reply()).status == 200
            assert await client.closed()
            writer.close()

    run(work)


def test_an_early_answer_and_a_leaving_client_are_seen_over_tls(certificate: TlsSettings) -> None:
    async def work() -> None:
        trust = ssl.create_default_context(cafile=certificate.cert)
        tls = {"cert": certificate.cert, "key": certificate.key}
        async with gateway(server={"tls": tls, "max_body_bytes": 1000}) as running:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", running.port, ssl=trust, server_hostname="localhost"
            )
            client = Raw(reader, writer)
            await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-length: 5000000\r\n\r\n")
            assert (await client.reply()).status == 413
            writer.close()
            await until(lambda: not running.tidegate.edge.connections)
            _, writer = await asyncio.open_connection("127.0.0.1", running.port, ssl=trust, server_hostname="localhost")
            writer.write(request_bytes(chat("mock?ttft=10m")))
            await until(lambda: running.mock.stats.open == 1)
            writer.close()
            await until(lambda: running.mock.stats.cancelled == 1)
            assert (await running.entry()).code == "client_gone"

    run(work)


def test_a_client_that_speaks_no_tls_is_dropped_and_others_are_served(certificate: TlsSettings) -> None:
    async def work() -> None:
        async with listening(tls_context(certificate)) as (listener, port, made):
            async with connect(port) as client:
                await client.send(b"GET / HTTP/1.1\r\n\r\n")
                assert await client.closed()
            async with connect(port):  # says nothing, and is still there when the listener closes
                await until(lambda: len(listener._tasks) == 1)
                trust = ssl.create_default_context(cafile=certificate.cert)
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=trust, server_hostname="localhost"
                )
                await check_echo(Raw(reader, writer))
                writer.close()
                listener.close()
                await listener.wait_closed()
                assert len(listener._tasks) == 0
            assert len(made) >= 1

    run(work)


# --- descriptors -----------------------------------------------------------------------------------------------------


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    code = (
        "import resource\n"
        "from tidegate.edge.listener import raise_nofile_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))\n"
        "print(raise_nofile_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    assert in_child(code) == "300 (300, 300)"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert raise_nofile_limit() == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def in_child(code: str) -> str:
    async def child() -> str:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        return out.decode().strip()

    return asyncio.run(child())


def test_accepting_pauses_while_descriptors_are_out_and_goes_on_afterwards() -> None:
    async def work() -> None:
        async with listening() as (listener, port, made):
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with ExitStack() as held:
                sock = held.enter_context(socket.socket())
                sock.setblocking(False)
                used = sock.fileno() + 1
                held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
                fill(held, used)
                resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
                await until(lambda: listener.exhausted >= 2)
                assert listener.exhausted < 10  # looked at every few milliseconds: hundreds would be a spin
                assert made == []
            await until(lambda: len(made) == 1)

    run(work)


def fill(held: ExitStack, below: int) -> None:
    """Take every free descriptor below a number."""
    while True:
        number = os.open("/dev/null", os.O_RDONLY)
        if number >= below:
            os.close(number)
            return
        held.callback(os.close, number)


def test_a_listener_that_closes_while_it_pauses_stays_closed() -> None:
    async def work() -> None:
        async with listening() as (listener, _, _):
            listener._pause(OSError(errno.EMFILE, "too many"))
            assert listener._paused is not None
            listener.close()
            assert listener._paused is None
            listener._pause(OSError(errno.EMFILE, "too many"))
            listener._resume()
            listener._accept()
            assert listener._socket is None
            assert listener.exhausted == 1

    run(work)


SERVE = """
import asyncio, resource, signal, sys
import uvloop
from tidegate.assemble import Tidegate
from harness import make_config

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

async def main():
    tidegate = Tidegate(make_config(sys.argv[1]))
    port, ops_port = await tidegate.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(port, flush=True)
    await stop.wait()
    print(tidegate._listener.exhausted, tidegate.edge.accepted, flush=True)
    await tidegate.stop(delay_s=0)

uvloop.run(main())
"""


@asynccontextmanager
async def small_gateway(base_url: str) -> AsyncIterator[tuple[int, Callable[[], Awaitable[list[int]]]]]:
    """Serve in a process that may have 256 descriptors. Shape: its port, and a call that ends it and gives its counts."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, base_url,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip
    assert process.stdout is not None
    stdout = process.stdout

    async def counts() -> list[int]:
        process.send_signal(signal.SIGTERM)
        said = [line async for line in stdout if line.strip().replace(b" ", b"").isdigit()]
        assert await asyncio.wait_for(process.wait(), 20) == 0
        return [int(word) for word in said[-1].split()]

    try:
        yield int(await stdout.readline()), counts
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.slow
def test_a_gateway_with_256_descriptors_survives_400_clients_and_recovers() -> None:
    async def work() -> None:
        mock = MockProvider()
        async with small_gateway(f"http://127.0.0.1:{await mock.start()}/v1") as (port, end):
            socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(CLIENTS)]
            await asyncio.sleep(1.0)
            for sock in socks:
                sock.close()
            async with connect(port) as client:
                await client.send(request_bytes(chat("mock?tokens=3")))
                reply = await client.reply()
                assert (reply.status, reply.events()[-1]) == (200, "[DONE]")
            exhausted, accepted = await end()
            # One rest of a tenth of a second for each: hundreds would be a spin, none a table that was never full.
            assert 0 < exhausted < 100
            assert accepted > 200
        await mock.close()

    run(work)
