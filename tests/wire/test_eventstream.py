import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts import ENOUGH, check_cuts, check_take, cut, cuttings, frames_of, refusal_of, take_all
from tidegate.testing.framers import check_framer
from tidegate.wire import FrameError
from tidegate.wire.eventstream import MAX_MESSAGE_BYTES, EventStreamFramer, Message, Value, encode

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DELTA = encode(
    {":event-type": "contentBlockDelta", ":content-type": "application/json", ":message-type": "event"},
    '{"contentBlockIndex":0,"delta":{"text":"\u6f6e \U0001f30a"}}'.encode(),
)

times = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)).map(  # noqa: DTZ001 (hypothesis wants them so)
    lambda instant: instant.replace(microsecond=instant.microsecond // 1000 * 1000)
)
header_values: st.SearchStrategy[Value] = st.one_of(
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.sampled_from([-129, -128, 127, 128, -32769, 32767, 32768, -(1 << 31) - 1, 1 << 31, -(1 << 63)]),
    st.binary(max_size=20),
    st.text(max_size=10),
    times,
    st.uuids(),
)
header_sets = st.dictionaries(st.text(min_size=1, max_size=10), header_values, max_size=4)
messages = st.builds(encode, header_sets, st.binary(max_size=40))


def message(block: bytes, payload: bytes = b"") -> bytes:
    """Write a message whose block of headers is whatever is handed in."""
    lengths = (16 + len(block) + len(payload)).to_bytes(4) + len(block).to_bytes(4)
    head = lengths + zlib.crc32(lengths).to_bytes(4) + block + payload
    return head + zlib.crc32(head).to_bytes(4)


def prelude(size: int, headers: int) -> bytes:
    lengths = size.to_bytes(4) + headers.to_bytes(4)
    return lengths + zlib.crc32(lengths).to_bytes(4)


def plain(value: Value) -> object:
    """Give a value as botocore gives it: times in milliseconds, and UUIDs as bytes."""
    if isinstance(value, datetime):
        return (value - EPOCH) // timedelta(milliseconds=1)
    return value.bytes if isinstance(value, UUID) else value


def by_botocore(stream: bytes) -> list[tuple[Mapping[str, object], bytes]]:
    buffer = EventStreamBuffer()
    buffer.add_data(stream)
    return [(found.headers, found.payload) for found in buffer]


@settings(deadline=None)
@given(st.lists(messages, max_size=5), cuttings)
def test_any_cut_of_any_messages_gives_what_botocore_reads(stream: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(stream)
    expected = by_botocore(whole)
    check_cuts(EventStreamFramer, whole, cuts, [payload for _, payload in expected])
    frames = frames_of(EventStreamFramer(), cut(whole, cuts))
    assert [{name: plain(value) for name, value in frame.headers.items()} for frame in frames] == [
        headers for headers, _ in expected
    ]
    assert [frame.raw for frame in frames] == stream


@settings(deadline=None)
@given(st.lists(messages, max_size=5), cuttings)
def test_take_passes_whole_messages_and_holds_the_rest(stream: list[bytes], cuts: list[int]) -> None:
    check_take(EventStreamFramer, b"".join(stream), cuts)


@given(header_sets, st.binary(max_size=40))
def test_what_is_written_is_read_with_its_types(headers: Mapping[str, Value], payload: bytes) -> None:
    (frame,) = EventStreamFramer().feed(encode(headers, payload))
    assert frame.headers == headers
    assert {name: type(value) for name, value in frame.headers.items()} == {
        name: type(value) for name, value in headers.items()
    }
    assert frame.data == payload


@settings(deadline=None)
@given(
    st.binary(max_size=200) | st.builds(bytes.__add__, messages, st.binary(max_size=20)), cuttings, st.integers(1, 64)
)
def test_no_bytes_do_more_than_be_refused_and_none_above_the_limit_are_kept(
    data: bytes, cuts: list[int], limit: int
) -> None:
    assert refusal_of(EventStreamFramer, data, cuts, limit) in {
        "",
        f"a frame is larger than {limit} bytes",
        "the checksum of a message's lengths is wrong",
        "a message is shorter than what it has to hold",
        "the checksum of a message is wrong",
        "the stream ended inside a frame",
    }


@pytest.mark.parametrize(
    "stream", [DELTA, encode({}, b"") + DELTA + encode({"a": True}, b"{}"), encode({}, b"x") + encode({"b": 1}, b"")]
)
def test_the_framer_keeps_every_promise_of_a_framer(stream: bytes) -> None:
    check_framer(EventStreamFramer, stream)


def test_published_messages_are_read_and_written() -> None:
    empty = bytes.fromhex("00000010 00000000 05c248eb 7d98c8ff")
    assert encode({}, b"") == empty
    (frame,) = EventStreamFramer().feed(
        b"\x00\x00\x00+\x00\x00\x00\x0e4\x8b\xec{\x08event-id\x04\x00\x00\xa0\x0c{'foo':'bar'}\xd3\x89\x02\x85"
    )
    assert (frame.headers, frame.data) == ({"event-id": 40972}, b"{'foo':'bar'}")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (b"\0", True),
        (b"\1", False),
        (b"\2\xff", -1),
        (b"\2\x7f", 127),
        (b"\3\x80\0", -32768),
        (b"\4\0\1\0\0", 65536),
        (b"\5\x80\0\0\0\0\0\0\0", -(1 << 63)),
        (b"\6\0\2\xff\0", b"\xff\0"),
        (b"\7\0\3\xe6\xbd\xae", "\u6f6e"),
        (b"\x08\0\0\0\0\0\0\x03\xe9", EPOCH + timedelta(milliseconds=1001)),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff", EPOCH - timedelta(milliseconds=1)),
        (b"\x09" + bytes(range(16)), UUID("00010203-0405-0607-0809-0a0b0c0d0e0f")),
    ],
)
def test_each_of_the_ten_types_is_a_type_of_ours(written: bytes, value: Value) -> None:
    raw = message(b"\4name" + written)
    (found,) = Message(raw).headers.values()
    assert (found, type(found)) == (value, type(value))
    assert encode({"name": value}, b"") == raw


