"""The frames of a chat completion as events, and events as frames. What few servers say is looked for last: text is quick."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, field

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
    ToolCallStarted,
    UsageSeen,
)
from tidegate.dialect.openai_chat.calls import Call, Calls, Function
from tidegate.dialect.openai_chat.values import (
    DONE,
    NAME,
    choices_of,
    error_in,
    error_object,
    usage_members,
    usage_of,
)
from tidegate.dialect.seals import marked
from tidegate.dialect.values import json_of, object_of, string_of
from tidegate.exchange import Usage
from tidegate.wire import Framed, FrameError

MAX_CHOICES: Final = 128
"""The most that OpenAI gives; what is kept for each is bounded by it."""

_CALLED: Final = {
    "function_call": "tool_calls", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "end_turn": "stop", "max_tokens": "length",
    "max_length": "length",
}  # fmt: skip
"""Words for the same: the first from when there was one call at most, the others of compatible servers (Together, TGI)."""

# Members of any type are taken as they come and looked at when they are used: a wrong type then says nothing, and
# costs the others nothing.


class _Delta(Struct, gc=False):
    content: object = None
    reasoning_content: object = None
    reasoning: object = None
    reasoning_details: object = None
    refusal: object = None
    tool_calls: list[Call] | None = None
    function_call: Function | None = None


class _Choice(Struct, gc=False):
    index: object = 0
    delta: _Delta | None = None
    finish_reason: object = None


class _Chunk(Struct, gc=False):
    id: object = ""
    model: object = ""
    created: object = 0
    kind: object = field(default="", name="object")
    choices: list[_Choice] | None = None
    usage: object = None
    error: object = None
    x_groq: object = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_encode = msgspec.json.Encoder().encode


class ChatDecoder:
    """Reads the stream of one answer with so many choices."""

    __slots__ = ("_calls", "_finished", "_id", "_started", "_wanted")

    def __init__(self, choices: int) -> None:
        self._wanted = choices
        self._started = False
        self._id = ""
        self._finished: set[int] = set()
        self._calls = Calls()

    def feed(self, frame: Framed, /) -> Sequence[Event]:
        """Give what a frame says. Errors: FrameError when it cannot be read, or is above a limit."""
        data = frame.data
        if data is None:
            return ()
        try:
            chunk = _decode_chunk(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            if data.strip() == DONE:
                return (*self._calls.end_all(self._id), Done())
            chunk = _pruned(object_of(data))
        if (chunk.error or chunk.kind == "error") and (error := error_in(object_of(data))) is not None:
            return (Failed(error),)
        return self._tell(chunk)

    def read(self, answer: dict[str, Any], /) -> Sequence[Event]:
        """Give what a whole answer says whose choices have their messages as deltas. Errors: as `feed`."""
        error = error_in(answer)
        return self._tell(_pruned(answer)) if error is None else (Failed(error),)

    def _tell(self, chunk: _Chunk) -> list[Event]:
        events: list[Event] = []
        if not self._started and (chunk.choices or chunk.usage):
            events.append(self._start(chunk))
        for choice in chunk.choices or ():
            self._read(choice, events)
        if chunk.usage or chunk.x_groq:
            usage = usage_of(chunk.usage or _member(chunk.x_groq, "usage"))
            if usage is not None:
                events.append(UsageSeen(usage))
        return events

    def finish(self) -> Sequence[Event]:
        """Say that no frame follows. Shape: with Done when every choice that was asked for has finished."""
        return (*self._calls.end_all(self._id), Done()) if len(self._finished) >= self._wanted else ()

    def _start(self, chunk: _Chunk) -> Started:
        self._started = True
        self._id = _text(chunk.id)
        return Started(self._id, _text(chunk.model), chunk.created if type(chunk.created) is int else 0)

    def _read(self, choice: _Choice, events: list[Event]) -> None:
        index = _place(choice.index)
        delta, reason = choice.delta, choice.finish_reason
        if delta is not None:
            if delta.reasoning_details or delta.reasoning_content or delta.reasoning:
                events += _thoughts(index, delta)
            content = delta.content
            if content:
                events += (Text(index, content),) if type(content) is str else _pieces(index, content)
            if delta.refusal or delta.tool_calls or delta.function_call is not None:
                self._read_rest(index, delta, events)
        if reason and type(reason) is str and index not in self._finished:
            self._finished.add(index)
            self._calls.end(index, self._id, events)
            events.append(Finished(index, _CALLED.get(reason, reason)))

    def _read_rest(self, index: int, delta: _Delta, events: list[Event]) -> None:
        if refusal := _text(delta.refusal):
            events.append(Refusal(index, refusal))
        for call in delta.tool_calls or ():
            self._calls.read(index, call, self._id, events)
        if delta.function_call is not None:
            self._calls.read(index, Call(0, None, delta.function_call), self._id, events)


def _place(index: object) -> int:
    """Give the index of a choice, 0 where none was given. Errors: FrameError."""
    if type(index) is not int or index < 0:
        return 0
    if index >= MAX_CHOICES:
        raise FrameError(f"there are more than {MAX_CHOICES} choices")
    return index


def _text(value: object) -> str:
    return value if type(value) is str else ""


def _member(value: object, *path: str) -> object:
    """Give a member of a member; None where there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _thoughts(index: int, delta: _Delta) -> list[Event]:
    """Give the reasoning of a delta. Shape: the same thought may stand in three members; the richest counts.

    Source: OpenRouter, "Reasoning tokens", for the details.
    """
    events: list[Event] = []
    for detail in delta.reasoning_details if isinstance(delta.reasoning_details, list) else ():
        text = _text(_member(detail, "text")) or _text(_member(detail, "summary"))
        signature, data = _text(_member(detail, "signature")), _text(_member(detail, "data"))
        if text or signature:
            events.append(Reasoning(index, text, signature))
        if data:
            events.append(Sealed(index, data, _text(_member(detail, "id"))))
    text = _text(delta.reasoning_content) or _text(delta.reasoning)
    if text and not events:
        events.append(Reasoning(index, text))
    return events


