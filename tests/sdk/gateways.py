"""The official SDK in front of a gateway that runs in a thread of its own, so that the synchronous client can block."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from openai import AsyncOpenAI, OpenAI

from harness import Running, gateway, run
from tidegate.testing.upstream import Peer, scripted_upstream

KEY = "tg-a-key-of-the-sdk"
START_S = 20.0


class Threaded:
    """A gateway in a thread. Shape: `ask` runs a function on its loop and gives the result."""

    def __init__(self) -> None:
        self.running: Running
        self.loop: asyncio.AbstractEventLoop
        self.stop: asyncio.Event
        self.started = threading.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.running.port}/v1"

    def ask(self, question: Callable[[], Any]) -> Any:
        async def asked() -> Any:
            return question()

        return asyncio.run_coroutine_threadsafe(asked(), self.loop).result(START_S)

    def client(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=self.base_url, api_key=KEY, **{"max_retries": 0, "timeout": 20.0, **options})


@contextmanager
def threaded(**sections: Any) -> Iterator[Threaded]:
    """Serve a gateway in front of a mock, from a thread. Holds: the thread, until the exit."""
    held = Threaded()

    async def work() -> None:
        async with gateway(**sections) as running:
            held.running, held.loop, held.stop = running, asyncio.get_running_loop(), asyncio.Event()
            held.started.set()
            await held.stop.wait()

    thread = threading.Thread(target=run, args=(work, 100.0), daemon=True)
    thread.start()
    try:
        assert held.started.wait(START_S)
        yield held
    finally:
        held.loop.call_soon_threadsafe(held.stop.set)
        thread.join(START_S)


@asynccontextmanager
async def sdk(running: Running, **options: Any) -> AsyncIterator[AsyncOpenAI]:
    """Give the asynchronous client of a gateway."""
    options = {"max_retries": 0, "timeout": 20.0, **options}
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key=KEY, **options) as client:
        yield client


@asynccontextmanager
async def scripted(*pieces: bytes, **sections: Any) -> AsyncIterator[Running]:
    """Serve a gateway in front of a provider that answers every request with the same bytes, and closes."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*pieces)

    async with scripted_upstream(script) as upstream, gateway(upstream.base_url, **sections) as running:
        yield running
