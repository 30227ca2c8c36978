"""A whole gateway without sockets, in virtual time: real client protocol, admission, dispatch, relay and ledger."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from random import Random
from types import TracebackType
from typing import Any

import structlog

from harness import chat, make_config
from streams import DONE, FINISH, ROLE, USAGE, word
from tidegate.admission import store
from tidegate.admission.identity import Door, gate
from tidegate.admission.memory import MemoryGuard
from tidegate.assemble.routes import FALLBACK
from tidegate.assemble.wiring import Process, Wiring
from tidegate.config import Config
from tidegate.edge.client import HttpClient
from tidegate.edge.intake import Head
from tidegate.edge.reply import Dates
from tidegate.exchange import (
    GAP_BOUNDS_S,
    Arrival,
    Attempt,
    Ending,
    Outcome,
    Plain,
    ReplyHead,
    Sink,
    Stream,
)
from tidegate.gateway import Gateway
from tidegate.ledger.ledger import Entry, Ledger, MetricsStore, Names
from tidegate.observe.metrics import Metrics
from tidegate.relay.relay import Finishing
from tidegate.tasks import Tasks
from tidegate.verdict import COMPLETED, TABLE, UPSTREAM_RESET, AttemptFailed

FAILURES = (
    "connect_refused", "connect_reset", "dns_failed", "tls_failed", "provider_auth", "upstream_rate_limited",
    "upstream_rejected", "upstream_failed", "error_frame", "empty_stream", "bad_frame",
)  # fmt: skip
MAX_HELD_BYTES = 10_000_000
EVENTS = ReplyHead(200, ((b"content-type", b"text/event-stream"),))


class Line:
    """A client's connection in memory. Shape: `sent` is what the gateway wrote."""

    def __init__(self) -> None:
        self.dates = Dates()
        self.sent: list[bytes] = []
        self.aborted = False
        self.over = False

    def write(self, data: bytes, /) -> None:
        self.sent.append(data)

    def sender(self) -> Callable[[bytes], None]:
        return self.write

    def unsent(self) -> int:
        return 0

    def grows(self, _: int, /) -> bool:
        return True

    def abort(self) -> None:
        self.aborted = True

    def closing(self) -> bool:
        return self.aborted

    def answered(self, client: HttpClient, /) -> None:
        assert client.answered
        assert not self.over
        self.over = True


class Provider:
    """The innermost service: everything a provider can do, by chance. Holds: `open` counts what was not exited."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.open_now = self.entered = self.exited = 0

    def open(self, ask: Attempt, /) -> AbstractAsyncContextManager[Stream]:
        return _Opened(self, ask)


class _Opened:
    def __init__(self, provider: Provider, attempt: Attempt) -> None:
        self._provider = provider
        self._attempt = attempt
        self._source: Source | None = None

    async def __aenter__(self) -> Stream:
        provider, chance, loop = self._provider, self._provider.chance, asyncio.get_running_loop()
        record = self._attempt.record
        assert self._attempt.admitted.ask.body, "the body is there for each attempt"
        provider.entered += 1
        provider.open_now += 1
        try:
            await asyncio.sleep(chance.choice((0, 0, 0.01, 0.5)))
            record.connected_at = record.sent_at = loop.time()
            await asyncio.sleep(chance.choice((0, 0.5, 1.0, 1000.0)) if chance.random() < 0.1 else 0.05)
            record.headed_at = loop.time()
            await asyncio.sleep(1000.0 if chance.random() < 0.02 else 0)
            self._may_fail(chance)
            record.framed_at = record.content_at = loop.time()
        except BaseException:
            provider.open_now -= 1
            provider.exited += 1
            raise
        self._source = Source(chance)
        return Stream(
            attempt=self._attempt,
            source=self._source,
            head=EVENTS,
            events=True,
            whole=False,
            strips_usage=not self._attempt.admitted.ask.wants_usage,
            changed=False,
            redact=str,
        )

    @staticmethod
    def _may_fail(chance: Random) -> None:
        if chance.random() < 0.15:
            wait = ((b"retry-after", b"%d" % chance.randrange(4)),) if chance.random() < 0.2 else ()
            raise AttemptFailed(TABLE[chance.choice(FAILURES)], headers=wait)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._source is not None
        self._source.stop()
        await asyncio.sleep(0)
        self._provider.open_now -= 1
        self._provider.exited += 1


class Source:
    """A stream's frames, one after the other in virtual time; it completes, breaks off, errs, or falls silent."""

    def __init__(self, chance: Random) -> None:
        words = [word(f"w{n}") for n in range(chance.randrange(1, 8))]
        self._frames = [ROLE, *words, FINISH, USAGE, DONE]
        self._cut = chance.randrange(2, len(self._frames)) if chance.random() < 0.15 else len(self._frames)
        self._way = chance.choice(("end", "reset", "error", "silence"))
        self._chance = chance
        self._sink: Sink | None = None
        self._timer: asyncio.TimerHandle | None = None

    def attach(self, sink: Sink, /) -> None:
        self._sink = sink
        sink.write(self._frames[0] + self._frames[1])
        self._frames = self._frames[2:]
        self._cut -= 2
        self._next()

    def _next(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._chance.random() * 2.0, self._step)

    def _step(self) -> None:
        sink = self._sink
        if sink is None:
            return
        if self._cut <= 0 or not self._frames:
            self._break(sink)
            return
        self._cut -= 1
        sink.write(self._frames.pop(0))
        if self._sink is not None:
            self._next()

    def _break(self, sink: Sink) -> None:
        if not self._frames or self._way == "end":
            sink.finish(Ending(COMPLETED))
        elif self._way == "reset":
            sink.finish(Ending(UPSTREAM_RESET))
        elif self._way == "error":
            sink.write(b'data: {"error": {"message": "no"}}\n\n')

    def divert(self, plain: Plain | None, /) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None:
        self.stop()

    def stop(self) -> None:
        self._sink = None
        if self._timer is not None:
            self._timer.cancel()


