"""What an event costs from any provider to any client: read and written, a usual piece of text, and one of a MiB.

The limits are 12 µs for the one and 5 ms for the other; both run in the loop.
"""

import base64
import json

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.dialect import Dialect, ProviderDialect
from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.bedrock import BedrockConverse, InvokeFrame
from tidegate.dialect.events import Finished, Origin, Started, Text
from tidegate.dialect.gemini import Gemini
from tidegate.dialect.ollama import Ollama
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.openai_responses import OpenAIResponses
from tidegate.exchange import Ask
from tidegate.wire import Frame, Framed
from tidegate.wire.eventstream import Message, encode
from tidegate.wire.ndjson import NdjsonFramer

ASK = Ask(model="m", stream=True, wants_usage=True, body=b"{}")
CLIENTS: dict[str, Dialect] = {"chat": OpenAIChat(), "responses": OpenAIResponses(), "messages": Anthropic()}
PROVIDERS: dict[str, ProviderDialect] = {
    **CLIENTS,
    "gemini": Gemini(),
    "bedrock": BedrockConverse(),
    "invoke": Anthropic(),
    "ollama": Ollama(),
}
MEBIBYTE = 1 << 20


def frame_of(provider: str, text: str) -> Framed:
    """Give a frame that says a text, as its provider's encoder, or the API's reference, writes it."""
    if provider in CLIENTS:
        encoder = CLIENTS[provider].encoder(ASK, Origin("r", "m", 1, provider))
        encoder.write((Started("r", "m", 1), Text(0, "a")))
        return Frame(encoder.write((Text(0, text),)))
    said = json.dumps(text, ensure_ascii=False).encode()
    match provider:
        case "gemini":
            return Frame(b'data: {"candidates": [{"content": {"parts": [{"text": %b}],"role": "model"},"index": 0}],"usageMetadata": {"promptTokenCount": 9,"candidatesTokenCount": 2,"totalTokenCount": 11},"modelVersion": "gemini-2.5-flash","responseId": "x"}\n\n' % said)  # fmt: skip
        case "bedrock":
            headers = {
                ":event-type": "contentBlockDelta",
                ":content-type": "application/json",
                ":message-type": "event",
            }
            return Message(encode(headers, b'{"contentBlockIndex":0,"delta":{"text":%b},"p":"abcdefgh"}' % said))
        case "invoke":
            delta = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%b}}' % said
            headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
            return InvokeFrame(encode(headers, b'{"bytes":"%b","p":"abc"}' % base64.b64encode(delta)))
        case _:
            line = b'{"model":"m","created_at":"2026-05-04T10:20:30.1Z","message":{"role":"assistant","content":%b},"done":false}\n'
            return NdjsonFramer().feed(line % said)[0]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_piece_of_text_is_read_and_written(benchmark: BenchmarkFixture, provider: str, client: str) -> None:
    frame, first = frame_of(provider, " tok1"), frame_of(provider, "a")
    decoder = PROVIDERS[provider].decoder(ASK)
    encoder = CLIENTS[client].encoder(ASK, Origin("r", "m", 1, PROVIDERS[provider].name))
    encoder.write(decoder.feed(first))
    assert b" tok1" in benchmark(lambda: encoder.write(decoder.feed(frame)))


TEXTS = {"letters": "tide ", "escapes": '"\n', "not ASCII": "潮🌊"}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("provider", ["chat", "bedrock"])
def test_a_mebibyte_of_text_is_read_and_written(
    benchmark: BenchmarkFixture, provider: str, client: str, kind: str
) -> None:
    one = len(json.dumps(TEXTS[kind], ensure_ascii=False).encode()) - 2
    frame = frame_of(provider, TEXTS[kind] * (MEBIBYTE // one))
    assert len(frame.raw) >= MEBIBYTE

    def prepared() -> tuple[tuple[object, ...], dict[str, object]]:
        encoder = CLIENTS[client].encoder(ASK, Origin("r", "m", 1, PROVIDERS[provider].name))
        decoder = PROVIDERS[provider].decoder(ASK)
        encoder.write(decoder.feed(frame_of(provider, "a")))
        return (encoder, decoder), {}

    written = benchmark.pedantic(  # type: ignore[no-untyped-call]
        lambda encoder, decoder: encoder.write(decoder.feed(frame)), setup=prepared, rounds=30
    )
    assert len(written) >= MEBIBYTE


@pytest.mark.parametrize("kind", TEXTS)
def test_the_end_of_a_response_of_a_mebibyte(benchmark: BenchmarkFixture, kind: str) -> None:
    one = len(json.dumps(TEXTS[kind], ensure_ascii=False).encode()) - 2

    def prepared() -> tuple[tuple[object, ...], dict[str, object]]:
        encoder = OpenAIResponses.encoder(ASK, Origin("r", "m", 1, "x"))
        encoder.write((Started("r", "m", 1), Text(0, TEXTS[kind] * (MEBIBYTE // one))))
        return (encoder,), {}

    written = benchmark.pedantic(  # type: ignore[no-untyped-call]
        lambda encoder: encoder.write((Finished(0, "stop"),)), setup=prepared, rounds=30
    )
    assert written is not None
