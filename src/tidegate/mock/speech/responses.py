"""OpenAI's Responses."""

from typing import Any, Final

import msgspec
from msgspec import Struct

from tidegate.mock import head
from tidegate.mock.script import Script
from tidegate.mock.seal import sealed
from tidegate.mock.speech import errors
from tidegate.mock.speech.frames import Events, Frame
from tidegate.mock.speech.speaker import Roll, Speaker, Take, in_turns
from tidegate.mock.speech.words import Call, Saying, Words

_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}

Said = dict[str, Any]


def _stamp(ident: bytes, created: bytes, stream: bool) -> bytes:  # noqa: FBT001 (the shape of `Speaker.stamp`)
    del stream
    return b'resp_%b","object":"response","created_at":%b' % (ident, created)


_BLANK: Final = _stamp(errors.ANY_ID, b"0" * 10, stream=True)


# Items


class Item(Struct):
    """An item of the output. Shape: `started` as it is added, `done` as it ends; `pieces` hold a token each."""

    started: Said
    done: Said
    pieces: list[str]


def _items(saying: Saying, words: Words) -> list[Item]:
    ident = f"{saying.seed & 0xFFFFFFFF:08x}{saying.variety:08x}"
    items = [_thought(saying, words, f"rs_{ident}")] if words.thinking else []
    if words.calls:
        return items + [_call(call) for call in words.calls]
    return [*items, _message(saying.script, words, f"msg_{ident}")]


def _thought(saying: Saying, words: Words, ident: str) -> Item:
    item: Said = {"id": ident, "type": "reasoning", "summary": []}
    seal = {"encrypted_content": sealed("responses")} if saying.encrypted else {}
    done = item | {"summary": [{"type": "summary_text", "text": words.thought}]} | seal
    return Item(item | seal, done, words.thinking)


def _call(call: Call) -> Item:
    item: Said = {
        "id": f"fc_{call.id}",
        "type": "function_call",
        "status": "in_progress",
        "arguments": "",
        "call_id": f"call_{call.id}",
        "name": call.name,
    }
    done = item | {"status": "completed", "arguments": call.arguments}
    return Item(item, done, [piece for piece in call.pieces if piece])


def _message(script: Script, words: Words, ident: str) -> Item:
    item: Said = {"id": ident, "type": "message", "status": "in_progress", "content": [], "role": "assistant"}
    status = "incomplete" if script.finish in _INCOMPLETE else "completed"
    return Item(item, item | {"status": status, "content": [_part(script, words.text)]}, words.answer)


def _part(script: Script, text: str) -> Said:
    if script.refusal:
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


# The response object


def _usage(saying: Saying, words: Words) -> Said:
    return {
        "input_tokens": saying.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": words.tokens,
        "output_tokens_details": {"reasoning_tokens": len(words.thinking)},
        "total_tokens": saying.prompt_tokens + words.tokens,
    }


