"""Which addresses are public, and which URLs may be asked for at all. Pure: nothing is looked up here."""

import ipaddress
import socket
from typing import Final

from yarl import URL

MAX_URL_CHARACTERS: Final = 8192
_ODD: Final = frozenset(map(chr, (*range(0x21), 0x7F, ord("\\"))))
"""What no URL has in it, and what parsers disagree about."""

IPv4 = ipaddress.IPv4Address
IPv6 = ipaddress.IPv6Address

NOT_PUBLIC_V4: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",
            "100.64.0.0/10",  # shared by carriers
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure answers its machines here, from among the public ones
            "169.254.0.0/16",  # link-local, where clouds keep credentials
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
"""Source: IANA IPv4 Special-Purpose Address Registry, RFC 6890."""
PUBLIC_V6: Final = ipaddress.IPv6Network("2000::/3")
"""The only part of the space that is given out for the internet. Source: RFC 4291 section 2.4, IANA."""
NOT_PUBLIC_V6: Final = tuple(
    map(
        ipaddress.IPv6Network,
        ("2001::/23", "2001:db8::/32", "3fff::/20"),  # protocols' own (Teredo too), documentation
    )
)
NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""Source: RFC 6052 section 2.1."""


class GuardError(Exception):
    """A request that must not be made, in a sentence without the URL's path and query."""


class PrivateError(GuardError):
    """A request that must not be made unless addresses may be private."""


def public(text: str) -> bool:
    """Say whether an address belongs to the public internet. Shape: of one that holds an IPv4 address, that one counts.

    Errors: ValueError when it is no address.
    """
    address = ipaddress.ip_address(text)
    if isinstance(address, IPv6):
        inner = _inside(address)
        if inner is None:
            return address in PUBLIC_V6 and not any(address in network for network in NOT_PUBLIC_V6)
        address = inner
    return not any(address in network for network in NOT_PUBLIC_V4)


def _inside(address: IPv6) -> IPv4 | None:
    """Give the IPv4 address that packets to an IPv6 address end at. Shape: mapped, 6to4, NAT64."""
    if address in NAT64:
        return IPv4(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def checked(text: str, *, allow_private: bool) -> URL:
    """Give a URL that may be asked for, so far as its text tells. Errors: GuardError.

    Shape: http or https, a host, no user, no number for a host that is written in an uncommon way.
    """
    if len(text) > MAX_URL_CHARACTERS or not _ODD.isdisjoint(text):
        raise GuardError("it is not a URL")
    try:
        url = URL(text)
        scheme, host, port = url.scheme, url.raw_host, url.port
    except ValueError as error:
        raise GuardError("it is not a URL") from error
    if scheme not in {"http", "https"} or not host or not port:
        raise GuardError("it is not an http or https URL with a host")
    if "@" in url.raw_authority:
        raise GuardError("its URL holds a user")
    _check_literal(host.rstrip("."), allow_private=allow_private)
    return url.with_fragment(None)


def _check_literal(host: str, *, allow_private: bool) -> None:
    try:
        fine = public(host) or allow_private
    except ValueError:
        if _numeric(host):
            raise GuardError("its URL has an address that is not written the usual way") from None
        return
    if not fine:
        raise PrivateError(f"{host} is not a public address")


def _numeric(host: str) -> bool:
    """Say whether resolvers may take a host for an IPv4 address: octal, hexadecimal, or of fewer parts than four."""
    try:
        socket.inet_aton(host)
    except (OSError, UnicodeError):
        last = host.rpartition(".")[2]
        # A last label that is a number is no top-level domain; what else it is differs between resolvers.
        return last.isdigit() or last.lower().startswith("0x")
    return True
