"""What a bench says: rows, how each stands against its bounds, one table, one JSON document."""

import shutil
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

Judged = Literal["tidegate", "added", "ratio"]
Standing = Literal["", "aim met", "must met", "MISSED", "NOT MEASURED", "skipped"]

_COLUMNS = ("scenario", "figure", "direct", "nginx", "tidegate", "result", "must", "aim", "")


class Row(Struct, frozen=True, kw_only=True):
    """One figure. Shape: `result` is what the bounds are about: the value, what was added to direct, or the ratio to nginx."""

    scenario: str
    figure: str
    unit: str = ""
    direct: float | None = None
    nginx: float | None = None
    tidegate: float | None = None
    judged: Judged = "tidegate"
    result: float | None = None
    must: float | None = None
    aim: float | None = None
    standing: Standing = ""
    note: str = ""


class Run(Struct, frozen=True):
    """One run of one variant, as it was measured. Shape: `problem` says why it does not count."""

    scenario: str
    variant: str
    repeat: int
    values: dict[str, float]
    problem: str = ""


def judge(result: float | None, must: float | None, aim: float | None) -> Standing:
    """Give how a figure stands. Shape: less is better; a figure without bounds stands nowhere."""
    if must is None or aim is None or result is None:
        return ""
    if result <= aim:
        return "aim met"
    return "must met" if result <= must else "MISSED"


def number(value: float | None) -> str:
    """Give a value with three digits that count, or a dash."""
    if value is None:
        return "-"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _result(row: Row) -> str:
    if row.result is None or row.judged == "tidegate":
        return "" if row.result is None else number(row.result)
    return f"{row.result:.2f}x" if row.judged == "ratio" else f"{row.result:+.2f}"


def _bound(row: Row, bound: float | None) -> str:
    return "" if bound is None else f"{bound:g}x" if row.judged == "ratio" else f"{bound:g}"


def cells(row: Row) -> tuple[str, ...]:
    """Give a row's cells."""
    figure = f"{row.figure}, {row.unit}" if row.unit else row.figure
    if row.standing in {"NOT MEASURED", "skipped"}:
        return (row.scenario, figure, "", "", "", "", "", "", f"{row.standing}: {row.note}")
    values = (number(row.direct), number(row.nginx), number(row.tidegate), _result(row))
    bounds = (_bound(row, row.must), _bound(row, row.aim))
    return (
        row.scenario,
        figure,
        *values,
        *bounds,
        " ".join(filter(None, (row.standing, row.note and f"({row.note})"))),
    )


def render_plain(rows: Sequence[Row]) -> str:
    """Give the table as aligned text."""
    lines = [_COLUMNS, *map(cells, rows)]
    # The last column is prose: it needs no width.
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS) - 1)]
    return "\n".join(
        "  ".join(
            [
                text.ljust(width) if column < 2 else text.rjust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=False))
            ]
            + [line[-1]]
        ).rstrip()
        for line in lines
    )


def print_table(rows: Sequence[Row], title: str) -> None:
    """Print the table: rich on a terminal wide enough, plain lines elsewhere."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal or shutil.get_terminal_size().columns < 100:
        print(f"{title}\n\n{render_plain(rows)}")
        return
    table = Table(title=title)
    for index, column in enumerate(_COLUMNS):
        table.add_column(column, justify="right" if 2 <= index < len(_COLUMNS) - 1 else "left")
    colours: dict[str, str] = {"aim met": "green", "MISSED": "red", "NOT MEASURED": "red", "skipped": "dim"}
    for row in rows:
        table.add_row(*cells(row), style=colours.get(row.standing))
    console.print(table)


def render_json(
    machine: dict[str, str | int], settings: dict[str, object], rows: Sequence[Row], runs: Sequence[Run]
) -> bytes:
    """Give everything as JSON: the figures, and the raw values of each run."""
    document = {"machine": machine, "settings": settings, "figures": rows, "runs": runs}
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
