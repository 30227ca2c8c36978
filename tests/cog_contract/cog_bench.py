"""How fast Cog's server and Tidegate are beside each other: the same load, alternating, in one run."""

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cog_compare import percentile
from cog_servers import Coglet, Kind, Running, Site, Tidegate, Wish
from cog_talk import SSE, Json

QUEUE = 1000
SUBSCRIBERS = 1000
LEAST = {"c=1": 1.5, "c=16": 1.5, "events per s": 1.0}
"""What Tidegate's rates have to be at least, as multiples of Cog's."""
MOST_GAP_MS = 15.0
RECORDED = Path(__file__).parent / "benched.json"
_SCRIPT = """
wrk.method = "POST"
wrk.body = '{"input":{}}'
wrk.headers["content-type"] = "application/json"
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() good = 0; refused = 0 end
function response(status, headers, body)
  if status == 200 and body:find('"succeeded"', 1, true) then good = good + 1 else refused = refused + 1 end
end
function done(summary, latency, requests)
  local good, refused = 0, 0
  for _, thread in ipairs(threads) do
    good = good + thread:get("good")
    refused = refused + thread:get("refused")
  end
  io.write(string.format("\\nFOUND %d %d %d %d\\n", good, refused, summary.duration, latency:percentile(99)))
end
"""


def rate(running: Running, connections: int, seconds: int) -> dict[str, Json]:
    """Give the predictions that succeed in a second."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(_SCRIPT)
        url = f"http://127.0.0.1:{running.port}/predictions"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30)
    found = re.search(r"^FOUND (\d+) (\d+) (\d+) (\d+)$", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk gave no report: {done.stdout[-400:]}")
    good, refused, duration_us, p99_us = map(int, found.groups())
    return {"per s": round(good / (duration_us / 1e6)), "refused": refused, "p99 ms": round(p99_us / 1000, 2)}


def rates(kinds: Sequence[Kind], seconds: int, rounds: int) -> dict[str, Json]:
    """Give the rates of both, at 1 and 16 connections: the median of the rounds, in which they take turns."""
    found: dict[str, Json] = {}
    with contextlib.ExitStack() as stack:
        servers = {
            kind.name: stack.enter_context(Site(kind).fresh(Wish(model="trivial", queue=QUEUE))) for kind in kinds
        }
        for connections in (1, 16):
            seen: dict[str, list[dict[str, Json]]] = {name: [] for name in servers}
            for _ in range(rounds):
                for name, running in servers.items():
                    running.talk.wait_ready()
                    seen[name].append(rate(running, connections, seconds))
            for name, all_rounds in seen.items():
                found.setdefault(name, {})[f"c={connections}"] = {
                    figure: statistics.median(one[figure] for one in all_rounds) for figure in all_rounds[0]
                }
    return found


def events(kind: Kind, chunks: int, rounds: int) -> dict[str, Json]:
    """Give the events in a second of one stream that is not paced, read by the same client."""
    found = []
    with Site(kind).fresh(Wish(model="pinger")) as running:
        for _ in range(rounds):
            running.talk.wait_ready()
            began = time.monotonic()
            stream = running.talk.stream("", {"n": chunks})
            read = sum(event.name == "output" for event in stream)
            found.append((read / (time.monotonic() - began), read))
            stream.close()
    return {
        "events per s": round(statistics.median(speed for speed, _ in found)),
        "read": min(read for _, read in found),
    }


async def _read(port: int, head: str, body: str) -> tuple[list[float], bytes]:
    """Read one stream to its end; gives when outputs came, and the last event."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=16 * 1024 * 1024)
    kind = f"host: localhost\r\naccept: {SSE}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    writer.write(f"{head} HTTP/1.1\r\n{kind}content-length: {len(body)}\r\n\r\n{body}".encode())
    times, last = [], b""
    with contextlib.closing(writer):
        while line := await reader.readline():
            if line.startswith(b"event: "):
                last = line[7:].strip()
                if last == b"output":
                    times.append(time.perf_counter())
    return times, last


async def _paced(port: int, streams: int, chunks: int) -> list[float]:
    body = json.dumps({"input": {"n": chunks, "delay": 0.01}})
    found = await asyncio.gather(*(_read(port, "POST /predictions", body) for _ in range(streams)))
    return [1000 * (after - before) for times, _ in found for before, after in itertools.pairwise(times)]


