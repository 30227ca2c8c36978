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
    Refusal,
    Started,
    Text,
    ToolArguments,
    ToolCallEnded,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.dialect.gemini import Gemini
from tidegate.dialect.gemini.events import MAX_CHOICES
from tidegate.dialect.values import MAX_MESSAGE_CHARS
from tidegate.dialect.whole import MAX_CALLS
from tidegate.exchange import Ask, Usage
from tidegate.wire import Frame, Framed, FrameError, FramerOf
from tidegate.wire.jsonarray import Element, JsonArrayFramer
from tidegate.wire.ndjson import Line
from tidegate.wire.sse import SseFramer

DIALECT: ProviderDialect = Gemini()
GOLDEN = Path(__file__).parents[1] / "golden" / "gemini"
ASK = Ask(model="m", stream=True, wants_usage=True, body=b"")
ID = "mAoUaZ3eJ8n4xN8P1bqRsAk"
START = Started(ID, "gemini-2.5-flash")
OVERLOADED = ProviderError(
    "The model is overloaded. Please try again later.", "UNAVAILABLE", status=503
)  # fmt: skip


def frame_of(value: Any) -> Frame:
    return Frame(b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n")


def candidate(*parts: Any, **members: Any) -> dict[str, Any]:
    return {"content": {"role": "model", "parts": parts}, "index": 0, **members}


def answer(*candidates: Any, **members: Any) -> Frame:
    return frame_of({"candidates": candidates, **members})


def read(frames: Sequence[Framed]) -> list[Event]:
    """Give all events of a stream that ends after these frames."""
    decoder = DIALECT.decoder(ASK)
    events = [event for frame in frames for event in decoder.feed(frame)]
    if not isinstance(events[-1] if events else None, Failed):
        events += decoder.finish()
    check_grammar(events)
    return events


def said(*parts: Any, **members: Any) -> list[Event]:
    """Give what the parts of one candidate say, without the stream's first word."""
    events = read([answer(candidate(*parts, **members))])
    assert isinstance(events[0], Started)
    return events[1:]


def framer_of(name: str) -> FramerOf[Framed]:
    return JsonArrayFramer() if name.endswith(".json") else SseFramer()


def framed(name: str, pieces: Sequence[bytes]) -> list[Framed]:
    framer = framer_of(name)
    return [*(frame for piece in pieces for frame in framer.feed(piece)), *framer.finish()]


# --- golden streams --------------------------------------------------------------------------------------------------

TOOLS = Started(ID, "gemini-3-flash-preview", 1777890030)
STREAMS: dict[str, list[Event]] = {
    "text.sse": [
        START,
        UsageSeen(Usage(9, 2)),
        Text(0, "The tide"),
        UsageSeen(Usage(9, 13)),
        Text(0, " “turns” at 18:04 — 潮🌊"),
        UsageSeen(Usage(9, 21, 4)),
        Text(0, '.\n"error": {} data: \\u0041\r\n'),
        Finished(0, "stop"),
        Done(),
    ],
    "thinking.sse": [
        Started(ID, "gemini-3.1-pro-preview"),
        UsageSeen(Usage(14, 31, 0, 31)),
        Reasoning(0, "**Reading the table**\n\nHigh water is"),
        UsageSeen(Usage(14, 58, 0, 58)),
        Reasoning(0, " at six.\n"),
        UsageSeen(Usage(14, 61, 0, 58)),
        Text(0, "At six."),
        UsageSeen(Usage(14, 61, 0, 58)),
        Reasoning(0, "", "EqoECqcEAdHtim9Tz+/aAA=="),
        Finished(0, "stop"),
        Done(),
    ],
    "tools.sse": [
        TOOLS,
        UsageSeen(Usage(81, 46, 0, 40)),
        Text(0, "I'll look it up.\n"),
        UsageSeen(Usage(88, 84, 0, 40)),
        ToolCallStarted(0, 0, "k3mv1x2a", "tide", "CiQBVKhc7r0="),
        ToolArguments(0, 0, '{"place":"Saint-Malo 🇫🇷","days":[1,2],"deep":{"x":null,"y":1.5}}'),
        ToolCallEnded(0, 0),
        ToolCallStarted(0, 1, "p0qz77de", "moon"),
        ToolArguments(0, 1, "{}"),
        ToolCallEnded(0, 1),
        UsageSeen(Usage(88, 92, 0, 40)),
        ToolCallStarted(0, 2, f"call_{ID}_0_2", "tide"),
        ToolArguments(0, 2, "{}"),
        ToolCallEnded(0, 2),
        UsageSeen(Usage(88, 92, 0, 40)),
        Finished(0, "tool_calls"),
        Done(),
    ],
    "length.sse": [START, UsageSeen(Usage(12, 64, 0, 64)), Finished(0, "length"), Done()],
    "safety.sse": [
        START,
        UsageSeen(Usage(7, 2)),
        Text(0, "First,"),
        UsageSeen(Usage(7)),
        Finished(0, "content_filter"),
        Done(),
    ],
    "blocked.sse": [START, UsageSeen(Usage(6)), Finished(0, "content_filter"), Done()],
    "choices.sse": [
        START,
        UsageSeen(Usage(5, 1)),
        Text(1, "Ebb"),
        UsageSeen(Usage(5, 3)),
        Text(0, "Flood"),
        Text(1, "."),
        UsageSeen(Usage(5, 3)),
        Finished(0, "stop"),
        Finished(1, "length"),
        Done(),
    ],
    "overloaded.sse": [START, UsageSeen(Usage(4, 1)), Text(0, "The"), Failed(OVERLOADED)],
    "broken.sse": [
        START,
        UsageSeen(Usage(81)),
        Failed(ProviderError("Malformed function call: print(tide(place='x'))", "MALFORMED_FUNCTION_CALL", status=502)),
    ],
    "text.json": [
        START,
        UsageSeen(Usage(9, 2)),
        Text(0, "The tide"),
        UsageSeen(Usage(9, 13)),
        Text(0, " “turns” } ] \\ 潮🌊"),
        UsageSeen(Usage(9, 21)),
        ToolCallStarted(0, 0, f"call_{ID}_0_0", "tide"),
        ToolArguments(0, 0, '{"place":"[{\\"x\\":"}'),
        ToolCallEnded(0, 0),
        Finished(0, "tool_calls"),
        Done(),
    ],
    "error.json": [
        Failed(
            ProviderError("You exceeded your current quota.\nPlease retry in 7.1s.", "RESOURCE_EXHAUSTED", status=429)
        )
    ],
    "overloaded.json": [START, UsageSeen(Usage(4, 1)), Text(0, "The"), Failed(OVERLOADED)],
}


def test_every_golden_stream_is_told() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(STREAMS)


@pytest.mark.parametrize("name", STREAMS)
def test_a_providers_stream_reads_the_same_cut_at_any_byte(name: str) -> None:
    stream = (GOLDEN / name).read_bytes()
    expected = STREAMS[name]
    assert read(framed(name, [stream])) == expected
    assert read(framed(name, [stream[at : at + 1] for at in range(len(stream))])) == expected
    data = [frame.data for frame in framed(name, [stream])]
    for cut in range(len(stream) + 1):
        assert [frame.data for frame in framed(name, [stream[:cut], stream[cut:]]) if frame.data] == data


@pytest.mark.parametrize("name", [name for name in STREAMS if name.endswith(".sse")])
def test_a_stream_that_is_cut_short_is_not_complete(name: str) -> None:
    frames = framed(name, [(GOLDEN / name).read_bytes()])[:-1]
    assert Done() not in read(frames)


@pytest.mark.parametrize("make", [frame_of, lambda data: Element(b",\r\n" + data), lambda data: Line(data + b"\r\n")])
def test_a_frame_of_any_framing_says_the_same(make: Any) -> None:
    data = json.dumps({"candidates": [candidate({"text": "a"}, finishReason="STOP")]}).encode()
    assert read([make(data)]) == [Started(), Text(0, "a"), Finished(0, "stop"), Done()]


def test_a_frame_without_data_says_nothing() -> None:
    assert read([Frame(b": ping\n\n"), Line(b"\n")]) == []


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"text": "a"}, [Text(0, "a")]),
        ({"text": "a", "thought": False}, [Text(0, "a")]),
        ({"text": ""}, []),
        ({"text": "a", "thoughtSignature": "s"}, [Text(0, "a"), Reasoning(0, "", "s")]),
        ({"text": "", "thoughtSignature": "s"}, [Reasoning(0, "", "s")]),
        ({"thoughtSignature": "s"}, [Reasoning(0, "", "s")]),
        ({"text": "a", "thought": True}, [Reasoning(0, "a")]),
        ({"text": "a", "thought": True, "thoughtSignature": "s"}, [Reasoning(0, "a", "s")]),
        ({"text": "", "thought": True}, []),
        ({"inlineData": {}}, []),
        ({"inlineData": "x"}, []),
        ({"functionCall": {}}, []),
        ({"functionCall": {"args": {"x": 1}}}, []),
    ],
)
def test_each_part_says_what_it_says(part: dict[str, Any], expected: list[Event]) -> None:
    assert said(part) == expected


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"inlineData": {"mimeType": "image/png", "data": "AAEC"}}, "inlineData"),
        ({"inlineData": {"mimeType": "image/png", "data": "AAEC"}, "text": "", "thought": True}, "inlineData"),
        ({"fileData": {"fileUri": "gs://bucket/tide.png"}}, "fileData"),
        ({"executableCode": {"language": "PYTHON", "code": "1"}}, "executableCode"),
        ({"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}}, "codeExecutionResult"),
    ],
)
def test_a_part_that_no_event_can_say_is_an_error_and_not_lost(part: dict[str, Any], kind: str) -> None:
    first, failed = said({"text": "a"}, part, {"text": "b"}, finishReason="STOP")
    assert first == Text(0, "a")
    assert isinstance(failed, Failed)
    assert kind in failed.error.message
    assert (failed.error.kind, failed.error.code, failed.error.status) == (None, None, 502)
    assert DIALECT.look(answer(candidate(part))) == (Sight.ERROR, failed.error)


