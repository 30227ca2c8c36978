"""How a local provider is: its setup, its workers' returns, the handler's own check, and what is left of it."""

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from workshop import WAIT_S, Shop, children, descriptors, directories, outcome_of, predicting, read, run, shop

from tidegate.exchange import Source
from tidegate.verdict import MODEL_UNAVAILABLE, AttemptFailed
from tidegate.worker.crew import DEFUNCT_AFTER, FIRST_BACKOFF_S, MAX_CRASH_BACKOFF_S
from tidegate.worker.health import MAX_LOG_CHARS, SetupDiary
from tidegate.worker.link import Link
from tidegate.worker.messages import MAX_MESSAGE_BYTES, Ended, FromWorker, Info, Item
from tidegate.worker.process import COMMAND, MAX_LINE_CHARS, Lines
from tidegate.worker.schema import provider_of


def test_a_setup_that_succeeds_is_told_with_what_it_printed() -> None:
    async def work() -> None:
        async with shop({"said": "loading\n", "native": "CUDA\nunfinished", "slots": 3}, workers=2) as made:
            health = made.local.health()
            assert (health.status, health.setup.status) == ("READY", "succeeded")
            assert "loading\n" in health.setup.logs
            assert health.setup.started_at <= health.setup.completed_at
            await made.until(lambda: made.slots == [3, 6])
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


@pytest.mark.parametrize("said", ["loading", "loading\n", "loading\nRuntimeError: no weights\n", ""])
def test_why_a_setup_failed_stands_on_a_line_of_its_own_and_once(said: str) -> None:
    async def work() -> None:
        async with shop({"setup": "fail", "said": said}, ready=False) as made:
            await made.local.wait_ready(WAIT_S)
            lines = made.local.health().setup.logs.splitlines()
            assert lines == [*(["loading"] if said else []), "RuntimeError: no weights"]
            assert made.local.health().setup.logs.endswith("\n")

    run(work)


@pytest.mark.slow
def test_while_no_worker_is_ready_health_shows_the_newest_setup_and_why(tmp_path: Path) -> None:
    async def work() -> None:
        plan = {"said": "first\n", "later": {"file": str(tmp_path / "first"), "setup": "fail", "said": "second\n"}}
        async with shop(plan) as made:
            first = made.local.health()
            assert first.setup.logs == "first\n"
            await made.predict(do="kill")
            crashed = made.local.health()
            assert (crashed.status, crashed.setup, crashed.error) == (
                "STARTING",
                first.setup,
                "the worker crashed (signal 9)",
            )
            await made.until(lambda: 0 < made.local.health().restart_in_s <= FIRST_BACKOFF_S)
            await made.until(lambda: made.local.health().setup.status == "failed")
            failed = made.local.health()
            assert (failed.status, failed.error) == ("STARTING", "RuntimeError: no weights")
            assert failed.setup.logs == "second\nRuntimeError: no weights\n"
            assert failed.setup.started_at > first.setup.started_at
            await made.until(lambda: made.local.health().status == "DEFUNCT")
            told = msgspec.to_builtins(made.local.health())
            assert (told["status"], told["setup"]["status"], told["error"]) == (
                "DEFUNCT",
                "failed",
                "RuntimeError: no weights",
            )

    run(work)


@pytest.mark.slow
def test_a_successor_that_takes_its_time_is_shown_with_what_it_says_and_why_it_is_needed(tmp_path: Path) -> None:
    async def work() -> None:
        plan = {"said": "first\n", "later": {"file": str(tmp_path / "first"), "setup": "hang", "said": "second\n"}}
        async with shop(plan) as made:
            await made.predict(do="exit")
            await made.until(lambda: made.local.health().setup.logs == "second\n")
            health = made.local.health()
            assert (health.status, health.setup.status, health.setup.completed_at) == ("STARTING", "starting", "")
            assert (health.error, health.restart_in_s) == ("the worker exited (code 3)", 0.0)

    run(work)


