"""Our HTTP/1.1 server protocol for the hot routes; every other request is handed, with its bytes, to uvicorn's.

HEAD --hot--> SERVING --answered--> HEAD ...      HEAD --not hot--> (uvicorn's protocol has the transport)
any --refused early, or not to be kept--> CLOSING --EOF or 2 s--> closed
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, Protocol, cast

from msgspec import Struct, field

from tidegate.dialect import Refusing
from tidegate.edge import intake
from tidegate.edge.client import BodyLimit, HttpClient
from tidegate.edge.intake import Head
from tidegate.edge.reply import Dates, refusal
from tidegate.edge.settings import ServerSettings
from tidegate.exchange import Arrival, Client, Outcome
from tidegate.kernel.backoff import retry_after
from tidegate.tasks import Tasks
from tidegate.verdict import BAD_REQUEST, CONNECTIONS_FULL, HEADER_TOO_LARGE, REQUEST_TIMEOUT, Fault, Refused

MAX_QUEUED_REQUESTS: Final = 8
MAX_QUEUED_BYTES: Final = 64 * 1024
DISCARD_S: Final = 2.0
DISCARD_BYTES: Final = 1024 * 1024
"""After an early answer so much of the request is read on, so that the client sees the answer and not a reset."""
HIGH_WATER_BYTES: Final = 64 * 1024
LOW_WATER_BYTES: Final = 16 * 1024
TURN_S: Final = 1.0
"""How long a request waits, at most, until what the one before it held is given back: a place that is its own must not be in its way."""
FULL_RETRY_S: Final = 1.0
"""When to come again where all connections are in use: nobody knows when one ends."""

_HEALTH: Final = frozenset({b"/health", b"/health/live", b"/health/ready"})
"""What passes no limit."""
PLAIN_METHODS: Final = frozenset({b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"})
"""Methods whose requests and answers have a body by the same rules; what is hot is so for these, unless it names others."""
_NO_HEAD: Final = Head(method=b"", path=b"", version="1.1", headers={}, length=0, keeps=False, expects=False)
_END_OF_HEAD: Final = b"\r\n\r\n"


class Conducting(Protocol):
    """Carries exchanges through."""

    async def conduct(self, arrival: Arrival, client: Client) -> None:
        """Carry one through, whatever happens."""
        ...

    def refuse(self, arrival: Arrival, fault: Fault) -> None:
        """Record one that the edge refused."""
        ...


class Seat(Protocol):
    """One connection's place in the crowd."""

    def begin(self, headers: Mapping[bytes, bytes], /) -> str | None:
        """Begin a request; gives the client's address, or None when there is no place for it."""
        ...

    def done(self) -> None:
        """End a request that was begun."""
        ...

    def leave(self) -> None:
        """Give everything back; the connection is lost."""
        ...


class Hot(Struct, frozen=True):
    """What is served by our own protocol: a route, what its clients speak, who conducts it.

    Shape: without a `limit` of its own, a body may be as large as the server's settings say; `methods` are those of a path
    that is hot for several.
    """

    route: str
    dialect: Refusing
    gateway: Conducting
    limit: BodyLimit | None = None
    methods: frozenset[bytes] = PLAIN_METHODS


class Edge(Struct):
    """What all connections of a listener share.

    Shape: `routes` are the paths that are hot for POST, and `find` gives those that are for others; `gateway` hears of requests that are refused
    before their route is known; `cold` makes the protocol for everything else, of the client's address and of what is to be
    told when the connection is lost; `join` gives a peer's connection its seat.
    """

    settings: ServerSettings
    gateway: Conducting
    routes: Mapping[bytes, Hot]
    fallback: Refusing
    cold: Callable[[str, Callable[[], None]], asyncio.Protocol]
    join: Callable[[str], Seat]
    clock: Callable[[], float]
    find: Callable[[bytes], Hot | None] = lambda _: None
    grows: Callable[[int], bool] = lambda _: True
    tasks: Tasks = field(default_factory=Tasks)
    dates: Dates = field(default_factory=Dates)
    connections: set["Connection"] = field(default_factory=set)
    accepted: int = 0
    closing: bool = False


