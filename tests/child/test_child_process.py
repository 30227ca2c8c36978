import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from children import WAIT_S, child, framed, ready

from tidegate.worker.messages import Begin, Check, Checked, Ended, Log, Stop

ENDS = (1, -signal.SIGKILL)

SLEEPS = {
    "busy": "import time\ndef predict() -> int:\n    print('there')\n    while True: time.sleep(0.01)",
    "blocked": "import time\ndef predict() -> int:\n    print('there', current_scope().directory)\n    time.sleep(600)",
    "blocked_loop": "import time\nasync def predict() -> int:\n    print('there')\n    time.sleep(600)",
    "stubborn": """
import asyncio
async def predict() -> int:
    print('there')
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", SLEEPS)
def test_the_process_ends_soon_after_its_parent_whatever_the_handler_does(tmp_path: Path, how: str) -> None:
    with ready(tmp_path, SLEEPS[how]) as one:
        one.predict(1)
        one.until(Log)
        one.sock.shutdown(socket.SHUT_RDWR)
        assert one.process.wait(WAIT_S) in ENDS
    assert not (tmp_path / "files").exists()


@pytest.mark.slow
def test_the_process_ends_soon_after_its_parent_during_setup(tmp_path: Path) -> None:
    code = "import time\nclass Model:\n  def setup(self):\n    print('there')\n    time.sleep(600)\n  def predict(self) -> int: return 1"
    with child(tmp_path, code) as one:
        one.until(Log)
        one.sock.shutdown(socket.SHUT_RDWR)
        assert one.process.wait(WAIT_S) in ENDS
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize("how", ["leaves at once", "leaves halfway", "says something else", "leaves and reads nothing"])
def test_a_process_whose_parent_does_not_go_through_with_it_exits_and_leaves_nothing(tmp_path: Path, how: str) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (tmp_path / "handler.py").write_text("def predict() -> int:\n    return 1\n")
    begin = framed(Begin("handler.py:predict", str(files)))
    said = {"leaves halfway": begin[:-1], "says something else": framed(Stop()), "leaves and reads nothing": begin}
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "tidegate.worker.child", str(theirs.fileno())]
    with ours, subprocess.Popen(command, pass_fds=(theirs.fileno(),), cwd=tmp_path, start_new_session=True) as process:
        theirs.close()
        ours.sendall(said.get(how, b""))
        if how == "leaves and reads nothing":
            assert select.select([ours], [], [], WAIT_S)[0] == [ours]
        if how != "says something else":
            ours.close()
        assert process.wait(WAIT_S) in ENDS
    assert files.exists() == (how != "leaves and reads nothing")


PARENT = """
import sys, time
from pathlib import Path
from children import child
from tidegate.worker.messages import Log
code = "import ctypes\\ndef predict() -> int:\\n    print('there')\\n    ctypes.PyDLL(None).sleep(600)"
with child(Path(sys.argv[1]), code, name="predict") as one:
    one.ready()
    one.predict(1)
    one.until(Log)
    print(one.process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems end no process with its parent")
def test_a_process_that_native_code_keeps_from_running_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], env=env, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        try:
            stuck = os.pidfd_open(int(parent.stdout.readline()))
        finally:
            parent.kill()
    try:
        assert select.select([stuck], [], [], WAIT_S)[0] == [stuck]
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(stuck, signal.SIGKILL)
        os.close(stuck)


def test_nonsense_ends_the_process(tmp_path: Path) -> None:
    for nonsense in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x01x"):
        with ready(tmp_path, "def predict() -> int:\n    return 1") as one:
            one.sock.sendall(nonsense)
            assert one.process.wait(WAIT_S) in ENDS


def test_a_process_that_is_stopped_exits(tmp_path: Path) -> None:
    with ready(tmp_path, "def predict() -> int:\n    return 1") as one:
        one.send(Stop())
        assert one.wait() == 0


@pytest.mark.slow
def test_a_thread_of_the_users_does_not_keep_a_stopped_process(tmp_path: Path) -> None:
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\ndef predict() -> int: return 1"
    with ready(tmp_path, code) as one:
        one.send(Stop())
        assert one.wait() == 0


def test_an_interrupt_of_the_terminal_is_left_to_the_parent_and_termination_is_not(tmp_path: Path) -> None:
    with ready(tmp_path, "def predict() -> int:\n    return 1") as one:
        one.process.send_signal(signal.SIGINT)
        assert one.run().status == "succeeded"
        one.process.send_signal(signal.SIGTERM)
        assert one.wait() == -signal.SIGTERM


def test_a_handler_that_ends_the_process_is_an_end_of_the_stream(tmp_path: Path) -> None:
    with ready(tmp_path, "import os\ndef predict() -> int:\n    print('last')\n    os._exit(9)") as one:
        one.predict(1)
        assert one.wait() == 9
        assert one.printed() == "last\n"


def test_a_crash_of_native_code_shows_where_on_the_processes_own_stream(tmp_path: Path) -> None:
    with ready(tmp_path, "import faulthandler\ndef predict() -> int:\n    faulthandler._sigsegv()") as one:
        one.predict(1)
        assert one.wait() == -signal.SIGSEGV
        assert "in predict" in one.native


HEALTH = {
    "good": ("def healthcheck(self): return True", ""),
    "odd": ("def healthcheck(self): return 'fine'", ""),
    "false": ("def healthcheck(self): return False", "healthcheck returned False"),
    "raises": ("def healthcheck(self): raise ValueError('gpu')", "ValueError: gpu"),
    "async": ("async def healthcheck(self): return False", "healthcheck returned False"),
    "async_raises": ("async def healthcheck(self): raise SystemExit(1)", "SystemExit: 1"),
    "lent": (
        "def healthcheck(self):\n        async def it(): return False\n        return it()",
        "healthcheck returned False",
    ),
    "none": ("", ""),
}


@pytest.mark.parametrize("how", HEALTH)
def test_the_handlers_own_healthcheck_is_asked_also_while_it_is_busy(tmp_path: Path, how: str) -> None:
    method, error = HEALTH[how]
    code = f"import asyncio\nclass Model:\n    {method}\n    async def predict(self) -> int:\n        await asyncio.sleep(60)\n"
    with child(tmp_path, code) as one:
        one.ready()
        one.predict(1)
        for number in (1, 2):
            one.send(Check(number))
            assert one.until(Checked) == Checked(number, error)
        one.cancel(1)
        assert one.until(Ended).status == "canceled"


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["def healthcheck(self): time.sleep(7)", "async def healthcheck(self): await asyncio.sleep(60)"]
)
def test_a_healthcheck_that_hangs_is_unhealthy_and_keeps_the_next_from_beginning(tmp_path: Path, method: str) -> None:
    code = f"import asyncio, time\nfrom tidegate.worker.child import checks\nchecks.WITHIN_S = 0.5\nclass Model:\n    {method}\n    def predict(self) -> int: return 1"
    with child(tmp_path, code) as one:
        one.ready()
        one.send(Check(1))
        one.send(Check(2))
        assert one.until(Checked) == Checked(2, "the healthcheck before this one has not ended")
        assert one.until(Checked) == Checked(1, "healthcheck did not end within 0.5 s")
        assert one.run().status == "succeeded"


