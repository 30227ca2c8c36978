import json
from pathlib import Path
from typing import Any

import pytest

from tidegate.dialect import Dialect, Notice, ProviderError, Sight
from tidegate.dialect.anthropic import Anthropic, AnthropicOnBedrock
from tidegate.dialect.anthropic.answer import INVALID
from tidegate.dialect.anthropic.tokens import IMAGE_TOKENS, MAX_DEPTH, PAGE_TOKENS, CountTokens
from tidegate.dialect.conversation import (
    Conversation,
    DocumentPart,
    ImagePart,
    ResultPart,
    TextPart,
    Turn,
    Untranslatable,
)
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
from tidegate.verdict import Refused
from tidegate.wire import Frame, FrameError
from tidegate.wire.sse import SseFramer

DIALECT: Dialect = Anthropic()
BEDROCK: Dialect = AnthropicOnBedrock()
TOKENS = CountTokens()
GOLDEN = Path(__file__).parents[1] / "golden" / "anthropic"
HI = {"role": "user", "content": "hi"}
ORIGIN = Origin("req_1", "claude", 7, "openai_chat")
DELTA = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a \\" b"}}\n\n'
)


def body(**members: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 9, "messages": [HI]} | members).encode()


def asked(**members: Any) -> Ask:
    return DIALECT.read_request(body(**members))


def frame(name: str, number: int) -> Frame:
    return SseFramer().feed((GOLDEN / name).read_bytes())[number]


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_request_says_what_the_gateway_needs() -> None:
    sent = body(stream=True, metadata={"user_id": "u1"})
    assert DIALECT.read_request(sent) == Ask("m", True, True, sent, max_tokens=9, user="u1", dialect="anthropic")


@pytest.mark.parametrize("metadata", [None, 7, {}, {"user_id": 7}, {"user_id": "x" * 2000}])
def test_a_user_s_name_that_is_none_says_nothing(metadata: Any) -> None:
    assert asked(metadata=metadata).user == ""


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        (b'{"messages": [{"role": "user"}], "max_tokens": 1}', "model"),
        (body(model=""), "model"),
        (body(model="x" * 257), "model"),
        (b'{"model": "m", "max_tokens": 1}', "messages"),
        (body(messages=[]), "messages"),
        (body(messages=[7]), "messages[0]"),
        (body(messages=[{}]), "messages[0].role"),
        (body(messages=[{"role": "tool"}]), "messages[0].role"),
        (b'{"model": "m", "messages": [{"role": "user"}]}', "max_tokens"),
        (body(max_tokens=-1), "max_tokens"),
        (body(max_tokens="9"), "max_tokens"),
        (body(max_tokens=None), "max_tokens"),
        (body(stream="yes"), "stream"),
        (b'{"model": "a", "max_tokens": 1, "messages": [{"role": "user"}], "model": "b"}', "model"),
    ],
)
def test_what_is_missing_or_wrong_is_refused_by_its_name(sent: bytes, param: str) -> None:
    with pytest.raises(Refused) as refused:
        DIALECT.read_request(sent)
    assert (refused.value.param, refused.value.status) == (param, 400)
    assert param in refused.value.message


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"[]", "a JSON object"),
        (b"{", "not valid JSON"),
        (body() + b"\xff", "UTF-8"),
        (b'{"x":' + b"[" * 9999, "nested too deeply"),
    ],
)
def test_what_is_no_object_is_refused(sent: bytes, words: str) -> None:
    with pytest.raises(Refused, match=words):
        DIALECT.read_request(sent)


def test_a_cache_may_be_warmed_without_an_answer() -> None:
    assert asked(max_tokens=0).max_tokens == 0


def test_a_request_goes_on_as_it_came_unless_the_model_has_another_name() -> None:
    ask = asked(extra={"a": 1.50})
    assert DIALECT.write_request(ask, "m") is ask.body
    assert DIALECT.write_request(ask, "é") == ask.body.replace(b'": ', b'":').replace(b', "', b',"').replace(
        b'"m"', '"é"'.encode()
    ).replace(b'"extra":{"a":1.5}', b'"extra":{"a": 1.5}').replace(b'[{"role":"user","content":"hi"}]', b'[{"role": "user", "content": "hi"}]')  # fmt: skip


