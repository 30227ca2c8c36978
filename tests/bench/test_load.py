import asyncio
import json
from collections.abc import Sequence

import pytest
import uvloop

from tidegate.bench.load import Order, Tally, chat_body, chat_request, play

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PATIENCE_S = 20.0
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(text: str) -> bytes:
    return chunk(f"data: {text}\n\n".encode())


THREE = (HEAD + event("role"), event("tide"), event("[DONE]") + END)


def against(
    pieces: Sequence[bytes], *, streams: int = 1, connections: int = 1, deadline_s: float = PATIENCE_S
) -> Tally:
    """Play a load against a server that answers each request with these writes; an empty one closes the connection."""

    serving = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal serving
        serving += 1
        try:
            while await reader.read(65536):
                for piece in pieces:
                    if not piece:
                        return
                    writer.write(piece)
                    await asyncio.sleep(0.01)
        except ConnectionError:
            return  # the load had enough
        finally:
            writer.close()
            serving -= 1

    async def scenario() -> Tally:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        order = Order(
            port=port, request=chat_request(chat_body("events=3"), port, "key"), events=3,
            connections=connections, streams=streams, ramp_s=0.0, deadline_s=deadline_s,
        )  # fmt: skip
        try:
            return await play(order, lambda _: None)
        finally:
            server.close()
            async with asyncio.timeout(PATIENCE_S):
                while serving:
                    await asyncio.sleep(0.002)

    return uvloop.run(scenario())


def test_streams_are_counted_whole_with_a_time_for_content_and_every_gap() -> None:
    tally = against(THREE, streams=5, connections=2)
    assert (tally.finished, tally.failed, tally.events, tally.live) == (5, 0, 15, 0)
    assert (len(tally.ttft_s), len(tally.gaps_s), tally.joined) == (5, 5, 0)
    # The content was written after the role, and the end after the content.
    assert min(tally.ttft_s) > 0.005
    assert min(tally.gaps_s) > 0.002


def test_events_that_come_in_one_read_are_counted_as_joined() -> None:
    tally = against([b"".join(THREE)])
    assert (tally.finished, tally.events, tally.joined) == (1, 3, 1)


def test_a_blank_line_cut_in_two_is_one_blank_line() -> None:
    whole = b"".join(THREE)
    cut = whole.index(b"tide\n") + len(b"tide\n")
    tally = against([whole[:cut], whole[cut:]])
    assert (tally.finished, tally.events, tally.failures) == (1, 3, [])


def test_an_end_in_a_read_of_its_own_is_an_end() -> None:
    tally = against([HEAD + event("role") + event("tide"), event("[DONE]"), END])
    assert (tally.finished, tally.failures) == (1, [])


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"], "503"),
        ([HEAD + event("role"), event("[DONE]") + END], "2 of 3 events"),
        ([HEAD + event("role"), event("tide"), event("foam") + END], "not seen"),
        ([HEAD + event("role"), event("tide"), event("foam"), event("[DONE]") + END], "4 of 3 events"),
        ([HEAD + event("role"), b""], "lost after 1 events"),
    ],
)
def test_a_stream_that_is_not_whole_is_a_failure_that_says_why(pieces: list[bytes], why: str) -> None:
    tally = against(pieces)
    assert (tally.finished, tally.failed, tally.live) == (0, 1, 0)
    assert why in tally.failures[0]


def test_a_load_ends_at_its_deadline() -> None:
    tally = against([HEAD + event("role")], streams=2, connections=2, deadline_s=0.5)
    assert tally.finished == 0
    assert "2 streams not over" in tally.failures[0]


def test_a_server_that_is_not_there_is_a_failure() -> None:
    order = Order(port=1, request=b"", events=1, connections=1, streams=1, ramp_s=0.0, deadline_s=10.0)
    tally = uvloop.run(play(order, lambda _: None))
    assert tally.failed == 1
    assert "cannot connect" in tally.failures[0]


def test_a_request_has_its_script_where_every_proxy_passes_it() -> None:
    body = chat_body("events=3&itl=5ms", padding=1024 * 1024)
    request = chat_request(body, 8080, "tg-key")
    head, _, sent = request.partition(b"\r\n\r\n")
    said = json.loads(sent)
    assert said["user"] == "mock?events=3&itl=5ms"
    assert said["model"] == "mock"
    assert said["stream_options"] == {"include_usage": True}
    assert len(sent) >= 1024 * 1024 - 64
    assert f"content-length: {len(body)}".encode() in head
    assert b"authorization: Bearer tg-key" in head


@pytest.mark.parametrize(("stream", "usage"), [(True, False), (False, True)])
def test_usage_is_asked_for_only_where_that_means_something(stream: bool, usage: bool) -> None:
    assert "stream_options" not in json.loads(chat_body("", stream=stream, usage=usage))
