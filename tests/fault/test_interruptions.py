"""Whatever interrupts an exchange, at any moment: one ending, one entry, and everything back to zero."""

import asyncio
import json
import random
from collections import Counter
from typing import Any

import pytest

from harness import Running, chat, connect, gateway, request_bytes, run, until
from streams import DONE, FINISH, MESSAGE, ROLE, USAGE, answer, check_quiet, settled, word
from tidegate.exchange import Ending
from tidegate.testing.upstream import HEAD, LAST, Peer, chunk, scripted_upstream
from tidegate.verdict import SERVER_SHUTDOWN, TABLE

WAVES = 5
PER_WAVE = 60
STREAM = (HEAD, chunk(ROLE), *(chunk(word(f"w{n}")) for n in range(6)), chunk(FINISH), chunk(USAGE), chunk(DONE), LAST)
FAULTS = ("none", "none", "reset", "eof", "garbage", "error", "stall")


class Chaos:
    """A provider that takes its time, and breaks off at random."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    async def __call__(self, peer: Peer) -> None:
        rng = self._rng
        while True:
            _, body = await peer.request()
            pieces = STREAM if json.loads(body)["stream"] else (answer(200, MESSAGE),)
            fault, moment = rng.choice(FAULTS), rng.randrange(len(pieces) + 1)
            for number, piece in enumerate(pieces):
                await asyncio.sleep(rng.random() * 0.01)
                if number == moment and fault != "none":
                    return await self._break(peer, fault)
                cut = rng.randrange(len(piece) + 1)
                await peer.send(piece[:cut], piece[cut:])

    @staticmethod
    async def _break(peer: Peer, fault: str) -> None:
        if fault == "reset":
            peer.reset()
        elif fault == "garbage":
            await peer.send(b"zz\r\n\r\n")
        elif fault == "error":
            await peer.send(chunk(b'data: {"error": {"message": "no"}}\n\n'), LAST)
        elif fault == "stall":
            await peer.wait_closed_by_peer()


async def one_client(running: Running, rng: random.Random) -> None:
    """Ask once; stay to the end, leave at a random moment, or reset the connection."""
    way = rng.choice(("stay", "stay", "leave", "reset", "half"))
    asked = request_bytes(chat(stream=rng.random() < 0.8, stream_options={"include_usage": rng.random() < 0.5}))
    async with connect(running.port) as client:
        cut = rng.randrange(len(asked))
        await client.send(asked[:cut])
        await asyncio.sleep(rng.random() * 0.005)
        if way == "half":
            return
        await client.send(asked[cut:])
        try:
            await client.reply(timeout_s=20.0 if way == "stay" else rng.random() * 0.08)
        except (TimeoutError, EOFError):
            if way == "stay":
                raise
        if way == "reset":
            client.writer.transport.abort()


async def one_wave(running: Running, rng: random.Random) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(PER_WAVE):
            group.create_task(one_client(running, rng))
            await asyncio.sleep(rng.random() * 0.002)
        if rng.random() < 0.7:
            await asyncio.sleep(rng.random() * 0.08)
            running.tidegate.gateway.end_all(Ending(SERVER_SHUTDOWN))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["cancel", "finish"])
@pytest.mark.parametrize("seed", range(2))
def test_after_random_interruptions_everything_is_back_to_zero(seed: int, policy: str) -> None:
    async def work() -> None:
        rng = random.Random(seed)
        before = asyncio.all_tasks()
        limits = {"timeouts": {"connect": 0.3, "first_token": 0.4, "idle": 0.3, "total": 1, "response": 0.5}}
        settings: dict[str, Any] = {
            "provider": {**limits, "connections": {"max": 12}},
            "server": {"on_client_disconnect": policy, "heartbeat": 0.02, "slow_client_timeout": 1},
        }
        async with scripted_upstream(Chaos(seed)) as upstream, gateway(upstream.base_url, **settings) as running:
            for _ in range(WAVES):
                await one_wave(running, rng)
                await settled(running)
            check_quiet(running)
            await until(lambda: not len(running.tidegate.edge.tasks))
            assert running.tidegate.buffered_bytes() == 0
            entries = running.entries()
            ids = Counter(entry.request_id for entry in entries)
            assert set(ids.values()) == {1}, "one entry each"
            assert len(entries) > WAVES * PER_WAVE // 2
            codes = Counter(entry.code for entry in entries)
            assert set(codes) <= set(TABLE)
            assert {"completed", "client_gone"} < set(codes), codes
            assert len(codes) > 4, codes
            assert not {"bug", "cancelled"} & set(codes), codes
            for entry in entries:
                assert entry.attempts <= 1
        assert {task for task in asyncio.all_tasks() if task not in before} == set()

    run(work)
