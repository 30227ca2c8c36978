"""Betas: Anthropic is told in a header which are wanted, Bedrock in the body."""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw

from tidegate.dialect.conversation import Written
from tidegate.dialect.values import json_of

HEADER: Final = b"anthropic-beta"
MEMBER: Final = "anthropic_beta"

# Bedrock refuses a request for a beta that it does not know, and clients name many: some only say who they are.
_KNOWN: Final = frozenset(
    {
        "compact-2026-01-12",
        "computer-use-2024-10-22",
        "computer-use-2025-01-24",
        "computer-use-2025-11-24",
        "context-1m-2025-08-07",
        "context-management-2025-06-27",
        "dev-full-thinking-2025-05-14",
        "fine-grained-tool-streaming-2025-05-14",
        "interleaved-thinking-2025-05-14",
        "output-128k-2025-02-19",
        "token-efficient-tools-2025-02-19",
        "tool-examples-2025-10-29",
        "tool-search-tool-2025-10-19",
    }
)
"""Source: AWS, "Anthropic Claude Messages API", "Beta headers"."""
_OF_ONE_MODEL: Final = {"effort-2025-11-24": "opus-4-5"}
"""What is a beta for one model: those before do not know it, and later ones refuse it, as they know it without."""

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_betas = msgspec.json.Decoder(list[str] | None).decode


def with_betas(body: bytes, model: str, headers: Mapping[bytes, bytes]) -> Written:
    """Give a request with the betas that its header names. Shape: what the body itself names stays, and comes first.

    A beta that Bedrock does not know is left out, and the header is then among what is dropped.
    """
    wanted = [beta for name in headers.get(HEADER, b"").decode("latin-1").split(",") if (beta := name.strip())]
    known = [beta for beta in wanted if _knows(model, beta)]
    dropped = (HEADER.decode(),) if len(known) < len(wanted) else ()
    if not known:
        return Written(body, dropped)
    members = _decode_members(body)
    try:
        named = _decode_betas(members.get(MEMBER, b"null")) or []
    except msgspec.DecodeError:
        return Written(body, dropped)  # it is for the provider to say what is wrong with it
    return Written(json_of(members | {MEMBER: list(dict.fromkeys((*named, *known)))}), dropped)


def _knows(model: str, beta: str) -> bool:
    return beta in _KNOWN or (beta in _OF_ONE_MODEL and _OF_ONE_MODEL[beta] in model)