def test_integers_are_read_in_any_width() -> None:
    block = b"\1a\2\1\1b\3\0\1\1c\4\0\0\0\1\1d\5\0\0\0\0\0\0\0\1"
    assert Message(message(block)).headers == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_headers_say_what_a_message_is() -> None:
    exception = encode(
        {
            ":exception-type": "throttlingException",
            ":content-type": "application/json",
            ":message-type": "exception",
        },
        b'{"message":"slow down"}',
    )
    error = encode({":message-type": "error", ":error-code": "internal", ":error-message": "it broke"}, b"")
    frames = EventStreamFramer().feed(DELTA + exception + error)
    assert [frame.headers[":message-type"] for frame in frames] == ["event", "exception", "error"]
    assert frames[0].headers[":event-type"] == "contentBlockDelta"
    assert (frames[1].headers[":exception-type"], frames[1].data) == (
        "throttlingException",
        b'{"message":"slow down"}',
    )
    assert (frames[2].headers[":error-code"], frames[2].headers[":error-message"]) == ("internal", "it broke")
    assert frames[2].data == b""


def test_a_message_with_any_byte_changed_is_refused() -> None:
    for at in range(len(DELTA)):
        changed = bytearray(DELTA)
        changed[at] ^= 0x10
        for pieces in ([bytes(changed)], [bytes(changed[:at]), bytes(changed[at:])]):
            with pytest.raises(FrameError, match="checksum"):
                frames_of(EventStreamFramer(), pieces)


def test_a_released_message_is_checked_to_its_end() -> None:
    broken = DELTA[:-1] + bytes((DELTA[-1] ^ 1,))
    for at in range(1, len(DELTA)):
        for stream, refused in ((DELTA, False), (broken, True)):
            framer = EventStreamFramer()
            framer.take(stream[:at])
            assert framer.release() == stream[:at]
            assert framer.inside
            if refused:
                with pytest.raises(FrameError, match="checksum of a message is wrong"):
                    framer.take(stream[at:])
            else:
                assert framer.take(stream[at:]) == stream[at:]
                assert not framer.inside


