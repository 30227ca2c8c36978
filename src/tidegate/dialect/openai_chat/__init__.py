"""OpenAI's chat completions, as OpenAI, Azure, vLLM and the many compatible servers speak it.

Servers differ in what they leave out, so what is read is read leniently: a member of an unexpected type says nothing.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from tidegate.dialect import Notice, ProviderError, Sight
from tidegate.dialect.conversation import Conversation, Loss, Written
from tidegate.dialect.events import Event, Origin
from tidegate.dialect.openai_chat.answer import body_of, events_of
from tidegate.dialect.openai_chat.errors import OpenAIErrors
from tidegate.dialect.openai_chat.events import ChatDecoder, ChatEncoder
from tidegate.dialect.openai_chat.reading import HARMLESS, MEMBERS, conversation_of
from tidegate.dialect.openai_chat.values import DONE, NAME, choices_of, error_in, usage_in, usage_of
from tidegate.dialect.openai_chat.writing import LACKS, Quirks, written
from tidegate.dialect.requests import (
    ABSENT,
    MAX_MODEL_CHARS,
    check_members,
    decoded,
    number_of,
    words_of,
)
from tidegate.dialect.values import last_usage, object_of
from tidegate.exchange import Ask, Usage
from tidegate.verdict import BAD_REQUEST, Refused
from tidegate.wire import Frame, Framed

__all__ = ["LACKS", "OpenAIChat", "Quirks"]

_ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")


class _Message(Struct, gc=False):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]


class _Request(Struct, gc=False):
    model: Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_CHARS)] = ""
    messages: Annotated[list[_Message], Meta(min_length=1)] = []
    stream: bool | None = None
    stream_options: Raw = ABSENT
    n: Raw = ABSENT
    max_tokens: Raw = ABSENT
    max_completion_tokens: Raw = ABSENT
    user: Raw = ABSENT


class _Options(Struct, gc=False):
    include_usage: object = None


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_options = msgspec.json.Decoder(_Options | None).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_some = msgspec.json.Decoder(dict[str, Raw] | None).decode
_encode = msgspec.json.Encoder().encode

# Four searches that each begin with a rare literal, because the regex engine has a fast loop for those only. On a chunk
# as OpenAI sends it, with null for usage and finish reason (310 bytes), they take 0.8 µs, as vLLM sends it (170 bytes)
# 0.45 µs. One alternation of the four takes 2.2 to 3.1 and 1.5 µs; a cascade of four `in`, which knows no spaces after
# the colons, 1.0 to 1.7 and 0.9 µs. (Python 3.11, best of 9.) The letter D is looked for first, by one memchr.
_finish_reason = re.compile(rb'_reason"\s*+:\s*+"').search
_usage = re.compile(rb'usage"\s*+:\s*+\{').search
# The key, and also the value: some servers send {"object": "error", …}. What says null on every chunk is no hit.
_error = re.compile(rb'rror"(?<="error")(?!\s*+:\s*+null)').search
# One line, one choice, one text: what is before and after the text says all the rest.
_plain_frame = re.compile(
    rb'(data: ?\{[^\r\n]*?"delta": ?\{"content": ?")(?:[^"\\\r\n]++|\\.)*+("\}[^\r\n]*\}\n\n)'
).fullmatch
_text = re.compile(rb'"delta": ?\{"content": ?"[^"].*\}\Z', re.DOTALL).search
_SEARCHES: Final = (_finish_reason, _usage, _error)
_LETTER_D: Final = ord("D")
_NONE: Final = Quirks()


class OpenAIChat(OpenAIErrors):
    """The dialect of `/v1/chat/completions`. Shape: what a provider that speaks it does otherwise are its quirks."""

    __slots__ = ("_quirks",)

    name = NAME
    members: Mapping[str, str] = MEMBERS
    harmless: frozenset[str] = HARMLESS
    terminator = b"data: [DONE]\n\n"
    # A line, not a frame: openai-python takes the empty line after a lone comment for an event without data as soon as
    # the stream has had an id (openai/openai-python#2722). So it joins the frame that comes next.
    heartbeat = b": heartbeat\n"

    def __init__(self, quirks: Quirks = _NONE) -> None:
        self._quirks = quirks

    @property
    def lacks(self) -> Mapping[str, Loss]:
        """The fields of a Conversation that its providers have no word for."""
        return self._quirks.lacks

    @staticmethod
    def read_request(body: bytes, /) -> Ask:
        """Read a client's request. Errors: Refused (bad_request) with the `param` that is wrong."""
        request = decoded(_decode_request, body, _wrong)
        if not request.model or not request.messages:
            raise _wrong("messages" if request.model else "model")
        check_members(body)
        options = request.stream_options
        return Ask(
            model=request.model,
            stream=request.stream is True,
            wants_usage=len(options) > 0 and _asks_usage(options),
            body=body,
            choices=max(1, number_of(request.n)),
            max_tokens=number_of(request.max_completion_tokens) or number_of(request.max_tokens),
            user=words_of(request.user),
            dialect=NAME,
        )

    @staticmethod
    def read_conversation(body: bytes, /) -> Conversation:
        """Read all of a request. Errors: Refused (bad_request); Untranslatable for what a Conversation cannot say."""
        return conversation_of(body)

    def write_conversation(self, conversation: Conversation, model: str, /) -> Written:
        """Write a request. Errors: Untranslatable for what it has no word for."""
        return written(conversation, model, self._quirks)

    def write_request(self, ask: Ask, model: str, /) -> bytes:
        """Write the request for a provider's model. Shape: other members keep their bytes and their order."""
        usage = self._quirks.usage
        adds_usage = usage == "asked" and ask.stream and not ask.wants_usage
        hides_options = usage == "given" and b'"stream_options"' in ask.body
        if model == ask.model and not adds_usage and not hides_options:
            return ask.body
        members = _decode_members(ask.body)
        members["model"] = Raw(_encode(model))
        if hides_options:
            members.pop("stream_options", None)
        if adds_usage:
            options = _decode_some(members.get("stream_options", b"null")) or {}
            options["include_usage"] = Raw(b"true")
            members["stream_options"] = Raw(_encode(options))
        return _encode(members)

    @staticmethod
    def envelope(block: bytes, /) -> tuple[bytes, bytes] | None:
        """Give how a frame begins and ends around its text; None when the block is not one frame with text alone."""
        match = _plain_frame(block)
        return (match[1], match[2]) if match is not None else None

    @staticmethod
    def look(frame: Framed, /) -> tuple[Sight, ProviderError | None]:
        """Judge a frame of a stream that is opening. Shape: any member of a delta but `role` is content, if not empty."""
        data = frame.data
        if data is None:
            return Sight.SILENT, None
        if data.strip() == DONE:
            return Sight.END, None
        if _text(data) is not None and _error(data) is None:
            return Sight.CONTENT, None  # the usual first content, on the way to which every microsecond is waited for
        chunk = object_of(data)
        error = error_in(chunk)
        if error is not None:
            return Sight.ERROR, error
        return (Sight.CONTENT if any(map(_has_content, choices_of(chunk))) else Sight.SILENT), None

    @staticmethod
    def hit(block: bytes, start: int, /) -> int:
        """Give an offset in the first interesting frame at or after `start`; -1 when there is none. Bytes only, no JSON."""
        found, end = -1, len(block)
        for search in _SEARCHES:
            match = search(block, start, end)
            if match is not None:
                found = end = match.start()
        done = block.find(DONE, start, end) if _LETTER_D in block else -1
        return done if done >= 0 else found

    @staticmethod
    def notice(frame: Frame, /) -> Notice:
        """Read what an interesting frame says. Errors: FrameError when its data is not an object."""
        data = frame.data
        if data is None:
            return Notice()
        if data.strip() == DONE:
            return Notice(done=True)
        return _notice(object_of(data))

    @staticmethod
    def is_usage_only(frame: Frame, /) -> bool:
        """Whether `choices` is an empty list and `usage` an object. Azure's first frame has no usage."""
        chunk = _chunk(frame)
        return chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)

    @staticmethod
    def read_response(body: bytes, /) -> Notice:
        """Read a whole body that is not a stream. Errors: FrameError when it is not an object."""
        return _notice(object_of(body))

    @staticmethod
    def usage_in_tail(tail: bytes, /) -> Usage | None:
        """Find the last usage in the end of a body. The key cannot be in a text: its quotes would be escaped there."""
        return last_usage(tail, usage_of)

    @staticmethod
    def read_answer(body: bytes, /) -> Sequence[Event]:
        """Read all of a body that is not a stream. Shape: as of a stream, Done included. Errors: FrameError."""
        return events_of(body)

    @staticmethod
    def write_answer(events: Sequence[Event], ask: Ask, origin: Origin, /) -> bytes:  # noqa: ARG004 (all are told usage)
        """Write the whole body that answers a request."""
        return body_of(events, origin)

    @staticmethod
    def decoder(ask: Ask, /) -> ChatDecoder:
        """Give what reads the stream that answers a request."""
        return ChatDecoder(ask.choices)

    @staticmethod
    def encoder(ask: Ask, origin: Origin, /) -> ChatEncoder:
        """Give what writes the stream that answers a request."""
        return ChatEncoder(wants_usage=ask.wants_usage, origin=origin)


