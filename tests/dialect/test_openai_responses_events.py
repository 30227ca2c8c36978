"""Responses as events: what OpenAI and its kin send."""

import json
from typing import Any

import pytest
from responses_streams import EXPECTED, GOLDEN, STREAMS, events_of, frames_of

from conversing import check_grammar
from tidegate.dialect import ProviderError
from tidegate.dialect.events import (
    Done,
    Event,
    Failed,
    Finished,
    Reasoning,
    Refusal,
    Started,
    Text,
    ToolArguments,
    ToolCallEnded,
    ToolCallStarted,
)
from tidegate.dialect.openai_responses.events import MAX_ITEMS
from tidegate.wire import Frame, FrameError
from tidegate.wire.sse import SseFramer


def frame_of(kind: str, **members: Any) -> Frame:
    return Frame(f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode())


def said(*frames: Frame) -> list[Event]:
    """Give the events of frames that follow a stream's first."""
    events = events_of([frame_of("response.created", response={"id": "resp_1"}), *frames])
    assert events[0] == Started("resp_1")
    return events[1:]


def item(kind: str, place: Any = 0, *, done: bool = False, **members: Any) -> Frame:
    event = "done" if done else "added"
    return frame_of(f"response.output_item.{event}", output_index=place, item={"type": kind, **members})


