"""Signatures on their way through a client that speaks another dialect than the provider that made them.

A client hands back what it was given. So the maker's dialect travels in the signature, and the next turn gives it to such a
provider again, and to no other: to all others it is noise, and some refuse the request for it.
"""

import re
from typing import Any, Final

import msgspec
from msgspec import Struct

from tidegate.dialect.conversation import OWN
from tidegate.dialect.values import json_of

_MARK: Final = "tidegate:"


_SIGNED: Final = ("signature", "data", "encrypted_content", "thought_signature")
_foreign = re.compile(rb'"tidegate:|"signature"\s*+:\s*+""').search


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


def own(body: bytes) -> bytes:
    """Give a request in the provider's own dialect without thoughts that others have signed, or nobody.

    Shape: the client's own bytes where there are none. A turn that was nothing else is left out.
    """
    if _foreign(body) is None:
        return body
    try:
        value: dict[str, Any] = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body  # half a surrogate pair, or too deep: for the provider to judge
    for name in ("messages", "input"):
        turns = value.get(name)
        if isinstance(turns, list):
            value[name] = [turn for turn in turns if not _is_foreign(turn) and _has_own(turn)]
    return json_of(value)


def _is_foreign(part: object) -> bool:
    if not isinstance(part, dict):
        return False
    if part.get("type") == "thinking" and part.get("signature") == "":
        return True
    return any(isinstance(said := part.get(name), str) and said.startswith(_MARK) for name in _SIGNED)


def _has_own(turn: object) -> bool:
    """Take what is foreign out of a turn; gives whether anything is left."""
    if not isinstance(turn, dict):
        return True
    for name in ("content", "reasoning_details"):
        parts = turn.get(name)
        if isinstance(parts, list) and any(map(_is_foreign, parts)):
            turn[name] = [part for part in parts if not _is_foreign(part)]
    calls = turn.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        extra = call.get("extra_content") if isinstance(call, dict) else None
        if isinstance(extra, dict) and any(map(_is_foreign, extra.values())):
            del call["extra_content"]
    return turn.get("content") != []
