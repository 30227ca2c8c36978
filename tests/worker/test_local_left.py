"""What is left of a local provider when it is closed: nothing; and the parts that it is made of."""

import asyncio
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from msgspec import Raw
from workshop import WAIT_S, children, descriptors, directories, outcome_of, predicting, read, run, shop

from tidegate.worker.health import MAX_LOG_CHARS, SetupDiary
from tidegate.worker.messages import Info
from tidegate.worker.process import COMMAND, MAX_LINE_CHARS, Lines
from tidegate.worker.schema import provider_of

# --- what is left ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_nothing_is_left_when_it_is_closed(loop: str) -> None:
    def once() -> None:
        async def work() -> None:
            async with shop({"slots": 2}, workers=2, cancel_grace_s=0.05) as made:
                await made.predict(do="kill")
                attempt = predicting(do="ignore")
                async with made.local.open(attempt) as stream:
                    made.local.cancel(outcome_of(attempt))
                    await read(stream)
                await made.predict(do="list")
                assert directories()
            assert not directories()

        if loop == "uvloop":
            run(work)
        else:
            run(work, on=asyncio.run)

    once()  # what is imported or opened once is there
    held, alive = descriptors(), children()
    once()
    assert descriptors() == held
    assert children() == alive


@pytest.mark.slow
def test_an_output_that_a_process_left_behind_holds_does_not_keep_a_worker_alive() -> None:
    async def work() -> None:
        script = "import os, subprocess; subprocess.Popen(['sleep', '5'], start_new_session=True); os._exit(3)"
        async with shop(ready=False, command=(sys.executable, "-c", script)) as made:
            assert not await made.local.wait_ready(WAIT_S)
            assert made.local.health().error == "the worker exited (code 3) during its setup"

    run(work)


class _Stuck(ThreadPoolExecutor):
    """Threads that work when they may."""

    def __init__(self) -> None:
        super().__init__(2)
        self.gate = Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def held() -> Any:
            assert self.gate.wait(WAIT_S)
            return fn(*args, **kwargs)

        return super().submit(held)


@pytest.mark.slow
def test_files_that_take_long_to_be_removed_do_not_keep_the_end_from_coming() -> None:
    async def work() -> None:
        threads = _Stuck()
        asyncio.get_running_loop().set_default_executor(threads)
        async with shop() as made:
            await made.local.close(0.0)
            assert made.local.crew._lives, "its directory is not removed yet"
            assert not children() - before
            threads.gate.set()
            await made.until(lambda: not made.local.crew._lives)
        assert not directories()

    before = children()
    run(work)


def test_nobody_waits_for_what_other_gateways_left_to_be_removed() -> None:
    async def work() -> None:
        place = Path(tempfile.mkdtemp(prefix="tidegate-worker-1-"))
        async with shop() as made:
            assert not len(made.local.tasks) - len(made.local.crew._lives)
            await made.until(lambda: not place.exists())

    run(work)


def test_closing_before_the_start_and_twice_is_fine() -> None:
    async def work() -> None:
        async with shop(ready=False) as made:
            await made.local.close(0.0)
            await made.local.close(0.0)
            await made.local.start()
            assert made.local.crew.running == 0

    run(work)


def test_tasks_that_are_cancelled_take_their_processes_with_them() -> None:
    async def work() -> None:
        async with shop() as made:
            await made.local.tasks.close()
            assert not made.local.crew._workers

    run(work)


# --- parts -----------------------------------------------------------------------------------------------------------


def test_of_a_setup_s_words_the_last_are_kept() -> None:
    diary = SetupDiary(0.0)
    for number in range(100):
        diary.note(f"{number:03}" + "x" * (MAX_LOG_CHARS // 10))
    diary.note("the end")
    assert diary.logs().endswith("the end")
    assert len(diary.logs()) == MAX_LOG_CHARS
    assert sum(map(len, diary._lines)) <= 3 * MAX_LOG_CHARS


def test_long_lines_are_told_in_parts() -> None:
    told: list[str] = []
    lines = Lines(told.append)
    lines.feed(b"a" * (MAX_LINE_CHARS * 2 + 5))
    lines.feed(b"b\n\nlast")
    lines.finish()
    lines.finish()
    assert [len(line) for line in told] == [MAX_LINE_CHARS, MAX_LINE_CHARS, 6, 0, 4]


def test_the_command_runs_this_interpreter() -> None:
    assert COMMAND[0] == sys.executable


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (
            {"properties": {"code": {"type": "string", "pattern": r"a\Z"}}},
            r"the regex a\Z of the input 'code' cannot be used",
        ),
        ({"properties": {"code": {"type": "strong"}}}, "the schema of the input 'code' cannot be used"),
        ({"$ref": "#/nowhere"}, "the schema of the inputs cannot be used"),
        (["none"], "the schema of the inputs cannot be used"),
        (True, "inputs cannot be checked against the handler's schema"),
    ],
)
def test_a_schema_that_inputs_cannot_be_checked_against_is_a_failed_setup(schema: Any, why: str) -> None:
    async def work() -> None:
        async with shop({"schema": schema}, ready=False) as made:
            assert not await made.local.wait_ready(WAIT_S)
            health = made.local.health()
            assert health.status == "SETUP_FAILED"
            assert health.error.startswith(why), health.error
            assert why in health.setup.logs

    run(work)


def test_what_is_no_text_is_no_schema() -> None:
    with pytest.raises(ValueError, match=r"^inputs cannot be checked"):
        provider_of(Info(openapi=Raw(b"{}"), input_schema=Raw(b"\xff")))
    assert provider_of(Info(openapi=Raw(b"{}"), input_schema=Raw(b'{"type":"object"}'))).name == "prediction"
