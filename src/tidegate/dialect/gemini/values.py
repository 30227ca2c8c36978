"""What Google's JSON says of its own: errors, and objects that may stand in an array."""

from typing import Any, Final

from msgspec import structs

from tidegate.dialect.events import ProviderError
from tidegate.dialect.values import cut, json_of, said_plainly, value_of
from tidegate.dialect.whole import text_of
from tidegate.wire import FrameError

_STATUS_OF: Final = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "DATA_LOSS": 500,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""Source: googleapis, google/rpc/code.proto."""
_BAD_KEY: Final = "API_KEY_INVALID"


def object_of(data: bytes) -> dict[str, Any]:
    """Decode an object, or the first of an array, as Google wraps errors. Errors: FrameError."""
    value = value_of(data)
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        raise FrameError("the data is not a JSON object")
    return value


def error_of(error: object) -> ProviderError:
    """Read an error. Shape: `kind` is Google's word for the status, which its code says again; a bad key counts as a 401."""
    members: dict[str, Any] = error if isinstance(error, dict) else {"message": error}
    message = text_of(members.get("message")) or json_of(error).decode()
    code, word = members.get("code"), text_of(members.get("status"))
    status = code if type(code) is int and 400 <= code <= 599 else _STATUS_OF.get(word, 0)
    if _has_bad_key(members.get("details")):
        status = 401  # Google says 400, as if the request were wrong
    return ProviderError(cut(message), word or None, status=status)


def refusal_of(status: int, body: bytes) -> ProviderError:
    """Read a refusal. Shape: its own message, else the first printable text, else the status."""
    try:
        found = object_of(body).get("error")
    except FrameError:
        found = None
    if found:
        error = error_of(found)
        return error if error.status == 401 else structs.replace(error, status=status)
    return ProviderError(said_plainly(body, status), status=status)


def _has_bad_key(details: object) -> bool:
    """Whether one of the details says so. Source: googleapis, google.rpc.ErrorInfo."""
    return isinstance(details, list) and any(
        isinstance(detail, dict) and detail.get("reason") == _BAD_KEY for detail in details
    )
