from pathlib import Path

import pytest

from tidegate.config import ConfigError, Loaded, load, load_demo, proxy_of


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def routes(loaded: Loaded) -> list[tuple[str, str]]:
    return [(model.name, model.targets[0].provider) for model in loaded.config.models]


def test_without_any_variable_the_mock_is_served_and_told() -> None:
    loaded = load(None, {})
    assert routes(loaded) == [("mock", "mock")]
    assert [(provider.kind, provider.base_url) for provider in loaded.config.providers] == [("mock", "")]
    (note,) = loaded.notes
    assert note.startswith("no configuration file and no OPENAI_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY: ")
    assert note.endswith("the built-in mock provider serves the model mock")


def test_an_openai_key_brings_its_provider_and_models() -> None:
    loaded = load(None, {"OPENAI_API_KEY": "sk-9"})
    (provider,) = loaded.config.providers
    assert (provider.kind, provider.base_url, provider.api_key) == ("openai", "https://api.openai.com/v1", "sk-9")
    assert ("gpt-4o-mini", "openai") in routes(loaded)
    assert "sk-9" not in str(loaded.notes)
    assert "gpt-4o-mini" in loaded.notes[0]


def test_the_variables_say_which_address_and_models() -> None:
    environ = {"OPENAI_API_KEY": "sk-9", "OPENAI_BASE_URL": "https://example.com/v1/", "OPENAI_MODELS": "a, b,,"}
    loaded = load(None, environ)
    assert loaded.config.providers[0].base_url == "https://example.com/v1"
    assert routes(loaded) == [("a", "openai"), ("b", "openai")]


