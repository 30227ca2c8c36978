import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
from tidegate.dialect.gemini import Gemini

DIALECT: ProviderDialect = Gemini()
EARLY, LATE = "gemini-2.5-flash", "gemini-3.1-pro-preview"
HI = Turn("user", (TextPart("hi"),))
TIDE = Tool("tide", "When is high water?", {"type": "object", "properties": {"place": {"type": "string"}}})
UNPROVEN = "skip_thought_signature_validator"
MEMBERS = {"turns": "messages", "user": "safety_identifier"}


def written(*turns: Turn, model: str = LATE, **fields: Any) -> dict[str, Any]:
    conversation = Conversation(turns=turns or (HI,), members=MEMBERS, **fields)
    body: dict[str, Any] = json.loads(DIALECT.write_conversation(conversation, model).body)
    return body


def parts_of(role: Any, *parts: Part, model: str = LATE) -> list[dict[str, Any]]:
    """Give the parts that a turn is written as."""
    (content,) = written(Turn(role, parts), model=model)["contents"]
    given: list[dict[str, Any]] = content["parts"]
    return given


def refused(*turns: Turn, model: str = LATE, **fields: Any) -> Untranslatable:
    with pytest.raises(Untranslatable) as caught:
        written(*turns, model=model, **fields)
    return caught.value


# --- turns and parts -------------------------------------------------------------------------------------------------


def test_a_plain_question_is_written_without_anything_unsaid() -> None:
    assert written(stream=True) == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


def test_system_text_stands_apart() -> None:
    system = Turn("system", (TextPart("Be brief."), TextPart("Be kind.")))
    body = written(system, HI, Turn("assistant", (TextPart("Hm."),)), Turn("system", (TextPart("Now!"),)), HI)
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief.\n\nBe kind.\n\nNow!"}]}
    assert [content["role"] for content in body["contents"]] == ["user", "model", "user"]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (TextPart("a"), {"text": "a"}),
        (ImagePart("image/png", "AAEC", detail="low"), {"inlineData": {"mimeType": "image/png", "data": "AAEC"}}),
        (
            DocumentPart("application/pdf", "AAEC", name="a.pdf"),
            {"inlineData": {"mimeType": "application/pdf", "data": "AAEC"}},
        ),
        (
            ImagePart(url="https://x.org/Tide.JPG?sig=a.png#b"),
            {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://x.org/Tide.JPG?sig=a.png#b"}},
        ),
        (
            DocumentPart(url="gs://bucket/tide.pdf"),
            {"fileData": {"mimeType": "application/pdf", "fileUri": "gs://bucket/tide.pdf"}},
        ),
        (
            DocumentPart("text/plain", url="https://x.org/a.pdf"),
            {"fileData": {"mimeType": "text/plain", "fileUri": "https://x.org/a.pdf"}},
        ),
        (ImagePart(url="https://x.org"), {"fileData": {"fileUri": "https://x.org"}}),
        (ImagePart(url="https://x.org/a?b.png"), {"fileData": {"fileUri": "https://x.org/a?b.png"}}),
    ],
)
def test_a_part_of_a_question_is_written(part: Part, expected: dict[str, Any]) -> None:
    assert parts_of("user", part) == [expected]


@pytest.mark.parametrize("url", ["http://x.org/a.png", "ftp://x.org/a.png", "data:image/png,a", "file:///a.png"])
def test_a_url_that_gemini_does_not_fetch_is_refused(url: str) -> None:
    found = refused(Turn("user", (ImagePart(url=url),)))
    assert found.param == "messages"
    assert "https" in found.message


def test_what_the_model_refused_is_what_it_said() -> None:
    assert parts_of("assistant", RefusalPart("I won't.")) == [{"text": "I won't."}]


def test_a_thought_is_written_where_gemini_signed_it() -> None:
    parts = (
        ThoughtPart("a", "s", origin="gemini"),
        ThoughtPart("", "t", origin="gemini"),
        ThoughtPart("b"),
        ThoughtPart("c", origin="gemini"),
        ThoughtPart("d", "u", origin="anthropic"),
        ThoughtPart(sealed="v", origin="gemini"),
        TextPart("e"),
    )
    assert parts_of("assistant", *parts) == [
        {"text": "a", "thought": True, "thoughtSignature": "s"},
        {"text": "", "thoughtSignature": "t"},
        {"text": "e"},
    ]


def test_a_turn_that_says_nothing_to_gemini_is_left_out() -> None:
    body = written(HI, Turn("assistant", (ThoughtPart("b"),)), HI)
    assert [content["role"] for content in body["contents"]] == ["user", "user"]


