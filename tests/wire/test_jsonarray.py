import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cuts import check_cuts, check_take, cut, cuttings, frames_of, raw, refusal_of, said, take_all
from tidegate.testing.framers import check_framer
from tidegate.wire import FrameError
from tidegate.wire.jsonarray import MAX_ELEMENT_BYTES, WHOLE_LEVELS, WINDOW_BYTES, JsonArrayFramer

texts = st.text('ab"\\{}[], \n\u00e9\u6f6e\U0001f30a', max_size=8)
objects = st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | st.integers() | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=3,
)
between = st.sampled_from([",", ", ", ",\n", "\r\n,\r\n", " \t,,", " "])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[Any], list[bytes]]:
    """Give an array, its elements, and these as they are written in it."""
    found = draw(st.lists(objects, max_size=4))
    written = [
        json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 2]))) for value in found
    ]
    text = draw(st.sampled_from(["[", " \r\n[", "[\n"]))
    for number, element in enumerate(written):
        text += (draw(between) if number else "") + element
    text += draw(st.sampled_from(["]", "\n]\n", " ] \r\n", ",]"]))
    return text.encode(), found, [element.encode() for element in written]


def closing(stream: bytes, at: int) -> int:
    """Give where the object that begins here ends, a byte at a time; 0 when it does not."""
    depth, quoted, escaped = 0, False, False
    for end in range(at, len(stream)):
        byte = stream[end : end + 1]
        if quoted:
            quoted = escaped or byte != b'"'
            escaped = not escaped and byte == b"\\"
        elif byte == b'"':
            quoted = True
        else:
            depth += (byte == b"{") - (byte == b"}")
            if not depth:
                return end + 1
    return 0


def scanned(stream: bytes) -> tuple[list[bytes], str]:
    """Give the elements of an array and what is wrong with it, with no regular expression."""
    wrong = {"before": "the stream is no JSON array", "within": "an element of the array is no object"}
    frames: list[bytes] = []
    place, at = "before", 0
    while at < len(stream):
        byte = stream[at : at + 1]
        end = closing(stream, at) if (place, byte) == ("within", b"{") else at + 1
        if not end:
            break
        if end > at + 1:
            frames.append(stream[at:end])
        elif byte not in (b" \t\r\n," if place == "within" else b" \t\r\n"):
            if (place, byte) not in {("before", b"["), ("within", b"]")}:
                return frames, wrong.get(place, "something follows the array")
            place = "within" if byte == b"[" else "behind"
        at = end
    return frames, "" if place == "behind" else "the stream ended before its array"


@settings(deadline=None)
@given(streams(), cuttings)
def test_any_cut_of_any_array_gives_its_elements(given_: tuple[bytes, list[Any], list[bytes]], cuts: list[int]) -> None:
    stream, values, written = given_
    check_cuts(JsonArrayFramer, stream, cuts, written)
    assert [json.loads(element) for element in said(JsonArrayFramer().feed(stream))] == values


@settings(deadline=None)
@given(streams(), cuttings)
def test_take_passes_whole_elements_and_holds_the_rest(
    given_: tuple[bytes, list[Any], list[bytes]], cuts: list[int]
) -> None:
    check_take(JsonArrayFramer, given_[0], cuts)


@settings(deadline=None, max_examples=500)
@given(st.text('{{}}""\\\\[], a\n', max_size=60), st.booleans(), cuttings)
@example('{"\\\\\\\\"}, {"\\"}"}]', True, [5, 6, 7])
@example('{"}', True, [])
@example('{"a{}"b}{"}', True, [])
def test_strings_and_braces_are_told_apart_as_a_byte_at_a_time_in_any_cut(
    text: str, begun: bool, cuts: list[int]
) -> None:
    stream = (b"[" if begun else b"") + text.encode()
    expected, wrong = scanned(stream)
    framer = JsonArrayFramer()
    frames: list[bytes] = []
    refusal = ""
    try:
        for piece in cut(stream, cuts):
            frames += said(framer.feed(piece))
        framer.finish()
    except FrameError as error:
        refusal = error.message
    assert refusal == wrong
    whole = wrong in {"", "the stream ended before its array"}
    assert frames == (expected if whole else expected[: len(frames)])


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text('{}[]"\\,a ', max_size=60).map(str.encode), cuttings, st.integers(1, 64))
def test_no_bytes_do_more_than_be_refused_and_none_above_the_limit_are_kept(
    data: bytes, cuts: list[int], limit: int
) -> None:
    assert refusal_of(JsonArrayFramer, data, cuts, limit) in {
        "",
        f"a frame is larger than {limit} bytes",
        "the stream is no JSON array",
        "an element of the array is no object",
        "something follows the array",
        "the stream ended before its array",
    }


