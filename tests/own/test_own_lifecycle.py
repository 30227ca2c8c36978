"""Predictions from their request to their end, through a whole gateway with real workers."""

import asyncio
import json
from typing import Any

import pytest

from harness import connect, request_bytes, run, until
from owning import ASYNC, ROOT, WAIT_S, Events, Owned, following, owning


def test_a_sync_prediction_comes_back_with_output_logs_and_metrics() -> None:
    async def work() -> None:
        async with owning() as own:
            reply = await own.post({"prompt": "a b"})
            assert reply.status == 200
            found = reply.json()
            assert found["status"] == "succeeded"
            assert found["output"] == ["a ", "b "]
            assert found["logs"] == "asked for a b\n"
            assert found["metrics"]["words"] == 2
            assert found["metrics"]["predict_time"] > 0
            entry = await own.running.entry()
            assert (entry.code, entry.route, entry.model, entry.provider) == ("completed", "predictions", "own", "mine")
            assert len(own.running.entries()) == 1
            await own.at_rest()

    run(work)


def test_an_async_prediction_is_accepted_at_once_and_found_later() -> None:
    async def work() -> None:
        async with owning() as own:
            reply = await own.post({"prompt": "a b"}, headers=ASYNC)
            assert reply.status == 202
            assert reply.headers["preference-applied"] == "respond-async"
            accepted = reply.json()
            assert accepted["status"] == "starting"
            found = await own.until_status(accepted["id"], "succeeded")
            assert found["output"] == ["a ", "b "]
            assert found["input"] == {"prompt": "a b"}
            await own.at_rest()
            assert own.codes() == ["completed"]

    run(work)


def test_events_tell_the_whole_life_and_go_on_behind_the_last_that_was_seen() -> None:
    async def work() -> None:
        async with owning() as own:
            async with following(own.port, "p1", {"input": {"prompt": "a b c"}}) as events:
                assert events.status == 200
                told = await events.rest()
            assert [number for _, _, number in told] == list(range(1, len(told) + 1))
            assert [name for name, _, _ in told if name != "metric"] == [
                "start", "log", "output", "output", "output", "completed"
            ]  # fmt: skip
            assert [data for name, data, _ in told if name == "output"] == [
                {"chunk": f"{word} ", "index": index} for index, word in enumerate("abc")
            ]
            assert told[-1][1]["output"] == ["a ", "b ", "c "]
            # Who comes late gets the same, and who saw some of it the rest.
            for after in ("", *(str(number) for number in range(1, len(told)))):
                headers = {"last_event_id": after} if after else {}
                async with following(own.port, "p1", **headers) as events:
                    assert await events.rest() == told[int(after or 0) :]
            assert own.codes() == ["completed"]
            await own.at_rest()

    run(work)


@pytest.mark.slow
def test_a_stream_that_was_cut_is_resumed_while_it_goes_on() -> None:
    async def work() -> None:
        async with owning("steps") as own:
            await own.begun("p1", {"seconds": 1.0, "count": 20, "name": "n"})
            async with following(own.port, "p1") as events:
                seen = [await events.next() for _ in range(5)]
            last = seen[-1]
            assert last is not None
            async with following(own.port, "p1", last_event_id=str(last[2])) as events:
                rest = await events.rest()
            told = [event for event in (*seen, *rest) if event is not None]
            assert [number for _, _, number in told] == list(range(1, len(told) + 1))
            assert told[-1][1]["output"][1:] == [f"n{number}" for number in range(20)]
            await own.at_rest()

    run(work)


def test_a_put_is_one_prediction_however_often_and_fast_it_is_asked_for() -> None:
    async def work() -> None:
        async with owning("steps") as own:
            given = {"seconds": 0.3, "count": 1}
            replies = await asyncio.gather(*(own.put("once", given) for _ in range(12)))
            assert {reply.status for reply in replies} == {200}
            assert len({json.dumps(reply.json()["output"]) for reply in replies}) == 1
            assert (await own.put("once", given)).json()["status"] == "succeeded"
            assert (await own.put("once", {"seconds": 0.4})).status == 409
            await own.at_rest()
            assert own.codes() == ["completed"]

    run(work)


def test_a_cancel_ends_it_as_canceled_and_gives_its_place_back() -> None:
    async def work() -> None:
        async with owning("single") as own:
            await own.begun("p1")
            async with following(own.port, "p1") as events:
                assert (await own.cancel("p1")).status == 200
                told = await events.rest()
            assert told[-1][0] == "completed"
            assert told[-1][1]["status"] == "canceled"
            assert told[-1][1]["logs"] == "begun\n"
            assert (await own.cancel("p1")).status == 404
            await own.at_rest()
            assert (await own.post({"seconds": 0})).json()["status"] == "succeeded"
            await own.at_rest()
            assert own.codes() == ["client_gone", "completed"]

    run(work)


