"""`tidegate serve --predict`: a handler is served by one command, and what is wrong with it is told."""

import contextlib
import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from processes import PLAIN, Served, fetch, get, serving, tidegate, write_config
from tidegate.config import load, load_handler

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
        place = f"http://127.0.0.1:{port}"
        assert f"model is ready when its worker is: POST {place}/predictions (schema: {place}/openapi.json)" in told
        assert '"slots":1' in served.line('"event":"worker_ready"')
        assert '"text":"loading"' in served.line('"event":"worker_output"')
        assert "withheld" not in served.output()


def test_where_several_models_are_served_each_is_asked_by_its_name(folder: Path) -> None:
    models = [{"name": name, "targets": [{"provider": "own"}]} for name in ("first", "second")]
    with serving("serve", "-c", str(write_config(folder, **{**OWN, "models": models})), cwd=folder) as served:
        port = ready(served)
        for name in ("first", "second"):
            place = f"http://127.0.0.1:{port}/v1/models/{name}"
            assert served.line('"event":"note"', f"{name} is ready when its worker is: POST {place}/predictions")
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
    assert done.stderr.startswith("error: expected --config or --predict, not both")
    assert "keys, secrets and limits" in done.stderr


@pytest.mark.parametrize("more", [(), ("--allow-private", "--workers", "3")])
def test_the_lines_that_are_shown_stand_for_the_flags(more: tuple[str, ...], folder: Path) -> None:
    odd = folder / "odd ${X} mödel.py"
    odd.write_text(MODEL, encoding="utf-8")
    flags = ("serve", "--predict", f"{odd.name}:Model", *more)
    done = tidegate(*flags, "-c", str(write_config(folder)), cwd=folder)
    file = folder / "shown.yaml"
    file.write_text(done.stderr.partition("\n\n")[2], encoding="utf-8")
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        shown = load(str(file), {}).config
        workers, private = (3, True) if more else (1, False)
        meant = load_handler(f"{odd.name}:Model", workers, {}, allow_private=private).config
    assert (shown.providers, shown.models, shown.predictions) == (meant.providers, meant.models, meant.predictions)
    assert (shown.server.host, shown.server.port) == (meant.server.host, meant.server.port)


def test_allow_private_is_for_a_handler_alone(folder: Path) -> None:
    done = tidegate("serve", "--allow-private", "-c", str(write_config(folder)), cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "predictions.webhooks" in done.stderr


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("missing.py:Model", "there is no file 'missing.py'"),
        ("model.py:not a name", "expected"),
        ("model.py:Nope", "there is no Nope in model.py, which has Model"),
        ("broken.py:Model", "broken.py, line 2: not Python"),
        ("nameless.py", "name one of Greeter, as in nameless.py:Greeter"),
        ("", "required"),
    ],
)
def test_a_reference_that_can_be_none_is_refused_before_anything_is_served(
    reference: str, told: str, folder: Path
) -> None:
    (folder / "broken.py").write_text("x = 1\nclass Model\n", encoding="utf-8")
    (folder / "nameless.py").write_text("class Greeter: ...\n", encoding="utf-8")
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
        ("from math import *\n", "model.py", "name the handler, as in model.py:Name"),
        ("Model = 1\n", "model.py:Model", "neither a class nor a function"),
        ("import no_such_module_here\nclass Model: ...\n", "model.py:Model", "no_such_module_here"),
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
        while (health := json.loads(get(port, "/health-check")[1]))["status"] == "STARTING":
            served.news()
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


# --- what is told to one process alone --------------------------------------------------------------------------------

ENVIRONMENT = """\
import json
import os


def seen(name: str) -> str:
    return json.dumps(os.environ.get(name))
"""
MANY = {"WEBHOOK_AUTH_TOKEN": "canary-bearer", "PROVIDER_KEY": "canary-key", "HF_TOKEN": "hf-1", "PLAIN": "p"}


def seen(port: int, name: str) -> Any:
    return json.loads(predict(port, {"name": name})[1]["output"])