def _response(saying: Saying, status: str, **members: Any) -> bytes:
    """Give a response object with a blank."""
    said: Said = {
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": saying.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }
    return b'{"id":"%b,%b' % (_BLANK, msgspec.json.encode(said | members)[1:])


def _ended(saying: Saying, words: Words) -> tuple[str, bytes]:
    """Give how a response ends, and what it is then."""
    members: Said = {"output": [item.done for item in _items(saying, words)]}
    if saying.usage:
        members["usage"] = _usage(saying, words)
    reason = _INCOMPLETE.get(saying.script.finish)
    if reason:
        members["incomplete_details"] = {"reason": reason}
    status = "incomplete" if reason else "completed"
    return status, _response(saying, status, **members)


# Streams


class _Events:
    """Writes events, each with its number."""

    def __init__(self) -> None:
        self._number = 0

    def event(self, kind: str, **members: Any) -> Frame:
        """Give an event."""
        said = msgspec.json.encode({"type": kind, "sequence_number": self._number, **members})
        self._number += 1
        return kind, said

    def response(self, kind: str, response: bytes) -> Frame:
        """Give an event that shows the response."""
        return self.event(kind, response=msgspec.Raw(response))


class _Streaming:
    """Streams the items of one response: their places are known, so that parallel calls can take turns."""

    def __init__(self, script: Script, roll: Roll, events: _Events) -> None:
        self._script = script
        self._roll = roll
        self._events = events

    def _aside(self, kind: str, **members: Any) -> None:
        self._roll.aside(self._events.event(kind, **members))

    def _token(self, kind: str, **members: Any) -> None:
        self._roll.token(self._events.event(kind, **members))

    def thought(self, index: int, item: Item) -> None:
        """Stream a reasoning item with its summary."""
        place = {"item_id": item.done["id"], "output_index": index, "summary_index": 0}
        text = "".join(item.pieces)
        self._aside("response.output_item.added", output_index=index, item=item.started)
        part = {"type": "summary_text", "text": ""}
        self._aside("response.reasoning_summary_part.added", **place, part=part)
        for piece in item.pieces:
            self._token("response.reasoning_summary_text.delta", **place, delta=piece)
        self._aside("response.reasoning_summary_text.done", **place, text=text)
        self._aside("response.reasoning_summary_part.done", **place, part=part | {"text": text})
        self._aside("response.output_item.done", output_index=index, item=item.done)

    def message(self, index: int, item: Item) -> None:
        """Stream a message of one part, a text or a refusal."""
        place = {"item_id": item.done["id"], "output_index": index, "content_index": 0}
        kind, member = ("refusal", "refusal") if self._script.refusal else ("output_text", "text")
        more: Said = {} if self._script.refusal else {"logprobs": []}
        text = "".join(item.pieces)
        self._aside("response.output_item.added", output_index=index, item=item.started)
        self._aside("response.content_part.added", **place, part=_part(self._script, ""))
        for piece in item.pieces:
            self._token(f"response.{kind}.delta", **place, delta=piece, **more)
        self._aside(f"response.{kind}.done", **place, **{member: text}, **more)
        self._aside("response.content_part.done", **place, part=_part(self._script, text))
        self._aside("response.output_item.done", output_index=index, item=item.done)

    def calls(self, first: int, items: list[Item]) -> None:
        """Stream calls, their arguments taking turns."""
        places = [{"item_id": item.done["id"], "output_index": index} for index, item in enumerate(items, first)]
        for place, item in zip(places, items, strict=True):
            self._aside("response.output_item.added", output_index=place["output_index"], item=item.started)
        for place, piece in in_turns(
            [(place, piece) for piece in item.pieces] for place, item in zip(places, items, strict=True)
        ):
            self._token("response.function_call_arguments.delta", **place, delta=piece)
        for place, item in zip(places, items, strict=True):
            done = {"arguments": item.done["arguments"], "name": item.done["name"]}
            self._aside("response.function_call_arguments.done", **place, **done)
            self._aside("response.output_item.done", output_index=place["output_index"], item=item.done)


def _take(saying: Saying, words: list[Words]) -> Take:
    script, roll, events = saying.script, Roll(), _Events()
    waiting = _response(saying, "in_progress")
    roll.aside(events.response("response.created", waiting))
    for _ in range(max(1, script.role_only)):
        roll.aside(events.response("response.in_progress", waiting))
    if script.role_only:
        roll.open()
    streaming = _Streaming(script, roll, events)
    items = _items(saying, words[0])
    thoughts = int(bool(words[0].thinking))
    if thoughts:
        streaming.thought(0, items[0])
    if words[0].calls:
        streaming.calls(thoughts, items[thoughts:])
    else:
        streaming.message(thoughts, items[thoughts])
    status, response = _ended(saying, words[0])
    if not script.nodone:
        roll.aside(events.response(f"response.{status}", response))
    return roll.take()


def _failure(saying: Saying, before: int) -> Frame:
    response = _response(saying, "failed", error={"code": "server_error", "message": errors.BROKEN.message})
    said = {"type": "response.failed", "sequence_number": before, "response": msgspec.Raw(response)}
    return "response.failed", msgspec.json.encode(said)


SPEAKER: Final = Speaker(
    family="openai",
    error=errors.openai,
    framer=Events,
    take=_take,
    whole=lambda saying, words: _ended(saying, words[0])[1],
    failure=_failure,
    stamp=_stamp,
    stream_type=head.EVENTS,
    whole_type=head.JSON,
    stream_blank=_BLANK,
    whole_blank=_BLANK,
)
