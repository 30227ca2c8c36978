"""Every form a handler may have: what is seen by looking, and how it runs."""

import asyncio
import functools
import inspect
import pathlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Literal, Optional

import pytest

from tidegate.predict import (
    AsyncConcatenateIterator,
    AsyncIterator,
    BaseModel,
    BasePredictor,
    BaseRunner,
    ConcatenateIterator,
    File,
    Input,
    Iterator,
    Model,
    Path,
    concurrent,
    streaming,
)
from tidegate.predict.handler import Handler, HandlerError, look


def seen(found: Any) -> Handler:
    return look("model.py:It", found)


def value(n: int) -> str:
    return "x" * n


def pieces(n: int) -> Iterator[str]:
    yield from "x" * n


async def awaited(n: int) -> str:
    return "x" * n


async def async_pieces(n: int) -> AsyncIterator[str]:
    for _ in range(n):
        yield "x"


def unannotated(n: int):  # type: ignore[no-untyped-def]  # noqa: ANN201
    yield n


def lent(n: int) -> Iterator[str]:
    return pieces(n)


async def collected(result: Any) -> Any:
    if inspect.isawaitable(result):
        return await result
    if isinstance(result, AsyncIterator):
        return [each async for each in result]
    return list(result) if isinstance(result, Iterator) else result


@pytest.mark.parametrize(
    ("function", "kind", "streams", "array", "expected"),
    [
        (value, "function", False, False, "xx"),
        (pieces, "generator", True, True, ["x", "x"]),
        (awaited, "coroutine", False, False, "xx"),
        (async_pieces, "async_generator", True, True, ["x", "x"]),
        (unannotated, "generator", True, True, [2]),
        (lent, "function", True, True, ["x", "x"]),
    ],
)
def test_functions_of_every_kind_are_seen_and_run(
    function: Any, kind: str, streams: bool, array: bool, expected: Any
) -> None:
    handler = seen(function)
    assert (handler.kind, handler.streams, handler.array, handler.slots) == (kind, streams, array, 1)
    assert handler.parameters == ("n",)
    running = handler.make()
    assert running.setup("weights") is None
    assert running.healthcheck() is True
    assert asyncio.run(collected(running.call(handler.arguments({"n": 2}, {})))) == expected


@pytest.mark.parametrize("base", [object, Model, BaseRunner, BasePredictor])
@pytest.mark.parametrize("name", ["predict", "run"])
def test_a_class_needs_no_base_and_is_made_once(base: type, name: str) -> None:
    def entry(self: Any, n: int) -> int:
        return int(self.before + n)

    def setup(self: Any) -> None:
        self.before = 1

    handler = seen(type("It", (base,), {name: entry, "setup": setup}))
    assert (handler.entry, handler.parameters, handler.checks_health) == (name, ("n",), False)
    running = handler.make()
    running.setup("ignored")
    assert running.call({"n": 2}) == 3


def test_static_and_class_methods_have_no_self_to_leave_out() -> None:
    class Static:
        @staticmethod
        def predict(n: int) -> int:
            return n

    class Class:
        @classmethod
        def predict(cls, n: int) -> str:
            return cls.__name__ * n

        @staticmethod
        def setup(weights: str = "own") -> str:
            return weights

    assert seen(Static).make().call({"n": 2}) == 2
    assert seen(Class).parameters == ("n",)
    assert seen(Class).make().call({"n": 1}) == "Class"
    assert seen(Class).make().setup("w") == "w"


def test_weights_go_to_a_setup_that_asks_for_them() -> None:
    class Text:
        def setup(self, weights: str | None) -> str | None:
            return weights

        def predict(self) -> str:
            return ""

    class File_(Text):  # noqa: N801
        def setup(self, weights: Path | None = None) -> Any:  # type: ignore[override]
            return weights

    class Late(Text):
        async def setup(self, weights="own") -> Any:  # type: ignore[no-untyped-def,override]  # noqa: ANN001
            return weights

    class Broken(Text):
        def setup(self, weights: "Nowhere") -> Any:  # type: ignore[name-defined]  # noqa: F821
            return weights

    assert (seen(Text).make().setup("w"), seen(Text).make().setup(None)) == ("w", None)
    assert (seen(File_).make().setup("w"), seen(File_).make().setup(None)) == (pathlib.Path("w"), None)
    assert asyncio.run(collected(seen(Late).make().setup(None))) == "own"
    assert seen(Broken).make().setup("w") == "w"


def test_a_healthcheck_is_asked() -> None:
    class Sick:
        def predict(self) -> str:
            return ""

        async def healthcheck(self) -> bool:
            return False

    assert seen(Sick).checks_health
    assert asyncio.run(collected(seen(Sick).make().healthcheck())) is False


def test_marks_work_with_and_without_parentheses_on_methods_functions_and_classes() -> None:
    @streaming
    def bare(n: int) -> str:
        return value(n)

    @streaming()
    @concurrent(max=3)
    def called(n: int) -> str:
        return value(n)

    @concurrent(max=4)
    class Whole:
        @streaming
        async def run(self, n: int) -> str:
            return value(n)

    assert [seen(each).streams for each in (bare, called, Whole)] == [True, True, True]
    assert [seen(each).slots for each in (bare, called, Whole)] == [1, 3, 4]
    assert bare(2) == "xx"


@pytest.mark.parametrize("slots", [0, -1, True, 1.5, "2"])
def test_concurrent_takes_whole_numbers_from_one(slots: Any) -> None:
    with pytest.raises(ValueError, match="whole number from 1"):
        concurrent(max=slots)


def test_a_decorated_handler_is_what_it_wraps() -> None:
    def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    class Wrapped:
        @wrapping
        @concurrent(max=2)
        async def predict(self, n: int) -> str:
            return value(n)

    handler = seen(Wrapped)
    assert (handler.kind, handler.parameters, handler.slots) == ("coroutine", ("n",), 2)


