"""The table of scenarios: their variants, their figures, and the bounds that the figures are held against."""

import statistics
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from tidegate.bench.crowd import play_crowded
from tidegate.bench.measure import median_of_pairs
from tidegate.bench.report import Judged, Row, Run, judge
from tidegate.bench.scenarios import (
    MANY,
    Bench,
    Paced,
    Unpaced,
    Values,
    fitting,
    play_roads,
    play_start,
    play_ttft,
)

ALL: Final = ("direct", "nginx", "tidegate")
PROXIES: Final = ("nginx", "tidegate")


class Figure(Struct, frozen=True, kw_only=True):
    """One row of a scenario. Shape: `against` is the variant it is judged by; bounds are of what is judged."""

    name: str
    key: str
    unit: str = ""
    of: str = "tidegate"
    judged: Judged = "tidegate"
    against: str = ""
    must: float | None = None
    aim: float | None = None


class Scenario(Struct, frozen=True, kw_only=True):
    """A load on several variants, run by turns. Shape: `most_repeats` bounds long ones; quick runs do without some."""

    name: str
    variants: tuple[str, ...]
    play: Callable[[Bench, str], Values]
    figures: tuple[Figure, ...]
    needs: tuple[str, ...] = ()
    quick_repeats: int = 1
    quick_without: tuple[str, ...] = ()
    most_repeats: int = 1000
    note: Callable[[Bench], str] = lambda _: ""


def rows_of(scenario: Scenario, runs: Sequence[Run], note: str) -> list[Row]:
    """Give a scenario's rows: medians of the runs that count, and how they stand. A figure without runs has no row."""
    rows = [_row(scenario.name, figure, runs, note) for figure in scenario.figures]
    return [row for row in rows if row.tidegate is not None]


def _values(runs: Sequence[Run], variant: str, key: str) -> dict[int, float]:
    """Give a value by repeat."""
    return {run.repeat: run.values[key] for run in runs if run.variant == variant and key in run.values}


def _row(scenario: str, figure: Figure, runs: Sequence[Run], note: str) -> Row:
    values = {variant: _values(runs, variant, figure.key) for variant in {*ALL, figure.of, figure.against}}
    medians = {variant: statistics.median(taken.values()) if taken else None for variant, taken in values.items()}
    own = values[figure.of]
    result = medians[figure.of]
    if figure.judged != "tidegate":
        other = values[figure.against or ("nginx" if figure.judged == "ratio" else "direct")]
        both = sorted(own.keys() & other.keys())
        result = median_of_pairs(
            [own[repeat] for repeat in both], [other[repeat] for repeat in both], ratio=figure.judged == "ratio"
        )
    shown = result if figure.judged != "tidegate" or figure.must is not None else None
    return Row(
        scenario=scenario,
        figure=figure.name,
        unit=figure.unit,
        direct=medians["direct"],
        nginx=medians["nginx"],
        tidegate=medians[figure.of],
        judged=figure.judged,
        result=shown,
        must=figure.must,
        aim=figure.aim,
        standing=judge(result, figure.must, figure.aim),
        note=note,
    )


def _unpaced(name: str, load: Unpaced, must: float | None = None, aim: float | None = None) -> Scenario:
    return Scenario(
        name=name,
        variants=ALL,
        play=load,
        needs=("wrk",),
        figures=(
            Figure(
                name="CPU per stream" if load.events else "CPU per request", key="cpu_us", unit="µs", must=must, aim=aim
            ),
            Figure(name="CPU against nginx", key="cpu_us", unit="µs", judged="ratio"),
            Figure(name="throughput", key="per_s", unit="1/s"),
            Figure(name="latency p50, added", key="p50_ms", unit="ms", judged="added"),
        ),
    )


def _too_many(bench: Bench) -> str:
    streams, files = fitting(MANY, bench.stand.files), bench.stand.files
    return f"{streams:,} streams: a process may open {files:,} files here" if streams < MANY else ""


