"""`make chaos`: three providers that fail, stall, refuse and come back, and 300 clients who must hardly notice.

Gateway and mock providers are processes of their own. Before each mock stands a gate that breaks it by a plan which leaves
one provider fine at any time; what the gateway owes its clients then is judged at the end.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import re
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal

import uvloop
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from gates import Gate, Mode
from harness import chat, connect, request_bytes
from soak import start
from streams import unchunked
from tidegate.edge.listener import raise_nofile_limit
from tidegate.verdict import TABLE, Again

PROVIDERS: Final = ("a", "b", "c")
CLIENTS: Final = 300
DEADLINE_S: Final = 12.0
OWN_DEADLINE_S: Final = 1.5
SLACK_S: Final = 1.0
"""What a busy machine may add to a deadline."""
RATE: Final = 5.0
BURST: Final = 10.0
RATIO: Final = 0.2
SETTLE_S: Final = 8.0
"""How long after its return a provider may still be avoided: its breaker opens for as long again as the fault lasted."""
FAULT_S: Final = (1.0, 5.0)
LEAST: Final = 0.999
CONFIG: Final = """
server: {port: 0, heartbeat: 1s, slow_client_timeout: 5s, request_timeout: %(deadline)ss, drain_delay: 0s}
ops: {listen: "127.0.0.1:0"}
providers:
%(providers)s
models:
  - name: steady
    balance: p2c_ewma
    targets: [{provider: a}, {provider: b, priority: 1}, {provider: c, priority: 1}]
  - name: hedged
    balance: p2c_ewma
    hedge: {after: 400ms}
    targets: [{provider: a}, {provider: b}, {provider: c}]
"""
PROVIDER: Final = """
  - name: %(name)s
    kind: mock
    base_url: http://127.0.0.1:%(port)d/v1
    timeouts: {connect: 1s, headers: 1s, first_token: 1s, idle: 1s, total: 10s, response: 2s}
    retry: {max_attempts: 2, initial_delay: 250ms, max_delay: 1s, max_retry_after: 2s}
    retry_budget: {rate_per_second: %(rate)s, burst: %(burst)s, ratio: %(ratio)s}
    slots: {max_streams: 80, max_queue: 1000, max_queue_wait: 5s}
    breaker: {failures: 5, open_for: 500ms, window: 10s}
