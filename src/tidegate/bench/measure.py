"""Numbers out of measurements: percentiles, what the kernel says a process used, what machine this is."""

import math
import os
import platform
import re
import shutil
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from tidegate import __version__

_PROC: Final = Path("/proc")
_VERSION_S: Final = 10.0


class MismeasuredError(Exception):
    """A run that did not measure what it is named after; the text says why."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """Give the smallest value that `share` of them do not exceed. Shape: sorted, not empty. Errors: ValueError."""
    if not ordered or not 0 < share <= 1:
        raise ValueError("a percentile needs values and a share above 0 and up to 1")
    return ordered[math.ceil(share * len(ordered)) - 1]


def median_of_pairs(lefts: Iterable[float], rights: Iterable[float], *, ratio: bool = False) -> float | None:
    """Give the median of left minus right, or left / right, of runs that stood side by side; None without a pair.

    Source: pairs see the same weather, so that what drifts on a shared machine cancels before the median is taken.
    """
    pairs = list(zip(lefts, rights, strict=False))
    values = [left / right for left, right in pairs if right] if ratio else [left - right for left, right in pairs]
    return statistics.median(values) if values else None


# What the kernel knows


class Cpu(Struct, frozen=True):
    """What the threads of some processes have used so far. Shape: nanoseconds by thread id."""

    threads: dict[int, int]

    def spent_since(self, before: "Cpu") -> int:
        """Give the nanoseconds since then. Errors: MismeasuredError when a thread ended: its time went with it."""
        if lost := before.threads.keys() - self.threads.keys():
            raise MismeasuredError(f"{len(lost)} thread(s) of the target ended during the run")
        return sum(self.threads.values()) - sum(before.threads.values())


def parse_schedstat(text: str) -> int:
    """Give the nanoseconds on a CPU. Source: Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat."""
    return int(text.split(maxsplit=1)[0])


def read_cpu(pids: Iterable[int]) -> Cpu:
    """Give what processes have used, all their threads. Errors: OSError when one is gone."""
    threads: dict[int, int] = {}
    for pid in pids:
        for entry in (_PROC / str(pid) / "task").iterdir():
            threads[int(entry.name)] = parse_schedstat((entry / "schedstat").read_text())
    return Cpu(threads)


def parse_statm(text: str) -> int:
    """Give the resident pages. Source: proc(5), /proc/<pid>/statm."""
    return int(text.split()[1])


def read_rss_bytes(pids: Iterable[int]) -> int:
    """Give the resident bytes of processes. Errors: OSError when one is gone."""
    pages = sum(parse_statm((_PROC / str(pid) / "statm").read_text()) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE")


def children_of(pid: int) -> tuple[int, ...]:
    """Give the processes that a process started. Errors: OSError when it is gone."""
    return tuple(map(int, (_PROC / str(pid) / "task" / str(pid) / "children").read_text().split()))


def has_accounting() -> bool:
    """Say whether this kernel keeps the accounts that the bench reads."""
    return (_PROC / "self" / "schedstat").exists()


# What machine this is


def machine() -> dict[str, str | int]:
    """Give what a reader of the figures needs to know about where they were taken."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "tidegate": __version__,
        "nginx": _version("nginx", "-v"),
        "wrk": _version("wrk", "-v"),
    }


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", (_PROC / "cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _version(command: str, flag: str) -> str:
    path = find_command(command)
    if not path:
        return "not installed"
    said = subprocess.run([path, flag], capture_output=True, text=True, timeout=_VERSION_S, check=False)
    return parse_version(said.stdout + said.stderr) or "unknown"


def parse_version(text: str) -> str:
    """Give the first version number in what a command says about itself, or nothing."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return found[0] if found else ""


def find_command(name: str) -> str:
    """Give a command's path, or nothing. Shape: daemons live in sbin, which is not on everybody's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin") or ""
