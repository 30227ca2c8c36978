import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.config.units import (
    UnitError,
    count,
    duration_s,
    number,
    size_bytes,
    written_duration,
    written_number,
    written_size,
)

DECIMALS = st.decimals(min_value=0, max_value=8760, places=9, allow_nan=False).map(lambda number: f"{number:f}")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("250ms", 0.25),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1.5s", 1.5),
        ("0s", 0.0),
        ("8760h", 31_536_000.0),
    ],
)
def test_a_duration_means_seconds(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512B", 512), ("64KiB", 65_536), ("20MiB", 20_971_520), ("1GiB", 2**30), ("1KB", 1000), ("2MB", 2_000_000),
     ("1GB", 10**9), ("1.5KiB", 1536), ("1024GiB", 2**40)],
)  # fmt: skip
def test_a_size_means_bytes(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("30", "add a unit, for example '30s'"),
        ("99.5", "add a unit, for example '99.5s'"),
        ("100", "add a unit, for example '100s' or '100ms'"),
        ("30 s", "did you mean '30s'?"),
        ("30S", "did you mean '30s'?"),
        ("30sec", "did you mean '30s'?"),
        ("5min", "did you mean '5m'?"),
        ("5x", ""),
        ("abc", ""),
        ("", ""),
        ("-5s", ""),
        ("1h30m", ""),
        ("٣s", ""),
        ("8761h", ""),
        ("1e3s", ""),
    ],
)
def test_what_is_no_duration_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(UnitError) as caught:
        duration_s(text)
    assert "duration" in caught.value.expected
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("65536", "add a unit, for example '65536B'"),
        ("64kib", "did you mean '64KiB'?"),
        ("64k", "did you mean '64KiB'?"),
        ("1025GiB", ""),
        ("0.5B", ""),
        ("-1KiB", ""),
        ("64TiB", ""),
    ],
)
def test_what_is_no_size_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(UnitError) as caught:
        size_bytes(text)
    assert "size" in caught.value.expected
    assert caught.value.hint == hint


def test_a_negative_number_is_told_to_be_one() -> None:
    with pytest.raises(UnitError, match="not negative"):
        duration_s("-5s")


@pytest.mark.parametrize("text", ["-1", "1.5", "010", "0x10", "1_000", "1:30", "", "9" * 16, "٣"])
def test_a_count_is_plain_digits(text: str) -> None:
    with pytest.raises(UnitError):
        count(text)
    assert count("8080") == 8080


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0.0), ("5", 5.0), ("0.2", 0.2), ("5.0", 5.0), ("123456789.000001", 123456789.000001)]
)
def test_a_number_is_digits_with_or_without_a_fraction(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("-1", ""),
        ("-0", ""),
        ("+1", ""),
        ("nan", ""),
        (".nan", ""),
        ("inf", ""),
        (".inf", ""),
        ("1e400", ""),
        ("1e3", ""),
        ("5.", ""),
        (".5", "did you mean '0.5'?"),
        ("0,5", "did you mean '0.5'?"),
        ("010", ""),
        ("1_000", ""),
        ("20%", ""),
        ("0x10", ""),
        ("", ""),
        ("9" * 16, ""),
        ("٣", ""),
    ],
)
def test_what_is_no_plain_number_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(UnitError) as caught:
        number(text)
    assert caught.value.expected == "a number such as 0.2 or 5 that is not negative"
    assert caught.value.hint == hint


@given(st.integers(0, 10**14), st.integers(0, 15), st.data())
def test_a_written_number_reads_as_the_same_number(whole: int, places: int, data: st.DataObject) -> None:
    fraction = data.draw(st.integers(0, 10**places - 1))
    value = number(f"{whole}.{fraction:0{places}d}" if places else str(whole))
    assert number(written_number(value)) == value


@pytest.mark.parametrize(
    ("value", "text"), [(5.0, "5"), (0.2, "0.2"), (0.0, "0"), (0.00001, "0.00001"), (10.25, "10.25")]
)
def test_a_number_is_written_as_a_person_would(value: float, text: str) -> None:
    assert written_number(value) == text


@given(DECIMALS, st.sampled_from(["ms", "s", "m", "h"]))
def test_a_written_duration_reads_as_the_same_seconds(number: str, unit: str) -> None:
    try:
        seconds = duration_s(number + unit)
    except UnitError:
        assert unit == "h"
        assert float(number) > 0
        return
    assert duration_s(written_duration(seconds)) == seconds


@given(st.integers(min_value=0, max_value=2**40))
def test_a_written_size_reads_as_the_same_bytes(size: int) -> None:
    assert size_bytes(written_size(size)) == size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0"), (0.25, "250ms"), (0.0005, "0.5ms"), (90.0, "90s"), (60.0, "1m"), (7200.0, "2h"), (1.0005, "1.0005s")],
)
def test_a_duration_is_written_in_the_largest_unit_that_fits(seconds: float, text: str) -> None:
    assert written_duration(seconds) == text
