"""The scenarios: which load, on whom, what is read off it, what the figures must be. Each run checks what it measured."""

import http.client
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Final

import msgspec
import uvloop
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from tidegate.bench.load import Order, Tally, chat_body, chat_request, play
from tidegate.bench.measure import MismeasuredError, percentile, read_cpu, read_rss_bytes
from tidegate.bench.targets import Stand, Target, exchange, get
from tidegate.bench.wrk import render_script, run_wrk

Values = dict[str, float]

TOKENS: Final = 34
MANY: Final = 10_000
WRK_S: Final = 1
"""wrk counts in whole seconds; in one, the slowest target serves some thousand streams."""
SETTLE_S: Final = 5.0
IDLE_S: Final = 0.5
_STATS_POLL_S: Final = 0.1
_SPARE_FILES: Final = 128
_MOST_JOINED: Final = 0.05
_SLACK: Final = 2


class Size(Struct, frozen=True, kw_only=True):
    """How long everything takes. Shape: events of paced streams say how many seconds they last."""

    closed_streams: int
    ttft_streams: int
    paced_ramp_s: float
    paced_events: int
    many_ramp_s: float
    many_events: int


FULL: Final = Size(
    closed_streams=8000, ttft_streams=1200, paced_ramp_s=2.0, paced_events=160, many_ramp_s=6.0, many_events=13
)
QUICK: Final = Size(
    closed_streams=2000, ttft_streams=400, paced_ramp_s=1.0, paced_events=50, many_ramp_s=6.0, many_events=12
)


class Bench(Struct, frozen=True):
    """What a run needs: the processes, and how long it may take."""

    stand: Stand
    size: Size


class Stats(Struct, frozen=True):
    """The mock's counters."""

    started: int
    completed: int
    cancelled: int
    open: int


def read_stats(bench: Bench, mock: Target) -> Stats:
    """Give the mock's counters once they stand still. Errors: MismeasuredError when they don't, or streams stay open.

    Source: wrk leaves requests behind in sockets and proxies, which are still served when it is gone.
    """
    tls = bench.stand.tls() if mock.name.endswith("-tls") else None
    until = time.perf_counter() + SETTLE_S
    last = None
    while time.perf_counter() < until:
        stats = msgspec.json.decode(get(mock.port, "/stats", tls)[1], type=Stats)
        if stats == last and not stats.open:
            return stats
        last = stats
        time.sleep(_STATS_POLL_S)
    raise MismeasuredError(f"the mock does not come to rest within {SETTLE_S:.0f} s after the load: {last}")


# wrk: as much as goes


class Unpaced(Struct, frozen=True, kw_only=True):
    """A load without pauses. Shape: `events` 0 is a whole answer; `padding` is bytes of prompt."""

    connections: int
    events: int = TOKENS
    padding: int = 0
    sealed: bool = False

    def __call__(self, bench: Bench, variant: str) -> Values:
        """Measure one run. Errors: MismeasuredError."""
        stand, suffix = bench.stand, "-tls" if self.sealed else ""
        target, mock = stand.target(variant + suffix), stand.target("direct" + suffix)
        body = self._body()
        payload_bytes = self._probe(stand, target, body)
        body_path, script = stand.folder / "body.json", stand.folder / "wrk.lua"
        body_path.write_bytes(body)
        script.write_text(render_script(str(body_path), stand.key))
        scheme = "https" if target.name == "direct-tls" else "http"
        before, cpu = read_stats(bench, mock), read_cpu(target.pids)
        report = run_wrk(f"{scheme}://127.0.0.1:{target.port}", script, connections=self.connections, seconds=WRK_S)
        after = read_stats(bench, mock)
        spent_ns = read_cpu(target.pids).spent_since(cpu)
        served = after.completed - before.completed
        self._check(report.requests, report.bytes / report.requests, payload_bytes, after.started - before.started)
        values = {
            "per_s": report.requests / report.duration_us * 1e6,
            "p50_ms": report.p50_us / 1e3,
            "p99_ms": report.p99_us / 1e3,
            "streams": float(served),
        }
        return values if variant == "direct" else values | {"cpu_us": spent_ns / served / 1e3}

    def _body(self) -> bytes:
        script = f"events={self.events}" if self.events else f"tokens={TOKENS}"
        return chat_body(script, stream=bool(self.events), padding=self.padding)

    def _probe(self, stand: Stand, target: Target, body: bytes) -> int:
        """Look at one answer; gives its bytes. Errors: MismeasuredError when it is not what the scenario names."""
        tls = stand.tls() if target.name == "direct-tls" else None
        status, payload = exchange(target.port, "POST", "/v1/chat/completions", body=body, key=stand.key, tls=tls)
        if status != 200:
            raise MismeasuredError(f"{target.name} answers {status}: {payload[:200]!r}")
        if self.events:
            seen = payload.count(b"data: ")
            if seen != self.events or not payload.endswith(b"data: [DONE]\n\n"):
                raise MismeasuredError(f"{target.name} gives {seen} events, not {self.events} that end in [DONE]")
        elif (tokens := msgspec.json.decode(payload)["usage"]["completion_tokens"]) != TOKENS:
            raise MismeasuredError(f"{target.name} gives {tokens} tokens, not {TOKENS}")
        return len(payload)

    def _check(self, requests: int, bytes_each: float, payload_bytes: int, started: int) -> None:
        """Compare what wrk and the mock saw. Errors: MismeasuredError."""
        if not requests <= started <= requests + self.connections:
            raise MismeasuredError(f"wrk finished {requests} requests, the mock began {started}")
        if bytes_each < payload_bytes:
            raise MismeasuredError(f"answers had {bytes_each:.0f} bytes each, a whole one has {payload_bytes}")


