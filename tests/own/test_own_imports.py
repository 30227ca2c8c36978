"""What a process loads for predictions: all of it before the first can be made, and nothing where none can be."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

OWN = """\
import asyncio, json, sys
from harness import run, until
from owning import owning

ANSWER = b"HTTP/1.1 200 OK\\r\\ncontent-length: 5\\r\\ncontent-type: text/plain\\r\\n\\r\\nhello"

async def work():
    asked = []

    async def answer(reader, writer):
        head = await reader.readuntil(b"\\r\\n\\r\\n")
        asked.append(head.split()[0].decode())
        writer.write(ANSWER)
        await writer.drain()

    there = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = "http://127.0.0.1:%d/x" % there.sockets[0].getsockname()[1]
    allowed = {"allow_private": True}
    async with owning("upper", predictions={"files": allowed, "webhooks": allowed}) as own:
        before = set(sys.modules)
        made = await own.post({"file": url}, webhook=url, webhook_events_filter=["completed"])
        await until(lambda: len(asked) == 2, 30)
        after = set(sys.modules)
    there.close()
    print(json.dumps({"status": made.json()["status"], "asked": asked, "client": "aiohttp" in before, "new": sorted(after - before)}))

run(work)
"""
PLAIN = """\
import json, sys
from harness import ask, chat, gateway, run

async def work():
    async with gateway() as running:
        assert (await ask(running.port, chat())).status == 200
    print(json.dumps({"client": "aiohttp" in sys.modules, "front": "tidegate.predictions.front" in sys.modules}))

run(work)
"""
RELOADED = """\
import json, sys
from harness import gateway, make_config, run
from owning import model, provider

async def work():
    async with gateway() as running:
        tidegate, before = running.tidegate, set(sys.modules)
        config = make_config("http://127.0.0.1:9", providers=[provider()], models=[model()])
        await tidegate.prepare(config)
        prepared = set(sys.modules)
        tidegate.reload(config)
        assert await tidegate.wiring.locals["mine"].wait_ready(60)
        late = {name for name in set(sys.modules) - prepared if name.startswith(("aiohttp", "tidegate"))}
    print(json.dumps({"early": "aiohttp" in before, "prepared": "aiohttp" in prepared, "late": sorted(late)}))

run(work)
"""


def told(script: str) -> Any:
    """Run a script among the tests' own modules; gives what it printed."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_prediction_with_a_file_and_a_webhook_loads_nothing_any_more() -> None:
    found = told(OWN)
    assert found == {"status": "succeeded", "asked": ["GET", "POST"], "client": True, "new": []}


def test_without_models_of_our_own_nothing_of_it_is_loaded() -> None:
    assert told(PLAIN) == {"client": False, "front": False}


def test_a_reload_that_brings_the_first_of_them_loads_it_before_it_takes_over() -> None:
    assert told(RELOADED) == {"early": False, "prepared": True, "late": []}
