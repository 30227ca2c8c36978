"""What a stream costs, in counts: nothing of what is dear may grow with the number of its events."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from counting import CountingLoop, profiled

from harness import Raw, Reply, chat, connect, request_bytes, run
from threads import Threaded, threaded
from tidegate.testing.upstream import HEAD, LAST, Peer, chunk, scripted_upstream

FEW, MANY = 10, 1000
CALLS_AN_EVENT = 12
"""Calls of our own functions that one paced event may cost: there were 9 when this was written."""
END_OF_BODY = 1
"""The last chunk is a write of its own, which the loop sends together with the one before it."""
DECODING = ("OpenAIChat.notice", "OpenAIChat.look", "object_of", "value_of", "split")

Measured = Counter[str]


def event(number: int) -> bytes:
    """Give a frame as OpenAI sends it, with null for what it does not say."""
    return chunk(
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,'
        b'"delta":{"content":" w%d"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n' % number
    )


END = (
    b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n',
    b'data: {"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":9}}\n\n',
    b"data: [DONE]\n\n",
)


class Paced:
    """A provider that sends one event for each that was taken, so that each is a read of its own."""

    def __init__(self) -> None:
        self.taken = asyncio.Semaphore(0)
        self.events = 0

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(HEAD)
            for number in range(self.events):
                await peer.send(event(number))
                await self.taken.acquire()
            await peer.send(*map(chunk, END), LAST)


class Bench:
    """A gateway in a thread, its provider, and one kept connection to it."""

    def __init__(self, served: Threaded, client: Raw, provider: Paced) -> None:
        self._served = served
        self._client = client
        self._provider = provider

    @property
    def counts(self) -> Measured:
        loop = self._served.loop
        assert isinstance(loop, CountingLoop)
        return loop.counts

    async def stream(self, events: int) -> None:
        """Stream so many events, each taken before the next is sent."""
        self._provider.events = events
        await self._client.send(request_bytes(chat("mock", stream_options={"include_usage": True})))
        for number in range(events):
            await self._client.reader.readuntil(b'" w%d"' % number)
            self._provider.taken.release()
        await self._client.reader.readuntil(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        async with asyncio.timeout(5):
            while len(self._served.running.tidegate.gateway):
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)

    async def cost(self, work: Awaitable[object]) -> Measured:
        """Give what some work cost the loop."""
        before = Counter(self.counts)
        await work
        spent = Counter(self.counts)
        spent.subtract(before)
        return spent

    async def calls(self, events: int) -> Measured:
        """Give the calls of the gateway's own functions that a stream cost."""
        loop = asyncio.get_running_loop()
        with profiled(self._served.ask) as calls:
            await self.stream(events)
        await loop.run_in_executor(None, self._served.ask, lambda: None)
        return calls


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """Give a bench that is warm: connections are open on both sides."""
    provider = Paced()
    async with scripted_upstream(provider) as upstream:
        with threaded(upstream.base_url, CountingLoop) as served:
            async with connect(served.running.port) as client:
                made = Bench(served, client, provider)
                await made.stream(FEW)
                yield made


def measured(look: Callable[[Bench], Awaitable[None]]) -> None:
    """Run a measurement."""

    async def work() -> None:
        async with bench() as made:
            await look(made)

    run(work)


def test_an_exchange_is_one_task() -> None:
    async def look(made: Bench) -> None:
        assert (await made.cost(made.stream(FEW)))["task"] == 1

    measured(look)


@pytest.mark.parametrize("what", ["task", "future", "timer", "callback"])
def test_a_thousand_events_ask_no_more_of_the_loop_than_ten(what: str) -> None:
    async def look(made: Bench) -> None:
        few = await made.cost(made.stream(FEW))
        many = await made.cost(made.stream(MANY))
        assert many["read"] >= MANY
        assert few[what] <= 12
        assert many[what] <= few[what]

    measured(look)


def test_one_read_at_the_provider_is_at_most_one_write_to_the_client() -> None:
    async def look(made: Bench) -> None:
        many = await made.cost(made.stream(MANY))
        assert MANY <= many["write"] <= many["read"] + END_OF_BODY

    measured(look)


def test_a_burst_is_written_in_as_few_pieces_as_it_was_read() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(HEAD + b"".join(map(event, range(MANY))) + b"".join(map(chunk, END)) + LAST)

    async def ask(client: Raw) -> Reply:
        await client.send(request_bytes(chat()))
        return await client.reply()

    async def work() -> None:
        async with scripted_upstream(script) as upstream:
            with threaded(upstream.base_url, CountingLoop) as served:
                async with connect(served.running.port) as client:
                    assert len((await ask(client)).events()) == MANY + 2
                    counts = served.loop.counts  # type: ignore[attr-defined]
                    assert counts["write"] <= counts["read"] + END_OF_BODY
                    assert counts["read"] < MANY / 10

    run(work)


def test_no_event_is_decoded_for_the_sake_of_its_text() -> None:
    async def look(made: Bench) -> None:
        few, many = await made.calls(FEW), await made.calls(MANY)
        decoded = {name: (few[name], many[name]) for name in DECODING}
        assert all(most <= least for least, most in decoded.values()), decoded
        assert decoded["OpenAIChat.notice"][1] == len(END)
        assert decoded["OpenAIChat.look"][1] >= 1

    measured(look)


def test_an_event_costs_few_calls_of_our_own_functions() -> None:
    async def look(made: Bench) -> None:
        few, many = await made.calls(FEW), await made.calls(MANY)
        an_event = (many.total() - few.total()) / (MANY - FEW)
        many.subtract(few)
        assert 0 < an_event <= CALLS_AN_EVENT, many.most_common(20)

    measured(look)
