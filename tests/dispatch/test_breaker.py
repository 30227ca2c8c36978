"""When a target is left alone, for how long, and who may try it again."""

import asyncio
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle as Values
from hypothesis.stateful import RuleBasedStateMachine, consumes, initialize, invariant, rule
from msgspec import structs

from tidegate.dispatch.breaker import LONGEST_S, Breaker, BreakerState, Permit, breaking
from tidegate.dispatch.settings import BreakerSettings
from tidegate.exchange import Target
from tidegate.testing.clock import run_virtual
from tidegate.testing.services import Act, ScriptedService, attempt_at
from tidegate.verdict import (
    BREAKER_OPEN,
    CANCELLED,
    CLIENT_GONE,
    CLIENT_SLOW,
    COMPLETED,
    CONNECT_REFUSED,
    CONNECT_RESET,
    FIRST_TOKEN_TIMEOUT,
    PROVIDER_AUTH,
    QUEUE_FULL,
    TABLE,
    UPSTREAM_FAILED,
    UPSTREAM_RATE_LIMITED,
    UPSTREAM_REJECTED,
    UPSTREAM_RESET,
    UPSTREAM_TRUNCATED,
    AttemptFailed,
    Verdict,
)

CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN
START_S = 1000.0
QUIET = [verdict for verdict in TABLE.values() if not verdict.trips and verdict is not COMPLETED]
TRIPPING = [verdict for verdict in TABLE.values() if verdict.trips]


def breaker(
    failures: int = 5,
    ratio: float = 0.5,
    *,
    min_calls: int = 20,
    window_s: float = 60.0,
    open_for_s: float = 30.0,
    probes: int = 1,
    successes: int = 2,
    heard: list[BreakerState] | None = None,
) -> Breaker:
    settings = BreakerSettings(
        failures=failures,
        ratio=ratio,
        min_calls=min_calls,
        window_s=window_s,
        open_for_s=open_for_s,
        probes=probes,
        successes=successes,
    )
    return Breaker(settings, heard.append) if heard is not None else Breaker(settings)


def call(target: Breaker, verdict: Verdict | None, now: float = START_S) -> None:
    """Make a call that is over at once: it ends well, or does not open."""
    permit = target.admit(now)
    assert permit is not None
    if verdict is COMPLETED:
        target.opened(permit, now)
        target.ended(permit, verdict, now)
    else:
        target.failed(permit, verdict, now)


def stream(target: Breaker, verdict: Verdict | None, now: float = START_S, *, lasts_s: float = 0.0) -> None:
    """Make a call that opens, and ends as it is told."""
    permit = target.admit(now)
    assert permit is not None
    target.opened(permit, now)
    target.ended(permit, verdict, now + lasts_s)


def tripped(now: float = START_S, *, probes: int = 1, successes: int = 2, open_for_s: float = 30.0) -> Breaker:
    target = breaker(failures=1, probes=probes, successes=successes, open_for_s=open_for_s)
    call(target, CONNECT_REFUSED, now)
    assert target.state(now) is OPEN
    return target


# --- closed ----------------------------------------------------------------------------------------------------------


def test_five_failures_in_a_row_open_it_and_four_do_not() -> None:
    target = breaker(ratio=0)
    for _ in range(4):
        call(target, UPSTREAM_FAILED)
    call(target, COMPLETED)
    for _ in range(4):
        call(target, UPSTREAM_FAILED)
        assert target.state(START_S) is CLOSED
    call(target, UPSTREAM_FAILED)
    assert target.state(START_S) is OPEN
    assert target.admit(START_S) is None


@pytest.mark.parametrize("verdict", TRIPPING, ids=lambda verdict: verdict.code)
def test_whatever_the_table_says_trips_counts(verdict: Verdict) -> None:
    target = breaker(failures=1)
    call(target, verdict)
    assert target.state(START_S) is OPEN


