import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts import cut, cuttings
from tidegate.testing.framers import check_framer
from tidegate.wire import Frame, FrameError
from tidegate.wire.sse import MAX_FRAME_BYTES, SseFramer, split

Fields = tuple[bytes | None, bytes | None, bytes | None, int | None]

BOM = b"\xef\xbb\xbf"


def fields(frame: Frame) -> Fields:
    return frame.data, frame.event, frame.id, frame.retry


def reference(stream: bytes) -> list[Fields]:
    """Parse by the letter of the WHATWG text, on decoded text and a line at a time. Frames without a field are dropped."""
    text = stream.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events: list[Fields] = []
    data, event, last_id, retry, has_data = "", "", None, None, False
    for line in text.split("\n")[:-1]:
        if line == "":
            found = (
                data[:-1].encode() if has_data else None,
                event.encode() or None,
                None if last_id is None else last_id.encode(),
                retry,
            )
            if found != (None, None, None, None):
                events.append(found)
            data, event, last_id, retry, has_data = "", "", None, None, False
            continue
        if line.startswith(":"):
            continue
        name, colon, value = line.partition(":")
        if colon and value.startswith(" "):
            value = value[1:]
        if name == "data":
            data += value + "\n"
            has_data = True
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            last_id = value
        elif name == "retry" and value and all(char in "0123456789" for char in value):
            retry = int(value)
    return events


line_text = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
line = st.one_of(
    st.builds(
        "{}{}{}".format, st.sampled_from(["data", "event", "id", "unknown"]), st.sampled_from([":", ": "]), line_text
    ),
    st.builds(":{}".format, line_text),
    st.sampled_from(
        ["data", "data: [DONE]", "event", "id", "id: a\0b", "retry: 25", "retry:x", "retry: -4", 'data: {"a":1}']
    ),
    line_text.filter(lambda text: text != ""),
)
line_end = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    lines = [
        text + draw(line_end)
        for frame in draw(st.lists(st.lists(line, max_size=4), max_size=6))
        for text in [*frame, ""]
    ]
    stream = "".join(lines).encode()
    # A lone CR before an empty line's LF reads as one line end: then it is another, but still a whole, stream.
    return draw(st.sampled_from([b"", BOM])) + stream + b"\n\n"


@settings(deadline=None)
@given(streams(), cuttings)
def test_any_cut_of_any_stream_gives_the_frames_of_the_written_standard(stream: bytes, cuts: list[int]) -> None:
    framer = SseFramer()
    frames = [frame for piece in cut(stream, cuts) for frame in framer.feed(piece)]
    framer.finish()
    expected = reference(stream)
    assert [found for found in map(fields, frames) if found != (None, None, None, None)] == expected
    assert b"".join(frame.raw for frame in frames) + framer.release() == stream


@settings(deadline=None)
@given(streams())
def test_one_byte_at_a_time_gives_the_same_frames_as_all_at_once(stream: bytes) -> None:
    framer = SseFramer()
    by_byte = [fields(frame) for at in range(len(stream)) for frame in framer.feed(stream[at : at + 1])]
    assert by_byte == [fields(frame) for frame in SseFramer().feed(stream)]


@settings(deadline=None)
@given(streams(), cuttings)
def test_take_passes_whole_frames_and_holds_the_rest(stream: bytes, cuts: list[int]) -> None:
    framer, looked, taken, seen = SseFramer(), SseFramer(), b"", b""
    whole = 0
    for piece in cut(stream, cuts):
        block = framer.take(piece)
        taken, seen = taken + block, seen + piece
        whole += len(looked.feed(piece))
        assert seen.startswith(taken)
        assert framer.held == len(seen) - len(taken)
        assert len(SseFramer().feed(taken)) == whole
        assert b"".join(frame.raw for frame in split(block)) == block
    assert taken == stream


