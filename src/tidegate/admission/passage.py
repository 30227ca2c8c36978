"""Requests that go to a provider as they are: `/p/{provider}/{path}`, where the provider's settings allow it."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from tidegate.exchange import Arrival, Ask, Model, Target, Timeouts
from tidegate.verdict import BAD_REQUEST, NOT_FOUND, Refused

ROUTE: Final = "passthrough"
PREFIX: Final = "/p/"
ANY: Final = "(passthrough)"
"""The name under which a provider's state is kept for what passes through."""

_PATH: Final = re.compile(r"/p/([^/?]+)(/[0-9A-Za-z._~!$&'()*+,;=:@%/-]*)(\?[!-~]*)?")
_streams = re.compile(rb'"stream"\s*+:\s*+true').search
_is_stream = re.compile(r"[:-]stream(?:$|[A-Z])").search
"""Google's and Amazon's way to ask for one: `:streamGenerateContent`, `/converse-stream`."""


class Passages:
    """The providers that any request may be sent to. Shape: each has its timeouts; `models` is what an exchange with each counts as."""

    def __init__(self, providers: Mapping[str, Timeouts]) -> None:
        self._models = {
            name: Model(f"{PREFIX}{name}", (Target(provider=name, model=ANY, timeouts=timeouts),), once=True)
            for name, timeouts in providers.items()
        }

    @property
    def models(self) -> tuple[Model, ...]:
        """One for each provider."""
        return tuple(self._models.values())

    def find(self, arrival: Arrival, body: bytes) -> tuple[Ask, Model]:
        """Give what is asked and of whom. Shape: the arrival's target becomes what the provider is asked for.

        Errors: Refused (bad_request, not_found).
        """
        found = _PATH.fullmatch(arrival.target)
        if found is None or _climbs(found[2]):
            raise Refused(BAD_REQUEST, "the path to the provider is not a plain one")
        model = self._models.get(unquote(found[1]))
        if model is None:
            raise Refused(NOT_FOUND, "no provider of this name lets requests through; `passthrough: true` allows it")
        arrival.target = found[2] + (found[3] or "")
        ask = Ask(
            model=model.name,
            stream=_asks_for_stream(found[2], arrival, body),
            wants_usage=True,
            body=body,
            choices=0,
            dialect=ROUTE,
        )
        return ask, model


def _asks_for_stream(path: str, arrival: Arrival, body: bytes) -> bool:
    """Whether a stream is asked for, in any family's way."""
    accepted = arrival.headers.get(b"accept", b"")
    return b"text/event-stream" in accepted or _is_stream(path) is not None or _streams(body) is not None


def _climbs(path: str) -> bool:
    """Whether a path could lead out of the provider's own, by anybody's reading of it."""
    plain = unquote(path)
    segments = plain.split("/")[1:]
    return (
        "\\" in plain
        or "%2f" in path.lower()
        or any(segment in {".", ".."} for segment in segments)
        or "" in segments[:-1]
        or not plain.isprintable()
        or "%" in plain
    )
