"""The process from its first message to its last: load, set up, run what is asked, exit."""

import asyncio
import contextvars
import ctypes
import faulthandler
import inspect
import os
import select
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Final, NoReturn

import msgspec

from tidegate.predict.handler import Handler, HandlerError, load
from tidegate.worker.child import redirects, temporaries
from tidegate.worker.child.belonging import Belonging
from tidegate.worker.child.checks import Checks
from tidegate.worker.child.faults import sentence, trace
from tidegate.worker.child.link import Gone, Link
from tidegate.worker.child.prints import Prints
from tidegate.worker.child.running import Desk, Run
from tidegate.worker.child.shield import Hand, Job, Shields
from tidegate.worker.messages import Begin, Cancel, Check, Ended, Info, Predict, Ready, SetupFailed, ToWorker

GRACE_S: Final = 1.0
"""How long handlers have to end once the parent is gone, and the process once it has nothing to do."""

_PR_SET_PDEATHSIG: Final = 1
_epoll: Final = select.epoll if sys.platform == "linux" else None
"""As it is before user code is loaded: libraries for green threads take it away."""


def main(number: int) -> NoReturn:
    """Serve the parent at the other end of an inherited socket, and exit."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(file=2)
    sock = socket.socket(fileno=number)
    sock.set_inheritable(False)
    shields = Shields()
    link = Link(sock, shields)
    prints = Prints(link, shields)
    os.register_at_fork(after_in_child=link.forked)
    os.register_at_fork(after_in_child=prints.forked)
    places: list[Path] = []
    Thread(target=_watch, args=(number, places), name="parent", daemon=True).start()
    try:
        code = _serve(link, prints, shields, places)
    except Gone:
        link.gone = True
        code = 1
    if link.gone:
        _remove(places)
    Thread(target=_end, args=(code,), name="end", daemon=True).start()
    sys.exit(code)


def _die_with_parent() -> None:
    """Let the system kill this process with the thread that started it, for native code may keep every thread from running.

    Shape: on Linux; elsewhere, and for a parent that was gone before, the end of the socket has to do.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _watch(number: int, places: list[Path]) -> None:
    """End when the parent is gone, however busy the main thread is, and remove what that would have removed.

    Shape: where the system is not quicker, see `_die_with_parent`; then the next gateway removes it.
    """
    poll = select.poll()
    poll.register(number, getattr(select, "POLLRDHUP", 0))
    poll.poll()
    time.sleep(2 * GRACE_S)
    _remove(places)
    os.kill(os.getpid(), signal.SIGKILL)  # `os._exit` may be replaced by Python that saves things first


def _remove(places: list[Path]) -> None:
    for place in places:
        shutil.rmtree(place, ignore_errors=True)


def _end(code: int) -> None:
    """Exit though a thread of the user's goes on, or something that runs at exit does not end."""
    time.sleep(GRACE_S)
    os._exit(code)


def _serve(link: Link, prints: Prints, shields: Shields, places: list[Path]) -> int:
    """Set up and serve; gives the exit code. Shape: `places` learns the directory. Errors: Gone."""
    begin = link.receive()
    if not isinstance(begin, Begin):
        raise Gone
    prints.install()
    Belonging(prints).install()
    directory = Path(begin.directory).resolve()
    places.append(directory)
    temporaries.install(directory)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        handler = load(begin.handler)
        running = handler.make()
        made = running.setup(os.environ.get("COG_WEIGHTS"))
        if inspect.isawaitable(made):
            loop.run_until_complete(_awaited(made))
        ready = Ready(_info(handler))
    except BaseException as error:  # noqa: BLE001  (whatever the user's code raises says why)
        link.put(*prints.worker.rests(), _failure(error))
        return 1
    link.put(*prints.worker.rests(), ready)
    prints.keep()
    if handler.slots > 1:
        redirects.install()
    desk = Desk(
        link=link,
        prints=prints,
        handler=handler,
        running=running,
        directory=directory,
        loop=loop,
        context=contextvars.copy_context(),
    )
    return Serving(desk, shields).run()


async def _awaited(made: Any) -> None:
    await made


def _failure(error: BaseException) -> SetupFailed:
    if isinstance(error, HandlerError):
        return SetupFailed(str(error), "" if error.__cause__ is None else trace(error.__cause__))
    return SetupFailed(sentence(error), trace(error))


def _info(handler: Handler) -> bytes:
    return msgspec.json.encode(
        Info(
            openapi=msgspec.Raw(msgspec.json.encode(handler.openapi())),
            input_schema=msgspec.Raw(msgspec.json.encode(handler.input_schema())),
            files=handler.files,
            parameters=handler.parameters,
            streams=handler.streams,
            array=handler.array,
            takes=handler.takes,
            slots=handler.slots,
            checks_health=handler.checks_health,
        )
    )


