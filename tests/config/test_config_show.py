import re
from pathlib import Path

import pytest
import yaml
from config_fields import ALL_FIELDS
from config_files import DIGEST, GOOD, read

from tidegate.config import Config, ConfigError, is_loopback, load, render, split_address, warnings

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
    assert table["server.trusted_proxies"] == "none"
    assert table["limits.rate"] == "none"


def test_a_number_is_shown_as_a_person_writes_it_and_a_list_of_texts_on_one_line(tmp_path: Path) -> None:
    text = GOOD.replace("sk-1", "sk-1, retry_budget: {burst: 5, ratio: 0.125}, breaker: {ratio: 0.00001}")
    text += "server: {trusted_proxies: [10.0.0.0/8, '::1']}\n"
    table = dict(render(read(tmp_path, text).config))
    assert table["providers[0].retry_budget.burst"] == "5"
    assert table["providers[0].retry_budget.ratio"] == "0.125"
    assert table["providers[0].breaker.ratio"] == "0.00001"
    assert table["server.trusted_proxies"] == "10.0.0.0/8, ::1"


def test_a_target_is_shown_with_the_timeouts_that_it_has_from_its_provider(tmp_path: Path) -> None:
    text = GOOD.replace("sk-1", "sk-1, timeouts: {idle: 7s}").replace(
        "provider: main", "provider: main, timeouts: {first_token: 5s}"
    )
    table = dict(render(read(tmp_path, text).config))
    path = "models[0].targets[0].timeouts"
    assert (table[f"{path}.idle"], table[f"{path}.first_token"], table[f"{path}.total"]) == ("7s", "5s", "15m")


def test_of_a_key_file_its_name_is_shown_and_nothing_of_what_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-canary", encoding="utf-8")
    config = read(tmp_path, GOOD.replace("api_key: sk-1", f"api_key_file: {file}")).config
    table = dict(render(config))
    assert table["providers[0].api_key_file"] == str(file)
    assert table["providers[0].api_key"] == "not set"
    assert "canary" not in f"{table} {config!r} {warnings(config, MANY)}"


def test_the_table_leaves_no_setting_out(tmp_path: Path) -> None:
    text = GOOD.replace("api_key: sk-1", "api_key: sk-1, headers: {x-a: b}, local: {env: {x-a: b}}")
    text += (
        f"auth: {{mode: keys, keys: [{{id: a, sha256: {DIGEST}}}]}}\nlimits: {{rate: [{{by: ip, max_streams: 1}}]}}\n"
    )
    shown = {path.replace("[0]", "[]").replace(".x-a", ".*") for path, _ in render(read(tmp_path, text).config)}
    assert shown == {path.removesuffix("[]") for path in ALL_FIELDS}


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
    asking = read(tmp_path, f"{GOOD}limits: {{max_connections: 0}}\n").config
    assert warnings(asking, 4096) == warnings(asking, -1) == []


@pytest.mark.parametrize(
    ("section", "warning"),
    [
        ("server: {host: 0.0.0.0}", "auth.mode is open and server.host 0.0.0.0 can be reached from other machines"),
        (f"auth: {{keys: [{{id: a, sha256: {DIGEST}}}]}}", "auth.keys are not asked for, as auth.mode is open"),
        ("server: {max_header_bytes: 10B}", "server.max_header_bytes of 10 bytes refuses ordinary requests"),
        ("server: {max_body_bytes: 0}", "server.max_body_bytes of 0 bytes refuses ordinary requests"),
        ("server: {header_timeout: 0}", "server.header_timeout is off: a client that sends nothing holds its connection for ever"),
        ("server: {trusted_proxies: [10.0.0.0/8, 0.0.0.0/0]}",
         "server.trusted_proxies: 0.0.0.0/0 is every address, so that clients choose the one they are judged by"),
        ("server: {trusted_proxies: ['::/0']}",
         "server.trusted_proxies: ::/0 is every address, so that clients choose the one they are judged by"),
        ("limits: {max_connections: 10, max_connections_per_ip: 11}",
         "limits.max_connections_per_ip of 11 is never reached: max_connections of 10 is before"),
        ("limits: {max_buffered_bytes: 1MiB}",
         "server.max_body_bytes of 20MiB is never reached: limits.max_buffered_bytes of 1MiB is before"),
        ("limits: {max_connections: 40000}",
         "limits.max_connections of 40000 never comes about: 65536 open files are room for about 32668 streams"),
        ("limits: {rate: [{by: key, max_streams: 1}]}",
         "limits.rate[0]: all share one limit by key, as auth.mode is open and asks for no keys"),
        ("limits: {rate: [{by: ip, max_streams: 1}, {by: tenant, max_streams: 1}]}",
         "limits.rate[1]: all share one limit by tenant, as auth.mode is open and asks for no keys"),
        ("server: {body_timeout: 21m}", "server.body_timeout of 21m never passes: request_timeout of 20m does before"),
        ("server: {slow_client_timeout: 1h}",
         "server.slow_client_timeout of 1h never passes: request_timeout of 20m does before"),
        ("server: {request_timeout: 14m}",
         "providers[0].timeouts.total of 15m never passes: server.request_timeout of 14m does before"),
    ],
)  # fmt: skip
def test_an_unwise_section_is_warned_of(tmp_path: Path, section: str, warning: str) -> None:
    assert warnings(read(tmp_path, f"{GOOD}{section}\n").config, MANY) == [warning]


