"""Single values of every kind, metrics and the scope: a plain handler that is not opted in to SSE."""
# ruff: noqa: T201 - what a handler prints is what is observed

import datetime as dt
import enum
import io
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tidegate.predict import Input, current_scope


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float


NAMES: dict[str, tuple[str, Any]] = {
    "reserved": ("predict_time", 1),
    "prefix": ("cog.x", 1),
    "underscore": ("_x", 1),
    "trailing": ("x_", 1),
    "double": ("a__b", 1),
    "digit": ("1a", 1),
    "long": ("a" * 129, 1),
    "longest": ("a" * 128, 1),
    "five": ("a.b.c.d.e", 1),
    "four": ("a.b.c.d", 1),
    "object": ("o", object()),
    "none": ("nul", None),
}


def written() -> str:
    print("one line")
    print("err line", file=sys.stderr)
    logging.getLogger("observed").warning("logged")
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start()
    thread.join()
    return "written"


def native() -> str:
    os.write(1, b"raw bytes\n")
    subprocess.run(["/bin/echo", "from a subprocess"], check=True)
    print("from Python")
    return "written"


def modes() -> str:
    scope = current_scope()
    scope.record_metric("count", 1)
    scope.record_metric("count", 2, "incr")
    scope.record_metric("list", "x", "append")
    scope.record_metric("list", "y", "append")
    scope.record_metric("timing.pre", 0.5)
    scope.record_metric("timing.inf", 1.5)
    scope.record_metric("flag", value=True)
    scope.record_metric("gone", 1)
    del scope.metrics["gone"]
    scope.metrics["set"] = {"a": 1}
    return "recorded"


def typed() -> list[str]:
    scope: Any = current_scope()
    scope.record_metric("a", 1)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: scope.record_metric("a", "text"),
        lambda: scope.record_metric("s", "text", "incr"),
        lambda: scope.record_metric("m", 1, "bogus"),
    )
    return [raised(attempt) for attempt in attempts]


def raised(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (TypeError, ValueError) as error:
        return type(error).__name__
    return "accepted"


def named(what: str) -> str:
    name, value = NAMES[what]
    return raised(lambda: current_scope().record_metric(name, value))


def listed() -> Iterator[int]:
    yield 1
    yield 2


def path_inside() -> dict[str, object]:
    file = pathlib.Path(tempfile.mkdtemp()) / "inside.txt"
    file.write_text("inside")
    return {"a": 1, "p": file}


class Model:
    def run(self, what: str = Input(default="str")) -> Any:
        if what.startswith("name:"):
            return named(what.removeprefix("name:"))
        if what == "exit":
            sys.exit(3)
        if what == "interrupt":
            raise KeyboardInterrupt
        if what == "context":
            return dict(current_scope().context)
        makers: dict[str, Callable[[], Any]] = {
            "str": lambda: "text",
            "int": lambda: 5,
            "float": lambda: 0.5,
            "bool": lambda: True,
            "none": lambda: None,
            "dict": lambda: {"b": 1, "a": [None]},
            "list": lambda: ["only"],
            "empty": list,
            "tuple": lambda: (1, 2),
            "set": lambda: {1},
            "dataclass": lambda: Point(1, 2.0),
            "enum": lambda: Colour.RED,
            "datetime": lambda: dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
            "generator": listed,
            "map": lambda: map(str, (1, 2)),
            "bytes": lambda: b"abc",
            "object": object,
            "nan": lambda: float("nan"),
            "bytesio": lambda: io.BytesIO(b"abc"),
            "path_inside": path_inside,
            "big": lambda: "x" * (7 * 1024 * 1024),
            "logs": written,
            "native": native,
            "modes": modes,
            "typed": typed,
            "pid": os.getpid,
        }
        return makers[what]()
