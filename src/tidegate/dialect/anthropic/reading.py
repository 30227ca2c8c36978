"""A request as a conversation: what a client of Anthropic's says, read strictly."""

import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from tidegate.dialect.anthropic.values import NAME
from tidegate.dialect.conversation import (
    CallPart,
    Conversation,
    DocumentPart,
    ImagePart,
    Part,
    ResultPart,
    Schema,
    TextPart,
    ThoughtPart,
    Tool,
    Turn,
    Untranslatable,
    merged,
)
from tidegate.dialect.requests import Members, decoded
from tidegate.dialect.seals import opened, unmarked
from tidegate.dialect.values import json_of
from tidegate.verdict import BAD_REQUEST, Refused

MEMBERS: Final[Mapping[str, str]] = {
    "turns": "messages",
    "tool": "tool_choice.name",
    "parallel_tools": "tool_choice.disable_parallel_tool_use",
    "format": "output_config.format",
    "stop": "stop_sequences",
    "effort": "output_config.effort",
    "thinking_tokens": "thinking.budget_tokens",
    "shows_thoughts": "thinking.display",
    "user": "metadata.user_id",
    "DocumentPart.name": "document.title",
    "ResultPart.failed": "tool_result.is_error",
    "Tool.strict": "tools.strict",
}
HARMLESS: Final = frozenset(
    {"anthropic_version", "cache_control", "diagnostics", "inference_geo", "service_tier", "speed"}
)

_EFFORTS: Final[Mapping[str, str]] = {word: word for word in ("low", "medium", "high", "xhigh")} | {"max": "xhigh"}
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none", "tool": "tool"}
_DISPLAYS: Final = {"summarized": True, "omitted": False}
_MARKS: Final = ("cache_control", "citations")
"""What stands on blocks of text, and changes nothing of what they say."""
_CALLING: Final = ("allowed_callers", "cache_control", "defer_loading", "eager_input_streaming", "input_examples")
"""What stands on tools, and changes neither what they are nor what the model can do with them."""
_CLEARING: Final = ("clear_thinking_", "clear_tool_uses_")
"""How the types of edits begin that only make a long request shorter. Source: Anthropic, "Context editing"."""

# What every provider takes for a user: some refuse a longer one, or one that is itself JSON.
_is_plain = re.compile(r"[A-Za-z0-9_.@:-]{1,64}").fullmatch

_decode = msgspec.json.Decoder(dict[str, Any]).decode

Shown = TextPart | ImagePart | DocumentPart


def read(body: bytes) -> Conversation:
    """Read all of a request. Errors: Refused (bad_request); Untranslatable for what a Conversation cannot say."""
    dropped: list[str] = []
    said = Members(decoded(_decode, body, partial(Refused, BAD_REQUEST)), "", dropped)
    said.need("model")
    reader = _Reader(dropped)
    fields: dict[str, Any] = {
        "turns": merged((*reader.system(said), *reader.messages(said))),
        "stream": said.flag("stream") or False,
        "max_tokens": said.whole("max_tokens"),
        "temperature": said.number("temperature"),
        "top_p": said.number("top_p"),
        "top_k": said.whole("top_k"),
        "stop": tuple(_text(item, at) for at, item in said.items("stop_sequences")),
        "tools": tuple(_tool(Members(item, at, dropped)) for at, item in said.items("tools")),
        "user": _user(said.mapping("metadata") or {}, dropped),
        **_choice(said.inner("tool_choice")),
        **_thinking(said.inner("thinking"), said.inner("output_config"), dropped),
    }
    said.drop(*HARMLESS)
    _read_edits(said.inner("context_management"), dropped)
    for _ in said.items("mcp_servers"):
        raise Untranslatable("mcp_servers", "`mcp_servers` are said to Anthropic alone")
    said.end()
    if fields["max_tokens"] == 0:
        raise Untranslatable("max_tokens", "`max_tokens` of 0 asks for no answer, which is said to Anthropic alone")
    return Conversation(**fields, members=MEMBERS, dropped=tuple(dict.fromkeys(dropped)))


def _text(value: object, at: str) -> str:
    if not isinstance(value, str):
        raise Refused(BAD_REQUEST, f"`{at}` must be a string", param=at)
    return value


