import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conversing import check_grammar
from tidegate.dialect import Notice, ProviderDialect, ProviderError, Sight
from tidegate.dialect.events import (
    Done,
    Event,
    Failed,
    Finished,
    Reasoning,
    Started,
    Text,
    ToolArguments,
    ToolCallEnded,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.dialect.ollama import Ollama
from tidegate.dialect.whole import MAX_CALLS
from tidegate.exchange import Ask, Usage
from tidegate.wire import Frame, Framed, FrameError
from tidegate.wire.ndjson import Line, NdjsonFramer

DIALECT: ProviderDialect = Ollama()
GOLDEN = Path(__file__).parents[1] / "golden" / "ollama"
ASK = Ask(model="m", stream=True, wants_usage=True, body=b"")
START = Started("", "qwen3:8b", 1777890030)


def line_of(value: Any) -> Line:
    return Line((value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n")


def message(done: Any = False, **members: Any) -> Line:
    return line_of({"model": "m", "message": {"role": "assistant", **members}, "done": done})


def read(frames: Sequence[Framed]) -> list[Event]:
    """Give all events of a stream that ends after these lines."""
    decoder = DIALECT.decoder(ASK)
    events = [event for frame in frames for event in decoder.feed(frame)]
    events += decoder.finish()
    check_grammar(events)
    return events


def said(**members: Any) -> list[Event]:
    events = read([message(**members)])
    assert events[0] == Started("", "m")
    return events[1:]


def lines(pieces: Sequence[bytes]) -> list[Framed]:
    framer = NdjsonFramer()
    return [*(frame for piece in pieces for frame in framer.feed(piece)), *framer.finish()]


# --- golden streams --------------------------------------------------------------------------------------------------

STREAMS: dict[str, list[Event]] = {
    "text.ndjson": [
        START,
        Text(0, "The tide"),
        Text(0, " “turns” — 潮🌊"),
        Text(0, '\n"error": {}'),
        UsageSeen(Usage(26, 12)),
        Finished(0, "stop"),
        Done(),
    ],
    "thinking.ndjson": [
        START,
        Reasoning(0, "High water"),
        Reasoning(0, " is at six."),
        Text(0, "At six."),
        UsageSeen(Usage(18, 64)),
        Finished(0, "length"),
        Done(),
    ],
    "tools.ndjson": [
        START,
        Reasoning(0, "Both."),
        ToolCallStarted(0, 0, "call_20260504T102030499127123Z_0_0", "tide"),
        ToolArguments(0, 0, '{"place":"Saint-Malo 🇫🇷","days":[1,2]}'),
        ToolCallEnded(0, 0),
        ToolCallStarted(0, 1, "call_20260504T102030499127123Z_0_1", "moon"),
        ToolArguments(0, 1, "{}"),
        ToolCallEnded(0, 1),
        ToolCallStarted(0, 2, "call_k3mv1x2a", "tide"),
        ToolArguments(0, 2, '{"place":"Brest"}'),
        ToolCallEnded(0, 2),
        UsageSeen(Usage(169, 18)),
        Finished(0, "tool_calls"),
        Done(),
    ],
    "error.ndjson": [
        START,
        Text(0, "The"),
        Failed(ProviderError("an error was encountered while running the model: unexpected EOF")),
    ],
    "unended.ndjson": [START, Text(0, "The tide"), UsageSeen(Usage(5, 2)), Finished(0, "stop"), Done()],
    "truncated.ndjson": [START, Text(0, "The tide"), Text(0, " turns")],
    "load.ndjson": [
        START,
        Failed(ProviderError("the provider loaded the model, and asked it nothing", "load", status=502)),
    ],
}


def test_every_golden_stream_is_told() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(STREAMS)


@pytest.mark.parametrize("name", STREAMS)
def test_a_providers_stream_reads_the_same_cut_at_any_byte(name: str) -> None:
    stream = (GOLDEN / name).read_bytes()
    expected = STREAMS[name]
    assert read(lines([stream])) == expected
    assert read(lines([stream[at : at + 1] for at in range(len(stream))])) == expected
    data = [frame.data for frame in lines([stream])]
    for cut in range(len(stream) + 1):
        assert [frame.data for frame in lines([stream[:cut], stream[cut:]])] == data


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_without_its_last_line_is_not_complete(name: str) -> None:
    frames = lines([(GOLDEN / name).read_bytes()])[:-1]
    assert Done() not in read(frames)


def test_a_frame_of_any_framing_says_the_same() -> None:
    data = b'{"message":{"content":"a"}}'
    assert read([Frame(b"data: " + data + b"\n\n")]) == read([Line(data)]) == [Started(), Text(0, "a")]


def test_a_blank_line_says_nothing() -> None:
    assert read([Line(b"\r\n"), line_of({})]) == []


# --- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [None, [], "", {}])
def test_no_arguments_are_those_of_an_empty_object(arguments: Any) -> None:
    assert said(tool_calls=[{"function": {"name": "tide", "arguments": arguments}}]) == [
        ToolCallStarted(0, 0, "call__0_0", "tide"),
        ToolArguments(0, 0, "{}"),
        ToolCallEnded(0, 0),
    ]


def test_a_thought_comes_before_what_it_led_to() -> None:
    events = said(content="b", thinking="a", tool_calls=[{"id": "i", "function": {"name": "tide"}}])
    assert events[:3] == [Reasoning(0, "a"), Text(0, "b"), ToolCallStarted(0, 0, "i", "tide")]


@pytest.mark.parametrize(
    "odd",
    [
        {"message": "x"},
        {"message": {"content": 7, "thinking": [], "tool_calls": "x"}},
        {"message": {"tool_calls": [None, 7, {}, {"function": "x"}, {"function": {"name": 7}}]}},
        {"model": 7, "created_at": 7, "message": {}, "done": "yes"},
    ],
)
def test_a_member_of_an_unexpected_type_says_nothing_and_costs_the_others_nothing(odd: dict[str, Any]) -> None:
    one, *rest = read([line_of(odd), message(content="a"), message(done=True)])
    assert isinstance(one, Started)
    assert rest == [Text(0, "a"), Finished(0, "stop"), Done()]


def test_a_wrong_call_costs_the_text_beside_it_nothing() -> None:
    assert said(content="a", tool_calls=[7]) == [Text(0, "a")]


@pytest.mark.parametrize(("reason", "told"), [("stop", "stop"), ("length", "length"), ("ebbed", "ebbed"), ("", "stop"), (7, "stop")])  # fmt: skip
def test_reasons_are_taken_verbatim(reason: Any, told: str) -> None:
    assert read([line_of({"done": True, "done_reason": reason})])[-2:] == [Finished(0, told), Done()]


@pytest.mark.parametrize("reason", ["load", "unload"])
def test_a_model_that_was_not_asked_has_not_answered(reason: str) -> None:
    failed = read([line_of({"done": True, "done_reason": reason})])[-1]
    assert isinstance(failed, Failed)
    assert (failed.error.kind, failed.error.code, failed.error.status) == (reason, None, 502)
    assert f"{reason}ed the model" in failed.error.message


def test_counts_of_an_unexpected_type_are_none() -> None:
    events = read([line_of({"done": True, "prompt_eval_count": "7", "eval_count": -1})])
    assert events == [Started(), Finished(0, "stop"), Done()]


def test_calls_that_were_cut_off_are_not_called() -> None:
    last = line_of({"done": True, "done_reason": "length"})
    assert read([message(tool_calls=[{"function": {"name": "tide"}}]), last])[-2] == Finished(0, "length")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("no", ProviderError("no")),
        ({"message": "no", "type": "t", "code": 503}, ProviderError("no", "t", "503", None, 503)),
        (7, ProviderError("7")),
    ],
)
def test_an_error_is_the_last_word(error: Any, expected: ProviderError) -> None:
    assert read([line_of({"error": error, "message": {"content": "late"}})]) == [Failed(expected)]


@pytest.mark.parametrize("error", ["", None, {}])
def test_an_empty_error_is_none(error: Any) -> None:
    assert read([line_of({"error": error, "message": {"content": "a"}})])[1:] == [Text(0, "a")]


@pytest.mark.parametrize("data", [b"{", b"[1]", b"no json", b'"x"', b'{"a":' + b"[" * 100_000, b'{"x":"\xff"'])
def test_what_is_no_object_cannot_be_read(data: bytes) -> None:
    with pytest.raises(FrameError):
        read([line_of(data)])
    with pytest.raises(FrameError):
        DIALECT.read_answer(data)


def test_what_is_kept_of_a_stream_is_bounded() -> None:
    call = {"function": {"name": "tide"}}
    assert said(tool_calls=[call] * MAX_CALLS)
    with pytest.raises(FrameError, match="calls"):
        read([message(tool_calls=[call] * MAX_CALLS), message(tool_calls=[call])])


# --- looking, errors and whole bodies --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "sight"),
    [
        (Line(b"\n"), Sight.SILENT),
        (message(content=""), Sight.SILENT),
        (message(content="a"), Sight.CONTENT),
        (message(thinking="a"), Sight.CONTENT),
        (message(tool_calls=[{"function": {"name": "tide"}}]), Sight.CONTENT),
        (message(done=True), Sight.CONTENT),
        (line_of({"error": "no"}), Sight.ERROR),
    ],
)
def test_a_line_is_judged_by_what_it_says(line: Line, sight: Sight) -> None:
    found, error = DIALECT.look(line)
    assert found is sight
    assert (error is not None) is (sight is Sight.ERROR)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error":"model \'x\' not found"}', ProviderError("model 'x' not found", status=404)),
        (b'{"error":{"message":"no","code":500}}', ProviderError("no", None, "500", None, 404)),
        (b"404 page not found", ProviderError("404 page not found", status=404)),
        (b'{"other":1}', ProviderError('{"other":1}', status=404)),
        (b"<html>", ProviderError("the provider answered 404", status=404)),
        (b"", ProviderError("the provider answered 404", status=404)),
    ],
)
def test_a_providers_refusal_always_has_a_message(body: bytes, error: ProviderError) -> None:
    assert DIALECT.read_error(404, body) == error


def test_a_whole_answer_says_what_a_stream_would() -> None:
    told = {"role": "assistant", "content": "b", "thinking": "a"}
    counts = {"prompt_eval_count": 8, "eval_count": 7}
    body = json.dumps({"model": "m", "message": told, "done": True, "done_reason": "length", **counts}).encode()
    assert DIALECT.read_answer(body) == [
        Started("", "m"),
        Reasoning(0, "a"),
        Text(0, "b"),
        UsageSeen(Usage(8, 7)),
        Finished(0, "length"),
        Done(),
    ]
    assert DIALECT.read_response(body) == Notice(Usage(8, 7), "length", 1)


def test_a_whole_answer_may_be_an_error() -> None:
    assert DIALECT.read_answer(b'{"error":"no"}') == [Failed(ProviderError("no"))]
    assert DIALECT.read_response(b'{"error":"no"}') == Notice(error=ProviderError("no"))


def test_a_whole_answer_that_lacks_its_end_is_an_error() -> None:
    error = ProviderError("the provider's answer is not complete", status=502)
    assert DIALECT.read_response(b'{"message":{"content":"a"},"done":false}').error == error
