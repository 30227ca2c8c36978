"""OpenAI's Chat Completions: what clients send, what its providers stream, and how errors are told.

Source: the public API reference; deviations of Azure and vLLM as their servers send them.
"""

import json
import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from tidegate.dialect import Notice, ProviderError, Sight
from tidegate.exchange import Ask, Usage
from tidegate.verdict import BAD_REQUEST, Refused
from tidegate.wire import Frame, FrameError

MAX_MODEL_CHARS: Final = 256
MAX_MESSAGE_CHARS: Final = 500

_DONE: Final = b"[DONE]"
_HIT: Final = re.compile(rb'"(?:usage"\s*:\s*\{|finish_reason"\s*:\s*"|error"\s*:)')
_TAIL_USAGE: Final = re.compile(rb'"usage"\s*:\s*(?=\{)')
_ESCAPED_LETTER: Final = b"\\u00"
_MISTAKE: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class _Message(Struct):
    role: Role


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Request(Struct):
    model: Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_CHARS)]
    messages: Annotated[list[_Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Any = 1


class _Details(Struct):
    cached_tokens: int | None = 0
    reasoning_tokens: int | None = 0


class _Usage(Struct):
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Choice(Struct):
    finish_reason: str | None = None


class _Facts(Struct):
    """The members of an answer or a chunk that are of interest; a provider's odd types are not ours to refuse."""

    usage: Any = None
    choices: Any = None
    error: Any = None
    object: Any = None
    message: Any = None
    code: Any = None


_decode_request: Final = msgspec.json.Decoder(_Request).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_facts: Final = msgspec.json.Decoder(_Facts).decode
_encode: Final = msgspec.json.Encoder().encode


class OpenAIChat:
    """Fits dialect.Dialect; has no state."""

    name = "openai_chat"
    terminator = b"data: [DONE]\n\n"
    # A comment line without an empty line after it: some clients take an empty line behind an earlier `id:` for an event
    # without data, and fail on it. It joins the frame that comes next.
    heartbeat = b": heartbeat\n"

    # --- requests --------------------------------------------------------------------------------------------------

    def read_request(self, body: bytes, /) -> Ask:
        """Check a client's request. Errors: Refused (bad_request)."""
        try:
            request = _decode_request(body)
        except msgspec.ValidationError as error:
            raise _refusal(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Refused(BAD_REQUEST, "the body is not valid JSON") from None
        if body.count(b'"model"') != 1 or _ESCAPED_LETTER in body:
            _refuse_twin(body)
        options = request.stream_options
        return Ask(
            model=request.model,
            stream=bool(request.stream),
            wants_usage=options is not None and bool(options.include_usage),
            body=body,
            choices=request.n if type(request.n) is int else 1,
        )

    def write_request(self, ask: Ask, model: str, /) -> bytes:
        """Give the body to send; the client's own where nothing must change."""
        asks = ask.stream and not ask.wants_usage
        if model == ask.model and not asks:
            return ask.body
        members = _decode_members(ask.body)
        members["model"] = Raw(_encode(model))
        if asks:
            members["stream_options"] = _with_usage(members.get("stream_options"))
        return b"{%b}" % b",".join([b"%b:%b" % (_encode(name), value) for name, value in members.items()])

    # --- streams ---------------------------------------------------------------------------------------------------

    def look(self, frame: Frame, /) -> tuple[Sight, ProviderError | None]:
        """Say what a frame means while opening. Errors: FrameError when it is not a JSON object."""
        data = frame.data
        if data is None:
            return Sight.SILENT, None
        if data.strip() == _DONE:
            return Sight.END, None
        facts = _facts(data)
        error = _error_of(facts)
        if error is not None:
            return Sight.ERROR, error
        choices = facts.choices if isinstance(facts.choices, list) else []
        return (Sight.CONTENT if any(map(_has_content, choices)) else Sight.SILENT), None

    def interesting(self, block: bytes, /) -> bool:
        """Say by a byte search whether a block may hold usage, a finish reason, an error or the end."""
        return _HIT.search(block) is not None or _DONE in block

    def notice(self, frame: Frame, /) -> Notice:
        """Decode an interesting frame. Errors: FrameError when it is not a JSON object."""
        data = frame.data
        if data is None:
            return Notice()
        if data.strip() == _DONE:
            return Notice(done=True)
        return _notice(_facts(data))

    def is_usage_only(self, frame: Frame, /) -> bool:
        """Say whether a frame carries usage and no choice."""
        data = frame.data
        if data is None or data.strip() == _DONE:
            return False
        facts = _facts(data)
        return facts.choices == [] and isinstance(facts.usage, dict)

    def read_response(self, body: bytes, /) -> Notice:
        """Read a whole answer. Errors: FrameError when it is not a JSON object."""
        return _notice(_facts(body))

    def usage_in_tail(self, tail: bytes, /) -> Usage | None:
        """Find the last usage object in the end of a large answer."""
        for match in reversed(list(_TAIL_USAGE.finditer(tail))):
            text = tail[match.end() :].decode("utf-8", "replace")
            try:
                value, _ = json.JSONDecoder().raw_decode(text)
            except (ValueError, RecursionError):
                continue
            usage = _usage(value)
            if usage is not None:
                return usage
        return None

    # --- errors ----------------------------------------------------------------------------------------------------

    def read_error(self, status: int, body: bytes, /) -> ProviderError:
        """Read a provider's error answer, whatever it is."""
        try:
            value = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError):
            value = None
        if isinstance(value, dict):
            inner = value.get("error")
            told = inner if isinstance(inner, dict) else {**value, "message": inner or value.get("message")}
            message = told.get("message") or value.get("detail")
            if isinstance(message, str) and message:
                return _told(told, message, status)
        return ProviderError(_plain(body) or f"the provider answered {status}", status=status)

    def error_body(self, code: str, message: str, *, kind: str | None, param: str | None, status: int) -> bytes:
        """Give the error envelope."""
        error = {"message": message, "type": kind or _kind(status), "param": param, "code": code}
        return _encode({"error": error})

    def error_frame(self, code: str, message: str, *, kind: str | None = None) -> bytes:
        """Give the frame that tells of an error in mid-stream."""
        return b"data: %b\n\n" % self.error_body(code, message, kind=kind, param=None, status=502)


def _refusal(problem: str) -> Refused:
    """Turn msgspec's sentence into ours, with the member it is about."""
    match = _MISTAKE.match(problem)
    what, path = (match["what"], match["path"]) if match is not None else (problem, None)
    missing = re.search(r"missing required field `(\w+)`", what)
    param = ".".join(part for part in (path, missing[1] if missing else None) if part) or None
    return Refused(BAD_REQUEST, f"{param or 'the body'}: {what[:1].lower()}{what[1:]}", param=param)


def _refuse_twin(body: bytes) -> None:
    """Refuse a body that names two models: what is admitted and what is sent would differ. Errors: Refused."""
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> None:
        pairs[:] = found  # objects are told inside out: the last one told is the outermost

    try:
        json.loads(body, object_pairs_hook=keep)
    except (ValueError, RecursionError):
        raise Refused(BAD_REQUEST, "the body is not valid JSON, or nested too deeply") from None
    if sum(name == "model" for name, _ in pairs) > 1:
        raise Refused(BAD_REQUEST, "model: given more than once", param="model")


def _with_usage(given: Raw | None) -> Raw:
    options = _decode_members(given) if given is not None and bytes(given).strip() != b"null" else {}
    options["include_usage"] = Raw(b"true")
    return Raw(b"{%b}" % b",".join([b"%b:%b" % (_encode(name), value) for name, value in options.items()]))


def _facts(data: bytes) -> _Facts:
    try:
        return _decode_facts(data)
    except msgspec.ValidationError:
        raise FrameError("it is not a JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise FrameError("it is not JSON") from None


def _notice(facts: _Facts) -> Notice:
    choices = facts.choices if isinstance(facts.choices, list) else []
    reasons = [choice.get("finish_reason") for choice in choices if isinstance(choice, dict)]
    return Notice(
        usage=_usage(facts.usage),
        finish_reason=next((reason for reason in reasons if isinstance(reason, str)), ""),
        error=_error_of(facts),
    )


def _has_content(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    if isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role"):
        return True
    return bool(choice.get("text")) or choice.get("finish_reason") is not None


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    try:
        usage = msgspec.convert(value, _Usage)
    except msgspec.ValidationError:
        return None
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cached_tokens=(prompt.cached_tokens or 0) if prompt is not None else 0,
        reasoning_tokens=(completion.reasoning_tokens or 0) if completion is not None else 0,
    )


def _error_of(facts: _Facts) -> ProviderError | None:
    error = facts.error
    if isinstance(error, dict):
        message = error.get("message")
        return _told(error, message if isinstance(message, str) and message else "the provider sent an error", 0)
    if error:
        return ProviderError(str(error)[:MAX_MESSAGE_CHARS])
    if facts.object == "error" and isinstance(facts.message, str):
        return _told({"code": facts.code}, facts.message, 0)
    return None


def _told(error: dict[str, Any], message: str, status: int) -> ProviderError:
    kind, code, param = error.get("type"), error.get("code"), error.get("param")
    said = error.get("status", code)
    return ProviderError(
        message=message[:MAX_MESSAGE_CHARS],
        kind=kind if isinstance(kind, str) else None,
        code=str(code) if isinstance(code, str | int) else None,
        param=param if isinstance(param, str) else None,
        status=status or (said if isinstance(said, int) and 400 <= said <= 599 else 0),
    )


def _plain(body: bytes) -> str:
    text = "".join(char for char in body[: 4 * MAX_MESSAGE_CHARS].decode("utf-8", "replace") if char.isprintable())
    return "" if "<" in text[:20] else text[:MAX_MESSAGE_CHARS].strip()


def _kind(status: int) -> str:
    known = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return known.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