@pytest.mark.parametrize(
    "stream",
    [
        b'[{"a":1}]',
        b'[{"a":1},\r\n{"b":"}]{["},{}\r\n]\r\n',
        b' [ {"a":"\\"\\\\"} , {"b":{"c":[{"d":"\\\\\\""}]}} ] ',
        '[{"a":"\u6f6e \U0001f30a"},{"\u00e9":{}}]'.encode(),
    ],
)
def test_the_framer_keeps_every_promise_of_a_framer(stream: bytes) -> None:
    check_framer(JsonArrayFramer, stream)


@pytest.mark.parametrize("stream", [b"[]", b"[ ]", b" [\r\n]\n", b"[,]"])
def test_an_empty_array_is_an_end_without_frames(stream: bytes) -> None:
    for pieces in ([stream], cut(stream, [1, 2])):
        framer = JsonArrayFramer()
        assert frames_of(framer, pieces) == []
        assert framer.release() == stream


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b'{"a":1}', "no JSON array"),
        (b"data: {}\n\n", "no JSON array"),
        (b"null", "no JSON array"),
        (b",[]", "no JSON array"),
        (b"\xef\xbb\xbf[]", "no JSON array"),
        (b"[1,2]", "no object"),
        (b'["a"]', "no object"),
        (b"[[{}]]", "no object"),
        (b"[{}}]", "no object"),
        (b"[{} x {}]", "no object"),
        (b"[null]", "no object"),
        (b"[{}]]", "follows the array"),
        (b'[{}]{"error":{}}', "follows the array"),
        (b"[],", "follows the array"),
    ],
)
def test_what_is_no_array_of_objects_is_refused_as_soon_as_it_is_seen(stream: bytes, why: str) -> None:
    for pieces in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        framer = JsonArrayFramer()
        with pytest.raises(FrameError, match=why):
            take_all(framer, pieces)
        assert framer.held == 0


@pytest.mark.parametrize("stream", [b"", b" ", b"[", b"[{", b'[{"a":1}', b'[{"a":1},', b'[{"a":"]', b'[{"a":"\\'])
def test_a_stream_that_ends_before_the_closing_bracket_is_unfinished(stream: bytes) -> None:
    framer = JsonArrayFramer()
    taken = framer.take(stream)
    with pytest.raises(FrameError, match="ended before its array"):
        framer.finish()
    assert taken + framer.release() == stream


def test_an_element_is_given_at_its_closing_brace() -> None:
    framer = JsonArrayFramer()
    assert framer.feed(b'[{"a":{"b":1}') == []
    assert [(element.raw, element.data) for element in framer.feed(b"}")] == [(b'[{"a":{"b":1}}', b'{"a":{"b":1}}')]
    assert [(element.raw, element.data) for element in framer.feed(b",\r\n{}")] == [(b",\r\n{}", b"{}")]


def test_take_gives_what_closes_the_array_and_feed_holds_it() -> None:
    taking, feeding = JsonArrayFramer(), JsonArrayFramer()
    assert taking.take(b"[{}\n]") == b"[{}\n]"
    assert taking.take(b"\n") == b"\n"
    assert (taking.held, taking.inside) == (0, False)
    assert raw(feeding.feed(b"[{}\n]")) == b"[{}"
    assert feeding.held == 2
    assert feeding.take(b"\n") == b"\n]\n"


