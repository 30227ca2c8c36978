"""How many are let in, what is told and who waits when processes die, and do not come back."""

import asyncio
import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness import ask, run, until
from owning import ASYNC, WAIT_S, Owned, following, owning

pytestmark = pytest.mark.slow
RUNS_S = 1.0


@pytest.fixture(name="trouble")
def _trouble(tmp_path: Path) -> Path:
    """Give the file whose presence makes every setup fail."""
    return tmp_path / "trouble"


def spoil(trouble: Path) -> None:
    """Let setups fail from now on."""
    trouble.touch()


def mend(trouble: Path) -> None:
    """Let setups succeed again."""
    trouble.unlink()


def fragile(trouble: Path, workers: int = 1, **given: Any) -> dict[str, Any]:
    return {"local": {"workers": workers, "env": {"FRAGILE": str(trouble)}}, **given}


def pids(own: Owned) -> list[int]:
    return [worker._process.pid for worker in own.local.crew._workers if worker.state == "ready"]


async def kill(own: Owned, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    await until(lambda: pid not in pids(own), WAIT_S)


async def health(own: Owned) -> dict[str, Any]:
    found: dict[str, Any] = (await own.get("/health-check")).json()
    return found


# --- places ----------------------------------------------------------------------------------------------------------


def test_where_nobody_may_wait_as_many_are_let_in_as_there_are_processes_now(trouble: Path) -> None:
    async def work() -> None:
        async with owning("Fragile", provider=fragile(trouble, 2, slots={"max_queue": 0})) as own:
            spoil(trouble)
            await kill(own, pids(own)[0])
            assert (await health(own))["status"] == "READY"
            asked = [asyncio.create_task(own.post({"seconds": RUNS_S})) for _ in range(3)]
            await until(lambda: own.local.crew.running == 1 and sum(task.done() for task in asked) == 2, WAIT_S)
            assert (await health(own))["status"] == "BUSY"
            replies = await asyncio.gather(*asked)
            assert sorted(reply.status for reply in replies) == [200, 409, 409]
            # What comes back is a place again.
            mend(trouble)
            await own.ready()
            replies = await asyncio.gather(*(own.post({"seconds": RUNS_S}) for _ in range(2)))
            assert [reply.status for reply in replies] == [200, 200]
            await own.at_rest()

    run(work)


def test_who_waits_for_the_processes_that_are_left_waits_in_the_one_line(trouble: Path) -> None:
    async def work() -> None:
        async with owning("Fragile", provider=fragile(trouble, 2)) as own:
            spoil(trouble)
            await kill(own, pids(own)[0])
            asked = [asyncio.create_task(own.post({"seconds": RUNS_S})) for _ in range(3)]
            await until(lambda: own.slots.waiting == 2, WAIT_S)
            assert (own.local.crew.running, own.slots.in_use, len(own.local.crew._line)) == (1, 1, 0)
            assert {reply.status for reply in await asyncio.gather(*asked)} == {200}
            await own.at_rest()

    run(work)


def test_between_a_crash_and_the_return_requests_wait_in_line(trouble: Path) -> None:
    async def work() -> None:
        async with owning("Fragile", provider=fragile(trouble)) as own:
            await kill(own, pids(own)[0])
            asked = [asyncio.create_task(own.post()) for _ in range(2)]
            await until(lambda: own.slots.waiting == 2, WAIT_S)
            assert not own.local.crew._line
            assert {reply.json()["status"] for reply in await asyncio.gather(*asked)} == {"succeeded"}
            await own.at_rest()

    run(work)


def test_between_a_crash_and_the_return_who_may_not_wait_is_told_when_to_come_back(trouble: Path) -> None:
    async def work() -> None:
        async with owning("Fragile", provider=fragile(trouble, slots={"max_queue": 0})) as own:
            await kill(own, pids(own)[0])
            reply = await own.post()
            assert reply.status == 503
            assert int(reply.headers["retry-after"]) >= 1
            await own.ready()
            assert (await own.post()).status == 200
            await own.at_rest()

    run(work)


def test_a_reload_lets_in_no_more_than_the_processes_that_are_left_have_room_for(trouble: Path) -> None:
    async def work() -> None:
        async with owning("Fragile", provider=fragile(trouble, 2)) as own:
            spoil(trouble)
            await kill(own, pids(own)[0])
            own.tidegate.reload(own.tidegate.wiring.config)
            asked = [asyncio.create_task(own.post({"seconds": RUNS_S})) for _ in range(2)]
            await until(lambda: own.slots.waiting == 1, WAIT_S)
            assert own.local.crew.running == 1
            assert {reply.status for reply in await asyncio.gather(*asked)} == {200}
            await own.at_rest()

    run(work)


# --- health ----------------------------------------------------------------------------------------------------------


def test_a_model_whose_setup_fails_after_a_crash_says_so_and_who_waits_is_told(trouble: Path) -> None:
    async def work() -> None:
        async with owning("Fragile", provider=fragile(trouble, slots={"max_queue_wait": 60.0})) as own:
            first = (await health(own))["setup"]
            spoil(trouble)
            (pid,) = pids(own)
            await kill(own, pid)
            found = await health(own)
            assert found["status"] == "STARTING"
            assert found["error"] == "the worker crashed (signal 9)"
            chat = {"model": "own", "messages": [{"role": "user", "content": "x"}]}
            waiting = [asyncio.create_task(asked) for asked in (own.post(), ask(own.port, chat))]
            await until(lambda: own.slots.waiting == 2, WAIT_S)
            async with asyncio.timeout(WAIT_S):
                while (found := await health(own))["status"] != "DEFUNCT" or found["setup"]["status"] != "failed":
                    await asyncio.sleep(0.01)
            assert found["error"] == "RuntimeError: no gpu"
            assert found["restart_in_s"] > 0
            assert found["setup"]["started_at"] > first["started_at"]
            assert found["setup"]["logs"].endswith("no more\nRuntimeError: no gpu\n")
            assert f"weights of {pid}\n" not in found["setup"]["logs"]
            for reply in (*await asyncio.gather(*waiting), await own.post(), await ask(own.port, chat)):
                assert reply.status == 503
                assert int(reply.headers["retry-after"]) >= 1
            mend(trouble)
            await own.ready()
            found = await health(own)
            assert (found["status"], found["setup"]["status"]) == ("READY", "succeeded")
            assert "error" not in found
            assert (await own.post()).status == 200
            await own.at_rest()

    run(work)


def test_requests_that_crash_one_process_after_another_do_not_make_the_model_defunct(trouble: Path) -> None:
    async def work() -> None:
        async with owning("Fragile", provider=fragile(trouble, slots={"max_queue_wait": 60.0})) as own:
            for number in range(3):
                assert (await own.post({"die": True})).json()["status"] == "failed"
                others = [asyncio.create_task(own.post()) for _ in range(2)] if number == 2 else []
                assert (await health(own))["status"] == "STARTING"
            replies = await asyncio.gather(*others)
            assert [reply.json()["status"] for reply in replies] == ["succeeded"] * 2
            await own.at_rest()

    run(work)


# --- at random -------------------------------------------------------------------------------------------------------


class Load:
    """Clients that ask in every way while processes are killed. Shape: `words` are the answers, `seen` the processes that there were."""

    def __init__(self, own: Owned, seed: int) -> None:
        self.own = own
        self.seen: set[int] = set()
        self.dice = random.Random(seed)
        self.made = 0
        self.words: list[str] = []

    async def client(self, requests: int) -> None:
        for _ in range(requests):
            self.made += 1
            ident, given = f"p{self.made}", {"seconds": self.dice.random() * 0.2}
            way = self.dice.choice([self.sync, self.later, self.follow, self.cancel])
            async with asyncio.timeout(WAIT_S):
                self.words.append(await way(ident, given))

    async def sync(self, ident: str, given: dict[str, Any]) -> str:
        reply = await self.own.post(given, id=ident)
        return str(reply.json()["status"]) if reply.status == 200 else str(reply.status)

    async def later(self, ident: str, given: dict[str, Any]) -> str:
        reply = await self.own.put(ident, given, headers=ASYNC)
        if reply.status != 202:
            return str(reply.status)
        return str((await self.own.until_status(ident, "succeeded", "failed", "canceled"))["status"])

    async def follow(self, ident: str, given: dict[str, Any]) -> str:
        async with following(self.own.port, ident, {"input": given}) as events:
            if events.status != 200:
                return str(events.status)
            return str((await events.rest())[-1][1]["status"])

    async def cancel(self, ident: str, given: dict[str, Any]) -> str:
        await self.own.put(ident, given, headers=ASYNC)
        await asyncio.sleep(self.dice.random() * 0.1)
        await self.own.cancel(ident)
        return str((await self.own.until_status(ident, "succeeded", "failed", "canceled"))["status"])

    async def killer(self) -> None:
        while True:
            await asyncio.sleep(self.dice.random() * 0.6)
            found = pids(self.own)
            self.seen.update(found)
            if found:
                with suppress(ProcessLookupError):
                    os.kill(self.dice.choice(found), signal.SIGKILL)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whichever_processes_die_under_load_all_are_answered_and_every_place_comes_back(seed: int) -> None:
    seen = set[int]()

    async def work() -> None:
        local = {"workers": 2, "cancel_grace": 0.5}
        async with owning("pair", provider={"local": local, "slots": {"max_queue_wait": 60.0}}) as own:
            load = Load(own, seed)
            killing = asyncio.create_task(load.killer())
            await asyncio.gather(*(load.client(12) for _ in range(8)))
            killing.cancel()
            seen.update(load.seen)
            assert len(load.words) == 96
            assert set(load.words) <= {"succeeded", "failed", "canceled"}
            assert load.words.count("succeeded") > len(load.words) / 4
            await own.at_rest()
            await own.ready()
            assert (own.local.room, own.slots.in_use, own.slots.peak) == (4, 0, 4)
            assert (await health(own))["status"] == "READY"
            seen.update(pids(own))
            ids = [f"last{number}" for number in range(5)]
            for ident in ids:
                await own.put(ident, {"seconds": 60, "count": 1}, headers=ASYNC)
            await until(lambda: own.local.crew.running == 4, WAIT_S)
            assert (own.slots.waiting, (await health(own))["status"]) == (1, "BUSY")
            for ident in ids:
                await own.cancel(ident)
            await own.at_rest()

    run(work, timeout_s=100)
    assert len(seen) > 4
    assert not [pid for pid in seen if Path(f"/proc/{pid}").exists()]
