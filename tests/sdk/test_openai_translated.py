"""What the official openai package reads on the translated road is what it reads on the raw one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from gateways import sdk
from openai.types.chat import ChatCompletion

from harness import gateway, run
from streams import DONE, ROLE, USAGE, chunked, delta, frame, streamed, word
from tidegate.mock.server import MockProvider
from tidegate.testing.upstream import LAST, Peer, chunk, scripted_upstream

MESSAGES: Any = [{"role": "user", "content": "Tell me about the tide."}]
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("look_up", "tide", "moon")
]


def start(index: int, ident: str, name: str) -> dict[str, Any]:
    return {"index": index, "id": ident, "type": "function", "function": {"name": name, "arguments": ""}}


def more(index: int, fragment: str) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": fragment}}


PARALLEL = streamed(
    delta({"role": "assistant", "content": None, "tool_calls": [start(0, "call_a", "tide")]}),
    delta({"tool_calls": [more(0, '{"place":')]}),
    delta({"tool_calls": [start(1, "call_b", "moon")]}),
    delta({"tool_calls": [more(1, '{"day":'), more(0, '"Brest"')]}),
    delta({"tool_calls": [more(0, "}"), more(1, "3}")]}),
    delta({}, finish="tool_calls"),
    USAGE,
    DONE,
)
REFUSED = streamed(
    delta({"role": "assistant", "content": None, "refusal": ""}),
    delta({"refusal": "I "}),
    delta({"refusal": "won't."}),
    delta({}, finish="stop"),
    USAGE,
    DONE,
)
FILTERED = streamed(ROLE, word("I"), delta({}, finish="content_filter"), USAGE, DONE)


@asynccontextmanager
async def both(upstream: str) -> AsyncIterator[tuple[openai.AsyncOpenAI, openai.AsyncOpenAI]]:
    """Give clients of two gateways in front of the same provider: one as shipped, one that translates."""
    async with gateway(upstream) as raw, gateway(upstream, translates=True) as translating:
        async with sdk(raw) as first, sdk(translating) as second:
            yield first, second
        assert (await raw.entry()).path == "raw"
        assert (await translating.entry()).path == "translated"


async def final(client: openai.AsyncOpenAI, model: str, **members: Any) -> ChatCompletion:
    """Give what the package makes of a stream."""
    async with client.chat.completions.stream(
        model=model, messages=MESSAGES, stream_options={"include_usage": True}, **members
    ) as stream:
        return await stream.get_final_completion()


def check_same(raw: ChatCompletion, translated: ChatCompletion) -> None:
    """Check that two completions say the same in the same words."""
    assert [choice.model_dump() for choice in translated.choices] == [choice.model_dump() for choice in raw.choices]
    assert translated.model == raw.model
    assert raw.usage is not None
    assert translated.usage is not None
    assert (translated.usage.prompt_tokens, translated.usage.completion_tokens, translated.usage.total_tokens) == (
        raw.usage.prompt_tokens,
        raw.usage.completion_tokens,
        raw.usage.total_tokens,
    )
    thought = raw.usage.completion_tokens_details
    if thought is not None:
        assert translated.usage.completion_tokens_details is not None
        assert translated.usage.completion_tokens_details.reasoning_tokens == thought.reasoning_tokens


@pytest.mark.parametrize(
    "members",
    [
        {"model": "mock?tokens=30"},
        {"model": "mock?tokens=30&crlf=yes&cut=7"},
        {"model": "mock?tokens=9&itl=1ms"},
        {"model": "mock?reasoning=3&tokens=3"},
        {"model": "mock?tools=yes&tokens=20", "tools": TOOLS},
        {"model": "mock?tokens=6", "n": 2},
        {"model": "mock?bigframe=300KiB"},
        {"model": "mock?nodone=yes&role_only=3"},
    ],
    ids=lambda members: str(members["model"]),
)
def test_a_message_reads_the_same(members: dict[str, Any]) -> None:
    async def work() -> None:
        mock = MockProvider()
        try:
            async with both(f"http://127.0.0.1:{await mock.start()}/v1") as (raw, translating):
                check_same(await final(raw, **members), await final(translating, **members))
        finally:
            await mock.close()

    run(work)


@pytest.mark.parametrize("said", [PARALLEL, REFUSED, FILTERED], ids=["parallel calls", "refusal", "filtered"])
def test_what_a_provider_seldom_says_reads_the_same(said: bytes) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(said)

    async def work() -> None:
        async with scripted_upstream(script) as upstream, both(upstream.base_url) as (raw, translating):
            if said is FILTERED:
                for client in (raw, translating):
                    with pytest.raises(openai.ContentFilterFinishReasonError):
                        await final(client, "mock")
                return
            first, second = await final(raw, "mock", tools=TOOLS), await final(translating, "mock", tools=TOOLS)
            check_same(first, second)
            if said is PARALLEL:
                calls = [call for call in second.choices[0].message.tool_calls or [] if call.type == "function"]
                assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
                    ("call_a", "tide", '{"place":"Brest"}'),
                    ("call_b", "moon", '{"day":3}'),
                ]

    run(work)


def test_an_error_in_mid_stream_is_raised() -> None:
    broken = chunked(ROLE, word("I")) + chunk(frame({"error": {"message": "It broke.", "type": "t"}})) + LAST

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(broken)

    async def work() -> None:
        async with scripted_upstream(script) as upstream, gateway(upstream.base_url, translates=True) as running:
            async with sdk(running) as client:
                with pytest.raises(openai.APIError, match=r"It broke\.") as caught:
                    await final(client, "mock")
            assert caught.value.code == "upstream_error_frame"

    run(work)
