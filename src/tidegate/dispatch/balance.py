"""In which order the targets of one priority are tried. Plain objects; the instant and the chance are handed in."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from random import Random
from typing import Final, Protocol

from tidegate.exchange import Balance

_MASK: Final = (1 << 64) - 1


class Load(Protocol):
    """What is known about a target: whether it may be called, how busy and how quick it is."""

    def available(self, now: float, /) -> bool:
        """Say whether it may be called."""
        ...

    @property
    def in_flight(self) -> int:
        """Attempts that run."""
        ...

    def cost(self, now: float, /) -> float:
        """Give what another attempt would have to wait, in no unit but comparable."""
        ...


class Member:
    """One target of a group. Shape: `index` is its place among the model's targets; `weight` is at least 1."""

    __slots__ = ("current", "index", "load", "seed", "weight")

    def __init__(self, index: int, name: str, weight: int, load: Load) -> None:
        self.index = index
        self.weight = weight
        self.load = load
        self.seed = hash64(name.encode())
        self.current = 0


class Group:
    """The targets of one priority, and the turns they took. `order` gives them, the one to try first in front."""

    __slots__ = ("_chance", "_order", "members", "turns")

    def __init__(self, balance: Balance, members: Sequence[Member], chance: Random) -> None:
        self.members = tuple(members)
        self.turns = 0
        self._chance = chance
        self._order = ORDERS[balance]

    def order(self, able: Sequence[Member], key: int, now: float) -> Iterable[Member]:
        """Order those members that can be tried. Shape: `key` is what `sticky` sticks to."""
        if len(able) < 2:
            return able
        return self._order(self, able, key, now)

    def chosen_two(self, able: Sequence[Member]) -> tuple[Member, Member]:
        """Give two different members by chance."""
        first = int(self._chance.random() * len(able))
        second = int(self._chance.random() * (len(able) - 1))
        return able[first], able[second + (second >= first)]


def _round_robin(group: Group, able: Sequence[Member], key: int, now: float) -> Sequence[Member]:  # noqa: ARG001
    start = group.turns % len(able)
    group.turns += 1
    return [*able[start:], *able[:start]]


def _weighted(group: Group, able: Sequence[Member], key: int, now: float) -> Sequence[Member]:  # noqa: ARG001
    """Spread turns by weight, and evenly: each member gains its weight, the richest goes first and pays for all."""
    for member in able:
        member.current += member.weight
    ordered = sorted(able, key=attrgetter("current"), reverse=True)
    ordered[0].current -= sum(member.weight for member in able)
    return ordered


def _least_in_flight(group: Group, able: Sequence[Member], key: int, now: float) -> Sequence[Member]:
    # Those that are equally busy take turns: sorting keeps their order.
    turned = _round_robin(group, able, key, now)
    return sorted(turned, key=lambda member: member.load.in_flight / member.weight)


def _p2c_ewma(group: Group, able: Sequence[Member], key: int, now: float) -> Iterator[Member]:  # noqa: ARG001
    """Take the better of two by chance, which spreads a crowd that all know the same; the rest by cost, once they are needed.

    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    """
    one, other = group.chosen_two(able)
    first = one if one.load.cost(now) * other.weight <= other.load.cost(now) * one.weight else other
    yield first
    rest = [member for member in able if member is not first]
    yield from sorted(rest, key=lambda member: member.load.cost(now) / member.weight)


def _sticky(group: Group, able: Sequence[Member], key: int, now: float) -> Sequence[Member]:
    """Rank all members anew for each key: when one goes, only its keys move. Source: Thaler and Ravishankar, 1998."""
    if not key:
        return _least_in_flight(group, able, key, now)
    return sorted(able, key=lambda member: -_rendezvous(member, key))


def _rendezvous(member: Member, key: int) -> float:
    """Give a member's score for a key; weights bias it. Source: draft-ietf-bess-weighted-hrw."""
    drawn = ((_mix(member.seed ^ key) >> 12) + 0.5) / (1 << 52)  # between 0 and 1, and never either of them
    return -member.weight / math.log(drawn)


def _mix(value: int) -> int:
    """Spread 64 bits over 64 bits. Source: the finalizer of SplitMix64."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def hash64(data: bytes) -> int:
    """Give 64 bits that are the same in every process, so that replicas agree."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


ORDERS: Final[Mapping[Balance, Callable[[Group, Sequence[Member], int, float], Iterable[Member]]]] = {
    "round_robin": _round_robin,
    "weighted": _weighted,
    "least_in_flight": _least_in_flight,
    "p2c_ewma": _p2c_ewma,
    "sticky": _sticky,
}
