"""The mock's sockets: HTTP/1.1 requests in by httptools, plays out; no task per connection or stream.

One request is answered at a time; pipelined ones wait, a few of them. The socket is read all the while, so that a client
that leaves is noticed at once.
"""

import asyncio
import socket
import ssl as tls
import struct
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol, cast

import httptools
import msgspec
from msgspec import Struct, field

from tidegate.mock.ask import Headers
from tidegate.mock.asking.routes import route
from tidegate.mock.play import End, Play
from tidegate.mock.player import Player
from tidegate.mock.speech import lists
from tidegate.mock.stage import Framing, Request, Stage

MOST_HEAD_BYTES: Final = 64 * 1024
MOST_BODY_BYTES: Final = 32 * 1024 * 1024
MOST_WAITING: Final = 8
REQUESTS_KEPT: Final = 64
KEPT_BODY_BYTES: Final = 64 * 1024 * 1024
IDLE_S: Final = 300.0
SWEEP_S: Final = 30.0
BACKLOG: Final = 4096
ROUTES_KEPT: Final = 512
STATS_PATH: Final = "/stats"
_NOWHERE: Final = "The mock speaks at no such path; docs/mock.md lists those where it does."
_FLUSH_POLL_S: Final = 0.001
_LINGER_NOT: Final = struct.pack("ii", 1, 0)
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

Recorded = tuple[str, Headers, bytes]


class MockStats(Struct):
    """What happened so far. Shape: started = completed + cancelled + open, counted over what a model is asked.

    Holds: `completed` is an answer that went as its script wanted, faults included; `requests` are the last ones, of all
    kinds, as (target, headers, body).
    """

    started: int = 0
    completed: int = 0
    cancelled: int = 0
    open: int = 0
    connections: int = 0
    requests: deque[Recorded] = field(default_factory=lambda: deque(maxlen=REQUESTS_KEPT))

    def note(self, target: str, headers: Headers, body: bytes) -> None:
        """Keep a request; large bodies push out older requests."""
        self.requests.append((target, headers, body))
        if len(body) > KEPT_BODY_BYTES // REQUESTS_KEPT:
            while sum(len(kept[2]) for kept in self.requests) > KEPT_BODY_BYTES:
                self.requests.popleft()

    def as_json(self) -> bytes:
        """Give the counters."""
        names = ("started", "completed", "cancelled", "open", "connections")
        return msgspec.json.encode({name: getattr(self, name) for name in names})


class _Parser(Protocol):
    """What is used of httptools.HttpRequestParser, which knows no types."""

    def feed_data(self, data: bytes) -> None: ...
    def get_method(self) -> bytes: ...
    def get_http_version(self) -> str: ...
    def should_keep_alive(self) -> bool: ...


