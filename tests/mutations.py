"""JSON in which something is not what it was: for whoever reads what others wrote."""

import copy
import random
from collections.abc import Iterator
from typing import Any, Final

ODD: Final[tuple[Any, ...]] = (None, True, 0, -1, 1.5, 1e300, 10**30, "", "x", "\x00", "\ud83c", "data:;base64,", "{", [], {}, [None], [[]], [{}], {"type": "x"}, {"type": None}, {"": {}})  # fmt: skip


def mutated(value: Any, rng: random.Random) -> Any:
    """Give a value of which a few nodes are something else, are gone, or are there twice."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = list(places_in(value)) or [({"": value}, "")]
        holder, key = rng.choice(places)
        match rng.randrange(4):
            case 0:
                del holder[key]
            case 1:
                _, other = rng.choice(places), rng.choice(places)
                holder[key] = copy.deepcopy(other[0])
            case _:
                holder[key] = copy.deepcopy(rng.choice(ODD))
    return value


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Give each place of a value: what holds it, and the key or index there."""
    if not isinstance(value, dict | list):
        return
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        yield from places_in(value[key])
