"""Whole gateways with a model of our own, and those who should get nothing of it: pages by another name, and who has no key."""

import pytest
from test_sentinels import AUTH, HEADERS

from harness import ask, run
from owning import EVENTS, owning

REBOUND = {"host": "rebound.test:5000"}


def test_without_keys_a_page_whose_name_leads_here_reads_and_starts_nothing() -> None:
    async def work() -> None:
        async with owning("echo") as own:
            assert (await own.put("p", {})).status == 200
            for path in ("/", "/health-check", "/openapi.json", "/predictions/p"):
                assert (await own.get(path, **REBOUND)).status == 403
                assert (await own.get(path, host="localhost")).status == 200
            assert (await own.get("/predictions/p", **EVENTS, **REBOUND)).status == 403
            assert (await own.post({}, headers=REBOUND)).status == 403
            await own.at_rest()
            assert own.codes() == ["completed"]

    run(work)


def test_with_keys_every_name_is_answered_and_who_has_none_sees_the_word_for_health_alone() -> None:
    async def work() -> None:
        async with owning("echo", auth=AUTH) as own:
            assert (await own.get("/health-check", **REBOUND)).json() == {"status": "READY"}
            whole = (await own.get("/health-check", **REBOUND, **HEADERS)).json()
            assert whole.keys() >= {"status", "setup", "version"}
            assert (await own.post({}, headers={**REBOUND, **HEADERS})).status == 200
            assert (await own.post({}, headers=REBOUND)).status == 401

    run(work)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/predictions"])
def test_a_page_of_elsewhere_runs_no_model_where_no_key_is_needed(path: str, site: str) -> None:
    async def work() -> None:
        async with owning("echo") as own:
            body = b'{"model": "own", "input": {}, "messages": [{"role": "user", "content": "x"}], "max_tokens": 9}'
            reply = await ask(own.port, body, path=path, headers={"sec-fetch-site": site, "origin": "http://evil.test"})
            assert reply.status == 403
            await own.at_rest()
            assert own.codes() == []

    run(work)
