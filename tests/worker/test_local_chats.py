"""Chats with a model of our own: what the handler is asked, and what becomes of its output."""

import json
from typing import Any

import pytest
from msgspec import structs
from workshop import Reader, chatting, read, run, shop

from tidegate.exchange import Attempt
from tidegate.verdict import BAD_REQUEST, CONNECT_RESET, UNTRANSLATABLE, UPSTREAM_FAILED, AttemptFailed

PROMPT = {"takes": "prompt"}


def _asking(*, stream: bool = True, **plan: Any) -> Attempt:
    return chatting(json.dumps(plan), stream=stream)


def test_a_chat_s_stream_opens_with_the_first_output() -> None:
    async def work() -> None:
        async with shop(PROMPT) as made:
            attempt = _asking(say="thinking\n", items=["Hello", " you"], do="list")
            async with made.local.open(attempt) as stream:
                assert stream.translates
                assert stream.events
                assert attempt.record.content_at
                names = [name for name, _ in (await read(stream)).frames]
            assert names == ["log", "metric", "output", "output", "completed"]

    run(work)


def test_an_answer_that_is_no_stream_comes_whole() -> None:
    async def work() -> None:
        async with shop(PROMPT) as made:
            async with made.local.open(_asking(stream=False, items=["Hello", " you"], do="list")) as stream:
                assert stream.whole
                assert not stream.events
                reader = await read(stream)
                stream.source.divert(None)
                stream.source.pause()
                stream.source.resume()
                stream.source.abort()
            answer = json.loads(b"".join(reader.pieces))
            assert answer["choices"][0]["message"]["content"] == "Hello you"
            assert answer["choices"][0]["finish_reason"] == "stop"

    run(work)


def test_large_chats_are_translated_and_answered_too() -> None:
    async def work() -> None:
        async with shop(PROMPT) as made:
            attempt = _asking(stream=False, items=["y" * 300_000], do="list", padding="x" * 300_000)
            async with made.local.open(attempt) as stream:
                answer = json.loads(b"".join((await read(stream)).pieces))
            assert len(answer["choices"][0]["message"]["content"]) == 300_000

    run(work)


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_before_the_first_output_fails_the_attempt(*, stream: bool) -> None:
    async def work() -> None:
        async with shop(PROMPT) as made:
            for do, verdict, message in (
                ("fail", UPSTREAM_FAILED, "ValueError: x"),
                ("kill", CONNECT_RESET, "the worker crashed (signal 9)"),
            ):
                with pytest.raises(AttemptFailed) as failure:
                    async with made.local.open(_asking(stream=stream, do=do)):
                        pass
                assert (failure.value.verdict, failure.value.message) == (verdict, message)
            assert not made.local.runs

    run(work)


def test_an_empty_answer_opens_too() -> None:
    async def work() -> None:
        async with shop(PROMPT) as made, made.local.open(_asking(do="list")) as stream:
            assert [name for name, _ in (await read(stream)).frames] == ["completed"]

    run(work)


def test_much_talk_before_the_first_output_opens_the_stream() -> None:
    async def work() -> None:
        async with shop(PROMPT) as made, made.local.open(_asking(do="wait", say="x" * 400_000)) as stream:
            reader = Reader()
            stream.source.attach(reader)
            assert reader.pieces

    run(work)


def test_a_handler_that_takes_no_chat_says_what_it_would_have_to_take() -> None:
    async def work() -> None:
        async with shop() as made:
            with pytest.raises(AttemptFailed, match="`prompt: str`") as failure:
                async with made.local.open(chatting("Hi")):
                    pass
            assert failure.value.verdict is UNTRANSLATABLE

    run(work)


def test_what_cannot_be_asked_is_refused_as_at_any_provider() -> None:
    async def work() -> None:
        async with shop(PROMPT) as made:
            tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
            with pytest.raises(AttemptFailed) as failure:
                async with made.local.open(chatting("Hi", tools=tools)):
                    pass
            assert (failure.value.verdict, failure.value.param) == (UNTRANSLATABLE, "tools")
            with pytest.raises(AttemptFailed) as failure:
                async with made.local.open(chatting("Hi", messages=[{"role": "user", "content": 3}])):
                    pass
            assert failure.value.verdict is BAD_REQUEST

    run(work)


def test_a_route_that_is_no_chat_is_refused() -> None:
    async def work() -> None:
        async with shop(PROMPT) as made:
            attempt = chatting("Hi")
            ask = structs.replace(attempt.admitted.ask, dialect="openai_embeddings")
            other = structs.replace(attempt, admitted=structs.replace(attempt.admitted, ask=ask))
            with pytest.raises(AttemptFailed, match="this route"):
                async with made.local.open(other):
                    pass

    run(work)


def test_members_that_nobody_needs_are_named_in_a_header() -> None:
    async def work() -> None:
        async with shop(PROMPT) as made:
            attempt = chatting(json.dumps({"do": "list", "items": ["x"]}), reasoning_effort="low")
            async with made.local.open(attempt) as stream:
                assert dict(stream.head.headers)[b"x-tidegate-dropped"] == b"reasoning_effort"
                await read(stream)

    run(work)


def test_its_dialect_is_known_before_its_handler_is() -> None:
    async def work() -> None:
        async with shop({**PROMPT, "setup": "hang"}, ready=False) as made:
            assert made.local.dialect.name == "prediction"
        async with shop(PROMPT) as made:
            assert made.local.dialect is made.local.dialect

    run(work)