def test_bedrock_has_model_and_stream_in_the_address() -> None:
    sent = json.loads(BEDROCK.write_request(asked(stream=True, top_k=1), "x"))
    assert sent == {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": [HI], "top_k": 1}
    own = json.loads(BEDROCK.write_request(asked(anthropic_version="other"), "x"))
    assert own["anthropic_version"] == "other"


@pytest.mark.parametrize("part", [ImagePart(url="https://a/b.png"), DocumentPart(url="https://a/b.pdf")])
def test_bedrock_fetches_nothing(part: ImagePart | DocumentPart) -> None:
    result = Turn("user", (ResultPart("c1", (TextPart("see"), part)),))
    for turn in (Turn("user", (part,)), result):
        conversation = Conversation(turns=(turn,), members={"turns": "input"})
        with pytest.raises(Untranslatable, match="`input` has a file by its URL") as caught:
            BEDROCK.write_conversation(conversation, "claude-3")
        assert caught.value.param == "input"


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (409, "conflict_error"),
        (413, "request_too_large"),
        (415, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_an_error_has_the_type_of_its_status(status: int, kind: str) -> None:
    written = json.loads(DIALECT.error_body("draining", "no", kind=None, param=None, status=status))
    assert written == {"type": "error", "error": {"type": kind, "message": "no", "code": "draining"}}


def test_a_provider_s_own_word_stays_where_clients_know_it() -> None:
    known = json.loads(DIALECT.error_body("", "no", kind="billing_error", param=None, status=400))
    assert known["error"] == {"type": "billing_error", "message": "no"}
    other = json.loads(DIALECT.error_body("x", "no", kind="insufficient_quota", param=None, status=429))
    assert other["error"]["type"] == "rate_limit_error"


def test_an_error_in_mid_stream_is_an_event() -> None:
    assert DIALECT.error_frame("idle_timeout", "no", first=b"x", last=b"y") == (
        b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"no","code":"idle_timeout"}}\n\n'
    )


def test_what_is_overloaded_has_a_status_of_its_own() -> None:
    assert [DIALECT.status(status) for status in (503, 500, 429)] == [529, 500, 429]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ((GOLDEN / "error.json").read_bytes(), ("This request would exceed your organization's rate limit.", "rate_limit_error")),
        (b'{"message": "Too many requests"}', ("Too many requests", None)),
        (b'{"error": "no"}', ("no", None)),
        (b"Bad  gateway\x07", ("Bad gateway", None)),
        (b"<html>", ("the provider answered 429", None)),
        (b"{}", ("{}", None)),
        (b"", ("the provider answered 429", None)),
    ],
)  # fmt: skip
def test_a_provider_s_refusal_has_a_message(sent: bytes, expected: tuple[str, str | None]) -> None:
    error = DIALECT.read_error(429, sent)
    assert (error.message, error.kind, error.status) == (*expected, 429)


# --- whole answers ---------------------------------------------------------------------------------------------------


def test_a_whole_answer_is_read_as_its_stream_would_be() -> None:
    usage = Usage(139, 87, cached_tokens=100, cache_write_tokens=30)
    assert DIALECT.read_answer((GOLDEN / "message.json").read_bytes()) == [
        Started("msg_whole", "claude-opus-4-6"),
        UsageSeen(usage),
        Reasoning(0, "The tide turns."),
        Reasoning(0, "", "EqQB"),
        Sealed(0, "Emw"),
        Text(0, "Okay 🌊"),
        ToolCallStarted(0, 0, "toolu_01", "get_tide"),
        ToolArguments(0, 0, '{"location":"Saint-Malo"}'),
        ToolCallEnded(0, 0),
        ToolCallStarted(0, 1, "toolu_02", "now"),
        ToolArguments(0, 1, "{}"),
        ToolCallEnded(0, 1),
        Finished(0, "tool_calls"),
        Done(),
    ]
    assert DIALECT.read_response((GOLDEN / "message.json").read_bytes()) == Notice(usage, "tool_calls", 1)


def test_a_whole_answer_is_written_as_it_was() -> None:
    whole = json.loads((GOLDEN / "message.json").read_bytes())
    events = DIALECT.read_answer(json.dumps(whole).encode())
    again = json.loads(DIALECT.write_answer(events, asked(), Origin("", "", 0, "anthropic")))
    del whole["usage"]["service_tier"], whole["content"][2]["citations"]
    assert again == whole


