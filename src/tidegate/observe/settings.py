"""What the file may say about the log."""

from typing import Literal

from msgspec import Struct


class ObserveSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log's form: `auto` is text on a terminal and JSON elsewhere."""

    log: Literal["auto", "json", "text"] = "auto"
