"""The frames between a worker and whoever reads a prediction: one event each, and its data on one line of compact JSON.

    output     {"chunk":<json>,"index":<n>}                             an element of an output that is a list
    value      {"chunk":<json>,"index":0}                               an output that is no list
    log        {"source":"stdout","data":"whole lines"}
    metric     {"name":"a.b","value":<json>,"mode":"replace"}           or increment, append
    completed  {"status":"succeeded","array":true}                      or failed with its "error", or canceled; once, and last;
                                                                        with "usage" where the handler counts its tokens

JSON that only passes through stays bytes.
"""

from typing import Final

import msgspec
from msgspec import Raw, Struct

from tidegate.exchange import Usage
from tidegate.kernel.telling import Mode, Source, Status
from tidegate.wire import Frame, FrameError

OUTPUT: Final = b"output"
VALUE: Final = b"value"
LOG: Final = b"log"
METRIC: Final = b"metric"
COMPLETED: Final = b"completed"

MAX_ERROR_CHARS: Final = 32 * 1024
"""Of what a handler raises, more is cut: so that a stream's last frame is never so large that it would be passed on in pieces."""

_EVENT: Final = b"event: "
_DATA: Final = b"\ndata: "
_CHUNK: Final = b'{"chunk":'
_INDEX: Final = b',"index":'


class Completed(Struct, frozen=True, kw_only=True):
    """How a prediction ended. Shape: `array` says that its output is a list, were it empty; `usage` is what the handler counted."""

    status: Status
    array: bool = False
    error: str = ""
    usage: Usage | None = None


class Metric(Struct, frozen=True):
    """A metric as it was recorded. Shape: `value` is JSON; null with `replace` deletes."""

    name: str
    value: Raw
    mode: Mode = "replace"


class _Output(Struct):
    chunk: Raw


_decode_completed = msgspec.json.Decoder(Completed).decode
_decode_metric = msgspec.json.Decoder(Metric).decode
_decode_output = msgspec.json.Decoder(_Output).decode
_encode = msgspec.json.Encoder().encode


# --- reading -------------------------------------------------------------------------------------------------------


def read_frame(raw: bytes) -> tuple[bytes, bytes]:
    """Give a frame's event and its data. Shape: empty where it has none, as a comment. Nothing is decoded."""
    head, _, rest = raw.partition(_DATA)
    if head.startswith(_EVENT) and b"\n" not in head and rest.find(b"\n") == len(rest) - 2 and b"\r" not in raw:
        return head[len(_EVENT) :], rest[:-2]
    frame = Frame(raw)
    return frame.event or b"", frame.data or b""


def chunk_of(data: bytes) -> bytes:
    """Give the JSON of the chunk in the data of `output` or `value`. Errors: FrameError."""
    at = data.rfind(_INDEX)
    if at > 0 and data.startswith(_CHUNK) and data[at + len(_INDEX) : -1].isdigit() and data.endswith(b"}"):
        return data[len(_CHUNK) : at]
    try:
        return bytes(_decode_output(data).chunk)
    except (msgspec.DecodeError, RecursionError):
        raise FrameError("an output has no chunk") from None


def completed_of(data: bytes) -> Completed:
    """Read the data of `completed`. Errors: FrameError."""
    try:
        return _decode_completed(data)
    except (msgspec.DecodeError, RecursionError):
        raise FrameError("the end of a prediction cannot be read") from None


def metric_of(data: bytes) -> Metric:
    """Read the data of `metric`. Errors: FrameError."""
    try:
        return _decode_metric(data)
    except (msgspec.DecodeError, RecursionError):
        raise FrameError("a metric cannot be read") from None


# --- writing -------------------------------------------------------------------------------------------------------


def output_frame(chunk: bytes, index: int) -> bytes:
    """Write an element of an output that is a list. Shape: `chunk` is its JSON, on one line."""
    return b'event: output\ndata: {"chunk":%b,"index":%d}\n\n' % (chunk, index)


def value_frame(chunk: bytes) -> bytes:
    """Write an output that is no list. Shape: as above."""
    return b'event: value\ndata: {"chunk":%b,"index":0}\n\n' % chunk


def log_frame(source: Source, text: str) -> bytes:
    """Write what was printed."""
    return b'event: log\ndata: {"source":"%b","data":%b}\n\n' % (source.encode(), _string(text))


def metric_frame(name: str, value: bytes, mode: Mode) -> bytes:
    """Write a metric. Shape: `value` is JSON, on one line."""
    return b'event: metric\ndata: {"name":%b,"value":%b,"mode":"%b"}\n\n' % (_string(name), value, mode.encode())


def completed_frame(status: Status, *, array: bool = False, error: str = "", usage: Usage | None = None) -> bytes:
    """Write how a prediction ended. Shape: `array` belongs to one that succeeded, `error` to one that failed."""
    more = b""
    if status == "succeeded":
        more = b',"array":true' if array else b',"array":false'
    elif status == "failed":
        more = b',"error":' + _string(error if len(error) <= MAX_ERROR_CHARS else error[:MAX_ERROR_CHARS] + "…")
    if usage is not None:
        more += b',"usage":' + _encode(usage)
    return b'event: completed\ndata: {"status":"%b"%b}\n\n' % (status.encode(), more)


def error_frame(message: str) -> bytes:
    """Write why a stream broke off."""
    return b'event: error\ndata: {"error":%b}\n\n' % _string(message)


def _string(text: str) -> bytes:
    """Encode a text. Shape: half a surrogate pair, as file names that are no UTF-8 have them, becomes a question mark."""
    try:
        return _encode(text)
    except UnicodeEncodeError:
        return _encode(text.encode(errors="replace").decode())
