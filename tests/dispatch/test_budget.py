"""What extra attempts are paid from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.dispatch.budget import Budget
from tidegate.dispatch.settings import RetryBudgetSettings

START_S = 1000.0


def budget(rate: float = 0.0, burst: float = 10.0, ratio: float = 0.0) -> Budget:
    return Budget(RetryBudgetSettings(rate_per_second=rate, burst=burst, ratio=ratio), START_S)


def taken(target: Budget, now: float = START_S) -> int:
    """Take until it is empty; gives how many there were."""
    count = 0
    while target.take(now):
        count += 1
    return count


def test_it_begins_full_and_is_empty_after_its_burst() -> None:
    target = budget(burst=5)
    assert target.available(START_S) == 5.0
    assert taken(target) == 5
    assert target.available(START_S) == 0.0
    assert not target.take(START_S + 1e9), "without a rate, time brings nothing"


def test_time_fills_it_up_to_the_burst() -> None:
    target = budget(rate=5, burst=10)
    assert taken(target) == 10
    assert taken(target, START_S + 1) == 5
    assert not target.take(START_S + 1.1)
    assert target.take(START_S + 1.21)
    assert target.available(START_S + 1000) == 10.0
    assert taken(target, START_S + 1000) == 10


def test_first_attempts_fill_it_by_the_ratio_and_no_further_than_the_burst() -> None:
    target = budget(ratio=0.2, burst=3)
    assert taken(target) == 3
    for _ in range(4):
        target.credit(START_S)
        assert not target.take(START_S)
    target.credit(START_S)
    assert target.take(START_S)
    for _ in range(100):
        target.credit(START_S)
    assert target.available(START_S) == 3.0


@pytest.mark.parametrize("burst", [0.0, 0.9])
def test_a_burst_below_one_pays_for_nothing(burst: float) -> None:
    target = budget(rate=100, ratio=1, burst=burst)
    target.credit(START_S)
    assert not target.take(START_S + 100)


def test_asking_what_there_is_changes_nothing() -> None:
    target = budget(rate=1, burst=2)
    assert taken(target) == 2
    for _ in range(10):
        assert target.available(START_S + 0.5) == 0.5
    assert not target.take(START_S + 0.5)


def test_time_that_goes_back_brings_nothing_then_or_later() -> None:
    target = budget(rate=1, burst=10)
    assert taken(target) == 10
    assert taken(target, START_S + 1) == 1
    target.credit(START_S - 500)
    assert target.available(START_S - 500) == 0.0
    assert taken(target, START_S + 2) == 1
    target = budget(rate=1, burst=10)
    assert taken(target, START_S - 500) == 10
    assert taken(target, START_S + 3) == 3


@given(
    st.floats(0, 10),
    st.floats(0, 20),
    st.floats(0, 1),
    st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=200),
)
def test_nobody_gets_more_than_burst_ratio_and_rate_allow(
    rate: float, burst: float, ratio: float, moves: list[tuple[bool, float]]
) -> None:
    target, now, credited, paid = budget(rate, burst, ratio), START_S, 0, 0
    for takes, seconds in moves:
        now += seconds
        if takes:
            paid += target.take(now)
        else:
            target.credit(now)
            credited += 1
        assert 0.0 <= target.available(now) <= burst
    assert paid <= burst + credited * ratio + (now - START_S) * rate + 1e-6
