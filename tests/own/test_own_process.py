"""`tidegate serve` as a process of its own, with a model of our own: signals, drain, reload, the end."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from owning import MODELS
from processes import WAIT_S, fetch, get, serving, write_config

pytestmark = pytest.mark.slow

ASYNC = {"prefer": "respond-async"}


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append(json.loads(body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base's word)
        """Say nothing."""


@contextmanager
def receiving() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Give an address that takes webhooks, and what came."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hook)
    server.got = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", server.got  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def config(folder: Path, handler: str = "steps", *, workers: int = 1, mock: bool = False, **sections: Any) -> Path:
    """Write a configuration with a model of our own, and without `handler` one with the mock alone."""
    own = {"name": "mine", "kind": "local", "local": {"handler": f"{MODELS}:{handler}", "workers": workers}}
    providers = [*([{"name": "main", "kind": "mock"}] if mock else []), *([own] if handler else [])]
    models = [
        *([{"name": "mock", "targets": [{"provider": "main"}]}] if mock else []),
        *([{"name": "own", "targets": [{"provider": "mine"}]}] if handler else []),
    ]
    return write_config(folder, providers=providers, models=models, **sections)


def post(port: int, given: dict[str, Any], **members: Any) -> tuple[int, Any]:
    status, body = fetch(port, "POST", "/predictions", json.dumps({"input": given, **members}).encode(), ASYNC)
    return status, json.loads(body)


def seen(port: int, ident: str) -> Any:
    return json.loads(get(port, f"/predictions/{ident}")[1])


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def ready(port: int) -> None:
    until(lambda: json.loads(get(port, "/health-check")[1]).get("status") == "READY")


def gone(pid: int) -> bool:
    """Say whether a process is over: it is not there, or nobody has asked yet how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def end_of(port: int, ident: str) -> Any:
    """Wait for the end of a prediction; gives it."""
    return until(lambda: (found := seen(port, ident)).get("completed_at") and found)


def worker_of(port: int, ident: str) -> int:
    return int(until(lambda: seen(port, ident).get("output"))[0])


def test_sigterm_lets_an_async_prediction_and_its_last_webhook_end(tmp_path: Path) -> None:
    hooks = {"webhooks": {"allow_private": True}}
    with receiving() as (url, got):
        file = config(tmp_path, predictions=hooks, server={"drain_timeout": "30s"})
        with serving("serve", "-c", str(file)) as served:
            port, _ = served.ports()
            ready(port)
            status, accepted = post(
                port, {"seconds": 1.5, "count": 3}, webhook=url, webhook_events_filter=["completed"]
            )
            assert status == 202
            pid = worker_of(port, accepted["id"])
            served.signal()
            assert served.wait() == 0
            assert [(each["id"], each["status"], len(each["output"])) for each in got] == [
                (accepted["id"], "succeeded", 4)
            ]
            assert gone(pid)
            assert '"code":"completed"' in served.line('"event":"exchange"', "predictions", '"model":"own"')


def test_what_a_drain_has_no_time_for_is_failed_and_its_webhook_says_so(tmp_path: Path) -> None:
    hooks = {"webhooks": {"allow_private": True}}
    with receiving() as (url, got):
        file = config(tmp_path, predictions=hooks, server={"drain_timeout": "500ms"})
        with serving("serve", "-c", str(file)) as served:
            port, _ = served.ports()
            ready(port)
            _, accepted = post(port, {"seconds": 60}, webhook=url, webhook_events_filter=["completed"])
            pid = worker_of(port, accepted["id"])
            served.signal()
            assert served.wait() == 0
            assert [(each["id"], each["status"]) for each in got] == [(accepted["id"], "failed")]
            assert gone(pid)


def test_serve_predict_needs_no_file_and_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    command = ("serve", "--predict", f"{MODELS}:Words", "--port", "0", "--ops-listen", "127.0.0.1:0")
    with serving(*command, cwd=tmp_path) as served:
        port, _ = served.ports()
        ready(port)
        status, body = fetch(port, "POST", "/predictions", b'{"input":{"prompt":"a"}}')
        assert (status, json.loads(body)["output"]) == (200, ["a "])
        assert fetch(port, "POST", "/shutdown")[0] == 200
        assert served.wait() == 0


def test_sighup_changes_the_workers_while_a_prediction_runs(tmp_path: Path) -> None:
    with serving("serve", "-c", str(config(tmp_path, "single"))) as served:
        port, _ = served.ports()
        ready(port)
        _, accepted = post(port, {"seconds": 3})
        pid = worker_of(port, accepted["id"])
        config(tmp_path, "single", workers=2)
        served.signal(signal.SIGHUP)
        served.line('"event":"reloaded"')
        ready(port)
        others = [post(port, {"seconds": 0.5})[1]["id"] for _ in range(2)]
        ends = [end_of(port, ident) for ident in others]
        assert [end["status"] for end in ends] == ["succeeded", "succeeded"]
        assert str(pid) not in {end["output"][0] for end in ends}
        found = end_of(port, accepted["id"])
        assert (found["status"], found["output"]) == ("succeeded", [str(pid), "done"])
        until(lambda: gone(pid))
        served.signal()
        assert served.wait() == 0


def test_sighup_brings_the_first_model_of_our_own(tmp_path: Path) -> None:
    with serving("serve", "-c", str(config(tmp_path, "", mock=True))) as served:
        port, _ = served.ports()
        assert fetch(port, "POST", "/predictions", b"{}")[0] == 404
        config(tmp_path, "Words", mock=True)
        served.signal(signal.SIGHUP)
        served.line('"event":"reloaded"')
        ready(port)
        status, body = fetch(port, "POST", "/predictions", b'{"input":{"prompt":"a"}}')
        assert (status, json.loads(body)["output"]) == (200, ["a "])
        served.signal()
        assert served.wait() == 0


def test_a_gateway_that_is_killed_leaves_no_worker(tmp_path: Path) -> None:
    with serving("serve", "-c", str(config(tmp_path, "steps", workers=2))) as served:
        port, _ = served.ports()
        ready(port)
        pids = {worker_of(port, post(port, {})[1]["id"]) for _ in range(4)}
        served.process.kill()
        served.wait()
        until(lambda: all(map(gone, pids)))
