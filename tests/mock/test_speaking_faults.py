"""How the mock fails in every dialect: in mid-stream, before it, and in the dialect's own words."""

from typing import Any

import pytest
from listeners import Heard, hear
from mock_client import PATIENCE_S, Mock, Reply, request, with_mock
from speaking import STREAMED, WHOLE, asking, speak

QUIET_S = 0.25
"""How long a test listens before it believes that nothing comes."""
EVERY = ("chat", "responses", "messages", "gemini", "converse", "invoke", "ollama", "embeddings", "count_tokens")


def failed(dialect: str, query: str, **more: Any) -> tuple[Reply, Heard]:
    reply = speak(dialect, query, silence_s=QUIET_S if "stall" in query else PATIENCE_S, **more)
    assert reply.status == 200
    return reply, hear(dialect, reply.body, stream=True)


# In mid-stream

ENDS = {
    "reset": "reset",
    "eof": "complete",
    "truncate": "truncated",
    "error": "complete",
    "garbage": "malformed",
    "stall": "silent",
}


@pytest.mark.parametrize("dialect", STREAMED)
@pytest.mark.parametrize("fail", ENDS)
@pytest.mark.parametrize("fail_at", [0, 3, 5])
def test_a_stream_of_any_dialect_fails_before_the_token_it_was_told(dialect: str, fail: str, fail_at: int) -> None:
    reply, said = failed(dialect, f"tokens=5&fail={fail}&fail_at={fail_at}")
    assert reply.ended == ENDS[fail]
    assert not said.complete
    assert not said.finish
    assert (said.error is not None) == (fail == "error")
    # Frames of Responses show words for good when their item is done: pieces are counted instead.
    words = len(said.order) if dialect == "responses" else len(said.text.split())
    assert words == fail_at


@pytest.mark.parametrize("dialect", STREAMED)
def test_a_stream_of_any_dialect_may_end_before_its_first_frame(dialect: str) -> None:
    reply, _ = failed(dialect, "fail=eof&role_only=0")
    assert (reply.ended, reply.body) == ("complete", b"")


@pytest.mark.parametrize("dialect", STREAMED)
def test_an_error_may_be_the_first_frame_of_any_dialect(dialect: str) -> None:
    reply, said = failed(dialect, "fail=error&role_only=0")
    assert reply.ended == "complete"
    assert said.error is not None


@pytest.mark.parametrize("dialect", STREAMED)
@pytest.mark.parametrize("query", ["tools=2&tokens=8", "reasoning=4&tokens=4"])
def test_calls_and_thoughts_break_off_too(dialect: str, query: str) -> None:
    reply, said = failed(dialect, f"{query}&fail=error&fail_at=2")
    assert reply.ended == "complete"
    assert said.error is not None
    assert not said.finish


FRAMES: dict[str, dict[str, Any]] = {
    "chat": {"type": "server_error", "code": "server_error"},
    "responses": {"code": "server_error"},
    "messages": {"type": "overloaded_error", "message": "Overloaded"},
    "gemini": {"code": 503, "status": "UNAVAILABLE"},
    "gemini_array": {"code": 503, "status": "UNAVAILABLE"},
    "converse": {"type": "modelStreamErrorException", "originalStatusCode": 500},
    "invoke": {"type": "modelStreamErrorException", "originalStatusCode": 500},
    "ollama": {},
}


@pytest.mark.parametrize("dialect", STREAMED)
def test_an_error_in_mid_stream_is_the_dialects_own(dialect: str) -> None:
    _, said = failed(dialect, "tokens=5&fail=error&fail_at=2")
    assert said.error is not None
    assert said.error["message"]
    assert FRAMES[dialect].items() <= said.error.items()


@pytest.mark.parametrize("dialect", STREAMED)
@pytest.mark.parametrize("query", ["tokens=2", "fail=error&tokens=2&fail_at=1"])
def test_no_blank_is_left_in_any_stream(dialect: str, query: str) -> None:
    assert b"@@" not in speak(dialect, query).body


