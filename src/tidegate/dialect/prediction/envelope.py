"""What a worker is asked: a prediction's input, and whose it is."""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct, field

from tidegate.dialect.requests import MAX_MODEL_CHARS, decoded
from tidegate.verdict import BAD_REQUEST, Refused

_RULES: Final = {
    "": "a JSON object",
    "model": f"a string of 1 to {MAX_MODEL_CHARS} characters",
    "id": "a string",
    "input": "an object",
}


class Envelope(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prediction's request.

    Shape: `input` is a JSON object that nobody has read yet; `id` is empty for a chat's; `aside` bytes of it are no text.
    """

    model: Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_CHARS)]
    id: str = ""
    input: Raw
    context: dict[str, str] = field(default_factory=dict)
    aside: int = 0


_decode = msgspec.json.Decoder(Envelope).decode
_encode = msgspec.json.Encoder().encode


def write_envelope(model: str, id: str, input: bytes, context: Mapping[str, str], aside: int = 0) -> bytes:  # noqa: A002 (the members' names)
    """Write a request. Shape: `input` is a JSON object, and stays as it is."""
    return _encode(Envelope(model=model, id=id, input=Raw(input), context=dict(context), aside=aside))


def read_envelope(body: bytes) -> Envelope:
    """Read a request. Errors: Refused (bad_request) with the `param` that is wrong."""
    envelope = decoded(_decode, body, _wrong)
    if not bytes(envelope.input).startswith(b"{"):
        raise _wrong("input")
    return envelope


def _wrong(param: str) -> Refused:
    rule = _RULES.get(param, "an object of strings")
    return Refused(BAD_REQUEST, f"`{param}` must be {rule}", param=param)
