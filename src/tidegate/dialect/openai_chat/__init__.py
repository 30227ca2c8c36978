"""OpenAI's chat completions, as OpenAI, Azure, vLLM and the many compatible servers speak it.

Servers differ in what they leave out, so what is read is read leniently: a member of an unexpected type says nothing.
"""

import json
import re
from codecs import getincrementaldecoder
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from tidegate.dialect import Notice, ProviderError, Sight
from tidegate.dialect.openai_chat.events import ChatDecoder, ChatEncoder
from tidegate.dialect.openai_chat.values import (
    DONE,
    bare_error,
    choices_of,
    error_in,
    error_object,
    object_of,
    printable,
    usage_of,
    value_of,
)
from tidegate.exchange import Ask, Usage
from tidegate.verdict import BAD_REQUEST, Refused
from tidegate.wire import Frame, FrameError

MAX_MODEL_CHARS: Final = 256
MAX_DIGITS: Final = 9
"""A longer number is none that anybody means."""
MAX_USER_BYTES: Final = 1024

_ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
_SLICE_BYTES: Final = 64 * 1024


class _Message(Struct, gc=False):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]


_ABSENT: Final = Raw()


class _Request(Struct, gc=False):
    model: Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_CHARS)] = ""
    messages: Annotated[list[_Message], Meta(min_length=1)] = []
    stream: bool | None = None
    # An absent member has no bytes.
    stream_options: Raw = _ABSENT
    n: Raw = _ABSENT
    max_tokens: Raw = _ABSENT
    max_completion_tokens: Raw = _ABSENT
    user: Raw = _ABSENT


class _Options(Struct, gc=False):
    include_usage: object = None


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_options = msgspec.json.Decoder(_Options | None).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_some = msgspec.json.Decoder(dict[str, Raw] | None).decode
_decode = msgspec.json.Decoder(object).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode

