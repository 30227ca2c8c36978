"""JSON of whatever a handler gives: models, dates, arrays, files; and a plain sentence for what cannot be JSON."""

import base64
import dataclasses
import enum
import io
import math
import mimetypes
import pathlib
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any, Final

import msgspec

from tidegate.predict.kinds import Secret
from tidegate.predict.levels import MAX_LEVELS

ToUri = Callable[[pathlib.Path], str]
_Turn = Callable[["_Plain", Any], Any]

_AS_THEY_ARE: Final = frozenset({str, int, bool, type(None)})
_TOO_DEEP: Final = f"the output is nested more than {MAX_LEVELS} levels deep, or contains itself: return a flat copy"
_BYTES: Final = (bytes, bytearray, memoryview)


def encode(value: Any, *, file: ToUri) -> bytes:
    """Give the JSON of an output. Shape: `file` turns a file into its data URI.

    Errors: TypeError, ValueError: a sentence that says what to return instead.
    """
    try:
        return msgspec.json.encode(value if type(value) in _AS_THEY_ARE else _Plain(file).plain(value))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except UnicodeEncodeError:
        raise ValueError(
            "the output has text with half a character in it: decode bytes with errors='replace'"
        ) from None


def data_uri(path: pathlib.Path) -> str:
    """Give a file as a data URI, its media type guessed by its name. Errors: ValueError when there is no such file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"the output file {path.name!r} cannot be read: {error.strerror}") from None
    return _uri(content, mimetypes.guess_type(path.name)[0])


def _uri(content: bytes, media_type: str | None) -> str:
    return f"data:{media_type or 'application/octet-stream'};base64,{base64.b64encode(content).decode()}"


class _Plain:
    """Turns a value into what JSON has: dicts, lists, texts, numbers, truth and null."""

    __slots__ = ("_file", "_levels")

    def __init__(self, file: ToUri) -> None:
        self._file = file
        self._levels = 0

    def plain(self, value: Any) -> Any:
        if type(value) in _AS_THEY_ARE:
            return value
        exact = _EXACT.get(type(value))
        if exact is not None:
            return exact(self, value)
        for fits, turn in _RULES:
            if fits(value):
                return turn(self, value)
        raise TypeError(
            f"an output of type {type(value).__name__} cannot become JSON: "
            "return str, int, float, bool, list, dict, a dataclass, a pydantic model or a Path"
        )

    def each(self, value: Any) -> list[Any]:
        self._descend()
        found = [self.plain(each) for each in value]
        self._levels -= 1
        return found

    def members(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        self._descend()
        found = {_key(key): self.plain(each) for key, each in value.items()}
        self._levels -= 1
        return found

    def fields(self, value: Any) -> dict[str, Any]:
        return self.members({each.name: getattr(value, each.name) for each in dataclasses.fields(value)})

    def _descend(self) -> None:
        self._levels += 1
        if self._levels > MAX_LEVELS:
            raise ValueError(_TOO_DEEP)

    def struct(self, value: msgspec.Struct) -> Any:
        return self.plain(msgspec.to_builtins(value, builtin_types=_BYTES, str_keys=True, enc_hook=self.plain))

    def path(self, value: pathlib.PurePath) -> str:
        path = pathlib.Path(value)
        if not path.is_file():
            raise ValueError(f"the output file {path.name!r} does not exist: write it before returning its path")
        return self._file(path)

    def content(self, value: Any) -> str:
        if getattr(value, "closed", False):
            raise ValueError("an output file is closed: return its Path, or leave it open")
        name = getattr(value, "name", None)
        if isinstance(name, str) and pathlib.Path(name).is_file():
            if value.writable():
                value.flush()
            return self._file(pathlib.Path(name))
        if value.seekable():
            value.seek(0)
        content = value.read()
        text = isinstance(content, str)
        return _uri(content.encode() if text else content, "text/plain" if text else None)


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _is_numpy(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic | numpy.ndarray)


def _is_pydantic(value: Any) -> bool:
    return any(each.__module__.partition(".")[0] == "pydantic" for each in type(value).__mro__) and (
        hasattr(value, "model_dump") or hasattr(value, "dict")
    )


def _is_open_file(value: Any) -> bool:
    # What tempfile gives wraps a file and derives from nothing.
    return all(callable(getattr(value, name, None)) for name in ("read", "seekable", "writable", "flush"))


def _dumped(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value.dict()


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"the output has {value} in it, which JSON has not: return None or a finite number")
    return float(value)


def _key(key: Any) -> str:
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, str):
        return str(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    raise TypeError(f"a dict with keys of type {type(key).__name__} cannot become JSON: make its keys str")


def _refuse_bytes(value: Any) -> Any:
    raise TypeError(
        f"{type(value).__name__} cannot become JSON: write a file and return its Path, or decode them to a str"
    )


def _refuse_secret(_value: Any) -> Any:
    raise TypeError("a Secret is never part of an output: return something else")


def _refuse_iterator(value: Any) -> Any:
    raise TypeError(
        f"{type(value).__name__} is an iterator inside an output: return list(...), or yield from it in the handler"
    )


def _alone(turn: Callable[[Any], Any]) -> _Turn:
    """Give a rule that needs nothing but the value."""
    return lambda _, value: turn(value)


_EXACT: Final[Mapping[type, _Turn]] = {float: _alone(_finite), list: _Plain.each, dict: _Plain.members}
_RULES: Final[tuple[tuple[Callable[[Any], bool], _Turn], ...]] = (
    (_is(enum.Enum), lambda plain, value: plain.plain(value.value)),
    (_is_numpy, lambda plain, value: plain.plain(value.tolist())),
    (_is(str), _alone(str)),
    (_is(bool), _alone(bool)),
    (_is(int), _alone(int)),
    (_is(float), _alone(_finite)),
    (_is(Mapping), _Plain.members),
    (_is(list, tuple, set, frozenset), _Plain.each),
    (_is(*_BYTES), _alone(_refuse_bytes)),
    (_is(pathlib.PurePath), _Plain.path),
    (_is(io.IOBase), _Plain.content),
    (_is(Secret), _alone(_refuse_secret)),
    (_is(msgspec.Struct), _Plain.struct),
    (_is_dataclass, _Plain.fields),
    (_is_pydantic, lambda plain, value: plain.plain(_dumped(value))),
    (_is(date, time), _alone(lambda value: value.isoformat())),
    (_is(uuid.UUID, Decimal), _alone(str)),
    (_is_open_file, _Plain.content),
    (_is(Iterator), _alone(_refuse_iterator)),
)
"""Asked in this order: an Enum may be a str, a numpy number a float."""
