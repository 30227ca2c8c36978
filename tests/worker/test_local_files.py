"""Inputs that are files: fetched or decoded into a directory that goes with the prediction, and never a client's path."""

import asyncio
import gc
import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from msgspec import structs
from workshop import Reader, attempt_with, directories, predicting, read, run, shop

from tidegate.dispatch.deadlines import deadlines
from tidegate.exchange import Timeouts
from tidegate.kernel.allowance import Allowance
from tidegate.verdict import BAD_REQUEST, AttemptFailed
from tidegate.worker.inputs import InputFiles

FILES = {"files": ["image", "pages"]}
PLAIN = "data:text/plain,a%20b"
CODED = "data:text/plain;charset=utf-8;base64,aGVsbG8="


class Fetcher:
    """Fetches a URL's own text, within so many bytes for all files of a prediction."""

    def __init__(self, most_bytes: int = 1000) -> None:
        self.most_bytes = most_bytes

    def allowance(self) -> Allowance:
        return Allowance(self.most_bytes)

    async def fetch(self, url: str, directory: Path, allowance: Allowance, /) -> tuple[Path | None, str]:
        if "bad" in url:
            return None, "the address is private"
        allowance.take(len(url))
        file = directory / "fetched"
        file.write_text(url)
        return file, ""


def _said(reader: Reader) -> Any:
    return next(data["chunk"] for name, data in reader.frames if name == "value")


def test_files_are_there_while_it_runs_and_gone_after() -> None:
    async def work() -> None:
        before = directories()
        async with shop(FILES, fetch=Fetcher()) as made:
            said = _said(await made.predict(do="files", image=CODED, pages=[PLAIN, "https://a.test/1"], other=PLAIN))
            assert said["files"] == {"image": ["hello"], "pages": ["a b", "https://a.test/1"]}
            assert said["input"]["image"] == ""
            assert said["input"]["pages"] == ["", ""]
            assert said["input"]["other"] == PLAIN
            assert said["paths"]["image"][0].endswith(".txt")
            assert (said["id"], said["context"]) == ("p1", {"k": "v"})
            assert all("tidegate-input-" in path for paths in said["paths"].values() for path in paths)
        assert directories() <= before

    run(work)


def test_without_files_no_directory_is_made() -> None:
    async def work() -> None:
        async with shop(FILES) as made:
            assert _said(await made.predict(do="files", image=None))["files"] == {}
            assert not any(name.startswith("tidegate-input-") for name in directories())

    run(work)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("/etc/passwd", "expected an http(s) URL or a data URI"),
        ("file:///etc/passwd", "expected an http(s) URL or a data URI"),
        (3, "expected an http(s) URL or a data URI"),
        (["relative"], "expected an http(s) URL or a data URI"),
        ("", "expected an http(s) URL or a data URI"),
        ("data:text/plain", "the data URI has no data"),
        ("data:;base64,!!!", "the data URI is not valid base64"),
        ("https://bad.test/", "the address is private"),
        ([PLAIN] * 257, "there are more than 256 files"),
    ],
)
def test_what_is_no_file_fails_the_prediction(image: Any, why: str) -> None:
    async def work() -> None:
        async with shop(FILES, fetch=Fetcher()) as made:
            reader = await made.predict(image=image)
            error = f"Input validation error: image: {why}"
            assert reader.frames == [("completed", {"status": "failed", "error": error})]
            assert not any(name.startswith("tidegate-input-") for name in directories())

    run(work)


@pytest.mark.parametrize(
    "uri",
    ["data:;base64,MTIzNDU2Nzg5MA==", "data:,1234567890", "data:,12345%36%37890", "data:;base64,MTIzNDU2Nzg5MA%3d%3D"],
)
@pytest.mark.parametrize(("most", "fits"), [(10, True), (9, False)])
def test_a_data_uri_s_file_is_bounded_by_what_it_decodes_to(uri: str, most: int, *, fits: bool) -> None:
    async def work() -> None:
        async with shop(FILES, fetch=Fetcher(most)) as made:
            reader = await made.predict(do="files", image=uri)
            if fits:
                assert _said(reader)["files"] == {"image": ["1234567890"]}
            else:
                error = "Input validation error: image: it has more than 9 bytes"
                assert reader.frames == [("completed", {"status": "failed", "error": error})]

    run(work)


@pytest.mark.parametrize(
    "last", ["data:;base64,MTIzNDU2Nzg5MA==", "data:,1234567890", "data:,%C3%A4%C3%A4%C3%A4%C3%A4%C3%A4", "data:,äääää"]
)
@pytest.mark.parametrize(("most", "fits"), [(36, True), (35, False)])
def test_all_files_of_a_prediction_are_bounded_together(last: str, most: int, *, fits: bool) -> None:
    async def work() -> None:
        async with shop(FILES, fetch=Fetcher(most)) as made:
            reader = await made.predict(do="files", image="https://a.test/1", pages=["data:,1234567890", last])
            assert made.local.info is not None
            if fits:
                assert len(_said(reader)["files"]["pages"]) == 2
            else:
                error = "Input validation error: pages: with the files before it there are more than 35 bytes"
                assert reader.frames == [("completed", {"status": "failed", "error": error})]
            await made.predict(do="files", image="https://a.test/1")  # another has an allowance of its own

    run(work)


