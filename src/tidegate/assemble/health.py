"""How the process is, for load balancers and people."""

import resource
from collections.abc import Callable

from tidegate.assemble.wiring import Wiring
from tidegate.dispatch.fleet import waiting_and_used
from tidegate.tasks import together


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
        pools = [provider.pool for provider in self._wiring().providers.values()]
        return any(await together(*(pool.dialable() for pool in pools)))

    def summary(self) -> dict[str, object]:
        """Give what operators want to know at a glance."""
        wiring, counts = self._wiring(), self._counts()
        pools = [provider.pool for provider in wiring.providers.values()]
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        used = counts["active_connections"] + sum(pool.in_use + pool.idle for pool in pools)
        now = self._clock()
        breakers = {state.label: state.breaker_state(now).name.lower() for state in wiring.fleet.states.values()}
        troubled = not all(pool.reachable for pool in pools) or "open" in breakers.values()
        return {
            "status": "draining" if self._draining() else "degraded" if troubled else "healthy",
            **counts,
            "utilisation": round(used / descriptors, 4),
            "providers": {name: self._provider(wiring, name) for name in wiring.providers},
            "breakers": breakers,
        }

    def _provider(self, wiring: Wiring, name: str) -> dict[str, object]:
        pool = wiring.providers[name].pool
        waiting, in_use = waiting_and_used(wiring.fleet.slots, name)
        return {
            "reachable": pool.reachable,
            "connections_in_use": pool.in_use,
            "connections_idle": pool.idle,
            "slots_in_use": in_use,
            "queue": waiting,
        }
