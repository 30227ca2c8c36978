"""What a prediction costs, in counts and bytes: what runs for it, and what is left of it once it is over."""

import asyncio
import gc
import json
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from counting import CountingLoop
from garbage import collected

from harness import Raw, ask, connect, request_bytes, run, until
from threads import Threaded, threaded

MODEL = "class Model:\n    def run(self) -> str:\n        return 'ok'\n"
TIMES = 50
MOST = {"task": 1, "future": 3, "timer": 2, "callback": 6}
"""What a prediction may ask of the loop: the request's own task runs its exchange."""
KEPT = 300
KEPT_BYTES = 4096
"""What a small one that is kept may take: there were 2,200 when this was written, its record in the ledger included."""
KEPT_OBJECTS = 8
"""How many objects of one that is kept the garbage collector may have to look at: there were 4."""


@contextmanager
def serving(folder: Path) -> Iterator[Threaded]:
    """Serve a model that does next to nothing, behind a loop that counts."""
    (folder / "model.py").write_text(MODEL)
    provider = {"name": "own", "kind": "local", "local": {"handler": f"{folder / 'model.py'}:Model"}}
    models = [{"name": "m", "targets": [{"provider": "own"}]}]
    with threaded(new_loop=CountingLoop, providers=[provider], models=models) as served:
        yield served


async def predict(client: Raw, times: int) -> None:
    """Ask for predictions, one after the other, until each was answered."""
    for _ in range(times):
        await client.send(request_bytes({"input": {}}, path="/predictions"))
        reply = await client.reply()
        assert json.loads(reply.body)["output"] == "ok", reply.body


async def kept_bytes(served: Threaded) -> float:
    """Give the bytes that finished predictions are said to take."""
    page = (await ask(served.running.ops_port, None, path="/metrics", method="GET")).body.decode()
    line = next(line for line in page.splitlines() if line.startswith("tidegate_predictions_kept_bytes "))
    return float(line.split()[1])


async def wait_ready(client: Raw) -> None:
    """Return once the model is set up."""
    async with asyncio.timeout(60):
        while True:
            await client.send(request_bytes(b"", path="/health-check", method="GET"))
            if (await client.reply()).json()["status"] == "READY":
                return
            await asyncio.sleep(0.02)


def measured(folder: Path, look: Callable[[Threaded, Raw], Awaitable[None]]) -> None:
    """Run a measurement on a model that is set up and has been asked before."""

    async def work() -> None:
        with serving(folder) as served:
            async with connect(served.running.port) as client:
                await wait_ready(client)
                await predict(client, TIMES)
                await look(served, client)

    run(work)


@pytest.mark.slow
@pytest.mark.parametrize("what", sorted(MOST))
def test_a_prediction_asks_little_of_the_loop(tmp_path: Path, what: str) -> None:
    async def look(served: Threaded, client: Raw) -> None:
        loop = served.loop
        assert isinstance(loop, CountingLoop)
        before = loop.counts[what]
        await predict(client, TIMES)
        assert 0 < loop.counts[what] - before <= MOST[what] * TIMES

    measured(tmp_path, look)


@pytest.mark.slow
def test_a_prediction_is_answered_in_one_write(tmp_path: Path) -> None:
    async def look(served: Threaded, client: Raw) -> None:
        loop = served.loop
        assert isinstance(loop, CountingLoop)
        before = loop.counts["write"]
        await predict(client, TIMES)
        assert loop.counts["write"] - before == TIMES

    measured(tmp_path, look)


@pytest.mark.slow
def test_a_prediction_leaves_nothing_for_the_garbage_collector(tmp_path: Path) -> None:
    async def look(served: Threaded, client: Raw) -> None:
        with collected() as left:
            await predict(client, TIMES)
            await until(lambda: not len(served.running.tidegate.gateway))
        assert {name: count for name, count in left.items() if count >= TIMES} == {}

    measured(tmp_path, look)


@pytest.mark.slow
def test_little_is_left_of_a_prediction_that_is_over_and_what_is_held_is_what_is_said(tmp_path: Path) -> None:
    async def look(served: Threaded, client: Raw) -> None:
        tidegate = served.running.tidegate
        held = await kept_bytes(served)
        gc.collect()
        tracemalloc.start()
        try:
            objects, began = len(gc.get_objects()), tracemalloc.get_traced_memory()[0]
            await predict(client, KEPT)
            await until(lambda: not len(tidegate.gateway))
            gc.collect()
            taken = (tracemalloc.get_traced_memory()[0] - began) / KEPT
            left = (len(gc.get_objects()) - objects) / KEPT
        finally:
            tracemalloc.stop()
        said = (await kept_bytes(served) - held) / KEPT
        assert 0 < taken <= KEPT_BYTES
        assert left <= KEPT_OBJECTS
        assert taken / 2 <= said <= taken * 1.5

    measured(tmp_path, look)
