import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from bedrock_streams import GOLDEN, by_botocore, error, event, exception, golden, messages_of, service
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import EventStreamError
from hypothesis import given, settings
from hypothesis import strategies as st

from conversing import check_grammar, event_streams, joined
from tidegate.dialect import ProviderDialect, ProviderError, Sight
from tidegate.dialect.bedrock import BedrockConverse
from tidegate.dialect.events import (
    Done,
    Event,
    Failed,
    Finished,
    Reasoning,
    Sealed,
    Started,
    Text,
    ToolArguments,
    ToolCallEnded,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.dialect.whole import MAX_CALLS
from tidegate.exchange import Ask, Usage
from tidegate.wire import Frame, Framed, FrameError
from tidegate.wire.eventstream import EventStreamFramer, Message, encode

DIALECT: ProviderDialect = BedrockConverse()
ASK = Ask(model="m", stream=True, wants_usage=True, body=b"")
KIT = "tooluse_kZJMlvQmRJ6eAyJE5GIl7Q"
TIME = "tooluse_Xq1Ga3S7TvyVJv0ZPq2d1A"
STREAMS = sorted(path.stem for path in GOLDEN.glob("*.bin"))
CONVERSED = [name for name in STREAMS if not name.startswith("invoke")]

EXPECTED: dict[str, list[Event]] = {
    "text": [
        *(
            Started(),
            Text(0, "The"),
            Text(0, " tide"),
            Text(0, " turns at 6:12"),
            Text(0, ' – "Ebbe" 🌊'),
            Text(0, "."),
        ),
        *(Finished(0, "stop"), UsageSeen(Usage(12, 9)), Done()),
    ],
    "length": [Started(), Text(0, "Once upon"), Finished(0, "length"), UsageSeen(Usage(4, 2)), Done()],
    "cached": [Started(), Text(0, "Yes."), Finished(0, "stop"), UsageSeen(Usage(1703, 4, 1500, 0, 200)), Done()],
    "tools": [
        *(Started(), Text(0, "Let me look."), ToolCallStarted(0, 0, KIT, "get_tide")),
        *(ToolArguments(0, 0, '{"ha'), ToolArguments(0, 0, 'rbour": "Br'), ToolArguments(0, 0, 'est", "day": 1}')),
        *(ToolCallEnded(0, 0), ToolCallStarted(0, 1, TIME, "get_time"), ToolArguments(0, 1, "{}"), ToolCallEnded(0, 1)),
        *(Finished(0, "tool_calls"), UsageSeen(Usage(345, 87)), Done()),
    ],
    "reasoning": [
        *(Started(), Reasoning(0, "The moon"), Reasoning(0, " is full."), Reasoning(0, "", "EpYCCkYICxgCKkAbc+/==")),
        *(Sealed(0, "RW1ZQ0N1d0dFd2c="), Text(0, "Spring tide")),
        *(Finished(0, "stop"), UsageSeen(Usage(30, 120)), Done()),
    ],
    "guardrail": [
        *(Started(), Text(0, "Sorry, the guardrail stopped this."), Finished(0, "content_filter")),
        *(UsageSeen(Usage(5, 0)), Done()),
    ],
    "throttled": [
        Failed(
            ProviderError("Too many tokens, please wait before trying again.", kind="throttlingException", status=429)
        )
    ],
    "broken": [
        *(Started(), Text(0, "The ti")),
        Failed(
            ProviderError(
                "The system encountered an unexpected error during processing. Try your request again.",
                kind="modelStreamErrorException",
                status=500,
            )
        ),
    ],
    "internal": [Started(), Failed(ProviderError("An internal server error occurred", kind="InternalFailure"))],
}


def events_of(*frames: Framed) -> list[Event]:
    decoder = DIALECT.decoder(ASK)
    return [said for frame in frames for said in decoder.feed(frame)]


def read(pieces: Sequence[bytes]) -> list[Event]:
    framer = EventStreamFramer()
    return events_of(*(frame for piece in pieces for frame in framer.feed(piece)), *framer.finish())


def delta(place: int, **said: Any) -> Message:
    return event("contentBlockDelta", {"contentBlockIndex": place, "delta": said})


def tool(place: int, ident: Any = "t1", name: Any = "tide") -> Message:
    start = {"toolUse": {"toolUseId": ident, "name": name}}
    return event("contentBlockStart", {"contentBlockIndex": place, "start": start})


def argued(place: int, piece: Any) -> Message:
    return delta(place, toolUse={"input": piece})


START = event("messageStart", {"role": "assistant"})
STOP = event("messageStop", {"stopReason": "end_turn"})
USAGE = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}
METADATA = event("metadata", {"usage": USAGE, "metrics": {"latencyMs": 1}})


