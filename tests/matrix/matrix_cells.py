"""The matrix, declared: who asks whom for what, and what comes of it. The test runs on it, and docs/matrix.md prints it."""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

ClientName = Literal["chat", "responses", "messages"]
Finish = Literal["stop", "length", "tool_calls", "content_filter"]


class Client(NamedTuple):
    """A dialect that clients speak.

    Shape: `ends` are its words for why an answer is over, `overloaded` and `broken` those for errors;
    `turns` and `display` are its members for the turns, and for whether thoughts are shown.
    """

    name: ClientName
    title: str
    path: str
    ends: dict[Finish, str]
    overloaded: tuple[int, str]
    broken: str
    error_event: str
    turns: str
    display: str = ""


_BROKEN: Final = "The server had an error while processing your request. Sorry about that!"


class Provider(NamedTuple):
    """A dialect that providers speak, and how it differs in what it can say.

    Shape: `passes` are the clients' dialects that are not translated, by `road`; `ids` is how the ids of its calls begin, ''
    where it has none; `signs` is what of a thought it wants back unchanged; `counts` says that it tells the tokens of thoughts, and
    `shows` that it is told whether to show them; `fetches` that it takes an image by its URL. `breaks` are the statuses for which an
    error in a stream stands, and one in a whole answer: 502 where it does not say; `cries` and `code` are what the former says.
    """

    kind: str
    title: str
    base: str
    model: str
    refuses: Literal["refusal", "filter", "blocked", "text"]
    signs: Literal["", "thought", "sealed", "part"]
    overloaded: int
    breaks: tuple[int, int]
    ids: str = ""
    counts: bool = False
    shows: bool = True
    passes: tuple[ClientName, ...] = ()
    road: str = "raw"
    fetches: bool = True
    cries: str = _BROKEN
    code: str = ""


class Subject(NamedTuple):
    """What is asked for. Shape: `script` is what the mock provider is told to do, `tools` how many tools it is offered."""

    name: str
    title: str
    script: str
    tools: int = 0
    thinks: bool = False
    image: Literal["", "data", "url"] = ""
    again: bool = False
    fails: Literal["", "status", "limit", "frame", "mid", "cut"] = ""


CLIENTS: Final = (
    Client(
        name="chat",
        title="Chat Completions",
        path="/v1/chat/completions",
        ends={
            "stop": "stop",
            "length": "length",
            "tool_calls": "tool_calls",
            "content_filter": "content_filter",
        },
        overloaded=(503, "server_error"),
        broken="server_error",
        error_event="error",
        turns="messages",
    ),
    Client(
        name="responses",
        title="Responses",
        path="/v1/responses",
        ends={
            "stop": "completed",
            "length": "incomplete: max_output_tokens",
            "tool_calls": "completed",
            "content_filter": "incomplete: content_filter",
        },
        overloaded=(503, "server_error"),
        broken="server_error",
        error_event="response.failed",
        turns="input",
        display="reasoning.summary",
    ),
    Client(
        name="messages",
        title="Messages",
        path="/v1/messages",
        ends={"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"},
        overloaded=(529, "overloaded_error"),
        broken="api_error",
        error_event="event: error",
        turns="messages",
        display="thinking.display",
    ),
)

_CLAUDE: Final = "anthropic.claude-sonnet-4-20250514-v1:0"

_RESPONSES: Final = Provider(
    kind="openai_responses",
    title="OpenAI Responses",
    base="/v1",
    model="o3-pro",
    refuses="refusal",
    signs="sealed",
    overloaded=503,
    breaks=(500, 500),
    ids="call_",
    code="server_error",
    counts=True,
    passes=("responses",),
)

