"""What the files of one prediction may take together, where they are fetched."""

import asyncio
from pathlib import Path

from aiohttp import web
from hook_servers import run, serving

from tidegate.hooks.fetching import Files
from tidegate.hooks.settings import FileSettings
from tidegate.kernel.allowance import Allowance

OPEN = FileSettings(allow_private=True)


async def _slow(_: web.Request) -> web.Response:
    await asyncio.sleep(0.2)
    return web.Response(body=b"0123456789")


def test_files_are_bounded_by_what_those_before_them_left(tmp_path: Path) -> None:
    async def work() -> None:
        files, allowance = Files(OPEN, agent="tests/1"), Allowance(25)
        async with serving(_slow) as base:
            for name in ("a", "b"):
                path, why = await files.fetch(f"{base}/{name}", tmp_path, allowance)
                assert path is not None, why
            path, why = await files.fetch(f"{base}/c", tmp_path, allowance)
            assert path is None
            assert why.endswith("cannot be fetched: with the files before it there are more than 25 bytes.")
            assert allowance.left_bytes == 5
        await files.close()

    run(work)
    assert len([*tmp_path.iterdir()]) == 2


def test_the_time_of_one_is_gone_for_the_next(tmp_path: Path) -> None:
    async def work() -> None:
        files, allowance = Files(OPEN, agent="tests/1"), Allowance(100, 60.0)
        async with serving(_slow) as base:
            path, why = await files.fetch(f"{base}/a", tmp_path, allowance)
            assert path is not None, why
            assert allowance.left_s is not None
            assert allowance.left_s < 60.0
            allowance.spend(60.0)
            assert allowance.left_s == 0.0
            path, why = await files.fetch(f"{base}/b", tmp_path, allowance)
            assert path is None
            assert why.endswith("it took too long.")
        await files.close()

    run(work)
