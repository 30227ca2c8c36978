"""SIGHUP to a process that serves."""

import json
import os
import signal
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from certificates import Authority
from harness import chat
from processes import PLAIN, WAIT_S, Served, fetch, get, serving, write_config

pytestmark = pytest.mark.slow

KEYS = {"mode": "keys", "keys": [{"id": "a", "sha256": "0" * 64}]}


def models(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "targets": [{"provider": "main", "model": "mock"}]} for name in names]


def status(port: int, model: str) -> int:
    return fetch(port, "POST", "/v1/chat/completions", json.dumps(chat(f"{model}?tokens=1")).encode())[0]


def told(served: Served, event: str) -> list[str]:
    """Give what was said of one event so far."""
    lines = [json.loads(line) for line in tuple(served.lines) if f'"event":"{event}"' in line]
    return [line["about"] for line in lines]


def reload(served: Served, event: str = "reloaded") -> list[str]:
    """Send the signal, and wait until it is told what came of it."""
    before, deadline = len(told(served, event)), time.monotonic() + WAIT_S
    served.signal(signal.SIGHUP)
    while len(told(served, event)) == before:
        assert served.process.poll() is None, served.lines
        assert time.monotonic() < deadline, served.lines
        served.news()
    return told(served, event)[before:]


def begin_stream(port: int, model: str) -> socket.socket:
    """Give a connection on which a stream has begun."""
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    body = json.dumps(chat(model)).encode()
    client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    assert client.recv(1)
    return client


def rest_of(client: socket.socket) -> bytes:
    """Read an answer to the end of its body."""
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        more = client.recv(65536)
        assert more, data
        data += more
    return data


def test_new_requests_go_by_the_new_file_and_a_running_stream_ends_as_it_began(tmp_path: Path) -> None:
    file = write_config(tmp_path, models=models("old"))
    with serving("serve", "-c", str(file)) as served:
        port, _ = served.ports()
        with begin_stream(port, "old?itl=20ms&tokens=40") as client:
            write_config(tmp_path, models=models("new"))
            assert reload(served) == [str(file)]
            assert (status(port, "old"), status(port, "new")) == (404, 200)
            assert b"data: [DONE]" in rest_of(client)
        line = json.loads(served.line('"event":"exchange"', '"model":"old"'))
        assert line["code"] == "completed"
        served.signal()
        assert served.wait() == 0


def test_a_bad_file_changes_nothing_and_every_mistake_is_told(tmp_path: Path) -> None:
    file = write_config(tmp_path, models=models("old"))
    with serving("serve", "-c", str(file)) as served:
        port, _ = served.ports()
        bad = {**PLAIN, "server": {"prot": 1, "keep_alive": "soon"}, "models": models("new"), "limits": {"rate": 7}}
        file.write_text(yaml.safe_dump(bad), encoding="utf-8")
        served.signal(signal.SIGHUP)
        for wrong in ("server.prot", "server.keep_alive", "limits.rate"):
            assert f"{file}:" in served.line('"event":"reload_refused"', wrong)
        assert (status(port, "old"), status(port, "new")) == (200, 404)
        file.write_text("a: [", encoding="utf-8")
        assert "not YAML" in reload(served, "reload_refused")[0]
        file.unlink()
        assert "cannot be read" in reload(served, "reload_refused")[0]
        assert status(port, "old") == 200
        write_config(tmp_path, models=models("new"))
        reload(served)
        assert (status(port, "old"), status(port, "new")) == (404, 200)


def test_flags_still_win_and_what_needs_a_new_start_is_named(tmp_path: Path) -> None:
    file = write_config(tmp_path, server={"port": 1}, models=models("old"))
    with serving("serve", "-c", str(file), "--port", "0") as served:
        port, ops_port = served.ports()
        write_config(tmp_path, server={"port": 2, "host": "localhost"}, models=models("new"), observe={"log": "text"})
        reload(served)
        served.line('"event":"unwise"', "server.host is another now")
        served.line('"event":"unwise"', "observe.log is another now")
        assert not any("server.port" in line for line in told(served, "unwise"))
        assert (status(port, "new"), get(ops_port, "/health/live")[0]) == (200, 200)


def test_a_file_that_would_open_the_gateway_to_everybody_is_refused(tmp_path: Path) -> None:
    file = write_config(tmp_path, server={"host": "0.0.0.0"}, auth=KEYS)
    with serving("serve", "-c", str(file)) as served:
        port, _ = served.ports()
        assert status(port, "mock") == 401
        for host in ("0.0.0.0", "127.0.0.1"):
            write_config(tmp_path, server={"host": host})
            (refusal,) = reload(served, "reload_refused")
            assert "0.0.0.0" in refusal
            assert "--allow-open" in refusal
            assert status(port, "mock") == 401


