"""The child's end of the socket: messages in, for one thread at a time; messages out, from any, in the order of `put`."""

import asyncio
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from threading import Lock, RLock, get_ident
from typing import Final

import msgspec

from tidegate.worker.child.shield import Shields, settled
from tidegate.worker.messages import MAX_MESSAGE_BYTES, FromWorker, ToWorker

HIGH_BYTES: Final = 1024 * 1024
"""With more than this unsent, whoever made it waits."""

LOW_BYTES: Final = 256 * 1024
"""With less than this unsent, those who wait go on."""

READ_BYTES: Final = 64 * 1024
"""How much is read at once. Shape: more than twice as much is memory that the system maps anew for each read."""

PRESSED_S: Final = 0.25
"""How long a waiting thread is deaf to an interruption."""


class Gone(Exception):  # noqa: N818  (says what happened)
    """The parent is gone, or talks nonsense."""


class Link:
    """A socket on which only a thread with nothing else to do waits: what cannot be sent at once is kept, in order.

    Holds: up to HIGH_BYTES and one message for each that writes. Before `attach`, `put` blocks instead.
    """

    def __init__(self, sock: socket.socket, shields: Shields) -> None:
        self._sock = sock
        self._shields = shields
        self._decoder = msgspec.msgpack.Decoder(ToWorker)
        self._encoder = msgspec.msgpack.Encoder()
        self._lock = RLock()  # a finalizer may print while this thread is in `put`
        self._unsent: deque[memoryview] = deque()
        self._bytes = 0
        self._sending = False
        self._watching = False
        self._waiting: list[Callable[[], object]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ident = get_ident()
        self._buffer = bytearray()
        self._forked = False
        self.gone = False

    # --- in -----------------------------------------------------------------------------------------------------

    def receive(self) -> ToWorker:
        """Wait for a message. Shape: only before `attach`. Errors: Gone."""
        while (message := next(self._cut(), None)) is None:
            self._read(0)
        return message

    def messages(self, *, waits: bool = False) -> list[ToWorker]:
        """Read what is there, or wait until there is something. Shape: one caller at a time. Errors: Gone."""
        self._read(0 if waits else socket.MSG_DONTWAIT)
        return list(self._cut())

    def _read(self, flags: int) -> None:
        try:
            data = self._sock.recv(READ_BYTES, flags)
        except BlockingIOError:
            return
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        self._buffer += data

    def _cut(self) -> Iterator[ToWorker]:
        buffer = self._buffer
        while len(buffer) >= 4:
            size = int.from_bytes(buffer[:4], "big")
            if size > MAX_MESSAGE_BYTES:
                raise Gone
            if len(buffer) < 4 + size:
                return
            try:
                with memoryview(buffer) as view:
                    message = self._decoder.decode(view[4 : 4 + size])
            except msgspec.MsgspecError as error:
                raise Gone from error
            del buffer[: 4 + size]
            yield message

    # --- out ----------------------------------------------------------------------------------------------------

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on the loop of this thread sends what could not be sent at once."""
        self._loop = loop

    def fileno(self) -> int:
        """Give the socket's number."""
        return self._sock.fileno()

    def put(self, *messages: FromWorker) -> None:
        """Send messages, or keep them until the parent reads; before `attach`, wait until it does. Never raises."""
        data = self._framed(messages)
        with self._shields.here():
            settled()
            with self._lock:
                self._unsent.append(memoryview(data))
                self._bytes += len(data)
                self._send(0 if self._loop is None else socket.MSG_DONTWAIT)
                if self._unsent and not self._watching and self._loop is not None:
                    self._watching = True
                    self._loop.call_soon_threadsafe(self._watch)

    def wait(self) -> None:
        """Wait while too much is unsent. Shape: for threads; the loop's own is blocked, which bounds what it may print."""
        while self._bytes > HIGH_BYTES and not self.gone:
            if get_ident() == self._ident:
                self._writable(PRESSED_S)
                self._flush()
            else:
                self._rest()

    def _rest(self) -> None:
        bell = Lock()
        bell.acquire()
        self._waiting.append(bell.release)
        if self._bytes > HIGH_BYTES:
            bell.acquire(timeout=PRESSED_S)

    async def drained(self) -> None:
        """Wait while too much is unsent, on the loop."""
        while self._bytes > HIGH_BYTES and not self.gone:
            bell = asyncio.Event()
            self._waiting.append(bell.set)
            await bell.wait()

    def close(self, within_s: float) -> None:
        """Send what is unsent, for so long. Shape: in the loop's thread, once the loop has ended."""
        deadline = time.monotonic() + within_s
        while self._unsent and not self.gone and (left := deadline - time.monotonic()) > 0:
            self._writable(left)
            self._flush()

    def forked(self) -> None:
        """Let go of the socket in a copy of this process that user code made: it must neither send nor hold it open."""
        self._forked = True
        self._sock.close()

    def _writable(self, within_s: float) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        poll.poll(within_s * 1000)

    def _framed(self, messages: Sequence[FromWorker]) -> bytearray:
        if self._forked:
            os._exit(1)
        data = bytearray()
        for message in messages:
            start = len(data)
            self._encoder.encode_into(message, data, start + 4)
            data[start : start + 4] = (len(data) - start - 4).to_bytes(4, "big")
        return data

    def _watch(self) -> None:
        if self._loop is not None:
            self._loop.add_writer(self._sock.fileno(), self._flush)

    def _flush(self) -> None:
        with self._lock:
            self._send(socket.MSG_DONTWAIT)
            if not self._unsent and self._watching and self._loop is not None:
                self._watching = False
                self._loop.remove_writer(self._sock.fileno())
            ring = self._waiting if self._bytes <= LOW_BYTES else []
            if ring:
                self._waiting = []
        for bell in ring:
            bell()

    def _send(self, flags: int) -> None:
        if self._sending:
            return  # a finalizer's message: the sender that it interrupted goes on with it
        self._sending = True
        try:
            while self._unsent:
                self._sent(self._sock.send(self._unsent[0], flags))
        except BlockingIOError:
            pass
        except OSError:
            self.gone = True
            self._unsent.clear()
            self._bytes = 0
        finally:
            self._sending = False

    def _sent(self, count: int) -> None:
        self._bytes -= count
        if count == len(self._unsent[0]):
            self._unsent.popleft()
        else:
            self._unsent[0] = self._unsent[0][count:]
