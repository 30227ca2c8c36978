"""The workers of one provider: kept at their number, given work in turn, and asked how they are."""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Final

from msgspec import Struct

from tidegate.dialect.prediction import PredictionProvider
from tidegate.exchange import Ending
from tidegate.kernel.backoff import retry_after
from tidegate.tasks import Tasks, together
from tidegate.verdict import MODEL_UNAVAILABLE, SERVER_SHUTDOWN, AttemptFailed
from tidegate.worker.health import Health, SetupDiary
from tidegate.worker.messages import Info
from tidegate.worker.scratch import sweep
from tidegate.worker.worker import Work, Worker

FIRST_BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 30.0
MAX_CRASH_BACKOFF_S: Final = 5.0
"""What was set up and died later can be set up: those who wait do not pay for what was asked of it."""
DEFUNCT_AFTER: Final = 3
"""So many setups in a row that failed, and a worker is not taken for one that is about to come back."""
CHECK_S: Final = 8.0
"""Longer than the process gives the handler's own check: it knows better what is wrong."""
LEFT_S: Final = 5.0
"""How long what processes leave behind them is waited for when all is over."""


class _Post(Struct, eq=False):
    """Where one worker of the configured number belongs.

    Shape: `failures` counts setups in a row that failed, `ends` all ends in a row without work between.
    """

    number: int
    worker: Worker | None = None
    failures: int = 0
    ends: int = 0
    timer: asyncio.TimerHandle | None = None


