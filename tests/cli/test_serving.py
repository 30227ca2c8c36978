import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import chat
from processes import fetch, get, serving, tidegate, write_config

pytestmark = pytest.mark.slow

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@contextmanager
def busy_port() -> Iterator[int]:
    """Give a port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def ask(port: int, **members: object) -> tuple[int, bytes]:
    return fetch(port, "POST", "/v1/chat/completions", json.dumps(chat(**members)).encode())  # type: ignore[arg-type]


def test_serve_without_a_file_serves_the_mock_and_says_so(tmp_path: Path) -> None:
    with serving("serve", "--port", "0", "--ops-listen", "127.0.0.1:0", cwd=tmp_path) as served:
        port, ops_port = served.ports()
        assert "mock provider serves the model mock" in served.line('"event":"note"')
        status, body = ask(port, model="mock?tokens=3")
        assert status == 200
        assert body.endswith(b"data: [DONE]\n\n")
        assert b"tidegate_build_info" in get(ops_port, "/metrics")[1]
        served.signal()
        # The delay of a drain is left out by a second signal, which ends at once.
        served.line("draining")
        served.signal()
        assert served.wait() == 1


def test_what_serve_says_is_one_json_object_a_line_when_piped(tmp_path: Path) -> None:
    with serving("serve", "-c", str(write_config(tmp_path))) as served:
        port, _ = served.ports()
        ask(port)
        served.line('"event":"exchange"')
        served.signal()
        assert served.wait() == 0
        events = [json.loads(line)["event"] for line in served.lines]
        assert [event for event in events if event != "unwise"] == ["serving", "exchange", "draining", "stopped"]
        assert not any("withheld" in line for line in served.lines)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_serve_with_0(number: int, tmp_path: Path) -> None:
    with serving("serve", "-c", str(write_config(tmp_path))) as served:
        port, _ = served.ports()
        served.signal(number)
        assert served.wait() == 0
        with pytest.raises(OSError, match="refused"):
            get(port, "/health")


def test_an_interrupt_does_not_wait_for_load_balancers(tmp_path: Path) -> None:
    with serving("serve", "-c", str(write_config(tmp_path, server={"drain_delay": "1h"}))) as served:
        served.ports()
        served.signal(signal.SIGINT)
        assert served.wait() == 0


def test_a_second_signal_ends_serve_at_once_although_a_stream_runs(tmp_path: Path) -> None:
    with serving("serve", "-c", str(write_config(tmp_path, server={"drain_timeout": "1h"}))) as served:
        port, _ = served.ports()
        with socket.create_connection(("127.0.0.1", port)) as client:
            body = json.dumps(chat("mock?itl=1s&tokens=1000")).encode()
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body))
            client.sendall(body)
            assert client.recv(1)
            served.signal()
            assert json.loads(served.line('"event":"draining"'))["exchanges"] == 1
            served.signal()
            assert served.wait() == 1


@pytest.mark.parametrize(
    ("command", "flags", "flag"),
    [
        ("serve", ("--port", "{busy}", "--ops-listen", ""), "--port"),
        ("serve", ("--port", "0", "--ops-listen", "127.0.0.1:{busy}"), "--ops-listen"),
        ("demo", ("--port", "{busy}"), "--port"),
        ("mock", ("--port", "{busy}"), "--port"),
    ],
)
def test_a_busy_port_is_one_line_that_names_the_port_and_the_flag(
    command: str, flags: tuple[str, ...], flag: str, tmp_path: Path
) -> None:
    with busy_port() as port:
        done = tidegate(command, *(part.replace("{busy}", str(port)) for part in flags), cwd=tmp_path)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    (line,) = errors
    assert line.startswith("error: ")
    assert f":{port}" in line
    assert flag in line


def test_open_mode_serves_every_address_when_that_is_said(tmp_path: Path) -> None:
    file = write_config(tmp_path, server={"host": "0.0.0.0"})
    with serving("serve", "-c", str(file), "--allow-open") as served:
        port, _ = served.ports()
        assert get(port, "/health/live")[0] == 200
        assert "auth.mode is open" in served.line('"event":"unwise"')


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = write_config(tmp_path, server={"host": "203.0.113.1", "drain_timeout": "1h"}, ops={"listen": ""})
    flags = ("--host", "127.0.0.1", "--ops-listen", "127.0.0.1:0", "--drain-timeout", "100ms")
    with serving("serve", "-c", str(file), *flags) as served:
        port, ops_port = served.ports()
        assert get(port, "/health/live")[0] == get(ops_port, "/health/live")[0] == 200


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_mock_with_0(number: int) -> None:
    with serving("mock", "--port", "0") as served:
        found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", served.line("mock provider on"))
        assert found is not None
        assert get(int(found[1]), "/stats")[0] == 200
        served.signal(number)
        assert served.wait() == 0


def test_the_mock_is_as_its_flags_say() -> None:
    def words(seed: int) -> bytes:
        with serving("mock", "--port", "0", "--host", "127.0.0.1", "--seed", str(seed)) as served:
            port = int(served.line("mock provider on").split(":")[2].split("/")[0])
            body = json.loads(ask(port, model="mock", stream=False)[1])
            return json.dumps(body["choices"]).encode()

    assert words(1) == words(1)
    assert words(1) != words(2)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_demo_streams_a_completion_says_how_to_go_on_and_serves_until_a_signal(number: int, tmp_path: Path) -> None:
    with serving("demo", "--port", "0", "--ops-listen", "127.0.0.1:0", cwd=tmp_path) as served:
        served.line("Ctrl-C stops it")
        said = served.output()
        assert "from openai import OpenAI" in said
        assert "curl -N http://127.0.0.1:" in said
        completion = said.partition("> Tell me about the tide.")[2].partition("base URL")[0]
        assert len(completion.split()) > 30
        found = re.search(r"base URL +http://127\.0\.0\.1:(\d+)/v1", said)
        assert found is not None
        port = int(found[1])
        assert ask(port)[0] == 200
        assert ask(port, model="demo", max_tokens=20)[0] == 200
        body = {"input": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}}
        status, made = fetch(port, "POST", "/predictions", json.dumps(body).encode())
        assert (status, json.loads(made)["status"]) == (200, "succeeded")
        served.signal(number)
        assert served.wait() == 0


def test_the_demo_serves_the_models_of_the_environment_beside_its_own_and_the_mock(tmp_path: Path) -> None:
    env = {"OPENAI_API_KEY": "sk-nobody", "OPENAI_MODELS": "first, second", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}
    with serving("demo", "--port", "0", "--ops-listen", "", cwd=tmp_path, env=env) as served:
        assert served.line("models  ").split()[1:] == ["first,", "second,", "demo,", "mock"]


def test_a_process_that_serves_has_the_highest_limit_of_open_files_that_it_may_have(tmp_path: Path) -> None:
    with serving("serve", "-c", str(write_config(tmp_path))) as served:
        served.ports()
        limits = Path(f"/proc/{served.process.pid}/limits")
        if not limits.exists():
            pytest.skip("there is no /proc here")
        soft, hard = next(
            line.split()[3:5] for line in limits.read_text(encoding="utf-8").splitlines() if "open files" in line
        )
        assert soft == hard


def test_serve_reads_the_environment_for_secrets_and_shows_them_to_nobody(tmp_path: Path) -> None:
    canary = "sk-canary-of-the-environment"
    file = write_config(tmp_path, providers=[{"name": "main", "kind": "mock", "api_key": "${CANARY}"}])
    with serving("serve", "-c", str(file), env={"CANARY": canary}) as served:
        served.ports()
        arguments = Path(f"/proc/{served.process.pid}/cmdline")
        if arguments.exists():
            assert canary.encode() not in arguments.read_bytes()
        served.signal()
        assert served.wait() == 0
        assert canary not in served.output()
    assert os.environ.get("CANARY") is None
