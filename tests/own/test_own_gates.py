"""Predictions pass what every exchange passes: keys, limits, slots and the queue, a drain, another configuration."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from harness import ask, gateway, make_config, run, until
from owning import ASYNC, EVENTS, ROOT, following, model, owning, provider
from tidegate.admission.identity import hash_key

KEYS = ("key-of-the-first", "key-of-the-second")
AUTH = {
    "mode": "keys",
    "keys": [{"id": f"k{number}", "sha256": hash_key(key), "tenant": f"t{number}"} for number, key in enumerate(KEYS)],
}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_full_model_makes_others_wait_and_then_serves_them() -> None:
    async def work() -> None:
        async with owning("single") as own:
            await own.begun("first")
            second = asyncio.create_task(own.post({"seconds": 0}, id="second"))
            await until(lambda: own.busy()["waiting"] == 1)
            assert (await own.seen("second"))["status"] == "starting"
            assert (await own.get("/health-check")).json()["status"] == "BUSY"
            await own.cancel("first")
            assert (await second).json()["status"] == "succeeded"
            await own.at_rest()

    run(work)


def test_a_full_queue_is_a_503_that_says_when_to_come_back() -> None:
    async def work() -> None:
        async with owning("single", provider={"slots": {"max_queue": 1}}) as own:
            await own.begun("runs")
            assert (await own.put("waits", {}, headers=ASYNC)).status == 202
            for headers in ({}, ASYNC, EVENTS):
                reply = await own.post({}, headers=headers)
                assert reply.status == 503, headers
                assert int(reply.headers["retry-after"]) >= 1
                assert reply.json()
            await own.cancel("waits")
            await own.cancel("runs")
            await own.at_rest()
            assert sorted(own.codes()) == ["client_gone", "client_gone", "queue_full", "queue_full", "queue_full"]

    run(work)


def test_without_a_queue_a_full_model_is_a_conflict() -> None:
    async def work() -> None:
        async with owning("single", provider={"slots": {"max_queue": 0}}) as own:
            await own.begun("runs")
            for headers in ({}, ASYNC, EVENTS):
                assert (await own.post({}, headers=headers)).status == 409
            await own.cancel("runs")
            await own.at_rest()

    run(work)


def test_a_wait_in_line_that_is_too_long_fails_the_prediction() -> None:
    async def work() -> None:
        async with owning("single", provider={"slots": {"max_queue_wait": 0.2}}) as own:
            await own.begun("runs")
            assert (await own.put("waits", {}, headers=ASYNC)).status == 202
            assert (await own.until_status("waits", "failed"))["error"]
            reply = await own.post({})
            assert reply.status == 503
            await own.cancel("runs")
            await own.at_rest()

    run(work)


def test_keys_are_asked_for_and_tenants_do_not_see_each_other() -> None:
    async def work() -> None:
        async with owning("steps", auth=AUTH) as own:
            assert (await own.post({"seconds": 0})).status == 401
            assert (await own.post({"seconds": 0}, headers=ASYNC)).status == 401
            assert (await own.post({"seconds": 0}, headers=EVENTS)).status == 401
            mine, other = map(bearer, KEYS)
            await own.begun("p1", {"name": "mine"}, headers=mine)
            for path, method in ((f"{ROOT}/p1", "GET"), (f"{ROOT}/p1/cancel", "POST")):
                assert (await ask(own.port, b"", path=path, method=method)).status == 401
                assert (await ask(own.port, b"", path=path, method=method, headers=other)).status == 404
            async with following(own.port, "p1", authorization=other["authorization"]) as events:
                assert events.status == 404
            # The same id is another prediction of another tenant.
            theirs = await own.put("p1", {"seconds": 0, "name": "theirs"}, headers=other)
            assert theirs.json()["output"][1] == "theirs0"
            assert (await own.seen("p1", **mine))["status"] == "processing"
            assert (await own.cancel("p1", **mine)).status == 200
            await own.at_rest()
            entries = [entry for entry in own.running.entries() if entry.provider]
            assert [(entry.key_id, entry.tenant) for entry in entries] == [("k1", "t1"), ("k0", "t0")]

    run(work)


def test_a_rate_limit_counts_predictions_of_every_sort() -> None:
    async def work() -> None:
        limits = {"rate": [{"by": "ip", "requests_per_minute": 3, "burst": 3}]}
        async with owning("echo", limits=limits) as own:
            for _ in range(3):
                assert (await own.post({})).status == 200
            for headers in ({}, ASYNC):
                reply = await own.post({}, headers=headers)
                assert reply.status == 429
                assert "retry-after" in reply.headers
            assert (await own.get("/health-check")).status == 200
            await own.at_rest()

    run(work)


def test_answers_carry_what_is_left_of_a_limit() -> None:
    async def work() -> None:
        limits = {"rate": [{"by": "ip", "requests_per_minute": 60}]}
        async with owning("echo", limits=limits) as own:
            for headers in ({}, ASYNC):
                reply = await own.post({}, headers=headers)
                assert any("ratelimit" in name for name in reply.headers), (headers, reply.headers)
            await own.at_rest()

    run(work)


@pytest.mark.slow
def test_a_drain_lets_predictions_end_and_refuses_new_ones() -> None:
    async def work() -> None:
        async with owning("steps", server={"drain_timeout": 30.0}) as own:
            await own.begun("p1", {"seconds": 1.0, "name": "n"})
            async with following(own.port, "p1") as events:
                stopping = asyncio.create_task(own.tidegate.stop(delay_s=0.0))
                told = await events.rest()
                await stopping
            assert told[-1][1]["status"] == "succeeded"
            assert own.codes() == ["completed"]

    run(work)


def test_what_does_not_end_in_the_time_of_a_drain_is_failed_and_told_so() -> None:
    async def work() -> None:
        async with owning("steps", server={"drain_timeout": 0.3}) as own:
            await own.begun("p1", {})
            async with following(own.port, "p1") as events:
                stopping = asyncio.create_task(own.tidegate.stop(delay_s=0.0))
                told = await events.rest()
                await stopping
            assert (told[-1][0], told[-1][1]["status"]) == ("completed", "failed")
            assert told[-1][1]["logs"] == "begun \n"
            assert own.codes() == ["server_shutdown"]

    run(work)


def other(own: Any, *providers: dict[str, Any], **sections: Any) -> Any:
    """Give another configuration for the same ports."""
    sections.setdefault("models", [model()])
    return make_config("http://127.0.0.1:9", providers=list(providers), **sections)


@pytest.mark.slow
def test_a_reload_to_more_workers_lets_what_runs_end_where_it_is() -> None:
    async def work() -> None:
        async with owning("single", server={"drain_timeout": 20.0}) as own:
            before = await own.begun("before", {"seconds": 2.0})
            own.tidegate.reload(other(own, provider("single", local={"workers": 2})))
            await own.ready()
            replies = await asyncio.gather(own.post({"seconds": 0.5}), own.post({"seconds": 0.5}))
            pids = {reply.json()["output"][0] for reply in replies}
            assert before["output"][0] not in pids
            found = await own.until_status("before", "succeeded", "failed", "canceled")
            assert found["output"] == [before["output"][0], "done"]
            await until(lambda: own.local.slots == 2)
            await own.at_rest()

    run(work)


@pytest.mark.slow
def test_who_waits_in_line_at_a_reload_still_runs() -> None:
    async def work() -> None:
        async with owning("single", server={"drain_timeout": 20.0}) as own:
            await own.begun("runs", {"seconds": 1.0})
            for name in ("waits", "waits-too"):
                assert (await own.put(name, {"seconds": 0.2}, headers=ASYNC)).status == 202
            sync = asyncio.create_task(own.post({"seconds": 0.2}))
            await until(lambda: own.slots.waiting == 3)
            own.tidegate.reload(other(own, provider("single", local={"workers": 2})))
            for name in ("runs", "waits", "waits-too"):
                assert (await own.until_status(name, "succeeded", "failed"))["status"] == "succeeded"
            assert (await sync).json()["status"] == "succeeded"
            await own.at_rest()

    run(work)


@pytest.mark.slow
def test_a_stop_soon_after_a_reload_leaves_no_process_of_before() -> None:
    processes: list[str] = []

    async def work() -> None:
        async with owning("single", server={"drain_timeout": 0.5}) as own:
            before = await own.begun("before", {"seconds": 60.0})
            own.tidegate.reload(other(own, provider("single", local={"workers": 2})))
            await own.ready()
            processes.extend(before["output"])

    run(work)
    assert [Path(f"/proc/{process}").exists() for process in processes] == [False]


def test_a_prediction_of_before_a_reload_can_still_be_cancelled() -> None:
    async def work() -> None:
        async with owning("single", server={"drain_timeout": 20.0}) as own:
            await own.begun("before")
            own.tidegate.reload(other(own, provider("single", local={"workers": 2})))
            await own.ready()
            assert (await own.cancel("before")).status == 200
            await own.until_status("before", "canceled")
            await own.at_rest()

    run(work)


def test_a_reload_that_changes_nothing_about_a_model_leaves_its_processes_alone() -> None:
    async def work() -> None:
        async with owning("steps") as own:
            before = await own.begun("before")
            own.tidegate.reload(other(own, provider("steps"), limits={"max_connections": 77}))
            assert (await own.post({"seconds": 0})).json()["output"][0] == before["output"][0]
            await own.cancel("before")
            await own.at_rest()

    run(work)


def test_a_reload_leaves_as_many_slots_as_there_is_room_and_changes_what_the_file_says_of_them() -> None:
    async def work() -> None:
        async with owning("steps") as own:
            assert own.slots.settings.max_streams == 32
            for most, slots in ((0, 32), (3, 3), (50, 32), (0, 32)):
                own.tidegate.reload(other(own, provider("steps", slots={"max_streams": most, "max_queue": 0})))
                assert own.slots.settings.max_streams == slots
            own.tidegate.reload(other(own, provider("steps", slots={"max_streams": 2, "max_queue": 0})))
            await own.begun("p1")
            await own.begun("p2")
            assert (await own.post({})).status == 409
            await own.cancel("p1")
            await own.cancel("p2")
            await own.at_rest()

    run(work)


def test_processes_that_are_set_up_after_a_reload_make_room_under_the_present_settings() -> None:
    async def work() -> None:
        async with owning("steps", ready=False) as own:
            assert own.local.slots == 0
            own.tidegate.reload(other(own, provider("steps", slots={"max_streams": 3, "max_queue": 7})))
            await own.ready()
            assert (own.slots.settings.max_streams, own.slots.settings.max_queue) == (3, 7)
            own.tidegate.reload(other(own, provider("steps", slots={"max_queue": 8})))
            assert (own.slots.settings.max_streams, own.slots.settings.max_queue) == (32, 8)

    run(work)


def test_processes_that_a_reload_sent_away_while_they_were_set_up_say_nothing_of_room() -> None:
    async def work() -> None:
        async with owning("steps", ready=False) as own:
            before = own.local
            own.tidegate.reload(other(own, provider("single")))
            await own.ready()
            assert own.local is not before
            before.crew._on_slots(32)
            assert own.slots.settings.max_streams == 1
            assert (await own.post({"seconds": 0})).json()["status"] == "succeeded"

    run(work)


def test_a_reload_changes_when_those_hear_a_comment_who_follow_from_then_on() -> None:
    async def work() -> None:
        async with owning("steps", server={"heartbeat": 0}) as own:
            await own.begun("p1", {"seconds": 40.0})
            own.tidegate.reload(other(own, provider("steps"), server={"heartbeat": 0.02}))
            async with following(own.port, "p1") as events, asyncio.timeout(10.0):
                await events.raw.reader.readuntil(b": keep-alive\n\n")
            await own.cancel("p1")
            await own.at_rest()

    run(work)


def test_a_reload_brings_the_first_model_of_our_own_and_takes_it_away() -> None:
    async def work() -> None:
        async with gateway() as running:
            assert (await ask(running.port, {"input": {}}, path=ROOT)).status == 404
            plain = make_config("http://127.0.0.1:9/v1")
            first = make_config(
                "http://127.0.0.1:9/v1",
                providers=[{}, provider("Words")],
                models=[{"name": "mock", "targets": [{"provider": "main", "model": "mock"}]}, model()],
            )
            running.tidegate.reload(first)
            assert await running.tidegate.wiring.locals["mine"].wait_ready(40)
            reply = await ask(running.port, {"input": {"prompt": "a"}}, path=ROOT)
            assert reply.json()["output"] == ["a "]
            listed = await ask(running.port, b"", path="/v1/models", method="GET")
            assert "own" in {row["id"] for row in listed.json()["data"]}
            running.tidegate.reload(plain)
            assert (await ask(running.port, {"input": {}}, path=ROOT)).status == 404
            assert (await ask(running.port, {"input": {}}, path="/v1/models/own/predictions")).status == 404

    run(work)


def test_two_models_are_asked_by_their_names_alone() -> None:
    async def work() -> None:
        providers = [provider("Words"), provider("echo", "yours")]
        models = [model(), {**model("echo", "yours"), "aliases": ["e"]}]
        async with owning(providers=providers, models=models) as own:
            assert (await own.post({})).status == 404
            for name, output in (("own", ["a "]), ("echo", "hi"), ("e", "hi")):
                given = {"prompt": "a"} if name == "own" else {"text": "hi"}
                reply = await own.post(given, path=f"/v1/models/{name}/predictions")
                assert reply.json()["output"] == output
            await own.at_rest()

    run(work)
