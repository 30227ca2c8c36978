import base64
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from bedrock_streams import by_botocore, error, event, exception, golden, messages_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts import check_cuts, cut, cuttings, frames_of, refusal_of
from tidegate.dialect.bedrock import InvokeFrame, InvokeFramer
from tidegate.testing.framers import check_framer
from tidegate.wire import Frame, Framed, FrameError, FramerOf
from tidegate.wire.eventstream import Message
from tidegate.wire.sse import SseFramer

ENOUGH = 1 << 30
NAMES = ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop"]  # fmt: skip


def fresh() -> FramerOf[Framed]:
    return InvokeFramer()


def chunk(data: bytes) -> Message:
    return event("chunk", {"bytes": base64.b64encode(data).decode(), "p": "abcdef"})


def taken(*pieces: bytes) -> list[Frame]:
    """Give the server-sent events that a client gets, read by a framer of such."""
    framer = fresh()
    return frames_of(SseFramer(), [framer.take(piece) for piece in pieces])


def members_of(frame: Framed) -> Any:
    assert frame.data is not None
    return json.loads(frame.data)


# --- what it converts ------------------------------------------------------------------------------------------------


def test_a_stream_becomes_anthropic_s_own_events_as_botocore_unpacks_them() -> None:
    frames = taken(golden("invoke"))
    unpacked = [item["chunk"]["bytes"] for item in by_botocore("InvokeModelWithResponseStream", golden("invoke"))]
    assert [frame.data for frame in frames] == unpacked
    assert [frame.event for frame in frames] == [name.encode() for name in NAMES]
    assert [members_of(frame)["type"] for frame in frames] == NAMES


def test_the_metrics_of_the_invocation_pass() -> None:
    metrics = members_of(taken(golden("invoke"))[-1])["amazon-bedrock-invocationMetrics"]
    assert (metrics["inputTokenCount"], metrics["outputTokenCount"]) == (10, 6)


@pytest.mark.parametrize("name", ["invoke", "invoke_throttled"])
def test_what_is_taken_does_not_depend_on_the_cuts(name: str) -> None:
    stream = golden(name)
    whole = fresh().take(stream)
    for at in range(len(stream) + 1):
        framer = fresh()
        assert framer.take(stream[:at]) + framer.take(stream[at:]) == whole
        assert (framer.held, framer.inside) == (0, False)
    framer = fresh()
    assert b"".join(framer.take(stream[at : at + 1]) for at in range(len(stream))) == whole


def test_an_event_is_taken_as_soon_as_its_message_is_whole() -> None:
    framer, messages = fresh(), messages_of("invoke")
    for name, message in zip(NAMES, messages, strict=True):
        assert framer.take(message[:-1]) == b""
        assert framer.held == len(message) - 1
        assert framer.take(message[-1:]).startswith(b"event: %b\ndata: {" % name.encode())


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("throttlingException", "rate_limit_error"),
        ("serviceUnavailableException", "overloaded_error"),
        ("validationException", "invalid_request_error"),
        ("internalServerException", "api_error"),
        ("modelStreamErrorException", "api_error"),
        ("modelTimeoutException", "api_error"),
        ("strangeException", "api_error"),
    ],
)
def test_an_exception_becomes_an_error_event(kind: str, word: str) -> None:
    (frame,) = taken(exception(kind, {"message": "No\ntide."}).raw)
    assert frame.event == b"error"
    assert members_of(frame) == {"type": "error", "error": {"type": word, "message": "No\ntide."}}


def test_an_error_that_is_not_modelled_becomes_an_error_event() -> None:
    (frame,) = taken(error("InternalFailure", "Broken.").raw)
    assert members_of(frame) == {"type": "error", "error": {"type": "api_error", "message": "Broken."}}


def test_line_ends_in_an_event_and_its_name_break_no_frame() -> None:
    (frame,) = taken(chunk(b'{\r\n  "type":\n"ping\\n\\r"\r}').raw)
    assert frame.event == b"ping  "
    assert members_of(frame) == {"type": "ping\n\r"}


def test_messages_without_an_event_are_passed_over() -> None:
    silent = [event("initial-response", {}), event("chunk", {}), event("chunk", {"bytes": None})]
    assert [InvokeFrame(message.raw).data for message in silent] == [None, None, None]
    assert taken(*(message.raw for message in silent)) == []


