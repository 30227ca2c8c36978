"""Which variables of the environment hold secrets of the gateway's own, and are not for models of our own."""

from pathlib import Path

import pytest
from config_files import GOOD, read, refused, told

from tidegate.config import load, load_demo, load_handler, render, warnings

AWS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}


def secrets(tmp_path: Path, text: str, environ: dict[str, str]) -> frozenset[str]:
    return read(tmp_path, text, environ).secrets


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (GOOD, set()),
        (GOOD.replace("sk-1", "'${KEY}'"), {"KEY"}),
        (GOOD.replace("sk-1", "'${KEY}${MORE:-x}'"), {"KEY", "MORE"}),
        (GOOD.replace("sk-1", "sk-1, headers: {x-key: 'Bearer ${KEY}'}"), {"KEY"}),
        (GOOD.replace("sk-1", "sk-1, local: {env: {TOKEN: '${KEY}', PLAIN: x}}"), {"KEY"}),
        (GOOD + "predictions: {webhooks: {secret: '${KEY}', token: '${MORE}'}}\n", {"KEY", "MORE"}),
        (GOOD + "auth: {keys: [{id: a, sha256: '${HASH}'}]}\n", {"HASH"}),
        (GOOD + "server: {host: '${PLACE}'}\n", set()),
        (GOOD.replace("sk-1", "'$$${KEY}'"), {"KEY"}),
    ],
)
def test_a_variable_in_a_secret_is_one(tmp_path: Path, text: str, names: set[str]) -> None:
    environ = {"KEY": "k", "MORE": "m", "HASH": "0" * 64, "PLACE": "localhost"}
    assert secrets(tmp_path, text, environ) == names


def test_a_bedrock_provider_without_credentials_of_its_own_takes_those_of_amazons_variables(tmp_path: Path) -> None:
    bedrock = "  - {name: aws, kind: bedrock, aws: {region: us-east-1%s}}\n"
    models = GOOD.index("models:")
    chained = GOOD[:models] + bedrock % "" + GOOD[models:]
    keyed = GOOD[:models] + bedrock % ", access_key_id: '${ID}', secret_access_key: '${KEY}'" + GOOD[models:]
    assert secrets(tmp_path, chained, {}) >= AWS
    assert secrets(tmp_path, keyed, {"ID": "i", "KEY": "k"}) == {"ID", "KEY"}
    assert not secrets(tmp_path, GOOD, {}) & AWS


def test_without_a_file_the_keys_that_are_used_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": "https://example.com/v1", "GEMINI_API_KEY": ""}
    for loaded in (load(None, environ), load_demo(environ)):
        assert loaded.secrets == {"OPENAI_API_KEY"}


def test_of_cogs_variables_the_bearer_of_webhooks_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text("class Model: ...\n", encoding="utf-8")
    environ = {"WEBHOOK_AUTH_TOKEN": "t", "PORT": "5001", "OPENAI_API_KEY": "sk-of-the-models-own"}
    assert load_handler("model.py", 1, environ).secrets == {"WEBHOOK_AUTH_TOKEN"}


LOCAL = """\
providers:
  - name: own
    kind: local
    local:
      handler: package.module:Name
      env: {%s}
models:
  - {name: own, targets: [{provider: own}]}
"""


@pytest.mark.parametrize(
    ("member", "name", "problem"),
    [
        ("A=B: x", "'A=B'", "expected the name of an environment variable"),
        ("'': x", "''", "expected the name of an environment variable"),
        ("TMPDIR: x", "TMPDIR", "this variable is set by the gateway alone"),
        ("TIDEGATE_WORKER: x", "TIDEGATE_WORKER", "this variable is set by the gateway alone"),
        ('KEY: "sk-canary\\0"', "KEY", "a NUL character cannot be in an environment variable"),
        ("KEY: 4", "KEY", "expected text, got a number; put it in quotes"),
    ],
)
def test_what_cannot_be_in_the_environment_of_a_process_is_told(
    tmp_path: Path, member: str, name: str, problem: str
) -> None:
    lines = told(tmp_path, refused(tmp_path, LOCAL % member))
    assert lines == [f"tidegate.yaml:6: providers[0].local.env.{name}: {problem}"]


def test_what_a_handler_is_given_is_shown_to_nobody(tmp_path: Path) -> None:
    config = read(tmp_path, LOCAL % "TOKEN: '${KEY}', EMPTY: ''", {"KEY": "sk-canary"}).config
    assert config.providers[0].local.env == {"TOKEN": "sk-canary", "EMPTY": ""}
    table = dict(render(config))
    assert table["providers[0].local.env.TOKEN"] == "set"
    assert table["providers[0].local.env.EMPTY"] == "not set"
    assert "canary" not in f"{config!r} {config.providers[0].local!r} {warnings(config, -1)}"


def test_settings_of_processes_are_for_a_model_of_our_own_alone(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD.replace("sk-1", "sk-1, local: {env: {A: b}}")).config
    assert warnings(config, -1) == ["providers[0].local: a provider of kind openai has no processes here"]
