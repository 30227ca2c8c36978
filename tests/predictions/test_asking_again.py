"""Who asks again with a PUT: what is no answer to them is run anew, once, and what somebody was promised goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fronting import Fronted, fronted

from harness import Raw, connect, request_bytes, run, until
from tidegate.verdict import QUEUE_TIMEOUT, Refused

INPUT = {"input": {"prompt": "hi", "n": 2}}
SSE = "text/event-stream"


async def _begin(at: Fronted, client: Raw, ident: str = "p", **headers: str) -> None:
    """Ask for a prediction that does not end by itself, and wait until it runs."""
    at.handler.gate.clear()
    await client.send(request_bytes(INPUT, path=f"/predictions/{ident}", method="PUT", headers=headers))
    await until(lambda: bool(at.model.stops))


@asynccontextmanager
async def _asked_again(at: Fronted) -> AsyncIterator[Raw]:
    """Give a client that asks for what another began, as soon as that one has left."""
    async with connect(at.port) as second:
        async with connect(at.port) as first:
            await _begin(at, first)
            await second.send(request_bytes(INPUT, path="/predictions/p", method="PUT"))
            await until(lambda: len(at.book.begun) == 1)
        yield second


@pytest.mark.parametrize("first", [{}, {"accept": SSE}])
@pytest.mark.parametrize("again", [{}, {"accept": SSE}, {"prefer": "respond-async"}])
def test_a_put_whose_client_left_is_run_anew_for_who_asks_again(first: dict[str, str], again: dict[str, str]) -> None:
    async def scenario() -> None:
        async with fronted() as at:
            async with connect(at.port) as client:
                await _begin(at, client, **first)
            await until(lambda: not at.registry.running)
            assert (await at.get("/predictions/p")).json()["status"] == "canceled"
            at.handler.gate.set()
            reply = await at.put("p", INPUT, **again)
            await until(lambda: not at.registry.running)
            assert reply.status == (202 if "prefer" in again else 200)
            assert (await at.get("/predictions/p")).json()["status"] == "succeeded"
            assert len(at.handler.inputs) == 2
            assert (await at.put("p", INPUT)).json()["status"] == "succeeded"
            assert len(at.handler.inputs) == 2

    run(scenario)


def test_a_stream_that_is_run_anew_begins_with_its_beginning_whatever_was_seen_of_the_one_before() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            async with connect(at.port) as client:
                await _begin(at, client, accept=SSE)
                await client.reader.readuntil(b"event: log")
            await until(lambda: not at.registry.running)
            at.handler.gate.set()
            reply = await at.put("p", INPUT, accept=SSE, last_event_id="2")
            assert reply.body.startswith(b"id: 1\nevent: start\n")

    run(scenario)


def test_who_asks_again_while_it_is_being_stopped_waits_for_that_and_has_it_run_anew_once() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.stopping.clear()
            async with connect(at.port) as client:
                await _begin(at, client)
            await until(lambda: next(iter(at.registry.live())).asked_to_cancel)
            asking = [asyncio.ensure_future(at.put("p", INPUT)) for _ in range(5)]
            await until(lambda: at.memory.read == 6)
            assert len(at.handler.inputs) == 1
            at.handler.gate.set()
            at.handler.stopping.set()
            replies = await asyncio.gather(*asking)
            assert [reply.json()["status"] for reply in replies] == ["succeeded"] * 5
            assert len(at.handler.inputs) == 2

    run(scenario)


@pytest.mark.parametrize("by", ["a cancel", "its time"])
def test_what_was_stopped_by_somebody_who_meant_it_is_the_answer_to_who_asks_again(by: str) -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.gate.clear()
            timeout = {"timeout": 0.05} if by == "its time" else {}
            await at.put("p", {**INPUT, **timeout}, prefer="respond-async")
            if by == "a cancel":
                assert (await at.post(b"", "/predictions/p/cancel")).status == 200
            await until(lambda: not at.registry.running)
            again = await at.put("p", INPUT)
            assert again.json()["status"] == ("failed" if timeout else "canceled")
            assert len(at.handler.inputs) == 1

    run(scenario)


def test_a_cancel_of_what_is_being_stopped_anyway_is_meant() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.stopping.clear()
            async with connect(at.port) as client:
                await _begin(at, client)
            await until(lambda: next(iter(at.registry.live())).asked_to_cancel)
            assert (await at.post(b"", "/predictions/p/cancel")).status == 200
            at.handler.stopping.set()
            assert (await at.put("p", INPUT)).json()["status"] == "canceled"
            assert len(at.handler.inputs) == 1

    run(scenario)


def test_a_retry_that_came_before_its_first_client_was_missed_keeps_it_running() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            async with _asked_again(at) as second:
                await asyncio.sleep(0.05)
                assert at.registry.running == 1
                at.handler.gate.set()
                assert (await second.reply()).json()["status"] == "succeeded"
            assert len(at.handler.inputs) == 1

    run(scenario)


def test_the_last_who_waits_takes_it_along() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            async with _asked_again(at):
                assert at.registry.running == 1
            await until(lambda: not at.registry.running)
            assert (await at.get("/predictions/p")).json()["status"] == "canceled"

    run(scenario)


def test_what_never_ran_is_run_for_who_asks_again() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.waits = True
            at.handler.opening.clear()
            assert (await at.put("p", INPUT, prefer="respond-async")).status == 202
            at.handler.fault = Refused(QUEUE_TIMEOUT)
            at.handler.opening.set()
            await until(lambda: not at.registry.running)
            shown = (await at.get("/predictions/p")).json()
            assert (shown["status"], shown["started_at"], shown["metrics"]) == ("failed", None, {"predict_time": 0.0})
            at.handler.fault = None
            assert (await at.put("p", INPUT)).json()["status"] == "succeeded"

    run(scenario)


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_stream_that_is_asked_for_with_respond_async_goes_on_when_its_reader_leaves(method: str) -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.gate.clear()
            path = "/predictions/p" if method == "PUT" else "/predictions"
            headers = {"accept": SSE, "prefer": "respond-async"}
            async with connect(at.port) as client:
                await client.send(request_bytes({**INPUT, "id": "p"}, path=path, method=method, headers=headers))
                head = await client.reader.readuntil(b"event: log")
                assert b"preference-applied: respond-async" in head
            await until(lambda: not any(len(each.history) for each in at.registry.live()))
            assert at.registry.running == 1
            at.handler.gate.set()
            rest = await at.put("p", INPUT, accept=SSE, prefer="respond-async", last_event_id="2")
            assert rest.headers["preference-applied"] == "respond-async"
            assert rest.body.startswith(b"id: 3\n")
            assert b"event: completed\n" in rest.body
            assert len(at.handler.inputs) == 1

    run(scenario)


@pytest.mark.parametrize("again", [{}, {"accept": SSE}])
def test_who_is_promised_that_it_goes_on_can_trust_that_whoever_asked_first(again: dict[str, str]) -> None:
    async def scenario() -> None:
        async with fronted() as at:
            async with connect(at.port) as first:
                await _begin(at, first)
                headers = {"prefer": "respond-async", **again}
                async with connect(at.port) as second:
                    await second.send(request_bytes(INPUT, path="/predictions/p", method="PUT", headers=headers))
                    await second.reader.readuntil(b"preference-applied: respond-async\r\n")
            await asyncio.sleep(0.05)
            assert at.registry.running == 1
            at.handler.gate.set()
            await until(lambda: not at.registry.running)
            assert (await at.get("/predictions/p")).json()["status"] == "succeeded"

    run(scenario)


def test_a_retry_of_what_was_left_is_refused_while_the_server_drains() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            async with connect(at.port) as client:
                await _begin(at, client)
            await until(lambda: not at.registry.running)
            at.draining = True
            assert (await at.put("p", INPUT)).status == 503

    run(scenario)
