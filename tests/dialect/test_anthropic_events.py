import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from conversing import check_grammar, event_streams, joined
from tidegate.dialect import Dialect, ProviderError
from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.anthropic.encoder import MAX_WAITING_BYTES
from tidegate.dialect.anthropic.events import MAX_CALLS, MAX_OPEN_BLOCKS
from tidegate.dialect.events import (
    Done,
    Event,
    Failed,
    Finished,
    Origin,
    Reasoning,
    Refusal,
    Sealed,
    Started,
    Text,
    ToolArguments,
    ToolCallEnded,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.exchange import Ask, Usage
from tidegate.wire import Frame, FrameError
from tidegate.wire.sse import SseFramer

DIALECT: Dialect = Anthropic()
GOLDEN = Path(__file__).parents[1] / "golden" / "anthropic"
STREAMS = sorted(path.name for path in GOLDEN.glob("*.sse"))
ASK = Ask(model="m", stream=True, wants_usage=True, body=b"")
ORIGIN = Origin("req_1", "claude", 7, "openai_chat")
OWN = Origin("req_1", "claude", 7, "anthropic")
LACKS = ("Started.created", "Refusal", "Sealed.id", "ToolCallStarted.signature")
PICKED: list[Event] = [
    ToolCallStarted(0, 0, "a", "tide"),
    ToolArguments(0, 0, "{}"),
    ToolCallEnded(0, 0),
    ToolCallStarted(0, 1, "b", "now"),
    ToolArguments(0, 1, '{"a"'),
    ToolArguments(0, 1, ":1}"),
    ToolCallEnded(0, 1),
]


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def frames_of(data: bytes) -> list[Frame]:
    framer = SseFramer()
    frames = framer.feed(data)
    framer.finish()
    return list(frames)


def read(*pieces: bytes) -> list[Event]:
    framer, decoder = SseFramer(), DIALECT.decoder(ASK)
    return [event for piece in pieces for frame in framer.feed(piece) for event in decoder.feed(frame)]


def frame_of(kind: str, **members: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **members}).encode())


START = frame_of("message_start", message={"id": "msg_1", "model": "m"})
STARTED = Started("msg_1", "m")


def block(index: Any, **content: Any) -> bytes:
    return frame_of("content_block_start", index=index, content_block=content)


def delta(index: Any, **content: Any) -> bytes:
    return frame_of("content_block_delta", index=index, delta=content)


def said(*frames: bytes) -> list[Event]:
    """Give the events of frames, without the stream's first."""
    events = read(START, *frames)
    assert events[0] == STARTED
    return events[1:]


def written(*events: Event, origin: Origin = ORIGIN) -> list[dict[str, Any]]:
    frames = frames_of(DIALECT.encoder(ASK, origin).write([Started("m1", "m"), *events]))
    read_ = [(frame.event, json.loads(frame.data or b"")) for frame in frames]
    assert all(event == value["type"].encode() for event, value in read_)
    return [value for _, value in read_]


def blocks(*events: Event, origin: Origin = ORIGIN) -> list[tuple[Any, ...]]:
    """Give the blocks that say it: kind, number, and pieces; checking that one is open at a time."""
    found: list[tuple[Any, ...]] = []
    opened: int | None = None
    for value in written(*events, origin=origin)[1:]:
        match value["type"]:
            case "content_block_start":
                assert opened is None
                opened = value["index"]
                assert opened == len(found)
                found.append((value["content_block"],))
            case "content_block_delta":
                assert value["index"] == opened
                found[-1] += (next(text for name, text in value["delta"].items() if name != "type"),)
            case "content_block_stop":
                assert value["index"] == opened
                opened = None
    return found


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_reads_the_same_wherever_it_is_cut(name: str) -> None:
    stream = golden(name)
    whole = read(stream)
    if name != "length.sse":  # whose arguments are cut off, and no JSON
        check_grammar(whole)
    assert read(*(stream[at : at + 1] for at in range(len(stream)))) == whole
    assert all(read(stream[:at], stream[at:]) == whole for at in range(0, len(stream), 3))


def test_text_is_read_with_usage_that_replaces() -> None:
    assert read(golden("text.sse")) == [
        Started("msg_01XFDUDYJgAACzvnptvVoYEL", "claude-sonnet-4-5-20250929"),
        UsageSeen(Usage(25, 1)),
        Text(0, "Hello"),
        Text(0, " “wörld” 🌊"),
        Text(0, '! "error" message_stop'),
        UsageSeen(Usage(25, 15)),
        Finished(0, "stop"),
        Done(),
    ]


