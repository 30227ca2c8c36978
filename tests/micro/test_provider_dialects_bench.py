"""What a frame costs that comes from a provider of another dialect: decoded, and written for a client of chat completions."""

import json
import time

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.dialect import ProviderDialect
from tidegate.dialect.events import Origin, Text
from tidegate.dialect.gemini import Gemini
from tidegate.dialect.ollama import Ollama
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.exchange import Ask
from tidegate.wire import Frame, Framed
from tidegate.wire.jsonarray import Element
from tidegate.wire.ndjson import Line

ASK = Ask(model="m", stream=True, wants_usage=True, body=b"")
ORIGIN = Origin("r", "m", 1, "gemini")
ANSWER = (
    b'{"candidates": [{"content": {"parts": [{"text": " tok%d"}],"role": "model"},"index": 0}],"usageMetadata": '
    b'{"promptTokenCount": 9,"candidatesTokenCount": 2,"totalTokenCount": 42,"promptTokensDetails": [{"modality": "TEXT",'
    b'"tokenCount": 9}],"thoughtsTokenCount": 31},"modelVersion": "gemini-2.5-flash","responseId": "mAoUaZ3eJ8n4xN8P1bqR"}'
)
PIECE = (
    b'{"model":"qwen3:8b","created_at":"2026-05-04T10:20:30.499127123Z","message":{"role":"assistant","content":" tok%d"},'
    b'"done":false}'
)
FRAMES: dict[str, tuple[ProviderDialect, list[Framed]]] = {
    "gemini_sse": (Gemini(), [Frame(b"data: " + ANSWER % number + b"\r\n\r\n") for number in (0, 1)]),
    "gemini_array": (Gemini(), [Element(b",\r\n" + ANSWER % number) for number in (0, 1)]),
    "ollama": (Ollama(), [Line(PIECE % number + b"\n") for number in (0, 1)]),
}
TEXT_BYTES = 1 << 20
MOST_S = 0.005


@pytest.mark.parametrize("name", FRAMES)
def test_a_text_frame_is_decoded(benchmark: BenchmarkFixture, name: str) -> None:
    dialect, (first, second) = FRAMES[name]
    decoder = dialect.decoder(ASK)
    decoder.feed(first)
    assert list(benchmark(decoder.feed, second))[-1] == Text(0, " tok1")


@pytest.mark.parametrize("name", FRAMES)
def test_a_text_frame_is_decoded_and_encoded(benchmark: BenchmarkFixture, name: str) -> None:
    dialect, (first, second) = FRAMES[name]
    decoder, encoder = dialect.decoder(ASK), OpenAIChat().encoder(ASK, ORIGIN)
    encoder.write(decoder.feed(first))
    written = benchmark(lambda: encoder.write(decoder.feed(second)))
    assert written.count(b'"content":" tok1"') == 1


@pytest.mark.parametrize("part", ["text", "functionCall"])
def test_a_frame_of_1_mib_does_not_hold_others_up(benchmark: BenchmarkFixture, part: str) -> None:
    long = "tide " * (TEXT_BYTES // 5)
    said = {"text": long} if part == "text" else {"functionCall": {"name": "tide", "args": {"text": long}}}
    frame = Line(json.dumps({"candidates": [{"content": {"parts": [said]}}]}).encode())

    def took() -> float:
        decoder = Gemini().decoder(ASK)
        began = time.perf_counter()
        decoder.feed(frame)
        return time.perf_counter() - began

    assert min(benchmark(took), *(took() for _ in range(5))) < MOST_S
