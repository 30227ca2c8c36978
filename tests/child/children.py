"""A parent for one real child process: a socketpair, the process, and what came from it."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from textwrap import dedent
from typing import Any, TypeVar

import msgspec

from tidegate.worker.messages import (
    Begin,
    Cancel,
    Ended,
    FromWorker,
    Info,
    Item,
    Log,
    Metric,
    Predict,
    Ready,
    ToWorker,
)

WAIT_S = 30.0
M = TypeVar("M")


class Child:
    """A child process. Shape: `said` are the messages so far; `native` what was written to its own streams, once it ended."""

    def __init__(self, handler: str, directory: Path, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        ours, theirs = socket.socketpair()
        self.sock = ours
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tidegate.worker.child", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        theirs.close()
        self.said: list[FromWorker] = []
        self.native = ""
        self._news: SimpleQueue[FromWorker | None] = SimpleQueue()
        self.reading = threading.Event()
        self.reading.set()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._read, self._hear)]
        for thread in self._threads:
            thread.start()
        self.send(Begin(handler, str(directory)))

    def send(self, *messages: ToWorker) -> None:
        """Tell it something, all in one piece."""
        self.sock.sendall(b"".join(map(framed, messages)))

    def predict(self, number: int, context: dict[str, str] | None = None, **given: Any) -> None:
        """Ask for a prediction."""
        self.send(asked(number, context, **given))

    def cancel(self, number: int) -> None:
        """Cancel one."""
        self.send(Cancel(number))

    def next(self) -> FromWorker | None:
        """Wait for a message; None is the end."""
        try:
            message = self._news.get(timeout=WAIT_S)
        except Empty:
            raise AssertionError(f"nothing came; the last were {self.said[-5:]!r}") from None
        if message is not None:
            self.said.append(message)
        return message

    def until(self, kind: type[M], number: int | None = None) -> M:
        """Wait for a message of a kind, new ones only."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            message = self.next()
            assert message is not None, f"it ended; {self.said[-5:]!r} {self.native}"
            if isinstance(message, kind) and number in {None, getattr(message, "number", None)}:
                return message
        raise AssertionError(f"it did not come; the last were {self.said[-5:]!r}")

    def run(self, number: int = 1, **given: Any) -> Ended:
        """Predict, and wait for the ending."""
        self.predict(number, **given)
        return self.until(Ended, number)

    def ready(self) -> Info:
        """Wait until it is set up."""
        return msgspec.json.decode(self.until(Ready).info, type=Info)

    def chunks(self, number: int = 1) -> list[Any]:
        """Everything that a prediction gave so far."""
        said = [each for each in self.said if isinstance(each, Item | Ended) and each.number == number]
        given = [each.chunk if isinstance(each, Item) else each.value for each in said]
        return [msgspec.json.decode(chunk) for chunk in given if chunk is not None]

    def printed(self, number: int = 1, source: str = "stdout") -> str:
        """Everything that a prediction printed so far."""
        return "".join(
            each.text for each in self.said if isinstance(each, Log) and (each.number, each.source) == (number, source)
        )

    def metrics(self, number: int = 1) -> list[tuple[str, Any, str]]:
        """Every metric so far."""
        return [
            (each.name, msgspec.json.decode(each.value), each.mode)
            for each in self.said
            if isinstance(each, Metric) and each.number == number
        ]

    def wait(self) -> int:
        """Wait for its end, and read what is left; gives the exit code."""
        code = self.process.wait(WAIT_S)
        self.sock.settimeout(WAIT_S)
        while self.next() is not None:
            pass
        self._threads[1].join(WAIT_S)
        return code

    def close(self) -> None:
        """End it as a parent that dies would, then by force."""
        self.reading.set()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        try:
            self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            for thread in self._threads:
                thread.join(WAIT_S)
            self.sock.close()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def _read(self) -> None:
        decoder = msgspec.msgpack.Decoder(FromWorker)
        with self.sock.makefile("rb", buffering=0) as raw, contextlib.suppress(OSError):
            while self.reading.wait(WAIT_S) and (head := _exactly(raw, 4)):
                self._news.put(decoder.decode(_exactly(raw, int.from_bytes(head, "big"))))
        self._news.put(None)

    def _hear(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.native += line.decode()


def framed(message: ToWorker) -> bytes:
    """Give a message as it is sent."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(4, "big") + data


def asked(number: int, context: dict[str, str] | None = None, **given: Any) -> Predict:
    """Give the request for a prediction."""
    return Predict(number, f"id-{number}", msgspec.json.encode(given), context or {}, {})


def _exactly(raw: Any, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (more := raw.read(size - len(data))):
        data += more
    return bytes(data)


@contextlib.contextmanager
def child(folder: Path, code: str, *, name: str = "Model", env: Mapping[str, str] | None = None) -> Iterator[Child]:
    """Start a child for a handler written in a test. Shape: its temporary files are in `folder/files`."""
    (folder / "handler.py").write_text("from tidegate.predict.scope import *\n" + dedent(code), encoding="utf-8")
    files = folder / "files"
    files.mkdir(exist_ok=True)
    started = Child(f"handler.py:{name}", files, folder, env)
    try:
        yield started
    finally:
        started.close()


@contextlib.contextmanager
def ready(folder: Path, code: str, *, name: str = "predict") -> Iterator[Child]:
    """Start a child and wait until it is ready."""
    with child(folder, code, name=name) as started:
        started.ready()
        yield started