@pytest.mark.parametrize("verdict", [None, *QUIET], ids=lambda verdict: verdict.code if verdict else "none")
def test_what_says_nothing_about_the_target_neither_counts_nor_clears(verdict: Verdict | None) -> None:
    target = breaker(failures=2, ratio=0.01, min_calls=3)
    call(target, CONNECT_RESET)
    for _ in range(50):
        call(target, verdict)
    assert target.state(START_S) is CLOSED
    call(target, CONNECT_RESET)
    assert target.state(START_S) is OPEN


def test_what_is_ignored_is_no_call_in_the_ratio_either() -> None:
    target = breaker(failures=0, ratio=0.5, min_calls=4)
    for verdict in (CLIENT_GONE, CLIENT_SLOW, UPSTREAM_RATE_LIMITED, UPSTREAM_REJECTED, PROVIDER_AUTH, QUEUE_FULL) * 5:
        call(target, verdict)
    for _ in range(3):
        call(target, UPSTREAM_FAILED)
        assert target.state(START_S) is CLOSED
    call(target, UPSTREAM_FAILED)
    assert target.state(START_S) is OPEN


def test_half_of_twenty_calls_open_it_and_of_nineteen_do_not() -> None:
    target = breaker(failures=0)
    for number in range(19):
        call(target, UPSTREAM_FAILED if number % 2 else COMPLETED)
        assert target.state(START_S) is CLOSED
    call(target, UPSTREAM_FAILED)
    assert target.state(START_S) is OPEN


def test_a_ratio_below_the_limit_never_opens_it() -> None:
    target = breaker(failures=0)
    for number in range(1000):
        call(target, UPSTREAM_FAILED if number % 9 in {1, 3, 5, 7} else COMPLETED)
    assert target.state(START_S) is CLOSED


@pytest.mark.parametrize(("later_s", "state"), [(50.0, OPEN), (60.0, CLOSED), (67.0, CLOSED), (3600.0, CLOSED)])
def test_the_window_forgets(later_s: float, state: BreakerState) -> None:
    target = breaker(failures=0)
    for _ in range(19):
        call(target, UPSTREAM_FAILED, START_S)
    call(target, UPSTREAM_FAILED, START_S + later_s)
    assert target.state(START_S + later_s) is state


def test_failures_that_come_rarely_never_fill_the_window() -> None:
    target = breaker(failures=0, min_calls=20, window_s=60.0)
    for number in range(500):
        call(target, UPSTREAM_FAILED, START_S + number * 3.2)
    assert target.state(START_S) is CLOSED


def test_without_limits_it_never_opens() -> None:
    target = breaker(failures=0, ratio=0.0)
    for _ in range(1000):
        call(target, CONNECT_REFUSED)
    assert target.state(START_S) is CLOSED
    assert target.wait_s(START_S) == 0.0


def test_streams_that_are_cut_after_they_opened_count() -> None:
    target = breaker(failures=3, ratio=0)
    for verdict in (UPSTREAM_RESET, UPSTREAM_TRUNCATED):
        stream(target, verdict, lasts_s=200)
    stream(target, COMPLETED)
    for _ in range(3):
        assert target.state(START_S + 200) is CLOSED
        stream(target, UPSTREAM_RESET, lasts_s=200)
    assert target.state(START_S + 200) is OPEN


def test_streams_that_all_opened_and_are_all_cut_long_after_count_by_their_ratio() -> None:
    target = breaker(failures=0)
    permits = [target.admit(START_S) for _ in range(20)]
    for permit in permits:
        assert permit is not None
        target.opened(permit, START_S)
    for permit in permits:
        assert permit is not None
        assert target.state(START_S + 600) is CLOSED
        target.ended(permit, UPSTREAM_RESET, START_S + 600)
    assert target.state(START_S + 600) is OPEN


