"""What Bedrock costs: a text delta through the event model, a chunk made a server-sent event, and a signature."""

import base64
import json
import time

from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.dialect.bedrock import BedrockConverse, InvokeFramer
from tidegate.dialect.events import Origin, Text
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.exchange import Ask
from tidegate.tasks import Tasks
from tidegate.upstream.sigv4 import AwsKeys, AwsSigner, segment
from tidegate.wire.eventstream import EventStreamFramer, Message, encode

ASK = Ask(model="m", stream=True, wants_usage=True, body=b"")
HEADERS = {":content-type": "application/json", ":message-type": "event"}
DELTA = encode(
    {":event-type": "contentBlockDelta", **HEADERS},
    b'{"contentBlockIndex":0,"delta":{"text":" tok1"},"p":"abcdefghijklmnopqrstuvwxyzABCDEFGH"}',
)
SAID = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" tok1"}}'
CHUNK = encode(
    {":event-type": "chunk", **HEADERS},
    json.dumps({"bytes": base64.b64encode(SAID).decode(), "p": "abcdefghijklm"}).encode(),
)
URL = f"https://bedrock-runtime.us-east-1.amazonaws.com/model/{segment('anthropic.claude-3:0')}/converse-stream"
SIGNED = {"content-type": "application/json", "accept": "*/*", "x-request-id": "0123456789abcdef"}


def test_a_text_delta_is_decoded(benchmark: BenchmarkFixture) -> None:
    decoder, message = BedrockConverse.decoder(ASK), Message(DELTA)
    decoder.feed(message)
    assert benchmark(decoder.feed, message) == (Text(0, " tok1"),)


def test_a_text_delta_is_framed_decoded_and_encoded(benchmark: BenchmarkFixture) -> None:
    framer, decoder = EventStreamFramer(), BedrockConverse.decoder(ASK)
    encoder = OpenAIChat.encoder(ASK, Origin("r1", "m", 1, "bedrock"))

    def one() -> bytes:
        return b"".join(encoder.write(decoder.feed(frame)) for frame in framer.feed(DELTA))

    one()
    assert b'" tok1"' in benchmark(one)


def test_a_chunk_of_anthropic_s_is_made_a_server_sent_event(benchmark: BenchmarkFixture) -> None:
    framer = InvokeFramer()
    assert benchmark(framer.take, CHUNK) == b"event: content_block_delta\ndata: %b\n\n" % SAID


def test_a_delta_of_a_mebibyte_is_decoded(benchmark: BenchmarkFixture) -> None:
    payload = b'{"contentBlockIndex":0,"delta":{"text":"%b"}}' % (b"tide " * 210_000)
    large = encode({":event-type": "contentBlockDelta", **HEADERS}, payload)
    framer, decoder = EventStreamFramer(), BedrockConverse.decoder(ASK)
    said = benchmark(lambda: [decoder.feed(frame) for frame in framer.feed(large)])
    assert len(said) == 1


def test_a_request_is_signed(benchmark: BenchmarkFixture) -> None:
    signer = AwsSigner("us-east-1", AwsKeys("AKIA", "secret", "token"), Tasks(), time.time)
    (name, _), *_ = benchmark(signer.sign, "POST", URL, SIGNED, b"x" * 2000)
    assert name == "authorization"


def test_a_request_of_a_megabyte_is_signed(benchmark: BenchmarkFixture) -> None:
    signer = AwsSigner("us-east-1", AwsKeys("AKIA", "secret", "token"), Tasks(), time.time)
    assert benchmark(signer.sign, "POST", URL, SIGNED, b"x" * 1_000_000)
