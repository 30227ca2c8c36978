"""A conversation as Gemini is asked. Source: Google, "Gemini API reference", generateContent."""

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import structs

from tidegate.dialect.conversation import (
    DROPPED,
    REFUSED,
    CallPart,
    Conversation,
    DocumentPart,
    ImagePart,
    Loss,
    Part,
    ResultPart,
    TextPart,
    ThoughtPart,
    Tool,
    Turn,
    Untranslatable,
    Written,
    leading,
    lost,
    thinking_budget,
    thinking_effort,
)
from tidegate.dialect.values import arguments_of, json_of

_NAME: Final = "gemini"
LACKS: Final[Mapping[str, Loss]] = {
    # At worst the client hears of several calls at once.
    "parallel_tools": DROPPED,
    "logprobs": REFUSED,
    "logit_bias": REFUSED,
    "verbosity": DROPPED,
    "user": DROPPED,
    "ImagePart.detail": DROPPED,
    "DocumentPart.name": DROPPED,
    "Tool.strict": DROPPED,
    "Schema.name": DROPPED,
    "Schema.description": DROPPED,
}
"""What there is no word for. Shape: `parallel_tools` only where one call at a time is asked for; no event carries logprobs."""

_SETTINGS: Final = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
}
_MODES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY", "tool": "ANY"}

_early = re.compile(r"gemini-[12]\.").search
"""Up to Gemini 2.5 a budget bounds the thoughts, and a level is refused; from Gemini 3 on it is the reverse."""
_LEVELS: Final = {"none": "LOW", "minimal": "LOW", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH"}
"""The levels that every model since Gemini 3 knows. Its thoughts cannot be turned off. Source: Google, "Gemini thinking"."""
_pro = re.compile(r"gemini-[12]\.[0-9]+-pro").search
_PRO_BUDGET: Final = (128, 32768)
_BUDGET: Final = (0, 24576)
"""What may be given, least and most; a pro model's thoughts cannot be turned off. Source: Google, "Gemini thinking"."""
_UNPROVEN: Final = "skip_thought_signature_validator"
"""Stands for the signature of a call that Gemini did not make: since Gemini 3 the first call of a turn is refused without one.

Source: Google, "Thought signatures", on histories of other models.
"""

_suffix = re.compile(r"[^?#]*\.([a-z]{3,4})(?:[?#]|\Z)", re.IGNORECASE).match
_TYPE_OF: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "heic": "image/heic",
    "heif": "image/heif",
    "pdf": "application/pdf",
}
_SCHEMES: Final = ("https://", "gs://")
"""What Gemini fetches by itself: public or signed URLs, uploaded files, Cloud Storage. Source: Google, "File input methods"."""


