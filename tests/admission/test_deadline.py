import pytest

from tidegate.admission.deadline import allowed_s
from tidegate.verdict import BAD_REQUEST, Refused


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(b"30", 30.0), (b"2.5", 2.5), (b"250ms", 0.25), (b"30s", 30.0), (b"5m", 300.0), (b" 7 ", 7.0), (None, 1200.0)],
)
def test_a_client_says_how_long_it_waits_in_seconds_or_with_a_unit(header: bytes | None, seconds: float) -> None:
    assert allowed_s(1200.0, header) == seconds


def test_the_shorter_of_both_counts_and_zero_is_no_limit() -> None:
    assert allowed_s(10.0, b"30") == 10.0
    assert allowed_s(0.0, b"30") == 30.0
    assert allowed_s(0.0, None) == 0.0


@pytest.mark.parametrize(
    "header",
    [b"", b"0", b"0.0s", b"-1", b"+1", b"1h", b"soon", b"1e3", b"nan", b"inf", b"1, 2", b".5", b"1 s", b"\xb2"],
)
def test_what_is_no_positive_duration_is_refused_with_the_header_s_name(header: bytes) -> None:
    with pytest.raises(Refused) as caught:
        allowed_s(10.0, header)
    assert caught.value.verdict is BAD_REQUEST
    assert caught.value.param == "x-request-timeout"