def test_who_said_that_everybody_may_come_in_can_reload_so(tmp_path: Path) -> None:
    file = write_config(tmp_path, server={"host": "0.0.0.0"}, auth=KEYS)
    with serving("serve", "-c", str(file), "--allow-open") as served:
        port, _ = served.ports()
        write_config(tmp_path, server={"host": "0.0.0.0"})
        reload(served)
        assert status(port, "mock") == 200
        assert "auth.mode is open" in served.line('"event":"unwise"')


def test_a_gateway_without_a_file_takes_the_signal_calmly(tmp_path: Path) -> None:
    with serving("serve", "--port", "0", "--ops-listen", "", cwd=tmp_path) as served:
        port, _ = served.ports()
        for _ in range(3):
            assert reload(served) == ["environment"]
        assert status(port, "mock") == 200
        served.signal(signal.SIGINT)
        assert served.wait() == 0


def test_many_signals_in_a_row_end_with_the_file_as_it_is_last(tmp_path: Path) -> None:
    file = write_config(tmp_path, models=models("m0"))
    with serving("serve", "-c", str(file)) as served:
        port, _ = served.ports()
        for number in range(1, 101):
            other = write_config(_below(tmp_path), models=models(f"m{number}"))
            other.rename(file)
            served.signal(signal.SIGHUP)
        while status(port, "m100") != 200:
            served.news()
        assert told(served, "reload_refused") == []
        assert len(told(served, "reloaded")) <= 101
        served.signal()
        assert served.wait() == 0


def _below(folder: Path) -> Path:
    below = folder / "next"
    below.mkdir(exist_ok=True)
    return below


def test_a_mock_stays_where_it_is_and_a_new_one_is_started(tmp_path: Path) -> None:
    file = write_config(tmp_path)
    with serving("serve", "-c", str(file)) as served:
        port, ops_port = served.ports()
        assert status(port, "mock") == 200
        write_config(
            tmp_path,
            providers=[{"name": "main", "kind": "mock"}, {"name": "other", "kind": "mock"}],
            models=[*models("mock"), {"name": "second", "targets": [{"provider": "other", "model": "mock"}]}],
        )
        reload(served)
        assert (status(port, "mock"), status(port, "second")) == (200, 200)
        providers = json.loads(get(ops_port, "/health")[1])["providers"]
        assert {name: row["connections_idle"] for name, row in providers.items()} == {"main": 1, "other": 1}


def test_a_signal_during_the_drain_harms_nothing(tmp_path: Path) -> None:
    file = write_config(tmp_path, server={"drain_timeout": "20s"})
    with serving("serve", "-c", str(file)) as served:
        port, _ = served.ports()
        with begin_stream(port, "mock?itl=20ms&tokens=60") as client:
            served.signal()
            served.line('"event":"draining"')
            for _ in range(3):
                assert reload(served, "reload_refused") == ["the process is shutting down"]
            assert b"data: [DONE]" in rest_of(client)
        assert served.wait() == 0


def test_another_certificate_is_taken_by_the_signal_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = tmp_path / "127.0.0.1.pem", tmp_path / "127.0.0.1.key"
    authority.context("127.0.0.1")
    file = write_config(tmp_path, server={"tls": {"cert": str(cert), "key": str(key)}})

    def shown(port: int) -> bytes | None:
        context = ssl.create_default_context(cafile=str(authority.ca_file))
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            return secured.getpeercert(binary_form=True)

    with serving("serve", "-c", str(file)) as served:
        port, _ = served.ports()
        first = shown(port)
        authority.context("127.0.0.1")
        reload(served)
        second = shown(port)
        assert first != second
        kept = key.read_bytes()
        authority.context("localhost")
        key.write_bytes((tmp_path / "localhost.key").read_bytes())
        (refusal,) = reload(served, "reload_refused")
        assert "a file cannot be used" in refusal
        assert kept not in served.output().encode()
        assert shown(port) == second


def test_a_key_that_an_environment_variable_holds_is_shown_to_nobody_by_a_refusal(tmp_path: Path) -> None:
    canary = "sk-canary-of-the-reload"
    file = write_config(tmp_path, providers=[{"name": "main", "kind": "mock", "api_key": "${CANARY}"}])
    with serving("serve", "-c", str(file), env={"CANARY": canary}) as served:
        served.ports()
        write_config(tmp_path, providers=[{"name": "main", "kind": "${CANARY}", "api_key": "${CANARY} x"}])
        assert reload(served, "reload_refused")
        assert canary not in served.output()
    assert os.environ.get("CANARY") is None
