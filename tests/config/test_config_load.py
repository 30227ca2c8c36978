from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from config_fields import ALL_FIELDS
from config_files import DIGEST, GOOD, read

from tidegate.config import Config, ConfigError, filled, load, load_demo
from tidegate.config.decode import shape

THIS_FILE = str(Path(__file__))

# How each setting is written, and what it comes to; no two of one kind are alike, so that none can land in another's place.
SAMPLES: dict[str, tuple[object, object]] = {
    "server.host": ("127.0.0.7", "127.0.0.7"),
    "server.port": (8081, 8081),
    "server.tls.cert": (THIS_FILE, THIS_FILE),
    "server.tls.key": (f"/{THIS_FILE}", f"/{THIS_FILE}"),
    "server.max_header_bytes": ("33KiB", 33 * 1024),
    "server.max_body_bytes": ("3MiB", 3 * 1024 * 1024),
    "server.header_timeout": ("11s", 11.0),
    "server.body_timeout": ("12s", 12.0),
    "server.keep_alive": ("13s", 13.0),
    "server.heartbeat": ("14s", 14.0),
    "server.slow_client_timeout": ("16s", 16.0),
    "server.on_client_disconnect": ("finish", "finish"),
    "server.request_timeout": ("25m", 1500.0),
    "server.drain_delay": ("250ms", 0.25),
    "server.drain_timeout": ("17s", 17.0),
    "server.trusted_proxies[]": ("10.1.0.0/16", "10.1.0.0/16"),
    "ops.listen": ("[::1]:9999", "[::1]:9999"),
    "auth.mode": ("keys", "keys"),
    "auth.keys[].id": ("alice", "alice"),
    "auth.keys[].tenant": ("acme", "acme"),
    "auth.keys[].sha256": (DIGEST.upper(), DIGEST),
    "providers[].name": ("far", "far"),
    "providers[].kind": ("mock", "mock"),
    "providers[].base_url": ("https://example.com/v2/", "https://example.com/v2"),
    "providers[].auth": ("api-key", "api-key"),
    "providers[].api_version": ("2024-10-21", "2024-10-21"),
    "providers[].aws.region": ("eu-west-1", "eu-west-1"),
    "providers[].aws.profile": ("staging", "staging"),
    "providers[].aws.access_key_id": ("AKID", "AKID"),
    "providers[].aws.secret_access_key": ("aws-secret", "aws-secret"),
    "providers[].aws.session_token": ("aws-token", "aws-token"),
    "providers[].passthrough": (True, True),
    "providers[].api_key": ("sk-sample", "sk-sample"),
    "providers[].api_key_file": ("", ""),  # there is a key already
    "providers[].ca_file": (f"//{THIS_FILE}", f"//{THIS_FILE}"),
    "providers[].headers.*": ("sample", "sample"),
    "providers[].timeouts.connect": ("18s", 18.0),
    "providers[].timeouts.headers": ("19s", 19.0),
    "providers[].timeouts.first_token": ("20s", 20.0),
    "providers[].timeouts.idle": ("21s", 21.0),
    "providers[].timeouts.total": ("22s", 22.0),
    "providers[].timeouts.response": ("23s", 23.0),
    "providers[].connections.max": (24, 24),
    "providers[].connections.idle": ("0", 0.0),
    "providers[].retry.max_attempts": (3, 3),
    "providers[].retry.initial_delay": ("101ms", 0.101),
    "providers[].retry.max_delay": ("1.5s", 1.5),
    "providers[].retry.max_retry_after": ("9s", 9.0),
    "providers[].retry_budget.rate_per_second": (2.5, 2.5),
    "providers[].retry_budget.burst": (4, 4.0),
    "providers[].retry_budget.ratio": (0.125, 0.125),
    "providers[].slots.max_streams": (401, 401),
    "providers[].slots.max_queue": (402, 402),
    "providers[].slots.max_queue_wait": ("8s", 8.0),
    "providers[].breaker.failures": (403, 403),
    "providers[].breaker.ratio": (0.75, 0.75),
    "providers[].breaker.min_calls": (404, 404),
    "providers[].breaker.window": ("3m", 180.0),
    "providers[].breaker.open_for": ("4m", 240.0),
    "providers[].breaker.probes": (405, 405),
    "providers[].breaker.successes": (406, 406),
    "providers[].local.handler": ("package.module:Name", "package.module:Name"),
    "providers[].local.workers": (407, 407),
    "providers[].local.setup_timeout": ("41s", 41.0),
    "providers[].local.cancel_grace": ("42s", 42.0),
    "providers[].local.max_output_bytes": ("43MiB", 43 * 1024 * 1024),
    "providers[].local.env.*": ("of-a-worker", "of-a-worker"),
    "providers[].local.echo": (True, True),
    "models[].name": ("big", "big"),
    "models[].aliases[]": ("large", "large"),
    "models[].balance": ("sticky", "sticky"),
    "models[].sticky_by": ("X-Session", "x-session"),
    "models[].hedge.after": ("700ms", 0.7),
    "models[].targets[].provider": ("far", "far"),
    "models[].targets[].model": ("big-2", "big-2"),
    "models[].targets[].weight": (501, 501),
    "models[].targets[].priority": (502, 502),
    "models[].targets[].max_streams": (503, 503),
    "models[].targets[].timeouts.connect": ("31s", 31.0),
    "models[].targets[].timeouts.headers": ("32s", 32.0),
    "models[].targets[].timeouts.first_token": ("33s", 33.0),
    "models[].targets[].timeouts.idle": ("34s", 34.0),
    "models[].targets[].timeouts.total": ("35s", 35.0),
    "models[].targets[].timeouts.response": ("36s", 36.0),
    "limits.max_connections": (601, 601),
    "limits.max_connections_per_ip": (602, 602),
    "limits.max_buffered_bytes": ("603MiB", 603 * 1024 * 1024),
    "limits.rate[].by": ("tenant", "tenant"),
    "limits.rate[].requests_per_minute": (604, 604),
    "limits.rate[].burst": (605, 605),
    "limits.rate[].tokens_per_minute": (606, 606),
    "limits.rate[].max_streams": (607, 607),
    "predictions.history.mode": ("none", "none"),
    "predictions.history.max_events": (701, 701),
    "predictions.history.max_bytes": ("702KiB", 702 * 1024),
    "predictions.retain": ("51m", 3060.0),
    "predictions.max_retained": (703, 703),
    "predictions.max_retained_bytes": ("704MiB", 704 * 1024 * 1024),
    "predictions.max_body_bytes": ("705MiB", 705 * 1024 * 1024),
    "predictions.max_subscribers": (706, 706),
    "predictions.timeout": ("52m", 3120.0),
    "predictions.shutdown": (True, True),
    "predictions.files.max_bytes": ("707MiB", 707 * 1024 * 1024),
    "predictions.files.timeout": ("53s", 53.0),
    "predictions.files.max_redirects": (708, 708),
    "predictions.files.allow_private": (True, True),
    "predictions.webhooks.secret": ("whsec_c2FtcGxl", "whsec_c2FtcGxl"),
    "predictions.webhooks.token": ("hook-token", "hook-token"),
    "predictions.webhooks.interval": ("0.7s", 0.7),
    "predictions.webhooks.timeout": ("54s", 54.0),
    "predictions.webhooks.max_attempts": (709, 709),
    "predictions.webhooks.allow_private": (True, True),
    "observe.log": ("json", "json"),
}


