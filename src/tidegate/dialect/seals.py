"""Signatures on their way through a client that speaks another dialect than the provider that made them.

A client hands back what it was given. So the maker's dialect travels in the signature, and the next turn gives it to such a
provider again, and to no other: to all others it is noise, and some refuse the request for it.
"""

from typing import Final

from tidegate.dialect.conversation import OWN

_MARK: Final = "tidegate:"


def marked(signature: str, origin: str, own: str) -> str:
    """Give a signature as a client of the dialect `own` gets it. Shape: its own dialect's go unmarked."""
    return signature if not signature or origin in {OWN, own} else f"{_MARK}{origin}:{signature}"


def unmarked(signature: str) -> tuple[str, str]:
    """Give a signature that a client handed back, and its maker's dialect; OWN for what is not marked."""
    if not signature.startswith(_MARK):
        return signature, OWN
    origin, _, made = signature.removeprefix(_MARK).partition(":")
    return made, origin
