"""How the mock behaves over real sockets: pace, failures, requests it refuses, connections, counters, back-pressure."""

import asyncio
import json
import ssl
import subprocess
from pathlib import Path
from typing import cast

import pytest
import uvloop
from mock_client import PATIENCE_S, Mock, Reply, ask, body, request, running, with_mock

from tidegate.mock.server import MOST_BODY_BYTES, MOST_HEAD_BYTES, MOST_WAITING, MockProvider, serve

QUIET_S = 0.25
"""How long a test listens before it believes that nothing comes."""


# How bytes are written


async def _fragments(mock: Mock, query: str, stream: bool) -> list[bytes]:
    """Give what each write of the mock held, as the transport was told."""
    arrived: list[bytes] = []
    done = asyncio.Event()

    class Listener(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            arrived.append(data)
            if b"".join(arrived[-8:]).endswith((b"0\r\n\r\n", b"}")):
                done.set()

    transport, _ = await asyncio.get_running_loop().create_connection(Listener, "127.0.0.1", mock.port)
    transport.write(request(body(query, stream=stream)))
    async with asyncio.timeout(PATIENCE_S):
        await done.wait()
    transport.abort()
    return arrived


@pytest.mark.parametrize("stream", [True, False])
def test_cut_spreads_the_same_answer_over_many_small_writes(stream: bool) -> None:
    async def scenario(mock: Mock) -> tuple[list[bytes], Reply]:
        return await _fragments(mock, "cut=7&tokens=3&usage=no", stream), await mock.ask(
            "cut=7&tokens=3", stream=stream
        )

    fragments, reply = with_mock(scenario)
    assert reply.ended == "complete"
    assert reply.data()[-1:] == ["[DONE]"] if stream else reply.json()
    # The kernel may glue some together on their way; all of them it does not.
    assert len(fragments) > 10


def test_drip_writes_a_byte_at_a_time() -> None:
    async def scenario(mock: Mock) -> list[bytes]:
        return await _fragments(mock, "drip&tokens=0&usage=no", stream=False)

    fragments = with_mock(scenario)
    assert b"".join(fragments).endswith(b"}")
    assert sum(len(fragment) == 1 for fragment in fragments) > 100


@pytest.mark.parametrize("stream", [True, False])
def test_cut_does_not_change_the_bytes(stream: bool) -> None:
    plain, cut = ask("tokens=5", stream=stream), ask("tokens=5&cut=1", stream=stream)
    assert len(plain.wire) == len(cut.wire)
    assert [plain.text()] == [cut.text()] if stream else plain.json()["choices"] == cut.json()["choices"]


def test_paced_tokens_come_in_writes_of_their_own() -> None:
    async def scenario(mock: Mock) -> list[bytes]:
        return await _fragments(mock, "ttft=2ms&itl=3ms~1ms&tokens=12", stream=True)

    fragments = with_mock(scenario)
    assert b"".join(fragments).count(b"data: ") == 1 + 12 + 1 + 1
    assert len(fragments) > 6


@pytest.mark.parametrize("query", ["ttft=300ms&tokens=1", "itl=120ms&tokens=3"])
def test_comments_fill_the_silence(query: str) -> None:
    reply = ask(f"{query}&comments=20")
    assert reply.body.count(b": ping\n\n") >= 3
    assert reply.ended == "complete"


def test_comments_go_on_while_a_stream_stalls() -> None:
    async def scenario(mock: Mock) -> None:
        peer = await mock.connect()
        peer.writer.write(request(body("fail=stall&fail_at=1&comments=5")))
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(5):
                await peer.reader.readuntil(b": ping\n\n")

    with_mock(scenario)


def test_there_are_no_comments_without_silence() -> None:
    assert b": ping" not in ask("comments=20").body


@pytest.mark.parametrize("stream", [True, False])
def test_a_whole_answer_takes_as_long_as_its_tokens(stream: bool) -> None:
    reply = ask("ttft=5s", stream=stream, silence_s=QUIET_S)
    assert reply.ended == "silent"
    # A stream has sent its head and role already; a whole answer has nothing to say before it is whole.
    assert (reply.status, len(reply.deltas())) == ((200, 1) if stream else (0, 0))


# Failures


@pytest.mark.parametrize("fail_at", [0, 3, 5])
@pytest.mark.parametrize(
    ("fail", "ended"),
    [
        ("reset", "reset"),
        ("eof", "complete"),
        ("truncate", "truncated"),
        ("error", "complete"),
        ("garbage", "malformed"),
        ("stall", "silent"),
    ],
)
@pytest.mark.parametrize("pace", ["", "&itl=2ms", "&cut=50"])
def test_a_stream_fails_before_the_token_it_was_told(fail: str, ended: str, fail_at: int, pace: str) -> None:
    reply = ask(f"tokens=5&fail={fail}&fail_at={fail_at}{pace}", silence_s=QUIET_S if fail == "stall" else PATIENCE_S)
    assert (reply.status, reply.ended) == (200, ended)
    assert len(reply.text().split()) == fail_at
    assert "[DONE]" not in reply.data()
    assert ("error" in json.loads(reply.data()[-1])) == (fail == "error")


def test_an_end_without_any_frame_can_be_had() -> None:
    reply = ask("fail=eof&role_only=0")
    assert (reply.status, reply.ended, reply.body) == (200, "complete", b"")


def test_fail_at_beyond_the_tokens_is_a_400_that_names_it() -> None:
    for stream in (True, False):
        reply = ask("tokens=5&fail=eof&fail_at=6", stream=stream)
        assert (reply.status, reply.json()["error"]["param"]) == (400, "fail_at")


@pytest.mark.parametrize(
    ("fail", "ended"),
    [("reset", "reset"), ("eof", "complete"), ("truncate", "truncated"), ("garbage", "malformed"), ("stall", "silent")],
)
@pytest.mark.parametrize("fail_at", [0, 3])
def test_a_whole_answer_fails_in_the_middle(fail: str, ended: str, fail_at: int) -> None:
    reply = ask(
        f"tokens=5&fail={fail}&fail_at={fail_at}", stream=False, silence_s=QUIET_S if fail == "stall" else PATIENCE_S
    )
    assert (reply.status, reply.ended) == (200, ended)
    assert (len(reply.body) > 0) == (fail_at > 0)
    with pytest.raises(ValueError):
        reply.json()


@pytest.mark.parametrize("query", ["json_error", "fail=error"])
def test_an_error_object_in_a_200(query: str) -> None:
    for stream in (True, False) if query == "json_error" else (False,):
        reply = ask(query, stream=stream)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        assert reply.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "code"), [(401, "invalid_api_key"), (404, "model_not_found"), (429, "rate_limit_exceeded"), (503, None)]
)
def test_status_answers_with_an_error_object(status: int, code: str | None, stream: bool) -> None:
    reply = ask(f"status={status}&retry_after=2", stream=stream)
    assert (reply.status, reply.headers["retry-after"]) == (status, "2")
    assert reply.json()["error"]["code"] == code
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}


