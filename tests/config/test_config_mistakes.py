from pathlib import Path
from typing import get_args

import pytest
from config_files import DIGEST, GOOD, read, refused, told

from tidegate.config import ConfigError, Mistake, load
from tidegate.upstream.settings import KindName

UPPER = DIGEST.upper()
CANARY = "sk-canary-7f3a91"

# What is added to a good file of four lines, and the whole of what is said about it.
SECTIONS = [
    ("sever: {}", "5: sever: unknown key; did you mean 'server'?"),
    ("metrics: {}", "5: metrics: unknown key; known here: server, ops, auth, providers, models, limits, predictions, observe"),
    ("server: {prot: 1}", "5: server.prot: unknown key; did you mean 'port'?"),
    ("server:\n  tls:\n    cret: ''", "7: server.tls.cret: unknown key; did you mean 'cert'?"),
    ('"a b\\n": 1', "5: 'a b\\n': unknown key; known here: server, ops, auth, providers, models, limits, predictions, observe"),
    ("server: 5", "5: server: expected a mapping of settings, got a number"),
    ("server: []", "5: server: expected a mapping of settings, got a list"),
    ("server: {port: abc}", "5: server.port: expected a whole number that is not negative, got 'abc'"),
    ("server: {port: '80'}", "5: server.port: expected a whole number that is not negative, got '80'; leave out the quotes"),
    ("server: {port: -1}", "5: server.port: expected a whole number that is not negative, got '-1'"),
    ("server: {port: 1.5}", "5: server.port: expected a whole number that is not negative, got '1.5'"),
    ("server: {port: [1]}", "5: server.port: expected a whole number that is not negative, got a list"),
    ("server: {port: }", "5: server.port: expected a whole number that is not negative, got nothing"),
    ("server: {port: 65536}", "5: server.port: expected a port from 0 to 65535, got '65536'"),
    ("server: {host: 1}", "5: server.host: expected text, got a number; put it in quotes"),
    ("server: {host: no}", "5: server.host: expected text, got true or false; put it in quotes"),
    ("server: {host: 2024-07-18}", "5: server.host: expected text, got a date; put it in quotes"),
    ("server: {host: }", "5: server.host: expected text, got nothing"),
    ("server: {host: {}}", "5: server.host: expected text, got a mapping"),
    ("server: {host: ''}", "5: server.host: expected an address or a host name, got ''"),
    ("server: {host: 'http://x'}", "5: server.host: expected an address or a host name, got 'http://x'"),
    ("server: {keep_alive: 30}", "5: server.keep_alive: expected a duration such as 250ms, 30s, 5m or 1h, got '30'; add a unit, for example '30s'"),
    ("server: {keep_alive: -1s}", "5: server.keep_alive: expected a duration such as 250ms, 30s, 5m or 1h, not negative, got '-1s'"),
    ("server: {keep_alive: {}}", "5: server.keep_alive: expected a duration such as 250ms, 30s, 5m or 1h, got a mapping"),
    ("server: {max_body_bytes: 20mib}", "5: server.max_body_bytes: expected a size such as 512B, 64KiB, 20MiB or 1GiB, got '20mib'; did you mean '20MiB'?"),
    ("server: {max_body_bytes: -1B}", "5: server.max_body_bytes: expected a size such as 512B, 64KiB, 20MiB or 1GiB, not negative, got '-1B'"),
    ("server: {on_client_disconnect: finsh}", "5: server.on_client_disconnect: expected cancel or finish, got 'finsh'; did you mean 'finish'?"),
    ("server: {on_client_disconnect: []}", "5: server.on_client_disconnect: expected cancel or finish, got a list"),
    ("observe: {log: xml}", "5: observe.log: expected auto or json or text, got 'xml'"),
    ("server: {tls: {cert: /nowhere.pem, key: /nokey.pem}}",
     "5: server.tls.cert: there is no file '/nowhere.pem'\n5: server.tls.key: there is no file '/nokey.pem'"),
    ("server:\n  tls:\n    cert: /dev/../etc/passwd", "7: server.tls.key: required, as cert is set"),
    ("server:\n  tls:\n    key: /etc/passwd\n    cert: ''", "8: server.tls.cert: required, as key is set"),
    ("server: {request_timeout: 20}",
     "5: server.request_timeout: expected a duration such as 250ms, 30s, 5m or 1h, got '20'; add a unit, for example '20s'"),
    ("server: {trusted_proxies: 10.0.0.1}", "5: server.trusted_proxies: expected a list, got text"),
    ("server: {trusted_proxies: [10]}", "5: server.trusted_proxies[0]: expected text, got a number; put it in quotes"),
    ("server: {trusted_proxies: [10.0.0.1, 10.0.0.1/8]}",
     "5: server.trusted_proxies[1]: expected an address or a network such as 10.0.0.0/8, got '10.0.0.1/8'; did you mean '10.0.0.0/8'?"),
    ("server:\n  trusted_proxies:\n    - lb.internal\n    - ''\n    - 10.0.0.0/33",
     ("7: server.trusted_proxies[0]: expected an address or a network such as 10.0.0.0/8, got 'lb.internal'\n"
     "8: server.trusted_proxies[1]: expected an address or a network such as 10.0.0.0/8, got ''\n"
     "9: server.trusted_proxies[2]: expected an address or a network such as 10.0.0.0/8, got '10.0.0.0/33'")),
    ("limits: {max_conections: 1}", "5: limits.max_conections: unknown key; did you mean 'max_connections'?"),
    ("limits: {max_connections: -1}",
     "5: limits.max_connections: expected a whole number that is not negative, got '-1'"),
    ("limits: {max_buffered_bytes: 512}",
     "5: limits.max_buffered_bytes: expected a size such as 512B, 64KiB, 20MiB or 1GiB, got '512'; add a unit, for example '512B'"),
    ("limits: {rate: {by: ip}}", "5: limits.rate: expected a list, got a mapping"),
    ("limits: {rate: [{by: user, max_streams: 1}]}",
     "5: limits.rate[0].by: expected key or ip or model or tenant, got 'user'"),
    ("limits: {rate: [{max_streams: 1}]}", "5: limits.rate[0].by: required, but not there"),
    ("limits:\n  rate:\n  - {by: ip}",
     "7: limits.rate[0]: expected a limit: requests_per_minute, tokens_per_minute or max_streams"),
    ("limits:\n  rate:\n  - {by: ip, requests_per_minute: 0, burst: 5}",
     "7: limits.rate[0]: expected a limit: requests_per_minute, tokens_per_minute or max_streams"),
    ("limits:\n  rate:\n  - {by: ip, tokens_per_minute: 9, burst: 5}",
     "7: limits.rate[0].requests_per_minute: required, as burst is set"),
    ("limits:\n  rate:\n  - {by: ip, max_streams: 9}\n  - {by: ip, requests_per_minute: 5}\n  - {by: key, max_streams: 1}",
     "8: limits.rate[1].by: this kind of rule is taken by limits.rate[0].by on line 7"),
    ("limits: {rate: [{by: ip, requests_per_minute: '5'}]}",
     "5: limits.rate[0].requests_per_minute: expected a whole number that is not negative, got '5'; leave out the quotes"),
    ("ops: {listen: 9464}", "5: ops.listen: expected text, got a number; put it in quotes"),
    ("ops: {listen: localhost}", "5: ops.listen: expected host:port, or '' for none, got 'localhost'"),
    ("ops: {listen: 'x:70000'}", "5: ops.listen: expected host:port, or '' for none, got 'x:70000'"),
    ("ops: {listen: ':9464'}", "5: ops.listen: expected host:port, or '' for none, got ':9464'"),
    ("ops: {listen: '::1:9464'}", "5: ops.listen: expected host:port, or '' for none, got '::1:9464'"),
    ("ops: {listen: '127.0.0.1:8080'}", "5: ops.listen: the main port listens on 127.0.0.1:8080 already"),
    ("server: {port: 9464}", "5: ops.listen: the main port listens on 127.0.0.1:9464 already"),
    ("predictions: {webhooks: {secret: whsec_%%}}",
     "5: predictions.webhooks.secret: a webhook secret that begins with whsec_ goes on in base64"),
    ("predictions: {webhooks: {secret: whsec_}}", "5: predictions.webhooks.secret: a webhook secret is not empty"),
    ("auth: {mode: key}", "5: auth.mode: expected open or keys, got 'key'; did you mean 'keys'?"),
    ("auth: {mode: keys}", "5: auth.keys: expected at least one key, as auth.mode is keys"),
    ("auth:\n  keys:\n  - sha256: ''", "7: auth.keys[0].sha256: required, but empty\n7: auth.keys[0].id: required, but not there"),
    ("auth:\n  keys:\n  - {id: a, sha256: abc}", "7: auth.keys[0].sha256: expected the 64 hex digits that `tidegate keys hash` prints"),
    (f"auth:\n  keys:\n  - {{id: a, sha256: {DIGEST}}}\n  - {{id: b, sha256: {UPPER}}}",
     "8: auth.keys[1].sha256: this digest is taken by auth.keys[0].sha256 on line 7"),
    (f"auth:\n  keys:\n  - {{id: a, sha256: {DIGEST}}}\n  - {{id: a, sha256: {DIGEST[1:]}0}}",
     "8: auth.keys[1].id: this key id is taken by auth.keys[0].id on line 7"),
    (f"auth:\n  keys:\n  - {{id: ' a', sha256: {DIGEST}}}",
     "7: auth.keys[0].id: expected at most 200 printable characters without spaces around, got ' a'"),
]  # fmt: skip