def plant(tree: dict[str, Any], path: str, value: object) -> None:
    """Set one value in a tree of mappings and one-member lists."""
    name, _, rest = path.partition(".")
    bare = name.removesuffix("[]")
    key = "x-sample" if bare == "*" else bare
    if rest:
        inner = tree.setdefault(key, [{}] if bare != name else {})
        plant(inner[0] if bare != name else inner, rest, value)
    else:
        tree[key] = [value] if bare != name else value


def pick(settings: Any, path: str) -> object:
    """Give what the settings hold at a path."""
    for name in path.split("."):
        bare = name.removesuffix("[]")
        if bare == "*":
            settings = settings["x-sample"]
            continue
        field = next(field for field in msgspec.structs.fields(settings) if field.encode_name == bare)
        settings = getattr(settings, field.name)
        settings = next(iter(settings), None) if bare != name else settings
    return settings


def test_every_setting_has_a_sample() -> None:
    assert set(SAMPLES) == set(ALL_FIELDS)


def test_every_setting_of_the_file_reaches_its_field(tmp_path: Path) -> None:
    tree: dict[str, Any] = {}
    for path, (written, _) in SAMPLES.items():
        plant(tree, path, written)
    tree["models"][0]["targets"].append({"provider": "far"})  # a hedge needs a second one
    config = read(tmp_path, yaml.safe_dump(tree)).config
    assert {path: pick(config, path) for path in SAMPLES} == {path: value for path, (_, value) in SAMPLES.items()}


