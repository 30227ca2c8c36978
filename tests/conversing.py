"""What any client asks and any provider says, made up: strategies for the tests of every dialect.

`lacks` names what a dialect has no word for: a field of a Conversation ("seed"), a kind of part or event ("RefusalPart",
"Sealed"), or a field of one ("ImagePart.url", "Reasoning.signature").
"""

from collections.abc import Collection, Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec
from hypothesis import strategies as st
from msgspec import structs

from tidegate.dialect.conversation import (
    OWN,
    CallPart,
    Conversation,
    DocumentPart,
    ImagePart,
    Part,
    RefusalPart,
    ResultPart,
    Schema,
    TextPart,
    ThoughtPart,
    Tool,
    Turn,
)
from tidegate.dialect.events import (
    Done,
    Event,
    Failed,
    Finished,
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
from tidegate.exchange import Usage

T = TypeVar("T")
Lacks = Collection[str]

ODD_TEXTS: Final = ["data: x\n\n", "[DONE]", '"', "\\", "\r\n", "🌊", "\u2028", "event: error\n", "</s>", "\x00", "🇫🇷"]
texts = st.text(min_size=1, max_size=12) | st.sampled_from(ODD_TEXTS)
words = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=8)
base64s = st.sampled_from(["aGk=", "4oyY8J+MiQ==", "AAEC"])
urls = st.sampled_from(["https://example.com/tide.png", "https://example.com/a?b=%20c&d"])
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts
objects: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    texts, scalars | st.lists(scalars, max_size=2) | st.dictionaries(texts, scalars, max_size=2), max_size=3
)
json_objects = objects.map(lambda value: msgspec.json.encode(value).decode())
schemas = st.sampled_from([{"type": "object"}, {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}])  # fmt: skip
hundredths = st.integers(0, 100).map(lambda number: number / 100)
penalties = st.integers(-200, 200).map(lambda number: number / 100)


