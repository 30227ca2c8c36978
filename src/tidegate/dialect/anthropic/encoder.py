"""Events as the frames of a message.

A message is blocks, numbered from 0, of which one is open at a time. What would open another while a call's block is open
waits until the call has ended:

    open       a piece of it comes    something else comes             its end comes
    nothing    -                      its block opens                  -
    text       is written             the block is closed, next        -
    thought    is written             the block is closed, next        the block is closed
    call       is written             waits, in order                  the block is closed, what waits is written
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import structs

from tidegate.dialect.anthropic.values import MET, NAME, REFUSED, STOP_OF, error_object, usage_members
from tidegate.dialect.events import (
    Done,
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
    ToolCallEnded,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.dialect.seals import Seal, closed, marked
from tidegate.dialect.values import json_of, string_of
from tidegate.exchange import Usage
from tidegate.wire import FrameError

MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
"""Of what waits for the end of a call; each event counts as what it says and EVENT_BYTES."""
EVENT_BYTES: Final = 128

PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'

_TEXT: Final = -1
_THOUGHT: Final = -2
_NOTHING: Final = -3

_TEXT_BLOCK: Final = b'{"type":"text","text":""}'
_THOUGHT_BLOCK: Final = b'{"type":"thinking","thinking":"","signature":""}'
_END: Final = b"}}\n\n"

_Inner = Text | Refusal | Reasoning | Sealed | ToolCallStarted | ToolArguments | ToolCallEnded


class MessageEncoder:
    """Writes the stream of one answer. Shape: why it stopped, and the usage, are written when it is complete."""

    __slots__ = (
        "_at",
        "_delta",
        "_held",
        "_later",
        "_open",
        "_origin",
        "_reason",
        "_refused",
        "_sequence",
        "_started",
        "_usage",
        "_waiting",
    )

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._started: Started | None = None
        self._usage: Usage | None = None
        self._reason = ""
        self._refused = False
        self._sequence = ""
        self._at = -1
        self._open = _NOTHING
        self._delta = b""
        self._waiting: deque[list[_Inner]] = deque()
        self._later: dict[int, list[_Inner]] = {}
        self._held = 0

    def write(self, events: Sequence[Event], /) -> bytes:
        """Give whole frames that say it. Errors: FrameError when more would have to wait than the limit."""
        out: list[bytes] = []
        for event in events:
            if type(event) is Text and self._open == _TEXT:
                out += (self._delta, string_of(event.text), _END)
            else:
                self._write(event, out)
        self._begin(out)
        return b"".join(out)

    def _write(self, event: Event, out: list[bytes]) -> None:
        match event:
            case Started():
                self._started = event
            case UsageSeen(usage):
                self._usage = usage
            case Finished():
                self._reason, self._sequence = event.reason, event.sequence
            case Failed(error):
                self._begin(out)
                out.append(frame(b"error", error_object(error)))
            case Done():
                self._begin(out)
                self._finish(out)
            case _:
                self._begin(out)
                self._take(event, out)

    def _begin(self, out: list[bytes]) -> None:
        """Write the first frame, once it is known what it says."""
        started = self._started
        if started is not None:
            self._started = None
            body = json_of({"type": "message_start", "message": message(started, self._origin, self._usage)})
            out.append(frame(b"message_start", body))

    def _finish(self, out: list[bytes]) -> None:
        self._close(out)
        delta = stop_of(self._reason, self._sequence, refused=self._refused)
        body = {"type": "message_delta", "delta": delta, "usage": usage_members(self._usage)}
        out += (frame(b"message_delta", json_of(body)), frame(b"message_stop", b'{"type":"message_stop"}'))

    # --- blocks ----------------------------------------------------------------------------------------------------

    def _write_inner(self, event: _Inner, out: list[bytes]) -> None:
        """Write what belongs into a block."""
        match event:
            case ToolArguments(_, _, fragment):
                out += (self._delta, string_of(fragment), _END)
            case ToolCallEnded():
                self._close(out)
            case ToolCallStarted():
                self._start_call(event, out)
            case Reasoning(_, text, signature):
                self._think(text, signature, out)
            case Sealed():
                self._whole(sealed(event, self._origin), out)
            case _:
                self._refused = self._refused or type(event) is Refusal
                self._turn_to(_TEXT, _TEXT_BLOCK, b"text_delta", b"text", out)
                out += (self._delta, string_of(event.text), _END)

    def _take(self, event: _Inner, out: list[bytes]) -> None:
        """Write what belongs into a block, or let it wait; and what waits, where nothing keeps it waiting any more."""
        if self._open >= 0 and not (isinstance(event, (ToolArguments, ToolCallEnded)) and event.call == self._open):
            self._wait(event)
            return
        self._write_inner(event, out)
        while self._open < 0 and self._waiting:
            block = self._waiting.popleft()
            for waiting in block:
                self._held -= _size_of(waiting)
                self._write_inner(waiting, out)
            if isinstance(block[0], ToolCallStarted):
                del self._later[block[0].call]

    def _wait(self, event: _Inner) -> None:
        """Let an event wait: all that is said of a call stands together."""
        self._held += _size_of(event)
        if self._held > MAX_WAITING_BYTES:
            raise FrameError(f"more than {MAX_WAITING_BYTES} bytes would wait for the end of a tool's call")
        if isinstance(event, (ToolArguments, ToolCallEnded)):
            self._later[event.call].append(event)
            return
        block: list[_Inner] = [event]
        self._waiting.append(block)
        if isinstance(event, ToolCallStarted):
            self._later[event.call] = block

    def _start_call(self, event: ToolCallStarted, out: list[bytes]) -> None:
        if event.signature:
            self._whole(carrier(event, self._origin), out)
        block = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
        self._turn_to(event.call, json_of(block), b"input_json_delta", b"partial_json", out)

    def _think(self, text: str, signature: str, out: list[bytes]) -> None:
        """Write a piece of a thought. Shape: its signature ends it."""
        self._turn_to(_THOUGHT, _THOUGHT_BLOCK, b"thinking_delta", b"thinking", out)
        if text:
            out += (self._delta, string_of(text), _END)
        if signature:
            signed = string_of(marked(signature, self._origin.dialect, NAME))
            out += (_delta_head(self._at, b"signature_delta", b"signature"), signed, _END)
            self._close(out)

    def _whole(self, block: Mapping[str, object], out: list[bytes]) -> None:
        """Write a block that has no pieces."""
        self._close(out)
        self._at += 1
        out.append(_block_start(self._at, json_of(block)))
        out.append(_block_stop(self._at))

    def _turn_to(self, kind: int, block: bytes, delta: bytes, member: bytes, out: list[bytes]) -> None:
        """Open a block, unless one of this kind is open."""
        if self._open == kind:
            return
        self._close(out)
        self._open = kind
        self._at += 1
        self._delta = _delta_head(self._at, delta, member)
        out.append(_block_start(self._at, block))

    def _close(self, out: list[bytes]) -> None:
        if self._open != _NOTHING:
            self._open = _NOTHING
            out.append(_block_stop(self._at))


def _size_of(event: _Inner) -> int:
    """Give what an event counts as while it waits."""
    return EVENT_BYTES + sum(len(value) for value in structs.astuple(event) if isinstance(value, str))


def message(started: Started, origin: Origin, usage: Usage | None) -> dict[str, object]:
    """Give an answer of which nothing is known but whose it is."""
    return {
        "id": started.id or origin.id,
        "type": "message",
        "role": "assistant",
        "model": started.model or origin.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_members(usage),
    }


def sealed(event: Sealed, origin: Origin) -> dict[str, object]:
    """Give the block of a thought that its maker alone can read."""
    return _redacted(closed(Seal(sealed=event.data, id=event.id), origin.dialect, NAME))


def carrier(event: ToolCallStarted, origin: Origin) -> dict[str, object]:
    """Give the block that carries the signature of the call behind it, for which a call's own block has no place."""
    return _redacted(closed(Seal(call=event.id, signature=event.signature), origin.dialect, NAME))


def _redacted(data: str) -> dict[str, object]:
    return {"type": "redacted_thinking", "data": data}


def stop_of(reason: str, sequence: str, *, refused: bool) -> dict[str, object]:
    """Give why a message stopped. Shape: one that says in words of its own that the model refuses is a refusal."""
    if reason == "stop" and (refused or sequence):
        reason = REFUSED if refused else MET
    return {"stop_reason": STOP_OF.get(reason, reason), "stop_sequence": sequence if reason == MET else None}


def frame(event: bytes, data: bytes) -> bytes:
    """Give a frame."""
    return b"event: %b\ndata: %b\n\n" % (event, data)


def _block_start(at: int, block: bytes) -> bytes:
    body = b'{"type":"content_block_start","index":%d,"content_block":%b}' % (at, block)
    return frame(b"content_block_start", body)


def _block_stop(at: int) -> bytes:
    return frame(b"content_block_stop", b'{"type":"content_block_stop","index":%d}' % at)


def _delta_head(at: int, kind: bytes, member: bytes) -> bytes:
    """Give all of a delta's frame that comes before its text."""
    return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":' % (
        at,
        kind,
        member,
    )
