"""One of everything: what docs/translation.md asks the dialects about."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from tidegate.dialect import ProviderDialect
from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.bedrock import BedrockConverse
from tidegate.dialect.conversation import (
    CallPart,
    DocumentPart,
    ImagePart,
    Part,
    RefusalPart,
    ResultPart,
    Schema,
    TextPart,
    ThoughtPart,
    Tool,
    Turn,
)
from tidegate.dialect.gemini import Gemini
from tidegate.dialect.ollama import Ollama
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.openai_responses import OpenAIResponses
from tidegate.wire import Frame, Framed
from tidegate.wire.eventstream import Message, encode

MODELS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "anthropic": (("since 4.6", "claude-opus-4-6"), ("before", "claude-sonnet-4-5")),
    "gemini": (("since 3", "gemini-3-pro"), ("before", "gemini-2.5-flash")),
    "gemini_array": (("since 3", "gemini-3-pro"), ("before", "gemini-2.5-flash")),
    "bedrock": (("Claude since 4.6", "anthropic.claude-opus-4-6"), ("Claude before", "anthropic.claude-3-7-sonnet-20250219-v1:0"), ("others", "amazon.nova-pro-v1:0")),
    "bedrock_anthropic": (("since 4.6", "anthropic.claude-opus-4-6"), ("before", "anthropic.claude-3-7-sonnet-20250219-v1:0")),
}  # fmt: skip
"""Models by kind, where it matters which it is: what they are, and the name of one."""

# --- what clients say ------------------------------------------------------------------------------------------------

_SCHEMA: Final = {"type": "object", "properties": {"a": {"type": "string"}}}
_CHAT_TOOL: Final = {"type": "function", "function": {"name": "tide", "parameters": _SCHEMA}}
_TOOL: Final = {"type": "function", "name": "tide", "parameters": _SCHEMA}

CLIENT_BODIES: Final[Mapping[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "Chat": (
        {"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
        {
            "model": "n", "messages": [{"role": "user", "content": "Ho"}], "audio": {"voice": "ash", "format": "wav"},
            "frequency_penalty": 0.5, "function_call": "auto", "functions": [{"name": "tide"}], "include_reasoning": True,
            "logit_bias": {"1": 2}, "logprobs": True, "max_completion_tokens": 9, "max_tokens": 9, "modalities": ["text", "audio"], "moderation": {"model": "x"},
            "n": 2, "parallel_tool_calls": False, "prediction": {"type": "content", "content": "x"}, "presence_penalty": 0.5,
            "reasoning": {"effort": "low", "max_tokens": 2000, "exclude": True}, "reasoning_effort": "low",
            "response_format": {"type": "json_object"}, "seed": 7, "stop": ["x"], "stream": True,
            "stream_options": {"include_usage": True}, "temperature": 0.5, "thinking": {"type": "enabled", "budget_tokens": 2000},
            "tool_choice": "required", "tools": [_CHAT_TOOL], "top_k": 5, "top_logprobs": 2, "top_p": 0.5, "user": "alice", "verbosity": "low", "web_search_options": {},
        },
    ),
    "Responses": (
        {"model": "m", "input": "Hi"},
        {
            "model": "n", "input": "Ho", "access_programs": ["x"], "background": True, "context_management": [{"type": "compaction"}], "image": {}, "conversation": "conv_1",
            "include": ["file_search_call.results"], "instructions": "Be brief.", "max_output_tokens": 9, "moderation": {"model": "x"},
            "parallel_tool_calls": False,
            "previous_response_id": "resp_1", "prompt": {"id": "p"}, "reasoning": {"effort": "low", "summary": "auto"},
            "stream": True, "temperature": 0.5, "text": {"format": {"type": "json_object"}, "verbosity": "low"},
            "tool_choice": "required", "tools": [_TOOL], "top_logprobs": 2, "top_p": 0.5, "user": "alice",
            "safety_identifier": "alice", "store": True, "max_tool_calls": 3, "stream_options": {"include_obfuscation": False},
            "metadata": {"a": "b"},
        },
    ),
    "Messages": (
        {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]},
        {
            "model": "n", "messages": [{"role": "user", "content": "Ho"}], "max_tokens": 9, "container": "c", "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
            "inference_geo": "eu", "user_profile_id": "x", "workspace_id": "x", "mcp_servers": [{"name": "x"}], "metadata": {"user_id": "alice"},
            "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": _SCHEMA}}, "output_format": {"type": "json_schema"},
            "stop_sequences": ["x"],
            "stream": True, "system": "Be brief.", "temperature": 0.5, "thinking": {"type": "enabled", "budget_tokens": 2000},
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "tools": [{"name": "tide", "input_schema": _SCHEMA}],
            "top_k": 5, "top_p": 0.5, "cache_control": {"type": "ephemeral"},
        },
    ),
}  # fmt: skip
"""For each client, the least that it can ask, and a value for each of its members; what is harmless needs none."""

# --- what providers are told -----------------------------------------------------------------------------------------

_TIDE: Final = (Tool("tide", "Gives the tide.", _SCHEMA),)
_SHOWN: Final = Turn("user", (ImagePart("image/png", "AAEC"),))
_GIVEN: Final = DocumentPart("application/pdf", "AAEC")
_CALLED: Final = (Turn("assistant", (CallPart("call_1", "tide"),)),)

FIELDS: Final[Mapping[str, tuple[dict[str, Any], Any]]] = {
    "stream": ({}, True),
    "tools": ({}, _TIDE),
    "tool_choice": ({"tools": _TIDE}, "required"),
    "tool": ({"tools": _TIDE, "tool_choice": "tool", "tool": "sun"}, "tide"),
    "parallel_tools": ({"tools": _TIDE}, False),
    "format": ({}, Schema(_SCHEMA)),
    "max_tokens": ({}, 7),
    "temperature": ({}, 0.5),
    "top_p": ({}, 0.5),
    "top_k": ({}, 40),
    "stop": ({}, ("x",)),
    "seed": ({}, 7),
    "frequency_penalty": ({}, 0.5),
    "presence_penalty": ({}, 0.5),
    "choices": ({}, 2),
    "logprobs": ({}, 0),
    "logit_bias": ({}, {"1": 2}),
    "effort": ({}, "low"),
    "thinking_tokens": ({}, 2000),
    "shows_thoughts": ({"effort": "low"}, True),
    "verbosity": ({}, "low"),
    "user": ({}, "alice"),
    "any JSON object": ({}, {"format": Schema()}),
    "ImagePart.detail": ({"turns": (_SHOWN,)}, {"turns": (Turn("user", (ImagePart("image/png", "AAEC", detail="low"),)),)}),
    "DocumentPart.name": ({"turns": (Turn("user", (_GIVEN,)),)}, {"turns": (Turn("user", (DocumentPart("application/pdf", "AAEC", name="tide.pdf"),)),)}),
    "Tool.strict": ({"tools": _TIDE}, {"tools": (Tool("tide", "Gives the tide.", _SCHEMA, strict=True),)}),
    "Schema.name": ({"format": Schema(_SCHEMA)}, {"format": Schema(_SCHEMA, "tide")}),
    "Schema.description": ({"format": Schema(_SCHEMA)}, {"format": Schema(_SCHEMA, description="A tide.")}),
    "Schema.strict": ({"format": Schema(_SCHEMA)}, {"format": Schema(_SCHEMA, strict=True)}),
}  # fmt: skip
"""For each field, what goes with it, and a value: the field's, or that of the fields that hold it."""

