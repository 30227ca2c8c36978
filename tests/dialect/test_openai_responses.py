"""The Responses API between a client and a provider who both speak it: bytes pass, and are searched for what they say."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import ResponseFailedEvent

from tidegate.dialect import Dialect, Notice, ProviderError, Sight
from tidegate.dialect.openai_responses import OpenAIResponses
from tidegate.exchange import Ask, Usage
from tidegate.relay.meter import Meter
from tidegate.verdict import Refused
from tidegate.wire import Frame, FrameError
from tidegate.wire.sse import SseFramer, split

DIALECT: Dialect = OpenAIResponses()
GOLDEN = Path(__file__).parents[1] / "golden" / "openai_responses"
STREAMS = sorted(GOLDEN.glob("*.sse"))


def body_of(**members: Any) -> bytes:
    return json.dumps({"model": "m", "input": "Hi", **members}).encode()


def asked(**members: Any) -> Ask:
    return DIALECT.read_request(body_of(**members))


def frame_of(value: Any) -> Frame:
    return Frame(b"data: " + json.dumps(value).encode() + b"\n\n")


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_request_says_its_model_and_whether_it_streams() -> None:
    body = body_of(stream=True, max_output_tokens=64, user="ann")
    assert DIALECT.read_request(body) == Ask(
        model="m", stream=True, wants_usage=True, body=body, max_tokens=64, user="ann", dialect="openai_responses"
    )
    assert not asked(stream=None).stream
    assert asked(input=[{"role": "user", "content": "Hi"}]).model == "m"


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"model": "x" * 257}, "model"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": {"role": "user"}}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"stream": "yes"}, "stream"),
        ({"background": "yes"}, "background"),
    ],
)
def test_what_is_wrong_is_named(members: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as refused:
        asked(**members)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert f"`{param}` must be" in refused.value.message


@pytest.mark.parametrize(("member", "given"), [("model", {"input": "x"}), ("input", {"model": "x"})])
def test_what_is_missing_is_named(member: str, given: dict[str, str]) -> None:
    with pytest.raises(Refused) as refused:
        DIALECT.read_request(json.dumps(given).encode())
    assert refused.value.param == member


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model": "m", "input": "\xff"}', b'{"input":' + b"[" * 9999])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        DIALECT.read_request(body)


def test_a_member_that_comes_twice_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        DIALECT.read_request(b'{"model": "a", "input": "x", "model": "b"}')
    assert refused.value.param == "model"


@pytest.mark.parametrize(
    ("members", "param", "advice"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "`input`"),
        ({"conversation": "conv_1"}, "conversation", "`input`"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "`input`"),
        ({"background": True}, "background", "stream"),
    ],
)
def test_what_needs_kept_responses_is_refused_with_advice(members: dict[str, Any], param: str, advice: str) -> None:
    with pytest.raises(Refused) as refused:
        asked(**members)
    assert refused.value.param == param
    assert "keeps no responses" in refused.value.message
    assert advice in refused.value.message


def test_what_needs_none_is_taken() -> None:
    assert asked(previous_response_id=None, conversation=None, background=False, store=True).model == "m"


def test_the_client_s_own_bytes_go_to_a_provider_of_its_dialect() -> None:
    ask = asked(store=True, include=["x"])
    assert DIALECT.write_request(ask, "m") is ask.body
    changed = json.loads(DIALECT.write_request(ask, "other"))
    assert changed == {"model": "other", "input": "Hi", "store": True, "include": ["x"]}


# --- streams ---------------------------------------------------------------------------------------------------------


def observed(data: bytes, size: int) -> tuple[Meter, bytes]:
    meter, framer, out = Meter(DIALECT, strips_usage=True), SseFramer(), b""
    for at in range(0, len(data), size):
        block = framer.take(data[at : at + size])
        if block:
            out += meter.observe(block)
        if meter.done or meter.error is not None:
            break
    return meter, out


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize(
    ("name", "usage", "reason"),
    [
        ("text.sse", Usage(19, 10, cached_tokens=4, reasoning_tokens=3), "stop"),
        ("crlf.sse", Usage(19, 10, cached_tokens=4, reasoning_tokens=3), "stop"),
        ("reasoning.sse", Usage(120, 64, cached_tokens=64, reasoning_tokens=44), "tool_calls"),
        ("incomplete.sse", Usage(12, 16, reasoning_tokens=8), "length"),
        ("filtered.sse", Usage(12, 4), "content_filter"),
    ],
)
def test_a_stream_passes_as_it_came_and_says_what_it_cost(name: str, usage: Usage, reason: str, size: int) -> None:
    meter, out = observed(golden(name), size)
    assert out.rstrip(b"\r\n") == golden(name).rstrip(b"\r\n")
    assert (meter.usage, meter.finish_reason, meter.finished, meter.done) == (usage, reason, 1, True)


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
@pytest.mark.parametrize("name", ["error.sse", "failed.sse", "error_first.sse"])
def test_an_error_is_taken_out_of_a_stream(name: str, size: int) -> None:
    meter, out = observed(golden(name), size)
    assert meter.error is not None
    assert not meter.done
    assert golden(name).startswith(out)
    assert b"rror occurred" not in out
    assert b"response.failed" not in out


@pytest.mark.parametrize("path", STREAMS, ids=[path.stem for path in STREAMS])
def test_nothing_that_a_frame_says_besides_content_is_missed(path: Path) -> None:
    for frame in split(path.read_bytes()):
        if DIALECT.notice(frame) != Notice() if frame.data not in {None, b"[DONE]"} else False:
            assert DIALECT.hit(frame.raw, 0) >= 0
        assert not DIALECT.is_usage_only(frame)
        assert DIALECT.envelope(frame.raw) is None


def test_the_first_of_what_is_interesting_is_hit() -> None:
    block = b'data: {"type": "x"}\n\ndata: {"error": {}}\n\ndata: {"type": "response.completed"}\n\n'
    assert block[DIALECT.hit(block, 0) :].startswith(b'"error"')
    assert block[DIALECT.hit(block, 40) :].startswith(b'"response.completed"')
    assert DIALECT.hit(b'data: {"error" : null, "delta": "\\"response.failed\\""}\n\n', 0) < 0
    assert DIALECT.hit(b'data: {"type": "error"}\n\n', 0) >= 0


def test_a_frame_that_says_nothing_else_has_no_notice() -> None:
    assert DIALECT.notice(Frame(b": ping\n\n")) == Notice()
    assert DIALECT.notice(frame_of({"type": "response.output_text.delta", "delta": "x"})) == Notice()
    with pytest.raises(FrameError):
        DIALECT.notice(Frame(b"data: x\n\n"))


def test_what_failed_may_have_cost_something() -> None:
    notice = DIALECT.notice(split(golden("failed.sse"))[-1])
    assert notice.usage == Usage(12, 3)
    assert notice.error == ProviderError("Rate limit reached for gpt-5-mini.", code="rate_limit_exceeded", status=429)


@pytest.mark.parametrize(
    ("name", "sights"),
    [
        ("text.sse", [Sight.SILENT] * 4 + [Sight.CONTENT]),
        ("reasoning.sse", [Sight.SILENT] * 4 + [Sight.CONTENT]),
        ("refusal.sse", [Sight.SILENT] * 4 + [Sight.CONTENT]),
        ("error_first.sse", [Sight.SILENT] * 2 + [Sight.ERROR]),
    ],
)
def test_a_stream_is_open_with_its_first_content(name: str, sights: list[Sight]) -> None:
    assert [DIALECT.look(frame)[0] for frame in split(golden(name))[: len(sights)]] == sights


def test_a_call_and_the_end_are_content_too() -> None:
    call = {"type": "response.output_item.added", "item": {"type": "function_call", "call_id": "a", "name": "b"}}
    assert DIALECT.look(frame_of(call))[0] is Sight.CONTENT
    piece = {"type": "response.function_call_arguments.delta", "delta": "{"}
    assert DIALECT.look(frame_of(piece))[0] is Sight.CONTENT
    assert DIALECT.look(frame_of(piece | {"delta": ""}))[0] is Sight.SILENT
    end = {"type": "response.completed", "response": {"metadata": {"x.delta": "y"}}}
    assert DIALECT.look(frame_of(end))[0] is Sight.CONTENT
    assert DIALECT.look(Frame(b": ping\n\n"))[0] is Sight.SILENT


def test_a_failure_first_is_an_error_with_its_words() -> None:
    failed = {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "no"}}}
    assert DIALECT.look(frame_of(failed)) == (Sight.ERROR, ProviderError("no", code="server_error", status=500))


def test_usage_is_found_in_the_end_of_a_body() -> None:
    body = b'..."usage": {"input_tokens": 3, "output_tokens": 4}, "user": null, "metadata": {}}'
    assert DIALECT.usage_in_tail(body) == Usage(3, 4)
    assert DIALECT.usage_in_tail(b'"usage": null}') is None
    assert DIALECT.usage_in_tail(b'"usage": {"total_tokens": 7}}') is None


def test_nothing_is_added_to_the_end_and_heartbeats_are_comments() -> None:
    assert DIALECT.terminator == b""
    assert DIALECT.heartbeat.startswith(b":")


# --- errors ----------------------------------------------------------------------------------------------------------


def test_errors_before_the_head_are_in_openai_s_envelope() -> None:
    body = DIALECT.error_body("bad_request", "no", kind=None, param="input", status=400)
    error = {"message": "no", "type": "invalid_request_error", "param": "input", "code": "bad_request"}
    assert json.loads(body) == {"error": error}
    assert DIALECT.read_error(400, body) == ProviderError("no", "invalid_request_error", "bad_request", "input", 400)


def test_an_error_in_a_stream_is_the_failure_of_its_response() -> None:
    frames = split(golden("text.sse"))
    frame = DIALECT.error_frame("idle_timeout", "silence", first=frames[0].raw, last=frames[4].raw + frames[5].raw)
    [failed] = split(frame)
    assert failed.event == b"response.failed"
    value = json.loads(failed.data or b"")
    first = json.loads(frames[0].data or b"")["response"]
    assert value["sequence_number"] == 6
    assert {name: value["response"][name] for name in ("id", "model", "created_at")} == {
        name: first[name] for name in ("id", "model", "created_at")
    }
    assert value["response"]["error"] == {"code": "idle_timeout", "message": "silence"}
    ResponseFailedEvent.model_validate(value | {"response": value["response"] | {"error": None}})


def test_an_error_in_a_stream_of_which_little_is_known_is_written_too() -> None:
    value = json.loads(
        split(DIALECT.error_frame("x", "y", "z", first=b'data: {"sequence_number": 3, "resp'))[0].data or b""
    )
    assert (value["sequence_number"], value["response"]["id"]) == (4, "resp_failed")
    assert value["response"]["error"]["type"] == "z"
    assert json.loads(split(DIALECT.error_frame("x", "y"))[0].data or b"")["sequence_number"] == 0


def test_clients_know_no_529() -> None:
    assert (DIALECT.status(529), DIALECT.status(429)) == (503, 429)
