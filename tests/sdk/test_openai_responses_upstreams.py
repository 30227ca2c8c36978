"""What the official openai package gets from the Responses API is the same, whoever the provider behind the gateway is."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import openai
import pytest
from openai.types.responses import (
    Response,
    ResponseCustomToolCall,
    ResponseFunctionToolCall,
    ResponseReasoningItem,
    ResponseStreamEvent,
)
from pydantic import BaseModel
from upstreams import KINDS, SCRIPTS, Upstreams, openai_async, openai_client, openai_direct, upstreams

from tidegate.mock.ask import Dialect
from tidegate.mock.seal import sealed

ASKED: Final = "Tell me about the tide."
TOOLS: Any = [
    {
        "type": "function",
        "name": name,
        "description": f"Gives the {name}.",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
            "additionalProperties": False,
        },
        "strict": True,
    }
    for name in ("tide", "moon", "wind")
]
STATELESS: Final[dict[str, Any]] = {"store": False, "include": ["reasoning.encrypted_content"]}
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


def respond(served: Upstreams, way: str, model: str, **members: Any) -> Response:
    """Give a response in one of the package's ways; of a stream, what the package makes of it."""
    asked = {"model": model, "input": ASKED, **members}
    if way.startswith("async"):
        return asyncio.run(_respond_async(served, asked, stream=way.endswith("stream")))
    with openai_client(served) as client:
        if way == "whole":
            done: Response = client.responses.create(**asked)
            return done
        with client.responses.stream(**asked) as stream:
            return stream.get_final_response()


async def _respond_async(served: Upstreams, asked: dict[str, Any], *, stream: bool) -> Response:
    async with openai_async(served) as client:
        if not stream:
            done: Response = await client.responses.create(**asked)
            return done
        async with client.responses.stream(**asked) as events:
            return await events.get_final_response()


def events_of(served: Upstreams, model: str, **members: Any) -> list[ResponseStreamEvent]:
    """Give the events of a stream."""
    with openai_client(served) as client:
        return list(client.responses.create(model=model, input=ASKED, stream=True, **members))


def expected(served: Upstreams, script: str, **members: Any) -> Response:
    """Give what the mock itself says as OpenAI."""
    with openai_direct(served) as client:
        done: Response = client.responses.create(**{"model": f"mock?{SCRIPTS[script]}", "input": ASKED, **members})
        return done


def calls_of(done: Response) -> list[ResponseFunctionToolCall]:
    return [item for item in done.output if item.type == "function_call"]


def thoughts_of(done: Response) -> list[ResponseReasoningItem]:
    return [item for item in done.output if item.type == "reasoning"]


def summary(done: Response) -> str:
    return "".join(part.text for item in thoughts_of(done) for part in item.summary)


def check_same(done: Response, native: Response) -> None:
    """Check that an answer says what OpenAI's own would: words, status, thoughts, calls, usage."""
    assert done.object == "response"
    assert done.id.startswith("resp_")
    assert done.created_at > 0
    assert (done.status, done.error, done.incomplete_details) == ("completed", None, None)
    assert done.output_text == native.output_text
    assert summary(done) == summary(native)
    assert [(call.name, call.arguments) for call in calls_of(done)] == [
        (call.name, call.arguments) for call in calls_of(native)
    ]
    assert len({item.id for item in done.output}) == len(done.output)
    assert done.usage is not None
    assert native.usage is not None
    assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == (
        native.usage.input_tokens,
        native.usage.output_tokens,
        native.usage.total_tokens,
    )


# --- text, thoughts, usage -------------------------------------------------------------------------------------------


@every_way
@every_kind
@pytest.mark.parametrize("script", ["text", "long", "thinks"])
def test_an_answer_is_the_providers_words(served: Upstreams, kind: str, way: str, script: str) -> None:
    done = respond(served, way, f"{kind}/{script}", instructions="Be brief.")
    check_same(done, expected(served, script, instructions="Be brief."))
    assert done.usage is not None
    assert done.usage.input_tokens_details.cached_tokens == 0
    if script == "thinks" and kind in {"openai", "gemini"}:  # the others count thoughts, and do not say how many
        assert done.usage.output_tokens_details.reasoning_tokens == 4
    entry = served.last()
    assert (entry.code, entry.provider, entry.usage.output_tokens) == ("completed", kind, done.usage.output_tokens)
    assert (entry.path == "translated") == (kind != "openai")


