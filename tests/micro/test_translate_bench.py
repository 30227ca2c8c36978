"""What the translated road costs: a frame through the event model, and a whole stream."""

import asyncio
import time

from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.dialect.events import Origin, Text
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.exchange import Ask, Outcome
from tidegate.relay.relay import RelayRules
from tidegate.relay.translate import TranslatingRelay
from tidegate.testing.memory import MemoryClient, MemorySource, open_stream
from tidegate.wire import Frame
from tidegate.wire.sse import SseFramer

HEAD = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{'
)
TAIL = b'},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
TOKENS = [HEAD + b'"content":" tok%d"' % number + TAIL for number in range(200)]
LAST = (
    HEAD + b'},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n',
    b'data: {"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":200}}\n\n',
    b"data: [DONE]\n\n",
)
ASK = Ask(model="m", stream=True, wants_usage=True, body=b"")
ORIGIN = Origin("request-1", "m", 7, "openai_chat")
RULES = RelayRules(
    dialect=OpenAIChat(), framer=SseFramer, clock=time.monotonic, heartbeat_s=15, slow_client_s=30, finishes=False
)


def test_a_text_frame_is_decoded(benchmark: BenchmarkFixture) -> None:
    decoder, frame = OpenAIChat().decoder(ASK), Frame(TOKENS[1])
    decoder.feed(Frame(TOKENS[0]))
    assert benchmark(decoder.feed, frame) == [Text(0, " tok1")]


def test_a_text_frame_is_decoded_and_encoded(benchmark: BenchmarkFixture) -> None:
    decoder, encoder, frame = OpenAIChat().decoder(ASK), OpenAIChat().encoder(ASK, ORIGIN), Frame(TOKENS[1])
    encoder.write(decoder.feed(Frame(TOKENS[0])))
    written = benchmark(lambda: encoder.write(decoder.feed(frame)))
    assert written.startswith(HEAD + b'"content":" tok1"}')


def test_a_tool_s_arguments_are_decoded_and_encoded(benchmark: BenchmarkFixture) -> None:
    decoder, encoder = OpenAIChat().decoder(ASK), OpenAIChat().encoder(ASK, ORIGIN)
    begun = Frame(HEAD + b'"tool_calls":[{"index":0,"id":"a","function":{"name":"tide"}}]' + TAIL)
    piece = Frame(HEAD + b'"tool_calls":[{"index":0,"function":{"arguments":" tok1"}}]' + TAIL)
    encoder.write(decoder.feed(begun))
    written = benchmark(lambda: encoder.write(decoder.feed(piece)))
    assert written.startswith(HEAD + b'"tool_calls":[{"index":0,"function":{"arguments":" tok1"}}]}')


def test_200_tokens_are_translated_in_memory(benchmark: BenchmarkFixture) -> None:
    """One write a token, as a paced stream comes; the raw road's twin is in test_relay_bench."""

    def stream() -> tuple[MemoryClient, Outcome]:
        source = MemorySource(TOKENS[0])
        opened = open_stream(source, time.monotonic())
        outcome = opened.attempt.admitted.arrival.outcome
        client = MemoryClient()
        relay = TranslatingRelay(client, opened, outcome, RULES, OpenAIChat(), ORIGIN)
        source.attach(relay)
        for token in TOKENS[1:]:
            relay.write(token)
        for frame in LAST:
            relay.write(frame)
        return client, outcome

    async def timed() -> tuple[MemoryClient, Outcome]:
        result: tuple[MemoryClient, Outcome] = benchmark(stream)
        return result

    client, outcome = asyncio.run(timed())
    assert b"".join(client.written).count(b'"content":" tok') == 200
    assert client.ending is not None
    assert (outcome.path, outcome.usage and outcome.usage.output_tokens) == ("translated", 200)
