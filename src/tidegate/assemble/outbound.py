"""What a process asks of addresses that clients name. An HTTP client is loaded when the first of them comes.

It takes 7 MB and a quarter of a second, which nobody should pay who serves without.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

import structlog

from tidegate import __version__
from tidegate.hooks.settings import FileSettings, WebhookSettings
from tidegate.tasks import Tasks

AGENT: Final = f"tidegate/{__version__}"


class Outbound:
    """Fetches files and sends webhooks. Holds: a session for each, from its first use until `close`."""

    def __init__(
        self,
        files: FileSettings,
        webhooks: WebhookSettings,
        *,
        tasks: Tasks,
        clock: Callable[[], float],
        chance: Random,
    ) -> None:
        self._file_settings = files
        self._hook_settings = webhooks
        self._tasks = tasks
        self._clock = clock
        self._chance = chance
        self._files: Any = None
        self._webhooks: Any = None

    async def fetch(self, url: str, directory: Path, /) -> tuple[Path | None, str]:
        """Give the path of a fetched file, or why there is none."""
        if self._files is None:
            from tidegate.hooks.fetching import Files  # noqa: PLC0415 (see above)

            self._files = Files(self._file_settings, agent=AGENT)
        path: tuple[Path | None, str] = await self._files.fetch(url, directory)
        return path

    def hook(
        self, url: str, events: frozenset[str], headers: Mapping[str, str], snapshot: Callable[[], bytes]
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
            )
        tell: Callable[[str], None] = self._webhooks.hook(url, events, headers, snapshot)
        return tell

    async def wait_delivered(self, timeout_s: float) -> None:
        """Wait until the last webhooks are out, or given up."""
        if self._webhooks is not None:
            await self._webhooks.wait_delivered(timeout_s)

    async def close(self) -> None:
        """Give everything back."""
        for held in (self._webhooks, self._files):
            if held is not None:
                await asyncio.wait_for(held.close(), 5.0)