def test_line_ends_do_not_matter() -> None:
    assert read(golden("text_crlf.sse")) == read(golden("text.sse"))


def test_thoughts_are_read_with_their_signatures_and_sealed_ones() -> None:
    events = read(golden("thinking.sse"))
    assert events[2:6] == [
        Reasoning(0, "The tide"),
        Reasoning(0, " turns 🌊."),
        Reasoning(0, "", "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds"),
        Sealed(0, "EmwKAhgBEgy3va3pzix/LafPsn4aDFIT2Xlxh0L5L8rLVyIwxtE3rAFBa8cr3qpP"),
    ]
    assert events[-3] == UsageSeen(Usage(139, 87, cached_tokens=100, reasoning_tokens=60, cache_write_tokens=30))


def test_a_thought_that_is_not_shown_keeps_its_signature() -> None:
    assert read(golden("omitted.sse"))[2:4] == [Reasoning(0, "", "Eo8C"), Text(0, "Hi")]


def test_calls_are_read_in_pieces_and_without_arguments() -> None:
    calls = [event for event in read(golden("tools.sse")) if getattr(event, "call", -1) >= 0]
    assert calls == [
        ToolCallStarted(0, 0, "toolu_01T1x1fJ34qAmk2tNTrN7Up6", "get_tide"),
        ToolArguments(0, 0, '{"location":'),
        ToolArguments(0, 0, ' "Saint-M'),
        ToolArguments(0, 0, 'alo 🇫🇷"}'),
        ToolCallEnded(0, 0),
        ToolCallStarted(0, 1, "toolu_02", "now"),
        ToolArguments(0, 1, "{}"),
        ToolCallEnded(0, 1),
        ToolCallStarted(0, 2, "toolu_03", "get_tide"),
        ToolArguments(0, 2, "{}"),
        ToolCallEnded(0, 2),
    ]


def test_a_refusal_says_why() -> None:
    why = Refusal(0, "This request is against the usage policy.")
    assert read(golden("refusal.sse"))[-3:] == [why, Finished(0, "content_filter"), Done()]


def test_an_error_in_mid_stream_fails_it() -> None:
    error = ProviderError("Overloaded", "overloaded_error", status=529)
    assert read(golden("error.sse"))[-2:] == [Text(0, "Hel"), Failed(error)]


def test_what_the_provider_s_own_tools_say_is_left_out() -> None:
    events = read(golden("server_tools.sse"))
    assert [event for event in events if not isinstance(event, UsageSeen)][1:] == [
        Text(0, "Searching."),
        Text(0, "High."),
        Finished(0, "stop"),
        Done(),
    ]


def test_a_message_finishes_once_though_its_server_repeats_it() -> None:
    events = read(golden("length.sse"))
    assert [event for event in events if isinstance(event, Finished)] == [Finished(0, "length")]
    assert events[-2:] == [UsageSeen(Usage(25, 5)), Done()]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("rate_limit_error", 429),
        ("api_error", 500),
        ("overloaded_error", 529),
        ("new_error", 0),
        ("timeout_error", 504),
    ],
)
def test_an_error_stands_for_a_status(kind: str, status: int) -> None:
    frame = frame_of("error", error={"type": kind, "message": "no"})
    assert read(frame) == [Failed(ProviderError("no", kind, status=status))]


@pytest.mark.parametrize(
    ("error", "message"),
    [("broken", "broken"), (None, "the provider does not say why"), ({"a": 1}, '{"a": 1}'), ({"message": [1]}, "[1]")],
)
def test_an_error_of_any_shape_has_a_message(error: Any, message: str) -> None:
    assert read(frame_of("error", error=error)) == [Failed(ProviderError(message))]


def test_an_error_without_its_event_s_name_is_one() -> None:
    assert read(b'data: {"error": {"message": "no"}}\n\n') == [Failed(ProviderError("no"))]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "pause_turn"),
    ],
)
def test_reasons_are_taken_by_table_or_verbatim(reason: str, expected: str) -> None:
    assert said(frame_of("message_delta", delta={"stop_reason": reason})) == [Finished(0, expected)]


