"""One HTTP/1.1 connection to a provider: bytes from the socket become a head, payload and an end.

Everything happens in protocol callbacks; what is found is told to one Sink. Framing (content-length, chunked, until-close)
is httptools' business; limits, reuse and the meaning of an early end are ours.

    IDLE --send--> WAITING --head--> BODY --end--> DONE --(pool)--> IDLE      any of them --error, EOF, abort--> CLOSED
"""

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final, cast

import httptools

from tidegate.exchange import Ending, Plain, ReplyHead, Sink
from tidegate.verdict import BAD_FRAME, COMPLETED, CONNECT_RESET, UPSTREAM_RESET, UPSTREAM_TRUNCATED, Verdict

READ_BYTES: Final = 64 * 1024
MAX_FRAMING_BYTES: Final = 64 * 1024
"""Bytes that may come without a byte of payload: a head, chunk extensions, trailers."""
LINGER_S: Final = 0.5
"""How long the end of a body may come after the stream's own terminal event, for the connection to be reused."""

MAX_PLAIN_BYTES: Final = 4096
"""A longer chunk is not looked at for passing by."""

_COMPLETED: Final = Ending(COMPLETED)
_LF: Final = 10


def _size_line(nbytes: int) -> bytes:
    """Give the size line of the one chunk that is `nbytes` long with its framing, or what no chunk begins with."""
    for digits in range(1, 4):
        payload = nbytes - digits - 4
        if payload > 0 and len(b"%x" % payload) == digits:
            return b"%x\r\n" % payload
    return b"none"


_SIZE_LINES: Final = tuple(map(_size_line, range(MAX_PLAIN_BYTES)))


