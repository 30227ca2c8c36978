"""Which target is next: priorities, what is skipped, and what is said when there is none."""

from collections import Counter
from collections.abc import Mapping
from random import Random

import pytest
from msgspec import structs

from dispatching import A, B, C, Settings, fleet_of
from tidegate.dispatch.breaker import BreakerState
from tidegate.dispatch.fleet import Fleet, TargetState
from tidegate.dispatch.route import MAX_STICKY_BYTES, Plan, Router
from tidegate.dispatch.settings import BreakerSettings
from tidegate.exchange import Admitted, Balance, Identity, Model, Target
from tidegate.testing.services import admitted_at
from tidegate.verdict import BREAKER_OPEN, CONNECT_REFUSED, UPSTREAM_RATE_LIMITED

NOW_S = 1000.0
SETTINGS = Settings(breaker=BreakerSettings(open_for_s=40.0))


def asked(model: Model, *, user: str = "", key_id: str = "", headers: Mapping[bytes, bytes] | None = None) -> Admitted:
    admitted = admitted_at(NOW_S)
    return structs.replace(
        admitted,
        model=model,
        identity=Identity(key_id),
        ask=structs.replace(admitted.ask, user=user),
        arrival=structs.replace(admitted.arrival, headers=headers or {}),
    )


class Routing:
    """A router for one model, and the plans it makes."""

    def __init__(self, *targets: Target, balance: Balance = "round_robin", sticky_by: str = "user") -> None:
        self.model = Model("m", targets, balance=balance, sticky_by=sticky_by)
        self.fleet: Fleet = fleet_of(targets, SETTINGS, now=NOW_S)
        self.router = Router(self.fleet, Random(1))

    def plan(self) -> Plan:
        return self.router.plan(asked(self.model))

    def state(self, target: Target) -> TargetState:
        return self.fleet[target.key]

    def order(self, now: float = NOW_S) -> list[Target]:
        return rest(self.plan(), now)

    def first(self, **said: str) -> Target:
        target = self.router.plan(asked(self.model, **said)).next(NOW_S)  # type: ignore[arg-type]
        assert target is not None
        return target


def rest(plan: Plan, now: float = NOW_S) -> list[Target]:
    """Give what a plan has left."""
    found = []
    while (target := plan.next(now)) is not None:
        found.append(target)
    return found


def trip(state: TargetState, now: float = NOW_S) -> None:
    while state.breaker.state(now) is BreakerState.CLOSED:
        permit = state.breaker.admit(now)
        assert permit is not None
        state.breaker.failed(permit, CONNECT_REFUSED, now)


def at(target: Target, priority: int, weight: int = 1) -> Target:
    return structs.replace(target, priority=priority, weight=weight)


# --- the order -------------------------------------------------------------------------------------------------------


def test_lower_priorities_come_first_and_each_target_once() -> None:
    routing = Routing(at(C, 2), at(A, 0), at(B, 1), at(Target("d", "m"), 0))
    for _ in range(4):
        order = routing.order()
        assert {target.provider for target in order[:2]} == {"a", "d"}
        assert [target.provider for target in order[2:]] == ["b", "c"]


def test_the_balance_rules_within_a_priority() -> None:
    routing = Routing(A, B, C)
    assert Counter(routing.order()[0].provider for _ in range(9)) == {"a": 3, "b": 3, "c": 3}


def test_a_plan_that_is_through_stays_so() -> None:
    plan = Routing(A).plan()
    assert rest(plan) == [A]
    assert plan.next(NOW_S) is None
    assert plan.next(NOW_S + 1000) is None


def test_a_weight_of_zero_takes_no_part() -> None:
    assert Routing(A, at(B, 0, 0), at(C, 1, 0)).order() == [A]


def test_turns_go_on_from_one_exchange_to_the_next_and_models_have_their_own() -> None:
    routing = Routing(A, B)
    other = structs.replace(routing.model, name="other")
    assert routing.order()[0] == A
    assert rest(routing.router.plan(asked(other)))[0] == A
    assert routing.order()[0] == B


def test_targets_are_those_of_the_request_and_their_state_is_that_of_the_wildcard() -> None:
    wild = Target("a", "*", name="*")
    routing = Routing(wild, B)
    for number in range(50):
        named = structs.replace(routing.model, targets=(structs.replace(wild, model=f"m{number}"), B))
        found = rest(routing.router.plan(asked(named)))
        assert {target.model for target in found} == {f"m{number}", "m"}
    assert len(routing.fleet.states) == 2
    assert len(routing.router._groups) == 1
    routing.state(wild).cool(NOW_S + 1)
    assert routing.order() == [B]


def test_a_model_that_a_request_named_is_skipped_and_waited_for_by_itself() -> None:
    wild = Target("a", "*", name="*")
    routing = Routing(wild)
    bad, good = (
        structs.replace(routing.model, targets=(structs.replace(wild, model=model),)) for model in ("bad", "good")
    )
    routing.fleet.standing_of(bad.targets[0]).cool(NOW_S + 7)
    assert rest(routing.router.plan(asked(bad))) == []
    assert rest(routing.router.plan(asked(good))) == [good.targets[0]]
    told = routing.router.plan(asked(bad)).unavailable(NOW_S)
    assert told.verdict is UPSTREAM_RATE_LIMITED
    assert 7 <= int(dict(told.headers)[b"retry-after"]) <= 10


# --- what is skipped -------------------------------------------------------------------------------------------------


