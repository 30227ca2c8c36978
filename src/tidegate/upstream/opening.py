"""The innermost Service: encode, send, and wait for the first verdict (content, a whole body, or a failure).

Frames that carry nothing a client could use are held until the verdict, so that a failure can still become a real HTTP
status. The context's exit is the end of the stream: the connection goes back, or is closed.
"""

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final

from tidegate.dialect import ProviderError, Sight
from tidegate.exchange import Attempt, Ending, Flow, Plain, ReplyHead, Sink, Stream
from tidegate.observe.metrics import Metrics
from tidegate.upstream.connection import UpstreamConnection
from tidegate.upstream.providers import Provider
from tidegate.verdict import (
    BAD_FRAME,
    COMPLETED,
    CONNECT_RESET,
    EMPTY_STREAM,
    ERROR_FRAME,
    PROVIDER_AUTH,
    UPSTREAM_FAILED,
    UPSTREAM_RATE_LIMITED,
    UPSTREAM_REJECTED,
    UPSTREAM_TRUNCATED,
    AttemptFailed,
    Verdict,
)
from tidegate.wire import Frame, FrameError

MAX_HELD_FRAMES: Final = 64
MAX_HELD_BYTES: Final = 256 * 1024
"""What is held before the verdict; a longer preamble, or a longer plain body, is passed on as it comes."""


_PASSING: Final = frozenset({408, 425})
"""Statuses below 500 that say nothing against the request itself: it came too slowly, or too early."""
STALE_S: Final = 0.25
"""How soon after a request is sent a connection breaks that the provider had closed before: in the time of one round trip.
One that breaks later was alive, and what was sent on it may be at work."""
LOOK_BYTES: Final = 1024
"""A read is looked at in pieces of this size: most often the verdict is in the first, and the rest need not be split."""


