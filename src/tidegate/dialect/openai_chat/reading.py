"""A client's chat completions request as a conversation. What is decided here about a member is decided for every provider.

Read strictly: what has another type than it should is refused, and so is what no Conversation can say.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw

from tidegate.dialect.anthropic.values import NAME as ANTHROPIC
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
    merged,
)
from tidegate.dialect.openai_chat import asked
from tidegate.dialect.openai_chat.values import NAME
from tidegate.dialect.requests import decoded, shown
from tidegate.dialect.seals import marked, unmarked
from tidegate.verdict import BAD_REQUEST, Refused

MEMBERS: Final[Mapping[str, str]] = {
    "turns": "messages",
    "format": "response_format",
    "parallel_tools": "parallel_tool_calls",
    "max_tokens": "max_completion_tokens",
    "choices": "n",
    "effort": "reasoning_effort",
    "thinking_tokens": "reasoning.max_tokens",
    "shows_thoughts": "reasoning.exclude",
    "ImagePart.detail": "image_url.detail",
    "DocumentPart.name": "file.filename",
    "Tool.strict": "tools.function.strict",
    "Schema.name": "response_format.json_schema.name",
    "Schema.description": "response_format.json_schema.description",
}

HARMLESS: Final = frozenset(
    {
        "metadata",
        # It makes an answer quicker that is like it, and changes none.
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        # vLLM, SGLang
        "cache_salt",
        "priority",
        "request_id",
        "rid",
        # OpenRouter
        "usage",
        # Open WebUI's browser, of its own chats; what they ask for is done by its server.
        "background_tasks",
        "chat_id",
        "features",
        "id",
        "model_item",
        "parent_id",
        "session_id",
    }
)
"""They say where and how an answer is made, kept, billed or found again, not what it says."""

_Choosing = Literal["", "auto", "none", "required", "tool"]

_decode_asked = msgspec.json.Decoder(asked.Asked).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode

_KNOWN: Final = frozenset(asked.Asked.__struct_encode_fields__)
_unknown = re.compile(r"unknown field `([^`]*)`(?: - at `\$\.?([^`]*)`)?").search


def conversation_of(body: bytes) -> Conversation:
    """Read a whole request. Errors: Refused for what is wrong; Untranslatable for what no Conversation can say."""
    request = decoded(_read, body, _wrong)
    dropped = _dropped(body)
    if request.modalities is not None and request.modalities != ["text"]:
        raise _unheard("modalities")
    turns = _Turns()
    for number, message in enumerate(request.messages):
        turns.read(message, f"messages[{number}]")
    choice, tool, tools = _choice(*_callable(request))
    return Conversation(
        turns=merged(tuple(turns.made)),
        stream=request.stream is True,
        tools=tools,
        tool_choice=choice,
        tool=tool,
        parallel_tools=request.parallel_tool_calls,
        format=_format(request.response_format),
        max_tokens=request.max_completion_tokens or request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=_stops(request.stop),
        seed=request.seed,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        choices=request.n or 1,
        logprobs=request.top_logprobs or (0 if request.logprobs else None),
        logit_bias=request.logit_bias or None,
        verbosity=request.verbosity or "",
        user=request.user or "",
        members=_members(request),
        dropped=(*dropped, *sorted(turns.lost)),
        **_thinking(request),
    )


def _read(body: bytes) -> asked.Asked:
    """Decode a request. Errors: Untranslatable for a member inside of it that is not known here; msgspec's own."""
    try:
        return _decode_asked(body)
    except msgspec.ValidationError as error:
        found = _unknown(str(error))
        if found is None:
            raise
        raise _unheard(".".join(filter(None, (found[2], found[1])))) from None


def _dropped(body: bytes) -> list[str]:
    """Give the members that nobody needs to hear. Errors: Untranslatable for others that are not known here."""
    dropped = []
    for name, value in _decode_members(body).items():
        if name in _KNOWN or bytes(value) == b"null":
            continue
        if name not in HARMLESS:
            raise _unheard(name)
        dropped.append(name)
    return dropped


def _members(request: asked.Asked) -> dict[str, str]:
    """Give the members' names, as this client has said them."""
    members = dict(MEMBERS)
    if not request.max_completion_tokens:
        members["max_tokens"] = "max_tokens"
    if request.thinking and not (request.reasoning and request.reasoning.max_tokens is not None):
        members["thinking_tokens"] = "thinking"
    if request.functions:
        members["tools"] = "functions"
    return members


def _unheard(param: str) -> Untranslatable:
    param = shown(param)
    return Untranslatable(param, f"`{param}` cannot be said to a provider that speaks another dialect")


def _wrong(param: str) -> Refused:
    return Refused(BAD_REQUEST, f"`{param}` is missing, or is not what it must be", param=param)


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    return tuple(text for text in ([stop] if isinstance(stop, str) else stop or ()) if text)


