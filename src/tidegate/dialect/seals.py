"""Signatures on their way through a client that speaks another dialect than the provider that made them.

A client hands back what it was given. So the maker's dialect travels in the signature, and the next turn gives it to such a
provider again, and to no other: to all others it is noise, and some refuse the request for it.
"""

from typing import Final

import msgspec
from msgspec import Struct

from tidegate.dialect.conversation import OWN
from tidegate.dialect.values import json_of

_MARK: Final = "tidegate:"


class Seal(Struct, frozen=True, omit_defaults=True):
    """What a provider wants back: a whole thought, and its id; or, where a `call` is named, the signature of this call."""

    sealed: str = ""
    id: str = ""
    call: str = ""
    signature: str = ""


_decode_seal = msgspec.json.Decoder(Seal).decode


def marked(signature: str, origin: str, own: str) -> str:
    """Give a signature as a client of the dialect `own` gets it. Shape: its own dialect's go unmarked."""
    return signature if not signature or origin in {OWN, own} else f"{_MARK}{origin}:{signature}"


def unmarked(signature: str) -> tuple[str, str]:
    """Give a signature that a client handed back, and its maker's dialect; OWN for what is not marked."""
    if not signature.startswith(_MARK):
        return signature, OWN
    origin, _, made = signature.removeprefix(_MARK).partition(":")
    return made, origin


def closed(seal: Seal, origin: str, own: str) -> str:
    """Give a seal as a client of the dialect `own` gets it. Shape: a thought of its own dialect's provider goes as it came."""
    if origin in {OWN, own} and not seal.call:
        return seal.sealed
    return f"{_MARK}{origin or own}:{json_of(seal).decode()}"


def opened(data: str, own: str) -> tuple[Seal, str]:
    """Give a seal that a client handed back, and its maker's dialect. Shape: an empty one where somebody has changed it."""
    made, origin = unmarked(data)
    if origin == OWN:
        return Seal(sealed=made), own
    try:
        return _decode_seal(made), origin
    except msgspec.DecodeError:
        return Seal(), origin
