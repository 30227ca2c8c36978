import email.utils
import json

import pytest

from tidegate.dialect import Refusing
from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.anthropic.tokens import CountTokens
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.edge.reply import Dates, error_body, refusal, render
from tidegate.exchange import ReplyHead
from tidegate.verdict import BAD_REQUEST, CONNECT_REFUSED, DRAINING, METHOD, UPSTREAM_REJECTED, Fault

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"


def lines_of(
    head: ReplyHead, *, framing: bytes = b"", keeps: bool = True, dialect: Refusing | None = None
) -> list[bytes]:
    raw = render(head, dialect or OpenAIChat(), "id-1", DATE, framing=framing, keeps=keeps)
    assert raw.endswith(b"\r\n\r\n")
    return raw[:-4].split(b"\r\n")


def test_a_head_has_status_headers_id_and_date() -> None:
    assert lines_of(ReplyHead(200, ((b"content-type", b"application/json"), (b"x", b"y")))) == [
        b"HTTP/1.1 200 OK", b"content-type: application/json", b"x: y", b"x-request-id: id-1", b"date: " + DATE,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [b"text/event-stream", b"text/event-stream; charset=utf-8"])
def test_a_stream_of_events_is_kept_out_of_caches_and_buffers(kind: bytes) -> None:
    lines = lines_of(ReplyHead(200, ((b"content-type", kind),)))
    assert b"content-type: " + kind in lines
    assert b"cache-control: no-cache" in lines
    assert b"x-accel-buffering: no" in lines


@pytest.mark.parametrize(("dialect", "said"), [(Anthropic(), True), (CountTokens(), True), (OpenAIChat(), False)])
def test_clients_of_messages_find_the_same_id_under_the_name_that_they_read(dialect: Refusing, *, said: bool) -> None:
    assert (b"request-id: id-1" in lines_of(ReplyHead(200, ()), dialect=dialect)) is said
    head, _, _ = refusal(Fault(DRAINING), dialect, "id-1", DATE, keeps=True).partition(b"\r\n\r\n")
    assert (b"request-id: id-1" in head.split(b"\r\n")) is said


def test_framing_and_the_end_of_the_connection_are_said() -> None:
    lines = lines_of(ReplyHead(200, ()), framing=b"transfer-encoding: chunked\r\n", keeps=False)
    assert lines[-2:] == [b"transfer-encoding: chunked", b"connection: close"]


def test_a_status_without_a_name_is_still_a_head() -> None:
    assert lines_of(ReplyHead(599, ()))[0] == b"HTTP/1.1 599 Unknown"


def test_a_refusal_is_a_whole_answer_with_the_faults_headers() -> None:
    fault = Fault(DRAINING, headers=((b"retry-after", b"1"),))
    head, _, body = refusal(fault, OpenAIChat(), "id-1", DATE, keeps=False).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 503 Service Unavailable"
    assert b"retry-after: 1" in lines
    assert b"content-length: %d" % len(body) in lines
    assert b"connection: close" in lines
    assert json.loads(body)["error"]["code"] == "draining"


@pytest.mark.parametrize(("fault", "said"), [(Fault(METHOD), True), (Fault(CONNECT_REFUSED), False)])
def test_clients_are_told_not_to_retry_what_never_helps(fault: Fault, said: bool) -> None:
    raw = refusal(fault, OpenAIChat(), "id-1", DATE, keeps=True)
    assert (b"\r\nx-should-retry: false\r\n" in raw) is said


def test_an_error_says_the_tables_word_or_the_providers_own() -> None:
    ours = json.loads(error_body(Fault(BAD_REQUEST, "no such role", param="messages"), OpenAIChat()))["error"]
    assert (ours["code"], ours["message"], ours["param"]) == ("bad_request", "no such role", "messages")
    theirs = Fault(UPSTREAM_REJECTED, "too long", status=422, kind="their_type", code="context_length_exceeded")
    error = json.loads(error_body(theirs, OpenAIChat()))["error"]
    assert (error["code"], error["type"]) == ("context_length_exceeded", "their_type")


def test_the_date_is_in_http_form_and_made_once_a_second() -> None:
    dates = Dates()
    first = dates.now()
    assert email.utils.parsedate_to_datetime(first.decode()).tzinfo is not None
    assert first.endswith(b" GMT")
    made = {id(dates.now()) for _ in range(1000)}
    assert len(made) <= 2
