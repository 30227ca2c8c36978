"""What the official openai package gets through the gateway is what it gets from the real thing."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from gateways import KEY, blocking, sdk
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from harness import gateway, run
from threads import Threaded, threaded
from tidegate.admission.identity import hash_key

MESSAGES: Any = [{"role": "user", "content": "Tell me about the tide."}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}}},
    }
]
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
        ],
    }
]
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {"name": "said", "schema": {"type": "object", "properties": {"text": {"type": "string"}}}},
}


@pytest.fixture(scope="module")
def served() -> Iterator[Threaded]:
    auth = {"mode": "keys", "keys": [{"id": "sdk", "sha256": hash_key(KEY)}]}
    with threaded(auth=auth) as held:
        yield held


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def sent(served: Threaded) -> dict[str, Any]:
    """Give the last request that reached the provider."""
    return dict(json.loads(served.ask(lambda: served.running.mock.stats.requests[-1][2])))


def test_a_completion_is_the_object_that_the_package_declares(served: Threaded) -> None:
    done = blocking(served).chat.completions.create(model="mock?tokens=12", messages=MESSAGES)
    assert isinstance(done, ChatCompletion)
    assert done.object == "chat.completion"
    assert done.choices[0].finish_reason == "stop"
    assert done.choices[0].message.content
    assert done.usage is not None
    assert done.usage.completion_tokens == 12


def test_a_stream_is_the_same_text_in_pieces(served: Threaded) -> None:
    client = blocking(served)
    whole = client.chat.completions.create(model="mock?tokens=30", messages=MESSAGES).choices[0].message.content
    stream = client.chat.completions.create(model="mock?tokens=30&cut=7", messages=MESSAGES, stream=True)
    chunks = list(stream)
    assert text_of(chunks) == whole
    assert [chunk for chunk in chunks if not chunk.choices] == []
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len(chunks) == 1 + 30 + 1


def test_usage_comes_last_for_those_who_ask_and_not_for_others(served: Threaded) -> None:
    client = blocking(served)
    asked = list(
        client.chat.completions.create(
            model="mock?tokens=5", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert asked[-1].choices == []
    assert asked[-1].usage is not None
    assert asked[-1].usage.completion_tokens == 5
    assert all(chunk.usage is None for chunk in asked[:-1])
    refused = list(
        client.chat.completions.create(
            model="mock?tokens=5", messages=MESSAGES, stream=True, stream_options={"include_usage": False}
        )
    )
    assert all(chunk.usage is None and chunk.choices for chunk in refused)
    entry = served.ask(served.running.entries)[-1]
    assert (entry.usage.output_tokens, entry.usage.estimated) == (5, False)


def test_a_call_of_a_tool_comes_whole(served: Threaded) -> None:
    done = blocking(served).chat.completions.create(model="mock?tools=yes", messages=MESSAGES, tools=TOOLS)
    (call,) = done.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "look_up"
    assert json.loads(call.function.arguments)["text"]
    assert done.choices[0].finish_reason == "tool_calls"


def test_a_call_of_a_tool_comes_in_pieces(served: Threaded) -> None:
    stream = blocking(served).chat.completions.create(
        model="mock?tools=yes&tokens=20", messages=MESSAGES, tools=TOOLS, stream=True
    )
    name, arguments, finish = "", "", ""
    for chunk in stream:
        finish = chunk.choices[0].finish_reason or finish
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.function is not None
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert (name, finish) == ("look_up", "tool_calls")
    assert json.loads(arguments)["text"]


def test_the_packages_own_accumulator_reads_a_stream(served: Threaded) -> None:
    with blocking(served).chat.completions.stream(model="mock?tokens=9", messages=MESSAGES) as stream:
        kinds = [event.type for event in stream]
        done = stream.get_final_completion()
    assert "content.delta" in kinds
    assert kinds[-1] == "content.done"
    assert done.choices[0].message.content


def test_an_image_reaches_the_provider_as_it_was_sent(served: Threaded) -> None:
    for stream in (False, True):
        answer = blocking(served).chat.completions.create(model="mock?tokens=2", messages=PICTURE, stream=stream)
        if stream:
            assert text_of(list(answer))  # type: ignore[arg-type]
        assert sent(served)["messages"] == PICTURE


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_format_reaches_the_provider_and_its_json_the_client(served: Threaded, stream: bool) -> None:
    answer: Any = blocking(served).chat.completions.create(
        model="mock?tokens=9", messages=MESSAGES, response_format=SCHEMA, stream=stream
    )
    text = text_of(list(answer)) if stream else answer.choices[0].message.content
    assert json.loads(text)["text"]
    assert sent(served)["response_format"] == SCHEMA


@pytest.mark.parametrize("stream", [False, True])
def test_two_choices_come_apart(served: Threaded, stream: bool) -> None:
    answer: Any = blocking(served).chat.completions.create(model="mock?tokens=6", messages=MESSAGES, n=2, stream=stream)
    if not stream:
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert answer.choices[0].message.content != answer.choices[1].message.content
        return
    texts, finished = {0: "", 1: ""}, []
    for chunk in answer:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finished += [choice.index] if choice.finish_reason else []
    assert all(texts.values())
    assert texts[0] != texts[1]
    assert sorted(finished) == [0, 1]


def test_reasoning_passes_through_although_the_package_does_not_declare_it(served: Threaded) -> None:
    stream = blocking(served).chat.completions.create(model="mock?reasoning=3&tokens=3", messages=MESSAGES, stream=True)
    pieces = [getattr(chunk.choices[0].delta, "reasoning_content", None) for chunk in stream]
    assert len([piece for piece in pieces if piece]) == 3


@pytest.mark.parametrize(
    "model",
    ["mock?crlf=yes", "mock?nospace=yes", "mock?cut=1", "mock?close=yes", "mock?nodone=yes", "mock?bigframe=300KiB"],
)
def test_a_provider_that_writes_its_frames_differently_is_read_all_the_same(served: Threaded, model: str) -> None:
    chunks = list(blocking(served).chat.completions.create(model=model, messages=MESSAGES, stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len([chunk for chunk in chunks if chunk.choices[0].delta.content]) == 34


def test_a_model_can_be_found_and_listed(served: Threaded) -> None:
    client = blocking(served)
    assert [model.id for model in client.models.list()] == ["mock"]
    assert client.models.retrieve("mock").object == "model"


def test_the_request_id_of_the_answer_is_the_one_in_the_record(served: Threaded) -> None:
    done = blocking(served).chat.completions.create(model="mock?tokens=1", messages=MESSAGES)
    assert done._request_id == served.ask(served.running.entries)[-1].request_id


def test_the_packages_own_headers_reach_the_provider_and_its_key_does_not(served: Threaded) -> None:
    blocking(served, organization="org-1").chat.completions.create(model="mock?tokens=1", messages=MESSAGES)
    _, headers, _ = served.ask(lambda: served.running.mock.stats.requests[-1])
    names = {name.lower(): value for name, value in headers}
    assert names[b"openai-organization"] == b"org-1"
    assert names[b"x-stainless-lang"] == b"python"
    assert KEY.encode() not in b"".join(names.values())


def test_the_shipped_configuration_leaves_the_packages_stream_raw_or_spliced(served: Threaded) -> None:
    client = blocking(served)
    list(client.chat.completions.create(model="mock?tokens=3", messages=MESSAGES, stream=True))
    assert served.ask(served.running.entries)[-1].path == "spliced"
    options: Any = {"include_usage": True}
    list(client.chat.completions.create(model="mock", messages=MESSAGES, stream=True, stream_options=options))
    assert served.ask(served.running.entries)[-1].path == "raw"


def test_the_asynchronous_client_completes_and_streams() -> None:
    async def work() -> None:
        async with gateway() as running, sdk(running) as client:
            done = await client.chat.completions.create(model="mock?tokens=8", messages=MESSAGES)
            stream = await client.chat.completions.create(model="mock?tokens=8&itl=1ms", messages=MESSAGES, stream=True)
            chunks = [chunk async for chunk in stream]
            assert text_of(chunks) == done.choices[0].message.content
            async with client.chat.completions.stream(model="mock?tools=yes", messages=MESSAGES, tools=TOOLS) as events:
                final = await events.get_final_completion()
            assert final.choices[0].finish_reason == "tool_calls"

    run(work)


def test_many_streams_share_a_client() -> None:
    async def work() -> None:
        async with gateway() as running, sdk(running) as client:

            async def one(number: int) -> int:
                model = f"mock?tokens={number}&itl=2ms"
                stream = await client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
                return len([chunk async for chunk in stream if chunk.choices[0].delta.content])

            assert await asyncio.gather(*map(one, range(1, 31))) == list(range(1, 31))

    run(work)
