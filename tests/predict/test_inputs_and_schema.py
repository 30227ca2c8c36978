"""Inputs: what is accepted, what it becomes, what clients are told, and which mistakes are named."""

import dataclasses
import datetime as dt
import enum
import inspect
import json
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Optional, TypedDict, Union

import jsonschema_rs
import msgspec
import pydantic
import pydantic.v1
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.predict import File, Input, Iterator, Opaque, Path, Secret
from tidegate.predict.handler import Handler, HandlerError, look


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


class Packed(msgspec.Struct):
    name: str
    points: list[Point] = []


class Two(pydantic.BaseModel):
    a: int
    inner: "Inner | None" = None


class Inner(pydantic.BaseModel):
    b: str


class Said(TypedDict):
    role: str
    content: str


class One(pydantic.v1.BaseModel):
    a: int


class Pathy(pydantic.BaseModel):
    path: Path


@dataclasses.dataclass
class Holding:
    path: Path
    two: Two


@dataclasses.dataclass
class Mixed:
    two: Two
    one: One


class Unknown:
    pass


def taking(**annotations: Any) -> Handler:
    """Shape: a name's annotation, or (annotation, default)."""

    def function(**_inputs: Any) -> str:
        return ""

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=each[0], default=each[1])
        if isinstance(each, tuple)
        else inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=each)
        for name, each in annotations.items()
    ]
    function.__signature__ = inspect.Signature(parameters, return_annotation=str)  # type: ignore[attr-defined]
    return look("m.py:f", function)


def checker(handler: Handler) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(handler.input_schema())


def got(annotation: Any, value: Any) -> Any:
    handler = taking(x=annotation)
    checker(handler).validate({"x": value})
    return handler.arguments({"x": value, "unknown": 1}, {})["x"]


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (str, "a", "a"),
        (int, 1.0, 1),
        (float, 1, 1.0),
        (bool, True, True),
        (list[int], [1.0, 2], [1, 2]),
        (list, [1, "a"], [1, "a"]),
        (list[str | None], ["a", None], ["a", None]),
        (Sequence[str], ["a"], ["a"]),
        (dict, {"a": 1}, {"a": 1}),
        (dict[str, int], {"a": 1.0}, {"a": 1}),
        (Any, {"a": [None]}, {"a": [None]}),
        (Annotated[Unknown, Opaque], {"a": 1}, {"a": 1}),
        (Optional[int], None, None),  # noqa: UP045
        (int | None, 2, 2),
        (Union[int, str], "a", "a"),  # noqa: UP007
        (int | float, 1.5, 1.5),
        (Literal["a", 1], "a", "a"),
        (Literal["a"] | None, None, None),
        (Colour, "red", Colour.RED),
        (Colour | None, None, None),
        (list[Colour], ["red"], [Colour.RED]),
        (dt.datetime, "2026-01-02T03:04:05Z", dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)),
        (dt.date, "2026-01-02", dt.date(2026, 1, 2)),
        (Secret, "hush", Secret("hush")),
        (list[Secret], ["hush"], [Secret("hush")]),
        (Point, {"x": 1.0}, Point(1)),
        (Point | None, {"x": 1, "y": 2}, Point(1, 2.0)),
        (Packed, {"name": "n", "points": [{"x": 1}]}, Packed("n", [Point(1)])),
        (Two, {"a": 1, "inner": {"b": "x"}}, Two(a=1, inner=Inner(b="x"))),
        (list[Two], [{"a": 1}], [Two(a=1)]),
        (Two | str, {"a": 1}, Two(a=1)),
        (Two | str, "x", "x"),
        (One, {"a": 1}, One(a=1)),
        (dict[str, Two], {"k": {"a": 1, "inner": {"b": "x"}}}, {"k": Two(a=1, inner=Inner(b="x"))}),
        (Mixed, {"two": {"a": 1}, "one": {"a": 2}}, Mixed(Two(a=1), One(a=2))),
        (list[Said], [{"role": "user", "content": "x"}], [{"role": "user", "content": "x"}]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (Annotated[int, msgspec.Meta(ge=1)], 1, 1),
        (typing.List, [1], [1]),  # noqa: UP006
        ("int | None", 3, 3),
    ],
)
def test_what_the_schema_accepts_becomes_what_is_annotated(annotation: Any, value: Any, expected: Any) -> None:
    result = got(annotation, value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (str, 5),
        (str, None),
        (int, "3"),
        (int, 1.5),
        (int, True),
        (bool, 1),
        (list[int], ["a"]),
        (list[int], {}),
        (list[int], [None]),
        (Colour, "green"),
        (Literal["a"], "b"),
        (Secret, 5),
        (Point, {}),
        (Two | int, {"b": 1}),
        (int | None, "x"),
    ],
)
def test_what_the_schema_refuses_is_refused_by_conversion_too(annotation: Any, value: Any) -> None:
    handler = taking(x=annotation)
    assert not checker(handler).is_valid({"x": value})
    with pytest.raises(ValueError, match=r"^x: "):
        handler.arguments({"x": value}, {})


