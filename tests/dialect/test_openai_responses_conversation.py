"""Requests to the Responses API as conversations, and conversations as such requests."""

import json
from typing import Any, cast

import pytest
from hypothesis import given, settings
from msgspec import structs

from conversing import conversations, plain
from tidegate.dialect.conversation import (
    CallPart,
    Conversation,
    DocumentPart,
    ImagePart,
    RefusalPart,
    ResultPart,
    Schema,
    TextPart,
    ThoughtPart,
    Tool,
    Turn,
    Untranslatable,
)
from tidegate.dialect.openai_responses import OpenAIResponses
from tidegate.verdict import Refused

DIALECT = OpenAIResponses()
NAME = "openai_responses"
HI = {"role": "user", "content": "Hi"}
TIDE = {"type": "function", "name": "tide", "description": "When", "parameters": {"type": "object"}, "strict": True}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: /a+/"}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Change files", "format": GRAMMAR}
TEXT_TOOL = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
PNG = "data:image/png;base64,aGk="
PDF = "data:application/pdf;base64,aGk="


def asked(given: Any = "Hi", **members: Any) -> Conversation:
    return DIALECT.read_conversation(json.dumps({"model": "m", "input": given, **members}).encode())


def turns(*items: Any, **members: Any) -> tuple[Turn, ...]:
    return asked(list(items), **members).turns


def written(*turns: Turn, model: str = "gpt-4.1", **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(DIALECT.write_conversation(Conversation(turns=turns, **fields), model).body)
    return body


def user(*content: Any) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": list(content)}


def call(ident: str = "c1", name: str = "tide", arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": ident, "name": name, "arguments": arguments, **more}


def result(output: Any, ident: str = "c1") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": ident, "output": output}


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_text_is_the_user_s_turn() -> None:
    assert asked("Hi").turns == (Turn("user", (TextPart("Hi"),)),)


def test_instructions_and_developers_speak_for_the_system() -> None:
    said = turns({"role": "developer", "content": "b"}, HI, {"role": "system", "content": "c"}, HI, instructions="a")
    assert said == (
        Turn("system", (TextPart("a"), TextPart("b"))),
        Turn("user", (TextPart("Hi"),)),
        Turn("system", (TextPart("c"),)),
        Turn("user", (TextPart("Hi"),)),
    )


def test_what_a_user_shows_is_read() -> None:
    content = [
        {"type": "input_text", "text": "see"},
        {"type": "input_text", "text": ""},
        {"type": "input_image", "image_url": PNG, "detail": "low", "file_id": None},
        {"type": "input_image", "image_url": "https://x/y.png", "detail": "original"},
        {"type": "input_file", "filename": "a.pdf", "file_data": PDF},
        {"type": "input_file", "file_url": "https://x/y.pdf"},
    ]
    assert turns(user(*content)) == (
        Turn(
            "user",
            (
                TextPart("see"),
                ImagePart("image/png", "aGk=", detail="low"),
                ImagePart(url="https://x/y.png", detail="high"),
                DocumentPart("application/pdf", "aGk=", name="a.pdf"),
                DocumentPart(url="https://x/y.pdf"),
            ),
        ),
    )


def test_what_was_answered_comes_back_as_it_was_given() -> None:
    message = {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "phase": "final_answer",
        "end_turn": True,
        "content": [
            {"type": "output_text", "text": "a", "annotations": [{"type": "url_citation"}], "logprobs": []},
            {"type": "refusal", "refusal": "b"},
            {"type": "refusal", "refusal": ""},
        ],
    }
    said = turns(HI, message, call(id="fc_1", status="completed"), call("c2", "moon", ""), result("6:14"), HI)
    assert said[1:] == (
        Turn("assistant", (TextPart("a"), RefusalPart("b"), CallPart("c1", "tide"), CallPart("c2", "moon"))),
        Turn("user", (ResultPart("c1", (TextPart("6:14"),), "tide"), TextPart("Hi"))),
    )


@pytest.mark.parametrize("arguments", ['{"port": "Bre', "[]", "tide!"])
def test_arguments_that_are_no_object_go_along_as_they_came(arguments: str) -> None:
    said = turns(HI, call(arguments=arguments), result("no JSON"), HI)
    assert said[1] == Turn("assistant", (CallPart("c1", "tide", arguments),))
    assert said[2].parts[0] == ResultPart("c1", (TextPart("no JSON"),), "tide")
    assert written(*said)["input"][1]["arguments"] == arguments


def test_calls_of_custom_tools_come_back_as_calls_with_one_argument() -> None:
    patch = {"type": "custom_tool_call", "id": "ctc_1", "status": "completed", "call_id": "c1", "name": "apply_patch"}
    shown = {"type": "custom_tool_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "done"}]}
    assert turns(HI, patch | {"input": 'a\n"b"'}, shown, patch, HI)[1:] == (
        Turn("assistant", (CallPart("c1", "apply_patch", '{"input":"a\\n\\"b\\""}'),)),
        Turn("user", (ResultPart("c1", (TextPart("done"),), "apply_patch"),)),
        Turn("assistant", (CallPart("c1", "apply_patch", '{"input":""}'),)),
        Turn("user", (TextPart("Hi"),)),
    )


def test_custom_tools_are_functions_of_one_text_and_told_their_grammar() -> None:
    bare = {"type": "custom", "name": "say"}
    formed = [bare | {"format": {"type": "text"}}, bare | {"format": GRAMMAR}]
    rule = "`input` must follow this lark grammar:\nstart: /a+/"
    assert asked(tools=[PATCH, bare, *formed]).tools == (
        Tool("apply_patch", f"Change files\n\n{rule}", TEXT_TOOL),
        Tool("say", "", TEXT_TOOL),
        Tool("say", "", TEXT_TOOL),
        Tool("say", rule, TEXT_TOOL),
    )


def test_custom_tools_are_chosen_like_others() -> None:
    said = asked(tools=[PATCH], tool_choice={"type": "custom", "name": "apply_patch"})
    assert (said.tool_choice, said.tool) == ("tool", "apply_patch")
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "apply_patch"}]}
    assert [tool.name for tool in asked(tools=[TIDE, PATCH], tool_choice=allowed).tools] == ["apply_patch"]


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview", "web_search_2025_08_26"])
def test_a_search_that_stays_at_home_is_left_out_and_listed(kind: str) -> None:
    said = asked(tools=[{"type": kind, "external_web_access": False, "search_context_size": "low"}, TIDE])
    assert ([tool.name for tool in said.tools], said.dropped) == (["tide"], ("tools.web_search",))


