"""Streams cut anywhere, and what must hold of any framer that gets them so."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from hypothesis import strategies as st

from tidegate.wire import Framed, FrameError, FramerOf

F = TypeVar("F", bound=Framed)
Make = Callable[[int], FramerOf[F]]

ENOUGH = 1 << 30

cuttings = st.lists(st.integers(0, 1 << 16), max_size=12)


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    return [
        stream[start:end] for start, end in pairwise([0, *sorted(at % (len(stream) + 1) for at in cuts), len(stream)])
    ]


def frames_of(framer: FramerOf[F], pieces: Sequence[bytes]) -> list[F]:
    return [*(frame for piece in pieces for frame in framer.feed(piece)), *framer.finish()]


def take_all(framer: FramerOf[Framed], pieces: Sequence[bytes]) -> bytes:
    return b"".join(framer.take(piece) for piece in pieces)


def said(frames: Sequence[Framed]) -> list[bytes]:
    return [frame.data for frame in frames if frame.data is not None]


def raw(frames: Sequence[Framed]) -> bytes:
    return b"".join(frame.raw for frame in frames)


def check_cuts(make: Make[F], stream: bytes, cuts: list[int], data: list[bytes]) -> None:
    """Check that a stream has these data and loses no byte, as it is cut and a byte at a time."""
    for pieces in (cut(stream, cuts), [stream[at : at + 1] for at in range(len(stream))]):
        framer = make(ENOUGH)
        frames = frames_of(framer, pieces)
        assert said(frames) == data
        assert raw(frames) + framer.release() == stream


def check_take(make: Make[F], stream: bytes, cuts: list[int]) -> None:
    """Check that `take` gives the frames that `feed` gives, as soon, and holds the rest."""
    taking, looking, taken, seen, looked = make(ENOUGH), make(ENOUGH), b"", b"", b""
    for piece in cut(stream, cuts):
        taken, seen = taken + taking.take(piece), seen + piece
        looked += raw(looking.feed(piece))
        assert seen.startswith(taken)
        assert taken.startswith(looked)
        assert taking.held == len(seen) - len(taken)
        assert not taking.inside
    assert taken + raw(taking.finish()) + taking.release() == stream


def refusal_of(make: Make[F], data: bytes, cuts: list[int], limit: int) -> str:
    """Give why bytes are refused, checking that no more is held than the limit and that none is lost before."""
    fed, taken, mixed = make(limit), make(limit), make(limit)
    passed, frames, pieces = b"", b"", b""
    try:
        for number, piece in enumerate(cut(data, cuts)):
            frames += raw(fed.feed(piece))
            assert fed.held <= limit
            passed += taken.take(piece)
            assert taken.held <= limit
            pieces += mixed.take(piece) if number % 3 else raw(mixed.feed(piece))
            pieces += mixed.release() if number % 2 else b""
        frames += raw(fed.finish())
        assert frames + fed.release() == passed + taken.release() == pieces + mixed.release() == data
    except FrameError as error:
        assert fed.held <= limit
        return error.message
    return ""
