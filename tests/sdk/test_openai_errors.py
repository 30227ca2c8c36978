"""What the official openai package raises through the gateway is what it raises against the real thing."""

import asyncio
import json
import time
from typing import Any

import anyio
import httpx
import openai
import pytest
from gateways import KEY, scripted, sdk

from harness import Running, gateway, run, until
from tidegate.admission.identity import hash_key
from tidegate.testing.upstream import HEAD, LAST, Peer, chunk, scripted_upstream

MESSAGES: Any = [{"role": "user", "content": "Tell me about the tide."}]
ROLE = chunk(b'data: {"choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}]}\n\n')
CONTENT = chunk(b'data: {"choices":[{"index":0,"delta":{"content":"tide"},"finish_reason":null}]}\n\n')


async def read(stream: Any, into: list[str]) -> None:
    """Read a stream to its end; the text is in `into` even when that end is an exception."""
    async for piece in stream:
        into.extend(choice.delta.content for choice in piece.choices if choice.delta.content)


async def complete(client: openai.AsyncOpenAI, **members: Any) -> None:
    """Ask for a completion and read all of it."""
    answer = await client.chat.completions.create(**members)
    if members.get("stream"):
        await read(answer, [])


async def failure(running: Running, model: str = "mock", *, key: str = KEY, **members: Any) -> openai.APIError:
    """Give the exception that a request ends with."""
    async with sdk(running) as client:
        client.api_key = key
        with pytest.raises(openai.APIError) as caught:
            await complete(client, **{"model": model, "messages": MESSAGES, **members})
    return caught.value


STATUSES = [
    ("mock?status=400", openai.BadRequestError, 400, "upstream_rejected"),
    ("mock?status=404", openai.NotFoundError, 404, "upstream_rejected"),
    ("mock?status=409", openai.ConflictError, 409, "upstream_rejected"),
    ("mock?status=422", openai.UnprocessableEntityError, 422, "upstream_rejected"),
    ("mock?status=429", openai.RateLimitError, 429, "upstream_rate_limited"),
    ("mock?status=500", openai.InternalServerError, 500, "upstream_failed"),
    ("mock?status=503", openai.InternalServerError, 503, "upstream_failed"),
    ("mock?status=401", openai.InternalServerError, 502, "provider_auth"),
    ("mock?status=403", openai.InternalServerError, 502, "provider_auth"),
    ("mock?reject=yes", openai.InternalServerError, 502, "connect_reset"),
    ("nobody", openai.NotFoundError, 404, "unknown_model"),
    ("", openai.BadRequestError, 400, "bad_request"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "kind", "status", "code"), STATUSES)
def test_a_refusal_is_the_exception_of_its_status(
    model: str, kind: type[openai.APIStatusError], status: int, code: str, stream: bool
) -> None:
    async def work() -> None:
        async with gateway() as running:
            error = await failure(running, model, stream=stream)
            assert type(error) is kind
            assert isinstance(error, openai.APIStatusError)
            assert error.status_code == status
            assert error.message
            assert error.request_id == (await running.entry()).request_id
            assert (await running.entry()).code == code
            if code in {"provider_auth", "connect_reset", "unknown_model", "bad_request"}:
                assert error.code == code

    run(work)


@pytest.mark.parametrize("key", ["tg-unknown-key", "short"])
def test_an_unknown_key_is_an_authentication_error(key: str) -> None:
    async def work() -> None:
        auth = {"mode": "keys", "keys": [{"id": "sdk", "sha256": hash_key(KEY)}]}
        async with gateway(auth=auth) as running:
            error = await failure(running, key=key)
            assert type(error) is openai.AuthenticationError
            assert (error.status_code, error.type, error.code) == (401, "authentication_error", "unauthenticated")

    run(work)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard"}]}, "messages[0].role"),
        ({"model": ""}, "model"),
    ],
)
def test_a_bad_request_names_the_member(members: dict[str, Any], param: str) -> None:
    async def work() -> None:
        async with gateway() as running:
            error = await failure(running, **members)
            assert type(error) is openai.BadRequestError
            assert error.param == param

    run(work)


