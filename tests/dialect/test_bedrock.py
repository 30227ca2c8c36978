import json
from typing import Any

import pytest

from conversing import check_grammar
from tidegate.dialect import Notice, ProviderDialect, ProviderError
from tidegate.dialect.bedrock import BedrockConverse
from tidegate.dialect.events import (
    Done,
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
from tidegate.exchange import Usage
from tidegate.wire import FrameError

DIALECT: ProviderDialect = BedrockConverse()
USAGE = {
    "inputTokens": 30,
    "outputTokens": 7,
    "totalTokens": 140,
    "cacheReadInputTokens": 100,
    "cacheWriteInputTokens": 3,
}


def body(*content: Any, **members: Any) -> bytes:
    message = {"role": "assistant", "content": list(content)}
    answer = {"output": {"message": message}, "stopReason": "end_turn", "usage": USAGE, "metrics": {"latencyMs": 4}}
    return json.dumps(answer | members).encode()


def test_the_dialect_has_its_name() -> None:
    assert DIALECT.name == "bedrock"


# --- whole bodies ----------------------------------------------------------------------------------------------------


def test_a_whole_body_says_what_its_stream_would() -> None:
    events = DIALECT.read_answer(
        body(
            {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "sig"}}},
            {"reasoningContent": {"redactedContent": "AAEC"}},
            {"text": "Let me look."},
            {"toolUse": {"toolUseId": "t1", "name": "tide", "input": {"at": "Brest", "day": 1}}},
            {"toolUse": {"toolUseId": "t2", "name": "time", "input": {}}},
            stopReason="tool_use",
        )
    )
    assert events == [
        *(Started(), Reasoning(0, "Hm.", "sig"), Sealed(0, "AAEC"), Text(0, "Let me look.")),
        *(ToolCallStarted(0, 0, "t1", "tide"), ToolArguments(0, 0, '{"at":"Brest","day":1}'), ToolCallEnded(0, 0)),
        *(ToolCallStarted(0, 1, "t2", "time"), ToolArguments(0, 1, "{}"), ToolCallEnded(0, 1)),
        *(UsageSeen(Usage(133, 7, 100, 0, 3)), Finished(0, "tool_calls"), Done()),
    ]
    check_grammar(events)


@pytest.mark.parametrize(
    "block", [None, 5, "text", [], {}, {"text": 5}, {"image": {}}, {"reasoningContent": 1}, {"citationsContent": {}}]
)
def test_a_block_of_an_unexpected_shape_says_nothing(block: Any) -> None:
    assert DIALECT.read_answer(body(block, usage=None)) == [Started(), Finished(0, "stop"), Done()]


@pytest.mark.parametrize("given", [None, 5, "x", [1]])
def test_a_call_of_an_unexpected_shape_is_still_a_call(given: Any) -> None:
    events = DIALECT.read_answer(body({"toolUse": {"toolUseId": "t", "name": given}}))
    name = given if given == "x" else ""
    assert events[1:4] == [ToolCallStarted(0, 0, "t", name), ToolArguments(0, 0, "{}"), ToolCallEnded(0, 0)]


@pytest.mark.parametrize("given", [5, "x", [1], "[1]"])
def test_arguments_that_are_no_object_are_not_made_up(given: Any) -> None:
    with pytest.raises(FrameError):
        DIALECT.read_answer(body({"toolUse": {"toolUseId": "t", "name": "tide", "input": given}}))


def test_a_body_that_does_not_say_why_it_ended_is_complete() -> None:
    assert DIALECT.read_answer(body({"text": "Hi"}, stopReason=None))[-2:] == [Finished(0, "stop"), Done()]


@pytest.mark.parametrize(
    "answer", [b"{}", b'{"output":{}}', b'{"output":{"message":{"content":5}}}', b'{"output":{},"message":"m"}']
)
def test_a_body_without_a_message_is_refused(answer: bytes) -> None:
    with pytest.raises(FrameError, match="no message"):
        DIALECT.read_answer(answer)
    with pytest.raises(FrameError, match="no message"):
        DIALECT.read_response(answer)


@pytest.mark.parametrize("answer", [b'{"message":"The model broke."}', b'{"Message":"The model broke."}'])
def test_a_message_alone_is_an_error(answer: bytes) -> None:
    error = ProviderError("The model broke.")
    assert DIALECT.read_answer(answer) == [Failed(error)]
    assert DIALECT.read_response(answer) == Notice(error=error)


@pytest.mark.parametrize("reason", ["malformed_model_output", "malformed_tool_use"])
def test_a_body_of_what_cannot_be_read_is_an_error(reason: str) -> None:
    events = DIALECT.read_answer(body({"text": "Hi"}, stopReason=reason))
    check_grammar(events)
    assert events[:-1] == [Started(), Text(0, "Hi"), UsageSeen(Usage(133, 7, 100, 0, 3))]
    assert isinstance(events[-1], Failed)
    error = events[-1].error
    assert (error.kind, error.code, error.status) == (reason, None, 502)
    assert DIALECT.read_response(body(stopReason=reason)).error == error


def test_a_body_that_is_no_object_is_refused() -> None:
    for answer in (b"", b"[]", b"{", b"\xff"):
        with pytest.raises(FrameError, match="JSON"):
            DIALECT.read_answer(answer)
        with pytest.raises(FrameError, match="JSON"):
            DIALECT.read_response(answer)


def test_a_body_tells_its_usage_and_why_it_ended() -> None:
    expected = Notice(usage=Usage(133, 7, 100, 0, 3), finish_reason="length", finished=1)
    assert DIALECT.read_response(body({"text": "Hi"}, stopReason="max_tokens")) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ({}, None),
        ({"inputTokens": True, "outputTokens": -1}, None),
        ({"totalTokens": 4}, None),
        ({"inputTokens": 4}, Usage(4, 0)),
        ({"outputTokens": 4}, Usage(0, 4)),
        (
            {"inputTokens": 4, "outputTokens": 1, "cacheReadInputTokens": "9", "cacheWriteInputTokens": 2},
            Usage(6, 1, 0, 0, 2),
        ),
    ],
)
def test_usage_is_read_as_far_as_it_is_given_and_input_is_all_of_it(given: Any, expected: Usage | None) -> None:
    assert DIALECT.read_response(body(usage=given)).usage == expected


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (400, b'{"message":"The model is no model."}', ProviderError("The model is no model.", status=400)),
        (403, b'{"Message":"User is not authorized."}', ProviderError("User is not authorized.", status=403)),
        (
            429,
            b'{"__type":"com.amazon.coral.service#ThrottlingException","message":"Rate exceeded"}',
            ProviderError("Rate exceeded", kind="ThrottlingException", status=429),
        ),
        (400, b'{"code":"ValidationException"}', ProviderError('{"code":"ValidationException"}', "ValidationException", status=400)),
        (404, b'{"message":5}', ProviderError('{"message":5}', status=404)),
        (502, b"<html>Bad gateway</html>", ProviderError("the provider answered 502", status=502)),
        (503, b"", ProviderError("the provider answered 503", status=503)),
        (500, b"upstream \x1b[31mbroke", ProviderError("upstream [31mbroke", status=500)),
        (500, b'["no"]', ProviderError('["no"]', status=500)),
    ],
)  # fmt: skip
def test_a_refusal_always_has_a_message_and_its_status(status: int, answer: bytes, expected: ProviderError) -> None:
    assert DIALECT.read_error(status, answer) == expected
