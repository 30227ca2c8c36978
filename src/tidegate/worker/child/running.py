"""One prediction: its arguments, its handler's call, what comes of it, and its one ending.

waiting ──▶ performing ──▶ over            `cancel` marks any of the first two; whatever the handler does then, the
   └──────────────────────▶ over           ending is `canceled`. In `over` nothing reaches the handler's thread or task.
"""

import asyncio
import inspect
import io
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import msgspec

from tidegate.kernel.telling import Mode, Status
from tidegate.predict.encoding import data_uri, encode
from tidegate.predict.handler import Handler, Running
from tidegate.predict.levels import MAX_LEVELS, is_too_deep
from tidegate.predict.scope import CancellationException, Scope, enter
from tidegate.worker.child.faults import sentence, trace
from tidegate.worker.child.link import Link
from tidegate.worker.child.prints import Prints
from tidegate.worker.child.shield import Hand
from tidegate.worker.messages import INPUT_ERROR, Ended, Item, Metric, Predict

FIRST_PRESS_S: Final = 0.25
"""How long a synchronous handler has to see that it is cancelled before an exception is raised in it."""

PRESS_S: Final = 1.0
"""How often a handler that goes on is pressed again."""

TURN_S: Final = 0.005
"""How long an asynchronous handler may keep the loop by giving items without waiting for anything."""


_TOO_DEEP: Final = f"it is nested more than {MAX_LEVELS} levels deep"

_PLAIN: Final = frozenset({str, int, float, bool, type(None), dict})
"""What is no list and comes at once, as one sees by its type."""


@dataclass(slots=True, kw_only=True)
class Desk:
    """What all predictions of the process share. Shape: `runs` are those that are not over, by number; `since` a time of day."""

    link: Link
    prints: Prints
    handler: Handler
    running: Running
    directory: Path
    loop: asyncio.AbstractEventLoop
    context: Context
    since: float = field(default_factory=time.time)
    runs: dict[int, "Run"] = field(default_factory=dict)


class OwnScope(Scope):
    """The scope of a prediction that has a directory for its files."""

    def __init__(self, predict: Predict, desk: Desk) -> None:
        super().__init__(id=predict.id, context=predict.context, emit=self._emit)
        self._number = predict.number
        self._desk = desk
        # Threads that ask for it at the same time may make several, of which the first counts.
        self._directories: list[Path] = []
        self._swept = False

    @property
    def directory(self) -> Path:
        """A directory of this prediction alone. Holds: until the prediction ends, then it is removed with all in it.

        Errors: RuntimeError after that.
        """
        directory = self._made()
        if directory is None:
            raise RuntimeError("there is no directory any more: the prediction is over")
        return directory

    def place(self) -> Path:
        """Give where temporary files are made: its directory, and the worker's once it is over."""
        return self._made() or self._desk.directory

    def _made(self) -> Path | None:
        if not self._directories and not self._swept:
            self._directories.append(Path(tempfile.mkdtemp(prefix="prediction-", dir=self._desk.directory)))
        if self._swept:
            self.sweep()
            return None
        return self._directories[0]

    def sweep(self) -> None:
        """Remove the directory. Never raises."""
        self._swept = True
        for directory in self._directories:
            shutil.rmtree(directory, ignore_errors=True)

    def _emit(self, name: str, value: Any, mode: Mode) -> None:
        self._desk.link.put(Metric(self._number, name, msgspec.json.encode(value), mode))
        self._desk.link.wait()


