"""One attempt: what it takes, what it teaches, and the one verdict it has in the end."""

import asyncio

import pytest

from dispatching import WALL_S, A, Settings, fails, fleet_of
from tidegate.dispatch.fleet import PENALTY_S, TargetState
from tidegate.dispatch.trial import Trial, asked_wait_s
from tidegate.exchange import Admitted, Attempt, Ending
from tidegate.testing.clock import run_virtual
from tidegate.testing.services import Act, ScriptedService, admitted_at
from tidegate.verdict import (
    BAD_REQUEST,
    BUG,
    CANCELLED,
    CLIENT_GONE,
    COMPLETED,
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    DNS_FAILED,
    FIRST_TOKEN_TIMEOUT,
    QUEUE_FULL,
    UPSTREAM_FAILED,
    UPSTREAM_RATE_LIMITED,
    AttemptFailed,
    Refused,
    Verdict,
)


class Trying:
    """A trial of a scripted service. To be made in a loop."""

    def __init__(self, act: Act) -> None:
        self.clock = asyncio.get_running_loop().time
        self.inner = ScriptedService(act)
        self.admitted: Admitted = admitted_at(self.clock(), A)
        self.state: TargetState = fleet_of([A], Settings())[A.key]
        self.trial = Trial(self.inner, self.admitted, A, self.state, (self.clock, self.wall), again=True, hedge=True)

    def wall(self) -> float:
        return WALL_S

    @property
    def attempt(self) -> Attempt:
        return self.inner.visits[0].attempt

    async def fails(self, error: type[BaseException]) -> Verdict | None:
        """Open, and fail; gives the attempt's verdict."""
        with pytest.raises(error):
            await self.trial.open()
        assert self.state.in_flight == 0
        assert self.trial.record.ended_at == self.clock()
        return self.trial.record.verdict


def test_an_attempt_knows_its_target_and_is_recorded_before_it_begins() -> None:
    async def work() -> None:
        trying = Trying(Act())
        assert trying.admitted.arrival.outcome.attempts == [trying.trial.record]
        assert trying.attempt.record is trying.trial.record
        assert trying.attempt.target is A
        assert trying.attempt.again
        assert trying.trial.record.hedge
        assert trying.state.in_flight == 0

    run_virtual(work)


def test_a_target_learns_from_the_time_to_the_first_content() -> None:
    async def work() -> None:
        trying = Trying(Act(stall_s=0.7))
        trying.state.compared = True
        await trying.trial.open()
        assert trying.state.in_flight == 1
        assert trying.state.cost(trying.clock()) == pytest.approx(2 * 0.7)
        await trying.trial.close()
        assert trying.state.in_flight == 0
        assert trying.state.cost(trying.clock()) == pytest.approx(0.7)

    run_virtual(work)


@pytest.mark.parametrize(
    ("act", "cost"),
    [
        (fails(AttemptFailed(UPSTREAM_FAILED)), PENALTY_S),
        (fails(AttemptFailed(FIRST_TOKEN_TIMEOUT), after_s=9.0), 9.0),
        (fails(AttemptFailed(CONNECT_REFUSED), sent=False), PENALTY_S),
        (fails(AttemptFailed(CONNECT_TIMEOUT), after_s=9.0, sent=False), 9.0),
        (fails(AttemptFailed(QUEUE_FULL), sent=False), 0.0),
        (fails(AttemptFailed(UPSTREAM_RATE_LIMITED)), 0.0),
        (fails(LookupError()), 0.0),
    ],
    ids=["quick", "slow", "refused", "unreachable", "queue", "429", "bug"],
)
def test_a_target_learns_from_failures_of_its_own(act: Act, cost: float) -> None:
    async def work() -> None:
        trying = Trying(act)
        with pytest.raises(Exception):  # noqa: B017 (whichever it is)
            await trying.trial.open()
        assert trying.state.cost(trying.clock()) == cost

    run_virtual(work)


def test_time_in_the_queue_is_not_the_target_s() -> None:
    async def work() -> None:
        trying = Trying(fails(AttemptFailed(CONNECT_TIMEOUT), after_s=9.0, sent=False))
        trying.trial.record.queued_s = 5.0
        await trying.fails(AttemptFailed)
        assert trying.state.cost(trying.clock()) == 4.0

    run_virtual(work)


@pytest.mark.parametrize("sent", [True, False])
def test_a_target_learns_from_a_race_that_it_lost_how_long_it_takes_at_least(*, sent: bool) -> None:
    async def work() -> None:
        trying = Trying(Act(stall_s=60.0, sent=sent))
        task = asyncio.get_running_loop().create_task(trying.fails(asyncio.CancelledError))
        await asyncio.sleep(3.0)
        trying.trial.lose()
        task.cancel()
        assert await task is CANCELLED
        assert trying.state.cost(trying.clock()) == (3.0 if sent else 0.0)

    run_virtual(work)


