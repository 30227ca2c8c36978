"""Where both sides speak Anthropic's dialect, what a client says and is told is the provider's, byte for byte."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from anthropic import BadRequestError
from messaging import PROMPT, awaiting
from upstreams import AWS

from harness import Running, ask, gateway, run
from streams import Script, answer, answering, chunked
from tidegate.relay.relay import Relay
from tidegate.testing.upstream import HEAD, LAST, Peer, ScriptedUpstream, chunk, scripted_upstream
from tidegate.wire import eventstream

PATH: Final = "/v1/messages"
EVENT_STREAM: Final = HEAD.replace(b"text/event-stream", b"application/vnd.amazon.eventstream")
BODY: Final = (
    b'{ "model":"mock",\n "max_tokens" : 100, "messages":[{"role":"user","content":[{"type":"text","text":"H\\u00e9",'
    b'"cache_control":{"type":"ephemeral"},"of_tomorrow":1e2}]}], "what_nobody_knows_yet":{"a":[1.50,  null]}, "stream":%b }'
)
"""A request in a style that no writer of ours has, with members that nobody knows."""
KEPT: Final = (
    b'{"anthropic_version":"bedrock-2023-05-31","max_tokens":100,"messages":[{"role":"user","content":[{"type":"text",'
    b'"text":"H\\u00e9","cache_control":{"type":"ephemeral"},"of_tomorrow":1e2}]}],'
    b'"what_nobody_knows_yet":{"a":[1.50,  null]}}'
)
"""What of it goes to Amazon."""
WHOLE: Final = (
    b'{"id":"msg_1", "type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"T\\u00efde"},\n'
    b'{"type":"of_tomorrow","x":1.0}],"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":2,"new":{}} }'
)


def event(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def text(words: str, padding: str = "") -> bytes:
    delta = json.dumps({"type": "text_delta", "text": words}, ensure_ascii=False, separators=(",", ":"))
    return b'{"type":"content_block_delta","index":0,"delta":%b%b}' % (delta.encode(), padding.encode())


STARTED: Final = (
    b'{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],'
    b'"stop_reason":null,"usage":{"input_tokens":3,"output_tokens":1,"of_tomorrow":[]}}  }'
)
SAID: Final = [
    ("message_start", STARTED),
    ("content_block_start", b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""} }'),
    ("ping", b'{"type": "ping"}'),
    *(("content_block_delta", text(word)) for word in ("The", " tïde", " \u2028", ' "is"', " high", ".")),
    ("content_block_delta", text(" And", padding="     ")),
    ("of_tomorrow", b'{"type":"of_tomorrow","x":1.50}'),
    *(("content_block_delta", text(f" {nth}")) for nth in range(20)),
    ("content_block_stop", b'{"type":"content_block_stop","index":0  }'),
    (
        "message_delta",
        b'{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":9}}',
    ),
    ("message_stop", b'{"type":"message_stop"   }'),
]
"""A stream in Anthropic's own style: padded frames, a ping, and an event that nobody knows."""
STREAM: Final = b"".join(event(name, data) for name, data in SAID)


@asynccontextmanager
async def fronting(kind: str, script: Script) -> AsyncIterator[tuple[Running, ScriptedUpstream]]:
    """Serve a gateway in front of a provider of a kind that runs a script. Shape: one behind Amazon's door is named `mock` too."""
    more: dict[str, Any] = {"aws": AWS, "api_key": ""} if kind.startswith("bedrock") else {}
    async with (
        scripted_upstream(script) as upstream,
        gateway(upstream.base_url, provider={"kind": kind, **more}) as running,
    ):
        yield running, upstream


def wrapped(data: bytes) -> bytes:
    """Give an event in a message of Amazon's, as InvokeModel wraps it."""
    payload = b'{"bytes":"%b","p":"abc"}' % base64.b64encode(data)
    headers: dict[str, eventstream.Value] = {
        ":event-type": "chunk",
        ":content-type": "application/json",
        ":message-type": "event",
    }
    return eventstream.encode(headers, payload)


def sent_to(upstream: ScriptedUpstream) -> tuple[dict[bytes, bytes], bytes]:
    """Give the headers and the body of the one request that reached the provider; the request line stands under b''."""
    head, body = upstream.peers[0].requests[0]
    first, *lines = head.strip().split(b"\r\n")
    return {b"": first, **{name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}}, body


def test_a_whole_answer_and_its_request_pass_byte_for_byte() -> None:
    async def work() -> None:
        async with fronting("anthropic", answering(answer(200, WHOLE))) as (running, upstream):
            reply = await ask(running.port, BODY % b"false", path=PATH)
            assert reply.body == WHOLE
            assert sent_to(upstream)[1] == BODY % b"false"
            entry = await running.entry()
            assert (entry.path, entry.usage.input_tokens, entry.usage.output_tokens) == ("raw", 3, 2)

    run(work)


@pytest.mark.parametrize("size", [7, 64, 1000, len(STREAM)])
def test_a_stream_and_its_request_pass_byte_for_byte_however_they_are_cut(size: int) -> None:
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]

    async def work() -> None:
        script = answering(HEAD, *map(chunk, pieces), LAST)
        async with fronting("anthropic", script) as (running, upstream):
            reply = await ask(running.port, BODY % b"true", path=PATH)
            assert reply.body == STREAM
            assert sent_to(upstream)[1] == BODY % b"true"
            entry = await running.entry()
            assert (entry.path, entry.code, entry.finish_reason) == ("raw", "completed", "stop")
            assert (entry.usage.input_tokens, entry.usage.output_tokens) == (3, 9)

    run(work)


