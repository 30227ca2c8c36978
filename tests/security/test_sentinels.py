"""Canaries: what clients, providers and operators entrust to the gateway comes out nowhere but where it belongs."""

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog

from harness import Reply, Running, ask, chat, connect, gateway, request_bytes, run
from processes import WAIT_S, Served, fetch, get, serving, tidegate, write_config
from tidegate.admission.identity import hash_key
from tidegate.observe import log
from tidegate.testing.upstream import HEAD, LAST, Peer, chunk, scripted_upstream

PROMPT = "canary-prompt-of-a-client"
COMPLETION = "canary-completion-of-a-model"
CLIENT_KEY = "tg-canary-key-of-a-client"
STRANGER_KEY = "tg-canary-key-of-a-stranger"
PROVIDER_KEY = "sk-canary-key-of-a-provider"
HEADER_SECRET = "canary-secret-of-a-header"
TENANT = "canary-name-of-a-tenant"
COOKIE = "canary-cookie"
CANARIES = (
    PROMPT, COMPLETION, CLIENT_KEY, STRANGER_KEY, PROVIDER_KEY, HEADER_SECRET, TENANT, COOKIE, hash_key(CLIENT_KEY),
    hash_key(STRANGER_KEY),
)  # fmt: skip

AUTH = {"mode": "keys", "keys": [{"id": "laptop", "sha256": hash_key(CLIENT_KEY), "tenant": TENANT}]}
PROVIDER = {"name": "main", "kind": "openai", "api_key": PROVIDER_KEY, "headers": {"x-secret": HEADER_SECRET}}
HEADERS = {"authorization": f"Bearer {CLIENT_KEY}", "cookie": COOKIE}
MODELS = [{"name": "mock", "targets": [{"provider": "main", "model": "mock"}]}]


def content(text: str) -> bytes:
    event = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    return chunk(b"data: %b\n\n" % json.dumps(event).encode())


def answer(status: int, body: bytes, more: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n"
    return head % (status, len(body), more) + body


def error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "t", "code": "c"}}).encode()


SAID = content(COMPLETION)
QUOTE = f"you sent the key {PROVIDER_KEY} and {HEADER_SECRET}"
"""What a careless provider says: it repeats the gateway's credentials, and may do so to a client only masked."""

SCRIPTS: dict[str, tuple[bytes, ...]] = {
    "a whole stream": (HEAD, SAID, chunk(b"data: [DONE]\n\n"), LAST),
    "a whole answer": (answer(200, json.dumps({"choices": [{"message": {"content": COMPLETION}}]}).encode()),),
    "a stream cut between frames": (HEAD, SAID),
    "a stream cut inside a frame": (HEAD, SAID, chunk(b'data: {"choices": "' + COMPLETION.encode())),
    "a stream that ends without its end": (HEAD, SAID, LAST),
    "an error frame after content": (HEAD, SAID, chunk(b"data: " + error(QUOTE) + b"\n\n"), LAST),
    "an error frame before content": (HEAD, chunk(b"data: " + error(QUOTE) + b"\n\n"), LAST),
    "a frame that is no JSON": (HEAD, chunk(f'data: {{"error" {COMPLETION}\n\n'.encode()), LAST),
    "a frame that is no JSON after content": (HEAD, SAID, chunk(f'data: {{"error": {COMPLETION}\n\n'.encode()), LAST),
    "a chunk that is no chunk": (HEAD, SAID, COMPLETION.encode() + b"\r\n"),
    "a head that is no head": (f"{COMPLETION} {PROVIDER_KEY}\r\n\r\n".encode(),),
    "a body that is no JSON": (answer(200, COMPLETION.encode()),),
    "a refused key": (answer(401, error(QUOTE)),),
    "a refused request": (answer(400, error(QUOTE)),),
    "a rate limit": (answer(429, error(QUOTE), b"retry-after: 1\r\n"),),
    "a failure": (answer(500, error(QUOTE)),),
    "a failure that is no JSON": (answer(503, QUOTE.encode()),),
    "nothing": (),
    "an empty stream": (HEAD, LAST),
}


class Caught(NamedTuple):
    """All that outsiders and operators were shown. Shape: `replies` by the name of what was done."""

    replies: dict[str, Reply]
    shown: str


@contextmanager
def logged(tmp_path: Path) -> Iterator[Path]:
    """Write the real log, at the level that says most, to a file."""
    file = tmp_path / "log"
    before = structlog.get_config()
    with file.open("wb") as out:
        writer = log.configure("json", out.fileno(), "debug")
        logging.getLogger().setLevel(logging.DEBUG)
        try:
            yield file
        finally:
            writer.close()
            logging.getLogger().setLevel(logging.WARNING)
            structlog.configure(**before)


def prompt(**members: Any) -> dict[str, Any]:
    return {**chat(**members), "messages": [{"role": "user", "content": PROMPT}]}


