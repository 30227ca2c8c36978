"""What keeps a provider's failures from being multiplied, before providers that fail for real: budgets and breakers."""

import asyncio
import json
from collections.abc import Sequence

import pytest

from harness import Reply, Running, ask, chat, gateway, run, until
from several import ERROR, WHOLE, before, hits, value
from streams import (
    ROLE,
    Script,
    answer,
    answering,
    chunked,
    closing,
    error_of,
    word,
)
from tidegate.testing.upstream import Peer, scripted_upstream

ONE_EACH = {"rate_per_second": 0, "burst": 1, "ratio": 0}


# --- the budget ----------------------------------------------------------------------------------------------------------


class Herd:
    """A provider that lets everybody wait and then breaks all connections at once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._all_here = asyncio.Event()
        self.hits = 0

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        self.hits += 1
        if self.hits >= self._size:
            self._all_here.set()
        await self._all_here.wait()
        peer.reset()


@pytest.mark.slow
def test_a_herd_is_not_multiplied() -> None:
    async def work() -> None:
        herd = Herd(100)
        budget = {"rate_per_second": 0, "burst": 5, "ratio": 0}
        async with before(herd, retry_budget=budget) as (running, _):
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(ask(running.port, chat())) for _ in range(100)]
            replies: Sequence[Reply] = [task.result() for task in asked]
            assert herd.hits == 105
            assert [error_of(reply)["code"] for reply in replies] == ["connect_reset"] * 100
            denied = [reply for reply in replies if reply.headers.get("x-should-retry") == "false"]
            assert len(denied) == 95
            assert value(running, "tidegate_retry_budget_available") == 0
            assert value(running, "tidegate_stream_retries_total", outcome="denied") == 95

    run(work)


class WarmHerd:
    """A provider that answers everybody once, and then breaks all these connections together, long after they were asked."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._warm, self._asked_again = asyncio.Event(), asyncio.Event()
        self.hits = 0

    async def __call__(self, peer: Peer) -> None:
        await self._asked(peer)
        if not self._asked_again.is_set():
            await self._warm.wait()
            await peer.send(WHOLE)
            await self._asked(peer)
            await self._asked_again.wait()
            await asyncio.sleep(0.5)
        peer.reset()

    async def _asked(self, peer: Peer) -> None:
        await peer.request()
        self.hits += 1
        if self.hits == self._size:
            self._warm.set()
        elif self.hits == 2 * self._size:
            self._asked_again.set()


@pytest.mark.slow
def test_a_herd_on_connections_that_were_kept_is_not_multiplied_either() -> None:
    async def crowd(running: Running) -> list[Reply]:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(running.port, chat())) for _ in range(100)]
        return [task.result() for task in asked]

    async def work() -> None:
        herd = WarmHerd(100)
        budget = {"rate_per_second": 0, "burst": 5, "ratio": 0}
        async with before(herd, retry_budget=budget) as (running, (upstream,)):
            assert {reply.status for reply in await crowd(running)} == {200}
            await until(lambda: running.tidegate.providers["p0"].pool.counts() == (0, 100))
            replies = await crowd(running)
            assert herd.hits == 100 + 100 + 5
            assert len(upstream.peers) == 100 + 5
            assert [error_of(reply)["code"] for reply in replies] == ["connect_reset"] * 100
            assert value(running, "tidegate_stream_retries_total", outcome="denied") == 95

    run(work)


def test_a_provider_whose_budget_is_used_up_gives_way_to_one_that_can_pay() -> None:
    async def work() -> None:
        async with before(answering(answer(500, ERROR)), answering(WHOLE), retry_budget=ONE_EACH) as (running, _):
            tidegate = running.tidegate
            assert tidegate.fleet["p0", "m0"].budget.take(tidegate.clock())
            replies = [await ask(running.port, chat()) for _ in range(2)]
            assert [reply.status for reply in replies] == [200, 500]
            assert [reply.headers["x-tidegate-attempts"] for reply in replies] == ["2", "1"]
            assert replies[1].headers["x-should-retry"] == "false"

    run(work)


