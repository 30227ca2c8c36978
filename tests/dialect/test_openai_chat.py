import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai._streaming import ServerSentEvent, SSEDecoder

from tidegate.dialect import Dialect, Notice, ProviderError, Sight
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.values import MAX_MESSAGE_CHARS
from tidegate.exchange import Ask, Usage
from tidegate.verdict import BAD_REQUEST, Refused
from tidegate.wire import Frame, FrameError
from tidegate.wire.sse import SseFramer, split

DIALECT: Dialect = OpenAIChat()
GOLDEN = Path(__file__).parents[1] / "golden" / "openai"
MESSAGES = '"messages":[{"role":"user","content":"hi"}]'


def interesting(block: bytes) -> bool:
    return DIALECT.hit(block, 0) >= 0


def frame_of(data: object) -> Frame:
    return Frame(b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n")


def chunk(**members: Any) -> Frame:
    return frame_of({"choices": [{"index": 0, **members}]})


def body_of(members: str) -> bytes:
    return f"{{{members}}}".encode()


def refusal(body: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        DIALECT.read_request(body)
    assert caught.value.verdict is BAD_REQUEST
    return caught.value


# --- reading a request ---


def test_a_request_is_read_as_far_as_the_gateway_needs_it() -> None:
    body = body_of(
        f'"model":"m",{MESSAGES},"stream":true,"n":2,"stream_options":{{"include_usage":true,"x":1}},"new":[{{}}]'
    )
    ask = DIALECT.read_request(body)
    assert (ask.model, ask.stream, ask.wants_usage, ask.choices, ask.body) == ("m", True, True, 2, body)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ("", (False, False, 1)),
        (',"stream":null,"stream_options":null,"n":null', (False, False, 1)),
        (',"stream":false,"n":"many"', (False, False, 1)),
        (',"stream":true,"n":0', (True, False, 1)),
        (',"stream":true,"n":' + "9" * 5000, (True, False, 1)),
        (',"stream":true,"stream_options":{"include_usage":"yes"}', (True, False, 1)),
        (',"stream":true,"stream_options":{"include_usage":false}', (True, False, 1)),
        (',"stream":true,"stream_options":{}', (True, False, 1)),
    ],
)
def test_what_is_absent_or_for_the_provider_to_refuse_has_a_plain_reading(
    members: str, expected: tuple[bool, bool, int]
) -> None:
    ask = DIALECT.read_request(body_of(f'"model":"m",{MESSAGES}{members}'))
    assert (ask.stream, ask.wants_usage, ask.choices) == expected


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_every_role_of_the_api_is_known(role: str) -> None:
    assert DIALECT.read_request(body_of(f'"model":"m","messages":[{{"role":"{role}"}}]')).model == "m"


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b"", None, "not valid JSON"),
        (b"{", None, "not valid JSON"),
        (b"{} {}", None, "not valid JSON"),
        (b"[]", None, "must be a JSON object"),
        (b'"text"', None, "must be a JSON object"),
        (b'{"x":"\xff"}', None, "not valid UTF-8"),
        (b'{"x":"' + b"y" * 100_000 + b'\xc3"}', None, "not valid UTF-8"),
        (b"[" * 100_000, None, "must be a JSON object"),
        (b'{"x":' + b"[" * 100_000, None, "nested too deeply"),
        (b"{}", "model", "1 to 256"),
        (b'{"model":"m"}', "messages", "one message or more"),
        (body_of(f'"model":"",{MESSAGES}'), "model", "1 to 256"),
        (body_of(f'"model":null,{MESSAGES}'), "model", "1 to 256"),
        (body_of(f'"model":7,{MESSAGES}'), "model", "1 to 256"),
        (body_of(f'"model":"{"m" * 257}",{MESSAGES}'), "model", "1 to 256"),
        (body_of('"model":"m","messages":[]'), "messages", "one message or more"),
        (body_of('"model":"m","messages":{}'), "messages", "one message or more"),
        (body_of('"model":"m","messages":[{"role":"user"},"hi"]'), "messages[1]", "an object"),
        (body_of('"model":"m","messages":[{"content":"hi"}]'), "messages[0].role", "one of system"),
        (body_of('"model":"m","messages":[{"role":"sybil"}]'), "messages[0].role", "one of system"),
        (body_of('"model":"m","messages":[{"role":null}]'), "messages[0].role", "one of system"),
        (body_of(f'"model":"m",{MESSAGES},"stream":"yes"'), "stream", "true, false or null"),
        (body_of(f'"model":"m",{MESSAGES},"stream":1'), "stream", "true, false or null"),
        (body_of(f'"model":"m",{MESSAGES},"stream_options":true'), "stream_options", "an object or null"),
    ],
)
def test_a_request_that_is_wrong_is_refused_with_the_member_that_is(body: bytes, param: str | None, words: str) -> None:
    fault = refusal(body)
    assert fault.param == param
    assert words in fault.message


