"""A conversation as a request to Converse: one shape for every model, and members of a model's own beside it.

Of the models, Anthropic's alone are known by more than that shape: how they think, `top_k`, and a choice of tools that Converse
has no word for.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from tidegate.dialect.bedrock.events import NAME
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
    Schema,
    TextPart,
    ThoughtPart,
    Tool,
    Turn,
    Untranslatable,
    Written,
    id_of_call,
    leading,
    lost,
    merged,
    thinking_budget,
    thinking_effort,
)
from tidegate.dialect.values import arguments_of

LACKS: Final[Mapping[str, Loss]] = {
    "seed": DROPPED,
    "user": DROPPED,
    "frequency_penalty": REFUSED,
    "presence_penalty": REFUSED,
    "choices": REFUSED,
    "logprobs": REFUSED,
    "logit_bias": REFUSED,
    "verbosity": DROPPED,
    "ImagePart.detail": DROPPED,
}

MAX_NAME_CHARS: Final = 200
MIN_BUDGET: Final = 1024
"""The fewest tokens that Anthropic's models can be given to think. Source: Anthropic, "Extended thinking"."""

_IMAGES: Final = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
_OFFICE: Final = "application/vnd.openxmlformats-officedocument."
_DOCUMENTS: Final = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    _OFFICE + "wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    _OFFICE + "spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_CHOICES: Final = {"": "auto", "auto": "auto", "required": "any", "tool": "tool", "none": "none"}
_EFFORTS: Final = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh"}

_NO_PARAMETERS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}}
_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_is_id = re.compile(r"[a-zA-Z0-9_.:-]{1,64}").fullmatch
_no_name = re.compile(r"[^a-zA-Z0-9()\[\]-]+").sub
_version = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:-(\d{1,2})(?!\d))?").search


def write(conversation: Conversation, model: str) -> Written:
    """Write a request. Errors: Untranslatable for what Converse, or this model, has no word for."""
    dropped = lost(conversation, LACKS, "a provider that speaks Bedrock's Converse")
    system, turns = leading(conversation.turns)
    turns = merged(tuple(Turn(turn.role, tuple(filter(_says, turn.parts))) for turn in turns))
    knows_more = "anthropic" in model
    blocks = _Blocks(conversation)
    members: dict[str, Any] = {
        "messages": [{"role": turn.role, "content": blocks.all(turn.parts)} for turn in turns],
        "system": [{"text": system}] if system.strip() else None,
        "inferenceConfig": _inference(conversation),
    }
    tools, own = _tools(conversation, turns, knows_more=knows_more)
    members["toolConfig"] = tools
    thinking, effort = _thinking(conversation, model) if knows_more else ({}, _effort(conversation))
    own |= thinking
    if conversation.top_k is not None:
        if not knows_more:
            raise _refusal(conversation, "top_k")
        own["top_k"] = conversation.top_k
    members["additionalModelRequestFields"] = own
    members["outputConfig"] = _said({"textFormat": _format(conversation), "effort": effort})
    return Written(_json(_said(members), conversation), (*dropped, *_unheard(conversation, own, effort)))


def _json(members: dict[str, Any], conversation: Conversation) -> bytes:
    try:
        return _encode(members)
    except UnicodeEncodeError:
        member = conversation.member("turns")
        raise Untranslatable(member, f"`{member}` has a text with half a surrogate pair in it") from None


def _said(members: Mapping[str, Any]) -> dict[str, Any]:
    """Give the members that say something."""
    return {name: value for name, value in members.items() if value is not None and value != {}}


def _refusal(conversation: Conversation, name: str) -> Untranslatable:
    member = conversation.member(name)
    return Untranslatable(member, f"`{member}` cannot be said to this model through Bedrock's Converse")


def _inference(conversation: Conversation) -> dict[str, Any]:
    return _said(
        {
            "maxTokens": conversation.max_tokens,
            "temperature": conversation.temperature,
            "topP": conversation.top_p,
            "stopSequences": conversation.stop or None,
        }
    )


