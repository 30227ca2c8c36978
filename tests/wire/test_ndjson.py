import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts import check_cuts, check_take, cut, cuttings, frames_of, refusal_of, said
from tidegate.testing.framers import check_framer
from tidegate.wire import FrameError
from tidegate.wire.ndjson import MAX_LINE_BYTES, NdjsonFramer

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('a"\\\r\n\t{}[]\u00e9\u6f6e\U0001f30a\u2028', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
line_ends = st.sampled_from(["\n", "\r\n", " \n", "\t\r\n"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[Any]]:
    """Give lines, some of them blank, and what is on them; the last one may have no end when that does not change it."""
    found = draw(st.lists(values, max_size=5))
    text = "".join(
        draw(st.sampled_from(["", "\n", "\r\n", "  \n"]))
        + draw(st.sampled_from(["", " "]))
        + json.dumps(value, ensure_ascii=draw(st.booleans()))
        + draw(line_ends)
        for value in found
    )
    return (text.rstrip() if draw(st.booleans()) else text).encode(), found


@settings(deadline=None)
@given(streams(), cuttings)
def test_any_cut_of_any_lines_gives_the_values_on_them(given_: tuple[bytes, list[Any]], cuts: list[int]) -> None:
    stream, expected = given_
    data = [line.strip() for line in stream.split(b"\n") if line.strip()]
    assert [json.loads(line) for line in data] == expected
    check_cuts(NdjsonFramer, stream, cuts, data)


@settings(deadline=None)
@given(streams(), cuttings)
def test_take_passes_whole_lines_and_holds_the_rest(given_: tuple[bytes, list[Any]], cuts: list[int]) -> None:
    check_take(NdjsonFramer, given_[0], cuts)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text('\r\n{}":a 1', max_size=60).map(str.encode), cuttings, st.integers(1, 64))
def test_no_bytes_do_more_than_be_refused_and_none_above_the_limit_are_kept(
    data: bytes, cuts: list[int], limit: int
) -> None:
    assert refusal_of(NdjsonFramer, data, cuts, limit) in {
        "",
        f"a frame is larger than {limit} bytes",
        "the stream ended inside a line",
    }


@pytest.mark.parametrize(
    "stream",
    [
        b'{"a":1}\n{"b":2,"c":3}\n',
        b'\n\r\n{"a":1}\r\n\r\n{"b":2}\r\n\n',
        '{"a":"\u6f6e \U0001f30a"}\n{"b":"\u00e9\\n"}\n'.encode(),
        b'{"a":1}\n{"the last one":"has no end"}',
        b' {"a":1}\n\t{"b":[]}  ',
    ],
)
def test_the_framer_keeps_every_promise_of_a_framer(stream: bytes) -> None:
    check_framer(NdjsonFramer, stream)


def test_a_blank_line_is_given_at_once_and_has_no_data() -> None:
    framer = NdjsonFramer()
    assert [(line.raw, line.data) for line in framer.feed(b'\n \r\n{"a":1}\r\n')] == [
        (b"\n", None),
        (b" \r\n", None),
        (b'{"a":1}\r\n', b'{"a":1}'),
    ]
    assert framer.take(b"\r\n") == b"\r\n"
    assert framer.held == 0


def test_a_carriage_return_alone_ends_no_line() -> None:
    assert said(NdjsonFramer().feed(b'{"a":\r1}\r{}\n')) == [b'{"a":\r1}\r{}']


def test_a_last_line_without_its_end_is_given_when_the_stream_is_finished() -> None:
    framer = NdjsonFramer()
    assert framer.feed(b'{"a":1}\n{"done":true}') != []
    assert framer.held == 13
    assert [line.raw for line in framer.finish()] == [b'{"done":true}']
    assert (framer.held, framer.release()) == (0, b"")


@pytest.mark.parametrize("rest", [b'{"a":', b'{"a":"b', b"{", b'{"a":1}{', b"nul", b'"\xe6\xbd', b"x", b"[" * 100_000])
def test_a_last_line_that_is_not_whole_is_an_unfinished_frame(rest: bytes) -> None:
    framer = NdjsonFramer()
    framer.take(b'{"a":1}\n' + rest)
    with pytest.raises(FrameError, match="ended inside a line"):
        framer.finish()
    assert framer.release() == rest


@pytest.mark.parametrize("rest", [b"", b" ", b"\r", b" \t"])
def test_a_stream_that_ends_in_white_space_is_finished(rest: bytes) -> None:
    framer = NdjsonFramer()
    assert framer.take(b'{"a":1}\n' + rest) == b'{"a":1}\n'
    assert framer.finish() == ()
    assert framer.release() == rest


def test_nobody_knows_whether_a_released_line_is_whole_so_it_must_have_its_end() -> None:
    framer = NdjsonFramer()
    framer.take(b'{"a":')
    framer.release()
    assert framer.take(b"1}") == b"1}"
    with pytest.raises(FrameError, match="ended inside a line"):
        framer.finish()
    assert framer.take(b'\n{"b"') == b"\n"
    assert (framer.inside, framer.held) == (False, 4)


def test_bytes_fed_after_a_release_are_the_rest_of_the_line() -> None:
    framer = NdjsonFramer()
    framer.take(b'{"a":')
    framer.release()
    assert framer.feed(b"[") == []
    assert framer.take(b"1") == b"[1"
    assert [line.raw for line in framer.feed(b']}\n{"b":2}\n')] == [b"]}\n", b'{"b":2}\n']


def test_the_limit_is_for_one_line_and_not_for_what_comes_at_once() -> None:
    line = b'{"a":"b"}\n'
    for call in (NdjsonFramer(len(line)).feed, NdjsonFramer(len(line)).take):
        call(line * 100)
    for pieces in ([line], [b"\n\n" + line], cut(line, [3, 6])):
        with pytest.raises(FrameError, match="larger than 9 bytes"):
            frames_of(NdjsonFramer(len(line) - 1), pieces)


def test_pieces_of_a_released_line_count_for_that_line_only() -> None:
    framer = NdjsonFramer(10)
    for _ in range(5):
        assert framer.take(b'{"a"') == b""
        assert framer.release() == b'{"a"'
        assert framer.take(b":1}\n") == b":1}\n"


def test_endless_blank_lines_are_not_kept() -> None:
    framer = NdjsonFramer(16)
    for _ in range(1000):
        assert framer.take(b"\r\n") == b"\r\n"


def test_the_default_limit_is_four_mebibytes_and_nothing_is_kept_above_it() -> None:
    framer = NdjsonFramer()
    framer.take(b"x" * MAX_LINE_BYTES)
    assert framer.held == 4 * 1024 * 1024
    with pytest.raises(FrameError, match="larger than 4194304 bytes"):
        framer.take(b"x")
    assert framer.held == 0
