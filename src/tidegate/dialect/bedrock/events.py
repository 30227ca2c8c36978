"""What Bedrock's Converse answers, as events: a stream's messages, and a whole body.

Members of any type are taken as they come and looked at when they are used: a wrong type then says nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from tidegate.dialect.events import (
    Done,
    Event,
    Failed,
    Finished,
    ProviderError,
    Reasoning,
    Sealed,
    Started,
    Text,
    ToolArguments,
    ToolCallEnded,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.dialect.values import count_of, cut, object_of, printable
from tidegate.dialect.whole import MAX_CALLS, WholeCalls, text_of
from tidegate.exchange import Usage
from tidegate.wire import Framed, FrameError
from tidegate.wire.eventstream import Message, Value

NAME: Final = "bedrock"

_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
}
_BROKEN: Final = {
    "malformed_model_output": "the model made an answer that cannot be read",
    "malformed_tool_use": "the model made a call of a tool that cannot be read",
}
"""Why what was said is no answer: to go on as if the model had stopped would be a silent loss."""

_STATUS_OF: Final = {
    "validationException": 400,
    "serviceQuotaExceededException": 400,
    "accessDeniedException": 403,
    "resourceNotFoundException": 404,
    "modelTimeoutException": 408,
    "modelErrorException": 500,
    "modelStreamErrorException": 500,
    "modelNotReadyException": 429,
    "throttlingException": 429,
    "internalServerException": 500,
    "serviceUnavailableException": 503,
}
"""The status that each stands for. Shape: 500 where a model failed, of which AWS says 424: elsewhere that is a client's mistake.

