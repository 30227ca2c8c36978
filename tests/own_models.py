"""Handlers that the tests of whole gateways serve."""

import asyncio
import ctypes
import io
import os
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

from tidegate.predict import Input, Path, Secret, concurrent, current_scope, streaming


class Words:
    """Says each word of a prompt. Shape: has a setup, and is what most tests ask."""

    def setup(self) -> None:
        print("weights loaded")  # noqa: T201

    def predict(self, prompt: str = "a b c", fail: bool = False) -> Iterator[str]:
        print("asked for", prompt)  # noqa: T201
        scope = current_scope()
        for word in prompt.split():
            scope.record_metric("words", 1, "increment")
            yield word + " "
        if fail:
            raise ValueError("out of words")


def failing(prompt: str = "") -> Iterator[str]:
    if prompt:
        raise ValueError("no words today")
    yield "x"


def variable(name: str) -> str:
    """Give what a variable of the environment is."""
    return os.environ.get(name, "nothing")


def pid() -> int:
    return os.getpid()


def echo(text: str = "hello") -> str:
    return text


@concurrent(max=32)
async def steps(seconds: float = 60.0, count: int = 1, name: str = "") -> AsyncIterator[str]:
    """Say who it is, then count, and wait a little before each."""
    print("begun", name)  # noqa: T201
    yield f"{os.getpid()}"
    for number in range(count):
        await asyncio.sleep(seconds / count)
        yield f"{name}{number}"


async def single(seconds: float = 60.0) -> AsyncIterator[str]:
    """Run one at a time."""
    print("begun")  # noqa: T201
    yield f"{os.getpid()}"
    await asyncio.sleep(seconds)
    yield "done"


@streaming
def blocking(seconds: float = 60.0) -> str:
    """Sit in one call that nothing but the process's end gets out of."""
    print("sitting down")  # noqa: T201
    libc = ctypes.PyDLL(None)  # holds the interpreter's lock while it waits
    libc.sleep(int(seconds))
    return "done"


def stubborn(seconds: float = 60.0) -> str:
    """Go on whatever is raised in it."""
    print("begun")  # noqa: T201
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            while time.monotonic() < until:
                time.sleep(0.01)
        except BaseException:  # noqa: BLE001, S112 (that is what it is for)
            continue
    return "done"


class Stray(Exception):  # noqa: N818 (it says what it is)
    """What something outside raises in a thread."""


@concurrent(max=2)
def struck(strikes: bool = False) -> str:
    """Wait for long, or be done soon and have the thread struck after that."""
    if not strikes:
        time.sleep(60)
        return "done"
    ident = ctypes.c_ulong(threading.get_ident())

    def strike() -> None:
        time.sleep(0.2)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Stray))

    threading.Thread(target=strike, daemon=True).start()
    return "struck"


def too_much(seconds: float = 60.0) -> Iterator[str]:
    """Say more than it may, and go on whatever is raised in it."""
    yield "x" * 2000
    yield stubborn(seconds)


def flood(count: int = 1000, size: int = 10) -> Iterator[str]:
    for _ in range(count):
        yield "x" * size


def upper(file: Path) -> Path:
    """Give a file like the one that came, in capitals."""
    print("named", file)  # noqa: T201
    made = Path(file).with_name("upper.txt")
    made.write_text(Path(file).read_text().upper())
    return Path(made)


class Endless:
    """Says a word again and again."""

    def predict(self, prompt: str) -> Iterator[str]:
        while True:
            yield "again "
            time.sleep(0.01)


class Dying:
    """Says a word, and dies where it is asked to."""

    def predict(self, prompt: str) -> Iterator[str]:
        yield "farewell "
        if "die" in prompt:
            time.sleep(0.1)
            os._exit(3)


class Late:
    """Takes a while to set up."""

    def setup(self) -> None:
        time.sleep(30)

    def predict(self) -> str:
        return ""


class Counting:
    """Says how many tokens it took."""

    def predict(self, prompt: str) -> Iterator[str]:
        current_scope().record_metric("input_tokens", 70)
        current_scope().record_metric("output_tokens", 7)
        yield "seven"