@pytest.mark.slow
def test_a_setup_that_succeeds_in_the_end_leaves_nothing_of_those_before(tmp_path: Path) -> None:
    async def work() -> None:
        mark = tmp_path / "first"
        async with shop({"later": {"file": str(mark), "setup": "fail"}}) as made:
            await made.predict(do="kill")
            await made.until(lambda: made.local.health().setup.status == "failed")
            (post,) = made.local.crew._posts
            await made.until(lambda: post.failures == 1)
            mark.unlink()
            await made.until(lambda: made.local.health().status == "READY")
            health = made.local.health()
            assert post.failures == 0
            assert (health.setup.status, health.setup.logs, health.error, health.restart_in_s) == (
                "succeeded",
                "",
                "",
                0.0,
            )

    run(work)


# --- places ----------------------------------------------------------------------------------------------------------


def test_places_follow_the_workers_that_there_are(tmp_path: Path) -> None:
    async def work() -> None:
        async with shop({"slots": 2}) as made:
            assert (made.slots, made.local.room, made.local.slots) == ([2], 2, 2)
            await made.predict(do="kill")
            assert (made.slots, made.local.room, made.local.slots) == ([2, 0], 0, 2)
            await made.until(lambda: made.local.health().status == "READY")
            assert made.slots == [2, 0, 2]

    run(work)


def test_a_worker_that_retires_keeps_the_place_of_what_runs_in_it_and_its_successor_waits_for_that() -> None:
    async def work() -> None:
        before = children()
        async with shop({"slots": 2}, cancel_grace_s=0.05) as made:
            other, deaf = predicting(do="wait"), predicting(do="ignore")
            async with made.local.open(other) as stream:
                async with made.local.open(deaf) as ignoring:
                    made.local.cancel(outcome_of(deaf))
                    await read(ignoring)
                health = made.local.health()
                assert (health.status, health.error) == (
                    "STARTING",
                    "a prediction did not stop, and its worker is replaced",
                )
                assert (made.slots, made.local.room) == ([2, 1], 1)  # that in which the other runs
                waiting = asyncio.get_running_loop().create_task(made.predict())
                await asyncio.sleep(0.3)
                assert len(children() - before) == len(made.local.crew._workers) == 1
                assert not waiting.done()
                made.local.cancel(outcome_of(other))
                assert (await read(stream)).frames == [("completed", {"status": "canceled"})]
            assert (await waiting).frames[-1][1]["status"] == "succeeded"
            assert (made.slots, made.local.room) == ([2, 1, 0, 2], 2)
            assert len(children() - before) == 1
            assert not made.events("worker_gone")

    run(work)


def test_while_the_successor_of_one_that_retired_is_set_up_health_says_why_there_is_one(tmp_path: Path) -> None:
    async def work() -> None:
        plan = {"later": {"file": str(tmp_path / "first"), "setup": "hang"}}
        async with shop(plan, cancel_grace_s=0.05) as made:
            (old,) = made.local.crew._workers
            deaf = predicting(do="ignore")
            async with made.local.open(deaf) as stream:
                made.local.cancel(outcome_of(deaf))
                await read(stream)
            await made.until(lambda: made.local.crew._workers not in ({old}, set()))
            health = made.local.health()
            assert (health.status, health.setup.status, health.error) == (
                "STARTING",
                "starting",
                "a prediction did not stop, and its worker is replaced",
            )

    run(work)


def test_a_worker_that_dies_while_it_retires_is_replaced_at_once() -> None:
    async def work() -> None:
        async with shop({"slots": 2}, cancel_grace_s=0.05) as made:
            (post,) = made.local.crew._posts
            post.ends = 20
            other, deaf = predicting(do="wait"), predicting(do="ignore")
            async with made.local.open(other) as stream, made.local.open(deaf) as ignoring:
                made.local.cancel(outcome_of(deaf))
                await read(ignoring)
                (worker,) = made.local.crew._workers
                worker._process.signal(signal.SIGKILL)
                assert "signal 9" in (await read(stream)).endings[0].message
            await made.until(lambda: worker not in made.local.crew._workers)
            assert (len(made.local.crew._workers), post.timer, post.ends) == (1, None, 20)
            assert (await made.predict()).endings

    run(work)


def test_a_worker_whose_socket_is_closed_has_no_place_from_that_moment() -> None:
    async def work() -> None:
        async with shop() as made:
            (worker,) = made.local.crew._workers
            worker._process._link.close()
            async with asyncio.timeout(WAIT_S):
                while worker._process.reachable:
                    await asyncio.sleep(0)
            assert made.slots == [1, 0]
            assert made.local.health().status == "STARTING"
            assert (await made.predict()).endings

    run(work)


