"""What JSON of OpenAI's family says: objects, usage, errors; and its error object, written.

Servers differ in what they leave out, so what is read is read leniently: a member of an unexpected type says nothing.
"""

import json
import re
from typing import Any, Final

import msgspec

from tidegate.dialect.events import ProviderError
from tidegate.exchange import Usage
from tidegate.wire import FrameError

MAX_MESSAGE_CHARS: Final = 4096
"""Of an error message in a provider's JSON, more is cut."""
MAX_TEXT_CHARS: Final = 500
"""Of a provider's error that is not JSON, more is cut."""
DONE: Final = b"[DONE]"
"""The data of a stream's last frame."""

_decode = msgspec.json.Decoder(object).decode
_encode = msgspec.json.Encoder().encode

_STATUS_OF: Final = {
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "NotFoundError": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "server_error": 500,
    "api_error": 500,
    "InternalServerError": 500,
    "overloaded_error": 503,
}
"""What a `code` or `type` means where a server gives no number."""


def value_of(data: bytes) -> object:
    """Decode JSON. Errors: FrameError. Half a surrogate pair is let through, as tokenizers cut there."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError):
        raise FrameError("the data is not valid JSON") from None


def json_of(value: object) -> bytes:
    """Encode JSON. Shape: half a surrogate pair is written as it was read, an escape."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def object_of(data: bytes) -> dict[str, Any]:
    """Decode an object. Errors: FrameError."""
    value = value_of(data)
    if not isinstance(value, dict):
        raise FrameError("the data is not a JSON object")
    return value


def choices_of(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the choices of a frame or body that are objects."""
    choices = chunk.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def usage_of(value: object) -> Usage | None:
    """Read a usage object; None when it has neither of the two counts."""
    if not isinstance(value, dict):
        return None
    counts = _count(value, "prompt_tokens"), _count(value, "completion_tokens")
    if counts == (None, None):
        return None
    return Usage(
        input_tokens=counts[0] or 0,
        output_tokens=counts[1] or 0,
        cached_tokens=_count(value.get("prompt_tokens_details"), "cached_tokens") or 0,
        reasoning_tokens=_count(value.get("completion_tokens_details"), "reasoning_tokens") or 0,
    )


def _count(members: object, key: str) -> int | None:
    value = members.get(key) if isinstance(members, dict) else None
    return value if type(value) is int and value >= 0 else None


def error_object(error: ProviderError) -> bytes:
    """Write an error in OpenAI's envelope."""
    members = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    return json_of({"error": members})


def error_in(value: dict[str, Any]) -> ProviderError | None:
    """Read the error of an object. Shape: as in the official SDKs, an empty one is none."""
    error = value.get("error")
    if not error:
        return bare_error(value) if value.get("object") == "error" else None
    if isinstance(error, dict):
        return bare_error(error) or _provider_error(error, json.dumps(error))
    return ProviderError(_cut(error if isinstance(error, str) else json.dumps(error)))


def bare_error(members: dict[str, Any]) -> ProviderError | None:
    """Read members of an error that stand alone; None when none of them is a message."""
    for key in ("message", "detail"):
        value = members.get(key)
        if value:
            return _provider_error(members, value if isinstance(value, str) else json.dumps(value))
    return None


def _provider_error(members: dict[str, Any], message: str) -> ProviderError:
    kind, code, param = members.get("type"), members.get("code"), members.get("param")
    return ProviderError(
        message=_cut(message),
        kind=kind if isinstance(kind, str) else None,
        code=str(code) if isinstance(code, (str, int)) else None,
        param=param if isinstance(param, str) else None,
        status=_status_of(code) or _status_of(members.get("status")) or _status_of(kind),
    )


def _status_of(value: object) -> int:
    if isinstance(value, str):
        value = int(value) if re.fullmatch("[45][0-9][0-9]", value) else _STATUS_OF.get(value, 0)
    return value if type(value) is int and 400 <= value <= 599 else 0


def _cut(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE_CHARS else message[:MAX_MESSAGE_CHARS] + "…"


def printable(body: bytes) -> str:
    """Give the beginning of a text without what a terminal would obey."""
    words = " ".join(body[: 8 * MAX_TEXT_CHARS].decode("utf-8", "replace").split())
    return "".join(char for char in words if char.isprintable())[:MAX_TEXT_CHARS]
