"""A stream on its way to its client: what arrives, what is added, and how it ends when the provider fails."""

import asyncio
import contextlib
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import Raw, Reply, Running, ask, chat, connect, request_bytes, run, until
from streams import (
    DONE,
    FINISH,
    HELLO,
    ROLE,
    answering,
    check_broken_off,
    chunked,
    closing,
    delta,
    frame,
    fronting,
    payload,
    pool_of,
    settled,
    stalling,
    streamed,
    word,
)
from tidegate.exchange import Ending
from tidegate.testing.upstream import HEAD, LAST, Peer, chunk
from tidegate.verdict import SERVER_SHUTDOWN

GOLDEN = Path(__file__).parents[1] / "golden" / "openai"
HEARTBEAT = b": heartbeat\n"
BEATS = {"heartbeat": 0.05}
ERROR = frame({"error": {"message": "It broke.", "type": "overloaded_error", "code": 503}})


class Steps:
    """A provider that goes on when the test says so. Shape: each step is sent after the one before it was taken."""

    def __init__(self, *steps: bytes, resets: bool = False) -> None:
        self._steps = steps
        self._resets = resets
        self._turns = asyncio.Semaphore(0)

    def go_on(self) -> None:
        self._turns.release()

    def run_out(self) -> None:
        for _ in range(len(self._steps) + 1):
            self.go_on()

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        for number, step in enumerate(self._steps):
            if number:
                await self._turns.acquire()
            await peer.send(step)
        await self._turns.acquire()
        if self._resets:
            peer.reset()


async def whole_reply(client: Raw, *markers: bytes, then: Callable[[], None] = lambda: None) -> Reply:
    """Read an answer up to each marker, do something, and read on to its end."""
    data = b"".join([await client.reader.readuntil(marker) for marker in markers])
    then()
    with contextlib.suppress(ConnectionError):
        while not data.endswith(b"\r\n0\r\n\r\n"):
            more = await client.reader.read(65536)
            if not more:
                break
            data += more
    head, _, body = data.partition(b"\r\n\r\n")
    payload, complete = unchunked(body)
    return Reply(int(head[9:12]), {}, payload, complete=complete)


def unchunked(data: bytes) -> tuple[bytes, bool]:
    """Give the payload of a chunked body, and whether it is whole."""
    parts: list[bytes] = []
    while data:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            assert data == b"\r\n"
            return b"".join(parts), True
        parts.append(data[:size])
        data = data[size + 2 :]
    return b"".join(parts), False


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


