"""What is known of a stream in the end: usage, finish reason, path, estimates; and what each client gets of it."""

import json
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
    answer,
    answering,
    chunked,
    closing,
    delta,
    frame,
    fronting,
    payload,
    stalling,
    streamed,
    word,
)
from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.exchange import Usage
from tidegate.relay.meter import Meter

ASKS: dict[str, Any] = {"stream_options": {"include_usage": True}}
ALIASED = [{"name": "small", "targets": [{"provider": "main", "model": "mock"}]}]
SAID = (ROLE, word("Hel"), word("lo"), FINISH, USAGE, DONE)


def meter(*, strips: bool) -> Meter:
    return Meter(OpenAIChat(), strips_usage=strips)


# --- over real sockets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "models", "path", "got"),
    [
        (chat(**ASKS), None, "raw", SAID),
        (chat(), None, "spliced", (*SAID[:4], DONE)),
        (chat("small", **ASKS), ALIASED, "spliced", SAID),
        (chat("small"), ALIASED, "spliced", (*SAID[:4], DONE)),
        (chat(stream_options={"include_usage": False}), None, "spliced", (*SAID[:4], DONE)),
        (chat(stream_options=None), None, "spliced", (*SAID[:4], DONE)),
    ],
    ids=["asks", "does not ask", "alias, asks", "alias, does not ask", "says no", "says null"],
)
def test_usage_is_known_whoever_asked_and_goes_to_those_who_did(
    asked: dict[str, Any], models: Any, path: str, got: tuple[bytes, ...]
) -> None:
    async def work() -> None:
        sections = {"models": models} if models else {}
        async with fronting(answering(streamed(*SAID)), **sections) as (running, upstream):
            assert (await ask(running.port, asked)).body == payload(*got)
            entry = await running.entry()
            assert (entry.usage.input_tokens, entry.usage.output_tokens, entry.usage.estimated) == (9, 2, False)
            assert (entry.finish_reason, entry.path) == ("stop", path)
            sent = json.loads(upstream.peers[0].requests[0][1])
            assert sent["model"] == "mock"
            assert sent["stream_options"]["include_usage"] is True

    run(work)


def test_usage_on_a_frame_with_choices_is_read_and_stays() -> None:
    async def work() -> None:
        with_usage = delta({}, finish="length", usage=USAGE_MEMBER)
        for last in ((with_usage,), (FINISH, delta({"content": ""}, usage=USAGE_MEMBER))):
            async with fronting(answering(streamed(word("Hel"), *last, DONE))) as (running, _):
                assert (await ask(running.port, chat())).body == payload(word("Hel"), *last, DONE)
                assert (await running.entry()).usage.output_tokens == 2

    run(work)


def test_the_last_of_several_usages_counts() -> None:
    async def work() -> None:
        growing = [delta({"content": "x"}, usage={"prompt_tokens": 9, "completion_tokens": n}) for n in range(1, 5)]
        async with fronting(answering(streamed(*growing, FINISH, DONE))) as (running, _):
            assert (await ask(running.port, chat())).body == payload(*growing, FINISH, DONE)
            assert (await running.entry()).usage.output_tokens == 4

    run(work)


def test_an_empty_choices_without_usage_is_the_provider_s_and_stays() -> None:
    async def work() -> None:
        azure = frame({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]})
        null = frame({"choices": [], "usage": None})
        async with fronting(answering(streamed(azure, word("Hel"), null, FINISH, USAGE, DONE))) as (running, _):
            assert (await ask(running.port, chat())).body == payload(azure, word("Hel"), null, FINISH, DONE)

    run(work)


def test_a_text_that_looks_like_usage_error_or_the_end_is_text() -> None:
    async def work() -> None:
        tricky = (word('"usage":{"prompt_tokens":1}'), word('{"error": {"message": "x"}}'), word("data: [DONE]\n\n"))
        async with fronting(answering(streamed(*tricky, FINISH, USAGE, DONE))) as (running, _):
            assert (await ask(running.port, chat())).body == payload(*tricky, FINISH, DONE)
            entry = await running.entry()
            assert (entry.code, entry.usage.input_tokens) == ("completed", 9)

    run(work)


def test_a_stream_without_usage_is_estimated_and_says_so() -> None:
    async def work() -> None:
        words = [word("word ")] * 40
        async with fronting(answering(streamed(ROLE, *words, FINISH, DONE))) as (running, _):
            await ask(running.port, chat())
            usage = (await running.entry()).usage
            assert usage.estimated
            assert 35 <= usage.output_tokens <= 45
            assert usage.input_tokens > 0

    run(work)