def test_a_client_that_waits_and_leaves_takes_its_prediction_with_it() -> None:
    async def work() -> None:
        async with owning("single") as own:
            async with connect(own.port) as raw:
                body = {"id": "p1", "input": {}}
                await raw.send(request_bytes(body, path=ROOT))
                await own.until_status("p1", "processing")
            assert (await own.until_status("p1", "canceled"))["status"] == "canceled"
            await own.at_rest()
            assert own.codes() == ["client_gone"]

    run(work)


def test_a_follower_that_leaves_takes_a_streamed_one_with_it_and_no_async_one() -> None:
    async def work() -> None:
        async with owning("steps") as own:
            async with following(own.port, "streamed", {"input": {}}):
                await own.until_status("streamed", "processing")
            await own.until_status("streamed", "canceled")
            await own.begun("async")
            async with following(own.port, "async") as events:
                await events.next()
            await asyncio.sleep(0.2)
            assert (await own.seen("async"))["status"] == "processing"
            await own.cancel("async")
            await own.at_rest()

    run(work)


def test_a_failed_one_keeps_its_words_and_its_output() -> None:
    async def work() -> None:
        async with owning() as own:
            found = (await own.post({"prompt": "a", "fail": True})).json()
            assert found["status"] == "failed"
            assert found["error"] == "ValueError: out of words"
            assert found["output"] == ["a "]
            assert found["logs"] == "asked for a\n"
            assert (await own.running.entry()).code == "upstream_error_frame"
            await own.at_rest()

    run(work)


def test_each_prediction_is_one_record_with_the_verdict_of_its_end() -> None:
    async def work() -> None:
        async with owning("steps") as own:
            assert (await own.post({"seconds": 0})).status == 200
            await own.begun("p1")
            await own.seen("p1")
            await own.cancel("p1")
            await own.at_rest()
            await own.post({"seconds": 0}, path="/v1/models/own/predictions")
            await own.at_rest()
            assert own.codes() == ["completed", "client_gone", "completed"]
            ids = [entry.request_id for entry in own.running.entries()]
            assert len(set(ids)) == len(ids)

    run(work)


@pytest.mark.slow
def test_a_reader_that_falls_behind_is_told_what_it_missed_and_then_the_end() -> None:
    async def work() -> None:
        history = {"max_events": 16}
        async with owning("flood", predictions={"history": history}) as own, connect(own.port) as raw:
            assert (await own.put("p1", {"count": 4000, "size": 20_000}, headers=ASYNC)).status == 202
            await raw.send(request_bytes(b"", path=f"{ROOT}/p1", method="GET", headers={"accept": "text/event-stream"}))
            # Reading stops as long as the prediction runs: the kernel's buffers and the reader's own fill.
            transport: Any = raw.writer.transport
            transport.pause_reading()
            await until(lambda: own.registry.running == 0, WAIT_S)
            transport.resume_reading()
            events = Events(raw)
            await events.open()
            told = await events.rest()
            names = [name for name, _, _ in told]
            assert "skipped" in names
            assert names[-1] == "completed"
            assert len(told[-1][1]["output"]) == 4000
            skipped = sum(data["skipped"] for name, data, _ in told if name == "skipped")
            numbered = [number for name, _, number in told if name != "skipped"]
            assert numbered == sorted(numbered)
            # What was told and what was skipped is all that there was.
            assert skipped + len(numbered) == told[-1][2]
            await own.at_rest()

    run(work)


@pytest.mark.slow
def test_eight_generators_stream_at_the_same_time() -> None:
    async def one(own: Owned, number: int, begun: asyncio.Barrier, order: list[int]) -> list[str]:
        found = []
        body = {"input": {"seconds": 1.0, "count": 20, "name": f"n{number}-"}}
        async with following(own.port, "", body) as events:
            assert events.status == 200
            first = await events.next()
            assert first is not None
            assert first[0] == "start"
            await begun.wait()  # all of them run before any goes on to be read
            while (event := await events.next()) is not None:
                if event[0] == "output":
                    order.append(number)
                    found.append(event[1]["chunk"])
        return found[1:]

    async def work() -> None:
        async with owning("steps") as own:
            order: list[int] = []
            begun = asyncio.Barrier(8)
            found = await asyncio.gather(*(one(own, number, begun, order) for number in range(8)))
            for number, items in enumerate(found):
                assert items == [f"n{number}-{index}" for index in range(20)]
            assert own.slots.peak == 8
            # No one of them was read to its end before the others began.
            last_first = max(order.index(number) for number in range(8))
            first_last = min(len(order) - 1 - order[::-1].index(number) for number in range(8))
            assert last_first < first_last
            await own.at_rest()

    run(work)