def test_a_refusal_does_not_repeat_a_long_name() -> None:
    with pytest.raises(Untranslatable) as refused:
        asked(**{"x" * 100_000: 1})
    assert refused.value.param.startswith("xxx")
    assert len(refused.value.param) + len(refused.value.message) < 1000


def test_results_hold_texts_and_images() -> None:
    content = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": PNG}]
    assert turns(call(), result(content), result("", "c9"))[1] == Turn(
        "user", (ResultPart("c1", (TextPart("a"), ImagePart("image/png", "aGk=")), "tide"), ResultPart("c9"))
    )


def test_thoughts_are_read_with_what_openai_sealed() -> None:
    thought = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": ""}],
        "content": [{"type": "reasoning_text", "text": "b"}],
        "encrypted_content": "gAAA",
    }
    assert turns(thought, HI)[0].parts == (
        ThoughtPart("a"),
        ThoughtPart("b"),
        ThoughtPart(sealed="gAAA", id="rs_1", origin=NAME),
    )
    assert turns({"type": "reasoning", "id": "rs_1", "summary": [{"text": "a"}]}, HI)[0].parts == (ThoughtPart("a"),)


def test_what_others_sealed_is_opened_again() -> None:
    def sealed(data: str) -> dict[str, Any]:
        return {"type": "reasoning", "id": "rs_x", "summary": [{"text": "a"}], "encrypted_content": "tidegate:" + data}

    assert turns(sealed('anthropic:{"signature":"s"}'), HI)[0].parts == (
        ThoughtPart("a", signature="s", origin="anthropic"),
    )
    assert turns(sealed('anthropic:{"sealed":"s"}'), HI)[0].parts == (
        ThoughtPart("a"),
        ThoughtPart(sealed="s", origin="anthropic"),
    )
    assert turns(sealed('openai_chat:{"sealed":"s","id":"r"}'), HI)[0].parts[1] == (
        ThoughtPart(sealed="s", id="r", origin="openai_chat")
    )
    assert turns(sealed("anthropic:{changed"), HI)[0].parts == (ThoughtPart("a"),)


def test_a_call_gets_its_signature_back() -> None:
    sealed = {
        "type": "reasoning",
        "summary": [],
        "encrypted_content": 'tidegate:gemini:{"call":"c1","signature":"s"}',
    }
    assert turns(sealed, call(), call("c2"), HI)[0].parts == (
        CallPart("c1", "tide", "{}", "s", "gemini"),
        CallPart("c2", "tide"),
    )


