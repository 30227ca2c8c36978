"""`make soak`: mixed streams with random faults and disconnects for ten minutes; at the end everything is back to zero.

The gateway is a process of its own, so that its memory and descriptors can be read; mock and clients are here.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from prometheus_client.parser import text_string_to_metric_families

from harness import chat, connect, request_bytes
from tidegate.edge.listener import raise_nofile_limit
from tidegate.mock.server import MockProvider

MODELS = (
    *("mock?events=34", "mock?itl=5ms&tokens=80", "mock?itl=20ms±10ms&tokens=40", "mock?ttft=200ms&tokens=5") * 3,
    *("mock?cut=3&tokens=30", "mock?crlf&tokens=50", "mock?bigframe=300KiB&tokens=20", "mock?reasoning=5&tokens=9"),
    *("mock?status=429&retry_after=2", "mock?status=500", "mock?json_error", "mock?reject", "mock?stall=head"),
    *(
        f"mock?itl=5ms&tokens=40&fail_at={at}&fail={kind}"
        for at in (0, 17)
        for kind in ("reset", "eof", "error", "garbage")
    ),
    "mock?fail=stall&fail_at=9&tokens=20",
)
CONFIG = """
server: {port: 0, heartbeat: 1s, slow_client_timeout: 5s}
ops: {listen: "127.0.0.1:0"}
providers:
  - name: main
    kind: mock
    base_url: http://127.0.0.1:%d/v1
    timeouts: {connect: 5s, headers: 3s, first_token: 4s, idle: 3s, total: 60s, response: 30s}
    # Faults are what is wanted here: no breaker may keep them away.
    breaker: {failures: 0, ratio: 0}
models:
  - {name: mock, targets: [{provider: main}]}
"""


async def start(config: Path) -> tuple[asyncio.subprocess.Process, int, int]:
    """Start the gateway; gives it and its two ports."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tidegate", "serve", "-c", str(config), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(20):
        while True:
            line = json.loads(await process.stderr.readline())
            if line["event"] == "serving":
                return process, line["port"], line["ops_port"]


async def drop(stream: asyncio.StreamReader) -> None:
    """Read the log, so that its pipe is never full."""
    while await stream.read(1 << 16):
        pass


async def one(port: int, dice: random.Random, tally: collections.Counter[str]) -> None:
    """Make one request, perhaps leave in the middle of it."""
    body = chat(dice.choice(MODELS), stream=dice.random() < 0.85, user="soak")
    body.pop("user")
    with contextlib.suppress(EOFError, ConnectionError, TimeoutError):
        async with connect(port) as client:
            await client.send(request_bytes(body))
            if dice.random() < 0.2:
                async with asyncio.timeout(dice.random() * 0.5):
                    await client.reader.read(dice.choice((1, 1000, 100_000)))
                tally["left"] += 1
                return
            reply = await client.reply(40)
            tally[str(reply.status)] += 1


async def worker(port: int, until: float, dice: random.Random, tally: collections.Counter[str]) -> None:
    """Make requests until the time is over."""
    while time.monotonic() < until:
        await one(port, dice, tally)
        await asyncio.sleep(dice.random() * 0.2)


def rss_kib(pid: int) -> int:
    """Give the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


async def gauges(ops_port: int) -> dict[str, float]:
    """Give the sums of the metrics that must agree at the end."""
    async with connect(ops_port) as client:
        await client.send(b"GET /metrics HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n\r\n")
        reply = await client.reply()
    sums: dict[str, float] = collections.defaultdict(float)
    for family in text_string_to_metric_families(reply.body.decode()):
        for sample in family.samples:
            state = sample.labels.get("state", "")
            sums[f"{sample.name}{'.' + state if state else ''}"] += sample.value
    return sums


async def soak(seconds: float, streams: int, seed: int) -> int:
    """Run the soak; gives the exit code."""
    mock = MockProvider(seed)
    mock_port = await mock.start()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "soak.yaml"
        config.write_text(CONFIG % mock_port)
        process, port, ops_port = await start(config)
        assert process.stderr is not None
        tally: collections.Counter[str] = collections.Counter()
        memory: list[int] = []
        descriptors = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(drop(process.stderr))
            workers = [group.create_task(worker(port, until, random.Random(seed + n), tally)) for n in range(streams)]
            while time.monotonic() < until:
                await asyncio.sleep(min(10.0, seconds / 12))
                memory.append(rss_kib(process.pid))
                print(f"{until - time.monotonic():6.0f} s left  rss {memory[-1]} KiB  {dict(tally)}", flush=True)
            await asyncio.wait(workers)
            await asyncio.sleep(8)  # stalled streams end at their deadlines
            sums = await gauges(ops_port)
            left = len(list(Path(f"/proc/{process.pid}/fd").iterdir())) - descriptors
            process.send_signal(signal.SIGINT)
            await process.wait()
    await mock.close()
    return judge(sums, memory, left, process.returncode or 0)


def judge(sums: dict[str, float], memory: list[int], left: int, code: int) -> int:
    """Print what is wrong; gives the exit code."""
    middle, end = memory[len(memory) // 3 : 2 * len(memory) // 3], memory[2 * len(memory) // 3 :]
    growth = (sum(end) / len(end)) / (sum(middle) / len(middle))
    idle = sums["tidegate_upstream_connections.idle"]
    checks = {
        "no exchange in flight": sums["tidegate_exchanges_in_flight"] == 0,
        "no stream in flight": sums["tidegate_streams_in_flight"] == 0,
        "no provider call in flight": sums["tidegate_provider_calls_in_flight"] == 0,
        "no client connection": sums["tidegate_connections_active"] == 0,
        "no connection in use": sum(value for name, value in sums.items() if name.endswith("connections.in_use")) == 0,
        "started = finished": sums["tidegate_exchanges_started_total"] == sums["tidegate_requests_total"] > 0,
        "nothing buffered": sums["tidegate_buffered_bytes"] == 0,
        f"descriptors back ({left:+d}, {idle:.0f} idle upstream)": left <= idle + 2,
        f"memory flat (x{growth:.3f} from the middle third to the last)": growth < 1.1,
        f"exit code {code}": code == 0,
    }
    for name, fine in checks.items():
        print("ok  " if fine else "FAIL", name)
    return 0 if all(checks.values()) else 1


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    raise_nofile_limit()
    sys.exit(uvloop.run(soak(options.seconds, options.streams, options.seed)))


if __name__ == "__main__":
    main()
