"""What objects of the Responses API say: usage, errors, how a response ended."""

import re
from typing import Any, Final

from tidegate.dialect.events import ProviderError
from tidegate.dialect.openai_chat.values import bare_error, error_in
from tidegate.dialect.values import count_of, json_of
from tidegate.exchange import Usage

NAME: Final = "openai_responses"

INPUT: Final = "input"
"""The one member of a custom tool's arguments, as others know such a tool for a function."""

_WHY: Final = {"max_output_tokens": "length", "content_filter": "content_filter"}
"""Finish reasons by the `reason` of an incomplete response."""
WHY_NOT: Final = {reason: why for why, reason in _WHY.items()}
"""The other way about."""
CALLS: Final = ("function_call", "custom_tool_call")
"""The items that call a tool of the client's."""

_data_url = re.compile(r"data:([^;,]*)(?:;[^;,]*)*;base64,(.*)", re.DOTALL).fullmatch


def usage_of(value: object) -> Usage | None:
    """Read a usage object; None when it has neither of the two counts."""
    if not isinstance(value, dict):
        return None
    counts = count_of(value, "input_tokens"), count_of(value, "output_tokens")
    if counts == (None, None):
        return None
    details = value.get("input_tokens_details")
    return Usage(
        input_tokens=counts[0] or 0,
        output_tokens=counts[1] or 0,
        cached_tokens=count_of(details, "cached_tokens") or 0,
        reasoning_tokens=count_of(value.get("output_tokens_details"), "reasoning_tokens") or 0,
        cache_write_tokens=count_of(details, "cache_write_tokens") or 0,
    )


def usage_object(usage: Usage) -> bytes:
    """Write usage."""
    return json_of(
        {
            "input_tokens": usage.input_tokens,
            "input_tokens_details": {
                "cached_tokens": usage.cached_tokens,
                "cache_write_tokens": usage.cache_write_tokens,
            },
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.input_tokens + usage.output_tokens,
        }
    )


def dict_of(value: object) -> dict[str, Any]:
    """Give an object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def dicts_of(value: object) -> list[dict[str, Any]]:
    """Give the objects of an array; none for anything else."""
    return [member for member in value if isinstance(member, dict)] if isinstance(value, list) else []


def text_of(value: object) -> str:
    """Give a text; an empty one for anything else."""
    return value if type(value) is str else ""


def reason_of(response: dict[str, Any], *, called: bool) -> str:
    """Give why a response that did not fail is over."""
    if response.get("status") == "incomplete" or response.get("incomplete_details"):
        why = text_of(dict_of(response.get("incomplete_details")).get("reason"))
        return _WHY.get(why, why or "length")
    return "tool_calls" if called else "stop"


def failure_of(event: dict[str, Any]) -> ProviderError:
    """Read the error of an event or of a response that failed. Shape: there is always a message.

    Source: OpenAI's reference has the members of an `error` event stand alone; its servers wrap them as their bodies do.
    """
    inner = dict_of(event.get("response"))
    members = {name: value for name, value in event.items() if name != "type"}
    return (
        error_in(event) or error_in(inner) or bare_error(members) or ProviderError("the provider failed without a word")
    )


def media_of(url: str) -> tuple[str, str] | None:
    """Give media type and base64 of a data URL; None for any other."""
    found = _data_url(url)
    return (found[1], found[2]) if found is not None else None


def error_object(error: ProviderError) -> bytes:
    """Write the error of a response. Shape: where it has no code, one of the two that say whose doing it was."""
    busy = error.status == 429 or error.kind in {"rate_limit_error", "rate_limit_exceeded"}
    members = {"code": error.code or ("rate_limit_exceeded" if busy else "server_error"), "message": error.message}
    more = {"param": error.param, "type": error.kind}
    return json_of(members | {name: value for name, value in more.items() if value is not None})
