"""What the front of predictions holds to besides the contract: aliases, schemas that change, whose page asks."""

import asyncio
import json
import sys

import msgspec
import pytest
from fronting import INFO, Model, fronted
from msgspec import Raw, structs
from structlog.testing import capture_logs

from harness import connect, request_bytes, run, until
from tidegate.exchange import Arrival, Outcome
from tidegate.testing.memory import MemoryClient
from tidegate.verdict import BUG, CANCELLED, NOT_FOUND, RATE_LIMITED, Fault, Refused

INPUT = {"input": {"prompt": "hi", "n": 2}}
SSE = "text/event-stream"


def test_a_model_with_aliases_is_a_single_model_and_found_by_each_of_its_names() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.models["alias"] = at.model
            assert (await at.post({**INPUT, "id": "a"})).status == 200
            shown = await at.get("/v1/models/alias/predictions/a")
            assert (shown.status, shown.json()["model"]) == (200, "m")
            assert (await at.post({**INPUT, "id": "b"}, "/v1/models/alias/predictions")).status == 200
            assert (await at.get("/predictions/b")).json()["model"] == "m"
            assert (await at.post({**INPUT, "id": "b"}, "/v1/models/m/predictions")).status == 200
            at.models["other"] = Model("other")
            assert (await at.post(INPUT)).status == 404

    run(scenario)


def test_a_model_whose_schema_changed_is_checked_by_the_new_one_and_one_that_is_gone_is_forgotten() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.models["other"] = Model("other")
            paths = [f"/v1/models/{name}/predictions" for name in at.models]
            for path in paths:
                assert (await at.post({"input": {"prompt": "hi"}}, path)).status == 200
            assert set(at.front._inputs) == {"m", "other"}
            schema = {"type": "object", "properties": {"prompt": {"type": "integer"}}}
            at.model.info = structs.replace(INFO, input_schema=Raw(msgspec.json.encode(schema)))
            del at.models["other"]
            assert (await at.post({"input": {"prompt": "hi"}})).status == 422
            assert (await at.post({"input": {"prompt": 3}}, paths[0])).status == 200
            assert set(at.front._inputs) == {"m"}

    run(scenario)


def test_events_of_a_new_prediction_carry_the_headers_of_its_run() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.headers = ((b"x-tidegate-target", b"local/m"), (b"content-type", b"text/event-stream"))
            made = await at.post({**INPUT, "id": "h"}, accept=SSE)
            assert made.headers["x-tidegate-target"] == "local/m"
            assert made.headers["content-type"] == SSE
            assert (await at.post(INPUT)).headers["x-tidegate-target"] == "local/m"
            assert "x-tidegate-target" not in (await at.get("/predictions/h", accept=SSE)).headers

    run(scenario)


def test_who_may_not_follow_is_told_when_to_come_again() -> None:
    async def scenario() -> None:
        async with fronted(max_subscribers=0) as at:
            await at.post({**INPUT, "id": "a"})
            refused = await at.get("/predictions/a", accept=SSE)
            assert refused.status == 429
            assert int(refused.headers["retry-after"]) >= 1

    run(scenario)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.test"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "same-site", "origin": "http://127.0.0.1:9000"},
        {"origin": "http://127.0.0.1", "sec_fetch_site": "cross-site"},
    ],
)
def test_a_page_of_another_site_changes_nothing(headers: dict[str, str]) -> None:
    async def scenario() -> None:
        async with fronted(shutdown=True) as at:
            at.handler.gate.clear()
            await at.post({**INPUT, "id": "r"}, prefer="respond-async")
            for path in ("/shutdown", "/predictions/r/cancel", "/predictions"):
                # A page may send a body without a type to any address, and no browser asks before that.
                reply = await at.post(b"", path, **{**headers, "content_type": "text/plain"})
                assert reply.status == 403, path
            assert (at.shut_down, at.registry.running) == (0, 1)
            at.handler.gate.set()

    run(scenario)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://127.0.0.1"},
        {"sec_fetch_site": "same-origin", "origin": "https://behind-a-proxy.test"},
        {"sec_fetch_site": "none"},
        {"origin": "https://other.test", "authorization": "Bearer k"},
        {"origin": "https://other.test", "x_api_key": "k"},
        {"sec_fetch_site": "cross-site", "authorization": "Bearer k"},
    ],
)
def test_who_is_no_page_of_another_site_is_heard(headers: dict[str, str]) -> None:
    async def scenario() -> None:
        async with fronted(shutdown=True) as at:
            reply = await at.post(b"", "/shutdown", **{"content_type": "text/plain", **headers})
            assert (reply.status, at.shut_down) == (200, 1)

    run(scenario)