def test_the_stop_sequence_that_was_met_is_told() -> None:
    met = {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    assert said(frame_of("message_delta", delta=met)) == [Finished(0, "stop", "END")]
    assert said(frame_of("message_delta", delta=met | {"stop_reason": "end_turn"})) == [Finished(0, "stop")]
    assert said(frame_of("message_delta", delta=met | {"stop_sequence": 7})) == [Finished(0, "stop")]
    assert written(Text(0, "a"), Finished(0, "stop", "END"), Done())[-2]["delta"] == met
    body = DIALECT.write_answer([Started("m"), Text(0, "a"), Finished(0, "stop", "END"), Done()], ASK, ORIGIN)
    assert {name: json.loads(body)[name] for name in met} == met
    assert Finished(0, "stop", "END") in DIALECT.read_answer(body)


def test_a_message_that_ends_without_a_reason_has_the_usual_one() -> None:
    assert said(frame_of("message_stop")) == [Finished(0, "stop"), Done()]
    call = block(0, type="tool_use", id="a", name="now")
    ends = [ToolArguments(0, 0, "{}"), ToolCallEnded(0, 0), Finished(0, "tool_calls"), Done()]
    assert said(call, frame_of("message_stop")) == [ToolCallStarted(0, 0, "a", "now"), *ends]


def test_what_a_block_begins_with_is_said() -> None:
    thought = block(1, type="thinking", thinking="a", signature="s")
    call = block(2, type="tool_use", name="now", input={"a": 1})
    ends = [frame_of("content_block_stop", index=number) for number in (0, 1, 2)]
    assert said(block(0, type="text", text="x"), ends[0], thought, ends[1], call, ends[2]) == [
        Text(0, "x"),
        Reasoning(0, "a"),
        Reasoning(0, "", "s"),
        ToolCallStarted(0, 0, "toolu_msg_1_0", "now"),
        ToolArguments(0, 0, '{"a":1}'),
        ToolCallEnded(0, 0),
    ]


def test_a_call_in_the_place_of_another_ends_it() -> None:
    calls = [block(None, type="tool_use", id=ident, name="now") for ident in "ab"]
    assert said(*calls)[1:3] == [ToolArguments(0, 0, "{}"), ToolCallEnded(0, 0)]


def test_a_stream_without_its_first_frame_is_started_all_the_same() -> None:
    assert read(delta(0, type="text_delta", text="a"), delta(0, type="text_delta", text="b")) == [
        Started(),
        Text(0, "a"),
        Text(0, "b"),
    ]


@pytest.mark.parametrize(
    "frame",
    [
        b": comment\n\n",
        b'event: ping\ndata: {"type": "ping"}\n\n',
        b"data: {}\n\n",
        b'data: {"type": 7}\n\n',
        frame_of("content_block_delta", index=0, delta="x"),
        frame_of("content_block_delta", index=0),
        delta(0, type="text_delta", text=7),
        delta(0, type="text_delta", text=""),
        delta(0, type="thinking_delta", thinking=""),
        delta(0, type="signature_delta", signature=None),
        delta(9, type="input_json_delta", partial_json="{}"),
        delta(0, type="new_delta"),
        frame_of("content_block_start", index=0, content_block=None),
        block(0, type="thinking", thinking=None, signature=None),
        block(0, type="redacted_thinking"),
        block(0, type="text", text=""),
        frame_of("content_block_stop", index="x"),
        frame_of("message_delta", delta=None, usage=None),
        frame_of("message_delta", delta={"stop_reason": None}, usage={}),
    ],
)
def test_what_says_nothing_is_no_event(frame: bytes) -> None:
    assert not said(frame)
    assert not said(frame, frame_of("content_block_stop", index=0))


def test_a_thought_takes_no_arguments() -> None:
    assert not said(block(0, type="thinking"), delta(0, type="input_json_delta", partial_json="{}"))


def test_a_message_of_an_unexpected_shape_is_a_message() -> None:
    assert read(frame_of("message_start", message=[])) == [Started()]


@pytest.mark.parametrize("data", [b"data: x\n\n", b"data: []\n\n", b"data: " + b"[" * 9999 + b"\n\n"])
def test_what_is_no_object_cannot_be_read(data: bytes) -> None:
    with pytest.raises(FrameError):
        read(data)


def test_calls_are_limited() -> None:
    frames = [block(0, type="tool_use", id="a", name="now"), frame_of("content_block_stop", index=0)]
    said(*frames * MAX_CALLS)
    with pytest.raises(FrameError, match=r"more than 1024 calls"):
        said(*frames * MAX_CALLS, frames[0])


def test_open_blocks_are_limited() -> None:
    frames = [block(number, type="thinking") for number in range(MAX_OPEN_BLOCKS + 1)]
    said(*frames[:-1])
    with pytest.raises(FrameError, match=r"more than 64 blocks"):
        said(*frames)


def test_nothing_stands_in_for_the_last_frame() -> None:
    decoder = DIALECT.decoder(ASK)
    for frame in frames_of(golden("text.sse"))[:-1]:
        decoder.feed(frame)
    assert not decoder.finish()


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_message_is_written_whole() -> None:
    usage = Usage(10, 7, cached_tokens=4, reasoning_tokens=2, cache_write_tokens=1)
    counts = {"input_tokens": 5, "cache_creation_input_tokens": 1, "cache_read_input_tokens": 4, "output_tokens": 7}
    frames = written(Text(0, "a"), Text(0, "b"), Finished(0, "stop"), UsageSeen(usage), Done())
    assert frames == [
        {
            "type": "message_start",
            "message": {
                "id": "m1",
                "type": "message",
                "role": "assistant",
                "model": "m",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": dict.fromkeys(counts, 0),
            },
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "b"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": counts | {"output_tokens_details": {"thinking_tokens": 2}},
        },
        {"type": "message_stop"},
    ]


def test_the_first_frame_says_what_is_known_of_usage() -> None:
    assert written(UsageSeen(Usage(9, 1)), Text(0, "a"))[0]["message"]["usage"]["input_tokens"] == 9


def test_who_does_not_say_who_it_is_answers_for_the_gateway() -> None:
    encoder = DIALECT.encoder(ASK, ORIGIN)
    first = json.loads(frames_of(encoder.write([Started()]))[0].data or b"")
    assert (first["message"]["id"], first["message"]["model"]) == ("req_1", "claude")
    assert encoder.write([UsageSeen(Usage(1, 1)), Finished(0, "stop")]) == b""


def test_thoughts_have_blocks_that_their_signatures_end() -> None:
    events: list[Event] = [
        Reasoning(0, "a"),
        Reasoning(0, "b", "s"),
        Reasoning(0, "", "t"),
        Sealed(0, "d"),
        Text(0, "x"),
    ]
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    expected = [
        (thinking, "a", "b", "s"),
        (thinking, "t"),
        ({"type": "redacted_thinking", "data": "d"},),
        ({"type": "text", "text": ""}, "x"),
    ]
    assert blocks(*events, Done(), origin=OWN) == expected


def test_another_s_signatures_are_marked() -> None:
    events: list[Event] = [Reasoning(0, "a", "s"), Sealed(0, "d", "i"), ToolCallStarted(0, 0, "c", "now", "g")]
    found = blocks(*events)
    assert found[0][-1] == "tidegate:openai_chat:s"
    assert found[1][0]["data"] == 'tidegate:openai_chat:{"sealed":"d","id":"i"}'
    assert found[2][0] == {"type": "redacted_thinking", "data": 'tidegate:openai_chat:{"call":"c","signature":"g"}'}
    assert found[3][0]["type"] == "tool_use"


def test_a_refusal_is_text_and_the_reason_to_stop() -> None:
    frames = written(Refusal(0, "I won't."), Finished(0, "stop"), Done())
    assert frames[2]["delta"] == {"type": "text_delta", "text": "I won't."}
    assert frames[-2]["delta"]["stop_reason"] == "refusal"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("content_filter", "refusal"),
        ("pause_turn", "pause_turn"),
    ],
)
def test_reasons_are_written_in_the_client_s_words(reason: str, expected: str) -> None:
    assert written(Finished(0, reason), Done())[-2]["delta"]["stop_reason"] == expected


