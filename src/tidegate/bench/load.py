"""Our own load generator for paced streams: bare protocols, no task per stream, a time stamp per event.

Reads only as much HTTP as it must: the status, the blank lines that end events, the last chunk.
"""

import asyncio
import time
from array import array
from collections.abc import Callable
from typing import Final, cast

import msgspec
from msgspec import Struct

POLL_S: Final = 0.2
_AHEAD_S: Final = 0.002
_MOST_FAILURES: Final = 5
_LAST_CHUNK: Final = b"0\r\n\r\n"
_DONE: Final = b"data: [DONE]"


def chat_body(script: str, *, model: str = "mock", stream: bool = True, usage: bool = True, padding: int = 0) -> bytes:
    """Give a request body. Shape: the mock's script stands in `user`, which passes any proxy; padding in bytes of prompt."""
    said: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": "How do the tides work? " + "tide and time " * (padding // 14)}],
        "stream": stream,
        "user": f"mock?{script}",
    }
    if stream and usage:
        said["stream_options"] = {"include_usage": True}
    return msgspec.json.encode(said)


def chat_request(body: bytes, port: int, key: str) -> bytes:
    """Give a whole request."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Order(Struct, frozen=True, kw_only=True):
    """A load. Shape: `events` is what each stream must have; with event number `content_at` comes the first content."""

    port: int
    request: bytes
    events: int
    connections: int
    streams: int
    ramp_s: float
    deadline_s: float
    content_at: int = 2


class Tally:
    """What a load saw. Shape: seconds; `live` are streams that began to answer and are not over."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.ttft_s = array("d")
        self.gaps_s = array("d")
        self.asked = self.finished = self.events = self.joined = self.live = self.most_live = 0
        self.took_s = 0.0
        self.failures: list[str] = []
        self.failed = 0
        self.over = asyncio.Event()
        self.transports: set[asyncio.Transport] = set()

    def takes_another(self) -> bool:
        """Say whether there is one more stream to ask for, and count it."""
        if self.asked >= self.order.streams:
            return False
        self.asked += 1
        return True

    def began(self) -> None:
        """Count a stream whose answer begins."""
        self.live += 1
        self.most_live = max(self.most_live, self.live)

    def ended(self, failure: str = "") -> None:
        """Count a stream that is over."""
        if failure:
            self.failed += 1
            if len(self.failures) < _MOST_FAILURES:
                self.failures.append(failure)
        else:
            self.finished += 1
        if self.finished + self.failed >= self.order.streams:
            self.over.set()


class StreamClient(asyncio.Protocol):
    """One connection that asks for one stream after another, as long as there are any left."""

    __slots__ = ("_asked_at", "_asking", "_began", "_cut", "_done", "_events", "_last_at", "_tally", "_transport")

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._transport: asyncio.Transport
        self._asking = self._began = self._cut = self._done = False
        self._events = 0
        self._asked_at = self._last_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = cast(asyncio.Transport, transport)
        self._tally.transports.add(self._transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Count events and stamp them."""
        now = time.perf_counter()
        if not self._asking:
            return
        if not self._began:
            self._began = True
            self._tally.began()
            if not data.startswith(b"HTTP/1.1 200"):
                self._fail(f"answered {data[:60]!r}")
                return
        # A blank line may be cut in two by a read; in JSON a line feed is always escaped.
        found = data.count(b"\n\n") + (self._cut and data.startswith(b"\n"))
        self._cut = data.endswith(b"\n") and not data.endswith(b"\n\n")
        if found:
            self._note(found, now)
        if self._events >= self._tally.order.events:
            self._done = self._done or _DONE in data
            if data.endswith(_LAST_CHUNK):
                self._finish()
        elif data.endswith(_LAST_CHUNK):
            self._fail(f"ended after {self._events} of {self._tally.order.events} events")

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a stream that was cut off."""
        self._tally.transports.discard(self._transport)
        if self._asking:
            self._fail(f"connection lost after {self._events} events: {exc or 'closed'}")

    def _ask(self) -> None:
        if not self._tally.takes_another():
            self._transport.close()
            return
        self._asking = True
        self._began = self._cut = self._done = False
        self._events = 0
        self._asked_at = time.perf_counter()
        self._transport.write(self._tally.order.request)

    def _note(self, found: int, now: float) -> None:
        tally, before = self._tally, self._events
        self._events = before + found
        tally.events += found
        content_at = tally.order.content_at
        if before >= content_at:
            tally.gaps_s.append(now - self._last_at)
            if found > 1:
                tally.joined += found - 1
                tally.gaps_s.extend([0.0] * (found - 1))
        elif self._events >= content_at:
            tally.ttft_s.append(now - self._asked_at)
            tally.joined += self._events - content_at
        self._last_at = now

    def _finish(self) -> None:
        if self._events != self._tally.order.events or not self._done:
            self._fail(
                f"had {self._events} of {self._tally.order.events} events, [DONE] {'' if self._done else 'not '}seen"
            )
            return
        self._asking = False
        self._tally.live -= 1
        self._tally.ended()
        self._ask()

    def _fail(self, why: str) -> None:
        self._asking = False
        self._tally.live -= self._began
        self._tally.ended(why)
        self._transport.abort()


async def play(order: Order, sample: Callable[[Tally], object]) -> Tally:
    """Play a load to its end or deadline; `sample` is called every POLL_S once all connections are made."""
    tally = Tally(order)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(order.deadline_s):
            await _ramp(order, tally, began)
            while not tally.over.is_set():
                await _wait(tally.over, POLL_S)
                sample(tally)
    except TimeoutError:
        tally.failures.append(
            f"{order.streams - tally.finished - tally.failed} streams not over after {order.deadline_s:.0f} s"
        )
        tally.failed += 1
    except OSError as error:
        tally.failures.append(f"cannot connect: {error}")
        tally.failed += 1
    finally:
        tally.took_s = time.perf_counter() - began
        for transport in tuple(tally.transports):
            transport.abort()
    await asyncio.sleep(0)  # transports tell their protocols in the loop's next turn
    return tally


async def _ramp(order: Order, tally: Tally, began: float) -> None:
    loop = asyncio.get_running_loop()
    for index in range(order.connections):
        ahead_s = began + order.ramp_s * index / order.connections - time.perf_counter()
        if ahead_s > _AHEAD_S:
            await asyncio.sleep(ahead_s)
        await loop.create_connection(lambda: StreamClient(tally), "127.0.0.1", order.port)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