def made(kind: type[T], lacks: Lacks, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[T]:
    """Give values of a kind without the fields that are lacking."""
    given = {name: values for name, values in fields.items() if f"{kind.__name__}.{name}" not in lacks}
    return st.builds(kind, **given)


def one_of(lacks: Lacks, **kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Give values of the kinds that are not lacking."""
    return st.one_of([values for name, values in kinds.items() if name not in lacks])


# --- conversations ---------------------------------------------------------------------------------------------------


@st.composite
def conversations(
    draw: st.DrawFn,
    lacks: Lacks = (),
    *,
    origin: str = OWN,
    system: Literal["anywhere", "leading", "never"] = "anywhere",
    interleaved: bool = False,
) -> Conversation:
    """Give a well-formed conversation that ends with a user's turn.

    Shape: thoughts are signed by the dialect `origin`; `leading` is one text at the beginning at most; an assistant's
    thoughts, texts, refusals and calls come in this order unless they are `interleaved`; every call has its result, with
    its name, in the turn that follows, and ids are unique.
    """
    turns: list[Turn] = []
    if system != "never" and draw(st.booleans()):
        turns.append(Turn("system", (TextPart(draw(texts)),)))
    pending: tuple[CallPart, ...] = ()
    for number in range(draw(st.integers(0, 2))):
        turns.append(draw(_user(lacks, pending)))
        if system == "anywhere" and draw(st.integers(0, 3)) == 0:
            turns.append(Turn("system", tuple(draw(st.lists(st.builds(TextPart, texts), min_size=1, max_size=2)))))
        turns.append(draw(_assistant(lacks, origin, number, interleaved=interleaved)))
        pending = tuple(part for part in turns[-1].parts if isinstance(part, CallPart))
    turns.append(draw(_user(lacks, pending)))
    return Conversation(turns=tuple(turns), **draw(settings_of(lacks)))


@st.composite
def settings_of(draw: st.DrawFn, lacks: Lacks = ()) -> dict[str, Any]:
    """Give fields of a Conversation besides its turns. Shape: a choice of tools is made where there are tools only."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        "stream": st.booleans(),
        "format": st.builds(Schema)
        | made(
            Schema,
            lacks,
            schema=schemas,
            name=words,
            description=st.just("") | texts,
            strict=st.sampled_from([None, True, False]),
        ),
        "max_tokens": st.integers(40_000, 100_000),
        "temperature": hundredths,
        "top_p": hundredths,
        "top_k": st.integers(1, 500),
        "stop": st.lists(texts, min_size=1, max_size=4, unique=True).map(tuple),
        "seed": st.integers(0, 2**31),
        "frequency_penalty": penalties,
        "presence_penalty": penalties,
        "choices": st.integers(1, 4),
        "logprobs": st.integers(0, 20),
        "logit_bias": st.just({"50256": -100}),
        "effort": st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh"]),
        "thinking_tokens": st.just(0) | st.integers(1024, 32_000),
        "shows_thoughts": st.booleans(),
        "verbosity": st.sampled_from(["low", "medium", "high"]),
        "user": words,
    }
    said = {name: draw(values) for name, values in fields.items() if name not in lacks and draw(st.integers(0, 3)) == 0}
    if "tools" not in lacks and draw(st.booleans()):
        said |= draw(_tools(lacks))
    return said


@st.composite
def _tools(draw: st.DrawFn, lacks: Lacks) -> dict[str, Any]:
    tool = made(
        Tool,
        lacks,
        name=words,
        description=st.just("") | texts,
        parameters=st.none() | schemas,
        strict=st.sampled_from([None, True, False]),
    )
    tools = draw(st.lists(tool, min_size=1, max_size=3, unique_by=lambda tool: tool.name))
    said: dict[str, Any] = {"tools": tuple(tools)}
    if "tool_choice" not in lacks:
        said["tool_choice"] = draw(st.sampled_from(["", "auto", "none", "required", "tool"]))
    if said.get("tool_choice") == "tool":
        said["tool"] = draw(st.sampled_from(tools)).name
    if "parallel_tools" not in lacks:
        said["parallel_tools"] = draw(st.sampled_from([None, True, False]))
    return said


def media(lacks: Lacks = ()) -> st.SearchStrategy[TextPart | ImagePart | DocumentPart]:
    """Give what a user shows: text, images, documents."""
    types = st.sampled_from(["image/png", "image/jpeg", "image/webp", "image/gif"])
    details = st.sampled_from(["", "low", "high", "auto"])
    names = st.sampled_from(["", "tide.pdf"])
    return one_of(
        lacks,
        TextPart=st.builds(TextPart, texts),
        ImagePart=_inline_or_url(ImagePart, lacks, types, detail=details),
        DocumentPart=_inline_or_url(DocumentPart, lacks, st.just("application/pdf"), name=names),
    )


def _inline_or_url(
    kind: type[T], lacks: Lacks, types: st.SearchStrategy[str], **more: st.SearchStrategy[Any]
) -> st.SearchStrategy[T]:
    ways = []
    if f"{kind.__name__}.data" not in lacks:
        ways.append(made(kind, lacks, media_type=types, data=base64s, **more))
    if f"{kind.__name__}.url" not in lacks:
        ways.append(made(kind, lacks, url=urls, **more))
    return st.one_of(ways)


@st.composite
def _user(draw: st.DrawFn, lacks: Lacks, pending: tuple[CallPart, ...]) -> Turn:
    parts: list[Part] = []
    within = [name.removeprefix("ResultPart.parts.") for name in lacks]
    for call in pending:
        shown = tuple(draw(st.lists(media(within), max_size=2)))
        failed = "ResultPart.failed" not in lacks and draw(st.booleans())
        parts.append(ResultPart(call.id, shown, call.name, failed=failed))
    return Turn("user", (*parts, *draw(st.lists(media(lacks), min_size=0 if pending else 1, max_size=3))))


@st.composite
def _assistant(draw: st.DrawFn, lacks: Lacks, origin: str, number: int, *, interleaved: bool) -> Turn:
    thoughts = [] if "ThoughtPart" in lacks else draw(st.lists(_thought(lacks, origin), max_size=2))
    said: list[Part] = list(draw(st.lists(st.builds(TextPart, texts), max_size=2)))
    if "RefusalPart" not in lacks and draw(st.integers(0, 3)) == 0:
        said.append(RefusalPart(draw(texts)))
    if "CallPart" not in lacks:
        for name in draw(st.lists(words, max_size=3)):
            signature = "" if "CallPart.signature" in lacks else draw(st.just("") | words)
            ident = f"call_{number}_{len(said)}"
            said.append(CallPart(ident, name, draw(json_objects), signature, origin if signature else OWN))
    said = said or [TextPart(draw(texts))]
    parts = [*thoughts, *said]
    return Turn("assistant", tuple(draw(st.permutations(parts)) if interleaved else parts))


def _thought(lacks: Lacks, origin: str) -> st.SearchStrategy[ThoughtPart]:
    by = st.just(origin)
    ids = st.just("") | words
    ways = []
    if "ThoughtPart.text" not in lacks:
        ways.append(st.builds(ThoughtPart, text=texts))
    if not {"ThoughtPart.text", "ThoughtPart.signature"} & set(lacks):
        ways.append(made(ThoughtPart, lacks, text=texts, signature=words, origin=by))
    if "ThoughtPart.sealed" not in lacks:
        ways.append(made(ThoughtPart, lacks, sealed=words, id=ids, origin=by))
    return st.one_of(ways)


def plain(conversation: Conversation, glue: str = "") -> Conversation:
    """Give a conversation without what depends on who read it: names of members, what was dropped, makers of nothing.

    Shape: neighbouring texts of a turn are one; other turns than an assistant's have `glue` between them.
    """
    turns = [
        Turn(turn.role, tuple(_joined_parts(turn.parts, "" if turn.role == "assistant" else glue)))
        for turn in conversation.turns
    ]
    return structs.replace(conversation, turns=tuple(turns), members={}, dropped=())


def _joined_parts(parts: Sequence[Part], glue: str) -> list[Part]:
    out: list[Part] = []
    for part in parts:
        last = out[-1] if out else None
        match part:
            case TextPart(text) if isinstance(last, TextPart):
                out[-1] = TextPart(last.text + glue + text)
            case ThoughtPart(signature="", sealed="") | CallPart(signature=""):
                out.append(structs.replace(part, origin=OWN))
            case ResultPart():
                out.append(structs.replace(part, parts=tuple(_joined_parts(part.parts, glue))))
            case _:
                out.append(part)
    return out


# --- events ----------------------------------------------------------------------------------------------------------


@st.composite
def event_streams(
    draw: st.DrawFn,
    choices: int = 1,
    lacks: Lacks = (),
    *,
    interleaved: bool = False,
    reasons: Sequence[str] = ("stop", "length", "content_filter"),
    fails: bool = False,
) -> list[Event]:
    """Give all that a stream says, by the grammar of the events.

    Shape: pieces of the choices are mixed; those of one choice, its calls among them, follow one another unless they are
    `interleaved`. A choice with calls finishes with tool_calls or length. The last event may be Failed where it `fails`.
    """
    said = [draw(_choice(index, lacks, reasons, interleaved=interleaved)) for index in range(choices)]
    started = draw(
        made(Started, lacks, id=words, model=words, created=st.integers(1, 2**31)),
    )
    body = draw(mixed(said))
    last: Event = Done()
    if fails and draw(st.booleans()):
        body = body[: draw(st.integers(0, len(body)))]
        last = draw(made(Failed, (), error=st.builds(ProviderError, texts, words)))
    elif "UsageSeen" not in lacks:
        told = draw(st.lists(usages(lacks), max_size=2))
        for usage in told:
            # What went in does not change while the answer comes out.
            body.insert(draw(st.integers(0, len(body))), UsageSeen(_with_input_of(told[0], usage)))
    return [started, *body, last]


def _with_input_of(first: Usage, usage: Usage) -> Usage:
    return structs.replace(
        usage,
        input_tokens=first.input_tokens,
        cached_tokens=first.cached_tokens,
        cache_write_tokens=first.cache_write_tokens,
    )


@st.composite
def usages(draw: st.DrawFn, lacks: Lacks = ()) -> Usage:
    """Give counts of tokens of which the parts are no more than the whole."""
    names = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cache_write_tokens")
    one, out, cached, thought, wrote = (
        0 if f"Usage.{name}" in lacks else draw(st.integers(0, 2**30)) for name in names
    )
    return Usage(one + cached + wrote, out + thought, cached, thought, wrote)


@st.composite
def _choice(draw: st.DrawFn, index: int, lacks: Lacks, reasons: Sequence[str], *, interleaved: bool) -> list[Event]:
    """Give what one choice says, its end included."""
    kinds = one_of(
        lacks,
        Text=st.lists(st.builds(Text, st.just(index), texts), min_size=1, max_size=3),
        Reasoning=_reasoning(index, lacks),
        Sealed=made(Sealed, lacks, index=st.just(index), data=words, id=st.just("") | words).map(lambda one: [one]),
        Refusal=st.lists(st.builds(Refusal, st.just(index), texts), min_size=1, max_size=2),
        ToolCallStarted=st.just([]),
    )
    calls = 0
    items: list[list[Event]] = []
    for item in draw(st.lists(kinds, max_size=5)):
        if not item:
            item = draw(_call(index, calls, lacks))  # noqa: PLW2901 (in its place)
            calls += 1
        items.append(item)
    said = _in_turn(draw(mixed(items))) if interleaved else [event for item in items for event in item]
    reason = draw(st.sampled_from(["tool_calls", "length"] if calls else reasons))
    return [*said, Finished(index, reason)]


@st.composite
def _reasoning(draw: st.DrawFn, index: int, lacks: Lacks) -> list[Event]:
    pieces: list[Event] = [Reasoning(index, text) for text in draw(st.lists(texts, min_size=1, max_size=3))]
    if "Reasoning.signature" not in lacks and draw(st.booleans()):
        pieces.append(Reasoning(index, draw(st.just("") | texts), draw(words)))
    return pieces


@st.composite
def _call(draw: st.DrawFn, index: int, number: int, lacks: Lacks) -> list[Event]:
    arguments = draw(json_objects)
    cuts = sorted(draw(st.sets(st.integers(1, len(arguments) - 1), max_size=3)))
    pieces = [arguments[start:end] for start, end in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
    signature = "" if "ToolCallStarted.signature" in lacks else draw(st.just("") | words)
    return [
        ToolCallStarted(index, number, f"call_{index}_{number}", draw(words), signature),
        *(ToolArguments(index, number, piece) for piece in pieces),
        ToolCallEnded(index, number),
    ]


@st.composite
def mixed(draw: st.DrawFn, lists: Sequence[list[Event]]) -> list[Event]:
    """Give the events of several lists, each list's in its order."""
    turns = draw(st.permutations([number for number, events in enumerate(lists) for _ in events]))
    left = [iter(events) for events in lists]
    return [next(left[turn]) for turn in turns]


def _in_turn(events: list[Event]) -> list[Event]:
    """Number the calls of one choice in the order of their first word."""
    order = [event.call for event in events if isinstance(event, ToolCallStarted)]
    return [
        structs.replace(event, call=order.index(event.call))
        if isinstance(event, (ToolCallStarted, ToolArguments, ToolCallEnded))
        else event
        for event in events
    ]


# --- to compare ------------------------------------------------------------------------------------------------------


def joined(events: Sequence[Event]) -> list[Event]:
    """Give the same stream in the fewest pieces: choice after choice, then usage, then the end.

    Shape: neighbouring pieces of a text, a thought or a refusal are one, and so are all of a call's arguments; a call stands
    where it began; of usage the last word counts. It keeps to the grammar as well.
    """
    started = [event for event in events if isinstance(event, Started)]
    usage = [event for event in events if isinstance(event, UsageSeen)][-1:]
    last = [event for event in events if isinstance(event, (Done, Failed))]
    indices = sorted({event.index for event in events if not isinstance(event, (Started, UsageSeen, Done, Failed))})
    return [*started, *(piece for index in indices for piece in _joined_choice(events, index)), *usage, *last]


def _joined_choice(events: Sequence[Event], index: int) -> list[Event]:
    out: list[Event] = []
    calls: dict[int, list[Event]] = {}
    for event in events:
        if isinstance(event, (Started, UsageSeen, Done, Failed)) or event.index != index:
            continue
        last = out[-1] if out else None
        if isinstance(event, (ToolArguments, ToolCallEnded)):
            calls.setdefault(event.call, []).append(event)
        elif isinstance(event, (Text, Refusal)) and type(last) is type(event):
            out[-1] = structs.replace(last, text=last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning) and not last.signature:
            out[-1] = Reasoning(index, last.text + event.text, event.signature)
        else:
            out.append(event)
    return [piece for event in out for piece in _whole(event, calls)]


def _whole(event: Event, calls: dict[int, list[Event]]) -> list[Event]:
    """Give an event; where it begins a call, with all that was said of it."""
    if not isinstance(event, ToolCallStarted):
        return [event]
    said = calls.get(event.call, [])
    rest = "".join(piece.fragment for piece in said if isinstance(piece, ToolArguments))
    arguments = [ToolArguments(event.index, event.call, rest)] if rest else []
    return [event, *arguments, *(piece for piece in said if isinstance(piece, ToolCallEnded))]


def check_grammar(events: Sequence[Event]) -> None:
    """Check that events, whole or the beginning of a stream, keep to the grammar. Errors: AssertionError."""
    for place, event in enumerate(events):
        assert not isinstance(event, Started) or place == 0, "Started is the first word"
        assert not isinstance(event, (Done, Failed)) or place == len(events) - 1, "nothing follows the last word"
        _check_says_something(event)
    open_calls = _check_calls(events)
    assert not (open_calls and isinstance(events[-1], Done)), "every call that began has ended"


def _check_says_something(event: Event) -> None:
    match event:
        case Text(_, text) | Refusal(_, text):
            assert text, "text is never empty"
        case Reasoning(_, text, signature):
            assert text or signature, "a thought says something"
        case Sealed(_, data):
            assert data, "a sealed thought has data"
        case ToolCallStarted():
            assert event.id, "a call has an id"


def _check_calls(events: Sequence[Event]) -> set[tuple[int, int]]:
    """Check calls and the ends of choices; gives the calls that have not ended."""
    finished: set[int] = set()
    arguments: dict[tuple[int, int], str] = {}
    running: set[tuple[int, int]] = set()
    for event in events:
        match event:
            case Finished(index):
                assert index not in finished, "a choice finishes once"
                assert index not in {key[0] for key in running}, "a choice's calls end before it does"
                finished.add(index)
            case ToolCallStarted(index, call):
                count = len([key for key in arguments if key[0] == index])
                assert call == count, "calls are counted from 0 in the order of their first word"
                arguments[index, call] = ""
                running.add((index, call))
            case ToolArguments(index, call, fragment):
                assert (index, call) in running, "arguments belong to a call that has begun and not ended"
                arguments[index, call] += fragment
            case ToolCallEnded(index, call):
                running.remove((index, call))
                msgspec.json.decode(arguments[index, call].encode(errors="surrogatepass"))
    return running
