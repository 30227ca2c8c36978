"""What a prediction says, as events of a chat. A text is said as it is; any other output as its JSON."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Final

from tidegate.dialect.events import Done, Event, Failed, Finished, ProviderError, Started, Text, UsageSeen
from tidegate.dialect.prediction.frames import (
    COMPLETED,
    METRIC,
    OUTPUT,
    VALUE,
    Completed,
    chunk_of,
    completed_of,
    metric_of,
    read_frame,
)
from tidegate.dialect.values import count_of, value_of
from tidegate.dialect.whole import text_of
from tidegate.exchange import Usage
from tidegate.kernel.telling import Mode
from tidegate.wire import Framed

_ONLY: Final = 0
"""The index of the one choice that there is."""
_INPUT: Final = ("input_token_count", "input_tokens", "prompt_token_count", "prompt_tokens")
_OUTPUT: Final = ("output_token_count", "output_tokens", "completion_token_count", "completion_tokens")
"""Metrics that count tokens, the first that there is first."""
_REASON: Final = "finish_reason"
"""The metric that says why a text ends where it does."""
_REMEMBERED: Final = frozenset((*_INPUT, *_OUTPUT, _REASON))

_URI: Final = b'"data:'
_without_files = partial(re.compile(rb'"data:[^",]*;base64,[^"]*"').sub, b"")

FAILED: Final = "prediction_failed"
CANCELED: Final = "prediction_canceled"


def failure_of(completed: Completed) -> ProviderError | None:
    """Give why a prediction has no answer; None where it has one."""
    if completed.status == "succeeded":
        return None
    if completed.status == "canceled":
        return ProviderError("the prediction was canceled", code=CANCELED)
    return ProviderError(completed.error or "the prediction failed", code=FAILED)


def text_bytes(chunk: bytes) -> int:
    """Judge how much of an output's JSON is text: all but files, which are data URIs."""
    if _URI in chunk:
        chunk = _without_files(chunk)
    return max(0, len(chunk) - 2) if chunk.startswith(b'"') else len(chunk)


class Tokens:
    """What a handler records of its tokens, and of why its text ends. Holds: the latest value of each such metric."""

    __slots__ = ("_metrics",)

    def __init__(self) -> None:
        self._metrics: dict[str, object] = {}

    @property
    def reason(self) -> str:
        """Why the text ends, in the handler's word; empty where it has none."""
        return text_of(self._metrics.get(_REASON))

    @property
    def counted(self) -> bool:
        """Whether the handler has counted any."""
        if not self._metrics:
            return False
        return self._recorded(_INPUT) is not None or self._recorded(_OUTPUT) is not None

    def remember(self, name: str, value: bytes, mode: Mode) -> None:
        """Take a metric, if it is one of these. Shape: `value` is JSON. Errors: FrameError when it cannot be read."""
        if name not in _REMEMBERED:
            return
        read = value_of(value)
        if mode == "increment":
            read = (count_of(self._metrics, name) or 0) + (read if type(read) is int else 0)
        self._metrics[name] = read

    def usage(self, prompt_bytes: int, frames: int, content_bytes: int) -> Usage:
        """Give the tokens. Shape: `estimated` where either count had to be judged by what was seen."""
        given, out = self._recorded(_INPUT), self._recorded(_OUTPUT)
        usage = Usage.judged(prompt_bytes, frames, content_bytes)
        return Usage(
            input_tokens=usage.input_tokens if given is None else given,
            output_tokens=usage.output_tokens if out is None else out,
            estimated=given is None or out is None,
        )

    def _recorded(self, names: Sequence[str]) -> int | None:
        metrics = self._metrics
        if not metrics:
            return None
        return next((count for name in names if (count := count_of(metrics, name)) is not None), None)


class PredictionDecoder:
    """Reads one stream.

    Shape: tokens are those that the handler records as metrics; what it does not record is judged by what was seen, as the
    ledger does it.
    """

    __slots__ = ("_content_bytes", "_frames", "_prompt_bytes", "_started", "_tokens")

    def __init__(self, prompt_bytes: int = 0) -> None:
        self._prompt_bytes = prompt_bytes
        self._tokens = Tokens()
        self._started = False
        self._frames = 0
        self._content_bytes = 0

    def feed(self, frame: Framed, /) -> Sequence[Event]:
        """Give what a frame says. Errors: FrameError when it cannot be read."""
        event, data = read_frame(frame.raw)
        if event in {OUTPUT, VALUE}:
            return self._say(chunk_of(data))
        if event == METRIC:
            metric = metric_of(data)
            self._tokens.remember(metric.name, bytes(metric.value), metric.mode)
        elif event == COMPLETED:
            return self._end(completed_of(data))
        return ()

    def finish(self) -> Sequence[Event]:
        """Say that no frame follows. Shape: nothing; what has not said how it ended is not complete."""
        return ()

    def _say(self, chunk: bytes) -> Sequence[Event]:
        value = value_of(chunk)
        text = value if isinstance(value, str) else "" if value is None else chunk.decode()
        if not text:
            return self._begin()
        self._frames += 1
        self._content_bytes += len(text.encode(errors="surrogatepass"))
        return (*self._begin(), Text(_ONLY, text))

    def _begin(self) -> Sequence[Event]:
        if self._started:
            return ()
        self._started = True
        return (Started(),)

    def _end(self, completed: Completed) -> Sequence[Event]:
        failure = failure_of(completed)
        if failure is not None:
            return (Failed(failure),)
        usage = self._tokens.usage(self._prompt_bytes, self._frames, self._content_bytes)
        return (*self._begin(), UsageSeen(usage), Finished(_ONLY, self._tokens.reason or "stop"), Done())
