"""Composition root: a Config becomes a running gateway. The only file that knows every room and the order of layers."""

import asyncio
import resource
import time
from collections.abc import Mapping

import structlog

from tidegate import __version__
from tidegate.admission.admission import Admission
from tidegate.admission.catalogue import Catalogue
from tidegate.admission.identity import gate
from tidegate.config import Config
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dispatch.deadlines import deadlines
from tidegate.dispatch.service import Service
from tidegate.dispatch.turn import directing
from tidegate.edge.cold import COLD_ROUTES, UvicornHost, client_app, ops_app
from tidegate.edge.connection import Connection, Edge
from tidegate.edge.listener import Listener, tls_context
from tidegate.exchange import GAP_BOUNDS_S, Admitted, Attempt, Client, Ending, Outcome, Stream
from tidegate.gateway import Gateway
from tidegate.ledger.ledger import Ledger, LogStore, MemoryStore, MetricsStore, Names
from tidegate.observe.metrics import Metrics
from tidegate.relay.relay import Relay, RelayRules
from tidegate.tasks import together
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
    """The gateway of one process.

    Holds: two listening sockets, from `start` to `stop`; connections and pools until `stop` is over.
    """

    def __init__(self, config: Config, proxies: Mapping[str, str] | None = None) -> None:
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
        guard, catalogue = gate(config.auth), self._catalogue()
        admission = Admission(guard, catalogue, DIALECTS, lambda: self.edge.closing)
        self.gateway = Gateway(admission, self._dispatch(), self._relay, self.ledger, self.clock)
        self._cold = UvicornHost(
            client_app(
                gate=guard,
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
            self._config.models,
            {settings.name: settings.timeouts for settings in providers},
            frozenset(settings.name for settings in providers if settings.kind == "mock"),
        )

    def _provider(self, settings: ProviderSettings, proxy: str) -> Provider:
        origin = Origin.of(settings.base_url, settings.ca_file, proxy)
        pool = Pool(Dialer(origin), settings.connections, self.clock)
        return Provider(settings, pool, origin.authority, AGENT)

    def _dispatch(self) -> Service[Admitted]:
        """Give the stack, outermost first: turn › opening deadlines › opening."""
        service: Service[Attempt] = Opening(self.providers, self.metrics, self.clock)
        for layer in (deadlines(self.clock),):
            service = layer(service)
        return directing(self.clock)(service)

    def _relay(self, client: Client, stream: Stream, outcome: Outcome) -> Relay:
        return Relay(client, stream, outcome, self.rules)

    def _watch(self) -> None:
        self.metrics.watch_connections(self.connections)
        self.metrics.watch_buffered(self.buffered_bytes)
        for name, provider in self.providers.items():
            self.metrics.watch_upstream(name, provider.pool.counts)

    def connections(self) -> int:
        """Give the clients' connections."""
        return len(self.edge.connections) + self._cold.connections

    def buffered_bytes(self) -> int:
        """Give the bytes held for all clients."""
        return sum(connection.held() for connection in self.edge.connections)

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
        self._ops_listener.close()
        self._ops.shut_down()
        for connection in (*self.edge.connections, *self._ops_edge.connections):
            connection.abort()
        await self.edge.tasks.close()
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
            "providers": {
                name: {
                    "reachable": pool.reachable,
                    "connections_in_use": pool.in_use,
                    "connections_idle": pool.idle,
                }
                for name, pool in pools.items()
            },
        }
