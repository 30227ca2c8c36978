"""What JSON of Anthropic's family says: usage, reasons to stop, errors; and these, written."""

import json
from collections.abc import Mapping
from typing import Any, Final

from tidegate.dialect.events import ProviderError
from tidegate.dialect.values import count_of, cut, json_of
from tidegate.exchange import Usage

NAME: Final = "anthropic"

REASON_OF: Final[Mapping[str, str]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
STOP_OF: Final[Mapping[str, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
REFUSED: Final = "refusal"
MET: Final = "stop_sequence"

_STATUS_OF: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Source: Anthropic, "Errors"."""
_KIND_OF: Final = {status: kind for kind, status in _STATUS_OF.items()} | {503: "overloaded_error"}


def kind_of(kind: str | None, status: int) -> str:
    """Give the type of an error: its own word where clients know it, else that of the status."""
    if kind is not None and kind in _STATUS_OF:
        return kind
    return _KIND_OF.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")


def error_object(error: ProviderError) -> bytes:
    """Write an error in Anthropic's envelope. Shape: `code` is a member more, for who knows it."""
    members = {"type": kind_of(error.kind, error.status), "message": error.message}
    return json_of({"type": "error", "error": members | ({"code": error.code} if error.code else {})})


def error_in(value: Mapping[str, Any]) -> ProviderError | None:
    """Read the error of an object; None where there is none. Shape: Amazon's is a message alone, and no other has a text there."""
    error = value.get("error")
    if error or value.get("type") == "error":
        return failure_of(error)
    return failure_of(value) if isinstance(value.get("message"), str) else None


def failure_of(error: object) -> ProviderError:
    """Read an error, whatever it is."""
    members = error if isinstance(error, dict) else {"message": error}
    message = members.get("message") or error or "the provider does not say why"
    kind = text_of(members.get("type"))
    return ProviderError(
        message=cut(message if isinstance(message, str) else json.dumps(message)),
        kind=kind or None,
        code=text_of(members.get("code")) or None,
        status=_STATUS_OF.get(kind, 0),
    )


def usage_of(value: object) -> Usage | None:
    """Read a usage object; None when it has neither of the two counts."""
    fresh, output = count_of(value, "input_tokens"), count_of(value, "output_tokens")
    if fresh is None and output is None:
        return None
    cached = count_of(value, "cache_read_input_tokens") or 0
    wrote = count_of(value, "cache_creation_input_tokens") or 0
    details = value.get("output_tokens_details") if isinstance(value, dict) else None
    return Usage(
        input_tokens=(fresh or 0) + cached + wrote,
        output_tokens=output or 0,
        cached_tokens=cached,
        reasoning_tokens=count_of(details, "thinking_tokens") or 0,
        cache_write_tokens=wrote,
    )


def usage_members(usage: Usage | None) -> dict[str, object]:
    """Write a usage object. Shape: the input is what was neither read from a cache nor written to one."""
    usage = usage or Usage()
    members: dict[str, object] = {
        "input_tokens": max(0, usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens:
        members["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return members


def explanation_in(members: Mapping[str, Any]) -> str:
    """Give why the model refused, where the provider says it."""
    details = members.get("stop_details")
    return text_of(details.get("explanation")) if isinstance(details, dict) else ""


def text_of(value: object) -> str:
    """Give a text; '' for anything else."""
    return value if isinstance(value, str) else ""
