"""`make load`: a mock provider and a gateway as processes of their own on free ports, locust in front, and nothing left behind.

What follows goes to locust: `--profile ramp|soak|spike`, `--seconds N`. Gives locust's exit code: 1 when an objective is missed.
"""

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

READY_S: Final = 20.0
STOP_S: Final = 40.0
LAST_STREAMS_S: Final = 20
"""How long the streams that run when a test is over may go on."""
CONFIG: Final = """
server: {port: 0, drain_delay: 0s}
ops: {listen: "127.0.0.1:0"}
providers: [{name: main, kind: mock, base_url: "http://127.0.0.1:%s/v1"}]
models: [{name: mock, targets: [{provider: main}]}]
"""


@contextmanager
def started(arguments: Sequence[str], log: Path, pattern: str) -> Iterator[tuple[int, str]]:
    """Run a command of tidegate; gives its process id and what it says its port is. Holds: the process."""
    with log.open("wb") as output:
        child = subprocess.Popen([sys.executable, "-m", "tidegate", *arguments], stdout=output, stderr=output)
    try:
        yield child.pid, _wait_said(child, log, pattern)
    finally:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_said(child: subprocess.Popen[bytes], log: Path, pattern: str) -> str:
    """Wait for a line in a log; gives its first group. Errors: SystemExit when it does not come."""
    until = time.monotonic() + READY_S
    while time.monotonic() < until and child.poll() is None:
        found = re.search(pattern, log.read_text())
        if found is not None:
            return found[1]
        time.sleep(0.05)
    sys.exit(f"it did not start: {log.read_text()[-2000:]}")


def main() -> int:
    """Run the test; gives the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended, too
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "load.yaml"
        with started(["mock", "--port", "0"], folder / "mock.log", r"127\.0\.0\.1:(\d+)/v1") as (_, mock_port):
            config.write_text(CONFIG % mock_port)
            serve = ["serve", "-c", str(config)]
            with started(serve, folder / "gateway.log", r'"serving".*?"port":(\d+)') as (pid, port):
                locust = [sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py"))]
                quiet = ["--headless", "--only-summary", "--loglevel", "WARNING", "--stop-timeout", str(LAST_STREAMS_S)]
                there = ["--host", f"http://127.0.0.1:{port}", "--gateway-pid", str(pid)]
                return subprocess.run([*locust, *quiet, *there, *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
