import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from bedrock_streams import mistakes_in
from hypothesis import given, settings
from msgspec import structs

from conversing import conversations, plain
from tidegate.dialect import ProviderDialect
from tidegate.dialect.bedrock import BedrockConverse
from tidegate.dialect.conversation import (
    OWN,
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
    Written,
    leading,
    merged,
)

DIALECT: ProviderDialect = BedrockConverse()
NEW = "us.anthropic.claude-opus-4-6-v1"
OLD = "anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "amazon.nova-pro-v1:0"
ASKED = (Turn("user", (TextPart("When is high tide?"),)),)
CALL = CallPart("t1", "tide", '{"at": "Brest"}')
CALLED = (*ASKED, Turn("assistant", (CALL,)), Turn("user", (ResultPart("t1", (TextPart("6:12"),), "tide"),)))
TIDE = Tool("tide", "Gives the tide.", {"type": "object", "properties": {"at": {"type": "string"}}}, strict=True)
MEMBERS = {"turns": "messages", "tool_choice": "choice", "parallel_tools": "parallel", "format": "response_format"}


def conversation(turns: tuple[Turn, ...] = ASKED, **fields: Any) -> Conversation:
    return Conversation(turns=turns, members=MEMBERS, **fields)


def body_of(given: Conversation, model: str = NEW) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(DIALECT.write_conversation(given, model).body)
    assert mistakes_in(json.dumps(body).encode()) == ""
    return body


def content(*parts: Part, role: Any = "user") -> list[dict[str, Any]]:
    """Give the blocks that parts become."""
    (message,) = body_of(conversation((Turn(role, parts),)))["messages"]
    assert message["role"] == role
    blocks: list[dict[str, Any]] = message["content"]
    return blocks


def tried(given: Conversation, model: str) -> Written | Untranslatable:
    try:
        return DIALECT.write_conversation(given, model)
    except Untranslatable as error:
        return error


def refused(given: Conversation, model: str = NEW) -> tuple[str, str]:
    error = tried(given, model)
    assert isinstance(error, Untranslatable)
    return error.param, error.message


# --- turns -----------------------------------------------------------------------------------------------------------


def test_system_text_stands_apart_wherever_it_was() -> None:
    turns = (Turn("system", (TextPart("Be brief."),)), *ASKED, Turn("system", (TextPart("Be kind."),)))
    body = body_of(conversation(turns))
    assert body["system"] == [{"text": "Be brief.\n\nBe kind."}]
    assert body["messages"] == [{"role": "user", "content": [{"text": "When is high tide?"}]}]


def test_a_bare_question_is_all_there_is() -> None:
    assert list(body_of(conversation())) == ["messages"]


def test_blank_text_which_bedrock_refuses_is_left_out() -> None:
    turns = (Turn("system", (TextPart(" "),)), Turn("user", (TextPart("\n"), TextPart("Hi"), TextPart(""))))
    body = body_of(conversation((*turns, Turn("assistant", (TextPart(" "),)), *ASKED)))
    assert body == {"messages": [{"role": "user", "content": [{"text": "Hi"}, {"text": "When is high tide?"}]}]}


def test_a_refusal_is_text() -> None:
    assert content(RefusalPart("I won't."), role="assistant") == [{"text": "I won't."}]


