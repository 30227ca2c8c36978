"""Anthropic's Messages: at its own door, on Bedrock's `invoke`, and asked only to be counted.

Source: the Messages API reference; the wording is the API's own where it is known.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from tidegate.mock.ask import Ask, BadAsk, Dialect, Headers, fitting, weighed
from tidegate.mock.asking.shapes import (
    Blob,
    Filled,
    Many,
    Mistake,
    Object,
    Positive,
    Strict,
    Tools,
    Unit,
    decoded,
    dotted,
    is_url,
    twice,
)
from tidegate.mock.seal import is_sealed

_VERSIONS: Final = frozenset({b"2023-01-01", b"2023-06-01", b"2026-10-21"})
_LEAST_TOP_P: Final = 0.95

_Id = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]+$")]
_Name = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,128}$")]


class CacheControl(Strict):
    """A place up to which the prompt may be cached."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"


class _Cached(Strict):
    cache_control: CacheControl | None = None


class _Base64(Strict, tag_field="type", tag="base64"):
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp", "application/pdf"]
    data: Blob


class _Url(Strict, tag_field="type", tag="url"):
    url: str


class _Plain(Strict, tag_field="type", tag="text"):
    media_type: Literal["text/plain"]
    data: str


class Text(_Cached, kw_only=True, tag_field="type", tag="text"):
    """A text."""

    text: str
    citations: Many[Object] | None = None


class Image(_Cached, kw_only=True, tag_field="type", tag="image"):
    """An image."""

    source: _Base64 | _Url
    transformations: Object | UnsetType = UNSET


class _Content(Strict, tag_field="type", tag="content"):
    content: str | Many[Text | Image]


class _Citations(Strict):
    enabled: bool = False


class Document(_Cached, kw_only=True, tag_field="type", tag="document"):
    """A document."""

    source: _Base64 | _Url | _Plain | _Content
    title: str | None = None
    context: str | None = None
    citations: _Citations | None = None


class Thinking(Strict, tag_field="type", tag="thinking"):
    """A thought, signed."""

    thinking: str
    signature: str


class Redacted(Strict, tag_field="type", tag="redacted_thinking"):
    """A thought that nobody is to read."""

    data: str


class ToolUse(_Cached, kw_only=True, tag_field="type", tag="tool_use"):
    """A call."""

    id: _Id
    name: _Name
    input: Object
    caller: Object | UnsetType = UNSET


class ToolResult(_Cached, kw_only=True, tag_field="type", tag="tool_result"):
    """What a call gave."""

    tool_use_id: _Id
    content: str | Many[Text | Image | Document] = ""
    is_error: bool = False


Block = Text | Image | Document | Thinking | Redacted | ToolUse | ToolResult


class _Message(Strict):
    role: Literal["user", "assistant"]
    content: str | Many[Block]


class _Schema(Strict, forbid_unknown_fields=False):
    type: Literal["object"]


class _Tool(_Cached, kw_only=True):
    name: _Name
    input_schema: _Schema
    type: Literal["custom"] | None = None
    description: str | UnsetType = UNSET
    strict: bool | UnsetType = UNSET
    eager_input_streaming: bool | None = None
    defer_loading: bool | UnsetType = UNSET
    input_examples: Many[Object] = ()
    allowed_callers: Many[str] = ()


class _Auto(Strict, tag_field="type", tag="auto"):
    disable_parallel_tool_use: bool = False


class _Any(Strict, tag_field="type", tag="any"):
    disable_parallel_tool_use: bool = False


class _OneTool(Strict, tag_field="type", tag="tool"):
    name: str
    disable_parallel_tool_use: bool = False


class _NoTool(Strict, tag_field="type", tag="none"):
    pass


class Enabled(Strict, tag_field="type", tag="enabled"):
    """Thinking with a budget."""

    budget_tokens: Annotated[int, Meta(ge=1024)]
    display: Literal["summarized", "omitted"] | None = None


class Adaptive(Strict, tag_field="type", tag="adaptive"):
    """Thinking as the model sees fit."""

    display: Literal["summarized", "omitted"] | None = None


class Disabled(Strict, tag_field="type", tag="disabled"):
    """No thinking."""


class _Format(Strict, tag_field="type", tag="json_schema"):
    schema: Object


