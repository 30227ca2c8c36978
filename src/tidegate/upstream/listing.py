"""Which models a provider has: asked for when somebody wants to know, by one request at a time, and remembered.

A listing that fails never takes away what a former one has found.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from tidegate.exchange import Ending, ReplyHead
from tidegate.tasks import Tasks
from tidegate.upstream.providers import Provider
from tidegate.verdict import BAD_FRAME, COMPLETED, UPSTREAM_FAILED, AttemptFailed

FRESH_S: Final = 300.0
"""How long a listing is not asked for again."""
FAILED_S: Final = 15.0
"""The same after one that failed."""
TIMEOUT_S: Final = 5.0
MAX_BYTES: Final = 4 * 1024 * 1024
MAX_MODELS: Final = 10_000
_COLLECTION: Final = "models/"
"""Before each of Google's names, which is none of a model's own."""


class _Model(Struct):
    id: str = ""
    name: str = ""


class _Page(Struct):
    """A page as OpenAI and Anthropic write it, with `data`, or as Google and Ollama do, with `models`."""

    data: list[_Model] | None = None
    models: list[_Model] | None = None


_decode = msgspec.json.Decoder(_Page).decode
_ODD: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding fails with when a page is no list of models."""


class Listing:
    """The models of one provider. Shape: `known` are those of a listing before it. Holds: a task while it asks."""

    def __init__(
        self, provider: Provider, clock: Callable[[], float], tasks: Tasks, known: tuple[str, ...] = ()
    ) -> None:
        self._provider = provider
        self._clock = clock
        self.known = known
        self._due = 0.0
        self._tasks = tasks
        self._asking: asyncio.Task[None] | None = None

    async def names(self) -> tuple[str, ...]:
        """Give the names, freshly asked for where they are old; the last known where that fails."""
        if self._clock() >= self._due and self._provider.kind.listing:
            if self._asking is None or self._asking.done():
                self._asking = self._tasks.spawn(self._ask())
            await asyncio.shield(self._asking)
        return self.known

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self.known = await self._fetch()
            self._due = self._clock() + FRESH_S
        except (AttemptFailed, TimeoutError, *_ODD) as error:
            self._due = self._clock() + FAILED_S
            why = error.verdict.code if isinstance(error, AttemptFailed) else type(error).__name__
            structlog.get_logger().warning("listing_failed", provider=self._provider.name, reason=why)

    async def _fetch(self) -> tuple[str, ...]:
        pool = self._provider.pool
        # A new one: that one kept for reuse was closed meanwhile would cost a listing, and nobody would ask again soon.
        if not self._provider.signer.fresh:
            await self._provider.signer.wait_fresh()
        connection = await pool.take(fresh=True)
        page = _Body()
        try:
            connection.send(self._provider.write_listing(), page)
            body = await page.body
        finally:
            pool.give_back(connection)
        return _names(_decode(body))


def _names(page: _Page) -> tuple[str, ...]:
    """Give the names on a page. Errors: msgspec.ValidationError when it is none."""
    listed = page.data if page.data is not None else page.models
    if listed is None:
        raise msgspec.ValidationError("neither `data` nor `models`")
    names = (model.id or model.name.removeprefix(_COLLECTION) for model in listed[:MAX_MODELS])
    return tuple(filter(None, names))


class _Body:
    """The sink of one answer. Shape: `body` gives all of it. Errors: AttemptFailed unless it is a whole 200."""

    def __init__(self) -> None:
        self.body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._parts: list[bytes] = []
        self._size = 0
        self._status = 0

    def bind(self, flow: object, /) -> None:
        """Nothing flows back."""

    def start(self, head: ReplyHead, /) -> None:
        """Take the status."""
        self._status = head.status

    def write(self, data: bytes, /) -> None:
        """Keep a part; what is too large need not come to its end."""
        self._size += len(data)
        if self._size <= MAX_BYTES:
            self._parts.append(data)
        elif not self.body.done():
            self._parts.clear()
            self.body.set_exception(AttemptFailed(BAD_FRAME))

    def finish(self, ending: Ending, /) -> None:
        """Give what came, or why it is of no use."""
        if self.body.done():
            return
        if ending.verdict is not COMPLETED:
            self.body.set_exception(AttemptFailed(ending.verdict))
        elif self._status != 200:
            self.body.set_exception(AttemptFailed(UPSTREAM_FAILED))
        else:
            self.body.set_result(b"".join(self._parts))

    def abort(self) -> None:
        """Nothing to stop."""
