"""What others have signed does not go to a provider that speaks the client's dialect."""

import json
from typing import Any

import pytest

from harness import ask, run
from streams import answer, answering, fronting
from tidegate.dialect import seals

MINE = {"type": "thinking", "thinking": "hm", "signature": "sig"}
FOREIGN = {"type": "thinking", "thinking": "hm", "signature": "tidegate:gemini:sig"}
UNSIGNED = {"type": "thinking", "thinking": "hm", "signature": ""}
SEALED = {"type": "redacted_thinking", "data": "tidegate:openai_responses:{}"}
TEXT = {"type": "text", "text": "tidegate: a word of the user's"}


def own(value: Any) -> Any:
    return json.loads(seals.own(json.dumps(value).encode()))


def test_the_client_s_bytes_stay_where_nothing_is_foreign() -> None:
    body = json.dumps({"messages": [{"role": "assistant", "content": [MINE]}], "odd": 1}).encode()
    assert seals.own(body) is body


def test_foreign_thoughts_are_left_out_and_all_else_stays() -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [FOREIGN, MINE, UNSIGNED, SEALED, TEXT]},
        {"role": "assistant", "content": [FOREIGN]},
        "no turn",
    ]
    assert own({"messages": turns, "odd": 1}) == {
        "messages": [turns[0], {"role": "assistant", "content": [MINE, TEXT]}, "no turn"],
        "odd": 1,
    }


def test_items_of_responses_are_left_out_whole() -> None:
    items = [
        {"type": "reasoning", "summary": [], "encrypted_content": "tidegate:anthropic:{}"},
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"},
        {"type": "message", "role": "user", "content": "Hi"},
    ]
    assert own({"input": items})["input"] == items[1:]


def test_chat_keeps_its_calls_without_foreign_signatures() -> None:
    mark = {"google": {"thought_signature": "tidegate:gemini:s"}}
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    details = [{"type": "reasoning.text", "text": "t", "signature": "tidegate:anthropic:s"}, {"type": "reasoning.text"}]
    turn = {"role": "assistant", "content": None, "tool_calls": [{**call, "extra_content": mark}, call, 7]}
    assert own({"messages": [{**turn, "reasoning_details": details}]}) == {
        "messages": [{**turn, "tool_calls": [call, call, 7], "reasoning_details": details[1:]}]
    }


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [{"role": "user", "content": "\\ud83c"}, {"data": "tidegate:x:y"}]}',
        b'{"data": "tidegate:x:y", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_what_cannot_be_read_is_for_the_provider_to_judge(body: bytes) -> None:
    assert seals.own(body) is body


@pytest.mark.parametrize("calls", [7, "x", {"a": 1}, None])
def test_members_of_unexpected_types_stay(calls: Any) -> None:
    turn = {"role": "assistant", "content": [TEXT, SEALED], "tool_calls": calls}
    assert own({"messages": [turn]})["messages"] == [{**turn, "content": [TEXT]}]


@pytest.mark.parametrize("kind", ["anthropic", "bedrock_anthropic"])
def test_a_conversation_can_change_to_a_model_of_another_maker(kind: str) -> None:
    said = {"type": "message", "role": "assistant", "content": [TEXT], "stop_reason": "end_turn", "usage": {}}

    async def work() -> None:
        aws = {"region": "r", "access_key_id": "AK00000000", "secret_access_key": "secret00"}
        provider = {"kind": kind, "aws": aws}
        async with fronting(answering(answer(200, said)), provider=provider) as (running, upstream):
            turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [FOREIGN, TEXT]}]
            body = {"model": "mock", "max_tokens": 9, "messages": [*turns, {"role": "user", "content": "Go on"}]}
            assert (await ask(running.port, body, path="/v1/messages")).status == 200
            sent = json.loads(upstream.peers[0].requests[0][1])
            assert sent["messages"][1]["content"] == [TEXT]

    run(work)
