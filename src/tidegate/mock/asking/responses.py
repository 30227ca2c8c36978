"""OpenAI's Responses, stateless: the mock keeps no response, no conversation and no item.

Source: the Responses API reference; the wording is the API's own where it is known.
"""

from collections.abc import Iterator
from typing import Annotated, Final, Literal, cast

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tidegate.mock.ask import Ask, BadAsk, fitting, weighed
from tidegate.mock.asking.openai import bad, wording
from tidegate.mock.asking.shapes import (
    Filled,
    Many,
    Object,
    Strict,
    Tools,
    decoded,
    is_data_url,
    is_url,
    twice,
)
from tidegate.mock.seal import is_sealed

LEAST_OUTPUT_TOKENS: Final = 16
_SEALED: Final = "reasoning.encrypted_content"

_Status = Literal["in_progress", "completed", "incomplete"] | None
_Name = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,128}$")]
_CallId = Annotated[str, Meta(min_length=1, max_length=64)]


# Items


class _InputText(Strict, tag_field="type", tag="input_text"):
    text: str


class _InputImage(Strict, tag_field="type", tag="input_image"):
    image_url: str | None = None
    file_id: str | None = None
    detail: Literal["low", "high", "auto", "original"] | None = None


class _InputFile(Strict, tag_field="type", tag="input_file"):
    file_id: str | None = None
    filename: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    detail: Literal["auto", "low", "high"] | None = None


class _OutputText(Strict, tag_field="type", tag="output_text"):
    text: str
    annotations: Many[Object] = ()
    logprobs: Many[Object] | None = None


class _Refusal(Strict, tag_field="type", tag="refusal"):
    refusal: str


_Input = _InputText | _InputImage | _InputFile


class _Message(Strict):
    role: Literal["user", "system", "developer"]
    content: str | Many[_Input]
    type: Literal["message"] = "message"
    id: str | None = None
    status: _Status = None


class _Output(Strict):
    role: Literal["assistant"]
    content: str | Many[_OutputText | _Refusal]
    type: Literal["message"] = "message"
    id: str | None = None
    status: _Status = None
    phase: Literal["commentary", "final_answer"] | None = None


class _Call(Strict):
    type: str
    call_id: _CallId
    name: _Name
    arguments: str
    id: str | None = None
    status: _Status = None


class _CustomCall(Strict):
    type: str
    call_id: _CallId
    name: _Name
    input: str
    id: str | None = None
    status: _Status = None


class _CallOutput(Strict):
    type: str
    call_id: _CallId
    output: str | Many[_Input]
    id: str | None = None
    status: _Status = None


class _Summary(Strict, tag_field="type", tag="summary_text"):
    text: str


class _Reasoned(Strict, tag_field="type", tag="reasoning_text"):
    text: str


class _Reasoning(Strict):
    type: str
    id: str
    summary: Many[_Summary]
    encrypted_content: str | None = None
    content: Many[_Reasoned] | None = None
    status: _Status = None


class _Reference(Strict):
    id: str
    type: str | None = None


_Item = _Message | _Output | _Call | _CustomCall | _CallOutput | _Reasoning | _Reference
_ITEMS: Final[dict[str, type[_Item]]] = {
    "message": _Message,
    "function_call": _Call,
    "custom_tool_call": _CustomCall,
    "function_call_output": _CallOutput,
    "custom_tool_call_output": _CallOutput,
    "reasoning": _Reasoning,
    "item_reference": _Reference,
}
_PREFIXES: Final[dict[type[_Item], str]] = {
    _Message: "msg",
    _Output: "msg",
    _Call: "fc",
    _CustomCall: "ctc",
    _Reasoning: "rs",
}


class _Kind(Struct):
    type: str = "message"
    role: str = ""


# Tools and the rest


class _Function(Strict):
    type: str
    name: _Name
    parameters: Object | None = None
    strict: bool | None = None
    description: str | None = None
    defer_loading: bool | None = None


class _Custom(Strict):
    type: str
    name: _Name
    description: str | None = None
    format: Object | None = None


_HOSTED: Final = frozenset(
    {
        "web_search",
        "web_search_preview",
        "file_search",
        "code_interpreter",
        "image_generation",
        "mcp",
        "local_shell",
        "shell",
    }
)


class _Chosen(Strict):
    type: str
    name: str = ""
    mode: Literal["auto", "required"] = "auto"
    tools: Many[Object] = ()


class _PlainText(Strict, tag_field="type", tag="text"):
    pass


