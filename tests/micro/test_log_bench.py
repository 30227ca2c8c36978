"""What a line costs whoever logs it: an exchange's entry, structlog and rendering included, written by the thread."""

import os
from collections.abc import Iterator

import pytest
import structlog
from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.exchange import Arrival, AttemptRecord, Ending, Outcome, Usage
from tidegate.ledger.ledger import Entry, LogStore
from tidegate.observe.log import LogWriter, configure
from tidegate.verdict import COMPLETED


class NoUpload:
    async def read(self, within_s: float = 0.0) -> bytes:
        return b""


def finished() -> Arrival:
    outcome = Outcome(100.0)
    outcome.stream, outcome.model, outcome.key_id, outcome.finish_reason = True, "gpt-4o-mini", "alice", "stop"
    outcome.usage = Usage(input_tokens=12, output_tokens=34)
    outcome.attempts.append(
        AttemptRecord("main", "gpt-4o-mini-2024-07-18", 100.001, sent_at=100.002, framed_at=100.2, content_at=100.2)
    )
    flowing = outcome.flowing
    flowing.frames, flowing.first_write_at, flowing.last_token_at, flowing.gap_sum_s = 34, 100.2003, 100.86, 0.66
    flowing.gaps[4] = 33
    outcome.end(Ending(COMPLETED), 100.9)
    return Arrival("0193d5a0-7c1e-7f3a-9d2b-6a1f00c0ffee", 12345, "chat", {}, "127.0.0.1", NoUpload(), outcome)


@pytest.fixture
def writer() -> Iterator[LogWriter]:
    """Give a log that goes nowhere."""
    fd = os.open(os.devnull, os.O_WRONLY)
    writer = configure("json", fd)
    yield writer
    ended = writer.close(10)
    os.close(fd)
    structlog.reset_defaults()
    assert ended


def test_the_line_of_one_stream(benchmark: BenchmarkFixture, writer: LogWriter) -> None:
    arrival = finished()
    store, entry = LogStore(structlog.get_logger()), Entry.of(arrival, arrival.outcome, 0.0)
    benchmark(store.add, entry)
    assert writer.flush(10)
    # Faster than any device is the loop of a benchmark: some lines may not fit the queue, but none is uncounted.
    assert writer._settled > 0
    assert writer._settled == writer._accepted


def test_the_entry_of_one_stream(benchmark: BenchmarkFixture) -> None:
    arrival = finished()
    entry = benchmark(Entry.of, arrival, arrival.outcome, 0.0)
    assert (entry.code, entry.usage.output_tokens, sum(entry.gaps)) == ("completed", 34, 33)
    assert entry.gap_mean_s == pytest.approx(0.02)
