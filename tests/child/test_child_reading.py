"""Who reads what the parent says: the loop while anything runs, else the thread that is to run the next prediction."""

import sys
import time
from pathlib import Path

import pytest
from children import Child, asked, framed, ready

from tidegate.worker.messages import Cancel, Check, Checked, Ended, Log, Stop

PLAIN = "def predict() -> int:\n    return 1"
PATIENT = """
import time
def predict() -> int:
    print('there')
    while not current_scope().cancelled: time.sleep(0.005)
    return 1
"""
PAIRED = """
import threading
from tidegate.predict.marks import concurrent
both = threading.Barrier(2, timeout=20)
@concurrent(max=2)
def predict() -> int:
    return both.wait() * 0
"""
TIMES = 50
WAKINGS = TIMES // 2
"""How often the loop may wake while as many predictions follow one another: where it reads them it is twice for each."""


def ended(one: Child, count: int) -> dict[int, str]:
    """Wait until so many predictions are over; gives how each ended."""
    over = [one.until(Ended) for _ in range(count)]
    return {each.number: each.error or each.status for each in over}


def test_a_cancellation_that_comes_with_its_prediction_is_heard(tmp_path: Path) -> None:
    with ready(tmp_path, PATIENT) as one:
        one.send(asked(1), Cancel(1))
        assert ended(one, 1) == {1: "canceled"}


def test_a_cancellation_of_what_is_over_touches_nothing(tmp_path: Path) -> None:
    with ready(tmp_path, PLAIN) as one:
        one.run(1)
        one.send(Cancel(1), asked(2))
        assert ended(one, 1) == {2: "succeeded"}


def test_predictions_that_come_together_run_together(tmp_path: Path) -> None:
    with ready(tmp_path, PAIRED) as one:
        for first in range(1, 40, 2):
            one.send(asked(first), asked(first + 1))
            assert ended(one, 2) == {first: "succeeded", first + 1: "succeeded"}


def test_predictions_that_come_one_after_the_other_run_together_too(tmp_path: Path) -> None:
    with ready(tmp_path, PAIRED) as one:
        for first in range(1, 40, 2):
            one.predict(first)
            one.predict(first + 1)
            assert ended(one, 2) == {first: "succeeded", first + 1: "succeeded"}


def test_one_too_many_is_told_so_and_the_other_runs(tmp_path: Path) -> None:
    with ready(tmp_path, PATIENT) as one:
        one.send(asked(1), asked(2))
        assert ended(one, 1) == {2: "The worker is busy"}
        one.cancel(1)
        assert ended(one, 1) == {1: "canceled"}
        one.predict(3)
        one.until(Log, 3)
        one.cancel(3)
        assert ended(one, 1) == {3: "canceled"}


def test_one_too_many_is_told_so_though_the_other_is_over_in_no_time(tmp_path: Path) -> None:
    with ready(tmp_path, PLAIN) as one:
        for first in range(1, 40, 2):
            one.send(asked(first), asked(first + 1))
            assert ended(one, 2) == {first: "succeeded", first + 1: "The worker is busy"}


def test_a_check_is_answered_whoever_reads_it(tmp_path: Path) -> None:
    code = (
        "import time\nclass Model:\n  def healthcheck(self) -> bool: return True\n  def run(self) -> int:\n    return 1"
    )
    with ready(tmp_path, code, name="Model") as one:
        for number in range(1, 20, 2):
            one.send(Check(number))
            assert one.until(Checked) == Checked(number, "")
            one.send(Check(number + 1), asked(number))
            last = {type(one.next()) for _ in range(2)}
            assert last == {Checked, Ended}


def test_a_message_that_comes_in_pieces_is_whole_in_the_end(tmp_path: Path) -> None:
    with ready(tmp_path, "def predict(text: str) -> int:\n    return len(text)") as one:
        data = framed(asked(1, text="x" * 100_000)) + framed(asked(2, text="yy"))[:3]
        for start in range(0, len(data), 9_001):
            one.sock.sendall(data[start : start + 9_001])
            time.sleep(0.002)
        assert ended(one, 1) == {1: "succeeded"}
        one.sock.sendall(framed(asked(2, text="yy"))[3:])
        assert ended(one, 1) == {2: "succeeded"}
        assert (one.chunks(1), one.chunks(2)) == ([100_000], [2])


@pytest.mark.parametrize("first", [0, 1, 2])
def test_an_idle_process_stops_when_it_is_told_to(tmp_path: Path, first: int) -> None:
    with ready(tmp_path, PLAIN) as one:
        for number in range(first):
            one.run(number + 1)
        one.send(Stop())
        assert one.wait() == 0


SURROUNDINGS = {
    "elsewhere than on Linux": "from tidegate.worker.child import serving\nserving._epoll = None",
    "with what green threads take away": "import select\ndel select.epoll",
    "beside threads that fork": """
import os, threading
def fork():
    for _ in range(20):
        pid = os.fork()
        if not pid: os.kill(os.getpid(), 9)  # to exit would save what coverage has, under a lock that was copied
        os.waitpid(pid, 0)
threading.Thread(target=fork, daemon=True).start()
""",
}


@pytest.mark.parametrize("where", SURROUNDINGS)
def test_predictions_and_cancellations_are_heard(tmp_path: Path, where: str) -> None:
    with ready(tmp_path, SURROUNDINGS[where] + PATIENT) as one:
        for number in range(1, 6):
            one.predict(number)
            one.until(Log, number)
            one.cancel(number)
            assert ended(one, 1) == {number: "canceled"}
            time.sleep(0.01)
        one.send(Stop())
        assert one.wait() == 0


STRAY = """
import ctypes, threading, time
class Late(Exception): pass
def predict() -> int:
    me = ctypes.c_ulong(threading.get_ident())
    def later():
        time.sleep(0.2)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(me, ctypes.py_object(Late))
    threading.Thread(target=later, daemon=True).start()
    return 1
"""


def test_a_process_whose_thread_is_ended_from_outside_ends_so_that_it_is_replaced(tmp_path: Path) -> None:
    with ready(tmp_path, STRAY) as one:
        assert one.run(1).status == "succeeded"
        time.sleep(0.5)
        one.predict(2)
        assert one.wait() == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the loop reads everything")
def test_no_other_thread_wakes_for_a_prediction_that_comes_alone(tmp_path: Path) -> None:
    with ready(tmp_path, PLAIN) as one:
        one.run(1)
        before = wakings(one)
        for number in range(TIMES):
            one.run(number + 2)
            time.sleep(0.01)  # who comes before the thread is back finds the loop reading
        assert wakings(one) - before <= WAKINGS


def wakings(one: Child) -> int:
    """Give how often the main thread, whose loop it is, has gone to sleep of itself."""
    status = Path(f"/proc/{one.process.pid}/task/{one.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary_ctxt_switches"))
