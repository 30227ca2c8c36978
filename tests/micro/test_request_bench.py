"""What a request costs. Published, in Rust: validation of 10 and 50 parsed messages 16 and 54 ns, SHA-256 of 10 KB 28.5 µs.

Ours begin with bytes: the parsing is in them.
"""

import hashlib
import json

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.dialect.openai_chat import OpenAIChat


def body_of(
    count: int, text: str = "What do the tides owe to the moon, and what to the shape of the sea floor?"
) -> bytes:
    messages = [{"role": ("user", "assistant")[number % 2], "content": text} for number in range(count)]
    members = {"model": "gpt-4o-mini", "messages": messages, "temperature": 0.7, "max_tokens": 400, "stream": True}
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize("count", [10, 50])
def test_read_request_validates_messages(benchmark: BenchmarkFixture, count: int) -> None:
    ask = benchmark(OpenAIChat.read_request, body_of(count))
    assert (ask.model, ask.stream, ask.body.count(b'"role"')) == ("gpt-4o-mini", True, count)


def test_read_request_validates_messages_that_are_not_ascii(benchmark: BenchmarkFixture) -> None:
    body = body_of(10, "Was verdankt die Flut dem Mond — und was dem Grund der See? Ebbe, Flut, größer, höher.")
    assert benchmark(OpenAIChat.read_request, body).body is body


def test_read_request_tells_a_nested_model_from_a_second_one(benchmark: BenchmarkFixture) -> None:
    body = body_of(10)[:-1] + b',"tools":[{"model":"nested"}]}'
    assert benchmark(OpenAIChat.read_request, body).model == "gpt-4o-mini"


@pytest.mark.parametrize("count", [10, 100])
def test_write_request_splices_model_and_usage(benchmark: BenchmarkFixture, count: int) -> None:
    body = body_of(count)
    written = benchmark(OpenAIChat().write_request, OpenAIChat.read_request(body), "gpt-4o-mini-2024-07-18")
    expected = body.replace(b"4o-mini", b"4o-mini-2024-07-18")[:-1] + b',"stream_options":{"include_usage":true}}'
    assert written == expected


def test_write_request_without_changes_gives_the_body(benchmark: BenchmarkFixture) -> None:
    body = body_of(10)[:-1] + b',"stream_options":{"include_usage":true}}'
    assert benchmark(OpenAIChat().write_request, OpenAIChat.read_request(body), "gpt-4o-mini") is body


def test_hash_of_a_body_of_10_kb(benchmark: BenchmarkFixture) -> None:
    body = body_of(100)[:10_240]
    assert len(body) == 10_240
    digest = benchmark(lambda: hashlib.sha256(body).digest())
    assert digest.hex() == hashlib.new("sha256", body).hexdigest()