# What replaces the one provider of a good file, and what is said about it.
PROVIDERS = [
    ("kind: opnai", f"3: providers[0].kind: expected {' or '.join(get_args(KindName))}, got 'opnai'; did you mean 'openai'?"),
    ("api_key: x", "2: providers[0].kind: required, but not there"),
    ("kind: openai", "2: providers[0].api_key: required for kind openai, unless base_url is on this machine"),
    ("kind: openai\n    base_url: http://10.0.0.1/v1\n    api_key: ''",
     "5: providers[0].api_key: required for kind openai, unless base_url is on this machine"),
    ("kind: mock\n    timeouts: {idel: 1s}", "4: providers[0].timeouts.idel: unknown key; did you mean 'idle'?"),
    ("kind: mock\n    timeouts: {idle: abc}",
     "4: providers[0].timeouts.idle: expected a duration such as 250ms, 30s, 5m or 1h, got 'abc'"),
    ("kind: mock\n    connections: {max: -1}",
     "4: providers[0].connections.max: expected a whole number that is not negative, got '-1'"),
    ("kind: mock\n    quota: {}",
     ("4: providers[0].quota: unknown key; known here: name, kind, base_url, auth, api_version, aws, api_key, api_key_file, ca_file, "
     "passthrough, headers, timeouts, connections, retry, retry_budget, slots, breaker, local")),
    ("kind: openai\n    api_key_file: /nowhere.key", "4: providers[0].api_key_file: there is no file '/nowhere.key'"),
    ("kind: mock\n    api_key_file: /etc/passwd",
     "4: providers[0].api_key_file: expected a file that holds a key of visible ASCII characters alone"),
    ("kind: mock\n    api_key_file: /dev/null", "4: providers[0].api_key_file: there is no file '/dev/null'"),
    ("kind: openai\n    api_key: ''\n    api_key_file: ''",
     "4: providers[0].api_key: required for kind openai, unless base_url is on this machine"),
    ("kind: mock\n    retry: {max_attemps: 2}", "4: providers[0].retry.max_attemps: unknown key; did you mean 'max_attempts'?"),
    ("kind: mock\n    retry: {max_attempts: 0}",
     "4: providers[0].retry.max_attempts: expected at least 1, the first attempt included; 1 is no retry"),
    ("kind: mock\n    retry: {initial_delay: 250}",
     "4: providers[0].retry.initial_delay: expected a duration such as 250ms, 30s, 5m or 1h, got '250'; add a unit, for example '250s' or '250ms'"),
    ("kind: mock\n    retry_budget: {ratio: '0.2'}",
     "4: providers[0].retry_budget.ratio: expected a number such as 0.2 or 5 that is not negative, got '0.2'; leave out the quotes"),
    ("kind: mock\n    retry_budget: {ratio: .2, burst: .inf, rate_per_second: -1}",
     ("4: providers[0].retry_budget.ratio: expected a number such as 0.2 or 5 that is not negative, got '.2'; did you mean '0.2'?\n"
     "4: providers[0].retry_budget.burst: expected a number such as 0.2 or 5 that is not negative, got '.inf'\n"
     "4: providers[0].retry_budget.rate_per_second: expected a number such as 0.2 or 5 that is not negative, got '-1'")),
    ("kind: mock\n    retry_budget: {ratio: 1e400, burst: , rate_per_second: []}",
     ("4: providers[0].retry_budget.ratio: expected a number such as 0.2 or 5 that is not negative, got '1e400'\n"
     "4: providers[0].retry_budget.burst: expected a number such as 0.2 or 5 that is not negative, got nothing\n"
     "4: providers[0].retry_budget.rate_per_second: expected a number such as 0.2 or 5 that is not negative, got a list")),
    ("kind: mock\n    slots: {max_streams: 1.5}",
     "4: providers[0].slots.max_streams: expected a whole number that is not negative, got '1.5'"),
    ("kind: mock\n    breaker: {ratio: 1.1}", "4: providers[0].breaker.ratio: expected a part of all calls, from 0 to 1, got '1.1'"),
    ("kind: mock\n    breaker: {probes: 0, successes: 0, open_for: 0}",
     ("4: providers[0].breaker.open_for: expected more than 0, as the breaker is on; failures: 0 and ratio: 0 switch the breaker off\n"
     "4: providers[0].breaker.probes: expected more than 0, as the breaker is on; failures: 0 and ratio: 0 switch the breaker off\n"
     "4: providers[0].breaker.successes: expected more than 0, as the breaker is on; failures: 0 and ratio: 0 switch the breaker off")),
    ("kind: mock\n    breaker: {failures: 0, window: 0, min_calls: 0}",
     ("4: providers[0].breaker.window: expected more than 0, as ratio is judged by it; ratio: 0 is off\n"
     "4: providers[0].breaker.min_calls: expected more than 0, as ratio is judged by it; ratio: 0 is off")),
    ("kind: mock\n    ca_file: /nowhere.pem", "4: providers[0].ca_file: there is no file '/nowhere.pem'"),
    ("kind: mock\n    api_key: 5", "4: providers[0].api_key: expected text, got a number; put it in quotes"),
    ('kind: mock\n    api_key: "a\\n"',
     "4: providers[0].api_key: expected a key of visible ASCII characters, found a space or line break at an end"),
    ('kind: mock\n    api_key: " "',
     "4: providers[0].api_key: expected a key of visible ASCII characters, found a space or line break at an end"),
    ('kind: mock\n    api_key: "a\\r\\nb"',
     "4: providers[0].api_key: expected a key of visible ASCII characters, found a character that a header cannot carry"),
    ("kind: mock\n    headers: []", "4: providers[0].headers: expected a mapping, got a list"),
    ("kind: mock\n    headers: {x: 1}", "4: providers[0].headers.x: expected text, got a number; put it in quotes"),
    ("kind: mock\n    headers:\n      Host: x", "5: providers[0].headers.Host: this header is set by the gateway alone"),
    ("kind: mock\n    headers:\n      Content-Length: '1'",
     "5: providers[0].headers.Content-Length: this header is set by the gateway alone"),
    ("kind: mock\n    headers:\n      Keep-Alive: x", "5: providers[0].headers.Keep-Alive: this header is set by the gateway alone"),
    ("kind: mock\n    headers:\n      'x y': a", "5: providers[0].headers.'x y': expected the name of a header"),
    ("kind: mock\n    headers:\n      X-A: a\n      x-a: b",
     "6: providers[0].headers.x-a: this header is there in another spelling already"),
    ('kind: mock\n    headers:\n      x-a: "a\\r\\nb: c"',
     "5: providers[0].headers.x-a: expected printable ASCII, found a line break or another character that a header cannot carry"),
    ("kind: mock\n    headers:\n      x-a: é",
     "5: providers[0].headers.x-a: expected printable ASCII, found a line break or another character that a header cannot carry"),
    ("kind: mock\n    base_url: ftp://h", "4: providers[0].base_url: URL, beginning with http:// or https://"),
    ("kind: mock\n    base_url: example.com/v1", "4: providers[0].base_url: URL, with a host and no spaces"),
    ("kind: mock\n    base_url: https://", "4: providers[0].base_url: URL, with a host and no spaces"),
    ("kind: mock\n    base_url: https://a b", "4: providers[0].base_url: URL, with a host and no spaces"),
    ("kind: mock\n    base_url: https://a:0", "4: providers[0].base_url: URL, with a host and no spaces"),
    ("kind: mock\n    base_url: https://a:x", "4: providers[0].base_url: URL, with a valid host and port"),
    ("kind: mock\n    base_url: 'https://[::1'", "4: providers[0].base_url: URL, with a valid host and port"),
    ("kind: mock\n    base_url: https://u:p@h", "4: providers[0].base_url: URL, without credentials: they belong in api_key"),
    ("kind: mock\n    base_url: https://h/?a=b", "4: providers[0].base_url: URL, without query or fragment"),
    ("kind: mock\n    base_url: https://h/#a", "4: providers[0].base_url: URL, without query or fragment"),
    ("kind: mock\n    base_url: https://h/v1/chat/completions/",
     "4: providers[0].base_url: URL, without /chat/completions: that is added for each request"),
    ("kind: mock\n    base_url: http://localhost:8080/v1",
     "4: providers[0].base_url: this is the gateway's own address; expected the provider's"),
    ("kind: mock\n  - {name: main, kind: mock}",
     "4: providers[1].name: this provider's name is taken by providers[0].name on line 2"),
]  # fmt: skip

