"""Another configuration while everything runs: what is new goes by it, what runs does not notice, what is known stays."""

import asyncio
import json
import ssl
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority
from harness import Raw, Reply, Running, ask, chat, connect, gateway, make_config, request_bytes, run, until
from streams import (
    DONE,
    FINISH,
    HELLO,
    ROLE,
    USAGE,
    answer,
    answering,
    chunked,
    error_of,
    fronting,
    pool_of,
    settled,
    streamed,
    word,
)
from tidegate.admission.identity import hash_key
from tidegate.config import Config
from tidegate.dispatch.breaker import BreakerState
from tidegate.testing.upstream import LAST, Peer, ScriptedUpstream, chunk

KEY, OTHER_KEY = "tg-a-key-for-tests", "tg-another-for-tests"


def targets(model: str, provider: str = "main", **members: Any) -> dict[str, Any]:
    """Give a model of one target."""
    return {"name": model, "targets": [{"provider": provider, "model": model}], **members}


class Holding:
    """A provider that answers at once, but for models whose name begins with `held`: those wait for `go_on`.

    Shape: `held` are silent until then, `held-open` have said a word.
    """

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.asked: list[str] = []

    async def __call__(self, peer: Peer) -> None:
        while True:
            _, body = await peer.request()
            model = json.loads(body)["model"]
            self.asked.append(model)
            if not model.startswith("held"):
                await peer.send(streamed(*HELLO))
                continue
            begun = (ROLE, word("Hel"))
            if model == "held-open":
                await peer.send(chunked(*begun))
            await self.go_on.wait()
            rest = b"".join(map(chunk, (word("lo"), FINISH, USAGE, DONE))) + LAST
            await peer.send(rest if model == "held-open" else chunked(*begun) + rest)


@asynccontextmanager
async def holding(**sections: Any) -> AsyncIterator[tuple[Running, ScriptedUpstream, Holding, Callable[..., Config]]]:
    """Serve before a provider that holds; gives also what makes another configuration for it."""
    script = Holding()
    async with fronting(script, **sections) as (running, upstream):
        yield running, upstream, script, lambda **other: make_config(upstream.base_url, **other)
        script.go_on.set()
        await settled(running, connections=len(running.tidegate.edge.connections))


HELD = [targets("held"), targets("held-open"), targets("mock")]
MOCK = [targets("mock")]


async def begin(client: Raw, model: str, script: Holding, *, stream: bool = True) -> None:
    """Send a request, and wait until its provider has it."""
    before = len(script.asked)
    await client.send(request_bytes(chat(model, stream=stream)))
    await until(lambda: len(script.asked) > before)


def sample(running: Running, name: str, **labels: str) -> float:
    """Give the sum of a metric's samples with these labels."""
    families = running.tidegate.metrics.families()
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["held", "held-open"])
@pytest.mark.parametrize("reloads", [1, 3])
def test_a_model_that_is_removed_is_unknown_while_its_stream_goes_on_to_its_end(model: str, reloads: int) -> None:
    async def work() -> None:
        async with holding(models=HELD) as (running, _, script, other), connect(running.port) as client:
            await begin(client, model, script)
            for number in range(reloads):
                running.tidegate.reload(other(models=[*MOCK, targets(f"new-{number}")]))
            unknown = await ask(running.port, chat(model))
            assert (unknown.status, error_of(unknown)["code"]) == (404, "unknown_model")
            assert (await ask(running.port, chat(f"new-{reloads - 1}"))).status == 200
            listed = await ask(running.port, b"", method="GET", path="/v1/models")
            assert [model["id"] for model in listed.json()["data"]] == ["mock", f"new-{reloads - 1}"]
            script.go_on.set()
            reply = await client.reply()
            assert reply.events()[-1] == "[DONE]"
            await until(lambda: not len(running.tidegate.gateway))
            (entry,) = [entry for entry in running.entries() if entry.model == model]
            assert (entry.code, entry.provider, entry.usage.output_tokens) == ("completed", "main", 2)
            labels = {"model": model, "provider": "main", "code": "completed"}
            assert sample(running, "tidegate_requests_total", **labels) == 1

    run(work)