def test_a_refusal_shows_nothing_of_what_the_client_sent() -> None:
    secret = "canary-7f3"
    for body in (
        body_of(f'"model":"m","messages":[{{"role":"{secret}"}}]'),
        body_of(f'"model":["{secret}"],{MESSAGES}'),
        body_of(f'"model":"m",{MESSAGES},"{secret}'),
    ):
        fault = refusal(body)
        assert secret not in f"{fault.message}{fault.param}"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (body_of(f'"model":"a",{MESSAGES},"model":"b"'), "model"),
        (body_of(f'"model":"a",{MESSAGES},"model":"a"'), "model"),
        (body_of(f'"model":"a","model":"a",{MESSAGES}'), "model"),
        (body_of(f' "model" : "a" ,\n{MESSAGES}, "mod\\u0065l"\t:\r"b" '), "model"),
        (body_of(f'"\\u006Dodel":"a","\\u006dodel":"b",{MESSAGES}'), "model"),
        (body_of(f'"n":12,"n":1,{MESSAGES},"model":"a","model":"a"'), "n"),
        (body_of(f'{MESSAGES},"model":"a","model":"a","{"x" * 300}":12,"{"x" * 300}":1'), "model"),
        (body_of(f'"{"x" * 300}":12,"{"x" * 300}":1,{MESSAGES},"model":"a","model":"a"'), "x" * 256 + "…"),
    ],
)
def test_a_model_given_twice_is_refused_however_it_is_written(body: bytes, param: str) -> None:
    fault = refusal(body)
    assert fault.param == param
    assert "given twice" in fault.message


@pytest.mark.parametrize(
    "body",
    [
        b' \r\n{ "model" : "m" ,\t' + MESSAGES.encode() + b' , "tools": [{"model": 1}, {"model": 1}] }\n',
        body_of(f'"tools":{{"model":1}},"a\\"b":1,"metadata":{{"model":"x"}},{MESSAGES},"mod\\u0065l":"m"'),
        body_of('"messages":[{"role":"user","content":"\\u006d and \\"model\\":"}],"model":"m","n":1'),
    ],
)
def test_a_model_named_in_other_places_is_no_second_one(body: bytes) -> None:
    assert DIALECT.read_request(body).model == "m"


def test_text_in_any_script_is_read_as_it_is() -> None:
    text = "潮🌊é" * 30_000  # longer than what is checked at once, so that a slice ends inside a character
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}, ensure_ascii=False).encode()
    assert DIALECT.read_request(body).body is body


# --- writing a request ---


def test_the_clients_own_bytes_are_sent_when_nothing_must_change() -> None:
    for members in ('"stream":false', '"stream":true,"stream_options":{"include_usage":true}'):
        ask = DIALECT.read_request(body_of(f'"model":"m",{MESSAGES},{members}'))
        assert DIALECT.write_request(ask, "m") is ask.body


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ("", ',"stream_options":{"include_usage":true}'),
        (',"stream_options":null', ',"stream_options":{"include_usage":true}'),
        (',"stream_options":{}', ',"stream_options":{"include_usage":true}'),
        (
            ',"stream_options":{"include_usage":false,"include_obfuscation": false},"x":1.50',
            ',"stream_options":{"include_usage":true,"include_obfuscation":false},"x":1.50',
        ),
    ],
)
def test_usage_is_asked_for_where_the_client_did_not(options: str, written: str) -> None:
    ask = DIALECT.read_request(body_of(f'"model":"m",{MESSAGES},"stream":true{options}'))
    assert DIALECT.write_request(ask, "m") == body_of(f'"model":"m",{MESSAGES},"stream":true{written}')


