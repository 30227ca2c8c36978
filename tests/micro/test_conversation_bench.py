"""What reading and writing a request in translation costs, by the number of its messages."""

import json
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.dialect import ClientDialect
from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.openai_responses import OpenAIResponses

COUNTS = (100, 1_000, 10_000, 100_000)


def body(dialect: ClientDialect, count: int) -> bytes:
    """Give a request whose messages are all the user's: the worst case, as they become one turn."""
    turns = [{"role": "user", "content": "Hello"} for _ in range(count)]
    members: dict[str, Any] = {"model": "m", "max_tokens": 2000, "messages": turns}
    if dialect.name == "openai_responses":
        members = {"model": "m", "input": turns}
    return json.dumps(members).encode()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("dialect", [OpenAIChat(), OpenAIResponses(), Anthropic()], ids=lambda dialect: dialect.name)
def test_a_request_is_read_and_written(benchmark: BenchmarkFixture, dialect: ClientDialect, count: int) -> None:
    request, provider = body(dialect, count), Anthropic()
    written = benchmark.pedantic(  # type: ignore[no-untyped-call]
        lambda: provider.write_conversation(dialect.read_conversation(request), "m"), rounds=3, iterations=1
    )
    assert len(json.loads(written.body)["messages"]) == 1
