"""Lists of models: the mock has one, and names it to everybody in their own words."""

from typing import Any, Final

import msgspec

from tidegate.mock import head

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


_LISTS: Final = {"/v1/models": _openai, "/models": _openai, "/v1beta/models": _google, "/api/tags": _ollama}
PATHS: Final = frozenset(_LISTS)


def listed(path: str, *, for_anthropic: bool) -> tuple[bytes, head.Family]:
    """Give the list at one of the PATHS, and whose it is. Shape: `for_anthropic` asks for Anthropic's shape where there are two."""
    if for_anthropic and path == "/v1/models":
        return msgspec.json.encode(_anthropic()), "anthropic"
    family: head.Family = "google" if path == "/v1beta/models" else "ollama" if path == "/api/tags" else "openai"
    return msgspec.json.encode(_LISTS[path]()), family
