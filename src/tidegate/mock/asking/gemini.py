"""Google's Gemini API: generateContent and streamGenerateContent.

Names may be said in camel case or with underscores, as the API's JSON allows; not so within a schema's `properties`.
Source: the Gemini API reference; the wording is the API's own where it is known.
"""

from collections.abc import Iterator
from typing import Annotated, Final, Literal, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from tidegate.mock.ask import Ask, BadAsk, Dialect, fitting, weighed
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
    twice,
    worded,
)
from tidegate.mock.seal import is_sealed

# What Google takes in place of a signature, for calls that another model made.
_UNSIGNED: Final = frozenset({"skip_thought_signature_validator", "context_engineering_is_the_way_to_go"})
# Objects whose names are the caller's own.
_FREE: Final = frozenset(
    {"args", "response", "properties", "defs", "default", "example", "parametersJsonSchema", "responseJsonSchema"}
)
_MOST_STOPS: Final = 5

_Name = Annotated[str, Meta(pattern="^[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}$")]


class _Camel(Strict, rename="camel"):
    pass


class _Blob(_Camel):
    mime_type: Annotated[str, Meta(pattern=r"^[\w.+-]+/[\w.+-]+$")]
    data: Blob
    display_name: str = ""


class _File(_Camel):
    file_uri: Filled
    mime_type: str = ""
    display_name: str = ""


class _Call(_Camel):
    name: _Name
    args: Object = field(default_factory=dict)
    id: str = ""


class _Response(_Camel):
    name: _Name
    response: Object
    id: str = ""
    parts: Many[Object] = ()
    will_continue: bool = False
    scheduling: str = ""


class _Part(_Camel):
    text: str | UnsetType = UNSET
    inline_data: _Blob | UnsetType = UNSET
    file_data: _File | UnsetType = UNSET
    function_call: _Call | UnsetType = UNSET
    function_response: _Response | UnsetType = UNSET
    executable_code: Object | UnsetType = UNSET
    code_execution_result: Object | UnsetType = UNSET
    thought: bool = False
    thought_signature: str = ""
    video_metadata: Object | UnsetType = UNSET
    media_resolution: Object | UnsetType = UNSET
    part_metadata: Object | UnsetType = UNSET


_DATA: Final = (
    "text",
    "inline_data",
    "file_data",
    "function_call",
    "function_response",
    "executable_code",
    "code_execution_result",
)


class _Content(_Camel):
    parts: Many[_Part] = ()
    role: str = "user"


class _Schema(_Camel):
    """What the API takes of OpenAPI's schemas; JSON Schema proper goes by another member."""

    type: Literal[
        "STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL",
        "string", "number", "integer", "boolean", "array", "object", "null",
    ] | UnsetType = UNSET  # fmt: skip
    format: str = ""
    title: str = ""
    description: str = ""
    nullable: bool = False
    enum: Many[str] = ()
    items: Union["_Schema", UnsetType] = UNSET
    properties: dict[str, "_Schema"] = field(default_factory=dict)
    required: Many[str] = ()
    property_ordering: Many[str] = ()
    any_of: Many["_Schema"] = ()
    min_items: int | str = 0
    max_items: int | str = 0
    min_length: int | str = 0
    max_length: int | str = 0
    min_properties: int | str = 0
    max_properties: int | str = 0
    minimum: float = 0
    maximum: float = 0
    pattern: str = ""
    default: object = None
    example: object = None


class _Function(_Camel):
    name: _Name
    description: str = ""
    parameters: _Schema | UnsetType = UNSET
    parameters_json_schema: object = UNSET
    response: _Schema | UnsetType = UNSET
    response_json_schema: object = UNSET
    behavior: Literal["UNSPECIFIED", "BLOCKING", "NON_BLOCKING"] = "BLOCKING"


class _Tool(_Camel):
    function_declarations: Tools[_Function] = ()
    google_search: Object | UnsetType = UNSET
    google_search_retrieval: Object | UnsetType = UNSET
    google_maps: Object | UnsetType = UNSET
    code_execution: Object | UnsetType = UNSET
    computer_use: Object | UnsetType = UNSET
    file_search: Object | UnsetType = UNSET
    url_context: Object | UnsetType = UNSET


class _Calling(_Camel):
    mode: Literal["MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"] = "AUTO"
    allowed_function_names: Tools[str] = ()


class _ToolConfig(_Camel):
    function_calling_config: _Calling = field(default_factory=_Calling)
    retrieval_config: Object | UnsetType = UNSET


class _Safety(_Camel):
    category: Annotated[str, Meta(pattern="^HARM_CATEGORY_[A-Z_]+$")]
    threshold: Literal[
        "HARM_BLOCK_THRESHOLD_UNSPECIFIED",
        "BLOCK_LOW_AND_ABOVE",
        "BLOCK_MEDIUM_AND_ABOVE",
        "BLOCK_ONLY_HIGH",
        "BLOCK_NONE",
        "OFF",
    ]


