"""What providers say, as bytes, and scripts that say it: for tests in front of a scripted upstream."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from harness import Raw, Reply, Running, gateway
from tidegate.testing.upstream import HEAD, LAST, Peer, ScriptedUpstream, chunk, scripted_upstream
from tidegate.upstream.pool import Pool

Script = Callable[[Peer], Awaitable[None]]


def frame(value: Any) -> bytes:
    """Give one event whose data is a value."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(members: dict[str, Any], *, index: int = 0, finish: str | None = None, **more: Any) -> bytes:
    """Give one frame of a chat stream."""
    choice = {"index": index, "delta": members, "finish_reason": finish}
    return frame(
        {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "mock", "choices": [choice], **more}
    )


def word(text: str, index: int = 0) -> bytes:
    """Give a frame with content."""
    return delta({"content": text}, index=index)


ROLE = delta({"role": "assistant", "content": ""})
FINISH = delta({}, finish="stop")
USAGE_MEMBER = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
USAGE = frame(
    {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "mock", "choices": [], "usage": USAGE_MEMBER}
)
DONE = b"data: [DONE]\n\n"
HELLO = (ROLE, word("Hel"), word("lo"), FINISH, DONE)
MESSAGE = {
    "id": "c1",
    "object": "chat.completion",
    "model": "mock",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": USAGE_MEMBER,
}


def answering(*pieces: bytes) -> Script:
    """Give a script that answers each request of a connection with these bytes."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(*pieces)

    return script


def closing(*pieces: bytes) -> Script:
    """Give a script that answers one request and closes the connection."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*pieces)

    return script


def stalling(*pieces: bytes) -> Script:
    """Give a script that answers one request and then keeps silent until the gateway leaves."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*pieces)
        await peer.wait_closed_by_peer()

    return script


@contextmanager
def full_backlog() -> Iterator[int]:
    """Listen on a port that answers no further connection."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])


@asynccontextmanager
async def fronting(script: Script, **sections: Any) -> AsyncIterator[tuple[Running, ScriptedUpstream]]:
    """Serve a gateway in front of a script."""
    async with scripted_upstream(script) as upstream, gateway(upstream.base_url, **sections) as running:
        yield running, upstream


def pool_of(running: Running) -> Pool:
    """Give the pool of the one provider."""
    return running.tidegate.providers["main"].pool


def chunked(*frames: bytes, head: bytes = HEAD) -> bytes:
    """Give a stream without its last chunk."""
    return head + b"".join(map(chunk, frames))


def streamed(*frames: bytes, head: bytes = HEAD) -> bytes:
    """Give a whole stream."""
    return chunked(*frames, head=head) + LAST


def answer(status: int, body: Any, *headers: str) -> bytes:
    """Give a whole answer with a JSON body."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Said", "content-type: application/json", f"content-length: {len(payload)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


class Steps:
    """A provider that goes on when the test says so. Shape: each step is sent after the one before it was taken."""

    def __init__(self, *steps: bytes, resets: bool = False) -> None:
        self._steps = steps
        self._resets = resets
        self._turns = asyncio.Semaphore(0)

    def go_on(self) -> None:
        self._turns.release()

    def run_out(self) -> None:
        for _ in range(len(self._steps) + 1):
            self.go_on()

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        for number, step in enumerate(self._steps):
            if number:
                await self._turns.acquire()
            await peer.send(step)
        await self._turns.acquire()
        if self._resets:
            peer.reset()


async def whole_reply(client: Raw, *markers: bytes, then: Callable[[], None] = lambda: None) -> Reply:
    """Read an answer up to each marker, do something, and read on to its end."""
    data = b"".join([await client.reader.readuntil(marker) for marker in markers])
    then()
    with contextlib.suppress(ConnectionError):
        while not data.endswith(b"\r\n0\r\n\r\n"):
            more = await client.reader.read(65536)
            if not more:
                break
            data += more
    head, _, body = data.partition(b"\r\n\r\n")
    payload, complete = unchunked(body)
    return Reply(int(head[9:12]), {}, payload, complete=complete)


def unchunked(data: bytes) -> tuple[bytes, bool]:
    """Give the payload of a chunked body, and whether it is whole."""
    parts: list[bytes] = []
    while data:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            assert data == b"\r\n"
            return b"".join(parts), True
        parts.append(data[:size])
        data = data[size + 2 :]
    return b"".join(parts), False


def payload(*frames: bytes) -> bytes:
    """Give what a client gets of these frames."""
    return b"".join(frames)


def error_of(reply: Reply) -> dict[str, Any]:
    """Give the error of an answer that is one."""
    error: dict[str, Any] = reply.json()["error"]
    return error


def check_broken_off(reply: Reply, code: str, *arrived: bytes) -> dict[str, Any]:
    """Check that a stream gave what arrived, one error frame with a code, a clean end, and no [DONE]; gives the error."""
    assert reply.status == 200
    assert reply.complete
    assert reply.body.startswith(payload(*arrived))
    assert b"[DONE]" not in reply.body
    rest = reply.body[len(payload(*arrived)) :]
    assert rest.startswith(b"data: ")
    assert rest.count(b"data:") == 1
    assert rest.endswith(b"\n\n")
    error: dict[str, Any] = json.loads(rest[6:])["error"]
    assert error["code"] == code
    return error


def check_quiet(running: Running) -> None:
    """Check that nothing is live, lent, counted or owed."""
    tidegate = running.tidegate
    assert len(tidegate.gateway) == 0
    assert len(tidegate.ledger) == 0
    assert not tidegate.wiring.admission.inside
    assert not tidegate.wiring.opening.pending
    assert len(tidegate.crowd) <= tidegate.connections()
    assert tidegate.rules.finishing == 0
    assert [provider.pool.in_use for provider in tidegate.providers.values()] == [0] * len(tidegate.providers)
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in tidegate.metrics.families()
        for sample in family.samples
    }
    gauges = {name: value for name, value in samples.items() if name[0].endswith("_in_flight")}
    assert gauges
    assert not any(gauges.values()), gauges
    over = sum(value for name, value in samples.items() if name[0] == "tidegate_requests_total")
    assert samples["tidegate_exchanges_started_total",] == over


async def settled(running: Running, connections: int = 0) -> None:
    """Wait until the gateway is quiet and so many clients' connections are left. Errors: AssertionError."""
    for _ in range(400):
        try:
            assert len(running.tidegate.edge.connections) == connections
            check_quiet(running)
        except AssertionError:
            await asyncio.sleep(0.01)
        else:
            return
    assert len(running.tidegate.edge.connections) == connections
    check_quiet(running)
