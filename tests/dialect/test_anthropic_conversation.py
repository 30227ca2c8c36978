"""Requests as conversations, and conversations as requests."""

import json
import re
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from msgspec import structs

from conversing import conversations, plain
from tidegate.dialect import Dialect
from tidegate.dialect.anthropic import Anthropic, AnthropicOnBedrock
from tidegate.dialect.anthropic.reading import MEMBERS
from tidegate.dialect.conversation import (
    CallPart,
    Conversation,
    DocumentPart,
    ImagePart,
    Part,
    RefusalPart,
    ResultPart,
    Schema,
    TextPart,
    ThoughtPart,
    Tool,
    Turn,
    Untranslatable,
)
from tidegate.verdict import Refused

DIALECT: Dialect = Anthropic()
OLD = "claude-sonnet-4-5-20250929"
NEW = "claude-opus-4-8"
HI = {"role": "user", "content": "hi"}
ASKED = Turn("user", (TextPart("hi"),))
NAME = "anthropic"


def read(**members: Any) -> Conversation:
    body = {"model": "m", "max_tokens": 9, "messages": [HI]} | members
    return DIALECT.read_conversation(json.dumps(body).encode())


def parts_of(role: str, *blocks: Any) -> tuple[Part, ...]:
    turns = read(messages=[HI, {"role": "assistant", "content": "a"}, {"role": role, "content": list(blocks)}]).turns
    return turns[-1].parts


def write(model: str = OLD, *turns: Turn, **fields: Any) -> dict[str, Any]:
    said = Conversation(turns=turns or (ASKED,), **{"members": MEMBERS, **fields})
    return dict(json.loads(DIALECT.write_conversation(said, model).body))


def dropped(model: str = OLD, *turns: Turn, **fields: Any) -> tuple[str, ...]:
    return DIALECT.write_conversation(Conversation(turns=turns or (ASKED,), **fields), model).dropped


def blocks_of(*parts: Part) -> Any:
    return write(OLD, Turn("user", parts))["messages"][0]["content"]


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_request_is_read_whole() -> None:
    said = read(
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        stream=True,
        temperature=0.5,
        top_p=1,
        top_k=3,
        stop_sequences=["x"],
        metadata={"user_id": "u"},
        tools=[
            {"name": "now", "description": "d", "input_schema": {"type": "object"}, "strict": True, "type": "custom"}
        ],
        tool_choice={"type": "tool", "name": "now", "disable_parallel_tool_use": True},
        output_config={"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        thinking=None,
        service_tier="auto",
    )
    assert said == Conversation(
        turns=(Turn("system", (TextPart("Be brief."),)), ASKED),
        stream=True,
        max_tokens=9,
        temperature=0.5,
        top_p=1,
        top_k=3,
        stop=("x",),
        user="u",
        tools=(Tool("now", "d", {"type": "object"}, strict=True),),
        tool_choice="tool",
        tool="now",
        parallel_tools=False,
        effort="xhigh",
        format=Schema({"type": "object"}),
        members=MEMBERS,
        dropped=("cache_control", "service_tier"),
    )


@pytest.mark.parametrize(
    ("members", "fields"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, (2048, "", True)),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048, "display": "omitted"}}, (2048, "", False)),
        ({"thinking": {"type": "adaptive"}}, (None, "high", None)),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, (None, "high", True)),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, (None, "low", None)),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, (0, "", None)),
        ({"thinking": {"type": "disabled"}}, (0, "", None)),
        ({"output_config": {"effort": "medium"}}, (None, "medium", None)),
    ],
)
def test_how_much_to_think_is_read(members: dict[str, Any], fields: tuple[Any, ...]) -> None:
    said = read(**members)
    assert (said.thinking_tokens, said.effort, said.shows_thoughts) == fields


def test_what_a_user_shows_is_read() -> None:
    assert parts_of(
        "user",
        {"type": "text", "text": "see", "citations": None},
        {"type": "text", "text": ""},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}},
        {
            "type": "document",
            "title": "t",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hé"}},
        {"type": "document", "citations": {"enabled": False}, "source": {"type": "url", "url": "https://x.example/a"}},
    ) == (
        TextPart("see"),
        ImagePart("image/png", "aGk="),
        ImagePart(url="https://x.example/a.png"),
        DocumentPart("application/pdf", "aGk=", name="t"),
        DocumentPart("text/plain", b64encode("hé".encode()).decode()),
        DocumentPart(url="https://x.example/a"),
    )