@pytest.mark.parametrize("arguments", [None, [], "", {}])
def test_no_arguments_are_those_of_an_empty_object(arguments: Any) -> None:
    assert said({"functionCall": {"name": "tide", "args": arguments}}) == [
        ToolCallStarted(0, 0, "call__0_0", "tide"),
        ToolArguments(0, 0, "{}"),
        ToolCallEnded(0, 0),
    ]


def test_calls_of_several_candidates_are_counted_apart() -> None:
    call = {"functionCall": {"name": "tide", "args": {}}}
    events = read([answer(candidate(call, call, index=1), candidate(call), responseId="r")])
    assert [(event.index, event.call, event.id) for event in events if isinstance(event, ToolCallStarted)] == [
        (1, 0, "call_r_1_0"),
        (1, 1, "call_r_1_1"),
        (0, 0, "call_r_0_0"),
    ]


@pytest.mark.parametrize(
    ("instant", "seconds"),
    [
        ("2026-05-04T10:20:30.123456Z", 1777890030),
        ("2026-05-04T12:20:30.123456789+02:00", 1777890030),
        ("0001-01-01T00:00:00Z", 0),
        ("2026-05-04T10:20:30", 0),
        ("soon", 0),
        (7, 0),
    ],
)
def test_an_instant_is_told_in_seconds(instant: Any, seconds: int) -> None:
    assert read([answer(candidate(), createTime=instant)])[0] == Started("", "", seconds)


