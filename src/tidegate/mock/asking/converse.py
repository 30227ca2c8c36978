"""Bedrock's Converse: the shapes of its service model, and the rules that the service adds.

Source: botocore's bedrock-runtime model; the Bedrock API reference and user guide.
"""

import base64
import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from tidegate.mock.ask import Ask, BadAsk, fitting, weighed
from tidegate.mock.asking import messages
from tidegate.mock.asking.shapes import (
    Blob,
    Filled,
    Many,
    Mistake,
    Positive,
    Strict,
    Tools,
    Union,
    Unit,
    decoded,
    dotted,
    twice,
    worded,
)
from tidegate.mock.seal import is_sealed

_DOCUMENT_NAME: Final = re.compile(r"(?!.*\s\s)[\w\s()\[\]-]{1,200}", re.ASCII)

_Id = Annotated[str, Meta(pattern="^[a-zA-Z0-9_.:-]{1,64}$")]
_Name = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]


class _S3(Strict, rename="camel"):
    uri: Annotated[str, Meta(pattern="^s3://[a-z0-9][.a-z0-9-]{1,61}[a-z0-9](/.*)?$")]
    bucket_owner: Annotated[str, Meta(pattern="^[0-9]{12}$")] = "000000000000"


class _ImageSource(Union, rename="camel"):
    bytes: Blob | UnsetType = UNSET
    s3_location: _S3 | UnsetType = UNSET


class _Image(Strict, rename="camel"):
    format: Literal["png", "jpeg", "gif", "webp"]
    source: _ImageSource


class _TextOnly(Strict, rename="camel"):
    text: str


class _DocumentSource(Union, rename="camel"):
    bytes: Blob | UnsetType = UNSET
    s3_location: _S3 | UnsetType = UNSET
    text: str | UnsetType = UNSET
    content: Many[_TextOnly] | UnsetType = UNSET


class _Citations(Strict, rename="camel"):
    enabled: bool


class _Document(Strict, rename="camel"):
    name: str
    source: _DocumentSource
    format: Literal["pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md"] = "txt"
    context: str = ""
    citations: _Citations | UnsetType = UNSET


class _ToolUse(Strict, rename="camel"):
    tool_use_id: _Id
    name: _Name
    input: object


class _ResultContent(Union, rename="camel"):
    json: object | UnsetType = UNSET
    text: str | UnsetType = UNSET
    image: _Image | UnsetType = UNSET
    document: _Document | UnsetType = UNSET


class _ToolResult(Strict, rename="camel"):
    tool_use_id: _Id
    content: Many[_ResultContent]
    status: Literal["success", "error"] = "success"


class _CachePoint(Strict, rename="camel"):
    type: Literal["default"]
    ttl: Literal["5m", "1h"] = "5m"


class _ReasoningText(Strict, rename="camel"):
    text: str
    signature: str | UnsetType = UNSET


class _Reasoning(Union, rename="camel"):
    reasoning_text: _ReasoningText | UnsetType = UNSET
    redacted_content: bytes | UnsetType = UNSET


class _Block(Union, rename="camel"):
    text: str | UnsetType = UNSET
    image: _Image | UnsetType = UNSET
    document: _Document | UnsetType = UNSET
    tool_use: _ToolUse | UnsetType = UNSET
    tool_result: _ToolResult | UnsetType = UNSET
    cache_point: _CachePoint | UnsetType = UNSET
    reasoning_content: _Reasoning | UnsetType = UNSET


class _Message(Strict, rename="camel"):
    role: Literal["user", "assistant"]
    content: Many[_Block]


class _System(Union, rename="camel"):
    text: Filled | UnsetType = UNSET
    cache_point: _CachePoint | UnsetType = UNSET


class _Inference(Strict, rename="camel"):
    max_tokens: Positive | UnsetType = UNSET
    temperature: Unit | UnsetType = UNSET
    top_p: Unit | UnsetType = UNSET
    stop_sequences: Annotated[tuple[Filled, ...], Meta(max_length=2500)] = ()


