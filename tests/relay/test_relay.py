"""A stream on its way to its client: what arrives, what is added, and how it ends when the provider fails."""

import asyncio
import functools
import json
from pathlib import Path

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import Running, ask, chat, connect, request_bytes, run
from streams import (
    DONE,
    FINISH,
    HELLO,
    ROLE,
    Steps,
    answering,
    check_broken_off,
    chunked,
    closing,
    delta,
    frame,
    fronting,
    payload,
    settled,
    stalling,
    streamed,
    whole_reply,
    word,
)
from tidegate.exchange import Ending
from tidegate.testing.upstream import HEAD, LAST, Peer, chunk
from tidegate.verdict import SERVER_SHUTDOWN

GOLDEN = Path(__file__).parents[1] / "golden" / "openai"
HEARTBEAT = b": heartbeat\n"
BEATS = {"heartbeat": 0.05}
ERROR = frame({"error": {"message": "It broke.", "type": "overloaded_error", "code": 503}})


# --- failures in mid-stream ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (chunk(ERROR) + LAST, "upstream_error_frame"),
        (chunk(ERROR) + chunk(DONE) + LAST, "upstream_error_frame"),
        (LAST, "upstream_truncated"),
        (b"", "upstream_truncated"),
        (chunk(b'data: {"choices": [{"de'), "upstream_truncated"),
        (chunk(b'data: {"choices": [{"de') + LAST, "upstream_truncated"),
        (b"zz;not a chunk\r\n", "bad_frame"),
        (b"10\r\ndata: longer than it says\r\n", "bad_frame"),
        (chunk(b'data: {"error": broken}\n\n'), "bad_frame"),
        (chunk(b"data: " + b"x" * 5_000_000), "bad_frame"),
    ],
    ids=[
        "error", "error and done", "clean end", "end of file", "half a frame", "half a frame, clean end",
        "malformed chunk", "chunk too long", "unreadable frame", "endless frame",
    ],
)  # fmt: skip
def test_what_arrived_is_followed_by_one_error_frame_and_a_clean_end(end: bytes, code: str) -> None:
    async def work() -> None:
        for apart in (True, False):
            begun = chunked(ROLE, word("Hel"))
            steps = Steps(begun, end) if apart else Steps(begun + end)
            async with fronting(steps) as (running, _), connect(running.port) as client:
                await client.send(request_bytes(chat()))
                reply = await whole_reply(client, b'"Hel"}', then=steps.run_out)
                if len(end) > 1_000_000:
                    assert not reply.complete, "pieces of the frame were passed on, so it cannot end cleanly"
                else:
                    check_broken_off(reply, code, ROLE, word("Hel"))
                assert (await running.entry()).code == code
                await settled(running, connections=int(reply.complete))

    run(work)


def test_an_error_frame_keeps_the_provider_s_words_and_kind() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(word("Hel"), ERROR))) as (running, _):
            error = check_broken_off(await ask(running.port, chat()), "upstream_error_frame", word("Hel"))
            assert (error["message"], error["type"]) == ("It broke.", "overloaded_error")

    run(work)


def test_a_reset_in_mid_stream_is_one_error_frame() -> None:
    async def work() -> None:
        steps = Steps(chunked(ROLE, word("Hel")), resets=True)
        async with fronting(steps) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(chat()))
            reply = await whole_reply(client, b'"Hel"}', then=steps.go_on)
            check_broken_off(reply, "upstream_reset", ROLE, word("Hel"))
            entry = await running.entry()
            assert (entry.code, entry.usage.estimated, entry.usage.output_tokens > 0) == ("upstream_reset", True, True)

    run(work)


def test_a_client_can_go_on_after_a_broken_stream() -> None:
    async def work() -> None:
        async with fronting(closing(chunked(word("Hel")))) as (running, _), connect(running.port) as client:
            for _ in range(3):
                await client.send(request_bytes(chat()))
                check_broken_off(await client.reply(), "upstream_truncated", word("Hel"))

    run(work)


