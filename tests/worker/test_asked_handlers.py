"""How real handlers are asked in chats: what their type hints come to decides, and nothing reaches them that these forbid."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.conversation import Untranslatable
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.openai_responses import OpenAIResponses
from tidegate.dialect.prediction import PredictionProvider, read_envelope
from tidegate.predict.handler import look
from tidegate.verdict import BAD_REQUEST, Refused
from tidegate.worker.messages import Info
from tidegate.worker.schema import provider_of

HEAD = """
import dataclasses, enum, typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Optional, Union
from tidegate.predict import Input, Path, Secret

class Word(enum.Enum):
    END = "END"
    STOP = "STOP"

class Message(typing.TypedDict):
    role: Literal["user", "assistant"]
    content: str

@dataclasses.dataclass
class Said:
    role: str
    content: str
    name: str = ""
"""


def handler(parameters: str) -> PredictionProvider:
    """Give how a handler is asked that has these parameters, by way of what its process says of itself."""
    names: dict[str, Any] = {"__name__": "model"}
    exec(f"{HEAD}\ndef predict({parameters}) -> Iterator[str]:\n    yield ''", names)  # noqa: S102 (it is what users write)
    looked = look("model:predict", names["predict"])
    info = Info(
        openapi=Raw(b"{}"),
        input_schema=Raw(msgspec.json.encode(looked.input_schema())),
        files=looked.files,
        parameters=looked.parameters,
        takes=looked.takes,
    )
    assert info.takes
    return provider_of(info)


def asked(provider: PredictionProvider, **more: Any) -> Any:
    """Give the input that a handler gets for a chat."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **more}
    return given_by(OpenAIChat(), provider, body)


def given_by(client: Any, provider: PredictionProvider, body: dict[str, Any]) -> Any:
    written = provider.write_chat(client, msgspec.json.encode(body), "m")
    return msgspec.json.decode(read_envelope(written.body).input)


TEXTS = [
    "str = ''",
    "str | None = None",
    "Optional[str] = None",
    "Annotated[str | None, Input()] = None",
    "str | None = Input(default=None, max_length=9)",
    "Literal['END', 'STOP'] = 'END'",
    "Literal['END', 'STOP'] | None = None",
    "Literal['END'] = 'END'",
    "str | None = Input(default=None, choices=['END', 'STOP'])",
    "Word = Word.END",
    "Word | None = None",
    "str | int = ''",
    "str | int | None = None",
]
LISTS = [
    "list[str] | None = None",
    "Optional[list[str]] = None",
    "Sequence[str] | None = None",
    "list[Word] | None = None",
    "list | None = None",
    "str | list[str] = ''",
    "str | list[str] | None = None",
    "Union[str, list[str], None] = None",
    "Any = None",
    "object | None = None",
]


@pytest.mark.parametrize("name", ["stop", "stop_sequences", "stop_words"])
@pytest.mark.parametrize("kind", TEXTS)
def test_a_handler_that_stops_at_a_text_gets_a_text(name: str, kind: str) -> None:
    provider = handler(f"prompt: str, {name}: {kind}")
    assert asked(provider) == {"prompt": "Hi"}
    assert asked(provider, stop="END") == asked(provider, stop=["END"]) == {"prompt": "Hi", name: "END"}
    with pytest.raises(Untranslatable, match="`stop` has several texts, of which this model's handler takes one"):
        asked(provider, stop=["END", "STOP"])


@pytest.mark.parametrize("name", ["stop", "stop_sequences", "stop_words"])
@pytest.mark.parametrize("kind", LISTS)
def test_a_handler_that_stops_at_several_texts_gets_a_list(name: str, kind: str) -> None:
    provider = handler(f"prompt: str, {name}: {kind}")
    assert asked(provider) == {"prompt": "Hi"}
    assert asked(provider, stop="END") == {"prompt": "Hi", name: ["END"]}
    assert asked(provider, stop=["END", "STOP"]) == {"prompt": "Hi", name: ["END", "STOP"]}


