"""A stream on the translated road: the client reads the same, gets whole frames, and is told how it ended."""

import asyncio
import functools
import json
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import ask, chat, connect, request_bytes, run
from streams import (
    DONE,
    FINISH,
    HELLO,
    MESSAGE,
    ROLE,
    USAGE,
    USAGE_MEMBER,
    Script,
    Steps,
    answer,
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
from tidegate.dialect.events import Event, Origin
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.exchange import Ask, Ending
from tidegate.relay.meter import Meter
from tidegate.relay.relay import RelayRules
from tidegate.relay.translate import TranslatingRelay, Translator
from tidegate.testing.memory import MemoryClient, MemorySource, open_stream
from tidegate.testing.upstream import LAST, chunk
from tidegate.verdict import CLIENT_GONE, SERVER_SHUTDOWN
from tidegate.wire import Frame, FrameError
from tidegate.wire.sse import SseFramer, split

DIALECT = OpenAIChat()
ORIGIN = Origin("request-1", "mock", 7, DIALECT.name)
HEARTBEAT = b": heartbeat\n"
BIG = word("x" * 600_000)
ERROR = frame({"error": {"message": "It broke.", "type": "overloaded_error", "code": 503}})
ASKED: dict[str, Any] = {"stream_options": {"include_usage": True}}

translating = functools.partial(fronting, translates=True)


def said(*frames: bytes, choices: int = 1, wants_usage: bool = False) -> bytes:
    """Give what a client reads when a provider has sent frames and no end."""
    request = Ask(model="", stream=True, wants_usage=wants_usage, body=b"", choices=choices)
    decoder, encoder = DIALECT.decoder(request), DIALECT.encoder(request, ORIGIN)
    return b"".join(encoder.write(decoder.feed(part)) for part in split(payload(*frames)))


# --- what arrives ----------------------------------------------------------------------------------------------------


def test_a_translated_stream_is_written_anew_and_says_so() -> None:
    async def work() -> None:
        async with translating(answering(streamed(*HELLO[:-1], USAGE, DONE))) as (running, _):
            reply = await ask(running.port, chat())
            assert reply.body == said(*HELLO)
            assert reply.body != payload(*HELLO), "the frames are not the provider's"
            entry = await running.entry()
            assert (entry.code, entry.path, entry.finish_reason) == ("completed", "translated", "stop")
            assert (entry.usage.input_tokens, entry.usage.output_tokens, entry.usage.estimated) == (9, 2, False)
            assert entry.bytes_out == len(reply.body)

    run(work)


def test_usage_is_for_the_client_that_asked() -> None:
    async def work() -> None:
        async with translating(answering(streamed(*HELLO[:-1], USAGE, DONE))) as (running, _):
            asked = [json.loads(event) for event in (await ask(running.port, chat(**ASKED))).events()[:-1]]
            assert asked[-1]["choices"] == []
            assert USAGE_MEMBER.items() <= asked[-1]["usage"].items()
            others = [json.loads(event) for event in (await ask(running.port, chat())).events()[:-1]]
            assert all(event["choices"] and "usage" not in event for event in others)

    run(work)


def test_a_body_that_is_no_stream_is_translated_as_a_whole() -> None:
    async def work() -> None:
        async with translating(answering(answer(200, {**MESSAGE, "odd": 1}))) as (running, _):
            reply = (await ask(running.port, chat(stream=False))).json()
            assert reply["choices"][0]["message"]["content"] == "Hello"
            assert USAGE_MEMBER.items() <= reply["usage"].items()
            assert "odd" not in reply, "it is the provider's, and no dialect's"
            assert (await running.entry()).path == "translated"

    run(work)


def test_no_frame_passes_by_untranslated_however_plain_it_is() -> None:
    async def work() -> None:
        words = [word(f"w{number}", 0) for number in range(20)]
        steps = Steps(chunked(ROLE, words[0]), *map(chunk, words[1:]), chunk(FINISH) + chunk(DONE) + LAST)
        async with translating(steps) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(chat()))
            got = b""
            for number in range(20):
                got += await client.reader.readuntil(b'"w%d"' % number)
                steps.go_on()
            got += await client.reader.readuntil(b"[DONE]")
            assert got.count(b'"created":7,') == 20 + 2
            assert b'", ' not in got, "the provider writes a space after each comma"

    run(work)