# Our own client: streams in time


class Sample(Struct, frozen=True):
    """An instant of a run: what flowed so far and what it took."""

    live: int
    events: int
    spent_ns: int
    rss_bytes: int


class Watch:
    """Looks at a target while it is under load."""

    def __init__(self, target: Target) -> None:
        self._pids = target.pids
        self._cpu = read_cpu(self._pids)
        self.idle_bytes = read_rss_bytes(self._pids)
        self.samples: list[Sample] = []

    def __call__(self, tally: Tally) -> None:
        """Take a sample."""
        self.samples.append(Sample(tally.live, tally.events, self.spent_ns(), read_rss_bytes(self._pids)))

    def spent_ns(self) -> int:
        """Give the CPU since the watch began."""
        return read_cpu(self._pids).spent_since(self._cpu)

    def steady_us(self, streams: int) -> float:
        """Give the CPU per event while all streams were open. Errors: MismeasuredError when they never were."""
        full = [sample for sample in self.samples if sample.live == streams]
        if len(full) < 2 or full[0].events == full[-1].events:
            most = max((sample.live for sample in self.samples), default=0)
            raise MismeasuredError(f"{streams} streams were not open together for long enough: {most} at most")
        return (full[-1].spent_ns - full[0].spent_ns) / (full[-1].events - full[0].events) / 1e3


def _drive(bench: Bench, order: Order, watch: Watch) -> tuple[Tally, Values]:
    """Play a load and check it; gives what it saw and the values that all loads have. Errors: MismeasuredError."""
    mock = bench.stand.target("direct")
    before, mock_cpu, own_s = read_stats(bench, mock), read_cpu(mock.pids), time.process_time()
    tally = uvloop.run(play(order, watch))
    own_s = time.process_time() - own_s + read_cpu(mock.pids).spent_since(mock_cpu) / 1e9
    after = read_stats(bench, mock)
    if tally.failed:
        raise MismeasuredError(f"{tally.failed} of {order.streams} streams failed: {'; '.join(tally.failures)}")
    done = after.completed - before.completed
    if done != order.streams or after.cancelled != before.cancelled:
        raise MismeasuredError(f"{order.streams} streams were seen whole, the mock counts {done}")
    return tally, {
        "streams": float(tally.finished),
        "events": float(tally.events),
        "most_live": float(tally.most_live),
        "per_s": tally.finished / tally.took_s,
        "cpu_us": watch.spent_ns() / tally.finished / 1e3,
        "cpu_event_us": watch.spent_ns() / tally.events / 1e3,
        "load_core_share": own_s / tally.took_s,
        **percentiles("ttft", tally.ttft_s),
        **percentiles("gap", tally.gaps_s),
    }


def percentiles(name: str, seconds: Sequence[float]) -> Values:
    """Give p50 and p99 in milliseconds, under a name."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    return {f"{name}_p{share:.0f}_ms": percentile(ordered, share / 100) * 1e3 for share in (50, 99)}


def _check_spread(tally: Tally) -> None:
    """Find out whether events came one by one. Errors: MismeasuredError."""
    if tally.joined > _MOST_JOINED * tally.events:
        raise MismeasuredError(f"{tally.joined} of {tally.events} events came together with another")


def _without_cpu(variant: str, values: Values) -> Values:
    """Give the values that mean something: what the mock itself uses is nobody's figure."""
    return {name: value for name, value in values.items() if variant != "direct" or not name.startswith("cpu")}