@pytest.mark.slow
def test_a_thousand_subscribers_of_one_prediction_all_get_every_event() -> None:
    count = 1000

    async def follow(own: Owned, first: asyncio.Semaphore, go: asyncio.Event) -> list[tuple[str, int]]:
        async with following(own.port, "p1") as events:
            assert events.status == 200
            begun = await events.next()
            assert begun is not None
            first.release()
            await go.wait()
            told = [begun, *await events.rest()]
        return [(name, number) for name, _, number in told]

    async def work() -> None:
        async with owning("steps", predictions={"max_subscribers": count}, limits={"max_connections": 0}) as own:
            await own.begun("p1", {"seconds": 20.0, "count": 40})
            first, go = asyncio.Semaphore(0), asyncio.Event()
            followers = [asyncio.create_task(follow(own, first, go)) for _ in range(count)]
            for _ in range(count):
                await first.acquire()
            go.set()
            told = await asyncio.gather(*followers)
            newest = told[0][-1][1]
            assert all(numbers == told[0] for numbers in told)
            assert [number for _, number in told[0]] == list(range(1, newest + 1))
            assert told[0][-1][0] == "completed"
            assert len([name for name, _ in told[0] if name == "output"]) == 41
            await own.at_rest()

    run(work, timeout_s=110)


def test_who_asked_for_events_gets_all_of_them_where_no_history_is_kept() -> None:
    async def work() -> None:
        async with owning(predictions={"history": {"mode": "none"}}) as own:
            for number in range(30):
                async with following(own.port, f"p{number}", {"input": {"prompt": "a b"}}) as events:
                    told = await events.rest()
                names = [name for name, _, _ in told if name != "metric"]
                assert names == ["start", "log", "output", "output", "completed"]
            async with following(own.port, "p0") as events:
                assert [name for name, _, _ in await events.rest()] == ["completed"]
            await own.at_rest()

    run(work)


def test_an_output_too_deep_to_be_read_fails_alone() -> None:
    async def work() -> None:
        async with owning("deep") as own:
            for _ in range(2):
                found = (await own.post({"levels": 1100})).json()
                assert found["status"] == "failed"
                assert found["error"]
            assert (await own.post({"levels": 3})).json()["output"] == [[[]]]
            await own.at_rest()

    run(work)


def test_a_put_whose_client_left_is_run_anew_and_one_that_is_to_go_on_is_not() -> None:
    async def work() -> None:
        async with owning("steps") as own:
            given = {"seconds": 0.6, "count": 3, "name": "n"}
            async with following(own.port, "left", {"input": given}) as events:
                first = await events.next()
            assert first is not None
            # At once: the one before is still being stopped.
            anew = (await own.put("left", given)).json()
            assert (anew["status"], len(anew["output"])) == ("succeeded", 4)
            await own.at_rest()
            assert sorted(own.codes()) == ["client_gone", "completed"]
            async with following(own.port, "kept", {"input": given}, prefer="respond-async") as events:
                seen = [await events.next() for _ in range(2)]
            last = seen[-1]
            assert last is not None
            again = {"prefer": "respond-async", "last_event_id": str(last[2])}
            async with following(own.port, "kept", {"input": given}, **again) as events:
                rest = await events.rest()
            assert rest[0][2] == last[2] + 1
            assert (rest[-1][1]["status"], rest[-1][1]["output"]) == ("succeeded", anew["output"])
            await own.at_rest()
            assert sorted(own.codes()) == ["client_gone", "completed", "completed"]

    run(work)


def test_what_waits_in_vain_has_taken_no_time() -> None:
    async def work() -> None:
        async with owning("single", provider={"slots": {"max_queue_wait": 0.3}}) as own:
            await own.begun("long")
            await own.put("late", {"seconds": 0}, headers=ASYNC)
            found = await own.until_status("late", "failed")
            assert (found["started_at"], found["metrics"]) == (None, {"predict_time": 0.0})
            await own.cancel("long")
            await own.at_rest()

    run(work)
