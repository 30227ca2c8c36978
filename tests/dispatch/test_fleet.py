"""What is remembered about targets: how quick and busy they are, when they may be called, and what a reload keeps."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from dispatching import A, B, Settings, fleet_of
from tidegate.dispatch.breaker import BreakerState
from tidegate.dispatch.fleet import (
    DECAY_S,
    MAX_ASKED,
    PENALTY_S,
    WORST_S,
    Fleet,
    ProviderRules,
    Standing,
    TargetState,
    waiting_and_used,
)
from tidegate.dispatch.settings import BreakerSettings, RetryBudgetSettings, RetrySettings, SlotSettings
from tidegate.exchange import Target
from tidegate.testing.clock import run_virtual
from tidegate.verdict import CONNECT_REFUSED

START_S = 1000.0
NARROW = SlotSettings(max_streams=2, max_queue=7, max_queue_wait_s=3.0)


def state() -> TargetState:
    return fleet_of([A])[A.key]


def trip(target: Standing, now: float = START_S) -> None:
    while target.breaker.state(now) is BreakerState.CLOSED:
        permit = target.breaker.admit(now)
        assert permit is not None
        target.breaker.failed(permit, CONNECT_REFUSED, now)


# --- how quick it is -------------------------------------------------------------------------------------------------


def test_a_target_nobody_has_seen_costs_nothing_until_somebody_waits_for_it() -> None:
    target = state()
    assert target.cost(START_S) == 0.0
    target.in_flight = 3
    assert target.cost(START_S) == 3 * PENALTY_S


def test_a_peak_counts_at_once_and_in_full() -> None:
    target = state()
    target.took(0.2, START_S)
    target.took(3.0, START_S + 1)
    assert target.cost(START_S + 1) == 3.0


def test_a_lower_time_counts_little_by_little() -> None:
    target = state()
    target.took(1.0, START_S)
    target.took(0.2, START_S + DECAY_S)
    assert target.cost(START_S + DECAY_S) == pytest.approx(1.0 / math.e + 0.2 * (1 - 1 / math.e))
    for second in range(1, 100):
        target.took(0.2, START_S + DECAY_S + second)
    assert target.cost(START_S + DECAY_S + 99) == pytest.approx(0.2, rel=0.01)


def test_what_is_not_asked_is_forgotten_so_that_it_is_asked_again() -> None:
    target = state()
    target.took(2.0, START_S)
    assert target.cost(START_S + DECAY_S) == pytest.approx(2.0 / math.e)
    assert target.cost(START_S + 100 * DECAY_S) < 1e-30


def test_who_is_busy_costs_more() -> None:
    target = state()
    target.took(0.5, START_S)
    target.in_flight = 3
    assert target.cost(START_S) == 2.0


def test_a_quick_failure_does_not_make_a_target_look_quick() -> None:
    target = state()
    target.took(0.2, START_S)
    target.failed(0.001, START_S)
    assert target.cost(START_S) == PENALTY_S
    target.failed(0.001, START_S)
    assert target.cost(START_S) == 2 * PENALTY_S
    target.failed(30.0, START_S)
    assert target.cost(START_S) == 30.0


def test_failures_without_end_can_be_forgotten() -> None:
    target = state()
    for number in range(5000):
        target.failed(0.5, START_S + number * 0.01)
    now = START_S + 50
    assert target.cost(now) <= WORST_S
    assert target.cost(now + 10 * DECAY_S) < 0.01


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1000), st.floats(0, 1000)), max_size=50))
def test_a_cost_is_a_number_and_never_above_the_worst_that_was_seen(moves: list[tuple[bool, float, float]]) -> None:
    target, now, worst = state(), START_S, WORST_S
    for fails, seconds, later_s in moves:
        now += later_s
        worst = max(worst, seconds)
        if fails:
            target.failed(seconds, now)
        else:
            target.took(seconds, now)
        assert 0.0 <= target.cost(now) <= worst * (1 + 1e-9)


# --- whether it may be called ----------------------------------------------------------------------------------------


def test_a_target_that_cools_is_left_alone_until_then_and_nothing_shortens_it() -> None:
    target = state()
    assert target.available(START_S)
    target.cool(START_S + 10)
    target.cool(START_S + 5)
    assert not target.available(START_S + 9.9)
    assert target.wait_s(START_S + 4) == 6.0
    assert target.available(START_S + 10)


def test_a_target_with_an_open_breaker_is_not_called() -> None:
    target = fleet_of([A], Settings(breaker=BreakerSettings(open_for_s=20.0)))[A.key]
    trip(target)
    assert not target.available(START_S)
    assert target.wait_s(START_S) == 20.0
    target.cool(START_S + 25)
    assert target.wait_s(START_S) == 25.0
    assert not target.available(START_S + 20)
    assert target.available(START_S + 25)


def test_while_a_probe_is_out_the_wait_is_a_breaker_s_whole_pause() -> None:
    target = fleet_of([A], Settings(breaker=BreakerSettings(open_for_s=20.0)))[A.key]
    trip(target)
    assert target.breaker.admit(START_S + 20) is not None
    assert not target.available(START_S + 20)
    assert target.wait_s(START_S + 20) == 20.0


# --- a fleet ---------------------------------------------------------------------------------------------------------


def test_budgets_belong_to_providers_and_breakers_to_targets() -> None:
    other = Target("a", "other")
    fleet = fleet_of([A, other, B], Settings(breaker=BreakerSettings()))
    assert set(fleet.budgets) == {("a", "a.test"), ("b", "b.test")}
    assert fleet[A.key].budget is fleet[other.key].budget is fleet.budgets["a", "a.test"]
    assert fleet[A.key].breaker is fleet.breaker_of(A)
    trip(fleet[A.key])
    assert fleet[other.key].available(START_S), "one bad model never closes its provider"
    assert fleet[A.key].label == "a/m"


def test_one_target_in_two_models_is_one_target() -> None:
    fleet = fleet_of([A, structs.replace(A, weight=3), B])
    assert set(fleet.states) == {A.key, B.key}


def test_models_behind_a_wildcard_share_what_is_kept() -> None:
    wild = Target("a", "openai/*", name="openai/*")
    fleet = fleet_of([wild])
    assert structs.replace(wild, model="openai/gpt-4o").key == wild.key
    assert fleet[wild.key].label == "a/openai/*"


WILD = Target("a", "openai/*", name="openai/*")


def named(number: object) -> Target:
    """Give the wildcard's target as a request names its model."""
    return structs.replace(WILD, model=f"openai/{number}")


