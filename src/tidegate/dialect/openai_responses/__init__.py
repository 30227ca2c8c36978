"""OpenAI's Responses, as OpenAI, Azure, vLLM and others speak it; of it, what needs no memory between two requests."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from tidegate.dialect import Notice, ProviderError, Sight, sight_of
from tidegate.dialect.conversation import Conversation, Written
from tidegate.dialect.events import Event, Failed, Origin
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.openai_responses.encoder import ResponsesEncoder
from tidegate.dialect.openai_responses.events import ResponsesDecoder, data_of
from tidegate.dialect.openai_responses.reading import HARMLESS, MEMBERS, read_conversation
from tidegate.dialect.openai_responses.values import (
    CALLS,
    NAME,
    dict_of,
    dicts_of,
    error_object,
    failure_of,
    reason_of,
    usage_of,
)
from tidegate.dialect.openai_responses.writing import LACKS, write_conversation
from tidegate.dialect.requests import ABSENT, MAX_MODEL_CHARS, check_members, decoded, number_of, words_of
from tidegate.dialect.values import last_usage, object_of
from tidegate.exchange import Ask, Usage
from tidegate.verdict import BAD_REQUEST, Refused
from tidegate.wire import Framed, FrameError

_INPUT_RULE: Final = "a string that is not empty, or an array of one item or more"


class _Item(Struct, gc=False):
    """Any object."""


class _Request(Struct, gc=False):
    model: Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_CHARS)] = ""
    input: Annotated[str, Meta(min_length=1)] | Annotated[list[_Item], Meta(min_length=1)] = ""
    stream: bool | None = None
    background: bool | None = None
    previous_response_id: Raw = ABSENT
    conversation: Raw = ABSENT
    max_output_tokens: Raw = ABSENT
    user: Raw = ABSENT


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode

# What a text holds has its quotes escaped, so that each of these, with its own, is a key or a value of the frame itself.
_TERMINAL: Final = (b'"response.completed"', b'"response.incomplete"', b'"response.failed"')
_DELTA: Final = b'.delta"'
# The type of an event, or the error itself; the first frames have none, and say so.
_error = re.compile(rb'"error"(?!\s*+:\s*+null)').search
_response_id = re.compile(rb'"id"\s*:\s*("(?:[^"\\]|\\.)*")').search
_model = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")').search
_created = re.compile(rb'"created_at"\s*:\s*(\d{1,12})').search
_sequence = re.compile(rb'"sequence_number"\s*:\s*(\d{1,12})').findall

_FAILED: Final = (
    b'event: response.failed\ndata: {"type":"response.failed","sequence_number":%d,"response":{"id":%b,"object":"response",'
    b'"created_at":%b,"model":%b,"status":"failed","error":%b,"incomplete_details":null,"instructions":null,"metadata":{},'
    b'"output":[],"parallel_tool_calls":true,"temperature":null,"tool_choice":"auto","tools":[],"top_p":null,"usage":null}}\n\n'
)


class OpenAIResponses:
    """The dialect of `/v1/responses`."""

    __slots__ = ()

    name = NAME
    terminator = b""
    heartbeat = OpenAIChat.heartbeat
    members = MEMBERS
    harmless = HARMLESS
    lacks = LACKS

    # --- requests ----------------------------------------------------------------------------------------------------

    @staticmethod
    def read_request(body: bytes, /) -> Ask:
        """Read a client's request. Errors: Refused (bad_request) with the `param` that is wrong."""
        request = decoded(_decode_request, body, _wrong)
        if not request.model or not request.input:
            raise _wrong("input" if request.model else "model")
        check_members(body)
        _check_stateless(request)
        return Ask(
            model=request.model,
            stream=request.stream is True,
            wants_usage=True,
            body=body,
            max_tokens=number_of(request.max_output_tokens),
            user=words_of(request.user),
            dialect=NAME,
        )

    @staticmethod
    def write_request(ask: Ask, model: str, /) -> bytes:
        """Write the request for a provider's model. Shape: other members keep their bytes and their order."""
        if model == ask.model:
            return ask.body
        return _encode(_decode_members(ask.body) | {"model": Raw(_encode(model))})

    @staticmethod
    def read_conversation(body: bytes, /) -> Conversation:
        """Read all of a request. Errors: Refused (bad_request); Untranslatable for what a Conversation cannot say."""
        return read_conversation(body)

    @staticmethod
    def write_conversation(conversation: Conversation, model: str, /) -> Written:
        """Write a request. Errors: Untranslatable for what there is no word for."""
        return write_conversation(conversation, model)

    # --- streams ---------------------------------------------------------------------------------------------------

    @staticmethod
    def envelope(block: bytes, /) -> None:
        """Give nothing: no two frames are alike but for their text."""

    @staticmethod
    def look(frame: Framed, /) -> tuple[Sight, ProviderError | None]:
        """Judge a frame of a stream that is opening. Errors: FrameError when it cannot be read."""
        data = data_of(frame)
        if data is not None and _DELTA in data and object_of(data).get("delta"):
            return Sight.CONTENT, None  # a piece of a call means nothing to a decoder that did not see it begin
        return sight_of(ResponsesDecoder().feed(frame))

    @staticmethod
    def hit(block: bytes, start: int, /) -> int:
        """Give an offset in the first interesting frame at or after `start`; -1 when there is none. Bytes only, no JSON."""
        found, end = -1, len(block)
        for word in _TERMINAL:
            at = block.find(word, start, end)
            if at >= 0:
                found = end = at
        match = _error(block, start, end)
        return found if match is None else match.start()

    @staticmethod
    def notice(frame: Framed, /) -> Notice:
        """Read what an interesting frame says. Errors: FrameError when its data is not an object."""
        data = data_of(frame)
        event = object_of(data) if data is not None else {}
        kind, response = event.get("type"), dict_of(event.get("response"))
        if kind in {"response.failed", "error"} or (kind is None and event.get("error")):
            return Notice(usage=usage_of(response.get("usage")), error=failure_of(event))
        if kind in {"response.completed", "response.incomplete"}:
            return msgspec.structs.replace(_notice(response), done=True)
        return Notice()

    @staticmethod
    def is_usage_only(frame: Framed, /) -> bool:  # noqa: ARG004 (usage comes with the whole response)
        """Give False: usage stands in the last frame, which every client needs."""
        return False

    @staticmethod
    def decoder(ask: Ask, /) -> ResponsesDecoder:  # noqa: ARG004 (a response has one choice)
        """Give what reads the stream that answers a request."""
        return ResponsesDecoder()

    @staticmethod
    def encoder(ask: Ask, origin: Origin, /) -> ResponsesEncoder:
        """Give what writes the stream that answers a request."""
        return ResponsesEncoder(ask, origin)

    # --- whole bodies ----------------------------------------------------------------------------------------------

    @staticmethod
    def read_response(body: bytes, /) -> Notice:
        """Read a whole body that is not a stream. Errors: FrameError when it is not an object."""
        return _notice(object_of(body))

    @staticmethod
    def read_answer(body: bytes, /) -> Sequence[Event]:
        """Read all of such a body. Shape: as of a stream. Errors: FrameError."""
        response = object_of(body)
        error = _failure(response)
        if error is not None:
            return (Failed(error),)
        if "output" not in response:
            raise FrameError("the answer has no output")
        return ResponsesDecoder().read(response)

    @staticmethod
    def write_answer(events: Sequence[Event], ask: Ask, origin: Origin, /) -> bytes:
        """Write the whole body that answers a request."""
        encoder = ResponsesEncoder(ask, origin)
        encoder.write(events)
        return encoder.response

    @staticmethod
    def usage_in_tail(tail: bytes, /) -> Usage | None:
        """Find the usage in the end of a body that was too large to keep."""
        return last_usage(tail, usage_of)

    # --- errors ----------------------------------------------------------------------------------------------------

    @staticmethod
    def read_error(status: int, body: bytes, /) -> ProviderError:
        """Read a provider's refusal. Shape: as of OpenAI's other dialect."""
        return OpenAIChat.read_error(status, body)

    @staticmethod
    def error_body(code: str, message: str, /, *, kind: str | None, param: str | None, status: int) -> bytes:
        """Write an error for a client that got no head yet. Shape: as of OpenAI's other dialect."""
        return OpenAIChat.error_body(code, message, kind=kind, param=param, status=status)

    @staticmethod
    def error_frame(
        code: str, message: str, /, kind: str | None = None, *, first: bytes = b"", last: bytes = b""
    ) -> bytes:
        """Write an error for a client whose stream runs: the response that it was told of has failed.

        Shape: what was said of it is read off the beginning, by keys alone, as it may have been cut anywhere.
        """
        ident, model, created = _response_id(first), _model(first), _created(first)
        numbers = _sequence(last) or _sequence(first)
        return _FAILED % (
            int(numbers[-1]) + 1 if numbers else 0,
            ident[1] if ident is not None else b'"resp_failed"',
            created[1] if created is not None else b"0",
            model[1] if model is not None else b'""',
            error_object(ProviderError(message, kind, code)),
        )

    @staticmethod
    def status(status: int, /) -> int:
        """Give the status that clients know: Anthropic's word for overloaded is none of OpenAI's."""
        return 503 if status == 529 else status