def _pieces(index: int, content: object) -> list[Event]:
    """Give what a content says that is no text but a list. Source: Mistral, "Reasoning", chunks of thinking and text."""
    events: list[Event] = []
    for piece in content if isinstance(content, list) else ():
        if text := _text(_member(piece, "text")):
            events.append(Text(index, text))
        thoughts = _member(piece, "thinking")
        told = [_text(_member(thought, "text")) for thought in (thoughts if isinstance(thoughts, list) else ())]
        events += [Reasoning(index, text) for text in told if text]
    return events


def _pruned(chunk: dict[str, Any]) -> _Chunk:
    """Read an object of which parts have a shape that was not expected, without these parts."""
    chunk["choices"] = choices = choices_of(chunk)
    for choice in choices:
        delta = choice["delta"] = _dict(choice.get("delta"))
        delta["function_call"] = _dict(delta.get("function_call")) or None
        calls = delta.get("tool_calls")
        delta["tool_calls"] = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else None
        for call in delta["tool_calls"] or ():
            call["function"] = _dict(call.get("function"))
    return msgspec.convert(chunk, _Chunk)


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


# --- writing -------------------------------------------------------------------------------------------------------


class ChatEncoder:
    """Writes the stream of one answer. Shape: each choice begins with its role; usage, for who wants it, comes last."""

    __slots__ = ("_begun", "_end", "_head", "_origin", "_text_end", "_thoughts", "_usage", "_wants_usage")

    def __init__(self, *, wants_usage: bool, origin: Origin) -> None:
        self._wants_usage = wants_usage
        self._origin = origin
        self._usage: Usage | None = None
        self._begun: set[int] = set()
        self._thoughts: dict[int, Thoughts] = {}
        self._end = b'}],"usage":null}\n\n' if wants_usage else b"}]}\n\n"
        self._text_end = b'},"finish_reason":null' + self._end
        self._head = _head(Started(), origin)

    def write(self, events: Sequence[Event], /) -> bytes:
        """Give whole frames that say it; usage is kept until the end."""
        out: list[bytes] = []
        for event in events:
            if type(event) is Text and event.index in self._begun:
                out += (
                    self._head,
                    b'{"index":%d,"delta":{"content":' % event.index,
                    string_of(event.text),
                    self._text_end,
                )
            else:
                self._write(event, out)
        return b"".join(out)

    def _write(self, event: Event, out: list[bytes]) -> None:
        match event:
            case Finished(index, reason):
                self._delta(index, b"{}", out, reason=string_of(reason))
            case Started():
                self._head = _head(event, self._origin)
            case UsageSeen(usage):
                self._usage = usage
            case Failed(error):
                given = error if error.kind else msgspec.structs.replace(error, kind="server_error")
                out.append(b"data: " + error_object(given) + b"\n\n")
            case Done():
                self._finish(out)
            case ToolCallStarted() | Refusal():
                self._delta(event.index, self._delta_of(event), out, content=b"null")
            case Text() | ToolArguments() | Reasoning() | Sealed():
                self._delta(event.index, self._delta_of(event), out)

    def _delta_of(self, event: Text | ToolArguments | Reasoning | Sealed | Refusal | ToolCallStarted) -> bytes:
        """Give the delta that says it."""
        match event:
            case ToolArguments(_, call, fragment):
                return b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (call, string_of(fragment))
            case Reasoning() | Sealed():
                return json_of(self._thought(event))
            case Refusal(_, text):
                return b'{"refusal":%b}' % string_of(text)
            case ToolCallStarted(_, call):
                return json_of({"tool_calls": [{"index": call, **call_of(event, "", self._origin)}]})
            case _:
                return b'{"content":%b}' % string_of(event.text)

    def _thought(self, event: Reasoning | Sealed) -> dict[str, object]:
        """Give a thought plain, as most clients know it, and in detail for those who give it back.

        Shape: what OpenAI's own family says has details only where it is signed; of another's, nobody knows beforehand.
        """
        detail = self._thoughts.setdefault(event.index, Thoughts(self._origin)).detail(event)
        if isinstance(event, Sealed):
            return {"reasoning_details": [detail]}
        plain: dict[str, object] = {"reasoning_content": event.text} if event.text else {}
        return {**plain, "reasoning_details": [detail]} if event.signature or self._origin.dialect != NAME else plain

    def _delta(
        self, index: int, delta: bytes, out: list[bytes], *, reason: bytes = b"null", content: bytes = b'""'
    ) -> None:
        """Write a frame; before a choice's first, one with its role. Shape: `content` is what stands there for the text."""
        if index not in self._begun:
            self._begun.add(index)
            self._delta(index, b'{"role":"assistant","content":%b}' % content, out)
        out += (self._head, b'{"index":%d,"delta":' % index, delta, b',"finish_reason":', reason, self._end)

    def _finish(self, out: list[bytes]) -> None:
        usage = self._usage
        if usage is not None and self._wants_usage:
            out += (self._head, b'],"usage":', _encode(usage_members(usage)), b"}\n\n")
        out.append(b"data: %b\n\n" % DONE)


