"""Errors, in each provider's own envelope, words and headers."""

from typing import Any, Final

import msgspec
from msgspec import Struct

ANY_ID: Final = b"@" * 24
"""What stands for an answer's id where that is filled in when it is sent."""


class Trouble(Struct, frozen=True):
    """What is wrong. Shape: `code` is the provider's own word for it; '' where the status says it.

    Holds: `usual`: it is the error that a provider gives most often with this status.
    """

    status: int
    message: str
    param: str | None = None
    code: str = ""
    retry_after: str = ""
    usual: bool = False


class ErrorSaid(Struct, frozen=True):
    """An error, ready to be sent. Shape: `extra` are whole header lines; the body's request id may be a blank."""

    body: bytes
    extra: bytes = b""


BROKEN: Final = Trouble(500, "The server had an error while processing your request. Sorry about that!")
"""What a provider says that breaks while it answers."""


# OpenAI


def openai_error(message: str, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """Give an error in OpenAI's envelope."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


_OPENAI: Final = {
    401: ("invalid_request_error", None, "invalid_api_key"),
    404: ("invalid_request_error", "model", "model_not_found"),
    429: ("requests", None, "rate_limit_exceeded"),
}


def openai(trouble: Trouble) -> ErrorSaid:
    """Give an error as OpenAI says it."""
    kind = "server_error" if trouble.status >= 500 else "invalid_request_error"
    param, code = trouble.param, trouble.code or ("server_error" if trouble is BROKEN else None)
    if trouble.usual:
        kind, param, code = _OPENAI.get(trouble.status, (kind, param, code))
    return ErrorSaid(openai_error(trouble.message, kind, param, code))


# Anthropic

_ANTHROPIC: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def anthropic_error(message: str, kind: str, request_id: bytes) -> bytes:
    """Give an error in Anthropic's envelope."""
    error = {"type": kind, "message": message}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": f"req_{request_id.decode()}"})


def anthropic(trouble: Trouble) -> ErrorSaid:
    """Give an error as Anthropic says it. Shape: its request id is a blank."""
    usual = "invalid_request_error" if trouble.status < 500 else "api_error"
    kind = trouble.code or _ANTHROPIC.get(trouble.status, usual)
    message = f"{trouble.param}: {trouble.message}" if trouble.param else trouble.message
    return ErrorSaid(anthropic_error(message, kind, ANY_ID))


# Google

_GOOGLE: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def google_error(trouble: Trouble) -> dict[str, Any]:
    """Give an error in Google's envelope."""
    status = trouble.code or _GOOGLE.get(trouble.status, "UNKNOWN")
    error: dict[str, Any] = {"code": trouble.status, "message": trouble.message, "status": status}
    if trouble.param:
        violation = {"field": trouble.param, "description": trouble.message}
        error["details"] = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}]
    if trouble.retry_after:
        retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{trouble.retry_after}s"}
        error["details"] = [retry]
    return {"error": error}


def google(trouble: Trouble) -> ErrorSaid:
    """Give an error as Google says it."""
    return ErrorSaid(msgspec.json.encode(google_error(trouble)))


def google_array(trouble: Trouble) -> ErrorSaid:
    """Give an error as Google says it where it streams an array."""
    return ErrorSaid(msgspec.json.encode([google_error(trouble)]))


# Amazon

_AWS: Final = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}
_NAMESPACE: Final = "http://internal.amazon.com/coral/com.amazon.bedrock/"


def aws(trouble: Trouble) -> ErrorSaid:
    """Give an error as Amazon says it: its kind stands in a header."""
    usual = "ValidationException" if trouble.status < 500 else "InternalServerException"
    kind = trouble.code or _AWS.get(trouble.status, usual)
    extra = f"x-amzn-errortype: {kind}:{_NAMESPACE}\r\n".encode()
    return ErrorSaid(msgspec.json.encode({"message": trouble.message}), extra)


# Ollama


def ollama(trouble: Trouble) -> ErrorSaid:
    """Give an error as Ollama says it."""
    return ErrorSaid(msgspec.json.encode({"error": trouble.message}))