@pytest.mark.parametrize(
    "message",
    [event("chunk", b"no JSON"), event("chunk", {"bytes": "!"}), event("chunk", {"bytes": 5}), event("chunk", [])],
)
def test_a_chunk_that_cannot_be_read_is_refused(message: Message) -> None:
    with pytest.raises(FrameError, match="a chunk of the stream cannot be read"):
        fresh().take(message.raw)
    with pytest.raises(FrameError, match="a chunk of the stream cannot be read"):
        _ = fresh().feed(message.raw)[0].data


@pytest.mark.parametrize("data", [b"", b"no JSON", b"{}", b'{"type":5}', b"[]", b'{"type":"\xff"}'])
def test_an_event_without_a_name_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError, match="has no type"):
        fresh().take(chunk(data).raw)


# --- what it promises as a framer ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=30), max_size=4), cuttings)
def test_what_is_fed_is_cut_and_given_as_by_any_framer(said: list[bytes], cuts: list[int]) -> None:
    check_cuts(InvokeFramer, b"".join(chunk(data).raw for data in said), cuts, said)


@settings(deadline=None, max_examples=60)
@given(
    st.binary(max_size=200)
    | st.lists(st.binary(max_size=30).map(lambda said: chunk(said).raw), max_size=3).map(b"".join),
    cuttings,
    st.integers(16, 200),
)
def test_no_bytes_do_more_than_be_refused_and_none_above_the_limit_are_kept(
    data: bytes, cuts: list[int], limit: int
) -> None:
    called: Callable[[InvokeFramer, bytes], object]
    for called in (InvokeFramer.feed, InvokeFramer.take):
        framer = InvokeFramer(limit)
        with suppress(FrameError):
            for piece in cut(data, cuts):
                called(framer, piece)
                assert framer.held <= limit
            framer.finish()
        assert framer.held <= limit


@settings(deadline=None, max_examples=40)
@given(cuttings, st.integers(0, 5))
def test_a_stream_that_was_looked_at_is_given_whole_to_another_framer(cuts: list[int], seen: int) -> None:
    """What an opening does: it feeds, keeps the bytes as they came, releases, and a fresh framer takes them."""
    pieces = cut(golden("invoke"), cuts)
    looking, kept = fresh(), b""
    for piece in pieces[:seen]:
        kept += b"".join(frame.raw for frame in looking.feed(piece))
    kept += looking.release()
    framer = fresh()
    assert framer.take(kept) + b"".join(framer.take(piece) for piece in pieces[seen:]) == fresh().take(golden("invoke"))


def test_what_is_held_for_a_client_is_not_released_as_it_stands() -> None:
    framer, stream = fresh(), golden("invoke")
    first = framer.take(stream[:1500])
    held = framer.held
    assert held
    assert framer.release() == b""
    assert (framer.held, framer.inside) == (held, False)
    assert first + framer.take(stream[1500:]) == fresh().take(stream)


def test_what_was_only_looked_at_is_released_as_it_came() -> None:
    framer, stream = fresh(), golden("invoke")
    fed = b"".join(frame.raw for frame in framer.feed(stream[:1500]))
    assert fed + framer.release() == stream[:1500]
    assert (framer.held, framer.inside) == (0, True)


def test_the_end_inside_a_message_is_told_from_a_finished_stream() -> None:
    framer = fresh()
    framer.feed(golden("invoke"))
    assert framer.finish() == ()
    framer.feed(golden("invoke")[:20])
    with pytest.raises(FrameError, match="ended inside a frame"):
        framer.finish()


def test_a_message_above_the_limit_is_refused_however_it_is_cut() -> None:
    message = chunk(b'{"type":"ping"}').raw
    size = len(message)
    for cuts in ([], [size // 2], list(range(size))):
        assert refusal_of(InvokeFramer, message, cuts, size - 1) == f"a frame is larger than {size - 1} bytes"
    assert taken(message)[0].event == b"ping"


def test_a_converting_framer_breaks_one_promise_of_a_framer_and_says_so() -> None:
    with pytest.raises(AssertionError, match="take passes bytes as they came"):
        check_framer(InvokeFramer, golden("invoke"))


def test_a_wrong_checksum_is_refused() -> None:
    stream = bytearray(golden("invoke"))
    stream[100] ^= 1
    with pytest.raises(FrameError, match="checksum"):
        fresh().take(bytes(stream))
