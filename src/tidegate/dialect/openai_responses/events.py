"""The frames of a response as events. Text is quick; whole items are looked at for what no piece has said."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct

from tidegate.dialect.events import (
    Done,
    Event,
    Failed,
    Finished,
    Reasoning,
    Refusal,
    Sealed,
    Started,
    Text,
    ToolArguments,
    ToolCallEnded,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.dialect.openai_chat.values import DONE
from tidegate.dialect.openai_responses.values import dict_of, dicts_of, failure_of, reason_of, text_of, usage_of
from tidegate.dialect.values import object_of
from tidegate.wire import Framed, FrameError

MAX_ITEMS: Final = 4096
"""Items of one response, calls of tools among them."""

_BETWEEN: Final = "\n\n"
"""Parts of a summary are paragraphs, and say nothing about it themselves."""


class _Said(Struct, gc=False):
    """A frame. Members of any type are taken as they come: a wrong type says nothing, and costs the others nothing."""

    type: object = None
    output_index: object = None
    delta: object = None
    summary_index: object = None
    arguments: object = None
    item: object = None
    response: object = None
    error: object = None


class _Item(Struct, gc=False):
    """An item as far as it was said. Shape: `number` is the call's, -1 where it is none; `spoken` is the member in pieces."""

    number: int = -1
    spoken: str = ""
    part: object = None
    ended: bool = False


_decode = msgspec.json.Decoder(_Said).decode


def data_of(frame: Framed) -> bytes | None:
    """Give what a frame carries. Shape: nearly every one is two lines, which its framing would look for one by one."""
    raw = frame.raw
    at = raw.find(b"\n") if raw.startswith(b"event: ") else -1
    if raw.startswith(b"\ndata: ", at) and raw.find(b"\n", at + 1) == len(raw) - 2 and b"\r" not in raw:
        return raw[at + 7 : -2]
    return frame.data


