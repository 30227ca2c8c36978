"""A conversation as Ollama is asked. Source: Ollama, "API", "Generate a chat completion"."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import structs

from tidegate.dialect.conversation import (
    DROPPED,
    REFUSED,
    CallPart,
    Conversation,
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
    lost,
    thinking_effort,
)
from tidegate.dialect.values import arguments_of, json_of

_NAME: Final = "ollama"
LACKS: Final[Mapping[str, Loss]] = {
    "tool_choice": REFUSED,
    "tool": REFUSED,
    # At worst the client hears of several calls at once.
    "parallel_tools": DROPPED,
    "choices": REFUSED,
    "logprobs": REFUSED,
    "logit_bias": REFUSED,
    "shows_thoughts": DROPPED,
    "verbosity": DROPPED,
    "user": DROPPED,
    "ImagePart.detail": DROPPED,
    # What went wrong is said in the result's text.
    "ResultPart.failed": DROPPED,
    "Tool.strict": DROPPED,
    "Schema.name": DROPPED,
    "Schema.description": DROPPED,
}
"""What there is no word for. Shape: what it does unasked is not lost: see `_unasked`."""

_OPTIONS: Final = {
    "max_tokens": "num_predict",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
_THINK: Final = {"none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
_NO_PARAMETERS: Final = {"type": "object", "properties": {}}


def written(conversation: Conversation, model: str) -> Written:
    """Write a request. Errors: Untranslatable for what it has no word for."""
    dropped = lost(_unasked(conversation), LACKS, f"a provider that speaks {_NAME}")
    member = conversation.member("turns")
    settings = ((option, getattr(conversation, name)) for name, option in _OPTIONS.items())
    options = {option: value for option, value in settings if value is not None}
    if conversation.stop:
        options["stop"] = conversation.stop
    # Without the member an answer would be a stream.
    body: dict[str, object] = {"model": model, "stream": conversation.stream}
    body["messages"] = [message for turn in conversation.turns for message in _messages(turn, member)]
    if conversation.tools and conversation.tool_choice != "none":
        body["tools"] = [_tool(tool) for tool in conversation.tools]
    if conversation.format is not None:
        body["format"] = _format(conversation.format)
    effort = thinking_effort(conversation)
    if effort:
        body["think"] = _THINK[effort]
    if options:
        body["options"] = options
    return Written(json_of(body), dropped)


def _unasked(conversation: Conversation) -> Conversation:
    """Leave out what Ollama does without a word: it chooses among tools, calls several, and shows what it thinks.

    Shape: a tool that must not be called is not shown.
    """
    return structs.replace(
        conversation,
        tool_choice="" if conversation.tool_choice in {"auto", "none"} else conversation.tool_choice,
        parallel_tools=None if conversation.parallel_tools or not conversation.tools else conversation.parallel_tools,
        shows_thoughts=None if conversation.shows_thoughts else conversation.shows_thoughts,
    )


def _tool(tool: Tool) -> dict[str, object]:
    function: dict[str, object] = {"name": tool.name, "description": tool.description}
    function["parameters"] = _NO_PARAMETERS if tool.parameters is None else tool.parameters
    return {"type": "function", "function": function}


def _format(wanted: Schema) -> object:
    return "json" if wanted.schema is None else wanted.schema


def _messages(turn: Turn, member: str) -> list[dict[str, object]]:
    """Give the messages of a turn: one for each result of a tool, one for the rest."""
    results = [part for part in turn.parts if isinstance(part, ResultPart)]
    rest = [part for part in turn.parts if not isinstance(part, ResultPart)]
    messages = [_result(result, member) for result in results]
    if rest:
        messages.append({"role": turn.role, **_content(rest, member), **_made(rest)})
    return messages


def _result(result: ResultPart, member: str) -> dict[str, object]:
    named = {"tool_name": result.name} if result.name else {}
    return {"role": "tool", **_content(result.parts, member), **named, "tool_call_id": result.id}


def _content(parts: Sequence[Part], member: str) -> dict[str, object]:
    """Give the text and, apart from it, the images. Errors: Untranslatable for what is neither."""
    texts, images = [], []
    for part in parts:
        match part:
            case TextPart(text) | RefusalPart(text):
                texts.append(text)
            case ImagePart(data=data) if data:
                images.append(data)
            case ThoughtPart() | CallPart():
                pass
            case _:
                what = "an image by its URL" if isinstance(part, ImagePart) else "a document"
                raise Untranslatable(
                    member, f"`{member}` has {what}, which a provider that speaks {_NAME} does not take"
                )
    shown = {"images": images} if images else {}
    return {"content": "\n".join(texts), **shown}


def _made(parts: Sequence[Part]) -> dict[str, object]:
    """Give what a model thought, where it can be read by all, and the tools that it called."""
    thoughts = [part.text for part in parts if isinstance(part, ThoughtPart) and part.text and not part.signature]
    calls = [_call(part) for part in parts if isinstance(part, CallPart)]
    thinking: dict[str, object] = {"thinking": "\n".join(thoughts)} if thoughts else {}
    return thinking | ({"tool_calls": calls} if calls else {})


def _call(call: CallPart) -> dict[str, object]:
    return {"id": call.id, "function": {"name": call.name, "arguments": arguments_of(call)}}
