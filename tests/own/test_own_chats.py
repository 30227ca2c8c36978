"""A model of our own as a chat model, before the official clients."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from anthropic import APIStatusError as AnthropicError
from anthropic import AsyncAnthropic
from openai import APIError, APIStatusError, AsyncOpenAI

from harness import ask, chat, run
from owning import Owned, owning
from tidegate.ledger.ledger import Entry

OPTIONS: dict[str, Any] = {"api_key": "tg-a-key-of-the-sdk", "max_retries": 0, "timeout": 30.0}
TALK: list[Any] = [{"role": "user", "content": "the tide comes"}]


@asynccontextmanager
async def openai(own: Owned) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{own.port}/v1", **OPTIONS) as client:
        yield client


@asynccontextmanager
async def anthropic(own: Owned) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=f"http://127.0.0.1:{own.port}", **OPTIONS) as client:
        yield client


async def completed(own: Owned) -> Entry:
    """Give the record of the one exchange that was."""
    entry: Entry = await own.running.entry()
    assert (entry.code, entry.provider, entry.model) == ("completed", "mine", "own")
    assert entry.usage.estimated
    assert entry.usage.input_tokens > 0
    assert entry.usage.output_tokens > 0
    assert len(own.running.entries()) == 1
    await own.at_rest()
    return entry


@pytest.mark.parametrize("stream", [False, True])
def test_openai_s_client_chats_with_it(*, stream: bool) -> None:
    async def work() -> None:
        async with owning() as own, openai(own) as client:
            if stream:
                chunks = [
                    chunk
                    async for chunk in await client.chat.completions.create(
                        model="own", messages=TALK, stream=True, stream_options={"include_usage": True}
                    )
                ]
                text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
                usage, reason = chunks[-1].usage, [c.choices[0].finish_reason for c in chunks if c.choices][-1]
            else:
                answer = await client.chat.completions.create(model="own", messages=TALK)
                text, usage, reason = (
                    answer.choices[0].message.content or "",
                    answer.usage,
                    answer.choices[0].finish_reason,
                )
            assert "tide comes" in text
            assert reason == "stop"
            assert usage is not None
            entry = await completed(own)
            assert (usage.prompt_tokens, usage.completion_tokens) == (
                entry.usage.input_tokens,
                entry.usage.output_tokens,
            )

    run(work)


@pytest.mark.parametrize("stream", [False, True])
def test_openai_s_client_asks_it_for_responses(*, stream: bool) -> None:
    async def work() -> None:
        async with owning() as own, openai(own) as client:
            if stream:
                events = [
                    event
                    async for event in await client.responses.create(model="own", input="the tide comes", stream=True)
                ]
                assert events[-1].type == "response.completed"
                answer = events[-1].response
                assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == answer.output_text
            else:
                answer = await client.responses.create(model="own", input="the tide comes")
            assert "tide comes" in answer.output_text
            assert answer.usage is not None
            entry = await completed(own)
            assert answer.usage.output_tokens == entry.usage.output_tokens

    run(work)


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_s_client_talks_to_it(*, stream: bool) -> None:
    async def work() -> None:
        async with owning() as own, anthropic(own) as client:
            given: dict[str, Any] = {"model": "own", "messages": TALK, "max_tokens": 50}
            if stream:
                async with client.messages.stream(**given) as streamed:
                    message = await streamed.get_final_message()
            else:
                message = await client.messages.create(**given)
            assert message.content[0].type == "text"
            assert "tide comes" in message.content[0].text
            assert message.stop_reason == "end_turn"
            entry = await completed(own)
            assert message.usage.output_tokens == entry.usage.output_tokens

    run(work)


Asking = Callable[[Owned, bool], Coroutine[Any, Any, object]]


async def _chat(own: Owned, stream: bool) -> object:
    async with openai(own) as client:
        return await client.chat.completions.create(model="own", messages=TALK, stream=stream)


async def _responses(own: Owned, stream: bool) -> object:
    async with openai(own) as client:
        return await client.responses.create(model="own", input="x", stream=stream)


async def _messages(own: Owned, stream: bool) -> object:
    async with anthropic(own) as client:
        return await client.messages.create(model="own", messages=TALK, max_tokens=5, stream=stream)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asking", [_chat, _responses, _messages])
def test_a_failure_before_the_first_words_is_a_status(asking: Asking, *, stream: bool) -> None:
    async def work() -> None:
        async with owning("failing") as own:
            with pytest.raises((APIStatusError, AnthropicError)) as caught:
                await asking(own, stream)
            assert isinstance(caught.value, APIStatusError | AnthropicError)
            assert caught.value.status_code >= 500
            assert "no words today" in str(caught.value)
            entry = await own.running.entry()
            assert entry.code == "upstream_failed"
            assert entry.attempts == 1
            await own.at_rest()

    run(work)


def test_a_failure_after_the_first_words_is_an_error_in_the_stream() -> None:
    async def work() -> None:
        async with owning("stumbling") as own, openai(own) as client:
            text: list[str] = []

            async def read() -> None:
                async for chunk in await client.chat.completions.create(model="own", messages=TALK, stream=True):
                    text.extend(choice.delta.content or "" for choice in chunk.choices)

            with pytest.raises(APIError, match="out of words"):
                await read()
            assert "".join(text) == "some "
            entry = await own.running.entry()
            assert (entry.code, entry.status) == ("upstream_error_frame", 200)
            await own.at_rest()

    run(work)


def test_a_chat_client_that_leaves_stops_its_run_and_gives_its_place_back() -> None:
    async def work() -> None:
        async with owning("Endless") as own, openai(own) as client:
            stream = await client.chat.completions.create(model="own", messages=TALK, stream=True)
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    break
            assert own.busy()["slots"] == 1
            await stream.close()
            await own.at_rest()
            assert [entry.code for entry in own.running.entries()] == ["client_gone"]
            assert (await own.get("/health-check")).json()["status"] == "READY"

    run(work)


@pytest.mark.slow
def test_a_killed_worker_ends_a_chat_with_an_error_and_the_next_is_served() -> None:
    async def work() -> None:
        async with owning("Dying") as own:
            reply = await ask(
                own.port, {"model": "own", "messages": [{"role": "user", "content": "die"}], "stream": True}
            )
            assert reply.status == 200
            assert b"error" in reply.body
            assert b"[DONE]" not in reply.body
            assert (await own.running.entry()).code == "upstream_reset"
            reply = await ask(own.port, {"model": "own", "messages": [{"role": "user", "content": "live"}]})
            assert reply.status == 200
            assert reply.json()["choices"][0]["message"]["content"]
            await own.at_rest()

    run(work)


def test_it_is_listed_among_the_models() -> None:
    async def work() -> None:
        async with owning() as own, openai(own) as client:
            assert [model.id async for model in client.models.list()] == ["own"]

    run(work)


def test_tokens_of_a_model_of_our_own_are_estimated() -> None:
    async def work() -> None:
        async with owning("echo") as own:
            body = {"model": "own", "messages": TALK}
            reply = await ask(own.port, body, path="/v1/messages/count_tokens")
            assert reply.status == 200, reply.body
            assert reply.headers["x-tidegate-estimated"] == "true"
            assert list(reply.json()) == ["input_tokens"]
            few = reply.json()["input_tokens"]
            body["messages"] = [{"role": "user", "content": "the tide comes " * 100}]
            more = (await ask(own.port, body, path="/v1/messages/count_tokens")).json()["input_tokens"]
            assert 0 < few < more
            assert own.local.crew.running == 0
            await own.at_rest()
            assert {entry.code for entry in own.running.entries()} == {"completed"}
            async with anthropic(own) as client:
                counted = await client.messages.count_tokens(model="own", messages=TALK)
            assert counted.input_tokens == few

    run(work)


def test_a_full_model_makes_chats_and_predictions_wait_in_one_line() -> None:
    async def work() -> None:
        async with owning("Words", provider={"slots": {"max_streams": 1, "max_queue": 0}}) as own:
            reply, refused = None, 0
            replies = await asyncio.gather(
                *(ask(own.port, chat("own", stream=False)) for _ in range(4)), *(own.post({}) for _ in range(4))
            )
            for reply in replies:
                refused += reply.status != 200
            assert own.slots.peak == 1
            assert refused < 8
            await own.at_rest()

    run(work)


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_that_the_handler_counts_are_no_estimate(*, stream: bool) -> None:
    async def work() -> None:
        async with owning("Counting") as own:
            assert (await ask(own.port, chat("own", stream=stream))).status == 200
            usage = (await own.running.entry()).usage
            assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (70, 7, False)
            await own.at_rest()

    run(work)
