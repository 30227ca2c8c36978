"""Nodes to plain values, by the types of the settings; every mistake is noted and the rest is read all the same.

What a field is comes from its annotation alone: a new field of a known kind needs nothing here.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from msgspec import Struct, structs

from tidegate.config import units
from tidegate.config.mistakes import At, Mistakes, did_you_mean
from tidegate.config.tree import Broken, Leaf, Node, Rows, Table, below
from tidegate.kernel.units import COUNT, DURATION, NUMBER, SIZE, Secret

FAILED: Final = object()
"""Stands for a value whose mistake is noted."""

_UNITS: Final[Mapping[str, Callable[[str], float]]] = {
    DURATION: units.duration_s,
    SIZE: units.size_bytes,
    COUNT: units.count,
    NUMBER: units.number,
}
_BARE: Final = frozenset({COUNT, NUMBER})
"""Units whose values are numbers to YAML, too: in quotes they are text, and a slip."""
_PLAIN: Final[Mapping[Any, str]] = {str: "text", Secret: "secret", bool: "switch"}
_SWITCH: Final = {**dict.fromkeys(("true", "yes", "on"), True), **dict.fromkeys(("false", "no", "off"), False)}
_COMPOUND: Final[Mapping[Any, tuple[str, int | None]]] = {
    Literal: ("choice", None),
    tuple: ("list", 0),
    dict: ("table", 1),
}


class Shape(Struct, frozen=True):
    """What a field holds. Shape: `of` is the Struct, the inner annotation, or the choices, by `name`."""

    name: str
    of: Any = None


class Spot(Struct, frozen=True):
    """A value that was read, and where."""

    path: str
    node: Node
    value: Any

    @property
    def shown(self) -> str:
        """What a message may say the value is."""
        return self.node.shown if isinstance(self.node, Leaf) else "a value"

    @property
    def where(self) -> str:
        """Its path, and its line where it has one."""
        return f"{self.path} on line {self.node.at.line}" if self.node.at.line else self.path

    def member(self, name: str) -> "Spot":
        """Give a mapping's member. Shape: one left out, or noted as a mistake, is None, and the former is at the mapping."""
        value = self.value.get(name) if isinstance(self.value, dict) else None
        node = self.node.entries.get(name, self.node) if isinstance(self.node, Table) else self.node
        return Spot(below(self.path, name), node, None if value is FAILED else value)

    def items(self) -> "list[Spot]":
        """Give a list's members. Shape: one that is noted as a mistake is None."""
        rows = self.node.items if isinstance(self.node, Rows) else ()
        return [
            Spot(f"{self.path}[{i}]", row, None if value is FAILED else value)
            for i, (row, value) in enumerate(zip(rows, self.value or (), strict=False))
        ]


Seen = Mapping[str, list[Spot]]
"""All that was read, by the pattern of its path (`providers[].name`)."""


class Place(Struct, frozen=True):
    """Where a value belongs: `path` with the positions in lists, `pattern` without."""

    path: str = ""
    pattern: str = ""

    def key(self, name: str) -> "Place":
        """Give the place of a mapping's member."""
        return Place(below(self.path, name), below(self.pattern, name))

    def item(self, position: int) -> "Place":
        """Give the place of a list's member."""
        return Place(f"{self.path}[{position}]", f"{self.pattern}[]")


