"""What of a stream is kept for who comes late or reads slowly: a ring of frames, and readers that are places in it.

A reader has no queue: it reads on from its place when it can. So a slow one costs nothing, holds nobody up, and what falls out
of the ring before it has read it is told to it as a number.
"""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from tidegate.exchange import Ending, Sink
from tidegate.verdict import COMPLETED

MAX_BLOCK_BYTES: Final = 256 * 1024
"""What a reader is given at a time; a larger frame is given alone."""
KEEP_ALIVE: Final = b": keep-alive\n\n"
EVENT_BYTES: Final = 120
"""What an event takes beside its bytes, while it can still fall out of the ring."""
_ID: Final = b"id: "
_DATA: Final = b"\ndata: "
_END: Final = b"\n\n"
_COMPLETED: Final = Ending(COMPLETED)


class Reader(Sink, Protocol):
    """A sink that says how much of what it took still waits for its client. Any exchange.Client fits."""

    def unsent(self) -> int:
        """Give the bytes that wait for the client to take them."""
        ...


class History:
    """The newest events of one stream.

    Shape: ids count from 1; `newest` is 0 while there is none. `keeps` says whether who comes late is given what is held.
    Holds: the newest event, and those before it within `max_events` and `max_bytes`; where nothing is kept, only the newest
    once the stream is over and nobody reads. What is held then is one piece of bytes.
    """

    __slots__ = (
        "_block", "_frames", "_held_for", "_loop", "_max_bytes", "_max_events", "_offered", "_pending", "_readers", "_whole",
        "closed", "held", "keeps", "newest", "oldest",
    )  # fmt: skip

    def __init__(self, max_events: int, max_bytes: int, *, keeps: bool, loop: asyncio.AbstractEventLoop) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._loop = loop
        # Keyed by id: the next one in and the first one out, from any place, all in constant time.
        self._frames: dict[int, bytes] = {}
        self._whole = b""
        self._readers: dict[Subscription, None] = {}
        self._block: tuple[int, int, bytes] | None = None
        self._pending = False
        self._offered = 0
        self._held_for = False
        self.keeps = keeps
        self.closed = False
        self.held = 0
        self.newest = 0
        self.oldest = 1

    def __len__(self) -> int:
        """How many read it."""
        return len(self._readers)

    def weight(self) -> int:
        """Give the bytes that it takes."""
        return self.held + len(self._frames) * EVENT_BYTES

    def latest(self) -> bytes:
        """Give the data of the newest event. Shape: there is one."""
        frame = self._whole or self._frames[self.newest]
        return frame[frame.rindex(_DATA) + len(_DATA) : -len(_END)]

    def append(self, event: bytes, data: bytes) -> int:
        """Add an event; gives its id. Shape: `data` is one line. After `close` nothing is taken."""
        if self.closed:
            return self.newest
        self.newest += 1
        frame = b"id: %d\nevent: %b\ndata: %b\n\n" % (self.newest, event, data)
        self._frames[self.newest] = frame
        self.held += len(frame)
        while (self.held > self._max_bytes or len(self._frames) > self._max_events) and self.oldest < self.newest:
            if self.oldest > self._offered and self._pending:
                self._give()  # it came in the same moment: who keeps up misses nothing
            self._drop()
        if self._readers:
            self.wake()
        return self.newest

    def close(self) -> None:
        """Say that nothing more comes; who reads is given the rest, then the end."""
        self.closed = True
        self._tidy()
        self.wake()

    def hold(self) -> None:
        """Let go of nothing at the end, until `release`: who has a right to all of it is still to come."""
        self._held_for = True

    def release(self) -> None:
        """Keep no more than was said."""
        self._held_for = False
        self._tidy()

    def subscribe(
        self,
        sink: Reader,
        *,
        after: int | None,
        heartbeat_s: float,
        on_over: Callable[["Subscription"], None],
        on_fault: Callable[[Exception], None],
        slow_s: float = 0.0,
    ) -> "Subscription":
        """Give a sink, whose head is started, what comes after the event `after`, and become its flow.

        Shape: None is from the beginning where history is kept, from now on where it is not; an id that was not given yet is
        as None. A comment is sent after `heartbeat_s` of silence; a reader that takes nothing for `slow_s` is cut off; 0.0
        is never. `on_over` hears once that it is over, from within this call where the client is gone already; `on_fault`
        hears what the sink raised, and never raises.
        Holds: the reader, until it is over.
        """
        if after is None or after > self.newest:
            after = 0 if self.keeps else self.newest
        reader = Subscription(self, sink, max(after, 0), (heartbeat_s, slow_s), (on_over, on_fault))
        self._readers[reader] = None
        reader.begin()
        self.wake()
        return reader

    # --- for subscriptions -----------------------------------------------------------------------------------------

    def now(self) -> float:
        """Give the instant."""
        return self._loop.time()

    def later(self, at: float, look: Callable[[], None]) -> asyncio.TimerHandle:
        """Set a timer."""
        return self._loop.call_at(at, look)

    def read(self, place: int) -> tuple[int, bytes]:
        """Give the place after what is to be given next to who has read up to `place`, and that."""
        block = self._block
        if block is None or block[0] != place:
            # Readers at one place are given one block: it is joined once for all of them.
            block = self._block = place, *self._join(place)
        return block[1], block[2]

    def left(self, reader: "Subscription") -> None:
        """Forget a reader."""
        self._readers.pop(reader, None)
        self._tidy()

    def wake(self) -> None:
        """Give soon what can be given."""
        if not self._pending and self._readers:
            self._pending = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        """Give each reader one block; those who can take more are served again, after everybody else."""
        self._pending = False
        if self._give():
            self.wake()

    def _give(self) -> bool:
        """Give each reader one block; gives whether there may be more."""
        self._offered = self.newest
        now, more = self.now(), False
        for reader in tuple(self._readers):
            more |= reader.serve(now)
        self._block = None
        return more

    def _join(self, place: int) -> tuple[int, bytes]:
        parts: list[bytes] = []
        size = 0
        if place + 1 < self.oldest:
            parts.append(b'event: skipped\ndata: {"skipped":%d}\n\n' % (self.oldest - 1 - place))
            place = self.oldest - 1
        if self._whole:
            place, block = self._cut(place)
            return place, b"".join((*parts, block))
        while place < self.newest:
            frame = self._frames[place + 1]
            if size and size + len(frame) > MAX_BLOCK_BYTES:
                break
            parts.append(frame)
            size += len(frame)
            place += 1
        return place, b"".join(parts)

    def _cut(self, place: int) -> tuple[int, bytes]:
        """Give a block of what is one piece. Shape: data is one line, so that no text can look like a frame's begin or end."""
        whole = self._whole
        start = 0 if place < self.oldest else whole.index(b"\n\nid: %d\n" % (place + 1)) + len(_END)
        if len(whole) - start <= MAX_BLOCK_BYTES:
            return self.newest, whole[start:]
        end = whole.rfind(_END, start, start + MAX_BLOCK_BYTES)
        if end < 0:
            end = whole.index(_END, start)
        end += len(_END)
        if end == len(whole):
            return self.newest, whole[start:]
        following = int(whole[end + len(_ID) : whole.index(b"\n", end)])
        return following - 1, whole[start:end]

    def _drop(self) -> None:
        self.held -= len(self._frames.pop(self.oldest))
        self.oldest += 1

    def _tidy(self) -> None:
        """Make what is over small: one piece, of no more than the end where nothing is kept for who comes late."""
        if not self.closed or self._readers or self._held_for or not self._frames:
            return
        while not self.keeps and self.oldest < self.newest:
            self._drop()
        self._whole = b"".join(self._frames.values())
        self._frames = {}


