"""What follows from other settings is filled in, in the one spelling that the rooms expect. Works on plain values."""

from collections.abc import Mapping
from typing import Any

from tidegate.upstream.kinds import KINDS

Plain = Mapping[str, Any]
"""A mapping of the file, as it would be read by a YAML library but for its units."""


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
    url = provider.get("base_url") or KINDS[provider["kind"]].base_url
    region = provider.get("aws", {}).get("region", "")
    return {**provider, "base_url": url.replace("{region}", region).rstrip("/")}


def _model(model: Plain, timeouts: Mapping[str, Plain]) -> dict[str, Any]:
    """Give a model whose header to stick by is in lower case, as an Arrival's are."""
    targets = [
        {**target, "timeouts": {**timeouts.get(target["provider"], {}), **target.get("timeouts", {})}}
        for target in model["targets"]
    ]
    sticky_by = {"sticky_by": model["sticky_by"].lower()} if "sticky_by" in model else {}
    return {**model, **sticky_by, "targets": targets}
