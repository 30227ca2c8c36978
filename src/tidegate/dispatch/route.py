"""Which target is next: by priority, then by the model's balance; what cannot be called now is skipped."""

from collections.abc import Iterator, Mapping
from random import Random
from typing import Final

from tidegate.dispatch.balance import Group, Member, hash64
from tidegate.dispatch.fleet import Fleet
from tidegate.exchange import Admitted, Model, Target
from tidegate.kernel.backoff import retry_after
from tidegate.verdict import BREAKER_OPEN, UPSTREAM_RATE_LIMITED, AttemptFailed

MAX_STICKY_BYTES: Final = 1024
"""Of what a client sends to stick by, more is not looked at."""


class Router:
    """Plans exchanges. Holds: for each configured model the turns its targets took."""

    def __init__(self, fleet: Fleet, chance: Random) -> None:
        self.fleet = fleet
        self.chance = chance
        self._groups: dict[str, tuple[Group, ...]] = {}

    def plan(self, admitted: Admitted) -> "Plan":
        """Give the plan of one exchange."""
        return Plan(self, admitted)

    def groups(self, model: Model) -> tuple[Group, ...]:
        """Give a model's targets by priority, the first in front; those without weight take no part."""
        groups = self._groups.get(model.name)
        if groups is None:
            members: dict[int, list[Member]] = {}
            for index, target in enumerate(model.targets):
                if target.weight:
                    state = self.fleet[target.key]
                    members.setdefault(target.priority, []).append(Member(index, state.label, target.weight, state))
            groups = tuple(Group(model.balance, members[priority], self.chance) for priority in sorted(members))
            for target in model.targets:
                self.fleet[target.key].compared |= len(members.get(target.priority, ())) > 1
            self._groups[model.name] = groups
        return groups


class Plan:
    """The targets of one exchange in the order they are to be tried, each once."""

    __slots__ = ("_admitted", "_back", "_groups", "_left", "_model", "_router")

    def __init__(self, router: Router, admitted: Admitted) -> None:
        self._router = router
        self._admitted = admitted
        self._model = admitted.model
        self._groups: Iterator[Group] = iter(router.groups(admitted.model))
        self._left: Iterator[Member] = iter(())
        self._back: Target | None = None

    def next(self, now: float) -> Target | None:
        """Give the next target that can be called now; None when none is left."""
        back, self._back = self._back, None
        if back is not None and self._router.fleet.standing_of(back).available(now):
            return back
        while True:
            for member in self._left:
                target = self._model.targets[member.index]
                if (self._router.fleet.standing_of(target) if target.asked else member.load).available(now):
                    return target
            group = next(self._groups, None)
            if group is None:
                return None
            if len(group.members) == 1:
                self._left = iter(group.members)
                continue
            able = [member for member in group.members if member.load.available(now)]
            self._left = iter(group.order(able, self._sticky_key(), now))

    def give_back(self, target: Target) -> None:
        """Take a target back that was not tried after all: it is the next one again."""
        self._back = target

    def unavailable(self, now: float) -> AttemptFailed:
        """Give why there was no target to begin with, and when there may be one."""
        states = [self._router.fleet.standing_of(target) for target in self._model.targets if target.weight]
        soonest = min(states, key=lambda state: state.wait_s(now))
        cooling = soonest.cool_until > now
        verdict = UPSTREAM_RATE_LIMITED if cooling else BREAKER_OPEN
        message = "every target of this model was told to wait by its provider" if cooling else ""
        wait = retry_after(soonest.wait_s(now), self._router.chance.random())
        return AttemptFailed(verdict, message, headers=(wait,))

    def _sticky_key(self) -> int:
        """Give what the exchange sticks by: the header or member that the model names, else the client's key; 0 is nothing."""
        model, admitted = self._model, self._admitted
        if model.balance != "sticky":
            return 0
        if model.sticky_by == "user":
            value = admitted.ask.user.encode()
        else:
            value = _header(admitted.arrival.headers, model.sticky_by)
        value = value or admitted.identity.key_id.encode()
        return hash64(value[:MAX_STICKY_BYTES]) if value else 0


def _header(headers: Mapping[bytes, bytes], name: str) -> bytes:
    return headers.get(name.lower().encode(), b"")
