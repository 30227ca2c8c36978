"""What handlers annotate their inputs and outputs with."""

import io
import pathlib
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, TypeVar

T = TypeVar("T")

Path = pathlib.Path
"""A file: an input arrives as the path of a local copy, an output leaves as a data URI."""


class File(io.BufferedReader):
    """A file input, open for reading in binary; closed after the prediction."""


class Secret:
    """A text that shows itself to nobody. Shape: `get_secret_value()` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """Give the text itself."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __len__(self) -> int:
        return len(self._value)

    def __str__(self) -> str:
        return "**********" if self._value else ""

    def __repr__(self) -> str:
        return f"Secret('{self}')"


class Opaque:
    """A mark, `Annotated[T, Opaque]`: any JSON is accepted and handed on as it is."""


class Concatenate:
    """A mark on an iterator of texts: they are shown as one text."""


ConcatenateIterator = Annotated[Iterator[T], Concatenate]
AsyncConcatenateIterator = Annotated[AsyncIterator[T], Concatenate]
