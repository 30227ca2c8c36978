"""The layer that holds a slot for a stream, from before its opening to its end; several of them in a row."""

import asyncio
from random import Random

import pytest
from msgspec import structs

from dispatching import Counted, settle, slots, spawn
from tidegate.dispatch.service import Service
from tidegate.dispatch.slots import Slots, slotting
from tidegate.exchange import Attempt
from tidegate.testing.clock import run_virtual
from tidegate.testing.services import Act, ScriptedService, attempt_at
from tidegate.verdict import CONNECT_REFUSED, DEADLINE_EXCEEDED, QUEUE_FULL, QUEUE_TIMEOUT, AttemptFailed, Verdict


class Layered:
    """The layer around a scripted service. To be made in a loop."""

    def __init__(self, *lent: Slots, inner: ScriptedService | None = None) -> None:
        self.counts = Counted()
        self.inner = inner or ScriptedService()
        self.clock = asyncio.get_running_loop().time
        self.service: Service[Attempt] = slotting(lambda _: lent, self.counts, self.clock, Random(1))(self.inner)

    def attempt(self, *, again: bool = False, deadline: float = 0.0) -> Attempt:
        ask = attempt_at(self.clock())
        return structs.replace(ask, again=again, admitted=structs.replace(ask.admitted, deadline=deadline))

    async def hold(self, ask: Attempt | None = None, *, stay_s: float = 0.0) -> None:
        async with self.service.open(ask or self.attempt()):
            await asyncio.sleep(stay_s)


def test_a_slot_is_held_from_before_the_opening_to_the_end_of_the_stream() -> None:
    async def work() -> None:
        target = slots(1)
        layered = Layered(target, inner=ScriptedService(Act(stall_s=1.0)))
        task = spawn(layered.hold(stay_s=5.0))
        for _ in range(3):
            await asyncio.sleep(0.5)
            assert target.in_use == 1
        await asyncio.sleep(4.4)
        assert target.in_use == 1
        await task
        assert target.in_use == 0
        assert layered.counts.waits == []

    run_virtual(work)


def test_without_slots_the_layer_is_not_there() -> None:
    async def work() -> None:
        layered = Layered()
        alone = layered.inner.open(layered.attempt())
        assert type(layered.service.open(layered.attempt())) is type(alone)

    run_virtual(work)


def test_nothing_is_asked_of_the_provider_before_there_is_a_slot_and_the_wait_is_known() -> None:
    async def work() -> None:
        layered = Layered(slots(1))
        holder = spawn(layered.hold(stay_s=3.0))
        await settle()
        ask = layered.attempt()
        waiter = spawn(layered.hold(ask))
        await asyncio.sleep(2.9)
        assert [visit.entries for visit in layered.inner.visits] == [1, 0]
        await waiter
        assert [visit.entries for visit in layered.inner.visits] == [1, 1]
        assert ask.record.queued_s == pytest.approx(3.0)
        assert layered.counts.waits == [pytest.approx(3.0)]
        assert not layered.counts.seen
        await holder

    run_virtual(work)


def refused(counts: Counted, reason: str) -> bool:
    return counts.seen == {("rejected", "main", reason): 1}


@pytest.mark.parametrize("max_queue", [0, 2])
def test_a_full_queue_is_a_503_at_once(max_queue: int) -> None:
    async def work() -> None:
        target = slots(1, max_queue=max_queue)
        layered = Layered(target)
        tasks = [spawn(layered.hold(stay_s=1.0)) for _ in range(1 + max_queue)]
        await settle()
        began = layered.clock()
        with pytest.raises(AttemptFailed) as caught:
            await layered.hold()
        assert (caught.value.verdict, caught.value.status) == (QUEUE_FULL, 503)
        assert caught.value.headers[0][0] == b"retry-after"
        assert int(caught.value.headers[0][1]) in {1, 2}
        assert layered.clock() == began
        assert refused(layered.counts, "full")
        await asyncio.gather(*tasks)
        assert (target.in_use, target.waiting) == (0, 0)

    run_virtual(work)


def test_who_tries_again_waits_even_where_the_queue_is_full_and_goes_first() -> None:
    async def work() -> None:
        target, order = slots(1, max_queue=1), list[str]()
        layered = Layered(target)

        async def held(name: str, ask: Attempt) -> None:
            async with layered.service.open(ask):
                order.append(name)
                await asyncio.sleep(1.0)

        asks = {"first": layered.attempt(), "new": layered.attempt(), "again": layered.attempt(again=True)}
        tasks = []
        for name, ask in asks.items():
            tasks.append(spawn(held(name, ask)))
            await settle()
        await asyncio.gather(*tasks)
        assert order == ["first", "again", "new"]

    run_virtual(work)


@pytest.mark.parametrize(
    ("max_queue_wait_s", "deadline_s", "waits_s", "verdict"),
    [
        (2.0, 0.0, 2.0, QUEUE_TIMEOUT),
        (0.0, 3.0, 3.0, DEADLINE_EXCEEDED),
        (2.0, 3.0, 2.0, QUEUE_TIMEOUT),
        (4.0, 3.0, 3.0, DEADLINE_EXCEEDED),
        (4.0, -1.0, 0.0, DEADLINE_EXCEEDED),
    ],
    ids=["queue", "deadline alone", "queue is shorter", "deadline is shorter", "deadline has passed"],
)
def test_nobody_waits_longer_than_the_queue_or_the_exchange_allows(
    max_queue_wait_s: float, deadline_s: float, waits_s: float, verdict: Verdict
) -> None:
    async def work() -> None:
        target = slots(1, max_queue_wait_s=max_queue_wait_s)
        layered = Layered(target)
        holder = spawn(layered.hold(stay_s=100.0))
        await settle()
        began = layered.clock()
        with pytest.raises(AttemptFailed) as caught:
            await layered.hold(layered.attempt(deadline=began + deadline_s if deadline_s else 0.0))
        assert (caught.value.verdict, caught.value.status) == (verdict, verdict.status)
        assert layered.clock() - began == pytest.approx(waits_s)
        asks_back = [b"retry-after"] if verdict is QUEUE_TIMEOUT else []  # nobody can keep a deadline that has passed
        assert [name for name, _ in caught.value.headers] == asks_back
        assert refused(layered.counts, "deadline")
        assert (target.in_use, target.waiting) == (1, 0)
        assert layered.counts.waits == []
        await holder

    run_virtual(work)


