"""What a client understood of an answer, in words of no dialect. The readers of the dialects are the tests' own."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import Struct, field

Said = dict[str, Any]


class Call(NamedTuple):
    """A call of a tool. Shape: `arguments` is the object that the JSON says."""

    id: str
    name: str
    arguments: Said


class Tokens(NamedTuple):
    """What was counted. Shape: `thought` is None where the answer does not say."""

    read: int
    written: int
    thought: int = 0


class Wrong(NamedTuple):
    """An error. Shape: '' where no member is named, or no code."""

    kind: str
    message: str
    param: str = ""
    code: str = ""


class Heard(Struct):
    """An answer. Shape: `end` is the client's own word; `turn` is what it hands back; `ended` says that the last event came.

    Holds: `silent` says that a call had no arguments at all, where the JSON of an empty object is meant.
    """

    text: str = ""
    thoughts: str = ""
    refusal: str = ""
    calls: list[Call] = field(default_factory=list)
    end: str = ""
    tokens: Tokens | None = None
    error: Wrong | None = None
    ended: bool = False
    silent: bool = False
    turn: Any = None


def object_of(arguments: str) -> Said:
    """Give the object that a call's arguments say; nothing at all is an empty one."""
    said = json.loads(arguments or "{}")
    assert isinstance(said, dict)
    return said


def events(body: bytes) -> Iterator[tuple[str, str]]:
    """Give the events of a stream: name and data. Shape: every frame is whole; comments and pings are left out."""
    text = body.decode()
    assert text.endswith("\n\n")
    for frame in text.removesuffix("\n\n").split("\n\n"):
        lines = [line.partition(": ") for line in frame.split("\n") if not line.startswith(":")]
        names = [name for name, _, _ in lines]
        assert names in ([], ["data"], ["event", "data"]), frame
        if names:
            yield lines[0][2] if len(lines) == 2 else "", lines[-1][2]