def test_what_an_assistant_said_is_read() -> None:
    assert parts_of(
        "assistant",
        {"type": "thinking", "thinking": "a", "signature": "s"},
        {"type": "thinking", "thinking": "", "signature": "tidegate:gemini:g"},
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "redacted_thinking", "data": 'tidegate:openai_responses:{"sealed":"e","id":"i"}'},
        {"type": "redacted_thinking", "data": "tidegate:gemini:broken"},
        {"type": "redacted_thinking", "data": 'tidegate:gemini:{"call":"c","signature":"g"}'},
        {"type": "text", "text": "x", "citations": [{}]},
        {"type": "tool_use", "id": "c", "name": "now", "input": {"a": 1}, "caller": {"type": "direct"}},
        {"type": "tool_use", "id": "d", "name": "now", "input": {}},
    )[1:] == (
        ThoughtPart("a", "s", origin=NAME),
        ThoughtPart("", "g", origin="gemini"),
        ThoughtPart(sealed="d", origin=NAME),
        ThoughtPart(sealed="e", id="i", origin="openai_responses"),
        TextPart("x"),
        CallPart("c", "now", '{"a":1}', "g", "gemini"),
        CallPart("d", "now", "{}", "", NAME),
    )


def test_results_come_first_and_know_the_tool_s_name() -> None:
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "now", "input": {}}]}
    result = {"type": "tool_result", "tool_use_id": "c", "is_error": True, "content": [{"type": "text", "text": "no"}]}
    other = {"type": "tool_result", "tool_use_id": "z", "content": "x"}
    empty = {"type": "tool_result", "tool_use_id": "y"}
    content = [{"type": "text", "text": "so"}, result, other, empty]
    assert read(messages=[HI, call, {"role": "user", "content": content}]).turns[-1].parts == (
        ResultPart("c", (TextPart("no"),), "now", failed=True),
        ResultPart("z", (TextPart("x"),)),
        ResultPart("y"),
        TextPart("so"),
    )


