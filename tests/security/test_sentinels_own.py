"""Canaries of models of our own: a secret input, webhooks' secrets, addresses with a secret in them, keys."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from test_sentinels import AUTH, CLIENT_KEY, HEADERS, TENANT, logged, operator_sees

from harness import run
from owning import ASYNC, EVENTS, WAIT_S, Owned, model, owning, provider
from processes import tidegate, write_config
from tidegate.admission.identity import hash_key

INPUT = "canary-secret-of-an-input"
WORDS = "canary-words-of-an-input"
HOOK_SECRET = "canary-secret-of-webhooks"
HOOK_TOKEN = "canary-token-of-webhooks"
ADDRESS = "canary-part-of-an-address"
CANARIES = (INPUT, WORDS, HOOK_SECRET, HOOK_TOKEN, ADDRESS, CLIENT_KEY, TENANT, hash_key(CLIENT_KEY))

HANDLER = """
from tidegate.predict import Input, Path, Secret, current_scope, streaming

class Keeping:
    @streaming
    def predict(
        self,
        key: Secret = Input(max_length=40),
        words: str = "",
        file: Path | None = None,
        how: str = "",
        most: int = Input(default=1, le=9),
    ) -> str:
        print("asked with", key)
        current_scope().record_metric("length", len(key.get_secret_value()))
        if how == "raise":
            raise ValueError(f"{key} does not open")
        if how == "exit":
            import os
            os._exit(3)
        return f"{key!r} and {key}"
"""


def sort_out(text: str) -> set[str]:
    return {canary for canary in CANARIES if canary in text}


def sections(tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "keeping.py"
    file.write_text(HANDLER, encoding="utf-8")
    hooks = {"secret": HOOK_SECRET, "token": HOOK_TOKEN, "allow_private": True, "max_attempts": 1}
    return {
        "auth": AUTH,
        "providers": [provider(local={"handler": f"{file}:Keeping"})],
        "predictions": {"webhooks": hooks},
    }


ASKED: dict[str, tuple[dict[str, Any], int]] = {
    "succeeds": ({"key": INPUT}, 200),
    "raises": ({"key": INPUT, "how": "raise"}, 200),
    "loses its worker": ({"key": INPUT, "how": "exit"}, 200),
    "is too long": ({"key": INPUT * 9}, 422),
    "is no text": ({"key": [INPUT]}, 422),
    "is besides a mistake": ({"key": INPUT, "words": {WORDS: WORDS}, "most": 10}, 422),
    "is besides what no file is": ({"key": INPUT, "file": f"/{ADDRESS}"}, 200),
    "is besides a private address": ({"key": INPUT, "file": f"http://127.0.0.1:1/{ADDRESS}?{ADDRESS}"}, 200),
    "is besides what no parameter takes": ({"key": INPUT, WORDS: WORDS}, 200),
}


@pytest.mark.parametrize("name", ASKED)
def test_whatever_a_prediction_comes_to_its_secrets_are_in_nothing_that_is_shown(name: str, tmp_path: Path) -> None:
    given, status = ASKED[name]
    shown: list[str] = []

    async def work() -> None:
        async with owning(**sections(tmp_path)) as own:
            for headers in (HEADERS, {**HEADERS, **EVENTS}):
                reply = await own.post(given, headers=headers)
                assert reply.status == status, reply.body
                shown.append(str(reply.headers) + reply.body.decode())
            await own.put("kept", given, headers=HEADERS)
            kept = await own.get("/predictions/kept", **HEADERS)
            assert kept.status == (200 if status == 200 else 404)
            assert INPUT not in kept.body.decode()
            again = await own.put("kept", given, headers={**HEADERS, **ASYNC})
            assert again.status == (202 if status == 200 else 422)
            assert INPUT not in again.body.decode()
            shown.append((await own.post(given)).body.decode())  # without a key
            shown.append(await operator_sees(own.running))
            shown.append((await own.get("/health-check", **HEADERS)).body.decode())
            await own.at_rest()

    with logged(tmp_path) as file:
        run(work)
    lines = file.read_text(encoding="utf-8")
    assert '"event":"exchange"' in lines
    assert sort_out("".join(shown)) == set()
    assert sort_out(lines) == set()


@pytest.mark.parametrize("answer", [200, 500, 0])
def test_neither_the_address_of_a_webhook_nor_what_it_bears_is_shown(answer: int, tmp_path: Path) -> None:
    shown: list[str] = []
    borne: list[str] = []

    async def take(request: web.Request) -> web.Response:
        borne.append(request.headers["authorization"])
        assert INPUT not in await request.text()
        return web.Response(status=answer)

    app = web.Application()
    app.router.add_post(f"/{ADDRESS}", take)

    async def hooked(own: Owned, url: str) -> None:
        reply = await own.post({"key": INPUT}, webhook=f"{url}/{ADDRESS}?{ADDRESS}", headers={**HEADERS, **ASYNC})
        assert reply.status == 202
        shown.append(reply.body.decode())
        await own.at_rest()
        await own.tidegate.outbound.wait_delivered(WAIT_S)
        shown.append(await operator_sees(own.running))

    async def work() -> None:
        async with TestServer(app) as server, owning(**sections(tmp_path)) as own:
            await hooked(own, str(server.make_url("")).rstrip("/") if answer else "http://127.0.0.1:1")
            await own.at_rest()

    with logged(tmp_path) as file:
        run(work)
    assert set(borne) == ({f"Bearer {HOOK_TOKEN}"} if answer else set())
    lines = file.read_text(encoding="utf-8")
    assert ("webhook_failed" in lines) == (answer != 200)
    assert ('"prediction":' in lines) == (answer != 200)
    assert "withheld" not in lines
    assert sort_out("".join(shown)) == set()
    assert sort_out(lines) == set()


@pytest.mark.slow
@pytest.mark.parametrize("command", [("check",), ("explain", "own")])
def test_no_command_shows_the_secrets_of_webhooks(command: tuple[str, ...], tmp_path: Path) -> None:
    given = sections(tmp_path)
    given["predictions"]["webhooks"] |= {"secret": "${HOOK_SECRET}", "token": "${HOOK_TOKEN}"}
    file = write_config(tmp_path, **given, models=[model()])
    env = {"HOOK_SECRET": HOOK_SECRET, "HOOK_TOKEN": HOOK_TOKEN}
    said = tidegate(*command, "-c", str(file), env=env)
    assert said.returncode == 0, said.stderr
    assert "own" in said.stdout
    assert sort_out(said.stdout + said.stderr) <= {TENANT}
    odd = tidegate(*command, "-c", str(file), env={name: f" {value}" for name, value in env.items()})
    assert odd.returncode == 2
    assert json.dumps("predictions.webhooks.token")[1:-1] in odd.stderr
    assert sort_out(odd.stdout + odd.stderr) == set()