@settings(deadline=None)
@given(
    st.binary(max_size=200) | st.text("\r\n:data \ufeff\0", max_size=60).map(str.encode), cuttings, st.integers(1, 64)
)
def test_no_bytes_do_more_than_be_refused_and_none_above_the_limit_are_kept(
    data: bytes, cuts: list[int], limit: int
) -> None:
    fed, taken, mixed = SseFramer(limit), SseFramer(limit), SseFramer(limit)
    passed, frames, pieces, refusal = b"", b"", b"", ""
    try:
        for number, piece in enumerate(cut(data, cuts)):
            frames += b"".join(frame.raw for frame in fed.feed(piece))
            assert fed.held <= limit
            passed += taken.take(piece)
            assert taken.held <= limit
            pieces += mixed.take(piece) if number % 3 else b"".join(frame.raw for frame in mixed.feed(piece))
            pieces += mixed.release() if number % 2 else b""
        assert frames + fed.release() == passed + taken.release() == pieces + mixed.release() == data
        fed.finish()
    except FrameError as error:
        refusal = error.message
    assert refusal in {"", f"a frame is larger than {limit} bytes", "the stream ended inside a frame"}


@pytest.mark.parametrize(
    "stream",
    [
        b'data: {"a":1}\n\ndata: [DONE]\n\n',
        b": note\r\nid: 1\r\nevent: e\r\ndata: a\r\ndata: b\r\n\r\n\r\ndata: c\r\n\r\n",
        b"data: a\r\rdata:b\r\r",
        BOM + b"data: first\r\ndata: second\n\r\n: comment\n\ndata\n\n",
        BOM + b"\ndata: after an empty line\n\n",
    ],
)
def test_the_framer_keeps_every_promise_of_a_framer(stream: bytes) -> None:
    check_framer(SseFramer, stream)


def test_three_line_feeds_end_a_frame_and_an_empty_one() -> None:
    assert [frame.raw for frame in SseFramer().feed(b"data: a\n\n\ndata: b\n\n")] == [
        b"data: a\n\n",
        b"\n",
        b"data: b\n\n",
    ]


def test_a_line_feed_cut_off_its_carriage_return_makes_no_frame() -> None:
    framer = SseFramer()
    assert [frame.raw for frame in framer.feed(b"data: a\r\n\r")] == [b"data: a\r\n\r"]
    assert framer.feed(b"\n") == []
    framer.finish()
    assert [frame.raw for frame in framer.feed(b"data: b\n\n")] == [b"\ndata: b\n\n"]


def test_take_gives_a_line_feed_cut_off_its_carriage_return_at_once() -> None:
    framer = SseFramer()
    assert framer.take(b"data: a\r\n\r") == b"data: a\r\n\r"
    assert framer.take(b"\nda") == b"\n"
    assert framer.held == 2
    assert framer.take(b"ta: b\r\n\r\n") == b"data: b\r\n\r\n"


def test_a_block_that_is_whole_is_given_as_the_very_same_object() -> None:
    framer = SseFramer()
    framer.take(b"data: a\n\n")
    for block in (b"data: b\n\ndata: c\n\n", b"data: d\r\n\r\n"):
        assert framer.take(block) is block


def test_a_whole_block_after_half_a_frame_is_not_given_alone() -> None:
    framer = SseFramer()
    assert framer.take(b"data: a\n\ndata: ") == b"data: a\n\n"
    assert framer.take(b"b\n\n") == b"data: b\n\n"
    assert framer.take(b"data: ") == b""
    assert framer.take(b"c\n\n") == b"data: c\n\n"
    assert framer.feed(b"data: ") == []
    assert framer.take(b"d\n\n") == b"data: d\n\n"


@pytest.mark.parametrize("end", [b"", b"\n", b": note\n"])
def test_a_stream_that_ends_before_the_empty_line_is_unfinished(end: bytes) -> None:
    framer = SseFramer()
    framer.take(b"data: a\n\ndata: b" + end)
    with pytest.raises(FrameError, match="ended inside a frame"):
        framer.finish()
    assert framer.release() == b"data: b" + end


