"""Events as the frames of a response, and as a whole one.

    text, refusal   an item `message`: parts one after the other, as they alternate
    reasoning       an item `reasoning` with one part of a summary; a signature closes it
    sealed          an item `reasoning` of its own where it has an id, else the end of the one that is open
    call            an item `function_call`: several may be open at once, of the others one
    custom tool's   an item `custom_tool_call`, whose text is said at its end: no escape can be read from a piece of JSON
    Failed          `response.failed` alone: with an `error` before it, clients that know both would fail twice

A call whose arguments are no JSON in the end was cut: its item is incomplete. So is a response that is over for any reason
but the two that say that all was said: it names the reason, in the provider's own word where OpenAI has none.

The end says everything again, so all that was said is held, as the JSON it was written as. Above MAX_HELD_BYTES the response
fails and says why: one that calls itself completed and lacks a part would be a lie.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct, field

from tidegate.dialect.events import (
    Done,
    Event,
    Failed,
    Finished,
    Origin,
    ProviderError,
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
from tidegate.dialect.openai_responses.values import (
    INPUT,
    NAME,
    WHY_NOT,
    dict_of,
    dicts_of,
    error_object,
    text_of,
    usage_object,
)
from tidegate.dialect.seals import Seal, closed
from tidegate.dialect.values import json_of, string_of, value_of
from tidegate.exchange import Ask, Usage
from tidegate.wire import FrameError

MAX_HELD_BYTES: Final = 3 * 1024 * 1024
"""Of one response: several times the longest that models give, and a frame that has it all is still one that clients take."""
MAX_ECHOED_BYTES: Final = 64 * 1024
"""A member of the request that is longer is not said again."""
MAX_ID_CHARS: Final = 40
"""What an item's id has of the response's: OpenAI takes back items whose ids have up to 64."""

_ECHOED: Final[dict[str, object]] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
"""Members of a response that the request decides, and what they are where it does not say."""
_WHOLE: Final = frozenset({"", "stop", "tool_calls"})
"""Reasons of answers that lack nothing; '' where none was said."""
_KEPT_NOT: Final[dict[str, object]] = {"background": False, "previous_response_id": None, "store": False}

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_skim = msgspec.json.Decoder(Raw).decode
_unfit = re.compile(r"[^A-Za-z0-9_-]").sub


class _Form(Struct, frozen=True):
    """How something is said in pieces: the names of its events, and of the members that hold it."""

    kind: bytes
    event: bytes
    part_event: bytes
    place: bytes
    member: bytes
    part: bytes
    more: bytes = b""


_TEXT: Final = _Form(
    kind=b"message",
    event=b"response.output_text",
    part_event=b"response.content_part",
    place=b"content_index",
    member=b"text",
    part=b'{"type":"output_text","annotations":[],"logprobs":[],"text":"%b"}',
    more=b',"logprobs":[]',
)
_REFUSAL: Final = _Form(
    kind=b"message",
    event=b"response.refusal",
    part_event=b"response.content_part",
    place=b"content_index",
    member=b"refusal",
    part=b'{"type":"refusal","refusal":"%b"}',
)
_SUMMARY: Final = _Form(
    kind=b"reasoning",
    event=b"response.reasoning_summary_text",
    part_event=b"response.reasoning_summary_part",
    place=b"summary_index",
    member=b"text",
    part=b'{"type":"summary_text","text":"%b"}',
)


class _Open(Struct):
    """A message or a thought that is being said. Shape: `form` is that of the open part, `said` its JSON without quotes."""

    place: int
    id: bytes
    kind: bytes
    encrypted: bytes = b""
    parts: list[bytes] = []
    form: _Form | None = None
    said: bytearray = field(default_factory=bytearray)
    head: bytes = b""

    def item(self, status: bytes) -> bytes:
        """Give the item as it stands."""
        parts = b",".join(self.parts if self.form is None else [*self.parts, self.form.part % self.said])
        if self.kind == b"message":
            template = b'{"id":%b,"type":"message","status":"%b","role":"assistant","content":[%b]}'
            return template % (self.id, status, parts)
        more = b',"encrypted_content":%b' % self.encrypted if self.encrypted else b""
        return b'{"id":%b,"type":"reasoning","summary":[%b]%b}' % (self.id, parts, more)


class _CallForm(Struct, frozen=True):
    """How a call is said: what its ids begin with, the names of its events, and of the member that holds what it is given."""

    kind: bytes
    stem: bytes
    event: bytes
    member: bytes


_FUNCTION: Final = _CallForm(b"function_call", b"fc", b"response.function_call_arguments", b"arguments")
_CUSTOM: Final = _CallForm(b"custom_tool_call", b"ctc", b"response.custom_tool_call_input", b"input")


class _Call(Struct):
    """A call that is being said. Shape: ids and name are JSON, `said` is that without quotes."""

    place: int
    form: _CallForm
    id: bytes
    call_id: bytes
    name: bytes
    said: bytearray = field(default_factory=bytearray)

    def item(self, status: bytes) -> bytes:
        """Give the item as it stands."""
        form = self.form
        template = b'{"id":%b,"type":"%b","status":"%b","%b":"%b","call_id":%b,"name":%b}'
        return template % (self.id, form.kind, status, form.member, self.said, self.call_id, self.name)


class ResponsesEncoder:
    """Writes the stream of one response. Shape: frames are counted from 0; `response` is the object in the last one that has it.

    Holds: all that was said, up to MAX_HELD_BYTES.
    """

    __slots__ = (
        "_calls", "_customs", "_echo", "_head", "_held", "_items", "_open", "_origin", "_over", "_reason", "_sequence", "_stem", "_usage",
        "response",
    )  # fmt: skip

    def __init__(self, ask: Ask, origin: Origin) -> None:
        self._origin = origin
        members = _decode_members(ask.body) if ask.body else {}
        self._echo = _echo(members)
        self._customs = _customs(members)
        self._head = b""
        self._stem = b""
        self._sequence = 0
        self._items: list[bytes] = []
        self._open: _Open | None = None
        self._calls: dict[int, _Call] = {}
        self._usage: Usage | None = None
        self._reason = ""
        self._held = 0
        self._over = False
        self.response = b"{}"

    def write(self, events: Sequence[Event], /) -> bytes:
        """Give whole frames that say it; nothing after the last one."""
        out: list[bytes] = []
        for event in events:
            if self._over:
                break
            if not self._head:
                self._begin(event if isinstance(event, Started) else Started(), out)
            if type(event) is Text and not event.index:
                self._say(_TEXT, event.text, out)
            else:
                self._write(event, out)
        if self._held > MAX_HELD_BYTES and not self._over:
            self._overflow(out)
        return b"".join(out)

    def _write(self, event: Event, out: list[bytes]) -> None:
        match event:
            case Refusal(0, text):
                self._say(_REFUSAL, text, out)
            case Reasoning(0, text, signature):
                self._think(text, signature, out)
            case Sealed(0, data, ident):
                self._seal(Seal(sealed=data, id=ident), out)
            case ToolCallStarted() | ToolArguments() | ToolCallEnded():
                self._write_call(event, out)
            case UsageSeen(usage):
                self._usage = usage
            case Finished(0, reason):
                self._reason = reason
                self._close(out)
            case Failed(error):
                self._fail(error, out)
            case Done():
                self._end(out)

    def _emit(self, event: bytes, members: bytes, out: list[bytes]) -> None:
        frame = b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b}\n\n'
        out.append(frame % (event, event, self._sequence, members))
        self._sequence += 1

    # --- messages and thoughts -------------------------------------------------------------------------------------

    def _say(self, form: _Form, text: str, out: list[bytes]) -> None:
        spoken = self._open
        if spoken is None or spoken.form is not form:
            spoken = self._begin_part(form, out)
        quoted = string_of(text)
        spoken.said += quoted[1:-1]
        self._held += len(quoted)
        out.append(b'%b%d,"delta":%b%b}\n\n' % (spoken.head, self._sequence, quoted, form.more))
        self._sequence += 1

    def _begin_part(self, form: _Form, out: list[bytes]) -> _Open:
        spoken = self._open
        if spoken is None or spoken.kind != form.kind:
            spoken = self._begin_item(form.kind, out)
        self._end_part(spoken, out)
        spoken.form = form
        where = b'"item_id":%b,"output_index":%d,"%b":%d,' % (spoken.id, spoken.place, form.place, len(spoken.parts))
        self._emit(form.part_event + b".added", where + b'"part":' + form.part % b"", out)
        head = b'event: %b.delta\ndata: {"type":"%b.delta",%b"sequence_number":'
        spoken.head = head % (form.event, form.event, where)
        return spoken

    def _end_part(self, spoken: _Open, out: list[bytes]) -> None:
        form = spoken.form
        if form is None:
            return
        where = b'"item_id":%b,"output_index":%d,"%b":%d,' % (spoken.id, spoken.place, form.place, len(spoken.parts))
        part = form.part % spoken.said
        self._emit(form.event + b".done", b'%b"%b":"%b"%b' % (where, form.member, bytes(spoken.said), form.more), out)
        self._emit(form.part_event + b".done", where + b'"part":' + part, out)
        spoken.parts.append(part)
        spoken.form = None
        spoken.said.clear()

    def _begin_item(self, kind: bytes, out: list[bytes], ident: str = "") -> _Open:
        self._close(out)
        place = len(self._items)
        made = b'"%b_%b_%d"' % (b"msg" if kind == b"message" else b"rs", self._stem, place)
        spoken = self._open = _Open(place, string_of(ident) if ident else made, kind)
        self._add(place, spoken.item(b"in_progress"), out)
        return spoken

    def _add(self, place: int, item: bytes, out: list[bytes]) -> None:
        self._items.append(b"")
        self._emit(b"response.output_item.added", b'"output_index":%d,"item":%b' % (place, item), out)

    def _close(self, out: list[bytes]) -> None:
        """Close the message or thought that is open. Shape: it is incomplete where the answer was cut."""
        spoken = self._open
        if spoken is not None:
            self._open = None
            self._end_part(spoken, out)
            self._take(spoken.place, spoken.item(b"completed" if self._reason in _WHOLE else b"incomplete"), out)

    def _take(self, place: int, item: bytes, out: list[bytes]) -> None:
        self._items[place] = item
        self._emit(b"response.output_item.done", b'"output_index":%d,"item":%b' % (place, item), out)

    def _think(self, text: str, signature: str, out: list[bytes]) -> None:
        if text:
            self._say(_SUMMARY, text, out)
        if signature:
            self._seal(Seal(signature=signature), out)

    def _seal(self, seal: Seal, out: list[bytes]) -> None:
        """Close the open thought, or else one without a text, with what is for its provider alone."""
        spoken = self._open
        if spoken is None or spoken.kind != _SUMMARY.kind or seal.id:
            spoken = self._begin_item(_SUMMARY.kind, out, seal.id)
        sealed = closed(seal, self._origin.dialect, NAME)
        if sealed:
            spoken.encrypted = string_of(sealed)
            self._held += len(sealed)
        self._close(out)

    # --- calls of tools --------------------------------------------------------------------------------------------

    def _write_call(self, event: ToolCallStarted | ToolArguments | ToolCallEnded, out: list[bytes]) -> None:
        match event:
            case ToolCallStarted(0):
                self._begin_call(event, out)
            case ToolArguments(0, call, fragment):
                self._argue(self._calls[call], fragment, out)
            case ToolCallEnded(0, call):
                self._end_call(self._calls.pop(call), out)

    def _begin_call(self, event: ToolCallStarted, out: list[bytes]) -> None:
        """Open a call. Shape: what its provider wants back with it stands before it, as a thought that names it."""
        self._close(out)
        if event.signature:
            self._seal(Seal(signature=event.signature, call=event.id), out)
        place, form = len(self._items), _CUSTOM if event.name in self._customs else _FUNCTION
        ident = b'"%b_%b_%d"' % (form.stem, self._stem, place)
        call = self._calls[event.call] = _Call(place, form, ident, string_of(event.id), string_of(event.name))
        self._add(place, call.item(b"in_progress"), out)

    def _argue(self, call: _Call, fragment: str, out: list[bytes]) -> None:
        quoted = string_of(fragment)
        call.said += quoted[1:-1]
        self._held += len(quoted)
        if call.form is _FUNCTION:
            self._tell(call, quoted, out)

    def _tell(self, call: _Call, quoted: bytes, out: list[bytes]) -> None:
        where = b'"item_id":%b,"output_index":%d,"delta":%b' % (call.id, call.place, quoted)
        self._emit(call.form.event + b".delta", where, out)

    def _end_call(self, call: _Call, out: list[bytes]) -> None:
        """End a call. Shape: what a custom tool is given, where nothing can be found that is meant for it, is all that was said."""
        arguments = str(value_of(b'"%b"' % bytes(call.said))).encode(errors="surrogatepass")
        status = b"completed" if _is_whole(arguments) else b"incomplete"
        if call.form is _CUSTOM:
            given = _input_in(arguments)
            if given is not None:
                call.said[:] = string_of(given)[1:-1]
            if call.said:
                self._tell(call, b'"%b"' % bytes(call.said), out)
        whole = b'"item_id":%b,"output_index":%d,"%b":"%b"' % (call.id, call.place, call.form.member, bytes(call.said))
        self._emit(call.form.event + b".done", whole, out)
        self._take(call.place, call.item(status), out)

    # --- the response ----------------------------------------------------------------------------------------------

    def _begin(self, started: Started, out: list[bytes]) -> None:
        origin = self._origin
        ident = _unfit("_", (started.id or origin.id).removeprefix("resp_"))
        self._stem = ident[:MAX_ID_CHARS].encode()
        self._head = b'{"id":"resp_%b","object":"response","created_at":%d,"model":%b,%b' % (
            ident.encode(),
            started.created or origin.created,
            string_of(started.model or origin.model),
            self._echo,
        )
        self._respond(b"response.created", b"in_progress", out)
        self._respond(b"response.in_progress", b"in_progress", out)

    def _respond(
        self, event: bytes, status: bytes, out: list[bytes], *, error: bytes = b"null", why: bytes = b"null"
    ) -> None:
        """Write a frame with the response as it stands."""
        items = b",".join(item for item in self._items if item)
        usage = b"null" if self._usage is None else usage_object(self._usage)
        template = b'%b,"status":"%b","error":%b,"incomplete_details":%b,"output":[%b],"usage":%b}'
        self.response = template % (self._head, status, error, why, items, usage)
        self._emit(event, b'"response":' + self.response, out)

    def _end(self, out: list[bytes]) -> None:
        self._close(out)
        self._over = True
        if self._reason in _WHOLE:
            self._respond(b"response.completed", b"completed", out)
        else:
            why = string_of(WHY_NOT.get(self._reason, self._reason))
            self._respond(b"response.incomplete", b"incomplete", out, why=b'{"reason":%b}' % why)

    def _overflow(self, out: list[bytes]) -> None:
        """Say that no more can be held. Shape: the response has no items, as they were all said, and some not to their end."""
        self._items, self._open, self._calls = [], None, {}
        self._fail(ProviderError(f"the answer is longer than the {MAX_HELD_BYTES} bytes that are held of one"), out)

    def _fail(self, error: ProviderError, out: list[bytes]) -> None:
        """Say that the response failed. Shape: what was not said to its end is in it, and said to be incomplete."""
        self._over = True
        cut_off: list[_Call | _Open] = [*self._calls.values()]
        if self._open is not None:
            cut_off.append(self._open)
        for unfinished in cut_off:
            self._items[unfinished.place] = unfinished.item(b"incomplete")
        self._respond(b"response.failed", b"failed", out, error=error_object(error))


def _is_whole(arguments: bytes) -> bool:
    """Whether a call's arguments are all there. Shape: nearly all can be looked through, at a fifth of what it takes to decode them."""
    try:
        _skim(arguments)
    except (msgspec.DecodeError, RecursionError):
        return _is_json(arguments)
    return True


def _is_json(arguments: bytes) -> bool:
    try:
        value_of(arguments)
    except FrameError:
        return False
    return True


def _input_in(arguments: bytes) -> str | None:
    """Give what is meant for a custom tool; None where nothing is."""
    try:
        given = dict_of(value_of(arguments)).get(INPUT)
    except FrameError:
        return None
    return given if isinstance(given, str) else None


def _customs(members: dict[str, Raw]) -> frozenset[str]:
    """Give the names of the tools that take a plain text."""
    tools = bytes(members.get("tools", b""))
    if b'"custom"' not in tools:
        return frozenset()
    return frozenset(text_of(tool.get("name")) for tool in dicts_of(value_of(tools)) if tool.get("type") == "custom")


def _echo(members: dict[str, Raw]) -> bytes:
    """Give the members of a response that its request decides. Shape: without the braces."""
    echoed = dict(_ECHOED)
    for name in echoed:
        raw = bytes(members.get(name, b""))
        if raw and raw != b"null" and len(raw) <= MAX_ECHOED_BYTES:
            echoed[name] = value_of(raw)
    return json_of(echoed | _KEPT_NOT)[1:-1]
