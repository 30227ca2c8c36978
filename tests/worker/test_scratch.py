"""Temporary directories: those in use stay, those of a process that is gone are removed."""

import os
import resource
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tidegate.worker.scratch import Scratch, sweep

OTHER = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from tidegate.worker.scratch import Scratch
held = Scratch("worker")
(held.path / "file").write_text("x")
print(held.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(name="place")
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def test_what_is_in_use_stays_and_is_removed_by_whoever_made_it(place: Path) -> None:
    held = Scratch("input")
    assert f"tidegate-input-{os.getpid()}-" in str(held.path)
    (held.path / "deep" / "er").mkdir(parents=True)
    sweep()
    assert held.path.is_dir()
    held.remove()
    held.remove()
    assert list(place.iterdir()) == []


def test_what_another_process_uses_stays_until_that_is_killed(place: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None
        held = Path(other.stdout.readline().strip())
        sweep()
        assert (held / "file").read_text() == "x"
        other.kill()
    sweep()
    assert not held.exists()


def test_only_directories_of_ours_are_removed_and_no_link_is_followed(place: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    (place / "tidegate-worker-1-linked").symlink_to(kept)
    (place / "tidegate-input-1-file").write_text("x")
    for name in ("tidegate-worker-x", "tidegate-other-1-x", "other", "x-tidegate-worker-1-x"):
        (place / name).mkdir()
    gone = place / "tidegate-worker-1-gone"
    gone.mkdir()
    (gone / "link").symlink_to(kept)
    before = {entry.name for entry in place.iterdir()}
    sweep()
    assert {entry.name for entry in place.iterdir()} == before - {gone.name}
    assert (kept / "file").read_text() == "x"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory away")
def test_what_belongs_to_another_user_stays(place: Path) -> None:
    theirs = place / "tidegate-worker-1-theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    sweep()
    assert theirs.is_dir()


def test_one_that_is_made_while_another_gateway_starts_is_not_taken_for_left_behind(place: Path) -> None:
    over = threading.Event()

    def sweeping() -> None:
        while not over.is_set():
            sweep()

    threads = [threading.Thread(target=sweeping) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            held = Scratch("worker")
            (held.path / "file").write_text("x")
            assert (held.path / "file").exists()
            held.remove()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert list(place.iterdir()) == []


def test_one_that_cannot_be_opened_is_not_left(place: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            Scratch("worker")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(place.iterdir()) == []


def test_a_place_that_is_not_there_is_no_error_for_who_sweeps(place: Path) -> None:
    place.rmdir()
    sweep()
    with pytest.raises(FileNotFoundError):
        Scratch("worker")
