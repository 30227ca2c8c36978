"""Thoughts through the official anthropic package: apart from the answer, and handed back to who made them and to no other."""

import json
from collections.abc import Iterator
from typing import Any, Final

import anthropic
import pytest
from anthropic.types import Message
from messaging import (
    PROMPT,
    PROVIDERS,
    THINKING,
    TOOLS,
    TRANSLATED,
    WAYS,
    awaiting,
    calls_of,
    chat_tools,
    directly,
    handed_back,
    results,
    say,
    text_of,
)
from openai.types.chat import ChatCompletion
from upstreams import AWS, Upstreams, upstreams

from harness import gateway, run
from streams import answer
from tidegate.mock.ask import Dialect
from tidegate.mock.seal import sealed
from tidegate.testing.upstream import Peer, scripted_upstream

SIGNING: Final[dict[str, Dialect]] = {
    "anthropic": "messages",
    "gemini": "gemini",
    "bedrock": "converse",
    "bedrock_anthropic": "messages",
}
"""Providers that sign, and whose signatures the mock says theirs are."""
every_provider = pytest.mark.parametrize("kind", PROVIDERS)
signing_provider = pytest.mark.parametrize("kind", SIGNING)
both_ways = pytest.mark.parametrize("way", ["whole", "streamed"])
with_and_without_calls = pytest.mark.parametrize("script", ["thinks", "thinks_calls"])


@pytest.fixture(scope="module")
def served() -> Iterator[Upstreams]:
    with upstreams() as held:
        yield held


def thought_of(completion: ChatCompletion) -> str:
    """Give the thoughts of a completion: a member that the package does not declare."""
    extra = completion.choices[0].message.model_extra or {}
    return str(extra["reasoning_content"])


def wanted_back(message: Message) -> list[str]:
    """Give what of a message is to come back unchanged."""
    kinds = {"thinking": "signature", "redacted_thinking": "data"}
    return [getattr(block, kinds[block.type]) for block in message.content if block.type in kinds]


def next_turns(message: Message) -> list[Any]:
    """Give the turns of a next request: the message handed back, and what a user says to it."""
    last = results(message) if calls_of(message) else {"role": "user", "content": "And then?"}
    return [*PROMPT, handed_back(message), last]


@pytest.mark.parametrize("way", WAYS)
@every_provider
def test_thoughts_are_kept_apart_from_the_answer(served: Upstreams, kind: str, way: str) -> None:
    message, expected = say(served, way, f"{kind}/thinks", **THINKING), directly(served, "thinks")
    thoughts = [block.thinking for block in message.content if block.type == "thinking"]
    assert "".join(thoughts) == thought_of(expected)
    assert message.content[0].type == "thinking"
    assert text_of(message) == expected.choices[0].message.content
    assert expected.usage is not None
    assert message.usage.output_tokens == expected.usage.completion_tokens
    if kind in {"openai", "gemini"}:  # the others do not say it
        assert message.usage.output_tokens_details is not None
        assert message.usage.output_tokens_details.thinking_tokens == 4


@both_ways
@with_and_without_calls
@signing_provider
def test_a_thought_goes_back_to_its_maker_as_it_was(served: Upstreams, kind: str, script: str, way: str) -> None:
    over = "" if kind == "gemini" else thought_of(directly(served, script, tools=chat_tools()))
    thinking = say(served, way, f"{kind}/{script}", tools=TOOLS, **THINKING)
    again = say(served, way, f"{kind}/thinks", tools=TOOLS, messages=next_turns(thinking), **THINKING)
    assert text_of(again)
    sent = json.dumps(served.sent())
    assert sealed(SIGNING[kind], over) in sent
    assert "tidegate:" not in sent


@with_and_without_calls
@signing_provider
def test_a_thought_that_somebody_has_changed_is_refused_by_its_maker(served: Upstreams, kind: str, script: str) -> None:
    thinking = say(served, "streamed", f"{kind}/{script}", tools=TOOLS, **THINKING)
    turns = next_turns(thinking)
    content = [block.to_dict() for block in thinking.content]
    changed = sealed(SIGNING[kind], "another thought")
    given = sealed(SIGNING[kind], "" if kind == "gemini" else thought_of(directly(served, script, tools=chat_tools())))
    turns[1] = {"role": "assistant", "content": json.loads(json.dumps(content).replace(given, changed))}
    assert turns[1]["content"] != content
    with pytest.raises(anthropic.BadRequestError, match=r"(?i)signature"):
        say(served, "whole", f"{kind}/thinks", tools=TOOLS, messages=turns, **THINKING)


@with_and_without_calls
@pytest.mark.parametrize("maker", PROVIDERS)
@pytest.mark.parametrize("kind", TRANSLATED)
def test_a_thought_of_another_provider_is_not_said(served: Upstreams, kind: str, maker: str, script: str) -> None:
    thinking = say(served, "streamed", f"{maker}/{script}", tools=TOOLS, **THINKING)
    message = say(served, "streamed", f"{kind}/text", tools=TOOLS, messages=next_turns(thinking))
    assert text_of(message)
    sent = json.dumps(served.sent())
    assert "tidegate:" not in sent
    if maker not in {kind, "openai"}:
        over = "" if maker == "gemini" else thought_of(directly(served, script, tools=chat_tools()))
        assert sealed(SIGNING[maker], over) not in sent


@both_ways
@with_and_without_calls
def test_a_provider_that_signs_nothing_is_no_obstacle(served: Upstreams, script: str, way: str) -> None:
    thinking = say(served, way, f"openai/{script}", tools=TOOLS, **THINKING)
    assert wanted_back(thinking) == [""]
    assert text_of(say(served, way, "openai/text", tools=TOOLS, messages=next_turns(thinking), **THINKING))


HIDDEN: Final = {
    "anthropic": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "redacted_thinking", "data": "bm9ib2R5IHJlYWRzIHRoaXM="},
            {"type": "text", "text": "High."},
        ],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    },
    "bedrock": {
        "output": {
            "message": {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"redactedContent": "bm9ib2R5IHJlYWRzIHRoaXM="}},
                    {"text": "High."},
                ],
            }
        },
        "stopReason": "end_turn",
        "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5},
    },
}
BACK: Final = {
    "anthropic": {"type": "redacted_thinking", "data": "bm9ib2R5IHJlYWRzIHRoaXM="},
    "bedrock": {"reasoningContent": {"redactedContent": "bm9ib2R5IHJlYWRzIHRoaXM="}},
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_a_thought_that_nobody_is_to_read_goes_back_to_its_maker(kind: str) -> None:
    asked: list[Any] = []

    async def script(peer: Peer) -> None:
        while True:
            _, body = await peer.request()
            asked.append(json.loads(body))
            await peer.send(answer(200, HIDDEN[kind]))

    async def work() -> None:
        more: dict[str, Any] = {"aws": AWS, "api_key": ""} if kind == "bedrock" else {}
        async with (
            scripted_upstream(script) as upstream,
            gateway(upstream.base_url, provider={"kind": kind, **more}) as running,
            awaiting(f"http://127.0.0.1:{running.port}") as client,
        ):
            members: dict[str, Any] = {"model": "mock", "max_tokens": 100}
            first = await client.messages.create(messages=PROMPT, **members)
            assert [block.type for block in first.content] == ["redacted_thinking", "text"]
            await client.messages.create(messages=next_turns(first), **members)

    run(work)
    assert asked[1]["messages"][1]["content"][0] == BACK[kind]