def test_nodone_ends_cleanly_after_the_finish_reason() -> None:
    reply = ask("nodone&tokens=2")
    assert reply.ended == "complete"
    assert json.loads(reply.data()[-1])["choices"][0]["finish_reason"] == "stop"


def test_reject_resets_before_any_byte() -> None:
    reply = ask("reject")
    assert (reply.ended, reply.wire) == ("reset", b"")


def test_stall_head_sends_nothing_at_all() -> None:
    reply = ask("stall=head", silence_s=QUIET_S)
    assert (reply.ended, reply.wire) == ("silent", b"")


# Asking


@pytest.mark.parametrize("way", ["model", "user", "header"])
def test_a_query_may_come_by_model_user_or_header(way: str) -> None:
    async def scenario(mock: Mock) -> Reply:
        content = body("tokens=2" if way == "model" else "", **({"user": "tokens=2"} if way == "user" else {}))
        header = "X-Mock: tokens=2&itl=1ms±1ms\r\n" if way == "header" else ""
        return await (await mock.connect()).exchange(request(content, headers=header))

    assert len(with_mock(scenario).text().split()) == 2


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_header_may_say_plus_or_minus_in_either_encoding(encoding: str) -> None:
    async def scenario(mock: Mock) -> Reply:
        content = body()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: m\r\ncontent-length: {len(content)}\r\n"
        knobs = "x-mock: tokens=2&itl=1ms±1ms\r\n\r\n".encode(encoding)
        return await (await mock.connect()).exchange(head.encode() + knobs + content)

    assert len(with_mock(scenario).text().split()) == 2


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (b"{", None),
        (b"\xff", None),
        (b"[]", None),
        (b'{"messages":[{"role":"user","content":"x"}]}', "model"),
        (b'{"model":"","messages":[{"role":"user","content":"x"}]}', "model"),
        (b'{"model":"mock"}', "messages"),
        (b'{"model":"mock","messages":[]}', "messages"),
        (b'{"model":"mock","messages":[{"role":"user","content":3}]}', "messages"),
        (b'{"model":"mock","messages":[{"role":"user"}],"n":0}', "n"),
        (b'{"model":"mock","messages":[{"role":"user"}],"n":17}', "n"),
        (b'{"model":"mock","messages":[{"role":"user"}],"stream":"yes"}', "stream"),
        (b'{"model":"mock?tokns=1","messages":[{"role":"user"}]}', "tokns"),
        (b'{"model":"mock?tokens=20000","n":16,"messages":[{"role":"user"}]}', "tokens"),
    ],
)
def test_a_request_that_cannot_be_obeyed_is_a_400_that_names_the_member(content: bytes, param: str | None) -> None:
    async def scenario(mock: Mock) -> tuple[Reply, Reply]:
        peer = await mock.connect()
        return await peer.exchange(request(content)), await peer.exchange(request(body("tokens=1")))

    refused, after = with_mock(scenario)
    assert (refused.status, refused.json()["error"]["param"]) == (400, param)
    assert after.status == 200


