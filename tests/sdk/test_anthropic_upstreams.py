"""What the official anthropic package gets through the gateway, whoever the provider is."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from messaging import (
    PASSED,
    PIXEL,
    PROMPT,
    PROVIDERS,
    THINKING,
    TOOLS,
    TRANSLATED,
    WAYS,
    awaiting,
    blocking,
    called,
    calls_of,
    chat_tools,
    directly,
    handed_back,
    results,
    say,
    text_of,
)
from pydantic import BaseModel
from upstreams import Upstreams, upstreams

from harness import run

every_provider = pytest.mark.parametrize("kind", PROVIDERS)
every_way = pytest.mark.parametrize("way", WAYS)
both_ways = pytest.mark.parametrize("way", ["whole", "streamed"])


@pytest.fixture(scope="module")
def served() -> Iterator[Upstreams]:
    with upstreams() as held:
        yield held


# --- text ----------------------------------------------------------------------------------------------------------


@every_way
@every_provider
def test_a_message_has_the_words_and_the_usage_of_the_provider(served: Upstreams, kind: str, way: str) -> None:
    message, expected = say(served, way, f"{kind}/text"), directly(served, "text")
    assert [block.type for block in message.content] == ["text"]
    assert text_of(message) == expected.choices[0].message.content
    assert (message.type, message.role, message.stop_reason, message.stop_sequence) == (
        "message",
        "assistant",
        "end_turn",
        None,
    )
    assert message.id
    assert message.model
    assert expected.usage is not None
    assert message.usage.input_tokens == expected.usage.prompt_tokens
    assert message.usage.output_tokens == expected.usage.completion_tokens
    assert not message.usage.cache_read_input_tokens
    assert not message.usage.cache_creation_input_tokens


@every_provider
def test_the_events_of_a_stream_come_in_their_order(served: Upstreams, kind: str) -> None:
    with blocking(served.url) as client:
        members: dict[str, Any] = {"model": f"{kind}/thinks_calls", "messages": PROMPT, "tools": TOOLS, **THINKING}
        events = list(client.messages.create(stream=True, **members))
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("message_start") == kinds.count("message_delta") == kinds.count("message_stop") == 1
    opened = -1
    inside = False
    for event in events:
        match event.type:
            case "content_block_start":
                assert not inside
                inside, opened = True, opened + 1
                assert event.index == opened
            case "content_block_delta":
                assert inside
                assert event.index == opened
            case "content_block_stop":
                assert inside
                assert event.index == opened
                inside = False
    assert not inside
    assert opened >= 1


@every_provider
def test_a_text_comes_in_pieces(served: Upstreams, kind: str) -> None:
    expected = directly(served, "long").choices[0].message.content
    with blocking(served.url) as client:
        members: dict[str, Any] = {"model": f"{kind}/long", "messages": PROMPT, "max_tokens": 1000}
        with client.messages.stream(**members) as stream:
            pieces = list(stream.text_stream)
    assert "".join(pieces) == expected
    assert len(pieces) == 300


@every_provider
def test_a_text_comes_in_pieces_to_who_awaits_them(served: Upstreams, kind: str) -> None:
    pieces: list[str] = []

    async def work() -> None:
        members: dict[str, Any] = {"model": f"{kind}/text", "messages": PROMPT, "max_tokens": 1000}
        async with awaiting(served.url) as client, client.messages.stream(**members) as stream:
            pieces.extend([piece async for piece in stream.text_stream])

    run(work)
    assert "".join(pieces) == directly(served, "text").choices[0].message.content
    assert len(pieces) == 12


@both_ways
@pytest.mark.parametrize(
    ("script", "reason"), [("length", "max_tokens"), ("refuses", "refusal"), ("filtered", "refusal")]
)
@every_provider
def test_why_a_message_stopped_is_said_in_the_packages_words(
    served: Upstreams, kind: str, script: str, reason: str, way: str
) -> None:
    message = say(served, way, f"{kind}/{script}")
    assert message.stop_reason == reason
    said = directly(served, script).choices[0].message
    if kind != "gemini" or way == "streamed" or script == "length":
        # What Gemini blocks, it leaves out of a whole answer.
        assert text_of(message) == (said.content or said.refusal)


@pytest.mark.parametrize("kind", TRANSLATED)
def test_what_nobody_needs_to_hear_is_dropped_and_said_to_be(served: Upstreams, kind: str) -> None:
    text: Any = {"type": "text", "text": "Tell me about the tide.", "cache_control": {"type": "ephemeral"}}
    with blocking(served.url) as client:
        raw = client.messages.with_raw_response.create(
            model=f"{kind}/text",
            max_tokens=100,
            system=[text],
            messages=[{"role": "user", "content": [text]}],
            service_tier="auto",
        )
    assert {"cache_control", "service_tier"} <= set(raw.headers["x-tidegate-dropped"].split(", "))
    assert text_of(raw.parse())
    assert "cache_control" not in json.dumps(served.sent())


@pytest.mark.parametrize("kind", TRANSLATED)
def test_what_would_change_the_answer_is_refused_by_its_name(served: Upstreams, kind: str) -> None:
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\]\.type") as caught:
        say(served, "streamed", f"{kind}/text", tools=[search])
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError, match="container"):
        say(served, "whole", f"{kind}/text", extra_body={"container": "c1"})


# --- tools ---------------------------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("script", ["calls", "calls_many", "calls_bare"])
@every_provider
def test_calls_have_their_names_and_inputs(served: Upstreams, kind: str, script: str, way: str) -> None:
    message = say(served, way, f"{kind}/{script}", tools=TOOLS)
    expected = called(directly(served, script, tools=chat_tools()))
    calls = calls_of(message)
    assert [(call.name, call.input) for call in calls] == expected
    assert len({call.id for call in calls}) == len(expected) == (3 if script == "calls_many" else 1)
    assert all(call.id for call in calls)
    assert message.stop_reason == "tool_use"


@every_provider
def test_inputs_come_in_pieces_that_are_never_joined_nor_mixed(served: Upstreams, kind: str) -> None:
    fragments: dict[int, list[str]] = {}
    with blocking(served.url) as client:
        members: dict[str, Any] = {"model": f"{kind}/calls_many", "messages": PROMPT, "max_tokens": 900, "tools": TOOLS}
        with client.messages.stream(**members) as stream:
            for event in stream:
                if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                    fragments.setdefault(event.index, []).append(event.delta.partial_json)
            calls = calls_of(stream.get_final_message())
    assert [json.loads("".join(pieces)) for pieces in fragments.values()] == [call.input for call in calls]
    if kind != "gemini":  # which says a call's arguments at once
        assert all(len(pieces) >= 5 for pieces in fragments.values())


@both_ways
@pytest.mark.parametrize("script", ["calls", "calls_many", "calls_bare"])
@every_provider
def test_the_results_of_calls_lead_to_an_answer(served: Upstreams, kind: str, script: str, way: str) -> None:
    asking = say(served, way, f"{kind}/{script}", tools=TOOLS)
    turns = [*PROMPT, handed_back(asking), results(asking)]
    message = say(served, way, f"{kind}/text", tools=TOOLS, messages=turns)
    made, told = [], []
    for call in calls_of(asking):
        function = {"name": call.name, "arguments": json.dumps(call.input)}
        made.append({"id": call.id, "type": "function", "function": function})
        told.append({"role": "tool", "tool_call_id": call.id, "content": f"The {call.name} is high."})
    turns = [*PROMPT, {"role": "assistant", "tool_calls": made}, *told]
    expected = directly(served, "text", tools=chat_tools(), messages=turns)
    assert text_of(message) == expected.choices[0].message.content
    assert message.stop_reason == "end_turn"


@every_provider
def test_the_ids_of_calls_survive_the_round_trip(served: Upstreams, kind: str) -> None:
    asking = say(served, "streamed", f"{kind}/calls_many", tools=TOOLS)
    again = say(served, "whole", f"{kind}/calls_many", tools=TOOLS)
    say(served, "whole", f"{kind}/text", tools=TOOLS, messages=[*PROMPT, handed_back(asking), results(asking)])
    sent = json.dumps(served.sent())
    assert all(sent.count(f'"{call.id}"') == 2 for call in calls_of(asking))
    if kind != "gemini":  # whose calls have no ids but the gateway's
        assert [call.id for call in calls_of(again)] == [call.id for call in calls_of(asking)]


@every_provider
def test_a_failed_call_is_told_as_one(served: Upstreams, kind: str) -> None:
    asking = say(served, "streamed", f"{kind}/calls", tools=TOOLS)
    turns = [*PROMPT, handed_back(asking), results(asking, is_error=True)]
    assert text_of(say(served, "streamed", f"{kind}/text", tools=TOOLS, messages=turns))
    sent = json.dumps(served.sent())
    word = {"openai": "The tide is high.", "gemini": '"error": "The tide', "bedrock": '"status": "error"'}
    assert word.get(kind, '"is_error": true') in sent


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"type": "auto"}, {"openai": '"auto"', "gemini": '"AUTO"', "bedrock": '{"auto": {}}'}),
        ({"type": "any"}, {"openai": '"required"', "gemini": '"ANY"', "bedrock": '{"any": {}}'}),
        (
            {"type": "tool", "name": "moon"},
            {"openai": '{"name": "moon"}', "gemini": '["moon"]', "bedrock": '{"tool": {"name": "moon"}}'},
        ),
    ],
    ids=lambda said: said.get("type", ""),
)
@every_provider
def test_the_choice_of_a_tool_reaches_the_provider(
    served: Upstreams, kind: str, choice: dict[str, Any], words: dict[str, str]
) -> None:
    say(served, "whole", f"{kind}/calls", tools=TOOLS, tool_choice=choice)
    sent = served.sent()
    said = sent.get("tool_choice") or sent.get("toolConfig")
    assert words.get(kind, json.dumps(choice)) in json.dumps(said)


# --- images and documents ------------------------------------------------------------------------------------------


def showing(*blocks: Any) -> list[Any]:
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": "What is this?"}]}]


@both_ways
@every_provider
def test_an_image_reaches_the_provider(served: Upstreams, kind: str, way: str) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    assert text_of(say(served, way, f"{kind}/text", messages=showing(image)))
    assert PIXEL in json.dumps(served.sent())


@every_provider
def test_the_address_of_an_image_reaches_the_provider_unless_it_fetches_nothing(served: Upstreams, kind: str) -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://images.example/tide.png"}}
    if kind.startswith("bedrock"):
        with pytest.raises(anthropic.BadRequestError, match=r"image|source"):
            say(served, "whole", f"{kind}/text", messages=showing(image))
        return
    assert text_of(say(served, "whole", f"{kind}/text", messages=showing(image)))
    assert "https://images.example/tide.png" in json.dumps(served.sent())


@every_provider
def test_documents_reach_the_provider(served: Upstreams, kind: str) -> None:
    page = base64.b64encode(b"%PDF-1.4 a page about the tide").decode()
    sources = [
        {"type": "base64", "media_type": "application/pdf", "data": page},
        {"type": "text", "media_type": "text/plain", "data": "High water at noon."},
    ]
    for source in sources:
        block = {"type": "document", "title": "Tides", "source": source}
        assert text_of(say(served, "streamed", f"{kind}/text", messages=showing(block)))
        data = source["data"]
        sent = json.dumps(served.sent())
        assert data in sent or base64.b64encode(data.encode()).decode() in sent


@pytest.mark.parametrize("kind", [*PASSED, "gemini", "bedrock"])
def test_a_tool_can_give_an_image(served: Upstreams, kind: str) -> None:
    asking = say(served, "whole", f"{kind}/calls", tools=TOOLS)
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    shown = results(asking, content=[{"type": "text", "text": "Look:"}, image])
    turns = [*PROMPT, handed_back(asking), shown]
    assert text_of(say(served, "whole", f"{kind}/text", tools=TOOLS, messages=turns))
    assert PIXEL in json.dumps(served.sent())


# --- structured output ---------------------------------------------------------------------------------------------


class Said(BaseModel):
    text: str


@every_provider
def test_an_answer_of_a_schema_is_parsed(served: Upstreams, kind: str) -> None:
    members: dict[str, Any] = {"model": f"{kind}/text", "max_tokens": 1000, "messages": PROMPT}
    with blocking(served.url) as client:
        parsed = client.messages.parse(output_format=Said, **members)
        with client.messages.stream(output_format=Said, **members) as stream:
            final = stream.get_final_message()
    expected = directly(served, "text").choices[0].message.content
    for message in (parsed, final):
        assert message.parsed_output is not None
        assert message.parsed_output.text == expected