def test_an_array_that_fails_by_an_error_is_closed_and_one_that_just_ends_is_not() -> None:
    assert failed("gemini_array", "fail=error")[0].body.endswith(b"\n]")
    assert not failed("gemini_array", "fail=eof&fail_at=1")[0].body.endswith(b"]")
    assert failed("gemini_array", "fail=error&role_only=0")[0].body.startswith(b"[{")


# Whole answers


@pytest.mark.parametrize("dialect", WHOLE)
@pytest.mark.parametrize("fail", sorted(ENDS.keys() - {"error"}))
def test_a_whole_answer_of_any_dialect_fails_in_the_middle(dialect: str, fail: str) -> None:
    silence_s = QUIET_S if fail == "stall" else PATIENCE_S
    reply = speak(dialect, f"tokens=5&fail={fail}&fail_at=3", stream=False, silence_s=silence_s)
    assert (reply.status, reply.ended) == (200, ENDS[fail])
    assert reply.body
    with pytest.raises(ValueError):
        reply.json()


@pytest.mark.parametrize("dialect", EVERY)
@pytest.mark.parametrize("query", ["fail=error", "json_error"])
def test_an_error_object_in_a_200_is_the_dialects_own(dialect: str, query: str) -> None:
    reply = speak(dialect, query, stream=False)
    assert (reply.status, reply.ended) == (200, "complete")
    assert reply.headers["content-type"].startswith("application/json")
    assert _kind(dialect, reply) in {"server_error", "api_error", "INTERNAL", "InternalServerException", "Sorry"}


@pytest.mark.parametrize("dialect", STREAMED)
def test_an_error_object_may_come_instead_of_a_stream(dialect: str) -> None:
    reply = speak(dialect, "json_error")
    assert (reply.status, reply.ended) == (200, "complete")
    assert reply.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("dialect", EVERY)
def test_every_dialect_can_be_reset_or_left_waiting_before_a_head(dialect: str) -> None:
    for query, ended in (("reject", "reset"), ("stall=head", "silent")):
        reply = speak(dialect, query, stream=False, silence_s=QUIET_S)
        assert (reply.ended, reply.wire) == (ended, b"")


# Errors before an answer


def _kind(dialect: str, reply: Reply) -> str:
    """Give the word that says what kind of error it is, its envelope checked."""
    said = reply.json()
    match dialect:
        case "messages" | "count_tokens":
            assert said.keys() == {"type", "error", "request_id"}
            assert said["type"] == "error"
            assert said["error"].keys() == {"type", "message"}
            assert said["request_id"] == reply.headers["request-id"]
            return str(said["error"]["type"])
        case "gemini" | "gemini_array":
            error = said[0]["error"] if dialect == "gemini_array" else said["error"]
            assert error.keys() <= {"code", "message", "status", "details"}
            return str(error["status"])
        case "converse" | "invoke":
            assert said.keys() == {"message"}
            return reply.headers["x-amzn-errortype"].partition(":")[0]
        case "ollama":
            assert said.keys() == {"error"}
            return str(said["error"].partition(". ")[2].partition(" ")[0])
        case _:
            assert said["error"].keys() == {"message", "type", "param", "code"}
            return str(said["error"]["code"] or said["error"]["type"])