def test_a_body_that_is_too_large_is_told_as_413() -> None:
    async def work() -> None:
        async with gateway(server={"max_body_bytes": 10_000}) as running:
            error = await failure(running, messages=[{"role": "user", "content": "x" * 3_000_000}])
            assert isinstance(error, openai.APIStatusError)
            assert (error.status_code, error.code) == (413, "too_large")

    run(work)


def test_a_rate_limit_says_when_to_come_again() -> None:
    async def work() -> None:
        async with gateway() as running:
            error = await failure(running, "mock?status=429&retry_after=7")
            assert isinstance(error, openai.RateLimitError)
            assert error.response.headers["retry-after"] == "7"

    run(work)


def test_the_providers_own_words_are_in_the_exception() -> None:
    body = json.dumps(
        {"error": {"message": "your prompt is too long", "type": "t", "param": "p", "code": "c"}}
    ).encode()
    answer = b"HTTP/1.1 400 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    async def work() -> None:
        async with scripted(answer) as running:
            error = await failure(running)
            assert isinstance(error, openai.BadRequestError)
            assert error.body == {"message": "your prompt is too long", "type": "t", "param": "p", "code": "c"}
            assert "your prompt is too long" in error.message

    run(work)


# --- failures of a stream ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fail", "code"),
    [
        ("error", "upstream_error_frame"),
        ("reset", "upstream_reset"),
        ("eof", "upstream_truncated"),
        ("truncate", "upstream_truncated"),
        ("garbage", "bad_frame"),
    ],
)
def test_a_stream_that_breaks_raises_after_all_that_had_come(fail: str, code: str) -> None:
    async def work() -> None:
        async with gateway() as running, sdk(running) as client:
            stream = await client.chat.completions.create(
                model=f"mock?tokens=9&fail={fail}&fail_at=4", messages=MESSAGES, stream=True
            )
            pieces: list[str] = []
            with pytest.raises(openai.APIError) as caught:
                await read(stream, pieces)
            assert type(caught.value) is openai.APIError
            assert caught.value.code == code
            assert len(pieces) == 4

    run(work)


@pytest.mark.parametrize(
    "pieces", [(HEAD, ROLE, CONTENT, b'3e\r\ndata: {"choi'), (HEAD, ROLE, CONTENT, chunk(b'data: {"choi'))]
)
def test_a_stream_that_breaks_inside_a_frame_is_no_json_error(pieces: tuple[bytes, ...]) -> None:
    async def work() -> None:
        async with scripted(*pieces) as running:
            error = await failure(running, stream=True)
            assert (type(error), error.code) == (openai.APIError, "upstream_truncated")

    run(work)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((HEAD, b"0\r\n\r\n"), "empty_stream"),
        ((HEAD, chunk(b'data: {"error":{"message":"no","type":"server_error"}}\n\n')), "server_error"),
        ((HEAD, chunk(b"data: {no json\n\n")), "bad_frame"),
        ((b"nonsense\r\n\r\n",), "bad_frame"),
    ],
)
def test_a_stream_that_fails_before_its_first_content_is_a_status_and_not_a_stream(
    answer: tuple[bytes, ...], code: str
) -> None:
    async def work() -> None:
        async with scripted(*answer) as running:
            error = await failure(running, stream=True)
            assert isinstance(error, openai.InternalServerError)
            assert code in {error.code, error.type}

    run(work)


def test_heartbeats_between_frames_with_an_id_are_no_events() -> None:
    """Source: openai/openai-python#2722."""
    frame = b'id: 7\ndata: {"choices":[{"index":0,"delta":{"content":"tide"},"finish_reason":null}]}\n\n'
    done = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

    async def work() -> None:
        beaten = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HEAD, chunk(frame))
            await beaten.wait()
            await peer.send(chunk(frame), chunk(done), LAST)

        async with (
            scripted_upstream(script) as upstream,
            gateway(upstream.base_url, server={"heartbeat": 0.02}) as running,
            sdk(running) as client,
        ):
            stream = await client.chat.completions.create(model="mock", messages=MESSAGES, stream=True)
            pieces = []
            async for piece in stream:
                pieces.append(piece.choices[0].delta.content)
                if not beaten.is_set():
                    await asyncio.sleep(0.1)
                    beaten.set()
            assert pieces == ["tide", "tide", None]
            assert (await running.entry()).bytes_out > 2 * len(frame) + len(done)

    run(work)


