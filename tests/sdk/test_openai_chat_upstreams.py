"""What the official openai package gets from chat completions is the same, whoever the provider behind the gateway is."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final

import openai
import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel
from upstreams import (
    KINDS,
    PATHS,
    SCRIPTS,
    Upstreams,
    openai_async,
    openai_client,
    openai_direct,
    upstreams,
)

from tidegate.mock.ask import Dialect
from tidegate.mock.seal import sealed

USER: Any = {"role": "user", "content": "Tell me about the tide."}
MESSAGES: Any = [USER]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Gives the {name}.",
            "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        },
    }
    for name in ("tide", "moon", "wind")
]
PNG: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PDF: Final = "JVBERi0xLjQgdGlkZQ=="
WAYS: Final = ("whole", "stream", "async whole", "async stream")
TRANSLATED: Final = tuple(kind for kind in KINDS if kind != "openai")
SIGNERS: Final[dict[str, Dialect]] = {"anthropic": "messages", "bedrock": "converse", "gemini": "gemini"}

every_way = pytest.mark.parametrize("way", WAYS)
every_kind = pytest.mark.parametrize("kind", KINDS)
streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


class Said(BaseModel):
    """What the mock says where JSON is asked for."""

    text: str


@pytest.fixture(scope="module")
def served() -> Iterator[Upstreams]:
    with upstreams() as held:
        yield held


def complete(served: Upstreams, way: str, model: str, **members: Any) -> ChatCompletion:
    """Give a completion in one of the package's ways; of a stream, what the package makes of it."""
    asked = {"model": model, "messages": MESSAGES, **members}
    if way.startswith("async"):
        return asyncio.run(_complete_async(served, asked, stream=way.endswith("stream")))
    with openai_client(served) as client:
        if way == "whole":
            done: ChatCompletion = client.chat.completions.create(**asked)
            return done
        with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
            return stream.get_final_completion()


async def _complete_async(served: Upstreams, asked: dict[str, Any], *, stream: bool) -> ChatCompletion:
    async with openai_async(served) as client:
        if not stream:
            done: ChatCompletion = await client.chat.completions.create(**asked)
            return done
        async with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as events:
            return await events.get_final_completion()


def expected(served: Upstreams, script: str, **members: Any) -> ChatCompletion:
    """Give what the mock itself says as OpenAI."""
    with openai_direct(served) as client:
        asked = {"model": f"mock?{SCRIPTS[script]}", "messages": MESSAGES, **members}
        done: ChatCompletion = client.chat.completions.create(**asked)
        return done


def thought(done: ChatCompletion) -> str | None:
    return getattr(done.choices[0].message, "reasoning_content", None)


def calls_of(done: ChatCompletion) -> list[tuple[str, str, str]]:
    """Give the calls of a completion. Shape: id, name, arguments."""
    made = [call for call in done.choices[0].message.tool_calls or [] if call.type == "function"]
    return [(call.id, call.function.name, call.function.arguments) for call in made]


def check_same(done: ChatCompletion, native: ChatCompletion) -> None:
    """Check that an answer says what OpenAI's own would: words, finish, calls, usage."""
    assert done.object == "chat.completion"
    assert done.id
    assert done.created > 0
    (choice,), (wanted,) = done.choices, native.choices
    assert (choice.message.content or "") == (wanted.message.content or "")
    assert choice.message.role == "assistant"
    assert choice.finish_reason == wanted.finish_reason
    assert thought(done) == thought(native)
    assert [call[1:] for call in calls_of(done)] == [call[1:] for call in calls_of(native)]
    assert done.usage is not None
    assert native.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (
        native.usage.prompt_tokens,
        native.usage.completion_tokens,
        native.usage.total_tokens,
    )


# --- text, thoughts, usage -------------------------------------------------------------------------------------------


@every_way
@every_kind
@pytest.mark.parametrize("script", ["text", "long", "thinks"])
def test_an_answer_is_the_providers_words(served: Upstreams, kind: str, way: str, script: str) -> None:
    done = complete(served, way, f"{kind}/{script}")
    check_same(done, expected(served, script))
    assert done.usage is not None
    assert done.usage.prompt_tokens_details is not None
    assert done.usage.completion_tokens_details is not None
    if script == "thinks" and kind in {"openai", "gemini"}:  # the others count thoughts, and do not say how many
        assert done.usage.completion_tokens_details.reasoning_tokens == 4
    entry = served.last()
    assert (entry.code, entry.provider, entry.usage.output_tokens) == ("completed", kind, done.usage.completion_tokens)
    assert (entry.path == "translated") == (kind != "openai")


