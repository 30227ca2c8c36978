"""What a client may send, over raw sockets."""

import asyncio
import json
import uuid

import pytest

from harness import CHAT, Raw, Reply, Running, ask, chat, connect, gateway, request_bytes, run, until
from tidegate.admission.identity import hash_key
from tidegate.testing.upstream import chunk

KEY = "sk-client-0123456789"
KEYS = {"mode": "keys", "keys": [{"id": "k1", "sha256": hash_key(KEY)}]}
BODY = json.dumps(chat("mock?tokens=3")).encode()


def post(*lines: str, version: str = "1.1", host: str = "host: test", target: str = CHAT) -> bytes:
    """Give a head with exactly these lines."""
    return "\r\n".join([f"POST {target} HTTP/{version}", *filter(None, [host, *lines]), "", ""]).encode("latin-1")


async def answer_to(running: Running, data: bytes) -> Reply:
    """Send bytes, read the one answer, check that the connection is closed after it."""
    async with connect(running.port) as client:
        await client.send(data)
        reply = await client.reply()
        assert await client.closed()
        return reply


def check_error(reply: Reply, status: int, code: str) -> None:
    assert reply.status == status
    assert reply.complete
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["error"]["code"] == code
    assert reply.headers["x-request-id"]


async def check_serves(client: Raw) -> None:
    """Check that the connection serves a stream."""
    await client.send(request_bytes(chat("mock?tokens=3")))
    reply = await client.reply()
    assert (reply.status, reply.complete, reply.events()[-1]) == (200, True, "[DONE]")


# --- heads -----------------------------------------------------------------------------------------------------------


def test_a_head_larger_than_the_limit_is_431_and_one_within_it_is_served() -> None:
    async def work() -> None:
        async with gateway(server={"max_header_bytes": 1000}) as running:
            small = post(f"content-length: {len(BODY)}", "x-pad: ")
            padded = small.replace(b"x-pad: ", b"x-pad: " + b"p" * (1000 - len(small)))
            assert len(padded) == 1000
            async with connect(running.port) as client:
                await client.send(padded + BODY)
                assert (await client.reply()).status == 200
            check_error(await answer_to(running, padded.replace(b"x-pad: ", b"x-pad: p")), 431, "header_too_large")
            assert (await running.entry()).code == "header_too_large"

    run(work)


def test_a_head_is_431_before_it_ends() -> None:
    async def work() -> None:
        async with gateway() as running:
            check_error(await answer_to(running, post("x: ")[:-4] + b"p" * 64 * 1024), 431, "header_too_large")

    run(work)


def test_raw_bytes_count_also_those_that_a_parser_drops() -> None:
    async def work() -> None:
        async with gateway(server={"max_header_bytes": 1000}) as running:
            spaces = post("x:" + " " * 1000 + "v")
            check_error(await answer_to(running, spaces), 431, "header_too_large")

    run(work)


def test_chunk_extensions_and_trailers_count_as_header_bytes() -> None:
    async def work() -> None:
        async with gateway(server={"max_header_bytes": 1000}) as running:
            head = post("transfer-encoding: chunked")
            extended = head + b"1;" + b"e" * 1100 + b"\r\n{\r\n"
            check_error(await answer_to(running, extended), 431, "header_too_large")
            trailed = head + chunk(BODY) + b"0\r\n" + b"x-trailer: v\r\n" * 100 + b"\r\n"
            check_error(await answer_to(running, trailed), 431, "header_too_large")

    run(work)


def test_a_head_that_comes_too_slowly_is_408() -> None:
    async def work() -> None:
        async with gateway(server={"header_timeout": 0.1}) as running:
            check_error(await answer_to(running, post()[:-2]), 408, "request_timeout")
            assert (await running.entry()).code == "request_timeout"

    run(work)


def test_dripping_does_not_extend_the_head_s_deadline() -> None:
    async def work() -> None:
        async with gateway(server={"header_timeout": 0.2}) as running, connect(running.port) as client:

            async def drip() -> None:
                while True:
                    await client.send(b"a")
                    await asyncio.sleep(0.02)

            await client.send(post("x: ")[:-4])
            dripping = asyncio.ensure_future(drip())
            check_error(await client.reply(), 408, "request_timeout")
            dripping.cancel()

    run(work)


