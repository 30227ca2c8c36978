"""What each setting of predictions, and of models of our own, changes about a whole gateway."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from harness import ask, chat, run, until
from owning import EVENTS, ROOT, WAIT_S, Owned, following, model, owning, provider

SECRET = "whsec_" + base64.b64encode(b"a secret of receivers").decode()


@asynccontextmanager
async def files(**pages: Any) -> AsyncIterator[str]:
    """Serve texts, redirects (`/name` for a path that begins so) and, for None, nothing at all; gives the address."""

    async def give(request: web.Request) -> web.StreamResponse:
        page = pages[request.path.removeprefix("/")]
        if page is None:
            await asyncio.sleep(60)
        if str(page).startswith("/"):
            raise web.HTTPFound(page)
        return web.Response(text=page)

    app = web.Application()
    app.router.add_get("/{name}", give)
    async with _served(app) as url:
        yield url


@asynccontextmanager
async def _served(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Receiver:
    """Receives webhooks. Shape: answers with `status`, after `wait_s`; keeps when each came."""

    def __init__(self, status: int = 200, wait_s: float = 0.0) -> None:
        self.status, self.wait_s = status, wait_s
        self.got: list[tuple[float, Mapping[str, str], str]] = []
        self.left = 0

    async def take(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append((asyncio.get_running_loop().time(), headers, await request.text()))
        try:
            await asyncio.sleep(self.wait_s)
        except asyncio.CancelledError:
            self.left += 1
            raise
        return web.Response(status=self.status)


@asynccontextmanager
async def receiving(receiver: Receiver) -> AsyncIterator[str]:
    """Give an address that takes webhooks."""
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


async def names(own: Owned, ident: str, **headers: str) -> list[tuple[str, int]]:
    async with following(own.port, ident, **headers) as events:
        assert events.status == 200
        return [(name, number) for name, _, number in await events.rest()]


# --- providers[].local -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("handler", "output"), [("echo", "hello"), ("Words", ["a ", "b ", "c "])])
def test_providers_local_handler_is_what_answers(handler: str, output: object) -> None:
    async def work() -> None:
        async with owning(handler) as own:
            assert (await own.post()).json()["output"] == output

    run(work)


@pytest.mark.parametrize("workers", [1, 3])
def test_providers_local_workers_is_how_many_processes_there_are(workers: int) -> None:
    async def work() -> None:
        async with owning("single", provider={"local": {"workers": workers}}) as own:
            replies = await asyncio.gather(*(own.post({"seconds": 0.3}) for _ in range(workers)))
            assert len({reply.json()["output"][0] for reply in replies}) == workers
            assert own.slots.peak == workers

    run(work)


def test_providers_local_setup_timeout_is_how_long_a_setup_may_take() -> None:
    async def work() -> None:
        async with owning("Late", ready=False, provider={"local": {"setup_timeout": 0.3}}) as own:
            await own.local.wait_ready(WAIT_S)
            health = (await own.get("/health-check")).json()
            assert health["status"] == "SETUP_FAILED"
            assert "0.3 s" in health["setup"]["logs"]

    run(work)


@pytest.mark.slow
def test_providers_local_cancel_grace_is_how_long_a_cancelled_one_may_go_on() -> None:
    async def work() -> None:
        async with owning("stubborn", provider={"local": {"cancel_grace": 0.2}}) as own:
            await own.begun("p1", {"seconds": 60}, says="logs")
            await own.cancel("p1")
            await own.until_status("p1", "canceled")
            await own.at_rest()
        async with owning("stubborn", provider={"local": {"cancel_grace": 600}}) as own:
            await own.begun("p1", {"seconds": 1.5}, says="logs")
            await own.cancel("p1")
            before = {worker.ready_at for worker in own.local.crew._workers}
            await own.at_rest()
            # It came to its end by itself, in the same process.
            assert {worker.ready_at for worker in own.local.crew._workers} == before

    run(work)


def test_providers_local_env_is_what_its_processes_have_in_their_environment() -> None:
    async def work() -> None:
        providers = [
            provider("variable", "first", local={"env": {"TIDE": "high"}}),
            provider("variable", "second"),
        ]
        models = [model("first", "first"), model("second", "second")]
        async with owning(providers=providers, models=models) as own:
            for name, found in (("first", "high"), ("second", "nothing")):
                reply = await own.post({"name": "TIDE"}, f"/v1/models/{name}/predictions")
                assert reply.json()["output"] == found

    run(work)


@pytest.mark.parametrize("echo", [False, True])
def test_providers_local_echo_tells_the_log_what_predictions_print(echo: bool) -> None:
    async def work() -> None:
        with capture_logs() as logs:
            async with owning("steps", provider={"local": {"echo": echo}}) as own:
                assert (await own.post({"seconds": 0, "name": "n"})).json()["logs"] == "begun n\n"
        told = [entry["text"] for entry in logs if entry["event"] == "prediction_output"]
        assert told == (["begun n"] if echo else [])

    run(work)


@pytest.mark.parametrize(("size", "status"), [(100, "succeeded"), (600, "failed")])
def test_providers_local_max_output_bytes_bounds_what_a_prediction_gives(size: int, status: str) -> None:
    async def work() -> None:
        async with owning("flood", provider={"local": {"max_output_bytes": 1000}}) as own:
            found = (await own.post({"count": 2, "size": size})).json()
            assert found["status"] == status
            assert "1000 bytes" in found.get("error", "1000 bytes")

    run(work)


@pytest.mark.slow
def test_timeouts_of_a_provider_and_of_a_target_bound_models_of_our_own() -> None:
    async def work() -> None:
        for given in ({"provider": {"timeouts": {"total": 0.4}}}, {"models": [model(timeouts={"idle": 0.4})]}):
            async with owning("steps", **given) as own:
                found = (await own.post({"seconds": 60})).json()
                assert found["status"] == "failed", given
                assert len(found["output"]) == 1
                assert own.busy()["registry"] == 0
                await own.at_rest()
                assert own.codes() == ["total_timeout" if "provider" in given else "idle_timeout"]
        async with owning("steps") as own:  # none is on by itself
            timeouts = own.tidegate.wiring.config.providers[0].timeouts
            assert not any(
                getattr(timeouts, f"{name}_s") for name in ("headers", "first_token", "idle", "total", "response")
            )

    run(work)


# --- predictions.history -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["keep", "none"])
def test_predictions_history_mode_is_whether_who_comes_late_gets_what_was_before(mode: str) -> None:
    async def work() -> None:
        async with owning(predictions={"history": {"mode": mode}}) as own:
            await own.put("p1")
            told = await names(own, "p1")
            assert told[-1][0] == "completed"
            assert (told[0][0] == "start") == (mode == "keep")
            assert (len(told) == 1) == (mode == "none")

    run(work)


@pytest.mark.parametrize(("settings", "kept"), [({"max_events": 5}, 5), ({"max_events": 1000}, 102)])
def test_predictions_history_max_events_is_how_many_are_kept(settings: dict[str, int], kept: int) -> None:
    async def work() -> None:
        async with owning("flood", predictions={"history": settings}) as own:
            await own.put("p1", {"count": 100})
            told = await names(own, "p1")
            assert len([name for name, _ in told if name != "skipped"]) == kept
            assert (told[0][0] == "skipped") == (kept == 5)

    run(work)


@pytest.mark.parametrize("size", [10_000, 16_000_000])
def test_predictions_history_max_bytes_bounds_what_is_kept(size: int) -> None:
    async def work() -> None:
        async with owning("flood", predictions={"history": {"max_bytes": size}}) as own:
            await own.put("p1", {"count": 20, "size": 2000})
            told = await names(own, "p1")
            assert told[-1][0] == "completed"
            assert (told[0][0] == "skipped") == (size == 10_000)

    run(work)


# --- predictions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "left"), [({"retain": 3600.0}, 200), ({"retain": 0.2}, 404)])
def test_predictions_retain_is_how_long_one_can_be_asked_for(settings: dict[str, float], left: int) -> None:
    async def work() -> None:
        async with owning("echo", predictions=settings) as own:
            await own.put("p1")
            assert (await own.get(f"{ROOT}/p1")).status in {200, left}
            await asyncio.sleep(0.3)
            assert (await own.get(f"{ROOT}/p1")).status == left

    run(work)


def test_predictions_max_retained_is_how_many_can_be_asked_for() -> None:
    async def work() -> None:
        async with owning("echo", predictions={"max_retained": 2}) as own:
            for ident in ("p1", "p2", "p3"):
                await own.put(ident)
            assert [(await own.get(f"{ROOT}/{ident}")).status for ident in ("p1", "p2", "p3")] == [404, 200, 200]

    run(work)


def test_predictions_max_retained_bytes_bounds_what_they_take() -> None:
    async def work() -> None:
        async with owning("echo", predictions={"max_retained_bytes": 100_000}) as own:
            for ident in ("p1", "p2", "p3"):
                await own.put(ident, {"text": "x" * 15_000})
            found = [(await own.get(f"{ROOT}/{ident}")).status for ident in ("p1", "p2", "p3")]
            assert found[0] == 404
            assert found[-1] == 200
            assert own.tidegate.buffered_bytes() <= 100_000

    run(work)


def test_predictions_max_body_bytes_bounds_a_request_in_place_of_the_servers() -> None:
    async def work() -> None:
        async with owning("echo", predictions={"max_body_bytes": 3000}, server={"max_body_bytes": 2000}) as own:
            assert (await own.post({"text": "x" * 2500})).status == 200
            assert (await own.post({"text": "x" * 3500})).status == 413
            long = chat("own", messages=[{"role": "user", "content": "x" * 2500}])
            assert (await ask(own.port, long)).status == 413

    run(work)


def test_predictions_max_subscribers_is_how_many_may_follow_one() -> None:
    async def work() -> None:
        async with owning("steps", predictions={"max_subscribers": 2}) as own:
            await own.begun("p1")
            async with following(own.port, "p1") as first, following(own.port, "p1") as second:
                assert (first.status, second.status) == (200, 200)
                reply = await ask(own.port, b"", path=f"{ROOT}/p1", method="GET", headers=EVENTS)
                assert reply.status == 429
            await until(lambda: len(own.registry.find(("", "own", "p1")).history) == 0)
            async with following(own.port, "p1") as again:
                assert again.status == 200
            await own.cancel("p1")

    run(work)


@pytest.mark.parametrize(("most", "asked", "told"), [(0.3, None, "0.3 s"), (0.3, 60, "0.3 s"), (60.0, 0.3, "0.3 s")])
def test_predictions_timeout_bounds_each_and_a_client_may_ask_for_less(most: float, asked: Any, told: str) -> None:
    async def work() -> None:
        async with owning("single", predictions={"timeout": most}) as own:
            found = (await own.post({}, **({"timeout": asked} if asked else {}))).json()
            assert (found["status"], found["error"]) == ("failed", f"timed out after {told}")
            await own.at_rest()

    run(work)


@pytest.mark.parametrize(("shutdown", "status"), [(True, 200), (False, 404)])
def test_predictions_shutdown_opens_the_path_that_stops_the_process(*, shutdown: bool, status: int) -> None:
    async def work() -> None:
        async with owning("echo", predictions={"shutdown": shutdown}) as own:
            assert (await ask(own.port, b"", path="/shutdown")).status == status
            assert ("shutdown_url" in (await own.get("/")).json()) == shutdown

    run(work)


# --- predictions.files -------------------------------------------------------------------------------------------------


async def fetched(url: str, **settings: Any) -> Any:
    """Give a prediction whose input is a file from an address."""
    async with owning("upper", predictions={"files": {"allow_private": True, **settings}}) as own:
        found = (await own.post({"file": url})).json()
        await own.at_rest()
        return found


@pytest.mark.parametrize(("most", "status"), [(10, "succeeded"), (9, "failed")])
def test_predictions_files_max_bytes_bounds_a_file(most: int, status: str) -> None:
    async def work() -> None:
        async with files(a="x" * 10) as url:
            assert (await fetched(f"{url}/a", max_bytes=most))["status"] == status
            assert (await fetched(f"data:,{'x' * 10}", max_bytes=most))["status"] == status

    run(work)


def test_predictions_files_timeout_bounds_the_fetching() -> None:
    async def work() -> None:
        async with files(a=None) as url:
            found = await fetched(f"{url}/a", timeout=0.2)
            assert found["status"] == "failed"
            assert "too long" in found["error"]

    run(work)


@pytest.mark.parametrize(("most", "status"), [(2, "succeeded"), (1, "failed")])
def test_predictions_files_max_redirects_is_how_often_another_address_is_gone_to(most: int, status: str) -> None:
    async def work() -> None:
        async with files(a="/b", b="/c", c="there") as url:
            assert (await fetched(f"{url}/a", max_redirects=most))["status"] == status

    run(work)


@pytest.mark.parametrize(("allowed", "status"), [(True, "succeeded"), (False, "failed")])
def test_predictions_files_allow_private_lets_files_come_from_this_machine(*, allowed: bool, status: str) -> None:
    async def work() -> None:
        async with files(a="here") as url:
            assert (await fetched(f"{url}/a", allow_private=allowed))["status"] == status

    run(work)


# --- predictions.webhooks ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def hooked(receiver: Receiver, given: dict[str, Any], **settings: Any) -> AsyncIterator[Owned]:
    """Give a gateway of which a prediction is made whose webhooks a receiver gets."""
    events = settings.pop("events", ["completed"])
    hooks = {"webhooks": {"allow_private": True, **settings}}
    async with receiving(receiver) as url, owning("steps", predictions=hooks) as own:
        status = 200 if hooks["webhooks"]["allow_private"] else 422
        assert (await own.post(given, webhook=url, webhook_events_filter=events)).status == status
        yield own


def test_predictions_webhooks_secret_signs_them() -> None:
    async def work() -> None:
        receiver = Receiver()
        async with hooked(receiver, {"seconds": 0}, secret=SECRET):
            await until(lambda: len(receiver.got) == 1, WAIT_S)
            _, headers, body = receiver.got[0]
            Webhook(SECRET).verify(body, dict(headers))
            with pytest.raises(WebhookVerificationError):
                Webhook(SECRET).verify(body + " ", dict(headers))
        receiver = Receiver()
        async with hooked(receiver, {"seconds": 0}):
            await until(lambda: len(receiver.got) == 1, WAIT_S)
            assert "webhook-signature" not in receiver.got[0][1]

    run(work)


@pytest.mark.parametrize(("token", "said"), [("a-token", "Bearer a-token"), ("", None)])
def test_predictions_webhooks_token_goes_along(token: str, said: str | None) -> None:
    async def work() -> None:
        receiver = Receiver()
        async with hooked(receiver, {"seconds": 0}, token=token):
            await until(lambda: len(receiver.got) == 1, WAIT_S)
            assert receiver.got[0][1].get("authorization") == said

    run(work)


@pytest.mark.slow
def test_predictions_webhooks_interval_is_the_least_time_between_two() -> None:
    async def told(interval: float) -> list[tuple[float, int]]:
        receiver = Receiver()
        given = {"seconds": 1.0, "count": 20}
        async with hooked(receiver, given, interval=interval, events=["output", "completed"]):
            await until(lambda: '"succeeded"' in receiver.got[-1][2] if receiver.got else False, WAIT_S)
            return [(at, len(json.loads(body)["output"])) for at, _, body in receiver.got]

    async def work() -> None:
        assert len(await told(3600.0)) <= 2  # the first output, and the end
        assert len(await told(0.01)) > 5

    run(work)


def test_predictions_webhooks_timeout_bounds_each_request() -> None:
    async def work() -> None:
        receiver = Receiver(wait_s=60)
        async with hooked(receiver, {"seconds": 0}, timeout=0.2, max_attempts=2):
            await until(lambda: receiver.left == 2, WAIT_S)

    run(work)


@pytest.mark.parametrize("most", [1, 3])
def test_predictions_webhooks_max_attempts_is_how_often_the_last_one_is_tried(most: int) -> None:
    async def work() -> None:
        receiver = Receiver(status=500)
        async with hooked(receiver, {"seconds": 0}, max_attempts=most) as own:
            await until(lambda: len(receiver.got) == most, WAIT_S)
            await own.tidegate.outbound.wait_delivered(WAIT_S)
            assert len(receiver.got) == most

    run(work)


@pytest.mark.parametrize(("allowed", "count"), [(True, 1), (False, 0)])
def test_predictions_webhooks_allow_private_lets_them_go_to_this_machine(*, allowed: bool, count: int) -> None:
    async def work() -> None:
        receiver = Receiver()
        async with hooked(receiver, {"seconds": 0}, allow_private=allowed) as own:
            await own.tidegate.outbound.wait_delivered(WAIT_S)
            assert len(receiver.got) == count

    run(work)
