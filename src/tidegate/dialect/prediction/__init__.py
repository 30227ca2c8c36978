"""Predictions: what goes to and comes from a handler of the user's own. Frames are server-sent events that never leave the gateway.

`Prediction` is what those who ask for predictions speak, `PredictionProvider` what chats of any dialect are translated to.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from tidegate.dialect import ClientDialect, Notice, ProviderError, Sight, sight_of
from tidegate.dialect.conversation import Conversation, Loss, Untranslatable, Written
from tidegate.dialect.events import Done, Event, Failed
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.prediction import frames
from tidegate.dialect.prediction.envelope import Envelope, read_envelope, write_envelope
from tidegate.dialect.prediction.events import PredictionDecoder, Tokens, failure_of, text_bytes
from tidegate.dialect.prediction.frames import (
    COMPLETED,
    completed_frame,
    completed_of,
    log_frame,
    metric_frame,
    output_frame,
    read_frame,
    value_frame,
)
from tidegate.dialect.prediction.writing import Check, Mistake, Takes, apart, handler_of, written
from tidegate.dialect.values import json_of, said_plainly
from tidegate.dialect.whole import notice_of
from tidegate.exchange import Ask, Usage
from tidegate.wire import Framed
from tidegate.wire.sse import split

__all__ = [
    "NAME",
    "Envelope",
    "Mistake",
    "Prediction",
    "PredictionProvider",
    "Tokens",
    "completed_frame",
    "log_frame",
    "metric_frame",
    "output_frame",
    "read_envelope",
    "text_bytes",
    "value_frame",
    "write_envelope",
]

NAME: Final = "prediction"

_END: Final = b"event: completed\n"


class Prediction(OpenAIChat):
    """The dialect of the routes for predictions. Shape: there are streams alone, and no chat is asked in it."""

    __slots__ = ()

    name = NAME
    members: Mapping[str, str] = {}
    harmless: frozenset[str] = frozenset()
    terminator = b""
    heartbeat = b": keep-alive\n\n"

    @staticmethod
    def read_request(body: bytes, /) -> Ask:
        """Read an envelope. Errors: Refused (bad_request) with the `param` that is wrong."""
        envelope = read_envelope(body)
        aside = max(0, envelope.aside)
        return Ask(model=envelope.model, stream=True, wants_usage=False, body=body, dialect=NAME, aside=aside)

    @staticmethod
    def read_conversation(body: bytes, /) -> Conversation:  # noqa: ARG004 (nothing in it is a conversation)
        """Refuse: nobody converses. Errors: Untranslatable."""
        raise Untranslatable("input", "a prediction cannot be asked of a provider that speaks another dialect")

    def write_conversation(self, conversation: Conversation, model: str, /) -> Written:  # noqa: ARG002 (as above)
        """Refuse: nothing says here how a handler is asked. Errors: Untranslatable."""
        raise Untranslatable(conversation.member("turns"), "a conversation cannot be said to a provider of predictions")

    def write_request(self, ask: Ask, model: str, /) -> bytes:
        """Write the request for a provider's model. Shape: input and context keep their bytes."""
        if model == ask.model:
            return ask.body
        envelope = read_envelope(ask.body)
        return write_envelope(model, envelope.id, bytes(envelope.input), envelope.context, envelope.aside)

    @staticmethod
    def envelope(block: bytes, /) -> tuple[bytes, bytes] | None:  # noqa: ARG004 (no frame passes its reader by)
        """Give nothing: every frame is looked at by whoever asked."""
        return None

    @staticmethod
    def look(frame: Framed, /) -> tuple[Sight, ProviderError | None]:
        """Take any data for content: that a handler failed is an answer, too."""
        return (Sight.SILENT if frame.data is None else Sight.CONTENT), None

    @staticmethod
    def hit(block: bytes, start: int, /) -> int:
        """Give where the last frame begins; -1 when it is not there. Shape: data is one line, so no text can look like it."""
        if block.startswith(_END, start):
            return start
        found = block.find(b"\n\n" + _END, start)
        return found + 2 if found >= 0 else -1

    @staticmethod
    def notice(frame: Framed, /) -> Notice:
        """Read how a prediction ended. Shape: a canceled one is complete. Errors: FrameError when it cannot be read."""
        event, data = read_frame(frame.raw)
        if event != COMPLETED:
            return Notice()
        completed = completed_of(data)
        if completed.status == "failed":
            return Notice(usage=completed.usage, error=failure_of(completed))
        return Notice(usage=completed.usage, done=True)

    @staticmethod
    def is_usage_only(frame: Framed, /) -> bool:  # noqa: ARG004 (whoever asked gets all)
        """Whether a frame is there for usage alone: none is."""
        return False

    @staticmethod
    def read_response(body: bytes, /) -> Notice:  # noqa: ARG004 (as above)
        """Read nothing: what is not a stream is no prediction's."""
        return Notice()

    @staticmethod
    def usage_in_tail(tail: bytes, /) -> Usage | None:  # noqa: ARG004 (as above)
        """Find nothing: no body counts its tokens."""
        return None

    @staticmethod
    def error_body(code: str, message: str, /, *, kind: str | None, param: str | None, status: int) -> bytes:  # noqa: ARG004 (it has no member for them)
        """Write an error for a client that got no head yet."""
        return json_of({"error": message, "status": "failed"})

    @staticmethod
    def error_frame(
        code: str,  # noqa: ARG004 (it has no member for it)
        message: str,
        /,
        kind: str | None = None,  # noqa: ARG004
        *,
        first: bytes = b"",  # noqa: ARG004 (a frame here stands for itself)
        last: bytes = b"",  # noqa: ARG004
    ) -> bytes:
        """Write an error for a client whose stream runs."""
        return frames.error_frame(message)


