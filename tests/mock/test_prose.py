"""Prose reads as sentences, counts as asked, and is the same for the same seed."""

import pytest

from tidegate.mock import prose


@pytest.mark.parametrize("count", [0, 1, 2, 34, 500])
def test_there_are_as_many_tokens_as_asked_for(count: int) -> None:
    assert len(prose.tokens("seed", count)) == count


def test_a_token_is_a_word_with_the_space_before_it() -> None:
    first, *others = prose.tokens("seed", 300)
    assert first == first.strip()
    assert all(token[0].isspace() and token.strip() and " " not in token.strip() for token in others)


def test_text_begins_with_a_capital_and_ends_with_a_full_stop() -> None:
    text = "".join(prose.tokens("seed", 123))
    assert text[0].isupper()
    assert text.endswith(".")
    assert "\n\n" in text


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    assert prose.tokens("a", 50) == prose.tokens("a", 50)
    assert prose.tokens("a", 50) != prose.tokens("b", 50)


@pytest.mark.parametrize("size", [1, 4000, 300 * 1024])
def test_filling_is_at_least_as_large_as_asked_and_counts_its_words(size: int) -> None:
    text, words = prose.filling("seed", size)
    assert len(text) >= size
    assert len(text.split()) == words
