import os
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.bench.measure import (
    Cpu,
    MismeasuredError,
    children_of,
    find_command,
    machine,
    median_of_pairs,
    parse_schedstat,
    parse_statm,
    parse_version,
    percentile,
    read_cpu,
    read_rss_bytes,
)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.001, 1.0), (0.5, 50.0), (0.501, 51.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)]
)
def test_a_percentile_is_the_smallest_value_that_covers_the_share(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(1, 101)], share) == expected


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.1)])
def test_a_percentile_of_nothing_or_of_a_silly_share_is_an_error(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, share)


def test_pairs_cancel_what_both_sides_share() -> None:
    # The machine gets slower from run to run; what is added stays 1, and the ratio 2.
    assert median_of_pairs([2.0, 12.0, 52.0], [1.0, 11.0, 51.0]) == 1.0
    assert median_of_pairs([2.0, 20.0, 100.0], [1.0, 10.0, 50.0], ratio=True) == 2.0


def test_without_a_pair_there_is_no_median() -> None:
    assert median_of_pairs([1.0], []) is None
    assert median_of_pairs([1.0], [0.0], ratio=True) is None


def test_schedstat_and_statm_are_read_by_their_columns() -> None:
    assert parse_schedstat("414894 52998 17\n") == 414894
    assert parse_statm("42016 15330 3301 1 0 20011 0\n") == 15330


def test_spent_time_sums_over_threads_old_and_new() -> None:
    assert Cpu({1: 150, 2: 30, 3: 7}).spent_since(Cpu({1: 100, 2: 30})) == 57


def test_a_thread_that_ended_spoils_the_account() -> None:
    with pytest.raises(MismeasuredError, match="1 thread"):
        Cpu({1: 150}).spent_since(Cpu({1: 100, 2: 30}))


def test_the_kernels_account_of_a_process_grows_with_its_work() -> None:
    before = read_cpu([os.getpid()])
    sum(range(2_000_000))
    # The work above takes tens of milliseconds; a clock tick that is not yet accounted takes 10 at most.
    assert read_cpu([os.getpid()]).spent_since(before) > 1_000_000
    assert read_rss_bytes([os.getpid()]) > 5_000_000


def test_children_of_a_process_are_found() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            assert child.pid in children_of(os.getpid())
        finally:
            child.kill()


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("nginx version: nginx/1.22.1", "1.22.1"),
        ("wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012 Will Glozer", "4.1.0"),
        ("no idea", ""),
    ],
)
def test_versions_are_found_in_what_commands_say(said: str, version: str) -> None:
    assert parse_version(said) == version


def test_a_command_outside_the_path_is_not_found_unless_it_is_a_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_command("tidegate-no-such-command") == ""
    (tmp_path / "wrk").write_text("#!/bin/sh\n")
    (tmp_path / "wrk").chmod(0o755)
    assert find_command("wrk") == str(tmp_path / "wrk")


def test_the_machine_is_described() -> None:
    about = machine()
    assert about["cpu"]
    assert about["kernel"] == os.uname().release
    assert int(about["cores"]) >= 1
    assert {"nginx", "wrk", "python", "tidegate"} <= about.keys()