@pytest.mark.parametrize(
    "odd",
    [
        {"candidates": 7},
        {"candidates": [7, None, {"content": "x", "index": "x"}]},
        {"candidates": [{"content": {"parts": "x"}, "finishReason": 7, "index": -1}]},
        {"candidates": [{"content": {"parts": [None, {"text": 7, "thought": "x", "functionCall": "x"}]}}]},
        {"candidates": [{"content": {"parts": [{"functionCall": {"name": 7}, "thoughtSignature": 7}]}}]},
        {"usageMetadata": "x", "promptFeedback": "x"},
        {"usageMetadata": {"promptTokenCount": -1, "candidatesTokenCount": "7"}, "promptFeedback": {"blockReason": 7}},
        {"responseId": 7, "modelVersion": None, "candidates": []},
    ],
)
def test_a_member_of_an_unexpected_type_says_nothing_and_costs_the_others_nothing(odd: dict[str, Any]) -> None:
    last = answer(candidate({"text": "b"}, finishReason="STOP"))
    one, *rest = read([frame_of(odd), answer(candidate({"text": "a"})), last])
    assert isinstance(one, Started)
    assert rest == [Text(0, "a"), Text(0, "b"), Finished(0, "stop"), Done()]


def test_a_wrong_part_costs_the_parts_beside_it_nothing() -> None:
    assert said(7, {"text": "a"}, {"functionCall": 7}, {"text": "b"}) == [Text(0, "a"), Text(0, "b")]


