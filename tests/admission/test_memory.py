import asyncio

import pytest
import structlog
from structlog.testing import capture_logs

from tidegate.admission.memory import SAMPLE_S, MemoryGuard
from tidegate.exchange import Ending
from tidegate.testing.clock import run_virtual
from tidegate.verdict import CLIENT_SLOW, OVERLOADED, Refused


class Held:
    """What is held elsewhere, and the readers it is held for."""

    def __init__(self, size: int = 0, *readers: "SlowReader") -> None:
        self.size = size
        self.readers = readers
        self.samples = 0

    def __call__(self) -> int:
        self.samples += 1
        return self.size


class SlowReader:
    def __init__(self, unsent: int, idle_s: float) -> None:
        self.unsent = unsent
        self.idle_s = idle_s
        self.ending: Ending | None = None

    def backlog(self) -> tuple[int, float]:
        return self.unsent, self.idle_s

    def end(self, ending: Ending, /) -> None:
        self.ending = ending


def guard(held: Held, max_bytes: int = 1000, max_body_bytes: int = 500) -> MemoryGuard:
    return MemoryGuard(
        max_bytes,
        max_body_bytes,
        held=held,
        readers=lambda: held.readers,
        chance=lambda: 0.0,
        log=structlog.get_logger(),
    )


def admits(made: MemoryGuard, length: int) -> bool:
    try:
        made.judge(length)
    except Refused as fault:
        return (fault.verdict, fault.headers) != (OVERLOADED, ((b"retry-after", b"1"),))
    return True


def test_a_body_is_judged_by_what_is_held_and_by_its_own_length() -> None:
    held = Held(700)
    made = guard(held)
    assert admits(made, 500), "nothing is known before the first sample"
    made.sample()
    assert admits(made, 150), "a body is held twice on its way"
    assert not admits(made, 151)
    held.size = 0
    made.sample()
    assert admits(made, 151)


def test_judging_spends_nothing_but_bodies_that_are_coming_count() -> None:
    made = guard(Held())
    for _ in range(10):
        assert admits(made, 500)
    made.expect(250)
    made.expect(200)
    assert not admits(made, 100)
    assert admits(made, 50)


def test_a_body_counts_until_a_sample_could_find_it() -> None:
    held = Held()
    made = guard(held)
    made.expect(250)
    made.sample()
    counted = made.expect(200)
    assert not admits(made, 100)
    made.came(counted)
    assert not admits(made, 100), "no sample was taken since"
    held.size = 400
    made.sample()
    assert not admits(made, 100)
    held.size = 0
    made.sample()
    assert admits(made, 100)


def test_a_body_of_unknown_length_counts_as_it_comes_until_a_sample_finds_it() -> None:
    held = Held()
    made = guard(held)
    assert made.grows(600)
    assert not made.grows(401)
    assert made.grows(400)
    assert not admits(made, 1)
    held.size = 900
    made.sample()
    assert made.grows(100)
    assert not made.grows(1)


def test_a_body_that_is_too_large_is_left_to_be_refused_for_its_size() -> None:
    made = guard(Held(1000))
    made.sample()
    assert not admits(made, 500)
    assert admits(made, 501)
    for _ in range(10):
        made.came(made.expect(10_000))
    made.sample()
    assert admits(made, 0)


def test_zero_guards_nothing() -> None:
    held = Held(10**12, SlowReader(10**12, 60.0))
    made = guard(held, max_bytes=0)

    async def work() -> None:
        made.start()
        await asyncio.sleep(SAMPLE_S * 3.5)
        made.stop()

    run_virtual(work)
    assert admits(made, 500)
    assert held.samples == 0


def test_a_warning_comes_once_each_time_it_gets_tight() -> None:
    held = Held()
    made = guard(held)
    with capture_logs() as logs:
        for size in (899, 900, 950, 1000, 899, 500, 900):
            held.size = size
            made.sample()
    assert [(line["log_level"], line["held_bytes"], line["max_buffered_bytes"]) for line in logs] == [
        ("warning", 900, 1000),
        ("warning", 900, 1000),
    ]


def test_above_the_limit_the_slowest_readers_are_ended_until_it_fits() -> None:
    quick, small, slow, slowest = (
        SlowReader(400, 0.0),
        SlowReader(1, 20.0),
        SlowReader(300, 2.0),
        SlowReader(300, 5.0),
    )
    held = Held(1300, quick, small, slow, slowest)
    made = guard(held)
    made.sample()
    assert slowest.ending == Ending(CLIENT_SLOW)
    assert (quick.ending, small.ending, slow.ending) == (None, None, None)
    held.size, held.readers = 1301, (quick, small, slow)
    made.sample()
    assert slow.ending == Ending(CLIENT_SLOW)
    assert small.ending == Ending(CLIENT_SLOW)
    assert quick.ending is None


def test_where_nobody_stands_still_those_with_most_are_ended() -> None:
    more, less = SlowReader(400, 0.0), SlowReader(300, 0.0)
    guard(Held(1100, less, more)).sample()
    assert more.ending is not None
    assert less.ending is None


def test_readers_that_took_everything_are_left_alone() -> None:
    idle = SlowReader(0, 60.0)
    made = guard(Held(2000, idle))
    made.sample()
    assert idle.ending is None
    assert not admits(made, 0), "what is held elsewhere is still too much"


def test_what_was_freed_is_room_again_at_once() -> None:
    made = guard(Held(1300, SlowReader(600, 5.0)))
    made.sample()
    assert admits(made, 150)
    assert not admits(made, 151)


def test_samples_are_taken_from_start_to_stop() -> None:
    held = Held()

    async def work() -> None:
        made = guard(held)
        made.stop()
        made.start()
        await asyncio.sleep(SAMPLE_S * 3.5)
        assert held.samples == 3
        made.stop()
        await asyncio.sleep(SAMPLE_S * 3)
        assert held.samples == 3

    run_virtual(work)


@pytest.mark.parametrize("size", [0, 999, 1000])
def test_up_to_the_limit_nobody_is_ended(size: int) -> None:
    reader = SlowReader(size, 100.0)
    guard(Held(size, reader)).sample()
    assert reader.ending is None
