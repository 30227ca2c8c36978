"""What a provider's kind wants of its settings; and that nothing tells its secrets."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from config_files import read, refused, told

from harness import ask, chat, run
from processes import environment, fetch, serving, tidegate, write_config
from several import value
from streams import Script, fronting
from tidegate.config import load, render, warnings
from tidegate.mock import sigv4
from tidegate.testing.upstream import Peer
from tidegate.upstream.kinds import KINDS
from tidegate.upstream.settings import KindName

MANY = 65_536
KEY = "sk-sentinel-51c2"
EXAMPLE = Path(__file__).parents[2] / "examples" / "providers.yaml"
GIVEN = {name: f"{name}-1".lower().replace("_", "-") for name in (
    "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "AZURE_API_KEY", "AZURE_RESOURCE", "AWS_REGION",
)}  # fmt: skip
FILE = "providers:\n  - name: main\n    {}\nmodels: [{{name: m, targets: [{{provider: main}}]}}]\n"


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ("kind: azure\n    api_key: k",
         ("2: providers[0].base_url: required for kind azure\n2: providers[0].api_version: required for kind azure")),
        ("kind: azure\n    api_key: k\n    base_url: https://n.openai.azure.com\n    api_version: 2024/10",
         ("5: providers[0].base_url: expected the path as well, which is /openai\n"
          "6: providers[0].api_version: expected a version such as 2024-10-21, got '2024/10'")),
        ("kind: openai_compatible", "2: providers[0].base_url: required for kind openai_compatible"),
        ("kind: bedrock", "2: providers[0].aws.region: required for kind bedrock"),
        ("kind: bedrock\n    aws: {region: 'us east'}",
         "4: providers[0].aws.region: expected a region such as us-east-1, got 'us east'"),
        ("kind: bedrock\n    aws: 5", "4: providers[0].aws: expected a mapping of settings, got a number"),
        ("kind: bedrock\n    aws: {region: []}", "4: providers[0].aws.region: expected text, got a list"),
        ("kind: bedrock\n    api_key: k\n    aws: {region: r}",
         ("4: providers[0].api_key: requests of kind bedrock are signed with aws.access_key_id and aws.secret_access_key; "
          "a key of Amazon Bedrock's own needs auth: bearer as well")),
        ("kind: bedrock\n    auth: bearer\n    aws: {region: r}",
         "2: providers[0].api_key: required for kind bedrock, unless base_url is on this machine"),
        ("kind: bedrock\n    aws: {region: r, access_key_id: a}",
         "4: providers[0].aws.secret_access_key: required, as access_key_id is set"),
        ("kind: bedrock\n    aws: {region: r, session_token: t}",
         ("4: providers[0].aws.access_key_id: required, as session_token is set\n"
          "4: providers[0].aws.secret_access_key: required, as session_token is set")),
        ('kind: bedrock\n    aws: {region: r, access_key_id: a, secret_access_key: "b\\n"}',
         ("4: providers[0].aws.secret_access_key: expected a key of visible ASCII characters, "
          "found a space or line break at an end")),
        ("kind: gemini", "2: providers[0].api_key: required for kind gemini, unless base_url is on this machine"),
        ("kind: gemni", f"3: providers[0].kind: expected {' or '.join(get_args(KindName))}, got 'gemni'; did you mean 'gemini'?"),
        ("kind: bedrok", f"3: providers[0].kind: expected {' or '.join(get_args(KindName))}, got 'bedrok'; did you mean 'bedrock'?"),
        ("kind: anthropic\n    api_key: k\n    auth: x-apikey",
         ("5: providers[0].auth: expected bearer or x-api-key or api-key or x-goog-api-key or query, got 'x-apikey'; "
          "did you mean 'x-api-key'?")),
        ("kind: anthropic\n    api_key: k\n    base_url: https://api.anthropic.com/",
         ("5: providers[0].base_url: expected the path as well; did you mean 'https://api.anthropic.com/v1'?")),
        ("kind: llamacpp", "2: providers[0].base_url: this is the gateway's own address; expected the provider's"),
        ("kind: mock\n    passthrough: 1", "4: providers[0].passthrough: expected true or false, got '1'"),
        ("kind: mock\n    passthrough: 'true'",
         "4: providers[0].passthrough: expected true or false, got 'true'; leave out the quotes"),
        ("kind: mock\n    passthrough: {}", "4: providers[0].passthrough: expected true or false, got a mapping"),
    ],
)  # fmt: skip
def test_what_a_kind_lacks_is_told_with_line_and_path(tmp_path: Path, members: str, expected: str) -> None:
    lines = [f"tidegate.yaml:{line}" for line in expected.split("\n")]
    assert told(tmp_path, refused(tmp_path, FILE.format(members))) == lines


@pytest.mark.parametrize(
    "ending",
    [
        "/chat/completions", "/responses", "/messages", "/messages/count_tokens/", "/embeddings", "/models/m:generateContent",
        "/models/m:streamGenerateContent", "/model/m/converse", "/model/m/converse-stream", "/model/m/invoke", "/api/chat",
        "/deployments/m",
    ],
)  # fmt: skip
def test_an_address_with_what_is_added_for_each_request_is_told_so(tmp_path: Path, ending: str) -> None:
    (mistake,) = refused(tmp_path, FILE.format(f"kind: mock\n    base_url: https://h.test/v1{ending}/"))
    assert mistake.problem.endswith(": that is added for each request")
    assert ending.rstrip("/").endswith(mistake.problem.split("without ")[1].split(": that")[0].rstrip("/")) or (
        "/deployments/: " in mistake.problem
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "base_url" not in KINDS[kind].needs])
def test_a_kind_says_where_its_providers_are(tmp_path: Path, kind: str) -> None:
    key = "" if KINDS[kind].auth == "aws" else "\n    api_key: k"
    text = FILE.format(f"kind: {kind}{key}\n    aws: {{region: eu-west-1}}") + "server: {port: 8099}\n"
    usual = KINDS[kind].base_url.replace("{region}", "eu-west-1")
    assert read(tmp_path, text).config.providers[0].base_url == usual


def test_a_key_of_bedrock_s_own_needs_no_package_and_is_sent_as_one(tmp_path: Path) -> None:
    config = read(tmp_path, FILE.format("kind: bedrock\n    auth: bearer\n    api_key: k\n    aws: {region: r}")).config
    assert (config.providers[0].auth, warnings(config, MANY)) == ("bearer", [])


@pytest.mark.parametrize(
    ("members", "warning"),
    [
        ("kind: mock\n    api_version: v1", "api_version: a provider of kind mock is not asked with one"),
        ("kind: mock\n    passthrough: true", "passthrough: anybody may ask main anything, as auth.mode is open"),
        ("kind: mock\n    aws: {profile: p}",
         "aws: nothing is signed with these credentials, as the provider is asked with a key"),
        ("kind: bedrock\n    aws: {region: r, profile: p, access_key_id: a, secret_access_key: s}",
         "aws.profile is not looked at, as access_key_id is set"),
        ("kind: bedrock\n    base_url: http://h.test\n    aws: {region: r, access_key_id: a, secret_access_key: s, session_token: t}",
         "base_url: credentials are sent without TLS"),
    ],
)  # fmt: skip
def test_settings_of_other_kinds_are_warned_of(tmp_path: Path, members: str, warning: str) -> None:
    found = warnings(read(tmp_path, FILE.format(members)).config, MANY)
    assert found == [f"providers[0].{warning}"]


@pytest.mark.parametrize(("written", "shown"), [("true", "true"), ("no", "false"), ('"${ON}"', "true")])
def test_the_table_shows_the_new_settings_and_no_secret(tmp_path: Path, written: str, shown: str) -> None:
    members = f"kind: mock\n    passthrough: {written}\n    auth: query\n    api_key: {KEY}\n    api_version: v7"
    members += (
        f"\n    aws: {{region: r1, profile: p1, access_key_id: AKID1, secret_access_key: {KEY}, session_token: {KEY}}}"
    )
    table = dict(render(read(tmp_path, FILE.format(members), {"ON": "true"}).config))
    assert KEY not in str(table)
    assert {name: table[f"providers[0].{name}"] for name in ("passthrough", "auth", "api_key", "api_version")} == {
        "passthrough": shown, "auth": "query", "api_key": "set", "api_version": "v7",
    }  # fmt: skip
    aws = {name.rpartition(".")[2]: text for name, text in table.items() if ".aws." in name}
    assert aws == {
        "region": "r1", "profile": "p1", "access_key_id": "AKID1", "secret_access_key": "set", "session_token": "set",
    }  # fmt: skip


def test_the_example_of_providers_loads_without_a_warning() -> None:
    config = load(str(EXAMPLE), GIVEN).config
    assert {"openai", "azure", "anthropic", "gemini", "bedrock", "vllm", "ollama"} == {p.kind for p in config.providers}
    assert warnings(config, MANY) == []


def test_without_botocore_the_line_to_type_is_told(tmp_path: Path) -> None:
    aws = {"region": "us-east-1"}
    file = write_config(tmp_path, providers=[{"name": "main", "kind": "bedrock", "aws": aws}])
    code = (
        f"import sys; sys.modules['botocore'] = None; from tidegate.cli import app; app(['check', '-c', {str(file)!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "needs a package that is not installed: pip install 'tidegate[bedrock]'" in done.stderr.replace("\n", " ")


def echoing(status: int) -> Script:
    """Give a script that quotes the request's first line, as some providers do in their errors."""

    async def script(peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            line = head.split(b"\r\n")[0]
            body = b'{"error": {"code": %d, "status": "X", "message": "no: %b"}}' % (status, line)
            said = (
                b"HTTP/1.1 %d No\r\ncontent-type: application/json\r\ncontent-length: %d\r\nanthropic-url: %b\r\n\r\n"
            )
            await peer.send(said % (status, len(body), line) + body)

    return script


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
@pytest.mark.parametrize("key", [KEY, "a+b/c=sentinel"])
def test_a_key_in_the_query_is_told_to_nobody(capsys: pytest.CaptureFixture[str], status: int, key: str) -> None:
    async def work() -> None:
        provider = {"kind": "gemini_array", "api_key": key, "passthrough": True}
        async with fronting(echoing(status), provider=provider) as (running, upstream):
            replies = [
                await ask(running.port, chat()),
                await ask(running.port, chat(stream=False)),
                await ask(running.port, b"{}", path="/p/main/files?x=1"),
            ]
            assert b"key=" in upstream.peers[0].requests[0][0]
            for reply in replies:
                assert reply.status >= 400
                assert "sentinel" not in f"{reply.headers} {reply.body.decode()}"
            assert "sentinel" not in str(running.tidegate.metrics.render())
            assert value(running, "tidegate_requests_total", provider="main") == 3

    run(work)
    said = capsys.readouterr()
    assert "sentinel" not in said.out + said.err


def test_check_tells_no_key_of_any_sort(tmp_path: Path) -> None:
    providers = [
        {"name": "a", "kind": "gemini_array", "api_key": KEY},
        {"name": "b", "kind": "bedrock", "aws": {"region": "r", "access_key_id": "A", "secret_access_key": KEY, "session_token": KEY}},
    ]  # fmt: skip
    models = [{"name": "m", "targets": [{"provider": "a"}, {"provider": "b"}]}]
    done = tidegate("check", "-c", str(write_config(tmp_path, providers=providers, models=models)))
    assert done.returncode == 0
    assert "providers[1].aws.secret_access_key" in done.stdout
    assert KEY not in done.stdout + done.stderr


@pytest.mark.slow
def test_aws_credentials_of_the_environment_sign_and_others_are_refused(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "none")
    apart = {"AWS_CONFIG_FILE": nowhere, "AWS_SHARED_CREDENTIALS_FILE": nowhere, "AWS_EC2_METADATA_DISABLED": "true"}
    with serving("mock", "--port", "0") as mock:
        port = int(mock.line("http://").split("http://127.0.0.1:")[1].split("/")[0].split()[0])
        main = {
            "name": "main",
            "kind": "bedrock",
            "base_url": f"http://127.0.0.1:{port}",
            "aws": {"region": "us-east-1"},
        }
        file = write_config(tmp_path, providers=[main], observe={"log": "json"})
        good = {"AWS_ACCESS_KEY_ID": sigv4.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": sigv4.SECRET_KEY}
        for given, status in (
            (good, 200),
            ({**good, "AWS_SESSION_TOKEN": sigv4.SESSION_TOKEN}, 200),
            ({**good, "AWS_SESSION_TOKEN": sigv4.EXPIRED_TOKEN}, 502),
            ({**good, "AWS_SECRET_ACCESS_KEY": "wrong"}, 502),
            ({}, 502),
        ):
            with serving("serve", "-c", str(file), env={**apart, **given}) as served:
                at, _ = served.ports()
                found, body = fetch(at, "POST", "/v1/chat/completions", json.dumps(chat()).encode())
                served.signal()
                assert served.wait() == 0
            assert (found, b"provider_auth" in body) == (status, status == 502), body
            assert not any(secret in served.output() for secret in given.values())


PAGE = EXAMPLE.parents[1] / "docs" / "providers.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=[yaml.safe_load(block)["providers"][0]["kind"] for block in BLOCKS])
def test_what_the_documentation_shows_loads(tmp_path: Path, block: str) -> None:
    name = yaml.safe_load(block)["providers"][0]["name"]
    loaded = read(tmp_path, f"{block}models: [{{name: m, targets: [{{provider: {name}}}]}}]\n", GIVEN)
    assert loaded.config.providers[0].name == name


@pytest.mark.parametrize("kind", KINDS)
def test_the_documentation_says_how_each_kind_is_asked(kind: str) -> None:
    row, page = KINDS[kind], PAGE.read_text(encoding="utf-8")
    (line,) = re.findall(rf"^\| `{kind}` \|.*\| `{row.auth}` \| (.*) \|$", page, re.MULTILINE)
    assert line.strip("`") == (row.base_url or ("(started inside the process)" if kind == "mock" else "(required)"))
