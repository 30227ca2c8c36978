"""YAML text to plain nodes that know where they were written. What settings mean is not known here.

Anchors and merge keys are resolved, variables expanded in scalars after the structure is fixed, so that a value cannot
become structure. Everything is bounded: bytes, depth, and the number of nodes with anchors written out.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import yaml
from msgspec import Struct

from tidegate.config.mistakes import At, Mistakes, show

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 32
MAX_NODES: Final = 100_000

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS: Final = "tag:yaml.org,2002:"
_KINDS: Final = {
    "str": "text", "int": "a number", "float": "a number", "bool": "true or false", "null": "nothing",
    "timestamp": "a date", "merge": "text", "value": "text",
}  # fmt: skip
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_VARIABLE: Final = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}|\$\{")


class Leaf(Struct, frozen=True):
    """A scalar. Shape: `kind` says what YAML takes it for, `any` is read as whatever is wanted; `variables` are in it.

    Holds: `shown` is what messages say it is; what came from the environment is `hidden`, it may be a secret.
    """

    at: At
    text: str
    kind: str
    shown: str
    hidden: bool = False
    variables: tuple[str, ...] = ()


class Rows(Struct, frozen=True):
    """A list."""

    at: At
    items: "tuple[Node, ...]"


class Table(Struct, frozen=True):
    """A mapping. Shape: `keys` has the place of each key of `entries`."""

    at: At
    entries: "dict[str, Node]"
    keys: dict[str, At]


class Broken(Struct, frozen=True):
    """A node whose mistake is noted already."""

    at: At


Node = Leaf | Rows | Table | Broken


def below(path: str, key: str) -> str:
    """Give the path of a mapping's member."""
    return ".".join(part for part in (path, key if _PLAIN_KEY.fullmatch(key) else show(key)) if part)


def from_flag(flag: str, text: str) -> Leaf:
    """Give the node of a command line's value."""
    return Leaf(At(flag), text, "any", show(text))


def from_variable(name: str, text: str) -> Leaf:
    """Give the node of an environment variable's value."""
    return Leaf(At(name), text, "any", f"the value of {name}", hidden=True, variables=(name,))


def parse(data: bytes, file: str, environ: Mapping[str, str], mistakes: Mistakes) -> Node:
    """Give the file's root node. Errors: ConfigError at once where no structure can be seen."""
    text = _text(data, file, mistakes)
    try:
        _measure(text)
        root = yaml.compose(text, Loader=_LOADER)
        if root is None:
            mistakes.fail(At(file, 1), "the file is empty; expected at least providers and models")
        return _Builder(file, environ, mistakes).build(root, "", 0)
    except _TooMuchError as above:
        mistakes.fail(At(file, above.line), str(above))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 0
        mistakes.fail(At(file, line), f"not YAML: {_reason(error)}", _quoting(text, line))


def override(root: Node, path: str, leaf: Leaf) -> Node:
    """Give the tree with one value set; a node on the way that is no mapping is left for the checks to refuse."""
    name, _, rest = path.partition(".")
    if isinstance(root, Leaf) and root.kind == "nothing":
        root = Table(root.at, {}, {})
    if not isinstance(root, Table):
        return root
    inner = root.entries.get(name, Table(leaf.at, {}, {}))
    child = override(inner, rest, leaf) if rest else leaf
    return Table(root.at, {**root.entries, name: child}, {name: leaf.at, **root.keys})


class _TooMuchError(Exception):
    """A file above a limit."""

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(problem)
        self.line = line


