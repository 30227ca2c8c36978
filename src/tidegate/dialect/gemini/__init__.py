"""Google's generateContent and streamGenerateContent, as the Gemini API and Vertex AI speak them.

A stream comes as server-sent events, or as a JSON array: what its frames say is the same.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from tidegate.dialect import Notice, ProviderError, Sight, sight_of
from tidegate.dialect.conversation import Conversation, Loss, Written
from tidegate.dialect.events import Event
from tidegate.dialect.gemini.events import GeminiDecoder
from tidegate.dialect.gemini.values import refusal_of
from tidegate.dialect.gemini.writing import LACKS, written
from tidegate.dialect.whole import answer_of, notice_of
from tidegate.exchange import Ask
from tidegate.wire import Framed


class Gemini:
    """The dialect of `models/*:generateContent`. Shape: the model, and whether the answer is a stream, are in the path."""

    __slots__ = ()

    name = "gemini"
    lacks: Final[Mapping[str, Loss]] = LACKS

    @staticmethod
    def write_conversation(conversation: Conversation, model: str, /) -> Written:
        """Write a request. Errors: Untranslatable for what it has no word for."""
        return written(conversation, model)

    @staticmethod
    def look(frame: Framed, /) -> tuple[Sight, ProviderError | None]:
        """Judge a frame of a stream that is opening. Shape: a reason to end is content. Errors: FrameError."""
        decoder = GeminiDecoder()
        return sight_of([*decoder.feed(frame), *decoder.finish()])

    @staticmethod
    def read_response(body: bytes, /) -> Notice:
        """Read a whole body that is not a stream. Errors: FrameError when it is not an object."""
        return notice_of(answer_of(body, GeminiDecoder()))

    @staticmethod
    def read_answer(body: bytes, /) -> Sequence[Event]:
        """Read all of such a body. Errors: FrameError."""
        return answer_of(body, GeminiDecoder())

    @staticmethod
    def read_error(status: int, body: bytes, /) -> ProviderError:
        """Read a provider's refusal. Shape: its own message, else the first printable text, else the status."""
        return refusal_of(status, body)

    @staticmethod
    def decoder(_ask: Ask, /) -> GeminiDecoder:
        """Give what reads the stream that answers a request."""
        return GeminiDecoder()
