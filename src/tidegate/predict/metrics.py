"""What metrics a prediction may record, and what a change of one does to those there are. Pure."""

import copy
import math
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal

from tidegate.predict.levels import MAX_LEVELS

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


def accepted(metrics: Mapping[str, Any], name: str, value: Any, mode: Mode) -> Any:
    """Give the value of a record as JSON has it, a copy; None is a deletion.

    Errors: ValueError for a name, TypeError or ValueError for a value: the record breaks the rules.
    """
    check_name(name)
    if value is None:
        return None
    value = plain(value)
    _check_path(metrics, name)
    there = find(metrics, name)
    if mode == "increment":
        _check_sum(name, there, value)
    elif mode == "replace" and there is not None and _family(there) != _family(value):
        raise TypeError(f"metric {name!r} is of type {_named(there)}; delete it before it becomes {_named(value)}")
    return value


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


def plain(value: Any, levels: int = MAX_LEVELS) -> Any:
    """Give a value as finite JSON, of Python's own types. Errors: TypeError, ValueError where it is none."""
    if _is_numpy(value):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return _number(value)
    if not isinstance(value, dict | list):
        raise TypeError(f"a metric is {_VALUES}, not {_named(value)}")
    if not levels:
        raise ValueError(f"a metric is nested more than {MAX_LEVELS} levels deep, or contains itself")
    if isinstance(value, dict):
        return {_key(key): _inner(inner, levels) for key, inner in value.items()}
    return [_inner(inner, levels) for inner in value]


def _inner(value: Any, levels: int) -> Any:
    return None if value is None else plain(value, levels - 1)


def _is_numpy(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic)


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"the keys of a metric are of type str, not {_named(key)}")
    return _text(key)


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("a metric has text with half a character in it: decode bytes with errors='replace'") from None
    return str.__str__(value)  # of an enumeration this is the value


def _number(value: float) -> float:
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an int that no float has room for
        finite = False
    if not finite:
        raise ValueError("a metric is a finite number below 1e308")
    return int.__int__(value) if isinstance(value, int) else float.__float__(value)


def _check_sum(name: str, there: Any, value: Any) -> None:
    if not _is_number(value):
        raise TypeError(f"metric {name!r}: increment needs an int or a float, not {_named(value)}")
    if there is None:
        return
    if not _is_number(there):
        raise TypeError(f"metric {name!r} is of type {_named(there)} and cannot be incremented; delete it first")
    _number(there + value)


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
