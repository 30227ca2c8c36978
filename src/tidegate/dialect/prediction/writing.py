"""A chat as a handler is asked: its messages, or one prompt, and those settings that are among its parameters.

A handler that takes `messages` gets a list of {"role", "content"}, the contents as texts. One that takes a `prompt` gets the
text of a lone turn as it is, and of more a transcript:

    the system's text

    User: …
    Assistant: …
    User: …
    Assistant:

where the last line is left open for the answer. A handler that has a parameter `system_prompt` gets the system's text there.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, structs

from tidegate.dialect.conversation import (
    DROPPED,
    REFUSED,
    CallPart,
    Conversation,
    DocumentPart,
    ImagePart,
    Loss,
    Part,
    RefusalPart,
    ResultPart,
    TextPart,
    ThoughtPart,
    Turn,
    Untranslatable,
    Written,
    leading,
    lost,
)
from tidegate.dialect.prediction.envelope import write_envelope
from tidegate.dialect.values import json_of

Takes = Literal["prompt", "messages"]

_PROVIDER: Final = "a model that runs here"

_PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "max_tokens": ("max_tokens", "max_new_tokens", "max_output_tokens", "max_completion_tokens", "max_length"),
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "seed": ("seed",),
    "frequency_penalty": ("frequency_penalty",),
    "presence_penalty": ("presence_penalty",),
    "stop": ("stop", "stop_sequences", "stop_words"),
}
"""What handlers call a setting; the first that there is gets it."""

_LACKS: Final[Mapping[str, Loss]] = {
    "tools": REFUSED,
    "tool_choice": DROPPED,
    "tool": DROPPED,
    "parallel_tools": DROPPED,
    "format": REFUSED,
    "choices": REFUSED,
    "logprobs": REFUSED,
    "logit_bias": REFUSED,
    "effort": DROPPED,
    "thinking_tokens": DROPPED,
    "shows_thoughts": DROPPED,
    "verbosity": DROPPED,
    "user": DROPPED,
}
"""What no handler is told. Shape: how tools are chosen says nothing where there are none."""
_WITHOUT: Final[Mapping[str, Loss]] = {
    # Most clients say it of themselves, and those of Anthropic's must: the answer is as long as the handler makes it.
    "max_tokens": DROPPED,
    "temperature": DROPPED,
    "top_p": DROPPED,
    "top_k": DROPPED,
    "seed": DROPPED,
    "frequency_penalty": DROPPED,
    "presence_penalty": DROPPED,
    "stop": REFUSED,
}
"""What becomes of a setting that is no parameter of the handler."""
_SYSTEM: Final = ("system_prompt", "system")
_SPEAKERS: Final = {"user": "User", "assistant": "Assistant"}
_KINDS: Final[Mapping[type[Part], str]] = {
    ImagePart: "an image",
    DocumentPart: "a document",
    CallPart: "a call of a tool",
    ResultPart: "a tool's result",
}


class Handler(Struct, frozen=True):
    """What a handler takes.

    Shape: `settings` are the names of its parameters by the fields of a Conversation; `stops_once` says that it takes one text to
    stop at, and no list of them.
    """

    takes: Takes
    settings: Mapping[str, str]
    system: str
    lacks: Mapping[str, Loss]
    stops_once: bool = False


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def handler_of(takes: Takes, parameters: Sequence[str], schema: bytes = b"{}") -> Handler:
    """Find among a handler's parameters those that chats have a word for. Shape: `schema` is the JSON Schema of its inputs."""
    named = {field: _first(names, parameters) for field, names in _PARAMETERS.items()}
    settings = {field: name for field, name in named.items() if name}
    missing = {field: loss for field, loss in _WITHOUT.items() if field not in settings}
    once = _is_text(schema, settings["stop"]) if "stop" in settings else False
    return Handler(takes, settings, _first(_SYSTEM, parameters), {**_LACKS, **missing}, once)


def _is_text(schema: bytes, name: str) -> bool:
    """Say whether a parameter takes a text and no list."""
    hint = _decode(schema).get("properties", {}).get(name, {})
    kinds = {each.get("type") for each in (hint, *hint.get("anyOf", ()))}
    return "string" in kinds and "array" not in kinds


def written(conversation: Conversation, model: str, handler: Handler) -> Written:
    """Write a request. Errors: Untranslatable for what the handler cannot be told."""
    dropped = lost(_unasked(conversation), handler.lacks, _PROVIDER)
    given = {name: getattr(conversation, field) for field, name in handler.settings.items()}
    settings = {name: value for name, value in given.items() if value not in (None, ())}
    if handler.stops_once and conversation.stop:
        settings[handler.settings["stop"]] = _only_stop(conversation)
    asked = _messages(conversation) if handler.takes == "messages" else _prompt(conversation, handler.system)
    return Written(write_envelope(model, "", json_of({**asked, **settings}), {}), dropped)


def _only_stop(conversation: Conversation) -> str:
    """Give the one text to stop at. Errors: Untranslatable where there are several."""
    if len(conversation.stop) > 1:
        member = conversation.member("stop")
        raise Untranslatable(member, f"`{member}` has several texts, of which {_PROVIDER} takes one")
    return conversation.stop[0]


def _unasked(conversation: Conversation) -> Conversation:
    """Leave out tools that must not be called: nobody needs to hear of them."""
    return structs.replace(conversation, tools=()) if conversation.tool_choice == "none" else conversation


def _messages(conversation: Conversation) -> dict[str, object]:
    said = _said(conversation.turns, conversation.member("turns"))
    return {"messages": [{"role": turn.role, "content": text} for turn, text in said]}


def _prompt(conversation: Conversation, name: str) -> dict[str, object]:
    """Give the prompt; apart from it the system's text, where the handler has a parameter of that name."""
    member = conversation.member("turns")
    system, turns = leading(conversation.turns)
    said = [*_said(turns, member)]
    if name and system:
        return {"prompt": _transcript(said, ""), name: system}
    return {"prompt": _transcript(said, system)}


def _transcript(said: Sequence[tuple[Turn, str]], system: str) -> str:
    if not system and len(said) == 1:
        return said[0][1]
    if not said:
        return system
    lines = [f"{_SPEAKERS[turn.role]}: {text}" for turn, text in said]
    if said[-1][0].role != "assistant":
        lines.append("Assistant:")
    return "\n".join([*([system, ""] if system else []), *lines])


def _said(turns: Sequence[Turn], member: str) -> Iterator[tuple[Turn, str]]:
    """Give the turns in which something is said, and what. Errors: Untranslatable for what is no text."""
    for turn in turns:
        texts = [*_texts(turn.parts, member)]
        if texts:
            yield turn, "\n\n".join(texts)


def _texts(parts: Sequence[Part], member: str) -> Iterator[str]:
    for part in parts:
        match part:
            case TextPart(text) | RefusalPart(text):
                yield text
            case ThoughtPart():  # the model need not be told what it thought
                pass
            case _:
                what = _KINDS[type(part)]
                raise Untranslatable(member, f"`{member}` has {what}, which {_PROVIDER} does not take")


def _first(names: Sequence[str], parameters: Sequence[str]) -> str:
    return next((name for name in names if name in parameters), "")
