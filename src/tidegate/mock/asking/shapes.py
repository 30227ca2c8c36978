"""JSON into strict shapes, and what is wrong with it: each dialect words that itself, as its provider does."""

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

T = TypeVar("T")
_MEMBER: Final = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)
_URL: Final = re.compile(r"https?://[^\s/]+\S*")
_DATA_URL: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,")
_DATA_URL_HEAD: Final = 200

# Far above what any provider takes: a bound of the mock, not a rule of theirs.
Many = Annotated[tuple[T, ...], Meta(max_length=10_000)]
Tools = Annotated[tuple[T, ...], Meta(max_length=512)]
Filled = Annotated[str, Meta(min_length=1)]
Positive = Annotated[int, Meta(ge=1)]
Unit = Annotated[float, Meta(ge=0, le=1)]
Blob = Annotated[bytes, Meta(min_length=1)]
Object = dict[str, object]


class Strict(Struct, forbid_unknown_fields=True):
    """An object that has these members and no others."""


class Union(Strict):
    """An object of which exactly one member is to be there. Shape: all are UNSET at first."""

    def members(self) -> list[tuple[str, object]]:
        """Give the names and values of those that are there."""
        names = zip(self.__struct_encode_fields__, self.__struct_fields__, strict=True)
        return [(said, value) for said, name in names if (value := getattr(self, name)) is not msgspec.UNSET]


class Mistake(Struct, frozen=True):
    """What is wrong with a body, and where. Shape: `path` like messages[0].content, of the member that is unknown or missing."""

    kind: Literal["json", "unknown", "missing", "value"]
    path: str = ""
    words: str = ""

    def is_choice(self) -> bool:
        """Say whether the value is none of those that are known."""
        return self.words.startswith("Invalid")


Wording = Callable[[Mistake], Exception]


@contextmanager
def worded(wording: Wording, within: str = "") -> Iterator[None]:
    """Have what goes wrong with a body worded. Shape: `within` is the path of what is decoded. Errors: what `wording` gives."""
    try:
        yield
    except msgspec.ValidationError as error:
        raise wording(_mistake(str(error), within)) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise wording(Mistake("json")) from None


def decoded(body: bytes | msgspec.Raw, shape: type[T], wording: Wording, within: str = "") -> T:
    """Give a body in a shape. Errors: what `wording` gives."""
    with worded(wording, within):
        return msgspec.json.decode(body, type=shape)


def _mistake(error: str, within: str) -> Mistake:
    words, found, at = error.rpartition(" - at `$")
    if not found:
        words, at = error, ""
    path = (within + at.removesuffix("`")).removeprefix(".")
    if named := _MEMBER.fullmatch(words):
        kind: Literal["unknown", "missing"] = "unknown" if named[1] == "contains unknown" else "missing"
        return Mistake(kind, f"{path}.{named[2]}".removeprefix("."), words)
    return Mistake("value", path, words)


def dotted(path: str) -> str:
    """Give a path as messages.0.content."""
    return re.sub(r"\[(\d+|\.\.\.)\]", r".\1", path)


def is_url(url: str) -> bool:
    """Say whether this is an address on the web."""
    return _URL.fullmatch(url) is not None


def is_data_url(url: str, kind: str = "") -> bool:
    """Say whether this is a data URL that holds something in Base64. Shape: `kind` is how its media type begins."""
    head = _DATA_URL.match(url[:_DATA_URL_HEAD])
    return head is not None and head[1].startswith(kind) and is_base64(url[head.end() :])


def is_base64(data: str) -> bool:
    """Say whether this is Base64 of something."""
    try:
        return bool(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        return False


def twice(names: list[str]) -> str:
    """Give the first name that comes a second time, or ""."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""