class UpstreamConnection(asyncio.BufferedProtocol):
    """A connection that carries one exchange at a time.

    Holds: `buffer` is shared by all connections of a loop: it is filled and emptied within one callback.
    """

    __slots__ = (
        "_between", "_buffer", "_chunks", "_complete", "_end", "_extra", "_forward", "_framed", "_framing_bytes",
        "_head", "_headers", "_keeps", "_linger", "_longest", "_mine", "_on_lost", "_parser", "_paused", "_sink",
        "_start", "_told", "_transport", "_view", "idle_since", "on_body", "on_chunk_complete", "on_chunk_header", "served",
    )  # fmt: skip

    def __init__(self, buffer: bytearray, on_lost: Callable[["UpstreamConnection"], None]) -> None:
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._sink: Sink | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        # Bound once: the parser appends each piece of payload without entering Python code of ours.
        self.on_body = self._chunks.append
        # The same way: empty inside of a chunk, not empty when the next byte begins one.
        self._between: set[int] = set()
        self.on_chunk_header = self._between.clear
        self.on_chunk_complete = partial(self._between.add, 1)
        self._parser = httptools.HttpResponseParser(self)
        self._head: ReplyHead | None = None
        self._framed = False
        self._keeps = False
        self._complete = True
        self._extra = False
        self._paused = False
        self._told = False
        self._longest = 0
        self._start = self._end = b""
        self._forward: Callable[[bytes], None] = self._chunks.append
        self._mine = 0
        self._framing_bytes = 0
        self._linger: asyncio.TimerHandle | None = None
        self.idle_since = 0.0
        self.served = 0

    # --- the exchange's side ---------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether another exchange can be sent: the last one ended cleanly and nothing came since."""
        transport = self._transport
        return self._complete and not self._extra and transport is not None and not transport.is_closing()

    @property
    def nearly_done(self) -> bool:
        """Whether only the end of a body is missing for it to be usable again."""
        transport = self._transport
        alive = transport is not None and not transport.is_closing()
        return alive and not self._complete and self._keeps and self._framed

    @property
    def heard(self) -> bool:
        """Whether any byte of an answer came since the request was sent."""
        return self._told or self._framing_bytes > 0

    def send(self, request: bytes, sink: Sink) -> None:
        """Send a request; head, payload and end are told to `sink`."""
        self._sink = sink
        self._head = None
        self._headers = []
        self._complete = self._framed = self._keeps = self._told = False
        self._between.clear()
        self._longest = 0
        self._framing_bytes = 0
        self.served += 1
        if self._transport is None:
            self._broken(CONNECT_RESET)
        else:
            self._transport.write(request)

    def hand(self, sink: Sink) -> None:
        """Let another sink hear the rest of this exchange."""
        self._sink = sink

    def divert(self, plain: Plain | None) -> None:
        """Hand chunks that hold one plain frame to its `forward` instead of the sink; None ends that."""
        if plain is None:
            self._longest = 0
            self._forward = self._chunks.append  # lets go of the relay, which else would be a cycle
            return
        self._start, self._end, self._forward = plain.start, plain.end + b"\r\n", plain.forward
        self._longest = MAX_PLAIN_BYTES

    def pause(self) -> None:
        """Stop reading; the provider is held back by TCP. An answer that is in whole needs none, nor may what follows it."""
        if not self._paused and not self._complete and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once, so that no further token is produced or paid for."""
        self._sink = None
        self._longest = 0
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._transport is not None:
            self._transport.abort()

    def linger(self, then: Callable[["UpstreamConnection"], None]) -> None:
        """Wait shortly for the end of a body whose stream is over; `then` gets the connection, usable or closed."""
        self._sink = _Lingering(self, then)
        self._longest = 0
        self.resume()
        self._linger = asyncio.get_running_loop().call_later(LINGER_S, self._linger_over, then)

    def _linger_over(self, then: Callable[["UpstreamConnection"], None]) -> None:
        self._linger = None
        self.abort()
        then(self)

    def linger_ended(self) -> None:
        """Stop waiting: the end of the body, or of the connection, came."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    # --- asyncio's side --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports do not inherit it

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002
        """Give the loop's shared buffer."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read, tell the sink."""
        if nbytes < self._longest and self._between:
            # Nearly every read of a paced stream is one chunk with one plain frame. It goes on as it is, past the parser,
            # which stays between two chunks: 2 us an event less; docs/performance.md.
            data = self._view[:nbytes].tobytes()
            size_line = _SIZE_LINES[nbytes]
            if (
                data.startswith(size_line)
                and data.startswith(self._start, len(size_line))
                and data.endswith(self._end)
                # Nothing but text in between: the next quote is the one that closes it.
                and data.find(b'"', len(size_line) + len(self._start)) == nbytes - len(self._end)
            ):
                forward = self._forward  # CPython 3.11 reads a slot fast as an attribute, slowly as a method
                forward(data)
                return
        if self._sink is None or self._complete:
            self._extra = True  # Bytes nobody asked for: whatever they are, this connection is not for reuse.
            self.abort()
            return
        try:
            self._parser.feed_data(self._view[:nbytes])
        except httptools.HttpParserUpgrade:
            self._broken(BAD_FRAME)
            return
        except httptools.HttpParserError:
            self._deliver(nbytes)
            # What follows a whole answer is not part of it, whatever it is.
            if self._complete:
                self._extra = True
                self._ended()
            else:
                self._broken(BAD_FRAME)
            return
        if self._between and self._buffer[nbytes - 1] != _LF:
            self._between.clear()  # a size line has begun
        chunks = self._chunks
        if self._told and len(chunks) == 1 and not self._complete:
            self._framing_bytes = 0
            self._sink.write(chunks.pop())
            return
        self._deliver(nbytes)
        if self._complete and self._sink is not None:
            self._ended()

    def eof_received(self) -> bool:
        """Decide whether the end of the connection is the end of the body."""
        sink = self._sink
        if sink is not None and not self._complete:
            if self._head is None:
                self._broken(CONNECT_RESET)
            elif self._framed:
                self._broken(UPSTREAM_TRUNCATED)
            else:
                self._complete = True
                self._ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the sink, when it still waits, and the pool."""
        if self._sink is not None and not self._complete:
            if self._head is None:
                self._broken(CONNECT_RESET)
            elif exc is None or isinstance(exc, ssl.SSLError):
                self._broken(UPSTREAM_TRUNCATED)
            else:
                self._broken(UPSTREAM_RESET)
        self._transport = None
        del self._parser  # breaks the cycle parser <-> connection without waiting for the collector
        self._on_lost(self)

    # --- httptools' side -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Note where a second message begins that nobody asked for: its payload is not ours."""
        if self._complete and not self._extra:
            self._extra = True
            self._mine = len(self._chunks)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Make the head; an interim answer (1xx) is forgotten."""
        status = self._parser.get_status_code()
        headers = self._headers
        if self._extra:
            return
        if 100 <= status < 200:
            self._headers = []
            return
        self._keeps = self._parser.should_keep_alive()
        self._framed = status in {204, 304}
        for name, value in headers:
            if name == b"content-length" or (name == b"transfer-encoding" and b"chunked" in value.lower()):
                self._framed = True
        self._head = ReplyHead(status, tuple(headers))
        self._headers = []

    def on_message_complete(self) -> None:
        """Note the end of the body."""
        if self._head is not None:
            self._complete = True

    # --- telling ---------------------------------------------------------------------------------------------------

    def _deliver(self, nbytes: int) -> None:
        self._framing_bytes += nbytes
        sink = self._sink
        if sink is not None and not self._told and self._head is not None:
            self._told = True
            self._framing_bytes = 0
            sink.start(self._head)
            sink = self._sink
        chunks = self._chunks
        if chunks:
            if self._extra:
                del chunks[self._mine :]
            self._framing_bytes = 0
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            if sink is not None:
                sink.write(data)
        elif self._framing_bytes > MAX_FRAMING_BYTES:
            self._broken(BAD_FRAME)

    def _ended(self) -> None:
        sink, self._sink = self._sink, None
        if not self._keeps or not self._framed:
            self._extra = True
        if self._paused:
            self.resume()
        if sink is not None:
            sink.finish(_COMPLETED)

    def _broken(self, verdict: Verdict) -> None:
        sink, self._sink = self._sink, None
        self._extra = True
        if self._transport is not None:
            self._transport.abort()
        if sink is not None:
            sink.finish(Ending(verdict))


class _Lingering:
    """The sink of a stream that is over: takes no more than the end."""

    __slots__ = ("_connection", "_seen", "_then")

    def __init__(self, connection: UpstreamConnection, then: Callable[[UpstreamConnection], None]) -> None:
        self._connection = connection
        self._then = then
        self._seen = 0

    def bind(self, flow: object, /) -> None:
        """Nothing flows."""

    def start(self, head: ReplyHead, /) -> None:
        """Nothing is told."""

    def write(self, data: bytes, /) -> None:
        """Discard a little; a body that goes on is not worth reading."""
        self._seen += len(data)
        if self._seen > READ_BYTES:
            self._connection.abort()
            self._then(self._connection)

    def finish(self, ending: Ending, /) -> None:  # noqa: ARG002
        """Give the connection back."""
        self._connection.linger_ended()
        self._then(self._connection)

    def abort(self) -> None:
        """Nothing to stop."""
