"""Twelve comparisons of Cog's server and Tidegate, with the figures of both: what differs in use, not in form."""

import argparse
import collections
import contextlib
import http.client
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cog_servers import Coglet, Site, Tidegate, Wish, wait_exit
from cog_talk import Json, Stream, hook, later, names

QUEUE = 1000
"""Tidegate's usual line; Cog has none."""
RECORDED = Path(__file__).parent / "compared.json"


@dataclass(frozen=True)
class Comparison:
    """One comparison. Shape: `measure` gives figures by their names, for one server; `holds` judges Tidegate's."""

    letter: str
    title: str
    measure: Callable[[Site, bool], dict[str, Json]]
    holds: Callable[[dict[str, Json]], bool]


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value that a share of the values do not exceed. Shape: 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _arrivals(stream: Stream) -> list[float]:
    """Give when the outputs of a stream arrived."""
    with contextlib.closing(stream):
        return [time.monotonic() for event in stream if event.name == "output"]


def async_gap(site: Site, _quick: bool) -> dict[str, Json]:
    """Read one asynchronous generator that yields every 50 ms."""
    with site.fresh(Wish(model="steps", slots=8)) as running:
        began = time.monotonic()
        times = _arrivals(running.talk.stream("", {"n": 40, "delay": 0.05}))
    gaps = [1000 * (later_ - earlier) for earlier, later_ in itertools.pairwise(times)]
    first = 1000 * (times[0] - began)
    return {"first chunk ms": round(first), "gap p50 ms": round(percentile(gaps, 0.5), 1), "chunks": len(times)}


def four_streams(site: Site, _quick: bool) -> dict[str, Json]:
    """Read four streams at once, each of 2 s."""
    with site.fresh(Wish(model="steps", slots=4, queue=QUEUE)) as running:
        began = time.monotonic()
        streams = [later(lambda: _arrivals(running.talk.stream("", {"n": 20, "delay": 0.1}))) for _ in range(4)]
        times = [stream.result(60) for stream in streams]
    firsts = [found[0] - began for found in times if found]
    return {
        "last first chunk s": round(max(firsts), 2),
        "all done s": round(max(found[-1] - began for found in times), 2),
    }


def serial_client(site: Site, quick: bool) -> dict[str, Json]:
    """Ask again as soon as an answer is in, on one connection."""
    asked = 300 if quick else 2000
    with site.fresh(Wish(model="trivial", queue=QUEUE)) as running:
        statuses = collections.Counter(serial(running.port, asked))
    return {
        "requests": asked,
        "200": statuses[200],
        "409": statuses[409],
        "served %": round(100 * statuses[200] / asked, 1),
    }


