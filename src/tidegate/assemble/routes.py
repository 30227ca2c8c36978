"""The hot routes: which path is which route, and what its clients speak."""

from collections.abc import Mapping
from typing import Final

from tidegate.admission.passage import PREFIX, ROUTE
from tidegate.dialect import ClientDialect, Dialect
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.upstream.kinds import PASSAGE

FALLBACK: Final = OpenAIChat()
"""Speaks where no route has said which dialect the client has."""

PATHS: Final[Mapping[str, str]] = {
    "/v1/chat/completions": "chat",
}
"""The hot paths, and the names of their routes."""

DIALECTS: Final[Mapping[str, Dialect]] = {
    "chat": FALLBACK,
}
"""What clients speak, by the names of the routes."""

PREFIXES: Final[Mapping[str, str]] = {PREFIX: ROUTE}
"""Beginnings of paths that are hot for every method."""

BY_NAME: Final[Mapping[str, Dialect]] = {dialect.name: dialect for dialect in (*DIALECTS.values(), PASSAGE)}

TRANSLATED: Final[Mapping[str, ClientDialect]] = {dialect.name: dialect for dialect in (FALLBACK,)}
"""Those whose requests any provider can be asked."""