# --- golden streams --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_a_golden_stream_is_what_its_lines_say_and_botocore_reads(name: str) -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(golden(name))
    lines = [json.loads(line) for line in (GOLDEN / f"{name}.jsonl").read_text().splitlines()]
    assert b"".join(messages_of(name)) == golden(name)
    assert [[found.headers, found.payload.decode()] for found in buffer] == lines


@pytest.mark.parametrize("name", CONVERSED)
def test_a_golden_stream_says_what_is_expected_at_every_cut(name: str) -> None:
    stream, expected = golden(name), EXPECTED[name]
    for at in range(len(stream) + 1):
        assert read([stream[:at], stream[at:]]) == expected
    assert read([stream[at : at + 1] for at in range(len(stream))]) == expected
    check_grammar(expected)


@pytest.mark.parametrize("name", [name for name in CONVERSED if isinstance(EXPECTED[name][-1], Done)])
def test_botocore_reads_the_same_by_the_service_s_model(name: str) -> None:
    found = by_botocore("ConverseStream", golden(name))
    deltas = [item["contentBlockDelta"]["delta"] for item in found if "contentBlockDelta" in item]
    texts = "".join(piece.get("text", "") for piece in deltas)
    thoughts = "".join(piece.get("reasoningContent", {}).get("text", "") for piece in deltas)
    assert texts == "".join(said.text for said in EXPECTED[name] if isinstance(said, Text))
    assert thoughts == "".join(said.text for said in EXPECTED[name] if isinstance(said, Reasoning))
    assert "metadata" in found[-1]


@pytest.mark.parametrize("name", ["throttled", "broken", "internal"])
def test_botocore_fails_where_a_failure_is_read(name: str) -> None:
    last = EXPECTED[name][-1]
    assert isinstance(last, Failed)
    with pytest.raises(EventStreamError, match=str(last.error.kind)):
        by_botocore("ConverseStream", golden(name))


@pytest.mark.parametrize("name", CONVERSED)
def test_a_stream_that_is_cut_short_is_not_complete(name: str) -> None:
    messages = messages_of(name)
    for end in range(len(messages)):
        decoder = DIALECT.decoder(ASK)
        said = [said for raw in messages[:end] for said in decoder.feed(Message(raw))]
        finished = any(isinstance(one, Finished) for one in said)
        assert not any(isinstance(one, (Done, Failed)) for one in said)
        assert list(decoder.finish()) == ([Done()] if finished else [])


# --- single messages -------------------------------------------------------------------------------------------------


def test_a_frame_of_another_framing_is_refused() -> None:
    with pytest.raises(FrameError, match="no message of an event stream"):
        DIALECT.decoder(ASK).feed(Frame(b"data: {}\n\n"))
    with pytest.raises(FrameError, match="no message of an event stream"):
        DIALECT.look(Frame(b"data: {}\n\n"))


def test_a_message_of_an_unknown_type_says_nothing_whatever_is_in_it() -> None:
    unknown = Message(encode({":message-type": "news", ":event-type": "messageStart"}, b"{}"))
    assert events_of(event("tideTable", b"\xff"), unknown, Message(encode({}, b""))) == []