class Simulation:
    """A gateway and its crowd. Shape: everything that is left to chance follows from one seed."""

    def __init__(self, seed: int, config: Config) -> None:
        loop = asyncio.get_running_loop()
        self.chance = Random(seed)
        self.clock = loop.time
        self.metrics = Metrics(GAP_BOUNDS_S, "0")
        self.entries: list[Entry] = []
        self.tasks = Tasks()
        self.draining = False
        self.store = store.MemoryStore(self.clock)
        self.provider = Provider(self.chance)
        self.held_bytes = 0
        self.memory = MemoryGuard(
            MAX_HELD_BYTES,
            config.server.max_body_bytes,
            held=lambda: self.held_bytes,
            readers=lambda: list(self.gateway.relays()),
            chance=self.chance.random,
            log=structlog.get_logger(),
        )
        self.process = Process(
            clock=self.clock,
            chance=self.chance,
            metrics=self.metrics,
            door=Door(gate(config.auth), self.clock, self.chance.random),
            memory=self.memory,
            store=self.store,
            draining=lambda: self.draining,
            tasks=self.tasks,
            finishing=Finishing(),
        )
        self.wiring = Wiring(config, {}, self.process, innermost=self.provider)
        names = Names(frozenset({"chat"}), frozenset(model.name for model in config.models), frozenset({"a", "b", "c"}))
        self.ledger = Ledger(
            (MetricsStore(self.metrics, names), self),
            clock=self.clock,
            wall=time.time,
            log=structlog.get_logger(),
            on_start=self.metrics.exchange_started,
        )
        self.gateway = Gateway(self.wiring.admission, self.wiring.dispatch, self.wiring.relay, self.ledger, self.clock)
        self.lines: list[Line] = []

    def add(self, entry: Entry, /) -> None:
        """Keep every entry."""
        self.entries.append(entry)

    def hold(self, nbytes: int) -> None:
        """Let so many bytes be held from now on, as the sampler finds."""
        self.held_bytes = nbytes
        self.memory.sample()

    def drain(self, *, draining: bool) -> None:
        """Take no new work, or take some again."""
        self.draining = draining

    def reload(self, config: Config) -> None:
        """Take another configuration, as the gateway does."""
        self.wiring = Wiring(config, {}, self.process, self.wiring, innermost=self.provider)
        self.gateway.use(self.wiring.admission, self.wiring.dispatch, self.wiring.relay)

    def arrive(self, number: int, model: str, **headers: str) -> tuple[HttpClient, asyncio.Task[None]]:
        """Begin one exchange; gives its client and its task."""
        body = json.dumps(chat(model, user=f"u{number % 50}")).encode()
        given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        head = Head(
            method=b"POST",
            path=b"/v1/chat/completions",
            version="1.1",
            headers={b"host": b"h", b"content-length": b"%d" % len(body), **given},
            length=len(body),
            keeps=True,
            expects=False,
        )
        line = Line()
        self.lines.append(line)
        client = HttpClient(head, line, self.wiring.config.server, FALLBACK, f"r{number}")
        arrival = Arrival(
            request_id=f"r{number}",
            connection_id=number,
            route="chat",
            headers=head.headers,
            peer=f"10.0.0.{number % 7}",
            body=client,
            outcome=Outcome(self.clock()),
        )
        task = self.tasks.spawn(self.gateway.conduct(arrival, client))
        if self.chance.random() < 0.5:
            client.feed(body)
        else:
            asyncio.get_running_loop().call_later(self.chance.random() * 2, client.feed, body)
        return client, task


def settings(base: dict[str, Any], **sections: Any) -> Config:
    """Give a configuration of three providers, of models that go to all of them, and of one that clients name."""
    providers = [{"name": name, "base_url": f"http://{name}.invalid/v1", **base} for name in ("a", "b", "c")]
    targets = [
        {"provider": "a", "model": "x", "weight": 2},
        {"provider": "b", "model": "x", "max_streams": 40},
        {"provider": "c", "model": "x", "priority": 1},
    ]
    models = [
        {"name": "plain", "balance": "p2c_ewma", "targets": targets},
        {"name": "hedged", "balance": "round_robin", "targets": targets, "hedge": {"after": 0.3}},
        {"name": "sticky", "balance": "sticky", "targets": targets},
        {"name": "open/*", "balance": "p2c_ewma", "targets": [{"provider": name} for name in ("a", "b")]},
    ]
    return make_config("http://unused", providers=providers, models=models, **sections)