# What replaces the one model of a good file, and what is said about it.
MODELS = [
    ("name: ''\n    targets: [{provider: main}]", "4: models[0].name: required, but empty"),
    ("name: m", "4: models[0].targets: required, but not there"),
    ("name: m\n    targets: []", "5: models[0].targets: expected at least one target"),
    ("name: m\n    targets:", "5: models[0].targets: required, but empty"),
    ("name: m\n    targets: [{provider: main}, {provider: main}]",
     "5: models[0].targets[1]: the same provider and model as models[0].targets[0] on line 5"),
    ("name: m\n    targets:\n    - {provider: main, weight: 2}\n    - {provider: main, model: n}\n    - {provider: main, model: m}",
     "8: models[0].targets[2]: the same provider and model as models[0].targets[0] on line 6"),
    ("name: m/*\n    targets: [{provider: main}, {provider: main, model: '*'}]",
     "5: models[0].targets[1]: the same provider and model as models[0].targets[0] on line 5"),
    ("name: m\n    balance: random\n    targets: [{provider: main}]",
     "5: models[0].balance: expected round_robin or weighted or least_in_flight or p2c_ewma or sticky, got 'random'"),
    ("name: m\n    balance: stiky\n    targets: [{provider: main}]",
     "5: models[0].balance: expected round_robin or weighted or least_in_flight or p2c_ewma or sticky, got 'stiky'; did you mean 'sticky'?"),
    ("name: m\n    sticky_by: ''\n    targets: [{provider: main}]",
     "5: models[0].sticky_by: expected user or the name of a header, got ''"),
    ("name: m\n    sticky_by: 'x y'\n    targets: [{provider: main}]",
     "5: models[0].sticky_by: expected user or the name of a header, got 'x y'"),
    ("name: m\n    sticky_by: Authorization\n    targets: [{provider: main}]",
     "5: models[0].sticky_by: expected a header that carries no credential"),
    ("name: m\n    hedge: {after: 1s}\n    targets: [{provider: main}]",
     "5: models[0].hedge.after: expected a second target to hedge with, there is but one"),
    ("name: m\n    hedge: {after: 800}\n    targets: [{provider: main}]",
     "5: models[0].hedge.after: expected a duration such as 250ms, 30s, 5m or 1h, got '800'; add a unit, for example '800s' or '800ms'"),
    ("name: m\n    targets: [{provider: main, weight: 0}]",
     "5: models[0].targets[0].weight: expected a weight above 0 for one target of priority 0 at least"),
    (("name: m\n    targets:\n    - {provider: main}\n    - {provider: main, model: b, priority: 1, weight: 0}\n"
     "    - {provider: main, model: c, priority: 1, weight: 0}\n    - {provider: main, model: d, weight: 0}"),
     "7: models[0].targets[1].weight: expected a weight above 0 for one target of priority 1 at least"),
    ("name: m\n    targets: [{provider: main, timeouts: {idel: 1s, total: 5}}]",
     ("5: models[0].targets[0].timeouts.idel: unknown key; did you mean 'idle'?\n"
     "5: models[0].targets[0].timeouts.total: expected a duration such as 250ms, 30s, 5m or 1h, got '5'; add a unit, for example '5s'")),
    *((f"name: '{name}'\n    targets: [{{provider: main}}]",
       f"4: models[0].name: expected '*' only at the end and after a slash, such as openai/*, got '{name}'")
      for name in ("*", "/*", "gpt-*", "*/gpt", "a/*/b", "a/**", "a/*/*")),
    ("name: a/*\n    aliases: [b]\n    targets: [{provider: main, model: c}, {provider: main}]",
     "5: models[0].aliases[0]: no rest of a name comes with an alias, and a target wants one for its '*'"),
    ("name: m\n    hedge: {after: 1s}\n    targets: [{provider: main}, {provider: main, model: b, weight: 0}]",
     "5: models[0].hedge.after: expected a second target to hedge with, there is but one"),
    ("name: a/*\n    aliases: ['b/*']\n    targets: [{provider: main}]",
     "5: models[0].aliases[0]: expected an alias without '*', got 'b/*'"),
    ("name: m\n    targets: [{provider: main, model: 'x/*'}]",
     "5: models[0].targets[0].model: '*' stands for the rest of a name, and the name 'm' has none"),
    ("name: a/*\n    targets: [{provider: main, model: '*-*'}]",
     "5: models[0].targets[0].model: expected '*' once: it stands for the whole rest of the name"),
    ("name: m\n    targets: {provider: main}", "5: models[0].targets: expected a list, got a mapping"),
    ("name: m\n    targets: main", "5: models[0].targets: expected a list, got text"),
    ("name: m\n    targets: [main]", "5: models[0].targets[0]: expected a mapping of settings, got text"),
    ("name: m\n    targets: [{provider: mian}]",
     "5: models[0].targets[0].provider: no provider has the name 'mian'; did you mean 'main'?"),
    ("name: m\n    targets: [{provider: ''}]", "5: models[0].targets[0].provider: required, but empty"),
    ("name: m\n    aliases: [m]\n    targets: [{provider: main}]",
     "5: models[0].aliases[0]: this model name or alias is taken by models[0].name on line 4"),
    ("name: m\n    aliases: [a, '']\n    targets: [{provider: main}]", "5: models[0].aliases[1]: expected a name, got ''"),
    ("name: m\n    aliases: [n]\n    targets: [{provider: main}]\n  - {name: n, targets: [{provider: main}]}",
     "7: models[1].name: this model name or alias is taken by models[0].aliases[0] on line 5"),
    ("name: m\n    targets: [{provider: main}]\n  - {name: m, targets: [{provider: main}]}",
     "6: models[1].name: this model name or alias is taken by models[0].name on line 4"),
]  # fmt: skip


