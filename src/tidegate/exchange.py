"""The stations of an exchange, and the duct its bytes flow through.

A value's type says how far an exchange has come: Arrival, Admitted, Attempt, Stream, Ending. One Outcome goes along, is
written once and read by every layer on exit. Pure words: instants are handed in, in seconds of the loop's monotonic clock.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Literal, Protocol, Self

from msgspec import Struct, field, structs

from tidegate.kernel.units import Duration
from tidegate.verdict import COMPLETED, Fault, Verdict

Path = Literal["raw", "spliced", "translated"]
"""The road bytes took: untouched, with members or frames exchanged, or through the event model."""

Balance = Literal["round_robin", "weighted", "least_in_flight", "p2c_ewma", "sticky"]
"""How a target is chosen among those of one priority."""

GAP_BOUNDS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 120.0)
"""Upper bounds, in seconds, of the buckets that inter-token gaps are counted in."""

BYTES_PER_TOKEN: Final = 4
"""What a token of English text comes to: the rule of thumb where a provider did not say."""


class Ending(Struct, frozen=True):
    """How a stream ended: the table's row, and a sentence for the client where the row's own is too general."""

    verdict: Verdict
    message: str = ""


class Usage(Struct):
    """Tokens of one exchange.

    Shape: `input_tokens` includes those read from a cache and written to one, `output_tokens` those of reasoning.
    Holds: `estimated` is true when the provider did not say and the numbers were judged from what was seen.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
    estimated: bool = False

    @classmethod
    def judged(cls, prompt_bytes: int, frames: int, content_bytes: int) -> Self:
        """Give what can be judged from what passed. Shape: a frame of a stream is a token, unless its text is longer than one."""
        return cls(
            input_tokens=prompt_bytes // BYTES_PER_TOKEN,
            output_tokens=max(frames, content_bytes // BYTES_PER_TOKEN),
            estimated=True,
        )


class Timeouts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds that each phase of an attempt may take; 0 is off."""

    connect_s: Duration = field(default=10.0, name="connect")
    headers_s: Duration = field(default=60.0, name="headers")
    first_token_s: Duration = field(default=300.0, name="first_token")
    idle_s: Duration = field(default=30.0, name="idle")
    total_s: Duration = field(default=900.0, name="total")
    response_s: Duration = field(default=600.0, name="response")


class Target(Struct, frozen=True):
    """Where a model's requests go: a provider's name, and the model's name there.

    Shape: `name` is the configured one, and `asked` is true where `model` came with the request; lower
    `priority` is asked first; `max_streams` 0 is no limit. `key` is what its state is kept under, and follows from the rest.
    """

    provider: str
    model: str
    timeouts: Timeouts = Timeouts()
    name: str = ""
    weight: int = 1
    priority: int = 0
    max_streams: int = 0
    key: tuple[str, str] = ("", "")
    asked: bool = False

    def __post_init__(self) -> None:
        """Make the key once: every layer asks for it."""
        structs.force_setattr(self, "key", (self.provider, self.name or self.model))
        structs.force_setattr(self, "asked", bool(self.name) and self.name != self.model)


class Model(Struct, frozen=True):
    """What clients ask for, and where it goes. Shape: `once` says that nobody knows whether a request may be sent twice."""

    name: str
    targets: tuple[Target, ...]
    balance: Balance = "p2c_ewma"
    sticky_by: str = "user"
    hedge_after_s: float = 0.0
    once: bool = False


class Identity(Struct, frozen=True):
    """Who asks. `key_id` is the configured name of a key, never the key."""

    key_id: str = ""
    tenant: str = ""


class Ask(Struct):
    """A client's request as far as the gateway needs it.

    Holds: `body` is what the client sent, and is emptied once nobody will send it again. Shape: `max_tokens` is 0 where
    the client set no bound to the output; `user` is its own word for who asks; `dialect` is what it speaks. Of the body,
    `aside` bytes are known to be no text, and so no tokens.
    """

    model: str
    stream: bool
    wants_usage: bool
    body: bytes
    choices: int = 1
    max_tokens: int = 0
    user: str = ""
    dialect: str = ""
    aside: int = 0


class Upload(Protocol):
    """A request's body on its way in."""

    async def read(self, within_s: float = 0.0) -> bytes:
        """Give the whole body. Shape: waits for it no longer than `within_s`, unless that is 0.0.

        Errors: Refused (too_large, request_timeout, deadline_exceeded, bad_request).
        """
        ...


class AttemptRecord(Struct):
    """What one attempt did, for the log and the ledger.

    Shape: instants are 0.0 until they happen: the head, the first frame of any kind but a comment, the first content.
    `hedge` says that it was made beside another, `securing` that a TLS handshake has begun.
    """

    provider: str
    model: str
    started_at: float
    ended_at: float = 0.0
    connected_at: float = 0.0
    sent_at: float = 0.0
    headed_at: float = 0.0
    framed_at: float = 0.0
    content_at: float = 0.0
    reused: bool = False
    verdict: Verdict | None = None
    queued_s: float = 0.0
    securing: bool = False
    hedge: bool = False


class Flowing(Struct):
    """What was seen while bytes flowed.

    Shape: `gaps[i]` counts inter-token gaps up to GAP_BOUNDS_S[i], the last counts those above; `frames` carried content,
    or may have; `content_bytes` is text as far as it could be told from its wrapping.
    """

    frames: int = 0
    bytes_out: int = 0
    content_bytes: int = 0
    first_write_at: float = 0.0
    last_token_at: float = 0.0
    gap_max_s: float = 0.0
    gap_sum_s: float = 0.0
    blocked_s: float = 0.0
    gaps: list[int] = field(default_factory=lambda: [0] * (len(GAP_BOUNDS_S) + 1))


class Outcome:
    """Everything one exchange came to: one write-once ending, usage, attempts, instants. Layers read it on exit."""

    __slots__ = (
        "attempts", "ended_at", "ending", "finish_reason", "flowing", "key_id", "model", "path",
        "prompt_bytes", "received_at", "served", "status", "stream", "tenant", "usage",
    )  # fmt: skip

    def __init__(self, received_at: float) -> None:
        self.received_at = received_at
        self.ended_at = 0.0
        self.ending: Ending | None = None
        self.status = 0
        self.usage: Usage | None = None
        self.finish_reason = ""
        self.attempts: list[AttemptRecord] = []
        self.served: AttemptRecord | None = None
        self.flowing = Flowing()
        self.path: Path = "raw"
        self.stream = False
        self.model = ""
        self.prompt_bytes = 0
        self.key_id = ""
        self.tenant = ""

    def end(self, ending: Ending, at: float, status: int = 0) -> bool:
        """Write the ending once; later ones change nothing. Gives whether this was the first."""
        if self.ending is not None:
            return False
        self.ending = ending
        self.ended_at = at
        self.status = status or ending.verdict.status
        return True


class Arrival(Struct):
    """A request whose head is read.

    Shape: header names are lower case; a repeated header's values are joined by ', '. `target` is path and query; of what
    passes through to a provider, in the end, as the provider is asked for it.
    """

    request_id: str
    connection_id: int
    route: str
    headers: Mapping[bytes, bytes]
    peer: str
    body: Upload
    outcome: Outcome
    method: str = "POST"
    target: str = ""


class Admitted(Struct, frozen=True):
    """A request that may run: who asks, what for, and which model it is.

    Shape: `deadline` is the instant at which the whole exchange ends, 0.0 for never; `headers` go into its answer.
    """

    arrival: Arrival
    identity: Identity
    ask: Ask
    model: Model
    deadline: float = 0.0
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Attempt(Struct, frozen=True):
    """One try at one target. `again` says that the exchange has tried before, and goes first where others wait."""

    admitted: Admitted
    target: Target
    record: AttemptRecord
    again: bool = False


class ReplyHead(Struct, frozen=True):
    """Status and headers of a reply. Shape: header names are lower case, hop-by-hop ones are gone."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]


class Flow(Protocol):
    """What a reader tells whoever feeds it."""

    def pause(self) -> None:
        """Send no more for now."""
        ...

    def resume(self) -> None:
        """Send again."""
        ...

    def gone(self) -> None:
        """Take notice that nobody reads any more."""
        ...


class Sink(Protocol):
    """Where bytes go. Never blocks, never raises."""

    def bind(self, flow: Flow, /) -> None:
        """Learn who feeds it, and hears of back-pressure."""
        ...

    def start(self, head: ReplyHead, /) -> None:
        """Take the head."""
        ...

    def write(self, data: bytes, /) -> None:
        """Take payload."""
        ...

    def finish(self, ending: Ending, /) -> None:
        """Take the end, exactly once."""
        ...

    def abort(self) -> None:
        """Break off: what was taken is not whole."""
        ...


class Plain(Struct, frozen=True):
    """How a stream's frames begin and end that hold nothing but text, and where those go that come as one chunk each.

    Shape: `start` ends with the quote that opens the text, `end` begins with the one that closes it; `forward` takes the
    chunk as it came, its size line and line ends included.
    """

    start: bytes
    end: bytes
    forward: Callable[[bytes], None]


class Source(Protocol):
    """Where bytes come from. `attach` gives first what was read while opening, then what comes."""

    def divert(self, plain: Plain | None, /) -> None:
        """Let plain frames pass the sink by; None ends that. A source that cannot tell them does nothing."""
        ...

    def attach(self, sink: Sink, /) -> None:
        """Tell this sink from now on."""
        ...

    def pause(self) -> None:
        """Read no more for now."""
        ...

    def resume(self) -> None:
        """Read again."""
        ...

    def abort(self) -> None:
        """Stop for good, at once."""
        ...


class Said:
    """The Source of a body that is known."""

    __slots__ = ("_body",)

    def __init__(self, body: bytes) -> None:
        self._body = body

    def attach(self, sink: Sink, /) -> None:
        """Give all of it."""
        sink.write(self._body)
        sink.finish(Ending(COMPLETED))

    def divert(self, plain: Plain | None, /) -> None:
        """There are no chunks to pass by."""

    def pause(self) -> None:
        """All was given."""

    def resume(self) -> None:
        """All was given."""

    def abort(self) -> None:
        """All was given."""


class Client(Sink, Protocol):
    """The client of one exchange: a Sink that can also be refused, and that notices when it is left alone."""

    def present(self) -> AbstractAsyncContextManager[None]:
        """Give the scope in which a client that leaves, or `end`, cancels the opening and becomes a Fault."""
        ...

    def end(self, ending: Ending, /) -> None:
        """End an exchange that is still opening."""
        ...

    def refuse(self, fault: Fault, /) -> None:
        """Answer with an error; nothing is said when the client is gone."""
        ...

    def unsent(self) -> int:
        """Give the bytes that wait for the client to take them."""
        ...

    def coded(self) -> Callable[[bytes], None] | None:
        """Give how to send bytes that are in chunks already; None while the answer's body is not sent in chunks."""
        ...


class Stream(Struct):
    """An open stream: the first content, or the whole of a short body, is in.

    Shape: `events` is false for a body that is not a stream of frames; `whole` says that such a body is in already;
    `changed` says that the request was written anew; `redact` takes the gateway's secrets out of a provider's words;
    `translates` says that its frames mean nothing to the client as they are; `judged` that the usage in a whole body is no
    provider's word.
    """

    attempt: Attempt
    source: Source
    head: ReplyHead
    events: bool
    whole: bool
    strips_usage: bool
    changed: bool
    redact: Callable[[str], str]
    translates: bool = False
    judged: bool = False
