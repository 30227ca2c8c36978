"""What the mock says, as bytes: the frames of a stream, the object of a whole answer, the error object.

Pure. What differs from one answer to the next (its id, its second) is a blank of fixed length, filled in when it is sent:
so what is rendered once serves every request that asks the same.
"""

from itertools import zip_longest
from typing import Final

import msgspec
from msgspec import Struct

from tidegate.mock import prose
from tidegate.mock.script import Script, ScriptError

ID_LENGTH: Final = 24
MOST_FRAMES: Final = 50_000
_CHUNK: Final = b"chat.completion.chunk"
_WHOLE: Final = b"chat.completion"
_FINGERPRINT: Final = b"fp_5ca1ab1e00"


class Saying(Struct, frozen=True):
    """Everything that decides what is said. Shape: `chunked` is the framing; `prompt_tokens` is 0 where nobody sees it."""

    seed: int
    script: Script
    model: str
    stream: bool
    chunked: bool
    choices: int
    usage: bool
    json: bool
    tool: str
    prompt_tokens: int
    variety: int


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


class Words(Struct):
    """One choice's words: thinking first, then the answer, as they are streamed. Holds: `tokens` counts both."""

    thinking: list[str]
    answer: list[str]
    tokens: int


def stamp(ident: bytes, created: bytes, *, stream: bool) -> bytes:
    """Give the bytes that fill a blank: id, object and second of creation. Shape: 24 and 10 bytes."""
    kind = _CHUNK if stream else _WHOLE
    return b'chatcmpl-%b","object":"%b","created":%b' % (ident, kind, created)


def blank(*, stream: bool) -> bytes:
    """Give what stands in rendered bytes for a stamp."""
    return stamp(b"@" * ID_LENGTH, b"0" * 10, stream=stream)


