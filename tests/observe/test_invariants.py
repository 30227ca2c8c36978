"""What the numbers of a whole gateway promise, whatever clients and providers do."""

import asyncio
import json
import random
import re

import pytest

from harness import Running, ask, chat, connect, gateway, request_bytes, run, until
from tidegate.verdict import TABLE

MODELS = (
    "mock?tokens=5",
    "mock?tokens=20&itl=2ms",
    "mock?tokens=9&fail=error&fail_at=4",
    "mock?tokens=9&fail=reset&fail_at=4",
    "mock?tokens=9&fail=truncate&fail_at=4",
    "mock?tokens=9&fail=eof&fail_at=4",
    "mock?tokens=9&fail=garbage&fail_at=4",
    "mock?status=429",
    "mock?status=500",
    "mock?status=401",
    "mock?reject=yes",
    "mock?json_error=yes",
    "nobody",
)
EXCHANGES = 300
SAMPLE = re.compile(r"^(tidegate_\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)
Samples = dict[tuple[str, str], float]


async def scrape(running: Running) -> Samples:
    """Give the numbers as an operator sees them."""
    page = (await ask(running.ops_port, b"", method="GET", path="/metrics")).body.decode()
    return {(name, labels): float(value) for name, labels, value in SAMPLE.findall(page)}


def total(samples: Samples, name: str) -> float:
    return sum(value for (found, _), value in samples.items() if found == name)


def balanced(samples: Samples) -> bool:
    """Say whether exchanges started are those finished and those in flight."""
    finished = total(samples, "tidegate_requests_total")
    return total(samples, "tidegate_exchanges_started_total") == finished + total(
        samples, "tidegate_exchanges_in_flight"
    )


async def one(running: Running, dice: random.Random) -> None:
    """Make one exchange of some kind; some clients leave in its middle, some ask nonsense."""
    body = chat(dice.choice(MODELS), stream=dice.random() < 0.7)
    kind = dice.random()
    async with connect(running.port) as client:
        if kind < 0.1:
            await client.send(request_bytes(b"no json"))
        elif kind < 0.2:
            await client.send(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n")
        elif kind < 0.25:
            await client.send(b"GET /v1/models HTTP/1.1\r\n\r\n")
        else:
            await client.send(request_bytes(body))
        if kind > 0.85:
            await asyncio.sleep(dice.random() * 0.02)
            return
        await client.reply()


@pytest.mark.slow
def test_exchanges_started_are_those_finished_and_those_in_flight_at_every_instant() -> None:
    async def load(running: Running) -> None:
        dice = random.Random(7)
        gate = asyncio.Semaphore(20)

        async def bounded() -> None:
            async with gate:
                await one(running, dice)

        async with asyncio.TaskGroup() as group:
            for _ in range(EXCHANGES):
                group.create_task(bounded())

    async def work() -> None:
        async with gateway() as running:
            loading = asyncio.ensure_future(load(running))
            looks = 0
            while not loading.done():
                assert balanced(await scrape(running))
                looks += 1
            await loading
            assert looks > 5
            await until(lambda: not len(running.tidegate.gateway))
            samples = await scrape(running)
            assert balanced(samples)
            assert total(samples, "tidegate_exchanges_started_total") == total(samples, "tidegate_requests_total")
            assert total(samples, "tidegate_requests_total") == EXCHANGES
            for gauge in ("exchanges_in_flight", "streams_in_flight", "provider_calls_in_flight", "buffered_bytes"):
                assert total(samples, f"tidegate_{gauge}") == 0
            assert len(running.entries()) == EXCHANGES
            codes = {entry.code for entry in running.entries()}
            assert codes <= TABLE.keys()
            assert {"completed", "client_gone", "bad_request", "unknown_model", "upstream_failed"} <= codes
            assert not codes & {"bug", "cancelled"}

    run(work)


def test_an_exchange_is_in_flight_until_its_last_byte() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(request_bytes(chat("mock?fail=stall&fail_at=2&tokens=9")))
            await until(lambda: running.mock.stats.open == 1)
            await client.reader.readuntil(b"\r\n\r\n")
            samples = await scrape(running)
            assert samples["tidegate_exchanges_in_flight", ""] == 1
            assert samples["tidegate_streams_in_flight", 'provider="main"'] == 1
            assert total(samples, "tidegate_requests_total") == 0
            client.writer.close()
            await until(lambda: bool(running.entries()))
            samples = await scrape(running)
            assert samples["tidegate_exchanges_in_flight", ""] == 0
            assert samples["tidegate_streams_in_flight", 'provider="main"'] == 0

    run(work)


def test_the_same_code_stands_in_metric_record_and_answer() -> None:
    async def work() -> None:
        async with gateway() as running:
            reply = await ask(running.port, chat("mock?tokens=9&fail=reset&fail_at=4"))
            code = json.loads(reply.events()[-1])["error"]["code"]
            assert (await running.entry()).code == code == "upstream_reset"
            labels = f'code="{code}",model="mock",provider="main",route="chat",status="200"'
            samples = await scrape(running)
            found = [key for key in samples if key[0] == "tidegate_requests_total"]
            assert [",".join(sorted(key[1].split(","))) for key in found] == [labels]

    run(work)
