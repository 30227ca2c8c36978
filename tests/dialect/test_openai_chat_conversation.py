"""A chat completions request as a conversation, and a conversation as one."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from conversing import conversations, plain
from tidegate.dialect import Dialect
from tidegate.dialect.conversation import (
    DROPPED,
    OWN,
    REFUSED,
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
from tidegate.dialect.openai_chat import LACKS, OpenAIChat, Quirks
from tidegate.dialect.openai_chat.asked import Asked
from tidegate.dialect.openai_chat.writing import Thoughts, Usages
from tidegate.dialect.requests import MAX_MODEL_CHARS
from tidegate.dialect.seals import marked
from tidegate.verdict import Refused

DIALECT: Dialect = OpenAIChat()
HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "tide"}}
MOON = {"type": "function", "function": {"name": "moon"}}
UNSAYABLE = (
    "top_k", "logprobs", "shows_thoughts", "thinking_tokens", "ResultPart.failed", "DocumentPart.url", "DocumentPart.name",
    "ResultPart.parts.ImagePart", "ResultPart.parts.DocumentPart", "Schema.name",
)  # fmt: skip


def read(messages: Any = HI, **members: Any) -> Conversation:
    return DIALECT.read_conversation(json.dumps({"model": "m", "messages": messages, **members}).encode())


def parts(*messages: Any) -> list[tuple[Part, ...]]:
    return [turn.parts for turn in read(list(messages)).turns]


def written(conversation: Conversation, **quirks: Any) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(OpenAIChat(Quirks(**quirks)).write_conversation(conversation, "m").body)
    return said


def messages_of(*turns: Turn, **quirks: Any) -> list[Any]:
    said: list[Any] = written(Conversation(turns=turns), **quirks)["messages"]
    return said


def untold(messages: Any = HI, **members: Any) -> str:
    with pytest.raises(Untranslatable) as caught:
        read(messages, **members)
    assert caught.value.param in caught.value.message
    return caught.value.param


# --- there and back --------------------------------------------------------------------------------------------------


def named(conversation: Conversation) -> Conversation:
    """Give a conversation in which documents and schemas have the names that they get where they have none."""

    def name(part: Part) -> Part:
        return structs.replace(part, name="document.pdf") if isinstance(part, DocumentPart) else part

    turns = tuple(Turn(turn.role, tuple(map(name, turn.parts))) for turn in conversation.turns)
    wanted = conversation.format
    if wanted is not None and wanted.schema is not None:
        wanted = structs.replace(wanted, name="answer")
    return structs.replace(conversation, turns=turns, format=wanted)


SIGNED_CALLS = conversations((*UNSAYABLE, "ThoughtPart"), origin=DIALECT.name)
DETAILED = conversations((*UNSAYABLE, "CallPart.signature"), origin=DIALECT.name)


@settings(max_examples=120, deadline=None)
@given(
    SIGNED_CALLS.map(lambda made: ("extra_content", made)) | DETAILED.map(lambda made: ("reasoning_details", made)),
    st.sampled_from(["asked", "given"]),
    st.sampled_from(["max_tokens", "max_completion_tokens"]),
)
def test_what_is_written_reads_the_same(made: tuple[Thoughts, Conversation], usage: Any, bound: Any) -> None:
    thoughts, conversation = made
    dialect = OpenAIChat(Quirks(usage=usage, bound=bound, thoughts=thoughts))
    body = dialect.write_conversation(conversation, "m")
    assert not body.dropped
    again = dialect.read_conversation(body.body)
    assert plain(again, "\n\n") == plain(named(conversation), "\n\n")
    assert again.member("max_tokens") == (bound if conversation.max_tokens else "max_tokens")
    ask = dialect.read_request(body.body)
    assert ask.wants_usage == (conversation.stream and usage == "asked")
    assert (ask.choices, ask.max_tokens) == (conversation.choices, conversation.max_tokens or 0)


# --- every member is decided -----------------------------------------------------------------------------------------

DECIDED: list[tuple[str, Any, str, Any]] = [
    ("stream", True, "stream", True),
    ("stream_options", {"include_usage": True}, "dropped", ()),
    ("tools", [TOOL], "tools", (Tool("tide"),)),
    ("parallel_tool_calls", False, "parallel_tools", False),
    ("response_format", {"type": "text"}, "format", None),
    ("response_format", {"type": "json_object"}, "format", Schema()),
    ("max_tokens", 7, "max_tokens", 7),
    ("max_completion_tokens", 8, "max_tokens", 8),
    ("temperature", 1, "temperature", 1.0),
    ("top_p", 0.5, "top_p", 0.5),
    ("top_k", 40, "top_k", 40),
    ("n", 3, "choices", 3),
    ("stop", "end", "stop", ("end",)),
    ("stop", ["end", "", "over"], "stop", ("end", "over")),
    ("seed", 7, "seed", 7),
    ("frequency_penalty", -1.5, "frequency_penalty", -1.5),
    ("presence_penalty", 2, "presence_penalty", 2.0),
    ("logprobs", True, "logprobs", 0),
    ("logprobs", False, "logprobs", None),
    ("top_logprobs", 5, "logprobs", 5),
    ("logit_bias", {"50256": -100}, "logit_bias", {"50256": -100}),
    ("logit_bias", {}, "logit_bias", None),
    ("reasoning_effort", "minimal", "effort", "minimal"),
    ("reasoning_effort", "max", "effort", "xhigh"),
    ("reasoning", {"effort": "high"}, "effort", "high"),
    ("reasoning", {"enabled": False}, "effort", "none"),
    ("reasoning", {"max_tokens": 2048}, "thinking_tokens", 2048),
    ("reasoning", {"exclude": True}, "shows_thoughts", False),
    ("include_reasoning", True, "shows_thoughts", True),
    ("thinking", {"type": "enabled", "budget_tokens": 2048}, "thinking_tokens", 2048),
    ("thinking", {"type": "disabled"}, "thinking_tokens", 0),
    ("thinking", {"type": "adaptive"}, "effort", "high"),
    ("functions", [TOOL["function"]], "tools", (Tool("tide"),)),
    ("function_call", "auto", "tools", ()),
    ("verbosity", "low", "verbosity", "low"),
    ("user", "u7", "user", "u7"),
    ("modalities", ["text"], "dropped", ()),
]


@pytest.mark.parametrize(("member", "value", "field", "expected"), DECIDED)
def test_a_member_that_can_be_said_is_a_field(member: str, value: Any, field: str, expected: Any) -> None:
    assert getattr(read(**{member: value}), field) == expected
    nothing = read(**{member: None})
    assert structs.replace(nothing, members={}) == structs.replace(read(), members={})


def test_no_member_that_is_read_goes_untested() -> None:
    assert {member for member, *_ in DECIDED} | {"model", "messages", "tool_choice"} == set(Asked.__struct_fields__)


@pytest.mark.parametrize("member", sorted(DIALECT.harmless))
def test_a_member_without_which_the_answer_is_the_same_is_dropped_and_listed(member: str) -> None:
    conversation = read(**{member: {"a": 1}})
    assert conversation.dropped == (member,)
    assert written(conversation) == written(read())
    assert OpenAIChat().write_conversation(conversation, "m").dropped == (member,)
    assert read(**{member: None}).dropped == ()


@pytest.mark.parametrize(
    "member",
    [
        "audio", "web_search_options", "moderation", "min_p", "repetition_penalty", "guided_json", "guided_regex",
        "structured_outputs", "chat_template_kwargs", "enable_thinking", "best_of", "min_tokens", "ignore_eos",
        "stop_token_ids", "provider", "models", "plugins", "safe_prompt", "sybil",
    ],
)  # fmt: skip
def test_a_member_that_could_change_the_answer_is_refused_by_its_name(member: str) -> None:
    assert untold(**{member: {"a": 1}}) == member
    assert read(**{member: None}) == read()


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"tools": [TOOL, {"type": "custom", "custom": {"name": "x"}}]}, "tools[1].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{**TOOL, "sybil": 1}]}, "tools[0].sybil"),
        ({"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice.type"),
        ({"tools": [TOOL], "functions": [TOOL["function"]]}, "functions"),
        ({"tools": [TOOL], "function_call": "auto"}, "function_call"),
        ({"reasoning": {"sybil": 1}}, "reasoning.sybil"),
        ({"thinking": {"type": "enabled", "sybil": 1}}, "thinking.sybil"),
        ({"messages": [{"role": "user", "content": "a", "sybil": 1}]}, "messages[0].sybil"),
        ({"messages": [*HI, {"role": "assistant", "audio": {"id": "a"}}]}, "messages[1].audio"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}]},
            "messages[0].content[0].input_audio",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
            "messages[0].content[0].file.file_id",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "x"}}]}]},
            "messages[0].tool_calls[0].type",
        ),
    ],
)  # fmt: skip
def test_what_no_conversation_can_say_is_refused_by_its_name(members: dict[str, Any], param: str) -> None:
    assert untold(**members) == param


@pytest.mark.parametrize("members", [{"x" * 2**20: 1}, {"reasoning": {"x" * 2**20: 1}}])
def test_a_name_is_repeated_up_to_a_length(members: dict[str, Any]) -> None:
    assert len(untold(**members)) == MAX_MODEL_CHARS + 1


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "sybil", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "sybil"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "ftp://a"}]}]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,a"}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        ({"thinking": {"type": "perhaps"}}, "thinking.type"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 1000}, "n"),
        ({"reasoning_effort": "utter"}, "reasoning_effort"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ],
)  # fmt: skip
def test_a_member_that_is_wrong_is_refused_by_its_name(members: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as caught:
        read(**members)
    assert caught.value.param == param


# --- messages --------------------------------------------------------------------------------------------------------


def test_messages_of_one_side_are_one_turn_and_results_come_first() -> None:
    call = {"id": "c1", "type": "function", "index": 0, "function": {"name": "tide", "arguments": ""}}
    conversation = read(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": "a", "name": "ann"},
            {"role": "user", "content": ""},
            {"role": "assistant", "content": None, "tool_calls": [call], "annotations": [], "refusal": None},
            {"role": "user", "content": "and?"},
            {"role": "tool", "tool_call_id": "c1", "content": "low"},
        ]
    )
    assert conversation.turns == (
        Turn("system", (TextPart("Be brief."), TextPart("Be kind."))),
        Turn("user", (TextPart("a"),)),
        Turn("assistant", (CallPart("c1", "tide"),)),
        Turn("user", (ResultPart("c1", (TextPart("low"),), "tide"), TextPart("and?"))),
    )
    assert conversation.dropped == ("messages.name",)


def test_a_message_as_openai_s_own_package_hands_it_back_says_nothing_more() -> None:
    function = {"name": "tide", "arguments": '{"a":1}', "parsed_arguments": {"a": 1}}
    said = {
        "role": "assistant",
        "content": '{"b":2}',
        "parsed": {"b": 2},
        "tool_calls": [{"id": "c1", "type": "function", "index": 0, "function": function}],
    }
    assert parts(*HI, said)[1] == (TextPart('{"b":2}'), CallPart("c1", "tide", '{"a":1}', origin=OWN))
    assert read([*HI, said]).dropped == ()


def test_a_message_as_litellm_hands_it_back_says_what_it_said() -> None:
    more = {"provider_specific_fields": {"a": 1}}
    call = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": "{}", **more}, **more}
    said = read([*HI, {"role": "assistant", "content": "a", "tool_calls": [call], **more}])
    assert said.turns[1].parts == (TextPart("a"), CallPart("c1", "tide"))
    assert said.dropped == ("messages.provider_specific_fields", "messages.tool_calls.provider_specific_fields")


@pytest.mark.parametrize("arguments", ['{"path": "a', "[]", "utter", '{"a":1}{'])
def test_a_call_that_was_cut_goes_on_as_it_came(arguments: str) -> None:
    called = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": arguments}}
    said = read([*HI, {"role": "assistant", "content": None, "tool_calls": [called]}])
    assert said.turns[1].parts == (CallPart("c1", "tide", arguments),)
    assert written(said)["messages"][1]["tool_calls"] == [called]


def test_calls_as_they_were_once_said_have_ids() -> None:
    assert parts(
        {"role": "assistant", "function_call": {"name": "tide", "arguments": '{"a":1}'}},
        {"role": "function", "name": "tide", "content": "low"},
        {"role": "function", "name": "moon", "content": None},
    ) == [
        (CallPart("call_0", "tide", '{"a":1}'),),
        (ResultPart("call_0", (TextPart("low"),), "tide"), ResultPart("moon", (), "moon")),
    ]


def test_images_and_files_are_read_wherever_they_are() -> None:
    content = [
        {"type": "text", "text": "Look:", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": "https://a/b.png", "detail": "original"}},
        {"type": "image_url", "image_url": "data:image/png;charset=x;base64,aGk="},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}},
    ]
    expected = (
        TextPart("Look:"),
        ImagePart(url="https://a/b.png", detail="high"),
        ImagePart("image/png", "aGk="),
        DocumentPart("application/pdf", "aGk=", name="a.pdf"),
    )
    assert parts({"role": "user", "content": content}) == [expected]
    assert parts({"role": "tool", "tool_call_id": "c", "name": "n", "content": content}) == [
        (ResultPart("c", expected, "n"),)
    ]
    assert read([{"role": "user", "content": content}]).dropped == ("cache_control",)


def test_an_assistant_s_refusal_is_read_as_a_member_and_as_a_part() -> None:
    content = [{"type": "text", "text": "Well."}, {"type": "refusal", "refusal": "No."}]
    assert parts({"role": "assistant", "content": content}) == [(TextPart("Well."), RefusalPart("No."))]
    assert parts({"role": "assistant", "refusal": "No."}) == [(RefusalPart("No."),)]


THEIRS = marked("s", "anthropic", DIALECT.name)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"reasoning_content": "a"}, [ThoughtPart("a")]),
        ({"reasoning": "a"}, [ThoughtPart("a")]),
        ({"reasoning_content": "a", "reasoning_details": [{"text": "a", "signature": THEIRS}]},
         [ThoughtPart("a", "s", origin="anthropic")]),
        ({"reasoning_content": "a", "reasoning_details": [{"text": "", "signature": "s"}]},
         [ThoughtPart("a"), ThoughtPart("", "s", origin=DIALECT.name)]),
        ({"reasoning_details": [{"text": "a", "index": 0}, {"text": "b", "index": 0}, {"signature": "s", "index": 0}]},
         [ThoughtPart("ab", "s", origin=DIALECT.name)]),
        ({"reasoning_details": [{"summary": "a"}, {"data": THEIRS, "id": "i", "format": "x"}, {"text": "b"}]},
         [ThoughtPart("a"), ThoughtPart(sealed="s", id="i", origin="anthropic"), ThoughtPart("b")]),
        ({"reasoning_details": [{"text": "a", "index": 0}, {"text": "b", "index": 1}]}, [ThoughtPart("a"), ThoughtPart("b")]),
    ],
)  # fmt: skip
def test_a_thought_comes_back_whole_and_with_its_maker(members: dict[str, Any], expected: list[Part]) -> None:
    assert parts({"role": "assistant", "content": "b", **members}) == [(*expected, TextPart("b"))]


@pytest.mark.parametrize(
    ("blocks", "plain", "expected"),
    [
        (
            [{"type": "thinking", "thinking": "a", "signature": "s"}, {"type": "redacted_thinking", "data": "d"}],
            "a",
            [ThoughtPart("a", "s", origin="anthropic"), ThoughtPart(sealed="d", origin="anthropic")],
        ),
        (
            [{"thinking": "a", "signature": marked("s", "gemini", DIALECT.name)}, {"thinking": "b", "signature": "t"}],
            "ab",
            [ThoughtPart("a", "s", origin="gemini"), ThoughtPart("b", "t", origin="anthropic")],
        ),
        ([{"type": "thinking", "thinking": "a"}], None, [ThoughtPart("a")]),
        ([], "a", [ThoughtPart("a")]),
    ],
)
def test_thoughts_as_litellm_tells_them_are_their_maker_s(blocks: Any, plain: Any, expected: list[Part]) -> None:
    said = {"role": "assistant", "content": "b", "thinking_blocks": blocks, "reasoning_content": plain}
    assert parts(said) == [(*expected, TextPart("b"))]


def test_a_signature_whose_thought_was_lost_in_pieces_is_left_out() -> None:
    sealed = {"data": "d", "index": 1}
    for details in ([{"signature": THEIRS, "index": 0}], [{"text": "high.", "signature": THEIRS, "index": 0}]):
        (_, said) = parts(
            *HI, {"role": "assistant", "reasoning_content": "is", "reasoning_details": [*details, sealed]}
        )
        assert said == (ThoughtPart("is"), ThoughtPart(sealed="d", origin=DIALECT.name))


def test_a_call_s_signature_comes_back_with_its_maker() -> None:
    def call(signature: Any) -> Part:
        extra = {"google": {"thought_signature": signature}, "other": 1}
        called = {"id": "c", "function": {"name": "tide"}, "extra_content": extra}
        return parts({"role": "assistant", "tool_calls": [called]})[0][0]

    assert call("s") == CallPart("c", "tide", signature="s", origin=DIALECT.name)
    assert call(marked("s", "gemini", DIALECT.name)) == CallPart("c", "tide", signature="s", origin="gemini")
    assert call(None) == CallPart("c", "tide", origin=OWN)


# --- tools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", ("auto", "", 2)),
        ("none", ("none", "", 2)),
        ("required", ("required", "", 2)),
        (TOOL, ("tool", "tide", 2)),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [MOON]}}, ("required", "", 1)),
    ],
)
def test_a_choice_of_tools_is_read_in_every_form(choice: Any, expected: tuple[str, str, int]) -> None:
    conversation = read(tools=[TOOL, MOON], tool_choice=choice)
    assert (conversation.tool_choice, conversation.tool, len(conversation.tools)) == expected
    assert read(tool_choice=choice).tool_choice == ""


@pytest.mark.parametrize(
    ("choice", "expected"), [("auto", ("auto", "")), ("none", ("none", "")), ({"name": "moon"}, ("tool", "moon"))]
)
def test_functions_from_before_there_were_tools_are_tools(choice: Any, expected: tuple[str, str]) -> None:
    said = read(functions=[TOOL["function"], MOON["function"]], function_call=choice)
    assert said.tools == (Tool("tide"), Tool("moon"))
    assert (said.tool_choice, said.tool) == expected
    assert said.member("tools") == "functions"
    assert written(said)["tools"] == [TOOL, MOON]


def test_a_bound_on_thoughts_is_named_as_the_client_named_it() -> None:
    thinking = {"type": "enabled", "budget_tokens": 2048}
    assert read(thinking=thinking).member("thinking_tokens") == "thinking"
    both = read(thinking=thinking, reasoning={"max_tokens": 7}, reasoning_effort="low")
    assert (both.thinking_tokens, both.effort, both.member("thinking_tokens")) == (7, "low", "reasoning.max_tokens")


# --- writing ---------------------------------------------------------------------------------------------------------

ASKED = Turn("user", (TextPart("a"),))


def test_usage_is_asked_for_where_it_must_be_and_may_be() -> None:
    conversation = Conversation(turns=(ASKED,), stream=True, max_tokens=7)
    said = [written(conversation, usage=usage) for usage in get_args(Usages)]
    assert [one.get("stream_options") for one in said] == [{"include_usage": True}, None]
    assert written(conversation)["max_completion_tokens"] == 7
    assert written(conversation, bound="max_tokens")["max_tokens"] == 7
    assert "stream_options" not in written(Conversation(turns=(ASKED,)))


def test_a_provider_that_refuses_options_of_a_stream_gets_none_of_a_client_s_bytes() -> None:
    body = json.dumps(
        {"model": "m", "messages": HI, "stream": True, "stream_options": {"include_usage": True}}
    ).encode()
    ask = DIALECT.read_request(body)
    given = OpenAIChat(Quirks(usage="given"))
    assert json.loads(given.write_request(ask, "m")) == {"model": "m", "messages": HI, "stream": True}
    assert DIALECT.write_request(ask, "m") is body
    plain_ask = DIALECT.read_request(json.dumps({"model": "m", "messages": HI, "stream": True}).encode())
    assert given.write_request(plain_ask, "m") is plain_ask.body


def test_what_a_server_lacks_is_dropped_or_refused() -> None:
    lacks = {**LACKS, "seed": DROPPED, "verbosity": DROPPED, "logit_bias": REFUSED}
    dialect = OpenAIChat(Quirks(lacks=lacks))
    assert dialect.lacks is lacks
    conversation = Conversation(turns=(ASKED,), seed=7, verbosity="low", shows_thoughts=True)
    body = dialect.write_conversation(conversation, "m")
    assert body.dropped == ("shows_thoughts", "seed", "verbosity")
    assert json.loads(body.body) == {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    with pytest.raises(Untranslatable, match="logit_bias"):
        dialect.write_conversation(Conversation(turns=(ASKED,), logit_bias={"1": 1}), "m")
    with pytest.raises(Untranslatable, match="top_k"):
        dialect.write_conversation(Conversation(turns=(ASKED,), top_k=7), "m")
    vllm = {name: loss for name, loss in LACKS.items() if name != "top_k"}
    assert written(Conversation(turns=(ASKED,), top_k=7), lacks=vllm)["top_k"] == 7


def test_a_bound_on_thoughts_is_an_effort() -> None:
    assert written(Conversation(turns=(ASKED,), thinking_tokens=4096))["reasoning_effort"] == "medium"
    assert written(Conversation(turns=(ASKED,), thinking_tokens=0))["reasoning_effort"] == "none"


def test_images_that_a_tool_gave_follow_in_the_user_s_own_message() -> None:
    image = ImagePart("image/png", "aGk=")
    results = (
        ResultPart("c1", (TextPart("low"), image), "tide"),
        ResultPart("c2", (TextPart("full"), TextPart("round"))),
        ResultPart("c3", (image,)),
    )
    shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    assert messages_of(Turn("user", (*results, TextPart("and?")))) == [
        {"role": "tool", "tool_call_id": "c1", "content": "low"},
        {"role": "tool", "tool_call_id": "c2", "content": "full\n\nround"},
        {"role": "tool", "tool_call_id": "c3", "content": ""},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What `tide` shows:"},
                shown,
                {"type": "text", "text": "What `c3` shows:"},
                shown,
                {"type": "text", "text": "and?"},
            ],
        },
    ]


def test_that_a_tool_failed_is_listed_as_lost() -> None:
    failed = Turn("user", (ResultPart("c1", (TextPart("no"),), failed=True),))
    conversation = Conversation(turns=(failed,), members={"ResultPart.failed": "is_error"})
    assert OpenAIChat().write_conversation(conversation, "m").dropped == ("is_error",)


@pytest.mark.parametrize(
    "part", [DocumentPart(url="https://a/b.pdf"), RefusalPart("no"), ThoughtPart("a"), CallPart("a", "b")]
)
def test_what_no_user_can_say_in_this_dialect_is_refused(part: Part) -> None:
    with pytest.raises(Untranslatable) as caught:
        written(Conversation(turns=(Turn("user", (part,)),), members={"turns": "input"}))
    assert caught.value.param == "input"


OF_OPENAI = ThoughtPart("b", "s", origin=DIALECT.name)
OF_OTHERS = ThoughtPart("c", "t", origin="anthropic")
SEALED = ThoughtPart(sealed="d", origin=DIALECT.name)
SEALED_BY_OTHERS = ThoughtPart(sealed="e", id="i", origin="anthropic")


@pytest.mark.parametrize(
    ("thoughts", "expected"),
    [
        ("", {}),
        ("extra_content", {}),
        ("reasoning_content", {"reasoning_content": "abc"}),
        ("reasoning", {"reasoning": "abc"}),
        (
            "reasoning_details",
            {
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "a", "index": 0},
                    {"type": "reasoning.text", "text": "b", "signature": "s", "index": 1},
                    {"type": "reasoning.encrypted", "data": "d", "index": 2},
                ]
            },
        ),
    ],
)
def test_thoughts_go_back_where_a_server_takes_them(thoughts: str, expected: dict[str, Any]) -> None:
    said = (ThoughtPart("a"), OF_OPENAI, OF_OTHERS, SEALED, SEALED_BY_OTHERS, TextPart("x"), TextPart("y"))
    assert messages_of(Turn("assistant", said), thoughts=thoughts) == [
        {"role": "assistant", "content": "xy", **expected}
    ]
    assert messages_of(Turn("assistant", (TextPart("x"),)), thoughts=thoughts) == [
        {"role": "assistant", "content": "x"}
    ]


def test_every_place_for_thoughts_is_tried() -> None:
    assert set(get_args(Thoughts)) == {"", "extra_content", "reasoning_content", "reasoning", "reasoning_details"}


def test_a_call_s_signature_goes_back_to_its_maker_alone() -> None:
    def extra(origin: str, thoughts: str) -> Any:
        call = CallPart("c", "tide", signature="s", origin=origin)
        return messages_of(Turn("assistant", (call,)), thoughts=thoughts)[0]["tool_calls"][0].get("extra_content")

    assert extra(DIALECT.name, "extra_content") == {"google": {"thought_signature": "s"}}
    assert extra("gemini", "extra_content") is None
    assert extra(DIALECT.name, "") is None


def test_an_assistant_s_message_has_no_content_where_there_is_none() -> None:
    refusal = Turn("assistant", (RefusalPart("No."), RefusalPart(" Never.")))
    assert messages_of(refusal) == [{"role": "assistant", "content": None, "refusal": "No. Never."}]
    assert messages_of(Turn("assistant", (ThoughtPart("a"),))) == [{"role": "assistant", "content": ""}]