def test_a_connection_that_says_nothing_is_closed_at_the_head_s_deadline() -> None:
    async def work() -> None:
        async with gateway(server={"header_timeout": 0.1}) as running, connect(running.port) as client:
            assert await client.reader.read() == b""
            assert running.entries() == ()

    run(work)


def test_deadlines_of_zero_are_off() -> None:
    async def work() -> None:
        off = {"header_timeout": 0, "body_timeout": 0, "keep_alive": 0, "slow_client_timeout": 0}
        async with gateway(server=off) as running, connect(running.port) as client:
            head = post(f"content-length: {len(BODY)}")
            for _ in range(2):
                for part in (head[:10], head[10:], BODY[:9], BODY[9:]):
                    await client.send(part)
                    await asyncio.sleep(0.05)
                assert (await client.reply()).complete

    run(work)


@pytest.mark.parametrize(
    "head",
    [
        post(host=""),
        post("host: other"),
        post("host: test"),
        post("content-length: 2", "transfer-encoding: chunked"),
        post("transfer-encoding: chunked", "content-length: 2"),
        post("transfer-encoding: chunked", version="1.0"),
        post("transfer-encoding: gzip"),
        post("transfer-encoding: chunked", "transfer-encoding: chunked"),
        post("content-length: two"),
        post("content-length: -2"),
        post("content-length: 2, 2"),
        post("content-length: 2", "content-length: 2"),
        post("content-length: 2", "content-length: 3"),
        post("bad name: x"),
        post(version="2.0"),
        post(version="0.9"),
        post(target="*"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
        b"\x00" * 10,
        b"hello\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_what_could_be_misread_or_is_no_http_is_400_and_ends_the_connection(head: bytes) -> None:
    async def work() -> None:
        async with gateway() as running:
            reply = await answer_to(running, head)
            check_error(reply, 400, "bad_request")
            assert reply.headers["connection"] == "close"
            assert reply.headers["x-should-retry"] == "false"
            entry = await running.entry()
            assert (entry.code, entry.status, entry.request_id) == ("bad_request", 400, reply.headers["x-request-id"])
            assert running.mock.stats.started == 0

    run(work)


def test_an_empty_line_before_a_request_is_ignored() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            for _ in range(2):
                await client.send(b"\r\n" + request_bytes(chat()))
                assert (await client.reply()).status == 200
            await client.send(b"\r\n" + request_bytes(b"", path="/v1/models", method="GET"))
            assert (await client.reply()).status == 200

    run(work)


def test_a_head_may_come_byte_by_byte() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            for byte in request_bytes(chat("mock?tokens=3")):
                client.writer.write(bytes([byte]))
                await asyncio.sleep(0)
            assert (await client.reply()).complete

    run(work)


def test_a_query_does_not_hide_a_hot_path_and_a_url_is_a_target_too() -> None:
    async def work() -> None:
        async with gateway() as running:
            for target in (f"{CHAT}?api-version=2024-06-01", f"http://test{CHAT}"):
                assert (await ask(running.port, chat(), path=target)).status == 200

    run(work)


@pytest.mark.parametrize("offer", ["h2c", "websocket"])
def test_a_post_that_offers_an_upgrade_is_served_as_http_1_1_with_its_body(offer: str) -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            offered = {"connection": "Upgrade, HTTP2-Settings", "upgrade": offer, "http2-settings": "AAMAAABkAAQ"}
            await client.send(request_bytes(chat("mock?tokens=3"), headers=offered))
            reply = await client.reply()
            assert (reply.status, reply.events()[-1]) == (200, "[DONE]")
            await check_serves(client)

    run(work)


# --- bodies ----------------------------------------------------------------------------------------------------------


def test_a_body_that_comes_too_slowly_is_408() -> None:
    async def work() -> None:
        async with gateway(server={"body_timeout": 0.1}) as running:
            check_error(await answer_to(running, post("content-length: 100") + b"{"), 408, "request_timeout")
            check_error(
                await answer_to(running, post("transfer-encoding: chunked") + b"1\r\n{"), 408, "request_timeout"
            )
            assert [entry.code for entry in running.entries()] == ["request_timeout"] * 2

    run(work)


def test_a_length_beyond_the_limit_is_413_before_any_of_the_body() -> None:
    async def work() -> None:
        async with gateway() as running:
            check_error(await answer_to(running, post(f"content-length: {20 * 1024 * 1024 + 1}")), 413, "too_large")
        async with gateway(server={"max_body_bytes": len(BODY)}) as running:
            check_error(await answer_to(running, post(f"content-length: {len(BODY) + 1}")), 413, "too_large")
            assert (await ask(running.port, BODY)).status == 200
            assert (await running.entry()).code == "completed"

    run(work)


def test_a_chunked_body_is_413_where_it_grows_beyond_the_limit() -> None:
    async def work() -> None:
        async with gateway(server={"max_body_bytes": 1000}) as running:
            grown = post("transfer-encoding: chunked") + chunk(b"x" * 600) + b"191\r\n"
            check_error(await answer_to(running, grown), 413, "too_large")
            assert running.mock.stats.started == 0

    run(work)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_chunked_body_is_served_however_it_is_cut(size: int) -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            pieces = [BODY[start : start + size] for start in range(0, len(BODY), size)]
            coded = b"".join(chunk(piece) for piece in pieces) + b"0\r\nx-sum: 1\r\n\r\n"
            for cut in (1, len(coded)):
                await client.send(post("transfer-encoding: chunked"))
                for start in range(0, len(coded), cut):
                    client.writer.write(coded[start : start + cut])
                    await asyncio.sleep(0)
                reply = await client.reply()
                assert (reply.status, reply.events()[-1]) == (200, "[DONE]")
            await check_serves(client)

    run(work)


@pytest.mark.parametrize("body", [b"zz\r\n", b"3\r\n{}}}\r\n", b"2\n{}\n"])
def test_a_malformed_chunked_body_is_400(body: bytes) -> None:
    async def work() -> None:
        async with gateway() as running:
            check_error(await answer_to(running, post("transfer-encoding: chunked") + body), 400, "bad_request")

    run(work)


def test_a_post_without_a_body_is_400_and_the_connection_goes_on() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(post())
            check_error(await client.reply(), 400, "bad_request")
            await check_serves(client)

    run(work)


# --- expectations and authentication --------------------------------------------------------------------------------


def test_100_continue_is_sent_after_admission() -> None:
    async def work() -> None:
        async with gateway(auth=KEYS) as running, connect(running.port) as client:
            head = post("expect: 100-continue", f"authorization: Bearer {KEY}", f"content-length: {len(BODY)}")
            await client.send(head)
            assert (await client.reply()).status == 100
            await client.send(BODY)
            reply = await client.reply()
            assert (reply.status, reply.events()[-1]) == (200, "[DONE]")

    run(work)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["content-length: 10"], 401),
        (["content-length: 10", f"authorization: Bearer {KEY}x"], 401),
        (["content-length: 99999999", f"authorization: Bearer {KEY}"], 413),
        (["content-length: 10", f"authorization: Bearer {KEY}", "content-type: text/plain"], 415),
    ],
)
def test_who_is_refused_hears_no_100_continue(lines: list[str], status: int) -> None:
    async def work() -> None:
        async with gateway(auth=KEYS) as running:
            reply = await answer_to(running, post("expect: 100-continue", *lines))
            assert reply.status == status

    run(work)