# --- the breaker -----------------------------------------------------------------------------------------------------------


def test_a_target_that_keeps_failing_is_left_alone_and_its_provider_s_other_models_are_not() -> None:
    async def failing(peer: Peer) -> None:
        while True:
            _, body = await peer.request()
            await peer.send(answer(500, ERROR) if json.loads(body)["model"] == "bad" else WHOLE)

    async def work() -> None:
        breaker = {"failures": 5, "open_for": 30}
        models = [{"name": name, "targets": [{"provider": "main", "model": name}]} for name in ("bad", "good")]
        async with (
            scripted_upstream(failing) as upstream,
            gateway(upstream.base_url, provider={"breaker": breaker}, models=models) as running,
        ):
            replies = [await ask(running.port, chat("bad")) for _ in range(8)]
            assert [error_of(reply)["code"] for reply in replies] == ["upstream_failed"] * 5 + ["breaker_open"] * 3
            assert 25 <= int(replies[-1].headers["retry-after"]) <= 45
            assert replies[-1].status == 503
            assert hits(upstream) == 5
            assert (await ask(running.port, chat("good"))).status == 200
            assert value(running, "tidegate_breaker_state", provider="main", model="bad") == 2
            assert value(running, "tidegate_breaker_state", provider="main", model="good") == 0
            assert value(running, "tidegate_breaker_transitions_total", model="bad", to="open") == 1

    run(work)


WILD = [{"name": "openai/*", "targets": [{"provider": "main", "model": "openai/*"}]}]


def by_model(**answers: bytes) -> Script:
    """Give a provider that answers each model in its own way."""

    async def script(peer: Peer) -> None:
        while True:
            _, body = await peer.request()
            await peer.send(answers[json.loads(body)["model"].removeprefix("openai/")])

    return script


def test_one_bad_model_behind_a_wildcard_closes_no_other() -> None:
    async def work() -> None:
        provider = {"breaker": {"failures": 5, "open_for": 30}}
        async with (
            scripted_upstream(by_model(bad=answer(500, ERROR), good=WHOLE)) as upstream,
            gateway(upstream.base_url, provider=provider, models=WILD) as running,
        ):
            codes = [error_of(await ask(running.port, chat("openai/bad")))["code"] for _ in range(7)]
            assert codes == ["upstream_failed"] * 5 + ["breaker_open"] * 2
            good = await ask(running.port, chat("openai/good"))
            assert (good.status, good.headers["x-tidegate-target"]) == (200, "main/openai/good")
            assert hits(upstream) == 6
            labels = {"provider": "main", "model": "openai/*"}
            assert value(running, "tidegate_breaker_state", **labels) == 2
            assert value(running, "tidegate_breaker_transitions_total", **labels, to="open") == 1
            assert value(running, "tidegate_breaker_transitions_total") == 1

    run(work)


def test_one_model_behind_a_wildcard_that_answers_429_rests_no_other() -> None:
    async def work() -> None:
        busy = answer(429, ERROR, "retry-after: 60")
        async with (
            scripted_upstream(by_model(busy=busy, good=WHOLE)) as upstream,
            gateway(upstream.base_url, models=WILD) as running,
        ):
            names = ("busy", "good", "busy", "good")
            statuses = [(await ask(running.port, chat(f"openai/{name}"))).status for name in names]
            assert statuses == [429, 200, 429, 200]
            assert hits(upstream) == 3

    run(work)


def test_streams_that_are_cut_after_they_opened_open_the_breaker_too() -> None:
    async def work() -> None:
        cut = closing(chunked(ROLE, word("Hel")))
        async with before(cut, breaker={"failures": 3, "open_for": 30}) as (running, (upstream,)):
            statuses = [(await ask(running.port, chat())).status for _ in range(4)]
            assert statuses == [200, 200, 200, 503]
            assert hits(upstream) == 3

    run(work)
