"""What a handler may ask and say while a prediction runs: its id, its context, whether it is cancelled, its metrics."""

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import RLock
from typing import Any, Final, Literal

from tidegate.predict import metrics as rules
from tidegate.predict.metrics import Mode

Spoken = Literal["replace", "increment", "incr", "append"]
Emit = Callable[[str, Any, Mode], None]

_MODES: Final[Mapping[str, Mode]] = {
    "replace": "replace",
    "increment": "increment",
    "incr": "increment",
    "append": "append",
}


class CancellationException(BaseException):
    """Raised in a synchronous handler when its prediction is cancelled; no `except Exception` catches it."""


class Scope:
    """One prediction, as its handler sees it.

    Shape: `emit` is called with each change of a metric, in order, None with `replace` for a deletion; a scope without it
    does nothing and refuses nothing. Threads may share a scope.
    """

    def __init__(
        self,
        *,
        id: str = "",  # noqa: A002  (the word handlers read)
        context: Mapping[str, str] | None = None,
        emit: Emit | None = None,
    ) -> None:
        self.id = id
        self.context = dict(context or {})
        self._metrics = Metrics(emit)
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether the prediction is to stop: a handler that looks may end in its own way."""
        return self._cancelled

    @property
    def directory(self) -> Path:
        """A directory of this prediction alone. Holds: until the prediction ends, then it is removed with all in it.

        Errors: RuntimeError outside of a prediction.
        """
        raise RuntimeError(
            "there is no directory outside of a prediction: use current_scope().directory while one runs"
        )

    def cancel(self) -> None:
        """Say that the prediction is to stop."""
        self._cancelled = True

    def close(self) -> None:
        """Take no more records: the prediction is over. Shape: waits for no thread that is in the middle of one."""
        self._metrics.close()

    @property
    def metrics(self) -> "Metrics":
        """The metrics recorded so far: a mapping that may be read, set and deleted from."""
        return self._metrics

    def record_metric(self, name: str, value: Any, mode: Spoken = "replace") -> None:
        """Record a metric. Shape: dots in a name nest; None deletes; `increment` adds, `append` makes a list.

        Errors: ValueError for a name, TypeError for a value, mode or a change of type.
        """
        self._metrics.record(name, value, mode)


class Metrics(MutableMapping[str, Any]):
    """The metrics of one prediction. Shape: top-level names when listed; dotted names reach inside."""

    def __init__(self, emit: Emit | None = None) -> None:
        self._emit = emit
        self._there: dict[str, Any] = {}
        self._lock = RLock()

    def close(self) -> None:
        """Take no more records, and refuse none."""
        self._emit = None

    def record(self, name: str, value: Any, mode: Spoken = "replace") -> None:
        """Check a record, apply it, and tell. Errors: ValueError, TypeError."""
        if self._emit is None:
            return
        known = _MODES.get(mode)
        if known is None:
            raise TypeError(f"a metric's mode is 'replace', 'increment' or 'append', not {mode!r}")
        if value is None:
            known = "replace"
        with self._lock:
            emit = self._emit
            if emit is None:
                return
            value = rules.accepted(self._there, name, value, known)
            rules.apply(self._there, name, value, known)
            emit(name, value, known)

    def __getitem__(self, name: str) -> Any:
        with self._lock:
            value = rules.find(self._there, name)
            if value is None:
                raise KeyError(name)
            return copy.deepcopy(value)

    def __setitem__(self, name: str, value: Any) -> None:
        self.record(name, value)

    def __delitem__(self, name: str) -> None:
        if self._emit is None:
            return
        with self._lock:
            if rules.find(self._there, name) is None:
                raise KeyError(name)
            self.record(name, None)

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._there))

    def __len__(self) -> int:
        return len(self._there)


_current: Final[ContextVar[Scope]] = ContextVar("tidegate_prediction")


def current_scope() -> Scope:
    """Give the scope of the prediction that runs here; outside of one, a scope that does nothing."""
    return _current.get(None) or Scope()


def enter(scope: Scope) -> None:
    """Make a scope the current one of this context, for good."""
    _current.set(scope)


@contextmanager
def use(scope: Scope) -> Iterator[Scope]:
    """Make a scope the current one of this context, until the end of the block; a thread needs a copy of the context."""
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)
