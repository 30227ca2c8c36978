"""Paths of the providers: which dialect is spoken there, and the reader of its requests.

Any key is taken, in any header or query, and none is needed: only AWS's are signatures, and those are verified (`Route.signed`).
"""

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs, unquote

from msgspec import Struct

from tidegate.mock.ask import Ask, Dialect, Headers
from tidegate.mock.asking import chat, converse, embeddings, gemini, messages, ollama, responses


class Route(Struct, frozen=True):
    """What a path says. Shape: `model` is percent-decoded, "" where the body names it; `stream` is None where the body says it.

    Holds: `signed`: the request needs a signature of AWS, see `sigv4.verify`.
    """

    dialect: Dialect
    model: str = ""
    stream: bool | None = None
    signed: bool = False


_FIXED: Final = {
    "/v1/chat/completions": Route("chat"),
    "/chat/completions": Route("chat"),
    "/v1/responses": Route("responses"),
    "/v1/messages": Route("messages"),
    "/v1/messages/count_tokens": Route("count_tokens", stream=False),
    "/v1/embeddings": Route("embeddings", stream=False),
    "/api/chat": Route("ollama"),
}
_AZURE: Final = re.compile(r"/openai/deployments/([^/]+)/(chat/completions|embeddings)")
_AZURE_RESPONSES: Final = "/openai/responses"
_GEMINI: Final = re.compile(r"/v1(?:beta)?/models/([^/]+):(streamGenerateContent|generateContent)")
_BEDROCK: Final = re.compile(r"/model/([^/]+)/(converse|converse-stream|invoke|invoke-with-response-stream)")


def route(method: bytes, target: str) -> Route | None:
    """Give the route of a request; None where nothing is spoken, or not with this method: all is POST."""
    if method != b"POST":
        return None
    path, _, query = target.partition("?")
    return _FIXED.get(path) or _named(path, query)


def _named(path: str, query: str) -> Route | None:
    """Give the route of a path that names its model."""
    if found := _AZURE.fullmatch(path):
        known = parse_qs(query).get("api-version")
        dialect: Dialect = "chat" if found[2] == "chat/completions" else "embeddings"
        return Route(dialect, unquote(found[1])) if known else None
    if path == _AZURE_RESPONSES:
        return Route("responses") if parse_qs(query).get("api-version") else None
    if found := _GEMINI.fullmatch(path):
        stream = found[2] == "streamGenerateContent"
        array = stream and parse_qs(query).get("alt") != ["sse"]
        return Route("gemini_array" if array else "gemini", unquote(found[1]), stream)
    if found := _BEDROCK.fullmatch(path):
        dialect = "converse" if found[2].startswith("converse") else "invoke"
        return Route(dialect, unquote(found[1]), found[2].endswith("-stream"), signed=True)
    return None


_READERS: Final[dict[Dialect, Callable[[Route, Headers, bytes], Ask]]] = {
    "chat": lambda route, _, body: chat.read_ask(body, route.model),
    "responses": lambda _, __, body: responses.read_ask(body),
    "messages": lambda _, headers, body: messages.read_ask(headers, body),
    "count_tokens": lambda _, headers, body: messages.read_count(headers, body),
    "embeddings": lambda route, _, body: embeddings.read_ask(route.model, body),
    "gemini": lambda route, _, body: gemini.read_ask(route.dialect, route.model, body, stream=bool(route.stream)),
    "gemini_array": lambda route, _, body: gemini.read_ask(route.dialect, route.model, body, stream=True),
    "converse": lambda route, _, body: converse.read_ask(route.model, body, stream=bool(route.stream)),
    "invoke": lambda route, _, body: messages.read_invoke(route.model, body, stream=bool(route.stream)),
    "ollama": lambda _, __, body: ollama.read_ask(body),
}


def read(route: Route, headers: Headers, body: bytes) -> Ask:
    """Give what a request asks for. Errors: BadAsk as the provider refuses it."""
    return _READERS[route.dialect](route, headers, body)