COUNTING = {
    "def": "def predict(path: str):\n    for i in range(20_000):\n        count(path, i)\n        yield 'x' * 1000",
    "async def": "async def predict(path: str):\n    for i in range(20_000):\n        count(path, i)\n        yield 'x' * 1000",
    "prints": "def predict(path: str) -> int:\n    for i in range(20_000):\n        count(path, i)\n        print('x' * 1000)\n    return 1",
    "async prints": "async def predict(path: str) -> int:\n    for i in range(20_000):\n        count(path, i)\n        print('x' * 1000)\n    return 1",
}


def _stands_still(path: Path) -> int:
    deadline = time.monotonic() + WAIT_S
    before = -1
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = path.stat().st_size if path.exists() else -1
        if now == before and now > 0:
            return now
        before = now
    raise AssertionError("it never stopped")


@pytest.mark.slow
@pytest.mark.parametrize("how", COUNTING)
def test_a_handler_waits_while_the_parent_does_not_read(tmp_path: Path, how: str) -> None:
    code = (
        "files = {}\ndef count(path, i):\n    files.setdefault(path, open(path, 'ab', 0)).write(b'.')\n" + COUNTING[how]
    )
    with ready(tmp_path, code) as one:
        one.reading.clear()
        made = tmp_path / "made"
        one.predict(1, path=str(made))
        assert _stands_still(made) < 10_000
        one.reading.set()
        if how == "async prints":
            assert one.until(Ended).status == "succeeded"
        else:
            one.cancel(1)
            assert one.until(Ended).status == "canceled"


@pytest.mark.slow
def test_thousands_of_predictions_leave_no_file_and_no_thread(tmp_path: Path) -> None:
    code = """
import threading
def predict() -> int:
    (current_scope().directory / "x").write_text("y")
    return threading.active_count()
"""
    with ready(tmp_path, code) as one:
        one.run()
        threads = one.chunks()[0]
        for number in range(2, 3_001):
            assert one.run(number).status == "succeeded"
            assert one.chunks(number) == [threads]
            one.said.clear()
        assert list((tmp_path / "files").iterdir()) == []


def test_little_is_imported_by_the_process(tmp_path: Path) -> None:
    code = "import sys\ndef predict() -> list[str]:\n    return [n for n in ('structlog', 'uvloop', 'starlette', 'aiohttp', 'pydantic', 'numpy') if n in sys.modules]"
    with ready(tmp_path, code) as one:
        one.run()
        assert one.chunks() == []
