"""The numbers of admission and dispatch, as an operator scrapes them from a gateway at work."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from harness import Running, ask, chat, connect, gateway, request_bytes, run, until
from streams import DONE, HELLO, Script, answer, answering, chunked, fronting, stalling, streamed, word
from tidegate.testing.upstream import Peer, ScriptedUpstream, scripted_upstream

GOOD = answering(streamed(*HELLO))
BAD = answering(answer(500, {}))
SAMPLE = re.compile(r"^(tidegate_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(running: Running) -> Samples:
    """Give the numbers by name and labels."""
    page = (await ask(running.ops_port, b"", method="GET", path="/metrics")).body.decode()
    return {(name, frozenset(LABEL.findall(labels))): float(value) for name, labels, value in SAMPLE.findall(page)}


async def value(running: Running, name: str, **labels: str) -> float | None:
    """Give one number; None where there is no such series."""
    return (await scrape(running)).get((name, frozenset(labels.items())))


@asynccontextmanager
async def before(
    *scripts: Script, model: dict[str, Any] | None = None, **provider: Any
) -> AsyncIterator[tuple[Running, list[ScriptedUpstream]]]:
    """Serve a gateway before several providers, one target each, in this order."""
    async with AsyncExitStack() as stack:
        asked = [await stack.enter_async_context(scripted_upstream(script)) for script in scripts]
        members = {"retry": {"max_attempts": 1}, **provider}
        providers = [{"name": f"p{n}", "base_url": up.base_url, **members} for n, up in enumerate(asked)]
        targets = [{"provider": f"p{n}", "model": f"m{n}", "priority": n} for n in range(len(scripts))]
        models = [{"name": "mock", "targets": targets, **(model or {})}]
        yield await stack.enter_async_context(gateway("http://unused", providers=providers, models=models)), asked


def test_every_family_is_there_from_the_start_under_its_name_and_as_what_it_is() -> None:
    async def work() -> None:
        slots = {"slots": {"max_streams": 3}}
        async with fronting(GOOD, provider=slots) as (running, upstream):
            page = (await ask(running.ops_port, b"", method="GET", path="/metrics")).body.decode()
            kinds = dict(re.findall(r"^# TYPE (tidegate_\w+) (\w+)$", page, re.MULTILINE))
            counters = {
                "tidegate_stream_retries_total",
                "tidegate_stream_concurrency_rejections_total",
                "tidegate_breaker_transitions_total",
                "tidegate_hedges_total",
                "tidegate_fallbacks_total",
                "tidegate_rate_limited_total",
                "tidegate_refusals_total",
                "tidegate_stream_error_frames_total",
            }
            gauges = {"tidegate_retry_budget_available", "tidegate_slots", "tidegate_breaker_state"}
            assert {name for name, kind in kinds.items() if kind == "counter"} >= counters
            assert {name for name, kind in kinds.items() if kind == "gauge"} >= gauges
            assert kinds["tidegate_slot_wait_seconds"] == "histogram"
            host = f"127.0.0.1:{upstream.port}"
            assert await value(running, "tidegate_retry_budget_available", provider="main", host=host) == 10
            assert await value(running, "tidegate_slots", provider="main", state="in_use") == 0
            assert await value(running, "tidegate_slots", provider="main", state="waiting") == 0
            assert await value(running, "tidegate_breaker_state", provider="main", model="mock") == 0
            assert await value(running, "tidegate_slot_wait_seconds_count") == 0

    run(work)


def once_bad() -> Script:
    """Give a provider whose first answer is an error."""
    answers = [answer(500, {}), streamed(*HELLO)]

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(answers.pop(0) if len(answers) > 1 else answers[0])

    return script


QUICK = {"max_attempts": 2, "initial_delay": 0.001}
POOR = {"burst": 0, "rate_per_second": 0, "ratio": 0}


@pytest.mark.parametrize(
    ("make", "budget", "outcome"),
    [(once_bad, {}, "opened"), (lambda: BAD, {}, "failed"), (once_bad, POOR, "denied")],
    ids=["opened", "failed", "denied"],
)
def test_retries_are_counted_by_how_they_went(make: Callable[[], Script], budget: dict[str, Any], outcome: str) -> None:
    async def work() -> None:
        async with before(make(), retry=QUICK, retry_budget=budget) as (running, _):
            await ask(running.port, chat())
            counted = {
                how: await value(running, "tidegate_stream_retries_total", provider="p0", outcome=how)
                for how in ("opened", "failed", "denied")
            }
            assert {how: count for how, count in counted.items() if count is not None} == {outcome: 1}

    run(work)


@pytest.mark.parametrize(("refused", "outcome"), [(True, "opened"), (False, "cancelled")])
def test_an_attempt_after_one_that_failed_is_counted_where_it_was_made(*, refused: bool, outcome: str) -> None:
    async def work() -> None:
        slots = {"max_streams": 1, "max_queue": 0}
        async with before(stalling(chunked(word("Hi"))), GOOD if refused else stalling(), slots=slots) as (
            running,
            ups,
        ):
            async with connect(running.port) as holder, connect(running.port) as second:
                await holder.send(request_bytes(chat()))
                await holder.reader.readuntil(b"Hi")
                await second.send(request_bytes(chat()))
                await until(lambda: any(peer.requests for peer in ups[1].peers))
                if refused:
                    assert (await second.reply()).status == 200
            await until(lambda: not len(running.tidegate.gateway))
            retried = {
                labels: count
                for (name, labels), count in (await scrape(running)).items()
                if name.endswith("retries_total")
            }
            assert retried == {frozenset({("provider", "p1"), ("outcome", outcome)}): 1}

    run(work)


def test_what_an_extra_attempt_costs_is_seen_in_the_budget() -> None:
    async def work() -> None:
        budget = {"burst": 5, "rate_per_second": 0, "ratio": 0.5}
        async with before(BAD, retry=QUICK, retry_budget=budget) as (running, (upstream,)):
            await ask(running.port, chat())
            labels = {"provider": "p0", "host": f"127.0.0.1:{upstream.port}"}
            assert await value(running, "tidegate_retry_budget_available", **labels) == 4
            await ask(running.port, chat())
            assert await value(running, "tidegate_retry_budget_available", **labels) == 3.5

    run(work)


def test_fallbacks_are_counted_from_target_to_target() -> None:
    async def work() -> None:
        async with before(BAD, BAD, GOOD) as (running, _):
            for _ in range(2):
                assert (await ask(running.port, chat())).status == 200
            steps = {("p0/m0", "p1/m1"): 2, ("p1/m1", "p2/m2"): 2, ("p0/m0", "p2/m2"): None}
            for (source, target), count in steps.items():
                assert await value(running, "tidegate_fallbacks_total", **{"from": source, "to": target}) == count

    run(work)


@pytest.mark.parametrize(
    ("first", "second", "budget", "outcome"),
    [
        (streamed(*HELLO), GOOD, {}, "won"),
        (streamed(*HELLO), stalling(), {}, "lost"),
        (answer(500, {}), BAD, {}, "failed"),
        (streamed(*HELLO), None, {}, "denied"),
        (streamed(*HELLO), GOOD, POOR, "denied"),
    ],
    ids=["won", "lost", "failed", "no target", "no budget"],
)
def test_hedges_are_counted_by_what_they_came_to(
    first: bytes, second: Script | None, budget: dict[str, Any], outcome: str
) -> None:
    async def work() -> None:
        go_on = asyncio.Event()

        async def late(peer: Peer) -> None:
            await peer.request()
            await go_on.wait()
            await peer.send(first)

        scripts = (late, *([second] if second is not None else []))
        async with before(*scripts, model={"hedge": {"after": 0.01}}, retry_budget=budget) as (running, upstreams):
            asking = asyncio.ensure_future(ask(running.port, chat()))
            if outcome == "denied":
                await until(lambda: bool(running.tidegate.metrics._hedges.values))
            elif outcome != "won":
                await until(lambda: any(peer.requests for peer in upstreams[1].peers))
            else:
                await asking
            go_on.set()
            assert (await asking).status == (500 if outcome == "failed" else 200)
            counted = {
                how: await value(running, "tidegate_hedges_total", outcome=how)
                for how in ("won", "lost", "failed", "denied")
            }
            assert {how: count for how, count in counted.items() if count is not None} == {outcome: 1}

    run(work)


def test_attempts_that_get_no_slot_are_counted_by_why_and_waits_by_how_long() -> None:
    async def work() -> None:
        go_on = asyncio.Event()

        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.send(chunked(word("Hi")))
                await go_on.wait()
                await peer.send(streamed(DONE, head=b""))

        slots = {"max_streams": 1, "max_queue": 1}
        async with before(script, slots=slots) as (running, _):
            rejected = "tidegate_stream_concurrency_rejections_total"

            def waiting(number: int) -> bool:
                return running.tidegate.fleet.slots["p0", ""].waiting == number

            first = asyncio.ensure_future(ask(running.port, chat()))
            await until(lambda: running.tidegate.fleet.slots["p0", ""].in_use == 1)
            async with connect(running.port) as leaving:
                await leaving.send(request_bytes(chat()))
                await until(lambda: waiting(1))
                assert await value(running, "tidegate_slots", provider="p0", state="waiting") == 1
                assert await value(running, "tidegate_slots", provider="p0", state="in_use") == 1
                assert (await ask(running.port, chat())).status == 503
                assert await value(running, rejected, provider="p0", reason="full") == 1
            await until(lambda: waiting(0))
            assert await value(running, rejected, provider="p0", reason="gone") == 1
            impatient = await ask(running.port, chat(), headers={"x-request-timeout": "50ms"})
            assert impatient.status == 504
            assert await value(running, rejected, provider="p0", reason="deadline") == 1
            assert await value(running, "tidegate_slot_wait_seconds_count") == 0
            patient = asyncio.ensure_future(ask(running.port, chat()))
            await until(lambda: waiting(1))
            go_on.set()
            assert [(await asked).status for asked in (first, patient)] == [200, 200]
            assert await value(running, "tidegate_slot_wait_seconds_count") == 1

    run(work)


def test_a_breaker_s_state_and_its_changes_are_numbers() -> None:
    async def work() -> None:
        breaker = {"failures": 1, "ratio": 0, "open_for": 0.05, "successes": 1}
        async with before(once_bad(), breaker=breaker) as (running, _):
            labels = {"provider": "p0", "model": "m0"}
            await ask(running.port, chat())
            assert await value(running, "tidegate_breaker_transitions_total", **labels, to="open") == 1
            await until(lambda: running.tidegate.fleet["p0", "m0"].available(running.tidegate.clock()))
            assert await value(running, "tidegate_breaker_state", **labels) == 1
            assert (await ask(running.port, chat())).status == 200
            assert await value(running, "tidegate_breaker_state", **labels) == 0
            for state in ("half_open", "closed"):
                assert await value(running, "tidegate_breaker_transitions_total", **labels, to=state) == 1
        async with before(BAD, breaker={**breaker, "open_for": 3600}) as (running, _):
            await ask(running.port, chat())
            assert await value(running, "tidegate_breaker_state", **labels) == 2

    run(work)


def test_refusals_and_limits_are_counted_by_their_words() -> None:
    async def work() -> None:
        rules = [{"by": "ip", "requests_per_minute": 1}]
        async with fronting(GOOD, limits={"rate": rules}) as (running, _):
            assert (await ask(running.port, b"no json")).status == 400
            assert [(await ask(running.port, chat())).status for _ in range(3)] == [200, 429, 429]
            assert (await ask(running.port, b"", method="GET", path="/v1/models/none")).status == 404
            assert await value(running, "tidegate_rate_limited_total", scope="ip") == 2
            for code, count in (("bad_request", 1), ("rate_limited", 2), ("unknown_model", 1)):
                assert await value(running, "tidegate_refusals_total", code=code) == count

    run(work)


@pytest.mark.parametrize(
    ("said", "frames"),
    [
        (chunked(word("Hi")), 1),
        (streamed(word("Hi"), b'data: {"error": {"message": "no"}}\n\n'), 1),
        (streamed(*HELLO), 0),
        (answer(500, {}), 0),
    ],
    ids=["cut", "error frame", "whole", "failed before"],
)
def test_streams_that_end_with_an_error_frame_are_counted(said: bytes, frames: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(said)

    async def work() -> None:
        async with before(script) as (running, _):
            await ask(running.port, chat())
            await running.entry()
            assert await value(running, "tidegate_stream_error_frames_total") == frames

    run(work)


# --- what clients make up --------------------------------------------------------------------------------------------

CANARY = "made-up"


def test_nothing_that_a_client_sends_becomes_a_label() -> None:
    models = [
        {
            "name": "wild/*",
            "balance": "sticky",
            "sticky_by": "x-session",
            "hedge": {"after": 0.001},
            "targets": [{"provider": "main"}, {"provider": "other", "model": "x-*", "priority": 1}],
        }
    ]
    rate = [{"by": by, "requests_per_minute": 3, "max_streams": 9} for by in ("ip", "model", "key")]

    async def one(running: Running, number: int) -> None:
        made_up = f"{CANARY}-{number}"
        headers = {"x-forwarded-for": f"203.0.113.{number}", "x-session": made_up, "x-request-id": made_up}
        await ask(running.port, chat(f"wild/{made_up}", user=made_up), headers=headers)
        await ask(running.port, chat(f"wild/{made_up}?x={made_up}", stream=False), headers=headers)
        await ask(running.port, chat(made_up), headers=headers)
        await ask(running.port, b"", method="GET", path=f"/v1/models/wild/{made_up}", headers=headers)

    async def work() -> None:
        async with scripted_upstream(once_bad()) as upstream:
            providers = [
                {"name": name, "base_url": upstream.base_url, "slots": {"max_streams": 5}} for name in ("main", "other")
            ]
            sections: dict[str, Any] = {"server": {"trusted_proxies": ["127.0.0.0/8"]}, "limits": {"rate": rate}}
            async with gateway("http://unused", providers=providers, models=models, **sections) as running:
                for number in range(10):
                    await one(running, number)
                known = set(await scrape(running))
                for number in range(10, 60):
                    await one(running, number)
                samples = await scrape(running)
                new = {(name, labels) for name, labels in samples if (name, labels) not in known}
                assert {name for name, _ in new} <= {"tidegate_hedges_total", "tidegate_stream_retries_total"}
                labelled = {text for _, labels in samples for _, text in labels}
                assert not [text for text in labelled if CANARY in text or "203.0" in text]
                named = {text for _, labels in samples for label, text in labels if label == "model"}
                assert named <= {"", "wild/*", "*", "x-*"}

    run(work)
