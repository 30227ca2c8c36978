"""Pays for attempts after the first, so that a provider's bad minute is not multiplied. The instant is handed in."""

from tidegate.dispatch.settings import RetryBudgetSettings


class Budget:
    """A bucket that first attempts and time fill, and extra attempts empty. Shape: begins full, holds `burst` at most."""

    __slots__ = ("_at", "_level", "settings")

    def __init__(self, settings: RetryBudgetSettings, now: float) -> None:
        self.settings = settings
        self._level = settings.burst
        self._at = now

    def available(self, now: float) -> float:
        """Give how many extra attempts can be paid for."""
        settings = self.settings
        return min(settings.burst, self._level + max(0.0, now - self._at) * settings.rate_per_second)

    def credit(self, now: float) -> None:
        """Add what a first attempt brings."""
        self._level = min(self.settings.burst, self.available(now) + self.settings.ratio)
        self._at = max(self._at, now)

    def take(self, now: float) -> bool:
        """Pay for one extra attempt; gives whether there was enough."""
        level = self.available(now)
        if level < 1.0:
            return False
        self._level = level - 1.0
        self._at = max(self._at, now)
        return True
