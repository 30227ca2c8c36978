"""Ollama's own chat. Members that it does not know it does not mind, as its decoder is Go's.

Source: Ollama's API reference and api/types.go; the wording is Go's.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct

from tidegate.mock.ask import Ask, BadAsk, fitting, weighed
from tidegate.mock.asking.shapes import Many, Mistake, Object, Tools, decoded

_ROLES: Final = frozenset({"system", "user", "assistant", "tool"})
_EFFORTS: Final = frozenset({"low", "medium", "high"})


class _Called(Struct):
    name: str
    arguments: Object


class _Call(Struct):
    function: _Called


class _Message(Struct):
    role: str
    content: str = ""
    thinking: str = ""
    images: Many[bytes] | None = None
    tool_calls: Many[_Call] | None = None
    tool_name: str = ""
    tool_call_id: str = ""


class _Schema(Struct):
    type: str | Many[str] = "object"
    properties: dict[str, Object] | None = None
    required: Many[str] | None = None


class _Function(Struct):
    name: str
    description: str = ""
    parameters: _Schema | None = None


class _Tool(Struct):
    function: _Function
    type: str = "function"


class _Options(Struct):
    num_predict: int | None = None
    num_ctx: int | None = None
    seed: int | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    temperature: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: Many[str] | None = None


class _Body(Struct):
    model: str = ""
    messages: Many[_Message] = ()
    stream: bool | None = None
    format: str | Object | None = None
    options: _Options | None = None
    tools: Tools[_Tool] | None = None
    think: bool | str | None = None
    keep_alive: float | str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


def read_ask(body: bytes) -> Ask:
    """Give what is asked. Errors: BadAsk."""
    said = decoded(body, _Body, _wording)
    _check(said)
    tokens, variety = weighed(message.content for message in said.messages)
    return Ask(
        model=said.model,
        user="",
        stream=said.stream is not False,
        choices=1,
        wants_usage=True,
        wants_json=bool(said.format),
        tools=fitting(tool.function.name for tool in said.tools or ()),
        prompt_tokens=tokens,
        variety=variety,
        dialect="ollama",
    )


def _wording(mistake: Mistake) -> BadAsk:
    if mistake.kind == "json":
        return BadAsk("invalid character in the JSON of the request")
    return BadAsk(f"json: cannot unmarshal ChatRequest.{mistake.path}: {mistake.words}", mistake.path)


def _check(said: _Body) -> None:
    if not said.model:
        raise BadAsk("model is required", "model")
    if not said.messages:
        raise BadAsk("messages are required: the mock has nothing to load", "messages")
    for nth, message in enumerate(said.messages):
        path = f"messages[{nth}]"
        if message.role not in _ROLES:
            raise BadAsk(f'invalid role: "{message.role}"', f"{path}.role")
        if not all(message.images or ()):
            raise BadAsk("image: unknown format", f"{path}.images")
    if isinstance(said.format, str) and said.format not in {"", "json"}:
        raise BadAsk(f'invalid format: "{said.format}"; expected "json" or a valid JSON Schema object', "format")
    if isinstance(said.think, str) and said.think not in _EFFORTS:
        raise BadAsk(f'invalid think value: "{said.think}" (must be "high", "medium", "low", true, or false)', "think")
    for nth, tool in enumerate(said.tools or ()):
        if tool.type != "function" or not tool.function.name:
            raise BadAsk("a tool must be of type function and have a name", f"tools[{nth}]")
