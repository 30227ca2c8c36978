"""What a server says of itself: its paths, its health, its schema, as Cog's clients look for them."""

import math
import platform
from collections.abc import Callable
from typing import Final, Protocol
from urllib.parse import quote

import msgspec

from tidegate import __version__
from tidegate.exchange import Outcome
from tidegate.kernel.backoff import retry_after
from tidegate.predictions.answers import plain_error
from tidegate.verdict import MODEL_UNAVAILABLE, Refused
from tidegate.worker.health import Health
from tidegate.worker.messages import Info

GLANCE_S: Final = 1.0
STARTING_RETRY_S: Final = 2.0
"""When to come again while a model is set up: nobody knows how long that takes."""
_VERSION: Final = {"tidegate": __version__, "python_sdk": __version__, "python": platform.python_version()}
_RUNS: Final = frozenset({"READY", "BUSY", "UNHEALTHY"})


class Served(Protocol):
    """A model of our own."""

    @property
    def name(self) -> str:
        """What clients call it."""
        ...

    @property
    def info(self) -> Info | None:
        """What its handler is, once it was set up."""
        ...

    @property
    def serves(self) -> bool:
        """Whether it can run now."""
        ...

    @property
    def max_queue(self) -> int:
        """How many may wait in line; 0 lets nobody wait."""
        ...

    def health(self) -> Health:
        """Give how it is."""
        ...

    async def check(self) -> str:
        """Ask the handler's own check; gives what is wrong. Shape: empty where nothing is."""
        ...

    def cancel(self, outcome: Outcome, /) -> bool:
        """Stop the run of an exchange; gives whether there is one."""
        ...


def index(model: str | None, *, shutdown: bool) -> dict[str, object]:
    """Give where things are. Shape: `model` is the name in the path, None for the paths of a single model, `shutdown` being one of these."""
    root = "" if model is None else f"/v1/models/{quote(model)}"
    predictions = f"{root}/predictions"
    return {
        "cog_version": __version__,
        "tidegate_version": __version__,
        "openapi_url": f"{root}/openapi.json",
        "healthcheck_url": f"{root}/health-check",
        "predictions_url": predictions,
        "predictions_idempotent_url": f"{predictions}/{{prediction_id}}",
        "predictions_cancel_url": f"{predictions}/{{prediction_id}}/cancel",
        **({"shutdown_url": "/shutdown"} if shutdown and model is None else {}),
    }


async def health(served: Served) -> dict[str, object]:
    """Give how a model is, after its own check where it runs, with what its code printed and said."""
    await _check(served)
    members: dict[str, object] = msgspec.to_builtins(served.health())
    return {**members, "version": _VERSION}


class Glances:
    """What those see of models' health who may not read what their code said: the word for it alone.

    Holds: an instant for each model, of the last time that its own check was asked for them, which is each GLANCE_S at most.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked: dict[str, float] = {}

    async def health(self, served: Served) -> dict[str, object]:
        """Give how a model is, as far as is known."""
        now = self._clock()
        if now - self._asked.get(served.name, -math.inf) >= GLANCE_S:
            self._asked[served.name] = now
            await _check(served)
        return {"status": served.health().status}


async def _check(served: Served) -> None:
    """Have a model's own check asked, if it has one and runs."""
    if served.info is not None and served.info.checks_health and served.health().status in _RUNS:
        await served.check()


def schema(served: Served, chance: Callable[[], float]) -> bytes:
    """Give the OpenAPI document as it was made of the handler. Errors: Refused before there is one."""
    if served.info is None:
        refusal = not_ready(served.health(), chance)
        raise Refused(
            refusal.verdict,
            refusal.message,
            headers=refusal.headers,
            body=plain_error("OpenAPI schema not available"),
        )
    return bytes(served.info.openapi)


def runnable(served: Served, chance: Callable[[], float]) -> Info:
    """Give what a handler is that can run, or soon will again for who may wait. Errors: Refused, saying what is the matter."""
    info = served.info
    if info is not None and served.serves:
        return info
    found = served.health()
    waits = found.status == "STARTING" and served.max_queue > 0
    if info is None or not (waits or found.status in _RUNS):
        raise not_ready(found, chance)
    return info


def not_ready(found: Health, chance: Callable[[], float]) -> Refused:
    """Give the refusal of work for a model that cannot do it. Shape: says when to come back where that may help."""
    if found.status == "SETUP_FAILED":
        return Refused(MODEL_UNAVAILABLE, "the model's setup failed; /health-check and the log say why")
    wait = retry_after(found.restart_in_s or STARTING_RETRY_S, chance())
    if found.status == "STARTING":
        said = "process ended, and another is being set up" if found.error else "setup has not finished"
        return Refused(MODEL_UNAVAILABLE, f"the model's {said}", headers=(wait,))
    return Refused(MODEL_UNAVAILABLE, "the model's workers keep failing; the log says why", headers=(wait,))
