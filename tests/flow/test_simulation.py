"""Ten thousand exchanges in virtual time, with faults, leavings, cancellations, drains and reloads: nothing is left behind."""

import asyncio
from collections import Counter
from functools import partial

import pytest

from simulated import MAX_HELD_BYTES, Simulation, settings
from tidegate.edge.client import HttpClient
from tidegate.exchange import Ending
from tidegate.testing.clock import VirtualLoop, run_virtual
from tidegate.verdict import SERVER_SHUTDOWN, TABLE

EXCHANGES = 10_000
BASE = {
    "retry": {"max_attempts": 3, "initial_delay": 0.1, "max_delay": 1.0, "max_retry_after": 5.0},
    "retry_budget": {"rate_per_second": 5, "burst": 20, "ratio": 0.2},
    "slots": {"max_streams": 80, "max_queue": 50, "max_queue_wait": 2.0},
    "breaker": {"failures": 2, "ratio": 0.7, "min_calls": 20, "open_for": 3.0},
    "timeouts": {"connect": 1.0, "headers": 2.0, "first_token": 3.0, "idle": 4.0, "total": 20.0},
}
LIMITS = {"rate": [{"by": "ip", "requests_per_minute": 6000, "max_streams": 60, "tokens_per_minute": 30_000_000}]}
SERVER = {"request_timeout": 30.0}


def leave_after(
    loop: asyncio.AbstractEventLoop, turns: int, client: HttpClient, task: asyncio.Task[None], way: str
) -> None:
    """Let a client leave, or its task be cancelled, so many turns of the loop from now."""
    if turns:
        loop.call_soon(leave_after, loop, turns - 1, client, task, way)
    elif way == "leave":
        client.lost()
    else:
        task.cancel()


async def crowd(simulation: Simulation, exchanges: int) -> list[asyncio.Task[None]]:
    """Let exchanges begin, some of them interrupted at any moment; drain and reload in between."""
    chance, loop = simulation.chance, asyncio.get_running_loop()
    begun: list[asyncio.Task[None]] = []
    other = settings(
        {**BASE, "slots": {"max_streams": 45, "max_queue": 10, "max_queue_wait": 1.0}}, limits=LIMITS, server=SERVER
    )
    configs = (other, settings(BASE, limits=LIMITS, server=SERVER))
    for number in range(exchanges):
        headers = {"x_request_timeout": f"{chance.randrange(1, 20)}s"} if chance.random() < 0.1 else {}
        model = chance.choice(("plain", "hedged", "sticky", f"open/{number % 5}"))
        client, task = simulation.arrive(number, model, **headers)
        begun.append(task)
        way = chance.choice(("stay", "stay", "leave", "cancel"))
        if way != "stay":
            after = chance.choice((0.0, chance.random() * 5))
            loop.call_later(after, leave_after, loop, chance.randrange(40), client, task, way)
        if number % 997 == 500:
            simulation.reload(configs[number % 2])
        if number % 2503 == 2000:
            simulation.gateway.end_all(Ending(SERVER_SHUTDOWN))
        if number % 1709 == 1100:
            simulation.drain(draining=True)
            loop.call_later(chance.random(), partial(simulation.drain, draining=False))
        if number % 1301 == 700:
            simulation.hold(MAX_HELD_BYTES + 1)
            loop.call_later(chance.random(), simulation.hold, 0)
        if number % 8 == 0:
            await asyncio.sleep(chance.random() * 0.3)
    return begun


def check_zero(simulation: Simulation, loop: VirtualLoop) -> None:
    """Check that everything that was taken has been given back."""
    fleet, admission = simulation.wiring.fleet, simulation.wiring.admission
    now = loop.time()
    assert len(simulation.gateway) == len(simulation.ledger) == len(simulation.tasks) == 0
    assert simulation.provider.open_now == 0
    assert simulation.provider.entered == simulation.provider.exited
    assert {key: (slots.in_use, slots.waiting) for key, slots in fleet.slots.items()} == dict.fromkeys(
        fleet.slots, (0, 0)
    )
    for state in fleet.states.values():
        assert state.in_flight == 0
        for standing in (state, *state._asked.values()):
            permit = standing.breaker.admit(now + 1000.0)
            assert permit is not None, "no probe's place is kept"
            standing.breaker.failed(permit, None, now)
    assert any(state._asked for state in fleet.states.values())
    assert all(0 <= budget.available(now) <= budget.settings.burst for budget in fleet.budgets.values())
    assert admission.inside == set()
    assert simulation.process.finishing.streams == 0
    simulation.memory.sample()
    assert simulation.memory._coming == 0
    assert loop.timers() == []
    samples = [sample for family in simulation.metrics.families() for sample in family.samples]
    assert {sample.value for sample in samples if sample.name.endswith("_in_flight")} <= {0.0}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_after_ten_thousand_exchanges_everything_is_back_to_zero(seed: int) -> None:
    async def work() -> Simulation:
        simulation = Simulation(seed, settings(BASE, limits=LIMITS, server=SERVER))
        begun = await crowd(simulation, EXCHANGES)
        await asyncio.wait(begun)
        await simulation.tasks.close()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        check_zero(simulation, loop)
        return simulation

    simulation = run_virtual(work)
    entries = simulation.entries
    assert len(entries) == EXCHANGES
    assert set(Counter(entry.request_id for entry in entries).values()) == {1}, "one record each"
    codes = Counter(entry.code for entry in entries)
    assert set(codes) <= set(TABLE)
    assert "bug" not in codes, codes
    seen = {"completed", "client_gone", "cancelled", "server_shutdown", "queue_full", "queue_timeout", "breaker_open"}
    seen |= {"upstream_failed", "upstream_reset", "upstream_truncated", "idle_timeout", "headers_timeout"}
    seen |= {"first_token_timeout", "upstream_rate_limited", "provider_auth", "draining", "overloaded"}
    assert seen <= set(codes), codes
    assert max(entry.attempts for entry in entries) > 3
    assert max(entry.duration_s for entry in entries) < SERVER["request_timeout"] + 0.01


@pytest.mark.slow
def test_the_same_seed_gives_the_same_records() -> None:
    async def work() -> list[tuple[str, str, int]]:
        simulation = Simulation(7, settings(BASE, limits=LIMITS, server=SERVER))
        await asyncio.wait(await crowd(simulation, 1500))
        return [(entry.request_id, entry.code, entry.attempts) for entry in simulation.entries]

    assert run_virtual(work) == run_virtual(work)