class Row(BaseModel):
    a: int


def of(annotation: Any) -> Any:
    def function() -> Any: ...

    function.__annotations__["return"] = annotation
    return function


@pytest.mark.parametrize(
    ("annotation", "array", "streams"),
    [
        (list[str], True, False),
        (set[int], True, False),
        (tuple[int, str], True, False),
        (list, True, False),
        (None, False, False),
        (dict[str, Any], False, False),
        (Any, False, False),
        (Row, False, False),
        (Path, False, False),
        (Optional[str], False, False),  # noqa: UP045
        (Iterator[Path], True, True),
        (Iterator, True, True),
        (ConcatenateIterator[str], True, True),
        (ConcatenateIterator, True, True),
        (AsyncConcatenateIterator[str], True, True),
        (Generator[str, None, None], True, True),
        (AsyncGenerator[str, None], True, True),
        (Awaitable[list[int]], True, False),
    ],
)
def test_the_annotation_says_whether_the_output_is_a_list_and_comes_in_pieces(
    annotation: Any, array: bool, streams: bool
) -> None:
    handler = seen(of(annotation))
    assert (handler.array, handler.streams) == (array, streams)


def chat(messages: list[dict[str, str]], n: int = 3) -> Iterator[str]:
    yield from (messages[0]["content"],)


def both(messages: Any, prompt: str = "") -> str:
    return prompt


def prompted(prompt: str, messages: list[Any] = Input(default=[])) -> str:  # noqa: B008
    return prompt


def prompted_only(prompt: str, messages: Any = None, seed: int | None = None) -> ConcatenateIterator[str]:
    yield prompt


def hungry(prompt: str, n: int) -> str:
    return prompt * n


def counting(prompt: str) -> int:
    return len(prompt)


def texts(prompt: str) -> list[str]:
    return [prompt]


def numbered(prompt: int) -> str:
    return str(prompt)


def texted(messages: str) -> str:
    return messages


@pytest.mark.parametrize(
    ("function", "takes"),
    [
        (chat, "messages"),
        (both, "messages"),
        (prompted, "prompt"),
        (hungry, ""),
        (counting, ""),
        (texts, ""),
        (numbered, ""),
        (texted, ""),
        (value, ""),
    ],
)
def test_who_can_answer_chats_is_seen(function: Any, takes: str) -> None:
    assert seen(function).takes == takes


def test_file_inputs_are_named_and_come_as_paths_or_open(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello")
    path = str(tmp_path / "a.txt")

    def function(one: Path, many: list[Path], maybe: Path | None, read: File, also: list[File], n: int = 1) -> str:
        return ""

    handler = seen(function)
    assert handler.files == ("one", "many", "maybe", "read", "also")
    arguments = handler.arguments(
        {"maybe": None}, {"one": [path], "many": [path, path], "read": [path], "also": [path]}
    )
    assert (arguments["one"], arguments["many"], arguments["maybe"]) == (
        pathlib.Path(path),
        [pathlib.Path(path)] * 2,
        None,
    )
    assert (arguments["read"].read(), arguments["also"][0].read()) == (b"hello", b"hello")
    handler.close(arguments)
    assert arguments["read"].closed
    assert arguments["also"][0].closed


def test_no_client_names_a_path_of_this_machine() -> None:
    def function(one: Path, maybe: Path | None = None) -> str:
        return ""

    with pytest.raises(ValueError, match="one: its file was not fetched"):
        seen(function).arguments({"one": "/etc/hostname"}, {})
    with pytest.raises(ValueError, match="maybe: its file was not fetched"):
        seen(function).arguments({"maybe": "/etc/hostname"}, {"one": ["x"]})


def test_files_that_are_not_there_or_too_many_are_refused_and_the_others_closed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_bytes(b"")

    def function(read: File, gone: File) -> str:
        return ""

    handler = seen(function)
    for files in ([str(tmp_path / "gone")], ["a", "b"], []):
        with pytest.raises(ValueError, match="gone: "):
            handler.arguments({}, {"read": [str(tmp_path / "a")], "gone": files})


class Both:
    def predict(self) -> str:
        return ""

    def run(self) -> str:
        return ""


class Neither:
    predict = 5


def yields_text(n: int) -> str:  # type: ignore[misc]
    yield n


class Greedy:
    def setup(self, size: int, weights: str = "", *more: int) -> None: ...

    def predict(self, *words: str, n: int) -> Literal["x"]:
        return "x"


@pytest.mark.parametrize(
    ("found", "sentences"),
    [
        (Both, ["both predict() and run()"]),
        (Neither, ["neither predict() nor run()"]),
        (of(bytes), ["return: it returns bytes: write a file and return its Path"]),
        (of("Nowhere"), ["return: the annotation 'Nowhere' cannot be resolved"]),
        (yields_text, ["return: it yields, but is annotated -> str"]),
        (Greedy, ["setup: size has no value to give", "words: inputs are named one by one"]),
        (print, ["*args"]),
        (iter, ["its signature cannot be read"]),
    ],
)
def test_mistakes_in_a_handlers_form_are_listed(found: Any, sentences: list[str]) -> None:
    with pytest.raises(HandlerError) as refused:
        seen(found)
    for sentence in sentences:
        assert sentence in str(refused.value)
    assert str(refused.value).startswith("model.py:It")


def test_what_the_constructor_raises_is_the_users_to_see() -> None:
    class Failing:
        def __init__(self) -> None:
            raise KeyError("mine")

        def predict(self) -> str:
            return ""

    with pytest.raises(KeyError, match="mine"):
        seen(Failing).make()
