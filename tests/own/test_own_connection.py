"""A connection whose prediction is answered takes the next request, whatever is still to be given back for the one before."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from harness import Raw, connect, request_bytes, run
from owning import ROOT, Owned, owning

TOO_MUCH = "too_much"
"""A handler whose output is above the limit, and that goes on."""
BOUNDED = {"local": {"max_output_bytes": 1000, "cancel_grace": 3.0}}


@asynccontextmanager
async def answered(**headers: str) -> AsyncIterator[tuple[Owned, Raw]]:
    """Give a connection with a whole answer to a prediction whose process is still at work."""
    async with owning(TOO_MUCH, provider=BOUNDED) as own, connect(own.port) as raw:
        await raw.send(request_bytes({"input": {}}, path=ROOT, headers=headers))
        reply = await raw.reply()
        assert (reply.status, reply.json()["status"]) == (200, "failed")
        assert own.local.opened == 1
        yield own, raw
        await own.at_rest()


@pytest.mark.slow
def test_the_next_request_is_answered_while_the_place_is_still_taken() -> None:
    async def work() -> None:
        async with answered() as (own, raw):
            await raw.send(request_bytes(b"", path="/openapi.json", method="GET"))
            assert (await raw.reply()).status == 200
            assert own.local.opened == 1

    run(work)


@pytest.mark.slow
def test_a_connection_that_is_to_be_closed_is_while_the_place_is_still_taken() -> None:
    async def work() -> None:
        async with answered(connection="close") as (own, raw):
            assert await raw.reader.read() == b""
            assert own.local.opened == 1

    run(work)


FILE = "data:text/plain;base64," + base64.b64encode(b"low tide\n" * 11_000).decode()


@pytest.mark.parametrize("slots", [{}, {"max_queue": 0}], ids=["a line", "no line"])
def test_requests_with_files_follow_one_another_on_one_connection(slots: dict[str, int]) -> None:
    async def work() -> None:
        async with owning("upper", provider={"slots": slots}) as own, connect(own.port) as raw:
            for _ in range(20):
                await raw.send(request_bytes({"input": {"file": FILE}}, path=ROOT))
                reply = await raw.reply()
                assert (reply.status, reply.json()["status"]) == (200, "succeeded")
                await raw.send(request_bytes(b"", path="/health-check", method="GET"))
                assert (await raw.reply()).json()["status"] == "READY"
            await own.at_rest()

    run(work)


def test_pipelined_predictions_do_not_stand_in_each_other_s_way() -> None:
    async def work() -> None:
        async with owning(provider={"slots": {"max_queue": 0}}) as own, connect(own.port) as raw:
            await raw.send(request_bytes({"input": {"prompt": "a b"}}, path=ROOT) * 5)
            assert [(await raw.reply()).status for _ in range(5)] == [200] * 5
            await own.at_rest()

    run(work)