def test_instructions_may_stand_between_messages() -> None:
    turns = read(system="a", messages=[HI, {"role": "system", "content": "b"}, HI, HI]).turns
    assert [turn.role for turn in turns] == ["system", "user", "system", "user"]


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"temperature": "x"}, "temperature"),
        ({"stream": 1}, "stream"),
        ({"top_k": 1.5}, "top_k"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"stop_sequences": [1]}, "stop_sequences[0]"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [7]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"tools": [{"name": "a", "input_schema": 7}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"model": 7}, "model"),
        ({"metadata": 7}, "metadata"),
        ({"metadata": {"user_id": 7}}, "metadata.user_id"),
        ({"mcp_servers": {}}, "mcp_servers"),
        ({"context_management": {"edits": [7]}}, "context_management.edits[0]"),
        ({"context_management": {"edits": [{}]}}, "context_management.edits[0].type"),
    ],
)
def test_a_wrong_type_is_refused_by_its_name(members: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as refused:
        read(**members)
    assert refused.value.param == param
    assert param in refused.value.message


@pytest.mark.parametrize("body", [b"[]", b"{", b"7"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refused, match="body"):
        DIALECT.read_conversation(body)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"container": "c"}, "container"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"mcp_servers": [{"type": "url", "url": "https://x.example", "name": "x"}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management.edits[0].type"),
        ({"context_management": {"edits": [], "of_tomorrow": 1}}, "context_management.of_tomorrow"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type"),
        ({"tools": [{"name": "w", "input_schema": {}, "of_tomorrow": True}]}, "tools[0].of_tomorrow"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "tool_result",
                                "tool_use_id": "c",
                                "content": [{"type": "tool_reference", "tool_name": "w"}],
                            }
                        ],
                    }
                ]
            },
            "messages[0].content[0].content[0].type",
        ),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget"),
        ({"messages": [{"role": "user", "content": [{"type": "search_result"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
            "messages[0].content[0].source.type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "content"}}]}]},
            "messages[0].content[0].source.type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "citations": {"enabled": True}}]}]},
            "messages[0].content[0].citations.enabled",
        ),
    ],
)
def test_what_cannot_be_said_to_others_is_named(members: dict[str, Any], param: str) -> None:
    with pytest.raises(Untranslatable) as found:
        read(**members)
    assert found.value.param == param


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}, {"type": "clear_tool_uses_20250919"}]}}, ("context_management",)),
        ({"context_management": {"edits": []}}, ()),
        ({"context_management": None}, ()),
        ({"inference_geo": "eu"}, ("inference_geo",)),
        ({"mcp_servers": []}, ()),
        ({"tools": [{"name": "w", "input_schema": {}, "defer_loading": True, "allowed_callers": ["direct"], "input_examples": [{}], "eager_input_streaming": True}]}, ("allowed_callers", "defer_loading", "eager_input_streaming", "input_examples")),
        ({"metadata": {"user_id": None, "trace": "x", "a\r\nb": 1}}, ("metadata.trace", "metadata")),
    ],
)  # fmt: skip
def test_what_others_need_not_hear_is_dropped_and_listed(members: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert read(**members).dropped == expected


@pytest.mark.parametrize("user", ["a", "user-1.x@y.example:z", "u" * 64])
def test_a_plain_name_is_who_asks(user: str) -> None:
    said = read(metadata={"user_id": user})
    assert (said.user, said.dropped) == (user, ())


@pytest.mark.parametrize("user", ["u" * 65, '{"device_id":"d","session_id":"s"}', "é", "a b"])
def test_a_name_that_others_would_refuse_is_dropped(user: str) -> None:
    said = read(metadata={"user_id": user})
    assert (said.user, said.dropped) == ("", ("metadata.user_id",))


def test_what_is_said_of_a_document_stands_before_it() -> None:
    source = {"type": "url", "url": "https://x.example/a"}
    assert parts_of("user", {"type": "document", "context": "Of 1999.", "source": source, "title": "t"}) == (
        TextPart("Of 1999."),
        DocumentPart(url="https://x.example/a", name="t"),
    )


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_short_request_has_no_more_than_it_needs() -> None:
    content = [{"type": "text", "text": "hi"}]
    assert write() == {
        "model": OLD,
        "max_tokens": 8192,
        "messages": [{"role": "user", "content": content}],
        "stream": False,
    }


def test_tools_are_written_with_a_schema_of_an_object() -> None:
    written = write(tools=(Tool("a"), Tool("b", "d", {"properties": {}}, strict=True)), tool_choice="required")
    assert written["tools"] == [
        {"name": "a", "input_schema": {"type": "object"}},
        {"name": "b", "description": "d", "input_schema": {"type": "object", "properties": {}}, "strict": True},
    ]
    assert written["tool_choice"] == {"type": "any"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"parallel_tools": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"tool_choice": "none", "parallel_tools": False}, {"type": "none"}),
        ({"tool_choice": "tool", "tool": "a"}, {"type": "tool", "name": "a"}),
        ({"tool_choice": "auto", "tools": ()}, None),
    ],
)
def test_the_choice_of_tools_is_written_where_there_are_some(fields: dict[str, Any], expected: Any) -> None:
    assert write(**{"tools": (Tool("a"),), **fields}).get("tool_choice") == expected


@pytest.mark.parametrize(
    ("model", "adapts"),
    [
        ("claude-opus-4-6", True),
        ("us.anthropic.claude-opus-4-6-v1:0", True),
        ("anthropic/claude-opus-4.7", True),
        ("claude-sonnet-5", True),
        ("claude-haiku-5-5", True),
        ("claude-mythos-preview", True),
        ("claude-opus-10", True),
        ("claude-3-7-sonnet-latest", False),
        ("claude-sonnet-4-20250514", False),
        ("claude-opus-4-1@20250805", False),
        ("claude-haiku-4-5", False),
        ("kimi-k2", False),
    ],
)
def test_each_model_is_told_to_think_in_the_way_it_knows(model: str, *, adapts: bool) -> None:
    written = write(model, effort="medium")
    assert written["max_tokens"] == 8192 + 8192
    if adapts:
        assert written["thinking"] == {"type": "adaptive"}
        assert written["output_config"] == {"effort": "medium"}
    else:
        assert written["thinking"] == {"type": "enabled", "budget_tokens": 8192}
        assert "output_config" not in written


def test_no_thoughts_are_asked_for_by_saying_so() -> None:
    assert write(effort="none", temperature=0.5, top_k=4)["thinking"] == {"type": "disabled"}
    assert write(NEW, thinking_tokens=0)["thinking"] == {"type": "disabled"}


