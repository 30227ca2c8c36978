"""Where too much waits, the oldest goes of the host that most is for."""

import random

import pytest

from tidegate.hooks.owed import OWN_BYTES, Owed


def test_the_oldest_goes_where_there_are_too_many() -> None:
    owed: Owed[str] = Owed(3, 1_000_000)
    for name in "abc":
        assert owed.excess() is None
        owed.add(name, "host", 10)
    assert (owed.excess(), len(owed), owed.bytes) == ("a", 3, 3 * (OWN_BYTES + 10))
    owed.leave("a")
    assert owed.excess() is None
    owed.add("z", "host", 10, first=True)
    assert owed.excess() == "z"
    assert "a" not in owed
    assert "z" in owed


def test_one_that_is_too_large_has_room_until_another_comes() -> None:
    owed: Owed[str] = Owed(3, 1_000_000)
    owed.add("large", "host", 2_000_000)
    assert owed.excess() == "large"
    owed.leave("large")
    owed.leave("large")
    assert (owed.excess(), len(owed), owed.bytes) == (None, 0, 0)


def test_it_goes_from_the_host_that_most_is_for() -> None:
    owed: Owed[str] = Owed(4, 1_000_000)
    for name, host, size in (("a", "little", 1), ("b", "much", 9000), ("c", "much", 9000), ("d", "little", 1)):
        owed.add(name, host, size)
    assert owed.excess() == "b"
    for name in "bc":
        owed.leave(name)
    for name in "ef":
        owed.add(name, "other", 0)
    assert owed.excess() == "a"


@pytest.mark.parametrize("seed", range(10))
def test_whatever_comes_and_goes_the_bounds_hold_and_nothing_is_left(seed: int) -> None:
    chance = random.Random(seed)
    owed: Owed[int] = Owed(20, 30 * OWN_BYTES)
    held: dict[int, int] = {}
    for number in range(500):
        while (lost := owed.excess()) is not None:
            owed.leave(lost)
            del held[lost]
        held[number] = chance.choice((0, 100, 5 * OWN_BYTES))
        owed.add(number, chance.choice("abc"), held[number], first=chance.random() < 0.1)
        if chance.random() < 0.3:
            gone = chance.choice(list(held))
            owed.leave(gone)
            del held[gone]
        assert len(owed) == len(held) <= 20
        assert owed.bytes == sum(held.values()) + OWN_BYTES * len(held) <= 36 * OWN_BYTES
    for number in held:
        owed.leave(number)
    assert (owed.bytes, len(owed), owed._lines, owed._weights) == (0, 0, {}, {})