def test_100_continue_is_not_sent_to_a_client_of_version_1_0() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(post("expect: 100-continue", f"content-length: {len(BODY)}", version="1.0") + BODY[:5])
            await asyncio.sleep(0.05)
            await client.send(BODY[5:])
            assert (await client.reply()).status == 200

    run(work)


def test_authentication_is_decided_before_the_body_is_there() -> None:
    async def work() -> None:
        async with gateway(auth=KEYS) as running:
            for lines in (["content-length: 1000"], ["transfer-encoding: chunked"]):
                reply = await answer_to(running, post(*lines))
                check_error(reply, 401, "unauthenticated")
                assert reply.headers["connection"] == "close"
            assert {entry.code for entry in running.entries()} == {"unauthenticated"}

    run(work)


def test_a_refusal_after_the_whole_body_keeps_the_connection() -> None:
    async def work() -> None:
        async with gateway(auth=KEYS) as running, connect(running.port) as client:
            for _ in range(2):
                await client.send(request_bytes(chat()))
                check_error(await client.reply(), 401, "unauthenticated")
            await client.send(request_bytes(chat(), headers={"x-api-key": KEY}))
            assert (await client.reply()).status == 200

    run(work)


# --- connections -----------------------------------------------------------------------------------------------------


def test_a_connection_is_reused_and_its_requests_share_its_id() -> None:
    async def work() -> None:
        async with gateway() as running:
            async with connect(running.port) as client:
                for _ in range(3):
                    await check_serves(client)
            async with connect(running.port) as client:
                await check_serves(client)
            await running.entry()
            first, *_, fourth = [entry.connection_id for entry in running.entries()]
            assert [entry.connection_id for entry in running.entries()] == [first] * 3 + [fourth]
            assert first != fourth

    run(work)


