"""What is printed, line by line, to the prediction that printed it: sys.stdout and sys.stderr of the process."""

import codecs
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from queue import SimpleQueue
from threading import RLock, Thread
from types import MappingProxyType
from typing import Any, Final, NoReturn

from tidegate.kernel.telling import Source
from tidegate.worker.child.link import Link
from tidegate.worker.child.shield import Shields, settled
from tidegate.worker.messages import Log

MAX_LINE_CHARS: Final = 64 * 1024
"""A line that grows longer is sent in parts."""

PART_S: Final = 0.1
"""What has no end of line is sent when it has none for so long, at most twice as long."""

LEAVING_S: Final = 1.0
"""How long `os._exit` waits until what was printed is sent."""


class Printed:
    """What one prediction printed on both streams; number 0 is the worker.

    Shape: text without its end of line is kept for a moment; a carriage return is one, too. `left` is called where some is.
    """

    def __init__(self, number: int, link: Link, shields: Shields, left: Callable[[], None]) -> None:
        self._number = number
        self._link = link
        self._shields = shields
        self._left = left
        self._lock = RLock()
        self._rest: dict[Source, list[str]] = {"stdout": [], "stderr": []}
        self._length: dict[Source, int] = {"stdout": 0, "stderr": 0}
        self._seen: set[Source] = set()
        self._decoders: dict[Source, codecs.IncrementalDecoder] = {}
        self._over = False

    def write(self, source: Source, text: str) -> bool:
        """Take text, send whole lines. Gives whether the prediction still takes some."""
        with self._shields.here():
            settled()
            with self._lock:
                if self._over:
                    return False
                self._take(source, text)
        return True

    def decode(self, source: Source, data: bytes) -> str:
        """Give bytes as text; a character that is not complete waits for its other bytes."""
        with self._shields.here():
            settled()
            with self._lock:
                decoder = self._decoders.get(source)
                if decoder is None:
                    decoder = self._decoders[source] = codecs.getincrementaldecoder("utf-8")("replace")
                return decoder.decode(data)

    def close(self) -> list[Log]:
        """Take no more; gives what is left."""
        with self._lock:
            self._over = True
            return self.rests() if self._decoders or any(self._length.values()) else []

    def rests(self) -> list[Log]:
        """Take out what has no end of line."""
        with self._lock:
            sources: tuple[Source, ...] = ("stdout", "stderr")
            for source, decoder in self._decoders.items():
                self._rest[source].append(decoder.decode(b"", final=True))
            return [Log(self._number, source, text) for source in sources if (text := self._pop(source))]

    def age(self) -> bool:
        """Send what was left at the last call already; gives whether something is left."""
        with self._lock:
            for source in [source for source, length in self._length.items() if length]:
                if source in self._seen:
                    self._link.put(Log(self._number, source, self._pop(source)))
                else:
                    self._seen.add(source)
            return bool(self._seen)

    def _take(self, source: Source, text: str) -> None:
        end = max(text.rfind("\n"), text.rfind("\r")) + 1  # bars of progress end their lines to write over them
        whole = self._pop(source) + text[:end] if end else ""
        self._rest[source].append(text[end:])
        self._length[source] += len(text) - end
        if self._length[source] >= MAX_LINE_CHARS:
            whole += self._pop(source)
        for start in range(0, len(whole), MAX_LINE_CHARS):
            self._link.put(Log(self._number, source, whole[start : start + MAX_LINE_CHARS]))
        if self._length[source]:
            self._left()

    def _pop(self, source: Source) -> str:
        text = "".join(self._rest[source])
        self._rest[source].clear()
        self._length[source] = 0
        self._seen.discard(source)
        return text


Targets = Mapping[Source, Any]
"""What a context's prints are redirected to. Shape: None takes nothing."""

_HERE: Final[Targets] = MappingProxyType({})
_current: Final[ContextVar[Printed]] = ContextVar("tidegate_printed")
_targets: Final[ContextVar[Targets]] = ContextVar("tidegate_redirected")


