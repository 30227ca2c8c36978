"""A conversation as the Responses API is asked. Nothing is kept there: what the next turn needs comes back sealed."""

import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Final

from tidegate.dialect.conversation import (
    DROPPED,
    REFUSED,
    CallPart,
    Conversation,
    DocumentPart,
    ImagePart,
    Loss,
    Part,
    RefusalPart,
    ResultPart,
    Schema,
    TextPart,
    ThoughtPart,
    Tool,
    Turn,
    Untranslatable,
    Written,
    id_of_call,
    lost,
    thinking_effort,
)
from tidegate.dialect.openai_responses.values import NAME
from tidegate.dialect.values import json_of

LACKS: Final[Mapping[str, Loss]] = {
    "top_k": REFUSED,
    "stop": REFUSED,
    "seed": DROPPED,
    "frequency_penalty": REFUSED,
    "presence_penalty": REFUSED,
    "choices": REFUSED,
    "logprobs": REFUSED,
    "logit_bias": REFUSED,
    # What went wrong is said in the result's text.
    "ResultPart.failed": DROPPED,
}
"""What there is no word for. Logprobs are said, but no event carries those that the answer would have."""

_SETTINGS: Final = {
    "max_tokens": "max_output_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "parallel_tools": "parallel_tool_calls",
    "user": "user",
}
_MIN_TOKENS: Final = 16
"""Source: OpenAI, "Create a model response", `max_output_tokens`."""
_FILES: Final = {"application/pdf": "document.pdf", "text/plain": "document.txt"}
"""A file must have a name, and it must end as one of its type does."""

_reasoning_model = re.compile(r"(?:.*/)?(?:o\d|gpt-[5-9](?!.*-chat)|codex|computer-use)", re.IGNORECASE).match
"""Models that think unasked. One that does not think refuses to be asked for what it thought."""


def write_conversation(conversation: Conversation, model: str) -> Written:
    """Write a request. Errors: Untranslatable for what there is no word for."""
    dropped = lost(conversation, LACKS, "a provider that speaks OpenAI's Responses")
    if conversation.max_tokens is not None and conversation.max_tokens < _MIN_TOKENS:
        bound = conversation.member("max_tokens")
        raise Untranslatable(bound, f"`{bound}` must be at least {_MIN_TOKENS} for OpenAI's Responses")
    body: dict[str, object] = {"model": model, "input": [item for turn in conversation.turns for item in _items(turn)]}
    for name, member in _SETTINGS.items():
        value = getattr(conversation, name)
        if value not in (None, ""):
            body[member] = value
    if conversation.stream:
        body["stream"] = True
    if conversation.tools:
        body["tools"] = [_tool(tool) for tool in conversation.tools]
        if conversation.tool_choice:
            chosen = {"type": "function", "name": conversation.tool}
            body["tool_choice"] = chosen if conversation.tool_choice == "tool" else conversation.tool_choice
    text, reasoning = _text(conversation), _reasoning(conversation)
    if text:
        body["text"] = text
    if reasoning:
        body["reasoning"] = reasoning
    body["store"] = False
    if reasoning or _reasoning_model(model):
        body["include"] = ["reasoning.encrypted_content"]
    return Written(json_of(body), dropped)


def _tool(tool: Tool) -> dict[str, object]:
    """Give a tool. Shape: `strict` is said, as here alone it is tried where it is not."""
    described = {"description": tool.description} if tool.description else {}
    return {
        "type": "function",
        "name": tool.name,
        **described,
        "parameters": tool.parameters,
        "strict": tool.strict is True,
    }


def _text(conversation: Conversation) -> dict[str, object]:
    text: dict[str, object] = {}
    if conversation.format is not None:
        text["format"] = _format(conversation.format)
    if conversation.verbosity:
        text["verbosity"] = conversation.verbosity
    return text


def _format(schema: Schema) -> dict[str, object]:
    if schema.schema is None:
        return {"type": "json_object"}
    said = {"description": schema.description or None, "strict": schema.strict}
    return {
        "type": "json_schema",
        "name": schema.name or "answer",
        "schema": schema.schema,
        **{name: value for name, value in said.items() if value is not None},
    }


