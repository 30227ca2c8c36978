"""What a gateway and its workers hold while very many predictions go by, and after chance has interrupted many."""

import asyncio
import base64
import contextlib
import gc
import os
import random
import signal
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from harness import connect, request_bytes, run, until
from owning import ASYNC, ROOT, WAIT_S, Owned, descriptors, following, owning, status_of

pytestmark = pytest.mark.slow

FEW_KB = 6_000
"""What memory may differ by, between two looks at a process that holds the same."""


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give temporary files a place of their own, so that they can be counted."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def temporary() -> int:
    """Give how many files and folders there are, but for the folders of processes that run."""
    place = Path(tempfile.gettempdir())
    return len([*place.rglob("*")]) - len([*place.glob("tidegate-worker-*")])


def held(own: Owned, pid: int) -> dict[str, int]:
    """Give what is held by the gateway and its worker."""
    gc.collect()
    mine, child = status_of(os.getpid()), status_of(pid)
    return {
        "files": mine["files"],
        "threads": mine["Threads"],
        "rss": mine["VmRSS"],
        "child files": child["files"],
        "child threads": child["Threads"],
        "child rss": child["VmRSS"],
        "tasks": len(asyncio.all_tasks()),
        "temporary": temporary(),
        "found": len(own.registry),
        **own.busy(),
    }


async def many(own: Owned, count: int) -> None:
    """Make predictions one after the other on one connection, each with files of its own."""
    data = "data:text/plain;base64,eA=="
    async with connect(own.port) as raw:
        for number in range(count):
            await raw.send(request_bytes({"input": {"file": data, "number": number}}, path=ROOT))
            reply = await raw.reply(timeout_s=30)
            assert reply.status == 200, reply.body
            given = base64.b64encode(str(number).encode()).decode()
            assert reply.json()["output"] == f"data:text/plain;base64,{given}", reply.json()


@pytest.mark.timeout(300)
def test_ten_thousand_predictions_leave_nothing_behind() -> None:
    async def work() -> None:
        sections: dict[str, Any] = {"predictions": {"max_retained": 100}}
        async with owning("scribbling", **sections) as own:
            pid = next(iter(own.local.crew._workers))._process.pid
            await asyncio.gather(*(many(own, 1250) for _ in range(4)))
            await own.at_rest()
            await until(lambda: len(own.tidegate.edge.connections) == 0)
            half = held(own, pid)
            await asyncio.gather(*(many(own, 1250) for _ in range(4)))
            await own.at_rest()
            await until(lambda: len(own.tidegate.edge.connections) == 0)
            whole = held(own, pid)
            for name in ("rss", "child rss"):
                assert whole.pop(name) - half.pop(name) < FEW_KB, (name, half, whole)
            assert whole == half
            assert half["found"] == 100
            assert half["temporary"] == 0
            assert len(own.running.entries()) == 1000  # as many as are remembered

    run(work, timeout_s=280)


# --- chance ------------------------------------------------------------------------------------------------------------


class Chance:
    """Does things to predictions, in the order of some dice."""

    def __init__(self, own: Owned, seed: int) -> None:
        self.own = own
        self.dice = random.Random(seed)
        self.ids: list[str] = []
        self.held: contextlib.AsyncExitStack = contextlib.AsyncExitStack()
        self.seed = seed

    def ident(self) -> str:
        return self.dice.choice(self.ids) if self.ids else "nothing"

    def given(self) -> dict[str, Any]:
        return {"seconds": self.dice.choice((0, 0.02, 0.2, 30)), "count": self.dice.choice((1, 5)), "name": "x"}

    async def begin(self) -> None:
        ident = f"p{self.seed}-{len(self.ids)}"
        self.ids.append(ident)
        await self.own.put(ident, self.given(), headers=ASYNC)

    async def begin_and_leave(self) -> None:
        """Ask for one, by any of the ways to wait for it, and hang up."""
        headers = self.dice.choice(({}, {"accept": "text/event-stream"}))
        async with connect(self.own.port) as raw:
            await raw.send(request_bytes({"input": self.given()}, path=ROOT, headers=headers))
            await asyncio.sleep(self.dice.random() * 0.05)
            if self.dice.random() < 0.5:
                raw.writer.transport.abort()

    async def follow(self) -> None:
        """Follow one until everything is over."""
        await self.held.enter_async_context(following(self.own.port, self.ident()))

    async def follow_and_leave(self) -> None:
        async with following(self.own.port, self.ident()) as events:
            if events.status == 200 and self.dice.random() < 0.5:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await events.next()

    async def cancel(self) -> None:
        await self.own.cancel(self.ident())

    async def kill(self) -> None:
        """End a worker from outside."""
        workers = [worker for worker in self.own.local.crew._workers if worker.state == "ready"]
        if workers:
            os.kill(self.dice.choice(workers)._process.pid, signal.SIGKILL)

    async def chat_and_leave(self) -> None:
        async with connect(self.own.port) as raw:
            body = {"model": "own", "messages": [{"role": "user", "content": "x"}], "stream": True}
            await raw.send(request_bytes(body))
            await asyncio.sleep(self.dice.random() * 0.05)

    async def wait(self) -> None:
        await asyncio.sleep(self.dice.random() * 0.1)

    async def play(self, steps: int) -> None:
        moves: list[Callable[[], Awaitable[None]]] = [
            self.begin, self.begin, self.begin, self.begin_and_leave, self.begin_and_leave, self.follow, self.follow_and_leave,
            self.follow_and_leave, self.cancel, self.cancel, self.chat_and_leave, self.wait,
        ]  # fmt: skip
        weights = [6] * len(moves) + [1]
        async with self.held:
            for move in self.dice.choices([*moves, self.kill], weights, k=steps):
                await move()
        # What nobody waits for goes on until it is told to stop.
        for ident in self.ids:
            await self.own.cancel(ident)


@pytest.mark.timeout(300)
def test_whatever_chance_does_all_that_was_taken_is_given_back() -> None:
    async def work() -> None:
        local = {"workers": 2, "cancel_grace": 0.5}
        async with owning("both", provider={"local": local, "slots": {"max_queue": 4, "max_queue_wait": 2.0}}) as own:
            await own.post({"seconds": 0})
            await own.at_rest()
            await until(lambda: len(own.tidegate.edge.connections) == 0)
            before = {"files": descriptors(), "tasks": len(asyncio.all_tasks())}
            for seed in range(64):
                await Chance(own, seed).play(8)
                try:
                    await own.at_rest()
                except AssertionError as error:
                    raise AssertionError(f"seed {seed}") from error
                await until(lambda: len(own.tidegate.edge.connections) == 0)
                # Nothing that came to an end goes back.
                for kept in own.registry._kept.values():
                    assert kept.prediction.status in {"succeeded", "failed", "canceled"}
            await own.ready()
            await until(lambda: len(asyncio.all_tasks()) <= before["tasks"], WAIT_S)
            assert descriptors() <= before["files"]
            assert temporary() == 0
            assert (await own.post({"seconds": 0})).json()["status"] == "succeeded"
            ids = [entry.request_id for entry in own.running.entries()]
            assert len(ids) == len(set(ids))

    run(work, timeout_s=280)
