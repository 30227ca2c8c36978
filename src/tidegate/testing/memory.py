"""A client and a provider in memory: a relay between them moves bytes without a socket."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from tidegate.exchange import (
    Admitted,
    Arrival,
    Ask,
    Attempt,
    AttemptRecord,
    Ending,
    Flow,
    Identity,
    Model,
    Outcome,
    Plain,
    ReplyHead,
    Sink,
    Stream,
    Target,
)
from tidegate.verdict import Fault

EVENTS = ReplyHead(200, ((b"content-type", b"text/event-stream"),))


class MemoryClient:
    """Fits exchange.Client. Shape: `written` is the payload, each write apart; `waiting` is what `unsent` gives."""

    def __init__(self) -> None:
        self.flow: Flow | None = None
        self.head: ReplyHead | None = None
        self.written: list[bytes] = []
        self.ending: Ending | None = None
        self.fault: Fault | None = None
        self.aborted = False
        self.waiting = 0

    def bind(self, flow: Flow, /) -> None:
        """Keep the flow."""
        self.flow = flow

    def start(self, head: ReplyHead, /) -> None:
        """Keep the head."""
        self.head = head

    def write(self, data: bytes, /) -> None:
        """Keep payload."""
        self.written.append(data)

    def finish(self, ending: Ending, /) -> None:
        """Keep the end."""
        self.ending = ending

    def abort(self) -> None:
        """Note that the answer was broken off."""
        self.aborted = True

    def present(self) -> AbstractAsyncContextManager[None]:
        """Give a scope in which the client stays."""
        return nullcontext()

    def end(self, ending: Ending, /) -> None:
        """Keep why the opening is to end."""
        self.ending = ending

    def refuse(self, fault: Fault, /) -> None:
        """Keep the refusal."""
        self.fault = fault

    def unsent(self) -> int:
        """Give what a test has said."""
        return self.waiting

    def coded(self) -> Callable[[bytes], None] | None:
        """Give nothing: payload is not sent in chunks here."""
        return None


class MemorySource:
    """Fits exchange.Source. Shape: `held` is what was read while opening."""

    def __init__(self, held: bytes = b"") -> None:
        self._held = held
        self.sink: Sink | None = None
        self.paused = False
        self.aborted = False

    def attach(self, sink: Sink, /) -> None:
        """Give what is held."""
        self.sink = sink
        if self._held:
            sink.write(self._held)

    def divert(self, plain: Plain | None, /) -> None:
        """Let nothing pass by."""

    def pause(self) -> None:
        """Note it."""
        self.paused = True

    def resume(self) -> None:
        """Note it."""
        self.paused = False

    def abort(self) -> None:
        """Note it."""
        self.aborted = True


class NoBody:
    """Fits exchange.Upload: a request without a body."""

    async def read(self, within_s: float = 0.0) -> bytes:  # noqa: ARG002 (there is nothing to wait for)
        """Give nothing."""
        return b""


def open_stream(source: MemorySource, now: float, *, wants_usage: bool = True) -> Stream:
    """Give a stream of events as an opening would have left it at the instant `now`."""
    outcome = Outcome(now)
    arrival = Arrival(
        request_id="memory", connection_id=1, route="chat", headers={}, peer="", body=NoBody(), outcome=outcome
    )
    ask = Ask(model="memory", stream=True, wants_usage=wants_usage, body=b"", dialect="openai_chat")
    target = Target(provider="memory", model="memory")
    record = AttemptRecord(
        provider="memory", model="memory", started_at=now, sent_at=now, headed_at=now, content_at=now
    )
    outcome.attempts.append(record)
    admitted = Admitted(arrival=arrival, identity=Identity(), ask=ask, model=Model("memory", (target,)))
    return Stream(
        attempt=Attempt(admitted=admitted, target=target, record=record),
        source=source,
        head=EVENTS,
        events=True,
        whole=False,
        strips_usage=not wants_usage,
        changed=False,
        redact=str,
    )