Source: AWS, the model of bedrock-runtime 2023-09-30.
"""


class _Delta(Struct, gc=False):
    text: object = None
    tool_use: object = field(default=None, name="toolUse")
    reasoning: object = field(default=None, name="reasoningContent")


class _Event(Struct, gc=False):
    delta: _Delta | None = None
    place: object = field(default=None, name="contentBlockIndex")
    start: object = None
    stop_reason: object = field(default=None, name="stopReason")
    usage: object = None


_decode_event = msgspec.json.Decoder(_Event).decode


class _Call(Struct, gc=False):
    """A call of a tool, as far as it was said."""

    number: int
    argued: bool = False


class ConverseDecoder:
    """Reads the stream of one answer.

    Shape: a message begins, its blocks come one after the other or mixed, it stops, and metadata with the usage is last.
    """

    __slots__ = ("_count", "_finished", "_open", "_started")

    def __init__(self) -> None:
        self._started = False
        self._finished = False
        self._open: dict[object, _Call] = {}
        self._count = 0

    def feed(self, frame: Framed, /) -> Sequence[Event]:
        """Give what a message says. Errors: FrameError when it cannot be read, is no message, or is above a limit."""
        if not isinstance(frame, Message):
            raise FrameError("the frame is no message of an event stream")
        headers = frame.headers
        if headers.get(":message-type") != "event":
            error = error_in(headers, frame.data)
            return () if error is None else (Failed(error),)
        name = headers.get(":event-type")
        if name == "contentBlockDelta":
            said = self._read_delta(_read(frame.data))
        elif name in {"messageStart", "contentBlockStart", "contentBlockStop", "messageStop", "metadata"}:
            said = self._read_other(str(name), _read(frame.data))
        else:
            return ()
        if self._started:
            return said
        self._started = True
        return [Started(), *said]

    def finish(self) -> Sequence[Event]:
        """Say that no message follows. Shape: with Done when the answer has finished: only its usage is missing then."""
        return (Done(),) if self._finished else ()

    def _read_delta(self, event: _Event) -> Sequence[Event]:
        delta = event.delta
        if delta is None:
            return ()
        text = delta.text
        if type(text) is str and text:
            return (Text(0, text),)
        if delta.reasoning is not None:
            return list(_thoughts(delta.reasoning))
        call = self._open.get(_place(event))
        arguments = text_of(_member(delta.tool_use, "input"))
        if call is None or not arguments:
            return ()
        call.argued = True
        return (ToolArguments(0, call.number, arguments),)

    def _read_other(self, name: str, event: _Event) -> Sequence[Event]:
        match name:
            case "contentBlockStart":
                return self._begin(event)
            case "contentBlockStop":
                return self._end(_place(event))
            case "messageStop":
                return self._stop(text_of(event.stop_reason))
            case "metadata":
                usage = usage_of(event.usage)
                seen: list[Event] = [UsageSeen(usage)] if usage is not None else []
                return [*seen, Done()] if self._finished else seen
            case _:
                return ()

    def _begin(self, event: _Event) -> Sequence[Event]:
        use = _member(event.start, "toolUse")
        if not isinstance(use, dict):
            return ()
        if self._count >= MAX_CALLS:
            raise FrameError(f"there are more than {MAX_CALLS} calls of tools")
        before = self._end(_place(event))
        call = self._open[_place(event)] = _Call(self._count)
        self._count += 1
        ident = text_of(use.get("toolUseId")) or f"call_{NAME}_0_{call.number}"
        return [*before, ToolCallStarted(0, call.number, ident, text_of(use.get("name")))]

    def _end(self, place: object) -> list[Event]:
        """End the call at a place, if one is open. Shape: no arguments at all are those of an empty object."""
        call = self._open.pop(place, None)
        if call is None:
            return []
        missing: list[Event] = [] if call.argued else [ToolArguments(0, call.number, "{}")]
        return [*missing, ToolCallEnded(0, call.number)]

    def _stop(self, reason: str) -> Sequence[Event]:
        if not reason or self._finished:
            return ()
        if reason in _BROKEN:
            return [_failed(reason)]
        self._finished = True
        return [*(event for place in tuple(self._open) for event in self._end(place)), _finished(reason)]


def answer_of(members: dict[str, Any]) -> list[Event]:
    """Give all that a whole body says. Errors: FrameError when there is neither a message in it nor an error."""
    if "output" not in members and (message := message_in(members)):
        return [Failed(ProviderError(cut(message)))]
    content = _member(_member(_member(members, "output"), "message"), "content")
    if not isinstance(content, list):
        raise FrameError("the answer has no message")
    events: list[Event] = [Started()]
    calls = WholeCalls()
    for block in content:
        events += _block(block, calls)
    usage = usage_of(members.get("usage"))
    if usage is not None:
        events.append(UsageSeen(usage))
    reason = text_of(members.get("stopReason")) or "end_turn"
    return [*events, _failed(reason)] if reason in _BROKEN else [*events, _finished(reason), Done()]


def usage_of(value: object) -> Usage | None:
    """Read a usage object; None when it has neither of the two counts.

    Source: AWS, "Prompt caching for faster model inference": inputTokens leaves out what a cache gave or took.
    """
    counts = [count_of(value, name) for name in ("inputTokens", "outputTokens")]
    if counts == [None, None]:
        return None
    read, written = count_of(value, "cacheReadInputTokens") or 0, count_of(value, "cacheWriteInputTokens") or 0
    return Usage(
        input_tokens=(counts[0] or 0) + read + written,
        output_tokens=counts[1] or 0,
        cached_tokens=read,
        cache_write_tokens=written,
    )


def error_in(headers: dict[str, Value], payload: bytes) -> ProviderError | None:
    """Read an exception, which the service has modelled, or any other error; None for a message that is neither."""
    match headers.get(":message-type"):
        case "exception":
            kind, message = str(headers.get(":exception-type", "")), _message(payload)
        case "error":
            kind, message = str(headers.get(":error-code", "")), str(headers.get(":error-message", ""))
        case _:
            return None
    return ProviderError(
        cut(message) or f"the provider failed with {kind or 'an error'}",
        kind or None,
        status=_STATUS_OF.get(kind[:1].lower() + kind[1:], 0),
    )


def message_in(members: dict[str, Any]) -> str:
    """Give the message of an error; '' where there is none."""
    return text_of(members.get("message")) or text_of(members.get("Message"))


def _message(payload: bytes) -> str:
    try:
        return message_in(object_of(payload)) or printable(payload)
    except FrameError:
        return printable(payload)


def _read(data: bytes) -> _Event:
    """Read an event's payload. Errors: FrameError."""
    try:
        return _decode_event(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        members = object_of(data)
    if not isinstance(members.get("delta"), dict):
        members["delta"] = None
    return msgspec.convert(members, _Event)


def _place(event: _Event) -> object:
    return event.place if type(event.place) is int else None


def _member(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None


def _finished(reason: str) -> Finished:
    return Finished(0, _REASONS.get(reason, reason))


def _failed(reason: str) -> Failed:
    return Failed(ProviderError(_BROKEN[reason], reason, status=502))


def _thoughts(content: object) -> Iterator[Event]:
    """Give the reasoning of a delta, or of a block, where text and signature stand one level deeper."""
    given = _member(content, "reasoningText") or content
    text, signature = text_of(_member(given, "text")), text_of(_member(given, "signature"))
    data = text_of(_member(content, "redactedContent"))
    if text or signature:
        yield Reasoning(0, text, signature)
    if data:
        yield Sealed(0, data)


def _block(block: object, calls: WholeCalls) -> Iterator[Event]:
    """Give what a block of a whole body says. Errors: FrameError above the limit of calls."""
    text, use = text_of(_member(block, "text")), _member(block, "toolUse")
    if text:
        yield Text(0, text)
    yield from _thoughts(_member(block, "reasoningContent"))
    if use is not None:
        name, ident = text_of(_member(use, "name")), text_of(_member(use, "toolUseId"))
        yield from calls.tell(0, name, _member(use, "input"), ident, answer=NAME)
