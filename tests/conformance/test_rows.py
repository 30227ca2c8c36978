"""No way to a provider goes around the stack: every kind, on every route that reaches it, over real sockets.

What a kind is asked is made from its rows, so that a new kind is either covered or fails here.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
from msgspec import Struct

from harness import ONCE, Raw, Reply, Running, ask, connect, gateway, request_bytes, run, until
from several import QUICK, value
from streams import answer, settled
from tidegate.assemble.routes import BY_NAME, DIALECTS, GUESSES, PATHS, TRANSLATED
from tidegate.dialect import ProviderDialect
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.mock import sigv4
from tidegate.mock.server import MockProvider
from tidegate.testing.upstream import Peer, scripted_upstream
from tidegate.upstream.kinds import KINDS, SSE, road

SOON_S = 0.08
"""A deadline of a test."""
PASSED = "passthrough"
QUESTION = [{"role": "user", "content": "Hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "chat": {"messages": QUESTION},
    "responses": {"input": "Hello"},
    "messages": {"messages": QUESTION, "max_tokens": 2000},
    "count_tokens": {"messages": QUESTION},
    "embeddings": {"input": "Hello"},
}
ROOTS = {
    "openai_chat": "/v1",
    "openai_responses": "/v1",
    "anthropic": "/v1",
    "gemini": "/v1beta",
    "bedrock": "",
    "ollama": "",
}
"""Where the mock speaks, by the dialect that a kind speaks first; but for those that sign, who ask at the root."""
NEEDS: dict[str, Any] = {
    "aws.region": {
        "api_key": "",
        "aws": {"region": "us-east-1", "access_key_id": sigv4.ACCESS_KEY, "secret_access_key": sigv4.SECRET_KEY},
    },
    "api_version": {"api_version": "2024-10-21"},
    "base_url": {},
}
"""What a provider of the mock's is given, by what its kind needs."""
STARTS = {
    "chat": b'"role":"assistant"',
    "responses": b'"type":"response.created"',
    "messages": b'"type":"message_start"',
}
"""What begins a stream, and is in it once."""
OVERLOADED = {"messages", "count_tokens"}
COUNTED = {
    "tidegate_requests_total",
    "tidegate_exchanges_started_total",
    "tidegate_path_total",
    "tidegate_tokens_total",
}
STREAMED = COUNTED | {
    "tidegate_stream_bytes_total",
    "tidegate_first_token_seconds_count",
    "tidegate_first_frame_seconds_count",
    "tidegate_stream_seconds_count",
    "tidegate_gateway_overhead_seconds_count",
}


def native(dialect: ProviderDialect, model: str) -> bytes:
    """Give a request for a stream as a provider's own clients write it."""
    chat = {"model": "m", "messages": QUESTION, "stream": True, "stream_options": {"include_usage": True}}
    return dialect.write_conversation(OpenAIChat().read_conversation(json.dumps(chat).encode()), model).body


class Way(Struct, frozen=True):
    """One way to ask a provider."""

    kind: str
    route: str
    stream: bool

    def __str__(self) -> str:
        return f"{self.kind}-{self.route}-{'stream' if self.stream else 'whole'}"

    @property
    def watched(self) -> bool:
        """Whether frames are seen: of what passes through, those of server-sent events are."""
        return self.route != PASSED or KINDS[self.kind].rows[0].media == SSE

    @property
    def told(self) -> bool:
        """Whether the provider is asked for usage, without which the mock tells none in a stream of chat."""
        dialect = KINDS[self.kind].rows[0].dialect
        return not self.stream or dialect.name != "openai_chat" or b"stream_options" in native(dialect, "m")

    @property
    def path(self) -> str:
        """Where clients ask."""
        return next((path for path, route in PATHS.items() if route == self.route), "")

    def request(self, knobs: str) -> bytes:
        """Give a client's request. Shape: what passes through names the provider's model itself."""
        if self.route == PASSED:
            return self._passed(f"mock?{knobs}")
        body = {"model": "m", **BODIES[self.route]}
        if self.route in STARTS:
            body["stream"] = self.stream
        return request_bytes(body, path=self.path, headers={"anthropic-version": "2023-06-01"})

    def _passed(self, model: str) -> bytes:
        row = KINDS[self.kind].rows[0]
        body = native(row.dialect, model)
        place = row.stream.replace("{model}", quote(model, safe="")).replace("{api_version}", "2024-10-21")
        return request_bytes(body, path=f"/p/main{place}")


