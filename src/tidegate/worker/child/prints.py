"""What is printed, line by line, to the prediction that printed it: sys.stdout and sys.stderr of the process."""

import codecs
import io
import os
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from threading import RLock
from typing import Any, Final

from tidegate.worker.child.link import Link
from tidegate.worker.child.shield import Shields, settled
from tidegate.worker.messages import Log, Source

MAX_LINE_BYTES: Final = 64 * 1024
"""A line that grows longer is sent in parts. Shape: counted in characters."""


class Printed:
    """What one prediction printed on both streams; number 0 is the worker. Shape: text without its end of line is kept."""

    def __init__(self, number: int, link: Link, shields: Shields) -> None:
        self._number = number
        self._link = link
        self._shields = shields
        self._lock = RLock()
        self._rest: dict[Source, list[str]] = {"stdout": [], "stderr": []}
        self._length: dict[Source, int] = {"stdout": 0, "stderr": 0}
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

    def _take(self, source: Source, text: str) -> None:
        end = text.rfind("\n") + 1
        whole = self._pop(source) + text[:end] if end else ""
        self._rest[source].append(text[end:])
        self._length[source] += len(text) - end
        if self._length[source] >= MAX_LINE_BYTES:
            whole += self._pop(source)
        for start in range(0, len(whole), MAX_LINE_BYTES):
            self._link.put(Log(self._number, source, whole[start : start + MAX_LINE_BYTES]))

    def _pop(self, source: Source) -> str:
        text = "".join(self._rest[source])
        self._rest[source].clear()
        self._length[source] = 0
        return text


_current: Final[ContextVar[Printed]] = ContextVar("tidegate_printed")


class Prints:
    """Who prints: the prediction of the context; without one the only prediction that runs, else the worker."""

    def __init__(self, link: Link, shields: Shields) -> None:
        self._link = link
        self._shields = shields
        self._running: dict[int, Printed] = {}
        self._native = False
        self.worker = Printed(0, link, shields)

    def install(self) -> None:
        """Become sys.stdout and sys.stderr, and give what is printed in this context to the worker."""
        _current.set(self.worker)
        sys.stdout = Writer(self, "stdout", 1)
        sys.stderr = Writer(self, "stderr", 2)

    def open(self, number: int) -> Printed:
        """Start a prediction."""
        printed = self._running[number] = Printed(number, self._link, self._shields)
        return printed

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
        if printed := _current.get(None):
            return printed
        running = list(self._running.values())
        return running[0] if len(running) == 1 else self.worker


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
        self._prints.write(self._source, text.encode("utf-8", "backslashreplace").decode() if _odd(text) else text)
        return len(text)

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


def _odd(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
