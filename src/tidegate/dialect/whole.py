"""What dialects share that providers alone speak: calls that come whole, instants, and bodies read as streams of one frame."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from tidegate.dialect import Notice
from tidegate.dialect.events import (
    Done,
    Event,
    EventDecoder,
    Failed,
    Finished,
    ProviderError,
    ToolArguments,
    ToolCallEnded,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.dialect.values import json_of, object_of
from tidegate.exchange import Usage
from tidegate.wire import FrameError

MAX_CALLS: Final = 1024
"""Calls of tools in one stream."""

_Instant = Annotated[datetime, Meta(tz=True)]


class WholeCalls:
    """Counts the calls of one stream whose provider says each at once. Holds: a number for each choice that made one."""

    __slots__ = ("_counts", "_left")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._left = MAX_CALLS

    def made(self, index: int) -> int:
        """Give how many calls a choice has made."""
        return self._counts.get(index, 0)

    def tell(
        self, index: int, name: str, arguments: object, ident: str, signature: str = "", *, answer: str
    ) -> tuple[Event, Event, Event]:
        """Give all that a call says. Shape: where it has no id, one is made of the answer's. Errors: FrameError."""
        fragment = fragment_of(arguments) or "{}"
        if isinstance(arguments, str):
            object_of(fragment.encode(errors="surrogatepass"))
        if not self._left:
            raise FrameError(f"there are more than {MAX_CALLS} calls of tools")
        self._left -= 1
        number = self.made(index)
        self._counts[index] = number + 1
        return (
            ToolCallStarted(index, number, ident or f"call_{answer}_{index}_{number}", name, signature),
            ToolArguments(index, number, fragment),
            ToolCallEnded(index, number),
        )


def fragment_of(arguments: object) -> str:
    """Give a call's arguments as a text: as it came, or the JSON of an object; '' for none. Errors: FrameError."""
    if type(arguments) is str:
        return arguments
    if not arguments:
        return ""
    if isinstance(arguments, dict):
        return json_of(arguments).decode()
    raise FrameError("the arguments of a call are neither an object nor a text")


def seconds_of(instant: object) -> int:
    """Give an instant of RFC 3339 in seconds of the Unix epoch; 0 for what is none, or is before it."""
    try:
        return max(0, int(msgspec.convert(instant, _Instant).timestamp()))
    except msgspec.ValidationError:
        return 0


def text_of(value: object) -> str:
    """Give a text; '' for what is none."""
    return value if type(value) is str else ""


def count_of(value: object) -> int:
    """Give a count; 0 for what is none."""
    return value if type(value) is int and value > 0 else 0


def dict_of(value: object) -> dict[str, Any] | None:
    """Give an object; None for what is none."""
    return value if isinstance(value, dict) else None


def dicts_of(value: object) -> list[dict[str, Any]]:
    """Give the objects of an array; none for what is none."""
    return [member for member in value if isinstance(member, dict)] if isinstance(value, list) else []


class _Body(Struct):
    """A whole body as a frame."""

    raw: bytes

    @property
    def data(self) -> bytes:
        return self.raw


def answer_of(body: bytes, decoder: EventDecoder) -> Sequence[Event]:
    """Read a whole body. Shape: ends in Done, or in Failed where it lacks what would complete a stream. Errors: FrameError."""
    events = [*decoder.feed(_Body(body))]
    if not isinstance(events[-1] if events else None, (Done, Failed)):
        events += decoder.finish() or (Failed(ProviderError("the provider's answer is not complete", status=502)),)
    return events


def notice_of(events: Sequence[Event]) -> Notice:
    """Give what a whole answer says besides content."""
    usage: Usage | None = None
    error: ProviderError | None = None
    reasons: list[str] = []
    for event in events:
        match event:
            case UsageSeen():
                usage = event.usage
            case Finished():
                reasons.append(event.reason)
            case Failed():
                error = event.error
    return Notice(usage=usage, finish_reason=reasons[0] if reasons else "", finished=len(reasons), error=error)
