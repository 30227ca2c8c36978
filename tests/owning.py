"""Whole gateways before real workers: how they are configured, asked and looked at."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from harness import Raw, Reply, Running, ask, connect, gateway, request_bytes, until

MODELS = Path(__file__).parent / "own_models.py"
ROOT = "/predictions"
WAIT_S = 40.0
ASYNC = {"prefer": "respond-async"}
EVENTS = {"accept": "text/event-stream"}


def provider(handler: str = "Words", name: str = "mine", **given: Any) -> dict[str, Any]:
    """Give the settings of a local provider. Shape: `local` may hold further settings of its own."""
    local = {"handler": f"{MODELS}:{handler}", **given.pop("local", {})}
    return {"name": name, "kind": "local", "base_url": "", "api_key": "", "local": local, **given}


def model(name: str = "own", provider_name: str = "mine", **given: Any) -> dict[str, Any]:
    return {"name": name, "targets": [{"provider": provider_name, **given}]}


class Owned:
    """A gateway with a model of our own, `own` of the provider `mine`."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.tidegate = running.tidegate
        self.port = running.port

    @property
    def local(self) -> Any:
        return self.tidegate.wiring.locals["mine"]

    @property
    def registry(self) -> Any:
        return self.tidegate._registry

    @property
    def slots(self) -> Any:
        return self.tidegate.fleet.slots["mine", ""]

    async def post(self, given: Mapping[str, Any] | None = None, path: str = ROOT, **options: Any) -> Reply:
        """Ask for a prediction. Shape: options that are no headers are members of the body."""
        headers = options.pop("headers", {})
        method = options.pop("method", "POST")
        return await ask(self.port, {"input": dict(given or {}), **options}, path=path, method=method, headers=headers)

    async def put(self, ident: str, given: Mapping[str, Any] | None = None, **options: Any) -> Reply:
        return await self.post(given, f"{ROOT}/{ident}", method="PUT", **options)

    async def get(self, path: str, **headers: str) -> Reply:
        return await ask(self.port, b"", path=path, method="GET", headers=headers)

    async def seen(self, ident: str, **headers: str) -> Any:
        return (await self.get(f"{ROOT}/{ident}", **headers)).json()

    async def cancel(self, ident: str, **headers: str) -> Reply:
        return await ask(self.port, b"", path=f"{ROOT}/{ident}/cancel", headers=headers)

    async def until_status(self, ident: str, *wanted: str, **headers: str) -> Any:
        """Wait until a prediction has one of some states; gives it."""
        async with asyncio.timeout(WAIT_S):
            while True:
                found = await self.seen(ident, **headers)
                if found.get("status") in wanted:
                    return found
                await asyncio.sleep(0.02)

    async def begun(
        self, ident: str, given: Mapping[str, Any] | None = None, says: str = "output", **options: Any
    ) -> Any:
        """Begin a prediction that nobody waits for, and wait for its first `output` or `logs`; gives it as it is then."""
        headers = {**ASYNC, **options.pop("headers", {})}
        reply = await self.put(ident, given, headers=headers, **options)
        assert reply.status == 202, reply.body
        headers.pop("prefer")
        async with asyncio.timeout(WAIT_S):
            while True:
                found = await self.seen(ident, **headers)
                if found.get(says):
                    return found
                assert found["status"] in {"starting", "processing"}, found
                await asyncio.sleep(0.02)

    async def at_rest(self) -> None:
        """Wait until nothing runs, and say of what remained what it is."""
        try:
            await until(lambda: not any(self.busy().values()), WAIT_S)
        except TimeoutError:
            raise AssertionError(self.busy()) from None

    def busy(self) -> dict[str, int]:
        """Give what is held for predictions that run, each kind by its name."""
        crews = [local.crew for local in self.tidegate.wiring.locals.values()]
        return {
            "slots": sum(slots.in_use for slots in self.tidegate.fleet.slots.values()),
            "waiting": sum(slots.waiting for slots in self.tidegate.fleet.slots.values()),
            "live": len(self.tidegate.gateway),
            "runs": sum(len(local.runs) for local in self.tidegate.wiring.locals.values()),
            "running": sum(local.crew.running for local in self.tidegate.wiring.locals.values()),
            "loads": sum(worker.load for crew in crews for worker in crew._workers),
            "registry": self.registry.running if self.registry is not None else 0,
            "in line": sum(len(crew._line) for crew in crews),
            "readers": self._readers(),
        }

    def _readers(self) -> int:
        if self.registry is None:
            return 0
        return sum(len(kept.prediction.history) for kept in self.registry._kept.values())

    def codes(self) -> list[str]:
        """Give how the predictions ended, in the records' order."""
        return [entry.code for entry in self.running.entries() if entry.route == "predictions" and entry.provider]

    async def ready(self) -> None:
        for local in self.tidegate.wiring.locals.values():
            assert await local.wait_ready(WAIT_S), local.health()
        crews = [local.crew for local in self.tidegate.wiring.locals.values()]
        await until(lambda: all(_serves(post) for crew in crews for post in crew._posts), WAIT_S)


