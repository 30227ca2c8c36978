from pathlib import Path

import pytest
from children import Child, child, ready

from tidegate.worker.messages import Ended, Log


def test_what_a_thread_prints_after_its_prediction_never_comes_to_another(tmp_path: Path) -> None:
    code = """
import os, threading, time
threads = []
def predict(gate: str) -> int:
    def work():
        while not os.path.exists(gate): time.sleep(0.01)
        print("late")
        print("half", end="")
        current_scope().record_metric("late", 1)
        open(gate + ".done", "w").close()
    if not threads:
        threads.append(threading.Thread(target=work))
        threads[0].start()
        return 1
    print("begins")
    open(gate, "w").close()
    while not os.path.exists(gate + ".done"): time.sleep(0.01)
    print("ends")
    return 2
"""
    with ready(tmp_path, code) as one:
        one.run(1, gate=str(tmp_path / "gate"))
        one.run(2, gate=str(tmp_path / "gate"))
        assert one.printed(1) == ""
        assert one.printed(2) == "begins\nends\n"
        assert one.metrics(1) == one.metrics(2) == []
        while one.printed(0) != "late\nhalf":
            one.until(Log, 0)


WAYS = {
    "thread": "    thread = threading.Thread(target=say, args=(name,)); thread.start(); thread.join()",
    "subclass": "    thread = Own(name); thread.start(); thread.join()",
    "timer": "    thread = threading.Timer(0, say, (name,)); thread.start(); thread.join()",
    "executor": "    pool.submit(say, name).result(20)",
    "map": "    list(pool.map(say, [name]))",
    "other pool": "    other.apply_async(func=say, args=(name,)).get(20); other.map(nothing, [1])",
    "other pool, map": "    other.map(say, [name])",
    "other pool, imap": "    list(other.imap_unordered(say, [name]))",
    "a thread of the module": "    done = queue.SimpleQueue(); jobs.put((contextvars.copy_context(), name, done)); done.get(timeout=20)",
    "thread in a thread": "    list(pool.map(again, [name]))",
}
LOOPED = {
    "to_thread": "    await asyncio.to_thread(say, name)",
    "run_in_executor": "    await asyncio.get_running_loop().run_in_executor(None, say, name)",
    "task": "    await asyncio.create_task(said(name))",
    "thread": WAYS["thread"],
    "back on the loop": "    await asyncio.to_thread(back, asyncio.get_running_loop(), name)",
}
CODE = """
import asyncio, contextvars, queue, threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from tidegate.predict.marks import concurrent
pool, other = ThreadPoolExecutor(1), ThreadPool(1)
together = threading.Barrier(2)
def say(name):
    print(name)
    current_scope().record_metric("name", name)
def nothing(_): pass
async def said(name): say(name)
def again(name):
    thread = threading.Thread(target=say, args=(name,)); thread.start(); thread.join()
def back(loop, name):
    asyncio.run_coroutine_threadsafe(said(name), loop).result(20)
def work():
    while True:
        context, name, done = jobs.get()
        context.run(say, name)
        done.put(None)
jobs = queue.SimpleQueue()
threading.Thread(target=work, daemon=True).start()
class Own(threading.Thread):
    def __init__(self, text):
        super().__init__()
        self.text = text
    def run(self): say(self.text)
@concurrent(max=2)
"""


@pytest.mark.parametrize("way", WAYS)
def test_threads_and_jobs_belong_to_the_prediction_that_started_them(tmp_path: Path, way: str) -> None:
    with ready(
        tmp_path, f"{CODE}def predict(name: str) -> int:\n    together.wait(20)\n{WAYS[way]}\n    return 1"
    ) as one:
        _both(one)


@pytest.mark.parametrize("way", LOOPED)
def test_jobs_of_asynchronous_predictions_belong_to_them(tmp_path: Path, way: str) -> None:
    together = "    there.add(name)\n    while len(there) < 2: await asyncio.sleep(0.01)"
    with ready(
        tmp_path, f"there = set()\n{CODE}async def predict(name: str) -> int:\n{together}\n{LOOPED[way]}\n    return 1"
    ) as one:
        _both(one)


def _both(one: Child) -> None:
    for number in (1, 2):
        one.predict(number, name=f"n{number}")
    for _ in range(2):
        assert one.until(Ended).status == "succeeded"
    for number in (1, 2):
        assert one.printed(number) == f"n{number}\n"
        assert one.metrics(number) == [("name", f"n{number}", "replace")]


def test_a_thread_of_the_setup_belongs_to_the_worker(tmp_path: Path) -> None:
    code = """
import queue, threading
class Model:
    def setup(self):
        self.jobs, self.done = queue.Queue(), queue.Queue()
        threading.Thread(target=self.work, daemon=True).start()
    def work(self):
        while True:
            print(self.jobs.get())
            current_scope().record_metric("x", 1)
            self.done.put(None)
    def predict(self) -> int:
        self.jobs.put("from afar")
        self.done.get(timeout=20)
        print("here")
        return 1
"""
    with child(tmp_path, code) as one:
        one.ready()
        assert one.run().status == "succeeded"
        assert (one.printed(0), one.printed(1), one.metrics(1)) == ("from afar\n", "here\n", [])


def test_a_thread_that_is_over_is_let_go_of(tmp_path: Path) -> None:
    code = """
import gc, threading, weakref
def predict() -> list[bool]:
    thread = threading.Thread(target=print)
    thread.start()
    thread.join()
    try:
        thread.start()
    except RuntimeError:
        twice = True
    fresh = threading.Thread(target=print)
    fresh.start()
    fresh.join()
    gc.disable()
    other = weakref.ref(fresh)
    del fresh
    gc.enable()
    return [twice, other() is None]
"""
    with ready(tmp_path, code) as one:
        one.run()
        assert one.chunks() == [True, True]
