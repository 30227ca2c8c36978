"""The table in docs/cog.md: what of the contract is the same, better, or different on purpose. Made of what was recorded."""

import json
from collections import Counter
from pathlib import Path

from cog_differences import DIFFERENCES
from cog_suite import CHECKS, recorded
from cog_talk import Json

PAGE = Path(__file__).parents[2] / "docs" / "cog.md"
BEGIN, END = "<!-- table: written by make docs -->", "<!-- end of table -->"
_WIDEST = 90


def page() -> str:
    """Give the whole page, with its table anew."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{_table()}\n{END}{after}"


def _table() -> str:
    known = recorded()
    counts = Counter(DIFFERENCES[check.name].outcome if check.name in DIFFERENCES else "same" for check in CHECKS)
    versions = f"Cog as it was on {known['date']} ({known['versions']})."
    outcomes = (
        f"{counts['same']} are the same, {counts['better']} are better, and {counts['differs']} differ on purpose."
    )
    lines = [f"\n{versions} Of {len(CHECKS)} checks, {outcomes}"]
    for title in dict.fromkeys(check.title for check in CHECKS):
        own = [check for check in CHECKS if check.title == title]
        same = [check.sentence for check in own if check.name not in DIFFERENCES]
        other = [check for check in own if check.name in DIFFERENCES]
        lines += [f"\n### {title}\n", "The same:\n", *(f"- {_cell(sentence)}" for sentence in same)]
        if other:
            lines += ["\n| what is looked at | Cog | Tidegate | | why |", "|---|---|---|---|---|"]
        for check in other:
            found = DIFFERENCES[check.name]
            cells = (
                check.sentence,
                _code(known["checks"][check.name]),
                _code(found.expected),
                found.outcome,
                found.reason,
            )
            lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(seen: Json) -> str:
    text = json.dumps(seen, ensure_ascii=False)
    return f"`{text if len(text) <= _WIDEST else text[: _WIDEST - 1] + '…'}`"
