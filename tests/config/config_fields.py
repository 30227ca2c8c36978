"""Every setting that the file may hold, found by msgspec's own inspection and not by the code under test."""

from collections.abc import Iterator

import msgspec.inspect as look

from tidegate.config import Config


def fields_of(cls: type) -> list[str]:
    """Give the dotted YAML path of each setting; `[]` stands for a list's members, `*` for a mapping's."""
    return list(_paths(look.type_info(cls), ""))


def _paths(kind: look.Type, path: str) -> Iterator[str]:
    if isinstance(kind, look.Metadata):
        yield from _paths(kind.type, path)
    elif isinstance(kind, look.StructType):
        for field in kind.fields:
            yield from _paths(field.type, f"{path}.{field.encode_name}".lstrip("."))
    elif isinstance(kind, look.VarTupleType):
        yield from _paths(kind.item_type, f"{path}[]")
    elif isinstance(kind, look.DictType):
        yield from _paths(kind.value_type, f"{path}.*")
    else:
        yield path


ALL_FIELDS = tuple(fields_of(Config))