class Serving:
    """Takes messages, hands predictions to tasks or threads. Holds: `slots` threads for a synchronous handler.

    Shape: the loop reads while anything runs. While nothing does, the thread that was the last to work reads its next
    prediction itself, so that none has to be woken for it; whatever else it reads is the loop's. Whoever reads has `_turn`.
    """

    def __init__(self, desk: Desk, shields: Shields) -> None:
        self._desk = desk
        self._shields = shields
        self._is_async = desk.handler.kind in {"coroutine", "async_generator"}
        checks_async = inspect.iscoroutinefunction(getattr(desk.handler.found, "healthcheck", None))
        self._checks = Checks(desk.running.healthcheck, desk.link, is_async=checks_async)
        self._jobs: SimpleQueue[Job] = SimpleQueue()  # bounded by the slots, in `_accept`
        self._turn = Lock()
        self._gauge = Gauge(desk.link.fileno())
        self._stopped = False

    def run(self) -> int:
        """Serve until the parent says so or is gone; gives the exit code."""
        desk = self._desk
        desk.link.attach(desk.loop)
        desk.loop.add_reader(self._gauge.fileno(), self._read)
        for index in range(0 if self._is_async else desk.handler.slots):
            Hand(self._next, self._shields, f"prediction-{index + 1}", self._lost_hand).start()
        self._run_loop()
        desk.link.close(GRACE_S)
        return 1 if desk.link.gone else 0

    def _run_loop(self) -> None:
        """Run the loop until it is stopped, whatever tasks of the user's raise."""
        while not self._stopped:
            try:
                self._desk.loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                self._desk.prints.write("stderr", trace(error))

    # --- reading, on the loop --------------------------------------------------------------------------------------

    def _read(self) -> None:
        if not self._turn.acquire(blocking=False):
            return  # a thread was quicker
        try:
            messages = self._desk.link.messages()
        except Gone:
            self._lose()
        else:
            self._take(messages)
        finally:
            self._turn.release()

    def _take(self, messages: list[ToWorker]) -> None:
        for message in messages:
            if isinstance(message, Predict):
                run = self._accept(message)
                if run is not None and self._is_async:
                    run.start()
                elif run is not None:
                    self._jobs.put(run)
            elif isinstance(message, Cancel):
                if run := self._desk.runs.get(message.number):
                    run.cancel()
            elif isinstance(message, Check):
                self._checks.start(message.number)
            else:
                self._stop()

    def _accept(self, message: Predict) -> Run | None:
        """Give a new run; None, and a refusal to the parent, where there is no place for one."""
        runs = self._desk.runs
        if len(runs) >= self._desk.handler.slots or message.number in runs:
            self._desk.link.put(Ended(message.number, "failed", error="The worker is busy"))
            return None
        run = runs[message.number] = Run(message, self._desk)
        return run

    # --- reading, in a thread --------------------------------------------------------------------------------------

    def _next(self) -> Job:
        """Give a thread what it is to do next."""
        if self._gauge.closes and self._turn.acquire(blocking=False):
            try:
                run = None if self._desk.runs else self._listen()
            finally:
                self._turn.release()
            if run is not None:
                return run
        return self._jobs.get()

    def _listen(self) -> Run | None:
        """Wait for a prediction; None when the parent is gone."""
        self._gauge.close()
        try:
            while True:
                run = self._sort(self._desk.link.messages(waits=True))
                if run is not None:
                    return run
        except Gone:
            self._desk.loop.call_soon_threadsafe(self._lose)
            return None
        finally:
            self._gauge.open()

    def _sort(self, messages: list[ToWorker]) -> Run | None:
        """Give the first prediction, other threads the others, and the loop all else."""
        first, rest = None, list[ToWorker]()
        for message in messages:
            if not isinstance(message, Predict):
                rest.append(message)
            elif (run := self._accept(message)) is not None:
                if first is None:
                    first = run
                else:
                    self._jobs.put(run)
        if rest:
            self._desk.loop.call_soon_threadsafe(self._take, rest)
        return first

    # --- the end ---------------------------------------------------------------------------------------------------

    def _lost_hand(self) -> None:
        """End all: what a thread had read that something ended from outside is lost, and its place with it."""
        self._desk.loop.call_soon_threadsafe(self._break)

    def _break(self) -> None:
        """Leave at once: the parent tells of what runs here that the process ended."""
        self._desk.loop.remove_reader(self._gauge.fileno())
        self._desk.link.gone = True
        self._stop()

    def _lose(self) -> None:
        """Take notice that the parent is gone."""
        if self._desk.loop.remove_reader(self._gauge.fileno()):
            self._abandon(time.monotonic() + GRACE_S)

    def _stop(self) -> None:
        self._stopped = True
        self._desk.loop.stop()

    def _abandon(self, deadline: float) -> None:
        """Nobody listens any more: end everything, for so long."""
        runs = list(self._desk.runs.values())
        for run in runs:
            run.press()
        if runs and time.monotonic() < deadline:
            self._desk.loop.call_later(0.05, self._abandon, deadline)
        else:
            for run in runs:
                run.sweep()
            self._desk.link.gone = True
            self._stop()


class Gauge:
    """What the loop watches in place of a socket: readable when that is, unless it is closed. Any thread may do so."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._poll = None if _epoll is None else _epoll()
        if self._poll is not None:
            self._poll.register(number, select.EPOLLIN)

    @property
    def closes(self) -> bool:
        """Whether it can be closed at all. Shape: elsewhere than on Linux it is the socket itself."""
        return self._poll is not None

    def fileno(self) -> int:
        """Give what is to be watched."""
        return self._number if self._poll is None else self._poll.fileno()

    def open(self) -> None:
        """Be readable when the socket is."""
        if self._poll is not None:
            self._poll.modify(self._number, select.EPOLLIN)

    def close(self) -> None:
        """Be readable no more, but for a socket that is broken."""
        if self._poll is not None:
            self._poll.modify(self._number, 0)