def error_object(message: str, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """Give an error in OpenAI's envelope."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def failure_object() -> bytes:
    """Give the error that a provider reports when it breaks while it answers."""
    return error_object(
        "The server had an error while processing your request. Sorry about that!", "server_error", code="server_error"
    )


# Words


def _shares(saying: Saying) -> list[int]:
    """Give the number of answer tokens of each choice."""
    script, choices = saying.script, saying.choices
    if not script.events:
        total = script.tokens * choices
    else:
        around = choices * (script.role_only + script.reasoning + 1)
        around += (saying.usage if saying.stream else 0) + (not script.nodone)
        total = script.events - around
        if total < (choices if script.tools else 0):
            raise ScriptError("events", f"`events` must be at least {around}: so many frames hold no token.")
    if total + choices * (script.reasoning + script.role_only) > MOST_FRAMES:
        raise ScriptError("tokens", f"All choices together may have {MOST_FRAMES} frames.")
    return [total // choices + (index < total % choices) for index in range(choices)]


def _words(saying: Saying) -> list[Words]:
    return [_choice(saying, index, count) for index, count in enumerate(_shares(saying))]


def _choice(saying: Saying, index: int, count: int) -> Words:
    seed = f"{saying.seed}/{saying.variety}/{index}"
    script = saying.script
    # A call's first frame carries its name and no arguments yet, as the real thing does.
    silent = script.tools and count > 1
    answer, tokens = prose.tokens(seed, count - silent), count + script.reasoning
    if script.bigframe_bytes and answer and index == 0:
        text, words = prose.filling(seed, script.bigframe_bytes)
        answer[len(answer) // 2] += text
        tokens += words
    if saying.json or script.tools:
        answer = _as_json(answer)
    if silent:
        answer.insert(0, "")
    return Words(thinking=prose.tokens(seed + "/thinking", script.reasoning), answer=answer, tokens=tokens)


def _as_json(pieces: list[str]) -> list[str]:
    """Give pieces that join to a JSON object with the same words."""
    if not pieces:
        return pieces
    pieces = [piece.replace("\n", "\\n") for piece in pieces]
    pieces[0] = '{"text":"' + pieces[0]
    pieces[-1] += '"}'
    return pieces


def _usage(saying: Saying, words: list[Words]) -> bytes:
    completion = sum(choice.tokens for choice in words)
    return msgspec.json.encode(
        {
            "prompt_tokens": saying.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": saying.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": sum(len(choice.thinking) for choice in words),
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }
    )


def _finish_reason(script: Script) -> str:
    return script.finish or ("tool_calls" if script.tools else "stop")


def _call_id(saying: Saying, index: int) -> str:
    return f"call_{saying.seed & 0xFFFFFFFF:08x}{saying.variety:08x}{index:08x}"


# Streams


class _Stream:
    """Renders the frames of one saying."""

    def __init__(self, saying: Saying) -> None:
        self._saying = saying
        script = saying.script
        self._end = b"\r\n" if script.crlf else b"\n"
        self._field = b"data:" if script.nospace else b"data: "
        model = msgspec.json.encode(saying.model)
        self._before = b'{"id":"%b,"model":%b,"service_tier":"default","system_fingerprint":"%b","choices":[' % (
            blank(stream=True),
            model,
            _FINGERPRINT,
        )
        self._after = b'],"usage":null}' if saying.usage else b"]}"

    def framed(self, data: bytes) -> bytes:
        """Give data in the framing of the body."""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._saying.chunked else data

    def event(self, data: bytes) -> bytes:
        return self.framed(self._field + data + self._end * 2)

    def comment(self) -> bytes:
        return self.framed(b": ping" + self._end * 2)

    def last_chunk(self) -> bytes:
        return b"0\r\n\r\n" if self._saying.chunked else b""

    def delta(self, index: int, delta: object, finish: str | None = None) -> bytes:
        choice = b'{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}' % (
            index,
            msgspec.json.encode(delta),
            msgspec.json.encode(finish),
        )
        return self.event(self._before + choice + self._after)

    def opening(self) -> bytes:
        """Give the frames without content: first the role, then nothing at all."""
        indices = range(self._saying.choices)
        role = {"role": "assistant", "content": None if self._saying.script.tools else "", "refusal": None}
        frames: list[bytes] = []
        for nth in range(self._saying.script.role_only):
            frames.extend(self.delta(index, {} if nth else role) for index in indices)
        return b"".join(frames)

    def tokens(self, words: list[Words]) -> list[bytes]:
        """Give one frame a token, the choices taking turns."""
        deltas = [self._deltas(index, choice) for index, choice in enumerate(words)]
        return [
            self.delta(index, delta)
            for turn in zip_longest(*deltas)
            for index, delta in enumerate(turn)
            if delta is not None
        ]

    def _deltas(self, index: int, words: Words) -> list[dict[str, object]]:
        deltas: list[dict[str, object]] = [{"reasoning_content": text} for text in words.thinking]
        for nth, text in enumerate(words.answer):
            deltas.append(self._call(index, nth, text) if self._saying.script.tools else {"content": text})
        if deltas and not self._saying.script.role_only:
            deltas[0] = {"role": "assistant", **deltas[0]}
        return deltas

    def _call(self, index: int, nth: int, text: str) -> dict[str, object]:
        call: dict[str, object] = {"index": 0, "function": {"arguments": text}}
        if nth == 0:
            function = {"name": self._saying.tool, "arguments": text}
            call = {"index": 0, "id": _call_id(self._saying, index), "type": "function", "function": function}
        return {"tool_calls": [call]}

    def closing(self, words: list[Words]) -> list[bytes]:
        """Give what comes after the last token: finish reasons, usage, [DONE]."""
        script = self._saying.script
        frames = [self.delta(index, {}, _finish_reason(script)) for index in range(self._saying.choices)]
        if self._saying.usage:
            frames.append(self.event(b'%b],"usage":%b}' % (self._before, _usage(self._saying, words))))
        if not script.nodone:
            frames.append(self.event(b"[DONE]"))
        return frames

    def fault(self) -> bytes:
        """Give the last bytes of a stream that fails."""
        match self._saying.script.fail:
            case "error":
                return self.event(failure_object()) + self.last_chunk()
            case "eof":
                return self.last_chunk()
            case "garbage":
                return b"zz;not a chunk\r\n"
            case _:
                return b""


def render_stream(saying: Saying) -> Reel:
    """Give the frames of a stream, a failing one up to its fault. Errors: ScriptError when they can't be as asked."""
    stream, script = _Stream(saying), saying.script
    words = _words(saying)
    tokens = stream.tokens(words)
    _check_fault(script, len(tokens))
    if script.fail:
        return Reel(stream.opening(), (*tokens[: script.fail_at],), stream.fault())
    return Reel(stream.opening(), (*tokens, *stream.closing(words)), stream.last_chunk())


def render_comment(saying: Saying) -> bytes:
    """Give the comment frame that is sent while there is silence."""
    return _Stream(saying).comment()


def _check_fault(script: Script, tokens: int) -> None:
    if script.fail_at > tokens:
        raise ScriptError("fail_at", f"`fail_at` is beyond the {tokens} tokens of this answer.")


# Whole answers


class Whole(Struct, frozen=True):
    """An answer in one piece. Shape: JSON with a blank; a failing one stops after its first `cut_bytes`."""

    body: bytes
    cut_bytes: int
    tokens: int

    def size_bytes(self) -> int:
        """Give the bytes this holds."""
        return len(self.body)


def render_whole(saying: Saying) -> Whole:
    """Give a completion object. Errors: ScriptError when it can't be as asked."""
    words = _words(saying)
    tokens = sum(len(choice.thinking) + len(choice.answer) for choice in words)
    _check_fault(saying.script, tokens)
    fields = [
        b'{"id":"' + blank(stream=False),
        b'"model":' + msgspec.json.encode(saying.model),
        b'"choices":' + msgspec.json.encode([_message(saying, index, choice) for index, choice in enumerate(words)]),
        *([b'"usage":' + _usage(saying, words)] if saying.usage else []),
        b'"service_tier":"default","system_fingerprint":"%b"}' % _FINGERPRINT,
    ]
    body = b",".join(fields)
    return Whole(body=body, cut_bytes=len(body) * saying.script.fail_at // max(1, tokens), tokens=tokens)


def _message(saying: Saying, index: int, words: Words) -> dict[str, object]:
    text = "".join(words.answer)
    message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    if saying.script.tools:
        function = {"name": saying.tool, "arguments": text}
        message["content"] = None
        message["tool_calls"] = [{"id": _call_id(saying, index), "type": "function", "function": function}]
    if words.thinking:
        message["reasoning_content"] = "".join(words.thinking)
    return {"index": index, "message": message, "logprobs": None, "finish_reason": _finish_reason(saying.script)}
