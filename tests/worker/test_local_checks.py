"""The handler's own check: asked, waited for, and what it decides."""

import asyncio

import pytest
from workshop import Shop, predicting, run, shop

from tidegate.exchange import Source


def test_a_handler_s_own_check_decides_over_the_health() -> None:
    async def work() -> None:
        async with shop({"checks": True, "check": "the GPU is gone"}) as made:
            assert set(await asyncio.gather(made.local.check(), made.local.check())) == {"the GPU is gone"}
            health = made.local.health()
            assert health.status == "UNHEALTHY"
            assert health.user_healthcheck_error == "the GPU is gone"
            (worker,) = made.local.crew._workers
            assert worker._checks_begun == 1

    run(work)


def test_a_handler_without_a_check_of_its_own_is_healthy() -> None:
    async def work() -> None:
        async with shop() as made:
            assert not await made.local.check()
            assert made.local.health().status == "READY"

    run(work)


@pytest.mark.slow
def test_a_check_that_does_not_answer_is_unhealthy() -> None:
    async def work() -> None:
        async with shop({"checks": True}) as made:
            assert "did not answer" in await made.local.check()

    run(work)


def test_a_worker_that_dies_during_a_check_answers_it() -> None:
    async def work() -> None:
        async with shop({"checks": True, "slots": 2}) as made:
            asking = asyncio.get_running_loop().create_task(made.local.check())
            await asyncio.sleep(0)
            await made.predict(do="kill")
            assert await asking == "the worker crashed (signal 9)"

    run(work)


async def _hold(made: Shop, source: Source) -> None:
    """Have a reader stop to read until its worker is not heard any more."""
    source.pause()
    await made.until(lambda: any(worker.held for worker in made.local.crew._workers))


FLOOD = {"do": "wait", "items": ["x" * 65536] * 200}


def test_while_a_slow_reader_keeps_its_worker_from_being_heard_the_last_answer_of_its_check_stands() -> None:
    async def work() -> None:
        async with shop({"checks": True, "check": "the GPU is gone", "slots": 2}) as made:
            (worker,) = made.local.crew._workers
            async with made.local.open(predicting(**FLOOD)) as stream:
                await _hold(made, stream.source)
                assert await made.local.check() == ""
                assert made.local.health().status == "READY"
            assert await made.local.check() == "the GPU is gone"
            async with made.local.open(predicting(**FLOOD)) as stream:
                await _hold(made, stream.source)
                assert await made.local.check() == "the GPU is gone"
            assert worker._checks_begun == 1

    run(work)


def test_a_check_is_asked_of_a_worker_that_can_be_heard() -> None:
    async def work() -> None:
        async with shop({"checks": True, "check": "the GPU is gone", "slots": 2}, workers=2) as made:
            await made.until(lambda: len(made.events("worker_ready")) == 2)
            held = made.local.crew._pick()
            async with made.local.open(predicting(**FLOOD)) as stream:
                await _hold(made, stream.source)
                (free,) = (worker for worker in made.local.crew._workers if worker is not held)
                free.load += 2  # however busy
                assert await made.local.check() == "the GPU is gone"
                free.load -= 2

    run(work)


def test_a_check_whose_answer_a_slow_reader_delays_is_not_asked_twice() -> None:
    async def work() -> None:
        async with shop({"checks": True, "slots": 2}) as made:
            (worker,) = made.local.crew._workers
            async with made.local.open(predicting(**FLOOD)) as stream:
                asking = asyncio.get_running_loop().create_task(made.local.check())
                await made.until(lambda: worker._checks_begun == 1)
                await _hold(made, stream.source)
                assert await asking == ""
            asking = asyncio.get_running_loop().create_task(made.local.check())
            await made.predict(do="kill")
            assert await asking == "the worker crashed (signal 9)"
            assert worker._checks_begun == 1

    run(work)
