"""Streams as providers send them, with their oddities: read the same wherever they are cut, and however their lines end."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from conversing import check_grammar, joined
from tidegate.dialect import Dialect, ProviderError
from tidegate.dialect.events import (
    Done,
    Event,
    Failed,
    Finished,
    Origin,
    Reasoning,
    Started,
    Text,
    ToolArguments,
    ToolCallEnded,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.exchange import Ask, Usage
from tidegate.wire.sse import SseFramer

DIALECT: Dialect = OpenAIChat()
GOLDEN = Path(__file__).parents[1] / "golden" / "openai"
ASK = Ask(model="m", stream=True, wants_usage=True, body=b"")
BREST = '{"port": "Brest"}'

SAID: dict[str, list[Event]] = {
    "deepseek": [
        Started("8c1f3d2e-0b7a-4a53-9a41-2f0f7a9c3a10", "deepseek-reasoner", 1741569952),
        Reasoning(0, "潮 rises with the moon"),
        Text(0, "High tide 🌊"),
        Finished(0, "stop"),
        UsageSeen(Usage(18, 46, cached_tokens=16, reasoning_tokens=33)),
        Done(),
    ],
    "mistral": [
        Started("cmpl-5f1c0b7e4d2a", "magistral-medium-latest", 1741569952),
        Reasoning(0, "The moon pulls."),
        Text(0, "Asking."),
        ToolCallStarted(0, 0, "D681PevKs", "tide"),
        ToolArguments(0, 0, BREST),
        ToolCallEnded(0, 0),
        Finished(0, "tool_calls"),
        UsageSeen(Usage(94, 22)),
        Done(),
    ],
    "groq": [
        Started("chatcmpl-f51b2cd2-bef7-417e-964e-a08f0b513c22", "llama-3.3-70b-versatile", 1741569952),
        Reasoning(0, "Short."),
        Text(0, "Low tide"),
        Finished(0, "stop"),
        UsageSeen(Usage(18, 5)),
        Done(),
    ],
    "llamacpp": [
        Started("chatcmpl-VmC0q3bJ2bM5pBmHGP1sIQ1lQm5D2S9x", "qwen3-8b", 1741569952),
        Reasoning(0, "Hm."),
        ToolCallStarted(0, 0, "f2Wd4mTq", "tide"),
        ToolArguments(0, 0, '{"port":"Brest"}'),
        ToolCallEnded(0, 0),
        Finished(0, "tool_calls"),
        UsageSeen(Usage(180, 19)),
        Done(),
    ],
    "ollama": [
        Started("chatcmpl-422", "qwen3:8b", 1741569952),
        Reasoning(0, "Two ports."),
        ToolCallStarted(0, 0, "call_9x1", "tide"),
        ToolArguments(0, 0, '{"port":"Brest"}'),
        ToolCallEnded(0, 0),
        ToolCallStarted(0, 1, "call_9x2", "tide"),
        ToolArguments(0, 1, "{}"),
        ToolCallEnded(0, 1),
        Finished(0, "tool_calls"),
        UsageSeen(Usage(160, 41)),
        Done(),
    ],
    "openrouter": [
        Started("gen-1741569952-kV4mZ7", "anthropic/claude-sonnet-4.5", 1741569952),
        Reasoning(0, "The moon.", "EtUBCkYIBxgC"),
        Text(0, "High tide."),
        Finished(0, "stop"),
        UsageSeen(Usage(194, 40, cached_tokens=20, reasoning_tokens=18, cache_write_tokens=100)),
        Done(),
    ],
    "openrouter-error": [
        Started("gen-1741569952-kV4mZ7", "anthropic/claude-sonnet-4.5", 1741569952),
        Text(0, "Hi"),
        Failed(ProviderError("Provider disconnected unexpectedly", code="502", status=502)),
    ],
    "xai": [
        Started("5b0f9d6c-8c0f-4f0e-9b3c-2e6b1d7e0a11", "grok-4", 1741569952),
        Reasoning(0, "Thinking... "),
        Text(0, "Ebb."),
        Finished(0, "stop"),
        # The provider says 9 tokens of output; 286 of thoughts are in its total alone.
        UsageSeen(Usage(32, 295, cached_tokens=6, reasoning_tokens=286)),
        Done(),
    ],
    "no-done": [
        Started("chatcmpl-7", "m", 1741569952),
        Text(0, "Slack water"),
        Finished(0, "length"),
        Done(),
    ],
}


def replayed(pieces: Sequence[bytes]) -> list[Event]:
    framer, decoder = SseFramer(), DIALECT.decoder(ASK)
    events = [event for piece in pieces for frame in framer.feed(piece) for event in decoder.feed(frame)]
    framer.finish()
    if not isinstance(events[-1], (Done, Failed)):
        events += decoder.finish()
    check_grammar(events)
    return events


@pytest.mark.parametrize("crlf", [False, True], ids=["lf", "crlf"])
@pytest.mark.parametrize("name", SAID)
def test_a_provider_s_stream_is_read_the_same_wherever_it_is_cut(name: str, crlf: bool) -> None:
    data = (GOLDEN / f"{name}.sse").read_bytes()
    data = data.replace(b"\n", b"\r\n") if crlf else data
    whole = replayed([data])
    assert joined(whole) == SAID[name]
    assert replayed([data[at : at + 1] for at in range(len(data))]) == whole
    for cut in range(1, len(data)):
        assert replayed([data[:cut], data[cut:]]) == whole


@pytest.mark.parametrize("name", SAID)
def test_the_raw_road_notices_what_the_events_say(name: str) -> None:
    framer = SseFramer()
    frames = [*framer.feed((GOLDEN / f"{name}.sse").read_bytes())]
    notices = [DIALECT.notice(frame) for frame in frames if DIALECT.hit(frame.raw, 0) >= 0]
    usage = [notice.usage for notice in notices if notice.usage is not None]
    reasons = [notice.finish_reason for notice in notices if notice.finish_reason]
    said = SAID[name]
    assert usage[-1:] == [event.usage for event in said if isinstance(event, UsageSeen)]
    assert [notice.error for notice in notices if notice.error] == [
        event.error for event in said if isinstance(event, Failed)
    ]
    if not isinstance(said[-1], Failed):
        assert reasons == [event.reason for event in said if isinstance(event, Finished)]
        assert any(notice.done for notice in notices) == (name != "no-done")


@pytest.mark.parametrize("name", [name for name in SAID if not name.endswith("error")])
def test_a_provider_s_stream_says_the_same_once_it_was_written_anew(name: str) -> None:
    encoder = DIALECT.encoder(ASK, Origin("r1", "asked", 7, DIALECT.name))
    whole = replayed([(GOLDEN / f"{name}.sse").read_bytes()])
    assert joined(replayed([encoder.write([event]) for event in whole])) == SAID[name]
