"""JSON of everything a handler may give."""

import dataclasses
import datetime as dt
import decimal
import enum
import io
import json
import pathlib
import sys
import tempfile
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pydantic
import pydantic.v1
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.predict import BaseModel, Secret
from tidegate.predict.encoding import data_uri, encode
from tidegate.predict.levels import is_too_deep


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 2


class Fields(BaseModel):
    a: int
    b: str = "x"


@dataclasses.dataclass
class Plain:
    path: pathlib.Path
    colour: Colour


class Two(pydantic.BaseModel):
    when: dt.datetime
    inner: list[int]


class Packed(msgspec.Struct, rename="camel"):
    some_text: str
    file: pathlib.Path | None = None
    raw: Any = None


def said(path: pathlib.Path) -> str:
    return f"uri:{path.name}"


def encoded(value: Any) -> Any:
    return json.loads(encode(value, file=said))


trees = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=10,
)


@given(trees)
def test_json_stays_what_it_is(value: Any) -> None:
    assert encoded(value) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        (Level.HIGH, 2),
        ({Colour.RED: (1, 2), 3: {4}}, {"red": [1, 2], "3": [4]}),
        (Fields(a=1), {"a": 1, "b": "x"}),
        (
            Two(when=dt.datetime(2026, 1, 2, tzinfo=dt.UTC), inner=[1]),
            {"when": "2026-01-02T00:00:00+00:00", "inner": [1]},
        ),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.time(1, 2), "01:02:00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.50"), "1.50"),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(1), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ({"a": [np.int8(1)]}, {"a": [1]}),
        (Packed(some_text="t"), {"someText": "t", "file": None, "raw": None}),
        (2**70, 2**70),
    ],
)
def test_models_dates_enums_and_arrays_become_json(value: Any, expected: Any) -> None:
    assert encoded(value) == expected


def test_models_of_pydantics_first_generation_become_json() -> None:
    class One(pydantic.v1.BaseModel):
        a: int

    assert encoded([One(a=1)]) == [{"a": 1}]


def test_files_become_what_the_callback_says_wherever_they_are(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"x")
    assert encoded(path) == "uri:out.png"
    assert encoded({"deep": [Plain(path=path, colour=Colour.RED)]}) == {
        "deep": [{"path": "uri:out.png", "colour": "red"}]
    }
    assert encoded(Packed(some_text="t", file=path)) == {"someText": "t", "file": "uri:out.png", "raw": None}


def test_open_files_are_flushed_and_files_without_a_name_are_read(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "o.txt").open("w") as file:
        file.write("unflushed")
        assert json.loads(encode(file, file=data_uri)) == "data:text/plain;base64,dW5mbHVzaGVk"
    with (tmp_path / "o.txt").open("rb") as file_read:
        assert encoded(file_read) == "uri:o.txt"
    with tempfile.NamedTemporaryFile() as named:
        assert encoded(named).startswith("uri:")
    assert encoded(io.BytesIO(b"hi")) == "data:application/octet-stream;base64,aGk="
    assert encoded(io.StringIO("hi")) == "data:text/plain;base64,aGk="


def test_a_data_uri_has_the_media_type_of_the_name(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.png").write_bytes(b"hi")
    (tmp_path / "a.strange").write_bytes(b"hi")
    assert data_uri(tmp_path / "a.png") == "data:image/png;base64,aGk="
    assert data_uri(tmp_path / "a.strange") == "data:application/octet-stream;base64,aGk="
    with pytest.raises(ValueError, match=r"'gone\.png' cannot be read"):
        data_uri(tmp_path / "gone.png")


def circle() -> list[Any]:
    around: list[Any] = []
    around.append(around)
    return around


@pytest.mark.parametrize(
    ("value", "error", "instead"),
    [
        (b"x", TypeError, "return its Path"),
        (Packed(some_text="t", raw=b"x"), TypeError, "return its Path"),
        (memoryview(b"x"), TypeError, "return its Path"),
        ([float("nan")], ValueError, "return None or a finite number"),
        (np.array([float("inf")]), ValueError, "finite number"),
        (Packed(some_text="t", raw=float("nan")), ValueError, "finite number"),
        (map(str, [1]), TypeError, r"return list\(\.\.\.\)"),
        (object(), TypeError, "return str, int"),
        (Fields, TypeError, "return str, int"),
        (Secret("hush"), TypeError, "never part of an output"),
        ({1.5: 1}, TypeError, "make its keys str"),
        (pathlib.Path("/nowhere/at/all.png"), ValueError, r"'all\.png' does not exist"),
        (circle(), ValueError, "contains itself"),
        ("\ud800", ValueError, "half a character"),
    ],
)
def test_what_cannot_be_json_is_refused_with_what_to_return_instead(
    value: Any, error: type[Exception], instead: str
) -> None:
    with pytest.raises(error, match=instead):
        encode(value, file=said)


def test_a_closed_file_is_refused() -> None:
    file = io.BytesIO(b"x")
    file.close()
    with pytest.raises(ValueError, match="closed"):
        encode(file, file=said)


@dataclasses.dataclass
class Holding:
    inner: Any


class Packing(msgspec.Struct):
    inner: Any


HOLDERS: dict[str, Callable[[Any], Any]] = {"list": lambda inner: [inner], "dict": lambda inner: {"a": inner}, "dataclass": Holding, "tuple": lambda inner: (inner,)}  # fmt: skip


@pytest.mark.parametrize("limit", [1000, 20_000])
@pytest.mark.parametrize("holder", [*HOLDERS, "struct"])
def test_what_is_nested_deeper_than_200_levels_is_refused_however_deep_python_goes(holder: str, limit: int) -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        for levels, refused in ((199, False), (200, True), (900, True)):
            value: Any = []
            for _ in range(levels):
                value = HOLDERS.get(holder, HOLDERS["list"])(value)
            if not refused:
                assert json.dumps(encoded(value)).count("[") + json.dumps(encoded(value)).count("{") == 200
            else:
                with pytest.raises(ValueError, match="more than 200 levels deep"):
                    encode(Packing(value) if holder == "struct" else value, file=said)
    finally:
        sys.setrecursionlimit(before)
    assert not is_too_deep([encoded([[]]), {"a": 1}])