def test_settings_are_read() -> None:
    said = asked(
        stream=True,
        tools=[TIDE, {"type": "function", "name": "moon"}],
        tool_choice={"type": "function", "name": "tide"},
        parallel_tool_calls=False,
        max_output_tokens=64,
        temperature=1,
        top_p=0.5,
        top_logprobs=3,
        reasoning={"effort": "max", "summary": "detailed"},
        text={"format": {"type": "json_schema", "name": "a", "schema": {}, "strict": True}, "verbosity": "low"},
        user="u",
        background=False,
        metadata=None,
    )
    assert structs.replace(said, turns=(), members={}) == Conversation(
        turns=(),
        stream=True,
        tools=(Tool("tide", "When", {"type": "object"}, strict=True), Tool("moon")),
        tool_choice="tool",
        tool="tide",
        parallel_tools=False,
        format=Schema({}, "a", strict=True),
        max_tokens=64,
        temperature=1.0,
        top_p=0.5,
        logprobs=3,
        effort="xhigh",
        shows_thoughts=True,
        verbosity="low",
        user="u",
    )
    assert said.member("max_tokens") == "max_output_tokens"
    assert said.member("seed") == "seed"


@pytest.mark.parametrize(
    ("members", "field", "value"),
    [
        ({"tool_choice": "required"}, "tool_choice", "required"),
        ({"text": {"format": {"type": "text"}}}, "format", None),
        ({"text": {"format": {"type": "json_object"}}}, "format", Schema()),
        ({"reasoning": {"generate_summary": "auto"}}, "shows_thoughts", True),
        ({"reasoning": {"effort": "none"}}, "effort", "none"),
        ({"safety_identifier": "s"}, "user", "s"),
        ({"include": ["message.output_text.logprobs"]}, "logprobs", 0),
        ({"include": ["reasoning.encrypted_content"]}, "logprobs", None),
    ],
)
def test_each_setting_has_its_field(members: dict[str, Any], field: str, value: object) -> None:
    said = asked(**members)
    assert getattr(said, field) == value
    assert not said.dropped


def test_of_tools_those_alone_are_given_that_are_allowed() -> None:
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "moon"}]}
    said = asked(tools=[TIDE, {"type": "function", "name": "moon"}], tool_choice=allowed)
    assert (said.tools, said.tool_choice) == ((Tool("moon"),), "required")


