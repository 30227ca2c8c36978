"""The HTTP contract of predictions, over real sockets."""

import asyncio

import pytest
from fronting import INFO, Fronted, Model, fronted
from msgspec import Raw, structs

from harness import connect, request_bytes, run, until
from tidegate.verdict import QUEUE_FULL, Refused
from tidegate.worker.health import Health, Setup

INPUT = {"input": {"prompt": "hi", "n": 2}}
SSE = "text/event-stream"


def test_a_sync_prediction_is_answered_at_its_end_with_output_and_logs() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            reply = await at.post(INPUT)
            assert reply.status == 200
            answer = reply.json()
            assert answer["id"].startswith("pred_")
            assert (answer["status"], answer["output"], answer["logs"]) == ("succeeded", ["w", "w"], "begun\n")
            assert not at.book.over  # its exchange records it
            assert at.memory.counted == 0

    run(scenario)


def test_a_failed_prediction_is_a_200_that_keeps_its_logs_and_output() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.breaks = True
            answer = (await at.post(INPUT)).json()
            assert (answer["status"], answer["error"]) == ("failed", "ValueError: x")
            assert (answer["output"], answer["logs"]) == (["w", "w"], "begun\n")

    run(scenario)


def test_an_async_prediction_is_accepted_and_asked_for_later() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            reply = await at.post({**INPUT, "id": "a"}, prefer="respond-async")
            assert (reply.status, reply.json()) == (202, {"id": "a", "status": "starting"})
            await until(lambda: not at.registry.running)
            shown = (await at.get("/predictions/a")).json()
            assert (shown["status"], shown["input"]) == ("succeeded", {"prompt": "hi", "n": 2})
            assert (await at.get("/predictions/b")).status == 404
            assert len(at.book.begun) == len(at.book.over) == 2

    run(scenario)


def test_async_with_a_wait_is_answered_at_the_end_if_that_comes_in_time() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            reply = await at.post(INPUT, prefer="respond-async; wait=60, handling=lenient")
            assert (reply.status, reply.json()["status"]) == (200, "succeeded")
            at.handler.gate.clear()
            assert (await at.post(INPUT, prefer="respond-async, wait=1")).status == 202
            at.handler.gate.set()

    run(scenario)


def test_events_come_in_order_with_ids_and_can_be_replayed_from_any() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            reply = await at.post({**INPUT, "id": "e"}, accept=SSE)
            assert reply.headers["content-type"] == SSE
            text = reply.body.decode()
            names = [line[7:] for line in text.split("\n") if line.startswith("event: ")]
            assert names == ["start", "log", "output", "output", "completed"]
            again = await at.get("/predictions/e", accept=SSE, last_event_id="3")
            assert again.body.decode() == text[text.index("id: 4\n") :]
            assert (await at.get("/predictions/e", accept=SSE, last_event_id="x")).status == 400

    run(scenario)


def test_a_put_is_the_same_prediction_for_the_same_input_and_a_conflict_for_another() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            first = await at.put("p", INPUT)
            second = await at.put("p", {"input": {"n": 2, "prompt": "hi"}, "context": {"k": "v"}})
            assert first.json() == second.json()
            assert len(at.handler.inputs) == 1
            assert (await at.put("p", {"input": {"prompt": "other"}})).status == 409
            later = await at.put("p", INPUT, prefer="respond-async")
            assert (later.status, later.json()["input"]) == (202, {"prompt": "hi", "n": 2})
            mismatch = await at.put("p", {**INPUT, "id": "q"})
            assert (mismatch.status, mismatch.json()["detail"][0]["loc"]) == (422, ["body", "id"])
            assert (await at.put("a%20b", INPUT)).status == 422

    run(scenario)


def test_a_post_with_an_id_that_runs_is_a_conflict_and_replaces_one_that_is_over() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.gate.clear()
            await at.post({**INPUT, "id": "a"}, prefer="respond-async")
            assert (await at.post({**INPUT, "id": "a"})).status == 409
            at.handler.gate.set()
            await until(lambda: not at.registry.running)
            assert (await at.post({**INPUT, "id": "a"})).status == 200
            assert len(at.handler.inputs) == 2

    run(scenario)


