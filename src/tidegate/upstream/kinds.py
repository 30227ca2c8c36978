"""The kinds of providers, as rows: dialect × framing × endpoint, and for all rows of a kind how it is signed."""

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct, field

from tidegate.dialect import Dialect, ProviderDialect
from tidegate.dialect.anthropic import Anthropic, AnthropicOnBedrock
from tidegate.dialect.anthropic.betas import with_betas
from tidegate.dialect.anthropic.tokens import CountTokens
from tidegate.dialect.bedrock import BedrockConverse, InvokeFramer
from tidegate.dialect.conversation import Written
from tidegate.dialect.gemini import Gemini
from tidegate.dialect.ollama import Ollama
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.openai_embeddings import OpenAIEmbeddings
from tidegate.dialect.openai_responses import OpenAIResponses
from tidegate.dialect.passage import Passage
from tidegate.upstream.compatible import SERVERS, Server
from tidegate.upstream.signing import Auth
from tidegate.upstream.sigv4 import missing_extra
from tidegate.wire import Framed, FramerOf
from tidegate.wire.eventstream import EventStreamFramer
from tidegate.wire.jsonarray import JsonArrayFramer
from tidegate.wire.ndjson import NdjsonFramer
from tidegate.wire.sse import SseFramer

SSE: Final = b"text/event-stream"


class Row(Struct, frozen=True):
    """One way to ask a provider.

    Shape: `stream` and `whole` are endpoints, in which `{model}` and `{api_version}` stand for what they say; `media` is how
    the type of a stream begins. `passes` is the dialect whose clients get the bytes as they come; None where nobody speaks it;
    `lifts` puts into such a client's body, for a model, what it says in headers.
    """

    dialect: ProviderDialect
    stream: str
    whole: str
    passes: Dialect | None
    framer: Callable[[], FramerOf[Framed]] = SseFramer
    media: bytes = SSE
    lifts: Callable[[bytes, str, Mapping[bytes, bytes]], Written] | None = None


class Kind(Struct, frozen=True):
    """What is common to all providers of one kind.

    Shape: the first row is asked in translation, each by clients of the dialect that it passes. `listing` is empty where
    models cannot be asked for; `headers` are sent unless the client or the configuration sends its own. `needs` are settings
    without which nothing works; `missing_extra` gives the line to type where a package is missing.
    """

    rows: tuple[Row, ...]
    base_url: str = ""
    auth: Auth = "bearer"
    needs_key: bool = True
    listing: str = "/models"
    headers: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    missing_extra: Callable[[], str] = str


def row(dialect: Dialect, endpoint: str) -> Row:
    """Give a row that clients speak as well: server-sent events, asked for at the same place as whole answers."""
    return Row(dialect, endpoint, endpoint, dialect)


PASSAGE: Final = Passage()
_PASSED: Final = row(PASSAGE, "")
"""What passes unread goes where its client says."""


def road(kind: Kind, dialect: str) -> tuple[Row, Dialect | None]:
    """Give the row for a client's dialect, and the dialect in which bytes pass; None where they are translated."""
    if dialect == PASSAGE.name:
        return _PASSED, PASSAGE
    for found in kind.rows:
        if found.passes is not None and found.passes.name == dialect:
            return found, found.passes
    return kind.rows[0], None


LOCAL: Final = Kind((), needs_key=False, listing="", needs=("local.handler",))
"""A model in our own processes: nobody is asked over the network."""


def kind_of(name: str) -> Kind:
    """Give a kind by its name."""
    return LOCAL if name == "local" else KINDS[name]


_CHAT: Final = row(OpenAIChat(), "/chat/completions")
_RESPONSES: Final = row(OpenAIResponses(), "/responses")
_EMBEDDINGS: Final = row(OpenAIEmbeddings(), "/embeddings")
_MESSAGES: Final = row(Anthropic(), "/messages")
_TOKENS: Final = row(CountTokens(), "/messages/count_tokens")
_AZURE: Final = "/deployments/{model}%s?api-version={api_version}"
_GOOGLE: Final = "https://generativelanguage.googleapis.com/v1beta"
_BEDROCK: Final = "https://bedrock-runtime.{region}.amazonaws.com"
_MODEL: Final = "/model/{model}"
_AMAZON: Final = b"application/vnd.amazon.eventstream"


def _compatible(server: Server) -> Kind:
    """Give the kind of a server that speaks chat completions in its own way."""
    rows = (row(server.dialect, "/chat/completions"), _EMBEDDINGS)
    needs = () if server.base_url else ("base_url",)
    return Kind(rows, server.base_url, needs_key=server.needs_key, needs=needs)


def _google(stream: str, framer: Callable[[], FramerOf[Framed]], media: bytes, auth: Auth) -> Kind:
    rows = (Row(Gemini(), f"/models/{{model}}:{stream}", "/models/{model}:generateContent", None, framer, media),)
    return Kind(rows, _GOOGLE, auth)


def _amazon(*rows: Row) -> Kind:
    return Kind(rows, _BEDROCK, "aws", needs_key=False, listing="", needs=("aws.region",), missing_extra=missing_extra)


KINDS: Final[Mapping[str, Kind]] = {
    "openai": Kind((_CHAT, _RESPONSES, _EMBEDDINGS), "https://api.openai.com/v1"),
    # For models that answer there alone: clients of the other dialects are translated to it.
    "openai_responses": Kind((_RESPONSES, _EMBEDDINGS), "https://api.openai.com/v1"),
    "azure": Kind(
        (
            row(OpenAIChat(), _AZURE % "/chat/completions"),
            row(OpenAIResponses(), "/responses?api-version={api_version}"),
            row(OpenAIEmbeddings(), _AZURE % "/embeddings"),
        ),
        auth="api-key",
        listing="",
        needs=("base_url", "api_version"),
    ),
    "mock": Kind((_CHAT, _EMBEDDINGS), needs_key=False),
    **{name: _compatible(server) for name, server in SERVERS.items()},
    "anthropic": Kind(
        (_MESSAGES, _TOKENS),
        "https://api.anthropic.com/v1",
        "x-api-key",
        headers={"anthropic-version": "2023-06-01"},
    ),
    "gemini": _google("streamGenerateContent?alt=sse", SseFramer, SSE, "x-goog-api-key"),
    "gemini_array": _google("streamGenerateContent", JsonArrayFramer, b"application/json", "query"),
    "bedrock": _amazon(
        Row(BedrockConverse(), f"{_MODEL}/converse-stream", f"{_MODEL}/converse", None, EventStreamFramer, _AMAZON)
    ),
    "bedrock_anthropic": _amazon(
        Row(
            AnthropicOnBedrock(),
            f"{_MODEL}/invoke-with-response-stream",
            f"{_MODEL}/invoke",
            AnthropicOnBedrock(),
            InvokeFramer,
            _AMAZON,
            with_betas,
        )
    ),
    "ollama_native": Kind(
        (Row(Ollama(), "/api/chat", "/api/chat", None, NdjsonFramer, b"application/x-ndjson"),),
        "http://127.0.0.1:11434",
        needs_key=False,
        listing="/api/tags",
    ),
}