@pytest.mark.parametrize(
    "section",
    [
        "limits: {max_connections: 0, max_connections_per_ip: 5, max_buffered_bytes: 0}",
        "limits: {max_connections: 5, max_connections_per_ip: 5, max_buffered_bytes: 20MiB}",
        "limits: {rate: [{by: ip, max_streams: 1}, {by: model, max_streams: 1}]}",
        "server: {trusted_proxies: [10.0.0.0/8, 0.0.0.0]}",
        "server: {request_timeout: 0}",
        "server: {request_timeout: 15m}",
        f"limits: {{rate: [{{by: key, max_streams: 1}}]}}\nauth: {{mode: keys, keys: [{{id: a, sha256: {DIGEST}}}]}}",
    ],
)
def test_limits_that_fit_each_other_give_no_warning(tmp_path: Path, section: str) -> None:
    assert warnings(read(tmp_path, f"{GOOD}{section}\n").config, MANY) == []


@pytest.mark.parametrize(
    ("members", "warning"),
    [
        ("retry: {max_retry_after: 21m}",
         "retry.max_retry_after of 21m never passes: server.request_timeout of 20m does before"),
        ("retry: {max_delay: 1s, initial_delay: 1.5s}", "retry.initial_delay of 1500ms never passes: max_delay of 1s does before"),
        ("retry: {max_delay: 21m}", "retry.max_delay of 21m never passes: server.request_timeout of 20m does before"),
        ("retry_budget: {burst: 0.5}", "retry_budget.burst of 0.5 never pays for an attempt, which costs 1"),
        ("slots: {max_streams: 1, max_queue_wait: 21m}",
         "slots.max_queue_wait of 21m never passes: server.request_timeout of 20m does before"),
        ("slots: {max_queue: 5}", "slots: nobody waits for a slot, as there is no max_streams here nor at a target"),
        ("slots: {max_queue_wait: 5s}", "slots: nobody waits for a slot, as there is no max_streams here nor at a target"),
    ],
)  # fmt: skip
def test_attempts_that_can_never_come_about_are_warned_of(tmp_path: Path, members: str, warning: str) -> None:
    text = GOOD.replace("api_key: sk-1", f"api_key: sk-1, {members}")
    assert warnings(read(tmp_path, text).config, MANY) == [f"providers[0].{warning}"]


@pytest.mark.parametrize(
    "members",
    [
        "slots: {max_queue: 1000}",
        "slots: {max_queue: 5, max_streams: 1}",
        "retry_budget: {burst: 0}",
        "retry: {max_delay: 0}",
    ],
)
def test_attempts_that_can_come_about_give_no_warning(tmp_path: Path, members: str) -> None:
    text = GOOD.replace("api_key: sk-1", f"api_key: sk-1, {members}")
    assert warnings(read(tmp_path, text).config, MANY) == []


def test_a_queue_for_the_slots_of_a_target_is_none_to_warn_of(tmp_path: Path) -> None:
    text = GOOD.replace("sk-1", "sk-1, slots: {max_queue: 5}").replace(
        "provider: main", "provider: main, max_streams: 3"
    )
    assert warnings(read(tmp_path, text).config, MANY) == []


