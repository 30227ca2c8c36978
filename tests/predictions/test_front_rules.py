"""What the front of predictions holds to besides the contract: aliases, schemas that change, whose page asks."""

import msgspec
import pytest
from fronting import INFO, Model, fronted
from msgspec import Raw, structs

from harness import connect, request_bytes, run, until
from tidegate.verdict import RATE_LIMITED, Refused

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
        {"origin": "http://test", "sec_fetch_site": "cross-site"},
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
        {"origin": "http://test"},
        {"sec_fetch_site": "same-origin", "origin": "https://behind-a-proxy.test"},
        {"sec_fetch_site": "same-site"},
        {"origin": "https://other.test", "authorization": "Bearer k"},
        {"origin": "https://other.test", "x_api_key": "k"},
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
