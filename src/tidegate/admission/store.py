"""Where it is kept how much of each limit is used up: a protocol, and a store in memory of bounded size.

A bucket is one number (GCRA): the instant at which it will be full again. What is not kept is full.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol

from msgspec import Struct

Scope = Literal["key", "ip", "model", "tenant"]
Unit = Literal["requests", "tokens", "streams"]

MINUTE_S: Final = 60.0
MAX_SUBJECTS: Final = 1 << 20
SHARDS: Final = 256
"""A shard of a full store is swept in less than half a millisecond."""
SWEEP_S: Final = 30.0
STREAM_WAIT_S: Final = 1.0
"""When to ask again for a stream's place: nobody knows when one ends."""

_ROUNDING_S: Final = 1e-6


class Limit(Struct, frozen=True, gc=False):
    """A bucket's measure. Shape: `quantity` comes back in a minute; at most `capacity` are there; `name` is unique."""

    name: str
    by: Scope
    unit: Unit
    quantity: int
    capacity: int
    interval_s: float

    @classmethod
    def per_minute(cls, name: str, by: Scope, unit: Unit, quantity: int, capacity: int = 0) -> "Limit":
        """Give a limit that comes back with time. Shape: `capacity` 0 is a minute's worth."""
        return cls(name, by, unit, quantity, capacity or quantity, MINUTE_S / quantity)

    @classmethod
    def at_a_time(cls, name: str, by: Scope, quantity: int) -> "Limit":
        """Give a limit of what runs at the same time: nothing comes back but what is given back."""
        return cls(name, by, "streams", quantity, quantity, 0.0)


class Charge(Struct, frozen=True, gc=False):
    """So much of one subject's bucket."""

    limit: Limit
    subject: str
    amount: float


class Level(Struct, frozen=True, gc=False):
    """How a bucket stands. Shape: `used` has not come back yet; `wait_s` is 0.0, or when the charge would fit."""

    limit: Limit
    used: float
    wait_s: float = 0.0

    @property
    def remaining(self) -> int:
        """What can still be used."""
        return max(0, int(self.limit.capacity - self.used + _ROUNDING_S))

    @property
    def reset_s(self) -> float:
        """When the bucket is full again, if nothing more is used."""
        return self.used * self.limit.interval_s


class RateStore(Protocol):
    """Keeps buckets. One call decides over all charges of a request, so that a store across processes needs one trip."""

    async def look(self, charges: Sequence[Charge], /) -> list[Level]:
        """Give the levels in order, without using anything."""
        ...

    async def spend(self, charges: Sequence[Charge], /) -> list[Level]:
        """Use all charges, or none where a level has a wait; gives the levels after that, in order."""
        ...

    async def settle(self, charges: Sequence[Charge], /) -> None:
        """Add to what is used, or give back where an amount is negative. Shape: may use more than there is."""
        ...


class MemoryStore:
    """Buckets of one process. Holds: at most `max_subjects` for each limit; those that are full again are dropped.

    Shape: where so many are in use at the same time, the one that was begun first is forgotten.
    """

    def __init__(self, clock: Callable[[], float], max_subjects: int = MAX_SUBJECTS) -> None:
        self._clock = clock
        self._tables: dict[str, Buckets | Places] = {}
        self._max_subjects = max_subjects

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    async def look(self, charges: Sequence[Charge], /) -> list[Level]:
        """Give the levels."""
        now = self._clock()
        return [self._table(charge.limit).look(charge, now) for charge in charges]

    async def spend(self, charges: Sequence[Charge], /) -> list[Level]:
        """Use all charges or none."""
        now = self._clock()
        levels: list[Level] = []
        for charge in charges:
            level = self._table(charge.limit).take(charge, now)
            if level.wait_s:
                for taken in charges[: len(levels)]:
                    self._table(taken.limit).add(taken, -taken.amount, now)
                return [level if each is charge else self._table(each.limit).look(each, now) for each in charges]
            levels.append(level)
        return levels

    async def settle(self, charges: Sequence[Charge], /) -> None:
        """Add or give back."""
        now = self._clock()
        for charge in charges:
            self._table(charge.limit).add(charge, charge.amount, now)

    def _table(self, limit: Limit) -> "Buckets | Places":
        table = self._tables.get(limit.name)
        if table is None:
            table = Places() if limit.unit == "streams" else Buckets(self._max_subjects)
            self._tables[limit.name] = table
        return table