@every_kind
def test_a_stream_comes_word_by_word(served: Upstreams, kind: str) -> None:
    with openai_client(served) as client:
        chunks = list(client.chat.completions.create(model=f"{kind}/text", messages=MESSAGES, stream=True))
    assert len([chunk for chunk in chunks if chunk.choices[0].delta.content]) == 12
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks), "nobody asked for usage"


@every_kind
def test_the_events_of_the_packages_stream_come_in_their_order(served: Upstreams, kind: str) -> None:
    with (
        openai_client(served) as client,
        client.chat.completions.stream(model=f"{kind}/thinks_calls", messages=MESSAGES, tools=TOOLS) as stream,
    ):
        kinds = [event.type for event in stream]
    assert kinds[0] == "chunk"
    assert kinds.count("tool_calls.function.arguments.done") == 1
    assert kinds.index("tool_calls.function.arguments.delta") < kinds.index("tool_calls.function.arguments.done")


def test_streams_of_all_providers_share_a_client(served: Upstreams) -> None:
    wanted = expected(served, "long").choices[0].message.content

    async def work() -> None:
        async with openai_async(served) as client:

            async def one(kind: str) -> None:
                stream = await client.chat.completions.create(model=f"{kind}/long", messages=MESSAGES, stream=True)
                pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
                assert "".join(pieces) == wanted, kind

            await asyncio.gather(*(one(kind) for kind in KINDS * 2))

    asyncio.run(work())


# --- tools -----------------------------------------------------------------------------------------------------------


@every_way
@every_kind
@pytest.mark.parametrize("script", ["calls", "calls_many", "calls_bare", "thinks_calls"])
def test_calls_have_ids_and_arguments(served: Upstreams, kind: str, way: str, script: str) -> None:
    done = complete(served, way, f"{kind}/{script}", tools=TOOLS)
    native = expected(served, script, tools=TOOLS)
    if (kind, script) == ("openai", "calls_bare") and way.endswith("stream"):
        assert calls_of(done)[0][1:] == ("tide", ""), "what passes raw is as the provider wrote it"
        return
    check_same(done, native)
    made = calls_of(done)
    assert len({ident for ident, _, _ in made}) == len(made) == (3 if script == "calls_many" else 1)
    assert all(isinstance(json.loads(arguments), dict) for _, _, arguments in made)


@every_way
@every_kind
@pytest.mark.parametrize("script", ["calls_many", "thinks_calls"])
def test_calls_their_results_and_the_final_answer_make_a_round(
    served: Upstreams, kind: str, way: str, script: str
) -> None:
    first = complete(served, way, f"{kind}/{script}", tools=TOOLS)
    made = calls_of(first)
    results = [{"role": "tool", "tool_call_id": made[nth][0], "content": f"Result {nth}."} for nth in range(len(made))]
    messages = [USER, first.choices[0].message, *results]  # as the package gave it, with all that is in it
    second = complete(served, way, f"{kind}/text", messages=messages, tools=TOOLS)
    sent = json.dumps(served.sent())
    for nth, (ident, name, _) in enumerate(made):
        assert sent.count(f'"{ident}"') == 2, "the call, and its result"
        assert f'"{name}"' in sent
        assert f"Result {nth}." in sent
    if kind in SIGNERS and script == "thinks_calls":
        assert signature(kind, first) in sent
    check_same(second, expected(served, "text", messages=messages, tools=TOOLS))


@every_way
@pytest.mark.parametrize("kind", SIGNERS)
def test_a_thought_is_handed_back_with_its_signature(served: Upstreams, kind: str, way: str) -> None:
    first = complete(served, way, f"{kind}/thinks")
    messages = [USER, first.choices[0].message, {"role": "user", "content": "And then?"}]
    second = complete(served, way, f"{kind}/text", messages=messages)
    sent = json.dumps(served.sent())
    assert signature(kind, first) in sent
    assert "tidegate:" not in sent
    check_same(second, expected(served, "text", messages=messages))


