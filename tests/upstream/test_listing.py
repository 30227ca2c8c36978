"""Which models a provider has: asked for by one request however many want to know, and never forgotten by a failure."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from harness import Running, ask, chat, connect, gateway, make_config, request_bytes, run, until
from streams import HELLO, answer, fronting, pool_of, streamed
from tidegate.tasks import Tasks
from tidegate.testing.upstream import Peer, ScriptedUpstream, chunk, scripted_upstream
from tidegate.upstream import listing
from tidegate.upstream.dial import Dialer, Origin
from tidegate.upstream.listing import FAILED_S, FRESH_S, Listing
from tidegate.upstream.pool import Pool
from tidegate.upstream.providers import Provider
from tidegate.upstream.settings import ConnectionSettings, ProviderSettings

WILD = [{"name": "openai/*", "targets": [{"provider": "main"}]}]
Saying = Callable[[Peer], Awaitable[None]]


def page(*names: str) -> bytes:
    """Give a provider's list of models, as OpenAI writes one."""
    rows = [{"id": name, "object": "model", "created": 1, "owned_by": "system"} for name in names]
    return answer(200, {"object": "list", "data": rows})


def says(*pieces: bytes) -> Saying:
    """Give an answer to one request."""

    async def saying(peer: Peer) -> None:
        await peer.send(*pieces)

    return saying


async def stalls(peer: Peer) -> None:
    await peer.wait_closed_by_peer()


async def resets(peer: Peer) -> None:
    peer.reset()


async def truncates(peer: Peer) -> None:
    await peer.send(page("a", "b")[:-5])
    raise EOFError


class Lists:
    """A provider whose lists follow one another; the last one stays. Chats are answered at once."""

    def __init__(self, *sayings: Saying) -> None:
        self._sayings = list(sayings)
        self.requests: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            if head.startswith(b"POST"):
                await peer.send(streamed(*HELLO))
                continue
            self.requests.append(head)
            await (self._sayings.pop(0) if len(self._sayings) > 1 else self._sayings[0])(peer)


class Asking:
    """A listing over real sockets. Shape: `now` is its clock."""

    def __init__(self, upstream: ScriptedUpstream, known: tuple[str, ...]) -> None:
        settings = ProviderSettings(name="main", kind="openai", base_url=upstream.base_url, api_key="sk-upstream")  # type: ignore[arg-type]
        origin = Origin.of(upstream.base_url)
        self.now = 1000.0
        self.tasks = Tasks()
        self.pool = Pool(Dialer(origin), ConnectionSettings(), self.clock)
        provider = Provider(settings, self.pool, origin.authority, "tidegate/test", self.tasks)
        self.listing = Listing(provider, self.clock, self.tasks, known)

    def clock(self) -> float:
        return self.now


@asynccontextmanager
async def asking(*sayings: Saying, known: tuple[str, ...] = ()) -> AsyncIterator[tuple[Asking, Lists]]:
    """Give a listing before a provider that says so."""
    script = Lists(*sayings)
    async with scripted_upstream(script) as upstream:
        made = Asking(upstream, known)
        yield made, script
        await until(lambda: not len(made.tasks) and not made.pool.in_use)
        made.pool.close()


# --- asking ----------------------------------------------------------------------------------------------------------


def test_a_provider_is_asked_as_it_is_asked_for_anything() -> None:
    async def work() -> None:
        async with asking(says(page("b", "a", "c/d"))) as (asked, script):
            assert await asked.listing.names() == ("b", "a", "c/d")
            (head,) = script.requests
            assert head.startswith(b"GET /v1/models HTTP/1.1\r\n")
            assert b"\r\nauthorization: Bearer sk-upstream\r\n" in head
            assert b"\r\nhost: 127.0.0.1:" in head
            assert b"\r\naccept-encoding: identity\r\n" in head
            assert asked.pool.counts() == (0, 1), "its connection is kept for what comes next"

    run(work)