class _JsonObject(Strict, tag_field="type", tag="json_object"):
    pass


class _JsonSchema(Strict, tag_field="type", tag="json_schema"):
    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    schema: Object
    strict: bool | None = None
    description: str | None = None


class _Text(Strict):
    format: _PlainText | _JsonObject | _JsonSchema | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class _Effort(Strict):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class _StreamOptions(Strict):
    include_obfuscation: bool | None = None


class _Body(Strict):
    model: Filled
    input: str | Many[msgspec.Raw] | UnsetType = UNSET
    instructions: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    store: bool | None = None
    include: (
        Many[
            Literal[
                "file_search_call.results",
                "web_search_call.results",
                "web_search_call.action.sources",
                "message.input_image.image_url",
                "computer_call_output.output.image_url",
                "code_interpreter_call.outputs",
                "reasoning.encrypted_content",
                "message.output_text.logprobs",
            ]
        ]
        | None
    ) = None
    tools: Tools[msgspec.Raw] | None = None
    tool_choice: Literal["none", "auto", "required"] | _Chosen | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    max_output_tokens: int | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    text: _Text | None = None
    reasoning: _Effort | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    previous_response_id: str | None = None
    conversation: str | Object | None = None
    background: bool | None = None


def read_ask(body: bytes) -> Ask:
    """Give what is asked. Errors: BadAsk."""
    said = decoded(body, _Body, wording)
    _check(said)
    items = _items(said)
    _check_order(items)
    names = _tools(said)
    tokens, variety = weighed(_texts(said, items))
    return Ask(
        model=said.model,
        user=said.user or "",
        stream=bool(said.stream),
        choices=1,
        wants_usage=True,
        wants_json=isinstance(said.text and said.text.format, _JsonObject | _JsonSchema),
        tools=fitting(names),
        prompt_tokens=tokens,
        variety=variety,
        dialect="responses",
        encrypted=_SEALED in (said.include or ()),
    )


def _check(said: _Body) -> None:
    if said.previous_response_id is not None:
        raise bad(
            f"Previous response with id '{said.previous_response_id}' not found.",
            "previous_response_id",
            "previous_response_not_found",
        )
    if said.conversation is not None:
        raise BadAsk("Conversation not found: the mock keeps none.", "conversation", 404)
    if said.background:
        raise bad("Background mode is not supported: the mock keeps no response.", "background")
    if said.max_output_tokens is not None and said.max_output_tokens < LEAST_OUTPUT_TOKENS:
        raise bad(
            f"Invalid 'max_output_tokens': integer below minimum value. Expected a value >= {LEAST_OUTPUT_TOKENS}, but got "
            f"{said.max_output_tokens} instead.",
            "max_output_tokens",
            "integer_below_min_value",
        )
    if said.input is UNSET or not said.input:
        raise bad("Missing required parameter: 'input'.", "input", "missing_required_parameter")


# Items, read


def _items(said: _Body) -> list[_Item]:
    """Give the input's items. Shape: a plain text is none."""
    if not isinstance(said.input, tuple):
        return []
    return [_item(f"input[{nth}]", raw) for nth, raw in enumerate(said.input)]


def _item(path: str, raw: msgspec.Raw) -> _Item:
    kind = decoded(raw, _Kind, wording, path)
    shape = _Output if kind.role == "assistant" and kind.type == "message" else _ITEMS.get(kind.type)
    if shape is None:
        known = ", ".join(f"'{each}'" for each in _ITEMS)
        raise bad(f"Invalid value: '{kind.type}'. Supported values are: {known}.", f"{path}.type", "invalid_value")
    item = cast("_Item", decoded(raw, shape, wording, path))
    _check_item(path, item)
    return item


def _check_item(path: str, item: _Item) -> None:
    prefix = _PREFIXES.get(type(item), "")
    if item.id and not item.id.startswith(prefix):
        raise bad(
            f"Invalid '{path}.id': '{item.id}'. Expected an ID that begins with '{prefix}'.",
            f"{path}.id",
            "invalid_value",
        )
    match item:
        case _Reference(id=ident):
            raise _lost(path, ident)
        case _Reasoning(id=ident, encrypted_content=None):
            raise _lost(path, ident)
        case _Reasoning(id=ident, encrypted_content=sealed) if not is_sealed(str(sealed), "responses"):
            raise bad(
                f"The encrypted content for item {ident} could not be verified. Reason: Encrypted content could not be "
                "decrypted or parsed.",
                f"{path}.encrypted_content",
                "invalid_encrypted_content",
            )
        case _Message(content=parts) if not isinstance(parts, str):
            _check_parts(f"{path}.content", parts)
        case _CallOutput(output=parts) if not isinstance(parts, str):
            _check_parts(f"{path}.output", parts)


