"""What frames mean, and how a request is written: one family of providers, one dialect. Pure: bytes in, words out."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, Protocol

from msgspec import Struct

from tidegate.dialect.conversation import Conversation, Loss, Written
from tidegate.dialect.events import (
    Done,
    Event,
    EventDecoder,
    EventEncoder,
    Failed,
    Finished,
    Origin,
    ProviderError,
    Reasoning,
    Refusal,
    Sealed,
    Text,
    ToolArguments,
    ToolCallStarted,
)
from tidegate.exchange import Ask, Attempt, Usage
from tidegate.wire import Frame, Framed

__all__ = [
    "ClientDialect",
    "Dialect",
    "Notice",
    "ProviderDialect",
    "ProviderError",
    "Refusing",
    "Sight",
    "origin_of",
    "sight_of",
]


class Sight(Enum):
    """What one frame means to a stream that is still opening."""

    SILENT = "silent"
    CONTENT = "content"
    ERROR = "error"
    END = "end"


class Notice(Struct, frozen=True):
    """What one frame, or a whole body, says besides content.

    Shape: `finished` counts the choices that ended here; `done` is the dialect's terminal event.
    """

    usage: Usage | None = None
    finish_reason: str = ""
    finished: int = 0
    error: ProviderError | None = None
    done: bool = False


class Refusing(Protocol):
    """How clients are told that they get no answer."""

    @property
    def name(self) -> str:
        """Its name in logs, settings and signatures."""
        ...

    def error_body(self, code: str, message: str, /, *, kind: str | None, param: str | None, status: int) -> bytes:
        """Write an error for a client that got no head yet."""
        ...

    def status(self, status: int, /) -> int:
        """Give the status that this dialect's clients know for a status of another's."""
        ...


class ClientDialect(Refusing, Protocol):
    """What clients speak. Stateless: one object serves every exchange; `encoder` gives what writes one answer."""

    @property
    def heartbeat(self) -> bytes:
        """Bytes that clients ignore between two frames."""
        ...

    @property
    def members(self) -> Mapping[str, str]:
        """A request's members by the fields of a Conversation that say the same."""
        ...

    @property
    def harmless(self) -> frozenset[str]:
        """Members that no other dialect has a word for, and without which the answer is the same."""
        ...

    def read_request(self, body: bytes, /) -> Ask:
        """Read a client's request. Errors: Refused (bad_request) with the `param` that is wrong."""
        ...

    def read_conversation(self, body: bytes, /) -> Conversation:
        """Read all of a request. Errors: Refused (bad_request); Untranslatable for what a Conversation cannot say."""
        ...

    def encoder(self, ask: Ask, origin: Origin, /) -> EventEncoder:
        """Give what writes the stream that answers a request."""
        ...

    def write_answer(self, events: Sequence[Event], ask: Ask, origin: Origin, /) -> bytes:
        """Write the whole body that answers a request."""
        ...

    def error_frame(
        self, code: str, message: str, /, kind: str | None = None, *, first: bytes = b"", last: bytes = b""
    ) -> bytes:
        """Write an error for a client whose stream runs. Shape: `first` and `last` are what it got first and last."""
        ...


class ProviderDialect(Protocol):
    """What providers speak. Stateless, as above; `decoder` gives what reads one answer."""

    @property
    def name(self) -> str:
        """Its name in logs, settings and signatures."""
        ...

    @property
    def lacks(self) -> Mapping[str, Loss]:
        """The fields of a Conversation, and of what is in one ("ImagePart.detail"), that it has no word for."""
        ...

    def write_conversation(self, conversation: Conversation, model: str, /) -> Written:
        """Write a request. Errors: Untranslatable for what it has no word for."""
        ...

    def look(self, frame: Framed, /) -> tuple[Sight, ProviderError | None]:
        """Judge a frame of a stream that is opening. Errors: FrameError when it cannot be read."""
        ...

    def read_response(self, body: bytes, /) -> Notice:
        """Read a whole body that is not a stream. Errors: FrameError when it is not an object."""
        ...

    def read_answer(self, body: bytes, /) -> Sequence[Event]:
        """Read all of such a body. Shape: as of a stream, Done included. Errors: FrameError."""
        ...

    def read_error(self, status: int, body: bytes, /) -> ProviderError:
        """Read a provider's refusal. Shape: there is always a message."""
        ...

    def decoder(self, ask: Ask, /) -> EventDecoder:
        """Give what reads the stream that answers a request."""
        ...


class Dialect(ClientDialect, ProviderDialect, Protocol):
    """What clients and providers speak. Where both do, bytes pass; what they say is found by searching them."""

    @property
    def terminator(self) -> bytes:
        """The frame after which a stream is complete; empty where none may be added that the provider did not send."""
        ...

    def write_request(self, ask: Ask, model: str, /) -> bytes:
        """Write the request for a provider's model. Shape: the client's own bytes where nothing must change."""
        ...

    def envelope(self, block: bytes, /) -> tuple[bytes, bytes] | None:
        """Give how a frame begins and ends around its text; None when the block is not one frame with text alone."""
        ...

    def hit(self, block: bytes, start: int, /) -> int:
        """Give an offset in the first frame at or after `start` that may hold usage, a finish reason, an error or the end.

        Shape: -1 when there is none. A search over bytes; it may hit too much, and misses nothing.
        """
        ...

    def notice(self, frame: Frame, /) -> Notice:
        """Read what an interesting frame says. Errors: FrameError when it cannot be read."""
        ...

    def is_usage_only(self, frame: Frame, /) -> bool:
        """Whether a frame is there for usage alone, so that a client who did not ask for it misses nothing."""
        ...

    def usage_in_tail(self, tail: bytes, /) -> Usage | None:
        """Find the usage in the end of a body that was too large to keep."""
        ...


def origin_of(attempt: Attempt, dialect: ProviderDialect, created: int) -> Origin:
    """Give whose answer it is that an attempt gets. Shape: `created` is in seconds of the Unix epoch."""
    return Origin(attempt.admitted.arrival.request_id, attempt.target.model, created, dialect.name)


_CONTENT: Final = (Text, Reasoning, Sealed, Refusal, ToolCallStarted, ToolArguments, Finished)


def sight_of(events: Sequence[Event]) -> tuple[Sight, ProviderError | None]:
    """Judge what a frame of a stream that is opening says."""
    sight = Sight.SILENT
    for event in events:
        if isinstance(event, Failed):
            return Sight.ERROR, event.error
        if isinstance(event, _CONTENT):
            return Sight.CONTENT, None
        if isinstance(event, Done):
            sight = Sight.END
    return sight, None