def lived(events: Sequence[ResponseStreamEvent]) -> None:
    """Check the life of every item: added, then its pieces, then done with all of them; and the numbers of the events."""
    assert [event.sequence_number for event in events] == list(range(len(events)))
    open_items: dict[int, str] = {}
    pieces: dict[tuple[int, str], str] = {}
    done: list[Any] = []
    for event in events:
        match event.type:
            case "response.output_item.added":
                assert event.output_index == len(open_items)
                open_items[event.output_index] = event.item.id or ""
            case "response.output_text.delta" | "response.reasoning_summary_text.delta":
                pieces[event.output_index, event.type] = pieces.get((event.output_index, event.type), "") + event.delta
                assert event.item_id == open_items[event.output_index]
            case "response.output_text.done" | "response.reasoning_summary_text.done":
                assert event.text == pieces[event.output_index, event.type.replace(".done", ".delta")]
            case "response.function_call_arguments.delta":
                pieces[event.output_index, event.type] = pieces.get((event.output_index, event.type), "") + event.delta
                assert event.item_id == open_items[event.output_index]
            case "response.function_call_arguments.done":
                assert event.arguments == (pieces.get((event.output_index, event.type[:-4] + "delta")) or "{}")
            case "response.output_item.done":
                assert event.item.id == open_items[event.output_index]
                done.append((event.output_index, event.item))
            case "response.completed":
                assert event is events[-1]
                output = [item.to_dict() for item in event.response.output]
                assert output == [item.to_dict() for _, item in sorted(done, key=lambda one: one[0])]


@every_kind
@pytest.mark.parametrize("script", ["text", "thinks", "calls", "calls_many", "calls_bare", "thinks_calls"])
def test_every_event_comes_in_its_order(served: Upstreams, kind: str, script: str) -> None:
    tools: Any = {"tools": TOOLS} if "calls" in script else {}
    events = events_of(served, f"{kind}/{script}", **tools)
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds.count("response.created") == kinds.count("response.completed") == 1
    lived(events)
    if script == "text":
        assert kinds[2:4] == ["response.output_item.added", "response.content_part.added"]
        assert kinds[4:16] == ["response.output_text.delta"] * 12
        assert kinds[16:] == [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]


def test_streams_of_all_providers_share_a_client(served: Upstreams) -> None:
    wanted = expected(served, "long").output_text

    async def work() -> None:
        async with openai_async(served) as client:

            async def one(kind: str) -> None:
                stream = await client.responses.create(model=f"{kind}/long", input=ASKED, stream=True)
                pieces = [event.delta async for event in stream if event.type == "response.output_text.delta"]
                assert "".join(pieces) == wanted, kind

            await asyncio.gather(*(one(kind) for kind in KINDS * 2))

    asyncio.run(work())


# --- tools and thoughts, turn after turn -----------------------------------------------------------------------------


@every_way
@every_kind
@pytest.mark.parametrize("script", ["calls", "calls_many", "calls_bare", "thinks_calls"])
def test_calls_have_ids_and_arguments(served: Upstreams, kind: str, way: str, script: str) -> None:
    done = respond(served, way, f"{kind}/{script}", tools=TOOLS)
    check_same(done, expected(served, script, tools=TOOLS))
    made = calls_of(done)
    assert len({call.call_id for call in made}) == len(made) == (3 if script == "calls_many" else 1)
    assert all(isinstance(json.loads(call.arguments), dict) for call in made)
    assert all(call.status == "completed" for call in made)


