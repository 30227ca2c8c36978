import subprocess
import sys
from pathlib import Path

from tidegate.verdict import TABLE

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "generate-docs"


def test_the_page_of_verdicts_is_what_the_table_says() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "verdicts.md").read_text()
    assert all(page.count(f"| `{code}` |") == 1 for code in TABLE)


def test_a_stale_page_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "docs").mkdir()
    script = tmp_path / "scripts" / "generate-docs"
    script.write_text(SCRIPT.read_text())
    page = tmp_path / "docs" / "verdicts.md"
    for text in (None, "something else"):
        if text is not None:
            page.write_text(text)
        done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "make docs" in done.stderr
    subprocess.run([sys.executable, script], check=True)
    assert page.read_text() == (ROOT / "docs" / "verdicts.md").read_text()