class _Schema(Union, rename="camel"):
    json: object | UnsetType = UNSET


class _Spec(Strict, rename="camel"):
    name: _Name
    input_schema: _Schema
    description: Filled | UnsetType = UNSET
    strict: bool = False


class _Tool(Union, rename="camel"):
    tool_spec: _Spec | UnsetType = UNSET
    cache_point: _CachePoint | UnsetType = UNSET


class _Nothing(Strict, rename="camel"):
    pass


class _Named(Strict, rename="camel"):
    name: _Name


class _Choice(Union, rename="camel"):
    auto: _Nothing | UnsetType = UNSET
    any: _Nothing | UnsetType = UNSET
    tool: _Named | UnsetType = UNSET


class _ToolConfig(Strict, rename="camel"):
    tools: Annotated[Tools[_Tool], Meta(min_length=1)]
    tool_choice: _Choice | UnsetType = UNSET


class _JsonSchema(Strict, rename="camel"):
    schema: str
    name: str = ""
    description: str = ""


class _Structure(Union, rename="camel"):
    json_schema: _JsonSchema | UnsetType = UNSET


class _TextFormat(Strict, rename="camel"):
    type: Literal["json_schema"]
    structure: _Structure


class _Output(Strict, rename="camel"):
    text_format: _TextFormat | UnsetType = UNSET
    effort: Annotated[str, Meta(max_length=16)] = ""


class _Latency(Strict, rename="camel"):
    latency: Literal["standard", "optimized"] = "standard"


class _Tier(Strict, rename="camel"):
    type: Literal["priority", "default", "flex", "reserved"]


class _Guardrail(Strict, rename="camel"):
    guardrail_identifier: str = ""
    guardrail_version: str = ""
    trace: Literal["enabled", "disabled", "enabled_full"] = "disabled"
    stream_processing_mode: Literal["sync", "async"] = "sync"


class _Body(Strict, rename="camel"):
    messages: Many[_Message] = ()
    system: Many[_System] = ()
    inference_config: _Inference = field(default_factory=_Inference)
    tool_config: _ToolConfig | UnsetType = UNSET
    guardrail_config: _Guardrail | UnsetType = UNSET
    additional_model_request_fields: object = None
    additional_model_response_field_paths: Annotated[tuple[str, ...], Meta(max_length=10)] = ()
    request_metadata: Annotated[dict[str, str], Meta(min_length=1, max_length=16)] | UnsetType = UNSET
    performance_config: _Latency = field(default_factory=_Latency)
    service_tier: _Tier | UnsetType = UNSET
    output_config: _Output = field(default_factory=_Output)


class _Thinking(Strict, forbid_unknown_fields=False):
    """What is looked at of the fields that go to the model as they are."""

    thinking: messages.Enabled | messages.Adaptive | messages.Disabled | UnsetType = UNSET
    top_k: int | UnsetType = UNSET


def read_ask(model: str, body: bytes, *, stream: bool) -> Ask:
    """Give what is asked. Errors: BadAsk."""
    said = decoded(body, _Body, _wording)
    _Turns(said).check()
    _check_tools(said)
    _check_thinking(said)
    for nth, block in enumerate(said.system):
        _only(f"system.{nth}", block)
    tokens, variety = weighed(_texts(said))
    return Ask(
        model=model,
        user="",
        stream=stream,
        choices=1,
        wants_usage=True,
        wants_json=said.output_config.text_format is not UNSET,
        tools=fitting(spec.name for spec in _specs(said)),
        prompt_tokens=tokens,
        variety=variety,
        dialect="converse",
    )


def _wording(mistake: Mistake) -> BadAsk:
    path = dotted(mistake.path)
    match mistake.kind:
        case "json":
            return _bad("The request body is not valid JSON.")
        case "unknown":
            return _bad(f"Unknown parameter in input: {path}", path)
        case "missing":
            return _bad(f"Missing required parameter in input: {path}", path)
        case _:
            return _bad(f"Value at '{path}' failed to satisfy constraint: {mistake.words}", path)


def _bad(words: str, path: str | None = None) -> BadAsk:
    return BadAsk(words, path, code="ValidationException")


