"""Several providers behind one gateway, and what they and it say of one another."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from harness import Running, gateway
from streams import HELLO, Script, settled, streamed
from tidegate.testing.upstream import ScriptedUpstream, scripted_upstream

QUICK = {"max_attempts": 2, "initial_delay": 0.01, "max_delay": 0.01}
ERROR = {"error": {"message": "It broke."}}
WHOLE = streamed(*HELLO)


@asynccontextmanager
async def before(
    *scripts: Script, model: dict[str, Any] | None = None, **provider: Any
) -> AsyncIterator[tuple[Running, list[ScriptedUpstream]]]:
    """Serve a gateway before several providers, one target each, in this order."""
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(scripted_upstream(script)) for script in scripts]
        members = {"retry": QUICK, **provider}
        providers = [{"name": f"p{n}", "base_url": up.base_url, **members} for n, up in enumerate(upstreams)]
        targets = [{"provider": f"p{n}", "model": f"m{n}", "priority": n} for n in range(len(scripts))]
        models = [{"name": "mock", "targets": targets, **(model or {})}]
        running = await stack.enter_async_context(gateway("http://unused", providers=providers, models=models))
        yield running, upstreams
        await settled(running, connections=len(running.tidegate.edge.connections))


def hits(upstream: ScriptedUpstream) -> int:
    return sum(len(peer.requests) for peer in upstream.peers)


def value(running: Running, name: str, **labels: str) -> float:
    """Give one sample."""
    return sum(
        sample.value
        for family in running.tidegate.metrics.families()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
