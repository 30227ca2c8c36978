"""The units that settings are written in: what a number means is part of its type."""

from typing import Annotated, Final, NewType

from msgspec import Meta

DURATION: Final = "duration"
SIZE: Final = "size"
COUNT: Final = "count"
NUMBER: Final = "number"

Duration = Annotated[float, Meta(ge=0, title=DURATION)]
"""Seconds; written `250ms`, `30s`, `5m`, `1h` in the file. 0 is off."""
Size = Annotated[int, Meta(ge=0, title=SIZE)]
"""Bytes; written `64KiB`, `20MiB` in the file."""
Count = Annotated[int, Meta(ge=0, title=COUNT)]
"""A number of things. 0 is no limit where the field says so."""
Number = Annotated[float, Meta(ge=0, title=NUMBER)]
"""A plain number, with or without a fraction."""
Secret = NewType("Secret", str)
"""A text that is never shown: not by `check`, logs, errors or metrics."""