"""
GAUGES: Final = {
    "exchanges_in_flight": {},
    "streams_in_flight": {},
    "provider_calls_in_flight": {},
    "connections_active": {},
    "buffered_bytes": {},
    "slots": {},
    "upstream_connections": {"state": "in_use"},
}
"""What must be zero when nobody asks any more, by the labels that count."""

Kind = Literal["stream", "whole", "slow", "leaving", "overlong"]
KINDS: Final[tuple[Kind, ...]] = ("stream",) * 14 + ("whole",) * 3 + ("leaving",) * 2 + ("slow", "overlong")
Metrics = Sequence[tuple[str, Mapping[str, str], float]]


# --- what is broken, and when -----------------------------------------------------------------------------------------


class Fault(Struct, frozen=True):
    """A time in which a provider is not fine, in seconds since the start."""

    provider: str
    mode: Mode
    from_s: float
    until_s: float

    def overlaps(self, from_s: float, until_s: float) -> bool:
        return self.from_s <= until_s and from_s <= self.until_s

    @property
    def cuts(self) -> bool:
        """Whether streams that are open suffer, too."""
        return self.mode in {"refuse", "reset", "stall"}


def plan(seconds: float, dice: random.Random) -> list[Fault]:
    """Give the faults of a run. Holds: at any time one provider at least has been fine for SETTLE_S."""
    faults: list[Fault] = []
    settled_at = dict.fromkeys(PROVIDERS, 0.0)
    now = 2.0
    while now < seconds - FAULT_S[1] - 1.0:
        settled = [name for name, at_s in settled_at.items() if at_s <= now]
        if len(settled) > 1 and dice.random() < 0.3:
            mode: Mode = dice.choice(("refuse", "reset", "stall", "stall", "busy", "failing", "flaky"))
            fault = Fault(dice.choice(settled), mode, now, now + dice.uniform(*FAULT_S))
            faults.append(fault)
            settled_at[fault.provider] = fault.until_s + SETTLE_S + 1.0  # a process takes a moment to come back
        now += 0.25
    return faults


def fine_throughout(faults: Iterable[Fault], from_s: float, until_s: float) -> bool:
    """Say whether one and the same provider was fine all the time, and settled before."""
    bad = {fault.provider for fault in faults if fault.overlaps(from_s - SETTLE_S, until_s)}
    return len(bad) < len(PROVIDERS)


# --- clients -----------------------------------------------------------------------------------------------------------


class Asked(Struct):
    """One request. Shape: seconds since the start; `opened_s` is when the head came, 0.0 for never; `whole` says that all came."""

    id: str
    kind: Kind
    model: str
    tokens: int
    began_s: float
    opened_s: float = 0.0
    ended_s: float = 0.0
    status: int = 0
    provider: str = ""
    code: str = ""
    may_retry: bool = True
    whole: bool = False
    forged: bool = False

    @property
    def denied(self) -> bool:
        """Whether the retry budget was empty: the answer says not to retry what could be."""
        row = TABLE.get(self.code)
        return not self.may_retry and (row is None or row.again is not Again.NEVER)


def request_of(asked: Asked, dice: random.Random) -> bytes:
    """Give the bytes of a request; all that is random about it comes from the dice."""
    knobs = f"mock?ttft={dice.randint(10, 120)}ms&itl=10ms&tokens={asked.tokens}"
    if asked.kind == "slow":
        knobs += "&bigframe=128KiB"
    headers = {"x-request-id": asked.id, "connection": "close"}
    if asked.kind == "overlong":
        headers["x-request-timeout"] = f"{OWN_DEADLINE_S}s"
    return request_bytes(chat(asked.model, stream=asked.kind != "whole", user=knobs), headers=headers)


def read_answer(asked: Asked, head: bytes, body: bytes) -> None:
    """Write down what an answer came to."""
    lines = head.decode("latin-1").split("\r\n")
    asked.status = int(lines[0].split(" ")[1])
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    asked.provider = fields.get("x-tidegate-target", "").partition("/")[0]
    asked.may_retry = fields.get("x-should-retry") != "false"
    payload, complete = (body, True) if "content-length" in fields else unchunked(body)
    if asked.status != 200 or b'"error":' in payload:
        found = re.search(rb'"code": ?"(\w+)"', payload)
        asked.code = found[1].decode() if found else "none"
    elif asked.kind == "whole":
        asked.whole = complete and bool(json.loads(payload)["choices"])
    else:
        events = payload.count(b"data: ")
        ended = payload.endswith(b"data: [DONE]\n\n")
        asked.whole = complete and ended and events == asked.tokens + 3  # the role, the finish and [DONE]
        asked.forged = complete and ended and not asked.whole


async def ask(port: int, asked: Asked, dice: random.Random, began_at: float) -> None:
    """Make one request as its kind does, and note what came of it."""
    request = request_of(asked, dice)
    asked.began_s = time.monotonic() - began_at
    with contextlib.suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
        async with connection(port, slow=asked.kind == "slow") as (reader, writer), asyncio.timeout(2 * DEADLINE_S):
            writer.write(request)
            if asked.kind == "leaving":
                async with asyncio.timeout(dice.random() * 0.4):
                    await reader.read(-1)
            head = await reader.readuntil(b"\r\n\r\n")
            asked.opened_s = time.monotonic() - began_at
            body = b""
            while data := await reader.read(4096 if asked.kind == "slow" else 65536):
                body += data
                if asked.kind == "slow":
                    await asyncio.sleep(0.03)
            read_answer(asked, head, body)
    asked.ended_s = time.monotonic() - began_at


@asynccontextmanager
async def connection(port: int, *, slow: bool) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Give a connection; a slow client's buffers are small, so that the gateway notices."""
    sock = socket.socket()
    sock.setblocking(False)
    if slow:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=8192 if slow else 1 << 20)
    except BaseException:
        sock.close()
        raise
    try:
        yield reader, writer
    finally:
        writer.close()


