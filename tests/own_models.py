"""Handlers that the tests of whole gateways serve."""

import asyncio
import ctypes
import os
import time
from collections.abc import AsyncIterator, Iterator

from tidegate.predict import Path, concurrent, current_scope, streaming


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


def trivial(file: Path, number: int = 0) -> int:
    return number


@concurrent(max=4)
async def both(seconds: float = 5.0, count: int = 1, name: str = "", prompt: str = "") -> AsyncIterator[str]:
    """Answer predictions and chats, and print."""
    print("begun", name)  # noqa: T201
    yield name + prompt
    for number in range(count):
        await asyncio.sleep(seconds / count)
        yield f"{name}{number}"


def stumbling(prompt: str) -> Iterator[str]:
    yield "some "
    raise ValueError("out of words")
