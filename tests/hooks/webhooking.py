"""Webhooks of predictions that a test tells, and a receiver that takes them."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiohttp import web
from hook_servers import Names
from structlog.testing import CapturingLogger

from tidegate.hooks.settings import WebhookSettings
from tidegate.hooks.webhooks import MAX_OWED, MAX_OWED_BYTES, Webhooks
from tidegate.tasks import Tasks

ALL = frozenset({"start", "output", "logs", "completed"})
IDS = {"prediction": "p1", "request": "r1"}


class Receiver:
    """Takes webhooks. Shape: `statuses` are given in turn, then 200; `delay_s` is how long each takes."""

    def __init__(self, *statuses: int, delay_s: float = 0.0, **headers: str) -> None:
        self.bodies: list[Any] = []
        self.raw: list[bytes] = []
        self.heads: list[dict[str, str]] = []
        self.times: list[float] = []
        self.most = 0
        self._running = 0
        self._statuses = list(statuses)
        self._delay_s = delay_s
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(self, request: web.Request) -> web.Response:
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            raw = await request.read()
            self.times.append(time.monotonic())
            self.raw.append(raw)
            self.bodies.append(json.loads(raw))
            self.heads.append({name.lower(): value for name, value in request.headers.items()})
            await asyncio.sleep(self._delay_s)
        finally:
            self._running -= 1
        return web.Response(status=self._statuses.pop(0) if self._statuses else 200, headers=self._headers)


class Sender:
    """Webhooks with what they were told to count and log."""

    def __init__(
        self, names: Names | None = None, most: int = MAX_OWED, most_bytes: int = MAX_OWED_BYTES, **settings: Any
    ) -> None:
        self.counts: list[str] = []
        self.captured = CapturingLogger()
        self.tasks = Tasks()
        self.hooks = Webhooks(
            WebhookSettings(**{"allow_private": True, "interval_s": 0.05, "timeout_s": 10.0, **settings}),
            agent="tests/1",
            tasks=self.tasks,
            clock=time.monotonic,
            wall=time.time,
            log=structlog.wrap_logger(
                self.captured, processors=[], wrapper_class=structlog.make_filtering_bound_logger("info")
            ),
            chance=random.random,
            count=self.counts.append,
            resolver=names,
            most=most,
            most_bytes=most_bytes,
        )

    def lines(self) -> list[dict[str, Any]]:
        return [call.kwargs for call in self.captured.calls]


@asynccontextmanager
async def sending(names: Names | None = None, **settings: Any) -> AsyncIterator[Sender]:
    sender = Sender(names, **settings)
    try:
        yield sender
    finally:
        await sender.hooks.close()
        assert len(sender.tasks) == 0
        assert not any(line["event"] == "bug" for line in sender.lines())


class Story:
    """A prediction that tells its hook how it goes."""

    def __init__(self, sender: Sender, url: str, events: frozenset[str] = ALL, **headers: str) -> None:
        self.status = "processing"
        self.output: list[int] = []
        self.tell: Callable[[str], None] = sender.hooks.hook(url, events, headers, self.snapshot, IDS)

    def snapshot(self) -> bytes:
        return json.dumps({"status": self.status, "output": self.output}).encode()

    def put(self, item: int) -> None:
        self.output.append(item)
        self.tell("output")

    def end(self, status: str = "succeeded") -> None:
        self.status = status
        self.tell("completed")
