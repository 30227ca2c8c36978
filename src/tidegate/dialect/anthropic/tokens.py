"""How many tokens a request has: Anthropic's own count, or a judgement for providers that do not count."""

from typing import Any, Final

from msgspec import structs

from tidegate.dialect import Notice
from tidegate.dialect.anthropic import Anthropic, read_unbounded
from tidegate.dialect.values import json_of, object_of
from tidegate.exchange import Ask, Usage

NAME: Final = "anthropic_tokens"

BYTES_PER_TOKEN: Final = 4
"""Of English; other languages have fewer, as UTF-8 writes them in more."""
IMAGE_TOKENS: Final = 1568
"""An image as large as most models take it; smaller ones count less, and the newest models take larger ones. Source: Anthropic, "Vision"."""
PAGE_TOKENS: Final = 2250
"""A document as if of one page, as nobody knows here how many it has: the middle of 1500 to 3000. Source: Anthropic, "PDF support"."""
MAX_DEPTH: Final = 64
"""Of what is nested deeper, nothing is counted."""

_COUNTED: Final = {"image": IMAGE_TOKENS, "document": PAGE_TOKENS}
_READ: Final = ("system", "messages", "tools", "output_config")
"""The members that a model reads."""
_SILENT: Final = frozenset({"cache_control", "signature"})


class CountTokens(Anthropic):
    """The dialect of `/v1/messages/count_tokens`."""

    __slots__ = ()

    name = NAME

    @staticmethod
    def read_request(body: bytes, /) -> Ask:
        """Read a client's request. Errors: Refused (bad_request) with the `param` that is wrong."""
        return structs.replace(read_unbounded(body), dialect=NAME)

    @staticmethod
    def read_response(body: bytes, /) -> Notice:
        """Read what an answer says besides the count. Shape: tokens that are counted are not used."""
        return structs.replace(Anthropic.read_response(body), usage=Usage())

    @staticmethod
    def estimate(ask: Ask, /) -> bytes:
        """Give the answer for a request, judged by the length of what the model would read."""
        members = object_of(ask.body)
        tokens = sum(_tokens(members[name], MAX_DEPTH) for name in _READ if name in members)
        return json_of({"input_tokens": max(1, round(tokens))})


def _tokens(value: Any, depth: int) -> float:
    """Judge a value. Shape: names and numbers count as their texts do; data that is no text, as much as its kind."""
    if isinstance(value, dict):
        source = value.get("source")
        counted = _COUNTED.get(value.get("type", ""))
        if counted is not None and isinstance(source, dict) and source.get("type") != "text":
            return counted
        pairs = [pair for pair in value.items() if pair[0] not in _SILENT]
        return sum(len(name) / BYTES_PER_TOKEN + _tokens(item, depth - 1) for name, item in pairs) if depth else 0
    if isinstance(value, list):
        return sum(_tokens(item, depth - 1) for item in value) if depth else 0
    return len(str(value).encode(errors="surrogatepass")) / BYTES_PER_TOKEN
