"""The innermost Service: encode, send, and wait for the first verdict (content, a whole body, or a failure).

Frames that carry nothing a client could use are held until the verdict, so that a failure can still become a real HTTP
status. The context's exit is the end of the stream: the connection goes back, or is closed.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final

from msgspec import Struct

from tidegate.dialect import ClientDialect, Dialect, ProviderDialect, ProviderError, Sight, origin_of, seals
from tidegate.dialect.conversation import Untranslatable, Written
from tidegate.dialect.events import Failed
from tidegate.exchange import Ask, Attempt, Ending, Flow, Plain, ReplyHead, Said, Sink, Stream
from tidegate.observe.metrics import Metrics
from tidegate.upstream.connection import UpstreamConnection
from tidegate.upstream.kinds import PASSAGE, SSE, Row, road
from tidegate.upstream.providers import Provider
from tidegate.verdict import (
    BAD_FRAME,
    COMPLETED,
    CONNECT_RESET,
    EMPTY_STREAM,
    ERROR_FRAME,
    PROVIDER_AUTH,
    UNTRANSLATABLE,
    UPSTREAM_FAILED,
    UPSTREAM_RATE_LIMITED,
    UPSTREAM_REJECTED,
    UPSTREAM_TRUNCATED,
    AttemptFailed,
    Refused,
    Verdict,
)
from tidegate.wire import Framed, FrameError

MAX_HELD_FRAMES: Final = 64
MAX_HELD_BYTES: Final = 256 * 1024
"""What is held before the verdict; a longer preamble, or a longer plain body, is passed on as it comes."""
MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""A plain body that is translated is held until it is whole."""
LARGE_BYTES: Final = 256 * 1024
"""A larger request is translated in a thread: 1 MiB of messages takes 70 ms."""
MAX_DROPPED_CHARS: Final = 1024
_DROPPED: Final = b"x-tidegate-dropped"


_PASSING: Final = frozenset({408, 425})
"""Statuses below 500 that say nothing against the request itself: it came too slowly, or too early."""
MODEL_FAILED: Final = 424
"""Bedrock's status for a model that failed, and no fault of the request either; clients would take it for one."""
STALE_S: Final = 0.25
"""How soon after a request is sent a connection breaks that the provider had closed before: in the time of one round trip.
One that breaks later was alive, and what was sent on it may be at work."""
LOOK_BYTES: Final = 1024
"""A read is looked at in pieces of this size: most often the verdict is in the first, and the rest need not be split."""


