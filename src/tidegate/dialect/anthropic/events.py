"""The frames of a message as events. What few servers say is looked for last: text is quick."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from tidegate.dialect.anthropic.values import MET, REASON_OF, explanation_in, failure_of, text_of, usage_of
from tidegate.dialect.events import (
    Done,
    Event,
    Failed,
    Finished,
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
from tidegate.dialect.values import json_of, object_of, usage_after
from tidegate.exchange import Usage
from tidegate.wire import Framed, FrameError

MAX_CALLS: Final = 1024
"""Calls of tools in one message."""
MAX_OPEN_BLOCKS: Final = 64
"""Blocks of one message that are not over: Anthropic has one at a time."""

# Members of any type are taken as they come and looked at when they are used: a wrong type then says nothing, and
# costs the others nothing.


class _Delta(Struct, gc=False):
    kind: object = field(default=None, name="type")
    text: object = None
    thinking: object = None
    signature: object = None
    partial_json: object = None
    stop_reason: object = None
    stop_sequence: object = None
    stop_details: object = None


class _Frame(Struct, gc=False):
    kind: object = field(default=None, name="type")
    index: object = None
    delta: _Delta | None = None
    content_block: object = None
    message: object = None
    usage: object = None
    error: object = None


_decode_frame = msgspec.json.Decoder(_Frame).decode


class _Block(Struct, gc=False):
    """A block that is not over: a call's number, or -1, and what its beginning said of what comes at its end."""

    call: int = -1
    argued: bool = False
    arguments: str = "{}"
    signature: str = ""