class Crew:
    """Workers of one provider.

    Holds: a worker at each post, or a timer until the next one; a task for each. One that retires keeps its post as long as a
    prediction is in it: two copies of a model may be more than the memory holds. Shape: `info`, `speaks` and `slots`, the places of all posts, are known from the first that was set up;
    `on_slots` hears of the places that there are at present, each time they become more or fewer.
    """

    def __init__(self, work: Work, tasks: Tasks, on_slots: Callable[[int], None]) -> None:
        self.info: Info | None = None
        self.speaks: PredictionProvider | None = None
        self.slots = 0
        self._work = work
        self._tasks = tasks
        self._on_slots = on_slots
        self._posts = [_Post(number) for number in range(max(1, work.settings.workers))]
        self._workers: set[Worker] = set()
        self._lives: set[asyncio.Task[None]] = set()
        self._line: OrderedDict[asyncio.Future[Worker], None] = OrderedDict()
        self._checking: asyncio.Task[str] | None = None
        self._check_error = ""
        self._told = 0
        self._last, self._why = SetupDiary(work.wall()), ""
        self._given_up = False
        self._started = self._closed = False
        self._settled = asyncio.Event()
        self._idle = asyncio.Event()

    @property
    def running(self) -> int:
        """How many predictions run."""
        return sum(len(worker.runs) for worker in self._workers)

    @property
    def serves(self) -> bool:
        """Whether a worker is ready."""
        for post in self._posts:  # noqa: SIM110 (asked several times for each prediction: any() costs three times as much)
            if post.worker is not None and post.worker.usable:
                return True
        return False

    @property
    def room(self) -> int | None:
        """How many predictions there is a place for at present, those that run included.

        Shape: None where no place is worth waiting for: who comes then is refused.
        """
        if self._closed or self.info is None or self._defunct():
            return None
        retiring = sum(worker.load for worker in self._workers if worker.state == "retiring")
        return retiring + sum(worker.info.slots for worker in self._ready() if worker.info is not None)

    def start(self) -> None:
        """Begin to start the workers."""
        if not self._started and not self._closed:
            self._started = True
            # Nothing waits for it, the end of the gateway neither: who comes next goes on with it.
            Thread(target=sweep, name="sweep", daemon=True).start()
            for post in self._posts:
                self._hire(post)

    async def wait_settled(self, timeout_s: float) -> bool:
        """Wait until a worker is set up, or none can be; gives whether one is."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            return False
        return self.info is not None

    # --- giving work -----------------------------------------------------------------------------------------------

    async def take(self) -> Worker:
        """Give a worker with a place for one prediction, the least busy; where none is free wait in line.

        Holds: that place, for the caller to use at once or to give back. Errors: AttemptFailed when there is none to wait for.
        """
        while True:
            self.known()
            worker = None if self._line else self._pick()
            if worker is not None:
                worker.load += 1
                return worker
            worker = await self._wait()
            if worker.usable:
                return worker
            worker.give_back()  # it ended in the same moment

    async def _wait(self) -> Worker:
        waiter: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._line[waiter] = None
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                waiter.result().give_back()
            raise
        finally:
            self._line.pop(waiter, None)

    def known(self) -> Info:
        """Give what the handler is. Errors: AttemptFailed while nobody knows, or there is no worker to wait for."""
        if self._closed:
            raise AttemptFailed(SERVER_SHUTDOWN)
        if self.info is None:
            why = f"the model cannot be set up: {self._why}" if self._given_up else "the model's setup has not finished"
            raise AttemptFailed(MODEL_UNAVAILABLE, why)
        if self._defunct():
            wait = retry_after(self._restart_in_s(), random.random())  # noqa: S311 (no secret)
            why = "the model's workers keep failing; its log says why"
            raise AttemptFailed(MODEL_UNAVAILABLE, why, headers=(wait,))
        return self.info

    def _ready(self) -> list[Worker]:
        return [post.worker for post in self._posts if post.worker is not None and post.worker.usable]

    def _pick(self) -> Worker | None:
        best = None
        for post in self._posts:
            worker = post.worker
            if worker is not None and worker.free and (best is None or worker.load < best.load):
                best = worker
        return best

    def _serve(self) -> None:
        while self._line:
            worker = self._pick()
            if worker is None:
                return
            waiter, _ = self._line.popitem(last=False)
            if not waiter.done():
                worker.load += 1
                waiter.set_result(worker)

    def _turn_away(self) -> None:
        """Let those in line go where there is nothing left to wait for."""
        try:
            self.known()
        except AttemptFailed as refusal:
            line, self._line = self._line, OrderedDict()
            for waiter in line:
                if not waiter.done():
                    waiter.set_exception(AttemptFailed(refusal.verdict, refusal.message, headers=refusal.headers))

    # --- Employing -------------------------------------------------------------------------------------------------

    def ready(self, worker: Worker, /) -> None:
        """Let a worker that is set up take work."""
        first = self.info is None
        self.info, self.speaks = worker.info, worker.speaks
        self._last, self._why = worker.diary, ""
        self.slots = len(self._posts) * (worker.info.slots if worker.info is not None else 0)
        for post in self._posts:
            if post.worker is worker:
                post.failures = 0
            elif first and post.worker is None and post.timer is None:
                self._hire_later(post)
        self._settled.set()
        self._serve()
        self._measure()

    def freed(self, worker: Worker, /) -> None:
        """Give a place that came free to the first in line."""
        self._serve()
        if self._closed and not self.running:
            self._idle.set()
        if not worker.usable:
            self._measure()  # there is no such place any more

    def lost(self, worker: Worker, /) -> None:
        """Remember why a worker is over that was not to be."""
        if not worker.retired and any(post.worker is worker for post in self._posts):
            self._last, self._why = worker.diary, worker.why_over
        self._measure()

    def retires(self, worker: Worker, /) -> None:  # noqa: ARG002 (it is known by its state)
        """Count a worker's places out that are free; its successor comes when it is over."""
        self._why = "a prediction did not stop, and its worker is replaced"
        self._measure()

    def _measure(self) -> None:
        """Tell how many places there are where that is news."""
        room = self.room
        places = self.slots if room is None else room
        if places != self._told:
            self._told = places
            self._on_slots(places)

    def _hire(self, post: _Post) -> None:
        post.timer = None
        worker = post.worker = Worker(self._work, self, post.number)
        self._workers.add(worker)
        life = self._tasks.spawn(self._life(post, worker))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)

    def _hire_later(self, post: _Post) -> None:
        most_s = MAX_BACKOFF_S if post.failures else MAX_CRASH_BACKOFF_S
        delay_s = min(most_s, FIRST_BACKOFF_S * 2 ** min(post.ends - 1, 10))
        post.timer = asyncio.get_running_loop().call_later(delay_s, self._hire, post)

    async def _life(self, post: _Post, worker: Worker) -> None:
        try:
            await worker.live()
        finally:
            self._workers.discard(worker)
            if post.worker is worker:
                self._lost(post, worker)

    def _lost(self, post: _Post, worker: Worker) -> None:
        post.worker = None
        if worker.retired and not self._closed:
            self._hire(post)  # at once: it was ours to end
            self._measure()
            return
        lasted = worker.ready_at and self._work.clock() - worker.ready_at >= MAX_BACKOFF_S
        post.ends = 1 if worker.worked or lasted else post.ends + 1
        if not worker.ready_at:
            post.failures += 1
        if self._closed:
            return
        if self.info is not None:
            self._hire_later(post)
            self._turn_away()
        elif not any(other.worker for other in self._posts):
            self._given_up = True
            self._settled.set()
        self._measure()

    def _defunct(self) -> bool:
        return not self.serves and all(post.failures >= DEFUNCT_AFTER for post in self._posts)

    # --- health ----------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Give how the workers are. Shape: what the handler's own check says is what it said last.

        Shape: the setup is the newest that succeeded where a worker is ready, and otherwise the newest of all, with why there is none.
        """
        ready = self._ready()
        if ready:
            setup = max(ready, key=lambda worker: worker.ready_at).diary.setup()
            if self._check_error:
                return Health("UNHEALTHY", setup, user_healthcheck_error=self._check_error)
            return Health("READY" if self._pick() is not None else "BUSY", setup)
        starting = next((post.worker for post in self._posts if post.worker and post.worker.state == "starting"), None)
        setup = (starting.diary if starting is not None else self._last).setup()
        error = (starting.why_over if starting is not None else "") or self._why
        if self.info is None:
            return Health("SETUP_FAILED" if self._given_up else "STARTING", setup, error=error)
        return Health(
            "DEFUNCT" if self._defunct() else "STARTING", setup, error=error, restart_in_s=self._restart_in_s()
        )

    def _restart_in_s(self) -> float:
        """Give when the next worker is started; 0.0 while one is."""
        if any(post.worker is not None for post in self._posts):
            return 0.0
        timers = [post.timer.when() for post in self._posts if post.timer is not None]
        return round(max(0.0, min(timers) - asyncio.get_running_loop().time()), 3) if timers else 0.0

    async def check(self) -> str:
        """Ask one worker's handler how it is; gives what is wrong. Holds: one such question at a time.

        Shape: what was said last, where no worker can be heard at present for a reader that is slow.
        """
        checking = self._checking
        if checking is None or checking.done():
            checking = self._checking = self._tasks.spawn(self._check())
        return await asyncio.shield(checking)

    async def _check(self) -> str:
        worker = min(self._ready(), key=lambda each: (each.held, each.load), default=None)
        if worker is None or worker.info is None or not worker.info.checks_health:
            self._check_error = ""
        else:
            said = await worker.check(CHECK_S)
            self._check_error = self._check_error if said is None else said
        return self._check_error

    # --- the end ---------------------------------------------------------------------------------------------------

    async def close(self, timeout_s: float) -> None:
        """Take no more work, let what runs end within a time, then end the processes. Holds: nothing after."""
        self._closed = True
        self._settled.set()
        for post in self._posts:
            if post.timer is not None:
                post.timer.cancel()
                post.timer = None
        self._turn_away()
        self._measure()
        if self.running:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._idle.wait()
        last = Ending(SERVER_SHUTDOWN)
        await together(*(worker.stop(last) for worker in tuple(self._workers)))
        lives = tuple(self._lives)
        if lives:
            await asyncio.wait(lives, timeout=LEFT_S)