def test_thoughts_go_back_to_bedrock_alone_and_only_signed() -> None:
    thoughts: tuple[Part, ...] = (
        ThoughtPart("Hm.", signature="sig", origin="bedrock"),
        ThoughtPart(sealed="AAEC", origin="bedrock"),
        ThoughtPart(signature="alone", origin="bedrock"),
        *(ThoughtPart("Hm.", signature="x", origin=origin) for origin in ("anthropic", "gemini", OWN)),
        *(ThoughtPart(sealed="AAEC", origin="anthropic"), ThoughtPart("unsigned", origin="bedrock"), TextPart("Yes.")),
    )
    assert content(*thoughts, role="assistant") == [
        {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": "AAEC"}},
        {"reasoningContent": {"reasoningText": {"text": "", "signature": "alone"}}},
        {"text": "Yes."},
    ]


def test_a_turn_with_nothing_left_in_it_is_left_out() -> None:
    foreign = Turn("assistant", (ThoughtPart("Hm.", signature="x", origin="anthropic"),))
    (message,) = body_of(conversation((*ASKED, foreign, Turn("user", (TextPart("Well?"),)))))["messages"]
    assert message["content"] == [{"text": "When is high tide?"}, {"text": "Well?"}]


def test_a_call_and_its_result_are_written() -> None:
    parts = (TextPart("6:12"), TextPart(" "), ImagePart("image/png", "AAEC"))
    shown = ResultPart("t1", parts, "tide", failed=True)
    turns = (*CALLED[:2], Turn("user", (shown, TextPart("And now?"))))
    messages = body_of(conversation(turns, tools=(TIDE,)))["messages"]
    assert messages[1:] == [
        {
            "role": "assistant",
            "content": [{"toolUse": {"toolUseId": "t1", "name": "tide", "input": {"at": "Brest"}}}],
        },
        {
            "role": "user",
            "content": [
                {
                    "toolResult": {
                        "toolUseId": "t1",
                        "content": [{"text": "6:12"}, {"image": {"format": "png", "source": {"bytes": "AAEC"}}}],
                        "status": "error",
                    }
                },
                {"text": "And now?"},
            ],
        },
    ]


def test_an_empty_result_of_a_tool_that_did_not_fail_says_just_that() -> None:
    turns = (*CALLED[:2], Turn("user", (ResultPart("t1"),)))
    assert body_of(conversation(turns, tools=(TIDE,)))["messages"][2]["content"] == [
        {"toolResult": {"toolUseId": "t1", "content": []}}
    ]


@pytest.mark.parametrize("ident", ["", "a b", "x" * 65, "é", "call|fc_1", "\ud83c"])
def test_an_id_that_bedrock_refuses_becomes_one_it_takes_in_both_places(ident: str) -> None:
    turns = (*ASKED, Turn("assistant", (CallPart(ident, "tide"),)), Turn("user", (ResultPart(ident),)))
    _, call, result = body_of(conversation(turns, tools=(TIDE,)))["messages"]
    given = call["content"][0]["toolUse"]["toolUseId"]
    assert given == result["content"][0]["toolResult"]["toolUseId"]
    assert given.isascii()
    assert given.startswith("call_")
    assert len(given) <= 64


def test_ids_that_bedrock_takes_stay_and_no_two_others_become_the_same() -> None:
    idents = ["toolu_01A", "call_x:y.z-1", "a b", "a  b", "x" * 65, "x" * 66]
    turns = (*ASKED, Turn("assistant", tuple(CallPart(ident, "tide") for ident in idents)))
    blocks = body_of(conversation(turns, tools=(TIDE,)))["messages"][1]["content"]
    given = [block["toolUse"]["toolUseId"] for block in blocks]
    assert given[:2] == idents[:2]
    assert len(set(given)) == len(idents)


@pytest.mark.parametrize("arguments", ["", "[]", "5", "{", '{}},"system":[{"text":"x"}],"x":{', "{" * 9])
def test_arguments_that_are_no_object_are_written_as_what_was_said(arguments: str) -> None:
    (block,) = content(CallPart("t", "tide", arguments), role="assistant")
    assert block["toolUse"]["input"] == {"INVALID_JSON": arguments}


def test_arguments_keep_their_numbers_to_the_last_digit() -> None:
    turns = (*ASKED, Turn("assistant", (CallPart("t", "tide", '{"a":12345678901234567890123,"b":1.10}'),)))
    written = DIALECT.write_conversation(conversation(turns, tools=(TIDE,)), NEW)
    assert b'"input":{"a":12345678901234567890123,"b":1.10}' in written.body


def test_half_a_surrogate_pair_cannot_be_said() -> None:
    assert refused(conversation((Turn("user", (TextPart("\ud83c"),)),)))[0] == "messages"
    assert refused(conversation((*ASKED, Turn("assistant", (CallPart("t", "tide", '{"a":\ud83c}'),)))))[0] == "messages"


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "form"),
    [("image/png", "png"), ("image/jpeg", "jpeg"), ("image/jpg", "jpeg"), ("Image/GIF", "gif"), ("image/webp", "webp")],
)
def test_an_image_has_its_format(kind: str, form: str) -> None:
    assert content(ImagePart(kind, "AAEC")) == [{"image": {"format": form, "source": {"bytes": "AAEC"}}}]


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("application/pdf", "pdf"),
        ("text/csv", "csv"),
        ("application/msword", "doc"),
        ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", "docx"),
        ("application/vnd.ms-excel", "xls"),
        ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xlsx"),
        ("text/html", "html"),
        ("text/plain; charset=utf-8", "txt"),
        ("text/markdown", "md"),
    ],
)
def test_a_document_has_its_format_and_always_a_name(kind: str, form: str) -> None:
    expected = {"format": form, "source": {"bytes": "AAEC"}, "name": "document"}
    assert content(DocumentPart(kind, "AAEC")) == [{"document": expected}]


