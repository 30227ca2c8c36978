"""What passes through unread: whatever a provider's own clients speak. Its streams are watched for usage, and that is all."""

import re
from typing import Any, Final

from tidegate.dialect import Notice, ProviderError, Sight
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.values import last_usage, object_of
from tidegate.exchange import Usage
from tidegate.wire import Framed, FrameError

# A key that ends so, and an object behind it: `usage` of all but Google, and Google's `usageMetadata`.
_usage = re.compile(rb'sage(?:Metadata)?"\s*+:\s*+\{').search

_INPUT: Final = ("prompt_tokens", "input_tokens", "promptTokenCount", "inputTokens")
_OUTPUT: Final = ("completion_tokens", "output_tokens", "candidatesTokenCount", "outputTokens")


class Passage(OpenAIChat):
    """The dialect of `/p/{provider}/…`, which is any. The gateway's own errors are in OpenAI's envelope."""

    __slots__ = ()

    name = "passthrough"
    terminator = b""

    @staticmethod
    def envelope(block: bytes, /) -> tuple[bytes, bytes] | None:  # noqa: ARG004 (nobody knows how text is wrapped here)
        """Give nothing: every block is looked at."""
        return None

    @staticmethod
    def look(frame: Framed, /) -> tuple[Sight, ProviderError | None]:
        """Take any data for content."""
        return (Sight.SILENT if frame.data is None else Sight.CONTENT), None

    @staticmethod
    def hit(block: bytes, start: int, /) -> int:
        """Give where usage may be."""
        found = _usage(block, start)
        return -1 if found is None else found.start()

    @staticmethod
    def notice(frame: Framed, /) -> Notice:
        """Read usage, in whichever family's words."""
        return Passage.read_response(frame.data or b"")

    @staticmethod
    def read_response(body: bytes, /) -> Notice:
        """Read usage, if this says any."""
        try:
            return Notice(usage=_usage_in(object_of(body)))
        except FrameError:
            return Notice()

    @staticmethod
    def usage_in_tail(tail: bytes, /) -> Usage | None:
        """Find the usage in the end of a body that passed in pieces."""
        return last_usage(tail, _counts)


def _counts(members: object) -> Usage | None:
    """Read a usage object in whichever family's words."""
    if not isinstance(members, dict):
        return None
    counts = _first(members, _INPUT), _first(members, _OUTPUT)
    return Usage(input_tokens=counts[0], output_tokens=counts[1]) if counts != (0, 0) else None


def _usage_in(value: dict[str, Any]) -> Usage | None:
    """Find usage in an object, or in the message or response that it carries."""
    for holder in (value, value.get("response"), value.get("message")):
        usage = _counts(holder.get("usage") or holder.get("usageMetadata")) if isinstance(holder, dict) else None
        if usage is not None:
            return usage
    return None


def _first(members: dict[str, Any], names: tuple[str, ...]) -> int:
    return next((members[name] for name in names if type(members.get(name)) is int and members[name] > 0), 0)