def _word(members: Members, name: str, words: Mapping[str, Any]) -> Any:
    """Give what a member's word stands for; None where there is none. Errors: Refused for any other word."""
    value = members.text(name)
    if value is None:
        return None
    if value not in words:
        raise members.refuse(name, f"one of {', '.join(words)}")
    return words[value]


def _user(metadata: Mapping[str, object], dropped: list[str]) -> str:
    """Give who asks. Shape: what is no plain name, and what else is said of the request, is dropped."""
    said = {name: value for name, value in metadata.items() if value is not None}
    user = _text(said.pop("user_id", ""), MEMBERS["user"])
    if user and not _is_plain(user):
        dropped.append(MEMBERS["user"])
    dropped += [f"metadata.{name}" if _is_plain(name) else "metadata" for name in said]
    return user if _is_plain(user) else ""


def _read_edits(management: Members, dropped: list[str]) -> None:
    """Take note of what may be cleared of a long request. Errors: Untranslatable for what else is to be done with one."""
    for at, item in management.items("edits"):
        edit = Members(item, at, dropped)
        if not edit.need("type").startswith(_CLEARING):
            raise Untranslatable(edit.at("type"), f"`{edit.at('type')}` names an edit that Anthropic alone makes")
        dropped.append("context_management")
    management.end()


def _tool(tool: Members) -> Tool:
    if tool.text("type") not in {None, "custom"}:
        raise Untranslatable(tool.at("type"), f"`{tool.at('type')}` names a tool that Anthropic alone has")
    tool.drop(*_CALLING)
    read = Tool(
        name=tool.need("name"),
        description=tool.text("description") or "",
        parameters=tool.mapping("input_schema"),
        strict=tool.flag("strict"),
    )
    tool.end()
    return read


def _choice(choice: Members) -> dict[str, Any]:
    single = choice.flag("disable_parallel_tool_use")
    fields = {
        "tool_choice": _word(choice, "type", _CHOICES) or "",
        "tool": choice.text("name") or "",
        "parallel_tools": None if single is None else not single,
    }
    choice.end()
    return fields


def _thinking(thinking: Members, output: Members, dropped: list[str]) -> dict[str, Any]:
    """Read how much to think, and what the answer must be like.

    Shape: without a word for it, thoughts with a bound are shown; how much is thought without one, is a high effort.
    """
    effort = _word(output, "effort", _EFFORTS) or ""
    fields: dict[str, Any] = {"format": _format(output.inner("format"))}
    output.end()
    kind = _word(thinking, "type", {"enabled": "enabled", "adaptive": "adaptive", "disabled": "disabled"})
    shows = _word(thinking, "display", _DISPLAYS)
    tokens = thinking.whole("budget_tokens")
    thinking.end()
    if kind == "disabled":
        if effort:
            dropped.append(MEMBERS["effort"])
        return fields | {"thinking_tokens": 0}
    if kind == "enabled":
        if tokens is None:
            raise thinking.refuse("budget_tokens", "an integer")
        return fields | {"thinking_tokens": tokens, "effort": effort, "shows_thoughts": shows is not False}
    return fields | {"effort": effort or ("high" if kind else ""), "shows_thoughts": shows}


def _format(form: Members) -> Schema | None:
    kind = _word(form, "type", {"json_schema": True})
    schema = form.mapping("schema")
    form.end()
    if kind is None:
        return None
    if schema is None:
        raise form.refuse("schema", "an object")
    return Schema(schema)


