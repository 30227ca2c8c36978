"""A request as a conversation. What it asks for is said in full, refused by its member's name, or of no matter.

message                  a turn of its role; a developer's is the system's
function_call            a call in the assistant's turn; its arguments are as they came
function_call_output     a result in the user's
custom_tool_call         the same, with one argument: others have no tools that take a plain text, so it is a function's
reasoning                thoughts in the assistant's; what another dialect's provider sealed is opened again
any other item or tool   is the work of OpenAI's own servers, or is kept there: it cannot be translated
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, TypeVar, cast

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
    merged,
)
from tidegate.dialect.openai_responses.values import INPUT, NAME, media_of
from tidegate.dialect.requests import shown
from tidegate.dialect.seals import opened
from tidegate.dialect.values import json_of, object_of
from tidegate.verdict import BAD_REQUEST, Refused
from tidegate.wire import FrameError

MEMBERS: Final[Mapping[str, str]] = {
    "turns": "input",
    "parallel_tools": "parallel_tool_calls",
    "format": "text.format",
    "max_tokens": "max_output_tokens",
    "logprobs": "top_logprobs",
    "effort": "reasoning.effort",
    "shows_thoughts": "reasoning.summary",
    "verbosity": "text.verbosity",
    "ImagePart.detail": "input_image.detail",
    "DocumentPart.name": "input_file.filename",
    "Tool.strict": "tools.strict",
    "Schema.name": "text.format.name",
    "Schema.description": "text.format.description",
}
HARMLESS: Final = frozenset(
    {
        "client_metadata",
        "include",
        "max_tool_calls",
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "truncation",
    }
)
"""Those of tools that OpenAI runs (`max_tool_calls`) matter only with such tools, which are refused."""

_READ: Final = frozenset({
    "background", "input", "instructions", "max_output_tokens", "model", "parallel_tool_calls", "reasoning", "stream",
    "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "user",
})  # fmt: skip
_KNOWN: Final[Mapping[str, frozenset[str]]] = {
    kind: frozenset(members.split()) | {"type", "id", "status", "prompt_cache_breakpoint"}
    for kind, members in {
        "message": "role content phase end_turn metadata",
        "function_call": "call_id name arguments",
        "function_call_output": "call_id name output",
        "custom_tool_call": "call_id name input",
        "custom_tool_call_output": "call_id name output",
        "reasoning": "summary content encrypted_content",
        "input_text": "text",
        "output_text": "text annotations logprobs",
        "refusal": "refusal",
        "input_image": "image_url detail file_id",
        "input_file": "file_data file_url filename file_id detail",
        "function": "name description parameters strict",
        "custom": "name description format",
    }.items()
}
"""The members of items, parts and tools. What is in them of where they came from says nothing to a provider."""
_INCLUDED: Final = {"reasoning.encrypted_content", "message.output_text.logprobs"}
"""What is said anyway where there is any, and what is a field of a Conversation."""
_SEARCHES: Final = {"web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11"}
_ROLES: Final = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_EFFORTS: Final = {word: word for word in ("none", "minimal", "low", "medium", "high", "xhigh")} | {
    "": "",
    "max": "xhigh",
}
_DETAILS: Final = {"original": "high"}
_RULES: Final[Mapping[type, str]] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "an array",
}

T = TypeVar("T", str, int, float, bool, dict[str, Any], list[Any])


def read_conversation(body: bytes) -> Conversation:
    """Read all of a request. Errors: Refused (bad_request); Untranslatable for what a Conversation cannot say."""
    try:
        request = _Members(object_of(body))
    except FrameError as error:
        raise Refused(BAD_REQUEST, f"the body is not valid: {error.message}") from None
    text, reasoning = request.under("text"), request.under("reasoning")
    text.check({"format", "verbosity"})
    reasoning.check({"effort", "summary", "generate_summary", "context"})
    summary = reasoning.text("summary") or reasoning.text("generate_summary")
    tools, choice, tool = _tools(request)
    return Conversation(
        turns=_turns(request),
        stream=request.get("stream", bool) or False,
        tools=tools,
        tool_choice=cast("Any", choice),
        tool=tool,
        parallel_tools=request.get("parallel_tool_calls", bool),
        format=_format(text.under("format")),
        max_tokens=request.get("max_output_tokens", int),
        temperature=request.number("temperature"),
        top_p=request.number("top_p"),
        logprobs=_logprobs(request),
        effort=_effort(reasoning),
        shows_thoughts=True if summary else None,
        verbosity=text.text("verbosity"),
        user=request.text("user") or request.text("safety_identifier"),
        members=MEMBERS,
        dropped=_dropped(request),
    )


class _Members:
    """An object of a request. Shape: `at` is where it stands, and ends in a dot; a member that is null is not said."""

    __slots__ = ("at", "said")

    def __init__(self, value: dict[str, Any], at: str = "") -> None:
        self.at = at
        self.said = {name: member for name, member in value.items() if member is not None}

    def get(self, name: str, kind: type[T]) -> T | None:
        """Give a member. Errors: Refused for one of another type."""
        value = self.said.get(name)
        if value is None or type(value) is kind:
            return value
        raise self.wrong(name, _RULES[kind])

    def number(self, name: str) -> float | None:
        """Give a number. Errors: Refused."""
        value = self.said.get(name)
        return float(value) if type(value) is int else self.get(name, float)

    def text(self, name: str) -> str:
        """Give a text; '' where none is said. Errors: Refused."""
        return self.get(name, str) or ""

    def needed(self, name: str) -> str:
        """Give a text that must not be empty. Errors: Refused."""
        text = self.text(name)
        if not text:
            raise self.wrong(name, "a string that is not empty")
        return text

    def under(self, name: str) -> "_Members":
        """Give an object in a member; an empty one where none is said. Errors: Refused."""
        return _Members(self.get(name, dict) or {}, f"{self.at}{name}.")

    def each(self, name: str) -> "list[_Members]":
        """Give the objects of an array; none where none is said. Errors: Refused."""
        members = []
        for number, value in enumerate(self.get(name, list) or []):
            if not isinstance(value, dict):
                raise self.wrong(f"{name}[{number}]", _RULES[dict])
            members.append(_Members(value, f"{self.at}{name}[{number}]."))
        return members

    def kind(self, default: str = "") -> str:
        """Give its type, when all of it is known. Errors: Refused; Untranslatable."""
        kind = self.text("type") or default or self.needed("type")
        if kind not in _KNOWN:
            raise self.untranslatable("type")
        self.check(_KNOWN[kind])
        return kind

    def check(self, known: AbstractSet[str]) -> None:
        """Look for members that nobody can translate. Errors: Untranslatable."""
        for name in self.said:
            if name not in known:
                raise self.untranslatable(name)

    def wrong(self, name: str, rule: str) -> Refused:
        """Give the refusal of a member."""
        return Refused(BAD_REQUEST, f"`{self.at}{name}` must be {rule}", param=f"{self.at}{name}")

    def untranslatable(self, name: str) -> Untranslatable:
        """Give what is raised for a member that means something here alone."""
        value = self.said.get(name)
        said = f" with the value `{value}`" if isinstance(value, str) and len(value) <= 64 else ""
        param = self.at + shown(name)
        return Untranslatable(param, f"`{param}`{said} cannot be said to a provider that speaks another dialect")


# --- settings ------------------------------------------------------------------------------------------------------


def _dropped(request: _Members) -> tuple[str, ...]:
    """Give the members that nobody needs to hear. Errors: Untranslatable for one that is not known."""
    request.check(_READ | HARMLESS)
    said = dict(request.said)
    if said.get("store") is False:
        del said["store"]
    if set(said.get("include", ())) <= _INCLUDED:
        said.pop("include", None)
    if "user" not in said:
        said.pop("safety_identifier", None)  # it is said as the user
    context = ("reasoning.context",) if request.under("reasoning").said.get("context") else ()
    search = ("tools.web_search",) if any(map(_may_be_left_out, request.each("tools"))) else ()
    return (*(name for name in said if name in HARMLESS), *context, *search)


def _logprobs(request: _Members) -> int | None:
    top = request.get("top_logprobs", int)
    included = request.get("include", list) or []
    if any(type(name) is not str for name in included):
        raise request.wrong("include", "an array of strings")
    return top if top is not None or "message.output_text.logprobs" not in included else 0


def _effort(reasoning: _Members) -> str:
    effort = _EFFORTS.get(reasoning.text("effort"))
    if effort is None:
        raise reasoning.untranslatable("effort")
    return effort


def _format(given: _Members) -> Schema | None:
    match given.text("type"):
        case "" | "text":
            return None
        case "json_object":
            return Schema()
        case "json_schema":
            return Schema(
                schema=given.get("schema", dict) or {},
                name=given.text("name"),
                description=given.text("description"),
                strict=given.get("strict", bool),
            )
        case _:
            raise given.untranslatable("type")


def _tools(request: _Members) -> tuple[tuple[Tool, ...], str, str]:
    """Give the tools, the choice among them, and the one that is chosen. Shape: those not allowed are not given."""
    tools = tuple(_tool(tool) for tool in request.each("tools") if not _may_be_left_out(tool))
    choice = request.said.get("tool_choice", "")
    if choice in ("", "auto", "none", "required"):
        return tools, choice, ""
    given = request.under("tool_choice")
    match given.text("type"):
        case "function" | "custom":
            return tools, "tool", given.needed("name")
        case "allowed_tools":
            allowed = {_of_client(tool).needed("name") for tool in given.each("tools")}
            if given.text("mode") not in {"auto", "required"}:
                raise given.wrong("mode", "auto or required")
            return tuple(tool for tool in tools if tool.name in allowed), given.text("mode"), ""
        case _:
            raise given.untranslatable("type")


def _may_be_left_out(tool: _Members) -> bool:
    """Whether a tool searches the web without going there: the model answers without it, too."""
    return tool.text("type") in _SEARCHES and tool.get("external_web_access", bool) is False


def _of_client(tool: _Members) -> _Members:
    """Give a tool that the client runs. Errors: Untranslatable for one that OpenAI does."""
    if tool.needed("type") not in {"function", "custom"}:
        raise tool.untranslatable("type")
    tool.kind()
    return tool


def _tool(given: _Members) -> Tool:
    tool = _of_client(given)
    if tool.text("type") == "custom":
        text = {"type": "object", "properties": {INPUT: {"type": "string"}}, "required": [INPUT]}
        return Tool(tool.needed("name"), _described(tool), text)
    return Tool(
        name=tool.needed("name"),
        description=tool.text("description"),
        parameters=tool.get("parameters", dict),
        strict=tool.get("strict", bool),
    )


def _described(tool: _Members) -> str:
    """Give what a custom tool is told to be. Shape: nobody else holds a model to a grammar, so it is told to the model."""
    said, form = tool.text("description"), tool.under("format")
    match form.text("type"):
        case "" | "text":
            return said
        case "grammar":
            rule = f"`{INPUT}` must follow this {form.needed('syntax')} grammar:\n{form.needed('definition')}"
            return f"{said}\n\n{rule}" if said else rule
        case _:
            raise form.untranslatable("type")


# --- input ---------------------------------------------------------------------------------------------------------


def _turns(request: _Members) -> tuple[Turn, ...]:
    items = _Items()
    instructions = request.text("instructions")
    if instructions:
        items.turns.append(Turn("system", (TextPart(instructions),)))
    given = request.said.get("input")
    if isinstance(given, str):
        items.turns.append(Turn("user", (TextPart(given),) if given else ()))
    else:
        for item in request.each("input"):
            items.read(item)
    turns = merged(tuple(items.turns))
    if not turns:
        raise request.wrong("input", "a string that is not empty, or an array of one item or more")
    return turns


class _Items:
    """Reads the items of an input in their order. Holds: the names of calls, and what their provider wants back with them."""

    __slots__ = ("_names", "_signatures", "turns")

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self._names: dict[str, str] = {}
        self._signatures: dict[str, tuple[str, str]] = {}

    def read(self, item: _Members) -> None:
        """Read an item. Errors: Refused; Untranslatable."""
        match item.kind("message" if "role" in item.said else ""):
            case "message":
                role = _ROLES.get(item.needed("role"))
                if role is None:
                    raise item.wrong("role", f"one of {', '.join(_ROLES)}")
                self.turns.append(Turn(cast("Any", role), _content(item, "content", role)))
            case "function_call":
                self.turns.append(Turn("assistant", (self._call(item, item.text("arguments") or "{}"),)))
            case "custom_tool_call":
                given = json_of({INPUT: item.text("input")}).decode()
                self.turns.append(Turn("assistant", (self._call(item, given),)))
            case "function_call_output" | "custom_tool_call_output":
                ident = item.needed("call_id")
                parts = cast("Any", _content(item, "output", "user"))
                self.turns.append(Turn("user", (ResultPart(ident, parts, self._names.get(ident, "")),)))
            case "reasoning":
                self.turns.append(Turn("assistant", self._thoughts(item)))
            case _:
                raise item.untranslatable("type")

    def _call(self, item: _Members, arguments: str) -> CallPart:
        ident, name = item.needed("call_id"), item.needed("name")
        self._names[ident] = name
        signature, origin = self._signatures.get(ident, ("", ""))
        return CallPart(ident, name, arguments, signature, origin)

    def _thoughts(self, item: _Members) -> tuple[Part, ...]:
        """Give what was thought. Shape: readable texts, then what proves them or is a thought by itself."""
        texts = [text for member in ("summary", "content") for part in item.each(member) if (text := part.text("text"))]
        readable = tuple(ThoughtPart(text) for text in texts)
        encrypted = item.text("encrypted_content")
        if not encrypted:
            return readable
        seal, origin = opened(encrypted, NAME)
        if seal.call:
            self._signatures[seal.call] = (seal.signature, origin)
        elif seal.signature:
            return (ThoughtPart("".join(texts), signature=seal.signature, origin=origin),)
        elif seal.sealed:
            ident = item.text("id") if origin == NAME else seal.id
            return (*readable, ThoughtPart(sealed=seal.sealed, id=ident, origin=origin))
        return readable


def _content(item: _Members, name: str, role: str) -> tuple[Part, ...]:
    """Give what a message or a result holds: a text, or parts."""
    value = item.said.get(name, "")
    if isinstance(value, str):
        return (TextPart(value),) if value else ()
    return tuple(part for given in item.each(name) for part in _part(given, role))


def _part(given: _Members, role: str) -> tuple[Part, ...]:
    match given.needed("type"), role:
        case (("input_text" | "output_text" | "text"), _):
            text = given.text("text")
            return (TextPart(text),) if text else ()
        case "refusal", "assistant":
            refusal = given.text("refusal")
            return (RefusalPart(refusal),) if refusal else ()
        case "input_image", "user":
            return (_image(given),)
        case "input_file", "user":
            return (_document(given),)
        case _:
            raise given.untranslatable("type")


def _image(given: _Members) -> ImagePart:
    if "file_id" in given.said:
        raise given.untranslatable("file_id")
    detail = given.text("detail")
    detail = _DETAILS.get(detail, detail)
    url = given.needed("image_url")
    if not url.startswith("data:"):
        return ImagePart(url=url, detail=detail)
    media = media_of(url)
    if media is None or not media[0]:
        raise given.wrong("image_url", "a URL, or a data URL with a media type and base64")
    return ImagePart(*media, detail=detail)


def _document(given: _Members) -> DocumentPart:
    if "file_id" in given.said:
        raise given.untranslatable("file_id")
    name, url = given.text("filename"), given.text("file_url")
    if url:
        return DocumentPart(url=url, name=name)
    media = media_of(given.needed("file_data"))
    if media is None or not media[0]:
        raise given.wrong("file_data", "a data URL with a media type and base64")
    return DocumentPart(*media, name=name)