def test_a_data_uri_is_judged_before_it_is_decoded() -> None:
    async def work() -> None:
        async with shop(FILES, fetch=Fetcher(9)) as made:
            reader = await made.predict(image="data:;base64," + "!" * 400)  # no base64 at all
            error = "Input validation error: image: it has more than 9 bytes"
            assert reader.frames == [("completed", {"status": "failed", "error": error})]

    run(work)


def test_a_list_without_files_is_a_list() -> None:
    async def work() -> None:
        async with shop(FILES) as made:
            assert _said(await made.predict(do="files", pages=[]))["files"] == {"pages": []}

    run(work)


def test_urls_are_refused_where_nobody_fetches_them() -> None:
    async def work() -> None:
        async with shop(FILES) as made:
            assert "not fetched" in (await made.predict(image="http://a.test/")).frames[0][1]["error"]

    run(work)


def test_an_input_that_is_no_object_is_refused() -> None:
    async def work() -> None:
        async with shop(FILES) as made:
            for body, verdict in ((b'{"model":"m","input":3}', BAD_REQUEST),):
                attempt = predicting()
                ask = attempt.admitted.ask
                ask.body = body
                with pytest.raises(AttemptFailed) as failure:
                    async with made.local.open(attempt_with(ask)):
                        pass
                assert failure.value.verdict is verdict

    run(work)


def test_a_prediction_that_fails_leaves_no_file() -> None:
    async def work() -> None:
        async with shop(FILES) as made:
            async with made.local.open(predicting(do="kill", image=PLAIN)) as stream:
                assert any(name.startswith("tidegate-input-") for name in directories())
                await read(stream)
            assert not any(name.startswith("tidegate-input-") for name in directories())
            assert json.dumps(made.local.health().status) == '"STARTING"'

    run(work)


class Holding(ThreadPoolExecutor):
    """Threads of which the first waits before it works."""

    def __init__(self) -> None:
        super().__init__(2)
        self.begun, self.gate = Event(), Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def held() -> Any:
            if not self.begun.is_set():
                self.begun.set()
                assert self.gate.wait(30)
            return fn(*args, **kwargs)

        return super().submit(held)


def test_files_are_removed_once_nobody_writes_them_any_more() -> None:
    async def work() -> None:
        threads = Holding()
        asyncio.get_running_loop().set_default_executor(threads)
        files = InputFiles(None)
        taking = asyncio.ensure_future(files.take(json.dumps({"image": CODED}).encode(), ["image"]))
        while not threads.begun.is_set():
            await asyncio.sleep(0.001)
        taking.cancel()
        await asyncio.wait((taking,))
        assert taking.cancelled()
        assert files._directory is not None
        place = files._directory.path
        assert place.is_dir()
        removing = asyncio.ensure_future(files.remove())
        await asyncio.sleep(0.05)
        assert not removing.done(), "a thread is about to write into it"
        threads.gate.set()
        await removing
        assert not place.exists()
        assert not files.held

    run(work)


def test_nobody_hears_of_a_file_that_could_not_be_written_for_one_who_left() -> None:
    async def work() -> None:
        threads, heard = Holding(), list[dict[str, Any]]()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(threads)
        loop.set_exception_handler(lambda _, context: heard.append(context))
        files = InputFiles(None)
        taking = asyncio.ensure_future(files.take(b'{"image":"data:;base64,!!!"}', ["image"]))
        while not threads.begun.is_set():
            await asyncio.sleep(0.001)
        taking.cancel()
        await asyncio.wait((taking,))
        assert taking.cancelled()
        threads.gate.set()
        await files.remove()
        del files, taking
        gc.collect()
        assert heard == []

    run(work)


class SlowFetcher(Fetcher):
    async def fetch(self, url: str, directory: Path, allowance: Allowance, /) -> tuple[Path | None, str]:
        await asyncio.sleep(0.4)
        return await super().fetch(url, directory, allowance)


def test_files_that_come_slowly_are_not_late_connections() -> None:
    async def work() -> None:
        async with shop(FILES, fetch=SlowFetcher()) as made:
            attempt = predicting(do="files", image="https://a.test/1")
            limits = Timeouts(connect_s=0.1, headers_s=0.0, first_token_s=0.0, idle_s=0.0, total_s=0.0, response_s=0.0)
            late = structs.replace(attempt, target=structs.replace(attempt.target, timeouts=limits))
            async with deadlines(time.monotonic)(made.local).open(late) as stream:
                assert _said(await read(stream))["files"] == {"image": ["https://a.test/1"]}

    run(work)
