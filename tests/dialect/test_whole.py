"""Calls of providers that say each at once."""

import pytest

from tidegate.dialect.conversation import CallPart
from tidegate.dialect.events import ToolArguments, ToolCallEnded, ToolCallStarted
from tidegate.dialect.values import arguments_of
from tidegate.dialect.whole import WholeCalls
from tidegate.wire import FrameError


def told(arguments: object) -> str:
    started, argued, ended = WholeCalls().tell(0, "tide", arguments, "", answer="a1")
    assert (started, ended) == (ToolCallStarted(0, 0, "call_a1_0_0", "tide"), ToolCallEnded(0, 0))
    assert isinstance(argued, ToolArguments)
    return argued.fragment


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ({"x": 1}, '{"x":1}'),
        ('{"x": 1}', '{"x": 1}'),
        ('{"x": "\\ud83c"}', '{"x": "\\ud83c"}'),
        ({}, "{}"),
        (None, "{}"),
        ("", "{}"),
        ([], "{}"),
    ],
)
def test_arguments_are_an_object_or_the_text_of_one(arguments: object, fragment: str) -> None:
    assert told(arguments) == fragment


@pytest.mark.parametrize("arguments", ["x", "[]", '{"x":', "\ud83c", 7, [1], True])
def test_arguments_that_are_no_object_cannot_be_read(arguments: object) -> None:
    with pytest.raises(FrameError):
        told(arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"x":1}', {"x": 1}),
        ("{}", {}),
        ('{"x":', {"INVALID_JSON": '{"x":'}),
        ("[]", {"INVALID_JSON": "[]"}),
    ],
)
def test_what_a_model_said_instead_of_an_object_is_wrapped_in_one(arguments: str, expected: dict[str, object]) -> None:
    assert arguments_of(CallPart("c1", "tide", arguments)) == expected
