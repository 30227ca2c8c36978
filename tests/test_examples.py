"""The models of `examples/`, loaded as `tidegate serve --predict` loads them."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from tidegate.predict.handler import Handler, load

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(handler: Handler, **given: Any) -> list[Any]:
    """Give all that a handler gives for an input, as a worker would ask it."""
    running = handler.make()
    running.setup(None)
    arguments = handler.arguments(given, {})
    try:
        output = running.call(arguments)
        assert inspect.isgenerator(output)
        return [*output]
    finally:
        handler.close(arguments)


def test_every_example_model_is_tried_here() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/model.py")} == {"hello", "transformers_tiny"}


def test_the_smallest_model_greets_as_often_as_it_is_asked() -> None:
    handler = load(f"{EXAMPLES / 'hello' / 'model.py'}:Model")
    assert (handler.kind, handler.streams, handler.array) == ("generator", True, True)
    assert run(handler, name="Ada") == ["Hello, Ada! "]
    assert run(handler, name="Ada", times=2) == ["Hello, Ada! "] * 2


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_model_of_transformers_streams_its_tokens() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    handler = load(f"{EXAMPLES / 'transformers_tiny' / 'model.py'}:Model")
    assert (handler.kind, handler.takes, handler.streams) == ("generator", "prompt", True)
    said = run(handler, prompt="The tide é", max_new_tokens=20, seed=7)
    assert len(said) == 20
    assert all(len(token) == 1 for token in said)
    assert run(handler, prompt="The tide é", max_new_tokens=20, seed=7) == said
    assert len(run(handler, prompt="x" * 5000, max_new_tokens=3, temperature=0)) == 3
