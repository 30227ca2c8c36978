"""What a worker has of its gateway: an environment without its secrets, a place in the crew, a log for what it prints."""

import asyncio
import os
import signal
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest
from workshop import WAIT_S, Reader, Shop, outcome_of, predicting, run, shop

from tidegate.kernel.units import Secret

HANDLERS = """
    import asyncio, os, sys, time
    from collections.abc import AsyncIterator
    from tidegate.predict import concurrent

    def surroundings() -> dict:
        with open("/proc/self/environ", "rb") as file:
            return {"seen": dict(os.environ), "native": file.read().decode()}

    async def place() -> AsyncIterator[dict]:
        yield {"place": os.environ["TIDEGATE_WORKER"], "pid": os.getpid()}
        await asyncio.sleep(60)

    def prints(lines: str) -> int:
        for part in lines.split("|"):
            print(part, end="")
        print("trouble", file=sys.stderr)
        return 1
"""


@pytest.fixture(name="handlers")
def _handlers(tmp_path: Path) -> str:
    file = tmp_path / "handlers.py"
    file.write_text(textwrap.dedent(HANDLERS))
    return str(file)


async def surroundings(made: Shop) -> Any:
    return dict((await made.predict()).frames)["value"]["chunk"]


def test_a_worker_gets_the_environment_without_what_is_withheld(handlers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "sk-canary")
    monkeypatch.setenv("WEBHOOK_SECRET", "canary-hook")
    monkeypatch.setenv("HF_HOME", "/models")

    async def work() -> None:
        withheld = frozenset({"PROVIDER_KEY", "WEBHOOK_SECRET", "NOT_THERE"})
        async with shop(f"{handlers}:surroundings", withheld=withheld) as made:
            found = await surroundings(made)
            assert "canary" not in str(found)
            assert found["seen"]["HF_HOME"] == "/models"
            assert "HF_HOME=/models\0" in found["native"]
            assert "canary" not in str(made.log.entries)

    run(work)


def test_a_worker_gets_what_its_settings_say_also_where_that_is_withheld_of_the_gateways(
    handlers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "canary")

    async def work() -> None:
        env = {"TOKEN": Secret("its own"), "TMPDIR": Secret("/nowhere"), "TIDEGATE_WORKER": Secret("9")}
        async with shop(f"{handlers}:surroundings", withheld=frozenset({"TOKEN"}), env=env) as made:
            found = await surroundings(made)
            assert found["seen"]["TOKEN"] == "its own"
            assert "tidegate-worker-" in found["seen"]["TMPDIR"]
            assert found["seen"]["TIDEGATE_WORKER"] == "0"
            assert "canary" not in found["native"]

    run(work)


@pytest.mark.slow
def test_each_worker_knows_its_place_and_one_that_replaces_another_has_the_same(handlers: str) -> None:
    async def work() -> None:
        async with shop(f"{handlers}:place", workers=2) as made:
            await made.until(lambda: len(made.events("worker_ready")) == 2)
            contexts = [made.local.open(predicting()) for _ in range(2)]
            told = [await _first(context) for context in contexts]
            assert {each["place"] for each in told} == {"0", "1"}
            victim = told[0]
            os.kill(victim["pid"], signal.SIGKILL)
            await made.until(lambda: len(made.events("worker_ready")) == 3)
            replacing = made.local.open(predicting())
            new = await _first(replacing)
            assert (new["place"], new["pid"] != victim["pid"]) == (victim["place"], True)
            for context in (*contexts, replacing):
                await context.__aexit__(None, None, None)

    run(work)


async def _first(context: Any) -> Any:
    reader = Reader()
    (await context.__aenter__()).source.attach(reader)
    await asyncio.wait_for(reader.came.wait(), WAIT_S)
    return reader.frames[0][1]["chunk"]


@pytest.mark.parametrize("echo", [False, True])
def test_what_a_prediction_prints_is_told_to_the_log_where_that_is_wanted(handlers: str, echo: bool) -> None:
    async def work() -> None:
        async with shop(f"{handlers}:prints", echo=echo) as made:
            reader = await made.predict(lines="one\n\n 10%\r 20%\r|30%|\rtwo\r\n|last")
            printed = "".join(data["data"] for name, data in reader.frames if name == "log")
            assert sorted(printed) == sorted("one\n\n 10%\r 20%\r30%\rtwo\r\nlasttrouble\n")
            entries = made.events("prediction_output")
            assert {(entry["request"], entry["prediction"]) for entry in entries} == (
                {("request-1", "p1")} if echo else set()
            )
            assert sorted((entry["source"], entry["text"]) for entry in entries) == (
                [("stderr", "trouble"), ("stdout", "last"), ("stdout", "one"), ("stdout", "two")] if echo else []
            )
            assert made.events("worker_output") == []

    run(work)


def test_a_stop_during_the_setup_is_no_failure_of_it() -> None:
    async def work() -> None:
        async with shop({"setup": "hang"}, ready=False) as made:
            await made.until(lambda: any(worker._process.pid for worker in made.local.crew._workers))
        assert made.events("setup_failed") == []
        assert made.events("worker_gone") == []

    run(work)


def test_a_crash_during_the_setup_is_told_though_the_others_are_stopped_after_it() -> None:
    async def work() -> None:
        async with shop({"setup": "crash"}, ready=False) as made:
            assert not await made.local.wait_ready(WAIT_S)
        assert [entry["error"] for entry in made.events("setup_failed")] == [
            "the worker crashed (signal 11) during its setup"
        ]

    run(work)


def test_what_a_worker_says_of_what_does_not_run_is_not_listened_to() -> None:
    async def work() -> None:
        async with shop(setup_timeout_s=0.0, echo=True) as made:
            reader = await made.predict(do="stray")
            assert [(name, data["status"]) for name, data in reader.frames] == [("completed", "succeeded")]
            assert (await made.predict()).frames[-1][1]["status"] == "succeeded"
            assert made.slots == [1]
            assert made.events("prediction_output") == []
            assert made.events("prediction_failed") == []

    run(work)


def test_a_worker_that_cannot_have_a_directory_is_a_failed_setup(tmp_path: Path) -> None:
    async def work() -> None:
        tempfile.tempdir = str(tmp_path / "nowhere")
        async with shop(ready=False) as made:
            assert not await made.local.wait_ready(WAIT_S)
        (entry,) = made.events("setup_failed")
        assert entry["error"] == "the worker's process cannot be started: No such file or directory"

    run(work)


def test_a_traceback_is_found_by_the_id_that_the_client_has() -> None:
    async def work() -> None:
        async with shop(cancel_grace_s=0.05) as made:
            await made.predict(do="fail")
            attempt = predicting(do="ignore")
            async with made.local.open(attempt) as stream:
                reader = Reader()
                stream.source.attach(reader)
                made.local.cancel(outcome_of(attempt))
                await asyncio.wait_for(reader.over.wait(), WAIT_S)
            for event in ("prediction_failed", "prediction_not_stopped"):
                (entry,) = made.events(event)
                assert entry["prediction"] == "p1"

    run(work)