def test_the_model_is_replaced_where_it_stands() -> None:
    ask = DIALECT.read_request(body_of(f'"seed":1E400, "model" : "alias",{MESSAGES}'))
    assert DIALECT.write_request(ask, 'llama "é"') == body_of(f'"seed":1E400,"model":"llama \\"é\\"",{MESSAGES}')


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=6), json_values, max_size=5),
    st.lists(st.tuples(st.sampled_from(["", " ", "\n\t"]), st.sampled_from(["", "  "])), min_size=12, max_size=12),
    st.sampled_from([None, {}, {"include_usage": False, "other": [1.0]}, {"include_usage": True}]),
    st.permutations(["model", "messages", "stream", "stream_options"]),
    st.booleans(),
)
def test_a_written_request_keeps_the_bytes_and_order_of_every_other_member(
    others: dict[str, Any],
    spaces: list[tuple[str, str]],
    options: dict[str, Any] | None,
    order: list[str],
    stream: bool,
) -> None:
    ours = {
        "model": "m",
        "messages": [{"role": "user", "content": "é\u2028"}],
        "stream": stream,
        "stream_options": options,
    }
    members = {key: ours[key] for key in order} | {
        key: value for key, value in others.items() if key not in {*ours, "n"}
    }
    values = {key: json.dumps(value, ensure_ascii=len(key) % 2 == 0) for key, value in members.items()}
    written = ",".join(
        f"{before}{json.dumps(key)}{after}:{before}{values[key]}{after}"
        for (key, (before, after)) in zip(members, spaces, strict=False)
    )
    try:
        body = f"{{{written}}}".encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON texts can hold and UTF-8 cannot
        return
    result = DIALECT.write_request(DIALECT.read_request(body), "other")
    decoded: dict[str, Any] = json.loads(result)
    adds = stream and not (options or {}).get("include_usage")
    expected = {**members, "model": "other"} | (
        {"stream_options": {**(options or {}), "include_usage": True}} if adds else {}
    )
    assert decoded == expected
    assert list(decoded) == list(members)
    at = 0
    for key, value in values.items():
        if key != "model" and not (adds and key == "stream_options"):
            at = result.index(f":{value}".encode(), at)


# --- looking at frames ---


@pytest.mark.parametrize(
    "frame",
    [
        Frame(b": ping\n\n"),
        Frame(b"event: ping\n\n"),
        chunk(delta={"role": "assistant", "content": "", "refusal": None, "tool_calls": []}, finish_reason=None),
        chunk(delta={}),
        chunk(delta=None, finish_reason=""),
        chunk(text=""),
        frame_of({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}),
        frame_of({"choices": None, "error": None}),
        frame_of({"choices": ["odd"], "error": ""}),
        frame_of({"code": 0, "message": "fine"}),
        frame_of({"choices": [], "usage": {"prompt_tokens": 1}}),
    ],
)
def test_a_frame_without_content_is_silent(frame: Frame) -> None:
    assert DIALECT.look(frame) == (Sight.SILENT, None)


@pytest.mark.parametrize(
    "frame",
    [
        chunk(delta={"content": "a"}),
        chunk(delta={"role": "assistant", "reasoning_content": "a"}),
        chunk(delta={"refusal": "no"}),
        chunk(delta={"tool_calls": [{"index": 0}]}),
        chunk(delta={"audio": {"id": "x"}}),
        chunk(delta={}, finish_reason="stop"),
        chunk(text="a"),
        frame_of({"choices": [{"delta": {}}, {"delta": {"content": "b"}}]}),
        frame_of(b'{"choices":[{"delta":{"content":"\\ud83d"}}]}'),
    ],
)
def test_any_member_of_a_delta_but_the_role_is_content(frame: Frame) -> None:
    assert DIALECT.look(frame) == (Sight.CONTENT, None)