def test_a_secret_is_not_repeated_when_refused_or_shown() -> None:
    with pytest.raises(ValueError, match=r"x: expected a string, got an array") as refused:
        taking(x=Secret).arguments({"x": ["hush"]}, {})
    assert "hush" not in str(refused.value)
    secret = Secret("hush")
    assert "hush" not in f"{secret} {secret!r}"
    assert (secret.get_secret_value(), len(secret), str(Secret(""))) == ("hush", 4, "")
    assert len({secret, Secret("hush")}) == 1


def test_what_is_not_sent_gets_its_default_a_fresh_one_each_time() -> None:
    handler = taking(
        a=(int, 3), b=(int, Input(4)), c=(list[int], Input(default=[1])), d=int | None, e=(Secret, Input(default=None)),
        f=(Colour, Colour.RED), g=(Annotated[int, Input(ge=1)], 2), h=(int | None, Input(default=...)),
    )  # fmt: skip
    assert handler.input_schema()["required"] == []
    first = handler.arguments({}, {})
    assert first == {"a": 3, "b": 4, "c": [1], "d": None, "e": None, "f": Colour.RED, "g": 2, "h": None}
    first["c"].append(2)
    assert handler.arguments({"e": None}, {})["c"] == [1]


def test_a_plain_none_as_default_lets_an_input_be_none() -> None:
    handler = taking(a=(int, None), b=(Path, None), c=(list[str], None), d=(Annotated[int, Input(ge=1)], None))
    assert handler.input_schema()["required"] == []
    assert handler.arguments({}, {}) == {"a": None, "b": None, "c": None, "d": None}
    assert handler.arguments({"a": None, "c": None, "d": 2}, {}) == {"a": None, "b": None, "c": None, "d": 2}
    check = checker(handler)
    check.validate({"a": None, "b": None, "c": None, "d": None})
    for bad in ({"a": "x"}, {"d": 0}):
        with pytest.raises(jsonschema_rs.ValidationError):
            check.validate(bad)


def test_none_of_input_as_the_default_of_what_cannot_be_none_is_no_default() -> None:
    handler = taking(a=(int, Input(default=None)), b=(str, Input()))
    assert handler.input_schema()["required"] == ["a", "b"]
    with pytest.raises(ValueError, match="a: Field required"):
        handler.arguments({"b": "x"}, {})


def test_constraints_are_in_the_schema() -> None:
    handler = taking(
        n=(int, Input(ge=1, le=3)),
        s=(str | None, Input(min_length=2, max_length=3, regex="^a")),
        l=(list[str], Input(max_length=1)),
        c=(str, Input(choices=["a", "b"])),
        m=(list[str], Input(choices=["a", "b"])),
        e=(Colour | None, Input(choices=[Colour.RED])),
        f=(float | int, Input(le=1)),
    )
    good = {"n": 1.0, "s": "ab", "l": ["x"], "c": "a", "m": ["a", "b"], "e": "red", "f": 1}
    check = checker(handler)
    check.validate(good | {"unknown": object.__name__})
    check.validate(good | {"s": None, "e": None})
    for bad in (
        {"n": 4},
        {"s": "b"},
        {"s": "abcd"},
        {"l": ["", ""]},
        {"c": "c"},
        {"m": ["c"]},
        {"e": "blue"},
        {"f": 2},
    ):
        assert not check.is_valid(good | bad), bad