def _lost(path: str, ident: str) -> BadAsk:
    return BadAsk(
        f"Item with id '{ident}' not found. Items are not persisted when `store` is set to false. Try again with `store` "
        "set to true, or remove this item from your input.",
        path,
        404,
    )


def _check_parts(path: str, parts: tuple[_Input, ...]) -> None:
    for nth, part in enumerate(parts):
        at = f"{path}[{nth}]"
        if isinstance(part, _InputImage) and not part.file_id:
            url = part.image_url
            if url is None:
                raise bad(
                    f"Missing required parameter: '{at}.image_url'.", f"{at}.image_url", "missing_required_parameter"
                )
            if not (is_url(url) or is_data_url(url, "image/")):
                raise bad(
                    f"Invalid '{at}.image_url'. Expected a valid URL or a base64-encoded data URL with an image MIME type.",
                    f"{at}.image_url",
                    "invalid_value",
                )
        elif isinstance(part, _InputFile):
            _check_file(at, part)


def _check_file(path: str, part: _InputFile) -> None:
    if not (part.file_id or part.file_data or part.file_url):
        raise bad(f"Missing required parameter: '{path}.file_id'.", f"{path}.file_id", "missing_required_parameter")
    if part.file_data and not is_data_url(part.file_data):
        raise bad(
            f"Invalid '{path}.file_data'. Expected a base64-encoded data URL.", f"{path}.file_data", "invalid_value"
        )
    if part.file_data and not part.filename:
        raise bad(f"Missing required parameter: '{path}.filename'.", f"{path}.filename", "missing_required_parameter")
    if part.file_url and not is_url(part.file_url):
        raise bad(f"Invalid '{path}.file_url'. Expected a valid URL.", f"{path}.file_url", "invalid_value")


def _check_order(items: list[_Item]) -> None:
    """Check that calls and their outputs belong together, and that a thought comes before what it led to."""
    called: list[str] = []
    answered: set[str] = set()
    for nth, item in enumerate(items):
        if isinstance(item, _Call | _CustomCall):
            called.append(item.call_id)
        elif isinstance(item, _CallOutput):
            if item.call_id not in called:
                raise bad(f"No tool call found for function call output with call_id {item.call_id}.", "input")
            answered.add(item.call_id)
        elif isinstance(item, _Reasoning) and not isinstance(
            items[nth + 1] if nth + 1 < len(items) else None, _Reasoning | _Output | _Call | _CustomCall
        ):
            raise bad(
                f"Item '{item.id}' of type 'reasoning' was provided without its required following item.", "input"
            )
    if again := twice(called):
        raise bad(f"Duplicate call_id found in input: {again}.", "input")
    for each in called:
        if each not in answered:
            raise bad(f"No tool output found for function call {each}.", "input")


def _tools(said: _Body) -> list[str]:
    """Give the names of the functions."""
    names: list[str] = []
    for nth, raw in enumerate(said.tools or ()):
        path = f"tools[{nth}]"
        kind = decoded(raw, _Kind, wording, path).type
        if kind in {"function", "custom"}:
            shape: type[_Function | _Custom] = _Function if kind == "function" else _Custom
            names.append(decoded(raw, shape, wording, path).name)
        elif kind not in _HOSTED:
            raise bad(
                f"Invalid value: '{kind}'. Supported values are: 'function', 'custom'.", f"{path}.type", "invalid_value"
            )
    choice = said.tool_choice
    if choice == "required" and not said.tools:
        raise bad("Tool choice 'required' must be specified with 'tools' parameter.", "tool_choice")
    if isinstance(choice, _Chosen) and choice.type in {"function", "custom"} and choice.name not in names:
        raise bad(f"Tool choice '{choice.type}' not found in 'tools' parameter.", "tool_choice")
    return names


def _texts(said: _Body, items: list[_Item]) -> Iterator[str]:
    yield said.instructions or ""
    if isinstance(said.input, str):
        yield said.input
    for item in items:
        match item:
            case _Message(content=content) | _Output(content=content) | _CallOutput(output=content):
                yield from [content] if isinstance(content, str) else map(_text, content)


def _text(part: _Input | _OutputText | _Refusal) -> str:
    return part.text if isinstance(part, _InputText | _OutputText) else ""
