"""Retries, fallbacks, budgets, breakers, slots and hedges in front of providers that fail for real."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority
from harness import ask, chat, connect, gateway, request_bytes, run, until
from several import ERROR, QUICK, WHOLE, before, hits, value
from streams import (
    DONE,
    FINISH,
    HELLO,
    ROLE,
    Script,
    answer,
    answering,
    chunked,
    closing,
    error_of,
    settled,
    stalling,
    streamed,
    word,
)
from tidegate.testing.upstream import Peer, scripted_upstream


class Scripts:
    """A provider whose answers follow one another, whatever connections they are asked on. Shape: the last one stays."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self.requests: list[tuple[bytes, bytes]] = []

    async def __call__(self, peer: Peer) -> None:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        try:
            await script(peer)
        finally:
            self.requests += peer.requests


# --- what is tried again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529])
def test_a_status_that_may_pass_is_tried_again(status: int) -> None:
    async def work() -> None:
        async with before(Scripts(closing(answer(status, ERROR)), answering(WHOLE))) as (running, (upstream,)):
            reply = await ask(running.port, chat())
            assert (reply.status, reply.events()[-1]) == (200, "[DONE]")
            assert reply.headers["x-tidegate-attempts"] == "2"
            assert hits(upstream) == 2
            assert value(running, "tidegate_stream_retries_total", provider="p0", outcome="opened") == 1

    run(work)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422])
def test_a_status_that_will_not_pass_is_not(status: int) -> None:
    async def work() -> None:
        async with before(answering(answer(status, ERROR))) as (running, (upstream,)):
            reply = await ask(running.port, chat())
            assert reply.status == (502 if status in {401, 403} else status)
            assert reply.headers["x-tidegate-attempts"] == "1"
            assert hits(upstream) == 1

    run(work)


@pytest.mark.parametrize(
    "failing",
    [
        closing(),
        closing(chunked(ROLE)),
        closing(streamed(DONE)),
        closing(streamed(ROLE, b'data: {"error": {"message": "no"}}\n\n')),
    ],
    ids=["reset", "truncated before content", "empty", "error frame"],
)
def test_what_fails_before_the_first_content_is_tried_again(failing: Script) -> None:
    async def work() -> None:
        async with before(Scripts(failing, answering(WHOLE))) as (running, (upstream,)):
            reply = await ask(running.port, chat())
            assert (reply.status, reply.body) == (200, b"".join(HELLO))
            assert hits(upstream) == 2

    run(work)


@pytest.mark.parametrize("cut", range(1, 6))
@pytest.mark.parametrize("way", ["eof", "reset", "garbage"])
def test_once_content_has_gone_out_nothing_is_tried_again(cut: int, way: str) -> None:
    frames = (ROLE, word("one"), word("two"), word("three"), FINISH)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(*frames[: cut + 1])[:-7])
        await asyncio.sleep(0.02)
        if way == "reset":
            peer.reset()
        elif way == "garbage":
            await peer.send(b"zz\r\n\r\n\r\n")

    async def work() -> None:
        async with before(script, answering(WHOLE)) as (running, (first, other)):
            await ask(running.port, chat())
            opened = cut > 1  # the cut is seven bytes before the end of the last frame
            before_content = (1, 1) if way == "garbage" else (2, 1)  # what is not HTTP goes elsewhere at once
            assert (hits(first), hits(other)) == ((1, 0) if opened else before_content)

    run(work)


def test_a_certificate_that_is_not_trusted_is_not_tried_again(tmp_path: Path) -> None:
    async def work() -> None:
        authority = Authority(tmp_path)
        async with (
            scripted_upstream(answering(WHOLE), authority.context("127.0.0.1")) as upstream,
            gateway(upstream.base_url, provider={"retry": QUICK}) as running,
        ):
            reply = await ask(running.port, chat())
            assert (reply.status, error_of(reply)["code"]) == (502, "tls_failed")
            assert reply.headers["x-tidegate-attempts"] == "1"
            assert reply.headers["x-should-retry"] == "false"

    run(work)


def test_a_host_without_an_address_is_not_tried_again() -> None:
    async def work() -> None:
        async with gateway("http://provider.invalid/v1", provider={"retry": QUICK}) as running:
            reply = await ask(running.port, chat())
            assert (error_of(reply)["code"], reply.headers["x-tidegate-attempts"]) == ("dns_failed", "1")

    run(work)


# --- each attempt is a request of its own ------------------------------------------------------------------------------


@pytest.mark.parametrize("coded", [False, True], ids=["content-length", "chunked upload"])
def test_each_attempt_sends_the_whole_body_on_a_connection_of_its_own(coded: bool) -> None:
    body = json.dumps(chat(user="x" * 100_000)).encode()
    upload = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:70_000], body[70_000:])) + b"0\r\n\r\n"

    async def work() -> None:
        failing = Scripts(closing(answer(500, ERROR)), answering(WHOLE))
        async with before(failing) as (running, (upstream,)), connect(running.port) as client:
            if coded:
                head = request_bytes(b"", headers={"transfer-encoding": "chunked"}).replace(
                    b"content-length: 0\r\n", b""
                )
                await client.send(head + upload)
            else:
                await client.send(request_bytes(body))
            assert (await client.reply()).status == 200
            sent = [peer.requests[0] for peer in upstream.peers]
            assert len(sent) == 2
            assert sent[0][1] == sent[1][1]
            assert b"x" * 100_000 in sent[1][1]

    run(work)


