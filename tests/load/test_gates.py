import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from chaos import quiet_port
from gates import Gate, Mode
from harness import ask, chat, connect, request_bytes, run, until
from tidegate.mock.server import MockProvider


def gated(work: Callable[[Gate], Awaitable[None]]) -> None:
    async def bounded() -> None:
        mock = MockProvider()
        behind = await mock.start()
        gate = Gate(quiet_port(random.Random()), behind, set(), random.Random(1))
        await gate.open()
        try:
            await work(gate)
        finally:
            await gate.close()
            await mock.close()

    run(bounded)


def test_a_fine_gate_lets_requests_through_and_counts_which_came_before() -> None:
    async def work(gate: Gate) -> None:
        async with connect(gate.port) as client:
            for name in ("one", "two", "one"):
                await client.send(request_bytes(chat(), headers={"x-request-id": name}))
                assert (await client.reply()).events()[-1] == "[DONE]"
        assert (gate.hits, gate.extra) == (3, 1)

    gated(work)


@pytest.mark.parametrize(("mode", "status"), [("busy", 429), ("failing", 503)])
def test_a_gate_answers_in_its_providers_place(mode: Mode, status: int) -> None:
    async def work(gate: Gate) -> None:
        await gate.turn(mode)
        assert (await ask(gate.port, chat())).status == status
        await gate.turn("fine")
        assert (await ask(gate.port, chat())).status == 200

    gated(work)


def test_a_flaky_gate_fails_some_requests_and_not_others() -> None:
    async def work(gate: Gate) -> None:
        await gate.turn("flaky")
        assert {(await ask(gate.port, chat())).status for _ in range(20)} == {200, 503}

    gated(work)


def test_a_gate_that_stalls_holds_what_comes_until_it_is_fine_again() -> None:
    async def work(gate: Gate) -> None:
        await gate.turn("stall")
        async with connect(gate.port) as client:
            await client.send(request_bytes(chat()))
            await until(lambda: gate.hits == 1)
            reply = asyncio.ensure_future(client.reply())
            await asyncio.sleep(0.05)
            assert not reply.done()
            await gate.turn("fine")
            assert (await reply).events()[-1] == "[DONE]"

    gated(work)


def test_a_gate_that_stalls_holds_a_stream_in_its_middle() -> None:
    async def work(gate: Gate) -> None:
        async with connect(gate.port) as client:
            await client.send(request_bytes(chat("mock?itl=2ms&tokens=100")))
            head = await client.reader.readuntil(b"\r\n\r\n")
            await gate.turn("stall")
            came = await client.reader.readuntil(b"\n\n")
            await gate.turn("fine")
            rest = await client.reader.readuntil(b"[DONE]")
            assert head.startswith(b"HTTP/1.1 200")
            assert (came + rest).count(b"data:") == 103

    gated(work)


def test_a_gate_that_resets_ends_streams_and_requests() -> None:
    async def work(gate: Gate) -> None:
        async with connect(gate.port) as client:
            await client.send(request_bytes(chat("mock?itl=20ms&tokens=1000")))
            await client.reader.readuntil(b"\n\n")
            await gate.turn("reset")
            assert await client.closed()
        with pytest.raises(EOFError):
            await ask(gate.port, chat())
        assert gate.hits == 2

    gated(work)


def test_a_gate_that_refuses_does_not_listen_until_it_is_fine_again() -> None:
    async def work(gate: Gate) -> None:
        await gate.turn("refuse")
        with pytest.raises(ConnectionRefusedError):
            await ask(gate.port, chat())
        await gate.turn("fine")
        assert (await ask(gate.port, chat())).status == 200

    gated(work)


def test_a_gate_resets_the_client_when_nobody_stands_behind_it() -> None:
    async def work(gate: Gate) -> None:
        gate.behind = quiet_port(random.Random())
        with pytest.raises(EOFError):
            await ask(gate.port, chat())

    gated(work)