STATUSES = {
    "chat": {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded", 503: "server_error"},
    "messages": {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        418: "invalid_request_error",
        429: "rate_limit_error",
        500: "api_error",
        529: "overloaded_error",
    },
    "gemini": {
        400: "INVALID_ARGUMENT",
        403: "PERMISSION_DENIED",
        418: "UNKNOWN",
        429: "RESOURCE_EXHAUSTED",
        500: "INTERNAL",
        503: "UNAVAILABLE",
    },
    "converse": {
        400: "ValidationException",
        403: "AccessDeniedException",
        404: "ResourceNotFoundException",
        424: "ModelErrorException",
        429: "ThrottlingException",
        500: "InternalServerException",
        503: "ServiceUnavailableException",
    },
}
ALIKE = {"responses": "chat", "gemini_array": "gemini", "invoke": "converse", "count_tokens": "messages"}


@pytest.mark.parametrize(
    ("dialect", "status", "kind"),
    [
        (dialect, status, kind)
        for dialect in ("chat", "responses", "messages", "count_tokens", "gemini", "gemini_array", "converse", "invoke")
        for status, kind in STATUSES[ALIKE.get(dialect, dialect)].items()
    ],
)
def test_a_status_comes_with_an_error_in_the_dialects_own_words(dialect: str, status: int, kind: str) -> None:
    reply = speak(dialect, f"status={status}&retry_after=2", stream=dialect == "gemini_array")
    assert (reply.status, reply.headers["retry-after"]) == (status, "2")
    assert _kind(dialect, reply) == kind


def test_ollama_says_what_is_wrong_and_nothing_else() -> None:
    reply = speak("ollama", "status=500")
    assert (reply.status, reply.json()) == (500, {"error": "The mock was asked to answer 500."})


def test_google_says_in_the_body_too_when_to_come_again() -> None:
    (detail,) = speak("gemini", "status=429&retry_after=7").json()["error"]["details"]
    assert detail == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}


@pytest.mark.parametrize("dialect", EVERY)
def test_a_mistake_in_a_knob_is_told_in_the_dialects_own_envelope(dialect: str) -> None:
    reply = speak(dialect, "tokns=1", stream=False)
    assert reply.status == 400
    assert b"Did you mean `tokens`" in reply.body
    _kind(dialect, reply)


def test_google_names_the_member_that_is_wrong() -> None:
    (detail,) = speak("gemini", "tokns=1").json()["error"]["details"]
    assert detail["fieldViolations"][0]["field"] == "tokns"


@pytest.mark.parametrize("dialect", ["converse", "invoke"])
def test_a_request_to_aws_without_a_signature_is_refused(dialect: str) -> None:
    async def scenario(mock: Mock) -> Reply:
        return await (await mock.connect()).exchange(request(b"{}", f"/model/mock/{dialect}"))

    reply = with_mock(scenario)
    assert reply.status == 403
    assert _kind(dialect, reply).endswith("Exception")


# Heads

OWN_HEADERS = {
    "chat": "openai-version",
    "responses": "openai-version",
    "messages": "anthropic-ratelimit-tokens-remaining",
    "gemini": "server-timing",
    "gemini_array": "server-timing",
    "converse": "x-amzn-requestid",
    "invoke": "x-amzn-requestid",
    "ollama": "x-process-time-ms",
}
TYPES = {
    "gemini": "text/event-stream",
    "gemini_array": "application/json; charset=UTF-8",
    "converse": "application/vnd.amazon.eventstream",
    "invoke": "application/vnd.amazon.eventstream",
    "ollama": "application/x-ndjson",
}


@pytest.mark.parametrize("dialect", STREAMED)
def test_heads_are_those_of_the_provider(dialect: str) -> None:
    reply = speak(dialect)
    assert reply.headers["content-type"] == TYPES.get(dialect, "text/event-stream; charset=utf-8")
    assert "set-cookie" in reply.headers
    assert [name for name in set(OWN_HEADERS.values()) if name in reply.headers] == [OWN_HEADERS[dialect]]


# Counters


def test_every_dialect_counts_and_lists_do_not() -> None:
    async def scenario(mock: Mock) -> tuple[int, int]:
        peer = await mock.connect()
        for dialect in EVERY:
            assert (await peer.exchange(asking(dialect, "tokens=1", stream=False))).status == 200
        await peer.exchange(request(b"", "/api/tags", method="GET"))
        return mock.stats.started, mock.stats.completed

    assert with_mock(scenario) == (len(EVERY), len(EVERY))


def test_an_answer_with_checksums_is_made_anew_and_not_kept() -> None:
    async def scenario(mock: Mock) -> int:
        peer = await mock.connect()
        for _ in range(3):
            await peer.exchange(asking("invoke", "tokens=1"))
        return len(mock.provider.stage._rendered._kept)

    assert with_mock(scenario) == 0
