"""The decorators of handlers: `@streaming` and `@concurrent(max=N)`. They leave a mark and change nothing else."""

from collections.abc import Callable
from typing import Any, Final, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])

_STREAMING: Final = "__tidegate_streaming__"
_SLOTS: Final = "__tidegate_slots__"


@overload
def streaming(handler: F) -> F: ...
@overload
def streaming() -> Callable[[F], F]: ...
def streaming(handler: Any = None) -> Any:
    """Let clients have the output of a handler as server-sent events. Shape: with and without parentheses."""
    if handler is None:
        return streaming
    setattr(handler, _STREAMING, True)
    return handler


def concurrent(*, max: int) -> Callable[[F], F]:  # noqa: A002  (Cog's word)
    """Let so many calls of a handler run at a time in one process; each synchronous one has a thread of its own."""
    if type(max) is not int or max < 1:
        raise ValueError(f"@concurrent(max=...) is a whole number from 1, not {max!r}")

    def mark(handler: F) -> F:
        setattr(handler, _SLOTS, max)
        return handler

    return mark


def is_streaming(handler: object) -> bool:
    """Whether `@streaming` was used."""
    return getattr(handler, _STREAMING, False) is True


def slots_of(handler: object) -> int:
    """Give N of `@concurrent(max=N)`, else 1."""
    slots = getattr(handler, _SLOTS, 1)
    return slots if isinstance(slots, int) else 1