class Run:
    """A prediction in this process. Shape: `perform` and `finish` in a thread, or `go` on the loop."""

    def __init__(self, predict: Predict, desk: Desk) -> None:
        self.number = predict.number
        self.hand: Hand | None = None
        self._predict = predict
        self._desk = desk
        self._scope = OwnScope(predict, desk)
        self._printed = desk.prints.open(predict.number)
        self._context = desk.context.copy()
        self._arguments: Mapping[str, Any] = {}
        self._road: asyncio.Task[None] | None = None  # the loop itself holds tasks weakly
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._refusal = ""
        self._value: bytes | None = None
        self._array = False
        self._turned = 0.0
        self._over = False

    # --- cancelling, on the loop -------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop it: at once where it waits on the loop, else when it looks, else by raising in its thread."""
        if not self._scope.cancelled:
            self._scope.cancel()
            if self._task is not None:
                self._task.cancel()
            self._desk.loop.call_later(PRESS_S if self._task else FIRST_PRESS_S, self._press)

    def press(self) -> None:
        """Stop it, without the time to look."""
        self._scope.cancel()
        if self._task is not None:
            self._task.cancel()
        elif self.hand is not None:
            self.hand.interrupt(self.number)

    def _press(self) -> None:
        if not self._over:
            self.press()
            self._desk.loop.call_later(PRESS_S, self._press)

    # --- the two roads -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run on the loop."""
        self._road = self._context.run(self._desk.loop.create_task, self._go())

    async def _go(self) -> None:
        try:
            await self._attend(self._call_async())
        finally:
            self.finish()

    async def _attend(self, work: Any) -> None:
        self._task = asyncio.current_task()
        try:
            await work
        except BaseException as error:  # noqa: BLE001  (a handler's SystemExit is a failed prediction, no more)
            self._error = error
        self._task = None

    async def _call_async(self) -> None:
        self._enter()
        if self._prepared():
            await self._give_async(self._desk.running.call(self._arguments))

    def perform(self) -> None:
        """Run in a thread, which may be interrupted."""
        self._context.run(self._call)

    def _call(self) -> None:
        try:
            self._enter()
            if self._prepared():
                self._give(self._desk.running.call(self._arguments))
        except BaseException as error:  # noqa: BLE001  (as above)
            self._error = error

    def _enter(self) -> None:
        """Make it the current one of its context, which nobody else uses."""
        self._desk.prints.enter(self._printed)
        enter(self._scope)

    def _prepared(self) -> bool:
        if self._scope.cancelled:
            return False
        try:
            self._arguments = self._desk.handler.arguments(_decoded(self._predict.input), self._predict.files)
        except ValueError as error:
            self._refusal = f"{INPUT_ERROR}{error}"
            return False
        return True

    # --- what comes, in a thread -------------------------------------------------------------------------------

    def _give(self, result: Any) -> None:
        if type(result) in _PLAIN:
            self._value = self._encoded(result)
        elif inspect.isawaitable(result) or isinstance(result, AsyncIterator):
            self._lend(result)
        elif _streams(result):
            self._stream(result)
        elif _lists(result):
            self._array = True
            for item in result:
                self._item(item)
        else:
            self._value = self._encoded(result)

    def _stream(self, items: Iterator[Any]) -> None:
        self._array = True
        try:
            for item in items:
                if self._scope.cancelled:
                    raise CancellationException  # noqa: TRY301  (raised in the generator below)
                self._item(item)
        except CancellationException as cancelled:
            with suppress(StopIteration):
                getattr(items, "throw", _raise)(cancelled)
            raise
        finally:
            getattr(items, "close", _nothing)()

    def _item(self, item: Any) -> None:
        self._desk.link.put(Item(self.number, self._encoded(item)))
        self._desk.link.wait()

    def _lend(self, result: Any) -> None:
        """Let the loop run what a plain function gave for it, and wait."""
        done: SimpleQueue[None] = SimpleQueue()

        async def attended() -> None:
            await self._attend(self._give_async(result))
            done.put(None)

        self._desk.loop.call_soon_threadsafe(self._start_lent, attended())
        done.get()

    def _start_lent(self, work: Any) -> None:
        self._road = self._desk.loop.create_task(work)

    # --- what comes, on the loop -------------------------------------------------------------------------------

    async def _give_async(self, result: Any) -> None:
        if inspect.isawaitable(result):
            result = await result
        if isinstance(result, AsyncIterator):
            await self._stream_async(result)
        elif _streams(result) or _lists(result):
            self._array = True
            for item in result:
                await self._item_async(item)
        else:
            self._value = self._encoded(result)

    async def _stream_async(self, items: AsyncIterator[Any]) -> None:
        self._array = True
        try:
            async for item in items:
                await self._item_async(item)
        except asyncio.CancelledError as cancelled:
            with suppress(StopAsyncIteration):
                await getattr(items, "athrow", _raise_async)(cancelled)
            raise
        finally:
            await getattr(items, "aclose", _nothing_async)()

    async def _item_async(self, item: Any) -> None:
        if self._scope.cancelled:
            raise asyncio.CancelledError
        self._desk.link.put(Item(self.number, self._encoded(item)))
        await self._desk.link.drained()
        if time.monotonic() - self._turned > TURN_S:
            await asyncio.sleep(0)
            self._turned = time.monotonic()

    def _encoded(self, value: Any) -> bytes:
        return encode(value, file=self._file)

    def _file(self, path: Path) -> str:
        uri = data_uri(path)
        if path.resolve().is_relative_to(self._desk.directory) and not self._is_of_setup(path):
            path.unlink(missing_ok=True)
        return uri

    def _is_of_setup(self, path: Path) -> bool:
        with suppress(OSError):
            return path.stat().st_ctime < self._desk.since
        return False

    # --- the ending --------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Remove its files. Never raises."""
        self._scope.sweep()

    def finish(self) -> None:
        """Give back what it held, and say how it ended. Shape: nothing of the prediction is sent after that."""
        cancelled = self._scope.cancelled
        self._over = True
        try:
            self._scope.close()
        finally:
            self._desk.handler.close(self._arguments)
        ending = self._ending(cancelled)
        self._error = None  # its traceback holds what the handler had open
        self._scope.sweep()
        self._desk.prints.restore()
        self._desk.runs.pop(self.number, None)
        self._desk.link.put(*self._desk.prints.close(self.number), ending)

    def _ending(self, cancelled: bool) -> Ended:  # noqa: FBT001  (what was seen, once)
        if cancelled:
            return self._ended("canceled")
        if self._refusal:
            return self._ended("failed", self._refusal)
        if self._error is not None:
            return self._ended("failed", sentence(self._error), trace(self._error))
        return Ended(self.number, "succeeded", self._value, array=self._array)

    def _ended(self, status: Status, error: str = "", traceback: str = "") -> Ended:
        return Ended(self.number, status, array=self._array, error=error, traceback=traceback)


def _decoded(given: bytes) -> dict[str, Any]:
    """Read an input. Errors: ValueError."""
    try:
        found = msgspec.json.decode(given, type=dict[str, Any])
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    # Few inputs have as many brackets, and only those are walked through.
    if given.count(b"[") + given.count(b"{") > MAX_LEVELS and is_too_deep(found):
        raise ValueError(_TOO_DEEP)
    return found


def _streams(result: Any) -> bool:
    return isinstance(result, Iterator) and not isinstance(result, io.IOBase)


def _lists(result: Any) -> bool:
    return isinstance(result, list | tuple | set | frozenset) and not hasattr(result, "_fields")


def _raise(error: BaseException) -> None:
    raise error


async def _raise_async(error: BaseException) -> None:
    raise error


def _nothing() -> None:
    pass


async def _nothing_async() -> None:
    pass