def test_without_any_limit_to_the_wait_it_lasts() -> None:
    async def work() -> None:
        layered = Layered(slots(1))
        holder = spawn(layered.hold(stay_s=86_400.0))
        await settle()
        await layered.hold()
        assert layered.counts.waits == [pytest.approx(86_400.0)]
        await holder

    run_virtual(work)


def test_a_slot_that_comes_as_the_wait_ends_is_not_lost() -> None:
    async def work() -> None:
        target = slots(1, max_queue_wait_s=1.0)
        layered = Layered(target)
        outcomes: list[BaseException | None] = []
        for early_s in (0.0, 1e-9):
            holder = spawn(layered.hold(stay_s=1.0 - early_s))
            await settle()
            (outcome,) = await asyncio.gather(layered.hold(), return_exceptions=True)
            outcomes.append(outcome)
            await holder
            assert (target.in_use, target.waiting) == (0, 0)
        assert all(outcome is None or isinstance(outcome, AttemptFailed) for outcome in outcomes)

    run_virtual(work)


def test_who_is_cancelled_while_waiting_is_gone() -> None:
    async def work() -> None:
        target = slots(1)
        layered = Layered(target)
        holder = spawn(layered.hold(stay_s=5.0))
        await settle()
        waiter = spawn(layered.hold())
        await asyncio.sleep(1.0)
        assert target.waiting == 1
        waiter.cancel()
        await asyncio.wait((waiter,))
        assert waiter.cancelled()
        assert (target.in_use, target.waiting) == (1, 0)
        assert refused(layered.counts, "gone")
        await holder

    run_virtual(work)


# --- two slots -------------------------------------------------------------------------------------------------------


def test_both_slots_are_taken_in_order_and_given_back() -> None:
    async def work() -> None:
        narrow, wide = slots(1), slots(2)
        layered = Layered(narrow, wide)
        tasks = [spawn(layered.hold(stay_s=1.0)) for _ in range(2)]
        await settle()
        assert (narrow.in_use, narrow.waiting, wide.in_use, wide.waiting) == (1, 1, 1, 0)
        await asyncio.gather(*tasks)
        assert (narrow.in_use, wide.in_use) == (0, 0)

    run_virtual(work)


@pytest.mark.parametrize(("cancels", "error"), [(True, asyncio.CancelledError), (False, AttemptFailed)])
def test_who_does_not_get_the_second_slot_gives_the_first_back(*, cancels: bool, error: type[BaseException]) -> None:
    async def work() -> None:
        narrow, wide = slots(1), slots(1, max_queue_wait_s=1.0)
        assert wide.take_nowait()
        task = spawn(Layered(narrow, wide).hold())
        await asyncio.sleep(0.5)
        assert (narrow.in_use, wide.waiting) == (1, 1)
        if cancels:
            task.cancel()
        with pytest.raises(error):
            await task
        assert (narrow.in_use, narrow.waiting) == (0, 0)
        assert (wide.in_use, wide.waiting) == (1, 0)

    run_virtual(work)


@pytest.mark.parametrize(
    "error", [AttemptFailed(CONNECT_REFUSED), LookupError("a bug"), asyncio.CancelledError()], ids=["fault", "bug", "cancelled"]
)  # fmt: skip
def test_both_are_given_back_whatever_comes_out_of_the_opening(error: BaseException) -> None:
    async def work() -> None:
        narrow, wide = slots(1), slots(1)
        layered = Layered(narrow, wide, inner=ScriptedService(Act(raises=error)))
        with pytest.raises(type(error)):
            await layered.hold()
        assert (narrow.in_use, wide.in_use) == (0, 0)

    run_virtual(work)


@pytest.mark.parametrize("error", [LookupError("a bug"), asyncio.CancelledError()], ids=["bug", "cancelled"])
def test_both_are_given_back_whatever_comes_out_of_the_stream(error: BaseException) -> None:
    async def work() -> None:
        narrow, wide = slots(1), slots(1)
        layered = Layered(narrow, wide)
        with pytest.raises(type(error)):
            async with layered.service.open(layered.attempt()):
                raise error
        assert (narrow.in_use, wide.in_use) == (0, 0)

    run_virtual(work)


def test_slots_that_are_replaced_while_one_is_held_are_given_back_to_whom_they_belong() -> None:
    async def work() -> None:
        old, new = slots(1), slots(1)
        lent = [old]
        inner = ScriptedService()
        clock = asyncio.get_running_loop().time
        service = slotting(lambda _: tuple(lent), Counted(), clock, Random(1))(inner)
        async with service.open(attempt_at(clock())):
            lent[:] = [new]
            async with service.open(attempt_at(clock())):
                assert (old.in_use, new.in_use) == (1, 1)
        assert (old.in_use, new.in_use) == (0, 0)

    run_virtual(work)
