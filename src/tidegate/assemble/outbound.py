"""What a process asks of addresses that clients name. Its HTTP client is loaded where there are models of our own.

It takes 7 MB, which nobody should pay who serves without, and a quarter of a second, for which no stream should stand still.
"""

import asyncio
import importlib
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

import structlog

from tidegate import __version__
from tidegate.hooks.settings import FileSettings, WebhookSettings
from tidegate.kernel.allowance import Allowance
from tidegate.tasks import Tasks

AGENT: Final = f"tidegate/{__version__}"
CLOSE_S: Final = 5.0
_CLIENTS: Final = ("tidegate.hooks.fetching", "tidegate.hooks.webhooks", "tidegate.predictions.front")


def load_clients() -> None:
    """Import what predictions need beyond what every gateway has. Shape: blocks; for a thread."""
    for name in _CLIENTS:
        importlib.import_module(name)


class Outbound:
    """Fetches files and sends webhooks. Holds: a session for each, from its first use until `close`.

    Shape: `count` hears of each webhook what became of it.
    """

    def __init__(
        self,
        files: FileSettings,
        webhooks: WebhookSettings,
        *,
        tasks: Tasks,
        clock: Callable[[], float],
        chance: Random,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._file_settings = files
        self._hook_settings = webhooks
        self._tasks = tasks
        self._clock = clock
        self._chance = chance
        self._count = count
        self._files: Any = None
        self._webhooks: Any = None

    def allowance(self) -> Allowance:
        """Give what the files of one prediction may take."""
        most_s = self._file_settings.timeout_s or None
        return Allowance(self._file_settings.max_bytes, most_s, line_s=most_s)

    async def fetch(self, url: str, directory: Path, allowance: Allowance, /) -> tuple[Path | None, str]:
        """Give the path of a fetched file, or why there is none."""
        if self._files is None:
            from tidegate.hooks.fetching import Files  # noqa: PLC0415 (see above)

            self._files = Files(self._file_settings, agent=AGENT)
        path: tuple[Path | None, str] = await self._files.fetch(url, directory, allowance)
        return path

    def hook(
        self,
        url: str,
        events: frozenset[str],
        headers: Mapping[str, str],
        snapshot: Callable[[], bytes],
        ids: Mapping[str, str],
    ) -> Callable[[str], None]:
        """Give what is told of a prediction's events, and sends them."""
        if self._webhooks is None:
            from tidegate.hooks.webhooks import Webhooks  # noqa: PLC0415 (see above)

            self._webhooks = Webhooks(
                self._hook_settings,
                agent=AGENT,
                tasks=self._tasks,
                clock=self._clock,
                wall=time.time,
                log=structlog.get_logger(),
                chance=self._chance.random,
                count=self._count,
            )
        tell: Callable[[str], None] = self._webhooks.hook(url, events, headers, snapshot, ids)
        return tell

    async def wait_delivered(self, timeout_s: float) -> None:
        """Wait until the last webhooks are out, or given up."""
        if self._webhooks is not None:
            await self._webhooks.wait_delivered(timeout_s)

    @property
    def owed(self) -> int:
        """How many predictions that are over owe a webhook."""
        owed: int = 0 if self._webhooks is None else self._webhooks.owed
        return owed

    def held(self) -> int:
        """Give the bytes of webhooks that are owed or being sent."""
        held: int = 0 if self._webhooks is None else self._webhooks.held()
        return held

    async def close(self) -> None:
        """Give everything back. Shape: what cannot be closed is logged, and never raised."""
        for held in (self._webhooks, self._files):
            if held is not None:
                await closed(held.close())


async def closed(closing: Coroutine[Any, Any, None], timeout_s: float = CLOSE_S) -> None:
    """Wait for a closing, for so long at most; what goes wrong with it is logged, so that others are closed after it."""
    try:
        await asyncio.wait_for(closing, timeout_s)
    except Exception:  # noqa: BLE001 (the gateway ends, whatever a library's connections do)
        structlog.get_logger().exception("bug", at="outbound")