def _reasoning(conversation: Conversation) -> dict[str, object]:
    effort = thinking_effort(conversation)
    said = {"effort": effort, "summary": "auto" if conversation.shows_thoughts else ""}
    return {name: word for name, word in said.items() if word}


# --- input ---------------------------------------------------------------------------------------------------------


def _items(turn: Turn) -> Iterator[dict[str, object]]:
    """Give the items that say a turn. Shape: neighbouring parts of the same kind are one message, or one thought."""
    for kind, parts in groupby(turn.parts, _kind):
        if kind is CallPart:
            yield from (_call(part) for part in parts if isinstance(part, CallPart))
        elif kind is ResultPart:
            yield from (_result(part) for part in parts if isinstance(part, ResultPart))
        elif kind is ThoughtPart:
            yield from _thoughts(part for part in parts if isinstance(part, ThoughtPart))
        elif turn.role == "assistant":
            yield _answer(tuple(parts))
        else:
            shown = [_shown(part) for part in parts if isinstance(part, (TextPart, ImagePart, DocumentPart))]
            yield {"type": "message", "role": turn.role, "content": shown}


def _kind(part: Part) -> type | None:
    return type(part) if isinstance(part, (CallPart, ResultPart, ThoughtPart)) else None


def _answer(parts: tuple[Part, ...]) -> dict[str, object]:
    """Give what the assistant said. Shape: one text stands alone, as servers know it that know little else."""
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return {"type": "message", "role": "assistant", "content": parts[0].text}
    content = [
        {"type": "refusal", "refusal": part.text}
        if isinstance(part, RefusalPart)
        else {"type": "output_text", "text": part.text, "annotations": []}
        for part in parts
        if isinstance(part, (RefusalPart, TextPart))
    ]
    return {"type": "message", "role": "assistant", "content": content}


def _is_id(given: str) -> bool:
    """Whether OpenAI takes it for the id of a call. Source: its OpenAPI description, `call_id`."""
    return 0 < len(given) <= 64


def _call(part: CallPart) -> dict[str, object]:
    return {
        "type": "function_call",
        "call_id": id_of_call(part.id, _is_id),
        "name": part.name,
        "arguments": part.arguments,
    }


def _result(part: ResultPart) -> dict[str, object]:
    output: object = [_shown(shown) for shown in part.parts]
    if not part.parts:
        output = ""
    elif len(part.parts) == 1 and isinstance(part.parts[0], TextPart):
        output = part.parts[0].text
    return {"type": "function_call_output", "call_id": id_of_call(part.id, _is_id), "output": output}


def _thoughts(parts: Iterator[ThoughtPart]) -> Iterator[dict[str, object]]:
    """Give the thoughts that OpenAI sealed, each with the summary before it. Shape: others say nothing to it, and are left out."""
    summary: list[dict[str, object]] = []
    for part in parts:
        if part.sealed and part.origin == NAME:
            ident = {"id": part.id} if part.id else {}
            yield {"type": "reasoning", **ident, "summary": summary, "encrypted_content": part.sealed}
        if part.text and not part.signature:
            summary.append({"type": "summary_text", "text": part.text})
        else:
            summary = []


def _shown(part: TextPart | ImagePart | DocumentPart) -> dict[str, object]:
    """Give a part of what a user, the system or a tool says."""
    match part:
        case ImagePart(media_type, data, url, detail):
            return {
                "type": "input_image",
                "image_url": url or f"data:{media_type};base64,{data}",
                "detail": detail or "auto",
            }
        case DocumentPart(media_type, data, "", name):
            name = name or _FILES.get(media_type, "document")
            return {"type": "input_file", "filename": name, "file_data": f"data:{media_type};base64,{data}"}
        case DocumentPart(url=url):
            return {"type": "input_file", "file_url": url}
        case _:
            return {"type": "input_text", "text": part.text}
