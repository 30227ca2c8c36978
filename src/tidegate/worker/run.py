"""One prediction on a worker: the Source of its stream, and what the worker's messages about it are told to."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from tidegate.dialect.prediction import (
    Tokens,
    completed_frame,
    log_frame,
    metric_frame,
    output_frame,
    text_bytes,
    value_frame,
)
from tidegate.exchange import AttemptRecord, Ending, Plain, Sink, Usage
from tidegate.verdict import COMPLETED
from tidegate.wire import FrameError
from tidegate.worker.messages import Ended, Item, Log, Metric

MAX_UNSENT_BYTES: Final = 4 * 1024 * 1024
"""What is kept of a run whose reader takes nothing; beyond it the worker is not heard, which its other runs then feel, too."""
MAX_HELD_BYTES: Final = 256 * 1024
"""What may come before the first output until a stream is taken for open."""

Told = Item | Log | Metric | Ended
"""What is said about one prediction."""


class Running(Protocol):
    """Where a run is at work."""

    def hold(self, run: "Run", /) -> None:
        """Hear nothing more until this run lets go."""
        ...

    def let_go(self, run: "Run", /) -> None:
        """Hear again, as far as this run is concerned."""
        ...

    def cancel(self, run: "Run", /) -> None:
        """Stop it: ask, and after the grace replace the worker."""
        ...


class Run:
    """One prediction. Shape: `opened` is set with the first output or the end, `released` when the worker is done with it.

    Holds: frames until somebody is attached and not paused, up to MAX_UNSENT_BYTES and what came in one read.
    """

    __slots__ = (
        "_clock", "_frames", "_given", "_holding", "_index", "_max_output_bytes", "_output_bytes", "_paused", "_prompt_bytes",
        "_running", "_sink", "_text_bytes", "_texts", "_tokens", "_unsent", "canceled", "ending", "failure", "number", "opened", "prediction", "record", "released",
        "request_id", "succeeded",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        request_id: str,
        running: Running,
        record: AttemptRecord,
        clock: Callable[[], float],
        max_output_bytes: int,
        prompt_bytes: int = 0,
        prediction: str = "",
    ) -> None:
        self.number = number
        self.request_id = request_id
        self.prediction = prediction
        self.record = record
        self.canceled = False
        self.ending: Ending | None = None
        self.failure = ""
        self.succeeded = False
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.released: asyncio.Future[None] = loop.create_future()
        self._running = running
        self._clock = clock
        self._max_output_bytes = max_output_bytes
        self._prompt_bytes = prompt_bytes
        self._output_bytes = self._text_bytes = self._texts = 0
        self._tokens = Tokens()
        self._index = 0
        self._sink: Sink | None = None
        self._frames: list[bytes] = []
        self._unsent = 0
        self._paused = False
        self._holding = False
        self._given = False

    # --- Source ----------------------------------------------------------------------------------------------------

    def attach(self, sink: Sink, /) -> None:
        """Give what came so far, then what comes."""
        self._sink = sink
        self.flush()

    def divert(self, plain: Plain | None, /) -> None:
        """There are no chunks to pass by."""

    def pause(self) -> None:
        """Keep what comes."""
        self._paused = True

    def resume(self) -> None:
        """Give what was kept, and go on."""
        self._paused = False
        self.flush()

    def abort(self) -> None:
        """Nobody listens any more: what comes is dropped, and the prediction stopped."""
        self._forget()
        self._drop()
        self.cancel()

    def cancel(self) -> None:
        """Stop the prediction. Shape: its last words are still given."""
        if self.ending is not None or self.canceled:
            return
        self.canceled = True
        self._let_go()  # the end must be heard
        self._running.cancel(self)

    # --- what the worker tells -------------------------------------------------------------------------------------

    def take(self, said: Told) -> None:
        """Take a message. Shape: `flush` gives what it says."""
        if self.ending is not None:
            return
        if type(said) is Item:
            self._output(said.chunk, output_frame(_line(said.chunk), self._index))
            self._index += 1
        elif type(said) is Log:
            self._add(log_frame(said.source, said.text))
        elif type(said) is Metric:
            self._add(metric_frame(said.name, _line(said.value), said.mode))
            with suppress(FrameError):
                self._tokens.remember(said.name, said.value, said.mode)
        elif type(said) is Ended:
            if said.value is not None:
                self._output(said.value, value_frame(_line(said.value)))
            if self.ending is None:
                self.failure, self.succeeded = said.error, said.status == "succeeded"
                usage = self.usage() if self._tokens.counted else None
                self._complete(completed_frame(said.status, array=said.array, error=said.error, usage=usage))

    def end_canceled(self) -> None:
        """Take notice that its worker does not stop it, and is replaced."""
        if self.ending is None:
            self._complete(completed_frame("canceled"))
            self.flush()

    def break_off(self, ending: Ending) -> None:
        """Take notice that its worker is gone."""
        if self.ending is None:
            self.failure = ending.message
            self._end(ending)
            self.flush()

    def broke(self, ending: Ending) -> None:
        """Take notice that whoever listens failed at what it was given: it is given this end, and the prediction stopped."""
        sink, given = self._sink, self._given
        self.abort()
        if sink is not None and not given:
            sink.finish(ending)

    def flush(self) -> None:
        """Give what there is to whoever listens, in one piece."""
        sink = self._sink
        if sink is None or self._given:
            if self._given:
                self._drop()
            elif self._unsent > MAX_HELD_BYTES:
                self._open()
                self._look()
            return
        if self._paused:
            self._look()
            return
        frames = self._frames
        if frames:
            self._frames, self._unsent = [], 0
            self._let_go()
            sink.write(frames[0] if len(frames) == 1 else b"".join(frames))
        if self.ending is not None and not self._given:
            self._forget()
            sink.finish(self.ending)

    def usage(self) -> Usage:
        """Give the tokens so far: those that the handler counts, else what can be judged. Shape: files are none."""
        return self._tokens.usage(self._prompt_bytes, self._texts, self._text_bytes)

    def _output(self, chunk: bytes, frame: bytes) -> None:
        self._output_bytes += len(chunk)
        if self._output_bytes > self._max_output_bytes:
            self.failure = f"the output is larger than {self._max_output_bytes} bytes"
            self.cancel()
            self._complete(completed_frame("failed", error=self.failure))
            return
        said = text_bytes(chunk)
        self._text_bytes += said
        self._texts += said > 0
        if not self.record.content_at:
            self.record.content_at = self._clock()
        self._add(frame)
        self._open()

    def _complete(self, frame: bytes) -> None:
        self._add(frame)
        self._end(Ending(COMPLETED))

    def _end(self, ending: Ending) -> None:
        self.ending = ending
        self._open()

    def _add(self, frame: bytes) -> None:
        if not self.record.framed_at:
            self.record.framed_at = self._clock()
        self._frames.append(frame)
        self._unsent += len(frame)

    def _open(self) -> None:
        if not self.opened.done():
            self.opened.set_result(None)

    def _look(self) -> None:
        """Hold the worker back where too much is kept; never when it was told to stop: its answer must be heard."""
        if self._unsent > MAX_UNSENT_BYTES and not self._holding and not self.canceled and self.ending is None:
            self._holding = True
            self._running.hold(self)

    def _let_go(self) -> None:
        if self._holding:
            self._holding = False
            self._running.let_go(self)

    def _forget(self) -> None:
        """Let go of who listened: the two hold each other, and nothing is given any more."""
        self._given = True
        self._sink = None

    def _drop(self) -> None:
        self._frames, self._unsent = [], 0
        self._let_go()


def _line(text: bytes) -> bytes:
    """Give JSON on one line: line ends in it are nothing but space, and would end the event."""
    if b"\n" in text or b"\r" in text:
        return text.replace(b"\n", b" ").replace(b"\r", b" ")
    return text