class Opening:
    """Opens streams at providers. Shape: `translates` has streams translated that need not be."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        translates: bool = False,
    ) -> None:
        self.providers = providers
        self.metrics = metrics
        self.clock = clock
        self.translates = translates
        self.pending: set[_Open] = set()

    def held(self) -> int:
        """Give the bytes that are held for attempts: requests on their way, and what came before the verdict."""
        return sum(attempt.held() for attempt in self.pending)

    def open(self, attempt: Attempt, /) -> "_Open":
        """Give the context of one stream. Errors: AttemptFailed before it is open."""
        return _Open(self, attempt)


class _Open:
    """Holds: a connection from entry to exit; the provider's gauges count it meanwhile."""

    __slots__ = ("_attempt", "_connection", "_opening", "_provider", "_reader", "_request_bytes")

    def __init__(self, opening: Opening, attempt: Attempt) -> None:
        self._opening = opening
        self._attempt = attempt
        self._provider = opening.providers[attempt.target.provider]
        self._connection: UpstreamConnection | None = None
        self._reader: _Reader | None = None
        self._request_bytes = 0

    def held(self) -> int:
        """Give the bytes of the request while it may be sent, and of what was read until somebody takes it."""
        return self._request_bytes + (self._reader.held() if self._reader is not None else 0)

    async def __aenter__(self) -> Stream:
        metrics = self._opening.metrics
        metrics.provider_call_started(self._provider.name)
        self._opening.pending.add(self)
        try:
            reader = await self._first_verdict()
        except BaseException:
            self._release()
            metrics.provider_call_ended(self._provider.name)
            raise
        finally:
            self._opening.pending.discard(self)  # whoever has the stream takes what was read at once
            self._reader = None
        metrics.stream_opened(self._provider.name)
        ask = self._attempt.admitted.ask
        return Stream(
            attempt=self._attempt,
            source=reader,
            head=ReplyHead(reader.status, reader.headers),
            events=reader.events,
            strips_usage=reader.events and not ask.wants_usage,
            changed=reader.changed,
            whole=reader.whole,
            redact=self._provider.redact,
            translates=reader.events and self._opening.translates,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()
        name = self._provider.name
        self._opening.metrics.stream_closed(name)
        self._opening.metrics.provider_call_ended(name)

    async def _first_verdict(self) -> "_Reader":
        attempt, provider, clock = self._attempt, self._provider, self._opening.clock
        ask, record = attempt.admitted.ask, attempt.record
        body = provider.row.dialect.write_request(ask, attempt.target.model)
        fresh = False
        while True:
            request = provider.write(attempt.admitted.arrival, body)
            self._request_bytes = len(request)
            connection = self._connection = await provider.pool.take(fresh=fresh, on_tls=self._securing)
            record.reused = connection.served > 0
            sent_at = record.connected_at = clock()
            record.sent_at = record.sent_at or sent_at
            reader = self._reader = _Reader(self._opening, attempt, provider, connection)
            reader.changed = body is not ask.body
            connection.send(request, reader)
            fault = await reader.verdict
            if fault is None:
                self._request_bytes = 0
                return reader
            stale = record.reused and not connection.heard and clock() - sent_at < STALE_S
            if stale and fault.verdict is CONNECT_RESET:
                # The provider had closed this connection while it was idle: nobody's failure. Once, on a new one.
                provider.pool.give_back(connection)
                self._connection = None
                fresh = True
                continue
            try:
                raise fault
            finally:
                # The fault's traceback holds this frame: without these names it is no cycle for the collector.
                del fault, reader, connection

    def _securing(self) -> None:
        self._attempt.record.securing = True

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            ending = self._attempt.admitted.arrival.outcome.ending
            completed = ending is not None and ending.verdict is COMPLETED
            self._provider.pool.give_back(connection, linger=completed)


def _kind_and_coding(head: ReplyHead) -> tuple[bytes, bytes]:
    """Give a body's type and coding, in lower case; empty where a header is not there."""
    kind = coding = b""
    for name, value in head.headers:
        if name == b"content-type":
            kind = value.strip().lower()
        elif name == b"content-encoding":
            coding = value.strip().lower()
    return kind, coding


class _Reader:
    """The first Sink of an attempt, and the Source of its stream.

    Shape: `verdict` gives None for an open stream, or the fault. What was read until `attach` is kept and given first.
    """

    __slots__ = (
        "_attempt",
        "_buffered",
        "_clock",
        "_connection",
        "_dialect",
        "_ending",
        "_framer",
        "_frames",
        "_kept",
        "_provider",
        "changed",
        "events",
        "headers",
        "status",
        "verdict",
        "whole",
    )  # fmt: skip

    def __init__(self, opening: Opening, attempt: Attempt, provider: Provider, connection: UpstreamConnection) -> None:
        self.verdict: asyncio.Future[AttemptFailed | None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.events = False
        self.changed = False
        self.whole = False
        self._attempt = attempt
        self._provider = provider
        self._dialect = provider.row.dialect
        self._connection = connection
        self._clock = opening.clock
        self._framer = provider.row.framer()
        self._kept: list[bytes] = []
        self._buffered = 0
        self._frames = 0
        self._ending: Ending | None = None

    def held(self) -> int:
        """Give the bytes that were read and that nobody has taken yet."""
        return sum(map(len, self._kept)) + self._framer.held

    # --- Source ----------------------------------------------------------------------------------------------------

    def attach(self, sink: Sink, /) -> None:
        """Give what was read while opening, then let the connection tell the sink itself."""
        kept, self._kept = self._kept, []
        data = kept[0] if len(kept) == 1 else b"".join(kept)
        if self._ending is None:
            self._connection.hand(sink)
            self._connection.resume()
        if data:
            sink.write(data)
        if self._ending is not None:
            sink.finish(self._ending)

    def divert(self, plain: Plain | None, /) -> None:
        """Let plain frames pass the sink by."""
        self._connection.divert(plain)

    def pause(self) -> None:
        """Hold the provider back."""
        self._connection.pause()

    def resume(self) -> None:
        """Let the provider go on."""
        self._connection.resume()

    def abort(self) -> None:
        """Close the connection at once."""
        self._connection.abort()

    # --- Sink, until the verdict -----------------------------------------------------------------------------------

    def bind(self, flow: Flow, /) -> None:
        """Nothing to tell: the connection is paused by us."""

    def start(self, head: ReplyHead, /) -> None:
        """Take the head: its status and type say how the body is read."""
        self._attempt.record.headed_at = self._clock()
        # Chosen here and not when the content comes: this is time that is waited for anyway.
        self.status, self.headers = head.status, self._provider.headers_down(head.headers)
        kind, coding = _kind_and_coding(head)
        if coding not in {b"", b"identity"}:
            self._fail(BAD_FRAME, "the provider compressed its answer, though it was asked not to")
            return
        asked = self._attempt.admitted.ask.stream
        self.events = asked and 200 <= head.status < 300 and kind.startswith(b"text/event-stream")

    def write(self, data: bytes, /) -> None:
        """Take payload; decide when it is enough."""
        if self.verdict.done():
            # Decided, but not attached yet: at most this read is kept, the rest waits in the socket.
            self._kept.append(data)
            self._connection.pause()
        elif self.events:
            self._look(data)
        else:
            self._collect(data)

    def finish(self, ending: Ending, /) -> None:
        """Take the end."""
        self._ending = ending
        if self.verdict.done():
            return
        if ending.verdict is not COMPLETED:
            self._fail(ending.verdict)
        elif self.events:
            self._fail(self._ended_early())
        else:
            self._judge(b"".join(self._kept))

    # --- deciding --------------------------------------------------------------------------------------------------

    def _look(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), LOOK_BYTES):
                frames = self._framer.feed(data[start : start + LOOK_BYTES])
                for position, frame in enumerate(frames):
                    if self._decides(frame):
                        self._kept += [later.raw for later in frames[position + 1 :]]
                        self._kept += (self._framer.release(), data[start + LOOK_BYTES :])
                        self._open()
                        return
                    if self.verdict.done():
                        return
        except FrameError as error:
            self._fail(BAD_FRAME, f"the provider sent what is not an event: {error}")
            return
        if self._buffered + self._framer.held > MAX_HELD_BYTES:
            self._kept.append(self._framer.release())
            self._open()

    def _decides(self, frame: Frame) -> bool:
        """Keep a frame; give whether it is the first verdict, unless it failed the attempt."""
        sight, error = self._dialect.look(frame)
        if sight is Sight.SILENT and frame.data is None:
            return False  # a comment, or fields that no client is told of
        if sight is Sight.ERROR and error is not None:
            self._fail_error(error)
            return False
        if sight is Sight.END and not self._frames:
            self._fail(EMPTY_STREAM)
            return False
        if not self._frames:
            self._attempt.record.framed_at = self._clock()
        self._kept.append(frame.raw)
        self._frames += 1
        self._buffered += len(frame.raw)
        return sight is not Sight.SILENT or self._frames > MAX_HELD_FRAMES or self._buffered > MAX_HELD_BYTES

    def _collect(self, data: bytes) -> None:
        self._kept.append(data)
        self._buffered += len(data)
        if self._buffered > MAX_HELD_BYTES:
            if 200 <= self.status < 300 and not self._attempt.admitted.ask.stream:
                self._open()
            else:
                self._judge(b"".join(self._kept)[:MAX_HELD_BYTES])

    def _judge(self, body: bytes) -> None:
        """Decide over a whole body that is not a stream."""
        status = self.status
        if not 200 <= status < 300:
            self._fail_status(status, body)
            return
        try:
            notice = self._dialect.read_response(body)
        except FrameError as error:
            verdict = BAD_FRAME if body else EMPTY_STREAM
            self._fail(verdict, f"the provider's answer is not a JSON object: {error}" if body else "")
            return
        if notice.error is not None:
            self._fail_error(notice.error)
        elif self._attempt.admitted.ask.stream:
            self._fail(BAD_FRAME, "the provider answered a request for a stream with a plain body")
        else:
            self.whole = True
            self._open()

    def _ended_early(self) -> Verdict:
        if self._frames or self._framer.held:
            return UPSTREAM_TRUNCATED
        return EMPTY_STREAM

    def _open(self) -> None:
        self._attempt.record.content_at = self._clock()
        self.verdict.set_result(None)

    # --- failing ---------------------------------------------------------------------------------------------------

    def _fail_status(self, status: int, body: bytes) -> None:
        if status in {401, 403}:
            self._fail(PROVIDER_AUTH, f"the provider refused the gateway's own credentials ({status})")
            return
        error = self._dialect.read_error(status, body)
        if status == 429:
            self._fail_with(UPSTREAM_RATE_LIMITED, error, 429)
        elif 400 <= status < 500 and status not in _PASSING:
            self._fail_with(UPSTREAM_REJECTED, error, status)
        else:
            self._fail_with(UPSTREAM_FAILED, error, status if 400 <= status <= 599 else 502)

    def _fail_error(self, error: ProviderError) -> None:
        """Fail with an error object that came in a 200."""
        if error.status in {401, 403}:
            self._fail(PROVIDER_AUTH, f"the provider refused the gateway's own credentials ({error.status})")
        else:
            self._fail_with(ERROR_FRAME, error, error.status if error.status >= 400 else 0)

    def _fail_with(self, verdict: Verdict, error: ProviderError, status: int) -> None:
        """Fail with the provider's own words."""
        provider = self._provider
        headers = tuple(pair for pair in self.headers if pair[0] != b"content-type")
        self._settle(
            AttemptFailed(
                verdict,
                provider.redact(error.message),
                status=status,
                kind=error.kind and provider.redact(error.kind),
                code=error.code and provider.redact(error.code),
                param=error.param and provider.redact(error.param),
                headers=headers,
            )
        )

    def _fail(self, verdict: Verdict, message: str = "") -> None:
        self._settle(AttemptFailed(verdict, message))

    def _settle(self, fault: AttemptFailed) -> None:
        if not self.verdict.done():
            self.verdict.set_result(fault)
