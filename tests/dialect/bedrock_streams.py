"""Bedrock's streams for its tests: golden ones, their messages made from lines that can be read, and botocore's own reading."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from botocore.eventstream import EventStream
from botocore.parsers import EventStreamJSONParser
from botocore.session import Session
from botocore.validate import ParamValidator

from tidegate.wire.eventstream import Message, encode

GOLDEN = Path(__file__).parents[1] / "golden" / "bedrock"


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.bin").read_bytes()


def messages_of(name: str) -> list[bytes]:
    """Give a golden stream's messages, written from its lines."""
    lines = (GOLDEN / f"{name}.jsonl").read_text().splitlines()
    return [encode(headers, payload.encode()) for headers, payload in map(json.loads, lines)]


def event(kind: str, payload: Any) -> Message:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return Message(encode(headers, payload if isinstance(payload, bytes) else json.dumps(payload).encode()))


def exception(kind: str, payload: Any) -> Message:
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return Message(encode(headers, payload if isinstance(payload, bytes) else json.dumps(payload).encode()))


def error(code: str, message: str) -> Message:
    return Message(encode({":error-code": code, ":error-message": message, ":message-type": "error"}, b""))


@cache
def service() -> Any:
    return Session().get_service_model("bedrock-runtime")


class _Raw:
    """A connection from which botocore reads a stream."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self) -> Iterator[bytes]:
        yield self._data

    def close(self) -> None:
        """Nothing is open."""


def by_botocore(operation: str, stream: bytes) -> list[Any]:
    """Give the events that botocore reads by the service's model. Errors: EventStreamError."""
    shape = service().operation_model(operation).get_event_stream_output()
    return list(EventStream(_Raw(stream), shape, EventStreamJSONParser(), operation))


def mistakes_in(body: bytes, operation: str = "Converse") -> str:
    """Give what botocore's validator finds wrong in a request's body; '' when it is fine."""
    shape = service().operation_model(operation).input_shape
    params = _params(json.loads(body), shape) | {"modelId": "anthropic.claude"}
    return str(ParamValidator().validate(params, shape).generate_report())


def _params(value: Any, shape: Any) -> Any:
    """Give a JSON value as botocore's callers would: bytes where base64 stands for some."""
    match shape.type_name:
        case "structure" if not getattr(shape, "is_document_type", False):
            members = shape.members
            return {name: _params(item, members[name]) if name in members else item for name, item in value.items()}
        case "list":
            return [_params(item, shape.member) for item in value]
        case "blob":
            return value.encode("ascii")
        case _:
            return value
