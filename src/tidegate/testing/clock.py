"""An event loop whose time is made up: it stands still while anything can run, then jumps to the next timer.

Production code keeps its `asyncio.sleep`, `asyncio.timeout`, `call_later` and `loop.time`; hours pass in no time, and the
same way each time. Where a part takes a clock, hand in `asyncio.get_running_loop().time`. Sockets and threads are not
served here, and say so.
"""

import asyncio
import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, Final, Never, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START_S: Final = 1000.0
"""The first instant. Not zero, which stands for "never" in records."""
HORIZON_S: Final = 30 * 86400.0
"""How far time goes; what would come later never comes."""
SHOWN_TASKS: Final = 10
"""How many tasks a message lists."""


class StuckError(AssertionError):
    """Nothing can run and nothing will: whoever waits would wait for ever."""


class LeakError(AssertionError):
    """Something was left behind: a task that still runs, or an error that nobody saw."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time. Shape: timers run by instant, those of one instant in the order they were set.

    Holds: a cancelled timer stays in memory until its instant.
    """

    _ready: deque[asyncio.Handle]
    _stopping: bool
    _check_closed: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self._now = START_S
        self._heap: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self._thread = threading.get_ident()
        self.unseen: list[dict[str, Any]] = []

    def time(self) -> float:
        """Give the virtual instant, in seconds."""
        return self._now

    def timers(self) -> list[asyncio.TimerHandle]:
        """Give the timers that are set and not cancelled, the next one first."""
        return [timer for _, _, timer in sorted(self._heap) if not timer.cancelled()]

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Set a timer."""
        self._check_closed()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._heap, (when, next(self._numbers), timer))
        return timer

    def _run_once(self) -> None:
        """Run what is ready, and what is due after it; when there is neither, go to the next timer."""
        ready, heap = self._ready, self._heap
        if not ready and not self._stopping:
            self._jump()
        while heap and heap[0][0] <= self._now:
            ready.append(heapq.heappop(heap)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:  # noqa: SLF001 (a loop and its handles are one mechanism; a call costs a tenth of the turn)
                handle._run()  # noqa: SLF001 (as above)

    def _jump(self) -> None:
        heap = self._heap
        while heap and heap[0][2].cancelled():
            heapq.heappop(heap)
        if not heap:
            raise StuckError(f"nothing is ready and no timer is set {self._waiting()}")
        if heap[0][0] > START_S + HORIZON_S:
            raise StuckError(f"nothing is ready and the next timer is out of reach {self._waiting()}")
        self._now = max(self._now, heap[0][0])

    def _waiting(self) -> str:
        return f"after {self._now - START_S:g} s, while these wait: {_listed(asyncio.all_tasks(self))}"

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep an error that nobody else saw."""
        self.unseen.append(context)

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call soon. Errors: RuntimeError in another thread, for which this loop does not wait."""
        if threading.get_ident() != self._thread:
            _refuse("another thread's call")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], object], *args: *Ts) -> Never:  # noqa: ARG002 (the loop's signature)
        """Refuse. Errors: RuntimeError."""
        _refuse(f"{getattr(func, '__qualname__', func)} in an executor")


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in virtual time; gives its result.

    Errors: what it raises; StuckError when it would wait for ever; LeakError when tasks or unseen errors are left.
    """
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        result = runner.run(main())
        leaked = asyncio.all_tasks(loop)
        if leaked:
            raise LeakError(f"tasks are left: {_listed(leaked)}")
    if loop.unseen:
        context = loop.unseen[0]
        raise LeakError(f"nobody saw an error: {context['message']}") from context.get("exception")
    return result


def _refuse(what: str) -> Never:
    raise RuntimeError(f"virtual time does not wait for threads: {what}")


def _listed(tasks: Iterable[asyncio.Task[Any]]) -> str:
    lines = sorted(f"{task.get_name()} in {_place(task.get_coro())}" for task in tasks)
    more = len(lines) - SHOWN_TASKS
    return "; ".join(lines[:SHOWN_TASKS]) + (f"; and {more} more" if more > 0 else "")


def _place(work: Any) -> str:
    """Give where a coroutine is suspended: its own line, then those of what it awaits, as deep as can be seen."""
    lines = []
    while (frame := getattr(work, "cr_frame", None)) is not None:
        lines.append(f"{work.__qualname__}:{frame.f_lineno}")
        work = work.cr_await
    return " > ".join(lines) or repr(work)