def test_what_the_client_does_to_a_stream_neither_counts_nor_clears_what_was_cut() -> None:
    target = breaker(failures=2, ratio=0)
    stream(target, UPSTREAM_RESET)
    for verdict in (CLIENT_GONE, CLIENT_SLOW, CANCELLED, None):
        stream(target, verdict)
    assert target.state(START_S) is CLOSED
    stream(target, UPSTREAM_RESET)
    assert target.state(START_S) is OPEN


def test_a_busy_target_that_seldom_fails_stays_closed_though_its_streams_last_for_minutes() -> None:
    target, ends = breaker(), list[tuple[float, Permit]]()
    for number in range(6000):
        now = START_S + number * 0.05
        permit = target.admit(now)
        assert permit is not None
        if number % 20 == 7:
            target.failed(permit, CONNECT_RESET, now)
        else:
            target.opened(permit, now)
            ends.append((now + 240.0, permit))
        while ends[0][0] <= now:
            target.ended(ends.pop(0)[1], COMPLETED, now)
    assert target.state(START_S + 300) is CLOSED


# --- open ------------------------------------------------------------------------------------------------------------


def test_it_stays_open_for_its_time_and_says_how_long_that_is() -> None:
    target = tripped()
    for later_s in (0.0, 10.0, 29.9):
        assert not target.admits(START_S + later_s)
        assert target.admit(START_S + later_s) is None
        assert target.wait_s(START_S + later_s) == pytest.approx(30.0 - later_s)
    assert target.state(START_S + 30) is HALF_OPEN
    assert target.wait_s(START_S + 30) == 0.0
    assert target.admits(START_S + 30)


def test_each_failing_probe_doubles_its_time_up_to_five_minutes() -> None:
    target, now, waits = tripped(), START_S, []
    for _ in range(80):
        waits.append(target.wait_s(now))
        now += waits[-1]
        call(target, FIRST_TOKEN_TIMEOUT, now)
    assert waits[:6] == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]
    assert set(waits[5:]) == {LONGEST_S}


def test_a_pause_that_is_set_longer_than_that_is_kept_and_does_not_grow() -> None:
    target = tripped(open_for_s=900)
    assert target.wait_s(START_S) == 900.0
    call(target, CONNECT_REFUSED, START_S + 900)
    assert target.wait_s(START_S + 900) == 900.0


def test_a_target_that_begins_streams_and_cuts_them_all_is_left_alone_longer_each_time() -> None:
    target, now, waits = breaker(failures=1, successes=1), START_S, []
    for _ in range(4):
        stream(target, UPSTREAM_RESET, now)  # its first content closes the breaker, its end opens it again
        waits.append(target.wait_s(now))
        now += waits[-1]
    assert waits == [30.0, 60.0, 120.0, 240.0]


def test_only_a_stream_that_completes_while_it_is_closed_makes_the_next_pause_short() -> None:
    target = tripped(successes=1)
    permit = target.admit(START_S + 30)
    assert permit is not None
    target.opened(permit, START_S + 30)
    assert target.state(START_S + 30) is CLOSED
    call(target, CONNECT_REFUSED, START_S + 31)
    assert target.wait_s(START_S + 31) == 60.0
    call(target, COMPLETED, START_S + 91)
    call(target, COMPLETED, START_S + 92)
    call(target, CONNECT_REFUSED, START_S + 93)
    assert target.wait_s(START_S + 93) == 30.0


# --- half open -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", [0, 1, 3])
def test_no_more_probes_are_out_at_a_time_than_are_allowed(probes: int) -> None:
    target, now = tripped(probes=probes), START_S + 30
    permits = [target.admit(now) for _ in range(max(1, probes))]
    assert all(permit is not None and permit.probe for permit in permits)
    assert not target.admits(now)
    assert target.admit(now) is None
    assert target.wait_s(now) == 0.0


