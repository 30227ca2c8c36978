"""Gemini's frames as events.

A stream has no last word: it is complete where it ends after every candidate has given a reason. Early models gave one with
each frame, and it may come in a frame without content; so the last one counts, and is told at the end.
"""

from collections.abc import Sequence
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
    Refusal,
    Started,
    Text,
    UsageSeen,
)
from tidegate.dialect.gemini.values import error_of, object_of
from tidegate.dialect.values import cut
from tidegate.dialect.whole import WholeCalls, count_of, dict_of, dicts_of, seconds_of, text_of
from tidegate.exchange import Usage
from tidegate.wire import Framed, FrameError

MAX_CHOICES: Final = 128
"""Sixteen times what Gemini gives; what is kept for each is bounded by it."""

_REASON_OF: Final = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "ESCALATION": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
}
_NO_REASON: Final = frozenset({"", "FINISH_REASON_UNSPECIFIED"})
_BROKEN: Final = {
    "OTHER": "the model stopped, and does not say why",
    "LANGUAGE": "the model came to a language that it does not speak",
    "MALFORMED_FUNCTION_CALL": "the model made a call of a tool that cannot be read",
    "MALFORMED_RESPONSE": "the model made an answer that cannot be read",
    "UNEXPECTED_TOOL_CALL": "the model called a tool that it was not given",
    "TOO_MANY_TOOL_CALLS": "the model called too many tools one after the other",
    "MISSING_THOUGHT_SIGNATURE": "the model was asked without the signature of a thought",
    "NO_IMAGE": "the model made no image, as it was to",
    "IMAGE_OTHER": "the model made no image, and does not say why",
}
"""Why what was said is no answer, whole or cut: to go on as if the model had stopped would be a silent loss.

Source: Google, "Gemini API reference", FinishReason.
"""
_FILTERED: Final = "content_filter"

# Members of any type are taken as they come and looked at when they are used: a wrong type then says nothing, and
# costs the others nothing.


class _Call(Struct, gc=False):
    id: object = None
    name: object = None
    args: object = None


class _Part(Struct, gc=False, rename="camel"):
    text: object = None
    thought: object = None
    thought_signature: object = None
    function_call: _Call | None = None
    inline_data: object = None
    file_data: object = None
    executable_code: object = None
    code_execution_result: object = None


