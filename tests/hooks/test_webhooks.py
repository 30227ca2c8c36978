"""Webhooks of a prediction come in order, no more often than agreed, and the last one for sure."""

import asyncio
import base64
import json

import pytest
from aiohttp import web
from hook_servers import Names, run, serving, speaking, until
from standardwebhooks import Webhook
from webhooking import ALL, IDS, Receiver, Sender, Story, sending

from tidegate.hooks.webhooks import SENDERS, SENDERS_OF_A_HOST
from tidegate.kernel.units import Secret


def test_a_prediction_is_told_from_start_to_end() -> None:
    async def work() -> None:
        receiver = Receiver()
        async with serving(receiver.answer) as base, sending() as sender:
            story = Story(sender, base + "/x")
            story.tell("start")
            await until(lambda: len(receiver.bodies) == 1)
            story.put(1)
            await until(lambda: len(receiver.bodies) == 2)
            story.tell("logs")
            await until(lambda: len(receiver.bodies) == 3)
            story.end()
            assert await sender.hooks.wait_delivered(20.0)
            assert [body["status"] for body in receiver.bodies] == ["processing"] * 3 + ["succeeded"]
            assert sender.counts == ["sent"] * 4
            head = receiver.heads[0]
            assert (head["content-type"], head["user-agent"]) == ("application/json", "tests/1")
            assert "authorization" not in head
            assert "webhook-signature" not in head

    run(work)


def test_a_flood_arrives_in_order_one_at_a_time_and_ends_with_the_end() -> None:
    async def work() -> None:
        receiver = Receiver(delay_s=0.002)
        async with serving(receiver.answer) as base, sending(interval_s=0.02) as sender:
            story = Story(sender, base)
            story.tell("start")
            for item in range(300):
                story.put(item)
                story.tell("logs")
                if item % 10 == 0:
                    await asyncio.sleep(0.002)
            story.end()
            assert await sender.hooks.wait_delivered(20.0)
            sizes = [len(body["output"]) for body in receiver.bodies]
            assert sizes == sorted(sizes)
            assert len(sizes) < 100
            assert receiver.most == 1
            assert receiver.bodies[-1] == {"status": "succeeded", "output": list(range(300))}
            assert [body["status"] for body in receiver.bodies].count("succeeded") == 1

    run(work)


def test_output_is_sent_at_most_once_an_interval_and_the_last_of_it_is_not_forgotten() -> None:
    async def work() -> None:
        receiver = Receiver()
        async with serving(receiver.answer) as base, sending(interval_s=0.3) as sender:
            story = Story(sender, base)
            story.put(0)
            await until(lambda: len(sender.counts) == 1)
            for item in range(1, 20):
                story.put(item)
            await until(lambda: len(receiver.bodies) == 2)
            assert [len(body["output"]) for body in receiver.bodies][-1] == 20
            # The sender's clock began the interval before the receiver's did.
            assert receiver.times[1] - receiver.times[0] > 0.2

    run(work)


def test_start_says_that_it_runs_though_it_is_over_when_it_is_sent() -> None:
    async def work() -> None:
        receiver = Receiver()
        async with serving(receiver.answer) as base, sending() as sender:
            story = Story(sender, base)
            story.tell("start")
            story.put(1)
            story.end()
            assert await sender.hooks.wait_delivered(20.0)
            assert [body["status"] for body in receiver.bodies] == ["processing", "succeeded"]

    run(work)


def test_what_was_not_asked_for_is_not_sent() -> None:
    async def work() -> None:
        receiver = Receiver()
        async with serving(receiver.answer) as base, sending() as sender:
            story = Story(sender, base, frozenset({"completed"}))
            for event in ("start", "output", "logs", "nonsense"):
                story.tell(event)
            story.end("failed")
            assert await sender.hooks.wait_delivered(20.0)
            assert [body["status"] for body in receiver.bodies] == ["failed"]
            early = Story(sender, base, frozenset({"start"}))
            early.tell("start")
            early.end()
            assert await sender.hooks.wait_delivered(20.0)
            assert [body["status"] for body in receiver.bodies] == ["failed", "processing"]
            Story(sender, base, frozenset()).end()
            assert await sender.hooks.wait_delivered(20.0)
            assert len(receiver.bodies) == 2

    run(work)


