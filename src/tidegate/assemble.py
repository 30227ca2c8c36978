"""Composition root: a Config becomes a running gateway. The only file that knows every room and the order of layers."""

import asyncio
import resource
import time
from collections.abc import Iterable, Mapping
from random import Random

import structlog

from tidegate import __version__
from tidegate.admission import store
from tidegate.admission.address import Proxies
from tidegate.admission.admission import Admission
from tidegate.admission.catalogue import Catalogue
from tidegate.admission.crowd import Crowd
from tidegate.admission.identity import Door, gate
from tidegate.admission.memory import MemoryGuard, Reader
from tidegate.admission.rates import Rates
from tidegate.config import Config
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dispatch.breaker import BreakerState, breaking
from tidegate.dispatch.deadlines import deadlines
from tidegate.dispatch.fleet import Fleet, ProviderRules, waiting_and_used
from tidegate.dispatch.route import Router
from tidegate.dispatch.service import Service
from tidegate.dispatch.slots import slotting
from tidegate.dispatch.turn import Rules, directing
from tidegate.edge.cold import COLD_ROUTES, UvicornHost, client_app, ops_app
from tidegate.edge.connection import Connection, Edge
from tidegate.edge.listener import Listener, tls_context
from tidegate.exchange import GAP_BOUNDS_S, Admitted, Attempt, Client, Ending, Model, Outcome, Stream
from tidegate.gateway import Gateway
from tidegate.ledger.ledger import Ledger, LogStore, MemoryStore, MetricsStore, Names
from tidegate.observe.metrics import Metrics
from tidegate.relay.relay import Relay, RelayRules
from tidegate.relay.translate import TranslatingRelay
from tidegate.tasks import Tasks, together
from tidegate.upstream.dial import Dialer, Origin
from tidegate.upstream.opening import Opening
from tidegate.upstream.pool import Pool
from tidegate.upstream.providers import Provider
from tidegate.upstream.settings import ProviderSettings
from tidegate.verdict import SERVER_SHUTDOWN
from tidegate.wire.sse import SseFramer

AGENT = f"tidegate/{__version__}"
FALLBACK = OpenAIChat()
"""Speaks where no route has said which dialect the client has."""
DIALECTS = {"chat": FALLBACK}
HOT_ROUTES = {"/v1/chat/completions": "chat"}
LAST_WORDS_S = 2.0
"""How long ended streams have to hand their error frames to the kernel."""


