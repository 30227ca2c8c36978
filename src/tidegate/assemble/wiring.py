"""What one configuration comes to: providers, catalogue, admission, the stack of dispatch. A reload makes it anew.

The only file that knows the order of layers.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Final

import structlog
from msgspec import Struct, structs

from tidegate import __version__
from tidegate.admission.admission import Admission
from tidegate.admission.catalogue import WILDCARD, Catalogue, names_behind
from tidegate.admission.identity import Door
from tidegate.admission.memory import MemoryGuard
from tidegate.admission.passage import ROUTE, Passages
from tidegate.admission.rates import Rates
from tidegate.admission.store import RateStore
from tidegate.assemble.locals import OWN_DIALECT, OWN_FRAMER, OWN_ROUTE, Innermost, OwnModels
from tidegate.assemble.routes import BY_NAME, DIALECTS, FALLBACK, GUESSES, TRANSLATED
from tidegate.config import Config, ProviderSettings
from tidegate.dialect import ProviderDialect, origin_of
from tidegate.dispatch.breaker import BreakerState, breaking
from tidegate.dispatch.deadlines import deadlines
from tidegate.dispatch.fleet import Fleet, ProviderRules
from tidegate.dispatch.route import Router
from tidegate.dispatch.service import Service
from tidegate.dispatch.settings import SlotSettings
from tidegate.dispatch.slots import slotting
from tidegate.dispatch.turn import Rules, directing
from tidegate.exchange import Admitted, Attempt, Client, Model, Outcome, Stream
from tidegate.observe.metrics import Metrics
from tidegate.relay.relay import Finishing, Relay, RelayRules
from tidegate.relay.translate import TranslatingRelay
from tidegate.tasks import Tasks, together
from tidegate.upstream.dial import Dialer, Origin
from tidegate.upstream.kinds import road
from tidegate.upstream.listing import Listing
from tidegate.upstream.opening import Opening
from tidegate.upstream.pool import Pool
from tidegate.upstream.providers import Provider
from tidegate.upstream.settings import ProviderSettings as UpstreamSettings
from tidegate.wire import Framed, FramerOf
from tidegate.wire.sse import SseFramer
from tidegate.worker.local import Local
from tidegate.worker.service import Fetching

AGENT: Final = f"tidegate/{__version__}"
LOOK_S: Final = 0.1
"""How often exchanges are looked at that processes are kept for, which others take the place of."""
_OF_UPSTREAM: Final = tuple(field.name for field in structs.fields(UpstreamSettings))


class Process(Struct, frozen=True):
    """What outlives configurations.

    Shape: `clock` is monotonic, in seconds; `translates` has all streams translated; `files` fetches inputs of models of our own.
    """

    clock: Callable[[], float]
    chance: Random
    metrics: Metrics
    door: Door
    memory: MemoryGuard
    store: RateStore
    draining: Callable[[], bool]
    tasks: Tasks
    finishing: Finishing
    translates: bool = False
    files: Fetching | None = None


class Wiring:
    """A configuration as it works. Holds: of `before`, every part whose settings are the same, with its state.

    Shape: `innermost` opens streams in place of the providers, where they are not to be asked; `withheld` are variables of
    the environment that models of our own do not get.
    """

    def __init__(
        self,
        config: Config,
        proxies: Mapping[str, str],
        process: Process,
        before: "Wiring | None" = None,
        *,
        innermost: Service[Attempt] | None = None,
        withheld: frozenset[str] = frozenset(),
    ) -> None:
        self.config = config
        self.withheld = withheld
        self._process = process
        self.proxies = proxies
        self.providers = {
            settings.name: self._provider(settings, before) for settings in config.providers if settings.kind != "local"
        }
        self.locals = {
            settings.name: self._local(settings, before) for settings in config.providers if settings.kind == "local"
        }
        self.listings = {name: self._listing(name, before) for name in self.providers}
        mocks = frozenset(settings.name for settings in config.providers if settings.kind == "mock")
        self.catalogue = Catalogue(config.models, mocks)
        self.passages = passages(config)
        self.own = OwnModels(config, self.catalogue.models, self.locals)
        self.fleet = self._fleet(before)
        self.opening = Opening(
            self.providers,
            TRANSLATED,
            process.metrics,
            process.clock,
            guesses=GUESSES,
            translates=process.translates,
        )
        self.admission = self._admission()
        if before is not None:
            self.opening.pending = before.opening.pending
            self.admission.inside = before.admission.inside
        self.dispatch = self._stack(innermost or self._innermost())
        self.rules = self._relay_rules()
        self._rules_of: dict[tuple[str, Callable[[], FramerOf[Framed]]], RelayRules] = {}

    def relay(self, client: Client, stream: Stream, outcome: Outcome) -> Relay:
        """Give the relay of a stream that is open."""
        attempt = stream.attempt
        dialect = attempt.admitted.ask.dialect
        speaks, framer = self._spoken(attempt.target.provider, dialect)
        rules = self._rules_of.get((dialect, framer))
        if rules is None:
            rules = self._rules_of[dialect, framer] = self._rules_for(dialect, framer)
        if not (stream.translates and stream.events):
            return Relay(client, stream, outcome, rules)
        return TranslatingRelay(client, stream, outcome, rules, speaks, origin_of(attempt, speaks, int(time.time())))

    def _spoken(self, provider: str, dialect: str) -> tuple[ProviderDialect, Callable[[], FramerOf[Framed]]]:
        """Give what a provider's streams are in, for clients of a dialect, and where their frames end."""
        local = self.locals.get(provider)
        if local is not None:
            return local.dialect, OWN_FRAMER
        row, _ = road(self.providers[provider].kind, dialect)
        return row.dialect, row.framer

    def _rules_for(self, dialect: str, framer: Callable[[], FramerOf[Framed]]) -> RelayRules:
        rules = structs.replace(self.rules, dialect=BY_NAME[dialect], framer=framer)
        if dialect != OWN_DIALECT:
            return rules
        # The client is the prediction itself: whoever follows it has a heartbeat and a pace of its own.
        return structs.replace(rules, heartbeat_s=0.0, slow_client_s=0.0, finishes=False)

    def retire(self, after: "Wiring", live: Sequence[Outcome]) -> None:
        """Close what `after` has not taken over, and hand over the rest; what is live goes on."""
        for name, provider in self.providers.items():
            if after.providers.get(name) is not provider:
                provider.pool.close()
        for name, local in self.locals.items():
            if after.locals.get(name) is local:
                local.on_slots = partial(after.resize, name)
            else:
                local.on_slots = _unheard
                self._process.tasks.start(self._let_end(local, live))

    async def _let_end(self, local: Local, live: Sequence[Outcome]) -> None:
        """Let end what may still come to processes that others take the place of, waiting in line or not, then these."""
        clock = self._process.clock
        until = clock() + self.config.server.drain_timeout_s
        while clock() < until and any(_may_ask(outcome, local.name) for outcome in live):
            await asyncio.sleep(LOOK_S)  # nobody tells of the ends of exchanges
        await local.close(max(0.0, until - clock()))

    async def names(self) -> list[str]:
        """Give the models that clients can ask for; of a wildcard those that its provider lists."""
        models = self.catalogue.models
        wild = [
            (model, target)
            for model in models
            if model.name.endswith(WILDCARD)
            for target in model.targets
            if target.weight
        ]
        asked = list(dict.fromkeys(target.provider for _, target in wild))
        listed = dict(zip(asked, await together(*(self.listings[name].names() for name in asked)), strict=True))
        names = [model.name for model in models if not model.name.endswith(WILDCARD) and self._chats(model)]
        for model, target in wild:
            names += names_behind(model, target, listed[target.provider])
        return list(dict.fromkeys(names))

    def _chats(self, model: Model) -> bool:
        """Say whether a model can answer more than predictions, as far as is known yet."""
        infos = [
            None if (local := self.locals.get(target.provider)) is None else local.info for target in model.targets
        ]
        return any(info is None or info.takes for info in infos)

    def _provider(self, settings: ProviderSettings, before: "Wiring | None") -> Provider:
        name, proxy = settings.name, self.proxies.get(settings.name, "")
        if before is not None and name in before.providers:
            old = next(old for old in before.config.providers if old.name == name)
            same = all(getattr(old, field) == getattr(settings, field) for field in _OF_UPSTREAM)
            if same and before.proxies.get(name, "") == proxy:
                return before.providers[name]
        origin = Origin.of(settings.base_url, settings.ca_file, proxy)
        pool = Pool(Dialer(origin), settings.connections, self._process.clock)
        return Provider(settings, pool, origin.authority, AGENT, self._process.tasks)

    def _local(self, settings: ProviderSettings, before: "Wiring | None") -> Local:
        """Give a provider's processes: those that run already, where nothing about them changed."""
        if before is not None and self.withheld == before.withheld:
            old = before.locals.get(settings.name)
            if old is not None and old.settings == settings.local:
                return old
        process = self._process
        return Local(
            settings.name,
            settings.local,
            clients=TRANSLATED,
            tasks=process.tasks,
            clock=process.clock,
            wall=time.time,
            log=structlog.get_logger(),
            metrics=process.metrics,
            fetch=process.files,
            on_slots=partial(self.resize, settings.name),
            guesses=GUESSES,
            withheld=self.withheld,
        )

    def resize(self, name: str, room: int) -> None:
        """Let as many predictions in as the processes have room for at present."""
        settings = next(settings for settings in self.config.providers if settings.name == name)
        self.fleet.slots[name, ""].resize(self._slots(settings), room)

    def _slots(self, settings: ProviderSettings) -> SlotSettings:
        """Give a provider's slots: of a model of our own as many as its processes have room for, or fewer where the file says so.

        Shape: until they say how much room they have, one for each process.
        """
        if settings.kind != "local":
            return settings.slots
        most, room = settings.slots.max_streams, self.locals[settings.name].slots
        if most and not room:
            return settings.slots
        room = room or max(settings.local.workers, 1)
        return structs.replace(settings.slots, max_streams=min(most, room) if most else room)

    def _innermost(self) -> Service[Attempt]:
        return Innermost(self.opening, self.locals) if self.locals else self.opening

    def _listing(self, name: str, before: "Wiring | None") -> Listing:
        provider, known = self.providers[name], tuple[str, ...]()
        if before is not None and name in before.providers:
            if before.providers[name] is provider:
                return before.listings[name]
            if before.providers[name].base_url == provider.base_url:
                known = before.listings[name].known  # the place is the same, whatever else is not
        return Listing(provider, self._process.clock, self._process.tasks, known)

    def _fleet(self, before: "Wiring | None") -> Fleet:
        rules = [
            ProviderRules(
                name=settings.name,
                host=Origin.of(settings.base_url).authority if settings.base_url else settings.name,
                retry=settings.retry,
                retry_budget=settings.retry_budget,
                slots=self._slots(settings),
                room=self.locals[settings.name].room if settings.name in self.locals else None,
                breaker=settings.breaker,
            )
            for settings in self.config.providers
        ]
        return Fleet(
            rules,
            [target for model in (*self.catalogue.models, *self.passages.models) for target in model.targets],
            now=self._process.clock(),
            on_breaker=partial(_breaker_changed, self._process.metrics),
            before=before.fleet if before is not None else None,
        )

    def _admission(self) -> Admission:
        process, rules = self._process, self.config.limits.rate
        rates = Rates(rules, process.store, process.chance.random, process.metrics.rate_limited)
        return Admission(
            door=process.door,
            catalogue=self.catalogue,
            dialects=DIALECTS,
            finders={ROUTE: self.passages.find, OWN_ROUTE: self.own.find},
            limits_s={OWN_ROUTE: 0.0},
            draining=process.draining,
            memory=process.memory,
            rates=rates if rules else None,
            request_timeout_s=self.config.server.request_timeout_s,
            clock=process.clock,
            chance=process.chance.random,
        )

    def _stack(self, innermost: Service[Attempt]) -> Service[Admitted]:
        """Give the stack, outermost first: turn › slots › breaker permit › opening deadlines › opening."""
        process, fleet = self._process, self.fleet
        service = innermost
        for layer in (
            deadlines(process.clock),
            breaking(fleet.breaker_of, process.clock, process.chance),
            *((slotting(fleet.slots_of, process.metrics, process.clock, process.chance),) if fleet.slots else ()),
        ):
            service = layer(service)
        router = Router(fleet, process.chance)
        return directing(Rules(router, process.metrics, process.tasks, process.chance, process.clock, time.time))(
            service
        )

    def _relay_rules(self) -> RelayRules:
        server = self.config.server
        return RelayRules(
            dialect=FALLBACK,
            framer=SseFramer,
            clock=self._process.clock,
            heartbeat_s=server.heartbeat_s,
            slow_client_s=server.slow_client_timeout_s,
            finishes=server.on_client_disconnect == "finish",
            detached=self._process.finishing,
        )


def _unheard(slots: int) -> None:
    """Stand for who heard of processes that serve no more."""


def passages(config: Config) -> Passages:
    """Give the providers that any request may be sent to."""
    return Passages({settings.name: settings.timeouts for settings in config.providers if settings.passthrough})


def _breaker_changed(metrics: Metrics, key: tuple[str, str], state: BreakerState) -> None:
    # A breaker outlives the wiring that made it, and must not keep it.
    name = state.name.lower()
    metrics.breaker_changed(*key, name)
    tell = structlog.get_logger().warning if state is BreakerState.OPEN else structlog.get_logger().info
    tell("breaker", provider=key[0], model=key[1], state=name)


def _may_ask(outcome: Outcome, provider: str) -> bool:
    """Say whether an exchange asks a provider, or has not come to ask any."""
    tried = outcome.attempts
    return outcome.ending is None and (not tried or any(record.provider == provider for record in tried))
