"""What is watched while locust runs: streams that are over, the gateway's memory and CPU, and how late locust itself is."""

import time
from collections.abc import Callable
from typing import Any, Final

import gevent
from locust.env import Environment

from profiles import Profile
from slo import ERRORS, TTFT_P95, Sample, report
from streaming import Streamed
from tidegate.bench.measure import read_cpu, read_rss_bytes

PROGRESS_S: Final = 10.0
LATE_POLL_S: Final = 0.05
_MIB: Final = 1024 * 1024


class Watch:
    """Gathers what is judged and tells it. Shape: `pid` 0 is a gateway whose process cannot be looked at.

    Holds: a listener for each of locust's events that it needs, as long as the environment lives.
    """

    def __init__(self, environment: Environment, profile: Profile, pid: int) -> None:
        self._environment = environment
        self._profile = profile
        self._pid = pid
        self._began_at = time.perf_counter()
        self._samples: list[Sample] = []
        self._rss_mib: list[float] = []
        self._late_s = 0.0
        self._latest_s = 0.0
        environment.events.request.add_listener(self._on_request)
        environment.events.test_start.add_listener(self._on_start)
        environment.events.quitting.add_listener(self._on_quitting)

    def _on_start(self, **_: Any) -> None:
        self._began_at = time.perf_counter()
        gevent.spawn(self._measure_lateness)
        gevent.spawn(self._tell_progress)

    def _on_request(self, context: dict[str, Any], exception: Exception | None = None, **_: Any) -> None:
        seen = context.get("streamed")
        if isinstance(seen, Streamed):
            self._samples.append(
                Sample(
                    began_s=seen.began_at - self._began_at,
                    took_s=seen.ended_at - seen.began_at,
                    asked_s=context["asked_s"],
                    ttft_s=seen.first_at - seen.began_at if seen.tokens else None,
                    failure=str(exception or ""),
                )
            )

    def _on_quitting(self, **_: Any) -> None:
        lines = report(self._samples, self._profile, self._rss_mib)
        for line in lines:
            print({True: "ok  ", False: "MISS", None: "    "}[line.met], line.text)
        print(
            f"     locust itself was late by up to {max(self._latest_s, self._late_s) * 1000:.0f} ms: what it reads late counts above"
        )
        self._environment.process_exit_code = 0 if all(line.met is not False for line in lines) else 1

    def _measure_lateness(self) -> None:
        while True:
            due = time.perf_counter() + LATE_POLL_S
            gevent.sleep(LATE_POLL_S)
            self._late_s = max(self._late_s, time.perf_counter() - due)

    def _tell_progress(self) -> None:
        while True:
            spent, own_s = self._cpu_meter(), time.process_time()
            gevent.sleep(PROGRESS_S)
            now = time.perf_counter() - self._began_at
            recent = [sample for sample in self._samples if sample.began_s + sample.took_s > now - PROGRESS_S]
            ttft_s, failed = TTFT_P95.value(recent) or 0.0, ERRORS.value(recent) or 0.0
            runner = self._environment.runner
            print(
                f"{now:5.0f} s  {runner.user_count if runner else 0:4d} users  {len(recent) / PROGRESS_S:6.1f} streams/s"
                f"  TTFT p95 {ttft_s * 1000:5.0f} ms  errors {failed:.2%}{self._process(spent)}"
                f"  locust {(time.process_time() - own_s) / PROGRESS_S:.0%}, late by {self._late_s * 1000:.0f} ms",
                flush=True,
            )
            self._latest_s, self._late_s = max(self._latest_s, self._late_s), 0.0

    def _cpu_meter(self) -> Callable[[], float]:
        """Give the function that gives what part of a core the gateway has used since now."""
        if not self._pid:
            return lambda: 0.0
        before, began_at = read_cpu([self._pid]), time.perf_counter()
        return lambda: read_cpu([self._pid]).spent_since(before) / 1e9 / (time.perf_counter() - began_at)

    def _process(self, spent: Callable[[], float]) -> str:
        if not self._pid:
            return ""
        self._rss_mib.append(read_rss_bytes([self._pid]) / _MIB)
        return f"  gateway {spent():.0%} of a core, {self._rss_mib[-1]:.1f} MiB"
