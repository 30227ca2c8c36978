"""What every framer promises, checked on a stream of your own: for our framers and for yours."""

from collections.abc import Callable, Iterable
from itertools import pairwise

from tidegate.wire import Frame, FrameError, Framer

Fields = tuple[bytes | None, bytes | None, bytes | None, int | None]

_ENOUGH = 1 << 40


def check_framer(make: Callable[[int], Framer], stream: bytes) -> None:
    """Check a framer, made for a limit in bytes, on a stream of whole frames with one of two bytes at least.

    Errors: AssertionError, with a sentence that says which promise is broken.
    """
    frames = list(make(_ENOUGH).feed(stream))
    expected = [_fields(frame) for frame in frames]
    _require(bool(frames), "the stream has frames")
    for cuts in _cuttings(len(stream)):
        _check_feed(make(_ENOUGH), stream, cuts, expected)
        _check_take(make(_ENOUGH), stream, cuts)
    _check_release(make, stream, frames)
    _check_unfinished(make, frames)
    _check_limit(make, frames)


def _check_feed(framer: Framer, stream: bytes, cuts: list[int], expected: list[Fields]) -> None:
    frames = [frame for piece in _pieces(stream, cuts) for frame in framer.feed(piece)]
    _require([_fields(frame) for frame in frames] == expected, f"the frames do not depend on cuts at {cuts[:4]}")
    joined = b"".join(frame.raw for frame in frames)
    _require(joined + framer.release() == stream, f"feed loses and adds nothing with cuts at {cuts[:4]}")
    framer.finish()


def _check_take(framer: Framer, stream: bytes, cuts: list[int]) -> None:
    taken = seen = b""
    for piece in _pieces(stream, cuts):
        taken += framer.take(piece)
        seen += piece
        _require(taken == seen[: len(taken)], f"take passes bytes as they came with cuts at {cuts[:4]}")
        _require(framer.held == len(seen) - len(taken), f"what take does not give is held with cuts at {cuts[:4]}")
        _require(not framer.inside, f"take gives whole frames with cuts at {cuts[:4]}")
    framer.finish()
    _require(taken == stream, f"take gives the whole stream with cuts at {cuts[:4]}")


def _check_release(make: Callable[[int], Framer], stream: bytes, frames: list[Frame]) -> None:
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
        _require(framer.take(stream[cut + 1 :]) == stream[cut + 1 :], "what follows a released frame is given")
        _require(not framer.inside, "a released frame ends")
        framer.finish()


def _check_unfinished(make: Callable[[int], Framer], frames: list[Frame]) -> None:
    longest = max((frame.raw for frame in frames), key=len)
    half = longest[: len(longest) // 2]
    _require(_refuses(_finish, make(_ENOUGH), [half]), "an unfinished frame is told from a finished stream")


def _check_limit(make: Callable[[int], Framer], frames: list[Frame]) -> None:
    """Check that a frame two bytes above the limit is refused: the last byte of a line end may come as if it were the next."""
    longest = max((frame.raw for frame in frames), key=len)
    size = len(longest)
    for cuts in ([], [size // 2], list(range(1, size))):
        pieces = _pieces(longest, cuts)
        fits, small, released = make(size), make(size - 2), make(size - 2)
        _require(not _refuses(_feed_all, fits, pieces), "a frame of the limit's size fits")
        _require(_refuses(_feed_all, small, pieces), "feed refuses a frame above the limit")
        _require(small.held < size, "a refused frame is not kept")
        _require(_refuses(_release_all, released, pieces), "the pieces of a released frame count, too")


def _feed_all(framer: Framer, pieces: list[bytes]) -> None:
    for piece in pieces:
        framer.feed(piece)


def _release_all(framer: Framer, pieces: list[bytes]) -> None:
    for piece in pieces:
        framer.take(piece)
        framer.release()


def _finish(framer: Framer, pieces: list[bytes]) -> None:
    for piece in pieces:
        framer.take(piece)
    framer.finish()


def _refuses(call: Callable[[Framer, list[bytes]], None], framer: Framer, pieces: list[bytes]) -> bool:
    try:
        call(framer, pieces)
    except FrameError:
        return True
    return False


def _fields(frame: Frame) -> Fields:
    return frame.data, frame.event, frame.id, frame.retry


def _cuttings(size: int) -> Iterable[list[int]]:
    yield from ([cut] for cut in range(size + 1))
    yield list(range(1, size))
    yield list(range(3, size, 3))


def _pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    return [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]


def _require(holds: bool, promise: str) -> None:  # noqa: FBT001 (the call reads as a sentence)
    if not holds:
        raise AssertionError(f"broken promise: {promise}")
