"""What a Python file defines at its top level: read and parsed, never run."""

import ast
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

from tidegate.config.mistakes import did_you_mean

MAX_BYTES: Final = 4 * 1024 * 1024
"""A larger file is not looked at."""
MAX_LISTED: Final = 10
USUAL: Final = ("Model", "Runner", "Predictor")
"""What a handler is called where a reference has no name."""

_DYNAMIC: Final = frozenset({"exec", "eval", "globals", "locals", "setattr", "vars", "__import__"})
"""Functions that can make names which nobody sees in the text."""
_SCOPES: Final = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def trouble(place: str, name: str) -> str:
    """Give what keeps a handler from being in a file or module; empty where nothing does, or only a run would tell."""
    path = Path(place) if place.endswith(".py") else _file_of(place)
    text = None if path is None else _read(path)
    if path is None or text is None:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes; whoever runs the file is told
            tree = ast.parse(text)
    except SyntaxError as error:
        return f"{path}, line {error.lineno or 1}: not Python: {error.msg}"
    except (RecursionError, MemoryError):
        return ""  # what is too deep for this may not be too deep to run
    return "" if _dynamic(tree) else _missing(tree, place, name)


def _missing(tree: ast.Module, place: str, name: str) -> str:
    """Give which name is not there, and which are."""
    bound = set(_bound(tree)) | {each for node in ast.walk(tree) if isinstance(node, ast.Global) for each in node.names}
    if not bound.isdisjoint((name,) if name else USUAL):
        return ""
    there = [node.name for node in _shallow(tree) if isinstance(node, _SCOPES[:3]) and not node.name.startswith("_")]
    listed = ", ".join([*there[:MAX_LISTED], *(["…"] if len(there) > MAX_LISTED else [])])
    if name:
        hint = did_you_mean(name, there)
        found = f"which has {listed}" if there else "which has no class and no function"
        return f"there is no {name} in {place}, {found}" + (f"; {hint}" if hint else "")
    wanted = f"{place} has no {', '.join(USUAL[:-1])} or {USUAL[-1]}"
    return (
        f"{wanted}; name one of {listed}, as in {place}:{there[0]}" if there else f"{wanted}, and nothing else to serve"
    )


def _dynamic(tree: ast.Module) -> bool:
    """Say whether a file may have names that its text does not show."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(names=[ast.alias(name="*")]) | ast.Attribute(attr="modules" | "__dict__"):
                return True
            case ast.Name(id=name) | ast.FunctionDef(name=name) if name in _DYNAMIC or name == "__getattr__":
                return True
            case _:
                pass
    return False


def _shallow(tree: ast.AST) -> Iterator[ast.AST]:
    """Give what stands at the top level, in blocks such as `if` and `try` too, but not in classes and functions."""
    left = deque(ast.iter_child_nodes(tree))
    while left:
        node = left.popleft()
        yield node
        if not isinstance(node, _SCOPES):
            left.extend(ast.iter_child_nodes(node))


def _bound(tree: ast.Module) -> Iterator[str]:
    """Give the names that a file's top level has."""
    for node in _shallow(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.alias(name=name, asname=other):
                yield other or name.partition(".")[0]
            case _:
                pass


def _read(path: Path) -> bytes | None:
    """Give a file's bytes; None for one that cannot be read, or is too large."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError:
        return None
    return text if len(text) <= MAX_BYTES else None


def _file_of(module: str) -> Path | None:
    """Give where a module's text is; None where only an import would find it."""
    where: Sequence[str] | None = [str(Path.cwd()), *sys.path]
    spec = None
    for part in module.split("."):
        if where is None:
            return None  # below a module that is no package
        spec = PathFinder.find_spec(part, where)
        if spec is None:
            return None
        places = spec.submodule_search_locations
        where = None if places is None else list(places)
    origin = spec.origin if spec is not None and spec.has_location else None
    return Path(origin) if origin is not None and origin.endswith(".py") else None
