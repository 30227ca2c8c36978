from pathlib import Path

import pytest
from children import child, ready

from tidegate.worker.messages import Ended, Item, Log, SetupFailed


def test_setup_prints_as_the_worker(tmp_path: Path) -> None:
    code = """
import logging, sys
logging.warning("from logging")
class Model:
    def setup(self):
        print("half", end="")
        print("err", file=sys.stderr)
    def predict(self) -> int:
        return 1
"""
    with child(tmp_path, code) as one:
        one.ready()
        assert one.printed(0) == "half"
        assert one.printed(0, "stderr") == "WARNING:root:from logging\nerr\n"


@pytest.mark.parametrize("word", ["def", "async def"])
def test_small_writes_become_whole_lines_and_the_rest_comes_at_the_end(tmp_path: Path, word: str) -> None:
    code = f"""
import sys
{word} predict(tail: str) -> int:
    for word in ("a", " ", "b", "\\nc", "d\\n"):
        sys.stdout.write(word)
    for each in "ü\\n".encode():
        sys.stdout.buffer.write(bytes([each]))
    sys.stdout.writelines(["x", "y\\n"])
    sys.stderr.write("odd \\ud800\\n")
    print(tail, end="", flush=True)
    print("e" + tail, end="", file=sys.stderr)
    return 1
"""
    with ready(tmp_path, code) as one:
        for number, tail in ((1, "first"), (2, "")):
            one.run(number, tail=tail)
            texts = [each.text for each in one.said if isinstance(each, Log) and each.number == number]
            assert texts == ["a b\n", "cd\n", "ü\n", "xy\n", "odd \\ud800\n", *([tail] if tail else []), "e" + tail]


@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_bar_of_progress_is_told_while_it_grows_and_leaks_into_no_other_prediction(tmp_path: Path, word: str) -> None:
    code = f"""
import sys
{word} predict(parts: list[str]) -> int:
    for part in parts:
        sys.stderr.write(part)
    print("over")
    return 1
"""
    bars = ["\r  0%|", "\r 50%|", "#\r100%|", "##"]
    with ready(tmp_path, code) as one:
        for number, parts in enumerate((bars, ["done\r\n", "a\r\nb", "\r\n"], ["ab\r", "\n", "cd\n"], ["x"]), 1):
            one.run(number, parts=parts)
            said = [each for each in one.said if isinstance(each, Log) and each.number == number]
            texts = [each.text for each in said if each.source == "stderr"]
            assert "".join(texts) == "".join(parts)
            assert not [text for text in texts if "\r" in text.replace("\r\n", "\n")[:-1]]
            assert one.printed(number) == "over\n"


def test_bytes_that_are_no_text_are_replaced_and_the_next_prediction_has_none_of_them(tmp_path: Path) -> None:
    code = "import sys\ndef predict(data: list[int]) -> int:\n    return sys.stdout.buffer.write(bytes(data))"
    with ready(tmp_path, code) as one:
        for number, data, text in ((1, b"a\xffb\xc3", "a\ufffdb\ufffd"), (2, b"\xbc\n", "\ufffd\n"), (3, b"", "")):
            assert one.run(number, data=list(data)).status == "succeeded"
            assert (one.chunks(number), one.printed(number)) == ([len(data)], text)


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    code = "def predict() -> int:\n    for _ in range(200): print('x' * 1000, end='')\n    print('y' * 200_000)\n    return 1"
    with ready(tmp_path, code) as one:
        one.run()
        assert one.printed() == "x" * 200_000 + "y" * 200_000 + "\n"
        assert max(len(each.text) for each in one.said if isinstance(each, Log)) <= 66_000


def test_predictions_at_the_same_time_do_not_mix_what_they_print(tmp_path: Path) -> None:
    code = """
import asyncio
from tidegate.predict.marks import concurrent
@concurrent(max=8)
async def predict(name: str) -> int:
    for i in range(20):
        print(name, end="")
        await asyncio.sleep(0)
        print(" ", i)
        await asyncio.to_thread(print, name, "thread")
    return 1
"""
    with ready(tmp_path, code) as one:
        for number in range(1, 9):
            one.predict(number, name=f"n{number}")
        for _ in range(8):
            one.until(Ended)
        for number in range(1, 9):
            name = f"n{number}"
            want = "".join(f"{name}  {i}\n{name} thread\n" for i in range(20))
            assert one.printed(number) == want


