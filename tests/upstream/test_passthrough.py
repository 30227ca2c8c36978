"""What goes to a provider as it is: `/p/{provider}/…`, over real sockets."""

import json
from typing import Any

import pytest

from harness import ask, chat, run
from streams import DONE, FINISH, USAGE, USAGE_MEMBER, answer, answering, closing, frame, fronting, streamed, word
from tidegate.admission.identity import hash_key

OPEN: dict[str, Any] = {"provider": {"passthrough": True}}
FRAMES = (word("Hel"), b": comment\n\n", frame({"odd": 1}), FINISH, USAGE, DONE)


def test_any_path_and_query_reach_the_provider_with_its_credential() -> None:
    async def work() -> None:
        async with fronting(answering(answer(200, {"ok": True})), **OPEN) as (running, upstream):
            headers = {"authorization": "Bearer sk-of-the-client", "anthropic-beta": "b1", "cookie": "c=1"}
            reply = await ask(running.port, b"{}", path="/p/main/files/a%20b?limit=2&x=y", headers=headers)
            assert (reply.status, reply.json()) == (200, {"ok": True})
            head, body = upstream.peers[0].requests[0]
            assert head.startswith(b"POST /v1/files/a%20b?limit=2&x=y HTTP/1.1\r\n")
            assert b"authorization: Bearer sk-upstream-secret\r\n" in head
            assert b"anthropic-beta: b1\r\n" in head
            assert b"sk-of-the-client" not in head
            assert b"cookie" not in head
            assert body == b"{}"

    run(work)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_methods_and_types_of_bodies_pass(method: str) -> None:
    async def work() -> None:
        async with fronting(answering(answer(200, b"\x00\x01 no json")), **OPEN) as (running, upstream):
            kind = {"content-type": "multipart/form-data; boundary=x"}
            reply = await ask(running.port, b"--x--", method=method, path="/p/main/uploads", headers=kind)
            assert (reply.status, reply.body) == (200, b"\x00\x01 no json")
            head, body = upstream.peers[0].requests[0]
            assert head.startswith(f"{method} /v1/uploads HTTP/1.1\r\n".encode())
            assert b"content-type: multipart/form-data; boundary=x\r\n" in head
            assert b"application/json" not in head
            assert body == b"--x--"

    run(work)


def test_a_stream_passes_byte_for_byte_and_its_usage_is_recorded() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(*FRAMES)), **OPEN) as (running, _):
            reply = await ask(running.port, chat(), path="/p/main/chat/completions")
            assert reply.headers["content-type"] == "text/event-stream"
            assert reply.body == b"".join(FRAMES)
            entry = await running.entry()
            assert (entry.route, entry.model, entry.code, entry.path) == ("passthrough", "/p/main", "completed", "raw")
            assert (entry.usage.input_tokens, entry.usage.output_tokens) == (9, 2)

    run(work)


@pytest.mark.parametrize(
    "said",
    [
        {"type": "response.completed", "response": {"usage": {"input_tokens": 9, "output_tokens": 2}}},
        {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 2}}},
        {"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 2}},
        {"usage": USAGE_MEMBER},
    ],
)
def test_usage_is_seen_in_every_family_s_words(said: dict[str, Any]) -> None:
    async def work() -> None:
        async with fronting(answering(streamed(frame(said))), **OPEN) as (running, _):
            await ask(running.port, chat(), path="/p/main/any")
            usage = (await running.entry()).usage
            assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (9, 2, False)

    run(work)


def test_a_stream_without_an_end_of_its_own_is_complete_when_its_body_is() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(word("a"))), **OPEN) as (running, _):
            reply = await ask(running.port, chat(), path="/p/main/any")
            assert (reply.body, reply.complete) == (word("a"), True)
            assert (await running.entry()).code == "completed"

    run(work)


