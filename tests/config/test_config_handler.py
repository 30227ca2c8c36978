"""One handler without a file: what the command line and Cog's variables come to."""

from pathlib import Path

import pytest

from tidegate.config import ConfigError, load_handler


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("model.py", "deep/predict.py"):
        (tmp_path / name).write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("model.py:Model", "model"),
        ("model.py", "model"),
        ("deep/predict.py:Runner", "predict"),
        ("./deep/predict.py", "predict"),
        ("package.module:Name", "module"),
        ("package.module", "module"),
        ("module", "module"),
    ],
)
def test_a_handler_is_one_model_called_as_its_file_or_module(reference: str, name: str) -> None:
    loaded = load_handler(reference, 3, {})
    (provider,), (model,) = loaded.config.providers, loaded.config.models
    assert (provider.name, provider.kind, provider.local.handler, provider.local.workers) == (
        name,
        "local",
        reference,
        3,
    )
    assert (model.name, [target.provider for target in model.targets]) == (name, [name])
    assert loaded.config.predictions.shutdown
    assert loaded.source == "--predict"


def test_each_variable_of_cog_is_the_setting_that_is_the_same() -> None:
    environ = {
        "PORT": "5001",
        "COG_SETUP_TIMEOUT": "90",
        "COG_STREAM_HISTORY_CAPACITY": "7",
        "COG_THROTTLE_RESPONSE_INTERVAL": "0.25",
        "WEBHOOK_AUTH_TOKEN": "hook-token",
    }
    config = load_handler("model.py", 1, environ).config
    assert config.server.port == 5001
    assert config.providers[0].local.setup_timeout_s == 90.0
    assert (config.predictions.history.mode, config.predictions.history.max_events) == ("keep", 7)
    assert config.predictions.webhooks.interval_s == 0.25
    assert config.predictions.webhooks.token == "hook-token"


def test_a_variable_that_is_empty_is_as_none() -> None:
    plain = load_handler("model.py", 1, {}).config
    assert load_handler("model.py", 1, {"PORT": "", "COG_SETUP_TIMEOUT": ""}).config == plain


def test_a_history_of_nothing_keeps_nothing_for_who_comes_late_and_leaves_room_for_slow_readers() -> None:
    plain = load_handler("model.py", 1, {}).config.predictions.history
    history = load_handler("model.py", 1, {"COG_STREAM_HISTORY_CAPACITY": "0"}).config.predictions.history
    assert (history.mode, history.max_events) == ("none", plain.max_events)


def test_a_flag_wins_over_a_variable() -> None:
    assert load_handler("model.py", 1, {"PORT": "5001"}, {"server.port": "5002"}).config.server.port == 5002


@pytest.mark.parametrize(
    ("reference", "environ", "told"),
    [
        ("nowhere.py:Model", {}, "--predict: providers[0].local.handler: there is no file 'nowhere.py'"),
        (
            "model.py:no name",
            {},
            "--predict: providers[0].local.handler: expected model.py:Name or package.module:Name",
        ),
        ("", {}, "--predict: providers[0].local.handler: required for kind local"),
        ("model.py", {"PORT": "many"}, "PORT"),
        ("model.py", {"COG_SETUP_TIMEOUT": "soon"}, "COG_SETUP_TIMEOUT"),
        ("model.py", {"COG_STREAM_HISTORY_CAPACITY": "-1"}, "COG_STREAM_HISTORY_CAPACITY"),
        ("model.py", {"COG_THROTTLE_RESPONSE_INTERVAL": "x"}, "COG_THROTTLE_RESPONSE_INTERVAL"),
    ],
)
def test_a_mistake_names_the_flag_or_the_variable(reference: str, environ: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_handler(reference, 1, environ)
    (mistake,) = caught.value.mistakes
    assert told in str(mistake)


def test_a_token_is_in_no_mistake() -> None:
    with pytest.raises(ConfigError) as caught:
        load_handler("nowhere.py", 1, {"WEBHOOK_AUTH_TOKEN": "hook-canary"})
    assert "canary" not in str(caught.value)
