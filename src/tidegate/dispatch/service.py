"""The shape of everything that opens a stream: an async context whose exit is the end of the stream."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from tidegate.exchange import Admitted, Attempt, Stream

Ask_contra = TypeVar("Ask_contra", contravariant=True)


class Service(Protocol[Ask_contra]):
    """Opens streams. Holds: what a layer takes on entry, until the stream's end. Errors: AttemptFailed, on entry only."""

    def open(self, ask: Ask_contra, /) -> AbstractAsyncContextManager[Stream]:
        """Give the context of one stream."""
        ...


Layer = Callable[[Service[Attempt]], Service[Attempt]]
"""Wraps one attempt at one target."""
Turn = Callable[[Service[Attempt]], Service[Admitted]]
"""Makes an exchange out of attempts."""
