"""From a request's body to a Play: reads what is asked for, renders what is said, decides when it is sent.

No sockets. Holds what is worth keeping between requests, all of it bounded: scripts read, answers rendered, the seed.
"""

import random
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from msgspec import Struct

from tidegate.mock import head
from tidegate.mock.ask import Ask, BadAsk, Headers
from tidegate.mock.asking.routes import Route, read
from tidegate.mock.completion import SPEAKERS, Reel, Whole, render_comment, render_stream, render_whole
from tidegate.mock.play import (
    DRIP_S,
    TURN_S,
    Beat,
    End,
    Play,
    end_of,
    in_fragments,
    is_instant,
    pace_stream,
    whole_after_s,
    with_comments,
)
from tidegate.mock.player import WRITE_BYTES
from tidegate.mock.script import Script, ScriptError, parse
from tidegate.mock.sigv4 import verify
from tidegate.mock.speech import errors
from tidegate.mock.speech.errors import Trouble
from tidegate.mock.speech.speaker import Speaker
from tidegate.mock.speech.words import Saying, Vectors, called

SCRIPTS_KEPT: Final = 512
RENDERED_BYTES_KEPT: Final = 32 * 1024 * 1024
_ENTRY_BYTES: Final = 1024
_ID_LENGTH: Final = len(errors.ANY_ID)


class Framing(Struct, frozen=True):
    """What the client's request allows: chunks (HTTP/1.1), and another request after this one."""

    chunks: bool
    keep: bool


class Request(Struct):
    """One request, whole."""

    method: bytes
    target: str
    headers: Headers
    body: bytes
    framing: Framing


class _Rendered:
    """Answers rendered before, the oldest forgotten first. Holds: RENDERED_BYTES_KEPT; what is larger, or never comes again, is not."""

    def __init__(self) -> None:
        self._kept: dict[Saying, Reel | Whole] = {}
        self._size = 0

    def stream(self, saying: Saying) -> Reel:
        kept = self._kept.get(saying)
        if isinstance(kept, Reel):
            return kept
        reel = render_stream(saying)
        if is_instant(saying.script) and reel.size_bytes() <= WRITE_BYTES:
            reel = reel.joined()
        self._keep(saying, reel)
        return reel

    def whole(self, saying: Saying) -> Whole:
        kept = self._kept.get(saying)
        if isinstance(kept, Whole):
            return kept
        whole = render_whole(saying)
        self._keep(saying, whole)
        return whole

    def _keep(self, saying: Saying, answer: Reel | Whole) -> None:
        size = answer.size_bytes() + _ENTRY_BYTES
        if saying.ident or size > RENDERED_BYTES_KEPT // 8:
            return
        self._kept[saying] = answer
        self._size += size
        while self._size > RENDERED_BYTES_KEPT:
            self._size -= self._kept.pop(next(iter(self._kept))).size_bytes() + _ENTRY_BYTES


