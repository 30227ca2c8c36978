from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.prediction import PredictionProvider, read_envelope
from tidegate.dialect.prediction.writing import Takes

MEMBERS = {"turns": "messages", "max_tokens": "max_completion_tokens", "format": "response_format", "choices": "n"}


def turn(role: Any, *said: str | Part) -> Turn:
    return Turn(role, tuple(TextPart(one) if isinstance(one, str) else one for one in said))


def asked(
    *turns: Turn, takes: Takes = "messages", parameters: tuple[str, ...] = (), **more: Any
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Give the input that a handler gets, and what is dropped."""
    conversation = Conversation(turns=turns, members=MEMBERS, **more)
    written = PredictionProvider(takes, parameters).write_conversation(conversation, "river")
    envelope = read_envelope(written.body)
    assert (envelope.model, envelope.id, envelope.context) == ("river", "", {})
    return msgspec.json.decode(envelope.input), written.dropped


def prompt(*turns: Turn, parameters: tuple[str, ...] = ()) -> dict[str, Any]:
    return asked(*turns, takes="prompt", parameters=parameters)[0]


SYSTEM = turn("system", "Be brief.", "Be kind.")
USER = turn("user", "Hello.")
ASSISTANT = turn("assistant", ThoughtPart("A greeting."), "Hi.", RefusalPart("No more."))
AGAIN = turn("user", "When is", "high water?")


def test_messages_have_roles_and_texts() -> None:
    assert asked(SYSTEM, USER, ASSISTANT, AGAIN)[0] == {
        "messages": [
            {"role": "system", "content": "Be brief.\n\nBe kind."},
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hi.\n\nNo more."},
            {"role": "user", "content": "When is\n\nhigh water?"},
        ]
    }


def test_a_turn_that_says_nothing_is_left_out() -> None:
    assert asked(USER, turn("assistant", ThoughtPart("Hm.")))[0] == {
        "messages": [{"role": "user", "content": "Hello."}]
    }
    assert asked() == ({"messages": []}, ())


def test_one_turn_is_the_prompt() -> None:
    assert prompt(USER) == {"prompt": "Hello."}
    assert prompt() == {"prompt": ""}


def test_several_turns_are_a_transcript_that_is_open_for_the_answer() -> None:
    assert prompt(USER, ASSISTANT, AGAIN) == {
        "prompt": "User: Hello.\nAssistant: Hi.\n\nNo more.\nUser: When is\n\nhigh water?\nAssistant:"
    }
    assert prompt(SYSTEM, USER) == {"prompt": "Be brief.\n\nBe kind.\n\nUser: Hello.\nAssistant:"}
    assert prompt(SYSTEM) == {"prompt": "Be brief.\n\nBe kind."}


def test_an_answer_that_has_begun_is_gone_on_with() -> None:
    assert prompt(USER, turn("assistant", "High water is")) == {"prompt": "User: Hello.\nAssistant: High water is"}


@pytest.mark.parametrize("name", ["system_prompt", "system"])
def test_the_systems_text_has_a_parameter_of_its_own_where_there_is_one(name: str) -> None:
    assert prompt(SYSTEM, USER, parameters=("prompt", name)) == {"prompt": "Hello.", name: "Be brief.\n\nBe kind."}
    assert prompt(USER, parameters=("prompt", name)) == {"prompt": "Hello."}


SETTINGS: dict[str, Any] = {
    "max_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 3,
    "seed": 4,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.2,
    "stop": ("x", "y"),
}


def test_settings_are_passed_where_the_handler_has_them() -> None:
    given, dropped = asked(USER, parameters=("messages", *SETTINGS), **SETTINGS)
    assert dropped == ()
    assert {name: given[name] for name in SETTINGS} == {**SETTINGS, "stop": ["x", "y"]}
    assert asked(USER, parameters=("messages", *SETTINGS)) == asked(USER)
    assert (
        asked(USER, parameters=("temperature", "seed"), temperature=0.0, seed=0)[0].items()
        >= {
            "temperature": 0.0,
            "seed": 0,
        }.items()
    )


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("max_tokens", "max_new_tokens"),
        ("max_tokens", "max_output_tokens"),
        ("max_tokens", "max_completion_tokens"),
        ("max_tokens", "max_length"),
        ("stop", "stop_sequences"),
        ("stop", "stop_words"),
    ],
)
def test_settings_go_by_the_handlers_own_names(field: str, name: str) -> None:
    given, dropped = asked(USER, parameters=(name,), **{field: SETTINGS[field]})
    assert (given[name], dropped) == (["x", "y"] if field == "stop" else 9, ())


def test_settings_that_the_handler_does_not_have_are_dropped_and_told() -> None:
    settings = {name: value for name, value in SETTINGS.items() if name != "stop"}
    given, dropped = asked(USER, **settings, effort="low", thinking_tokens=5, verbosity="low", user="ada")
    assert given == asked(USER)[0]
    assert set(dropped) == {
        "max_completion_tokens",
        *(set(settings) - {"max_tokens"}),
        "effort",
        "thinking_tokens",
        "verbosity",
        "user",
    }


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"stop": ("x",)}, "stop"),
        ({"tools": (Tool("tide"),)}, "tools"),
        ({"tools": (Tool("tide"),), "tool_choice": "auto"}, "tools"),
        ({"format": Schema()}, "response_format"),
        ({"choices": 2}, "n"),
        ({"logprobs": 1}, "logprobs"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
    ],
)
def test_what_would_change_the_answer_is_refused(more: dict[str, Any], param: str) -> None:
    with pytest.raises(Untranslatable) as refused:
        asked(USER, **more)
    assert refused.value.param == param


def test_tools_that_must_not_be_called_are_not_shown() -> None:
    assert asked(USER, tools=(Tool("tide"),), tool_choice="none")[0] == asked(USER)[0]


@pytest.mark.parametrize("takes", ["prompt", "messages"])
@pytest.mark.parametrize(
    ("part", "what"),
    [
        (ImagePart(url="https://example.com/a.png"), "an image"),
        (DocumentPart(media_type="application/pdf", data="AA=="), "a document"),
        (CallPart("c1", "tide"), "a call of a tool"),
        (ResultPart("c1", (TextPart("six"),)), "a tool's result"),
    ],
)
def test_what_is_no_text_is_refused(takes: Takes, part: Part, what: str) -> None:
    role = "assistant" if isinstance(part, CallPart) else "user"
    with pytest.raises(
        Untranslatable, match=f"`messages` has {what}, which this model's handler does not take"
    ) as refused:
        asked(USER, turn(role, part), takes=takes)
    assert refused.value.param == "messages"


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(min_size=1)), max_size=5))
def test_a_chat_of_texts_is_handed_on_word_for_word(said: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": text} for role, text in said] or [{"role": "user", "content": "x"}]
    body = msgspec.json.encode({"model": "m", "messages": messages})
    conversation = OpenAIChat().read_conversation(body)
    handed = msgspec.json.decode(
        read_envelope(PredictionProvider("messages", ()).write_conversation(conversation, "m").body).input
    )
    for role in ("system", "user", "assistant"):
        texts = [message["content"] for message in messages if message["role"] == role]
        assert "\n\n".join(texts) == "\n\n".join(one["content"] for one in handed["messages"] if one["role"] == role)


@pytest.mark.parametrize(
    "hint", [{"type": "string"}, {"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string", "default": ""}]
)
def test_a_handler_that_stops_at_one_text_gets_a_text(hint: dict[str, Any]) -> None:
    schema = msgspec.json.encode({"properties": {"stop": hint}})
    provider = PredictionProvider("messages", ("messages", "stop"), schema)

    def given_for(*stop: str) -> Any:
        conversation = Conversation(turns=(USER,), members=MEMBERS, stop=stop)
        return msgspec.json.decode(read_envelope(provider.write_conversation(conversation, "river").body).input)

    assert given_for("x")["stop"] == "x"
    assert "stop" not in given_for()
    with pytest.raises(Untranslatable, match="`stop` has several texts") as refusal:
        given_for("x", "y")
    assert refusal.value.param == "stop"


@pytest.mark.parametrize(
    "hint",
    [
        {},
        {"type": "array", "items": {"type": "string"}},
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {}}]},
    ],
)
def test_a_handler_that_takes_a_list_to_stop_at_gets_a_list(hint: dict[str, Any]) -> None:
    schema = msgspec.json.encode({"properties": {"stop": hint}})
    provider = PredictionProvider("messages", ("messages", "stop"), schema)
    conversation = Conversation(turns=(USER,), members=MEMBERS, stop=("x",))
    envelope = read_envelope(provider.write_conversation(conversation, "river").body)
    assert msgspec.json.decode(envelope.input)["stop"] == ["x"]
