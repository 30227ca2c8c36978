"""A whole chat completion: what is written reads the same, and what a stream tells it tells, too."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversing import check_grammar, event_streams, joined
from tidegate.dialect import Dialect, ProviderError
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
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.seals import unmarked
from tidegate.exchange import Ask, Usage
from tidegate.wire import FrameError
from tidegate.wire.sse import SseFramer

DIALECT: Dialect = OpenAIChat()
ORIGIN = Origin("r1", "asked", 1741569952, DIALECT.name)
CLAUDE = Origin("r1", "asked", 1741569952, "anthropic")


def ask(choices: int = 1) -> Ask:
    return Ask(model="m", stream=True, wants_usage=True, body=b"", choices=choices)


def written(*events: Event, origin: Origin = ORIGIN) -> Any:
    return json.loads(DIALECT.write_answer(events, ask(), origin))


def read(message: Any, finish: Any = "stop", **members: Any) -> list[Event]:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    answer = {"id": "c1", "object": "chat.completion", "created": 7, "model": "m", "choices": [choice], **members}
    return list(DIALECT.read_answer(json.dumps(answer).encode()))


def in_order(events: Sequence[Event]) -> list[Event]:
    """Give a stream's words as a message has them: of each choice the thoughts, the text, a refusal, the calls."""
    order: tuple[tuple[type, ...], ...] = (
        (Started,),
        (Reasoning, Sealed),
        (Text,),
        (Refusal,),
        (ToolCallStarted, ToolArguments, ToolCallEnded),
        (Finished,),
    )

    def place(event: Event) -> tuple[int, int]:
        rank = next((number for number, kinds in enumerate(order) if isinstance(event, kinds)), len(order))
        return (getattr(event, "index", 99 if rank == len(order) else -1), rank)

    return joined(sorted(events, key=place))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3).flatmap(lambda choices: event_streams(choices, interleaved=True)))
def test_what_is_written_reads_the_same(events: list[Event]) -> None:
    again = DIALECT.read_answer(DIALECT.write_answer(events, ask(), ORIGIN))
    check_grammar(again)
    assert joined(again) == in_order(joined(events))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3).flatmap(lambda choices: st.tuples(st.just(choices), event_streams(choices, interleaved=True))))
def test_a_stream_reads_the_same_in_fewer_pieces(made: tuple[int, list[Event]]) -> None:
    choices, events = made
    framer, decoder = SseFramer(), DIALECT.decoder(ask(choices))
    data = DIALECT.encoder(ask(choices), ORIGIN).write(events)
    again = [event for frame in framer.feed(data) for event in decoder.feed(frame)]
    check_grammar(again)
    assert joined(again) == joined(events)


def made_by(event: Event) -> list[str]:
    """Give who signed or sealed an event that was read of a client's copy."""
    signed = {Reasoning: "signature", Sealed: "data", ToolCallStarted: "signature"}.get(type(event))
    return [unmarked(getattr(event, signed))[1]] if signed and getattr(event, signed) else []


@settings(max_examples=40, deadline=None)
@given(event_streams(1))
def test_signatures_are_marked_with_their_maker_in_streams_and_answers_alike(events: list[Event]) -> None:
    data = DIALECT.encoder(ask(), CLAUDE).write(events)
    decoder = DIALECT.decoder(ask())
    streamed = [event for frame in SseFramer().feed(data) for event in decoder.feed(frame)]
    answered = DIALECT.read_answer(DIALECT.write_answer(events, ask(), CLAUDE))
    signed = sum(bool(made_by(event)) for event in joined(events))
    for said in (streamed, answered):
        makers = [maker for event in joined(said) for maker in made_by(event)]
        assert makers == ["anthropic"] * signed


def test_an_answer_is_written_as_openai_writes_it() -> None:
    events = (Started("c1", "m", 7), Text(0, "a"), Text(0, "b"), UsageSeen(Usage(1, 1)), Finished(0, "length"), Done())
    assert written(*events, UsageSeen(Usage(9, 4, 2, 3, 1))) == {
        "id": "c1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "ab", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 4,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
    }


def test_what_a_provider_does_not_say_is_its_origin_s() -> None:
    answer = written(Started(), Finished(0, "stop"))
    assert (answer["id"], answer["model"], answer["created"]) == ("chatcmpl-r1", "asked", 1741569952)
    assert "usage" not in answer
    assert answer["choices"][0]["message"]["content"] == ""


def test_a_message_has_no_content_where_there_are_calls_alone() -> None:
    call = (ToolCallStarted(0, 0, "a", "tide", "s"), ToolArguments(0, 0, '{"a"'), ToolArguments(0, 0, ":1}"))
    message = written(*call, ToolCallEnded(0, 0), Finished(0, "tool_calls"))["choices"][0]["message"]
    assert message == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {
                "id": "a",
                "type": "function",
                "function": {"name": "tide", "arguments": '{"a":1}'},
                "extra_content": {"google": {"thought_signature": "s"}},
            }
        ],
    }


