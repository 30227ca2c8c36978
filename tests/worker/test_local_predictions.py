"""Predictions in processes of our own: their frames, their ends, what is cancelled, and what a crash takes with it."""

import asyncio
import contextlib
import json
import signal
from random import Random
from typing import Any

import pytest
from workshop import Reader, outcome_of, predicting, read, run, shop

from tidegate.dialect import Notice
from tidegate.dialect.prediction import Prediction
from tidegate.exchange import Usage
from tidegate.verdict import COMPLETED, MODEL_UNAVAILABLE, SERVER_SHUTDOWN, UPSTREAM_RESET, AttemptFailed
from tidegate.wire import Frame

CANCELED = ("completed", {"status": "canceled"})


def test_a_prediction_says_all_that_its_worker_says_in_order() -> None:
    async def work() -> None:
        async with shop() as made:
            reader = await made.predict(say="hello\n", items=["a", 2], do="list")
            assert reader.frames == [
                ("log", {"source": "stdout", "data": "hello\n"}),
                ("metric", {"name": "a.b", "value": 1, "mode": "replace"}),
                ("output", {"chunk": "a", "index": 0}),
                ("output", {"chunk": 2, "index": 1}),
                ("completed", {"status": "succeeded", "array": True}),
            ]
            assert [ending.verdict for ending in reader.endings] == [COMPLETED]

    run(work)


def test_a_value_on_several_lines_of_json_stays_one_event() -> None:
    async def work() -> None:
        async with shop() as made:
            assert ("value", {"chunk": {"a": 1}, "index": 0}) in (await made.predict()).frames

    run(work)


def test_an_attempt_s_record_has_the_instants() -> None:
    async def work() -> None:
        async with shop() as made:
            attempt = predicting()
            async with made.local.open(attempt) as stream:
                await read(stream)
            record = attempt.record
            assert 0 < record.started_at <= record.sent_at <= record.content_at
            assert record.headed_at
            assert record.framed_at

    run(work)


def test_a_traceback_goes_to_the_log_and_not_to_the_client() -> None:
    async def work() -> None:
        async with shop() as made:
            reader = await made.predict(do="fail", items=[1])
            assert reader.frames[-1] == ("completed", {"status": "failed", "error": "ValueError: x"})
            assert b"Traceback" not in b"".join(reader.pieces)
            (entry,) = made.events("prediction_failed")
            assert entry["traceback"] == "Traceback: model.py"
            assert (entry["request"], entry["prediction"]) == ("request-1", "p1")

    run(work)


def test_a_provider_that_is_not_set_up_refuses_at_once() -> None:
    async def work() -> None:
        async with shop({"setup": "hang"}, ready=False) as made:
            with pytest.raises(AttemptFailed, match="not finished") as failure:
                async with made.local.open(predicting()):
                    pass
            assert failure.value.verdict is MODEL_UNAVAILABLE
            assert failure.value.status == 503
            assert made.local.health().status == "STARTING"

    run(work)


# --- cancelling ------------------------------------------------------------------------------------------------------


def test_a_cancelled_prediction_ends_canceled_and_its_worker_stays() -> None:
    async def work() -> None:
        async with shop() as made:
            attempt = predicting(do="wait")
            async with made.local.open(attempt) as stream:
                assert made.local.health().status == "BUSY"
                assert made.local.cancel(outcome_of(attempt))
                assert made.local.cancel(outcome_of(attempt)), "a second time changes nothing"
                assert (await read(stream)).frames == [CANCELED]
            assert not made.local.cancel(outcome_of(attempt))
            assert (await made.predict()).endings
            assert len(made.events("worker_ready")) == 1

    run(work)


def test_a_prediction_that_does_not_stop_ends_canceled_and_its_worker_is_replaced() -> None:
    async def work() -> None:
        async with shop(cancel_grace_s=0.05) as made:
            attempt = predicting(do="ignore")
            async with made.local.open(attempt) as stream:
                made.local.cancel(outcome_of(attempt))
                assert (await read(stream)).frames == [CANCELED]
            assert (await made.predict()).frames[-1][1]["status"] == "succeeded"
            assert len(made.events("worker_ready")) == 2
            assert not made.events("worker_gone"), "it was ours to end"

    run(work)