def test_an_idle_connection_is_closed() -> None:
    async def work() -> None:
        async with gateway(server={"keep_alive": 0.1}) as running, connect(running.port) as client:
            await check_serves(client)
            assert await client.reader.read() == b""

    run(work)


@pytest.mark.parametrize("value", ["close", "Close", "te, close"])
def test_a_client_that_asks_for_it_is_closed_after_its_answer(value: str) -> None:
    async def work() -> None:
        async with gateway() as running:
            reply = await answer_to(running, request_bytes(chat("mock?tokens=3"), headers={"connection": value}))
            assert (reply.status, reply.complete, reply.headers["connection"]) == (200, True, "close")

    run(work)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_of_version_1_0_gets_a_body_that_ends_with_the_connection(stream: bool) -> None:
    async def work() -> None:
        async with gateway() as running:
            body = json.dumps(chat("mock?tokens=3", stream=stream)).encode()
            head = post(f"content-length: {len(body)}", "connection: keep-alive", version="1.0", host="")
            reply = await answer_to(running, head + body)
            assert reply.status == 200
            assert "transfer-encoding" not in reply.headers
            assert reply.headers["connection"] == "close"
            if stream:
                assert "content-length" not in reply.headers
                assert reply.events()[-1] == "[DONE]"
            else:
                assert reply.json()["object"] == "chat.completion"

    run(work)


def test_a_request_that_was_on_its_way_when_the_drain_began_is_refused_and_closed() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            whole = request_bytes(chat())
            await client.send(whole[:20])
            await until(lambda: any(connection._pending for connection in running.tidegate.edge.connections))
            stopping = asyncio.ensure_future(running.tidegate.stop(delay_s=0))
            await until(lambda: running.tidegate.edge.closing)
            await client.send(whole[20:])
            reply = await client.reply()
            check_error(reply, 503, "draining")
            assert reply.headers["connection"] == "close"
            assert reply.headers["retry-after"] in {"1", "2"}
            await stopping

    run(work)


# --- request ids -----------------------------------------------------------------------------------------------------


def test_a_request_id_is_echoed_and_recorded() -> None:
    async def work() -> None:
        async with gateway() as running:
            reply = await ask(running.port, chat(), headers={"x-request-id": "my-id/1"})
            assert reply.headers["x-request-id"] == "my-id/1"
            assert (await running.entry()).request_id == "my-id/1"

    run(work)


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "\xe9"])
def test_a_request_id_that_cannot_be_logged_is_replaced(given: str) -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(post(f"x-request-id: {given}", f"content-length: {len(BODY)}") + BODY)
            made = (await client.reply()).headers["x-request-id"]
            assert uuid.UUID(made).version == 7
            assert (await running.entry()).request_id == made

    run(work)