def ways() -> list[Way]:
    """Give all ways on which a provider is asked; what the gateway answers by itself is none."""
    found = []
    for name, kind in KINDS.items():
        for route, dialect in DIALECTS.items():
            _, passes = road(kind, dialect.name)
            if route in STARTS:
                found += [Way(name, route, stream=True), Way(name, route, stream=False)]
            elif passes is not None:
                found.append(Way(name, route, stream=False))
        found.append(Way(name, PASSED, stream=True))
    return found


WAYS = ways()
EVERY = pytest.mark.parametrize("way", WAYS, ids=str)
STREAMS = pytest.mark.parametrize("way", [way for way in WAYS if way.stream], ids=str)
WHOLES = pytest.mark.parametrize("way", [way for way in WAYS if not way.stream], ids=str)
READ = pytest.mark.parametrize("way", [way for way in WAYS if way.route != PASSED], ids=str)
"""Those whose requests the gateway reads, so that it may send them twice."""


def provider(kind: str, port: int, name: str = "main", **members: Any) -> dict[str, Any]:
    """Give the settings of a provider of a kind that is the mock, or stands before it."""
    row = KINDS[kind]
    root = "" if row.auth == "aws" else ROOTS[row.rows[0].dialect.name]
    needed = {name: value for need in row.needs for name, value in NEEDS[need].items()}
    if "api_version" in row.needs:
        root = "/openai"
    url = f"http://127.0.0.1:{port}{root}"
    return {"name": name, "kind": kind, "base_url": url, "passthrough": True, **ONCE, **needed, **members}


@asynccontextmanager
async def mocked() -> AsyncIterator[tuple[MockProvider, int]]:
    """Serve a mock provider; gives its port."""
    mock = MockProvider()
    port = await mock.start()
    try:
        yield mock, port
    finally:
        await mock.close()


@asynccontextmanager
async def before(way: Way, knobs: str, **members: Any) -> AsyncIterator[tuple[Running, MockProvider]]:
    """Serve a gateway before a mock that is asked in one way. Holds: nothing at its end."""
    async with mocked() as (mock, port):
        model = {"name": "m", "targets": [{"provider": "main", "model": f"mock?{knobs}"}]}
        providers = [provider(way.kind, port, **members)]
        async with gateway("http://unused", providers=providers, models=[model]) as running:
            yield running, mock
            await settled(running)


async def asked(running: Running, way: Way, knobs: str) -> Reply:
    """Ask once."""
    async with connect(running.port) as client:
        await client.send(way.request(knobs))
        return await client.reply()


def counted(running: Running) -> set[str]:
    """Give what was counted so far, gauges apart."""
    return {
        sample.name
        for family in running.tidegate.metrics.families()
        for sample in family.samples
        if sample.value and sample.name.endswith(("_total", "_count"))
    }


def test_the_ways_are_those_of_all_kinds_and_routes() -> None:
    assert {way.kind for way in WAYS} == set(KINDS)
    assert {way.route for way in WAYS} == {*DIALECTS, PASSED}
    assert {dialect.name for dialect in DIALECTS.values()} < set(BY_NAME)
    assert set(TRANSLATED) == {DIALECTS[route].name for route in STARTS}


@EVERY
def test_an_answer_is_recorded_with_its_usage_and_the_same_things_are_counted(way: Way) -> None:
    async def work() -> None:
        async with before(way, "tokens=3") as (running, mock):
            reply = await asked(running, way, "tokens=3")
            assert (reply.status, reply.complete) == (200, True), reply.body
            entry = await running.entry()
            assert (entry.route, entry.provider, entry.code, entry.attempts) == (way.route, "main", "completed", 1)
            assert entry.stream is way.stream
            assert (entry.usage.input_tokens > 0) is (way.route != "count_tokens")  # which uses none
            assert (entry.usage.output_tokens > 0) is (way.route not in {"count_tokens", "embeddings"})
            told = way.told if way.watched else b'"usage":{' in reply.body
            assert entry.usage.estimated is not told
            expected = STREAMED if way.stream and way.watched else COUNTED
            assert counted(running) >= expected - ({"tidegate_tokens_total"} if way.route == "count_tokens" else set())
            assert value(running, "tidegate_requests_total", route=way.route, provider="main", code="completed") == 1
            if way.stream and way.route in STARTS:
                assert reply.body.count(STARTS[way.route]) == 1
            assert mock.stats.completed == 1

    run(work)


