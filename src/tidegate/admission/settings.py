"""What the file may say about who may ask for what."""

from typing import Literal

from msgspec import Struct


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
    """Where a model's requests go. Shape: an empty `model` is the public name."""

    provider: str
    model: str = ""


class ModelSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A public model name, its other names, and its one target."""

    name: str
    targets: tuple[TargetSettings, ...]
    aliases: tuple[str, ...] = ()
