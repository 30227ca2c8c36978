"""`tidegate serve --predict`: a handler is served by one command, and what is wrong with it is told."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from processes import PLAIN, Served, fetch, get, serving, tidegate, write_config

pytestmark = pytest.mark.slow

MODEL = """
import os
from collections.abc import Iterator

class Model:
    def setup(self) -> None:
        print("loading")

    def predict(self, name: str, times: int = 1) -> Iterator[str]:
        for _ in range(times):
            yield f"Hello, {name}! "

def pid(n: int = 0) -> int:
    import time
    time.sleep(0.5)
    return os.getpid()
"""
FLAGS = ("--port", "0", "--ops-listen", "127.0.0.1:0")
COG = (
    "PORT",
    "COG_SETUP_TIMEOUT",
    "COG_STREAM_HISTORY_CAPACITY",
    "COG_THROTTLE_RESPONSE_INTERVAL",
    "WEBHOOK_AUTH_TOKEN",
)
OWN: dict[str, Any] = {
    "providers": [
        {
            "name": "own",
            "kind": "local",
            "local": {"handler": "model.py:Model", "workers": 2},
            "slots": {"max_queue": 7, "max_queue_wait": "30s"},
        }
    ],
    "models": [{"name": "greeter", "targets": [{"provider": "own"}]}],
    "predictions": {"webhooks": {"secret": "whsec_Y2FuYXJ5", "token": "canary-token"}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with a handler."""
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    return tmp_path


def predict(port: int, given: dict[str, Any], path: str = "/predictions", **headers: str) -> tuple[int, Any]:
    status, body = fetch(port, "POST", path, json.dumps({"input": given}).encode(), headers)
    return status, json.loads(body) if headers.get("accept") != "text/event-stream" else body.decode()


def ready(served: Served) -> int:
    """Wait until predictions can be made; gives the port."""
    port, _ = served.ports()
    served.line('"event":"worker_ready"')
    return port


def test_a_handler_is_served_without_a_file_and_asked_like_cog_and_as_a_model(folder: Path) -> None:
    with serving("serve", "--predict", "model.py:Model", *FLAGS, cwd=folder) as served:
        port = ready(served)
        status, made = predict(port, {"name": "Ada", "times": 2})
        assert (status, made["status"], made["output"]) == (200, "succeeded", ["Hello, Ada! "] * 2)
        assert "event: completed\n" in predict(port, {"name": "Ada"}, accept="text/event-stream")[1]
        assert predict(port, {"name": "Ada"}, "/v1/models/model/predictions")[0] == 200
        assert predict(port, {})[0] == 422
        assert json.loads(get(port, "/health-check")[1])["status"] == "READY"
        served.signal(signal.SIGINT)
        assert served.wait() == 0


def test_the_log_says_where_to_ask_and_when(folder: Path) -> None:
    with serving("serve", "--predict", "model.py:Model", *FLAGS, cwd=folder) as served:
        port = ready(served)
        told = served.line('"event":"note"')
        assert f"POST http://127.0.0.1:{port}/predictions asks model" in told
        assert f"GET http://127.0.0.1:{port}/openapi.json" in told
        assert '"slots":1' in served.line('"event":"worker_ready"')
        assert '"text":"loading"' in served.line('"event":"worker_output"')
        assert "withheld" not in served.output()


def test_where_several_models_are_served_each_is_asked_by_its_name(folder: Path) -> None:
    models = [{"name": name, "targets": [{"provider": "own"}]} for name in ("first", "second")]
    with serving("serve", "-c", str(write_config(folder, **{**OWN, "models": models})), cwd=folder) as served:
        port = ready(served)
        for name in ("first", "second"):
            assert served.line(
                '"event":"note"', f"POST http://127.0.0.1:{port}/v1/models/{name}/predictions asks {name}"
            )
            assert predict(port, {"name": "Ada"}, f"/v1/models/{name}/predictions")[0] == 200
        assert predict(port, {"name": "Ada"})[0] == 404


def test_workers_is_how_many_processes_there_are(folder: Path) -> None:
    with serving("serve", "--predict", "model.py:Model", "--workers", "2", *FLAGS, cwd=folder) as served:
        ready(served)
        assert served.line('"event":"worker_ready"', '"worker":0')
        assert served.line('"event":"worker_ready"', '"worker":1')


def test_clients_may_stop_what_predict_serves(folder: Path) -> None:
    with serving("serve", "--predict", "model.py:Model", *FLAGS, cwd=folder) as served:
        port = ready(served)
        assert fetch(port, "POST", "/shutdown")[0] == 200
        assert served.wait() == 0


# --- what is wrong -------------------------------------------------------------------------------------------------