def test_half_a_surrogate_pair_is_let_through() -> None:
    events = read([frame_of(b'{"candidates":[{"content":{"parts":[{"text":"a\\ud83d"}]}}]}')])
    assert events[1:] == [Text(0, "a\ud83d")]


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("THE_SEA_WAS_ROUGH", "THE_SEA_WAS_ROUGH"),
    ],
)
def test_reasons_are_told_by_a_table(reason: str, told: str) -> None:
    assert said({"text": "a"}, finishReason=reason)[-2:] == [Finished(0, told), Done()]


def test_calls_that_were_cut_off_are_not_called() -> None:
    assert said({"functionCall": {"name": "tide"}}, finishReason="MAX_TOKENS")[-2] == Finished(0, "length")


def test_a_reason_given_with_every_frame_counts_at_the_end_only() -> None:
    frames = [answer(candidate({"text": text}, finishReason="STOP")) for text in "ab"]
    assert read(frames) == [Started(), Text(0, "a"), Text(0, "b"), Finished(0, "stop"), Done()]


@pytest.mark.parametrize("reason", ["", None, 7, "FINISH_REASON_UNSPECIFIED"])
def test_no_reason_is_no_end(reason: Any) -> None:
    assert said({"text": "a"}, finishReason=reason) == [Text(0, "a")]


def test_a_stream_of_several_candidates_ends_when_all_have() -> None:
    frames = [answer(candidate({"text": "a"}, finishReason="STOP"), candidate({"text": "b"}, index=1))]
    assert read(frames)[-1] == Text(1, "b")
    assert read([*frames, answer(candidate(index=1, finishReason="STOP"))])[-1] == Done()


@pytest.mark.parametrize(
    "reason",
    [
        "OTHER",
        "LANGUAGE",
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE",
        "NO_IMAGE",
        "IMAGE_OTHER",
    ],
)
@pytest.mark.parametrize("parts", [[], [{"text": "a"}]])
def test_what_ended_for_no_good_reason_is_an_error_whatever_was_said_before(
    reason: str, parts: list[dict[str, Any]]
) -> None:
    *before, failed = said(*parts, finishReason=reason)
    assert before == [Text(0, "a") for _ in parts]
    assert isinstance(failed, Failed)
    assert (failed.error.kind, failed.error.code, failed.error.status) == (reason, None, 502)
    assert failed.error.message.startswith("the model ")
    assert said(finishReason=reason, finishMessage="Why?") == [Failed(ProviderError("Why?", reason, status=502))]
    assert DIALECT.read_response(body_of(candidate(*parts, finishReason=reason))).error == failed.error


def test_a_long_word_of_why_is_cut() -> None:
    failed = said(finishReason="OTHER", finishMessage="m" * 5000)[-1]
    assert failed == Failed(ProviderError("m" * MAX_MESSAGE_CHARS + "…", "OTHER", status=502))


