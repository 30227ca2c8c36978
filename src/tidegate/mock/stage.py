"""From a request's body to a Play: reads what is asked for, renders what is said, decides when it is sent.

No sockets. Holds what is worth keeping between requests, all of it bounded: scripts read, answers rendered, the seed.
"""

import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from msgspec import Struct

from tidegate.mock import head
from tidegate.mock.ask import Ask, BadAsk, read_ask
from tidegate.mock.completion import (
    ID_LENGTH,
    Reel,
    Saying,
    Whole,
    blank,
    error_object,
    failure_object,
    render_comment,
    render_stream,
    render_whole,
    stamp,
)
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

SCRIPTS_KEPT: Final = 512
RENDERED_BYTES_KEPT: Final = 32 * 1024 * 1024
_ENTRY_BYTES: Final = 1024
_STREAM_BLANK: Final = blank(stream=True)
_WHOLE_BLANK: Final = blank(stream=False)


class Framing(Struct, frozen=True):
    """What the client's request allows: chunks (HTTP/1.1), and another request after this one."""

    chunks: bool
    keep: bool


class _Rendered:
    """Answers rendered before, the oldest forgotten first. Holds: RENDERED_BYTES_KEPT; what is larger is not kept."""

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
        if size > RENDERED_BYTES_KEPT // 8:
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

    def plain(self, status: int, body: bytes, framing: Framing, extra: bytes = b"") -> Play:
        """Give an answer of JSON that comes at once."""
        return Play(
            self._head(status, head.JSON, head.length(len(body)), framing.keep, extra) + body, end=_end(framing)
        )

    def refusal(
        self, status: int, message: str, framing: Framing, param: str | None = None, extra: bytes = b""
    ) -> Play:
        """Give an error of the mock's own."""
        return self.plain(status, error_object(message, "invalid_request_error", param), framing, extra)

    def completion(self, body: bytes, header: str, framing: Framing) -> Play:
        """Give the answer to a chat completion request; what can't be understood or obeyed is a 400."""
        try:
            ask = read_ask(body)
            script = self._parse(ask.model, ask.user, header)
            return self._answer(ask, script, framing)
        except BadAsk as error:
            return self.refusal(400, error.message, framing, error.param)
        except ScriptError as error:
            return self.refusal(400, error.message, framing, error.key)

    def _answer(self, ask: Ask, script: Script, framing: Framing) -> Play:
        if script.reject:
            return Play(b"", end="reset")
        if script.stall == "head":
            return Play(b"", end="hang")
        if script.close:
            framing = Framing(chunks=False, keep=False)
        if script.status or script.json_error or (script.fail == "error" and not ask.stream):
            return self._error(script, framing)
        saying = self._saying(ask, script, framing)
        return self._stream(saying, framing) if ask.stream else self._whole(saying, framing)

    def _saying(self, ask: Ask, script: Script, framing: Framing) -> Saying:
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
            tool=ask.tool if script.tools else "",
            prompt_tokens=ask.prompt_tokens if usage else 0,
            variety=ask.variety,
        )

    def _stream(self, saying: Saying, framing: Framing) -> Play:
        script = saying.script
        reel = self._rendered.stream(saying)
        mark = stamp(ident := self._ident(), self._clock.now().created, stream=True)
        top = self._head(
            200,
            head.EVENTS,
            head.CHUNKED if framing.chunks else head.UNTIL_CLOSE,
            framing.keep,
            ident=ident,
            script=script,
        )
        end = _end(framing, end_of(script))
        if is_instant(script) and not reel.paced:
            return Play(top + reel.opening.replace(_STREAM_BLANK, mark), end=end)
        beats = pace_stream(script, top, reel, _STREAM_BLANK, mark, rng=self._rng)
        if script.comments_s:
            beats = with_comments(beats, script.comments_s, render_comment(saying), hangs=end == "hang")
        return _timed(script, beats, end)

    def _whole(self, saying: Saying, framing: Framing) -> Play:
        script = saying.script
        whole = self._rendered.whole(saying)
        ident = self._ident()
        body = whole.body.replace(_WHOLE_BLANK, stamp(ident, self._clock.now().created, stream=False))
        size = len(body)
        if script.fail:
            body = body[: whole.cut_bytes]
        way = head.UNTIL_CLOSE if script.close else head.length(len(body) if script.fail == "eof" else size)
        if script.fail == "garbage":
            way = head.CHUNKED
            body = b"%x\r\n%b\r\nzz;not a chunk\r\n" % (len(body), body) if body else b"zz;not a chunk\r\n"
        top = self._head(200, head.JSON, way, framing.keep, ident=ident, script=script)
        return _after(script, whole_after_s(script, whole), top + body, _end(framing, end_of(script)))

    def _error(self, script: Script, framing: Framing) -> Play:
        body = _status_error(script.status) if script.status else failure_object()
        way = head.UNTIL_CLOSE if script.close else head.length(len(body))
        extra = b"retry-after: %b\r\n" % script.retry_after.encode() if script.retry_after else b""
        top = self._head(script.status or 200, head.JSON, way, framing.keep, extra, script=script)
        return _after(script, script.ttft_s, top + body, _end(framing))

    def _ident(self) -> bytes:
        return b"%0*x" % (ID_LENGTH, self._rng.getrandbits(4 * ID_LENGTH))

    def _head(
        self,
        status: int,
        content_type: bytes,
        way: bytes,
        keep: bool,  # noqa: FBT001 (goes straight on)
        extra: bytes = b"",
        *,
        ident: bytes = b"",
        script: Script | None = None,
    ) -> bytes:
        return head.render_head(
            self._clock.now(),
            ident or self._ident(),
            status,
            content_type,
            way,
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


def _status_error(status: int) -> bytes:
    message = f"The mock was asked to answer {status}."
    match status:
        case 401:
            return error_object(message, "invalid_request_error", code="invalid_api_key")
        case 404:
            return error_object(message, "invalid_request_error", "model", "model_not_found")
        case 429:
            return error_object(message, "requests", code="rate_limit_exceeded")
        case _:
            return error_object(message, "server_error" if status >= 500 else "invalid_request_error")
