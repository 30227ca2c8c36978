"""Every layer of dispatch, and the whole of it, keeps what is promised of layers: each way in and out, cancelled at each await."""

from collections.abc import Callable
from random import Random

import pytest
from msgspec import structs

from dispatching import A, B, Counted, Room, Settings
from tidegate.dispatch.breaker import Breaker, breaking
from tidegate.dispatch.deadlines import deadlines
from tidegate.dispatch.service import Layer, Service
from tidegate.dispatch.settings import BreakerSettings, RetryBudgetSettings, RetrySettings, SlotSettings
from tidegate.dispatch.slots import Slots, slotting
from tidegate.exchange import Admitted, Attempt, Timeouts
from tidegate.testing.services import Act, admitted_at, attempt_at, check_service
from tidegate.verdict import (
    CONNECT_REFUSED,
    DNS_FAILED,
    FIRST_TOKEN_TIMEOUT,
    UPSTREAM_FAILED,
    UPSTREAM_RATE_LIMITED,
    AttemptFailed,
)

Clock = Callable[[], float]


def test_slots() -> None:
    lent: list[Slots] = []

    def make(clock: Clock) -> Layer:
        lent[:] = [Slots(SlotSettings(max_streams=1)), Slots(SlotSettings(max_streams=2))]
        return slotting(lambda _: lent, Counted(), clock, Random(1))

    check_service(make, attempt_at, quiet=lambda: all(not slots.in_use and not slots.waiting for slots in lent))


def test_slots_for_which_nobody_waits_long() -> None:
    lent: list[Slots] = []

    def make(clock: Clock) -> Layer:
        lent[:] = [Slots(SlotSettings(max_streams=1, max_queue=1, max_queue_wait_s=0.5))]
        return slotting(lambda _: lent, Counted(), clock, Random(1))

    check_service(make, attempt_at, quiet=lambda: all(not slots.in_use and not slots.waiting for slots in lent))


@pytest.mark.parametrize("half_open", [False, True])
def test_a_breaker(*, half_open: bool) -> None:
    breakers: list[Breaker] = []

    def make(clock: Clock) -> Layer:
        breaker = Breaker(BreakerSettings(failures=1, open_for_s=10.0, probes=2))
        breakers[:] = [breaker]
        if half_open:
            permit = breaker.admit(clock() - 10)
            assert permit is not None
            breaker.failed(permit, CONNECT_REFUSED, clock() - 10)
        return breaking(lambda _: breaker, clock, Random(1))

    check_service(make, attempt_at, quiet=lambda: breakers[0]._probing == 0)


@pytest.mark.parametrize(
    "timeouts",
    [
        Timeouts(connect_s=0, headers_s=0, first_token_s=0, total_s=0),
        Timeouts(),
        Timeouts(connect_s=0.1, headers_s=0.1, first_token_s=0.1),
        Timeouts(connect_s=0.25, headers_s=0.25, first_token_s=0.25),
    ],
    ids=["off", "far", "near", "in the same instant"],
)
def test_deadlines(timeouts: Timeouts) -> None:
    check_service(deadlines, lambda now: attempt_at(now, timeouts), scripts=[(Act(stall_s=0.25, sent=False),)])


class Turning:
    """Makes turns, each with a fleet of its own. Shape: `room` is the last one's."""

    def __init__(
        self, settings: Settings, *, hedges: bool = False, layered: bool = True, deadline_s: float = 0.0
    ) -> None:
        self._settings = settings
        self._model = {"hedge_after_s": 0.1 * hedges}
        self._layered = layered
        self._deadline_s = deadline_s
        self.room: Room | None = None

    def __call__(self, clock: Clock) -> Callable[[Service[Attempt]], Service[Admitted]]:
        def turn(inner: Service[Attempt]) -> Service[Admitted]:
            self.room = Room(inner, A, B, settings=self._settings, model=self._model, clock=clock)
            return self.room.service if self._layered else self.room.turn(inner)

        return turn

    def ask(self, now: float) -> Admitted:
        """Give an exchange for the room's model."""
        assert self.room is not None
        return structs.replace(
            admitted_at(now), model=self.room.model, deadline=now + self._deadline_s if self._deadline_s else 0.0
        )

    def quiet(self) -> bool:
        """Say that nothing is held."""
        assert self.room is not None
        return not self.room.held()


QUICK = RetrySettings(max_attempts=2, initial_delay_s=0.1)
FAILING = [
    (Act(stall_s=0.25, raises=AttemptFailed(UPSTREAM_FAILED)),),
    (Act(raises=AttemptFailed(UPSTREAM_RATE_LIMITED, headers=((b"retry-after", b"2"),))), Act()),
    (Act(stall_s=0.25, raises=AttemptFailed(FIRST_TOKEN_TIMEOUT)), Act(stall_s=0.25)),
    (Act(raises=AttemptFailed(DNS_FAILED), sent=False),),
    (Act(stall_s=0.25, raises=AttemptFailed(UPSTREAM_FAILED)), Act(raises=LookupError("a bug"))),
]


@pytest.mark.parametrize("hedges", [False, True], ids=["one by one", "hedged"])
@pytest.mark.parametrize(
    "settings",
    [
        Settings(retry=QUICK),
        Settings(retry=QUICK, slots=SlotSettings(max_streams=1)),
        Settings(retry=QUICK, budget=RetryBudgetSettings(rate_per_second=0, burst=1, ratio=0)),
        Settings(retry=QUICK, breaker=BreakerSettings(failures=1, open_for_s=0.3)),
    ],
    ids=["plain", "one slot", "one more attempt", "breaker"],
)
def test_the_whole_turn(settings: Settings, *, hedges: bool) -> None:
    turning = Turning(settings, hedges=hedges)
    check_service(turning, turning.ask, scripts=FAILING, quiet=turning.quiet, hedges=hedges)


@pytest.mark.parametrize("hedges", [False, True], ids=["one by one", "hedged"])
def test_the_turn_alone(*, hedges: bool) -> None:
    turning = Turning(Settings(retry=QUICK), hedges=hedges, layered=False)
    check_service(turning, turning.ask, scripts=FAILING, quiet=turning.quiet, hedges=hedges)


def test_a_turn_whose_time_is_up() -> None:
    turning = Turning(Settings(retry=QUICK, slots=SlotSettings(max_streams=1)), deadline_s=0.3)
    check_service(turning, turning.ask, scripts=FAILING, quiet=turning.quiet)
