"""Any client, any provider: every cell of the matrix, over real sockets."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import matrix_chat
import matrix_messages
import matrix_responses
import pytest
import uvloop
from matrix_cells import CELLS, PROVIDERS, SUBJECTS, Cell, Provider, page
from matrix_heard import Call, Heard, Said, Tokens, Wrong
from matrix_histories import History, Thought, history

from harness import Reply, Running, ask, gateway, until
from tidegate.ledger.ledger import Entry
from tidegate.mock.seal import sealed
from tidegate.mock.server import MockProvider
from tidegate.mock.sigv4 import ACCESS_KEY, SECRET_KEY
from tidegate.verdict import TABLE

ROOT = Path(__file__).parents[2]
SPEAKERS: dict[str, ModuleType] = {
    "chat": matrix_chat,
    "responses": matrix_responses,
    "messages": matrix_messages,
}
PROMPT = "How high is the tide at Emden tonight?"
AGAIN = "And tomorrow?"
GIVEN = "3.4 m, said the {} of the tools"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256))).decode()
IMAGES = {"": "", "data": f"data:image/png;base64,{PNG}", "url": "https://example.com/tide.png"}
SHOWN = {"": [], "data": [("image/png", PNG)], "url": [("", IMAGES["url"])]}
SCHEMA: Said = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLS: list[Said] = [{"name": name, "parameters": SCHEMA} for name in ("get_tide", "get_wind", "get_moon")]
AWS = {"region": "eu-central-1", "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
UNPROVEN = "skip_thought_signature_validator"
"""Stands for the signature of a call where Gemini 3 has given none."""
NEUTRAL = {"refusal": "content_filter"}
SECOND = "second-{}"
TEXT = f"{{}}?{SUBJECTS[0].script}"
MOST_S = 20.0


class Answer(NamedTuple):
    """What came of a request: to the client, into the record, and what the provider was asked."""

    reply: Reply
    entry: Entry
    asked: bytes


class Matrix:
    """A gateway with a provider of every kind, all of them one mock."""

    def __init__(self, runner: asyncio.Runner, running: Running, mock: MockProvider, port: int) -> None:
        self._runner = runner
        self._running = running
        self._mock = mock
        self._port = port

    def run(self, work: Callable[[], Any]) -> None:
        """Run a case."""

        async def bounded() -> None:
            async with asyncio.timeout(MOST_S):
                await work()

        self._runner.run(bounded())

    async def ask(self, cell: Cell, turns: list[Any], **more: Any) -> Answer:
        """Ask what a cell asks, with these turns. Shape: `more` are members in place of the cell's."""
        self._mock.stats.requests.clear()
        body = SPEAKERS[cell.client.name].with_turns(members(cell) | more, turns)
        headers = matrix_messages.HEADERS if cell.client.name == "messages" else {}
        reply = await ask(self._running.port, body, path=cell.client.path, headers=headers)
        ident = reply.headers["x-request-id"]
        await until(lambda: any(entry.request_id == ident for entry in self._running.entries()))
        (entry,) = [entry for entry in self._running.entries() if entry.request_id == ident]
        asked = [request[2] for request in self._mock.stats.requests]
        assert len(asked) == (0 if cell.refused else entry.attempts)
        return Answer(reply, entry, asked[-1] if asked else b"")

    async def words(self, cell: Cell) -> Heard:
        """Give what the mock says when it is asked the same in chat, without a gateway."""
        subject = cell.subject
        said = matrix_chat.request(
            cell.model, stream=cell.stream, tools=TOOLS[: subject.tools], thinks=subject.thinks
        ) | {"messages": matrix_chat.user(PROMPT, IMAGES[subject.image])}
        reply = await ask(self._port, said)
        assert reply.status == 200
        return matrix_chat.read_stream(reply.body) if cell.stream else matrix_chat.read_whole(reply.body)


def members(cell: Cell) -> Said:
    """Give a cell's request without its turns."""
    subject = cell.subject
    said: Said = SPEAKERS[cell.client.name].request(
        cell.model, stream=cell.stream, tools=TOOLS[: subject.tools], thinks=subject.thinks
    )
    return said


