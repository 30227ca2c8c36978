"""What becomes of a request until the first content: real statuses instead of a 200 that breaks."""

import asyncio
import tracemalloc

import pytest

from harness import ask, chat, connect, request_bytes, run
from streams import (
    DONE,
    FINISH,
    HELLO,
    MESSAGE,
    ROLE,
    answer,
    answering,
    check_broken_off,
    chunked,
    closing,
    delta,
    error_of,
    frame,
    fronting,
    payload,
    settled,
    stalling,
    streamed,
    word,
)
from tidegate.testing.upstream import LAST, Peer

PLAIN = chat(stream=False)
SECRET = "sk-upstream-secret"
ERROR = {"message": "It broke.", "type": "server_error", "param": "n", "code": "oops"}


# --- statuses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        (400, 400, "upstream_rejected"),
        (404, 404, "upstream_rejected"),
        (422, 422, "upstream_rejected"),
        (408, 408, "upstream_failed"),
        (424, 502, "upstream_failed"),
        (429, 429, "upstream_rate_limited"),
        (500, 500, "upstream_failed"),
        (503, 503, "upstream_failed"),
        (529, 529, "upstream_failed"),
        (302, 502, "upstream_failed"),
    ],
)
def test_an_error_status_is_kept_with_the_provider_s_words(said: int, status: int, code: str, *, stream: bool) -> None:
    async def work() -> None:
        async with fronting(answering(answer(said, {"error": ERROR}, "retry-after: 7"))) as (running, _):
            reply = await ask(running.port, chat(stream=stream))
            assert reply.status == status
            assert error_of(reply) == ERROR
            assert reply.headers["retry-after"] == "7"
            assert reply.headers["content-type"] == "application/json"
            entry = await running.entry()
            assert (entry.code, entry.status) == (code, status)

    run(work)


@pytest.mark.parametrize("status", [401, 403])
def test_a_provider_s_refusal_of_our_key_is_not_the_client_s_and_quotes_nothing(status: int) -> None:
    async def work() -> None:
        quote = {"error": {"message": f"Incorrect API key provided: {SECRET}.", "code": "invalid_api_key"}}
        async with fronting(answering(answer(status, quote))) as (running, _):
            for stream in (True, False):
                reply = await ask(running.port, chat(stream=stream))
                assert (reply.status, error_of(reply)["code"]) == (502, "provider_auth")
                assert SECRET.encode() not in reply.body
                assert b"Incorrect" not in reply.body
                assert (await running.entry()).code == "provider_auth"

    run(work)


def test_no_error_quotes_the_gateway_s_secrets_wherever_the_provider_does() -> None:
    async def work() -> None:
        quote = {"error": {"message": f"No quota for {SECRET} and header-secret."}}
        for said in (answer(400, quote), streamed(frame(quote)), streamed(word("Hel"), frame(quote))):
            headers = {"headers": {"x-key": "header-secret"}}
            async with fronting(answering(said), provider=headers) as (running, _):
                reply = await ask(running.port, chat())
                assert b"No quota for *** and ***." in reply.body

    run(work)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"upstream connect error", "upstream connect error"),
        (b"<html><body>502 Bad Gateway</body></html>", "the provider answered 502"),
        (b"", "the provider answered 502"),
        (b'{"detail": "model is loading"}', "model is loading"),
        (b'{"error": "overloaded"}', "overloaded"),
    ],
)
def test_an_error_that_is_no_openai_envelope_still_gets_a_message(said: bytes, message: str) -> None:
    async def work() -> None:
        async with fronting(answering(answer(502, said))) as (running, _):
            reply = await ask(running.port, chat())
            assert (reply.status, error_of(reply)["message"]) == (502, message)

    run(work)


def test_an_error_body_larger_than_can_be_held_is_judged_by_its_beginning() -> None:
    async def work() -> None:
        async with fronting(stalling(answer(400, b"no " * 400_000))) as (running, _):
            reply = await ask(running.port, chat())
            assert reply.status == 400
            assert error_of(reply)["message"].startswith("no no no")
            await settled(running)

    run(work)