def test_messages_about_optional_inputs_name_the_types() -> None:
    errors = list(checker(taking(n=int | None)).iter_errors({"n": "x"}))
    assert "null" in errors[0].message
    assert "anyOf" not in errors[0].message


any_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(-5, 5), st.sampled_from([1.0, 2.0]), st.sampled_from(["a", "red", "zz"])),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["x", "a", "name", "k"]), inner, max_size=2)),
    max_leaves=5,
)  # fmt: skip
KINDS = (
    str, int, float, bool, list[int], list[str | None], dict[str, int], Any, int | None, int | str | None, float | bool,
    Literal["a", 1], Colour, Secret, Point, Point | None, Packed, Two, Two | int, tuple[int, str], Said, list[list[int]],
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(KINDS), any_json)
def test_conversion_takes_exactly_what_the_schema_accepts(annotation: Any, value: Any) -> None:
    handler = taking(x=annotation)
    accepted = checker(handler).is_valid({"x": value})
    try:
        result = handler.arguments({"x": value}, {})["x"]
    except ValueError:
        assert not accepted
    else:
        # pydantic takes more than its schema says; the schema is asked first.
        assert accepted or "Two" in str(annotation)
        assert not (annotation is int and not isinstance(result, int))


def described(handler: Handler) -> Any:
    return json.loads(json.dumps(handler.openapi()))["components"]["schemas"]


def test_the_document_has_cogs_form() -> None:
    def predict(
        prompt: str = Input(description="Prompt", min_length=1, max_length=200),
        n: int = Input(default=3, ge=0, le=100_000),
        delay: float = Input(default=0.1, ge=0, le=60),
        mode: str = Input(default="ok", choices=["ok", "raise"]),
    ) -> Iterator[str]:
        yield prompt

    handler = look("m.py:predict", predict)
    schemas = described(handler)
    properties = schemas["Input"]["properties"]
    assert schemas["Input"]["required"] == ["prompt"]
    assert properties["prompt"] == {
        "description": "Prompt", "maxLength": 200, "minLength": 1, "title": "Prompt", "type": "string", "x-order": 0,
    }  # fmt: skip
    assert properties["n"] == {
        "default": 3,
        "maximum": 100_000,
        "minimum": 0,
        "title": "N",
        "type": "integer",
        "x-order": 1,
    }
    assert properties["mode"] == {"allOf": [{"$ref": "#/components/schemas/mode"}], "default": "ok", "x-order": 3}
    assert schemas["mode"] == {
        "description": "An enumeration.",
        "enum": ["ok", "raise"],
        "title": "mode",
        "type": "string",
    }
    assert schemas["Output"] == {
        "items": {"type": "string"},
        "title": "Output",
        "type": "array",
        "x-cog-array-type": "iterator",
    }
    assert schemas["Status"]["enum"] == ["starting", "processing", "succeeded", "canceled", "failed"]
    paths = handler.openapi()["paths"]
    assert paths["/predictions"]["post"]["x-cog-streaming"] is True
    assert {path: set(methods) for path, methods in paths.items()} == {
        "/": {"get"}, "/health-check": {"get"}, "/openapi.json": {"get"}, "/predictions": {"post"},
        "/predictions/{prediction_id}": {"put", "get"}, "/predictions/{prediction_id}/cancel": {"post"},
    }  # fmt: skip