def test_a_body_that_is_still_coming_belongs_to_the_configuration_under_which_its_head_came() -> None:
    body = json.dumps(chat("mock")).encode()
    late = json.dumps(chat("late")).encode()

    async def work() -> None:
        auth = {"mode": "keys", "keys": [{"id": "a", "sha256": hash_key(KEY)}]}
        async with fronting(answering(streamed(*HELLO)), auth=auth) as (running, upstream):
            async with connect(running.port) as known, connect(running.port) as unknown:
                for client, data in ((known, body), (unknown, late)):
                    whole = request_bytes(data, headers={"authorization": f"Bearer {KEY}"})
                    await client.send(whole[:-20])
                await until(lambda: len(running.tidegate.wiring.admission.inside) == 2)
                other = {"mode": "keys", "keys": [{"id": "b", "sha256": hash_key(OTHER_KEY)}]}
                shrunk = {"max_body_bytes": 10}
                running.tidegate.reload(
                    make_config(upstream.base_url, auth=other, server=shrunk, models=[targets("late")])
                )
                await known.send(body[-20:])
                await unknown.send(late[-20:])
                first, second = await known.reply(), await unknown.reply()
                assert (first.status, second.status) == (200, 404)
                entries = {entry.code: entry for entry in running.entries()}
                assert (entries["completed"].key_id, entries["completed"].model) == ("a", "mock")
            too_large = await ask(running.port, late, headers={"authorization": f"Bearer {OTHER_KEY}"})
            assert (too_large.status, error_of(too_large)["code"]) == (413, "too_large")
            await settled(running)
            assert running.tidegate.buffered_bytes() == 0

    run(work)


@pytest.mark.parametrize(("before", "after"), [("finish", "cancel"), ("cancel", "finish")])
def test_a_stream_that_opens_after_a_reload_is_relayed_as_its_own_configuration_says(before: str, after: str) -> None:
    async def work() -> None:
        script = Holding()
        told = asyncio.Event()

        async def saying_the_rest_when_told(peer: Peer) -> None:
            await peer.request()
            script.asked.append("held")
            await script.go_on.wait()
            await peer.send(chunked(ROLE, word("Hel")))
            await told.wait()
            await peer.send(b"".join(map(chunk, (FINISH, USAGE, DONE))) + LAST)

        server = {"on_client_disconnect": before}
        async with fronting(saying_the_rest_when_told, server=server) as (running, upstream):
            async with connect(running.port) as client:
                await begin(client, "mock", script)
                running.tidegate.reload(make_config(upstream.base_url, server={"on_client_disconnect": after}))
                script.go_on.set()
                await client.reader.readuntil(b"Hel")
                client.writer.close()
            await until(lambda: running.tidegate.rules.finishing == 1 or bool(running.entries()))
            told.set()
            entry = await running.entry()
            assert entry.code == "client_gone"
            assert entry.usage.estimated is (before == "cancel")

    run(work)


def test_an_exchange_retries_and_falls_back_as_its_own_configuration_says() -> None:
    async def work() -> None:
        asked, go_on = asyncio.Event(), asyncio.Event()
        hits = []

        async def failing(peer: Peer) -> None:
            while True:
                await peer.request()
                hits.append(peer)
                asked.set()
                await go_on.wait()
                await peer.send(answer(503, {"error": {"message": "no"}}))

        async with fronting(answering(streamed(*HELLO))) as (good, _):
            retry = {"max_attempts": 3, "initial_delay": 0.001}
            good_url = make_url(good)
            providers = [{"name": "first", "retry": retry}, {"name": "second", "base_url": good_url}]
            model = {"name": "mock", "targets": [{"provider": "first"}, {"provider": "second", "priority": 1}]}
            async with (
                fronting(failing, providers=providers, models=[model]) as (running, upstream),
                connect(running.port) as client,
            ):
                await client.send(request_bytes(chat()))
                await asked.wait()
                impatient = [{"name": "first", "retry": {"max_attempts": 1}}]
                running.tidegate.reload(
                    make_config(upstream.base_url, providers=impatient, models=[targets("mock", "first")])
                )
                go_on.set()
                reply = await client.reply()
                assert (reply.status, reply.headers["x-tidegate-target"]) == (200, "second/mock")
                assert len(hits) == 3
                assert (await ask(running.port, chat())).status == 503
                assert len(hits) == 4

    run(work)


def make_url(running: Running) -> str:
    """Give the base URL of a gateway's own provider."""
    url: str = running.tidegate.wiring.config.providers[0].base_url
    return url


# --- providers and their connections ---------------------------------------------------------------------------------


