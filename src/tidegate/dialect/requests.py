"""What requests of every dialect have in common: how they are decoded, what of them is refused, and why."""

import re
from codecs import getincrementaldecoder
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw

from tidegate.dialect.conversation import Untranslatable
from tidegate.verdict import BAD_REQUEST, Refused

MAX_MODEL_CHARS: Final = 256
MAX_DIGITS: Final = 9
"""A longer number is none that anybody means."""
MAX_USER_BYTES: Final = 1024

ABSENT: Final = Raw()
"""An absent member: it has no bytes."""

_SLICE_BYTES: Final = 64 * 1024

T = TypeVar("T")

_decode = msgspec.json.Decoder(object).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode

_path = re.compile(r"at `\$\.?([^`]*)`").search
_missing = re.compile(r"missing required field `([^`]*)`").search
# A letter of "model" written as an escape: nobody does, unless to say one thing to us and another to the provider.
_veiled_model = re.compile(rb"\\u006[cdfCDF45]").search
_member = re.compile(rb'[ \t\r\n]*+[{,][ \t\r\n]*+("(?:[^"\\]++|\\.)*+")[ \t\r\n]*+:[ \t\r\n]*+').match
_after_value = re.compile(rb"[ \t\r\n,}]").match


def decoded(decode: Callable[[bytes], T], body: bytes, wrong: Callable[[str], Refused]) -> T:
    """Decode a body. Shape: `wrong` gives the refusal that names a member. Errors: Refused; it never shows what was sent."""
    if not body.isascii():
        _check_utf8(body)
    try:
        return decode(body)
    except RecursionError:
        raise Refused(BAD_REQUEST, "the body is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise _refusal(str(error), wrong) from None
    except msgspec.DecodeError as error:
        raise Refused(BAD_REQUEST, f"the body is not valid JSON: {error}") from None


def check_members(body: bytes) -> None:
    """Refuse an object that has a member twice: parsers differ in which one counts. Errors: Refused.

    Shape: where the model is named once and plainly, no other member is looked at.
    """
    if body.count(b'"model"') != 1 or _veiled_model(body):
        _walk_members(body)


def number_of(value: Raw) -> int:
    """Give a whole number; 0 where it is none, which is for the provider to refuse."""
    digits = bytes(value)
    return int(digits) if digits.isdigit() and len(digits) <= MAX_DIGITS else 0


def words_of(value: Raw) -> str:
    """Give a text; none where it is no text, or too long to be anybody's name."""
    if not 2 < len(value) <= MAX_USER_BYTES:
        return ""
    try:
        return _decode_text(value)
    except msgspec.DecodeError:
        return ""


def shown(name: str) -> str:
    """Give a member's name as an error says it: a long one is cut."""
    return name if len(name) <= MAX_MODEL_CHARS else name[:MAX_MODEL_CHARS] + "…"


def _check_utf8(body: bytes) -> None:
    """Refuse what is not UTF-8. The JSON decoder looks at the strings it keeps only. Holds: one slice decoded at a time."""
    decoder = getincrementaldecoder("utf-8")()
    view = memoryview(body)
    try:
        for start in range(0, len(body), _SLICE_BYTES):
            decoder.decode(view[start : start + _SLICE_BYTES], start + _SLICE_BYTES >= len(body))
    except UnicodeDecodeError:
        raise Refused(BAD_REQUEST, "the body is not valid UTF-8") from None


def _walk_members(body: bytes) -> None:
    """Refuse a member that comes twice.

    Shape: walks from member to member by the lengths of their values, without looking into them.
    """
    expected = iter(_decode_members(body).items())
    at = 0
    while found := _member(body, at):
        name = str(_decode(found[1]))
        key, value = next(expected, ("", b""))
        at = found.end() + len(bytes(value))
        # Of two numbers, the last one can be how the first one begins: so what follows is looked at, too.
        if name != key or not body.startswith(bytes(value), found.end()) or not _after_value(body, at):
            param = shown(name)
            raise Refused(BAD_REQUEST, f"`{param}` is given twice", param=param)


def _refusal(error: str, wrong: Callable[[str], Refused]) -> Refused:
    """Give the refusal for a body of which a member is missing, or of the wrong type."""
    found, missing = _path(error), _missing(error)
    steps = [step for step in (found and found[1], missing and missing[1]) if step]
    return wrong(".".join(steps)) if steps else Refused(BAD_REQUEST, "the body must be a JSON object")


class Members:
    """An object of a client's request, read member by member: what is left in the end was not understood.

    Shape: a member that is null is not there. `at` is where the object stands in the request; `dropped` collects what need
    not be said. Errors: Refused (bad_request), naming the member that has the wrong type.
    """

    __slots__ = ("_at", "_dropped", "_left")

    def __init__(self, value: object, at: str, dropped: list[str]) -> None:
        self._at = at
        self._dropped = dropped
        if not isinstance(value, dict):
            raise self._wrong(at, "an object")
        self._left = {name: given for name, given in value.items() if given is not None}

    def at(self, name: str) -> str:
        """Give where a member stands."""
        return f"{self._at}.{name}" if self._at else name

    def text(self, name: str) -> str | None:
        """Give a text; None where there is none."""
        value = self._left.pop(name, None)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong(self.at(name), "a string")

    def need(self, name: str) -> str:
        """Give a text that has to be there."""
        value = self.text(name)
        if value is None:
            raise self._wrong(self.at(name), "a string")
        return value

    def flag(self, name: str) -> bool | None:
        """Give whether it is so; None where nothing says it."""
        value = self._left.pop(name, None)
        if value is None or isinstance(value, bool):
            return value
        raise self._wrong(self.at(name), "true or false")

    def whole(self, name: str) -> int | None:
        """Give a whole number; None where there is none."""
        value = self._left.pop(name, None)
        if value is None or type(value) is int:
            return value
        raise self._wrong(self.at(name), "an integer")

    def number(self, name: str) -> float | None:
        """Give a number; None where there is none."""
        value = self._left.pop(name, None)
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            return value
        raise self._wrong(self.at(name), "a number")

    def mapping(self, name: str) -> dict[str, Any] | None:
        """Give an object as it is; None where there is none."""
        value = self._left.pop(name, None)
        if value is None or isinstance(value, dict):
            return value
        raise self._wrong(self.at(name), "an object")

    def inner(self, name: str) -> "Members":
        """Give an object to read; an empty one where there is none."""
        return Members(self._left.pop(name, {}), self.at(name), self._dropped)

    def items(self, name: str) -> list[tuple[str, object]]:
        """Give where each item of an array stands, and the item; none where there is no array."""
        value = self._left.pop(name, [])
        if not isinstance(value, list):
            raise self._wrong(self.at(name), "an array")
        return [(f"{self.at(name)}[{number}]", item) for number, item in enumerate(value)]

    def texts_or(self, name: str) -> str | list[tuple[str, object]]:
        """Give a text, or the items of an array."""
        value = self._left.get(name)
        if isinstance(value, str):
            return self.need(name)
        return self.items(name)

    def drop(self, *names: str) -> None:
        """Take note of members that need not be said, where they are there."""
        for name in names:
            if self._left.pop(name, None) is not None:
                self._dropped.append(name)

    def refuse(self, name: str, rule: str) -> Refused:
        """Give the refusal of a member that has been read."""
        return self._wrong(self.at(name), rule)

    def end(self) -> None:
        """Say that no member is read any more. Errors: Untranslatable, naming one that was not understood."""
        for name in self._left:
            param = self.at(shown(name))
            raise Untranslatable(param, f"`{param}` cannot be said to a provider of another kind")

    @staticmethod
    def _wrong(param: str, rule: str) -> Refused:
        return Refused(BAD_REQUEST, f"`{param}` must be {rule}" if param else f"the body must be {rule}", param=param)
