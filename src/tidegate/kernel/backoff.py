"""How long to wait: `Retry-After` as it is written and read. Pure: chance and the time of day are handed in."""

import math
from datetime import UTC
from email.utils import parsedate_to_datetime

JITTER = 0.25
"""Part of a wait that chance adds, so that those who are told to wait do not come back together."""


def retry_after(seconds: float, chance: float) -> tuple[bytes, bytes]:
    """Give the header that asks for a wait. Shape: whole seconds, rounded up, at least 1; `chance` is below 1."""
    return b"retry-after", b"%d" % (max(1, math.ceil(seconds)) + int(chance * (1 + JITTER * seconds)))


def read_retry_after(value: bytes, now: float) -> float | None:
    """Give the seconds that a header asks for; None where it says nothing readable. Shape: `now` is the Unix time.

    Source: RFC 9110 section 10.2.3.
    """
    text = value.strip().decode("latin-1")
    if text.isdecimal() and text.isascii():
        return float(text[:10])
    try:
        moment = parsedate_to_datetime(text)
        # The oldest of the three formats names no zone: all of them mean UTC, wherever this runs.
        return max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now)
    except (ValueError, OverflowError):
        return None