class Buckets:
    """The buckets of one limit, by subject. Holds: at most `max_subjects`; every shard is swept on its own schedule.

    Source: GCRA, ITU-T I.371 Annex A; kept is the theoretical arrival time.
    """

    __slots__ = ("_most", "_shards", "_sweeps_at")

    def __init__(self, max_subjects: int = MAX_SUBJECTS) -> None:
        self._most = max(1, max_subjects // SHARDS)
        self._shards: list[dict[str, float]] = [{} for _ in range(SHARDS)]
        self._sweeps_at = [0.0] * SHARDS

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def look(self, charge: Charge, now: float) -> Level:
        """Give how a bucket stands, and how long the charge would have to wait."""
        limit, subject = charge.limit, charge.subject
        full_at = self._shards[hash(subject) % SHARDS].get(subject, 0.0)
        interval_s = limit.interval_s
        used_s = full_at - now if full_at > now else 0.0
        wait_s = used_s + (charge.amount - limit.capacity) * interval_s
        return Level(limit, used_s / interval_s, wait_s if wait_s > _ROUNDING_S else 0.0)

    def take(self, charge: Charge, now: float) -> Level:
        """Use a charge if it fits. Shape: `look` and `add` in one, which every request pays for."""
        limit, subject = charge.limit, charge.subject
        index = hash(subject) % SHARDS
        shard = self._shards[index]
        full_at = shard.get(subject, 0.0)
        interval_s = limit.interval_s
        left_s = full_at - now if full_at > now else 0.0
        used_s = left_s + charge.amount * interval_s
        wait_s = used_s - limit.capacity * interval_s
        if wait_s > _ROUNDING_S:
            return Level(limit, left_s / interval_s, wait_s)
        if not full_at:
            shard = self._room(index, now)
        shard[subject] = now + used_s
        return Level(limit, used_s / interval_s)

    def add(self, charge: Charge, amount: float, now: float) -> None:
        """Use an amount, or give it back where it is negative."""
        subject = charge.subject
        index = hash(subject) % SHARDS
        shard = self._shards[index]
        full_at = shard.get(subject, 0.0)
        used_s = max(0.0, full_at - now) + amount * charge.limit.interval_s
        if used_s <= _ROUNDING_S:
            shard.pop(subject, None)
            return
        if not full_at:
            shard = self._room(index, now)
        shard[subject] = now + used_s

    def _room(self, index: int, now: float) -> dict[str, float]:
        """Give a shard with room for one more: without what is full again, when it is time to look, or what is oldest."""
        shard = self._shards[index]
        if now >= self._sweeps_at[index]:
            self._sweeps_at[index] = now + SWEEP_S
            shard = self._shards[index] = {subject: full_at for subject, full_at in shard.items() if full_at > now}
        if len(shard) >= self._most:
            del shard[next(iter(shard))]
        return shard


class Places:
    """How much of one limit is in use at the same time, by subject. Holds: an entry for each that is in use."""

    __slots__ = ("_in_use",)

    def __init__(self) -> None:
        self._in_use: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._in_use)

    def look(self, charge: Charge, now: float) -> Level:  # noqa: ARG002 (the shape that Buckets has)
        """Give what is in use."""
        used = self._in_use.get(charge.subject, 0.0)
        full = used + charge.amount > charge.limit.capacity
        return Level(charge.limit, used, STREAM_WAIT_S if full else 0.0)

    def take(self, charge: Charge, now: float) -> Level:
        """Take places if there are so many."""
        level = self.look(charge, now)
        if level.wait_s:
            return level
        self.add(charge, charge.amount, now)
        return Level(charge.limit, level.used + charge.amount)

    def add(self, charge: Charge, amount: float, now: float) -> None:  # noqa: ARG002 (the shape that Buckets has)
        """Take places or give them back."""
        used = self._in_use.get(charge.subject, 0.0) + amount
        if used > 0.0:
            self._in_use[charge.subject] = used
        else:
            self._in_use.pop(charge.subject, None)
