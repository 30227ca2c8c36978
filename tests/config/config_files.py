"""Writes configuration files for tests and reads what comes of them."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from tidegate.config import ConfigError, Loaded, Mistake, load

DIGEST = "0123456789abcdef" * 4
GOOD = """\
providers:
  - {name: main, kind: openai, api_key: sk-1}
models:
  - {name: gpt, targets: [{provider: main}]}
"""


def read(
    folder: Path, text: str, environ: Mapping[str, str] | None = None, overrides: Mapping[str, str] | None = None
) -> Loaded:
    """Give what a file of this text comes to."""
    file = folder / "tidegate.yaml"
    file.write_text(dedent(text), encoding="utf-8")
    return load(str(file), environ or {}, overrides)


def refused(
    folder: Path, text: str, environ: Mapping[str, str] | None = None, overrides: Mapping[str, str] | None = None
) -> tuple[Mistake, ...]:
    """Give the mistakes of a file of this text."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text, environ, overrides)
    return caught.value.mistakes


def told(folder: Path, mistakes: tuple[Mistake, ...]) -> list[str]:
    """Give the mistakes as they are printed, without the folder's name."""
    return [str(mistake).removeprefix(f"{folder}/") for mistake in mistakes]