def test_a_last_frame_without_its_empty_line_completes_a_stream() -> None:
    stream = (GOLDEN / "text.sse").read_bytes().rstrip()
    framer, decoder = SseFramer(), DIALECT.decoder(ASK)
    for frame in framer.feed(stream):
        decoder.feed(frame)
    last = Frame(framer.release())
    assert last.data is not None
    assert [*decoder.feed(last), *decoder.finish()][-2:] == [Finished(0, "stop"), Done()]


def test_a_question_that_is_blocked_is_no_silent_stop() -> None:
    blocked = frame_of({"promptFeedback": {"blockReason": "OTHER", "blockReasonMessage": "Not this."}})
    assert read([blocked]) == [Started(), Refusal(0, "Not this."), Finished(0, "content_filter"), Done()]
    assert read([answer(candidate({"text": "a"}), candidate(index=1, finishReason="STOP")), blocked])[-3:] == [
        Finished(0, "content_filter"),
        Finished(1, "stop"),
        Done(),
    ]


def test_feedback_beside_an_answer_blocks_nothing() -> None:
    frame = answer(candidate({"text": "a"}, finishReason="STOP"), promptFeedback={"blockReason": "SAFETY"})
    assert read([frame])[-2] == Finished(0, "stop")


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"message": "m", "status": "RESOURCE_EXHAUSTED"}, ProviderError("m", "RESOURCE_EXHAUSTED", status=429)),
        ({"message": "m", "status": "DEADLINE_EXCEEDED"}, ProviderError("m", "DEADLINE_EXCEEDED", status=504)),
        ({"message": "m", "status": "NEW_WORD"}, ProviderError("m", "NEW_WORD")),
        ({"message": "m", "status": 7, "code": 7}, ProviderError("m")),
        ({"message": "m", "code": 500, "status": "INTERNAL"}, ProviderError("m", "INTERNAL", status=500)),
        ({"code": "x"}, ProviderError('{"code":"x"}')),
        ("m", ProviderError("m")),
        (["m"], ProviderError('["m"]')),
        ({"message": "m" * 5000}, ProviderError("m" * MAX_MESSAGE_CHARS + "…")),
    ],
)
def test_an_error_is_the_last_word(error: Any, expected: ProviderError) -> None:
    assert read([frame_of({"error": error, "candidates": [candidate({"text": "late"})]})]) == [Failed(expected)]
    assert read([frame_of([{"error": error}])]) == [Failed(expected)]


@pytest.mark.parametrize("details", ["x", ["x"], [{"reason": "OTHER"}], [{"reason": "API_KEY_INVALID"}]])
def test_a_key_that_google_does_not_know_is_the_gateways_own_trouble(details: Any) -> None:
    body = {"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT", "details": details}}
    status = 401 if "API_KEY_INVALID" in json.dumps(details) else 400
    expected = ProviderError("m", "INVALID_ARGUMENT", status=status)
    assert DIALECT.read_error(400, json.dumps(body).encode()) == expected


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error":{"message":"no","code":429,"status":"S"}}', ProviderError("no", "S", status=418)),
        (b'[{\n"error":{"message":"no","code":400}}]', ProviderError("no", status=418)),
        (b'{"other":1}', ProviderError('{"other":1}', status=418)),
        (b"[]", ProviderError("[]", status=418)),
        (b"[7]", ProviderError("[7]", status=418)),
        (b" plain\n text\x07 ", ProviderError("plain text", status=418)),
        (b"\n<!doctype html>", ProviderError("the provider answered 418", status=418)),
        (b"", ProviderError("the provider answered 418", status=418)),
    ],
)
def test_a_providers_refusal_always_has_a_message(body: bytes, error: ProviderError) -> None:
    assert DIALECT.read_error(418, body) == error


@pytest.mark.parametrize("data", [b"{", b"[1]", b"[]", b"no json", b'"x"', b'{"a":' + b"[" * 100_000, b'{"x":"\xff"'])
def test_what_is_no_object_cannot_be_read(data: bytes) -> None:
    with pytest.raises(FrameError):
        read([frame_of(data)])
    with pytest.raises(FrameError):
        DIALECT.read_answer(data)


