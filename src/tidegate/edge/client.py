"""The client of one exchange: its request's body on the way in, its answer on the way out, its presence in between."""

import asyncio
import random
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from tidegate.dialect import Refusing
from tidegate.edge.chunked import ChunkedBody
from tidegate.edge.intake import CHUNKED, Head
from tidegate.edge.presence import Presence, fault_of
from tidegate.edge.reply import Dates, refusal, render
from tidegate.edge.settings import ServerSettings
from tidegate.exchange import Ending, Flow, ReplyHead
from tidegate.kernel.backoff import retry_after
from tidegate.verdict import CLIENT_GONE, DEADLINE_EXCEEDED, OVERLOADED, REQUEST_TIMEOUT, TOO_LARGE, Fault, Refused

ROOM_RETRY_S: Final = 1.0
"""When to come again where there was no room for a body: nobody knows when there is."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_MANY: Final = 4096
_SIZES: Final = tuple(b"%x\r\n" % size for size in range(_MANY))
_CHUNKED: Final = b"transfer-encoding: chunked\r\n"


class Line(Protocol):
    """What a client needs of its connection."""

    @property
    def dates(self) -> Dates:
        """The Date header."""
        ...

    def write(self, data: bytes, /) -> None:
        """Send."""
        ...

    def sender(self) -> Callable[[bytes], None]:
        """Give the shortest way to send, good until the connection is lost."""
        ...

    def unsent(self) -> int:
        """Give the bytes that wait."""
        ...

    def grows(self, nbytes: int, /) -> bool:
        """Say whether there is room for more of a body whose length nobody told."""
        ...

    def abort(self) -> None:
        """Break it."""
        ...

    def closing(self) -> bool:
        """Say whether nothing can be sent any more."""
        ...

    def answered(self, client: "HttpClient", /) -> None:
        """Go on: a whole answer was sent, whatever is still to be done for its request."""
        ...


class BodyLimit(Struct, frozen=True):
    """How large a request's body may be, and the setting that says so."""

    most_bytes: int
    setting: str


