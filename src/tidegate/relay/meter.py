"""What a stream says about itself while it passes: usage, finish, error, end. Only what a byte search hits is decoded."""

from tidegate.dialect import Dialect, ProviderError
from tidegate.dialect.values import usage_after
from tidegate.exchange import Usage
from tidegate.wire import Frame, FrameError
from tidegate.wire.sse import split

MAX_TAIL_BYTES = 16 * 1024
"""Of a body too large to hold, the end is kept: providers put the usage there."""
MAX_BEGAN_BYTES = 4096
"""Of a stream's first block, so much is kept: where a stream has an id, it says it there."""
ENVELOPE_TRIES = 8
"""Blocks in which the wrapping of a stream's plain frames is looked for."""


class Meter:
    """Reads along with one stream.

    Shape: `observe` takes whole frames in order and gives what of them the client gets. `envelope` is how a frame of this
    stream begins and ends that has nothing but text in it, once one was seen; such frames need not be observed.
    `began` is the beginning of what was observed first, `latest` what of the last block went on to the client.
    """

    __slots__ = (
        "_dialect", "_half_gone", "_sample", "_strips", "_tail", "_tries", "began", "done", "envelope", "error", "finish_reason", "finished",
        "frames", "latest", "spliced", "unreadable", "usage",
    )  # fmt: skip

    def __init__(self, dialect: Dialect, *, strips_usage: bool) -> None:
        self._dialect = dialect
        self._tries = ENVELOPE_TRIES
        self.envelope: tuple[bytes, bytes] | None = None
        self.began = self.latest = b""
        self.frames = 0
        self._strips = strips_usage
        self._tail = b""
        self._half_gone = False
        self._sample = b""
        self.usage: Usage | None = None
        self.finish_reason = ""
        self.finished = 0
        self.error: ProviderError | None = None
        self.done = False
        self.spliced = False
        self.unreadable = ""

    def observe(self, block: bytes) -> bytes:
        """Count a block of whole frames; `unreadable` says why an interesting one of them cannot be read."""
        if self._half_gone:
            self._half_gone = False
            block = block.removeprefix(b"\n")
        if not self.began:
            self.began = block[:MAX_BEGAN_BYTES]
        hit = self._dialect.hit(block, 0)
        if hit >= 0:
            passed = self._inspect(block, hit)
            self.latest = passed or self.latest
            return passed
        self.latest = block
        self.frames += block.count(b"data:")
        if self._tries:
            self._sample = block
        return block

    def learn(self) -> tuple[bytes, bytes] | None:
        """Give the envelope, looked for in the last block without hits; apart from `observe`, as it can wait for a write."""
        if self._tries and self._sample:
            self._tries -= 1
            self.envelope = self._dialect.envelope(self._sample)
            self._sample = b""
            if self.envelope is not None:
                self._tries = 0
        return self.envelope

    def _inspect(self, block: bytes, hit: int) -> bytes:
        """Decode the frames of a block that are hit, and no other."""
        kept: list[bytes] = []
        done = copied = 0
        while hit >= 0:
            start, end = _bounds(block, done, hit)
            self.frames += block.count(b"data:", done, start)
            done = end
            if not self._passes(Frame(block[start:end])):
                kept.append(block[copied:start])
                copied = end
                # A frame whose CR came without its LF: the LF comes next, and goes the same way.
                self._half_gone = end == len(block) and block.endswith(b"\r")
            if self.done or self.unreadable or self.error is not None:
                break
            hit = self._dialect.hit(block, done)
        else:
            self.frames += block.count(b"data:", done)
            done = len(block)
        if not copied and done == len(block):
            return block
        kept.append(block[copied:done])
        return b"".join(kept)

    def _passes(self, frame: Frame) -> bool:
        """Take what a frame says; give whether it goes on to the client. What came before a bad frame does."""
        try:
            return self._read(frame)
        except FrameError as error:
            self.unreadable = error.message
            return False

    def _read(self, frame: Frame) -> bool:
        notice = self._dialect.notice(frame)
        if notice.usage is not None:
            self.usage = usage_after(self.usage, notice.usage)
        if notice.finish_reason:
            self.finish_reason = notice.finish_reason
            self.finished += notice.finished
        if notice.done:
            self.done = True
        if notice.error is not None:
            self.error = notice.error
            return False
        if self._strips and notice.usage is not None and self._dialect.is_usage_only(frame):
            self.spliced = True
            return False
        return True

    def whole(self, body: bytes, *, judged: bool = False) -> None:
        """Read a whole body that is not a stream. Shape: `judged` says that its usage is no provider's word."""
        try:
            notice = self._dialect.read_response(body)
        except FrameError:  # cannot be: the opening has read it
            return
        self.usage, self.finish_reason = notice.usage, notice.finish_reason
        if self.usage is not None and judged:
            self.usage.estimated = True

    def piece(self, data: bytes) -> None:
        """Keep the end of a body too large to hold."""
        self._tail = (self._tail + data)[-MAX_TAIL_BYTES:]

    def last(self) -> None:
        """Look for the usage in the end of a body too large to hold."""
        self.usage = self._dialect.usage_in_tail(self._tail)


def _bounds(block: bytes, done: int, hit: int) -> tuple[int, int]:
    """Give where the frame that is hit begins and ends; frames before `done` are dealt with."""
    if b"\r" not in block:
        before, behind = block.rfind(b"\n\n", done, hit), block.find(b"\n\n", hit)
        return (before + 2 if before >= 0 else done), (behind + 2 if behind >= 0 else len(block))
    start = end = 0
    for frame in split(block):
        start, end = end, end + len(frame.raw)
        if end > hit:
            break
    return start, end
