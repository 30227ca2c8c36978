"""Anthropic's Messages."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Struct

from tidegate.mock import head
from tidegate.mock.script import Script
from tidegate.mock.seal import sealed
from tidegate.mock.speech import errors
from tidegate.mock.speech.frames import Events, Frame
from tidegate.mock.speech.speaker import Roll, Speaker, Take, stamped_by_id
from tidegate.mock.speech.words import Saying, Words

_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
_FIRST_TOKENS: Final = 2
"""What message_start says of the output: a few tokens, long before their number is known."""

Said = dict[str, Any]


class Block(Struct):
    """A content block. Shape: `start` as it begins, `deltas` with a token each, `whole` as it ends; `seal` is its last delta."""

    start: Said
    deltas: list[Said]
    whole: Said
    seal: Said | None = None


def blocks(words: Words, mark: str = "") -> list[Block]:
    """Give the blocks of an answer. Shape: `mark` is in the identifiers of calls."""
    said: list[Block] = []
    if words.thinking:
        said.append(_thinking(words))
    for call in words.calls:
        use: Said = {"type": "tool_use", "id": f"toolu_{mark}{call.id}", "name": call.name, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in call.pieces]
        said.append(Block(use, deltas, use | {"input": msgspec.json.decode(call.arguments)}))
    if not words.calls:
        deltas = [{"type": "text_delta", "text": piece} for piece in words.answer]
        said.append(Block({"type": "text", "text": ""}, deltas, {"type": "text", "text": words.text}))
    return said


def _thinking(words: Words) -> Block:
    signature = sealed("messages", words.thought)
    return Block(
        start={"type": "thinking", "thinking": "", "signature": ""},
        deltas=[{"type": "thinking_delta", "thinking": piece} for piece in words.thinking],
        whole={"type": "thinking", "thinking": words.thought, "signature": signature},
        seal={"type": "signature_delta", "signature": signature},
    )


def stop_reason(script: Script) -> str:
    """Give why an answer ends, in Anthropic's words."""
    if script.refusal:
        return "refusal"
    return _STOP_REASONS[script.finish] if script.finish else "tool_use" if script.tools else "end_turn"


def usage(saying: Saying, output_tokens: int) -> Said:
    """Give the usage so far."""
    return {
        "input_tokens": saying.prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }


def message(saying: Saying, ident: str) -> Said:
    """Give a message that has not said anything yet."""
    said: Said = {
        "id": ident,
        "type": "message",
        "role": "assistant",
        "model": saying.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
    if saying.usage:
        said["usage"] = usage(saying, _FIRST_TOKENS) | {"service_tier": "standard"}
    return said


def _frame(kind: str, **members: Any) -> Frame:
    return kind, msgspec.json.encode({"type": kind, **members})


def take(saying: Saying, words: Words, ident: str, mark: str = "", pings: Iterable[Frame] = ()) -> Take:
    """Give the frames of an answer. Shape: `pings` stand behind the beginning of the first block."""
    roll, script = Roll(), saying.script
    roll.aside(_frame("message_start", message=message(saying, ident)))
    for index, block in enumerate(blocks(words, mark)):
        roll.aside(_frame("content_block_start", index=index, content_block=block.start))
        if index == 0:
            roll.aside(*pings)
            if script.role_only:
                roll.open()
        for delta in block.deltas:
            roll.token(_frame("content_block_delta", index=index, delta=delta))
        if block.seal:
            roll.aside(_frame("content_block_delta", index=index, delta=block.seal))
        roll.aside(_frame("content_block_stop", index=index))
    end: Said = {"delta": {"stop_reason": stop_reason(script), "stop_sequence": None}}
    if saying.usage:
        end["usage"] = usage(saying, words.tokens)
    roll.aside(_frame("message_delta", **end))
    if not script.nodone:
        roll.aside(_frame("message_stop"))
    return roll.take()


def whole(saying: Saying, words: Words, ident: str, mark: str = "") -> bytes:
    """Give a whole message."""
    said = message(saying, ident)
    said["content"] = [block.whole for block in blocks(words, mark)]
    said["stop_reason"] = stop_reason(saying.script)
    if saying.usage:
        said["usage"]["output_tokens"] = words.tokens
    return msgspec.json.encode(said)


_IDENT: Final = f"msg_{errors.ANY_ID.decode()}"


def _take(saying: Saying, words: list[Words]) -> Take:
    return take(saying, words[0], _IDENT, pings=[_frame("ping")] * max(1, saying.script.role_only))


def _failure(saying: Saying, before: int) -> Frame:
    del saying, before
    return "error", errors.anthropic_error("Overloaded", "overloaded_error", errors.ANY_ID)


SPEAKER: Final = Speaker(
    family="anthropic",
    error=errors.anthropic,
    framer=Events,
    take=_take,
    whole=lambda saying, words: whole(saying, words[0], _IDENT),
    failure=_failure,
    stamp=stamped_by_id,
    stream_type=head.EVENTS,
    whole_type=head.JSON,
)
