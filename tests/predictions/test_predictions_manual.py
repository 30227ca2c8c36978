"""The manual of predictions is true: its models run, its commands work as they are written, its settings are those that are."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from msgspec.structs import fields

from manuals import PORT, own_model
from processes import WAIT_S, Served, environment, tidegate
from tidegate import predict
from tidegate.config import Config, render
from tidegate.config.handler import tree
from tidegate.worker.settings import LocalSettings

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "docs" / "predictions.md").read_text(encoding="utf-8")
COG = (ROOT / "docs" / "cog.md").read_text(encoding="utf-8")
CHAT = MANUAL.partition("## As a chat model")[2]
SHELL = re.compile(r"^```sh\n(.*?)```", re.MULTILINE | re.DOTALL)
CURL = re.compile(r"^curl (?:.*\\\n)*.*$", re.MULTILINE)


class Asked(Mapping[str, str]):
    """An environment without variables, which remembers those that were asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def commands(text: str) -> list[str]:
    return [command for block in SHELL.findall(text) for command in CURL.findall(block)]


def ran(command: str, port: int, served: Served) -> str:
    """Run a command as it is written, but for the port; gives what it said."""
    written = PORT.sub(f"127.0.0.1:{port}", command).replace("curl ", "curl --fail --silent --show-error ", 1)
    done = subprocess.run(
        ["bash", "-c", written],
        env=environment({"NO_PROXY": "127.0.0.1"}),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, (command, done.stderr, served.lines)
    return done.stdout


def ids(said: str) -> list[int]:
    return [int(number) for number in re.findall(r"^id: (\d+)$", said, re.MULTILINE)]


@pytest.mark.slow
def test_the_model_and_the_commands_of_the_manual_work_in_their_order(tmp_path: Path) -> None:
    whole, events, lasting, again = commands(MANUAL.partition("## As a chat model")[0])
    with own_model(MANUAL, tmp_path) as (served, port):
        made = json.loads(ran(whole, port, served))
        assert (made["status"], made["output"]) == ("succeeded", ["Hello, Ada! "])
        said = ran(events, port, served)
        assert said.count("event: output\n") == 3
        assert re.findall(r"^event: (\w+)$", said, re.MULTILINE)[:: len(ids(said)) - 1] == ["start", "completed"]
        said = ran(lasting, port, served)
        resumed = ran(again, port, served)
        assert ids(resumed) == [number for number in ids(said) if number > 2]
        assert "event: completed\n" in resumed


@pytest.mark.slow
def test_the_chat_model_of_the_manual_answers_its_command(tmp_path: Path) -> None:
    (command,) = commands(CHAT)
    with own_model(CHAT + MANUAL, tmp_path) as (served, port):
        said = ran(command, port, served)
    words = [
        choice["delta"].get("content") or ""
        for line in said.splitlines()
        if line.startswith("data: {")
        for choice in json.loads(line.removeprefix("data: "))["choices"]
    ]
    assert "".join(words) == "You said: When is high water? "
    assert said.endswith("data: [DONE]\n\n")


def test_the_model_of_the_manual_is_the_example() -> None:
    example = (ROOT / "examples" / "hello" / "model.py").read_text(encoding="utf-8")
    assert 'yield f"{self.greeting}, {name}! "' in example
    assert 'yield f"{self.greeting}, {name}! "' in MANUAL


@pytest.mark.slow
def test_the_configuration_of_the_manual_passes_its_check(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)```", MANUAL, re.MULTILINE | re.DOTALL)
    (tmp_path / "tidegate.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "model.py").write_text("class Model: ...\n", encoding="utf-8")
    done = tidegate("check", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "providers[0].local.workers\t2\n" in done.stdout


def test_the_table_of_settings_has_each_of_a_local_provider() -> None:
    told = re.findall(r"^\| `providers\[\]\.local\.(\w+)` \|", MANUAL, re.MULTILINE)
    assert sorted(told) == sorted(field.encode_name for field in fields(LocalSettings))


@pytest.mark.parametrize("page", [MANUAL, COG], ids=["predictions.md", "cog.md"])
def test_the_variables_that_the_flag_reads_are_those_that_a_page_names(page: str) -> None:
    found = re.search(r"`--predict` reads ((?:[^`.]*`[A-Z_]+`)+)", page)
    assert found is not None
    asked = Asked()
    tree("model.py:Model", 1, asked)
    assert set(re.findall(r"`([A-Z_]+)`", found[1])) == asked.names


def test_the_table_of_settings_has_each_with_its_default() -> None:
    shown = {path: value for path, value in render(Config()) if path.startswith("predictions.")}
    told: dict[str, str] = {}
    for names, values in re.findall(r"^\| (`predictions\.[^|]*) \| ([^|]*) \|", MANUAL, re.MULTILINE):
        first, *more = re.findall(r"`([^`]+)`", names)
        paths = [first, *(first.rpartition(".")[0] + name for name in more)]
        defaults = ["empty"] * len(paths) if values == "empty" else re.findall(r"`([^`]+)`", values)
        told.update(zip(paths, defaults, strict=True))
    assert told.keys() == shown.keys()
    empty = {"not set", "", "unset", "empty"}
    assert {path for path in told if told[path] != shown[path] and shown[path] not in empty} == set()


@pytest.mark.parametrize(
    "name",
    ["Input", "Path", "File", "Secret", "streaming", "concurrent", "current_scope", "BasePredictor", "BaseRunner",
     "BaseModel", "ConcatenateIterator", "CancelationException"],
)  # fmt: skip
def test_a_name_that_models_of_cog_import_is_there(name: str) -> None:
    assert name in predict.__all__