class _OutputConfig(Strict):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class _Metadata(Strict):
    user_id: Annotated[str, Meta(max_length=512)] | None = None


class _Prompt(Strict):
    messages: Many[_Message]
    system: str | Many[Text] = ""
    tools: Tools[_Tool] = ()
    tool_choice: _Auto | _Any | _OneTool | _NoTool | UnsetType = UNSET
    thinking: Enabled | Adaptive | Disabled | UnsetType = UNSET
    output_config: _OutputConfig | UnsetType = UNSET
    cache_control: CacheControl | None = None


class _Body(_Prompt, kw_only=True):
    max_tokens: Positive
    metadata: _Metadata | UnsetType = UNSET
    stop_sequences: Many[str] = ()
    temperature: Unit | UnsetType = UNSET
    top_k: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    top_p: Unit | UnsetType = UNSET


class _Asked(_Body, kw_only=True):
    model: Filled
    stream: bool = False
    service_tier: Literal["auto", "standard_only"] = "auto"
    speed: Literal["standard", "fast"] | None = None
    container: str | None = None
    inference_geo: str | None = None


class _Counted(_Prompt, kw_only=True):
    model: Filled


class _Invoked(_Body, kw_only=True):
    anthropic_version: Literal["bedrock-2023-05-31"]
    anthropic_beta: Many[str] = ()


def read_ask(headers: Headers, body: bytes) -> Ask:
    """Give what is asked at Anthropic's own door. Errors: BadAsk."""
    _check_version(headers)
    said = decoded(body, _Asked, _wording)
    _check(said)
    return _ask(said, "messages", said.model, stream=said.stream)


def read_count(headers: Headers, body: bytes) -> Ask:
    """Give what is to be counted. Errors: BadAsk."""
    _check_version(headers)
    said = decoded(body, _Counted, _wording)
    _Turns(said).check()
    _check_tools(said)
    return _ask(said, "count_tokens", said.model, stream=False)


def read_invoke(model: str, body: bytes, *, stream: bool) -> Ask:
    """Give what is asked on Bedrock, where the path names the model. Errors: BadAsk."""
    said = decoded(body, _Invoked, _wording)
    _check(said)
    return _ask(said, "invoke", model, stream=stream)


def _wording(mistake: Mistake) -> BadAsk:
    path = dotted(mistake.path)
    match mistake.kind:
        case "json":
            return BadAsk("The request body is not valid JSON.")
        case "unknown":
            return BadAsk(f"{path}: Extra inputs are not permitted", path)
        case "missing":
            return BadAsk(f"{path}: Field required", path)
        case _:
            return BadAsk(f"{path}: {mistake.words}" if path else mistake.words, path or None)


def _bad(path: str, words: str) -> BadAsk:
    return BadAsk(f"{path}: {words}", path)


def _check_version(headers: Headers) -> None:
    given = [value.strip() for name, value in headers if name.lower() == b"anthropic-version"]
    if not given:
        raise _bad("anthropic-version", "header is required")
    if given[0] not in _VERSIONS:
        raise _bad("anthropic-version", f'"{given[0].decode("latin-1")}" is not a valid version')


def _check(said: _Body) -> None:
    _Turns(said).check()
    _check_tools(said)
    for nth, stop in enumerate(said.stop_sequences):
        if not stop.strip():
            raise _bad(f"stop_sequences.{nth}", "each stop sequence must contain non-whitespace")
    if isinstance(said.thinking, Enabled | Adaptive):
        check_thinking(said.thinking, said.max_tokens, said.temperature, said.top_p, said.top_k)
        if isinstance(said.tool_choice, _Any | _OneTool):
            raise _bad("tool_choice", "Thinking may not be enabled when tool_choice forces tool use.")


def check_thinking(
    thinking: Enabled | Adaptive,
    max_tokens: int | UnsetType,
    temperature: float | UnsetType,
    top_p: float | UnsetType,
    top_k: object,
) -> None:
    """Check what thinking does not go with. Errors: BadAsk."""
    budget = thinking.budget_tokens if isinstance(thinking, Enabled) else 0
    if isinstance(max_tokens, int) and max_tokens <= budget:
        raise BadAsk("`max_tokens` must be greater than `thinking.budget_tokens`.", "max_tokens")
    if isinstance(temperature, float | int) and temperature != 1:
        raise BadAsk("`temperature` may only be set to 1 when thinking is enabled.", "temperature")
    if isinstance(top_p, float | int) and top_p < _LEAST_TOP_P:
        raise BadAsk(f"`top_p` must be at least {_LEAST_TOP_P} or unset when thinking is enabled.", "top_p")
    if top_k is not UNSET:
        raise BadAsk("`top_k` must be unset when thinking is enabled.", "top_k")


