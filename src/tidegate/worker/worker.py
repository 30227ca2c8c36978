"""One worker: a process, its setup, and the predictions that run in it."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, Protocol

import msgspec
from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from tidegate.dialect.prediction import PredictionProvider
from tidegate.exchange import AttemptRecord, Ending
from tidegate.kernel.faults import where
from tidegate.kernel.telling import Source
from tidegate.verdict import BUG, UPSTREAM_RESET
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
    Stop,
)
from tidegate.worker.process import COMMAND, Process
from tidegate.worker.run import Run, Told
from tidegate.worker.settings import LocalSettings

State = Literal["starting", "ready", "retiring", "dead"]

PLACE: Final = "TIDEGATE_WORKER"
"""The variable that tells a process which of its provider's workers it is, from 0."""

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
        """Take notice that a place in it came free, or that it has none to give any more."""
        ...

    def retires(self, worker: "Worker", /) -> None:
        """Take notice that it takes no more work, and is to be replaced when it is over."""
        ...

    def lost(self, worker: "Worker", /) -> None:
        """Take notice that it is over."""
        ...


class Work(Struct, frozen=True):
    """What workers of one provider share. Shape: `clock` is monotonic, `wall` the time of day, both in seconds.

    Shape: `withheld` are variables of the gateway's environment that the processes do not get.
    """

    provider: str
    settings: LocalSettings
    clock: Callable[[], float]
    wall: Callable[[], float]
    log: FilteringBoundLogger
    command: tuple[str, ...] = COMMAND
    withheld: frozenset[str] = frozenset()


class Job(Struct, frozen=True):
    """What is to run. Shape: `request_id` is for the log; of what was asked, `prompt_bytes` are text."""

    id: str
    request_id: str
    input: bytes
    context: dict[str, str]
    files: dict[str, list[str]]
    prompt_bytes: int = 0


