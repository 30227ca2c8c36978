"""What holds for models of our own besides their contract: no second try, no breaker, aliases, tokens, odd schemas."""

import json
from pathlib import Path

import pytest

from harness import ask, chat, run, until
from owning import WAIT_S, model, owning, provider

COUNTED = """
import os
from typing import Iterator
from tidegate.predict import Input, current_scope

def _run() -> None:
    with open(os.path.join(os.path.dirname(__file__), "runs"), "a") as file:
        file.write("x")

def failing(prompt: str = "") -> Iterator[str]:
    _run()
    raise ValueError("no luck")
    yield ""

def dying(prompt: str = "") -> Iterator[str]:
    _run()
    os._exit(3)
    yield ""

def odd(code: str = Input(regex=r"a\\Z")) -> str:
    return code
"""
AGAIN = {"retry": {"max_attempts": 3}}


def _handler(tmp_path: Path, name: str) -> dict[str, object]:
    place = tmp_path / "counted.py"
    place.write_text(COUNTED)
    # Empty sections: what is not said is as it follows from the kind.
    return provider(local={"handler": f"{place}:{name}"}, retry={}, breaker={})


@pytest.mark.parametrize(("name", "why"), [("failing", "ValueError: no luck"), ("dying", "the worker exited (code 3)")])
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_handler_fails_at_is_run_once_and_its_words_reach_every_client(
    tmp_path: Path, name: str, why: str, *, stream: bool
) -> None:
    async def work() -> None:
        async with owning(providers=[_handler(tmp_path, name)]) as own:
            told = await ask(own.port, chat("own", stream=stream))
            assert told.status >= 500
            assert why in told.json()["error"]["message"]
            assert (tmp_path / "runs").read_text() == "x"
            await until(lambda: own.local.health().status == "READY", WAIT_S)
            found = (await own.post({"prompt": "x"})).json()
            assert (found["status"], found["error"]) == ("failed", why)
            assert (tmp_path / "runs").read_text() == "xx"
            await own.at_rest()

    run(work)


def test_a_handler_that_keeps_failing_is_still_asked(tmp_path: Path) -> None:
    async def work() -> None:
        async with owning(providers=[_handler(tmp_path, "failing")]) as own:
            for _ in range(25):
                assert "no luck" in (await ask(own.port, chat("own"))).json()["error"]["message"]
            assert len((tmp_path / "runs").read_text()) == 25

    run(work)


def test_no_prediction_is_tried_again_whatever_the_retries_of_its_provider(tmp_path: Path) -> None:
    async def work() -> None:
        async with owning(providers=[{**_handler(tmp_path, "dying"), **AGAIN}]) as own:
            assert (await own.post({"prompt": "x"})).json()["status"] == "failed"
            assert (tmp_path / "runs").read_text() == "x"

    run(work)


def test_tokens_that_the_handler_counts_are_the_usage_of_its_predictions() -> None:
    async def work() -> None:
        async with owning("Counting") as own:
            assert (await own.post({"prompt": "x"})).json()["status"] == "succeeded"
            usage = (await own.running.entry()).usage
            assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (70, 7, False)

    run(work)


def test_one_model_with_an_alias_is_still_the_only_one() -> None:
    async def work() -> None:
        async with owning("echo", models=[{**model(), "aliases": ["other/name"]}]) as own:
            made = await own.post({"text": "a"}, id="one")
            assert (made.status, made.json()["output"]) == (200, "a")
            again = await own.post({"text": "b"}, "/v1/models/other/name/predictions")
            assert (again.status, again.json()["output"]) == (200, "b")
            shown = await own.get("/v1/models/other/name/predictions/one")
            assert (shown.status, shown.json()["model"]) == (200, "own")

    run(work)


def test_a_regex_that_inputs_cannot_be_checked_by_is_a_failed_setup(tmp_path: Path) -> None:
    async def work() -> None:
        async with owning(providers=[_handler(tmp_path, "odd")], ready=False) as own:
            assert not await own.local.wait_ready(WAIT_S)
            health = (await own.get("/health-check")).json()
            assert health["status"] == "SETUP_FAILED"
            assert r"the regex a\Z of the input 'code' cannot be used" in json.dumps(health).replace("\\\\", "\\")
            refused = await own.post({"code": "a"})
            assert refused.status == 503
            assert "setup failed" in refused.json()["error"]

    run(work)
