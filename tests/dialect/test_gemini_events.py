"""Any answer, written as Gemini writes it, and read back."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
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
from tidegate.dialect.gemini import Gemini
from tidegate.exchange import Ask, Usage
from tidegate.wire.jsonarray import JsonArrayFramer
from tidegate.wire.sse import SseFramer

ASK = Ask(model="m", stream=True, wants_usage=True, body=b"")
LACKS = ("Sealed", "Refusal", "Usage.cache_write_tokens")
REASON_OF = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}


class Provider:
    """Gives the objects of a stream; a call is given when it has ended."""

    def __init__(self) -> None:
        self.around: dict[str, Any] = {}
        self.calls: dict[tuple[int, int], ToolCallStarted] = {}
        self.arguments: dict[tuple[int, int], str] = {}

    def objects(self, events: Sequence[Event]) -> list[dict[str, Any]]:
        return [{**said, **self.around} for event in events if (said := self.said(event)) is not None]

    def said(self, event: Event) -> dict[str, Any] | None:
        match event:
            case Started(ident, model, created):
                instant = datetime.fromtimestamp(created, UTC).isoformat()
                self.around = {"responseId": ident, "modelVersion": model, "createTime": instant}
            case Text(index, text):
                return part(index, text=text)
            case Reasoning(index, text, signature):
                return part(
                    index, text=text, thought=bool(text), **({"thoughtSignature": signature} if signature else {})
                )
            case ToolCallStarted(index, call):
                self.calls[index, call] = event
                self.arguments[index, call] = ""
            case ToolArguments(index, call, fragment):
                self.arguments[index, call] += fragment
            case ToolCallEnded(index, call):
                return self.called(self.calls[index, call])
            case UsageSeen(usage):
                counts = {
                    "promptTokenCount": usage.input_tokens,
                    "cachedContentTokenCount": usage.cached_tokens,
                    "candidatesTokenCount": usage.output_tokens - usage.reasoning_tokens,
                    "thoughtsTokenCount": usage.reasoning_tokens,
                }
                return {"usageMetadata": counts}
            case Finished(index, reason):
                return {"candidates": [{"index": index, "finishReason": REASON_OF[reason]}]}
        return None

    def called(self, call: ToolCallStarted) -> dict[str, Any]:
        arguments = json.loads(self.arguments[call.index, call.call])
        signed = {"thoughtSignature": call.signature} if call.signature else {}
        return part(call.index, functionCall={"id": call.id, "name": call.name, "args": arguments}, **signed)


def part(index: int, **members: Any) -> dict[str, Any]:
    return {"candidates": [{"index": index, "content": {"role": "model", "parts": [members]}}]}


def as_heard(events: Sequence[Event]) -> list[Any]:
    """Give events so that the same JSON is the same, and counts of nothing are not said."""
    told = [event for event in events if not isinstance(event, UsageSeen) or counts(event.usage)]
    return [
        (event.index, event.call, json.loads(event.fragment)) if isinstance(event, ToolArguments) else event
        for event in joined(told)
    ]


def counts(usage: Usage) -> bool:
    return bool(usage.input_tokens or usage.output_tokens)


@pytest.mark.parametrize("framing", ["sse", "array"])
@settings(deadline=None, max_examples=50)
@given(events=event_streams(2, LACKS), cuts=cuttings, spaced=st.booleans())
def test_what_gemini_says_is_what_is_heard(framing: str, events: list[Event], cuts: list[int], spaced: bool) -> None:
    objects = [
        json.dumps(said, indent=1 if spaced and framing == "array" else None).encode()
        for said in Provider().objects(events)
    ]
    decoder = Gemini.decoder(ASK)
    heard: list[Event] = []
    if framing == "sse":
        stream = b"".join(b"data: " + said + b"\r\n\r\n" for said in objects)
        for frame in frames_of(SseFramer(), cut(stream, cuts)):
            heard += decoder.feed(frame)
    else:
        for element in frames_of(JsonArrayFramer(), cut(b"[" + b",\r\n".join(objects) + b"\n]", cuts)):
            heard += decoder.feed(element)
    heard += decoder.finish()
    check_grammar(heard)
    assert as_heard(heard) == as_heard(events)
