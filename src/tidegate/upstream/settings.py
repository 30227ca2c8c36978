"""What the file may say about providers."""

from typing import Literal

from msgspec import Struct, field

from tidegate.exchange import Timeouts
from tidegate.kernel.units import Count, Duration, Secret


class ConnectionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The pool of one provider. Holds: `max` 0 is no cap; `idle` is how long an unused connection is kept."""

    max: Count = 0
    idle_s: Duration = field(default=90.0, name="idle")


class ProviderSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider: a row of `upstream/providers.py`, its address and its credentials.

    Shape: `api_key_file` is read anew when it changes, for keys that are rotated; it excludes `api_key`.
    """

    name: str
    kind: Literal["openai", "mock"]
    base_url: str = ""
    api_key: Secret = Secret("")
    api_key_file: str = ""
    ca_file: str = ""
    headers: dict[str, Secret] = field(default_factory=dict)
    timeouts: Timeouts = Timeouts()
    connections: ConnectionSettings = ConnectionSettings()

    def __repr__(self) -> str:
        """Give name and kind alone: credentials must not reach a log by way of a traceback."""
        return f"ProviderSettings(name={self.name!r}, kind={self.kind!r})"