def test_calls_that_take_turns_are_put_in_order() -> None:
    order = [0, 3, 4, 1, 2, 5, 6]
    found = blocks(*(PICKED[number] for number in order), Done())
    assert [(first["id"], *pieces) for first, *pieces in found] == [("a", "{}"), ("b", '{"a"', ":1}")]


def test_what_ends_while_it_waits_is_ended_in_its_turn() -> None:
    order = [0, 3, 4, 5, 6, 1, 2]
    found = blocks(*(PICKED[number] for number in order), Text(0, "after"), Done())
    assert [first["type"] for first, *_ in found] == ["tool_use", "tool_use", "text"]
    assert found[1][1:] == ('{"a"', ":1}")


def test_text_waits_for_the_end_of_a_call() -> None:
    events: list[Event] = [PICKED[0], Text(0, "x"), Reasoning(0, "y"), PICKED[3], PICKED[1], *PICKED[4:6], PICKED[2]]
    assert [first["type"] for first, *_ in blocks(*events)] == ["tool_use", "text", "thinking", "tool_use"]
    assert blocks(*events)[-1][1:] == ('{"a"', ":1}")


def test_what_waits_is_limited() -> None:
    encoder = DIALECT.encoder(ASK, ORIGIN)
    encoder.write([STARTED, PICKED[0], PICKED[3]])
    piece = ToolArguments(0, 1, "x" * 1024)
    pieces = MAX_WAITING_BYTES // (1024 + 128) - 1
    encoder.write([piece] * pieces)
    with pytest.raises(FrameError, match="would wait"):
        encoder.write([piece, piece])


