"""A gateway in a thread of its own: for clients that block, and to count what it alone does."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvloop

from harness import Running, gateway

START_S = 20.0
MOST_S = 100.0


class Threaded:
    """A gateway in a thread. Shape: `ask` runs a function there and gives the result."""

    def __init__(self) -> None:
        self.running: Running
        self.loop: asyncio.AbstractEventLoop
        self.stop: asyncio.Event
        self.started = threading.Event()

    def ask(self, question: Callable[[], Any]) -> Any:
        async def asked() -> Any:
            return question()

        return asyncio.run_coroutine_threadsafe(asked(), self.loop).result(START_S)

    async def serve(self, base_url: str, sections: dict[str, Any]) -> None:
        async with asyncio.timeout(MOST_S), gateway(base_url, **sections) as running:
            self.running, self.loop, self.stop = running, asyncio.get_running_loop(), asyncio.Event()
            self.started.set()
            await self.stop.wait()


@contextmanager
def threaded(
    base_url: str = "",
    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    held: Threaded | None = None,
    **sections: Any,
) -> Iterator[Threaded]:
    """Serve a gateway from a thread, in front of a mock or of `base_url`. Holds: the thread, until the exit."""
    held = held or Threaded()

    def work() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(held.serve(base_url, sections))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        assert held.started.wait(START_S)
        yield held
    finally:
        held.loop.call_soon_threadsafe(held.stop.set)
        thread.join(START_S)
