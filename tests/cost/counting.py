"""Counts what a gateway does: an event loop that counts what is asked of it, and a profile of calls. No time is looked at."""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvloop


class CountingLoop(uvloop.Loop):
    """A loop as production uses it, that counts the tasks, futures, timers and callbacks that Python code asks for.

    Shape: `counts` has also `read` (at a provider) and `write` (to a client), each a call between protocol and transport.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def create_task(self, *arguments: Any, **options: Any) -> Any:
        self.counts["task"] += 1
        return super().create_task(*arguments, **options)

    def create_future(self) -> Any:
        self.counts["future"] += 1
        return super().create_future()

    def call_later(self, delay: float, callback: Any, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
        # The process looks at its memory twice a second, whatever its streams do.
        self.counts["beat" if callback.__qualname__ == "MemoryGuard._beat" else "timer"] += 1
        return super().call_later(delay, callback, *arguments, **options)

    def call_at(self, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
        self.counts["timer"] += 1
        return super().call_at(*arguments, **options)

    def call_soon(self, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
        self.counts["callback"] += 1
        return super().call_soon(*arguments, **options)

    async def connect_accepted_socket(self, factory: Callable[[], Any], *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
        return await super().connect_accepted_socket(lambda: _Client(factory(), self.counts), *arguments, **options)

    async def create_connection(self, factory: Callable[[], Any], *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
        return await super().create_connection(lambda: _Provider(factory(), self.counts), *arguments, **options)


class _Transport:
    """A transport that counts writes."""

    def __init__(self, transport: Any, counts: Counter[str]) -> None:
        self._transport = transport
        self._counts = counts

    def write(self, data: bytes) -> None:
        self._counts["write"] += 1
        self._transport.write(data)

    def writelines(self, pieces: list[bytes]) -> None:
        self._counts["write"] += 1
        self._transport.writelines(pieces)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Client(asyncio.Protocol):
    """Stands between a client's transport and the gateway's protocol."""

    def __init__(self, protocol: asyncio.Protocol, counts: Counter[str]) -> None:
        self._protocol = protocol
        self._counts = counts

    def connection_made(self, transport: Any) -> None:
        self._protocol.connection_made(_Transport(transport, self._counts))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


class _Provider(asyncio.BufferedProtocol):
    """Stands between a provider's transport and the gateway's protocol, and counts reads."""

    def __init__(self, protocol: asyncio.BufferedProtocol, counts: Counter[str]) -> None:
        self._protocol = protocol
        self._counts = counts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._protocol.connection_made(transport)

    def get_buffer(self, sizehint: int) -> Any:
        return self._protocol.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self._counts["read"] += 1
        self._protocol.buffer_updated(nbytes)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


class Profile:
    """Counts the calls of the gateway's own functions, by their qualified name, in the thread that starts it."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def start(self) -> None:
        sys.setprofile(self._note)

    def stop(self) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and "/tidegate/" in frame.f_code.co_filename:
            self.calls[frame.f_code.co_qualname] += 1


@contextmanager
def profiled(ask: Callable[[Callable[[], Any]], Any]) -> Iterator[Counter[str]]:
    """Count calls in the thread that `ask` runs functions in."""
    profile = Profile()
    ask(profile.start)
    try:
        yield profile.calls
    finally:
        ask(profile.stop)
