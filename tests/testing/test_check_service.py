"""The published conformance check passes sound layers and finds each way to break a promise."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Generic

import pytest
from msgspec import structs

from tidegate.dispatch.deadlines import deadlines
from tidegate.dispatch.service import Service
from tidegate.exchange import Admitted, Attempt, AttemptRecord, Stream, Timeouts
from tidegate.tasks import Tasks
from tidegate.testing.clock import run_virtual
from tidegate.testing.services import Act, Asked, Make, ScriptedService, admitted_at, attempt_at, check_service
from tidegate.verdict import CONNECT_TIMEOUT, HEADERS_TIMEOUT, UPSTREAM_FAILED, AttemptFailed

Opening = AsyncIterator[Stream]
STALLS = ((Act(stall_s=30),), (Act(stall_s=30, sent=False),))


class Layered(Generic[Asked]):
    """A service made of a generator function."""

    def __init__(
        self,
        opening: Callable[[Service[Attempt], Asked], AbstractAsyncContextManager[Stream]],
        inner: Service[Attempt],
    ) -> None:
        self._opening = opening
        self._inner = inner

    def open(self, ask: Asked, /) -> AbstractAsyncContextManager[Stream]:
        return self._opening(self._inner, ask)


def making(opening: Callable[[Service[Attempt], Asked], Opening]) -> Make[Asked]:
    """Give what `check_service` takes, of a generator function."""
    context = asynccontextmanager(opening)
    return lambda clock: lambda inner: Layered(context, inner)


def another(admitted: Admitted) -> Attempt:
    """Give a new attempt of an exchange."""
    record = AttemptRecord("main", "scripted", asyncio.get_running_loop().time())
    admitted.arrival.outcome.attempts.append(record)
    return Attempt(admitted, admitted.model.targets[0], record)


# --- sound ones ------------------------------------------------------------------------------------------------------


class Slots:
    """One slot and who waits for it. Shape: `careful` gives back what comes in the moment of a cancellation."""

    def __init__(self, *, careful: bool) -> None:
        self._careful = careful
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.used = False

    async def wait_taken(self) -> None:
        if not self.used:
            self.used = True
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif self._careful:
                self.give_back()
            raise

    def give_back(self) -> None:
        self.used = bool(self._waiting)
        if self._waiting:
            self._waiting.popleft().set_result(None)


def slotting(slots: Slots) -> Make[Attempt]:
    async def opening(inner: Service[Attempt], ask: Attempt) -> Opening:
        await slots.wait_taken()
        try:
            async with inner.open(ask) as stream:
                yield stream
        finally:
            slots.give_back()

    return making(opening)


async def retrying(inner: Service[Attempt], ask: Admitted) -> Opening:
    async with AsyncExitStack() as stack:
        try:
            stream = await stack.enter_async_context(inner.open(another(ask)))
        except AttemptFailed:
            await asyncio.sleep(2)
            stream = await stack.enter_async_context(inner.open(another(ask)))
        yield stream


async def hedging(inner: Service[Attempt], ask: Admitted) -> Opening:
    """Open two attempts, each in a task of its own, and give the stream of whichever opens first."""
    released = asyncio.Event()

    async def attempts(opened: asyncio.Future[Stream]) -> None:
        try:
            async with inner.open(another(ask)) as stream:
                opened.set_result(stream)
                await released.wait()
        except (AttemptFailed, LookupError) as error:
            opened.set_exception(error)
        finally:
            opened.cancel()

    loop, tasks = asyncio.get_running_loop(), Tasks()
    results: list[asyncio.Future[Stream]] = [loop.create_future() for _ in range(2)]
    runs = [tasks.spawn(attempts(result)) for result in results]
    try:
        await asyncio.wait(results, return_when=asyncio.FIRST_COMPLETED)
        winner = next(number for number, result in enumerate(results) if result.done())
        runs[1 - winner].cancel()
        await asyncio.wait([runs[1 - winner]])
        try:
            yield results[winner].result()
        finally:
            released.set()
            await asyncio.wait(runs)
    finally:
        await tasks.close()
        for result in results:
            if not result.cancelled():
                result.exception()


def timed_attempt(now: float) -> Attempt:
    return attempt_at(now, Timeouts(connect_s=10, headers_s=5, first_token_s=20))


def test_a_sound_layer_passes() -> None:
    check_service(deadlines, attempt_at)
    check_service(deadlines, timed_attempt, scripts=STALLS)


def test_a_sound_layer_that_hands_slots_on_passes() -> None:
    slots = Slots(careful=True)
    check_service(slotting(slots), attempt_at, quiet=lambda: not slots.used)


def test_a_sound_turn_of_several_attempts_passes() -> None:
    check_service(making(retrying), admitted_at)


def test_a_sound_turn_of_attempts_beside_each_other_passes_where_it_is_told_so() -> None:
    scripts = ((Act(stall_s=1), Act(stall_s=2)), (Act(stall_s=2), Act(stall_s=1)))
    check_service(making(hedging), admitted_at, scripts=scripts, hedges=True)
    with pytest.raises(AssertionError, match="broken promise: an attempt is over before the next begins"):
        check_service(making(hedging), admitted_at)


# --- layers that break a promise -------------------------------------------------------------------------------------


async def swallowing(inner: Service[Attempt], ask: Attempt) -> Opening:
    async with inner.open(ask) as stream:
        with suppress(LookupError):
            yield stream


async def exiting_twice(inner: Service[Attempt], ask: Attempt) -> Opening:
    context = inner.open(ask)
    async with context as stream:
        yield stream
        await context.__aexit__(None, None, None)


async def not_exiting(inner: Service[Attempt], ask: Attempt) -> Opening:
    yield await inner.open(ask).__aenter__()


async def waiting_unguarded(inner: Service[Attempt], ask: Attempt) -> Opening:
    context = inner.open(ask)
    stream = await context.__aenter__()
    await asyncio.sleep(0)
    async with AsyncExitStack() as stack:
        stack.push_async_exit(context)
        yield stream


async def exiting_what_failed(inner: Service[Attempt], ask: Attempt) -> Opening:
    context = inner.open(ask)
    async with AsyncExitStack() as stack:
        stack.push_async_exit(context)
        yield await context.__aenter__()


async def entering_twice(inner: Service[Attempt], ask: Attempt) -> Opening:
    context = inner.open(ask)
    async with context:
        yield await context.__aenter__()


async def hiding_errors(inner: Service[Attempt], ask: Attempt) -> Opening:
    context = inner.open(ask)
    stream = await context.__aenter__()
    try:
        yield stream
    finally:
        await context.__aexit__(None, None, None)


async def keeping_a_timeout(inner: Service[Attempt], ask: Attempt) -> Opening:
    async with asyncio.timeout(60), inner.open(ask) as stream:
        yield stream


VARIABLE: ContextVar[int] = ContextVar("variable")


async def keeping_a_variable(inner: Service[Attempt], ask: Attempt) -> Opening:
    token = VARIABLE.set(1)
    try:
        async with inner.open(ask) as stream:
            yield stream
    finally:
        VARIABLE.reset(token)


async def leaving_a_timer(inner: Service[Attempt], ask: Attempt) -> Opening:
    async with inner.open(ask) as stream:
        yield stream
    asyncio.get_running_loop().call_later(60, int)


async def leaving_a_task(inner: Service[Attempt], ask: Attempt) -> Opening:
    async with inner.open(ask) as stream:
        Tasks().start(asyncio.Event().wait())
        yield stream


async def leaving_in_another_task(inner: Service[Attempt], ask: Attempt) -> Opening:
    context = inner.open(ask)
    stream = await Tasks().spawn(entered(context))
    async with AsyncExitStack() as stack:
        stack.push_async_exit(context)
        yield stream


async def entered(context: AbstractAsyncContextManager[Stream]) -> Stream:
    return await context.__aenter__()


async def converting_each_cancellation(inner: Service[Attempt], ask: Attempt) -> Opening:
    async with AsyncExitStack() as stack:
        try:
            stream = await stack.enter_async_context(inner.open(ask))
        except asyncio.CancelledError:
            raise AttemptFailed(CONNECT_TIMEOUT) from None
        yield stream


async def ignoring_cancellation(inner: Service[Attempt], ask: Attempt) -> Opening:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    async with inner.open(ask) as stream:
        yield stream


def late(*, takes_back: bool) -> Callable[[Service[Attempt], Attempt], Opening]:
    """Give a deadline that does not look whether somebody else has cancelled, too."""

    async def opening(inner: Service[Attempt], ask: Attempt) -> Opening:
        task, expired = asyncio.current_task(), asyncio.Event()
        assert task is not None

        def fire() -> None:
            expired.set()
            task.cancel()

        timer = asyncio.get_running_loop().call_later(10, fire)
        async with AsyncExitStack() as stack:
            try:
                stream = await stack.enter_async_context(inner.open(ask))
            except asyncio.CancelledError:
                if not expired.is_set():
                    raise
                if takes_back:
                    task.uncancel()
                raise AttemptFailed(HEADERS_TIMEOUT) from None
            finally:
                timer.cancel()
            yield stream

    return opening


async def disguising_bugs(inner: Service[Attempt], ask: Attempt) -> Opening:
    async with AsyncExitStack() as stack:
        try:
            stream = await stack.enter_async_context(inner.open(ask))
        except LookupError:
            raise AttemptFailed(UPSTREAM_FAILED) from None
        yield stream


async def renaming_faults(inner: Service[Attempt], ask: Attempt) -> Opening:
    async with AsyncExitStack() as stack:
        try:
            stream = await stack.enter_async_context(inner.open(ask))
        except AttemptFailed as failed:
            raise ConnectionError from failed
        yield stream


async def repeating_an_attempt(inner: Service[Attempt], ask: Attempt) -> Opening:
    async with AsyncExitStack() as stack:
        try:
            stream = await stack.enter_async_context(inner.open(ask))
        except AttemptFailed:
            stream = await stack.enter_async_context(inner.open(ask))
        yield stream


async def copying_the_stream(inner: Service[Attempt], ask: Attempt) -> Opening:
    async with inner.open(ask) as stream:
        yield structs.replace(stream)


async def giving_what_is_over(inner: Service[Attempt], ask: Attempt) -> Opening:
    async with inner.open(ask) as stream:
        pass
    yield stream


async def never_opening(inner: Service[Attempt], ask: Attempt) -> Opening:
    await asyncio.get_running_loop().create_future()
    async with inner.open(ask) as stream:
        yield stream


@pytest.mark.parametrize(
    ("opening", "promise"),
    [
        (swallowing, r"what is thrown into an open stream comes out, and nothing else does: it became None"),
        (exiting_twice, "what was opened is exited exactly once: there were 2"),
        (not_exiting, "what was opened is exited exactly once: there were 0"),
        (waiting_unguarded, r"what was opened is exited exactly once: there were 0.*cancelled at await 2"),
        (exiting_what_failed, "what did not open is not exited"),
        (entering_twice, "an opening is entered once"),
        (hiding_errors, r"what is thrown into an open stream reaches what is inside: LookupError\('a bug'\) became None"),
        (keeping_a_timeout, "no timer is left once a stream is open"),
        (keeping_a_variable, "no layer keeps a context variable set"),
        (leaving_a_timer, "no timer is left behind"),
        (leaving_a_task, "no task is left behind"),
        (leaving_in_another_task, "an attempt is left by the task that entered it"),
        (converting_each_cancellation, r"a cancellation from outside goes through: it became AttemptFailed"),
        (ignoring_cancellation, r"a cancellation from outside goes through: it became None.*cancelled at await 1"),
        (late(takes_back=True), r"a cancellation from outside goes through.*takes 30 s.*when what it waits for has come"),
        (late(takes_back=False), "a layer takes back its own cancellations and nobody else's: 1 are left"),
        (disguising_bugs, "a bug goes through as it is: it became AttemptFailed"),
        (renaming_faults, r"an opening gives a stream or raises a Fault: it raised ConnectionError"),
        (repeating_an_attempt, "an attempt is opened once: another try is another attempt"),
        (copying_the_stream, "a stream goes out as it came"),
        (giving_what_is_over, "a stream goes out while it is open"),
        (never_opening, r"every exchange comes to an end.*no timer is set"),
    ],
)  # fmt: skip
def test_a_layer_that_breaks_a_promise_is_found(
    opening: Callable[[Service[Attempt], Attempt], Opening], promise: str
) -> None:
    with pytest.raises(AssertionError, match=f"^broken promise: {promise}"):
        check_service(making(opening), attempt_at, scripts=STALLS)


def test_what_is_held_after_a_cancellation_alone_is_found() -> None:
    held: list[bool] = []

    async def leaking(inner: Service[Attempt], ask: Attempt) -> Opening:
        async with AsyncExitStack() as stack:
            held.append(True)
            try:
                stream = await stack.enter_async_context(inner.open(ask))
            except Exception:
                held.clear()
                raise
            stack.callback(held.clear)
            yield stream

    with pytest.raises(
        AssertionError, match=r"^broken promise: nothing is held afterwards.*cancelled at await 1 when it begins"
    ):
        check_service(making(leaking), attempt_at, quiet=lambda: not held)


def test_a_slot_that_is_lost_when_it_comes_in_the_moment_of_a_cancellation_is_found() -> None:
    with pytest.raises(
        AssertionError, match=r"^broken promise: every exchange comes to an end .*3 at a time.*has come"
    ):
        check_service(slotting(Slots(careful=False)), attempt_at)


# --- turns that break a promise --------------------------------------------------------------------------------------


async def yielding_inside_try(inner: Service[Attempt], ask: Admitted) -> Opening:
    for _ in range(2):
        try:
            async with inner.open(another(ask)) as stream:
                yield stream
        except AttemptFailed as failed:
            last = failed
        else:
            return
    raise last


async def retrying_bugs(inner: Service[Attempt], ask: Admitted) -> Opening:
    async with AsyncExitStack() as stack:
        try:
            stream = await stack.enter_async_context(inner.open(another(ask)))
        except LookupError:
            stream = await stack.enter_async_context(inner.open(another(ask)))
        yield stream


async def retrying_for_ever(inner: Service[Attempt], ask: Admitted) -> Opening:
    async with AsyncExitStack() as stack:
        while True:
            try:
                stream = await stack.enter_async_context(inner.open(another(ask)))
            except AttemptFailed:
                continue
            break
        yield stream


async def forgetting_the_loser(inner: Service[Attempt], ask: Admitted) -> Opening:
    async def loses() -> None:
        async with inner.open(another(ask)):
            pass

    async with inner.open(another(ask)) as stream:
        yield stream
        Tasks().start(loses())
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("opening", "promise"),
    [
        (yielding_inside_try, r"what is thrown into an open stream comes out.*AttemptFailed\("),
        (retrying_bugs, "nothing is opened after a bug"),
        (retrying_for_ever, r".*attempts are bounded: there were \d+"),
        (forgetting_the_loser, "nothing is opened once a stream is open"),
    ],
)
def test_a_turn_that_breaks_a_promise_is_found(
    opening: Callable[[Service[Attempt], Admitted], Opening], promise: str
) -> None:
    with pytest.raises(AssertionError, match=f"^broken promise: {promise}"):
        check_service(making(opening), admitted_at, hedges=True)


def test_a_loser_that_is_still_under_way_at_the_end_is_found() -> None:
    async def losing(inner: Service[Attempt], ask: Admitted) -> Opening:
        async def loses() -> None:
            async with inner.open(another(ask)):
                pass

        Tasks().start(loses())
        async with inner.open(another(ask)) as stream:
            yield stream

    script = (Act(stall_s=0.1), Act(stall_s=9))
    with pytest.raises(AssertionError, match=r"^broken promise: what was opened is over when the exchange is"):
        check_service(making(losing), admitted_at, scripts=(script,), hedges=True)


class Reopening:
    """Opens another stream when an AttemptFailed is thrown in."""

    def __init__(self, inner: Service[Attempt], ask: Admitted) -> None:
        self._inner = inner
        self._ask = ask
        self._context = inner.open(another(ask))

    async def __aenter__(self) -> Stream:
        return await self._context.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._context.__aexit__(kind, error, trace)
        if isinstance(error, AttemptFailed):
            async with self._inner.open(another(self._ask)):
                pass


def test_a_second_stream_after_the_first_was_open_is_found() -> None:
    with pytest.raises(AssertionError, match=r"^broken promise: nothing is opened once a stream is open .*thrown in"):
        check_service(lambda clock: lambda inner: Layered(Reopening, inner), admitted_at)


# --- the scripted service --------------------------------------------------------------------------------------------


def test_a_scripted_service_does_its_acts_and_tells_what_came_in_and_out() -> None:
    async def work() -> None:
        clock = asyncio.get_running_loop().time
        began, failed, bug = clock(), AttemptFailed(UPSTREAM_FAILED), LookupError()
        service = ScriptedService(Act(stall_s=5, raises=failed), Act(raises=bug, sent=False), Act(stall_s=2))
        for expected in (failed, bug):
            with pytest.raises((AttemptFailed, LookupError)) as caught:
                async with service.open(attempt_at(clock())):
                    pytest.fail("it does not open")
            assert caught.value is expected
        with pytest.raises(ZeroDivisionError):
            async with service.open(attempt_at(clock())) as stream:
                raise ZeroDivisionError
        async with service.open(attempt_at(clock())):
            assert clock() == began + 9
        first, second, third, fourth = service.visits
        assert (first.attempt.record.sent_at, second.attempt.record.sent_at) == (began, 0)
        assert (third.attempt.record.sent_at, third.attempt.record.content_at) == (began + 5, began + 7)
        assert stream is third.stream
        assert [type(error) for error in third.thrown] == [ZeroDivisionError]
        assert fourth.thrown == [None]
        assert [(step, service.visits.index(visit)) for step, visit in service.log] == [
            ("enters", 0), ("fails", 0), ("enters", 1), ("fails", 1),
            ("enters", 2), ("opens", 2), ("leaves", 2), ("is over", 2),
            ("enters", 3), ("opens", 3), ("leaves", 3), ("is over", 3),
        ]  # fmt: skip

    run_virtual(work)