@pytest.mark.parametrize("size", [300_000, 4_000_000])
def test_a_big_frame_is_translated_whole(size: int) -> None:
    async def work() -> None:
        big = word("x" * size)
        async with translating(answering(streamed(ROLE, word("a"), big, FINISH, DONE))) as (running, _):
            reply = await ask(running.port, chat())
            assert reply.body == said(word("a"), big, FINISH, DONE)
            assert (await running.entry()).code == "completed"

    run(work)


def test_heartbeats_come_between_frames_also_while_a_big_one_is_on_its_way() -> None:
    async def work() -> None:
        steps = Steps(chunked(word("Hel"), BIG[:400_000]), chunk(BIG[400_000:]) + chunk(FINISH) + chunk(DONE) + LAST)
        async with translating(steps, server={"heartbeat": 0.05}) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(chat()))
            reply = await whole_reply(client, HEARTBEAT, HEARTBEAT, then=steps.go_on)
            assert reply.body.startswith(said(word("Hel")) + HEARTBEAT * 2)
            assert reply.body.replace(HEARTBEAT, b"") == said(word("Hel"), BIG, FINISH, DONE)

    run(work)


def test_what_is_held_of_a_frame_is_accounted_for() -> None:
    async def work() -> None:
        steps = Steps(chunked(word("Hel"), BIG[:400_000]))
        async with translating(steps) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(chat()))
            await client.reader.readuntil(b'"Hel"')
            async with asyncio.timeout(5):
                while running.tidegate.buffered_bytes() < 400_000:
                    await asyncio.sleep(0.005)

    run(work)


# --- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (chunk(ERROR) + LAST, "upstream_error_frame"),
        (chunk(ERROR) + chunk(DONE) + LAST, "upstream_error_frame"),
        (LAST, "upstream_truncated"),
        (b"", "upstream_truncated"),
        (chunk(b'data: {"choices": [{"de'), "upstream_truncated"),
        (chunk(b'data: {"choices": [{"de') + LAST, "upstream_truncated"),
        (chunk(FINISH[:-2]) + LAST, "upstream_truncated"),
        (b"zz;not a chunk\r\n", "bad_frame"),
        (chunk(b"data: no json\n\n"), "bad_frame"),
        (chunk(b"data: " + b"x" * 5_000_000), "bad_frame"),
        (chunk(BIG[:400_000]) + LAST, "upstream_truncated"),
    ],
    ids=[
        "error", "error and done", "clean end", "end of file", "half a frame", "half a frame, clean end",
        "an end without its empty line", "malformed chunk", "unreadable frame", "endless frame", "half a big frame",
    ],
)  # fmt: skip
def test_what_arrived_is_followed_by_one_error_frame_and_a_clean_end(end: bytes, code: str) -> None:
    async def work() -> None:
        for apart in (True, False):
            begun = chunked(ROLE, word("Hel"))
            steps = Steps(begun, end) if apart else Steps(begun + end)
            async with translating(steps) as (running, _), connect(running.port) as client:
                await client.send(request_bytes(chat()))
                reply = await whole_reply(client, b'"Hel"}', then=steps.run_out)
                check_broken_off(reply, code, said(word("Hel")))
                entry = await running.entry()
                assert (entry.code, entry.path) == (code, "translated")
                assert (entry.usage.estimated, entry.usage.output_tokens) == (True, 1)
                await settled(running, connections=1)

    run(work)