@pytest.mark.parametrize(
    ("size", "headers", "why"),
    [
        (0, 0, "shorter"),
        (15, 0, "shorter"),
        (16, 1, "shorter"),
        (100, 85, "shorter"),
        (100, 0xFFFFFFFF, "shorter"),
        (MAX_MESSAGE_BYTES + 1, 0, "larger than 16777216 bytes"),
        (0xFFFFFFFF, 0, "larger than 16777216 bytes"),
    ],
)
def test_a_length_that_cannot_be_is_refused_when_it_is_read(size: int, headers: int, why: str) -> None:
    for pieces in ([prelude(size, headers)], cut(prelude(size, headers), [4, 11])):
        framer = EventStreamFramer()
        with pytest.raises(FrameError, match=why):
            take_all(framer, pieces)
        assert framer.held == 0


def test_what_is_no_event_stream_is_refused_after_twelve_bytes() -> None:
    with pytest.raises(FrameError, match="lengths is wrong"):
        EventStreamFramer().take(b"HTTP/1.1 200")


@pytest.mark.parametrize("size", [MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES + 1])
def test_the_default_limit_is_sixteen_mebibytes(size: int) -> None:
    payload = bytes(size - 16)
    if size > MAX_MESSAGE_BYTES:
        with pytest.raises(FrameError, match="larger than 16777216 bytes"):
            encode({}, payload)
    else:
        stream = encode({}, payload)
        framer = EventStreamFramer()
        frames = frames_of(framer, [stream[at : at + (1 << 20)] for at in range(0, size, 1 << 20)])
        assert [len(frame.data) for frame in frames] == [len(payload)]


@pytest.mark.parametrize("at", [1, 11, 12, 13, len(DELTA) - 4, len(DELTA) - 1])
def test_a_stream_that_ends_inside_a_message_is_unfinished(at: int) -> None:
    framer = EventStreamFramer()
    framer.take(DELTA + DELTA[:at])
    with pytest.raises(FrameError, match="ended inside a frame"):
        framer.finish()
    assert framer.release() == DELTA[:at]


@pytest.mark.parametrize(
    "block",
    [
        b"\4nam",
        b"\4name",
        b"\4name\2",
        b"\4name\5\0\0",
        b"\4name\7",
        b"\4name\7\0",
        b"\4name\7\0\5four",
        b"\4name\6\xff\xff",
        b"\4name\x09" + bytes(15),
        b"\4name\x0a",
        b"\4name\xff\0",
        b"\0\0",
        b"\2\xff\xfe\0",
        b"\4name\7\0\1\xff",
        b"\4name\x08\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\4name\x08\x80\0\0\0\0\0\0\0",
    ],
)
def test_headers_that_cannot_be_read_are_refused_when_they_are_asked_for(block: bytes) -> None:
    (frame,) = EventStreamFramer().feed(message(block, b"{}"))
    assert frame.data == b"{}"
    with pytest.raises(FrameError, match="header of a message cannot be read"):
        _ = frame.headers


def test_a_header_that_comes_twice_is_refused() -> None:
    with pytest.raises(FrameError, match=":event-type twice"):
        _ = Message(message(b"\x0b:event-type\0\x0b:event-type\1")).headers


@given(st.binary(max_size=60))
def test_any_block_of_headers_is_read_or_refused(block: bytes) -> None:
    try:
        headers = Message(message(block)).headers
    except FrameError:
        return
    assert all(headers)
    assert Message(encode(headers, b"")).headers == headers


@pytest.mark.parametrize(
    ("name", "value"),
    [("n" * 256, True), ("n", "v" * 65536), ("n", b"v" * 65536), ("n", 1 << 63), ("\u6f6e" * 86, 1)],
)
def test_a_header_too_large_for_its_length_is_not_written(name: str, value: Value) -> None:
    with pytest.raises(FrameError, match=f"header {name[:64]} is too large"):
        encode({name: value}, b"")


def test_the_rest_of_a_released_message_has_data_and_no_readable_headers() -> None:
    framer = EventStreamFramer(ENOUGH)
    framer.take(DELTA[:50])
    framer.release()
    (rest,) = framer.feed(DELTA[50:])
    assert rest.raw == DELTA[50:]
    assert isinstance(rest.data, bytes)
