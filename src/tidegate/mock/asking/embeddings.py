"""OpenAI's embeddings."""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from tidegate.mock.ask import Ask, weighed
from tidegate.mock.asking.openai import bad, wording
from tidegate.mock.asking.shapes import Filled, Positive, Strict, decoded

MOST_INPUTS: Final = 2048
MOST_DIMENSIONS: Final = 3072
MOST_TOKENS: Final = 8192

_Token = Annotated[int, Meta(ge=0)]


class _Body(Strict):
    input: str | Annotated[tuple[str | int | tuple[_Token, ...], ...], Meta(min_length=1)]
    model: Filled | UnsetType = UNSET
    dimensions: Annotated[Positive, Meta(le=MOST_DIMENSIONS)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


def read_ask(model: str, body: bytes) -> Ask:
    """Give what is asked. Shape: `model` is the path's, or "". Errors: BadAsk."""
    said = decoded(body, _Body, wording)
    if not model and said.model is UNSET:
        raise bad("You must provide a model parameter.", "model")
    inputs = _inputs(said.input)
    tokens, variety = weighed(each for each in inputs if isinstance(each, str))
    return Ask(
        model=model or str(said.model),
        user=said.user or "",
        stream=False,
        choices=1,
        wants_usage=True,
        wants_json=False,
        tools=(),
        prompt_tokens=tokens if isinstance(inputs[0], str) else sum(map(len, inputs)),
        variety=variety,
        dialect="embeddings",
        inputs=len(inputs),
        dimensions=said.dimensions or 0,
        base64=said.encoding_format == "base64",
    )


def _inputs(said: str | tuple[str | int | tuple[int, ...], ...]) -> list[str | tuple[int, ...]]:
    """Give the inputs: texts, or else lists of tokens."""
    if isinstance(said, str):
        inputs: list[str | tuple[int, ...]] = [said]
    elif all(isinstance(each, int) for each in said):
        inputs = [tuple(each for each in said if isinstance(each, int))]
    else:
        inputs = [each for each in said if not isinstance(each, int)]
        if len(inputs) != len(said) or len({type(each) for each in inputs}) > 1:
            raise bad("'$.input' is invalid. Its elements must be of one kind.", "input")
    if len(inputs) > MOST_INPUTS:
        raise bad(f"Invalid 'input': array too long. Expected at most {MOST_INPUTS} elements.", "input")
    if not all(inputs):
        raise bad("'$.input' is invalid. An input must not be empty.", "input")
    if any(len(each) > MOST_TOKENS for each in inputs if not isinstance(each, str)):
        raise bad(f"This model's maximum context length is {MOST_TOKENS} tokens.", "input")
    return inputs
