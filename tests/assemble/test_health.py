"""What `/health` says about breakers, slots, queues and clients, while it happens."""

import asyncio
import json
from typing import Any

import pytest

from harness import Running, ask, chat, connect, gateway, make_config, request_bytes, run, until
from streams import HELLO, answer, answering, chunked, fronting, stalling, streamed, word
from tidegate.testing.upstream import Peer

BREAKING = {"breaker": {"failures": 1, "ratio": 0, "open_for": 0.05, "successes": 1}, "retry": {"max_attempts": 1}}
SLOW = stalling(chunked(word("Hi")))


async def health(running: Running, *, ops: bool = True) -> dict[str, Any]:
    """Give the summary."""
    reply = await ask(running.ops_port if ops else running.port, b"", method="GET", path="/health")
    assert reply.status == 200
    summary: dict[str, Any] = reply.json()
    return summary


def test_a_gateway_at_rest_is_healthy() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(*HELLO))) as (running, _):
            for ops in (True, False):
                summary = await health(running, ops=ops)
                assert summary["status"] == "healthy"
                assert summary["breakers"] == {"main/mock": "closed"}
                assert summary["exchanges_in_flight"] == summary["buffered_bytes"] == 0
                assert summary["providers"]["main"] == {
                    "reachable": True,
                    "connections_in_use": 0,
                    "connections_idle": 0,
                    "slots_in_use": 0,
                    "queue": 0,
                }

    run(work)


def test_a_breaker_that_is_tried_again_is_half_open_and_then_closed() -> None:
    async def work() -> None:
        answers = [answer(500, {}), streamed(*HELLO)]

        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.send(answers.pop(0) if len(answers) > 1 else answers[0])

        models = [{"name": name, "targets": [{"provider": "main", "model": name}]} for name in ("mock", "other")]
        async with fronting(script, provider=BREAKING, models=models) as (running, _):
            assert (await ask(running.port, chat())).status == 500
            state = running.tidegate.fleet["main", "mock"]
            await until(lambda: state.available(running.tidegate.clock()))
            summary = await health(running)
            assert summary["status"] == "healthy"
            assert summary["breakers"] == {"main/mock": "half_open", "main/other": "closed"}
            assert (await ask(running.port, chat())).status == 200
            assert (await health(running))["breakers"] == {"main/mock": "closed", "main/other": "closed"}

    run(work)


def test_a_breaker_that_stays_open_degrades_and_still_the_process_is_live_and_ready() -> None:
    async def work() -> None:
        lasting = {**BREAKING, "breaker": {"failures": 1, "ratio": 0, "open_for": 3600}}
        async with fronting(answering(answer(500, {})), provider=lasting) as (running, _):
            await ask(running.port, chat())
            summary = await health(running)
            assert (summary["status"], summary["breakers"]) == ("degraded", {"main/mock": "open"})
            for path in ("/health/live", "/health/ready"):
                assert (await ask(running.port, b"", method="GET", path=path)).status == 200

    run(work)


def test_a_provider_that_cannot_be_reached_makes_the_gateway_degraded() -> None:
    async def work() -> None:
        async with gateway("http://127.0.0.1:1/v1") as running:
            assert (await health(running))["status"] == "healthy", "nobody has tried yet"
            await ask(running.port, chat())
            summary = await health(running)
            assert (summary["status"], summary["providers"]["main"]["reachable"]) == ("degraded", False)

    run(work)


@pytest.mark.parametrize(
    ("provider", "target", "used", "queue"),
    [
        ({"slots": {"max_streams": 2}}, {}, 2, 3),
        ({}, {"max_streams": 1}, 1, 4),
        ({"slots": {"max_streams": 3}}, {"max_streams": 2}, 2, 3),
        ({}, {}, 0, 0),
    ],
    ids=["provider", "target", "both", "none"],
)
def test_slots_in_use_and_the_queue_before_them_are_those_of_the_moment(
    provider: dict[str, Any], target: dict[str, Any], used: int, queue: int
) -> None:
    async def work() -> None:
        models = [{"name": "mock", "targets": [{"provider": "main", **target}]}]
        async with fronting(SLOW, provider=provider, models=models) as (running, _):
            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(ask(running.port, chat())) for _ in range(5)]
                await until(lambda: sum(1 for _ in running.tidegate.gateway.relays()) == (5 - queue))
                await until(lambda: len(running.tidegate.gateway) == 5)
                await until(lambda: sum(slots.waiting for slots in running.tidegate.fleet.slots.values()) == queue)
                row = (await health(running))["providers"]["main"]
                assert (row["slots_in_use"], row["queue"]) == (used, queue)
                assert row["connections_in_use"] == 5 - queue
                for request in asking:
                    request.cancel()
            await until(lambda: not len(running.tidegate.gateway))
            row = (await health(running))["providers"]["main"]
            assert (row["slots_in_use"], row["queue"], row["connections_in_use"]) == (0, 0, 0)

    run(work)


def test_clients_are_counted_by_their_addresses() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(*HELLO))) as (running, _):
            places = [
                await asyncio.open_connection("127.0.0.1", running.port, local_addr=(source, 0))
                for source in ("127.0.0.2", "127.0.0.3", "127.0.0.3")
            ]
            await until(lambda: running.tidegate.connections() == 3)
            assert (await health(running))["unique_ips"] == 2
            for _, writer in places:
                writer.close()
            await until(lambda: running.tidegate.connections() == 0)
            assert (await health(running))["unique_ips"] == 0

    run(work)


def test_clients_behind_a_trusted_proxy_are_counted_while_they_ask() -> None:
    async def work() -> None:
        async with (
            fronting(SLOW, server={"trusted_proxies": ["127.0.0.0/8"]}) as (running, _),
            connect(running.port) as one,
            connect(running.port) as two,
            connect(running.port) as three,
        ):
            for client, address in ((one, "203.0.113.1"), (two, "203.0.113.2"), (three, "203.0.113.2")):
                await client.send(request_bytes(chat(), headers={"x-forwarded-for": address}))
            await until(lambda: len(running.tidegate.gateway) == 3)
            assert (await health(running))["unique_ips"] == 2

    run(work)


def test_a_reload_is_seen_and_forgets_what_is_not_there_any_more() -> None:
    async def work() -> None:
        async with fronting(answering(answer(500, {})), provider=BREAKING) as (running, upstream):
            await ask(running.port, chat())
            models = [{"name": "mock", "targets": [{"provider": "new", "model": "x"}]}]
            running.tidegate.reload(make_config(upstream.base_url, providers=[{"name": "new"}], models=models))
            summary = await health(running)
            assert set(summary["providers"]) == {"new"}
            assert summary["breakers"] == {"new/x": "closed"}
            assert summary["status"] == "healthy"

    run(work)


def test_a_drain_comes_before_everything_else() -> None:
    async def work() -> None:
        async with fronting(answering(answer(500, {})), provider=BREAKING) as (running, _):
            await ask(running.port, chat())
            running.tidegate.draining = True
            assert (await health(running))["status"] == "draining"
            assert (await ask(running.ops_port, b"", method="GET", path="/health/ready")).status == 503

    run(work)


def test_what_clients_ask_for_is_not_in_the_summary() -> None:
    async def work() -> None:
        models = [{"name": "wild/*", "targets": [{"provider": "main"}]}]
        async with fronting(answering(streamed(*HELLO)), models=models) as (running, _):
            for number in range(5):
                assert (await ask(running.port, chat(f"wild/made-up-{number}"))).status == 200
            summary = await health(running)
            assert summary["breakers"] == {"main/*": "closed"}
            assert "made-up" not in json.dumps(summary)

    run(work)
