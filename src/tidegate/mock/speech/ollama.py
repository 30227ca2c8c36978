"""Ollama's own chat API: lines of JSON."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from tidegate.mock.speech import errors
from tidegate.mock.speech.frames import Frame, Lines
from tidegate.mock.speech.speaker import Roll, Speaker, Take
from tidegate.mock.speech.words import Saying, Words

_LOAD_NS: Final = 4_500_000
_READ_NS: Final = 250_000
_TOKEN_NS: Final = 8_000_000

Said = dict[str, Any]


def _stamp(ident: bytes, created: bytes, stream: bool) -> bytes:  # noqa: FBT001 (the shape of `Speaker.stamp`)
    """Give the time of an answer. Shape: RFC 3339 in nanoseconds, of which the id makes up all below the second."""
    del stream
    second = datetime.fromtimestamp(int(created), UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return b"%b.%09dZ" % (second.encode(), int(ident[:8], 16) % 10**9)


_BLANK: Final = b"@" * len(_stamp(b"0" * len(errors.ANY_ID), b"0", stream=True))


def _line(saying: Saying, message: Said, **members: Any) -> bytes:
    said = {
        "model": saying.model,
        "created_at": _BLANK.decode(),
        "message": {"role": "assistant", "content": "", **message},
        **members,
    }
    return msgspec.json.encode(said)


def _calls(words: Words) -> list[Said]:
    """Give the calls, whole, as Ollama says them: without ids."""
    return [{"function": {"name": call.name, "arguments": msgspec.json.decode(call.arguments)}} for call in words.calls]


def _end(saying: Saying, words: Words) -> Said:
    """Give the members of an answer's end."""
    said: Said = {"done_reason": saying.script.finish or "stop", "done": True}
    if not saying.usage:
        return said
    read, made = saying.prompt_tokens * _READ_NS, words.tokens * _TOKEN_NS
    return said | {
        "total_duration": _LOAD_NS + read + made,
        "load_duration": _LOAD_NS,
        "prompt_eval_count": saying.prompt_tokens,
        "prompt_eval_duration": read,
        "eval_count": words.tokens,
        "eval_duration": made,
    }


def _take(saying: Saying, words: list[Words]) -> Take:
    roll, (said,) = Roll(), words
    parts: list[Said] = [{"thinking": piece} for piece in said.thinking]
    parts += [{"tool_calls": [call]} for call in _calls(said)]
    parts += [{"content": piece} for piece in said.answer]
    for _ in range(saying.script.role_only):
        roll.aside(("", _line(saying, {}, done=False)))
    roll.open()
    for part in parts:
        roll.token(("", _line(saying, part, done=False)))
    if not saying.script.nodone:
        roll.aside(("", _line(saying, {}, **_end(saying, said))))
    return roll.take()


def _whole(saying: Saying, words: list[Words]) -> bytes:
    (said,) = words
    message: Said = {"content": said.text}
    if said.thinking:
        message["thinking"] = said.thought
    if said.calls:
        message["tool_calls"] = _calls(said)
    return _line(saying, message, **_end(saying, said))


def _failure(saying: Saying, before: int) -> Frame:
    del saying, before
    return "", b'{"error":"an error was encountered while running the model: unexpected EOF"}'


SPEAKER: Final = Speaker(
    family="ollama",
    error=errors.ollama,
    framer=Lines,
    take=_take,
    whole=_whole,
    failure=_failure,
    stamp=_stamp,
    stream_type=b"application/x-ndjson",
    whole_type=b"application/json; charset=utf-8",
    stream_blank=_BLANK,
    whole_blank=_BLANK,
    lacks=frozenset({"nospace", "finish"}),
)