def test_a_provider_that_is_the_same_keeps_its_connections() -> None:
    async def work() -> None:
        async with holding(models=MOCK) as (running, upstream, _, other):
            await ask(running.port, chat())
            pool = pool_of(running)
            running.tidegate.reload(other(models=HELD, provider={"retry": {"max_attempts": 9}}))
            assert pool_of(running) is pool
            assert (await ask(running.port, chat())).status == 200
            assert len(upstream.peers) == 1

    run(work)


def test_a_provider_that_is_another_has_connections_of_its_own_and_the_old_ones_close_when_their_streams_end() -> None:
    async def work() -> None:
        async with holding(models=HELD) as (running, upstream, script, other), connect(running.port) as client:
            await begin(client, "held-open", script)
            await ask(running.port, chat())
            pool = pool_of(running)
            assert pool.counts() == (1, 1)
            running.tidegate.reload(other(models=HELD, provider={"api_key": "sk-the-new-one"}))
            assert pool.counts() == (1, 0)
            assert (await ask(running.port, chat())).status == 200
            assert [b"sk-the-new-one" in peer.requests[0][0] for peer in upstream.peers] == [False, False, True]
            script.go_on.set()
            assert (await client.reply()).events()[-1] == "[DONE]"
            await until(lambda: pool.counts() == (0, 0))
            assert pool_of(running).counts() == (0, 1)
            running.tidegate.reload(make_config("http://127.0.0.1:1", providers=[{"name": "else"}], models=ELSE))
            assert set(running.tidegate.providers) == {"else"}

    run(work)


ELSE = [targets("mock", "else")]


def test_requests_that_wait_for_a_connection_of_a_provider_that_is_gone_still_get_one() -> None:
    async def work() -> None:
        narrow = {"connections": {"max": 1}}
        async with (
            holding(models=HELD, provider=narrow) as (running, _, script, other),
            connect(running.port) as first,
            connect(running.port) as second,
        ):
            await begin(first, "held-open", script)
            await second.send(request_bytes(chat("mock")))
            await until(lambda: len(running.tidegate.wiring.opening.pending) == 1)
            running.tidegate.reload(other(models=MOCK, provider={"connections": {"max": 2}}))
            script.go_on.set()
            assert [(await client.reply()).status for client in (first, second)] == [200, 200]

    run(work)


# --- what is known ---------------------------------------------------------------------------------------------------


BREAKING = {"breaker": {"failures": 1, "ratio": 0, "open_for": 3600}, "retry": {"max_attempts": 1}}


@pytest.mark.parametrize(
    ("changed", "still"),
    [
        ({}, True),
        ({"slots": {"max_streams": 9}, "retry": {"max_attempts": 2}}, True),
        ({"retry_budget": {"burst": 77}}, True),
        ({"api_key": "sk-the-new-one"}, True),
        ({"breaker": {"failures": 1, "ratio": 0, "open_for": 1800}}, False),
        ({"base_url": "http://127.0.0.1:1/v1"}, False),
    ],
    ids=str,
)
def test_a_breaker_stays_open_where_its_target_is_the_same(changed: dict[str, Any], still: bool) -> None:
    async def work() -> None:
        async with fronting(answering(answer(500, {})), provider=BREAKING) as (running, upstream):
            await ask(running.port, chat())
            running.tidegate.reload(make_config(upstream.base_url, provider={**BREAKING, **changed}))
            (state,) = running.tidegate.fleet.states.values()
            assert (state.breaker.state(running.tidegate.clock()) is BreakerState.OPEN) is still
            assert sample(running, "tidegate_breaker_state") == (2 if still else 0)
            reply = await ask(running.port, chat())
            assert (error_of(reply)["code"] == "breaker_open") is still

    run(work)


@pytest.mark.parametrize(
    ("changed", "left"), [({"slots": {"max_streams": 5}}, 0.0), ({"retry_budget": {"burst": 7}}, 7)]
)
def test_a_budget_that_is_spent_stays_spent_where_it_is_the_same(changed: dict[str, Any], left: float) -> None:
    poor = {
        "retry": {"max_attempts": 2, "max_delay": 0},
        "retry_budget": {"burst": 1, "ratio": 0, "rate_per_second": 0},
    }

    async def work() -> None:
        async with fronting(answering(answer(500, {})), provider=poor) as (running, upstream):
            await ask(running.port, chat())
            running.tidegate.reload(make_config(upstream.base_url, provider={**poor, **changed}))
            now = running.tidegate.clock()
            (budget,) = running.tidegate.fleet.budgets.values()
            assert budget.available(now) == left

    run(work)