class ResponsesDecoder:
    """Reads the stream of one response, or a whole one.

    Shape: items are known by their place; some servers change an item's id from one frame to the next.
    """

    __slots__ = ("_calls", "_count", "_id", "_items", "_over", "_started")

    def __init__(self) -> None:
        self._started = False
        self._over = False
        self._id = ""
        self._items: dict[int, _Item] = {}
        self._calls: list[_Item] = []
        self._count = 0

    def feed(self, frame: Framed, /) -> Sequence[Event]:
        """Give what a frame says. Errors: FrameError when it cannot be read, or is above a limit."""
        data = data_of(frame)
        if data is None:
            return ()
        try:
            said = _decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            if data.strip() == DONE:
                return ()
            said = msgspec.convert(object_of(data), _Said)
        kind = said.type
        if kind == "error" or (said.error and type(kind) is not str):
            self._over = True
            return (Failed(failure_of(object_of(data))),)
        read = self._readers.get(kind) if type(kind) is str else None
        if read is None or self._over:
            return ()
        events: list[Event] = [] if self._started else [self._start(dict_of(said.response))]
        read(self, said, events)
        return events

    @staticmethod
    def finish() -> Sequence[Event]:
        """Say that no frame follows. Shape: nothing; a response that is complete has said so."""
        return ()

    def read(self, response: dict[str, Any]) -> Sequence[Event]:
        """Give what a whole response says. Errors: FrameError when it is above a limit."""
        events: list[Event] = [self._start(response)]
        for place, item in enumerate(dicts_of(response.get("output"))):
            self._end_item(_Said(output_index=place, item=item), events)
        end = ResponsesDecoder._fail if response.get("status") == "failed" else ResponsesDecoder._end
        end(self, _Said(response=response), events)
        return events

    def _start(self, response: dict[str, Any]) -> Started:
        self._started = True
        self._id = text_of(response.get("id"))
        created = response.get("created_at")
        return Started(
            self._id, text_of(response.get("model")), int(created) if isinstance(created, (int, float)) else 0
        )

    def _created(self, _said: _Said, _events: list[Event]) -> None:
        """Take the first frame: what it says was said by starting."""

    # --- text and thoughts -----------------------------------------------------------------------------------------

    def _text(self, said: _Said, events: list[Event]) -> None:
        delta = said.delta
        if delta and type(delta) is str:
            self._item(said.output_index).spoken = "text"
            events.append(Text(0, delta))

    def _refusal(self, said: _Said, events: list[Event]) -> None:
        delta = text_of(said.delta)
        if delta:
            self._item(said.output_index).spoken = "refusal"
            events.append(Refusal(0, delta))

    def _summary(self, said: _Said, events: list[Event]) -> None:
        self._think(said, "summary", events)

    def _thought(self, said: _Said, events: list[Event]) -> None:
        self._think(said, "thought", events)

    def _think(self, said: _Said, member: str, events: list[Event]) -> None:
        """Take a piece of a thought. Shape: where a server says it in two members, the first one counts."""
        item, delta = self._item(said.output_index), text_of(said.delta)
        if not delta or item.spoken not in {"", member}:
            return
        if item.spoken and said.summary_index != item.part:
            delta = _BETWEEN + delta
        item.spoken, item.part = member, said.summary_index
        events.append(Reasoning(0, delta))

    # --- items -----------------------------------------------------------------------------------------------------

    def _item(self, place: object) -> _Item:
        """Give the item at a place. Errors: FrameError above the limit."""
        at = place if type(place) is int else 0
        item = self._items.get(at)
        return item if item is not None else self._new_item(at)

    def _new_item(self, at: int) -> _Item:
        self._count += 1
        if self._count > MAX_ITEMS:
            raise FrameError(f"there are more than {MAX_ITEMS} items")
        item = self._items[at] = _Item()
        return item

    def _begin_item(self, said: _Said, events: list[Event]) -> None:
        item = self._new_item(said.output_index if type(said.output_index) is int else 0)
        members = dict_of(said.item)
        if members.get("type") == "function_call":
            self._begin_call(item, members, events)

    def _end_item(self, said: _Said, events: list[Event]) -> None:
        """Take a whole item: what no piece has said is said now."""
        item, members = self._item(said.output_index), dict_of(said.item)
        match members.get("type"):
            case "function_call":
                if item.number < 0:
                    self._begin_call(item, members, events)
                self._argue(item, text_of(members.get("arguments")), events)
                self._end_call(item, events)
            case "message" if not item.spoken:
                events += [event for part in dicts_of(members.get("content")) for event in _said_in(part)]
            case "reasoning":
                text = "" if item.spoken else _thought_in(members)
                if text:
                    events.append(Reasoning(0, text))
                if data := text_of(members.get("encrypted_content")):
                    events.append(Sealed(0, data, text_of(members.get("id"))))

    # --- calls of tools --------------------------------------------------------------------------------------------

    def _begin_call(self, item: _Item, members: dict[str, Any], events: list[Event]) -> None:
        item.number = len(self._calls)
        self._calls.append(item)
        ident = text_of(members.get("call_id")) or text_of(members.get("id")) or f"call_{self._id}_{item.number}"
        events.append(ToolCallStarted(0, item.number, ident, text_of(members.get("name"))))

    def _arguments(self, said: _Said, events: list[Event]) -> None:
        item, delta = self._item(said.output_index), text_of(said.delta)
        if item.number >= 0 and delta and not item.ended:
            item.spoken = "arguments"
            events.append(ToolArguments(0, item.number, delta))

    def _whole_arguments(self, said: _Said, events: list[Event]) -> None:
        item = self._item(said.output_index)
        if item.number >= 0:
            self._argue(item, text_of(said.arguments), events)

    @staticmethod
    def _argue(item: _Item, arguments: str, events: list[Event]) -> None:
        """Say all of a call's arguments, if nothing of them was said."""
        if arguments and item.spoken != "arguments":
            item.spoken = "arguments"
            events.append(ToolArguments(0, item.number, arguments))

    def _end_call(self, item: _Item, events: list[Event]) -> None:
        """End a call, once. Shape: no arguments at all are those of an empty object."""
        if item.ended:
            return
        item.ended = True
        self._argue(item, "{}", events)
        events.append(ToolCallEnded(0, item.number))

    # --- the end ---------------------------------------------------------------------------------------------------

    def _end(self, said: _Said, events: list[Event]) -> None:
        response = dict_of(said.response)
        for call in self._calls:
            self._end_call(call, events)
        self._count_tokens(response, events)
        self._over = True
        events += (Finished(0, reason_of(response, called=bool(self._calls))), Done())

    def _fail(self, said: _Said, events: list[Event]) -> None:
        response = dict_of(said.response)
        self._count_tokens(response, events)
        self._over = True
        events.append(Failed(failure_of({"response": response})))

    @staticmethod
    def _count_tokens(response: dict[str, Any], events: list[Event]) -> None:
        usage = usage_of(response.get("usage"))
        if usage is not None:
            events.append(UsageSeen(usage))

    _readers: ClassVar[Mapping[str, Callable[[Any, _Said, list[Event]], None]]] = {
        "response.output_text.delta": _text,
        "response.function_call_arguments.delta": _arguments,
        "response.reasoning_summary_text.delta": _summary,
        "response.reasoning_text.delta": _thought,
        "response.refusal.delta": _refusal,
        "response.function_call_arguments.done": _whole_arguments,
        "response.output_item.added": _begin_item,
        "response.output_item.done": _end_item,
        "response.created": _created,
        "response.completed": _end,
        "response.incomplete": _end,
        "response.failed": _fail,
    }
    """By the type of a frame. What is not here says nothing that the events have a word for."""


def _said_in(part: dict[str, Any]) -> list[Event]:
    """Give what a part of a message says."""
    if text := text_of(part.get("text")):
        return [Text(0, text)]
    if refusal := text_of(part.get("refusal")):
        return [Refusal(0, refusal)]
    return []


def _thought_in(item: dict[str, Any]) -> str:
    """Give a whole thought. Shape: where there is a summary and the thought itself, the summary."""
    for member in ("summary", "content"):
        texts = [text for part in dicts_of(item.get(member)) if (text := text_of(part.get("text")))]
        if texts:
            return _BETWEEN.join(texts)
    return ""
