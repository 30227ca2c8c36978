"""What a server says of itself: its paths, its health, its schema, as Cog's clients look for them."""

import platform
import random
from typing import Final, Protocol

import msgspec
from msgspec import structs

from tidegate import __version__
from tidegate.exchange import Outcome
from tidegate.kernel.backoff import retry_after
from tidegate.predictions.answers import plain_error
from tidegate.verdict import MODEL_UNAVAILABLE, Refused
from tidegate.worker.health import Health
from tidegate.worker.messages import Info

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


def index(served: Served | None, *, shutdown: bool) -> dict[str, object]:
    """Give where things are. Shape: `served` is the model whose paths are asked for, None for those of the only one."""
    root = "" if served is None else f"/v1/models/{served.name}"
    predictions = f"{root}/predictions"
    return {
        "cog_version": __version__,
        "tidegate_version": __version__,
        "openapi_url": f"{root}/openapi.json",
        "healthcheck_url": f"{root}/health-check",
        "predictions_url": predictions,
        "predictions_idempotent_url": f"{predictions}/{{prediction_id}}",
        "predictions_cancel_url": f"{predictions}/{{prediction_id}}/cancel",
        **({"shutdown_url": "/shutdown"} if shutdown else {}),
    }


async def health(served: Served, *, whole: bool) -> dict[str, object]:
    """Give how a model is, after its own check where it runs.

    Shape: what its code printed and said is there where the answer is to be `whole`; not everybody may read that.
    """
    found = served.health()
    if found.status in _RUNS and served.info is not None and served.info.checks_health:
        await served.check()
        found = served.health()
    if not whole:
        found = Health(found.status, structs.replace(found.setup, logs=""))
    members: dict[str, object] = msgspec.to_builtins(found)
    return {**members, "version": _VERSION}


def schema(served: Served) -> bytes:
    """Give the OpenAPI document as it was made of the handler. Errors: Refused before there is one."""
    if served.info is None:
        refusal = not_ready(served.health())
        raise Refused(
            refusal.verdict,
            refusal.message,
            headers=refusal.headers,
            body=plain_error("OpenAPI schema not available"),
        )
    return bytes(served.info.openapi)


def runnable(served: Served) -> Info:
    """Give what a handler is that can run, or soon will again. Errors: Refused, saying what is the matter."""
    found = served.health()
    info = served.info
    if info is None or found.status in {"SETUP_FAILED", "DEFUNCT"}:
        raise not_ready(found)
    return info


def not_ready(found: Health) -> Refused:
    """Give the refusal of work for a model that cannot do it. Shape: says when to come back where that may help."""
    if found.status == "STARTING":
        wait = retry_after(STARTING_RETRY_S, random.random())  # noqa: S311 (no secret)
        return Refused(MODEL_UNAVAILABLE, "the model's setup has not finished", headers=(wait,))
    if found.status == "SETUP_FAILED":
        return Refused(MODEL_UNAVAILABLE, "the model's setup failed; /health-check and the log say why")
    return Refused(MODEL_UNAVAILABLE, "the model's workers keep failing; the log says why")