@pytest.mark.parametrize("raw", [b"data: [DONE]\n\n", b"data:[DONE]\r\n\r\n", b"data: [DONE] \n\n"])
def test_the_last_frame_is_the_end(raw: bytes) -> None:
    assert DIALECT.look(Frame(raw)) == (Sight.END, None)
    assert DIALECT.notice(Frame(raw)) == Notice(done=True)
    assert interesting(raw)
    assert not DIALECT.is_usage_only(Frame(raw))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (
            {"error": {"message": "slow down", "type": "tokens", "param": "x", "code": "rate_limit_exceeded"}},
            ProviderError("slow down", "tokens", "rate_limit_exceeded", "x", 429),
        ),
        ({"error": {"message": "busy", "code": 502}}, ProviderError("busy", None, "502", None, 502)),
        ({"error": {"message": "busy", "code": "503"}}, ProviderError("busy", None, "503", None, 503)),
        ({"error": {"message": "busy", "status": 504, "code": 7}}, ProviderError("busy", None, "7", None, 504)),
        (
            {"error": {"message": "no", "type": "invalid_request_error"}},
            ProviderError("no", "invalid_request_error", status=400),
        ),
        ({"error": "it broke"}, ProviderError("it broke")),
        ({"error": {"detail": {"a": 1}}}, ProviderError('{"a": 1}')),
        ({"error": {"type": "api_error"}}, ProviderError('{"type": "api_error"}', "api_error", status=500)),
        ({"error": {"message": "", "param": 3}}, ProviderError('{"message": "", "param": 3}')),
        ({"error": True}, ProviderError("true")),
        (
            {"object": "error", "message": "gone", "type": "NotFoundError", "code": 404},
            ProviderError("gone", "NotFoundError", "404", None, 404),
        ),
        ({"error": "x" * 9000}, ProviderError("x" * MAX_MESSAGE_CHARS + "…")),
    ],
)
def test_an_error_object_is_read_in_every_shape_that_servers_send(value: dict[str, Any], error: ProviderError) -> None:
    frame = frame_of(value)
    assert DIALECT.look(frame) == (Sight.ERROR, error)
    assert DIALECT.notice(frame).error == error
    assert DIALECT.read_response(json.dumps(value).encode()).error == error
    assert interesting(frame.raw)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b'"text"', b"\xff", b"[" * 100_000, b'{"a":' * 5_000])
def test_data_that_is_no_object_is_no_frame(data: bytes) -> None:
    frame = Frame(b"data: " + data + b"\n\n")
    for read in (DIALECT.look, DIALECT.notice, DIALECT.is_usage_only):
        with pytest.raises(FrameError, match="not"):
            read(frame)
    with pytest.raises(FrameError, match="not"):
        DIALECT.read_response(data)


# --- what is interesting, and what it says ---


@pytest.mark.parametrize(
    "data",
    [
        b'{"usage":{"prompt_tokens":1}}',
        b'{"usage" :\t{"prompt_tokens":1}}',
        b'{"choices":[{"finish_reason":"stop"}]}',
        b'{"choices":[{"finish_reason" : "stop"}]}',
        b'{"error":{}}',
        b'{"error": "text"}',
        b'{"error"  :{}}',
        b'{"object": "error"}',
        b"[DONE]",
    ],
)
def test_a_block_that_may_say_something_is_interesting(data: bytes) -> None:
    assert interesting(b"data: {}\n\ndata: " + data + b"\n\ndata: {}\n\n")


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"content":"x"},"finish_reason":null}],"usage":null,"error":null}',
        b'{"choices":[{"delta":{"content":"x"},"finish_reason" : null}],"usage" : null,"error" : null}',
        b'{"choices":[{"delta":{"content":"\\"usage\\":{\\"error\\": \\"finish_reason\\":\\"D"}}]}',
        b'{"terror":1,"choices":[]}',
    ],
)
def test_a_block_that_says_nothing_is_not_interesting(data: bytes) -> None:
    assert not interesting(b"data: " + data + b"\n\n")


