"""Any answer, written as Ollama writes it, and read back."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from conversing import check_grammar, event_streams, joined
from cuts import cut, cuttings, frames_of
from tidegate.dialect.events import (
    Event,
    Finished,
    Reasoning,
    Started,
    Text,
    ToolArguments,
    ToolCallEnded,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.dialect.ollama import Ollama
from tidegate.exchange import Ask, Usage
from tidegate.wire.ndjson import NdjsonFramer

ASK = Ask(model="m", stream=True, wants_usage=True, body=b"")
LACKS = (
    "Sealed", "Refusal", "Started.id", "Reasoning.signature", "ToolCallStarted.signature", "Usage.cached_tokens",
    "Usage.cache_write_tokens", "Usage.reasoning_tokens",
)  # fmt: skip


def lines_of(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Give the lines of a stream; a call is given when it has ended, and counts with the last line."""
    lines: list[dict[str, Any]] = []
    around: dict[str, Any] = {}
    used: dict[str, Any] = {}
    call, arguments = ToolCallStarted(0, 0, "", ""), ""
    for event in events:
        said: dict[str, Any] = {}
        match event:
            case Started(_, model, created):
                around = {"model": model, "created_at": datetime.fromtimestamp(created, UTC).isoformat()}
            case Text(_, text):
                said = {"content": text}
            case Reasoning(_, text):
                said = {"content": "", "thinking": text}
            case ToolCallStarted():
                call, arguments = event, ""
            case ToolArguments(_, _, fragment):
                arguments += fragment
            case ToolCallEnded():
                function = {"index": call.call, "name": call.name, "arguments": json.loads(arguments)}
                said = {"content": "", "tool_calls": [{"id": call.id, "function": function}]}
            case UsageSeen(usage) if counts(usage):
                used = {"prompt_eval_count": usage.input_tokens, "eval_count": usage.output_tokens}
        if said:
            lines.append({**around, "message": {"role": "assistant", **said}, "done": False})
    (reason,) = (event.reason for event in events if isinstance(event, Finished))
    told = {"done": True, "done_reason": "stop" if reason == "tool_calls" else reason}
    return [*lines, {**around, "message": {"role": "assistant", "content": ""}, **told, **used}]


def as_heard(events: Sequence[Event]) -> list[Any]:
    """Give events so that the same JSON is the same, and counts of nothing are not said."""
    told = [event for event in events if not isinstance(event, UsageSeen) or counts(event.usage)]
    return [
        (event.index, event.call, json.loads(event.fragment)) if isinstance(event, ToolArguments) else event
        for event in joined(told)
    ]


def counts(usage: Usage) -> bool:
    return bool(usage.input_tokens or usage.output_tokens)


@settings(deadline=None, max_examples=50)
@given(event_streams(1, LACKS, reasons=("stop", "length")), cuttings, st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_what_ollama_says_is_what_is_heard(events: list[Event], cuts: list[int], end: bytes, ended: bool) -> None:
    stream = end.join(json.dumps(line).encode() for line in lines_of(events)) + (end if ended else b"")
    decoder = Ollama.decoder(ASK)
    heard = [event for frame in frames_of(NdjsonFramer(), cut(stream, cuts)) for event in decoder.feed(frame)]
    check_grammar(heard)
    assert as_heard(heard) == as_heard(events)