def test_a_payload_that_is_no_object_is_refused() -> None:
    for payload in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(FrameError, match="JSON"):
            events_of(event("contentBlockDelta", payload))


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"delta": None},
        {"delta": 5},
        {"delta": {"text": 5}},
        {"delta": {"text": ""}},
        {"delta": {"toolUse": {"input": "{}"}}, "contentBlockIndex": 0},
        {"delta": {"toolUse": 5}, "contentBlockIndex": [1]},
        {"delta": {"reasoningContent": "thinking"}},
        {"delta": {"reasoningContent": {"text": 1, "signature": [], "redactedContent": {}}}},
        {"delta": {"citation": {"title": "Tides"}}},
    ],
)
def test_a_delta_of_an_unexpected_shape_says_nothing(payload: Any) -> None:
    assert events_of(START, event("contentBlockDelta", payload)) == [Started()]


@pytest.mark.parametrize("kind", ["contentBlockStart", "contentBlockStop", "messageStop", "metadata", "messageStart"])
@pytest.mark.parametrize("value", [None, 5, "x", [], {}, {"toolUse": 7}, {"inputTokens": "3"}])
def test_other_events_of_an_unexpected_shape_say_nothing(kind: str, value: Any) -> None:
    members = {"start": value, "contentBlockIndex": value, "usage": value, "stopReason": value, "delta": value}
    said = events_of(START, event(kind, members))
    assert said == ([Started(), Finished(0, "x")] if kind == "messageStop" and value == "x" else [Started()])


def test_half_a_surrogate_pair_is_let_through() -> None:
    payload = b'{"contentBlockIndex":0,"delta":{"text":"\\ud83c"}}'
    assert events_of(START, event("contentBlockDelta", payload)) == [Started(), Text(0, "\ud83c")]


def test_a_stream_without_its_start_is_started_all_the_same() -> None:
    assert events_of(delta(0, text="Hi")) == [Started(), Text(0, "Hi")]


def test_pieces_of_calls_may_be_mixed_and_are_kept_apart_by_their_place() -> None:
    said = events_of(
        *(START, tool(3, "a", "tide"), tool(1, "b", "moon"), argued(1, '{"b"'), argued(3, '{"a":1}'), argued(1, ":2}")),
        *(event("contentBlockStop", {"contentBlockIndex": 3}), event("contentBlockStop", {"contentBlockIndex": 1})),
    )
    assert said == [
        *(Started(), ToolCallStarted(0, 0, "a", "tide"), ToolCallStarted(0, 1, "b", "moon")),
        *(ToolArguments(0, 1, '{"b"'), ToolArguments(0, 0, '{"a":1}'), ToolArguments(0, 1, ":2}")),
        *(ToolCallEnded(0, 0), ToolCallEnded(0, 1)),
    ]


def test_calls_that_nobody_ended_end_before_the_answer_does() -> None:
    said = events_of(START, tool(0), argued(0, "{}"), tool(0, "t2"), STOP)
    assert said == [
        *(Started(), ToolCallStarted(0, 0, "t1", "tide"), ToolArguments(0, 0, "{}"), ToolCallEnded(0, 0)),
        *(ToolCallStarted(0, 1, "t2", "tide"), ToolArguments(0, 1, "{}"), ToolCallEnded(0, 1), Finished(0, "stop")),
    ]


def test_a_call_without_an_id_gets_one() -> None:
    assert events_of(START, tool(0, None, None))[1] == ToolCallStarted(0, 0, "call_bedrock_0_0", "")


def test_calls_have_a_limit() -> None:
    decoder = DIALECT.decoder(ASK)
    for number in range(MAX_CALLS):
        decoder.feed(tool(number))
    with pytest.raises(FrameError, match=f"more than {MAX_CALLS} calls"):
        decoder.feed(tool(MAX_CALLS))


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "tool_calls"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
    ],
)
def test_the_reason_is_told_in_neutral_words_where_there_is_one(word: str, reason: str) -> None:
    assert word in service().shape_for("StopReason").enum
    assert events_of(START, event("messageStop", {"stopReason": word})) == [Started(), Finished(0, reason)]