Saying = Callable[[str], tuple[tuple[Turn, ...], Part]]


def _just(part: Part, *before: Turn) -> Saying:
    return lambda _: (before, part)


CONTENT: Final[Mapping[str, Saying]] = {
    "text": _just(TextPart("Well?")),
    "image, base64": _just(ImagePart("image/png", "AAEC")),
    "image, URL": _just(ImagePart(url="https://example.com/a.png")),
    "PDF, base64": _just(DocumentPart("application/pdf", "AAEC")),
    "PDF, URL": _just(DocumentPart(url="https://example.com/a.pdf")),
    "text file, base64": _just(DocumentPart("text/plain", "aGk=")),
    "thought without a signature": _just(ThoughtPart("Hm.")),
    "thought that this provider signed": lambda name: ((), ThoughtPart("Hm.", "c2ln", origin=name)),
    "thought that another signed": _just(ThoughtPart("Hm.", "c2ln", origin="another")),
    "sealed thought of this provider's": lambda name: ((), ThoughtPart(sealed="c2VhbA==", id="rs_1", origin=name)),
    "sealed thought of another's": _just(ThoughtPart(sealed="c2VhbA==", origin="another")),
    "refusal": _just(RefusalPart("No.")),
    "call": _just(CallPart("call_1", "tide", '{"a":"b"}')),
    "result, text": _just(ResultPart("call_1", (TextPart("6:12"),), "tide"), *_CALLED),
    "result, image": _just(ResultPart("call_1", (ImagePart("image/png", "AAEC"),), "tide"), *_CALLED),
    "result, document": _just(ResultPart("call_1", (_GIVEN,), "tide"), *_CALLED),
}

# --- what providers say ----------------------------------------------------------------------------------------------


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _chat(reason: str = "stop", usage: object = None) -> bytes:
    return _json({"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": reason}], "usage": usage})


def _message(reason: str = "end_turn", usage: object = None) -> bytes:
    return _json(
        {"type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": reason, "usage": usage}
    )


def _response(status: str = "completed", usage: object = None) -> bytes:
    status, _, why = status.partition(": ")
    output = [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}]
    return _json({"object": "response", "status": status, "incomplete_details": {"reason": why} if why else None, "output": output, "usage": usage})  # fmt: skip


