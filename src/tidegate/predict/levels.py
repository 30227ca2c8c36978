"""How deep JSON may be nested that handlers take and give: what reads it elsewhere may have little room for more. Pure."""

from typing import Any, Final

MAX_LEVELS: Final = 200


def is_too_deep(value: Any) -> bool:
    """Whether lists and dicts are nested in more than MAX_LEVELS levels."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_LEVELS):
        level = [inner for outer in level for inner in _inner(outer) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _inner(outer: Any) -> Any:
    return outer.values() if isinstance(outer, dict) else outer
