import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import (
    ContainerProvider,
    Credentials,
    EnvProvider,
)
from botocore.exceptions import BotoCoreError, CredentialRetrievalError
from hypothesis import given, settings
from hypothesis import strategies as st

import tidegate
from tidegate.tasks import Tasks
from tidegate.upstream.sigv4 import (
    HARD_S,
    INSTALL,
    PAUSE_S,
    RESOLVE_S,
    SOFT_S,
    AwsKeys,
    AwsSigner,
    CredentialsError,
    chain,
    keys_of,
    missing_extra,
    segment,
)

NOW = 1_795_255_200.0
KEYS = AwsKeys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
HOST = "https://bedrock-runtime.us-east-1.amazonaws.com"
MODELS = [
    "anthropic.claude-3-5-sonnet-20241022-v2:0",
    "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-4-5-20251101-v1:0",
    "odd model~é+%3A",
]


class Clock:
    """The time of day, which moves when it is told to."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Chain:
    """Where credentials come from: what it gives, or raises, is set by the test; it counts who asks, and waits when told to."""

    def __init__(self, *answers: AwsKeys | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> AwsKeys:
        self.asked += 1
        self.threads.add(threading.get_ident())
        assert self.gate.wait(10)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def keys(name: str, lasts_s: float = inf) -> AwsKeys:
    return AwsKeys(f"AKIA{name}", f"secret-{name}", f"token-{name}", NOW + lasts_s)


def used(signer: AwsSigner) -> str:
    """Give the access key that requests are signed with."""
    (_, authorization), *_ = signer.sign("POST", HOST, {}, b"")
    return authorization.partition("Credential=")[2].partition("/")[0]


def run(work: Callable[[Tasks], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        tasks = Tasks()
        await work(tasks)
        await settled(tasks)

    asyncio.run(main())


async def settled(tasks: Tasks) -> None:
    async with asyncio.timeout(10):
        while len(tasks):
            await asyncio.sleep(0.001)


def fixed(given: AwsKeys = KEYS, service: str = "bedrock", at: float = NOW) -> AwsSigner:
    return AwsSigner("us-east-1", given, Tasks(), Clock(at), service=service)


# --- signatures ------------------------------------------------------------------------------------------------------

TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/"
    "qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT3"
    "8xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "token", "names", "signature"),
    [
        (
            "GET",
            "/",
            {},
            b"",
            "",
            "host;x-amz-date",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "POST",
            "/",
            {},
            b"",
            "",
            "host;x-amz-date",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (
            *("GET", "/?Param2=value2&Param1=value1", {}, b"", "", "host;x-amz-date"),
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            *("GET", "/\u1234", {}, b"", "", "host;x-amz-date"),
            "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
        ),
        (
            *("POST", "/", FORM, b"Param1=value1", "", "content-type;host;x-amz-date"),
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
        (
            *("POST", "/", {}, b"", TOKEN, "host;x-amz-date;x-amz-security-token"),
            "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
        ),
    ],
)
def test_aws_s_published_examples_are_signed_as_published(
    method: str, path: str, headers: dict[str, str], body: bytes, token: str, names: str, signature: str
) -> None:
    at = datetime(2015, 8, 30, 12, 36, tzinfo=UTC).timestamp()
    signer = fixed(AwsKeys(KEYS.access_key, KEYS.secret_key, token), "service", at)
    added = dict(signer.sign(method, f"https://example.amazonaws.com{path}", headers, body))
    scope = "AKIDEXAMPLE/20150830/us-east-1/service/aws4_request"
    expected = {
        "authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature={signature}",
        "x-amz-date": "20150830T123600Z",
    }
    assert added == expected | ({"x-amz-security-token": token} if token else {})


def verified(url: str, headers: dict[str, str], body: bytes, added: dict[str, str]) -> str:
    """Give the signature that botocore computes over a request as it would arrive, from its own parts."""
    request = AWSRequest("POST", url, data=body)
    for name, value in {**headers, **added}.items():
        if name != "authorization":
            request.headers[name] = value
    request.context["timestamp"] = added["x-amz-date"]
    auth = SigV4Auth(Credentials(KEYS.access_key, KEYS.secret_key, "tok"), "bedrock", "us-east-1")
    signature: str = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    return signature


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(MODELS) | st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()),
    st.binary(max_size=200),
    st.dictionaries(st.sampled_from(["accept", "content-type", "x-request-id"]), st.sampled_from(["a", "a  b", "é"])),
)
def test_botocore_verifies_any_request_as_it_would_arrive(model: str, body: bytes, headers: dict[str, str]) -> None:
    url = f"{HOST}/model/{segment(model)}/converse-stream"
    signer = fixed(AwsKeys(KEYS.access_key, KEYS.secret_key, "tok"))
    added = dict(signer.sign("POST", url, headers, body))
    assert added["authorization"].endswith(verified(url, headers, body, added))
    changed = {**headers, "content-type": "changed"}
    assert not added["authorization"].endswith(verified(url, changed, body, added))
    assert not added["authorization"].endswith(verified(url, headers, body + b" ", added))


def test_a_model_s_id_is_encoded_once_in_the_path_and_twice_in_what_is_signed() -> None:
    assert segment("anthropic.claude-3:0") == "anthropic.claude-3%3A0"
    assert segment("a/b c~d_e") == "a%2Fb%20c~d_e"
    request = AWSRequest("POST", f"{HOST}/model/{segment(MODELS[0])}/converse")
    auth = SigV4Auth(Credentials("a", "b"), "bedrock", "us-east-1")
    assert (
        auth.canonical_request(request).splitlines()[1]
        == "/model/anthropic.claude-3-5-sonnet-20241022-v2%253A0/converse"
    )


def test_what_proxies_change_is_not_signed_and_a_host_that_is_given_is() -> None:
    headers = {"user-agent": "tide", "x-amzn-trace-id": "1", "accept": "a", "host": "proxy.example:8443"}
    authorization = dict(fixed().sign("POST", HOST, headers, b""))["authorization"]
    assert "SignedHeaders=accept;host;x-amz-date," in authorization
    assert authorization != dict(fixed().sign("POST", HOST, {"accept": "a"}, b""))["authorization"]


# --- credentials -----------------------------------------------------------------------------------------------------


def test_credentials_from_the_settings_are_there_at_once_and_never_asked_for() -> None:
    async def work(_: Tasks) -> None:
        signer = fixed(keys("A"))
        assert signer.fresh
        await signer.ready()
        assert used(signer) == "AKIAA"
        assert signer.known == ("secret-A", "token-A", "AKIAA")

    run(work)


def test_a_key_is_not_shown_where_objects_are_printed() -> None:
    assert "secret" not in f"{keys('A')!r} {keys('A')} {[keys('A')]}"


def test_the_first_credentials_are_waited_for_in_another_thread_and_asked_for_once() -> None:
    async def work(tasks: Tasks) -> None:
        source = Chain(keys("A", 3600))
        signer = AwsSigner("us-east-1", source, tasks, Clock())
        assert not signer.fresh
        assert signer.known == ()
        with pytest.raises(CredentialsError, match="no AWS credentials yet"):
            signer.sign("POST", HOST, {}, b"")
        await asyncio.gather(*(signer.ready() for _ in range(20)))
        assert (source.asked, signer.fresh, used(signer)) == (1, True, "AKIAA")
        assert threading.get_ident() not in source.threads

    run(work)


def test_the_loop_runs_on_while_credentials_are_waited_for() -> None:
    async def work(tasks: Tasks) -> None:
        source = Chain(keys("A", 3600))
        source.gate.clear()
        signer = AwsSigner("us-east-1", source, tasks, Clock())
        waiter = tasks.spawn(signer.ready())
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not waiter.done()
        source.gate.set()
        await waiter
        assert signer.fresh

    run(work)


def test_ahead_of_their_end_new_ones_are_looked_for_while_the_old_ones_are_used() -> None:
    async def work(tasks: Tasks) -> None:
        clock, source = Clock(), Chain(keys("A", 3600), keys("B", 7200))
        signer = AwsSigner("us-east-1", source, tasks, clock)
        await signer.ready()
        clock.now = NOW + 3600 - SOFT_S - 1
        assert signer.fresh
        source.gate.clear()
        clock.now += 1
        assert not signer.fresh
        await signer.ready()
        assert (signer.fresh, used(signer)) == (True, "AKIAA")
        source.gate.set()
        await settled(tasks)
        assert (signer.fresh, used(signer), source.asked) == (True, "AKIAB", 2)
        assert set(signer.known) == {f"{kind}{name}" for kind in ("secret-", "token-", "AKIA") for name in "AB"}

    run(work)


def test_shortly_before_their_end_new_ones_are_waited_for() -> None:
    async def work(tasks: Tasks) -> None:
        clock, source = Clock(), Chain(keys("A", 3600), keys("B", 7200))
        signer = AwsSigner("us-east-1", source, tasks, clock)
        await signer.ready()
        source.gate.clear()
        clock.now = NOW + 3600 - HARD_S - 1
        await signer.ready()
        clock.now += 1
        assert not signer.fresh
        waiters = [tasks.spawn(signer.ready()) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert not any(waiter.done() for waiter in waiters)
        source.gate.set()
        await asyncio.gather(*waiters)
        assert (used(signer), source.asked) == ("AKIAB", 2)

    run(work)


def test_when_none_can_be_had_the_last_ones_are_used_until_their_end_and_asked_for_after_a_pause() -> None:
    async def work(tasks: Tasks) -> None:
        clock, source = Clock(), Chain(keys("A", 3600), CredentialRetrievalError(provider="iam", error_msg="no tide"))
        signer = AwsSigner("us-east-1", source, tasks, clock)
        await signer.ready()
        clock.now = NOW + 3600 - HARD_S
        await signer.ready()
        assert (signer.fresh, used(signer), source.asked) == (True, "AKIAA", 2)
        assert "no tide" in signer.failure
        clock.now += PAUSE_S - 1
        await signer.ready()
        assert source.asked == 2
        clock.now += 1
        assert not signer.fresh
        await signer.ready()
        assert source.asked == 3
        clock.now = NOW + 3600
        with pytest.raises(CredentialsError, match="no tide"):
            await signer.ready()
        assert source.asked == 4

    run(work)


def test_a_failure_stands_for_a_pause_and_is_gone_with_the_next_success() -> None:
    async def work(tasks: Tasks) -> None:
        clock, source = Clock(), Chain(OSError("no route"), keys("A", 3600))
        signer = AwsSigner("us-east-1", source, tasks, clock)
        for _ in range(3):
            with pytest.raises(CredentialsError, match="AWS credentials could not be had: no route"):
                await signer.ready()
        with pytest.raises(CredentialsError, match="no route"):
            signer.sign("POST", HOST, {}, b"")
        assert source.asked == 1
        clock.now += PAUSE_S
        await signer.ready()
        assert (signer.failure, source.asked, used(signer)) == ("", 2, "AKIAA")

    run(work)


def test_credentials_that_come_expired_are_refused_and_those_that_do_not_change_asked_for_with_pauses() -> None:
    async def work(tasks: Tasks) -> None:
        signer = AwsSigner("us-east-1", Chain(keys("A", -1)), tasks, Clock())
        with pytest.raises(CredentialsError, match="have expired"):
            await signer.ready()
        clock, source = Clock(), Chain(keys("A", SOFT_S))
        signer = AwsSigner("us-east-1", source, tasks, clock)
        for _ in range(3):
            await signer.ready()
        assert (signer.fresh, source.asked) == (True, 1)
        clock.now += PAUSE_S
        await signer.ready()
        await settled(tasks)
        assert (signer.fresh, source.asked, signer.known) == (True, 2, ("secret-A", "token-A", "AKIAA"))

    run(work)


def test_a_refresh_that_is_cancelled_leaves_nobody_waiting() -> None:
    async def work(tasks: Tasks) -> None:
        source, refreshes = Chain(keys("A")), Tasks()
        source.gate.clear()
        signer = AwsSigner("us-east-1", source, refreshes, Clock())
        waiter = tasks.spawn(signer.ready())
        await asyncio.sleep(0.01)
        await refreshes.close()
        with pytest.raises(CredentialsError, match="have expired"):
            await waiter
        source.gate.set()

    run(work)


def test_a_waiter_who_is_cancelled_stops_no_refresh() -> None:
    async def work(tasks: Tasks) -> None:
        source, waiters = Chain(keys("A")), Tasks()
        source.gate.clear()
        signer = AwsSigner("us-east-1", source, tasks, Clock())
        waiters.start(signer.ready())
        await asyncio.sleep(0.01)
        await waiters.close()
        source.gate.set()
        await settled(tasks)
        assert (signer.fresh, used(signer)) == (True, "AKIAA")

    run(work)


def test_a_timeout_without_words_is_told_in_ours() -> None:
    async def work(tasks: Tasks) -> None:
        signer = AwsSigner("us-east-1", Chain(TimeoutError()), tasks, Clock())
        with pytest.raises(CredentialsError, match=f"not within {RESOLVE_S:g} s"):
            await signer.ready()

    run(work)


# --- botocore's own providers ----------------------------------------------------------------------------------------


def test_the_environment_is_read() -> None:
    environ = {"AWS_ACCESS_KEY_ID": "AKIAE", "AWS_SECRET_ACCESS_KEY": "sec", "AWS_SESSION_TOKEN": "tok"}
    assert keys_of(EnvProvider(environ).load()) == AwsKeys("AKIAE", "sec", "tok")
    stamp = datetime.fromtimestamp(NOW + 86400 * 9000, UTC).isoformat()
    expiring = EnvProvider(environ | {"AWS_CREDENTIAL_EXPIRATION": stamp}).load()
    assert keys_of(expiring) == AwsKeys("AKIAE", "sec", "tok", NOW + 86400 * 9000)


def test_the_chain_reads_a_profile_and_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "credentials"
    file.write_text("[tide]\naws_access_key_id = AKIAP\naws_secret_access_key = sec\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        monkeypatch.delenv(name, raising=False)
    assert chain("tide")() == AwsKeys("AKIAP", "sec")
    with pytest.raises(CredentialsError, match="botocore finds no AWS credentials"):
        chain()()
    with pytest.raises(BotoCoreError, match="ebb"):
        chain("ebb")()


class Container:
    """A container's credentials endpoint on this machine."""

    def __init__(self) -> None:
        self.served = 0
        self.broken = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.served += 1
                number = outer.served
                expires = datetime.fromtimestamp(datetime.now(UTC).timestamp() + 3600 * number, UTC)
                members = {
                    "AccessKeyId": f"AKIAC{number}",
                    "SecretAccessKey": f"sec{number}",
                    "Token": f"tok{number}",
                    "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
                self.send_response(500 if outer.broken else 200)
                self.end_headers()
                self.wfile.write(json.dumps(members).encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def __call__(self) -> AwsKeys:
        url = f"http://127.0.0.1:{self._server.server_address[1]}/creds"
        return keys_of(ContainerProvider({"AWS_CONTAINER_CREDENTIALS_FULL_URI": url}).load())

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def container() -> Iterator[Container]:
    made = Container()
    yield made
    made.close()


def test_a_container_s_credentials_are_read_with_their_end_and_refreshed_ahead_of_it(container: Container) -> None:
    async def work(tasks: Tasks) -> None:
        began = datetime.now(UTC).timestamp()
        clock = Clock(began)
        signer = AwsSigner("us-east-1", container, tasks, clock)
        await signer.ready()
        assert (used(signer), signer.fresh) == ("AKIAC1", True)
        clock.now = began + 3600 - SOFT_S - 5
        assert signer.fresh
        clock.now = began + 3600 - SOFT_S + 5
        await signer.ready()
        await settled(tasks)
        assert (used(signer), signer.fresh, container.served) == ("AKIAC2", True, 2)

    run(work)


@pytest.mark.slow
def test_a_container_s_endpoint_that_breaks_leaves_the_last_credentials(container: Container) -> None:
    async def work(tasks: Tasks) -> None:
        began = datetime.now(UTC).timestamp()
        clock = Clock(began)
        signer = AwsSigner("us-east-1", container, tasks, clock)
        await signer.ready()
        container.broken = True
        clock.now = began + 3600 - SOFT_S + 5
        await signer.ready()
        await settled(tasks)
        assert (used(signer), signer.fresh) == ("AKIAC1", True)
        assert signer.failure.startswith("AWS credentials could not be had: ")

    run(work)


# --- the extra -------------------------------------------------------------------------------------------------------

WITHOUT = """
from tidegate.tasks import Tasks
from tidegate.upstream.sigv4 import AwsKeys, AwsSigner, MissingExtraError, missing_extra
print(missing_extra())
try:
    AwsSigner("us-east-1", AwsKeys("a", "b"), Tasks(), lambda: 0.0)
except MissingExtraError as error:
    print(error)
"""


def test_without_botocore_the_line_to_type_is_said(tmp_path: Path) -> None:
    (tmp_path / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    (tmp_path / "tidegate").symlink_to(Path(tidegate.__file__).parent)
    # No site-packages: what is not linked is not installed.
    done = subprocess.run(
        [sys.executable, "-S", "-c", WITHOUT], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, check=False
    )
    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == [INSTALL, INSTALL]


def test_with_botocore_nothing_is_missing() -> None:
    assert missing_extra() == ""