def test_two_probes_that_open_close_it() -> None:
    heard: list[BreakerState] = []
    target = breaker(failures=1, heard=heard)
    call(target, CONNECT_REFUSED)
    first = target.admit(START_S + 30)
    assert first is not None
    target.opened(first, START_S + 30)
    assert target.state(START_S + 30) is HALF_OPEN
    second = target.admit(START_S + 31)
    assert second is not None
    target.opened(second, START_S + 31)
    assert target.state(START_S + 31) is CLOSED
    assert heard == [OPEN, HALF_OPEN, CLOSED]
    for permit in (first, second):
        target.ended(permit, COMPLETED, START_S + 60)
    assert target.state(START_S + 60) is CLOSED


def test_a_success_before_a_failing_probe_does_not_count_after_it() -> None:
    target = tripped()
    call(target, COMPLETED, START_S + 30)
    call(target, CONNECT_REFUSED, START_S + 30)
    call(target, COMPLETED, START_S + 90)
    assert target.state(START_S + 90) is HALF_OPEN
    call(target, COMPLETED, START_S + 90)
    assert target.state(START_S + 90) is CLOSED


def test_a_probe_whose_stream_is_cut_opens_it_again() -> None:
    target = tripped()
    probe = target.admit(START_S + 30)
    assert probe is not None
    target.opened(probe, START_S + 30)
    target.ended(probe, UPSTREAM_RESET, START_S + 40)
    assert target.state(START_S + 40) is OPEN
    assert target.wait_s(START_S + 40) == 60.0


@pytest.mark.parametrize("verdict", [None, CANCELLED, CLIENT_GONE, UPSTREAM_RATE_LIMITED], ids=str)
def test_a_probe_that_says_nothing_frees_its_place(verdict: Verdict | None) -> None:
    target, now = tripped(), START_S + 30
    for _ in range(10):
        probe = target.admit(now)
        assert probe is not None
        target.ended(probe, verdict, now)
    assert target.state(now) is HALF_OPEN
    assert target.wait_s(now) == 0.0


def test_a_closed_breaker_has_forgotten_the_calls_before() -> None:
    target = breaker(failures=0, min_calls=4, successes=1)
    for _ in range(4):
        call(target, CONNECT_REFUSED)
    assert target.state(START_S) is OPEN
    call(target, COMPLETED, START_S + 30)
    for _ in range(2):
        call(target, CONNECT_REFUSED, START_S + 30)
        assert target.state(START_S + 30) is CLOSED


@pytest.mark.parametrize("fail", [lambda at: call(*at), lambda at: stream(*at)], ids=["unopened", "cut"])
def test_a_closed_breaker_has_forgotten_what_opened_it(fail: Callable[[tuple[Breaker, Verdict, float]], None]) -> None:
    target = breaker(failures=5, successes=1)
    for _ in range(5):
        fail((target, UPSTREAM_RESET, START_S))
    assert target.state(START_S) is OPEN
    probe = target.admit(START_S + 30)
    assert probe is not None
    target.opened(probe, START_S + 30)
    assert target.state(START_S + 30) is CLOSED
    for _ in range(4):
        fail((target, UPSTREAM_RESET, START_S + 30))
        assert target.state(START_S + 30) is CLOSED
    fail((target, UPSTREAM_RESET, START_S + 30))
    assert target.state(START_S + 30) is OPEN


# --- what comes late -------------------------------------------------------------------------------------------------


def test_streams_from_before_a_trip_neither_prolong_nor_shorten_it() -> None:
    target = breaker(failures=5)
    early = [target.admit(START_S) for _ in range(10)]
    for _ in range(5):
        call(target, CONNECT_REFUSED)
    for number, permit in enumerate(early):
        assert permit is not None
        target.ended(permit, COMPLETED if number % 2 else UPSTREAM_RESET, START_S + 10)
    assert target.wait_s(START_S + 10) == 20.0
    assert target.state(START_S + 30) is HALF_OPEN
    late = early[0]
    assert late is not None
    target.opened(late, START_S + 31)
    target.ended(late, UPSTREAM_RESET, START_S + 31)
    assert target.state(START_S + 31) is HALF_OPEN