def test_a_provider_that_said_when_to_come_back_is_left_alone_after_a_reload_too() -> None:
    async def work() -> None:
        async with fronting(answering(answer(429, {}, "retry-after: 60"))) as (running, upstream):
            await ask(running.port, chat())
            running.tidegate.reload(make_config(upstream.base_url, provider={"breaker": {"failures": 9, "ratio": 0}}))
            reply = await ask(running.port, chat())
            assert (reply.status, error_of(reply)["code"]) == (429, "upstream_rate_limited")
            assert sum(len(peer.requests) for peer in upstream.peers) == 1

    run(work)


def test_slots_in_use_count_under_their_new_number_and_come_back() -> None:
    def slots(number: int) -> dict[str, Any]:
        return {"slots": {"max_streams": number, "max_queue": 0}}

    async def work() -> None:
        async with holding(models=HELD, provider=slots(1)) as (running, _, script, other):
            async with connect(running.port) as first, connect(running.port) as second:
                await begin(first, "held-open", script)
                assert error_of(await ask(running.port, chat("mock")))["code"] == "queue_full"
                running.tidegate.reload(other(models=HELD, provider=slots(2)))
                await begin(second, "held-open", script)
                assert sample(running, "tidegate_slots", state="in_use") == 2
                running.tidegate.reload(other(models=HELD, provider=slots(1)))
                assert error_of(await ask(running.port, chat("mock")))["code"] == "queue_full"
                script.go_on.set()
                assert [(await client.reply()).events()[-1] for client in (first, second)] == ["[DONE]"] * 2
            await settled(running)
            assert sample(running, "tidegate_slots", state="in_use") == 0
            assert (await ask(running.port, chat("mock"))).status == 200

    run(work)


def test_who_waits_for_a_slot_gets_one_when_a_reload_makes_room() -> None:
    async def work() -> None:
        narrow = {"slots": {"max_streams": 1}}
        async with (
            holding(models=HELD, provider=narrow) as (running, _, script, other),
            connect(running.port) as first,
            connect(running.port) as second,
        ):
            await begin(first, "held-open", script)
            await second.send(request_bytes(chat("mock")))
            await until(lambda: sample(running, "tidegate_slots", state="waiting") == 1)
            running.tidegate.reload(other(models=HELD))
            assert (await second.reply()).status == 200
            script.go_on.set()
            assert (await first.reply()).status == 200

    run(work)


# --- limits and keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "status"),
    [
        ([{"by": "ip", "requests_per_minute": 1}], 429),
        ([{"by": "model", "requests_per_minute": 9}, {"by": "ip", "requests_per_minute": 1}], 429),
        ([{"by": "ip", "requests_per_minute": 1, "burst": 3}], 200),
        ([], 200),
    ],
    ids=["same", "behind another", "wider", "none"],
)
def test_what_a_rate_limit_has_counted_it_still_counts(rules: list[dict[str, Any]], status: int) -> None:
    async def work() -> None:
        limits = {"rate": [{"by": "ip", "requests_per_minute": 1}]}
        async with fronting(answering(streamed(*HELLO)), limits=limits) as (running, upstream):
            assert (await ask(running.port, chat())).status == 200
            running.tidegate.reload(make_config(upstream.base_url, limits={"rate": rules}))
            assert (await ask(running.port, chat())).status == status

    run(work)


def test_a_place_under_a_limit_of_streams_is_held_across_a_reload_and_given_back() -> None:
    async def work() -> None:
        one, other_rule = {"by": "ip", "max_streams": 1}, {"by": "model", "max_streams": 5}
        async with holding(models=HELD, limits={"rate": [one]}) as (running, _, script, other):
            async with connect(running.port) as client:
                await begin(client, "held-open", script)
                running.tidegate.reload(other(models=HELD, limits={"rate": [other_rule, one]}))
                assert (await ask(running.port, chat())).status == 429
                script.go_on.set()
                assert (await client.reply()).status == 200
            await until(lambda: not len(running.tidegate.gateway))
            assert (await ask(running.port, chat())).status == 200

    run(work)


def test_limits_of_connections_hold_for_those_that_come_after() -> None:
    async def work() -> None:
        async with (
            fronting(answering(streamed(*HELLO))) as (running, upstream),
            connect(running.port) as one,
            connect(running.port) as two,
        ):
            await until(lambda: len(running.tidegate.crowd) == 2)
            running.tidegate.reload(make_config(upstream.base_url, limits={"max_connections": 2}))
            assert (await ask(running.port, chat())).status == 503
            for client in (one, two):
                await client.send(request_bytes(chat()))
                assert (await client.reply()).status == 200
            running.tidegate.reload(make_config(upstream.base_url, limits={"max_connections": 3}))
            assert (await ask(running.port, chat())).status == 200

    run(work)


