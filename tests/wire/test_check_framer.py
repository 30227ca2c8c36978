"""The published conformance check finds framers that break a promise."""

import pytest

from tidegate.testing.framers import check_framer
from tidegate.wire import Frame, Framer
from tidegate.wire.ndjson import Line, NdjsonFramer
from tidegate.wire.sse import SseFramer

STREAM = b"data: a\n\nid: 4\ndata: bcd\n\n"


class Sound(SseFramer):
    """Keeps every promise."""


class Deaf(Sound):
    def feed(self, data: bytes, /) -> list[Frame]:
        return []


class Forgetful(Sound):
    def feed(self, data: bytes, /) -> list[Frame]:
        frames = super().feed(data)
        self.release()
        return frames


class Lossy(Sound):
    def feed(self, data: bytes, /) -> list[Frame]:
        return [Frame(frame.raw.removesuffix(b"\n")) for frame in super().feed(data)]


class Eager(Sound):
    def take(self, data: bytes, /) -> bytes:
        return super().take(data) + self.release()


class Reckless(Sound):
    def finish(self) -> tuple[()]:
        return ()


class Boundless(Sound):
    def __init__(self, limit: int) -> None:
        super().__init__(limit * 2)


class Unforgiving(Sound):
    def __init__(self, limit: int) -> None:
        super().__init__(limit - 1)


class Fresh(Sound):
    def release(self) -> bytes:
        piece = super().release()
        self._passed = 0
        return piece


@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (Deaf, "the stream has frames"),
        (Forgetful, "the frames do not depend on cuts"),
        (Lossy, "feed loses and adds nothing"),
        (Eager, "take gives whole frames"),
        (Reckless, "an unfinished frame is told"),
        (Boundless, "feed refuses a frame above the limit"),
        (Unforgiving, "a frame of the limit's size fits"),
        (Fresh, "the pieces of a released frame count"),
    ],
)
def test_a_framer_that_breaks_a_promise_is_found(make: type[Sound], promise: str) -> None:
    with pytest.raises(AssertionError, match=f"broken promise: {promise}"):
        check_framer(make, STREAM)


class Mute(NdjsonFramer):
    def finish(self) -> list[Line]:
        return []


class Garrulous(NdjsonFramer):
    def finish(self) -> list[Line]:
        return [*super().finish(), Line(b"\n")]


@pytest.mark.parametrize(
    ("make", "promise"),
    [(Mute, "take gives the whole stream"), (Garrulous, "feed loses and adds nothing")],
)
def test_a_framer_that_does_not_give_what_the_end_of_the_stream_ends_is_found(
    make: type[NdjsonFramer], promise: str
) -> None:
    stream = b'{"a":1}\n{"b":2}'
    check_framer(NdjsonFramer, stream)
    with pytest.raises(AssertionError, match=f"broken promise: {promise}"):
        check_framer(make, stream)


def test_a_sound_framer_passes_whatever_its_first_frame_is() -> None:
    def make(limit: int) -> Framer:
        return Sound(limit)

    check_framer(make, STREAM)
    check_framer(make, b"\xef\xbb\xbf" + STREAM)