@pytest.fixture(scope="module")
def matrix() -> Iterator[Matrix]:
    """Serve one gateway for all cells."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = AsyncExitStack()
        yield runner.run(serving(runner, stack))
        runner.run(stack.aclose())


async def serving(runner: asyncio.Runner, stack: AsyncExitStack) -> Matrix:
    mock = MockProvider()
    port = await mock.start()
    stack.push_async_callback(mock.close)
    running = await stack.enter_async_context(
        gateway(
            f"http://127.0.0.1:{port}",
            providers=[settings(provider, port) for provider in PROVIDERS],
            models=[model for provider in PROVIDERS for model in models(provider)],
        )
    )
    return Matrix(runner, running, mock, port)


def models(provider: Provider) -> Iterator[Said]:
    """Give the models of a provider: one that does what its name says, and one that answers at the second attempt alone."""
    behind = {"provider": provider.kind, "model": f"{provider.model}*"}
    yield {"name": f"{provider.model}*", "targets": [behind]}
    failing = behind | {"model": f"{provider.model}?fail=error&role_only=1", "priority": 0}
    yield {
        "name": SECOND.format(provider.kind),
        "targets": [failing, behind | {"model": TEXT.format(provider.model), "priority": 1}],
    }


def settings(provider: Provider, port: int) -> Said:
    """Give the settings of a provider."""
    signed = {"aws": AWS} if provider.kind.startswith("bedrock") else {}
    base_url = f"http://127.0.0.1:{port}{provider.base}"
    return {"name": provider.kind, "kind": provider.kind, "base_url": base_url, **signed}


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_client_gets_from_a_provider_what_the_matrix_says(matrix: Matrix, cell: Cell) -> None:
    async def work() -> None:
        speaker = SPEAKERS[cell.client.name]
        turns = speaker.user(PROMPT, IMAGES[cell.subject.image])
        answer = await matrix.ask(cell, turns)
        assert answer.entry.code == cell.code
        if not cell.begins:
            check_error(cell, answer)
            return
        heard = speaker.read_stream(answer.reply.body) if cell.stream else speaker.read_whole(answer.reply.body)
        words = told(cell, await matrix.words(cell))
        check_heard(cell, answer, heard, words)
        if cell.subject.image:
            assert history(cell.asked.kind, answer.asked).images == SHOWN[cell.subject.image]
        if cell.subject.again:
            await check_again(matrix, cell, turns, heard)

    matrix.run(work)


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.subject is SUBJECTS[0]], ids=str)
def test_an_answer_that_took_two_attempts_is_heard_once(matrix: Matrix, cell: Cell) -> None:
    async def work() -> None:
        speaker = SPEAKERS[cell.client.name]
        answer = await matrix.ask(cell, speaker.user(PROMPT), model=SECOND.format(cell.provider.kind))
        heard = speaker.read_stream(answer.reply.body) if cell.stream else speaker.read_whole(answer.reply.body)
        assert answer.entry.attempts == 2
        assert answer.entry.code == "completed"
        assert (heard.text, heard.ended, heard.end) == ((await matrix.words(cell)).text, True, cell.end)

    matrix.run(work)


# --- what is expected ------------------------------------------------------------------------------------------------


def told(cell: Cell, words: Heard) -> Heard:
    """Give what a client can hear of the mock's words: all that its provider, and its own dialect, have a word for."""
    provider, tokens = cell.provider, words.tokens
    refusal, words.refusal = words.refusal, ""
    if cell.says_why:
        words.refusal = refusal
    elif refusal and (provider.refuses != "blocked" or cell.stream):
        words.text = refusal
    if tokens is not None and not provider.counts:
        words.tokens = tokens._replace(thought=0)
    words.calls = [call._replace(id=named(provider, call.id)) for call in words.calls]
    return words


def named(provider: Provider, ident: str) -> str:
    """Give the id that a provider has for a call; '' where it has none."""
    return provider.ids + ident.removeprefix("call_") if provider.ids else ""


