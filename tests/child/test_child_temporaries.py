import base64
from pathlib import Path

import pytest
from children import child, ready

from tidegate.worker.messages import Ended

WAYS = {
    "mkstemp": "os.fdopen(tempfile.mkstemp()[0]).close()",
    "mkstemp of bytes": "os.close(tempfile.mkstemp(prefix=b'x')[0])",
    "mkdtemp": "open(os.path.join(tempfile.mkdtemp(), 'x'), 'w').close()",
    "mktemp": "open(tempfile.mktemp(), 'w').close()",
    "named": "tempfile.NamedTemporaryFile(delete=False).close()",
    "directory": "kept.append(tempfile.TemporaryDirectory())",
    "gettempdir": "open(os.path.join(tempfile.gettempdir(), 'x'), 'w').close()",
    "in a thread": "thread = threading.Thread(target=tempfile.mkstemp); thread.start(); thread.join()",
    "in a pool": "pool.submit(tempfile.mkdtemp).result()",
    "its own": "(current_scope().directory / 'x').touch()",
}


@pytest.mark.parametrize("end", ["return len(os.listdir(place))", "1 / 0"])
@pytest.mark.parametrize("word", ["def", "async def"])
def test_no_temporary_file_outlives_its_prediction(tmp_path: Path, word: str, end: str) -> None:
    lines = "\n    ".join(WAYS.values())
    code = f"""
import os, tempfile, threading
from concurrent.futures import ThreadPoolExecutor
pool, kept, place = ThreadPoolExecutor(1), [], tempfile.gettempdir()
{word} predict() -> int:
    open_file = tempfile.NamedTemporaryFile()
    {lines}
    {end}
"""
    with ready(tmp_path, code) as one:
        for number in (1, 2):
            one.run(number)
            assert list((tmp_path / "files").iterdir()) == []
            assert one.chunks(number) == ([1] if "return" in end else [])  # all of it is in one directory
        assert one.printed(0, "stderr") == ""


def test_predictions_at_the_same_time_have_directories_of_their_own(tmp_path: Path) -> None:
    code = """
import asyncio, os, tempfile
from tidegate.predict.marks import concurrent
@concurrent(max=2)
async def predict(gate: str) -> list[str]:
    made = tempfile.mkdtemp()
    while gate and not os.path.exists(gate): await asyncio.sleep(0.01)
    return [str(os.path.isdir(made)), os.path.dirname(made)]
"""
    with ready(tmp_path, code) as one:
        one.predict(1, gate=str(tmp_path / "gate"))
        one.run(2, gate="")
        (tmp_path / "gate").touch()
        one.until(Ended, 1)
        there, first = one.chunks(1)
        still, second = one.chunks(2)
        assert there == still == "True"
        assert first != second
        assert list((tmp_path / "files").iterdir()) == []


def test_files_of_the_setup_stay_and_so_does_a_place_that_it_chose(tmp_path: Path) -> None:
    code = f"""
import multiprocessing.util, os, tempfile, threading
from pathlib import Path
class Model:
    def setup(self):
        self.made = Path(tempfile.mkstemp(suffix=".txt")[1])
        self.made.write_text("of setup")
    def predict(self, choose: bool) -> Path:
        shared = multiprocessing.util.get_temp_dir()
        assert os.path.isdir(shared) and "prediction-" not in shared
        if choose:
            tempfile.tempdir = {str(tmp_path)!r}
            tempfile.mkstemp(prefix="chosen")
        return self.made
"""
    with child(tmp_path, code, name="Model") as one:
        one.ready()
        for number in (1, 2):
            assert one.run(number, choose=number == 2).error == ""
            assert base64.b64decode(one.chunks(number)[0].partition(",")[2]) == b"of setup"
        assert len(list(tmp_path.glob("chosen*"))) == 1


def test_a_file_that_is_made_when_its_prediction_is_over_is_the_workers(tmp_path: Path) -> None:
    code = """
import os, tempfile, threading, time
def predict(gate: str) -> int:
    def work():
        while not os.path.exists(gate): time.sleep(0.01)
        open(gate + ".done", "w").write(os.path.dirname(tempfile.mkdtemp()))
    threading.Thread(target=work).start()
    return 1
"""
    with ready(tmp_path, code) as one:
        one.run(gate=str(tmp_path / "gate"))
        (tmp_path / "gate").touch()
        done = tmp_path / "gate.done"
        while not (done.exists() and done.read_text()):
            assert one.process.poll() is None
        assert done.read_text() == str((tmp_path / "files").resolve())
