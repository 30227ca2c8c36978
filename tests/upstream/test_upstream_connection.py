"""How answers are read off a provider's connection: framing, limits, early ends, reuse."""

import json

import pytest

from harness import ask, chat, connect, request_bytes, run, until
from streams import (
    DONE,
    HELLO,
    MESSAGE,
    ROLE,
    Script,
    answer,
    answering,
    check_broken_off,
    chunked,
    closing,
    error_of,
    fronting,
    payload,
    pool_of,
    stalling,
    streamed,
    word,
)
from tidegate.testing.upstream import HEAD, LAST, Peer, chunk

PLAIN = chat(stream=False)
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
WHOLE = json.dumps(MESSAGE).encode()


def head_for(body: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join((b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *lines, b"", b""))


async def serve(script: Script, *bodies: object) -> tuple[list[tuple[int, bytes, bool, str]], int]:
    """Ask one after another; gives status, body, completeness and the code of each, and how many connections it took."""
    found = []
    async with fronting(script) as (running, upstream):
        for body in bodies:
            reply = await ask(running.port, body)
            entry = await running.entry()
            found.append((reply.status, reply.body, reply.complete, entry.code))
        return found, len(upstream.peers)


@pytest.mark.parametrize(
    "said",
    [
        answer(200, MESSAGE),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(WHOLE[:9]) + chunk(WHOLE[9:]) + LAST,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
        + b"%x;ext=1\r\n%b\r\n" % (len(WHOLE), WHOLE)
        + b"0\r\nx-trailer: 1\r\n\r\n",
    ],
    ids=["content-length", "chunked", "extensions and trailers"],
)
def test_a_framed_body_is_read_and_its_connection_serves_the_next_request(said: bytes) -> None:
    async def work() -> None:
        found, connections = await serve(answering(said), PLAIN, PLAIN)
        assert found == [(200, WHOLE, True, "completed")] * 2
        assert connections == 1

    run(work)


def test_a_body_without_framing_ends_with_its_connection() -> None:
    async def work() -> None:
        found, connections = await serve(closing(b"HTTP/1.1 200 OK\r\n\r\n", WHOLE), PLAIN, PLAIN)
        assert found == [(200, WHOLE, True, "completed")] * 2
        assert connections == 2
        found, _ = await serve(closing(UNTIL_CLOSE, *HELLO), chat())
        assert found == [(200, payload(*HELLO), True, "completed")]

    run(work)


def test_connection_close_and_http_1_0_are_not_reused() -> None:
    async def work() -> None:
        for said in (
            answer(200, MESSAGE, "connection: close"),
            answer(200, MESSAGE).replace(b"HTTP/1.1", b"HTTP/1.0"),
        ):
            found, connections = await serve(answering(said), PLAIN, PLAIN)
            assert [code for *_, code in found] == ["completed"] * 2
            assert connections == 2

    run(work)


def test_interim_answers_are_passed_over() -> None:
    async def work() -> None:
        interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\nset-cookie: x=1\r\n\r\n"
        found, connections = await serve(answering(interim + streamed(*HELLO)), chat(), chat())
        assert found == [(200, payload(*HELLO), True, "completed")] * 2
        assert connections == 1

    run(work)


def test_switching_protocols_is_not_an_answer() -> None:
    async def work() -> None:
        found, _ = await serve(
            answering(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"), PLAIN
        )
        assert (found[0][0], found[0][3]) == (502, "bad_frame")

    run(work)


@pytest.mark.parametrize("cut", [1, 2, 7, 100])
def test_an_answer_does_not_depend_on_how_its_bytes_were_cut(cut: int) -> None:
    said = b"HTTP/1.1 100 Continue\r\n\r\n" + streamed(*HELLO)

    async def work() -> None:
        found, connections = await serve(
            answering(*(said[start : start + cut] for start in range(0, len(said), cut))), chat(), chat()
        )
        assert found == [(200, payload(*HELLO), True, "completed")] * 2
        assert connections == 1

    run(work)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"", "connect_reset"),
        (b"HTTP/1.1 200 OK\r\ncontent-", "connect_reset"),
        (answer(200, MESSAGE)[:-1], "upstream_truncated"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(WHOLE), "upstream_truncated"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "bad_frame"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "bad_frame"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\nHello", "bad_frame"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 300_000 + b"\r\n\r\n", "bad_frame"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 12_000, "bad_frame"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"e" * 300_000 + b"\r\n{\r\n", "bad_frame"),
    ],
    ids=[
        "nothing", "half a head", "short body", "no last chunk", "not HTTP", "no size", "two lengths", "long head",
        "endless interims", "long extension",
    ],
)  # fmt: skip
def test_a_spoilt_answer_is_a_502_with_its_code(said: bytes, code: str) -> None:
    async def work() -> None:
        found, _ = await serve(closing(said), PLAIN)
        assert (found[0][0], found[0][3]) == (502, code)
        assert json.loads(found[0][1])["error"]["code"] == code

    run(work)


def test_a_stream_without_its_last_chunk_is_truncated_unless_it_said_done() -> None:
    async def work() -> None:
        async with fronting(closing(chunked(ROLE, word("Hel")))) as (running, _):
            check_broken_off(await ask(running.port, chat()), "upstream_truncated", ROLE, word("Hel"))
        found, _ = await serve(closing(chunked(*HELLO)), chat())
        assert found == [(200, payload(*HELLO), True, "completed")]

    run(work)


@pytest.mark.parametrize(
    "extra", [b"garbage", answer(200, {"leaked": True}), b"\x00\x01"], ids=["garbage", "answer", "binary"]
)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
def test_bytes_behind_an_answer_never_reach_anybody(extra: bytes, late: bool) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            said = answer(200, MESSAGE)
            if late:
                await peer.send(said)
                await peer.send(extra)
            else:
                await peer.send(said + extra)

    async def work() -> None:
        async with fronting(script) as (running, upstream):
            async with connect(running.port) as client:
                for _ in range(3):
                    await client.send(request_bytes(PLAIN))
                    reply = await client.reply()
                    assert (reply.status, reply.body) == (200, WHOLE)
                    await until(lambda: pool_of(running).counts() == (0, 0))
            assert len(upstream.peers) == 3
            assert {entry.code for entry in running.entries()} == {"completed"}

    run(work)


def test_bytes_behind_a_stream_do_not_spoil_it_and_close_the_connection() -> None:
    async def work() -> None:
        found, connections = await serve(
            answering(streamed(*HELLO) + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nleaked"), chat(), chat()
        )
        assert found == [(200, payload(*HELLO), True, "completed")] * 2
        assert connections == 2

    run(work)


def test_a_connection_is_reused_when_the_body_ends_shortly_after_the_stream() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(chunked(*HELLO))
            await peer.send(LAST)

    async def work() -> None:
        found, connections = await serve(script, chat(), chat(), chat())
        assert [code for *_, code in found] == ["completed"] * 3
        assert connections == 1

    run(work)


@pytest.mark.parametrize("after", [b"", chunk(b": more\n\n" * 20_000)], ids=["silence", "a body that goes on"])
def test_a_connection_whose_body_does_not_end_after_the_stream_is_closed(after: bytes) -> None:
    async def work() -> None:
        async with fronting(stalling(chunked(*HELLO), after)) as (running, upstream):
            reply = await ask(running.port, chat())
            assert (reply.body, reply.complete) == (payload(*HELLO), True)
            await until(lambda: pool_of(running).counts() == (0, 0))
            reply = await ask(running.port, chat())
            assert reply.body == payload(*HELLO)
            assert len(upstream.peers) == 2

    run(work)


def test_a_head_that_says_not_modified_or_no_content_has_no_body() -> None:
    async def work() -> None:
        async with fronting(answering(b"HTTP/1.1 204 No Content\r\n\r\n")) as (running, upstream):
            for _ in range(2):
                reply = await ask(running.port, PLAIN)
                assert (reply.status, error_of(reply)["code"]) == (502, "empty_stream")
            assert len(upstream.peers) == 1

    run(work)


def test_frames_may_be_cut_by_chunks_anywhere() -> None:
    async def work() -> None:
        whole = payload(*HELLO)
        said = HEAD + b"".join(chunk(whole[start : start + 13]) for start in range(0, len(whole), 13)) + LAST
        found, _ = await serve(answering(said), chat())
        assert found == [(200, whole, True, "completed")]
        assert whole.endswith(DONE)

    run(work)


def test_the_head_in_front_of_a_body_may_come_alone() -> None:
    async def work() -> None:
        found, connections = await serve(answering(head_for(WHOLE), WHOLE), PLAIN, PLAIN)
        assert found == [(200, WHOLE, True, "completed")] * 2
        assert connections == 1

    run(work)
