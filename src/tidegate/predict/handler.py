"""A user's handler, looked at (Handler) and made (Running): what it takes, what it gives, how it is called."""

import functools
import inspect
import pathlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

from tidegate.predict import document, loading, marks, signature
from tidegate.predict.kinds import File
from tidegate.predict.mistakes import HandlerError, refused
from tidegate.predict.outputs import MISSING_RETURN, Output, output_of
from tidegate.predict.pool import Schema
from tidegate.predict.shapes import UnsupportedError, is_file, json_name, peel
from tidegate.predict.signature import Parameter

__all__ = ["Handler", "HandlerError", "Kind", "Running", "Takes", "load"]

Kind = Literal["function", "generator", "coroutine", "async_generator"]
Takes = Literal["", "prompt", "messages"]

_ENTRIES: Final = ("predict", "run")


def load(reference: str) -> "Handler":
    """Find a handler: `file.py:Name`, `package.module:Name`; without `:Name` it is Model, Runner or Predictor.

    Errors: HandlerError, which lists every mistake in the handler at once; what the user's module raised is its `__cause__`.
    """
    name, found = loading.find(reference)
    return look(name, found)


def look(reference: str, found: Any) -> "Handler":
    """Look at a class or a function. Errors: HandlerError."""
    entry = _entry(reference, found) if inspect.isclass(found) else ""
    function = getattr(found, entry) if entry else found
    bound = bool(entry) and not isinstance(inspect.getattr_static(found, entry), staticmethod | classmethod)
    read = signature.read(function, bound=bound)
    kind = _kind(function)
    generates = kind in {"generator", "async_generator"}
    output = Output(schema={})
    try:
        output = output_of(MISSING_RETURN if read.returns is signature.NOTHING else read.returns, generates=generates)
    except UnsupportedError as error:
        read.mistakes.append(f"return: {error}")
    weights = _Weights()
    if entry:
        weights = _weights(found, read.mistakes)
    if read.mistakes:
        raise refused(f"{reference}.{entry}" if entry else reference, read.mistakes)
    return Handler(
        reference=reference,
        found=found,
        entry=entry,
        kind=kind,
        inputs=tuple(read.parameters),
        output=output,
        weights=weights,
        streams=generates or output.iterates or marks.is_streaming(function),
        slots=max(marks.slots_of(function), marks.slots_of(found)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """How setup takes weights. Shape: `asked` says that it does, `path` as a Path, `needed` even if there are none."""

    asked: bool = False
    path: bool = False
    needed: bool = False


@dataclass(frozen=True, kw_only=True)
class Handler:
    """What a handler is, by looking at it; nothing of the user's is made before `make`.

    Shape: `kind` is what a call is expected to give; `streams` says that clients may have server-sent events; `slots`
    calls may run at a time. `found` is the class or function, `entry` the method's name if it is a class.
    """

    reference: str
    found: Any
    entry: str
    kind: Kind
    inputs: tuple[Parameter, ...]
    output: Output
    weights: _Weights
    streams: bool
    slots: int

    @functools.cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of all inputs, in order."""
        return tuple(each.name for each in self.inputs)

    @functools.cached_property
    def files(self) -> tuple[str, ...]:
        """The names of the inputs that are files, or lists of them."""
        return tuple(each.name for each in self.inputs if each.shape.family in {"file", "files"})

    @property
    def array(self) -> bool:
        """Whether the output is a list, by its annotation or because it yields."""
        return self.output.array

    @functools.cached_property
    def takes(self) -> Takes:
        """What of a chat the handler can answer by: needs text as output, and nothing else as input."""
        if not self.output.text:
            return ""
        named = {each.name: each for each in self.inputs}
        needed = {each.name for each in self.inputs if each.required}
        if "messages" in named and needed <= {"messages"} and named["messages"].shape.family in {"list", "other"}:
            return "messages"
        if "prompt" in named and needed <= {"prompt"} and named["prompt"].shape.family == "text":
            return "prompt"
        return ""

    @property
    def checks_health(self) -> bool:
        """Whether the handler has a `healthcheck` of its own."""
        return bool(self.entry) and callable(getattr(self.found, "healthcheck", None))

    def openapi(self) -> Schema:
        """Give the document for clients, in Cog's form (OpenAPI 3.0.2)."""
        return document.openapi(self.inputs, self.output, streams=self.streams)

    def input_schema(self) -> Schema:
        """Give a JSON Schema (2020-12) of `input`. Shape: unknown keys are not refused."""
        return document.input_schema(self.inputs)

    def arguments(self, input: Mapping[str, Any], files: Mapping[str, list[str]]) -> dict[str, Any]:  # noqa: A002
        """Turn JSON values into what the handler is called with. Shape: `files` are local paths by name, in order.

        Shape: unknown keys are dropped; what is not sent gets its default, or None where that is allowed. A file is never
        taken from `input`, so that no client names a path of this machine.
        Holds: inputs annotated as File are open until `close`.
        Errors: ValueError, readable, with the input's name.
        """
        arguments: dict[str, Any] = {}
        try:
            for each in self.inputs:
                arguments[each.name] = _argument(each, input, files)
        except ValueError:
            self.close(arguments)
            raise
        return arguments

    def close(self, arguments: Mapping[str, Any]) -> None:
        """Close what `arguments` opened; never raises."""
        for name in self.files:
            given = arguments.get(name)
            for each in given if isinstance(given, list) else [given]:
                if isinstance(each, File):
                    with suppress(OSError, ValueError):
                        each.close()

    def make(self) -> "Running":
        """Make the user's object. Errors: whatever its constructor raises."""
        return Running(self, self.found() if self.entry else None)


class Running:
    """A handler that exists.

    Shape: `setup` and `healthcheck` give a value or an awaitable (look with inspect.isawaitable); so does `call`, which may
    also give a generator or an async generator. A plain function may return a generator too: look at what came.
    """

    def __init__(self, handler: Handler, made: Any) -> None:
        self.handler = handler
        self._made = made
        self._call: Callable[..., Any] = getattr(made, handler.entry) if handler.entry else handler.found

    def setup(self, weights: str | None) -> Any:
        """Set it up; `weights` is handed on if setup asks for it. Gives None, or an awaitable where setup is async."""
        setup = getattr(self._made, "setup", None)
        if setup is None:
            return None
        asked = self.handler.weights
        if not asked.asked or (weights is None and not asked.needed):
            return setup()
        return setup(weights=pathlib.Path(weights) if asked.path and weights is not None else weights)

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """Run it once: a value, generator, coroutine or async generator."""
        return self._call(**arguments)

    def healthcheck(self) -> Any:
        """Ask the handler's own healthcheck: a value or an awaitable; False is unhealthy, all else healthy. True without one."""
        return self._made.healthcheck() if self.handler.checks_health else True


# --- looking -------------------------------------------------------------------------------------------------------


def _entry(reference: str, found: Any) -> str:
    there = [name for name in _ENTRIES if callable(getattr(found, name, None))]
    if len(there) == 2:
        raise refused(reference, ["it has both predict() and run(); leave one of them"])
    if not there:
        raise refused(reference, ["it has neither predict() nor run(); write one of them"])
    return there[0]


def _kind(function: Any) -> Kind:
    while True:
        if inspect.isasyncgenfunction(function):
            return "async_generator"
        if inspect.iscoroutinefunction(function):
            return "coroutine"
        if inspect.isgeneratorfunction(function):
            return "generator"
        # A decorator's wrapper mostly gives what it wraps.
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is None:
            return "function"
        function = wrapped


def _weights(found: Any, mistakes: list[str]) -> _Weights:
    setup = getattr(found, "setup", None)
    if setup is None:
        return _Weights()
    bound = not isinstance(inspect.getattr_static(found, "setup"), staticmethod | classmethod)
    parameters = list(inspect.signature(setup).parameters.values())[1 if bound else 0 :]
    asked = _Weights()
    for each in parameters:
        if each.name == "weights":
            path = _is_path(setup, each.annotation)
            asked = _Weights(asked=True, path=path, needed=each.default is signature.NOTHING)
        elif each.default is signature.NOTHING and each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}:
            mistakes.append(f"setup: {each.name} has no value to give; setup takes nothing but weights")
    return asked


def _is_path(setup: Any, annotation: Any) -> bool:
    try:
        return is_file(peel(signature.resolve(setup, annotation)).inner)
    except Exception:  # noqa: BLE001  (evaluating a user's text may raise anything)
        return False


# --- arguments -----------------------------------------------------------------------------------------------------


def _argument(parameter: Parameter, given: Mapping[str, Any], files: Mapping[str, list[str]]) -> Any:
    name, shape = parameter.name, parameter.shape
    if shape.family in {"file", "files"}:
        if name in files:
            return _files(parameter, files[name])
        if given.get(name) is not None:
            raise ValueError(f"{name}: its file was not fetched")
    elif name in given and not (given[name] is None and parameter.takes_null):
        try:
            return shape.convert(given[name])
        except (ValueError, TypeError) as error:
            reason = str(error) if shape.family != "secret" else f"expected a string, got {json_name(given[name])}"
            raise ValueError(f"{name}: {reason}") from None
    elif name in given:
        return None
    if parameter.required:
        raise ValueError(f"{name}: Field required")
    return parameter.fallback()


def _files(parameter: Parameter, paths: list[str]) -> Any:
    shape = parameter.shape
    try:
        if shape.family == "files":
            return shape.convert(paths)
        if len(paths) != 1:
            raise ValueError(f"one file is wanted, not {len(paths)}")  # noqa: TRY301
        return shape.convert(paths[0])
    except (OSError, ValueError) as error:
        raise ValueError(f"{parameter.name}: {error}") from None
