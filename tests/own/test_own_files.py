"""Files in and out, and webhooks, through a whole gateway with real workers."""

import asyncio
import base64
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook

from harness import connect, request_bytes, run, until
from owning import ASYNC, WAIT_S, owning

SECRET = "whsec_" + base64.b64encode(b"a secret of receivers").decode()
PRIVATE = {"files": {"allow_private": True}}


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """Serve an application on this machine; gives its address."""
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def text(reply: Any) -> str:
    """Give what a file of an answer holds."""
    kind, _, data = reply.json()["output"].partition(",")
    assert kind == "data:text/plain;base64"
    return base64.b64decode(data).decode()


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give temporary files a place of their own, so that they can be counted."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def temporary() -> list[str]:
    return [entry.name for entry in Path(tempfile.gettempdir()).rglob("*") if not entry.is_dir()]


def test_a_file_comes_by_its_url_and_goes_as_a_data_uri() -> None:
    async def give(request: web.Request) -> web.Response:
        return web.Response(text="high tide")

    app = web.Application()
    app.router.add_get("/file.txt", give)

    async def work() -> None:
        async with serving(app) as url, owning("upper", predictions=PRIVATE) as own:
            reply = await own.post({"file": f"{url}/file.txt"})
            assert text(reply) == "HIGH TIDE", reply.json()
            await own.at_rest()
            assert temporary() == []

    run(work)


def test_a_file_comes_as_a_data_uri() -> None:
    async def work() -> None:
        async with owning("upper") as own:
            data = base64.b64encode(b"low tide").decode()
            assert text(await own.post({"file": f"data:text/plain;base64,{data}"})) == "LOW TIDE"
            await own.at_rest()
            assert temporary() == []

    run(work)


@pytest.mark.parametrize("named", ["/etc/hostname", "file:///etc/hostname", "../own_models.py", "own_models.py"])
def test_no_client_names_a_file_of_this_machine(named: str) -> None:
    async def work() -> None:
        async with owning("upper", predictions=PRIVATE) as own:
            reply = await own.post({"file": named})
            assert reply.status in {200, 422}
            said = reply.json()
            assert said.get("status", "failed") == "failed"
            assert not said.get("output")
            assert "named" not in said.get("logs", "")  # the handler never ran
            await own.at_rest()

    run(work)


def test_a_private_address_is_refused_unless_it_is_allowed() -> None:
    asked: list[str] = []

    async def give(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text="high tide")

    app = web.Application()
    app.router.add_get("/file.txt", give)

    async def work() -> None:
        async with serving(app) as url, owning("upper") as own:
            found = (await own.post({"file": f"{url}/file.txt"})).json()
            assert found["status"] == "failed"
            assert asked == []
            await own.at_rest()

    run(work)


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ("cancel", "canceled", ""),
        ("timeout", "failed", "timed out"),
        ("file timeout", "failed", "cannot be fetched"),
        ("leave", "", ""),
    ],
)
def test_a_file_that_does_not_come_holds_nothing_up_and_leaves_nothing(how: str, status: str, words: str) -> None:
    asked, over = asyncio.Event(), asyncio.Event()

    async def give(_: web.Request) -> web.Response:
        asked.set()
        await over.wait()
        return web.Response()

    app = web.Application()
    app.router.add_get("/file.txt", give)
    files = {"allow_private": True, "timeout": 0.3 if how == "file timeout" else 600.0}

    async def work() -> None:
        async with serving(app) as url, owning("upper", predictions={"files": files}) as own:
            given = {"file": f"{url}/file.txt"}
            if how == "leave":
                async with connect(own.port) as client:
                    await client.send(request_bytes({"input": given}, path="/predictions"))
                    await asked.wait()
            else:
                more = {"timeout": 0.3} if how == "timeout" else {}
                assert (await own.put("slow", given, headers=ASYNC, **more)).status == 202
                await asked.wait()
                assert how != "cancel" or (await own.cancel("slow")).status == 200
                found = await own.until_status("slow", "canceled", "failed")
                assert (found["status"], words in found.get("error", "")) == (status, True)
            await own.at_rest()
            await until(lambda: temporary() == [] and not left_behind(), WAIT_S)
            over.set()

    run(work)