@pytest.mark.parametrize(
    "part",
    [
        *(ImagePart("image/bmp", "AAEC"), ImagePart(data="AAEC"), ImagePart(url="https://example.com/a.png")),
        *(DocumentPart("video/mp4", "AAEC"), DocumentPart(url="https://example.com/a.pdf")),
        ResultPart("t", (ImagePart(url="https://example.com/a.png"),)),
    ],
)
def test_a_file_by_url_or_of_another_type_cannot_be_said(part: Part) -> None:
    param, message = refused(conversation((Turn("user", (part,)),)))
    assert param == "messages"
    assert message.startswith("`messages` has ")


def names(*given: str) -> list[str]:
    blocks = content(*(DocumentPart("application/pdf", "AAEC", name=name) for name in given))
    return [block["document"]["name"] for block in blocks]


def test_a_document_s_name_keeps_the_characters_that_it_may_have() -> None:
    assert names("tide table (2026) [v1]-b.pdf") == ["tide table (2026) [v1]-b"]
    assert names("a.b__c\t\n d.tar.gz", "  x  ", "Ebbe–Flut.pdf") == ["a b c d tar", "x", "Ebbe Flut"]
    assert names("", ".pdf", "潮.pdf") == ["document", "document 2", "document 3"]


def test_no_two_documents_have_the_same_name_in_any_letters_and_none_is_too_long() -> None:
    assert names("a.pdf", "A.txt", "a 2", "a") == ["a", "A 2", "a 2 2", "a 3"]
    assert names("x" * 300, "x" * 300) == ["x" * 200, "x" * 198 + " 2"]


# --- tools -----------------------------------------------------------------------------------------------------------


def tools_of(model: str = NOVA, turns: tuple[Turn, ...] = ASKED, **fields: Any) -> tuple[Any, Any, Any]:
    """Give the names of the tools, the choice of Converse's, and what Anthropic's models are told beside it."""
    body = body_of(conversation(turns, **fields), model)
    config = body.get("toolConfig", {})
    stated = [tool["toolSpec"]["name"] for tool in config.get("tools", ())]
    return stated, config.get("toolChoice"), body.get("additionalModelRequestFields")


def test_a_tool_is_written() -> None:
    bare = Tool("moon")
    tools = body_of(conversation(tools=(TIDE, bare, Tool("sun", strict=False))))["toolConfig"]["tools"]
    none = {"json": {"type": "object", "properties": {}}}
    assert tools == [
        {"toolSpec": {"name": "tide", "description": "Gives the tide.", "inputSchema": {"json": TIDE.parameters}, "strict": True}},
        {"toolSpec": {"name": "moon", "inputSchema": none}},
        {"toolSpec": {"name": "sun", "inputSchema": none}},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("", None), ("auto", {"auto": {}}), ("required", {"any": {}}), ("tool", {"tool": {"name": "tide"}})],
)
@pytest.mark.parametrize("parallel", [None, True])
def test_a_choice_of_tools_is_said_in_converse_s_words(choice: Any, expected: Any, parallel: bool | None) -> None:
    said = tools_of(tools=(TIDE,), tool_choice=choice, tool="tide" if choice == "tool" else "", parallel_tools=parallel)
    assert said == (["tide"], expected, None)


def test_where_no_tool_may_be_called_none_is_stated() -> None:
    assert tools_of(tools=(TIDE,), tool_choice="none", parallel_tools=False) == ([], None, None)
    assert tools_of(parallel_tools=False) == ([], None, None)