def test_others_in_a_worker_that_is_replaced_run_to_their_end() -> None:
    async def work() -> None:
        async with shop({"slots": 2}, cancel_grace_s=0.05) as made:
            other, deaf = predicting(do="wait"), predicting(do="ignore")
            async with made.local.open(other) as stream:
                async with made.local.open(deaf) as ignoring:
                    made.local.cancel(outcome_of(deaf))
                    assert (await read(ignoring)).frames == [CANCELED]
                assert made.local.crew.running == 1
                made.local.cancel(outcome_of(other))
                assert (await read(stream)).frames == [CANCELED]
            assert (await made.predict()).frames[-1][1]["status"] == "succeeded"
            assert len(made.local.crew._workers) == 1

    run(work)


def test_a_prediction_that_nobody_listens_to_is_stopped_before_its_place_is_free() -> None:
    async def work() -> None:
        async with shop() as made:
            async with made.local.open(predicting(do="wait", items=[1])) as stream:
                reader = Reader()
                stream.source.attach(reader)
                stream.source.abort()
                stream.source.pause()
            assert made.local.crew.running == 0
            assert not reader.endings
            assert not made.local.runs

    run(work)


def test_a_context_that_is_cancelled_while_it_waits_still_gives_its_place_back() -> None:
    async def work() -> None:
        async with shop(cancel_grace_s=0.3) as made:

            async def hold() -> None:
                async with made.local.open(predicting(do="ignore")):
                    await asyncio.sleep(60)

            task = asyncio.get_running_loop().create_task(hold())
            await made.until(lambda: made.local.crew.running == 1)
            task.cancel()
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await made.until(lambda: not made.local.crew.running and not made.local.runs)

    run(work)


def test_who_waits_for_a_place_can_leave_and_the_next_in_line_gets_it() -> None:
    async def work() -> None:
        async with shop() as made:
            first = predicting(do="wait")
            async with made.local.open(first) as stream:
                loop = asyncio.get_running_loop()
                leaving, staying = (loop.create_task(made.predict(items=[number])) for number in (1, 2))
                await made.until(lambda: len(made.local.crew._line) == 2)
                leaving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await leaving
                made.local.cancel(outcome_of(first))
                await read(stream)
            assert (await staying).frames[0] == ("output", {"chunk": 2, "index": 0})

    run(work)


def test_a_place_that_came_to_who_leaves_in_the_same_moment_is_not_lost() -> None:
    async def work() -> None:
        async with shop() as made:
            worker = await made.local.crew.take()
            task = asyncio.get_running_loop().create_task(made.local.crew.take())
            await made.until(lambda: len(made.local.crew._line) == 1)
            worker.give_back()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert worker.load == 0
            assert (await made.predict()).endings

    run(work)


# --- crashes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("do", "why"),
    [
        ("kill", "the worker crashed (signal 9)"),
        ("exit", "the worker exited (code 3)"),
    ],
)
def test_a_crash_ends_its_predictions_with_what_they_said_and_the_worker_comes_back(do: str, why: str) -> None:
    async def work() -> None:
        async with shop() as made:
            reader = await made.predict(do=do, items=["kept"], say="also\n")
            assert [name for name, _ in reader.frames] == ["log", "metric", "output"]
            (ending,) = reader.endings
            assert (ending.verdict, ending.message) == (UPSTREAM_RESET, why)
            assert made.events("worker_gone")[0]["error"] == why
            assert made.local.health().status == "STARTING"
            assert (await made.predict()).frames[-1][1]["status"] == "succeeded"
            assert made.local.health().status == "READY"

    run(work)


@pytest.mark.parametrize("do", ["garble", "boast"])
def test_a_worker_that_cannot_be_understood_is_replaced(do: str) -> None:
    async def work() -> None:
        async with shop() as made:
            (ending,) = (await made.predict(do=do)).endings
            assert ending.verdict is UPSTREAM_RESET
            assert made.events("worker_garbled")
            assert (await made.predict()).frames[-1][1]["status"] == "succeeded"

    run(work)