def test_a_stream_that_breaks_is_not_complete() -> None:
    async def work() -> None:
        async with fronting(closing(streamed(word("a"))[:-5]), **OPEN) as (running, _):
            reply = await ask(running.port, chat(), path="/p/main/any")
            assert json.loads(reply.events()[-1])["error"]["code"] == "upstream_truncated"

    run(work)


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_a_refusal_comes_in_the_provider_s_own_words_without_our_key(status: int) -> None:
    async def work() -> None:
        said = {"kind": "odd", "text": "key sk-upstream-secret is no good"}
        async with fronting(answering(answer(status, said)), **OPEN) as (running, upstream):
            reply = await ask(running.port, chat(), path="/p/main/any")
            assert reply.status == status
            assert reply.json() == {"kind": "odd", "text": "key *** is no good"}
            assert len(upstream.peers[0].requests) == 1

    run(work)


def test_nothing_is_sent_twice() -> None:
    async def work() -> None:
        retry = {"retry": {"max_attempts": 3, "initial_delay": 0.001}}
        once = {"passthrough": True, **retry}
        async with fronting(closing(answer(503, {})), provider=once) as (running, upstream):
            reply = await ask(running.port, chat(), path="/p/main/any")
            assert reply.status == 503
            assert sum(len(peer.requests) for peer in upstream.peers) == 1

    run(work)


def test_the_gateway_s_own_refused_credentials_are_not_the_client_s() -> None:
    async def work() -> None:
        async with fronting(answering(answer(401, {"error": "bad key sk-upstr…"})), **OPEN) as (running, _):
            reply = await ask(running.port, chat(), path="/p/main/any")
            assert reply.status == 502
            assert reply.json()["error"]["code"] == "provider_auth"

    run(work)


def test_a_provider_lets_nothing_through_unless_it_is_told_to() -> None:
    async def work() -> None:
        async with fronting(answering(answer(200, {}))) as (running, upstream):
            for path in ("/p/main/models", "/p/other/models"):
                reply = await ask(running.port, b"", method="GET", path=path)
                assert reply.status == 404
                assert "passthrough: true" in reply.json()["error"]["message"]
            assert not upstream.peers

    run(work)


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "./x", "a//b", "%2e%2e/x", "a%2fb", "a%2Fb", "a%5cb", "a\\b", "%252e%252e/x", "a%00b"]
)
def test_a_path_that_may_lead_elsewhere_is_refused(path: str) -> None:
    async def work() -> None:
        async with fronting(answering(answer(200, {})), **OPEN) as (running, upstream):
            reply = await ask(running.port, b"", method="GET", path=f"/p/main/{path}")
            assert reply.status == 400
            assert not upstream.peers

    run(work)


def test_keys_are_asked_for_as_everywhere() -> None:
    async def work() -> None:
        auth = {"mode": "keys", "keys": [{"id": "k", "sha256": hash_key("sk-client-0123456789")}]}
        async with fronting(answering(answer(200, {})), auth=auth, **OPEN) as (running, _):
            assert (await ask(running.port, b"", method="GET", path="/p/main/models")).status == 401
            key = {"x-api-key": "sk-client-0123456789"}
            assert (await ask(running.port, b"", method="GET", path="/p/main/models", headers=key)).status == 200

    run(work)


def test_an_answer_without_a_body_is_one() -> None:
    async def work() -> None:
        async with fronting(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), **OPEN) as (running, _):
            reply = await ask(running.port, b"", method="DELETE", path="/p/main/files/1")
            assert (reply.status, reply.body, reply.headers["content-length"]) == (200, b"", "0")

    run(work)


def test_a_version_that_an_sdk_adds_itself_is_not_asked_for_twice() -> None:
    async def work() -> None:
        async with fronting(answering(answer(200, {})), **OPEN) as (running, upstream):
            for path in ("/p/main/v1/messages", "/p/main/messages", "/p/main/v1beta/x"):
                await ask(running.port, b"{}", path=path)
            targets = [head.split(b" ")[1] for peer in upstream.peers for head, _ in peer.requests]
            assert sorted(targets) == [b"/v1/messages", b"/v1/messages", b"/v1/v1beta/x"]

    run(work)


def test_the_usage_of_a_whole_answer_is_seen_in_any_family_s_words() -> None:
    async def work() -> None:
        said = {"content": "x" * 50, "usage": {"input_tokens": 7, "output_tokens": 5}}
        async with fronting(answering(answer(200, said)), **OPEN) as (running, _):
            await ask(running.port, b"{}", path="/p/main/messages")
            usage = (await running.entry()).usage
            assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (7, 5, False)

    run(work)
