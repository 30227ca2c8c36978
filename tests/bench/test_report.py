import json

import pytest

from tidegate.bench.figures import Figure, Scenario, rows_of
from tidegate.bench.report import Row, Run, cells, judge, number, print_table, render_json, render_plain


def scenario(*figures: Figure) -> Scenario:
    return Scenario(name="s", variants=("direct", "nginx", "tidegate"), play=lambda *_: {}, figures=figures)


def runs(variant: str, *values: float) -> list[Run]:
    return [Run(scenario="s", variant=variant, repeat=nth, values={"x": value}) for nth, value in enumerate(values)]


@pytest.mark.parametrize(
    ("result", "standing"),
    [(1.0, "aim met"), (1.15, "aim met"), (1.16, "must met"), (1.4, "must met"), (1.41, "MISSED"), (None, "")],
)
def test_less_is_better_and_bounds_belong_to_what_meets_them(result: float | None, standing: str) -> None:
    assert judge(result, 1.4, 1.15) == standing


def test_a_figure_without_bounds_stands_nowhere() -> None:
    assert judge(5.0, None, None) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (0.314, "0.31"), (12.34, "12.3"), (123.4, "123"), (23456.7, "23,457"), (-0.5, "-0.50")],
)
def test_numbers_show_the_digits_that_count(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_ratio_is_taken_within_each_repeat() -> None:
    figure = Figure(name="cpu", key="x", judged="ratio", must=1.4, aim=1.15)
    # The third repeat was disturbed: ten times slower for both.
    (row,) = rows_of(scenario(figure), runs("nginx", 10, 10, 100) + runs("tidegate", 12, 12, 120), "")
    assert row.result == pytest.approx(1.2)
    assert (row.nginx, row.tidegate, row.standing) == (10, 12, "must met")


def test_a_run_that_does_not_count_takes_its_partner_with_it() -> None:
    figure = Figure(name="gap", key="x", judged="added")
    spoilt = Run(scenario="s", variant="direct", repeat=0, values={}, problem="why")
    (row,) = rows_of(scenario(figure), [spoilt, *runs("direct", 99, 5)[1:], *runs("tidegate", 1000, 6)], "")
    assert row.result == 1


def test_a_figure_that_nobody_measured_has_no_row() -> None:
    assert rows_of(scenario(Figure(name="cpu", key="x")), runs("direct", 1), "") == []


def test_without_nginx_the_value_is_shown_and_not_judged() -> None:
    figure = Figure(name="cpu", key="x", judged="ratio", must=1.4, aim=1.15)
    (row,) = rows_of(scenario(figure), runs("tidegate", 12), "")
    assert (row.tidegate, row.result, row.standing) == (12, None, "")


def test_the_plain_table_is_aligned_and_says_how_figures_stand() -> None:
    rows = [
        Row(scenario="paced", figure="CPU", unit="µs", nginx=13.25, tidegate=16.5, judged="ratio", result=1.245,
            must=1.4, aim=1.15, standing="must met", note="a note"),
        Row(scenario="start", figure="RSS", unit="MB", tidegate=54.25, result=54.25, must=70, aim=50, standing="must met"),
        Row(scenario="ttft", figure="p50", unit="ms", direct=22, tidegate=22.4, judged="added", result=0.4),
        Row(scenario="whole", figure="all", standing="NOT MEASURED", note="no luck"),
    ]  # fmt: skip
    head, *lines = render_plain(rows).splitlines()
    assert head.split() == ["scenario", "figure", "direct", "nginx", "tidegate", "result", "must", "aim"]
    assert lines[0].split() == [
        "paced",
        "CPU,",
        "µs",
        "-",
        "13.2",
        "16.5",
        "1.25x",
        "1.4x",
        "1.15x",
        "must",
        "met",
        "(a",
        "note)",
    ]
    assert lines[1].split() == ["start", "RSS,", "MB", "-", "-", "54.2", "54.2", "70", "50", "must", "met"]
    assert lines[2].split() == ["ttft", "p50,", "ms", "22", "-", "22.4", "+0.40"]
    assert lines[3].split() == ["whole", "all", "NOT", "MEASURED:", "no", "luck"]
    assert {line.index("must met") for line in lines[:2]} == {lines[3].index("NOT MEASURED")}


def test_what_is_piped_is_the_plain_table(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row(scenario="s", figure="f", tidegate=1)
    print_table([row], "title [not markup]")
    assert capsys.readouterr().out == f"title [not markup]\n\n{render_plain([row])}\n"


def test_a_row_that_was_skipped_says_why() -> None:
    assert cells(Row(scenario="s", figure="f", standing="skipped", note="no wrk"))[-1] == "skipped: no wrk"


def test_the_json_has_every_run_as_it_was_measured() -> None:
    document = json.loads(
        render_json({"cpu": "fast"}, {"quick": True}, [Row(scenario="s", figure="f")], runs("nginx", 1, 2))
    )
    assert document["machine"] == {"cpu": "fast"}
    assert document["settings"] == {"quick": True}
    assert document["figures"][0]["figure"] == "f"
    assert [(run["variant"], run["repeat"], run["values"]) for run in document["runs"]] == [
        ("nginx", 0, {"x": 1}),
        ("nginx", 1, {"x": 2}),
    ]
