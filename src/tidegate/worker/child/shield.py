"""Threads that a cancellation can be raised in, and the parts of their work that it must not reach."""

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import RLock, Thread, get_ident
from typing import Any, Final, Protocol

from tidegate.predict.scope import CancellationException

_set_error: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)

_NOTHING: Final[AbstractContextManager[Any]] = nullcontext()


class Job(Protocol):
    """One prediction for a thread. Shape: `perform` may be interrupted, `finish` comes after it and may not."""

    number: int
    hand: "Hand | None"

    def perform(self) -> None:
        """Run the handler; raises nothing of its own, but may be left by CancellationException."""
        ...

    def finish(self) -> None:
        """Say how it ended. Never raises."""
        ...


class Shields:
    """Whether the thread that asks may be interrupted: inside `with shields.here():` nothing is raised in it."""

    def __init__(self) -> None:
        self._locks: dict[int, AbstractContextManager[Any]] = {}

    def here(self) -> AbstractContextManager[Any]:
        """Give the shield of this thread. Shape: may be entered again inside itself; call `settled` first within it."""
        return self._locks.get(get_ident(), _NOTHING)

    def add(self, ident: int, lock: AbstractContextManager[Any]) -> None:
        """Protect a thread by a lock that whoever interrupts it takes."""
        self._locks[ident] = lock


def settled() -> None:
    """Let an interruption that was set before the shield was entered be raised now: entering a function is where it is."""


class Hand:
    """A long-lived thread that takes jobs, one at a time.

    Shape: `interrupt` names the job; an interruption reaches that job or nobody, because the thread swallows what was not
    raised yet before it says that the job ended. Under the lock nobody interrupts. `on_death` is called in the thread when
    something ends it that others raised in it.
    """

    def __init__(self, take: Callable[[], Job], shields: Shields, name: str, on_death: Callable[[], None]) -> None:
        self._take = take
        self._on_death = on_death
        self._shields = shields
        self._lock = RLock()
        self._number = 0
        self._ident = 0
        self._raised = False
        self._thread = Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread. It ends with the process."""
        self._thread.start()

    def interrupt(self, number: int) -> None:
        """Raise CancellationException in the thread if it runs that job."""
        with self._lock:
            if self._number == number:
                self._raised = True
                _raise_in(self._ident)

    def _work(self) -> None:
        self._ident = get_ident()
        self._shields.add(self._ident, self._lock)
        try:
            while True:
                job = self._take()
                job.hand = self
                try:
                    self._run(job)
                finally:
                    job.finish()
                del job
        finally:
            self._on_death()

    def _run(self, job: Job) -> None:
        try:
            try:
                self._number = job.number
                job.perform()
            finally:
                self._number = 0  # from here on nobody interrupts, and at most one interruption is still to be raised
                with self._lock:
                    self._number = 0  # a debugger's function may have been left in place of the line above
                    if self._raised:
                        self._raised = False
                        _raise_in(self._ident)
        except CancellationException:
            return


def _raise_in(ident: int) -> None:
    """Raise CancellationException in a thread at its next step of Python, once, however often that was asked before.

    CPython before 3.13 has one mark for all threads, "something is to be raised somewhere", which only raising removes.
    While it is set every thread looks at every step, and one that is traced (by a debugger, by coverage) does not get past
    the start of a function in 3.11. So this thread raises it too, and drops it; no function of Python is called meanwhile.
    The other thread sets the mark again when it goes on. Where both are the same, nothing is left to be raised.
    """
    try:
        for each in (ident, get_ident()):
            _set_error(each, CancellationException)
        settled()
    except CancellationException:
        return