@dataclass(frozen=True, slots=True)
class Printing:
    """To whom a context prints."""

    printed: Printed
    targets: Targets

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Print to them in this context, until the end of the block."""
        tokens = _current.set(self.printed), _targets.set(self.targets)
        try:
            yield
        finally:
            _current.reset(tokens[0])
            _targets.reset(tokens[1])


class Prints:
    """Who prints: the prediction of the context, while it runs; else the worker. Holds: a thread that sends parts of lines."""

    def __init__(self, link: Link, shields: Shields) -> None:
        self._link = link
        self._shields = shields
        self._running: dict[int, Printed] = {}
        self._native = False
        self._parts: SimpleQueue[None] = SimpleQueue()
        self._awaited = False
        self._streams: tuple[Any, Any] | None = None
        self.worker = Printed(0, link, shields, self._left)

    def install(self) -> None:
        """Become sys.stdout and sys.stderr, and give what is printed in this context to the worker."""
        _current.set(self.worker)
        sys.stdout = Writer(self, "stdout", 1)
        sys.stderr = Writer(self, "stderr", 2)
        Thread(target=self._send_parts, name="parts", daemon=True).start()
        leave = os._exit

        def tell_and_leave(status: int) -> NoReturn:
            self._tell_last()
            leave(status)

        os._exit = tell_and_leave

    def keep(self) -> None:
        """Take the streams as they are, set up by the user, for those that predictions have."""
        self._streams = sys.stdout, sys.stderr

    def restore(self) -> None:
        """Put the streams back that a prediction replaced."""
        if self._streams is not None:
            sys.stdout, sys.stderr = self._streams

    def open(self, number: int) -> Printed:
        """Start a prediction."""
        printed = self._running[number] = Printed(number, self._link, self._shields, self._left)
        return printed

    def printing(self) -> Printing:
        """Give to whom this context prints."""
        return Printing(self._printed(), redirected())

    def enter(self, printed: Printed) -> None:
        """Give what is printed in this context to a prediction."""
        _current.set(printed)

    def close(self, number: int) -> list[Log]:
        """End a prediction; gives what is left to send."""
        printed = self._running.pop(number, None)
        return [] if printed is None else printed.close()

    def write(self, source: Source, text: str) -> None:
        """Send text to whom it belongs. Holds: the thread, while the parent does not read."""
        if self._native:
            os.write(1 if source == "stdout" else 2, text.encode("utf-8", "backslashreplace"))
            return
        if not self._printed().write(source, text):
            self.worker.write(source, text)
        self._link.wait()

    def write_bytes(self, source: Source, data: bytes) -> None:
        """Send text that comes as bytes of UTF-8."""
        if self._native:
            os.write(1 if source == "stdout" else 2, data)
        elif text := self._printed().decode(source, data):
            self.write(source, text)

    def forked(self) -> None:
        """Print to the pipes from now on: this is a copy of the process, without its socket."""
        self._native = True

    def _printed(self) -> Printed:
        return _current.get(self.worker)

    # --- parts of lines --------------------------------------------------------------------------------------------

    def _left(self) -> None:
        if not self._awaited:
            self._awaited = True
            self._parts.put(None)

    def _send_parts(self) -> None:
        while True:
            self._parts.get()
            self._awaited = False
            left = True
            while left:
                time.sleep(PART_S)
                left = True in [printed.age() for printed in self._all()]

    def _tell_last(self) -> None:
        if not self._native:
            self._link.put(*(log for printed in self._all() for log in printed.rests()))
            self._link.close(LEAVING_S)

    def _all(self) -> list[Printed]:
        return [self.worker, *list(self._running.values())]


class Writer(io.TextIOBase):
    """One of the two streams. Shape: `fileno` is the process's own, which native code and subprocesses write to."""

    encoding = "utf-8"
    errors = "backslashreplace"
    mode = "w"
    line_buffering = True

    def __init__(self, prints: Prints, source: Source, number: int) -> None:
        super().__init__()
        self._prints = prints
        self._source = source
        self._number = number
        self.name = f"<{source}>"
        self.buffer: Any = Bytes(prints, source, number)

    def write(self, text: str, /) -> int:
        """Print."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._source in redirected():
            return self._pass(text)
        self._prints.write(self._source, text.encode("utf-8", "backslashreplace").decode() if _odd(text) else text)
        return len(text)

    def _pass(self, text: str) -> int:
        targets = redirected()
        # The target may print in turn to the stream that it was put before.
        token = _targets.set({source: target for source, target in targets.items() if source != self._source})
        try:
            if (target := targets[self._source]) is not None:
                target.write(text)
        finally:
            _targets.reset(token)
        return len(text)

    def redirect(self, target: Any) -> None:
        """Have what this context prints go to another file; None is nowhere."""
        _targets.set({**redirected(), self._source: target})

    def restore(self, targets: Targets) -> None:
        """Have it go where it went before."""
        rest = {source: target for source, target in redirected().items() if source != self._source}
        _targets.set(rest if self._source not in targets else {**rest, self._source: targets[self._source]})

    def flush(self) -> None:
        """Flush what it goes to; our own is never held back."""
        if (target := redirected().get(self._source)) is not None:
            target.flush()

    def writelines(self, lines: Iterable[str], /) -> None:  # type: ignore[override]
        """Print several."""
        self.write("".join(lines))

    def writable(self) -> bool:
        """Say yes."""
        return True

    def fileno(self) -> int:
        """Give the process's own stream."""
        return self._number

    def close(self) -> None:
        """Stay open: the process prints until it ends."""

    def reconfigure(self, **options: object) -> None:
        """Stay as it is: lines of UTF-8."""


class Bytes(io.BufferedIOBase):
    """Bytes printed as UTF-8."""

    def __init__(self, prints: Prints, source: Source, number: int) -> None:
        super().__init__()
        self._prints = prints
        self._source = source
        self._number = number

    def write(self, data: Any, /) -> int:
        """Print."""
        view = memoryview(data)
        self._prints.write_bytes(self._source, view.tobytes())
        return view.nbytes

    def writable(self) -> bool:
        """Say yes."""
        return True

    def fileno(self) -> int:
        """Give the process's own stream."""
        return self._number

    def close(self) -> None:
        """Stay open, as the stream for text does."""


def redirected() -> Targets:
    """Give what this context's prints are redirected to."""
    return _targets.get(_HERE)


def _odd(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
