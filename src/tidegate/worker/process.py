"""One worker as the system sees it: a process in a group of its own, its socket, its outputs and its directory."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol, cast

from tidegate.kernel.telling import Source
from tidegate.worker.link import Hearing, Link
from tidegate.worker.messages import ToWorker
from tidegate.worker.scratch import Scratch

COMMAND: Final = (sys.executable, "-m", "tidegate.worker.child")
MAX_LINE_CHARS: Final = 8192
"""A longer line of a worker's output is told in parts."""
LAST_WORDS_S: Final = 1.0
"""How long the outputs of a process that is gone may stay open: a process that it left behind can hold them."""


class Watching(Hearing, Protocol):
    """Who hears everything of a worker's process."""

    def printed(self, source: Source, line: str, /) -> None:
        """Take a line of its outputs."""
        ...

    def cut_off(self) -> None:
        """Take notice that it hears nothing any more, and is about to be over."""
        ...

    def gone(self, why: str, /) -> None:
        """Take notice that the process is over and that nothing more comes of it, exactly once."""
        ...


class Lines:
    """Makes lines of bytes. Holds: at most MAX_LINE_CHARS of an unfinished one."""

    __slots__ = ("_rest", "_tell")

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        *lines, rest = (self._rest + data).split(b"\n")
        while len(rest) >= MAX_LINE_CHARS:
            lines.append(rest[:MAX_LINE_CHARS])
            rest = rest[MAX_LINE_CHARS:]
        self._rest = rest
        for line in lines:
            for start in range(0, len(line) or 1, MAX_LINE_CHARS):
                self._tell(line[start : start + MAX_LINE_CHARS].decode(errors="replace"))

    def finish(self) -> None:
        """Take the end: what was begun is a line too."""
        rest, self._rest = self._rest, b""
        if rest:
            self._tell(rest.decode(errors="replace"))


class Process(asyncio.SubprocessProtocol):
    """A worker's process. Holds: the process, its group, a socket and a directory, from `start` to the end of `close`.

    Shape: its environment is the gateway's without what is `withheld`, and with what is `given`.
    """

    def __init__(
        self,
        watching: Watching,
        command: tuple[str, ...] = COMMAND,
        given: Mapping[str, str] | None = None,
        withheld: frozenset[str] = frozenset(),
    ) -> None:
        self._watching = watching
        self._command = command
        self._given = given or {}
        self._withheld = withheld
        self._scratch: Scratch | None = None
        self._link = Link(watching, self._unlinked)
        self._linked = False
        self._lines = {
            1: Lines(lambda line: watching.printed("stdout", line)),
            2: Lines(lambda line: watching.printed("stderr", line)),
        }
        self._transport: asyncio.SubprocessTransport | None = None
        self._open_pipes = {1, 2}
        self._code: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pid = 0

    async def start(self) -> None:
        """Start the process. Errors: OSError. Holds: what is there after an error or a cancellation is for `close`."""
        loop = asyncio.get_running_loop()
        self._scratch = Scratch("worker")
        ours, theirs = socket.socketpair()
        try:
            await loop.create_unix_connection(lambda: self._link, sock=ours)
            self._linked = True
            await loop.subprocess_exec(
                lambda: self,
                *self._command,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                env=self._environment(),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        finally:
            theirs.close()
            if not self._linked:
                ours.close()

    @property
    def directory(self) -> Path:
        """Where its temporary files are."""
        return self._scratch.path if self._scratch is not None else Path()

    @property
    def reachable(self) -> bool:
        """Whether it hears what is said; a process that is about to be over does not."""
        return self._linked

    def send(self, message: ToWorker) -> None:
        """Say something to the worker."""
        self._link.send(message)

    def pause(self) -> None:
        """Hear nothing for now."""
        if self._code is None:
            self._link.pause()

    def resume(self) -> None:
        """Hear again."""
        self._link.resume()

    def signal(self, number: int) -> None:
        """Send a signal to the process and to all of its group."""
        if self._code is None and self.pid:
            self._signal_group(number)

    async def wait_over(self, timeout_s: float) -> bool:
        """Wait until the process is over; gives whether it is."""
        if not self._over.done() and self._transport is not None:
            await asyncio.wait((self._over,), timeout=timeout_s)
        return self._over.done() or self._transport is None

    async def close(self) -> None:
        """Kill what is left, and give everything back."""
        self.signal(signal.SIGKILL)
        try:
            await self.wait_over(LAST_WORDS_S * 10)
        finally:
            self._link.close()
            if self._transport is not None:
                self._transport.close()
            if self._timer is not None:
                self._timer.cancel()
            if self._scratch is not None:
                await asyncio.to_thread(self._scratch.remove)

    # --- asyncio.SubprocessProtocol --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn the process."""
        self._transport = cast("asyncio.SubprocessTransport", transport)  # uvloop's are no subclass
        self.pid = self._transport.get_pid() or 0

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        """Take output."""
        if isinstance(data, bytes):
            self._lines[fd].feed(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 (closed is closed)
        """Take the end of one output."""
        if fd in self._open_pipes:
            self._open_pipes.discard(fd)
            self._lines[fd].finish()
            self._look()

    def process_exited(self) -> None:
        """Take the end of the process: the rest of its group goes too, what it has said is heard."""
        if self._transport is None:
            return
        self._code = self._transport.get_returncode() or 0
        self._signal_group(signal.SIGKILL)
        self._link.resume()
        self._timer = asyncio.get_running_loop().call_later(LAST_WORDS_S, self._cut)
        self._look()

    def _environment(self) -> dict[str, str]:
        passed = {name: value for name, value in os.environ.items() if name not in self._withheld}
        return {**passed, **self._given, "TMPDIR": str(self.directory)}

    def _signal_group(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # nobody is left in it

    def _unlinked(self) -> None:
        """Take the end of the socket: a worker that cannot be talked to is of no use."""
        self._linked = False
        self._watching.cut_off()
        self.signal(signal.SIGKILL)
        self._look()

    def _cut(self) -> None:
        self._linked = False
        self._open_pipes.clear()
        self._look()

    def _look(self) -> None:
        if self._code is None or self._linked or self._open_pipes or self._over.done():
            return
        self._over.set_result(None)
        self._watching.gone(_why(self._code))


def _why(code: int) -> str:
    return f"the worker crashed (signal {-code})" if code < 0 else f"the worker exited (code {code})"
