"""A prediction's whole life, from `start` to its terminal snapshot, told by its exchange and followed by its clients."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from predicted import CANCELED, FAILED, HEAD, SUCCEEDED, Run, events, frame, turns, virtual

from tidegate.exchange import Ending
from tidegate.predictions.prediction import Policy
from tidegate.predictions.product import Logs
from tidegate.testing.clock import run_virtual
from tidegate.verdict import (
    CLIENT_GONE,
    COMPLETED,
    IDLE_TIMEOUT,
    QUEUE_FULL,
    UPSTREAM_ERROR_FRAME,
    Refused,
)

# --- the life of one -------------------------------------------------------------------------------------------------


@virtual
async def test_a_follower_is_told_the_whole_life_from_start_to_the_terminal_snapshot() -> None:
    run = Run()
    client = run.follow()
    prediction = run.start()
    prediction.write(frame("log", {"source": "stdout", "data": "one\n"}))
    prediction.write(frame("output", {"chunk": {"a": 1}, "index": 0}) + frame("output", {"chunk": "b\n\n", "index": 1}))
    prediction.write(frame("metric", {"name": "n.tokens", "value": 2, "mode": "increment"}))
    prediction.write(b": keep-alive\n\n")
    await asyncio.sleep(1.5)
    prediction.write(SUCCEEDED)
    prediction.finish(Ending(COMPLETED))
    await turns()
    terminal = {
        "id": "p1",
        "logs": "one\n",
        "metrics": {"n": {"tokens": 2}, "predict_time": 1.5},
        "output": [{"a": 1}, "b\n\n"],
        "status": "succeeded",
    }
    assert events(client) == [
        ("start", {"id": "p1", "status": "processing"}),
        ("log", {"data": "one\n", "source": "stdout"}),
        ("output", {"chunk": {"a": 1}, "index": 0}),
        ("output", {"chunk": "b\n\n", "index": 1}),
        ("metric", {"mode": "increment", "name": "n.tokens", "value": 2}),
        ("completed", terminal),
    ]
    assert client.ending is not None
    assert run.told == ["start", "logs", "output", "output", "completed"]
    assert prediction._flow is None, "one that is kept must not keep its relay"
    assert run.snapshot() == terminal


@virtual
async def test_a_value_is_one_output_event_and_no_list() -> None:
    run = Run()
    client = run.follow()
    prediction = run.start()
    prediction.write(frame("value", {"chunk": "HI", "index": 0}))
    assert "output" not in run.snapshot()
    prediction.write(b'event: completed\ndata: {"status":"succeeded","array":false}\n\n')
    await turns()
    assert [event for event, _ in events(client)] == ["start", "output", "completed"]
    assert run.snapshot()["output"] == "HI"


@virtual
async def test_an_output_that_is_an_empty_list_or_nothing_at_all_is_said_so() -> None:
    empty, none = Run(), Run()
    empty.start().write(SUCCEEDED)
    none.start().write(b'event: completed\ndata: {"status":"succeeded"}\n\n')
    assert empty.snapshot()["output"] == []
    assert none.snapshot()["output"] is None


@virtual
async def test_the_full_snapshot_has_the_input_and_the_instants() -> None:
    run = Run()
    assert run.snapshot(full=True) == {
        "completed_at": None,
        "created_at": "2023-11-14T22:13:20.000000Z",
        "id": "p1",
        "input": {"text": "hi"},
        "logs": "",
        "metrics": {},
        "model": "m",
        "started_at": None,
        "status": "starting",
    }
    await asyncio.sleep(1.0)
    prediction = run.start()
    prediction.write(frame("output", {"chunk": "a", "index": 0}))
    assert run.snapshot()["output"] == ["a"]
    await asyncio.sleep(1.0)
    prediction.write(SUCCEEDED)
    shown = run.snapshot(full=True)
    assert shown["started_at"] == "2023-11-14T22:13:21.000000Z"
    assert shown["completed_at"] == "2023-11-14T22:13:22.000000Z"
    assert shown["metrics"] == {"predict_time": 1.0}  # the time in line is no part of it


@virtual
async def test_a_failed_one_keeps_its_logs_and_partial_output() -> None:
    run = Run()
    client = run.follow()
    prediction = run.start()
    prediction.write(frame("log", {"source": "stderr", "data": "oh\n"}) + frame("output", {"chunk": 1, "index": 0}))
    prediction.write(FAILED)
    prediction.write(frame("error", {"error": "said again by the relay"}))
    prediction.finish(Ending(UPSTREAM_ERROR_FRAME))
    await turns()
    shown = run.snapshot()
    assert (shown["status"], shown["error"]) == ("failed", "ValueError: no")
    assert (shown["logs"], shown["output"]) == ("oh\n", [1])
    assert events(client)[-1] == ("completed", shown)


@virtual
async def test_a_run_that_ends_badly_fails_in_the_words_of_its_error_frame() -> None:
    run = Run()
    prediction = run.start()
    prediction.write(frame("error", {"error": "the worker crashed"}))
    assert not prediction.over
    prediction.finish(Ending(IDLE_TIMEOUT))
    assert run.snapshot()["error"] == "the worker crashed"


@pytest.mark.parametrize(
    ("ending", "error"),
    [
        (Ending(IDLE_TIMEOUT), IDLE_TIMEOUT.meaning),
        (Ending(IDLE_TIMEOUT, "too quiet"), "too quiet"),
        (Ending(COMPLETED), "the prediction ended without saying what came of it"),
    ],
)
def test_a_run_without_a_result_fails_and_says_why(ending: Ending, error: str) -> None:
    async def main() -> None:
        run = Run()
        run.start().finish(ending)
        assert run.snapshot()["error"] == error
        assert run.snapshot()["status"] == "failed"

    run_virtual(main)


@virtual
async def test_a_run_that_is_broken_off_fails() -> None:
    run = Run()
    run.start().abort()
    assert run.snapshot()["error"] == "the prediction was broken off"


@virtual
async def test_what_is_no_event_fails_the_prediction_and_ends_the_run() -> None:
    run = Run()
    prediction = run.start()
    prediction.write(b'event: output\ndata: {"chu\n\n')
    assert run.snapshot()["status"] == "failed"
    assert run.left
    unbound = Run()
    unbound.prediction.write(b"event: completed\ndata: 7\n\n")
    assert unbound.snapshot()["status"] == "failed"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_frames_that_come_in_pieces_are_told_whole(size: int) -> None:
    async def main() -> None:
        run = Run()
        prediction = run.start()
        block = (
            frame("output", {"chunk": "x" * 40, "index": 0}) + frame("output", {"chunk": "y", "index": 1}) + SUCCEEDED
        )
        for at in range(0, len(block), size):
            prediction.write(block[at : at + size])
        assert run.snapshot()["output"] == ["x" * 40, "y"]
        assert run.snapshot()["status"] == "succeeded"

    run_virtual(main)


@virtual
async def test_its_answers_carry_the_headers_of_its_run_but_not_those_of_the_inner_stream() -> None:
    prediction = Run().start()
    assert prediction.headers == HEAD.headers[1:]
    assert prediction.coded() is None
    assert prediction.unsent() == 0
    assert prediction.key == ("acme", "m", "p1")


@virtual
async def test_held_counts_input_output_logs_history_and_what_is_unfinished() -> None:
    run = Run()
    prediction = run.start()
    before = prediction.held()
    prediction.write(frame("output", {"chunk": "x" * 1000, "index": 0}))
    assert prediction.held() > before + 2000
    before = prediction.held()
    prediction.write(b"event: log\ndata: ")
    assert prediction.held() == before + 17
    prediction.write(b'{"data":"abc","source":"stdout"}\n\n')
    assert msgspec.json.decode(prediction.snapshot(full=False))["logs"] == "abc"


# --- logs ------------------------------------------------------------------------------------------------------------


def test_logs_keep_the_newest_and_note_what_was_cut() -> None:
    logs = Logs(10)
    for text in ("aaaa\n", "bbbb\n", "cccc\n"):
        logs.add(text)
    assert logs.text() == "[5 bytes of earlier logs were cut]\nbbbb\ncccc\n"
    logs.add("\N{EURO SIGN}" * 5)
    assert logs.text() == "[21 bytes of earlier logs were cut]\n" + "\N{EURO SIGN}" * 3
    assert logs.held == 9


@given(st.lists(st.text(max_size=12), max_size=20), st.integers(1, 16))
def test_logs_are_always_the_end_of_what_was_printed(texts: list[str], max_bytes: int) -> None:
    logs = Logs(max_bytes)
    for text in texts:
        logs.add(text)
    whole = "".join(texts).encode()
    kept = logs.text().partition(" bytes of earlier logs were cut]\n")[2] if logs.cut else logs.text()
    assert logs.held <= max_bytes
    assert whole.endswith(kept.encode())
    assert logs.cut + len(kept.encode()) == len(whole)


# --- whatever happens ------------------------------------------------------------------------------------------------

_HAPPENS: dict[str, Callable[[Run], object]] = {
    "try": lambda run: run.try_it(),
    "start": lambda run: run.start(),
    "output": lambda run: run.prediction.write(frame("output", {"chunk": 1, "index": 0})),
    "log": lambda run: run.prediction.write(frame("log", {"source": "stdout", "data": "x\n"})),
    "succeeded": lambda run: run.prediction.write(SUCCEEDED),
    "failed": lambda run: run.prediction.write(FAILED),
    "canceled": lambda run: run.prediction.write(CANCELED),
    "error": lambda run: run.prediction.write(frame("error", {"error": "e"})),
    "junk": lambda run: run.prediction.write(b"event: log\ndata: []\n\n"),
    "piece": lambda run: run.prediction.write(b"event: outp"),
    "completed": lambda run: run.prediction.finish(Ending(COMPLETED)),
    "idle": lambda run: run.prediction.finish(Ending(IDLE_TIMEOUT)),
    "abort": lambda run: run.prediction.abort(),
    "refuse": lambda run: run.prediction.refuse(Refused(QUEUE_FULL)),
    "cancel": lambda run: run.prediction.cancel(),
    "end": lambda run: run.prediction.end(Ending(CLIENT_GONE)),
    "caller": lambda run: run.come_and_go(),
    "follow": lambda run: run.follow(),
}


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.sampled_from(sorted(_HAPPENS)), max_size=25),
    policy=st.sampled_from(("sync", "stream", "async")),
    hears=st.booleans(),
)
def test_a_terminal_state_is_never_overwritten(steps: list[str], policy: Policy, hears: bool) -> None:
    async def main() -> None:
        run = Run(policy, hears=hears)
        client = run.follow()
        terminal = b""
        for step in [*steps, "abort"]:
            _HAPPENS[step](run)
            if terminal:
                assert run.prediction.snapshot(full=True) == terminal
            elif run.prediction.over:
                terminal = run.prediction.snapshot(full=True)
                assert run.prediction.status in {"succeeded", "failed", "canceled"}
        await turns(8)
        assert run.prediction.over
        told = [event for event, _ in events(client)]
        assert told.count("completed") == 1
        assert told[-1] == "completed"
        assert told.count("start") <= 1
        assert client.ending is not None
        assert run.told.count("completed") == (0 if run.prediction.refused_early else 1)
        await run.prediction.wait_decided()
        await run.prediction.wait_over()

    run_virtual(main)