@EVERY
def test_a_slot_is_had_before_the_provider_is_asked(way: Way) -> None:
    async def work() -> None:
        knobs = "stall=head"
        slots = {"max_streams": 1, "max_queue": 1, "max_queue_wait": 30}
        async with before(way, knobs, slots=slots) as (running, mock), AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connect(running.port)) for _ in range(3)]
            await clients[0].send(way.request(knobs))
            await until(lambda: mock.stats.started == 1)
            await clients[1].send(way.request(knobs))
            await until(lambda: value(running, "tidegate_slots", provider="main", state="waiting") == 1)
            await clients[2].send(way.request(knobs))
            reply = await clients[2].reply()
            # Messages has a status of its own for an overload.
            assert (reply.status, running.entries()[-1].code) == (529 if way.route in OVERLOADED else 503, "queue_full")
            assert mock.stats.started == 1
            clients[0].writer.close()
            await until(lambda: mock.stats.started == 2)
            assert value(running, "tidegate_slots", provider="main", state="in_use") == 1

    run(work)


@STREAMS
def test_a_stream_without_content_is_given_up(way: Way) -> None:
    async def work() -> None:
        # What passes through is not read, so that its head's first bytes are content.
        knobs = "stall=head" if way.route == PASSED else "ttft=9s"
        async with before(way, knobs, timeouts={"first_token": SOON_S}) as (running, mock):
            reply = await asked(running, way, knobs)
            assert (reply.status, (await running.entry()).code) == (504, "first_token_timeout")
            await until(lambda: mock.stats.cancelled == 1)

    run(work)


@STREAMS
def test_a_stream_that_falls_silent_is_cut(way: Way) -> None:
    async def work() -> None:
        knobs = "tokens=4&fail=stall&fail_at=2"
        # What passes through in another framing has no frames, and is a body that must have come within a time.
        limit, code = ("idle", "idle_timeout") if way.watched else ("response", "total_timeout")
        async with before(way, knobs, timeouts={limit: SOON_S}) as (running, mock):
            reply = await asked(running, way, knobs)
            assert (reply.status, (await running.entry()).code) == (200, code)
            assert code.encode() in reply.body if way.watched else not reply.complete
            await until(lambda: mock.stats.cancelled == 1)

    run(work)


@WHOLES
def test_a_whole_answer_that_does_not_come_is_given_up(way: Way) -> None:
    async def work() -> None:
        async with before(way, "stall=head", timeouts={"response": SOON_S}) as (running, mock):
            reply = await asked(running, way, "stall=head")
            assert (reply.status, (await running.entry()).code) == (504, "total_timeout")
            await until(lambda: mock.stats.cancelled == 1)

    run(work)


def failing_once(port: int) -> Callable[[Peer], Awaitable[None]]:
    """Give a script that answers its first request 503, and has the mock answer the others."""
    failed = False

    async def script(peer: Peer) -> None:
        nonlocal failed
        while True:
            head, body = await peer.request()
            if not failed:
                failed = True
                await peer.send(answer(503, {"error": {"message": "Busy."}}))
                continue
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head + body)
            while data := await reader.read(65536):
                await peer.send(data)
            return  # the mock was asked to close, and ended its answer so

    return script


@EVERY
def test_one_failure_before_content_is_tried_again_and_what_passes_unread_is_not(way: Way) -> None:
    async def work() -> None:
        async with mocked() as (mock, port), scripted_upstream(failing_once(port)) as front:
            targets = [{"provider": "main", "model": "mock?tokens=2&close"}]
            providers = [provider(way.kind, front.port, retry=QUICK)]
            models = [{"name": "m", "targets": targets}]
            async with gateway("http://unused", providers=providers, models=models) as running:
                reply = await asked(running, way, "tokens=2&close")
                entry = await running.entry()
                if way.route == PASSED:
                    assert (reply.status, entry.attempts, mock.stats.started) == (503, 1, 0)
                else:
                    assert (reply.status, entry.code, entry.attempts) == (200, "completed", 2), reply.body
                    assert mock.stats.started == 1
                    if way.stream:
                        assert reply.body.count(STARTS[way.route]) == 1
                await settled(running)

    run(work)


