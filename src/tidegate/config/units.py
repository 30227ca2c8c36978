"""Numbers with units as people write them: `250ms`, `20MiB`, and back."""

import re
from decimal import Decimal
from typing import Final

from tidegate.kernel.units import COUNT, DURATION, NUMBER, SIZE

_NUMBER: Final = r"(\d{1,15}(?:\.\d{1,30})?)"
_WRITTEN: Final = re.compile(_NUMBER + r"\s*([A-Za-z]*)", re.ASCII)
_COUNT: Final = re.compile(r"0|[1-9]\d{0,14}", re.ASCII)
_PLAIN: Final = re.compile(r"(?:0|[1-9]\d{0,14})(?:\.\d{1,15})?", re.ASCII)

_SECONDS: Final = {"h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_BYTES: Final = {
    "GiB": Decimal(1024**3),
    "MiB": Decimal(1024**2),
    "KiB": Decimal(1024),
    "B": Decimal(1),
    "GB": Decimal(1000**3),
    "MB": Decimal(1000**2),
    "KB": Decimal(1000),
}
EXPECTED: Final = {
    DURATION: "a duration such as 250ms, 30s, 5m or 1h",
    SIZE: "a size such as 512B, 64KiB, 20MiB or 1GiB",
    COUNT: "a whole number that is not negative",
    NUMBER: "a number such as 0.2 or 5 that is not negative",
}
_LARGE_S: Final = 100
_LONGEST_S: Final = 365 * 24 * 3600
_LARGEST_BYTES: Final = 1024**4

_DURATION_TAKEN_FOR: Final = {
    "millis": "ms", "msec": "ms", "sec": "s", "secs": "s", "second": "s", "seconds": "s",
    "min": "m", "mins": "m", "minute": "m", "minutes": "m", "hr": "h", "hour": "h", "hours": "h",
    **{unit.lower(): unit for unit in _SECONDS},
}  # fmt: skip
_SIZE_TAKEN_FOR: Final = {"k": "KiB", "m": "MiB", "g": "GiB", "bytes": "B", **{unit.lower(): unit for unit in _BYTES}}


class UnitError(ValueError):
    """A text that is no such number. Shape: `hint` repeats the number, so it is not for values that stay hidden."""

    def __init__(self, expected: str, hint: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.hint = hint


def duration_s(text: str) -> float:
    """Give the seconds that a text such as `250ms` means. Errors: UnitError."""
    exact = _measure(text, _SECONDS, _DURATION_TAKEN_FOR, "s", EXPECTED[DURATION])
    if exact > _LONGEST_S:
        raise UnitError("a duration of at most 8760h")
    return float(exact)


def size_bytes(text: str) -> int:
    """Give the bytes that a text such as `64KiB` means. Errors: UnitError."""
    exact = _measure(text, _BYTES, _SIZE_TAKEN_FOR, "B", EXPECTED[SIZE])
    if exact > _LARGEST_BYTES:
        raise UnitError("a size of at most 1024GiB")
    if exact != int(exact):
        raise UnitError("a size of whole bytes")
    return int(exact)


def count(text: str) -> int:
    """Give the number of things that a text of digits means. Errors: UnitError."""
    if _COUNT.fullmatch(text) is None:
        raise UnitError(EXPECTED[COUNT])
    return int(text)


def number(text: str) -> float:
    """Give the number that a text such as `0.2` means: digits, and a point where there is a fraction. Errors: UnitError."""
    if _PLAIN.fullmatch(text) is None:
        meant = f"0{text}" if text.startswith(".") else text.replace(",", ".")
        hint = f"did you mean {meant!r}?" if meant != text and _PLAIN.fullmatch(meant) else ""
        raise UnitError(EXPECTED[NUMBER], hint)
    return float(text)


def _measure(text: str, units: dict[str, Decimal], taken_for: dict[str, str], bare: str, expected: str) -> Decimal:
    """Give the number that a text means in the smallest of `units`; `bare` is proposed to whoever left the unit out."""
    if text == "0":
        return Decimal(0)
    if text.startswith("-"):
        raise UnitError(f"{expected}, not negative")
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise UnitError(expected)
    number, unit = found.groups()
    if not unit:
        # Who leaves the unit out of a large time may well count milliseconds.
        other = f" or '{number}ms'" if bare == "s" and Decimal(number) >= _LARGE_S else ""
        raise UnitError(expected, f"add a unit, for example '{number}{bare}'{other}")
    if unit not in units or " " in text:
        meant = taken_for.get(unit.lower())
        raise UnitError(expected, f"did you mean '{number}{meant}'?" if meant else "")
    return Decimal(number) * units[unit]


def written_duration(seconds: float) -> str:
    """Give seconds as they are written in the file; reading it gives the same seconds."""
    exact = Decimal(repr(seconds))
    if not exact:
        return "0"
    for unit, factor in _SECONDS.items():
        if exact % factor == 0:
            return f"{int(exact / factor)}{unit}"
    return f"{exact:f}s" if exact > 1 else f"{exact.scaleb(3):f}ms"


def written_size(size: int) -> str:
    """Give bytes as they are written in the file; reading it gives the same bytes."""
    if not size:
        return "0"
    fits = next(unit for unit in ("GiB", "MiB", "KiB", "B") if size % _BYTES[unit] == 0)
    return f"{size // int(_BYTES[fits])}{fits}"


def written_number(value: float) -> str:
    """Give a number as it is written in the file; reading it gives the same number."""
    return f"{Decimal(repr(value)):f}".removesuffix(".0")
