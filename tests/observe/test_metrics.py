"""The metrics page, read back with the parsers that Prometheus' own client brings."""

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tidegate.observe.metrics import ExchangeSample, Metrics

GAP_BOUNDS_S = (0.01, 0.1, 1.0)
FULL = ExchangeSample(
    route="chat",
    model="small",
    provider="main",
    status=200,
    code="completed",
    path="spliced",
    stream=True,
    first_token_s=0.25,
    first_frame_s=0.2,
    generation_s=2.0,
    stream_s=2.5,
    overhead_s=0.0003,
    blocked_s=0.5,
    bytes_out=4096,
    input_tokens=12,
    output_tokens=41,
    cached_tokens=8,
    cache_write_tokens=3,
    reasoning_tokens=5,
    gaps=(1, 38, 1, 0),
    gap_sum_s=2.0,
)
BARE = ExchangeSample(route="chat", model="", provider="", status=404, code="unknown_model")


def made() -> Metrics:
    return Metrics(GAP_BOUNDS_S, "1.2.3")


def values(metrics: Metrics) -> dict[str, float]:
    """Give every sample of the text page, as `name{label="value"}` with the labels in their alphabet's order."""
    return dict(_samples(metrics.render()[0].decode()))


def _samples(page: str) -> Iterator[tuple[str, float]]:
    for family in parse_text(page):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            yield f"{sample.name}{{{labels}}}", sample.value


def parse_openmetrics(page: str) -> Iterator[Metric]:
    families: Iterator[Metric] = text_string_to_metric_families(page)  # type: ignore[no-untyped-call]
    return families


def record(metrics: Metrics, sample: ExchangeSample) -> None:
    metrics.exchange_started()
    metrics.exchange_ended(sample)


def test_a_finished_stream_adds_to_every_metric_it_has_a_value_for() -> None:
    metrics = made()
    record(metrics, FULL)
    seen = values(metrics)
    target = 'model="small",provider="main"'
    expected = {
        "tidegate_exchanges_started_total{}": 1,
        "tidegate_exchanges_in_flight{}": 0,
        'tidegate_requests_total{code="completed",model="small",provider="main",route="chat",status="200"}': 1,
        'tidegate_path_total{path="spliced"}': 1,
        f"tidegate_first_token_seconds_sum{{{target}}}": 0.25,
        f'tidegate_first_token_seconds_bucket{{le="0.2",{target}}}': 0,
        f'tidegate_first_token_seconds_bucket{{le="0.5",{target}}}': 1,
        "tidegate_first_frame_seconds_sum{}": 0.2,
        'tidegate_first_frame_seconds_bucket{le="0.2"}': 1,
        "tidegate_generation_seconds_sum{}": 2.0,
        "tidegate_stream_seconds_sum{}": 2.5,
        "tidegate_gateway_overhead_seconds_sum{}": 0.0003,
        "tidegate_tokens_per_second_sum{}": 20.0,
        'tidegate_tokens_per_second_bucket{le="10.0"}': 0,
        'tidegate_tokens_per_second_bucket{le="20.0"}': 1,
        "tidegate_client_blocked_seconds_total{}": 0.5,
        "tidegate_stream_bytes_total{}": 4096,
        f'tidegate_tokens_total{{kind="input",{target}}}': 12,
        f'tidegate_tokens_total{{kind="output",{target}}}': 41,
        f'tidegate_tokens_total{{kind="cached",{target}}}': 8,
        f'tidegate_tokens_total{{kind="cache_write",{target}}}': 3,
        f'tidegate_tokens_total{{kind="reasoning",{target}}}': 5,
        'tidegate_inter_token_seconds_bucket{le="0.01"}': 1,
        'tidegate_inter_token_seconds_bucket{le="0.1"}': 39,
        'tidegate_inter_token_seconds_bucket{le="+Inf"}': 40,
        "tidegate_inter_token_seconds_count{}": 40,
        "tidegate_inter_token_seconds_sum{}": 2.0,
    }
    assert {name: seen.get(name) for name in expected} == expected


def test_a_refused_exchange_is_counted_as_a_request_and_measured_as_nothing() -> None:
    metrics = made()
    record(metrics, BARE)
    seen = values(metrics)
    assert seen['tidegate_requests_total{code="unknown_model",model="",provider="",route="chat",status="404"}'] == 1
    measured = {name for name, value in seen.items() if value and name.startswith("tidegate_") and "_count{" in name}
    assert measured == set()
    assert not any(name.startswith(("tidegate_path_total", "tidegate_tokens_total")) for name in seen)


def test_the_buckets_of_two_streams_are_merged() -> None:
    metrics = made()
    record(metrics, FULL)
    record(metrics, FULL)
    seen = values(metrics)
    assert seen["tidegate_inter_token_seconds_count{}"] == 80
    assert seen['tidegate_inter_token_seconds_bucket{le="0.01"}'] == 2


def test_gaps_of_other_buckets_are_refused() -> None:
    metrics = made()
    metrics.exchange_started()
    with pytest.raises(ValueError, match="2 buckets"):
        metrics.exchange_ended(
            ExchangeSample(route="chat", model="", provider="", status=200, code="completed", stream=True, gaps=(1, 2))
        )


