"""The published conformance check finds framers that break a promise."""

import pytest

from tidegate.testing.framers import check_framer
from tidegate.wire import Frame, Framer
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


def test_a_sound_framer_passes_whatever_its_first_frame_is() -> None:
    def make(limit: int) -> Framer:
        return Sound(limit)

    check_framer(make, STREAM)
    check_framer(make, b"\xef\xbb\xbf" + STREAM)