def test_plain_frames_take_the_short_way_and_nobody_can_tell() -> None:
    gateways: list[Running] = []
    short: list[bool] = []

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        for name, data in SAID:
            await peer.send(chunk(event(name, data)))
            await asyncio.sleep(0.003)  # a frame a read
            relays = [relay for relay in gateways[0].tidegate.gateway.relays() if isinstance(relay, Relay)]
            short.append(any(relay._diverts for relay in relays))
        await peer.send(LAST)

    async def work() -> None:
        async with fronting("anthropic", script) as (running, _):
            gateways.append(running)
            reply = await ask(running.port, BODY % b"true", path=PATH)
            assert reply.body == STREAM
            entry = await running.entry()
            assert (entry.path, entry.code, entry.bytes_out) == ("raw", "completed", len(STREAM))
            assert (entry.finish_reason, entry.usage.output_tokens) == ("stop", 9)

    run(work)
    assert short.count(True) > len(SAID) // 2


def test_behind_amazons_door_a_whole_answer_passes_and_the_request_is_put_in_the_path() -> None:
    async def work() -> None:
        async with fronting("bedrock_anthropic", answering(answer(200, WHOLE))) as (running, upstream):
            reply = await ask(running.port, BODY % b"false", path=PATH)
            assert reply.body == WHOLE
            headers, body = sent_to(upstream)
            assert headers[b""] == b"POST /v1/model/mock/invoke HTTP/1.1"
            assert body == KEPT
            assert headers[b"authorization"].startswith(b"AWS4-HMAC-SHA256 ")

    run(work)


@pytest.mark.parametrize("size", [7, 100, 4096])
def test_behind_amazons_door_the_events_of_a_stream_come_out_of_their_messages(size: int) -> None:
    said = b"".join(wrapped(data) for _, data in SAID)
    pieces = [said[start : start + size] for start in range(0, len(said), size)]

    async def work() -> None:
        script = answering(chunked(*pieces, head=EVENT_STREAM) + LAST)
        async with fronting("bedrock_anthropic", script) as (running, upstream):
            reply = await ask(running.port, BODY % b"true", path=PATH)
            assert reply.headers["content-type"] == "text/event-stream"
            assert reply.body == STREAM
            headers, body = sent_to(upstream)
            assert headers[b""] == b"POST /v1/model/mock/invoke-with-response-stream HTTP/1.1"
            assert body == KEPT
            entry = await running.entry()
            assert (entry.code, entry.usage.input_tokens, entry.usage.output_tokens) == ("completed", 3, 9)

    run(work)


# --- headers -------------------------------------------------------------------------------------------------------

ANSWERS: Final = {
    "anthropic": WHOLE,
    "bedrock_anthropic": WHOLE,
    "openai": b'{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}]}',
    "gemini": b'{"candidates":[{"content":{"parts":[{"text":"Hi"}]},"finishReason":"STOP"}]}',
    "bedrock": b'{"output":{"message":{"role":"assistant","content":[{"text":"Hi"}]}},"stopReason":"end_turn"}',
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_packages_version_and_betas_reach_anthropic_and_no_other(kind: str) -> None:
    betas = {"anthropic-version": "2023-01-01", "anthropic-beta": "tides-2026-01-01,moons-2026-02-02"}

    async def work() -> None:
        async with fronting(kind, answering(answer(200, ANSWERS[kind]))) as (running, upstream):
            async with awaiting(f"http://127.0.0.1:{running.port}", default_headers=betas) as client:
                message = await client.messages.create(model="mock", max_tokens=100, messages=PROMPT)
                assert message.content
            headers, _ = sent_to(upstream)
            said = {name.decode(): value.decode() for name, value in headers.items() if name.startswith(b"anthropic-")}
            assert said == (betas if kind == "anthropic" else {})
            assert not any(b"tg-a-key-of-the-sdk" in value for value in headers.values())
            assert headers.get(b"x-api-key") == (b"sk-upstream-secret" if kind == "anthropic" else None)

    run(work)


def test_the_betas_that_amazon_knows_go_into_the_body_and_the_others_are_named() -> None:
    betas = "claude-code-20250219, context-management-2025-06-27,interleaved-thinking-2025-05-14"

    async def work() -> None:
        async with fronting("bedrock_anthropic", answering(answer(200, WHOLE))) as (running, upstream):
            reply = await ask(running.port, BODY % b"false", path=PATH, headers={"anthropic-beta": betas})
            assert (reply.status, reply.headers["x-tidegate-dropped"]) == (200, "anthropic-beta")
            _, body = sent_to(upstream)
            assert body == KEPT[:-1] + (
                b',"anthropic_beta":["context-management-2025-06-27","interleaved-thinking-2025-05-14"]}'
            )

    run(work)


@pytest.mark.parametrize("status", [200, 400])
def test_the_package_knows_the_id_of_an_answer_and_of_an_error(status: int) -> None:
    theirs = answer(status, WHOLE if status == 200 else b"{}", "request-id: req_theirs")

    async def work() -> None:
        async with (
            fronting("anthropic", answering(theirs)) as (running, _),
            awaiting(f"http://127.0.0.1:{running.port}") as client,
        ):
            try:
                known = (await client.messages.create(model="mock", max_tokens=100, messages=PROMPT))._request_id
            except BadRequestError as refused:
                known = refused.request_id
            entry = await running.entry()
            assert (known, entry.status) == (entry.request_id, status)

    run(work)


def test_who_says_no_version_asks_in_the_gateways() -> None:
    async def work() -> None:
        async with fronting("anthropic", answering(answer(200, WHOLE))) as (running, upstream):
            await ask(running.port, BODY % b"false", path=PATH)
            headers, _ = sent_to(upstream)
            assert headers[b"anthropic-version"] == b"2023-06-01"

    run(work)
