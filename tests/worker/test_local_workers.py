"""The whole of a local provider: handlers of real code, in the processes that production has."""

import asyncio
import json
import os
import signal
import textwrap
from pathlib import Path

import pytest
from workshop import Reader, chatting, children, outcome_of, predicting, read, run, shop

from tidegate.verdict import UPSTREAM_RESET

HANDLERS = """
    import asyncio, ctypes, os, sys, time
    from collections.abc import AsyncIterator, Iterator
    from tidegate.predict import Path, concurrent, current_scope

    def pid() -> int:
        return os.getpid()

    def blocked(forever: bool = False) -> str:
        if forever:
            # A lock that is taken twice: C code that neither an exception nor a signal gets out of.
            print("locking")
            lock, libc = ctypes.create_string_buffer(256), ctypes.CDLL(None)
            libc.pthread_mutex_lock(lock)
            libc.pthread_mutex_lock(lock)
        return "done"

    def words(prompt: str) -> Iterator[str]:
        print("asked")
        for word in prompt.split():
            yield word + " "

    @concurrent(max=8)
    async def slow(seconds: float = 60.0) -> AsyncIterator[int]:
        yield os.getpid()
        await asyncio.sleep(seconds)
        yield 2

    def broken(text: str) -> str:
        raise ValueError(f"not {text}")

    def size(file: Path) -> str:
        return open(file).read()

    class Unwell:
        async def healthcheck(self) -> bool:
            await asyncio.sleep(60)
            return True

        def predict(self) -> str:
            return ""

    class Unset:
        def setup(self) -> None:
            print("loading weights")
            raise RuntimeError("no weights")

        def predict(self) -> str:
            return ""
"""


@pytest.fixture(name="handlers")
def _handlers(tmp_path: Path) -> str:
    file = tmp_path / "handlers.py"
    file.write_text(textwrap.dedent(HANDLERS))
    return str(file)


def test_a_handler_s_value_comes_back(handlers: str) -> None:
    async def work() -> None:
        async with shop(f"{handlers}:broken") as made:
            reader = await made.predict(text="this")
            assert reader.frames[-1] == ("completed", {"status": "failed", "error": "ValueError: not this"})
            assert "handlers.py" in made.events("prediction_failed")[0]["traceback"]

    run(work)


def test_a_handler_that_yields_answers_predictions_and_chats(handlers: str) -> None:
    async def work() -> None:
        async with shop(f"{handlers}:words") as made:
            reader = await made.predict(prompt="a b")
            assert [data["chunk"] for name, data in reader.frames if name == "output"] == ["a ", "b "]
            assert ("log", {"source": "stdout", "data": "asked\n"}) in reader.frames
            async with made.local.open(chatting("c d", stream=False)) as stream:
                answer = json.loads(b"".join((await read(stream)).pieces))
            assert answer["choices"][0]["message"]["content"] == "c d "

    run(work)


def test_a_file_comes_to_the_handler_as_a_path(handlers: str) -> None:
    async def work() -> None:
        async with shop(f"{handlers}:size") as made:
            assert ("value", {"chunk": "a b", "index": 0}) in (await made.predict(file="data:,a%20b")).frames

    run(work)


def test_a_setup_that_raises_is_told_with_what_it_printed(handlers: str) -> None:
    async def work() -> None:
        async with shop(f"{handlers}:Unset", ready=False) as made:
            assert not await made.local.wait_ready(30)
            health = made.local.health()
            assert health.status == "SETUP_FAILED"
            assert "loading weights\n" in health.setup.logs
            assert "no weights" in health.error
            assert "handlers.py" in made.events("setup_failed")[0]["traceback"]

    run(work)


@pytest.mark.slow
def test_a_check_that_does_not_end_is_told_by_the_process_that_knows_it(handlers: str) -> None:
    async def work() -> None:
        async with shop(f"{handlers}:Unwell") as made:
            assert await made.local.check() == "healthcheck did not end within 5 s"

    run(work)


def test_a_blocking_call_into_c_is_cancelled_by_replacing_its_worker(handlers: str) -> None:
    async def work() -> None:
        async with shop(f"{handlers}:blocked", cancel_grace_s=0.5) as made:
            attempt = predicting(forever=True)
            async with made.local.open(attempt) as stream:
                reader = Reader()
                stream.source.attach(reader)
                await asyncio.wait_for(reader.came.wait(), 30)
                made.local.cancel(outcome_of(attempt))
                await asyncio.wait_for(reader.over.wait(), 30)
                assert reader.frames[0] == ("log", {"source": "stdout", "data": "locking\n"})
                assert reader.frames[-1] == ("completed", {"status": "canceled"})
            assert (await made.predict()).frames[0] == ("value", {"chunk": "done", "index": 0})
            (entry,) = made.events("prediction_not_stopped")
            assert (entry["request"], entry["prediction"]) == ("request-1", "p1")

    run(work)


def test_an_asynchronous_handler_is_cancelled_and_its_worker_stays(handlers: str) -> None:
    async def work() -> None:
        async with shop(f"{handlers}:slow", cancel_grace_s=30.0) as made:
            assert made.slots == [8]
            attempt = predicting()
            async with made.local.open(attempt) as stream:
                made.local.cancel(outcome_of(attempt))
                assert (await read(stream)).frames[-1] == ("completed", {"status": "canceled"})
            assert len(made.events("worker_ready")) == 1

    run(work)


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_its_own_predictions_alone_and_comes_back(handlers: str) -> None:
    async def work() -> None:
        async with shop(f"{handlers}:slow", workers=2, cancel_grace_s=10.0) as made:
            await made.until(lambda: len(made.events("worker_ready")) == 2)
            attempts = [predicting() for _ in range(4)]
            contexts = [made.local.open(attempt) for attempt in attempts]
            readers = []
            for context in contexts:
                reader = Reader()
                (await context.__aenter__()).source.attach(reader)
                await asyncio.wait_for(reader.came.wait(), 30)
                readers.append(reader)
            pids = [reader.frames[0][1]["chunk"] for reader in readers]
            victim = pids[0]
            assert len(set(pids)) == 2
            os.kill(victim, signal.SIGKILL)
            hit = [reader for reader, pid in zip(readers, pids, strict=True) if pid == victim]
            for reader in hit:
                await asyncio.wait_for(reader.over.wait(), 30)
                assert reader.endings[0].verdict is UPSTREAM_RESET
                assert reader.endings[0].message == "the worker crashed (signal 9)"
                assert reader.frames[0] == ("output", {"chunk": victim, "index": 0})
            assert made.local.crew.running == 2
            assert not any(reader.endings for reader, pid in zip(readers, pids, strict=True) if pid != victim)
            assert made.local.health().status == "READY"
            await made.until(lambda: len(made.events("worker_ready")) == 3)
            for context in contexts:
                await context.__aexit__(None, None, None)
            assert made.local.crew.running == 0

    run(work)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_no_process_is_left_behind(handlers: str, loop: str) -> None:
    before = children()

    async def work() -> None:
        async with shop(f"{handlers}:pid", workers=2) as made:
            frames = (await made.predict()).frames
            assert frames[0][1]["chunk"] in children()

    if loop == "uvloop":
        run(work)
    else:
        run(work, on=asyncio.run)
    assert children() <= before


def test_a_place_is_taken_until_all_that_was_held_for_it_is_given_back() -> None:
    async def work() -> None:
        async with shop() as made:
            async with made.local.open(predicting()) as stream:
                await read(stream)
                assert made.local.crew.running == 0
                assert made.local.health().status == "BUSY"
            assert made.local.health().status == "READY"

    run(work)
