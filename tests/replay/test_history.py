"""A history's readers get every event in order, each once, or are told how many they missed."""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.exchange import Flow
from tidegate.replay.history import KEEP_ALIVE, MAX_BLOCK_BYTES, History, Reader, Subscription
from tidegate.testing.clock import run_virtual
from tidegate.testing.memory import MemoryClient


class Followed:
    """What a client has after all, frame by frame. Shape: `seen` are ids, a skip is the negative of its number."""

    def __init__(self, written: list[bytes]) -> None:
        self.seen: list[int] = []
        for frame in b"".join(written).split(b"\n\n"):
            if frame.startswith(b"event: skipped\ndata: "):
                self.seen.append(-int(json.loads(frame.partition(b"data: ")[2])["skipped"]))
            elif frame.startswith(b"id: "):
                found = re.fullmatch(rb"id: (\d+)\nevent: output\ndata: (\d+)", frame)
                assert found is not None
                assert found[1] == found[2]
                self.seen.append(int(found[1]))

    def places(self, start: int) -> list[int]:
        """Give where the reader stood after each frame."""
        places, place = list[int](), start
        for seen in self.seen:
            if seen < 0:
                place -= seen
            else:
                assert seen == place + 1
                place = seen
            places.append(place)
        return places


class Leaving(MemoryClient):
    """A client that was gone before it was bound."""

    def bind(self, flow: Flow, /) -> None:
        flow.gone()


class Broken(MemoryClient):
    """A sink that breaks its contract."""

    def write(self, data: bytes, /) -> None:
        raise ConnectionError

    def abort(self) -> None:
        super().abort()
        raise OSError


class Full(MemoryClient):
    """A client that takes one piece at a time."""

    def write(self, data: bytes, /) -> None:
        super().write(data)
        assert self.flow is not None
        self.flow.pause()


def over(_: Subscription) -> None:
    """Nobody asks."""


def broken(error: Exception) -> None:
    raise AssertionError from error


def follow(
    history: History,
    sink: Reader,
    after: int | None = None,
    *,
    heartbeat_s: float = 0.0,
    slow_s: float = 0.0,
    on_over: Callable[[Subscription], None] = over,
    on_fault: Callable[[Exception], None] = broken,
) -> Subscription:
    return history.subscribe(
        sink, after=after, heartbeat_s=heartbeat_s, slow_s=slow_s, on_over=on_over, on_fault=on_fault
    )


def fresh(max_events: int = 1024, max_bytes: int = 1 << 20, *, keeps: bool = True) -> History:
    return History(max_events, max_bytes, keeps=keeps, loop=asyncio.get_running_loop())