def _thinking(request: asked.Asked) -> dict[str, Any]:
    """Give what is said about thoughts, in OpenAI's word for it, OpenRouter's or LiteLLM's."""
    reasoning, thinking = request.reasoning or asked.Reasoning(), request.thinking
    effort, tokens = request.reasoning_effort or reasoning.effort or "", reasoning.max_tokens
    if thinking is not None and tokens is None:
        tokens = 0 if thinking.type == "disabled" else thinking.budget_tokens
        effort = effort or ("high" if tokens is None else "")
    if reasoning.enabled is False:
        effort = effort or "none"
    return {
        "effort": "xhigh" if effort == "max" else effort,
        "thinking_tokens": tokens,
        "shows_thoughts": request.include_reasoning if reasoning.exclude is None else not reasoning.exclude,
    }


# --- messages --------------------------------------------------------------------------------------------------------


class _Turns:
    """Collects turns, message after message. Holds: the names of the calls so far by their ids; names of what is dropped."""

    __slots__ = ("_names", "lost", "made")

    def __init__(self) -> None:
        self.made: list[Turn] = []
        self.lost: set[str] = set()
        self._names: dict[str, str] = {}

    def read(self, message: asked.AnyMessage, where: str) -> None:
        """Read one message."""
        parts = tuple(self._parts(message.content, f"{where}.content"))
        match message:
            case asked.Result():
                name = self._names.get(message.tool_call_id) or message.name or ""
                self.made.append(Turn("user", (ResultPart(message.tool_call_id, _shown(parts), name),)))
            case asked.OldResult():
                self.made.append(Turn("user", (ResultPart(self._last(message.name), _shown(parts), message.name),)))
            case asked.Assistant():
                before, after = self._around(message, where)
                self.made.append(Turn("assistant", (*before, *parts, *after)))
            case _:
                self._lose("messages.name", message.name)
                self.made.append(Turn("user" if isinstance(message, asked.User) else "system", parts))

    def _lose(self, name: str, value: object) -> None:
        if value:
            self.lost.add(name)

    def _last(self, name: str) -> str:
        """Give the id of the last call of a function, from when results did not say it."""
        return next((ident for ident, called in reversed(self._names.items()) if called == name), name)

    def _around(self, message: asked.Assistant, where: str) -> tuple[list[Part], list[Part]]:
        """Give what comes before an assistant's text, and what comes after it."""
        if message.audio is not None:
            raise _unheard(f"{where}.audio")
        self._lose("messages.name", message.name)
        self._lose("messages.annotations", message.annotations)
        self._lose("messages.provider_specific_fields", message.provider_specific_fields)
        after: list[Part] = [RefusalPart(message.refusal)] if message.refusal else []
        for number, call in enumerate(message.tool_calls or ()):
            after.append(self._call(call, f"{where}.tool_calls[{number}]"))
        if message.function_call is not None:
            made_up = asked.Call(f"call_{len(self._names)}", function=message.function_call)
            after.append(self._call(made_up, f"{where}.function_call"))
        return [*_thoughts(message)], after

    def _call(self, call: asked.Call, where: str) -> CallPart:
        if call.function is None:
            raise _unheard(f"{where}.type")
        self._names[call.id] = call.function.name
        own = call.provider_specific_fields or call.function.provider_specific_fields
        self._lose("messages.tool_calls.provider_specific_fields", own)
        google = call.extra_content.google if call.extra_content else None
        signature, origin = _signed(google.thought_signature if google else "")
        return CallPart(call.id, call.function.name, call.function.arguments or "{}", signature, origin)

    def _parts(self, content: asked.Content, where: str) -> Iterator[Part]:
        """Give the parts of a message's content. Shape: no text is empty."""
        for number, part in enumerate([asked.Text(text=content)] if isinstance(content, str) else content or ()):
            if isinstance(part, asked.Marked):
                self._lose("cache_control", part.cache_control or part.prompt_cache_breakpoint)
            match part:
                case asked.Text(text=text):
                    if text:
                        yield TextPart(text)
                case asked.Refusal(refusal):
                    yield RefusalPart(refusal)
                case asked.Image():
                    yield _image(part.image_url, f"{where}[{number}].image_url")
                case asked.File():
                    yield _document(part.file, f"{where}[{number}].file")
                case _:
                    raise _unheard(f"{where}[{number}].input_audio")


def _shown(parts: tuple[Part, ...]) -> tuple[TextPart | ImagePart | DocumentPart, ...]:
    return tuple(part for part in parts if isinstance(part, (TextPart, ImagePart, DocumentPart)))


def _image(image: asked.ImageUrl | str, where: str) -> ImagePart:
    url, detail = (image, None) if isinstance(image, str) else (image.url, image.detail)
    media_type, data, url = _inline(url, f"{where}.url")
    return ImagePart(media_type, data, url, "high" if detail == "original" else detail or "")


