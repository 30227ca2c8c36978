"""The settings of a provider's credentials and of what passes: each changes something that can be seen from outside."""

from pathlib import Path
from typing import Any

import pytest

from harness import ask, chat, gateway, run
from streams import HELLO, answer, answering, fronting, streamed
from tidegate.mock import sigv4
from tidegate.mock.server import MockProvider

AWS = {"region": "eu-west-1", "access_key_id": sigv4.ACCESS_KEY, "secret_access_key": sigv4.SECRET_KEY}


async def head_of(**provider: Any) -> str:
    """Give the head of the request that a provider gets for a chat."""
    async with fronting(answering(streamed(*HELLO)), provider=provider) as (running, upstream):
        await ask(running.port, chat())
        return upstream.peers[0].requests[0][0].decode()


async def code_of(**aws: str) -> tuple[str, int]:
    """Give how an exchange ends at a provider that checks signatures, and its status."""
    mock = MockProvider()
    root = f"http://127.0.0.1:{await mock.start()}"
    provider = {"kind": "bedrock", "api_key": "", "aws": aws}
    try:
        async with gateway(root, provider=provider) as running:
            reply = await ask(running.port, chat())
            return (await running.entry()).code, reply.status
    finally:
        await mock.close()


@pytest.mark.parametrize(
    ("auth", "line"),
    [
        ("", "authorization: Bearer sk-upstream-secret\r\n"),
        ("bearer", "authorization: Bearer sk-upstream-secret\r\n"),
        ("x-api-key", "x-api-key: sk-upstream-secret\r\n"),
        ("api-key", "api-key: sk-upstream-secret\r\n"),
        ("x-goog-api-key", "x-goog-api-key: sk-upstream-secret\r\n"),
        ("query", "/v1/chat/completions?key=sk-upstream-secret HTTP/1.1\r\n"),
    ],
)
def test_providers_auth_is_how_the_key_is_sent(auth: str, line: str) -> None:
    async def work() -> None:
        head = await head_of(auth=auth)
        assert line in head
        assert head.count("sk-upstream-secret") == 1

    run(work)


def test_providers_api_version_is_part_of_what_azure_is_asked() -> None:
    async def work() -> None:
        head = await head_of(kind="azure", api_version="2024-10-21")
        assert head.startswith("POST /v1/deployments/mock/chat/completions?api-version=2024-10-21 HTTP/1.1\r\n")

    run(work)


def test_providers_aws_region_is_what_a_signature_is_for_and_where_requests_go() -> None:
    async def work() -> None:
        head = await head_of(kind="bedrock", api_key="", aws=AWS)
        assert "/eu-west-1/bedrock/aws4_request, " in head
        async with gateway("https://{region}.test", provider={"kind": "bedrock", "aws": AWS}) as running:
            assert running.tidegate.providers["main"].base_url == "https://eu-west-1.test"

    run(work)


def test_providers_aws_access_key_id_and_secret_access_key_sign() -> None:
    async def work() -> None:
        assert await code_of(**AWS) == ("completed", 200)
        assert await code_of(**{**AWS, "secret_access_key": "another"}) == ("provider_auth", 502)
        assert await code_of(**{**AWS, "access_key_id": "AKIDOTHER"}) == ("provider_auth", 502)

    run(work)


def test_providers_aws_session_token_goes_along_signed() -> None:
    async def work() -> None:
        assert await code_of(**AWS, session_token=sigv4.SESSION_TOKEN) == ("completed", 200)
        assert await code_of(**AWS, session_token=sigv4.EXPIRED_TOKEN) == ("provider_auth", 502)

    run(work)


def test_providers_aws_profile_is_whose_credentials_of_amazons_own_files_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def profile(name: str, secret: str) -> str:
        return f"[{name}]\naws_access_key_id = {sigv4.ACCESS_KEY}\naws_secret_access_key = {secret}\n"

    file = tmp_path / "credentials"
    file.write_text(profile("default", "wrong") + profile("good", sigv4.SECRET_KEY), encoding="utf-8")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    async def work() -> None:
        assert await code_of(region="us-east-1", profile="good") == ("completed", 200)
        assert await code_of(region="us-east-1") == ("provider_auth", 502)
        assert await code_of(region="us-east-1", profile="nobody") == ("provider_auth", 502)

    run(work)


@pytest.mark.parametrize(("allowed", "status"), [(True, 200), (False, 404)])
def test_providers_passthrough_lets_any_request_through(allowed: bool, status: int) -> None:
    async def work() -> None:
        provider = {"passthrough": allowed}
        async with fronting(answering(answer(200, {})), provider=provider) as (running, upstream):
            assert (await ask(running.port, b"", method="GET", path="/p/main/files")).status == status
            assert len(upstream.peers) == allowed

    run(work)
