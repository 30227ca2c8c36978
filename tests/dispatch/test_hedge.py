"""A second attempt beside a late first one: when it begins, who wins, and that nobody is left behind."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import structs

from dispatching import A, B, ByProvider, Room, Settings, fails
from tidegate.dispatch.service import Service
from tidegate.dispatch.settings import BreakerSettings, RetryBudgetSettings, RetrySettings, SlotSettings
from tidegate.exchange import Attempt, AttemptRecord, Ending, Stream, Target
from tidegate.testing.clock import run_virtual
from tidegate.testing.memory import MemorySource, open_stream
from tidegate.testing.services import Act, ScriptedService
from tidegate.verdict import (
    BUG,
    CANCELLED,
    CLIENT_GONE,
    COMPLETED,
    DNS_FAILED,
    FIRST_TOKEN_TIMEOUT,
    UPSTREAM_FAILED,
    UPSTREAM_RATE_LIMITED,
    UPSTREAM_REJECTED,
    AttemptFailed,
)

AFTER_S = 0.8
ONCE = Settings(retry=RetrySettings(max_attempts=1))


def hedging(inner: Service[Attempt], *targets: Target, settings: Settings = ONCE) -> Room:
    return Room(inner, *(targets or (A, B)), settings=settings, model={"hedge_after_s": AFTER_S})


def two(a: Act, b: Act) -> ByProvider:
    return ByProvider(a=ScriptedService(a), b=ScriptedService(b))


def hedges(room: Room) -> dict[str, int]:
    return {words[1]: count for words, count in room.counts.seen.items() if words[0] == "hedged"}


def spawn(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    return asyncio.get_running_loop().create_task(work)


class Open:
    """An exchange that stays open until it is told to end. Shape: `records` are its attempts."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.admitted = room.admitted()
        self.records: list[AttemptRecord] = self.admitted.arrival.outcome.attempts
        self.enough = asyncio.Event()
        self.stream: Stream | None = None
        self.began = room.clock()
        self.task = spawn(self._run())

    async def _run(self) -> None:
        async with self.room.service.open(self.admitted) as stream:
            self.stream = stream
            await self.enough.wait()
            self.admitted.arrival.outcome.end(Ending(COMPLETED), self.room.clock())

    async def at(self, after_s: float) -> None:
        """Wait until so many seconds after it began."""
        await asyncio.sleep(self.began + after_s - self.room.clock())

    async def end(self) -> None:
        """End it well; nothing is held then."""
        self.enough.set()
        await self.task
        assert self.room.held() == {}

    def served(self) -> str:
        """Which provider's stream it is."""
        assert self.stream is not None
        assert self.admitted.arrival.outcome.served is self.stream.attempt.record
        return self.stream.attempt.target.provider


# --- when it begins --------------------------------------------------------------------------------------------------


def test_nobody_else_is_asked_before_the_first_is_late() -> None:
    async def work() -> None:
        inner = two(Act(stall_s=AFTER_S - 0.01), Act())
        room = hedging(inner)
        exchange = Open(room)
        await exchange.at(AFTER_S + 1)
        assert exchange.served() == "a"
        assert inner.services["b"].visits == []
        assert len(exchange.records) == 1
        assert hedges(room) == {}
        await exchange.end()

    run_virtual(work)


def test_a_late_first_attempt_gets_one_on_another_target_beside_it() -> None:
    async def work() -> None:
        room = hedging(two(Act(stall_s=5.0), Act(stall_s=5.0)))
        exchange = Open(room)
        await exchange.at(AFTER_S + 0.01)
        assert [(record.provider, record.hedge) for record in exchange.records] == [("a", False), ("b", True)]
        assert exchange.records[1].started_at == exchange.began + AFTER_S
        assert [room.state(target).in_flight for target in (A, B)] == [1, 1]
        await exchange.at(6)
        assert len(exchange.records) == 2
        await exchange.end()

    run_virtual(work)


@pytest.mark.parametrize("burst", [1, 5])
def test_it_is_paid_for_by_the_target_it_is_made_at(burst: float) -> None:
    async def work() -> None:
        budget = RetryBudgetSettings(rate_per_second=0, burst=burst, ratio=0)
        room = hedging(two(Act(stall_s=2.0), Act()), settings=Settings(budget=budget))
        exchange = Open(room)
        await exchange.at(1)
        now = room.clock()
        assert [room.state(target).budget.available(now) for target in (A, B)] == [burst, burst - 1]
        await exchange.end()

    run_virtual(work)


