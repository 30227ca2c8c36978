"""What the numbers of one exchange cost, and what a scrape costs."""

from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.exchange import GAP_BOUNDS_S
from tidegate.observe.metrics import ExchangeSample, Metrics

GAPS = tuple(33 if index == 4 else 0 for index in range(len(GAP_BOUNDS_S) + 1))


def sample_of(model: str) -> ExchangeSample:
    return ExchangeSample(
        route="chat", model=model, provider="main", status=200, code="completed", path="spliced", stream=True,
        first_token_s=0.2, first_frame_s=0.19, generation_s=0.66, stream_s=0.9, overhead_s=0.0003, bytes_out=8000,
        input_tokens=12, output_tokens=34, gaps=GAPS, gap_sum_s=0.66,
    )  # fmt: skip


def page(metrics: Metrics) -> dict[str, str]:
    lines = metrics.render()[0].decode().splitlines()
    return {name: value for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_numbers_of_one_stream(benchmark: BenchmarkFixture) -> None:
    metrics = Metrics(GAP_BOUNDS_S, "0")

    def exchange() -> None:
        metrics.exchange_started()
        metrics.provider_call_started("main")
        metrics.stream_opened("main")
        metrics.exchange_ended(sample_of("small"))
        metrics.stream_closed("main")
        metrics.provider_call_ended("main")

    benchmark(exchange)
    seen = page(metrics)
    started = float(seen["tidegate_exchanges_started_total"])
    assert started > 0
    assert float(seen["tidegate_exchanges_in_flight"]) == 0
    assert float(seen["tidegate_inter_token_seconds_count"]) == 33 * started
    assert float(seen["tidegate_tokens_per_second_count"]) == started


def test_a_scrape_of_twenty_models(benchmark: BenchmarkFixture) -> None:
    metrics = Metrics(GAP_BOUNDS_S, "0")
    for number in range(20):
        metrics.exchange_started()
        metrics.exchange_ended(sample_of(f"model-{number}"))
    body, _ = benchmark(metrics.render)
    assert body.count(b"tidegate_first_token_seconds_count{") == 20