_ROADS: Final = (
    Figure(name="raw: CPU per stream", key="cpu_us", unit="µs", of="raw"),
    Figure(name="translated: CPU per stream", key="cpu_us", unit="µs", of="translated", judged="ratio", against="raw"),
    Figure(name="raw: throughput", key="per_s", unit="1/s", of="raw"),
    Figure(name="translated: throughput", key="per_s", unit="1/s", of="translated", judged="ratio", against="raw"),
    Figure(name="raw: first byte p50", key="ttft_p50_ms", unit="ms", of="raw"),
    Figure(
        name="translated: first byte p50", key="ttft_p50_ms", unit="ms", of="translated", judged="added", against="raw"
    ),
)

SCENARIOS: Final = (
    Scenario(
        name="start",
        variants=PROXIES,
        play=play_start,
        quick_repeats=3,
        figures=(
            Figure(name="start to ready", key="ready_s", unit="s", must=1.0, aim=0.6),
            Figure(name="RSS idle", key="rss_mb", unit="MB", must=70, aim=50),
        ),
    ),
    Scenario(
        name="paced-1000",
        variants=ALL,
        play=Paced(
            streams=1000, itl_s=0.05, ramp_s=lambda size: size.paced_ramp_s, events=lambda size: size.paced_events
        ),
        quick_repeats=2,
        figures=(
            Figure(name="CPU per event, all open", key="cpu_steady_us", unit="µs", judged="ratio", must=1.4, aim=1.15),
            Figure(name="CPU per event, with opening and end", key="cpu_event_us", unit="µs", judged="ratio"),
            Figure(name="gap p99, added", key="gap_p99_ms", unit="ms", judged="added", must=4, aim=2),
        ),
    ),
    Scenario(
        name="paced-10000",
        variants=PROXIES,
        play=Paced(
            streams=MANY,
            itl_s=1.0,
            ramp_s=lambda size: size.many_ramp_s,
            events=lambda size: size.many_events,
            fresh=True,
        ),
        most_repeats=2,
        quick_without=("nginx",),
        note=_too_many,
        figures=(
            Figure(name="failed streams", key="failed", must=0, aim=0),
            Figure(name="RSS per stream", key="rss_stream_kb", unit="KB", must=50, aim=30),
            Figure(name="CPU per event, all open", key="cpu_steady_us", unit="µs", judged="ratio"),
        ),
    ),
    Scenario(
        name="slow-clients",
        variants=("control", "crowded"),
        play=play_crowded,
        most_repeats=3,
        figures=(
            Figure(
                name="gap p99 beside 1,000 slow clients, added",
                key="gap_p99_ms",
                unit="ms",
                of="crowded",
                judged="added",
                against="control",
                must=5,
                aim=2,
            ),
            Figure(name="held for the slow ones", key="held_mib", unit="MiB", of="crowded", must=512, aim=256),
        ),
    ),
    Scenario(
        name="ttft-c50",
        variants=ALL,
        play=play_ttft,
        quick_repeats=2,
        figures=(
            Figure(name="first content p50, added", key="ttft_p50_ms", unit="ms", judged="added", must=0.4, aim=0.2),
            Figure(name="first content p99, added", key="ttft_p99_ms", unit="ms", judged="added", must=4, aim=2),
        ),
    ),
    _unpaced("stream34-c10", Unpaced(connections=10), 250, 180),
    _unpaced("stream34-c50", Unpaced(connections=50), 250, 180),
    _unpaced("stream34-c200", Unpaced(connections=200), 250, 180),
    _unpaced("stream200-c50", Unpaced(connections=50, events=200)),
    _unpaced("whole-c50", Unpaced(connections=50, events=0)),
    _unpaced("body1mib-c10", Unpaced(connections=10, padding=1024 * 1024)),
    _unpaced("tls-c50", Unpaced(connections=50, sealed=True)),
    Scenario(
        name="raw-vs-translated-c50", variants=("raw", "translated"), play=play_roads, figures=_ROADS, quick_repeats=2
    ),
)
