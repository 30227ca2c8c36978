"""Amazon Bedrock: Converse, and Anthropic's Messages by InvokeModel. Their streams are AWS's event streams."""

import base64
import string
from typing import Any, Final

import msgspec
from msgspec import Struct

from tidegate.mock import head
from tidegate.mock.script import Script
from tidegate.mock.seal import sealed
from tidegate.mock.speech import errors, frames, messages
from tidegate.mock.speech.frames import Frame
from tidegate.mock.speech.speaker import Roll, Speaker, Take, stamped_by_id
from tidegate.mock.speech.words import Saying, Words

_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "content_filter": "content_filtered"}
_LACKS: Final = frozenset({"crlf", "nospace", "comments"})
_PADDING: Final = string.ascii_letters + string.digits
_EVENT_STREAM: Final = b"application/vnd.amazon.eventstream"
_LATENCY_MS: Final = 551
_FIRST_BYTE_MS: Final = 217

Said = dict[str, Any]


def _frame(kind: str, said: Said) -> Frame:
    """Give an event. Shape: `p` is what AWS pads events with, so that their sizes do not tell the tokens'."""
    data = msgspec.json.encode(said)
    return kind, b'%b,"p":"%b"}' % (data[:-1], _PADDING[: 1 + len(data) % len(_PADDING)].encode())


def _failure(saying: Saying, before: int) -> Frame:
    del saying, before
    said = {
        "message": "The model returned the following error: the stream broke.",
        "originalStatusCode": 500,
        "originalMessage": "the stream broke",
    }
    return "modelStreamErrorException", msgspec.json.encode(said)


# Converse


class _Block(Struct):
    """A content block. Shape: `start` is None where none is said; each of `deltas` has a token, `seal` has none."""

    start: Said | None
    deltas: list[Said]
    whole: Said
    seal: Said | None = None


def _blocks(words: Words) -> list[_Block]:
    blocks = [_thought(words)] if words.thinking else []
    for call in words.calls:
        use: Said = {"toolUseId": f"tooluse_{call.id}", "name": call.name}
        deltas: list[Said] = [{"toolUse": {"input": piece}} for piece in call.pieces]
        whole = {"toolUse": use | {"input": msgspec.json.decode(call.arguments)}}
        blocks.append(_Block({"toolUse": use}, deltas, whole))
    if words.answer:
        blocks.append(_Block(None, [{"text": piece} for piece in words.answer], {"text": words.text}))
    return blocks


def _thought(words: Words) -> _Block:
    signature = sealed("converse", words.thought)
    return _Block(
        start=None,
        deltas=[{"reasoningContent": {"text": piece}} for piece in words.thinking],
        whole={"reasoningContent": {"reasoningText": {"text": words.thought, "signature": signature}}},
        seal={"reasoningContent": {"signature": signature}},
    )


def _stop_reason(script: Script) -> str:
    if script.refusal:
        return "guardrail_intervened"
    return _STOP_REASONS[script.finish] if script.finish else "tool_use" if script.tools else "end_turn"


def _usage(saying: Saying, words: Words) -> Said:
    if not saying.usage:
        return {}
    prompt, output = saying.prompt_tokens, words.tokens
    return {"usage": {"inputTokens": prompt, "outputTokens": output, "totalTokens": prompt + output}}


def _take(saying: Saying, words: list[Words]) -> Take:
    roll, script = Roll(), saying.script
    roll.aside(_frame("messageStart", {"role": "assistant"}))
    if script.role_only:
        roll.open()
    for index, block in enumerate(_blocks(words[0])):
        at = {"contentBlockIndex": index}
        if block.start:
            roll.aside(_frame("contentBlockStart", at | {"start": block.start}))
        for delta in block.deltas:
            roll.token(_frame("contentBlockDelta", at | {"delta": delta}))
        if block.seal:
            roll.aside(_frame("contentBlockDelta", at | {"delta": block.seal}))
        roll.aside(_frame("contentBlockStop", at))
    if not script.nodone:
        roll.aside(_frame("messageStop", {"stopReason": _stop_reason(script)}))
        roll.aside(_frame("metadata", {"metrics": {"latencyMs": _LATENCY_MS}, **_usage(saying, words[0])}))
    return roll.take()


def _whole(saying: Saying, words: list[Words]) -> bytes:
    message = {"role": "assistant", "content": [block.whole for block in _blocks(words[0])]}
    said: Said = {
        "metrics": {"latencyMs": _LATENCY_MS},
        "output": {"message": message},
        "stopReason": _stop_reason(saying.script),
        **_usage(saying, words[0]),
    }
    return msgspec.json.encode(said)


CONVERSE: Final = Speaker(
    family="aws",
    error=errors.aws,
    framer=frames.Messages,
    take=_take,
    whole=_whole,
    failure=_failure,
    stamp=stamped_by_id,
    stream_type=_EVENT_STREAM,
    whole_type=head.JSON,
    lacks=_LACKS | {"role_only"},
)


# InvokeModel


def _ident(saying: Saying) -> str:
    return f"msg_bdrk_{saying.ident.decode()}"


def _metrics(saying: Saying, words: Words) -> Said:
    counts = {"inputTokenCount": saying.prompt_tokens, "outputTokenCount": words.tokens} if saying.usage else {}
    return counts | {"invocationLatency": _LATENCY_MS, "firstByteLatency": _FIRST_BYTE_MS}


def _invoke_take(saying: Saying, words: list[Words]) -> Take:
    take = messages.take(saying, words[0], _ident(saying), "bdrk_")

    def wrapped(group: list[Frame]) -> list[Frame]:
        return [_chunk(frame, saying, words[0]) for frame in group]

    return Take(wrapped(take.opening), [wrapped(group) for group in take.tokens], [wrapped(g) for g in take.closing])


def _chunk(frame: Frame, saying: Saying, words: Words) -> Frame:
    """Give an event of the Messages as InvokeModel wraps it, the last one with the invocation's metrics."""
    kind, data = frame
    if kind == "message_stop":
        metrics = msgspec.json.encode(_metrics(saying, words))
        data = b'%b,"amazon-bedrock-invocationMetrics":%b}' % (data[:-1], metrics)
    return _frame("chunk", {"bytes": base64.b64encode(data).decode()})


INVOKE: Final = Speaker(
    family="aws",
    error=errors.aws,
    framer=frames.Messages,
    take=_invoke_take,
    whole=lambda saying, words: messages.whole(saying, words[0], _ident(saying), "bdrk_"),
    failure=_failure,
    stamp=stamped_by_id,
    stream_type=_EVENT_STREAM,
    whole_type=head.JSON,
    checked=True,
    lacks=_LACKS | {"role_only"},
)
