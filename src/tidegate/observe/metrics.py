"""The numbers operators watch: plain counts that the loop's thread adds to, made into families only when scraped.

Every name, label and bucket of the product stands here. Label values are names from the configuration and rows of the
verdict table; seeing to that is the caller's part. No lock and no clock: everything is called on the loop's thread.
"""

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import add
from typing import Final

from msgspec import Struct
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

STREAM_BOUNDS_S: Final = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0,
)  # fmt: skip
"""Upper bounds, in seconds, of what a provider or a whole stream takes."""
OVERHEAD_BOUNDS_S: Final = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
)  # fmt: skip
"""Upper bounds, in seconds, of the gateway's own time, most of which is under a millisecond."""
RATE_BOUNDS: Final = (5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0, 200.0)
"""Upper bounds of tokens per second."""
BURST_S: Final = 0.001
"""A generation shorter than this came out of a buffer: its tokens per second would be nobody's speed."""
OPENMETRICS: Final = "application/openmetrics-text"
TOKEN_KINDS: Final = ("input", "output", "cached", "reasoning", "cache_write")
"""Values of the label `kind`; cached tokens and those written to a cache are part of the input, reasoning tokens of the output."""


Series = Iterable[tuple[tuple[str, ...], float]]
"""Values of one family, each with its labels' values."""


class ExchangeSample(Struct, frozen=True, kw_only=True, gc=False):
    """What one exchange adds to the numbers. Shape: None for what did not happen; `path` is empty when no body flowed.

    Holds: `gaps[i]` counts the inter-token gaps up to the i-th of the bounds that Metrics was made with, the last is above.
    """

    route: str
    model: str
    provider: str
    status: int
    code: str
    path: str = ""
    refused: bool = False
    error_frame: bool = False
    stream: bool = False
    first_token_s: float | None = None
    first_frame_s: float | None = None
    generation_s: float | None = None
    stream_s: float | None = None
    overhead_s: float | None = None
    blocked_s: float = 0.0
    bytes_out: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
    gaps: Sequence[int] = ()
    gap_sum_s: float = 0.0


class Histogram:
    """Counts and sum of one series. Shape: a value counts in the first bucket whose upper bound it does not exceed."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def merge(self, counts: Sequence[int], total: float) -> None:
        """Add values that were counted elsewhere in the same buckets. Errors: ValueError when the buckets differ."""
        if len(counts) != len(self._counts):
            raise ValueError(f"{len(counts)} buckets cannot be added to {len(self._counts)}")
        self._counts = list(map(add, self._counts, counts))
        self._total += total

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Put this series into a family."""
        buckets: list[tuple[str, float]] = []
        below = 0
        for bound, count in zip((*self._bounds, None), self._counts, strict=True):
            below += count
            buckets.append(("+Inf" if bound is None else str(float(bound)), below))
        family.add_metric(labels, buckets, self._total)