def left_behind() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("tidegate-input-*"))


class Receiver:
    """Receives webhooks. Shape: `refuses` is how many last ones it answers with 500 before it takes one."""

    def __init__(self, refuses: int = 0) -> None:
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.refuses = refuses
        self.app = web.Application()
        self.app.router.add_post("/hook", self._take)

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.text()
        signed = {name.lower(): value for name, value in request.headers.items()}
        Webhook(SECRET).verify(body, signed)
        self.got.append(json.loads(body))
        self.headers.append(signed)
        if self.got[-1]["status"] in {"succeeded", "failed", "canceled"} and self.refuses:
            self.refuses -= 1
            return web.Response(status=500)
        return web.Response()

    def statuses(self) -> list[str]:
        return [each["status"] for each in self.got]


def hooking(**settings: Any) -> dict[str, Any]:
    return {"webhooks": {"secret": SECRET, "allow_private": True, "interval": 0.05, **settings}}


@pytest.mark.slow
def test_webhooks_come_in_order_signed_and_the_last_until_it_is_taken() -> None:
    async def work() -> None:
        receiver = Receiver(refuses=2)
        async with serving(receiver.app) as url, owning("steps", predictions=hooking(token="bearer-of-it")) as own:
            given = {"seconds": 0.6, "count": 6}
            trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
            reply = await own.post(given, webhook=f"{url}/hook", headers={**ASYNC, **trace})
            assert reply.status == 202
            await until(lambda: receiver.statuses().count("succeeded") == 3, WAIT_S)
            statuses = receiver.statuses()
            assert statuses[0] == "processing"
            assert "output" not in receiver.got[0] or receiver.got[0]["output"] == []
            assert statuses == ["processing"] * (len(statuses) - 3) + ["succeeded"] * 3
            sizes = [len(each.get("output") or ()) for each in receiver.got]
            assert sizes == sorted(sizes)
            assert sizes[-1] == 7
            assert {each["id"] for each in receiver.got} == {reply.json()["id"]}
            assert len({each["webhook-id"] for each in receiver.headers[-3:]}) == 1
            assert all(each["authorization"] == "Bearer bearer-of-it" for each in receiver.headers)
            assert all(each["traceparent"] == trace["traceparent"] for each in receiver.headers)
            await own.at_rest()

    run(work)


def test_a_filter_says_which_webhooks_come() -> None:
    async def work() -> None:
        receiver = Receiver()
        async with serving(receiver.app) as url, owning("steps", predictions=hooking()) as own:
            for ident, events in (("none", []), ("end", ["completed"]), ("start", ["start"])):
                options: dict[str, Any] = {"webhook": f"{url}/hook", "webhook_events_filter": events, "id": ident}
                assert (await own.post({"seconds": 0}, **options)).status == 200
            await until(lambda: len(receiver.got) == 2, WAIT_S)
            await asyncio.sleep(0.2)
            assert sorted((each["id"], each["status"]) for each in receiver.got) == [
                ("end", "succeeded"),
                ("start", "processing"),
            ]
            await own.at_rest()

    run(work)


def test_a_canceled_and_a_failed_one_are_told_too() -> None:
    async def work() -> None:
        receiver = Receiver()
        async with serving(receiver.app) as url, owning("steps", predictions=hooking()) as own:
            options: dict[str, Any] = {"webhook": f"{url}/hook", "webhook_events_filter": ["completed"]}
            await own.begun("p1", **options)
            await own.cancel("p1")
            await own.begun("p2", timeout=0.3, **options)
            await until(lambda: len(receiver.got) == 2, WAIT_S)
            assert {(each["id"], each["status"]) for each in receiver.got} == {("p1", "canceled"), ("p2", "failed")}
            await own.at_rest()

    run(work)
