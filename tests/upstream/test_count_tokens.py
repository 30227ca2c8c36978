"""Counting tokens: Anthropic counts, and for whoever cannot the gateway judges, and says that it does."""

import json
from typing import Any, Final

import pytest

from harness import Reply, Running, ask, gateway, run
from streams import answer, answering, fronting
from tidegate.admission.identity import hash_key
from tidegate.mock import sigv4
from tidegate.testing.upstream import Peer, scripted_upstream

PATH: Final = "/v1/messages/count_tokens"
WORDS: Final = "The tide comes in twice a day, and nobody is surprised. "
BODY: Final[dict[str, Any]] = {"model": "mock", "messages": [{"role": "user", "content": WORDS}]}
KINDS: Final = ("openai", "gemini", "bedrock", "bedrock_anthropic", "ollama_native", "mock")
"""Kinds of providers that have nothing to count with at this route."""


def provider(kind: str) -> dict[str, Any]:
    """Give what a provider of a kind needs."""
    aws = {"region": "us-east-1", "access_key_id": sigv4.ACCESS_KEY, "secret_access_key": sigv4.SECRET_KEY}
    return {"kind": kind, "aws": aws, "api_key": ""} if kind.startswith("bedrock") else {"kind": kind}


def tokens_in(reply: Reply) -> int:
    """Give the count of an answer."""
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    members = reply.json()
    assert list(members) == ["input_tokens"]
    return int(members["input_tokens"])


async def count(running: Running, **members: Any) -> int:
    return tokens_in(await ask(running.port, {**BODY, **members}, path=PATH))


def test_anthropic_counts_by_itself_and_is_asked_in_the_clients_own_bytes() -> None:
    said = b'{ "model":"mock", "messages":[{"role":"user","content":"Hi"}], "of_tomorrow": 1.50 }'

    async def work() -> None:
        counted = answering(answer(200, b'{"input_tokens": 2095, "of_tomorrow":{}}'))
        async with fronting(counted, provider={"kind": "anthropic"}) as (running, upstream):
            betas = {"anthropic-version": "2023-01-01", "anthropic-beta": "token-counting-2024-11-01"}
            reply = await ask(running.port, said, path=PATH, headers=betas)
            assert reply.body == b'{"input_tokens": 2095, "of_tomorrow":{}}'
            assert "x-tidegate-estimated" not in reply.headers
            head, body = upstream.peers[0].requests[0]
            assert head.startswith(b"POST /v1/messages/count_tokens HTTP/1.1\r\n")
            assert all(f"{name}: {value}".encode() in head for name, value in betas.items())
            assert body == said
            entry = await running.entry()
            assert (entry.code, entry.path, entry.route) == ("completed", "raw", "count_tokens")

    run(work)


def test_the_model_that_is_counted_for_is_the_providers() -> None:
    models = [{"name": "small", "targets": [{"provider": "main", "model": "claude-small-1"}]}]

    async def work() -> None:
        counted = answering(answer(200, b'{"input_tokens":7}'))
        async with fronting(counted, provider={"kind": "anthropic"}, models=models) as (running, upstream):
            assert await count(running, model="small") == 7
            assert json.loads(upstream.peers[0].requests[0][1]) == {**BODY, "model": "claude-small-1"}

    run(work)


@pytest.mark.parametrize("kind", KINDS)
def test_who_cannot_count_is_not_asked_and_the_answer_says_so(kind: str) -> None:
    asked: list[bytes] = []

    async def script(peer: Peer) -> None:
        asked.append((await peer.request())[0])

    async def work() -> None:
        async with (
            scripted_upstream(script) as upstream,
            gateway(upstream.base_url, provider=provider(kind)) as running,
        ):
            reply = await ask(running.port, BODY, path=PATH)
            assert tokens_in(reply) == pytest.approx(len(WORDS) / 4, abs=12)
            assert reply.headers["x-tidegate-estimated"] == "true"
            assert (await running.entry()).code == "completed"

    run(work)
    assert not asked


def test_a_judgement_grows_with_all_that_a_model_reads() -> None:
    tool = {"name": "tide", "description": WORDS, "input_schema": {"type": "object", "properties": {}}}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 40_000}}
    page = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 400_000}}

    async def work() -> None:
        async with gateway() as running:
            least = await count(running)
            assert await count(running, system=WORDS) == pytest.approx(least + len(WORDS) / 4, abs=1)
            assert await count(running, tools=[tool]) > least + len(WORDS) / 4
            assert await count(running, messages=[{"role": "user", "content": WORDS * 10}]) > least * 5
            shown = await count(running, messages=[{"role": "user", "content": [image]}])
            assert 1500 < shown < 1700
            read = await count(running, messages=[{"role": "user", "content": [page]}])
            assert shown < read < 4000
            assert await count(running, metadata={"user_id": WORDS * 10}) == least

    run(work)


@pytest.mark.parametrize("kind", ["anthropic", "mock"])
@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"{", 400, "JSON"),
        (b"{}", 400, "model"),
        ({"model": "mock"}, 400, "messages"),
        ({**BODY, "messages": []}, 400, "messages"),
        ({**BODY, "model": "nobody"}, 404, "nobody"),
    ],
    ids=["no JSON", "nothing", "no messages", "none of them", "no such model"],
)
def test_a_mistake_is_told_in_anthropics_envelope(kind: str, body: Any, status: int, named: str) -> None:
    async def work() -> None:
        async with gateway(provider=provider(kind)) as running:
            reply = await ask(running.port, body, path=PATH)
            assert reply.status == status
            error = reply.json()
            assert error["type"] == "error"
            assert error["error"]["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
            assert named in error["error"]["message"]
            assert not running.mock.stats.requests

    run(work)


def test_an_error_of_the_one_who_counts_is_passed_on() -> None:
    said = {"type": "error", "error": {"type": "rate_limit_error", "message": "Too many counts."}}

    async def work() -> None:
        limited = answering(answer(429, said, "retry-after: 3"))
        async with fronting(limited, provider={"kind": "anthropic"}) as (running, _):
            reply = await ask(running.port, BODY, path=PATH)
            assert reply.status == 429
            error = reply.json()["error"]
            assert (error["type"], error["message"]) == ("rate_limit_error", "Too many counts.")
            assert int(reply.headers["retry-after"]) >= 3

    run(work)


def test_nobody_counts_without_a_key() -> None:
    auth = {"mode": "keys", "keys": [{"id": "k", "sha256": hash_key("tg-right")}]}

    async def work() -> None:
        async with gateway(auth=auth) as running:
            wrong = await ask(running.port, BODY, path=PATH, headers={"x-api-key": "tg-wrong"})
            assert (wrong.status, wrong.json()["error"]["type"]) == (401, "authentication_error")
            right = await ask(running.port, BODY, path=PATH, headers={"x-api-key": "tg-right"})
            assert tokens_in(right)

    run(work)


@pytest.mark.parametrize("kind", ["anthropic", "mock"])
def test_tokens_that_are_counted_are_not_used(kind: str) -> None:
    async def work() -> None:
        async with gateway(provider=provider(kind)) as running:
            assert await count(running)
            usage = (await running.entry()).usage
            assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (0, 0, False)

    run(work)