def test_keys_come_and_go_on_connections_that_are_open_already() -> None:
    def auth(key: str) -> dict[str, Any]:
        return {"mode": "keys", "keys": [{"id": key[:4], "sha256": hash_key(key)}]}

    async def status(client: Raw, key: str) -> int:
        await client.send(request_bytes(chat(), headers={"authorization": f"Bearer {key}"}))
        return (await client.reply()).status

    async def work() -> None:
        async with fronting(answering(streamed(*HELLO)), auth=auth(KEY)) as (running, upstream):
            async with connect(running.port) as client:
                assert [await status(client, key) for key in (KEY, OTHER_KEY)] == [200, 401]
                running.tidegate.reload(make_config(upstream.base_url, auth=auth(OTHER_KEY)))
                assert [await status(client, key) for key in (KEY, OTHER_KEY)] == [401, 200]
            cold = {"authorization": f"Bearer {KEY}"}
            assert (await ask(running.port, b"", method="GET", path="/v1/models", headers=cold)).status == 401

    run(work)


def test_attempts_with_bad_keys_are_remembered() -> None:
    async def work() -> None:
        auth = {"mode": "keys", "keys": [{"id": "a", "sha256": hash_key(KEY)}]}
        async with fronting(answering(streamed(*HELLO)), auth=auth) as (running, upstream):
            for _ in range(20):
                assert (await ask(running.port, chat())).status == 401
            running.tidegate.reload(make_config(upstream.base_url, auth=auth))
            assert (await ask(running.port, chat())).status == 429

    run(work)


# --- certificates ----------------------------------------------------------------------------------------------------


async def over_tls(port: int, authority: Authority) -> tuple[Raw, bytes]:
    """Give a connection, and the certificate it was made with."""
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    return Raw(reader, writer), writer.get_extra_info("ssl_object").getpeercert(binary_form=True)


def test_another_certificate_is_taken_for_new_connections_and_the_old_ones_stay(tmp_path: Path) -> None:
    async def work() -> None:
        authority = Authority(tmp_path)
        authority.context("127.0.0.1")
        files = {"cert": str(tmp_path / "127.0.0.1.pem"), "key": str(tmp_path / "127.0.0.1.key")}
        async with fronting(answering(streamed(*HELLO)), server={"tls": files}) as (running, upstream):
            old, first = await over_tls(running.port, authority)
            authority.context("127.0.0.1")
            assert running.tidegate.reload(make_config(upstream.base_url, server={"tls": files})) == []
            new, second = await over_tls(running.port, authority)
            assert first != second
            for client in (old, new):
                await client.send(request_bytes(chat()))
                assert (await client.reply()).status == 200
            (tmp_path / "127.0.0.1.key").write_text("no key", encoding="utf-8")
            with pytest.raises(ssl.SSLError):
                running.tidegate.reload(make_config(upstream.base_url, server={"tls": files}, models=ELSE[:0]))
            third, certificate = await over_tls(running.port, authority)
            assert certificate == second
            await third.send(request_bytes(chat()))
            assert (await third.reply()).status == 200
            for client in (old, new, third):
                client.writer.close()

    run(work)


def test_a_change_between_tls_and_none_is_left_for_a_new_start(tmp_path: Path) -> None:
    async def work() -> None:
        Authority(tmp_path).context("127.0.0.1")
        files = {"cert": str(tmp_path / "127.0.0.1.pem"), "key": str(tmp_path / "127.0.0.1.key")}
        async with fronting(answering(streamed(*HELLO))) as (running, upstream):
            config = make_config(upstream.base_url, server={"tls": files})
            assert running.tidegate.reload(config) == ["server.tls"]
            assert running.tidegate.reload(config) == ["server.tls"]
            assert (await ask(running.port, chat())).status == 200

    run(work)