@pytest.mark.parametrize("why", ["budget", "no other target", "breaker"])
def test_without_a_target_or_a_budget_the_first_goes_on_alone(why: str) -> None:
    async def work() -> None:
        empty = RetryBudgetSettings(rate_per_second=0, burst=0, ratio=0)
        settings = Settings(budget=empty) if why == "budget" else Settings(breaker=BreakerSettings(failures=1))
        room = hedging(two(Act(stall_s=2.0), Act()), *([A] if why == "no other target" else [A, B]), settings=settings)
        if why == "breaker":
            room.state(B).cool(room.clock() + 60)
        exchange = Open(room)
        await exchange.at(3)
        assert exchange.served() == "a"
        assert len(exchange.records) == 1
        assert hedges(room) == {"denied": 1}
        await exchange.end()

    run_virtual(work)


@pytest.mark.parametrize("later", ["fine", "cooling"])
def test_a_target_whose_hedge_could_not_be_paid_for_is_still_there_to_fall_back_on(later: str) -> None:
    async def work() -> None:
        slow = RetryBudgetSettings(rate_per_second=1, burst=1, ratio=0)
        late = fails(AttemptFailed(FIRST_TOKEN_TIMEOUT), after_s=2.0)
        inner = ByProvider(a=ScriptedService(late), b=ScriptedService(), c=ScriptedService())
        room = hedging(inner, A, B, Target("c", "m", priority=1), settings=Settings(retry=ONCE.retry, budget=slow))
        assert room.state(B).budget.take(room.clock())
        exchange = Open(room)
        await exchange.at(1)
        assert hedges(room) == {"denied": 1}
        if later == "cooling":
            room.state(B).cool(room.clock() + 60)
        await exchange.at(3)
        assert exchange.served() == ("b" if later == "fine" else "c")
        assert len(exchange.records) == 2
        await exchange.end()

    run_virtual(work)


# --- who wins --------------------------------------------------------------------------------------------------------


def test_the_second_wins_and_the_first_is_cancelled_and_over_before_the_stream_is_given() -> None:
    async def work() -> None:
        inner = two(Act(stall_s=60.0), Act(stall_s=0.5))
        room = hedging(inner)
        exchange = Open(room)
        await exchange.at(AFTER_S + 0.6)
        assert exchange.served() == "b"
        first, second = exchange.records
        assert (first.verdict, first.ended_at) == (CANCELLED, exchange.began + AFTER_S + 0.5)
        assert second.verdict is None
        assert [step for step, _ in inner.services["a"].log] == ["enters", "fails"]
        assert [room.state(target).in_flight for target in (A, B)] == [0, 1]
        assert hedges(room) == {"won": 1}
        assert len(room.tasks) == 1
        await exchange.end()
        assert second.verdict is COMPLETED

    run_virtual(work)


def test_the_first_wins_after_all() -> None:
    async def work() -> None:
        inner = two(Act(stall_s=1.0), Act(stall_s=60.0))
        room = hedging(inner)
        exchange = Open(room)
        await exchange.at(1.1)
        assert exchange.served() == "a"
        assert [record.verdict for record in exchange.records] == [None, CANCELLED]
        assert [step for step, _ in inner.services["b"].log] == ["enters", "fails"]
        assert hedges(room) == {"lost": 1}
        await exchange.end()

    run_virtual(work)


def test_of_two_that_open_in_the_same_instant_one_is_given_and_the_other_closed() -> None:
    async def work() -> None:
        inner = two(Act(stall_s=AFTER_S + 1), Act(stall_s=1.0))
        room = hedging(inner)
        exchange = Open(room)
        await exchange.at(AFTER_S + 1.1)
        winner = exchange.served()
        loser = "b" if winner == "a" else "a"
        assert [step for step, _ in inner.services[loser].log] == ["enters", "opens", "leaves", "is over"]
        assert [step for step, _ in inner.services[winner].log] == ["enters", "opens"]
        verdicts = {record.provider: record.verdict for record in exchange.records}
        assert verdicts == {winner: None, loser: CANCELLED}
        await exchange.end()

    run_virtual(work)


def test_a_failure_of_the_second_leaves_the_first_to_go_on() -> None:
    async def work() -> None:
        room = hedging(two(Act(stall_s=3.0), fails(AttemptFailed(UPSTREAM_FAILED))))
        exchange = Open(room)
        await exchange.at(3.1)
        assert exchange.served() == "a"
        assert [record.verdict for record in exchange.records] == [None, UPSTREAM_FAILED]
        assert hedges(room) == {"lost": 1}
        await exchange.end()

    run_virtual(work)


