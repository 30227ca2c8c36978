"""What counts as tokens where a handler counts none: text, and neither files nor secrets."""

import base64
from typing import Any

from harness import ask, connect, request_bytes, run, until
from owning import ASYNC, WAIT_S, Owned, owning
from tidegate.ledger.ledger import Entry

LARGE = "data:text/plain;base64," + base64.b64encode(b"tide " * 60_000).decode()


async def recorded(own: Owned) -> Entry:
    await own.at_rest()
    entry: Entry = await own.running.entry(WAIT_S)
    assert entry.usage.estimated
    return entry


def test_files_are_no_tokens_neither_given_nor_made() -> None:
    async def work() -> None:
        async with owning("upper") as own:
            reply = await own.post({"file": LARGE})
            assert reply.json()["status"] == "succeeded"
            assert len(reply.body) > 400_000
            usage = (await recorded(own)).usage
            assert 0 < usage.input_tokens < 100
            assert usage.output_tokens == 0

    run(work)


def test_lists_of_files_and_secrets_are_no_tokens() -> None:
    async def work() -> None:
        async with owning("sealed") as own:
            reply = await own.post({"files": [LARGE, LARGE], "key": "k" * 40_000, "text": "x" * 400})
            assert reply.json()["output"] == {"files": 2, "key": 40_000, "made": LARGE}
            usage = (await recorded(own)).usage
            assert 100 <= usage.input_tokens < 200
            assert usage.output_tokens < 20

    run(work)


def test_text_is_tokens_as_far_as_it_came() -> None:
    async def work() -> None:
        async with owning("Dying") as own:
            assert (await own.post({"prompt": "x" * 400})).status == 200
            whole = (await recorded(own)).usage
            assert 100 <= whole.input_tokens < 150
            assert whole.output_tokens == 2
            await own.post({"prompt": "die" + "x" * 397})
            entry = await recorded(own)
            assert entry.code == "upstream_reset"
            assert (entry.usage.input_tokens, entry.usage.output_tokens) == (whole.input_tokens, 2)

    run(work)


def test_who_leaves_pays_for_no_file_either() -> None:
    async def work() -> None:
        async with owning("sealed") as own:
            async with connect(own.port) as client:
                given = {"files": [LARGE], "text": "wait"}
                await client.send(request_bytes({"id": "left", "input": given}, path="/predictions"))
                await until(lambda: own.local.crew.running == 1, WAIT_S)
            entry = await recorded(own)
            assert entry.code == "client_gone"
            assert entry.usage.input_tokens < 100

    run(work)


def test_a_prediction_that_never_reached_its_handler_used_nothing() -> None:
    async def work() -> None:
        async with owning("upper") as own:
            assert (await own.post({"file": "data:;base64,!!!"})).json()["status"] == "failed"
            usage = (await recorded(own)).usage
            assert (usage.input_tokens, usage.output_tokens) == (0, 0)

    run(work)


def test_a_file_reserves_no_tokens_of_a_rate() -> None:
    limits: dict[str, Any] = {"rate": [{"by": "ip", "tokens_per_minute": 3000}]}

    async def work() -> None:
        async with owning("sealed", limits=limits) as own:
            given = {"files": [LARGE], "text": "wait"}
            for name in ("first", "second"):  # each reserves what an answer may take besides
                assert (await own.put(name, given, headers=ASYNC)).status == 202
            await until(lambda: own.local.crew.running == 2, WAIT_S)
            for name in ("first", "second"):
                await own.cancel(name)
            await own.at_rest()

    run(work)


def test_a_chat_counts_its_text_as_before() -> None:
    async def work() -> None:
        async with owning("Words") as own:
            body = {"model": "own", "messages": [{"role": "user", "content": "a b c"}]}
            reply = await ask(own.port, body, path="/v1/chat/completions")
            assert reply.json()["usage"]["completion_tokens"] == 3
            assert (await recorded(own)).usage.output_tokens == 3

    run(work)
