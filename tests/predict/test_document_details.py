"""What OpenAPI 3.0 wants differently, and inputs of which null is a value like others."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Optional

import jsonschema_rs
import msgspec
import pytest

from tidegate.predict import Input, Opaque
from tidegate.predict.handler import look


@dataclasses.dataclass
class Inner:
    x: Annotated[int, msgspec.Meta(gt=0, lt=5)] = 1


@dataclasses.dataclass
class Outer:
    inner: Inner
    const: int = 3
    enum: int = 3
    default: Inner = dataclasses.field(default_factory=Inner)
    other: Inner | None = None
    named: Literal["$ref"] = "$ref"


THIRD, FOURTH, NULL = Input(description="third"), Input(default=[]), Input(default=None)


def everything(
    one: Outer,
    two: Optional[Outer] = None,  # noqa: UP045  (as users write it)
    three: Outer = THIRD,
    four: list[Outer] = FOURTH,
) -> Outer:
    return two or [one, three, *four][0]


def each_object(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from each_object(inner)


def test_references_stand_alone_for_what_is_beside_one_is_ignored() -> None:
    document = look("f", everything).openapi()
    references = [each for each in each_object(document) if "$ref" in each]
    assert len(references) > 10
    assert all(len(each) == 1 for each in references)
    properties = document["components"]["schemas"]["Input"]["properties"]
    reference = {"$ref": "#/components/schemas/Outer"}
    assert properties == {
        "one": {"title": "One", "allOf": [reference], "x-order": 0},
        "two": {"title": "Two", "allOf": [reference], "nullable": True, "x-order": 1},
        "three": {"title": "Three", "allOf": [reference], "description": "third", "x-order": 2},
        "four": {"title": "Four", "type": "array", "items": reference, "default": [], "x-order": 3},
    }


def test_fields_may_have_the_names_of_words_of_schemas() -> None:
    schemas = look("f", everything).openapi()["components"]["schemas"]
    fields = schemas["Outer"]["properties"]
    assert fields["const"] == fields["enum"] == {"type": "integer", "default": 3}
    assert fields["default"] == {"$ref": "#/components/schemas/Inner"}
    assert fields["named"] == {"enum": ["$ref"], "default": "$ref"}
    assert "required" not in schemas["Inner"]
    assert schemas["Inner"]["properties"]["x"] == {
        "type": "integer", "default": 1, "minimum": 0, "exclusiveMinimum": True, "maximum": 5, "exclusiveMaximum": True,
    }  # fmt: skip


def test_a_request_may_say_how_long_it_may_take() -> None:
    timeout = look("f", everything).openapi()["components"]["schemas"]["PredictionRequest"]["properties"]["timeout"]
    assert (timeout["type"], timeout["minimum"], timeout["exclusiveMinimum"]) == ("number", 0, True)


@pytest.mark.parametrize(
    "kind",
    [Any, object, Annotated[Any, Opaque], Annotated[int, Opaque], int | Any, Literal["a", None]],  # noqa: PYI061  (a union with None is another case)
)
def test_what_has_null_as_a_value_needs_not_be_sent_where_null_is_its_default(kind: Any) -> None:
    def taking(said: Any, unsaid: Any = None, infoed: Any = NULL) -> str:
        return f"{said}{unsaid}{infoed}"

    taking.__annotations__.update(said=kind, unsaid=kind, infoed=kind)
    handler = look("f", taking)
    assert handler.input_schema()["required"] == ["said"]
    assert handler.openapi()["components"]["schemas"]["Input"]["required"] == ["said"]
    jsonschema_rs.validate(handler.input_schema(), {"said": None, "unsaid": None, "infoed": None})
    assert handler.arguments({"said": None}, {}) == {"said": None, "unsaid": None, "infoed": None}
    assert handler.arguments({"said": "a", "unsaid": "a", "infoed": "a"}, {}) == dict.fromkeys(
        ("said", "unsaid", "infoed"), "a"
    )
