"""A resolved configuration for people: the table of all settings with secrets masked, and what looks unwise."""

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import structs

from tidegate.config.decode import shape
from tidegate.config.rules import is_loopback
from tidegate.config.settings import Config
from tidegate.config.tree import below
from tidegate.config.units import written_duration, written_size
from tidegate.exchange import Timeouts
from tidegate.kernel.units import DURATION, SIZE

_MASKED: Final = frozenset({"sha256"})
_FILES_APART: Final = 200
_FILES_A_STREAM: Final = 2
_FEW_FILES: Final = 4096


def render(config: Config) -> list[tuple[str, str]]:
    """Give every setting's path and what it is set to. Shape: of a secret only `set` or `not set`."""
    return list(_rows(Config, config, ""))


def _rows(hint: Any, value: Any, path: str) -> Iterator[tuple[str, str]]:
    what = shape(hint)
    match what.name:
        case "struct":
            for field in structs.fields(what.of):
                inner = getattr(value, field.name)
                masked = field.encode_name in _MASKED
                name = below(path, field.encode_name)
                yield from [(name, _masked(inner))] if masked else _rows(field.type, inner, name)
        case "list" if value and shape(what.of).name == "struct":
            for position, item in enumerate(value):
                yield from _rows(what.of, item, f"{path}[{position}]")
        case "table" if value:
            for name, item in value.items():
                yield from _rows(what.of, item, below(path, name))
        case _:
            yield path, _written(what.name, value)


def _written(name: str, value: Any) -> str:
    if name == DURATION:
        return written_duration(value)
    if name == SIZE:
        return written_size(value)
    if name == "secret":
        return _masked(value)
    if name in ("list", "table"):
        return ", ".join(value) or "none"
    return str(value) if value != "" else "not set"


def _masked(value: str) -> str:
    return "set" if value else "not set"


def warnings(config: Config, nofile_limit: int) -> list[str]:
    """Give what loads and is unwise all the same. Shape: a `nofile_limit` below 0 is no limit."""
    return [*_of_process(nofile_limit), *_of_access(config), *_of_limits(config), *_of_providers(config)]


def _of_process(nofile_limit: int) -> Iterator[str]:
    if 0 <= nofile_limit < _FEW_FILES:
        room = max(0, nofile_limit - _FILES_APART) // _FILES_A_STREAM
        yield f"the limit of {nofile_limit} open files leaves room for about {room} streams; raise it: ulimit -n 65536"


def _of_access(config: Config) -> Iterator[str]:
    if config.auth.mode == "open":
        if config.auth.keys:
            yield "auth.keys are not asked for, as auth.mode is open"
        if not is_loopback(config.server.host):
            yield f"auth.mode is open and server.host {config.server.host} can be reached from other machines"


def _of_limits(config: Config) -> Iterator[str]:
    if config.server.max_header_bytes < 1024:
        yield f"server.max_header_bytes of {config.server.max_header_bytes} bytes refuses ordinary requests"
    if config.server.max_body_bytes < 1024:
        yield f"server.max_body_bytes of {config.server.max_body_bytes} bytes refuses ordinary requests"
    if not config.server.header_timeout_s:
        yield "server.header_timeout is off: a client that sends nothing holds its connection for ever"


def _of_providers(config: Config) -> Iterator[str]:
    asked = {target.provider for model in config.models for target in model.targets}
    for position, provider in enumerate(config.providers):
        path = f"providers[{position}]"
        if provider.name not in asked:
            yield f"{path}: no model uses the provider {provider.name}"
        url = urlsplit(provider.base_url)
        if url.scheme == "http" and not is_loopback(url.hostname or "") and (provider.api_key or provider.headers):
            yield f"{path}.base_url: credentials are sent without TLS"
        yield from _of_timeouts(provider.timeouts, f"{path}.timeouts")


def _of_timeouts(timeouts: Timeouts, path: str) -> Iterator[str]:
    total, response = ("total", timeouts.total_s), ("response", timeouts.response_s)
    for name, inside_s, (other, around_s) in (
        ("connect", timeouts.connect_s, total),
        ("connect", timeouts.connect_s, response),
        ("headers", timeouts.headers_s, total),
        ("first_token", timeouts.first_token_s, total),
        ("idle", timeouts.idle_s, total),
    ):
        if 0 < around_s < inside_s:
            inside, around = written_duration(inside_s), written_duration(around_s)
            yield f"{path}.{name} of {inside} never passes: {other} of {around} does before"