def test_a_probe_that_outlasts_a_trip_keeps_its_place_and_says_nothing() -> None:
    target = tripped(probes=2)
    slow, quick = target.admit(START_S + 30), target.admit(START_S + 30)
    assert slow is not None
    assert quick is not None
    target.ended(quick, CONNECT_REFUSED, START_S + 31)
    assert target.admit(START_S + 91) is not None
    assert target.admit(START_S + 91) is None, "the slow one is still out"
    target.opened(slow, START_S + 92)
    assert target.state(START_S + 92) is HALF_OPEN
    assert target.admit(START_S + 92) is not None
    assert target.admit(START_S + 92) is None
    target.ended(slow, UPSTREAM_RESET, START_S + 93)
    assert target.state(START_S + 93) is HALF_OPEN


def test_an_old_probe_s_end_does_not_make_room_for_two() -> None:
    target = tripped()
    first = target.admit(START_S + 30)
    assert first is not None
    target.opened(first, START_S + 30)
    second = target.admit(START_S + 31)
    assert second is not None
    target.ended(first, UPSTREAM_RESET, START_S + 32)
    target.ended(second, None, START_S + 33)
    assert target.admit(START_S + 100) is not None
    assert target.admit(START_S + 100) is None


class Interleaved(RuleBasedStateMachine):
    """Calls begin, open and end in any order while time goes on."""

    calls: Values[Permit] = Values("calls")
    streams: Values[Permit] = Values("streams")

    @initialize(probes=st.integers(1, 3), successes=st.integers(1, 3))
    def begin(self, probes: int, successes: int) -> None:
        self.probes = probes
        self.target = breaker(
            failures=2, ratio=0.5, min_calls=4, window_s=10, open_for_s=5, probes=probes, successes=successes
        )
        self.now = START_S
        self.out: list[Permit] = []

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=calls)
    def calls_begin(self) -> Permit:
        admits = self.target.admits(self.now)
        permit = self.target.admit(self.now)
        assert (permit is not None) is admits
        if permit is None:
            return Permit(-1)
        if permit.probe:
            self.out.append(permit)
        return permit

    @rule(permit=calls)
    def calls_open(self, permit: Permit) -> None:
        if permit.epoch >= 0:
            self.target.opened(permit, START_S)

    @rule(permit=consumes(calls), verdict=st.sampled_from([COMPLETED, UPSTREAM_RESET, CLIENT_GONE, None]))
    def calls_end(self, permit: Permit, verdict: Verdict | None) -> None:
        if permit.epoch >= 0:
            self.target.ended(permit, verdict, self.now)
        assert not (permit.probe and permit.epoch >= 0)

    @invariant()
    def probes_are_counted(self) -> None:
        if not hasattr(self, "target"):
            return
        out = sum(permit.probe for permit in self.out)
        assert 0 <= out <= self.probes
        assert self.target._probing == out

    @invariant()
    def open_means_a_wait(self) -> None:
        if hasattr(self, "target"):
            assert (self.target.wait_s(self.now) > 0) is (self.target.state(self.now) is OPEN)

    def teardown(self) -> None:
        if not hasattr(self, "target"):
            return
        for permit in self.out:
            self.target.failed(permit, None, self.now)
        assert self.target.admits(self.now + LONGEST_S), "whatever happened, it can be tried again"


TestInterleaved = Interleaved.TestCase
TestInterleaved.settings = hypothesis_settings(max_examples=80, stateful_step_count=40, deadline=None)


# --- the layer -------------------------------------------------------------------------------------------------------


async def opens(inner: ScriptedService, target: Breaker, ending: Verdict | None = COMPLETED) -> None:
    """Open a stream behind a breaker, and end it."""
    clock = asyncio.get_running_loop().time
    ask = attempt_at(clock())
    async with breaking(lambda _: target, clock, Random(1))(inner).open(ask):
        ask.record.verdict = ending