def test_a_cancel_ends_what_runs_of_the_same_tenant_only() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.gate.clear()
            await at.post({**INPUT, "id": "c"}, prefer="respond-async", authorization="one")
            assert (await at.post(b"", "/predictions/c/cancel", authorization="two")).status == 404
            reply = await at.post(b"", "/predictions/c/cancel", authorization="one")
            assert (reply.status, reply.json()) == (200, {})
            await until(lambda: not at.registry.running)
            shown = await at.get("/predictions/c", authorization="one")
            assert shown.json()["status"] == "canceled"
            gone = await at.post(b"", "/predictions/c/cancel", authorization="one")
            assert (gone.status, gone.json()) == (404, {})

    run(scenario)


async def _leaves(at: Fronted, **headers: str) -> None:
    at.handler.gate.clear()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with connect(at.port) as client:
        await client.send(request_bytes({**INPUT, "id": "l"}, path="/predictions", headers=named))
        await until(lambda: bool(at.model.stops))
    await until(lambda: not at.registry.running)
    assert (await at.get("/predictions/l")).json()["status"] == "canceled"


def test_a_sync_prediction_is_cancelled_when_its_client_leaves() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            await _leaves(at)

    run(scenario)


def test_a_streamed_prediction_is_cancelled_when_its_last_follower_leaves() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            await _leaves(at, accept=SSE)

    run(scenario)


def test_a_prediction_that_takes_too_long_has_failed() -> None:
    async def scenario() -> None:
        async with fronted(timeout_s=60.0) as at:
            at.handler.gate.clear()
            answer = (await at.post({**INPUT, "timeout": 0.05})).json()
            assert (answer["status"], answer["error"]) == ("failed", "timed out after 0.05 s")

    run(scenario)


def test_a_full_model_is_a_503_or_cogs_409_where_nobody_may_wait() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.fault = Refused(QUEUE_FULL, headers=((b"retry-after", b"3"),))
            reply = await at.post(INPUT)
            assert (reply.status, reply.headers["retry-after"]) == (503, "3")
            assert reply.json()["status"] == "failed"
            at.model.max_queue = 0
            assert (await at.post(INPUT, accept=SSE)).status == 409
            assert not len(at.registry)

    run(scenario)


def test_what_is_wrong_with_a_body_is_said_in_json() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            missing = await at.post({"input": {"n": -1}})
            assert missing.status == 422
            assert [(d["loc"][-1], d["type"]) for d in missing.json()["detail"]] == [
                ("n", "value_error"),
                ("prompt", "value_error.missing"),
            ]
            assert (await at.post(b'{"input":')).status == 400
            assert (await at.post(INPUT, content_type="text/plain")).status == 415
            assert (await at.post({**INPUT, "webhook": "ftp://x"})).status == 422
            assert (await at.post({**INPUT, "id": "../x"})).json()["detail"][0]["loc"] == ["body", "id"]
            assert len(at.book.over) == 5

    run(scenario)


def test_a_model_that_cannot_run_says_why() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.models["m"] = Model(info=None, status="STARTING")
            starting = await at.post(INPUT)
            assert (starting.status, "retry-after" in starting.headers) == (503, True)
            assert (await at.get("/openapi.json")).json() == {"error": "OpenAPI schema not available"}
            for status, again in (("SETUP_FAILED", False), ("DEFUNCT", True)):
                at.models["m"] = Model(info=None, status=status)
                failed = await at.post(INPUT, accept=SSE)
                assert (failed.status, "retry-after" in failed.headers) == (503, again)

    run(scenario)


def test_documents_are_there_for_a_single_model_and_always_by_its_name() -> None:
    async def scenario() -> None:
        async with fronted(shutdown=True) as at:
            assert (await at.get("/")).json()["predictions_url"] == "/predictions"
            assert (await at.get("/v1/models/m/openapi.json")).json() == {"openapi": "3.0.2"}
            health = (await at.get("/health-check")).json()
            assert (health["status"], health["setup"]["logs"], at.model.checked) == ("READY", "loaded", 1)
            at.keys.needed = True
            assert (await at.get("/health-check")).json() == {"status": "READY"}
            assert (await at.post(INPUT)).status == 401
            at.keys.needed = False
            assert (await at.post(b"", "/shutdown")).status == 200
            assert at.shut_down == 1
            at.models["o/2"] = Model("o/2")
            assert (await at.post(INPUT)).status == 404
            assert (await at.post(INPUT, "/v1/models/o%2F2/predictions")).status == 200
            assert (await at.post(INPUT, "/v1/models/x/predictions")).status == 404
            wrong = await at.get("/v1/models/m/predictions")
            assert (wrong.status, wrong.headers["allow"]) == (405, "POST")

    run(scenario)


