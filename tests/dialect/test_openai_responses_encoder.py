"""Events as responses: what clients of the Responses API get, and that it says what was said."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from responses_streams import (
    ASK,
    CALL,
    DIALECT,
    EXPECTED,
    GOLDEN,
    ORIGIN,
    OWN,
    STREAMS,
    TERMINAL,
    WHOLE_TYPE,
    check_order,
    encoded,
    events_of,
    frames_of,
    written,
)

from conversing import check_grammar, event_streams, joined
from tidegate.dialect import ProviderError
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
from tidegate.dialect.openai_responses.encoder import MAX_ECHOED_BYTES, MAX_HELD_BYTES
from tidegate.exchange import Usage
from tidegate.wire import FrameError


def test_the_checker_of_the_order_sees_what_is_out_of_it() -> None:
    whole = written(Started(), Text(0, "a"), Refusal(0, "b"), *CALL, Reasoning(0, "c"), Done())
    for at in range(2, len(whole)):
        gone = [dict(event) for number, event in enumerate(whole) if number != at]
        for number, event in enumerate(gone):
            event["sequence_number"] = number
        if at == len(whole) - 1:
            check_order(gone)  # the end alone may be missing: a stream may be going on
        else:
            with pytest.raises((AssertionError, KeyError)):
                check_order(gone)


# --- writing ---------------------------------------------------------------------------------------------------------


def items(*events: Event, origin: Origin = ORIGIN) -> list[dict[str, Any]]:
    output: list[dict[str, Any]] = written(*events, Done(), origin=origin)[-1]["response"]["output"]
    return output


def test_a_text_is_written_as_openai_writes_it() -> None:
    events = written(Started("x", "m", 7), Text(0, "Hel"), Text(0, "lo"), Finished(0, "stop"), Done())
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[5] == {
        "type": "response.output_text.delta",
        "sequence_number": 5,
        "item_id": "msg_x_0",
        "output_index": 0,
        "content_index": 0,
        "delta": "lo",
        "logprobs": [],
    }
    assert events[0]["response"]["status"] == "in_progress"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hello"


def test_a_response_is_complete() -> None:
    usage = Usage(20, 9, cached_tokens=4, reasoning_tokens=3, cache_write_tokens=2)
    response = written(Started("x", "m", 7), Text(0, "a"), Finished(0, "stop"), UsageSeen(usage), Done())[-1][
        "response"
    ]
    assert response == {
        "id": "resp_x",
        "object": "response",
        "created_at": 7,
        "status": "completed",
        "model": "m",
        "output": response["output"],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "reasoning": {"effort": None, "summary": None},
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "user": None,
        "background": False,
        "previous_response_id": None,
        "store": False,
        "usage": {
            "input_tokens": 20,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
            "output_tokens": 9,
            "output_tokens_details": {"reasoning_tokens": 3},
            "total_tokens": 29,
        },
    }


def test_what_the_provider_does_not_say_is_its_origin_s() -> None:
    response = written(Started(), Done())[-1]["response"]
    assert (response["id"], response["model"], response["created_at"]) == ("resp_req-1", "tide-1", 9)
    assert response["usage"] is None


def test_ids_are_made_of_the_answer_s_and_fit_openai_s_bound() -> None:
    ident = 'chatcmpl:"' + "x" * 100
    events = written(Started(ident, "m", 7), Reasoning(0, "a"), Text(0, "b"), *CALL, Done())
    output = events[-1]["response"]["output"]
    assert events[0]["response"]["id"] == "resp_chatcmpl__" + "x" * 100
    assert [made["id"].partition("_")[0] for made in output] == ["rs", "msg", "fc"]
    assert all(len(made["id"]) <= 64 for made in output)
    assert len({made["id"] for made in output}) == 3


def test_what_the_request_decided_is_said_again() -> None:
    tools = [{"type": "function", "name": "tide", "parameters": {"type": "object"}, "strict": None}]
    body = {
        "model": "m",
        "input": "x",
        "instructions": "Be\nbrief",
        "temperature": 0.5,
        "tools": tools,
        "metadata": {"a": "b"},
        "top_p": None,
        "user": "u" * MAX_ECHOED_BYTES,
    }
    response = written(Started(), Done(), body=json.dumps(body, indent=2).encode())[0]["response"]
    echoed = {name: response[name] for name in ("instructions", "temperature", "tools", "metadata", "top_p", "user")}
    assert echoed == {
        "instructions": "Be\nbrief",
        "temperature": 0.5,
        "tools": tools,
        "metadata": {"a": "b"},
        "top_p": None,
        "user": None,
    }


def test_parts_of_a_message_follow_one_another() -> None:
    [message] = items(Started(), Text(0, "a"), Refusal(0, "b"), Text(0, "c"), Text(0, "d"), Finished(0, "stop"))
    assert [part.get("text") or part["refusal"] for part in message["content"]] == ["a", "b", "cd"]


def test_calls_may_be_open_at_once_and_keep_their_places() -> None:
    events = written(
        Started("x"),
        ToolCallStarted(0, 0, "call_a", "tide"),
        ToolCallStarted(0, 1, "call_b", "moon"),
        ToolArguments(0, 1, "{"),
        ToolArguments(0, 0, '{"a":"🌊"}'),
        Text(0, "meanwhile"),
        ToolArguments(0, 1, "}"),
        ToolCallEnded(0, 1),
        ToolCallEnded(0, 0),
        Finished(0, "tool_calls"),
        Done(),
    )
    pieces = [(event["output_index"], event["delta"]) for event in events if event["type"].endswith("arguments.delta")]
    assert pieces == [(1, "{"), (0, '{"a":"🌊"}'), (1, "}")]
    output = events[-1]["response"]["output"]
    assert [made.get("call_id") for made in output] == ["call_a", "call_b", None]
    assert output[0]["arguments"] == '{"a":"🌊"}'
    assert events[-1]["type"] == "response.completed"


def test_a_thought_comes_before_the_text_in_an_item_of_its_own() -> None:
    thought, message = items(Started(), Reasoning(0, "h"), Reasoning(0, "m"), Text(0, "a"))
    assert thought["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert "encrypted_content" not in thought
    assert message["type"] == "message"


def test_what_openai_sealed_goes_as_it_came_and_with_its_id() -> None:
    thought, sealed = items(Started(), Reasoning(0, "a"), Sealed(0, "gAAA", "rs_1"), Finished(0, "stop"), origin=OWN)
    assert thought["summary"]
    assert sealed == {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "gAAA"}


def test_a_sealed_thought_without_an_id_closes_the_one_that_is_open() -> None:
    [thought] = items(Started("x"), Reasoning(0, "a"), Sealed(0, "gAAA"), origin=OWN)
    assert (thought["id"], thought["encrypted_content"], len(thought["summary"])) == ("rs_x_0", "gAAA", 1)


def test_another_dialect_s_signature_closes_its_thought_and_names_its_maker() -> None:
    [first, second] = items(Started(), Reasoning(0, "a"), Reasoning(0, "", "sig"), Reasoning(0, "b"))
    assert first["encrypted_content"] == 'tidegate:anthropic:{"signature":"sig"}'
    assert "encrypted_content" not in second


def test_a_signature_that_openai_does_not_make_ends_its_thought_and_is_lost() -> None:
    [first, second] = items(Started(), Reasoning(0, "a", "sig"), Reasoning(0, "b"), origin=OWN)
    assert "encrypted_content" not in first
    assert second["summary"][0]["text"] == "b"


def test_a_call_s_signature_stands_before_it_and_names_it() -> None:
    call = ToolCallStarted(0, 0, "call_1", "tide", "sig")
    sealed, made = items(Started(), Reasoning(0, "a"), call, *CALL[1:])[1:]
    assert sealed["encrypted_content"] == 'tidegate:anthropic:{"call":"call_1","signature":"sig"}'
    assert made["call_id"] == "call_1"


@pytest.mark.parametrize(
    ("reason", "event", "details"),
    [
        ("stop", "response.completed", None),
        ("tool_calls", "response.completed", None),
        ("the_sea_was_rough", "response.incomplete", {"reason": "the_sea_was_rough"}),
        ('a "word"\n', "response.incomplete", {"reason": 'a "word"\n'}),
        ("length", "response.incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "response.incomplete", {"reason": "content_filter"}),
    ],
)
def test_the_last_event_says_why(reason: str, event: str, details: dict[str, str] | None) -> None:
    last = written(Started(), Text(0, "a"), Finished(0, reason), Done())[-1]
    assert (last["type"], last["response"]["incomplete_details"]) == (event, details)
    assert last["response"]["output"][0]["status"] == last["type"].removeprefix("response.")


def test_a_reason_that_openai_does_not_know_comes_back_as_it_was() -> None:
    said: list[Event] = [Started(), Text(0, "a"), Finished(0, "pause_turn"), Done()]
    assert Finished(0, "pause_turn") in events_of(frames_of(encoded(*said)))
    assert DIALECT.read_response(DIALECT.write_answer(said, ASK, ORIGIN)).finish_reason == "pause_turn"


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        (['{"a":', '"🌊"}'], "completed"),
        (['{"a": "\\ud83c"}'], "completed"),
        (['{"a":', '"Bre'], "incomplete"),
        (['{"a": "\ud83c'], "incomplete"),
        (["{}", "}"], "incomplete"),
        (["[" * 100_000], "incomplete"),
    ],
)
def test_a_call_that_was_cut_is_incomplete(pieces: list[str], status: str) -> None:
    said = [ToolArguments(0, 0, piece) for piece in pieces]
    events = written(Started(), CALL[0], *said, CALL[2], Text(0, "b"), Finished(0, "length"), Done())
    [call, message] = events[-1]["response"]["output"]
    assert (call["status"], call["arguments"]) == (status, "".join(pieces))
    assert message["status"] == "incomplete"


def test_what_comes_after_a_choice_s_end_is_an_item_more() -> None:
    assert len(items(Started(), Text(0, "a"), Finished(0, "stop"), Text(0, "b"))) == 2


def test_a_failure_is_told_once_with_what_was_said_so_far() -> None:
    error = ProviderError("it broke", "overloaded_error", None, "input")
    encoder = DIALECT.encoder(ASK, ORIGIN)
    begun = (Started(), Text(0, "a"), Finished(0, "stop"), *CALL[:2], Reasoning(0, "b"))
    data = encoder.write(begun) + encoder.write([Failed(error)])
    events = [json.loads(frame.data or b"") for frame in frames_of(data)]
    check_order(events)
    response = events[-1]["response"]
    assert [event["type"] for event in events if "failed" in event["type"] or "error" in event["type"]] == [
        "response.failed"
    ]
    assert response["error"] == {
        "code": "server_error",
        "message": "it broke",
        "param": "input",
        "type": "overloaded_error",
    }
    assert [made.get("status") for made in response["output"]] == ["completed", "incomplete", None]
    assert encoder.write([Text(0, "late"), Done()]) == b""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProviderError("m", code="context_length_exceeded"), "context_length_exceeded"),
        (ProviderError("m", status=429), "rate_limit_exceeded"),
        (ProviderError("m", "rate_limit_error"), "rate_limit_exceeded"),
        (ProviderError("m"), "server_error"),
    ],
)
def test_a_failure_has_a_code(error: ProviderError, code: str) -> None:
    assert written(Failed(error))[-1]["response"]["error"]["code"] == code


def test_a_failure_before_anything_was_said_has_a_response_to_fail() -> None:
    events = written(Failed(ProviderError("m")))
    assert [event["type"] for event in events] == ["response.created", "response.in_progress", "response.failed"]


def test_other_choices_are_not_written() -> None:
    other: list[Event] = [Text(1, "b"), Refusal(1, "b"), Reasoning(1, "b"), Sealed(1, "b"), Finished(1, "length")]
    other += [ToolCallStarted(1, 0, "b", "b"), ToolArguments(1, 0, "{}"), ToolCallEnded(1, 0)]
    events = written(Started(), Text(0, "a"), *other, Finished(0, "stop"), Done())
    assert events[-1]["type"] == "response.completed"
    assert "b" not in json.dumps(events[-1]["response"]["output"][0]["content"][0]["text"])
    assert len(events[-1]["response"]["output"]) == 1


def test_an_answer_too_long_to_be_held_fails_rather_than_lack_a_part() -> None:
    encoder = DIALECT.encoder(ASK, ORIGIN)
    piece = Text(0, "x" * (1024 * 1024))
    data = encoder.write([Started()])
    for _ in range(MAX_HELD_BYTES // len(piece.text)):
        data = encoder.write([piece])
    last = json.loads(frames_of(data)[-1].data or b"")
    assert (last["type"], last["response"]["output"]) == ("response.failed", [])
    assert str(MAX_HELD_BYTES) in last["response"]["error"]["message"]
    assert encoder.write([piece, Finished(0, "stop"), Done()]) == b""


def test_half_a_surrogate_pair_is_written_as_it_was_read() -> None:
    events = written_loosely(Started(), Text(0, "\ud83c"), Text(0, "\udf0a"), Finished(0, "stop"), Done())
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "🌊"


def written_loosely(*events: Event) -> list[Any]:
    return [json.loads(frame.data or b"") for frame in frames_of(encoded(*events))]


# --- tools that take a plain text -----------------------------------------------------------------------------------

TOOLS = [
    {"type": "custom", "name": "apply_patch"},
    {"type": "function", "name": "tide", "parameters": {}, "strict": None},
]
PATCHING = json.dumps({"model": "m", "input": "x", "tools": TOOLS}).encode()


def patched(*pieces: str, end: bool = True) -> list[dict[str, Any]]:
    said: list[Event] = [Started("x"), ToolCallStarted(0, 0, "call_1", "apply_patch")]
    said += [ToolArguments(0, 0, piece) for piece in pieces]
    if end:
        said += [
            ToolCallEnded(0, 0),
            ToolCallStarted(0, 1, "call_2", "tide"),
            ToolArguments(0, 1, "{}"),
            ToolCallEnded(0, 1),
        ]
    return written(
        *said, *([Finished(0, "tool_calls"), Done()] if end else [Failed(ProviderError("m"))]), body=PATCHING
    )


def test_a_call_of_a_custom_tool_gives_it_its_text() -> None:
    events = patched('{"inp', 'ut":"a \\"b\\"', '\\n🌊"}')
    assert [(event["type"].removeprefix("response."), event["sequence_number"]) for event in events[2:6]] == [
        ("output_item.added", 2),
        ("custom_tool_call_input.delta", 3),
        ("custom_tool_call_input.done", 4),
        ("output_item.done", 5),
    ]
    assert events[2]["item"] == {
        "id": "ctc_x_0",
        "type": "custom_tool_call",
        "status": "in_progress",
        "input": "",
        "call_id": "call_1",
        "name": "apply_patch",
    }
    text = 'a "b"\n🌊'
    assert (events[3]["delta"], events[4]["input"]) == (text, text)
    custom, function = events[-1]["response"]["output"]
    assert custom == {**events[2]["item"], "input": text, "status": "completed"}
    assert (function["type"], function["id"], function["arguments"]) == ("function_call", "fc_x_1", "{}")


@pytest.mark.parametrize(
    ("arguments", "text", "status"),
    [
        ('{"input":""}', "", "completed"),
        ('{"patch":"a"}', '{"patch":"a"}', "completed"),
        ('{"input":7}', '{"input":7}', "completed"),
        ('"a"', '"a"', "completed"),
        ('{"input":"a', '{"input":"a', "incomplete"),
    ],
)
def test_where_a_custom_tool_s_text_cannot_be_found_all_that_was_said_is_given(
    arguments: str, text: str, status: str
) -> None:
    made = patched(arguments)[-1]["response"]["output"][0]
    assert (made["input"], made["status"]) == (text, status)


def test_a_call_of_a_custom_tool_that_is_never_ended_is_incomplete() -> None:
    [made] = patched('{"input":"a', end=False)[-1]["response"]["output"]
    assert (made["type"], made["status"]) == ("custom_tool_call", "incomplete")


def test_a_whole_body_with_a_custom_tool_s_call_was_over_for_it() -> None:
    body = json.dumps({"status": "completed", "output": [{"type": "custom_tool_call"}]}).encode()
    assert DIALECT.read_response(body).finish_reason == "tool_calls"


# --- both ways -------------------------------------------------------------------------------------------------------

LACKS = ("Reasoning.signature", "ToolCallStarted.signature")


def known(events: Sequence[Event]) -> list[Event]:
    """Give a stream as one comes back: sealed thoughts have an id, and calls are the reason where there was none to cut."""
    out: list[Event] = []
    called = any(isinstance(event, ToolCallStarted) for event in events)
    for event in joined(events):
        match event:
            case Sealed(_, data):
                out.append(Sealed(0, data))
            case Finished(0, "stop") if called:
                out.append(Finished(0, "tool_calls"))
            case Started(ident):
                out.append(structs.replace(event, id=f"resp_{ident}"))
            case _:
                out.append(event)
    return out


@settings(max_examples=60, deadline=None)
@given(event_streams(lacks=LACKS, interleaved=True))
def test_events_come_back_as_they_went(events: list[Event]) -> None:
    frames = frames_of(encoded(*events, origin=OWN))
    back = events_of(frames)
    check_grammar(back)
    said = [Sealed(0, event.data) if isinstance(event, Sealed) else event for event in joined(back)]
    assert said == known(events)


@settings(max_examples=60, deadline=None)
@given(event_streams(interleaved=True, fails=True), st.sampled_from([ORIGIN, OWN]))
def test_every_stream_is_written_in_order_and_as_the_sdk_knows_it(events: list[Event], origin: Origin) -> None:
    last = written(*events, origin=origin)[-1]
    assert last["type"] in TERMINAL
    WHOLE_TYPE.validate_python({**last["response"], "error": None})


@settings(max_examples=30, deadline=None)
@given(event_streams(interleaved=True, fails=True))
def test_it_makes_no_difference_how_many_events_are_written_at_once(events: list[Event]) -> None:
    encoder = DIALECT.encoder(ASK, ORIGIN)
    assert b"".join(encoder.write([event]) for event in events) == encoded(*events)


@pytest.mark.parametrize("name", STREAMS)
def test_what_was_read_is_written_so_that_it_reads_the_same(name: str) -> None:
    events = EXPECTED[name]
    back = events_of(frames_of(encoded(*events, origin=OWN)))
    if isinstance(events[-1], Failed):
        assert isinstance(back[-1], Failed)
        assert back[-1].error.message == events[-1].error.message
        events, back = events[:-1], back[:-1]
    assert joined(back) == joined(events)


def test_no_two_events_are_read_out_of_a_frame_in_another_order() -> None:
    frames = frames_of((GOLDEN / "reasoning.sse").read_bytes())
    numbers = [json.loads(frame.data or b"")["sequence_number"] for frame in frames]
    assert all(after == before + 1 for before, after in pairwise(numbers))


# --- whole bodies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in STREAMS if isinstance(EXPECTED[name][-1], Done)])
def test_a_whole_body_says_what_its_stream_said(name: str) -> None:
    frame = [frame for frame in frames_of((GOLDEN / name).read_bytes()) if b"sequence_number" in frame.raw][-1]
    body = json.dumps(json.loads(frame.data or b"")["response"]).encode()
    assert joined(DIALECT.read_answer(body)) == joined(EXPECTED[name])
    notice = DIALECT.read_response(body)
    finished = next(event for event in EXPECTED[name] if isinstance(event, Finished))
    usage = next(event.usage for event in EXPECTED[name] if isinstance(event, UsageSeen))
    assert (notice.finish_reason, notice.finished, notice.usage) == (finished.reason, 1, usage)


@settings(max_examples=30, deadline=None)
@given(event_streams(lacks=LACKS))
def test_whole_answers_come_back_as_they_went(events: list[Event]) -> None:
    body = DIALECT.write_answer(events, ASK, OWN)
    WHOLE_TYPE.validate_json(body)
    back = DIALECT.read_answer(body)
    check_grammar(back)
    assert [Sealed(0, event.data) if isinstance(event, Sealed) else event for event in joined(back)] == known(events)


def test_a_whole_body_without_output_is_no_answer() -> None:
    with pytest.raises(FrameError, match="no output"):
        DIALECT.read_answer(b'{"message":"it broke"}')


def test_a_whole_body_that_failed_is_an_error() -> None:
    body = DIALECT.write_answer([Started(), Failed(ProviderError("it broke", code="server_error"))], ASK, ORIGIN)
    error = ProviderError("it broke", code="server_error", status=500)
    assert DIALECT.read_answer(body) == (Failed(error),)
    assert DIALECT.read_response(body).error == error
    assert DIALECT.read_response(body).finished == 0