def test_one_bad_model_behind_a_wildcard_closes_no_other() -> None:
    fleet = fleet_of([WILD], Settings(breaker=BreakerSettings(failures=1)))
    bad, good = fleet.standing_of(named("bad")), fleet.standing_of(named("good"))
    trip(bad)
    assert fleet.standing_of(named("bad")) is bad
    assert fleet.breaker_of(named("bad")) is bad.breaker
    assert not bad.available(START_S)
    assert good.available(START_S)
    good.cool(START_S + 5)
    assert fleet[WILD.key].available(START_S)
    assert fleet.standing_of(WILD) is fleet[WILD.key]


def test_a_target_s_breaker_is_shown_as_the_worst_of_its_models() -> None:
    fleet = fleet_of([WILD], Settings(breaker=BreakerSettings(failures=1, open_for_s=30.0)))
    state = fleet[WILD.key]
    fleet.standing_of(named("good"))
    assert state.breaker_state(START_S) is BreakerState.CLOSED
    trip(fleet.standing_of(named("bad")))
    assert state.breaker_state(START_S) is BreakerState.OPEN
    assert state.breaker_state(START_S + 30) is BreakerState.HALF_OPEN
    plain = fleet_of([A], Settings(breaker=BreakerSettings(failures=1)))[A.key]
    trip(plain)
    assert plain.breaker_state(START_S) is BreakerState.OPEN


