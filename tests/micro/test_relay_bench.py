import asyncio
import time

from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.relay.meter import Meter
from tidegate.relay.relay import Relay, RelayRules
from tidegate.testing.memory import MemoryClient, MemorySource, open_stream
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
RULES = RelayRules(
    dialect=OpenAIChat(), framer=SseFramer, clock=time.monotonic, heartbeat_s=15, slow_client_s=30, finishes=False
)


def test_200_tokens_end_to_end_in_memory(benchmark: BenchmarkFixture) -> None:
    """One write a token, as a paced stream comes: framer, meter, stamps, gap buckets, ending, usage."""
    loop = asyncio.new_event_loop()

    def stream() -> tuple[MemoryClient, Relay]:
        source = MemorySource(TOKENS[0])
        opened = open_stream(source, time.monotonic())
        client = MemoryClient()
        relay = Relay(client, opened, opened.attempt.admitted.arrival.outcome, RULES)
        source.attach(relay)
        for token in TOKENS[1:]:
            relay.write(token)
        for frame in LAST:
            relay.write(frame)
        return client, relay

    async def timed() -> tuple[MemoryClient, Relay]:
        result: tuple[MemoryClient, Relay] = benchmark(stream)
        return result

    try:
        client, _ = loop.run_until_complete(timed())
    finally:
        loop.close()
    assert b"".join(client.written) == b"".join([*TOKENS, *LAST])
    assert client.ending is not None
    assert client.ending.verdict.code == "completed"


def test_the_meter_reads_along_with_a_block_of_34_frames(benchmark: BenchmarkFixture) -> None:
    block = b"".join([*TOKENS[:31], *LAST])

    def observe() -> Meter:
        meter = Meter(OpenAIChat(), strips_usage=False)
        assert meter.observe(block) is block
        return meter

    meter = benchmark(observe)
    assert meter.done
    assert meter.usage is not None
    assert meter.usage.output_tokens == 200
