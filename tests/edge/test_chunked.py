import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.edge.chunked import MAX_LINE_BYTES, PLAIN_FRAMING_BYTES, ChunkedBody
from tidegate.verdict import BAD_REQUEST, HEADER_TOO_LARGE, TOO_LARGE, Refused, Verdict

FOLLOWING = b"POST / HTTP/1.1\r\n"
EXTENSIONS = st.sampled_from([b"", b";a", b";a=1", b' ; name="v"', b"\t;x;y=z"])
TRAILERS = st.lists(st.sampled_from([b"x-sum: 1\r\n", b"a: b\r\n"]), max_size=3).map(b"".join)
PIECES = st.lists(st.tuples(st.binary(min_size=1, max_size=40), EXTENSIONS), max_size=6)


def body_of(pieces: list[tuple[bytes, bytes]], trailers: bytes) -> bytes:
    chunks = [b"%X%b\r\n%b\r\n" % (len(data), extension, data) for data, extension in pieces]
    return b"".join([*chunks, b"0\r\n", trailers, b"\r\n"])


def decoder(max_body: int = 1000, max_framing: int = 1000) -> ChunkedBody:
    return ChunkedBody(max_body, max_framing)


def feed(body: ChunkedBody, data: bytes, cut: int) -> Verdict | None:
    """Feed pieces of `cut` bytes, or one of all; gives why the body was refused."""
    try:
        for start in range(0, len(data), cut or len(data) or 1):
            body.feed(data[start : start + (cut or len(data))])
    except Refused as fault:
        return fault.verdict
    return None


def refusal_of(data: bytes, *, cut: int = 0, max_body: int = 1000, max_framing: int = 1000) -> Verdict | None:
    return feed(decoder(max_body, max_framing), data, cut)


@settings(max_examples=300, deadline=None)
@given(PIECES, TRAILERS, st.data())
def test_the_body_does_not_depend_on_how_its_bytes_were_cut(
    pieces: list[tuple[bytes, bytes]], trailers: bytes, data: st.DataObject
) -> None:
    stream = body_of(pieces, trailers) + FOLLOWING
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    body, rest = decoder(), b""
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        rest += body.feed(stream[start:end])
    assert body.done
    assert rest == FOLLOWING
    assert body.held == sum(len(piece) for piece, _ in pieces)
    assert body.take() == b"".join(piece for piece, _ in pieces)
    assert body.held == 0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 7))
def test_any_bytes_are_decoded_or_refused_within_the_limits(data: bytes, cut: int) -> None:
    body = decoder(max_body=50, max_framing=60)
    assert feed(body, data, cut) in {None, BAD_REQUEST, TOO_LARGE, HEADER_TOO_LARGE}
    assert body.held <= 50


@settings(max_examples=50, deadline=None)
@given(PIECES, TRAILERS)
def test_one_byte_at_a_time_ends_exactly_at_the_last_byte(pieces: list[tuple[bytes, bytes]], trailers: bytes) -> None:
    stream = body_of(pieces, trailers)
    body = decoder()
    for position in range(len(stream)):
        assert not body.done
        assert body.feed(stream[position : position + 1]) == b""
    assert body.done


@pytest.mark.parametrize(
    "stream",
    [
        b"x\r\n", b"\r\n", b"-1\r\nab\r\n", b"0x2\r\nab\r\n", b"+2\r\nab\r\n", b"2_0\r\n", b"1 1\r\n", b";ext\r\n",
        b"1" * 17 + b"\r\n", b"2\r\nabc\r\n", b"2\nab\r\n", b"2\r\nab\n", b"0\r\na: b\n\r\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("cut", [0, 1])
def test_a_malformed_body_is_a_bad_request(stream: bytes, cut: int) -> None:
    assert refusal_of(stream, cut=cut) is BAD_REQUEST


def test_sizes_may_be_written_in_either_case_and_with_leading_zeros() -> None:
    body = decoder()
    body.feed(b"000a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n")
    assert body.done
    assert body.take() == b"0123456789" * 2


def test_a_body_of_the_limits_size_is_taken() -> None:
    body = decoder(max_body=10)
    body.feed(b"a\r\n0123456789\r\n0\r\n\r\n")
    assert body.take() == b"0123456789"


def test_a_body_is_refused_when_a_size_is_announced_that_goes_beyond_the_limit() -> None:
    assert refusal_of(b"b\r\n", max_body=10) is TOO_LARGE
    assert refusal_of(b"a\r\n0123456789\r\n1\r\n", max_body=10) is TOO_LARGE


def test_extensions_are_counted_over_all_chunks() -> None:
    chunk = b"1;%b\r\nx\r\n" % (b"e" * 50)
    assert refusal_of(chunk * 10, max_framing=100) is HEADER_TOO_LARGE
    assert refusal_of(chunk * 10, max_framing=100, cut=3) is HEADER_TOO_LARGE


def test_trailers_count_as_framing() -> None:
    assert refusal_of(b"0\r\n" + b"a: b\r\n" * 100, max_framing=100) is HEADER_TOO_LARGE


def test_a_line_without_end_is_refused_before_it_is_held_whole() -> None:
    assert refusal_of(b"1;" + b"e" * MAX_LINE_BYTES, cut=1000, max_framing=10 * MAX_LINE_BYTES) is HEADER_TOO_LARGE


def test_many_small_honest_chunks_are_no_attack() -> None:
    body = decoder(max_body=10_000, max_framing=PLAIN_FRAMING_BYTES)
    body.feed(b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n")
    assert body.done
    assert body.take() == b"x" * 10_000
