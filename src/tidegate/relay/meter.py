"""What a stream says about itself while it passes: usage, finish, error, end. Only what a byte search hits is decoded."""

from tidegate.dialect import Dialect, ProviderError
from tidegate.exchange import Usage
from tidegate.wire import Frame, FrameError
from tidegate.wire.sse import split

MAX_TAIL_BYTES = 16 * 1024
"""Of a body too large to hold, the end is kept: providers put the usage there."""
ENVELOPE_TRIES = 8
"""Blocks in which the wrapping of a stream's plain frames is looked for."""


class Meter:
    """Reads along with one stream.

    Shape: `observe` takes whole frames in order and gives what of them the client gets. `envelope` is how a frame of this
    stream begins and ends that has nothing but text in it, once one was seen; such frames need not be observed.
    """

    __slots__ = (
        "_dialect", "_interesting", "_strips", "_tail", "_tries", "done", "envelope", "error", "finish_reason", "finished",
        "frames", "spliced", "usage",
    )  # fmt: skip

    def __init__(self, dialect: Dialect, *, strips_usage: bool) -> None:
        self._dialect = dialect
        self._interesting = dialect.interesting
        self._tries = ENVELOPE_TRIES
        self.envelope: tuple[bytes, bytes] | None = None
        self.frames = 0
        self._strips = strips_usage
        self._tail = b""
        self.usage: Usage | None = None
        self.finish_reason = ""
        self.finished = 0
        self.error: ProviderError | None = None
        self.done = False
        self.spliced = False

    def observe(self, block: bytes) -> bytes:
        """Count a block of whole frames. Errors: FrameError when an interesting frame cannot be read."""
        if self._interesting(block):
            return self._inspect(block)
        self.frames += block.count(b"data:")
        if self._tries and self.envelope is None:
            self._tries -= 1
            self.envelope = self._dialect.envelope(block)
        return block

    def _inspect(self, block: bytes) -> bytes:
        kept: list[bytes] = []
        dropped = False
        for frame in split(block):
            if not self._interesting(frame.raw):
                self.frames += 1
                kept.append(frame.raw)
            elif self._read(frame):
                kept.append(frame.raw)
            else:
                dropped = True
            if self.done or self.error is not None:
                break
        if dropped:
            self.spliced = True
        passed = b"".join(kept)
        return block if len(passed) == len(block) else passed

    def _read(self, frame: Frame) -> bool:
        """Take what a frame says; give whether it goes on to the client."""
        notice = self._dialect.notice(frame)
        if notice.usage is not None:
            self.usage = notice.usage
        if notice.finish_reason:
            self.finish_reason = notice.finish_reason
            self.finished += 1
        if notice.done:
            self.done = True
        if notice.error is not None:
            self.error = notice.error
            return False
        if self._strips and notice.usage is not None:
            return not self._dialect.is_usage_only(frame)
        return True

    def whole(self, body: bytes) -> None:
        """Read a whole body that is not a stream."""
        try:
            notice = self._dialect.read_response(body)
        except FrameError:  # cannot be: the opening has read it
            return
        self.usage, self.finish_reason = notice.usage, notice.finish_reason

    def piece(self, data: bytes) -> None:
        """Keep the end of a body too large to hold."""
        self._tail = (self._tail + data)[-MAX_TAIL_BYTES:]

    def last(self) -> None:
        """Look for the usage in the end of a body too large to hold."""
        self.usage = self._dialect.usage_in_tail(self._tail)
