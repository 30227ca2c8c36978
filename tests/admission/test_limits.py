"""Every limit over real sockets: what is refused, what it says, and what is given back."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from harness import Reply, Running, ask, chat, connect, gateway, request_bytes, run, until
from streams import HELLO, answer, answering, chunked, fronting, settled, stalling, streamed, word
from tidegate.admission.identity import hash_key
from tidegate.admission.store import Charge, Limit

KEY = "tg-0123456789abcdef"
AUTH = {"mode": "keys", "keys": [{"id": "laptop", "sha256": hash_key(KEY), "tenant": "acme"}]}
LOCAL = {"trusted_proxies": ["127.0.0.0/8"]}
SHORT = "mock?tokens=2"
ENDLESS = "mock?tokens=5&fail=stall&fail_at=3"


def rate(**rule: Any) -> dict[str, Any]:
    return {"limits": {"rate": [rule]}}


async def health(running: Running, path: str = "/health") -> Reply:
    return await ask(running.port, b"", method="GET", path=path)


def check_refused(reply: Reply, status: int, code: str) -> None:
    assert (reply.status, reply.json()["error"]["code"]) == (status, code)
    assert int(reply.headers["retry-after"]) >= 1


def metric(running: Running, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in running.tidegate.metrics.families()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )


# --- rates -----------------------------------------------------------------------------------------------------------


def test_a_success_says_what_is_left_and_a_refusal_when_to_come_again() -> None:
    async def work() -> None:
        async with gateway(**rate(by="ip", requests_per_minute=6, burst=2, tokens_per_minute=100_000)) as running:
            first = await ask(running.port, chat(SHORT, max_tokens=10))
            assert first.status == 200
            assert first.headers["ratelimit-policy"] == '"default";q=6;w=60, "tokens";q=100000;w=60;qu="tokens"'
            assert first.headers["ratelimit"].startswith('"default";r=1;t=10, "tokens";r=99')
            assert first.headers["x-ratelimit-limit-requests"] == "6"
            assert first.headers["x-ratelimit-remaining-requests"] == "1"
            assert first.headers["x-ratelimit-reset-requests"] == "10s"
            assert first.headers["x-ratelimit-limit-tokens"] == "100000"
            assert (await ask(running.port, chat(SHORT, stream=False))).headers["x-ratelimit-remaining-requests"] == "0"
            refused = await ask(running.port, chat(SHORT))
            check_refused(refused, 429, "rate_limited")
            assert 9 <= int(refused.headers["retry-after"]) <= 13
            assert refused.headers["x-ratelimit-remaining-requests"] == "0"
            assert "x-should-retry" not in refused.headers
            assert running.mock.stats.started == 2
            assert metric(running, "tidegate_rate_limited_total", scope="ip") == 1
            assert (await health(running)).status == 200

    run(work)


def test_without_rules_nothing_is_said_about_rates() -> None:
    async def work() -> None:
        async with gateway() as running:
            reply = await ask(running.port, chat(SHORT))
            assert not [name for name in reply.headers if name.startswith(("ratelimit", "x-ratelimit"))]

    run(work)


def test_a_limit_that_is_used_up_is_told_before_the_body_is_sent() -> None:
    async def work() -> None:
        async with gateway(**rate(by="ip", requests_per_minute=1)) as running, connect(running.port) as client:
            assert (await ask(running.port, chat(SHORT))).status == 200
            head = request_bytes(chat(), headers={"content-length": "1000000", "expect": "100-continue"})
            await client.send(head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            check_refused(await client.reply(), 429, "rate_limited")

    run(work)


def test_what_the_provider_refused_or_never_began_is_given_back() -> None:
    async def work() -> None:
        refusing = answering(answer(400, {"error": {"message": "no"}}))
        async with fronting(refusing, **rate(by="ip", requests_per_minute=2, tokens_per_minute=5000)) as (running, _):
            for _ in range(6):
                reply = await ask(running.port, chat(max_tokens=4000))
                assert reply.status == 400

    run(work)


def test_a_refused_request_spends_nothing_of_another_limit() -> None:
    rules = [{"by": "ip", "requests_per_minute": 3}, {"by": "model", "tokens_per_minute": 1000}]

    async def work() -> None:
        async with gateway(limits={"rate": rules}) as running:
            big, small = chat(SHORT, max_tokens=900), chat(SHORT, max_tokens=1)
            codes = [(await ask(running.port, body)).status for body in (big, big, small, small)]
            # The first came to a few tokens only, so that the second found room again.
            assert codes == [200, 200, 200, 429]
            check_refused(await ask(running.port, chat("none")), 429, "rate_limited")

    run(work)


def test_tokens_are_charged_as_the_provider_counted_them() -> None:
    async def work() -> None:
        async with gateway(**rate(by="ip", tokens_per_minute=10_000)) as running:
            await ask(running.port, chat("mock?tokens=50", max_tokens=9000))
            used = await running.entry()
            reply = await ask(running.port, chat(SHORT, max_tokens=10))
            left = int(reply.headers["x-ratelimit-remaining-tokens"])
            spent: int = used.usage.input_tokens + used.usage.output_tokens
            assert spent >= 50
            assert 10_000 - left == pytest.approx(spent + 10, abs=60)

    run(work)


def test_a_hundred_requests_at_once_do_not_get_past_a_limit() -> None:
    async def work() -> None:
        async with gateway(**rate(by="ip", requests_per_minute=10)) as running:
            replies = await asyncio.gather(*(ask(running.port, chat(SHORT)) for _ in range(100)))
            assert Counter(reply.status for reply in replies) == {200: 10, 429: 90}
            assert running.mock.stats.started == 10

    run(work)


def test_a_hundred_reservations_at_once_do_not_get_past_a_limit() -> None:
    async def work() -> None:
        async with gateway(**rate(by="ip", tokens_per_minute=10_000)) as running:
            body = chat("mock?tokens=2&ttft=300ms", max_tokens=990)
            replies = await asyncio.gather(*(ask(running.port, body) for _ in range(100)))
            assert Counter(reply.status for reply in replies)[200] in {9, 10}

    run(work)


def test_a_stream_s_place_is_free_again_when_its_client_leaves() -> None:
    async def work() -> None:
        async with gateway(**rate(by="ip", max_streams=1)) as running:
            for _ in range(3):
                async with connect(running.port) as client:
                    await client.send(request_bytes(chat(ENDLESS)))
                    await client.reader.readuntil(b"data: ")
                    refused = await ask(running.port, chat(SHORT))
                    check_refused(refused, 429, "rate_limited")
                    assert "ratelimit" not in refused.headers
                await until(lambda: not len(running.tidegate.gateway))
            assert (await ask(running.port, chat(SHORT))).status == 200

    run(work)


def test_a_client_that_leaves_before_the_first_content_gives_its_place_back_and_keeps_its_request_charged() -> None:
    limits = rate(by="ip", max_streams=1, requests_per_minute=2)

    async def work() -> None:
        async with fronting(stalling(), **limits) as (running, upstream):
            for _ in range(2):
                async with connect(running.port) as client:
                    await client.send(request_bytes(chat()))
                    await until(lambda: bool(upstream.peers) and len(running.tidegate.gateway) == 1)
                    attempts = [outcome.attempts for outcome in running.tidegate.gateway._live]
                    await until(lambda seen=attempts: bool(seen[0] and seen[0][-1].sent_at))  # type: ignore[misc]
                await until(lambda: not len(running.tidegate.gateway))
            check_refused(await ask(running.port, chat()), 429, "rate_limited")

    run(work)


@pytest.mark.parametrize("seed", range(3))
def test_however_clients_leave_no_place_is_kept(seed: int) -> None:
    chance = random.Random(seed)
    rule = {"by": "ip", "max_streams": 20, "requests_per_minute": 100_000, "tokens_per_minute": 10_000_000}

    async def visit(running: Running) -> None:
        model = chance.choice(["mock?tokens=5", "mock?tokens=50&itl=2ms&ttft=5ms", "mock?status=500", ENDLESS, "none"])
        async with connect(running.port) as client:
            await client.send(request_bytes(chat(model, max_tokens=50))[: chance.choice([40, 200, 10_000])])
            await asyncio.sleep(chance.random() * 0.05)

    async def work() -> None:
        async with gateway(limits={"rate": [rule]}) as running:
            for _ in range(4):
                await asyncio.gather(*(visit(running) for _ in range(30)))
            await settled(running)
            assert (len(running.tidegate.crowd), running.tidegate.crowd.addresses) == (0, 0)
            reply = await ask(running.port, chat(SHORT, max_tokens=50))
            store = running.tidegate._process.store
            await until(lambda: not len(running.tidegate.gateway))
            place = Limit.at_a_time("ip:streams", "ip", 20)
            assert (await store.look([Charge(place, "127.0.0.1", 20)]))[0].wait_s == 0
            assert int(reply.headers["x-ratelimit-remaining-tokens"]) > 10_000_000 - 120 * 100
            assert running.tidegate.buffered_bytes() == 0

    run(work)


def test_keys_have_buckets_of_their_own() -> None:
    other = "tg-another-key-0001"
    keys = [*AUTH["keys"], {"id": "server", "sha256": hash_key(other)}]

    async def work() -> None:
        async with gateway(auth={"mode": "keys", "keys": keys}, **rate(by="key", requests_per_minute=1)) as running:
            statuses = [
                (await ask(running.port, chat(SHORT), headers={"x-api-key": key})).status for key in (KEY, other, KEY)
            ]
            assert statuses == [200, 200, 429]

    run(work)


# --- identity --------------------------------------------------------------------------------------------------------


def test_after_many_failing_keys_the_next_failing_one_is_429_on_hot_and_cold_routes() -> None:
    async def work() -> None:
        async with gateway(auth=AUTH) as running:
            wrong, right = {"x-api-key": "tg-wrong-wrong"}, {"x-api-key": KEY}
            for number in range(20):
                method, path = (("POST", "/v1/chat/completions"), ("GET", "/v1/models"))[number % 2]
                reply = await ask(running.port, chat(), method=method, path=path, headers=wrong)
                assert reply.status == 401
            for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models")):
                reply = await ask(running.port, chat(), method=method, path=path, headers=wrong)
                check_refused(reply, 429, "too_many_failures")
                good = await ask(running.port, chat(SHORT), method=method, path=path, headers=right)
                assert good.status == 200
            assert (await health(running)).status == 200

    run(work)


def test_behind_a_proxy_failures_count_for_the_client_and_not_for_its_neighbours() -> None:
    async def work() -> None:
        async with gateway(auth=AUTH, server=LOCAL) as running:

            async def knock(address: str) -> int:
                headers = {"x-api-key": "tg-wrong-wrong", "x-forwarded-for": address}
                return (await ask(running.port, b"", method="GET", path="/v1/models", headers=headers)).status

            assert Counter([await knock("198.51.100.1") for _ in range(21)]) == {401: 20, 429: 1}
            assert await knock("198.51.100.2") == 401

    run(work)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_while_too_much_is_held_new_work_is_refused_before_its_body_is_read() -> None:
    async def work() -> None:
        async with gateway(limits={"max_buffered_bytes": 2000}) as running, connect(running.port) as client:
            assert (await ask(running.port, chat(SHORT))).status == 200
            head = request_bytes(chat(), headers={"content-length": "2001", "expect": "100-continue"})
            await client.send(head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            check_refused(await client.reply(), 503, "overloaded")
            assert (await ask(running.port, chat(SHORT))).status == 200
            assert (await health(running)).status == 200

    run(work)


def test_a_body_of_unknown_length_is_refused_when_it_outgrows_the_room() -> None:
    async def work() -> None:
        async with gateway(limits={"max_buffered_bytes": 50_000}) as running, connect(running.port) as client:
            head = request_bytes(b"", headers={"transfer-encoding": "chunked"}).replace(b"content-length: 0\r\n", b"")
            await client.send(head)
            for _ in range(10):
                await client.send(b"2710\r\n" + b" " * 10_000 + b"\r\n")
            check_refused(await client.reply(), 503, "overloaded")
            running.tidegate._memory.sample()
            assert (await ask(running.port, chat(SHORT))).status == 200

    run(work)


def test_bodies_that_wait_for_their_provider_are_held_bytes() -> None:
    async def work() -> None:
        async with (
            fronting(stalling(), limits={"max_buffered_bytes": 250_000}) as (running, _),
            connect(running.port) as client,
        ):
            assert running.tidegate.buffered_bytes() == 0
            await client.send(request_bytes(chat(user="x" * 100_000)))
            # The client's own words, and the request as it is sent.
            await until(lambda: running.tidegate.buffered_bytes() > 200_000)
            assert running.tidegate.buffered_bytes() < 220_000
            running.tidegate._memory.sample()
            check_refused(await ask(running.port, chat(user="x" * 60_000)), 503, "overloaded")

    run(work)


def test_frames_that_are_held_for_a_verdict_are_held_bytes() -> None:
    async def work() -> None:
        role = b'data: {"choices":[{"delta":{"role":"assistant"}}],"pad":"%b"}\n\n' % (b"x" * 50_000)
        async with fronting(stalling(chunked(role))) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(chat()))
            await until(lambda: running.tidegate.buffered_bytes() > 50_000)

    run(work)


def test_the_beginning_of_a_frame_in_an_open_stream_is_held_bytes() -> None:
    async def work() -> None:
        begun = b'data: {"choices":[{"delta":{"content":"' + b"x" * 50_000
        async with fronting(stalling(chunked(word("tide"), begun))) as (running, _), connect(running.port) as client:
            await client.send(request_bytes(chat()))
            await client.reader.readuntil(b"tide")
            await until(lambda: running.tidegate.buffered_bytes() > 50_000)
        await running.entry()
        assert running.tidegate.buffered_bytes() == 0

    run(work)


# --- deadlines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["soon", "0", "-1s"])
def test_a_malformed_timeout_is_named(header: str) -> None:
    async def work() -> None:
        async with gateway() as running:
            reply = await ask(running.port, chat(), headers={"x-request-timeout": header})
            assert (reply.status, reply.json()["error"]["code"]) == (400, "bad_request")
            assert reply.json()["error"]["param"] == "x-request-timeout"

    run(work)


def test_the_wait_for_the_body_counts_against_the_deadline() -> None:
    async def work() -> None:
        async with gateway() as running, connect(running.port) as client:
            await client.send(request_bytes(chat(), headers={"x-request-timeout": "100ms"})[:-5])
            reply = await client.reply()
            assert (reply.status, reply.json()["error"]["code"]) == (504, "deadline_exceeded")

    run(work)


def test_a_shorter_body_timeout_is_still_the_client_s_slowness() -> None:
    async def work() -> None:
        async with gateway(server={"body_timeout": 0.1}) as running, connect(running.port) as client:
            await client.send(request_bytes(chat(), headers={"x-request-timeout": "10s"})[:-5])
            assert (await client.reply()).json()["error"]["code"] == "request_timeout"

    run(work)


def test_a_stream_in_time_is_untouched_by_its_deadline() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(*HELLO))) as (running, _):
            assert (await ask(running.port, chat(), headers={"x-request-timeout": "30"})).complete

    run(work)
