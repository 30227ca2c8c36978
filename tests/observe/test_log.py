"""The log, read back from real pipes: some are read, some are full, some are broken."""

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import structlog
import uvloop

from tidegate.observe.log import FIELDS, MAX_BYTES, MAX_LINES, Form, Level, LogWriter, configure

SECRET = "sk-canary-4711"


class Pipe:
    """A pipe, and the writers that write to it."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        self.writers: list[LogWriter] = []

    def configure(self, form: Form = "json", level: Level = "info") -> LogWriter:
        writer = configure(form, self.write_fd, level)
        self.writers.append(writer)
        return writer

    def writer(self, *, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES) -> LogWriter:
        writer = LogWriter(
            self.write_fd, lambda dropped: b"dropped %d\n" % dropped, max_lines=max_lines, max_bytes=max_bytes
        )
        self.writers.append(writer)
        return writer

    def read_until(self, enough: Callable[[bytes], bool]) -> bytes:
        """Read until the bytes so far are enough, or nobody writes any more."""
        data = b""
        while not enough(data) and (part := os.read(self.read_fd, 65536)):
            data += part
        return data

    def lines(self, count: int) -> list[dict[str, Any]]:
        """Read that many lines of JSON."""
        data = self.read_until(lambda seen: seen.count(b"\n") >= count)
        return [json.loads(line) for line in data.splitlines()]

    def break_off(self) -> None:
        """Close the reader's end."""
        if self.read_fd >= 0:
            os.close(self.read_fd)
            self.read_fd = -1

    def close(self) -> None:
        self.break_off()
        stuck = [writer for writer in self.writers if not writer.close(10)]
        os.close(self.write_fd)
        structlog.reset_defaults()
        assert not stuck


def held(writer: LogWriter) -> AbstractContextManager[object]:
    """Give the scope in which the thread takes no lines."""
    return writer._lock


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_a_json_line_has_time_level_event_and_the_known_fields(pipe: Pipe) -> None:
    pipe.configure()
    structlog.get_logger().info("exchange", request="r-1", status=200, first_token_s=0.25, stream=True, gap_max_s=None)
    (line,) = pipe.lines(1)
    assert list(line)[:3] == ["time", "level", "event"]
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info", "event": "exchange", "request": "r-1", "status": 200, "first_token_s": 0.25, "stream": True,
        "gap_max_s": None,
    }  # fmt: skip


def test_lines_keep_their_order(pipe: Pipe) -> None:
    pipe.configure()
    log = structlog.get_logger()
    for number in range(200):
        log.info("tick", count=number)
    assert [line["count"] for line in pipe.lines(200)] == list(range(200))


def test_a_field_nobody_declared_is_withheld_by_name(pipe: Pipe) -> None:
    assert "prompt" not in FIELDS
    pipe.configure()
    structlog.get_logger().info("exchange", prompt=SECRET, request="r-1")
    data = pipe.read_until(lambda seen: b"\n" in seen)
    assert SECRET.encode() not in data
    line = json.loads(data)
    assert (line["withheld"], line["request"]) == (["prompt"], "r-1")


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_exception_is_shown_by_type_and_place_but_not_by_its_message(pipe: Pipe, form: Form) -> None:
    pipe.configure(form)

    def deep() -> None:
        try:
            raise ConnectionResetError(104, SECRET)
        except OSError as error:
            raise ValueError(SECRET) from error

    try:
        deep()
    except ValueError:
        structlog.get_logger().exception("broken")
    data = pipe.read_until(lambda seen: b"ECONNRESET" in seen and seen.endswith(b"\n"))
    assert SECRET.encode() not in data
    assert b"ValueError: " in data
    assert b"test_log:" in data
    assert b" deep" in data
    assert b"after ConnectionResetError(ECONNRESET)" in data


def test_on_a_terminal_a_traceback_stands_below_its_line_and_speaks_to_nobody(pipe: Pipe) -> None:
    pipe.configure("text")
    structlog.get_logger().error(
        "setup_failed", error="ValueError: x", traceback="Traceback:\n  here\x1b[2J\nValueError: x"
    )
    data = pipe.read_until(lambda seen: seen.endswith(b"ValueError: x\n"))
    first, *below = data.decode().splitlines()
    assert "setup_failed" in first
    assert "traceback" not in first
    assert below == ["  Traceback:", "  '  here\\x1b[2J'", "  ValueError: x"]