def test_an_open_breaker_is_a_503_that_says_when_and_nothing_is_asked() -> None:
    async def work() -> None:
        target, inner = breaker(failures=1), ScriptedService(Act(raises=AttemptFailed(CONNECT_REFUSED), sent=False))
        with pytest.raises(AttemptFailed):
            await opens(inner, target)
        with pytest.raises(AttemptFailed) as caught:
            await opens(inner, target)
        assert caught.value.verdict is BREAKER_OPEN
        (name, value), *_ = caught.value.headers
        assert name == b"retry-after"
        assert 30 <= int(value) <= 39
        assert [visit.entries for visit in inner.visits] == [1, 0]

    run_virtual(work)


def test_while_a_probe_is_out_others_are_told_to_wait_a_whole_pause() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        target = tripped(loop.time() - 30)
        inner = ScriptedService(Act(stall_s=5))
        probe = loop.create_task(opens(inner, target))
        await asyncio.sleep(1)
        with pytest.raises(AttemptFailed) as caught:
            await opens(inner, target)
        assert caught.value.verdict is BREAKER_OPEN
        assert int(caught.value.headers[0][1]) >= 30
        await probe
        await opens(inner, target)
        assert target.state(loop.time()) is CLOSED

    run_virtual(work)


@pytest.mark.parametrize(
    ("act", "cancels"),
    [(Act(raises=LookupError("a bug")), False), (Act(raises=AttemptFailed(UPSTREAM_RATE_LIMITED)), False), (Act(stall_s=9), True)],
    ids=["bug", "429", "cancelled"],
)  # fmt: skip
def test_a_probe_that_did_not_open_frees_its_place(act: Act, *, cancels: bool) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        target = tripped(loop.time() - 30)
        probe = loop.create_task(opens(ScriptedService(act), target))
        await asyncio.sleep(1)
        if cancels:
            probe.cancel()
        await asyncio.wait((probe,))
        assert probe.cancelled() or probe.exception() is act.raises
        assert target.state(loop.time()) is HALF_OPEN
        assert target.admits(loop.time())

    run_virtual(work)


def test_the_layer_tells_how_the_stream_ended_and_not_only_how_it_opened() -> None:
    async def work() -> None:
        target, inner = breaker(failures=3), ScriptedService()
        for _ in range(3):
            assert target.state(0.0) is CLOSED
            await opens(inner, target, UPSTREAM_RESET)
        assert target.state(asyncio.get_running_loop().time()) is OPEN

    run_virtual(work)


def test_what_the_client_did_to_an_open_stream_is_not_held_against_the_target() -> None:
    async def work() -> None:
        target, inner = breaker(failures=1), ScriptedService()
        for verdict in (CLIENT_GONE, CLIENT_SLOW, CANCELLED, None):
            await opens(inner, target, verdict)
        assert target.state(0.0) is CLOSED

    run_virtual(work)


def test_only_the_target_s_own_breaker_is_asked() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        ask = attempt_at(loop.time())
        other = structs.replace(ask, target=Target("main", "another"))
        breakers = {ask.target.key: tripped(loop.time()), other.target.key: breaker()}
        layered = breaking(lambda target: breakers[target.key], loop.time, Random(1))(ScriptedService())
        async with layered.open(other):
            pass
        with pytest.raises(AttemptFailed):
            async with layered.open(ask):
                pass

    run_virtual(work)


def test_changes_are_heard_as_they_happen() -> None:
    heard: list[BreakerState] = []
    hear: Callable[[BreakerState], None] = heard.append
    target = Breaker(BreakerSettings(failures=1, successes=1), hear)
    call(target, CONNECT_REFUSED)
    call(target, CONNECT_REFUSED, START_S + 30)
    call(target, COMPLETED, START_S + 90)
    assert heard == [OPEN, HALF_OPEN, OPEN, HALF_OPEN, CLOSED]
