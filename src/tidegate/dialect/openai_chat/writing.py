"""A conversation as a chat completions request."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

from msgspec import Struct, field, structs

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
    Tool,
    Turn,
    Untranslatable,
    Written,
    lost,
    thinking_effort,
)
from tidegate.dialect.openai_chat.values import NAME
from tidegate.dialect.values import json_of

Usages = Literal["asked", "given"]
Thoughts = Literal["", "reasoning_content", "reasoning", "reasoning_details", "extra_content"]

LACKS: Final[Mapping[str, Loss]] = {
    "top_k": REFUSED,
    "shows_thoughts": DROPPED,
    # No event tells them: what was asked for would not arrive.
    "logprobs": REFUSED,
    # What went wrong is said in the result's text.
    "ResultPart.failed": DROPPED,
}
"""What OpenAI has no word for."""

_UNSAID: Final = Conversation(turns=())
_PLAIN: Final = ("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty", "logit_bias")
"""Fields that are members of the same name, unless they are None."""


class Quirks(Struct, frozen=True):
    """How a compatible server differs from OpenAI's own.

    Shape: `usage` is whether a stream tells it when asked, or tells it anyway, if at all, and may refuse to be asked;
    `bound` is the member that bounds the output; `thoughts` is where earlier thoughts, or signatures of calls, go back.
    """

    usage: Usages = "asked"
    bound: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    thoughts: Thoughts = ""
    lacks: Mapping[str, Loss] = field(default_factory=lambda: LACKS)


def written(conversation: Conversation, model: str, quirks: Quirks) -> Written:
    """Write a request. Errors: Untranslatable."""
    dropped = lost(conversation, quirks.lacks, f"a provider that speaks {NAME}")
    lacks = [name for name in quirks.lacks if "." not in name]
    said = structs.replace(conversation, **{name: getattr(_UNSAID, name) for name in lacks})
    members: dict[str, Any] = {"model": model, "messages": [*_messages(said, quirks.thoughts)], **_settings(said)}
    if said.max_tokens is not None:
        members[quirks.bound] = said.max_tokens
    if said.stream:
        members["stream"] = True
        if quirks.usage == "asked":
            members["stream_options"] = {"include_usage": True}
    return Written(json_of(members), dropped)


def _settings(said: Conversation) -> dict[str, Any]:
    members: dict[str, Any] = {
        "tools": [_tool(tool) for tool in said.tools],
        "tool_choice": {"type": "function", "function": {"name": said.tool}} if said.tool else said.tool_choice,
        "response_format": _format(said),
        "stop": said.stop,
        "reasoning_effort": thinking_effort(said),
        "verbosity": said.verbosity,
        "user": said.user,
        "n": said.choices if said.choices != 1 else None,
    }
    plain = {name: getattr(said, name) for name in _PLAIN} | {"parallel_tool_calls": said.parallel_tools}
    return {name: value for name, value in members.items() if value} | {
        name: value for name, value in plain.items() if value is not None
    }


def _tool(tool: Tool) -> dict[str, Any]:
    said = {"description": tool.description or None, "parameters": tool.parameters, "strict": tool.strict}
    return {"type": "function", "function": {"name": tool.name, **_given(said)}}


def _format(said: Conversation) -> dict[str, Any] | None:
    wanted = said.format
    if wanted is None:
        return None
    if wanted.schema is None:
        return {"type": "json_object"}
    more = {"description": wanted.description or None, "schema": wanted.schema, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": {"name": wanted.name or "answer", **_given(more)}}


def _given(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


# --- messages --------------------------------------------------------------------------------------------------------


def _messages(said: Conversation, thoughts: Thoughts) -> Iterator[dict[str, Any]]:
    for turn in said.turns:
        if turn.role == "assistant":
            yield _assistant(turn, thoughts)
        elif turn.role == "system":
            yield {"role": "system", "content": _content(turn.parts, said)}
        else:
            yield from _user(turn, said)


def _user(turn: Turn, said: Conversation) -> Iterator[dict[str, Any]]:
    """Give the messages of a user's turn.

    Shape: a tool's message takes text alone, so the images and documents that tools gave follow in the user's own message.
    """
    moved: list[Part] = []
    for part in turn.parts:
        if isinstance(part, ResultPart):
            texts = [one for one in part.parts if isinstance(one, TextPart)]
            media = [one for one in part.parts if not isinstance(one, TextPart)]
            if media:
                moved += [TextPart(f"What `{part.name or part.id}` shows:"), *media]
            yield {"role": "tool", "tool_call_id": part.id, "content": _content(texts, said)}
    rest = [*moved, *(part for part in turn.parts if not isinstance(part, ResultPart))]
    if rest:
        yield {"role": "user", "content": _content(rest, said)}


def _content(parts: Iterable[Part], said: Conversation) -> str | list[dict[str, Any]]:
    """Give a content. Shape: text alone is one string, as several servers take no list of texts (DeepSeek's, for one)."""
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    return "\n\n".join(texts) if len(texts) == len([*parts]) else [_part(part, said) for part in parts]


def _part(part: Part, said: Conversation) -> dict[str, Any]:
    match part:
        case ImagePart():
            image = {"url": part.url or f"data:{part.media_type};base64,{part.data}", "detail": part.detail or None}
            return {"type": "image_url", "image_url": _given(image)}
        case DocumentPart(url=url):
            if url:
                raise Untranslatable(
                    said.member("turns"), "a document must be inline for a provider that speaks " + NAME
                )
            name = part.name or f"document.{part.media_type.rpartition('/')[2]}"
            return {
                "type": "file",
                "file": {"filename": name, "file_data": f"data:{part.media_type};base64,{part.data}"},
            }
        case TextPart(text):
            return {"type": "text", "text": text}
        case _:
            raise Untranslatable(said.member("turns"), f"a {type(part).__name__} cannot be a user's")


def _assistant(turn: Turn, thoughts: Thoughts) -> dict[str, Any]:
    texts = [part.text for part in turn.parts if isinstance(part, TextPart)]
    refusals = [part.text for part in turn.parts if isinstance(part, RefusalPart)]
    calls = [_call(part, thoughts) for part in turn.parts if isinstance(part, CallPart)]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(texts) if texts or not (calls or refusals) else None,
    }
    if refusals:
        message["refusal"] = "".join(refusals)
    if calls:
        message["tool_calls"] = calls
    return message | _thoughts([part for part in turn.parts if isinstance(part, ThoughtPart)], thoughts)