def test_what_is_kept_of_a_stream_is_bounded() -> None:
    assert read([answer(candidate({"text": "a"}, index=MAX_CHOICES - 1))])
    with pytest.raises(FrameError, match="choices"):
        read([answer(candidate({"text": "a"}, index=MAX_CHOICES))])
    call = {"functionCall": {"name": "tide"}}
    assert said(*[call] * MAX_CALLS)
    with pytest.raises(FrameError, match="calls"):
        read([answer(candidate(*[call] * MAX_CALLS), candidate(call, index=1))])


# --- looking, and whole bodies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "sight"),
    [
        (Frame(b": ping\n\n"), Sight.SILENT),
        (answer(candidate({"text": ""}), usageMetadata={"promptTokenCount": 3}), Sight.SILENT),
        (answer(candidate({"text": "a"})), Sight.CONTENT),
        (answer(candidate({"text": "a", "thought": True})), Sight.CONTENT),
        (answer(candidate({"functionCall": {"name": "tide"}})), Sight.CONTENT),
        (answer({"finishReason": "MAX_TOKENS"}), Sight.CONTENT),
        (frame_of({"promptFeedback": {"blockReason": "SAFETY"}}), Sight.CONTENT),
        (answer({"finishReason": "MALFORMED_RESPONSE"}), Sight.ERROR),
        (frame_of([{"error": {"message": "no"}}]), Sight.ERROR),
    ],
)
def test_a_frame_is_judged_by_what_it_says(frame: Frame, sight: Sight) -> None:
    found, error = DIALECT.look(frame)
    assert found is sight
    assert (error is not None) is (sight is Sight.ERROR)


def body_of(*candidates: Any, **members: Any) -> bytes:
    return json.dumps({"candidates": candidates, **members}, indent=2).encode()


def test_a_whole_answer_says_what_a_stream_would() -> None:
    call = {"functionCall": {"name": "tide", "args": {"x": 1}}, "thoughtSignature": "s"}
    usage = {"promptTokenCount": 8, "candidatesTokenCount": 2, "thoughtsTokenCount": 5, "totalTokenCount": 15}
    body = body_of(
        candidate({"text": "a"}, call, finishReason="STOP"), usageMetadata=usage, responseId="r", modelVersion="v"
    )
    events = DIALECT.read_answer(body)
    check_grammar(events)
    assert events == [
        Started("r", "v"),
        UsageSeen(Usage(8, 7, 0, 5)),
        Text(0, "a"),
        ToolCallStarted(0, 0, "call_r_0_0", "tide", "s"),
        ToolArguments(0, 0, '{"x":1}'),
        ToolCallEnded(0, 0),
        Finished(0, "tool_calls"),
        Done(),
    ]
    assert DIALECT.read_response(body) == Notice(Usage(8, 7, 0, 5), "tool_calls", 1)


def test_a_whole_answer_of_several_candidates_ends_in_each() -> None:
    body = body_of(candidate({"text": "a"}, finishReason="STOP"), candidate(index=1, finishReason="SAFETY"))
    assert DIALECT.read_response(body) == Notice(None, "stop", 2)


def test_a_whole_answer_may_be_an_error() -> None:
    body = b'{"error":{"message":"no","status":"INTERNAL"}}'
    for given in (body, b"[" + body + b"]"):
        assert DIALECT.read_answer(given) == [Failed(ProviderError("no", "INTERNAL", status=500))]
        assert DIALECT.read_response(given) == Notice(error=ProviderError("no", "INTERNAL", status=500))


@pytest.mark.parametrize(
    "body", [b"{}", b'{"usageMetadata":{"promptTokenCount":3}}', body_of(candidate({"text": "a"}))]
)
def test_a_whole_answer_that_lacks_its_end_is_an_error(body: bytes) -> None:
    error = ProviderError("the provider's answer is not complete", status=502)
    assert DIALECT.read_answer(body)[-1] == Failed(error)
    assert DIALECT.read_response(body).error == error
