"""What metrics a prediction may record, and what a change of one does to those there are. Pure."""

import copy
import math
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

Mode = Literal["replace", "increment", "append"]

MAX_NAME: Final = 128
MAX_DEPTH: Final = 4
_SEGMENT: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
_VALUES: Final = "bool, int, float, str, list or dict"


def apply(metrics: dict[str, Any], name: str, value: Any, mode: Mode) -> None:
    """Change metrics by one record, in place. Shape: dots in a name nest; None with `replace` deletes, and what it empties.

    Shape: never fails: what an increment or a nested name does not fit is replaced.
    Holds: no list or dict of the caller's: those in `metrics` are changed as records come.
    """
    *parents, last = name.split(".")
    if mode == "replace" and value is None:
        _delete(metrics, parents, last)
        return
    level = metrics
    for parent in parents:
        if not isinstance(level.get(parent), dict):
            level[parent] = {}
        level = level[parent]
    if isinstance(value, list | dict):
        value = copy.deepcopy(value)
    level[last] = _combined(level.get(last), value, mode)


def find(metrics: Mapping[str, Any], name: str) -> Any:
    """Give the metric of a dotted name, else None."""
    level: Any = metrics
    for segment in name.split("."):
        if not isinstance(level, dict):
            return None
        level = level.get(segment)
    return level


def check(metrics: Mapping[str, Any], name: str, value: Any, mode: Mode) -> None:
    """Refuse a record that breaks the rules; None is a deletion. Errors: ValueError for a name, TypeError for a value."""
    check_name(name)
    if value is None:
        return
    check_value(value)
    _check_path(metrics, name)
    there = find(metrics, name)
    if mode == "increment":
        if not _is_number(value):
            raise TypeError(f"metric {name!r}: increment needs an int or a float, not {_named(value)}")
        if there is not None and not _is_number(there):
            raise TypeError(f"metric {name!r} is of type {_named(there)} and cannot be incremented; delete it first")
    elif mode == "replace" and there is not None and _family(there) != _family(value):
        raise TypeError(f"metric {name!r} is of type {_named(there)}; delete it before it becomes {_named(value)}")


def check_name(name: str) -> None:
    """Refuse a name that breaks the rules. Errors: TypeError, ValueError."""
    if not isinstance(name, str):
        raise TypeError(f"a metric's name is a str, not {_named(name)}")
    if not name or len(name) > MAX_NAME:
        raise ValueError(f"a metric's name has 1 to {MAX_NAME} characters, not {len(name)}")
    if name == "predict_time" or name.startswith("predict_time."):
        raise ValueError("the metric 'predict_time' is reserved: it is measured for every prediction")
    if name.startswith("cog."):
        raise ValueError("metrics that begin with 'cog.' are reserved")
    segments = name.split(".")
    if len(segments) > MAX_DEPTH:
        raise ValueError(f"a metric's name has at most {MAX_DEPTH} segments between dots, not {len(segments)}")
    for segment in segments:
        if not _SEGMENT.fullmatch(segment):
            raise ValueError(
                f"{segment!r} in a metric's name: begin with a letter, then letters, digits and single underscores between them"
            )


def check_value(value: Any) -> None:
    """Refuse a value that is no finite JSON. Errors: TypeError, ValueError."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a metric is a finite number, not {value}")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the keys of a metric are of type str, not {_named(key)}")
            _check_inner(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_inner(inner)
    elif not isinstance(value, bool | int | float | str):
        raise TypeError(f"a metric is {_VALUES}, not {_named(value)}")


def _check_inner(value: Any) -> None:
    if value is not None:
        check_value(value)


def _check_path(metrics: Mapping[str, Any], name: str) -> None:
    parents = name.split(".")[:-1]
    for depth in range(1, len(parents) + 1):
        parent = ".".join(parents[:depth])
        there = find(metrics, parent)
        if there is not None and not isinstance(there, dict):
            raise TypeError(f"metric {parent!r} is of type {_named(there)} and has no parts; delete it first")


def _delete(metrics: dict[str, Any], parents: list[str], last: str) -> None:
    if not parents:
        metrics.pop(last, None)
        return
    inner = metrics.get(parents[0])
    if isinstance(inner, dict):
        _delete(inner, parents[1:], last)
        if not inner:
            del metrics[parents[0]]


def _combined(there: Any, value: Any, mode: Mode) -> Any:
    if mode == "increment" and _is_number(there) and _is_number(value):
        return there + value
    if mode == "append":
        before = there if isinstance(there, list) else [] if there is None else [there]
        before.append(value)
        return before
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _family(value: Any) -> str:
    return "number" if _is_number(value) else _named(value)


def _named(value: Any) -> str:
    return type(value).__name__