# --- requests ------------------------------------------------------------------------------------------------------


def _asks_usage(options: Raw) -> bool:
    try:
        decoded = _decode_options(options)
    except msgspec.ValidationError:
        raise _wrong("stream_options") from None
    return decoded is not None and decoded.include_usage is True


def _wrong(param: str) -> Refused:
    if param.endswith(".role"):
        rule = f"one of {', '.join(_ROLES)}"
    elif param.startswith("messages["):
        rule = "an object"
    else:
        rule = {
            "model": f"a string of 1 to {MAX_MODEL_CHARS} characters",
            "messages": "an array of one message or more",
            "stream": "true, false or null",
        }.get(param, "an object or null")
    return Refused(BAD_REQUEST, f"`{param}` must be {rule}", param=param)


# --- frames and bodies ---------------------------------------------------------------------------------------------


def _chunk(frame: Frame) -> dict[str, Any]:
    """Read a frame; one without data, and the last one, have no members."""
    data = frame.data
    return {} if data is None or data.strip() == DONE else object_of(data)


def _has_content(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    if isinstance(delta, dict) and any(value for key, value in delta.items() if key != "role"):
        return True
    return bool(choice.get("finish_reason") or choice.get("text"))


def _notice(value: dict[str, Any]) -> Notice:
    given = [choice.get("finish_reason") for choice in choices_of(value)]
    reasons = [reason for reason in given if isinstance(reason, str) and reason]
    return Notice(
        usage=usage_in(value),
        finish_reason=reasons[0] if reasons else "",
        finished=len(reasons),
        error=error_in(value),
    )