def check_heard(cell: Cell, answer: Answer, heard: Heard, words: Heard) -> None:
    """Check an answer that has begun."""
    entry = answer.entry
    assert answer.reply.status == 200
    assert answer.reply.complete
    assert answer.reply.headers["content-type"].startswith("text/event-stream" if cell.stream else "application/json")
    assert entry.path == cell.road
    assert (heard.text, heard.thoughts, heard.refusal) == (words.text, words.thoughts, words.refusal)
    check_calls(heard.calls, words.calls)
    if cell.subject.fails:
        assert not heard.ended
        assert not heard.end
        assert heard.error is not None
        assert heard.error.message == (cell.message or TABLE[cell.code].meaning)
        assert heard.error.code == cell.word
        return
    assert (heard.ended, heard.end, heard.error) == (True, cell.end, None)
    assert not (heard.silent and cell.road == "translated")
    # A whole answer is recorded as its client reads it.
    assert entry.finish_reason in ({cell.finish} if cell.stream else {cell.finish, NEUTRAL.get(cell.end)})
    assert answer.reply.headers.get("x-tidegate-dropped", "") == cell.dropped
    assert heard.tokens == words.tokens
    usage = entry.usage
    assert Tokens(usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == words.tokens
    assert not usage.estimated


def check_calls(heard: list[Call], words: list[Call]) -> None:
    """Check calls. Shape: an id that the provider has not said is any, but no two are the same."""
    assert [call[1:] for call in heard] == [call[1:] for call in words]
    assert all(call.id for call in heard)
    assert len({call.id for call in heard}) == len(heard)
    assert all(said.id in {"", call.id} for call, said in zip(heard, words, strict=True))


def check_error(cell: Cell, answer: Answer) -> None:
    """Check an error before the first word."""
    reply = answer.reply
    status, kind = cell.error
    said = reply.json()
    speaker = SPEAKERS[cell.client.name]
    error: Wrong = speaker.error_of(said)
    assert (reply.status, error.kind) == (status, kind)
    assert error.message
    assert error.message == (cell.message or error.message)
    assert reply.headers["content-type"] == "application/json"
    if cell.refused:
        assert f"`{cell.refused}`" in error.message
        assert error.param in {cell.refused, ""}


# --- another turn ----------------------------------------------------------------------------------------------------


async def check_again(matrix: Matrix, cell: Cell, turns: list[Any], heard: Heard) -> None:
    """Hand back what was heard, and check that the provider gets it as it was, and accepts it."""
    speaker = SPEAKERS[cell.client.name]
    given = [(call.id, GIVEN.format(call.name)) for call in heard.calls]
    more = speaker.results(given) if given else speaker.user(AGAIN)
    answer = await matrix.ask(cell, [*turns, *json.loads(json.dumps(heard.turn)), *more])
    assert answer.entry.code == "completed", answer.reply.body
    assert answer.reply.status == 200
    back = history(cell.asked.kind, answer.asked)
    assert back.calls == heard.calls
    assert back.results == given
    if cell.subject.thinks:
        check_thoughts(cell, back, heard)
    else:
        unproven = heard.calls and cell.provider.model.startswith("gemini-3")
        assert back.thoughts == ([Thought("", UNPROVEN)] if unproven else [])
    assert answer.reply.headers.get("x-tidegate-dropped", "") == cell.dropped


def check_thoughts(cell: Cell, back: History, heard: Heard) -> None:
    """Check that what the provider wants back is there, with its signature unchanged."""
    match cell.asked.signs:
        case "thought":
            seal = sealed("converse" if cell.provider.kind == "bedrock" else "messages", heard.thoughts)
            assert back.thoughts == [Thought(heard.thoughts, seal)]
        case "sealed":
            assert back.thoughts == [Thought(heard.thoughts, sealed("responses"))]
        case "part":
            (thought,) = back.thoughts
            assert thought.signature == sealed("gemini")
        case _ if cell.provider.kind == "ollama_native" or cell.road != "translated":
            assert back.thoughts == [Thought(heard.thoughts, "")]
        case _:
            assert back.thoughts == []


def test_the_page_of_the_matrix_is_what_the_cells_say() -> None:
    assert (ROOT / "docs" / "matrix.md").read_text() == page()
