"""The official SDK in front of a gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from openai import AsyncOpenAI, OpenAI

from harness import Running, gateway
from threads import Threaded
from tidegate.testing.upstream import Peer, scripted_upstream

KEY = "tg-a-key-of-the-sdk"
DEFAULTS: dict[str, Any] = {"api_key": KEY, "max_retries": 0, "timeout": 20.0}


def base_url(running: Running) -> str:
    return f"http://127.0.0.1:{running.port}/v1"


def blocking(served: Threaded, **options: Any) -> OpenAI:
    """Give the synchronous client of a gateway."""
    return OpenAI(base_url=base_url(served.running), **{**DEFAULTS, **options})


@asynccontextmanager
async def sdk(running: Running, **options: Any) -> AsyncIterator[AsyncOpenAI]:
    """Give the asynchronous client of a gateway."""
    async with AsyncOpenAI(base_url=base_url(running), **{**DEFAULTS, **options}) as client:
        yield client


@asynccontextmanager
async def scripted(*pieces: bytes, **sections: Any) -> AsyncIterator[Running]:
    """Serve a gateway in front of a provider that answers every request with the same bytes, and closes."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*pieces)

    async with scripted_upstream(script) as upstream, gateway(upstream.base_url, **sections) as running:
        yield running
