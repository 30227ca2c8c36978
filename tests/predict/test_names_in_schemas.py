"""Types that share a name: each is checked and described by its own schema, wherever it stands."""

import enum
import inspect
from dataclasses import dataclass, make_dataclass
from typing import Any, Generic, Literal, Optional, TypeVar

import jsonschema_rs
import pydantic
import pytest
from typing_extensions import TypeAliasType

from tidegate.predict.handler import Handler, look

T = TypeVar("T")


@dataclass
class Point:
    x: int


class Colour(enum.Enum):
    RED = "red"


class Node(pydantic.BaseModel):
    value: int
    inner: "Node | None" = None


class Box(pydantic.BaseModel, Generic[T]):
    value: T


@dataclass
class Crate(Generic[T]):
    value: T


POINT: Any = make_dataclass("Point", [("z", int)])
MODEL: Any = pydantic.create_model("Point", q=(int, ...))
OTHER: Any = pydantic.create_model("Point", w=(int, ...))
AROUND: Any = pydantic.create_model("Point", inner=(MODEL, ...))
PAINT: Any = enum.EnumMeta.__call__(enum.Enum, "Colour", {"GREEN": "green"})
TREE: Any = make_dataclass("Tree", [("node", Node)])
BOTH: Any = make_dataclass("Both", [("a", MODEL), ("b", OTHER), ("c", Point)])
# The same words, about another `Point` each.
HOLDER: Any = make_dataclass("Holder", [("held", Point)])
KEEPER: Any = make_dataclass("Holder", [("held", POINT)])


def taking(result: Any = str, **annotations: Any) -> Handler:
    def function(**_inputs: Any) -> None:
        """Take what the signature says."""

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=each) for name, each in annotations.items()
    ]
    function.__signature__ = inspect.Signature(parameters, return_annotation=result)  # type: ignore[attr-defined]
    return look("m.py:f", function)


@pytest.mark.parametrize(
    ("annotations", "good", "bad"),
    [
        ({"x": Point | POINT}, [{"x": {"x": 1}}, {"x": {"z": 1}}], [{"x": {"q": 1}}]),
        ({"x": Point | MODEL}, [{"x": {"x": 1}}, {"x": {"q": 1}}], [{"x": {"z": 1}}]),
        ({"x": list[Point | MODEL]}, [{"x": [{"x": 1}, {"q": 1}]}], [{"x": [{"z": 1}]}]),
        ({"x": Colour | PAINT}, [{"x": "red"}, {"x": "green"}], [{"x": "blue"}]),
        (
            {"x": Colour, "y": PAINT},
            [{"x": "red", "y": "green"}],
            [{"x": "green", "y": "green"}, {"x": "red", "y": "red"}],
        ),
        ({"Point": Literal["a"], "y": Point}, [{"Point": "a", "y": {"x": 1}}], [{"Point": "b", "y": {"x": 1}}]),
        (
            {"x": BOTH},
            [{"x": {"a": {"q": 1}, "b": {"w": 1}, "c": {"x": 1}}}],
            [
                {"x": {"a": {"w": 1}, "b": {"w": 1}, "c": {"x": 1}}},
                {"x": {"a": {"q": 1}, "b": {"w": 1}, "c": {"q": 1}}},
            ],
        ),
        (
            {"x": HOLDER, "y": KEEPER},
            [{"x": {"held": {"x": 1}}, "y": {"held": {"z": 1}}}],
            [
                {"x": {"held": {"z": 1}}, "y": {"held": {"z": 1}}},
                {"x": {"held": {"x": 1}}, "y": {"held": {"x": 1}}},
            ],
        ),
        ({"x": AROUND}, [{"x": {"inner": {"q": 1}}}], [{"x": {"q": 1}}, {"x": {"inner": {"z": 1}}}]),
        (
            {"x": Node},
            [{"x": {"value": 1, "inner": {"value": 2}}}],
            [{"x": {"value": "a"}}, {"x": {"value": 1, "inner": {"value": "a"}}}],
        ),
        (
            {"x": TREE},
            [{"x": {"node": {"value": 1, "inner": {"value": 2}}}}],
            [{"x": {"node": {"value": 1, "inner": {"value": "a"}}}}],
        ),
        (
            {"x": Box[int], "y": Box[str]},
            [{"x": {"value": 1}, "y": {"value": "a"}}],
            [{"x": {"value": "a"}, "y": {"value": "a"}}, {"x": {"value": 1}, "y": {"value": 1}}],
        ),
        (
            {"x": Crate[int], "y": Crate[str]},
            [{"x": {"value": 1}, "y": {"value": "a"}}],
            [{"x": {"value": "a"}, "y": {"value": "a"}}, {"x": {"value": 1}, "y": {"value": 1}}],
        ),
        (
            {"x": TypeAliasType("Same", Literal["a"]), "y": TypeAliasType("Same", Literal["b"])},
            [{"x": "a", "y": "b"}],
            [{"x": "b", "y": "b"}, {"x": "a", "y": "a"}],
        ),
        ({"x": TypeAliasType("Maybe", Optional[int])}, [{"x": 1}, {"x": None}], [{"x": "a"}]),  # noqa: UP045
    ],
)
def test_each_type_is_checked_by_its_own_schema(annotations: Any, good: list[Any], bad: list[Any]) -> None:
    handler = taking(**annotations)
    check = jsonschema_rs.Draft202012Validator(handler.input_schema())
    for given in good:
        check.validate(given)
        assert handler.arguments(given, {}).keys() == given.keys()
    for given in bad:
        assert not check.is_valid(given), given
        with pytest.raises(ValueError, match=r"."):
            handler.arguments(given, {})


@pytest.mark.parametrize(
    ("result", "good"),
    [
        (Node, {"value": 1, "inner": {"value": 2, "inner": None}}),
        (AROUND, {"inner": {"q": 1}}),
        (BOTH, {"a": {"q": 1}, "b": {"w": 1}, "c": {"x": 1}}),
        (Box[int], {"value": 1}),
        (HOLDER, {"held": {"x": 1}}),
    ],
)
def test_every_reference_of_the_document_leads_somewhere(result: Any, good: dict[str, Any]) -> None:
    document = taking(result, a=Point | MODEL, b=HOLDER, c=KEEPER, d=Node, e=Box[str]).openapi()
    parts = document["components"]["schemas"]
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in parts, reference
    checked = {"components": document["components"], "$ref": "#/components/schemas/Output"}
    check = jsonschema_rs.Draft4Validator(_widened(checked))
    check.validate(good)
    assert not check.is_valid(dict.fromkeys(good, "odd"))


def _references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [found for each in part for found in _references(each)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [found for each in part.values() for found in _references(each)]


def _widened(part: Any) -> Any:
    """Give OpenAPI's `nullable` as JSON Schema has it."""
    if isinstance(part, list):
        return [_widened(each) for each in part]
    if not isinstance(part, dict):
        return part
    wider = {key: _widened(value) for key, value in part.items() if key != "nullable"}
    return {"anyOf": [wider, {"type": "null"}]} if part.get("nullable") is True else wider