def test_a_list_in_pieces_is_one_list() -> None:
    async def work() -> None:
        head, _, body = page("a", "b").partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if b"length" not in line]
        pieces = [chunk(body[start : start + 7]) for start in range(0, len(body), 7)]
        coded = b"\r\n".join([*lines, b"transfer-encoding: chunked\r\n\r\n"])
        async with asking(says(coded, *pieces, b"0\r\n\r\n")) as (asked, _):
            assert await asked.listing.names() == ("a", "b")

    run(work)


def test_a_model_without_a_name_is_none() -> None:
    async def work() -> None:
        async with asking(says(page("a", "", "b"))) as (asked, _):
            assert await asked.listing.names() == ("a", "b")

    run(work)


def test_a_list_is_remembered_for_a_while_and_then_asked_for_anew() -> None:
    async def work() -> None:
        async with asking(says(page("old")), says(page("new"))) as (asked, script):
            for _ in range(3):
                assert await asked.listing.names() == ("old",)
            asked.now += FRESH_S - 0.1
            assert await asked.listing.names() == ("old",)
            assert len(script.requests) == 1
            asked.now += 0.2
            assert await asked.listing.names() == ("new",)

    run(work)


def test_however_many_want_to_know_there_is_one_request() -> None:
    async def work() -> None:
        go_on = asyncio.Event()

        async def slowly(peer: Peer) -> None:
            await go_on.wait()
            await peer.send(page("a"))

        async with asking(slowly) as (asked, script):
            wanting = [asyncio.ensure_future(asked.listing.names()) for _ in range(100)]
            await until(lambda: len(script.requests) == 1)
            for impatient in wanting[::2]:
                impatient.cancel()
            await asyncio.gather(*wanting[::2], return_exceptions=True)
            go_on.set()
            assert await asyncio.gather(*wanting[1::2]) == [("a",)] * 50
            assert len(script.requests) == 1

    run(work)


# --- what fails ------------------------------------------------------------------------------------------------------


def not_json(body: bytes) -> Saying:
    return says(answer(200, body))