def said(expected: str) -> list[str]:
    lines = expected.replace("base_url: URL", "base_url: expected a URL such as https://api.example.com/v1").split("\n")
    return [f"tidegate.yaml:{line}" for line in lines]


@pytest.mark.parametrize(("section", "expected"), SECTIONS)
def test_a_mistake_in_a_section_is_told_with_line_and_path(tmp_path: Path, section: str, expected: str) -> None:
    assert told(tmp_path, refused(tmp_path, f"{GOOD}{section}\n")) == said(expected)


@pytest.mark.parametrize(("members", "expected"), PROVIDERS)
def test_a_mistake_in_a_provider_is_told_with_line_and_path(tmp_path: Path, members: str, expected: str) -> None:
    text = f"providers:\n  - name: main\n    {members}\nmodels: [{{name: m, targets: [{{provider: main}}]}}]\n"
    assert told(tmp_path, refused(tmp_path, text)) == said(expected)


@pytest.mark.parametrize(("members", "expected"), MODELS)
def test_a_mistake_in_a_model_is_told_with_line_and_path(tmp_path: Path, members: str, expected: str) -> None:
    text = f"providers:\n  - {{name: main, kind: mock}}\nmodels:\n  - {members}\n"
    assert told(tmp_path, refused(tmp_path, text)) == said(expected)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("[]", ["1: expected a mapping of settings, got a list"]),
        ("just text", ["1: expected a mapping of settings, got text"]),
        ("null", ["1: providers: expected at least one provider", "1: models: expected at least one model"]),
        ("server: {}", ["1: providers: expected at least one provider", "1: models: expected at least one model"]),
        ("providers: []\nmodels:", ["1: providers: expected at least one provider", "2: models: expected at least one model"]),
        ("providers: 1\nmodels: []", ["1: providers: expected a list, got a number", "2: models: expected at least one model"]),
    ],
)  # fmt: skip
def test_a_file_that_can_answer_nothing_is_refused(tmp_path: Path, text: str, lines: list[str]) -> None:
    assert told(tmp_path, refused(tmp_path, text)) == [f"tidegate.yaml:{line}" for line in lines]