async def operator_sees(running: Running) -> str:
    """Give the pages of the ops listener, and the main port's health."""
    pages = [await ask(running.ops_port, b"", method="GET", path=path) for path in ("/metrics", "/health")]
    pages.append(await ask(running.port, b"", method="GET", path="/health"))
    return "".join(page.body.decode() + str(page.headers) for page in pages)


def without_content(reply: Reply) -> str:
    """Give an answer without what the client has asked for: the model's words."""
    events = [event for event in reply.events() if '"content"' not in event or '"error"' in event]
    body = "".join(events) if reply.events() else reply.body.decode(errors="replace")
    return str(reply.headers) + body


def sort_out(text: str) -> set[str]:
    return {canary for canary in CANARIES if canary in text}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", SCRIPTS)
def test_whatever_a_provider_does_no_canary_is_in_log_metric_health_or_error(
    name: str, stream: bool, tmp_path: Path
) -> None:
    shown: list[str] = []

    async def script(peer: Peer) -> None:
        head, body = await peer.request()
        assert PROVIDER_KEY.encode() in head
        assert PROMPT.encode() in body
        await peer.send(*SCRIPTS[name])

    async def work() -> None:
        async with (
            scripted_upstream(script) as upstream,
            gateway(upstream.base_url, auth=AUTH, provider=PROVIDER, models=MODELS) as running,
        ):
            reply = await ask(running.port, prompt(stream=stream), headers=HEADERS)
            await running.entry()
            shown.append(await operator_sees(running))
            if reply.status != 200:
                shown.append(str(reply.headers) + reply.body.decode())
                assert not sort_out(shown[-1])
            elif stream:
                shown.append(without_content(reply))
            else:
                assert COMPLETION in reply.body.decode()
            assert not {CLIENT_KEY, PROVIDER_KEY, HEADER_SECRET, TENANT} & sort_out(reply.body.decode())

    with logged(tmp_path) as file:
        run(work)
    lines = file.read_text(encoding="utf-8")
    assert '"event":"exchange"' in lines
    assert sort_out(lines) == set()
    assert sort_out("".join(shown)) == set()