# --- leaving -------------------------------------------------------------------------------------------------------


def test_a_stream_that_the_client_closes_costs_no_more_tokens() -> None:
    async def work() -> None:
        async with gateway() as running, sdk(running) as client:
            stream = await client.chat.completions.create(
                model="mock?itl=10ms&tokens=10000", messages=MESSAGES, stream=True
            )
            async for piece in stream:
                if piece.choices[0].delta.content:
                    break
            await stream.close()
            assert (await running.entry()).code == "client_gone"
            await until(lambda: running.mock.stats.cancelled == 1)

    run(work)


def test_a_client_whose_time_is_up_before_the_first_token_is_noticed() -> None:
    async def work() -> None:
        async with gateway() as running, sdk(running, timeout=0.5) as client:
            with pytest.raises(openai.APITimeoutError):
                await client.chat.completions.create(model="mock?stall=head", messages=MESSAGES, stream=True)
            assert (await running.entry()).code == "client_gone"
            await until(lambda: running.mock.stats.cancelled == 1)

    run(work)


def test_a_client_whose_time_is_up_in_mid_stream_is_noticed() -> None:
    async def work() -> None:
        async with gateway() as running, sdk(running, timeout=0.5) as client:
            stream = await client.chat.completions.create(
                model="mock?fail=stall&fail_at=3&tokens=9", messages=MESSAGES, stream=True
            )
            # Releases of the package differ in whether they wrap what httpx says about a body.
            with pytest.raises((openai.APITimeoutError, httpx.ReadTimeout)):
                await read(stream, [])
            assert (await running.entry()).code == "client_gone"
            await until(lambda: running.mock.stats.cancelled == 1)

    run(work)


def test_a_gateway_that_is_not_there_is_a_connection_error() -> None:
    async def work() -> None:
        async with gateway() as running:
            pass
        async with sdk(running) as client:
            with pytest.raises(openai.APIConnectionError):
                await complete(client, model="mock", messages=MESSAGES)

    run(work)


# --- retries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "attempts"),
    [
        ("mock?status=429&retry_after=0", 3),
        ("mock?status=500", 3),
        ("mock?status=503", 3),
        ("mock?status=409", 1),  # the package would try again: the gateway knows that it makes no sense
        ("mock?status=400", 1),
        ("nobody", 1),
    ],
)
def test_the_package_tries_again_only_where_that_makes_sense(
    model: str, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_sleep = asyncio.sleep

    async def no_wait(seconds: float) -> None:
        await real_sleep(min(seconds, 0.001))

    async def work() -> None:
        async with gateway() as running, sdk(running, max_retries=2) as client:
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(model=model, messages=MESSAGES)
            assert len(running.entries()) == attempts
            never = caught.value.response.headers.get("x-should-retry") == "false"
            assert never == (attempts == 1)

    monkeypatch.setattr(anyio, "sleep", no_wait)
    run(work)


def test_a_failure_that_passes_is_not_seen_by_the_clients_code() -> None:
    asked: list[float] = []

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            asked.append(time.monotonic())
            if len(asked) == 1:
                await peer.send(b"HTTP/1.1 503 X\r\ncontent-length: 0\r\nretry-after: 0\r\n\r\n")
            else:
                await peer.send(HEAD, CONTENT, chunk(b"data: [DONE]\n\n"), LAST)

    async def work() -> None:
        async with scripted_upstream(script) as upstream, gateway(upstream.base_url) as running:
            async with sdk(running, max_retries=2) as client:
                stream = await client.chat.completions.create(model="mock", messages=MESSAGES, stream=True)
                assert [piece.choices[0].delta.content async for piece in stream] == ["tide"]
            assert [entry.code for entry in running.entries()] == ["upstream_failed", "completed"]

    run(work)
