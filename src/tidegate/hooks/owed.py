"""What waits to be sent to hosts, by how much of it there is: where it is too much, the host that waits for most loses."""

from collections import OrderedDict
from typing import Final, Generic, TypeVar

OWN_BYTES: Final = 4096
"""About what one takes that waits, apart from its body: a task, a place in a line, a timer."""

T = TypeVar("T")


class Owed(Generic[T]):
    """Things that wait, each for its host. Holds: at most `most`; `most_bytes`, and beyond those the one that came last.

    Shape: `excess` gives what has to go before another comes.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.bytes = 0
        self._most = most
        self._most_bytes = most_bytes
        self._places: dict[T, tuple[str, int]] = {}
        # By age. No plain dict: to find its first, it passes all that were before.
        self._lines: dict[str, OrderedDict[T, None]] = {}
        self._weights: dict[str, int] = {}
        self._heaviest = ""

    def __len__(self) -> int:
        """How many wait."""
        return len(self._places)

    def __contains__(self, item: object) -> bool:
        """Say whether one waits."""
        return item in self._places

    def add(self, item: T, host: str, size: int, *, first: bool = False) -> None:
        """Have one wait, as the newest of its host or as the `first` to go. Shape: it does not wait yet."""
        weight = size + OWN_BYTES
        self._places[item] = host, weight
        line = self._lines.setdefault(host, OrderedDict())
        line[item] = None
        if first:
            line.move_to_end(item, last=False)
        self.bytes += weight
        self._weights[host] = self._weights.get(host, 0) + weight
        if self._weights[host] >= self._weights.get(self._heaviest, 0):
            self._heaviest = host

    def leave(self, item: T) -> None:
        """Have one wait no more, if it does."""
        place = self._places.pop(item, None)
        if place is None:
            return
        host, weight = place
        self.bytes -= weight
        self._weights[host] -= weight
        del self._lines[host][item]
        if not self._lines[host]:
            del self._lines[host], self._weights[host]
            if host == self._heaviest:
                self._heaviest = max(self._weights, key=self._weights.__getitem__, default="")

    def excess(self) -> T | None:
        """Give the oldest of the host that most is for, where there is no room for another."""
        if not self._places or (len(self._places) < self._most and self.bytes <= self._most_bytes):
            return None
        return next(iter(self._lines[self._heaviest]))