REQUESTS: dict[str, tuple[bytes, int]] = {
    "no key": (request_bytes(prompt()), 401),
    "a stranger's key": (request_bytes(prompt(), headers={"x-api-key": STRANGER_KEY}), 401),
    "a malformed key": (request_bytes(prompt(), headers={"authorization": f"Bearer {STRANGER_KEY} {PROMPT}"}), 401),
    "no JSON": (request_bytes(b'{"model": "mock", "messages": ' + PROMPT.encode(), headers=HEADERS), 400),
    "a wrong role": (
        request_bytes({"model": "mock", "messages": [{"role": PROMPT, "content": PROMPT}]}, headers=HEADERS),
        400,
    ),
    "messages that are none": (request_bytes({"model": "mock", "messages": PROMPT}, headers=HEADERS), 400),
    "a wrong media type": (request_bytes(prompt(), headers={**HEADERS, "content-type": PROMPT}), 415),
    "another method": (request_bytes(prompt(), method="PUT", headers=HEADERS), 405),
    "another path": (request_bytes(prompt(), path="/v1/audio/speech", headers=HEADERS), 404),
    "a list of models": (request_bytes(b"", method="GET", path="/v1/models", headers=HEADERS), 200),
    "a list for a stranger": (
        request_bytes(b"", method="GET", path="/v1/models", headers={"x-api-key": STRANGER_KEY}),
        401,
    ),
    "a model that is not there": (request_bytes(b"", method="GET", path="/v1/models/none", headers=HEADERS), 404),
    "no HTTP": (PROMPT.encode() + b" " + CLIENT_KEY.encode() + b"\r\n\r\n", 400),
    "a bad header": (b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n" + PROMPT.encode() + b"\r\n\r\n", 400),
    "a large head": (request_bytes(prompt(), headers={**HEADERS, "x-large": PROMPT * 4000}), 431),
    "a large body": (request_bytes(prompt(), headers={**HEADERS, "content-length": "999999999"}), 413),
    "two lengths": (request_bytes(prompt(), headers={**HEADERS, "transfer-encoding": "chunked"}), 400),
    "bad chunks": (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n"
        b"x-api-key: " + CLIENT_KEY.encode() + b"\r\n\r\n" + PROMPT.encode() + b"\r\n",
        400,
    ),
    "metrics on the main port": (request_bytes(b"", method="GET", path="/metrics", headers=HEADERS), 404),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_whatever_a_client_sends_no_canary_is_in_log_metric_health_or_answer(name: str, tmp_path: Path) -> None:
    shown: list[str] = []
    request, status = REQUESTS[name]

    async def work() -> None:
        async with gateway(auth=AUTH, provider=PROVIDER, models=MODELS) as running:
            async with connect(running.port) as client:
                await client.send(request)
                reply = await client.reply()
            assert reply.status == status
            shown.extend((str(reply.headers), reply.body.decode(), await operator_sees(running)))

    with logged(tmp_path) as file:
        run(work)
    assert sort_out("".join(shown)) == set()
    assert sort_out(file.read_text(encoding="utf-8")) == set()


def test_a_bug_is_logged_by_its_place_and_never_by_what_it_says(tmp_path: Path) -> None:
    shown: list[str] = []

    def broken() -> Any:
        raise ValueError(f"{PROMPT} {COMPLETION} {PROVIDER_KEY}")

    async def work() -> None:
        async with gateway(auth=AUTH, provider={"api_key": PROVIDER_KEY}) as running:
            running.tidegate.rules.clock = broken
            reply = await ask(running.port, prompt(model="mock?tokens=20"), headers=HEADERS)
            assert (reply.status, reply.json()["error"]["code"]) == (500, "bug")
            shown.extend((without_content(reply), await operator_sees(running)))
            assert (await running.entry()).code == "bug"

    with logged(tmp_path) as file:
        run(work)
    lines = file.read_text(encoding="utf-8")
    assert '"event":"bug"' in lines
    assert "ValueError" in lines
    assert sort_out(lines + "".join(shown)) == set()


def test_a_record_names_the_key_by_its_id_and_the_log_leaves_the_tenant_out(tmp_path: Path) -> None:
    async def work() -> None:
        async with gateway(auth=AUTH) as running:
            await ask(running.port, prompt(model="mock?tokens=1"), headers=HEADERS)
            entry = await running.entry()
            assert (entry.key_id, entry.tenant) == ("laptop", TENANT)

    with logged(tmp_path) as file:
        run(work)
    lines = file.read_text(encoding="utf-8")
    assert '"key":"laptop"' in lines
    assert sort_out(lines) == set()


# --- processes -----------------------------------------------------------------------------------------------------


def write(folder: Path) -> Path:
    """Write a configuration whose secrets come from the environment, in front of nobody."""
    provider = {**PROVIDER, "api_key": "${PROVIDER_KEY}", "base_url": "http://127.0.0.1:1/v1"}
    (folder / "key").write_text(PROVIDER_KEY, encoding="utf-8")
    mocked = {**PROVIDER, "name": "mocked", "kind": "mock", "api_key": "", "api_key_file": str(folder / "key")}
    models = [*MODELS, {"name": "play", "targets": [{"provider": "mocked", "model": "mock"}]}]
    return write_config(folder, auth=AUTH, providers=[provider, mocked], models=models)


def exercise(served: Served) -> str:
    """Ask for everything once; gives what was shown to others than the client that asked."""
    port, ops_port = served.ports()
    path, shown = "/v1/chat/completions", b""
    play = json.dumps({**prompt(model="play?tokens=3"), "stream": True}).encode()
    assert fetch(port, "POST", path, play, HEADERS)[0] == 200
    for body, headers in ((json.dumps(prompt()).encode(), HEADERS), (PROMPT.encode(), HEADERS), (play, {})):
        status, answered = fetch(port, "POST", path, body, headers)
        assert status in {400, 401, 502}
        shown += answered
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        client.sendall(f"{PROMPT}\r\n\r\n".encode())
        shown += client.recv(65536)
    for page in ("/metrics", "/health", "/health/ready"):
        shown += get(ops_port, page)[1]
    return shown.decode()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "text"])
def test_a_process_shows_no_canary_in_its_log_its_arguments_or_its_pages(form: str, tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text(encoding="utf-8") + f"observe: {{log: {form}}}\n", encoding="utf-8")
    with serving("serve", "-c", str(file), env={"PROVIDER_KEY": PROVIDER_KEY}) as served:
        arguments = Path(f"/proc/{served.process.pid}/cmdline")
        if form == "json":
            shown = exercise(served)
            assert sort_out(shown) == set()
        else:
            served.line("serving")
        if arguments.exists():
            assert sort_out(arguments.read_text(encoding="utf-8")) == set()
        served.signal()
        assert served.wait() == 0
        assert form == "text" or sum('"event":"exchange"' in line for line in served.lines) >= 4
        assert sort_out(served.output()) == set()


@pytest.mark.slow
def test_check_shows_no_canary_of_a_good_file_nor_of_a_bad_one(tmp_path: Path) -> None:
    file = write(tmp_path)
    env = {"PROVIDER_KEY": PROVIDER_KEY}
    good = tidegate("check", "-c", str(file), env=env)
    assert good.returncode == 0
    assert sort_out(good.stdout + good.stderr) <= {TENANT}
    file.write_text(
        file.read_text(encoding="utf-8")
        .replace(hash_key(CLIENT_KEY), CLIENT_KEY)
        .replace("http://127.0.0.1:1/v1", f"ftp://user:{PROVIDER_KEY}@host"),
        encoding="utf-8",
    )
    bad = tidegate("check", "-c", str(file), env={"PROVIDER_KEY": f"{PROVIDER_KEY} "})
    assert bad.returncode == 2
    assert len(bad.stderr.splitlines()) >= 3
    assert sort_out(bad.stdout + bad.stderr) == set()
