"""The command line in processes of their own: started, asked over HTTP, and ended by their pid."""

import contextlib
import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

WAIT_S = 30.0
"""How long something that must happen may take before a test gives up."""

PLAIN: dict[str, Any] = {
    "server": {"port": 0, "drain_delay": "0s"},
    "ops": {"listen": "127.0.0.1:0"},
    "providers": [{"name": "main", "kind": "mock"}],
    "models": [{"name": "mock", "targets": [{"provider": "main"}]}],
}
"""A configuration that serves the built-in mock on free ports."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give an environment that says nothing about providers or proxies."""
    unwanted = ("OPENAI_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NO_PROXY", "no_proxy")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**kept, "PYTHONUNBUFFERED": "1", **(extra or {})}


def write_config(folder: Path, **sections: Any) -> Path:
    """Write a configuration. Shape: sections replace those of PLAIN, but `server` adds to it."""
    plain = {**PLAIN, **sections, "server": {**PLAIN["server"], **sections.get("server", {})}}
    file = folder / "tidegate.yaml"
    file.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return file


def tidegate(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tidegate", *arguments],
        cwd=cwd,
        env=environment(env),
        input=given,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


class Served:
    """A command that runs. Shape: `lines` are what it said so far on both outputs, in the order of their coming."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._news: queue.Queue[str | None] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (process.stdout, process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any) -> None:
        for line in stream:
            self.lines.append(line.rstrip("\n"))
            self._news.put(line)
        self._news.put(None)

    def line(self, *wanted: str) -> str:
        """Wait for a line that holds all of some texts. Errors: AssertionError when the process ends or is silent."""
        deadline = time.monotonic() + WAIT_S
        while True:
            for line in tuple(self.lines):
                if all(part in line for part in wanted):
                    return line
            self.news()
            gone = self.process.poll() is not None and not any(reader.is_alive() for reader in self._readers)
            assert not gone or any(all(part in line for part in wanted) for line in self.lines), self.lines
            assert time.monotonic() < deadline, self.lines

    def news(self) -> None:
        """Wait a little while for it to say something more."""
        with contextlib.suppress(queue.Empty):
            self._news.get(timeout=0.2)

    def ports(self) -> tuple[int, int]:
        """Wait until the gateway serves; gives its port and its ops port."""
        told = json.loads(self.line('"event":"serving"'))
        return told["port"], told["ops_port"]

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end; gives the exit code."""
        code = self.process.wait(WAIT_S)
        for reader in self._readers:
            reader.join(WAIT_S)
        return code

    def output(self) -> str:
        """Everything that it said."""
        return "\n".join(self.lines)


@contextmanager
def serving(*arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Start a command. Holds: the process, which is killed at the exit if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tidegate", *arguments],
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    served = Served(process)
    try:
        yield served
    finally:
        if process.poll() is None:
            process.kill()
        served.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def get(port: int, path: str) -> tuple[int, bytes]:
    """Give status and body of a GET. Errors: OSError when nobody listens."""
    return fetch(port, "GET", path)


def fetch(
    port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Give status and body of a request. Errors: OSError when nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request(method, path, body or None, {"content-type": "application/json", **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