class _Reader:
    """Reads turns. Holds: what one block says of another: the names of tools called, the signatures of calls."""

    __slots__ = ("_blocks", "_dropped", "_names", "_signatures")

    def __init__(self, dropped: list[str]) -> None:
        self._dropped = dropped
        self._names: dict[str, str] = {}
        self._signatures: dict[str, tuple[str, str]] = {}
        shown: dict[str, Callable[[Members], Part | None]] = {
            "text": _text_part,
            "image": _image_part,
            "document": _document_part,
        }
        self._blocks: Mapping[str, Mapping[str, Callable[[Members], Part | None]]] = {
            "system": {"text": _text_part},
            "user": {**shown, "tool_result": self._result},
            "assistant": {
                "text": _text_part,
                "thinking": _thought,
                "redacted_thinking": self._sealed,
                "tool_use": self._call,
            },
            "result": shown,
        }

    def system(self, said: Members) -> Sequence[Turn]:
        """Read what stands apart."""
        return (Turn("system", self._parts(said, "system", "system")),)

    def messages(self, said: Members) -> Sequence[Turn]:
        """Read the messages."""
        return [self._turn(Members(item, at, self._dropped)) for at, item in said.items("messages")]

    def _turn(self, said: Members) -> Turn:
        role = _word(said, "role", {"user": "user", "assistant": "assistant", "system": "system"})
        if role is None:
            raise said.refuse("role", "one of user, assistant, system")
        parts = self._parts(said, "content", role)
        said.end()
        return Turn(role, parts)

    def _parts(self, said: Members, name: str, role: str) -> tuple[Part, ...]:
        """Read a text, or blocks. Shape: an empty text says nothing."""
        content = said.texts_or(name)
        if isinstance(content, str):
            return (TextPart(content),) if content else ()
        blocks = self._blocks[role]
        return tuple(part for at, item in content for part in self._read(Members(item, at, self._dropped), blocks))

    @staticmethod
    def _read(block: Members, kinds: Mapping[str, Callable[[Members], Part | None]]) -> Iterator[Part]:
        """Give the part that a block is, unless it says nothing; before a document, what is said of it."""
        kind = block.need("type")
        if kind not in kinds:
            raise Untranslatable(block.at("type"), f"`{block.at('type')}`: a block of this type cannot be said here")
        block.drop("cache_control")
        context = block.text("context") if kind == "document" else None
        if context:
            yield TextPart(context)
        part = kinds[kind](block)
        block.end()
        if part is not None:
            yield part

    def _call(self, block: Members) -> CallPart:
        ident, name = block.need("id"), block.need("name")
        arguments = json_of(block.mapping("input") or {}).decode()
        block.drop("caller")
        self._names[ident] = name
        signature, origin = self._signatures.pop(ident, ("", NAME))
        return CallPart(ident, name, arguments, signature, origin)

    def _sealed(self, block: Members) -> ThoughtPart | None:
        """Read what its maker alone can read: a thought, or the signature of a call."""
        seal, origin = opened(block.need("data"), NAME)
        if seal.call:
            self._signatures[seal.call] = (seal.signature, origin)
        return ThoughtPart(sealed=seal.sealed, id=seal.id, origin=origin) if seal.sealed else None

    def _result(self, block: Members) -> ResultPart:
        ident = block.need("tool_use_id")
        parts = tuple(part for part in self._parts(block, "content", "result") if isinstance(part, Shown))
        return ResultPart(ident, parts, self._names.get(ident, ""), failed=block.flag("is_error") or False)


def _text_part(block: Members) -> TextPart | None:
    text = block.need("text")
    block.drop(*_MARKS)
    return TextPart(text) if text else None


def _thought(block: Members) -> ThoughtPart | None:
    text = block.text("thinking") or ""
    signature, origin = unmarked(block.text("signature") or "")
    return ThoughtPart(text, signature, origin=origin or NAME) if text or signature else None


def _image_part(block: Members) -> ImagePart:
    source = block.inner("source")
    match source.need("type"):
        case "base64":
            part = ImagePart(media_type=source.need("media_type"), data=source.need("data"))
        case "url":
            part = ImagePart(url=source.need("url"))
        case _:
            raise _unsayable(source)
    source.end()
    return part


def _document_part(block: Members) -> DocumentPart:
    source, name = block.inner("source"), block.text("title") or ""
    citations = block.inner("citations")
    if citations.flag("enabled"):
        raise Untranslatable(citations.at("enabled"), f"`{citations.at('enabled')}` is said to Anthropic alone")
    match source.need("type"):
        case "base64":
            part = DocumentPart(source.need("media_type"), source.need("data"), name=name)
        case "text":
            data = b64encode(source.need("data").encode()).decode()
            part = DocumentPart(source.text("media_type") or "text/plain", data, name=name)
        case "url":
            part = DocumentPart(url=source.need("url"), name=name)
        case _:
            raise _unsayable(source)
    source.end()
    return part


def _unsayable(source: Members) -> Untranslatable:
    return Untranslatable(source.at("type"), f"`{source.at('type')}`: such a source cannot be said to another provider")