def test_shutdown_in_mid_stream_is_one_error_frame() -> None:
    async def work() -> None:
        async with fronting(stalling(chunked(ROLE, word("Hel")))) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(chat()))
            end = functools.partial(running.tidegate.gateway.end_all, Ending(SERVER_SHUTDOWN))
            reply = await whole_reply(client, b'"Hel"}', then=end)
            check_broken_off(reply, "server_shutdown", ROLE, word("Hel"))

    run(work)


# --- the terminal event ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [LAST, b"", None], ids=["clean end", "no last chunk", "until close"])
def test_a_missing_done_is_added_when_the_finish_reason_was_seen(ends: bytes | None) -> None:
    async def work() -> None:
        frames = (ROLE, word("Hel"), FINISH)
        if ends is None:
            script = closing(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", *frames)
        else:
            script = closing(chunked(*frames) + ends)
        async with fronting(script) as (running, _):
            reply = await ask(running.port, chat())
            if ends == b"":
                check_broken_off(reply, "upstream_truncated", *frames)
            else:
                assert (reply.status, reply.body, reply.complete) == (200, payload(*frames, DONE), True)
                assert (await running.entry()).code == "completed"

    run(work)


def test_a_done_without_its_empty_line_is_completed() -> None:
    async def work() -> None:
        for tail in (b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n"):
            async with fronting(answering(streamed(word("Hel"), FINISH, tail))) as (running, _):
                reply = await ask(running.port, chat())
                assert reply.body == payload(word("Hel"), FINISH, DONE)

    run(work)


BOTH_FINISH = (
    b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}, '
    b'{"index": 1, "delta": {}, "finish_reason": "stop"}]}\n\n'
)


@pytest.mark.parametrize(
    ("finishes", "completes"),
    [
        ([delta({}, index=0, finish="stop")], False),
        ([delta({}, index=0, finish="stop"), delta({}, index=1, finish="length")], True),
        ([BOTH_FINISH], True),
        ([], False),
    ],
    ids=["one of two", "both", "both in one frame", "none"],
)
def test_with_several_choices_each_must_have_finished(finishes: list[bytes], *, completes: bool) -> None:
    async def work() -> None:
        frames = (word("a", 0), word("b", 1), *finishes)
        async with fronting(answering(streamed(*frames))) as (running, _):
            reply = await ask(running.port, chat(n=2))
            if completes:
                assert reply.body == payload(*frames, DONE)
            else:
                check_broken_off(reply, "upstream_truncated", *frames)

    run(work)


def test_bytes_after_done_are_not_passed_on() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(*HELLO, word("late")))) as (running, _):
            assert (await ask(running.port, chat())).body == payload(*HELLO)

    run(work)


# --- heartbeats ------------------------------------------------------------------------------------------------------


def test_in_silence_a_heartbeat_is_sent_between_two_frames() -> None:
    async def work() -> None:
        steps = Steps(chunked(ROLE, word("Hel")), chunk(word("lo")) + chunk(FINISH) + chunk(DONE) + LAST)
        async with fronting(steps, server=BEATS) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(chat()))
            reply = await whole_reply(client, HEARTBEAT, HEARTBEAT, then=steps.go_on)
            assert reply.body.startswith(payload(ROLE, word("Hel"), HEARTBEAT, HEARTBEAT))
            assert reply.body.replace(HEARTBEAT, b"") == payload(*HELLO)

    run(work)


def test_no_heartbeat_comes_before_the_first_content_or_when_they_are_off() -> None:
    async def work() -> None:
        for begun, server in ((chunked(ROLE), BEATS), (chunked(word("Hel")), {"heartbeat": 0})):
            async with fronting(stalling(begun), server=server) as (running, _), connect(running.port) as client:
                await client.send(request_bytes(chat()))
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.25):
                        await client.reader.readuntil(HEARTBEAT)

    run(work)