class Subscription:
    """One reader's place in a history. Fits exchange.Flow: it is what the sink tells of back-pressure and of its leaving.

    Shape: `over` is true once nothing more is given, and `gone` was called by then where `departed` is true: it left; else it
    was given everything, or was cut off because it took nothing, or because it raised where `broken` is true.
    """

    __slots__ = (
        "_heartbeat_s", "_history", "_on_fault", "_on_over", "_paused", "_sink", "_slow_s", "_taken_at", "_timer", "_unsent",
        "_waiter", "_wrote_at", "broken", "departed", "over", "place",
    )  # fmt: skip

    def __init__(
        self,
        history: History,
        sink: Reader,
        place: int,
        limits: tuple[float, float],
        heard: tuple[Callable[["Subscription"], None], Callable[[Exception], None]],
    ) -> None:
        self._history = history
        self._sink = sink
        self._heartbeat_s, self._slow_s = limits
        self._on_over, self._on_fault = heard
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._wrote_at = self._taken_at = history.now()
        self._unsent = 0
        self.place = place
        self.over = False
        self.departed = False
        self.broken = False

    async def wait_over(self) -> None:
        """Return once nothing more is given. Shape: one waits."""
        if not self.over:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    # --- Flow ------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stay where it is: what comes is read later, or told as skipped."""
        if not self._paused and not self.over:
            self._paused = True
            self._taken_at = self._history.now()
            with self._guarded():
                self._unsent = self._sink.unsent()
            self._watch()

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self.over:
            self._paused = False
            self._wrote_at = self._history.now()
            self._watch()
            self._history.wake()

    def gone(self) -> None:
        """End: the client left."""
        self._end(departed=True)

    # --- for the history -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Become the sink's flow."""
        with self._guarded():
            self._sink.bind(self)
        self._watch()

    def serve(self, now: float) -> bool:
        """Give what is to be given; gives whether there may be more."""
        if not self._can_take():
            return False
        history = self._history
        with self._guarded():
            if self.place < history.newest:
                self._wrote_at = now
                self.place, block = history.read(self.place)
                self._sink.write(block)
            if history.closed and self.place == history.newest and not self.over:
                self._sink.finish(_COMPLETED)
                self._end(departed=False)
        return self._can_take() and self.place < history.newest

    def _can_take(self) -> bool:
        return not self.over and not self._paused

    def _end(self, *, departed: bool) -> None:
        if self.over:
            return
        self.over = True
        self.departed = departed
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._history.left(self)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._on_over(self)

    def _cut(self) -> None:
        """End, and break the sink off: its client has not got everything."""
        self._end(departed=False)
        try:
            self._sink.abort()
        except Exception as error:  # noqa: BLE001 (as below)
            self._on_fault(error)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Let go of a sink that raises: it must not hold up the others."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (the boundary: one broken reader must not end the others)
            self.broken = True
            self._on_fault(error)
            self._cut()

    # --- time ------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._timer is None and not self.over:
            self._arm()

    def _arm(self) -> None:
        if self._paused:
            due = self._taken_at + (self._slow_s or math.inf)
        else:
            due = self._wrote_at + (self._heartbeat_s or math.inf)
        self._timer = None if due == math.inf else self._history.later(due, self._look)

    def _look(self) -> None:
        """Send a comment, or cut off who takes nothing, if it is time; then look again when it may be."""
        self._timer = None
        now = self._history.now()
        with self._guarded():
            if self._paused:
                self._look_paused(now)
            elif self._heartbeat_s and now - self._wrote_at >= self._heartbeat_s:
                self._wrote_at = now
                self._sink.write(KEEP_ALIVE)
        self._watch()

    def _look_paused(self, now: float) -> None:
        unsent = self._sink.unsent()
        if unsent < self._unsent:
            self._taken_at = now
        self._unsent = unsent
        if self._slow_s and now - self._taken_at >= self._slow_s:
            self._cut()
