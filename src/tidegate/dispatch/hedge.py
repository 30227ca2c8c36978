"""Two attempts that race: when the first is late, a second begins beside it, and whoever opens first wins."""

import asyncio
from collections.abc import Callable, Collection, Iterable

from tidegate.dispatch.trial import Trial
from tidegate.exchange import Stream
from tidegate.tasks import Tasks
from tidegate.verdict import CANCELLED, Again, AttemptFailed, Verdict


class Runner:
    """A trial in a task of its own, from its entry to its exit. Shape: `opened` gives the stream, or why there is none.

    Holds: the task, until `over`. A context is left in the task that entered it, which no other way can promise.
    """

    __slots__ = ("_released", "opened", "task", "trial")

    def __init__(self, trial: Trial, tasks: Tasks) -> None:
        self.trial = trial
        self.opened: asyncio.Future[Stream | AttemptFailed] = asyncio.get_running_loop().create_future()
        self._released = asyncio.Event()
        self.task = tasks.spawn(self._run())
        self.task.add_done_callback(self._end_opening)

    async def _run(self) -> None:
        try:
            stream = await self.trial.open()
        except AttemptFailed as failed:
            self.opened.set_result(failed.with_traceback(None))  # the traceback holds this frame: no cycle
            return
        except Exception as error:  # noqa: BLE001 (handed on to whoever races)
            self.opened.set_exception(error)
            self.opened.exception()  # seen, should nobody be there to look
            return
        self.opened.set_result(stream)
        try:
            await self._released.wait()
        finally:
            await self.trial.close()

    def _end_opening(self, _: object) -> None:
        """Open no more: a task that is cancelled may not even have begun."""
        self.opened.cancel()

    def release(self) -> None:
        """Let the attempt end as the exchange has."""
        self._released.set()

    async def over(self) -> None:
        """Wait until the attempt has ended."""
        await _over((self.task,))


async def _over(tasks: Collection[asyncio.Task[None]]) -> None:
    """Wait until tasks have ended, also while whoever waits is being cancelled; that goes on afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while running := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    for task in tasks:
        if not task.cancelled():
            task.result()


async def race(
    first: Trial, after_s: float, rival: Callable[[], Trial | None], tasks: Tasks
) -> tuple[Runner, Stream | AttemptFailed]:
    """Open a stream by one attempt, or by two when the first is late; gives the one that decided it, and what it came to.

    Shape: `rival` gives None where there is no target, or no budget, for a second; a failure is that of the last to fail,
    or one that is the request's own and no other attempt can mend.
    Holds: whoever did not open is over when this returns.
    """
    runners = [Runner(first, tasks)]
    try:
        await asyncio.wait((runners[0].opened,), timeout=after_s)
        if not runners[0].opened.done():
            second = rival()
            if second is not None:
                runners.append(Runner(second, tasks))
        decisive, result = await _first_open(runners)
        losers = [runner for runner in runners if runner is not decisive]
        for runner in losers:
            runner.trial.lose()
        await _break_off(losers)
    except BaseException:
        await _break_off(runners)
        raise
    return decisive, result


async def _first_open(runners: Iterable[Runner]) -> tuple[Runner, Stream | AttemptFailed]:
    pending = {runner.opened: runner for runner in runners}
    while True:
        done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for opened in [future for future in pending if future in done]:
            runner = pending.pop(opened)
            result = opened.result()
            if isinstance(result, Stream) or not pending or _is_hopeless(result.verdict):
                return runner, result


def _is_hopeless(verdict: Verdict) -> bool:
    """Whether every target would say the same: it is not this one's doing."""
    return verdict.again is Again.NEVER and not verdict.trips


async def _break_off(runners: Iterable[Runner]) -> None:
    """Cancel attempts, all before waiting for any; their connections are closed by the time this returns."""
    broken = list(runners)
    for runner in broken:
        runner.task.cancel()
    try:
        await _over([runner.task for runner in broken])
    finally:
        for runner in broken:
            record = runner.trial.record
            record.verdict = record.verdict or CANCELLED  # a task that was cancelled before it began wrote none