def test_after_a_call_the_tools_are_stated_and_anthropic_s_models_told_to_call_none() -> None:
    told = {"tool_choice": {"type": "none"}}
    assert tools_of(NEW, CALLED, tools=(TIDE, Tool("moon")), tool_choice="none") == (["tide", "moon"], None, told)
    assert tools_of(NEW, CALLED) == (["tide"], None, told)
    assert tools_of(NEW, CALLED, parallel_tools=False) == (["tide"], None, told)


def test_after_a_call_other_models_cannot_be_told_to_call_none() -> None:
    assert refused(conversation(CALLED, tools=(TIDE,), tool_choice="none"), NOVA)[0] == "choice"
    assert refused(conversation(CALLED), NOVA)[0] == "tools"
    assert refused(conversation(CALLED, parallel_tools=False), NOVA)[0] == "tools"
    assert tools_of(NOVA, CALLED, tools=(TIDE,)) == (["tide"], None, None)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("", {"type": "auto"}),
        ("auto", {"type": "auto"}),
        ("required", {"type": "any"}),
        ("tool", {"type": "tool", "name": "tide"}),
    ],
)
def test_one_call_at_a_time_is_said_to_anthropic_s_models_with_the_choice(choice: Any, expected: Any) -> None:
    tool = "tide" if choice == "tool" else ""
    given = {"tools": (TIDE,), "tool_choice": choice, "tool": tool, "parallel_tools": False}
    told = {"tool_choice": expected | {"disable_parallel_tool_use": True}}
    assert tools_of(NEW, **given) == (["tide"], None, told)


@pytest.mark.parametrize("choice", ["", "auto", "required"])
def test_other_models_cannot_be_told_to_call_one_at_a_time_and_the_client_learns_it(choice: Any) -> None:
    given = conversation(tools=(TIDE,), tool_choice=choice, parallel_tools=False)
    without = structs.replace(given, parallel_tools=None)
    assert body_of(given, NOVA) == body_of(without, NOVA)
    assert DIALECT.write_conversation(given, NOVA).dropped == ("parallel",)
    assert DIALECT.write_conversation(given, NEW).dropped == ()


@pytest.mark.parametrize("fields", [{}, {"tools": (TIDE,), "tool_choice": "none"}])
def test_where_no_tool_may_be_called_nothing_is_dropped(fields: dict[str, Any]) -> None:
    assert DIALECT.write_conversation(conversation(parallel_tools=False, **fields), NOVA).dropped == ()


# --- settings --------------------------------------------------------------------------------------------------------


def test_inference_is_configured() -> None:
    body = body_of(conversation(max_tokens=5, temperature=0.0, top_p=0.5, stop=("a", "b")))
    assert body["inferenceConfig"] == {"maxTokens": 5, "temperature": 0.0, "topP": 0.5, "stopSequences": ["a", "b"]}


def test_a_schema_for_the_answer_is_written_as_text() -> None:
    schema = Schema({"type": "object", "additionalProperties": False}, "tide", "A tide.", strict=True)
    wanted = body_of(conversation(format=schema))["outputConfig"]["textFormat"]
    inner = {"schema": '{"type":"object","additionalProperties":false}', "name": "tide", "description": "A tide."}
    assert wanted == {"type": "json_schema", "structure": {"jsonSchema": inner}}
    bare = body_of(conversation(format=Schema({"type": "object"})))["outputConfig"]["textFormat"]
    assert bare["structure"] == {"jsonSchema": {"schema": '{"type":"object"}'}}


def test_any_object_at_all_is_no_format_that_converse_knows() -> None:
    assert refused(conversation(format=Schema())) == (
        "response_format",
        "`response_format` cannot be said to this model through Bedrock's Converse",
    )


def thoughts(model: str, **fields: Any) -> tuple[Any, Any, tuple[str, ...]]:
    """Give what a model is told of its thoughts, the effort, and what was dropped."""
    given = conversation(**fields)
    body = body_of(given, model)
    own = body.get("additionalModelRequestFields", {})
    effort = body.get("outputConfig", {}).get("effort")
    return own.get("thinking"), effort, DIALECT.write_conversation(given, model).dropped