class _Refused(Exception):  # noqa: N818 (a limit, not a bug)
    """A request that is above a limit. Raised and caught around the parser only."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Connection(asyncio.Protocol):
    """One client's connection: reads requests, plays one answer at a time."""

    __slots__ = (
        "_body", "_body_bytes", "_busy", "_closing", "_counted", "_end", "_head_began", "_head_bytes", "_headers",
        "_idle_since", "_in_head", "_loop", "_owed", "_parser", "_paused", "_player", "_provider", "_target", "_transport",
        "_waiting",
    )  # fmt: skip

    def __init__(self, provider: "MockProvider", loop: asyncio.AbstractEventLoop) -> None:
        self._provider = provider
        self._loop = loop
        self._parser: _Parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._waiting: deque[Request] = deque()
        self._player: Player | None = None
        self._end: End = "done"
        self._busy = False
        self._counted = False
        self._paused = False
        self._owed = False
        self._closing = False
        self._idle_since = loop.time()
        self._in_head = self._head_began = False
        self._head_bytes = self._body_bytes = 0
        self._target = b""
        self._headers: Headers = []
        self._body: list[bytes] = []

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. Both asyncio and uvloop set TCP_NODELAY themselves."""
        # uvloop's transports behave like asyncio.Transport without being one.
        self._transport = cast(asyncio.Transport, transport)
        self._provider.joined(self)

    def data_received(self, data: bytes) -> None:
        """Parse; what can't be parsed is answered with an error and ends the connection."""
        if self._closing:
            return
        self._head_began = False
        try:
            self._parser.feed_data(data)
            self._count_head(len(data))
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _Refused):
                raise
            self._refuse(error.__context__)
        except _Refused as refused:
            self._refuse(refused)
        except httptools.HttpParserError:
            self._refuse(_Refused(400, "This is not an HTTP request."))

    def connection_lost(self, exc: Exception | None) -> None:
        """End; an answer that was not finished is cancelled."""
        del exc
        self._closing = True
        self._waiting.clear()
        if self._player is not None:
            self._player.stop()
            self._player = None
        if self._busy:
            self._settle(completed=False)
        self._provider.left(self)

    def pause_writing(self) -> None:
        """Hold the answer: the client is not reading."""
        self._paused = True
        if self._player is not None:
            self._player.pause()

    def resume_writing(self) -> None:
        """Go on with the answer."""
        self._paused = False
        if self._player is not None:
            self._player.resume()
        elif self._owed:
            self._finish()

    # What the parser calls

    def on_message_begin(self) -> None:
        """Forget the request before."""
        self._in_head = self._head_began = True
        self._head_bytes = self._body_bytes = 0
        self._target, self._headers, self._body = b"", [], []

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Let a client that waits for it send its body."""
        self._in_head = False
        if _header(self._headers, b"expect").lower() == b"100-continue":
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body_bytes += len(body)
        if self._body_bytes > MOST_BODY_BYTES:
            raise _Refused(413, f"The body is larger than {MOST_BODY_BYTES} bytes.")
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer the request, or let it wait for its turn."""
        if self._closing:
            return
        modern = self._parser.get_http_version() == "1.1"
        request = Request(
            method=self._parser.get_method(),
            target=self._target.decode("latin-1"),
            headers=self._headers,
            body=b"".join(self._body),
            framing=Framing(chunks=modern, keep=modern and self._parser.should_keep_alive()),
        )
        self._provider.stats.note(request.target, request.headers, request.body)
        if not self._busy:
            self._perform(request)
        elif len(self._waiting) < MOST_WAITING:
            self._waiting.append(request)
        else:
            self._close()

    # Answers

    def is_idle_since(self, instant: float) -> bool:
        """Say whether nothing was asked or answered since an instant."""
        return not self._busy and self._idle_since < instant

    def abort(self) -> None:
        """Drop the connection."""
        self._closing = True
        self._transport.abort()

    def close_idle(self) -> None:
        """Close a connection that nobody uses."""
        self._close()

    def _count_head(self, size: int) -> None:
        # httptools has no limit of its own, and keeps an unfinished header for as long as it comes. The read in which a head
        # began is not counted: the rest of a body may have come with it.
        if self._in_head and not self._head_began:
            self._head_bytes += size
            if self._head_bytes > MOST_HEAD_BYTES:
                raise _Refused(431, f"The head is larger than {MOST_HEAD_BYTES} bytes.")

    def _refuse(self, refused: _Refused) -> None:
        if not self._busy:
            framing = Framing(chunks=False, keep=False)
            self._transport.write(self._provider.stage.refusal(refused.status, refused.message, framing).first)
        self._close()

    def _perform(self, request: Request) -> None:
        play, self._counted = self._provider.answer(request)
        self._busy = True
        if self._counted:
            self._provider.stats.started += 1
            self._provider.stats.open += 1
        self._end = play.end
        if play.first:
            self._transport.write(play.first)
        if play.beats is not None:
            self._player = Player(self._loop, self._transport, play.beats, self._finish)
            if self._paused:
                self._player.pause()
            else:
                self._player.play()
        elif self._paused:
            self._owed = True
        else:
            self._finish()

    def _finish(self) -> None:
        """Do what the play leaves to do: nothing is left to write."""
        self._player = None
        self._owed = False
        if self._end == "hang":
            return
        self._settle(completed=True)
        if self._end == "reset":
            self._closing = True
            self._reset()
        elif self._end == "close":
            self._close()
        elif self._waiting:
            # Not from here: a client that pipelines must not make the stack grow.
            self._busy = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._busy = False
        if self._waiting and not self._closing:
            self._perform(self._waiting.popleft())

    def _settle(self, *, completed: bool) -> None:
        self._busy = False
        self._idle_since = self._loop.time()
        if self._counted:
            self._counted = False
            stats = self._provider.stats
            stats.open -= 1
            stats.completed += completed
            stats.cancelled += not completed

    def _close(self) -> None:
        self._closing = True
        self._transport.close()

    def _reset(self) -> None:
        """Send an RST once the bytes before it have left: an abort would drop them."""
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size():
            self._loop.call_later(_FLUSH_POLL_S, self._reset)
            return
        endpoint: socket.socket = self._transport.get_extra_info("socket")
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._transport.abort()