def test_all_mistakes_are_told_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    text = """
        server:
          port: abc
          prot: 1
          max_body_bytes: 20
        providers:
          - name: main
            kind: openai
            api_key: ${MISSING}
            timeouts: {idle: 30, total: soon}
            retry: {max_attempts: 0}
            retry_budget: {ratio: half}
            breaker: {ratio: 2, probes: 0}
          - {name: main, kind: mock}
        models:
          - {name: a, targets: [{provider: other}]}
          - {name: a, targets: []}
          - {name: b/*, sticky_by: cookie, hedge: {after: 1s}, targets: [{provider: main, weight: 0, model: '**'}]}
        limits: {max_connections: many, rate: [{by: ip}]}
        observe: {log: loud}
        """
    mistakes = refused(tmp_path, text)
    assert [(mistake.line, mistake.path) for mistake in mistakes] == [
        (3, "server.port"),
        (4, "server.prot"),
        (5, "server.max_body_bytes"),
        (9, "providers[0].api_key"),
        (10, "providers[0].timeouts.idle"),
        (10, "providers[0].timeouts.total"),
        (11, "providers[0].retry.max_attempts"),
        (12, "providers[0].retry_budget.ratio"),
        (13, "providers[0].breaker.ratio"),
        (13, "providers[0].breaker.probes"),
        (14, "providers[1].name"),
        (16, "models[0].targets[0].provider"),
        (17, "models[1].name"),
        (17, "models[1].targets"),
        (18, "models[2].sticky_by"),
        (18, "models[2].targets[0].model"),
        (18, "models[2].targets[0].weight"),
        (18, "models[2].hedge.after"),
        (19, "limits.max_connections"),
        (19, "limits.rate[0]"),
        (20, "observe.log"),
    ]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("{name: '${NO}', targets: [{provider: main}, {provider: main, model: 'x-*'}]}", "name"),
        ("{name: m, targets: [{provider: main}, 5], hedge: {after: 1s}}", "targets[1]"),
        ("{name: m, targets: 5, hedge: {after: 1s}}", "targets"),
        ("{name: m, targets: [{provider: main, model: 5}, {provider: main, model: 6}]}", "targets[0].model targets[1].model"),
        ("{name: m, targets: [{provider: [], weight: 1}, {provider: [], weight: x}]}",
         "targets[0].provider targets[1].provider targets[1].weight"),
        ("{name: m, targets: [{provider: main, weight: 0}, {provider: main, model: n, priority: x}]}", "targets[1].priority"),
        ("{name: m, targets: [{provider: main}], hedge: 5, sticky_by: 5, balance: 5, aliases: [5]}",
         "hedge sticky_by balance aliases[0]"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_model_brings_no_others_about(tmp_path: Path, model: str, path: str) -> None:
    text = f"providers: [{{name: main, kind: mock}}]\nmodels: [{model}]\n"
    assert {mistake.path for mistake in refused(tmp_path, text)} == {f"models[0].{name}" for name in path.split()}


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ("breaker: 5, retry: 5, slots: [], retry_budget: x", "breaker retry slots retry_budget"),
        ("breaker: {failures: 0, ratio: x}", "breaker.ratio"),
        ("breaker: {probes: x}, retry: {max_attempts: x}", "breaker.probes retry.max_attempts"),
        ("api_key: 5, api_key_file: /nowhere", "api_key api_key_file"),
        ("api_key_file: 5, kind: openai", "api_key_file"),
    ],
)
def test_a_mistake_in_a_provider_brings_no_others_about(tmp_path: Path, members: str, path: str) -> None:
    kind = "" if "kind" in members else ", kind: mock"
    text = f"providers: [{{name: main{kind}, {members}}}]\nmodels: [{{name: m, targets: [{{provider: main}}]}}]\n"
    assert {mistake.path for mistake in refused(tmp_path, text)} == {f"providers[0].{name}" for name in path.split()}


