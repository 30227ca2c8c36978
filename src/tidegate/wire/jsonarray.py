r"""An array of JSON objects that comes bit by bit: `[{…},\n{…}]`. An element ends at its closing brace.

Only strings and braces are told apart; whether an element is JSON is seen by whoever decodes it. Brackets inside an object
say nothing about its end. What is held is never looked at again; to go on, three things are enough:

    depth    quoted    escaped    the next byte
    0        -         -          stands before the array, within it between two elements, or behind it
    n        no        -          is inside n braces
    n        yes       no         is in a string inside n braces
    n        yes       yes        is in a string behind a backslash: it ends nothing

Source: RFC 8259.
"""

import re
from enum import Enum
from typing import Final

from msgspec import Struct

from tidegate.wire import FrameError
from tidegate.wire.cutter import Cutter

MAX_ELEMENT_BYTES: Final = 4 * 1024 * 1024
"""As of server-sent events: the largest that providers send carry an image or a whole file of audio."""
WHOLE_LEVELS: Final = 8
"""So many levels of braces are matched at once: Gemini's elements have five, and the arguments of a call some more."""
WINDOW_BYTES: Final = 16 * 1024
"""So much is matched at once: an atomic group needs memory for all that it has matched."""

# Where an iteration of a group can fail behind its first byte stands an atomic group, and no possessive quantifier:
# up to Python 3.11.4 the latter goes on from where the iteration failed (gh-106052). One of escapes can fail only where
# the data ends, and nothing is found there.
_ESCAPES: Final = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
# A quote without a backslash before it ends the string: eight times as fast as to read escapes, which are not read either
# where no quote follows.
_TO_QUOTE: Final = rb'(?:[^"]*+(?<!\\)"|(?=[^"]*+")' + _ESCAPES + rb'")'


def _content(levels: int) -> bytes:
    """Give the pattern of what is in an object, up to a brace or quote that begins what is cut, or ends the object.

    Shape: objects in it that have at most so many levels of braces are passed over.
    """
    part = rb'"' + _TO_QUOTE
    if levels:
        part = rb"(?:" + part + rb"|\{" + _content(levels - 1) + rb"\})"
    return rb'[^"{}]*+(?>(?:' + part + rb'[^"{}]*+)*)'


_sign = re.compile(rb"[^ \t\r\n]").search
_sign_within = re.compile(rb"[^ \t\r\n,]").search
# What nearly always comes: an element from begin to end.
_whole = re.compile(rb"[ \t\r\n,]*+\{" + _content(WHOLE_LEVELS - 1) + rb"\}", re.DOTALL).match
_rest_of_string = re.compile(_TO_QUOTE, re.DOTALL).match
# Ends in the rest of a string that is cut, as the first group, or in braces as the second.
_braces = re.compile(_content(WHOLE_LEVELS - 1) + rb'(?:"(.*+)|(\{++|\}?))', re.DOTALL).finditer


class _Place(Enum):
    """Where a stream stands that is in no element: what is wrong with what may not stand there."""

    BEFORE = "the stream is no JSON array"
    WITHIN = "an element of the array is no object"
    BEHIND = "something follows the array"


class Element(Struct, eq=False):
    """One element as it came, with what stands between it and the element before."""

    raw: bytes

    @property
    def data(self) -> bytes:
        """The object, from brace to brace."""
        return self.raw.lstrip(b" \t\r\n,[")


class JsonArrayFramer(Cutter[Element]):
    """Splits one array.

    Shape: white space and commas before an element are part of it, however many. What closes the array is part of none:
    `take` gives it, and `feed` holds it.
    """

    __slots__ = ("_depth", "_escaped", "_place", "_quoted")

    def __init__(self, limit: int = MAX_ELEMENT_BYTES) -> None:
        super().__init__(Element, limit)
        self._place = _Place.BEFORE
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def take(self, data: bytes, /) -> bytes:
        """Give all whole frames as one piece, as they came, and what closes the array; hold the rest."""
        piece = super().take(data)
        return piece + self.release() if self._place is _Place.BEHIND else piece

    def finish(self) -> tuple[()]:
        """Say that nothing more comes. Errors: FrameError when the array is not closed."""
        if self._place is not _Place.BEHIND:
            raise FrameError("the stream ended before its array")
        return ()

    def _unfinished(self) -> bool:
        return self._depth > 0

    def _find(self, data: bytes) -> list[int]:
        ends: list[int] = []
        at, size = 0, len(data)
        while at < size:
            if self._depth:
                at = self._inside_element(data, at)
                if not self._depth:
                    ends.append(at)
            elif self._place is _Place.WITHIN and (found := _whole(data, at, at + WINDOW_BYTES)):
                at = found.end()
                ends.append(at)
            else:
                at = self._outside_elements(data, at)
        return ends

    def _outside_elements(self, data: bytes, at: int) -> int:
        """Give what is behind the next bracket or brace, or the end. Errors: FrameError for anything else."""
        found = (_sign_within if self._place is _Place.WITHIN else _sign)(data, at)
        if found is None:
            return len(data)
        match self._place, found[0]:
            case _Place.BEFORE, b"[":
                self._place = _Place.WITHIN
            case _Place.WITHIN, b"{":
                self._depth = 1
            case _Place.WITHIN, b"]":
                self._place = _Place.BEHIND
            case _:
                raise FrameError(self._place.value)
        return found.end()

    def _inside_element(self, data: bytes, at: int) -> int:
        """Give where the element ends, or the window, or the data."""
        if self._quoted:
            at = self._inside_string(data, at)
        window = min(at + WINDOW_BYTES, len(data))
        for found in _braces(data, at, window):
            cut, braces = found.groups()
            if braces == b"}":
                self._depth -= 1
                if not self._depth:
                    return found.end()
            elif braces:
                self._depth += len(braces)
            elif cut is not None:
                self._cut_string(cut)
        return window

    def _inside_string(self, data: bytes, at: int) -> int:
        """Give where the string ends, or the data."""
        at += self._escaped
        found = _rest_of_string(data, at)
        if found is None:
            self._cut_string(data[at:])
            return len(data)
        self._quoted = False
        return found.end()

    def _cut_string(self, seen: bytes) -> None:
        """Remember that the data ends in a string of which this was seen, from where no escape was open."""
        self._quoted = True
        self._escaped = (len(seen) - len(seen.rstrip(b"\\"))) % 2 == 1