def test_an_error_frame_keeps_the_provider_s_words_without_the_gateway_s_secrets() -> None:
    async def work() -> None:
        error = {"message": "No sk-upstream-secret.", "type": "overloaded_error"}
        async with translating(answering(streamed(word("Hel"), frame({"error": error})))) as (running, _):
            shown = check_broken_off(await ask(running.port, chat()), "upstream_error_frame", said(word("Hel")))
            assert (shown["message"], shown["type"]) == ("No ***.", "overloaded_error")

    run(work)


@pytest.mark.parametrize("end", ["reset", "silence", "comments", "shutdown"])
def test_a_stream_that_breaks_off_is_one_error_frame(end: str) -> None:
    codes = {"reset": "upstream_reset", "shutdown": "server_shutdown"}

    async def work() -> None:
        comments = [chunk(b": still here\n\n")] * 40 if end == "comments" else []
        steps = Steps(chunked(ROLE, word("Hel")), *comments, resets=end == "reset")
        limits = {"timeouts": {"idle": 30 if end in codes else 0.3}}
        async with translating(steps, provider=limits) as (running, _), connect(running.port) as client:

            async def comment() -> None:
                while True:
                    steps.go_on()
                    await asyncio.sleep(0.02)

            def fail() -> None:
                if end == "shutdown":
                    running.tidegate.gateway.end_all(Ending(SERVER_SHUTDOWN))
                elif end == "reset":
                    steps.run_out()

            await client.send(request_bytes(chat()))
            talking = asyncio.ensure_future(comment()) if comments else None
            reply = await whole_reply(client, b'"Hel"}', then=fail)
            if talking is not None:
                talking.cancel()
            check_broken_off(reply, codes.get(end, "idle_timeout"), said(word("Hel")))

    run(work)


