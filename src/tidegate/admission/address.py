"""Whose address a request comes from: the peer's own, or what a trusted proxy says. Pure: text in, text out."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

FORWARDED_FOR: Final = b"x-forwarded-for"
MAX_HOPS: Final = 32
"""Hops of a header that are looked at, from the right; each costs a look at every trusted network."""

_HOST_BITS: Final = 64


def group(address: str) -> str:
    """Give what an address counts as: itself, or its /64, as a host of IPv6 has all the addresses of one."""
    if ":" not in address:
        return address
    try:
        number = int(IPv6Address(address.partition("%")[0]))
    except ValueError:
        return address
    return f"{IPv6Address(number >> _HOST_BITS << _HOST_BITS)}/64"


class Proxies:
    """The proxies whose word is taken for where a request comes from. Errors: ValueError for what is no network."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = tuple(ip_network(network, strict=False) for network in networks)

    def trusts(self, peer: str) -> bool:
        """Say whether a peer is one of them."""
        if not self._networks:
            return False
        address = _address(peer)
        return address is not None and self._contains(address)

    def client(self, peer: str, forwarded: bytes) -> str:
        """Give where a request of a trusted peer comes from: the rightmost hop that is no proxy of ours.

        Shape: the hops left of it are that client's own words, and not looked at. An unreadable or missing hop says
        nothing, so that the peer's own address stands; where every hop is a proxy, the first of them asked.
        """
        found = peer
        for hop in reversed(forwarded.rsplit(b",", MAX_HOPS)):
            address = _address(_without_port(hop.strip().decode("latin-1")))
            if address is None:
                return peer
            found = str(address)
            if not self._contains(address):
                break
        return found

    def _contains(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A socket for both families names a peer of the older one by its mapped address.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def plain(peer: str) -> str:
    """Give a peer's address as sockets name it, in its own family's form."""
    if ":" not in peer:
        return peer
    address = _address(peer)
    return peer if address is None else str(address)


def _without_port(hop: str) -> str:
    """Give a hop without its port, which some load balancers write."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