def _text(data: bytes, file: str, mistakes: Mistakes) -> str:
    """Give the file's text. Errors: ConfigError."""
    if len(data) > MAX_BYTES:
        mistakes.fail(At(file), "larger than 1MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mistakes.fail(At(file, data.count(b"\n", 0, error.start) + 1), "not UTF-8 text")
    bad = _CONTROL.search(text)
    if bad is not None:
        mistakes.fail(At(file, text.count("\n", 0, bad.start()) + 1), "a control character is not text")
    return text


def _measure(text: str) -> None:
    """Refuse what is too deep or too much before it is composed: libyaml's composer recurses until the stack is gone."""
    depth = 0
    event: Any
    for seen, event in enumerate(yaml.parse(text, Loader=_LOADER)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        _bound(depth, seen, event.start_mark.line + 1)


def _bound(depth: int, nodes: int, line: int) -> None:
    if depth > MAX_DEPTH:
        raise _TooMuchError(f"nested deeper than {MAX_DEPTH} levels", line)
    if nodes > MAX_NODES:
        raise _TooMuchError(f"more than {MAX_NODES} values, with anchors written out", line)


def _reason(error: yaml.YAMLError) -> str:
    """Give what the parser says, without the words it quotes: they may be a part of a secret."""
    context, problem = (getattr(error, name, None) for name in ("context", "problem"))
    told = ", ".join(part for part in (context, problem) if part) or "a character that YAML does not allow"
    return re.sub(r"'[^'<][^']+'", "'…'", told)


def _quoting(text: str, line: int) -> str:
    """Give the hint for the commonest slip: a variable without quotes where braces are YAML's own."""
    spoiled = line and "${" in "".join(text.splitlines()[line - 1 : line])
    return "inside { } and [ ], write '${VAR}' with its quotes" if spoiled else ""


class _Builder:
    """Composed YAML to nodes, one pass over what anchors stand for included."""

    def __init__(self, file: str, environ: Mapping[str, str], mistakes: Mistakes) -> None:
        self._file = file
        self._environ = environ
        self._mistakes = mistakes
        self._built = 0

    def build(self, node: yaml.Node, path: str, depth: int) -> Node:
        """Give the node and all below it. Errors: _TooMuchError."""
        at = self._at(node)
        self._count(depth, at)
        if isinstance(node, yaml.ScalarNode):
            return self._leaf(node, path, at)
        if node.tag == f"{_TAGS}seq" and isinstance(node, yaml.SequenceNode):
            return Rows(at, tuple(self.build(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(node.value)))
        if node.tag == f"{_TAGS}map" and isinstance(node, yaml.MappingNode):
            members = self._members(node, path, depth)
            return Table(
                at,
                {key: self.build(value, below(path, key), depth + 1) for key, (_, value) in members.items()},
                {key: self._at(name) for key, (name, _) in members.items()},
            )
        return self._tagged(at, path)

    def _at(self, node: yaml.Node) -> At:
        return At(self._file, node.start_mark.line + 1)

    def _count(self, depth: int, at: At) -> None:
        self._built += 1
        _bound(depth, self._built, at.line)

    def _tagged(self, at: At, path: str) -> Broken:
        self._mistakes.add(at, path, "a tag (!...) has no meaning here")
        return Broken(at)

    def _members(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Give key and value nodes by name; what is merged in yields to what stands in the mapping itself."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.tag == f"{_TAGS}merge":
                merged = {**self._merged(value, path, depth + 1), **merged}
            elif not isinstance(key, yaml.ScalarNode) or key.tag not in (f"{_TAGS}str", f"{_TAGS}value"):
                self._mistakes.add(self._at(key), path, "expected a key that is text", "put the key in quotes")
            elif key.value in own:
                first = self._at(own[key.value][0]).line
                self._mistakes.add(self._at(key), below(path, key.value), f"set twice, first on line {first}")
            else:
                own[key.value] = (key, value)
        return {**merged, **own}

    def _merged(self, node: yaml.Node, path: str, depth: int) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Give what `<<` brings in; of several mappings the first wins."""
        self._count(depth, self._at(node))
        if isinstance(node, yaml.MappingNode):
            return self._members(node, path, depth)
        if not isinstance(node, yaml.SequenceNode):
            self._mistakes.add(self._at(node), path, "expected a mapping, or a list of them, after <<")
            return {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for item in node.value:
            merged = {**self._merged(item, path, depth + 1), **merged}
        return merged

    def _leaf(self, node: yaml.ScalarNode, path: str, at: At) -> Node:
        kind = _KINDS.get(node.tag.removeprefix(_TAGS))
        if kind is None:
            return self._tagged(at, path)
        if "$" not in node.value:
            return Leaf(at, node.value, kind, show(node.value))
        problems: list[tuple[str, str]] = []
        expanded = _VARIABLE.sub(lambda found: self._expand(found, problems), node.value)
        for problem, hint in problems:
            self._mistakes.add(at, path, problem, hint)
        if problems:
            return Broken(at)
        if "${" in node.value.replace("$$", ""):
            variables = tuple(found[1] for found in _VARIABLE.finditer(node.value) if found[1])
            return Leaf(at, expanded, "any", f"the value of {show(node.value)}", hidden=True, variables=variables)
        return Leaf(at, expanded, kind, show(node.value))

    def _expand(self, found: re.Match[str], problems: list[tuple[str, str]]) -> str:
        """Give what stands for one `$$`, `${VAR}` or `${VAR:-default}`; note what is missing."""
        name, default = found.groups()
        if found[0] == "$$":
            return "$"
        if name is None:
            problems.append(("expected ${VAR} or ${VAR:-default} after a dollar sign", "write $$ for a plain $"))
            return ""
        if default is not None:
            return self._environ.get(name) or default.replace("$$", "$")
        if name not in self._environ:
            hint = f"set it, or give a default: ${{{name}:-...}}"
            problems.append((f"the environment variable {name} is not set", hint))
        return self._environ.get(name, "")
