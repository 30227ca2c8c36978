from pathlib import Path

import pytest
from children import Child, child, ready

from tidegate.worker.messages import Ended, Log


def test_streams_that_a_prediction_replaced_are_put_back(tmp_path: Path) -> None:
    code = """
import contextlib, io, sys
def predict(how: str) -> str:
    print("before")
    text = io.StringIO()
    if how == "both":
        sys.stdout = sys.stderr = text
    elif how == "none":
        sys.stdout = None
    elif how == "entered":
        contextlib.redirect_stdout(text).__enter__()
    print("within")
    return text.getvalue()
"""
    with ready(tmp_path, code) as one:
        for number, (how, said) in enumerate({"both": "within\n", "none": "", "entered": "within\n"}.items(), 1):
            one.run(number, how=how)
            assert (one.chunks(number), one.printed(number)) == ([said], "before\n")
        one.run(9, how="")
        assert one.printed(9) == "before\nwithin\n"


def test_a_stream_that_the_setup_put_in_place_is_left_there(tmp_path: Path) -> None:
    code = """
import io, sys
class Model:
    def setup(self):
        sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="\\r\\n", line_buffering=True)
    def predict(self) -> int:
        print("told")
        return 1
"""
    with child(tmp_path, code) as one:
        one.ready()
        for number in (1, 2):
            one.run(number)
            assert one.printed(number) == "told\r\n"


CODE = """
import asyncio, contextlib, io, sys, threading
from tidegate.predict.marks import concurrent
class Tee(io.StringIO):
    before = sys.stdout
    def write(self, text):
        print(text, end="", file=self.before)
        return super().write(text)
together = threading.Barrier(2)
def saying(name):
    text = {"tee": Tee}.get(name, io.StringIO)()
    with contextlib.redirect_stdout(text) as given, contextlib.redirect_stderr(None):
        assert given is text
        print("within", name)
        together.wait(20)
        thread = threading.Thread(target=print, args=("thread",), kwargs={"flush": True})
        thread.start(); thread.join()
        print("nobody hears", file=sys.stderr)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(ZeroDivisionError):
            print("inner")
            1 / 0
        with contextlib.redirect_stderr(sys.stdout):
            print("crossed", file=sys.stderr)
        together.wait(20)
    print("after")
    print("heard", file=sys.stderr)
    return text.getvalue()
@concurrent(max=2)
"""


@pytest.mark.parametrize(
    "handler", ["def predict(name: str) -> str: return saying(name)",
                "async def predict(name: str) -> str: return await asyncio.to_thread(saying, name)"]
)  # fmt: skip
def test_predictions_at_the_same_time_redirect_their_own_prints_alone(tmp_path: Path, handler: str) -> None:
    with ready(tmp_path, CODE + handler) as one:
        _redirecting(one, "one", "tee")


def _redirecting(one: Child, plain: str, tee: str) -> None:
    for number, name in ((1, plain), (2, tee)):
        one.predict(number, name=name)
    for _ in range(2):
        assert one.until(Ended).error == ""
    within = "within {}\nthread\ncrossed\n"
    assert (one.chunks(1), one.chunks(2)) == ([within.format(plain)], [within.format(tee)])
    assert one.printed(1) == "after\n"
    assert one.printed(2) == within.format(tee) + "after\n"
    assert one.printed(1, "stderr") == one.printed(2, "stderr") == "heard\n"


def test_where_predictions_run_at_the_same_time_a_replaced_stream_can_still_be_redirected(tmp_path: Path) -> None:
    code = """
import contextlib, io, sys
from tidegate.predict.marks import concurrent
@concurrent(max=2)
def predict() -> list[str]:
    sys.stdout = first = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()) as second:
        print("second")
    print("first")
    return [first.getvalue(), second.getvalue()]
"""
    with ready(tmp_path, code) as one:
        one.run()
        assert one.chunks() == ["first\n", "second\n"]


# --- lines without an end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_line_without_end_is_told_while_its_prediction_runs(tmp_path: Path, word: str) -> None:
    code = f"""
import os, sys, time
{word} predict(gate: str) -> int:
    print("no", end="")
    sys.stderr.write("end")
    while not os.path.exists(gate): time.sleep(0.01)  # the loop does not turn meanwhile
    print(" more")
    return 1
"""
    with ready(tmp_path, code) as one:
        one.predict(1, gate=str(tmp_path / "gate"))
        one.until(Log, 1)
        one.until(Log, 1)
        assert (one.printed(1), one.printed(1, "stderr")) == ("no", "end")
        (tmp_path / "gate").touch()
        one.until(Ended, 1)
        assert one.printed(1) == "no more\n"
        one.predict(2, gate=str(tmp_path / "gate"))
        one.until(Ended, 2)
        assert (one.printed(2), one.printed(2, "stderr")) == ("no more\n", "end")


@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_process_that_leaves_at_once_has_told_what_it_printed(tmp_path: Path, word: str) -> None:
    code = f"""
import os, sys
{word} predict() -> int:
    if not os.fork():
        print("of a copy", end="")
        os._exit(0)
    os.wait()
    print("x" * 3_000_000)
    print("no end", end="")
    os._exit(9)
"""
    with ready(tmp_path, code) as one:
        one.predict(1)
        assert one.wait() == 9
        assert one.printed(1) == "x" * 3_000_000 + "\nno end"
        assert one.native == "of a copy"


def test_what_a_killed_process_printed_a_while_before_is_told(tmp_path: Path) -> None:
    code = """
import os, signal, time
def predict() -> int:
    print("no end", end="")
    time.sleep(2)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with ready(tmp_path, code) as one:
        one.predict(1)
        assert one.wait() == -9
        assert one.printed(1) == "no end"