def test_image_parts_and_empty_contents_are_understood() -> None:
    parts = [
        {"type": "text", "text": "12345678"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": None}]
    assert ask("tokens=1", stream=False, messages=messages).json()["usage"]["prompt_tokens"] == 2


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/stats", 200),
        ("POST", "/chat/completions", 200),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/embeddings", 405),
        ("GET", "/model/mock/converse", 405),
        ("POST", "/api/tags", 405),
        ("POST", "/v1/audio/speech", 404),
        ("PUT", "/nowhere", 404),
    ],
)
def test_paths_and_methods(method: str, path: str, status: int) -> None:
    async def scenario(mock: Mock) -> Reply:
        return await (await mock.connect()).exchange(request(body("tokens=1"), path, method=method))

    reply = with_mock(scenario)
    assert reply.status == status
    assert ("allow" in reply.headers) == (status == 405)


def test_the_list_of_models_names_the_mock() -> None:
    async def scenario(mock: Mock) -> Reply:
        return await (await mock.connect()).exchange(request(b"", "/v1/models", method="GET"))

    assert [model["id"] for model in with_mock(scenario).json()["data"]] == ["mock"]


# The connection


def test_a_connection_serves_one_request_after_another() -> None:
    async def scenario(mock: Mock) -> tuple[list[str], int]:
        peer = await mock.connect()
        queries = ("tokens=1", "fail=eof", "status=429", "nonsense=1", "itl=1ms&tokens=2")
        replies = [await peer.exchange(request(body(query))) for query in queries]
        return [reply.ended for reply in replies], mock.stats.connections

    assert with_mock(scenario) == (["complete"] * 5, 1)


def test_pipelined_requests_are_answered_in_order() -> None:
    async def scenario(mock: Mock) -> list[int]:
        peer = await mock.connect()
        peer.writer.write(b"".join(request(body(f"itl=1ms&tokens={count}")) for count in range(1, 6)))
        return [len((await peer.read_reply()).text().split()) for _ in range(5)]

    assert with_mock(scenario) == [1, 2, 3, 4, 5]


def test_too_many_pipelined_requests_end_the_connection() -> None:
    async def scenario(mock: Mock) -> int:
        peer = await mock.connect()
        peer.writer.write(request(body("stall=head")) * (2 + MOST_WAITING))
        await peer.is_closed()
        return mock.stats.open

    assert with_mock(scenario) == 0


