"""Where things are: hosts, ports and the machines that they are on. Texts alone; nothing is looked up."""

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
HIGHEST_PORT: Final = 65535


def split_address(text: str) -> tuple[str, int]:
    """Give host and port of `host:port`; an IPv6 host stands in brackets. Errors: ValueError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address stands in brackets")
    if not colon or not _VISIBLE.fullmatch(host) or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > HIGHEST_PORT:
        raise ValueError("not host:port")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Give whether only this machine can reach a host. Shape: a name other than `localhost` is taken for another machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_and_port(url: str) -> tuple[str, int]:
    """Give where a URL leads; an empty host where it leads nowhere."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        return "", 0


def same_host(there: str, ours: str) -> bool:
    """Give whether a host is where the gateway listens."""
    if ours in ("0.0.0.0", "::"):  # noqa: S104 (compared, not bound)
        return is_loopback(there)
    here = "127.0.0.1"
    return bool(there) and (here if there == "localhost" else there) == (here if ours == "localhost" else ours)