def test_a_failure_of_the_first_leaves_the_second_to_go_on() -> None:
    async def work() -> None:
        room = hedging(two(fails(AttemptFailed(FIRST_TOKEN_TIMEOUT), after_s=1.0), Act(stall_s=3.0)))
        exchange = Open(room)
        await exchange.at(4.0)
        assert exchange.served() == "b"
        assert [record.verdict for record in exchange.records] == [FIRST_TOKEN_TIMEOUT, None]
        assert hedges(room) == {"won": 1}
        await exchange.end()

    run_virtual(work)


def test_a_first_attempt_that_fails_early_is_tried_again_and_not_hedged() -> None:
    async def work() -> None:
        inner = ByProvider(
            a=ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED), after_s=0.1), Act()), b=ScriptedService()
        )
        room = hedging(inner, settings=Settings())
        exchange = Open(room)
        await exchange.at(5)
        assert [(record.provider, record.hedge) for record in exchange.records] == [("a", False), ("a", False)]
        assert hedges(room) == {}
        await exchange.end()

    run_virtual(work)


def test_when_both_fail_the_next_target_is_asked_and_may_be_hedged_as_well() -> None:
    async def work() -> None:
        late = Act(stall_s=1.0, raises=AttemptFailed(UPSTREAM_FAILED))
        inner = ByProvider(
            a=ScriptedService(late), b=ScriptedService(late), c=ScriptedService(Act(stall_s=2.0)), d=ScriptedService()
        )
        room = hedging(inner, A, B, Target("c", "m", priority=1), Target("d", "m", priority=2))
        exchange = Open(room)
        await exchange.at(6)
        assert exchange.served() == "d"
        records = [(record.provider, record.hedge) for record in exchange.records]
        assert records == [("a", False), ("b", True), ("c", False), ("d", True)]
        assert hedges(room) == {"failed": 1, "won": 1}
        await exchange.end()

    run_virtual(work)


@pytest.mark.parametrize(("a_s", "b_s", "told"), [(3.0, 1.0, "a"), (1.0, 3.0, "b")])
def test_when_both_fail_the_last_is_what_is_told_and_whose_target_is_named(a_s: float, b_s: float, told: str) -> None:
    async def work() -> None:
        inner = two(
            fails(AttemptFailed(UPSTREAM_FAILED, "from a"), after_s=a_s),
            fails(AttemptFailed(UPSTREAM_FAILED, "from b"), after_s=b_s),
        )
        room = hedging(inner)
        with pytest.raises(AttemptFailed) as caught:
            await room.exchange()
        assert caught.value.message == f"from {told}"
        headers = dict(caught.value.headers)
        assert headers[b"x-tidegate-target"] == f"{told}/m".encode()
        assert headers[b"x-tidegate-attempts"] == b"2"
        assert hedges(room) == {"failed": 1}
        assert room.held() == {}

    run_virtual(work)


def test_a_wait_that_one_target_asks_for_is_not_spent_on_the_other() -> None:
    async def work() -> None:
        limited = AttemptFailed(UPSTREAM_RATE_LIMITED, headers=((b"retry-after", b"5"),))
        inner = ByProvider(
            a=ScriptedService(fails(limited, after_s=2.0), Act()),
            b=ScriptedService(fails(AttemptFailed(DNS_FAILED), after_s=0.5), Act()),
        )
        room = hedging(inner, settings=Settings())
        exchange = Open(room)
        await exchange.at(10)
        assert exchange.served() == "a"
        assert exchange.records[2].started_at >= exchange.began + 7
        await exchange.end()

    run_virtual(work)


@pytest.mark.parametrize("first_is_refused", [True, False])
def test_a_request_that_one_target_refuses_is_refused_at_once(*, first_is_refused: bool) -> None:
    async def work() -> None:
        refusing = fails(AttemptFailed(UPSTREAM_REJECTED), after_s=1.0)
        inner = two(refusing, Act(stall_s=60.0)) if first_is_refused else two(Act(stall_s=60.0), refusing)
        room = hedging(inner, settings=Settings())
        exchange = Open(room)
        with pytest.raises(AttemptFailed) as caught:
            await exchange.task
        assert caught.value.verdict is UPSTREAM_REJECTED
        assert room.clock() == exchange.began + (1.0 if first_is_refused else AFTER_S + 1.0)
        assert {record.verdict for record in exchange.records} == {UPSTREAM_REJECTED, CANCELLED}
        assert hedges(room) == {"failed": 1}
        assert room.held() == {}

    run_virtual(work)