def _check_stateless(request: _Request) -> None:
    """Refuse what needs a response that was kept, or will be. Errors: Refused."""
    for name in ("previous_response_id", "conversation"):
        if bytes(getattr(request, name)) not in {b"", b"null"}:
            message = f"`{name}` cannot be used: this gateway keeps no responses yet; send all items of the conversation in `input`"
            raise Refused(BAD_REQUEST, message, param=name)
    if request.background:
        message = (
            "`background` cannot be true: this gateway keeps no responses yet; ask for a stream, or wait for the answer"
        )
        raise Refused(BAD_REQUEST, message, param="background")


def _wrong(param: str) -> Refused:
    rule = {
        "model": f"a string of 1 to {MAX_MODEL_CHARS} characters",
        "input": _INPUT_RULE,
        "stream": "true, false or null",
        "background": "true, false or null",
    }.get(param, "an object")
    return Refused(BAD_REQUEST, f"`{param}` must be {rule}", param=param)


def _failure(response: dict[str, Any]) -> ProviderError | None:
    """Give why a whole response failed; None where it did not."""
    failed = response.get("status") == "failed" or bool(response.get("error"))
    return failure_of({"response": response}) if failed else None


def _notice(response: dict[str, Any]) -> Notice:
    error = _failure(response)
    called = any(item.get("type") in CALLS for item in dicts_of(response.get("output")))
    return Notice(
        usage=usage_of(response.get("usage")),
        finish_reason=reason_of(response, called=called) if error is None else "",
        finished=1 if error is None else 0,
        error=error,
    )
