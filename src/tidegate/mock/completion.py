"""What the mock says, as bytes on the wire: a stream with its framing, or an answer in one piece.

Pure. What differs from one answer to the next (its id, its second) is a blank of fixed length, filled in when it is sent:
so what is rendered once serves every request that asks the same.
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from msgspec import Struct

from tidegate.mock.ask import Dialect
from tidegate.mock.script import Script, ScriptError
from tidegate.mock.speech import bedrock, chat, gemini, messages, ollama, responses, vectors
from tidegate.mock.speech.frames import Frame, Framer
from tidegate.mock.speech.speaker import Speaker
from tidegate.mock.speech.words import Saying, Words, words

MOST_FRAMES: Final = 50_000
SPEAKERS: Final[dict[Dialect, Speaker]] = {
    "chat": chat.SPEAKER,
    "responses": responses.SPEAKER,
    "messages": messages.SPEAKER,
    "gemini": gemini.EVENTS,
    "gemini_array": gemini.ARRAY,
    "converse": bedrock.CONVERSE,
    "invoke": bedrock.INVOKE,
    "ollama": ollama.SPEAKER,
    "embeddings": vectors.EMBEDDINGS,
    "count_tokens": vectors.COUNT_TOKENS,
}


class Reel(Struct, frozen=True):
    """A stream, ready to be sent. Shape: framed bytes with a blank; `opening` goes with the head, `paced` one a tick."""

    opening: bytes
    paced: tuple[bytes, ...]
    tail: bytes

    def joined(self) -> "Reel":
        """Give the same bytes as an opening that leaves nothing to pace."""
        return Reel(b"".join((self.opening, *self.paced, self.tail)), (), b"")

    def size_bytes(self) -> int:
        """Give the bytes this holds."""
        return len(self.opening) + sum(map(len, self.paced)) + len(self.tail)


class Whole(Struct, frozen=True):
    """An answer in one piece. Shape: JSON with a blank; a failing one stops after its first `cut_bytes`."""

    body: bytes
    cut_bytes: int
    tokens: int

    def size_bytes(self) -> int:
        """Give the bytes this holds."""
        return len(self.body)


# How much is said


def _said(saying: Saying) -> list[Words]:
    """Give the words. Errors: ScriptError when they can't be as many as asked."""
    script, choices = saying.script, saying.choices
    total = _tokens_for_events(saying) if script.events else script.tokens * choices
    if total + choices * (script.reasoning + script.role_only) > MOST_FRAMES:
        raise ScriptError("tokens", f"All choices together may have {MOST_FRAMES} frames.")
    return words(saying, total)


def _tokens_for_events(saying: Saying) -> int:
    """Give the number of tokens with which a stream has the events asked for. Errors: ScriptError when no number has."""
    # A whole answer has as many tokens as the stream would have that was not asked for usage.
    streamed = msgspec.structs.replace(saying, usage=saying.usage and saying.stream)

    def events(tokens: int) -> int:
        return SPEAKERS[saying.dialect].take(streamed, words(streamed, tokens)).frames()

    calls = saying.choices * len(saying.tools)
    # With so many tokens, each more is one frame more in every dialect.
    enough = 2 * calls or 1
    around = events(enough) - enough
    total = saying.script.events - around
    if total < calls:
        raise ScriptError("events", f"`events` must be at least {around}: so many frames hold no token.")
    if events(total) != saying.script.events:
        raise ScriptError("events", "`events` cannot be exactly so many here; ask for `tokens`.")
    return total


def _check(saying: Saying, tokens: int) -> None:
    """Refuse what this dialect has no word for. Errors: ScriptError."""
    script = saying.script
    if script.fail_at > tokens:
        raise ScriptError("fail_at", f"`fail_at` is beyond the {tokens} tokens of this answer.")
    for knob in SPEAKERS[saying.dialect].lacks:
        if _LACKED[knob](saying):
            raise ScriptError(knob, f"`{knob}` cannot be so in this dialect: it has no word for it.")


_LACKED: Final[dict[str, Callable[[Saying], bool]]] = {
    "crlf": lambda saying: saying.stream and saying.script.crlf,
    "nospace": lambda saying: saying.stream and saying.script.nospace,
    "comments": lambda saying: saying.stream and saying.script.comments_s > 0,
    "role_only": lambda saying: saying.stream and saying.script.role_only > 1,
    "finish": lambda saying: saying.script.finish == "content_filter",
}


# Streams


class _Wire:
    """Puts frames on the wire of one stream."""

    def __init__(self, framer: Framer, *, chunked: bool) -> None:
        self._framer = framer
        self._chunked = chunked

    def framed(self, data: bytes) -> bytes:
        """Give data in the framing of the body."""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data

    def frames(self, frames: Iterable[Frame]) -> bytes:
        return b"".join([self.framed(self._framer.frame(frame)) for frame in frames])

    def end(self) -> bytes:
        return self.framed(self._framer.end()) + self.last_chunk()

    def last_chunk(self) -> bytes:
        return b"0\r\n\r\n" if self._chunked else b""

    def fault(self, script: Script, failure: Callable[[], Frame]) -> bytes:
        """Give the last bytes of a stream that fails."""
        match script.fail:
            case "error":
                return self.framed(self._framer.failure(failure())) + self.end()
            case "eof":
                return self.last_chunk()
            case "garbage":
                return b"zz;not a chunk\r\n"
            case _:
                return b""


def _wire(saying: Saying) -> _Wire:
    return _Wire(SPEAKERS[saying.dialect].framer(saying.script), chunked=saying.chunked)


def render_stream(saying: Saying) -> Reel:
    """Give the frames of a stream, a failing one up to its fault. Errors: ScriptError when they can't be as asked."""
    script, speaker, wire = saying.script, SPEAKERS[saying.dialect], _wire(saying)
    take = speaker.take(saying, _said(saying))
    _check(saying, len(take.tokens))
    groups = take.tokens[: script.fail_at] if script.fail else take.tokens + take.closing
    opening = wire.frames(take.opening)
    paced = tuple(wire.frames(group) for group in groups)
    if script.fail:
        before = len(take.opening) + sum(map(len, groups))
        return Reel(opening, paced, wire.fault(script, lambda: speaker.failure(saying, before)))
    return Reel(opening, paced, wire.last_chunk() if script.nodone else wire.end())


def render_comment(saying: Saying) -> bytes:
    """Give the comment frame that is sent while there is silence."""
    wire = _wire(saying)
    return wire.framed(SPEAKERS[saying.dialect].framer(saying.script).comment())


# Whole answers


def render_whole(saying: Saying) -> Whole:
    """Give an answer in one piece. Errors: ScriptError when it can't be as asked."""
    said = _said(saying)
    tokens = sum(len(one.thinking) + len(one.answer) + sum(len(call.pieces) for call in one.calls) for one in said)
    _check(saying, tokens)
    body = SPEAKERS[saying.dialect].whole(saying, said)
    return Whole(body=body, cut_bytes=len(body) * saying.script.fail_at // max(1, tokens), tokens=tokens)