def test_an_error_instead_of_an_answer_fails() -> None:
    events = DIALECT.read_answer((GOLDEN / "error.json").read_bytes())
    assert [type(event) for event in events] == [Failed]
    assert DIALECT.read_response(b'{"error": {"message": "no"}}').error == ProviderError("no")
    assert DIALECT.read_response(b'{"message": "no"}').error == ProviderError("no")  # as Amazon says it


def test_tokens_are_counted_in_a_dialect_of_its_own_and_cost_nothing() -> None:
    asked = TOKENS.read_request(b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}')
    assert asked.dialect == TOKENS.name != DIALECT.name
    assert TOKENS.read_response(b'{"input_tokens":2095}') == Notice(usage=Usage())


def test_an_answer_without_content_is_complete() -> None:
    assert DIALECT.read_answer(b'{"content": 7}') == [Started(), Finished(0, "stop"), Done()]


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"id": "m1", "stop_reason": "end_turn"}'])
def test_what_is_no_answer_is_not_complete(body: bytes) -> None:
    with pytest.raises(FrameError):
        DIALECT.read_answer(body)


def test_a_message_alone_is_amazon_s_error() -> None:
    body = b'{"message": "The model broke."}'
    assert BEDROCK.read_answer(body) == (Failed(ProviderError("The model broke.")),)
    assert BEDROCK.read_response(body).error == ProviderError("The model broke.")


def test_pieces_are_joined_and_what_others_signed_is_marked() -> None:
    events: list[Event] = [
        Started(),
        Reasoning(0, "a"),
        Reasoning(0, "b", "s"),
        Reasoning(0, "c"),
        Text(0, "x"),
        Refusal(0, "y"),
        ToolCallStarted(0, 0, "c", "now", "g"),
        ToolArguments(0, 0, '{"a"'),
        ToolArguments(0, 0, ": 1"),
        ToolCallEnded(0, 0),
        Finished(0, "stop"),
        Done(),
    ]
    written = json.loads(DIALECT.write_answer(events, asked(), ORIGIN))
    assert (written["id"], written["model"], written["stop_reason"]) == ("req_1", "claude", "refusal")
    assert written["content"] == [
        {"type": "thinking", "thinking": "ab", "signature": "tidegate:openai_chat:s"},
        {"type": "thinking", "thinking": "c", "signature": ""},
        {"type": "text", "text": "xy"},
        {"type": "redacted_thinking", "data": 'tidegate:openai_chat:{"call":"c","signature":"g"}'},
        {"type": "tool_use", "id": "c", "name": "now", "input": {INVALID: '{"a": 1'}},
    ]


def test_the_usage_is_found_in_the_end_of_a_long_body() -> None:
    whole = (GOLDEN / "message.json").read_bytes()
    assert DIALECT.usage_in_tail(whole[-200:]) == Usage(139, 87, cached_tokens=100, cache_write_tokens=30)
    assert DIALECT.usage_in_tail(whole[-40:]) is None


# --- where bytes pass ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.glob("*.sse")))
def test_no_frame_that_says_more_than_content_is_missed(name: str) -> None:
    for found in SseFramer().feed((GOLDEN / name).read_bytes()):
        kind = json.loads(found.data or b"")["type"]
        interesting = kind in {"message_start", "message_delta", "message_stop", "error"}
        hit = DIALECT.hit(found.raw, 0)
        assert (hit >= 0) == interesting
        assert (DIALECT.notice(found) != Notice()) == interesting


def test_the_first_of_several_hits_is_given() -> None:
    error = (GOLDEN / "error.sse").read_bytes()
    assert error[DIALECT.hit(error, 0) :].startswith(b'"message_start"')
    at = DIALECT.hit(error, error.index(b"content_block"))
    assert error[at:].startswith(b'"error"')
    assert DIALECT.hit(error, len(error)) == -1


def test_frames_say_usage_and_reasons_but_not_before_the_end_that_it_is_over() -> None:
    assert DIALECT.notice(frame("thinking.sse", 0)).usage == Usage(139, 1, cached_tokens=100, cache_write_tokens=30)
    assert DIALECT.notice(frame("text.sse", -2)) == Notice(Usage(0, 15), "stop")
    assert DIALECT.notice(frame("text.sse", -1)) == Notice(done=True)
    assert DIALECT.notice(frame("error.sse", -1)).error == ProviderError("Overloaded", "overloaded_error", status=529)