@pytest.mark.parametrize(
    "script",
    [
        answering(streamed(ROLE, word("Hel"), FINISH)),
        answering(streamed(ROLE, word("Hel"), FINISH, b"data: [DONE]")),
        answering(streamed(ROLE, word("Hel"), FINISH, b"data: [DONE]\r\n")),
        closing(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", ROLE, word("Hel"), FINISH),
        answering(streamed(ROLE, word("Hel"), FINISH, DONE, word("late"))),
        answering(streamed(b"\xef\xbb\xbf" + ROLE, word("Hel"), FINISH, DONE)),
        answering(streamed(*(part.replace(b"\n", b"\r\n") for part in (ROLE, word("Hel"), FINISH, DONE)))),
    ],
    ids=["no done", "no empty line", "no empty line, crlf", "until close", "late", "byte order mark", "crlf"],
)
def test_a_stream_that_said_everything_is_complete(script: Script) -> None:
    async def work() -> None:
        async with translating(script) as (running, _):
            reply = await ask(running.port, chat())
            assert (reply.status, reply.body, reply.complete) == (200, said(word("Hel"), FINISH, DONE), True)
            assert (await running.entry()).code == "completed"

    run(work)


@pytest.mark.parametrize("finished", [[0], [0, 1]])
def test_with_several_choices_each_must_have_finished(finished: list[int]) -> None:
    async def work() -> None:
        frames = (word("a", 0), word("b", 1), *(delta({}, index=index, finish="stop") for index in finished))
        async with translating(answering(streamed(*frames))) as (running, _):
            reply = await ask(running.port, chat(n=2))
            if len(finished) == 2:
                assert reply.body == said(*frames, DONE)
            else:
                check_broken_off(reply, "upstream_truncated", said(*frames))

    run(work)


def test_a_client_that_leaves_ends_a_translated_stream() -> None:
    async def work() -> None:
        async with translating(stalling(chunked(ROLE, word("Hel")))) as (running, upstream):
            async with connect(running.port) as client:
                await client.send(request_bytes(chat()))
                await client.reader.readuntil(b'"Hel"')
            assert (await running.entry()).code == "client_gone"
            assert upstream.peers
            await settled(running)

    run(work)


# --- cuts ------------------------------------------------------------------------------------------------------------

RULES = RelayRules(
    dialect=DIALECT, framer=SseFramer, clock=time.monotonic, heartbeat_s=15, slow_client_s=30, finishes=False
)
CALL = {"index": 0, "id": "a", "function": {"name": "tide", "arguments": '{"x":1}'}}
PARTS = st.sampled_from(
    [
        word("a"), word("ü🌊"), word("b" * 300), delta({"reasoning_content": "r"}), delta({"tool_calls": [CALL]}), USAGE,
        b": comment\n\n", b"id: 3\n\n", b"event: x\r\ndata: {}\r\n\r\n", ROLE, FINISH, DONE, ERROR, b"data: no json\n\n",
    ]
)  # fmt: skip


def relayed(reads: list[bytes]) -> tuple[Any, ...]:
    """Relay what comes in reads; gives what the client got and what was noted."""

    async def work() -> tuple[Any, ...]:
        source, client = MemorySource(), MemoryClient()
        stream = open_stream(source, time.monotonic())
        outcome = stream.attempt.admitted.arrival.outcome
        relay = TranslatingRelay(client, stream, outcome, RULES, DIALECT, ORIGIN)
        source.attach(relay)
        for read in reads:
            relay.write(read)
        relay.end(Ending(CLIENT_GONE))
        flowing = outcome.flowing
        ending = outcome.ending and outcome.ending.verdict.code
        seen = (outcome.usage, outcome.finish_reason, outcome.path)
        return b"".join(client.written), ending, seen, flowing.frames, flowing.content_bytes

    return asyncio.run(work())


@settings(max_examples=150, deadline=None)
@given(st.lists(PARTS, max_size=10), st.lists(st.integers(0, 2**30), max_size=20))
def test_any_cut_of_a_stream_gives_the_client_the_same_bytes(parts: list[bytes], cuts: list[int]) -> None:
    data = payload(word("first"), *parts)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    assert relayed([data[start:end] for start, end in pairwise(edges)]) == relayed([data])


def test_what_the_model_said_is_measured() -> None:
    frames = word("tide 🌊"), delta({"reasoning_content": "moon"}), delta({"tool_calls": [CALL]}), ROLE, FINISH
    _, _, _, count, size = relayed([payload(*frames)])
    assert (count, size) == (3, len("tide 🌊".encode()) + len("moon") + len('{"x":1}'))


def test_the_gap_before_a_frame_that_says_nothing_counts_as_on_the_raw_road() -> None:
    alive = []

    async def work() -> None:
        source, client = MemorySource(), MemoryClient()
        stream = open_stream(source, time.monotonic())
        relay = TranslatingRelay(client, stream, stream.attempt.admitted.arrival.outcome, RULES, DIALECT, ORIGIN)
        for read in (word("a"), b": comment\n\n", ROLE, Frame(b"id: 7\n\n").raw):
            relay.write(read)
            alive.append(relay._translator.alive)
        relay.end(Ending(CLIENT_GONE))

    asyncio.run(work())
    assert alive == [True, False, True, False]


class Full:
    """An encoder that has no room, or nothing more to say."""

    def __init__(self, *, refuses: bool) -> None:
        self._refuses = refuses

    def write(self, events: Sequence[Event], /) -> bytes:
        if self._refuses:
            raise FrameError("there is no room")
        return b""


@pytest.mark.parametrize(("refuses", "done"), [(True, False), (False, True)])
def test_an_end_that_cannot_be_written_is_none(*, refuses: bool, done: bool) -> None:
    meter = Meter(DIALECT, strips_usage=False)
    request = Ask(model="", stream=True, wants_usage=False, body=b"")
    translator = Translator(SseFramer(), DIALECT.decoder(request), Full(refuses=refuses), meter)
    translator.take(payload(word("a"), FINISH))
    meter.unreadable = ""
    assert translator.finish() == b""
    assert meter.done is done