class HttpClient:
    """One request on one connection. Fits exchange.Client and exchange.Upload.

    Holds: the body's bytes, until they are read; once answered, `answered` says that the connection can go on.
    """

    __slots__ = (
        "_chunked", "_coded", "_dialect", "_ending", "_flow", "_head", "_limit", "_line", "_parts", "_received", "_reply",
        "_send", "_settings", "_started", "_task", "_waiter", "answered", "body_complete", "gone", "keeps", "request_id",
    )  # fmt: skip

    def __init__(
        self,
        head: Head,
        line: Line,
        settings: ServerSettings,
        dialect: Refusing,
        request_id: str,
        limit: BodyLimit | None = None,
    ) -> None:
        self._head = head
        self._limit = limit or BodyLimit(settings.max_body_bytes, "server.max_body_bytes")
        self._line = line
        self._settings = settings
        self._dialect = dialect
        self.request_id = request_id
        self.keeps = head.keeps
        self._coded = ChunkedBody(self._limit.most_bytes, settings.max_header_bytes) if head.length == CHUNKED else None
        self._parts: list[bytes] = []
        self._received = 0
        self.body_complete = head.length == 0
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[object] | None = None
        self._ending: Ending | None = None
        self._flow: Flow | None = None
        self._reply: bytes | None = None
        self._chunked = False
        self._started = False
        self._send = line.write
        self.answered = False
        self.gone = False

    # --- Upload ----------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> bytes:
        """Take body bytes; give those after its end. Errors: Refused, through `read`."""
        if self._coded is not None:
            try:
                self._grow(len(data))
                rest = self._coded.feed(data)
            except Refused as fault:
                self.keeps = False
                self._coded.take()
                self._wake(fault)
                return b""
            self.body_complete = self._coded.done
        else:
            missing = self._head.length - self._received
            piece = data[:missing]
            self._parts.append(piece)
            self._received += len(piece)
            rest = data[missing:]
            self.body_complete = self._received == self._head.length
        if self.body_complete:
            self._wake(None)
        return rest

    def _grow(self, nbytes: int) -> None:
        if not self._line.grows(nbytes):
            wait = retry_after(ROOM_RETRY_S, random.random())  # noqa: S311 (no secret)
            raise Refused(OVERLOADED, headers=(wait,))

    def held(self) -> int:
        """Give the bytes of the body that are held."""
        return self._coded.held if self._coded is not None else self._received

    async def read(self, within_s: float = 0.0) -> bytes:
        """Give the whole body. Shape: waits for it no longer than `within_s`, unless that is 0.0.

        Errors: Refused (too_large, request_timeout, deadline_exceeded, bad_request, header_too_large).
        """
        limit = self._limit
        if self._head.length > limit.most_bytes:
            raise Refused(TOO_LARGE, f"the body is larger than {limit.most_bytes} bytes ({limit.setting})")
        if not self.body_complete:
            await self._wait(within_s)
        if self._coded is not None:
            return self._coded.take()
        parts, self._parts = self._parts, []
        self._received = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _wait(self, within_s: float) -> None:
        if self._waiter is None:
            self._waiter = asyncio.get_running_loop().create_future()
            if self._head.expects:
                self._line.write(_CONTINUE)
        most_s = self._settings.body_timeout_s
        shorter = within_s > 0.0 and not 0.0 < most_s <= within_s
        try:
            async with asyncio.timeout(within_s if shorter else most_s or None):
                await self._waiter
        except TimeoutError as error:
            if shorter:
                raise Refused(DEADLINE_EXCEEDED) from error
            raise Refused(REQUEST_TIMEOUT, "the body came too slowly (server.body_timeout)") from error

    def _wake(self, fault: Refused | None) -> None:
        if self._waiter is None:
            if fault is None:
                return
            self._waiter = asyncio.get_running_loop().create_future()
        if self._waiter.done():
            return
        if fault is None:
            self._waiter.set_result(None)
        else:
            self._waiter.set_exception(fault)
            self._waiter.exception()  # seen, even if nobody reads the body after all

    # --- presence --------------------------------------------------------------------------------------------------

    def present(self) -> Presence:
        """Give the scope in which leaving cancels the opening."""
        return Presence(self)

    def enter(self, task: asyncio.Task[object] | None) -> None:
        """Begin to be present in a task. Errors: Fault when the client is gone already."""
        if self._ending is not None:
            raise fault_of(self._ending)
        self._task = task

    def leave(self) -> Ending | None:
        """Stop being present; give why the task was cancelled, if it was by us."""
        self._task = None
        return self._ending

    def end(self, ending: Ending, /) -> None:
        """End an exchange that is still opening; an open one is ended by its relay."""
        if self._ending is None:
            self._ending = ending
            if self._task is not None and self._flow is None and not self.answered:
                self._task.cancel()

    def lost(self) -> None:
        """Take notice that the connection is gone."""
        self.gone = True
        if self._flow is not None:
            self._flow.gone()
        else:
            self.end(Ending(CLIENT_GONE))

    # --- Sink ------------------------------------------------------------------------------------------------------

    def bind(self, flow: Flow, /) -> None:
        """Let a flow hear of back-pressure and of the client's leaving."""
        self._flow = flow
        if self.gone:
            flow.gone()

    @property
    def flow(self) -> Flow | None:
        """Who feeds this client."""
        return self._flow

    def start(self, head: ReplyHead, /) -> None:
        """Take the head; it is written together with the first bytes."""
        framing = b""
        length = next((value for name, value in head.headers if name == b"content-length"), None)
        if length is None and self._head.method != b"HEAD":
            if self._head.version == "1.1":
                self._chunked = True
                framing = _CHUNKED
            else:
                self.keeps = False  # HTTP/1.0: the body ends with the connection
        self._reply = render(
            head, self._dialect, self.request_id, self._line.dates.now(), framing=framing, keeps=self.keeps
        )

    def write(self, data: bytes, /) -> None:
        """Send payload."""
        if self._chunked:
            size = len(data)
            # Joined from a table: half the time of formatting.
            data = b"".join((_SIZES[size] if size < _MANY else b"%x\r\n" % size, data, b"\r\n"))
        if self._reply is not None:
            silent = self._head.method == b"HEAD"
            data = self._reply if silent else self._reply + data
            self._reply = None
            self._started = True
            self._line.write(data)
            self._send = _unsaid if silent else self._line.sender()
        else:
            self._send(data)

    def finish(self, ending: Ending, /) -> None:  # noqa: ARG002
        """End the answer's body cleanly."""
        self._flow = None
        tail = self._reply or b""
        if self._chunked:
            tail += b"0\r\n\r\n"
        self._reply = None
        if tail:
            self._line.write(tail)
        self.answered = True
        self._line.answered(self)

    def abort(self) -> None:
        """Break the connection: what the client has is not whole. Shape: after a whole answer it is another's."""
        self._flow = None
        if not self.answered:
            self._line.abort()

    def refuse(self, fault: Fault, /) -> None:
        """Answer with an error."""
        self._flow = None
        if self._line.closing() or self.gone or self.answered:
            return
        if self._started:
            self._line.abort()
            return
        if not self.body_complete:
            self.keeps = False
        self._reply = None
        answer = refusal(fault, self._dialect, self.request_id, self._line.dates.now(), keeps=self.keeps)
        if self._head.method == b"HEAD":
            answer = answer[: answer.index(b"\r\n\r\n") + 4]
        self._line.write(answer)
        self.answered = True

    def coded(self) -> Callable[[bytes], None] | None:
        """Give how to send bytes that are in chunks already; None while the answer's body is not sent in chunks."""
        return self._send if self._chunked and self._started else None

    def unsent(self) -> int:
        """Give the bytes that wait for the client to take them."""
        return self._line.unsent()


def _unsaid(data: bytes) -> None:
    """Say nothing: the answer to HEAD has no body."""
