"""The handler's own healthcheck: one at a time, beside the predictions, with a deadline."""

import asyncio
import inspect
from collections.abc import Callable
from threading import Thread
from typing import Any, Final

from tidegate.worker.child.faults import sentence
from tidegate.worker.child.link import Link
from tidegate.worker.messages import Checked

WITHIN_S: Final = 5.0
"""How long an answer is waited for. Shape: the gateway waits for ours a little longer."""


class Checks:
    """Asks and answers. Shape: a check that does not end keeps those after it from beginning: they say so."""

    def __init__(self, ask: Callable[[], Any], link: Link, *, is_async: bool) -> None:
        self._ask = ask
        self._link = link
        self._is_async = is_async
        self._running: asyncio.Future[Any] | None = None
        self._answers: set[asyncio.Task[None]] = set()

    def start(self, number: int) -> None:
        """Ask, and answer later. Shape: on the loop."""
        if self._running is not None and not self._running.done():
            self._link.put(Checked(number, "the healthcheck before this one has not ended"))
            return
        loop = asyncio.get_running_loop()
        self._running = loop.create_task(self._call()) if self._is_async else self._thread(loop)
        answer = loop.create_task(self._answer(number, self._running))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def _answer(self, number: int, running: asyncio.Future[Any]) -> None:
        await asyncio.wait((running,), timeout=WITHIN_S)
        if not running.done():
            if self._is_async:
                running.cancel()
            error = f"healthcheck did not end within {WITHIN_S:g} s"
        else:
            error = running.result()
        self._link.put(Checked(number, error))

    async def _call(self) -> str:
        try:
            said = self._ask()
            return _error(await said if inspect.isawaitable(said) else said)
        except BaseException as error:  # noqa: BLE001  (whatever the user's code raises is an answer)
            return sentence(error)

    def _thread(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = loop.create_future()

        def ask() -> None:
            try:
                said = self._ask()
                if inspect.isawaitable(said):
                    said = asyncio.run_coroutine_threadsafe(_awaited(said), loop).result(WITHIN_S)
                error = _error(said)
            except BaseException as raised:  # noqa: BLE001  (as above)
                error = sentence(raised)
            loop.call_soon_threadsafe(future.set_result, error)

        Thread(target=ask, name="healthcheck", daemon=True).start()
        return future


def _error(said: Any) -> str:
    return "healthcheck returned False" if said is False else ""


async def _awaited(said: Any) -> Any:
    return await said
