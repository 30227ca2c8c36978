"""Calls of tools as a chat completion says them, in pieces that may be interleaved, told as events in their order."""

from typing import Final

import msgspec
from msgspec import Raw, Struct, field

from tidegate.dialect.events import Event, ToolArguments, ToolCallEnded, ToolCallStarted
from tidegate.dialect.whole import MAX_CALLS, fragment_of, text_of
from tidegate.wire import FrameError

MAX_KEPT_CHARS: Final = 64 * 1024
"""Arguments of a call that are looked at when the next one begins, and those of a stream that may wait for a name."""

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode

# Members of any type are taken as they come and looked at when they are used: a wrong type then says nothing, and
# costs the others nothing.


class Function(Struct, gc=False):
    """A piece of what is called, and with what."""

    name: object = None
    arguments: object = None


class Call(Struct, gc=False):
    """A piece of a call."""

    index: object = None
    id: object = None
    function: Function | None = None
    extra_content: object = None


class _Said(Struct, gc=False):
    """A call, as far as it was said. Shape: `number` is -1 until it is told; `room` is for more `pieces`, none once it is below 0."""

    id: str = ""
    name: str = ""
    signature: str = ""
    number: int = -1
    argued: bool = False
    ended: bool = False
    pieces: list[str] = field(default_factory=list)
    room: int = MAX_KEPT_CHARS


class Calls:
    """The calls of one stream.

    Shape: a call is told from its name on, and what came before waits for it. It ends when the next one of its choice begins
    and its arguments are a whole object, for no piece can follow then; where they are not yet, it ends with its choice.
    Holds: the arguments of the last call of each choice, up to a bound.
    """

    __slots__ = ("_at", "_held", "_left", "_told")

    def __init__(self) -> None:
        self._at: dict[tuple[int, int], _Said] = {}
        self._told: dict[int, list[_Said]] = {}
        self._held = 0
        self._left = MAX_CALLS

    def read(self, index: int, call: Call, answer: str, events: list[Event]) -> None:
        """Read a piece of a call. Shape: where it has no id, one is made of the answer's. Errors: FrameError."""
        function = call.function or Function()
        ident, name, arguments = text_of(call.id), text_of(function.name), fragment_of(function.arguments)
        if not (ident or name or arguments):
            return
        said = self._said(index, call, ident, name)
        if said.number < 0:
            said.id = said.id or ident
            said.name = name
            said.signature = said.signature or _signature(call.extra_content)
            self._held += len(arguments)
            if name or self._held > MAX_KEPT_CHARS:
                self._begin(index, said, answer, events)
        if arguments:
            _argue(index, said, arguments, events)

    def end(self, index: int, answer: str, events: list[Event]) -> None:
        """End the calls of a choice. Shape: no arguments at all are those of an empty object."""
        for said in [said for (place, _), said in self._at.items() if place == index and said.number < 0]:
            self._begin(index, said, answer, events)
        for said in self._told.get(index, ()):
            if said.ended:
                continue
            if not said.argued:
                events.append(ToolArguments(index, said.number, "{}"))
            _end(index, said, events)

    def end_all(self, answer: str) -> list[Event]:
        """End the calls of every choice."""
        events: list[Event] = []
        for index in dict.fromkeys(index for index, _ in self._at):
            self.end(index, answer, events)
        return events

    def _said(self, index: int, call: Call, ident: str, name: str) -> _Said:
        """Give the call that a piece belongs to.

        Shape: it is the one at this place, unless another id and a name begin a new one there: some servers give no place,
        or the same to all.
        """
        place = call.index if type(call.index) is int else 0
        said = self._at.get((index, place))
        if said is not None and not (said.name and name and (ident != said.id if ident else call.index is None)):
            return said
        if not self._left:
            raise FrameError(f"there are more than {MAX_CALLS} calls of tools")
        self._left -= 1
        said = self._at[index, place] = _Said()
        return said

    def _begin(self, index: int, said: _Said, answer: str, events: list[Event]) -> None:
        told = self._told.setdefault(index, [])
        if told:
            _judge(index, told[-1], events)
        said.number = len(told)
        told.append(said)
        said.id = said.id or f"call_{answer}_{index}_{said.number}"
        events.append(ToolCallStarted(index, said.number, said.id, said.name, said.signature))
        events += [ToolArguments(index, said.number, piece) for piece in said.pieces]


def _argue(index: int, said: _Said, arguments: str, events: list[Event]) -> None:
    """Take arguments, and tell them once the call is told. Errors: FrameError for more than a whole object."""
    if said.ended:
        if arguments.strip():
            raise FrameError("a call of a tool goes on after its end")
        return
    said.argued = True
    if said.number >= 0:
        events.append(ToolArguments(index, said.number, arguments))
    said.room -= len(arguments)
    if said.room >= 0:
        said.pieces.append(arguments)


def _judge(index: int, said: _Said, events: list[Event]) -> None:
    """End a call if its arguments are a whole object. Shape: what was kept of them is not needed again."""
    if not said.ended and said.room >= 0 and _is_object("".join(said.pieces)):
        _end(index, said, events)
    said.pieces.clear()
    said.room = -1


def _end(index: int, said: _Said, events: list[Event]) -> None:
    said.ended = True
    events.append(ToolCallEnded(index, said.number))


def _is_object(text: str) -> bool:
    try:
        _decode_members(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True


def _signature(extra: object) -> str:
    """Give what must come back with a call. Source: Google, "OpenAI compatibility", thought signatures."""
    google = extra.get("google") if isinstance(extra, dict) else None
    return text_of(google.get("thought_signature")) if isinstance(google, dict) else ""