def test_a_body_may_come_in_chunks_after_a_continue() -> None:
    async def scenario(mock: Mock) -> Reply:
        peer = await mock.connect()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n"
        peer.writer.write(head)
        assert (await peer.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        content = body("tokens=2")
        peer.writer.write(b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (content[:5], len(content) - 5, content[5:]))
        return await peer.read_reply()

    assert with_mock(scenario).data()[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n" + bytes(MOST_BODY_BYTES + 1), 413),
    ],
)
def test_what_is_not_http_or_too_large_is_refused_and_the_connection_ends(data: bytes, status: int) -> None:
    async def scenario(mock: Mock) -> None:
        peer = await mock.connect()
        assert (await peer.exchange(data)).status == status
        assert await peer.is_closed()

    with_mock(scenario)


def test_a_head_without_end_is_refused_and_the_connection_ends() -> None:
    async def scenario(mock: Mock) -> None:
        peer = await mock.connect()
        peer.writer.write(b"GET / HTTP/1.1\r\nx: ")
        await mock.wait_until(lambda: any(connection._head_began for connection in mock.provider._connections))
        (connection,) = mock.provider._connections
        while connection._head_bytes <= MOST_HEAD_BYTES - 4096:
            before = connection._head_bytes
            peer.writer.write(b"y" * 4096)
            await mock.wait_until(lambda: connection._head_bytes == before + 4096)  # noqa: B023 (awaited here)
        assert (await peer.exchange(b"y" * 4096)).status == 431
        assert await peer.is_closed()

    with_mock(scenario)


def test_a_large_body_before_the_next_request_is_not_counted_as_its_head() -> None:
    async def scenario(mock: Mock) -> list[int]:
        peer = await mock.connect()
        large = request(body("tokens=1", messages=[{"role": "user", "content": "x" * 1_000_000}]))
        peer.writer.write(large * 3)
        return [(await peer.read_reply()).status for _ in range(3)]

    assert with_mock(scenario) == [200, 200, 200]


# Counters


def test_stats_say_what_was_started_completed_cancelled_and_is_open() -> None:
    async def scenario(mock: Mock) -> list[dict[str, int]]:
        seen = []

        async def look() -> None:
            peer = await mock.connect()
            seen.append((await peer.exchange(request(b"", "/stats", method="GET"))).json())
            peer.abort()

        await mock.ask("tokens=1")
        stalled = await mock.connect()
        await stalled.exchange(request(body("fail=stall")), QUIET_S)
        await look()
        stalled.abort()
        await mock.wait_until(lambda: mock.stats.open == 0)
        await look()
        return seen

    first, second = with_mock(scenario)
    assert first == {"started": 2, "completed": 1, "cancelled": 0, "open": 1, "connections": 3}
    assert second == {"started": 2, "completed": 1, "cancelled": 1, "open": 0, "connections": 4}


@pytest.mark.parametrize(
    "query",
    ["itl=20ms&tokens=1000", "ttft=60s", "stall=head", "drip&tokens=1000", "tokens=20000", "fail=stall&comments=5"],
)
def test_a_client_that_leaves_is_counted_as_cancelled(query: str) -> None:
    async def scenario(mock: Mock) -> tuple[int, int, int]:
        peer = await mock.connect()
        peer.writer.write(request(body(query)))
        await mock.wait_until(lambda: mock.stats.open == 1)
        peer.abort()
        await mock.wait_until(lambda: mock.stats.open == 0)
        return mock.stats.started, mock.stats.completed, mock.stats.cancelled

    assert with_mock(scenario) == (1, 0, 1)


def test_the_last_requests_are_kept_as_they_came() -> None:
    async def scenario(mock: Mock) -> None:
        content = body("tokens=1")
        peer = await mock.connect()
        for _ in range(70):
            await peer.exchange(request(content, headers="X-Canary: one\r\n"))
        assert len(mock.stats.requests) == 64
        target, headers, got = mock.stats.requests[-1]
        assert (target, got) == ("/v1/chat/completions", content)
        assert (b"X-Canary", b"one") in headers

    with_mock(scenario)


