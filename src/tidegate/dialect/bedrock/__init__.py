"""Amazon Bedrock: Converse, which all its models speak, and how Bedrock frames what Anthropic's models say in their own words.

What is read is read leniently: a member of an unexpected type says nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from tidegate.dialect import Notice, Sight, sight_of
from tidegate.dialect.bedrock.events import NAME, ConverseDecoder, answer_of, message_in
from tidegate.dialect.bedrock.invoke import InvokeFrame, InvokeFramer
from tidegate.dialect.bedrock.writing import LACKS, write
from tidegate.dialect.conversation import Conversation, Loss, Written
from tidegate.dialect.events import Event, ProviderError
from tidegate.dialect.values import cut, object_of, said_plainly
from tidegate.dialect.whole import notice_of
from tidegate.exchange import Ask
from tidegate.wire import Framed, FrameError

__all__ = ["BedrockConverse", "InvokeFrame", "InvokeFramer"]

_KINDS: Final = ("__type", "code")


class BedrockConverse:
    """The dialect of `/model/{id}/converse` and `/model/{id}/converse-stream`, whose frames are an event stream's messages."""

    __slots__ = ()

    name = NAME
    lacks: Mapping[str, Loss] = LACKS

    @staticmethod
    def write_conversation(conversation: Conversation, model: str, /) -> Written:
        """Write a request. Shape: `model` decides what else is known; it stands in the path. Errors: Untranslatable."""
        return write(conversation, model)

    @staticmethod
    def look(frame: Framed, /) -> tuple[Sight, ProviderError | None]:
        """Judge a message of a stream that is opening. Errors: FrameError when it cannot be read."""
        return sight_of(ConverseDecoder().feed(frame))

    @staticmethod
    def read_response(body: bytes, /) -> Notice:
        """Read a whole body that is not a stream. Errors: FrameError when it is not an object."""
        return notice_of(answer_of(object_of(body)))

    @staticmethod
    def read_answer(body: bytes, /) -> Sequence[Event]:
        """Read all of such a body. Shape: as of a stream, Done included. Errors: FrameError."""
        return answer_of(object_of(body))

    @staticmethod
    def read_error(status: int, body: bytes, /) -> ProviderError:
        """Read a refusal. Shape: the kind mostly stands in a header, so that the status alone says what it is."""
        try:
            members = object_of(body)
        except FrameError:
            members = {}
        kinds = [kind.rpartition("#")[2] for kind in map(members.get, _KINDS) if isinstance(kind, str)]
        message = cut(message_in(members)) or said_plainly(body, status)
        return ProviderError(message, kinds[0] if kinds else None, status=status)

    @staticmethod
    def decoder(_: Ask, /) -> ConverseDecoder:
        """Give what reads the stream that answers a request."""
        return ConverseDecoder()