@settings(deadline=None)
@given(
    json_values,
    st.sampled_from(["usage", "error", "finish_reason", "object"]),
    st.sampled_from([(",", ":"), (", ", ": ")]),
)
def test_no_frame_that_says_something_is_overlooked(value: Any, key: str, separators: tuple[str, str]) -> None:
    chunk = {"choices": [{"index": 0, key: value}]} if key == "finish_reason" else {key: value, "choices": []}
    frame = frame_of(json.dumps(chunk, separators=separators).encode())
    if DIALECT.notice(frame) != Notice():
        assert interesting(frame.raw)


def test_usage_is_read_with_its_details() -> None:
    usage = {
        "prompt_tokens": 19,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert DIALECT.notice(frame_of({"usage": usage})).usage == Usage(19, 10, 4, 3)


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (None, None),
        ({}, None),
        ([1], None),
        ({"prompt_tokens": "3"}, None),
        ({"prompt_tokens": True, "completion_tokens": -1}, None),
        ({"prompt_tokens": 3}, Usage(3)),
        ({"completion_tokens": 3, "prompt_tokens_details": None, "completion_tokens_details": [1]}, Usage(0, 3)),
    ],
)
def test_usage_of_an_unexpected_shape_says_nothing(usage: object, read: Usage | None) -> None:
    assert DIALECT.notice(frame_of({"usage": usage})).usage == read


def test_the_first_finish_reason_counts() -> None:
    chunk = {
        "choices": [
            {"finish_reason": None},
            {"finish_reason": 7},
            {"finish_reason": "length"},
            {"finish_reason": "stop"},
        ]
    }
    assert DIALECT.notice(frame_of(chunk)).finish_reason == "length"
    assert DIALECT.notice(Frame(b": [DONE]\n\n")) == Notice()


@pytest.mark.parametrize(
    ("value", "alone"),
    [
        ({"choices": [], "usage": {"prompt_tokens": 1}}, True),
        ({"choices": [], "usage": None}, False),
        ({"choices": [], "prompt_filter_results": []}, False),
        ({"choices": [{}], "usage": {}}, False),
        ({"usage": {}}, False),
    ],
)
def test_only_a_frame_of_no_choices_and_a_usage_object_is_usage_alone(value: object, alone: bool) -> None:
    assert DIALECT.is_usage_only(frame_of(value)) is alone


@pytest.mark.parametrize(
    ("block", "envelope"),
    [
        (
            b'data: {"a":1,"delta":{"content":"x"},"f":null}\n\n',
            (b'data: {"a":1,"delta":{"content":"', b'"},"f":null}\n\n'),
        ),
        (b'data:{"delta": {"content": "\\"}"}}\n\n', (b'data:{"delta": {"content": "', b'"}}\n\n')),
        (b'data: {"delta":{"content":"x"}}\n\ndata: {"delta":{"content":"y"}}\n\n', None),
        (b'data: {"delta":{"content":"x"}}\r\n\r\n', None),
        (b'data: {"delta":{"role":"a","content":"x"}}\n\n', None),
        (b": note\n\n", None),
    ],
)
def test_the_wrapping_of_a_text_is_known_from_one_frame_with_text_alone(
    block: bytes, envelope: tuple[bytes, bytes] | None
) -> None:
    assert DIALECT.envelope(block) == envelope


# --- bodies ---


def test_a_whole_response_says_what_a_stream_says() -> None:
    body = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 5}}
    assert DIALECT.read_response(json.dumps(body).encode()) == Notice(Usage(5), "stop", 1)


