"""What a client asked for, whatever the dialect it asked in: all that the mock's answers depend on. Pure."""

import re
import zlib
from collections.abc import Iterable
from typing import Final, Literal

from msgspec import Struct

_VARIETIES: Final = 16
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

Dialect = Literal[
    "chat",
    "responses",
    "messages",
    "count_tokens",
    "embeddings",
    "gemini",
    "gemini_array",
    "converse",
    "invoke",
    "ollama",
]
Headers = list[tuple[bytes, bytes]]


class BadAsk(Exception):  # noqa: N818 (it is the ask that is bad)
    """A request that a provider refuses. Holds: `param` is the member to blame; `code` is the error's own word, or ""."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status
        self.code = code


class Ask(Struct, frozen=True):
    """A request, read. Shape: `variety` picks one of a few texts, by the prompt, so that other prompts get other prose.

    Holds: `tools` are the names that every dialect can say. `encrypted`: reasoning is to be sealed. `inputs`, `dimensions`
    (0: the model's own) and `base64` are of embeddings.
    """

    model: str
    user: str
    stream: bool
    choices: int
    wants_usage: bool
    wants_json: bool
    tools: tuple[str, ...]
    prompt_tokens: int
    variety: int
    dialect: Dialect = "chat"
    encrypted: bool = False
    inputs: int = 0
    dimensions: int = 0
    base64: bool = False


def weighed(texts: Iterable[str]) -> tuple[int, int]:
    """Give the tokens of a prompt and its variety. Shape: the same for the same texts, in whatever dialect they came."""
    return weighed_whole("\n".join([text for text in texts if text]))


def weighed_whole(text: str) -> tuple[int, int]:
    """Give the tokens of a prompt and its variety. Shape: texts are joined by line feeds, empty ones are left out."""
    prompt = text.encode()
    return len(prompt) // 4 or 1, zlib.crc32(prompt) % _VARIETIES


def fitting(names: Iterable[str]) -> tuple[str, ...]:
    """Give those names of tools that every dialect can say."""
    return tuple(filter(_TOOL_NAME.fullmatch, names))
