"""One client of one exchange, on a line of our own: how often it writes, and what it does when it is left alone."""

import asyncio
from collections.abc import Callable

import pytest

from harness import run
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.edge import intake
from tidegate.edge.client import HttpClient
from tidegate.edge.reply import Dates
from tidegate.edge.settings import ServerSettings
from tidegate.exchange import Ending, ReplyHead
from tidegate.verdict import (
    BUG,
    CLIENT_GONE,
    COMPLETED,
    HEADER_TOO_LARGE,
    OVERLOADED,
    REQUEST_TIMEOUT,
    SERVER_SHUTDOWN,
    TOO_LARGE,
    UNAUTHENTICATED,
    Fault,
    Refused,
)

EVENTS = ReplyHead(200, ((b"content-type", b"text/event-stream"),))


class Wire:
    """A Line that keeps each write."""

    def __init__(self) -> None:
        self.dates = Dates()
        self.writes: list[bytes] = []
        self.aborted = False
        self.room = True
        self.over: list[HttpClient] = []

    def write(self, data: bytes, /) -> None:
        self.writes.append(data)

    def sender(self) -> Callable[[bytes], None]:
        return self.write

    def unsent(self) -> int:
        return sum(len(data) for data in self.writes)

    def grows(self, nbytes: int, /) -> bool:
        return self.room and nbytes > 0

    def abort(self) -> None:
        self.aborted = True

    def closing(self) -> bool:
        return self.aborted

    def answered(self, client: HttpClient, /) -> None:
        assert client.answered
        self.over.append(client)


