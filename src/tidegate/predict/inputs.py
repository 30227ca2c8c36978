"""`Input(...)`: what is said of an input beside its type."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final


class Missing:
    """The default of an input that has none."""


MISSING: Final = Missing()


@dataclass(frozen=True, slots=True, kw_only=True)
class InputInfo:
    """What `Input(...)` was given. Shape: `default` is MISSING where none was."""

    default: Any = MISSING
    description: str = ""
    ge: float | None = None
    le: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    regex: str | None = None
    choices: tuple[Any, ...] | None = None
    deprecated: bool = False
    accept: str = ""


def Input(  # noqa: N802  (Cog's name)
    default: Any = MISSING,
    *,
    description: str = "",
    ge: float | None = None,
    le: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    regex: str | None = None,
    choices: Iterable[Any] | None = None,
    deprecated: bool = False,
    accept: str | Iterable[str] = "",
    **unknown: object,
) -> Any:
    """Say more of an input than its type.

    Shape: `x: int = Input(default=3, ge=1)`, or `x: Annotated[int, Input(ge=1)] = 3`;
    `...` as default is none; `accept` is the media types or extensions of a file, for clients to know.
    Errors: TypeError for `default_factory` and unknown keywords.
    """
    if "default_factory" in unknown:
        raise TypeError(
            "Input() has no default_factory: give `default` the value; a list or dict is copied for each call"
        )
    if unknown:
        raise TypeError(f"Input() has no {', '.join(sorted(unknown))}")
    return InputInfo(
        default=MISSING if default is ... else default,
        description=description or "",
        ge=ge,
        le=le,
        min_length=min_length,
        max_length=max_length,
        regex=regex,
        choices=None if choices is None else tuple(choices),
        deprecated=bool(deprecated),
        accept=accept if isinstance(accept, str) else ",".join(accept),
    )