def test_effort_and_display_are_said_in_the_words_there_are() -> None:
    assert write(NEW, effort="minimal")["output_config"] == {"effort": "low"}
    assert write(NEW, thinking_tokens=5000)["output_config"] == {"effort": "medium"}
    assert write(NEW, effort="low", shows_thoughts=True)["thinking"]["display"] == "summarized"
    assert write(NEW, effort="low", shows_thoughts=False)["thinking"]["display"] == "omitted"
    assert dropped(OLD, effort="low", shows_thoughts=False) == ("shows_thoughts",)


def test_thoughts_fit_into_the_answer() -> None:
    assert write(effort="high", max_tokens=4000)["thinking"]["budget_tokens"] == 2000


@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        (OLD, {"effort": "low", "temperature": 0.2}, "temperature"),
        (NEW, {"effort": "low", "temperature": 0.2}, "temperature"),
        (OLD, {"temperature": 1.5}, "temperature"),
        (OLD, {"effort": "low", "top_p": 0.5}, "top_p"),
        (OLD, {"effort": "low", "top_k": 5}, "top_k"),
        (OLD, {"effort": "low", "max_tokens": 1024}, "output_config.effort"),
        (OLD, {"thinking_tokens": 100}, "thinking.budget_tokens"),
        (OLD, {"thinking_tokens": 4096, "max_tokens": 2000}, "thinking.budget_tokens"),
        (OLD, {"effort": "low", "tools": (Tool("a"),), "tool_choice": "required"}, "tool_choice"),
        (OLD, {"format": Schema()}, "output_config.format"),
        (OLD, {"frequency_penalty": 0.5}, "frequency_penalty"),
        (OLD, {"choices": 2}, "choices"),
    ],
)
def test_what_its_provider_would_refuse_is_named(model: str, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Untranslatable) as found:
        write(model, **fields)
    assert found.value.param == param
    assert param in found.value.message


def test_what_goes_with_thoughts_is_written() -> None:
    written = write(effort="low", temperature=1, top_p=0.97)
    assert "temperature" not in written
    assert written["top_p"] == 0.97
    assert write(NEW, effort="low", tools=(Tool("a"),), tool_choice="required")["tool_choice"] == {"type": "any"}


def test_what_is_harmless_is_dropped_and_told() -> None:
    seen = Turn("user", (ImagePart(url="https://x.example", detail="low"),))
    assert dropped(OLD, seen, seed=1, verbosity="low", frequency_penalty=0.0) == (
        "seed",
        "verbosity",
        "ImagePart.detail",
    )


def test_a_schema_is_written() -> None:
    schema = {"type": "object"}
    assert write(format=Schema(schema, "n"))["output_config"] == {"format": {"type": "json_schema", "schema": schema}}