def test_the_document_says_what_else_there_is_of_an_input() -> None:
    schemas = described(
        taking(
            s=(Secret, Input(default=None)),
            f=(list[File], Input(accept=["image/png", ".jpg"])),
            p=(Path | None, Input(default="x.png", deprecated=True)),
            o=Optional[int],  # noqa: UP045
            l=list[Literal[1, 2]],
            Input=Literal["a", 1],
            m=(float, Input(choices=[1, 1.5])),
            c=(Colour | None, Colour.RED),
            two=Two,
            more=Two | None,
            either=Point | int | None,
            pair=tuple[int, str],
            both=int | str,
        )
    )
    properties = schemas["Input"]["properties"]
    assert properties["s"] == {
        "title": "S", "type": "string", "format": "password", "writeOnly": True, "x-cog-secret": True, "nullable": True, "x-order": 0,
    }  # fmt: skip
    assert properties["f"]["x-cog-accept"] == "image/png,.jpg"
    assert properties["f"]["items"] == {"type": "string", "format": "uri"}
    assert properties["p"] == {
        "title": "P",
        "type": "string",
        "format": "uri",
        "nullable": True,
        "deprecated": True,
        "x-order": 2,
    }
    assert properties["o"] == {"title": "O", "type": "integer", "nullable": True, "x-order": 3}
    assert properties["l"] == {"title": "L", "type": "array", "items": {"$ref": "#/components/schemas/l"}, "x-order": 4}
    assert properties["Input"]["allOf"] == [{"$ref": "#/components/schemas/Input_"}]
    assert ("type" in schemas["Input_"], schemas["m"]["type"]) == (False, "number")
    assert properties["c"]["default"] == "red"
    assert properties["two"] == {"title": "Two", "allOf": [{"$ref": "#/components/schemas/Two"}], "x-order": 8}
    assert schemas["Two"]["properties"]["inner"]["allOf"] == [{"$ref": "#/components/schemas/Inner"}]
    assert schemas["Two"]["properties"]["inner"]["nullable"] is True
    assert len(properties["either"]["anyOf"]) == 2
    assert "prefixItems" not in properties["pair"]


class Line(pydantic.BaseModel):
    words: list[Inner]


@dataclasses.dataclass
class Result:
    image: Path
    score: float
    line: Line
    simple: Inner
    odd: Unknown


def returning(annotation: Any) -> Any:
    def function() -> Any: ...

    function.__annotations__["return"] = annotation
    return described(look("m.py:f", function))["Output"]


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (str, {"type": "string"}),
        (None, {"type": "null"}),
        (Path, {"type": "string", "format": "uri"}),
        (typing.BinaryIO, {"type": "string", "format": "uri"}),
        (dt.datetime, {"type": "string", "format": "date-time"}),
        (Optional[str], {"type": "string", "nullable": True}),  # noqa: UP045
        (list[Path], {"type": "array", "items": {"type": "string", "format": "uri"}}),
        (list[Inner], {"type": "array", "items": {"$ref": "#/components/schemas/Inner"}}),
        (Unknown, {}),
        (Any, {}),
    ],
)
def test_outputs_are_described(annotation: Any, expected: Any) -> None:
    assert returning(annotation) == {**expected, "title": "Output"}


def test_an_output_with_fields_is_described_in_place() -> None:
    schema = returning(Result)
    assert schema["title"] == "Output"
    assert schema["properties"]["image"] == {"type": "string", "format": "uri"}
    assert schema["properties"]["simple"] == {"$ref": "#/components/schemas/Inner"}
    assert schema["properties"]["line"] == {"$ref": "#/components/schemas/Line"}


def test_a_handler_without_marks_does_not_stream() -> None:
    assert "x-cog-streaming" not in taking(a=int).openapi()["paths"]["/predictions"]["post"]


