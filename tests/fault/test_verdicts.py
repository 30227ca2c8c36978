"""Every row of the table happens over real sockets, and is the same word for client, record, metric and log."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from harness import Raw, Reply, Running, ask, chat, connect, gateway, request_bytes, run, until
from streams import (
    DONE,
    HELLO,
    ROLE,
    Script,
    answer,
    answering,
    chunked,
    closing,
    frame,
    full_backlog,
    settled,
    stalling,
    streamed,
    word,
)
from tidegate.admission.identity import FAILURES_PER_MINUTE
from tidegate.admission.store import Charge, Limit
from tidegate.testing.upstream import HEAD, Peer, chunk, scripted_upstream
from tidegate.verdict import TABLE, Refused

ERROR = frame({"error": {"message": "It broke."}})
BEGUN = chunked(ROLE, word("Hel"))

Client = Callable[[Running], Awaitable[Reply | None]]
"""What a client does; None is no answer to look at."""


class Scenario:
    """What provider and client do for a code, and the settings it takes."""

    def __init__(
        self,
        script: Script | None = None,
        client: Client | None = None,
        *,
        seen: str = "status",
        tls: bool = False,
        deaf: bool = False,
        **sections: Any,
    ) -> None:
        self.script = script or answering(streamed(*HELLO))
        self.tls = tls
        self.deaf = deaf
        self.client = client or asking()
        self.seen = seen
        self.sections = sections


def asking(body: Any = None, **options: Any) -> Client:
    async def client(running: Running) -> Reply:
        return await ask(running.port, chat() if body is None else body, **options)

    return client


def saying(data: bytes) -> Client:
    async def client(running: Running) -> Reply:
        async with connect(running.port) as raw:
            await raw.send(data)
            return await raw.reply()

    return client


def after_begin(then: Callable[[Running, Raw], Awaitable[None]]) -> Client:
    """Give a client whose stream has begun when something happens."""

    async def client(running: Running) -> None:
        async with connect(running.port) as raw:
            await raw.send(request_bytes(chat()))
            await raw.reader.readuntil(b"Hel")
            await then(running, raw)

    return client


async def leave(_: Running, raw: Raw) -> None:
    raw.writer.close()


async def take_nothing(running: Running, raw: Raw) -> None:
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await running.entry()


async def cancel(running: Running, _: Raw) -> None:
    await running.tidegate.edge.tasks.close()


async def shut_down(running: Running, raw: Raw) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(running.tidegate.stop(delay_s=0.0))
        assert b'"server_shutdown"' in await raw.reader.readuntil(b"\r\n0\r\n\r\n")


async def arrive_late(running: Running) -> Reply:
    """Send a request whose head began before the shutdown."""
    request = request_bytes(chat())
    async with connect(running.port) as raw, asyncio.TaskGroup() as group:
        await raw.send(request[:20])
        await until(lambda: len(running.tidegate.edge.connections) == 1)
        await asyncio.sleep(0.05)
        group.create_task(running.tidegate.stop(delay_s=0.0))
        await until(lambda: running.tidegate.edge.closing)
        await raw.send(request[20:])
        return await raw.reply()


async def break_the_gateway(running: Running) -> Reply:
    """Ask while a part is missing that the gateway relies on."""
    provider = running.tidegate.providers.pop("main")
    try:
        return await ask(running.port, chat())
    finally:
        running.tidegate.providers["main"] = provider


async def resetting(peer: Peer) -> None:
    await peer.request()
    await peer.send(BEGUN)
    await asyncio.sleep(0.05)
    peer.reset()


async def without_tls(peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def endless(peer: Peer) -> None:
    await peer.request()
    await peer.send(HEAD)
    while True:
        await peer.send(chunk(word("Hel" * 10_000)))
        await asyncio.sleep(0)


async def without_a_slot(running: Running) -> Reply:
    """Ask while somebody has the one slot."""
    slots_of_main = running.tidegate.fleet.slots["main", ""]
    assert slots_of_main.take_nowait()
    try:
        return await ask(running.port, chat())
    finally:
        slots_of_main.give_back()


async def after_a_trip(running: Running) -> Reply:
    """Ask when the target has failed just now."""
    breaker, now = running.tidegate.fleet["main", "mock"].breaker, running.tidegate.clock()
    permit = breaker.admit(now)
    assert permit is not None
    breaker.failed(permit, TABLE["upstream_failed"], now)
    return await ask(running.port, chat())


def slots(**members: Any) -> dict[str, Any]:
    return {"provider": {"slots": {"max_streams": 1, **members}}}


async def again(running: Running) -> Reply:
    """Ask with what is left after somebody else has used a minute's worth."""
    limit = Limit.per_minute("ip:requests", "ip", "requests", 1)
    await running.tidegate._process.store.settle([Charge(limit, "127.0.0.1", 1)])
    return await ask(running.port, chat())


