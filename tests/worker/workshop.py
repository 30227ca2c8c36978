"""Local providers for tests: real processes, a log and counts that can be looked at, and one attempt as the gateway makes it."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog
import uvloop
from msgspec import structs
from structlog.testing import LogCapture

from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.prediction import Prediction
from tidegate.exchange import Arrival, Ask, Attempt, AttemptRecord, Ending, Flow, Outcome, Plain, ReplyHead, Stream
from tidegate.tasks import Tasks
from tidegate.testing.memory import NoBody
from tidegate.testing.services import attempt_at
from tidegate.worker.local import Local
from tidegate.worker.process import COMMAND
from tidegate.worker.service import Fetching
from tidegate.worker.settings import LocalSettings

PEER = (sys.executable, str(Path(__file__).with_name("scripted_peer.py")))
WAIT_S = 30.0

CHAT = OpenAIChat()


def run(work: Callable[[], Coroutine[Any, Any, None]], *, on: Callable[[Any], None] = uvloop.run) -> None:
    """Run an async test, on the loop that production has unless told otherwise, with temporary files that are its own."""

    async def bounded() -> None:
        async with asyncio.timeout(90):
            await work()

    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as place:
        tempfile.tempdir = place  # what other processes leave is not ours to find
        try:
            on(bounded())
        finally:
            tempfile.tempdir = before


class Counts:
    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.streams: Counter[str] = Counter()

    def provider_call_started(self, provider: str, /) -> None:
        self.calls[provider] += 1

    def provider_call_ended(self, provider: str, /) -> None:
        self.calls[provider] -= 1

    def stream_opened(self, provider: str, /) -> None:
        self.streams[provider] += 1

    def stream_closed(self, provider: str, /) -> None:
        self.streams[provider] -= 1


class Reader:
    """A Sink that keeps what it gets."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.endings: list[Ending] = []
        self.over = asyncio.Event()
        self.came = asyncio.Event()

    def bind(self, flow: Flow, /) -> None:
        pass

    def start(self, head: ReplyHead, /) -> None:
        pass

    def write(self, data: bytes, /) -> None:
        self.pieces.append(data)
        self.came.set()

    def finish(self, ending: Ending, /) -> None:
        self.endings.append(ending)
        self.over.set()
        self.came.set()

    def abort(self) -> None:
        pass

    def divert(self, plain: Plain | None, /) -> None:
        pass

    @property
    def frames(self) -> list[tuple[str, Any]]:
        """What came: the events, each with its data."""
        frames = []
        for frame in b"".join(self.pieces).decode().split("\n\n")[:-1]:
            event, data = frame.split("\n")
            frames.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        return frames


class Shop:
    def __init__(self, local: Local, log: LogCapture, counts: Counts, slots: list[int]) -> None:
        self.local = local
        self.log = log
        self.counts = counts
        self.slots = slots

    def events(self, name: str) -> list[Any]:
        return [entry for entry in self.log.entries if entry["event"] == name]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                await asyncio.sleep(0.005)

    async def predict(self, **given: Any) -> Reader:
        """Make one prediction, and read it to its end."""
        async with self.local.open(predicting(**given)) as stream:
            return await read(stream)


async def read(stream: Stream) -> Reader:
    reader = Reader()
    stream.source.attach(reader)
    async with asyncio.timeout(WAIT_S):
        await reader.over.wait()
    return reader


def attempt_with(ask: Ask) -> Attempt:
    plain = attempt_at(time.monotonic())
    outcome = Outcome(time.monotonic())
    outcome.prompt_bytes = len(ask.body)
    arrival = Arrival("request-1", 1, "predictions", {}, "", NoBody(), outcome)
    record = AttemptRecord("main", "scripted", time.monotonic())
    return Attempt(structs.replace(plain.admitted, arrival=arrival, ask=ask), plain.target, record)


def predicting(**given: Any) -> Attempt:
    body = json.dumps({"model": "m", "id": "p1", "input": given, "context": {"k": "v"}}).encode()
    return attempt_with(Prediction.read_request(body))


def chatting(text: str, *, stream: bool = True, **more: Any) -> Attempt:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream, **more}
    return attempt_with(structs.replace(CHAT.read_request(json.dumps(body).encode()), dialect=CHAT.name))


def outcome_of(attempt: Attempt) -> Outcome:
    return attempt.admitted.arrival.outcome


@contextlib.asynccontextmanager
async def shop(
    plan: dict[str, Any] | str | None = None,
    *,
    ready: bool = True,
    fetch: Fetching | None = None,
    close_s: float = 0.2,
    command: tuple[str, ...] = PEER,
    withheld: frozenset[str] = frozenset(),
    **settings: Any,
) -> AsyncIterator[Shop]:
    """Give a local provider with its processes. Shape: a plan is for the scripted peer, a text names a real handler."""
    capture, counts, slots = LogCapture(), Counts(), list[int]()
    tasks = Tasks()
    real = isinstance(plan, str)
    handler = plan if isinstance(plan, str) else json.dumps(plan or {})
    local = Local(
        "main",
        LocalSettings(handler=handler, **settings),
        clients={CHAT.name: CHAT},
        tasks=tasks,
        clock=time.monotonic,
        wall=time.time,
        log=structlog.wrap_logger(
            None,
            processors=[capture],
            wrapper_class=structlog.make_filtering_bound_logger(0),
            cache_logger_on_first_use=False,
        ),
        metrics=counts,
        fetch=fetch,
        on_slots=slots.append,
        command=COMMAND if real else command,
        withheld=withheld,
    )
    try:
        await local.start()
        if ready:
            assert await local.wait_ready(WAIT_S), (local.health(), capture.entries)
        yield Shop(local, capture, counts, slots)
    finally:
        await local.close(close_s)
        left = len(tasks)
        await tasks.close()
    assert not left, "tasks are left"
    assert not +counts.calls
    assert not +counts.streams


def children() -> set[int]:
    """Give the processes that this one has started, zombies included."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, ValueError):
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(entry.name))
    return found


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def directories() -> set[str]:
    return {entry.name for entry in Path(tempfile.gettempdir()).iterdir() if entry.name.startswith("tidegate-")}