def test_a_heartbeat_never_lands_inside_a_frame() -> None:
    async def work() -> None:
        lo = word("lo")
        steps = Steps(chunked(word("Hel"), lo[:30]), chunk(lo[30:]) + chunk(FINISH) + chunk(DONE) + LAST)
        async with fronting(steps, server=BEATS) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(chat()))
            reply = await whole_reply(client, HEARTBEAT, then=steps.go_on)
            assert reply.body.startswith(word("Hel") + HEARTBEAT)
            assert reply.body.replace(HEARTBEAT, b"") == payload(word("Hel"), lo, FINISH, DONE)

    run(work)


def test_a_frame_too_big_to_hold_is_passed_in_pieces_and_gets_no_heartbeat_inside() -> None:
    async def work() -> None:
        big = word("x" * 600_000)
        steps = Steps(chunked(word("Hel"), big[:400_000]), chunk(big[400_000:]) + chunk(FINISH) + chunk(DONE) + LAST)
        async with fronting(steps, server=BEATS) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(chat()))
            await asyncio.sleep(0.25)
            reply = await whole_reply(client, b"x" * 10_000, then=steps.go_on)
            assert reply.body.replace(HEARTBEAT, b"") == payload(word("Hel"), big, FINISH, DONE)
            assert big in reply.body, "no heartbeat is inside the frame"

    run(work)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("eof", "upstream_truncated"),
        ("reset", "upstream_reset"),
        ("garbage", "bad_frame"),
        ("silence", "idle_timeout"),
        ("shutdown", "server_shutdown"),
    ],
)
def test_a_failure_inside_a_frame_passed_in_pieces_breaks_the_connection(end: str, code: str) -> None:
    async def work() -> None:
        big = word("x" * 600_000)
        said = b"zz\r\n" if end == "garbage" else b""
        steps = Steps(chunked(word("Hel"), big[:400_000]), said, resets=end == "reset")
        limits = {"timeouts": {"idle": 0.5 if end == "silence" else 30}}
        async with fronting(steps, provider=limits) as (running, _), connect(running.port) as client:

            def fail() -> None:
                if end == "shutdown":
                    running.tidegate.gateway.end_all(Ending(SERVER_SHUTDOWN))
                elif end != "silence":
                    steps.run_out()

            await client.send(request_bytes(chat()))
            reply = await whole_reply(client, b"x" * 10_000, then=fail)
            assert (reply.status, reply.complete) == (200, False)
            assert payload(word("Hel"), big).startswith(reply.body)
            assert (await running.entry()).code == code
            await settled(running)

    run(work)


def test_the_openai_sdk_survives_heartbeats_also_after_an_id_line() -> None:
    async def work() -> None:
        identified = b"id: 7\n" + word("Hel")
        half = word("lo")
        steps = Steps(
            chunked(identified),
            chunk(half[:20]),
            chunk(half[20:]),
            chunk(b"event: x\nid: 8\nretry: 5\n" + word("!")),
            chunk(FINISH) + chunk(DONE) + LAST,
        )
        async with fronting(steps, server=BEATS) as (running, _):
            async with openai.AsyncOpenAI(
                api_key="k", base_url=f"http://127.0.0.1:{running.port}/v1", max_retries=0
            ) as client:
                stream = await client.chat.completions.create(
                    model="mock", messages=[{"role": "user", "content": "Hi"}], stream=True
                )
                text = ""
                async with asyncio.TaskGroup() as group:
                    group.create_task(_paced(steps, 4))
                    async for event in stream:
                        text += event.choices[0].delta.content or ""
            assert text == "Hello!"
            entry = await running.entry()
            assert entry.code == "completed"
            frames = payload(identified, half, b"event: x\nid: 8\nretry: 5\n" + word("!"), FINISH, DONE)
            assert entry.bytes_out >= len(frames) + 4 * len(HEARTBEAT), "there were heartbeats in each silence"

    run(work)


async def _paced(steps: Steps, turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0.15)
        steps.go_on()


