"""The translated road: the provider's frames become events, and these the client's frames.

Nothing is passed on in pieces here: a frame is read when it is whole, so that the client always stands between two frames.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import structs

from tidegate.dialect import ProviderDialect
from tidegate.dialect.events import (
    Done,
    Event,
    EventDecoder,
    EventEncoder,
    Failed,
    Finished,
    Origin,
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
from tidegate.wire import Frame, Framed, FrameError, FramerOf

_COMPLETED: Final = Ending(COMPLETED)


class Translator:
    """Turns one stream's bytes into another dialect's, and tells a meter what they say.

    Shape: `alive` says whether the last bytes had a frame with data in them; `content_bytes` is what the model said.
    Holds: in the framer, at most one frame, up to its limit.
    """

    __slots__ = ("_decoder", "_encoder", "_framer", "_meter", "alive", "content_bytes")

    def __init__(self, framer: FramerOf[Framed], decoder: EventDecoder, encoder: EventEncoder, meter: Meter) -> None:
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
        try:
            return self._encoder.write(events)
        except FrameError as error:  # more than the client's dialect can put in order
            self._meter.unreadable = error.message
            return b""

    def finish(self) -> bytes:
        """Give what completes the client's stream, should only its end be missing; else nothing."""
        try:
            said = self._last()
            if not isinstance(said[-1] if said else None, Done):
                return b""
            written = self._encoder.write(said)
        except FrameError:  # half a frame, or more than the client's dialect can put in order
            return b""
        self._note(said, [])
        return written

    def _last(self) -> Sequence[Event]:
        """Give what was left to say when the provider's body ended. Errors: FrameError when that was half a frame."""
        try:
            frames = self._framer.finish()
        except FrameError:
            # Of server-sent events the last may lack its empty line: it counts where it says that the stream is over.
            return self._decoder.feed(Frame(self._framer.release()))
        said = [event for frame in frames for event in self._decoder.feed(frame)]
        return said if said and isinstance(said[-1], Done) else [*said, *self._decoder.finish()]

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

    __slots__ = ("_related", "_translator")

    def __init__(
        self,
        client: Client,
        stream: Stream,
        outcome: Outcome,
        rules: RelayRules,
        provider: ProviderDialect,
        origin: Origin,
    ) -> None:
        super().__init__(client, stream, outcome, rules)
        ask = stream.attempt.admitted.ask
        decoder, encoder = provider.decoder(ask), rules.dialect.encoder(ask, origin)
        ask.body = b""  # nobody looks at it again
        # Kinds of errors are words of a dialect's own.
        self._related = provider.name == rules.dialect.name
        self._translator = Translator(self._framer, decoder, encoder, self._meter)

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
        written = self._translator.finish()
        self._framer = self._rules.framer()  # an unfinished frame is dropped: the client stands between two frames
        if self._meter.done:
            if written:  # an empty chunk would be the body's end
                self._put(written, self._clock())
            self.end(_COMPLETED)
        else:
            self.end(Ending(UPSTREAM_TRUNCATED))

    def _error_frame(self, error: ProviderError) -> bytes:
        if self._related:
            return self._translator.fail(error)
        said = self._meter.error
        # Some clients decide by it what to do next.
        code = self._stream.redact(said.code) if said is not None and said.code else error.code
        return self._translator.fail(structs.replace(error, kind=None, code=code))

    def _sum_up(self) -> None:
        super()._sum_up()
        self._outcome.path = "translated"
        self._flowing.content_bytes = self._translator.content_bytes
