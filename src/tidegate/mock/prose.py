"""Readable prose without a model: sentences about a harbour, the same for the same seed.

Pure. A token is a word with the white space before it; punctuation belongs to the word it follows.
"""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Final

_TIMES: Final = (
    "at first light", "before the tide turns", "late in the evening", "twice a day", "when the wind drops",
    "on quiet mornings", "after the rain", "by noon", "between two storms", "once the fog has lifted",
    "in the last hour of the night", "long before anyone wakes",
)  # fmt: skip
_SUBJECTS: Final = (
    "the harbour", "a small boat", "the old pilot", "each wave", "the keeper of the light", "the ferry",
    "a line of gulls", "the river", "the gate", "the morning watch", "a patient sailor", "the bell on the pier",
    "the current", "every stream", "the lock at the mouth of the canal", "the cartographer",
)  # fmt: skip
_VERBS: Final = (
    "follows", "remembers", "measures", "waits for", "answers", "gives way to", "meets", "watches over",
    "makes room for", "listens to", "keeps pace with", "carries home",
)  # fmt: skip
_OBJECTS: Final = (
    "the slow water", "whatever the sea brings", "a map drawn by hand", "the next arrival", "the stones of the shore",
    "the promise of open water", "the sound of ropes and pulleys", "a lantern on the far bank", "the turning moon",
    "the weight of the cargo", "the last ship of the season", "the pull of the deep", "a channel that never silts up",
)  # fmt: skip
_TAILS: Final = (
    "without hurry", "as it always has", "and nobody is surprised", "one step at a time", "until the lamps are lit",
    "with the calm of long practice", "so that nothing is lost on the way", "whatever the weather",
)  # fmt: skip
_SENTENCES_A_PARAGRAPH: Final = 5
_FILLING_WORDS: Final = 600


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _sentence(rng: random.Random) -> str:
    subject, verb, thing = rng.choice(_SUBJECTS), rng.choice(_VERBS), rng.choice(_OBJECTS)
    form = rng.randrange(3)
    if form == 0:
        return f"{_upper(rng.choice(_TIMES))}, {subject} {verb} {thing}."
    if form == 1:
        return f"{_upper(subject)} {verb} {thing} {rng.choice(_TAILS)}."
    return f"{_upper(subject)} {verb} {thing}, and {rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {rng.choice(_OBJECTS)}."


def _endless(seed: str) -> Iterator[str]:
    rng = random.Random(seed)  # noqa: S311 (words, not secrets)
    lead = ""
    while True:
        for _ in range(_SENTENCES_A_PARAGRAPH):
            for word in _sentence(rng).split():
                yield lead + word
                lead = " "
        lead = "\n\n"


def tokens(seed: str, count: int) -> list[str]:
    """Give `count` tokens that read as whole sentences: the last one ends with a full stop."""
    words = list(islice(_endless(seed), count))
    if words:
        words[-1] = words[-1].rstrip(".,") + "."
    return words


def filling(seed: str, size_bytes: int) -> tuple[str, int]:
    """Give at least `size_bytes` of prose, led by a space, and how many tokens it is.

    Shape: a passage again and again, so that megabytes cost no more than a page.
    """
    page = " " + "".join(tokens(seed, _FILLING_WORDS)).replace("\n\n", " ")
    times = -(-size_bytes // len(page))
    return page * times, _FILLING_WORDS * times
