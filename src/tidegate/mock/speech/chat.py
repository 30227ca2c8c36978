"""OpenAI's chat completions."""

from typing import Final

import msgspec

from tidegate.mock import head
from tidegate.mock.script import Script
from tidegate.mock.speech import errors
from tidegate.mock.speech.frames import Events, Frame
from tidegate.mock.speech.speaker import Speaker, Take, in_turns
from tidegate.mock.speech.words import Call, Saying, Words

_FINGERPRINT: Final = b"fp_5ca1ab1e00"


def stamp(ident: bytes, created: bytes, stream: bool) -> bytes:  # noqa: FBT001 (the shape of `Speaker.stamp`)
    """Give id, object and second of creation."""
    kind = b"chat.completion.chunk" if stream else b"chat.completion"
    return b'chatcmpl-%b","object":"%b","created":%b' % (ident, kind, created)


_STREAM_BLANK: Final = stamp(errors.ANY_ID, b"0" * 10, stream=True)
_WHOLE_BLANK: Final = stamp(errors.ANY_ID, b"0" * 10, stream=False)


def _finish_reason(script: Script) -> str:
    return script.finish or ("tool_calls" if script.tools else "stop")


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


# Streams


class _Chunks:
    """Writes the chunks of one saying."""

    def __init__(self, saying: Saying) -> None:
        self._before = b'{"id":"%b,"model":%b,"service_tier":"default","system_fingerprint":"%b","choices":[' % (
            _STREAM_BLANK,
            msgspec.json.encode(saying.model),
            _FINGERPRINT,
        )
        self._after = b'],"usage":null}' if saying.usage else b"]}"

    def delta(self, index: int, delta: object, finish: str | None = None) -> Frame:
        """Give a chunk with what is new in one choice."""
        choice = b'{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}' % (
            index,
            msgspec.json.encode(delta),
            msgspec.json.encode(finish),
        )
        return "", self._before + choice + self._after

    def usage(self, usage: bytes) -> Frame:
        """Give the chunk that has usage and no choice."""
        return "", b'%b],"usage":%b}' % (self._before, usage)


def _opening(saying: Saying, chunks: _Chunks) -> list[Frame]:
    """Give the frames without content: first the role, then nothing at all."""
    role = {"role": "assistant", "content": None if saying.tools else "", "refusal": None}
    return [
        chunks.delta(index, {} if nth else role)
        for nth in range(saying.script.role_only)
        for index in range(saying.choices)
    ]


def _call_pieces(index: int, call: Call) -> list[dict[str, object]]:
    """Give the deltas of a call, the first one with its name."""
    deltas: list[dict[str, object]] = []
    for nth, text in enumerate(call.pieces):
        piece: dict[str, object] = {"index": index, "function": {"arguments": text}}
        if nth == 0:
            function = {"name": call.name, "arguments": text}
            piece = {"index": index, "id": f"call_{call.id}", "type": "function", "function": function}
        deltas.append({"tool_calls": [piece]})
    return deltas


def _deltas(script: Script, words: Words) -> list[dict[str, object]]:
    """Give what a choice says, token by token; parallel calls take turns."""
    deltas: list[dict[str, object]] = [{"reasoning_content": text} for text in words.thinking]
    deltas.extend({"refusal" if script.refusal else "content": text} for text in words.answer)
    deltas.extend(in_turns(_call_pieces(nth, call) for nth, call in enumerate(words.calls)))
    if deltas and not script.role_only:
        deltas[0] = {"role": "assistant", **deltas[0]}
    return deltas


def _take(saying: Saying, words: list[Words]) -> Take:
    script, chunks = saying.script, _Chunks(saying)
    rows = [[(index, delta) for delta in _deltas(script, choice)] for index, choice in enumerate(words)]
    closing = [chunks.delta(index, {}, _finish_reason(script)) for index in range(saying.choices)]
    if saying.usage:
        closing.append(chunks.usage(_usage(saying, words)))
    if not script.nodone:
        closing.append(("", b"[DONE]"))
    return Take(
        opening=_opening(saying, chunks),
        tokens=[[chunks.delta(index, delta)] for index, delta in in_turns(rows)],
        closing=[[frame] for frame in closing],
    )


def _failure(saying: Saying, before: int) -> Frame:
    del saying, before
    return "", errors.openai(errors.BROKEN).body


# Whole answers


def _message(saying: Saying, index: int, words: Words) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant", "content": words.text, "refusal": None, "annotations": []}
    if saying.script.refusal:
        message["content"], message["refusal"] = None, words.text
    if words.calls:
        message["content"] = None
        message["tool_calls"] = [
            {"id": f"call_{call.id}", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in words.calls
        ]
    if words.thinking:
        message["reasoning_content"] = words.thought
    return {"index": index, "message": message, "logprobs": None, "finish_reason": _finish_reason(saying.script)}


def _whole(saying: Saying, words: list[Words]) -> bytes:
    fields = [
        b'{"id":"' + _WHOLE_BLANK,
        b'"model":' + msgspec.json.encode(saying.model),
        b'"choices":' + msgspec.json.encode([_message(saying, index, choice) for index, choice in enumerate(words)]),
        *([b'"usage":' + _usage(saying, words)] if saying.usage else []),
        b'"service_tier":"default","system_fingerprint":"%b"}' % _FINGERPRINT,
    ]
    return b",".join(fields)


SPEAKER: Final = Speaker(
    family="openai",
    error=errors.openai,
    framer=Events,
    take=_take,
    whole=_whole,
    failure=_failure,
    stamp=stamp,
    stream_type=head.EVENTS,
    whole_type=head.JSON,
    stream_blank=_STREAM_BLANK,
    whole_blank=_WHOLE_BLANK,
)
