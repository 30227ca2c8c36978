"""A text generator that learns from the texts beside this file which word follows which. It is small, and it is no parrot.

What follows is looked for after the last two words, after the last one, and among all words; at each step the chance is left
that the shorter view decides, and it is the larger the less was seen and the higher the temperature.
Source: H. Ney, U. Essen, R. Kneser, "On structuring probabilistic dependences in stochastic language modelling", 1994, for
the discount that pays for the shorter view.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from tidegate.predict import Input, concurrent, current_scope

ORDER: Final = 3
"""So many words in a row are looked at, the next one included."""
MAX_TOKENS: Final = 2000
"""Of a client that asks for more, no more is said."""
DISCOUNTS: Final = (0.0, 0.02, 0.3)
"""What is taken from each count, at a temperature of 1, by the number of words before it. No temperature takes all."""
ENDING: Final = 0.6
"""From this part of the bound on, the next end of a sentence is the end."""

PARAGRAPH: Final = "\n\n"
ENDS: Final = frozenset(".?!")
_BEFORE: Final = frozenset((*ENDS, PARAGRAPH))

# What questions are made of: nobody asks about these words.
_ASKING: Final = frozenset(
    """
    a about again an and answer any are as at be been but can could describe do does explain for from give had has have how i if in is
    it its like make many may me more most much must my no not of on one or our please question say sentence short should so some story
    talk tell text than thank that the their them then there these they thing think this to two us very was we were what when where
    which who why will with word words would write you your
    """.split()  # noqa: SIM905 (a list would be a screen long)
)

words_of = re.compile(r"\n\n|\w+(?:['-]\w+)*|[^\w\s]").findall

Context = tuple[str, ...]


class Table:
    """How often each word follows each one or two others. Shape: a context of no words has every word."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens
        self._after: dict[Context, Counter[str]] = {}
        self._places: dict[str, list[int]] = {}
        self._starts: list[int] = []
        self._beginnings: list[int] = []
        start = 0
        for place, token in enumerate(tokens):
            if token != PARAGRAPH and (not place or tokens[place - 1] in _BEFORE):
                start = place
                self._beginnings.append(place)
            self._starts.append(start)
            self._places.setdefault(token.lower(), []).append(place)
            for size in range(ORDER):
                if place >= size:
                    self._after.setdefault(tuple(tokens[place - size : place]), Counter())[token] += 1

    def opening(self, asked: Iterable[str], chance: Random) -> Sequence[str]:
        """Give how a sentence begins that has a word of these, up to that word: the rarest one; without one, its first word."""
        known = [word for word in asked if word in self._places and word.isalnum() and word not in _ASKING]
        if known:
            place = chance.choice(self._places[min(known, key=lambda word: len(self._places[word]))])
            return self.tokens[self._starts[place] : place + 1]
        place = chance.choice(self._beginnings)
        return self.tokens[place : place + 1]

    def following(self, said: Sequence[str], temperature: float, chance: Random) -> str:
        """Give a word that may come next. Shape: at a temperature of 0 always the most frequent one."""
        for size in range(min(ORDER - 1, len(said)), 0, -1):
            counts = self._after.get(tuple(said[len(said) - size :]))
            if counts is None:
                continue
            discount = DISCOUNTS[size] * temperature
            if chance.random() * counts.total() >= discount * len(counts):
                return _drawn(counts, discount, temperature, chance)
        return _drawn(self._after[()], 0.0, temperature, chance)


def _drawn(counts: Counter[str], discount: float, temperature: float, chance: Random) -> str:
    """Draw a word by its count. Shape: of words that are equally frequent, the one that was seen first is the most frequent."""
    if temperature == 0.0:
        return max(counts, key=counts.__getitem__)
    most = max(counts.values())
    # Divided by the highest count first: no power of it then is too large for a float.
    weights = [((count - discount) / most) ** (1 / temperature) for count in counts.values()]
    return chance.choices([*counts], weights)[0]


def pieces(tokens: Iterable[str]) -> Iterable[str]:
    """Give tokens as they are printed: words behind a space, but for the first of a text or paragraph."""
    before = PARAGRAPH
    for token in tokens:
        yield token if PARAGRAPH in (before, token) or not token[0].isalnum() else f" {token}"
        before = token


def story(table: Table, asked: Iterable[str], bound: int, temperature: float, chance: Random) -> Iterator[str]:
    """Give a text word by word. Shape: ends with a sentence, or at the bound."""
    said = [*table.opening(asked, chance)][:bound]
    yield from said
    while len(said) < bound and not (said[-1] in ENDS and len(said) >= ENDING * bound):
        said.append(table.following(said, temperature, chance))
        yield said[-1]


def learned() -> Table:
    """Read the texts beside this file, and count."""
    texts = sorted(Path(__file__).parent.glob("*.txt"))
    return Table(words_of(PARAGRAPH.join(path.read_text(encoding="utf-8").strip() for path in texts)))


def _text_of(content: Any) -> str:
    """Give the text of a message. Shape: that of parts is joined, as OpenAI's clients may send them."""
    if isinstance(content, list):
        return " ".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return content if isinstance(content, str) else ""


class Model:
    """Goes on from a word of the last message, where it knows one."""

    def setup(self) -> None:
        """Learn, before the first prediction waits for it."""
        self.table = learned()

    @concurrent(max=64)
    async def predict(
        self,
        messages: list[dict[str, Any]],
        max_tokens: int = Input(default=120, ge=1, description="Words and marks at most; no more than 2000."),
        temperature: float = Input(default=0.8, ge=0, le=2, description="0 says always the same."),
        seed: int | None = Input(default=None, description="The same seed gives the same text."),
        delay_ms: float = Input(default=15, ge=0, le=1000, description="Between two words, in milliseconds."),
    ) -> AsyncIterator[str]:
        """Say it, word by word."""
        asked = [_text_of(message.get("content")) for message in messages]
        last = [text for message, text in zip(messages, asked, strict=True) if message.get("role") == "user"][-1:]
        # The words are part of it, or else all texts of one seed would go the same way.
        chance = Random() if seed is None else Random(f"{seed} {last}")  # noqa: S311 (nothing is secret about it)
        record = current_scope().record_metric
        record("input_token_count", sum(len(words_of(text)) for text in asked))
        words = story(self.table, words_of("".join(last).lower()), min(max_tokens, MAX_TOKENS), temperature, chance)
        said, piece = 0, ""
        for said, piece in enumerate(pieces(words), 1):
            if said > 1:
                await asyncio.sleep(delay_ms / 1000)
            yield piece
        record("output_token_count", said)
        record("finish_reason", "stop" if piece in ENDS else "length")