class Tidegate:
    """The gateway of one process. Shape: `translates` has every stream translated, so that this road can be measured.

    Holds: two listening sockets, from `start` to `stop`; connections and pools until `stop` is over.
    """

    def __init__(self, config: Config, proxies: Mapping[str, str] | None = None, *, translates: bool = False) -> None:
        self._config = config
        self.clock = time.monotonic
        self.draining = False
        self.metrics = Metrics(GAP_BOUNDS_S, __version__)
        self.entries = MemoryStore()
        self.ledger = self._ledger()
        self.providers = {
            settings.name: self._provider(settings, (proxies or {}).get(settings.name, ""))
            for settings in config.providers
        }
        self.health = Health(self)
        self.rules = self._rules()
        self._chance = Random()  # noqa: S311 (spreads load and waits; guards nothing)
        self._hedges = Tasks()
        self._opening = Opening(self.providers, self.metrics, self.clock, translates=translates)
        catalogue = self._catalogue()
        self.fleet = self._fleet(catalogue.models)
        self._door = Door(gate(config.auth), self.clock, self._chance.random)
        self._memory = self._guard()
        self.crowd = self._crowd()
        self.admission = self._admission(catalogue)
        self.gateway = Gateway(self.admission, self._dispatch(), self._relay, self.ledger, self.clock)
        self._cold = UvicornHost(
            client_app(
                gate=self._door,
                models=catalogue.names,
                dialect=FALLBACK,
                hot_paths=tuple(HOT_ROUTES),
                health=self.health,
                ledger=self.ledger,
                clock=self.clock,
            )
        )
        self.edge = Edge(
            settings=config.server,
            gateway=self.gateway,
            routes={path.encode(): (route, DIALECTS[route]) for path, route in HOT_ROUTES.items()},
            fallback=FALLBACK,
            cold=self._cold,
            join=self.crowd.join,
            clock=self.clock,
        )
        self._listener = Listener(lambda: Connection(self.edge), tls_context(config.server.tls))
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
        self._watch()

    def _ledger(self) -> Ledger:
        logger = structlog.get_logger()
        names = Names(
            routes=frozenset({*HOT_ROUTES.values(), *COLD_ROUTES}),
            models=frozenset(model.name for model in self._config.models),
            providers=frozenset(provider.name for provider in self._config.providers),
        )
        return Ledger(
            (MetricsStore(self.metrics, names), LogStore(logger), self.entries),
            clock=self.clock,
            wall=time.time,
            log=logger,
            on_start=self.metrics.exchange_started,
        )

    def _rules(self) -> RelayRules:
        server = self._config.server
        return RelayRules(
            dialect=FALLBACK,
            framer=SseFramer,
            clock=self.clock,
            heartbeat_s=server.heartbeat_s,
            slow_client_s=server.slow_client_timeout_s,
            finishes=server.on_client_disconnect == "finish",
        )

    def _catalogue(self) -> Catalogue:
        providers = self._config.providers
        return Catalogue(
            self._config.models, frozenset(settings.name for settings in providers if settings.kind == "mock")
        )

    def _crowd(self) -> Crowd:
        limits = self._config.limits
        proxies = Proxies(self._config.server.trusted_proxies)
        return Crowd(limits.max_connections, limits.max_connections_per_ip, proxies)

    def _guard(self) -> MemoryGuard:
        return MemoryGuard(
            self._config.limits.max_buffered_bytes,
            self._config.server.max_body_bytes,
            held=self.buffered_bytes,
            readers=self._readers,
            chance=self._chance.random,
            log=structlog.get_logger(),
        )

    def _readers(self) -> Iterable[Reader]:
        return self.gateway.relays()

    def _admission(self, catalogue: Catalogue) -> Admission:
        rules = self._config.limits.rate
        rates = Rates(rules, store.MemoryStore(self.clock), self._chance.random, self.metrics.rate_limited)
        return Admission(
            door=self._door,
            catalogue=catalogue,
            dialects=DIALECTS,
            draining=lambda: self.edge.closing,
            memory=self._memory,
            rates=rates if rules else None,
            request_timeout_s=self._config.server.request_timeout_s,
            clock=self.clock,
            chance=self._chance.random,
        )

    def _provider(self, settings: ProviderSettings, proxy: str) -> Provider:
        origin = Origin.of(settings.base_url, settings.ca_file, proxy)
        pool = Pool(Dialer(origin), settings.connections, self.clock)
        return Provider(settings, pool, origin.authority, AGENT)

    def _dispatch(self) -> Service[Admitted]:
        """Give the stack, outermost first: turn › slots › breaker permit › opening deadlines › opening."""
        service: Service[Attempt] = self._opening
        fleet, chance = self.fleet, self._chance
        for layer in (
            deadlines(self.clock),
            breaking(fleet.breaker_of, self.clock, chance),
            slotting(fleet.slots_of, self.metrics, self.clock, chance),
        ):
            service = layer(service)
        rules = Rules(Router(fleet, chance), self.metrics, self._hedges, chance, self.clock, time.time)
        return directing(rules)(service)

    def _fleet(self, models: Iterable[Model]) -> Fleet:
        rules = [
            ProviderRules(
                name=settings.name,
                host=Origin.of(settings.base_url).authority,
                retry=settings.retry,
                retry_budget=settings.retry_budget,
                slots=settings.slots,
                breaker=settings.breaker,
            )
            for settings in self._config.providers
        ]
        targets = [target for model in models for target in model.targets]
        return Fleet(rules, targets, now=self.clock(), on_breaker=self._breaker_changed)

    def _breaker_changed(self, key: tuple[str, str], state: BreakerState) -> None:
        self.metrics.breaker_changed(*key, state.name.lower())
        structlog.get_logger().warning("breaker", provider=key[0], model=key[1], state=state.name.lower())

    def _relay(self, client: Client, stream: Stream, outcome: Outcome) -> Relay:
        road = TranslatingRelay if stream.translates else Relay
        return road(client, stream, outcome, self.rules)

    def _watch(self) -> None:
        self.metrics.watch_connections(self.connections)
        self.metrics.watch_buffered(self.buffered_bytes)
        for name, provider in self.providers.items():
            self.metrics.watch_upstream(name, provider.pool.counts)
        self.metrics.watch(
            "tidegate_breaker_state",
            "0 closed, 1 half open, 2 open.",
            ("provider", "model"),
            lambda: ((key, state.breaker.state(self.clock())) for key, state in self.fleet.states.items()),
        )
        self.metrics.watch(
            "tidegate_retry_budget_available",
            "Extra attempts that can be paid for.",
            ("provider", "host"),
            lambda: ((key, budget.available(self.clock())) for key, budget in self.fleet.budgets.items()),
        )
        self.metrics.watch(
            "tidegate_slots", "Slots in use, and attempts that wait for one.", ("provider", "state"), self._slots
        )

    def _slots(self) -> Iterable[tuple[tuple[str, str], float]]:
        for name in self.providers:
            waiting, in_use = waiting_and_used(self.fleet.slots, name)
            yield (name, "in_use"), in_use
            yield (name, "waiting"), waiting

    def connections(self) -> int:
        """Give the clients' connections."""
        return len(self.edge.connections) + self._cold.connections

    def buffered_bytes(self) -> int:
        """Give the bytes held for all clients: what they sent, what they have not taken, what is held back for a verdict."""
        unsent = sum(connection.held() for connection in self.edge.connections)
        return unsent + self.admission.held() + self._opening.held() + sum(relay.held() for relay in self.gateway.relays())

    async def start(self, *, shared: bool = False) -> tuple[int, int]:
        """Listen; gives the port, and the ops port or 0. Errors: PortBusyError.

        Shape: `shared` lets replicas listen on the same port; the ops port is each one's own, so that a second process
        started by mistake is noticed.
        """
        server = self._config.server
        port = self._listener.open(server.host, server.port, shared=shared)
        ops_port = 0
        if self._config.ops.listen:
            host, _, number = self._config.ops.listen.rpartition(":")
            try:
                ops_port = self._ops_listener.open(host.strip("[]"), int(number))
            except BaseException:
                self._listener.close()
                raise
        self._memory.start()
        return port, ops_port

    async def stop(self, *, delay_s: float | None = None) -> None:
        """Drain: say so, stop accepting, let streams end, end the rest, close everything."""
        server = self._config.server
        self.draining = True
        await asyncio.sleep(server.drain_delay_s if delay_s is None else delay_s)
        self._listener.close()
        self.edge.closing = True
        self._cold.shut_down()
        for connection in tuple(self.edge.connections):
            connection.close_idle()
        if not await self._quiet(server.drain_timeout_s):
            self.gateway.end_all(Ending(SERVER_SHUTDOWN))
            await self._quiet(LAST_WORDS_S)
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
        await self._hedges.close()
        for provider in self.providers.values():
            provider.pool.close()
        await self._listener.wait_closed()
        await self._ops_listener.wait_closed()
        await asyncio.sleep(0)  # transports tell their protocols in the loop's next turn


