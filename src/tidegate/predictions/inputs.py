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
from tidegate.worker.schema import NOT_CHECKED, THE_VALUE, words_of

MAX_TROUBLES: Final = 100
"""How many mistakes of one input are told."""
_ROOT: Final = "__root__"
_MASK: Final = "**********"
"""What stands for a secret."""


class Given(Struct, frozen=True):
    """An input as it came, decoded. Shape: `digest` is the same for those that say the same, whatever their keys' order."""

    members: Any
    digest: bytes


class Checked(Struct, frozen=True):
    """An input that a handler can be given. Shape: JSON; `dropped` counts the members that no parameter takes.

    Shape: `shown` is what may be told of it later, without secrets; so many characters as `aside` are files and secrets.
    """

    json: bytes
    shown: bytes
    dropped: int
    aside: int = 0


class Inputs:
    """Checks the inputs of one handler. Holds: its schema, compiled once. Errors: ValueError for one that is none."""

    def __init__(self, info: Info) -> None:
        schema = msgspec.json.decode(info.input_schema)
        self.info = info
        self._open = schema.get("additionalProperties") is True
        properties = schema.get("properties", {})
        self._known = frozenset(info.parameters) | frozenset(properties)
        self._whole = frozenset(name for name, hint in properties.items() if hint.get("type") == "integer")
        self._secret = frozenset(name for name, hint in properties.items() if _is_secret(hint))
        self._apart = self._secret | frozenset(info.files)
        self._validator = jsonschema_rs.validator_for(schema, mask=THE_VALUE)

    def check(self, given: Given) -> Checked:
        """Give what the handler gets. Errors: Refused (bad_request), with every mistake."""
        members, dropped = given.members, 0
        if isinstance(members, dict) and not self._open:
            kept = {name: value for name, value in members.items() if name in self._known}
            dropped = len(members) - len(kept)
            members = kept
        troubles = self._troubles(members)
        if troubles:
            raise unprocessable(*sorted(troubles, key=lambda trouble: trouble.loc))
        for name in self._whole & members.keys():
            members[name] = int(members[name])  # 1.0 is an integer to a schema, and none to Python
        text = msgspec.json.encode(members)
        masked = {name: _masked(members[name]) for name in self._secret & members.keys()}
        aside = sum(_chars(members[name]) for name in self._apart & members.keys())
        return Checked(text, msgspec.json.encode(members | masked) if masked else text, dropped, aside)

    def _troubles(self, members: Any) -> list[Trouble]:
        try:
            if self._validator.is_valid(members):
                return []
            return [_trouble(error) for error in islice(self._validator.iter_errors(members), MAX_TROUBLES)]
        except ValueError:
            return [Trouble(("body", "input", _ROOT), NOT_CHECKED)]


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


def _is_secret(hint: Any) -> bool:
    """Say whether a parameter is a secret, or has some in lists or as a choice."""
    if not isinstance(hint, dict):
        return False
    within = (hint.get("items"), *hint.get("anyOf", ()))
    return "x-cog-secret" in hint or any(map(_is_secret, within))


def _masked(value: Any) -> Any:
    if isinstance(value, list):
        return [_masked(each) for each in value]
    return None if value is None else _MASK


def _chars(value: Any) -> int:
    """Give how long a text is, or the texts of a list."""
    if isinstance(value, list):
        return sum(map(_chars, value))
    return len(value) if isinstance(value, str) else 0


def _trouble(error: ValidationError) -> Trouble:
    path = [str(part) for part in error.instance_path]
    kind = error.kind
    if isinstance(kind, ValidationErrorKind.Required):
        return Trouble(("body", "input", "/".join([*path, kind.property])), "Field required", "value_error.missing")
    return Trouble(("body", "input", "/".join(path) or _ROOT), words_of(error))