class Thoughts:
    """Gives the thoughts of one choice in detail, with their numbers: official SDKs join pieces of the same number."""

    __slots__ = ("_next", "_open", "_origin")

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._next = 0
        self._open = False

    def detail(self, event: Reasoning | Sealed) -> dict[str, object]:
        """Give a piece of a thought. Shape: a thought ends with its signature, or where a sealed one begins."""
        if isinstance(event, Sealed):
            self._next += self._open
            data = marked(event.data, self._origin.dialect, NAME)
            detail: dict[str, object] = {"type": "reasoning.encrypted", "data": data, "index": self._next}
            more = {"id": event.id}
        else:
            detail = {"type": "reasoning.text", "text": event.text, "index": self._next}
            more = {"signature": marked(event.signature, self._origin.dialect, NAME)}
        self._open = isinstance(event, Reasoning) and not event.signature
        self._next += not self._open
        return detail | {name: value for name, value in more.items() if value}


def call_of(event: ToolCallStarted, arguments: str, origin: Origin) -> dict[str, object]:
    """Give a call with its arguments, or the beginning of them."""
    call: dict[str, object] = {
        "id": event.id,
        "type": "function",
        "function": {"name": event.name, "arguments": arguments},
    }
    if event.signature:
        signature = marked(event.signature, origin.dialect, NAME)
        call["extra_content"] = {"google": {"thought_signature": signature}}
    return call


def named(started: Started, origin: Origin) -> Started:
    """Give a stream's first word with what its provider did not say."""
    ident = started.id or f"chatcmpl-{origin.id}"
    return Started(ident, started.model or origin.model, started.created or origin.created)


def _head(started: Started, origin: Origin) -> bytes:
    begun = named(started, origin)
    return b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":[' % (
        string_of(begun.id),
        begun.created,
        string_of(begun.model),
    )