def test_large_requests_push_older_ones_out() -> None:
    async def scenario(mock: Mock) -> int:
        peer = await mock.connect()
        content = body("tokens=1", messages=[{"role": "user", "content": "x" * 30_000_000}])
        for _ in range(4):
            await peer.exchange(request(content))
        return len(mock.stats.requests)

    assert with_mock(scenario) == 2


# Back-pressure


@pytest.mark.parametrize("query", ["tokens=20000", "tokens=20000&bigframe=8MiB", "tokens=20000&itl=1us"])
def test_a_client_that_does_not_read_holds_the_stream_and_then_gets_all_of_it(query: str) -> None:
    async def scenario(mock: Mock) -> Reply:
        peer = await mock.connect()
        reading = cast(asyncio.Transport, peer.writer.transport)
        reading.pause_reading()
        peer.writer.write(request(body(query)))
        await mock.wait_until(lambda: any(connection._paused for connection in mock.provider._connections))
        await asyncio.sleep(0.05)
        (connection,) = mock.provider._connections
        assert connection._transport.get_write_buffer_size() < (9 * 1024 if "bigframe" in query else 256) * 1024
        assert mock.stats.open == 1
        reading.resume_reading()
        reply = await peer.read_reply()
        await mock.wait_until(lambda: mock.stats.completed == 1)
        return reply

    reply = with_mock(scenario)
    assert reply.ended == "complete"
    assert len(reply.data()) == 20_000 + 3


# Life


def test_the_same_seed_gives_the_same_answers_and_another_seed_others() -> None:
    assert ask("tokens=30", seed=7).chunks()[0]["id"] == ask("tokens=30", seed=7).chunks()[0]["id"]
    assert ask("tokens=30", seed=7).text() == ask("tokens=30", seed=7).text() != ask("tokens=30", seed=8).text()


def test_two_answers_have_two_ids() -> None:
    async def scenario(mock: Mock) -> set[str]:
        replies = [await mock.ask("tokens=1") for _ in range(5)] + [await mock.ask("tokens=1", stream=False)]
        return {(reply.chunks() or [json.loads(reply.body)])[0]["id"] for reply in replies}

    assert len(with_mock(scenario)) == 6


def test_closing_drops_running_streams_and_frees_the_port() -> None:
    async def scenario() -> None:
        async with running() as mock:
            peer = await mock.connect()
            peer.writer.write(request(body("fail=stall")))
            await mock.wait_until(lambda: mock.stats.open == 1)
            await mock.provider.close()
            assert (mock.stats.open, mock.stats.cancelled) == (0, 1)
            again = MockProvider()
            assert await again.start(port=mock.port) == mock.port
            await again.close()

    uvloop.run(scenario())


def test_it_works_on_the_loop_of_the_standard_library_too() -> None:
    async def scenario() -> list[str]:
        async with running() as mock:
            queries = ("tokens=3", "itl=1ms&tokens=3", "fail=reset&fail_at=2", "cut=100", "fail=truncate&fail_at=1")
            return [(await mock.ask(query)).ended for query in queries]

    assert asyncio.run(scenario()) == ["complete", "complete", "reset", "complete", "truncated"]


def test_serve_runs_until_cancelled_and_then_frees_the_port() -> None:
    async def scenario() -> None:
        probe = MockProvider()
        port = await probe.start()
        await probe.close()
        serving = asyncio.ensure_future(serve("127.0.0.1", port))
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.005)
        writer.transport.abort()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    uvloop.run(scenario())


def test_it_speaks_tls_and_resets_there_too(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", key, "-out", cert, *subject], check=True, capture_output=True,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    trusting = ssl.create_default_context(cafile=str(cert))

    async def exchange(port: int, query: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        try:
            writer.write(request(body(query)))
            return await reader.readuntil(b"0\r\n\r\n")
        finally:
            writer.transport.abort()

    async def scenario() -> None:
        provider = MockProvider()
        port = await provider.start(ssl=server)
        try:
            assert b"[DONE]" in await exchange(port, "tokens=3")
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await exchange(port, "tokens=3&fail=reset&fail_at=2")
        finally:
            await provider.close()

    uvloop.run(scenario())
