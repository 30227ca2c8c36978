"""What follows from other settings is filled in, in the one spelling that the rooms expect. Works on plain values."""

from collections.abc import Mapping
from typing import Any, Final

from tidegate.upstream.kinds import kind_of

Plain = Mapping[str, Any]
"""A mapping of the file, as it would be read by a YAML library but for its units."""

_OFF: Final = {"headers": 0.0, "first_token": 0.0, "idle": 0.0, "total": 0.0, "response": 0.0}
_LOCAL: Final[Mapping[str, Plain]] = {
    "timeouts": _OFF,
    "retry": {"max_attempts": 1},
    "breaker": {"failures": 0, "ratio": 0.0},
    "slots": {"max_queue_wait": 3600.0},
}
"""A model of our own may think as long as it likes, is not asked twice, and its failures are its own.

Who waits in its line waits for others to end, which may take as long: the line is bounded by how many are in it.
"""


def filled(plain: Plain) -> dict[str, Any]:
    """Give a whole configuration with nothing left to follow: a target's timeouts that are left out are its provider's."""
    providers = [_provider(provider) for provider in plain.get("providers", ())]
    timeouts = {provider["name"]: provider.get("timeouts", {}) for provider in providers}
    return {
        **plain,
        "auth": _auth(plain.get("auth", {})),
        "providers": providers,
        "models": [_model(model, timeouts) for model in plain.get("models", ())],
    }


def _auth(auth: Plain) -> dict[str, Any]:
    return {**auth, "keys": [{**key, "sha256": key["sha256"].lower()} for key in auth.get("keys", ())]}


def _provider(provider: Plain) -> dict[str, Any]:
    url = provider.get("base_url") or kind_of(provider["kind"]).base_url
    region = provider.get("aws", {}).get("region", "")
    usual = _LOCAL if provider["kind"] == "local" else {}
    given = {name: {**section, **provider.get(name, {})} for name, section in usual.items()}
    return {**provider, **given, "base_url": url.replace("{region}", region).rstrip("/")}


def _model(model: Plain, timeouts: Mapping[str, Plain]) -> dict[str, Any]:
    """Give a model whose header to stick by is in lower case, as an Arrival's are."""
    targets = [
        {**target, "timeouts": {**timeouts.get(target["provider"], {}), **target.get("timeouts", {})}}
        for target in model["targets"]
    ]
    sticky_by = {"sticky_by": model["sticky_by"].lower()} if "sticky_by" in model else {}
    return {**model, **sticky_by, "targets": targets}