def test_of_many_models_that_requests_name_the_last_asked_are_remembered() -> None:
    fleet = fleet_of([WILD])
    kept, lost = fleet.standing_of(named("kept")), fleet.standing_of(named("lost"))
    for number in range(MAX_ASKED - 1):
        fleet.standing_of(named(number))
        assert fleet.standing_of(named("kept")) is kept
    assert len(fleet[WILD.key]._asked) == MAX_ASKED
    assert fleet.standing_of(named("lost")) is not lost


def test_a_model_that_a_request_names_is_heard_under_the_configured_name() -> None:
    heard: list[tuple[tuple[str, str], BreakerState]] = []
    rules = ProviderRules(name="a", host="a.test", breaker=BreakerSettings(failures=1))
    fleet = Fleet([rules], [WILD], now=START_S, on_breaker=lambda *said: heard.append(said))
    trip(fleet.standing_of(named("bad")))
    assert heard == [(WILD.key, BreakerState.OPEN)]


@pytest.mark.parametrize("failures", [1, 2])
def test_models_that_requests_named_begin_anew_where_the_breaker_s_settings_change(failures: int) -> None:
    before = fleet_of([WILD], Settings(breaker=BreakerSettings(failures=1)))
    trip(before.standing_of(named("bad")))
    after = fleet_of([WILD], Settings(breaker=BreakerSettings(failures=failures)), now=START_S, before=before)
    standing = after.standing_of(named("bad"))
    assert standing.available(START_S) is (failures == 2)
    assert standing.breaker.settings.failures == failures


def test_slots_are_there_where_they_are_asked_for_the_narrowest_first() -> None:
    own = Target("a", "own", max_streams=1)
    fleet = fleet_of([own, A], Settings(slots=NARROW))
    first, second = fleet.slots_of(own.key)
    assert first.settings == SlotSettings(max_streams=1, max_queue=7, max_queue_wait_s=3.0)
    assert second.settings == NARROW
    assert fleet.slots_of(A.key) == (second,)
    assert fleet_of([A]).slots_of(A.key) == ()
    assert fleet_of([own]).slots_of(own.key)[0].settings.max_streams == 1


def test_a_breaker_that_changes_says_whose_it_is() -> None:
    heard: list[tuple[tuple[str, str], BreakerState]] = []
    rules = ProviderRules(name="a", host="a.test", breaker=BreakerSettings(failures=1))
    fleet = Fleet([rules], [A, Target("a", "other")], now=START_S, on_breaker=lambda *said: heard.append(said))
    trip(fleet[A.key])
    assert heard == [(A.key, BreakerState.OPEN)]


def test_how_many_wait_and_have_a_slot_is_known_by_provider() -> None:
    own, other = Target("a", "own", max_streams=1), Target("a", "other", max_streams=1)
    shared = fleet_of([own, other, B], Settings(slots=NARROW))
    apart = fleet_of([own, other])
    for fleet in (shared, apart):
        for target in (own, other):
            for slots in fleet.slots_of(target.key):
                assert slots.take_nowait()
        assert waiting_and_used(fleet.slots, "a") == (0, 2)
        assert waiting_and_used(fleet.slots, "b") == (0, 0)


# --- a fleet that replaces another -----------------------------------------------------------------------------------


def test_what_has_not_changed_is_kept_with_all_it_knows() -> None:
    settings = Settings(breaker=BreakerSettings(failures=1), slots=NARROW)
    before = fleet_of([A, B], settings)
    old = before[A.key]
    trip(old)
    old.cool(START_S + 5)
    old.in_flight = 2
    assert old.budget.take(START_S)
    after = fleet_of([A, B], settings, now=START_S, before=before)
    assert after[A.key] is old
    assert after.budgets == before.budgets
    assert after.slots_of(A.key) == before.slots_of(A.key)
    assert not after[A.key].available(START_S + 5)


