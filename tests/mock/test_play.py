"""When bytes are sent: silences, phases, comments and fragments, without waiting for them."""

import random
from itertools import islice

import pytest

from tidegate.mock.completion import Reel
from tidegate.mock.play import in_fragments, pace_stream, with_comments
from tidegate.mock.script import Script, parse

REEL = Reel(opening=b"<>", paced=(b"one<>", b"two", b"three"), tail=b"end")


def beats(script: Script, seed: int = 0) -> list[tuple[float, bytes]]:
    return list(pace_stream(script, b"head", REEL, b"<>", b"id", rng=random.Random(seed)))


def test_head_and_opening_are_one_write_and_the_last_chunk_comes_with_the_last_frame() -> None:
    silences, data = zip(*beats(parse("mock?itl=10ms&ttft=1s")), strict=True)
    assert data == (b"headid", b"oneid", b"two", b"three", b"end")
    assert silences[0] == silences[-1] == 0.0
    assert silences[2:4] == (0.01, 0.01)


def test_a_failure_comes_when_a_token_would_have_come() -> None:
    assert beats(parse("mock?itl=10ms&fail=error"))[-1] == (0.01, b"end")


def test_each_stream_begins_to_tick_at_a_phase_of_its_own_within_one_tick() -> None:
    script = parse("mock?ttft=1s&itl=200ms")
    starts = [beats(script, seed)[1][0] for seed in range(50)]
    assert len(set(starts)) == 50
    assert all(1.0 <= start < 1.2 for start in starts)
    assert max(starts) - min(starts) > 0.15


def test_without_ticks_the_first_token_comes_exactly_when_asked_for() -> None:
    assert beats(parse("mock?ttft=1s"))[1][0] == 1.0


def test_jitter_varies_each_silence_within_its_bounds() -> None:
    script = parse("mock?itl=10ms±4ms")
    gaps = [silence for seed in range(30) for silence, _ in beats(script, seed)[2:4]]
    assert len(set(gaps)) == 60
    assert all(0.006 <= gap <= 0.014 for gap in gaps)


def test_comments_split_a_silence_and_leave_its_length() -> None:
    said = list(with_comments(iter([(0.0, b"head"), (1.0, b"x")]), 0.3, b"#", hangs=False))
    assert [data for _, data in said] == [b"head", b"#", b"#", b"#", b"x"]
    assert sum(silence for silence, _ in said) == pytest.approx(1.0)


def test_comments_never_end_where_a_stream_hangs() -> None:
    said = with_comments(iter([(0.0, b"head")]), 0.3, b"#", hangs=True)
    assert [data for _, data in islice(said, 100)] == [b"head"] + [b"#"] * 99


def test_fragments_hold_the_same_bytes_and_keep_silences() -> None:
    said = list(in_fragments(iter([(0.0, b"abcdefg"), (5.0, b"hi"), (7.0, b"")]), 3, 0.1))
    assert said == [(0.1, b"abc"), (0.1, b"def"), (0.1, b"g"), (5.0, b"hi"), (7.0, b"")]