async def after_many_failures(running: Running) -> Reply:
    """Ask with a wrong key when all failures of a minute are used up."""
    headers = {b"x-api-key": b"tg-not-a-key"}
    for _ in range(FAILURES_PER_MINUTE):
        with pytest.raises(Refused):
            running.tidegate._door.identify(headers, "127.0.0.1")
    return await ask(running.port, chat(), headers={"x-api-key": "tg-not-a-key"})


async def beside_another(running: Running) -> Reply:
    """Ask while the one connection that is allowed is somebody else's."""
    async with connect(running.port):
        await until(lambda: len(running.tidegate.crowd) == 1)
        return await ask(running.port, chat())


def limits(**members: Any) -> dict[str, Any]:
    return {"limits": members}


def timeouts(**seconds: float) -> dict[str, Any]:
    return {"provider": {"timeouts": seconds}}


def at(base_url: str) -> dict[str, Any]:
    return {"provider": {"base_url": base_url}}


KEYS = {"mode": "keys", "keys": [{"id": "k1", "sha256": "0" * 64}]}

SCENARIOS: dict[str, Scenario] = {
    "completed": Scenario(),
    "client_gone": Scenario(stalling(BEGUN), after_begin(leave), seen="nothing"),
    "client_slow": Scenario(endless, after_begin(take_nothing), seen="nothing", server={"slow_client_timeout": 0.2}),
    "bad_request": Scenario(client=asking(b"{}")),
    "unauthenticated": Scenario(auth=KEYS),
    "unknown_model": Scenario(client=asking(chat("other"))),
    "not_found": Scenario(client=asking(path="/v1/other")),
    "method": Scenario(client=asking(method="PUT")),
    "rate_limited": Scenario(client=again, **limits(rate=[{"by": "ip", "requests_per_minute": 1}])),
    "too_many_failures": Scenario(client=after_many_failures, auth=KEYS),
    "connections_full": Scenario(client=beside_another, **limits(max_connections=1)),
    "overloaded": Scenario(**limits(max_buffered_bytes=10)),
    "request_timeout": Scenario(client=saying(request_bytes(chat())[:-5]), server={"body_timeout": 0.1}),
    "too_large": Scenario(server={"max_body_bytes": 10}),
    "media_type": Scenario(client=asking(headers={"content-type": "text/plain"})),
    "header_too_large": Scenario(client=asking(headers={"x": "y" * 2000}), server={"max_header_bytes": 1000}),
    "draining": Scenario(client=arrive_late),
    "connect_refused": Scenario(**at("http://127.0.0.1:1/v1")),
    "connect_reset": Scenario(closing()),
    "dns_failed": Scenario(**at("http://provider.invalid/v1")),
    "tls_failed": Scenario(without_tls, tls=True),
    "connect_timeout": Scenario(deaf=True, **timeouts(connect=0.1)),
    "tls_timeout": Scenario(stalling(), tls=True, **timeouts(connect=0.1)),
    "headers_timeout": Scenario(stalling(), **timeouts(headers=0.1)),
    "first_token_timeout": Scenario(stalling(chunked(ROLE)), **timeouts(first_token=0.1)),
    "model_unavailable": Scenario(
        provider={"kind": "local", "base_url": "", "local": {"handler": "tidegate.verdict:Nothing"}}
    ),
    "provider_auth": Scenario(answering(answer(401, {"error": {"message": "no"}}))),
    "upstream_rate_limited": Scenario(answering(answer(429, {"error": {"message": "no"}}))),
    "untranslatable": Scenario(client=asking(chat(logprobs=True)), provider={"kind": "anthropic"}),
    "upstream_rejected": Scenario(answering(answer(400, {"error": {"message": "no"}}))),
    "upstream_failed": Scenario(answering(answer(502, {"error": {"message": "no"}}))),
    "error_frame": Scenario(answering(streamed(ROLE, ERROR))),
    "empty_stream": Scenario(answering(streamed(DONE))),
    "bad_frame": Scenario(answering(streamed(b"data: {\n\n"))),
    "upstream_truncated": Scenario(closing(BEGUN), seen="frame"),
    "upstream_reset": Scenario(resetting, seen="frame"),
    "upstream_error_frame": Scenario(answering(streamed(word("Hel"), ERROR)), seen="frame"),
    "idle_timeout": Scenario(stalling(BEGUN), seen="frame", **timeouts(idle=0.1)),
    "total_timeout": Scenario(stalling(BEGUN), seen="frame", **timeouts(total=0.1)),
    "server_shutdown": Scenario(stalling(BEGUN), after_begin(shut_down), seen="nothing", server={"drain_timeout": 0.1}),
    "cancelled": Scenario(stalling(BEGUN), after_begin(cancel), seen="nothing"),
    "queue_full": Scenario(client=without_a_slot, **slots(max_queue=0)),
    "queue_timeout": Scenario(client=without_a_slot, **slots(max_queue_wait=0.1)),
    "breaker_open": Scenario(client=after_a_trip, provider={"breaker": {"failures": 1}}),
    "deadline_exceeded": Scenario(stalling(), asking(headers={"x-request-timeout": "100ms"})),
    "bug": Scenario(client=break_the_gateway),
}