def test_each_attempt_is_signed_with_the_key_as_it_is_then(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-first\n", encoding="utf-8")

    async def expiring(peer: Peer) -> None:
        await peer.request()
        key.write_text("sk-second\n", encoding="utf-8")
        await peer.send(answer(503, {"error": {"message": "sk-first has expired"}}))

    async def work() -> None:
        rotated: dict[str, Any] = {"api_key": "", "api_key_file": str(key)}
        async with before(Scripts(expiring, answering(WHOLE)), **rotated) as (running, (upstream,)):
            assert (await ask(running.port, chat())).status == 200
            heads = [head.lower() for peer in upstream.peers for head, _ in peer.requests]
            assert [b"sk-first" in head for head in heads] == [True, False]
            assert b"authorization: bearer sk-second\r\n" in heads[1]

    run(work)


def test_a_failed_attempt_is_over_before_the_next_begins() -> None:
    async def work() -> None:
        closed = asyncio.Event()

        async def failing(peer: Peer) -> None:
            await peer.request()
            await peer.send(chunked(ROLE, b'data: {"error": {"message": "no"}}\n\n'))
            await peer.wait_closed_by_peer()
            closed.set()

        async def second(peer: Peer) -> None:
            await peer.request()
            await asyncio.sleep(0)
            assert closed.is_set()
            await peer.send(WHOLE)

        async with before(Scripts(failing, second)) as (running, _):
            assert (await ask(running.port, chat())).status == 200

    run(work)


# --- where the next attempt goes ---------------------------------------------------------------------------------------


def test_a_provider_that_fails_for_good_gives_way_to_the_next_priority() -> None:
    async def work() -> None:
        async with before(answering(answer(500, ERROR)), answering(WHOLE)) as (running, (first, other)):
            reply = await ask(running.port, chat())
            assert reply.status == 200
            assert (reply.headers["x-tidegate-target"], reply.headers["x-tidegate-attempts"]) == ("p1/m1", "3")
            assert (hits(first), hits(other)) == (2, 1)
            assert value(running, "tidegate_fallbacks_total", **{"from": "p0/m0", "to": "p1/m1"}) == 1
            entry = await running.entry()
            assert (entry.provider, entry.attempts, entry.code) == ("p1", 3, "completed")
            assert [attempt.code for attempt in entry.tries] == ["upstream_failed", "upstream_failed", "completed"]
            assert [attempt.input_tokens > 0 for attempt in entry.tries] == [True, True, False]

    run(work)


def test_a_provider_that_says_429_rests_while_the_next_one_works() -> None:
    async def work() -> None:
        busy = answering(answer(429, ERROR, "retry-after: 60"))
        async with before(busy, answering(WHOLE)) as (running, (first, other)):
            for _ in range(3):
                assert (await ask(running.port, chat())).headers["x-tidegate-target"] == "p1/m1"
            assert (hits(first), hits(other)) == (1, 3)

    run(work)


def test_when_every_provider_has_said_429_the_answer_says_when_to_come_back() -> None:
    async def work() -> None:
        async with before(answering(answer(429, ERROR, "retry-after: 60"))) as (running, (upstream,)):
            first, second = await ask(running.port, chat()), await ask(running.port, chat())
            assert (first.status, second.status) == (429, 429)
            assert first.headers["retry-after"] == "60"
            assert 55 <= int(second.headers["retry-after"]) <= 90
            assert hits(upstream) == 1

    run(work)


def test_a_retry_after_is_waited_for_and_no_longer_than_allowed() -> None:
    async def work() -> None:
        short, long = "retry-after: 1", "retry-after: 3600"
        async with before(Scripts(closing(answer(503, ERROR, short)), answering(WHOLE))) as (running, _):
            began = running.tidegate.clock()
            assert (await ask(running.port, chat())).status == 200
            assert running.tidegate.clock() - began >= 1.0
        async with before(answering(answer(503, ERROR, long))) as (running, (upstream,)):
            reply = await ask(running.port, chat())
            assert (reply.status, reply.headers["retry-after"], hits(upstream)) == (503, "3600", 1)

    run(work)


def test_a_kept_connection_whose_peer_is_gone_without_a_word_gives_way_in_time() -> None:
    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.send(WHOLE)
        await stalling()(peer)

    async def work() -> None:
        quick: dict[str, Any] = {"retry": {"max_attempts": 1}, "timeouts": {"headers": 0.1}}
        async with before(once, answering(WHOLE), **quick) as (running, (first, _)):
            served = [(await ask(running.port, chat())).headers["x-tidegate-target"] for _ in range(2)]
            assert served == ["p0/m0", "p1/m1"]
            assert (hits(first), len(first.peers)) == (2, 1)
            entry = await running.entry()
            assert [attempt.code for attempt in entry.tries] == ["headers_timeout", "completed"]

    run(work)


def test_a_port_that_refuses_gives_way_at_once() -> None:
    async def work() -> None:
        async with scripted_upstream(answering(WHOLE)) as upstream:
            providers = [
                {"name": "gone", "base_url": "http://127.0.0.1:1/v1"},
                {"name": "here", "base_url": upstream.base_url},
            ]
            targets = [{"provider": "gone"}, {"provider": "here", "priority": 1}]
            models = [{"name": "mock", "targets": targets}]
            async with gateway("http://unused", providers=providers, models=models) as running:
                reply = await ask(running.port, chat())
                assert (reply.status, reply.headers["x-tidegate-target"]) == (200, "here/mock")

    run(work)


# --- slots -----------------------------------------------------------------------------------------------------------------


class Counting:
    """A provider that knows how many it serves at once."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            self.now += 1
            self.peak = max(self.peak, self.now)
            await peer.send(chunked(ROLE, word("Hel")))
            await asyncio.sleep(0.01)
            self.now -= 1
            await peer.send(streamed(FINISH, DONE, head=b""))


@pytest.mark.parametrize("bound", ["provider", "target"])
def test_no_more_streams_run_than_there_are_slots(bound: str) -> None:
    async def work() -> None:
        provider = Counting()
        slots = {"slots": {"max_streams": 3}} if bound == "provider" else {}
        target = {"provider": "p0", "model": "m0", **({"max_streams": 3} if bound == "target" else {})}
        async with before(provider, model={"targets": [target]}, **slots) as (running, _):
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(ask(running.port, chat())) for _ in range(20)]
            assert {task.result().status for task in asked} == {200}
            assert provider.peak == 3
            assert value(running, "tidegate_slots", provider="p0", state="in_use") == 0
            assert value(running, "tidegate_slot_wait_seconds_count") == 17

    run(work)


def test_a_client_that_leaves_the_line_frees_its_place() -> None:
    async def work() -> None:
        slots = {"max_streams": 1, "max_queue": 1, "max_queue_wait": 30}
        async with before(stalling(chunked(ROLE, word("Hel"))), slots=slots) as (running, (upstream,)):
            async with connect(running.port) as holder:
                await holder.send(request_bytes(chat()))
                await holder.reader.readuntil(b"Hel")
                async with connect(running.port) as waiter:
                    await waiter.send(request_bytes(chat()))
                    await until(lambda: value(running, "tidegate_slots", state="waiting") == 1)
                    assert error_of(await ask(running.port, chat()))["code"] == "queue_full"
                await until(lambda: value(running, "tidegate_slots", state="waiting") == 0)
                reasons = {
                    reason: value(running, "tidegate_stream_concurrency_rejections_total", reason=reason)
                    for reason in ("full", "gone", "deadline")
                }
                assert reasons == {"full": 1, "gone": 1, "deadline": 0}
            await settled(running)
            assert hits(upstream) == 1

    run(work)


# --- hedges ----------------------------------------------------------------------------------------------------------------


def test_a_late_first_attempt_loses_to_a_hedge_and_is_closed_at_once() -> None:
    async def work() -> None:
        closed = asyncio.Event()

        async def late(peer: Peer) -> None:
            await peer.request()
            await peer.wait_closed_by_peer()
            closed.set()

        async with before(late, answering(WHOLE), model={"hedge": {"after": 0.05}}) as (running, (first, other)):
            reply = await ask(running.port, chat())
            assert (reply.status, reply.headers["x-tidegate-target"]) == (200, "p1/m1")
            assert (hits(first), hits(other)) == (1, 1)
            async with asyncio.timeout(5):
                await closed.wait()
            entry = await running.entry()
            assert (entry.provider, entry.attempts) == ("p1", 2)
            loser, winner = entry.tries
            assert (loser.code, loser.hedge, loser.input_tokens > 0) == ("cancelled", False, True)
            assert (winner.code, winner.hedge, winner.input_tokens) == ("completed", True, 0)
            assert value(running, "tidegate_hedges_total", outcome="won") == 1

    run(work)


def test_a_client_that_leaves_during_a_hedge_ends_both_attempts() -> None:
    async def work() -> None:
        async with before(stalling(), stalling(), model={"hedge": {"after": 0.02}}) as (running, (first, other)):
            async with connect(running.port) as client:
                await client.send(request_bytes(chat()))
                await until(lambda: hits(first) + hits(other) == 2)
            await settled(running)
            assert running.entries()[-1].code == "client_gone"

    run(work)


# --- a part that breaks ----------------------------------------------------------------------------------------------------


def test_a_balancer_that_raises_leaves_a_sane_state() -> None:
    async def work() -> None:
        async with before(answering(WHOLE), slots={"max_streams": 1}) as (running, _):
            states = running.tidegate.fleet.states
            kept = states.pop(("p0", "m0"))
            assert error_of(await ask(running.port, chat()))["code"] == "bug"
            states[kept.key] = kept
            assert (await ask(running.port, chat())).status == 200

    run(work)
