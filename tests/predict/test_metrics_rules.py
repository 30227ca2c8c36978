"""The rules of metrics, and what a scope tells of them."""

import contextvars
import enum
import threading
from collections import OrderedDict
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.predict import CancelationException, CancellationException, Model, current_scope
from tidegate.predict.metrics import Mode, apply, check_name, find
from tidegate.predict.scope import Scope, use

Told = list[tuple[str, Any, Mode]]
segments = st.from_regex(r"[a-z][a-z0-9]{0,3}(_[a-z0-9]{1,2})?", fullmatch=True)
names = st.lists(segments, min_size=1, max_size=4).map(".".join)
values = st.one_of(st.booleans(), st.integers(-9, 9), st.text(max_size=3), st.lists(st.integers(), max_size=2))
modes: st.SearchStrategy[Mode] = st.sampled_from(("replace", "increment", "append"))


def nested(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels - 1):
        found = [found]
    return found


def scope_and_told() -> tuple[Scope, Told]:
    told: Told = []
    return Scope(id="p", emit=lambda name, value, mode: told.append((name, value, mode))), told


def test_dots_in_a_name_nest_and_a_deletion_takes_what_it_empties() -> None:
    metrics: dict[str, Any] = {}
    apply(metrics, "a.b.c", 1, "replace")
    apply(metrics, "a.d", 2, "replace")
    assert metrics == {"a": {"b": {"c": 1}, "d": 2}}
    apply(metrics, "a.b.c", None, "replace")
    assert metrics == {"a": {"d": 2}}
    apply(metrics, "x.y", None, "replace")
    apply(metrics, "z", None, "replace")
    assert metrics == {"a": {"d": 2}}


def test_increments_add_and_appends_wrap_what_was_there() -> None:
    metrics: dict[str, Any] = {}
    apply(metrics, "n", 2, "increment")
    apply(metrics, "n", 1.5, "increment")
    apply(metrics, "n", "x", "append")
    apply(metrics, "l", 1, "append")
    assert metrics == {"n": [3.5, "x"], "l": [1]}


@given(st.lists(st.tuples(names, st.one_of(st.none(), values), modes), max_size=12))
def test_applying_never_fails_whatever_was_recorded_before(records: list[tuple[str, Any, Mode]]) -> None:
    metrics: dict[str, Any] = {}
    for name, value, mode in records:
        apply(metrics, name, value, mode)
        if value is not None and mode == "replace":
            assert find(metrics, name) == value


@given(st.lists(st.tuples(names, st.one_of(st.none(), values), modes), max_size=12))
def test_what_a_scope_tells_gives_its_listener_the_same_metrics(records: list[tuple[str, Any, Mode]]) -> None:
    scope, told = scope_and_told()
    for name, value, mode in records:
        try:
            scope.record_metric(name, value, mode)
        except (TypeError, ValueError):
            continue
    copy: dict[str, Any] = {}
    for name, value, mode in told:
        apply(copy, name, value, mode)
    assert copy == dict(scope.metrics)


@pytest.mark.parametrize("name", ["a", "a1_b.c", "A.b.c.d", "x" * 128, "cogs", "predict_times"])
def test_good_names_are_taken(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "_x",
        "x_",
        "a__b",
        "1a",
        "a.",
        ".a",
        "a..b",
        "a.b.c.d.e",
        "a-b",
        "x" * 129,
        "predict_time",
        "predict_time.x",
        "cog.x",
        "ä",
    ],
)
def test_bad_and_reserved_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="metric"):
        check_name(name)


def test_a_name_that_is_no_text_is_refused() -> None:
    scope, told = scope_and_told()
    with pytest.raises(TypeError, match="name is a str"):
        scope.record_metric(5, 1)  # type: ignore[arg-type]
    assert not told


def test_a_type_is_fixed_until_the_metric_is_deleted() -> None:
    scope, told = scope_and_told()
    scope.record_metric("a", 3)
    scope.record_metric("a", 3.5)
    with pytest.raises(TypeError, match="delete it"):
        scope.record_metric("a", "text")
    with pytest.raises(TypeError, match="delete it"):
        scope.record_metric("a", True)
    del scope.metrics["a"]
    scope.record_metric("a", "text")
    assert told == [("a", 3, "replace"), ("a", 3.5, "replace"), ("a", None, "replace"), ("a", "text", "replace")]


def test_parts_of_what_is_no_object_are_refused() -> None:
    scope, _ = scope_and_told()
    scope.record_metric("a.b", 3)
    with pytest.raises(TypeError, match=r"'a\.b' is of type int and has no parts"):
        scope.record_metric("a.b.c", 3)


@pytest.mark.parametrize(("before", "value"), [(None, "x"), (None, True), ("x", 1), (True, 1)])
def test_only_numbers_are_incremented(before: Any, value: Any) -> None:
    scope, _ = scope_and_told()
    if before is not None:
        scope.record_metric("n", before)
    with pytest.raises(TypeError, match=r"increment"):
        scope.record_metric("n", value, "incr")


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (object(), TypeError),
        (b"x", TypeError),
        ({1: 2}, TypeError),
        ([object()], TypeError),
        (float("nan"), ValueError),
        ({"a": [float("inf")]}, ValueError),
        (10**400, ValueError),
        ("half \ud800", ValueError),
        ({"half \ud800": 1}, ValueError),
        (nested(201), ValueError),
        (np.array([1]), TypeError),
        (np.datetime64("2020-01-01"), TypeError),
        (np.longdouble(1), TypeError),
        (np.float64("nan"), ValueError),
    ],
)
def test_values_that_no_json_has_are_refused(value: Any, error: type[Exception]) -> None:
    scope, told = scope_and_told()
    with pytest.raises(error):
        scope.record_metric("n", value)
    assert not told


