"""JSON as dialects read and write it.

Servers differ in what they leave out, so what is read is read leniently: a member of an unexpected type says nothing.
"""

import json
import re
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Any, Final

import msgspec
from msgspec import structs

from tidegate.dialect.conversation import CallPart
from tidegate.exchange import Usage
from tidegate.wire import FrameError

MAX_MESSAGE_CHARS: Final = 4096
"""Of an error message in a provider's JSON, more is cut."""
MAX_TEXT_CHARS: Final = 500
"""Of a provider's error that is not JSON, more is cut."""

_LONG_CHARS: Final = 64 * 1024
"""A longer text that is full of escapes is left to the standard library: 0.9 ms a MiB of nothing else, where msgspec takes 3.0 to 4.4."""

_decode = msgspec.json.Decoder(object).decode
_encode = msgspec.json.Encoder().encode
_usage_key = re.compile(r'"usage"\s*:\s*(?=\{)').finditer


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


def object_of(data: bytes) -> dict[str, Any]:
    """Decode an object. Errors: FrameError."""
    value = value_of(data)
    if not isinstance(value, dict):
        raise FrameError("the data is not a JSON object")
    return value


def arguments_of(part: CallPart) -> dict[str, Any]:
    """Give a call's arguments, for providers that take an object alone.

    Shape: where the model said something else, as when it was cut, an object that says what. Source: Anthropic,
    "Fine-grained tool streaming", for the name.
    """
    try:
        return object_of(part.arguments.encode(errors="surrogatepass"))
    except FrameError:
        return {"INVALID_JSON": part.arguments}


def json_of(value: object) -> bytes:
    """Encode JSON. Shape: half a surrogate pair is written as it was read, an escape."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def string_of(text: str) -> bytes:
    """Encode a text. Shape: as `json_of`."""
    try:
        if len(text) > _LONG_CHARS and sum(map(text.count, '"\\\n')) > len(text) >> 3:
            return encode_basestring(text).encode()
        return _encode(text)
    except UnicodeEncodeError:
        return json_of(text)


def count_of(members: object, key: str) -> int | None:
    """Give a count among members; None where there is none."""
    value = members.get(key) if isinstance(members, dict) else None
    return value if type(value) is int and value >= 0 else None


def last_usage(tail: bytes, read: Callable[[object], Usage | None]) -> Usage | None:
    """Find the last usage in the end of a body. The key cannot be in a text: its quotes would be escaped there."""
    text = tail.decode("utf-8", "replace")
    for key in reversed(list(_usage_key(text))):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, key.end())
        except (ValueError, RecursionError):
            continue
        usage = read(value)
        if usage is not None:
            return usage
    return None


def cut(message: str) -> str:
    """Give an error message, or its beginning where it is long."""
    return message if len(message) <= MAX_MESSAGE_CHARS else message[:MAX_MESSAGE_CHARS] + "…"


def printable(body: bytes) -> str:
    """Give the beginning of a text without what a terminal would obey."""
    words = " ".join(body[: 8 * MAX_TEXT_CHARS].decode("utf-8", "replace").split())
    return "".join(char for char in words if char.isprintable())[:MAX_TEXT_CHARS]


def said_plainly(body: bytes, status: int) -> str:
    """Give the message of a refusal that is no JSON: the first printable text, else the status."""
    text = printable(body)
    return text if text and not text.startswith("<") else f"the provider answered {status}"


def usage_after(before: Usage | None, usage: Usage) -> Usage:
    """Give what is known once this was said. Shape: no input is empty, so one of 0 says nothing, and that of before stays."""
    if before is None or usage.input_tokens:
        return usage
    return structs.replace(
        usage,
        input_tokens=before.input_tokens,
        cached_tokens=before.cached_tokens,
        cache_write_tokens=before.cache_write_tokens,
    )