# --- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["usage", "vllm", "azure", "tools", "reasoning"])
@pytest.mark.parametrize("ends", ["lf", "crlf", "cr"])
def test_a_client_that_asks_for_usage_gets_the_provider_s_bytes(name: str, ends: str) -> None:
    said = (GOLDEN / f"{name}.sse").read_bytes().replace(b"\r\n", b"\n")
    said = said.replace(b": ping\n\n", b"")  # a comment before the first content is dropped
    said = said.replace(b"\n", {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}[ends])

    async def work() -> None:
        asked = chat(stream_options={"include_usage": True})
        async with fronting(answering(streamed(said))) as (running, upstream):
            reply = await ask(running.port, asked)
            got = reply.body
            if name == "azure":
                assert b'"prompt_filter_results"' in got, "Azure's first frame has no choices, and passes"
            assert got.rstrip(b"\r\n") == said.rstrip(b"\r\n")
            entry = await running.entry()
            assert (entry.code, entry.path) == ("completed", "raw")
            assert upstream.peers[0].requests[0][1] == json.dumps(asked).encode()

    run(work)


def test_only_the_usage_frame_is_taken_out_for_a_client_that_did_not_ask() -> None:
    said = (GOLDEN / "usage.sse").read_bytes()
    frames = [part + b"\n\n" for part in said.split(b"\n\n") if part.strip()]
    kept = [part for part in frames if b'"choices":[]' not in part]
    assert len(kept) == len(frames) - 1

    async def work() -> None:
        async with fronting(answering(streamed(*frames))) as (running, upstream):
            reply = await ask(running.port, chat())
            assert reply.body == payload(*kept)
            entry = await running.entry()
            assert (entry.path, entry.usage.input_tokens, entry.usage.output_tokens) == ("spliced", 19, 10)
            sent = json.loads(upstream.peers[0].requests[0][1])
            assert sent["stream_options"] == {"include_usage": True}

    run(work)


PIECES = st.lists(
    st.sampled_from(
        [
            word("a"), word("b" * 200), word("ü🌊"), delta({"reasoning_content": "r"}), b": comment\n\n", b"id: 3\n\n",
            b"event: x\r\ndata: {}\r\n\r\n", word('say \\"error\\": [DONE]'), ROLE, frame({"choices": [], "x": 1}),
        ]
    ),
    max_size=8,
)  # fmt: skip
FIRST = st.sampled_from([word("first"), word("first"), ROLE, b": comment\n\n", b"\xef\xbb\xbf" + ROLE])
ENDS = st.sampled_from(
    [
        (FINISH, DONE),
        (FINISH,),
        (),
        (ERROR,),
        (ERROR, DONE),
        (b'data: {"error": \n\n', word("late")),
        (b"data: no json\n\n", FINISH),
        (b"data: {",),
        (FINISH, b"data: [DONE]"),
    ]
)


def test_any_cut_of_a_stream_gives_the_client_the_same_bytes() -> None:
    """One gateway serves all examples: its provider says what the example says, cut as it says."""
    said: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            for piece in tuple(said):
                await peer.send(piece)
                await asyncio.sleep(0)

    with asyncio.Runner() as runner:
        context = fronting(script)
        running, _ = runner.run(context.__aenter__())
        try:

            @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
            @given(FIRST, PIECES, ENDS, st.data())
            def check(first: bytes, pieces: list[bytes], ends: tuple[bytes, ...], data: st.DataObject) -> None:
                frames = (first, *pieces, *ends)
                body = payload(*frames)
                cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
                parts = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
                whole, cut = (
                    runner.run(_served(running, said, [streamed(body)])),
                    runner.run(_served(running, said, [HEAD, *(chunk(part) for part in parts if part), LAST])),
                )
                assert whole == cut

            check()
        finally:
            runner.run(context.__aexit__(None, None, None))


async def _served(running: Running, said: list[bytes], pieces: list[bytes]) -> tuple[int, bytes, bool]:
    said[:] = pieces
    reply = await ask(running.port, chat())
    return reply.status, reply.body, reply.complete
