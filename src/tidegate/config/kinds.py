"""What a provider's kind wants of its settings: an address, credentials of its sort, and nothing that is added by itself."""

import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tidegate.config.addresses import host_and_port, is_loopback
from tidegate.config.decode import FAILED, Seen, Spot
from tidegate.config.mistakes import Mistakes
from tidegate.config.outline import trouble
from tidegate.config.tree import below
from tidegate.upstream.kinds import KINDS, Kind, kind_of

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_VARIABLE: Final = re.compile(r"[^=\x00]+")
_OURS: Final = frozenset({"TIDEGATE_WORKER", "TMPDIR"})
_VERSION: Final = re.compile(r"[0-9A-Za-z._-]*")
_REGION: Final = re.compile(r"[a-z0-9-]*")
_EXPECTED: Final = "expected a URL such as https://api.example.com/v1"


def _endings() -> tuple[str, ...]:
    """Give how the places end that are asked, the longest first."""
    rows = [row for kind in KINDS.values() for row in kind.rows]
    places = (place.partition("?")[0].rpartition("}")[2] for row in rows for place in (row.stream, row.whole))
    return tuple(sorted(set(places), key=lambda place: (-len(place), place)))


_ENDINGS: Final = _endings()


def check_providers(seen: Seen, mistakes: Mistakes) -> None:
    """Note all that does not fit a provider's kind."""
    for provider in seen.get("providers[]", ()):
        _check_twice(provider, mistakes)
        _check_aws(provider, mistakes)
        _check_environment(provider, mistakes)
        name = provider.member("kind").value
        if name is not None:
            kind = kind_of(name)
            _check_needs(provider, kind, mistakes)
            _check_credential(provider, kind, mistakes)
            _check_root(provider, kind, mistakes)


def base_url(spot: Spot) -> str:
    """Give what is wrong with an address. Shape: the value is not repeated: it may hold credentials."""
    if not spot.value:
        return ""
    try:
        url = urlsplit(spot.value)
        if not _VISIBLE.fullmatch(spot.value) or not url.hostname or url.port == 0:
            return f"{_EXPECTED}, with a host and no spaces"
    except ValueError:
        return f"{_EXPECTED}, with a valid host and port"
    if url.scheme not in ("http", "https"):
        return f"{_EXPECTED}, beginning with http:// or https://"
    path = url.path.rstrip("/")
    surplus = (
        ("@" in url.netloc, "credentials: they belong in api_key"),
        ("?" in spot.value or "#" in spot.value, "query or fragment"),
        ("/deployments/" in path, "/deployments/: that is added for each request"),
        *((path.endswith(end), f"{end}: that is added for each request") for end in _ENDINGS),
    )
    return next((f"{_EXPECTED}, without {what}" for there, what in surplus if there), "")


def api_version(spot: Spot) -> str:
    """Give what is wrong with a version."""
    return "" if _VERSION.fullmatch(spot.value) else f"expected a version such as 2024-10-21, got {spot.shown}"


def region(spot: Spot) -> str:
    """Give what is wrong with a region."""
    return "" if _REGION.fullmatch(spot.value) else f"expected a region such as us-east-1, got {spot.shown}"


def handler(spot: Spot) -> str:
    """Give what is wrong with a reference to a handler."""
    if not spot.value:
        return ""
    place, _, name = spot.value.rpartition(":") if ":" in spot.value else (spot.value, "", "")
    if (name and not name.isidentifier()) or spot.value.endswith(":"):
        return f"expected model.py:Name or package.module:Name, got {spot.shown}"
    if place.endswith(".py"):
        missing = f"there is no file {place!r} (looked for in {Path.cwd()})"
        return trouble(place, name) if Path(place).is_file() else missing
    known = all(part.isidentifier() for part in place.split("."))
    return trouble(place, name) if known else f"expected model.py:Name or package.module:Name, got {spot.shown}"


