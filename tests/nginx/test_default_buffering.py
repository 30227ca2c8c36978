"""A real nginx with its default proxy settings, buffering included, in front of the gateway: events still come one by one."""

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from harness import CHAT, ask, chat, connect, gateway, request_bytes, run, until
from tidegate.testing.upstream import HEAD, LAST, Peer, chunk, scripted_upstream

NGINX = next((path for path in ("nginx", "/usr/sbin/nginx") if shutil.which(path)), "")
EVENTS = 5
CONFIG = """\
daemon off;
master_process off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{behind}; {settings} }}
  }}
}}
"""

pytestmark = pytest.mark.skipif(not NGINX, reason="nginx is not installed")


def free_port() -> int:
    """Give a port that nobody listens on for now: nginx cannot be asked for a free one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@asynccontextmanager
async def nginx(folder: Path, behind: int, settings: str = "") -> AsyncIterator[int]:
    """Serve nginx in front of a port. Shape: no `settings` are its defaults."""
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(CONFIG.format(folder=folder, port=port, behind=behind, settings=settings), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        NGINX, "-p", str(folder), "-c", str(file), stderr=asyncio.subprocess.DEVNULL, env={**os.environ, "LANG": "C"}
    )
    try:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    async with connect(port):
                        break
                assert process.returncode is None, (folder / "error.log").read_text(encoding="utf-8")
                await asyncio.sleep(0.02)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def event(number: int) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%d"},"finish_reason":null}]}\n\n' % number


class OneByOne:
    """A provider that sends the next event only when it may."""

    def __init__(self) -> None:
        self.allowed = asyncio.Semaphore(0)
        self.sent = 0

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        for number in range(EVENTS):
            await self.allowed.acquire()
            await peer.send(chunk(event(number)))
            self.sent += 1
        await self.allowed.acquire()
        await peer.send(chunk(b"data: [DONE]\n\n"), LAST)


async def come_one_by_one(port: int, provider: OneByOne) -> None:
    """Read each event before the provider may send the next. Errors: TimeoutError when one is held back."""
    async with connect(port) as client:
        await client.send(request_bytes(chat()))
        for number in range(EVENTS):
            provider.allowed.release()
            async with asyncio.timeout(5):
                await client.reader.readuntil(event(number))
            assert provider.sent == number + 1
        provider.allowed.release()
        await client.reader.readuntil(b"data: [DONE]\n\n")


def test_each_event_arrives_before_the_next_one_is_sent(tmp_path: Path) -> None:
    async def work() -> None:
        provider = OneByOne()
        async with (
            scripted_upstream(provider) as upstream,
            gateway(upstream.base_url) as running,
            nginx(tmp_path, running.port) as port,
        ):
            await come_one_by_one(port, provider)
            assert (await running.entry()).code == "completed"

    run(work)


def test_without_our_header_the_same_nginx_would_hold_the_events_back(tmp_path: Path) -> None:
    """The proof that the test above can fail: this nginx does buffer."""

    async def work() -> None:
        provider = OneByOne()
        async with (
            scripted_upstream(provider) as upstream,
            gateway(upstream.base_url) as running,
            nginx(tmp_path, running.port, "proxy_ignore_headers X-Accel-Buffering;") as port,
            connect(port) as client,
        ):
            await client.send(request_bytes(chat()))
            provider.allowed.release()
            await until(lambda: provider.sent == 1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await client.reader.readuntil(event(0))

    run(work)


def test_an_error_and_a_whole_answer_pass_through_nginx(tmp_path: Path) -> None:
    async def work() -> None:
        async with gateway() as running, nginx(tmp_path, running.port) as port:
            assert (await ask(port, chat("mock?tokens=3", stream=False))).json()["usage"]["completion_tokens"] == 3
            reply = await ask(port, chat("nobody"), path=CHAT)
            assert (reply.status, reply.json()["error"]["code"]) == (404, "unknown_model")

    run(work)
