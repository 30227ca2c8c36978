"""The scope in which whoever an exchange is for can end its opening."""

import asyncio
import random
from types import TracebackType
from typing import Protocol

from tidegate.exchange import Ending
from tidegate.kernel.backoff import retry_after
from tidegate.verdict import Fault


class Guest(Protocol):
    """Whom an exchange is for, and who cancels the task that it is opened in when it leaves."""

    def enter(self, task: asyncio.Task[object] | None) -> None:
        """Begin to be present in a task. Errors: Fault when it has left already."""
        ...

    def leave(self) -> Ending | None:
        """Stop being present; give why the task was cancelled, if it was by this guest."""
        ...


class Presence:
    """Converts a cancellation that the guest's leaving caused into a Fault, and no other."""

    __slots__ = ("_cancelling", "_guest", "_task")

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        if self._task is not None:
            self._cancelling = self._task.cancelling()
        self._guest.enter(self._task)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = self._guest.leave()
        if ending is None or kind is not asyncio.CancelledError or self._task is None:
            return
        if self._task.uncancel() <= self._cancelling:
            raise fault_of(ending) from None


def fault_of(ending: Ending) -> Fault:
    """Give why an opening was ended. A 503 says when to come back."""
    headers = (retry_after(1.0, random.random()),) if ending.verdict.status == 503 else ()  # noqa: S311 (no secret)
    return Fault(ending.verdict, ending.message, headers=headers)
