"""An input's annotation → its Shape: the JSON Schema of what clients send, and how that becomes the Python value."""

import functools
import io
import operator
import pathlib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Annotated, Any, Final, Literal, Union

import msgspec

from tidegate.predict.inputs import InputInfo
from tidegate.predict.kinds import File, Opaque, Secret
from tidegate.predict.pool import LOCAL, Pool, Schema

Family = Literal["text", "number", "truth", "file", "files", "secret", "list", "other"]

_FILES: Final = (pathlib.Path, io.IOBase)
_LISTS: Final = (list, Sequence, Iterable, Collection)
_PATH_FORMATS: Final = frozenset({"path", "file-path", "directory-path"})
_NO_FILES: Final = "files are inputs of their own (Path or list[Path]), never parts of another type"


class UnsupportedError(Exception):
    """A type that no JSON can become. Shape: a phrase for the list of mistakes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What clients send for an input and what it becomes.

    Shape: `schema` is JSON Schema 2020-12 with references into `defs`, without null; `convert` is not called with None of
    an optional input, nor for files. Errors: `convert` raises ValueError, or the user's own validation error.
    """

    name: str
    family: Family
    schema: Schema
    convert: Callable[[Any], Any]
    defs: Schema = field(default_factory=dict)
    optional: bool = False
    opens: bool = False
    """Whether a file is handed on open, not as a path."""
    choices: tuple[Any, ...] = ()
    """The JSON values of an enumeration."""

    @property
    def has_null(self) -> bool:
        """Whether null is one of its values without being optional, as it is of Any."""
        return self.schema == {} or None in self.choices


@dataclass(slots=True)
class Peeled:
    """An annotation without its wrappers: what is said of it with Input, and whether None is allowed."""

    inner: Any
    optional: bool = False
    opaque: bool = False
    infos: list[InputInfo] = field(default_factory=list)


def peel(annotation: Any) -> Peeled:
    """Take Annotated and Optional off an annotation, however they are nested."""
    peeled = Peeled(annotation)
    while True:
        if typing.get_origin(peeled.inner) is Annotated:
            inner, *marks = typing.get_args(peeled.inner)
            peeled.infos += [mark for mark in marks if isinstance(mark, InputInfo)]
            peeled.opaque |= any(mark is Opaque or isinstance(mark, Opaque) for mark in marks)
            if any(isinstance(mark, msgspec.Meta) for mark in marks):
                return peeled
            peeled.inner = inner
        elif is_alias(peeled.inner):
            peeled.inner = peeled.inner.__value__
        elif is_union(peeled.inner) and type(None) in typing.get_args(peeled.inner):
            members = [member for member in typing.get_args(peeled.inner) if member is not type(None)]
            peeled.optional = True
            peeled.inner = functools.reduce(operator.or_, members)
        else:
            return peeled


def shape_of(annotation: Any) -> Shape:
    """Give the shape of an annotation. Errors: UnsupportedError."""
    peeled = peel(annotation)
    inner = _ANYTHING if peeled.opaque else peeled.inner
    shape = _bare(inner)
    if not peeled.optional:
        return shape
    return Shape(
        name=shape.name,
        family=shape.family,
        schema=shape.schema,
        convert=shape.convert,
        defs=shape.defs,
        optional=True,
        opens=shape.opens,
        choices=shape.choices,
    )


def nullable(schema: Schema) -> Schema:
    """Let a schema accept null as well. Shape: in one `type` where that says it, for the sake of readable messages."""
    if not schema:
        return schema
    simple = isinstance(schema.get("type"), str) or ("enum" in schema and "type" not in schema)
    if not simple or {"$ref", "const", "anyOf"} & schema.keys():
        return {"anyOf": [schema, {"type": "null"}]}
    wider = dict(schema)
    if "type" in schema:
        wider["type"] = [schema["type"], "null"]
    if "enum" in schema:
        wider["enum"] = [*schema["enum"], None]
    return wider


def is_union(annotation: Any) -> bool:
    """Whether an annotation is a union, however it is written."""
    return typing.get_origin(annotation) in {Union, types.UnionType}


def is_alias(annotation: Any) -> bool:
    """Whether an annotation is a name for another, as the `type` statement makes it; Python 3.11 has none of its own."""
    return type(annotation).__name__ == "TypeAliasType"


def is_file(annotation: Any) -> bool:
    """Whether an annotation is a file: Path, File, an open file."""
    if typing.get_origin(annotation) is typing.IO or annotation in {typing.IO, typing.BinaryIO, typing.TextIO}:
        return True
    return isinstance(annotation, type) and issubclass(annotation, _FILES)


