"""What is remembered about targets and their providers between exchanges, and across reloads."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from msgspec import Struct

from tidegate.dispatch.breaker import Breaker, BreakerState
from tidegate.dispatch.budget import Budget
from tidegate.dispatch.settings import BreakerSettings, RetryBudgetSettings, RetrySettings, SlotSettings
from tidegate.dispatch.slots import Slots
from tidegate.exchange import Target

DECAY_S: Final = 10.0
"""How fast a first-token time is forgotten: to a third in so many seconds."""
PENALTY_S: Final = 1.0
"""What a failure counts as at least, and a target that is asked but has not answered yet."""
MAX_ASKED: Final = 256
"""Models named by requests whose standing is remembered for each target; the least recently asked is forgotten."""
WORST_S: Final = 60.0
"""What failures in a row add up to at most, so that they can be forgotten."""


class ProviderRules(Struct, frozen=True):
    """How attempts at one provider are made.

    Shape: `host` is its origin; budgets belong to (provider, host). `room` is how many streams it has a place for now, where it says so.
    """

    name: str
    host: str
    retry: RetrySettings = RetrySettings()
    retry_budget: RetryBudgetSettings = RetryBudgetSettings()
    slots: SlotSettings = SlotSettings()
    room: int | None = None
    breaker: BreakerSettings = BreakerSettings()


class Standing:
    """Whether one model of a provider may be called."""

    __slots__ = ("breaker", "cool_until")

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.cool_until = 0.0

    def available(self, now: float) -> bool:
        """Whether it may be called: its breaker lets through, and its provider has not asked for a pause."""
        return now >= self.cool_until and self.breaker.admits(now)

    def wait_s(self, now: float) -> float:
        """Give the seconds until it may be available; while it is probed nobody knows, and a breaker's whole pause counts."""
        wait_s = max(self.cool_until - now, self.breaker.wait_s(now))
        return wait_s if wait_s > 0 else self.breaker.settings.open_for_s

    def cool(self, until: float) -> None:
        """Leave it alone until an instant; never shortens."""
        self.cool_until = max(self.cool_until, until)


class TargetState(Standing):
    """One target as it stands: how busy and quick it is, and whether it may be called.

    Shape: `label` and `header` say its name to people; how quick it is, is not looked at until it is `compared`.
    Holds: for a target whose models are named by requests, the standing of each of the last MAX_ASKED, so that one bad
    model closes no other.
    """

    __slots__ = ("_asked", "_at", "_peak_s", "budget", "compared", "header", "in_flight", "key", "label")

    def __init__(self, key: tuple[str, str], breaker: Breaker, budget: Budget) -> None:
        super().__init__(breaker)
        self.key = key
        self.label = "/".join(key)
        self.header = b"x-tidegate-target", self.label.encode("ascii", "replace")
        self.compared = False
        self.budget = budget
        self.in_flight = 0
        self._asked: OrderedDict[str, Standing] = OrderedDict()
        self._peak_s = 0.0
        self._at = 0.0

    def of(self, target: Target) -> Standing:
        """Give the standing of a target's model: the configured one's, or that of the one a request named."""
        model = target.model
        if not target.asked:
            return self
        standing = self._asked.get(model)
        if standing is None:
            standing = self._asked[model] = Standing(self.breaker.twin())
            if len(self._asked) > MAX_ASKED:
                self._asked.popitem(last=False)
        else:
            self._asked.move_to_end(model)
        return standing

    def use(self, breaker: Breaker) -> None:
        """Begin anew with another breaker."""
        self.breaker = breaker
        self._asked.clear()

    def breaker_state(self, now: float) -> BreakerState:
        """Give the state of the breaker that is worst off."""
        return max(standing.breaker.state(now) for standing in (self, *self._asked.values()))

    def took(self, seconds: float, now: float) -> None:
        """Take a first-token time: a peak counts at once, and fades. Source: Finagle's peak EWMA."""
        kept = math.exp(-(now - self._at) / DECAY_S)
        self._peak_s = seconds if seconds > self._peak_s else self._peak_s * kept + seconds * (1 - kept)
        self._at = now

    def failed(self, seconds: float, now: float) -> None:
        """Take a failure: quick ones must not make a target look quick."""
        self.took(min(max(2 * self._peak_s, seconds, PENALTY_S), WORST_S), now)

    def cost(self, now: float) -> float:
        """Give what another attempt would have to wait."""
        if not self._peak_s:
            return PENALTY_S * self.in_flight
        return self._peak_s * math.exp(-(now - self._at) / DECAY_S) * (self.in_flight + 1)


