"""Moves an open stream to its client: the Sink of the provider's Source, and the Flow of the client's Sink.

Bytes move in callbacks. What is written ends at a frame boundary and the rest is held, so that a heartbeat or an error
frame never lands inside a frame. Time is kept by stamps and one lazily re-armed timer.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from msgspec import Struct, field

from tidegate.dialect import Dialect, ProviderError
from tidegate.exchange import GAP_BOUNDS_S, Client, Ending, Outcome, Plain, ReplyHead, Stream
from tidegate.relay.meter import Meter
from tidegate.verdict import (
    BAD_FRAME,
    BUG,
    CANCELLED,
    CLIENT_GONE,
    CLIENT_SLOW,
    COMPLETED,
    DEADLINE_EXCEEDED,
    IDLE_TIMEOUT,
    TOTAL_TIMEOUT,
    UPSTREAM_ERROR_FRAME,
    UPSTREAM_TRUNCATED,
    Verdict,
)
from tidegate.wire import Framed, FrameError, FramerOf

MAX_HELD_BYTES: Final = 256 * 1024
"""A frame larger than this is passed on in pieces."""
FINISH_S: Final = 60.0
"""How long a stream whose client left may go on under `on_client_disconnect: finish`."""
FINISH_STREAMS: Final = 100
"""How many such streams a process carries at a time."""

IDLE_LOOK_S: Final = 3600.0
"""How often a stream is looked at for which every deadline is off."""

_COMPLETED: Final = Ending(COMPLETED)


class Finishing(Struct):
    """How many streams of a process go on without their client."""

    streams: int = 0


class RelayRules(Struct):
    """What relays of one road share. Shape: `dialect` is the client's, `framer` the provider's; `detached` is the whole process's.

    What is the process's stays, whatever else a reload changes.
    """

    dialect: Dialect
    framer: Callable[[], FramerOf[Framed]]
    clock: Callable[[], float]
    heartbeat_s: float
    slow_client_s: float
    finishes: bool
    detached: Finishing = field(default_factory=Finishing)

    @property
    def finishing(self) -> int:
        """How many streams go on without their client."""
        return self.detached.streams


class Relay:
    """One stream on its way to one client. `run` lasts until the stream has ended; `end` ends it from outside."""

    __slots__ = (
        "_blocked_since", "_client", "_clock", "_closed", "_deadline", "_detached", "_detached_at", "_diverts", "_done", "_event_at", "_events",
        "_first_at", "_flowing", "_framer", "_gap_max", "_gaps", "_loop", "_meter", "_out", "_outcome", "_paused",
        "_pieces", "_plain", "_plain_bytes", "_rules", "_send", "_source", "_started_at", "_stream", "_taken",
        "_taken_at", "_timer", "_wrote_at",
    )  # fmt: skip

    def __init__(self, client: Client, stream: Stream, outcome: Outcome, rules: RelayRules) -> None:
        self._client = client
        self._stream = stream
        self._source = stream.source
        self._outcome = outcome
        self._flowing = outcome.flowing
        self._rules = rules
        self._clock = rules.clock
        self._events = stream.events
        self._framer = rules.framer()
        self._meter = Meter(rules.dialect, strips_usage=stream.strips_usage)
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._pieces: list[bytes] = []
        self._paused = False
        self._detached = False
        self._detached_at = 0.0
        self._closed = False
        now = self._clock()
        self._started_at = stream.attempt.record.sent_at
        self._deadline = stream.attempt.admitted.deadline
        self._event_at = self._wrote_at = self._taken_at = now
        self._first_at = 0.0
        self._blocked_since = 0.0
        self._taken = 0
        self._out = 0
        self._gap_max = 0.0
        self._gaps = outcome.flowing.gaps
        self._diverts = False
        self._plain = self._plain_bytes = 0
        self._send = client.write

    async def run(self) -> None:
        """Relay until the end. Holds: a timer, and the client's ear, until then."""
        try:
            self._client.bind(self)
            if not self._closed:
                if not self._stream.whole:
                    self._client.start(self._stream.head)
                self._source.attach(self)
            if not self._closed:
                self._watch()
                await self._done
        except asyncio.CancelledError:
            self.end(Ending(CANCELLED))
            raise
        except Exception:
            self.end(Ending(BUG))
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def end(self, ending: Ending) -> None:
        """End the stream; the first ending counts."""
        if self._closed:
            return
        self._closed = True
        self._keep()
        now = self._clock()
        if self._blocked_since:
            self._flowing.blocked_s += now - self._blocked_since
        if self._detached:
            self._rules.detached.streams -= 1
            ending = Ending(CLIENT_GONE)
        verdict = ending.verdict
        if verdict is not COMPLETED:
            self._source.abort()
        try:
            self._close_client(ending, verdict)
        finally:
            self._sum_up()
            self._outcome.end(ending, now, self._stream.head.status)
            if not self._done.done():
                self._done.set_result(None)

    def held(self) -> int:
        """Give the bytes that came and were not passed on yet: a frame's beginning, or a body's."""
        return self._framer.held if self._events else sum(map(len, self._pieces))

    def backlog(self) -> tuple[int, float]:
        """Give the bytes that the client has not taken, and for how many seconds it has taken none."""
        now = self._clock()
        return self._client.unsent(), now - self._slow_since(now)

    def _sum_up(self) -> None:
        """Write down what was seen."""
        outcome, flowing, meter = self._outcome, self._flowing, self._meter
        outcome.usage = meter.usage
        outcome.finish_reason = meter.finish_reason
        if self._stream.translates:
            outcome.path = "translated"
        else:
            outcome.path = "spliced" if self._stream.changed or meter.spliced else "raw"
        flowing.bytes_out = self._out + self._plain_bytes
        flowing.gap_max_s = self._gap_max
        if not self._events:
            flowing.content_bytes = self._out
            return
        flowing.frames = meter.frames + self._plain
        if meter.envelope is not None:
            flowing.content_bytes = self._plain_bytes - self._plain * sum(map(len, meter.envelope))
        if self._first_at:
            flowing.last_token_at = self._event_at
            flowing.gap_sum_s = max(0.0, self._event_at - self._first_at - flowing.blocked_s)

    def _close_client(self, ending: Ending, verdict: Verdict) -> None:
        if verdict is COMPLETED:
            self._client.finish(ending)
        elif verdict is CLIENT_GONE or verdict is CLIENT_SLOW or not self._events or self._framer.inside:
            self._client.abort()
        else:
            frame = self._error_frame(self._error(verdict, ending.message))
            self._out += len(frame)
            self._client.write(frame)
            self._client.finish(ending)

    def _error(self, verdict: Verdict, message: str) -> ProviderError:
        """Give what the client is told of an ending: in the provider's own words, where it said some."""
        said, redact = self._meter.error, self._stream.redact
        if said is None:
            return ProviderError(message or verdict.meaning, code=verdict.code, status=verdict.status)
        kind = redact(said.kind) if said.kind else None
        return ProviderError(message or redact(said.message), kind, verdict.code, status=said.status or verdict.status)

    def _error_frame(self, error: ProviderError) -> bytes:
        meter, code = self._meter, error.code or ""
        return self._rules.dialect.error_frame(code, error.message, error.kind, first=meter.began, last=meter.latest)

    # --- Flow: what the client's side tells -------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop reading the provider: the client takes no more."""
        if not self._paused and not self._closed:
            self._paused = True
            self._blocked_since = self._clock()
            self._source.pause()
            self._taken, self._taken_at = self._out + self._plain_bytes - self._client.unsent(), self._blocked_since

    def resume(self) -> None:
        """Read the provider again."""
        if self._paused and not self._closed:
            self._paused = False
            now = self._clock()
            self._flowing.blocked_s += now - self._blocked_since
            self._blocked_since = 0.0
            self._event_at = now  # silence that we made ourselves is not the provider's
            self._source.resume()
            self._watch()

    def gone(self) -> None:
        """End the stream, or let it finish without its client, as the rules say."""
        if self._closed or self._detached:
            return
        rules = self._rules
        if not rules.finishes or rules.finishing >= FINISH_STREAMS:
            self.end(Ending(CLIENT_GONE))
            return
        rules.detached.streams += 1
        self._detached = True
        self._keep()
        self._detached_at = self._clock()
        self.resume()
        self._watch()

    # --- Sink: what the provider's side tells -----------------------------------------------------------------------

    def bind(self, flow: object, /) -> None:
        """Nothing to tell: the source is held directly."""

    def start(self, head: ReplyHead, /) -> None:
        """Take no head: it is known already."""

    def write(self, data: bytes, /) -> None:
        """Pass payload on."""
        if self._closed:
            return
        if self._events:
            self._write_events(data)
        else:
            self._write_body(data)

    def _forward(self, chunk: bytes) -> None:
        """Pass on one plain frame in its chunk."""
        clock, send = self._clock, self._send
        now = clock()
        gap = now - self._event_at
        self._event_at = now
        if gap > self._gap_max:  # noqa: PLR1730 (max() costs as much as all of this)
            self._gap_max = gap
        self._gaps[bisect_left(GAP_BOUNDS_S, gap)] += 1
        self._plain += 1
        size = len(chunk)
        self._plain_bytes += size - (6 if size < 262 else 7)  # two or three digits, two line ends
        send(chunk)

    def _divert(self) -> None:
        """Let plain frames pass by from here on, if one was seen and nothing is held that they would overtake."""
        send, envelope = self._client.coded(), self._meter.learn()
        if envelope is None or send is None or self._framer.held or self._framer.inside:
            return
        self._send = send
        self._diverts = True
        self._source.divert(Plain(*envelope, self._forward))

    def _keep(self) -> None:
        """Let every frame come to `write` again."""
        if self._diverts:
            self._diverts = False
            self._source.divert(None)

    def _write_events(self, data: bytes) -> None:
        framer = self._framer
        try:
            block = framer.take(data)
            if framer.held > MAX_HELD_BYTES:
                block += framer.release()
            if block:
                self._write_block(block)
        except FrameError as error:
            self._spoilt(error.message)
        else:
            if framer.held:
                self._keep()
            elif not (self._diverts or self._closed or self._detached):
                self._divert()

    def _spoilt(self, why: str) -> None:
        self.end(Ending(BAD_FRAME, f"the provider sent what is not an event: {why}"))

    def _write_block(self, block: bytes) -> None:
        now = self._clock()
        meter = self._meter
        if block[:5] == b"data:" or b"\ndata:" in block or b"\rdata:" in block:
            self._count_gap(now)
        passed = meter.observe(block)
        if passed:
            self._put(passed, now)
        if meter.done or meter.unreadable or meter.error is not None:
            self._conclude()

    def _conclude(self) -> None:
        """End for the reason that the meter has seen."""
        meter = self._meter
        if meter.unreadable:
            self._spoilt(meter.unreadable)
        else:
            self.end(_COMPLETED if meter.error is None else Ending(UPSTREAM_ERROR_FRAME))

    def _count_gap(self, now: float) -> None:
        if self._first_at:
            gap = now - self._event_at
            self._gap_max = max(self._gap_max, gap)
            self._gaps[bisect_left(GAP_BOUNDS_S, gap)] += 1
        else:
            self._first_at = now
        self._event_at = now

    def _put(self, data: bytes, now: float) -> None:
        if not self._flowing.first_write_at:
            self._flowing.first_write_at = now
        self._out += len(data)
        self._wrote_at = now
        if not self._detached:
            self._client.write(data)

    def _write_body(self, data: bytes) -> None:
        if self._closed:
            return
        self._event_at = self._clock()
        if self._stream.whole:
            self._pieces.append(data)
        else:
            self._meter.piece(data)
            self._put(data, self._event_at)

    def finish(self, ending: Ending, /) -> None:
        """Take the end of the provider's body: fine only where the dialect says so."""
        if self._closed:
            return
        if ending.verdict is not COMPLETED:
            self.end(ending)
        elif self._events:
            self._finish_events()
        else:
            self._finish_body(ending)

    def _finish_events(self) -> None:
        """End without the terminal event: add it when everything else was said, else the stream is truncated."""
        meter, dialect = self._meter, self._rules.dialect
        inside = self._framer.inside
        rest = b""
        if not inside:
            rest = self._framer.release().strip()
            self._framer = self._rules.framer()  # what was held is not passed on: the client stands between two frames
        if inside or (rest and rest != dialect.terminator.strip()):
            self.end(Ending(UPSTREAM_TRUNCATED))
        elif rest or meter.finished >= self._stream.attempt.admitted.ask.choices:
            if dialect.terminator:
                self._put(dialect.terminator, self._clock())
            self.end(_COMPLETED)
        else:
            self.end(Ending(UPSTREAM_TRUNCATED))

    def _finish_body(self, ending: Ending) -> None:
        if self._stream.whole:
            body = b"".join(self._pieces)
            self._meter.whole(body, judged=self._stream.judged)
            head = self._stream.head
            length = (b"content-length", b"%d" % len(body))
            self._client.start(ReplyHead(head.status, (*head.headers, length)))
            self._put(body, self._clock())
        else:
            self._meter.last()
        self.end(ending)

    def abort(self) -> None:
        """Nothing to stop: whoever aborts the source ends the relay."""

    # --- time ------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """End what is late; look again when the next thing can be."""
        if self._timer is not None:
            self._timer.cancel()
        if self._closed:
            return
        now = self._clock()
        due = self._dues(now)
        for instant, verdict in due:
            if now >= instant:
                self.end(Ending(verdict))
                return
        nearest = min((instant for instant, _ in due), default=now + IDLE_LOOK_S)
        if self._events and self._rules.heartbeat_s and not self._paused and not self._detached:
            nearest = min(nearest, self._beat(now))
        self._timer = self._loop.call_later(max(nearest - now, 0.001), self._watch)

    def _dues(self, now: float) -> list[tuple[float, Verdict]]:
        """Give when what would be late."""
        limits = self._stream.attempt.target.timeouts
        due = []
        total_s = limits.total_s if self._events else limits.response_s
        if total_s:
            due.append((self._started_at + total_s, TOTAL_TIMEOUT))
        if limits.idle_s and self._events and not self._paused:
            due.append((self._event_at + limits.idle_s, IDLE_TIMEOUT))
        if self._deadline:
            due.append((self._deadline, DEADLINE_EXCEEDED))
        if self._detached:
            due.append((self._detached_at + FINISH_S, CLIENT_GONE))
        elif self._rules.slow_client_s:
            due.append((self._slow_since(now) + self._rules.slow_client_s, CLIENT_SLOW))
        return due

    def _beat(self, now: float) -> float:
        """Send a heartbeat when one is due; give when the next one is."""
        every, wrote_at = self._rules.heartbeat_s, max(self._wrote_at, self._event_at)
        if now < wrote_at + every:
            return wrote_at + every
        if not self._framer.inside:
            self._put(self._rules.dialect.heartbeat, now)
        return now + every

    def _slow_since(self, now: float) -> float:
        """Give since when bytes wait of which the client took none; now, when there are none."""
        unsent = self._client.unsent()
        taken = self._out + self._plain_bytes - unsent
        if not unsent or taken > self._taken:
            self._taken, self._taken_at = taken, now
        return self._taken_at