def _nothing(members: Mapping[str, object]) -> Mistake | None:  # noqa: ARG001 (where no schema is known)
    """Forbid nothing."""
    return None


class PredictionProvider:
    """What chats are translated to where a handler can answer them.

    Shape: `takes` is the parameter that gets what was said, `parameters` are all that it has, `files` those that are files;
    `schema` says of what types they are, and `check` what of an input it forbids.
    """

    __slots__ = ("_handler", "lacks")

    name = NAME

    def __init__(
        self,
        takes: Takes,
        parameters: Sequence[str],
        schema: bytes = b"{}",
        *,
        files: Sequence[str] = (),
        check: Check = _nothing,
    ) -> None:
        self._handler = handler_of(takes, parameters, schema, files, check)
        self.lacks: Mapping[str, Loss] = self._handler.lacks

    def write_chat(self, client: ClientDialect, body: bytes, model: str) -> Written:
        """Write an envelope of a client's request. Shape: members with the names of the handler's own parameters go there.

        Errors: Refused for what is wrong, by itself or for this handler; Untranslatable for what it cannot be told.
        """
        rest, own = apart(body, self._handler.own)
        return written(client.read_conversation(rest), model, self._handler, own)

    def write_conversation(self, conversation: Conversation, model: str, /) -> Written:
        """Write an envelope. Errors: Untranslatable for what the handler cannot be told; Refused for what its schema forbids."""
        return written(conversation, model, self._handler)

    @staticmethod
    def look(frame: Framed, /) -> tuple[Sight, ProviderError | None]:
        """Judge a frame of a stream that is opening. Errors: FrameError when it cannot be read."""
        return sight_of(PredictionDecoder().feed(frame))

    @staticmethod
    def read_response(body: bytes, /) -> Notice:
        """Read all frames of a stream that came as one body. Errors: FrameError."""
        return notice_of(PredictionProvider.read_answer(body))

    @staticmethod
    def read_answer(body: bytes, /, ask: Ask | None = None) -> Sequence[Event]:
        """Read all frames of a stream that came as one body. Shape: ends in Done, or in Failed. Errors: FrameError.

        Shape: what was asked is what tokens are judged by that the handler does not count.
        """
        decoder = PredictionDecoder() if ask is None else PredictionProvider.decoder(ask)
        events = [event for frame in split(body) for event in decoder.feed(frame)]
        ended = bool(events) and isinstance(events[-1], (Done, Failed))
        return events if ended else [*events, Failed(ProviderError("the prediction's answer is not complete"))]

    @staticmethod
    def read_error(status: int, body: bytes, /) -> ProviderError:
        """Read a refusal: the first printable text, else the status."""
        return ProviderError(said_plainly(body, status), status=status)

    @staticmethod
    def decoder(ask: Ask, /) -> PredictionDecoder:
        """Give what reads the stream that answers a request. Shape: its length is what its tokens are judged by."""
        return PredictionDecoder(len(ask.body))