def test_what_has_waited_counts_no_more() -> None:
    encoder = DIALECT.encoder(ASK, ORIGIN)
    piece = "x" * (MAX_WAITING_BYTES // 2)
    encoder.write([STARTED, PICKED[0]])
    for call in range(1, 9):
        later: list[Event] = [ToolCallStarted(0, call, f"c{call}", "now"), ToolArguments(0, call, piece)]
        assert len(encoder.write([*later, ToolCallEnded(0, call - 1)])) > len(piece)


def test_many_calls_that_wait_are_written_in_one_pass() -> None:
    starts: list[Event] = [ToolCallStarted(0, call, f"c{call}", "now") for call in range(1000)]
    pieces: list[Event] = [ToolArguments(0, call, "{}") for call in range(1000)]
    ends: list[Event] = [ToolCallEnded(0, call) for call in range(1000)]
    found = blocks(*starts, *pieces, *reversed(ends), Done())
    assert [(first["id"], *pieces) for first, *pieces in found] == [(f"c{call}", "{}") for call in range(1000)]


def test_a_failure_is_an_error_event_in_the_client_s_words() -> None:
    frames = written(Text(0, "a"), Failed(ProviderError("no", "server_error", "idle_timeout", status=503)))
    assert frames[-1] == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "no", "code": "idle_timeout"},
    }
    assert [frame["type"] for frame in frames].count("message_stop") == 0


def test_a_failure_before_anything_else_comes_after_the_first_frame() -> None:
    assert [frame["type"] for frame in written(Failed(ProviderError("no")))] == ["message_start", "error"]


def test_half_a_surrogate_pair_is_written_as_an_escape() -> None:
    written_ = DIALECT.encoder(ASK, ORIGIN).write([STARTED, Text(0, "\ud83c")])
    assert b'"text":"\\ud83c"' in written_


# --- both ways -------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(event_streams(lacks=LACKS, interleaved=False))
def test_what_is_written_reads_as_it_was(events: list[Event]) -> None:
    again = read(DIALECT.encoder(ASK, OWN).write(events))
    check_grammar(again)
    assert [event for event in joined(again) if not isinstance(event, UsageSeen)] == [
        event for event in joined(events) if not isinstance(event, UsageSeen)
    ]
    assert last_usage(again) == (last_usage(events) or Usage())


def last_usage(events: list[Event]) -> Usage | None:
    return next((event.usage for event in reversed(events) if isinstance(event, UsageSeen)), None)


@settings(max_examples=150, deadline=None)
@given(event_streams(lacks=("Started.created",), interleaved=True, fails=True))
def test_whatever_comes_in_whatever_order_is_blocks_one_at_a_time(events: list[Event]) -> None:
    encoder = DIALECT.encoder(ASK, ORIGIN)
    data = b"".join(encoder.write([event]) for event in events)
    frames = [json.loads(frame.data or b"") for frame in frames_of(data)]
    assert frames[0]["type"] == "message_start"
    again = read(data)
    check_grammar(again)
    assert isinstance(again[-1], type(events[-1]))
    if isinstance(again[-1], Done):
        assert calls_of(again) == calls_of(events)
        assert letters_of(again) == letters_of(events)


def letters_of(events: list[Event]) -> list[str]:
    """Give what was said in words, whatever waited."""
    return sorted("".join(event.text for event in events if isinstance(event, (Text, Refusal))))


def calls_of(events: list[Event]) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    ids: dict[int, str] = {}
    for event in events:
        if isinstance(event, ToolCallStarted):
            ids[event.call] = event.id
            found[event.id] = (event.name, "")
        elif isinstance(event, ToolArguments):
            name, arguments = found[ids[event.call]]
            found[ids[event.call]] = (name, arguments + event.fragment)
    return found


def test_a_message_starts_once_whatever_the_server_says() -> None:
    assert read(START, START, delta(0, type="text_delta", text="a"), START) == [STARTED, Text(0, "a")]
    assert read(delta(0, type="text_delta", text="a"), START) == [Started(), Text(0, "a")]