# --- errors in a 200 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ({"message": "Slow down.", "code": 429}, 429, "error_frame"),
        ({"message": "Slow down.", "type": "rate_limit_error"}, 429, "error_frame"),
        ({"message": "Too long.", "code": "context_length_exceeded"}, 400, "error_frame"),
        ({"message": "It broke."}, 502, "error_frame"),
        ({"message": "Bad key.", "code": "invalid_api_key"}, 502, "provider_auth"),
    ],
)
def test_an_error_in_a_200_before_any_content_is_a_real_status(
    error: dict[str, object], status: int, code: str
) -> None:
    async def work() -> None:
        said = {"error": error}
        beginnings = (frame(said), ROLE + frame(said), b": ping\n\n" + ROLE + delta({}) + frame(said) + DONE)
        for beginning in beginnings:
            async with fronting(answering(streamed(beginning))) as (running, _):
                reply = await ask(running.port, chat())
                assert reply.status == status
                assert reply.headers["content-type"] == "application/json"
                assert (await running.entry()).code == code
        for stream in (True, False):
            async with fronting(answering(answer(200, said))) as (running, _):
                assert (await ask(running.port, chat(stream=stream))).status == status
                assert (await running.entry()).code == code

    run(work)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (streamed(), "empty_stream"),
        (streamed(b": ping\n\n"), "empty_stream"),
        (streamed(DONE), "empty_stream"),
        (answer(200, b""), "empty_stream"),
        (streamed(ROLE), "upstream_truncated"),
        (streamed(b"data: {"), "upstream_truncated"),
        (streamed(b"data: no json\n\n"), "bad_frame"),
        (streamed(b"data: [1]\n\n"), "bad_frame"),
        (answer(200, b"not json"), "bad_frame"),
        (answer(200, MESSAGE), "bad_frame"),
    ],
)
def test_a_200_that_holds_no_stream_is_a_502(body: bytes, code: str) -> None:
    async def work() -> None:
        async with fronting(answering(body)) as (running, _):
            reply = await ask(running.port, chat())
            assert (reply.status, error_of(reply)["code"]) == (502, code)
            assert (await running.entry()).code == code

    run(work)


def test_a_reset_before_the_first_content_is_a_502() -> None:
    async def work() -> None:
        for said, code in ((b"", "connect_reset"), (chunked(ROLE), "upstream_reset")):

            async def script(peer: Peer, said: bytes = said) -> None:
                await peer.request()
                await peer.send(said)
                await asyncio.sleep(0.05)
                peer.reset()

            async with fronting(script) as (running, _):
                reply = await ask(running.port, chat())
                assert (reply.status, error_of(reply)["code"]) == (502, code)

    run(work)


# --- holding ---------------------------------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_first_content_and_comments_are_dropped() -> None:
    async def work() -> None:
        gate = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(chunked(b": ping\n\n", ROLE, b": ping\n\n", delta({"content": ""})))
            await gate.wait()
            await peer.send(chunked(word("Hel"), b": kept\n\n", FINISH, DONE, head=b""), LAST)

        async with fronting(script) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(chat()))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.reader.read(1)
            gate.set()
            reply = await client.reply()
            assert reply.body == payload(ROLE, delta({"content": ""}), word("Hel"), b": kept\n\n", FINISH, DONE)

    run(work)


@pytest.mark.parametrize(
    "first",
    [
        delta({"content": "x"}),
        delta({"reasoning_content": "x"}),
        delta({"reasoning": "x"}),
        delta({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}),
        delta({"refusal": "no"}),
        delta({"role": "assistant", "content": "x"}),
        FINISH,
    ],
    ids=["content", "reasoning_content", "reasoning", "tool call", "refusal", "role and content", "finish"],
)
def test_any_member_of_a_delta_but_the_role_opens_the_stream(first: bytes) -> None:
    async def work() -> None:
        async with fronting(stalling(chunked(ROLE, first))) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(chat()))
            got = await client.reader.readuntil(first)
            assert got.startswith(b"HTTP/1.1 200 OK\r\n")
            assert payload(ROLE, first) in got

    run(work)


@pytest.mark.parametrize(
    "preamble", [[ROLE] * 65, [delta({"role": "x" * 90_000})] * 3], ids=["65 frames", "more than 256 KiB"]
)
def test_a_preamble_too_long_to_hold_is_passed_on(preamble: list[bytes]) -> None:
    async def work() -> None:
        async with fronting(answering(streamed(*preamble, frame({"error": ERROR})))) as (running, _):
            error = check_broken_off(await ask(running.port, chat()), "upstream_error_frame", *preamble)
            assert error["message"] == "It broke."

    run(work)


