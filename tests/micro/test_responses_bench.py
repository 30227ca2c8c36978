"""What the Responses API costs: an event written, framed and hashed, one read and written, and the end that says it all again."""

import json
from hashlib import sha256

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.dialect.events import (
    Done,
    Event,
    Finished,
    Origin,
    Started,
    Text,
    ToolArguments,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.dialect.openai_responses import OpenAIResponses
from tidegate.exchange import Ask, Usage
from tidegate.wire import Frame
from tidegate.wire.sse import SseFramer

ASK = Ask(model="m", stream=True, wants_usage=True, body=b"")
ORIGIN = Origin("req-1", "m", 1, "openai_chat")
TOKEN = Frame(
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":26,'
    b'"item_id":"msg_0508041cc126e1bb0169b52d2314808191b57616d3a8328717","output_index":1,"content_index":0,'
    b'"delta":" tok1","logprobs":[],"obfuscation":"UhEfsZjZrAcLxBp"}\n\n'
)
PIECE = Frame(
    b'event: response.function_call_arguments.delta\ndata: {"type":"response.function_call_arguments.delta",'
    b'"sequence_number":7,"item_id":"fc_68d9303fe7fc819ea999bda43617404203aa6e5a972b3b23","output_index":0,'
    b'"delta":" tok1","obfuscation":"fswZpBw0"}\n\n'
)


def test_an_event_is_written(benchmark: BenchmarkFixture) -> None:
    encoder, events = OpenAIResponses.encoder(ASK, ORIGIN), [Text(0, " tok1")]
    encoder.write([Started("x", "m", 1)])
    assert b'"delta":" tok1"' in benchmark(encoder.write, events)


def test_a_text_frame_is_decoded(benchmark: BenchmarkFixture) -> None:
    decoder = OpenAIResponses.decoder(ASK)
    decoder.feed(TOKEN)
    assert benchmark(decoder.feed, TOKEN) == [Text(0, " tok1")]


def test_a_text_frame_is_decoded_and_encoded(benchmark: BenchmarkFixture) -> None:
    decoder, encoder = OpenAIResponses.decoder(ASK), OpenAIResponses.encoder(ASK, ORIGIN)
    encoder.write(decoder.feed(TOKEN))
    written = benchmark(lambda: encoder.write(decoder.feed(TOKEN)))
    assert b'"delta":" tok1"' in written


def test_a_tool_s_arguments_are_decoded_and_encoded(benchmark: BenchmarkFixture) -> None:
    decoder, encoder = OpenAIResponses.decoder(ASK), OpenAIResponses.encoder(ASK, ORIGIN)
    item = {"type": "function_call", "call_id": "call_1", "name": "tide"}
    begun = {"type": "response.output_item.added", "output_index": 0, "item": item}
    started = decoder.feed(Frame(b"data: " + json.dumps(begun).encode() + b"\n\n"))
    assert started[-1] == ToolCallStarted(0, 0, "call_1", "tide")
    encoder.write(started)
    assert decoder.feed(PIECE) == [ToolArguments(0, 0, " tok1")]
    assert b'"delta":" tok1"' in benchmark(lambda: encoder.write(decoder.feed(PIECE)))


@pytest.mark.parametrize("kilobytes", [1, 10, 100])
def test_an_event_is_framed(benchmark: BenchmarkFixture, kilobytes: int) -> None:
    encoder, events = OpenAIResponses.encoder(ASK, ORIGIN), [Text(0, "x" * kilobytes * 1024)]
    encoder.write([Started("x", "m", 1)])

    def framed() -> int:
        data = encoder.write(events)
        frames = SseFramer().feed(data)
        encoder._held = 0  # the bound on one response is not what is measured
        encoder._open = None
        return len(frames)

    assert benchmark(framed) >= 1


@pytest.mark.parametrize("kilobytes", [1, 10, 100])
def test_a_body_is_hashed(benchmark: BenchmarkFixture, kilobytes: int) -> None:
    events: list[Event] = [
        Started("x", "m", 1),
        Text(0, "x" * kilobytes * 1024),
        Finished(0, "stop"),
        UsageSeen(Usage(3, 9)),
        Done(),
    ]
    body = OpenAIResponses.write_answer(events, ASK, ORIGIN)
    digest = benchmark(lambda: sha256(body).hexdigest())
    assert len(body) > kilobytes * 1024
    assert len(digest) == 64


@pytest.mark.parametrize("kilobytes", [1, 1024])
def test_the_end_says_everything_again(benchmark: BenchmarkFixture, kilobytes: int) -> None:
    """An item's end and the response's: its text four times."""
    end = [Finished(0, "stop"), UsageSeen(Usage(3, 9)), Done()]

    def prepared() -> tuple[tuple[object, ...], dict[str, object]]:
        encoder = OpenAIResponses.encoder(ASK, ORIGIN)
        encoder.write([Started("x", "m", 1), Text(0, "x" * kilobytes * 1024)])
        return (encoder,), {}

    written = benchmark.pedantic(  # type: ignore[no-untyped-call]
        lambda encoder: encoder.write(end), setup=prepared, rounds=20
    )
    assert len(written) > 4 * kilobytes * 1024


def test_frames_that_pass_are_searched(benchmark: BenchmarkFixture) -> None:
    block = TOKEN.raw * 10
    assert benchmark(OpenAIResponses.hit, block, 0) < 0
