"""Requests of every dialect that ask the same, for the tests of how the mock reads them."""

import base64
import json
from copy import deepcopy
from typing import Any

from tidegate.mock.ask import Ask, Headers
from tidegate.mock.asking.routes import read, route
from tidegate.mock.seal import sealed

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n not much of an image").decode()
VERSION: Headers = [(b"Anthropic-Version", b"2023-06-01")]
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"where": {"type": "string"}}}
MODEL = "mock?ttft=200ms&tokens=3"
QUOTED = "mock%3Fttft%3D200ms%26tokens%3D3"

PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "gemini": f"/v1beta/models/{QUOTED}:streamGenerateContent?alt=sse",
    "converse": f"/model/{QUOTED}/converse-stream",
    "invoke": f"/model/{QUOTED}/invoke-with-response-stream",
    "ollama": "/api/chat",
}
OTHERS = {
    "gemini_array": f"/v1beta/models/{QUOTED}:streamGenerateContent",
    "count_tokens": "/v1/messages/count_tokens",
    "embeddings": "/v1/embeddings",
}


def ask(dialect: str, body: object, headers: Headers = VERSION, path: str = "") -> Ask:
    found = route(b"POST", path or (PATHS | OTHERS)[dialect])
    assert found is not None
    assert found.dialect == dialect
    return read(found, headers, body if isinstance(body, bytes) else json.dumps(body).encode())


def plain(dialect: str) -> dict[str, Any]:
    """Give a system text and a user's text."""
    return BODIES[dialect][0]()


def tooled(dialect: str) -> dict[str, Any]:
    """Give a question with an image, a call and its result."""
    return deepcopy(BODIES[dialect][1]())


def _chat() -> dict[str, Any]:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How high is it?"}]
    return {"model": MODEL, "stream": True, "messages": turns}


def _chat_tools() -> dict[str, Any]:
    body = _chat()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    body["messages"][1]["content"] = [{"type": "text", "text": "How high is it?"}, image]
    call = {"id": "call_1", "type": "function", "function": {"name": "get_tide", "arguments": "{}"}}
    body["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "3 m"},
    ]
    body["tools"] = [{"type": "function", "function": {"name": "get_tide", "parameters": SCHEMA}}]
    body["tool_choice"] = {"type": "function", "function": {"name": "get_tide"}}
    return body


def _responses() -> dict[str, Any]:
    turn = {"role": "user", "content": [{"type": "input_text", "text": "How high is it?"}]}
    return {"model": MODEL, "stream": True, "instructions": "Be brief.", "input": [turn]}


def _responses_tools() -> dict[str, Any]:
    body = _responses()
    body["input"][0]["content"].append({"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"})
    body["input"] += [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed("responses")},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "get_tide", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "3 m"},
    ]
    body["tools"] = [{"type": "function", "name": "get_tide", "parameters": SCHEMA, "strict": False}]
    body["tool_choice"] = {"type": "function", "name": "get_tide"}
    body["include"] = ["reasoning.encrypted_content"]
    return body


def _prompt() -> dict[str, Any]:
    turn = {"role": "user", "content": [{"type": "text", "text": "How high is it?"}]}
    return {"max_tokens": 4000, "system": "Be brief.", "messages": [turn]}


def _prompt_tools() -> dict[str, Any]:
    body = _prompt()
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    body["messages"][0]["content"].append({"type": "image", "source": source})
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": sealed("messages", "Hm.")}
    call = {"type": "tool_use", "id": "call_1", "name": "get_tide", "input": {}}
    body["messages"] += [
        {"role": "assistant", "content": [thinking, call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "3 m"}]},
    ]
    body["tools"] = [{"name": "get_tide", "input_schema": SCHEMA}]
    body["thinking"] = {"type": "enabled", "budget_tokens": 2000}
    return body


def _messages() -> dict[str, Any]:
    return _prompt() | {"model": MODEL, "stream": True}


def _messages_tools() -> dict[str, Any]:
    return _prompt_tools() | {"model": MODEL, "stream": True}


def _invoke() -> dict[str, Any]:
    return _prompt() | {"anthropic_version": "bedrock-2023-05-31"}


def _invoke_tools() -> dict[str, Any]:
    return _prompt_tools() | {"anthropic_version": "bedrock-2023-05-31"}


def _gemini() -> dict[str, Any]:
    return {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [{"role": "user", "parts": [{"text": "How high is it?"}]}],
    }


def _gemini_tools() -> dict[str, Any]:
    body = _gemini()
    body["contents"][0]["parts"].append({"inlineData": {"mimeType": "image/png", "data": PNG}})
    call = {"functionCall": {"name": "get_tide", "args": {}}, "thoughtSignature": sealed("gemini")}
    answer = {"functionResponse": {"name": "get_tide", "response": {"output": "3 m"}}}
    body["contents"] += [{"role": "model", "parts": [call]}, {"role": "user", "parts": [answer]}]
    body["tools"] = [{"functionDeclarations": [{"name": "get_tide", "parameters": SCHEMA}]}]
    body["toolConfig"] = {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["get_tide"]}}
    return body


def _converse() -> dict[str, Any]:
    return {"system": [{"text": "Be brief."}], "messages": [{"role": "user", "content": [{"text": "How high is it?"}]}]}


def _converse_tools() -> dict[str, Any]:
    body = _converse()
    body["messages"][0]["content"].append({"image": {"format": "png", "source": {"bytes": PNG}}})
    told = {"text": "Hm.", "signature": sealed("converse", "Hm.")}
    call = {"toolUse": {"toolUseId": "call_1", "name": "get_tide", "input": {}}}
    result = {"toolResult": {"toolUseId": "call_1", "content": [{"text": "3 m"}], "status": "success"}}
    body["messages"] += [
        {"role": "assistant", "content": [{"reasoningContent": {"reasoningText": told}}, call]},
        {"role": "user", "content": [result]},
    ]
    spec = {"name": "get_tide", "inputSchema": {"json": SCHEMA}}
    body["toolConfig"] = {"tools": [{"toolSpec": spec}], "toolChoice": {"tool": {"name": "get_tide"}}}
    return body


def _ollama() -> dict[str, Any]:
    return _chat()


def _ollama_tools() -> dict[str, Any]:
    body = _chat()
    body["messages"][1]["images"] = [PNG]
    call = {"function": {"name": "get_tide", "arguments": {"where": "Ems"}}}
    body["messages"] += [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "get_tide", "content": "3 m"},
    ]
    body["tools"] = [{"type": "function", "function": {"name": "get_tide", "parameters": SCHEMA}}]
    return body


BODIES = {
    "chat": (_chat, _chat_tools),
    "responses": (_responses, _responses_tools),
    "messages": (_messages, _messages_tools),
    "invoke": (_invoke, _invoke_tools),
    "gemini": (_gemini, _gemini_tools),
    "gemini_array": (_gemini, _gemini_tools),
    "converse": (_converse, _converse_tools),
    "ollama": (_ollama, _ollama_tools),
}