def _format(conversation: Conversation) -> dict[str, Any] | None:
    """Give what the answer must be like. Errors: Untranslatable for any object at all, of which Converse has no word."""
    wanted: Schema | None = conversation.format
    if wanted is None:
        return None
    if wanted.schema is None:
        raise _refusal(conversation, "format")
    schema = {
        "schema": _encode(wanted.schema).decode(),
        "name": wanted.name or None,
        "description": wanted.description or None,
    }
    return {"type": "json_schema", "structure": {"jsonSchema": _said(schema)}}


# --- what is said --------------------------------------------------------------------------------------------------


def _says(part: Part) -> bool:
    """Whether a part says something here: Converse refuses blank text, and thoughts that another provider has signed."""
    match part:
        case TextPart(text) | RefusalPart(text):
            return bool(text.strip())
        case ThoughtPart():
            return part.origin == NAME and bool(part.signature or part.sealed)
        case _:
            return True


class _Blocks:
    """Writes parts as blocks of content. Holds: the names of the documents so far, of which no two may be the same."""

    def __init__(self, conversation: Conversation) -> None:
        self._member = conversation.member("turns")
        self._names: set[str] = set()

    def all(self, parts: Iterable[Part]) -> list[dict[str, Any]]:
        """Give the blocks of a turn, or of a result. Errors: Untranslatable."""
        return [self._block(part) for part in parts]

    def _block(self, part: Part) -> dict[str, Any]:
        match part:
            case TextPart(text) | RefusalPart(text):
                return {"text": text}
            case ImagePart():
                return {"image": self._file(part, _IMAGES, "an image")}
            case DocumentPart():
                name = self._name(part.name)
                return {"document": self._file(part, _DOCUMENTS, "a document") | {"name": name}}
            case ThoughtPart():
                return {"reasoningContent": _thought(part)}
            case CallPart():
                return {"toolUse": {"toolUseId": _id(part.id), "name": part.name, "input": _input(part)}}
            case _:
                result = {"toolUseId": _id(part.id), "content": self.all(filter(_says, part.parts))}
                # Said of failures alone: not every model knows the word.
                return {"toolResult": result | ({"status": "error"} if part.failed else {})}

    def _file(self, part: ImagePart | DocumentPart, formats: Mapping[str, str], what: str) -> dict[str, Any]:
        if not part.data:
            raise Untranslatable(
                self._member, f"`{self._member}` has {what} by its URL, and Bedrock takes the bytes of one only"
            )
        form = formats.get(part.media_type.partition(";")[0].strip().lower())
        if form is None:
            raise Untranslatable(
                self._member,
                f"`{self._member}` has {what} of a type that Bedrock does not take: it takes {', '.join(formats)}",
            )
        return {"format": form, "source": {"bytes": part.data}}

    def _name(self, given: str) -> str:
        """Give a document's name in the few characters that it may have, and with a number where it was taken."""
        stem, dot, _ = given.rpartition(".")
        wanted = _no_name(" ", stem if dot else given).strip()[:MAX_NAME_CHARS].strip() or "document"
        name, number = wanted, 1
        while name.lower() in self._names:
            number += 1
            suffix = f" {number}"
            name = wanted[: MAX_NAME_CHARS - len(suffix)] + suffix
        self._names.add(name.lower())
        return name


def _input(call: CallPart) -> Raw | dict[str, Any]:
    """Give a call's arguments, as they came where they are an object: numbers keep their last digit."""
    try:
        arguments = call.arguments.encode()
        _decode_object(arguments)
    except (UnicodeEncodeError, msgspec.DecodeError, RecursionError):
        return arguments_of(call)
    return Raw(arguments)


def _thought(part: ThoughtPart) -> dict[str, Any]:
    if part.sealed:
        return {"redactedContent": part.sealed}
    return {"reasoningText": {"text": part.text, "signature": part.signature}}


def _id(given: str) -> str:
    return id_of_call(given, _is_id)


# --- tools ---------------------------------------------------------------------------------------------------------


