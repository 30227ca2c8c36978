"""Who may ask next: so many requests at a time over all hosts, and so many of each, so that one that is silent holds up no other."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

Line = OrderedDict[asyncio.Future[None], None]
"""Those who wait for one host, in the order in which they came. No plain dict: to find its first, it passes all that were before."""


class Turns:
    """Places for requests. Holds: at most `most` that are taken, `most_each` of a host; who waits for one.

    Shape: hosts that wait take turns, and those who wait for one host go in their order.
    """

    def __init__(self, most: int, most_each: int) -> None:
        self._most = most
        self._most_each = most_each
        self._taken = 0
        self._of: dict[str, int] = {}
        # In the order of their turns. Few are passed over on the way to the next: those whose places are all taken.
        self._lines: OrderedDict[str, Line] = OrderedDict()

    @asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """Give the scope of one request to a host, when there is a place for it."""
        await self._wait_place(host)
        try:
            yield
        finally:
            self._give_back(host)

    async def _wait_place(self, host: str) -> None:
        # Where there is room for a host, nobody waits who could have it: it would have been given away.
        if self._has_room(host):
            self._take(host)
            return
        place = asyncio.get_running_loop().create_future()
        self._lines.setdefault(host, OrderedDict())[place] = None
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._leave_line(host, place)
            else:
                self._give_back(host)  # it was given in the same moment
            raise

    def _has_room(self, host: str) -> bool:
        return self._taken < self._most and self._of.get(host, 0) < self._most_each

    def _take(self, host: str) -> None:
        self._taken += 1
        self._of[host] = self._of.get(host, 0) + 1

    def _give_back(self, host: str) -> None:
        self._taken -= 1
        left = self._of.pop(host) - 1
        if left:
            self._of[host] = left
        self._call_next()

    def _call_next(self) -> None:
        """Give the place that is free to the first host in turn that may have it."""
        while (host := next((host for host in self._lines if self._has_room(host)), None)) is not None:
            line = self._lines[host]
            place, _ = line.popitem(last=False)
            self._lines.move_to_end(host)
            if not line:
                del self._lines[host]
            if not place.cancelled():
                self._take(host)
                place.set_result(None)

    def _leave_line(self, host: str, place: asyncio.Future[None]) -> None:
        line = self._lines.get(host)
        if line is not None:
            line.pop(place, None)
            if not line:
                del self._lines[host]
