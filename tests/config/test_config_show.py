from pathlib import Path

import pytest
import yaml
from config_fields import ALL_FIELDS
from config_files import DIGEST, GOOD, read

from tidegate.config import Config, is_loopback, load, render, split_address, warnings

EXAMPLE = Path(__file__).parents[2] / "examples" / "tidegate.yaml"
MANY = 65_536


def test_the_table_shows_every_setting_as_it_is_written(tmp_path: Path) -> None:
    text = GOOD.replace("name: gpt,", "name: gpt, aliases: [a, b],") + "server: {keep_alive: 90s, drain_delay: 0}\n"
    table = dict(render(read(tmp_path, text).config))
    assert table["server.keep_alive"] == "90s"
    assert table["server.drain_delay"] == "0"
    assert table["server.max_body_bytes"] == "20MiB"
    assert table["server.port"] == "8080"
    assert table["server.tls.cert"] == "not set"
    assert table["providers[0].timeouts.first_token"] == "5m"
    assert table["providers[0].headers"] == "none"
    assert table["models[0].aliases"] == "a, b"
    assert table["models[0].targets[0].provider"] == "main"
    assert table["auth.keys"] == "none"


def test_the_table_leaves_no_setting_out(tmp_path: Path) -> None:
    text = GOOD.replace("api_key: sk-1", "api_key: sk-1, headers: {x-a: b}")
    text += f"auth: {{mode: keys, keys: [{{id: a, sha256: {DIGEST}}}]}}\n"
    shown = {
        path.replace("[0]", "[]").replace("headers.x-a", "headers.*") for path, _ in render(read(tmp_path, text).config)
    }
    assert shown == {path.replace("aliases[]", "aliases") for path in ALL_FIELDS}


def test_the_table_tells_of_a_secret_only_whether_it_is_set(tmp_path: Path) -> None:
    text = GOOD.replace("sk-1", "sk-canary, headers: {x-key: canary, x-none: ''}")
    text += f"auth: {{mode: keys, keys: [{{id: a, sha256: {DIGEST}}}]}}\n"
    table = dict(render(read(tmp_path, text).config))
    assert table["providers[0].api_key"] == table["providers[0].headers.x-key"] == table["auth.keys[0].sha256"] == "set"
    assert table["providers[0].headers.x-none"] == "not set"
    assert "canary" not in str(table)
    assert DIGEST[:8] not in str(table)


def test_an_ordinary_configuration_gives_no_warning(tmp_path: Path) -> None:
    assert warnings(read(tmp_path, GOOD).config, MANY) == []
    assert warnings(read(tmp_path, GOOD).config, -1) == []


def test_too_few_open_files_are_warned_of_with_the_command_that_helps(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD).config
    expected = "the limit of 1024 open files leaves room for about 412 streams; raise it: ulimit -n 65536"
    assert warnings(config, 1024) == [expected]
    assert "about 0 streams" in warnings(config, 100)[0]
    assert warnings(config, 4096) == []


@pytest.mark.parametrize(
    ("section", "warning"),
    [
        ("server: {host: 0.0.0.0}", "auth.mode is open and server.host 0.0.0.0 can be reached from other machines"),
        (f"auth: {{keys: [{{id: a, sha256: {DIGEST}}}]}}", "auth.keys are not asked for, as auth.mode is open"),
        ("server: {max_header_bytes: 10B}", "server.max_header_bytes of 10 bytes refuses ordinary requests"),
        ("server: {max_body_bytes: 0}", "server.max_body_bytes of 0 bytes refuses ordinary requests"),
        ("server: {header_timeout: 0}", "server.header_timeout is off: a client that sends nothing holds its connection for ever"),
    ],
)  # fmt: skip
def test_an_unwise_section_is_warned_of(tmp_path: Path, section: str, warning: str) -> None:
    assert warnings(read(tmp_path, f"{GOOD}{section}\n").config, MANY) == [warning]


def test_keys_make_an_open_address_wise(tmp_path: Path) -> None:
    text = f"{GOOD}server: {{host: 0.0.0.0}}\nauth: {{mode: keys, keys: [{{id: a, sha256: {DIGEST}}}]}}\n"
    assert warnings(read(tmp_path, text).config, MANY) == []


