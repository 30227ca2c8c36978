import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from anthropic.types.message_create_params import MessageCreateParamsBase
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from tidegate.dialect import ClientDialect
from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.conversation import Untranslatable
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.openai_responses import OpenAIResponses
from tidegate.verdict import TABLE

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "generate-docs"
PAGES = ("verdicts.md", "translation.md", "matrix.md")


def test_the_pages_are_what_the_code_says() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "verdicts.md").read_text()
    assert all(page.count(f"| `{code}` |") == 1 for code in TABLE)


@pytest.mark.parametrize("name", PAGES)
def test_a_stale_page_is_noticed(tmp_path: Path, name: str) -> None:
    shutil.copytree(SCRIPT.parent, tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for folder in ("matrix", "cog_contract"):
        shutil.copytree(ROOT / "tests" / folder, tmp_path / "tests" / folder)
    script, page = tmp_path / "scripts" / "generate-docs", tmp_path / "docs" / name
    for text in (None, "something else"):
        page.unlink(missing_ok=True)
        if text is not None:
            page.write_text(text)
        done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert (f"{name} is stale" in done.stderr, "make docs" in done.stderr) == (True, True)
    subprocess.run([sys.executable, script], check=True)
    assert page.read_text() == (ROOT / "docs" / name).read_text()


@pytest.mark.parametrize(
    ("client", "params", "dialect", "least"),
    [
        ("Chat", CompletionCreateParamsBase, OpenAIChat(), {"messages": [{"role": "user", "content": "Hi"}]}),
        ("Responses", ResponseCreateParamsBase, OpenAIResponses(), {"input": "Hi"}),
        (
            "Messages",
            MessageCreateParamsBase,
            Anthropic(),
            {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
        ),
    ],
)
def test_every_member_that_an_official_client_can_send_has_a_row_or_is_refused_by_name(
    client: str, params: type, dialect: ClientDialect, least: dict[str, object]
) -> None:
    page = (ROOT / "docs" / "translation.md").read_text()
    section = page.split(f"### {client}\n")[1].split("\n#")[0]
    newer = [name for name in params.__annotations__ if f"| `{name}` |" not in section]
    assert len(newer) < len(params.__annotations__) / 4
    for name in newer:  # the package is younger than the page
        with pytest.raises(Untranslatable, match=name):
            dialect.read_conversation(json.dumps({"model": "m", **least, name: {"x": 1}}).encode())
