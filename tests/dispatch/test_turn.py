"""One exchange out of attempts: what is tried again, where, when, who pays, and what the client is told."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from dispatching import A, B, ByProvider, C, Room, Settings, asked, failing, fails, only, said, wait
from tidegate.dispatch.settings import BreakerSettings, RetryBudgetSettings, RetrySettings, SlotSettings
from tidegate.exchange import Attempt, AttemptRecord, Ending, Stream, Target
from tidegate.testing.clock import run_virtual
from tidegate.testing.services import Act, ScriptedService
from tidegate.verdict import (
    BAD_FRAME,
    BREAKER_OPEN,
    CLIENT_GONE,
    COMPLETED,
    CONNECT_REFUSED,
    DNS_FAILED,
    FIRST_TOKEN_TIMEOUT,
    PROVIDER_AUTH,
    QUEUE_FULL,
    TABLE,
    UPSTREAM_FAILED,
    UPSTREAM_RATE_LIMITED,
    Again,
    AttemptFailed,
    Verdict,
)

OPENING = [verdict for verdict in TABLE.values() if verdict.stage == "opening"]
D = Target("d", "m", priority=1)


# --- one attempt -----------------------------------------------------------------------------------------------------


def test_an_attempt_is_recorded_before_it_begins_and_gets_the_exchange_s_ending() -> None:
    async def work() -> None:
        inner = ScriptedService(Act(stall_s=2.0))
        room = Room(inner)
        admitted = room.admitted()
        outcome, began = admitted.arrival.outcome, room.clock()
        async with room.service.open(admitted) as stream:
            (record,) = outcome.attempts
            assert stream.attempt.record is record is outcome.served
            assert (record.provider, record.model, record.started_at, record.hedge) == ("a", "m", began, False)
            assert record.verdict is None
            assert room.state(A).in_flight == 1
            outcome.end(Ending(CLIENT_GONE), room.clock())
            await asyncio.sleep(1.0)
        assert record.verdict is CLIENT_GONE
        assert record.ended_at == began + 3.0
        assert room.held() == {}

    run_virtual(work)


def test_the_prompt_is_kept_until_a_stream_is_open_and_no_longer() -> None:
    async def work() -> None:
        bodies: list[bytes] = []

        class Looking(ScriptedService):
            def open(self, ask: Attempt, /) -> Any:
                bodies.append(ask.admitted.ask.body)
                return super().open(ask)

        room = Room(Looking(fails(AttemptFailed(UPSTREAM_FAILED)), Act()))
        admitted = room.admitted()
        admitted.ask.body = b"prompt"
        async with room.service.open(admitted):
            assert admitted.ask.body == b""
        assert bodies == [b"prompt", b"prompt"]

    run_virtual(work)


def test_a_failed_exchange_leaves_the_prompt_and_serves_nothing() -> None:
    async def work() -> None:
        room = Room(ScriptedService(fails(AttemptFailed(DNS_FAILED))))
        admitted = room.admitted()
        body = admitted.ask.body
        with pytest.raises(AttemptFailed):
            await room.exchange(admitted)
        assert admitted.ask.body == body != b""
        assert admitted.arrival.outcome.served is None
        assert [record.verdict for record in admitted.arrival.outcome.attempts] == [DNS_FAILED]

    run_virtual(work)


@pytest.mark.parametrize(
    "error", [LookupError("bug"), asyncio.CancelledError(), AttemptFailed(CONNECT_REFUSED)], ids=repr
)
def test_what_is_raised_in_an_open_stream_passes_through_and_is_never_tried_again(error: BaseException) -> None:
    async def work() -> None:
        inner = ScriptedService()
        room = Room(inner, A, B)
        with pytest.raises(type(error)) as caught:
            async with room.service.open(room.admitted()):
                raise error
        assert caught.value is error
        assert asked(inner) == ["a"]
        assert room.held() == {}

    run_virtual(work)


# --- what is tried again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [*OPENING, QUEUE_FULL], ids=lambda verdict: verdict.code)
def test_the_table_decides_whether_one_target_is_tried_again(verdict: Verdict) -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(verdict)))
        failed = await failing(Room(inner))
        assert failed.verdict is verdict
        assert asked(inner) == ["a"] * (2 if verdict.again is Again.ANYWHERE else 1)

    run_virtual(work)


@pytest.mark.parametrize("verdict", [*OPENING, QUEUE_FULL], ids=lambda verdict: verdict.code)
def test_the_table_decides_whether_other_targets_are_tried(verdict: Verdict) -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(verdict)))
        failed = await failing(Room(inner, A, D))
        assert failed.verdict is verdict
        expected = {Again.NEVER: ["a"], Again.ELSEWHERE: ["a", "d"], Again.ANYWHERE: ["a", "a", "d", "d"]}
        if verdict is UPSTREAM_RATE_LIMITED:
            expected[Again.ANYWHERE] = ["a", "d", "d"]
        assert asked(inner) == expected[verdict.again]

    run_virtual(work)


def test_what_no_target_can_do_better_is_told_at_once() -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(DNS_FAILED, "no such host")))
        room = Room(inner, A, B, C)
        failed = await failing(room)
        assert failed.message == "no such host"
        assert asked(inner) == ["a"]
        assert room.clock() == inner.visits[0].attempt.record.started_at

    run_virtual(work)


@pytest.mark.parametrize(("max_attempts", "attempts"), [(0, 1), (1, 1), (2, 2), (5, 5)])
def test_a_target_is_tried_as_often_as_its_provider_allows(max_attempts: int, attempts: int) -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED)))
        await failing(Room(inner, settings=Settings(retry=RetrySettings(max_attempts=max_attempts))))
        assert len(asked(inner)) == attempts

    run_virtual(work)


def test_after_a_target_comes_the_next_of_its_priority_and_then_the_next_priority() -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED)))
        room = Room(inner, D, A, B)
        await failing(room)
        assert asked(inner) == ["a", "a", "b", "b", "d", "d"]
        assert room.counts.seen == {
            ("retried", "a", "failed"): 1,
            ("fell back", "a/m", "b/m"): 1,
            ("retried", "b", "failed"): 2,
            ("fell back", "b/m", "d/m"): 1,
            ("retried", "d", "failed"): 2,
        }

    run_virtual(work)


def test_a_second_attempt_that_opens_is_the_one_that_serves() -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(FIRST_TOKEN_TIMEOUT), after_s=3.0), Act())
        room = Room(inner)
        admitted = room.admitted()
        await room.exchange(admitted)
        outcome = admitted.arrival.outcome
        assert [record.verdict for record in outcome.attempts] == [FIRST_TOKEN_TIMEOUT, COMPLETED]
        assert outcome.served is outcome.attempts[1]
        assert room.counts.seen == {("retried", "a", "opened"): 1}

    run_virtual(work)


def test_a_bug_is_not_tried_again() -> None:
    async def work() -> None:
        inner = ScriptedService(fails(LookupError("a bug")))
        room = Room(inner, A, B)
        admitted = room.admitted()
        with pytest.raises(LookupError):
            await room.exchange(admitted)
        assert [record.verdict and record.verdict.code for record in admitted.arrival.outcome.attempts] == ["bug"]
        assert asked(inner) == ["a"]
        assert room.held() == {}

    run_virtual(work)


ACTS = st.builds(
    lambda verdict, stall_s, sent, opens: Act(
        stall_s=stall_s, sent=sent, raises=None if opens else AttemptFailed(verdict)
    ),
    st.sampled_from(OPENING),
    st.sampled_from([0.0, 0.1, 2.0]),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ACTS, min_size=1, max_size=8), st.booleans(), st.integers(0, 4), st.floats(0, 4))
def test_once_a_stream_is_open_nothing_more_is_asked_of_anyone(
    script: list[Act], hedges: bool, attempts: int, burst: float
) -> None:
    async def work() -> None:
        inner = ScriptedService(*script)
        limits = Settings(
            retry=RetrySettings(max_attempts=attempts),
            budget=RetryBudgetSettings(rate_per_second=1.0, burst=burst),
        )
        room = Room(inner, A, B, D, settings=limits, model={"hedge_after_s": 1.0 * hedges})
        admitted = room.admitted()
        with contextlib.suppress(AttemptFailed):
            async with room.service.open(admitted) as stream:
                seen, visits = len(inner.log), len(inner.visits)
                opened = [visit for step, visit in inner.log if step == "opens"]
                left = [visit for step, visit in inner.log if step == "is over"]
                assert [visit.stream for visit in opened if visit not in left] == [stream]
                await asyncio.sleep(60.0)
                assert (len(inner.log), len(inner.visits)) == (seen, visits)
                admitted.arrival.outcome.end(Ending(COMPLETED), room.clock())
        assert all(record.verdict is not None for record in admitted.arrival.outcome.attempts)
        assert all(record.ended_at for record in admitted.arrival.outcome.attempts)
        assert room.held() == {}

    run_virtual(work)


# --- what is held meanwhile ------------------------------------------------------------------------------------------


def test_slots_are_free_while_an_exchange_waits_for_its_next_attempt() -> None:
    async def work() -> None:
        room = Room(
            ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED, headers=wait(5))), Act()),
            settings=Settings(slots=SlotSettings(max_streams=1)),
        )
        task = asyncio.get_running_loop().create_task(room.exchange())
        await asyncio.sleep(1.0)
        assert room.held() == {}
        await task

    run_virtual(work)


def test_an_exchange_that_tries_again_goes_before_those_who_have_not_tried() -> None:
    async def work() -> None:
        order: list[str] = []
        inner = ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED), after_s=1.0), Act())
        room = Room(inner, settings=Settings(slots=SlotSettings(max_streams=1)))

        async def exchange(name: str) -> None:
            async with room.service.open(room.admitted()):
                order.append(name)
                await asyncio.sleep(1.0)

        await asyncio.gather(*(exchange(name) for name in ("first", "second", "third")))
        assert order == ["second", "first", "third"]

    run_virtual(work)


def test_only_another_try_at_the_same_target_goes_to_the_head_of_its_line() -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED)))
        await failing(Room(inner, A, D))
        assert asked(inner) == ["a", "a", "d", "d"]
        assert [visit.attempt.again for visit in inner.visits] == [False, True, False, True]

    run_virtual(work)


def test_who_falls_back_to_a_full_queue_has_no_place_there() -> None:
    async def work() -> None:
        inner = ByProvider(a=ScriptedService(fails(AttemptFailed(BAD_FRAME))), d=ScriptedService())
        room = Room(inner, A, structs.replace(D, max_streams=1), settings=Settings(slots=SlotSettings(max_queue=0)))
        (slots,) = room.slots()
        assert slots.take_nowait()
        with pytest.raises(AttemptFailed):
            await room.exchange()
        assert room.counts.seen["rejected", "d", "full"] == 1
        slots.give_back()

    run_virtual(work)


@pytest.mark.parametrize("sent", [True, False])
def test_a_client_that_leaves_during_another_attempt_is_counted_there(*, sent: bool) -> None:
    async def work() -> None:
        inner = ByProvider(
            a=ScriptedService(fails(AttemptFailed(BAD_FRAME), sent=sent)), d=ScriptedService(Act(stall_s=9.0))
        )
        room = Room(inner, A, D)
        task = asyncio.get_running_loop().create_task(room.exchange())
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.wait((task,))
        assert room.counts.seen == {("fell back", "a/m", "d/m"): 1, ("retried", "d", "cancelled"): 1}

    run_virtual(work)


def test_a_client_that_leaves_during_the_first_attempt_is_no_retry() -> None:
    async def work() -> None:
        room = Room(ScriptedService(Act(stall_s=9.0)))
        task = asyncio.get_running_loop().create_task(room.exchange())
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.wait((task,))
        assert room.counts.seen == {}

    run_virtual(work)


def test_a_full_queue_sends_on_to_the_next_target() -> None:
    async def work() -> None:
        inner = ScriptedService()
        narrow = structs.replace(A, max_streams=1)
        room = Room(inner, narrow, D, settings=Settings(slots=SlotSettings(max_queue=0)))
        streams = await asyncio.gather(*(room.exchange(stay_s=1.0) for _ in range(3)))
        assert sorted(stream.attempt.target.provider for stream in streams) == ["a", "d", "d"]
        assert room.counts.seen == {
            ("rejected", "a", "full"): 2,
            ("fell back", "a/m", "d/m"): 2,
            ("retried", "d", "opened"): 2,
        }
        assert room.held() == {}

    run_virtual(work)


def test_a_failure_that_opens_the_breaker_goes_on_to_the_next_target_without_a_wait() -> None:
    async def work() -> None:
        inner = ByProvider(a=ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED))), b=ScriptedService())
        breaker = BreakerSettings(failures=1)
        room = Room(inner, A, B, settings=Settings(breaker=breaker, budget=only(1).budget))
        admitted = room.admitted()
        stream = await room.exchange(admitted)
        assert stream.attempt.target is B
        records = admitted.arrival.outcome.attempts
        assert [record.provider for record in records] == ["a", "b"], "nobody is asked who would only say no"
        assert records[1].started_at == records[0].started_at
        assert room.state(A).budget.available(room.clock()) == 1.0

    run_virtual(work)


def test_a_failure_that_opens_the_only_breaker_is_told_as_it_is() -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED, status=500)))
        room = Room(inner, settings=Settings(breaker=BreakerSettings(failures=1)))
        failed = await failing(room)
        assert (failed.verdict, failed.status) == (UPSTREAM_FAILED, 500)
        assert asked(inner) == ["a"]
        failed = await failing(room)
        assert (failed.verdict, failed.status) == (BREAKER_OPEN, 503)
        assert asked(inner) == ["a"]
        assert 30 <= int(said(failed)[b"retry-after"]) <= 39

    run_virtual(work)


@pytest.mark.parametrize("after_s", [0.5, 1.05, 1.5])
def test_a_client_that_leaves_at_any_time_leaves_nothing(after_s: float) -> None:
    async def work() -> None:
        script = (fails(AttemptFailed(UPSTREAM_FAILED, headers=wait(1)), after_s=1.0), Act(stall_s=1.0))
        room = Room(ScriptedService(*script), settings=Settings(slots=SlotSettings(max_streams=1)))
        tasks = [asyncio.get_running_loop().create_task(room.exchange()) for _ in range(3)]
        await asyncio.sleep(after_s)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert room.held() == {}

    run_virtual(work)


# --- what is told ----------------------------------------------------------------------------------------------------


def test_an_answer_says_what_was_used_and_what_admission_has_to_say() -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(PROVIDER_AUTH)), Act())
        room = Room(inner, A, B)
        stream = await room.exchange(room.admitted(headers=((b"ratelimit", b"1"),)))
        assert stream.head.status == 200
        own = ((b"ratelimit", b"1"), (b"x-tidegate-target", b"b/m"), (b"x-tidegate-attempts", b"2"))
        assert stream.head.headers[-3:] == own
        assert dict(stream.head.headers)[b"content-type"] == b"text/event-stream"

    run_virtual(work)


def test_a_failure_says_what_was_used_last() -> None:
    async def work() -> None:
        inner = ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED, headers=wait(60))))
        failed = await failing(Room(inner, A, B))
        assert failed.headers == (
            (b"retry-after", b"60"), (b"x-tidegate-target", b"b/m"), (b"x-tidegate-attempts", b"2")
        )  # fmt: skip

    run_virtual(work)


@pytest.mark.parametrize("asks_nobody", [False, True])
def test_a_failure_says_what_admission_has_to_say(*, asks_nobody: bool) -> None:
    async def work() -> None:
        room = Room(ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED))))
        if asks_nobody:
            room.state(A).cool(room.clock() + 9)
        failed = await failing(room, headers=((b"ratelimit", b"1"),))
        assert said(failed)[b"ratelimit"] == b"1"

    run_virtual(work)


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("openai/gpt-4o", b"a/openai/gpt-4o"),
        ("x" * 256, b"a/" + b"x" * 256),
        ("x" * 257, b"a/*"),
        ("with space", b"a/*"),
        ("m\u00f6del", b"a/*"),
        ("line\n", b"a/*"),
        ("\x7f", b"a/*"),
    ],
)
def test_the_model_that_was_asked_for_is_named_where_a_header_can_say_it(model: str, shown: bytes) -> None:
    async def work() -> None:
        stream = await Room(ScriptedService(), Target("a", model, name="*")).exchange()
        assert dict(stream.head.headers)[b"x-tidegate-target"] == shown

    run_virtual(work)


def test_a_429_rests_the_model_that_was_asked_for_and_no_other_behind_its_wildcard() -> None:
    async def work() -> None:
        wild = Target("a", "busy", name="*")
        limited = AttemptFailed(UPSTREAM_RATE_LIMITED, headers=wait(60))
        room = Room(ScriptedService(fails(limited)), wild)
        await failing(room)
        now, other = room.clock(), structs.replace(wild, model="other")
        assert not room.fleet.standing_of(wild).available(now)
        assert room.fleet.standing_of(other).available(now)

    run_virtual(work)


def test_nothing_that_a_client_wrote_comes_back_in_a_header() -> None:
    async def work() -> None:
        wild = Target("a", "evil\r\nx-injected: 1", name="modèle/*")
        room = Room(ScriptedService(Act(), fails(AttemptFailed(DNS_FAILED))), wild)
        stream = await room.exchange()
        failed = await failing(room)
        for headers in (stream.head.headers, failed.headers):
            assert dict(headers)[b"x-tidegate-target"] == b"a/mod?le/*"

    run_virtual(work)


def scripted(**scripts: Sequence[Act]) -> ByProvider:
    return ByProvider(**{name: ScriptedService(*script) for name, script in scripts.items()})


def test_what_a_provider_said_is_told_rather_than_what_was_never_sent_after_it() -> None:
    async def work() -> None:
        inner = scripted(
            a=[fails(AttemptFailed(BAD_FRAME, "nonsense"))], b=[fails(AttemptFailed(QUEUE_FULL), sent=False)]
        )
        failed = await failing(Room(inner, A, B))
        assert (failed.verdict, failed.message) == (BAD_FRAME, "nonsense")
        assert said(failed)[b"x-tidegate-target"] == b"b/m"

    run_virtual(work)


def test_of_what_was_never_sent_the_last_is_told() -> None:
    async def work() -> None:
        inner = scripted(
            a=[fails(AttemptFailed(QUEUE_FULL), sent=False)], b=[fails(AttemptFailed(BREAKER_OPEN), sent=False)]
        )
        failed = await failing(Room(inner, A, B))
        assert failed.verdict is BREAKER_OPEN

    run_virtual(work)


def test_of_what_was_sent_the_last_is_told() -> None:
    async def work() -> None:
        inner = scripted(
            a=[fails(AttemptFailed(CONNECT_REFUSED), sent=False)], b=[fails(AttemptFailed(UPSTREAM_FAILED), after_s=1.0)],
            c=[fails(AttemptFailed(BAD_FRAME))],
        )  # fmt: skip
        failed = await failing(Room(inner, A, B, C))
        assert failed.verdict is BAD_FRAME

    run_virtual(work)


def test_when_no_target_can_be_asked_no_attempt_is_made() -> None:
    async def work() -> None:
        inner = ScriptedService()
        room = Room(inner, A, B)
        for target in (A, B):
            room.state(target).cool(room.clock() + 9)
        admitted = room.admitted()
        with pytest.raises(AttemptFailed) as caught:
            await room.exchange(admitted)
        assert (caught.value.verdict, caught.value.status) == (UPSTREAM_RATE_LIMITED, 429)
        assert int(said(caught.value)[b"retry-after"]) >= 9
        assert admitted.arrival.outcome.attempts == []
        assert inner.visits == []

    run_virtual(work)


# --- what is left behind ---------------------------------------------------------------------------------------------


class Failing:
    """A service that fails with errors that nobody else keeps."""

    def __init__(self) -> None:
        self.errors: list[weakref.ref[AttemptFailed]] = []

    @asynccontextmanager
    async def open(self, ask: Attempt, /) -> AsyncIterator[Stream]:
        ask.record.sent_at = asyncio.get_running_loop().time()
        await asyncio.sleep(2.0 if ask.target == A else 0.5)
        failed = AttemptFailed(UPSTREAM_FAILED)
        self.errors.append(weakref.ref(failed))
        try:
            raise failed
        finally:
            del failed
        yield


@pytest.mark.parametrize("hedge_after_s", [0.0, 1.0], ids=["one by one", "hedged"])
def test_a_failed_exchange_leaves_nothing_for_the_garbage_collector(hedge_after_s: float) -> None:
    async def work() -> None:
        inner = Failing()
        room = Room(inner, A, B, model={"hedge_after_s": hedge_after_s})
        gc.collect()
        gc.disable()
        try:
            with pytest.raises(AttemptFailed):
                await room.exchange()
            await asyncio.sleep(0)
            assert len(inner.errors) > 2
            assert [error for error in inner.errors if error() is not None] == []
        finally:
            gc.enable()

    run_virtual(work)


def test_records_are_one_for_each_attempt_and_none_is_without_a_verdict() -> None:
    async def work() -> None:
        room = Room(ScriptedService(fails(AttemptFailed(UPSTREAM_FAILED)), Act()), A)
        admitted = room.admitted()
        await room.exchange(admitted)
        records: list[AttemptRecord] = admitted.arrival.outcome.attempts
        assert len({id(record) for record in records}) == 2
        assert all(record.verdict is not None for record in records)

    run_virtual(work)
