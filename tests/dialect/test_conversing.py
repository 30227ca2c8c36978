"""The strategies that the dialects' tests share make what the contract allows, all of it, and nothing else."""

import json
from itertools import pairwise

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from conversing import check_grammar, conversations, event_streams, joined, plain
from tidegate.dialect.conversation import (
    CallPart,
    Conversation,
    ImagePart,
    RefusalPart,
    ResultPart,
    TextPart,
    ThoughtPart,
    Turn,
    lost,
    merged,
)
from tidegate.dialect.events import (
    Done,
    Event,
    Failed,
    Finished,
    Reasoning,
    Sealed,
    Started,
    Text,
    ToolArguments,
    ToolCallEnded,
    ToolCallStarted,
    UsageSeen,
)
from tidegate.exchange import Usage


@settings(max_examples=60, deadline=None)
@given(conversations(origin="anthropic") | conversations(system="leading", interleaved=True))
def test_conversations_keep_the_contract(conversation: Conversation) -> None:
    turns = conversation.turns
    assert merged(turns) == turns, "no turn is empty, no role speaks twice in a row, results come first"
    assert turns[-1].role == "user"
    for turn, after in pairwise(turns):
        calls = [(part.id, part.name) for part in turn.parts if isinstance(part, CallPart)]
        results = [(part.id, part.name) for part in after.parts if isinstance(part, ResultPart)]
        assert calls == results
        assert all(isinstance(json.loads(part.arguments), dict) for part in turn.parts if isinstance(part, CallPart))
    assert conversation.tools or not conversation.tool_choice
    assert plain(plain(conversation)) == plain(conversation)


@settings(max_examples=30, deadline=None)
@given(
    conversations(
        lacks=("seed", "format", "RefusalPart", "ThoughtPart.sealed", "ImagePart.url", "ResultPart.parts.ImagePart"),
        system="never",
    )
)
def test_what_is_lacking_is_left_out(conversation: Conversation) -> None:
    assert lost(conversation, {}, "none") == ()
    assert (conversation.seed, conversation.format) == (None, None)
    parts = [part for turn in conversation.turns for part in turn.parts]
    shown = [one for part in parts if isinstance(part, ResultPart) for one in part.parts]
    assert not any(isinstance(part, RefusalPart) or getattr(part, "sealed", "") for part in parts)
    assert not any(isinstance(part, ImagePart) and part.url for part in parts)
    assert not any(isinstance(part, ImagePart) for part in shown)
    assert "system" not in {turn.role for turn in conversation.turns}


@pytest.mark.parametrize("kind", [ThoughtPart, RefusalPart, CallPart, ResultPart, ImagePart])
def test_every_kind_of_part_is_made(kind: type) -> None:
    def has_one(made: Conversation) -> bool:
        return any(isinstance(part, kind) for turn in made.turns for part in turn.parts)

    assert has_one(find(conversations(), has_one, settings=settings(phases=(Phase.generate,))))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3).flatmap(lambda n: event_streams(n, interleaved=True, fails=True)) | event_streams())
def test_streams_keep_to_the_grammar_and_so_do_the_joined(events: list[Event]) -> None:
    check_grammar(events)
    once = joined(events)
    check_grammar(once)
    assert joined(once) == once


def test_pieces_are_joined_where_they_are_neighbours() -> None:
    start, usage = Started("a", "m", 1), UsageSeen(Usage(2, 1))
    events: list[Event] = [
        start,
        Reasoning(0, "a"),
        Text(1, "x"),
        Reasoning(0, "b", "s"),
        Reasoning(0, "c"),
        ToolCallStarted(0, 0, "i", "n"),
        Text(0, "d"),
        ToolArguments(0, 0, "{"),
        UsageSeen(Usage(1, 1)),
        Text(0, "e"),
        ToolArguments(0, 0, "}"),
        ToolCallEnded(0, 0),
        usage,
        Finished(0, "tool_calls"),
        Done(),
    ]
    check_grammar(events)
    assert joined(events) == [
        start,
        Reasoning(0, "ab", "s"),
        Reasoning(0, "c"),
        ToolCallStarted(0, 0, "i", "n"),
        ToolArguments(0, 0, "{}"),
        ToolCallEnded(0, 0),
        Text(0, "de"),
        Finished(0, "tool_calls"),
        Text(1, "x"),
        usage,
        Done(),
    ]


@pytest.mark.parametrize(
    "events",
    [
        [Text(0, "a"), Started()],
        [Text(0, "")],
        [Reasoning(0, "")],
        [Sealed(0, "")],
        [Done(), Text(0, "a")],
        [Failed(error=None), Done()],  # type: ignore[arg-type]
        [Finished(0, "stop"), Finished(0, "stop")],
        [ToolCallStarted(0, 1, "a", "n")],
        [ToolCallStarted(0, 0, "", "n")],
        [ToolCallStarted(0, 0, "a", "n"), Done()],
        [ToolCallStarted(0, 0, "a", "n"), Finished(0, "stop")],
    ],
)
def test_what_breaks_the_grammar_is_noticed(events: list[Event]) -> None:
    with pytest.raises(AssertionError):
        check_grammar(events)


def test_a_plain_conversation_has_joined_texts_and_no_reader() -> None:
    parts = (ThoughtPart("a", origin="x"), TextPart("b"), TextPart("c"), ThoughtPart("d", "s", origin="x"))
    conversation = Conversation(turns=(Turn("assistant", parts),), members={"stop": "stop_sequences"}, dropped=("n",))
    assert plain(conversation) == Conversation(
        turns=(Turn("assistant", (ThoughtPart("a"), TextPart("bc"), ThoughtPart("d", "s", origin="x"))),)
    )
