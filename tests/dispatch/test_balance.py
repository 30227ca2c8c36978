"""In which order targets are tried: who is in front how often, and who stays where it was."""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.dispatch.balance import ORDERS, Group, Member, hash64
from tidegate.exchange import Balance

NOW_S = 1000.0


class Load:
    """Fits balance.Load, with what a test says."""

    def __init__(self, in_flight: int = 0, cost: float = 0.0) -> None:
        self.in_flight = in_flight
        self.says = cost

    def available(self, now: float, /) -> bool:
        raise AssertionError(now)

    def cost(self, now: float, /) -> float:
        assert now == NOW_S
        return self.says


def group(balance: Balance, *weights: int, loads: Sequence[Load] = (), seed: int = 1) -> Group:
    members = [
        Member(index, f"provider-{index}/model", weight, loads[index] if loads else Load())
        for index, weight in enumerate(weights)
    ]
    return Group(balance, members, Random(seed))


def ordered(target: Group, *, key: int = 0, able: Sequence[Member] | None = None) -> list[int]:
    """Order members; gives their places."""
    return [member.index for member in target.order(able if able is not None else target.members, key, NOW_S)]


@pytest.mark.parametrize("balance", get_args(Balance))
def test_one_target_is_its_own_order(balance: Balance) -> None:
    target = group(balance, 1, 1)
    assert ordered(target, key=7, able=target.members[1:]) == [1]
    assert ordered(target, key=7, able=()) == []


@given(
    st.sampled_from(get_args(Balance)),
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 9), st.floats(0, 100)), min_size=2, max_size=10),
    st.integers(0, 2**64 - 1),
    st.data(),
)
def test_whoever_is_able_is_in_the_order_once(
    balance: Balance, members: list[tuple[int, int, float]], key: int, data: st.DataObject
) -> None:
    loads = [Load(in_flight, cost) for _, in_flight, cost in members]
    target = group(balance, *(weight for weight, _, _ in members), loads=loads)
    for _ in range(3):
        able = data.draw(st.lists(st.sampled_from(target.members), unique=True))
        found = ordered(target, key=key, able=able)
        assert sorted(found) == sorted(member.index for member in able)


def test_every_balance_has_an_order() -> None:
    assert set(ORDERS) == set(get_args(Balance))


# --- round robin and weights -----------------------------------------------------------------------------------------


def test_round_robin_begins_with_each_in_turn() -> None:
    target = group("round_robin", 1, 1, 1)
    assert [ordered(target) for _ in range(4)] == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]


def test_round_robin_goes_on_among_those_that_are_left() -> None:
    target = group("round_robin", 1, 1, 1)
    able = (target.members[0], target.members[2])
    assert Counter(ordered(target, able=able)[0] for _ in range(10)) == {0: 5, 2: 5}


def test_weights_decide_how_often_a_target_is_first_and_turns_are_spread() -> None:
    target = group("weighted", 5, 1, 1)
    turns = [ordered(target)[0] for _ in range(70)]
    assert Counter(turns) == {0: 50, 1: 10, 2: 10}
    for start in range(0, 70, 7):
        assert Counter(turns[start : start + 7]) == {0: 5, 1: 1, 2: 1}
    assert "".join(map(str, turns[:7])) == "0010200"


def test_a_heavy_target_that_comes_back_does_not_make_up_for_its_absence() -> None:
    target = group("weighted", 8, 1, 1)
    for _ in range(1000):
        ordered(target, able=target.members[1:])
    turns = [ordered(target)[0] for _ in range(100)]
    assert Counter(turns)[0] == pytest.approx(80, abs=2)


# --- load ------------------------------------------------------------------------------------------------------------


def test_the_least_busy_for_its_weight_is_first() -> None:
    loads = [Load(6), Load(2), Load(3)]
    assert ordered(group("least_in_flight", 1, 1, 1, loads=loads)) == [1, 2, 0]
    assert ordered(group("least_in_flight", 6, 1, 1, loads=loads)) == [0, 1, 2]


def test_those_that_are_equally_busy_take_turns() -> None:
    target = group("least_in_flight", 1, 1, 1, loads=[Load(1), Load(1), Load(0)])
    orders = [tuple(ordered(target)) for _ in range(30)]
    assert {order[0] for order in orders} == {2}
    assert {order[1:] for order in orders} == {(0, 1), (1, 0)}


def test_of_two_by_chance_the_cheaper_is_first() -> None:
    target = group("p2c_ewma", 1, 1, loads=[Load(cost=0.3), Load(cost=0.2)])
    assert {tuple(ordered(target)) for _ in range(50)} == {(1, 0)}