@pytest.mark.slow
def test_where_nothing_is_left_to_wait_for_everybody_is_let_in_to_be_told(tmp_path: Path) -> None:
    async def work() -> None:
        async with shop({"later": {"file": str(tmp_path / "first"), "setup": "fail"}}) as made:
            await made.predict(do="kill")
            await made.until(lambda: made.local.health().status == "DEFUNCT")
            assert (made.local.room, made.slots) == (None, [1, 0, 1])
            with pytest.raises(AttemptFailed, match="keep failing") as refusal:
                await made.predict()
            ((name, value),) = refusal.value.headers
            assert (name, int(value) >= 1) == (b"retry-after", True)

    run(work)


@pytest.mark.slow
def test_workers_that_die_of_what_they_are_asked_are_not_defunct_and_back_soon() -> None:
    async def work() -> None:
        async with shop() as made:
            for _ in range(DEFUNCT_AFTER):
                assert (await made.predict(do="kill")).endings
                assert made.local.health().status == "STARTING"
            assert (await made.predict()).frames[-1][1]["status"] == "succeeded"
            (post,) = made.local.crew._posts
            post.ends = 20
            await made.predict(do="exit")
            await made.until(lambda: post.timer is not None)
            assert post.ends == 1, "it had done work between"
            await made.until(lambda: made.local.health().status == "READY")
            post.ends = 20
            await made.predict(do="exit")
            await made.until(lambda: post.timer is not None)
            assert made.local.health().restart_in_s <= MAX_CRASH_BACKOFF_S

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


async def _hold(made: Shop, source: Source) -> None:
    """Have a reader stop to read until its worker is not heard any more."""
    source.pause()
    await made.until(lambda: any(worker.held for worker in made.local.crew._workers))


FLOOD = {"do": "wait", "items": ["x" * 65536] * 200}


def test_while_a_slow_reader_keeps_its_worker_from_being_heard_the_last_answer_of_its_check_stands() -> None:
    async def work() -> None:
        async with shop({"checks": True, "check": "the GPU is gone", "slots": 2}) as made:
            (worker,) = made.local.crew._workers
            async with made.local.open(predicting(**FLOOD)) as stream:
                await _hold(made, stream.source)
                assert await made.local.check() == ""
                assert made.local.health().status == "READY"
            assert await made.local.check() == "the GPU is gone"
            async with made.local.open(predicting(**FLOOD)) as stream:
                await _hold(made, stream.source)
                assert await made.local.check() == "the GPU is gone"
            assert worker._checks_begun == 1

    run(work)


def test_a_check_is_asked_of_a_worker_that_can_be_heard() -> None:
    async def work() -> None:
        async with shop({"checks": True, "check": "the GPU is gone", "slots": 2}, workers=2) as made:
            await made.until(lambda: len(made.events("worker_ready")) == 2)
            held = made.local.crew._pick()
            async with made.local.open(predicting(**FLOOD)) as stream:
                await _hold(made, stream.source)
                (free,) = (worker for worker in made.local.crew._workers if worker is not held)
                free.load += 2  # however busy
                assert await made.local.check() == "the GPU is gone"
                free.load -= 2

    run(work)


def test_a_check_whose_answer_a_slow_reader_delays_is_not_asked_twice() -> None:
    async def work() -> None:
        async with shop({"checks": True, "slots": 2}) as made:
            (worker,) = made.local.crew._workers
            async with made.local.open(predicting(**FLOOD)) as stream:
                asking = asyncio.get_running_loop().create_task(made.local.check())
                await made.until(lambda: worker._checks_begun == 1)
                await _hold(made, stream.source)
                assert await asking == ""
            asking = asyncio.get_running_loop().create_task(made.local.check())
            await made.predict(do="kill")
            assert await asking == "the worker crashed (signal 9)"
            assert worker._checks_begun == 1

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
    link = Link(ear, lambda: None)
    link.data_received((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
    link.data_received(b"more")
    link.pause()
    link.resume()
    assert ear.whys == [f"the worker sent a message of {MAX_MESSAGE_BYTES + 1} bytes"]
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