@pytest.mark.parametrize(
    ("tail", "usage"),
    [
        (b'ut off","x":1}],"usage":{"prompt_tokens":5,"completion_tokens":2},"fp":null}', Usage(5, 2)),
        (b'\xa9 \\"usage\\":{\\"prompt_tokens\\":9}"}],"usage" : {"prompt_tokens":5}}\n', Usage(5)),
        (b'"usage":{"prompt_tokens":5},"x":{"usage":{"other":1}},"usage":{"prompt', Usage(5)),
        (b'"usage":{"prompt_tokens":5},"usage":' + b'{"x":' * 3000, Usage(5)),
        (b'"usage":null}', None),
        (b"", None),
    ],
)
def test_the_last_usage_in_the_end_of_a_body_is_found(tail: bytes, usage: Usage | None) -> None:
    assert DIALECT.usage_in_tail(tail) == usage


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error":{"message":"no","type":"t","param":"p","code":"c"}}', ProviderError("no", "t", "c", "p", 418)),
        (b'{"error":"no"}', ProviderError("no", status=418)),
        (b'{"message":"no","code":"c"}', ProviderError("no", None, "c", None, 418)),
        (b'{"detail":"no"}', ProviderError("no", status=418)),
        (b'{"detail":[{"loc":["body"]}]}', ProviderError('[{"loc": ["body"]}]', status=418)),
        (b'[{"error":{"message":"no","code":400}}]', ProviderError("no", None, "400", None, 418)),
        (b'{"other":1}', ProviderError('{"other":1}', status=418)),
        (b"[]", ProviderError("[]", status=418)),
        (b" plain\n text\x07\xff ", ProviderError("plain text\ufffd", status=418)),
        (b"x" * 5000, ProviderError("x" * 500, status=418)),
        (b"\n<!doctype html><h1>Bad gateway</h1>", ProviderError("the provider answered 418", status=418)),
        (b"", ProviderError("the provider answered 418", status=418)),
    ],
)
def test_a_providers_refusal_always_has_a_message(body: bytes, error: ProviderError) -> None:
    assert DIALECT.read_error(418, body) == error


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
        (404, "invalid_request_error"), (405, "invalid_request_error"), (413, "invalid_request_error"),
        (415, "invalid_request_error"), (429, "rate_limit_error"), (431, "invalid_request_error"),
        (500, "server_error"), (502, "server_error"), (504, "server_error"),
    ],
)  # fmt: skip
def test_the_type_of_an_error_follows_its_status(status: int, kind: str) -> None:
    body = json.loads(DIALECT.error_body("c", "m", kind=None, param="p", status=status))
    assert body == {"error": {"message": "m", "type": kind, "param": "p", "code": "c"}}
    assert json.loads(DIALECT.error_body("c", "m", kind="own", param=None, status=status))["error"]["type"] == "own"


def test_an_error_frame_is_one_line_that_this_dialect_reads_back() -> None:
    raw = DIALECT.error_frame("idle_timeout", 'two\nlines "and" 潮')
    assert raw.count(b"\n") == 2
    error = ProviderError('two\nlines "and" 潮', "server_error", "idle_timeout", None, 500)
    assert DIALECT.look(Frame(raw)) == (Sight.ERROR, error)
    assert json.loads(DIALECT.error_frame("c", "m", "own")[6:])["error"]["type"] == "own"


# --- the official client ---


def sdk_events(stream: bytes) -> list[ServerSentEvent]:
    def pieces() -> Iterator[bytes]:
        yield stream

    return list(SSEDecoder().iter_bytes(pieces()))


def test_a_heartbeat_between_frames_is_no_event_to_the_official_client() -> None:
    frames = [b'id: 1\ndata: {"a":1}\n\n', b'data: {"b":2}\n\n', DIALECT.terminator]
    beaten = DIALECT.heartbeat + DIALECT.heartbeat.join(frames) + DIALECT.heartbeat
    assert [event.data for event in sdk_events(beaten)] == ['{"a":1}', '{"b":2}', "[DONE]"]
    assert [frame.data for frame in split(beaten)][:3] == [b'{"a":1}', b'{"b":2}', b"[DONE]"]
    # What this form avoids: the empty line after a comment is an event to it.
    assert len(sdk_events(frames[0] + b": heartbeat\n\n")) == 2


# --- golden streams ---

