"""What a handler's schema says: how the handler is asked in chats, and what of their inputs it forbids.

Loads the validator, which takes 3 MB.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Final

import jsonschema_rs
from jsonschema_rs import ValidationError, ValidationErrorKind

from tidegate.dialect.prediction import Mistake, PredictionProvider
from tidegate.worker.messages import Info

MAX_WORDS: Final = 100
"""Of a choice of schemas, so many reasons are told why an input fits none."""
THE_VALUE: Final = "the value"
"""What stands for values in messages."""
NOT_CHECKED: Final = "it is nested too deeply"
"""What the validator does not look at."""


def provider_of(info: Info) -> PredictionProvider:
    """Give how a handler is asked in chats, each input checked before. Errors: ValueError, for who wrote the handler."""
    schema = bytes(info.input_schema)
    try:
        check = _Check(schema)
        return PredictionProvider(info.takes or "prompt", info.parameters, schema, files=info.files, check=check)
    except ValidationError as error:
        raise ValueError(_sentence([str(part) for part in error.instance_path], error.instance)) from None
    except Exception as error:  # here it fails a setup, which says so, and later it would fail each request
        raise ValueError(f"inputs cannot be checked against the handler's schema: {error}") from error


class _Check:
    """Looks for what a schema forbids. Holds: the schema, compiled."""

    def __init__(self, schema: bytes) -> None:
        self._validator = jsonschema_rs.validator_for(schema.decode(), mask=THE_VALUE)

    def __call__(self, members: Mapping[str, object]) -> Mistake | None:
        """Give the first mistake; None where there is none."""
        try:
            if self._validator.is_valid(members):
                return None
            error = next(self._validator.iter_errors(members))
        except ValueError:
            return Mistake("", NOT_CHECKED)
        name, *inside = [str(part) for part in error.instance_path] or [""]
        return Mistake(name, f"at {'.'.join(inside)}: {words_of(error)}" if inside else words_of(error))


def words_of(error: ValidationError) -> str:
    """Say what is expected. Shape: of a choice of schemas, what each expects."""
    kind = error.kind
    if not isinstance(kind, ValidationErrorKind.AnyOf):
        return error.message
    several = dict.fromkeys(inner.message for branch in kind.context for inner in islice(branch, MAX_WORDS))
    return ", and ".join(several) or error.message


def _sentence(path: list[str], found: object) -> str:
    name = path[1] if len(path) > 1 and path[0] == "properties" else ""
    if name and path[-1] == "pattern":
        return (
            f"the regex {found} of the input {name!r} cannot be used: inputs are checked with Rust's regular expressions, "
            r"which have no \Z (but \z), no (?P=name) and no conditions"
        )
    place = f"of the input {name!r}" if name else "of the inputs"
    return f"the schema {place} cannot be used: {found!r} at {'/'.join(path) or 'its root'} is no JSON Schema"