@pytest.mark.parametrize(
    "path", [path for path in SAMPLES if path.startswith(("server.", "ops.", "observe.", "limits.max"))]
)
def test_what_is_left_out_is_the_default_and_no_sample_is_one(tmp_path: Path, path: str) -> None:
    default = pick(read(tmp_path, GOOD).config, path)
    assert default == pick(Config(), path)
    assert default != SAMPLES[path][1]


def test_a_section_whose_members_are_all_commented_out_is_the_default(tmp_path: Path) -> None:
    text = GOOD.replace("api_key: sk-1", "api_key: sk-1, headers: , timeouts: ") + "server:\nops:\nauth: {keys: }\n"
    config = read(tmp_path, text).config
    assert (config.server, config.ops, config.auth) == (Config().server, Config().ops, Config().auth)
    assert config.providers[0].headers == {}


def test_flags_win_over_the_file_and_fill_sections_that_are_not_there(tmp_path: Path) -> None:
    flags = {"server.port": "9001", "server.host": "127.0.0.5", "ops.listen": "", "server.drain_timeout": "7s"}
    config = read(tmp_path, GOOD + "server: {port: 9000, keep_alive: 1s}\n", overrides=flags).config
    assert (config.server.port, config.server.host, config.server.keep_alive_s) == (9001, "127.0.0.5", 1.0)
    assert (config.ops.listen, config.server.drain_timeout_s) == ("", 7.0)


def test_a_flag_fills_a_section_that_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD + "server:\n", overrides={"server.port": "9001"}).config.server.port == 9001


def test_openai_is_where_a_provider_of_its_kind_is_without_an_address(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD).config.providers[0].base_url == "https://api.openai.com/v1"


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "127.9.9.9:80", "[::1]:99"])
def test_a_provider_on_this_machine_needs_no_key(tmp_path: Path, host: str) -> None:
    text = GOOD.replace("api_key: sk-1", f"base_url: 'http://{host}/v1'")
    assert read(tmp_path, text).config.providers[0].api_key == ""


def test_a_mock_without_an_address_stays_without_one(tmp_path: Path) -> None:
    for members in ("mock", "mock, base_url: ''"):
        config = read(tmp_path, GOOD.replace("openai, api_key: sk-1", members)).config
        assert config.providers[0].base_url == ""


def test_any_free_port_can_be_asked_for_twice(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD + "server: {port: 0}\nops: {listen: '127.0.0.1:0'}\n").config
    assert config.server.port == 0


def test_a_file_of_this_directory_is_used_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(None, {}).source == "environment"
    (tmp_path / "tidegate.yaml").write_text(GOOD, encoding="utf-8")
    loaded = load(None, {})
    assert (loaded.source, loaded.notes) == ("tidegate.yaml", ("using tidegate.yaml of this directory",))
    assert loaded.config.models[0].name == "gpt"
    assert load("tidegate.yaml", {}).notes == ()
    assert load_demo({}).source == "environment"


