"""An answer that is decided while the request is still being sent reaches the client."""

import asyncio
import contextlib
import http.client
import json
import shutil
import socket
import struct
from typing import Any

import pytest

from harness import CHAT, Raw, connect, gateway, run, until
from tidegate.admission.identity import hash_key
from tidegate.edge.connection import DISCARD_BYTES

KEYS = {"mode": "keys", "keys": [{"id": "k1", "sha256": hash_key("sk-client-0123456789")}]}
REFUSALS = [({"auth": KEYS}, "401 unauthenticated"), ({"server": {"max_body_bytes": 1000}}, "413 too_large")]
UPLOAD_BYTES = 5 * 1024 * 1024
FETCH = """
const [url, size] = process.argv.slice(1);
const answer = await fetch(url, {method: "POST", body: "x".repeat(Number(size)), headers: {"content-type": "application/json"}});
console.log(answer.status, (await answer.json()).error.code);
"""


def post(length: int) -> bytes:
    return f"POST {CHAT} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n".encode()


def upload(port: int, size: int, path: str = CHAT) -> tuple[int, str]:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        # What urllib3 and httpcore do: an upload that is cut short may have been answered.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.request("POST", path, b"x" * size, {"content-type": "application/json"})
        reply = client.getresponse()
        return reply.status, json.loads(reply.read())["error"]["code"]
    finally:
        client.close()


@pytest.mark.parametrize(("settings", "said"), REFUSALS)
@pytest.mark.slow
def test_python_s_http_client_gets_it_while_it_uploads(settings: dict[str, Any], said: str) -> None:
    async def work() -> None:
        async with gateway(**settings) as running:
            for size in (100_000, 1_000_000, UPLOAD_BYTES):
                status, code = await asyncio.to_thread(upload, running.port, size)
                assert f"{status} {code}" == said

    run(work)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize(("settings", "said"), REFUSALS)
@pytest.mark.slow
def test_node_s_fetch_gets_it_while_it_uploads(settings: dict[str, Any], said: str) -> None:
    async def work() -> None:
        async with gateway(**settings) as running:
            process = await asyncio.create_subprocess_exec(
                "node", "--input-type=module", "-e", FETCH, f"http://127.0.0.1:{running.port}{CHAT}", str(UPLOAD_BYTES),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, err = await process.communicate()
            assert out.decode().strip() == said, err.decode()

    run(work)


async def half_closed(client: Raw) -> None:
    """Wait for the answer and the end of the gateway's side."""
    assert (await client.reply()).status == 401
    assert await client.reader.read() == b""


def test_the_gateway_half_closes_and_reads_on_until_the_client_closes() -> None:
    async def work() -> None:
        async with gateway(auth=KEYS) as running:
            async with connect(running.port) as client:
                await client.send(post(UPLOAD_BYTES))
                await half_closed(client)
                (connection,) = running.tidegate.edge.connections
                await client.send(b"x" * 1000)
                await until(lambda: connection.discarded == 1000)
                assert connection in running.tidegate.edge.connections
            await until(lambda: not running.tidegate.edge.connections)

    run(work)


@pytest.mark.slow
def test_no_more_than_a_mebibyte_is_read_on() -> None:
    async def work() -> None:
        async with gateway(auth=KEYS) as running, connect(running.port) as client:
            await client.send(post(UPLOAD_BYTES))
            await half_closed(client)
            (connection,) = running.tidegate.edge.connections
            client.writer.write(b"x" * UPLOAD_BYTES)
            await until(lambda: connection.discarded > DISCARD_BYTES)
            await asyncio.sleep(0.1)
            assert connection.discarded < UPLOAD_BYTES
            assert connection in running.tidegate.edge.connections  # closed now, it would reset a client that sends
            await until(lambda: not running.tidegate.edge.connections)

    run(work)


@pytest.mark.slow
def test_no_longer_than_two_seconds_are_read_on() -> None:
    async def work() -> None:
        async with gateway(auth=KEYS) as running, connect(running.port) as client:
            await client.send(post(UPLOAD_BYTES))
            await half_closed(client)
            await until(lambda: not running.tidegate.edge.connections)

    run(work)


def test_a_client_that_breaks_off_its_upload_leaves_nothing_behind() -> None:
    async def work() -> None:
        async with gateway(auth=KEYS) as running, connect(running.port) as client:
            await client.send(post(UPLOAD_BYTES))
            await half_closed(client)
            sock: socket.socket = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.writer.transport.abort()
            await until(lambda: not running.tidegate.edge.connections)

    run(work)


@pytest.mark.slow
def test_a_wrong_path_is_told_to_a_client_that_uploads_to_it() -> None:
    """The usual slip is a base URL without its /v1."""

    async def work() -> None:
        async with gateway() as running:
            for size in (100, 100_000, 1_000_000, UPLOAD_BYTES):
                got = await asyncio.to_thread(upload, running.port, size, "/chat/completions")
                assert got == (404, "not_found")

    run(work)