class _Thinking(_Camel):
    include_thoughts: bool = False
    thinking_budget: Annotated[int, Meta(ge=-1)] | UnsetType = UNSET
    thinking_level: Annotated[str, Meta(pattern="^(?i:minimal|low|medium|high)$")] | UnsetType = UNSET


class _Config(_Camel):
    candidate_count: Annotated[int, Meta(ge=1, le=8)] = 1
    stop_sequences: Annotated[tuple[str, ...], Meta(max_length=_MOST_STOPS)] = ()
    max_output_tokens: Positive | UnsetType = UNSET
    temperature: Annotated[float, Meta(ge=0, le=2)] | UnsetType = UNSET
    top_p: Unit | UnsetType = UNSET
    top_k: Annotated[float, Meta(ge=1)] | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    presence_penalty: Annotated[float, Meta(ge=-2, lt=2)] | UnsetType = UNSET
    frequency_penalty: Annotated[float, Meta(ge=-2, lt=2)] | UnsetType = UNSET
    response_mime_type: Literal["text/plain", "application/json", "text/x.enum"] = "text/plain"
    response_schema: _Schema | UnsetType = UNSET
    response_json_schema: object = UNSET
    response_modalities: Many[Literal["TEXT", "IMAGE", "AUDIO"]] = ()
    response_logprobs: bool = False
    logprobs: Annotated[int, Meta(ge=0, le=20)] | UnsetType = UNSET
    thinking_config: _Thinking = field(default_factory=_Thinking)
    media_resolution: str = ""
    speech_config: Object | UnsetType = UNSET
    image_config: Object | UnsetType = UNSET
    enable_enhanced_civic_answers: bool = False


class _Body(_Camel):
    contents: Many[_Content] = ()
    model: str = ""
    system_instruction: _Content = field(default_factory=_Content)
    tools: Tools[_Tool] = ()
    tool_config: _ToolConfig = field(default_factory=_ToolConfig)
    safety_settings: Many[_Safety] = ()
    generation_config: _Config = field(default_factory=_Config)
    cached_content: str = ""


def read_ask(dialect: Dialect, model: str, body: bytes, *, stream: bool) -> Ask:
    """Give what is asked. Errors: BadAsk."""
    with worded(_wording):
        said = msgspec.convert(_camel(msgspec.json.decode(body)), _Body)
    _check_contents(said)
    _check_tools(said)
    _check_config(said.generation_config)
    tokens, variety = weighed(_texts(said))
    return Ask(
        model=model,
        user="",
        stream=stream,
        choices=said.generation_config.candidate_count,
        wants_usage=True,
        wants_json=said.generation_config.response_mime_type == "application/json",
        tools=fitting(function.name for function in _functions(said)),
        prompt_tokens=tokens,
        variety=variety,
        dialect=dialect,
    )


def _camel(said: object) -> object:
    """Give JSON with its names in camel case, and without its nulls, which are not there for the API."""
    if isinstance(said, list):
        return [_camel(each) for each in said]
    if not isinstance(said, dict):
        return said
    named = ((_in_camel(name), value) for name, value in said.items() if value is not None)
    return {name: value if name in _FREE else _camel(value) for name, value in named}


def _in_camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest) if first else name


def _wording(mistake: Mistake) -> BadAsk:
    path = mistake.path
    match mistake.kind:
        case "json":
            return BadAsk("Invalid JSON payload received.", code="INVALID_ARGUMENT")
        case "unknown":
            at, _, name = path.rpartition(".")
            where = f" at '{at}'" if at else ""
            words = f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'
        case "missing":
            words = f"* GenerateContentRequest.{path}: required field is not set."
        case _:
            words = f"Invalid value at '{path}': {mistake.words}"
    return _bad(words, path)


def _bad(words: str, path: str) -> BadAsk:
    return BadAsk(words, path, code="INVALID_ARGUMENT")


# Contents


def _check_contents(said: _Body) -> None:
    if not said.contents:
        raise _bad("* GenerateContentRequest.contents: contents is not specified", "contents")
    for nth, part in enumerate(said.system_instruction.parts):
        _check_part(f"system_instruction.parts[{nth}]", part)
    asked: list[_Call] = []
    for nth, content in enumerate(said.contents):
        path = f"contents[{nth}]"
        if content.role not in {"user", "model"}:
            raise _bad("Please use a valid role: user, model.", f"{path}.role")
        if not content.parts:
            raise _bad(f"* GenerateContentRequest.{path}.parts: contents.parts must not be empty.", f"{path}.parts")
        for index, part in enumerate(content.parts):
            _check_part(f"{path}.parts[{index}]", part)
        calls = [part.function_call for part in content.parts if isinstance(part.function_call, _Call)]
        _check_turn(path, content, calls, follows_user=nth > 0 and said.contents[nth - 1].role == "user")
        _check_answers(path, content, asked)
        asked = calls
    _check_answers(f"contents[{len(said.contents)}]", _Content(), asked)


