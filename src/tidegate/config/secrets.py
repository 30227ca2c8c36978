"""Which variables of the environment a configuration takes its secrets from: nobody but the gateway needs to have those."""

from collections.abc import Iterable
from typing import Final

from tidegate.config.decode import Seen
from tidegate.config.settings import Config, ProviderSettings
from tidegate.config.tree import Leaf
from tidegate.upstream.kinds import kind_of

_ALSO: Final = ("auth.keys[].sha256", "providers[].aws.access_key_id")
"""Settings that are shown to nobody either, though they are no secrets by their type."""
_AWS: Final = frozenset({
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
})  # fmt: skip
"""Where Amazon's own tools look for credentials, as they do for a provider without any in the file."""


def secret_variables(named: Iterable[str], seen: Seen, config: Config) -> frozenset[str]:
    """Give their names. Shape: `named` are those in settings that are secrets by their type."""
    also = {
        name
        for path in _ALSO
        for spot in seen.get(path, ())
        if isinstance(spot.node, Leaf)
        for name in spot.node.variables
    }
    return frozenset({*named, *also}) | (_AWS if any(map(_asks_amazon, config.providers)) else frozenset())


def _asks_amazon(provider: ProviderSettings) -> bool:
    """Say whether a provider's credentials are looked for as Amazon's tools look for them."""
    return (provider.auth or kind_of(provider.kind).auth) == "aws" and not provider.aws.access_key_id
