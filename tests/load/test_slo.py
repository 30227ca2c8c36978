from collections.abc import Sequence

import pytest

from profiles import PROFILES, Profile, Stage
from slo import OBJECTIVES, Sample, find_knee, growth, report

PLAIN = Profile(stages=(Stage(0.0, 10, 100.0),), ends_s=60.0)
RAMP = Profile(stages=(Stage(0.0, 100, 1.0),), ends_s=100.0, knee=True)
RAMP_BY_TEN = Profile(stages=(Stage(0.0, 100, 2.0),), ends_s=50.0, knee=True)


def stream(ttft_s: float | None = 0.12, *, at_s: float = 0.0, took_s: float = 0.7, failure: str = "") -> Sample:
    return Sample(began_s=at_s, took_s=took_s, asked_s=0.1, ttft_s=ttft_s, failure=failure)


def missed(samples: Sequence[Sample]) -> set[str]:
    return {objective.name for objective in OBJECTIVES if not objective.met(samples)}


def test_good_streams_keep_every_objective() -> None:
    assert missed([stream()] * 1000) == set()


def test_a_test_without_streams_misses_every_objective() -> None:
    assert missed([]) == {objective.name for objective in OBJECTIVES}


@pytest.mark.parametrize(
    ("slow", "ttft_s", "names"),
    [
        (490, 0.5, set()),
        (510, 0.5, {"TTFT p50"}),
        (40, 1.5, set()),
        (60, 1.5, {"TTFT p95"}),
        (9, 2.5, set()),
        (11, 2.5, {"TTFT p99"}),
    ],
)
def test_late_first_tokens_are_seen_once_there_are_enough_of_them(slow: int, ttft_s: float, names: set[str]) -> None:
    assert missed([stream(ttft_s)] * slow + [stream()] * (1000 - slow)) == names


@pytest.mark.parametrize(
    ("took_s", "names"), [(4.9, set()), (5.0, {"generation p50"}), (20.0, {"generation p50", "generation p95"})]
)
def test_a_bound_must_be_undercut_by_the_whole_stream_too(took_s: float, names: set[str]) -> None:
    assert missed([stream(took_s=took_s)] * 100) == names


def test_one_failure_in_a_thousand_is_one_too_many() -> None:
    assert missed([stream()] * 999 + [stream(failure="status 429")]) == {"errors"}
    assert missed([stream()] * 1000 + [stream(failure="status 429")]) == set()


def test_a_failed_stream_counts_as_an_error_and_not_as_a_quick_generation() -> None:
    samples = [stream(took_s=6.0)] * 10 + [stream(None, took_s=0.001, failure="status 503")] * 11
    assert missed(samples) == {"generation p50", "errors"}


def test_streams_without_a_token_have_no_time_to_it() -> None:
    samples = [stream(None, failure="no token")] * 10
    assert missed(samples) == {objective.name for objective in OBJECTIVES}


def test_the_knee_is_the_first_step_with_late_tokens() -> None:
    samples = [stream(1.5 if at_s >= 40 else 0.1, at_s=float(at_s)) for at_s in range(90)]
    knee = find_knee(samples, RAMP, 10.0)
    assert knee is not None
    assert (knee.users, knee.ttft_p95_s, knee.errors) == (50, 1.5, 0.0)


def test_the_knee_is_the_first_step_with_errors() -> None:
    samples = [stream(at_s=float(at_s), failure="status 429" if at_s == 25 else "") for at_s in range(90)]
    knee = find_knee(samples, RAMP, 10.0)
    assert knee is not None
    assert (knee.users, knee.errors) == (30, 0.1)


def test_a_ramp_that_stays_within_bounds_has_no_knee() -> None:
    samples = [stream(at_s=float(at_s)) for at_s in range(90)]
    assert find_knee(samples, RAMP, 10.0) is None
    assert "no knee up to 100 users" in [line.text for line in report(samples, RAMP, ())]


def test_a_step_in_which_no_stream_had_a_token_is_a_knee() -> None:
    knee = find_knee([stream(None, at_s=3.0, failure="status 503")], RAMP, 10.0)
    assert knee is not None
    assert knee.users == 10
    assert "knee at 10 users: TTFT p95 none, errors 100.000%" in [
        line.text for line in report([stream(None, at_s=1.0, failure="status 503")], RAMP_BY_TEN, ())
    ]


@pytest.mark.parametrize(
    ("readings", "expected"),
    [((), None), ((1.0, 2.0), None), ((9.0, 5.0, 5.0), 1.0), ((0.0, 0.0, 100.0, 100.0, 110.0, 110.0), 1.1)],
)
def test_growth_compares_the_last_third_with_the_middle_one(
    readings: tuple[float, ...], expected: float | None
) -> None:
    assert growth(readings) == pytest.approx(expected)


@pytest.mark.parametrize(("readings", "met"), [((), False), ((50.0, 60.0, 60.0), True), ((50.0, 60.0, 66.1), False)])
def test_memory_that_grows_is_missed_where_it_must_be_flat(readings: tuple[float, ...], met: bool) -> None:
    flat = Profile(stages=PLAIN.stages, ends_s=60.0, flat=True)
    lines = [line for line in report([stream()] * 10, flat, readings) if line.text.startswith("memory")]
    assert [line.met for line in lines] == [met]
    assert not [line for line in report([stream()] * 10, PLAIN, readings) if line.text.startswith("memory")]


def test_the_report_tells_what_came_on_top_of_the_provider_and_why_streams_failed() -> None:
    samples = [stream(0.104)] * 9 + [stream(None, failure="status 429")]
    text = "\n".join(line.text for line in report(samples, PLAIN, ()))
    assert "p50 / p95 / p99: 4 ms / 4 ms / 4 ms" in text
    assert "10 streams, 1 failed; 1 x status 429" in text


def test_the_ramp_goes_from_10_users_to_500_in_a_minute() -> None:
    ramp = PROFILES["ramp"]
    assert [ramp.users_at(at_s) for at_s in (0.0, 1.0, 60.0, 99.0)] == [0, 10, 500, 500]
    assert ramp.users_at(30.0) == pytest.approx(250, abs=5)
    assert ramp.stage_at(0.5) == Stage(0.0, 10, 10.0)
    assert ramp.stage_at(60.0) is None


def test_the_soak_has_50_users_for_an_hour() -> None:
    soak = PROFILES["soak"]
    assert soak.flat
    assert {soak.users_at(at_s) for at_s in (10.0, 1800.0, 3600.0)} == {50}


def test_the_spike_has_200_users_all_at_once() -> None:
    spike = PROFILES["spike"]
    assert [spike.users_at(at_s) for at_s in (9.9, 12.0, 40.0)] == [10, 200, 200]