class Crowd:
    """All clients. Shape: `asked` are the requests that are over, in the order of their endings."""

    def __init__(self, port: int, began_at: float, until_s: float, dice: random.Random) -> None:
        self.asked: list[Asked] = []
        self.under_way = 0
        self._port = port
        self._began_at = began_at
        self._until_s = until_s
        self._dice = dice

    async def client(self, number: int) -> None:
        """Make requests, with thought between them, until the time is over."""
        dice = random.Random(self._dice.random())
        await asyncio.sleep(dice.random() * 2)
        turn = 0
        while time.monotonic() - self._began_at < self._until_s:
            turn += 1
            kind = dice.choice(KINDS)
            tokens = 400 if kind == "overlong" else dice.randint(5, 40)
            model = dice.choice(("steady", "hedged"))
            asked = Asked(f"chaos-{number}-{turn}", kind, model, tokens, 0.0)
            self.under_way += 1
            await ask(self._port, asked, dice, self._began_at)
            self.under_way -= 1
            self.asked.append(asked)
            await asyncio.sleep(0.5 + dice.random() * 3)


# --- processes ---------------------------------------------------------------------------------------------------------


class Mock:
    """A mock provider in a process of its own. Holds: the process, which `stop` ends."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start, and wait until it listens."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tidegate", "mock", "--port", str(self.port), stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Kill it, as a machine that fails does."""
        if self._process is not None:
            await killed(self._process)
            self._process = None


class Records:
    """What the gateway's log says. Shape: exchanges by request id, and the events that are nobody's wish."""

    def __init__(self) -> None:
        self.exchanges: dict[str, list[dict[str, Any]]] = {}
        self.bugs: list[str] = []

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Read the log to its end."""
        while line := await stream.readline():
            if not line.startswith(b"{"):
                self.bugs.append(line.decode().rstrip())
                continue
            told = json.loads(line)
            if told["event"] == "exchange":
                self.exchanges.setdefault(told["request"], []).append(told)
            elif told.get("level") == "error":
                self.bugs.append(line.decode().rstrip())


async def scrape(ops_port: int) -> Metrics:
    """Give the gateway's metrics."""
    async with connect(ops_port) as client:
        await client.send(b"GET /metrics HTTP/1.1\r\nhost: chaos\r\nconnection: close\r\n\r\n")
        reply = await client.reply()
    families = text_string_to_metric_families(reply.body.decode())
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]


def total(metrics: Metrics, name: str, **labels: str) -> float:
    """Give the sum of a metric's series that have these labels."""
    return sum(
        value for found, given, value in metrics if found == f"tidegate_{name}" and labels.items() <= given.items()
    )


def quiet_port(dice: random.Random) -> int:
    """Give a free port that the kernel gives to no outgoing connection, so that it is still free after a while."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", dice.randrange(lowest // 2, lowest)))
            return int(probe.getsockname()[1])


class Site:
    """Everything that runs: three mocks, their gates, the gateway."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.dice = random.Random(seed)
        self.seconds = seconds
        self.faults = plan(seconds, self.dice)
        self.happened: list[Fault] = []
        ports = random.SystemRandom()
        self.mocks = {name: Mock(quiet_port(ports)) for name in PROVIDERS}
        seen: set[str] = set()
        self.gates = {name: Gate(quiet_port(ports), self.mocks[name].port, seen, self.dice) for name in PROVIDERS}
        self.records = Records()
        self.began_at = 0.0

    def now(self) -> float:
        """Give the seconds since the start."""
        return time.monotonic() - self.began_at

    def config(self) -> str:
        """Give the gateway's configuration."""
        budget = {"rate": RATE, "burst": BURST, "ratio": RATIO}
        providers = "".join(PROVIDER % {"name": name, "port": gate.port, **budget} for name, gate in self.gates.items())
        return CONFIG % {"deadline": DEADLINE_S, "providers": providers}

    async def suffer(self, fault: Fault) -> None:
        """Break a provider at its time, and mend it; notes when that was."""
        gate, mock = self.gates[fault.provider], self.mocks[fault.provider]
        await asyncio.sleep(fault.from_s - self.now())
        from_s = self.now()
        print(f"{from_s:6.1f} s  {fault.provider}: {fault.mode} for {fault.until_s - fault.from_s:.1f} s", flush=True)
        await gate.turn(fault.mode)
        if fault.mode == "refuse":
            await mock.stop()
        await asyncio.sleep(fault.until_s - self.now())
        if fault.mode == "refuse":
            await mock.start()
        await gate.turn("fine")
        self.happened.append(Fault(fault.provider, fault.mode, from_s, self.now()))
        print(f"{self.now():6.1f} s  {fault.provider}: fine", flush=True)


