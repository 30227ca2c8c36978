"""Connections of one origin: reused last in, first out; capped; expired when idle. Decide first, then act."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from tidegate.upstream.connection import READ_BYTES, UpstreamConnection
from tidegate.upstream.dial import Dialer
from tidegate.upstream.settings import ConnectionSettings
from tidegate.verdict import AttemptFailed

MAX_IDLE: Final = 1024
"""Unused connections kept at most: a burst must not leave its descriptors behind."""
PROBE_EVERY_S: Final = 5.0
PROBE_TIMEOUT_S: Final = 0.8
"""Below the second that orchestrators wait for an answer."""


class Pool:
    """Lends connections to one origin.

    Holds: a connection is in use from `take` until `give_back`; waiting for one is cancelled like any wait.
    """

    def __init__(self, dialer: Dialer, settings: ConnectionSettings, clock: Callable[[], float]) -> None:
        self._dialer = dialer
        self._max = settings.max
        self._idle_s = settings.idle_s
        self._clock = clock
        self._buffer = bytearray(READ_BYTES)
        self._idle: list[UpstreamConnection] = []
        self._waiting: deque[asyncio.Future[UpstreamConnection | None]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._lent: set[UpstreamConnection] = set()
        self._dialling = 0
        self._closed = False
        self._probed_at = 0.0
        self.reachable = True

    @property
    def in_use(self) -> int:
        """Connections lent, and those being made."""
        return len(self._lent) + self._dialling

    @property
    def idle(self) -> int:
        """Connections kept for reuse."""
        return len(self._idle)

    def counts(self) -> tuple[int, int]:
        """Give the connections in use and idle."""
        return self.in_use, self.idle

    async def take(self, *, fresh: bool = False, on_tls: Callable[[], None] = lambda: None) -> UpstreamConnection:
        """Lend a connection, a new one when `fresh`; `on_tls` hears of a handshake. Errors: AttemptFailed from the dialer."""
        connection = None if fresh else self._pop()
        if connection is None and self._max and self.in_use >= self._max:
            connection = await self._wait()
            if connection is None:
                self._dialling -= 1  # the right to dial, held since `_wake`, is used now
        if connection is None:
            connection = await self._dial(on_tls)
        self._lent.add(connection)
        return connection

    def give_back(self, connection: UpstreamConnection, *, linger: bool = False) -> None:
        """Take a connection back: kept when usable, waited for shortly when `linger`, else closed at once."""
        if linger and connection.nearly_done:
            connection.linger(self.give_back)
            return
        if not connection.usable or self._closed:
            self._lent.discard(connection)
            connection.abort()
            self._wake(None)
            return
        if self._wake(connection):
            return  # it stays lent: to the one who waited
        self._lent.discard(connection)
        connection.idle_since = self._clock()
        if len(self._idle) >= MAX_IDLE or not self._idle_s:
            connection.abort()
            return
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_s, self._expire)

    async def dialable(self) -> bool:
        """Say whether the origin can be reached: by what is connected, else by a try, at most one in PROBE_EVERY_S."""
        now = self._clock()
        if self._lent or self._idle:
            self.reachable = True
            return True
        if self._probed_at and now < self._probed_at + PROBE_EVERY_S:
            return self.reachable
        self._probed_at = now
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                connection = await self._dial()
        except (AttemptFailed, TimeoutError):
            self.reachable = False
        else:
            self._lent.add(connection)
            self.give_back(connection)
        return self.reachable

    def close(self) -> None:
        """Close what is idle; what is lent closes when it comes back."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.abort()

    def _pop(self) -> UpstreamConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.abort()
        return None

    async def _wait(self) -> UpstreamConnection | None:
        future: asyncio.Future[UpstreamConnection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._return(future.result())
            raise
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def _return(self, given: UpstreamConnection | None) -> None:
        """Pass on what a waiter got but no longer wants."""
        if given is None:
            self._dialling -= 1
            self._wake(None)
        else:
            self.give_back(given)

    def _wake(self, connection: UpstreamConnection | None) -> bool:
        """Give the first waiter a connection, or with None the right to dial one."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                if connection is None:
                    self._dialling += 1
                future.set_result(connection)
                return True
        return False

    async def _dial(self, on_tls: Callable[[], None] = lambda: None) -> UpstreamConnection:
        connection = UpstreamConnection(self._buffer, self._lost)
        self._dialling += 1
        try:
            await self._dialer.connect(connection, on_tls)
        except BaseException as error:
            if isinstance(error, AttemptFailed):
                self.reachable = False
            connection.abort()
            self._wake(None)
            raise
        finally:
            self._dialling -= 1
        self.reachable = True
        return connection

    def _lost(self, connection: UpstreamConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def _expire(self) -> None:
        """Close what was idle for too long; the list is in the order of coming back, so the oldest is first."""
        self._sweep = None
        limit = self._clock() - self._idle_s
        kept = [connection for connection in self._idle if connection.idle_since > limit]
        old = [connection for connection in self._idle if connection.idle_since <= limit]
        self._idle = kept
        for connection in old:
            connection.abort()
        if kept:
            wait = max(kept[0].idle_since - limit, 0.01)
            self._sweep = asyncio.get_running_loop().call_later(wait, self._expire)