SHAPES = [
    "prompt: str",
    "prompt: str = ''",
    "prompt: str | None = None",
    "prompt: Annotated[str, Input(max_length=99)]",
    "messages: list[dict]",
    "messages: list[dict[str, str]]",
    "messages: list[dict[str, Any]] | None = None",
    "messages: list",
    "messages: Any",
    "messages: list[Message]",
    "messages: list[Said]",
    "messages: Sequence[Said] | None = None",
    "messages: list[Said | Message]",
]
SETTINGS = [
    "max_tokens: int = 5",
    "max_tokens: int | None = Input(default=None, ge=1)",
    "max_tokens: int = Input(default=5, choices=[5, 7])",
    "max_new_tokens: Optional[int] = None",
    "max_tokens: Literal[5, 7] = 5",
    "max_tokens: float | None = None",
    "temperature: float = 1.0",
    "temperature: float | None = Input(default=None, ge=0, le=2)",
    "temperature: int = 1",
    "seed: int | None = None",
    "seed: int | str | None = None",
    "top_p: float | int | None = None, top_k: int | None = None",
    "system_prompt: str | None = None",
    "system: str | None = Input(default=None, max_length=99)",
    "system: list[str] | None = None",
    "stop: str | None = None, stop_sequences: list[str] | None = None",
    "word: Word | None = None, secret: Secret | None = None, image: Path | None = None, images: list[Path] | None = None",
    "deep: dict[str, list[Said]] | None = None",
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_every_handler_that_takes_chats_is_asked(shape: str, settings: str) -> None:
    provider = handler(f"*, {settings}, {shape}")
    found = asked(provider)
    assert found in ({"prompt": "Hi"}, {"messages": [{"role": "user", "content": "Hi"}]})
    full = asked(provider, max_tokens=5, temperature=1, seed=7, top_p=0.5)
    assert full.items() >= found.items()
    name = settings.partition(":")[0]
    assert {"max_tokens": 5, "max_new_tokens": 5, "temperature": 1, "seed": 7, "top_p": 0.5}.get(name) == full.get(name)


BOUNDED = handler(
    "prompt: str = Input(max_length=9), max_tokens: int = Input(default=2, ge=1, le=3),"
    "temperature: float = Input(default=1, ge=0, le=2), seed: int | None = Input(default=None, ge=0),"
    "stop: str | None = Input(default=None, max_length=3), system_prompt: str = Input(default='', max_length=4),"
    "delay: float = Input(default=0, le=1), tone: Literal['warm', 'cold'] = 'warm', image: Path | None = None, limit: int | str = 3"
)
WRONG = [
    ({"max_tokens": 50}, "max_tokens", "the value is greater than the maximum of 3"),
    ({"max_completion_tokens": 50}, "max_completion_tokens", "the value is greater than the maximum of 3"),
    ({"temperature": 99}, "temperature", "the value is greater than the maximum of 2"),
    ({"seed": -5}, "seed", "the value is less than the minimum of 0"),
    ({"stop": "secret words"}, "stop", "the value is longer than 3 characters"),
    ({"messages": [{"role": "user", "content": "secret" * 9}]}, "messages", "the value is longer than 9 characters"),
    (
        {"messages": [{"role": "system", "content": "secret"}, {"role": "user", "content": "Hi"}]},
        "messages",
        "the value is longer than 4 characters",
    ),
    ({"delay": 7}, "delay", "the value is greater than the maximum of 1"),
    ({"delay": "secret"}, "delay", 'the value is not of type "number"'),
    ({"tone": "secret"}, "tone", 'the value is not one of "cold" or "warm"'),
    ({"limit": []}, "limit", 'the value is not of type "integer", and the value is not of type "string"'),
]


@pytest.mark.parametrize(("more", "param", "why"), WRONG)
def test_what_the_handler_forbids_is_refused_in_the_client_s_own_words(
    more: dict[str, Any], param: str, why: str
) -> None:
    with pytest.raises(Refused) as refused:
        asked(BOUNDED, **more)
    assert refused.value.verdict is BAD_REQUEST
    assert (refused.value.param, refused.value.message) == (param, f"`{param}` does not fit this model: {why}")


def test_the_example_s_bound_is_told_as_the_client_s() -> None:
    text = (Path(__file__).parents[2] / "examples" / "transformers_tiny" / "model.py").read_text(encoding="utf-8")
    provider = handler(
        text.partition("self,\n        prompt")[2].partition("    ) -> Iterator")[0].join(["prompt", ""])
    )
    assert asked(provider, max_tokens=2048, seed=7) == {"prompt": "Hi", "max_new_tokens": 2048, "seed": 7}
    with pytest.raises(
        Refused, match="`max_tokens` does not fit this model: the value is greater than the maximum of 2048"
    ):
        asked(provider, max_tokens=2049)


def test_each_dialect_is_told_its_own_member() -> None:
    turns = [{"role": "user", "content": "Hi"}]
    for client, body, param in (
        (Anthropic(), {"messages": turns, "max_tokens": 50}, "max_tokens"),
        (Anthropic(), {"messages": turns, "max_tokens": 2, "stop_sequences": ["longer"]}, "stop_sequences"),
        (OpenAIResponses(), {"input": "Hi", "max_output_tokens": 50}, "max_output_tokens"),
        (OpenAIResponses(), {"input": "much too long"}, "input"),
        (Anthropic(), {"messages": turns, "max_tokens": 2, "delay": 9}, "delay"),
        (OpenAIResponses(), {"input": "Hi", "delay": 9}, "delay"),
    ):
        with pytest.raises(Refused) as refused:
            given_by(client, BOUNDED, {"model": "m", **body})
        assert refused.value.param == param


def test_messages_that_do_not_fit_say_where() -> None:
    provider = handler("messages: list[Message]")
    with pytest.raises(Refused, match=r"`messages` does not fit this model: at 0\.role: ") as refused:
        asked(provider, messages=[{"role": "system", "content": "Be brief."}])
    assert refused.value.param == "messages"


def test_members_with_the_names_of_the_handler_s_own_inputs_reach_it() -> None:
    own = {"delay": 0.5, "tone": "cold", "limit": "x"}
    assert asked(BOUNDED, **own) == {"prompt": "Hi", **own}
    turns = [{"role": "user", "content": "Hi"}]
    assert given_by(Anthropic(), BOUNDED, {"model": "m", "messages": turns, "max_tokens": 2, **own}) == {
        "prompt": "Hi",
        "max_tokens": 2,
        **own,
    }
    assert given_by(OpenAIResponses(), BOUNDED, {"model": "m", "input": "Hi", **own}) == {"prompt": "Hi", **own}


def test_even_where_chats_have_a_use_of_their_own_for_the_name() -> None:
    provider = handler(
        "prompt: str, n: int = 1, user: str = '', tools: list[dict] | None = None, metadata: dict | None = None"
    )
    own = {"n": 3, "user": "ada", "tools": [{"name": "tide"}], "metadata": {"a": "b"}}
    assert asked(provider, **own) == {"prompt": "Hi", **own}
    plain = handler("prompt: str")
    with pytest.raises(Untranslatable, match="`n` cannot be said to this model's handler"):
        asked(plain, n=3)


def test_a_member_that_says_nothing_is_left_out() -> None:
    assert asked(BOUNDED, delay=None) == {"prompt": "Hi"}


def test_a_member_that_is_no_input_is_refused_by_name() -> None:
    for name in ("delays", "image", "prompt"):  # a file, and what is said already, are no members of chats
        with pytest.raises(Untranslatable) as refused:
            asked(BOUNDED, **{name: 1})
        assert refused.value.param == name


def test_a_system_prompt_said_by_its_own_name_takes_no_system_s_place() -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    provider = handler("prompt: str, system_prompt: str = ''")
    assert asked(provider, messages=turns) == {"prompt": "Hi", "system_prompt": "Be kind."}
    assert asked(provider, messages=turns, system_prompt="Be brief.") == {
        "prompt": "Be kind.\n\nUser: Hi\nAssistant:",
        "system_prompt": "Be brief.",
    }


@pytest.mark.parametrize(("text", "param"), [("1e999", "delay"), ("[" * 5000 + "]" * 5000, "delay")])
def test_a_member_that_no_computer_holds_is_refused(text: str, param: str) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"delay":%b}' % text.encode()
    with pytest.raises(Refused) as refused:
        BOUNDED.write_chat(OpenAIChat(), body, "m")
    assert refused.value.verdict is BAD_REQUEST


