"""What types cannot say: formats of single values, and what fits together. Works on whatever could be read."""

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from tidegate.config.addresses import HIGHEST_PORT, host_and_port, same_host, split_address
from tidegate.config.bounds import check_attempts, check_rates
from tidegate.config.decode import FAILED, Seen, Spot
from tidegate.config.kinds import api_version, base_url, check_providers, handler, region
from tidegate.config.mistakes import Mistakes
from tidegate.config.routes import check_models
from tidegate.config.tree import Leaf, below
from tidegate.edge.settings import OpsSettings, ServerSettings
from tidegate.hooks.signature import key_of
from tidegate.upstream.credentials import MAX_BYTES as MAX_KEY_FILE_BYTES
from tidegate.upstream.kinds import kind_of

_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}")
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_PRINTABLE: Final = re.compile(r"[\x20-\x7e]*")
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LONGEST_NAME: Final = 200

_CREDENTIALS: Final = frozenset({
    "api-key", "authorization", "cookie", "proxy-authorization", "x-api-key", "x-goog-api-key",
})  # fmt: skip
"""Headers that nothing but the check of keys may look at."""

# Hop-by-hop headers end at the gateway (RFC 9110, 7.6.1); the others follow from the request that it writes itself.
_OURS: Final = frozenset({
    "accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "proxy-authenticate",
    "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "x-request-id",
})  # fmt: skip


def _address(text: str) -> tuple[str, int] | None:
    try:
        return split_address(text)
    except ValueError:
        return None


def check(seen: Seen, mistakes: Mistakes) -> None:
    """Note all that does not fit."""
    for pattern, problem_of in _FORMATS.items():
        for spot in seen.get(pattern, ()):
            problem = problem_of(spot)
            if problem:
                mistakes.add(spot.node.at, spot.path, problem)
    _check_unique(seen, mistakes)
    _check_headers(seen, mistakes)
    _check_present(seen, mistakes)
    _check_keys(seen, mistakes)
    check_providers(seen, mistakes)
    _check_tls(seen, mistakes)
    _check_addresses(seen, mistakes)
    _check_proxies(seen, mistakes)
    check_models(seen, mistakes)
    check_attempts(seen, mistakes)
    check_rates(seen, mistakes)


def _host(spot: Spot) -> str:
    return (
        ""
        if re.fullmatch(r"[0-9A-Za-z_.:%-]+", spot.value)
        else f"expected an address or a host name, got {spot.shown}"
    )


def _port(spot: Spot) -> str:
    return f"expected a port from 0 to {HIGHEST_PORT}, got {spot.shown}" if spot.value > HIGHEST_PORT else ""


def _listen(spot: Spot) -> str:
    good = not spot.value or _address(spot.value)
    return "" if good else f"expected host:port, or '' for none, got {spot.shown}"


def _file(spot: Spot) -> str:
    return "" if not spot.value or Path(spot.value).is_file() else f"there is no file {spot.shown}"


def _key_file(spot: Spot) -> str:
    missing = _file(spot)
    if missing or not spot.value:
        return missing
    try:
        with Path(spot.value).open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"
    good = len(data) <= MAX_KEY_FILE_BYTES and _VISIBLE.fullmatch(data.decode("latin-1").strip())
    return "" if good else "expected a file that holds a key of visible ASCII characters alone"


def _digest(spot: Spot) -> str:
    # The value is not repeated: a key pasted in its place must not end up in a log.
    return "" if _DIGEST.fullmatch(spot.value) else "expected the 64 hex digits that `tidegate keys hash` prints"


def _name(spot: Spot) -> str:
    if not spot.value:
        return "expected a name, got ''"
    good = spot.value.isprintable() and spot.value == spot.value.strip() and len(spot.value) <= _LONGEST_NAME
    return (
        "" if good else f"expected at most {_LONGEST_NAME} printable characters without spaces around, got {spot.shown}"
    )


def _credential(spot: Spot) -> str:
    if not spot.value or _VISIBLE.fullmatch(spot.value):
        return ""
    at_end = not spot.value.strip() or _VISIBLE.fullmatch(spot.value.strip())
    place = "a space or line break at an end" if at_end else "a character that a header cannot carry"
    return f"expected a key of visible ASCII characters, found {place}"


def _webhook_secret(spot: Spot) -> str:
    if spot.value != spot.value.strip() or not spot.value.isprintable():
        return "expected a webhook secret of printable characters without spaces or line breaks around"
    try:
        key_of(spot.value)
    except ValueError as error:
        return str(error)
    return _emptied(spot)


def _webhook_token(spot: Spot) -> str:
    return _credential(spot) or _emptied(spot)


def _emptied(spot: Spot) -> str:
    """Refuse a variable that is empty: webhooks would go out without what was meant, and nobody would know."""
    node = spot.node
    if spot.value or not isinstance(node, Leaf) or not node.hidden or ":-" in node.shown:
        return ""
    return "the environment variable is empty; set it, or leave this setting out"


def _sticky_by(spot: Spot) -> str:
    if _FIELD_NAME.fullmatch(spot.value) is None:
        return f"expected user or the name of a header, got {spot.shown}"
    return "expected a header that carries no credential" if spot.value.lower() in _CREDENTIALS else ""