@pytest.mark.parametrize(
    ("members", "dropped"),
    [
        ({"store": True}, ("store",)),
        ({"store": False}, ()),
        ({"metadata": {"a": "b"}, "prompt_cache_key": "k"}, ("metadata", "prompt_cache_key")),
        ({"include": ["web_search_call.results"]}, ("include",)),
        ({"user": "u", "safety_identifier": "s"}, ("safety_identifier",)),
        ({"reasoning": {"context": "auto"}}, ("reasoning.context",)),
        ({"stream_options": {"include_obfuscation": True}, "service_tier": "flex", "truncation": "auto"},
         ("stream_options", "service_tier", "truncation")),
    ],
)  # fmt: skip
def test_what_nobody_needs_to_hear_is_listed(members: dict[str, Any], dropped: tuple[str, ...]) -> None:
    assert asked(**members).dropped == dropped


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"tools": [TIDE, {"type": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "web_search_preview", "external_web_access": True}]}, "tools[0].type"),
        ({"tools": [{"type": "local_shell"}]}, "tools[0].type"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": []}]}, "tools[0].type"),
        ({"tools": [PATCH | {"format": {"type": "song"}}]}, "tools[0].format.type"),
        ({"tools": [PATCH | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"input": [{"type": "local_shell_call", "call_id": "c"}]}, "input[0].type"),
        ({"tools": [TIDE | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{"type": "message", "name": "x"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"tone": "warm"}}, "text.tone"),
        ({"reasoning": {"effort": "heroic"}}, "reasoning.effort"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [user({"type": "input_audio"})]}, "input[0].content[0].type"),
        ({"input": [user({"type": "refusal", "refusal": "x"})]}, "input[0].content[0].type"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_image", "image_url": PNG}]}]},
         "input[0].content[0].type"),
        ({"input": [user({"type": "input_image", "file_id": "f"})]}, "input[0].content[0].file_id"),
        ({"input": [user({"type": "input_file", "file_id": "f"})]}, "input[0].content[0].file_id"),
        ({"input": [HI | {"tone": "warm"}]}, "input[0].tone"),
        ({"input": [call(namespace="n")]}, "input[0].namespace"),
        ({"input": [{"type": "input_text", "text": "x"}]}, "input[0].type"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_elsewhere_is_named(members: dict[str, Any], param: str) -> None:
    with pytest.raises(Untranslatable) as refused:
        asked(**{"given": members.pop("input", "Hi"), **members})
    assert refused.value.param == param
    assert param in refused.value.message


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": [user()]}, "input"),
        ({"input": 7}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "message", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 7}]}, "input[0].content"),
        ({"input": [user({"text": "x"})]}, "input[0].content[0].type"),
        ({"input": [user({"type": "input_text", "text": 7})]}, "input[0].content[0].text"),
        ({"input": [user({"type": "input_image"})]}, "input[0].content[0].image_url"),
        ({"input": [user({"type": "input_image", "image_url": "data:,x"})]}, "input[0].content[0].image_url"),
        ({"input": [user({"type": "input_file", "file_data": "aGk="})]}, "input[0].content[0].file_data"),
        ({"input": [call("")]}, "input[0].call_id"),
        ({"input": [call(arguments=cast("str", {}))]}, "input[0].arguments"),
        ({"input": [HI, {"type": "custom_tool_call", "call_id": "c"}]}, "input[1].name"),
        ({"input": [HI, {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": {}}]}, "input[1].input"),
        ({"tools": [{"type": "custom"}]}, "tools[0].name"),
        ({"tools": [PATCH | {"format": {"type": "grammar", "syntax": "lark"}}]}, "tools[0].format.definition"),
        ({"tools": [{"type": "web_search", "external_web_access": "no"}]}, "tools[0].external_web_access"),
        ({"input": [result("x", "")]}, "input[0].call_id"),
        ({"instructions": ["x"]}, "instructions"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_output_tokens": 1.5}, "max_output_tokens"),
        ({"stream": 1}, "stream"),
        ({"include": [7]}, "include"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": 7}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "none"}}, "tool_choice.mode"),
        ({"text": "json"}, "text"),
    ],
)
def test_what_is_wrong_is_named(members: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as refused:
        asked(**{"given": members.pop("input", "Hi"), **members})
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize("body", [b"{", b"[]"])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        DIALECT.read_conversation(body)


# --- writing ---------------------------------------------------------------------------------------------------------

USER = Turn("user", (TextPart("Hi"),))


def test_a_request_keeps_nothing_and_says_no_more_than_was_asked() -> None:
    assert written(USER) == {
        "model": "gpt-4.1",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "store": False,
    }


@pytest.mark.parametrize(
    ("model", "fields", "asks"),
    [
        ("o3", {}, True),
        ("openai/gpt-5.1-mini", {}, True),
        ("gpt-5-chat-latest", {}, False),
        ("gpt-4o", {}, False),
        ("gpt-4o", {"shows_thoughts": True}, True),
        ("local", {"thinking_tokens": 2000}, True),
    ],
)
def test_models_that_think_give_back_what_the_next_turn_needs(model: str, fields: dict[str, Any], asks: bool) -> None:
    body = written(USER, model=model, **fields)
    assert body.get("include") == (["reasoning.encrypted_content"] if asks else None)


def test_tools_and_formats_are_written() -> None:
    body = written(
        USER,
        tools=(Tool("tide", "When", {"type": "object"}), Tool("moon", strict=True)),
        tool_choice="tool",
        tool="moon",
        format=Schema({"type": "object"}, strict=False),
        verbosity="low",
        effort="low",
        shows_thoughts=True,
        stream=True,
    )
    assert body["tools"] == [
        {"type": "function", "name": "tide", "description": "When", "parameters": {"type": "object"}, "strict": False},
        {"type": "function", "name": "moon", "parameters": None, "strict": True},
    ]
    assert body["tool_choice"] == {"type": "function", "name": "moon"}
    assert body["text"] == {
        "format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}, "strict": False},
        "verbosity": "low",
    }
    assert body["reasoning"] == {"effort": "low", "summary": "auto"}
    assert body["stream"] is True


def test_a_choice_without_tools_is_not_written() -> None:
    assert "tool_choice" not in written(USER, tool_choice="none")


def test_thoughts_go_back_to_openai_alone() -> None:
    assistant = Turn(
        "assistant",
        (
            ThoughtPart("lost"),
            ThoughtPart("x", signature="s", origin="anthropic"),
            ThoughtPart("a"),
            ThoughtPart(sealed="gAAA", id="rs_1", origin=NAME),
            ThoughtPart(sealed="gBBB", origin=NAME),
            ThoughtPart(sealed="other", origin="anthropic"),
            TextPart("b"),
            RefusalPart("c"),
            CallPart("c1", "tide", "{}", "s", "gemini"),
        ),
    )
    assert written(assistant, USER)["input"][:-1] == [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "a"}],
            "encrypted_content": "gAAA",
        },
        {"type": "reasoning", "summary": [], "encrypted_content": "gBBB"},
        {
            "type": "message",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "b", "annotations": []},
                {"type": "refusal", "refusal": "c"},
            ],
        },
        {"type": "function_call", "call_id": "c1", "name": "tide", "arguments": "{}"},
    ]