class MockProvider:
    """A provider of language models that has none. Holds: its sockets until `close`."""

    def __init__(self, seed: int = 0) -> None:
        self.stats = MockStats()
        self.stage = Stage(seed)
        self._route = lru_cache(ROUTES_KEPT)(route)
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._emptied: Callable[[], None] | None = None

    async def start(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        ssl: tls.SSLContext | None = None,
        sock: socket.socket | None = None,
    ) -> int:
        """Listen, and give the bound port. Shape: a `sock` is used instead of host and port. Errors: OSError."""
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(self, loop)

        if sock is not None:
            self._server = await loop.create_server(connection, sock=sock, ssl=ssl, backlog=BACKLOG)
        else:
            self._server = await loop.create_server(connection, host, port, ssl=ssl, backlog=BACKLOG)
        self._sweeper = loop.call_later(SWEEP_S, self._sweep, loop)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        gone = asyncio.Event()
        self._emptied = gone.set
        for connection in tuple(self._connections):
            connection.abort()
        if self._connections:
            async with asyncio.timeout(5):
                await gone.wait()
        self._emptied = None
        await server.wait_closed()

    def joined(self, connection: Connection) -> None:
        """Note a connection."""
        self.stats.connections += 1
        self._connections.add(connection)

    def left(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if not self._connections and self._emptied is not None:
            self._emptied()

    def answer(self, request: Request) -> tuple[Play, bool]:
        """Give what a request is answered with, and whether it is for a model: those are counted."""
        spoken = self._route(request.method, request.target)
        if spoken is not None:
            return self.stage.answer(spoken, request), True
        return self._aside(request, request.target.partition("?")[0]), False

    def _aside(self, request: Request, path: str) -> Play:
        """Give what a request is answered with that is for no model."""
        is_read = path in lists.PATHS or path == STATS_PATH
        allowed = b"GET" if is_read else b"POST"
        if request.method != allowed and (is_read or self._route(allowed, request.target)):
            extra = b"allow: %b\r\n" % allowed
            return self.stage.refusal(405, f"Use {allowed.decode()}.", request.framing, extra)
        if not is_read:
            return self.stage.refusal(404, _NOWHERE, request.framing)
        if path == STATS_PATH:
            return self.stage.plain(200, self.stats.as_json(), request.framing)
        body, family = lists.listed(path, request.headers)
        return self.stage.plain(200, body, request.framing, family)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close connections that clients forgot."""
        for connection in tuple(self._connections):
            if connection.is_idle_since(loop.time() - IDLE_S):
                connection.close_idle()
        self._sweeper = loop.call_later(SWEEP_S, self._sweep, loop)


async def serve(host: str, port: int, seed: int = 0) -> None:
    """Run a mock provider until cancelled. Errors: OSError when it cannot listen."""
    provider = MockProvider(seed)
    await provider.start(host, port)
    try:
        await asyncio.Event().wait()
    finally:
        await provider.close()


def _header(headers: Headers, wanted: bytes) -> bytes:
    for name, value in headers:
        if name.lower() == wanted:
            return value
    return b""
