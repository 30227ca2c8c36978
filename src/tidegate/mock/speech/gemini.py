"""Google's Gemini: generateContent, and its stream as server-sent events or as one array."""

from typing import Any, Final

import msgspec

from tidegate.mock import head
from tidegate.mock.script import Script
from tidegate.mock.seal import sealed
from tidegate.mock.speech import errors
from tidegate.mock.speech.frames import Array, Events, Frame
from tidegate.mock.speech.speaker import Roll, Speaker, Take, in_turns, stamped_by_id
from tidegate.mock.speech.words import Call, Saying, Words

_FINISH_REASONS: Final = {"": "STOP", "stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
_RATINGS: Final = [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}]
_OVERLOADED: Final = errors.Trouble(503, "The model is overloaded. Please try again later.")

Said = dict[str, Any]


def _finish_reason(script: Script) -> str:
    return "SAFETY" if script.refusal else _FINISH_REASONS[script.finish]


def _usage(saying: Saying, thoughts: int, answer: int) -> Said:
    said: Said = {
        "promptTokenCount": saying.prompt_tokens,
        "candidatesTokenCount": answer,
        "totalTokenCount": saying.prompt_tokens + thoughts + answer,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": saying.prompt_tokens}],
    }
    return said | {"thoughtsTokenCount": thoughts} if thoughts else said


def _response(saying: Saying, candidates: list[Said], thoughts: int, answer: int) -> bytes:
    said: Said = {"candidates": candidates}
    if saying.usage:
        said["usageMetadata"] = _usage(saying, thoughts, answer)
    return msgspec.json.encode(said | {"modelVersion": saying.model, "responseId": errors.ANY_ID.decode()})


def _call(call: Call, seal: Said) -> Said:
    return {"functionCall": {"name": call.name, "args": msgspec.json.decode(call.arguments)}} | seal


def _calls(words: Words) -> list[Said]:
    """Give the parts of calls. Shape: whole; of parallel ones the first is signed, for all of them."""
    seal: Said = {"thoughtSignature": sealed("gemini")} if words.thinking else {}
    return [_call(call, {} if nth else seal) for nth, call in enumerate(words.calls)]


def _last(words: Words) -> Said:
    """Give the part that ends a text: empty but for the signature."""
    seal: Said = {"thoughtSignature": sealed("gemini")} if words.thinking and not words.calls else {}
    return {"text": ""} | seal


# Streams


class _Chunks:
    """Writes chunks. Holds: the tokens so far, which every chunk says."""

    def __init__(self, saying: Saying) -> None:
        self._saying = saying
        self._thoughts = 0
        self._answer = 0

    def part(self, index: int, part: Said, tokens: int) -> Frame:
        """Give a chunk of one part."""
        if part.get("thought"):
            self._thoughts += tokens
        else:
            self._answer += tokens
        return self._chunk({"content": {"parts": [part], "role": "model"}, "index": index})

    def finish(self, index: int, part: Said) -> Frame:
        """Give the last chunk of a candidate; one that was blocked has no content."""
        reason = _finish_reason(self._saying.script)
        if reason == "SAFETY":
            return self._chunk({"finishReason": reason, "safetyRatings": _RATINGS, "index": index})
        content = {"parts": [part], "role": "model"}
        return self._chunk({"content": content, "finishReason": reason, "index": index})

    def _chunk(self, candidate: Said) -> Frame:
        return "", _response(self._saying, [candidate], self._thoughts, self._answer)


def _parts(words: Words) -> list[tuple[Said, int]]:
    """Give the parts of a choice as they are streamed, each with its tokens."""
    thoughts: list[tuple[Said, int]] = [({"text": piece, "thought": True}, 1) for piece in words.thinking]
    if words.calls:
        parts, tokens = _calls(words), [len(call.pieces) for call in words.calls]
    else:
        parts, tokens = [{"text": piece} for piece in words.answer], [1] * len(words.answer)
    if tokens:
        # One part is larger than its pieces tell, when a big frame is asked for.
        tokens[0 if words.calls else len(tokens) // 2] += words.tokens - len(thoughts) - sum(tokens)
    return thoughts + list(zip(parts, tokens, strict=True))


def _take(saying: Saying, words: list[Words]) -> Take:
    roll, chunks, script = Roll(), _Chunks(saying), saying.script
    for _ in range(script.role_only):
        roll.aside(*(chunks.part(index, {"text": ""}, 0) for index in range(saying.choices)))
    roll.open()
    rows = [[(index, part, tokens) for part, tokens in _parts(choice)] for index, choice in enumerate(words)]
    for index, part, tokens in in_turns(rows):
        roll.token(chunks.part(index, part, tokens))
    if not script.nodone:
        roll.aside(*(chunks.finish(index, _last(choice)) for index, choice in enumerate(words)))
    return roll.take()


def _failure(saying: Saying, before: int) -> Frame:
    del saying, before
    return "", msgspec.json.encode(errors.google_error(_OVERLOADED))


# Whole answers


def _candidate(saying: Saying, index: int, words: Words) -> Said:
    reason = _finish_reason(saying.script)
    said: Said = {"finishReason": reason, "index": index}
    if reason == "SAFETY":
        return said | {"safetyRatings": _RATINGS}
    parts: list[Said] = [{"text": words.thought, "thought": True}] if words.thinking else []
    parts += _calls(words) if words.calls else [_last(words) | {"text": words.text}]
    return {"content": {"parts": parts, "role": "model"}} | said


def _whole(saying: Saying, words: list[Words]) -> bytes:
    thoughts = sum(len(choice.thinking) for choice in words)
    candidates = [_candidate(saying, index, choice) for index, choice in enumerate(words)]
    return _response(saying, candidates, thoughts, sum(choice.tokens for choice in words) - thoughts)


EVENTS: Final = Speaker(
    family="google",
    error=errors.google,
    framer=Events,
    take=_take,
    whole=_whole,
    failure=_failure,
    stamp=stamped_by_id,
    stream_type=b"text/event-stream",
    whole_type=head.GOOGLE_JSON,
)
ARRAY: Final = Speaker(
    family="google",
    error=errors.google_array,
    framer=Array,
    take=_take,
    whole=_whole,
    failure=_failure,
    stamp=stamped_by_id,
    stream_type=head.GOOGLE_JSON,
    whole_type=head.GOOGLE_JSON,
    lacks=frozenset({"nospace"}),
)
