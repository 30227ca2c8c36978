"""The log: structlog lines, rendered by whoever logs and written by a thread that nobody has to wait for.

A line holds the fields of FIELDS and nothing else, and an exception is shown as types and places without its message: what
clients and providers send has no way into it, but by the words of a model of our own. Lines are dropped and counted when
nobody takes them in time.
"""

import errno
import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from traceback import walk_tb
from types import TracebackType
from typing import Any, Final, Literal

import msgspec
import structlog

FIELDS: Final = frozenset({
    # one exchange
    "attempts", "bytes", "code", "connection", "duration_s", "estimated", "finish_reason", "first_token_s", "gap_max_s",
    "gap_mean_s", "cache_write_tokens", "cached_tokens", "input_tokens", "key", "model", "output_tokens", "path", "provider",
    "reasoning_tokens", "request", "route", "status", "stream", "tries",
    # the gateway itself
    "about", "at", "count", "dropped", "error", "exchanges", "held_bytes", "hint", "host", "max_buffered_bytes", "ops_port", "port",
    "reason", "state", "store", "version",
    # a model of our own: its processes, and what it says, which is its author's affair
    "others", "pid", "prediction", "runs", "slots", "source", "text", "traceback", "worker",
    # libraries, and what went wrong
    "exc_info", "exception", "logger", "message",
})  # fmt: skip
"""The only fields that a line may have. One that is not here is withheld, and its name is given under `withheld`."""

MAX_LINES: Final = 10_000
MAX_BYTES: Final = 8 * 1024 * 1024
BATCH_LINES: Final = 500
LINGER_S: Final = 0.02
"""How long the thread lets lines gather: a wake-up and a write for each would cost the loop its turn each time."""
MAX_CAUSES: Final = 5
MAX_PLACES: Final = 30

Level = Literal["debug", "info", "warning", "error", "critical"]
Form = Literal["json", "text"]


class LogWriter:
    """Writes lines to a descriptor from a thread of its own, and drops and counts what does not fit its queue.

    Holds: at most `max_lines` and `max_bytes`, those being written included. Shape: a line ends with its own newline;
    `notice` renders the line that tells how many were dropped.
    """

    def __init__(
        self,
        fd: int,
        notice: Callable[[int], bytes],
        *,
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.dropped = 0
        self._fd = fd
        self._notice = notice
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._on_close = on_close
        # Reentrant, because a collected object may log from within any allocation, also from one made under this lock.
        self._lock = threading.RLock()
        self._more = threading.Condition(self._lock)
        self._done = threading.Condition(self._lock)
        self._lines: list[bytes] = []
        self._bytes = 0
        self._accepted = 0
        self._settled = 0
        self._told = 0
        self._awake = False
        self._hurried = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="tidegate-log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue a line, from any thread. Never blocks on the descriptor, never raises."""
        with self._lock:
            full = self._accepted - self._settled >= self._max_lines or self._bytes + len(line) > self._max_bytes
            if full or self._closed:
                self.dropped += 1
                return
            self._accepted += 1
            self._bytes += len(line)
            self._lines.append(line)
            if not self._awake:
                self._awake = True
                self._more.notify()

    def flush(self, timeout_s: float = 1.0) -> bool:
        """Wait until everything queued so far is written or given up; give whether it was within the time."""
        with self._lock:
            target = self._accepted
            self._hurried += 1
            self._more.notify()
            try:
                return self._done.wait_for(lambda: self._settled >= target, timeout_s)
            finally:
                self._hurried -= 1

    def close(self, timeout_s: float = 1.0) -> bool:
        """Take no more lines, write what is queued, end the thread; give whether it ended within the time."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._hurried += 1
                self._more.notify()
                self._on_close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while lines := self._take():
            for start in range(0, len(lines), BATCH_LINES):
                self._write_out(lines[start : start + BATCH_LINES])
            self._tell_dropped()
            with self._lock:
                self._done.notify_all()

    def _take(self) -> list[bytes]:
        """Wait for lines. Shape: empty when there will be none any more."""
        with self._lock:
            while not self._lines and not self._closed:
                self._more.wait()
            if not self._hurried:
                # Awake, so that only a flush or a close cuts this short.
                self._more.wait(LINGER_S)
            lines, self._lines = self._lines, []
            self._awake = False
            return lines

    def _write_out(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        written = self._put(data)
        with self._lock:
            self._settled += len(lines)
            self._bytes -= len(data)
            if not written:
                self.dropped += len(lines)

    def _tell_dropped(self) -> None:
        dropped = self.dropped
        if dropped > self._told and self._put(self._notice(dropped - self._told)):
            self._told = dropped

    def _put(self, data: bytes) -> bool:
        """Write all of it, however long that takes; give False when the descriptor is broken."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                # Somebody who shares the descriptor made it non-blocking.
                waiting = select.poll()
                waiting.register(self._fd, select.POLLOUT)
                waiting.poll()
            except OSError:
                return False
        return True


class _Channel:
    """What structlog calls with a rendered line, by the name of its level."""

    __slots__ = ("critical", "debug", "error", "info", "warning")

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = write


Event = MutableMapping[str, Any]


class _Json:
    """The whole chain of the JSON form: a line per event, its time, level and event first."""

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder(enc_hook=_type_name).encode

    def __call__(self, _logger: object, level: str, event: Event, /) -> bytes:
        line: dict[str, Any] = {"time": datetime.now(UTC), "level": level, "event": event.pop("event", "")}
        line.update(_known(event))
        try:
            return self._encode(line) + b"\n"
        except (ValueError, TypeError, RecursionError):
            # A lone surrogate, or a key that is no text: the line is worth less than the call that it was made in.
            return self._encode({"time": line["time"], "level": level, "event": "log line unfit"}) + b"\n"


class _Text:
    """The whole chain of the form for terminals: structlog's own rendering, without what is empty; a traceback is below it."""

    def __init__(self, *, colors: bool) -> None:
        self._render = structlog.dev.ConsoleRenderer(
            colors=colors, sort_keys=False, timestamp_key="time", pad_event_to=12
        )

    def __call__(self, _logger: object, level: str, event: Event, /) -> bytes:
        line: Event = {"time": datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3], "level": level}
        line["event"] = event.pop("event", "")
        below = ""
        for name, value in _known(event).items():
            if name == "traceback":
                below = "".join(f"\n  {_printable(text)}" for text in str(value).splitlines())
            elif value is not None and value != "":
                line[name] = _printable(value) if isinstance(value, str) else value
        return (self._render(None, level, line) + below).encode("utf-8", "backslashreplace") + b"\n"


