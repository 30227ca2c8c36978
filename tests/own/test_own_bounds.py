"""What a handler's schema forbids never reaches it, whichever dialect a chat is in."""

from typing import Any

import pytest

from harness import Reply, ask, run
from owning import Owned, owning, provider

TURNS = [{"role": "user", "content": "Hi"}]
CHATS = "/v1/chat/completions"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"


async def chat(own: Owned, path: str, **members: Any) -> Reply:
    said = {"input": "Hi"} if path == RESPONSES else {"messages": TURNS}
    bound = {"max_tokens": 2} if path == MESSAGES else {}
    return await ask(own.port, {"model": "own", **said, **bound, **members}, path=path)


def told(reply: Reply, path: str) -> tuple[int, str, str]:
    """Give status, kind and message of a refusal."""
    error = reply.json()["error"]
    return reply.status, error["type"], error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "members", "param", "why"),
    [
        (CHATS, {"max_tokens": 50}, "max_tokens", "greater than the maximum of 3"),
        (CHATS, {"temperature": 99}, "temperature", "greater than the maximum of 2"),
        (CHATS, {"seed": -5}, "seed", "less than the minimum of 0"),
        (CHATS, {"delay": 7}, "delay", "greater than the maximum of 1"),
        (
            CHATS,
            {"messages": [{"role": "user", "content": "x" * 2001}]},
            "messages",
            "longer than 2000 characters",
        ),
        (MESSAGES, {"max_tokens": 50}, "max_tokens", "greater than the maximum of 3"),
        (MESSAGES, {"system": "x" * 21}, "messages", "longer than 20 characters"),
        (RESPONSES, {"max_output_tokens": 50}, "max_output_tokens", "greater than the maximum of 3"),
        (RESPONSES, {"input": "x" * 2001}, "input", "longer than 2000 characters"),
    ],
)
def test_a_value_beyond_its_bound_is_a_400_that_names_the_client_s_member(
    path: str, members: dict[str, Any], param: str, why: str, *, stream: bool
) -> None:
    async def work() -> None:
        async with owning("Bounded") as own:
            reply = await chat(own, path, stream=stream, **members)
            status, kind, message = told(reply, path)
            assert (status, kind) == (400, "invalid_request_error")
            assert message.startswith(f"`{param}` does not fit this model: the value is {why}")
            assert path == MESSAGES or reply.json()["error"]["param"] == param
            entry = await own.running.entry()
            assert (entry.code, entry.status) == ("bad_request", 400)
            assert (await chat(own, path)).status == 200
            await own.at_rest()

    run(work)


@pytest.mark.parametrize("stream", [False, True])
def test_what_fits_is_answered_with_the_handler_s_own_inputs_as_they_were_said(*, stream: bool) -> None:
    async def work() -> None:
        async with owning("Bounded") as own:
            members = {"max_tokens": 3, "temperature": 0.5, "seed": 7, "stop": "END", "delay": 0.01, "n": 3}
            reply = await chat(own, CHATS, stream=stream, **members)
            assert reply.status == 200, reply.body
            assert b"Hi|3|0.5|7|END||0.01|3|" in reply.body
            assert b"data: [DONE]" in reply.body or not stream
            assert "x-tidegate-dropped" not in reply.headers
            await own.at_rest()

    run(work)


def test_a_member_that_is_no_input_is_told_to_be_none() -> None:
    async def work() -> None:
        async with owning("Bounded") as own:
            reply = await chat(own, CHATS, tools=[{"type": "function", "function": {"name": "f"}}])
            assert told(reply, CHATS)[::2] == (400, "`tools` cannot be said to this model's handler")
            reply = await chat(own, CHATS, delays=1)
            assert told(reply, CHATS)[0] == 400
            assert reply.json()["error"]["param"] == "delays"

    run(work)


@pytest.mark.parametrize(
    ("members", "param"), [({"temperature": 99, "seed": -5}, "temperature"), ({"delay_ms": 5000}, "delay_ms")]
)
def test_the_demo_refuses_what_it_cannot_do(members: dict[str, Any], param: str) -> None:
    async def work() -> None:
        handler = {"handler": "tidegate.demo.ngram:Model"}
        async with owning(providers=[provider(local=handler)]) as own:
            reply = await chat(own, CHATS, **members)
            assert reply.status == 400, reply.body
            assert reply.json()["error"]["param"] == param
            assert (await chat(own, CHATS, seed=-5, delay_ms=0, max_tokens=5)).status == 200

    run(work)


DEEP = b"[" * 700 + b"]" * 700


@pytest.mark.parametrize("given", [DEEP, b'"a\\udc00"', b'"a\\ud800"'])
def test_what_cannot_be_checked_is_refused_and_no_bug(given: bytes) -> None:
    async def work() -> None:
        async with owning("Bounded") as own:
            for path, body, statuses in (
                (CHATS, b'{"model":"own","messages":[{"role":"user","content":"Hi"}],"secret":%b}', {400}),
                ("/predictions", b'{"input":{"prompt":"Hi","n":%b}}', {400, 422}),
            ):
                assert (await ask(own.port, body % given, path=path)).status in statuses
            await own.at_rest()

    run(work)