class MessageDecoder:
    """Reads the stream of one answer.

    Shape: blocks of tools that the provider runs itself, citations, pings, and what is not known yet, say nothing.
    """

    __slots__ = ("_blocks", "_calls", "_finished", "_id", "_started", "_usage")

    def __init__(self) -> None:
        self._started = False
        self._finished = False
        self._id = ""
        self._calls = 0
        self._blocks: dict[int, _Block] = {}
        self._usage: Usage | None = None

    def feed(self, frame: Framed, /) -> Sequence[Event]:
        """Give what a frame says. Errors: FrameError when it cannot be read, or is above a limit."""
        data = frame.data
        if data is None:
            return ()
        try:
            said = _decode_frame(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            said = _pruned(object_of(data))
        delta = said.delta
        if said.kind == "content_block_delta" and delta is not None:
            text = delta.text
            if delta.kind == "text_delta" and self._started:
                return (Text(0, text),) if type(text) is str and text else ()
            return self._begun(self._read_delta(said.index, delta))
        if said.error or said.kind == "error":
            return (Failed(failure_of(said.error)),)
        return self._begun(self._read(said))

    def finish(self) -> Sequence[Event]:
        """Say that no frame follows. Shape: nothing stands in for the last frame."""
        return ()

    def read(self, message: Mapping[str, Any]) -> Sequence[Event]:
        """Give what a whole message says, for a body that is not a stream. Errors: FrameError above a limit."""
        events = self._start(message)
        content = message.get("content")
        for place, block in enumerate(content if isinstance(content, list) else ()):
            events += self._open(place, block)
            events += self._close(place)
        return [*events, *self._stop(_pruned({"delta": message}).delta), *self._finish(""), Done()]

    def _begun(self, events: list[Event]) -> list[Event]:
        """Let no event come before the first word, should the server not have said it."""
        if events and not self._started:
            self._started = True
            if not isinstance(events[0], Started):
                events.insert(0, Started())
        return events

    def _read(self, said: _Frame) -> list[Event]:
        match said.kind:
            case "message_start" if not self._started:
                return self._start(said.message)
            case "content_block_start":
                return self._open(said.index, said.content_block)
            case "content_block_stop":
                return self._close(_place(said.index))
            case "message_delta":
                return [*self._count(said.usage), *self._stop(said.delta)]
            case "message_stop":
                return [*self._finish(""), Done()]
            case _:
                return []

    def _start(self, message: object) -> list[Event]:
        members = message if isinstance(message, dict) else {}
        self._id = text_of(members.get("id"))
        return [Started(self._id, text_of(members.get("model"))), *self._count(members.get("usage"))]

    def _count(self, counts: object) -> list[Event]:
        """Take a count of tokens. Shape: of a message's end, some servers give the output alone."""
        usage = usage_of(counts)
        if usage is None:
            return []
        self._usage = usage_after(self._usage, usage)
        return [UsageSeen(self._usage)]

    def _stop(self, delta: _Delta | None) -> list[Event]:
        reason = text_of(delta.stop_reason) if delta is not None else ""
        if delta is None or not reason or self._finished:
            return []
        why = explanation_in({"stop_details": delta.stop_details})
        return [*([Refusal(0, why)] if why else []), *self._finish(reason, text_of(delta.stop_sequence))]

    def _finish(self, reason: str, sequence: str = "") -> list[Event]:
        """End what is open, and the message, once. Shape: where no reason was given, it is the usual one."""
        if self._finished:
            return []
        self._finished = True
        ends = [event for place in list(self._blocks) for event in self._close(place)]
        reason = reason or ("tool_use" if self._calls else "end_turn")
        return [*ends, Finished(0, REASON_OF.get(reason, reason), sequence if reason == MET else "")]

    # --- blocks ----------------------------------------------------------------------------------------------------

    def _open(self, index: object, block: object) -> list[Event]:
        members = block if isinstance(block, dict) else {}
        match members.get("type"):
            case "text":
                text = text_of(members.get("text"))
                return [Text(0, text)] if text else []
            case "thinking":
                self._keep(_place(index), _Block(signature=text_of(members.get("signature"))))
                text = text_of(members.get("thinking"))
                return [Reasoning(0, text)] if text else []
            case "redacted_thinking":
                data = text_of(members.get("data"))
                return [Sealed(0, data)] if data else []
            case "tool_use":
                return self._call(_place(index), members)
            case _:
                return []

    def _call(self, place: int, members: Mapping[str, Any]) -> list[Event]:
        """Begin a call. Shape: some servers give its arguments at once."""
        ends = self._close(place)
        number, self._calls = self._calls, self._calls + 1
        given = members.get("input")
        arguments = json_of(given).decode() if isinstance(given, dict) else "{}"
        self._keep(place, _Block(number, arguments=arguments))
        ident = text_of(members.get("id")) or f"toolu_{self._id}_{number}"
        return [*ends, ToolCallStarted(0, number, ident, text_of(members.get("name")))]

    def _keep(self, place: int, block: _Block) -> None:
        """Keep what is to be said at a block's end. Errors: FrameError above the limits."""
        if self._calls > MAX_CALLS:
            raise FrameError(f"there are more than {MAX_CALLS} calls of tools")
        if len(self._blocks) >= MAX_OPEN_BLOCKS:
            raise FrameError(f"more than {MAX_OPEN_BLOCKS} blocks are open")
        self._blocks[place] = block

    def _read_delta(self, index: object, delta: _Delta) -> list[Event]:
        match delta.kind:
            case "text_delta":
                text = text_of(delta.text)
                return [Text(0, text)] if text else []
            case "thinking_delta":
                text = text_of(delta.thinking)
                return [Reasoning(0, text)] if text else []
            case "signature_delta":
                return self._sign(index, text_of(delta.signature))
            case "input_json_delta":
                return self._argue(index, text_of(delta.partial_json))
            case _:
                return []

    def _sign(self, index: object, signature: str) -> list[Event]:
        self._blocks.pop(_place(index), None)
        return [Reasoning(0, "", signature)] if signature else []

    def _argue(self, index: object, fragment: str) -> list[Event]:
        """Take a piece of arguments: of a call of the client's, or of one that is the provider's own affair."""
        block = self._blocks.get(_place(index))
        if block is None or block.call < 0 or not fragment:
            return []
        block.argued = True
        return [ToolArguments(0, block.call, fragment)]

    def _close(self, place: int) -> list[Event]:
        """End a block. Shape: no arguments at all are those that it began with, an empty object as a rule."""
        block = self._blocks.pop(place, None)
        if block is None:
            return []
        if block.call < 0:
            return [Reasoning(0, "", block.signature)] if block.signature else []
        ended = ToolCallEnded(0, block.call)
        return [ended] if block.argued else [ToolArguments(0, block.call, block.arguments), ended]


def _place(index: object) -> int:
    """Give the place of a block; the first where none is given."""
    return index if type(index) is int else 0


def _pruned(frame: dict[str, Any]) -> _Frame:
    """Read an object of which a part has a shape that was not expected, without this part."""
    if not isinstance(frame.get("delta"), dict):
        frame["delta"] = None
    return msgspec.convert(frame, _Frame)