def _call(part: CallPart, thoughts: Thoughts) -> dict[str, Any]:
    call: dict[str, Any] = {
        "id": part.id,
        "type": "function",
        "function": {"name": part.name, "arguments": part.arguments},
    }
    if thoughts == "extra_content" and part.signature and part.origin == NAME:
        call["extra_content"] = {"google": {"thought_signature": part.signature}}
    return call


def _thoughts(parts: list[ThoughtPart], thoughts: Thoughts) -> dict[str, Any]:
    """Give the member that hands thoughts back. Shape: plain members take any maker's text, details none that others signed."""
    if thoughts in {"reasoning_content", "reasoning"}:
        text = "".join(part.text for part in parts)
        return {thoughts: text} if text else {}
    if thoughts != "reasoning_details":
        return {}
    details = [_detail(part) for part in parts if part.origin == NAME or not (part.signature or part.sealed)]
    return (
        {"reasoning_details": [{**detail, "index": number} for number, detail in enumerate(details)]} if details else {}
    )


def _detail(part: ThoughtPart) -> dict[str, Any]:
    if part.sealed:
        return _given({"type": "reasoning.encrypted", "data": part.sealed, "id": part.id or None})
    return _given({"type": "reasoning.text", "text": part.text, "signature": part.signature or None})
