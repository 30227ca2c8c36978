"""Composition root: a Config becomes a running gateway. This room alone knows all others."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Final

import structlog

from tidegate import __version__
from tidegate.admission import store
from tidegate.admission.address import Proxies
from tidegate.admission.crowd import Crowd
from tidegate.admission.identity import Door, gate
from tidegate.admission.memory import MemoryGuard
from tidegate.assemble.health import Health
from tidegate.assemble.locals import OWN_ROUTE
from tidegate.assemble.outbound import Outbound, load_clients
from tidegate.assemble.routes import DIALECTS, FALLBACK, PATHS, PREDICTION, PREFIXES
from tidegate.assemble.wiring import Process, Wiring, passages
from tidegate.config import Config, split_address
from tidegate.dispatch.fleet import Fleet, waiting_and_used
from tidegate.edge.client import BodyLimit
from tidegate.edge.cold import COLD_ROUTES, UvicornHost, client_app, ops_app
from tidegate.edge.connection import PLAIN_METHODS, Conducting, Connection, Edge, Hot
from tidegate.edge.listener import Listener, PortBusyError, tls_context
from tidegate.exchange import GAP_BOUNDS_S, Ending, Model
from tidegate.gateway import Gateway, Relaying
from tidegate.ledger.ledger import Ledger, LogStore, MemoryStore, MetricsStore, Names
from tidegate.observe.metrics import Metrics, Series
from tidegate.predictions.paths import route_of
from tidegate.predictions.registry import Registry
from tidegate.relay.relay import Finishing, RelayRules
from tidegate.tasks import Tasks, together
from tidegate.upstream.providers import Provider
from tidegate.verdict import SERVER_SHUTDOWN

__all__ = ("FALLBACK", "PATHS", "Tidegate")

LAST_WORDS_S: Final = 2.0
"""How long ended streams have to hand their error frames to the kernel."""
_ALL_METHODS: Final = frozenset({*PLAIN_METHODS, b"HEAD", b"OPTIONS"})
_FIXED: Final = ("server.host", "server.port", "ops.listen", "observe.log")
"""Settings that only a new start takes."""


class Tidegate:
    """The gateway of one process. Shape: `translates` has every stream translated, so that this road can be measured.

    Shape: `withheld` are the variables of the environment that no model of our own gets.
    Holds: two listening sockets, from `start` to `stop`; connections and pools until `stop` is over.
    """

    def __init__(
        self,
        config: Config,
        proxies: Mapping[str, str] | None = None,
        *,
        withheld: frozenset[str] = frozenset(),
        translates: bool = False,
        shut_down: Callable[[], None] = lambda: None,
    ) -> None:
        self.clock = time.monotonic
        self.draining = False
        self.metrics = Metrics(GAP_BOUNDS_S, __version__)
        self.entries = MemoryStore()
        self._chance = Random()  # noqa: S311 (spreads load and waits; guards nothing)
        self._tasks = Tasks()
        self._door = Door(gate(config.auth), self.clock, self._chance.random)
        self.crowd = Crowd()
        self._memory = self._guard()
        self._limit(config)
        self.outbound = Outbound(
            config.predictions.files,
            config.predictions.webhooks,
            tasks=self._tasks,
            clock=self.clock,
            chance=self._chance,
            count=self.metrics.webhook,
        )
        process = Process(
            clock=self.clock,
            chance=self._chance,
            metrics=self.metrics,
            door=self._door,
            memory=self._memory,
            store=store.MemoryStore(self.clock),
            draining=lambda: self.edge.closing,
            tasks=self._tasks,
            finishing=Finishing(),
            translates=translates,
            files=self.outbound,
        )
        self._process = process
        self._started = config
        self.wiring = Wiring(config, proxies or {}, process, withheld=withheld)
        self._counted = MetricsStore(self.metrics, _names(config))
        self.ledger = self._ledger()
        self.metrics.catch_up_by(self.ledger.write)
        wiring = self.wiring
        self.gateway = Gateway(wiring.admission, wiring.dispatch, wiring.relay, self.ledger, self.clock)
        self.health = Health(lambda: self.wiring, lambda: self.draining, self._counts, self.clock)
        self._tls = tls_context(config.server.tls)
        self.predictions: Conducting | None = None
        self._registry: Registry | None = None
        self._ops_port = 0
        self._shut_down = shut_down
        self._serve_own()
        self._open_edges(config)
        self._watch()

    @property
    def providers(self) -> dict[str, Provider]:
        """The providers of the present configuration."""
        return self.wiring.providers

    @property
    def fleet(self) -> Fleet:
        """What is remembered about targets."""
        return self.wiring.fleet

    @property
    def rules(self) -> RelayRules:
        """What the relays of new exchanges share."""
        return self.wiring.rules

    async def prepare(self, config: Config) -> None:
        """Load what a configuration needs, in a thread: imports take longer than streams may stand still."""
        if any(provider.kind == "local" for provider in config.providers):
            await asyncio.to_thread(load_clients)

    def reload(
        self, config: Config, proxies: Mapping[str, str] | None = None, withheld: frozenset[str] = frozenset()
    ) -> list[str]:
        """Let new exchanges go by another configuration; gives the settings that only a new start takes.

        Shape: the configuration has been prepared for.
        Errors: OSError and ssl.SSLError for a certificate that cannot be read; nothing is changed then.
        """
        old = self.wiring
        tls = tls_context(config.server.tls)
        wiring = Wiring(config, proxies or {}, self._process, old, withheld=withheld)
        self.wiring = wiring
        self.gateway.use(wiring.admission, wiring.dispatch, wiring.relay)
        old.retire(wiring, self.gateway.live())
        self._serve_own()
        for local in wiring.locals.values():
            self._tasks.start(local.start())
        self._limit(config)
        self._door.use(gate(config.auth))
        self._counted.names = _names(config, self._counted.names)
        self.edge.settings = self._ops_edge.settings = config.server
        if (tls is None) == (self._tls is None):
            self._tls = self._listener.tls = tls
        fixed = [path for path in (*_FIXED, "server.tls") if _changed(path, self._started, config)]
        return fixed if config.predictions == self._started.predictions else [*fixed, "predictions"]

    def _serve_own(self) -> None:
        """Make what serves predictions, with the first model that they can be made of.

        Shape: what is said of predictions is that of the start, what is said of the server that of the present.
        """
        if self.predictions is not None or not self.wiring.locals:
            return
        # The validator takes 3 MB, which nobody should pay who has no such models.
        from tidegate.predictions.front import Around, Predictions  # noqa: PLC0415

        settings = self._started.predictions
        self._registry = Registry(settings, self.clock)
        around = Around(
            settings=settings,
            server=lambda: self.edge.settings,
            models=lambda: self.wiring.own.by_name,
            gate=self._door,
            memory=self._memory,
            draining=lambda: self.edge.closing,
            gateway=self.gateway,
            recording=self.ledger,
            registry=self._registry,
            hook=self.outbound.hook,
            tasks=self._tasks,
            clock=self.clock,
            wall=time.time,
            chance=self._chance.random,
            shut_down=self._shut_down,
        )
        self.predictions = Predictions(around)

    def _open_edges(self, config: Config) -> None:
        self._cold = UvicornHost(
            client_app(
                gate=self._door,
                models=self._models,
                find=self._find,
                dialect=FALLBACK,
                anthropic=DIALECTS["messages"],
                absent=self._absent,
                hot_paths=tuple(PATHS),
                health=self.health,
                ledger=self.ledger,
                clock=self.clock,
            )
        )
        most_bytes = config.predictions.max_body_bytes
        self._own_limit = BodyLimit(most_bytes, "predictions.max_body_bytes")
        self._prefixes = {start.encode(): Hot(route, FALLBACK, self.gateway) for start, route in PREFIXES.items()}
        self.edge = Edge(
            settings=config.server,
            gateway=self.gateway,
            routes={path.encode(): Hot(route, DIALECTS[route], self.gateway) for path, route in PATHS.items()},
            find=self._hot,
            fallback=FALLBACK,
            cold=self._cold,
            join=self.crowd.join,
            clock=self.clock,
            grows=self._memory.grows,
        )
        self._listener = Listener(lambda: Connection(self.edge), self._tls)
        self._ops = UvicornHost(ops_app(self.health, self.metrics.render))
        self._ops_edge = Edge(
            settings=config.server,
            gateway=self.gateway,
            routes={},
            fallback=FALLBACK,
            cold=self._ops,
            join=Crowd().join,
            clock=self.clock,
        )
        self._ops_listener = Listener(lambda: Connection(self._ops_edge))

    def _hot(self, path: bytes) -> Hot | None:
        """Give how a path is served that is hot for every method."""
        if self.predictions is not None and route_of(path) is not None:
            return Hot(OWN_ROUTE, PREDICTION, self.predictions, self._own_limit, _ALL_METHODS)
        return next((hot for start, hot in self._prefixes.items() if path.startswith(start)), None)

    def _ledger(self) -> Ledger:
        logger = structlog.get_logger()
        return Ledger(
            (self._counted, LogStore(logger), self.entries),
            clock=self.clock,
            wall=time.time,
            log=logger,
            on_start=self.metrics.exchange_started,
            later=_two_turns_later,
        )

    def _guard(self) -> MemoryGuard:
        return MemoryGuard(
            held=self.buffered_bytes,
            readers=self._readers,
            chance=self._chance.random,
            log=structlog.get_logger(),
        )

    def _limit(self, config: Config) -> None:
        limits, server = config.limits, config.server
        self.crowd.max_connections = limits.max_connections
        self.crowd.max_per_address = limits.max_connections_per_ip
        self.crowd.proxies = Proxies(server.trusted_proxies)
        self._memory.max_bytes, self._memory.max_body_bytes = limits.max_buffered_bytes, server.max_body_bytes

    def _absent(self, path: str) -> str:
        """Say what a client may have looked for under a path that is not here."""
        if path == "/metrics":
            return f"metrics are on port {self._ops_port} (ops.listen)" if self._ops_port else "ops.listen is off"
        own = ", /predictions" if self.wiring.own.by_name else ""
        posts = f"POST /v1/chat/completions, /v1/responses, /v1/messages, /v1/embeddings{own}"
        return f"no such route; {posts} and GET /v1/models are"

    async def _models(self) -> list[str]:
        return await self.wiring.names()

    def _find(self, name: str) -> Model:
        return self.wiring.catalogue.find(name)

    def _readers(self) -> Iterable[Relaying]:
        return self.gateway.relays()

    def _watch(self) -> None:
        metrics = self.metrics
        metrics.watch_connections(self.connections)
        metrics.watch_buffered(self.buffered_bytes)
        metrics.watch("tidegate_upstream_connections", "Connections to providers.", ("provider", "state"), self._pools)
        metrics.watch("tidegate_breaker_state", "0 closed, 1 half open, 2 open.", ("provider", "model"), self._breakers)
        metrics.watch(
            "tidegate_retry_budget_available",
            "Extra attempts that can be paid for.",
            ("provider", "host"),
            lambda: ((key, budget.available(self.clock())) for key, budget in self.fleet.budgets.items()),
        )
        metrics.watch(
            "tidegate_predictions",
            "Predictions that run, and finished ones that are kept.",
            ("state",),
            self._predicted,
        )
        metrics.watch(
            "tidegate_predictions_kept_bytes",
            "Bytes of finished predictions.",
            (),
            lambda: () if self._registry is None else (((), self._registry.kept_bytes),),
        )
        metrics.watch(
            "tidegate_webhooks_owed",
            "Finished predictions that owe a webhook.",
            (),
            lambda: (((), self.outbound.owed),),
        )
        metrics.watch(
            "tidegate_slots", "Slots in use, and attempts that wait for one.", ("provider", "state"), self._slots
        )

    def _pools(self) -> Series:
        for name, provider in self.providers.items():
            in_use, idle = provider.pool.counts()
            yield (name, "in_use"), in_use
            yield (name, "idle"), idle

    def _breakers(self) -> Series:
        now = self.clock()
        return ((key, state.breaker_state(now)) for key, state in self.fleet.states.items())

    def _slots(self) -> Series:
        for name in (*self.providers, *self.wiring.locals):
            waiting, in_use = waiting_and_used(self.fleet.slots, name)
            yield (name, "in_use"), in_use
            yield (name, "waiting"), waiting

    def _predicted(self) -> Series:
        registry = self._registry
        if registry is not None:
            yield ("running",), registry.running
            yield ("kept",), len(registry) - registry.running

    def _counts(self) -> dict[str, int]:
        return {
            "active_connections": self.connections(),
            "exchanges_in_flight": len(self.gateway),
            "buffered_bytes": self.buffered_bytes(),
            "unique_ips": self.crowd.addresses,
        }

    def connections(self) -> int:
        """Give the clients' connections."""
        return len(self.edge.connections) + self._cold.connections

    def buffered_bytes(self) -> int:
        """Give the bytes held for all clients: what they sent, what they have not taken, what is held back for a verdict."""
        unsent = sum(connection.held() for connection in self.edge.connections)
        held = self.wiring.admission.held() + self.wiring.opening.held() + self.outbound.held()
        if self._registry is not None:
            # What is kept of finished ones has a bound of its own, and makes room when that is reached.
            held += sum(prediction.held() for prediction in self._registry.live())
        return unsent + held + sum(relay.held() for relay in self.gateway.relays())

    async def start(self, *, shared: bool = False, ops_moves: bool = False) -> tuple[int, int]:
        """Listen; gives the port, and the ops port or 0. Errors: PortBusyError.

        Shape: `shared` lets replicas listen on the same port, unless predictions are kept here, which no other process
        knows; the ops port is each one's own, so that a second process started by mistake is noticed. With `ops_moves`
        it is a free one where the configured one is taken.
        """
        server = self.wiring.config.server
        port = self._listener.open(server.host, server.port, shared=shared and not self.wiring.locals)
        try:
            self._ops_port = self._open_ops(moves=ops_moves)
        except BaseException:
            self._listener.close()
            raise
        self._memory.start()
        # No prediction begins before a worker is ready, and no worker before this: nothing is loaded when they run.
        await self.prepare(self.wiring.config)
        for local in self.wiring.locals.values():
            await local.start()
        return port, self._ops_port

    def _open_ops(self, *, moves: bool) -> int:
        """Listen where metrics are; gives the port, or 0 for none. Errors: PortBusyError."""
        listen = self.wiring.config.ops.listen
        if not listen:
            return 0
        host, number = split_address(listen)
        try:
            return self._ops_listener.open(host, number)
        except PortBusyError:
            if not moves:
                raise
            port = self._ops_listener.open(host, 0)
            structlog.get_logger().info("note", about=f"{listen} is taken: metrics are at port {port} of {host}")
            return port

    async def stop(self, *, delay_s: float | None = None) -> None:
        """Drain: say so, stop accepting, let streams end, end the rest, close everything."""
        server = self.wiring.config.server
        self.draining = True
        await asyncio.sleep(server.drain_delay_s if delay_s is None else delay_s)
        self._listener.close()
        self.edge.closing = True
        self._cold.shut_down()
        for connection in tuple(self.edge.connections):
            connection.close_idle()
        until = self.clock() + server.drain_timeout_s
        if not await self._quiet(server.drain_timeout_s):
            self.gateway.end_all(Ending(SERVER_SHUTDOWN))
            await self._quiet(LAST_WORDS_S)
        await self.outbound.wait_delivered(max(until - self.clock(), LAST_WORDS_S))
        await self._flushed(LAST_WORDS_S)
        await self._close()

    async def _quiet(self, timeout_s: float) -> bool:
        """Wait until no exchange is live; gives whether that came in time."""
        until = self.clock() + timeout_s
        while len(self.gateway) and self.clock() < until:
            await asyncio.sleep(0.02)
        return not len(self.gateway)

    async def _flushed(self, timeout_s: float) -> None:
        until = self.clock() + timeout_s
        while self.edge.connections and self.clock() < until:
            await asyncio.sleep(0.02)
        await self._cold.wait_closed(max(until - self.clock(), 0.0) or 0.01)

    async def _close(self) -> None:
        self._memory.stop()
        self._ops_listener.close()
        self._ops.shut_down()
        for connection in (*self.edge.connections, *self._ops_edge.connections):
            connection.abort()
        await self.edge.tasks.close()
        await together(*(local.close(LAST_WORDS_S) for local in self.wiring.locals.values()))
        await self.outbound.close()
        if self._registry is not None:
            self._registry.close()
        await self._tasks.close()
        for provider in self.providers.values():
            provider.pool.close()
        await self._listener.wait_closed()
        await self._ops_listener.wait_closed()
        await asyncio.sleep(0)  # transports tell their protocols in the loop's next turn
        self.ledger.write()


def _names(config: Config, before: Names | None = None) -> Names:
    """Give the names that may be labels: those of the configuration, and of all before it, whose streams may still run."""
    return Names(
        routes=frozenset({*PATHS.values(), *PREFIXES.values(), *COLD_ROUTES, OWN_ROUTE}),
        models=frozenset(_counted_models(config)) | (before.models if before else set()),
        providers=frozenset(provider.name for provider in config.providers) | (before.providers if before else set()),
    )


def _counted_models(config: Config) -> list[str]:
    """Give the names of models that may be labels; what passes through to a provider has one of its own."""
    return [model.name for model in config.models] + [model.name for model in passages(config).models]


def _changed(path: str, old: Config, new: Config) -> bool:
    section, _, name = path.partition(".")
    before, after = getattr(getattr(old, section), name), getattr(getattr(new, section), name)
    if path == "server.tls":
        return bool(before.cert) != bool(after.cert)  # from plain to TLS; another certificate is taken at once
    return bool(before != after)


def _two_turns_later(write: Callable[[], None]) -> None:
    """Write when the loop has turned to what came meanwhile: the next request of a client that waited for this one's end is on its way by then."""
    loop = asyncio.get_running_loop()
    loop.call_soon(loop.call_soon, write)