def written(conversation: Conversation, model: str) -> Written:
    """Write a request. Errors: Untranslatable for what it has no word for."""
    one = conversation.parallel_tools is False and bool(conversation.tools)
    asked = structs.replace(conversation, parallel_tools=False if one else None)
    dropped = lost(asked, LACKS, f"a provider that speaks {_NAME}")
    early = _early(model) is not None
    system, turns = leading(conversation.turns)
    body: dict[str, object] = {"contents": _Contents(conversation.member("turns"), early=early).written(turns)}
    if system:
        body["systemInstruction"] = {"parts": [{"text": system}]}
    if conversation.tools:
        body["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in conversation.tools]}]
    # A choice among no tools is refused; who must call one without any is told so.
    if conversation.tool_choice and (conversation.tools or _MODES[conversation.tool_choice] == "ANY"):
        body["toolConfig"] = {"functionCallingConfig": _choice(conversation)}
    config = _config(conversation, model, early=early)
    if config:
        body["generationConfig"] = config
    return Written(json_of(body), dropped)


def _declaration(tool: Tool) -> dict[str, object]:
    """Give a tool. Shape: `parametersJsonSchema` takes JSON Schema; `parameters` would take a part of OpenAPI's."""
    declared: dict[str, object] = {"name": tool.name}
    if tool.description:
        declared["description"] = tool.description
    if tool.parameters is not None:
        declared["parametersJsonSchema"] = tool.parameters
    return declared


def _choice(conversation: Conversation) -> dict[str, object]:
    mode: dict[str, object] = {"mode": _MODES[conversation.tool_choice]}
    return mode | {"allowedFunctionNames": [conversation.tool]} if conversation.tool_choice == "tool" else mode


def _config(conversation: Conversation, model: str, *, early: bool) -> dict[str, object]:
    settings = ((member, getattr(conversation, name)) for name, member in _SETTINGS.items())
    config = {member: value for member, value in settings if value is not None}
    if conversation.stop:
        config["stopSequences"] = conversation.stop
    if conversation.choices != 1:
        config["candidateCount"] = conversation.choices
    if conversation.format is not None:
        config["responseMimeType"] = "application/json"
        if conversation.format.schema is not None:
            config["responseJsonSchema"] = conversation.format.schema
    thinking = _thinking(conversation, model, early=early)
    if thinking:
        config["thinkingConfig"] = thinking
    return config


def _thinking(conversation: Conversation, model: str, *, early: bool) -> dict[str, object]:
    """Give how much may be thought, as a budget or as a level, and whether it is shown."""
    thinking: dict[str, object] = {}
    budget, effort = thinking_budget(conversation), thinking_effort(conversation)
    if early and budget is not None:
        least, most = _PRO_BUDGET if _pro(model) else _BUDGET
        thinking["thinkingBudget"] = min(max(budget, least), most)
    elif effort and not early:
        thinking["thinkingLevel"] = _LEVELS[effort]
    if conversation.shows_thoughts is not None:
        thinking["includeThoughts"] = conversation.shows_thoughts
    return thinking


class _Contents:
    """Writes the turns of one conversation. Holds: the names of the tools called so far, by the ids of the calls."""

    __slots__ = ("_early", "_member", "_names")

    def __init__(self, member: str, *, early: bool) -> None:
        self._member = member
        self._early = early
        self._names: dict[str, str] = {}

    def written(self, turns: tuple[Turn, ...]) -> list[dict[str, object]]:
        """Give the turns that have anything to say to Gemini."""
        contents: list[dict[str, object]] = []
        for turn in turns:
            parts = [member for part in turn.parts for member in self._part(part)]
            if turn.role == "assistant" and not self._early:
                _prove(parts)
            if parts:
                contents.append({"role": "model" if turn.role == "assistant" else "user", "parts": parts})
        return contents

    def _part(self, part: Part) -> list[dict[str, Any]]:
        match part:
            case ThoughtPart():
                return _thought(part)
            case CallPart():
                return [self._call(part)]
            case ResultPart():
                return self._result(part)
            case ImagePart() | DocumentPart():
                return [self._media(part)]
            case _:
                return [{"text": part.text}]

    def _call(self, call: CallPart) -> dict[str, Any]:
        self._names[call.id] = call.name
        signed = {"thoughtSignature": call.signature} if call.signature and call.origin == _NAME else {}
        return {"functionCall": {"id": call.id, "name": call.name, "args": arguments_of(call)}, **signed}

    def _result(self, result: ResultPart) -> list[dict[str, Any]]:
        """Give what a tool gave. Shape: since Gemini 3 media are within it, before they stand behind it."""
        name = result.name or self._names.get(result.id)
        if not name:
            raise Untranslatable(self._member, f"`{self._member}` has a result of a tool without the call")
        texts = [part.text for part in result.parts if isinstance(part, TextPart)]
        media = [self._media(part) for part in result.parts if not isinstance(part, TextPart)]
        given: dict[str, Any] = {
            "id": result.id,
            "name": name,
            "response": {"error" if result.failed else "output": "\n".join(texts)},
        }
        if media and not self._early:
            return [{"functionResponse": given | {"parts": media}}]
        return [{"functionResponse": given}, *media]

    def _media(self, part: ImagePart | DocumentPart) -> dict[str, Any]:
        if part.data:
            return {"inlineData": {"mimeType": part.media_type, "data": part.data}}
        if not part.url.startswith(_SCHEMES):
            raise Untranslatable(
                self._member, f"`{self._member}` has a URL that the provider does not fetch: not https"
            )
        found = _suffix(part.url)
        kind = part.media_type or (_TYPE_OF.get(found[1].lower(), "") if found is not None else "")
        return {"fileData": ({"mimeType": kind} if kind else {}) | {"fileUri": part.url}}


def _thought(thought: ThoughtPart) -> list[dict[str, Any]]:
    """Give a thought that Gemini signed; of others, and of its own without the signature, it reads nothing."""
    if not thought.signature or thought.origin != _NAME:
        return []
    shown = {"thought": True} if thought.text else {}
    return [{"text": thought.text, **shown, "thoughtSignature": thought.signature}]


def _prove(parts: list[dict[str, Any]]) -> None:
    """Let the first call of a turn pass that has no signature of Gemini's."""
    first = next((part for part in parts if "functionCall" in part), None)
    if first is not None:
        first.setdefault("thoughtSignature", _UNPROVEN)