def test_a_reason_that_nobody_knows_is_told_as_it_is() -> None:
    assert events_of(event("messageStop", {"stopReason": "ebbed"}))[-1] == Finished(0, "ebbed")


@pytest.mark.parametrize("word", ["malformed_tool_use", "malformed_model_output"])
def test_an_answer_that_cannot_be_read_is_an_error_and_no_end(word: str) -> None:
    assert word in service().shape_for("StopReason").enum
    decoder = DIALECT.decoder(ASK)
    decoder.feed(tool(0))
    (failed,) = decoder.feed(event("messageStop", {"stopReason": word}))
    assert isinstance(failed, Failed)
    assert (failed.error.kind, failed.error.code, failed.error.status) == (word, None, 502)
    assert failed.error.message.startswith("the model ")
    assert decoder.finish() == ()


def test_a_second_stop_says_nothing_and_metadata_alone_is_no_end() -> None:
    decoder = DIALECT.decoder(ASK)
    assert decoder.feed(METADATA) == [Started(), UsageSeen(Usage(3, 2))]
    assert decoder.finish() == ()
    assert decoder.feed(STOP) == [Finished(0, "stop")]
    assert decoder.feed(event("messageStop", {"stopReason": "max_tokens"})) == ()
    assert decoder.finish() == (Done(),)
    assert decoder.feed(event("metadata", {})) == [Done()]


# --- failures --------------------------------------------------------------------------------------------------------

ANSWERED = ["Converse", "ConverseStream", "InvokeModelWithResponseStream"]
EXCEPTIONS = {shape.name: shape for name in ANSWERED for shape in service().operation_model(name).error_shapes}


@pytest.mark.parametrize("name", sorted(EXCEPTIONS))
def test_every_exception_of_the_service_has_the_status_that_its_model_gives(name: str) -> None:
    kind = name[0].lower() + name[1:]
    given = EXCEPTIONS[name].metadata["error"]["httpStatusCode"]
    status = 500 if given == 424 else given  # a model that failed: everywhere else, 424 is a client's mistake
    expected = Failed(ProviderError("No tide.", kind=kind, status=status))
    assert events_of(exception(kind, {"message": "No tide."})) == [expected]
    assert DIALECT.look(exception(kind, {"message": "No tide."})) == (Sight.ERROR, expected.error)


def test_an_error_that_is_not_modelled_may_be_named_like_one_that_is() -> None:
    assert events_of(error("ThrottlingException", "Slow down.")) == [
        Failed(ProviderError("Slow down.", kind="ThrottlingException", status=429))
    ]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (exception("strangeException", b"no JSON"), "no JSON"),
        (exception("strangeException", {"Message": "Big M."}), "Big M."),
        (exception("strangeException", {"message": 5}), '{"message": 5}'),
        (exception("strangeException", b""), "the provider failed with strangeException"),
        (Message(encode({":message-type": "error"}, b"")), "the provider failed with an error"),
    ],
)
def test_a_failure_always_has_a_message(message: Message, said: str) -> None:
    (failed,) = events_of(message)
    assert isinstance(failed, Failed)
    assert (failed.error.message, failed.error.status) == (said, 0)


def test_a_long_message_of_a_failure_is_cut() -> None:
    (failed,) = events_of(exception("validationException", {"message": "x" * 10_000}))
    assert isinstance(failed, Failed)
    assert len(failed.error.message) == 4097


# --- looking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "sight"),
    [
        (START, Sight.SILENT),
        (event("contentBlockStart", {"start": {}, "contentBlockIndex": 0}), Sight.SILENT),
        (event("contentBlockStop", {"contentBlockIndex": 0}), Sight.SILENT),
        (METADATA, Sight.SILENT),
        (delta(0, text=""), Sight.SILENT),
        (delta(0, text="Hi"), Sight.CONTENT),
        (delta(0, reasoningContent={"text": "Hm"}), Sight.CONTENT),
        (tool(0), Sight.CONTENT),
        (STOP, Sight.CONTENT),
    ],
)
def test_a_message_of_a_stream_that_opens_is_judged(message: Message, sight: Sight) -> None:
    assert DIALECT.look(message) == (sight, None)


