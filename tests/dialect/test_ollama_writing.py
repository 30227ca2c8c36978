import json
from typing import Any

import pytest
from hypothesis import given, settings
from msgspec import structs

from conversing import conversations
from tidegate.dialect import ProviderDialect
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
from tidegate.dialect.ollama import Ollama

DIALECT: ProviderDialect = Ollama()
HI = Turn("user", (TextPart("hi"),))
TIDE = Tool("tide", "When is high water?", {"type": "object", "properties": {"place": {"type": "string"}}})
MEMBERS = {"turns": "messages", "user": "safety_identifier"}


def written(*turns: Turn, **fields: Any) -> dict[str, Any]:
    conversation = Conversation(turns=turns or (HI,), members=MEMBERS, **fields)
    body: dict[str, Any] = json.loads(DIALECT.write_conversation(conversation, "qwen3:8b").body)
    return body


def messages_of(role: Any, *parts: Part) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = written(Turn(role, parts))["messages"]
    return messages


# --- turns and parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_plain_question_is_written_without_anything_unsaid(stream: bool) -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert written(stream=stream) == {"model": "qwen3:8b", "stream": stream, "messages": messages}


def test_system_text_stands_where_it_was_said() -> None:
    system = Turn("system", (TextPart("Be brief."), TextPart("Be kind.")))
    assert written(HI, system)["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "system", "content": "Be brief.\nBe kind."},
    ]


def test_images_stand_beside_the_text() -> None:
    assert messages_of("user", TextPart("a"), ImagePart("image/png", "AAEC", detail="low"), TextPart("b")) == [
        {"role": "user", "content": "a\nb", "images": ["AAEC"]}
    ]


@pytest.mark.parametrize("part", [ImagePart(url="https://x.org/a.png"), DocumentPart("application/pdf", "AAEC")])
@pytest.mark.parametrize("within", [True, False])
def test_what_is_no_image_of_ones_own_is_refused(part: ImagePart | DocumentPart, within: bool) -> None:
    with pytest.raises(Untranslatable, match=r"image by its URL|document") as caught:
        written(Turn("user", (ResultPart("a", (part,), "tide") if within else part,)))
    assert caught.value.param == "messages"


def test_an_answer_keeps_its_thoughts_and_calls_apart() -> None:
    parts = (
        ThoughtPart("a"),
        ThoughtPart("b", "s", origin="anthropic"),
        ThoughtPart(sealed="c", origin="bedrock"),
        TextPart("d"),
        RefusalPart("e"),
        CallPart("f", "tide", '{"x": [1.5, null]}', "s", "gemini"),
        CallPart("g", "moon"),
    )
    assert messages_of("assistant", *parts) == [
        {
            "role": "assistant",
            "content": "d\ne",
            "thinking": "a",
            "tool_calls": [
                {"id": "f", "function": {"name": "tide", "arguments": {"x": [1.5, None]}}},
                {"id": "g", "function": {"name": "moon", "arguments": {}}},
            ],
        }
    ]


@pytest.mark.parametrize("arguments", ['{"x": ', "", "[1]", "x", '{"x": "\ud83c"}'])
def test_a_call_that_was_cut_is_written_with_what_was_said_of_it(arguments: str) -> None:
    (message,) = messages_of("assistant", CallPart("a", "tide", arguments))
    assert message["tool_calls"][0]["function"]["arguments"] == {"INVALID_JSON": arguments}


def test_each_result_is_a_message() -> None:
    results = (
        ResultPart("b", (TextPart("full"), ImagePart("image/png", "AAEC")), "moon"),
        ResultPart("a", (), failed=True),
    )
    assert messages_of("user", *results, TextPart("So?")) == [
        {"role": "tool", "content": "full", "images": ["AAEC"], "tool_name": "moon", "tool_call_id": "b"},
        {"role": "tool", "content": "", "tool_call_id": "a"},
        {"role": "user", "content": "So?"},
    ]


def test_results_alone_are_all_that_is_said() -> None:
    assert [message["role"] for message in messages_of("user", ResultPart("a"), ResultPart("b"))] == ["tool", "tool"]


# --- settings --------------------------------------------------------------------------------------------------------