@STREAMS
def test_nothing_is_tried_again_after_content(way: Way) -> None:
    async def work() -> None:
        knobs = "tokens=4&fail=reset&fail_at=2"
        async with before(way, knobs, retry=QUICK) as (running, mock):
            reply = await asked(running, way, knobs)
            entry = await running.entry()
            assert (reply.status, entry.attempts, mock.stats.started) == (200, 1, 1)
            assert entry.code in {"upstream_reset", "upstream_truncated"}
            if way.route in STARTS:
                assert reply.body.count(STARTS[way.route]) == 1
                assert entry.code.encode() in reply.body

    run(work)


@READ
def test_in_the_middle_of_other_kinds_it_gives_the_one_answer(way: Way) -> None:
    async def work() -> None:
        failing, after = ("anthropic", "ollama_native") if way.route in STARTS else (way.kind, way.kind)
        broken = "mock?fail=error" if way.stream else "mock?status=503"
        async with mocked() as (mock, port):
            kinds = {"first": failing, "main": way.kind, "last": after}
            models = {"first": broken, "main": "mock?tokens=2", "last": "mock?tokens=9"}
            targets = [
                {"provider": name, "model": model, "priority": place}
                for place, (name, model) in enumerate(models.items())
            ]
            providers = [provider(kind, port, name) for name, kind in kinds.items()]
            async with gateway(
                "http://unused", providers=providers, models=[{"name": "m", "targets": targets}]
            ) as running:
                reply = await asked(running, way, "")
                entry = await running.entry()
                assert (reply.status, entry.code, entry.provider) == (200, "completed", "main"), reply.body
                assert (entry.attempts, mock.stats.started) == (2, 2)
                if way.stream:
                    assert reply.body.count(STARTS[way.route]) == 1
                await settled(running)

    run(work)


@EVERY
def test_a_target_that_fails_again_and_again_is_left_alone(way: Way) -> None:
    async def work() -> None:
        breaker = {"failures": 2, "ratio": 0, "open_for": 60}
        async with before(way, "status=500", breaker=breaker) as (running, mock):
            codes = []
            for _ in range(3):
                await asked(running, way, "status=500")
                codes.append((await running.entry()).code)
            assert codes == ["upstream_failed", "upstream_failed", "breaker_open"]
            assert mock.stats.started == 2

    run(work)


async def read_some(client: Raw) -> None:
    """Read a stream's head and the first of its content."""
    await client.reader.readuntil(b"\r\n\r\n")
    assert await client.reader.read(1)


@STREAMS
def test_a_client_that_leaves_takes_the_provider_s_stream_along(way: Way) -> None:
    async def work() -> None:
        knobs = "tokens=2000&itl=20ms"
        async with before(way, knobs) as (running, mock):
            async with connect(running.port) as client:
                await client.send(way.request(knobs))
                await read_some(client)
                assert mock.stats.open == 1
            await until(lambda: mock.stats.cancelled == 1)
            assert (await running.entry()).code == "client_gone"

    run(work)


GUESSED = [name for name, kind in KINDS.items() if all(road(kind, guess)[1] is None for guess in GUESSES)]


@pytest.mark.parametrize("kind", GUESSED)
def test_what_the_gateway_answers_by_itself_asks_nobody_and_is_recorded(kind: str) -> None:
    async def work() -> None:
        way = Way(kind, "count_tokens", stream=False)
        async with before(way, "status=500", slots={"max_streams": 1}) as (running, mock):
            for _ in range(2):
                reply = await asked(running, way, "")
                assert (reply.status, reply.headers["x-tidegate-estimated"]) == (200, "true")
            entry = await running.entry()
            assert (entry.route, entry.code, entry.provider) == ("count_tokens", "completed", "main")
            assert mock.stats.started == 0

    run(work)


def test_embeddings_of_a_provider_that_has_none_are_refused_by_name() -> None:
    async def work() -> None:
        async with before(Way("gemini", "embeddings", stream=False), "") as (running, mock):
            reply = await ask(running.port, {"model": "m", "input": "Hello"}, path="/v1/embeddings")
            assert (reply.status, reply.json()["error"]["code"]) == (400, "untranslatable")
            assert mock.stats.started == 0

    run(work)
