"""`tidegate serve` with a model of our own, as its author sees it: what is left, what the terminal and the log say."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from processes import WAIT_S, Served, fetch, serving

pytestmark = pytest.mark.slow

FLAGS = ("--port", "0", "--ops-listen", "127.0.0.1:0")
MODEL = """
import os, sys, time
from collections.abc import Iterator
from tidegate.predict import Path

class Model:
    def predict(self, seconds: float = 0.0, file: Path | None = None) -> Iterator[str]:
        print("begun", os.environ.get("SOME_KEY"))
        with open(os.path.join(os.environ["TMPDIR"], "scribble"), "w") as scribble:
            scribble.write("x")
        yield "a"
        time.sleep(seconds)
        if not seconds:
            raise ValueError("no more")

class Slow:
    def setup(self) -> None:
        print("loading", flush=True)
        time.sleep(600)

    def predict(self) -> int:
        return 1
"""


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "tmp").mkdir()
    return tmp_path


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def left(folder: Path, kind: str = "*") -> list[Path]:
    return list((folder / "tmp").glob(f"tidegate-{kind}-*"))


def begin(served: Served, given: dict[str, Any]) -> str:
    """Begin a prediction; gives its id."""
    port, _ = served.ports()
    served.line('"event":"worker_ready"')
    body = json.dumps({"input": given}).encode()
    status, answer = fetch(port, "POST", "/predictions", body, {"prefer": "respond-async"})
    assert status == 202
    return str(json.loads(answer)["id"])


def test_what_a_killed_gateway_leaves_is_removed_by_the_next(folder: Path) -> None:
    env = {"TMPDIR": str(folder / "tmp")}
    with serving("serve", "--predict", "model.py", *FLAGS, cwd=folder, env=env) as served:
        begin(served, {"seconds": 600, "file": "data:,x"})
        until(lambda: list((folder / "tmp").glob("tidegate-worker-*/scribble")))
        with serving("serve", "--predict", "model.py", *FLAGS, cwd=folder, env=env) as beside:
            beside.line('"event":"worker_ready"')
            assert len(left(folder, "worker")) == 2  # what the other uses is not touched
            beside.signal(signal.SIGINT)
            assert beside.wait() == 0
        served.process.kill()
        served.wait()
    assert {path.name.split("-")[1] for path in left(folder)} == {"worker", "input"}
    with serving("serve", "--predict", "model.py", *FLAGS, cwd=folder, env=env) as served:
        served.line('"event":"worker_ready"')
        until(lambda: len(left(folder)) == 1)  # its own
        served.signal(signal.SIGINT)
        assert served.wait() == 0
    assert left(folder) == []


def test_who_stops_a_gateway_during_a_setup_is_told_of_no_error(folder: Path) -> None:
    with serving("serve", "--predict", "model.py:Slow", *FLAGS, cwd=folder) as served:
        served.line('"event":"worker_output"', '"text":"loading"')
        served.signal(signal.SIGINT)
        assert served.wait() == 0
        assert not [line for line in served.lines if '"level":"error"' in line or '"level":"warning"' in line]


def test_what_a_prediction_prints_is_on_the_terminal_and_its_traceback_goes_by_its_id(folder: Path) -> None:
    with serving("serve", "--predict", "model.py", *FLAGS, cwd=folder) as served:
        ident = begin(served, {})
        printed = json.loads(served.line('"event":"prediction_output"'))
        assert (printed["source"], printed["text"], printed["prediction"]) == ("stdout", "begun None", ident)
        failed = json.loads(served.line('"event":"prediction_failed"'))
        assert failed["prediction"] == ident
        assert failed["traceback"].endswith("ValueError: no more\n")
        assert "withheld" not in served.output()
        served.signal(signal.SIGINT)
        assert served.wait() == 0


def test_a_model_that_imports_cog_is_told_what_to_write(folder: Path) -> None:
    text = "from cog import BasePredictor\nclass Predictor(BasePredictor):\n    def predict(self) -> int:\n        return 1\n"
    (folder / "model.py").write_text(text, encoding="utf-8")
    with serving("serve", "--predict", "model.py", *FLAGS, cwd=folder) as served:
        assert "from tidegate.predict import" in json.loads(served.line('"event":"setup_failed"'))["error"]
        served.signal(signal.SIGINT)
        assert served.wait() == 0
