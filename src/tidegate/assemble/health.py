"""How the process is, for load balancers and people."""

import resource
from collections.abc import Callable
from typing import Final

from tidegate.assemble.wiring import Wiring
from tidegate.dispatch.fleet import waiting_and_used
from tidegate.tasks import together

_SERVING: Final = frozenset({"READY", "BUSY"})
"""How processes of our own are when they take work."""


class Health:
    """Health of one process. Shape: `counts` gives what is counted outside of the wiring, by its name here."""

    def __init__(
        self,
        wiring: Callable[[], Wiring],
        draining: Callable[[], bool],
        counts: Callable[[], dict[str, int]],
        clock: Callable[[], float],
    ) -> None:
        self._wiring = wiring
        self._draining = draining
        self._counts = counts
        self._clock = clock

    async def ready(self) -> bool:
        """Say whether new work makes sense here: not draining, and some provider can be dialled."""
        if self._draining():
            return False
        wiring = self._wiring()
        if any(local.health().status in _SERVING for local in wiring.locals.values()):
            return True
        pools = [provider.pool for provider in wiring.providers.values()]
        return any(await together(*(pool.dialable() for pool in pools)))

    def summary(self) -> dict[str, object]:
        """Give what operators want to know at a glance."""
        wiring, counts = self._wiring(), self._counts()
        pools = [provider.pool for provider in wiring.providers.values()]
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        used = counts["active_connections"] + sum(pool.in_use + pool.idle for pool in pools)
        now = self._clock()
        breakers = {state.label: state.breaker_state(now).name.lower() for state in wiring.fleet.states.values()}
        own = {name: local.health().status for name, local in wiring.locals.items()}
        troubled = (
            not all(pool.reachable for pool in pools)
            or "open" in breakers.values()
            or not _SERVING.issuperset(own.values())
        )
        return {
            "status": "draining" if self._draining() else "degraded" if troubled else "healthy",
            **counts,
            "utilisation": round(used / descriptors, 4),
            "providers": {
                **{name: self._provider(wiring, name) for name in wiring.providers},
                **{name: {"status": status, **_slots(wiring, name)} for name, status in own.items()},
            },
            "breakers": breakers,
        }

    def _provider(self, wiring: Wiring, name: str) -> dict[str, object]:
        pool = wiring.providers[name].pool
        return {
            "reachable": pool.reachable,
            "connections_in_use": pool.in_use,
            "connections_idle": pool.idle,
            **_slots(wiring, name),
        }


def _slots(wiring: Wiring, name: str) -> dict[str, int]:
    waiting, in_use = waiting_and_used(wiring.fleet.slots, name)
    return {"slots_in_use": in_use, "queue": waiting}
