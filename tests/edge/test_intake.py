import re
import time
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.edge import intake
from tidegate.edge.intake import CHUNKED, Head
from tidegate.verdict import BAD_REQUEST, Refused


def head(*lines: str, first: str = "POST /v1/chat/completions HTTP/1.1", host: str = "host: h") -> Head:
    return intake.parse("\r\n".join([line for line in (first, host, *lines) if line]).encode("latin-1") + b"\r\n\r\n")


def refused(*lines: str, first: str = "POST / HTTP/1.1", host: str = "host: h") -> str:
    with pytest.raises(Refused) as caught:
        head(*lines, first=first, host=host)
    assert caught.value.verdict is BAD_REQUEST
    return caught.value.message


def test_a_head_says_method_path_version_and_headers() -> None:
    got = head("Content-Length: 12", "X-Mixed: Case", first="POST /a/b?c=d&e HTTP/1.1")
    assert (got.method, got.path, got.version, got.length) == (b"POST", b"/a/b", "1.1", 12)
    assert got.headers == {b"host": b"h", b"content-length": b"12", b"x-mixed": b"Case"}


def test_a_head_without_length_has_no_body() -> None:
    assert head().length == 0


def test_chunked_is_known_in_any_case() -> None:
    assert head("Transfer-Encoding: Chunked").length == CHUNKED


def test_repeated_headers_are_joined_in_their_order() -> None:
    assert head("accept: a", "Accept: b").headers[b"accept"] == b"a, b"


@pytest.mark.parametrize(
    ("first", "line", "keeps"),
    [
        ("POST / HTTP/1.1", "", True),
        ("POST / HTTP/1.1", "connection: keep-alive", True),
        ("POST / HTTP/1.1", "connection: Close", False),
        ("POST / HTTP/1.1", "connection: te, close", False),
        ("POST / HTTP/1.0", "", False),
        ("POST / HTTP/1.0", "connection: keep-alive", False),
    ],
)
def test_a_connection_is_kept_by_version_and_header(first: str, line: str, keeps: bool) -> None:
    assert head(line, first=first).keeps is keeps


def test_expectations_are_for_version_1_1_alone() -> None:
    assert head("expect: 100-Continue").expects
    assert not head("expect: 100-continue", first="POST / HTTP/1.0").expects
    assert not head("expect: something").expects


@pytest.mark.parametrize("target", ["http://h/v1/models?x=1", "/v1/models", "https://other:8080/v1/models"])
def test_a_target_may_be_a_path_or_a_url(target: str) -> None:
    assert head(first=f"GET {target} HTTP/1.1").path == b"/v1/models"


@pytest.mark.parametrize("target", ["*", "h:80", "http://h", "/\xe9", "?x"])
def test_other_targets_are_refused(target: str) -> None:
    refused(first=f"OPTIONS {target} HTTP/1.1")
    refused(first="CONNECT h:80 HTTP/1.1")


@pytest.mark.parametrize(
    ("lines", "about"),
    [
        (["host: i"], "Host"),
        (["Host: h"], "Host"),
        (["content-length: 1", "transfer-encoding: chunked"], ""),
        (["transfer-encoding: chunked", "content-length: 1"], ""),
        (["content-length: 1", "content-length: 1"], ""),
        (["content-length: 1", "content-length: 2"], ""),
        (["content-length: 1, 1"], ""),
        (["content-length: -1"], ""),
        (["content-length: +1"], ""),
        (["content-length: 0x10"], ""),
        (["content-length: one"], ""),
        (["content-length:"], ""),
        (["content-length: 18446744073709551615"], "Content-Length"),
        (["content-length: 99999999999999999999999"], ""),
        (["transfer-encoding: gzip"], ""),
        (["transfer-encoding: chunked, chunked"], ""),
        (["transfer-encoding: chunked", "transfer-encoding: chunked"], ""),
        (["transfer-encoding: gzip, chunked"], "chunked"),
        (["transfer-encoding: identity"], ""),
        (["name : value"], ""),
        (["na(me: value"], ""),
        ([" folded"], ""),
        (["no colon"], ""),
        (["a: b\x00c"], ""),
        (["a: b\nc: d"], ""),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(lines: list[str], about: str) -> None:
    assert about in refused(*lines)


def test_version_1_1_needs_a_host_and_1_0_does_not() -> None:
    assert "Host" in refused(host="")
    assert head(host="", first="POST / HTTP/1.0").version == "1.0"


def test_version_1_0_has_no_transfer_encoding() -> None:
    assert "HTTP/1.0" in refused("transfer-encoding: chunked", first="POST / HTTP/1.0")


@pytest.mark.parametrize("first", ["POST / HTTP/0.9", "POST / HTTP/2.0", "PRI * HTTP/2.0", "POST /", "NOPE / HTTP/1.1"])
def test_other_versions_and_methods_are_refused(first: str) -> None:
    refused(first=first)


@pytest.mark.parametrize("offer", ["h2c", "websocket", "tls/1.3"])
def test_an_offer_to_upgrade_is_ignored(offer: str) -> None:
    got = head(f"upgrade: {offer}", "connection: upgrade, http2-settings", "content-length: 3")
    assert (got.length, got.keeps) == (3, True)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_are_a_sound_head_or_refused(first: bytes, rest: bytes) -> None:
    for raw in (first + b"\r\n\r\n", b"POST / HTTP/1.1\r\n" + rest + b"\r\n\r\n"):
        try:
            got = intake.parse(raw)
        except Refused:
            continue
        assert got.length >= CHUNKED
        assert got.path.startswith(b"/")
        assert not (b"content-length" in got.headers and b"transfer-encoding" in got.headers)


@pytest.mark.parametrize("start", [b"", b"\r", b"\r\n", b"P", b"POST / HT", b"\r\nGET"])
def test_a_beginning_that_can_become_a_request_is_plausible(start: bytes) -> None:
    assert intake.plausible(start)


@pytest.mark.parametrize("start", [b"\x16\x03\x01\x02\x00\x01", b"get / HTTP/1.1", b"\x00", b"{", b"\n\nGET", b" GET"])
def test_a_tls_hello_and_garbage_are_not(start: bytes) -> None:
    assert not intake.plausible(bytearray(start))


@pytest.mark.parametrize("given_id", [b"abc", b"!~", b"x" * 128, b"0192f3c4-7d5e"])
def test_a_request_id_of_the_client_is_kept(given_id: bytes) -> None:
    assert intake.request_id({b"x-request-id": given_id}) == given_id.decode()


@pytest.mark.parametrize("given_id", [b"", b"a b", b"x" * 129, b"\xe9", b"a\tb", b"a, b", b"line\n"])
def test_a_request_id_that_cannot_be_logged_is_replaced(given_id: bytes) -> None:
    made = intake.request_id({b"x-request-id": given_id})
    assert uuid.UUID(made).version == 7


def test_ids_are_uuids_of_version_7_that_sort_by_time() -> None:
    before = time.time_ns() // 1_000_000
    made = [intake.uuid7() for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert len(set(made)) == 1000
    for text in made:
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", text)
        assert before <= uuid.UUID(text).int >> 80 <= after