def test_tools_always_have_parameters() -> None:
    function = {"name": "tide", "description": "When is high water?", "parameters": TIDE.parameters}
    bare = {"name": "moon", "description": "", "parameters": {"type": "object", "properties": {}}}
    assert written(tools=(TIDE, Tool("moon")))["tools"] == [
        {"type": "function", "function": function},
        {"type": "function", "function": bare},
    ]


def test_a_tool_that_must_not_be_called_is_not_shown() -> None:
    assert "tools" in written(tools=(TIDE,), tool_choice="auto")
    assert "tools" not in written(tools=(TIDE,), tool_choice="none")


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"max_tokens": 5}, {"num_predict": 5}),
        ({"temperature": 0.0}, {"temperature": 0.0}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"top_k": 4}, {"top_k": 4}),
        ({"stop": ("a", "b")}, {"stop": ["a", "b"]}),
        ({"seed": 0}, {"seed": 0}),
        ({"frequency_penalty": -1.5}, {"frequency_penalty": -1.5}),
        ({"presence_penalty": 0.5}, {"presence_penalty": 0.5}),
    ],
)
def test_a_setting_is_an_option(fields: dict[str, Any], options: dict[str, Any]) -> None:
    assert written(**fields)["options"] == options


@pytest.mark.parametrize(
    ("fields", "think"),
    [
        ({"effort": "none"}, False),
        ({"effort": "minimal"}, "low"),
        ({"effort": "low"}, "low"),
        ({"effort": "medium"}, "medium"),
        ({"effort": "high"}, "high"),
        ({"effort": "xhigh"}, "high"),
        ({"thinking_tokens": 0}, False),
        ({"thinking_tokens": 8000}, "medium"),
        ({"thinking_tokens": 8000, "effort": "low"}, "low"),
    ],
)
def test_an_effort_is_a_level_of_thinking(fields: dict[str, Any], think: Any) -> None:
    assert written(**fields)["think"] == think


def test_a_format_is_a_schema_or_any_json() -> None:
    assert written(format=Schema())["format"] == "json"
    assert written(format=Schema({"type": "object"}, "n", "d", strict=True))["format"] == {"type": "object"}


# --- what is lost ----------------------------------------------------------------------------------------------------

SAID: dict[str, Any] = {
    "stream": True,
    "tools": (TIDE,),
    "tool_choice": "required",
    "tool": "tide",
    "parallel_tools": False,
    "format": Schema(),
    "max_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 4,
    "stop": ("a",),
    "seed": 1,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "choices": 2,
    "logprobs": 0,
    "logit_bias": {"1": 2},
    "effort": "low",
    "thinking_tokens": 2048,
    "shows_thoughts": False,
    "verbosity": "low",
    "user": "u",
}


@pytest.mark.parametrize("name", [name for name in Conversation.__struct_fields__ if name not in {"turns", "members", "dropped"}])  # fmt: skip
def test_each_field_is_written_or_refused_or_dropped(name: str) -> None:
    tools: dict[str, Any] = {"tools": (TIDE,)} if name == "parallel_tools" else {}
    bare = Conversation(turns=(HI,), **tools)
    conversation = Conversation(turns=(HI,), members=MEMBERS, **tools, **{name: SAID[name]})
    loss = DIALECT.lacks.get(name)
    if loss is not None and not loss.harmless:
        with pytest.raises(Untranslatable) as caught:
            DIALECT.write_conversation(conversation, "m")
        assert caught.value.param == conversation.member(name)
        return
    result, plain = (DIALECT.write_conversation(one, "m") for one in (conversation, bare))
    assert (result.dropped == (conversation.member(name),)) is (loss is not None)
    assert (result.body == plain.body) is (loss is not None)


@pytest.mark.parametrize("fields", [{"tool_choice": "auto"}, {"parallel_tools": True}, {"shows_thoughts": True}])
def test_what_ollama_does_unasked_is_not_lost(fields: dict[str, Any]) -> None:
    asked, plain = (
        DIALECT.write_conversation(Conversation(turns=(HI,), tools=(TIDE,), **said), "m") for said in (fields, {})
    )
    assert asked == plain


def test_one_call_at_a_time_is_dropped_and_of_no_tools_not_even_told() -> None:
    dropped = [
        DIALECT.write_conversation(Conversation(turns=(HI,), tools=tools, parallel_tools=False), "m").dropped
        for tools in ((TIDE,), ())
    ]
    assert dropped == [("parallel_tools",), ()]


