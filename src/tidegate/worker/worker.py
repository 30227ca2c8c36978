"""One worker: a process, its setup, and the predictions that run in it."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, Protocol

import msgspec
from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from tidegate.exchange import AttemptRecord, Ending
from tidegate.verdict import UPSTREAM_RESET
from tidegate.worker.health import SetupDiary
from tidegate.worker.messages import (
    INPUT_ERROR,
    Begin,
    Cancel,
    Check,
    Checked,
    Ended,
    FromWorker,
    Info,
    Log,
    Predict,
    Ready,
    SetupFailed,
    Source,
    Stop,
)
from tidegate.worker.process import COMMAND, Process
from tidegate.worker.run import Run
from tidegate.worker.settings import LocalSettings

State = Literal["starting", "ready", "retiring", "dead"]

STOP_S: Final = 2.0
"""How long a worker that was told to exit has, and then again one that was asked to by a signal."""
MAX_TOLD_CHARS: Final = 64 * 1024
"""Of a traceback, the end."""

_read_info = msgspec.json.Decoder(Info).decode


class Employing(Protocol):
    """Who has the worker."""

    def ready(self, worker: "Worker", /) -> None:
        """Take notice that it is set up."""
        ...

    def freed(self, worker: "Worker", /) -> None:
        """Take notice that a place in it came free."""
        ...

    def retires(self, worker: "Worker", /) -> None:
        """Take notice that it takes no more work, and is to be replaced."""
        ...


class Work(Struct, frozen=True):
    """What workers of one provider share. Shape: `clock` is monotonic, `wall` the time of day, both in seconds."""

    provider: str
    settings: LocalSettings
    clock: Callable[[], float]
    wall: Callable[[], float]
    log: FilteringBoundLogger
    command: tuple[str, ...] = COMMAND


class Job(Struct, frozen=True):
    """What is to run. Shape: `request_id` is for the log."""

    id: str
    request_id: str
    input: bytes
    context: dict[str, str]
    files: dict[str, list[str]]


class Worker:
    """One worker's life. Shape: `failure` is why it could not be set up; `load` counts runs and places promised to one.

    Holds: its process, from `live` on until that is over; timers for its setup and for runs that are being stopped.
    """

    def __init__(self, work: Work, employer: Employing, number: int) -> None:
        self.number = number
        self.state: State = "starting"
        self.info: Info | None = None
        self.diary = SetupDiary(work.wall())
        self.failure = ""
        self.worked = False
        self.ready_at = 0.0
        self.killed = False
        self.load = 0
        self.runs: dict[int, Run] = {}
        self._work = work
        self._employer = employer
        self._log = work.log.bind(provider=work.provider, worker=number)
        self._process = Process(self, work.command)
        self._runs_begun = 0
        self._checks_begun = 0
        self._checks: dict[int, asyncio.Future[str]] = {}
        self._holding: set[int] = set()
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._last: Ending | None = None

    @property
    def usable(self) -> bool:
        """Whether it can be given work."""
        return self.state == "ready" and self._process.reachable

    @property
    def free(self) -> bool:
        """Whether it can take one more prediction."""
        return self.usable and self.info is not None and self.load < self.info.slots

    async def live(self) -> None:
        """Start the process, and last until it is over. Holds: nothing of it is left after."""
        loop, limit_s = asyncio.get_running_loop(), self._work.settings.setup_timeout_s
        try:
            await self._process.start()
            if limit_s:
                self._timers[0] = loop.call_later(limit_s, self._late, limit_s)
            self._process.send(Begin(self._work.settings.handler, str(self._process.directory)))
            await asyncio.shield(self._gone)
        except OSError as error:
            self._fail_setup(f"the worker's process cannot be started: {error.strerror}")
        finally:
            try:
                await self._process.close()
            finally:
                self.gone(self.failure or "the worker was stopped")

    # --- predictions -----------------------------------------------------------------------------------------------

    def begin(self, job: Job, record: AttemptRecord) -> Run:
        """Start a prediction in the place that was promised."""
        work = self._work
        self._runs_begun += 1
        most_bytes, given_bytes = work.settings.max_output_bytes, len(job.input)
        run = Run(self._runs_begun, job.request_id, self, record, work.clock, most_bytes, given_bytes)
        self.runs[run.number] = run
        self._process.send(Predict(run.number, job.id, job.input, job.context, job.files))
        return run

    def give_back(self) -> None:
        """Take back a place: nothing runs in it any more, or it was never used."""
        self.load -= 1
        if self.state == "retiring":
            if not self.load:
                self.kill()
        else:
            self._employer.freed(self)

    def hold(self, run: Run, /) -> None:
        """Hear nothing more until this run lets go."""
        self._holding.add(run.number)
        self._process.pause()

    def let_go(self, run: Run, /) -> None:
        """Hear again, unless another run holds it."""
        self._holding.discard(run.number)
        if not self._holding:
            self._process.resume()

    def cancel(self, run: Run, /) -> None:
        """Stop a prediction: ask the worker, and after the grace replace it."""
        if run.number in self.runs:
            self._process.send(Cancel(run.number))
            grace_s = self._work.settings.cancel_grace_s
            self._timers[run.number] = asyncio.get_running_loop().call_later(grace_s, self._force, run)

    def _force(self, run: Run) -> None:
        """Give up on a run that does not stop: others in the same process may end before that is killed."""
        self._log.warning("prediction_not_stopped", request=run.request_id, others=len(self.runs) - 1)
        if self.state == "ready":
            self.state = "retiring"
            self._employer.retires(self)
        run.end_canceled()
        self._release(run)

    def _release(self, run: Run) -> None:
        if self.runs.pop(run.number, None) is None:
            return
        timer = self._timers.pop(run.number, None)
        if timer is not None:
            timer.cancel()
        self.let_go(run)
        if not run.released.done():
            run.released.set_result(None)
        self.give_back()

    # --- health ----------------------------------------------------------------------------------------------------

    async def check(self, timeout_s: float) -> str:
        """Ask the handler's own check; gives what is wrong."""
        self._checks_begun += 1
        number = self._checks_begun
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._checks[number] = answer
        self._process.send(Check(number))
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            return f"the healthcheck did not answer within {timeout_s:g} s"
        finally:
            del self._checks[number]

    # --- its end ---------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End the process and its group at once."""
        self.killed = True
        self._process.signal(signal.SIGKILL)

    async def stop(self, last: Ending) -> None:
        """End the process: told to, then asked, then killed. Shape: what still runs ends as `last`."""
        self._last = last
        if self.state != "dead":
            self.killed = True
            self._process.send(Stop())
            if self.state == "starting" or not await self._process.wait_over(STOP_S):
                self._process.signal(signal.SIGTERM)
                if not await self._process.wait_over(STOP_S):
                    self.kill()
        if not self._gone.done():
            self._gone.set_result(None)

    def _late(self, limit_s: float) -> None:
        self._fail_setup(f"the setup did not finish within {limit_s:g} s")
        self.kill()

    def _fail_setup(self, why: str, traceback: str = "") -> None:
        if self.state == "starting" and not self.failure:
            self.failure = why
            if not self.diary.logs().endswith(f"{why}\n"):
                self.diary.note(f"{why}\n")
            self.diary.complete("failed", self._work.wall())
            self._log.error("setup_failed", error=why, traceback=traceback[-MAX_TOLD_CHARS:])

    # --- Watching --------------------------------------------------------------------------------------------------

    def heard(self, messages: list[FromWorker], /) -> None:
        """Take messages; those about one run are given together."""
        touched: dict[int, Run] = {}
        for message in messages:
            if isinstance(message, Ready):
                self._set_up(message)
            elif isinstance(message, SetupFailed):
                self._fail_setup(message.error, message.traceback)
                self.kill()
            elif isinstance(message, Checked):
                self._answer(message.number, message.error)
            elif isinstance(message, Log) and not message.number:
                self._said(message.source, message.text)
            else:
                run = self.runs.get(message.number)
                if run is None:
                    continue
                run.take(message)
                touched[run.number] = run
                if isinstance(message, Ended):
                    self._ended(run, message)
        for run in touched.values():
            run.flush()

    def garbled(self, why: str, /) -> None:
        """Take notice that it cannot be understood: it is replaced."""
        self._fail_setup(why)
        self._log.error("worker_garbled", error=why)
        self._process.signal(signal.SIGKILL)

    def printed(self, source: Source, line: str, /) -> None:
        """Take a line of the process's own outputs: what no prediction is known to have said."""
        if self.state == "starting":
            self.diary.note(f"{line}\n")
        self._log.info("worker_output", source=source, text=line)

    def gone(self, why: str, /) -> None:
        """Take notice that the process is over."""
        if self.state == "dead":
            return
        self._fail_setup(f"{why} during its setup")
        self.state = "dead"
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        ending = self._last or Ending(UPSTREAM_RESET, why)
        runs = [*self.runs.values()]
        if not self.killed:
            self._log.error("worker_gone", error=why, pid=self._process.pid, runs=len(runs))
        for run in runs:
            run.break_off(ending)
            self._release(run)
        for number in tuple(self._checks):
            self._answer(number, why)
        if not self._gone.done():
            self._gone.set_result(None)

    def _set_up(self, message: Ready) -> None:
        if self.state != "starting" or self.failure:
            return
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            self.info = _read_info(message.info)
        if self.info is None or self.info.slots < 1:
            self.garbled("the worker does not say what its handler is")
            return
        trouble = _trouble_with(bytes(self.info.input_schema))
        if trouble:
            self._fail_setup(trouble)
            self.kill()
            return
        timer = self._timers.pop(0, None)
        if timer is not None:
            timer.cancel()
        self.state, self.ready_at = "ready", self._work.clock()
        self.diary.complete("succeeded", self._work.wall())
        self._log.info("worker_ready", pid=self._process.pid, slots=self.info.slots)
        self._employer.ready(self)

    def _said(self, source: Source, text: str) -> None:
        if self.state == "starting":
            self.diary.note(text)
        self._log.info("worker_output", source=source, text=text.rstrip("\n")[:MAX_TOLD_CHARS])

    def _ended(self, run: Run, message: Ended) -> None:
        self.worked = True
        if message.status == "failed":
            # What is wrong with an input may quote it, and is for the client alone.
            at_fault = message.error.startswith(INPUT_ERROR)
            self._log.error(
                "prediction_failed",
                request=run.request_id,
                error="the input does not fit" if at_fault else message.error[:MAX_TOLD_CHARS],
                traceback=message.traceback[-MAX_TOLD_CHARS:],
            )
        self._release(run)

    def _answer(self, number: int, error: str) -> None:
        waiting = self._checks.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(error)


def _trouble_with(schema: bytes) -> str:
    """Say why inputs cannot be checked; empty where they can."""
    # The validator takes 3 MB, which nobody should pay who has no such workers.
    from tidegate.worker.schema import trouble_with  # noqa: PLC0415

    return trouble_with(schema)
