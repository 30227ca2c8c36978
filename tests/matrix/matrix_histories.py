"""What a provider was asked: of a request in its dialect, what the client has shown it and handed back to it."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from matrix_heard import Call, Said, object_of
from msgspec import Struct, field


class Thought(NamedTuple):
    """A thought. Shape: '' where it has no text, or no signature."""

    text: str
    signature: str


class History(Struct):
    """What was handed back. Shape: an image is its media type and its Base64; a result is its call's id and its text."""

    thoughts: list[Thought] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    results: list[tuple[str, str]] = field(default_factory=list)
    images: list[tuple[str, str]] = field(default_factory=list)


def history(kind: str, body: bytes) -> History:
    """Give what a request to a provider of a kind hands back."""
    told = History()
    for turn in _READERS[kind](json.loads(body)):
        told.thoughts += turn.thoughts
        told.calls += turn.calls
        told.results += turn.results
        told.images += turn.images
    return told


def _parts(content: Any) -> list[Said]:
    return content if isinstance(content, list) else []


def _from_url(url: str) -> tuple[str, str]:
    kind, base64, data = url.removeprefix("data:").partition(";base64,")
    return (kind, data) if base64 else ("", url)


def _chat(said: Said) -> Iterator[History]:
    for message in said["messages"]:
        calls = message.get("tool_calls") or ()
        yield History(
            thoughts=[Thought(text, "") for text in [message.get("reasoning_content")] if text],
            calls=[
                Call(call["id"], call["function"]["name"], object_of(call["function"]["arguments"])) for call in calls
            ],
            results=[(message["tool_call_id"], message["content"])] if message["role"] == "tool" else [],
            images=[
                _from_url(part["image_url"]["url"]) for part in _parts(message["content"]) if part["type"] != "text"
            ],
        )


def _responses(said: Said) -> Iterator[History]:
    for item in said["input"]:
        told = History()
        match item.get("type", "message"):
            case "reasoning":
                text = "".join(part["text"] for part in item["summary"])
                told.thoughts.append(Thought(text, item.get("encrypted_content", "")))
            case "function_call":
                told.calls.append(Call(item["call_id"], item["name"], object_of(item["arguments"])))
            case "function_call_output":
                told.results.append((item["call_id"], item["output"]))
            case _:
                images = [part for part in _parts(item["content"]) if part["type"] == "input_image"]
                told.images += [_from_url(part["image_url"]) for part in images]
        yield told


def _messages(said: Said) -> Iterator[History]:
    for block in [block for message in said["messages"] for block in _parts(message["content"])]:
        told = History()
        match block["type"]:
            case "thinking":
                told.thoughts.append(Thought(block["thinking"], block["signature"]))
            case "tool_use":
                told.calls.append(Call(block["id"], block["name"], block["input"]))
            case "tool_result":
                content = block["content"]
                text = content if isinstance(content, str) else "".join(part["text"] for part in content)
                told.results.append((block["tool_use_id"], text))
            case "image":
                source = block["source"]
                told.images.append((source.get("media_type", ""), source.get("data") or source["url"]))
        yield told


def _gemini(said: Said) -> Iterator[History]:
    for part in [part for content in said["contents"] for part in content["parts"]]:
        told, signature = History(), part.get("thoughtSignature", "")
        if signature:
            told.thoughts.append(Thought(part.get("text", ""), signature))
        match part:
            case {"functionCall": call}:
                told.calls.append(Call(call["id"], call["name"], call["args"]))
            case {"functionResponse": given}:
                told.results.append((given["id"], given["response"]["output"]))
            case {"inlineData": data}:
                told.images.append((data["mimeType"], data["data"]))
            case {"fileData": data}:
                told.images.append(("", data["fileUri"]))
        yield told


def _converse(said: Said) -> Iterator[History]:
    for block in [block for message in said["messages"] for block in message["content"]]:
        told = History()
        match block:
            case {"reasoningContent": {"reasoningText": thought}}:
                told.thoughts.append(Thought(thought["text"], thought["signature"]))
            case {"toolUse": call}:
                told.calls.append(Call(call["toolUseId"], call["name"], call["input"]))
            case {"toolResult": given}:
                told.results.append((given["toolUseId"], "".join(part["text"] for part in given["content"])))
            case {"image": image}:
                told.images.append((f"image/{image['format']}", image["source"]["bytes"]))
        yield told


def _ollama(said: Said) -> Iterator[History]:
    for message in said["messages"]:
        calls = message.get("tool_calls", ())
        yield History(
            thoughts=[Thought(message["thinking"], "")] if "thinking" in message else [],
            calls=[Call(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls],
            results=[(message["tool_call_id"], message["content"])] if message["role"] == "tool" else [],
            # It takes images of whatever type they say they are.
            images=[("image/png", data) for data in message.get("images", ())],
        )


_READERS: dict[str, Callable[[Said], Iterator[History]]] = {
    "openai": _chat,
    "openai_compatible": _chat,
    "openai_responses": _responses,
    "anthropic": _messages,
    "gemini": _gemini,
    "gemini_array": _gemini,
    "bedrock": _converse,
    "bedrock_anthropic": _messages,
    "ollama_native": _ollama,
}
