"""What every framer promises, checked on a stream of your own: for our framers and for yours."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from tidegate.wire import Framed, FrameError, FramerOf

AnyFramer = FramerOf[Framed]

_ENOUGH = 1 << 40


def check_framer(make: Callable[[int], AnyFramer], stream: bytes) -> None:
    """Check a framer, made for a limit in bytes, on a stream of whole frames, of the largest of which the first half is none.

    Errors: AssertionError, with a sentence that says which promise is broken.
    """
    whole = make(_ENOUGH)
    frames = [*whole.feed(stream), *whole.finish()]
    expected = [_fields(frame) for frame in frames]
    _require(bool(frames), "the stream has frames")
    for cuts in _cuttings(len(stream)):
        _check_feed(make(_ENOUGH), stream, cuts, expected)
        _check_take(make(_ENOUGH), stream, cuts)
    _check_release(make, stream, frames)
    _check_unfinished(make, frames)
    _check_limit(make, frames)


def _check_feed(framer: AnyFramer, stream: bytes, cuts: list[int], expected: list[list[object]]) -> None:
    frames = [frame for piece in _pieces(stream, cuts) for frame in framer.feed(piece)]
    frames += framer.finish()
    _require([_fields(frame) for frame in frames] == expected, f"the frames do not depend on cuts at {cuts[:4]}")
    _require(_raw(frames) + framer.release() == stream, f"feed loses and adds nothing with cuts at {cuts[:4]}")


def _check_take(framer: AnyFramer, stream: bytes, cuts: list[int]) -> None:
    taken = seen = b""
    for piece in _pieces(stream, cuts):
        taken += framer.take(piece)
        seen += piece
        _require(taken == seen[: len(taken)], f"take passes bytes as they came with cuts at {cuts[:4]}")
        _require(framer.held == len(seen) - len(taken), f"what take does not give is held with cuts at {cuts[:4]}")
        _require(not framer.inside, f"take gives whole frames with cuts at {cuts[:4]}")
    _require(taken + _raw(framer.finish()) == stream, f"take gives the whole stream with cuts at {cuts[:4]}")


def _check_release(make: Callable[[int], AnyFramer], stream: bytes, frames: list[Framed]) -> None:
    """Check that a frame whose beginning was given up goes on in pieces until it ends."""
    first = len(frames[0].raw)
    for cut in range(1, first - 2):
        framer = make(_ENOUGH)
        _require(framer.take(stream[:cut]) == b"", f"{cut} bytes of a frame are held")
        _require(framer.release() == stream[:cut], f"release gives what is held after {cut} bytes")
        _require(framer.held == 0, "nothing is held after a release")
        if not framer.inside:
            continue
        _require(
            framer.take(stream[cut : cut + 1]) == stream[cut : cut + 1], "pieces of a released frame go on at once"
        )
        _require(framer.inside, f"the released frame is not over after {cut + 1} bytes")
        rest = framer.take(stream[cut + 1 :])
        _require(not framer.inside, "a released frame ends")
        _require(rest + _raw(framer.finish()) == stream[cut + 1 :], "what follows a released frame is given")


def _check_unfinished(make: Callable[[int], AnyFramer], frames: list[Framed]) -> None:
    before, longest = _longest(frames)
    _require(
        _refuses(_finish, make(_ENOUGH), [before + longest[: len(longest) // 2]]),
        "an unfinished frame is told from a finished stream",
    )


def _check_limit(make: Callable[[int], AnyFramer], frames: list[Framed]) -> None:
    """Check that a frame two bytes above the limit is refused: the last byte of a line end may come as if it were the next."""
    before, longest = _longest(frames)
    size = len(longest)
    for cuts in ([], [size // 2], list(range(1, size))):
        pieces = [before, *_pieces(longest, cuts)]
        fits, small, released = make(size), make(size - 2), make(size - 2)
        _require(not _refuses(_feed_all, fits, pieces), "a frame of the limit's size fits")
        _require(_refuses(_feed_all, small, pieces), "feed refuses a frame above the limit")
        _require(small.held < size, "a refused frame is not kept")
        _require(_refuses(_release_all, released, pieces), "the pieces of a released frame count, too")


def _feed_all(framer: AnyFramer, pieces: list[bytes]) -> None:
    for piece in pieces:
        framer.feed(piece)


def _release_all(framer: AnyFramer, pieces: list[bytes]) -> None:
    for piece in pieces:
        framer.take(piece)
        framer.release()


def _finish(framer: AnyFramer, pieces: list[bytes]) -> None:
    for piece in pieces:
        framer.take(piece)
    framer.finish()


def _refuses(call: Callable[[AnyFramer, list[bytes]], None], framer: AnyFramer, pieces: list[bytes]) -> bool:
    try:
        call(framer, pieces)
    except FrameError:
        return True
    return False


def _longest(frames: list[Framed]) -> tuple[bytes, bytes]:
    """Give the largest frame, and the stream before it."""
    at = max(range(len(frames)), key=lambda at: len(frames[at].raw))
    return _raw(frames[:at]), frames[at].raw


def _raw(frames: Sequence[Framed]) -> bytes:
    return b"".join(frame.raw for frame in frames)


def _fields(frame: Framed) -> list[object]:
    """Give what a frame says: all its properties, but for the bytes themselves."""
    kind = type(frame)
    names = [name for name in dir(kind) if isinstance(getattr(kind, name), property) and not name.startswith("_")]
    return [getattr(frame, name) for name in names]


def _cuttings(size: int) -> Iterable[list[int]]:
    yield from ([cut] for cut in range(size + 1))
    yield list(range(1, size))
    yield list(range(3, size, 3))


def _pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    return [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]


def _require(holds: bool, promise: str) -> None:  # noqa: FBT001 (the call reads as a sentence)
    if not holds:
        raise AssertionError(f"broken promise: {promise}")
