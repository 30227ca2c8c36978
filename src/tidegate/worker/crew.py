"""The workers of one provider: kept at their number, given work in turn, and asked how they are."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from tidegate.exchange import Ending
from tidegate.tasks import Tasks, together
from tidegate.verdict import MODEL_UNAVAILABLE, SERVER_SHUTDOWN, AttemptFailed
from tidegate.worker.health import Health, Setup, SetupDiary
from tidegate.worker.messages import Info
from tidegate.worker.worker import Work, Worker

FIRST_BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 30.0
DEFUNCT_AFTER: Final = 3
"""So many ends in a row, with no work done between them, and a worker is not taken for one that is about to come back."""
CHECK_S: Final = 5.0
POLL_S: Final = 0.02


class _Post(Struct, eq=False):
    """Where one worker of the configured number belongs. Shape: `failures` counts ends in a row without work between."""

    number: int
    worker: Worker | None = None
    failures: int = 0
    timer: asyncio.TimerHandle | None = None


class Crew:
    """Workers of one provider.

    Holds: a worker at each post, or a timer until the next one; those that retire besides, as long as a prediction is in
    them; a task for each. Shape: `info` and `slots` are known from the first that was set up.
    """

    def __init__(self, work: Work, tasks: Tasks, on_slots: Callable[[int], None]) -> None:
        self.info: Info | None = None
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
        self._first = SetupDiary(work.wall())
        self._failure = ""
        self._started = self._closed = False
        self._settled = asyncio.Event()

    @property
    def running(self) -> int:
        """How many predictions run."""
        return sum(len(worker.runs) for worker in self._workers)

    def start(self) -> None:
        """Begin to start the workers."""
        if not self._started and not self._closed:
            self._started = True
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
            why = (
                f"the model cannot be set up: {self._failure}"
                if self._failure
                else "the model's setup has not finished"
            )
            raise AttemptFailed(MODEL_UNAVAILABLE, why)
        if self._defunct():
            raise AttemptFailed(MODEL_UNAVAILABLE, "the model's workers keep failing; its log says why")
        return self.info

    def _pick(self) -> Worker | None:
        free = [post.worker for post in self._posts if post.worker is not None and post.worker.free]
        return min(free, key=lambda worker: worker.load, default=None)

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
                    waiter.set_exception(AttemptFailed(refusal.verdict, refusal.message, status=refusal.status))

    # --- Employing -------------------------------------------------------------------------------------------------

    def ready(self, worker: Worker, /) -> None:
        """Let a worker that is set up take work."""
        first = self.info is None
        self.info = worker.info
        slots = len(self._posts) * (worker.info.slots if worker.info is not None else 0)
        if first:
            self._first, self._failure = worker.diary, ""
            for post in self._posts:
                if post.worker is None and post.timer is None:
                    self._hire_later(post)
        if slots != self.slots:
            self.slots = slots
            self._on_slots(slots)
        self._settled.set()
        self._serve()

    def freed(self, worker: Worker, /) -> None:  # noqa: ARG002 (the least busy gets the next)
        """Give a place that came free to the first in line."""
        self._serve()

    def retires(self, worker: Worker, /) -> None:
        """Replace a worker at once: it was ours to end."""
        for post in self._posts:
            if post.worker is worker:
                post.worker = None
                if not self._closed:
                    self._hire(post)

    def _hire(self, post: _Post) -> None:
        post.timer = None
        worker = post.worker = Worker(self._work, self, post.number)
        self._workers.add(worker)
        life = self._tasks.spawn(self._life(post, worker))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)

    def _hire_later(self, post: _Post) -> None:
        delay_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(post.failures - 1, 10))
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
        lasted = worker.ready_at and self._work.clock() - worker.ready_at >= MAX_BACKOFF_S
        post.failures = 1 if worker.worked or lasted else post.failures + 1
        if self._closed:
            return
        if self.info is not None:
            self._hire_later(post)
            self._turn_away()
            return
        self._first = worker.diary
        if not any(other.worker for other in self._posts):
            self._failure = worker.failure
            self._settled.set()

    def _defunct(self) -> bool:
        return not any(post.worker is not None and post.worker.state == "ready" for post in self._posts) and all(
            post.failures >= DEFUNCT_AFTER for post in self._posts
        )

    # --- health ----------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Give how the workers are. Shape: what the handler's own check says is what it said last."""
        setup = self._setup()
        if self.info is None:
            return Health("SETUP_FAILED" if self._failure else "STARTING", setup, error=self._failure)
        if not any(post.worker is not None and post.worker.state == "ready" for post in self._posts):
            return Health("DEFUNCT" if self._defunct() else "STARTING", setup)
        if self._check_error:
            return Health("UNHEALTHY", setup, user_healthcheck_error=self._check_error)
        return Health("BUSY" if self.running >= self.slots else "READY", setup)

    def _setup(self) -> Setup:
        if self.info is None and not self._failure:
            starting = next((post.worker for post in self._posts if post.worker is not None), None)
            return (starting.diary if starting is not None else self._first).setup()
        return self._first.setup()

    async def check(self) -> str:
        """Ask one worker's handler how it is; gives what is wrong. Holds: one such question at a time."""
        checking = self._checking
        if checking is None or checking.done():
            checking = self._checking = self._tasks.spawn(self._check())
        return await asyncio.shield(checking)

    async def _check(self) -> str:
        ready = [post.worker for post in self._posts if post.worker is not None and post.worker.state == "ready"]
        worker = min(ready, key=lambda each: each.load, default=None)
        if worker is None or worker.info is None or not worker.info.checks_health:
            self._check_error = ""
        else:
            self._check_error = await worker.check(CHECK_S)
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
        deadline = self._work.clock() + timeout_s
        while self.running and self._work.clock() < deadline:
            await asyncio.sleep(POLL_S)
        last = Ending(SERVER_SHUTDOWN)
        await together(*(worker.stop(last) for worker in tuple(self._workers)))
        lives = tuple(self._lives)
        if lives:
            await asyncio.wait(lives)
