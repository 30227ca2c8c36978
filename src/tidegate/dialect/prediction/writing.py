"""A chat as a handler is asked: its messages, or one prompt, and those settings that are among its parameters.

A handler that takes `messages` gets a list of {"role", "content"}, the contents as texts. One that takes a `prompt` gets the
text of a lone turn as it is, and of more a transcript:

    the system's text

    User: …
    Assistant: …
    User: …
    Assistant:

where the last line is left open for the answer. A handler that has a parameter `system_prompt` gets the system's text there.

A member of the request that has the name of another parameter goes there as it is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw, Struct, structs

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
from tidegate.verdict import BAD_REQUEST, Refused

Takes = Literal["prompt", "messages"]

_WHOM: Final = "this model's handler"

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
_WORDS: Final = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "messages",
        "input",
        "system",
        "instructions",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "stop",
        "stop_sequences",
        "frequency_penalty",
        "presence_penalty",
    }
)
"""Members of chats, in any dialect, that are said to a handler in its own words and forms."""
_SPEAKERS: Final = {"user": "User", "assistant": "Assistant"}
_KINDS: Final[Mapping[type[Part], str]] = {
    ImagePart: "an image",
    DocumentPart: "a document",
    CallPart: "a call of a tool",
    ResultPart: "a tool's result",
}


class Mistake(Struct, frozen=True):
    """What a handler's schema forbids. Shape: `name` is the parameter, empty where it is none of them; `why` quotes no value."""

    name: str
    why: str


Check = Callable[[Mapping[str, object]], Mistake | None]
"""Looks for what an input may not have."""


class Handler(Struct, frozen=True):
    """What a handler takes.

    Shape: `settings` are the names of its parameters by the fields of a Conversation; `stops_once` says that it takes one text to
    stop at, and no list of them. `own` are the parameters that chats have no word for; `check` says what of an input it forbids.
    """

    takes: Takes
    settings: Mapping[str, str]
    system: str
    lacks: Mapping[str, Loss]
    stops_once: bool
    own: frozenset[str]
    check: Check


_decode_schema = msgspec.json.Decoder(dict[str, Any]).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_value = msgspec.json.Decoder().decode


def handler_of(takes: Takes, parameters: Sequence[str], schema: bytes, files: Sequence[str], check: Check) -> Handler:
    """Find among a handler's parameters those that chats have a word for. Shape: `schema` is the JSON Schema of its inputs."""
    said = _decode_schema(schema)
    named = {field: _first(names, parameters) for field, names in _PARAMETERS.items()}
    settings = {field: name for field, name in named.items() if name}
    missing = {field: loss for field, loss in _WITHOUT.items() if field not in settings}
    once = "stop" in settings and _is_text(said, settings["stop"])
    own = frozenset(parameters) - _WORDS - {takes, *files}
    return Handler(takes, settings, _first(_SYSTEM, parameters), {**_LACKS, **missing}, once, own, check)


def _is_text(schema: dict[str, Any], name: str) -> bool:
    """Say whether a parameter takes a text and no list."""
    kinds = _kinds(schema.get("properties", {}).get(name, {}), schema.get("$defs", {}), set())
    return "string" in kinds and "array" not in kinds


def _kinds(hint: Any, parts: Mapping[str, Any], seen: set[str]) -> set[str]:
    """Give the types that a schema allows, as far as it says so. Shape: `seen` are the parts that were looked at."""
    if not isinstance(hint, dict):
        return set()
    kind, name = hint.get("type", ()), str(hint.get("$ref", "")).removeprefix("#/$defs/")
    kinds = {kind} if isinstance(kind, str) else set(kind)
    if any(isinstance(value, str) for value in (*hint.get("enum", ()), hint.get("const"))):
        kinds.add("string")
    inner = [each for word in ("anyOf", "oneOf", "allOf") for each in hint.get(word, ())]
    if name not in seen:
        seen.add(name)
        inner.append(parts.get(name))
    return kinds.union(*(_kinds(each, parts, seen) for each in inner))


def apart(body: bytes, own: frozenset[str]) -> tuple[bytes, dict[str, object]]:
    """Take what is meant for a handler's own parameters out of a chat's request. Shape: null is not said.

    Errors: Refused (bad_request) for one that cannot be read; what is no object at all is left to who reads the rest.
    """
    try:
        members = _decode_members(body) if own else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body, {}
    taken = {name: members.pop(name) for name in own & members.keys() if bytes(members[name]) != b"null"}
    return (json_of(members) if taken else body), {name: _value(name, raw) for name, raw in taken.items()}


def _value(name: str, raw: Raw) -> object:
    try:
        value: object = _decode_value(raw)
    except (msgspec.DecodeError, RecursionError):  # too large a number, or too deep
        raise Refused(BAD_REQUEST, f"`{name}` cannot be read", param=name) from None
    return value


def written(
    conversation: Conversation, model: str, handler: Handler, own: Mapping[str, object] | None = None
) -> Written:
    """Write a request. Shape: `own` are values of parameters that chats have no word for.

    Errors: Untranslatable for what the handler cannot be told; Refused (bad_request) for what its schema forbids.
    """
    own = own or {}
    dropped = lost(_unasked(conversation), handler.lacks, _WHOM)
    given = {name: getattr(conversation, field) for field, name in handler.settings.items()}
    settings = {name: value for name, value in given.items() if value not in (None, ())}
    if handler.stops_once and conversation.stop:
        settings[handler.settings["stop"]] = _only_stop(conversation)
    system = "" if handler.system in own else handler.system
    asked = _messages(conversation) if handler.takes == "messages" else _prompt(conversation, system)
    members = {**asked, **settings, **own}
    mistake = handler.check(members)
    if mistake is not None:
        member = mistake.name if mistake.name in own else _said_as(mistake.name, conversation, handler)
        what = f"`{member}`" if member else "the request"
        raise Refused(BAD_REQUEST, f"{what} does not fit this model: {mistake.why}", param=member or None)
    return Written(write_envelope(model, "", json_of(members), {}), dropped)


def _said_as(name: str, conversation: Conversation, handler: Handler) -> str:
    """Give the client's member that a parameter's value came from; empty where it is of no one parameter."""
    if not name:
        return ""
    return conversation.member(next((field for field, each in handler.settings.items() if each == name), "turns"))


def _only_stop(conversation: Conversation) -> str:
    """Give the one text to stop at. Errors: Untranslatable where there are several."""
    if len(conversation.stop) > 1:
        member = conversation.member("stop")
        raise Untranslatable(member, f"`{member}` has several texts, of which {_WHOM} takes one")
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
                raise Untranslatable(member, f"`{member}` has {what}, which {_WHOM} does not take")


def _first(names: Sequence[str], parameters: Sequence[str]) -> str:
    return next((name for name in names if name in parameters), "")