def test_a_reply_that_came_out_of_a_buffer_has_no_speed() -> None:
    metrics = made()
    burst = ExchangeSample(
        route="chat", model="small", provider="main", status=200, code="completed", stream=True,
        generation_s=0.000_01, output_tokens=34,
    )  # fmt: skip
    record(metrics, burst)
    seen = values(metrics)
    assert seen["tidegate_generation_seconds_count{}"] == 1
    assert seen["tidegate_tokens_per_second_count{}"] == 0


def test_buckets_reach_from_a_millisecond_to_two_minutes() -> None:
    metrics = made()
    record(metrics, FULL)
    bounds = {
        name.partition('le="')[2].partition('"')[0]
        for name in values(metrics)
        if name.startswith("tidegate_stream_seconds_bucket")
    }
    assert {"0.001", "120.0", "+Inf"} <= bounds


def test_gauges_follow_calls_and_streams_and_keep_their_series_at_zero() -> None:
    metrics = made()
    metrics.provider_call_started("main")
    metrics.provider_call_started("main")
    metrics.provider_call_started("other")
    metrics.stream_opened("main")
    seen = values(metrics)
    assert seen['tidegate_provider_calls_in_flight{provider="main"}'] == 2
    assert seen['tidegate_provider_calls_in_flight{provider="other"}'] == 1
    assert seen['tidegate_streams_in_flight{provider="main"}'] == 1
    metrics.stream_closed("main")
    metrics.provider_call_ended("main")
    metrics.provider_call_ended("main")
    metrics.provider_call_ended("other")
    seen = values(metrics)
    assert seen['tidegate_provider_calls_in_flight{provider="main"}'] == 0
    assert seen['tidegate_streams_in_flight{provider="main"}'] == 0


def test_what_others_know_is_asked_for_at_each_scrape() -> None:
    metrics = made()
    known = {"connections": 3, "buffered": 1024, "dropped": 7}
    metrics.watch_connections(lambda: known["connections"])
    metrics.watch_buffered(lambda: known["buffered"])
    metrics.watch_dropped_lines(lambda: known["dropped"])
    metrics.watch(
        "tidegate_pools", "Pools.", ("provider", "state"), lambda: ((("main", "idle"), 5), (("main", "in_use"), 2))
    )
    seen = values(metrics)
    assert seen["tidegate_connections_active{}"] == 3
    assert seen["tidegate_buffered_bytes{}"] == 1024
    assert seen["tidegate_log_lines_dropped_total{}"] == 7
    assert seen['tidegate_pools{provider="main",state="in_use"}'] == 2
    assert seen['tidegate_pools{provider="main",state="idle"}'] == 5
    known["connections"] = 0
    assert values(metrics)["tidegate_connections_active{}"] == 0


def test_the_page_tells_about_the_build_and_the_process() -> None:
    seen = values(made())
    builds = [name for name in seen if name.startswith("tidegate_build_info")]
    assert len(builds) == 1
    assert 'version="1.2.3"' in builds[0]
    assert seen["process_resident_memory_bytes{}"] > 0
    assert seen["process_open_fds{}"] > 0
    assert seen["process_cpu_seconds_total{}"] > 0


@pytest.mark.parametrize("version", ["1.0.0", "0.0.1", "new", "9"])
def test_openmetrics_is_given_to_whoever_accepts_it(version: str) -> None:
    accept = f"application/openmetrics-text; version={version}; charset=utf-8, text/plain;q=0.5"
    metrics = made()
    record(metrics, FULL)
    metrics.watch_dropped_lines(lambda: 0)
    page, content_type = metrics.render(accept)
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = {family.name: family for family in parse_openmetrics(page.decode())}
    assert families["tidegate_requests"].type == "counter"
    assert families["tidegate_first_token_seconds"].type == "histogram"
    assert families["tidegate_build"].type == "info"


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "text/plain; version=new", "\x00,;="])
def test_whoever_accepts_anything_else_gets_the_text_format(accept: str) -> None:
    page, content_type = made().render(accept)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert any(family.name == "tidegate_exchanges_started" for family in parse_text(page.decode()))


def test_two_gateways_in_one_process_count_apart() -> None:
    first, second = made(), made()
    record(first, FULL)
    assert values(second)["tidegate_exchanges_started_total{}"] == 0


@given(st.lists(st.sampled_from(["start", "completed", "client_gone"]), max_size=60))
def test_started_is_always_what_ended_and_what_is_in_flight(steps: list[str]) -> None:
    metrics, model = made(), Counter[str]()
    for step in steps:
        if step == "start":
            metrics.exchange_started()
            model["started"] += 1
        elif model["started"] > model["ended"]:
            metrics.exchange_ended(ExchangeSample(route="chat", model="m", provider="p", status=200, code=step))
            model["ended"] += 1
    seen = values(metrics)
    ended = sum(value for name, value in seen.items() if name.startswith("tidegate_requests_total{"))
    assert ended == model["ended"]
    assert (
        seen["tidegate_exchanges_started_total{}"] == model["started"] == ended + seen["tidegate_exchanges_in_flight{}"]
    )