def test_a_mistake_in_a_rate_brings_no_others_about(tmp_path: Path) -> None:
    rules = "{by: ip, requests_per_minute: x, burst: 5}, {by: [], max_streams: 1}, {by: '', max_streams: 1}, 5"
    mistakes = refused(tmp_path, f"{GOOD}limits: {{rate: [{rules}]}}\n")
    assert [mistake.path for mistake in mistakes] == [
        "limits.rate[0].requests_per_minute", "limits.rate[1].by", "limits.rate[2].by", "limits.rate[3]",
    ]  # fmt: skip


def test_a_key_and_a_file_for_it_are_one_too_many(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(CANARY, encoding="utf-8")
    text = GOOD.replace("sk-1", f"sk-1, api_key_file: {file}")
    assert told(tmp_path, refused(tmp_path, text)) == [
        "tidegate.yaml:2: providers[0].api_key_file: api_key is set as well; expected one of the two"
    ]


@pytest.mark.parametrize("content", ["", "\n", f"{CANARY} and more", f"{CANARY}\n{CANARY}", f"é{CANARY}"])
def test_a_key_file_that_holds_no_key_is_refused_and_what_it_holds_is_not_repeated(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "key"
    file.write_text(content, encoding="utf-8")
    (mistake,) = refused(tmp_path, GOOD.replace("api_key: sk-1", f"api_key_file: {file}"))
    assert mistake.path == "providers[0].api_key_file"
    assert mistake.problem == "expected a file that holds a key of visible ASCII characters alone"
    assert "canary" not in str(mistake)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that fails when it is read")
def test_a_key_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (mistake,) = refused(tmp_path, GOOD.replace("api_key: sk-1", "api_key_file: /proc/self/mem"))
    assert mistake.problem == "the file cannot be read: Input/output error"


def test_a_breaker_that_is_off_may_say_anything_else(tmp_path: Path) -> None:
    off = "sk-1, breaker: {failures: 0, ratio: 0, probes: 0, successes: 0, open_for: 0, window: 0, min_calls: 0}"
    assert read(tmp_path, GOOD.replace("sk-1", off)).config.providers[0].breaker.probes == 0
    in_a_row = "sk-1, breaker: {ratio: 0, window: 0, min_calls: 0}"
    assert read(tmp_path, GOOD.replace("sk-1", in_a_row)).config.providers[0].breaker.failures == 5


def test_a_network_from_a_variable_is_not_repeated(tmp_path: Path) -> None:
    (mistake,) = refused(tmp_path, GOOD + "server: {trusted_proxies: ['${NET}']}\n", {"NET": "10.86.42.1/8"})
    assert "10.86" not in str(mistake)
    assert "10.0.0.0/8'?" not in str(mistake)


def test_a_provider_whose_name_is_in_doubt_is_not_reported_missing(tmp_path: Path) -> None:
    text = GOOD.replace("name: main", "name: '${NAME}'")
    assert [mistake.path for mistake in refused(tmp_path, text)] == ["providers[0].name"]


def test_a_mistake_in_one_member_does_not_make_the_members_that_need_it_wrong(tmp_path: Path) -> None:
    text = """
        server: {port: x, tls: {cert: 1, key: /etc/passwd}}
        ops: {listen: []}
        auth: {mode: keys, keys: 5}
        providers:
          - {name: main, kind: openai, base_url: 5}
        models:
          - {name: m, targets: [{provider: main}]}
        """
    paths = [mistake.path for mistake in refused(tmp_path, text)]
    assert paths == ["server.port", "server.tls.cert", "ops.listen", "auth.keys", "providers[0].base_url"]
    text = text.replace("port: x", "port: 81").replace("base_url: 5", "base_url: 'x:'")
    assert "ops.listen" in [mistake.path for mistake in refused(tmp_path, text)]


@pytest.mark.parametrize("host", ["0.0.0.0", "'::'", "localhost", "127.0.0.1"])
def test_a_provider_that_is_the_gateway_itself_is_refused_by_any_of_its_names(tmp_path: Path, host: str) -> None:
    text = GOOD.replace("api_key: sk-1", "base_url: 'http://127.0.0.1/v1'") + f"server: {{host: {host}, port: 80}}\n"
    assert [mistake.path for mistake in refused(tmp_path, text)] == ["providers[0].base_url"]


def test_a_flag_that_is_wrong_is_told_by_its_own_name_after_the_lines_of_the_file(tmp_path: Path) -> None:
    flags = {"server.port": "90000", "server.drain_timeout": "5", "ops.listen": "here", "server.prot": "1"}
    assert told(tmp_path, refused(tmp_path, GOOD + "x: 1\n", overrides=flags))[1:] == [
        "--drain-timeout: server.drain_timeout: expected a duration such as 250ms, 30s, 5m or 1h, got '5'; add a unit, for example '5s'",
        "--prot: server.prot: unknown key; did you mean 'port'?",
        "--port: server.port: expected a port from 0 to 65535, got '90000'",
        "--ops-listen: ops.listen: expected host:port, or '' for none, got 'here'",
    ]  # fmt: skip


def test_a_flag_does_not_hide_a_section_that_is_wrong(tmp_path: Path) -> None:
    mistakes = refused(tmp_path, GOOD + "server: 5\n", overrides={"server.port": "9000"})
    assert told(tmp_path, mistakes) == ["tidegate.yaml:5: server: expected a mapping of settings, got a number"]


def test_a_mistake_reads_as_file_line_path_problem_and_hint() -> None:
    assert (
        str(Mistake("a.yaml", 14, "x[1].y", "bad", "did you mean 'z'?")) == "a.yaml:14: x[1].y: bad; did you mean 'z'?"
    )
    assert str(Mistake("a.yaml", 0, "", "bad")) == "a.yaml: bad"
    error = ConfigError([Mistake("a.yaml", 1, "x", "bad"), Mistake("a.yaml", 2, "y", "worse")])
    assert str(error) == "a.yaml:1: x: bad\na.yaml:2: y: worse"


@pytest.mark.parametrize(
    "text",
    [
        "providers: [{name: a, kind: mock, api_key: sk-canary-7f3a91 }, 5]",
        "providers: [{name: a, kind: mock, api_key: [sk-canary-7f3a91]}]",
        "providers: [{name: a, kind: mock, api_key: !x sk-canary-7f3a91}]",
        "providers: [{name: a, kind: mock, api_key: *sk-canary-7f3a91}]",
        "providers: [{name: a, kind: mock, api_key: !sk-canary-7f3a91!x y}]",
        "providers: [{name: a, kind: mock, api_key: 'sk-canary-7f3a91\n",
        "api_key: sk-canary-7f3a91: x",
        "&sk-canary-7f3a91 a: 1\n&sk-canary-7f3a91 b: 1",
        'providers: [{name: a, kind: mock, api_key: "sk-canary-7f3a91\\n"}]',
        'providers: [{name: a, kind: mock, headers: {x: "sk-canary-7f3a91\\n"}}]',
        "providers: [{name: a, kind: mock, headers: {host: sk-canary-7f3a91}}]",
        "providers: [{name: a, kind: mock, base_url: 'https://u:sk-canary-7f3a91@h'}]",
        "providers: [{name: a, kind: mock, base_url: 'https://u:sk-canary-7f3a91@h:x'}]",
        "providers: [{name: a, kind: mock, base_url: 'https://h?key=sk-canary-7f3a91'}]",
        "providers: [{name: a, kind: '${KEY}', base_url: '${KEY}', ca_file: '${KEY}', connections: {max: '${KEY}'}}]",
        "models: [{name: ' ${KEY}', aliases: [' ${KEY}'], targets: [{provider: '${KEY}'}]}]",
        "server: {host: '${KEY} ', port: '${KEY}', keep_alive: '${KEY}', max_body_bytes: '${KEY}', tls: {cert: '${KEY}'}}",
        "server: '${KEY}'\nops: {listen: '${KEY}'}\nobserve: {log: '${KEY}'}",
        "auth: {mode: keys, keys: [{id: a, sha256: sk-canary-7f3a91}, {id: b, sha256: sk-canary-7f3a91}]}",
        "predictions: {webhooks: {secret: whsec_sk-canary-7f3a91}}",
        "predictions: {webhooks: {secret: '${KEY}\n', token: ' ${KEY}'}}",
        "predictions: {webhooks: {token: 'é${KEY}', timeout: '${KEY}'}}",
        "providers: [{name: a, kind: mock, apikey: sk-canary-7f3a91, api_key: '${sk-canary-7f3a91}'}]",
    ],
)
def test_no_mistake_repeats_a_secret(tmp_path: Path, text: str) -> None:
    mistakes = refused(tmp_path, text, {"KEY": CANARY})
    assert mistakes
    for mistake in mistakes:
        assert "canary" not in str(mistake)


SPACED = "expected a webhook secret of printable characters without spaces or line breaks around"
EMPTIED = "the environment variable is empty; set it, or leave this setting out"
MISSING = "the environment variable HOOK is not set; set it, or give a default: ${HOOK:-...}"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("secret", None, MISSING),
        ("secret", "", EMPTIED),
        ("secret", " ", SPACED),
        ("secret", "hush\n", SPACED),
        ("secret", "whsec_c2FtcGxl\n", SPACED),
        ("secret", "hu\0sh", SPACED),
        ("secret", "whsec_%%", "a webhook secret that begins with whsec_ goes on in base64"),
        ("token", None, MISSING),
        ("token", "", EMPTIED),
        ("token", "hush\n", "expected a key of visible ASCII characters, found a space or line break at an end"),
        ("token", "hu sh", "expected a key of visible ASCII characters, found a character that a header cannot carry"),
    ],
)
def test_an_odd_variable_of_a_webhooks_secret_is_named_before_any_is_sent(
    tmp_path: Path, name: str, value: str | None, why: str
) -> None:
    text = GOOD + f"predictions: {{webhooks: {{{name}: '${{HOOK}}'}}}}\n"
    lines = told(tmp_path, refused(tmp_path, text, {} if value is None else {"HOOK": value}))
    assert lines == [f"tidegate.yaml:5: predictions.webhooks.{name}: {why}"]