class Colour(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Ratio(float):
    pass


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (Colour.RED, "red"),
        (Number.ONE, 1),
        (Ratio(1.5), 1.5),
        (OrderedDict(a=[Number.ONE, np.int8(2)]), {"a": [1, 2]}),
        (nested(200), nested(200)),
    ],
)
def test_values_are_told_and_kept_as_pythons_own_types(value: Any, plain: Any) -> None:
    scope, told = scope_and_told()
    scope.record_metric("n", value)
    for found in (told[0][1], scope.metrics["n"]):
        assert msgspec.json.encode(found) == msgspec.json.encode(plain)
        assert type(found) is type(plain)


@pytest.mark.parametrize(("first", "second"), [(1e308, 1e308), (-1e308, np.float64(-1e308)), (10**308, 9 * 10**307)])
def test_a_sum_that_is_not_finite_is_refused_and_changes_nothing(first: float, second: float) -> None:
    scope, told = scope_and_told()
    scope.record_metric("n", first, "increment")
    with pytest.raises(ValueError, match="finite"):
        scope.record_metric("n", second, "increment")
    scope.record_metric("n", 1, "increment")
    assert scope.metrics["n"] == first + 1
    assert len(told) == 2


def test_null_inside_a_value_is_fine_and_null_itself_deletes_in_both_ways() -> None:
    scope, told = scope_and_told()
    scope.record_metric("a", {"x": None})
    scope.metrics["b"] = [1]
    scope.record_metric("a", None, "append")
    scope.metrics["b"] = None
    assert len(scope.metrics) == 0
    assert told[2:] == [("a", None, "replace"), ("b", None, "replace")]


def test_incr_and_increment_are_the_same_word_and_others_are_refused() -> None:
    scope, told = scope_and_told()
    scope.record_metric("n", 1, "incr")
    scope.record_metric("n", 1, "increment")
    assert scope.metrics["n"] == 2
    assert {mode for _, _, mode in told} == {"increment"}
    with pytest.raises(TypeError, match="mode"):
        scope.record_metric("n", 1, "bogus")  # type: ignore[arg-type]


def test_metrics_read_as_a_mapping_and_what_is_read_changes_nothing() -> None:
    scope, _ = scope_and_told()
    scope.metrics["a.b"] = [1]
    scope.metrics["a.b"].append(2)
    assert dict(scope.metrics) == {"a": {"b": [1]}}
    assert "a.b" in scope.metrics
    assert "a.c" not in scope.metrics
    with pytest.raises(KeyError):
        del scope.metrics["missing"]


def test_outside_of_a_prediction_nothing_happens_and_nothing_is_refused() -> None:
    scope = current_scope()
    scope.record_metric("_bad.", object())
    scope.metrics["x"] = 1
    del scope.metrics["y"]
    Model().record_metric("x", 1)
    assert (scope.id, scope.context, scope.cancelled, dict(scope.metrics)) == ("", {}, False, {})


def test_the_scope_is_the_contexts_own_and_a_thread_takes_a_copy_of_it() -> None:
    scope, told = scope_and_told()
    seen: list[bool] = []
    with use(scope):
        Model().record_metric("n", 1)
        context = contextvars.copy_context()
        threads = [
            threading.Thread(target=context.run, args=(lambda: seen.append(current_scope() is scope),)),
            threading.Thread(target=lambda: seen.append(current_scope() is scope)),
        ]
        for thread in threads:
            thread.start()
            thread.join()
    assert seen == [True, False]
    assert told == [("n", 1, "replace")]
    assert current_scope() is not scope


def test_a_scope_says_that_it_is_cancelled() -> None:
    scope = Scope(id="p", context={"k": "v"})
    scope.cancel()
    assert (scope.cancelled, scope.id, scope.context) == (True, "p", {"k": "v"})


def test_no_except_exception_catches_a_cancellation() -> None:
    assert CancelationException is CancellationException
    assert not issubclass(CancellationException, Exception)


def test_an_append_grows_the_list_that_is_there() -> None:
    metrics: dict[str, Any] = {}
    apply(metrics, "l", 1, "append")
    there = metrics["l"]
    for number in (2, 3):
        apply(metrics, "l", number, "append")
    assert metrics["l"] is there, "copying it each time takes the square of the time"
    assert there == [1, 2, 3]


@pytest.mark.parametrize(("name", "mode"), [("l", "append"), ("l.inner", "append")])
def test_what_was_recorded_is_not_changed_by_later_records(name: str, mode: Mode) -> None:
    first: Any = [1] if name == "l" else {"inner": [1]}
    appended = [2]
    metrics: dict[str, Any] = {}
    apply(metrics, "l", first, "replace")
    apply(metrics, name, appended, mode)
    apply(metrics, name, 3, mode)
    assert first in ([1], {"inner": [1]})
    appended.append(4)
    assert find(metrics, name) == [1, [2], 3]


def test_a_scope_that_is_closed_takes_no_record_and_refuses_none() -> None:
    scope, told = scope_and_told()
    scope.record_metric("a", 1)
    scope.close()
    scope.record_metric("a", 2)
    scope.record_metric("no name", object())
    scope.metrics["b"] = 3
    del scope.metrics["a"]
    assert told == [("a", 1, "replace")]
    assert dict(scope.metrics) == {"a": 1}
