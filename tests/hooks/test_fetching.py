"""Files are fetched within their limits, or a sentence says why not and nothing is left on the disk."""

import asyncio
import gzip
import zlib
from pathlib import Path

import pytest
from aiohttp import web
from hook_servers import Handler, Names, run, serving, speaking, until
from yarl import URL

from tidegate.hooks.addresses import GuardError
from tidegate.hooks.fetching import AT_A_TIME, OF_A_HOST, Files, suffix_of
from tidegate.hooks.settings import FileSettings
from tidegate.kernel.allowance import Allowance

OPEN = FileSettings(allow_private=True, timeout_s=20.0)


def plenty(most_bytes: int = OPEN.max_bytes) -> Allowance:
    return Allowance(most_bytes, 600.0, line_s=600.0)


def fetched(
    handler: Handler, where: Path, settings: FileSettings = OPEN, path: str = "/a/picture.png?key=sentinel"
) -> tuple[Path | None, str]:
    """Fetch from a server; give what came of it, which never has the query in it."""
    results: list[tuple[Path | None, str]] = []

    async def work() -> None:
        files = Files(settings, agent="tests/1")
        async with serving(handler) as base:
            results.append(await files.fetch(base + path, where, plenty(settings.max_bytes)))
        await files.close()

    run(work)
    assert "sentinel" not in results[0][1]
    return results[0]


def refused(handler: Handler, where: Path, settings: FileSettings = OPEN) -> str:
    path, why = fetched(handler, where, settings)
    assert path is None
    assert empty(where)
    return why


def empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def giving(body: bytes, status: int = 200, **headers: str) -> Handler:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(
            body=body, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return answer


def test_a_file_is_stored_under_a_name_of_ours_with_the_suffix_of_its_url(tmp_path: Path) -> None:
    body = bytes(range(256)) * 8192
    path, why = fetched(giving(body), tmp_path)
    assert why == ""
    assert path is not None
    assert path.read_bytes() == body
    assert (path.parent, path.suffix, path.stat().st_mode & 0o777) == (tmp_path, ".png", 0o600)
    assert "picture" not in path.name


@pytest.mark.parametrize(
    ("path", "suffix"),
    [
        ("/a.png", ".png"), ("/a.b.TXT", ".TXT"), ("/a.tar.gz", ".tar.gz"), ("/a", ""), ("/", ""), ("", ""), ("/a.", ""),
        ("/a.p%2Fng", ""), ("/a.%2e%2e%2fx", ""), ("/a.p%00g", ""), ("/a.waytoolongforasuffix", ""), ("/a.png/", ""),
        ("/.%2e/a.jp%67", ".jpg"), ("/a.png%0a", ""), ("/a.é", ""), ("/x?f=a.png", ""),
    ],
)  # fmt: skip
def test_a_suffix_is_a_plain_one_or_none(path: str, suffix: str) -> None:
    assert suffix_of(URL("http://example.com" + path, encoded=True)) == suffix


def test_a_file_as_large_as_allowed_passes_and_one_byte_more_does_not(tmp_path: Path) -> None:
    settings = FileSettings(allow_private=True, max_bytes=1000)
    path, _ = fetched(giving(b"x" * 1000), tmp_path, settings)
    assert path is not None
    path.unlink()
    assert "more than 1000 bytes" in refused(giving(b"x" * 1001), tmp_path, settings)


def test_a_file_of_unknown_length_is_cut_off_at_the_limit(tmp_path: Path) -> None:
    sent: list[int] = []

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while len(sent) < 10_000:
            await response.write(b"x" * 65_536)
            sent.append(65_536)
        return response

    assert "more than 300000 bytes" in refused(endless, tmp_path, FileSettings(allow_private=True, max_bytes=300_000))
    assert sum(sent) < 100_000_000


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_counts_by_what_it_becomes(encoding: str, tmp_path: Path) -> None:
    plain = bytes(64 * 1024 * 1024)
    bomb = gzip.compress(plain) if encoding == "gzip" else zlib.compress(plain)
    settings = FileSettings(allow_private=True, max_bytes=1024 * 1024)
    assert len(bomb) < 100_000
    assert "more than 1048576 bytes" in refused(giving(bomb, content_encoding=encoding), tmp_path, settings)


def test_an_encoded_file_is_stored_decoded(tmp_path: Path) -> None:
    path, _ = fetched(giving(gzip.compress(b"hello" * 1000), content_encoding="gzip"), tmp_path)
    assert path is not None
    assert path.read_bytes() == b"hello" * 1000


def test_what_cannot_be_decoded_is_said(tmp_path: Path) -> None:
    assert "cannot be decoded" in refused(giving(b"not gzip", content_encoding="gzip"), tmp_path)


@pytest.mark.parametrize("status", [204, 206, 304, 403, 404, 500])
def test_any_other_answer_is_refused_with_its_status(status: int, tmp_path: Path) -> None:
    assert f"status {status}" in refused(giving(b"", status), tmp_path)


def test_a_slow_drip_ends_at_the_deadline_and_leaves_nothing(tmp_path: Path) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def work() -> None:
        files = Files(OPEN, agent="tests/1")
        async with speaking(drip) as base:
            path, why = await files.fetch(base + "/x.bin", tmp_path, Allowance(OPEN.max_bytes, 0.3))
        assert path is None
        assert "took too long" in why
        assert empty(tmp_path)
        await files.close()

    run(work)


def test_a_connection_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    async def part(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nsome")
        await writer.drain()

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-x\r\n\r\n")
        await writer.drain()

    async def work() -> None:
        files = Files(OPEN, agent="tests/1")
        for talk, words in ((part, "broke off"), (nonsense, "not HTTP")):
            async with speaking(talk) as base:
                path, why = await files.fetch(base + "/x.bin", tmp_path, plenty())
            assert path is None
            assert words in why
        path, why = await files.fetch(base + "/x.bin", tmp_path, plenty())
        assert (path, "cannot be reached" in why) == (None, True)
        assert empty(tmp_path)
        await files.close()

    run(work)


def test_a_fetch_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async def stall(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x" * 500_000)
        await asyncio.sleep(60)
        return response

    async def work() -> None:
        files = Files(OPEN, agent="tests/1")
        async with serving(stall) as base:
            fetching = asyncio.create_task(files.fetch(base + "/x.bin", tmp_path, plenty()))
            await until(lambda: any(each.stat().st_size for each in tmp_path.iterdir()))
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
            assert empty(tmp_path)
        await files.close()

    run(work)


def redirecting(times: int) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        done = int(request.query.get("n", "0"))
        if done == times:
            return web.Response(body=b"here")
        return web.Response(status=(301, 302, 303, 307, 308)[done % 5], headers={"location": f"/x?n={done + 1}"})

    return answer


def test_redirects_are_followed_so_often_and_no_more(tmp_path: Path) -> None:
    settings = FileSettings(allow_private=True, max_redirects=5)
    path, _ = fetched(redirecting(5), tmp_path, settings)
    assert path is not None
    assert path.read_bytes() == b"here"
    path.unlink()
    assert "redirected more than 5 times" in refused(redirecting(6), tmp_path, settings)
    assert "more than 0" in refused(redirecting(1), tmp_path, FileSettings(allow_private=True, max_redirects=0))


@pytest.mark.parametrize(
    "location", ["", "file:///etc/passwd", "ftp://x/", "http://u:p@127.0.0.1/", "http://[::1", "http://0x7f.1/"]
)
def test_a_redirect_is_judged_like_the_first_url(location: str, tmp_path: Path) -> None:
    why = refused(giving(b"", 302, location=location), tmp_path, FileSettings(allow_private=True, max_redirects=1))
    assert "cannot be fetched" in why
    assert "status" not in why


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1/",
        "https://[::ffff:10.0.0.1]/",
        "//169.254.169.254/latest/",
        "https://2130706433/",
        "http://fine.test/",
    ],
)
def test_a_redirect_leads_neither_to_private_addresses_nor_from_https_to_http(location: str) -> None:
    async def work() -> None:
        files = Files(FileSettings(), agent="tests/1", resolver=Names())
        with pytest.raises(GuardError):
            files._next(URL("https://public.test/a"), location)
        assert str(files._next(URL("http://public.test/a"), "https://fine.test/b")) == "https://fine.test/b"
        await files.close()

    run(work)


@pytest.mark.parametrize(
    "url", ["http://inside.test/x", "http://127.0.0.1:1/x", "http://[::1]/x", "file:///etc/passwd", "x"]
)
def test_private_addresses_are_not_asked_for_unless_allowed(url: str, tmp_path: Path) -> None:
    async def work() -> None:
        files = Files(FileSettings(), agent="tests/1", resolver=Names(inside_test=[["8.8.8.8", "192.168.0.1"]]))
        path, why = await files.fetch(url, tmp_path, plenty())
        assert path is None
        assert "cannot be fetched" in why
        assert empty(tmp_path)
        await files.close()

    run(work)


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    path, why = fetched(giving(b"x"), tmp_path / "gone")
    assert path is None
    assert "cannot be stored" in why


def test_no_more_files_are_fetched_at_a_time_than_allowed(tmp_path: Path) -> None:
    running = most = 0

    async def count(_request: web.Request) -> web.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return web.Response(body=b"x")

    async def work() -> None:
        files = Files(OPEN, agent="tests/1")
        async with serving(count) as base:
            results = await asyncio.gather(
                *(files.fetch(f"{base}/{n}", tmp_path, plenty()) for n in range(3 * AT_A_TIME))
            )
        assert len({path for path, _ in results}) == 3 * AT_A_TIME
        assert 1 < most <= OF_A_HOST
        await files.close()
        path, why = await files.fetch("http://127.0.0.1/", tmp_path, plenty())
        assert (path, "shutting down" in why) == (None, True)

    run(work)


def test_a_host_that_never_answers_holds_up_no_fetch_from_another(tmp_path: Path) -> None:
    silenced: list[bytes] = []

    async def mute(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        silenced.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.read()

    async def fine(_request: web.Request) -> web.Response:
        return web.Response(body=b"there")

    async def work() -> None:
        names = Names(silent_test=[["127.0.0.1"]], heard_test=[["127.0.0.1"]])
        files = Files(OPEN, agent="tests/1", resolver=names)
        async with speaking(mute) as dead, serving(fine) as alive:
            url = dead.replace("127.0.0.1", "silent.test")
            waiting = [asyncio.ensure_future(files.fetch(url, tmp_path, plenty())) for _ in range(3 * AT_A_TIME)]
            await until(lambda: len(silenced) == OF_A_HOST)
            url = alive.replace("127.0.0.1", "heard.test")
            results = await asyncio.gather(*(files.fetch(url, tmp_path, plenty()) for _ in range(2 * AT_A_TIME)))
            assert all(path is not None for path, _ in results)
            assert len(silenced) == OF_A_HOST
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await files.close()

    run(work)


def test_the_time_of_a_fetch_begins_with_its_turn(tmp_path: Path) -> None:
    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(0.5)
        return web.Response(body=b"there")

    async def work() -> None:
        files, wanted = Files(OPEN, agent="tests/1"), range(4 * OF_A_HOST)
        async with serving(slow) as base:
            results = await asyncio.gather(
                *(files.fetch(f"{base}/{n}", tmp_path, Allowance(100, 1.5, line_s=600.0)) for n in wanted)
            )
        assert [why for _, why in results] == [""] * (4 * OF_A_HOST)
        await files.close()

    run(work)


def test_a_turn_that_does_not_come_is_waited_for_so_long_and_no_longer(tmp_path: Path) -> None:
    async def mute(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def work() -> None:
        files, late = Files(OPEN, agent="tests/1"), Allowance(100, 600.0, line_s=0.2)
        async with speaking(mute) as base:
            waiting = [asyncio.ensure_future(files.fetch(base, tmp_path, plenty())) for _ in range(OF_A_HOST)]
            await asyncio.sleep(0)
            for _ in range(2):
                path, why = await files.fetch(base, tmp_path, late)
                assert (path, why.endswith("cannot be fetched: too many other files are being fetched.")) == (
                    None,
                    True,
                )
                assert late.line_s is not None
                assert late.line_s < 0.2
                assert late.left_s == 600.0
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await files.close()

    run(work)


def test_who_has_no_time_for_the_line_is_served_where_there_is_none(tmp_path: Path) -> None:
    async def work() -> None:
        files = Files(OPEN, agent="tests/1")
        async with serving(giving(b"there")) as base:
            path, why = await files.fetch(base, tmp_path, Allowance(100, 600.0, line_s=0.0))
            assert path is not None, why
        await files.close()

    run(work)


def test_what_is_refused_for_its_address_names_the_setting_that_would_allow_it(tmp_path: Path) -> None:
    async def work() -> None:
        names = Names(inside_test=[["10.0.0.1"]])
        files = Files(FileSettings(), agent="tests/1", resolver=names)
        for url in ("http://10.0.0.1/x", "http://inside.test/x"):
            path, why = await files.fetch(url, tmp_path, plenty())
            assert (path, "predictions.files.allow_private" in why) == (None, True)
        _, why = await files.fetch("http://user@10.0.0.1/x", tmp_path, plenty())
        assert "allow_private" not in why
        await files.close()

    run(work)