def test_output_that_is_owed_at_the_end_is_sent_where_the_end_was_not_asked_for() -> None:
    async def work() -> None:
        receiver = Receiver()
        async with serving(receiver.answer) as base, sending() as sender:
            story = Story(sender, base, frozenset({"output"}))
            story.put(1)
            await until(lambda: len(receiver.bodies) == 1)
            story.put(2)
            story.end()
            assert await sender.hooks.wait_delivered(20.0)
            assert [body["output"] for body in receiver.bodies] == [[1], [1, 2]]

    run(work)


def test_nothing_is_sent_after_the_end() -> None:
    async def work() -> None:
        receiver = Receiver()
        async with serving(receiver.answer) as base, sending(interval_s=0.0) as sender:
            story = Story(sender, base)
            story.end()
            for event in ("output", "logs", "start", "completed"):
                story.tell(event)
            assert await sender.hooks.wait_delivered(20.0)
            story.tell("output")
            await asyncio.sleep(0.05)
            assert len(receiver.bodies) == 1

    run(work)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_the_last_one_is_tried_again_with_the_same_name_and_body(status: int) -> None:
    async def work() -> None:
        receiver = Receiver(status)
        async with serving(receiver.answer) as base, sending(secret=Secret("plain")) as sender:
            Story(sender, base).end()
            assert await sender.hooks.wait_delivered(20.0)
            assert len(receiver.raw) == 2
            assert len(set(receiver.raw)) == 1
            assert len({head["webhook-id"] for head in receiver.heads}) == 1
            assert sender.counts == ["retried", "sent"]
            assert receiver.times[1] - receiver.times[0] > 0.15

    run(work)


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 410])
def test_other_answers_are_the_last_word(status: int) -> None:
    async def work() -> None:
        receiver = Receiver(status, location="/elsewhere")
        async with serving(receiver.answer) as base, sending() as sender:
            Story(sender, base + "/sentinel?sentinel").end()
            assert await sender.hooks.wait_delivered(20.0)
            assert len(receiver.raw) == 1
            assert sender.counts == ["failed"]
            (line,) = sender.lines()
            assert (line["event"], line["host"], line["about"]) == ("webhook_failed", "127.0.0.1", "completed")
            assert IDS.items() <= line.items()
            assert str(status) in line["reason"]
            assert "sentinel" not in str(line)

    run(work)


def test_it_is_given_up_after_so_many_attempts() -> None:
    async def work() -> None:
        receiver = Receiver(*[500] * 9)
        async with serving(receiver.answer) as base, sending(max_attempts=3) as sender:
            Story(sender, base).end()
            assert await sender.hooks.wait_delivered(20.0)
            assert len(receiver.raw) == 3
            assert sender.counts == ["retried", "retried", "failed"]
            assert sender.lines()[0]["attempts"] == 3
            # Each wait is longer than the one before.
            assert receiver.times[2] - receiver.times[1] > 0.35

    run(work)


@pytest.mark.slow
def test_a_wait_that_the_receiver_asks_for_is_kept() -> None:
    async def work() -> None:
        receiver = Receiver(503, retry_after="1")
        async with serving(receiver.answer) as base, sending() as sender:
            Story(sender, base).end()
            assert await sender.hooks.wait_delivered(30.0)
            assert receiver.times[1] - receiver.times[0] > 0.9

    run(work)


def test_other_webhooks_are_not_tried_again() -> None:
    async def work() -> None:
        receiver = Receiver(500, 500)
        async with serving(receiver.answer) as base, sending() as sender:
            story = Story(sender, base)
            story.tell("start")
            await until(lambda: len(sender.counts) == 1)
            story.put(1)
            await until(lambda: len(sender.counts) == 2)
            story.end()
            assert await sender.hooks.wait_delivered(20.0)
            assert sender.counts == ["failed", "failed", "sent"]
            assert len(receiver.raw) == 3

    run(work)


