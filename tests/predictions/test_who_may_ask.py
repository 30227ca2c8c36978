"""Names that anybody can have, addresses that are not for webhooks, and what those see of health who have no key."""

import asyncio
from typing import Any

import pytest
from fronting import Fronted, fronted

from harness import run
from tidegate.hooks.settings import WebhookSettings
from tidegate.predictions.requests import check_host, read_body
from tidegate.verdict import Refused
from tidegate.worker.health import Health, Setup

INPUT = {"input": {"prompt": "hi", "n": 2}}
PATHS = (
    ("GET", "/"),
    ("GET", "/health-check"),
    ("GET", "/openapi.json"),
    ("GET", "/predictions/p"),
    ("POST", "/predictions"),
    ("PUT", "/predictions/p"),
    ("POST", "/predictions/p/cancel"),
    ("POST", "/shutdown"),
    ("POST", "/v1/models/m/predictions"),
)


@pytest.mark.parametrize(
    "host", ["rebound.test", "rebound.test:5000", "127.0.0.1.rebound.test", "localhost.test", "a b"]
)
def test_a_name_that_anybody_can_have_is_answered_nothing_on_this_machine(host: str) -> None:
    async def scenario() -> None:
        async with fronted(shutdown=True) as at:
            await at.put("p", INPUT)
            for method, path in PATHS:
                reply = await at.ask(method, path, b"" if method == "GET" else INPUT, host=host)
                assert (reply.status, b"localhost" in reply.body) == (403, True), path
            assert (len(at.handler.inputs), at.shut_down, at.model.checked) == (1, 0, 0)

    run(scenario)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:5000",
        "localhost.",
        "a.localhost:1",
        "127.0.0.1",
        "127.0.0.1:5000",
        "[::1]:5000",
        "[::1]",
    ],
)
def test_localhost_and_addresses_are_answered(host: str) -> None:
    async def scenario() -> None:
        async with fronted() as at:
            assert (await at.post(INPUT, host=host)).status == 200

    run(scenario)


def test_with_keys_any_name_will_do() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.keys.needed = True
            assert (await at.post(INPUT, host="models.test", authorization="k")).status == 200

    run(scenario)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "::1%lo"])
def test_names_are_looked_at_where_the_client_is_on_this_machine(peer: str) -> None:
    with pytest.raises(Refused) as refused:
        check_host(peer, {b"host": b"rebound.test"})
    assert refused.value.status == 403
    check_host(peer, {})


@pytest.mark.parametrize("peer", ["10.0.0.1", "2001:db8::1", ""])
def test_from_elsewhere_any_name_will_do(peer: str) -> None:
    check_host(peer, {b"host": b"models.test"})


@pytest.mark.parametrize("how", ["post", "put"])
@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("http://127.0.0.1:1/sentinel", True),
        ("http://10.1.2.3/sentinel", True),
        ("https://[::1]/sentinel", True),
        ("http://169.254.169.254/sentinel", True),
        ("http://user:sentinel@example.com/", False),
        ("http://0x7f.1/sentinel", False),
        ("ftp://example.com/sentinel", False),
        ("nonsense sentinel", False),
        ("https://example.com/" + "sentinel" * 256, False),
    ],
)
def test_a_webhook_that_can_never_be_told_is_refused_and_the_model_does_not_run(
    url: str, names: bool, how: str
) -> None:
    async def scenario() -> None:
        async with fronted() as at:
            body = {**INPUT, "webhook": url}
            reply = await (at.post(body) if how == "post" else at.put("p", body))
            assert reply.status == 422
            (detail,) = reply.json()["detail"]
            assert detail["loc"] == ["body", "webhook"]
            assert ("predictions.webhooks.allow_private" in detail["msg"]) == names
            assert b"sentinel" not in reply.body
            assert (at.handler.inputs, at.hooked) == ([], [])

    run(scenario)


def test_private_addresses_are_told_where_they_are_allowed_and_names_are_judged_when_they_are_asked_for() -> None:
    async def scenario() -> None:
        async with fronted(webhooks=WebhookSettings(allow_private=True)) as at:
            assert (await at.post({**INPUT, "webhook": "http://127.0.0.1:1/"})).status == 200
        async with fronted() as at:
            assert (await at.post({**INPUT, "webhook": "http://localhost/"}, x_request_id="r-1")).status == 200
            assert [set(ids) for ids in at.ids] == [{"prediction", "request"}]
            assert len(at.hooked) == 1

    run(scenario)


def test_a_body_is_read_with_the_addresses_that_the_settings_allow() -> None:
    text = b'{"webhook":"http://10.0.0.1/"}'
    assert read_body(text, {}, private=True).webhook == "http://10.0.0.1/"
    with pytest.raises(Refused):
        read_body(text, {})


async def _glance(at: Fronted) -> Any:
    return (await at.get("/health-check")).json()


def test_the_check_of_a_model_is_asked_once_a_second_for_all_who_have_no_key() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.keys.needed = True
            glances = await asyncio.gather(*(_glance(at) for _ in range(20)))
            assert glances == [{"status": "READY"}] * 20
            assert at.model.checked <= 2  # the machine may take a second for it
            before = at.model.checked
            for _ in range(5):
                whole = (await at.get("/health-check", authorization="k")).json()
                assert whole["setup"]["logs"] == "loaded"
            assert at.model.checked == before + 5

    run(scenario)


def test_who_has_no_key_sees_the_present_state_though_the_check_is_not_asked() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.keys.needed = True
            await _glance(at)
            at.model.found = Health(
                "SETUP_FAILED", Setup("failed", "x", "y", "words of the model"), error="words of it"
            )
            assert await _glance(at) == {"status": "SETUP_FAILED"}

    run(scenario)


def test_the_check_is_asked_again_when_its_second_is_over() -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.keys.needed = True
            await _glance(at)
            glances = 0
            while at.model.checked < 2:
                await _glance(at)
                glances += 1
                await asyncio.sleep(0.05)
            assert glances > 2

    run(scenario)