def test_a_crash_harms_nobody_in_another_worker() -> None:
    async def work() -> None:
        async with shop(workers=2) as made:
            await made.until(lambda: len(made.events("worker_ready")) == 2)
            assert made.slots == [1, 2]
            other = predicting(do="wait")
            async with made.local.open(other) as stream:
                assert (await made.predict(do="kill")).endings[0].verdict is UPSTREAM_RESET
                assert made.local.crew.running == 1
                assert made.slots == [1, 2, 1]
                assert made.local.health().status == "BUSY"
                made.local.cancel(outcome_of(other))
                assert (await read(stream)).frames == [CANCELED]

    run(work)


def test_work_goes_to_the_least_busy_worker() -> None:
    async def work() -> None:
        async with shop({"slots": 2}, workers=2) as made:
            await made.until(lambda: len(made.events("worker_ready")) == 2)
            assert made.local.slots == 4
            attempts = [predicting(do="wait") for _ in range(4)]
            contexts = [made.local.open(attempt) for attempt in attempts]
            for count, context in enumerate(contexts, 1):
                await context.__aenter__()
                loads = sorted(worker.load for worker in made.local.crew._workers)
                assert loads == [count // 2, (count + 1) // 2]
            for context in contexts:
                await context.__aexit__(None, None, None)
            assert made.local.crew.running == 0

    run(work)


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_an_output_above_its_limit_fails_and_is_stopped() -> None:
    async def work() -> None:
        async with shop(max_output_bytes=10) as made:
            reader = await made.predict(do="wait", items=["12345", "12345678"])
            assert reader.frames == [
                ("output", {"chunk": "12345", "index": 0}),
                ("completed", {"status": "failed", "error": "the output is larger than 10 bytes"}),
            ]
            assert made.local.crew.running == 0

    run(work)


def test_a_single_output_above_its_limit_fails_and_its_place_is_free_at_once() -> None:
    async def work() -> None:
        async with shop(max_output_bytes=4) as made:
            for _ in range(2):
                reader = await made.predict(do="succeed")
                assert reader.frames == [
                    ("completed", {"status": "failed", "error": "the output is larger than 4 bytes"})
                ]
                assert made.local.crew.running == 0
            (worker,) = made.local.crew._workers
            assert (worker.state, worker._timers) == ("ready", {})

    run(work)


def test_a_reader_that_pauses_holds_its_worker_back_and_loses_nothing() -> None:
    async def work() -> None:
        async with shop() as made, made.local.open(predicting(do="flood", chunks=300)) as stream:
            reader = Reader()
            stream.source.attach(reader)
            await asyncio.wait_for(reader.came.wait(), 30)
            stream.source.pause()
            await made.until(lambda: any(worker._holding for worker in made.local.crew._workers))
            held = sum(map(len, reader.pieces))
            await asyncio.sleep(0.05)
            assert sum(map(len, reader.pieces)) == held
            stream.source.resume()
            await asyncio.wait_for(reader.over.wait(), 30)
            outputs = [data for name, data in reader.frames if name == "output"]
            assert [data["index"] for data in outputs] == list(range(300))

    run(work)


@pytest.mark.slow
def test_a_paused_reader_s_prediction_can_still_be_cancelled() -> None:
    async def work() -> None:
        async with shop(cancel_grace_s=30.0) as made:
            attempt = predicting(do="wait", items=["x" * 65536] * 200)
            async with made.local.open(attempt) as stream:
                stream.source.pause()
                await made.until(lambda: any(worker._holding for worker in made.local.crew._workers))
                made.local.cancel(outcome_of(attempt))
                await made.until(lambda: made.local.crew.running == 0)
                stream.source.resume()
                assert (await read(stream)).frames[-1] == CANCELED

    run(work)


def test_one_paused_reader_lets_go_of_the_worker_when_it_leaves() -> None:
    async def work() -> None:
        async with shop({"slots": 2}) as made:
            async with made.local.open(predicting(do="wait", items=["x" * 65536] * 200)) as stream:
                stream.source.pause()
                await made.until(lambda: any(worker._holding for worker in made.local.crew._workers))
            assert not any(worker._holding for worker in made.local.crew._workers)
            assert (await made.predict()).endings

    run(work)


@pytest.mark.slow
def test_chance_crashes_and_cancellations_keep_the_count_of_places() -> None:
    async def work() -> None:
        chance = Random(5)
        async with shop({"slots": 3}, workers=2, cancel_grace_s=0.05) as made:
            await made.until(lambda: len(made.events("worker_ready")) == 2)

            async def one() -> None:
                do = chance.choice(["list", "list", "fail", "wait", "wait", "ignore", "kill"])
                with contextlib.suppress(AttemptFailed, TimeoutError):
                    async with asyncio.timeout(chance.random() * 0.3), made.local.open(predicting(do=do)) as stream:
                        await read(stream)

            for _ in range(8):
                await asyncio.gather(*(one() for _ in range(6)))
            await made.until(lambda: not made.local.crew.running and not made.local.runs)
            await made.until(lambda: made.local.health().status in {"READY", "DEFUNCT"})
            assert not any(worker.load for worker in made.local.crew._workers if worker.state == "ready")
            assert not made.local.crew._line

    run(work)


# --- closing ---------------------------------------------------------------------------------------------------------


def test_closing_lets_what_runs_end_and_takes_nothing_new() -> None:
    async def work() -> None:
        async with shop() as made:
            attempt = predicting(do="wait")
            async with made.local.open(attempt) as stream:
                closing = asyncio.get_running_loop().create_task(made.local.close(600.0))
                await asyncio.sleep(0)
                with pytest.raises(AttemptFailed) as failure:
                    await made.predict()
                assert failure.value.verdict is SERVER_SHUTDOWN
                made.local.cancel(outcome_of(attempt))
                assert (await read(stream)).frames == [CANCELED]
            await closing

    run(work)


@pytest.mark.slow
def test_what_does_not_end_in_time_is_told_so_and_its_process_killed() -> None:
    async def work() -> None:
        async with shop({"stubborn": True}) as made, made.local.open(predicting(do="ignore")) as stream:
            closing = asyncio.get_running_loop().create_task(made.local.close(0.01))
            reader = await read(stream)
            assert reader.endings[0].verdict is SERVER_SHUTDOWN
            await closing

    run(work)


def test_a_signal_from_outside_is_a_crash_like_any_other() -> None:
    async def work() -> None:
        async with shop() as made:
            async with made.local.open(predicting(do="wait")) as stream:
                (worker,) = made.local.crew._workers
                worker._process.signal(signal.SIGKILL)
                reader = await read(stream)
                assert "signal 9" in reader.endings[0].message
            assert (await made.predict()).endings

    run(work)


def test_what_is_wrong_with_an_input_is_told_to_the_client_and_not_to_the_log() -> None:
    async def work() -> None:
        async with shop() as made:
            reader = await made.predict(do="misfit")
            assert "canary" in reader.frames[-1][1]["error"]
            (entry,) = made.events("prediction_failed")
            assert entry["error"] == "the input does not fit"
            assert "canary" not in str(made.log.entries)

    run(work)


def _notice(frame: tuple[str, Any]) -> Notice:
    return Prediction.notice(Frame(f"event: {frame[0]}\ndata: {json.dumps(frame[1])}\n\n".encode()))


def test_tokens_that_a_handler_counts_are_told_at_the_end() -> None:
    async def work() -> None:
        async with shop() as made:
            counts = {"input_token_count": 7, "output_tokens": 5, "other": 9}
            last = (await made.predict(counts=counts, items=["a", "b"], do="list")).frames[-1]
            assert _notice(last).usage == Usage(input_tokens=7, output_tokens=5)
            failed = (await made.predict(counts={"output_tokens": 5}, do="fail")).frames[-1]
            notice = _notice(failed)
            assert notice.error is not None
            assert notice.usage is not None
            assert (notice.usage.output_tokens, notice.usage.estimated) == (5, True)
            assert notice.usage.input_tokens > 0
            assert "usage" not in (await made.predict(items=["a"], do="list")).frames[-1][1]
            odd = (await made.predict(counts={"output_tokens": "many", "input_tokens": -1}, do="list")).frames[-1]
            assert odd == ("completed", {"status": "succeeded", "array": True})

    run(work)
