"""A prediction whose exchange, relay and worker the test plays."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from tidegate.edge.settings import ServerSettings
from tidegate.exchange import AttemptRecord, Ending, Outcome, ReplyHead
from tidegate.predictions.prediction import Order, Policy, Prediction, Terms
from tidegate.predictions.settings import PredictionSettings
from tidegate.testing.clock import run_virtual
from tidegate.testing.memory import MemoryClient
from tidegate.verdict import (
    CLIENT_GONE,
)

HEAD = ReplyHead(
    200,
    ((b"content-type", b"text/event-stream"), (b"x-tidegate-attempts", b"1"), (b"x-ratelimit-limit-requests", b"9")),
)
SUCCEEDED = b'event: completed\ndata: {"status":"succeeded","array":true}\n\n'
CANCELED = b'event: completed\ndata: {"status":"canceled"}\n\n'
FAILED = b'event: completed\ndata: {"status":"failed","error":"ValueError: no"}\n\n'


class Run:
    """The exchange of a prediction as its relay and its worker see it. Shape: `hears` says whether a worker has it."""

    def __init__(
        self,
        policy: Policy = "async",
        settings: PredictionSettings | None = None,
        *,
        hears: bool = True,
    ) -> None:
        self.hears = hears
        self.asked = 0
        self.left = False
        self.told: list[str] = []
        self.server = ServerSettings()
        self.reported: list[tuple[str, Exception]] = []
        self.outcome = Outcome(1.0)
        loop = asyncio.get_running_loop()
        terms = Terms(
            settings=settings or PredictionSettings(),
            server=lambda: self.server,
            clock=loop.time,
            wall=lambda: 1_700_000_000.0 + loop.time() - 1000.0,
            report=lambda prediction, error: self.reported.append((prediction, error)),
        )
        order = Order(id="p1", tenant="acme", model="m", input=b'{"text":"hi"}', policy=policy)
        self.prediction = Prediction(order, terms, self.outcome, self._cancelling)
        self.prediction.tell = self.told.append

    def _cancelling(self, outcome: Outcome) -> bool:
        assert outcome is self.outcome
        self.asked += 1
        return self.hears

    def pause(self) -> None:
        raise AssertionError

    def resume(self) -> None:
        raise AssertionError

    def gone(self) -> None:
        """End as a relay does that its client left."""
        if not self.left:
            self.left = True
            self.outcome.end(Ending(CLIENT_GONE), 2.0)
            self.prediction.abort()

    def come_and_go(self) -> None:
        """Wait for the end as a caller that leaves."""
        self.prediction.arrive()
        self.prediction.depart()

    def try_it(self) -> None:
        self.outcome.attempts.append(AttemptRecord(provider="local", model="m", started_at=1.0))

    def start(self) -> Prediction:
        if not self.outcome.attempts:
            self.try_it()
        self.prediction.bind(self)
        self.prediction.start(HEAD)
        return self.prediction

    def follow(self, after: int | None = None) -> MemoryClient:
        client = MemoryClient()
        assert self.prediction.attach(client, after) is not None
        return client

    def snapshot(self, *, full: bool = False) -> dict[str, Any]:
        shown = json.loads(self.prediction.snapshot(full=full))
        assert list(shown) == sorted(shown)
        assert isinstance(shown, dict)
        return shown


def frame(event: str, data: object) -> bytes:
    return f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def events(client: MemoryClient) -> list[tuple[str, Any]]:
    """Give what a client was told, its ids checked."""
    found = []
    for number, told in enumerate(b"".join(client.written).split(b"\n\n")[:-1], 1):
        given_id, event, data = told.split(b"\n")
        assert given_id == b"id: %d" % number
        found.append((event.decode().removeprefix("event: "), json.loads(data.removeprefix(b"data: "))))
    return found


async def turns(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def virtual(main: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def test() -> None:
        run_virtual(main)

    test.__name__ = main.__name__
    return test