def test_a_targets_own_timeouts_are_warned_of_by_their_own_path(tmp_path: Path) -> None:
    text = GOOD.replace("provider: main", "provider: main, timeouts: {idle: 16m, total: 25m}")
    assert warnings(read(tmp_path, text).config, MANY) == [
        "models[0].targets[0].timeouts.total of 25m never passes: server.request_timeout of 20m does before"
    ]


def test_slots_of_one_target_in_two_models_that_differ_are_warned_of(tmp_path: Path) -> None:
    text = """
        providers: [{name: main, kind: mock}]
        models:
          - {name: a, targets: [{provider: main, model: b, max_streams: 3}, {provider: main, max_streams: 4}]}
          - {name: b, targets: [{provider: main, max_streams: 5}]}
          - {name: c, targets: [{provider: main, model: b, max_streams: 3}]}
        """
    assert warnings(read(tmp_path, text).config, MANY) == [
        "models[1].targets[0].max_streams has no effect: models[0].targets[0] is the same provider and model, and has 3"
    ]


@pytest.mark.parametrize(
    ("members", "warning"),
    [
        ("sticky_by: X-Session", "sticky_by: nothing sticks, as balance is p2c_ewma"),
        ("sticky_by: X-Session, balance: weighted", "sticky_by: nothing sticks, as balance is weighted"),
        ("sticky_by: user", ""),
        ("sticky_by: X-Session, balance: sticky", ""),
        ("balance: sticky", ""),
        ("hedge: {after: 5m}", ""),
        ("hedge: {after: 6m}", "hedge.after of 6m never passes: its targets' first_token of 5m does before"),
    ],
)
def test_a_model_with_a_setting_that_does_nothing_is_warned_of(tmp_path: Path, members: str, warning: str) -> None:
    text = GOOD.replace("name: gpt,", f"name: gpt, {members},").replace(
        "provider: main", "provider: main}, {provider: main, model: b"
    )
    assert warnings(read(tmp_path, text).config, MANY) == ([f"models[0].{warning}"] if warning else [])


@pytest.mark.parametrize(
    ("first_tokens", "after", "bound"),
    [
        (("10s", "20s"), "15s", ""),
        (("10s", "20s"), "21s", "its targets' first_token of 20s"),
        (("10s", "0"), "5m", ""),
        (("10s", "0"), "21m", "server.request_timeout of 20m"),
    ],
)
def test_a_hedge_that_comes_after_every_target_has_failed_is_warned_of(
    tmp_path: Path, first_tokens: tuple[str, str], after: str, bound: str
) -> None:
    targets = [
        f"{{provider: main, model: m-{at}, timeouts: {{headers: 5s, first_token: {at}}}}}" for at in first_tokens
    ]
    resting = "{provider: main, model: resting, weight: 0, timeouts: {total: 0, first_token: 0}}"
    text = f"{GOOD}  - {{name: m, hedge: {{after: {after}}}, targets: [{', '.join(targets)}, {resting}]}}\n"
    warning = f"models[1].hedge.after of {after} never passes: {bound} does before"
    assert warnings(read(tmp_path, text).config, MANY) == ([warning] if bound else [])


def test_keys_make_an_open_address_wise(tmp_path: Path) -> None:
    text = f"{GOOD}server: {{host: 0.0.0.0}}\nauth: {{mode: keys, keys: [{{id: a, sha256: {DIGEST}}}]}}\n"
    assert warnings(read(tmp_path, text).config, MANY) == []


@pytest.mark.parametrize(
    ("timeouts", "warning"),
    [
        ("idle: 1h", "idle of 1h never passes: total of 15m does before"),
        ("first_token: 16m", "first_token of 16m never passes: total of 15m does before"),
        ("first_token: 59s", "headers of 1m never passes: first_token of 59s does before"),
        ("headers: 61s, total: 1m, first_token: 0", "headers of 61s never passes: total of 1m does before"),
        ("connect: 11m", "connect of 11m never passes: response of 10m does before"),
        ("connect: 16m, response: 0", "connect of 16m never passes: total of 15m does before"),
    ],
)
def test_an_inner_timeout_longer_than_an_outer_one_is_warned_of(tmp_path: Path, timeouts: str, warning: str) -> None:
    text = GOOD.replace("api_key: sk-1", f"api_key: sk-1, timeouts: {{{timeouts}}}")
    assert warnings(read(tmp_path, text).config, MANY) == [f"providers[0].timeouts.{warning}"]