def test_thoughts_are_told_plainly_and_in_detail_only_where_they_are_signed() -> None:
    plain = written(Reasoning(0, "a"), Reasoning(0, "b"), Text(0, "x"))["choices"][0]["message"]
    assert (plain["reasoning_content"], "reasoning_details" in plain) == ("ab", False)
    signed = written(Reasoning(0, "a"), Reasoning(0, "b", "s"), Sealed(0, "d"), Reasoning(0, "c"))
    message = signed["choices"][0]["message"]
    assert message["reasoning_content"] == "abc"
    assert message["reasoning_details"] == [
        {"type": "reasoning.text", "text": "ab", "index": 0, "signature": "s"},
        {"type": "reasoning.encrypted", "data": "d", "index": 1},
        {"type": "reasoning.text", "text": "c", "index": 2},
    ]


def test_pieces_of_another_dialect_s_thought_have_its_number_so_that_sdks_can_join_them() -> None:
    events = (Reasoning(0, "a"), Reasoning(0, "b"), Sealed(0, "d"), Reasoning(0, "c", "s"), Reasoning(0, "e"))
    frames = SseFramer().feed(DIALECT.encoder(ask(), CLAUDE).write(events))
    deltas = [json.loads(frame.data or b"")["choices"][0]["delta"] for frame in frames][1:]
    assert [delta["reasoning_details"][0]["index"] for delta in deltas] == [0, 0, 1, 2, 3]
    assert [delta.get("reasoning_content") for delta in deltas] == ["a", "b", None, "c", "e"]


@pytest.mark.parametrize(
    ("message", "finish", "expected"),
    [
        ({"content": "a", "refusal": None, "annotations": []}, "stop", [Text(0, "a"), Finished(0, "stop")]),
        ({"content": None, "refusal": "no"}, "stop", [Refusal(0, "no"), Finished(0, "stop")]),
        ({"content": "a"}, None, [Text(0, "a"), Finished(0, "stop")]),
        ({"content": "a", "reasoning": "b"}, "length", [Reasoning(0, "b"), Text(0, "a"), Finished(0, "length")]),
        ("odd", "stop", [Finished(0, "stop")]),
        (
            {"content": None, "function_call": {"name": "tide", "arguments": "{}"}},
            "function_call",
            [
                ToolCallStarted(0, 0, "call_c1_0_0", "tide"),
                ToolArguments(0, 0, "{}"),
                ToolCallEnded(0, 0),
                Finished(0, "tool_calls"),
            ],
        ),
        (
            {
                "tool_calls": [
                    {"id": "a", "function": {"name": "x", "arguments": ""}},
                    {"id": "b", "function": {"name": "x"}},
                ]
            },
            "tool_calls",
            [
                ToolCallStarted(0, 0, "a", "x"),
                ToolCallStarted(0, 1, "b", "x"),
                ToolArguments(0, 0, "{}"),
                ToolCallEnded(0, 0),
                ToolArguments(0, 1, "{}"),
                ToolCallEnded(0, 1),
                Finished(0, "tool_calls"),
            ],
        ),
    ],
)
def test_a_message_is_read_in_every_shape_that_servers_send(message: Any, finish: Any, expected: list[Event]) -> None:
    events = read(message, finish)
    assert events == [Started("c1", "m", 7), *expected, Done()]
    check_grammar(events)


def test_usage_is_read_with_its_details() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert UsageSeen(Usage(9, 4, 2, 3, 1)) in read({"content": "a"}, usage=usage)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, Usage(3, 4)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 17}, Usage(3, 14)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 0}, Usage(3, 4)),
        ({"completion_tokens": 4, "total_tokens": 17}, Usage(0, 4)),
        ({"prompt_tokens": 3, "total_tokens": 3}, Usage(3, 0)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "prompt_cache_hit_tokens": 2}, Usage(3, 4, 2)),
    ],
)
def test_thoughts_that_are_in_the_total_alone_are_output(usage: dict[str, int], expected: Usage) -> None:
    assert DIALECT.read_response(json.dumps({"usage": usage}).encode()).usage == expected


def test_an_error_in_an_answer_s_place_is_all_it_says() -> None:
    body = b'{"error":{"message":"It broke.","code":503}}'
    assert list(DIALECT.read_answer(body)) == [Failed(ProviderError("It broke.", code="503", status=503))]


@pytest.mark.parametrize("body", [b"{}", b"[]", b"{", b'{"choices":[]}', b'{"choices":["odd"]}'])
def test_what_is_no_answer_cannot_be_read(body: bytes) -> None:
    with pytest.raises(FrameError):
        DIALECT.read_answer(body)


def test_a_status_that_these_clients_do_not_know_is_the_nearest_that_they_know() -> None:
    assert [DIALECT.status(status) for status in (200, 400, 429, 503, 529)] == [200, 400, 429, 503, 503]


def test_an_error_frame_stands_for_itself_whatever_came_before() -> None:
    assert DIALECT.error_frame("c", "m", first=b"x", last=b"y") == DIALECT.error_frame("c", "m")