def test_a_second_target_that_nobody_can_reach_does_not_end_the_first() -> None:
    async def work() -> None:
        room = hedging(two(Act(stall_s=3.0), fails(AttemptFailed(DNS_FAILED), sent=False)))
        exchange = Open(room)
        await exchange.at(3.1)
        assert exchange.served() == "a"
        await exchange.end()

    run_virtual(work)


def test_a_target_that_stalls_does_not_stay_the_favourite() -> None:
    async def work() -> None:
        inner = two(Act(stall_s=60.0), Act(stall_s=0.2))
        room = Room(inner, A, B, settings=ONCE, model={"hedge_after_s": AFTER_S, "balance": "p2c_ewma"})
        for _ in range(10):
            await room.exchange()
        assert room.state(A).cost(room.clock()) > room.state(B).cost(room.clock()) > 0
        assert len(inner.services["a"].visits) <= 2

    run_virtual(work)


def test_a_retry_is_counted_by_the_provider_that_decided_it() -> None:
    async def work() -> None:
        inner = ByProvider(
            a=ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED)), Act(stall_s=2.0)),
            b=ScriptedService(Act(stall_s=9)),
        )
        room = hedging(inner, settings=Settings())
        exchange = Open(room)
        await exchange.at(5)
        assert exchange.served() == "a"
        assert [record.hedge for record in exchange.records] == [False, False, True]
        retried = {words for words in room.counts.seen if words[0] == "retried"}
        assert retried == {("retried", "a", "opened")}
        attempts = [visit.attempt for name in "ab" for visit in inner.services[name].visits]
        assert [attempt.again for attempt in attempts] == [False, True, False], "a hedge waits like everybody else"
        await exchange.end()

    run_virtual(work)


def test_a_loser_that_waits_for_a_slot_is_not_counted_as_gone_and_a_client_that_leaves_is() -> None:
    async def work() -> None:
        inner = two(Act(stall_s=2.0), Act())
        room = hedging(inner, A, structs.replace(B, max_streams=1))
        (slots,) = room.slots()
        assert slots.take_nowait()
        exchange = Open(room)
        await exchange.at(1)
        assert slots.waiting == 1
        await exchange.at(3)
        assert (exchange.served(), slots.waiting) == ("a", 0)
        assert ("rejected", "b", "gone") not in room.counts.seen
        exchange.enough.set()
        await exchange.task
        leaving = Open(room)
        await leaving.at(1)
        leaving.task.cancel()
        await asyncio.wait((leaving.task,))
        assert room.counts.seen["rejected", "b", "gone"] == 1
        slots.give_back()
        assert room.held() == {}

    run_virtual(work)


def test_a_bug_in_one_ends_both_and_comes_out() -> None:
    async def work() -> None:
        inner = two(Act(stall_s=60.0), fails(LookupError("a bug"), after_s=0.5))
        room = hedging(inner)
        exchange = Open(room)
        with pytest.raises(LookupError, match="a bug"):
            await exchange.task
        assert room.clock() == exchange.began + AFTER_S + 0.5
        assert [record.verdict for record in exchange.records] == [CANCELLED, BUG]
        assert room.held() == {}

    run_virtual(work)


def test_two_attempts_hold_two_slots_and_the_loser_s_is_free_at_once() -> None:
    async def work() -> None:
        settings = Settings(retry=ONCE.retry, slots=SlotSettings(max_streams=1))
        room = hedging(two(Act(stall_s=60.0), Act(stall_s=1.0)), settings=settings)
        exchange = Open(room)
        await exchange.at(1)
        assert [slots.in_use for slots in room.slots()] == [1, 1]
        await exchange.at(2)
        assert {name: slots.in_use for (name, _), slots in room.fleet.slots.items()} == {"a": 0, "b": 1}
        await exchange.end()

    run_virtual(work)


def test_a_loser_says_nothing_against_its_target() -> None:
    async def work() -> None:
        settings = Settings(retry=ONCE.retry, breaker=BreakerSettings(failures=1))
        room = hedging(two(Act(stall_s=60.0), Act()), settings=settings)
        exchange = Open(room)
        await exchange.at(2)
        assert room.state(A).available(room.clock())
        await exchange.end()

    run_virtual(work)


# --- who leaves, and when --------------------------------------------------------------------------------------------