OFF = {"type": "disabled"}
ADAPTIVE = {"type": "adaptive"}


def budget(tokens: int) -> dict[str, Any]:
    return {"type": "enabled", "budget_tokens": tokens}


@pytest.mark.parametrize(
    ("model", "fields", "thinking", "effort", "dropped"),
    [
        (NEW, {}, None, None, ()),
        (NEW, {"effort": "none"}, OFF, None, ()),
        (NEW, {"thinking_tokens": 0, "effort": "high"}, OFF, None, ()),
        (NEW, {"effort": "minimal"}, ADAPTIVE, "low", ()),
        (NEW, {"effort": "xhigh"}, ADAPTIVE, "xhigh", ()),
        (NEW, {"thinking_tokens": 8000}, ADAPTIVE, "medium", ()),
        (NEW, {"effort": "high", "shows_thoughts": True}, ADAPTIVE | {"display": "summarized"}, "high", ()),
        (NEW, {"effort": "high", "shows_thoughts": False}, ADAPTIVE | {"display": "omitted"}, "high", ()),
        (NEW, {"shows_thoughts": True}, ADAPTIVE | {"display": "summarized"}, None, ()),
        (NEW, {"shows_thoughts": False}, None, None, ("shows_thoughts",)),
        (NEW, {"effort": "none", "shows_thoughts": True}, OFF, None, ("shows_thoughts",)),
        (OLD, {}, None, None, ()),
        (OLD, {"effort": "none"}, OFF, None, ()),
        (OLD, {"effort": "medium"}, budget(8192), None, ()),
        (OLD, {"effort": "medium", "max_tokens": 5000}, budget(2500), None, ()),
        (OLD, {"effort": "low", "max_tokens": 10}, budget(1024), None, ()),
        (OLD, {"thinking_tokens": 9000, "effort": "low", "max_tokens": 5000}, budget(9000), None, ()),
        (OLD, {"effort": "low", "shows_thoughts": True}, budget(1024), None, ()),
        (OLD, {"effort": "low", "shows_thoughts": False}, budget(1024), None, ("shows_thoughts",)),
        (OLD, {"shows_thoughts": True}, None, None, ("shows_thoughts",)),
        (NOVA, {}, None, None, ()),
        (NOVA, {"effort": "low"}, None, "low", ()),
        (NOVA, {"thinking_tokens": 20_000}, None, "high", ()),
        (NOVA, {"effort": "none"}, None, None, ("effort",)),
        (NOVA, {"thinking_tokens": 0}, None, None, ("thinking_tokens",)),
        (NOVA, {"effort": "high", "shows_thoughts": True}, None, "high", ("shows_thoughts",)),
    ],
)
def test_thinking_is_said_as_each_model_knows_it(
    model: str, fields: dict[str, Any], thinking: Any, effort: Any, dropped: tuple[str, ...]
) -> None:
    assert thoughts(model, **fields) == (thinking, effort, dropped)


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("anthropic.claude-3-7-sonnet-20250219-v1:0", "enabled"),
        ("anthropic.claude-sonnet-4-20250514-v1:0", "enabled"),
        ("eu.anthropic.claude-opus-4-1-20250805-v1:0", "enabled"),
        ("global.anthropic.claude-haiku-4-5-20251001-v1:0", "enabled"),
        ("anthropic.claude-sonnet-4-6", "adaptive"),
        ("us.anthropic.claude-opus-4-10-v1:0", "adaptive"),
        ("anthropic.claude-sonnet-5-20260801-v1:0", "adaptive"),
        (
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-4-5-20251101-v1:0",
            "enabled",
        ),
        ("anthropic.claude-next", "adaptive"),
    ],
)
def test_the_version_in_a_model_s_id_says_how_it_thinks(model: str, kind: str) -> None:
    assert thoughts(model, effort="high")[0]["type"] == kind


# --- every field -----------------------------------------------------------------------------------------------------

