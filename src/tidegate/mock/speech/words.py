"""What is said, in words of no dialect: the same request and script give the same texts in all of them."""

from typing import Final

from msgspec import Struct

from tidegate.mock import prose
from tidegate.mock.ask import Dialect
from tidegate.mock.script import Script

_ANY_TOOL: Final = ("look_up",)


class Vectors(Struct, frozen=True):
    """What decides embeddings. Shape: as an Ask has it."""

    inputs: int
    dimensions: int
    base64: bool


class Saying(Struct, frozen=True):
    """Everything that decides what is said.

    Shape: `chunked` is the framing; `prompt_tokens` is 0 where nobody sees it; `tools` has a name for each call, `ident` is
    empty where the answer's id is filled in later, `vectors` are of embeddings. Holds: `encrypted`: thoughts are to be sealed.
    """

    seed: int
    script: Script
    model: str
    stream: bool
    chunked: bool
    choices: int
    usage: bool
    json: bool
    tools: tuple[str, ...]
    prompt_tokens: int
    variety: int
    dialect: Dialect = "chat"
    encrypted: bool = False
    vectors: Vectors | None = None
    ident: bytes = b""


class Call(Struct):
    """A call of a tool. Shape: `id` is 24 hexadecimal digits; `pieces` join to JSON, or to nothing at all."""

    id: str
    name: str
    pieces: list[str]

    @property
    def arguments(self) -> str:
        """The arguments: JSON in any case."""
        return "".join(self.pieces) or "{}"


class Words(Struct):
    """One choice's words: thinking first, then the answer or the calls, as they are streamed. Holds: `tokens` counts all."""

    thinking: list[str]
    answer: list[str]
    calls: list[Call]
    tokens: int

    @property
    def thought(self) -> str:
        """The whole thought."""
        return "".join(self.thinking)

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.answer)


def called(names: tuple[str, ...], calls: int) -> tuple[str, ...]:
    """Give the names of the tools that are called: the request's, in turn."""
    names = names or _ANY_TOOL
    return tuple(names[nth % len(names)] for nth in range(calls))


def words(saying: Saying, total: int) -> list[Words]:
    """Give the words of all choices, `total` tokens of answer among them."""
    return [_choice(saying, index, count) for index, count in enumerate(_shares(total, saying.choices))]


def _shares(total: int, among: int) -> list[int]:
    return [total // among + (index < total % among) for index in range(among)]


def _choice(saying: Saying, index: int, count: int) -> Words:
    seed = f"{saying.seed}/{saying.variety}/{index}"
    thinking = prose.tokens(seed + "/thinking", saying.script.reasoning)
    big = saying.script.bigframe_bytes if index == 0 else 0
    said = Words(thinking=thinking, answer=[], calls=[], tokens=len(thinking))
    if not saying.tools:
        said.answer, tokens = _text(seed, count, big)
        said.tokens += tokens
        if saying.json and not saying.script.refusal:
            said.answer = _as_json(said.answer)
        return said
    for nth, share in enumerate(_shares(count, len(saying.tools))):
        pieces, tokens = _arguments(saying.script, f"{seed}/{nth}" if nth else seed, share, 0 if nth else big)
        said.calls.append(Call(_call_id(saying, index, nth), saying.tools[nth], pieces))
        said.tokens += tokens
    return said


def _text(seed: str, count: int, big_bytes: int) -> tuple[list[str], int]:
    """Give the pieces of a text and their tokens."""
    pieces, tokens = prose.tokens(seed, count), count
    if big_bytes and pieces:
        text, more = prose.filling(seed, big_bytes)
        pieces[len(pieces) // 2] += text
        tokens += more
    return pieces, tokens


def _arguments(script: Script, seed: str, count: int, big_bytes: int) -> tuple[list[str], int]:
    """Give the pieces of a call's arguments and their tokens."""
    if script.noargs:
        return [""], 1
    # A call's first frame carries its name and no arguments yet, as the real thing does.
    silent = count > 1
    pieces, tokens = _text(seed, count - silent, big_bytes)
    return ([""] if silent else []) + _as_json(pieces), tokens + silent


def _as_json(pieces: list[str]) -> list[str]:
    """Give pieces that join to a JSON object with the same words."""
    if not pieces:
        return pieces
    pieces = [piece.replace("\n", "\\n") for piece in pieces]
    pieces[0] = '{"text":"' + pieces[0]
    pieces[-1] += '"}'
    return pieces


def _call_id(saying: Saying, index: int, nth: int) -> str:
    return f"{saying.seed & 0xFFFFFFFF:08x}{saying.variety:08x}{nth << 16 | index:08x}"
