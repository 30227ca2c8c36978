"""A resolved configuration for people: the table of all settings with secrets masked."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from msgspec import structs

from tidegate.config.decode import shape
from tidegate.config.settings import Config
from tidegate.config.tree import below
from tidegate.config.units import written_duration, written_number, written_size
from tidegate.kernel.units import COUNT, DURATION, NUMBER, SIZE

_MASKED: Final = frozenset({"sha256"})


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
            yield path, _WRITTEN[what.name](value)


def _masked(value: str) -> str:
    return "set" if value else "not set"


def _text(value: object) -> str:
    return str(value) if value != "" else "not set"


def _switch(value: object) -> str:
    return "true" if value else "false"


def _names(values: Iterable[str]) -> str:
    return ", ".join(values) or "none"


_WRITTEN: Final[Mapping[str, Callable[[Any], str]]] = {
    DURATION: written_duration,
    SIZE: written_size,
    COUNT: str,
    NUMBER: written_number,
    "text": _text,
    "choice": _text,
    "secret": _masked,
    "switch": _switch,
    "list": _names,
    "table": _names,
}