def _tools(
    conversation: Conversation, turns: tuple[Turn, ...], *, knows_more: bool
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Give the tools, and what Anthropic's models are told of the choice beside them. Errors: Untranslatable.

    Shape: where none may be called they are left out; but after a call Converse wants them stated, and cannot forbid them.
    """
    tools = conversation.tools
    choice = _CHOICES[conversation.tool_choice] if tools else "none"
    called = [part for turn in turns for part in turn.parts if isinstance(part, CallPart | ResultPart)]
    if choice == "none" and not called:
        return None, {}
    names = dict.fromkeys(part.name for part in called if isinstance(part, CallPart))
    config: dict[str, Any] = {"tools": [_tool(tool) for tool in tools or map(Tool, names)]}
    one = conversation.parallel_tools is False and knows_more
    if choice == "none" or one:
        if not knows_more:
            raise _refusal(conversation, "tool_choice" if conversation.tool_choice == "none" else "tools")
        # The choice is said once: Bedrock refuses one that comes in both places.
        return config, {"tool_choice": _own_choice(choice, conversation.tool, one=one)}
    if conversation.tool_choice:
        config["toolChoice"] = {choice: {"name": conversation.tool} if choice == "tool" else {}}
    return config, {}


def _own_choice(choice: str, tool: str, *, one: bool) -> dict[str, Any]:
    """Give the choice in Anthropic's words. Source: Anthropic, "Messages": tool_choice."""
    own: dict[str, Any] = {"type": choice}
    if choice == "tool":
        own["name"] = tool
    if one and choice != "none":
        own["disable_parallel_tool_use"] = True
    return own


def _tool(tool: Tool) -> dict[str, Any]:
    parameters = tool.parameters if tool.parameters is not None else _NO_PARAMETERS
    return {
        "toolSpec": _said(
            {
                "name": tool.name,
                "description": tool.description or None,
                "inputSchema": {"json": parameters},
                # Not being strict is what all models do, and what not all know a word for.
                "strict": tool.strict or None,
            }
        )
    }


# --- thoughts ------------------------------------------------------------------------------------------------------


def _effort(conversation: Conversation) -> str | None:
    return _EFFORTS.get(thinking_effort(conversation))


def _thinking(conversation: Conversation, model: str) -> tuple[dict[str, Any], str | None]:
    """Give how one of Anthropic's models is to think, and the effort.

    Source: Anthropic, "Adaptive thinking": since 4.6 a model bounds its thoughts by the effort, before it had a budget.
    """
    effort, budget, shows = thinking_effort(conversation), thinking_budget(conversation), conversation.shows_thoughts
    if budget == 0:
        return {"thinking": {"type": "disabled"}}, None
    if _adapts(model):
        if not effort and not shows:
            return {}, None
        shown = None if shows is None else "summarized" if shows else "omitted"
        return {"thinking": _said({"type": "adaptive", "display": shown})}, _EFFORTS.get(effort)
    if budget is None:
        return {}, None
    if conversation.thinking_tokens is None and conversation.max_tokens is not None:
        # An effort is no number: half of what may be said is left for the answer.
        budget = max(MIN_BUDGET, min(budget, conversation.max_tokens // 2))
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}, None


def _adapts(model: str) -> bool:
    found = _version(model)
    return found is None or (int(found[1]), int(found[2] or 0)) >= (4, 6)


def _unheard(conversation: Conversation, own: Mapping[str, Any], effort: str | None) -> tuple[str, ...]:
    """Give the members that are not in the request, though other models are told of them."""
    thinking, shows = own.get("thinking", {}), conversation.shows_thoughts
    # At worst the client hears of several calls at once.
    one = conversation.parallel_tools is False and conversation.tools and conversation.tool_choice != "none"
    unheard = ["parallel_tools"] if one and "tool_choice" not in own else []
    if not thinking and effort is None:
        unheard += [name for name in ("effort", "thinking_tokens") if getattr(conversation, name) not in {"", None}]
    always = thinking.get("type") == "enabled"  # and those that think so show it
    if shows is not None and "display" not in thinking and not (shows and always):
        unheard.append("shows_thoughts")
    return tuple(conversation.member(name) for name in unheard)
