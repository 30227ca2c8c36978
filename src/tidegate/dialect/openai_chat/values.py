"""What JSON of OpenAI's family says: objects, usage, errors; and its error object, written.

Servers differ in what they leave out, so what is read is read leniently: a member of an unexpected type says nothing.
"""

import json
import re
from typing import Any, Final

from tidegate.dialect.events import ProviderError
from tidegate.dialect.values import MAX_MESSAGE_CHARS, count_of, cut, json_of, object_of, printable, value_of
from tidegate.exchange import Usage

__all__ = [
    "DONE",
    "MAX_MESSAGE_CHARS",
    "NAME",
    "bare_error",
    "choices_of",
    "error_in",
    "error_object",
    "json_of",
    "object_of",
    "printable",
    "usage_in",
    "usage_members",
    "usage_of",
    "value_of",
]

NAME: Final = "openai_chat"
"""The dialect's name: what its providers sign is marked with it."""
DONE: Final = b"[DONE]"
"""The data of a stream's last frame."""

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


def choices_of(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the choices of a frame or body that are objects."""
    choices = chunk.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def usage_of(value: object) -> Usage | None:
    """Read a usage object; None when it has neither of the two counts.

    Shape: xAI and Google count thoughts in the total alone; DeepSeek has a member of its own for what was cached.
    """
    if not isinstance(value, dict):
        return None
    given, out = count_of(value, "prompt_tokens"), count_of(value, "completion_tokens")
    if given is None and out is None:
        return None
    asked, total = value.get("prompt_tokens_details"), count_of(value, "total_tokens")
    return Usage(
        input_tokens=given or 0,
        output_tokens=max(out or 0, (total or 0) - given if given is not None else 0),
        cached_tokens=count_of(asked, "cached_tokens") or count_of(value, "prompt_cache_hit_tokens") or 0,
        reasoning_tokens=count_of(value.get("completion_tokens_details"), "reasoning_tokens") or 0,
        cache_write_tokens=count_of(asked, "cache_write_tokens") or 0,
    )


def usage_in(value: dict[str, Any]) -> Usage | None:
    """Read the usage of a frame or body. Shape: Groq's may stand in a member of its own."""
    usage = value.get("usage")
    if not usage and isinstance(groq := value.get("x_groq"), dict):
        usage = groq.get("usage")
    return usage_of(usage)


def usage_members(usage: Usage) -> dict[str, object]:
    """Write a usage object."""
    asked = {"cached_tokens": usage.cached_tokens}
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": asked
        | ({"cache_write_tokens": usage.cache_write_tokens} if usage.cache_write_tokens else {}),
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


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
    return ProviderError(cut(error if isinstance(error, str) else json.dumps(error)))


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
        message=cut(message),
        kind=kind if isinstance(kind, str) else None,
        code=str(code) if isinstance(code, (str, int)) else None,
        param=param if isinstance(param, str) else None,
        status=_status_of(code) or _status_of(members.get("status")) or _status_of(kind),
    )


def _status_of(value: object) -> int:
    if isinstance(value, str):
        value = int(value) if re.fullmatch("[45][0-9][0-9]", value) else _STATUS_OF.get(value, 0)
    return value if type(value) is int and 400 <= value <= 599 else 0