def scribbling(file: Path, number: int = 0) -> Path:
    """Leave temporary files made in two ways, and give a third."""
    assert file.read_text() == "x"
    (Path(tempfile.mkdtemp()) / "left").touch()
    os.close(tempfile.mkstemp()[0])
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as given:
        given.write(str(number))
    return Path(given.name)


@concurrent(max=4)
async def both(seconds: float = 5.0, count: int = 1, name: str = "", prompt: str = "") -> AsyncIterator[str]:
    """Answer predictions and chats, and print."""
    print("begun", name)  # noqa: T201
    yield name + prompt
    for number in range(count):
        await asyncio.sleep(seconds / count)
        yield f"{name}{number}"


class Fragile:
    """Is set up unless a file says otherwise, and dies where it is asked to. Shape: the file is named by FRAGILE."""

    def setup(self) -> None:
        print(f"weights of {os.getpid()}")  # noqa: T201
        if os.path.exists(os.environ["FRAGILE"]):  # noqa: PTH110
            print("no more", end="")  # noqa: T201
            raise RuntimeError("no gpu")

    def predict(self, seconds: float = 0.0, die: bool = False) -> Iterator[int]:
        yield os.getpid()
        time.sleep(seconds)
        if die:
            os.abort()


@concurrent(max=2)
async def pair(seconds: float = 0.0, count: int = 3) -> AsyncIterator[int]:
    """Count, two at a time."""
    for number in range(count):
        yield number
        await asyncio.sleep(seconds / count)


def stumbling(prompt: str) -> Iterator[str]:
    yield "some "
    raise ValueError("out of words")


def deep(levels: int = 3) -> Any:
    """Nest lists."""
    sys.setrecursionlimit(20_000)
    return nested(levels)


class Bounded:
    """Says what it was asked with. Shape: its parameters have bounds, and some have names that no chat knows."""

    def predict(
        self,
        prompt: str = Input(max_length=2000),
        max_tokens: int = Input(default=2, ge=1, le=3),
        temperature: float | None = Input(default=None, ge=0, le=2),
        seed: int | None = Input(default=None, ge=0),
        stop: str | None = None,
        system_prompt: str = Input(default="", max_length=20),
        delay: float = Input(default=0.0, ge=0, le=1),
        n: int = Input(default=1, le=5),
        secret: str = "",
    ) -> Iterator[str]:
        print("ran")  # noqa: T201
        yield f"{prompt}|{max_tokens}|{temperature}|{seed}|{stop}|{system_prompt}|{delay}|{n}|{secret}"


@concurrent(max=4)
async def sealed(files: list[Path], text: str, key: Secret | None = None) -> dict[str, Any]:
    """Take files and a secret, and give a file in an object."""
    if text == "wait":
        await asyncio.sleep(60)
    letters = len(key.get_secret_value()) if key is not None else 0
    return {"files": len(files), "key": letters, "made": Path(files[0])}


class Telling:
    """Tells things in all the ways that could reach others. Shape: `how` says which."""

    def __init__(self) -> None:
        self.later: list[threading.Thread] = []
        self.go = threading.Event()

    def predict(self, how: str) -> str:
        scope = current_scope()
        if how == "late":
            self.later.append(threading.Thread(target=self._late))
            self.later[0].start()
        elif how == "after":
            self.go.set()
            self.later[0].join()
            print("mine")  # noqa: T201
        elif how == "replace":
            sys.stdout = io.StringIO()
            print("unheard")  # noqa: T201
        elif how == "vanish":
            print("no end", end="")  # noqa: T201
            os._exit(9)
        elif how == "metrics":
            scope.record_metric("loss", Half(0.5))
            scope.record_metric("deep", nested(200))
            scope.record_metric("much", 1e308, "increment")
            with suppress(ValueError):
                scope.record_metric("much", 1e308, "increment")
            return repr(scope.metrics["much"])
        return how

    def _late(self) -> None:
        self.go.wait()
        print("another's secret")  # noqa: T201
        print("half a secret", end="")  # noqa: T201
        current_scope().record_metric("late", 1)


class Half(float):
    """A number of a type of its own, as numpy has them."""


def nested(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels - 1):
        found = [found]
    return found
