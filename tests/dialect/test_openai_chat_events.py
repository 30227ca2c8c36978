import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from tidegate.dialect.openai_chat.calls import MAX_KEPT_CHARS
from tidegate.dialect.openai_chat.events import MAX_CHOICES
from tidegate.dialect.whole import MAX_CALLS
from tidegate.exchange import Ask, Usage
from tidegate.wire import Frame, FrameError
from tidegate.wire.sse import SseFramer

DIALECT: Dialect = OpenAIChat()
GOLDEN = Path(__file__).parents[1] / "golden" / "openai"
START = Started("c1", "m", 7)
ORIGIN = Origin("r1", "asked", 1741569952, "openai_chat")


def ask(choices: int = 1, *, wants_usage: bool = True) -> Ask:
    return Ask(model="m", stream=True, wants_usage=wants_usage, body=b"", choices=choices)


def frame_of(value: Any) -> Frame:
    return Frame(b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n")


def chunk(*choices: Any, **members: Any) -> Frame:
    return frame_of({"id": "c1", "created": 7, "model": "m", "choices": choices, **members})


def choice(finish: Any = None, index: Any = 0, **delta: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


def call(index: Any = 0, ident: Any = None, name: Any = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    return {"index": index, "id": ident, "function": {"name": name, "arguments": arguments}, **more}


def events_of(*frames: Frame, choices: int = 1) -> list[Event]:
    decoder = DIALECT.decoder(ask(choices))
    return [event for frame in frames for event in decoder.feed(frame)]


def said(*deltas: dict[str, Any], finish: str | None = None) -> list[Event]:
    """Give the events of deltas, each a frame, without the stream's first."""
    frames = [chunk(choice(**delta)) for delta in deltas]
    events = events_of(*frames, *([chunk(choice(finish))] if finish else []))
    assert events[0] == START
    return events[1:]


def written(*events: Event, wants_usage: bool = False) -> list[Any]:
    """Give the objects of the frames that say it; the last frame is a text."""
    data = [
        frame.data or b"" for frame in frames_of(DIALECT.encoder(ask(wants_usage=wants_usage), ORIGIN).write(events))
    ]
    return ["[DONE]" if text == b"[DONE]" else json.loads(text) for text in data]


def frames_of(data: bytes) -> list[Frame]:
    framer = SseFramer()
    frames = framer.feed(data)
    framer.finish()
    return list(frames)


def deltas(*events: Event) -> list[Any]:
    return [frame["choices"][0]["delta"] for frame in written(*events)]


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_stream_of_text_is_read_in_order() -> None:
    events = events_of(*frames_of((GOLDEN / "usage.sse").read_bytes()))
    assert events == [
        Started("chatcmpl-B9MBs8CjcvOLU2jLn4n570S5qMJKc", "gpt-4o-mini-2024-07-18", 1741569952),
        Text(0, "Hello"),
        Text(0, " “wörld” 🌊"),
        Text(0, '! "error": [DONE]'),
        Finished(0, "stop"),
        UsageSeen(Usage(19, 10, cached_tokens=4, reasoning_tokens=3)),
        Done(),
    ]


def test_a_frame_without_choices_does_not_start_a_stream() -> None:
    events = events_of(*frames_of((GOLDEN / "azure.sse").read_bytes()))
    assert events[0] == Started("chatcmpl-AZ1", "gpt-4o-2024-11-20", 1741569952)


def test_comments_say_nothing() -> None:
    assert not events_of(Frame(b": ping\n\n"), Frame(b"event: x\n\n"))


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter", "the_sea_was_rough"])
def test_reasons_are_taken_verbatim(reason: str) -> None:
    assert said({"content": "x"}, finish=reason)[-1] == Finished(0, reason)


def test_a_choice_finishes_once_though_its_server_repeats_it() -> None:
    events = events_of(*[chunk(choice("stop", content="a"))] * 2)
    assert events == [START, Text(0, "a"), Finished(0, "stop"), Text(0, "a")]


def test_choices_are_told_apart_by_their_index() -> None:
    events = events_of(chunk(choice(index=1, content="b"), choice(index=0, content="a")), chunk(choice("stop", 1)))
    assert events[1:] == [Text(1, "b"), Text(0, "a"), Finished(1, "stop")]


def test_a_refusal_is_no_text() -> None:
    assert said({"refusal": "I won't."}) == [Refusal(0, "I won't.")]


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ({"reasoning_content": "a"}, [Reasoning(0, "a")]),
        ({"reasoning": "a"}, [Reasoning(0, "a")]),
        ({"reasoning": "a", "reasoning_content": "a"}, [Reasoning(0, "a")]),
        ({"reasoning": "a", "reasoning_details": [{"text": "a", "signature": "s"}]}, [Reasoning(0, "a", "s")]),
        ({"reasoning_details": [{"summary": "a"}, {"data": "d", "id": "i"}]}, [Reasoning(0, "a"), Sealed(0, "d", "i")]),
        ({"reasoning_details": [{"signature": "s"}, None, {}]}, [Reasoning(0, "", "s")]),
        ({"reasoning_details": "x", "reasoning": "a"}, [Reasoning(0, "a")]),
        ({"content": "b", "reasoning": "a"}, [Reasoning(0, "a"), Text(0, "b")]),
    ],
)
def test_a_thought_is_read_once_and_apart_from_the_answer(delta: dict[str, Any], expected: list[Event]) -> None:
    assert said(delta) == expected


def test_parallel_calls_keep_their_ids_their_order_and_their_pieces() -> None:
    events = said(
        {"tool_calls": [call(0, "a", "tide", "")]},
        {"tool_calls": [call(0, arguments='{"p'), call(1, "b", "moon", '{"')]},
        {"tool_calls": [call(1, arguments='q":2}')]},
        {"tool_calls": [call(0, arguments='":1}')]},
        finish="tool_calls",
    )
    assert events == [
        ToolCallStarted(0, 0, "a", "tide"),
        ToolArguments(0, 0, '{"p'),
        ToolCallStarted(0, 1, "b", "moon"),
        ToolArguments(0, 1, '{"'),
        ToolArguments(0, 1, 'q":2}'),
        ToolArguments(0, 0, '":1}'),
        ToolCallEnded(0, 0),
        ToolCallEnded(0, 1),
        Finished(0, "tool_calls"),
    ]


def test_calls_of_several_choices_are_counted_apart() -> None:
    events = events_of(
        chunk(choice(index=1, tool_calls=[call(0, "a", "tide", "{}")])),
        chunk(choice(index=0, tool_calls=[call(0, "b", "moon", "{}")])),
        frame_of(b"[DONE]"),
        choices=2,
    )
    assert [event for event in events if isinstance(event, ToolCallStarted)] == [
        ToolCallStarted(1, 0, "a", "tide"),
        ToolCallStarted(0, 0, "b", "moon"),
    ]
    assert events[-3:] == [ToolCallEnded(1, 0), ToolCallEnded(0, 0), Done()]


@pytest.mark.parametrize("place", [0, None])
def test_whole_calls_at_the_same_place_are_told_apart_by_their_ids(place: int | None) -> None:
    events = said(
        {"tool_calls": [call(place, "a", "tide", '{"x":1}'), call(place, "b", "tide", '{"x":2}')]}, finish="tool_calls"
    )
    assert [event for event in events if isinstance(event, ToolArguments)] == [
        ToolArguments(0, 0, '{"x":1}'),
        ToolArguments(0, 1, '{"x":2}'),
    ]


def test_an_id_and_name_that_are_repeated_begin_no_new_call() -> None:
    events = said({"tool_calls": [call(0, "a", "tide", "{")]}, {"tool_calls": [call(0, "a", "tide", "}")]})
    assert events == [ToolCallStarted(0, 0, "a", "tide"), ToolArguments(0, 0, "{"), ToolArguments(0, 0, "}")]


def test_calls_without_ids_and_places_get_ids_of_their_own() -> None:
    events = said({"tool_calls": [call(None, None, "tide", "{}"), call(None, None, "moon", "{}")]})
    assert [event.id for event in events if isinstance(event, ToolCallStarted)] == ["call_c1_0_0", "call_c1_0_1"]


def test_a_call_is_told_when_its_name_is_known_or_nothing_follows() -> None:
    assert said({"tool_calls": [call(0, "a")]}) == []
    assert said({"tool_calls": [call(0, "a")]}, {"tool_calls": [call(0, None, "tide")]}) == [
        ToolCallStarted(0, 0, "a", "tide")
    ]
    assert said({"tool_calls": [call(0, "a", None, "{")]}) == []
    assert said({"tool_calls": [call(0, "a", None, "{")]}, finish="stop")[:2] == [
        ToolCallStarted(0, 0, "a", ""),
        ToolArguments(0, 0, "{"),
    ]
    assert said({"tool_calls": [call(0, "a")]}, finish="stop")[0] == ToolCallStarted(0, 0, "a", "")


@pytest.mark.parametrize("place", [0, None])
def test_arguments_before_the_name_wait_for_it_and_make_one_call(place: int | None) -> None:
    pieces = ({"tool_calls": [call(place, arguments=piece)]} for piece in ('{"x"', ":1"))
    assert said(*pieces, {"tool_calls": [call(place, "a", "tide", "}")]}, finish="tool_calls") == [
        ToolCallStarted(0, 0, "a", "tide"),
        ToolArguments(0, 0, '{"x"'),
        ToolArguments(0, 0, ":1"),
        ToolArguments(0, 0, "}"),
        ToolCallEnded(0, 0),
        Finished(0, "tool_calls"),
    ]


def test_calls_are_counted_in_the_order_in_which_they_are_told() -> None:
    events = said(
        {"tool_calls": [call(0, arguments="{}"), call(1, "b", "moon", "{}")]},
        {"tool_calls": [call(0, "a", "tide")]},
        finish="tool_calls",
    )
    assert events == [
        ToolCallStarted(0, 0, "b", "moon"),
        ToolArguments(0, 0, "{}"),
        ToolCallEnded(0, 0),
        ToolCallStarted(0, 1, "a", "tide"),
        ToolArguments(0, 1, "{}"),
        ToolCallEnded(0, 1),
        Finished(0, "tool_calls"),
    ]


def test_what_waits_for_a_name_is_bounded() -> None:
    half = "x" * (MAX_KEPT_CHARS // 2 + 1)
    pieces = [{"tool_calls": [call(0, arguments=half)]}] * 2
    assert said(*pieces, {"tool_calls": [call(0, "late", "tide", "x")]}) == [
        ToolCallStarted(0, 0, "call_c1_0_0", ""),
        ToolArguments(0, 0, half),
        ToolArguments(0, 0, half),
        ToolArguments(0, 0, "x"),
    ]


def test_a_whole_call_ends_when_the_next_one_of_its_choice_begins() -> None:
    assert said(
        {"tool_calls": [call(0, "a", "tide", "")]},
        {"tool_calls": [call(0, arguments='{"p":"}')]},
        {"tool_calls": [call(0, arguments='"} ')]},
        {"tool_calls": [call(1, "b", "moon", "{}")]},
        {"tool_calls": [call(0, arguments="\n")]},
    ) == [
        ToolCallStarted(0, 0, "a", "tide"),
        ToolArguments(0, 0, '{"p":"}'),
        ToolArguments(0, 0, '"} '),
        ToolCallEnded(0, 0),
        ToolCallStarted(0, 1, "b", "moon"),
        ToolArguments(0, 1, "{}"),
    ]


@pytest.mark.parametrize("before", ["", "{", '{"p":', '{"p":"}', "[]", "x", "[" * 100_000, '{"p":"\ud83c"}'])
def test_a_call_that_could_go_on_ends_with_its_choice(before: str) -> None:
    calls = [
        call(0, "a", "tide", before),
        call(1, "b", "moon", "{}"),
        call(0, arguments="1"),
        call(2, "c", "sun", "{}"),
    ]
    events = said({"tool_calls": calls}, finish="tool_calls")
    pieces = [event.fragment for event in events if isinstance(event, ToolArguments) and event.call == 0]
    assert "".join(pieces) == before + "1"
    assert [event.call for event in events if isinstance(event, ToolCallEnded)] == [1, 0, 2]
    assert events[-4] == ToolArguments(0, 2, "{}")


def test_a_call_longer_than_what_is_kept_ends_with_its_choice() -> None:
    long = json.dumps({"x": "x" * MAX_KEPT_CHARS})
    calls = [call(0, "a", "tide", long), call(1, "b", "moon", "{}"), call(2, "c", "sun", "{}")]
    events = said({"tool_calls": calls}, finish="tool_calls")
    assert [event.call for event in events if isinstance(event, ToolCallEnded)] == [1, 0, 2]


def test_calls_of_another_choice_end_no_call() -> None:
    events = events_of(
        chunk(choice(index=0, tool_calls=[call(0, "a", "tide", "{}")])),
        chunk(choice(index=1, tool_calls=[call(0, "b", "moon", "{}")])),
        choices=2,
    )
    assert not [event for event in events if isinstance(event, ToolCallEnded)]


@pytest.mark.parametrize("after", [call(1, "b", "moon", "{}"), None], ids=["next", "finish"])
def test_a_call_that_goes_on_after_its_end_cannot_be_read(after: Any) -> None:
    whole = choice(tool_calls=[call(0, "a", "tide", "{}")])
    end = choice(tool_calls=[after]) if after else choice("tool_calls")
    with pytest.raises(FrameError, match="after its end"):
        events_of(chunk(whole), chunk(end), chunk(choice(tool_calls=[call(0, arguments='{"x":1}')])))


def test_a_call_after_the_end_of_its_choice_ends_with_the_stream() -> None:
    frames = (choice("tool_calls", tool_calls=[call(0, "a", "tide", "{}")]), choice(tool_calls=[call(1, "b", "moon")]))
    assert events_of(*map(chunk, frames), frame_of(b"[DONE]"))[-4:] == [
        ToolCallStarted(0, 1, "b", "moon"),
        ToolArguments(0, 1, "{}"),
        ToolCallEnded(0, 1),
        Done(),
    ]


def test_arguments_that_come_as_an_object_are_its_json() -> None:
    events = said({"tool_calls": [call(0, "a", "tide", {"x": [1, "é"]})]}, {"function_call": {"arguments": {}}})
    assert events == [ToolCallStarted(0, 0, "a", "tide"), ToolArguments(0, 0, '{"x":[1,"é"]}')]


@pytest.mark.parametrize("arguments", [7, True, [1]])
def test_arguments_that_are_neither_a_text_nor_an_object_cannot_be_read(arguments: Any) -> None:
    with pytest.raises(FrameError, match="arguments"):
        said({"tool_calls": [call(0, "a", "tide", arguments)]})


@pytest.mark.parametrize("end", [chunk(choice("tool_calls")), frame_of(b"[DONE]")], ids=["finish", "done"])
def test_no_arguments_are_those_of_an_empty_object(end: Frame) -> None:
    events = events_of(chunk(choice(tool_calls=[call(0, "a", "tide", "")])), end)
    assert events[1:4] == [ToolCallStarted(0, 0, "a", "tide"), ToolArguments(0, 0, "{}"), ToolCallEnded(0, 0)]


def test_a_call_ends_once() -> None:
    frames = (chunk(choice("tool_calls", tool_calls=[call(0, "a", "tide", "{}")])), frame_of(b"[DONE]"))
    assert events_of(*frames).count(ToolCallEnded(0, 0)) == 1


def test_a_call_of_a_function_as_it_was_once_said_is_a_call() -> None:
    pieces = [{"function_call": {"name": "tide", "arguments": ""}}, {"function_call": {"arguments": "{}"}}]
    assert said(*pieces, finish="function_call") == [
        ToolCallStarted(0, 0, "call_c1_0_0", "tide"),
        ToolArguments(0, 0, "{}"),
        ToolCallEnded(0, 0),
        Finished(0, "tool_calls"),
    ]


def test_what_must_come_back_with_a_call_is_kept() -> None:
    extra = {"google": {"thought_signature": "s"}}
    assert said({"tool_calls": [call(0, "a", "tide", extra_content=extra)]})[0].signature == "s"  # type: ignore[union-attr]
    assert said({"tool_calls": [call(0, "a", "tide", extra_content={"google": 1})]})[0].signature == ""  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "frame",
    [
        frame_of({}),
        chunk(),
        frame_of({"choices": None}),
        frame_of({"choices": "x", "usage": 7}),
        frame_of({"choices": [], "usage": {"tokens": 1}, "error": None}),
    ],
)
def test_an_object_that_says_nothing_is_no_event(frame: Frame) -> None:
    assert [event for event in events_of(frame) if not isinstance(event, Started)] == []


@pytest.mark.parametrize(
    "odd",
    [
        {"delta": "x"},
        {"delta": {"content": ["x"], "refusal": 7, "reasoning": {}, "tool_calls": "x", "function_call": []}},
        {"delta": {"tool_calls": [None, "x", {"index": 0, "function": "x"}]}},
        {"delta": {"role": 7}, "finish_reason": 7, "index": "x"},
        {"index": -1},
        7,
        None,
    ],
)
def test_a_member_of_an_unexpected_type_says_nothing_and_costs_the_others_nothing(odd: Any) -> None:
    events = events_of(chunk(odd, choice(content="a")), chunk(choice("stop", content="b")), frame_of(b" [DONE] "))
    assert events == [START, Text(0, "a"), Text(0, "b"), Finished(0, "stop"), Done()]


def test_the_first_word_may_lack_everything() -> None:
    odd = frame_of({"id": None, "model": 7, "created": "x", "choices": [choice(content="a")]})
    assert events_of(odd) == [Started("", "", 0), Text(0, "a")]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"error": {"message": "It broke.", "type": "t", "code": 503}}, ProviderError("It broke.", "t", "503", None, 503)),
        ({"object": "error", "message": "It broke."}, ProviderError("It broke.")),
        ({"error": "It broke.", "choices": [choice(content="late")]}, ProviderError("It broke.")),
    ],
)  # fmt: skip
def test_an_error_is_the_last_word(value: Any, error: ProviderError) -> None:
    assert events_of(frame_of(value)) == [Failed(error)]


