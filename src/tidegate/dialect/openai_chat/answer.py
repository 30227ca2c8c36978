"""A whole chat completion as events, and events as one."""

from collections.abc import Sequence

from msgspec import Struct, field

from tidegate.dialect.events import (
    Event,
    Finished,
    Origin,
    Reasoning,
    Refusal,
    Sealed,
    Started,
    Text,
    ToolArguments,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.dialect.openai_chat.events import ChatDecoder, Thoughts, call_of, named
from tidegate.dialect.openai_chat.values import choices_of, error_in, usage_members
from tidegate.dialect.values import json_of, object_of
from tidegate.wire import FrameError


def events_of(body: bytes) -> Sequence[Event]:
    """Read a whole completion. Shape: a choice that does not say why it ended has stopped. Errors: FrameError."""
    answer = object_of(body)
    choices = choices_of(answer)
    if not choices and error_in(answer) is None:
        raise FrameError("the answer has no choices")
    for choice in choices:
        choice["delta"] = choice.get("message")
        choice["finish_reason"] = choice.get("finish_reason") or "stop"
    decoder = ChatDecoder(1)
    said = decoder.read(answer)
    return [*said, *decoder.finish()]


class _Said(Struct):
    """What one choice said."""

    texts: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    thoughts: list[Reasoning | Sealed] = field(default_factory=list)
    calls: dict[int, ToolCallStarted] = field(default_factory=dict)
    arguments: dict[int, list[str]] = field(default_factory=dict)
    reason: str = "stop"

    def take(self, event: Text | Refusal | Reasoning | Sealed | ToolCallStarted | ToolArguments | Finished) -> None:
        """Take what it said next."""
        match event:
            case Text(_, text):
                self.texts.append(text)
            case Refusal(_, text):
                self.refusals.append(text)
            case Reasoning() | Sealed():
                self._think(event)
            case ToolCallStarted(_, call):
                self.calls[call] = event
            case ToolArguments(_, call, fragment):
                self.arguments.setdefault(call, []).append(fragment)
            case _:
                self.reason = event.reason

    def _think(self, event: Reasoning | Sealed) -> None:
        """Take a piece of a thought, and join it to what of the same thought was said."""
        last = self.thoughts[-1] if self.thoughts else None
        if isinstance(event, Reasoning) and isinstance(last, Reasoning) and not last.signature:
            event = Reasoning(event.index, last.text + event.text, event.signature)
            self.thoughts.pop()
        self.thoughts.append(event)


def body_of(events: Sequence[Event], origin: Origin) -> bytes:
    """Write a whole completion."""
    started, usage = Started(), None
    choices: dict[int, _Said] = {}
    for event in events:
        match event:
            case Started():
                started = event
            case UsageSeen():
                usage = event.usage
            case Text() | Refusal() | Reasoning() | Sealed() | ToolCallStarted() | ToolArguments() | Finished():
                choices.setdefault(event.index, _Said()).take(event)
    begun = named(started, origin)
    answer = {
        "id": begun.id,
        "object": "chat.completion",
        "created": begun.created,
        "model": begun.model,
        "choices": [
            {"index": index, "message": _message(said, origin), "logprobs": None, "finish_reason": said.reason}
            for index, said in sorted(choices.items())
        ],
    }
    return json_of(answer | ({"usage": usage_members(usage)} if usage is not None else {}))


def _message(said: _Said, origin: Origin) -> dict[str, object]:
    calls = [call_of(call, "".join(said.arguments.get(number, ())), origin) for number, call in said.calls.items()]
    refusal = "".join(said.refusals)
    content = "".join(said.texts) if said.texts or not (calls or refusal) else None
    message: dict[str, object] = {"role": "assistant", "content": content, "refusal": refusal or None}
    plain = "".join(thought.text for thought in said.thoughts if isinstance(thought, Reasoning))
    if plain:
        message["reasoning_content"] = plain
    if any(isinstance(thought, Sealed) or thought.signature for thought in said.thoughts):
        numbered = Thoughts(origin)
        message["reasoning_details"] = [numbered.detail(thought) for thought in said.thoughts]
    if calls:
        message["tool_calls"] = calls
    return message
