"""What the mock says over real sockets: the members, counts and texts of streams and whole answers, and their form."""

import json
from typing import Any

import pytest
from mock_client import Mock, Reply, ask, body, request, with_mock

ASKED: dict[str, Any] = {"stream_options": {"include_usage": True}}


# What a stream says


def test_a_plain_stream_has_a_role_then_tokens_then_a_finish_then_done() -> None:
    reply = ask("tokens=5")
    assert (reply.status, reply.ended) == (200, "complete")
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, done = reply.data()
    assert done == "[DONE]"
    assert len(chunks) == 1 + 5 + 1
    first, *_, last = reply.deltas()
    assert first == {"role": "assistant", "content": "", "refusal": None}
    assert last == {}
    assert [c["choices"][0]["finish_reason"] for c in reply.chunks()] == [None] * 6 + ["stop"]


def test_every_chunk_has_the_members_of_the_real_thing_and_one_id() -> None:
    chunks = ask("tokens=2").chunks()
    assert len({chunk["id"] for chunk in chunks}) == 1
    for chunk in chunks:
        assert chunk["id"].startswith("chatcmpl-")
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["created"] > 1_700_000_000
        assert chunk["model"] == "mock"
        assert {"service_tier", "system_fingerprint"} <= chunk.keys()
        assert "usage" not in chunk
        assert chunk["choices"][0].keys() == {"index", "delta", "logprobs", "finish_reason"}


