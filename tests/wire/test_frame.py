import pytest

from tidegate.wire import Frame


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b'data: {"a":1}\n\n', b'{"a":1}'),
        (b'data:{"a":1}\n\n', b'{"a":1}'),
        (b"data:  two spaces\n\n", b" two spaces"),
        (b"data: a\r\n\r\n", b"a"),
        (b"data: a\rdata: b\r\r", b"a\nb"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\ndata\ndata:\n\n", b"a\n\n"),
        (b"data\n\n", b""),
        (b"data: \n\n", b""),
        (b"data: a\rb\n\n", b"a"),
        (b"data: a\n\r", b"a"),
        (b": note\ndata: a\n\n", b"a"),
        (b"datax: a\n\n", None),
        (b" data: a\n\n", None),
        (b": data: a\n\n", None),
        (b"event: ping\n\n", None),
        (b"\n", None),
    ],
)
def test_data_lines_are_joined_and_one_space_is_taken_off(raw: bytes, data: bytes | None) -> None:
    assert Frame(raw).data == data


@pytest.mark.parametrize(
    ("raw", "event"),
    [
        (b"event: ping\n\n", b"ping"),
        (b"event:ping\nevent: pong\n\n", b"pong"),
        (b"event: ping\nevent\n\n", None),
        (b"data: a\n\n", None),
    ],
)
def test_the_last_event_type_counts_and_an_empty_one_is_none(raw: bytes, event: bytes | None) -> None:
    assert Frame(raw).event == event


@pytest.mark.parametrize(
    ("raw", "id_"),
    [
        (b"id: 7\n\n", b"7"),
        (b"id: 7\nid: a\0b\n\n", b"7"),
        (b"id: \0\n\n", None),
        (b"id: 7\nid\n\n", b""),
        (b"data: a\n\n", None),
    ],
)
def test_an_id_with_nul_is_ignored_and_an_empty_one_is_an_id(raw: bytes, id_: bytes | None) -> None:
    assert Frame(raw).id == id_


@pytest.mark.parametrize(
    ("raw", "retry"),
    [
        (b"retry: 3000\n\n", 3000),
        (b"retry:3000\nretry: 1s\n\n", 3000),
        (b"retry: -1\n\n", None),
        ("retry: \u0663\n\n".encode(), None),
        (b"retry: " + b"9" * 5000 + b"\n\n", None),
        (b"retry\n\n", None),
    ],
)
def test_a_retry_that_is_not_all_digits_is_ignored(raw: bytes, retry: int | None) -> None:
    assert Frame(raw).retry == retry


def test_a_byte_order_mark_counts_only_where_the_framer_saw_the_start_of_the_stream() -> None:
    raw = b"\xef\xbb\xbfdata: a\n\n"
    assert Frame(raw, 3).data == b"a"
    assert Frame(raw).data is None
