"""The tables in docs/cog.md: figures of both, and what of the contract is the same, better, or different on purpose.

All is made of what was recorded.
"""

import json
from collections import Counter
from pathlib import Path

import cog_bench
import cog_compare
from cog_differences import DIFFERENCES
from cog_suite import CHECKS, recorded
from cog_talk import Json

PAGE = Path(__file__).parents[2] / "docs" / "cog.md"
TABLE = "<!-- table: written by make docs -->", "<!-- end of table -->"
FIGURES = "<!-- figures: written by make docs -->", "<!-- end of figures -->"
_WIDEST = 90


def page() -> str:
    """Give the whole page, with its tables anew."""
    return _between(_between(PAGE.read_text(), FIGURES, _figures()), TABLE, _table())


def _between(text: str, marks: tuple[str, str], inner: str) -> str:
    begin, end = marks
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{inner}\n{end}{after}"


def _figures() -> str:
    """Give what scripts/cog-compare and scripts/cog-bench wrote down of one run each."""
    compared, benched = (json.loads(file.read_text()) for file in (cog_compare.RECORDED, cog_bench.RECORDED))
    lines = ["\n| | what is looked at | Cog | Tidegate |", "|---|---|---|---|"]
    lines += [
        f"| {each['letter']} | {each['title']} | {_listed(each['cog'])} | {_listed(each['tidegate'])} |"
        for each in compared["comparisons"]
    ]
    lines += ["\n| speed | Cog | Tidegate | ratio |", "|---|---|---|---|"]
    calls, ratios = benched["trivial prediction"], benched["ratio"]
    for name, title in (("c=1", "one connection"), ("c=16", "16 connections")):
        cells = " | ".join(f"{calls[kind][name]['per s']:g}" for kind in ("cog", "tidegate"))
        lines.append(
            f"| trivial synchronous predictions that succeed in a second, {title} | {cells} | {ratios[name]} |"
        )
    streams = benched["one stream"]
    cells = " | ".join(f"{streams[kind]['events per s']:g}" for kind in ("cog", "tidegate"))
    lines.append(f"| events in a second of one stream that is not paced | {cells} | {ratios['events per s']} |")
    cells = " | ".join(_listed(benched["1,000 subscribers"][kind]) for kind in ("cog", "tidegate"))
    lines.append(f"| 1,000 subscribers of one prediction | {cells} | |")
    paced = _listed(benched["8 paced streams"]["tidegate"])
    lines.append(f"| 8 asynchronous streams, a chunk each 10 ms | streams none | {paced} | |")
    return "\n".join(lines) + "\n"


def _listed(figures: dict[str, Json]) -> str:
    return _cell(", ".join(f"{name}: {value}" for name, value in figures.items()))


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