def _serves(post: Any) -> bool:
    return post.worker is not None and post.worker.state == "ready"


@asynccontextmanager
async def owning(handler: str = "Words", *, ready: bool = True, **sections: Any) -> AsyncIterator[Owned]:
    """Serve a gateway with one model of our own. Shape: `provider` adds to the provider's settings."""
    sections.setdefault("providers", [provider(handler, **sections.pop("provider", {}))])
    sections.setdefault("models", [model()])
    async with gateway("http://127.0.0.1:9", **sections) as running:
        owned = Owned(running)
        if ready:
            await owned.ready()
        yield owned


class Events:
    """A client that reads server-sent events one by one."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.status = 0
        self.headers = b""
        self._text = b""
        self.ended = False

    async def open(self) -> int:
        """Read the head; gives the status."""
        async with asyncio.timeout(WAIT_S):
            self.headers = await self.raw.reader.readuntil(b"\r\n\r\n")
        self.status = int(self.headers.split(b" ")[1])
        return self.status

    async def next(self) -> tuple[str, Any, int] | None:
        """Give the next event: name, data, id. Shape: None at the end."""
        async with asyncio.timeout(WAIT_S):
            while b"\n\n" not in self._text:
                size = int((await self.raw.reader.readuntil(b"\r\n")).strip(), 16)
                data = await self.raw.reader.readexactly(size + 2)
                if not size:
                    self.ended = True
                    return None
                self._text += data[:-2]
        block, _, self._text = self._text.partition(b"\n\n")
        return parsed(block) or await self.next()

    async def rest(self) -> list[tuple[str, Any, int]]:
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return found


def parsed(block: bytes) -> tuple[str, Any, int] | None:
    """Give one event; None for a comment."""
    fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if not line.startswith(":"))
    return (fields["event"], json.loads(fields["data"]), int(fields.get("id", 0))) if fields else None


@asynccontextmanager
async def following(port: int, ident: str = "", body: Any = b"", **headers: str) -> AsyncIterator[Events]:
    """Follow a prediction that is there, or with a body one that is made now, on a connection of its own."""
    async with connect(port) as raw:
        path = f"{ROOT}/{ident}" if ident else ROOT
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        method = "GET" if body == b"" else ("PUT" if ident else "POST")
        await raw.send(request_bytes(body, path=path, method=method, headers={**EVENTS, **named}))
        events = Events(raw)
        await events.open()
        yield events


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def status_of(pid: int) -> dict[str, int]:
    """Give threads and resident kilobytes of a process, and its open files."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in {"Threads", "VmRSS"}:
            found[name] = int(value.split()[0])
    with contextlib.suppress(OSError):
        found["files"] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return found