def _check_turn(path: str, content: _Content, calls: list[_Call], *, follows_user: bool) -> None:
    if calls and (content.role != "model" or not follows_user):
        raise _bad(
            "Please ensure that function call turn comes immediately after a user turn or after a function response turn.",
            path,
        )
    if content.role == "model" and any(isinstance(part.function_response, _Response) for part in content.parts):
        raise _bad(f"Function responses are not allowed in a model turn: {path}", path)


def _check_answers(path: str, content: _Content, asked: list[_Call]) -> None:
    """Check that each call that was asked is answered here, and nothing else."""
    given = [part.function_response for part in content.parts if isinstance(part.function_response, _Response)]
    if given and not asked:
        raise _bad("Please ensure that function response turn comes immediately after a function call turn.", path)
    if len(given) != len(asked):
        raise _bad(
            "Please ensure that the number of function response parts is equal to the number of function call parts of the "
            "function call turn.",
            path,
        )
    owed = [(call.name, call.id) for call in asked]
    for response in given:
        fits = [each for each in owed if each[0] == response.name and response.id in {each[1], ""}]
        if not fits:
            raise _bad(
                f"Function response `{response.name}` does not match any function call of the turn before.", path
            )
        owed.remove(fits[0])


def _check_part(path: str, part: _Part) -> None:
    there = [name for name in _DATA if getattr(part, name) is not UNSET]
    if not there:
        raise _bad(
            f"* GenerateContentRequest.{path}.data: required oneof field 'data' must have one initialized field", path
        )
    if len(there) > 1:
        second = _in_camel(there[1])
        raise _bad(
            f"Invalid value at '{path}' (oneof), oneof field 'data' is already set. Cannot set '{second}'",
            f"{path}.{second}",
        )
    seal = part.thought_signature.replace("-", "+").replace("_", "/")
    if seal and part.thought_signature not in _UNSIGNED and not is_sealed(seal, "gemini"):
        raise _bad("Thought signature is not valid.", f"{path}.thoughtSignature")


# The rest


def _functions(said: _Body) -> Iterator[_Function]:
    for tool in said.tools:
        yield from tool.function_declarations


def _check_tools(said: _Body) -> None:
    names = [function.name for function in _functions(said)]
    if again := twice(names):
        raise _bad(f"Duplicate function declaration found: {again}", "tools")
    for function in _functions(said):
        if function.parameters is not UNSET and function.parameters_json_schema is not UNSET:
            raise _bad(f"parameters and parameters_json_schema of {function.name} are mutually exclusive.", "tools")
        if isinstance(function.parameters, _Schema) and str(function.parameters.type).upper() != "OBJECT":
            raise _bad(f"{function.name}: functionDeclaration parameters schema should be of type OBJECT.", "tools")
    calling = said.tool_config.function_calling_config
    if not calling.allowed_function_names:
        return
    path = "toolConfig.functionCallingConfig.allowedFunctionNames"
    if calling.mode not in {"ANY", "VALIDATED"}:
        raise _bad("Allowed function names can only be set when the function calling mode is ANY or VALIDATED.", path)
    for name in calling.allowed_function_names:
        if name not in names:
            raise _bad(f"Allowed function name `{name}` is not among the function declarations.", path)


def _check_config(config: _Config) -> None:
    schemas = [each for each in (config.response_schema, config.response_json_schema) if each is not UNSET]
    if schemas and config.response_mime_type == "text/plain":
        raise _bad(
            "* GenerateContentRequest.generation_config.response_mime_type: response schema needs application/json",
            "generationConfig.responseMimeType",
        )
    if len(schemas) > 1:
        raise _bad(
            "responseSchema and responseJsonSchema are mutually exclusive.", "generationConfig.responseJsonSchema"
        )
    if config.logprobs is not UNSET and not config.response_logprobs:
        raise _bad("Logprobs need responseLogprobs to be true.", "generationConfig.logprobs")
    thinking = config.thinking_config
    if thinking.thinking_budget is not UNSET and thinking.thinking_level is not UNSET:
        raise _bad(
            "You can only set only one of thinking budget and thinking level.", "generationConfig.thinkingConfig"
        )


def _texts(said: _Body) -> Iterator[str]:
    for content in (said.system_instruction, *said.contents):
        for part in content.parts:
            if isinstance(part.text, str) and not part.thought:
                yield part.text
            elif isinstance(part.function_response, _Response):
                yield _answer(part.function_response.response)


def _answer(response: Object) -> str:
    """Give what a function gave. Shape: a text where it is all that there is, JSON else."""
    texts = list(response.values())
    if len(texts) == 1 and isinstance(texts[0], str):
        return texts[0]
    return msgspec.json.encode(response).decode()
