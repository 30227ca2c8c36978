"""What holds of all dialects at once: what is written in one reads as it was, and so it does on the way through two."""

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from conversing import check_grammar, conversations, event_streams, joined, plain
from mutations import mutated
from tidegate.dialect import Dialect, ProviderDialect
from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.conversation import (
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
    Turn,
    Untranslatable,
    leading,
)
from tidegate.dialect.events import (
    Done,
    Event,
    Finished,
    Origin,
    Reasoning,
    Sealed,
    Started,
    Text,
    ToolArguments,
    ToolCallEnded,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.openai_responses import OpenAIResponses
from tidegate.dialect.seals import unmarked
from tidegate.exchange import Ask, Usage
from tidegate.upstream.kinds import KINDS
from tidegate.verdict import Refused
from tidegate.wire.sse import SseFramer

CHAT: Final[Dialect] = OpenAIChat()
CLIENTS: Final[Mapping[str, Dialect]] = {"chat": CHAT, "responses": OpenAIResponses(), "messages": Anthropic()}
PROVIDERS: Final[Mapping[str, ProviderDialect]] = {name: kind.rows[0].dialect for name, kind in KINDS.items()}
MODEL: Final = "claude-sonnet-4-5"
ASK: Final = Ask(model="m", stream=True, wants_usage=True, body=b"{}")

SHAPES: Final = (
    "ImagePart.detail",
    "Schema.strict",
    "Schema.name",
    "Schema.description",
    "Tool.parameters",
    "Tool.strict",
)
"""Details that a dialect writes where they are not said, or cannot say."""
THINKING: Final = ("effort", "thinking_tokens", "shows_thoughts")
WITHIN: Final = ("ResultPart.parts.ImagePart", "ResultPart.parts.DocumentPart")
LACKS: Final[Mapping[str, tuple[str, ...]]] = {
    "chat": (*CHAT.lacks, *THINKING, *WITHIN, "ThoughtPart", "CallPart.signature", "DocumentPart.url", "DocumentPart.name"),
    "responses": (*CLIENTS["responses"].lacks, *THINKING, "ThoughtPart.text", "ThoughtPart.signature", "CallPart.signature", "DocumentPart.name"),
    "messages": (*CLIENTS["messages"].lacks, *THINKING, "RefusalPart", "ThoughtPart.id", "CallPart.signature"),
}  # fmt: skip
EVENTS_LACK: Final[Mapping[str, tuple[str, ...]]] = {
    "chat": ("ToolCallStarted.signature",),
    "responses": ("Reasoning.signature", "ToolCallStarted.signature"),
    "messages": ("Started.created", "Refusal", "Sealed.id", "ToolCallStarted.signature"),
}
PAIRS: Final = [(one, other) for one in CLIENTS for other in CLIENTS if one != other]

every_client = pytest.mark.parametrize("name", CLIENTS)
every_pair = pytest.mark.parametrize(("one", "other"), PAIRS)


# --- conversations ---------------------------------------------------------------------------------------------------


def sayable(name: str, *more: str) -> st.SearchStrategy[Conversation]:
    """Give conversations that a dialect can say all of."""
    lacks = (*LACKS[name], *SHAPES, *(f"ResultPart.parts.{shape}" for shape in SHAPES), *more)
    made = conversations(lacks, origin=CLIENTS[name].name, system="leading")
    return made.map(lambda said: _bounded(said, name))


def _bounded(said: Conversation, name: str) -> Conversation:
    """Give a conversation with a bound, and without the one form of an answer that Anthropic has no word for."""
    no_word = name == "messages" and said.format is not None and said.format.schema is None
    return structs.replace(said, max_tokens=said.max_tokens or 50_000, format=None if no_word else said.format)


def heard(said: Conversation) -> Conversation:
    """Give a conversation without what dialects say by saying nothing, and its texts joined."""
    none = said.tool_choice == "none"
    turns = tuple(Turn(turn.role, tuple(one for part in turn.parts for one in _heard(part))) for turn in said.turns)
    return structs.replace(
        plain(structs.replace(said, turns=turns), glue="\n\n"),
        parallel_tools=None if none or said.parallel_tools else said.parallel_tools,
        tool_choice="" if said.tool_choice == "auto" else said.tool_choice,
        frequency_penalty=said.frequency_penalty or None,
        presence_penalty=said.presence_penalty or None,
        format=None if said.format is None else Schema(said.format.schema),
        tools=tuple(structs.replace(tool, strict=tool.strict or None, parameters=None) for tool in said.tools),
    )


def _heard(part: Part) -> list[Part]:
    match part:
        case ImagePart(detail="auto"):
            return [structs.replace(part, detail="")]
        case ThoughtPart(signature="", sealed=""):
            return []  # nobody wants it back
        case DocumentPart():
            return [structs.replace(part, name="")]  # where there is none, some dialects make one up
        case ResultPart(parts=parts):
            return [structs.replace(part, parts=tuple(one for inner in parts for one in _heard(inner)))]
        case _:
            return [part]


@every_client
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_is_written_in_a_dialect_is_read_as_it_was(name: str, data: st.DataObject) -> None:
    said = data.draw(sayable(name))
    written = CLIENTS[name].write_conversation(said, MODEL)
    assert written.dropped == ()
    assert heard(CLIENTS[name].read_conversation(written.body)) == heard(said)


def lost_between(said: Conversation, other: str, dropped: Sequence[str]) -> Conversation:
    """Give what of a conversation another dialect can say. Shape: what is not in `dropped` must be there."""
    fields = {name: default for name, default in zip(said.__struct_fields__[1:], said.__struct_defaults__, strict=True) if said.member(name) in dropped and name not in {"members", "dropped"}}  # fmt: skip
    system, turns = leading(said.turns)
    kept = [Turn(turn.role, tuple(one for part in turn.parts for one in _told(part, other, said, dropped))) for turn in turns]  # fmt: skip
    first = (Turn("system", (TextPart(system),)),) if system else ()
    return structs.replace(said, turns=(*first, *(turn for turn in kept if turn.parts)), **fields)


def _told(part: Part, other: str, said: Conversation, dropped: Sequence[str]) -> list[Part]:
    match part:
        case ThoughtPart():
            return []  # others' thoughts say nothing, and are not listed
        case RefusalPart(text) if other == "messages":
            return [TextPart(text)]
        case ResultPart(failed=True) if said.member("ResultPart.failed") in dropped:
            return [structs.replace(part, failed=False)]
        case _:
            return [part]


@every_pair
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_one_dialect_s_client_asks_another_s_provider_hears_but_for_what_is_listed(
    one: str, other: str, data: st.DataObject
) -> None:
    within = () if other != "chat" else WITHIN
    names = ("DocumentPart.url", "DocumentPart.name") if other != "messages" else ()
    made = data.draw(sayable(one, *within, *names))
    asked = CLIENTS[one].read_conversation(CLIENTS[one].write_conversation(made, MODEL).body)
    try:
        written = CLIENTS[other].write_conversation(asked, MODEL)
    except Untranslatable:
        return
    expected = lost_between(asked, other, written.dropped)
    again = CLIENTS[other].read_conversation(written.body)
    assert heard(again) == heard(expected)
    assert calls_in(again) == calls_in(asked)


def calls_in(said: Conversation) -> list[tuple[str, str, str]]:
    """Give ids, names and arguments of calls, and the ids of results, in their order."""
    parts = [part for turn in said.turns for part in turn.parts]
    calls = [(part.id, part.name, part.arguments) for part in parts if isinstance(part, CallPart)]
    return [*calls, *((part.id, part.name, "") for part in parts if isinstance(part, ResultPart))]


@settings(max_examples=60, deadline=None)
@given(conversations(WITHIN, interleaved=True))
def test_ids_of_calls_and_their_arguments_reach_every_provider(said: Conversation) -> None:
    calls = [part for turn in said.turns for part in turn.parts if isinstance(part, CallPart)]
    for dialect in PROVIDERS.values():
        try:
            body = dialect.write_conversation(said, MODEL).body
        except Untranslatable:
            continue
        places = [body.find(json.dumps(call.id).encode()) for call in calls]
        assert -1 not in places
        assert places == sorted(places)
        found = list(objects_in(json.loads(body)))
        assert all(json.loads(call.arguments) in found for call in calls)


def objects_in(value: object) -> Any:
    """Give all objects in a value, those in texts included."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, str) and value.startswith("{"):
        try:
            yield json.loads(value)
        except ValueError:
            return
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects_in(inner)


# --- events ----------------------------------------------------------------------------------------------------------


def through(name: str, events: Sequence[Event], origin: str = "") -> list[Event]:
    """Give events as they are read from the stream that says them."""
    dialect = CLIENTS[name]
    body = dialect.encoder(ASK, Origin("r", "m", 1, origin or dialect.name)).write(events)
    decoder = dialect.decoder(ASK)
    found = [event for frame in SseFramer().feed(body) for event in decoder.feed(frame)]
    found += [] if isinstance(found[-1], Done) else decoder.finish()
    check_grammar(found)
    return found


def whole(name: str, events: Sequence[Event], origin: str = "") -> Sequence[Event]:
    """Give events as they are read from the whole body that says them."""
    dialect = CLIENTS[name]
    found = dialect.read_answer(dialect.write_answer(events, ASK, Origin("r", "m", 1, origin or dialect.name)))
    check_grammar(found)
    return found


def same(events: Sequence[Event]) -> list[Event]:
    """Give events in the fewest pieces, without what is said at another place, or apart, by one dialect or another."""
    bare = [event for event in joined([_bare(event) for event in events]) if event != UsageSeen(Usage())]
    order = {"Reasoning": 0, "Sealed": 0, "Text": 1, "Refusal": 2, "ToolCallStarted": 3, "ToolArguments": 3, "ToolCallEnded": 3}  # fmt: skip
    pieces = [event for event in bare if type(event).__name__ in order]
    rest = [event for event in bare if type(event).__name__ not in order]
    return joined([*rest[:1], *sorted(pieces, key=lambda event: order[type(event).__name__]), *rest[1:]])


def _bare(event: Event) -> Event:
    match event:
        case Started():
            return Started()
        case Sealed():
            return structs.replace(event, id="")
        case _:
            return event


def streams(*names: str) -> st.SearchStrategy[list[Event]]:
    lacks = {lack for name in names for lack in EVENTS_LACK[name]}
    return event_streams(1, tuple(lacks))


@every_client
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_events_are_read_as_they_were_written_streamed_or_whole(name: str, data: st.DataObject) -> None:
    events = data.draw(streams(name))
    assert same(through(name, events)) == same(events)
    assert same(whole(name, events)) == same(events)


@every_pair
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_events_are_the_same_on_the_way_through_two_dialects(one: str, other: str, data: st.DataObject) -> None:
    events = data.draw(streams(one, other))
    assert same(through(other, through(one, events))) == same(events)
    assert same(whole(other, whole(one, events))) == same(events)


@every_pair
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_calls_are_neither_joined_nor_mixed_up_however_their_pieces_come(
    one: str, other: str, data: st.DataObject
) -> None:
    lacks = {lack for name in (one, other) for lack in EVENTS_LACK[name]}
    events = data.draw(event_streams(1, tuple(lacks), interleaved=True))
    assert arguments_in(through(other, through(one, events))) == arguments_in(events)


def arguments_in(events: Sequence[Event]) -> list[tuple[str, str, str]]:
    """Give ids, names and arguments of the calls in a stream."""
    begun = [event for event in events if isinstance(event, ToolCallStarted)]
    return [
        (
            call.id,
            call.name,
            "".join(event.fragment for event in events if isinstance(event, ToolArguments) and event.call == call.call),
        )
        for call in begun
    ]


@every_client
def test_a_call_without_arguments_is_given_an_empty_object(name: str) -> None:
    events: list[Event] = [Started("r", "m", 1), ToolCallStarted(0, 0, "call_1", "tide"), ToolArguments(0, 0, "{}"), ToolCallEnded(0, 0), Finished(0, "tool_calls"), Done()]  # fmt: skip
    assert arguments_in(through(name, events)) == arguments_in(whole(name, events)) == [("call_1", "tide", "{}")]


@every_client
@pytest.mark.parametrize(
    "text", ['"\n\\\x01' * 20_000, "tide " * 20_000, '\ud83c"' * 60_000], ids=["escapes", "letters", "half pairs"]
)
def test_a_long_text_is_written_as_a_short_one_is(name: str, text: str) -> None:
    events: list[Event] = [Started("r", "m", 1), Text(0, text), Finished(0, "stop"), Done()]
    assert Text(0, text) in joined(through(name, events))


# --- the next turn ---------------------------------------------------------------------------------------------------

ANSWER: Final[list[Event]] = [
    Started("r", "m", 1),
    Reasoning(0, "Hm.", "c2ln"),
    Sealed(0, "c2VhbA==", "rs_1"),
    Text(0, "I look."),
    ToolCallStarted(0, 0, "call_1", "tide", "Y2FsbA=="),
    ToolArguments(0, 0, '{"at":"Brest"}'),
    ToolCallEnded(0, 0),
    Finished(0, "tool_calls"),
    Done(),
]


def next_request(name: str, origin: str) -> bytes:
    """Give what a client asks after an answer that it hands back as it came, with the result of its call."""
    answer = json.loads(CLIENTS[name].write_answer(ANSWER, ASK, Origin("r", "m", 1, origin)))
    user = {"role": "user", "content": "Hi"}
    match name:
        case "chat":
            result = {"role": "tool", "tool_call_id": "call_1", "content": "6:12"}
            message = {key: value for key, value in answer["choices"][0]["message"].items() if value is not None}
            return json.dumps({"model": "m", "messages": [user, message, result]}).encode()
        case "responses":
            output = {"type": "function_call_output", "call_id": "call_1", "output": "6:12"}
            return json.dumps({"model": "m", "input": [user, *answer["output"], output]}).encode()
        case _:
            block = {"type": "tool_result", "tool_use_id": "call_1", "content": "6:12"}
            said = [user, {"role": "assistant", "content": answer["content"]}, {"role": "user", "content": [block]}]
            return json.dumps({"model": "m", "max_tokens": 9, "messages": said}).encode()


@every_client
@pytest.mark.parametrize("origin", ["anthropic", "gemini", "bedrock", "another"])
def test_what_a_provider_signed_or_sealed_comes_back_in_the_next_turn_with_its_maker(name: str, origin: str) -> None:
    conversation = CLIENTS[name].read_conversation(next_request(name, origin))
    parts = [part for turn in conversation.turns for part in turn.parts]
    signed = [
        (part.signature, part.origin) for part in parts if isinstance(part, ThoughtPart | CallPart) and part.signature
    ]
    sealed = [(part.sealed, part.origin) for part in parts if isinstance(part, ThoughtPart) and part.sealed]
    assert sorted(signed) == [("Y2FsbA==", origin), ("c2ln", origin)]
    assert sealed == [("c2VhbA==", origin)]
    assert "Hm." in "".join(part.text for part in parts if isinstance(part, ThoughtPart))


@every_client
@pytest.mark.parametrize(
    ("kind", "expected"),
    [("anthropic", {"c2ln", "c2VhbA=="}), ("bedrock", {"c2ln", "c2VhbA=="}), ("gemini", {"c2ln", "Y2FsbA=="})],
)
def test_the_maker_is_told_them_again_and_nobody_else_is(name: str, kind: str, expected: set[str]) -> None:
    mine = CLIENTS[name].read_conversation(next_request(name, kind))
    others = CLIENTS[name].read_conversation(next_request(name, "another"))
    tools = {"tools": (), "max_tokens": 9}
    written, without = (PROVIDERS[kind].write_conversation(structs.replace(one, **tools), "anthropic.claude-opus-4-6").body for one in (mine, others))  # fmt: skip
    words = {"c2ln", "c2VhbA==", "Y2FsbA=="}
    assert {word for word in words if f'"{word}"'.encode() in written} == expected
    assert not any(word.encode() in without for word in words)
    assert b"tidegate:" not in written + without


# --- anything at all -------------------------------------------------------------------------------------------------

REQUESTS: Final[Mapping[str, Sequence[dict[str, Any]]]] = {
    "chat": [
        json.loads(next_request("chat", "anthropic")) | {"tools": [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}, "strict": True}}], "tool_choice": {"type": "function", "function": {"name": "tide"}}, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}, "stop": ["x"], "reasoning": {"effort": "low"}, "n": 2, "logit_bias": {"1": 1}, "stream_options": {"include_usage": True}},
        {"model": "m", "messages": [{"role": "developer", "content": [{"type": "text", "text": "Hi"}]}, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC", "detail": "low"}}, {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAEC"}}]}, {"role": "assistant", "refusal": "No.", "function_call": {"name": "a", "arguments": "{}"}}, {"role": "function", "name": "a", "content": "x"}]},
    ],
    "responses": [
        json.loads(next_request("responses", "gemini")) | {"tools": [{"type": "function", "name": "tide", "parameters": {"type": "object"}, "strict": True}], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "tide"}]}, "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}, "verbosity": "low"}, "reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"], "instructions": "Hi"},
        {"model": "m", "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAEC"}, {"type": "input_file", "filename": "a", "file_data": "data:application/pdf;base64,AAEC"}]}, {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}, {"type": "refusal", "refusal": "No."}]}]},
    ],
    "messages": [
        json.loads(next_request("messages", "anthropic")) | {"system": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}], "tools": [{"name": "tide", "input_schema": {"type": "object"}}], "tool_choice": {"type": "tool", "name": "tide", "disable_parallel_tool_use": True}, "thinking": {"type": "enabled", "budget_tokens": 2000}, "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}}, "metadata": {"user_id": "a"}, "stop_sequences": ["x"]},
        {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAEC"}}, {"type": "document", "title": "a", "citations": {"enabled": False}, "source": {"type": "text", "media_type": "text/plain", "data": "x"}}, {"type": "image", "source": {"type": "url", "url": "https://a/b"}}]}]},
    ],
}  # fmt: skip


def test_the_requests_that_are_changed_are_understood_as_they_are() -> None:
    for name, bodies in REQUESTS.items():
        for body in bodies:
            CLIENTS[name].read_request(json.dumps(body).encode())
            assert CLIENTS[name].read_conversation(json.dumps(body).encode()).turns


@every_client
@pytest.mark.parametrize("seed", range(4))
def test_any_request_is_read_or_refused_and_what_is_read_can_be_written_or_not_said(name: str, seed: int) -> None:
    rng = random.Random(f"{name} {seed}")
    read = 0
    for _ in range(400):
        body = json.dumps(mutated(rng.choice(REQUESTS[name]), rng)).encode()
        for reads in (CLIENTS[name].read_request, CLIENTS["messages"].read_conversation, CHAT.read_conversation):
            read_or_refused(reads, body)
        said = read_or_refused(CLIENTS[name].read_conversation, body)
        if said is None:
            continue
        read += 1
        for provider in PROVIDERS.values():
            with suppress(Untranslatable):
                provider.write_conversation(said, MODEL)
    assert read > 20


def read_or_refused(reads: Any, body: bytes) -> Any:
    """Give what is read, or None where it is refused."""
    with suppress(Refused, Untranslatable):
        return reads(body)
    return None


def test_marks_of_makers_are_told_from_signatures() -> None:
    assert unmarked("c2ln") == ("c2ln", "")
