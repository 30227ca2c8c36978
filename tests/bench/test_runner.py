import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from tidegate.bench import Options, run, scenario_names
from tidegate.bench.measure import children_of, find_command


def figures(out: Path) -> dict[str, dict[str, Any]]:
    return {f"{row['scenario']}: {row['figure']}": row for row in json.loads(out.read_bytes())["figures"]}


def test_an_unknown_scenario_is_a_mistake_that_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Options(scenarios=("paced-1000", "nonsense"))) == 2
    said = capsys.readouterr().err
    assert "'nonsense'" in said
    assert all(name in said for name in scenario_names())


@pytest.mark.parametrize("out", ["", "missing/bench.json"])
def test_a_place_that_cannot_be_written_is_a_mistake_before_anything_is_measured(tmp_path: Path, out: str) -> None:
    assert run(Options(out=str(tmp_path / out))) == 2


def test_fewer_than_one_repeat_is_a_mistake() -> None:
    assert run(Options(repeats=0)) == 2


@pytest.mark.slow
def test_a_short_bench_measures_what_it_names_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def surroundings() -> tuple[object, ...]:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        return os.sched_getaffinity(0), limit[0], signal.getsignal(signal.SIGTERM), children_of(os.getpid())

    before, out = surroundings(), tmp_path / "bench.json"
    chosen = ("start", "stream34-c10", "raw-vs-translated-c50")
    code = run(Options(quick=True, scenarios=chosen, out=str(out), repeats=1))
    said = capsys.readouterr()
    assert code == 0, said.err
    assert surroundings() == before
    rows = figures(out)
    assert rows["start: RSS idle"]["standing"] in {"aim met", "must met", "MISSED"}
    assert rows["raw-vs-translated-c50: translated: CPU per stream"]["result"] > 0
    if find_command("wrk"):
        cost = rows["stream34-c10: CPU per stream"]
        assert cost["tidegate"] > 0
        assert (cost["nginx"] is not None) == bool(find_command("nginx"))
        assert cost["direct"] is None
    else:
        assert rows["stream34-c10: all"]["standing"] == "skipped"
    assert said.out.count("raw-vs-translated-c50") == 6
    assert "start  1/1  tidegate" in said.err


@pytest.mark.slow
def test_what_could_not_be_measured_is_said_and_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "nginx"
    broken.write_text("#!/bin/sh\necho 'no such tide' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    out = tmp_path / "bench.json"
    assert run(Options(quick=True, scenarios=("start",), out=str(out), repeats=1)) == 1
    rows = figures(out)
    assert rows["start: all"]["standing"] == "NOT MEASURED"
    assert "nginx did not get ready: no such tide" in rows["start: all"]["note"]
    assert rows["start: start to ready"]["tidegate"] > 0
    assert "NOT MEASURED" in capsys.readouterr().out
