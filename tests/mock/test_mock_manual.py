"""The manual of the mock is true: its table is the one that is obeyed, and its commands work as they are written."""

import asyncio
import re
from pathlib import Path

import pytest
from mock_client import PATIENCE_S, Mock, with_mock

from tidegate.mock.script import KNOBS, parse
from tidegate.mock.speech import lists

MANUAL = Path(__file__).parents[2] / "docs" / "mock.md"
COMMANDS = [
    command
    for block in re.findall(r"```sh\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    for command in re.findall(r"^curl (?:.*\\\n)*.*$", block, re.MULTILINE)
]


def test_the_table_of_knobs_is_the_one_that_is_obeyed() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", MANUAL.read_text(), re.MULTILINE)
    assert [(key, expects, meaning) for key, expects, meaning in rows if key in KNOBS] == [
        (key, knob.expects, knob.meaning) for key, knob in KNOBS.items()
    ]


def test_every_example_of_a_query_can_be_read() -> None:
    examples = re.findall(r"^\| `(mock\?[^`]+)` \|", MANUAL.read_text(), re.MULTILINE)
    assert len(examples) > 10
    assert all(parse(example) is not None for example in examples)


def test_every_list_of_models_is_in_the_table_of_paths() -> None:
    assert all(f"`{path}`" in MANUAL.read_text() for path in lists.PATHS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "".join(re.findall(r":8090([^'\s]*)", command)))
def test_every_command_works_as_it_is_written(command: str, tmp_path: Path) -> None:
    async def scenario(mock: Mock) -> tuple[int | None, bytes]:
        written = command.replace(":8090", f":{mock.port}").replace("curl ", "curl --fail --silent --show-error ", 1)
        async with asyncio.timeout(PATIENCE_S):
            running = await asyncio.create_subprocess_shell(
                written, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            out, _ = await running.communicate()
        return running.returncode, out

    code, said = with_mock(scenario)
    assert code == 0, said
    said = said or b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert said
    assert b'{"error"' not in said
