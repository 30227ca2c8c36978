"""When the bytes of an answer are sent: beats, each a silence in seconds and what is written after it.

Pure: silences come from the script and a random generator that is handed in; nobody waits here.
"""

import random
from collections.abc import Iterator
from itertools import repeat
from typing import Final, Literal

from msgspec import Struct

from tidegate.mock.completion import Reel, Whole
from tidegate.mock.script import Script

Beat = tuple[float, bytes]
End = Literal["done", "close", "reset", "hang"]
"""done: the next request may come · close: the connection ends · reset: by RST · hang: nothing more, and it stays open."""

TURN_S: Final = 1e-6
"""A silence so short that it only parts two writes."""
DRIP_S: Final = 0.001


class Play(Struct):
    """An answer in time. Shape: `first` is written at once; `beats` is None where that is all."""

    first: bytes
    beats: Iterator[Beat] | None = None
    end: End = "done"


def end_of(script: Script) -> End:
    """Give what a script leaves of the connection."""
    match script.fail:
        case "reset":
            return "reset"
        case "stall":
            return "hang"
        case "truncate" | "garbage":
            return "close"
        case _:
            return "done"


def is_instant(script: Script) -> bool:
    """Say whether everything can be written at once."""
    return not (script.ttft_s or script.itl_s or script.fail or script.cut_bytes or script.drip)


def pace_stream(
    script: Script, head: bytes, reel: Reel, blank: bytes, stamp: bytes, *, rng: random.Random
) -> Iterator[Beat]:
    """Give the beats of a stream: head and opening at once, then a frame a tick.

    Holds: ticks begin at a random phase, so that a thousand streams that began together don't tick together.
    """
    yield 0.0, head + reel.opening.replace(blank, stamp)
    gap = script.ttft_s + rng.random() * script.itl_s
    for frame in reel.paced:
        yield gap, frame.replace(blank, stamp)
        gap = script.itl_s
        if script.jitter_s:
            gap += rng.uniform(-script.jitter_s, script.jitter_s)
    # A failure takes the place of a token and comes when that would have come; a last chunk comes with the last frame.
    yield (gap if script.fail else 0.0), reel.tail.replace(blank, stamp)


def whole_after_s(script: Script, whole: Whole) -> float:
    """Give the seconds that a whole answer takes to generate."""
    return script.ttft_s + script.itl_s * max(0, whole.tokens - 1)


def with_comments(beats: Iterator[Beat], every_s: float, comment: bytes, *, hangs: bool) -> Iterator[Beat]:
    """Give the beats with a comment wherever there is silence for `every_s`, for ever after the last one when it hangs."""
    for silence, data in beats:
        left = silence
        while left > every_s:
            yield every_s, comment
            left -= every_s
        yield left, data
    if hangs:
        yield from repeat((every_s, comment))


def in_fragments(beats: Iterator[Beat], size: int, every_s: float) -> Iterator[Beat]:
    """Give the same bytes in writes of at most `size` bytes, `every_s` apart."""
    for silence, data in beats:
        wait = max(silence, every_s)
        for start in range(0, max(1, len(data)), size):
            yield wait, data[start : start + size]
            wait = every_s
