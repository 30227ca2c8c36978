"""The paths of predictions: what a request is about, from its path alone."""

from typing import Final, Literal
from urllib.parse import unquote

from msgspec import Struct

Thing = Literal["index", "health", "schema", "shutdown", "predictions", "prediction", "cancel"]

_MODELS: Final = b"/v1/models/"
_ROOT: Final[dict[bytes, Thing]] = {
    b"/": "index",
    b"/health-check": "health",
    b"/openapi.json": "schema",
    b"/shutdown": "shutdown",
    b"/predictions": "predictions",
}
_OF_MODEL: Final[dict[bytes, Thing]] = {b"": "index", b"health-check": "health", b"openapi.json": "schema"}
METHODS: Final[dict[Thing, tuple[str, ...]]] = {
    "index": ("GET",),
    "health": ("GET",),
    "schema": ("GET",),
    "shutdown": ("POST",),
    "predictions": ("POST",),
    "prediction": ("GET", "PUT"),
    "cancel": ("POST",),
}
"""What is answered there; HEAD as GET."""


class Place(Struct, frozen=True):
    """What a path names. Shape: `model` is None for the paths that are there for a single model; `id` is decoded."""

    thing: Thing
    model: str | None = None
    id: str = ""


def route_of(path: bytes) -> Place | None:
    """Give what a path names; None for a path that is none of predictions."""
    thing = _ROOT.get(path)
    if thing is not None:
        return Place(thing)
    if path.startswith(_MODELS):
        return _of_model(path[len(_MODELS) :].split(b"/"))
    if path.startswith(b"/predictions/"):
        return _of_predictions(path.split(b"/")[1:], None)
    return None


def _of_model(parts: list[bytes]) -> Place | None:
    """Read what comes behind `/v1/models/`. Shape: a model's name may have slashes."""
    thing = _OF_MODEL.get(parts[-1])
    if thing is not None and len(parts) > 1:
        return Place(thing, _decoded(b"/".join(parts[:-1])))
    if b"predictions" not in parts[1:]:
        return None
    at = parts.index(b"predictions", 1)
    return _of_predictions(parts[at:], _decoded(b"/".join(parts[:at])))


def _of_predictions(parts: list[bytes], model: str | None) -> Place | None:
    """Read what begins with `predictions`."""
    if len(parts) == 1:
        return Place("predictions", model)
    ident = _decoded(parts[1])
    if len(parts) == 2 and ident:
        return Place("prediction", model, ident)
    if len(parts) == 3 and ident and parts[2] == b"cancel":
        return Place("cancel", model, ident)
    return None


def _decoded(part: bytes) -> str:
    return unquote(part.decode("latin-1"), errors="replace")