def test_a_released_element_goes_on_in_pieces_until_it_ends() -> None:
    framer = JsonArrayFramer()
    assert framer.take(b'[{"a":"\\') == b""
    assert framer.release() == b'[{"a":"\\'
    assert framer.inside
    assert framer.take(b'"}') == b'"}'
    assert framer.inside
    assert framer.take(b'"},{') == b'"}'
    assert (framer.inside, framer.held) == (False, 2)


def test_what_stands_between_elements_is_no_beginning_of_one() -> None:
    framer = JsonArrayFramer()
    assert framer.take(b"[{} , ") == b"[{}"
    assert framer.release() == b" , "
    assert not framer.inside
    assert [element.data for element in framer.feed(b"{}")] == [b"{}"]


@pytest.mark.parametrize("levels", [1, WHOLE_LEVELS - 1, WHOLE_LEVELS, WHOLE_LEVELS + 1, 1000])
@pytest.mark.parametrize(("begin", "end"), [(b'{"}":[', b"]}"), (b"{", b"}")])
def test_elements_may_be_as_deep_as_they_are(begin: bytes, end: bytes, levels: int) -> None:
    element = begin * levels + end * levels
    stream = b"[" + element + b"," + element + b"]"
    check_cuts(JsonArrayFramer, stream, [len(element) // 2, len(element) + 3], [element, element])


@pytest.mark.parametrize("size", [WINDOW_BYTES - 12, WINDOW_BYTES, 3 * WINDOW_BYTES])
@pytest.mark.parametrize("piece", ["x", '\\"', "\\\\", "}", '","":"', "\u6f6e"])
def test_elements_may_be_as_large_as_the_limit_lets_them(piece: str, size: int) -> None:
    element = ('{"a":"' + piece * (size // len(piece.encode())) + '"}').encode()
    stream = b"[" + element + b",\n" + element + b"]"
    for pieces in ([stream], cut(stream, list(range(1000, len(stream), 1001)))):
        assert said(frames_of(JsonArrayFramer(), pieces)) == [element, element]


@pytest.mark.parametrize("count", range(7))
def test_backslashes_are_counted_wherever_they_are_cut(count: int) -> None:
    string = b"\\" * count + b'"'
    stream = b'[{"a":"' + string + (b'"' if count % 2 else b"") + b"},{}]"
    for at in range(len(stream)):
        for behind in range(at, min(at + 4, len(stream))):
            frames = frames_of(JsonArrayFramer(), [stream[:at], stream[at:behind], stream[behind:]])
            assert said(frames) == [stream[1:-4], b"{}"]


def test_the_limit_is_for_one_element_and_not_for_what_comes_at_once() -> None:
    elements = b"[{}" + b',{"a":"b"}' * 100 + b"]"
    for call in (JsonArrayFramer(10).feed, JsonArrayFramer(10).take):
        call(elements)
    for pieces in ([elements], cut(elements, [3, 6])):
        with pytest.raises(FrameError, match="larger than 9 bytes"):
            frames_of(JsonArrayFramer(9), pieces)


def test_white_space_without_end_is_refused_at_the_limit() -> None:
    for begin in (b"", b"[", b"[{}", b"[{}]"):
        framer = JsonArrayFramer(100)
        framer.feed(begin)
        with pytest.raises(FrameError, match="larger than 100 bytes"):
            frames_of(framer, [b" " * 10] * 11)
        assert framer.held == 0


def test_the_default_limit_is_four_mebibytes_and_nothing_is_kept_above_it() -> None:
    framer = JsonArrayFramer()
    framer.take(b'[{"' + b"x" * (MAX_ELEMENT_BYTES - 3))
    assert framer.held == 4 * 1024 * 1024
    with pytest.raises(FrameError, match="larger than 4194304 bytes"):
        framer.take(b"x")
    assert framer.held == 0


@pytest.mark.parametrize("piece", [b'\\"', b'"x', b'"",', b"{},", b"{", b'{"'])
def test_no_element_takes_more_memory_than_a_small_multiple_of_it(piece: bytes) -> None:
    data = b"[{" + piece * (256 * 1024 // len(piece))
    framer = JsonArrayFramer()
    tracemalloc.start()
    framer.feed(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * len(data)
