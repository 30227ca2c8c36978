"""Streams of the Responses API, what they say, and the order in which a client may expect their events."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import structs
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tidegate.dialect import ProviderError
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
from tidegate.dialect.openai_responses import OpenAIResponses
from tidegate.exchange import Ask, Usage
from tidegate.wire import Frame
from tidegate.wire.sse import SseFramer

DIALECT = OpenAIResponses()
GOLDEN = Path(__file__).parents[1] / "golden" / "openai_responses"
STREAMS = sorted(path.name for path in GOLDEN.glob("*.sse"))
ASK = Ask(model="m", stream=True, wants_usage=True, body=b"", dialect="openai_responses")
ORIGIN = Origin("req-1", "tide-1", 9, "anthropic")
OWN = Origin("req-1", "tide-1", 9, "openai_responses")
ID = "resp_68af4030592c81938ec0a5fbab4a3e9f05438e46b5f69a3b"
TEXT: list[Event] = [
    Started(ID, "gpt-4o-mini-2024-07-18", 1756315696),
    Text(0, "Hello"),
    Text(0, " “wörld” 🌊"),
    Text(0, '! "error": "response.completed"\n\ndata: [DONE]'),
    UsageSeen(Usage(19, 10, cached_tokens=4, reasoning_tokens=3)),
    Finished(0, "stop"),
    Done(),
]
CALL = (ToolCallStarted(0, 0, "call_1", "tide"), ToolArguments(0, 0, "{}"), ToolCallEnded(0, 0))
GPT5 = Started(ID, "gpt-5-mini-2025-08-07", 1756315696)
EXPECTED: dict[str, list[Event]] = {
    "text.sse": TEXT,
    "crlf.sse": TEXT,
    "reasoning.sse": [
        GPT5,
        Reasoning(0, "**Checkin"),
        Reasoning(0, "g the tide**\n\nI need the port."),
        Reasoning(0, "\n\n**Calling"),
        Reasoning(0, " the tool** 🌊"),
        Sealed(0, "gAAAAABor0AyWhole==", "rs_68af4030baa48193b0b43b4c2a176a1a0e2195be59da3a18"),
        ToolCallStarted(0, 0, "call_kdvWrIRYJGzzIPrGQHxDrC0q", "tide"),
        *(ToolArguments(0, 0, piece) for piece in ("{", '"port"', ':"', "Brest", '"}')),
        ToolCallEnded(0, 0),
        UsageSeen(Usage(120, 64, cached_tokens=64, reasoning_tokens=44)),
        Finished(0, "tool_calls"),
        Done(),
    ],
    "parallel.sse": [
        Started(ID, "gpt-4.1-2025-04-14", 1756315696),
        Text(0, "Let me look."),
        ToolCallStarted(0, 0, "call_A", "tide"),
        ToolArguments(0, 0, '{"port":'),
        ToolArguments(0, 0, '"Brest"}'),
        ToolCallEnded(0, 0),
        ToolCallStarted(0, 1, "call_B", "moon"),
        ToolArguments(0, 1, "{}"),
        ToolCallEnded(0, 1),
        UsageSeen(Usage(80, 40)),
        Finished(0, "tool_calls"),
        Done(),
    ],
    "refusal.sse": [
        GPT5,
        Refusal(0, "I'm sorry"),
        Refusal(0, ", I can\u2019t help."),
        UsageSeen(Usage(30, 9)),
        Finished(0, "stop"),
        Done(),
    ],
    "incomplete.sse": [
        GPT5,
        Text(0, "Once upon a"),
        UsageSeen(Usage(12, 16, reasoning_tokens=8)),
        Finished(0, "length"),
        Done(),
    ],
    "filtered.sse": [
        GPT5,
        Text(0, "Once upon a"),
        UsageSeen(Usage(12, 4)),
        Finished(0, "content_filter"),
        Done(),
    ],
    "error.sse": [
        GPT5,
        Text(0, "Half of a"),
        Failed(
            ProviderError(
                "The server had an error processing your request.", "server_error", "server_error", None, status=500
            )
        ),
    ],
    "failed.sse": [
        GPT5,
        Text(0, "Half of a"),
        UsageSeen(Usage(12, 3)),
        Failed(ProviderError("Rate limit reached for gpt-5-mini.", None, "rate_limit_exceeded", None, status=429)),
    ],
    "error_first.sse": [GPT5, Failed(ProviderError("Something went wrong", None, "ERR_SOMETHING"))],
    "server_tools.sse": [
        GPT5,
        Text(0, "High water at "),
        Text(0, "6:14."),
        UsageSeen(Usage(300, 20)),
        Finished(0, "stop"),
        Done(),
    ],
    "vllm.sse": [
        Started("resp_9f0c6e1b2d7a4f5d9b0e8a3c1f2d4b6a", "openai/gpt-oss-120b", 1756315696),
        Reasoning(0, "We need"),
        Reasoning(0, " the tide."),
        ToolCallStarted(0, 0, "call_9f", "tide"),
        ToolArguments(0, 0, '{"port": "Brest"}'),
        ToolCallEnded(0, 0),
        UsageSeen(Usage(90, 30, cached_tokens=16, reasoning_tokens=12)),
        Finished(0, "tool_calls"),
        Done(),
    ],
}

EVENT_TYPE: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WHOLE_TYPE = TypeAdapter(Response)


def frames_of(data: bytes, size: int = 0) -> list[Frame]:
    framer = SseFramer()
    pieces = [data[at : at + size] for at in range(0, len(data), size)] if size else [data]
    return [*(frame for piece in pieces for frame in framer.feed(piece)), *framer.finish()]


def events_of(frames: Sequence[Frame]) -> list[Event]:
    decoder = DIALECT.decoder(ASK)
    events = [event for frame in frames for event in decoder.feed(frame)]
    return [*events, *decoder.finish()]


def encoded(*events: Event, origin: Origin = ORIGIN, body: bytes = b"") -> bytes:
    return DIALECT.encoder(structs.replace(ASK, body=body), origin).write(events)


def written(*events: Event, origin: Origin = ORIGIN, body: bytes = b"") -> list[dict[str, Any]]:
    """Give the events that clients get. Shape: each is what its `event` line says, and what the official SDK takes it for."""
    frames = frames_of(encoded(*events, origin=origin, body=body))
    out = [json.loads(frame.data or b"") for frame in frames]
    assert [frame.event for frame in frames] == [event["type"].encode() for event in out]
    check_order(out)
    for event in out:
        check_with_sdk(event)
    return out


def check_with_sdk(event: dict[str, Any]) -> None:
    response = event.get("response", {})
    # Of codes and reasons the SDK lists some, and takes any.
    if response.get("error"):
        event = {**event, "response": {**response, "error": {**response["error"], "code": "server_error"}}}
    elif response.get("incomplete_details"):
        event = {**event, "response": {**response, "incomplete_details": {"reason": "content_filter"}}}
    parsed = EVENT_TYPE.validate_python(event)
    assert parsed.type == event["type"]
    assert not getattr(parsed, "model_extra", None), "there is nothing in it that the SDK does not know"


# --- the order of events, checked by what the reference says of them -------------------------------------------------

PARTS = {
    "output_text": ("content_part", "content_index", "text"),
    "refusal": ("content_part", "content_index", "refusal"),
    "reasoning_summary_text": ("reasoning_summary_part", "summary_index", "text"),
}
TERMINAL = ("response.completed", "response.incomplete", "response.failed")


CALLS = {
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
}


class Order:
    """Follows the events of one response, and fails at one that is out of order, or does not repeat what was said."""

    def __init__(self) -> None:
        self.items: dict[int, dict[str, Any]] = {}
        self.done: dict[int, dict[str, Any]] = {}
        self.part: dict[int, tuple[str, int, str]] = {}
        self.told: set[int] = set()
        self.parts: dict[int, list[dict[str, Any]]] = {}
        self.arguments: dict[int, str] = {}

    def take(self, event: dict[str, Any]) -> None:
        name = event["type"].removeprefix("response.")
        stem, _, verb = name.rpartition(".")
        place = event["output_index"]
        if stem == "output_item":
            self.take_item(verb, place, event["item"])
            return
        assert event["item_id"] == self.items[place]["id"]
        assert place not in self.done, "nothing is said of an item that is done"
        if stem in {"function_call_arguments", "custom_tool_call_input"}:
            self.take_arguments(stem, verb, place, event)
        elif stem in PARTS:
            self.take_piece(stem, verb, place, event)
        else:
            self.take_part(stem, verb, place, event)

    def take_item(self, verb: str, place: int, item: dict[str, Any]) -> None:
        if verb == "added":
            assert place == len(self.items), "items are counted in the order in which they begin"
            assert not any(item.get(member) for member in ("content", "summary", "arguments", "input"))
            assert item.get("status", "in_progress") == "in_progress"
            if item["type"] not in CALLS:
                assert all(other["type"] in CALLS for at, other in self.items.items() if at not in self.done), (
                    "of messages and thoughts one is open"
                )
            self.items[place], self.parts[place] = item, []
            return
        added = self.items[place]
        assert (item["id"], item["type"]) == (added["id"], added["type"])
        assert place not in self.part, "an item is done when its parts are"
        if item["type"] in CALLS:
            assert (item["call_id"], item["name"]) == (added["call_id"], added["name"])
            assert item[CALLS[item["type"]][1]] == self.arguments.get(place, "")
            self.told.remove(place)
        else:
            assert item["content" if item["type"] == "message" else "summary"] == self.parts[place]
        assert item.get("status", "completed") in {"completed", "incomplete"}
        self.done[place] = item

    def take_part(self, stem: str, verb: str, place: int, event: dict[str, Any]) -> None:
        kind = {"summary_text": "reasoning_summary_text"}.get(event["part"]["type"], event["part"]["type"])
        part, index, member = PARTS[kind]
        assert stem == part
        if verb == "added":
            assert place not in self.part
            assert event[index] == len(self.parts[place])
            assert not event["part"][member]
            self.part[place] = (kind, event[index], "")
            return
        self.told.remove(place)
        assert self.part.pop(place) == (kind, event[index], event["part"][member]), "a part is done after its text"
        self.parts[place].append(event["part"])

    def take_piece(self, kind: str, verb: str, place: int, event: dict[str, Any]) -> None:
        _, index, member = PARTS[kind]
        was, at, text = self.part[place]
        assert (was, at) == (kind, event[index])
        assert place not in self.told, "all of it was said"
        if verb == "delta":
            assert event["delta"]
            self.part[place] = (kind, at, text + event["delta"])
        else:
            assert event[member] == text
            self.told.add(place)

    def take_arguments(self, stem: str, verb: str, place: int, event: dict[str, Any]) -> None:
        events, member = CALLS[self.items[place]["type"]]
        assert stem == events
        assert place not in self.told, "all of them were said"
        if verb == "delta":
            self.arguments[place] = self.arguments.get(place, "") + event["delta"]
        else:
            assert event[member] == self.arguments.get(place, "")
            self.told.add(place)


def check_order(events: Sequence[dict[str, Any]]) -> None:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"][: len(events)]
    order, ends = Order(), [event for event in events if event["type"] in TERMINAL]
    for event in events[2:]:
        if event["type"] not in TERMINAL:
            order.take(event)
    for end in ends:
        assert end is events[-1]
        response = end["response"]
        assert response["status"] == end["type"].removeprefix("response.")
        if response["status"] == "failed":
            assert response["error"]
            assert [item["id"] for item in response["output"]] == [item["id"] for item in order.items.values()]
        else:
            assert response["output"] == [order.done[place] for place in order.items]
    assert all(event["response"]["id"] == events[0]["response"]["id"] for event in [*events[:2], *ends])