def serial(port: int, count: int) -> list[int]:
    """Give the statuses of requests that one client sends, one after another."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    statuses = []
    with contextlib.closing(connection):
        for _ in range(count):
            connection.request("POST", "/predictions", b'{"input":{}}', {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
    return statuses


def killed_worker(site: Site, _quick: bool) -> dict[str, Json]:
    """Kill the worker with SIGKILL, and ask until it is answered well, for 10 s at most."""
    with site.fresh(Wish(queue=QUEUE)) as running:
        os.kill(running.worker(), signal.SIGKILL)
        began = time.monotonic()
        while time.monotonic() - began < 10:
            with contextlib.suppress(OSError):
                answer = running.talk.post({"prompt": "x", "n": 1})
                if answer.status == 200 and answer.json["status"] == "succeeded":
                    return {"served again": True, "after s": round(time.monotonic() - began, 2)}
            time.sleep(0.05)
        return {"served again": False, "after s": "never", "health": running.talk.health()["status"]}


def terminated(site: Site, _quick: bool) -> dict[str, Json]:
    """Send SIGTERM while three predictions made with `respond-async` are accepted."""
    with site.fresh(Wish(model="steps", slots=4, queue=QUEUE)) as running, hook() as receiver:
        more: dict[str, Json] = {"webhook": receiver.url(), "webhook_events_filter": ["completed"]}
        for _ in range(3):
            running.talk.post({"n": 10, "delay": 0.2}, prefer="respond-async", **more)
        time.sleep(0.5)
        os.kill(running.process.pid, signal.SIGTERM)
        ended = wait_exit(running)
        time.sleep(0.3)
        done = [hit.body["status"] for hit in receiver.hits]
    return {"accepted": 3, "told their end": len(done), "succeeded": done.count("succeeded"), "exited": ended}


def late_attach(site: Site, _quick: bool) -> dict[str, Json]:
    """Attach after some 2,000 events."""
    given = {"n": 3000, "delay": 0.001, "size": 5}
    with site.fresh(Wish(model="pinger")) as running:
        running.talk.put("late", given, prefer="respond-async")
        first = running.talk.stream("late", given)
        first.until("output", 2000)
        events = running.talk.stream("late", given).rest()
        first.close()
    found = names(events)
    return {"first event": found[0], "outputs": found.count("output"), "last event": found[-1]}


def reconnect(site: Site, _quick: bool) -> dict[str, Json]:
    """Come again with the same id after the end."""
    given = {"prompt": "x", "mode": "count"}
    with site.fresh(Wish()) as running:
        first = running.talk.put("again", given).json["output"]
        running.talk.wait_ready()
        second = running.talk.put("again", given).json["output"]
        answer = running.talk.call("GET", "/predictions/again")
    return {"model runs": 1 + (first != second), "GET": answer.status}


def sleeping_reader(site: Site, quick: bool) -> dict[str, Json]:
    """Sleep for 2 s after the first event of 20,000 chunks of 1,000 characters."""
    chunks = 5000 if quick else 20000
    # Without a webhook: for one, Cog makes a copy of all output at each chunk, and is then too slow for any reader to lag.
    with site.fresh(Wish(model="pinger")) as running:
        stream = running.talk.stream("", {"n": chunks, "size": 1000}, buffer_bytes=65536)
        stream.until("start")
        time.sleep(2)
        events = stream.rest()
    whole = len(events[-1].data.get("output", [])) if events[-1].name == "completed" else 0
    read = names(events)
    return {"chunks": chunks, "outputs read": read.count("output"), "last event": read[-1], "in completed": whole}


def odd_ids(site: Site, _quick: bool) -> dict[str, Json]:
    """Name predictions by a path and by 300 characters, and ask once more."""
    found: dict[str, Json] = {}
    for title, name in (("../", "../../..{folder}/escaped"), ("300 characters", "a" * 300)):
        with site.fresh(Wish(queue=QUEUE)) as running:
            running.talk.post({"prompt": "x", "n": 0}, id=name.format(folder=running.folder), timeout_s=10)
            running.talk.wait_health("READY", timeout_s=2)
            found[f"{title}: next request"] = running.talk.post({"prompt": "x", "n": 0}).status
            if title == "../":
                found["made a folder outside"] = (running.folder / "escaped").exists()
    return found


def disk(site: Site, quick: bool) -> dict[str, Json]:
    """Look at the disk after many predictions."""
    asked = 200 if quick else 10_000
    with site.fresh(Wish(model="trivial", queue=QUEUE)) as running:
        files, size = running.left, running.left_bytes  # a folder that lasts as long as the server is none's
        served = serial(running.port, asked).count(200)
        return {"served": served, "left behind": running.left - files, "KiB": (running.left_bytes - size) // 1024}


def webhook_order(site: Site, _quick: bool) -> dict[str, Json]:
    """Have 300 chunks told, 2 ms apart."""
    with site.fresh(Wish(model="pinger")) as running, hook() as receiver:
        running.talk.post({"n": 300, "delay": 0.002}, prefer="respond-async", webhook=receiver.url())
        receiver.wait("succeeded")
        time.sleep(0.5)
        lengths = [len(hit.body.get("output") or []) for hit in receiver.hits]
        size = sum(len(json.dumps(hit.body)) for hit in receiver.hits)
    wrong = sum(after < before for before, after in itertools.pairwise(lengths))
    return {"webhooks": len(lengths), "out of order": wrong, "KiB": size // 1024}


def failure(site: Site, _quick: bool) -> dict[str, Json]:
    """Let a prediction fail after two chunks."""
    with site.fresh(Wish()) as running:
        body = running.talk.post({"prompt": "x", "mode": "raise"}).json
        running.talk.wait_ready()
        return {
            "logs": bool(body["logs"]),
            "output": bool(body.get("output")),
            "traceback in log": running.logs("Traceback"),
        }


COMPARISONS = (
    Comparison(
        "a",
        "an asynchronous generator that yields 40 chunks, 50 ms apart",
        async_gap,
        lambda seen: seen["first chunk ms"] < 500 and seen["gap p50 ms"] > 25 and seen["chunks"] == 40,
    ),
    Comparison(
        "b",
        "four streams of 2 s at once",
        four_streams,
        lambda seen: seen["last first chunk s"] < 1 and seen["all done s"] < 4,
    ),
    Comparison("c", "a client that asks again at once", serial_client, lambda seen: seen["200"] == seen["requests"]),
    Comparison("d", "kill -9 of the worker, then requests", killed_worker, lambda seen: seen["served again"]),
    Comparison("e", "SIGTERM with three accepted predictions", terminated, lambda seen: seen["succeeded"] == 3),
    Comparison(
        "f",
        "attaching after 2,000 events of 3,000",
        late_attach,
        lambda seen: seen["first event"] in {"start", "skipped"} and seen["last event"] == "completed",
    ),
    Comparison(
        "g",
        "the same id again after the end",
        reconnect,
        lambda seen: seen["model runs"] == 1 and seen["GET"] == 200,
    ),
    Comparison(
        "h",
        "a reader that sleeps 2 s",
        sleeping_reader,
        lambda seen: seen["last event"] == "completed" and seen["in completed"] == seen["chunks"],
    ),
    Comparison(
        "i",
        "ids that are a path, or long",
        odd_ids,
        lambda seen: (
            seen["../: next request"] == seen["300 characters: next request"] == 200
            and not seen["made a folder outside"]
        ),
    ),
    Comparison("j", "the disk after many predictions", disk, lambda seen: seen["left behind"] == 0),
    Comparison(
        "k",
        "webhooks of 300 chunks",
        webhook_order,
        lambda seen: 0 < seen["webhooks"] < 100 and seen["out of order"] == 0,
    ),
    Comparison(
        "l",
        "a failure in a synchronous answer",
        failure,
        lambda seen: seen["logs"] and seen["output"] and seen["traceback in log"],
    ),
)


def main(arguments: Sequence[str]) -> int:
    """Measure both servers, print the figures, and write them; gives 1 where Tidegate's are not what they have to be."""
    parser = argparse.ArgumentParser(prog="scripts/cog-compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("--only", choices=("cog", "tidegate"), help="measure one of the servers")
    parser.add_argument("--letters", default="", help="measure some comparisons, as in 'acd'")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--record", action="store_true", help="write the figures that docs/cog.md shows")
    asked = parser.parse_args(arguments)
    kinds = [kind for kind in (Coglet(), Tidegate()) if asked.only in {None, kind.name}]
    figures: dict[str, Json] = {"versions": [kind.version() for kind in kinds], "comparisons": []}
    worse = []
    for comparison in COMPARISONS:
        if asked.letters and comparison.letter not in asked.letters:
            continue
        found = {kind.name: _measured(comparison, Site(kind), quick=asked.quick) for kind in kinds}
        figures["comparisons"].append({"letter": comparison.letter, "title": comparison.title, **found})
        _show(comparison, found)
        if "tidegate" in found and ("broken" in found["tidegate"] or not comparison.holds(found["tidegate"])):
            worse.append(comparison.letter)
    for file in (asked.json, RECORDED if asked.record else None):
        if file is not None:
            file.write_text(json.dumps(figures, indent=1) + "\n")
    sys.stdout.write(
        f"\nTidegate does not hold what is said of it in: {', '.join(worse)}\n" if worse else "\nAll hold.\n"
    )
    return int(bool(worse))


def _measured(comparison: Comparison, site: Site, *, quick: bool) -> dict[str, Json]:
    try:
        return comparison.measure(site, quick)
    except Exception as error:  # noqa: BLE001 - what breaks one server is shown beside the other's figures
        return {"broken": f"{type(error).__name__}: {error}"}


def _show(comparison: Comparison, found: dict[str, dict[str, Json]]) -> None:
    lines = [f"\n({comparison.letter}) {comparison.title}", f"    {'':24}" + "".join(f"{name:>16}" for name in found)]
    for figure in dict.fromkeys(name for figures in found.values() for name in figures):
        cells = "".join(f"{figures.get(figure, '')!s:>16}" for figures in found.values())
        lines.append(f"    {figure:24}{cells}")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
