"""What README tells people to type works: each block that is marked with `<!-- test -->` is run.

Those that ask port 5000 go to the model that README itself has written down, the others to `tidegate demo`.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import manuals
from manuals import own_model
from processes import WAIT_S, environment, serving

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^<!-- test -->\s*\n```(?P<language>sh|python)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
TARGET = re.compile(r"^([a-z]+):", re.MULTILINE)
PORT = re.compile(r"(?:127\.0\.0\.1|localhost):8080\b")
OPS_PORT = re.compile(r"(?:127\.0\.0\.1|localhost):9464\b")


class Block(NamedTuple):
    """A fenced block of README."""

    language: str
    text: str

    @property
    def makes(self) -> list[str]:
        """The targets that a block of make commands names; none when it has other commands."""
        lines = [line.partition("#")[0].split() for line in self.text.splitlines() if line.partition("#")[0].strip()]
        return [words[1] for words in lines if words[0] == "make" and len(words) > 1] if lines[0][0] == "make" else []


def blocks_of(text: str) -> list[Block]:
    return [Block(found["language"], found["text"]) for found in BLOCK.finditer(text)]


README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = blocks_of(README)
OWN = [block for block in BLOCKS if manuals.PORT.search(block.text)]
COMMANDS = [block for block in BLOCKS if not block.makes and block not in OWN]
MAKES = [target for block in BLOCKS for target in block.makes]


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Give the addresses of a demo and of its ops listener."""
    folder = tmp_path_factory.mktemp("readme")
    with serving("demo", "--port", "0", "--ops-listen", "127.0.0.1:0", cwd=folder) as served:
        served.line("Ctrl-C stops it")
        found = re.findall(r"^(?:base URL|metrics) +http://([^/]+)/", served.output(), re.MULTILINE)
        yield found[0], found[1]


def test_marked_blocks_are_found_and_others_are_not() -> None:
    text = "```sh\nno\n```\n<!-- test -->\n```sh\necho 1\n```\n<!-- test -->\n\n```python\nprint()\n```\n"
    text += "<!-- test -->\n```sh\nmake run  # all\nmake bench\n```\n<!-- test -->\n```yaml\nno: 1\n```\n"
    found = blocks_of(text)
    assert found[:2] == [Block("sh", "echo 1\n"), Block("python", "print()\n")]
    assert [block.makes for block in found] == [[], [], ["run", "bench"]]


def test_readme_has_commands_that_are_run() -> None:
    assert COMMANDS
    assert OWN


def test_readme_says_how_to_install_before_its_first_tidegate_command_and_only_there() -> None:
    first = re.search(r"^tidegate ", README, re.MULTILINE)
    assert first is not None
    before, after = README[: first.start()], README[first.start() :]
    assert "\npython3 -m venv .venv && . .venv/bin/activate && pip install .\n" in before
    assert "bin/activate" not in after


def ran(language: str, text: str) -> str:
    """Run a block as a user would; gives what it said."""
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment({"PATH": path, "NO_PROXY": "127.0.0.1,localhost"}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    return done.stdout


@pytest.mark.parametrize("target", MAKES)
def test_readme_names_targets_of_the_makefile(target: str) -> None:
    assert target in TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: " ".join(block.text.split())[:60])
def test_a_command_of_readme_works_against_a_demo(block: Block, ports: tuple[str, str]) -> None:
    text = OPS_PORT.sub(ports[1], PORT.sub(ports[0], block.text))
    ran(block.language, text)


@pytest.mark.slow
def test_the_model_of_readme_answers_its_commands(tmp_path: Path) -> None:
    with own_model(README, tmp_path) as (_, port):
        for block in OWN:
            whole, events, chat = re.split(r"\n(?=curl)", manuals.PORT.sub(f"127.0.0.1:{port}", block.text))
            assert json.loads(ran("sh", whole))["output"] == ["Look! ", "The ", "tide ", "turns. "]
            assert ran("sh", events).count("event: output\n") == 12
            assert ran("sh", chat).endswith("data: [DONE]\n\n")