def test_usage_comes_in_an_extra_frame_when_asked_for_and_is_null_in_the_others() -> None:
    *chunks, last = ask("tokens=5", **ASKED).chunks()
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5
    assert last["usage"]["prompt_tokens"] == len("How do tides work?") // 4
    assert last["usage"]["total_tokens"] == 5 + last["usage"]["prompt_tokens"]
    assert last["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


@pytest.mark.parametrize("stream", [True, False])
def test_usage_no_keeps_it_to_itself_even_when_asked(stream: bool) -> None:
    members: dict[str, Any] = ASKED if stream else {}
    reply = ask("usage=no", stream=stream, **members)
    assert b'"usage"' not in reply.body


@pytest.mark.parametrize("members", [{}, ASKED, {"n": 3}])
@pytest.mark.parametrize("query", ["events=34", "events=200", "events=34&reasoning=3&role_only=2", "events=34&nodone"])
def test_events_counts_every_data_line(query: str, members: dict[str, Any]) -> None:
    assert len(ask(query, **members).data()) == int(query.split("&", maxsplit=1)[0].removeprefix("events="))


def test_events_too_few_for_the_frames_around_the_tokens_is_a_400_that_names_it() -> None:
    reply = ask("events=2")
    assert (reply.status, reply.json()["error"]["param"]) == (400, "events")


def test_choices_take_turns_and_have_texts_of_their_own() -> None:
    reply = ask("tokens=6", n=3)
    indices = [c["index"] for chunk in reply.chunks() for c in chunk["choices"]]
    assert indices == [0, 1, 2] * 8
    assert len({reply.text(choice) for choice in range(3)}) == 3


def test_reasoning_comes_before_the_content_and_counts() -> None:
    reply = ask("tokens=4&reasoning=3", **ASKED)
    kinds = [next(iter(delta), "") for delta in reply.deltas()[1:-1]]
    assert kinds == ["reasoning_content"] * 3 + ["content"] * 4
    usage = reply.chunks()[-1]["usage"]
    assert usage["completion_tokens"] == 7
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 3


def test_role_only_sends_so_many_frames_without_content() -> None:
    deltas = ask("tokens=2&role_only=3").deltas()
    assert [delta.get("content") or "" for delta in deltas[:3]] == ["", "", ""]
    assert deltas[3]["content"]
    assert len(deltas) == 3 + 2 + 1


def test_without_role_frames_the_first_token_carries_the_role() -> None:
    first, second, *_ = ask("tokens=2&role_only=0").deltas()
    assert first["role"] == "assistant"
    assert first["content"]
    assert "role" not in second


@pytest.mark.parametrize("finish", ["stop", "length", "content_filter"])
@pytest.mark.parametrize("stream", [True, False])
def test_finish_is_the_reason_given(finish: str, stream: bool) -> None:
    reply = ask(f"finish={finish}", stream=stream)
    last = reply.chunks()[-1] if stream else reply.json()
    assert last["choices"][0]["finish_reason"] == finish


@pytest.mark.parametrize("tokens", [1, 2, 12])
@pytest.mark.parametrize("stream", [True, False])
def test_tools_answers_with_a_call_of_the_first_tool_whose_arguments_are_json(tokens: int, stream: bool) -> None:
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
    reply = ask(f"tools&tokens={tokens}", tools=tools, stream=stream)
    if stream:
        calls = [delta["tool_calls"][0] for delta in reply.deltas() if "tool_calls" in delta]
        assert len(calls) == tokens
        arguments = "".join(call["function"]["arguments"] for call in calls)
        reason = reply.chunks()[-1]["choices"][0]["finish_reason"]
    else:
        choice = reply.json()["choices"][0]
        calls = choice["message"]["tool_calls"]
        arguments, reason = calls[0]["function"]["arguments"], choice["finish_reason"]
    assert calls[0]["function"]["name"] == "get_weather"
    assert calls[0]["id"].startswith("call_")
    assert json.loads(arguments)["text"]
    assert reason == "tool_calls"


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_response_format_of_json_gives_content_that_is_json(kind: str, stream: bool) -> None:
    form = {"type": kind} | ({"json_schema": {"name": "answer", "schema": {}}} if kind == "json_schema" else {})
    reply = ask("tokens=90", response_format=form, stream=stream)
    text = reply.text() if stream else reply.json()["choices"][0]["message"]["content"]
    assert "\n\n" in json.loads(text)["text"]


def test_bigframe_is_one_frame_in_mid_stream_with_all_its_words_counted() -> None:
    reply = ask("tokens=9&bigframe=300KiB", **ASKED)
    sizes = [len(data) for data in reply.data()]
    assert [index for index, size in enumerate(sizes) if size > 300 * 1024] == [1 + 4]
    assert reply.chunks()[-1]["usage"]["completion_tokens"] == len(reply.text().split())


def test_the_prompt_is_never_said_again() -> None:
    secret = "XYLOPHONE-CANARY"
    for query in ("", "tools", "fail=error", "status=500", "nonsense=1"):
        for stream in (True, False):
            reply = ask(query, stream=stream, messages=[{"role": "user", "content": secret}])
            assert secret.encode() not in reply.wire


# What a whole answer says


def test_a_whole_answer_is_a_completion_object_with_usage() -> None:
    reply = ask("tokens=12", stream=False, n=2)
    assert (reply.status, reply.ended, reply.headers["content-type"]) == (200, "complete", "application/json")
    said = reply.json()
    assert said["object"] == "chat.completion"
    assert said["usage"]["completion_tokens"] == 24
    assert [len(choice["message"]["content"].split()) for choice in said["choices"]] == [12, 12]
    assert said["choices"][0]["finish_reason"] == "stop"


def test_a_stream_and_a_whole_answer_to_the_same_prompt_say_the_same() -> None:
    assert ask("tokens=50").text() == ask("tokens=50", stream=False).json()["choices"][0]["message"]["content"]


def test_reasoning_stands_beside_the_content_of_a_whole_answer() -> None:
    said = ask("tokens=2&reasoning=5", stream=False).json()
    assert len(said["choices"][0]["message"]["reasoning_content"].split()) == 5
    assert said["usage"]["completion_tokens"] == 7


# Form


def test_crlf_ends_lines_with_both() -> None:
    reply = ask("crlf&tokens=3")
    assert reply.body.count(b"\n") == reply.body.count(b"\r\n") > 0
    assert len(reply.data()) == 6


def test_nospace_leaves_the_space_out() -> None:
    reply = ask("nospace&tokens=3")
    assert b"data:{" in reply.body
    assert b"data:[DONE]" in reply.body
    assert b"data: " not in reply.body


@pytest.mark.parametrize("stream", [True, False])
def test_close_means_a_body_without_framing_that_ends_with_the_connection(stream: bool) -> None:
    reply = ask("close&tokens=3", stream=stream)
    assert reply.ended == "closed"
    assert reply.headers["connection"] == "close"
    assert not {"content-length", "transfer-encoding"} & reply.headers.keys()
    assert reply.text() if stream else reply.json()


def test_http_1_0_gets_no_chunks() -> None:
    async def scenario(mock: Mock) -> Reply:
        return await (await mock.connect()).exchange(request(body(), version="1.0"))

    reply = with_mock(scenario)
    assert (reply.ended, reply.headers["connection"]) == ("closed", "close")
    assert reply.data()[-1] == "[DONE]"


def test_a_client_that_asks_for_a_close_gets_chunks_and_a_close() -> None:
    async def scenario(mock: Mock) -> tuple[Reply, bool]:
        peer = await mock.connect()
        reply = await peer.exchange(request(body(), headers="connection: close\r\n"))
        return reply, await peer.is_closed()

    reply, closed = with_mock(scenario)
    assert (reply.ended, reply.headers["connection"], closed) == ("complete", "close", True)


def test_headers_that_gateways_filter_are_always_there() -> None:
    async def scenario(mock: Mock) -> list[Reply]:
        return [await mock.ask(), await mock.ask(stream=False), await mock.ask("status=500"), await mock.ask("bad")]

    replies = with_mock(scenario)
    for reply in replies:
        assert {"x-ratelimit-remaining-requests", "openai-processing-ms", "set-cookie", "date"} <= reply.headers.keys()
    assert len({reply.headers["x-request-id"] for reply in replies}) == 4
