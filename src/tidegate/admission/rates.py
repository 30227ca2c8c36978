"""Rate limits: what a request charges, how a refusal reads, and what is given back when the exchange is over.

The head decides what it can before the body is read, and uses nothing; then everything is used at once, or nothing.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tidegate.admission.address import group
from tidegate.admission.settings import RateSettings
from tidegate.admission.store import Charge, Level, Limit, RateStore, Scope, Unit
from tidegate.exchange import Arrival, Ask, Identity, Model, Outcome
from tidegate.kernel.backoff import retry_after
from tidegate.verdict import RATE_LIMITED, Refused

BYTES_PER_TOKEN: Final = 4
IMAGE_TOKENS: Final = 1000
"""What an image is taken for; nobody knows its size before the provider does."""
OUTPUT_TOKENS: Final = 1024
"""What an answer is taken for whose length the client left open."""

Headers = tuple[tuple[bytes, bytes], ...]

MAX_MEDIA_BYTES: Final = 256
"""Where the data of an image must have begun."""
_IMAGE: Final = b'"data:image'
_BASE64: Final = b";base64,"
_images = re.compile(rb'"type"\s*:\s*"(?:image|image_url|input_image)"').findall
_WHO: Final[dict[Scope, str]] = {
    "key": "this key",
    "ip": "this address",
    "model": "this model",
    "tenant": "this tenant",
}

_SHOWN: Final[tuple[tuple[Unit, bytes, bytes, bytes, bytes, bytes], ...]] = (
    (
        "requests",
        b'"default";q=%d;w=60',
        b'"default";r=%b;t=%d',
        b"x-ratelimit-limit-requests",
        b"x-ratelimit-remaining-requests",
        b"x-ratelimit-reset-requests",
    ),
    (
        "tokens",
        b'"tokens";q=%d;w=60;qu="tokens"',
        b'"tokens";r=%b;t=%d',
        b"x-ratelimit-limit-tokens",
        b"x-ratelimit-remaining-tokens",
        b"x-ratelimit-reset-tokens",
    ),
)


class Rates:
    """The rules of `limits.rate`. Shape: `on_refused` hears the scope of the rule that refused."""

    def __init__(
        self,
        rules: Iterable[RateSettings],
        store: RateStore,
        chance: Callable[[], float],
        on_refused: Callable[[Scope], None],
    ) -> None:
        self._limits = tuple(limit for rule in rules for limit in _limits(rule))
        # The model's name is in the body.
        self._early = tuple(limit for limit in self._limits if limit.by != "model")
        self._counts_tokens = any(limit.unit == "tokens" for limit in self._limits)
        self._store = store
        self._chance = chance
        self._on_refused = on_refused

    async def look(self, arrival: Arrival, identity: Identity) -> None:
        """Refuse what the head alone shows to be too much; nothing is used. Errors: Refused (rate_limited)."""
        subjects = _subjects(arrival, identity, "")
        charges = [Charge(limit, subjects[limit.by], 1) for limit in self._early]
        levels = await self._store.look(charges)
        for level in levels:
            if level.wait_s:
                raise self._refusal(levels)

    async def take(self, arrival: Arrival, identity: Identity, model: Model, ask: Ask) -> "Reservation":
        """Use all that a request needs, or nothing. Errors: Refused (rate_limited)."""
        subjects = _subjects(arrival, identity, model.name)
        asked = input_tokens(ask.body, ask.aside) if self._counts_tokens else 0
        tokens = asked + (ask.max_tokens or OUTPUT_TOKENS) * max(1, ask.choices)
        charges = [
            Charge(limit, subjects[limit.by], min(tokens, limit.capacity) if limit.unit == "tokens" else 1)
            for limit in self._limits
        ]
        levels = await self._store.spend(charges)
        for level in levels:
            if level.wait_s:
                raise self._refusal(levels)
        return Reservation(self._store, charges, asked, shown(levels))

    def _refusal(self, levels: Sequence[Level]) -> Refused:
        worst = max(levels, key=lambda level: level.wait_s)
        limit = worst.limit
        self._on_refused(limit.by)
        measure = "streams at a time" if limit.unit == "streams" else f"{limit.unit} a minute"
        return Refused(
            RATE_LIMITED,
            f"the limit of {limit.quantity} {measure} for {_WHO[limit.by]} is used up (limits.rate)",
            headers=(retry_after(worst.wait_s, self._chance()), *shown(levels)),
        )


class Reservation:
    """What one exchange has used so far. Holds: the charges, until `settle` makes them what they should have been."""

    __slots__ = ("_charges", "_input_tokens", "_store", "headers")

    def __init__(self, store: RateStore, charges: Sequence[Charge], input_tokens: int, headers: Headers) -> None:
        self._store = store
        self._charges = charges
        self._input_tokens = input_tokens
        self.headers = headers

    async def settle(self, outcome: Outcome, *, cancelled: bool) -> None:
        """Give back what the exchange did not come to, and add what it came to beyond the reservation."""
        counts, tokens = self._spent(outcome, cancelled=cancelled)
        due = {"requests": 1 if counts else 0, "tokens": tokens, "streams": 0}
        settled = [
            Charge(charge.limit, charge.subject, due[charge.limit.unit] - charge.amount)
            for charge in self._charges
            if due[charge.limit.unit] != charge.amount
        ]
        if settled:
            await self._store.settle(settled)

    def _spent(self, outcome: Outcome, *, cancelled: bool) -> tuple[bool, int]:
        """Give whether the request counts, and its tokens.

        Shape: a stream that never opened is not charged, but for what was sent to a provider when its client left.
        """
        if any(attempt.content_at for attempt in outcome.attempts):
            usage, flowing = outcome.usage, outcome.flowing
            if usage is not None:
                return True, usage.input_tokens + usage.output_tokens
            return True, self._input_tokens + max(flowing.frames, flowing.content_bytes // BYTES_PER_TOKEN)
        if cancelled and any(attempt.sent_at for attempt in outcome.attempts):
            return True, self._input_tokens
        return False, 0


def input_tokens(body: bytes, aside: int = 0) -> int:
    """Judge a request's input by its bytes: text by its length, images by their number, not by their data.

    Shape: `aside` bytes are known to be no text; then nothing else is looked for.
    """
    if aside or b"image" not in body:
        return max(0, len(body) - aside) // BYTES_PER_TOKEN
    text = _without_data(body)
    return len(text) // BYTES_PER_TOKEN + len(_images(text)) * IMAGE_TOKENS


def _without_data(body: bytes) -> bytes:
    """Leave out the base64 of images. Shape: searches only, as nothing else is quick enough for megabytes."""
    pieces, start = [], 0
    at = body.find(_IMAGE)
    while at >= 0:
        end = body.find(b'"', at + 1)
        end = len(body) if end < 0 else end
        data = body.find(_BASE64, at, min(end, at + MAX_MEDIA_BYTES))
        if data >= 0 and body[at - 1 : at] != b"\\":  # not a text that speaks of one
            pieces.append(body[start : data + len(_BASE64)])
            start = end
        at = body.find(_IMAGE, end)
    pieces.append(body[start:])
    return b"".join(pieces)


def _limits(rule: RateSettings) -> Iterable[Limit]:
    """Give the limits of a rule, the only one of its kind. Shape: cheapest first."""
    by = rule.by
    if rule.max_streams:
        yield Limit.at_a_time(f"{by}:streams", by, rule.max_streams)
    if rule.requests_per_minute:
        yield Limit.per_minute(f"{by}:requests", by, "requests", rule.requests_per_minute, rule.burst)
    if rule.tokens_per_minute:
        yield Limit.per_minute(f"{by}:tokens", by, "tokens", rule.tokens_per_minute)


def _subjects(arrival: Arrival, identity: Identity, model: str) -> dict[Scope, str]:
    """Give whose bucket it is, for each scope. Shape: those without a key, or without a tenant, have one together."""
    return {"key": identity.key_id, "ip": group(arrival.peer), "model": model, "tenant": identity.tenant}


# --- headers -------------------------------------------------------------------------------------------------------


def shown(levels: Sequence[Level]) -> Headers:
    """Give the headers that show how the tightest limits of requests and of tokens stand.

    Source: draft-ietf-httpapi-ratelimit-headers-11; the `x-` ones as OpenAI's API sends them.
    """
    policies: list[bytes] = []
    states: list[bytes] = []
    headers: list[tuple[bytes, bytes]] = []
    for unit, policy, state, limits, lefts, resets in _SHOWN:
        level = _tightest(levels, unit)
        if level is None:
            continue
        quantity, left, reset_s = level.limit.quantity, b"%d" % level.remaining, level.reset_s
        policies.append(policy % quantity)
        states.append(state % (left, math.ceil(reset_s)))
        headers += ((limits, b"%d" % quantity), (lefts, left), (resets, duration(reset_s)))
    if not policies:
        return ()
    return ((b"ratelimit-policy", b", ".join(policies)), (b"ratelimit", b", ".join(states)), *headers)


def _tightest(levels: Sequence[Level], unit: Unit) -> Level | None:
    """Give the level with the least share left; one that refuses comes before all that do not."""
    found = [level for level in levels if level.limit.unit == unit]
    if len(found) < 2:
        return found[0] if found else None
    return min(found, key=lambda level: (not level.wait_s, level.remaining / level.limit.capacity))


def duration(seconds: float) -> bytes:
    """Give a duration as OpenAI writes one: `20ms`, `1.5s`, `6m0s`. Shape: rounded up to a millisecond."""
    millis = math.ceil(seconds * 1000 - 1e-3)
    if millis < 1000:
        return b"%dms" % millis
    minutes, millis = divmod(millis, 60_000)
    rest = (b"%.3f" % (millis / 1000)).rstrip(b"0").rstrip(b".") + b"s"
    if not minutes:
        return rest
    hours, minutes = divmod(minutes, 60)
    return (b"%dh%dm" % (hours, minutes) if hours else b"%dm" % minutes) + rest
