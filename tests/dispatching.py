"""A dispatch room in memory, for tests: fleets, turns over scripted services, counts, and what is held at the end."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Any

import pytest
from msgspec import Struct, structs

from tidegate.dispatch.breaker import Breaker, breaking
from tidegate.dispatch.deadlines import deadlines
from tidegate.dispatch.fleet import Fleet, ProviderRules, TargetState
from tidegate.dispatch.route import Router
from tidegate.dispatch.service import Service
from tidegate.dispatch.settings import BreakerSettings, RetryBudgetSettings, RetrySettings, SlotSettings
from tidegate.dispatch.slots import Slots, slotting
from tidegate.dispatch.turn import Rules, directing
from tidegate.exchange import Admitted, Attempt, Ending, Model, Stream, Target
from tidegate.tasks import Tasks
from tidegate.testing.services import Act, ScriptedService, admitted_at
from tidegate.verdict import COMPLETED, AttemptFailed

A, B, C = Target("a", "m"), Target("b", "m"), Target("c", "m")
WALL_S = 1_700_000_000.0
"""The time of day at which the virtual clock begins, minus what that shows."""

NO_BREAKER = BreakerSettings(failures=0, ratio=0.0)
PLENTY = RetryBudgetSettings(rate_per_second=1000.0, burst=1000.0)


class Counted:
    """Fits TurnCounts and SlotCounts. Shape: `seen` counts what was said, word by word."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, ...]] = Counter()
        self.waits: list[float] = []

    def retried(self, provider: str, outcome: str, /) -> None:
        self.seen["retried", provider, outcome] += 1

    def fell_back(self, source: str, target: str, /) -> None:
        self.seen["fell back", source, target] += 1

    def hedged(self, outcome: str, /) -> None:
        self.seen["hedged", outcome] += 1

    def slot_waited(self, seconds: float, /) -> None:
        self.waits.append(seconds)

    def slot_rejected(self, provider: str, reason: str, /) -> None:
        self.seen["rejected", provider, reason] += 1


def slots(max_streams: int, *, max_queue: int = 1000, max_queue_wait_s: float = 0.0) -> Slots:
    return Slots(SlotSettings(max_streams=max_streams, max_queue=max_queue, max_queue_wait_s=max_queue_wait_s))


def spawn(work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
    return asyncio.get_running_loop().create_task(work)


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


class ByProvider:
    """A service in which each provider has a script of its own."""

    def __init__(self, **services: ScriptedService) -> None:
        self.services = services

    def open(self, ask: Attempt, /) -> AbstractAsyncContextManager[Stream]:
        """Give the context that the target's provider has."""
        return self.services[ask.target.provider].open(ask)


class Settings(Struct, frozen=True, kw_only=True):
    """What all providers of a test have."""

    retry: RetrySettings = RetrySettings()
    budget: RetryBudgetSettings = PLENTY
    slots: SlotSettings = SlotSettings()
    breaker: BreakerSettings = NO_BREAKER

    def rules(self, provider: str, host: str = "") -> ProviderRules:
        """Give one provider's."""
        return ProviderRules(
            name=provider,
            host=host or f"{provider}.test",
            retry=self.retry,
            retry_budget=self.budget,
            slots=self.slots,
            breaker=self.breaker,
        )


USUAL = Settings()


def fleet_of(
    targets: Iterable[Target], settings: Settings = USUAL, *, now: float = 0.0, before: Fleet | None = None
) -> Fleet:
    """Give a fleet of these targets, whose providers all have the same settings."""
    targets = tuple(targets)
    providers = sorted({target.provider for target in targets})
    return Fleet([settings.rules(provider) for provider in providers], targets, now=now, before=before)


class Room:
    """The whole dispatch room over an inner service, as the composition root puts it together. To be made in a loop."""

    def __init__(
        self,
        inner: Service[Attempt],
        *targets: Target,
        settings: Settings = USUAL,
        model: dict[str, Any] | None = None,
        clock: Callable[[], float] | None = None,
        seed: int = 1,
    ) -> None:
        self.clock = clock or asyncio.get_running_loop().time
        self.counts, self.tasks, self.chance = Counted(), Tasks(), Random(seed)
        self.model = Model("scripted", targets or (A,), **{"balance": "round_robin", **(model or {})})
        self.fleet = fleet_of(self.model.targets, settings, now=self.clock())
        service = inner
        for layer in (
            deadlines(self.clock),
            breaking(self.fleet.breaker_of, self.clock, self.chance),
            slotting(self.fleet.slots_of, self.counts, self.clock, self.chance),
        ):
            service = layer(service)
        self.layers = service
        self.rules = Rules(Router(self.fleet, self.chance), self.counts, self.tasks, self.chance, self.clock, self.wall)
        self.turn = directing(self.rules)
        self.service = self.turn(service)

    def wall(self) -> float:
        """The time of day."""
        return WALL_S + self.clock()

    def admitted(self, **members: Any) -> Admitted:
        """Give an exchange for the model."""
        return structs.replace(admitted_at(self.clock()), model=self.model, **members)

    def state(self, target: Target) -> TargetState:
        """Give what is remembered about a target."""
        return self.fleet[target.key]

    def breaker(self, target: Target) -> Breaker:
        """Give a target's breaker."""
        return self.fleet.breaker_of(target)

    def slots(self) -> Sequence[Slots]:
        """Give all slots."""
        return list(self.fleet.slots.values())

    def held(self) -> dict[str, int]:
        """Give what is held just now, by what it is, without what is not."""
        held = {
            "in flight": sum(state.in_flight for state in self.fleet.states.values()),
            "slots": sum(slots.in_use for slots in self.slots()),
            "waiting": sum(slots.waiting for slots in self.slots()),
            "probes": sum(
                standing.breaker._probing
                for state in self.fleet.states.values()
                for standing in (state, *state._asked.values())
            ),
            "tasks": len(self.tasks),
        }
        return {name: count for name, count in held.items() if count}

    async def exchange(self, admitted: Admitted | None = None, *, stay_s: float = 0.0) -> Stream:
        """Open a stream and end it well, after some time; gives it. Errors: Fault."""
        admitted = admitted or self.admitted()
        async with self.service.open(admitted) as stream:
            await asyncio.sleep(stay_s)
            admitted.arrival.outcome.end(Ending(COMPLETED), self.clock())
        return stream


def fails(error: BaseException, *, after_s: float = 0.0, sent: bool = True) -> Act:
    """Give an act that fails."""
    return Act(stall_s=after_s, raises=error, sent=sent)


def only(burst: float, *, rate: float = 0.0, ratio: float = 0.0) -> Settings:
    """Give settings with a small budget."""
    return Settings(budget=RetryBudgetSettings(rate_per_second=rate, burst=burst, ratio=ratio))


def wait(value: object) -> tuple[tuple[bytes, bytes], ...]:
    """Give the header with which a provider asks for a pause."""
    return ((b"retry-after", str(value).encode()),)


def said(failed: AttemptFailed) -> dict[bytes, bytes]:
    """Give the headers that a failure adds to the answer."""
    assert len(dict(failed.headers)) == len(failed.headers), "no header is said twice"
    return dict(failed.headers)


async def failing(room: Room, **members: Any) -> AttemptFailed:
    """Have an exchange that fails; gives how. Holds: nothing is held after it."""
    with pytest.raises(AttemptFailed) as caught:
        await room.exchange(room.admitted(**members))
    assert room.held() == {}
    return caught.value


def asked(inner: ScriptedService) -> list[str]:
    """Give which providers were asked, in order."""
    return [visit.attempt.target.provider for visit in inner.visits if visit.entries]
