"""The kinds of providers, as rows: dialect × framing × endpoint, and for all rows of a kind how it is signed."""

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct, field

from tidegate.dialect import Dialect, ProviderDialect
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.passage import Passage
from tidegate.upstream.signing import Auth
from tidegate.wire import Framed, FramerOf
from tidegate.wire.sse import SseFramer

SSE: Final = b"text/event-stream"


class Row(Struct, frozen=True):
    """One way to ask a provider.

    Shape: `stream` and `whole` are endpoints, in which `{model}` and `{api_version}` stand for what they say; `media` is how
    the type of a stream begins. `passes` is the dialect whose clients get the bytes as they come; None where nobody speaks it.
    """

    dialect: ProviderDialect
    stream: str
    whole: str
    passes: Dialect | None = None
    framer: Callable[[], FramerOf[Framed]] = SseFramer
    media: bytes = SSE


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
    return Row(dialect, endpoint, endpoint, passes=dialect)


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


_CHAT: Final = "/chat/completions"

KINDS: Final[Mapping[str, Kind]] = {
    "openai": Kind((row(OpenAIChat(), _CHAT),), "https://api.openai.com/v1"),
    "mock": Kind((row(OpenAIChat(), _CHAT),), needs_key=False),
}