def _check_twice(provider: Spot, mistakes: Mistakes) -> None:
    """Refuse a provider with two keys."""
    key, file = provider.member("api_key"), provider.member("api_key_file")
    if key.value and file.value:
        mistakes.add(file.node.at, file.path, "api_key is set as well; expected one of the two")


def _check_aws(provider: Spot, mistakes: Mistakes) -> None:
    """Refuse a part of AWS credentials without the others."""
    aws = provider.member("aws")
    pair = ("access_key_id", "secret_access_key")
    given = [name for name in (*pair, "session_token") if _value(aws, name)]
    for name in pair if given else ():
        if not _value(aws, name):
            spot = aws.member(name)
            mistakes.add(spot.node.at, spot.path, f"required, as {given[0]} is set")


def _check_environment(provider: Spot, mistakes: Mistakes) -> None:
    """Refuse what no process can have in its environment, and what the gateway sets itself."""
    env = provider.member("local").member("env")
    for name, value in (env.value or {}).items():
        problem = ""
        if _VARIABLE.fullmatch(name) is None:
            problem = "expected the name of an environment variable"
        elif name in _OURS:
            problem = "this variable is set by the gateway alone"
        elif value is not FAILED and "\0" in value:
            problem = "a NUL character cannot be in an environment variable"
        if problem:
            mistakes.add(env.member(name).node.at, below(env.path, name), problem)


def _check_needs(provider: Spot, kind: Kind, mistakes: Mistakes) -> None:
    """Refuse a provider that lacks what its kind needs, in the file or on this machine."""
    name = provider.member("kind")
    for path in kind.needs:
        *above, last = path.split(".")
        spot = provider
        for part in above:
            spot = spot.member(part)
        if not _value(spot, last) and not (above and _value(provider, above[0]) is FAILED):
            missing = spot.member(last)
            mistakes.add(missing.node.at, f"{provider.path}.{path}", f"required for kind {name.value}")
    extra = kind.missing_extra() if (_value(provider, "auth") or kind.auth) == "aws" else ""
    if extra:
        mistakes.add(name.node.at, name.path, f"needs a package that is not installed: {extra}")


def _check_credential(provider: Spot, kind: Kind, mistakes: Mistakes) -> None:
    """Refuse a key where requests are signed, and none where there has to be one."""
    name, auth = provider.member("kind").value, _value(provider, "auth")
    given = [spot for spot in map(provider.member, ("api_key", "api_key_file")) if spot.value]
    if not auth and kind.auth == "aws":
        for spot in given:
            problem = f"requests of kind {name} are signed with aws.access_key_id and aws.secret_access_key"
            mistakes.add(spot.node.at, spot.path, problem, "a key of Amazon Bedrock's own needs auth: bearer as well")
        return
    values = [_value(provider, field) for field in ("api_key", "api_key_file", "base_url", "auth")]
    if given or FAILED in values or not (kind.needs_key or kind.auth == "aws"):
        return
    if not is_loopback(host_and_port(_value(provider, "base_url"))[0]):
        key = provider.member("api_key")
        mistakes.add(key.node.at, key.path, f"required for kind {name}, unless base_url is on this machine")


def _check_root(provider: Spot, kind: Kind, mistakes: Mistakes) -> None:
    """Refuse a provider's usual host without the path under which it answers."""
    spot = provider.member("base_url")
    here = host_and_port(spot.value or "")
    if not here[0] or urlsplit(spot.value).path.strip("/"):
        return
    if urlsplit(kind.base_url).path and here == host_and_port(kind.base_url):
        mistakes.add(spot.node.at, spot.path, "expected the path as well", f"did you mean '{kind.base_url}'?")
    elif "api_version" in kind.needs and here[0].endswith(".azure.com"):
        mistakes.add(spot.node.at, spot.path, "expected the path as well, which is /openai")


def _value(spot: Spot, name: str) -> Any:
    """Give what a mapping holds under a name, noted as a mistake or not; empty where nothing is there."""
    return spot.value.get(name, "") if isinstance(spot.value, dict) else ""