ONE = {"data": [{"id": "x"}]}
BAD: dict[str, Saying] = {
    "500": says(answer(500, {"error": {"message": "no"}})),
    "401": says(answer(401, {"error": {"message": "no"}})),
    "404": says(answer(404, ONE)),
    "redirect": says(answer(302, ONE, "location: /v2/models")),
    "reset": resets,
    "truncated": truncates,
    "no HTTP": says(b"SSH-2.0-OpenSSH\r\n\r\n"),
    "no JSON": not_json(b"<html>"),
    "no UTF-8": not_json(b'{"data": [{"id": "\xff"}]}'),
    "another shape": not_json(b'{"items": []}'),
    "names that are no text": not_json(b'{"data": [{"id": 7}]}'),
    "nothing": not_json(b""),
    "nested too deep": not_json(b'{"data": [], "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "too large": not_json(b'{"data": []}' + b" " * listing.MAX_BYTES),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_list_that_fails_takes_nothing_away_and_is_asked_for_again_after_a_short_while(bad: str) -> None:
    async def work() -> None:
        async with asking(says(page("a", "b")), BAD[bad], says(page("c"))) as (asked, script):
            assert await asked.listing.names() == ("a", "b")
            asked.now += FRESH_S + 1
            for _ in range(3):
                assert await asked.listing.names() == ("a", "b")
            assert len(script.requests) == 2
            asked.now += FAILED_S + 1
            assert await asked.listing.names() == ("c",)

    run(work)


def test_a_provider_without_end_is_read_no_further_than_the_limit() -> None:
    async def work() -> None:
        sent = 0

        async def pours(peer: Peer) -> None:
            nonlocal sent
            await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                await peer.send(chunk(b" " * 65536))
                sent += 65536

        async with asking(pours) as (asked, _):
            assert await asked.listing.names() == ()
            assert asked.pool.counts() == (0, 0)
            assert sent < 4 * listing.MAX_BYTES

    run(work)


def test_more_models_than_anybody_has_are_cut_off() -> None:
    async def work() -> None:
        names = [str(number) for number in range(listing.MAX_MODELS + 5)]
        async with asking(says(page(*names))) as (asked, _):
            assert await asked.listing.names() == tuple(names[: listing.MAX_MODELS])

    run(work)


def test_a_port_that_refuses_takes_nothing_away() -> None:
    async def work() -> None:
        async with scripted_upstream(Lists(stalls)) as upstream:
            asked = Asking(upstream, ("known",))
        assert await asked.listing.names() == ("known",)
        assert asked.pool.counts() == (0, 0)

    run(work)


@pytest.mark.slow
def test_a_list_that_does_not_come_is_not_waited_for_without_end() -> None:
    async def work() -> None:
        async with asking(stalls, known=("known",)) as (asked, _):
            assert await asked.listing.names() == ("known",)
            assert asked.pool.counts() == (0, 0)

    run(work)


def test_a_connection_that_its_provider_has_closed_meanwhile_costs_no_list() -> None:
    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.send(page("a"))
        await peer.request()
        peer.reset()  # what was asked crossed the end of a connection that nobody used

    async def work() -> None:
        async with scripted_upstream(once) as upstream:
            asked = Asking(upstream, ())
            for _ in range(3):
                asked.now += FRESH_S + 1
                asked.listing.known = ()
                assert await asked.listing.names() == ("a",)
            asked.pool.close()

    run(work)


# --- through the gateway ---------------------------------------------------------------------------------------------


async def listed(running: Running) -> list[str]:
    reply = await ask(running.port, b"", method="GET", path="/v1/models")
    assert reply.status == 200
    return [model["id"] for model in reply.json()["data"]]


def test_clients_see_the_models_behind_a_wildcard_under_the_names_that_reach_them() -> None:
    models = [
        {"name": "own", "targets": [{"provider": "main", "model": "x"}]},
        *WILD,
        {"name": "tuned/*", "targets": [{"provider": "main", "model": "ft:*:acme"}]},
        {"name": "openai/gpt-4", "targets": [{"provider": "main", "model": "pinned"}]},
        {"name": "same/*", "targets": [{"provider": "main", "model": "fixed"}]},
    ]
    names = ("gpt-4", "gpt-5", "ft:seven:acme", "ft::acme", "ft:eight:other", "a*b")

    async def work() -> None:
        async with fronting(Lists(says(page(*names))), models=models) as (running, _):
            found = await listed(running)
            assert found == [
                "own",
                "openai/gpt-4",
                "openai/gpt-5",
                "openai/ft:seven:acme",
                "openai/ft::acme",
                "openai/ft:eight:other",
                "tuned/seven",
            ]
            for name in found:
                assert (await ask(running.port, chat(name))).status == 200
                one = await ask(running.port, b"", method="GET", path=f"/v1/models/{name}")
                assert one.json()["id"] == name
            assert pool_of(running).in_use == 0

    run(work)


def test_the_rest_of_a_name_reaches_the_provider_and_a_star_never_does() -> None:
    bodies: list[dict[str, Any]] = []

    async def script(peer: Peer) -> None:
        while True:
            _, body = await peer.request()
            bodies.append(json.loads(body))
            await peer.send(streamed(*HELLO))

    async def work() -> None:
        async with fronting(script, models=WILD, provider={"kind": "mock"}) as (running, _):
            for name in ("openai/gpt-4o", "openai/a/b", "openai/x?ttft=1s"):
                assert (await ask(running.port, chat(name))).status == 200
            for name in ("openai/*", "openai/*?ttft=1s", "openai/a*", "openai/"):
                assert (await ask(running.port, chat(name))).status == 404
            assert [body["model"] for body in bodies] == ["gpt-4o", "a/b", "x?ttft=1s"]
            entry = running.entries()[0]
            assert (entry.model, entry.upstream_model) == ("openai/*", "gpt-4o")

    run(work)


def test_a_provider_that_cannot_list_hides_no_configured_model_and_breaks_no_request() -> None:
    models = [{"name": "own", "targets": [{"provider": "main"}]}, *WILD]

    async def work() -> None:
        async with fronting(Lists(BAD["500"]), models=models) as (running, _):
            assert await listed(running) == ["own"]
            assert (await ask(running.port, chat("openai/gpt-4"))).status == 200

    run(work)


def test_fifty_clients_at_once_are_one_request_and_who_leaves_disturbs_nobody() -> None:
    async def work() -> None:
        go_on = asyncio.Event()

        async def slowly(peer: Peer) -> None:
            await go_on.wait()
            await peer.send(page("a"))

        script = Lists(slowly)
        async with fronting(script, models=WILD) as (running, _):
            async with connect(running.port) as leaving:
                await leaving.send(request_bytes(b"", method="GET", path="/v1/models"))
                await until(lambda: len(script.requests) == 1)
            wanting = [asyncio.ensure_future(listed(running)) for _ in range(50)]
            await until(lambda: running.tidegate.connections() >= 50)
            go_on.set()
            assert await asyncio.gather(*wanting) == [["openai/a"]] * 50
            assert len(script.requests) == 1

    run(work)


def test_several_providers_are_asked_at_the_same_time() -> None:
    async def work() -> None:
        here: list[Peer] = []

        async def together(peer: Peer) -> None:
            here.append(peer)
            await until(lambda: len(here) == 2)
            await peer.send(page("a"))

        script = Lists(together)
        providers = [{"name": "p"}, {"name": "q"}]
        models = [{"name": f"{name}/*", "targets": [{"provider": name}]} for name in ("p", "q")]
        async with fronting(script, providers=providers, models=models) as (running, _):
            assert await listed(running) == ["p/a", "q/a"]

    run(work)


def changed(members: dict[str, Any]) -> Sequence[str]:
    """Give what is listed after a reload while the provider lists nothing any more."""
    found: list[str] = []

    async def work() -> None:
        async with fronting(Lists(says(page("a")), BAD["500"]), models=WILD) as (running, upstream):
            assert await listed(running) == ["openai/a"]
            running.tidegate.reload(make_config(upstream.base_url, models=WILD, provider=members))
            found.extend(await listed(running))

    run(work)
    return found


@pytest.mark.parametrize("members", [{}, {"api_key": "sk-rotated"}, {"retry": {"max_attempts": 5}}], ids=str)
def test_a_reload_forgets_no_model_of_a_provider_that_stays_where_it_is(members: dict[str, Any]) -> None:
    assert changed(members) == ["openai/a"]


def test_a_provider_that_moves_is_not_known_by_the_models_of_the_old_place() -> None:
    assert changed({"base_url": "http://127.0.0.1:1/v1"}) == []


@pytest.mark.slow
def test_a_stop_does_not_wait_for_a_list() -> None:
    async def work() -> None:
        script = Lists(stalls)
        async with scripted_upstream(script) as upstream, connect_later() as asked:
            async with gateway(upstream.base_url, models=WILD) as running:
                asked.append(asyncio.ensure_future(ask(running.port, b"", method="GET", path="/v1/models")))
                await until(lambda: len(script.requests) == 1)
            assert running.tidegate.providers["main"].pool.in_use == 0

    run(work)


@asynccontextmanager
async def connect_later() -> AsyncIterator[list[asyncio.Future[Any]]]:
    """Hold what was begun, and let it end however it ends."""
    begun: list[asyncio.Future[Any]] = []
    yield begun
    await asyncio.gather(*begun, return_exceptions=True)