def test_calls_keep_their_ids_and_signatures() -> None:
    calls = (CallPart("a", "tide", '{"x": [1.5, null]}', "s", "gemini"), CallPart("b", "moon"))
    for model in (EARLY, LATE):
        assert parts_of("assistant", *calls, model=model) == [
            {"functionCall": {"id": "a", "name": "tide", "args": {"x": [1.5, None]}}, "thoughtSignature": "s"},
            {"functionCall": {"id": "b", "name": "moon", "args": {}}},
        ]


@pytest.mark.parametrize("arguments", ['{"x": ', "", "[1]", "x", '{"x": "\ud83c"}'])
def test_a_call_that_was_cut_is_written_with_what_was_said_of_it(arguments: str) -> None:
    (part,) = parts_of("assistant", CallPart("a", "tide", arguments), model=EARLY)
    assert part["functionCall"]["args"] == {"INVALID_JSON": arguments}


@pytest.mark.parametrize(("model", "signatures"), [(EARLY, [None, None]), (LATE, [UNPROVEN, None])])
def test_the_first_call_of_a_turn_needs_proof_since_gemini_3(model: str, signatures: list[str | None]) -> None:
    calls = (TextPart("a"), CallPart("a", "tide", "{}", "s", "anthropic"), CallPart("b", "moon"))
    _, *made = parts_of("assistant", *calls, model=model)
    assert [part.get("thoughtSignature") for part in made] == signatures


def test_a_result_names_the_tool_that_was_called() -> None:
    turns = (HI, Turn("assistant", (CallPart("a", "tide"), CallPart("b", "moon"))))
    results = (ResultPart("b", (TextPart("full"), TextPart("soon"))), ResultPart("a", (), "ebb", failed=True))
    content = written(*turns, Turn("user", (*results, TextPart("So?"))))["contents"][-1]
    assert content == {
        "role": "user",
        "parts": [
            {"functionResponse": {"id": "b", "name": "moon", "response": {"output": "full\nsoon"}}},
            {"functionResponse": {"id": "a", "name": "ebb", "response": {"error": ""}}},
            {"text": "So?"},
        ],
    }


def test_a_result_of_no_call_is_refused() -> None:
    assert refused(Turn("user", (ResultPart("a", (TextPart("x"),)),))).param == "messages"


def test_media_of_a_result_are_within_it_since_gemini_3_and_behind_it_before() -> None:
    result = ResultPart("a", (TextPart("x"), ImagePart("image/png", "AAEC")), "tide")
    image = {"inlineData": {"mimeType": "image/png", "data": "AAEC"}}
    given = {"id": "a", "name": "tide", "response": {"output": "x"}}
    assert parts_of("user", result, model=LATE) == [{"functionResponse": {**given, "parts": [image]}}]
    assert parts_of("user", result, model=EARLY) == [{"functionResponse": given}, image]


# --- settings --------------------------------------------------------------------------------------------------------


def test_tools_are_declared_by_their_json_schema() -> None:
    assert written(tools=(TIDE, Tool("moon", strict=True)))["tools"] == [
        {
            "functionDeclarations": [
                {"name": "tide", "description": "When is high water?", "parametersJsonSchema": TIDE.parameters},
                {"name": "moon"},
            ]
        }
    ]


@pytest.mark.parametrize(
    ("fields", "config"),
    [
        ({"tool_choice": "auto"}, {"mode": "AUTO"}),
        ({"tool_choice": "none"}, {"mode": "NONE"}),
        ({"tool_choice": "required"}, {"mode": "ANY"}),
        ({"tool_choice": "tool", "tool": "tide"}, {"mode": "ANY", "allowedFunctionNames": ["tide"]}),
    ],
)
def test_a_choice_of_tools_is_a_mode(fields: dict[str, Any], config: dict[str, Any]) -> None:
    assert written(tools=(TIDE,), **fields)["toolConfig"] == {"functionCallingConfig": config}


