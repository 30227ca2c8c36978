"""The definitions that schemas refer to, each under a name of its own, though types of one name differ. Pure."""

import re
from collections.abc import Mapping
from typing import Any, Final

Schema = dict[str, Any]

LOCAL: Final = "#/$defs/"
_ODD: Final = re.compile(r"[^A-Za-z0-9_.-]")


class Pool:
    """The definitions of one document. Shape: `parts` refer to each other below `place`; no name is among `taken`."""

    def __init__(self, place: str = LOCAL, taken: frozenset[str] = frozenset()) -> None:
        self.parts: Schema = {}
        self._place = place
        self._taken = taken
        self._origins: dict[str, Schema] = {}

    def take(self, schema: Schema, defs: Schema) -> Schema:
        """Take a schema's definitions in; gives the schema with the names they have here."""
        names = {name: self._name(name, defs) for name in defs}
        self.parts.update({names[name]: self._renamed(part, names) for name, part in defs.items()})
        renamed: Schema = self._renamed(schema, names)
        return renamed

    def _name(self, name: str, defs: Schema) -> str:
        """Give a name that is free, or that of the same definition; what it refers to is a part of it."""
        origin = {"": defs[name], **{each: defs[each] for each in _reached(defs[name], defs)}}
        name = _ODD.sub("_", name)
        while name in self._taken or self._origins.get(name, origin) != origin:
            name += "_"
        self._origins[name] = origin
        return name

    def _renamed(self, part: Any, names: Mapping[str, str]) -> Any:
        if isinstance(part, list):
            return [self._renamed(each, names) for each in part]
        if not isinstance(part, dict):
            return part
        renamed = {key: self._renamed(value, names) for key, value in part.items()}
        if isinstance(part.get("$ref"), str):
            name = part["$ref"].removeprefix(LOCAL)
            renamed["$ref"] = self._place + names.get(name, name)
        return renamed


def _reached(part: Any, defs: Schema) -> set[str]:
    """Give the definitions that a part refers to, however far."""
    found: set[str] = set()
    left = [part]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left += each
        elif isinstance(each, dict):
            left += each.values()
            name = str(each.get("$ref", "")).removeprefix(LOCAL)
            if name in defs and name not in found:
                found.add(name)
                left.append(defs[name])
    return found