def shape(hint: Any) -> Shape:
    """Give what an annotation means. Errors: TypeError for one that no file can hold."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return Shape(_PLAIN[hint])
    if isinstance(hint, type) and origin is None and issubclass(hint, Struct):
        return Shape("struct", hint)
    if origin is Annotated:
        return Shape(hint.__metadata__[0].title)
    if origin in _COMPOUND:
        name, position = _COMPOUND[origin]
        return Shape(name, args[position] if position is not None else args)
    raise TypeError(f"no setting can be {hint!r}")


class Decoder:
    """Reads nodes into values. Shape: `seen` has all that was read, by the pattern of its path (`providers[].name`).

    Shape: `secret` are the variables that secrets were taken from.
    """

    def __init__(self, mistakes: Mistakes) -> None:
        self._mistakes = mistakes
        self.seen: dict[str, list[Spot]] = {}
        self.secret: set[str] = set()

    def read(self, hint: Any, node: Node, place: Place) -> Any:
        """Give the value of a node, or FAILED."""
        if isinstance(node, Broken):
            return FAILED
        what = shape(hint)
        match what.name:
            case "struct":
                value = self._struct(what.of, node, place)
            case "list":
                value = self._list(what.of, node, place)
            case "table":
                value = self._table(what.of, node, place)
            case "choice":
                value = self._choice(what.of, node, place)
            case "text" | "secret":
                value = self._text(node, place)
            case "switch":
                value = self._switch(node, place)
            case unit:
                value = self._number(unit, node, place)
        if what.name == "secret" and isinstance(node, Leaf):
            self.secret.update(node.variables)
        if value is not FAILED:
            self.seen.setdefault(place.pattern, []).append(Spot(place.path, node, value))
        return value

    def _wrong(self, expected: str, node: Node, place: Place) -> Any:
        self._mistakes.add(node.at, place.path, f"expected {expected}, got {_what(node)}")
        return FAILED

    def _struct(self, cls: type[Struct], node: Node, place: Place) -> Any:
        table = _filled(node, Table(node.at, {}, {}))
        if not isinstance(table, Table):
            return self._wrong("a mapping of settings", table, place)
        fields = {field.encode_name: field for field in structs.fields(cls)}
        value: dict[str, Any] = {}
        for name, child in table.entries.items():
            if name in fields:
                value[name] = self._member(fields[name], child, place.key(name))
            else:
                self._unknown(name, table.keys[name], fields, place)
        for name, field in fields.items():
            if name not in value and field.required:
                self._mistakes.add(table.at, place.key(name).path, "required, but not there")
                value[name] = FAILED
        return value

    def _member(self, field: structs.FieldInfo, node: Node, place: Place) -> Any:
        if field.required and isinstance(node, Leaf) and not node.text:
            self._mistakes.add(node.at, place.path, "required, but empty")
            return FAILED
        return self.read(field.type, node, place)

    def _unknown(self, name: str, at: At, known: Mapping[str, object], place: Place) -> None:
        hint = did_you_mean(name, known) or f"known here: {', '.join(known)}"
        self._mistakes.add(at, place.key(name).path, "unknown key", hint)

    def _list(self, inner: Any, node: Node, place: Place) -> Any:
        rows = _filled(node, Rows(node.at, ()))
        if not isinstance(rows, Rows):
            return self._wrong("a list", rows, place)
        return [self.read(inner, item, place.item(i)) for i, item in enumerate(rows.items)]

    def _table(self, inner: Any, node: Node, place: Place) -> Any:
        table = _filled(node, Table(node.at, {}, {}))
        if not isinstance(table, Table):
            return self._wrong("a mapping", table, place)
        return {name: self.read(inner, child, place.key(name)) for name, child in table.entries.items()}

    def _text(self, node: Node, place: Place) -> Any:
        if not isinstance(node, Leaf):
            return self._wrong("text", node, place)
        if node.kind not in ("text", "any"):
            hint = "" if node.kind == "nothing" else "put it in quotes"
            self._mistakes.add(node.at, place.path, f"expected text, got {node.kind}", hint)
            return FAILED
        return node.text

    def _switch(self, node: Node, place: Place) -> Any:
        if not isinstance(node, Leaf):
            return self._wrong("true or false", node, place)
        value = _SWITCH.get(node.text.lower())
        if value is not None and node.kind in ("true or false", "any"):
            return value
        hint = "leave out the quotes" if value is not None else ""
        self._mistakes.add(node.at, place.path, f"expected true or false, got {node.shown}", hint)
        return FAILED

    def _choice(self, choices: tuple[str, ...], node: Node, place: Place) -> Any:
        expected = " or ".join(filter(None, choices))
        if not isinstance(node, Leaf):
            return self._wrong(expected, node, place)
        if node.text in choices:
            return node.text
        hint = did_you_mean(node.text, choices)
        self._mistakes.add(node.at, place.path, f"expected {expected}, got {node.shown}", hint)
        return FAILED

    def _number(self, unit: str, node: Node, place: Place) -> Any:
        if not isinstance(node, Leaf) or node.kind == "nothing":
            return self._wrong(units.EXPECTED[unit], node, place)
        try:
            value = _UNITS[unit](node.text)
        except units.UnitError as error:
            expected, hint = error.expected, "" if node.hidden else error.hint
        else:
            if unit not in _BARE or node.kind != "text":
                return value
            expected, hint = units.EXPECTED[unit], "leave out the quotes"
        self._mistakes.add(node.at, place.path, f"expected {expected}, got {node.shown}", hint)
        return FAILED


def _filled(node: Node, empty: Node) -> Node:
    """Give `empty` for a section whose members are all left out."""
    return empty if isinstance(node, Leaf) and node.kind == "nothing" else node


def _what(node: Node) -> str:
    """Give the kind of thing that a node is, never its value."""
    if isinstance(node, Leaf):
        return "text" if node.kind == "any" else node.kind
    return "a list" if isinstance(node, Rows) else "a mapping"