# --- any stream ------------------------------------------------------------------------------------------------------

LACKS = {
    *("Started.id", "Started.model", "Started.created", "Refusal", "Sealed.id", "ToolCallStarted.signature"),
    "Usage.reasoning_tokens",
}
WORDS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "content_filtered"}


def piece_of(said: Text | Reasoning | Sealed, place: int) -> list[Message]:
    match said:
        case Text(_, text):
            return [delta(place, text=text)]
        case Sealed(_, data):
            return [delta(place, reasoningContent={"redactedContent": data})]
        case Reasoning(_, text, signature):
            pieces = {"text": text, "signature": signature}
            return [delta(place, reasoningContent={name: piece}) for name, piece in pieces.items() if piece]


def call_of(said: Event, place: int) -> list[Message]:
    match said:
        case ToolCallStarted(_, _, ident, name):
            return [tool(place, ident, name)]
        case ToolArguments(_, _, piece):
            return [argued(place, piece)]
        case _:
            return [event("contentBlockStop", {"contentBlockIndex": place})]


def metadata(usage: Usage) -> Message:
    counts = {
        "inputTokens": usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens,
        "outputTokens": usage.output_tokens,
        "cacheReadInputTokens": usage.cached_tokens,
        "cacheWriteInputTokens": usage.cache_write_tokens,
    }
    return event("metadata", {"usage": counts, "metrics": {"latencyMs": 9}})


def written(events: Sequence[Event]) -> list[Message]:
    """Write events as Bedrock sends them, a block for each run of one kind; by another hand than the one that reads."""
    out, usage = [START], Usage()
    calls: dict[int, int] = {}
    run: type[Event] | None = None
    place = 0
    for said in events:
        if run is not None and run is not type(said):
            out.append(event("contentBlockStop", {"contentBlockIndex": place}))
            run, place = None, place + 1
        if isinstance(said, (Text, Reasoning, Sealed)):
            out += piece_of(said, place)
            run = type(said)
        elif isinstance(said, (ToolCallStarted, ToolArguments, ToolCallEnded)):
            if said.call not in calls:
                calls[said.call], place = place, place + 1
            out += call_of(said, calls[said.call])
        elif isinstance(said, Finished):
            out.append(event("messageStop", {"stopReason": WORDS[said.reason]}))
        elif isinstance(said, UsageSeen):
            usage = said.usage
    return [*out, metadata(usage)]


@settings(deadline=None, max_examples=60)
@given(event_streams(lacks=LACKS, interleaved=True), st.lists(st.integers(0, 1 << 14), max_size=6))
def test_what_any_stream_says_is_what_was_written(events: list[Event], cuts: list[int]) -> None:
    stream = b"".join(message.raw for message in written(events))
    edges = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]
    said = read([stream[start:end] for start, end in pairwise(edges)])
    check_grammar(said)
    last = [one for one in events if isinstance(one, UsageSeen)][-1:] or [UsageSeen(Usage())]
    assert joined(said) == joined([*(one for one in events if not isinstance(one, (UsageSeen, Done))), *last, Done()])


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("contentBlockIndex", "delta", "start", "toolUse", "toolUseId", "name", "input", "text"),
                    *("reasoningContent", "signature", "redactedContent", "stopReason", "usage", "inputTokens"),
                ]
            ),
            inner,
            max_size=4,
        ),
        max_leaves=12,
    ).filter(lambda value: isinstance(value, dict)),
)  # fmt: skip
def test_any_object_in_an_event_is_read_and_keeps_to_the_grammar(kind: str, payload: Any) -> None:
    check_grammar(events_of(START, event(kind, payload)))
