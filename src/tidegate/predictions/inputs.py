"""What clients give a handler: read, compared, and checked against the schema that its type hints make."""

import hashlib
from itertools import islice
from typing import Any, Final

import jsonschema_rs
import msgspec
from jsonschema_rs import ValidationError, ValidationErrorKind
from msgspec import Raw, Struct

from tidegate.predictions.requests import Trouble, malformed, unprocessable
from tidegate.worker.messages import Info

MAX_TROUBLES: Final = 100
"""How many mistakes of one input are told."""
_ROOT: Final = "__root__"
_THE_VALUE: Final = "the value"


class Given(Struct, frozen=True):
    """An input as it came, decoded. Shape: `digest` is the same for those that say the same, whatever their keys' order."""

    members: Any
    digest: bytes


class Checked(Struct, frozen=True):
    """An input that a handler can be given. Shape: JSON; `dropped` counts the members that no parameter takes."""

    json: bytes
    dropped: int


class Inputs:
    """Checks the inputs of one handler. Holds: its schema, compiled once. Errors: ValueError for one that is none."""

    def __init__(self, info: Info) -> None:
        schema = msgspec.json.decode(info.input_schema)
        self.info = info
        self._open = schema.get("additionalProperties") is True
        properties = schema.get("properties", {})
        self._known = frozenset(info.parameters) | frozenset(properties)
        self._whole = frozenset(name for name, hint in properties.items() if hint.get("type") == "integer")
        self._validator = jsonschema_rs.validator_for(schema, mask=_THE_VALUE)

    def check(self, given: Given) -> Checked:
        """Give what the handler gets. Errors: Refused (bad_request), with every mistake."""
        members, dropped = given.members, 0
        if isinstance(members, dict) and not self._open:
            kept = {name: value for name, value in members.items() if name in self._known}
            dropped = len(members) - len(kept)
            members = kept
        if not self._validator.is_valid(members):
            troubles = [_trouble(error) for error in islice(self._validator.iter_errors(members), MAX_TROUBLES)]
            raise unprocessable(*sorted(troubles, key=lambda trouble: trouble.loc))
        for name in self._whole & members.keys():
            members[name] = int(members[name])  # 1.0 is an integer to a schema, and none to Python
        return Checked(msgspec.json.encode(members), dropped)


def read_input(raw: Raw) -> Given:
    """Decode an input. Shape: null is none. Errors: Refused (bad_request), with 400 or 422."""
    try:
        members = msgspec.json.decode(raw)
    except msgspec.ValidationError as error:  # a number that no computer holds
        raise unprocessable(Trouble(("body", "input", _ROOT), "a number is out of range")) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from error
    if members is None:
        members = {}
    return Given(members, hashlib.sha256(msgspec.json.encode(members, order="sorted")).digest())


def _trouble(error: ValidationError) -> Trouble:
    path = [str(part) for part in error.instance_path]
    kind = error.kind
    if isinstance(kind, ValidationErrorKind.Required):
        return Trouble(("body", "input", "/".join([*path, kind.property])), "Field required", "value_error.missing")
    return Trouble(("body", "input", "/".join(path) or _ROOT), _words(error))


def _words(error: ValidationError) -> str:
    """Say what is expected. Shape: of a choice of schemas, what each expects."""
    kind = error.kind
    if not isinstance(kind, ValidationErrorKind.AnyOf):
        return error.message
    several = dict.fromkeys(inner.message for branch in kind.context for inner in islice(branch, MAX_TROUBLES))
    return ", and ".join(several) or error.message
