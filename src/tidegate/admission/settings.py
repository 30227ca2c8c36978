"""What the file may say about who may ask for what."""

from typing import Literal

from msgspec import Struct, field

from tidegate.exchange import Balance, Timeouts
from tidegate.kernel.units import Count, Duration, Size


class KeySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One client key. Shape: `sha256` is the hex digest that `tidegate keys hash` prints."""

    id: str
    sha256: str
    tenant: str = ""


class AuthSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may ask: anybody (`open`), or the holders of keys."""

    mode: Literal["open", "keys"] = "open"
    keys: tuple[KeySettings, ...] = ()


class TargetSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a model's requests go.

    Shape: an empty `model` is the public name, or what stands for its `*`; lower `priority` is asked first; `max_streams`
    0 is no limit; `timeouts` left out are the provider's.
    """

    provider: str
    model: str = ""
    weight: Count = 1
    priority: Count = 0
    max_streams: Count = 0
    timeouts: Timeouts = Timeouts()


class HedgeSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a second target is asked as well. Shape: `after` 0 is never."""

    after_s: Duration = field(default=0.0, name="after")


class ModelSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A public model name, its other names, and its targets.

    Shape: a name that ends in `/*` stands for all that begin so; `sticky_by` is `user` or a header's name.
    """

    name: str
    targets: tuple[TargetSettings, ...]
    aliases: tuple[str, ...] = ()
    balance: Balance = "p2c_ewma"
    sticky_by: str = "user"
    hedge: HedgeSettings = HedgeSettings()


class RateSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each key, address, model or tenant may use. Shape: 0 is no limit; `burst` 0 is a minute's worth."""

    by: Literal["key", "ip", "model", "tenant"]
    requests_per_minute: Count = 0
    burst: Count = 0
    tokens_per_minute: Count = 0
    max_streams: Count = 0


class LimitSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the process takes on. Shape: 0 is no limit."""

    max_connections: Count = 10000
    max_connections_per_ip: Count = 0
    max_buffered_bytes: Size = 512 * 1024 * 1024
    rate: tuple[RateSettings, ...] = ()
