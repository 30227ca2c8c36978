"""One handler without a file: what the command line and Cog's variables come to."""

from pathlib import Path

import pytest

from tidegate.config import ConfigError, lines, load, load_handler


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("model.py", "deep/predict.py"):
        (tmp_path / name).write_text("class Model: ...\nclass Runner: ...\n", encoding="utf-8")
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


def test_its_port_is_cogs_unless_somebody_says_another() -> None:
    assert load_handler("model.py", 1, {}).config.server.port == 5000
    assert load_handler("model.py", 1, {"PORT": "5001"}).config.server.port == 5001
    assert load_handler("model.py", 1, {"PORT": "5001"}, {"server.port": "0"}).config.server.port == 0


@pytest.mark.parametrize(
    ("overrides", "delay_s"),
    [
        ({}, 0.0),
        ({"server.host": "127.0.0.1"}, 0.0),
        ({"server.host": "::1"}, 0.0),
        ({"server.host": "localhost"}, 0.0),
        ({"server.host": "0.0.0.0"}, 5.0),
        ({"server.host": "example.com"}, 5.0),
    ],
)
def test_it_stops_accepting_at_once_where_no_balancer_has_to_notice(overrides: dict[str, str], delay_s: float) -> None:
    assert load_handler("model.py", 1, {}, overrides).config.server.drain_delay_s == delay_s


@pytest.mark.parametrize("allowed", [False, True])
def test_files_and_webhooks_may_be_on_private_addresses_where_that_is_said(*, allowed: bool) -> None:
    predictions = load_handler("model.py", 1, {}, allow_private=allowed).config.predictions
    assert (predictions.files.allow_private, predictions.webhooks.allow_private) == (allowed, allowed)


def test_metrics_may_be_elsewhere_where_nobody_has_said_where_they_are() -> None:
    assert load_handler("model.py", 1, {}).ops_moves
    assert not load_handler("model.py", 1, {}, {"ops.listen": "127.0.0.1:9464"}).ops_moves


@pytest.mark.parametrize("reference", ["model.py:Model", "model.py", "deep/odd ${X} mödel.py:Model"])
@pytest.mark.parametrize(("workers", "allowed"), [(1, False), (3, True)])
def test_the_lines_of_a_file_stand_for_the_flags(reference: str, workers: int, *, allowed: bool) -> None:
    Path("deep/odd ${X} mödel.py").write_text("class Model: ...\n", encoding="utf-8")
    Path("shown.yaml").write_text(lines(reference, workers, allow_private=allowed), encoding="utf-8")
    shown = load("shown.yaml", {}).config
    meant = load_handler(reference, workers, {}, allow_private=allowed).config
    assert (shown.providers, shown.models, shown.predictions) == (meant.providers, meant.models, meant.predictions)
    assert (shown.server.host, shown.server.port) == (meant.server.host, meant.server.port)