class Opening:
    """Opens streams at providers.

    Shape: `clients` are the dialects whose requests can be translated, and `guesses` those that the gateway can answer by
    itself; `translates` has exchanges translated that need not be.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        clients: Mapping[str, ClientDialect],
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        wall: Callable[[], float] = time.time,
        guesses: Mapping[str, Callable[[Ask], bytes]] | None = None,
        translates: bool = False,
    ) -> None:
        self.providers = providers
        self.clients = clients
        self.guesses = guesses or {}
        self.metrics = metrics
        self.clock = clock
        self.wall = wall
        self.translates = translates
        self.pending: set[_Open] = set()

    def held(self) -> int:
        """Give the bytes that are held for attempts: requests on their way, and what came before the verdict."""
        return sum(attempt.held() for attempt in self.pending)

    def open(self, attempt: Attempt, /) -> "_Open":
        """Give the context of one stream. Errors: AttemptFailed before it is open."""
        return _Open(self, attempt)


class _Call(Struct, frozen=True):
    """What one attempt asks. Shape: `passes` is None where it is translated."""

    row: Row
    passes: Dialect | None
    body: bytes
    dropped: tuple[str, ...] = ()


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
            call = self._passing() or await self._translating()
            stream = self._guessed(call) if isinstance(call, bytes) else self._opened(call, await self._ask(call))
        except BaseException:
            self._release()
            metrics.provider_call_ended(self._provider.name)
            raise
        finally:
            self._opening.pending.discard(self)  # whoever has the stream takes what was read at once
            self._reader = None
        metrics.stream_opened(self._provider.name)
        return stream

    def _passing(self) -> _Call | None:
        """Give what the provider is asked where it speaks as the client does; None where it does not."""
        opening, ask = self._opening, self._attempt.admitted.ask
        row, passes = road(self._provider.kind, ask.dialect)
        if passes is None or (opening.translates and ask.dialect in opening.clients):
            return None
        if passes is PASSAGE:
            return _Call(row, passes, ask.body)
        model = self._attempt.target.model
        body = seals.own(passes.write_request(ask, model))
        if row.lifts is None:
            return _Call(row, passes, body)
        lifted = row.lifts(body, model, self._attempt.admitted.arrival.headers)
        return _Call(row, passes, lifted.body, lifted.dropped)

    async def _translating(self) -> _Call | bytes:
        """Give what another dialect's provider is asked, or the answer where the gateway gives it. Errors: AttemptFailed."""
        opening, ask, model = self._opening, self._attempt.admitted.ask, self._attempt.target.model
        row = self._provider.kind.rows[0]
        guess = opening.guesses.get(ask.dialect)
        if guess is not None:
            return guess(ask)
        client = opening.clients.get(ask.dialect)
        if client is None:
            raise AttemptFailed(UNTRANSLATABLE, "the provider of this model has nothing that answers this route")
        try:
            if len(ask.body) > LARGE_BYTES:
                written = await asyncio.to_thread(_translated, client, row.dialect, ask.body, model)
            else:
                written = _translated(client, row.dialect, ask.body, model)
        except Untranslatable as error:
            raise AttemptFailed(UNTRANSLATABLE, error.message, param=error.param) from None
        except Refused as refused:
            raise AttemptFailed(refused.verdict, refused.message, param=refused.param) from None
        return _Call(row, None, written.body, written.dropped)

    def _opened(self, call: _Call, reader: "_Reader") -> Stream:
        ask = self._attempt.admitted.ask
        headers = reader.headers
        if call.passes is None or (reader.events and call.row.media != SSE):
            kind = (b"content-type", SSE if reader.events else b"application/json")
            headers = (kind, *(pair for pair in headers if pair[0] != b"content-type"))
        if call.dropped:
            names = "".join(char if char.isprintable() else "?" for char in ", ".join(call.dropped)[:MAX_DROPPED_CHARS])
            headers = (*headers, (_DROPPED, names.encode("ascii", "replace")))
        return Stream(
            attempt=self._attempt,
            source=reader,
            head=ReplyHead(reader.status, headers),
            events=reader.events,
            strips_usage=reader.events and not ask.wants_usage,
            changed=call.body is not ask.body,
            whole=reader.whole,
            redact=self._provider.redact,
            translates=call.passes is None,
        )

    def _guessed(self, body: bytes) -> Stream:
        """Give the stream of an answer that no provider was asked for."""
        record = self._attempt.record
        record.sent_at = record.content_at = self._opening.clock()
        return Stream(
            attempt=self._attempt,
            source=Said(body),
            head=ReplyHead(200, ((b"content-type", b"application/json"), (b"x-tidegate-estimated", b"true"))),
            events=False,
            strips_usage=False,
            changed=True,
            whole=True,
            redact=self._provider.redact,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()
        name = self._provider.name
        self._opening.metrics.stream_closed(name)
        self._opening.metrics.provider_call_ended(name)

    async def _ask(self, call: _Call) -> "_Reader":
        """Send, and wait for the first verdict. Errors: AttemptFailed."""
        attempt, provider, clock = self._attempt, self._provider, self._opening.clock
        record, fresh = attempt.record, False
        while True:
            if not provider.signer.fresh:
                await provider.signer.wait_fresh()
            request = self._request(call)
            self._request_bytes = len(request)
            connection = self._connection = await provider.pool.take(fresh=fresh, on_tls=self._securing)
            record.reused = connection.served > 0
            sent_at = record.connected_at = clock()
            record.sent_at = record.sent_at or sent_at
            reader = self._reader = _Reader(self._opening, attempt, provider, call, connection)
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

    def _request(self, call: _Call) -> bytes:
        """Give the request, signed as it has to be now."""
        attempt, provider = self._attempt, self._provider
        admitted = attempt.admitted
        if call.passes is PASSAGE:
            return provider.write_passage(admitted.arrival, call.body)
        endpoint = call.row.stream if admitted.ask.stream else call.row.whole
        passes = call.passes is not None
        return provider.write(admitted.arrival, endpoint, attempt.target.model, call.body, passes=passes)

    def _securing(self) -> None:
        self._attempt.record.securing = True

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            ending = self._attempt.admitted.arrival.outcome.ending
            completed = ending is not None and ending.verdict is COMPLETED
            self._provider.pool.give_back(connection, linger=completed)


def _translated(client: ClientDialect, provider: ProviderDialect, body: bytes, model: str) -> Written:
    """Give a client's request in a provider's dialect. Errors: Refused; Untranslatable."""
    return provider.write_conversation(client.read_conversation(body), model)


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
        "_client",
        "_clock",
        "_connection",
        "_dialect",
        "_ending",
        "_framer",
        "_frames",
        "_kept",
        "_most_bytes",
        "_opaque",
        "_provider",
        "_row",
        "_wall",
        "events",
        "headers",
        "status",
        "verdict",
        "whole",
    )  # fmt: skip

    def __init__(
        self, opening: Opening, attempt: Attempt, provider: Provider, call: _Call, connection: UpstreamConnection
    ) -> None:
        self.verdict: asyncio.Future[AttemptFailed | None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.events = False
        self.whole = False
        self._attempt = attempt
        self._provider = provider
        self._row = call.row
        self._opaque = call.passes is PASSAGE
        self._dialect = call.row.dialect
        self._client = None if call.passes is not None else opening.clients[attempt.admitted.ask.dialect]
        self._most_bytes = MAX_HELD_BYTES if self._client is None else MAX_ANSWER_BYTES
        self._wall = opening.wall
        self._connection = connection
        self._clock = opening.clock
        self._framer = call.row.framer()
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
        asked = self._attempt.admitted.ask.stream or self._opaque
        self.events = asked and 200 <= head.status < 300 and kind.startswith(self._row.media)

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

    def _decides(self, frame: Framed) -> bool:
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
        if self._opaque and 200 <= self.status < 300:
            self._open()
        elif self._buffered <= MAX_HELD_BYTES:
            return
        elif not 200 <= self.status < 300 or self._attempt.admitted.ask.stream:
            self._judge(b"".join(self._kept)[:MAX_HELD_BYTES])
        elif self._most_bytes == MAX_HELD_BYTES:
            self._open()
        elif self._buffered > self._most_bytes:
            self._fail(BAD_FRAME, f"the provider's answer is larger than {self._most_bytes} bytes")

    def _judge(self, body: bytes) -> None:
        """Decide over a whole body that is not a stream."""
        status = self.status
        if not 200 <= status < 300:
            self._fail_status(status, body)
            return
        if self._opaque:
            self.whole = True
            self._open()
            return
        try:
            answer, error = self._read(body)
        except FrameError as failure:
            verdict = BAD_FRAME if body else EMPTY_STREAM
            self._fail(verdict, f"the provider's answer is not a JSON object: {failure}" if body else "")
            return
        if error is not None:
            self._fail_error(error)
        elif self._attempt.admitted.ask.stream:
            self._fail(BAD_FRAME, "the provider answered a request for a stream with a plain body")
        else:
            self.whole = True
            self._kept = [answer]
            self._open()

    def _read(self, body: bytes) -> tuple[bytes, ProviderError | None]:
        """Give a whole answer as the client is to have it, or the error that it is. Errors: FrameError."""
        client, dialect, ask = self._client, self._dialect, self._attempt.admitted.ask
        if client is None:
            return body, dialect.read_response(body).error
        events = dialect.read_answer(body)
        last = events[-1] if events else None
        if isinstance(last, Failed):
            return b"", last.error
        origin = origin_of(self._attempt, dialect, int(self._wall()))
        return b"" if ask.stream else client.write_answer(events, ask, origin), None

    def _ended_early(self) -> Verdict:
        if self._frames or self._framer.held:
            return UPSTREAM_TRUNCATED
        return EMPTY_STREAM

    def _open(self) -> None:
        self._attempt.record.content_at = self._clock()
        self.verdict.set_result(None)

    # --- failing ---------------------------------------------------------------------------------------------------

    def _fail_status(self, status: int, body: bytes) -> None:
        error = self._dialect.read_error(status, body)
        if status in {401, 403} or error.status in {401, 403}:
            self._fail(PROVIDER_AUTH, f"the provider refused the gateway's own credentials ({status})")
        elif status == 429:
            self._fail_with(UPSTREAM_RATE_LIMITED, error, 429, body)
        elif 400 <= status < 500 and status not in _PASSING and status != MODEL_FAILED:
            self._fail_with(UPSTREAM_REJECTED, error, status, body)
        else:
            known = status in _PASSING or 500 <= status <= 599
            self._fail_with(UPSTREAM_FAILED, error, status if known else 502, body)

    def _fail_error(self, error: ProviderError) -> None:
        """Fail with an error object that came in a 200."""
        if error.status in {401, 403}:
            self._fail(PROVIDER_AUTH, f"the provider refused the gateway's own credentials ({error.status})")
        else:
            self._fail_with(ERROR_FRAME, error, error.status if error.status >= 400 else 0)

    def _fail_with(self, verdict: Verdict, error: ProviderError, status: int, body: bytes = b"") -> None:
        """Fail with the provider's own words."""
        provider = self._provider
        headers = tuple(pair for pair in self.headers if pair[0] != b"content-type")
        self._settle(
            AttemptFailed(
                verdict,
                provider.redact(error.message),
                status=status if self._client is None else self._client.status(status),
                # Kinds of errors are words of a dialect's own.
                kind=provider.redact(error.kind) if error.kind and self._client is None else None,
                code=error.code and provider.redact(error.code),
                param=error.param and provider.redact(error.param),
                headers=headers,
                body=(self._media(), provider.redact(body.decode("latin-1")).encode("latin-1"))
                if self._opaque
                else None,
            )
        )

    def _media(self) -> bytes:
        """Give the type of the provider's answer, as it says it."""
        return next((value for name, value in self.headers if name == b"content-type"), b"application/json")

    def _fail(self, verdict: Verdict, message: str = "") -> None:
        self._settle(AttemptFailed(verdict, message))

    def _settle(self, fault: AttemptFailed) -> None:
        if not self.verdict.done():
            self.verdict.set_result(fault)