class Stage:
    """Answers requests as they ask for it; the same seed gives the same texts and, in the same order, the same ids."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rng = random.Random(seed)  # noqa: S311 (ids and phases of a mock, not secrets)
        self._parse = lru_cache(SCRIPTS_KEPT)(parse)
        self._rendered = _Rendered()
        self._clock = head.Clock()

    def plain(self, status: int, body: bytes, framing: Framing, family: head.Family = "openai") -> Play:
        """Give an answer of JSON that comes at once."""
        top = self._head(status, head.JSON, head.length(len(body)), framing.keep, family=family)
        return Play(top + body, end=_end(framing))

    def refusal(self, status: int, message: str, framing: Framing, extra: bytes = b"") -> Play:
        """Give an error of the mock's own, where no dialect is spoken yet."""
        return self._refused(Trouble(status, message), SPEAKERS["chat"], framing, extra)

    def answer(self, route: Route, request: Request) -> Play:
        """Give the answer to a request; what can't be understood or obeyed is refused, in the request's dialect."""
        framing = request.framing
        try:
            if route.signed:
                verify(request.method, request.target, request.headers, request.body, time.time())
            ask = read(route, request.headers, request.body)
            script = self._parse(ask.model, ask.user, _knobs(request.headers))
            return self._answer(ask, script, framing)
        except BadAsk as error:
            trouble = Trouble(error.status, error.message, error.param, error.code)
        except ScriptError as error:
            trouble = Trouble(400, error.message, error.key)
        return self._refused(trouble, SPEAKERS[route.dialect], framing)

    def _refused(self, trouble: Trouble, speaker: Speaker, framing: Framing, extra: bytes = b"") -> Play:
        said, ident = speaker.error(trouble), self._ident()
        body = said.body.replace(errors.ANY_ID, ident)
        top = self._head(
            trouble.status,
            speaker.whole_type,
            head.length(len(body)),
            framing.keep,
            extra + said.extra,
            family=speaker.family,
            ident=ident,
        )
        return Play(top + body, end=_end(framing))

    def _answer(self, ask: Ask, script: Script, framing: Framing) -> Play:
        if script.reject:
            return Play(b"", end="reset")
        if script.stall == "head":
            return Play(b"", end="hang")
        if script.close:
            framing = Framing(chunks=False, keep=False)
        speaker = SPEAKERS[ask.dialect]
        if script.status or script.json_error or (script.fail == "error" and not ask.stream):
            return self._error(script, speaker, framing)
        ident = self._ident()
        saying = self._saying(ask, script, framing, ident if speaker.checked else b"")
        send = self._stream if ask.stream else self._whole
        return send(saying, speaker, framing, ident)

    def _saying(self, ask: Ask, script: Script, framing: Framing, ident: bytes) -> Saying:
        usage = script.usage and (ask.wants_usage or not ask.stream)
        return Saying(
            seed=self._seed,
            script=script,
            model=ask.model.partition("?")[0] or "mock",
            stream=ask.stream,
            chunked=framing.chunks,
            choices=ask.choices,
            usage=usage,
            json=ask.wants_json,
            tools=called(ask.tools, script.tools) if script.tools else (),
            prompt_tokens=ask.prompt_tokens if usage else 0,
            variety=ask.variety,
            dialect=ask.dialect,
            encrypted=ask.encrypted,
            vectors=Vectors(ask.inputs, ask.dimensions, ask.base64) if ask.inputs else None,
            ident=ident,
        )

    def _stream(self, saying: Saying, speaker: Speaker, framing: Framing, ident: bytes) -> Play:
        script = saying.script
        reel = self._rendered.stream(saying)
        blank, mark = speaker.stream_blank, speaker.stamp(ident, self._clock.now().created, True)
        top = self._head(
            200,
            speaker.stream_type,
            head.CHUNKED if framing.chunks else head.UNTIL_CLOSE,
            framing.keep,
            family=speaker.family,
            ident=ident,
            script=script,
        )
        end = _end(framing, end_of(script))
        if is_instant(script) and not reel.paced:
            return Play(top + reel.opening.replace(blank, mark), end=end)
        beats = pace_stream(script, top, reel, blank, mark, rng=self._rng)
        if script.comments_s:
            beats = with_comments(beats, script.comments_s, render_comment(saying), hangs=end == "hang")
        return _timed(script, beats, end)

    def _whole(self, saying: Saying, speaker: Speaker, framing: Framing, ident: bytes) -> Play:
        script = saying.script
        whole = self._rendered.whole(saying)
        mark = speaker.stamp(ident, self._clock.now().created, False)
        body = whole.body.replace(speaker.whole_blank, mark)
        size = len(body)
        if script.fail:
            body = body[: whole.cut_bytes]
        way = head.UNTIL_CLOSE if script.close else head.length(len(body) if script.fail == "eof" else size)
        if script.fail == "garbage":
            way = head.CHUNKED
            body = b"%x\r\n%b\r\nzz;not a chunk\r\n" % (len(body), body) if body else b"zz;not a chunk\r\n"
        top = self._head(200, speaker.whole_type, way, framing.keep, family=speaker.family, ident=ident, script=script)
        return _after(script, whole_after_s(script, whole), top + body, _end(framing, end_of(script)))

    def _error(self, script: Script, speaker: Speaker, framing: Framing) -> Play:
        said, ident = speaker.error(_trouble(script)), self._ident()
        body = said.body.replace(errors.ANY_ID, ident)
        way = head.UNTIL_CLOSE if script.close else head.length(len(body))
        extra = said.extra
        if script.retry_after:
            extra += b"retry-after: %b\r\n" % script.retry_after.encode()
        top = self._head(
            script.status or 200,
            speaker.whole_type,
            way,
            framing.keep,
            extra,
            family=speaker.family,
            ident=ident,
            script=script,
        )
        return _after(script, script.ttft_s, top + body, _end(framing))

    def _ident(self) -> bytes:
        return b"%0*x" % (_ID_LENGTH, self._rng.getrandbits(4 * _ID_LENGTH))

    def _head(
        self,
        status: int,
        content_type: bytes,
        way: bytes,
        keep: bool,  # noqa: FBT001 (goes straight on)
        extra: bytes = b"",
        *,
        family: head.Family,
        ident: bytes = b"",
        script: Script | None = None,
    ) -> bytes:
        return head.render_head(
            self._clock.now(),
            ident or self._ident(),
            status,
            content_type,
            way,
            family=family,
            keep=keep,
            extra=extra,
            took_s=script.ttft_s if script else 0.0,
        )


def _end(framing: Framing, end: End = "done") -> End:
    return "close" if end == "done" and not framing.keep else end


def _after(script: Script, silence_s: float, data: bytes, end: End) -> Play:
    """Give an answer in one piece, after a silence."""
    if not silence_s and not script.cut_bytes and not script.drip and len(data) <= WRITE_BYTES:
        return Play(data, end=end)
    return _timed(script, iter(((silence_s, data),)), end)


def _timed(script: Script, beats: Iterator[Beat], end: End) -> Play:
    if script.drip:
        beats = in_fragments(beats, 1, DRIP_S)
    elif script.cut_bytes:
        beats = in_fragments(beats, script.cut_bytes, TURN_S)
    return Play(b"", beats, end)


def _trouble(script: Script) -> Trouble:
    """Give the error that a script asks for."""
    if not script.status:
        return errors.BROKEN
    message = f"The mock was asked to answer {script.status}."
    return Trouble(script.status, message, retry_after=script.retry_after, usual=True)


def _knobs(headers: Headers) -> str:
    for name, value in headers:
        if name.lower() == b"x-mock":
            # Header values have no encoding; clients that write ± mean UTF-8 or Latin-1.
            try:
                return value.decode()
            except UnicodeDecodeError:
                return value.decode("latin-1")
    return ""
