"""The predictions that can be asked for: those that run, and for a while those that are over."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable

from msgspec import Struct

from tidegate.predictions.prediction import Key, Prediction
from tidegate.predictions.settings import PredictionSettings


class _Kept(Struct, frozen=True):
    """A prediction that is over. Shape: `expires_at` is an instant of the clock, `held` the bytes it takes."""

    prediction: Prediction
    expires_at: float
    held: int


class Registry:
    """Finds predictions by tenant, model and id. Shape: each has a key of its own; nothing here waits.

    Holds: each prediction while it runs; then for `retain_s`, the newest `max_retained` and `max_retained_bytes` of them at
    most. Who still follows one that goes keeps its history until they have it all. One timer, until the last has expired.
    """

    def __init__(self, settings: PredictionSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._running: dict[Key, Prediction] = {}
        # In the order in which they ended. No plain dict: to find its first, it passes all that were before.
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many can be found."""
        return len(self._running) + len(self._kept)

    @property
    def running(self) -> int:
        """How many are not over."""
        return len(self._running)

    @property
    def kept_bytes(self) -> int:
        """The bytes of those that are over."""
        return self._kept_bytes

    def live(self) -> Iterable[Prediction]:
        """Give those that are not over."""
        return tuple(self._running.values())

    def find(self, key: Key) -> Prediction | None:
        """Give the prediction that has this key."""
        running = self._running.get(key)
        if running is not None:
            return running
        kept = self._kept.get(key)
        return None if kept is None or kept.expires_at <= self._clock() else kept.prediction

    def create(self, key: Key, make: Callable[[], Prediction]) -> Prediction:
        """Give a new prediction that has this key. Errors: ValueError when another can be found by it."""
        if self.find(key) is not None:
            raise ValueError("the key is in use")
        if key in self._kept:  # it has expired, and its timer has not come yet
            self._drop(key)
        made = self._running[key] = make()
        made.on_over = self._over
        return made

    def forget(self, prediction: Prediction) -> None:
        """Find it no more. Shape: one that came after it under its key stays."""
        key = prediction.key
        if self._running.get(key) is prediction:
            del self._running[key]
            prediction.on_over = None
        kept = self._kept.get(key)
        if kept is not None and kept.prediction is prediction:
            self._drop(key)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self, prediction: Prediction) -> None:
        """Keep one that is over, and let go of others for it; one that never was is not kept."""
        del self._running[prediction.key]
        if prediction.refused_early:
            return
        kept = _Kept(prediction, self._clock() + self._settings.retain_s, prediction.held())
        self._kept[prediction.key] = kept
        self._kept_bytes += kept.held
        self._expire()
        self._watch()

    def _expire(self) -> None:
        """Let go of those that are kept no longer."""
        settings, now = self._settings, self._clock()
        while self._kept:
            key, first = next(iter(self._kept.items()))
            full = len(self._kept) > settings.max_retained or self._kept_bytes > settings.max_retained_bytes
            if not full and first.expires_at > now:
                break
            self._drop(key)

    def _drop(self, key: Key) -> None:
        self._kept_bytes -= self._kept.pop(key).held

    def _watch(self) -> None:
        """Look again when the first of them expires."""
        if self._timer is None and self._kept:
            first = next(iter(self._kept.values()))
            delay_s = max(0.0, first.expires_at - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _look(self) -> None:
        self._timer = None
        self._expire()
        self._watch()
