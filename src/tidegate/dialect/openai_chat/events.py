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
from tidegate.dialect.openai_chat.values import (
    DONE,
    choices_of,
    error_in,
    error_object,
    json_of,
    object_of,
    usage_of,
)
from tidegate.exchange import Usage
from tidegate.wire import Frame, FrameError

MAX_CHOICES: Final = 128
"""The most that OpenAI gives; what is kept for each is bounded by it."""
MAX_CALLS: Final = 1024
"""Calls of tools in one stream."""

_CALLED: Final = {"function_call": "tool_calls"}
"""From when there was one call at most; it is told as all calls are."""

# Members of any type are taken as they come and looked at when they are used: a wrong type then says nothing, and
# costs the others nothing.


class _Function(Struct, gc=False):
    name: object = None
    arguments: object = None


class _Call(Struct, gc=False):
    index: object = None
    id: object = None
    function: _Function | None = None
    extra_content: object = None


class _Delta(Struct, gc=False):
    content: object = None
    reasoning_content: object = None
    reasoning: object = None
    reasoning_details: object = None
    refusal: object = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


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


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_encode = msgspec.json.Encoder().encode


class _Said(Struct, gc=False):
    """A call of a tool, as far as it was said."""

    number: int
    id: str = ""
    name: str = ""
    signature: str = ""
    begun: bool = False
    argued: bool = False
    ended: bool = False


class ChatDecoder:
    """Reads the stream of one answer with so many choices."""

    __slots__ = ("_at", "_calls", "_count", "_finished", "_id", "_started", "_wanted")

    def __init__(self, choices: int) -> None:
        self._wanted = choices
        self._started = False
        self._id = ""
        self._finished: set[int] = set()
        self._calls: dict[int, list[_Said]] = {}
        self._at: dict[tuple[int, int], _Said] = {}
        self._count = 0

    def feed(self, frame: Frame, /) -> Sequence[Event]:
        """Give what a frame says. Errors: FrameError when it cannot be read, or is above a limit."""
        data = frame.data
        if data is None:
            return ()
        try:
            chunk = _decode_chunk(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            if data.strip() == DONE:
                return (*self._end_calls(), Done())
            chunk = _pruned(object_of(data))
        if (chunk.error or chunk.kind == "error") and (error := error_in(object_of(data))) is not None:
            return (Failed(error),)
        events: list[Event] = []
        if not self._started and (chunk.choices or chunk.usage):
            events.append(self._start(chunk))
        for choice in chunk.choices or ():
            self._read(choice, events)
        usage = usage_of(chunk.usage) if chunk.usage else None
        if usage is not None:
            events.append(UsageSeen(usage))
        return events

    def finish(self) -> Sequence[Event]:
        """Say that no frame follows. Shape: with Done when every choice that was asked for has finished."""
        return (*self._end_calls(), Done()) if len(self._finished) >= self._wanted else ()

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
            if content and type(content) is str:
                events.append(Text(index, content))
            if delta.refusal or delta.tool_calls or delta.function_call is not None:
                self._read_rest(index, delta, events)
        if reason and type(reason) is str and index not in self._finished:
            self._finished.add(index)
            events += self._end_calls_of(index)
            events.append(Finished(index, _CALLED.get(reason, reason)))

    def _read_rest(self, index: int, delta: _Delta, events: list[Event]) -> None:
        if refusal := _text(delta.refusal):
            events.append(Refusal(index, refusal))
        for call in delta.tool_calls or ():
            self._read_call(index, call, events)
        if delta.function_call is not None:
            self._read_call(index, _Call(0, None, delta.function_call), events)

    # --- calls of tools --------------------------------------------------------------------------------------------

    def _read_call(self, index: int, call: _Call, events: list[Event]) -> None:
        function = call.function or _Function()
        ident, name, arguments = _text(call.id), _text(function.name), _text(function.arguments)
        if not (ident or name or arguments):
            return
        said = self._said(index, call, ident, name)
        if not said.begun and (said.name or arguments):
            self._begin(index, said, events)
        if arguments:
            said.argued = True
            events.append(ToolArguments(index, said.number, arguments))

    def _said(self, index: int, call: _Call, ident: str, name: str) -> _Said:
        """Give the call that a piece belongs to.

        Shape: it is the one at this place, unless another id and a name begin a new one there: some servers give no place,
        or the same to all.
        """
        place = call.index if type(call.index) is int else 0
        said = self._at.get((index, place))
        others = said is not None and said.begun and name and (ident != said.id if ident else call.index is None)
        if said is None or others:
            self._count += 1
            if self._count > MAX_CALLS:
                raise FrameError(f"there are more than {MAX_CALLS} calls of tools")
            calls = self._calls.setdefault(index, [])
            said = self._at[index, place] = _Said(len(calls))
            calls.append(said)
        if not said.begun:
            said.id = said.id or ident
            said.name = said.name or name
            said.signature = said.signature or _signature(call.extra_content)
        return said

    def _begin(self, index: int, said: _Said, events: list[Event]) -> None:
        said.begun = True
        said.id = said.id or f"call_{self._id}_{index}_{said.number}"
        events.append(ToolCallStarted(index, said.number, said.id, said.name, said.signature))

    def _end_calls(self) -> list[Event]:
        return [event for index in self._calls for event in self._end_calls_of(index)]

    def _end_calls_of(self, index: int) -> list[Event]:
        """End the calls of a choice. Shape: no arguments at all are those of an empty object."""
        events: list[Event] = []
        for said in self._calls.get(index, ()):
            if said.ended:
                continue
            said.ended = True
            if not said.begun:
                self._begin(index, said, events)
            if not said.argued:
                events.append(ToolArguments(index, said.number, "{}"))
            events.append(ToolCallEnded(index, said.number))
        return events


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


def _signature(extra: object) -> str:
    """Give what must come back with a call. Source: Google, "OpenAI compatibility", thought signatures."""
    return _text(_member(extra, "google", "thought_signature")) if extra is not None else ""


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

    __slots__ = ("_begun", "_end", "_head", "_text_end", "_usage", "_wants_usage")

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._usage: Usage | None = None
        self._begun: set[int] = set()
        self._end = b'}],"usage":null}\n\n' if wants_usage else b"}]}\n\n"
        self._text_end = b'},"finish_reason":null' + self._end
        self._head = _head(Started())

    def write(self, events: Sequence[Event], /) -> bytes:
        """Give whole frames that say it; usage is kept until the end."""
        out: list[bytes] = []
        for event in events:
            if type(event) is Text and event.index in self._begun:
                out += (
                    self._head,
                    b'{"index":%d,"delta":{"content":' % event.index,
                    _quoted(event.text),
                    self._text_end,
                )
            else:
                self._write(event, out)
        return b"".join(out)

    def _write(self, event: Event, out: list[bytes]) -> None:
        match event:
            case Finished(index, reason):
                self._delta(index, b"{}", out, reason=_quoted(reason))
            case Started():
                self._head = _head(event)
            case UsageSeen(usage):
                self._usage = usage
            case Failed(error):
                given = error if error.kind else msgspec.structs.replace(error, kind="server_error")
                out.append(b"data: " + error_object(given) + b"\n\n")
            case Done():
                self._finish(out)
            case ToolCallStarted(index) | Refusal(index):
                self._delta(index, _delta_of(event), out, content=b"null")
            case Text() | ToolArguments() | Reasoning() | Sealed():
                self._delta(event.index, _delta_of(event), out)

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
            out += (self._head, b'],"usage":', _encode(_usage_members(usage)), b"}\n\n")
        out.append(b"data: %b\n\n" % DONE)


def _head(started: Started) -> bytes:
    return b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":[' % (
        _quoted(started.id),
        started.created,
        _quoted(started.model),
    )


