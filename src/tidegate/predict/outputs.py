"""A handler's return annotation → its Output: the schema clients see, whether it is a list, whether it is text."""

import io
import pathlib
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Annotated, Any, Final

from tidegate.predict.kinds import Concatenate
from tidegate.predict.pool import Schema
from tidegate.predict.shapes import (
    UnsupportedError,
    describe,
    is_file,
    is_pydantic,
    nullable,
    peel,
    pydantic_schema,
    type_name,
)

_ITERATORS: Final = (Iterator, Iterable, Generator, AsyncIterator, AsyncIterable, AsyncGenerator)
_LISTS: Final = (list, tuple, set, frozenset)
_BYTES: Final = (bytes, bytearray, memoryview)
_TIMES: Final = ((datetime, "date-time"), (date, "date"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a handler gives. Shape: `array` says a list, `iterates` one that comes piece by piece, `text` str or pieces of it."""

    schema: Schema
    defs: Schema = field(default_factory=dict)
    array: bool = False
    iterates: bool = False
    text: bool = False


def output_of(annotation: Any, *, generates: bool) -> Output:
    """Give the output of a return annotation, or of none. Errors: UnsupportedError."""
    if annotation is MISSING_RETURN:
        schema: Schema = {"type": "array", "items": {}, "x-cog-array-type": "iterator"} if generates else {}
        return Output(schema=schema, array=generates, iterates=generates)
    annotation = _awaited(annotation)
    iterator = _iterated(annotation)
    if iterator is not None:
        element, concatenated = iterator
        defs: Schema = {}
        schema = {"type": "array", "items": _schema(element, defs), "x-cog-array-type": "iterator"}
        if concatenated:
            schema["x-cog-array-display"] = "concatenate"
        return Output(schema=schema, defs=defs, array=True, iterates=True, text=element is str)
    if generates:
        raise UnsupportedError(
            f"it yields, but is annotated -> {type_name(annotation)}: write -> Iterator[...] or AsyncIterator[...]"
        )
    defs = {}
    schema = _schema(annotation, defs)
    array = schema.get("type") == "array"
    return Output(schema=schema, defs=defs, array=array, text=annotation is str)


MISSING_RETURN: Final = object()


def _awaited(annotation: Any) -> Any:
    origin = typing.get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, typing.Awaitable):
        return typing.get_args(annotation)[-1]
    return annotation


def _iterated(annotation: Any) -> tuple[Any, bool] | None:
    concatenated = False
    while typing.get_origin(annotation) is Annotated:
        annotation, *marks = typing.get_args(annotation)
        concatenated |= Concatenate in marks
    if annotation in _ITERATORS:
        return Any, concatenated
    if typing.get_origin(annotation) in _ITERATORS:
        element = typing.get_args(annotation)[0]
        return Any if isinstance(element, typing.TypeVar) else element, concatenated
    return None


def _schema(annotation: Any, defs: Schema) -> Schema:
    peeled = peel(annotation)
    schema = _bare(peeled.inner, defs)
    return nullable(schema) if peeled.optional else schema


def _bare(kind: Any, defs: Schema) -> Schema:
    if kind in _BYTES:
        raise UnsupportedError(f"it returns {type_name(kind)}: write a file and return its Path")
    if kind is None or kind is types.NoneType:
        return {"type": "null"}
    if is_file(kind):
        return {"type": "string", "format": "uri"}
    for moment, name in _TIMES:
        if kind is moment:
            return {"type": "string", "format": name}
    if kind in _LISTS or typing.get_origin(kind) in {list, set, frozenset}:
        (element,) = typing.get_args(kind) or (Any,)
        return {"type": "array", "items": _schema(element, defs)}
    if is_pydantic(kind):
        schema, nested = pydantic_schema(kind)
        defs.update(nested)
        return schema
    return _described(kind, defs)


def _described(kind: Any, defs: Schema) -> Schema:
    try:
        schema, nested = describe(kind, _custom)
    except (TypeError, NotImplementedError, RecursionError):
        # A type without a schema may still become JSON; whether it does is seen when it is returned.
        return {}
    defs.update(nested)
    return schema


def _custom(kind: Any) -> Schema:
    if isinstance(kind, type) and issubclass(kind, pathlib.Path | io.IOBase):
        return {"type": "string", "format": "uri"}
    if is_pydantic(kind):
        schema, nested = pydantic_schema(kind)
        return {**schema, "$defs": nested}
    # An empty schema would be taken for none.
    return {"title": type_name(kind)}