def _check_tools(said: _Prompt) -> None:
    names = [tool.name for tool in said.tools]
    if twice(names):
        raise _bad("tools", "Tool names must be unique.")
    if isinstance(said.tool_choice, UnsetType):
        return
    if not names:
        raise _bad("tool_choice", "`tool_choice` may only be specified while providing `tools`.")
    if isinstance(said.tool_choice, _OneTool) and said.tool_choice.name not in names:
        raise _bad("tool_choice", f"Tool '{said.tool_choice.name}' not found in provided tools")


# Turns

_Placed = tuple[str, Block]


class _Turns:
    """The turns of a prompt, checked. Holds: turns of one role in a row are one turn, as at Anthropic."""

    def __init__(self, said: _Prompt) -> None:
        self._said = said
        self._owed: list[str] = []
        self._called: set[str] = set()

    def check(self) -> None:
        """Check all. Errors: BadAsk."""
        messages = self._said.messages
        if not messages:
            raise _bad("messages", "at least one message is required")
        if messages[0].role != "user":
            raise _bad("messages", 'first message must use the "user" role')
        for path, text in _system(self._said):
            _check_text(path, text)
        turns: list[tuple[str, list[_Placed]]] = []
        for role, turn in groupby(enumerate(messages), key=lambda each: each[1].role):
            blocks = [block for nth, message in turn for block in self._blocks(nth, message)]
            self._answer(blocks) if role == "user" else self._call(blocks)
            turns.append((role, blocks))
        self._check_owed(f"messages.{len(messages) - 1}")
        self._check_prefill(*turns[-1])
        if isinstance(self._said.thinking, Enabled):
            _check_thought(turns)

    def _blocks(self, nth: int, message: _Message) -> Iterator[_Placed]:
        """Give a message's blocks with their paths."""
        path, content = f"messages.{nth}", message.content
        if not content:
            if message.role == "user" or nth < len(self._said.messages) - 1:
                raise _bad(
                    path, "all messages must have non-empty content except for the optional final assistant message"
                )
            return
        if isinstance(content, str):
            content = (Text(text=content),)
        for index, block in enumerate(content):
            at = f"{path}.content.{index}"
            _check_block(at, block, message.role)
            if isinstance(self._said, _Invoked):
                _check_inline(at, block)
            yield at, block

    def _call(self, blocks: list[_Placed]) -> None:
        for path, block in blocks:
            if isinstance(block, ToolUse):
                self._check_defined(path)
                if block.id in self._called:
                    raise _bad(path, "`tool_use` ids must be unique")
                self._called.add(block.id)
                self._owed.append(block.id)

    def _answer(self, blocks: list[_Placed]) -> None:
        asked, given = set(self._owed), set[str]()
        for path, block in blocks:
            if not isinstance(block, ToolResult):
                self._check_owed(path)
                continue
            self._check_defined(path)
            ident = block.tool_use_id
            if ident in given:
                raise _bad(path, f"each tool_use must have a single result. Found multiple with id: {ident}")
            if ident not in asked:
                raise _bad(
                    path,
                    f"unexpected `tool_use_id` found in `tool_result` blocks: {ident}. Each `tool_result` block must "
                    "have a corresponding `tool_use` block in the previous message.",
                )
            given.add(ident)
            self._owed.remove(ident)
        self._check_owed(blocks[-1][0])

    def _check_owed(self, path: str) -> None:
        if self._owed:
            raise _bad(
                path,
                "`tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(self._owed)}. Each `tool_use` block must have a corresponding `tool_result` block in the "
                "next message.",
            )

    def _check_defined(self, path: str) -> None:
        if not self._said.tools:
            raise _bad(path, "Requests which include `tool_use` or `tool_result` blocks must define tools")

    def _check_prefill(self, role: str, blocks: list[_Placed]) -> None:
        last = blocks[-1][1] if role == "assistant" and blocks else None
        if isinstance(last, Text) and last.text != last.text.rstrip():
            raise _bad("messages", "final assistant content cannot end with trailing whitespace")