PROVIDERS: Final = (
    Provider(
        kind="openai",
        title="OpenAI",
        base="/v1",
        model="gpt-5-mini",
        refuses="refusal",
        signs="",
        overloaded=503,
        breaks=(500, 500),
        ids="call_",
        code="server_error",
        counts=True,
        passes=("chat", "responses"),
        shows=False,
    ),
    Provider(
        kind="openai_compatible",
        title="Chat servers",
        base="/v1",
        model="llama-4",
        refuses="refusal",
        signs="",
        overloaded=503,
        breaks=(500, 500),
        ids="call_",
        code="server_error",
        counts=True,
        passes=("chat",),
        shows=False,
    ),
    _RESPONSES,
    Provider(
        kind="anthropic",
        title="Anthropic",
        base="/v1",
        model="claude-sonnet-4-20250514",
        refuses="filter",
        signs="thought",
        overloaded=529,
        breaks=(529, 500),
        ids="toolu_",
        passes=("messages",),
        cries="Overloaded",
    ),
    Provider(
        kind="gemini",
        title="Gemini (SSE)",
        base="/v1beta",
        model="gemini-2.5-flash",
        refuses="blocked",
        signs="part",
        overloaded=503,
        breaks=(503, 500),
        counts=True,
        cries="The model is overloaded. Please try again later.",
    ),
    Provider(
        kind="gemini_array",
        title="Gemini (array)",
        base="/v1beta",
        model="gemini-3-pro-preview",
        refuses="blocked",
        signs="part",
        overloaded=503,
        breaks=(503, 500),
        counts=True,
        cries="The model is overloaded. Please try again later.",
    ),
    Provider(
        kind="bedrock",
        title="Bedrock Converse",
        base="",
        model=f"eu.{_CLAUDE}",
        refuses="filter",
        signs="thought",
        overloaded=503,
        breaks=(500, 502),
        ids="tooluse_",
        fetches=False,
        cries="The model returned the following error: the stream broke.",
    ),
    Provider(
        kind="bedrock_anthropic",
        title="Bedrock Anthropic",
        base="",
        model=f"us.{_CLAUDE}",
        refuses="filter",
        signs="thought",
        overloaded=503,
        breaks=(500, 502),
        ids="toolu_bdrk_",
        passes=("messages",),
        road="spliced",
        fetches=False,
        cries="The model returned the following error: the stream broke.",
    ),
    Provider(
        kind="ollama_native",
        title="Ollama",
        base="",
        model="qwen3:8b",
        refuses="text",
        signs="",
        overloaded=503,
        breaks=(502, 502),
        fetches=False,
        cries="an error was encountered while running the model: unexpected EOF",
    ),
)

SUBJECTS: Final = (
    Subject("text", "text", "tokens=12"),
    Subject("tool", "one tool call, and its result", "tools=1&tokens=8", tools=1, again=True),
    Subject("parallel", "three parallel calls, and their results", "tools=3&tokens=14", tools=3, again=True),
    Subject("no-arguments", "a call without arguments", "tools=1&noargs", tools=1, again=True),
    Subject("reasoning", "reasoning, and a turn after it", "reasoning=6&tokens=7", thinks=True, again=True),
    Subject(
        "reasoned-calls",
        "reasoning that leads to two calls, and their results",
        "reasoning=4&tools=2&tokens=9",
        tools=2,
        thinks=True,
        again=True,
    ),
    Subject("image", "an image as Base64", "tokens=4", image="data"),
    Subject("image-url", "an image by its URL", "tokens=4", image="url"),
    Subject("refusal", "the model refuses", "refusal&tokens=6"),
    Subject("length", "the bound of tokens is reached", "finish=length&tokens=6"),
    Subject("error-first", "overloaded, by status", "status=%d", fails="status"),
    Subject("limit-first", "rate-limited, by status", "status=429", fails="limit"),
    Subject("frame-first", "an error before the first word", "fail=error&tokens=6", fails="frame"),
    Subject("error-mid", "an error after three words", "fail=error&fail_at=3&tokens=6", fails="mid"),
    Subject("truncation", "the body ends after three words", "fail=%s&fail_at=3&tokens=6", fails="cut"),
)