class Worker:
    """One worker's life. Shape: `failure` is why it could not be set up; `load` counts runs and places promised to one.

    Shape: `why_over` is why it is over, or about to be.

    Shape: `number` is its place among its provider's workers, from 0; one that replaces another has the same.

    Holds: its process, from `live` on until that is over; timers for its setup and for runs that are being stopped.
    """

    def __init__(self, work: Work, employer: Employing, number: int) -> None:
        self.number = number
        self.state: State = "starting"
        self.info: Info | None = None
        self.speaks: PredictionProvider | None = None
        self.diary = SetupDiary(work.wall())
        self.failure = self.why_over = ""
        self.worked = False
        self.ready_at = 0.0
        self.killed = self.retired = False
        self.load = 0
        self.runs: dict[int, Run] = {}
        self._work = work
        self._employer = employer
        self._log = work.log.bind(provider=work.provider, worker=number)
        given = {**work.settings.env, PLACE: str(number)}
        self._process = Process(self, work.command, given, work.withheld)
        self._runs_begun = 0
        self._checks_begun = 0
        self._check: asyncio.Future[str] | None = None
        self._unheard: asyncio.Future[None] | None = None
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

    @property
    def held(self) -> bool:
        """Whether it is not heard at present."""
        return bool(self._holding)

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
            self.killed = True
            try:
                await self._process.close()
            finally:
                self.gone(self.failure or "the worker was stopped")

    # --- predictions -----------------------------------------------------------------------------------------------

    def begin(self, job: Job, record: AttemptRecord) -> Run:
        """Start a prediction in the place that was promised."""
        work = self._work
        self._runs_begun += 1
        most_bytes = work.settings.max_output_bytes
        run = Run(self._runs_begun, job.request_id, self, record, work.clock, most_bytes, job.prompt_bytes, job.id)
        self.runs[run.number] = run
        self._process.send(Predict(run.number, job.id, job.input, job.context, job.files))
        return run

    def give_back(self) -> None:
        """Take back a place: nothing runs in it any more, or it was never used."""
        self.load -= 1
        if self.state == "retiring" and not self.load:
            self.kill()
        self._employer.freed(self)

    def hold(self, run: Run, /) -> None:
        """Hear nothing more until this run lets go."""
        self._holding.add(run.number)
        self._process.pause()
        if self._unheard is not None and not self._unheard.done():
            self._unheard.set_result(None)

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
        """Give up on a run that does not stop: the process is killed when others in it are over, however long that takes."""
        others = len(self.runs) - 1
        self._log.warning("prediction_not_stopped", request=run.request_id, prediction=run.prediction, others=others)
        if self.state == "ready":
            self.state, self.retired = "retiring", True
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

    async def check(self, timeout_s: float) -> str | None:
        """Ask the handler's own check; gives what is wrong. Shape: None where it cannot be heard, as a run holds it."""
        if self.held:
            return None
        answer, loop = self._check, asyncio.get_running_loop()
        if answer is None or answer.done():  # one that could not be heard may be under way still
            answer = self._check = loop.create_future()
            self._checks_begun += 1
            self._process.send(Check(self._checks_begun))
        unheard = self._unheard = loop.create_future()
        await asyncio.wait((answer, unheard), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        if unheard.done():
            return None
        self._check = None
        return f"the healthcheck did not answer within {timeout_s:g} s"

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
            self.failure = self.why_over = why
            self.diary.conclude(why)
            self.diary.complete("failed", self._work.wall())
            self._log.error("setup_failed", error=why, traceback=traceback[-MAX_TOLD_CHARS:])

    # --- Watching --------------------------------------------------------------------------------------------------

    def heard(self, messages: list[FromWorker], /) -> None:
        """Take messages; those about one run are given together, before its place is given to another."""
        touched: dict[Run, Ended | None] = {}
        for message in messages:
            if not isinstance(message, Told) or (run := self.runs.get(message.number)) is None:
                self._hear(message)
                continue
            if isinstance(message, Log) and self._work.settings.echo:
                self._echo(run, message)
            run.take(message)
            ended = touched.get(run)
            touched[run] = message if ended is None and isinstance(message, Ended) else ended
        for run, ended in touched.items():
            self._give(run)
            if ended is not None:
                self._ended(run, ended)

    def _hear(self, message: FromWorker) -> None:
        """Take a message about no run. Shape: what comes late about one is dropped."""
        if isinstance(message, Ready):
            self._set_up(message)
        elif isinstance(message, SetupFailed):
            self._fail_setup(message.error, message.traceback)
            self.kill()
        elif isinstance(message, Checked):
            self._answer(message.number, message.error)
        elif isinstance(message, Log) and not message.number:
            self._said(message.source, message.text)

    def _give(self, run: Run) -> None:
        """Let a run give what there is; if that fails, it alone ends, and not the others that this worker serves."""
        try:
            run.flush()
        except Exception as error:  # noqa: BLE001 (the boundary: one broken stream must not end the others)
            self._log.error("bug", request=run.request_id, error=type(error).__name__, at=where(error))
            with suppress(Exception):
                run.broke(Ending(BUG))

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

    def cut_off(self) -> None:
        """Take notice that it hears nothing any more."""
        self._employer.freed(self)

    def gone(self, why: str, /) -> None:
        """Take notice that the process is over."""
        if self.state == "dead":
            return
        if not self.killed:
            self._fail_setup(f"{why} during its setup")
        self.state, self.why_over = "dead", self.failure or why
        self._employer.lost(self)
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
        self._answer(self._checks_begun, why)
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
        try:
            self.speaks = _provider_of(self.info)
        except ValueError as error:
            self._fail_setup(str(error))
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
        self._log.info("worker_output", source=source, text=text.rstrip("\r\n")[:MAX_TOLD_CHARS])

    def _echo(self, run: Run, said: Log) -> None:
        """Log what a prediction printed, line by line. Shape: what a terminal writes over is left out: bars of progress."""
        *lines, rest = said.text[:MAX_TOLD_CHARS].split("\n")
        for line in (*lines, "" if rest.endswith("\r") else rest):
            text = line.rstrip("\r").rpartition("\r")[2]
            if text:
                self._log.info(
                    "prediction_output",
                    source=said.source,
                    text=text,
                    prediction=run.prediction,
                    request=run.request_id,
                )

    def _ended(self, run: Run, message: Ended) -> None:
        self.worked = True
        if message.status == "failed":
            # What is wrong with an input may quote it, and is for the client alone.
            at_fault = message.error.startswith(INPUT_ERROR)
            self._log.error(
                "prediction_failed",
                request=run.request_id,
                prediction=run.prediction,
                error="the input does not fit" if at_fault else message.error[:MAX_TOLD_CHARS],
                traceback=message.traceback[-MAX_TOLD_CHARS:],
            )
        self._release(run)

    def _answer(self, number: int, error: str) -> None:
        answer = self._check
        if number == self._checks_begun and answer is not None and not answer.done():
            answer.set_result(error)


def _provider_of(info: Info) -> PredictionProvider:
    """Give how the handler is asked in chats. Errors: ValueError, where its schema cannot be used."""
    # The validator takes 3 MB, which nobody should pay who has no such workers.
    from tidegate.worker.schema import provider_of  # noqa: PLC0415

    return provider_of(info)
