"""Lists of models: the mock has one, and names it to everybody in their own words."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from tidegate.mock import head
from tidegate.mock.ask import Headers

_CREATED: Final = 1_750_000_000
_WHEN: Final = "2025-06-15T15:06:40Z"


def _openai() -> dict[str, Any]:
    model = {"id": "mock", "object": "model", "created": _CREATED, "owned_by": "tidegate"}
    return {"object": "list", "data": [model]}


def _anthropic() -> dict[str, Any]:
    model = {"type": "model", "id": "mock", "display_name": "Mock", "created_at": _WHEN}
    return {"data": [model], "has_more": False, "first_id": "mock", "last_id": "mock"}


def _google() -> dict[str, Any]:
    model = {
        "name": "models/mock",
        "version": "001",
        "displayName": "Mock",
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }
    return {"models": [model]}


def _ollama() -> dict[str, Any]:
    details = {"parent_model": "", "format": "gguf", "family": "mock", "parameter_size": "0B"}
    model = {"name": "mock", "model": "mock", "modified_at": _WHEN, "size": 0, "digest": "0" * 64, "details": details}
    return {"models": [model]}


_LISTS: Final[dict[head.Family, Callable[[], dict[str, Any]]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "google": _google,
    "ollama": _ollama,
}
_OWNERS: Final[dict[str, head.Family]] = {
    "/v1/models": "openai",
    "/models": "openai",
    "/v1beta/models": "google",
    "/api/tags": "ollama",
}
_SIGNS: Final[dict[bytes, head.Family]] = {b"anthropic-version": "anthropic", b"x-goog-api-key": "google"}
PATHS: Final = frozenset(_OWNERS)


def listed(path: str, headers: Headers) -> tuple[bytes, head.Family]:
    """Give the list at one of the PATHS, and whose it is: where several are, the headers tell who asks."""
    family = _OWNERS[path]
    if path == "/v1/models":
        family = next((_SIGNS[name.lower()] for name, _ in headers if name.lower() in _SIGNS), family)
    return msgspec.json.encode(_LISTS[family]()), family
