"""Buckets with a clock that is handed in: an hour passes by adding 3600."""

import sys
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.admission.store import SHARDS, SWEEP_S, Buckets, Charge, Level, Limit, MemoryStore

T = TypeVar("T")


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run what waits for nothing: this store decides before anybody else can."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waited")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A store and its clock."""

    def __init__(self, max_subjects: int = 1 << 20) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock, max_subjects)

    def spend(self, *charges: Charge) -> list[Level]:
        return at_once(self.store.spend(charges))

    def look(self, *charges: Charge) -> list[Level]:
        return at_once(self.store.look(charges))

    def settle(self, *charges: Charge) -> None:
        at_once(self.store.settle(charges))

    def fits(self, limit: Limit, amount: float = 1, subject: str = "a") -> bool:
        return not self.spend(Charge(limit, subject, amount))[0].wait_s


TEN = Limit.per_minute("ten", "key", "requests", 60, 10)
TOKENS = Limit.per_minute("tokens", "key", "tokens", 6000)
THREE = Limit.at_a_time("three", "key", 3)


def test_a_burst_fits_and_no_more() -> None:
    bench = Bench()
    assert [bench.fits(TEN) for _ in range(11)] == [True] * 10 + [False]


def test_what_is_used_comes_back_evenly() -> None:
    bench = Bench()
    for _ in range(10):
        bench.fits(TEN)
    bench.clock.now += 0.999
    assert not bench.fits(TEN)
    bench.clock.now += 0.002
    assert bench.fits(TEN)
    assert not bench.fits(TEN)
    bench.clock.now += 3600
    assert [bench.fits(TEN) for _ in range(11)] == [True] * 10 + [False]


def test_a_level_says_what_is_left_when_it_is_full_again_and_how_long_to_wait() -> None:
    bench = Bench()
    (level,) = bench.spend(Charge(TEN, "a", 4))
    assert (level.remaining, round(level.reset_s, 6), level.wait_s) == (6, 4, 0)
    (level,) = bench.spend(Charge(TEN, "a", 8))
    assert (level.remaining, round(level.reset_s, 6), round(level.wait_s, 6)) == (6, 4, 2)
    bench.clock.now += 2
    assert bench.fits(TEN, 8)


def test_each_subject_has_a_bucket_of_its_own() -> None:
    bench = Bench()
    assert bench.fits(TEN, 10, "a")
    assert bench.fits(TEN, 10, "b")
    assert not bench.fits(TEN, 1, "a")


def test_a_limit_without_a_burst_has_a_minute_s_worth() -> None:
    bench = Bench()
    assert bench.fits(TOKENS, 6000)
    assert not bench.fits(TOKENS, 1)


def test_looking_uses_nothing() -> None:
    bench = Bench()
    for _ in range(20):
        assert bench.look(Charge(TEN, "a", 1))[0].wait_s == 0
    assert bench.look(Charge(TEN, "a", 11))[0].wait_s == pytest.approx(1)
    assert len(bench.store) == 0


@pytest.mark.parametrize("last", [Charge(TEN, "a", 11), Charge(TOKENS, "a", 6001), Charge(THREE, "a", 4)])
def test_all_charges_are_used_or_none(last: Charge) -> None:
    bench = Bench()
    others = (Charge(TOKENS, "b", 100), Charge(TEN, "b", 2), Charge(THREE, "b", 1))
    levels = bench.spend(*others, last)
    assert [bool(level.wait_s) for level in levels] == [False, False, False, True]
    assert [level.used for level in levels] == [0, 0, 0, 0]
    assert len(bench.store) == 0


def test_what_is_given_back_can_be_used_again_but_never_more_than_there_is() -> None:
    bench = Bench()
    bench.spend(Charge(TOKENS, "a", 5000))
    bench.settle(Charge(TOKENS, "a", -4000))
    assert bench.look(Charge(TOKENS, "a", 0))[0].remaining == 5000
    bench.clock.now += 3600
    bench.settle(Charge(TOKENS, "a", -1000))
    assert bench.look(Charge(TOKENS, "a", 0))[0].remaining == 6000
    assert not bench.fits(TOKENS, 6001)


def test_what_was_used_beyond_the_bucket_is_owed() -> None:
    bench = Bench()
    bench.settle(Charge(TOKENS, "a", 18_000))
    assert bench.look(Charge(TOKENS, "a", 0))[0].remaining == 0
    bench.clock.now += 119
    assert not bench.fits(TOKENS, 1)
    bench.clock.now += 2
    assert bench.fits(TOKENS, 1)


def test_places_are_free_when_they_are_given_back_and_not_with_time() -> None:
    bench = Bench()
    assert [bench.fits(THREE) for _ in range(4)] == [True, True, True, False]
    bench.clock.now += 3600
    (level,) = bench.spend(Charge(THREE, "a", 1))
    assert (level.remaining, level.wait_s > 0) == (0, True)
    bench.settle(Charge(THREE, "a", -1))
    (level,) = bench.spend(Charge(THREE, "a", 1))
    assert (level.remaining, level.used, level.wait_s) == (0, 3, 0)
    bench.settle(Charge(THREE, "a", -3))
    assert len(bench.store) == 0


def test_buckets_that_are_full_again_are_dropped_one_shard_at_a_time() -> None:
    bench = Bench()
    for number in range(10_000):
        bench.fits(TEN, 1, f"early-{number}")
    bench.clock.now += SWEEP_S + 1
    sizes = []
    for number in range(5000):
        bench.fits(TEN, 1, f"late-{number}")
        sizes.append(len(bench.store))
    assert sizes[-1] == 5000
    assert sizes[0] > 10_000 - 5 * 10_000 / SHARDS
    drops = [before - after for before, after in pairwise(sizes) if after < before]
    assert max(drops) < 5 * 10_000 / SHARDS


def test_a_debt_is_not_forgotten_by_the_sweep() -> None:
    bench = Bench(SHARDS * 100)
    bench.settle(Charge(TOKENS, "a", 60_000))
    for round_ in range(4):
        bench.clock.now += SWEEP_S + 1
        for number in range(2000):
            bench.fits(TOKENS, 1, f"{round_}-{number}")
    assert not bench.fits(TOKENS, 1)


def test_there_are_never_more_buckets_than_the_bound() -> None:
    bench = Bench(SHARDS)
    for number in range(5000):
        bench.fits(TEN, 1, str(number))
    assert 0 < len(bench.store) <= SHARDS
    assert not bench.fits(TEN, 11, "4999")
    assert bench.look(Charge(TEN, "4999", 0))[0].used == 1, "the one that came last is remembered"


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 12)), max_size=60))
def test_no_order_of_requests_gets_more_than_burst_and_rate_allow(steps: list[tuple[float, int]]) -> None:
    bench = Bench()
    begun, used = bench.clock.now, 0
    for pause_s, amount in steps:
        bench.clock.now += pause_s
        used += amount * bench.fits(TEN, amount)
        assert used <= 10 + (bench.clock.now - begun) + 1e-3


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.floats(0, 3)), max_size=40))
def test_what_is_spent_and_given_back_leaves_nothing(steps: list[tuple[str, int, float]]) -> None:
    bench = Bench()
    for subject, amount, pause_s in steps:
        charges = [Charge(limit, subject, amount) for limit in (TEN, TOKENS, THREE)]
        levels = bench.spend(*charges)
        if not any(level.wait_s for level in levels):
            bench.settle(*(Charge(charge.limit, subject, -amount) for charge in charges))
        assert len(bench.store) == 0
        bench.clock.now += pause_s


@pytest.mark.slow
def test_a_million_addresses_stay_under_200_mb() -> None:
    million = 1_000_000
    store = MemoryStore(Clock())
    slow = Limit.per_minute("slow", "ip", "requests", 1)
    for number in range(million):
        charge = Charge(slow, f"203.{100 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", 1)
        assert not at_once(store.spend([charge]))[0].wait_s
    assert len(store) > 0.99 * million
    table = store._tables["slow"]
    assert isinstance(table, Buckets)
    used = sum(
        allocated(shard) + sum(allocated(address) + allocated(full_at) for address, full_at in shard.items())
        for shard in table._shards
    )
    assert 50_000_000 < used < 200_000_000


def allocated(thing: object) -> int:
    """Give what the allocator hands out for an object: multiples of 16 bytes."""
    return -(-sys.getsizeof(thing) // 16) * 16