def test_of_many_the_dearest_is_never_first_and_the_others_are_by_rank() -> None:
    costs = [0.4, 0.1, 0.3, 0.2]
    target = group("p2c_ewma", 1, 1, 1, 1, loads=[Load(cost=cost) for cost in costs])
    orders = [ordered(target) for _ in range(3000)]
    first = Counter(order[0] for order in orders)
    # Of the six pairs, the cheapest is in three, the next is the better one in two, the third in one.
    assert first[0] == 0
    assert first[1] / 3000 == pytest.approx(3 / 6, abs=0.04)
    assert first[3] / 3000 == pytest.approx(2 / 6, abs=0.04)
    assert first[2] / 3000 == pytest.approx(1 / 6, abs=0.04)
    for order in orders:
        rest = [costs[index] for index in order[1:]]
        assert rest == sorted(rest)


def test_when_all_cost_the_same_each_is_first_equally_often() -> None:
    target = group("p2c_ewma", *[1] * 5)
    first = Counter(ordered(target)[0] for _ in range(5000))
    assert all(count / 5000 == pytest.approx(1 / 5, abs=0.03) for count in first.values())
    assert len(first) == 5


def test_a_heavier_target_may_cost_more() -> None:
    loads = [Load(cost=0.3), Load(cost=0.2)]
    assert ordered(group("p2c_ewma", 2, 1, loads=loads)) == [0, 1]
    assert ordered(group("p2c_ewma", 1, 1, loads=loads)) == [1, 0]


def test_two_by_chance_are_two() -> None:
    target = group("p2c_ewma", 1, 1, 1)
    pairs = Counter((one.index, other.index) for one, other in (target.chosen_two(target.members) for _ in range(6000)))
    assert set(pairs) == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)}
    assert all(count / 6000 == pytest.approx(1 / 6, abs=0.02) for count in pairs.values())


# --- sticky ----------------------------------------------------------------------------------------------------------


KEYS = [hash64(f"user-{number}".encode()) for number in range(4000)]


def test_a_key_has_one_order_in_every_process_and_for_ever() -> None:
    target = group("sticky", 1, 1, 1, 1)
    orders = {name: ordered(target, key=hash64(name)) for name in (b"alice", b"bob", b"carol", b"dave")}
    assert hash64(b"alice") == 0x4DEAEC0CCE54DA89
    assert orders == {b"alice": [1, 2, 0, 3], b"bob": [0, 1, 2, 3], b"carol": [2, 3, 0, 1], b"dave": [3, 0, 2, 1]}


def test_keys_spread_evenly_and_by_weight() -> None:
    even = Counter(ordered(group("sticky", 1, 1, 1, 1), key=key)[0] for key in KEYS)
    assert all(count / len(KEYS) == pytest.approx(1 / 4, abs=0.03) for count in even.values())
    weighted = Counter(ordered(group("sticky", 6, 3, 1), key=key)[0] for key in KEYS)
    assert [weighted[index] / len(KEYS) for index in range(3)] == pytest.approx([0.6, 0.3, 0.1], abs=0.03)


def test_when_a_target_goes_only_its_keys_move_and_they_spread() -> None:
    target = group("sticky", 1, 1, 1, 1)
    left, moved = target.members[1:], Counter[int]()
    for key in KEYS:
        before, after = ordered(target, key=key), ordered(target, key=key, able=left)
        assert after == [index for index in before if index != 0]
        if before[0] == 0:
            moved[after[0]] += 1
    assert all(count / moved.total() == pytest.approx(1 / 3, abs=0.06) for count in moved.values())
    assert moved.keys() == {1, 2, 3}


def test_a_target_that_comes_takes_its_share_and_moves_nothing_else() -> None:
    three, four = group("sticky", 1, 1, 1), group("sticky", 1, 1, 1, 1)
    for key in KEYS[:500]:
        before, after = ordered(three, key=key), ordered(four, key=key)
        assert [index for index in after if index != 3] == before


def test_the_order_in_the_file_does_not_matter() -> None:
    target = group("sticky", 1, 1, 1)
    for key in KEYS[:100]:
        assert ordered(target, key=key) == ordered(target, key=key, able=target.members[::-1])


def test_without_a_key_the_least_busy_is_first() -> None:
    loads = [Load(3), Load(1), Load(2)]
    assert ordered(group("sticky", 1, 1, 1, loads=loads)) == [1, 2, 0]


def unmixed(value: int) -> int:
    """Give what the finalizer of SplitMix64 turns into a value."""
    mask = 2**64 - 1
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        value ^= (value >> shift) ^ (value >> 2 * shift)
        value = value * pow(factor, -1, 2**64) & mask
    return value


@pytest.mark.parametrize("drawn", [0, 1, 2**64 - 1, 2**64 - 1024])
def test_the_luckiest_and_unluckiest_keys_have_an_order_too(drawn: int) -> None:
    target = group("sticky", 1, 1, 1)
    key = unmixed(drawn) ^ target.members[1].seed
    place = ordered(target, key=key).index(1)
    assert place == (2 if drawn < 2**60 else 0)
