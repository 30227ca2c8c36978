"""Errors as OpenAI's family tells them, whatever was asked for."""

from typing import Final

import msgspec

from tidegate.dialect.events import ProviderError
from tidegate.dialect.openai_chat.values import bare_error, error_in, error_object
from tidegate.dialect.values import said_plainly, value_of
from tidegate.wire import FrameError

_KIND_OF: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_STATUS_OF: Final = {529: 503}
"""Statuses of other families that OpenAI's clients do not know."""


class OpenAIErrors:
    """What dialects of the family share."""

    __slots__ = ()

    @staticmethod
    def read_error(status: int, body: bytes, /) -> ProviderError:
        """Read a provider's refusal. Shape: its own message, else the first printable text, else the status."""
        try:
            value = value_of(body)
        except FrameError:
            value = None
        if isinstance(value, list) and value:  # Google wraps the object
            value = value[0]
        if isinstance(value, dict):
            error = error_in(value) or bare_error(value)
            if error is not None:
                return msgspec.structs.replace(error, status=status)
        return ProviderError(said_plainly(body, status), status=status)

    @staticmethod
    def error_body(code: str, message: str, /, *, kind: str | None, param: str | None, status: int) -> bytes:
        """Write an error for a client that got no head yet. Shape: `type` follows the status where `kind` is None."""
        if kind is None:
            kind = _KIND_OF.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return error_object(ProviderError(message, kind, code, param))

    @staticmethod
    def error_frame(
        code: str,
        message: str,
        /,
        kind: str | None = None,
        *,
        first: bytes = b"",  # noqa: ARG004 (a frame here stands for itself)
        last: bytes = b"",  # noqa: ARG004
    ) -> bytes:
        """Write an error for a client whose stream runs: official SDKs raise on it."""
        return b"data: " + error_object(ProviderError(message, kind or "server_error", code)) + b"\n\n"

    @staticmethod
    def status(status: int, /) -> int:
        """Give the status that these clients know for a status of another dialect's."""
        return _STATUS_OF.get(status, status)
