import random
import time
from pathlib import Path

import pytest
from children import ready

from tidegate.worker.messages import Ended, Item, Log

ENDLESS = {
    "function": """
import time
def predict() -> str:
    try:
        print("there")
        while True: time.sleep(0.01)
    except CancellationException:
        print("stopped")
        raise
""",
    "looking_function": """
import time
def predict() -> str:
    print("there")
    while not current_scope().cancelled: time.sleep(0.01)
    print("stopped")
    return "kept"
""",
    "swallowing_function": """
import time
def predict() -> str:
    while True:
        try:
            print("there")
            while True: time.sleep(0.01)
        except CancellationException:
            print("stopped")
            return "kept"
""",
    "generator": """
import time
def predict():
    try:
        print("there")
        while True:
            time.sleep(0.01)
            yield 1
    finally:
        print("stopped")
""",
    "swallowing_generator": """
import time
def predict():
    print("there")
    while True:
        try:
            time.sleep(0.01)
            yield 1
        except CancellationException:
            print("stopped")
            yield 2
""",
    "silent_generator": """
import time
def predict():
    try:
        print("there")
        while True: time.sleep(0.01)
        yield 1
    except CancellationException:
        print("stopped")
""",
    "iterator": """
import itertools, time
def predict() -> list[int]:
    print("there")
    print("stopped")
    return map(lambda i: time.sleep(0.01), itertools.count())
""",
    "coroutine": """
import asyncio
async def predict() -> str:
    try:
        print("there")
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("stopped")
        raise
""",
    "swallowing_coroutine": """
import asyncio
async def predict() -> str:
    try:
        print("there")
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("stopped")
    return "kept"
""",
    "stubborn_coroutine": """
import asyncio
async def predict() -> str:
    print("there")
    for _ in range(2):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("stopped")
    return "kept"
""",
    "async_generator": """
import asyncio
async def predict():
    try:
        print("there")
        while True:
            await asyncio.sleep(0.01)
            yield 1
    finally:
        print("stopped")
""",
    "busy_async_generator": """
import asyncio, time
async def predict():
    try:
        print("there")
        while True:
            time.sleep(0.001)
            yield 1
    except asyncio.CancelledError:
        print("stopped")
""",
    "lent_coroutine": """
import asyncio
async def inner():
    try:
        print("there")
        await asyncio.sleep(60)
    finally:
        print("stopped")
def predict() -> str:
    return inner()
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("form", ENDLESS)
def test_every_form_can_be_cancelled_and_keeps_what_it_printed(tmp_path: Path, form: str) -> None:
    with ready(tmp_path, ENDLESS[form]) as one:
        for number in (1, 2):
            one.predict(number)
            one.until(Log, number)
            one.cancel(number)
            one.cancel(number)
            ended = one.until(Ended, number)
            assert (ended.status, ended.error, ended.traceback) == ("canceled", "", "")
            assert "stopped\n" in one.printed(number)
            assert "kept" not in one.chunks(number)


def test_a_cancelled_prediction_gives_nothing_after_its_end(tmp_path: Path) -> None:
    with ready(tmp_path, ENDLESS["generator"]) as one:
        one.predict(1)
        one.until(Item, 1)
        one.cancel(1)
        one.until(Ended, 1)
        one.predict(2)
        one.until(Item, 2)
        assert one.said.index(one.until(Item, 2)) > 0
        ends = [index for index, each in enumerate(one.said) if isinstance(each, Ended)]
        assert all(getattr(each, "number", 2) == 2 for each in one.said[ends[0] + 1 :])
        one.cancel(2)


def test_cancelling_what_is_over_or_unknown_changes_nothing(tmp_path: Path) -> None:
    with ready(tmp_path, "def predict() -> int:\n    return 1") as one:
        one.cancel(7)
        assert one.run(1).status == "succeeded"
        one.cancel(1)
        assert one.run(2).status == "succeeded"


def test_what_is_cancelled_before_it_began_never_begins(tmp_path: Path) -> None:
    for word in ("def", "async def"):
        with ready(
            tmp_path, f"import time\n{word} predict(n: int) -> int:\n    print('began')\n    time.sleep(n)"
        ) as one:
            one.predict(1, n=0)
            one.cancel(1)
            assert one.until(Ended).status in {"canceled", "succeeded"}


TRACES = {
    "untraced": "",
    "traced": """
import sys, threading
def trace(frame, event, arg):
    return trace
sys.settrace(trace)
threading.settrace(trace)
""",
    "profiled": """
import sys, threading
def profile(frame, event, arg):
    pass
sys.setprofile(profile)
threading.setprofile(profile)
""",
}
FAST = """
import time
from tidegate.worker.child import running
running.FIRST_PRESS_S = {first}
running.PRESS_S = {again}
"""

HAMMER = """
def predict(spin: float) -> int:
    end = time.monotonic() + spin
    n = 0
    while time.monotonic() < end:
        print(n)
        current_scope().record_metric("n", n)
        n += 1
    return n
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", TRACES)
def test_no_cancellation_hits_the_prediction_after_it(tmp_path: Path, how: str) -> None:
    """Cancelled ones end about when the exception is raised; those between them must all succeed, with whole lines."""
    dice = random.Random(7)
    statuses = []
    with ready(tmp_path, TRACES[how] + FAST.format(first=0.02, again=0.05) + HAMMER) as one:
        for number in range(1, 120, 2):
            one.predict(number, spin=0.02 + dice.uniform(-0.002, 0.002))
            one.cancel(number)
            statuses.append(one.until(Ended, number).status)
            ended = one.run(number + 1, spin=0.0005)
            assert ended.status == "succeeded", ended
            lines = one.printed(number + 1).split()
            assert lines == [str(n) for n in range(len(lines))]
            one.said.clear()
        assert statuses.count("canceled") > statuses.count("failed") == 0


BLITZ = """
def predict(spin: float):
    end = time.monotonic() + spin
    while time.monotonic() < end:
        try:
            print("line")
            yield "item"
        except CancellationException:
            pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", TRACES)
def test_messages_stay_whole_however_often_a_handler_is_pressed(tmp_path: Path, how: str) -> None:
    """The handler shortens the times between two pressings, so that they hit every place of the sending code."""
    dice = random.Random(11)
    with ready(tmp_path, TRACES[how] + FAST.format(first=0.0005, again=0.0005) + BLITZ) as one:
        for number in range(1, 160, 2):
            one.predict(number, spin=5.0)
            time.sleep(dice.uniform(0, 0.01))
            one.cancel(number)
            assert one.until(Ended, number).status == "canceled"
            assert set(one.printed(number).replace("line", "")) <= {"\n"}  # `print` writes the end of a line by itself
            assert one.run(number + 1, spin=0.0005).status == "succeeded"
            one.said.clear()


BLOCKED = """
import threading
from tidegate.predict.marks import concurrent
@concurrent(max=2)
def predict(sleep: float) -> int:
    print("there")
    time.sleep(sleep)
    return threading.active_count() > 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", TRACES)
def test_one_that_cannot_be_reached_does_not_hold_up_the_others(tmp_path: Path, how: str) -> None:
    with ready(tmp_path, TRACES[how] + FAST.format(first=0.01, again=0.01) + BLOCKED) as one:
        one.predict(1, sleep=2.0)
        one.until(Log, 1)
        one.cancel(1)
        for number in range(2, 40):
            assert one.run(number, sleep=0.01).status == "succeeded"
        assert not any(isinstance(each, Ended) and each.number == 1 for each in one.said)
        assert one.until(Ended, 1).status == "canceled"