@every_way
@every_kind
@pytest.mark.parametrize("script", ["calls_many", "thinks_calls"])
def test_calls_their_results_and_the_final_answer_make_a_round(
    served: Upstreams, kind: str, way: str, script: str
) -> None:
    first = respond(served, way, f"{kind}/{script}", tools=TOOLS, **STATELESS)
    made = calls_of(first)
    results = [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"Result {nth}."}
        for nth, call in enumerate(made)
    ]
    items = [{"role": "user", "content": ASKED}, *first.output, *results]  # as the package gave them
    second = respond(served, way, f"{kind}/text", input=items, tools=TOOLS, **STATELESS)
    sent = json.dumps(served.sent())
    assert second.output_text == _direct_text(served, items)
    for nth, call in enumerate(made):
        assert sent.count(f'"{call.call_id}"') == 2, "the call, and its result"
        assert f"Result {nth}." in sent
    if kind in SIGNERS and script == "thinks_calls":
        assert signature(kind, first) in sent
    assert "tidegate:" not in sent


@every_way
@pytest.mark.parametrize("kind", TRANSLATED)
def test_a_tool_that_takes_a_plain_text_makes_a_round(served: Upstreams, kind: str, way: str) -> None:
    tools: Any = [{"type": "custom", "name": "apply_patch", "description": "Changes files."}]
    first = respond(served, way, f"{kind}/calls", tools=tools, **STATELESS)
    [call] = first.output
    assert isinstance(call, ResponseCustomToolCall)
    assert (call.name, "input" in json.dumps(served.sent())) == ("apply_patch", True)
    assert call.input
    result = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "Done."}
    items = [{"role": "user", "content": ASKED}, call, result]
    assert respond(served, way, f"{kind}/text", input=items, tools=tools, **STATELESS).status == "completed"
    sent = json.dumps(served.sent())
    assert sent.count(f'"{call.call_id}"') == 2, "the call, and its result"
    assert "Done." in sent


def _direct_text(served: Upstreams, items: Sequence[Any]) -> str:
    """Give what the mock answers itself. Shape: without thoughts, as another's seal is none of OpenAI's."""
    spoken = [item for item in items if getattr(item, "type", "") != "reasoning"]
    return expected(served, "text", input=spoken, tools=TOOLS).output_text


@every_way
@pytest.mark.parametrize("kind", [*SIGNERS, "openai"])
def test_a_thought_is_handed_back_with_its_seal(served: Upstreams, kind: str, way: str) -> None:
    first = respond(served, way, f"{kind}/thinks", reasoning={"effort": "low", "summary": "auto"}, **STATELESS)
    assert any(item.encrypted_content for item in thoughts_of(first))
    items = [{"role": "user", "content": ASKED}, *first.output, {"role": "user", "content": "And then?"}]
    second = respond(served, way, f"{kind}/text", input=items, **STATELESS)
    sent = json.dumps(served.sent())
    assert second.output_text == _direct_text(served, items)
    assert signature(kind, first) in sent
    assert "tidegate:" not in sent


@pytest.mark.parametrize("kind", SIGNERS)
def test_a_thought_of_one_provider_is_not_told_to_another(served: Upstreams, kind: str) -> None:
    first = respond(served, "whole", f"{kind}/thinks_calls", tools=TOOLS, **STATELESS)
    result = {"type": "function_call_output", "call_id": calls_of(first)[0].call_id, "output": "High."}
    items = [{"role": "user", "content": ASKED}, *first.output, result]
    for other in TRANSLATED:
        if other != kind:
            assert respond(served, "whole", f"{other}/text", input=items, tools=TOOLS, **STATELESS).output_text
            sent = json.dumps(served.sent())
            assert signature(kind, first) not in sent
            assert "tidegate:" not in sent


def signature(kind: str, done: Response) -> str:
    """Give how the mock, as a provider of a kind, signs what it thought."""
    if kind == "openai":
        return sealed("responses")
    return sealed(SIGNERS[kind], "" if kind == "gemini" else summary(done))


# --- images, documents, structured output ----------------------------------------------------------------------------


@every_kind
@streamed_or_not
def test_an_image_reaches_the_provider_whole(served: Upstreams, kind: str, stream: bool) -> None:
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"}
    items = [{"role": "user", "content": [{"type": "input_text", "text": ASKED}, image]}]
    done = respond(served, "stream" if stream else "whole", f"{kind}/text", input=items)
    assert PNG in json.dumps(served.sent())
    assert done.output_text == expected(served, "text", input=items).output_text