@pytest.mark.parametrize(
    "data", [b": x\n\n", b'data: {"type":"message_start"}\n\n', b'data: {"type":"message_delta"}\n\n']
)
def test_frames_without_what_they_are_for_say_nothing(data: bytes) -> None:
    assert DIALECT.notice(Frame(data)) == Notice()
    assert not DIALECT.is_usage_only(Frame(data))


def test_a_frame_of_text_has_an_envelope() -> None:
    envelope = DIALECT.envelope(DELTA)
    assert envelope is not None
    assert envelope[0] + b'a \\" b' + envelope[1] == DELTA


@pytest.mark.parametrize(
    "block",
    [
        DELTA + DELTA,
        DELTA.replace(b"}}", b"}   }"),
        DELTA.replace(b"}}", b',"x":1}}'),
        DELTA.replace(b"text_delta", b"thinking_delta"),
        DELTA.replace(b"\n", b"\r\n"),
        DELTA.removeprefix(b"event: content_block_delta\n"),
    ],
)
def test_what_is_more_than_one_frame_of_text_has_none(block: bytes) -> None:
    assert DIALECT.envelope(block) is None


@pytest.mark.parametrize(
    ("name", "number", "sight"),
    [
        ("text.sse", 0, Sight.SILENT),
        ("text.sse", 1, Sight.SILENT),
        ("text.sse", 2, Sight.SILENT),
        ("text.sse", 3, Sight.CONTENT),
        ("text.sse", -2, Sight.CONTENT),
        ("thinking.sse", 1, Sight.SILENT),
        ("thinking.sse", 2, Sight.CONTENT),
        ("tools.sse", 5, Sight.CONTENT),
        ("error.sse", -1, Sight.ERROR),
    ],
)
def test_a_stream_that_opens_is_judged_by_its_frames(name: str, number: int, sight: Sight) -> None:
    assert DIALECT.look(frame(name, number))[0] is sight


def test_clients_ignore_a_heartbeat_and_nothing_is_made_up_at_the_end() -> None:
    assert DIALECT.heartbeat == b'event: ping\ndata: {"type":"ping"}\n\n'
    assert DIALECT.terminator == b""


# --- counting tokens -------------------------------------------------------------------------------------------------


def test_counting_needs_no_bound_and_never_streams() -> None:
    ask = TOKENS.read_request(json.dumps({"model": "m", "messages": [HI], "stream": True}).encode())
    assert (ask.stream, ask.max_tokens, ask.model) == (False, 0, "m")
    assert TOKENS.write_request(ask, "m") is ask.body
    with pytest.raises(Refused):
        TOKENS.read_request(b"{}")


def tokens(content: Any, **members: Any) -> int:
    sent = body(messages=[{"role": "user", "content": content}], **members)
    return int(json.loads(TOKENS.estimate(TOKENS.read_request(sent)))["input_tokens"])


def test_an_estimate_grows_with_what_a_model_reads() -> None:
    none = tokens("")
    assert tokens("x" * 4000) - none == 1000
    assert tokens("é" * 4000) - none == 2000
    assert tokens("", system="x" * 400) - none == 100
    assert tokens("", metadata={"user_id": "x" * 400}) == none
    assert tokens("", tools=[{"name": "a", "input_schema": {"type": "object"}}]) > none
    assert 1 <= none < 10


def test_what_is_no_text_counts_by_its_kind() -> None:
    data = "x" * 100_000
    image = {"type": "image", "source": {"type": "base64", "data": data}}
    pages = {"type": "document", "source": {"type": "base64", "data": data}}
    plain = {"type": "document", "source": {"type": "text", "data": data}}
    signed = {"type": "thinking", "thinking": "", "signature": data}
    assert IMAGE_TOKENS <= tokens([image]) < IMAGE_TOKENS + 10
    assert PAGE_TOKENS <= tokens([pages]) < PAGE_TOKENS + 10
    assert tokens([plain]) >= 25_000
    assert tokens([signed]) < 20


def test_what_is_nested_too_deeply_counts_nothing() -> None:
    deep: Any = "x" * 4000
    for number in range(MAX_DEPTH):
        deep = [deep] if number % 2 else {"a": deep}
    assert tokens(deep) < 100