def _gemini(reason: str = "STOP", usage: object = None) -> bytes:
    return _json({"candidates": [{"index": 0, "content": {"parts": [{"text": "Hi"}]}, "finishReason": reason}], "usageMetadata": usage})  # fmt: skip


def _converse(reason: str = "end_turn", usage: object = None) -> bytes:
    return _json({"output": {"message": {"content": [{"text": "Hi"}]}}, "stopReason": reason, "usage": usage})


def _ollama(reason: str = "stop", usage: dict[str, int] | None = None) -> bytes:
    return _json({"message": {"content": "Hi"}, "done": True, "done_reason": reason, **(usage or {})})


ANSWERS: Final[Mapping[str, tuple[ProviderDialect, Callable[[str], bytes], tuple[str, ...]]]] = {
    "chat completions": (OpenAIChat(), _chat, ("stop", "length", "tool_calls", "function_call", "content_filter", "eos")),
    "Responses": (OpenAIResponses(), _response, ("completed", "incomplete: max_output_tokens", "incomplete: content_filter")),
    "Anthropic": (Anthropic(), _message, ("end_turn", "stop_sequence", "max_tokens", "model_context_window_exceeded", "tool_use", "refusal", "pause_turn")),
    "Gemini": (Gemini(), _gemini, ("STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "OTHER", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL")),
    "Bedrock": (BedrockConverse(), _converse, ("end_turn", "stop_sequence", "tool_use", "max_tokens", "model_context_window_exceeded", "guardrail_intervened", "content_filtered")),
    "Ollama": (Ollama(), _ollama, ("stop", "length", "load", "unload")),
}  # fmt: skip


def _nested(numbers: Mapping[str, int]) -> dict[str, Any]:
    """Give members whose names have a dot as members of members."""
    members: dict[str, Any] = {}
    for name, number in numbers.items():
        outer, _, inner = name.partition(".")
        if inner:
            members.setdefault(outer, {})[inner] = number
        else:
            members[outer] = number
    return members


USAGE: Final[Mapping[str, tuple[ProviderDialect, Callable[[dict[str, int]], bytes], tuple[str, ...]]]] = {
    "chat completions": (OpenAIChat(), lambda numbers: _chat(usage=_nested(numbers)), ("prompt_tokens", "completion_tokens", "prompt_tokens_details.cached_tokens", "prompt_tokens_details.cache_write_tokens", "completion_tokens_details.reasoning_tokens")),
    "Responses": (OpenAIResponses(), lambda numbers: _response(usage=_nested(numbers)), ("input_tokens", "output_tokens", "input_tokens_details.cached_tokens", "input_tokens_details.cache_write_tokens", "output_tokens_details.reasoning_tokens")),
    "Anthropic": (Anthropic(), lambda numbers: _message(usage=_nested(numbers)), ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens_details.thinking_tokens")),
    "Gemini": (Gemini(), lambda numbers: _gemini(usage=numbers), ("promptTokenCount", "candidatesTokenCount", "cachedContentTokenCount", "toolUsePromptTokenCount", "thoughtsTokenCount")),
    "Bedrock": (BedrockConverse(), lambda numbers: _converse(usage=numbers), ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")),
    "Ollama": (Ollama(), lambda numbers: _ollama(usage=numbers), ("prompt_eval_count", "eval_count")),
}  # fmt: skip


def _sse(value: object) -> Frame:
    return Frame(b"data: " + _json(value) + b"\n\n")


def _exception(word: str) -> Framed:
    return Message(encode({":message-type": "exception", ":exception-type": word}, b'{"message":"no"}'))


STREAMS: Final[Mapping[str, tuple[ProviderDialect, Callable[[str], Framed]]]] = {
    "chat completions": (OpenAIChat(), lambda word: _sse({"error": {"message": "no", "type": word}})),
    "Responses": (OpenAIResponses(), lambda word: _sse({"type": "error", "code": word, "message": "no"})),
    "Anthropic": (Anthropic(), lambda word: _sse({"type": "error", "error": {"type": word, "message": "no"}})),
    "Gemini": (Gemini(), lambda word: _sse({"error": {"status": word, "message": "no"}})),
    "Bedrock": (BedrockConverse(), _exception),
}
ERRORS: Final[Mapping[str, tuple[str, ...]]] = {
    "chat completions": ("invalid_request_error", "authentication_error", "permission_error", "not_found_error", "rate_limit_error", "insufficient_quota", "server_error", "overloaded_error"),
    "Responses": ("invalid_prompt", "rate_limit_exceeded", "server_error"),
    "Anthropic": ("invalid_request_error", "authentication_error", "billing_error", "permission_error", "not_found_error", "request_too_large", "rate_limit_error", "api_error", "timeout_error", "overloaded_error"),
    "Gemini": ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED"),
    "Bedrock": ("validationException", "throttlingException", "modelStreamErrorException", "internalServerException", "serviceUnavailableException"),
}  # fmt: skip
STATUSES: Final = (400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504, 529)