@pytest.mark.parametrize(
    ("timeouts", "warning"),
    [
        ("idle: 1h", "idle of 1h never passes: total of 15m does before"),
        ("first_token: 16m", "first_token of 16m never passes: total of 15m does before"),
        ("headers: 61s, total: 1m, first_token: 0", "headers of 61s never passes: total of 1m does before"),
        ("connect: 11m", "connect of 11m never passes: response of 10m does before"),
        ("connect: 16m, response: 0", "connect of 16m never passes: total of 15m does before"),
    ],
)
def test_an_inner_timeout_longer_than_an_outer_one_is_warned_of(tmp_path: Path, timeouts: str, warning: str) -> None:
    text = GOOD.replace("api_key: sk-1", f"api_key: sk-1, timeouts: {{{timeouts}}}")
    assert warnings(read(tmp_path, text).config, MANY) == [f"providers[0].timeouts.{warning}"]


def test_timeouts_that_are_off_are_no_reason_to_warn(tmp_path: Path) -> None:
    text = GOOD.replace("api_key: sk-1", "api_key: sk-1, timeouts: {total: 0, response: 0, idle: 5h}")
    assert warnings(read(tmp_path, text).config, MANY) == []


@pytest.mark.parametrize(("members", "warned"), [("api_key: k", True), ("api_key: k, headers: {x: y}", True)])
def test_credentials_without_tls_are_warned_of(tmp_path: Path, members: str, *, warned: bool) -> None:
    text = GOOD.replace("api_key: sk-1", f"{members}, base_url: 'http://10.0.0.1/v1'")
    assert (
        warnings(read(tmp_path, text).config, MANY) == ["providers[0].base_url: credentials are sent without TLS"]
    ) is warned
    local = text.replace("10.0.0.1", "127.0.0.1")
    assert warnings(read(tmp_path, local).config, MANY) == []


def test_a_provider_that_no_model_uses_is_warned_of(tmp_path: Path) -> None:
    text = GOOD.replace("models:", "  - {name: spare, kind: mock}\nmodels:")
    assert warnings(read(tmp_path, text).config, MANY) == ["providers[1]: no model uses the provider spare"]


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:0", ("::1", 0)), ("ops.internal:65535", ("ops.internal", 65535))],
)
def test_an_address_is_split_into_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address


@pytest.mark.parametrize("text", ["", "1", ":1", "h:", "h:x", "h:65536", "::1:80", "h h:1", "h:-1", "[]:1", "h:٣"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|brackets"):
        split_address(text)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("example.com", False), ("", False)],
)  # fmt: skip
def test_only_this_machine_is_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_the_example_loads_and_says_only_what_the_defaults_are(tmp_path: Path) -> None:
    config = load(str(EXAMPLE), {"OPENAI_API_KEY": "sk-1"}).config
    shown = dict(render(config))
    plain = dict(render(read(tmp_path, GOOD).config))
    assert config.server == Config().server
    differ = {path for path in shown if shown[path] != plain.get(path)}
    assert differ == {"models[0].name", "models[0].aliases", "models[0].targets[0].model"}
    assert warnings(config, MANY) == []


def test_the_example_leaves_no_setting_out() -> None:
    text = (
        EXAMPLE.read_text(encoding="utf-8")
        .replace("  # keys:", "  keys:")
        .replace("  keys: []\n", "")
        .replace("  #   ", "    ")
    )
    found: set[str] = set()
    walk(yaml.safe_load(text), "", found)
    wanted = {path.removesuffix(".*").replace("aliases[]", "aliases") for path in ALL_FIELDS}
    assert found == wanted


def walk(node: object, path: str, found: set[str]) -> None:
    """Collect the paths of all that stands in a plain tree."""
    if isinstance(node, dict) and node:
        for name, inner in node.items():
            walk(inner, f"{path}.{name}".lstrip("."), found)
    elif isinstance(node, list) and isinstance(node[0], dict):
        walk(node[0], f"{path}[]", found)
    else:
        found.add(path)