def test_an_empty_error_is_none() -> None:
    assert events_of(chunk(choice(content="a"), error={}), chunk(object="error")) == [START, Text(0, "a")]


@pytest.mark.parametrize(
    "data", [b"{", b"[1]", b"no json", b'"[DONE]"', b'{"choices":' + b"[" * 100_000, b'{"x":"\xff"']
)
def test_what_is_no_object_cannot_be_read(data: bytes) -> None:
    with pytest.raises(FrameError):
        events_of(frame_of(data))


def test_what_is_kept_of_a_stream_is_bounded() -> None:
    assert events_of(chunk(choice(index=MAX_CHOICES - 1, content="a")))
    with pytest.raises(FrameError, match="choices"):
        events_of(chunk(choice(index=MAX_CHOICES, content="a")))
    calls = [call(number, str(number), "tide", "{}") for number in range(MAX_CALLS)]
    assert events_of(chunk(choice(tool_calls=calls)))
    with pytest.raises(FrameError, match="calls"):
        events_of(chunk(choice(tool_calls=calls)), chunk(choice(index=1, tool_calls=[call(0, "x", "tide", "{}")])))


@pytest.mark.parametrize(
    ("choices", "finished", "completes"), [(1, [0], True), (2, [0], False), (2, [0, 1], True), (1, [], False)]
)
def test_a_stream_without_its_terminal_event_is_complete_when_every_choice_has_finished(
    choices: int, finished: list[int], completes: bool
) -> None:
    decoder = DIALECT.decoder(ask(choices))
    for index in finished:
        decoder.feed(chunk(choice("stop", index)))
    assert list(decoder.finish()) == ([Done()] if completes else [])


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_stream_of_text_is_written_as_openai_writes_it() -> None:
    events = (START, Text(0, "a"), Text(0, "b"), Finished(0, "stop"), Done())
    around = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    assert written(*events) == [
        {**around, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        for delta, finish in [
            ({"role": "assistant", "content": ""}, None),
            ({"content": "a"}, None),
            ({"content": "b"}, None),
            ({}, "stop"),
        ]
    ] + ["[DONE]"]


def test_each_choice_begins_with_its_role() -> None:
    frames = written(Text(1, "b"), Text(0, "a"), Text(1, "c"))
    assert [(frame["choices"][0]["index"], frame["choices"][0]["delta"]) for frame in frames] == [
        (1, {"role": "assistant", "content": ""}),
        (1, {"content": "b"}),
        (0, {"role": "assistant", "content": ""}),
        (0, {"content": "a"}),
        (1, {"content": "c"}),
    ]


def test_calls_are_written_piece_by_piece_and_their_message_has_no_content() -> None:
    started = ToolCallStarted(0, 1, "a", "tide", "s")
    assert deltas(started, ToolArguments(0, 1, "{"), ToolArguments(0, 1, "}"), ToolCallEnded(0, 1)) == [
        {"role": "assistant", "content": None},
        {
            "tool_calls": [
                {
                    "index": 1,
                    "id": "a",
                    "type": "function",
                    "function": {"name": "tide", "arguments": ""},
                    "extra_content": {"google": {"thought_signature": "s"}},
                }
            ]
        },
        {"tool_calls": [{"index": 1, "function": {"arguments": "{"}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "}"}}]},
    ]
    assert "extra_content" not in deltas(ToolCallStarted(0, 0, "a", "tide"))[1]["tool_calls"][0]