EMPTY: Any = inspect.Parameter.empty


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        (EMPTY, "it has no type; write x: str"),
        ("Nowhere", "the annotation 'Nowhere' cannot be resolved"),
        (bytes, "bytes is not supported: take a Path"),
        (Unknown, "Unknown is not supported: take str, int"),
        (typing.TextIO, "TextIO is not supported: take a Path, or a File"),
        (list[list[Path]], "files are taken as Path or list[Path]"),
        (list[Path | None], "files are taken as Path or list[Path]"),
        (dict[str, Path], "never parts of another type"),
        (Pathy, "never parts of another type"),
        (Holding, "never parts of another type"),
        (Path | str, "a Path cannot be told from other types"),
        (Secret | int, "a Secret cannot be told from other types"),
        ((Annotated[int, Input(ge=1)], Input(le=2)), "more than one Input()"),
        ((str, Input(ge=1)), "ge is for numbers, not for str"),
        ((int, Input(regex="a")), "regex is for texts, not for int"),
        ((int, Input(max_length=1)), "max_length is for texts and lists, not for int"),
        ((Path, Input(choices=["a"])), "choices is for texts, numbers"),
        ((str, Input(accept=".png")), "accept is for files, not for str"),
        ((str, Input(regex="(")), "is no regular expression"),
        ((int, Input(ge=3, le=2)), "ge (3) is above le (2)"),
        ((int, Input(default=0, ge=1)), "the default 0 is below ge (1)"),
        ((int, Input(default=9, le=1)), "the default 9 is above le (1)"),
        ((str, Input(default="a", min_length=2)), "the default is shorter than min_length (2)"),
        ((list[int], Input(default=[1, 2], max_length=1)), "the default is longer than max_length (1)"),
        ((str, Input(default="b", regex="^a")), "the default does not match regex '^a'"),
        ((Secret, Input(default=Secret("b"), min_length=2)), "the default is shorter"),
        ((str, Input(default="c", choices=["a", "b"])), "the default 'c' is not among the choices"),
        ((list[str], Input(default=["c"], choices=["a"])), "the default ['c'] is not among the choices"),
        ((int, Input(choices=[1, "b"])), "the choice 'b' is no int"),
        ((int, Input(choices=[])), "choices is empty"),
        ((int, "three"), "the default 'three' is no int"),
        ((Colour, "green"), "the default 'green' is no Colour"),
    ],
)
def test_mistakes_in_an_input_are_named(given_: Any, sentence: str) -> None:
    with pytest.raises(HandlerError) as refused:
        taking(x=given_)
    assert f"x: {sentence}" in str(refused.value) or ("x: " in str(refused.value) and sentence in str(refused.value))


def test_all_mistakes_are_listed_at_once() -> None:
    with pytest.raises(HandlerError) as refused:
        taking(a=bytes, b=EMPTY, c=(int, Input(regex="x", max_length=1)), d=int)
    text = str(refused.value)
    assert [line.strip()[2:4] for line in text.splitlines()[1:]] == ["a:", "b:", "c:", "c:"]


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (int, 3),
        (float, 3),
        (Colour, Colour.RED),
        (Point, Point(1)),
        (Path, "x.png"),
        (Secret, "s"),
        (dt.date, dt.date(2026, 1, 1)),
    ],
)
def test_good_defaults_are_handed_on_as_they_are(annotation: Any, default: Any) -> None:
    assert taking(x=(annotation, default)).arguments({}, {}) == {"x": default}


def test_a_factory_and_unknown_words_are_refused_by_input() -> None:
    with pytest.raises(TypeError, match="no default_factory"):
        Input(default_factory=list)
    with pytest.raises(TypeError, match="has no maximum"):
        Input(maximum=3)


def test_two_models_of_one_name_do_not_mix_in_the_document() -> None:
    other = dataclasses.make_dataclass("Point", [("z", int)])
    handler = taking(a=Point, b=other)
    check = checker(handler)
    check.validate({"a": {"x": 1}, "b": {"z": 1}})
    assert not check.is_valid({"a": {"z": 1}, "b": {"z": 1}})
    assert not check.is_valid({"a": {"x": 1}, "b": {"x": 1}})
    schemas = described(handler)
    assert schemas["Point"] != schemas["Point_"]
