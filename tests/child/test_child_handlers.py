import json
import time
from pathlib import Path
from typing import Any

import pytest
from children import child, ready

from tidegate.worker.messages import Ended, Item, Log, Metric, Predict

FORMS = {
    "generator": "def predict(n: int):\n    for i in range(n):\n        yield i",
    "async_generator": "async def predict(n: int):\n    for i in range(n):\n        yield i",
    "iterator": "def predict(n: int) -> list[int]:\n    return map(int, range(n))",
    "returned_generator": "def predict(n: int) -> list[int]:\n    return (i for i in range(n))",
    "list": "def predict(n: int) -> list[int]:\n    return list(range(n))",
    "tuple": "def predict(n: int) -> list[int]:\n    return tuple(range(n))",
    "async_list": "async def predict(n: int) -> list[int]:\n    return list(range(n))",
    "lent_async_generator": """
async def inner(n):
    for i in range(n):
        yield i
def predict(n: int) -> list[int]:
    return inner(n)
""",
    "method": "class predict:\n    def setup(self): self.start = 0\n    def predict(self, n: int):\n        yield from range(self.start, n)",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_list_is_sent_item_by_item(tmp_path: Path, form: str) -> None:
    with ready(tmp_path, FORMS[form]) as one:
        ended = one.run(1, n=3)
        assert (ended.status, ended.array) == ("succeeded", True)
        assert [type(each) for each in one.said if getattr(each, "number", 0) == 1] == [Item, Item, Item, Ended]
        assert one.chunks(1) == [0, 1, 2]
        assert (one.run(2, n=0).array, one.chunks(2)) == (True, [])


VALUES = {
    "function": "def predict(x: int) -> int:\n    return x + 1",
    "coroutine": "import asyncio\nasync def predict(x: int) -> int:\n    await asyncio.sleep(0)\n    return x + 1",
    "lent_coroutine": "async def inner(x): return x + 1\ndef predict(x: int) -> int:\n    return inner(x)",
}


@pytest.mark.parametrize("form", VALUES)
def test_a_single_value_is_sent_as_one(tmp_path: Path, form: str) -> None:
    with ready(tmp_path, VALUES[form]) as one:
        ended = one.run(1, x=3)
        assert (ended.status, ended.array) == ("succeeded", False)
        assert [each.value for each in one.said if isinstance(each, Ended)] == [b"4"]


def test_no_value_is_null(tmp_path: Path) -> None:
    with ready(tmp_path, "def predict() -> None:\n    pass") as one:
        assert one.run().status == "succeeded"
        assert one.chunks() == [None]


@pytest.mark.parametrize("word", ["def", "async def"])
def test_items_logs_and_metrics_come_in_the_order_in_which_they_were_made(tmp_path: Path, word: str) -> None:
    code = f"""
{word} predict():
    for i in range(3):
        print("line", i)
        current_scope().record_metric("made", i)
        yield i
    current_scope().record_metric("count", 3, "increment")
    current_scope().record_metric("made", None)
"""
    with ready(tmp_path, code) as one:
        one.run()
        told = [type(each) for each in one.said if getattr(each, "number", 0) == 1]
        assert told == [Log, Metric, Item] * 3 + [Metric, Metric, Ended]
        assert one.metrics()[3:] == [("count", 3, "increment"), ("made", None, "replace")]


@pytest.mark.parametrize("word", ["def", "async def"])
def test_an_item_is_sent_before_the_next_is_made(tmp_path: Path, word: str) -> None:
    code = f"""
import asyncio, os, time
{word} predict(gate: str):
    yield "first"
    while not os.path.exists(gate):
        {"await asyncio.sleep(0.01)" if "async" in word else "time.sleep(0.01)"}
    yield "second"
"""
    gate = tmp_path / "gate"
    with ready(tmp_path, code) as one:
        one.predict(1, gate=str(gate))
        one.until(Item)
        assert one.chunks() == ["first"]
        gate.touch()
        one.until(Ended)
        assert one.chunks() == ["first", "second"]


def test_a_failure_says_the_error_once_and_shows_only_the_users_frames(tmp_path: Path) -> None:
    code = """
def inner():
    raise ValueError("no such thing")
def predict():
    yield 1
    inner()
"""
    with ready(tmp_path, code) as one:
        ended = one.run()
        assert (ended.status, ended.error, ended.array) == ("failed", "ValueError: no such thing", True)
        assert "in inner" in ended.traceback
        assert "tidegate/worker" not in ended.traceback
        assert one.chunks() == [1]


RAISES = [
    ("raise SystemExit(3)", "SystemExit: 3"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("raise CancellationException", "CancellationException"),
    (
        "class Odd(Exception):\n        def __str__(self): raise RuntimeError\n    raise Odd",
        "Odd: <its text cannot be made>",
    ),
    ("raise ValueError('x' * 100_000)", "ValueError: x"),
    ("raise ExceptionGroup('two', [ValueError('a'), TypeError('b')])", "ExceptionGroup: two (2 sub-exceptions)"),
    ("return object()", "TypeError: "),
    ("import asyncio\n    raise asyncio.CancelledError", "CancelledError"),
]


@pytest.mark.parametrize("word", ["def", "async def"])
def test_whatever_a_handler_raises_fails_its_prediction_and_no_more(tmp_path: Path, word: str) -> None:
    tests = "\n".join(f"async def f{i}(): \n    {body}" for i, (body, _) in enumerate(RAISES))
    tests = tests if "async" in word else tests.replace("async def", "def")
    code = f"{tests}\n{word} predict(i: int):\n    return {'await ' if 'async' in word else ''}globals()[f'f{{i}}']()"
    with ready(tmp_path, code.replace("predict(i: int)", "predict(i: int) -> str")) as one:
        for index, (_, error) in enumerate(RAISES):
            ended = one.run(index + 1, i=index)
            assert ended.status == "failed"
            assert ended.error.startswith(error), ended.error
            assert len(ended.error) < 70_000


def test_an_input_that_does_not_fit_is_said_so(tmp_path: Path) -> None:
    with ready(tmp_path, "def predict(n: int) -> int:\n    return n") as one:
        ended = one.run(1, n="many")
        assert ended.status == "failed"
        assert ended.error.startswith("Input validation error: ")
        one.send(Predict(2, "id", b"[1]", {}, {}))
        assert one.until(Ended, 2).error.startswith("Input validation error: ")
        assert one.run(3, n=1).status == "succeeded"


def test_the_context_and_the_id_reach_the_handler(tmp_path: Path) -> None:
    code = "def predict() -> list[str]:\n    s = current_scope()\n    return [s.id, s.context['who']]"
    with ready(tmp_path, code) as one:
        one.predict(1, {"who": "me"})
        one.until(Ended)
        assert one.chunks() == ["id-1", "me"]


@pytest.mark.parametrize("word", ["def", "async def"])
@pytest.mark.parametrize("end", ["return True", "raise ValueError('x')", "while True: time.sleep(0.01)"])
def test_an_input_file_is_closed_when_its_prediction_has_ended(tmp_path: Path, word: str, end: str) -> None:
    code = f"""
import asyncio, time
from tidegate.predict.kinds import File
kept = []
{word} predict(file: File | None = None) -> bool:
    if file is None:
        return kept[0].closed
    kept.append(file)
    print(file.read())
    {end if word == "def" else end.replace("time.sleep", "await asyncio.sleep")}
"""
    given = tmp_path / "given.txt"
    given.write_text("hello")
    with ready(tmp_path, code) as one:
        one.send(Predict(1, "id", b"{}", {}, {"file": [str(given)]}))
        assert "hello" in one.until(Log).text
        one.cancel(1)
        one.until(Ended)
        assert one.run(2) == Ended(2, "succeeded", b"true")
        assert one.chunks(2) == [True]


@pytest.mark.parametrize(
    "end", ["return path", "raise ValueError('x')", "time.sleep(0.01)", "while True: time.sleep(0.01)"]
)
def test_the_directory_of_a_prediction_is_gone_when_it_has_ended(tmp_path: Path, end: str) -> None:
    code = f"""
import time
from pathlib import Path
def predict() -> Path:
    path = current_scope().directory / "a.txt"
    path.write_text("hello")
    print("there")
    {end}
"""
    with ready(tmp_path, code) as one:
        one.predict(1)
        one.until(Log)
        if "while" in end:
            one.cancel(1)
        one.until(Ended)
        assert list((tmp_path / "files").iterdir()) == []
        assert not end.startswith("return") or one.chunks() == ["data:text/plain;base64,aGVsbG8="]


def test_an_output_file_is_read_and_only_a_temporary_one_deleted(tmp_path: Path) -> None:
    code = """
import tempfile
from pathlib import Path
def predict(where: str):
    name = where or tempfile.mkstemp(suffix=".png")[1]
    Path(name).write_bytes(b"x")
    yield Path(name)
    yield Path(name + "-missing")
"""
    with ready(tmp_path, code) as one:
        for number, where in ((1, ""), (2, str(tmp_path / "kept.txt"))):
            ended = one.run(number, where=where)
            assert ended.status == "failed"
            assert "-missing" in ended.error
        assert one.chunks(1) == ["data:image/png;base64,eA=="]
        assert one.chunks(2) == ["data:text/plain;base64,eA=="]
        assert list((tmp_path / "files").iterdir()) == []
        assert (tmp_path / "kept.txt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_thread_that_goes_on_records_nothing_after_the_end_and_gets_no_directory(tmp_path: Path, word: str) -> None:
    code = f"""
import os, threading, time
{word} predict(gate: str) -> int:
    scope = current_scope()
    def late():
        while not os.path.exists(gate):
            time.sleep(0.01)
        scope.record_metric("late", 1)
        try:
            print(scope.directory)
        except RuntimeError as error:
            scope.said = str(error)
        with open(gate + ".said", "w") as file:
            file.write(getattr(scope, "said", ""))
        os.rename(gate + ".said", gate + ".done")
    threading.Thread(target=late, daemon=True).start()
    scope.record_metric("early", 1)
    return 1
"""
    gate = tmp_path / "gate"
    with ready(tmp_path, code) as one:
        one.predict(1, gate=str(gate))
        one.until(Ended)
        gate.touch()
        while not gate.with_suffix(".done").exists():
            time.sleep(0.01)
        assert gate.with_suffix(".done").read_text() == "there is no directory any more: the prediction is over"
        assert list((tmp_path / "files").iterdir()) == []
        one.predict(2, gate=str(tmp_path / "never"))
        one.until(Ended)
        assert [each.name for each in one.said if isinstance(each, Metric)] == ["early", "early"]


@pytest.mark.parametrize("word", ["def", "async def"])
def test_large_inputs_and_outputs_pass(tmp_path: Path, word: str) -> None:
    text = "x" * (20 * 1024 * 1024)
    with ready(tmp_path, f"{word} predict(text: str) -> str:\n    return text") as one:
        for number in (1, 2):
            one.run(number, text=text)
            assert one.chunks(number) == [text]


def test_synchronous_predictions_of_a_concurrent_handler_run_at_the_same_time(tmp_path: Path) -> None:
    code = """
import threading
from tidegate.predict.marks import concurrent
barrier = threading.Barrier(2)
@concurrent(max=2)
def predict() -> int:
    barrier.wait(20)
    return threading.active_count()
"""
    with child(tmp_path, code, name="predict") as one:
        assert one.ready().slots == 2
        one.predict(1)
        one.predict(2)
        assert {one.until(Ended).status, one.until(Ended).status} == {"succeeded"}


def test_what_exceeds_the_slots_is_refused(tmp_path: Path) -> None:
    with ready(tmp_path, "async def predict() -> int:\n    import asyncio\n    await asyncio.sleep(60)") as one:
        one.predict(1)
        one.predict(2)
        assert one.until(Ended) == Ended(2, "failed", error="The worker is busy")
        one.cancel(1)
        assert one.until(Ended, 1).status == "canceled"


def test_the_info_says_what_the_handler_is(tmp_path: Path) -> None:
    code = """
class Model:
    def healthcheck(self): return True
    def predict(self, prompt: str, image: Path = None) -> Iterator[str]:
        yield prompt
"""
    with child(tmp_path, "from pathlib import Path\nfrom typing import Iterator\n" + _dedented(code)) as one:
        info = one.ready()
        assert (info.parameters, info.files) == (("prompt", "image"), ("image",))
        assert (info.streams, info.array, info.slots, info.checks_health) == (True, True, 1, True)
        schema: Any = json.loads(bytes(info.input_schema))
        assert "prompt" in schema["properties"]
        assert b"/predictions" in bytes(info.openapi)


def _dedented(code: str) -> str:
    return code.replace("\nclass", "class", 1)


SELF_CANCELLED = {
    "CancellationException": "def predict():\n    yield 1\n    raise CancellationException",
    "CancelledError": "import asyncio\nasync def predict():\n    yield 1\n    raise asyncio.CancelledError",
    "ValueError: x": "class predict:\n    def __init__(self): self.n = 0\n    def __iter__(self): return self\n"
    "    def __next__(self):\n        self.n += 1\n        if self.n > 1: raise ValueError('x')\n        return self.n\n"
    "    def predict(self) -> list[int]: return self",
}


@pytest.mark.parametrize("error", SELF_CANCELLED)
def test_a_stream_that_raises_what_a_cancellation_raises_has_failed(tmp_path: Path, error: str) -> None:
    with ready(tmp_path, SELF_CANCELLED[error]) as one:
        ended = one.run()
        assert (ended.status, ended.error, one.chunks()) == ("failed", error, [1])


def test_a_coroutine_may_give_an_async_iterator_that_is_no_generator(tmp_path: Path) -> None:
    code = """
class Three:
    left = 3
    def __aiter__(self): return self
    async def __anext__(self):
        if not self.left: raise StopAsyncIteration
        self.left -= 1
        return self.left
async def predict() -> list[int]:
    return Three()
"""
    with ready(tmp_path, code) as one:
        assert one.run().array
        assert one.chunks() == [2, 1, 0]


@pytest.mark.parametrize("limit", [1000, 20_000])
def test_inputs_and_outputs_that_are_nested_too_deep_are_refused(tmp_path: Path, limit: int) -> None:
    code = f"""
import sys
from typing import Any
sys.setrecursionlimit({limit})
def predict(value: Any = 0, levels: int = 0) -> Any:
    found = value
    for _ in range(levels): found = {{"a": [found]}}
    return found
"""
    with ready(tmp_path, code) as one:
        for number, (levels, status) in enumerate(((198, "succeeded"), (200, "failed"), (3000, "failed")), 1):
            one.send(Predict(number, "x", b'{"value":' + b"[" * levels + b"]" * levels + b"}", {}, {}))
            ended = one.until(Ended, number)
            assert ended.status == status
            assert ended.error.startswith(
                "Input validation error: it is nested more than 200" if status == "failed" else ""
            )
        assert one.run(7, value=["["] * 1000).status == "succeeded"
        wide: list[Any] = [[]] * 300
        assert one.run(8, value=wide).status == "succeeded"
        assert one.chunks(8) == wide
        assert "more than 200 levels deep" in one.run(9, levels=101).error
        assert one.run(10, levels=100).status == "succeeded"