FIELDS: dict[str, tuple[Any, str, str]] = {
    "turns": (CALLED[:1], "written", "written"),
    "stream": (True, "in the path", "in the path"),
    "tools": ((TIDE,), "written", "written"),
    "tool_choice": ("required", "written", "written"),
    "tool": ("tide", "written", "written"),
    "parallel_tools": (False, "written", "dropped"),
    "format": (Schema({"type": "object"}), "written", "written"),
    "max_tokens": (7, "written", "written"),
    "temperature": (0.5, "written", "written"),
    "top_p": (0.5, "written", "written"),
    "top_k": (40, "written", "refused"),
    "stop": (("x",), "written", "written"),
    "seed": (7, "dropped", "dropped"),
    "frequency_penalty": (0.5, "refused", "refused"),
    "presence_penalty": (0.5, "refused", "refused"),
    "choices": (2, "refused", "refused"),
    "logprobs": (0, "refused", "refused"),
    "logit_bias": ({"1": 2}, "refused", "refused"),
    "effort": ("low", "written", "written"),
    "thinking_tokens": (2000, "written", "written"),
    "shows_thoughts": (True, "written", "dropped"),
    "verbosity": ("low", "dropped", "dropped"),
    "user": ("alice", "dropped", "dropped"),
}
ALWAYS: dict[str, dict[str, Any]] = {"tool_choice": {"tools": (TIDE,)}, "tool": {"tools": (TIDE,), "tool_choice": "tool"}, "parallel_tools": {"tools": (TIDE,)}}  # fmt: skip


def test_the_table_names_every_field() -> None:
    assert set(FIELDS) == set(Conversation.__struct_fields__) - {"members", "dropped"}


def fate(name: str, model: str) -> str:
    """Give what becomes of a field."""
    bare = Conversation(turns=(Turn("user", (TextPart("Hi"),)),), members={name: "it"}, **ALWAYS.get(name, {}))
    given = structs.replace(bare, **{name: FIELDS[name][0]})
    without = DIALECT.write_conversation(bare, model)
    written = tried(given, model)
    if isinstance(written, Untranslatable):
        assert (written.param, "`it`" in written.message) == ("it", True)
        return "refused"
    assert mistakes_in(written.body) == ""
    if written.body != without.body:
        assert written.dropped == ()
        return "written"
    return "dropped" if written.dropped == ("it",) else "in the path"


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_written_dropped_or_refused(name: str) -> None:
    assert (fate(name, NEW), fate(name, NOVA)) == FIELDS[name][1:]


def test_what_was_dropped_before_stays_dropped() -> None:
    given = conversation(dropped=("store",), seed=3)
    assert DIALECT.write_conversation(given, NOVA).dropped == ("store", "seed")


# --- any conversation ------------------------------------------------------------------------------------------------


def read(body: bytes) -> Conversation:
    """Read a request to Converse, by another hand than the one that writes."""
    members = json.loads(body)
    called: dict[str, str] = {}
    turns = [Turn("system", (TextPart(block["text"]),)) for block in members.get("system", ())]
    turns += [Turn(message["role"], tuple(parts_in(message["content"], called))) for message in members["messages"]]
    config, own = members.get("toolConfig", {}), members.get("additionalModelRequestFields", {})
    choice, tool, parallel = choice_in(config.get("toolChoice"), own.get("tool_choice"))
    inference = members.get("inferenceConfig", {})
    return Conversation(
        turns=tuple(turns),
        tools=tuple(map(tool_in, config.get("tools", ()))),
        tool_choice=choice,
        tool=tool,
        parallel_tools=parallel,
        format=schema_in(members.get("outputConfig")),
        max_tokens=inference.get("maxTokens"),
        temperature=inference.get("temperature"),
        top_p=inference.get("topP"),
        stop=tuple(inference.get("stopSequences", ())),
        top_k=own.get("top_k"),
    )


def parts_in(blocks: Any, called: dict[str, str]) -> Iterator[Any]:
    for block in blocks:
        ((kind, value),) = block.items()
        if kind == "text":
            yield TextPart(value)
        elif kind == "image":
            yield ImagePart("image/" + value["format"], value["source"]["bytes"])
        elif kind == "document":
            yield DocumentPart("application/" + value["format"], value["source"]["bytes"])
        elif kind == "toolUse":
            called[value["toolUseId"]] = value["name"]
            yield CallPart(value["toolUseId"], value["name"], msgspec.json.encode(value["input"]).decode())
        elif kind == "toolResult":
            parts = tuple(parts_in(value["content"], called))
            ident = value["toolUseId"]
            yield ResultPart(ident, parts, called[ident], failed=value.get("status") == "error")
        elif "redactedContent" in value:
            yield ThoughtPart(sealed=value["redactedContent"], origin="bedrock")
        else:
            yield ThoughtPart(**value["reasoningText"], origin="bedrock")


