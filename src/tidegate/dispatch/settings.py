"""What the file may say about attempts: retries and what pays for them, slots, breakers."""

from msgspec import Struct, field

from tidegate.kernel.units import Count, Duration, Number


class RetrySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a target is tried before the first content. Holds: attempts in all, the first included."""

    max_attempts: Count = 2
    initial_delay_s: Duration = field(default=0.25, name="initial_delay")
    max_delay_s: Duration = field(default=2.0, name="max_delay")
    max_retry_after_s: Duration = field(default=10.0, name="max_retry_after")


class RetryBudgetSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What extra attempts are paid from: a bucket of `burst`, filled by time and by first attempts."""

    rate_per_second: Number = 5.0
    burst: Number = 10.0
    ratio: Number = 0.2


class SlotSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many streams a provider has open at a time, and who waits for one. Shape: `max_streams` 0 is no limit."""

    max_streams: Count = 0
    max_queue: Count = 1000
    max_queue_wait_s: Duration = field(default=10.0, name="max_queue_wait")


class BreakerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a target is left alone. Shape: `failures` in a row, or `ratio` of at least `min_calls` in `window`; 0 is off."""

    failures: Count = 5
    ratio: Number = 0.5
    min_calls: Count = 20
    window_s: Duration = field(default=60.0, name="window")
    open_for_s: Duration = field(default=30.0, name="open_for")
    probes: Count = 1
    successes: Count = 2
