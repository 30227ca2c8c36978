"""The translated road: the provider's frames become events, and these the client's frames.

Nothing is passed on in pieces here: a frame is read when it is whole, so that the client always stands between two frames.
"""

from collections.abc import Iterable
from typing import Final

from tidegate.dialect.events import (
    Done,
    Event,
    EventDecoder,
    EventEncoder,
    Failed,
    Finished,
    ProviderError,
    Reasoning,
    Refusal,
    Text,
    ToolArguments,
    UsageSeen,
)
from tidegate.exchange import Client, Ending, Outcome, Stream
from tidegate.relay.meter import Meter
from tidegate.relay.relay import Relay, RelayRules
from tidegate.verdict import COMPLETED, UPSTREAM_TRUNCATED
from tidegate.wire import Frame, FrameError, Framer

_COMPLETED: Final = Ending(COMPLETED)


class Translator:
    """Turns one stream's bytes into another dialect's, and tells a meter what they say.

    Shape: `alive` says whether the last bytes had a frame with data in them; `content_bytes` is what the model said.
    Holds: in the framer, at most one frame, up to its limit.
    """

    __slots__ = ("_decoder", "_encoder", "_framer", "_meter", "alive", "content_bytes")

    def __init__(self, framer: Framer, decoder: EventDecoder, encoder: EventEncoder, meter: Meter) -> None:
        self._framer = framer
        self._decoder = decoder
        self._encoder = encoder
        self._meter = meter
        self.alive = False
        self.content_bytes = 0

    def take(self, data: bytes) -> bytes:
        """Give whole frames for the client. Shape: what came before a bad frame or the provider's error, not these."""
        events: list[Event] = []
        self.alive = False
        try:
            for frame in self._framer.feed(data):
                said = self._decoder.feed(frame)
                self.alive = self.alive or bool(said) or frame.data is not None
                if self._note(said, events):
                    break
        except FrameError as error:
            self._meter.unreadable = error.message
        return self._encoder.write(events)

    def finish(self, rest: bytes) -> bytes:
        """Give what completes the client's stream when an unfinished frame was the last; nothing, if more is missing."""
        events: list[Event] = []
        try:
            said = self._decoder.feed(Frame(rest)) if rest.strip() else self._decoder.finish()
        except FrameError:
            return b""
        if not isinstance(said[-1] if said else None, Done):
            return b""
        self._note(said, events)
        return self._encoder.write(events)

    def fail(self, error: ProviderError) -> bytes:
        """Give the frames that tell the client of an error, after which nothing comes."""
        return self._encoder.write((Failed(error),))

    def _note(self, said: Iterable[Event], events: list[Event]) -> bool:
        """Take what a frame says, and add it to what the client is told; gives whether the stream is over."""
        meter = self._meter
        size = self.content_bytes
        for event in said:
            match event:
                case Text(_, text) | Reasoning(_, text) | Refusal(_, text) | ToolArguments(_, _, text):
                    self.content_bytes += len(text.encode(errors="surrogatepass"))
                case UsageSeen(usage):
                    meter.usage = usage
                case Finished(_, reason):
                    meter.finish_reason = reason
                case Failed(error):
                    meter.error = error
                    return True
                case Done():
                    meter.done = True
            events.append(event)
        meter.frames += self.content_bytes > size
        return meter.done


class TranslatingRelay(Relay):
    """A stream of frames on its way to a client who reads them in another dialect."""

    __slots__ = ("_translator",)

    def __init__(self, client: Client, stream: Stream, outcome: Outcome, rules: RelayRules) -> None:
        super().__init__(client, stream, outcome, rules)
        ask, dialect = stream.attempt.admitted.ask, rules.dialect
        self._translator = Translator(self._framer, dialect.decoder(ask), dialect.encoder(ask), self._meter)

    def _write_events(self, data: bytes) -> None:
        now = self._clock()
        translator = self._translator
        written = translator.take(data)
        if translator.alive:
            self._count_gap(now)
        if written:
            self._put(written, now)
        meter = self._meter
        if meter.done or meter.unreadable or meter.error is not None:
            self._conclude()

    def _finish_events(self) -> None:
        rest = self._framer.release()
        self._framer = self._rules.framer()  # the unfinished frame is dropped: the client stands between two frames
        written = self._translator.finish(rest)
        if self._meter.done:
            self._put(written, self._clock())
            self.end(_COMPLETED)
        else:
            self.end(Ending(UPSTREAM_TRUNCATED))

    def _error_frame(self, code: str, message: str, kind: str | None) -> bytes:
        return self._translator.fail(ProviderError(message, kind, code))

    def _sum_up(self) -> None:
        super()._sum_up()
        self._outcome.path = "translated"
        self._flowing.content_bytes = self._translator.content_bytes