def test_a_failure_that_came_before_the_race_was_lost_is_learned_once() -> None:
    async def work() -> None:
        trying = Trying(fails(AttemptFailed(UPSTREAM_FAILED), after_s=2.0))
        await trying.fails(AttemptFailed)
        trying.trial.lose()
        assert trying.state.cost(trying.clock()) == 2.0
        assert trying.trial.record.verdict is UPSTREAM_FAILED

    run_virtual(work)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(AttemptFailed(DNS_FAILED), DNS_FAILED), (Refused(BAD_REQUEST), BAD_REQUEST), (LookupError(), BUG), (TimeoutError(), BUG)],
    ids=repr,
)  # fmt: skip
def test_an_attempt_that_does_not_open_has_the_verdict_of_what_came_out(error: Exception, verdict: Verdict) -> None:
    async def work() -> None:
        assert await Trying(fails(error)).fails(type(error)) is verdict

    run_virtual(work)


def test_an_attempt_that_is_cancelled_while_it_opens_is_cancelled() -> None:
    async def work() -> None:
        trying = Trying(Act(stall_s=10.0))
        task = asyncio.get_running_loop().create_task(trying.fails(asyncio.CancelledError))
        await asyncio.sleep(1.0)
        assert trying.state.in_flight == 1
        task.cancel()
        assert await task is CANCELLED

    run_virtual(work)


def test_a_verdict_is_written_once() -> None:
    async def work() -> None:
        trying = Trying(fails(AttemptFailed(UPSTREAM_FAILED)))
        trying.trial.record.verdict = CANCELLED
        assert await trying.fails(AttemptFailed) is CANCELLED
        trying = Trying(Act())
        await trying.trial.open()
        trying.trial.record.verdict = CANCELLED
        trying.admitted.arrival.outcome.end(Ending(COMPLETED), trying.clock())
        await trying.trial.close()
        assert trying.trial.record.verdict is CANCELLED

    run_virtual(work)


@pytest.mark.parametrize(
    ("ending", "error", "verdict"),
    [
        (COMPLETED, None, COMPLETED),
        (CLIENT_GONE, asyncio.CancelledError(), CLIENT_GONE),
        (None, asyncio.CancelledError(), CANCELLED),
        (None, LookupError(), BUG),
        (None, None, None),
    ],
    ids=["well", "left", "cancelled", "bug", "nothing said"],
)
def test_an_attempt_that_opened_ends_as_the_exchange_does(
    ending: Verdict | None, error: BaseException | None, verdict: Verdict | None
) -> None:
    async def work() -> None:
        trying = Trying(Act())
        await trying.trial.open()
        if ending is not None:
            trying.admitted.arrival.outcome.end(Ending(ending), trying.clock())
        await asyncio.sleep(3.0)
        await trying.trial.close(type(error) if error else None, error, None)
        assert trying.trial.record.verdict is verdict
        assert trying.trial.record.ended_at == trying.clock()
        assert trying.inner.visits[0].thrown == [error]
        assert trying.state.in_flight == 0

    run_virtual(work)


def test_a_bug_in_the_exit_gives_back_what_was_held() -> None:
    class Broken(ScriptedService):
        def open(self, ask: Attempt, /) -> "Broken":  # type: ignore[override]
            return self

        async def __aenter__(self) -> object:
            return object()

        async def __aexit__(self, *_: object) -> None:
            raise LookupError

    async def work() -> None:
        clock = asyncio.get_running_loop().time
        state = fleet_of([A])[A.key]
        trial = Trial(Broken(), admitted_at(clock(), A), A, state, (clock, clock))  # type: ignore[arg-type]
        await trial.open()
        assert state.in_flight == 1
        with pytest.raises(LookupError):
            await trial.close()
        assert state.in_flight == 0
        assert trial.record.ended_at == clock()

    run_virtual(work)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ((), 0.0),
        (((b"retry-after", b"3"),), 3.0),
        (((b"date", b"x"), (b"retry-after", b"Tue, 14 Nov 2023 22:13:25 GMT"), (b"retry-after", b"9")), 5.0),
        (((b"retry-after", b"never"),), 0.0),
    ],
)
def test_the_first_retry_after_is_read(headers: tuple[tuple[bytes, bytes], ...], seconds: float) -> None:
    assert asked_wait_s(AttemptFailed(UPSTREAM_FAILED, headers=headers), WALL_S) == seconds