@pytest.mark.parametrize("name", ["secret", "token"])
def test_a_default_may_say_that_webhooks_bear_no_secret(tmp_path: Path, name: str) -> None:
    text = GOOD + f"predictions: {{webhooks: {{{name}: '${{HOOK:-}}'}}}}\n"
    assert getattr(read(tmp_path, text, {"HOOK": ""}).config.predictions.webhooks, name) == ""
    assert getattr(read(tmp_path, text, {"HOOK": "hush"}).config.predictions.webhooks, name) == "hush"


def test_a_number_from_a_variable_is_not_repeated_either(tmp_path: Path) -> None:
    text = GOOD + "server: {port: '${PIN}', keep_alive: '${PIN}'}\nops: {listen: '${PIN}'}\n"
    mistakes = refused(tmp_path, text, {"PIN": "86420975"})
    assert len(mistakes) == 3
    assert not [mistake for mistake in mistakes if "86420975" in str(mistake)]


def test_the_error_and_the_settings_show_no_secret_when_printed(tmp_path: Path) -> None:
    file = tmp_path / "tidegate.yaml"
    file.write_text(GOOD.replace("sk-1", CANARY).replace("kind:", f"headers: {{x: {CANARY}}}, kind:"), encoding="utf-8")
    loaded = load(str(file), {})
    assert loaded.config.providers[0].api_key == CANARY
    assert "canary" not in f"{loaded!r} {loaded}"