def test_a_stream_that_ended_early_still_says_what_was_seen() -> None:
    async def work() -> None:
        begun = chunked(ROLE, word("a"), word("b"), word("c"))
        async with fronting(stalling(begun)) as (running, _):
            async with connect(running.port) as client:
                await client.send(request_bytes(chat()))
                await client.reader.readuntil(b'"c"}')
            entry = await running.entry()
            assert (entry.code, entry.usage.estimated) == ("client_gone", True)
            assert entry.usage.output_tokens >= 3
        with_usage = delta({"content": "d"}, usage=USAGE_MEMBER)
        async with fronting(closing(chunked(word("a"), with_usage))) as (running, _):
            await ask(running.port, chat())
            entry = await running.entry()
            assert (entry.code, entry.usage.estimated, entry.usage.output_tokens) == ("upstream_truncated", False, 2)

    run(work)


def test_a_plain_answer_is_raw_and_its_usage_read() -> None:
    async def work() -> None:
        async with fronting(answering(answer(200, MESSAGE))) as (running, _):
            await ask(running.port, chat(stream=False))
            entry = await running.entry()
            assert (entry.path, entry.usage.input_tokens, entry.usage.output_tokens) == ("raw", 9, 2)
            assert (entry.finish_reason, entry.usage.estimated) == ("stop", False)

    run(work)


# --- the meter alone -------------------------------------------------------------------------------------------------


def test_a_block_in_which_nothing_must_change_is_the_same_object() -> None:
    for block in (payload(*HELLO[:3]), payload(*HELLO), payload(*SAID)):
        assert meter(strips=False).observe(block) is block


def test_what_comes_after_the_end_or_an_error_is_dropped() -> None:
    error = frame({"error": {"message": "no"}})
    for last, kept in ((DONE, (DONE,)), (error, ())):
        one = meter(strips=True)
        assert one.observe(payload(word("a"), last, word("b"), USAGE)) == payload(word("a"), *kept)
        assert one.usage is None
        assert (one.done, one.error is not None) == (last is DONE, last is error)


def test_a_frame_that_cannot_be_read_does_not_take_those_before_it_along() -> None:
    one = meter(strips=True)
    assert one.observe(payload(word("a"), USAGE, word("b"), b'data: {"error": \n\n', word("c"))) == payload(
        word("a"), word("b")
    )
    assert one.unreadable
    assert one.usage is not None


FRAMES = st.lists(
    st.sampled_from([word("a"), word("ü" * 30), ROLE, USAGE, FINISH, b": c\n\n", delta({"x": 1})]), max_size=10
)


@settings(max_examples=200, deadline=None)
@given(FRAMES, st.data())
def test_what_is_known_does_not_depend_on_how_frames_came_together(frames: list[bytes], data: st.DataObject) -> None:
    whole, parts = meter(strips=True), meter(strips=True)
    passed = whole.observe(payload(*frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(frames)), max_size=5)))
    blocks = [payload(*frames[start:end]) for start, end in zip([0, *cuts], [*cuts, len(frames)], strict=True)]
    assert b"".join(map(parts.observe, blocks)) == passed
    assert passed == payload(*(one for one in frames if one is not USAGE))
    for name in ("usage", "finish_reason", "finished", "frames", "spliced"):
        assert getattr(whole, name) == getattr(parts, name)


def test_a_frame_that_is_taken_out_takes_its_late_line_feed_along() -> None:
    meter = Meter(OpenAIChat(), strips_usage=True)
    assert meter.observe(b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\r\n\r') == b""
    assert meter.observe(b"\ndata: [DONE]\r\n\r\n") == b"data: [DONE]\r\n\r\n"
    assert meter.done


def test_of_usage_that_comes_in_two_parts_none_is_lost() -> None:
    metered = Meter(Anthropic(), strips_usage=False)
    usage = {"input_tokens": 5, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 1, "output_tokens": 1}
    for value in (
        {"type": "message_start", "message": {"usage": usage}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
    ):
        metered.observe(b"data: " + json.dumps(value).encode() + b"\n\n")
    assert metered.usage == Usage(10, 7, cached_tokens=4, cache_write_tokens=1)
    assert (metered.finish_reason, metered.finished, metered.done) == ("stop", 0, False)
    metered.observe(b'data: {"type":"message_delta","usage":{"input_tokens":3,"output_tokens":8}}\n\n')
    assert metered.usage == Usage(3, 8)
