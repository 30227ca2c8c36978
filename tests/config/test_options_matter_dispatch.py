"""Every setting of admission and dispatch changes something that can be seen: one test for each."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import Reply, Running, ask, chat, connect, gateway, request_bytes, run, until
from streams import DONE, chunked, error_of, fronting, stalling, streamed, word
from tidegate.dispatch.breaker import Breaker, BreakerState
from tidegate.dispatch.settings import BreakerSettings
from tidegate.testing.upstream import Peer, scripted_upstream
from tidegate.verdict import COMPLETED, UPSTREAM_FAILED

LONG_S = 0.3
"""Longer than the deadlines that tests set, shorter than those that come by themselves."""
NEVER_S = 1e9
ALIVE = "mock?tokens=1"
BROKEN = "mock?status=503"
STALLED = "mock?fail=stall&tokens=1"
SILENT = "mock?stall=head"
OFF = dict.fromkeys(("connect", "headers", "first_token", "idle", "total", "response"), 0)
UNPAID = {"rate_per_second": 0, "burst": 0, "ratio": 0}
ONCE = {"retry": {"max_attempts": 1}}


def attempts(reply: Reply) -> int:
    return int(reply.headers["x-tidegate-attempts"])


async def ending(running: Running, model: str, *, leaves: bool) -> str:
    """Give how a request ended, the client of which may leave after a while."""
    before = len(running.entries())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LONG_S if leaves else None):
            await ask(running.port, chat(model))
    await until(lambda: len(running.entries()) > before)
    return running.entries()[-1].code


@asynccontextmanager
async def holding(running: Running, model: str = STALLED, streams: int = 1) -> AsyncIterator[None]:
    """Have streams open, or as many of them as come to be. Holds: until the exit."""
    asking = [asyncio.ensure_future(ask(running.port, chat(model))) for _ in range(streams)]
    try:
        await until(lambda: len(running.tidegate.gateway) == streams and running.mock.stats.open > 0)
        yield
    finally:
        for request in asking:
            request.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


# --- server --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0.05, 0])
def test_server_request_timeout_bounds_a_whole_exchange(timeout: float) -> None:
    async def work() -> None:
        async with gateway(server={"request_timeout": timeout}, provider={"timeouts": OFF}) as running:
            code = "deadline_exceeded" if timeout else "client_gone"
            assert await ending(running, SILENT, leaves=not timeout) == code

    run(work)


@pytest.mark.parametrize(("trusted", "status"), [(["127.0.0.0/8"], 200), (["10.0.0.0/8"], 429), ([], 429)])
def test_server_trusted_proxies_are_who_is_believed_where_a_request_comes_from(trusted: list[str], status: int) -> None:
    async def work() -> None:
        limits = {"rate": [{"by": "ip", "requests_per_minute": 1}]}
        async with gateway(server={"trusted_proxies": trusted}, limits=limits) as running:
            await ask(running.port, chat(ALIVE), headers={"x-forwarded-for": "203.0.113.1"})
            other = await ask(running.port, chat(ALIVE), headers={"x-forwarded-for": "203.0.113.2"})
            assert other.status == status

    run(work)


# --- providers: credentials, retry, budget -------------------------------------------------------------------------


def test_providers_api_key_file_holds_the_credential_and_is_read_anew(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            heads.append((await peer.request())[0])
            await peer.send(streamed(word("tide"), DONE))

    async def work() -> None:
        file = tmp_path / "key"
        file.write_text("sk-first\n", encoding="utf-8")
        async with fronting(script, provider={"api_key": "", "api_key_file": str(file)}) as (running, _):
            await ask(running.port, chat())
            file.write_text("sk-the-second\n", encoding="utf-8")
            await ask(running.port, chat())

    run(work)
    assert b"\r\nauthorization: Bearer sk-first\r\n" in heads[0]
    assert b"\r\nauthorization: Bearer sk-the-second\r\n" in heads[1]


@pytest.mark.parametrize("most", [1, 3])
def test_providers_retry_max_attempts_is_how_often_a_target_is_asked(most: int) -> None:
    async def work() -> None:
        async with gateway(provider={"retry": {"max_attempts": most, "max_delay": 0}}) as running:
            reply = await ask(running.port, chat(BROKEN))
            assert (reply.status, attempts(reply), running.mock.stats.started) == (503, most, most)

    run(work)


@pytest.mark.parametrize(
    ("delays", "made"),
    [
        ({"initial_delay": 0, "max_delay": NEVER_S}, 2),
        ({"initial_delay": NEVER_S, "max_delay": NEVER_S}, 1),
        ({"initial_delay": NEVER_S, "max_delay": 0}, 2),
    ],
)
def test_providers_retry_initial_and_max_delay_bound_the_wait_and_none_outlasts_the_exchange(
    delays: dict[str, float], made: int
) -> None:
    async def work() -> None:
        async with gateway(provider={"retry": delays}, server={"request_timeout": 20}) as running:
            assert attempts(await ask(running.port, chat(BROKEN))) == made

    run(work)


@pytest.mark.parametrize(("most", "code"), [(1, "client_gone"), (0.5, "upstream_failed")])
def test_providers_retry_max_retry_after_is_how_long_a_provider_is_waited_for(most: float, code: str) -> None:
    async def work() -> None:
        async with gateway(provider={"retry": {"max_retry_after": most}}) as running:
            assert await ending(running, f"{BROKEN}&retry_after=1", leaves=most >= 1) == code
            assert (await running.entry()).attempts == 1

    run(work)


@pytest.mark.parametrize(
    ("budget", "made"),
    [
        ({}, [1, 1]),
        ({"burst": 1}, [2, 1]),
        ({"burst": 2}, [2, 2]),
        ({"burst": 1, "ratio": 1}, [2, 2]),
        ({"burst": 1, "rate_per_second": NEVER_S}, [2, 2]),
    ],
)
def test_providers_retry_budget_burst_ratio_and_rate_per_second_pay_for_attempts_after_the_first(
    budget: dict[str, float], made: list[int]
) -> None:
    async def work() -> None:
        provider = {"retry": {"max_delay": 0}, "retry_budget": {**UNPAID, **budget}}
        async with gateway(provider=provider) as running:
            replies = [await ask(running.port, chat(BROKEN)) for _ in made]
            assert [attempts(reply) for reply in replies] == made
            told = [reply.headers.get("x-should-retry") for reply in replies]
            assert told == [None if number == 2 else "false" for number in made]

    run(work)


# --- providers: slots ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "at_once"), [(1, 1), (2, 2), (0, 3)])
def test_providers_slots_max_streams_bounds_the_streams(most: int, at_once: int) -> None:
    async def work() -> None:
        async with gateway(provider={"slots": {"max_streams": most}}) as running, holding(running, streams=3):
            await until(lambda: running.mock.stats.open == at_once)
            await asyncio.sleep(0.05)
            assert running.mock.stats.open == at_once

    run(work)


@pytest.mark.parametrize("most", [0, 1])
def test_providers_slots_max_queue_is_how_many_may_wait(most: int) -> None:
    async def work() -> None:
        slots = {"max_streams": 1, "max_queue": most}
        async with gateway(provider={"slots": slots}) as running, holding(running):
            assert await ending(running, ALIVE, leaves=bool(most)) == ("client_gone" if most else "queue_full")

    run(work)


@pytest.mark.parametrize("most", [0.05, 0])
def test_providers_slots_max_queue_wait_is_how_long_each_may_wait(most: float) -> None:
    async def work() -> None:
        slots = {"max_streams": 1, "max_queue_wait": most}
        async with gateway(provider={"slots": slots, **ONCE}) as running, holding(running):
            assert await ending(running, ALIVE, leaves=not most) == ("queue_timeout" if most else "client_gone")

    run(work)


# --- providers: breaker --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "codes"), [(1, ["upstream_failed", "breaker_open"]), (2, ["upstream_failed"] * 2)]
)
def test_providers_breaker_failures_in_a_row_open_it(failures: int, codes: list[str]) -> None:
    async def work() -> None:
        async with gateway(provider={**ONCE, "breaker": {"failures": failures, "ratio": 0}}) as running:
            replies = [await ask(running.port, chat(BROKEN)) for _ in codes]
            assert [error_of(reply)["code"] for reply in replies] == codes

    run(work)


def call(breaker: Breaker, now: float, *, good: bool) -> BreakerState:
    """Have one call come and end; gives the state after it."""
    permit = breaker.admit(now)
    assert permit is not None
    if good:
        breaker.opened(permit, now)
        breaker.ended(permit, COMPLETED, now)
    else:
        breaker.failed(permit, UPSTREAM_FAILED, now)
    return breaker.state(now)


CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN


@pytest.mark.parametrize(("ratio", "state"), [(0.5, OPEN), (0.6, CLOSED), (0.0, CLOSED)])
def test_providers_breaker_ratio_of_failures_opens_it(ratio: float, state: BreakerState) -> None:
    breaker = Breaker(BreakerSettings(failures=0, ratio=ratio, min_calls=2))
    call(breaker, 1.0, good=True)
    assert call(breaker, 2.0, good=False) is state


@pytest.mark.parametrize(("calls", "state"), [(1, OPEN), (2, CLOSED)])
def test_providers_breaker_min_calls_is_how_many_a_ratio_is_judged_by(calls: int, state: BreakerState) -> None:
    assert call(Breaker(BreakerSettings(failures=0, min_calls=calls)), 1.0, good=False) is state


@pytest.mark.parametrize(("window", "state"), [(60.0, CLOSED), (600.0, OPEN)])
def test_providers_breaker_window_is_what_is_looked_back_on(window: float, state: BreakerState) -> None:
    breaker = Breaker(BreakerSettings(failures=0, min_calls=2, window_s=window))
    call(breaker, 1.0, good=False)
    assert call(breaker, 300.0, good=False) is state


def test_providers_breaker_open_for_is_how_long_a_target_is_left_alone() -> None:
    breaker = Breaker(BreakerSettings(failures=1, open_for_s=7.0))
    call(breaker, 1.0, good=False)
    assert (breaker.state(7.9), breaker.state(8.0)) == (OPEN, HALF_OPEN)


@pytest.mark.parametrize("probes", [1, 3])
def test_providers_breaker_probes_is_how_many_try_at_a_time(probes: int) -> None:
    breaker = Breaker(BreakerSettings(failures=1, probes=probes, open_for_s=7.0))
    call(breaker, 1.0, good=False)
    assert [breaker.admit(8.0) is not None for _ in range(4)].count(True) == probes


@pytest.mark.parametrize("successes", [1, 3])
def test_providers_breaker_successes_close_it(successes: int) -> None:
    breaker = Breaker(BreakerSettings(failures=1, successes=successes, open_for_s=7.0))
    call(breaker, 1.0, good=False)
    states = [call(breaker, 8.0, good=True) for _ in range(3)]
    assert states.count(HALF_OPEN) == successes - 1
    assert states[-1] is CLOSED


# --- models --------------------------------------------------------------------------------------------------------


def model(*targets: dict[str, Any], **members: Any) -> list[dict[str, Any]]:
    """Give one model whose targets are models of the mock."""
    return [{"name": "tide", "targets": [{"provider": "main", **target} for target in targets], **members}]


ONE, OTHER = {"model": "mock?tokens=1"}, {"model": "mock?tokens=2"}


async def chosen(requests: int, *targets: dict[str, Any], **members: Any) -> list[int]:
    """Ask for a model; gives how often each target was, the busiest first. Each request has a session of its own."""
    async with gateway(models=model(*targets, **members)) as running:
        told = [
            (await ask(running.port, chat("tide", user="u"), headers={"x-session": str(number)})).headers
            for number in range(requests)
        ]
    return sorted(Counter(headers["x-tidegate-target"] for headers in told).values(), reverse=True)


@pytest.mark.parametrize(("balance", "shares"), [("round_robin", [4, 4]), ("weighted", [6, 2]), ("sticky", [8])])
def test_models_balance_is_how_a_target_is_chosen(balance: str, shares: list[int]) -> None:
    async def work() -> None:
        assert await chosen(8, {**ONE, "weight": 3}, OTHER, balance=balance) == shares

    run(work)


@pytest.mark.parametrize(("by", "targets"), [("user", 1), ("x-session", 2)])
def test_models_sticky_by_is_what_sticks(by: str, targets: int) -> None:
    async def work() -> None:
        assert len(await chosen(16, ONE, OTHER, balance="sticky", sticky_by=by)) == targets

    run(work)


@pytest.mark.parametrize("after", [0.05, 0])
def test_models_hedge_after_is_when_a_second_target_is_asked(after: float) -> None:
    async def work() -> None:
        models = model({"model": SILENT}, {**ONE, "priority": 1}, hedge={"after": after})
        async with gateway(models=models) as running:
            assert await ending(running, "tide", leaves=not after) == ("completed" if after else "client_gone")
            assert (await running.entry()).attempts == (2 if after else 1)

    run(work)


@pytest.mark.parametrize(("weight", "shares"), [(1, [4, 4]), (3, [6, 2]), (0, [8])])
def test_models_targets_weight_is_a_targets_part_of_the_requests(weight: int, shares: list[int]) -> None:
    async def work() -> None:
        assert await chosen(8, {**ONE, "weight": weight}, OTHER, balance="weighted") == shares

    run(work)


@pytest.mark.parametrize(("priority", "shares"), [(0, [4, 4]), (1, [8])])
def test_models_targets_priority_is_who_is_asked_first(priority: int, shares: list[int]) -> None:
    async def work() -> None:
        assert await chosen(8, {**ONE, "priority": priority}, OTHER, balance="round_robin") == shares

    run(work)


@pytest.mark.parametrize(("most", "at_once"), [(1, 1), (0, 3)])
def test_models_targets_max_streams_bounds_the_streams_of_one_target(most: int, at_once: int) -> None:
    async def work() -> None:
        models = model({"model": STALLED, "max_streams": most})
        models.append({"name": "free", "targets": [{"provider": "main", **ONE}]})
        async with gateway(models=models) as running, holding(running, "tide", 3):
            await until(lambda: running.mock.stats.open == at_once)
            assert (await ask(running.port, chat("free"))).status == 200
            assert running.mock.stats.open == at_once

    run(work)


@pytest.mark.parametrize(
    ("timeout", "said", "code"),
    [
        ("connect", None, "tls_timeout"),
        ("headers", b"", "headers_timeout"),
        ("first_token", chunked(), "first_token_timeout"),
        ("idle", chunked(word("tide")), "idle_timeout"),
        ("total", chunked(word("tide")), "total_timeout"),
        ("response", b"", "total_timeout"),
    ],
)
def test_models_targets_timeouts_bound_attempts_at_one_target_alone(
    timeout: str, said: bytes | None, code: str
) -> None:
    async def mute(peer: Peer) -> None:
        await peer.wait_closed_by_peer()

    async def work() -> None:
        models = [*model({"timeouts": {timeout: 0.05}}), {**model({"model": "other"})[0], "name": "patient"}]
        provider = {"timeouts": OFF, **ONCE}
        async with scripted_upstream(mute if said is None else stalling(said)) as upstream:
            url = upstream.base_url if said is not None else upstream.base_url.replace("http:", "https:")
            async with gateway(url, models=models, provider=provider) as running:
                await ask(running.port, chat("tide", stream=timeout != "response"))
                assert (await running.entry()).code == code
                assert await ending(running, "patient", leaves=True) == "client_gone"

    run(work)


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "code"), [(1, "connections_full"), (2, ""), (0, "")])
def test_limits_max_connections_bounds_the_connections(most: int, code: str) -> None:
    async def work() -> None:
        async with gateway(limits={"max_connections": most}) as running, connect(running.port) as first:
            await first.send(request_bytes(chat(ALIVE)))
            assert (await first.reply()).status == 200
            reply = await ask(running.port, chat(ALIVE))
            assert (error_of(reply)["code"] if reply.status != 200 else "") == code

    run(work)


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
def test_limits_max_connections_per_ip_are_those_of_one_address(source: str) -> None:
    async def work() -> None:
        async with gateway(limits={"max_connections_per_ip": 1}) as running, connect(running.port):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port, local_addr=(source, 0))
            writer.write(request_bytes(chat(ALIVE)))
            status = (await reader.readline()).split()[1]
            assert status == (b"503" if source == "127.0.0.1" else b"200")
            writer.close()

    run(work)


@pytest.mark.parametrize(("most", "status"), [(1024, 503), (1024 * 1024, 200), (0, 200)])
def test_limits_max_buffered_bytes_bounds_what_is_held(most: int, status: int) -> None:
    async def work() -> None:
        async with gateway(limits={"max_buffered_bytes": most}) as running:
            assert (await ask(running.port, chat(ALIVE, user="x" * 2000))).status == status

    run(work)


async def statuses(rule: dict[str, Any], *names: str, **options: Any) -> list[int]:
    """Give the answers to some requests, one after another, under one rule."""
    async with gateway(limits={"rate": [rule]}, **options) as running:
        return [(await ask(running.port, chat(name))).status for name in names]


@pytest.mark.parametrize(("by", "second"), [("ip", 429), ("key", 429), ("tenant", 429), ("model", 200)])
def test_limits_rate_by_is_whose_use_is_counted(by: str, second: int) -> None:
    async def work() -> None:
        models = [{"name": name, "targets": [{"provider": "main", **ONE}]} for name in ("one", "other")]
        rule = {"by": by, "requests_per_minute": 1}
        assert await statuses(rule, "one", "other", models=models) == [200, second]

    run(work)


@pytest.mark.parametrize(("limit", "third"), [({"requests_per_minute": 2}, 429), ({"requests_per_minute": 3}, 200)])
def test_limits_rate_requests_per_minute_bounds_the_requests(limit: dict[str, int], third: int) -> None:
    async def work() -> None:
        assert await statuses({"by": "ip", **limit}, ALIVE, ALIVE, ALIVE) == [200, 200, third]

    run(work)


@pytest.mark.parametrize(("burst", "third"), [(2, 429), (3, 200), (0, 200)])
def test_limits_rate_burst_bounds_the_requests_at_once(burst: int, third: int) -> None:
    async def work() -> None:
        rule = {"by": "ip", "requests_per_minute": 6, "burst": burst}
        assert await statuses(rule, ALIVE, ALIVE, ALIVE) == [200, 200, third]

    run(work)


@pytest.mark.parametrize(("most", "second"), [(20, 429), (20_000, 200), (0, 200)])
def test_limits_rate_tokens_per_minute_bounds_the_tokens(most: int, second: int) -> None:
    async def work() -> None:
        rule = {"by": "ip", "tokens_per_minute": most, "max_streams": 9}
        assert await statuses(rule, "mock?tokens=30", ALIVE) == [200, second]

    run(work)


@pytest.mark.parametrize(("most", "status"), [(1, 429), (2, 200)])
def test_limits_rate_max_streams_bounds_the_streams_at_a_time(most: int, status: int) -> None:
    async def work() -> None:
        limits = {"rate": [{"by": "ip", "max_streams": most}]}
        async with gateway(limits=limits) as running, holding(running):
            assert (await ask(running.port, chat(ALIVE))).status == status

    run(work)