def test_a_file_and_a_handler_are_not_served_both(folder: Path) -> None:
    done = tidegate("serve", "--predict", "model.py:Model", "-c", str(write_config(folder)), cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--config" in done.stderr
    assert "--predict" in done.stderr


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("missing.py:Model", "there is no file 'missing.py'"),
        ("model.py:not a name", "expected"),
        ("", "required"),
    ],
)
def test_a_reference_that_can_be_none_is_refused_before_anything_is_served(
    reference: str, told: str, folder: Path
) -> None:
    done = tidegate("serve", "--predict", reference, *FLAGS, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --predict: ")
    assert told in line


@pytest.mark.parametrize("workers", ["0", "-1", "many"])
def test_workers_is_one_process_at_least(workers: str, folder: Path) -> None:
    done = tidegate("serve", "--predict", "model.py:Model", "--workers", workers, cwd=folder)
    assert done.returncode == 2
    assert "--workers" in done.stderr


@pytest.mark.parametrize(
    ("text", "reference", "told"),
    [
        ("x = 1\n", "model.py", "name the handler, as in model.py:Name"),
        ("class Other:\n    def predict(self) -> int:\n        return 1\n", "model.py:Nope", "it has Other"),
        ("import no_such_module_here\n", "model.py:Model", "no_such_module_here"),
        ("def run(x: 'NoSuchType') -> int:\n    return 1\n", "model.py:run", "NoSuchType"),
        ("class Model:\n    pass\n", "model.py", "predict"),
    ],
)
def test_a_handler_that_cannot_be_loaded_is_told_in_the_log_and_by_the_health(
    text: str, reference: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "model.py").write_text(text, encoding="utf-8")
    with serving("serve", "--predict", reference, *FLAGS, cwd=tmp_path) as served:
        port, _ = served.ports()
        assert told in json.loads(served.line('"event":"setup_failed"'))["error"]
        health = json.loads(get(port, "/health-check")[1])
        assert health["status"] == "SETUP_FAILED"
        assert told in health["setup"]["logs"]
        assert predict(port, {})[0] == 503
        served.signal(signal.SIGINT)
        assert served.wait() == 0


def test_a_setup_that_raises_is_told_with_its_traceback_and_what_it_printed(tmp_path: Path) -> None:
    text = MODEL.replace('print("loading")', 'print("loading")\n        raise ValueError("no weights")')
    (tmp_path / "model.py").write_text(text, encoding="utf-8")
    with serving("serve", "--predict", "model.py", *FLAGS, cwd=tmp_path) as served:
        served.ports()
        told = json.loads(served.line('"event":"setup_failed"'))
        assert told["error"] == "ValueError: no weights"
        assert 'model.py", line ' in told["traceback"]
        assert '"text":"loading"' in served.line('"event":"worker_output"')


def test_a_prediction_that_raises_has_its_traceback_in_the_log_alone(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("def run() -> int:\n    raise KeyError('gone')\n", encoding="utf-8")
    with serving("serve", "--predict", "model.py:run", *FLAGS, cwd=tmp_path) as served:
        status, made = predict(ready(served), {})
        assert (status, made["status"]) == (200, "failed")
        assert "Traceback" not in json.dumps(made)
        told = json.loads(served.line('"event":"prediction_failed"'))
        assert told["traceback"].startswith("Traceback (most recent call last):")
        assert "withheld" not in told


# --- Cog's variables -----------------------------------------------------------------------------------------------


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in COG:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("plain_environment")
def test_cogs_variables_are_obeyed_and_a_flag_wins(folder: Path) -> None:
    env = {"PORT": "1", "COG_STREAM_HISTORY_CAPACITY": "3", "COG_SETUP_TIMEOUT": "60"}
    with serving("serve", "--predict", "model.py:Model", *FLAGS, cwd=folder, env=env) as served:
        port = ready(served)
        assert port > 1
        body = json.dumps({"input": {"name": "Ada", "times": 9}}).encode()
        assert fetch(port, "PUT", "/predictions/a", body)[0] == 200
        replay = fetch(port, "GET", "/predictions/a", headers={"accept": "text/event-stream"})[1]
        assert replay.count(b"event: output\n") == 2
        assert b"event: skipped\n" in replay


@pytest.mark.usefixtures("plain_environment")
@pytest.mark.parametrize(("variable", "value"), [("PORT", "many"), ("COG_SETUP_TIMEOUT", "soon")])
def test_a_variable_that_makes_no_sense_is_named(variable: str, value: str, folder: Path) -> None:
    done = tidegate("serve", "--predict", "model.py:Model", cwd=folder, env={variable: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert variable in done.stderr


# --- check and explain ---------------------------------------------------------------------------------------------


def test_check_shows_a_local_provider_and_masks_the_secrets_of_webhooks(folder: Path) -> None:
    done = tidegate("check", "-c", str(write_config(folder, **OWN)), cwd=folder)
    assert done.returncode == 0
    rows = dict(line.split("\t") for line in done.stdout.splitlines())
    assert rows["providers[0].local.handler"] == "model.py:Model"
    assert rows["predictions.webhooks.secret"] == rows["predictions.webhooks.token"] == "set"
    assert rows["predictions.retain"] == "1h"
    assert not [word for word in ("canary", "Y2FuYXJ5") if word in done.stdout + done.stderr]
    assert "nobody waits" not in done.stderr


def test_check_names_what_is_wrong_with_a_local_provider(folder: Path) -> None:
    providers = [{"name": "own", "kind": "local", "local": {"workres": 2}}]
    done = tidegate("check", "-c", str(write_config(folder, providers=providers, models=OWN["models"])), cwd=folder)
    assert done.returncode == 2
    assert "providers[0].local.workres" in done.stderr
    assert "providers[0].local.handler: required" in done.stderr


def test_explain_says_where_a_model_of_our_own_runs_and_what_is_kept(folder: Path) -> None:
    done = tidegate("explain", "greeter", "-c", str(write_config(folder, **OWN)), cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    assert "2 processes run model.py:Model, each as many predictions at a time as its @concurrent says" in said
    assert "as many predictions as its processes have room for at a time; 7 may wait, for 30s" in said
    assert "10m for setup; at most 256MiB of output; what is cancelled has 5s to end" in said
    assert "/v1/models/greeter/predictions" in said
    assert "during 1h, at most 10000 of them and 256MiB" in said
    assert "canary" not in said


def test_explain_says_nothing_of_predictions_where_there_are_none(folder: Path) -> None:
    done = tidegate("explain", "mock", "-c", str(write_config(folder, **PLAIN)), cwd=folder)
    assert done.returncode == 0
    assert "rediction" not in done.stdout
    assert "processes" not in done.stdout