def test_a_webhook_is_told_with_the_trace_of_the_request() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            body = {**INPUT, "webhook": "https://x.test/h", "webhook_events_filter": ["completed"]}
            await at.post(body, traceparent="00-1")
            assert at.hooked == [("https://x.test/h", frozenset({"completed"}), {"traceparent": "00-1"})]
            assert at.told[-1] == ("completed", "succeeded")

    run(scenario)


def test_a_drain_refuses_new_predictions_and_lets_others_be_followed() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            await at.put("d", INPUT)
            at.draining = True
            assert (await at.post(INPUT)).status == 503
            assert (await at.put("other", INPUT)).status == 503
            assert (await at.put("d", INPUT)).status == 200

    run(scenario)


def test_health_without_identity_hides_what_the_model_said() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.keys.needed = True
            at.model.found = Health("UNHEALTHY", Setup("succeeded", "x", "y", "secret"), "secret")
            reply = await at.get("/v1/models/m/health-check")
            assert (reply.status, reply.json()) == (200, {"status": "UNHEALTHY"})

    run(scenario)


def test_a_model_that_does_not_stream_is_a_406_before_its_input_is_looked_at() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.models["m"] = Model(info=structs.replace(INFO, streams=False))
            assert (await at.post({"input": {}}, accept=SSE)).status == 406
            assert (await at.post({"input": {}})).status == 422

    run(scenario)


def test_too_many_followers_are_turned_away() -> None:
    async def scenario() -> None:
        async with fronted(max_subscribers=0) as at:
            await at.post({**INPUT, "id": "a"})
            assert (await at.get("/predictions/a", accept=SSE)).status == 429

    run(scenario)


def test_a_sync_put_of_one_that_runs_waits_for_its_end() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.gate.clear()
            await at.put("w", INPUT, prefer="respond-async")
            async with connect(at.port) as client:
                await client.send(request_bytes(INPUT, path="/predictions/w", method="PUT"))
                await until(lambda: len(at.book.begun) == 1)
                at.handler.gate.set()
                assert (await client.reply()).json()["status"] == "succeeded"
            assert len(at.handler.inputs) == 1

    run(scenario)


def test_a_large_input_is_checked_all_the_same_and_a_cancel_needs_no_large_body() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            large = "x" * 2_000_000
            assert (await at.post({"input": {"prompt": large}})).status == 200
            assert (await at.post({"input": {"prompt": large, "n": -1}})).status == 422
            assert (await at.post({"x": large}, "/predictions/a/cancel")).status == 413

    run(scenario)


def test_a_schema_that_is_none_is_a_bug_that_is_answered_and_recorded() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.models["m"] = Model(info=structs.replace(INFO, input_schema=Raw(b'{"type":"nonsense"}')))
            assert (await at.post(INPUT)).status == 500
            assert at.book.over[0].status == 500

    run(scenario)


@pytest.mark.parametrize("headers", [{}, {"accept": SSE}])
def test_a_client_that_leaves_before_it_is_decided_takes_its_prediction_with_it(headers: dict[str, str]) -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.opening.clear()
            async with connect(at.port) as client:
                await client.send(request_bytes({**INPUT, "id": "l"}, path="/predictions", headers=headers))
                await until(lambda: bool(at.handler.inputs))
            await until(lambda: len(at.handler.ended) == 1)
            assert not at.registry.running
            assert not at.model.stops

    run(scenario)


def test_a_follower_that_leaves_is_recorded_and_leaves_the_prediction_alone() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.handler.gate.clear()
            await at.post({**INPUT, "id": "f"}, prefer="respond-async")
            async with connect(at.port) as client:
                await client.send(request_bytes(b"", path="/predictions/f", method="GET", headers={"accept": SSE}))
                await client.reader.readuntil(b"event: log")
            await until(lambda: bool(at.book.over))
            ending = at.book.over[0].ending
            assert ending is not None
            assert ending.verdict.code == "client_gone"
            at.handler.gate.set()
            await until(lambda: not at.registry.running)
            assert (await at.get("/predictions/f")).json()["status"] == "succeeded"

    run(scenario)


def test_two_large_puts_at_once_make_one_prediction() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            body = {"input": {"prompt": "x" * 2_000_000}}
            replies = await asyncio.gather(*(at.put("p", body) for _ in range(4)))
            assert [reply.status for reply in replies] == [200] * 4
            assert len(at.handler.inputs) == 1

    run(scenario)