def _printable(text: str) -> str:
    """Give a text that does not speak to the terminal."""
    return text if text.isprintable() else ascii(text)


def configure(form: Form, write_fd: int = 2, level: Level = "info") -> LogWriter:
    """Make structlog, and libraries' loggers from WARNING up, write to a descriptor; `close` of the writer ends it.

    Holds: a thread, and a handler at the root of `logging`, until then.
    """
    render: _Json | _Text = _Json() if form == "json" else _Text(colors=os.isatty(write_fd))
    library = _LibraryHandler()
    root = logging.getLogger()
    writer = LogWriter(
        write_fd,
        lambda dropped: render(None, "warning", {"event": "log lines dropped", "dropped": dropped}),
        on_close=lambda: root.removeHandler(library),
    )
    channel = _Channel(writer.write)
    structlog.configure(
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
        logger_factory=lambda *_: channel,
        cache_logger_on_first_use=False,
    )
    root.addHandler(library)
    return writer


class _LibraryHandler(logging.Handler):
    """Takes what libraries log.

    Shape: the first line of a message's template up to a parenthesis: arguments, and the representations of objects
    that asyncio puts behind parentheses and on later lines, may hold what clients sent.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on."""
        template = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        structlog.get_logger().log(
            level,
            "library",
            logger=record.name,
            message=template.partition("\n")[0].partition("(")[0][:200].rstrip(),
            exc_info=record.exc_info,
        )


def _known(event: Event) -> Mapping[str, Any]:
    """Give the event with known fields only, an exception replaced by its trace."""
    if "exc_info" in event:
        trace = _trace(event.pop("exc_info"))
        if trace:
            event["exception"] = trace
    if event.keys() <= FIELDS:
        return event
    known = {name: value for name, value in event.items() if name in FIELDS}
    known["withheld"] = sorted(str(name) for name in event.keys() - FIELDS)
    return known


def _type_name(value: object) -> str:
    """Stand for a value that has no JSON form: its representation could say anything."""
    return type(value).__name__


def _trace(exc_info: object) -> str:
    """Give the types and places of an exception and its causes, never their messages: those quote what was received."""
    error = _raised(exc_info)
    parts: list[str] = []
    while error is not None and len(parts) < MAX_CAUSES:
        number = errno.errorcode.get(error.errno or 0, "") if isinstance(error, OSError) else ""
        parts.append(f"{type(error).__name__}{number and f'({number})'}: {_places(error.__traceback__)}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "; after ".join(parts)


def _raised(exc_info: object) -> BaseException | None:
    if exc_info is True:
        return sys.exc_info()[1]
    if isinstance(exc_info, tuple) and len(exc_info) == 3:
        exc_info = exc_info[1]
    return exc_info if isinstance(exc_info, BaseException) else None


def _places(trace: TracebackType | None) -> str:
    """Give where an exception went through. Shape: outermost first, the innermost MAX_PLACES of them."""
    places = [f"{frame.f_globals.get('__name__', '?')}:{line} {frame.f_code.co_name}" for frame, line in walk_tb(trace)]
    return " > ".join(places[-MAX_PLACES:])
