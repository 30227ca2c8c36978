"""Requests to the mock in every dialect, all with the same prompt. For the tests of the mock."""

import json
from typing import Any
from urllib.parse import quote

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from mock_client import PATIENCE_S, Mock, Reply, request, with_mock

from tidegate.mock.sigv4 import ACCESS_KEY, SECRET_KEY

Said = dict[str, Any]

PROMPT = "How do tides work?"
TOOLS = ("get_weather", "get_time", "get_tide")
STREAMED = ("chat", "responses", "messages", "gemini", "gemini_array", "converse", "invoke", "ollama")
WHOLE = ("chat", "responses", "messages", "gemini", "converse", "invoke", "ollama")
SSE = ("chat", "responses", "messages", "gemini")
KEYS = Credentials(ACCESS_KEY, SECRET_KEY)
_SCHEMA: Said = {"type": "object", "properties": {}}


def members(dialect: str, model: str, *, stream: bool) -> Said:
    """Give the members of a request that has three tools."""
    turns = [{"role": "user", "content": PROMPT}]
    functions = [{"name": name, "parameters": _SCHEMA} for name in TOOLS]
    claude = [{"name": name, "input_schema": _SCHEMA} for name in TOOLS]
    match dialect:
        case "chat":
            tools: Any = [{"type": "function", "function": function} for function in functions]
            more = {"stream_options": {"include_usage": True}} if stream else {}
            return {"model": model, "messages": turns, "tools": tools, "stream": stream, **more}
        case "responses":
            tools = [{"type": "function", "strict": False, **function} for function in functions]
            return {"model": model, "input": PROMPT, "tools": tools, "stream": stream}
        case "messages":
            return {"model": model, "messages": turns, "max_tokens": 999, "tools": claude, "stream": stream}
        case "invoke":
            return {"anthropic_version": "bedrock-2023-05-31", "messages": turns, "max_tokens": 999, "tools": claude}
        case "gemini" | "gemini_array":
            contents = [{"role": "user", "parts": [{"text": PROMPT}]}]
            return {"contents": contents, "tools": [{"functionDeclarations": functions}]}
        case "converse":
            tools = [{"toolSpec": {"name": name, "inputSchema": {"json": _SCHEMA}}} for name in TOOLS]
            return {"messages": [{"role": "user", "content": [{"text": PROMPT}]}], "toolConfig": {"tools": tools}}
        case "ollama":
            tools = [{"type": "function", "function": function} for function in functions]
            return {"model": model, "messages": turns, "tools": tools, "stream": stream}
        case "embeddings":
            return {"model": model, "input": [PROMPT, "And why?"]}
        case _:
            return {"model": model, "messages": turns}


def path(dialect: str, model: str, *, stream: bool) -> str:
    """Give the path of a request."""
    named = quote(model, safe="")
    match dialect:
        case "gemini":
            return f"/v1beta/models/{named}:" + ("streamGenerateContent?alt=sse" if stream else "generateContent")
        case "gemini_array":
            return f"/v1beta/models/{named}:streamGenerateContent"
        case "converse":
            return f"/model/{named}/converse" + ("-stream" if stream else "")
        case "invoke":
            return f"/model/{named}/invoke" + ("-with-response-stream" if stream else "")
        case _:
            return _PATHS[dialect]


_PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "count_tokens": "/v1/messages/count_tokens",
    "embeddings": "/v1/embeddings",
    "ollama": "/api/chat",
}


def asking(dialect: str, query: str = "", *, stream: bool = True, version: str = "1.1", **more: Any) -> bytes:
    """Give the bytes of a request in a dialect; those to AWS are signed."""
    model = f"mock?{query}" if query else "mock"
    target = path(dialect, model, stream=stream)
    content = json.dumps(members(dialect, model, stream=stream) | more).encode()
    headers = {"content-type": "application/json"}
    if dialect in {"messages", "count_tokens"}:
        headers["anthropic-version"] = "2023-06-01"
    if dialect in {"converse", "invoke"}:
        signed = AWSRequest("POST", f"http://mock{target}", data=content, headers={"host": "mock"} | headers)
        SigV4Auth(KEYS, "bedrock", "us-east-1").add_auth(signed)
        headers = {name: value for name, value in signed.headers.items() if name.lower() != "host"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return request(content, target, lines, version)


def speak(
    dialect: str, query: str = "", *, stream: bool = True, silence_s: float = PATIENCE_S, seed: int = 0, **more: Any
) -> Reply:
    """Give the reply of a fresh mock to one request in a dialect."""

    async def scenario(mock: Mock) -> Reply:
        peer = await mock.connect()
        return await peer.exchange(asking(dialect, query, stream=stream, **more), silence_s)

    return with_mock(scenario, seed)
