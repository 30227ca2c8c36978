"""Answers that are no words: OpenAI's embeddings, and Anthropic's count of tokens. They come in one piece."""

import base64
import random
import struct
from typing import Any, Final

import msgspec

from tidegate.mock import head
from tidegate.mock.speech import chat, errors, messages
from tidegate.mock.speech.frames import Events
from tidegate.mock.speech.speaker import Speaker, Take, stamped_by_id
from tidegate.mock.speech.words import Saying, Vectors, Words

USUAL_DIMENSIONS: Final = 1536


def _no_take(saying: Saying, words: list[Words]) -> Take:
    del saying, words
    return Take()


def _vector(seed: str, dimensions: int) -> bytes:
    """Give a vector of length one. Shape: little-endian numbers in single precision."""
    raw = random.Random(seed).randbytes(2 * dimensions)  # noqa: S311 (numbers, not secrets)
    numbers = struct.unpack(f"<{dimensions}h", raw)
    length = sum(number * number for number in numbers) ** 0.5 or 1.0
    return struct.pack(f"<{dimensions}f", *(number / length for number in numbers))


def _embeddings(saying: Saying, words: list[Words]) -> bytes:
    del words
    asked = saying.vectors or Vectors(0, 0, base64=False)
    dimensions = asked.dimensions or USUAL_DIMENSIONS
    data: list[dict[str, Any]] = []
    for index in range(asked.inputs):
        vector = _vector(f"{saying.seed}/{saying.variety}/{index}", dimensions)
        said: Any = base64.b64encode(vector).decode() if asked.base64 else struct.unpack(f"<{dimensions}f", vector)
        data.append({"object": "embedding", "index": index, "embedding": said})
    answer: dict[str, Any] = {"object": "list", "data": data, "model": saying.model}
    if saying.usage:
        answer["usage"] = {"prompt_tokens": saying.prompt_tokens, "total_tokens": saying.prompt_tokens}
    return msgspec.json.encode(answer)


def _count(saying: Saying, words: list[Words]) -> bytes:
    del words
    return msgspec.json.encode({"input_tokens": saying.prompt_tokens})


EMBEDDINGS: Final = Speaker(
    family="openai",
    error=errors.openai,
    framer=Events,
    take=_no_take,
    whole=_embeddings,
    failure=chat.SPEAKER.failure,
    stamp=stamped_by_id,
    stream_type=head.EVENTS,
    whole_type=head.JSON,
)
COUNT_TOKENS: Final = Speaker(
    family="anthropic",
    error=errors.anthropic,
    framer=Events,
    take=_no_take,
    whole=_count,
    failure=messages.SPEAKER.failure,
    stamp=stamped_by_id,
    stream_type=head.EVENTS,
    whole_type=head.JSON,
)
