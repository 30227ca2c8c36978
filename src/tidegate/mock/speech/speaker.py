"""What a dialect has to know to answer in it: a row of functions, the same for all dialects."""

from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import TypeVar

from msgspec import Struct, field

from tidegate.mock.head import Family
from tidegate.mock.script import Script
from tidegate.mock.speech.errors import ANY_ID, ErrorSaid, Trouble
from tidegate.mock.speech.frames import Frame, Framer
from tidegate.mock.speech.words import Saying, Words

T = TypeVar("T")


class Take(Struct):
    """A stream in frames. Shape: `opening` goes with the head; each group of `tokens`, then of `closing`, is sent at once."""

    opening: list[Frame] = field(default_factory=list)
    tokens: list[list[Frame]] = field(default_factory=list)
    closing: list[list[Frame]] = field(default_factory=list)

    def frames(self) -> int:
        """Give the number of frames."""
        return len(self.opening) + sum(map(len, self.tokens)) + sum(map(len, self.closing))


class Roll:
    """Collects a take, frame by frame: what holds no token goes along with the next one that does."""

    def __init__(self) -> None:
        self._take = Take()
        self._waiting: list[Frame] = []

    def aside(self, *frames: Frame) -> None:
        """Add frames that hold no token."""
        self._waiting.extend(frames)

    def open(self) -> None:
        """Let all so far go with the head."""
        self._take.opening, self._waiting = self._waiting, []

    def token(self, frame: Frame) -> None:
        """Add a frame that holds a token."""
        self._take.tokens.append([*self._waiting, frame])
        self._waiting = []

    def take(self) -> Take:
        """Give the take; what still waits is its closing."""
        if self._waiting:
            self._take.closing.append(self._waiting)
        return self._take


class Speaker(Struct, frozen=True):
    """A dialect.

    Shape: `error` gives an error, `take` a stream, `whole` an answer in one piece; `failure` the frame of a stream that breaks, by the number
    of frames before it; `stamp` the bytes that fill a blank, by id, second and whether it is a stream. Holds: `checked`:
    checksums forbid blanks, each answer is rendered by itself; `lacks` are the knobs that this dialect has no word for.
    """

    family: Family
    error: Callable[[Trouble], ErrorSaid]
    framer: Callable[[Script], Framer]
    take: Callable[[Saying, list[Words]], Take]
    whole: Callable[[Saying, list[Words]], bytes]
    failure: Callable[[Saying, int], Frame]
    stamp: Callable[[bytes, bytes, bool], bytes]
    stream_type: bytes
    whole_type: bytes
    stream_blank: bytes = ANY_ID
    whole_blank: bytes = ANY_ID
    checked: bool = False
    lacks: frozenset[str] = frozenset()


def stamped_by_id(ident: bytes, created: bytes, stream: bool) -> bytes:  # noqa: FBT001 (the shape of `stamp`)
    """Give the stamp of a dialect that says an id and no time."""
    del created, stream
    return ident


def in_turns(rows: Iterable[Iterable[T]]) -> list[T]:
    """Give the first of each row, then the second of each, until all are given."""
    missing = object()
    turns = zip_longest(*rows, fillvalue=missing)
    return [one for turn in turns for one in turn if one is not missing]  # type: ignore[misc]  # the rest are all T