_path = re.compile(r"at `\$\.?([^`]*)`").search
# A letter of "model" written as an escape: nobody does, unless to say one thing to us and another to the provider.
_veiled_model = re.compile(rb"\\u006[cdfCDF45]").search
_member = re.compile(rb'[ \t\r\n]*+[{,][ \t\r\n]*+("(?:[^"\\]++|\\.)*+")[ \t\r\n]*+:[ \t\r\n]*+').match
_after_value = re.compile(rb"[ \t\r\n,}]").match

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
_usage_key = re.compile(r'"usage"\s*:\s*(?=\{)').finditer
_LETTER_D: Final = ord("D")
_KIND_OF: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class OpenAIChat:
    """The dialect of `/v1/chat/completions`."""

    __slots__ = ()

    name = "openai_chat"
    terminator = b"data: [DONE]\n\n"
    # A line, not a frame: openai-python takes the empty line after a lone comment for an event without data as soon as
    # the stream has had an id (openai/openai-python#2722). So it joins the frame that comes next.
    heartbeat = b": heartbeat\n"

    @staticmethod
    def read_request(body: bytes, /) -> Ask:
        """Read a client's request. Errors: Refused (bad_request) with the `param` that is wrong."""
        if not body.isascii():
            _check_utf8(body)
        try:
            request = _decode_request(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _refusal(error) from None
        if not request.model or not request.messages:
            raise _wrong("messages" if request.model else "model")
        if body.count(b'"model"') != 1 or _veiled_model(body):
            _check_members(body)
        options = request.stream_options
        return Ask(
            model=request.model,
            stream=request.stream is True,
            wants_usage=len(options) > 0 and _asks_usage(options),
            body=body,
            choices=max(1, _number(request.n)),
            max_tokens=_number(request.max_completion_tokens) or _number(request.max_tokens),
            user=_words(request.user),
        )

    @staticmethod
    def write_request(ask: Ask, model: str, /) -> bytes:
        """Write the request for a provider's model. Shape: other members keep their bytes and their order."""
        adds_usage = ask.stream and not ask.wants_usage
        if model == ask.model and not adds_usage:
            return ask.body
        members = _decode_members(ask.body)
        members["model"] = Raw(_encode(model))
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
    def look(frame: Frame, /) -> tuple[Sight, ProviderError | None]:
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
        text = tail.decode("utf-8", "replace")
        for key in reversed(list(_usage_key(text))):
            try:
                value, _ = json.JSONDecoder().raw_decode(text, key.end())
            except (ValueError, RecursionError):
                continue
            usage = usage_of(value)
            if usage is not None:
                return usage
        return None

    @staticmethod
    def read_error(status: int, body: bytes, /) -> ProviderError:
        """Read a provider's refusal. Shape: its own message, else the first printable text, else the status."""
        try:
            value = value_of(body)
        except FrameError:
            value = None
        if isinstance(value, list) and value:  # Google wraps the object
            value = value[0]
        if isinstance(value, dict):
            error = error_in(value) or bare_error(value)
            if error is not None:
                return msgspec.structs.replace(error, status=status)
        text = printable(body)
        if not text or text.startswith("<"):
            text = f"the provider answered {status}"
        return ProviderError(text, status=status)

    @staticmethod
    def error_body(code: str, message: str, /, *, kind: str | None, param: str | None, status: int) -> bytes:
        """Write an error for a client that got no head yet. Shape: `type` follows the status where `kind` is None."""
        if kind is None:
            kind = _KIND_OF.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return error_object(ProviderError(message, kind, code, param))

    @staticmethod
    def error_frame(code: str, message: str, /, kind: str | None = None) -> bytes:
        """Write an error for a client whose stream runs: official SDKs raise on it."""
        return b"data: " + error_object(ProviderError(message, kind or "server_error", code)) + b"\n\n"

    @staticmethod
    def decoder(ask: Ask, /) -> ChatDecoder:
        """Give what reads the stream that answers a request."""
        return ChatDecoder(ask.choices)

    @staticmethod
    def encoder(ask: Ask, /) -> ChatEncoder:
        """Give what writes the stream that answers a request."""
        return ChatEncoder(wants_usage=ask.wants_usage)


# --- requests ------------------------------------------------------------------------------------------------------


def _check_utf8(body: bytes) -> None:
    """Refuse what is not UTF-8. The JSON decoder looks at the strings it keeps only. Holds: one slice decoded at a time."""
    decoder = getincrementaldecoder("utf-8")()
    view = memoryview(body)
    try:
        for start in range(0, len(body), _SLICE_BYTES):
            decoder.decode(view[start : start + _SLICE_BYTES], start + _SLICE_BYTES >= len(body))
    except UnicodeDecodeError:
        raise Refused(BAD_REQUEST, "the body is not valid UTF-8") from None


def _check_members(body: bytes) -> None:
    """Refuse an object that has a member twice: parsers differ in which one counts.

    Shape: walks from member to member by the lengths of their values, without looking into them.
    """
    expected = iter(_decode_members(body).items())
    at = 0
    while found := _member(body, at):
        name = str(_decode(found[1]))
        key, value = next(expected, ("", b""))
        at = found.end() + len(bytes(value))
        # Of two numbers, the last one can be how the first one begins: so what follows is looked at, too.
        if name != key or not body.startswith(bytes(value), found.end()) or not _after_value(body, at):
            shown = name if len(name) <= MAX_MODEL_CHARS else "a member"
            raise Refused(BAD_REQUEST, f"`{shown}` is given twice", param=shown)


def _asks_usage(options: Raw) -> bool:
    try:
        decoded = _decode_options(options)
    except msgspec.ValidationError:
        raise _wrong("stream_options") from None
    return decoded is not None and decoded.include_usage is True


def _number(value: Raw) -> int:
    """Give a whole number; 0 where it is none, which is for the provider to refuse."""
    digits = bytes(value)
    return int(digits) if digits.isdigit() and len(digits) <= MAX_DIGITS else 0


def _words(value: Raw) -> str:
    """Give a text; none where it is no text, or too long to be anybody's name."""
    if not 2 < len(value) <= MAX_USER_BYTES:
        return ""
    try:
        return _decode_text(value)
    except msgspec.DecodeError:
        return ""


def _refusal(error: Exception) -> Refused:
    """Give the refusal for a body that does not decode. Shape: never shows what the client sent."""
    if isinstance(error, RecursionError):
        return Refused(BAD_REQUEST, "the body is nested too deeply")
    if not isinstance(error, msgspec.ValidationError):
        return Refused(BAD_REQUEST, f"the body is not valid JSON: {error}")
    found = _path(str(error))
    if found is None:
        return Refused(BAD_REQUEST, "the body must be a JSON object")
    missing = ".role" if "missing required field" in str(error) else ""
    return _wrong(found[1] + missing)


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
        usage=usage_of(value.get("usage")),
        finish_reason=reasons[0] if reasons else "",
        finished=len(reasons),
        error=error_in(value),
    )