def is_pydantic(annotation: Any) -> bool:
    """Whether a class is a pydantic model, of whichever generation; pydantic itself is not imported."""
    return isinstance(annotation, type) and any(
        base.__module__.partition(".")[0] == "pydantic" and base.__name__ == "BaseModel" for base in annotation.__mro__
    )


def type_name(annotation: Any) -> str:
    """Give a type as the user wrote it, shortly."""
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("pathlib.", "").replace("collections.abc.", "")


def pydantic_schema(model: Any) -> tuple[Schema, Schema]:
    """Give a reference to a pydantic model's schema, and the definitions, of which it is one."""
    template = LOCAL + "{model}"
    if hasattr(model, "model_json_schema"):
        schema = model.model_json_schema(ref_template=template)
    else:
        schema = model.schema(ref_template=template)
    schema = dict(schema)
    defs = {**schema.pop("$defs", {}), **schema.pop("definitions", {})}
    if schema.keys() == {"$ref"}:  # it refers to itself
        return schema, defs
    name = model.__name__
    while name in defs:
        name += "_"
    return {"$ref": LOCAL + name}, {**defs, name: schema}


def describe(kind: Any, custom: Callable[[Any], Schema]) -> tuple[Schema, Schema]:
    """Give a type's schema, and the definitions it refers to. Shape: `custom` gives the schemas of types msgspec does not know.

    Errors: TypeError, NotImplementedError, RecursionError for a type that has none.
    """
    (schema,), defs = msgspec.json.schema_components([kind], schema_hook=custom, ref_template=LOCAL + "{name}")
    pool = Pool()
    pool.take({}, defs)  # these keep their names; those of custom schemas are taken below

    def lift(part: Any) -> Any:
        if isinstance(part, list):
            return [lift(each) for each in part]
        if not isinstance(part, dict):
            return part
        lifted = {key: lift(value) for key, value in part.items() if key != "$defs"}
        return pool.take(lifted, part["$defs"]) if "$defs" in part else lifted

    lifted = {name: lift(part) for name, part in defs.items()}
    return lift(schema), {**pool.parts, **lifted}