def test_a_receiver_that_comes_late_gets_the_last_one() -> None:
    async def work() -> None:
        receiver = Receiver()
        async with serving(receiver.answer) as base:
            pass
        async with sending() as sender:
            Story(sender, base).end()
            await until(lambda: "retried" in sender.counts)
            app = web.AppRunner(_app(receiver))
            await app.setup()
            await web.TCPSite(app, "127.0.0.1", int(base.rpartition(":")[2])).start()
            assert await sender.hooks.wait_delivered(20.0)
            assert len(receiver.bodies) == 1
            await app.cleanup()

    run(work)


def _app(receiver: Receiver) -> web.Application:
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.answer)
    return app


def test_a_receiver_that_does_not_answer_is_left_at_the_deadline() -> None:
    async def mute(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def work() -> None:
        async with speaking(mute) as base, sending(timeout_s=0.1, max_attempts=1) as sender:
            Story(sender, base).end()
            assert await sender.hooks.wait_delivered(20.0)
            assert "took too long" in sender.lines()[0]["reason"]

    run(work)


def test_of_a_long_answer_little_is_read() -> None:
    written = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            written += 65_536
            await writer.drain()

    async def work() -> None:
        async with speaking(endless) as base, sending() as sender:
            Story(sender, base).end()
            assert await sender.hooks.wait_delivered(20.0)
            assert sender.counts == ["sent"]
            assert written < 50_000_000

    run(work)


def test_a_webhook_is_signed_for_the_libraries_of_receivers_and_bears_the_token() -> None:
    secret = "whsec_" + base64.b64encode(b"k" * 32).decode()

    async def work() -> None:
        receiver = Receiver()
        async with serving(receiver.answer) as base, sending(secret=Secret(secret), token=Secret("t0ken")) as sender:
            story = Story(sender, base, Traceparent="00-1-2-03", tracestate="a=b", cookie="c=d", authorization="x")
            story.tell("start")
            story.end()
            assert await sender.hooks.wait_delivered(20.0)
            for raw, head in zip(receiver.raw, receiver.heads, strict=True):
                assert Webhook(secret).verify(raw, head) == json.loads(raw)
                assert head["authorization"] == "Bearer t0ken"
                assert (head["traceparent"], head["tracestate"]) == ("00-1-2-03", "a=b")
                assert "cookie" not in head
            assert len({head["webhook-id"] for head in receiver.heads}) == 2

    run(work)


def test_a_trace_that_cannot_be_a_header_is_left_out() -> None:
    async def work() -> None:
        receiver = Receiver()
        async with serving(receiver.answer) as base, sending() as sender:
            Story(sender, base, traceparent="a\r\nx: y", tracestate="x" * 600).end()
            assert await sender.hooks.wait_delivered(20.0)
            assert not {"traceparent", "tracestate", "x"} & receiver.heads[0].keys()

    run(work)


def test_a_large_body_arrives_whole() -> None:
    async def work() -> None:
        receiver = Receiver()
        async with serving(receiver.answer) as base, sending() as sender:
            body = json.dumps("x" * 5_000_000).encode()
            sender.hooks.hook(base, ALL, {}, lambda: body, IDS)("completed")
            assert await sender.hooks.wait_delivered(20.0)
            assert receiver.raw == [body]
            assert receiver.heads[0]["content-length"] == str(len(body))

    run(work)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/sentinel", "nonsense sentinel", "http://0x7f.1/sentinel"])
def test_a_url_that_must_not_be_asked_for_is_logged_and_nothing_sent(url: str) -> None:
    async def work() -> None:
        async with sending(allow_private=False) as sender:
            Story(sender, url).end()
            assert await sender.hooks.wait_delivered(20.0)
            assert sender.counts == ["refused"]
            assert [line["event"] for line in sender.lines()] == ["webhook_refused"]
            assert IDS.items() <= sender.lines()[0].items()
            assert "sentinel" not in str(sender.lines())

    run(work)


def test_a_name_on_a_private_address_is_refused_without_another_attempt() -> None:
    async def work() -> None:
        names = Names(inside_test=[["8.8.8.8", "10.0.0.1"]])
        async with sending(names, allow_private=False) as sender:
            Story(sender, "https://inside.test/sentinel").end()
            assert await sender.hooks.wait_delivered(20.0)
            assert (sender.counts, names.asked) == (["failed"], ["inside.test"])
            assert "public" in sender.lines()[0]["reason"]
            assert "predictions.webhooks.allow_private" in sender.lines()[0]["reason"]

    run(work)


def test_closing_loses_what_is_owed_and_says_how_many() -> None:
    async def work() -> None:
        receiver = Receiver(*[500] * 100)
        async with serving(receiver.answer) as base, sending(interval_s=30.0) as sender:
            for _ in range(3):
                Story(sender, base).end()
            live = Story(sender, base)
            live.put(1)
            await until(lambda: sender.counts.count("retried") == 3 and "failed" in sender.counts)
            live.put(2)
            assert not await sender.hooks.wait_delivered(0.01)
            await sender.hooks.close()
            assert sender.counts.count("lost") == 3
            *lost, summary = sender.lines()[-4:]
            line = {"event": "webhook_lost", "host": "127.0.0.1", "reason": "the server is shutting down", **IDS}
            assert lost == [line] * 3
            assert summary == {"event": "webhooks_lost", "count": 3}
            live.end()
            assert await sender.hooks.wait_delivered(1.0)
            assert len(sender.tasks) == 0

    run(work)


def test_a_snapshot_that_fails_harms_nobody() -> None:
    async def work() -> None:
        sender = Sender()

        def broken() -> bytes:
            raise ZeroDivisionError

        async with serving(Receiver().answer) as base:
            tell = sender.hooks.hook(base, ALL, {}, broken, IDS)
            tell("start")
            tell("output")
            await until(lambda: len(sender.lines()) == 2)
            tell("completed")
            assert await sender.hooks.wait_delivered(20.0)
            assert [line["event"] for line in sender.lines()] == ["bug"] * 3
            assert sender.counts == []
        await sender.hooks.close()

    run(work)


def test_requests_at_a_time_are_bounded_over_all_predictions() -> None:
    async def work() -> None:
        receiver = Receiver(delay_s=0.02)
        async with serving(receiver.answer) as base, sending() as sender:
            for number in range(3 * SENDERS):
                Story(sender, f"{base}/{number}").end()
            assert await sender.hooks.wait_delivered(20.0)
            assert len(receiver.bodies) == 3 * SENDERS
            assert 1 < receiver.most <= SENDERS_OF_A_HOST

    run(work)


@pytest.mark.parametrize("event", ["start", "completed"])
def test_a_receiver_that_never_answers_holds_up_no_other(event: str) -> None:
    silenced: list[bytes] = []

    async def mute(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        silenced.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.read()

    async def work() -> None:
        receiver = Receiver()
        async with (
            speaking(mute) as dead,
            serving(receiver.answer) as alive,
            sending(timeout_s=600.0) as sender,
        ):
            for _ in range(3 * SENDERS):
                Story(sender, dead).tell(event)
            await until(lambda: len(silenced) == SENDERS_OF_A_HOST)
            for _ in range(2 * SENDERS):
                Story(sender, alive).tell(event)
            await until(lambda: len(receiver.bodies) == 2 * SENDERS)
            assert len(silenced) == SENDERS_OF_A_HOST

    run(work)


def test_the_end_overtakes_output_that_still_stands_in_line() -> None:
    async def work() -> None:
        receiver = Receiver(delay_s=0.3)
        async with serving(receiver.answer) as base, sending() as sender:
            crowd = [Story(sender, f"{base}/{number}") for number in range(SENDERS_OF_A_HOST)]
            for each in crowd:
                each.put(0)
            late = Story(sender, f"{base}/late")
            late.put(7)
            await until(lambda: len(receiver.bodies) == SENDERS_OF_A_HOST)
            late.end()
            assert await sender.hooks.wait_delivered(20.0)
            assert [body for body in receiver.bodies if body["output"] == [7]] == [
                {"status": "succeeded", "output": [7]}
            ]

    run(work)
