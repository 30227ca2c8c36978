"""Prints the published figures of other gateways beside ours, when figures were taken."""

import pytest

PUBLISHED = """
published by a Rust inference gateway for its own code, on its own machine:
  completions: frames, meter, 200 tokens end to end in memory   13.9 us
  auth: format, hash, look-up                                   433 ns
  validation of a request with 10 / 50 messages                 16 / 54 ns (fields already parsed)
  hash of a body of 10 KB                                       28.5 us
  ordering of 3 / 10 targets                                    55 / 70 ns
"""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("benchmark_only", default=False):
        terminalreporter.write(PUBLISHED)