class Cell(NamedTuple):
    """One case: who asks whom for what, in a stream or not."""

    client: Client
    provider: Provider
    subject: Subject
    stream: bool

    def __str__(self) -> str:
        way = "stream" if self.stream else "whole"
        return f"{self.client.name}-{self.provider.kind}-{self.subject.name}-{way}"

    @property
    def script(self) -> str:
        """What the mock is told to do."""
        match self.subject.fails:
            case "status":
                return self.subject.script % self.provider.overloaded
            case "cut":
                # A whole body that is cut says so by its length alone.
                return self.subject.script % ("eof" if self.stream else "truncate")
            case _:
                return self.subject.script

    @property
    def model(self) -> str:
        """The model, here and there."""
        return f"{self.provider.model}?{self.script}"

    @property
    def road(self) -> str:
        """The road that the bytes take."""
        return self.provider.road if self.client.name in self.provider.passes else "translated"

    @property
    def asked(self) -> Provider:
        """The provider as it is asked: one that speaks two dialects is two providers."""
        speaks_both = self.client.name == "responses" and "responses" in self.provider.passes
        return _RESPONSES if speaks_both else self.provider

    @property
    def refused(self) -> str:
        """The client's member by which the gateway refuses the request; '' where it does not, or passes it to one who does."""
        return self.client.turns if self.cannot and self.road == "translated" else ""

    @property
    def cannot(self) -> bool:
        """Whether there is no answer, as the provider cannot be asked for one."""
        return self.subject.image == "url" and not self.provider.fetches

    @property
    def begins(self) -> bool:
        """Whether the client gets an answer, or the beginning of one."""
        if self.cannot or self.subject.fails in {"status", "limit", "frame"}:
            return False
        return self.stream or not self.subject.fails

    @property
    def dropped(self) -> str:
        """The client's member that the provider is not told, and without which the answer is the same; '' where there is none."""
        loses = self.subject.thinks and self.road == "translated" and not self.provider.shows
        return self.client.display if loses else ""

    @property
    def finish(self) -> Finish:
        """Why the answer is over, in words of no dialect."""
        match self.subject.name:
            case "length":
                return "length"
            case "refusal" if self.provider.refuses in {"filter", "blocked"}:
                return "content_filter"
            case _:
                return "tool_calls" if self.subject.tools else "stop"

    @property
    def code(self) -> str:
        """The code in the record."""
        match self.subject.fails:
            case _ if self.cannot:
                return "untranslatable" if self.refused else "upstream_rejected"
            case "status":
                return "upstream_failed"
            case "limit":
                return "upstream_rate_limited"
            case "mid" if self.stream:
                return "upstream_error_frame"
            case "frame" | "mid":
                return "error_frame"
            case "cut":
                return "upstream_truncated"
            case _:
                return "completed"

    @property
    def end(self) -> str:
        """The client's last word: why the answer is over, or how it is told that there is none."""
        if not self.begins:
            status, kind = self.error
            return f"{status} {kind}"
        if self.subject.fails:
            return self.client.error_event
        # A client of Messages has no other word for what the model itself refuses.
        refuses = self.subject.name == "refusal" and self.provider.refuses == "refusal" and not self.says_why
        return self.client.ends["content_filter" if refuses else self.finish]

    @property
    def says_why(self) -> bool:
        """Whether the client is told a refusal apart from what is an answer."""
        return self.provider.refuses == "refusal" and self.client.name != "messages"

    @property
    def error(self) -> tuple[int, str]:
        """The status and the type of an error that comes before any word."""
        if self.cannot:
            return 400, "invalid_request_error"
        passes, status = self.road != "translated", self._status
        if status == 429:
            # Where bytes pass, an error's type is the provider's own.
            return status, "requests" if passes and self.client.name != "messages" else "rate_limit_error"
        if status in {503, 529}:
            known, kind = self.client.overloaded
            return status if passes else known, kind
        return status, self.client.broken

    @property
    def word(self) -> str:
        """The code that a client is told whose stream breaks: the provider's own, should it have one and bytes not pass."""
        own = self.provider.code if self.subject.fails == "mid" and self.road == "translated" else ""
        return own or self.code

    @property
    def message(self) -> str:
        """What the client is told of an error; '' where the gateway says it in words of its own."""
        match self.subject.fails:
            case "status" | "limit":
                return f"The mock was asked to answer {self._status}."
            case "frame" | "mid":
                return self.provider.cries if self.stream else _BROKEN
            case _:
                return ""

    @property
    def _status(self) -> int:
        match self.subject.fails:
            case "status":
                return self.provider.overloaded
            case "limit":
                return 429
            case "cut":
                return 502
            case _:
                return self.provider.breaks[not self.stream]