class Reluctant:
    """A service whose attempts take their time to leave. Shape: `inside` counts those that are not over."""

    def __init__(self, *, opens_s: dict[str, float], leaves_s: float) -> None:
        self.inside = 0
        self._opens_s = opens_s
        self._leaves_s = leaves_s

    @asynccontextmanager
    async def open(self, ask: Attempt, /) -> AsyncIterator[Stream]:
        self.inside += 1
        try:
            await asyncio.sleep(self._opens_s[ask.target.provider])
            stream = open_stream(MemorySource(), asyncio.get_running_loop().time())
            stream.attempt = ask
            yield stream
        finally:
            await asyncio.sleep(self._leaves_s)
            self.inside -= 1


@pytest.mark.parametrize(
    ("cancels_at", "opens_s"),
    [
        ((0.5,), {"a": 60.0, "b": 60.0}),
        ((1.0,), {"a": 60.0, "b": 60.0}),
        ((1.5,), {"a": 60.0, "b": 0.5}),
        ((1.0, 1.2, 1.4), {"a": 60.0, "b": 60.0}),
        ((1.5, 2.5, 3.0), {"a": 60.0, "b": 0.5}),
        ((10.0,), {"a": 60.0, "b": 0.5}),
        ((10.0, 10.3), {"a": 60.0, "b": 0.5}),
    ],
    ids=["alone", "racing", "while the loser leaves", "again and again", "at every step", "open", "on exit"],
)
def test_whenever_the_exchange_is_cancelled_both_are_over_before_it_is(
    cancels_at: tuple[float, ...], opens_s: dict[str, float]
) -> None:
    async def work() -> None:
        inner = Reluctant(opens_s=opens_s, leaves_s=1.0)
        room = hedging(inner)
        exchange = Open(room)
        for instant in cancels_at:
            await exchange.at(instant)
            exchange.task.cancel()
        await asyncio.wait((exchange.task,))
        assert exchange.task.cancelled()
        assert inner.inside == 0
        assert room.held() == {}
        assert all(record.verdict is not None or record.ended_at for record in exchange.records)

    run_virtual(work)


def test_a_winner_is_given_only_when_the_loser_has_left() -> None:
    async def work() -> None:
        room = hedging(Reluctant(opens_s={"a": 60.0, "b": 0.2}, leaves_s=1.0))
        exchange = Open(room)
        await exchange.at(1.5)
        assert exchange.stream is None
        await exchange.at(2.1)
        assert exchange.served() == "b"
        await exchange.end()

    run_virtual(work)


def test_the_exchange_is_over_when_its_attempt_is() -> None:
    async def work() -> None:
        inner = Reluctant(opens_s={"a": 1.0, "b": 60.0}, leaves_s=5.0)
        room = hedging(inner)
        exchange = Open(room)
        await exchange.at(20)
        exchange.enough.set()
        await asyncio.sleep(4.0)
        assert not exchange.task.done()
        await exchange.task
        assert room.clock() == pytest.approx(exchange.began + 25)
        assert (inner.inside, room.held()) == (0, {})

    run_virtual(work)


def test_an_attempt_is_left_by_the_task_that_entered_it_with_the_exchange_s_ending() -> None:
    async def work() -> None:
        inner = two(Act(), Act())
        room = hedging(inner)
        admitted = room.admitted()
        async with room.service.open(admitted):
            admitted.arrival.outcome.end(Ending(CLIENT_GONE), room.clock())
        (visit,) = inner.services["a"].visits
        assert len(visit.tasks) == 1
        assert asyncio.current_task() not in visit.tasks
        assert visit.attempt.record.verdict is CLIENT_GONE

    run_virtual(work)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_when_the_tasks_owner_closes_the_exchange_ends_even_if_an_attempt_had_not_begun(turns: int) -> None:
    async def work() -> None:
        room = hedging(two(Act(stall_s=60.0), Act()))
        exchange = Open(room)
        for _ in range(turns):
            await asyncio.sleep(0)
        assert len(room.tasks) == 1
        await room.tasks.close()
        await asyncio.wait((exchange.task,))
        assert exchange.task.cancelled()
        assert room.clock() == exchange.began
        assert room.held() == {}

    run_virtual(work)


def test_what_breaks_in_an_attempt_s_exit_comes_out_of_the_exchange() -> None:
    class Breaking:
        @asynccontextmanager
        async def open(self, ask: Attempt, /) -> AsyncIterator[Stream]:
            stream = open_stream(MemorySource(), asyncio.get_running_loop().time())
            stream.attempt = ask
            yield stream
            raise LookupError("a bug in the exit")

    async def work() -> None:
        room = hedging(Breaking())
        exchange = Open(room)
        await exchange.at(1)
        exchange.enough.set()
        with pytest.raises(LookupError):
            await exchange.task
        assert room.held() == {}

    run_virtual(work)
