"""Connections are made to addresses that were judged, and to those alone."""

import asyncio
import socket
import subprocess
import sys
import threading
from typing import Final

import aiohttp
import pytest
from aiohttp import web
from hook_servers import Names, run, serving, until

from tidegate.hooks.addresses import GuardError
from tidegate.hooks.guard import (
    LOOKUPS,
    LOOKUPS_OF_A_DOMAIN,
    LOOKUPS_OF_A_NAME,
    BusyError,
    Door,
    Found,
    Guarded,
    Lookup,
    reason,
)


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


class Slow:
    """A system whose names under `.slow` do not resolve until it is told. Holds: the threads that ask for them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = threading.Event()

    def look_up(self, host: str, _family: socket.AddressFamily) -> Found:
        self.asked.append(host)
        if host.endswith("slow"):
            self.go.wait()
            if host.startswith("none."):
                raise OSError(f"{host} is unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]


def test_names_that_do_not_resolve_take_no_place_from_other_domains() -> None:
    async def work() -> None:
        slow = Slow()
        lookup = Lookup(slow.look_up)
        waiting = [asyncio.ensure_future(lookup.resolve(f"{n}.evil.slow")) for n in range(LOOKUPS_OF_A_DOMAIN)]
        await until(lambda: len(slow.asked) == LOOKUPS_OF_A_DOMAIN)
        for each in waiting:  # who gives up leaves the thread behind
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(BusyError):
            await lookup.resolve("another.EVIL.slow.")
        assert [each["port"] for each in await lookup.resolve("fine.test", 80)] == [80]
        slow.go.set()
        await until(lambda: not lookup._of)
        assert not lookup._going
        assert await lookup.resolve("another.evil.slow")
        await lookup.close()

    run(work)


def test_so_many_names_are_looked_up_at_a_time_and_no_more() -> None:
    async def work() -> None:
        slow = Slow()
        lookup = Lookup(slow.look_up)
        waiting = [asyncio.ensure_future(lookup.resolve(f"evil{n}.slow")) for n in range(LOOKUPS)]
        await until(lambda: len(slow.asked) == LOOKUPS)
        door = Door(agent="tests/1", allow_private=True, connections=4, resolver=lookup)
        with pytest.raises(aiohttp.ClientConnectorDNSError) as caught:
            await door.session().get("http://fine.test/")
        assert reason(caught.value) == "too many names are being looked up"
        slow.go.set()
        assert all(await asyncio.gather(*waiting))
        assert await lookup.resolve("fine.test")
        await door.close()

    run(work)


def test_who_comes_while_a_name_is_looked_up_often_enough_gets_what_is_found() -> None:
    async def work() -> None:
        slow = Slow()
        lookup = Lookup(slow.look_up)
        waiting = [asyncio.ensure_future(lookup.resolve("none.slow" if n % 2 else "it.slow", n)) for n in range(40)]
        await until(lambda: len(slow.asked) == 2 * LOOKUPS_OF_A_NAME)
        waiting[2 * LOOKUPS_OF_A_NAME].cancel()  # of others who wait for the same
        slow.go.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert len(slow.asked) == 2 * LOOKUPS_OF_A_NAME
        for n, result in enumerate(results):
            if n == 2 * LOOKUPS_OF_A_NAME:
                assert isinstance(result, asyncio.CancelledError)
            elif n % 2:
                assert isinstance(result, OSError)
            else:
                assert isinstance(result, list)
                assert [each["port"] for each in result] == [n]
        await lookup.close()

    run(work)


ENDLESS: Final = """
import asyncio, threading
from tidegate.hooks.guard import Lookup

begun = threading.Event()

def look_up(*_):
    begun.set()
    threading.Event().wait()

async def main():
    waiting = asyncio.ensure_future(Lookup(look_up).resolve("slow.test"))
    while not begun.is_set():
        await asyncio.sleep(0.01)
    waiting.cancel()

asyncio.run(main())
print("through")
"""


def test_a_process_ends_while_a_name_is_still_looked_up() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDLESS], timeout=60, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "through", "")


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
