"""A reference → the user's class or function: `file.py:Name` or `package.module:Name`."""

import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
from types import ModuleType
from typing import Any, Final

from tidegate.predict.mistakes import HandlerError
from tidegate.predict.model import Model

_NAMES: Final = ("Model", "Runner", "Predictor")
_COG: Final = "; write `from tidegate.predict import ...` in place of `from cog import ...`, the names are the same"


def find(reference: str) -> tuple[str, Any]:
    """Import what a reference names. Shape: the whole reference, with `:Name`, and a class or function.

    Errors: HandlerError; what the user's module raised is its cause.
    """
    place, _, name = reference.rpartition(":") if ":" in reference else (reference, "", "")
    if not place:
        raise HandlerError(f"{reference!r} is no handler: write file.py:Name or package.module:Name")
    module = _from_file(place) if place.endswith(".py") else _from_name(place)
    found = _named(module, place, name) if name else _guessed(module, place)
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        raise HandlerError(f"{place}:{name} is neither a class nor a function but of type {type(found).__name__}")
    return f"{place}:{name or found.__name__}", found


def _named(module: ModuleType, place: str, name: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError:
        there = [each for each, value in vars(module).items() if _is_of(module, value)]
        hint = f"; it has {', '.join(there)}" if there else ""
        raise HandlerError(f"there is no {name} in {place}{hint}") from None


def _guessed(module: ModuleType, place: str) -> Any:
    for name in _NAMES:
        found = getattr(module, name, None)
        # A file that imports our base class has a `Model` which is not its handler.
        if found is not None and found is not Model:
            return found
    raise HandlerError(f"{place} has no {', '.join(_NAMES[:-1])} or {_NAMES[-1]}: name the handler, as in {place}:Name")


def _is_of(module: ModuleType, value: Any) -> bool:
    return (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__


def _from_name(place: str) -> ModuleType:
    directory = str(pathlib.Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise HandlerError(
                f"there is no module {place}: give the path of a file (file.py:Name) or start where it can be imported"
            ) from error
        raise _broken(place, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(place, error) from error


def _from_file(place: str) -> ModuleType:
    path = pathlib.Path(os.path.abspath(place))  # noqa: PTH100  (a link's own folder is where its neighbours are)
    if not path.is_file():
        raise HandlerError(f"there is no file {place}")
    name = path.stem
    if name in sys.stdlib_module_names:
        raise HandlerError(f"{place} has the name of a module of Python's own, {name}: rename the file")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise HandlerError(f"{place} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise _broken(place, error) from error
    return module


def _broken(place: str, error: BaseException) -> HandlerError:
    hint = ""
    if isinstance(error, ModuleNotFoundError) and error.name is not None and error.name.partition(".")[0] == "cog":
        hint = _COG
    return HandlerError(f"{place} cannot be loaded: {type(error).__name__}: {error}{hint}")