def test_a_stream_of_nothing_or_a_byte_order_mark_is_finished() -> None:
    for stream in (b"", BOM):
        framer = SseFramer()
        framer.take(stream)
        framer.finish()
        assert framer.release() == stream
        assert not framer.inside


def test_a_released_frame_goes_on_in_pieces_until_it_ends() -> None:
    framer = SseFramer()
    assert framer.take(b"data: abc") == b""
    assert framer.release() == b"data: abc"
    assert framer.take(b"def\n") == b"def\n"
    assert framer.inside
    with pytest.raises(FrameError):
        framer.finish()
    assert framer.take(b"\ndata: x\n\ndata: ") == b"\ndata: x\n\n"
    assert (framer.inside, framer.held) == (False, 6)


def test_bytes_fed_after_a_release_are_taken_in_their_order() -> None:
    framer = SseFramer()
    framer.take(b"data: a")
    framer.release()
    assert framer.feed(b"b") == []
    assert framer.take(b"c") == b"bc"


def test_a_byte_order_mark_given_up_in_pieces_changes_nothing_after_it() -> None:
    framer = SseFramer()
    assert framer.take(BOM[:2]) == b""
    assert framer.release() == BOM[:2]
    assert framer.take(BOM[2:] + b"data: a\n\n") == BOM[2:] + b"data: a\n\n"
    assert not framer.inside


def test_bytes_that_begin_like_a_byte_order_mark_are_a_line() -> None:
    framer = SseFramer()
    assert framer.feed(BOM[:2]) == []
    assert [frame.raw for frame in framer.feed(b"\n\n")] == [BOM[:2] + b"\n\n"]


def test_a_second_byte_order_mark_is_part_of_a_line() -> None:
    frames = SseFramer().feed(BOM + b"data: a\n\n" + BOM + b"data: b\n\n")
    assert [frame.data for frame in frames] == [b"a", None]


def test_the_limit_is_for_one_frame_and_not_for_what_comes_at_once() -> None:
    frame = b"data: abc\n\n"
    for call in (SseFramer(len(frame)).feed, SseFramer(len(frame)).take):
        call(frame * 100)
    with pytest.raises(FrameError, match="larger than 10 bytes"):
        SseFramer(len(frame) - 1).take(frame)
    with pytest.raises(FrameError, match="larger than 10 bytes"):
        SseFramer(len(frame) - 1).feed(b"\n\n" + frame + b"\n\n")


def test_a_whole_block_with_a_frame_above_the_limit_is_refused_between_frames_too() -> None:
    framer = SseFramer(20)
    framer.take(b"data: a\n\n")
    with pytest.raises(FrameError, match="larger than 20 bytes"):
        framer.take(b"data: " + b"x" * 20 + b"\n\n")


def test_the_default_limit_is_four_mebibytes() -> None:
    framer = SseFramer()
    piece = b"x" * (64 * 1024)
    for _ in range(MAX_FRAME_BYTES // len(piece)):
        framer.take(piece)
    assert framer.held == 4 * 1024 * 1024
    with pytest.raises(FrameError, match="larger than 4194304 bytes"):
        framer.take(b"x")
    assert framer.held == 0


def test_a_frame_that_comes_in_many_pieces_is_not_copied_for_each() -> None:
    framer = SseFramer()
    framer.take(b"data: " + b"x" * (2 * 1024 * 1024))
    tracemalloc.start()
    for _ in range(1000):
        framer.take(b"x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 1024 * 1024  # one growth of the buffer at most, and no copy a call
    assert framer.take(b"\n\n").count(b"x") == 2 * 1024 * 1024 + 1000


def test_what_follows_the_last_frame_of_a_block_is_a_frame_too() -> None:
    assert split(b"") == []
    assert [frame.raw for frame in split(b"data: a\r\n\r\ndata: b")] == [b"data: a\r\n\r\n", b"data: b"]
