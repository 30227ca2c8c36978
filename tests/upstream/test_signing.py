import asyncio
import time
from pathlib import Path
from typing import get_args

import pytest

from harness import run
from tidegate.mock import sigv4
from tidegate.mock.ask import BadAsk
from tidegate.tasks import Tasks
from tidegate.upstream.credentials import FixedKey, KeyFile
from tidegate.upstream.settings import AwsSettings, ProviderSettings
from tidegate.upstream.signing import Auth, AwsSigning, KeySigner, secrets, signer_of
from tidegate.upstream.sigv4 import AwsKeys, AwsSigner, CredentialsError
from tidegate.verdict import PROVIDER_AUTH, AttemptFailed

NOTHING: frozenset[str] = frozenset()
KEYS = AwsKeys(sigv4.ACCESS_KEY, sigv4.SECRET_KEY, sigv4.SESSION_TOKEN)


@pytest.mark.parametrize(
    ("auth", "target", "lines"),
    [
        ("bearer", "/v1/x", b"\r\nauthorization: Bearer k/+1"),
        ("x-api-key", "/v1/x", b"\r\nx-api-key: k/+1"),
        ("api-key", "/v1/x", b"\r\napi-key: k/+1"),
        ("x-goog-api-key", "/v1/x", b"\r\nx-goog-api-key: k/+1"),
        ("query", "/v1/x?key=k%2F%2B1", b""),
    ],
)
def test_a_key_is_in_one_place_alone(auth: Auth, target: str, lines: bytes) -> None:
    assert KeySigner(auth, FixedKey("k/+1"), NOTHING).sign("POST", "/v1/x", b"{}") == (target, lines)


def test_a_key_goes_behind_a_query_that_is_there() -> None:
    assert KeySigner("query", FixedKey("k"), NOTHING).sign("GET", "/x?alt=sse", b"")[0] == "/x?alt=sse&key=k"


@pytest.mark.parametrize("auth", [auth for auth in get_args(Auth) if auth != "aws"])
def test_without_a_key_nothing_is_added(auth: Auth) -> None:
    signer = KeySigner(auth, FixedKey(""), NOTHING)
    assert (signer.sign("GET", "/x", b""), signer.secrets) == (("/x", b""), ())


def test_a_header_of_the_configuration_stands_in_for_the_key() -> None:
    assert KeySigner("bearer", FixedKey("kkkk"), frozenset({"authorization"})).sign("GET", "/x", b"") == ("/x", b"")
    assert KeySigner("x-api-key", FixedKey("k"), frozenset({"authorization"})).sign("GET", "/x", b"")[1] != b""


def test_a_key_that_is_rotated_is_taken_at_once_and_the_old_one_stays_secret(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first/key", encoding="utf-8")
    signer = KeySigner("query", KeyFile(str(file)), NOTHING)
    assert signer.sign("GET", "/x", b"")[0] == "/x?key=first%2Fkey"
    file.write_text("second-key", encoding="utf-8")
    assert signer.sign("GET", "/x", b"")[0] == "/x?key=second-key"
    assert set(signer.secrets) == {"first/key", "first%2Fkey", "second-key"}


def test_secrets_are_hidden_the_longest_first_and_no_short_ones() -> None:
    assert secrets("abc", "abcd", "abcdef", "abcd", "") == ("abcdef", "abcd")


def test_a_signature_is_as_the_verifying_side_wants_it_and_fits_one_request() -> None:
    async def work() -> None:
        signing = AwsSigning(AwsSigner("us-east-1", KEYS, Tasks(), time.time), "http://h.test:1")
        assert signing.fresh
        await signing.wait_fresh()
        target = "/model/a%3Ab/converse?x=%20y"
        same, lines = signing.sign("POST", target, b"{}")
        assert same == target
        pairs = [line.split(b": ", 1) for line in lines.split(b"\r\n")[1:]]
        headers = [(b"host", b"h.test:1"), *((name, value) for name, value in pairs)]
        sigv4.verify(b"POST", target, headers, b"{}", time.time())
        with pytest.raises(BadAsk):
            sigv4.verify(b"POST", target, headers, b"{ }", time.time())
        assert set(signing.secrets) == {sigv4.ACCESS_KEY, sigv4.SECRET_KEY, sigv4.SESSION_TOKEN}

    run(work)


def test_nothing_to_sign_with_is_the_gateway_s_own_failure() -> None:
    def nobody() -> AwsKeys:
        raise CredentialsError("nobody is here")

    async def work() -> None:
        tasks = Tasks()
        signing = AwsSigning(AwsSigner("r", nobody, tasks, time.time), "http://h")
        assert not signing.fresh
        with pytest.raises(AttemptFailed) as early:
            signing.sign("GET", "/", b"")
        with pytest.raises(AttemptFailed) as late:
            await signing.wait_fresh()
        assert early.value.verdict is late.value.verdict is PROVIDER_AUTH
        assert "nobody is here" in late.value.message
        await asyncio.sleep(0)
        await tasks.close()

    run(work)


def test_settings_say_how_and_else_the_kind() -> None:
    def settings(**members: object) -> ProviderSettings:
        return ProviderSettings(name="m", kind="gemini", base_url="http://h/v1", api_key="key1", **members)  # type: ignore[arg-type]

    tasks = Tasks()
    assert signer_of(settings(), "query", tasks).sign("GET", "/x", b"")[0] == "/x?key=key1"
    assert signer_of(settings(auth="bearer"), "aws", tasks).sign("GET", "/x", b"") == (
        "/x",
        b"\r\nauthorization: Bearer key1",
    )
    aws = AwsSettings(region="r", access_key_id="AKID", secret_access_key="s3cret")  # type: ignore[arg-type]
    _, lines = signer_of(settings(aws=aws), "aws", tasks).sign("GET", "/x", b"")
    assert b"Credential=AKID/" in lines
    assert b"SignedHeaders=host;x-amz-date," in lines
