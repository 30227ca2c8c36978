"""What every layer around an opening promises, checked around a service that does as it is told: for our layers and yours."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Generic, Literal, TypeVar, cast

from msgspec import Struct, field, structs

from tidegate.dispatch.service import Service
from tidegate.exchange import (
    Admitted,
    Arrival,
    Ask,
    Attempt,
    AttemptRecord,
    Ending,
    Identity,
    Model,
    Outcome,
    Stream,
    Target,
    Timeouts,
)
from tidegate.tasks import together
from tidegate.testing.clock import StuckError, VirtualLoop, run_virtual
from tidegate.testing.memory import EVENTS, MemorySource, NoBody
from tidegate.verdict import (
    BUG,
    CANCELLED,
    COMPLETED,
    CONNECT_REFUSED,
    UPSTREAM_FAILED,
    UPSTREAM_RESET,
    AttemptFailed,
    Fault,
)

Asked = TypeVar("Asked", bound=Attempt | Admitted)
Make = Callable[[Callable[[], float]], Callable[[Service[Attempt]], Service[Asked]]]
"""Gives a fresh layer, or turn, that reads this clock."""
Step = Literal["enters", "opens", "fails", "leaves", "is over"]

CROWD: Final = 3
"""How many exchanges go through a layer at the same time, one of which is cancelled."""
STAY_S: Final = 1.0
"""How long a stream stays open."""
MAX_ENTRIES: Final = 100
"""More attempts than this are no retry but a loop."""


# --- a service that does as it is told -------------------------------------------------------------------------------


class Act(Struct, frozen=True, kw_only=True):
    """What one opening does: it takes its time, then opens or raises. `sent` says that its request has left before that."""

    stall_s: float = 0.0
    raises: BaseException | None = None
    sent: bool = True


class Visit(Struct, eq=False):
    """One opening of a ScriptedService. Shape: `thrown` has what came into each exit, None where it was a plain one."""

    attempt: Attempt
    entries: int = 0
    stream: Stream | None = None
    raised: BaseException | None = None
    thrown: list[BaseException | None] = field(default_factory=list)
    tasks: set[asyncio.Task[Any] | None] = field(default_factory=set)


class ScriptedService:
    """The innermost service: each entry does the next act of the script, those beyond it the last one again.

    Shape: `log` says what happened, in its order; `visits` are the openings, in theirs.
    """

    def __init__(self, *script: Act) -> None:
        self._script = script or (Act(),)
        self._entries = 0
        self.visits: list[Visit] = []
        self.log: list[tuple[Step, Visit]] = []

    def open(self, ask: Attempt, /) -> "_Visiting":
        """Give the context of one stream without content."""
        visit = Visit(ask)
        self.visits.append(visit)
        return _Visiting(self, visit)

    async def act(self, record: AttemptRecord) -> None:
        """Do the next act. Errors: what it raises; AssertionError for a layer that never stops trying."""
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise AssertionError(f"more than {MAX_ENTRIES} attempts")
        act = self._script[min(self._entries, len(self._script)) - 1]
        if act.sent:
            record.connected_at = record.sent_at = asyncio.get_running_loop().time()
        await asyncio.sleep(act.stall_s)
        if act.raises is not None:
            raise act.raises.with_traceback(None)


class _Visiting:
    __slots__ = ("_log", "_service", "_visit")

    def __init__(self, service: ScriptedService, visit: Visit) -> None:
        self._service = service
        self._log = service.log
        self._visit = visit

    async def __aenter__(self) -> Stream:
        visit, record = self._visit, self._visit.attempt.record
        visit.entries += 1
        visit.tasks.add(asyncio.current_task())
        self._log.append(("enters", visit))
        try:
            await self._service.act(record)
        except BaseException as error:
            visit.raised = error
            self._log.append(("fails", visit))
            raise
        now = asyncio.get_running_loop().time()
        record.sent_at = record.sent_at or now
        record.headed_at = record.framed_at = record.content_at = now
        visit.stream = _stream(visit.attempt)
        self._log.append(("opens", visit))
        return visit.stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._visit.thrown.append(error)
        self._visit.tasks.add(asyncio.current_task())
        self._log.append(("leaves", self._visit))
        try:
            await asyncio.sleep(0)  # closing gives way, so that it can be cancelled
        finally:
            self._log.append(("is over", self._visit))


def _stream(attempt: Attempt) -> Stream:
    return Stream(
        attempt=attempt,
        source=MemorySource(),
        head=EVENTS,
        events=True,
        whole=False,
        strips_usage=False,
        changed=False,
        redact=str,
    )


def admitted_at(now: float, *targets: Target) -> Admitted:
    """Give an exchange that may run. Shape: its targets, or one."""
    arrival = Arrival(
        request_id="scripted", connection_id=1, route="chat", headers={}, peer="", body=NoBody(), outcome=Outcome(now)
    )
    ask = Ask(model="scripted", stream=True, wants_usage=False, body=b"{}", dialect="openai_chat")
    return Admitted(arrival, Identity(), ask, Model("scripted", targets or (Target("main", "scripted"),)))


def attempt_at(now: float, timeouts: Timeouts = Timeouts()) -> Attempt:  # noqa: B008 (frozen)
    """Give the first attempt of an exchange."""
    target = Target("main", "scripted", timeouts)
    admitted = admitted_at(now, target)
    record = AttemptRecord(provider=target.provider, model=target.model, started_at=now)
    admitted.arrival.outcome.attempts.append(record)
    return Attempt(admitted, target, record)


# --- the check -------------------------------------------------------------------------------------------------------


def check_service(
    make: Make[Asked],
    ask: Callable[[float], Asked],
    *,
    scripts: Sequence[tuple[Act, ...]] = (),
    quiet: Callable[[], bool] = lambda: True,
    hedges: bool = False,
) -> None:
    """Check a layer, or a turn, around a scripted service: every way in and out, and a cancellation at every await.

    Shape: `make` gives a fresh one for a clock, and `ask` a fresh exchange for an instant; `scripts` come beyond the usual
    ones; `quiet` says that nothing is held; `hedges` allows attempts of one exchange beside each other.
    Errors: AssertionError, with a sentence that says which promise is broken, and when.
    """
    check = _Check(make, ask, quiet, hedges=hedges)
    for script in (*_scripts(), *scripts):
        for ending, error in _endings():
            check.play(_Scene(script, ending=ending, throws=error))
        check.cancel_everywhere(_Scene(script))
    crowd = _Scene((Act(stall_s=0.01),), crowd=CROWD)
    check.play(crowd)
    check.cancel_everywhere(crowd)


def _scripts() -> Iterator[tuple[Act, ...]]:
    fails = Act(raises=AttemptFailed(CONNECT_REFUSED), sent=False)
    fails_late = Act(stall_s=0.25, raises=AttemptFailed(UPSTREAM_FAILED))
    bug = Act(stall_s=0.25, raises=LookupError("a bug"))
    yield from ((Act(),), (Act(stall_s=0.25),), (fails,), (fails_late,), (fails_late, Act()), (bug,), (fails, bug))


def _endings() -> Iterator[tuple[Ending, BaseException | None]]:
    yield Ending(COMPLETED), None
    yield Ending(UPSTREAM_RESET), None
    for error in (LookupError("a bug"), TimeoutError(), AttemptFailed(CONNECT_REFUSED)):
        yield Ending(BUG), error
    yield Ending(CANCELLED), asyncio.CancelledError()


class _Scene(Struct, frozen=True):
    """What happens in one run. Shape: `cancel_at` counts awaits, 0 is never; `late` is when what is waited for has come."""

    script: tuple[Act, ...]
    ending: Ending = Ending(COMPLETED)
    throws: BaseException | None = None
    crowd: int = 1
    cancel_at: int = 0
    late: bool = False

    def __str__(self) -> str:
        acts = ", then ".join(_told(act) for act in self.script)
        thrown = f", {self.throws!r} is thrown in" if self.throws is not None else ""
        when = "when what it waits for has come" if self.late else "when it begins to wait"
        cancelled = f", cancelled at await {self.cancel_at} {when}" if self.cancel_at else ""
        return f"{self.crowd} at a time; what is inside {acts}; the stream ends {self.ending.verdict.code}{thrown}{cancelled}"


def _told(act: Act) -> str:
    return f"takes {act.stall_s:g} s and {'opens' if act.raises is None else f'raises {act.raises!r}'}"


class _Check(Generic[Asked]):
    """Plays scenes around one kind of layer."""

    def __init__(
        self, make: Make[Asked], ask: Callable[[float], Asked], quiet: Callable[[], bool], *, hedges: bool
    ) -> None:
        self._make = make
        self._ask = ask
        self._quiet = quiet
        self._hedges = hedges

    def cancel_everywhere(self, scene: _Scene) -> None:
        """Play a scene once for each await, with a cancellation there."""
        for late in (False, True):
            number = 1
            while self.play(structs.replace(scene, cancel_at=number, late=late)):
                number += 1

    def play(self, scene: _Scene) -> bool:
        """Play a scene; gives whether it came to its cancellation."""
        try:
            return run_virtual(lambda: self._play(scene))
        except StuckError as error:
            raise AssertionError(f"broken promise: every exchange comes to an end ({scene}): {error}") from error
        except AssertionError as error:
            raise AssertionError(f"{error} ({scene})") from error

    async def _play(self, scene: _Scene) -> bool:
        loop = asyncio.get_running_loop()
        service = ScriptedService(*scene.script)
        layered = self._make(loop.time)(service)
        crowd = [_Exchange(layered, self._ask(loop.time()), service, scene) for _ in range(scene.crowd)]
        victim = crowd[len(crowd) // 2]
        victim.cancel_at = scene.cancel_at
        await together(*(exchange.conduct() for exchange in crowd))
        for exchange in crowd:
            exchange.judge(hedges=self._hedges)
        _require(not _timers(), "no timer is left behind")
        _require(len(asyncio.all_tasks()) == 1, "no task is left behind")
        _require(self._quiet(), "nothing is held afterwards: `quiet` says so")
        return victim.cancelled


class _Exchange(Generic[Asked]):
    """One exchange through the layer, conducted as gateway and relay do it; what is seen is judged after it."""

    def __init__(self, service: Service[Asked], ask: Asked, inside: ScriptedService, scene: _Scene) -> None:
        self._service = service
        self._ask = ask
        self._outcome = (ask.admitted.arrival if isinstance(ask, Attempt) else ask.arrival).outcome
        self._inside = inside
        self._scene = scene
        self.cancel_at = 0
        self.cancelled = False
        self._cancelling = 0
        self._task: asyncio.Task[Any] | None = None
        self._error: BaseException | None = None
        self._stream: Stream | None = None
        self._open_at = 0
        self._threw: BaseException | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._context = self._before = dict[Any, Any]()

    async def conduct(self) -> None:
        """Go through the layer, in a task of its own."""
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._before = self._context = _context()
        work = _Cancelling(self._go(), self.cancel_at, late=self._scene.late)
        try:
            await work
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (it is what is judged)
            self._error = error
        self.cancelled = work.cancelled
        self._cancelling = self._task.cancelling()
        self._context = self._context | _context()

    async def _go(self) -> None:
        async with self._service.open(self._ask) as stream:
            self._stream, self._open_at = stream, len(self._inside.log)
            self._timers, self._context = _timers(), _context()
            try:
                await self._stay()
            except BaseException as error:
                self._threw = error
                self._end(Ending(CANCELLED if isinstance(error, asyncio.CancelledError) else BUG))
                raise
            self._end(self._scene.ending)

    async def _stay(self) -> None:
        await asyncio.sleep(STAY_S)
        if self._scene.throws is not None:
            raise self._scene.throws.with_traceback(None)

    def _end(self, ending: Ending) -> None:
        self._outcome.end(ending, asyncio.get_running_loop().time())

    def judge(self, *, hedges: bool) -> None:
        """Hold what was seen against the promises."""
        visits = [visit for visit in self._inside.visits if _outcome(visit) is self._outcome]
        _require(len(visits) <= MAX_ENTRIES, f"attempts are bounded: there were {len(visits)}")
        self._judge_end(visits)
        for visit in visits:
            _judge_visit(visit)
        records = {id(visit.attempt.record) for visit in visits}
        _require(len(records) == len(visits), "an attempt is opened once: another try is another attempt")
        self._judge_order(hedges=hedges)
        if self._stream is not None:
            self._judge_stream(visits)
        _require(self._context == self._before, "no layer keeps a context variable set")

    def _judge_end(self, visits: list[Visit]) -> None:
        error = self._error
        bugs = [visit.raised for visit in visits if _is_bug(visit.raised)]
        if self.cancelled:
            _require(
                isinstance(error, asyncio.CancelledError),
                f"a cancellation from outside goes through: it became {error!r}",
                error,
            )
        elif bugs:
            _require(error is bugs[0], f"a bug goes through as it is: it became {error!r}", error)
        elif self._stream is None:
            _require(
                isinstance(error, Fault), f"an opening gives a stream or raises a Fault: it raised {error!r}", error
            )
        else:
            _require(
                error is self._scene.throws,
                f"what is thrown into an open stream comes out, and nothing else does: it became {error!r}",
                error,
            )
        _require(
            self._cancelling == int(self.cancelled),
            f"a layer takes back its own cancellations and nobody else's: {self._cancelling} are left",
        )

    def _judge_order(self, *, hedges: bool) -> None:
        under_way: set[Visit] = set()
        bug = False
        for number, (step, visit) in enumerate(self._inside.log):
            if _outcome(visit) is not self._outcome:
                continue
            if step == "enters":
                _require(self._stream is None or number < self._open_at, "nothing is opened once a stream is open")
                _require(not bug, "nothing is opened after a bug")
                _require(hedges or not under_way, "an attempt is over before the next begins")
                under_way.add(visit)
            elif step in {"fails", "is over"}:
                under_way.discard(visit)
                bug = bug or _is_bug(visit.raised)
        _require(not under_way, "what was opened is over when the exchange is")

    def _judge_stream(self, visits: list[Visit]) -> None:
        came = [visit for visit in visits if visit.stream is self._stream]
        _require(bool(came), "a stream goes out as it came")
        steps = [step for step, visit in self._inside.log[: self._open_at] if visit is came[0]]
        _require(steps[-1] == "opens", "a stream goes out while it is open")
        _require(self._scene.crowd > 1 or not self._timers, "no timer is left once a stream is open")
        _require(
            self._reached(came[0]),
            f"what is thrown into an open stream reaches what is inside: {self._threw!r} became {came[0].thrown[0]!r}",
        )

    def _reached(self, visit: Visit) -> bool:
        """Say whether what was thrown in came to the inner exit, or was told in other words to a task of its own."""
        thrown, threw = visit.thrown[0], self._threw
        cancelled = self.cancelled or isinstance(threw, asyncio.CancelledError)
        own_task = self._task not in visit.tasks
        return (
            thrown is threw
            or (cancelled and isinstance(thrown, asyncio.CancelledError))
            or (own_task and thrown is None)
        )


def _judge_visit(visit: Visit) -> None:
    exits = len(visit.thrown)
    _require(visit.entries <= 1, "an opening is entered once")
    if visit.stream is not None:
        _require(exits == 1, f"what was opened is exited exactly once: there were {exits} exits")
    else:
        _require(not exits, "what did not open is not exited")
    _require(len(visit.tasks) <= 1, "an attempt is left by the task that entered it")


def _is_bug(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, (Fault, asyncio.CancelledError))


def _outcome(visit: Visit) -> Outcome:
    return visit.attempt.admitted.arrival.outcome


def _context() -> dict[Any, Any]:
    return dict(contextvars.copy_context())


def _timers() -> list[asyncio.TimerHandle]:
    return cast("VirtualLoop", asyncio.get_running_loop()).timers()


class _Cancelling:
    """Awaits some work, and has its own task cancelled at one await.

    Shape: awaits are counted from 1; `late` is when what is waited for has come, but the task has not yet gone on.
    """

    def __init__(self, work: Coroutine[Any, Any, None], at: int, *, late: bool) -> None:
        self._work = work
        self._at = at
        self._late = late
        self.cancelled = False

    def __await__(self) -> Generator[Any, Any, None]:
        number, go_on = 0, partial(self._work.send, None)
        while True:
            try:
                waited = go_on()
            except StopIteration:
                return
            number += 1
            if number == self._at:
                self._cancel(waited)
            try:
                yield waited
                go_on = partial(self._work.send, None)
            except BaseException as error:  # noqa: BLE001 (whatever it is belongs to the work)
                go_on = partial(self._work.throw, error)

    def _cancel(self, waited: asyncio.Future[Any] | None) -> None:
        """Cancel the task, whose own callback on what it waits for is added after ours."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self.cancelled = True
        if waited is None or not self._late:
            task.cancel()
        else:
            waited.add_done_callback(lambda _: task.cancel())


def _require(holds: bool, promise: str, cause: BaseException | None = None) -> None:  # noqa: FBT001 (reads as a sentence)
    if not holds:
        raise AssertionError(f"broken promise: {promise}") from cause