def test_an_open_breaker_and_a_target_that_cools_are_skipped_until_they_are_over() -> None:
    last = at(C, 1)
    routing = Routing(A, B, last)
    trip(routing.state(A))
    routing.state(B).cool(NOW_S + 10)
    assert routing.order() == [last]
    assert routing.order(NOW_S + 10) == [B, last]
    assert {target.provider for target in routing.order(NOW_S + 40)} == {"a", "b", "c"}


def test_those_that_are_left_share_the_turns_of_the_one_that_is_skipped() -> None:
    routing = Routing(A, B, C)
    routing.state(A).cool(NOW_S + 10)
    assert Counter(routing.order()[0].provider for _ in range(10)) == {"b": 5, "c": 5}


def test_what_becomes_unable_while_the_exchange_goes_on_is_skipped_too() -> None:
    routing = Routing(A, B, C)
    plan = routing.plan()
    assert plan.next(NOW_S) == A
    trip(routing.state(B))
    assert plan.next(NOW_S) == C
    assert plan.next(NOW_S) is None


def test_a_target_with_a_probe_out_is_skipped() -> None:
    routing = Routing(A, B)
    trip(routing.state(A))
    assert routing.state(A).breaker.admit(NOW_S + 40) is not None
    assert routing.order(NOW_S + 40) == [B]


# --- nobody there ----------------------------------------------------------------------------------------------------


def told(routing: Routing, now: float = NOW_S) -> tuple[object, int, int]:
    plan = routing.plan()
    assert plan.next(now) is None
    failed = plan.unavailable(now)
    ((name, value),) = failed.headers
    assert name == b"retry-after"
    return failed.verdict, failed.status, int(value)


def within(seconds: float, asked_s: int) -> bool:
    return seconds <= asked_s <= seconds * 1.25 + 2


def test_when_all_breakers_are_open_it_is_a_503_until_the_first_one_may_close() -> None:
    routing = Routing(A, B)
    trip(routing.state(A), NOW_S - 15)
    trip(routing.state(B))
    verdict, status, wait_s = told(routing)
    assert (verdict, status) == (BREAKER_OPEN, 503)
    assert within(25, wait_s)


def test_when_all_cool_it_is_a_429_until_the_first_one_is_ready() -> None:
    routing = Routing(A, B)
    routing.state(A).cool(NOW_S + 100)
    routing.state(B).cool(NOW_S + 10)
    verdict, status, wait_s = told(routing)
    assert (verdict, status) == (UPSTREAM_RATE_LIMITED, 429)
    assert within(10, wait_s)
    assert "told to wait" in routing.plan().unavailable(NOW_S).message


def test_of_a_breaker_and_a_pause_the_one_that_is_over_first_is_told() -> None:
    routing = Routing(A, B)
    trip(routing.state(A))
    routing.state(B).cool(NOW_S + 10)
    assert told(routing)[0] is UPSTREAM_RATE_LIMITED
    routing.state(B).cool(NOW_S + 100)
    verdict, _, wait_s = told(routing)
    assert verdict is BREAKER_OPEN
    assert within(40, wait_s)


def test_a_target_that_is_being_probed_does_not_hide_one_that_is_ready_sooner() -> None:
    routing = Routing(A, B)
    trip(routing.state(A), NOW_S - 40)
    assert routing.state(A).breaker.admit(NOW_S) is not None
    assert within(40, told_after(routing, 100))
    assert within(3, told_after(routing, 3))


def told_after(routing: Routing, cools_s: float) -> int:
    routing.state(B).cool_until = NOW_S + cools_s
    return told(routing)[2]


def test_a_target_without_weight_promises_nothing() -> None:
    routing = Routing(A, at(B, 0, 0))
    routing.state(A).cool(NOW_S + 50)
    assert within(50, told(routing)[2])


# --- sticky ----------------------------------------------------------------------------------------------------------


def sticky(by: str = "user") -> Routing:
    return Routing(*(Target(f"p{number}", "m") for number in range(5)), balance="sticky", sticky_by=by)


def test_a_user_stays_with_a_target_and_users_spread() -> None:
    routing = sticky()
    firsts = [routing.first(user=f"user {number % 37}") for number in range(74)]
    assert firsts[:37] == firsts[37:]
    assert len({target.provider for target in firsts}) == 5


def test_a_header_may_decide_whatever_its_case() -> None:
    routing = sticky("X-Session")

    def first(value: bytes, user: str) -> Target | None:
        return routing.router.plan(asked(routing.model, user=user, headers={b"x-session": value})).next(NOW_S)

    firsts = [first(b"s%d" % (number % 37), f"user {number}") for number in range(74)]
    assert firsts[:37] == firsts[37:]
    assert len(set(firsts)) == 5


@pytest.mark.parametrize("by", ["user", "x-session"])
def test_who_does_not_say_stays_by_the_key(by: str) -> None:
    routing = sticky(by)
    firsts = [routing.first(key_id=f"key {number % 37}") for number in range(74)]
    assert firsts[:37] == firsts[37:]
    assert len(set(firsts)) == 5


def test_who_has_no_key_either_takes_turns() -> None:
    routing = sticky()
    assert len({routing.first() for _ in range(5)}) == 5


def test_other_balances_do_not_look_at_the_user() -> None:
    routing = Routing(A, B)
    assert {routing.first(user="same").provider for _ in range(2)} == {"a", "b"}


def test_of_a_long_value_the_beginning_counts() -> None:
    routing = sticky()
    long = "x" * MAX_STICKY_BYTES
    assert len({routing.first(user=long + str(number)) for number in range(40)}) == 1
    assert len({routing.first(user=str(number) + long) for number in range(40)}) == 5