def test_a_broken_file_of_this_directory_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tidegate.yaml").write_text("x: 1", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^tidegate.yaml:1: "):
        load(None, {})


def test_a_field_of_a_kind_that_no_file_can_hold_is_refused_by_its_type() -> None:
    with pytest.raises(TypeError, match="complex"):
        shape(complex)


TWO = """
providers:
  - {name: a, kind: mock, timeouts: {idle: 7s, first_token: 8s}}
  - {name: b, kind: mock}
models:
  - name: gpt
    targets:
      - {provider: a, timeouts: {first_token: 5s, total: 0}}
      - {provider: b}
      - {provider: a, model: other}
"""


def test_a_targets_timeouts_that_are_left_out_are_its_providers(tmp_path: Path) -> None:
    config = read(tmp_path, TWO).config
    defaults = config.providers[1].timeouts
    partly, plain, whole = (target.timeouts for target in config.models[0].targets)
    assert (partly.first_token_s, partly.total_s, partly.idle_s) == (5.0, 0.0, 7.0)
    assert partly.headers_s == defaults.headers_s
    assert plain == defaults
    assert whole == config.providers[0].timeouts


def test_plain_values_are_filled_in_as_a_file_is() -> None:
    plain: dict[str, Any] = {
        "providers": [{"name": "a", "kind": "mock", "timeouts": {"idle": 7.0}, "base_url": "http://h/v1/"}],
        "models": [{"name": "m", "targets": [{"provider": "a", "timeouts": {"total": 3.0}}, {"provider": "nobody"}]}],
    }
    config = msgspec.convert(filled(plain), Config)
    first, second = config.models[0].targets
    assert (first.timeouts.idle_s, first.timeouts.total_s, first.timeouts.connect_s) == (7.0, 3.0, 10.0)
    assert second.timeouts.idle_s == 30.0
    assert config.providers[0].base_url == "http://h/v1"
    assert plain["providers"][0]["timeouts"] == {"idle": 7.0}


def test_a_number_of_the_environment_is_read_as_one_of_the_file_is(tmp_path: Path) -> None:
    text = GOOD.replace("sk-1", "sk-1, retry_budget: {ratio: '${RATIO}', burst: '${BURST:-2.5}'}")
    budget = read(tmp_path, text, {"RATIO": "0.3"}).config.providers[0].retry_budget
    assert (budget.ratio, budget.burst) == (0.3, 2.5)


def test_a_key_can_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-from-a-file\n", encoding="utf-8")
    provider = read(tmp_path, GOOD.replace("api_key: sk-1", f"api_key_file: {file}")).config.providers[0]
    assert (provider.api_key, provider.api_key_file) == ("", str(file))
    assert read(tmp_path, GOOD.replace("api_key: sk-1", f"api_key: '', api_key_file: {file}")).config.providers


@pytest.mark.parametrize("proxy", ["10.0.0.0/8", "127.0.0.1", "::1", "2001:db8::/32", "10.0.0.0/255.0.0.0"])
def test_a_trusted_proxy_is_an_address_or_a_network(tmp_path: Path, proxy: str) -> None:
    config = read(tmp_path, f"{GOOD}server: {{trusted_proxies: ['{proxy}']}}\n").config
    assert config.server.trusted_proxies == (proxy,)


def test_a_prefix_can_stand_for_many_models_and_its_targets_for_the_rest_of_the_name(tmp_path: Path) -> None:
    text = """
        providers: [{name: main, kind: mock}, {name: far, kind: mock}]
        models:
          - {name: openai/*, targets: [{provider: main}, {provider: far, model: 'x-*'}, {provider: far}]}
          - {name: openai/gpt, targets: [{provider: main}]}
          - {name: any/*, aliases: [any], targets: [{provider: main, model: one}]}
        """
    first, second, third = read(tmp_path, text).config.models
    assert [target.model for target in first.targets] == ["", "x-*", ""]
    assert (second.name, third.aliases) == ("openai/gpt", ("any",))