def _only(path: str, union: Union) -> tuple[str, object]:
    """Give the one member of a union that is there, and its value."""
    found = union.members()
    if len(found) != 1:
        names = ", ".join(union.__struct_encode_fields__)
        raise _bad(
            f"Invalid number of parameters set for tagged union structure {path}. Set exactly one of: {names}.", path
        )
    return found[0]


# Turns


class _Turns:
    """The turns of a conversation, checked."""

    def __init__(self, said: _Body) -> None:
        self._said = said
        self._owed: list[str] = []

    def check(self) -> None:
        """Check all. Errors: BadAsk."""
        if not self._said.messages or self._said.messages[0].role != "user":
            raise _bad(
                "A conversation must start with a user message. Try again with a conversation that starts with a user "
                "message.",
                "messages",
            )
        for nth, message in enumerate(self._said.messages):
            path = f"messages.{nth}"
            if message.role != ("user", "assistant")[nth % 2]:
                raise _bad(
                    "A conversation must alternate between user and assistant roles. Make sure the conversation "
                    "alternates between user and assistant roles and try again.",
                    path,
                )
            self._check_message(f"{path}.content", message)
        if self._owed:
            self._refuse_owed(f"messages.{len(self._said.messages)}.content")

    def _check_message(self, path: str, message: _Message) -> None:
        if not message.content:
            raise _bad(
                f"The content field in the Message object at {path.removesuffix('.content')} is empty. Add a ContentBlock "
                "object to the content field and try again.",
                path,
            )
        kinds = [_check_block(f"{path}.{nth}", block, message.role) for nth, block in enumerate(message.content)]
        if "document" in kinds and "text" not in kinds:
            raise _bad(f"A text block is required at {path} when using documents.", path)
        uses = [block.tool_use.tool_use_id for block in message.content if isinstance(block.tool_use, _ToolUse)]
        results = [
            block.tool_result.tool_use_id for block in message.content if isinstance(block.tool_result, _ToolResult)
        ]
        if (uses or results) and self._said.tool_config is UNSET:
            raise _bad(
                "The toolConfig field must be defined when using toolUse and toolResult content blocks.", "toolConfig"
            )
        self._match(path, results)
        self._owed = uses
        if again := twice(uses):
            raise _bad(f"The toolUse blocks at {path} contain duplicate Ids: {again}", path)

    def _match(self, path: str, results: list[str]) -> None:
        if again := twice(results):
            raise _bad(f"The toolResult blocks at {path} contain duplicate Ids: {again}", path)
        if any(each not in self._owed for each in results):
            raise _bad(
                f"The number of toolResult blocks at {path} exceeds the number of toolUse blocks of previous turn.",
                path,
            )
        self._owed = [each for each in self._owed if each not in results]
        if self._owed:
            self._refuse_owed(path)

    def _refuse_owed(self, path: str) -> None:
        raise _bad(f"Expected toolResult blocks at {path} for the following Ids: {', '.join(self._owed)}", path)


_ROLES: Final = {
    "image": "user",
    "document": "user",
    "toolResult": "user",
    "toolUse": "assistant",
    "reasoningContent": "assistant",
}


def _check_block(path: str, block: _Block, role: str) -> str:
    kind, held = _only(path, block)
    if _ROLES.get(kind, role) != role:
        raise _bad(f"The role of the message at {path} is {role}, which is not valid for {kind} blocks.", path)
    path = f"{path}.{kind}"
    match held:
        case str(text) if not text.strip():
            raise _bad(
                f"The text field in the ContentBlock object at {path.removesuffix('.text')} is blank. Add text to the text "
                "field, and try again.",
                path,
            )
        case _ToolUse(input=value) if not isinstance(value, dict):
            raise _not_an_object(f"{path}.input")
        case _ToolResult(content=contents):
            for nth, content in enumerate(contents):
                _check_result(f"{path}.content.{nth}", content)
        case _Reasoning():
            _check_reasoning(path, held)
        case _Image() | _Document():
            _check_media(path, held)
    return kind


