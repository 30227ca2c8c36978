"""What a client asked for: the members of a chat completion request that the mock looks at. Pure."""

import re
import zlib
from typing import Final

import msgspec
from msgspec import Struct

MOST_CHOICES: Final = 16
_VARIETIES: Final = 16
_MEMBER: Final = re.compile(r"\$\.(\w+)|field `(\w+)`")
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class BadAsk(Exception):  # noqa: N818 (it is the ask that is bad)
    """A request that a provider answers with 400. Holds: `param` is the member to blame."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class _Part(Struct):
    text: str = ""


class _Message(Struct):
    role: str
    content: str | list[_Part] | None = None


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _ResponseFormat(Struct):
    type: str = "text"


class _Function(Struct):
    name: str = ""


class _Tool(Struct):
    function: _Function | None = None


class _Body(Struct):
    model: str
    messages: list[_Message]
    stream: bool | None = None
    user: str | None = None
    n: int | None = None
    stream_options: _StreamOptions | None = None
    response_format: _ResponseFormat | None = None
    tools: list[_Tool] | None = None


class Ask(Struct, frozen=True):
    """A request, read. Shape: `variety` picks one of a few texts, by the prompt, so that other prompts get other prose."""

    model: str
    user: str
    stream: bool
    choices: int
    wants_usage: bool
    wants_json: bool
    tool: str
    prompt_tokens: int
    variety: int


def _prompt(messages: list[_Message]) -> bytes:
    texts: list[str] = []
    for message in messages:
        parts = message.content or ""
        texts.extend([parts] if isinstance(parts, str) else [part.text for part in parts])
    return "\n".join(texts).encode("utf-8", "replace")


def _tool_name(tools: list[_Tool] | None) -> str:
    function = tools[0].function if tools else None
    return function.name if function and _TOOL_NAME.fullmatch(function.name) else "look_up"


def read_ask(body: bytes) -> Ask:
    """Give what a body asks for. Errors: BadAsk when a provider would refuse it."""
    try:
        said = msgspec.json.decode(body, type=_Body)
    except msgspec.ValidationError as error:
        match = _MEMBER.search(str(error))
        raise BadAsk(str(error), match[1] or match[2] if match else None) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadAsk("We could not parse the JSON body of your request.") from None
    choices = 1 if said.n is None else said.n
    if not said.model:
        raise BadAsk("You must provide a model parameter.", "model")
    if not said.messages:
        raise BadAsk("`messages` must hold at least one message.", "messages")
    if not 1 <= choices <= MOST_CHOICES:
        raise BadAsk(f"`n` must be 1 … {MOST_CHOICES}.", "n")
    prompt = _prompt(said.messages)
    return Ask(
        model=said.model,
        user=said.user or "",
        stream=bool(said.stream),
        choices=choices,
        wants_usage=bool(said.stream_options and said.stream_options.include_usage),
        wants_json=said.response_format is not None and said.response_format.type in {"json_object", "json_schema"},
        tool=_tool_name(said.tools),
        prompt_tokens=max(1, len(prompt) // 4),
        variety=zlib.crc32(prompt) % _VARIETIES,
    )
