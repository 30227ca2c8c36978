"""Ollama's own chat, `/api/chat`: a line of JSON for each piece of an answer."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import structs

from tidegate.dialect import Notice, ProviderError, Sight, sight_of
from tidegate.dialect.conversation import Conversation, Loss, Written
from tidegate.dialect.events import Event
from tidegate.dialect.ollama.events import OllamaDecoder
from tidegate.dialect.ollama.writing import LACKS, written
from tidegate.dialect.openai_chat.values import error_in
from tidegate.dialect.values import object_of, said_plainly
from tidegate.dialect.whole import answer_of, notice_of
from tidegate.exchange import Ask
from tidegate.wire import Framed, FrameError


class Ollama:
    """The dialect of `/api/chat`."""

    __slots__ = ()

    name = "ollama"
    lacks: Final[Mapping[str, Loss]] = LACKS

    @staticmethod
    def write_conversation(conversation: Conversation, model: str, /) -> Written:
        """Write a request. Errors: Untranslatable for what it has no word for."""
        return written(conversation, model)

    @staticmethod
    def look(frame: Framed, /) -> tuple[Sight, ProviderError | None]:
        """Judge a frame of a stream that is opening. Errors: FrameError when it cannot be read."""
        return sight_of(OllamaDecoder().feed(frame))

    @staticmethod
    def read_response(body: bytes, /) -> Notice:
        """Read a whole body that is not a stream. Errors: FrameError when it is not an object."""
        return notice_of(answer_of(body, OllamaDecoder()))

    @staticmethod
    def read_answer(body: bytes, /) -> Sequence[Event]:
        """Read all of such a body. Errors: FrameError."""
        return answer_of(body, OllamaDecoder())

    @staticmethod
    def read_error(status: int, body: bytes, /) -> ProviderError:
        """Read a provider's refusal. Shape: its own message, else the first printable text, else the status."""
        try:
            error = error_in(object_of(body))
        except FrameError:
            error = None
        return structs.replace(error or ProviderError(said_plainly(body, status)), status=status)

    @staticmethod
    def decoder(_ask: Ask, /) -> OllamaDecoder:
        """Give what reads the stream that answers a request."""
        return OllamaDecoder()
