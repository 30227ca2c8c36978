"""Whom threads, and jobs that are given to pools of threads, belong to: the prediction that started them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any, Final

from tidegate.predict.scope import current_scope, use
from tidegate.worker.child.prints import Prints

_POOLED: Final = ("apply_async", "_map_async", "imap", "imap_unordered")
"""What takes the jobs of a ThreadPool; its other methods call these."""


class Belonging:
    """What is said in a thread is said for the prediction that started it, and what is in a job for the one that gave it.

    Shape: a thread that the worker's setup started belongs to the worker. Of what contexts hold only this is handed on.
    """

    def __init__(self, prints: Prints) -> None:
        self._prints = prints

    def install(self) -> None:
        """Have all threads and pools of this process do so."""
        submit = ThreadPoolExecutor.submit

        def submit_bound(pool: Any, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return submit(pool, self.bound(call), *args, **kwargs)

        ThreadPoolExecutor.submit = submit_bound  # type: ignore[method-assign]
        for name in _POOLED:
            self._wrap(name)
        begin = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            run = self.bound(thread.run)

            def once() -> None:
                vars(thread).pop("run", None)  # it refers to the thread
                run()

            vars(thread)["run"] = once
            begin(thread)

        threading.Thread.start = start  # type: ignore[assignment,method-assign]

    def bound(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Give a function that runs, wherever it is called, for the prediction of this context."""
        printing, scope = self._prints.printing(), current_scope()

        def belonging(*args: Any, **kwargs: Any) -> Any:
            with use(scope), printing.entered():
                return call(*args, **kwargs)

        return belonging

    def _wrap(self, name: str) -> None:
        give = getattr(ThreadPool, name)

        def give_bound(pool: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return give(pool, self.bound(func), *args, **kwargs)

        setattr(ThreadPool, name, give_bound)
