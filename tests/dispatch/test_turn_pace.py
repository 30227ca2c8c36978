"""When an exchange makes its next attempt, and who pays for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate

import pytest

from dispatching import A, B, ByProvider, C, Room, Settings, asked, failing, fails, only, said, wait
from tidegate.dispatch.settings import RetrySettings
from tidegate.dispatch.trial import LONGEST_COOLING_S
from tidegate.exchange import Attempt, Stream, Target
from tidegate.testing.clock import run_virtual
from tidegate.testing.services import Act, ScriptedService
from tidegate.verdict import (
    BAD_FRAME,
    BREAKER_OPEN,
    CONNECT_REFUSED,
    DEADLINE_EXCEEDED,
    QUEUE_FULL,
    UPSTREAM_FAILED,
    UPSTREAM_RATE_LIMITED,
    AttemptFailed,
    Verdict,
)


def begun(inner: ScriptedService) -> list[float]:
    """Give when attempts began, in seconds after the first."""
    starts = [visit.attempt.record.started_at for visit in inner.visits]
    return [start - starts[0] for start in starts]


# --- when ------------------------------------------------------------------------------------------------------------


def test_waits_between_attempts_are_by_chance_and_grow_up_to_their_limit() -> None:
    async def work() -> None:
        retry = RetrySettings(max_attempts=6, initial_delay_s=1.0, max_delay_s=5.0)
        waits: list[list[float]] = [[], [], [], [], []]
        for seed in range(300):
            inner = ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED)))
            await failing(Room(inner, settings=Settings(retry=retry), seed=seed))
            starts = begun(inner)
            for number in range(5):
                waits[number].append(starts[number + 1] - starts[number])
        for limit, seen in zip([1.0, 2.0, 4.0, 5.0, 5.0], waits, strict=True):
            assert 0.0 <= min(seen) < 0.05 * limit
            assert 0.95 * limit < max(seen) <= limit + 1e-6
            assert sum(seen) / len(seen) == pytest.approx(limit / 2, rel=0.1)

    run_virtual(work)


def test_attempts_without_end_stay_within_the_longest_wait() -> None:
    async def work() -> None:
        tries = 0

        class Refusing:
            @asynccontextmanager
            async def open(self, ask: Attempt, /) -> AsyncIterator[Stream]:
                nonlocal tries
                tries += 1
                raise AttemptFailed(CONNECT_REFUSED)
                yield

        retry = RetrySettings(max_attempts=1200, initial_delay_s=0.25, max_delay_s=2.0)
        await failing(Room(Refusing(), settings=Settings(retry=retry)))
        assert tries == 1200

    run_virtual(work)


@pytest.mark.parametrize("date", [False, True], ids=["seconds", "date"])
@pytest.mark.parametrize("verdict", [UPSTREAM_RATE_LIMITED, UPSTREAM_FAILED], ids=["429", "503"])
def test_a_retry_after_is_waited_for_and_not_much_longer(verdict: Verdict, *, date: bool) -> None:
    async def work() -> None:
        room = Room(ScriptedService())
        value = formatdate(room.wall() + 7, usegmt=True) if date else 7
        inner = ScriptedService(fails(AttemptFailed(verdict, headers=wait(value))), Act())
        room = Room(inner)
        await room.exchange()
        assert asked(inner) == ["a", "a"]
        assert 7.0 <= begun(inner)[1] <= 7.25

    run_virtual(work)


def test_those_who_are_told_to_wait_do_not_come_back_in_the_same_instant() -> None:
    async def work() -> None:
        starts = set()
        for seed in range(20):
            inner = ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED, headers=wait(3))), Act())
            await Room(inner, seed=seed).exchange()
            starts.add(begun(inner)[1])
        assert len(starts) > 15

    run_virtual(work)


def test_who_is_told_to_wait_too_long_does_not_wait_and_passes_it_on() -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(UPSTREAM_RATE_LIMITED, "slow down", headers=wait(11))))
        room = Room(inner)
        failed = await failing(room)
        assert asked(inner) == ["a"]
        assert (failed.verdict, failed.message) == (UPSTREAM_RATE_LIMITED, "slow down")
        assert said(failed)[b"retry-after"] == b"11"
        assert b"x-should-retry" not in said(failed)

    run_virtual(work)


@pytest.mark.parametrize("value", ["soon", "", "-1", "1.5"])
def test_a_retry_after_that_cannot_be_read_is_not_there(value: str) -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED, headers=wait(value))), Act())
        await Room(inner).exchange()
        assert begun(inner)[1] <= 0.25

    run_virtual(work)


@pytest.mark.parametrize("verdict", [UPSTREAM_RATE_LIMITED, UPSTREAM_FAILED], ids=["429", "503"])
def test_who_is_told_to_wait_goes_to_another_target_at_once(verdict: Verdict) -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(verdict, headers=wait(5))), Act())
        room = Room(inner, A, B)
        await room.exchange()
        assert asked(inner) == ["a", "b"]
        assert begun(inner) == [0.0, 0.0]

    run_virtual(work)


def test_a_target_that_answered_429_is_left_alone_for_as_long_as_it_asked() -> None:
    async def work() -> None:
        inner = ByProvider(
            a=ScriptedService(fails(AttemptFailed(UPSTREAM_RATE_LIMITED, headers=wait(30))), Act()),
            b=ScriptedService(),
        )
        room = Room(inner, A, B)
        for _ in range(6):
            await room.exchange()
        assert [len(inner.services[name].visits) for name in "ab"] == [1, 6]
        await asyncio.sleep(30.0)
        for _ in range(4):
            await room.exchange()
        assert len(inner.services["a"].visits) == 3

    run_virtual(work)


def test_a_429_without_a_time_cools_nothing() -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(UPSTREAM_RATE_LIMITED)), Act())
        room = Room(inner, A, B)
        await room.exchange()
        assert asked(inner) == ["a", "b"]
        assert room.state(A).available(room.clock())

    run_virtual(work)


def test_a_503_that_asks_to_wait_is_no_429() -> None:
    async def work() -> None:
        room = Room(ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED, headers=wait(30))), Act()), A, B)
        await room.exchange()
        assert room.state(A).available(room.clock())

    run_virtual(work)


def test_no_provider_puts_itself_to_sleep_for_years() -> None:
    async def work() -> None:
        room = Room(ScriptedService(fails(AttemptFailed(UPSTREAM_RATE_LIMITED, headers=wait(10**9)))))
        await failing(room)
        assert room.state(A).wait_s(room.clock()) == LONGEST_COOLING_S

    run_virtual(work)


@pytest.mark.parametrize(("deadline_s", "attempts"), [(4.0, 1), (5.5, 2), (0.0, 2)])
def test_a_deadline_before_the_next_attempt_is_told_now(deadline_s: float, attempts: int) -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED, "again and again", headers=wait(5))))
        room = Room(inner)
        began = room.clock()
        failed = await failing(room, deadline=began + deadline_s if deadline_s else 0.0)
        assert failed.message == "again and again"
        assert len(asked(inner)) == attempts
        assert (room.clock() == began) is (attempts == 1)

    run_virtual(work)


def test_where_the_deadline_comes_before_the_next_attempt_here_another_target_is_asked_at_once() -> None:
    async def work() -> None:
        slow = Settings(retry=RetrySettings(initial_delay_s=1000.0, max_delay_s=1000.0))
        inner = ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED)), Act())
        room = Room(inner, A, B, settings=slow)
        began = room.clock()
        async with room.service.open(room.admitted(deadline=began + 5.0)):
            assert room.clock() == began
        assert asked(inner) == ["a", "b"]

    run_virtual(work)


def test_who_leaves_while_waiting_for_an_attempt_that_is_paid_for_is_counted() -> None:
    async def work() -> None:
        slow = Settings(retry=RetrySettings(initial_delay_s=1000.0, max_delay_s=1000.0))
        room = Room(ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED))), settings=slow)
        task = asyncio.get_running_loop().create_task(failing(room))
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.wait((task,))
        assert room.counts.seen == {("retried", "a", "cancelled"): 1}

    run_virtual(work)


def test_when_the_exchange_s_time_is_up_no_other_target_is_tried() -> None:
    async def work() -> None:
        inner = ScriptedService(Act(stall_s=100.0))
        room = Room(inner, A, B)
        began = room.clock()
        failed = await failing(room, deadline=began + 20.0)
        assert failed.verdict is DEADLINE_EXCEEDED
        assert room.clock() == pytest.approx(began + 20.0)
        assert asked(inner) == ["a"]

    run_virtual(work)


# --- who pays --------------------------------------------------------------------------------------------------------


class Herd:
    """A service in which everybody waits until all are there, and all are killed at once. Shape: `hits` counts them."""

    def __init__(self, size: int) -> None:
        self.hits = 0
        self._size = size
        self._full = asyncio.Event()

    @asynccontextmanager
    async def open(self, ask: Attempt, /) -> AsyncIterator[Stream]:
        self.hits += 1
        ask.record.sent_at = asyncio.get_running_loop().time()
        if self.hits == self._size:
            self._full.set()
        await self._full.wait()
        raise AttemptFailed(UPSTREAM_FAILED, "gone")
        yield


def test_a_herd_that_is_killed_together_costs_its_budget_and_no_more() -> None:
    async def work() -> None:
        inner = Herd(100)
        room = Room(inner, settings=only(5))
        failures = await asyncio.gather(*(failing_alone(room) for _ in range(100)))
        assert inner.hits == 105
        told = [said(failed).get(b"x-should-retry") for failed in failures]
        assert (told.count(b"false"), told.count(None)) == (95, 5)
        assert {failed.message for failed in failures} == {"gone"}
        assert room.counts.seen == {("retried", "a", "failed"): 5, ("retried", "a", "denied"): 95}
        assert room.held() == {}

    run_virtual(work)


async def failing_alone(room: Room) -> AttemptFailed:
    """Have an exchange that fails beside others; gives how."""
    with pytest.raises(AttemptFailed) as caught:
        await room.exchange()
    return caught.value


def test_an_empty_budget_tells_the_first_error_at_once() -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED, status=529)))
        room = Room(inner, A, B, settings=only(0))
        failed = await failing(room)
        assert (failed.verdict, failed.status) == (UPSTREAM_FAILED, 529)
        assert said(failed)[b"x-should-retry"] == b"false"
        assert begun(inner) == [0.0]
        assert room.clock() == inner.visits[0].attempt.record.started_at

    run_virtual(work)


def test_each_target_pays_for_the_attempts_at_it() -> None:
    async def work() -> None:
        room = Room(ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED))), A, B, settings=only(10))
        await failing(room)
        now = room.clock()
        assert room.state(A).budget.available(now) == 9.0
        assert room.state(B).budget.available(now) == 8.0

    run_virtual(work)


def broke(room: Room, *targets: Target) -> None:
    """Empty what pays for attempts at targets."""
    for target in targets:
        while room.state(target).budget.take(room.clock()):
            pass


def test_where_a_target_s_own_budget_is_empty_the_next_that_can_pay_is_asked() -> None:
    async def work() -> None:
        inner = ByProvider(
            a=ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED))), b=ScriptedService(), c=ScriptedService()
        )
        room = Room(inner, A, B, C, settings=only(5))
        broke(room, A, B)
        stream = await room.exchange()
        assert stream.attempt.target is C
        assert inner.services["b"].visits == []
        assert room.state(C).budget.available(room.clock()) == 4.0
        assert room.counts.seen == {
            ("retried", "a", "denied"): 1,
            ("fell back", "a/m", "c/m"): 1,
            ("retried", "c", "opened"): 1,
        }

    run_virtual(work)


def test_when_no_target_can_pay_the_error_is_told_as_it_is() -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED, status=529)))
        room = Room(inner, A, B, C, settings=only(5))
        broke(room, A, B, C)
        failed = await failing(room)
        assert (failed.verdict, failed.status, asked(inner)) == (UPSTREAM_FAILED, 529, ["a"])
        assert said(failed)[b"x-should-retry"] == b"false"
        assert room.counts.seen == {("retried", "a", "denied"): 1}

    run_virtual(work)


@pytest.mark.parametrize(("script", "brought"), [
    ((fails(AttemptFailed(CONNECT_REFUSED), sent=False),), 0.0),
    ((fails(AttemptFailed(CONNECT_REFUSED), sent=False), Act()), 0.5),
    ((Act(),), 0.5),
    ((fails(AttemptFailed(BAD_FRAME)),), 0.5),
], ids=["never sent", "sent at last", "opened", "failed"])  # fmt: skip
def test_an_exchange_brings_something_once_and_only_if_it_was_sent(script: tuple[Act, ...], brought: float) -> None:
    async def work() -> None:
        room = Room(ScriptedService(*script), settings=only(5, ratio=0.5))
        broke(room, A)
        with contextlib.suppress(AttemptFailed):
            await room.exchange()
        assert room.state(A).budget.available(room.clock()) == brought

    run_virtual(work)


def test_a_second_attempt_that_opens_brings_nothing_more() -> None:
    async def work() -> None:
        room = Room(ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED)), Act()), settings=only(5, ratio=0.5))
        for _ in range(2):
            assert room.state(A).budget.take(room.clock())
        await room.exchange()
        assert room.state(A).budget.available(room.clock()) == 5 - 2 + 0.5 - 1

    run_virtual(work)


def test_first_attempts_bring_what_later_ones_cost() -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED)))
        room = Room(inner, settings=only(5, ratio=0.5))
        for _ in range(5):
            assert room.state(A).budget.take(room.clock())
        for attempts in (1, 2, 1, 2):
            before = len(asked(inner))
            await failing(room)
            assert len(asked(inner)) - before == attempts

    run_virtual(work)


@pytest.mark.parametrize("verdict", [CONNECT_REFUSED, QUEUE_FULL, BREAKER_OPEN], ids=lambda verdict: verdict.code)
def test_after_what_was_never_sent_another_attempt_is_free(verdict: Verdict) -> None:
    async def work() -> None:
        inner = ByProvider(
            a=ScriptedService(fails(AttemptFailed(verdict), sent=False)), b=ScriptedService(Act(stall_s=0.1))
        )
        room = Room(inner, A, B, settings=only(0))
        stream = await room.exchange()
        assert stream.attempt.target is B

    run_virtual(work)


def test_once_something_was_sent_all_that_follows_is_paid_for() -> None:
    async def work() -> None:
        script = (fails(AttemptFailed(CONNECT_REFUSED), sent=False), fails(AttemptFailed(UPSTREAM_FAILED)))
        inner = ScriptedService(*script)
        failed = await failing(Room(inner, A, B, settings=only(0)))
        assert failed.verdict is UPSTREAM_FAILED
        assert asked(inner) == ["a", "a"]
        assert said(failed)[b"x-should-retry"] == b"false"

    run_virtual(work)


def test_who_has_no_retries_left_is_not_told_that_the_budget_is_empty() -> None:
    async def work() -> None:
        failed = await failing(Room(ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED))), settings=only(10)))
        assert b"x-should-retry" not in said(failed)

    run_virtual(work)
