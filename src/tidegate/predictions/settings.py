"""What the file may say about predictions."""

from typing import Literal

from msgspec import Struct, field

from tidegate.hooks.settings import FileSettings, WebhookSettings
from tidegate.kernel.units import Count, Duration, Size


class HistorySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a stream is kept for who comes late or reads slowly. Shape: `none` keeps nothing for who comes late.

    Holds: the newest `max_events` and `max_bytes`, for each prediction; a subscriber may fall behind as far.
    """

    mode: Literal["keep", "none"] = "keep"
    max_events: Count = 1024
    max_bytes: Size = 16 * 1024 * 1024


class PredictionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How predictions are kept and bounded. Shape: `timeout` 0 is none; `shutdown` opens POST /shutdown, as Cog has it.

    Holds: finished ones for `retain`, `max_retained` and `max_retained_bytes` at most.
    """

    history: HistorySettings = HistorySettings()
    retain_s: Duration = field(default=3600.0, name="retain")
    max_retained: Count = 10_000
    max_retained_bytes: Size = 256 * 1024 * 1024
    max_body_bytes: Size = 100 * 1024 * 1024
    max_subscribers: Count = 1024
    timeout_s: Duration = field(default=0.0, name="timeout")
    shutdown: bool = False
    files: FileSettings = FileSettings()
    webhooks: WebhookSettings = WebhookSettings()
