"""How many are connected, and from where. Every connection has a seat; it is asked for a place when a request comes.

A connection beyond the limits may stay until its first request, so that the health of a full process can be asked.
"""

from collections.abc import Mapping

from tidegate.admission.address import FORWARDED_FOR, Proxies, group, plain


class Crowd:
    """The places that connections take. Shape: 0 is no limit. Holds: a count for each address that has a place."""

    def __init__(self, max_connections: int = 0, max_per_address: int = 0, proxies: Proxies | None = None) -> None:
        self.max_connections = max_connections
        self.max_per_address = max_per_address
        self._connections = 0
        self._addresses: dict[str, int] = {}
        self.proxies = proxies or Proxies()

    def __len__(self) -> int:
        return self._connections

    @property
    def addresses(self) -> int:
        """How many distinct addresses are here; those of a /64 are one."""
        return len(self._addresses)

    def join(self, peer: str) -> "Seat":
        """Give a new connection its seat, with a place if there is one."""
        return Seat(self, plain(peer))

    def take_connection(self) -> bool:
        """Take a connection's place; gives whether there was one."""
        if self.max_connections and self._connections >= self.max_connections:
            return False
        self._connections += 1
        return True

    def give_connection(self) -> None:
        """Give a connection's place back."""
        self._connections -= 1

    def take_address(self, address: str) -> bool:
        """Take one of the places of an address; gives whether there was one."""
        taken = self._addresses.get(address, 0)
        if self.max_per_address and taken >= self.max_per_address:
            return False
        self._addresses[address] = taken + 1
        return True

    def give_address(self, address: str) -> None:
        """Give one of them back."""
        taken = self._addresses[address] - 1
        if taken:
            self._addresses[address] = taken
        else:
            del self._addresses[address]


class Seat:
    """One connection in the crowd.

    Holds: a connection's place, if there was one, until `leave`; a place of the peer's address as long. Behind a
    trusted proxy the peer stands for many: there a place of the client's address is held from `begin` to `done`.
    """

    __slots__ = ("_address", "_crowd", "_peer", "_proxied", "_proxies", "_seated")

    def __init__(self, crowd: Crowd, peer: str) -> None:
        self._crowd = crowd
        self._peer = peer
        self._proxies = crowd.proxies
        self._proxied = crowd.proxies.trusts(peer)
        self._address: str | None = None
        self._seated = False
        self._sit()

    def begin(self, headers: Mapping[bytes, bytes], /) -> str | None:
        """Begin a request; gives the client's address, or None when there is no place for it."""
        if self._proxies is not self._crowd.proxies:
            self._review()
        if not (self._seated or self._sit()):
            return None
        if not self._proxied:
            return self._peer
        client = self._crowd.proxies.client(self._peer, headers.get(FORWARDED_FOR, b""))
        address = group(client)
        if not self._crowd.take_address(address):
            return None
        self._address = address
        return client

    def done(self) -> None:
        """End a request that was begun."""
        if self._proxied:
            self._give_address()

    def leave(self) -> None:
        """Give everything back; the connection is lost."""
        self._give_address()
        if self._seated:
            self._crowd.give_connection()
            self._seated = False

    def _review(self) -> None:
        """Ask anew whether the peer is trusted, and give up the place that it has by the old answer."""
        self._proxies = self._crowd.proxies
        proxied = self._proxies.trusts(self._peer)
        if proxied != self._proxied:
            self.leave()
            self._proxied = proxied

    def _sit(self) -> bool:
        """Take a connection's place, and the address's with it, or neither."""
        crowd = self._crowd
        if not crowd.take_connection():
            return False
        if not self._proxied:
            address = group(self._peer)
            if not crowd.take_address(address):
                crowd.give_connection()
                return False
            self._address = address
        self._seated = True
        return True

    def _give_address(self) -> None:
        if self._address is not None:
            self._crowd.give_address(self._address)
            self._address = None
