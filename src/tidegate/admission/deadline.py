"""How long an exchange may take at most: the operator's limit, or the client's own where that is shorter."""

import re
from typing import Final

from tidegate.verdict import BAD_REQUEST, Refused

HEADER: Final = b"x-request-timeout"

_written: Final = re.compile(rb"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m)?").fullmatch
_UNITS: Final = {None: 1.0, b"ms": 0.001, b"s": 1.0, b"m": 60.0}


def allowed_s(most_s: float, header: bytes | None) -> float:
    """Give the seconds for the whole exchange; 0.0 is no limit. Errors: Refused (bad_request)."""
    if header is None:
        return most_s
    match = _written(header.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match is not None else 0.0
    if not seconds:
        raise Refused(
            BAD_REQUEST,
            "x-request-timeout must be a positive duration, such as 30, 2.5s or 250ms",
            param=HEADER.decode(),
        )
    return min(seconds, most_s) if most_s else seconds