def test_a_certificate_that_cannot_be_used_changes_nothing_at_all(tmp_path: Path) -> None:
    async def work() -> None:
        bad = tmp_path / "ca.pem"
        bad.write_text("no certificate", encoding="utf-8")
        narrow = {"slots": {"max_streams": 3}}
        async with fronting(answering(streamed(*HELLO)), provider=narrow) as (running, upstream):
            wiring = running.tidegate.wiring
            secure = [
                {"name": "main", "slots": {"max_streams": 1}},
                {"name": "other", "base_url": "https://127.0.0.1:1/v1", "ca_file": str(bad)},
            ]
            with pytest.raises(ssl.SSLError):
                running.tidegate.reload(make_config(upstream.base_url, providers=secure, limits={"max_connections": 1}))
            assert running.tidegate.wiring is wiring
            assert running.tidegate.crowd.max_connections == 10_000
            assert running.tidegate.fleet.slots["main", ""].settings.max_streams == 3
            assert (await ask(running.port, chat())).status == 200

    run(work)


def test_what_exchanges_of_the_old_configuration_hold_is_counted_on() -> None:
    async def work() -> None:
        async with holding(models=HELD) as (running, _, script, other), connect(running.port) as client:
            await client.send(request_bytes(chat("held", user="x" * 100_000)))
            await until(lambda: script.asked == ["held"])
            held = running.tidegate.buffered_bytes()
            assert held > 200_000, "the body, and the request that is sent"
            running.tidegate.reload(other(models=MOCK))
            assert running.tidegate.buffered_bytes() == held
            script.go_on.set()
            assert (await client.reply()).status == 200
            await until(lambda: not running.tidegate.buffered_bytes())

    run(work)


# --- what needs a new start ------------------------------------------------------------------------------------------


def test_settings_that_only_a_new_start_takes_are_named_as_long_as_they_differ_from_the_start() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(*HELLO))) as (running, upstream):
            port = running.port
            moved = make_config(upstream.base_url, server={"port": 1, "host": "127.0.0.9"})
            for _ in range(2):
                assert running.tidegate.reload(moved) == ["server.host", "server.port"]
            assert running.tidegate.reload(make_config(upstream.base_url)) == []
            assert (await ask(port, chat())).status == 200

    run(work)


# --- again and again -------------------------------------------------------------------------------------------------


def test_reloads_leave_no_connection_no_task_no_timer_and_no_wiring_behind() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()

        def timers() -> int:
            return sum(not timer.cancelled() for timer in getattr(loop, "_scheduled", ()))

        limits = {"rate": [{"by": "ip", "requests_per_minute": 10_000, "max_streams": 50}]}
        script = Holding()
        async with fronting(script, models=HELD, limits=limits) as (running, upstream):
            await ask(running.port, chat())
            await settled(running)
            tasks, before = len(asyncio.all_tasks()), timers()
            old: list[weakref.ref[object]] = []
            for number in range(50):
                old.append(weakref.ref(running.tidegate.wiring))
                provider = {"api_key": f"sk-number-{number}", "slots": {"max_streams": number % 3}}
                running.tidegate.reload(make_config(upstream.base_url, models=HELD, provider=provider, limits=limits))
                assert (await ask(running.port, chat())).status == 200
            await settled(running)
            assert len(upstream.peers) == 51
            assert pool_of(running).counts() == (0, 1)
            await until(lambda: len(asyncio.all_tasks()) <= tasks)
            assert timers() <= before
            assert [wiring for wiring in old if wiring() is not None] == []

    asyncio.run(work())


def test_reloads_in_the_midst_of_a_crowd_harm_nobody() -> None:
    async def work() -> None:
        async with gateway(provider={"slots": {"max_streams": 20}}) as running:
            url = make_url(running)
            models = ("mock?tokens=20&itl=2ms", "mock?tokens=3", "mock?tokens=9&fail=reset&fail_at=4")

            async def one(number: int) -> Reply:
                await asyncio.sleep(number * 0.003)
                return await ask(running.port, chat(models[number % 3]))

            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(one(number)) for number in range(200)]
                for number in range(60):
                    provider = {"slots": {"max_streams": number % 30}, "api_key": f"sk-number-{number // 4}"}
                    running.tidegate.reload(make_config(url, provider=provider))
                    await asyncio.sleep(0.01)
            replies = [task.result() for task in asking]
            assert {reply.status for reply in replies} == {200}
            whole = [reply for number, reply in enumerate(replies) if number % 3 != 2]
            assert all(reply.events()[-1] == "[DONE]" for reply in whole)
            await settled(running)
            assert len(running.entries()) == 200
            assert sample(running, "tidegate_slots") == 0
            assert running.tidegate.buffered_bytes() == 0
            await until(lambda: running.mock.stats.open == 0)

    run(work)