def _check_thought(turns: list[tuple[str, list[_Placed]]]) -> None:
    """Check that the answer that is to be gone on with began with a thought."""
    role, blocks = turns[-1]
    if role == "user" and isinstance(blocks[0][1], ToolResult):
        blocks = turns[-2][1]
    elif role == "user":
        return
    if blocks and not isinstance(blocks[0][1], Thinking | Redacted):
        path, found = blocks[0]
        raise _bad(
            path,
            f"Expected `thinking` or `redacted_thinking`, but found `{_type(found)}`. When `thinking` is enabled, a final "
            "`assistant` message must start with a thinking block (preceding the lastmost set of `tool_use` and "
            "`tool_result` blocks).",
        )


def _type(block: Block) -> str:
    return str(block.__struct_config__.tag)


def _check_block(path: str, block: Block, role: str) -> None:
    own = isinstance(block, ToolUse | Thinking | Redacted)
    if not isinstance(block, Text) and own != (role == "assistant"):
        raise _bad(path, f"`{_type(block)}` blocks can only be in `{'assistant' if own else 'user'}` messages")
    match block:
        case Text():
            _check_text(path, block.text)
        case Thinking() if not is_sealed(block.signature, "messages", block.thinking):
            raise _bad(path, "Invalid `signature` in `thinking` block")
        case Redacted() if not is_sealed(block.data, "messages"):
            raise _bad(path, "Invalid `data` in `redacted_thinking` block")
        case Image() | Document():
            _check_source(f"{path}.source", block)
        case ToolResult() if not isinstance(block.content, str):
            for nth, part in enumerate(block.content):
                _check_block(f"{path}.content.{nth}", part, role)


def _check_inline(path: str, block: Block) -> None:
    """Refuse what Bedrock would have to fetch."""
    match block:
        case Image(source=_Url()) | Document(source=_Url()):
            raise _bad(f"{path}.source.type", "Input should be 'base64'")
        case ToolResult(content=content) if not isinstance(content, str):
            for nth, part in enumerate(content):
                _check_inline(f"{path}.content.{nth}", part)


def _check_source(path: str, block: Image | Document) -> None:
    match block.source:
        case _Url(url=url) if not is_url(url):
            raise _bad(f"{path}.url", "Only HTTPS URLs are supported.")
        case _Base64(media_type=kind) if (kind == "application/pdf") == isinstance(block, Image):
            raise _bad(f"{path}.media_type", f"Input should not be '{kind}' in `{_type(block)}` blocks")
        case _Content(content=parts) if not isinstance(parts, str):
            for nth, part in enumerate(parts):
                _check_block(f"{path}.content.{nth}", part, "user")


def _check_text(path: str, text: str) -> None:
    if not text:
        raise _bad(path, "text content blocks must be non-empty")
    if not text.strip():
        raise _bad(path, "text content blocks must contain non-whitespace text")


# What is asked


def _system(said: _Prompt) -> list[tuple[str, str]]:
    if isinstance(said.system, str):
        return [("system", said.system)] if said.system else []
    return [(f"system.{nth}", block.text) for nth, block in enumerate(said.system)]


def _texts(said: _Prompt) -> Iterator[str]:
    yield from (text for _, text in _system(said))
    for message in said.messages:
        yield from _texts_of(message.content)


def _texts_of(content: str | tuple[Block, ...]) -> Iterator[str]:
    if isinstance(content, str):
        yield content
        return
    for block in content:
        if isinstance(block, Text):
            yield block.text
        elif isinstance(block, ToolResult):
            yield from _texts_of(block.content)


def _ask(said: _Prompt, dialect: Dialect, model: str, *, stream: bool) -> Ask:
    tokens, variety = weighed(_texts(said))
    metadata = said.metadata if isinstance(said, _Body) else UNSET
    config = said.output_config
    return Ask(
        model=model,
        user=(metadata.user_id or "") if isinstance(metadata, _Metadata) else "",
        stream=stream,
        choices=1,
        wants_usage=True,
        wants_json=isinstance(config, _OutputConfig) and config.format is not None,
        tools=fitting(tool.name for tool in said.tools),
        prompt_tokens=tokens,
        variety=variety,
        dialect=dialect,
    )
