import hashlib
import json
from pathlib import Path

import pytest
import yaml

from processes import PLAIN, tidegate, write_config
from tidegate import __version__

COMMANDS = ("serve", "demo", "mock", "explain", "check", "keys", "keys hash", "bench", "version")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_of_every_command_shows_an_example_that_begins_with_its_name(command: str) -> None:
    done = tidegate(*command.split(), "--help")
    assert done.returncode == 0
    assert f"Example:  tidegate {command}".rstrip() in done.stdout


def test_the_help_of_serve_shows_how_a_model_of_one_s_own_is_served() -> None:
    assert "Example:  tidegate serve --predict model.py:Model --port 5000" in tidegate("serve", "--help").stdout


def test_help_is_plain_text_when_it_is_piped() -> None:
    for arguments in (("--help",), ("serve", "--help")):
        assert not set("╭│╰\x1b") & set(tidegate(*arguments).stdout)


def test_the_list_of_commands_is_complete() -> None:
    listed = tidegate("--help").stdout
    for command in COMMANDS:
        assert f" {command.split()[0]} " in listed


@pytest.mark.parametrize("argument", ["version", "--version"])
def test_version_prints_one_line(argument: str) -> None:
    done = tidegate(argument)
    assert (done.returncode, done.stdout) == (0, f"tidegate {__version__}\n")


@pytest.mark.parametrize(
    "arguments", [("sreve",), ("serve", "--prot", "1"), ("serve", "--port", "many"), ("keys", "cut")]
)
def test_a_mistake_on_the_command_line_exits_with_2_and_says_what_was_wrong(arguments: tuple[str, ...]) -> None:
    done = tidegate(*arguments)
    assert done.returncode == 2
    assert arguments[-1] in done.stderr or arguments[-2] in done.stderr
    assert not done.stdout


def test_mock_lists_its_knobs() -> None:
    done = tidegate("mock", "--knobs")
    assert done.returncode == 0
    assert {"ttft", "itl", "fail_at"} <= {line.split()[0] for line in done.stdout.splitlines()}


# --- check ---------------------------------------------------------------------------------------------------------


def test_check_prints_one_plain_line_for_each_setting_when_piped(tmp_path: Path) -> None:
    done = tidegate("check", "-c", str(write_config(tmp_path)))
    assert done.returncode == 0
    rows = dict(line.split("\t") for line in done.stdout.splitlines())
    assert rows["providers[0].name"] == "main"
    assert rows["server.drain_delay"] == "0"
    assert "\x1b" not in done.stdout


def test_check_of_a_bad_file_exits_with_2_and_names_every_mistake_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(
        "server: {prot: 1, keep_alive: soon}\n" + yaml.safe_dump({"providers": PLAIN["providers"]}), encoding="utf-8"
    )
    done = tidegate("check", "-c", str(file))
    assert done.returncode == 2
    assert not done.stdout
    told = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in told)
    assert any("bad.yaml:1" in line and "server.prot" in line and "port" in line for line in told)
    assert any("bad.yaml:1" in line and "server.keep_alive" in line for line in told)
    assert any("models" in line for line in told)


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_file_that_is_not_there_is_a_mistake_of_the_configuration(command: str, tmp_path: Path) -> None:
    done = tidegate(command, "-c", "nowhere.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere.yaml" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_check_takes_the_file_of_this_directory_and_says_so(tmp_path: Path) -> None:
    write_config(tmp_path)
    done = tidegate("check", cwd=tmp_path)
    assert done.returncode == 0
    assert "tidegate.yaml" in done.stderr


def test_check_says_what_is_unwise_and_still_exits_with_0(tmp_path: Path) -> None:
    done = tidegate("check", "-c", str(write_config(tmp_path, server={"host": "0.0.0.0"})))
    assert done.returncode == 0
    assert "note: auth.mode is open and server.host 0.0.0.0" in done.stderr


# --- keys hash -----------------------------------------------------------------------------------------------------


def test_keys_hash_prints_the_digest_of_a_key_from_standard_input() -> None:
    done = tidegate("keys", "hash", given="tg-a-key-of-mine\n")
    assert (done.returncode, done.stdout) == (0, hashlib.sha256(b"tg-a-key-of-mine").hexdigest() + "\n")


def test_keys_hash_prints_the_digest_of_an_argument() -> None:
    done = tidegate("keys", "hash", "tg-a-key-of-mine")
    assert done.stdout.strip() == hashlib.sha256(b"tg-a-key-of-mine").hexdigest()


@pytest.mark.parametrize("key", ["short", "with a space inside", ""])
def test_keys_hash_refuses_what_can_be_no_key_without_repeating_it(key: str) -> None:
    done = tidegate("keys", "hash", given=key)
    assert done.returncode == 2
    assert done.stderr.startswith("error: a key is ")
    assert not key or key not in done.stderr


# --- what a start refuses ------------------------------------------------------------------------------------------


def test_open_mode_is_refused_where_other_machines_can_reach_it(tmp_path: Path) -> None:
    file = write_config(tmp_path, server={"host": "0.0.0.0"})
    done = tidegate("serve", "-c", str(file))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "--allow-open" in line
    assert "auth.keys" in line


def test_a_bad_flag_value_is_named_by_its_flag(tmp_path: Path) -> None:
    done = tidegate("serve", "-c", str(write_config(tmp_path)), "--drain-timeout", "soon")
    assert done.returncode == 2
    assert "--drain-timeout" in done.stderr


def test_the_demo_is_not_open_to_other_machines_either_least_of_all_with_a_real_key(tmp_path: Path) -> None:
    done = tidegate(
        "demo", "--host", "0.0.0.0", "--port", "0", "--ops-listen", "", cwd=tmp_path, env={"OPENAI_API_KEY": "sk-x"}
    )
    assert done.returncode == 2
    assert "--allow-open" in done.stderr


def test_the_log_of_a_refused_start_is_not_json(tmp_path: Path) -> None:
    done = tidegate("serve", "-c", str(tmp_path / "no.yaml"))
    with pytest.raises(json.JSONDecodeError):
        json.loads(done.stderr)