def _quoted(text: str) -> bytes:
    try:
        return _encode(text)
    except UnicodeEncodeError:
        return json_of(text)


def _delta_of(event: Text | ToolArguments | Reasoning | Sealed | Refusal | ToolCallStarted) -> bytes:
    """Give the delta that says it."""
    match event:
        case ToolArguments(_, call, fragment):
            return b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (call, _quoted(fragment))
        case Reasoning(_, text, signature):
            return json_of(_thought(text, signature))
        case Sealed(_, data, ident):
            detail = {"type": "reasoning.encrypted", "data": data} | ({"id": ident} if ident else {})
            return json_of({"reasoning_details": [detail]})
        case Refusal(_, text):
            return b'{"refusal":%b}' % _quoted(text)
        case ToolCallStarted():
            return json_of({"tool_calls": [_call(event)]})
        case _:
            return b'{"content":%b}' % _quoted(event.text)


def _thought(text: str, signature: str) -> dict[str, object]:
    """Give a thought plain, as most clients know it, and with its signature for those who give it back."""
    plain: dict[str, object] = {"reasoning_content": text} if text else {}
    if not signature:
        return plain
    return plain | {"reasoning_details": [{"type": "reasoning.text", "text": text, "signature": signature}]}


def _call(event: ToolCallStarted) -> dict[str, object]:
    call: dict[str, object] = {
        "index": event.call,
        "id": event.id,
        "type": "function",
        "function": {"name": event.name, "arguments": ""},
    }
    if event.signature:
        call["extra_content"] = {"google": {"thought_signature": event.signature}}
    return call


def _usage_members(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