_FORMATS: Final[Mapping[str, Callable[[Spot], str]]] = {
    "server.host": _host,
    "server.port": _port,
    "server.tls.cert": _file,
    "server.tls.key": _file,
    "ops.listen": _listen,
    "auth.keys[].id": _name,
    "auth.keys[].sha256": _digest,
    "providers[].name": _name,
    "providers[].base_url": base_url,
    "providers[].api_version": api_version,
    "providers[].local.handler": handler,
    "providers[].aws.region": region,
    "providers[].aws.access_key_id": _credential,
    "providers[].aws.secret_access_key": _credential,
    "providers[].aws.session_token": _credential,
    "providers[].api_key": _credential,
    "providers[].api_key_file": _key_file,
    "providers[].ca_file": _file,
    "models[].name": _name,
    "models[].aliases[]": _name,
    "models[].sticky_by": _sticky_by,
    "predictions.webhooks.secret": _webhook_secret,
    "predictions.webhooks.token": _webhook_token,
}


def _members(seen: Seen, pattern: str) -> dict[str, Any]:
    """Give the members of a section that is there once; none where it is not there."""
    spots = seen.get(pattern)
    return spots[0].value if spots else {}


def _check_unique(seen: Seen, mistakes: Mistakes) -> None:
    models = [*seen.get("models[].name", ()), *seen.get("models[].aliases[]", ())]
    digests = [Spot(spot.path, spot.node, spot.value.lower()) for spot in seen.get("auth.keys[].sha256", ())]
    _refuse_twins(seen.get("providers[].name", ()), "this provider's name", mistakes)
    _refuse_twins(sorted(models, key=lambda spot: spot.node.at.line), "this model name or alias", mistakes)
    _refuse_twins(seen.get("auth.keys[].id", ()), "this key id", mistakes)
    _refuse_twins(digests, "this digest", mistakes)
    _refuse_twins(seen.get("limits.rate[].by", ()), "this kind of rule", mistakes)


def _refuse_twins(spots: Iterable[Spot], what: str, mistakes: Mistakes) -> None:
    first: dict[str, Spot] = {}
    for spot in spots:
        twin = first.setdefault(spot.value, spot)
        if twin is not spot and spot.value:
            mistakes.add(spot.node.at, spot.path, f"{what} is taken by {twin.where}")


def _check_headers(seen: Seen, mistakes: Mistakes) -> None:
    for spot in seen.get("providers[].headers", ()):
        names: set[str] = set()
        for name, value in spot.value.items():
            problem = _header(name, value, names)
            names.add(name.lower())
            if problem:
                mistakes.add(spot.member(name).node.at, below(spot.path, name), problem)


def _header(name: str, value: Any, names: set[str]) -> str:
    if _FIELD_NAME.fullmatch(name) is None:
        return "expected the name of a header"
    if name.lower() in _OURS:
        return "this header is set by the gateway alone"
    if name.lower() in names:
        return "this header is there in another spelling already"
    good = value is FAILED or _PRINTABLE.fullmatch(value)
    return (
        "" if good else "expected printable ASCII, found a line break or another character that a header cannot carry"
    )


def _check_present(seen: Seen, mistakes: Mistakes) -> None:
    """Refuse a configuration that can answer nothing."""
    for root in seen.get("", ()):
        for name, one in (("providers", "provider"), ("models", "model")):
            if not root.value.get(name):
                mistakes.add(root.member(name).node.at, name, f"expected at least one {one}")


def _check_keys(seen: Seen, mistakes: Mistakes) -> None:
    for auth in seen.get("auth", ()):
        if auth.value.get("mode") == "keys" and not auth.value.get("keys"):
            mistakes.add(auth.member("keys").node.at, "auth.keys", "expected at least one key, as auth.mode is keys")


def _check_tls(seen: Seen, mistakes: Mistakes) -> None:
    for tls in seen.get("server.tls", ()):
        for name, other in (("cert", "key"), ("key", "cert")):
            if tls.value.get(name) and not tls.value.get(other):
                mistakes.add(tls.member(other).node.at, below(tls.path, other), f"required, as {name} is set")


def _check_addresses(seen: Seen, mistakes: Mistakes) -> None:
    """Refuse two listeners on one address, and a provider that is this gateway itself."""
    server = _members(seen, "server")
    host, port = server.get("host", ServerSettings().host), server.get("port", ServerSettings().port)
    if host is FAILED or port is FAILED or not port:
        return
    listen = _members(seen, "ops").get("listen", OpsSettings().listen)
    if listen is not FAILED and _address(listen) == (host, port):
        at = (seen.get("ops.listen") or seen["server.port"])[0].node.at
        mistakes.add(at, "ops.listen", f"the main port listens on {host}:{port} already")
    for spot in map(_place, seen.get("providers[]", ())):
        there, at_port = host_and_port(spot.value)
        if at_port == port and same_host(there, host):
            mistakes.add(spot.node.at, spot.path, "this is the gateway's own address; expected the provider's")


def _place(provider: Spot) -> Spot:
    """Give where a provider is, by its kind where it does not say; empty where nobody knows."""
    spot, kind = provider.member("base_url"), provider.member("kind").value
    usual = "" if kind is None or provider.value.get("base_url") is FAILED else kind_of(kind).base_url
    return Spot(spot.path, spot.node, spot.value or usual)


def _check_proxies(seen: Seen, mistakes: Mistakes) -> None:
    """Refuse what is neither an address nor a network."""
    for spot in seen.get("server.trusted_proxies[]", ()):
        try:
            ip_network(spot.value)
        except ValueError:
            problem = f"expected an address or a network such as 10.0.0.0/8, got {spot.shown}"
            mistakes.add(spot.node.at, spot.path, problem, _network_meant(spot))


def _network_meant(spot: Spot) -> str:
    """Give the hint for an address in a network that is written where the network is wanted."""
    try:
        network = ip_network(spot.value, strict=False)
    except ValueError:
        return ""
    return "" if isinstance(spot.node, Leaf) and spot.node.hidden else f"did you mean '{network}'?"