CELLS: Final = tuple(
    Cell(client, provider, subject, stream)
    for client in CLIENTS
    for provider in PROVIDERS
    for subject in SUBJECTS
    for stream in (True, False)
)


# --- the page --------------------------------------------------------------------------------------------------------

HEAD: Final = """# The matrix: which client can ask which provider for what

Every cell is a case of `tests/matrix/test_matrix.py`: a raw socket in front of a gateway in front of the mock provider, which reads
each dialect as strictly as its provider does. Written by `make docs` from `tests/matrix/matrix_cells.py`; do not edit.

## The road of the bytes

`raw`: untouched. `spliced`: what the two sides' framings or addresses need is changed, the rest passes. `translated`: through events.

"""

RULES: Final = """
## What every cell holds

- The words, thoughts, calls, tokens and the reason for the end are those that the mock says when it is asked directly.
- A stream begins once (`message_start`, `response.created`), and its numbers have no gaps. It ends in the dialect's own last event
  where the provider said all, and in the dialect's error where it did not: never in both, and never in a last event that the
  provider has not earned.
- The ids of calls are those of the provider, or made where it has none. Each is said once; parallel calls come in order, each with its own
  arguments, which are JSON also where there are none.
- Where there is another turn, the client hands back what it was told. The provider accepts it: with the ids of its calls, and with its
  signatures unchanged.
- An image reaches the provider as the same bytes.
- What the provider is not told is listed in `x-tidegate-dropped`, and nothing else is: of all that is asked for here, chat completions alone
  have no word for whether thoughts are shown.
- An error is told with the provider's own message, in the client's envelope, and the record has the code of
  [the table of verdicts](verdicts.md).

## How the client learns the end

The last word of the answer, in the client's dialect. A number is the status of an answer that is an error, with its type; `400 for` a
member is a request that this provider has no word for, refused by the gateway unless bytes pass. `refusal` is where the model's refusal
stands apart from what is an answer. Where a stream ends otherwise than a whole answer, both are said, the stream first.
"""


def page() -> str:
    """Give the text of docs/matrix.md."""
    roads = _table("client", [(client.title, [_road(client, each) for each in PROVIDERS]) for client in CLIENTS])
    parts = [HEAD, roads, RULES]
    for client in CLIENTS:
        rows = [(subject.title, [_end(client, each, subject) for each in PROVIDERS]) for subject in SUBJECTS]
        parts += (f"\n### {client.title}\n\n", _table("asked for", rows))
    return "".join(parts)


def _road(client: Client, provider: Provider) -> str:
    return Cell(client, provider, SUBJECTS[0], stream=True).road


def _end(client: Client, provider: Provider, subject: Subject) -> str:
    cells = [Cell(client, provider, subject, stream) for stream in (True, False)]
    if cells[0].cannot:
        return f"400 for `{client.turns}`" + ("" if cells[0].refused else ", by the provider")
    ends = " / ".join(f"`{end}`" for end in dict.fromkeys(cell.end for cell in cells))
    return f"{ends} and `refusal`" if subject.name == "refusal" and cells[0].says_why else ends


def _table(corner: str, rows: list[tuple[str, list[str]]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in _lines(corner, rows))


def _lines(corner: str, rows: list[tuple[str, list[str]]]) -> Iterator[list[str]]:
    yield [corner, *(provider.title for provider in PROVIDERS)]
    yield ["---"] * (1 + len(PROVIDERS))
    for title, cells in rows:
        yield [title, *cells]
