"""Connections are made to addresses that were judged, and to those alone."""

import socket

import aiohttp
import pytest
from aiohttp import web
from hook_servers import Names, run, serving

from tidegate.hooks.addresses import GuardError
from tidegate.hooks.guard import Door, Guarded, Lookup, reason


def a_door(names: Names | None = None, *, allow_private: bool) -> Door:
    return Door(agent="tests/1", allow_private=allow_private, connections=4, resolver=names)


def test_one_private_address_among_public_ones_spoils_a_name() -> None:
    async def work() -> None:
        names = Names(mixed_test=[["8.8.8.8", "10.0.0.1"]], late_test=[["2606:4700::1111", "::ffff:127.0.0.1"]])
        guarded = Guarded(names, allow_private=False)
        for name in ("mixed.test", "late.test"):
            with pytest.raises(GuardError, match="not on the public internet"):
                await guarded.resolve(name)

    run(work)


def test_a_name_that_turns_private_is_refused_the_next_time() -> None:
    async def work() -> None:
        guarded = Guarded(Names(turns_test=[["8.8.8.8"], ["127.0.0.1"]]), allow_private=False)
        assert [each["host"] for each in await guarded.resolve("turns.test", 80)] == ["8.8.8.8"]
        with pytest.raises(GuardError):
            await guarded.resolve("turns.test", 80)

    run(work)


def test_a_name_is_looked_up_once_for_a_connection_and_that_address_is_dialled() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=request.headers["host"])

    async def work() -> None:
        # The second address has nobody behind it: whoever looked twice would fail.
        names = Names(once_test=[["127.0.0.1"], ["127.9.9.9"]])
        door = a_door(names, allow_private=True)
        async with serving(answer) as base:
            port = base.rpartition(":")[2]
            async with door.session().get(f"http://once.test:{port}/") as response:
                assert await response.text() == f"once.test:{port}"
        assert names.asked == ["once.test"]
        await door.close()
        assert names.closed

    run(work)


def test_a_name_of_this_machine_is_refused_before_anything_is_dialled() -> None:
    heard = []

    async def answer(request: web.Request) -> web.Response:
        heard.append(request.path)
        return web.Response()

    async def work() -> None:
        door = a_door(allow_private=False)
        async with serving(answer) as base:
            with pytest.raises(GuardError, match="localhost"):
                await door.session().get(base.replace("127.0.0.1", "localhost") + "/x")
        await door.close()
        assert not heard

    run(work)


def test_the_system_finds_names_and_says_when_there_are_none() -> None:
    async def work() -> None:
        lookup = Lookup()
        found = await lookup.resolve("localhost", 81, socket.AF_INET)
        assert {(each["host"], each["port"]) for each in found} == {("127.0.0.1", 81)}
        for name in ("x" * 64 + ".test", "no-such-name.invalid"):
            with pytest.raises(OSError, match=r".*"):
                await lookup.resolve(name)
        await lookup.close()

    run(work)


def test_a_name_without_addresses_does_not_resolve() -> None:
    async def work() -> None:
        door = a_door(Names(empty_test=[[]]), allow_private=True)
        with pytest.raises(aiohttp.ClientConnectorDNSError) as caught:
            await door.session().get("http://empty.test/")
        assert reason(caught.value) == "its name does not resolve"
        await door.close()

    run(work)


def test_a_closed_door_gives_no_session() -> None:
    async def work() -> None:
        door = a_door(allow_private=True)
        await door.close()
        with pytest.raises(GuardError, match="shutting down"):
            door.session()

    run(work)


def test_neither_cookies_nor_proxies_nor_passwords_go_along(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password sentinel\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    heard: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        heard.append({name.lower(): value for name, value in request.headers.items()})
        response = web.Response()
        response.set_cookie("a", "b")
        return response

    async def work() -> None:
        door = a_door(allow_private=True)
        async with serving(answer) as base:
            for _ in range(2):
                async with door.session().get(base) as response:
                    assert response.status == 200
        await door.close()

    run(work)
    assert len(heard) == 2
    assert all("cookie" not in each and "authorization" not in each for each in heard)
    assert heard[0]["user-agent"] == "tests/1"


def test_reasons_tell_the_common_failures_apart() -> None:
    assert reason(TimeoutError()) == "it took too long"
    assert reason(TimeoutError()) == "it took too long"
    assert reason(aiohttp.ServerTimeoutError()) == "it took too long"
    assert reason(aiohttp.ClientPayloadError()) == "its answer broke off or cannot be decoded"
    assert reason(aiohttp.ServerDisconnectedError()) == "the connection broke"
    assert reason(GuardError("no")) == "no"
