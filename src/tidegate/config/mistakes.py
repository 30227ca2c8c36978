"""What is wrong with a configuration: every mistake with its place, what was found, and what was expected.

Nothing here, and nothing that calls it, puts the value of a secret into a text.
"""

import difflib
from collections.abc import Iterable
from typing import NoReturn

from msgspec import Struct


class At(Struct, frozen=True):
    """Where a value was written. Shape: `file` is a path, a flag or a variable; `line` counts from 1, 0 is none."""

    file: str
    line: int = 0


class Mistake(Struct, frozen=True):
    """One thing to put right. Shape: `hint` is a phrase, such as `did you mean 'idle'?`; `path` is empty for a whole file."""

    file: str
    line: int
    path: str
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        told = ": ".join(part for part in (where, self.path, self.problem) if part)
        return f"{told}; {self.hint}" if self.hint else told


class ConfigError(Exception):
    """A configuration that cannot be used, with all that is wrong with it."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(map(str, self.mistakes)))


class Mistakes:
    """The mistakes found so far."""

    def __init__(self) -> None:
        self._found: list[Mistake] = []

    def add(self, at: At, path: str, problem: str, hint: str = "") -> None:
        """Note one mistake."""
        self._found.append(Mistake(at.file, at.line, path, problem, hint))

    def fail(self, at: At, problem: str, hint: str = "") -> NoReturn:
        """Note a mistake that hides all others. Errors: ConfigError, always."""
        self.add(at, "", problem, hint)
        raise ConfigError(self._found) from None

    def check(self) -> None:
        """Go on only when there was none. Errors: ConfigError, its mistakes in the order of lines, flags last."""
        if self._found:
            raise ConfigError(sorted(self._found, key=lambda found: (found.file.startswith("--"), found.line)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Give the hint that names the known word nearest to `word`; empty when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def show(text: str) -> str:
    """Give a text as it may stand in a message: quoted, control characters escaped, not long."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
