"""Anthropic's official SDK in front of a gateway: four ways to ask for a message, and what the mock itself says to the same."""

import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from anthropic import Anthropic, AsyncAnthropic, DefaultAsyncHttpxClient, DefaultHttpxClient
from anthropic.types import Message, ToolUseBlock
from openai.types.chat import ChatCompletion
from upstreams import SCRIPTS, Upstreams, openai_direct

from harness import run

PROVIDERS: Final = ("openai", "anthropic", "gemini", "bedrock", "bedrock_anthropic")
"""Kinds of providers, as in the names of models."""
TRANSLATED: Final = ("openai", "gemini", "bedrock")
PASSED: Final = ("anthropic", "bedrock_anthropic")
"""Those that speak the SDK's own dialect."""
_OPTIONS: Final[dict[str, Any]] = {"api_key": "tg-a-key-of-the-sdk", "max_retries": 0, "timeout": 20.0}
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nobody here speaks it, and reading all the world's certificates for each client takes longer than all else."""
PROMPT: Final[list[Any]] = [{"role": "user", "content": "Tell me about the tide."}]
TOOLS: Final[list[Any]] = [
    {
        "name": name,
        "description": f"Says where the {name} is.",
        "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    }
    for name in ("tide", "moon", "wind")
]
PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
THINKING: Final[dict[str, Any]] = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 4096}


@contextmanager
def blocking(url: str, **options: Any) -> Iterator[Anthropic]:
    """Give the blocking client of whatever is at an address."""
    http = DefaultHttpxClient(verify=_NO_TLS)
    with Anthropic(base_url=url, http_client=http, **{**_OPTIONS, **options}) as client:
        yield client


def awaiting(url: str, **options: Any) -> AsyncAnthropic:
    """Give the asynchronous client of whatever is at an address: a context."""
    http = DefaultAsyncHttpxClient(verify=_NO_TLS)
    return AsyncAnthropic(base_url=url, http_client=http, **{**_OPTIONS, **options})


def _defaults(members: Mapping[str, Any]) -> dict[str, Any]:
    return {"max_tokens": 1000, "messages": PROMPT, **members}


def _whole(url: str, members: dict[str, Any]) -> Message:
    with blocking(url) as client:
        message: Message = client.messages.create(**members)
        return message


def _streamed(url: str, members: dict[str, Any]) -> Message:
    with blocking(url) as client, client.messages.stream(**members) as stream:
        return stream.get_final_message()


def _awaited(work: Callable[[AsyncAnthropic], Any], url: str) -> Message:
    said: list[Message] = []

    async def ask() -> None:
        async with awaiting(url) as client:
            said.append(await work(client))

    run(ask)
    return said[0]


def _async_whole(url: str, members: dict[str, Any]) -> Message:
    return _awaited(lambda client: client.messages.create(**members), url)


def _async_streamed(url: str, members: dict[str, Any]) -> Message:
    async def work(client: AsyncAnthropic) -> Message:
        async with client.messages.stream(**members) as stream:
            return await stream.get_final_message()

    return _awaited(work, url)


WAYS: Final[Mapping[str, Callable[[str, dict[str, Any]], Message]]] = {
    "whole": _whole,
    "streamed": _streamed,
    "async whole": _async_whole,
    "async streamed": _async_streamed,
}


def say(served: Upstreams, way: str, model: str, **members: Any) -> Message:
    """Give what the SDK makes of an answer. Errors: the SDK's."""
    return WAYS[way](served.url, _defaults({"model": model, **members}))


def directly(served: Upstreams, script: str, **members: Any) -> ChatCompletion:
    """Give what the mock says to the same in chat: what all its dialects say."""
    with openai_direct(served) as client:
        completion: ChatCompletion = client.chat.completions.create(
            **{"model": f"mock?{SCRIPTS[script]}", "messages": PROMPT, **members}
        )
        return completion


def text_of(message: Message) -> str:
    """Give the text of a message."""
    return "".join(block.text for block in message.content if block.type == "text")


def calls_of(message: Message) -> list[ToolUseBlock]:
    """Give the calls of a message."""
    return [block for block in message.content if block.type == "tool_use"]


def called(completion: ChatCompletion) -> list[tuple[str, Any]]:
    """Give the names and inputs of the calls of a completion."""
    calls = completion.choices[0].message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls if call.type == "function"]


def chat_tools() -> list[Any]:
    """Give the tools as chat has them."""
    return [
        {"type": "function", "function": {"name": tool["name"], "parameters": tool["input_schema"]}} for tool in TOOLS
    ]


def handed_back(message: Message) -> dict[str, Any]:
    """Give a message as the next request has it."""
    return {"role": "assistant", "content": message.content}


def results(message: Message, **members: Any) -> dict[str, Any]:
    """Give the answers to all calls of a message."""
    return {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": call.id, "content": f"The {call.name} is high.", **members}
            for call in calls_of(message)
        ],
    }