def test_an_asynchronous_put_of_one_that_never_ran_is_told_why() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.opening.clear()
            async with connect(at.port) as first, connect(at.port) as second:
                await first.send(request_bytes(INPUT, path="/predictions/w", method="PUT", headers={"accept": SSE}))
                await until(lambda: at.registry.running == 1)
                await second.send(request_bytes(INPUT, path="/predictions/w", method="PUT"))
                await until(lambda: len(at.book.begun) == 1)
                at.handler.fault = Refused(RATE_LIMITED)
                at.handler.opening.set()
                assert [(await first.reply()).status, (await second.reply()).status] == [429, 429]
            assert (await at.get("/predictions/w")).status == 404

    run(scenario)


def test_nobody_shuts_down_what_is_not_opened_for_that() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            refused = await at.post(b"", "/shutdown")
            assert (refused.status, at.shut_down) == (404, 0)
            assert "shutdown_url" not in (await at.get("/")).json()

    run(scenario)


def test_a_put_that_is_sent_again_is_followed_from_its_beginning_or_from_an_event_on() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            first = await at.put("p", INPUT, accept=SSE)
            assert (await at.put("p", INPUT, accept=SSE)).body == first.body
            rest = await at.put("p", INPUT, accept=SSE, last_event_id="2")
            assert first.body.endswith(rest.body)
            assert rest.body.startswith(b"id: 3\n")
            at.model.info = structs.replace(INFO, streams=False)
            assert (await at.put("p", INPUT, accept=SSE)).status == 406
            assert len(at.handler.inputs) == 1

    run(scenario)


def test_what_no_parameter_takes_is_counted_in_the_log_and_not_named() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            with capture_logs() as logs:
                assert (await at.post({"input": {"prompt": "hi", "canary": "canary"}})).status == 200
            (entry,) = [entry for entry in logs if entry["event"] == "input_members_dropped"]
            assert entry["count"] == 1
            assert "canary" not in str(logs)
            assert json.loads(at.handler.inputs[0]) == {"prompt": "hi"}

    run(scenario)


class _Slow:
    """Fits exchange.Upload: a body that does not come."""

    async def read(self, within_s: float = 0.0) -> bytes:
        await asyncio.Event().wait()
        return b""


def test_a_request_that_is_broken_off_while_it_comes_is_recorded_once() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            client, outcome = MemoryClient(), Outcome(1.0)
            arrival = Arrival("r", 1, "predictions", {b"content-length": b"9"}, "127.0.0.1", _Slow(), outcome)
            arrival.target = "/predictions"
            answering = at.tasks.spawn(at.front.conduct(arrival, client))
            await until(lambda: at.memory.counted == 9)
            answering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await answering
            assert at.book.over == [outcome]
            assert outcome.ending is not None
            assert outcome.ending.verdict is CANCELLED
            assert (at.memory.counted, at.registry.running) == (0, 0)

    run(scenario)


def test_what_the_edge_refuses_is_recorded_by_the_gateway() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            fault = Fault(NOT_FOUND)
            at.front.refuse(Arrival("r", 1, "predictions", {}, "127.0.0.1", _Slow(), Outcome(1.0)), fault)
            assert at.handler.refused == [fault]

    run(scenario)


def test_a_bug_on_the_way_to_a_prediction_leaves_none_that_is_waited_for_in_vain_and_is_recorded() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.model.name = "\ud800"  # what no JSON can say to a worker
            with capture_logs() as logs:
                for _ in range(2):
                    assert (await at.put("p1", INPUT)).status == 500
            assert [line["event"] for line in logs] == ["bug", "bug"]
            assert "write_envelope" in logs[0]["at"]
            assert len(at.registry) == 0
            await until(lambda: len(at.book.over) == 2)
            assert {outcome.ending.verdict for outcome in at.book.over if outcome.ending is not None} == {BUG}

    run(scenario)


@pytest.mark.parametrize(("size", "here"), [(10, True), (2 * 1024 * 1024, False)])
def test_a_large_input_is_written_for_the_worker_in_a_thread(size: int, *, here: bool) -> None:
    async def scenario() -> None:
        async with fronted() as at:
            called: set[str] = set()
            sys.setprofile(lambda frame, _event, _arg: called.add(frame.f_code.co_name))
            try:
                reply = await at.post({"input": {"prompt": "x" * size}})
            finally:
                sys.setprofile(None)
            assert reply.status == 200
            assert "read_envelope" in called
            assert ("write_envelope" in called) is here

    run(scenario)


class Broken(MemoryClient):
    """A client whose connection breaks its contract."""

    def write(self, data: bytes, /) -> None:
        raise ZeroDivisionError(data.decode())


def test_what_a_follower_s_connection_raised_is_in_the_log_and_the_prediction_goes_on() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.gate.clear()
            await at.put("p1", INPUT, prefer="respond-async")
            prediction = at.registry.find(("", "m", "p1"))
            assert prediction is not None
            with capture_logs() as logs:
                prediction.attach(Broken())
                await until(lambda: bool(logs))
            (line,) = logs
            assert (line["event"], line["prediction"], line["error"]) == ("bug", "p1", "ZeroDivisionError")
            assert line["at"].split(" > ")[-1].startswith("Broken.write:")
            at.handler.gate.set()
            await prediction.wait_over()
            assert prediction.status == "succeeded"

    run(scenario)
