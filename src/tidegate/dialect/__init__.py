"""What frames mean, and how a request is written: one family of providers, one dialect. Pure: bytes in, words out."""

from enum import Enum
from typing import Protocol

from msgspec import Struct

from tidegate.dialect.events import EventDecoder, EventEncoder, ProviderError
from tidegate.exchange import Ask, Usage
from tidegate.wire import Frame

__all__ = ["Dialect", "Notice", "ProviderError", "Sight"]


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


class Dialect(Protocol):
    """A family's language. Stateless: one object serves every stream; `decoder` and `encoder` give those of one."""

    @property
    def name(self) -> str:
        """Its name in logs and settings."""
        ...

    @property
    def terminator(self) -> bytes:
        """The frame after which a stream is complete."""
        ...

    @property
    def heartbeat(self) -> bytes:
        """Bytes that clients ignore between two frames."""
        ...

    def read_request(self, body: bytes, /) -> Ask:
        """Read a client's request. Errors: Refused (bad_request) with the `param` that is wrong."""
        ...

    def write_request(self, ask: Ask, model: str, /) -> bytes:
        """Write the request for a provider's model. Shape: the client's own bytes where nothing must change."""
        ...

    def envelope(self, block: bytes, /) -> tuple[bytes, bytes] | None:
        """Give how a frame begins and ends around its text; None when the block is not one frame with text alone."""
        ...

    def look(self, frame: Frame, /) -> tuple[Sight, ProviderError | None]:
        """Judge a frame of a stream that is opening. Errors: FrameError when it cannot be read."""
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

    def read_response(self, body: bytes, /) -> Notice:
        """Read a whole body that is not a stream. Errors: FrameError when it is not an object."""
        ...

    def usage_in_tail(self, tail: bytes, /) -> Usage | None:
        """Find the usage in the end of a body that was too large to keep."""
        ...

    def read_error(self, status: int, body: bytes, /) -> ProviderError:
        """Read a provider's refusal. Shape: there is always a message."""
        ...

    def error_body(self, code: str, message: str, /, *, kind: str | None, param: str | None, status: int) -> bytes:
        """Write an error for a client that got no head yet."""
        ...

    def error_frame(self, code: str, message: str, /, kind: str | None = None) -> bytes:
        """Write an error for a client whose stream runs."""
        ...

    def decoder(self, ask: Ask, /) -> EventDecoder:
        """Give what reads the stream that answers a request."""
        ...

    def encoder(self, ask: Ask, /) -> EventEncoder:
        """Give what writes the stream that answers a request."""
        ...
