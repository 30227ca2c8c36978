"""What any stream says, in words of no family: the pivot between dialects.

A decoder turns one dialect's frames into these events, an encoder turns them into another's. A stream reads

    Started  ( Text | Reasoning | Sealed | Refusal | ToolCallStarted ToolArguments+ ToolCallEnded | UsageSeen )*
    Finished, once a choice                                                            Done | Failed

where choices, and calls of one choice, may be interleaved: `index` is the choice, `call` the call within it, both from 0
in the order of their first word. What a dialect lacks its decoder makes up (an id of a call, its end); what a provider says
in pieces stays in pieces, in order. Text is never empty. Without Done, a stream is not complete.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from tidegate.exchange import Usage
from tidegate.wire import Framed


class ProviderError(Struct, frozen=True):
    """An error in a provider's own words. Shape: `kind` is its `type` member; `status` is 0 when it does not say."""

    message: str
    kind: str | None = None
    code: str | None = None
    param: str | None = None
    status: int = 0


class Started(Struct, frozen=True, gc=False):
    """The stream's first word. Shape: '' and 0 where the provider does not say; `created` is in seconds of the Unix epoch."""

    id: str = ""
    model: str = ""
    created: int = 0


class Origin(Struct, frozen=True):
    """Whose answer is written: what is said where the provider does not say it, and the dialect that the provider speaks."""

    id: str
    model: str
    created: int
    dialect: str


class Text(Struct, frozen=True, gc=False):
    """A piece of the answer."""

    index: int
    text: str


class Reasoning(Struct, frozen=True, gc=False):
    """A piece of what the model thought, apart from the answer.

    Shape: `signature` proves to the provider, in a later turn, the thought that ends here; with it `text` may be empty.
    """

    index: int
    text: str
    signature: str = ""


class Sealed(Struct, frozen=True, gc=False):
    """A whole thought that its provider alone can read, and wants back in a later turn."""

    index: int
    data: str
    id: str = ""


class Refusal(Struct, frozen=True, gc=False):
    """A piece of why the model does not answer."""

    index: int
    text: str


class ToolCallStarted(Struct, frozen=True, gc=False):
    """A call of a tool begins. Shape: `id` is never empty; `signature` is for the provider alone, in a later turn."""

    index: int
    call: int
    id: str
    name: str
    signature: str = ""


class ToolArguments(Struct, frozen=True, gc=False):
    """A piece of a call's arguments. Shape: joined, the pieces of a call are JSON: there is one at least."""

    index: int
    call: int
    fragment: str


class ToolCallEnded(Struct, frozen=True, gc=False):
    """All arguments of a call were said."""

    index: int
    call: int


class UsageSeen(Struct, frozen=True, gc=False):
    """Tokens so far. Shape: replaces what was said before, never adds to it."""

    usage: Usage


class Finished(Struct, frozen=True, gc=False):
    """A choice is over. Shape: stop, length, tool_calls, content_filter, else the provider's own word.

    `sequence` is the stop sequence that was met, where the provider says which.
    """

    index: int
    reason: str
    sequence: str = ""


class Failed(Struct, frozen=True, gc=False):
    """The provider gave up. Nothing follows."""

    error: ProviderError


class Done(Struct, frozen=True, gc=False):
    """The stream is complete. Nothing follows."""


Event = (
    Started
    | Text
    | Reasoning
    | Sealed
    | Refusal
    | ToolCallStarted
    | ToolArguments
    | ToolCallEnded
    | UsageSeen
    | Finished
    | Failed
    | Done
)


class EventDecoder(Protocol):
    """Reads one stream."""

    def feed(self, frame: Framed, /) -> Sequence[Event]:
        """Give what a frame says. Errors: FrameError when it cannot be read, or is above a limit."""
        ...

    def finish(self) -> Sequence[Event]:
        """Say that no frame follows. Shape: ends in Done where all was said but the end; otherwise something is missing."""
        ...


class EventEncoder(Protocol):
    """Writes one stream."""

    def write(self, events: Sequence[Event], /) -> bytes:
        """Give whole frames that say it; empty where this dialect has no word for it, or says it later."""
        ...