class _Content(Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(Struct, gc=False, rename="camel"):
    index: object = 0
    content: _Content | None = None
    finish_reason: object = None
    finish_message: object = None


class _Counts(Struct, gc=False, rename="camel"):
    prompt_token_count: object = None
    tool_use_prompt_token_count: object = None
    cached_content_token_count: object = None
    candidates_token_count: object = None
    thoughts_token_count: object = None


class _Answer(Struct, gc=False, rename="camel"):
    response_id: object = None
    model_version: object = None
    create_time: object = None
    candidates: list[_Candidate] | None = None
    prompt_feedback: object = None
    usage: _Counts | None = field(default=None, name="usageMetadata")
    error: object = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


class GeminiDecoder:
    """Reads one stream."""

    __slots__ = ("_calls", "_id", "_reasons", "_started")

    def __init__(self) -> None:
        self._started = False
        self._id = ""
        self._calls = WholeCalls()
        self._reasons: dict[int, str] = {}

    def feed(self, frame: Framed, /) -> Sequence[Event]:
        """Give what a frame says. Errors: FrameError when it cannot be read, or is above a limit."""
        data = frame.data
        if data is None:
            return ()
        try:
            answer = _decode_answer(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            answer = _pruned(object_of(data))
        if answer.error:
            return (Failed(error_of(answer.error)),)
        events: list[Event] = []
        if not self._started and (answer.candidates or answer.usage or answer.prompt_feedback):
            events.append(self._start(answer))
        if answer.usage is not None and (usage := _usage(answer.usage)) is not None:
            events.append(UsageSeen(usage))
        for candidate in answer.candidates or ():
            failed = self._read(candidate, events)
            if failed is not None:
                return (*events, failed)
        if answer.prompt_feedback and not answer.candidates:
            self._read_feedback(answer.prompt_feedback, events)
        return events

    def finish(self) -> Sequence[Event]:
        """Say that no frame follows. Shape: ends in Done where every candidate that was seen has given a reason."""
        if not self._reasons or not all(self._reasons.values()):
            return ()
        return (*(Finished(index, self._reason(index)) for index in sorted(self._reasons)), Done())

    def _start(self, answer: _Answer) -> Started:
        self._started = True
        self._id = text_of(answer.response_id)
        return Started(self._id, text_of(answer.model_version), seconds_of(answer.create_time))

    def _reason(self, index: int) -> str:
        reason = self._reasons[index]
        return "tool_calls" if reason == "stop" and self._calls.made(index) else reason

    def _read(self, candidate: _Candidate, events: list[Event]) -> Failed | None:
        """Add what a candidate says; gives why it is no answer, where it is none."""
        index = _place(candidate.index)
        content, reason = candidate.content, candidate.finish_reason
        if content is not None:
            for part in content.parts or ():
                text = part.text
                if text and type(text) is str and part.thought is not True:
                    events.append(Text(index, text))
                elif not text and (untold := _untold(part)):
                    return _failed(f"the model answered with {untold}, for which the client's dialect has no word")
                if part.thought is True or part.thought_signature or part.function_call is not None:
                    self._read_rest(index, part, events)
        if type(reason) is not str or reason in _NO_REASON:
            self._reasons.setdefault(index, "")
            return None
        self._reasons[index] = _REASON_OF.get(reason, reason)
        broken = _BROKEN.get(reason)
        return _failed(text_of(candidate.finish_message) or broken, reason) if broken else None

    def _read_rest(self, index: int, part: _Part, events: list[Event]) -> None:
        """Read a thought, a call, or a signature, which stands behind the text that it was given with."""
        signature, call = text_of(part.thought_signature), part.function_call
        name = text_of(call.name) if call is not None else ""
        if call is not None and name:
            events += self._calls.tell(index, name, call.args, text_of(call.id), signature, answer=self._id)
            return
        thought = text_of(part.text) if part.thought is True else ""
        if thought or signature:
            events.append(Reasoning(index, thought, signature))

    def _read_feedback(self, feedback: object, events: list[Event]) -> None:
        """Read why a question is not answered, or no longer."""
        if not isinstance(feedback, dict) or not text_of(feedback.get("blockReason")):
            return
        for index in list(self._reasons) or [0]:
            self._reasons[index] = self._reasons.get(index) or _FILTERED
        if message := text_of(feedback.get("blockReasonMessage")):
            events.append(Refusal(0, message))


def _place(index: object) -> int:
    """Give the index of a candidate, 0 where none was given. Errors: FrameError."""
    if type(index) is not int or index < 0:
        return 0
    if index >= MAX_CHOICES:
        raise FrameError(f"there are more than {MAX_CHOICES} choices")
    return index


def _untold(part: _Part) -> str:
    """Give what a part is that no event can say; '' where there is none."""
    kinds = {
        "an image, or another file (inlineData)": part.inline_data,
        "a file by its URL (fileData)": part.file_data,
        "code that it ran (executableCode)": part.executable_code,
        "what came of code that it ran (codeExecutionResult)": part.code_execution_result,
    }
    return next((kind for kind, said in kinds.items() if dict_of(said)), "")


def _failed(message: str, kind: str | None = None) -> Failed:
    return Failed(ProviderError(cut(message), kind, status=502))


def _usage(counts: _Counts) -> Usage | None:
    """Read the counts. Shape: what was cached is in the prompt's; thoughts, and what tools put in, are counted apart."""
    thoughts = count_of(counts.thoughts_token_count)
    asked = count_of(counts.prompt_token_count) + count_of(counts.tool_use_prompt_token_count)
    told = count_of(counts.candidates_token_count) + thoughts
    return Usage(asked, told, count_of(counts.cached_content_token_count), thoughts) if asked or told else None


def _pruned(answer: dict[str, Any]) -> _Answer:
    """Read an object of which parts have a shape that was not expected, without these parts."""
    answer["usageMetadata"] = dict_of(answer.get("usageMetadata"))
    answer["candidates"] = candidates = dicts_of(answer.get("candidates"))
    for candidate in candidates:
        candidate["content"] = content = dict_of(candidate.get("content")) or {}
        content["parts"] = parts = dicts_of(content.get("parts"))
        for part in parts:
            part["functionCall"] = dict_of(part.get("functionCall"))
    return msgspec.convert(answer, _Answer)
