"""wrk as a load generator: the script it is given, and what its report says. Streams are unpaced here."""

import subprocess
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from tidegate.bench.measure import MismeasuredError, find_command

_MARK: Final = "TIDEGATE-RESULT "
_TIMEOUT_S: Final = 10
_GRACE_S: Final = 20.0
# wrk's own lines round to two digits; its `done` hook has the numbers as they are.
_SCRIPT: Final = """
local file = assert(io.open({body}, "rb"))
wrk.method = "POST"
wrk.path = "/v1/chat/completions"
wrk.body = file:read("*a")
file:close()
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = {authorization}

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{mark}{{"requests":%d,"bytes":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,' ..
    '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\\n',
    summary.requests, summary.bytes, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""


class WrkReport(Struct, frozen=True):
    """What wrk saw. Shape: the last five are counts of errors; `status` is a status that is neither 2xx nor 3xx."""

    requests: int
    bytes: int
    duration_us: int
    p50_us: int
    p99_us: int
    connect: int
    read: int
    write: int
    status: int
    timeout: int

    def check(self) -> None:
        """Find fault. Errors: MismeasuredError."""
        errors = {name: getattr(self, name) for name in ("connect", "read", "write", "status", "timeout")}
        if seen := ", ".join(f"{count} {name}" for name, count in errors.items() if count):
            raise MismeasuredError(f"wrk saw errors: {seen}")
        if not self.requests or not self.duration_us:
            raise MismeasuredError("wrk finished no request")


def render_script(body_path: str, key: str) -> str:
    """Give the Lua script that posts a file."""
    quoted = [msgspec.json.encode(text).decode() for text in (body_path, f"Bearer {key}")]
    return _SCRIPT.format(body=quoted[0], authorization=quoted[1], mark=_MARK)


def parse_report(output: str) -> WrkReport:
    """Give what wrk reported. Errors: MismeasuredError when its output has no report."""
    for line in output.splitlines():
        if line.startswith(_MARK):
            try:
                return msgspec.json.decode(line.removeprefix(_MARK), type=WrkReport)
            except msgspec.DecodeError as error:
                raise MismeasuredError(f"wrk's report can't be read: {error}") from None
    raise MismeasuredError("wrk gave no report")


def run_wrk(url: str, script: Path, *, connections: int, seconds: int) -> WrkReport:
    """Load a server for some seconds. Errors: MismeasuredError."""
    command = [find_command("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s"]
    command += ["--timeout", f"{_TIMEOUT_S}s", "-s", str(script), url]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _GRACE_S, check=False)
    except subprocess.TimeoutExpired:
        raise MismeasuredError("wrk did not end") from None
    if done.returncode:
        raise MismeasuredError(f"wrk failed: {done.stderr.strip()[:200]}")
    report = parse_report(done.stdout)
    report.check()
    return report
