"""OpenAI's chat completions, and those of all who speak it: members that are not known are taken, as most servers do.

The only dialect that load is made with: a request of plain texts is read without a look at anything else.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from tidegate.mock.ask import Ask, BadAsk, fitting, weighed_whole
from tidegate.mock.asking.openai import bad
from tidegate.mock.asking.shapes import Object, is_base64, is_data_url, is_url, twice

MOST_CHOICES: Final = 16
MOST_TOOLS: Final = 128
_MEMBER: Final = re.compile(r"\$\.(\w+)|field `(\w+)`")

_Name = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]


class _Called(Struct):
    name: _Name
    arguments: str


class _CustomCalled(Struct):
    name: _Name
    input: str


class _Call(Struct, tag_field="type", tag="function"):
    id: str
    function: _Called


class _CustomCall(Struct, tag_field="type", tag="custom"):
    id: str
    custom: _CustomCalled


class _Text(Struct, tag_field="type", tag="text"):
    text: str


class _Address(Struct):
    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class _Image(Struct, tag_field="type", tag="image_url"):
    image_url: _Address


class _Sound(Struct):
    data: str
    format: Literal["wav", "mp3"]


class _Audio(Struct, tag_field="type", tag="input_audio"):
    input_audio: _Sound


class _Held(Struct):
    filename: str | None = None
    file_data: str | None = None
    file_id: str | None = None


class _File(Struct, tag_field="type", tag="file"):
    file: _Held


class _Refusal(Struct, tag_field="type", tag="refusal"):
    refusal: str


_Part = _Text | _Image | _Audio | _File | _Refusal


class _Message(Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None
    tool_calls: list[_Call | _CustomCall] | None = None
    tool_call_id: str | None = None


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _JsonSchema(Struct):
    name: _Name
    schema: Object | None = None
    strict: bool | None = None


class _ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: _JsonSchema | None = None


class _Function(Struct):
    name: _Name
    description: str | None = None
    parameters: Object | None = None
    strict: bool | None = None


class _Custom(Struct):
    name: _Name


class _Tool(Struct, tag_field="type", tag="function"):
    function: _Function


class _CustomTool(Struct, tag_field="type", tag="custom"):
    custom: _Custom


class _Chosen(Struct):
    type: Literal["function", "custom", "allowed_tools"]
    function: _Custom | None = None
    custom: _Custom | None = None


class _Body(Struct):
    messages: list[_Message]
    model: str = ""
    stream: bool | None = None
    user: str | None = None
    n: int | None = None
    stream_options: _StreamOptions | None = None
    response_format: _ResponseFormat | None = None
    tools: list[_Tool | _CustomTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _Chosen | None = None


_BODY: Final = msgspec.json.Decoder(_Body)


def read_ask(body: bytes, model: str = "") -> Ask:
    """Give what a body asks for. Shape: `model` is the path's, or "". Errors: BadAsk when a provider would refuse it."""
    try:
        said = _BODY.decode(body)
    except msgspec.ValidationError as error:
        match = _MEMBER.search(str(error))
        raise BadAsk(str(error), match[1] or match[2] if match else None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadAsk("We could not parse the JSON body of your request.") from None
    choices = 1 if said.n is None else said.n
    model = model or said.model
    if not model:
        raise BadAsk("You must provide a model parameter.", "model")
    if not said.messages:
        raise BadAsk("`messages` must hold at least one message.", "messages")
    if not 1 <= choices <= MOST_CHOICES:
        raise BadAsk(f"`n` must be 1 … {MOST_CHOICES}.", "n")
    tokens, variety = weighed_whole("\n".join(_texts(said.messages)))
    return Ask(
        model=model,
        user=said.user or "",
        stream=bool(said.stream),
        choices=choices,
        wants_usage=bool(said.stream_options and said.stream_options.include_usage),
        wants_json=said.response_format is not None and _is_json(said.response_format),
        tools=_tools(said) if said.tools is not None or said.tool_choice is not None else (),
        prompt_tokens=tokens,
        variety=variety,
    )


def _is_json(form: _ResponseFormat) -> bool:
    if form.type == "json_schema" and form.json_schema is None:
        path = "response_format.json_schema"
        raise bad(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")
    return form.type != "text"


def _tools(said: _Body) -> tuple[str, ...]:
    """Give the names of the tools. Errors: BadAsk where one is chosen that there is not."""
    tools = said.tools or []
    if not tools:
        if said.tools is not None:
            raise bad("Invalid 'tools': empty array. Expected an array with minimum length 1.", "tools", "empty_array")
        raise bad(
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.", "tool_choice"
        )
    if len(tools) > MOST_TOOLS:
        raise bad(f"Invalid 'tools': array too long. Expected an array with maximum length {MOST_TOOLS}.", "tools")
    names = [tool.function.name if isinstance(tool, _Tool) else tool.custom.name for tool in tools]
    if isinstance(said.tool_choice, _Chosen):
        _check_choice(said.tool_choice, names)
    return fitting(names)


def _check_choice(chosen: _Chosen, names: list[str]) -> None:
    named = chosen.function or chosen.custom
    if chosen.type != "allowed_tools" and named is None:
        path = f"tool_choice.{chosen.type}"
        raise bad(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")
    if named and named.name not in names:
        raise bad(f"Tool choice '{named.name}' not found in 'tools' parameter.", "tool_choice")


# Messages


def _texts(messages: list[_Message]) -> list[str]:
    """Give all texts but empty ones. Errors: BadAsk where messages do not follow from each other."""
    texts: list[str] = []
    for message in messages:
        content = message.content
        if type(content) is not str or message.tool_calls is not None or message.role == "tool":
            return [text for text in _checked(messages) if text]
        if content:
            texts.append(content)
    return texts


def _checked(messages: list[_Message]) -> Iterator[str]:
    owed: list[str] = []
    for nth, message in enumerate(messages):
        owed = _check_calls(nth, message, owed)
        if isinstance(content := message.content, str):
            yield content
        elif content:
            yield from (_part(f"messages[{nth}].content[{at}]", part, message.role) for at, part in enumerate(content))
    if owed:
        raise _unanswered(len(messages), owed)


def _check_calls(nth: int, message: _Message, owed: list[str]) -> list[str]:
    """Give the calls that are still to be answered after a message."""
    path = f"messages[{nth}]"
    if message.role == "tool":
        return _check_answer(path, message.tool_call_id, owed)
    if owed:
        raise _unanswered(nth, owed)
    calls = message.tool_calls
    if calls is None:
        return []
    if message.role != "assistant":
        raise bad(f"Unknown parameter: '{path}.tool_calls'.", f"{path}.tool_calls", "unknown_parameter")
    if not calls:
        raise bad(f"Invalid '{path}.tool_calls': empty array.", f"{path}.tool_calls", "empty_array")
    idents = [call.id for call in calls]
    if again := twice(idents):
        raise bad(f"Duplicate value for 'tool_call_id' of '{again}' in message[{nth}].", f"{path}.tool_calls")
    return idents


def _check_answer(path: str, ident: str | None, owed: list[str]) -> list[str]:
    if ident is None:
        raise bad("Missing parameter 'tool_call_id': messages with role 'tool' must have one.", f"{path}.tool_call_id")
    if not owed:
        raise bad(
            "Invalid parameter: messages with role 'tool' must be a response to a preceding message with 'tool_calls'.",
            f"{path}.role",
        )
    if ident not in owed:
        raise bad(
            f"Invalid parameter: 'tool_call_id' of '{ident}' not found in 'tool_calls' of previous message.",
            f"{path}.tool_call_id",
        )
    return [each for each in owed if each != ident]


def _unanswered(nth: int, owed: list[str]) -> BadAsk:
    return bad(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The "
        f"following tool_call_ids did not have response messages: {', '.join(owed)}",
        f"messages[{nth}].role",
    )


def _part(path: str, part: _Part, role: str) -> str:
    """Give a part's text."""
    if isinstance(part, _Text):
        return part.text
    if isinstance(part, _Refusal) != (role == "assistant"):
        kind = part.__struct_config__.tag
        raise bad(
            f"Invalid value: '{kind}' is not supported in messages of this role.", f"{path}.type", "invalid_value"
        )
    match part:
        case _Image(image_url=_Address(url=url)) if not (is_url(url) or is_data_url(url, "image/")):
            raise bad(
                f"Invalid '{path}.image_url.url'. Expected a valid URL or a base64-encoded data URL with an image MIME type.",
                f"{path}.image_url.url",
                "invalid_image_url",
            )
        case _Audio(input_audio=_Sound(data=data)) if not is_base64(data):
            raise bad(
                f"Invalid '{path}.input_audio.data'. Expected Base64.", f"{path}.input_audio.data", "invalid_value"
            )
        case _File(file=held) if not held.file_id and not (held.filename and is_data_url(held.file_data or "")):
            raise bad(f"Invalid '{path}.file'. Expected a file_id, or a file name and a data URL.", f"{path}.file")
    return ""