def test_every_row_of_the_table_has_a_scenario() -> None:
    assert set(SCENARIOS) == set(TABLE)


@pytest.mark.parametrize("code", SCENARIOS)
def test_a_verdict_is_one_word_wherever_it_is_said(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = SCENARIOS[code]

    async def work() -> None:
        with full_backlog() as deaf_port:
            async with scripted_upstream(scenario.script) as upstream:
                base_url = upstream.base_url.replace("http", "https") if scenario.tls else upstream.base_url
                if scenario.deaf:
                    base_url = f"http://127.0.0.1:{deaf_port}/v1"
                async with gateway(base_url, **scenario.sections) as running:
                    reply = await scenario.client(running)
                    await running.entry()
                    check_told(code, scenario.seen, reply)
                    check_recorded(code, running)
                    await settled(running, connections=len(running.tidegate.edge.connections))

    run(work)
    said = [line for line in capsys.readouterr().out.splitlines() if "exchange " in line]
    assert len(said) == 1
    assert f"code={code} " in said[0]


def check_told(code: str, seen: str, reply: Reply | None) -> None:
    verdict = TABLE[code]
    if seen == "nothing":
        assert reply is None
    elif code == "completed":
        assert reply is not None
        assert (reply.status, reply.complete, reply.events()[-1]) == (200, True, "[DONE]")
    elif seen == "frame":
        assert reply is not None
        assert (reply.status, reply.complete) == (200, True)
        assert f'"code":"{code}"' in reply.events()[-1]
    else:
        assert reply is not None
        assert reply.status == verdict.status
        assert reply.json()["error"]["code"] == code
        assert (reply.headers.get("x-should-retry") == "false") == (verdict.again.value == "never")


def check_recorded(code: str, running: Running) -> None:
    assert [entry.code for entry in running.entries()] == [code]
    counted = [
        (sample.labels["code"], sample.value)
        for family in running.tidegate.metrics.families()
        for sample in family.samples
        if sample.name == "tidegate_requests_total"
    ]
    assert counted == [(code, 1)]