def test_an_exception_that_is_handed_over_outside_its_handler_is_shown_too(pipe: Pipe) -> None:
    pipe.configure()
    log = structlog.get_logger()
    log.error("broken", exc_info=KeyError(SECRET))
    log.error("whole", exc_info=None)
    broken, whole = pipe.lines(2)
    assert broken["exception"].startswith("KeyError")
    assert SECRET not in broken["exception"]
    assert "exception" not in whole


def test_a_value_without_a_json_form_is_shown_by_its_type(pipe: Pipe) -> None:
    class Odd:
        def __repr__(self) -> str:
            return SECRET

    pipe.configure()
    structlog.get_logger().info("odd", reason=Odd())
    assert pipe.lines(1)[0]["reason"] == "Odd"


def test_a_line_that_cannot_be_rendered_does_not_harm_its_caller(pipe: Pipe) -> None:
    pipe.configure()
    structlog.get_logger().info("odd", reason="\ud800")
    assert pipe.lines(1)[0]["event"] == "log line unfit"


def test_lines_below_the_level_are_left_out(pipe: Pipe) -> None:
    pipe.configure(level="warning")
    log = structlog.get_logger()
    log.info("small")
    log.warning("great")
    assert [line["event"] for line in pipe.lines(1)] == ["great"]


def test_text_leaves_out_what_is_empty_and_speaks_no_control_sequence(pipe: Pipe) -> None:
    pipe.configure("text")
    structlog.get_logger().info("exchange", request="r\x1b[2J\n1", model="", first_token_s=None, status=0)
    line = pipe.read_until(lambda seen: b"status" in seen and seen.endswith(b"\n")).decode()
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert "x1b[2J" in line
    assert "status=0" in line
    assert "model" not in line
    assert "first_token_s" not in line


def test_libraries_are_heard_from_warning_up_and_without_their_arguments(pipe: Pipe) -> None:
    pipe.configure()
    library = logging.getLogger("uvicorn.error")
    library.setLevel(logging.DEBUG)
    try:
        library.info("unheard")
        library.warning("Invalid request: %s", SECRET)
        library.error("Fatal (%s)\nprotocol: %s", SECRET, SECRET)
        library.critical(ValueError(SECRET))
    finally:
        library.setLevel(logging.NOTSET)
    heard = pipe.lines(3)
    assert [(line["level"], line["logger"], line["message"]) for line in heard] == [
        ("warning", "uvicorn.error", "Invalid request: %s"),
        ("error", "uvicorn.error", "Fatal"),
        ("critical", "uvicorn.error", "ValueError"),
    ]
    assert SECRET not in json.dumps(heard)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_callback_that_fails_in_the_loop_is_heard_without_what_it_was_given(
    pipe: Pipe, run: Callable[..., None]
) -> None:
    def received(data: str) -> None:
        raise ValueError(data)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(received, SECRET)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    pipe.configure()
    run(main())
    (line,) = pipe.lines(1)
    assert (line["logger"], line["level"]) == ("asyncio", "error")
    assert line["exception"].startswith("ValueError")
    assert "received" in line["exception"]
    assert SECRET not in json.dumps(line)


def test_a_closed_log_leaves_nothing_behind(pipe: Pipe) -> None:
    handlers, threads = list(logging.getLogger().handlers), set(threading.enumerate())
    writer = pipe.configure()
    assert logging.getLogger().handlers != handlers
    structlog.get_logger().info("last")
    assert writer.close(10)
    assert logging.getLogger().handlers == handlers
    assert set(threading.enumerate()) == threads
    assert pipe.lines(1)[0]["event"] == "last"
    structlog.get_logger().info("too late")
    assert writer.dropped == 1