def test_refusals_and_thoughts_have_members_of_their_own() -> None:
    assert deltas(Refusal(0, "no")) == [{"role": "assistant", "content": None}, {"refusal": "no"}]
    assert deltas(Reasoning(0, "a"), Reasoning(0, "", "s"), Sealed(0, "d"), Sealed(0, "d", "i"))[1:] == [
        {"reasoning_content": "a"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "", "index": 0, "signature": "s"}]},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "d", "index": 1}]},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "d", "index": 2, "id": "i"}]},
    ]


def test_usage_comes_once_and_last_for_those_who_ask_and_not_for_others() -> None:
    first, last = UsageSeen(Usage(1, 1)), UsageSeen(Usage(9, 4, cached_tokens=2, reasoning_tokens=3))
    events = (first, Text(0, "a"), last, Finished(0, "stop"), Done())
    asked, others = written(*events, wants_usage=True), written(*events)
    assert [frame["usage"] for frame in asked[:-2]] == [None] * 3
    assert asked[-2]["choices"] == []
    assert asked[-2]["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert len(others) == 4
    assert all("usage" not in frame for frame in others[:-1])
    assert written(Text(0, "a"), Done(), wants_usage=True)[-2]["choices"] != []


def test_an_error_is_written_as_the_sdk_knows_it() -> None:
    assert written(Failed(ProviderError("no", "kind", "c", "p"))) == [
        {"error": {"message": "no", "type": "kind", "param": "p", "code": "c"}}
    ]
    assert written(Failed(ProviderError("no")))[0]["error"]["type"] == "server_error"


def test_half_a_surrogate_pair_passes_as_it_came() -> None:
    frame = frame_of(rb'{"id":"\ud83c","choices":[{"index":0,"delta":{"content":"a\ud83c"}},{"index":0,"delta":"x"}]}')
    data = DIALECT.encoder(ask(), ORIGIN).write(events_of(frame))
    assert data.count(rb"a\ud83c") == 1
    assert data.isascii()
    error = Failed(ProviderError("\ud83c", "t"))
    assert events_of(*frames_of(DIALECT.encoder(ask(), ORIGIN).write([error]))) == [error]


# --- both ------------------------------------------------------------------------------------------------------------

texts = st.text(min_size=1, max_size=12) | st.sampled_from(["data: x\n\n", "[DONE]", '"', "\\", "\ud83c", "\r\n", "🌊"])
names = st.text(min_size=1, max_size=8)


@st.composite
def choice_events(draw: st.DrawFn, index: int) -> list[Event]:
    """Give what one choice says: text, thoughts, refusals, calls whose pieces come in any order; then its end."""
    plain: list[Event] = draw(
        st.lists(
            st.one_of(
                st.builds(Text, st.just(index), texts),
                st.builds(Reasoning, st.just(index), texts, st.just("") | names),
                st.builds(Sealed, st.just(index), names, st.just("") | names),
                st.builds(Refusal, st.just(index), texts),
            ),
            max_size=5,
        )
    )
    idents = draw(st.lists(names, max_size=3, unique=True))
    calls: list[list[Event]] = [
        [
            ToolCallStarted(index, number, ident, draw(names), draw(st.just("") | names)),
            *[ToolArguments(index, number, piece) for piece in draw(st.lists(texts, min_size=1, max_size=4))],
        ]
        for number, ident in enumerate(idents)
    ]
    starts, pieces = [call[:1] for call in calls], [call[1:] for call in calls]
    said = [*draw(mixed([plain, [event for start in starts for event in start]])), *draw(mixed(pieces))]
    ends = [ToolCallEnded(index, number) for number in range(len(calls))]
    return [*said, *ends, Finished(index, draw(st.sampled_from(["stop", "length", "tool_calls"]) | names))]


@st.composite
def mixed(draw: st.DrawFn, lists: list[list[Event]]) -> list[Event]:
    """Give the events of several lists, each list's in its order."""
    turns = draw(st.permutations([number for number, events in enumerate(lists) for _ in events]))
    left = [iter(events) for events in lists]
    return [next(left[turn]) for turn in turns]


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, list[Event]]:
    """Give a number of choices, and all that a stream with them says."""
    choices = draw(st.integers(1, 3))
    # The end of a choice's calls and of the choice are one frame: nothing comes between them.
    apart = [draw(choice_events(index)) for index in range(choices)]
    body = draw(mixed([[event for event in events if not _ends(event)] for events in apart]))
    ends = [event for events in apart for event in events if _ends(event)]
    counts = st.integers(0, 2**53)
    usage = draw(st.none() | st.builds(Usage, counts, counts, counts, counts, cache_write_tokens=counts))
    spent = [UsageSeen(usage)] if usage else []
    error = st.builds(ProviderError, names, names, st.none() | names, st.none() | names)
    last = draw(st.none() | st.builds(Failed, error))
    started = draw(st.builds(Started, names, names, st.integers(1, 2**53)))
    return choices, [started, *body, *ends, *([*spent, Done()] if last is None else [last])]