def _check_result(path: str, content: _ResultContent) -> None:
    kind, held = _only(path, content)
    if isinstance(held, _Image | _Document):
        _check_media(f"{path}.{kind}", held)
    elif kind == "json" and not isinstance(held, dict):
        raise _not_an_object(f"{path}.json")


def _not_an_object(path: str) -> BadAsk:
    return _bad(
        f"The format of the value at {path} is invalid. Provide a json object for the field and try again.", path
    )


def _check_media(path: str, held: _Image | _Document) -> None:
    _only(f"{path}.source", held.source)
    if isinstance(held, _Document) and not _DOCUMENT_NAME.fullmatch(held.name):
        raise _bad(
            "The document file name can only contain alphanumeric characters, whitespace characters, hyphens, "
            "parentheses, and square brackets. The name can't contain more than one consecutive whitespace character.",
            f"{path}.name",
        )


def _check_reasoning(path: str, reasoning: _Reasoning) -> None:
    kind, said = _only(path, reasoning)
    if isinstance(said, _ReasoningText):
        if said.signature is UNSET:
            raise _bad(f"{path}.{kind}.signature: Field required", f"{path}.{kind}.signature")
        if not is_sealed(str(said.signature), "converse", said.text):
            raise _bad(f"{path}: Invalid `signature` in `thinking` block", f"{path}.{kind}.signature")
    elif isinstance(said, bytes) and not is_sealed(base64.b64encode(said).decode(), "converse"):
        raise _bad(f"{path}: Invalid `data` in `redacted_thinking` block", f"{path}.{kind}")


# The rest


def _specs(said: _Body) -> list[_Spec]:
    tools = said.tool_config.tools if isinstance(said.tool_config, _ToolConfig) else ()
    return [tool.tool_spec for tool in tools if isinstance(tool.tool_spec, _Spec)]


def _check_tools(said: _Body) -> None:
    if not isinstance(config := said.tool_config, _ToolConfig):
        return
    for nth, tool in enumerate(config.tools):
        path = f"toolConfig.tools.{nth}"
        if isinstance(spec := _only(path, tool)[1], _Spec):
            path = f"{path}.toolSpec.inputSchema"
            schema = _only(path, spec.input_schema)[1]
            if not isinstance(schema, dict) or schema.get("type") != "object":
                raise _bad(f"The value at {path}.json.type must be one of the following: object.", f"{path}.json.type")
    names = [spec.name for spec in _specs(said)]
    if again := twice(names):
        raise _bad(f"The tool {again} is already defined at toolConfig.tools.", "toolConfig.tools")
    if not isinstance(choice := config.tool_choice, _Choice):
        return
    path = "toolConfig.toolChoice"
    if isinstance(chosen := _only(path, choice)[1], _Named) and chosen.name not in names:
        path = f"{path}.tool.name"
        raise _bad(f"The value at {path} must be one of the tools that toolConfig.tools defines.", path)


def _check_thinking(said: _Body) -> None:
    if not isinstance(more := said.additional_model_request_fields, dict | None):
        raise _not_an_object("additionalModelRequestFields")
    with worded(_wording, ".additionalModelRequestFields"):
        extra = msgspec.convert(more or {}, _Thinking)
    if isinstance(extra.thinking, messages.Enabled | messages.Adaptive):
        config = said.inference_config
        try:
            messages.check_thinking(extra.thinking, config.max_tokens, config.temperature, config.top_p, extra.top_k)
        except BadAsk as error:
            raise _bad(error.message, error.param) from None


def _texts(said: _Body) -> Iterator[str]:
    yield from (block.text for block in said.system if isinstance(block.text, str))
    for message in said.messages:
        for block in message.content:
            if isinstance(block.text, str):
                yield block.text
            elif isinstance(block.tool_result, _ToolResult):
                yield from (_result_text(content) for content in block.tool_result.content)


def _result_text(content: _ResultContent) -> str:
    if isinstance(content.text, str):
        return content.text
    return "" if content.json is UNSET else msgspec.json.encode(content.json).decode()
