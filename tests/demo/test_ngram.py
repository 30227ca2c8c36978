import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tidegate.demo import ngram
from tidegate.demo.ngram import ENDS, MAX_TOKENS, PARAGRAPH, Model, Table, learned, pieces, story, words_of
from tidegate.predict.handler import load
from tidegate.predict.scope import Scope, use

TEXT = "The tide turns. The tide rises.\n\nThe river turns."
LEARNED = learned()


def ask(text: str, **more: Any) -> tuple[list[str], dict[str, Any]]:
    """Give what the model says, and the metrics that it records."""
    said: list[tuple[str, Any]] = []
    model = Model()
    model.setup()

    async def run() -> list[str]:
        messages = more.pop("messages", [{"role": "user", "content": text}])
        options = {"max_tokens": 40, "temperature": 0.8, "seed": 1, "delay_ms": 0.0, **more}
        with use(Scope(emit=lambda name, value, _: said.append((name, value)))):
            return [piece async for piece in model.predict(messages, **options)]

    return asyncio.run(run()), dict(said)


def test_words_and_marks_and_paragraphs_are_the_tokens() -> None:
    assert words_of("The half-tide's up.\n\nGo!") == ["The", "half-tide's", "up", ".", PARAGRAPH, "Go", "!"]


def test_a_text_that_is_cut_into_tokens_is_printed_as_it_was() -> None:
    for path in Path(ngram.__file__).parent.glob("*.txt"):
        text = path.read_text(encoding="utf-8").strip()
        assert "".join(pieces(words_of(text))).split() == text.split()
    assert "".join(pieces(words_of(TEXT))) == TEXT


def test_the_text_of_the_package_is_there_and_learned() -> None:
    assert len(LEARNED.tokens) > 2000


def test_at_a_temperature_of_0_the_most_frequent_word_follows() -> None:
    table = Table(words_of(TEXT))
    assert table.following(["The"], 0.0, Random(1)) == "tide"
    assert table.following(["river", "turns"], 0.0, Random(1)) == "."
    # The pair is unknown, its last word is not.
    assert table.following(["rises", "river"], 0.0, Random(1)) == "turns"
    assert table.following(["nobody"], 0.0, Random(1)) == "The"


def test_at_a_higher_temperature_all_that_was_seen_may_follow() -> None:
    table = Table(words_of(TEXT))
    seen = {table.following(["tide"], 1.0, Random(seed)) for seed in range(200)}
    assert {"turns", "rises"} <= seen


@pytest.mark.parametrize("temperature", [5e-324, 1e-9, 0.01, 2.0])
def test_no_temperature_is_too_low_or_too_high(temperature: float) -> None:
    for seed in range(50):
        said = [*story(LEARNED, ["tide"], 60, temperature, Random(seed))]
        assert 0 < len(said) <= 60


def test_a_story_begins_with_a_sentence_that_has_the_rarest_word_that_was_asked_about() -> None:
    for seed in range(20):
        said = [*story(LEARNED, words_of("tell me about the lamp of the gate"), 60, 0.8, Random(seed))]
        first = said[: next((place for place, word in enumerate(said) if word in ENDS), len(said))]
        assert "lamp" in [word.lower() for word in first]
        assert said[0][0].isupper()


def test_a_story_about_nothing_known_begins_with_some_sentence() -> None:
    for words in ([], ["xylophone"], ["tell", "me", "about"], ["."]):
        begun = {next(iter(story(LEARNED, words, 9, 0.8, Random(seed)))) for seed in range(30)}
        assert len(begun) > 1
        assert all(word[0].isupper() for word in begun)


def test_a_story_ends_with_a_sentence_or_at_its_bound() -> None:
    for seed in range(50):
        said = [*story(LEARNED, ["river"], 50, 0.8, Random(seed))]
        assert len(said) <= 50
        assert len(said) == 50 or said[-1] in ENDS
    assert len([*story(LEARNED, ["river"], 1, 0.8, Random(1))]) == 1


def test_the_same_seed_says_the_same_and_another_does_not() -> None:
    assert ask("the tide", seed=7) == ask("the tide", seed=7)
    assert ask("the tide", seed=7)[0] != ask("the tide", seed=8)[0]
    assert ask("the tide", seed=7)[0] != ask("the wind", seed=7)[0]
    assert len({tuple(ask("the tide", seed=None)[0]) for _ in range(5)}) > 1


def test_a_temperature_of_0_is_the_same_for_one_beginning() -> None:
    said: set[Sequence[str]] = {tuple(ask("the moon", temperature=0.0, seed=3)[0]) for _ in range(3)}
    assert len(said) == 1


def test_tokens_are_counted_and_the_reason_for_the_end_is_told() -> None:
    said, metrics = ask("How does the lock work?", max_tokens=3)
    assert (len(said), metrics) == (3, {"input_token_count": 6, "output_token_count": 3, "finish_reason": "length"})
    for seed in range(10):
        said, metrics = ask("the gate", seed=seed)
        assert metrics["output_token_count"] == len(said)
        assert metrics["finish_reason"] == ("stop" if said[-1] in ENDS else "length")


def test_no_client_gets_more_than_there_is_a_bound_for() -> None:
    said, _ = ask("the gate", max_tokens=10**6)
    assert len(said) <= MAX_TOKENS


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "system", "content": "moon"}],
        [{"role": "user", "content": None}],
        [{"role": "user"}, {"role": "assistant", "content": "Yes."}],
        [{"role": "user", "content": [{"type": "text", "text": "the"}, {"type": "text", "text": "tide"}, {}, 3]}],
    ],
)
def test_messages_of_any_shape_are_answered(messages: list[dict[str, Any]]) -> None:
    said, metrics = ask("", messages=messages)
    assert said
    words = [message["content"] for message in messages if isinstance(message.get("content"), str)]
    assert metrics["input_token_count"] == (2 if "text" in json.dumps(messages) else len(words_of(" ".join(words))))


def test_the_last_message_of_the_user_is_what_it_goes_on_from() -> None:
    asked = [{"role": "user", "content": text} for text in ("the ladder", "the lamps")]
    said, _ = ask("", messages=[asked[0], {"role": "assistant", "content": "the book"}, asked[1]])
    assert said == ask("the lamps")[0]


def test_words_come_one_after_another_and_not_at_once() -> None:
    model = Model()
    model.setup()

    async def run() -> bool:
        telling = model.predict([{"role": "user", "content": "tide"}], 20, 0.8, 1, 1000.0)
        await anext(telling)
        second = asyncio.ensure_future(anext(telling))
        await asyncio.sleep(0)
        waits = not second.done()
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        return waits

    assert asyncio.run(run())


def test_it_is_served_as_a_chat_model_that_streams() -> None:
    handler = load("tidegate.demo.ngram:Model")
    assert (handler.kind, handler.takes, handler.slots, handler.streams, handler.array) == (
        "async_generator",
        "messages",
        64,
        True,
        True,
    )
    assert handler.parameters == ("messages", "max_tokens", "temperature", "seed", "delay_ms")
    assert handler.input_schema()["required"] == ["messages"]