def test_an_address_without_a_key_is_not_used_and_that_is_told() -> None:
    loaded = load(None, {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_API_KEY": ""})
    assert routes(loaded) == [("mock", "mock")]
    assert loaded.notes[0] == "OPENAI_BASE_URL is not used, as OPENAI_API_KEY is not set"


def test_the_demo_serves_a_model_of_its_own_and_the_mock_beside_what_the_environment_names() -> None:
    loaded = load_demo({"OPENAI_API_KEY": "sk-9", "OPENAI_MODELS": "a"}, {"server.port": "9000"})
    assert routes(loaded) == [("a", "openai"), ("demo", "demo"), ("mock", "mock")]
    own = loaded.config.providers[1]
    assert (own.kind, own.local.handler) == ("local", "tidegate.demo.ngram:Model")
    assert loaded.notes[1] == "the built-in mock provider serves the model mock"
    assert loaded.config.server.port == 9000
    assert routes(load_demo({})) == [("demo", "demo"), ("mock", "mock")]


def test_each_provider_that_has_a_key_is_served_beside_the_others() -> None:
    loaded = load(None, {"GEMINI_API_KEY": "g-9", "ANTHROPIC_API_KEY": "sk-ant-9", "OPENAI_API_KEY": "sk-9"})
    assert [(provider.name, provider.kind, provider.base_url, provider.api_key) for provider in loaded.config.providers] == [
        ("openai", "openai", "https://api.openai.com/v1", "sk-9"),
        ("anthropic", "anthropic", "https://api.anthropic.com/v1", "sk-ant-9"),
        ("gemini", "gemini", "https://generativelanguage.googleapis.com/v1beta", "g-9"),
    ]  # fmt: skip
    assert {("claude-haiku-4-5", "anthropic"), ("anthropic/*", "anthropic"), ("gemini/*", "gemini")} <= set(
        routes(loaded)
    )
    assert [note.split(",")[0] for note in loaded.notes] == [
        f"no configuration file: {name}_API_KEY is set" for name in ("OPENAI", "ANTHROPIC", "GEMINI")
    ]
    assert "-9" not in str(loaded.notes)


@pytest.mark.parametrize("root", ["", "/", "/v1", "/v1/"])
def test_anthropic_s_address_is_the_one_that_its_own_client_takes(root: str) -> None:
    environ = {
        "ANTHROPIC_API_KEY": "k",
        "ANTHROPIC_BASE_URL": f"https://h.test{root}",
        "ANTHROPIC_MODELS": "a, anthropic/*",
    }
    loaded = load(None, environ)
    assert loaded.config.providers[0].base_url == "https://h.test/v1"
    assert routes(loaded) == [("a", "anthropic"), ("anthropic/*", "anthropic")]


def test_an_address_without_its_own_key_is_told_beside_another_provider() -> None:
    loaded = load(None, {"GEMINI_API_KEY": "k", "ANTHROPIC_BASE_URL": "https://h.test"})
    assert [provider.name for provider in loaded.config.providers] == ["gemini"]
    assert loaded.notes[0] == "ANTHROPIC_BASE_URL is not used, as ANTHROPIC_API_KEY is not set"


@pytest.mark.parametrize(
    ("variables", "mistake"),
    [
        ({"OPENAI_BASE_URL": "sk-9"}, "OPENAI_BASE_URL: providers[0].base_url: expected a URL"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:8080/v1"}, "OPENAI_BASE_URL: providers[0].base_url: this is the gateway's own"),
        ({"OPENAI_API_KEY": "sk-9\n"}, "OPENAI_API_KEY: providers[0].api_key: expected a key"),
        ({"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": "http://127.0.0.1:8080"},
         "ANTHROPIC_BASE_URL: providers[1].base_url: this is the gateway's own"),
        ({"OPENAI_MODELS": "a,a"}, "OPENAI_MODELS: models[1].name: this model name or alias is taken by models[0].name"),
    ],
)  # fmt: skip
def test_a_variable_that_is_wrong_is_told_by_its_name_and_not_by_its_value(
    variables: dict[str, str], mistake: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {"OPENAI_API_KEY": "sk-9", **variables})
    (found,) = caught.value.mistakes
    assert str(found).startswith(mistake)
    assert "sk-9" not in str(found)


def test_a_flag_is_checked_without_a_file_as_well() -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {"server.port": "x"})
    assert [mistake.file for mistake in caught.value.mistakes] == ["--port"]


PROXY = "http://u:p@proxy:3128"


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("https://api.example.com/v1", {}, ""),
        ("https://api.example.com/v1", {"HTTPS_PROXY": PROXY}, PROXY),
        ("https://api.example.com/v1", {"HTTPS_PROXY": "http://a:1", "https_proxy": PROXY}, PROXY),
        ("https://api.example.com/v1", {"HTTPS_PROXY": "proxy:3128"}, "http://proxy:3128"),
        ("http://api.example.com/v1", {"HTTPS_PROXY": PROXY}, ""),
        ("https://api.example.com/v1", {"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, ""),
        ("https://api.example.com/v1", {"HTTPS_PROXY": PROXY, "NO_PROXY": "x, EXAMPLE.com"}, ""),
        ("https://api.example.com/v1", {"HTTPS_PROXY": PROXY, "no_proxy": ".example.com"}, ""),
        ("https://api.example.com/v1", {"HTTPS_PROXY": PROXY, "no_proxy": "*.example.com"}, ""),
        ("https://api.example.com/v1", {"HTTPS_PROXY": PROXY, "no_proxy": "api.example.com:443"}, ""),
        ("https://api.example.com/v1", {"HTTPS_PROXY": PROXY, "no_proxy": "api.example.com:8443,,ample.com"}, PROXY),
        ("https://[::1]:9/v1", {"HTTPS_PROXY": PROXY, "no_proxy": "[::1]"}, ""),
    ],
)
def test_the_usual_variables_say_which_proxy_a_provider_is_reached_by(
    url: str, environ: dict[str, str], proxy: str
) -> None:
    assert proxy_of(url, environ) == proxy


@pytest.mark.parametrize(
    "value", ["socks5://secret@h", "http://", "http://secret@[::1", "http://h:0", "http://h:secret"]
)
def test_a_proxy_that_cannot_be_used_is_refused_without_its_credentials(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        proxy_of("https://example.com", {"HTTPS_PROXY": value})
    assert str(caught.value) == "HTTPS_PROXY: expected the URL of a proxy such as http://proxy.example.com:3128"
