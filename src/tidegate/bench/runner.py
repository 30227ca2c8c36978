"""`tidegate bench`: scenarios one after another, their variants by turns; progress on stderr, one table, one JSON file."""

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from msgspec import Struct

from tidegate.bench.figures import SCENARIOS, Scenario, rows_of
from tidegate.bench.measure import find_command, has_accounting, machine
from tidegate.bench.report import Row, Run, print_table, render_json
from tidegate.bench.scenarios import FAILURES, FULL, QUICK, Bench
from tidegate.bench.targets import Cores, Stand, pinned

_ENOUGH_PROBLEMS: Final = 3
_WANTED_FILES: Final = 65_536


class Options(Struct, frozen=True, kw_only=True):
    """What to run. Shape: no scenarios are all of them; `out` is where the JSON goes."""

    quick: bool = False
    scenarios: tuple[str, ...] = ()
    out: str = "bench.json"
    repeats: int = 5


def scenario_names() -> tuple[str, ...]:
    """Give the names that `Options.scenarios` may hold."""
    return tuple(scenario.name for scenario in SCENARIOS)


def run(options: Options) -> int:
    """Measure. Gives the exit code: 0, 1 when something could not be measured, 2 for options that make no sense."""
    if mistake := _mistake(options):
        _say(f"error: {mistake}")
        return 2
    if not has_accounting():
        _say("error: the bench reads /proc/<pid>/schedstat, which this system does not have (Linux does)")
        return 1
    chosen = [scenario for scenario in SCENARIOS if not options.scenarios or scenario.name in options.scenarios]
    began = time.perf_counter()
    rows, runs = _measure(options, chosen)
    about = machine()
    print_table(rows, _title(about))
    settings: dict[str, object] = {"quick": options.quick, "repeats": options.repeats, "size": FULL}
    settings |= {"size": QUICK if options.quick else FULL, "took_s": round(time.perf_counter() - began, 1)}
    Path(options.out).write_bytes(render_json(about, settings, rows, runs))
    _say(f"{time.perf_counter() - began:.0f} s; raw values of every run: {options.out}")
    return 1 if any(row.standing == "NOT MEASURED" for row in rows) else 0


def _mistake(options: Options) -> str:
    if unknown := sorted(set(options.scenarios) - set(scenario_names())):
        return f"no scenario {unknown[0]!r}; there are {', '.join(scenario_names())}"
    if options.repeats < 1:
        return "at least one repeat is needed"
    # Found out now rather than when everything has been measured.
    if not Path(options.out).parent.is_dir() or Path(options.out).is_dir():
        return f"{options.out!r} can't be written"
    return ""


def _measure(options: Options, chosen: Sequence[Scenario]) -> tuple[list[Row], list[Run]]:
    rows: list[Row] = []
    runs: list[Run] = []
    cores = Cores.of(os.sched_getaffinity(0))
    if cores.target == cores.load:
        _say("note: one core only, so that target, load and mock share it: latencies mean little")
    with _stand(cores) as stand:
        bench = Bench(stand, QUICK if options.quick else FULL)
        for scenario in chosen:
            repeats = min(scenario.quick_repeats if options.quick else scenario.most_repeats, options.repeats)
            found, taken = _one(bench, scenario, repeats, scenario.quick_without if options.quick else ())
            rows += found
            runs += taken
    return rows, runs


@contextmanager
def _stand(cores: Cores) -> Iterator[Stand]:
    """Give the processes' keeper. Holds: them, a folder, the load core, more descriptors, until the exit or SIGTERM."""
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-bench-", ignore_cleanup_errors=True) as folder,
        pinned(cores.load),
        _more_files() as files,
        _orderly_end(),
    ):
        stand = Stand(Path(folder), cores, files)
        try:
            yield stand
        finally:
            stand.close()


@contextmanager
def _more_files() -> Iterator[int]:
    """Raise the limit of open files, for this process and what it starts; gives the limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Only a privileged process may raise the hard limit, and not everywhere.
    for wanted in (max(before[1], _WANTED_FILES), before[1]):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            break
    try:
        yield resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Let SIGTERM unwind, so that no process is left behind."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _one(bench: Bench, scenario: Scenario, repeats: int, without: tuple[str, ...]) -> tuple[list[Row], list[Run]]:
    """Give the rows and runs of one scenario."""
    if missing := [command for command in scenario.needs if not find_command(command)]:
        return [_skipped(scenario, f"{missing[0]} is not installed")], []
    variants = [variant for variant in scenario.variants if variant not in without]
    rows: list[Row] = []
    if "nginx" in variants and not find_command("nginx"):
        variants.remove("nginx")
        rows.append(_skipped(scenario, "nginx is not installed", "against nginx"))
    runs: list[Run] = []
    for repeat in range(repeats):
        for variant in variants:
            _say(f"{scenario.name}  {repeat + 1}/{repeats}  {variant}", end=" ")
            runs.append(_run(bench, scenario, variant, repeat))
        if sum(bool(run.problem) for run in runs) >= _ENOUGH_PROBLEMS:
            break
    rows += rows_of(scenario, runs, scenario.note(bench))
    problems = [f"{run.variant}: {run.problem}" for run in runs if run.problem]
    if problems:
        note = f"{len(problems)} of {len(runs)} runs don't count; {problems[0]}"
        rows.append(Row(scenario=scenario.name, figure="all", standing="NOT MEASURED", note=note))
    return rows, runs


def _run(bench: Bench, scenario: Scenario, variant: str, repeat: int) -> Run:
    began = time.perf_counter()
    try:
        values, problem = scenario.play(bench, variant), ""
    except FAILURES as error:
        values, problem = {}, str(error) or type(error).__name__
    _say(f"({time.perf_counter() - began:.1f} s) {problem}")
    return Run(scenario=scenario.name, variant=variant, repeat=repeat, values=values, problem=problem)


def _skipped(scenario: Scenario, why: str, figure: str = "all") -> Row:
    return Row(scenario=scenario.name, figure=figure, standing="skipped", note=why)


def _title(about: dict[str, str | int]) -> str:
    peers = ", ".join(f"{name} {about[name]}" for name in ("tidegate", "python", "nginx", "wrk"))
    return f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}; {peers}. Target on one core, load and mock on another."


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)