STREAMS = {path.stem: path.read_bytes() for path in sorted(GOLDEN.glob("*.sse"))}
STORIES: dict[str, tuple[list[Sight], str, Usage | None]] = {
    # name: what each frame is to an opening, finish reason, usage, bytes of text
    "usage": ([Sight.SILENT, *[Sight.CONTENT] * 4, Sight.SILENT, Sight.END], "stop", Usage(19, 10, 4, 3)),
    "azure": ([Sight.SILENT] * 2 + [Sight.CONTENT] * 3 + [Sight.END], "stop", None),
    "vllm": ([Sight.SILENT] * 2 + [Sight.CONTENT] * 3 + [Sight.SILENT, Sight.END], "length", Usage(12, 2)),
    "vllm-error": ([Sight.SILENT, Sight.CONTENT, Sight.CONTENT, Sight.ERROR, Sight.END], "", None),
    "tools": ([Sight.CONTENT] * 4 + [Sight.END], "tool_calls", None),
    "reasoning": ([Sight.SILENT, *[Sight.CONTENT] * 4, Sight.END], "stop", Usage(8, 21, 0, 14)),
    "error": ([Sight.SILENT, Sight.CONTENT, Sight.ERROR], "", None),
}


def story(frames: list[Frame]) -> tuple[list[Sight], str, Usage | None]:
    notices = [DIALECT.notice(frame) for frame in frames if interesting(frame.raw)]
    return (
        [DIALECT.look(frame)[0] for frame in frames],
        next((notice.finish_reason for notice in notices if notice.finish_reason), ""),
        next((notice.usage for notice in notices if notice.usage), None),
    )


@pytest.mark.parametrize("name", STREAMS)
def test_hits_name_exactly_the_interesting_frames(name: str) -> None:
    block = STREAMS[name]
    frames = SseFramer().feed(block)
    ends = list(itertools.accumulate(len(frame.raw) for frame in frames))
    wanted = {index for index, frame in enumerate(frames) if interesting(frame.raw)}
    found, start = set(), 0
    while (hit := DIALECT.hit(block, start)) >= 0:
        index = next(index for index, end in enumerate(ends) if end > hit)
        found.add(index)
        start = ends[index]
    assert found == wanted


@pytest.mark.parametrize("name", STORIES)
def test_a_providers_stream_tells_its_story(name: str) -> None:
    assert story(SseFramer().feed(STREAMS[name])) == STORIES[name]


@pytest.mark.parametrize("name", STREAMS)
def test_a_providers_stream_reads_the_same_cut_at_any_byte(name: str) -> None:
    stream = STREAMS[name]
    whole = [frame.data for frame in SseFramer().feed(stream)]
    for cut in range(len(stream) + 1):
        fed, taken = SseFramer(), SseFramer()
        assert [frame.data for piece in (stream[:cut], stream[cut:]) for frame in fed.feed(piece)] == whole
        blocks = [taken.take(stream[:cut]), taken.take(stream[cut:])]
        assert b"".join(blocks) == stream
        assert [frame.data for block in blocks for frame in split(block) if frame.data] == [
            data for data in whole if data
        ]


def test_the_official_client_reads_the_same_data_in_every_golden_stream() -> None:
    for stream in STREAMS.values():
        ours = [frame.data.decode() for frame in SseFramer().feed(stream) if frame.data is not None]
        assert [event.data for event in sdk_events(stream)] == ours


def test_a_plain_ask_needs_nothing_else_to_be_written() -> None:
    ask = Ask(model="m", stream=True, wants_usage=False, body=b'{"model":"m"}')
    assert DIALECT.write_request(ask, "m") == b'{"model":"m","stream_options":{"include_usage":true}}'


@pytest.mark.parametrize(
    ("data", "sight"),
    [
        (b'{"choices":[{"delta":{"content":"a"}}]}', Sight.CONTENT),
        (b'{"choices":[{"delta":{"content":""}}]}', Sight.SILENT),
        (b'{"choices":[{"delta":{"content":"a"}}],"error":{"message":"no"}}', Sight.ERROR),
    ],
)
def test_a_first_text_is_content_unless_an_error_stands_beside_it(data: bytes, sight: Sight) -> None:
    assert DIALECT.look(Frame(b"data: " + data + b"\n\n"))[0] is sight
