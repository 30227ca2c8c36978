"""The mock verifies what botocore signs, and refuses what was altered on the way."""

from datetime import UTC, datetime

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tidegate.mock.ask import BadAsk, Headers
from tidegate.mock.sigv4 import ACCESS_KEY, EXPIRED_TOKEN, SECRET_KEY, SESSION_TOKEN, verify

BODY = b'{"messages":[]}'
TARGET = "/model/anthropic.claude-v2%3A1/converse-stream"
HOST = "bedrock-runtime.us-east-1.amazonaws.com"


def signed(
    target: str = TARGET,
    *,
    key: str = ACCESS_KEY,
    secret: str = SECRET_KEY,
    token: str | None = None,
    service: str = "bedrock",
    more: dict[str, str] | None = None,
) -> Headers:
    """Give the headers of a request that botocore signed now."""
    request = AWSRequest("POST", f"https://{HOST}{target}", {"content-type": "application/json"} | (more or {}), BODY)
    SigV4Auth(Credentials(key, secret, token), service, "us-east-1").add_auth(request)
    return [(b"host", HOST.encode()), *((name.encode(), value.encode()) for name, value in request.headers.items())]


def now() -> float:
    return datetime.now(UTC).timestamp()


def check(
    headers: Headers, target: str = TARGET, body: bytes = BODY, method: bytes = b"POST", late_s: float = 0
) -> None:
    verify(method, target, headers, body, now() + late_s)


def refused(
    headers: Headers, target: str = TARGET, body: bytes = BODY, method: bytes = b"POST", late_s: float = 0
) -> str:
    with pytest.raises(BadAsk) as error:
        check(headers, target, body, method, late_s)
    assert error.value.status == 403
    return error.value.code


def altered(headers: Headers, name: bytes, old: bytes, new: bytes) -> Headers:
    result = [(each, value.replace(old, new) if each.lower() == name else value) for each, value in headers]
    assert result != headers
    return result


@pytest.mark.parametrize(
    "target",
    [
        TARGET,
        "/model/mock%3Fttft%3D200ms%26itl%3D1ms%C2%B11ms/converse",
        "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fa.b%3A0/invoke",
        "/model/a.b-c_d~e/invoke-with-response-stream",
        "/model/x/../m/./converse/",
        "/model/m/converse?b=2&a=1&a=0&c=x%20y%2Fz&d",
    ],
)
@pytest.mark.parametrize("token", [None, SESSION_TOKEN])
def test_what_botocore_signs_is_taken(target: str, token: str | None) -> None:
    check(signed(target, token=token), target)


def test_blanks_and_the_case_of_names_do_not_matter() -> None:
    headers = signed(more={"x-amz-note": "a  b"})
    check([(name.upper(), value) for name, value in headers])
    check(altered(headers, b"x-amz-note", b"a  b", b"a b"))


def test_a_request_without_a_signature_is_refused() -> None:
    assert refused([(b"host", HOST.encode())]) == "MissingAuthenticationTokenException"
    assert refused([(b"authorization", b"Bearer abc")]) == "IncompleteSignatureException"


def test_a_digest_of_the_body_that_is_said_is_checked() -> None:
    wrong = signed(more={"X-Amz-Content-SHA256": "0" * 64})
    assert refused(wrong) == "InvalidSignatureException"


@pytest.mark.parametrize(
    "change",
    [
        {"body": b"{}"},
        {"target": "/model/anthropic.claude-v2%3A2/converse-stream"},
        {"target": "/model/anthropic.claude-v2:1/converse-stream"},
        {"target": TARGET + "?x=1"},
        {"method": b"PUT"},
        {"late_s": 301},
        {"late_s": -302},
    ],
)
def test_what_was_altered_or_comes_too_late_or_too_early_is_refused(change: dict[str, object]) -> None:
    assert refused(signed(), **change) == "InvalidSignatureException"  # type: ignore[arg-type]


@pytest.mark.parametrize("late_s", [295, -295])
def test_clocks_may_differ_by_five_minutes(late_s: float) -> None:
    check(signed(), late_s=late_s)


def test_an_altered_header_is_refused() -> None:
    assert refused(altered(signed(), b"host", b"us-east-1", b"eu-west-1")) == "InvalidSignatureException"
    assert refused(altered(signed(), b"authorization", b"us-east-1", b"eu-west-1")) == "InvalidSignatureException"
    assert refused([*signed(), (b"x-amz-target", b"other")]) == "InvalidSignatureException"


def test_the_host_is_to_be_signed_and_all_that_is_signed_is_to_be_there() -> None:
    headers = signed()
    assert refused(altered(headers, b"authorization", b"host;", b"")) == "InvalidSignatureException"
    assert refused([each for each in headers if each[0] != b"host"]) == "InvalidSignatureException"
    twice = altered(headers, b"authorization", b"host;", b"host;host;")
    assert refused(twice) == "InvalidSignatureException"


def test_a_key_or_a_token_that_nobody_has_is_refused() -> None:
    assert refused(signed(key="AKIDOTHER")) == "UnrecognizedClientException"
    assert refused(signed(secret="guess")) == "InvalidSignatureException"
    assert refused(signed(token="guess")) == "UnrecognizedClientException"
    assert refused(signed(token=EXPIRED_TOKEN)) == "ExpiredTokenException"
    assert refused(signed(service="s3")) == "InvalidSignatureException"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b"Signature=", b"Mark=", "IncompleteSignatureException"),
        (b"/aws4_request", b"/aws3_request", "InvalidSignatureException"),
        (b"/aws4_request", b"", "IncompleteSignatureException"),
        (b"Signature=", b"Signature=\xe9", "InvalidSignatureException"),
        (b"SignedHeaders=", b"SignedHeaders=" + b"a;" * 100, "IncompleteSignatureException"),
    ],
)
def test_a_header_that_is_not_as_it_should_be_is_refused(old: bytes, new: bytes, code: str) -> None:
    assert refused(altered(signed(), b"authorization", old, new)) == code


def test_the_date_is_to_be_there_and_to_be_that_of_the_scope() -> None:
    headers = signed()
    day = next(value for name, value in headers if name.lower() == b"x-amz-date")[:8]
    dateless = altered(
        [each for each in headers if each[0].lower() != b"x-amz-date"], b"authorization", b";x-amz-date", b""
    )
    assert refused(dateless) == "IncompleteSignatureException"
    assert refused(altered(headers, b"x-amz-date", day, b"20200101")) == "InvalidSignatureException"
    impossible = altered(altered(headers, b"x-amz-date", day, b"20201399"), b"authorization", day, b"20201399")
    assert refused(impossible) == "InvalidSignatureException"