def test_flush_waits_until_what_was_queued_is_out(pipe: Pipe) -> None:
    writer = pipe.writer()
    writer.write(b"one\n")
    assert writer.flush(10)
    os.set_blocking(pipe.read_fd, False)
    assert os.read(pipe.read_fd, 100) == b"one\n"


def test_a_pipe_that_nobody_reads_stops_no_caller_and_is_told_of_later(pipe: Pipe) -> None:
    writer = pipe.writer(max_lines=100)
    line = b"x" * 9999 + b"\n"
    with held(writer):
        for _ in range(100):  # more than any pipe holds
            writer.write(line)
    assert not writer.flush(0.05)
    for _ in range(900):
        writer.write(line)
    assert writer.dropped == 900
    data = pipe.read_until(lambda seen: b"dropped" in seen and seen.endswith(b"\n"))
    assert data == line * 100 + b"dropped 900\n"
    assert writer.flush(10)
    assert writer.dropped == 900


def test_each_dropped_line_is_told_of_once(pipe: Pipe) -> None:
    writer = pipe.writer(max_bytes=10)
    told = b""
    for _ in range(2):
        writer.write(b"fits\n")
        writer.write(b"does not fit\n")
        assert writer.flush(10)
        told += pipe.read_until(lambda seen: b"dropped" in seen and seen.endswith(b"\n"))
    assert told == b"fits\ndropped 1\n" * 2
    assert writer.dropped == 2


def test_the_queue_is_bounded_in_bytes_and_frees_what_is_written(pipe: Pipe) -> None:
    writer = pipe.writer(max_bytes=1000)
    with held(writer):
        for _ in range(3):
            writer.write(b"x" * 400 + b"\n")
    assert writer.dropped == 1
    assert writer.flush(10)
    writer.write(b"y" * 900 + b"\n")
    assert writer.flush(10)
    assert writer.dropped == 1


def test_lines_are_dropped_in_whole_and_never_cut(pipe: Pipe) -> None:
    writer = pipe.writer(max_lines=50)
    lines = [b"%05d" % number + b"z" * 5000 + b"\n" for number in range(500)]
    for line in lines:
        writer.write(line)
    assert writer.dropped > 0
    data = pipe.read_until(lambda seen: b"dropped" in seen and seen.endswith(b"\n"))
    seen = {line for line in data.splitlines(keepends=True) if not line.startswith(b"dropped")}
    assert seen <= set(lines)


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.write_fd, False)
    writer = pipe.writer()
    lines = [b"%04d" % number + b"z" * 995 + b"\n" for number in range(1000)]  # several times what a pipe holds
    for line in lines:
        writer.write(line)
    assert pipe.read_until(lambda seen: len(seen) >= 1000 * len(lines)) == b"".join(lines)
    assert writer.flush(10)
    assert writer.dropped == 0


def test_a_broken_pipe_costs_lines_and_nothing_else(pipe: Pipe) -> None:
    pipe.break_off()
    writer = pipe.writer()
    writer.write(b"one\n")
    writer.write(b"two\n")
    assert writer.flush(10)
    assert writer.dropped == 2
    writer.write(b"three\n")
    assert writer.flush(10)
    assert writer.dropped == 3


def test_no_line_is_lost_or_counted_twice_with_many_writers(pipe: Pipe) -> None:
    writer = pipe.writer()
    each = 500

    def write(name: int) -> None:
        for number in range(each):
            writer.write(b"%d %d\n" % (name, number))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    data = pipe.read_until(lambda seen: seen.count(b"\n") >= 4 * each)
    for thread in threads:
        thread.join()
    assert len(set(data.splitlines())) == 4 * each
    assert writer.dropped == 0


def test_each_line_is_written_without_being_asked_for(pipe: Pipe) -> None:
    writer = pipe.writer()
    for number in range(5):
        writer.write(b"%d\n" % number)
        assert os.read(pipe.read_fd, 100) == b"%d\n" % number
        time.sleep(0.005)  # so that the thread waits again


def test_lines_gather_into_one_write(pipe: Pipe) -> None:
    writer = pipe.writer()
    with held(writer):
        for number in range(100):
            writer.write(b"%d\n" % number)
    assert os.read(pipe.read_fd, 65536).count(b"\n") == 100