def test_what_was_dropped_before_is_told_as_well() -> None:
    conversation = Conversation(turns=(HI,), user="u", members=MEMBERS, dropped=("metadata",))
    assert DIALECT.write_conversation(conversation, "m").dropped == ("metadata", "safety_identifier")


# --- there and back --------------------------------------------------------------------------------------------------

UNSAYABLE = {
    "tool_choice", "parallel_tools", "choices", "logprobs", "logit_bias", "shows_thoughts", "verbosity", "user", "effort",
    "thinking_tokens", "ThoughtPart.sealed", "ThoughtPart.signature", "CallPart.signature", "ResultPart.failed",
    "DocumentPart", "ResultPart.parts.DocumentPart", "ImagePart.url", "ResultPart.parts.ImagePart.url",
    "Tool.strict", "Schema.name", "Schema.description", "Schema.strict",
}  # fmt: skip


def back(body: bytes) -> Conversation:
    """Read a request as Ollama's reference has it."""
    request = json.loads(body)
    options = request.pop("options", {})
    functions = [tool["function"] for tool in request.pop("tools", ())]
    wanted = request.pop("format", None)
    turns: list[Turn] = []
    for message in request.pop("messages"):
        role: Any = "user" if message["role"] == "tool" else message["role"]
        if turns and turns[-1].role == role:
            turns[-1] = Turn(role, (*turns[-1].parts, *read_message(message)))
        else:
            turns.append(Turn(role, tuple(read_message(message))))
    conversation = Conversation(
        turns=tuple(turns),
        stream=request.pop("stream"),
        tools=tuple(Tool(one["name"], one["description"], one["parameters"]) for one in functions),
        format=wanted and Schema(None if wanted == "json" else wanted),
        max_tokens=options.pop("num_predict", None),
        stop=tuple(options.pop("stop", ())),
        **options,
    )
    assert request.keys() == {"model"}
    return conversation


def read_message(message: dict[str, Any]) -> list[Part]:
    text = [TextPart(message["content"])] if message["content"] else []
    shown: list[TextPart | ImagePart | DocumentPart] = [
        *text,
        *(ImagePart(data=data) for data in message.get("images", ())),
    ]
    if message["role"] == "tool":
        return [ResultPart(message["tool_call_id"], tuple(shown), message["tool_name"])]
    thoughts = [ThoughtPart(message["thinking"])] if "thinking" in message else []
    made = [(call["id"], call["function"]) for call in message.get("tool_calls", ())]
    calls = [CallPart(ident, function["name"], json.dumps(function["arguments"])) for ident, function in made]
    return [*thoughts, *shown, *calls]


def heard(parts: tuple[Part, ...]) -> list[Any]:
    """Give what is left of a turn's parts on its way to Ollama."""
    results = [structs.replace(part, parts=tuple(heard(part.parts))) for part in parts if isinstance(part, ResultPart)]
    thoughts = "\n".join(part.text for part in parts if isinstance(part, ThoughtPart))
    texts = "\n".join(part.text for part in parts if isinstance(part, (TextPart, RefusalPart)))
    calls = [part for part in parts if isinstance(part, CallPart)]
    return [
        *results,
        *([ThoughtPart(thoughts)] if thoughts else []),
        *([TextPart(texts)] if texts else []),
        *(ImagePart(data=part.data) for part in parts if isinstance(part, ImagePart)),
        *(structs.replace(call, arguments=json.dumps(json.loads(call.arguments))) for call in calls),
    ]


def shown(tool: Tool) -> Tool:
    return structs.replace(tool, parameters=tool.parameters or {"type": "object", "properties": {}})


@settings(deadline=None, max_examples=50)
@given(conversations(UNSAYABLE, interleaved=True))
def test_what_ollama_is_asked_is_what_the_client_asked(conversation: Conversation) -> None:
    result = DIALECT.write_conversation(conversation, "m")
    assert set(result.dropped) <= {name for name in DIALECT.lacks if "." in name}
    assert back(result.body) == structs.replace(
        conversation,
        turns=tuple(Turn(turn.role, tuple(heard(turn.parts))) for turn in conversation.turns),
        tools=tuple(shown(tool) for tool in conversation.tools),
    )