def _document(file: asked.FileData, where: str) -> DocumentPart:
    if file.file_data is None:
        raise _unheard(f"{where}.file_id")
    media_type, data, url = _inline(file.file_data, f"{where}.file_data")
    return DocumentPart(media_type, data, url, file.filename or "")


def _inline(url: str, where: str) -> tuple[str, str, str]:
    """Take a `data:` URL apart: its type, its base64, and ''; of another URL, the URL is the last. Errors: Refused."""
    if url.startswith("data:"):
        head, comma, data = url.partition(",")
        media_type, *rest = head.removeprefix("data:").split(";")
        if comma and media_type and rest[-1:] == ["base64"]:
            return media_type, data, ""
    elif url.startswith(("https://", "http://")):
        return "", "", url
    raise Refused(BAD_REQUEST, f"`{where}` must be a web address, or data in base64 with its type", param=where)


def _signed(signature: str | None) -> tuple[str, str]:
    """Give a signature as it was made, and its maker's dialect."""
    made, origin = unmarked(signature or "")
    return made, (origin or NAME) if made else OWN


def _is_foreign(detail: asked.Detail) -> bool:
    """Whether another dialect's provider signed a text: we told all of that in detail."""
    return not detail.data and _signed(detail.signature)[1] not in {OWN, NAME}


def _detail(block: asked.Block, number: int) -> asked.Detail:
    """Give a thought that LiteLLM told. Shape: where nobody has marked it, it is Anthropic's."""
    signature, data = (
        marked(made, origin or ANTHROPIC, NAME)
        for made, origin in (unmarked(block.signature or ""), unmarked(block.data or ""))
    )
    return asked.Detail(text=block.thinking, signature=signature, data=data, index=number)


def _thoughts(message: asked.Assistant) -> Iterator[ThoughtPart]:
    """Give what an assistant thought. Shape: pieces of a thought, which clients collect one by one, are one thought again."""
    plain = message.reasoning_content or message.reasoning or ""
    details = message.reasoning_details or [*map(_detail, message.thinking_blocks or (), count())]
    said = "".join(detail.text or detail.summary or "" for detail in details)
    if plain.strip() not in said and (not said or any(_is_foreign(detail) for detail in details)):
        # OpenAI's package for JavaScript keeps the last piece of what it does not know: a signature proves no such text.
        yield ThoughtPart(plain)
        details = [detail for detail in details if not _is_foreign(detail)]
    text, at = "", None
    for detail in details:
        if text and (detail.data or detail.index != at):
            yield ThoughtPart(text)
            text = ""
        if detail.data:
            sealed, origin = _signed(detail.data)
            yield ThoughtPart(sealed=sealed, id=detail.id or "", origin=origin)
            continue
        text, at = text + (detail.text or detail.summary or ""), detail.index
        if detail.signature:
            signature, origin = _signed(detail.signature)
            yield ThoughtPart(text, signature, origin=origin)
            text = ""
    if text:
        yield ThoughtPart(text)


# --- tools and the form of the answer --------------------------------------------------------------------------------


def _callable(
    request: asked.Asked,
) -> tuple[Literal["none", "auto", "required"] | asked.Choice | None, tuple[Tool, ...]]:
    """Give the choice among tools, and the tools: as they are said now, or as they were when there were functions alone."""
    if not request.tools:
        old = request.function_call
        choice = asked.Choice("function", old) if isinstance(old, asked.Name) else old
        return request.tool_choice or choice, _tools([asked.Tool(function=one) for one in request.functions or ()])
    if request.functions or request.function_call:
        raise _unheard("functions" if request.functions else "function_call")
    return request.tool_choice, _tools(request.tools)


def _tools(given: list[asked.Tool]) -> tuple[Tool, ...]:
    made = []
    for number, tool in enumerate(given):
        one = tool.function
        if one is None:
            raise _unheard(f"tools[{number}].type")
        made.append(Tool(one.name, one.description or "", one.parameters, one.strict))
    return tuple(made)


def _choice(
    choice: Literal["none", "auto", "required"] | asked.Choice | None, tools: tuple[Tool, ...]
) -> tuple[_Choosing, str, tuple[Tool, ...]]:
    """Give how a tool is chosen, which one, and those that may be. Shape: nothing is chosen where there are no tools."""
    if choice is None or not tools:
        return "", "", tools
    if not isinstance(choice, asked.Choice):
        return choice, "", tools
    if choice.function is not None:
        return "tool", choice.function.name, tools
    if choice.allowed_tools is None:
        raise _unheard("tool_choice.type")
    allowed = {tool.function.name for tool in choice.allowed_tools.tools if tool.function is not None}
    return choice.allowed_tools.mode, "", tuple(tool for tool in tools if tool.name in allowed)


def _format(wanted: asked.Format | None) -> Schema | None:
    match wanted:
        case asked.SchemaFormat(json_schema=one):
            return Schema(one.schema or {}, one.name, one.description or "", one.strict)
        case asked.ObjectFormat():
            return Schema()
        case _:
            return None