def tool_in(tool: Any) -> Tool:
    spec = tool["toolSpec"]
    parameters = spec["inputSchema"]["json"]
    return Tool(spec["name"], spec.get("description", ""), parameters, spec.get("strict"))


def choice_in(choice: Any, own: Any) -> tuple[Any, str, bool | None]:
    given = own or ({"type": next(iter(choice)), **next(iter(choice.values()))} if choice else {})
    word = {"any": "required"}.get(given.get("type", ""), given.get("type", ""))
    return word, given.get("name", ""), False if "disable_parallel_tool_use" in given else None


def schema_in(config: Any) -> Schema | None:
    if config is None:
        return None
    inner = config["textFormat"]["structure"]["jsonSchema"]
    return Schema(json.loads(inner["schema"]), inner.get("name", ""), inner.get("description", ""))


def said_here(parts: tuple[Part, ...]) -> tuple[Any, ...]:
    """Give parts as far as Converse has words for them."""
    kept: list[Any] = []
    for part in parts:
        match part:
            case TextPart(text) if not text.strip():
                continue
            case ThoughtPart() if not (part.signature or part.sealed):
                continue
            case ResultPart():
                kept.append(structs.replace(part, parts=said_here(part.parts)))
            case DocumentPart():
                kept.append(structs.replace(part, name=""))
            case _:
                kept.append(part)
    return tuple(kept)


def expected(given: Conversation) -> Conversation:
    """Give a conversation as far as Converse has words for it, and one of Anthropic's models hears it."""
    system, turns = leading(given.turns)
    turns = merged(tuple(Turn(turn.role, said_here(turn.parts)) for turn in turns))
    calls = [part for turn in turns for part in turn.parts if isinstance(part, CallPart)]
    nothing = {"type": "object", "properties": {}}
    tools = tuple(
        Tool(tool.name, tool.description, nothing if tool.parameters is None else tool.parameters, tool.strict or None)
        for tool in given.tools
    )
    fields: dict[str, Any] = {"tools": tools, "parallel_tools": given.parallel_tools and None}
    if not tools and calls:
        fields |= {"tools": tuple(Tool(name, "", nothing) for name in dict.fromkeys(part.name for part in calls))}
        fields |= {"tool_choice": "none", "parallel_tools": None}
    elif given.tool_choice == "none":
        fields |= {"parallel_tools": None} if calls else {"tools": (), "tool_choice": "", "parallel_tools": None}
    elif given.parallel_tools is False:
        fields |= {"tool_choice": given.tool_choice or "auto"}
    first = (Turn("system", (TextPart(system),)),) if system.strip() else ()
    return structs.replace(given, turns=first + turns, stream=False, **fields)


LACKS = {
    *("seed", "user", "frequency_penalty", "presence_penalty", "choices", "logprobs", "logit_bias", "verbosity"),
    *("effort", "thinking_tokens", "shows_thoughts", "format", "RefusalPart", "CallPart.signature", "ThoughtPart.id"),
    *("ImagePart.url", "ImagePart.detail", "DocumentPart.url"),
}


@settings(deadline=None, max_examples=80)
@given(conversations(LACKS, origin="bedrock", interleaved=True))
def test_any_conversation_is_read_as_it_was_written(given: Conversation) -> None:
    body = DIALECT.write_conversation(given, NEW).body
    assert mistakes_in(body) == ""
    assert mistakes_in(body, "ConverseStream") == ""
    assert plain(read(body)) == plain(expected(given))


@settings(deadline=None, max_examples=80)
@given(conversations(origin="bedrock", interleaved=True))
def test_any_conversation_is_written_well_or_refused_by_name(given: Conversation) -> None:
    for model in (NEW, OLD, NOVA):
        written = tried(given, model)
        if isinstance(written, Untranslatable):
            assert written.param in Conversation.__struct_fields__
        else:
            assert mistakes_in(written.body) == ""