def test_a_thread_prints_for_the_only_prediction_and_afterwards_for_the_worker(tmp_path: Path) -> None:
    code = """
import os, threading, time
def predict(gate: str) -> int:
    def work():
        print("during")
        said.set()
        while not os.path.exists(gate): time.sleep(0.01)
        print("after")
    said = threading.Event()
    threading.Thread(target=work).start()
    said.wait(20)
    return 1
"""
    gate = tmp_path / "gate"
    with ready(tmp_path, code) as one:
        one.run(1, gate=str(gate))
        assert one.printed(1) == "during\n"
        gate.touch()
        one.until(Log, 0)
        assert one.printed(0) == "after\n"


def test_a_task_that_outlives_its_prediction_prints_for_the_worker(tmp_path: Path) -> None:
    code = """
import asyncio
tasks = []
async def later():
    await asyncio.sleep(0.05)
    print("late")
    raise SystemExit
async def predict() -> int:
    tasks.append(asyncio.create_task(later()))
    return 1
"""
    with ready(tmp_path, code) as one:
        one.run()
        one.until(Log, 0)
        assert one.printed(0) == "late\n"
        one.until(Log, 0)
        assert "SystemExit" in one.printed(0, "stderr")
        assert one.run(2).status == "succeeded"


def test_native_writes_and_forked_processes_go_to_the_pipes_and_not_to_the_socket(tmp_path: Path) -> None:
    code = """
import multiprocessing, os, subprocess, sys
def other():
    print("forked")
def predict() -> int:
    os.write(1, b"native\\n")
    subprocess.run(["echo", "command"], stdout=sys.stdout, check=True)
    process = multiprocessing.get_context("fork").Process(target=other)
    process.start()
    process.join()
    if os.fork() == 0:
        return 2
    os.wait()
    return sys.stdout.isatty() + sys.stderr.fileno()
"""
    with ready(tmp_path, code) as one:
        assert one.run().status == "succeeded"
        assert one.chunks() == [2]
        assert one.printed() == ""
        one.close()
        assert sorted(one.native.split()) == ["command", "forked", "native"]


def test_the_streams_behave_as_streams_of_text(tmp_path: Path) -> None:
    code = """
import sys
def predict() -> list[str]:
    out = sys.stdout
    out.reconfigure(encoding="utf-8")
    out.close()
    try:
        out.write(b"x")
    except TypeError as error:
        said = str(error)
    return [said, out.encoding, str(out.writable() and out.buffer.writable()), str(out.buffer.fileno()), out.name]
"""
    with ready(tmp_path, code) as one:
        one.run()
        assert one.chunks() == ["write() argument must be str, not bytes", "utf-8", "True", "1", "<stdout>"]


FAILURES = {
    "raises": ("    raise ValueError('no weights')", "ValueError: no weights"),
    "exits": ("    import sys; sys.exit(2)", "SystemExit: 2"),
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_setup_that_fails_says_why_with_what_it_printed(tmp_path: Path, how: str) -> None:
    body, error = FAILURES[how]
    code = f"class Model:\n  def setup(self):\n    print('loading')\n    print('half', end='')\n{body}\n  def predict(self) -> int: return 1"
    with child(tmp_path, code) as one:
        failed = one.until(SetupFailed)
        assert failed.error == error
        assert "in setup" in failed.traceback
        assert "tidegate/" not in failed.traceback
        assert one.printed(0) == "loading\nhalf"
        assert one.wait() == 1


def test_a_module_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with child(tmp_path, "print('importing')\n1 / 0") as one:
        failed = one.until(SetupFailed)
        assert "ZeroDivisionError" in failed.error + failed.traceback
        assert one.printed(0) == "importing\n"
    with child(tmp_path, "x = 1", name="nothing") as one:
        assert "nothing" in one.until(SetupFailed).error
        assert one.wait() == 1


def test_an_asynchronous_setup_shares_the_loop_of_the_predictions(tmp_path: Path) -> None:
    code = """
import asyncio, os
class Model:
    async def setup(self, weights: str = ""):
        self.weights = weights
        self.loop = asyncio.get_running_loop()
    async def predict(self):
        yield self.loop is asyncio.get_running_loop()
        yield self.weights
"""
    with child(tmp_path, code, env={"COG_WEIGHTS": "there"}) as one:
        one.ready()
        one.run()
        assert one.chunks() == [True, "there"]
        assert any(isinstance(each, Item) for each in one.said)
