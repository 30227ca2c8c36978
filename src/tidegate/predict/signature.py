"""A handler's signature → its parameters, with every mistake in them listed."""

import copy
import dataclasses
import enum
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tidegate.predict.inputs import MISSING, InputInfo
from tidegate.predict.kinds import Secret
from tidegate.predict.pool import Schema
from tidegate.predict.shapes import Shape, UnsupportedError, nullable, peel, shape_of

_MUTABLE: Final = (list, dict, set)
_BOUNDS: Final = ("ge", "le")
_LENGTHS: Final = ("min_length", "max_length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One input. Shape: `default` is MISSING where there is none; `required` is what clients must send."""

    name: str
    shape: Shape
    info: InputInfo
    default: Any = MISSING

    @property
    def required(self) -> bool:
        """Whether clients must send it.

        Shape: `Input(default=None)` of what cannot be None gives no default, as in Cog; a plain `= None` lets it be None.
        """
        if self.shape.optional:
            return False
        return self.default is MISSING or (
            self.default is None and self.shape.family != "secret" and not self.shape.has_null
        )

    @property
    def takes_null(self) -> bool:
        """Whether null is a value of it."""
        return self.shape.optional or (self.shape.family == "secret" and self.default is None)

    def fallback(self) -> Any:
        """Give what the handler gets when clients send nothing. Shape: lists and dicts are copies."""
        default = None if self.default is MISSING else self.default
        return copy.deepcopy(default) if isinstance(default, _MUTABLE) else default

    def schema(self) -> Schema:
        """Give the JSON Schema of its values, null included where it is one."""
        schema = self.bare_schema()
        return nullable(schema) if self.takes_null else schema

    def bare_schema(self) -> Schema:
        """Give the JSON Schema of its values but null."""
        schema = dict(self.shape.schema)
        info = self.info
        if info.choices is not None and schema.get("type") == "array":
            schema["items"] = {**schema.get("items", {}), "enum": list(self.choices())}
        elif info.choices is not None:
            schema["enum"] = list(self.choices())
        names = ("minItems", "maxItems") if schema.get("type") == "array" else ("minLength", "maxLength")
        bounds = (("minimum", info.ge), ("maximum", info.le), ("pattern", info.regex))
        lengths = zip(names, (info.min_length, info.max_length), strict=True)
        return schema | {word: value for word, value in (*bounds, *lengths) if value is not None}

    def choices(self) -> tuple[Any, ...]:
        """Give the JSON values it is limited to, if it is."""
        if self.info.choices is None:
            return self.shape.choices
        return tuple(plain(choice) for choice in self.info.choices)


@dataclass(slots=True)
class Signature:
    """A handler's parameters in order, its return annotation if it has one, and what is wrong."""

    parameters: list[Parameter]
    returns: Any
    mistakes: list[str]


NOTHING: Final = inspect.Parameter.empty


def read(function: Callable[..., Any], *, bound: bool) -> Signature:
    """Read a signature. Shape: `bound` leaves out the first parameter, which is `self`; mistakes are sentences."""
    signature = Signature([], NOTHING, [])
    try:
        described = inspect.signature(function)
    except (TypeError, ValueError) as error:
        signature.mistakes.append(f"its signature cannot be read ({error}): write it as a Python function")
        return signature
    names = list(described.parameters.values())[1 if bound else 0 :]
    for each in names:
        _add(signature, function, each)
    try:
        signature.returns = resolve(function, described.return_annotation)
    except Exception as error:  # noqa: BLE001  (evaluating a user's text may raise anything)
        signature.mistakes.append(
            f"return: the annotation {described.return_annotation!r} cannot be resolved ({error})"
        )
    return signature


def plain(value: Any) -> Any:
    """Give a default or a choice as JSON has it."""
    return value.value if isinstance(value, enum.Enum) else value


def _add(signature: Signature, function: Callable[..., Any], each: inspect.Parameter) -> None:
    name = each.name
    if each.kind in {each.VAR_POSITIONAL, each.VAR_KEYWORD, each.POSITIONAL_ONLY}:
        signature.mistakes.append(f"{name}: inputs are named one by one; *args, **kwargs and / are not supported")
        return
    if each.annotation is NOTHING:
        signature.mistakes.append(f"{name}: it has no type; write {name}: str, or what it is")
        return
    try:
        annotation = resolve(function, each.annotation)
        shape = shape_of(annotation)
    except UnsupportedError as error:
        signature.mistakes.append(f"{name}: {error}")
        return
    except Exception as error:  # noqa: BLE001  (evaluating a user's text may raise anything)
        signature.mistakes.append(f"{name}: the annotation {each.annotation!r} cannot be resolved ({error})")
        return
    infos = peel(annotation).infos + ([each.default] if isinstance(each.default, InputInfo) else [])
    if len(infos) > 1:
        signature.mistakes.append(f"{name}: it has more than one Input(); leave one")
        return
    info = infos[0] if infos else InputInfo()
    if each.default is None:
        shape = dataclasses.replace(shape, optional=True)  # as Python's older type checkers read it
    default = each.default if each.default is not NOTHING and not isinstance(each.default, InputInfo) else info.default
    parameter = Parameter(name=name, shape=shape, info=info, default=default)
    signature.parameters.append(parameter)
    signature.mistakes += [f"{name}: {mistake}" for mistake in _mistakes(parameter)]


def resolve(function: Callable[..., Any], annotation: Any) -> Any:
    """Give an annotation as a type, were it written as a string. Errors: NameError and others, from evaluating it."""
    holder = inspect.unwrap(function)
    names = getattr(holder, "__globals__", None) or {}
    probe = type("Probe", (), {"__annotations__": {"it": None if annotation is None else annotation}})
    return typing.get_type_hints(probe, globalns=dict(names), include_extras=True)["it"]


def _mistakes(parameter: Parameter) -> list[str]:
    found = [*_misplaced(parameter), *_choices(parameter)]
    return found or _default(parameter)


def _misplaced(parameter: Parameter) -> list[str]:
    info, shape = parameter.info, parameter.shape
    rules: Sequence[tuple[Sequence[str], set[str], str]] = (
        (_BOUNDS, {"number"}, "numbers"),
        (_LENGTHS, {"text", "secret", "list", "files"}, "texts and lists"),
        (("regex",), {"text", "secret"}, "texts"),
        (("choices",), {"text", "number", "list", "truth", "other"}, "texts, numbers and lists of them"),
        (("accept",), {"file", "files"}, "files"),
    )
    found = [
        f"{word} is for {whom}, not for {shape.name}"
        for words, families, whom in rules
        for word in words
        if (given := getattr(info, word)) is not None and given != "" and shape.family not in families
    ]
    for low, high in (_BOUNDS, _LENGTHS):
        least, most = getattr(info, low), getattr(info, high)
        if least is not None and most is not None and least > most:
            found.append(f"{low} ({least}) is above {high} ({most})")
    if info.regex is not None:
        try:
            re.compile(info.regex)
        except re.error as error:
            found.append(f"regex {info.regex!r} is no regular expression: {error}")
    return found


def _choices(parameter: Parameter) -> list[str]:
    if parameter.info.choices is None:
        return []
    if not parameter.info.choices:
        return ["choices is empty"]
    shape = parameter.shape
    found = []
    for choice in parameter.choices():
        try:
            shape.convert([choice] if shape.family == "list" else choice)
        except (ValueError, TypeError):
            found.append(f"the choice {choice!r} is no {shape.name}")
    return found


def _default(parameter: Parameter) -> list[str]:
    default, shape, info = plain(parameter.default), parameter.shape, parameter.info
    if default is MISSING or default is None or shape.family in {"file", "files"} or _is_object(default):
        return []
    if shape.family == "secret":
        return _measured(default.get_secret_value() if isinstance(default, Secret) else str(default), info)
    try:
        shape.convert(default)
    except (ValueError, TypeError):
        return [f"the default {default!r} is no {shape.name}"]
    allowed = parameter.choices()
    given = default if shape.family == "list" else [default]
    if allowed and any(plain(each) not in allowed for each in given):
        return [f"the default {default!r} is not among the choices"]
    return _measured(default, info)


def _is_object(default: Any) -> bool:
    # The user made it of the type they annotate; there is no JSON of it to check.
    return not isinstance(default, str | int | float | bool | list | dict | Secret)


def _measured(default: Any, info: InputInfo) -> list[str]:
    if info.ge is not None and default < info.ge:
        return [f"the default {default!r} is below ge ({info.ge})"]
    if info.le is not None and default > info.le:
        return [f"the default {default!r} is above le ({info.le})"]
    if info.min_length is not None and len(default) < info.min_length:
        return [f"the default is shorter than min_length ({info.min_length})"]
    if info.max_length is not None and len(default) > info.max_length:
        return [f"the default is longer than max_length ({info.max_length})"]
    if info.regex is not None and not re.search(info.regex, default):
        return [f"the default does not match regex {info.regex!r}"]
    return []