class Fleet:
    """All targets of a configuration.

    Holds: of `before`, the fleet it replaces, each part whose settings are the same; slots in use are kept in any case,
    and what is known about a target as long as its provider stays where it is.
    """

    def __init__(
        self,
        providers: Iterable[ProviderRules],
        targets: Iterable[Target],
        *,
        now: float,
        on_breaker: Callable[[tuple[str, str], BreakerState], None] = lambda *_: None,
        before: "Fleet | None" = None,
    ) -> None:
        self._before = before
        self._on_breaker = on_breaker
        self.budgets: dict[tuple[str, str], Budget] = {}
        self.slots: dict[tuple[str, str], Slots] = {}
        self.parked: dict[tuple[str, str], Slots] = {}
        self.states: dict[tuple[str, str], TargetState] = {}
        self._bounds: dict[tuple[str, str], tuple[Slots, ...]] = {}
        self._rules = {provider.name: provider for provider in providers}
        for provider in self._rules.values():
            self.budgets[provider.name, provider.host] = self._budget(provider, now)
            if provider.slots.max_streams:
                self.slots[provider.name, ""] = self._slots((provider.name, ""), provider.slots, provider.room)
        for target in targets:
            if target.key not in self.states:
                rules = self._rules[target.provider]
                self.states[target.key] = self._state(target.key, rules)
                self._bounds[target.key] = self._slots_for(target, rules)
        if before is not None:
            for key in before.slots.keys() - self.slots.keys():
                before.slots[key].resize(SlotSettings())  # who waits there need not any more
            self.parked = {**before.parked, **before.slots}  # whoever has a slot gives it back there
        self._before = None

    def __getitem__(self, key: tuple[str, str]) -> TargetState:
        return self.states[key]

    def slots_of(self, key: tuple[str, str]) -> tuple[Slots, ...]:
        """Give what bounds a target's streams, the narrowest first."""
        return self._bounds[key]

    def retry_of(self, key: tuple[str, str]) -> RetrySettings:
        """Give how often a target is tried."""
        return self._rules[key[0]].retry

    def standing_of(self, target: Target) -> Standing:
        """Give whether a target's model may be called."""
        return self.states[target.key].of(target)

    def breaker_of(self, target: Target) -> Breaker:
        """Give the breaker of a target's model."""
        return self.states[target.key].of(target).breaker

    def _state(self, key: tuple[str, str], rules: ProviderRules) -> TargetState:
        before, place = self._before, (rules.name, rules.host)
        budget = self.budgets[place]
        state = before.states.get(key) if before is not None and place in before.budgets else None
        if state is not None and state.breaker.settings == rules.breaker:
            state.budget = budget
            return state
        breaker = Breaker(rules.breaker, partial(self._on_breaker, key))
        if state is None:
            return TargetState(key, breaker, budget)
        state.budget = budget
        state.use(breaker)
        return state

    def _slots_for(self, target: Target, rules: ProviderRules) -> tuple[Slots, ...]:
        slots = []
        if target.max_streams:
            own = SlotSettings(
                max_streams=target.max_streams,
                max_queue=rules.slots.max_queue,
                max_queue_wait_s=rules.slots.max_queue_wait_s,
            )
            self.slots[target.key] = self._slots(target.key, own)
            slots.append(self.slots[target.key])
        if rules.slots.max_streams:
            slots.append(self.slots[rules.name, ""])
        return tuple(slots)

    def _budget(self, provider: ProviderRules, now: float) -> Budget:
        old = self._before.budgets.get((provider.name, provider.host)) if self._before is not None else None
        if old is not None and old.settings == provider.retry_budget:
            return old
        return Budget(provider.retry_budget, now)

    def _slots(self, key: tuple[str, str], settings: SlotSettings, room: int | None = None) -> Slots:
        before = self._before
        old = before.slots.get(key) or before.parked.get(key) if before is not None else None
        if old is None:
            return Slots(settings, room)
        old.resize(settings, room)
        return old


def waiting_and_used(slots: Mapping[tuple[str, str], Slots], provider: str) -> tuple[int, int]:
    """Give how many streams of a provider wait for a slot, and how many have one."""
    own = [slot for (name, _), slot in slots.items() if name == provider]
    shared = slots.get((provider, ""))
    in_use = shared.in_use if shared is not None else sum(slot.in_use for slot in own)
    return sum(slot.waiting for slot in own), in_use