# --- the verdict -------------------------------------------------------------------------------------------------------


def cut(asked: Asked, faults: Iterable[Fault]) -> bool:
    """Say whether a provider broke that nobody may leave: its stream was open, or it had a whole answer in the making.

    Source: ADR 0015 for the latter, which is `total_timeout`.
    """
    since_s = asked.opened_s if asked.status == 200 else asked.began_s
    return (asked.status == 200 or asked.code == "total_timeout") and any(
        fault.provider == asked.provider and fault.cuts and fault.overlaps(since_s, asked.ended_s) for fault in faults
    )


def owed(asked: Asked, faults: Sequence[Fault]) -> bool:
    """Say whether the gateway had what it takes to answer: a provider that was fine throughout, and budget."""
    return (
        asked.kind in {"stream", "whole", "slow"}
        and fine_throughout(faults, asked.began_s, asked.ended_s)
        and not asked.denied
        and not cut(asked, faults)
    )


Rules = list[tuple[bool, str]]


def judge_answers(asked: Sequence[Asked], faults: Sequence[Fault], records: Records) -> Rules:
    """Judge what clients got; prints each answer that was owed and did not come."""
    due = [each for each in asked if owed(each, faults)]
    failed = [each for each in due if not each.whole]
    for each in failed[:20]:
        print(f"     {each.began_s:.2f} to {each.ended_s:.2f} s: {each} {records.exchanges.get(each.id)}")
    judged = [each for each in asked if each.kind in {"stream", "whole", "slow"}]
    cuts, denied = sum(cut(each, faults) for each in judged), sum(each.denied for each in judged)
    share = 1 - len(failed) / max(1, len(due))
    return [
        (share >= LEAST, f"{share:.4%} of {len(due)} owed answers came whole (at least {LEAST:.1%})"),
        (
            len(due) >= 0.8 * len(judged),
            f"{len(due)} of {len(judged)} answers were owed; {cuts} broke at work, {denied} found the budget empty",
        ),
        (not any(each.forged for each in asked), "no answer ended well and was not whole"),
    ]


def judge_records(asked: Sequence[Asked], records: Records) -> Rules:
    """Judge what the gateway wrote down."""
    kinds = {each.id: each.kind for each in asked}
    late = [
        record
        for name, each in records.exchanges.items()
        for record in each
        if record["duration_s"] > (OWN_DEADLINE_S if kinds.get(name) == "overlong" else DEADLINE_S) + SLACK_S
    ]
    answered = [each for each in asked if each.status]
    once = all(len(records.exchanges.get(each.id, ())) == 1 for each in answered)
    longest = max((record["duration_s"] for each in records.exchanges.values() for record in each), default=0.0)
    codes = Counter(record["code"] for each in records.exchanges.values() for record in each)
    print("     endings:", ", ".join(f"{count} {code}" for code, count in codes.most_common()))
    return [
        (
            not late,
            f"no exchange outlived its deadline (the longest took {longest:.2f} s){''.join(map(str, late[:5]))}",
        ),
        (once, f"each of {len(answered)} answers has one record"),
        (not (records.bugs or codes["bug"] or codes["cancelled"]), f"no bug{''.join(records.bugs[:5])}"),
    ]


def judge_hits(gates: Mapping[str, Gate], requests: int, seconds: float, metrics: Metrics) -> Rules:
    """Judge how often providers were asked."""
    rules = []
    paid = RATIO * requests + RATE * seconds + BURST
    for name, gate in gates.items():
        firsts = gate.hits - gate.extra
        rules.append(
            (gate.hits <= firsts + paid, f"{name}: {gate.hits} hits, {gate.extra} not first ({paid:.0f} allowed)")
        )
    hits, most = sum(gate.hits for gate in gates.values()), (1 + RATIO) * requests + RATE * seconds + BURST
    rules.append(
        (hits <= most, f"{hits} hits for {requests} requests, x{hits / max(1, requests):.3f} (at most {most:.0f})")
    )
    felt = {
        name: total(metrics, name)
        for name in ("stream_retries_total", "fallbacks_total", "hedges_total", "breaker_transitions_total")
    }
    rules.append(
        (
            all(felt.values()),
            "the faults were felt: " + ", ".join(f"{value:.0f} {name}" for name, value in felt.items()),
        )
    )
    return rules