def test_timeouts_that_are_off_are_no_reason_to_warn(tmp_path: Path) -> None:
    text = (
        GOOD.replace("api_key: sk-1", "api_key: sk-1, timeouts: {total: 0, response: 0, idle: 5h}")
        + "server: {request_timeout: 0}\n"
    )
    assert warnings(read(tmp_path, text).config, MANY) == []


@pytest.mark.parametrize("members", ["api_key: k", "api_key: k, headers: {x: y}", "api_key_file: KEY"])
def test_credentials_without_tls_are_warned_of(tmp_path: Path, members: str) -> None:
    file = tmp_path / "key"
    file.write_text("k", encoding="utf-8")
    text = GOOD.replace("api_key: sk-1", f"{members}, base_url: 'http://10.0.0.1/v1'").replace("KEY", str(file))
    assert warnings(read(tmp_path, text).config, MANY) == ["providers[0].base_url: credentials are sent without TLS"]
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
        .replace("  # rate:", "  rate:")
        .replace("  rate: []\n", "")
        .replace("  #   ", "    ")
    )
    found: set[str] = set()
    walk(yaml.safe_load(text), "", found)
    wanted = {path.removesuffix(".*").removesuffix("[]") for path in ALL_FIELDS}
    assert found == wanted


DOCUMENTED = EXAMPLE.parents[1] / "docs" / "configuration.md"


def test_the_documentation_leaves_no_setting_out_and_names_none_that_is_not_there() -> None:
    named = set(
        re.findall(
            r"^\| `([a-z0-9_.\[\]*]+)`(?:, `([a-z_.]+)`)? \|", DOCUMENTED.read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    known = {path.removesuffix(".*").removesuffix("[]") for path in ALL_FIELDS}
    known = {path for path in known if ".targets[].timeouts." not in path} | {"models[].targets[].timeouts.*"}
    assert {name for names in named for name in names if "." in name} == known


STRICT = EXAMPLE.parent / "strict.yaml"
SECRETS = {"OPENAI_API_KEY": "sk-1", "CLIENT_KEY_SHA256": DIGEST}


def test_the_strict_example_holds_the_limits_of_a_small_public_service() -> None:
    config = load(str(STRICT), SECRETS).config
    (provider,), limits = config.providers, config.limits
    assert (limits.max_connections, limits.max_connections_per_ip) == (500, 10)
    assert {(rule.by, rule.requests_per_minute, rule.burst) for rule in limits.rate} == {("ip", 20, 5), ("key", 20, 5)}
    assert (config.server.slow_client_timeout_s, config.server.drain_timeout_s) == (5.0, 30.0)
    timeouts = config.models[0].targets[0].timeouts
    assert (timeouts.first_token_s, timeouts.idle_s, timeouts.total_s) == (30.0, 15.0, 120.0)
    breaker = provider.breaker
    assert (breaker.failures, breaker.window_s, breaker.open_for_s, breaker.successes) == (5, 60.0, 30.0, 2)
    assert warnings(config, 1200) == [
        "the limit of 1200 open files leaves room for about 500 streams; raise it: ulimit -n 65536"
    ]
    assert warnings(config, MANY) == []


def test_the_strict_examples_limits_come_from_the_environment() -> None:
    given = {"MAX_CONNECTIONS": "50", "MAX_CONNECTIONS_PER_IP": "3", "RATE_LIMIT_RPM": "7"}
    config = load(str(STRICT), SECRETS | given).config
    assert (config.limits.max_connections, config.limits.max_connections_per_ip) == (50, 3)
    assert [rule.requests_per_minute for rule in config.limits.rate] == [7, 7]
    assert warnings(config, MANY) == []


def test_the_strict_example_serves_nobody_without_its_secrets() -> None:
    with pytest.raises(ConfigError) as caught:
        load(str(STRICT), {})
    assert [mistake.path for mistake in caught.value.mistakes] == ["auth.keys[0].sha256", "providers[0].api_key"]


def walk(node: object, path: str, found: set[str]) -> None:
    """Collect the paths of all that stands in a plain tree."""
    if isinstance(node, dict) and node:
        for name, inner in node.items():
            walk(inner, f"{path}.{name}".lstrip("."), found)
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        walk(node[0], f"{path}[]", found)
    else:
        found.add(path)