def test_one_text_of_an_assistant_or_a_tool_stands_alone() -> None:
    said = written(
        Turn("assistant", (TextPart("a"), CallPart("c1", "f"))), Turn("user", (ResultPart("c1", (TextPart("b"),)),))
    )
    assert said["input"][0] == {"type": "message", "role": "assistant", "content": "a"}
    assert said["input"][2] == {"type": "function_call_output", "call_id": "c1", "output": "b"}


def test_an_id_too_long_for_openai_gets_another_that_a_call_and_its_result_share() -> None:
    long, short = "x" * 65, "x" * 64
    made = Turn("assistant", (CallPart(long, "f"), CallPart(short, "f")))
    said = written(made, Turn("user", (ResultPart(long), ResultPart(short))))["input"]
    idents = [item["call_id"] for item in said]
    assert idents[:2] == idents[2:]
    assert len(idents[0]) <= 64
    assert idents[1] == short


def test_a_file_has_a_name() -> None:
    documents = (
        DocumentPart("application/pdf", "aGk="),
        DocumentPart("text/csv", "aGk="),
        DocumentPart("text/csv", "aGk=", name="a.csv"),
        DocumentPart(url="https://x/y.pdf", name="y"),
    )
    content = written(Turn("user", documents))["input"][0]["content"]
    assert [part.get("filename") for part in content] == ["document.pdf", "document", "a.csv", None]


@pytest.mark.parametrize(
    "fields", [{"stop": ("x",)}, {"top_k": 3}, {"choices": 2}, {"logit_bias": {"1": 1}}, {"frequency_penalty": 0.5}]
)
def test_what_the_api_has_no_word_for_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Untranslatable):
        written(USER, **fields)


def test_a_bound_that_openai_refuses_is_refused_by_its_name() -> None:
    with pytest.raises(Untranslatable) as refused:
        written(USER, max_tokens=15, members={"max_tokens": "max_completion_tokens"})
    assert refused.value.param == "max_completion_tokens"
    assert "at least 16" in refused.value.message
    assert written(USER, max_tokens=16)["max_output_tokens"] == 16


def test_a_seed_is_dropped_and_listed() -> None:
    made = DIALECT.write_conversation(Conversation(turns=(USER,), seed=7, members={"seed": "sd"}, dropped=("n",)), "m")
    assert made.dropped == ("n", "sd")


LACKS = (
    *DIALECT.lacks,
    "thinking_tokens",
    "ThoughtPart.text",
    "ThoughtPart.signature",
    "CallPart.signature",
    "ResultPart.failed",
)


def told(conversation: Conversation) -> Conversation:
    """Give a conversation as it comes back: with what the API's defaults are, and names that it asks for."""

    def told_part(part: Any) -> Any:
        match part:
            case ImagePart(detail=""):
                return structs.replace(part, detail="auto")
            case DocumentPart():
                return structs.replace(part, name="")
            case ResultPart(parts=parts):
                return structs.replace(part, parts=tuple(map(told_part, parts)))
        return part

    plainly = plain(conversation)
    return structs.replace(
        plainly,
        turns=tuple(Turn(turn.role, tuple(map(told_part, turn.parts))) for turn in plainly.turns),
        tools=tuple(structs.replace(tool, strict=tool.strict is True) for tool in plainly.tools),
        shows_thoughts=plainly.shows_thoughts or None,
    )


@settings(max_examples=80, deadline=None)
@given(conversations(LACKS, origin=NAME, interleaved=True))
def test_conversations_come_back_as_they_went(conversation: Conversation) -> None:
    body = DIALECT.write_conversation(conversation, "m").body
    assert DIALECT.read_request(body).stream == conversation.stream
    assert told(DIALECT.read_conversation(body)) == told(conversation)