def paced(kind: Kind, chunks: int) -> dict[str, Json]:
    """Give the gaps of eight asynchronous streams at once, which yield every 10 ms."""
    with Site(kind).fresh(Wish(model="steps", slots=8)) as running:
        gaps = asyncio.run(_paced(running.port, 8, chunks))
    return {
        "gap p50 ms": round(percentile(gaps, 0.5), 2),
        "gap p99 ms": round(percentile(gaps, 0.99), 2),
        "gaps": len(gaps),
    }


async def _crowd(port: int, chunks: int) -> tuple[int, float]:
    began = time.perf_counter()
    body = json.dumps({"input": {"n": chunks, "delay": 0.05}})
    found = await asyncio.gather(*(_read(port, "PUT /predictions/crowd", body) for _ in range(SUBSCRIBERS)))
    whole = sum(len(times) == chunks and last == b"completed" for times, last in found)
    return whole, time.perf_counter() - began


def crowd(kind: Kind) -> dict[str, Json]:
    """Give how many of 1,000 subscribers of one prediction got all of it."""
    chunks = 100
    with Site(kind).fresh(Wish(model="pinger")) as running:
        running.talk.put("crowd", {"n": chunks, "delay": 0.05}, prefer="respond-async")
        whole, took_s = asyncio.run(_crowd(running.port, chunks))
    return {"subscribers": SUBSCRIBERS, "got all": whole, "s": round(took_s, 2)}


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and write; gives 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="scripts/cog-bench", description=__doc__)
    parser.add_argument("--only", choices=("cog", "tidegate"), help="measure one of the servers")
    parser.add_argument("--seconds", type=int, default=5, help="how long each load lasts")
    parser.add_argument("--rounds", type=int, default=3, help="how often the two take turns")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--record", action="store_true", help="write the figures that docs/cog.md shows")
    asked = parser.parse_args(arguments)
    kinds = [kind for kind in (Coglet(), Tidegate()) if asked.only in {None, kind.name}]
    found: dict[str, Json] = {"versions": [kind.version() for kind in kinds]}
    found["trivial prediction"] = _shown("trivial prediction, succeeded", rates(kinds, asked.seconds, asked.rounds))
    found["one stream"] = _shown(
        "one stream, not paced", {kind.name: events(kind, 20000, asked.rounds) for kind in kinds}
    )
    found["1,000 subscribers"] = _shown("1,000 subscribers", {kind.name: crowd(kind) for kind in kinds})
    streaming = [kind for kind in kinds if kind.name != "cog"]  # Cog sends an asynchronous generator at its end
    found["8 paced streams"] = _shown(
        "8 asynchronous streams, 10 ms", {kind.name: paced(kind, 300) for kind in streaming}
    )
    if asked.only is None:
        found["ratio"] = _shown("Tidegate beside Cog", ratios(found))
    for file in (asked.json, RECORDED if asked.record else None):
        if file is not None:
            file.write_text(json.dumps(found, indent=1) + "\n")
    missed = misses(found)
    sys.stdout.write("".join(f"\nmissed: {miss}" for miss in missed) + "\n" if missed else "\nAll targets are met.\n")
    return int(bool(missed))


def misses(found: dict[str, Json]) -> list[str]:
    """Give the targets that were not met. Shape: those that compare only where both were measured."""
    missed = [
        f"{name} is {found['ratio'][name]} of Cog's, not {least}"
        for name, least in LEAST.items()
        if "ratio" in found and found["ratio"][name] < least
    ]
    if "tidegate" in found["8 paced streams"] and found["8 paced streams"]["tidegate"]["gap p99 ms"] > MOST_GAP_MS:
        missed.append(f"the gaps of paced streams are more than {MOST_GAP_MS:g} ms at p99")
    crowd_ = found["1,000 subscribers"].get("tidegate")
    if crowd_ is not None and crowd_["got all"] != SUBSCRIBERS:
        missed.append("not every subscriber got all")
    return missed


def ratios(found: dict[str, Json]) -> dict[str, Json]:
    """Give Tidegate's rates as multiples of Cog's in the same run."""
    calls, streams = found["trivial prediction"], found["one stream"]
    return {
        **{name: _ratio(calls["tidegate"][name]["per s"], calls["cog"][name]["per s"]) for name in ("c=1", "c=16")},
        "events per s": _ratio(streams["tidegate"]["events per s"], streams["cog"]["events per s"]),
    }


def _ratio(ours: float, theirs: float) -> float:
    return round(ours / max(theirs, 1), 2)


def _shown(title: str, found: dict[str, Json]) -> dict[str, Json]:
    sys.stdout.write(f"\n{title}\n" + "".join(f"    {name:10} {figures}\n" for name, figures in found.items()))
    sys.stdout.flush()
    return found
