"""All checks, what Cog was seen to do in each, and the judgement on what Tidegate does."""

import inspect
import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import checks_health
import checks_lifecycle
import checks_outputs
import checks_routes
import checks_stream
import checks_validation
from cog_differences import DIFFERENCES
from cog_servers import Site
from cog_talk import Json

OBSERVED = Path(__file__).parent / "observed.json"
MODULES = (checks_routes, checks_validation, checks_outputs, checks_stream, checks_lifecycle, checks_health)
Outcome = Literal["same", "better", "differs", "FAIL"]


@dataclass(frozen=True)
class Check:
    """One thing a client can observe. Shape: `title` is the room it belongs to; `sentence` says what is observed."""

    name: str
    title: str
    sentence: str
    observe: Callable[[Site], Json]


@dataclass(frozen=True)
class Finding:
    """What was seen in one check, and what it means."""

    check: Check
    cog: Json
    tidegate: Json
    outcome: Outcome
    reason: str


def _of(module: ModuleType) -> Iterator[Check]:
    title = (module.__doc__ or "").partition(" (")[0].rstrip(".").partition("\n")[0]
    for name, found in vars(module).items():
        public = inspect.isfunction(found) and found.__module__ == module.__name__ and not name.startswith("_")
        if public and list(inspect.signature(found).parameters) == ["site"]:
            yield Check(name, title, (found.__doc__ or "").partition("\n")[0], found)


CHECKS = tuple(check for module in MODULES for check in _of(module))
"""Shape: names are unique; in the order they run."""


def observe(check: Check, site: Site) -> Json:
    """Give what is seen. Shape: plain JSON; an error is seen too, as its last line."""
    try:
        return json.loads(json.dumps(check.observe(site)))
    except Exception as error:  # noqa: BLE001 - a check that breaks is an observation that nobody expects
        return {"broken": traceback.format_exception_only(error)[-1].strip()}


def recorded() -> dict[str, Json]:
    """Give what Cog was seen to do when it was last recorded: `versions`, `date`, `checks`."""
    found: dict[str, Json] = json.loads(OBSERVED.read_text())
    return found


def judge(check: Check, cog: Json, tidegate: Json) -> Finding:
    """Give what a pair of observations means. Shape: a difference must be the one that the table explains."""
    known = DIFFERENCES.get(check.name)
    if known is None:
        return Finding(check, cog, tidegate, "same" if tidegate == cog else "FAIL", "")
    if tidegate == known.expected and tidegate != cog:
        return Finding(check, cog, tidegate, known.outcome, known.reason)
    stale = "the table says that it differs" if tidegate == cog else f"the table expects {json.dumps(known.expected)}"
    return Finding(check, cog, tidegate, "FAIL", stale)
