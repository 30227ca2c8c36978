"""What is wrong with a handler."""

from collections.abc import Sequence


class HandlerError(Exception):
    """A handler that cannot be loaded or served. Shape: the text says what to do; the user's own error is the cause."""


def refused(reference: str, mistakes: Sequence[str]) -> HandlerError:
    """Give the error that lists every mistake, one a line."""
    return HandlerError("\n".join((f"{reference} cannot be served:", *(f"  - {mistake}" for mistake in mistakes))))
