"""The only file that starts a task. Every task has an owner that can cancel it and wait for it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

LARGE_BYTES: Final = 256 * 1024
"""Work on more than this is done in a thread: others would wait a millisecond and more for it."""

T = TypeVar("T")


class Tasks:
    """The tasks of one owner. Holds: a strong reference to each until it ends; bounded by whoever starts them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Start a task that this owner holds until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task as `start` does, and give it to who will wait for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def close(self) -> None:
        """Cancel what runs and wait until it is over."""
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running)


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Do things at the same time; gives their results in order. Holds: a task for each, until all are over."""
    return await asyncio.gather(*work)


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """Do work on so many bytes: at once, or in a thread where they are many. Shape: a cancellation does not end the thread's work."""
    return work() if size <= LARGE_BYTES else await asyncio.to_thread(work)