def test_a_handler_does_not_get_the_bearer_of_webhooks_and_gets_everything_else(tmp_path: Path) -> None:
    (tmp_path / "env.py").write_text(ENVIRONMENT, encoding="utf-8")
    with serving("serve", "--predict", "env.py:seen", *FLAGS, cwd=tmp_path, env=MANY) as served:
        port = ready(served)
        found = {name: seen(port, name) for name in MANY}
        assert found == {**MANY, "WEBHOOK_AUTH_TOKEN": None}


def test_a_handler_gets_no_secret_of_the_file_but_what_is_meant_for_it(tmp_path: Path) -> None:
    (tmp_path / "env.py").write_text(ENVIRONMENT, encoding="utf-8")
    own = {"handler": "env.py:seen", "env": {"HF_TOKEN": "${HF_TOKEN}", "MORE": "m"}}
    providers = [
        {"name": "own", "kind": "local", "local": own},
        {"name": "far", "kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "${PROVIDER_KEY}"},
    ]
    models = [{"name": name, "targets": [{"provider": name}]} for name in ("own", "far")]
    file = write_config(tmp_path, providers=providers, models=models)
    with serving("serve", "-c", str(file), cwd=tmp_path, env=MANY) as served:
        port = ready(served)
        found = {name: seen(port, name) for name in (*MANY, "MORE")}
        # The bearer is not one of this file's secrets.
        assert found == {**MANY, "PROVIDER_KEY": None, "MORE": "m"}
    done = tidegate("check", "-c", str(file), cwd=tmp_path, env=MANY)
    assert "providers[0].local.env.HF_TOKEN\tset" in done.stdout
    assert "hf-1" not in done.stdout + done.stderr


# --- where it listens --------------------------------------------------------------------------------------------------


def test_a_second_one_on_the_port_of_the_first_does_not_start(folder: Path) -> None:
    with serving("serve", "--predict", "model.py:Model", *FLAGS, cwd=folder) as served:
        port, _ = served.ports()
        place = ("--port", str(port), "--ops-listen", "127.0.0.1:0")
        for command in (("serve", "--predict", "model.py:Model"), ("serve", "-c", str(write_config(folder)))):
            second = tidegate(*command, *place, cwd=folder)
            assert (second.returncode, second.stdout) == (1, "")
            assert f"cannot listen on 127.0.0.1:{port}" in second.stderr


def test_metrics_are_elsewhere_where_their_usual_port_is_taken(folder: Path) -> None:
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # whoever has it already does as well
            taken.bind(("127.0.0.1", 9464))
            taken.listen()
        with serving("serve", "--predict", "model.py:Model", "--port", "0", cwd=folder) as served:
            port, ops_port = served.ports()
            assert ops_port not in {0, 9464}
            assert f"127.0.0.1:9464 is taken: metrics are at port {ops_port}" in served.line('"event":"note"', "taken")
            assert get(ops_port, "/metrics")[0] == 200
            assert str(ops_port) in get(port, "/metrics")[1].decode()
        for command in (
            ("serve", "--predict", "model.py:Model", "--port", "0", "--ops-listen", "127.0.0.1:9464"),
            ("serve", "-c", str(write_config(folder, ops={}))),
        ):
            second = tidegate(*command, cwd=folder)
            assert (second.returncode, second.stdout) == (1, "")
            assert "cannot listen on 127.0.0.1:9464" in second.stderr


def test_webhooks_come_to_this_machine_with_the_flag(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as receiver:
        receiver.settimeout(30)
        flags = ("serve", "--predict", "model.py:Model", "--allow-private", *FLAGS)
        with serving(*flags, cwd=folder) as served:
            port = ready(served)
            hook = f"http://127.0.0.1:{receiver.getsockname()[1]}/hook"
            made = {"input": {"name": "Ada"}, "webhook": hook, "webhook_events_filter": ["completed"]}
            assert fetch(port, "POST", "/predictions", json.dumps(made).encode())[0] == 200
            taken, _ = receiver.accept()
            with taken:
                assert taken.recv(65536).startswith(b"POST /hook HTTP/1.1\r\n")
                taken.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


def test_a_signal_to_read_anew_says_that_the_models_code_is_not(folder: Path) -> None:
    with serving("serve", "--predict", "model.py:Model", *FLAGS, cwd=folder) as served:
        ready(served)
        served.signal(signal.SIGHUP)
        assert "only a new start reads other code" in served.line('"event":"note"', "model goes on")


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