def test_files_are_written_by_their_kind() -> None:
    text = b64encode("hé".encode()).decode()
    assert [block["source"] for block in blocks_of(
        DocumentPart("application/pdf", "aGk=", name="t"),
        DocumentPart("text/markdown", text),
        DocumentPart(url="https://x.example/a"),
        ImagePart("image/png", "aGk="),
    )] == [
        {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
        {"type": "text", "media_type": "text/plain", "data": "hé"},
        {"type": "url", "url": "https://x.example/a"},
        {"type": "base64", "media_type": "image/png", "data": "aGk="},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "part",
    [
        DocumentPart("application/zip", "aGk="),
        DocumentPart("text/plain", "%"),
        DocumentPart("text/plain", "/w=="),
    ],
)
def test_parts_that_no_block_can_be_are_refused(part: Part) -> None:
    with pytest.raises(Untranslatable) as found:
        blocks_of(part)
    assert found.value.param == "messages"


@pytest.mark.parametrize("arguments", ['{"a": "b', "[]"])
def test_a_call_that_was_cut_is_written_as_one(arguments: str) -> None:
    block = write(OLD, ASKED, Turn("assistant", (CallPart("c", "now", arguments),)))["messages"][1]["content"][0]
    assert block == {"type": "tool_use", "id": "c", "name": "now", "input": {"INVALID_JSON": arguments}}


@pytest.mark.parametrize("given", ["functions.Bash:0", "a b", "é", ""])
def test_an_id_that_anthropic_refuses_becomes_one_that_always_stands_for_it(given: str) -> None:
    messages = write(OLD, ASKED, Turn("assistant", (CallPart(given, "now"),)), Turn("user", (ResultPart(given),)))[
        "messages"
    ]
    ident = messages[1]["content"][0]["id"]
    assert re.fullmatch("call_[0-9a-f]{40}", ident)
    assert messages[2]["content"][0]["tool_use_id"] == ident


def test_instructions_alone_are_no_request() -> None:
    with pytest.raises(Untranslatable, match="instructions"):
        write(OLD, Turn("system", (TextPart("x"),)))


def test_thoughts_of_others_are_left_out_and_the_rest_is_joined() -> None:
    foreign = Turn("assistant", (ThoughtPart("a", "s", origin="gemini"), ThoughtPart("b", origin=NAME)))
    own = Turn(
        "assistant", (ThoughtPart("a", "s", origin=NAME), ThoughtPart(sealed="d", origin=NAME), RefusalPart("no"))
    )
    messages = write(OLD, ASKED, foreign, ASKED, own)["messages"]
    assert [(turn["role"], [block["type"] for block in turn["content"]]) for turn in messages] == [
        ("user", ["text", "text"]),
        ("assistant", ["thinking", "redacted_thinking", "text"]),
    ]


def test_where_the_thought_before_a_call_is_lost_nothing_is_thought_on() -> None:
    result = Turn("user", (ResultPart("c", (TextPart("x"),)),))
    unthought = (ASKED, Turn("assistant", (CallPart("c", "now"),)), result)
    thought = (ASKED, Turn("assistant", (ThoughtPart("a", "s", origin=NAME), CallPart("c", "now"))), result)
    assert "thinking" not in write(OLD, *unthought, effort="low")
    assert dropped(OLD, *unthought, effort="low") == ("effort",)
    assert dropped(OLD, *unthought, thinking_tokens=2000) == ("thinking_tokens",)
    assert write(OLD, *thought, effort="low")["thinking"]["type"] == "enabled"
    assert write(NEW, *unthought, effort="low")["thinking"]["type"] == "adaptive"


def test_bedrock_is_told_the_version_and_not_the_model() -> None:
    written = AnthropicOnBedrock.write_conversation(Conversation(turns=(ASKED,), stream=True, seed=1), OLD)
    assert list(json.loads(written.body)) == ["anthropic_version", "max_tokens", "messages"]
    assert json.loads(written.body)["anthropic_version"] == "bedrock-2023-05-31"
    assert written.dropped == ("seed",)


def test_half_a_surrogate_pair_in_the_arguments_of_a_call_is_written_as_it_was_read() -> None:
    said = (ASKED, Turn("assistant", (CallPart("t", "tide", '{"a":"\\ud83c"}'),)), Turn("user", (ResultPart("t"),)))
    for dialect in (DIALECT, AnthropicOnBedrock()):
        assert b'{"a":"\\ud83c"}' in dialect.write_conversation(Conversation(turns=said), OLD).body


# --- both ways -------------------------------------------------------------------------------------------------------

LACKS = (
    *("seed", "verbosity", "frequency_penalty", "presence_penalty", "choices", "logprobs", "logit_bias"),
    *("effort", "thinking_tokens", "shows_thoughts", "max_tokens", "format", "RefusalPart", "ImagePart.detail"),
    *("Tool.parameters", "Tool.strict", "ThoughtPart.id", "CallPart.signature", "ResultPart.parts.ImagePart.detail"),
)


@settings(max_examples=60, deadline=None)
@given(conversations(LACKS, origin=NAME, system="leading"))
def test_a_conversation_that_is_written_reads_as_it_was(said: Conversation) -> None:
    again = DIALECT.read_conversation(DIALECT.write_conversation(said, OLD).body)
    assert normal(again) == normal(said)


def normal(said: Conversation) -> Conversation:
    """Give a conversation without what is not said to Anthropic, or is said by saying nothing."""
    turns = tuple(Turn(turn.role, tuple(part for part in turn.parts if not unsigned(part))) for turn in said.turns)
    tools = tuple(structs.replace(tool, parameters=None) for tool in said.tools)
    parallel = None if said.tool_choice == "none" else said.parallel_tools
    choice = "" if said.tool_choice == "auto" else said.tool_choice
    given = structs.replace(
        said, turns=turns, tools=tools, max_tokens=None, parallel_tools=parallel, tool_choice=choice
    )
    return plain(given)


def unsigned(part: Part) -> bool:
    return isinstance(part, ThoughtPart) and not (part.signature or part.sealed)
