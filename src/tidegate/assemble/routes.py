"""The hot routes: which path is which route, and what its clients speak."""

from collections.abc import Callable, Mapping
from typing import Final

from tidegate.admission.passage import PREFIX, ROUTE
from tidegate.dialect import ClientDialect, Dialect
from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.anthropic.tokens import CountTokens
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.openai_embeddings import OpenAIEmbeddings
from tidegate.dialect.openai_responses import OpenAIResponses
from tidegate.dialect.prediction import Prediction
from tidegate.exchange import Ask
from tidegate.upstream.kinds import PASSAGE

FALLBACK: Final = OpenAIChat()
"""Speaks where no route has said which dialect the client has."""

_RESPONSES: Final = OpenAIResponses()
_MESSAGES: Final = Anthropic()
_TOKENS: Final = CountTokens()

PATHS: Final[Mapping[str, str]] = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "count_tokens",
    "/v1/embeddings": "embeddings",
}
"""The hot paths, and the names of their routes."""

DIALECTS: Final[Mapping[str, Dialect]] = {
    "chat": FALLBACK,
    "responses": _RESPONSES,
    "messages": _MESSAGES,
    "count_tokens": _TOKENS,
    "embeddings": OpenAIEmbeddings(),
}
"""What clients speak, by the names of the routes."""

PREDICTION: Final = Prediction()

PREFIXES: Final[Mapping[str, str]] = {PREFIX: ROUTE}
"""Beginnings of paths that are hot for every method."""

BY_NAME: Final[Mapping[str, Dialect]] = {dialect.name: dialect for dialect in (*DIALECTS.values(), PASSAGE, PREDICTION)}

TRANSLATED: Final[Mapping[str, ClientDialect]] = {
    dialect.name: dialect for dialect in (FALLBACK, _RESPONSES, _MESSAGES)
}
"""Those whose requests any provider can be asked."""

GUESSES: Final[Mapping[str, Callable[[Ask], bytes]]] = {_TOKENS.name: _TOKENS.estimate}
"""What the gateway answers by itself where the provider cannot."""
