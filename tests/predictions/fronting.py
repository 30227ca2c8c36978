"""The front of predictions behind the real edge, on a real socket; the gateway behind it says what its handler would."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any, NoReturn

import msgspec

from harness import Reply, ask
from tidegate.dialect.prediction import Prediction as Dialect
from tidegate.dialect.prediction import read_envelope
from tidegate.edge.client import BodyLimit
from tidegate.edge.connection import Connection, Edge, Hot
from tidegate.edge.settings import ServerSettings
from tidegate.exchange import Arrival, AttemptRecord, Client, Ending, Identity, Outcome, ReplyHead
from tidegate.predictions.front import Around, Predictions
from tidegate.predictions.paths import route_of
from tidegate.predictions.registry import Registry
from tidegate.predictions.settings import PredictionSettings
from tidegate.tasks import Tasks
from tidegate.testing.memory import EVENTS
from tidegate.verdict import COMPLETED, UNAUTHENTICATED, Fault, Refused
from tidegate.worker.health import Health, Setup
from tidegate.worker.messages import Info

SCHEMA = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string", "minLength": 1},
        "n": {"type": "integer", "minimum": 0},
        "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
    "required": ["prompt"],
}
INFO = Info(
    openapi=msgspec.Raw(b'{"openapi":"3.0.2"}'),
    input_schema=msgspec.Raw(msgspec.json.encode(SCHEMA)),
    parameters=("prompt", "n", "maybe"),
    streams=True,
    checks_health=True,
)
OK = Setup("succeeded", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:01+00:00", "loaded")


class Model:
    """Fits discovery.Served."""

    def __init__(self, name: str = "m", info: Info | None = INFO, status: Any = "READY") -> None:
        self.name, self.info, self.max_queue = name, info, 10
        self.found = Health(status, OK)
        self.checked = 0
        self.stops: dict[Outcome, asyncio.Event] = {}

    @property
    def serves(self) -> bool:
        return self.found.status in {"READY", "BUSY", "UNHEALTHY"}

    def health(self) -> Health:
        return self.found

    async def check(self) -> str:
        self.checked += 1
        return ""

    def cancel(self, outcome: Outcome, /) -> bool:
        stop = self.stops.get(outcome)
        if stop is not None:
            stop.set()
        return stop is not None


class Handler:
    """Fits edge.connection.Conducting: streams n words of the prompt, holds at `gate`, is stopped by its model's cancel.

    Shape: `waits` says that it stands in line first, at `opening`; `stopping` is how long it takes to stop.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.gate = asyncio.Event()
        self.gate.set()
        self.opening = asyncio.Event()
        self.opening.set()
        self.stopping = asyncio.Event()
        self.stopping.set()
        self.waits = False
        self.fault: Fault | None = None
        self.breaks = False
        self.headers: tuple[tuple[bytes, bytes], ...] = EVENTS.headers
        self.inputs: list[bytes] = []
        self.ended: list[Outcome] = []
        self.refused: list[Fault] = []

    def refuse(self, arrival: Arrival, fault: Fault) -> None:
        self.refused.append(fault)

    async def conduct(self, arrival: Arrival, client: Client) -> None:
        envelope = read_envelope(await arrival.body.read())
        self.inputs.append(bytes(envelope.input))
        try:
            async with client.present():
                if self.waits:
                    arrival.outcome.attempts.append(AttemptRecord(provider="local", model="m", started_at=1.0))
                await self.opening.wait()
                if self.fault is not None:
                    raise self.fault
                await self._run(arrival, client, msgspec.json.decode(envelope.input))
        except Fault as fault:
            client.refuse(fault)
        finally:
            self.ended.append(arrival.outcome)

    async def _run(self, arrival: Arrival, client: Client, members: dict[str, Any]) -> None:
        stop = self.model.stops[arrival.outcome] = asyncio.Event()
        client.start(ReplyHead(200, self.headers))
        client.write(b'event: log\ndata: {"source":"stdout","data":"begun\\n"}\n\n')
        waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(self.gate.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await self.stopping.wait()
        for index in range(0 if stop.is_set() else members.get("n", 1)):
            client.write(b'event: output\ndata: {"chunk":"w","index":%d}\n\n' % index)
        status = (
            b'"canceled"' if stop.is_set() else b'"failed","error":"ValueError: x"' if self.breaks else b'"succeeded"'
        )
        client.write(b'event: completed\ndata: {"status":%b,"array":true}\n\n' % status)
        client.finish(Ending(COMPLETED))
        del self.model.stops[arrival.outcome]


class Keys:
    """Fits edge.cold.Identifying: the key is the tenant; none is refused where keys are needed."""

    needed = False

    @property
    def open(self) -> bool:
        return not self.needed

    def identify(self, headers: Mapping[bytes, bytes], address: str, /) -> Identity:
        key = headers.get(b"authorization", b"").decode()
        if self.needed and not key:
            raise Refused(UNAUTHENTICATED, "no API key")
        return Identity(key, key)


class Free:
    """Fits front.Guarding: there is room."""

    counted = 0
    read = 0

    def judge(self, length: int, /) -> None:
        """Refuse nothing."""

    def expect(self, length: int, /) -> int:
        self.counted += length
        return length

    def came(self, counted: int, /) -> None:
        self.counted -= counted
        self.read += 1


class Book:
    """Fits edge.cold.Recording."""

    def __init__(self) -> None:
        self.begun: list[Arrival] = []
        self.over: list[Outcome] = []

    def started(self, arrival: Arrival) -> None:
        self.begun.append(arrival)

    def record(self, arrival: Arrival, outcome: Outcome) -> None:
        assert arrival.outcome is outcome
        assert outcome.ending is not None
        self.over.append(outcome)


class _Seat:
    def begin(self, headers: Mapping[bytes, bytes], /) -> str | None:
        return "127.0.0.1"

    def done(self) -> None:
        """Count nothing."""

    def leave(self) -> None:
        """Count nothing."""


def _no_cold(address: str, on_lost: Callable[[], None]) -> NoReturn:
    raise AssertionError(address, on_lost)


class Fronted:
    """A front that serves. Shape: `models` may be changed while it does."""

    def __init__(self, settings: PredictionSettings) -> None:
        self.model = Model()
        self.models: dict[str, Model] = {"m": self.model}
        self.handler = Handler(self.model)
        self.keys, self.memory, self.book, self.tasks = Keys(), Free(), Book(), Tasks()
        self.draining = False
        self.shut_down = 0
        self.told: list[tuple[str, str]] = []
        self.hooked: list[tuple[str, frozenset[str], Mapping[str, str]]] = []
        self.ids: list[Mapping[str, str]] = []
        self.port = 0
        loop = asyncio.get_running_loop()
        self.registry = Registry(settings, loop.time)
        self.front = Predictions(
            Around(
                settings=settings,
                server=ServerSettings,
                models=lambda: self.models,
                gate=self.keys,
                memory=self.memory,
                draining=lambda: self.draining,
                gateway=self.handler,
                recording=self.book,
                registry=self.registry,
                hook=self.hook,
                tasks=self.tasks,
                clock=loop.time,
                wall=lambda: 1.7e9,
                chance=Random(1).random,
                shut_down=self.shut,
            )
        )

    def shut(self) -> None:
        self.shut_down += 1

    def hook(
        self,
        url: str,
        events: frozenset[str],
        headers: Mapping[str, str],
        snapshot: Callable[[], bytes],
        ids: Mapping[str, str],
    ) -> Callable[[str], None]:
        self.hooked.append((url, events, headers))
        self.ids.append(ids)
        return lambda event: self.told.append((event, msgspec.json.decode(snapshot())["status"]))

    async def post(self, body: Any, path: str = "/predictions", **headers: str) -> Reply:
        return await self.ask("POST", path, body, **headers)

    async def put(self, ident: str, body: Any, **headers: str) -> Reply:
        return await self.ask("PUT", f"/predictions/{ident}", body, **headers)

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.ask("GET", path, b"", **headers)

    async def ask(self, method: str, path: str, body: Any, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await ask(self.port, body, path=path, method=method, headers=named)


@asynccontextmanager
async def fronted(**settings: Any) -> AsyncIterator[Fronted]:
    """Serve a front on a port of its own."""
    made = PredictionSettings(**settings)
    found = Fronted(made)
    hot = Hot("predictions", Dialect(), found.front, BodyLimit(made.max_body_bytes, "predictions.max_body_bytes"))
    edge = Edge(
        settings=ServerSettings(),
        gateway=found.front,
        routes={},
        fallback=Dialect(),
        cold=_no_cold,
        join=lambda _: _Seat(),
        clock=asyncio.get_running_loop().time,
        find=lambda path: None if route_of(path) is None else hot,
    )
    server = await asyncio.get_running_loop().create_server(lambda: Connection(edge), "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        for connection in tuple(edge.connections):
            connection.abort()
        await edge.tasks.close()
        await found.tasks.close()
        found.registry.close()