def whole(value: Any) -> Any:
    """Give a JSON value with its integral floats (1.0) as ints, all the way down."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [whole(item) for item in value]
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    return value


_ANYTHING: Final = object


def _bare(kind: Any) -> Shape:
    for fits, make in _MAKERS:
        if fits(kind):
            return make(kind)
    return _other(kind)


def _any(_kind: Any) -> Shape:
    return Shape(name="Any", family="other", schema={}, convert=_same)


def _secret(kind: Any) -> Shape:
    schema = {"type": "string", "format": "password", "writeOnly": True, "x-cog-secret": True}

    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"expected a string, got {json_name(value)}")  # noqa: TRY004  (one error type for callers)
        return kind(value)

    return Shape(name="Secret", family="secret", schema=schema, convert=convert)


def _simple(kind: Any) -> Shape:
    family, schema = _SIMPLE[kind]
    return Shape(name=kind.__name__, family=family, schema=dict(schema), convert=_converting(kind))


def _same(value: Any) -> Any:
    return value


_SIMPLE: Final[Mapping[Any, tuple[Family, Schema]]] = {
    str: ("text", {"type": "string"}),
    int: ("number", {"type": "integer"}),
    float: ("number", {"type": "number"}),
    bool: ("truth", {"type": "boolean"}),
    dict: ("other", {"type": "object"}),
    datetime: ("other", {"type": "string", "format": "date-time"}),
    date: ("other", {"type": "string", "format": "date"}),
}


def _file(kind: Any) -> Shape:
    if isinstance(kind, type) and issubclass(kind, pathlib.Path):
        return Shape(name="Path", family="file", schema={"type": "string", "format": "uri"}, convert=pathlib.Path)
    if kind in {File, typing.BinaryIO, io.IOBase, io.BufferedIOBase, io.BufferedReader} or typing.get_args(kind) == (
        bytes,
    ):
        return Shape(
            name="File", family="file", schema={"type": "string", "format": "uri"}, convert=_opened, opens=True
        )
    raise UnsupportedError(f"{type_name(kind)} is not supported: take a Path, or a File, which is open in binary")


def _opened(path: str) -> File:
    return File(io.FileIO(path))


def _list(kind: Any) -> Shape:
    (inner,) = typing.get_args(kind) or (Any,)
    item = shape_of(inner)
    if item.family == "files" or (item.family == "file" and item.optional):
        raise UnsupportedError(f"{type_name(kind)} is not supported: files are taken as Path or list[Path]")
    items = nullable(item.schema) if item.optional else item.schema

    def convert(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError(f"expected a list, got {json_name(value)}")  # noqa: TRY004  (one error type for callers)
        return [None if each is None and item.optional else item.convert(each) for each in value]

    return Shape(
        name=f"list[{item.name}]",
        family="files" if item.family == "file" else "list",
        schema={"type": "array", "items": items} if items else {"type": "array"},
        convert=convert,
        defs=item.defs,
        opens=item.opens,
        choices=item.choices,
    )


def json_name(value: Any) -> str:
    """Give the JSON type of a value, in a word."""
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _model(kind: Any) -> Shape:
    schema, defs = pydantic_schema(kind)
    if any(_names_a_path(part) for part in defs.values()):
        raise UnsupportedError(f"{type_name(kind)} has a path in it: {_NO_FILES}")
    validate = getattr(kind, "model_validate", None) or kind.parse_obj
    return Shape(name=kind.__name__, family="other", schema=schema, convert=validate, defs=defs)


def _names_a_path(schema: Any) -> bool:
    if isinstance(schema, dict):
        return schema.get("format") in _PATH_FORMATS or any(_names_a_path(part) for part in schema.values())
    return isinstance(schema, list) and any(_names_a_path(part) for part in schema)


def _union(kind: Any) -> Shape:
    members = [shape_of(member) for member in typing.get_args(kind)]
    for member in members:
        if member.family in {"file", "files", "secret"}:
            raise UnsupportedError(
                f"{type_name(kind)} is not supported: a {member.name} cannot be told from other types; make it its own input"
            )
    families = {member.family for member in members}
    try:
        convert = _other(kind).convert
    except UnsupportedError:
        convert = _first_of(members, type_name(kind))
    pool = Pool()
    schemas = [pool.take(member.schema, member.defs) for member in members]
    return Shape(
        name=type_name(kind),
        family="number" if families == {"number"} else "other",
        schema={"anyOf": schemas} if all(schemas) else {},
        convert=convert,
        defs=pool.parts,
    )


def _first_of(members: list[Shape], name: str) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        for member in members:
            try:
                return member.convert(value)
            except (ValueError, TypeError):
                continue
        raise ValueError(f"expected {name}, got {json_name(value)}")

    return convert


def _other(kind: Any) -> Shape:
    if kind in {bytes, bytearray, memoryview}:
        raise UnsupportedError(f"{type_name(kind)} is not supported: take a Path, and read the file")
    try:
        schema, defs = describe(kind, _custom_schema)
    except (TypeError, NotImplementedError, RecursionError) as error:
        reason = (
            _NO_FILES
            if "Path" in str(error)
            else "take str, int, float, bool, Path, list, dict, an Enum or a dataclass"
        )
        raise UnsupportedError(f"{type_name(kind)} is not supported: {reason}") from error
    return Shape(
        name=type_name(kind),
        family="other",
        schema=schema,
        convert=_converting(kind),
        defs=defs,
        choices=_enumerated(schema, defs),
    )


def _custom_schema(kind: Any) -> Schema:
    if is_pydantic(kind):
        schema, defs = pydantic_schema(kind)
        if not any(_names_a_path(part) for part in defs.values()):
            return {**schema, "$defs": defs}
    raise NotImplementedError


def _enumerated(schema: Schema, defs: Schema) -> tuple[Any, ...]:
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    return tuple(defs.get(name, schema).get("enum", ()))


def _converting(kind: Any) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        try:
            return msgspec.convert(value, kind, dec_hook=_custom)
        except msgspec.ValidationError:
            # JSON Schema calls 1.0 an integer, which msgspec does not.
            return msgspec.convert(whole(value), kind, dec_hook=_custom)

    return convert


def _custom(kind: Any, value: Any) -> Any:
    return (getattr(kind, "model_validate", None) or kind.parse_obj)(value)


_MAKERS: Final[tuple[tuple[Callable[[Any], bool], Callable[[Any], Shape]], ...]] = (
    (lambda kind: kind is Any or kind is _ANYTHING, _any),
    (lambda kind: isinstance(kind, type) and issubclass(kind, Secret), _secret),
    (is_file, _file),
    (lambda kind: kind in _SIMPLE, _simple),
    (lambda kind: kind in _LISTS or typing.get_origin(kind) in _LISTS, _list),
    (is_pydantic, _model),
    (is_union, _union),
)
