import os

import pytest

from tidegate.bench import scenario_names
from tidegate.bench.figures import SCENARIOS
from tidegate.bench.load import Order, Tally
from tidegate.bench.measure import MismeasuredError
from tidegate.bench.scenarios import Sample, Unpaced, Watch, _check_spread, fitting
from tidegate.bench.targets import Target


def watch(*samples: Sample) -> Watch:
    looking = Watch(Target("it", 0, (os.getpid(),), 0.0, 0))
    looking.samples += samples
    return looking


def sample(live: int, events: int, spent_us: int) -> Sample:
    return Sample(live=live, events=events, spent_ns=spent_us * 1000, rss_bytes=0)


def test_scenarios_have_names_of_their_own_and_figures() -> None:
    assert len(set(scenario_names())) == len(SCENARIOS)
    assert all(scenario.figures for scenario in SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.name))
def test_every_figure_is_read_off_a_variant_that_is_run(scenario: object) -> None:
    (found,) = [known for known in SCENARIOS if known is scenario]
    for figure in found.figures:
        assert figure.of in found.variants
        against = figure.against or {"ratio": "nginx", "added": "direct"}.get(figure.judged, figure.of)
        assert against in found.variants
        assert (figure.must is None) == (figure.aim is None)


def test_the_steady_cost_leaves_out_what_happened_while_streams_came_and_went() -> None:
    looking = watch(
        sample(9, 100, 9000),
        sample(10, 200, 10_000),
        sample(10, 300, 11_000),
        sample(10, 600, 14_000),
        sample(3, 650, 20_000),
    )
    assert looking.steady_us(10) == 10.0


def test_streams_that_were_never_open_together_are_not_measured_as_if() -> None:
    with pytest.raises(MismeasuredError, match="9 at most"):
        watch(sample(9, 100, 9000), sample(9, 200, 10_000)).steady_us(10)
    with pytest.raises(MismeasuredError):
        watch(sample(10, 100, 9000)).steady_us(10)


def test_events_that_came_together_spoil_a_paced_run() -> None:
    order = Order(port=0, request=b"", events=1, connections=1, streams=1, ramp_s=0.0, deadline_s=1.0)
    tally = Tally(order)
    tally.events, tally.joined = 1000, 50
    _check_spread(tally)
    tally.joined = 51
    with pytest.raises(MismeasuredError, match="51 of 1000 events"):
        _check_spread(tally)


@pytest.mark.parametrize(
    ("requests", "bytes_each", "started"),
    [(100, 500.0, 99), (100, 500.0, 111), (100, 499.0, 100)],
    ids=["the mock saw fewer", "the mock saw more than were open", "answers were cut"],
)
def test_a_run_in_which_wrk_and_the_mock_disagree_does_not_count(
    requests: int, bytes_each: float, started: int
) -> None:
    load = Unpaced(connections=10)
    load._check(100, 500.0, 500, 110)
    with pytest.raises(MismeasuredError):
        load._check(requests, bytes_each, 500, started)


@pytest.mark.parametrize(("files", "streams"), [(65_536, 10_000), (20_128, 10_000), (20_000, 9936), (1024, 448)])
def test_no_more_streams_are_opened_than_a_proxy_has_descriptors_for(files: int, streams: int) -> None:
    assert fitting(10_000, files) == streams