def arguments(text: Any, place: Any = 0) -> Frame:
    return frame_of("response.function_call_arguments.delta", output_index=place, delta=text)


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_a_provider_s_stream_is_read_in_order(name: str) -> None:
    events = events_of(frames_of((GOLDEN / name).read_bytes()))
    assert events == EXPECTED[name]
    check_grammar(events)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_says_the_same_wherever_it_is_cut(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    expected = [frame.raw for frame in frames_of(data)]
    for cut in range(1, len(data), 7):
        framer = SseFramer()
        frames = [*framer.feed(data[:cut]), *framer.feed(data[cut:]), *framer.finish()]
        assert b"".join(frame.raw for frame in frames) == b"".join(expected)
    assert events_of(frames_of(data, 1)) == EXPECTED[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_says_the_same_at_every_cut(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    for cut in range(1, len(data)):
        framer = SseFramer()
        assert events_of([*framer.feed(data[:cut]), *framer.feed(data[cut:]), *framer.finish()]) == EXPECTED[name]


def test_a_stream_without_its_terminal_event_is_not_complete() -> None:
    events = events_of(frames_of((GOLDEN / "text.sse").read_bytes())[:-1])
    assert not any(isinstance(event, (Done, Finished)) for event in events)


@pytest.mark.parametrize(
    "frame",
    [
        Frame(b": keepalive\n\n"),
        Frame(b"data: [DONE]\n\n"),
        frame_of("response.queued", response={"id": "resp_1"}),
        frame_of("response.reasoning_part.added", output_index=0),
        frame_of("response.output_text.delta", delta="", output_index=0),
        frame_of("response.output_text.delta", delta=7, output_index=0),
        frame_of("response.refusal.delta", delta="", output_index=0),
        frame_of("response.reasoning_text.delta", delta=None, output_index=0),
        frame_of("response.function_call_arguments.delta", delta='{"a":', output_index=3),
        frame_of("response.function_call_arguments.done", arguments="{}", output_index=3),
        frame_of("response.output_item.done", item="?", output_index=0),
        Frame(b'data: {"type": ["response.output_text.delta"], "delta": "x"}\n\n'),
        Frame(b'data: {"delta": "x"}\n\n'),
    ],
)
def test_what_says_nothing_is_passed_over(frame: Frame) -> None:
    assert said(frame) == []


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: 7\n\n", b'data: ["x"]\n\n', b"data: \xff\n\n"])
def test_what_is_no_object_cannot_be_read(data: bytes) -> None:
    with pytest.raises(FrameError):
        events_of([Frame(data)])


def test_a_stream_may_begin_without_its_first_frame() -> None:
    assert events_of([frame_of("response.output_text.delta", delta="x")]) == [Started(), Text(0, "x")]


def test_an_instant_with_a_fraction_is_a_whole_second() -> None:
    response = {"id": "resp_1", "model": 7, "created_at": 12.75}
    assert events_of([frame_of("response.created", response=response)]) == [Started("resp_1", "", 12)]


def test_nothing_is_said_twice_though_the_server_says_it_again() -> None:
    events = events_of([*frames_of((GOLDEN / "parallel.sse").read_bytes())] * 2)
    assert events == EXPECTED["parallel.sse"]


def test_half_a_surrogate_pair_is_passed_on() -> None:
    frame = Frame(b'data: {"type":"response.output_text.delta","delta":"\\ud83c"}\n\n')
    assert said(frame) == [Text(0, "\ud83c")]


def test_a_text_that_was_not_streamed_is_in_its_item() -> None:
    content = [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}, {"type": "x"}, "y"]
    assert said(item("message"), item("message", done=True, content=content)) == [Text(0, "a"), Refusal(0, "b")]


def test_a_thought_that_was_not_streamed_is_in_its_item() -> None:
    summary = [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]
    content = [{"type": "reasoning_text", "text": "c"}]
    assert said(item("reasoning", done=True, summary=summary, content=content)) == [Reasoning(0, "a\n\nb")]
    assert said(item("reasoning", done=True, summary=[], content=content)) == [Reasoning(0, "c")]
    assert said(item("reasoning", done=True, summary=[])) == []


def test_a_thought_that_is_said_in_two_members_is_read_once() -> None:
    events = said(
        frame_of("response.reasoning_text.delta", output_index=0, content_index=0, delta="a"),
        frame_of("response.reasoning_summary_text.delta", output_index=0, summary_index=0, delta="a"),
        frame_of("response.reasoning_text.delta", output_index=0, content_index=0, delta="b"),
        item("reasoning", done=True, summary=[{"type": "summary_text", "text": "a"}]),
    )
    assert events == [Reasoning(0, "a"), Reasoning(0, "b")]


def test_items_are_known_by_their_place_though_their_ids_change() -> None:
    events = said(
        item("function_call", 0, id="fc_1", call_id="a", name="f"),
        item("function_call", 1, id="fc_2", call_id="b", name="g"),
        arguments('{"x":', 1),
        arguments("{}", 0),
        arguments("1}", 1),
        item("function_call", 1, done=True, id="other", call_id="b", name="g", arguments='{"x":1}'),
        item("function_call", 0, done=True, id="another", call_id="a", name="f", arguments="{}"),
    )
    assert events == [
        ToolCallStarted(0, 0, "a", "f"),
        ToolCallStarted(0, 1, "b", "g"),
        ToolArguments(0, 1, '{"x":'),
        ToolArguments(0, 0, "{}"),
        ToolArguments(0, 1, "1}"),
        ToolCallEnded(0, 1),
        ToolCallEnded(0, 0),
    ]


def test_a_call_may_come_whole() -> None:
    events = said(item("function_call", 4, done=True, call_id="a", name="f", arguments='{"x":1}'))
    assert events == [ToolCallStarted(0, 0, "a", "f"), ToolArguments(0, 0, '{"x":1}'), ToolCallEnded(0, 0)]


def test_a_call_without_arguments_has_those_of_an_empty_object() -> None:
    events = said(item("function_call", call_id="a", name="f"), item("function_call", done=True, arguments=""))
    assert events == [ToolCallStarted(0, 0, "a", "f"), ToolArguments(0, 0, "{}"), ToolCallEnded(0, 0)]


def test_a_call_at_whose_place_a_text_was_said_has_its_arguments_all_the_same() -> None:
    text = frame_of("response.output_text.delta", output_index=0, delta="Hi")
    events = said(item("function_call", call_id="a", name="f"), text, item("function_call", done=True, arguments=""))
    assert events[-2:] == [ToolArguments(0, 0, "{}"), ToolCallEnded(0, 0)]


def test_a_call_ends_once_and_with_the_response_at_the_latest() -> None:
    done = item("function_call", done=True, call_id="a", name="f", arguments="{}")
    end = frame_of("response.completed", response={"status": "completed"})
    events = said(item("function_call", call_id="a", name="f"), arguments("{}"), done, arguments("{}"), done, end)
    assert events[1:] == [ToolArguments(0, 0, "{}"), ToolCallEnded(0, 0), Finished(0, "tool_calls"), Done()]
    cut = said(item("function_call", call_id="a", name="f"), end)
    assert cut[1:] == [ToolArguments(0, 0, "{}"), ToolCallEnded(0, 0), Finished(0, "tool_calls"), Done()]


@pytest.mark.parametrize(
    ("members", "ident"), [({"call_id": "a", "id": "fc"}, "a"), ({"id": "fc"}, "fc"), ({}, "call_resp_1_0")]
)
def test_a_call_has_an_id_even_where_its_server_gives_none(members: dict[str, Any], ident: str) -> None:
    assert said(item("function_call", name="f", **members)) == [ToolCallStarted(0, 0, ident, "f")]


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ({"status": "completed", "incomplete_details": None}, "stop"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "steered"}}, "steered"),
        ({"status": "incomplete"}, "length"),
        ({}, "stop"),
    ],
)
def test_a_response_says_why_it_is_over(response: dict[str, Any], reason: str) -> None:
    assert said(frame_of("response.completed", response=response)) == [Finished(0, reason), Done()]


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (frame_of("response.failed"), ProviderError("the provider failed without a word")),
        (frame_of("error", error={}), ProviderError("the provider failed without a word")),
        (frame_of("error", error="out of order"), ProviderError("out of order")),
        (frame_of("error", message="m", param="input"), ProviderError("m", param="input")),
        (Frame(b'data: {"error": {"message": "m", "code": 429}}\n\n'), ProviderError("m", code="429", status=429)),
    ],
)
def test_an_error_is_read_in_every_shape(frame: Frame, error: ProviderError) -> None:
    assert said(frame) == [Failed(error)]


def test_more_items_than_anybody_says_are_refused() -> None:
    frames = [item("message", place) for place in range(MAX_ITEMS + 1)]
    said(*frames[:-1])
    with pytest.raises(FrameError, match=f"more than {MAX_ITEMS} items"):
        said(*frames)


def test_a_place_that_is_no_number_is_the_first() -> None:
    assert said(item("function_call", None, call_id="a", name="f"), arguments("{}", "x"))[1] == ToolArguments(
        0, 0, "{}"
    )
