"""Whole answers: a message in one body."""

from collections.abc import Sequence
from typing import Final

from tidegate.dialect.anthropic.encoder import carrier, message, sealed, stop_of
from tidegate.dialect.anthropic.events import MessageDecoder
from tidegate.dialect.anthropic.values import NAME, error_in
from tidegate.dialect.events import (
    Event,
    Failed,
    Finished,
    Origin,
    Reasoning,
    Refusal,
    Sealed,
    Started,
    Text,
    ToolArguments,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.dialect.seals import marked
from tidegate.dialect.values import json_of, object_of, value_of
from tidegate.wire import FrameError

INVALID: Final = "INVALID_JSON"
"""The one member of arguments that were cut off. Source: Anthropic, "Fine-grained tool streaming"."""


def read_answer(body: bytes) -> Sequence[Event]:
    """Read all of a body. Errors: FrameError when it is neither an answer nor an error."""
    value = object_of(body)
    error = error_in(value)
    if error is not None:
        return (Failed(error),)
    if "content" not in value:
        raise FrameError("the answer has no content")
    return MessageDecoder().read(value)


def write_answer(events: Sequence[Event], origin: Origin) -> bytes:
    """Write the body that says it."""
    started, usage, finished, refused = Started(), None, Finished(0, ""), False
    content = _Content(origin)
    for event in events:
        match event:
            case Started():
                started = event
            case UsageSeen(counts):
                usage = counts
            case Finished():
                finished = event
            case _:
                refused = refused or isinstance(event, Refusal)
                content.take(event)
    members = message(started, origin, usage) | {"content": content.blocks()}
    return json_of(members | stop_of(finished.reason, finished.sequence, refused=refused))


class _Content:
    """The blocks of a message. Holds: what comes in pieces as a list of them, until all was said."""

    __slots__ = ("_blocks", "_calls", "_origin")

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._blocks: list[dict[str, object]] = []
        self._calls: dict[int, list[str]] = {}

    def take(self, event: Event) -> None:
        """Add what an event says of the answer, if anything."""
        match event:
            case Text(_, text) | Refusal(_, text):
                self._pieces("text", "text").append(text)
            case Reasoning(_, text, signature):
                self._pieces("thinking", "thinking").append(text)
                if signature:
                    self._blocks[-1]["signature"] = marked(signature, self._origin.dialect, NAME)
            case Sealed():
                self._blocks.append(sealed(event, self._origin))
            case ToolCallStarted():
                self._call(event)
            case ToolArguments(_, call, fragment):
                self._calls[call].append(fragment)
            case _:
                pass

    def _pieces(self, kind: str, member: str) -> list[str]:
        """Give where a piece belongs: to the last block, if it is of this kind and not over."""
        last = self._blocks[-1] if self._blocks else {}
        pieces = last.get(member)
        if last.get("type") == kind and isinstance(pieces, list) and not last.get("signature"):
            return pieces
        added: list[str] = []
        block: dict[str, object] = {"type": kind, member: added}
        if kind == "thinking":
            block["signature"] = ""
        self._blocks.append(block)
        return added

    def _call(self, event: ToolCallStarted) -> None:
        if event.signature:
            self._blocks.append(carrier(event, self._origin))
        pieces: list[str] = []
        self._calls[event.call] = pieces
        self._blocks.append({"type": "tool_use", "id": event.id, "name": event.name, "input": pieces})

    def blocks(self) -> list[dict[str, object]]:
        """Give all blocks."""
        return [{name: _whole(name, value) for name, value in block.items()} for block in self._blocks]


def _whole(name: str, value: object) -> object:
    if not isinstance(value, list):
        return value
    text = "".join(value)
    return _input(text) if name == "input" else text


def _input(arguments: str) -> object:
    """Give the arguments of a call as they are meant; a call that was cut off says so."""
    try:
        return value_of(arguments.encode(errors="surrogatepass"))
    except FrameError:
        return {INVALID: arguments}