def test_a_target_that_is_new_begins_anew_beside_those_that_stay() -> None:
    before = fleet_of([A])
    after = fleet_of([A, B], now=START_S, before=before)
    assert after[A.key] is before[A.key]
    assert B.key not in before.states
    assert after[B.key].available(START_S)


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        (Settings(breaker=BreakerSettings(failures=9)), {"budget"}),
        (Settings(budget=RetryBudgetSettings(burst=99.0)), {"breaker"}),
        (Settings(retry=RetrySettings(max_attempts=9)), {"breaker", "budget"}),
        (Settings(slots=NARROW), {"breaker", "budget"}),
    ],
    ids=["breaker", "budget", "retry", "slots"],
)
def test_what_has_other_settings_begins_anew(changed: Settings, kept: set[str]) -> None:
    before = fleet_of([A])
    breaker, budget = before[A.key].breaker, before[A.key].budget
    before[A.key].cool(START_S + 5)
    after = fleet_of([A], changed, now=START_S, before=before)
    assert (after[A.key].breaker is breaker) is ("breaker" in kept)
    assert (after[A.key].budget is budget) is ("budget" in kept)
    assert not after[A.key].available(START_S + 5 - 1), "who asked to be left alone still does"
    assert after[A.key].breaker.settings == changed.breaker
    assert after[A.key].budget.settings == changed.budget
    assert after.retry_of(A.key) == changed.retry
    assert before.retry_of(A.key) == RetrySettings(), "what runs goes by the old"
    assert before.slots_of(A.key) == ()
    assert [slots.settings for slots in after.slots_of(A.key)] == [changed.slots] * (changed.slots is NARROW)


def test_a_provider_that_moves_to_another_host_begins_anew() -> None:
    before = Fleet([Settings().rules("a")], [A], now=START_S)
    after = Fleet([Settings().rules("a", "elsewhere.test")], [A], now=START_S, before=before)
    assert set(after.budgets) == {("a", "elsewhere.test")}
    assert after[A.key] is not before[A.key]


def test_slots_in_use_are_kept_and_take_their_new_size() -> None:
    before = fleet_of([A], Settings(slots=NARROW))
    (slots,) = before.slots_of(A.key)
    assert slots.take_nowait()
    assert slots.take_nowait()
    after = fleet_of([A], Settings(slots=SlotSettings(max_streams=3)), now=START_S, before=before)
    assert after.slots_of(A.key) == (slots,)
    assert slots.in_use == 2
    assert slots.take_nowait()
    assert not slots.take_nowait()


def test_slots_that_are_no_more_let_go_who_waits_for_them() -> None:
    async def work() -> None:
        own = Target("a", "m", max_streams=1)
        before = fleet_of([own], Settings(slots=SlotSettings(max_streams=1)))
        for slots in before.slots_of(own.key):
            assert slots.take_nowait()
        waiters = [
            asyncio.get_running_loop().create_task(slots.wait_taken(first=False)) for slots in before.slots.values()
        ]
        await asyncio.sleep(0)
        assert [slots.waiting for slots in before.slots.values()] == [1, 1]
        after = fleet_of([A], now=START_S, before=before)
        assert after.slots == {}
        assert after.slots_of(A.key) == ()
        await asyncio.gather(*waiters)

    run_virtual(work)


def test_a_limit_that_is_switched_off_and_on_again_knows_who_holds_its_slots() -> None:
    own = Target("a", "m", max_streams=1)
    limited = Settings(slots=SlotSettings(max_streams=1))
    fleet = fleet_of([own], limited)
    held = fleet.slots_of(own.key)
    assert [slots.take_nowait() for slots in held] == [True, True]
    for _ in range(2):
        fleet = fleet_of([A], now=START_S, before=fleet)
        assert fleet.slots_of(A.key) == ()
    fleet = fleet_of([own], limited, now=START_S, before=fleet)
    assert fleet.slots_of(own.key) == held
    assert [(slots.in_use, slots.take_nowait()) for slots in held] == [(1, False), (1, False)]


def test_a_fleet_does_not_keep_the_one_it_replaces() -> None:
    before = fleet_of([A, B])
    after = fleet_of([A], now=START_S, before=before)
    assert B.key not in after.states
    assert all(value is not before for value in vars(after).values())