def test_a_choice_among_no_tools_is_told_only_where_one_must_be_called() -> None:
    assert "toolConfig" not in written(tool_choice="none")
    assert "toolConfig" not in written(tools=(TIDE,))
    assert written(tool_choice="required")["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}


@pytest.mark.parametrize(
    ("fields", "config"),
    [
        ({"max_tokens": 5}, {"maxOutputTokens": 5}),
        ({"temperature": 0.0}, {"temperature": 0.0}),
        ({"top_p": 0.5}, {"topP": 0.5}),
        ({"top_k": 4}, {"topK": 4}),
        ({"stop": ("a", "b")}, {"stopSequences": ["a", "b"]}),
        ({"seed": 0}, {"seed": 0}),
        ({"frequency_penalty": -1.5}, {"frequencyPenalty": -1.5}),
        ({"presence_penalty": 0.5}, {"presencePenalty": 0.5}),
        ({"choices": 3}, {"candidateCount": 3}),
        ({"format": Schema()}, {"responseMimeType": "application/json"}),
        (
            {"format": Schema({"type": "object"}, "n", "d", strict=True)},
            {"responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}},
        ),
        ({"shows_thoughts": True}, {"thinkingConfig": {"includeThoughts": True}}),
        ({"shows_thoughts": False}, {"thinkingConfig": {"includeThoughts": False}}),
    ],
)
def test_a_setting_has_its_member(fields: dict[str, Any], config: dict[str, Any]) -> None:
    for model in (EARLY, LATE):
        assert written(model=model, **fields)["generationConfig"] == config


@pytest.mark.parametrize(
    ("fields", "model", "thinking"),
    [
        ({"effort": "none"}, EARLY, {"thinkingBudget": 0}),
        ({"effort": "low"}, EARLY, {"thinkingBudget": 1024}),
        ({"effort": "medium"}, "models/gemini-2.5-pro", {"thinkingBudget": 8192}),
        ({"effort": "none"}, "models/gemini-2.5-pro", {"thinkingBudget": 128}),
        ({"effort": "xhigh"}, "gemini-2.5-pro", {"thinkingBudget": 32768}),
        ({"effort": "xhigh"}, "gemini-2.5-flash-lite", {"thinkingBudget": 24576}),
        ({"thinking_tokens": 40_000}, "projects/a-pro/models/gemini-2.5-flash", {"thinkingBudget": 24576}),
        ({"thinking_tokens": 2000, "effort": "high"}, EARLY, {"thinkingBudget": 2000}),
        ({"effort": "none"}, LATE, {"thinkingLevel": "LOW"}),
        ({"effort": "minimal"}, LATE, {"thinkingLevel": "LOW"}),
        ({"effort": "low"}, "gemini-flash-latest", {"thinkingLevel": "LOW"}),
        ({"effort": "medium"}, "gemini-3.5-flash", {"thinkingLevel": "MEDIUM"}),
        ({"effort": "high"}, "gemini-12.5-pro", {"thinkingLevel": "HIGH"}),
        ({"effort": "xhigh"}, LATE, {"thinkingLevel": "HIGH"}),
        ({"thinking_tokens": 0}, LATE, {"thinkingLevel": "LOW"}),
        ({"thinking_tokens": 8000}, LATE, {"thinkingLevel": "MEDIUM"}),
        ({"thinking_tokens": 8000, "effort": "high"}, LATE, {"thinkingLevel": "HIGH"}),
    ],
)
def test_thoughts_are_bounded_as_the_model_knows_it(
    fields: dict[str, Any], model: str, thinking: dict[str, Any]
) -> None:
    assert written(model=model, **fields)["generationConfig"]["thinkingConfig"] == thinking


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
ELSEWHERE = {"turns", "members", "dropped", "stream"}  # whether it is a stream is said by the path
TOGETHER: dict[str, dict[str, Any]] = {
    "parallel_tools": {"tools": (TIDE,)},
    "tool_choice": {"tools": (TIDE,)},
    "tool": {"tools": (TIDE,), "tool_choice": "tool"},
}


@pytest.mark.parametrize("name", [name for name in Conversation.__struct_fields__ if name not in ELSEWHERE])
def test_each_field_is_written_or_refused_or_dropped(name: str) -> None:
    with_it = Conversation(turns=(HI,), members=MEMBERS, **(TOGETHER.get(name, {}) | {name: SAID[name]}))
    without = Conversation(turns=(HI,), members=MEMBERS, tools=TOGETHER.get(name, {}).get("tools", ()))
    loss = DIALECT.lacks.get(name)
    if loss is not None and not loss.harmless:
        with pytest.raises(Untranslatable) as caught:
            DIALECT.write_conversation(with_it, LATE)
        assert caught.value.param == with_it.member(name)
        return
    one, other = DIALECT.write_conversation(with_it, LATE), DIALECT.write_conversation(without, LATE)
    assert (one.dropped == (with_it.member(name),)) is (loss is not None)
    assert (one.body == other.body) is (loss is not None)


def test_calls_at_once_are_what_gemini_makes_anyway() -> None:
    assert written(tools=(TIDE,), parallel_tools=True) == written(tools=(TIDE,))


def test_one_call_at_a_time_is_dropped_and_of_no_tools_not_even_told() -> None:
    dropped = [
        DIALECT.write_conversation(Conversation(turns=(HI,), tools=tools, parallel_tools=False), LATE).dropped
        for tools in ((TIDE,), ())
    ]
    assert dropped == [("parallel_tools",), ()]


def test_what_was_dropped_before_is_told_as_well() -> None:
    conversation = Conversation(turns=(HI,), user="u", members=MEMBERS, dropped=("metadata",))
    assert DIALECT.write_conversation(conversation, LATE).dropped == ("metadata", "safety_identifier")


# --- there and back --------------------------------------------------------------------------------------------------

UNSAYABLE = {
    "parallel_tools", "logprobs", "logit_bias", "verbosity", "user", "effort", "thinking_tokens", "stream", "ThoughtPart.sealed",
    "ThoughtPart.id", "Tool.strict", "Schema.name", "Schema.description", "Schema.strict",
}  # fmt: skip


def back(body: bytes) -> Conversation:
    """Read a request as Gemini's reference has it."""
    request = json.loads(body)
    config = request.pop("generationConfig", {})
    system = request.pop("systemInstruction", None)
    turns = [Turn("system", tuple(TextPart(part["text"]) for part in system["parts"]))] if system else []
    for content in request.pop("contents"):
        role: Any = {"user": "user", "model": "assistant"}[content.pop("role")]
        turns.append(Turn(role, tuple(read_part(part) for part in content.pop("parts"))))
        assert not content
    calling = request.pop("toolConfig", {}).get("functionCallingConfig", {})
    tools = [tool for given in request.pop("tools", ()) for tool in given["functionDeclarations"]]
    only = calling.get("allowedFunctionNames", [""])[0]
    choices: dict[str, Any] = {"AUTO": "auto", "NONE": "none", "ANY": "tool" if only else "required"}
    mime = config.pop("responseMimeType", None)
    assert mime in {None, "application/json"}
    conversation = Conversation(
        turns=tuple(turns),
        tools=tuple(
            Tool(tool["name"], tool.get("description", ""), tool.get("parametersJsonSchema")) for tool in tools
        ),
        tool_choice=choices.get(calling.get("mode"), ""),
        tool=only,
        format=Schema(config.pop("responseJsonSchema", None)) if mime else None,
        max_tokens=config.pop("maxOutputTokens", None),
        temperature=config.pop("temperature", None),
        top_p=config.pop("topP", None),
        top_k=config.pop("topK", None),
        stop=tuple(config.pop("stopSequences", ())),
        seed=config.pop("seed", None),
        frequency_penalty=config.pop("frequencyPenalty", None),
        presence_penalty=config.pop("presencePenalty", None),
        choices=config.pop("candidateCount", 1),
        shows_thoughts=config.pop("thinkingConfig", {}).get("includeThoughts"),
    )
    assert not config
    assert not request
    return conversation


def read_part(part: dict[str, Any]) -> Part:
    signature = part.get("thoughtSignature", "").replace(UNPROVEN, "")
    if call := part.get("functionCall"):
        made = "gemini" if signature else ""
        return CallPart(call["id"], call["name"], json.dumps(call["args"]), signature, made)
    if given := part.get("functionResponse"):
        ((key, text),) = given["response"].items()
        texts = (TextPart(text),) if text else ()
        media = tuple(read_media(part) for part in given.get("parts", ()))
        return ResultPart(given["id"], (*texts, *media), given["name"], failed={"error": True, "output": False}[key])
    if signature:
        assert part["thought"] is True
        return ThoughtPart(part["text"], signature, origin="gemini")
    return TextPart(part["text"]) if "text" in part else read_media(part)


def read_media(part: dict[str, Any]) -> DocumentPart:
    if data := part.get("inlineData"):
        return DocumentPart(data["mimeType"], data["data"])
    return DocumentPart(url=part["fileData"]["fileUri"])


def heard(part: Part) -> list[Part]:
    """Give what is left of a part on its way to Gemini."""
    match part:
        case RefusalPart(text):
            return [TextPart(text)]
        case ThoughtPart(signature=""):
            return []
        case CallPart(arguments=arguments):
            return [structs.replace(part, arguments=json.dumps(json.loads(arguments)))]
        case ImagePart() | DocumentPart():
            return [DocumentPart(part.media_type, part.data, part.url)]
        case ResultPart(parts=parts):
            text = "\n".join(part.text for part in parts if isinstance(part, TextPart))
            media = [one for part in parts if not isinstance(part, TextPart) for one in heard(part)]
            return [structs.replace(part, parts=(*([TextPart(text)] if text else []), *media))]
        case _:
            return [part]


@settings(deadline=None, max_examples=50)
@given(
    conversations(UNSAYABLE, origin="gemini", system="leading", interleaved=True),
    st.sampled_from([LATE, "models/gemini-flash-latest"]),
)
def test_what_gemini_is_asked_is_what_the_client_asked(conversation: Conversation, model: str) -> None:
    turns = (Turn(turn.role, tuple(one for part in turn.parts for one in heard(part))) for turn in conversation.turns)
    expected = structs.replace(conversation, turns=tuple(turn for turn in turns if turn.parts))
    result = DIALECT.write_conversation(conversation, model)
    assert set(result.dropped) <= {name for name in DIALECT.lacks if "." in name}
    assert back(result.body) == expected
