"""The lines of Ollama's chat as events. Each says one thing, and the last one all that is left."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from tidegate.dialect.events import Done, Event, Failed, Finished, ProviderError, Reasoning, Started, Text, UsageSeen
from tidegate.dialect.openai_chat.values import error_in
from tidegate.dialect.values import object_of
from tidegate.dialect.whole import WholeCalls, count_of, dict_of, dicts_of, seconds_of, text_of
from tidegate.exchange import Usage
from tidegate.wire import Framed

_ONLY: Final = 0
"""The index of the one choice that there is."""
_NO_ANSWER: Final = {
    "load": "the provider loaded the model, and asked it nothing",
    "unload": "the provider unloaded the model, and asked it nothing",
}
"""Why a line is the last though nothing was answered. Source: Ollama, "API", "Load a model", "Unload a model"."""


class _Function(Struct, gc=False):
    name: object = None
    arguments: object = None


class _Call(Struct, gc=False):
    id: object = None
    function: _Function | None = None


class _Message(Struct, gc=False):
    content: object = None
    thinking: object = None
    tool_calls: list[_Call] | None = None


class _Line(Struct, gc=False):
    model: object = None
    created_at: object = None
    message: _Message | None = None
    done: object = None
    done_reason: object = None
    prompt_eval_count: object = None
    eval_count: object = None
    error: object = None


_decode_line = msgspec.json.Decoder(_Line).decode


class OllamaDecoder:
    """Reads one stream."""

    __slots__ = ("_begun", "_calls", "_started")

    def __init__(self) -> None:
        self._started = False
        self._begun = ""
        self._calls = WholeCalls()

    def feed(self, frame: Framed, /) -> Sequence[Event]:
        """Give what a line says. Errors: FrameError when it cannot be read, or is above a limit."""
        data = frame.data
        if data is None:
            return ()
        try:
            line = _decode_line(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            line = _pruned(object_of(data))
        if line.error and (error := error_in({"error": line.error})) is not None:
            return (Failed(error),)
        events: list[Event] = []
        message = line.message
        if not self._started and (message is not None or line.done is True):
            events.append(self._start(line))
        if message is not None:
            self._read(message, events)
        if line.done is True:
            events += self._end(line)
        return events

    def finish(self) -> Sequence[Event]:
        """Say that no line follows. Shape: nothing; what has not said that it is done is not complete."""
        return ()

    def _start(self, line: _Line) -> Started:
        self._started = True
        instant = text_of(line.created_at)
        self._begun = "".join(filter(str.isalnum, instant))
        return Started("", text_of(line.model), seconds_of(instant))

    def _read(self, message: _Message, events: list[Event]) -> None:
        if thought := text_of(message.thinking):
            events.append(Reasoning(_ONLY, thought))
        content = message.content
        if content and type(content) is str:
            events.append(Text(_ONLY, content))
        for call in message.tool_calls or ():
            name = text_of(call.function.name) if call.function is not None else ""
            if call.function is not None and name:
                events += self._calls.tell(_ONLY, name, call.function.arguments, text_of(call.id), answer=self._begun)

    def _end(self, line: _Line) -> Sequence[Event]:
        usage = Usage(count_of(line.prompt_eval_count), count_of(line.eval_count))
        reason = text_of(line.done_reason) or "stop"
        if reason == "stop" and self._calls.made(_ONLY):
            reason = "tool_calls"
        counted = (UsageSeen(usage),) if usage.input_tokens or usage.output_tokens else ()
        if reason in _NO_ANSWER:
            return (*counted, Failed(ProviderError(_NO_ANSWER[reason], reason, status=502)))
        return (*counted, Finished(_ONLY, reason), Done())


def _pruned(line: dict[str, Any]) -> _Line:
    """Read an object of which parts have a shape that was not expected, without these parts."""
    line["message"] = message = dict_of(line.get("message")) or {}
    message["tool_calls"] = calls = dicts_of(message.get("tool_calls"))
    for call in calls:
        call["function"] = dict_of(call.get("function"))
    return msgspec.convert(line, _Line)