@pytest.mark.parametrize("kind", SIGNERS)
def test_a_thought_of_one_provider_is_not_told_to_another(served: Upstreams, kind: str) -> None:
    first = complete(served, "whole", f"{kind}/thinks_calls", tools=TOOLS)
    result = {"role": "tool", "tool_call_id": calls_of(first)[0][0], "content": "High."}
    messages = [USER, first.choices[0].message, result]
    for other in TRANSLATED:
        if other != kind:
            assert complete(served, "whole", f"{other}/text", messages=messages, tools=TOOLS).choices[0].message.content
            sent = json.dumps(served.sent())
            assert signature(kind, first) not in sent
            assert "tidegate:" not in sent


def signature(kind: str, done: ChatCompletion) -> str:
    """Give how the mock, as a provider of a kind, signs what it thought."""
    return sealed(SIGNERS[kind], "" if kind == "gemini" else thought(done) or "")


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_tool_may_be_reaches_the_provider(served: Upstreams, kind: str) -> None:
    complete(served, "whole", f"{kind}/text", tools=TOOLS, tool_choice="auto", parallel_tool_calls=True)
    sent = json.dumps(served.sent())
    for name in ("tide", "moon", "wind"):
        assert f'"name": "{name}", "description": "Gives the {name}."' in sent
    assert sent.count('"required": ["text"]') == 3


# --- images, documents, structured output ----------------------------------------------------------------------------


@every_kind
@streamed_or_not
def test_an_image_reaches_the_provider_whole(served: Upstreams, kind: str, stream: bool) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": USER["content"]}, image]}]
    done = complete(served, "stream" if stream else "whole", f"{kind}/text", messages=messages)
    assert PNG in json.dumps(served.sent())
    assert done.choices[0].message.content == expected(served, "text", messages=messages).choices[0].message.content


@pytest.mark.parametrize("kind", ["openai", "anthropic", "gemini", "bedrock"])
def test_a_document_reaches_the_provider_whole(served: Upstreams, kind: str) -> None:
    file = {"type": "file", "file": {"filename": "tide.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": USER["content"]}, file]}]
    assert complete(served, "whole", f"{kind}/text", messages=messages).choices[0].message.content
    assert PDF in json.dumps(served.sent())


@pytest.mark.parametrize("kind", ["openai", "anthropic", "gemini"])
def test_an_image_by_its_address_reaches_the_providers_that_fetch_it(served: Upstreams, kind: str) -> None:
    complete(served, "whole", f"{kind}/text", messages=[_by_address()])
    assert '"https://example.com/tide.png"' in json.dumps(served.sent())


@pytest.mark.parametrize("kind", ["bedrock", "ollama_native"])
def test_an_image_by_its_address_is_refused_for_the_others(served: Upstreams, kind: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(served, "whole", f"{kind}/text", messages=[_by_address()])
    assert (caught.value.code, caught.value.param) == ("untranslatable", "messages")


def _by_address() -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": "https://example.com/tide.png"}}],
    }


@every_kind
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the package's own, of a message it is handed back
def test_structured_output_is_parsed_by_the_package(served: Upstreams, kind: str) -> None:
    wanted = Said.model_validate_json(expected(served, "text", response_format=SCHEMA).choices[0].message.content or "")
    with openai_client(served) as client:
        parsed = client.chat.completions.parse(model=f"{kind}/text", messages=MESSAGES, response_format=Said)
        with client.chat.completions.stream(model=f"{kind}/text", messages=MESSAGES, response_format=Said) as stream:
            streamed = stream.get_final_completion()
        assert parsed.choices[0].message.parsed == streamed.choices[0].message.parsed == wanted
        messages = [USER, parsed.choices[0].message, {"role": "user", "content": "And then?"}]
        assert client.chat.completions.create(model=f"{kind}/text", messages=messages).choices[0].message.content

    async def work() -> None:
        async with openai_async(served) as client:
            parsed = await client.chat.completions.parse(model=f"{kind}/text", messages=MESSAGES, response_format=Said)
            assert parsed.choices[0].message.parsed == wanted

    asyncio.run(work())


SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {"name": "Said", "schema": {"type": "object", "properties": {"text": {"type": "string"}}}},
}


# --- ends that are none ----------------------------------------------------------------------------------------------


@every_kind
def test_an_answer_cut_short_says_so(served: Upstreams, kind: str) -> None:
    done = complete(served, "whole", f"{kind}/length")
    check_same(done, expected(served, "length"))
    assert done.choices[0].finish_reason == "length"
    for way in ("stream", "async stream"):
        with pytest.raises(openai.LengthFinishReasonError) as caught:
            complete(served, way, f"{kind}/length")
        assert caught.value.completion.choices[0].message.content == done.choices[0].message.content


@pytest.mark.parametrize("kind", ["openai", "anthropic", "gemini", "bedrock"])
@pytest.mark.parametrize("script", ["refuses", "filtered"])
def test_a_refusal_is_no_silent_stop(served: Upstreams, kind: str, script: str) -> None:
    choice = complete(served, "whole", f"{kind}/{script}").choices[0]
    if (kind, script) == ("openai", "refuses"):
        streamed = complete(served, "stream", f"{kind}/{script}").choices[0]
        assert choice.message.refusal
        assert streamed.message.refusal == choice.message.refusal
        return
    assert choice.finish_reason == "content_filter"
    for way in ("stream", "async stream"):
        with pytest.raises(openai.ContentFilterFinishReasonError):
            complete(served, way, f"{kind}/{script}")


@every_kind
@pytest.mark.parametrize(
    ("script", "code"),
    [("breaks", "upstream_error_frame"), ("ends", "upstream_truncated"), ("cut", "upstream_truncated")],
)
def test_a_stream_that_breaks_is_an_exception_after_its_words(
    served: Upstreams, kind: str, script: str, code: str
) -> None:
    said: list[str] = []

    def read() -> None:
        with openai_client(served) as client:
            stream = client.chat.completions.create(model=f"{kind}/{script}", messages=MESSAGES, stream=True)
            said.extend(chunk.choices[0].delta.content or "" for chunk in stream)

    async def read_async() -> None:
        async with openai_async(served) as client:
            stream = await client.chat.completions.create(model=f"{kind}/{script}", messages=MESSAGES, stream=True)
            said.extend([chunk.choices[0].delta.content or "" async for chunk in stream])

    with pytest.raises(openai.APIError) as caught:
        read()
    assert "".join(said) == "Long before anyone wakes, the"
    assert caught.value.code == code
    assert served.last().code == code
    for again in (lambda: asyncio.run(read_async()), lambda: complete(served, "stream", f"{kind}/{script}")):
        with pytest.raises(openai.APIError) as caught:
            again()
        assert type(caught.value) is openai.APIError


# --- embeddings, models ----------------------------------------------------------------------------------------------


def test_embeddings_are_the_providers_in_floats_and_in_base64(served: Upstreams) -> None:
    texts = ["The tide is high.", "The tide is low."]
    with openai_client(served) as client, openai_direct(served) as direct:
        native = direct.embeddings.create(model="mock", input=texts, encoding_format="float", dimensions=8)
        for encoding in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
            members: Any = encoding
            done = client.embeddings.create(model="openai/text", input=texts, dimensions=8, **members)
            assert [one.index for one in done.data] == [0, 1]
            if encoding.get("encoding_format") == "base64":
                assert all(isinstance(one.embedding, str) for one in done.data)
            else:
                for one, wanted in zip(done.data, native.data, strict=True):
                    assert one.embedding == pytest.approx(wanted.embedding, rel=1e-6)
            assert done.usage == native.usage


def test_all_models_are_listed(served: Upstreams) -> None:
    with openai_client(served) as client:
        listed = {model.id for model in client.models.list()}
        assert listed == {f"{kind}/{script}" for kind in PATHS for script in SCRIPTS}
        assert client.models.retrieve("gemini/text").id == "gemini/text"


@pytest.mark.parametrize("kind", TRANSLATED)
def test_embeddings_of_a_provider_that_has_none_are_refused(served: Upstreams, kind: str) -> None:
    with openai_client(served) as client, pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=f"{kind}/text", input="The tide is high.")
    assert caught.value.code == "untranslatable"