def test_a_preamble_that_fits_is_held() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(*[ROLE] * 64, frame({"error": ERROR})))) as (running, _):
            assert (await ask(running.port, chat())).status == 500

    run(work)


# --- plain answers ---------------------------------------------------------------------------------------------------


def test_a_plain_answer_keeps_its_bytes_and_is_held_whole_up_to_256_kib() -> None:
    async def work() -> None:
        for size in (10, 200_000):
            said = answer(200, {**MESSAGE, "pad": "x" * size})
            body = said.partition(b"\r\n\r\n")[2]
            async with fronting(answering(said)) as (running, _):
                reply = await ask(running.port, PLAIN)
                assert (reply.status, reply.body) == (200, body)
                assert reply.headers["content-length"] == str(len(body))
            async with fronting(closing(said[:-1])) as (running, _):
                reply = await ask(running.port, PLAIN)
                assert (reply.status, error_of(reply)["code"]) == (502, "upstream_truncated")

    run(work)


def test_a_larger_plain_answer_streams_and_a_truncation_breaks_the_connection() -> None:
    async def work() -> None:
        said = answer(200, {"pad": "x" * 600_000, **MESSAGE, "usage": {"prompt_tokens": 5, "completion_tokens": 6}})
        body = said.partition(b"\r\n\r\n")[2]
        async with fronting(answering(said)) as (running, _):
            reply = await ask(running.port, PLAIN)
            assert (reply.status, reply.body, reply.complete) == (200, body, True)
            entry = await running.entry()
            assert (entry.code, entry.usage.input_tokens, entry.usage.output_tokens) == ("completed", 5, 6)
            assert not entry.usage.estimated
        async with fronting(closing(said[:-1])) as (running, _):
            reply = await ask(running.port, PLAIN)
            assert (reply.status, reply.complete) == (200, False)
            assert body.startswith(reply.body)
            entry = await running.entry()
            assert (entry.code, entry.usage.estimated) == ("upstream_truncated", True)

    run(work)


def test_the_head_of_a_large_plain_answer_comes_before_its_end() -> None:
    async def work() -> None:
        said = answer(200, {**MESSAGE, "pad": "x" * 600_000})
        async with fronting(stalling(said[:400_000])) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(PLAIN))
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")

    run(work)


# --- what goes up ----------------------------------------------------------------------------------------------------


def test_the_body_goes_up_with_its_length() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(*HELLO))) as (running, upstream):
            whole = chat(padding="ü" * 100_000, stream_options={"include_usage": True})
            await ask(running.port, whole)
            body = request_bytes(whole).partition(b"\r\n\r\n")[2]
            async with connect(running.port) as client:
                head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n"
                await client.send(head + b"transfer-encoding: chunked\r\n\r\n")
                for start in range(0, len(body), 10_000):
                    piece = body[start : start + 10_000]
                    await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                await client.send(LAST)
                assert (await client.reply()).status == 200
            for head, sent in upstream.peers[0].requests:
                assert sent == body
                assert b"\r\ncontent-length: %d\r\n" % len(body) in head
                assert b"transfer-encoding" not in head

    run(work)


def test_the_body_is_freed_at_the_first_verdict() -> None:
    """A stream that runs for minutes must not hold the megabytes of its prompt."""
    size = 4 * 1024 * 1024
    request = request_bytes(chat(padding="x" * size))

    async def script(peer: Peer) -> None:
        head = await peer._reader.readuntil(b"\r\n\r\n")
        left = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while left:
            left -= len(await peer._reader.read(65536))
        await peer.send(chunked(ROLE, word("Hel")))
        await peer.wait_closed_by_peer()

    async def work() -> None:
        async with fronting(script) as (running, _), connect(running.port) as client:
            tracemalloc.start()
            try:
                await client.send(request)
                await client.reader.readuntil(b"Hel")
                held, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak > size, "the body was seen"
            assert held < size / 2
            assert len(running.tidegate.gateway) == 1

    run(work)