class Ear:
    """A Flow that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def pause(self) -> None:
        self.heard.append("pause")

    def resume(self) -> None:
        self.heard.append("resume")

    def gone(self) -> None:
        self.heard.append("gone")


def client(*lines: str, version: str = "1.1", settings: ServerSettings | None = None) -> tuple[HttpClient, Wire]:
    raw = "\r\n".join([f"POST / HTTP/{version}", "host: h", *lines, "", ""]).encode()
    wire = Wire()
    return HttpClient(intake.parse(raw), wire, settings or ServerSettings(), OpenAIChat(), "id-1"), wire


# --- answers ---------------------------------------------------------------------------------------------------------


def test_head_and_first_frame_are_one_write_and_each_write_is_one_chunk() -> None:
    made, wire = client()
    made.start(EVENTS)
    assert wire.writes == []
    made.write(b"data: 1\n\n")
    assert len(wire.writes) == 1
    head, _, rest = wire.writes[0].partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert rest == b"9\r\ndata: 1\n\n\r\n"
    made.write(b"data: two\n\n" * 100)
    made.finish(Ending(COMPLETED))
    assert wire.writes[1:] == [b"44c\r\n" + b"data: two\n\n" * 100 + b"\r\n", b"0\r\n\r\n"]
    assert made.answered
    assert wire.over == [made]
    assert made.keeps


def test_a_whole_answer_is_one_write_without_chunks() -> None:
    made, wire = client()
    made.start(ReplyHead(200, ((b"content-type", b"application/json"), (b"content-length", b"2"))))
    made.write(b"{}")
    made.finish(Ending(COMPLETED))
    assert len(wire.writes) == 1
    assert wire.writes[0].endswith(b"\r\n\r\n{}")
    assert b"transfer-encoding" not in wire.writes[0]


def test_an_answer_without_a_body_is_its_head_and_the_end() -> None:
    made, wire = client()
    made.start(EVENTS)
    made.finish(Ending(COMPLETED))
    assert len(wire.writes) == 1
    assert wire.writes[0].endswith(b"\r\n\r\n0\r\n\r\n")


def test_a_client_of_version_1_0_gets_bytes_as_they_are() -> None:
    made, wire = client(version="1.0")
    made.start(EVENTS)
    made.write(b"data: 1\n\n")
    made.finish(Ending(COMPLETED))
    assert len(wire.writes) == 1
    assert wire.writes[0].endswith(b"connection: close\r\n\r\ndata: 1\n\n")
    assert not made.keeps


def test_a_refusal_is_one_write_and_keeps_the_connection_when_the_body_was_read() -> None:
    made, wire = client()
    made.refuse(Refused(UNAUTHENTICATED))
    assert len(wire.writes) == 1
    assert wire.writes[0].startswith(b"HTTP/1.1 401 ")
    assert (made.answered, made.keeps) == (True, True)
    early, wire = client("content-length: 5")
    early.refuse(Refused(UNAUTHENTICATED))
    assert b"connection: close" in wire.writes[0]
    assert (early.answered, early.keeps) == (True, False)


def test_a_refusal_takes_the_place_of_a_head_that_was_not_written_yet() -> None:
    made, wire = client()
    made.start(EVENTS)
    made.refuse(Fault(BUG))
    assert len(wire.writes) == 1
    assert wire.writes[0].startswith(b"HTTP/1.1 500 ")


def test_a_refusal_after_the_head_breaks_the_connection() -> None:
    made, wire = client()
    made.start(EVENTS)
    made.write(b"data: 1\n\n")
    made.refuse(Fault(BUG))
    assert (len(wire.writes), wire.aborted, made.answered) == (1, True, False)


def test_nothing_is_said_after_a_whole_answer() -> None:
    made, wire = client()
    made.start(EVENTS)
    made.finish(Ending(COMPLETED))
    made.refuse(Fault(BUG))
    made.abort()
    assert (len(wire.writes), wire.aborted, wire.over) == (1, False, [made])


@pytest.mark.parametrize("leave", [lambda made, wire: made.lost(), lambda made, wire: wire.abort()])
def test_nothing_is_said_to_a_client_that_is_gone(leave: Callable[[HttpClient, Wire], None]) -> None:
    made, wire = client()
    leave(made, wire)
    made.refuse(Fault(BUG))
    assert (wire.writes, made.answered) == ([], False)


def test_what_waits_for_the_client_is_what_waits_on_the_line() -> None:
    made, wire = client()
    made.start(EVENTS)
    made.write(b"x")
    assert made.unsent() == len(wire.writes[0])


# --- bodies ----------------------------------------------------------------------------------------------------------


def test_a_body_ends_at_its_length_and_the_rest_is_given_back() -> None:
    async def work() -> None:
        made, _ = client("content-length: 6")
        assert made.feed(b"abc") == b""
        assert (made.held(), made.body_complete) == (3, False)
        assert made.feed(b"defPOST") == b"POST"
        assert (made.held(), made.body_complete) == (6, True)
        assert await made.read() == b"abcdef"
        assert made.held() == 0

    run(work)


def test_a_chunked_body_is_held_until_it_is_read() -> None:
    async def work() -> None:
        made, _ = client("transfer-encoding: chunked")
        assert made.feed(b"ffff\r\nabc") == b""
        assert made.held() == 3
        made, _ = client("transfer-encoding: chunked")
        assert made.feed(b"3\r\nabc\r\n0\r\n\r\nPOST") == b"POST"
        assert await made.read() == b"abc"
        assert made.held() == 0

    run(work)


def test_reading_waits_for_the_body_and_expectations_are_met_only_then() -> None:
    async def work() -> None:
        made, wire = client("content-length: 4", "expect: 100-continue")
        assert wire.writes == []
        reading = asyncio.ensure_future(made.read())
        await asyncio.sleep(0)
        assert wire.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]
        made.feed(b"ab")
        made.feed(b"cd")
        assert await reading == b"abcd"

    run(work)


def test_a_body_that_is_there_already_needs_no_100_continue() -> None:
    async def work() -> None:
        made, wire = client("content-length: 4", "expect: 100-continue")
        made.feed(b"abcd")
        assert await made.read() == b"abcd"
        assert wire.writes == []

    run(work)


@pytest.mark.parametrize("early", [True, False])
def test_a_body_that_is_refused_while_it_comes_is_held_no_longer(early: bool) -> None:
    async def work() -> None:
        made, _ = client("transfer-encoding: chunked", settings=ServerSettings(max_header_bytes=50))
        reading = None
        if not early:
            reading = asyncio.ensure_future(made.read())
            await asyncio.sleep(0)
        for _ in range(2):  # the second only tells the same again
            assert made.feed(b"1;" + b"e" * 100 + b"\r\n") == b""
        with pytest.raises(Refused) as caught:
            await (reading or made.read())
        assert caught.value.verdict is HEADER_TOO_LARGE
        assert (made.held(), made.keeps) == (0, False)

    run(work)


def test_a_chunked_body_that_there_is_no_room_for_is_refused_while_it_comes() -> None:
    async def work() -> None:
        made, wire = client("transfer-encoding: chunked")
        assert made.feed(b"3\r\nabc\r\n") == b""
        wire.room = False
        assert made.feed(b"3\r\ndef\r\n") == b""
        with pytest.raises(Refused) as caught:
            await made.read()
        assert caught.value.verdict is OVERLOADED
        assert (made.held(), made.keeps) == (0, False)

    run(work)


def test_a_length_beyond_the_limit_and_a_late_body_are_refused() -> None:
    async def work() -> None:
        made, wire = client("content-length: 11", "expect: 100-continue", settings=ServerSettings(max_body_bytes=10))
        with pytest.raises(Refused) as caught:
            await made.read()
        assert (caught.value.verdict, wire.writes) == (TOO_LARGE, [])
        made, _ = client("content-length: 10", settings=ServerSettings(body_timeout_s=0.01))
        with pytest.raises(Refused) as caught:
            await made.read()
        assert caught.value.verdict is REQUEST_TIMEOUT
        made.feed(b"0123456789")  # too late, and no harm

    run(work)


# --- presence --------------------------------------------------------------------------------------------------------


async def opening(made: HttpClient, entered: asyncio.Event) -> None:
    async with made.present():
        entered.set()
        await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("leave", "code"),
    [(lambda made: made.lost(), "client_gone"), (lambda made: made.end(Ending(SERVER_SHUTDOWN)), "server_shutdown")],
)
def test_leaving_while_a_stream_opens_becomes_a_fault_and_no_cancellation(
    leave: Callable[[HttpClient], None], code: str
) -> None:
    async def work() -> None:
        made, _ = client()
        entered = asyncio.Event()
        task = asyncio.ensure_future(opening(made, entered))
        await entered.wait()
        leave(made)
        made.lost()  # the first ending counts
        with pytest.raises(Fault) as caught:
            await task
        assert caught.value.verdict.code == code
        assert task.cancelling() == 0

    run(work)


def test_a_cancellation_by_others_stays_one() -> None:
    async def work() -> None:
        made, _ = client()
        entered = asyncio.Event()
        task = asyncio.ensure_future(opening(made, entered))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        again = asyncio.ensure_future(opening(made, entered))
        await asyncio.sleep(0)
        again.cancel()
        made.lost()
        with pytest.raises(asyncio.CancelledError):
            await again

    run(work)


def test_a_client_that_left_before_is_gone_at_once() -> None:
    async def work() -> None:
        made, _ = client()
        made.lost()
        with pytest.raises(Fault) as caught:
            await opening(made, asyncio.Event())
        assert caught.value.verdict is CLIENT_GONE

    run(work)


def test_other_failures_pass_through_the_scope() -> None:
    async def work() -> None:
        made, _ = client()
        with pytest.raises(ValueError, match="other"):
            async with made.present():
                raise ValueError("other")
        async with made.present():
            pass
        made.lost()

    run(work)


def test_leaving_after_the_answer_cancels_nothing_that_is_still_to_be_settled() -> None:
    async def work() -> None:
        made, _ = client()
        async with made.present():
            made.start(EVENTS)
            made.write(b"data: x\n\n")
            made.finish(Ending(COMPLETED))
            made.lost()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    run(work)


def test_who_feeds_a_client_hears_that_it_is_gone_now_or_was_before() -> None:
    made, _ = client()
    ear = Ear()
    made.bind(ear)
    made.lost()
    assert ear.heard == ["gone"]
    later = Ear()
    made.bind(later)
    assert later.heard == ["gone"]
    made.abort()
    assert made.flow is None