def judge_rest(metrics: Metrics, asked: Sequence[Asked], code: int) -> Rules:
    """Judge what is left when nobody asks any more."""
    left = {name: value for name, labels in GAUGES.items() if (value := total(metrics, name, **labels))}
    started, finished = total(metrics, "exchanges_started_total"), total(metrics, "requests_total")
    denied, counted = sum(each.denied for each in asked), total(metrics, "stream_retries_total", outcome="denied")
    return [
        (not left, f"every gauge is back to zero {left or ''}"),
        (started == finished > 0, f"{started:.0f} started = {finished:.0f} finished"),
        (denied <= counted, f"{denied} answers in the budget's name, {counted:.0f} denials counted"),
        (code == 0, f"exit code {code}"),
    ]


async def settled(ops_port: int) -> Metrics:
    """Wait until every gauge is zero, or it is clear that they will not be; gives the metrics."""
    until = time.monotonic() + DEADLINE_S + SLACK_S
    while True:
        metrics = await scrape(ops_port)
        if time.monotonic() > until or not any(total(metrics, name, **labels) for name, labels in GAUGES.items()):
            return metrics
        await asyncio.sleep(0.2)


async def report(site: Site, crowd: Crowd, ops_port: int) -> None:
    """Tell every ten seconds how it goes."""
    lowest = BURST
    for turn in itertools.count(1):
        await asyncio.sleep(0.5)
        metrics = await scrape(ops_port)
        lowest = min([lowest, *(value for name, _, value in metrics if name == "tidegate_retry_budget_available")])
        if turn % 20 == 0:
            whole = sum(each.whole for each in crowd.asked)
            modes = " ".join(f"{name} {gate.mode}" for name, gate in site.gates.items())
            print(
                f"{site.now():6.1f} s  {len(crowd.asked)} over, {whole} whole, {crowd.under_way} under way; "
                f"lowest budget {lowest:.1f}; {modes}",
                flush=True,
            )
            lowest = BURST


async def killed(process: asyncio.subprocess.Process) -> None:
    """Kill a process that still runs."""
    if process.returncode is None:
        process.kill()
        await process.wait()


async def chaos(seconds: float, clients: int, seed: int) -> int:
    """Run it; gives the exit code."""
    site = Site(seconds, seed)
    async with AsyncExitStack() as stack:
        for mock in site.mocks.values():
            stack.push_async_callback(mock.stop)
            await mock.start()
        for gate in site.gates.values():
            await gate.open()
            stack.push_async_callback(gate.close)
        config = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "chaos.yaml"
        config.write_text(site.config())
        process, port, ops_port = await start(config)
        stack.push_async_callback(killed, process)
        assert process.stderr is not None
        site.began_at = time.monotonic()
        crowd = Crowd(port, site.began_at, seconds, site.dice)
        log = asyncio.create_task(site.records.read(process.stderr))
        async with asyncio.TaskGroup() as group:
            reporter = group.create_task(report(site, crowd, ops_port))
            tasks = [group.create_task(site.suffer(fault)) for fault in site.faults]
            tasks += [group.create_task(crowd.client(number)) for number in range(clients)]
            await asyncio.wait(tasks)
            reporter.cancel()
        metrics = await settled(ops_port)
        lasted_s = site.now()
        process.send_signal(signal.SIGINT)
        code = await process.wait()
        await log
    rules = judge_answers(crowd.asked, site.happened, site.records)
    rules += judge_records(crowd.asked, site.records)
    rules += judge_hits(site.gates, len(crowd.asked), lasted_s, metrics)
    rules += judge_rest(metrics, crowd.asked, code)
    for fine, text in rules:
        print("ok  " if fine else "FAIL", text)
    return 0 if all(fine for fine, _ in rules) else 1


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    raise_nofile_limit()
    sys.exit(uvloop.run(chaos(options.seconds, options.clients, options.seed)))


if __name__ == "__main__":
    main()
