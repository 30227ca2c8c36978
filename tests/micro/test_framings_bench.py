"""What frames cost that are no server-sent events: lines, elements of an array, messages of AWS."""

import json
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.wire.eventstream import EventStreamFramer, Message, encode
from tidegate.wire.jsonarray import JsonArrayFramer
from tidegate.wire.ndjson import NdjsonFramer

ELEMENT = json.dumps(
    {
        "candidates": [{"content": {"parts": [{"text": " tide"}], "role": "model"}, "index": 0}],
        "usageMetadata": {
            "promptTokenCount": 19,
            "totalTokenCount": 21,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 19}],
        },
        "modelVersion": "gemini-2.0-flash",
        "responseId": "SCIgZ8nQKcKsqtsPpY2x0AQ",
    }
).encode()
NEXT = b",\r\n" + ELEMENT
LINE = (
    b'{"model":"llama3.2","created_at":"2025-03-10T09:15:22.123456789Z","message":{"role":"assistant","content":" tide"},'
    b'"done":false}\n'
)
HEADERS = {":event-type": "contentBlockDelta", ":content-type": "application/json", ":message-type": "event"}
PAYLOAD = b'{"contentBlockIndex":0,"delta":{"text":" tide"},"p":"abcdefghijklmnopqrstuvwxyzABCDEFGH"}'
MESSAGE = encode(HEADERS, PAYLOAD)
MIB = 1 << 20


def begun() -> JsonArrayFramer:
    framer = JsonArrayFramer()
    framer.take(b"[" + ELEMENT)
    return framer


def test_feed_gives_an_element_of_300_bytes(benchmark: BenchmarkFixture) -> None:
    assert 280 <= len(NEXT) <= 320
    (frame,) = benchmark(begun().feed, NEXT)
    assert frame.data == ELEMENT


def test_feed_splits_a_block_of_34_elements(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(begun().feed, NEXT * 34)) == 34


def test_feed_joins_an_element_cut_in_two(benchmark: BenchmarkFixture) -> None:
    framer = begun()

    def halves() -> int:
        return len(framer.feed(NEXT[:100])) + len(framer.feed(NEXT[100:]))

    assert benchmark(halves) == 1


@pytest.mark.parametrize("piece", [b"iVBORw0KGgoAAAANSUhEUgAA", b'said \\"tide\\" and\\nwent '])
def test_a_string_of_a_mebibyte_is_passed_over(benchmark: BenchmarkFixture, piece: bytes) -> None:
    string = piece * (MIB // len(piece))
    chunks = [b'[{"a":"', *(string[at : at + 65536] for at in range(0, len(string), 65536)), b'"}]']

    def pass_over() -> int:
        framer = JsonArrayFramer()
        return sum(len(framer.feed(chunk)) for chunk in chunks)

    assert benchmark(pass_over) == 1


def test_feed_gives_a_line(benchmark: BenchmarkFixture) -> None:
    (frame,) = benchmark(NdjsonFramer().feed, LINE)
    assert frame.data == LINE[:-1]


def test_feed_splits_a_block_of_34_lines(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(NdjsonFramer().feed, LINE * 34)) == 34


def test_feed_checks_and_gives_a_message(benchmark: BenchmarkFixture) -> None:
    (frame,) = benchmark(EventStreamFramer().feed, MESSAGE)
    assert frame.data == PAYLOAD


def test_feed_splits_a_block_of_34_messages(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(EventStreamFramer().feed, MESSAGE * 34)) == 34


def test_the_three_headers_of_a_message_are_read(benchmark: BenchmarkFixture) -> None:
    frame = Message(MESSAGE)
    read: Callable[[], object] = lambda: frame.headers  # noqa: E731 (a property cannot be handed over)
    assert benchmark(read) == HEADERS


def test_a_message_is_written(benchmark: BenchmarkFixture) -> None:
    assert benchmark(encode, HEADERS, PAYLOAD) == MESSAGE
