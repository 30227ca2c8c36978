"""What frames mean, and how a request is written. Pure: bytes in, facts out."""

from enum import Enum
from typing import Protocol

from msgspec import Struct

from tidegate.exchange import Ask, Usage
from tidegate.wire import Frame


class Sight(Enum):
    """What one frame means while a stream opens."""

    SILENT = "silent"
    CONTENT = "content"
    ERROR = "error"
    END = "end"


class ProviderError(Struct, frozen=True):
    """An error in a provider's own words. Shape: `status` is 0 where it did not say one."""

    message: str
    kind: str | None = None
    code: str | None = None
    param: str | None = None
    status: int = 0


class Notice(Struct):
    """What one frame, or a whole answer, says beside its content."""

    usage: Usage | None = None
    finish_reason: str = ""
    error: ProviderError | None = None
    done: bool = False


class Dialect(Protocol):
    """A family's language."""

    @property
    def name(self) -> str:
        """Its name in logs and tests."""
        ...

    @property
    def terminator(self) -> bytes:
        """The frame that ends a stream."""
        ...

    @property
    def heartbeat(self) -> bytes:
        """Bytes between frames that every client skips."""
        ...

    def read_request(self, body: bytes, /) -> Ask:
        """Check a client's request. Errors: Refused (bad_request)."""
        ...

    def write_request(self, ask: Ask, model: str, /) -> bytes:
        """Give the body to send; the client's own where nothing must change."""
        ...

    def look(self, frame: Frame, /) -> tuple[Sight, ProviderError | None]:
        """Say what a frame means while opening. Errors: FrameError when it is not JSON."""
        ...

    def interesting(self, block: bytes, /) -> bool:
        """Say by a byte search whether a block may hold usage, a finish reason, an error or the end."""
        ...

    def notice(self, frame: Frame, /) -> Notice:
        """Decode an interesting frame. Errors: FrameError when it is not JSON."""
        ...

    def is_usage_only(self, frame: Frame, /) -> bool:
        """Say whether a frame carries usage and no choice."""
        ...

    def read_response(self, body: bytes, /) -> Notice:
        """Read a whole answer. Errors: FrameError when it is not a JSON object."""
        ...

    def usage_in_tail(self, tail: bytes, /) -> Usage | None:
        """Find the usage in the end of a large answer."""
        ...

    def read_error(self, status: int, body: bytes, /) -> ProviderError:
        """Read a provider's error answer, whatever it is."""
        ...

    def error_body(self, code: str, message: str, *, kind: str | None, param: str | None, status: int) -> bytes:
        """Give the error envelope."""
        ...

    def error_frame(self, code: str, message: str, *, kind: str | None = None) -> bytes:
        """Give the frame that tells of an error in mid-stream."""
        ...
