"""What operators see of models of our own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from harness import ask, make_config, run
from owning import ASYNC, Owned, model, owning, provider
from tidegate.config import Config


def test_predictions_are_counted_while_they_run_and_while_they_are_kept() -> None:
    async def work() -> None:
        async with owning() as own:
            await own.post({"prompt": "a b"}, id="one")
            page = (await ask(own.running.ops_port, None, path="/metrics", method="GET")).body.decode()
            assert 'tidegate_predictions{state="running"} 0.0' in page
            assert 'tidegate_predictions{state="kept"} 1.0' in page
            kept = next(line for line in page.splitlines() if line.startswith("tidegate_predictions_kept_bytes "))
            assert 0 < float(kept.split()[1]) < 10_000
            assert own.tidegate.buffered_bytes() == 0

    run(work)


def test_a_probe_of_the_health_leaves_no_record() -> None:
    async def work() -> None:
        async with owning() as own:
            assert (await own.get("/health-check")).status == 200
            assert own.running.entries() == ()
            assert (await own.post({}, "/health-check")).status == 405
            assert [entry.code for entry in own.running.entries()] == ["method"]

    run(work)


# --- what is listed, and what is told of other paths ---------------------------------------------------------------------


async def listed(own: Owned) -> list[str]:
    return [each["id"] for each in (await own.get("/v1/models")).json()["data"]]


def test_a_model_that_answers_no_chat_is_listed_until_that_is_known() -> None:
    async def work() -> None:
        async with owning("pid", ready=False) as own:
            assert await listed(own) == ["own"]
            await own.ready()
            assert await listed(own) == []
            assert (await own.post()).status == 200

    run(work)


def test_a_model_that_answers_chats_at_one_of_its_targets_is_listed() -> None:
    async def work() -> None:
        providers = [provider("pid", "numbers"), provider("Words", "words"), {"name": "far"}]
        models = [
            model("none", "numbers"),
            {"name": "some", "targets": [{"provider": "numbers"}, {"provider": "words"}]},
            {"name": "other", "targets": [{"provider": "numbers"}, {"provider": "far", "model": "mock"}]},
        ]
        async with owning(providers=providers, models=models) as own:
            assert await listed(own) == ["some", "other"]

    run(work)


def test_an_unknown_path_is_told_that_predictions_are_made_here() -> None:
    async def work() -> None:
        async with owning("pid", ready=False) as own:
            assert "/predictions" in (await own.get("/predict")).json()["error"]["message"]

    run(work)


# --- webhooks ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def receiving(*statuses: int) -> AsyncIterator[str]:
    """Give an address that answers with one status after the other, then with the last."""
    left = list(statuses)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        status = left.pop(0) if len(left) > 1 else left[0]
        writer.write(f"HTTP/1.1 {status} Said\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"


async def scraped(own: Owned) -> dict[str, float]:
    """Give the counts of webhooks, by their results."""
    page = (await ask(own.running.ops_port, None, path="/metrics", method="GET")).body.decode()
    begin = 'tidegate_webhooks_total{result="'
    rows = (line.removeprefix(begin).split('"} ') for line in page.splitlines() if line.startswith(begin))
    return {result: float(count) for result, count in rows}


def test_webhooks_are_counted_by_what_became_of_them() -> None:
    async def work() -> None:
        allowed = {"webhooks": {"allow_private": True, "max_attempts": 2}}
        async with owning("echo", predictions=allowed) as own, receiving(500, 200, 500) as url:
            for ident in ("taken", "given-up"):
                await own.post({}, id=ident, webhook=url, webhook_events_filter=["completed"], headers=ASYNC)
                await own.until_status(ident, "succeeded")
                await own.tidegate.outbound.wait_delivered(30)
            assert await scraped(own) == {"sent": 1.0, "retried": 2.0, "failed": 1.0}

    run(work)


def test_webhooks_that_are_owed_are_seen_and_part_of_what_is_held() -> None:
    async def work() -> None:
        heard = asyncio.Event()

        async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await heard.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            writer.close()

        async def owed() -> str:
            page = (await ask(own.running.ops_port, None, path="/metrics", method="GET")).body.decode()
            return next(line for line in page.splitlines() if line.startswith("tidegate_webhooks_owed "))

        allowed = {"webhooks": {"allow_private": True}}
        async with (
            owning("echo", predictions=allowed) as own,
            await asyncio.start_server(late, "127.0.0.1", 0) as server,
        ):
            assert await owed() == "tidegate_webhooks_owed 0.0"
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
            await own.post({}, id="one", webhook=url, webhook_events_filter=["completed"], headers=ASYNC)
            await own.until_status("one", "succeeded")
            assert await owed() == "tidegate_webhooks_owed 1.0"
            assert own.tidegate.buffered_bytes() > 0
            heard.set()
            await own.tidegate.outbound.wait_delivered(30)
            assert await owed() == "tidegate_webhooks_owed 0.0"
            assert own.tidegate.buffered_bytes() == 0

    run(work)


# --- waiting -------------------------------------------------------------------------------------------------------------


def waits_s(**slots: object) -> float:
    config: Config = make_config("", providers=[provider(slots=slots) if slots else provider()], models=[model()])
    return config.providers[0].slots.max_queue_wait_s


def test_who_waits_for_a_model_of_our_own_waits_long_unless_the_file_says_otherwise() -> None:
    assert waits_s() == waits_s(max_queue=7) == 3600.0
    assert waits_s(max_queue_wait=30.0) == 30.0


# --- what workers do not get ---------------------------------------------------------------------------------------------


def test_workers_are_made_anew_when_there_is_more_to_withhold_from_them() -> None:
    async def work() -> None:
        async with owning("echo") as own:
            config, first = own.tidegate.wiring.config, own.local
            own.tidegate.reload(config)
            assert own.local is first
            own.tidegate.reload(config, None, frozenset({"PROVIDER_KEY"}))
            assert own.local is not first
            await own.ready()
            assert (await own.post()).json()["output"] == "hello"

    run(work)
