"""What Anthropic's Messages cost: a frame decoded, encoded, searched; and one of a MiB."""

from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.events import Origin, Text
from tidegate.exchange import Ask
from tidegate.wire import Frame

ASK = Ask(model="m", stream=True, wants_usage=True, body=b"")
ORIGIN = Origin("r", "m", 1, "openai_chat")
START = b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","model":"m"}}\n\n'
HEAD = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":'
TOKEN = HEAD + b'" tok1"}}\n\n'
CALL = (
    b"event: content_block_start\n"
    b'data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"a","name":"tide","input":{}}}\n\n'
)
PIECE = TOKEN.replace(b'text_delta","text"', b'input_json_delta","partial_json"')


def test_a_text_frame_is_decoded(benchmark: BenchmarkFixture) -> None:
    decoder, frame = Anthropic.decoder(ASK), Frame(TOKEN)
    decoder.feed(Frame(START))
    assert benchmark(decoder.feed, frame) == (Text(0, " tok1"),)


def test_a_text_frame_is_decoded_and_encoded(benchmark: BenchmarkFixture) -> None:
    decoder, encoder, frame = Anthropic.decoder(ASK), Anthropic.encoder(ASK, ORIGIN), Frame(TOKEN)
    encoder.write(decoder.feed(Frame(START)))
    encoder.write(decoder.feed(frame))
    assert benchmark(lambda: encoder.write(decoder.feed(frame))) == TOKEN


def test_a_tool_s_arguments_are_decoded_and_encoded(benchmark: BenchmarkFixture) -> None:
    decoder, encoder, frame = Anthropic.decoder(ASK), Anthropic.encoder(ASK, ORIGIN), Frame(PIECE)
    encoder.write([*decoder.feed(Frame(START)), *decoder.feed(Frame(CALL))])
    assert benchmark(lambda: encoder.write(decoder.feed(frame))) == PIECE


def test_a_frame_of_a_mebibyte_is_decoded_and_encoded(benchmark: BenchmarkFixture) -> None:
    decoder, encoder = Anthropic.decoder(ASK), Anthropic.encoder(ASK, ORIGIN)
    frame = Frame(HEAD + b'"' + b"tide " * 209_715 + b'"}}\n\n')
    encoder.write(decoder.feed(Frame(START)))
    assert len(benchmark(lambda: encoder.write(decoder.feed(frame)))) > 1 << 20


def test_a_text_frame_is_searched(benchmark: BenchmarkFixture) -> None:
    assert benchmark(Anthropic.hit, TOKEN, 0) == -1