@pytest.mark.parametrize(
    ("finishes", "completes"),
    [
        ([delta({}, index=0, finish="stop")], False),
        ([delta({}, index=0, finish="stop"), delta({}, index=1, finish="length")], True),
        ([], False),
    ],
    ids=["one of two", "both", "none"],
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


# --- time ------------------------------------------------------------------------------------------------------------


def test_silence_in_mid_stream_is_idle_timeout_and_comments_do_not_count() -> None:
    async def comments(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(word("Hel")))
        while True:
            await peer.send(chunk(b": still here\n\n"))
            await asyncio.sleep(0.02)

    async def work() -> None:
        for script in (stalling(chunked(word("Hel"))), comments):
            async with fronting(script, provider={"timeouts": {"idle": 0.2}}) as (running, _):
                reply = await ask(running.port, chat())
                said = reply.body.replace(b": still here\n\n", b"")
                check_broken_off(Reply(200, {}, said, complete=reply.complete), "idle_timeout", word("Hel"))
                assert (await running.entry()).code == "idle_timeout"

    run(work)


def test_frames_keep_a_stream_alive_that_lasts_longer_than_idle() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        for _ in range(12):
            await peer.send(chunk(word("a")))
            await asyncio.sleep(0.05)
        await peer.send(chunk(FINISH), chunk(DONE), LAST)

    async def work() -> None:
        async with fronting(script, provider={"timeouts": {"idle": 0.3}}) as (running, _):
            reply = await ask(running.port, chat())
            assert reply.body == payload(*[word("a")] * 12, FINISH, DONE)

    run(work)


def test_a_stream_that_never_ends_is_total_timeout() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        while True:
            await peer.send(chunk(word("a")))
            await asyncio.sleep(0.02)

    async def work() -> None:
        async with fronting(script, provider={"timeouts": {"total": 0.3}}) as (running, _):
            reply = await ask(running.port, chat())
            assert reply.complete
            assert reply.body.count(b'"total_timeout"') == 1
            assert b"[DONE]" not in reply.body
            assert (await running.entry()).code == "total_timeout"

    run(work)


def test_silence_is_noticed_soon_after_a_slow_client_caught_up() -> None:
    """While a client is held back the provider's silence is our doing; afterwards it counts again."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        for _ in range(400):
            await peer.send(chunk(word("x" * 50_000)))
        sent.set()
        await peer.wait_closed_by_peer()

    async def work() -> None:
        limits = {"timeouts": {"idle": 0.3, "total": 0}}
        slow = {"slow_client_timeout": 60}
        async with fronting(script, provider=limits, server=slow) as (running, _), connect(running.port) as client:
            transport = cast("asyncio.ReadTransport", client.writer.transport)  # uvloop's do not inherit it
            await client.send(request_bytes(chat()))
            await client.reader.readuntil(b"x" * 1000)
            transport.pause_reading()
            await asyncio.sleep(0.6)
            assert len(running.tidegate.gateway) == 1, "no idle timeout while the client takes nothing"
            assert not sent.is_set()
            transport.resume_reading()
            async with asyncio.timeout(10):
                assert b'"idle_timeout"' in await client.reader.readuntil(b"\r\n0\r\n\r\n")

    sent = asyncio.Event()
    run(work)


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
ENDS = st.sampled_from(
    [(FINISH, DONE), (FINISH,), (), (ERROR,), (ERROR, DONE), (b"data: {",), (FINISH, b"data: [DONE]")]
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
            @given(PIECES, ENDS, st.data())
            def check(pieces: list[bytes], ends: tuple[bytes, ...], data: st.DataObject) -> None:
                frames = (word("first"), *pieces, *ends)
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


async def lent(running: Running) -> None:
    """Wait until the provider has had time to say what it says."""
    await until(lambda: pool_of(running).in_use == 1)
    await asyncio.sleep(0.05)


# --- clients that leave ----------------------------------------------------------------------------------------------


def test_a_client_that_leaves_ends_the_provider_s_work_at_once() -> None:
    async def work() -> None:
        gone = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(begun)
            await peer.wait_closed_by_peer()
            gone.set()

        for begun in (b"", chunked(ROLE), chunked(ROLE, word("Hel"))):
            gone.clear()
            async with fronting(script) as (running, _):
                async with connect(running.port) as client:
                    await client.send(request_bytes(chat()))
                    await lent(running)
                async with asyncio.timeout(5):
                    await gone.wait()
                entry = await running.entry()
                assert (entry.code, entry.status) == ("client_gone", 200 if b"Hel" in begun else 499)
                assert entry.usage.estimated == (b"Hel" in begun)
                await settled(running)

    run(work)


def test_under_finish_a_stream_goes_on_without_its_client() -> None:
    async def work() -> None:
        steps = Steps(chunked(ROLE, word("Hel")), chunked(*HELLO[2:], head=b"") + LAST)
        async with fronting(steps, server={"on_client_disconnect": "finish"}) as (running, _):
            async with connect(running.port) as client:
                await client.send(request_bytes(chat()))
                await client.reader.readuntil(b'"Hel"}')
            await until(lambda: running.tidegate.rules.finishing == 1)
            steps.go_on()
            entry = await running.entry()
            assert (entry.code, entry.finish_reason) == ("client_gone", "stop")
            await settled(running)

    run(work)


def test_a_client_that_takes_nothing_is_cut() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        while True:
            await peer.send(chunk(word("x" * 50_000)))

    async def work() -> None:
        slow = {"slow_client_timeout": 0.3}
        async with fronting(script, server=slow) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(chat()))
            await client.reader.readuntil(b"\r\n\r\n")
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            entry = await running.entry()
            assert entry.code == "client_slow"
            assert entry.blocked_s > 0
            await settled(running)

    run(work)


def test_started_is_finished_and_in_flight_at_every_moment() -> None:
    async def work() -> None:
        steps = Steps(chunked(*HELLO[:2]), chunked(*HELLO[2:], head=b"") + LAST)
        async with fronting(steps) as (running, _), connect(running.port) as client:

            def counted() -> tuple[float, float, float]:
                families = {family.name: family.samples for family in running.tidegate.metrics.families()}
                total = functools.partial(sum)
                return (
                    families["tidegate_exchanges_started"][0].value,
                    total(sample.value for sample in families["tidegate_requests"]),
                    families["tidegate_exchanges_in_flight"][0].value,
                )

            assert counted() == (0, 0, 0)
            await client.send(request_bytes(chat()))
            await client.reader.readuntil(b'"Hel"}')
            assert counted() == (1, 0, 1)
            assert (await ask(running.port, chat("unknown"))).status == 404
            assert counted() == (2, 1, 1)
            steps.go_on()
            await client.reader.readuntil(b"\r\n0\r\n\r\n")
            await settled(running, connections=1)
            assert counted() == (2, 2, 0)

    run(work)