class _Mode(Enum):
    HEAD = 1
    SERVING = 2
    CLOSING = 3


class Connection(asyncio.Protocol):
    """One client's connection. Holds: one request in work, and at most MAX_QUEUED_* of what was pipelined behind it."""

    __slots__ = (
        "_before", "_blocked", "_client", "_due", "_edge", "_looks_every_s", "_mode", "_number", "_peer", "_pending", "_received", "_scanned", "_seat",
        "_timer", "_transport", "discarded",
    )  # fmt: skip

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._mode = _Mode.HEAD
        self._client: HttpClient | None = None
        self._before: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._blocked = False
        self._pending = bytearray()
        self._scanned = 0
        self._received = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._looks_every_s = 0.0
        self._due = 0.0
        self._peer = ""
        self._seat: Seat | None = None
        self._number = 0
        self.discarded = 0

    # --- asyncio's side --------------------------------------------------------------------------------------------

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        """Begin to wait for a head."""
        transport = self._transport = cast("asyncio.Transport", made)  # uvloop's transports do not inherit it
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=LOW_WATER_BYTES)
        edge = self._edge
        edge.connections.add(self)
        edge.accepted += 1
        self._number = edge.accepted
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        self._seat = edge.join(self._peer)
        self._expect(edge.settings.header_timeout_s)

    def data_received(self, data: bytes) -> None:
        """Take bytes: of a head, of the body in work, or of what comes after it."""
        if self._mode is _Mode.SERVING:
            client = self._client
            if client is not None and not client.body_complete:
                data = client.feed(data)
            if data:
                self._queue(data)
        elif self._mode is _Mode.HEAD and self._blocked:
            self._queue(data)
        elif self._mode is _Mode.HEAD:
            if not self._pending:
                self._expect(self._edge.settings.header_timeout_s)
            self._pending += data
            self._advance()
        else:
            self.discarded += len(data)
            if self.discarded > DISCARD_BYTES and self._transport is not None:
                self._transport.pause_reading()  # to close now would reset a client that still sends: time will

    def eof_received(self) -> bool:
        """Take a half-close as leaving: nobody who still wants the answer closes first."""
        if self._client is not None:
            self._client.lost()  # the transport itself says so only when it could send what it still holds
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell the client in work, at once."""
        self._forget()
        if self._seat is not None:
            self._seat.leave()
        if self._client is not None:
            self._client.lost()

    def pause_writing(self) -> None:
        """Hold back whoever feeds the client."""
        self._blocked = True
        if self._client is not None and self._client.flow is not None:
            self._client.flow.pause()

    def resume_writing(self) -> None:
        """Let them go on."""
        self._blocked = False
        if self._client is not None and self._client.flow is not None:
            self._client.flow.resume()
        elif self._mode is _Mode.HEAD:
            self._wait_for_request()

    # --- Line: what the client in work needs ------------------------------------------------------------------------

    def grows(self, nbytes: int, /) -> bool:
        """Say whether there is room for more of a body whose length nobody told."""
        return self._edge.grows(nbytes)

    @property
    def dates(self) -> Dates:
        """The shared Date header."""
        return self._edge.dates

    def write(self, data: bytes, /) -> None:
        """Write; the transport's buffer is bounded by its high-water mark, through `pause_writing`."""
        if self._transport is not None:
            self._transport.write(data)

    def sender(self) -> Callable[[bytes], None]:
        """Give the transport's own `write`."""
        return self._transport.write if self._transport is not None else self.write

    def unsent(self) -> int:
        """Give the bytes the client has not taken."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def held(self) -> int:
        """Give all bytes held for this connection."""
        size = len(self._pending)
        if self._transport is not None:
            size += self._transport.get_write_buffer_size()
        return size if self._client is None else size + self._client.held()

    def abort(self) -> None:
        """Break the connection."""
        if self._transport is not None:
            self._transport.abort()

    def closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._transport is None or self._transport.is_closing()

    @property
    def is_idle(self) -> bool:
        """Whether no request is in work or on its way in."""
        return self._mode is _Mode.HEAD and not self._pending

    # --- requests --------------------------------------------------------------------------------------------------

    def _queue(self, data: bytes) -> None:
        """Keep what was pipelined, within bounds."""
        self._pending += data
        if len(self._pending) > MAX_QUEUED_BYTES or self._pending.count(_END_OF_HEAD) > MAX_QUEUED_REQUESTS:
            self.abort()

    def _advance(self) -> None:
        """Begin the next request if its head is in."""
        pending, limit = self._pending, self._edge.settings.max_header_bytes
        end = pending.find(_END_OF_HEAD, self._scanned)
        size = end + 4 if end >= 0 else len(pending)
        if size > limit:
            self._refuse(Refused(HEADER_TOO_LARGE, f"the head is larger than {limit} bytes (server.max_header_bytes)"))
        elif end >= 0:
            self._begin(size)
        elif intake.plausible(pending):
            self._scanned = max(0, len(pending) - 3)
        else:
            self._refuse(Refused(BAD_REQUEST, "this is not an HTTP request"))

    def _begin(self, size: int) -> None:
        raw = bytes(self._pending[:size])
        try:
            head = intake.parse(raw)
        except Refused as fault:
            self._refuse(fault)
            return
        edge = self._edge
        hot = edge.routes.get(head.path) if head.method == b"POST" else None
        if hot is None:
            found = edge.find(head.path)
            hot = found if found is not None and head.method in found.methods else None
        peer = self._peer if head.path in _HEALTH else self._admitted(head)
        if peer is None:
            wait = retry_after(FULL_RETRY_S, random.random())  # noqa: S311 (no secret)
            self._refuse(Refused(CONNECTIONS_FULL, headers=(wait,)), head, hot.route if hot is not None else "other")
        elif hot is None:
            self._hand_over(peer)
        else:
            del self._pending[:size]
            self._scanned = 0
            self._serve(head, peer, hot)

    def _admitted(self, head: Head) -> str | None:
        """Give the client's address; None when the connections are too many, unless a drain empties them anyway."""
        peer = self._seat.begin(head.headers) if self._seat is not None else None
        return self._peer if peer is None and self._edge.closing else peer

    def _serve(self, head: Head, peer: str, hot: Hot) -> None:
        edge = self._edge
        self._mode = _Mode.SERVING
        self._due = 0.0
        client = self._client = HttpClient(
            head, self, edge.settings, hot.dialect, intake.request_id(head.headers), hot.limit
        )
        if edge.closing:
            client.keeps = False
        if self._pending and not client.body_complete:
            self._pending = bytearray(client.feed(bytes(self._pending)))
        if self._pending:
            self._queue(b"")
        arrival = self._arrival(head, peer, hot.route, client)
        self._before = edge.tasks.spawn(self._conduct(hot.gateway, arrival, client, self._before))

    async def _conduct(
        self, gateway: Conducting, arrival: Arrival, client: HttpClient, before: asyncio.Task[None] | None
    ) -> None:
        try:
            if before is not None and not before.done():
                await asyncio.wait((before,), timeout=TURN_S)
            before = None  # else each would hold the one before it
            await gateway.conduct(arrival, client)
        finally:
            self.answered(client)

    def answered(self, client: HttpClient, /) -> None:
        """Go on with the next request, or close: once, when the answer was sent, or when none is to come."""
        if self._client is not client:
            return
        self._client = None
        if self._seat is not None:
            self._seat.done()
        if self.closing():
            return
        if not client.answered:
            self.abort()
        elif not (client.keeps and client.body_complete) or self._edge.closing:
            self._finish_closing(discards=not client.body_complete)
        else:
            self._mode = _Mode.HEAD
            self._wait_for_request()

    def _wait_for_request(self) -> None:
        """Turn to the next request, but not before the client has taken most of the answers it asked for."""
        settings = self._edge.settings
        if self._blocked:
            self._expect(settings.slow_client_timeout_s)
        elif self._pending:
            self._expect(settings.header_timeout_s)
            self._advance()
        else:
            self._expect(settings.keep_alive_s)

    def _arrival(self, head: Head, peer: str, route: str, client: HttpClient) -> Arrival:
        return Arrival(
            request_id=client.request_id,
            connection_id=self._number,
            route=route,
            headers=head.headers,
            peer=peer,
            body=client,
            outcome=Outcome(self._edge.clock()),
            method=head.method.decode("latin-1"),
            target=(head.path + head.query).decode("latin-1"),
        )

    def _refuse(self, fault: Refused, head: Head = _NO_HEAD, route: str = "") -> None:
        """Answer a request whose head is not acceptable, or that there is no place for, and close."""
        edge = self._edge
        client = HttpClient(head, self, edge.settings, edge.fallback, intake.request_id(head.headers))
        edge.gateway.refuse(self._arrival(head, self._peer, route, client), fault)
        self.write(refusal(fault, edge.fallback, client.request_id, edge.dates.now(), keeps=False))
        self._finish_closing(discards=True)

    # --- leaving ---------------------------------------------------------------------------------------------------

    def _hand_over(self, peer: str) -> None:
        """Give the connection to uvicorn's protocol, as uvicorn itself does for an upgrade, for one answer."""
        transport, seat = self._transport, self._seat
        if transport is None or seat is None:
            return
        self._forget()
        first = self._pending.index(b"\r\n", len(self._pending) - len(self._pending.lstrip(b"\r\n"))) + 2
        self._pending[first:first] = b"connection: close\r\n"
        protocol = self._edge.cold(peer, seat.leave)
        protocol.connection_made(transport)
        protocol.data_received(bytes(self._pending))
        transport.set_protocol(protocol)

    def _finish_closing(self, *, discards: bool) -> None:
        """Close once the answer is out; an unread request is read on for a while so that no reset overtakes it."""
        self._mode = _Mode.CLOSING
        self._pending.clear()
        if self._transport is None:
            return
        if discards:
            if self._transport.can_write_eof():
                self._transport.write_eof()
            self._expect(DISCARD_S)
        else:
            self._transport.close()
            self._expect(self._edge.settings.slow_client_timeout_s or DISCARD_S)

    def _close(self) -> None:
        if self._transport is None:
            return
        if self._transport.is_closing() or self.unsent():
            self._transport.abort()
        else:
            self._transport.close()

    def close_idle(self) -> None:
        """Close when no request is in work, for drain; an answer that has not begun will say that it is the last."""
        if self.is_idle:
            self._finish_closing(discards=False)
        elif self._client is not None:
            self._client.keeps = False

    def _forget(self) -> None:
        self._edge.connections.discard(self)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- time ------------------------------------------------------------------------------------------------------

    def _expect(self, seconds: float) -> None:
        """Set when the current wait is over; 0 is never."""
        if not seconds:
            self._due = 0.0
            return
        self._due = self._edge.clock() + seconds
        if self._timer is None:
            self._arm(seconds)
        elif self._looks_every_s > seconds:
            self._timer.cancel()
            self._arm(seconds)

    def _arm(self, seconds: float) -> None:
        """Look again then, or after the wait for a head if that is shorter: no request of many has to set the timer anew."""
        self._looks_every_s = min(seconds, self._edge.settings.header_timeout_s or seconds)
        self._timer = asyncio.get_running_loop().call_later(self._looks_every_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if not self._due:
            return
        left = self._due - self._edge.clock()
        if left > 0.0005:  # timers of the loop are as fine as a millisecond
            self._arm(left)
        elif self._mode is _Mode.HEAD and self._pending and not self._blocked:
            self._refuse(Refused(REQUEST_TIMEOUT, "the head came too slowly (server.header_timeout)"))
        elif self._mode is _Mode.HEAD or self._mode is _Mode.CLOSING:
            self._close()