@pytest.mark.parametrize("kind", ["openai", "anthropic", "gemini", "bedrock"])
def test_a_document_reaches_the_provider_whole(served: Upstreams, kind: str) -> None:
    file = {"type": "input_file", "filename": "tide.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}
    items = [{"role": "user", "content": [{"type": "input_text", "text": ASKED}, file]}]
    assert respond(served, "whole", f"{kind}/text", input=items).output_text
    assert PDF in json.dumps(served.sent())


@every_kind
def test_structured_output_is_parsed_by_the_package(served: Upstreams, kind: str) -> None:
    wanted = Said.model_validate_json(expected(served, "text", text={"format": {"type": "json_object"}}).output_text)
    with openai_client(served) as client:
        assert client.responses.parse(model=f"{kind}/text", input=ASKED, text_format=Said).output_parsed == wanted
        with client.responses.stream(model=f"{kind}/text", input=ASKED, text_format=Said) as stream:
            assert stream.get_final_response().output_parsed == wanted

    async def work() -> None:
        async with openai_async(served) as client:
            parsed = await client.responses.parse(model=f"{kind}/text", input=ASKED, text_format=Said)
            assert parsed.output_parsed == wanted
            items: Any = [{"role": "user", "content": ASKED}, *parsed.output, {"role": "user", "content": "And then?"}]
            assert (await client.responses.create(model=f"{kind}/text", input=items)).output_text

    asyncio.run(work())


# --- ends that are none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "script"),
    [
        *((kind, "length") for kind in KINDS),
        *((kind, "filtered") for kind in ("openai", "anthropic", "gemini", "bedrock")),
        *((kind, "refuses") for kind in ("anthropic", "gemini", "bedrock")),
    ],
)
def test_an_answer_cut_short_says_why(served: Upstreams, kind: str, script: str) -> None:
    reason = "max_output_tokens" if script == "length" else "content_filter"
    done = respond(served, "whole", f"{kind}/{script}")
    events = events_of(served, f"{kind}/{script}")
    last = events[-1]
    assert last.type == "response.incomplete"
    lived(events)
    for response in (done, last.response):
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == reason
        assert all(item.status == "incomplete" for item in response.output if item.type == "message")
    if kind != "gemini":  # what it said before it saw what it says, it says in a stream alone
        assert last.response.output_text == done.output_text
    assert served.last().code == "completed"


def test_a_refusal_of_openai_is_a_part_of_its_own(served: Upstreams) -> None:
    for way in WAYS:
        (message,) = respond(served, way, "openai/refuses").output
        assert message.type == "message"
        (part,) = message.content
        assert part.type == "refusal"
        assert part.refusal


@every_kind
@pytest.mark.parametrize(
    ("script", "code"),
    [("breaks", "upstream_error_frame"), ("ends", "upstream_truncated"), ("cut", "upstream_truncated")],
)
def test_a_stream_that_breaks_ends_in_one_response_that_failed(
    served: Upstreams, kind: str, script: str, code: str
) -> None:
    events = events_of(served, f"{kind}/{script}")
    last = events[-1]
    assert last.type == "response.failed"
    assert "error" not in [event.type for event in events], "the package raises at both"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert (last.response.error.code, bool(last.response.error.message)) == (code, True)
    assert last.response.id == events[0].response.id  # type: ignore[union-attr]
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == "Long before anyone wakes, the"
    assert served.last().code == code
    for way in ("stream", "async stream"):
        with pytest.raises(RuntimeError, match=r"response\.completed"):  # so the package says that none came
            respond(served, way, f"{kind}/{script}")


@every_kind
@streamed_or_not
@pytest.mark.parametrize(
    ("members", "param", "advice"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send all items of the conversation in `input`"),
        ({"conversation": "conv_1"}, "conversation", "send all items of the conversation in `input`"),
        ({"background": True}, "background", "ask for a stream"),
    ],
)
def test_what_needs_a_response_that_is_kept_is_refused_with_advice(
    served: Upstreams, kind: str, stream: bool, members: dict[str, Any], param: str, advice: str
) -> None:
    with openai_client(served) as client, pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=f"{kind}/text", input=ASKED, stream=stream, **members)
    assert (caught.value.code, caught.value.param) == ("bad_request", param)
    assert advice in caught.value.message