def _ends(event: Event) -> bool:
    return isinstance(event, (ToolCallEnded, Finished))


def decoded(data: bytes, cuts: Sequence[int], choices: int) -> list[Event]:
    """Give the events of bytes that come cut."""
    framer, decoder = SseFramer(), DIALECT.decoder(ask(choices))
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    parts = [data[start:end] for start, end in pairwise(edges)]
    events = [event for part in parts for frame in framer.feed(part) for event in decoder.feed(frame)]
    framer.finish()
    return events


def by_words(events: Sequence[Event]) -> list[Event]:
    """Give events without what follows from other words of an error."""
    return [
        Failed(ProviderError(event.error.message, event.error.kind, event.error.code, event.error.param))
        if isinstance(event, Failed)
        else event
        for event in events
    ]


@settings(max_examples=250, deadline=None)
@given(streams(), st.lists(st.integers(0, 2**30), max_size=12))
def test_what_is_written_reads_the_same_however_it_is_cut(stream: tuple[int, list[Event]], cuts: list[int]) -> None:
    choices, events = stream
    data = DIALECT.encoder(ask(choices), ORIGIN).write(events)
    assert by_words(decoded(data, cuts, choices)) == events


@settings(max_examples=100, deadline=None)
@given(streams(), st.lists(st.integers(0, 40), max_size=12))
def test_it_makes_no_difference_how_events_are_handed_to_the_writer(
    stream: tuple[int, list[Event]], sizes: list[int]
) -> None:
    choices, events = stream
    encoder, parts, rest = DIALECT.encoder(ask(choices), ORIGIN), [], list(events)
    for size in sizes:
        parts.append(encoder.write(rest[:size]))
        rest = rest[size:]
    assert b"".join([*parts, encoder.write(rest)]) == DIALECT.encoder(ask(choices), ORIGIN).write(events)


@pytest.mark.parametrize("name", ["usage", "vllm", "azure", "tools", "reasoning"])
def test_a_provider_s_stream_says_the_same_after_it_was_translated(name: str) -> None:
    said = events_of(*frames_of((GOLDEN / f"{name}.sse").read_bytes()))
    again = events_of(*frames_of(DIALECT.encoder(ask(), ORIGIN).write(said)))
    assert again == said
    assert isinstance(said[-1], Done)