def test_what_is_too_deep_to_be_checked_is_refused() -> None:
    provider = handler("prompt: str, tone: Literal['warm', 'cold'] = 'warm'")
    deep: Any = "x"
    for _ in range(700):
        deep = [deep]
    with pytest.raises(Refused, match=r"^the request does not fit this model: it is nested too deeply$") as refused:
        asked(provider, tone=deep)
    assert refused.value.param is None


def test_a_body_that_is_no_object_is_refused_by_its_dialect() -> None:
    for body in (b"[1]", b"{", b"\xff"):
        with pytest.raises(Refused):
            BOUNDED.write_chat(OpenAIChat(), body, "m")


@pytest.mark.parametrize(
    "schema",
    [
        {
            "properties": {"stop": {"$ref": "#/$defs/Own"}},
            "$defs": {"Own": {"anyOf": [{"$ref": "#/$defs/Own"}, {"type": "string"}]}},
        },
        {"properties": {"stop": {"const": "END"}}},
        {"properties": {"stop": {"allOf": [{"oneOf": [{"type": ["null", "string"]}]}]}}},
    ],
)
def test_a_schema_is_followed_as_far_as_it_goes(schema: dict[str, Any]) -> None:
    provider = PredictionProvider("prompt", ("prompt", "stop"), msgspec.json.encode(schema))
    assert asked(provider, stop=["END"]) == {"prompt": "Hi", "stop": "END"}
