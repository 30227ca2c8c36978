"""`Retry-After` as it is written and read."""

import math
import os
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.kernel.backoff import JITTER, read_retry_after, retry_after

NOON = 784_111_777.0
"""Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110."""


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process live where the clocks are nine hours ahead."""
    before = os.environ.get("TZ")
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    yield
    if before is None:
        monkeypatch.delenv("TZ")
    else:
        monkeypatch.setenv("TZ", before)
    time.tzset()


@pytest.mark.parametrize(
    ("seconds", "chance", "written"),
    [(0.0, 0.0, b"1"), (0.2, 0.4, b"1"), (1.0, 0.0, b"1"), (1.01, 0.0, b"2"), (4.0, 0.999, b"5"), (30.0, 0.5, b"34")],
)
def test_a_wait_is_asked_for_in_whole_seconds_rounded_up_and_at_least_one(
    seconds: float, chance: float, written: bytes
) -> None:
    assert retry_after(seconds, chance) == (b"retry-after", written)


@given(st.floats(0, 1e6), st.floats(0, 1, exclude_max=True))
def test_nobody_is_asked_back_too_early_and_nobody_much_too_late(seconds: float, chance: float) -> None:
    asked = int(retry_after(seconds, chance)[1])
    assert asked >= seconds
    assert asked <= max(1, math.ceil(seconds)) + 1 + seconds * JITTER


@pytest.mark.parametrize(("seconds", "different"), [(1.0, 2), (10.0, 4), (60.0, 16)])
def test_those_who_are_told_to_wait_come_back_at_different_times(seconds: float, different: int) -> None:
    assert len({retry_after(seconds, chance / 100)[1] for chance in range(100)}) == different


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0.0),
        (b"7", 7.0),
        (b" 120 ", 120.0),
        (b"007", 7.0),
        (b"9" * 400, 9_999_999_999.0),
        (b"Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        (b"Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
        (b"Sun Nov  6 08:50:37 1994", 60.0),
        (b"Sun, 06 Nov 1994 09:50:37 +0100", 60.0),
        (b"Sun, 06 Nov 1994 08:49:36 GMT", 0.0),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
def test_seconds_and_each_form_of_a_date_are_read(value: bytes, seconds: float) -> None:
    assert read_retry_after(value, NOON) == seconds


@pytest.mark.usefixtures("far_from_utc")
@pytest.mark.parametrize("value", [b"Sun, 06 Nov 1994 08:50:37 GMT", b"Sun Nov  6 08:50:37 1994"])
def test_a_date_means_utc_wherever_the_gateway_runs(value: bytes) -> None:
    assert read_retry_after(value, NOON) == 60.0


@pytest.mark.parametrize(
    "value",
    [b"", b" ", b"-5", b"1.5", b"+5", b"5s", b"soon", b"1e3", b"0x10", "\xb2".encode("latin-1"), b"\xff", b"Sun, 99 Nov 1994 08:50:37 GMT",
     b"Sun, 06 Nov 99999 08:50:37 GMT", b"Sun, 06 Nov 1994"],
)  # fmt: skip
def test_what_cannot_be_read_asks_for_nothing(value: bytes) -> None:
    assert read_retry_after(value, NOON) is None


@given(st.binary(max_size=60) | st.text("0123456789 SunNov:,-+GMT", max_size=40).map(str.encode), st.floats(0, 4e9))
def test_whatever_a_provider_says_is_a_wait_or_nothing(value: bytes, now: float) -> None:
    seconds = read_retry_after(value, now)
    assert seconds is None or 0.0 <= seconds < math.inf


@given(st.integers(0, 4_000_000_000), st.integers(0, 1_000_000))
def test_a_date_in_the_future_is_as_far_away_as_it_says(now: int, wait_s: int) -> None:
    value = formatdate(now + wait_s, usegmt=True).encode()
    assert read_retry_after(value, float(now)) == wait_s