def fill(history: History, count: int) -> None:
    for _ in range(count):
        history.append(b"output", b"%d" % (history.newest + 1))


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def virtual(main: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run an async test in made-up time."""

    def test() -> None:
        run_virtual(main)

    test.__name__ = main.__name__
    return test


@virtual
async def test_who_is_there_from_the_start_gets_all_and_the_end() -> None:
    history, client = fresh(), MemoryClient()
    reader = follow(history, client)
    fill(history, 3)
    history.close()
    await reader.wait_over()
    assert client.written == [b"".join(b"id: %d\nevent: output\ndata: %d\n\n" % (n, n) for n in (1, 2, 3))]
    assert client.ending is not None
    assert client.ending.verdict.code == "completed"
    assert reader.over
    assert not reader.departed


@virtual
async def test_who_comes_late_gets_what_was_then_what_comes() -> None:
    history, client = fresh(), MemoryClient()
    fill(history, 2)
    follow(history, client)
    fill(history, 1)
    await turns()
    fill(history, 1)
    await turns()
    assert Followed(client.written).seen == [1, 2, 3, 4]


@virtual
async def test_where_nothing_is_kept_who_comes_late_gets_what_comes() -> None:
    history, client, back = fresh(keeps=False), MemoryClient(), MemoryClient()
    fill(history, 2)
    follow(history, client)
    follow(history, back, 1)
    fill(history, 1)
    await turns()
    assert Followed(client.written).seen == [3]
    assert Followed(back.written).seen == [2, 3]


@virtual
async def test_where_nothing_is_kept_only_the_end_stays_once_nobody_reads() -> None:
    history, slow = fresh(keeps=False), MemoryClient()
    reader = follow(history, slow)
    reader.pause()
    fill(history, 3)
    history.close()
    await turns()
    assert history.oldest == 1
    reader.resume()
    await turns()
    assert Followed(slow.written).seen == [1, 2, 3]
    assert history.oldest == history.newest == 3
    assert history.held == len(b"id: 3\nevent: output\ndata: 3\n\n")


@virtual
async def test_a_reader_goes_on_after_the_event_it_names() -> None:
    history, client = fresh(), MemoryClient()
    fill(history, 5)
    follow(history, client, 3)
    await turns()
    assert Followed(client.written).seen == [4, 5]


@virtual
async def test_an_id_that_was_never_given_is_as_none() -> None:
    history, ahead, below = fresh(), MemoryClient(), MemoryClient()
    fill(history, 2)
    follow(history, ahead, 99)
    follow(history, below, -7)
    await turns()
    assert Followed(ahead.written).seen == [1, 2]
    assert Followed(below.written).seen == [1, 2]


@virtual
async def test_what_fell_out_is_told_as_a_number_without_an_id() -> None:
    history, client = fresh(max_events=3), MemoryClient()
    fill(history, 10)
    follow(history, client)
    await turns()
    assert Followed(client.written).seen == [-7, 8, 9, 10]
    assert client.written[0].startswith(b'event: skipped\ndata: {"skipped":7}\n\nid: 8\n')


@virtual
async def test_the_ring_is_bounded_by_bytes_and_keeps_the_newest_whatever_its_size() -> None:
    history = fresh(max_bytes=100)
    fill(history, 10)
    assert history.held <= 100
    assert history.newest == 10
    history.append(b"output", b"1" * 1000)
    assert (history.oldest, history.newest) == (11, 11)
    assert history.held > 1000


@virtual
async def test_nothing_is_taken_after_the_end() -> None:
    history = fresh()
    fill(history, 1)
    history.close()
    assert history.append(b"output", b"2") == 1
    assert history.newest == 1


@virtual
async def test_a_slow_reader_holds_nobody_up_and_goes_on_with_a_skip() -> None:
    history, slow, quick = fresh(max_events=4), MemoryClient(), MemoryClient()
    reader = follow(history, slow)
    follow(history, quick)
    fill(history, 2)
    await turns()
    reader.pause()
    for _ in range(20):
        fill(history, 1)
        await turns()
    assert Followed(quick.written).seen == list(range(1, 23))
    assert Followed(slow.written).seen == [1, 2]
    reader.resume()
    await turns()
    assert Followed(slow.written).seen == [1, 2, -16, 19, 20, 21, 22]


@virtual
async def test_what_is_appended_in_one_turn_is_written_at_once() -> None:
    history, client = fresh(), MemoryClient()
    follow(history, client)
    fill(history, 50)
    await turns()
    assert len(client.written) == 1


@virtual
async def test_a_long_replay_is_given_in_blocks() -> None:
    history, client, whole = fresh(max_bytes=1 << 30), MemoryClient(), MemoryClient()
    for _ in range(10):
        history.append(b"output", b"x" * 100_000)
    history.append(b"output", b"y" * MAX_BLOCK_BYTES)
    follow(history, client)
    follow(history, whole)
    history.close()
    await turns(20)
    assert b"".join(client.written) == b"".join(whole.written)
    assert client.ending is not None
    assert len(client.written) == 6
    assert max(map(len, client.written[:-1])) <= MAX_BLOCK_BYTES < len(client.written[-1])


@pytest.mark.parametrize(
    ("after", "places"),
    [(None, [2, 4, 6, 8, 9, 10, 11, 12]), (3, [5, 7, 9, 10, 11, 12]), (9, [10, 11, 12]), (11, [12])],
)
def test_who_comes_when_all_is_over_is_given_it_in_blocks_that_end_where_events_do(
    after: int | None, places: list[int]
) -> None:
    async def main() -> None:
        history, client, there = fresh(max_bytes=1 << 30), Full(), MemoryClient()
        reader = follow(history, there)
        for size in (*[100_000] * 9, 2 * MAX_BLOCK_BYTES, 100_000, 2 * MAX_BLOCK_BYTES):
            history.append(b"output", b"x" * size)
        await turns(20)
        reader.gone()
        history.close()
        late = follow(history, client, after)
        found = []
        while not late.over:
            await turns()
            found.append(late.place)
            late.resume()
        assert found == places
        assert b"".join(there.written).endswith(b"".join(client.written))
        assert client.written[0].startswith(b"id: %d\n" % ((after or 0) + 1))

    run_virtual(main)


@virtual
async def test_a_sink_that_pauses_within_a_write_is_given_no_more() -> None:
    history, client = fresh(), Full()
    for _ in range(10):
        history.append(b"output", b"x" * 100_000)
    reader = follow(history, client)
    await turns(9)
    assert len(client.written) == 1
    for _ in range(9):
        reader.resume()
        await turns()
    history.close()
    await turns()
    assert len(client.written) == 5
    assert client.ending is not None


@virtual
async def test_who_leaves_is_forgotten_and_said_to_have_left() -> None:
    ended: list[Subscription] = []
    history, client = fresh(), MemoryClient()
    reader = follow(history, client, on_over=ended.append)
    assert client.flow is reader
    reader.gone()
    reader.gone()
    reader.pause()
    reader.resume()
    fill(history, 1)
    await turns()
    await reader.wait_over()
    assert ended == [reader]
    assert reader.departed
    assert (client.written, client.ending, len(history)) == ([], None, 0)


@virtual
async def test_a_client_that_is_gone_already_is_over_at_once() -> None:
    ended: list[Subscription] = []
    history = fresh()
    reader = follow(history, Leaving(), heartbeat_s=15.0, on_over=ended.append)
    assert ended == [reader]
    assert reader.departed
    assert len(history) == 0


@virtual
async def test_a_sink_that_raises_is_let_go_of_and_told_of_and_the_others_go_on() -> None:
    ended: list[Subscription] = []
    faults: list[Exception] = []
    history, bad, sound = fresh(), Broken(), MemoryClient()
    reader = follow(history, bad, on_over=ended.append, on_fault=faults.append)
    follow(history, sound)
    fill(history, 1)
    await turns()
    fill(history, 1)
    await turns()
    assert ended == [reader]
    assert [type(fault) for fault in faults] == [ConnectionError, OSError]
    assert (bad.aborted, reader.broken, reader.departed) == (True, True, False)
    assert Followed(sound.written).seen == [1, 2]


@virtual
async def test_silence_is_broken_by_comments_and_only_silence() -> None:
    history, client = fresh(), MemoryClient()
    reader = follow(history, client, heartbeat_s=15.0)
    await asyncio.sleep(31.0)
    assert client.written == [KEEP_ALIVE] * 2
    fill(history, 1)
    await asyncio.sleep(14.0)  # 45: the second comment is 15 s old, the event is not
    assert len(client.written) == 3
    await asyncio.sleep(2.0)
    assert client.written[3:] == [KEEP_ALIVE]
    history.close()
    await reader.wait_over()
    await asyncio.sleep(100.0)
    assert len(client.written) == 4


@virtual
async def test_no_comment_is_sent_while_paused_and_they_begin_again() -> None:
    history, client = fresh(), MemoryClient()
    reader = follow(history, client, heartbeat_s=15.0)
    reader.pause()
    reader.pause()
    await asyncio.sleep(100.0)
    assert client.written == []
    reader.resume()
    reader.resume()
    await asyncio.sleep(16.0)
    assert client.written == [KEEP_ALIVE]
    reader.gone()


@virtual
async def test_a_reader_that_takes_nothing_is_cut_off_and_did_not_leave() -> None:
    ended: list[Subscription] = []
    history, client = fresh(), MemoryClient()
    reader = follow(history, client, slow_s=30.0, on_over=ended.append)
    client.waiting = 1000
    reader.pause()
    await asyncio.sleep(29.0)
    assert not ended
    client.waiting = 900
    await asyncio.sleep(30.0)
    assert not ended
    await asyncio.sleep(31.0)
    assert ended == [reader]
    assert client.aborted
    assert not reader.departed


@virtual
async def test_a_reader_that_went_on_is_not_cut_off_nor_sent_comments_it_did_not_ask_for() -> None:
    history, client = fresh(), MemoryClient()
    reader = follow(history, client, slow_s=30.0)
    reader.pause()
    reader.resume()
    await asyncio.sleep(1000.0)
    assert not client.aborted
    assert client.written == []
    assert not reader.over


@virtual
async def test_the_end_waits_for_a_paused_reader() -> None:
    history, client = fresh(), MemoryClient()
    reader = follow(history, client)
    reader.pause()
    fill(history, 2)
    history.close()
    await turns()
    assert client.ending is None
    reader.resume()
    await turns()
    assert Followed(client.written).seen == [1, 2]
    assert client.ending is not None


@virtual
async def test_a_thousand_readers_at_one_place_share_each_block() -> None:
    history, clients = fresh(), [MemoryClient() for _ in range(1000)]
    for client in clients:
        follow(history, client, heartbeat_s=15.0)
    for _ in range(5):
        fill(history, 2)
        await turns()
    history.close()
    await turns()
    assert {tuple(Followed(client.written).seen) for client in clients} == {tuple(range(1, 11))}
    assert all(client.ending is not None for client in clients)
    for number in range(5):
        assert len({id(client.written[number]) for client in clients}) == 1
    assert len(history) == 0


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(("append", "append", "subscribe", "pause", "resume", "reconnect", "leave", "turn", "turn")),
        st.integers(0, 7),
    ),
    max_size=80,
)


class _Following:
    """One reader over all its connections."""

    def __init__(self, history: History, after: int | None) -> None:
        self.history = history
        self.start = history.newest if after is None and not history.keeps else after or 0
        self.kept: list[int] = []
        self.connect(self.start)

    def connect(self, after: int) -> None:
        self.client = MemoryClient()
        self.reader = follow(self.history, self.client, after)

    def reconnect(self) -> None:
        """Leave, and come back with the id of the last event that was seen, as a browser does."""
        self.reader.gone()
        self.keep()
        self.connect(self._place())

    def keep(self) -> None:
        seen = Followed(self.client.written).seen
        if seen and seen[-1] < 0:
            seen.pop()
        self.kept += seen

    def check(self, newest: int) -> None:
        """Have all up to the newest, and the end, unless it left."""
        assert self.reader.over
        if self.reader.departed:
            return
        self.keep()
        whole = Followed([])
        whole.seen = self.kept
        assert [self.start, *whole.places(self.start)][-1] == newest
        assert self.client.ending is not None

    def _place(self) -> int:
        place = self.start
        for seen in self.kept:
            place = seen if seen > 0 else place - seen
        return place


@pytest.mark.parametrize("keeps", [True, False])
@settings(max_examples=150, deadline=None)
@given(steps=_STEPS, max_events=st.integers(1, 6))
def test_any_interleaving_gives_each_reader_each_event_once_or_counts_it(
    keeps: bool, steps: list[tuple[str, int]], max_events: int
) -> None:
    async def main() -> None:
        history = fresh(max_events, keeps=keeps)
        readers = [_Following(history, None)]
        for step, number in steps:
            await _step(history, readers, step, number)
        history.close()
        await turns()
        for one in readers:
            one.reader.resume()
        await turns(5)
        for one in readers:
            one.check(history.newest)

    run_virtual(main)


async def _step(history: History, readers: list[_Following], step: str, number: int) -> None:
    one = readers[number % len(readers)]
    does: dict[str, Callable[[], object]] = {
        "append": lambda: fill(history, number + 1),
        "subscribe": lambda: readers.append(_Following(history, None if number < 4 else min(number, history.newest))),
        "pause": one.reader.pause,
        "resume": one.reader.resume,
        "reconnect": one.reconnect,
        "leave": one.reader.gone,
    }
    if step in does:
        does[step]()
    else:
        await turns(1)