class Health:
    """How the process is, for load balancers and people."""

    def __init__(self, tidegate: Tidegate) -> None:
        self._tidegate = tidegate

    async def ready(self) -> bool:
        """Say whether new work makes sense here: not draining, and some provider can be dialled."""
        if self._tidegate.draining:
            return False
        pools = [provider.pool for provider in self._tidegate.providers.values()]
        return any(await together(*(pool.dialable() for pool in pools)))

    def summary(self) -> dict[str, object]:
        """Give what operators want to know at a glance."""
        tidegate = self._tidegate
        pools = {name: provider.pool for name, provider in tidegate.providers.items()}
        unreachable = [name for name, pool in pools.items() if not pool.reachable]
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        connections = tidegate.connections()
        used = connections + sum(pool.in_use + pool.idle for pool in pools.values())
        return {
            "status": "draining" if tidegate.draining else "degraded" if unreachable else "healthy",
            "active_connections": connections,
            "exchanges_in_flight": len(tidegate.gateway),
            "utilisation": round(used / descriptors, 4),
            "buffered_bytes": tidegate.buffered_bytes(),
            "unique_ips": tidegate.crowd.addresses,
            "providers": {
                name: {
                    "reachable": pool.reachable,
                    "connections_in_use": pool.in_use,
                    "connections_idle": pool.idle,
                }
                for name, pool in pools.items()
            },
        }