def play_ttft(bench: Bench, variant: str) -> Values:
    """Measure the time to the first content at c=50. Errors: MismeasuredError.

    Source: a small gap between events keeps the mock's random phase (less than one gap) small against what is measured.
    """
    target, streams, events = bench.stand.target(variant), bench.size.ttft_streams, 30
    body = chat_body(f"ttft=20ms&itl=4ms&events={events}")
    order = Order(
        port=target.port, request=chat_request(body, target.port, bench.stand.key), events=events,
        connections=50, streams=streams, ramp_s=0.2, deadline_s=10 + streams * 0.02,
    )  # fmt: skip
    tally, values = _drive(bench, order, Watch(target))
    _check_spread(tally)
    return _without_cpu(variant, values)


def play_roads(bench: Bench, variant: str) -> Values:
    """Measure a road, raw or translated, at c=50 without pauses, with the time to the first byte. Errors: MismeasuredError.

    Shape: a client that asks for usage, as here, is served raw unless the gateway is made to translate.
    """
    target = bench.stand.target("tidegate" if variant == "raw" else "translating")
    streams = bench.size.closed_streams
    order = Order(
        port=target.port, request=chat_request(chat_body(f"events={TOKENS}"), target.port, bench.stand.key),
        events=TOKENS, connections=50, streams=streams, ramp_s=0.05, deadline_s=10 + streams * 0.005, content_at=1,
    )  # fmt: skip
    before = _taken(target, variant)
    _, values = _drive(bench, order, Watch(target))
    if (taken := _taken(target, variant) - before) != streams:
        raise MismeasuredError(f"{taken:.0f} of {streams} streams took the road {variant!r}")
    return values


def _taken(target: Target, road: str) -> float:
    """Give how many exchanges took a road, by the gateway's own metrics."""
    text = get(target.ops_port, "/metrics")[1].decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "tidegate_path_total" and sample.labels.get("path") == road:
                return sample.value
    return 0.0


class Paced(Struct, frozen=True, kw_only=True):
    """Many streams at once, each with its own beat. Shape: `fresh` takes a new process, so that its memory is known."""

    streams: int
    itl_s: float
    ramp_s: Callable[[Size], float]
    events: Callable[[Size], int]
    fresh: bool = False

    def __call__(self, bench: Bench, variant: str) -> Values:
        """Measure one run. Errors: MismeasuredError."""
        streams = fitting(self.streams, bench.stand.files)
        ramp_s, events = self.ramp_s(bench.size), self.events(bench.size)
        stand = bench.stand
        body = chat_body(f"itl={self.itl_s * 1000:.0f}ms&events={events}")
        with stand.fresh(variant) if self.fresh else nullcontext(stand.target(variant)) as target:
            if self.fresh:
                time.sleep(IDLE_S)
            order = Order(
                port=target.port, request=chat_request(body, target.port, stand.key), events=events,
                connections=streams, streams=streams, ramp_s=ramp_s, deadline_s=15 + _SLACK * (ramp_s + events * self.itl_s),
            )  # fmt: skip
            watch = Watch(target)
            tally, values = _drive(bench, order, watch)
            values["cpu_steady_us"] = watch.steady_us(streams)
            values["failed"] = float(tally.failed)
            peak = max(sample.rss_bytes for sample in watch.samples)
            values["rss_stream_kb"] = (peak - watch.idle_bytes) / streams / 1e3
        _check_spread(tally)
        return _without_cpu(variant, values)


def fitting(streams: int, files: int) -> int:
    """Give how many streams a proxy can hold: each takes two descriptors of it."""
    return min(streams, (files - _SPARE_FILES) // 2)


def play_start(bench: Bench, variant: str) -> Values:
    """Measure how long a process takes to get ready, and what it then holds. Errors: MismeasuredError."""
    with bench.stand.fresh(variant) as target:
        time.sleep(IDLE_S)
        return {"ready_s": target.ready_s, "rss_mb": read_rss_bytes(target.pids) / 1e6}


FAILURES: Final = (MismeasuredError, OSError, http.client.HTTPException, msgspec.DecodeError)
"""What a run may raise when it did not measure what it is named after."""
