"""How a local provider is: its setup, its workers' returns, and the places that there are."""

import asyncio
import json
import signal
from pathlib import Path

import msgspec
import pytest
from workshop import WAIT_S, children, outcome_of, predicting, read, run, shop

from tidegate.verdict import MODEL_UNAVAILABLE, AttemptFailed
from tidegate.worker.crew import DEFUNCT_AFTER, FIRST_BACKOFF_S, MAX_CRASH_BACKOFF_S


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
