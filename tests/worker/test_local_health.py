"""How a local provider is: its setup, its workers' returns, the handler's own check, and what is left of it."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from workshop import WAIT_S, children, descriptors, directories, outcome_of, predicting, read, run, shop

from tidegate.verdict import MODEL_UNAVAILABLE, AttemptFailed
from tidegate.worker.health import MAX_LOG_CHARS, SetupDiary
from tidegate.worker.link import Link
from tidegate.worker.messages import Ended, FromWorker, Item
from tidegate.worker.process import COMMAND, MAX_LINE_CHARS, Lines
from tidegate.worker.schema import trouble_with


def test_a_setup_that_succeeds_is_told_with_what_it_printed() -> None:
    async def work() -> None:
        async with shop({"said": "loading\n", "native": "CUDA\nunfinished", "slots": 3}, workers=2) as made:
            health = made.local.health()
            assert (health.status, health.setup.status) == ("READY", "succeeded")
            assert "loading\n" in health.setup.logs
            assert health.setup.started_at <= health.setup.completed_at
            assert made.slots == [6]
            assert made.local.info is not None
            await made.until(lambda: {"CUDA"} <= {entry["text"] for entry in made.events("worker_output")})
            told = json.loads(msgspec.json.encode(health))
            assert set(told) == {"status", "setup"}
            assert set(told["setup"]) == {"started_at", "completed_at", "status", "logs"}
        assert "unfinished" in {entry["text"] for entry in made.events("worker_output")}

    run(work)


@pytest.mark.parametrize(
    ("setup", "why"),
    [
        ("fail", "RuntimeError: no weights"),
        ("crash", "the worker crashed (signal 11) during its setup"),
        ("mute", "the worker does not say what its handler is"),
    ],
)
def test_a_first_setup_that_fails_is_told_and_not_repeated(setup: str, why: str) -> None:
    async def work() -> None:
        async with shop({"setup": setup, "said": "loading\n"}, ready=False, workers=2) as made:
            assert not await made.local.wait_ready(WAIT_S)
            health = made.local.health()
            assert (health.status, health.setup.status, health.error) == ("SETUP_FAILED", "failed", why)
            assert health.setup.logs == f"loading\n{why}\n"
            assert {entry["error"] for entry in made.events("setup_failed")} == {why}
            with pytest.raises(AttemptFailed, match="cannot be set up") as failure:
                await made.predict()
            assert failure.value.verdict is MODEL_UNAVAILABLE
            assert not made.local.crew._workers
            assert not any(post.timer for post in made.local.crew._posts)
            assert not made.slots

    run(work)


def test_a_setup_s_traceback_is_in_the_log_alone() -> None:
    async def work() -> None:
        async with shop({"setup": "fail"}, ready=False) as made:
            await made.local.wait_ready(WAIT_S)
            assert made.events("setup_failed")[0]["traceback"] == "Traceback: weights.py"
            assert "Traceback" not in str(made.local.health())

    run(work)


def test_a_setup_that_takes_too_long_is_killed() -> None:
    async def work() -> None:
        async with shop({"setup": "hang"}, ready=False, setup_timeout_s=0.5) as made:
            assert made.local.health().status == "STARTING"
            assert not await made.local.wait_ready(WAIT_S)
            assert made.local.health().error == "the setup did not finish within 0.5 s"
            assert not made.local.crew._workers

    run(work)


def test_waiting_for_a_setup_has_an_end() -> None:
    async def work() -> None:
        async with shop({"setup": "hang"}, ready=False) as made:
            assert not await made.local.wait_ready(0.01)

    run(work)


def test_a_process_that_cannot_be_started_is_a_failed_setup() -> None:
    async def work() -> None:
        async with shop(ready=False, command=("/nowhere/python",)) as made:
            assert not await made.local.wait_ready(WAIT_S)
            assert "cannot be started" in made.local.health().error

    run(work)


def test_where_one_worker_of_two_cannot_be_set_up_the_other_serves_and_it_is_tried_again(tmp_path: Path) -> None:
    async def work() -> None:
        plan = {"later": {"file": str(tmp_path / "first"), "setup": "fail"}}
        async with shop(plan, workers=2) as made:
            assert (await made.predict()).endings
            await made.until(lambda: len(made.events("setup_failed")) >= 2)
            assert made.local.health().status == "READY"

    run(work)


@pytest.mark.slow
def test_a_worker_that_does_not_come_back_is_defunct_and_still_tried(tmp_path: Path) -> None:
    async def work() -> None:
        mark = tmp_path / "first"
        plan = {"later": {"file": str(mark), "setup": "fail"}}
        async with shop(plan) as made:
            assert (await made.predict(do="kill")).endings
            waiting = asyncio.get_running_loop().create_task(made.predict())
            await made.until(lambda: made.local.health().status == "DEFUNCT")
            with pytest.raises(AttemptFailed, match="keep failing"):
                await waiting
            with pytest.raises(AttemptFailed, match="keep failing"):
                await made.predict()
            mark.unlink()
            await made.until(lambda: made.local.health().status == "READY")
            assert (await made.predict()).endings

    run(work)


# --- the handler's own check -----------------------------------------------------------------------------------------


def test_a_handler_s_own_check_decides_over_the_health() -> None:
    async def work() -> None:
        async with shop({"checks": True, "check": "the GPU is gone"}) as made:
            assert set(await asyncio.gather(made.local.check(), made.local.check())) == {"the GPU is gone"}
            health = made.local.health()
            assert health.status == "UNHEALTHY"
            assert health.user_healthcheck_error == "the GPU is gone"
            (worker,) = made.local.crew._workers
            assert worker._checks_begun == 1

    run(work)


def test_a_handler_without_a_check_of_its_own_is_healthy() -> None:
    async def work() -> None:
        async with shop() as made:
            assert not await made.local.check()
            assert made.local.health().status == "READY"

    run(work)


@pytest.mark.slow
def test_a_check_that_does_not_answer_is_unhealthy() -> None:
    async def work() -> None:
        async with shop({"checks": True}) as made:
            assert "did not answer" in await made.local.check()

    run(work)


def test_a_worker_that_dies_during_a_check_answers_it() -> None:
    async def work() -> None:
        async with shop({"checks": True, "slots": 2}) as made:
            asking = asyncio.get_running_loop().create_task(made.local.check())
            await asyncio.sleep(0)
            await made.predict(do="kill")
            assert await asking == "the worker crashed (signal 9)"

    run(work)


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


def test_closing_before_the_start_and_twice_is_fine() -> None:
    async def work() -> None:
        async with shop(ready=False) as made:
            await made.local.close(0.0)
            await made.local.close(0.0)
            await made.local.start()
            assert made.local.running == 0

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


class _Ear:
    def __init__(self) -> None:
        self.messages: list[FromWorker] = []
        self.whys: list[str] = []

    def heard(self, messages: list[FromWorker], /) -> None:
        self.messages += messages

    def garbled(self, why: str, /) -> None:
        self.whys.append(why)


def test_messages_are_heard_whole_however_they_are_cut() -> None:
    said = [Item(1, b"1"), Ended(1, "succeeded")]
    packed = [msgspec.msgpack.encode(message) for message in said]
    data = b"".join(len(body).to_bytes(4, "big") + body for body in packed)
    for size in (1, 3, len(data)):
        ear = _Ear()
        link = Link(ear, lambda: None)
        for start in range(0, len(data), size):
            link.data_received(data[start : start + size])
        assert ear.messages == said


def test_a_message_above_the_limit_ends_the_hearing() -> None:
    ear = _Ear()
    link = Link(ear, lambda: None, max_bytes=10)
    link.data_received(b"\0\0\0\x0b")
    link.data_received(b"more")
    link.pause()
    link.resume()
    assert ear.whys == ["the worker sent a message of 11 bytes"]
    assert not ear.messages


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
    assert trouble_with(b"\xff").startswith("inputs cannot be checked")
    assert not trouble_with(b'{"type":"object"}')
