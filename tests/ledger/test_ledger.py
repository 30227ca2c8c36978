"""Entries, built from outcomes as the rooms leave them, and what the stores make of them."""

import json
import os
import random
import string
from collections.abc import Callable

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import CapturingLogger, capture_logs

from tidegate.exchange import GAP_BOUNDS_S, Arrival, AttemptRecord, Ending, Outcome, Usage
from tidegate.ledger.ledger import Entry, Ledger, LogStore, MemoryStore, MetricsStore, Names, Store
from tidegate.observe.log import FIELDS, Form, configure
from tidegate.observe.metrics import Metrics
from tidegate.verdict import CLIENT_GONE, COMPLETED, CONNECT_REFUSED, TABLE, UNKNOWN_MODEL, UPSTREAM_TRUNCATED

NAMES = Names(frozenset({"chat"}), frozenset({"small"}), frozenset({"main"}))
CANARIES = ("tenant-canary", "sk-header-canary", "prompt-canary")


class Clock:
    """A clock that shows what it is told."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class NoUpload:
    async def read(self, within_s: float = 0.0) -> bytes:
        return b"prompt-canary"


class BrokenStore:
    def add(self, entry: Entry, /) -> None:
        raise RuntimeError("prompt-canary")


def arrived(at: float = 100.0) -> Arrival:
    return Arrival(
        request_id="r-1",
        connection_id=7,
        route="chat",
        headers={b"authorization": b"Bearer sk-header-canary"},
        peer="127.0.0.1",
        body=NoUpload(),
        outcome=Outcome(at),
    )


def streamed() -> Arrival:
    """Give an exchange that had its whole stream, but no ending yet."""
    arrival = arrived()
    outcome = arrival.outcome
    outcome.stream, outcome.model, outcome.key_id, outcome.tenant = True, "small", "alice", "tenant-canary"
    outcome.finish_reason, outcome.path, outcome.prompt_bytes = "stop", "spliced", 400
    outcome.attempts.append(
        AttemptRecord(
            provider="main",
            model="small-2024",
            started_at=100.001,
            connected_at=100.041,
            sent_at=100.042,
            headed_at=100.1,
            framed_at=100.2,
            content_at=100.25,
        )
    )
    flowing = outcome.flowing
    flowing.frames, flowing.bytes_out, flowing.content_bytes = 41, 4096, 160
    flowing.first_write_at, flowing.last_token_at = 100.2505, 102.25
    flowing.gap_max_s, flowing.gap_sum_s, flowing.blocked_s = 0.06, 2.0, 0.5
    flowing.gaps[5] = 40
    outcome.usage = Usage(input_tokens=12, output_tokens=41, cached_tokens=8, reasoning_tokens=5, cache_write_tokens=3)
    return arrival


def completed() -> Arrival:
    arrival = streamed()
    arrival.outcome.end(Ending(COMPLETED), 102.5)
    return arrival


def ledger_of(*stores: Store, metrics: Metrics | None = None, clock: Clock | None = None) -> Ledger:
    return Ledger(
        stores,
        clock=clock or Clock(103.0),
        wall=Clock(1_700_000_003.0),
        log=structlog.get_logger(),
        on_start=metrics.exchange_started if metrics else lambda: None,
    )


def entry_of(arrival: Arrival) -> Entry:
    store = MemoryStore()
    ledger = ledger_of(store)
    ledger.started(arrival)
    ledger.record(arrival, arrival.outcome)
    (entry,) = store.recent()
    return entry


def series(metrics: Metrics) -> dict[str, float]:
    lines = metrics.render()[0].decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if line.startswith("tidegate_"))
    return {name: float(value) for name, _, value in pairs}


def test_an_entry_tells_who_what_where_how_and_when() -> None:
    entry = entry_of(completed())
    told = msgspec.structs.asdict(entry)
    rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in told.items()}
    assert rounded == {
        "request_id": "r-1",
        "connection_id": 7,
        "key_id": "alice",
        "tenant": "tenant-canary",
        "route": "chat",
        "model": "small",
        "provider": "main",
        "upstream_model": "small-2024",
        "stream": True,
        "status": 200,
        "code": "completed",
        "finish_reason": "stop",
        "path": "spliced",
        "usage": Usage(input_tokens=12, output_tokens=41, cached_tokens=8, reasoning_tokens=5, cache_write_tokens=3),
        "attempts": 1,
        "tries": (),
        "started_at": 1_700_000_000.0,
        "duration_s": 2.5,
        "first_frame_s": 0.2,
        "first_token_s": 0.25,
        "generation_s": 2.0,
        "overhead_s": 0.0025,
        "gap_mean_s": 0.05,
        "gap_max_s": 0.06,
        "gap_sum_s": 2.0,
        "gaps": tuple(completed().outcome.flowing.gaps),
        "blocked_s": 0.5,
        "bytes_out": 4096,
    }


def test_the_attempt_that_opened_gives_the_provider_and_the_first_one_the_start() -> None:
    arrival = completed()
    first = AttemptRecord(
        provider="other", model="big", started_at=100.0, connected_at=100.0, sent_at=100.01, verdict=CONNECT_REFUSED
    )
    arrival.outcome.attempts.insert(0, first)
    arrival.outcome.served = arrival.outcome.attempts[1]
    entry = entry_of(arrival)
    assert (entry.provider, entry.upstream_model, entry.attempts) == ("main", "small-2024", 2)
    with capture_logs() as lines:
        LogStore(structlog.get_logger()).add(entry)
    assert lines[0]["tries"].startswith("other=connect_refused main=")
    assert entry.overhead_s == pytest.approx(0.01 + 0.0005)


def test_a_refused_exchange_has_no_provider_no_path_no_times_and_no_tokens() -> None:
    arrival = arrived()
    arrival.outcome.prompt_bytes = 400
    arrival.outcome.end(Ending(UNKNOWN_MODEL), 100.5)
    entry = entry_of(arrival)
    assert (entry.code, entry.status, entry.provider, entry.path, entry.attempts) == ("unknown_model", 404, "", "", 0)
    assert entry.duration_s == 0.5
    assert {entry.first_token_s, entry.first_frame_s, entry.generation_s, entry.overhead_s, entry.gap_mean_s} == {None}
    assert entry.usage == Usage()


def test_an_attempt_that_never_opened_costs_nothing() -> None:
    arrival = arrived()
    arrival.outcome.stream, arrival.outcome.prompt_bytes = True, 400
    arrival.outcome.attempts.append(
        AttemptRecord(provider="main", model="m", started_at=100.0, verdict=CONNECT_REFUSED)
    )
    arrival.outcome.end(Ending(CONNECT_REFUSED), 100.5)
    entry = entry_of(arrival)
    assert (entry.provider, entry.path, entry.first_token_s, entry.overhead_s) == ("main", "", None, None)
    assert entry.usage == Usage(estimated=False)


def test_a_reply_that_is_no_stream_has_no_times_of_tokens() -> None:
    arrival = completed()
    arrival.outcome.stream = False
    entry = entry_of(arrival)
    assert {entry.first_token_s, entry.first_frame_s, entry.generation_s, entry.gap_max_s} == {None}
    assert entry.gaps == ()
    assert entry.path == "spliced"
    assert entry.overhead_s is not None
    assert entry.usage.output_tokens == 41


def test_tokens_of_a_stream_that_ended_early_are_judged_from_its_frames() -> None:
    arrival = streamed()
    arrival.outcome.usage = None
    arrival.outcome.end(Ending(UPSTREAM_TRUNCATED), 102.5, 200)
    entry = entry_of(arrival)
    assert entry.usage == Usage(input_tokens=100, output_tokens=41, estimated=True)
    assert (entry.code, entry.status) == ("upstream_truncated", 200)


@pytest.mark.parametrize("frames", [0, 41])
def test_text_that_is_longer_than_a_token_a_frame_is_judged_by_its_bytes(frames: int) -> None:
    arrival = completed()
    outcome = arrival.outcome
    outcome.usage, outcome.flowing.frames, outcome.flowing.content_bytes = None, frames, 4000
    assert entry_of(arrival).usage == Usage(input_tokens=100, output_tokens=1000, estimated=True)


def test_an_outcome_without_an_ending_is_a_bug_and_is_reported() -> None:
    arrival, store = streamed(), MemoryStore()
    ledger = ledger_of(store)
    ledger.started(arrival)
    with capture_logs() as lines:
        ledger.record(arrival, arrival.outcome)
    (entry,) = store.recent()
    assert (entry.code, entry.status, entry.duration_s) == ("bug", 500, 3.0)
    assert arrival.outcome.ending is not None
    assert lines == [{"event": "exchange without an ending", "request": "r-1", "log_level": "error"}]


def test_entries_are_made_at_once_and_written_together_when_that_is_asked_for() -> None:
    store, metrics, asked = MemoryStore(), Metrics(GAP_BOUNDS_S, "1"), list[Callable[[], None]]()
    ledger = Ledger(
        (store,), clock=Clock(103.0), wall=Clock(1_700_000_003.0), log=structlog.get_logger(), later=asked.append
    )
    metrics.catch_up_by(ledger.write)
    for _ in range(2):
        arrival = completed()
        ledger.started(arrival)
        ledger.record(arrival, arrival.outcome)
        arrival.outcome.status = 418  # too late to be told
    assert (len(ledger), len(asked), store.recent()) == (0, 1, ())
    metrics.render()
    assert [entry.status for entry in store.recent()] == [200, 200]
    asked[0]()
    assert len(store.recent()) == 2
    arrival = completed()
    ledger.started(arrival)
    ledger.record(arrival, arrival.outcome)
    assert (len(asked), len(store.recent())) == (2, 2)


def test_an_exchange_is_written_once() -> None:
    arrival, store = completed(), MemoryStore()
    ledger = ledger_of(store)
    ledger.started(arrival)
    assert len(ledger) == 1
    ledger.record(arrival, arrival.outcome)
    assert len(ledger) == 0
    with capture_logs() as lines:
        ledger.record(arrival, arrival.outcome)
    assert len(store.recent()) == 1
    assert [line["event"] for line in lines] == ["exchange recorded without a start"]


def test_a_store_that_fails_harms_neither_the_others_nor_the_caller() -> None:
    arrival, before, after = completed(), MemoryStore(), MemoryStore()
    ledger = ledger_of(before, BrokenStore(), after)
    ledger.started(arrival)
    with capture_logs() as lines:
        ledger.record(arrival, arrival.outcome)
    assert len(before.recent()) == len(after.recent()) == 1
    assert [(line["event"], line["store"], line["log_level"]) for line in lines] == [
        ("store failed", "BrokenStore", "error")
    ]


def test_the_memory_keeps_the_latest() -> None:
    store, entry = MemoryStore(3), entry_of(completed())
    for number in range(5):
        store.add(msgspec.structs.replace(entry, connection_id=number))
    assert [kept.connection_id for kept in store.recent()] == [2, 3, 4]


def test_an_entry_becomes_one_line_with_what_operators_ask_for() -> None:
    entry = entry_of(completed())
    with capture_logs() as lines:
        LogStore(structlog.get_logger()).add(entry)
    assert lines == [
        {
            "event": "exchange", "log_level": "info", "request": "r-1", "connection": 7, "key": "alice", "route": "chat",
            "model": "small", "provider": "main", "stream": True, "status": 200, "code": "completed",
            "finish_reason": "stop", "path": "spliced", "attempts": 1, "tries": "", "first_token_s": 0.25, "gap_mean_s": 0.05,
            "gap_max_s": 0.06, "input_tokens": 12, "output_tokens": 41, "cached_tokens": 8, "reasoning_tokens": 5, "cache_write_tokens": 3,
            "estimated": False, "bytes": 4096, "duration_s": 2.5,
        }
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_line_of_the_ledger_holds_tenant_prompt_or_key(form: Form) -> None:
    read_fd, write_fd = os.pipe()
    writer = configure(form, write_fd, "debug")
    try:
        ledger = ledger_of(LogStore(structlog.get_logger()), BrokenStore())
        for arrival in (completed(), streamed(), arrived()):
            ledger.started(arrival)
            ledger.record(arrival, arrival.outcome)
            ledger.record(arrival, arrival.outcome)
    finally:
        assert writer.close(10)
        os.close(write_fd)
        structlog.reset_defaults()
    with os.fdopen(read_fd, "rb") as reader:
        written = reader.readlines()
    text = b"".join(written).decode()
    assert text.count("store failed") == 3
    assert text.count("without an ending") == 2
    assert "r-1" in text
    assert not [canary for canary in CANARIES if canary in text]
    if form == "json":
        assert not [line for line in written if "withheld" in json.loads(line)]


def test_every_field_of_the_line_is_a_known_one() -> None:
    capture = CapturingLogger()
    LogStore(structlog.wrap_logger(capture, processors=[lambda _logger, _level, event: event])).add(
        entry_of(completed())
    )
    (call,) = capture.calls
    assert set(call.kwargs) - {"event"} <= FIELDS


def test_an_entry_becomes_numbers() -> None:
    metrics = Metrics(GAP_BOUNDS_S, "0")
    arrival = completed()
    ledger = ledger_of(MetricsStore(metrics, NAMES), metrics=metrics)
    ledger.started(arrival)
    assert series(metrics)["tidegate_exchanges_in_flight"] == 1
    ledger.record(arrival, arrival.outcome)
    seen = series(metrics)
    row = 'code="completed",model="small",provider="main",route="chat",status="200"'
    assert seen["tidegate_exchanges_in_flight"] == 0
    assert seen[f"tidegate_requests_total{{{row}}}"] == 1
    assert seen['tidegate_first_token_seconds_sum{model="small",provider="main"}'] == pytest.approx(0.25)
    assert seen["tidegate_first_frame_seconds_sum"] == pytest.approx(0.2)
    assert seen["tidegate_inter_token_seconds_count"] == 40
    assert seen["tidegate_inter_token_seconds_sum"] == pytest.approx(2.0)
    assert seen['tidegate_inter_token_seconds_bucket{le="0.05"}'] == 40
    assert seen['tidegate_inter_token_seconds_bucket{le="0.02"}'] == 0
    assert seen["tidegate_generation_seconds_sum"] == pytest.approx(2.0)
    assert seen["tidegate_stream_seconds_sum"] == pytest.approx(2.5)
    assert seen["tidegate_tokens_per_second_sum"] == pytest.approx(20.0)
    assert seen["tidegate_gateway_overhead_seconds_sum"] == pytest.approx(0.0025)
    assert seen["tidegate_client_blocked_seconds_total"] == pytest.approx(0.5)
    assert seen["tidegate_stream_bytes_total"] == 4096
    assert seen['tidegate_tokens_total{kind="cached",model="small",provider="main"}'] == 8
    assert seen['tidegate_tokens_total{kind="cache_write",model="small",provider="main"}'] == 3
    assert seen['tidegate_path_total{path="spliced"}'] == 1


def test_a_client_that_left_before_the_first_token_is_in_no_histogram() -> None:
    metrics = Metrics(GAP_BOUNDS_S, "0")
    arrival = streamed()
    arrival.outcome.attempts[0].content_at = arrival.outcome.attempts[0].framed_at = 0.0
    arrival.outcome.end(Ending(CLIENT_GONE), 101.0)
    ledger = ledger_of(MetricsStore(metrics, NAMES), metrics=metrics)
    ledger.started(arrival)
    ledger.record(arrival, arrival.outcome)
    counts = {name: value for name, value in series(metrics).items() if "_count" in name}
    assert counts
    assert not any(counts.values())


def test_names_that_clients_make_up_add_no_series() -> None:
    metrics = Metrics(GAP_BOUNDS_S, "0")
    ledger = ledger_of(MetricsStore(metrics, NAMES), metrics=metrics)
    pick = random.Random(4711)

    def attack(name: str) -> None:
        arrival = completed()
        arrival.route = name
        arrival.outcome.model = arrival.outcome.finish_reason = name
        arrival.outcome.attempts[0].provider = arrival.outcome.attempts[0].model = name
        ledger.started(arrival)
        ledger.record(arrival, arrival.outcome)

    attack("")
    before = set(series(metrics))
    for _ in range(10_000):
        attack("".join(pick.choices(string.printable, k=12)))
    seen = series(metrics)
    assert set(seen) == before
    assert seen['tidegate_requests_total{code="completed",model="",provider="",route="",status="200"}'] == 10_001


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["start", "bug", *TABLE])), max_size=60))
def test_started_is_always_what_was_written_and_what_is_in_flight(steps: list[tuple[int, str]]) -> None:
    metrics, memory = Metrics(GAP_BOUNDS_S, "0"), MemoryStore()
    ledger = ledger_of(MetricsStore(metrics, NAMES), memory, metrics=metrics)
    running: dict[int, Arrival] = {}
    started = 0
    with capture_logs():
        for number, step in steps:
            if step == "start" and number not in running:
                running[number] = arrived()
                ledger.started(running[number])
                started += 1
            elif step != "start" and number in running:
                arrival = running.pop(number)
                if step != "bug":
                    arrival.outcome.end(Ending(TABLE[step]), 101.0)
                ledger.record(arrival, arrival.outcome)
    seen = series(metrics)
    ended = sum(value for name, value in seen.items() if name.startswith("tidegate_requests_total{"))
    assert ended == len(memory.recent()) == started - len(running)
    assert seen["tidegate_exchanges_started_total"] == started
    assert seen["tidegate_exchanges_in_flight"] == len(ledger) == len(running)