class Counts:
    """Counts of one family, by their labels' values. Shape: values in the order of the labels."""

    __slots__ = ("_documentation", "_labels", "_name", "values")

    def __init__(self, name: str, documentation: str, *labels: str) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self.values: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str) -> None:
        """Count one."""
        self.values[labels] = self.values.get(labels, 0) + 1

    def family(self) -> Metric:
        """Give the family with its present values."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        return family


class _Target:
    """The series of one (provider, model). Shape: tokens in the order of TOKEN_KINDS."""

    __slots__ = ("first_token", "tokens")

    def __init__(self) -> None:
        self.first_token = Histogram(STREAM_BOUNDS_S)
        self.tokens = [0] * len(TOKEN_KINDS)


class Metrics:
    """All metrics of one gateway, in a registry of their own.

    Holds: exchanges started = the sum of `tidegate_requests_total` + exchanges in flight, at every instant.
    """

    def __init__(self, gap_bounds_s: Sequence[float], version: str) -> None:
        self.registry = CollectorRegistry()
        self._version = version
        self._started = 0
        self._in_flight = 0
        self._requests: dict[tuple[str, str, str, int, str], int] = {}
        self._paths: dict[str, int] = {}
        self._targets: dict[tuple[str, str], _Target] = {}
        self._calls: dict[str, int] = {}
        self._streams: dict[str, int] = {}
        self._blocked_s = 0.0
        self._stream_bytes = 0
        self._first_frame = Histogram(STREAM_BOUNDS_S)
        self._gaps = Histogram(gap_bounds_s)
        self._generation = Histogram(STREAM_BOUNDS_S)
        self._stream = Histogram(STREAM_BOUNDS_S)
        self._rate = Histogram(RATE_BOUNDS)
        self._overhead = Histogram(OVERHEAD_BOUNDS_S)
        self._retries = Counts(
            "tidegate_stream_retries_total", "Attempts after one that failed, by how they went.", "provider", "outcome"
        )
        self._fallbacks = Counts("tidegate_fallbacks_total", "Exchanges that went on to another target.", "from", "to")
        self._hedges = Counts("tidegate_hedges_total", "Second attempts beside a late first one.", "outcome")
        self._rejections = Counts(
            "tidegate_stream_concurrency_rejections_total", "Attempts that got no slot.", "provider", "reason"
        )
        self._transitions = Counts(
            "tidegate_breaker_transitions_total", "Changes of breakers.", "provider", "model", "to"
        )
        self._limited = Counts("tidegate_rate_limited_total", "Requests over a limit.", "scope")
        self._refusals = Counts("tidegate_refusals_total", "Exchanges refused before any provider was asked.", "code")
        self._webhooks = Counts("tidegate_webhooks_total", "Webhooks, by what became of them.", "result")
        self._error_frames = 0
        self._slot_wait = Histogram(STREAM_BOUNDS_S)
        self._states: list[tuple[str, str, tuple[str, ...], Callable[[], Series]]] = []
        self._catch_up: Callable[[], None] = _nothing
        self._connections: Callable[[], int] | None = None
        self._buffered: Callable[[], int] | None = None
        self._dropped_lines: Callable[[], int] | None = None
        self.registry.register(_Scrape(self))
        ProcessCollector(registry=self.registry)

    # --- exchanges -------------------------------------------------------------------------------------------------

    def exchange_started(self) -> None:
        """Count an exchange that begins."""
        self._started += 1
        self._in_flight += 1

    def exchange_ended(self, sample: ExchangeSample) -> None:
        """Count an exchange that is over, and all that it came to. Once for each that was started."""
        self._in_flight -= 1
        row = (sample.route, sample.model, sample.provider, sample.status, sample.code)
        self._requests[row] = self._requests.get(row, 0) + 1
        if sample.refused:
            self._refusals.add(sample.code)
        self._error_frames += sample.error_frame
        if sample.path:
            self._paths[sample.path] = self._paths.get(sample.path, 0) + 1
        if sample.overhead_s is not None:
            self._overhead.observe(sample.overhead_s)
        self._blocked_s += sample.blocked_s
        if sample.provider:
            self._count_target(sample)
        if sample.stream:
            self._count_stream(sample)

    def _count_target(self, sample: ExchangeSample) -> None:
        key = (sample.provider, sample.model)
        target = self._targets.get(key)
        if target is None:
            target = self._targets[key] = _Target()
        if sample.first_token_s is not None:
            target.first_token.observe(sample.first_token_s)
        tokens = target.tokens
        tokens[0] += sample.input_tokens
        tokens[1] += sample.output_tokens
        tokens[2] += sample.cached_tokens
        tokens[3] += sample.reasoning_tokens
        tokens[4] += sample.cache_write_tokens

    def _count_stream(self, sample: ExchangeSample) -> None:
        self._stream_bytes += sample.bytes_out
        if sample.first_frame_s is not None:
            self._first_frame.observe(sample.first_frame_s)
        if sample.gaps:
            self._gaps.merge(sample.gaps, sample.gap_sum_s)
        if sample.stream_s is not None:
            self._stream.observe(sample.stream_s)
        generation_s = sample.generation_s
        if generation_s is not None:
            self._generation.observe(generation_s)
            # From the first token to the last there is one token less to wait for.
            if generation_s >= BURST_S and sample.output_tokens > 1:
                self._rate.observe((sample.output_tokens - 1) / generation_s)

    # --- what goes on at providers ---------------------------------------------------------------------------------

    def provider_call_started(self, provider: str) -> None:
        """Count a call that begins at a provider."""
        self._calls[provider] = self._calls.get(provider, 0) + 1

    def provider_call_ended(self, provider: str) -> None:
        """Count a call as over, whether it came to a stream or not."""
        self._calls[provider] -= 1

    def stream_opened(self, provider: str) -> None:
        """Count a stream that is open."""
        self._streams[provider] = self._streams.get(provider, 0) + 1

    def stream_closed(self, provider: str) -> None:
        """Count a stream as over."""
        self._streams[provider] -= 1

    # --- admission and dispatch ------------------------------------------------------------------------------------

    def rate_limited(self, scope: str) -> None:
        """Count a request over a limit."""
        self._limited.add(scope)

    def webhook(self, result: str) -> None:
        """Count what became of a webhook: `sent`, `retried`, `failed`, `refused`, `lost`."""
        self._webhooks.add(result)

    def retried(self, provider: str, outcome: str) -> None:
        """Count an attempt after one that failed: `opened`, `failed`, or `denied` by the budget."""
        self._retries.add(provider, outcome)

    def fell_back(self, source: str, target: str) -> None:
        """Count an exchange that went on to another target."""
        self._fallbacks.add(source, target)

    def hedged(self, outcome: str) -> None:
        """Count a second attempt beside a late first one: `won`, `lost`, `failed` or `denied`."""
        self._hedges.add(outcome)

    def slot_waited(self, seconds: float) -> None:
        """Count a wait that came to a slot."""
        self._slot_wait.observe(seconds)

    def slot_rejected(self, provider: str, reason: str) -> None:
        """Count an attempt that got no slot: `full`, `deadline` or `gone`."""
        self._rejections.add(provider, reason)

    def breaker_changed(self, provider: str, model: str, state: str) -> None:
        """Count a breaker's change."""
        self._transitions.add(provider, model, state)

    # --- what is asked for when scraped ----------------------------------------------------------------------------

    def catch_up_by(self, write: Callable[[], None]) -> None:
        """Take the function that counts what is over and was not counted yet."""
        self._catch_up = write

    def watch_connections(self, count: Callable[[], int]) -> None:
        """Take the function that gives the clients' open connections."""
        self._connections = count

    def watch_buffered(self, count: Callable[[], int]) -> None:
        """Take the function that gives the bytes that wait for clients."""
        self._buffered = count

    def watch_dropped_lines(self, count: Callable[[], int]) -> None:
        """Take the function that gives how many log lines were dropped so far."""
        self._dropped_lines = count

    def watch(self, name: str, documentation: str, labels: tuple[str, ...], series: Callable[[], Series]) -> None:
        """Take the function that gives a gauge's series, each with its labels' values."""
        self._states.append((name, documentation, labels, series))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Give the page and its content type. Shape: OpenMetrics where `accept` asks for it, else the text format."""
        # The versions a header may ask for are not passed on: the library fails on those that are no numbers.
        encode, content_type = choose_encoder(OPENMETRICS if OPENMETRICS in accept else "")
        return encode(self.registry), content_type

    # --- families --------------------------------------------------------------------------------------------------

    def families(self) -> Iterator[Metric]:
        """Give every family with its present values."""
        self._catch_up()
        yield InfoMetricFamily(
            "tidegate_build",
            "What runs here.",
            value={"version": self._version, "python": platform.python_version()},
        )
        yield from self._exchange_families()
        yield from self._provider_families()
        yield from self._time_families()
        yield from self._dispatch_families()
        yield from self._watched_families()

    def _exchange_families(self) -> Iterator[Metric]:
        yield _count("tidegate_exchanges_started_total", "Exchanges that began.", self._started)
        yield _gauge("tidegate_exchanges_in_flight", "Exchanges that began and are not over.", self._in_flight)
        requests = CounterMetricFamily(
            "tidegate_requests_total",
            "Exchanges that are over, by how they ended.",
            labels=("route", "model", "provider", "status", "code"),
        )
        for (route, model, provider, status, code), count in self._requests.items():
            requests.add_metric((route, model, provider, str(status), code), count)
        yield requests
        paths = CounterMetricFamily(
            "tidegate_path_total", "Exchanges by the road their bytes took to the client.", labels=("path",)
        )
        for path, count in self._paths.items():
            paths.add_metric((path,), count)
        yield paths
        yield _count("tidegate_stream_bytes_total", "Bytes of streams written to clients.", self._stream_bytes)
        yield _count(
            "tidegate_client_blocked_seconds_total", "Time providers were held back for slow clients.", self._blocked_s
        )

    def _provider_families(self) -> Iterator[Metric]:
        yield _gauges("tidegate_streams_in_flight", "Open streams.", self._streams)
        yield _gauges("tidegate_provider_calls_in_flight", "Calls from their start to their end.", self._calls)
        labels = ("provider", "model")
        first = HistogramMetricFamily(
            "tidegate_first_token_seconds", "Streams: from the request to the first content.", labels=labels
        )
        tokens = CounterMetricFamily(
            "tidegate_tokens_total",
            "Tokens. Cached ones are part of the input, reasoning ones part of the output.",
            labels=(*labels, "kind"),
        )
        for names, target in self._targets.items():
            target.first_token.add_to(first, names)
            for kind, count in zip(TOKEN_KINDS, target.tokens, strict=True):
                tokens.add_metric((*names, kind), count)
        yield first
        yield tokens

    def _time_families(self) -> Iterator[Metric]:
        for name, documentation, histogram in (
            ("first_frame_seconds", "Streams: from the request to the first frame of any kind.", self._first_frame),
            ("inter_token_seconds", "Streams: between two frames with content.", self._gaps),
            ("generation_seconds", "Streams: from the first token to the last.", self._generation),
            ("stream_seconds", "Streams: from the request to the end of its stream.", self._stream),
            ("tokens_per_second", "Streams: output tokens by the time they took to generate.", self._rate),
            (
                "gateway_overhead_seconds",
                "The gateway's own time: before the request left, and after the first content came.",
                self._overhead,
            ),
        ):
            family = HistogramMetricFamily(f"tidegate_{name}", documentation, labels=())
            histogram.add_to(family, ())
            yield family

    def _dispatch_families(self) -> Iterator[Metric]:
        for counts in (
            self._retries,
            self._fallbacks,
            self._hedges,
            self._rejections,
            self._transitions,
            self._limited,
            self._refusals,
            self._webhooks,
        ):
            yield counts.family()
        yield _count(
            "tidegate_stream_error_frames_total", "Streams that ended with an error frame.", self._error_frames
        )
        waits = HistogramMetricFamily("tidegate_slot_wait_seconds", "Waits that came to a slot.", labels=())
        self._slot_wait.add_to(waits, ())
        yield waits
        for name, documentation, labels, series in self._states:
            family = GaugeMetricFamily(name, documentation, labels=labels)
            for values, value in series():
                family.add_metric(values, value)
            yield family

    def _watched_families(self) -> Iterator[Metric]:
        if self._connections is not None:
            yield _gauge("tidegate_connections_active", "Open connections of clients.", self._connections())
        if self._buffered is not None:
            yield _gauge("tidegate_buffered_bytes", "Bytes held for streams and requests.", self._buffered())
        if self._dropped_lines is not None:
            yield _count(
                "tidegate_log_lines_dropped_total", "Log lines that nobody took in time.", self._dropped_lines()
            )


class _Scrape:
    """The Collector that the registry asks; a class of its own, so that `collect` is no part of Metrics' interface."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.families()


def _nothing() -> None:
    """Leave all as it is."""


def _count(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(name, documentation, value=value)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def _gauges(name: str, documentation: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=("provider",))
    for provider, value in values.items():
        family.add_metric((provider,), value)
    return family
