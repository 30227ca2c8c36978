"""What any client asks, in words of no family: the pivot between requests, as the events are between answers.

A client's dialect reads its body into a Conversation, a provider's dialect writes one. What a Conversation cannot say is
not translated: it is dropped and listed where the answer stays the same without it, and refused where it would not.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, Literal

from msgspec import Struct, field

OWN: Final = ""
"""The origin of what the client's own dialect has signed."""


class TextPart(Struct, frozen=True):
    """A piece of text."""

    text: str


class ImagePart(Struct, frozen=True):
    """An image. Shape: `data` is base64 and has a `media_type`, or there is a `url`; `detail` is low, high, auto or ''."""

    media_type: str = ""
    data: str = ""
    url: str = ""
    detail: str = ""


class DocumentPart(Struct, frozen=True):
    """A file that the model reads. Shape: `data` is base64 and has a `media_type`, or there is a `url`."""

    media_type: str = ""
    data: str = ""
    url: str = ""
    name: str = ""


class RefusalPart(Struct, frozen=True):
    """Why the model did not answer."""

    text: str


class ThoughtPart(Struct, frozen=True):
    """What the model thought in an earlier turn.

    Shape: `signature` proves `text`; `sealed` is a thought that its provider alone can read, without text. `origin` is the
    name of the dialect whose provider signed or sealed it: to any other it says nothing.
    """

    text: str = ""
    signature: str = ""
    sealed: str = ""
    id: str = ""
    origin: str = OWN


class CallPart(Struct, frozen=True):
    """A call of a tool.

    Shape: `arguments` is the JSON of an object, or what the model said instead, as it came; never empty. `signature` and
    `origin` are as of a thought.
    """

    id: str
    name: str
    arguments: str = "{}"
    signature: str = ""
    origin: str = OWN


class ResultPart(Struct, frozen=True):
    """What a tool gave. Shape: `id` is that of its call, `name` the tool's where it is known; `failed` says that it is an error."""

    id: str
    parts: tuple[TextPart | ImagePart | DocumentPart, ...] = ()
    name: str = ""
    failed: bool = False


Part = TextPart | ImagePart | DocumentPart | RefusalPart | ThoughtPart | CallPart | ResultPart


class Turn(Struct, frozen=True):
    """What one side said. Shape: results stand in a user's turn, and before its other parts; thoughts, calls, refusals in an assistant's.

    No two turns of the same role follow each other, and none is empty.
    """

    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]


class Tool(Struct, frozen=True):
    """A function that the model may call. Shape: `parameters` is a JSON schema; None where there is none."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Schema(Struct, frozen=True):
    """What the answer must be like. Shape: `schema` None is any JSON object."""

    schema: dict[str, Any] | None = None
    name: str = ""
    description: str = ""
    strict: bool | None = None


class Conversation(Struct, frozen=True, kw_only=True):
    """A whole request.

    Shape: None, '' and () are "not said". `effort` is none, minimal, low, medium, high or xhigh; `thinking_tokens` bounds
    the thoughts (0 is none at all); `shows_thoughts` asks for a readable form of them. `tool_choice` names a tool in `tool` where it is
    `tool`. `members` gives, by the name of a field here, or of a field of what is in it ("ImagePart.detail"), the client's own
    name for it; `dropped` are members of the client's request that nobody needs to hear.
    """

    turns: tuple[Turn, ...]
    stream: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: Literal["", "auto", "none", "required", "tool"] = ""
    tool: str = ""
    parallel_tools: bool | None = None
    format: Schema | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    choices: int = 1
    logprobs: int | None = None
    logit_bias: dict[str, Any] | None = None
    effort: str = ""
    thinking_tokens: int | None = None
    shows_thoughts: bool | None = None
    verbosity: str = ""
    user: str = ""
    members: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    def member(self, name: str) -> str:
        """Give the client's name for a field."""
        return self.members.get(name, name)


class Loss(Struct, frozen=True):
    """What becomes of a field that a dialect has no word for. Shape: `harmless` ones are dropped, others are refused."""

    harmless: bool


DROPPED: Final = Loss(harmless=True)
REFUSED: Final = Loss(harmless=False)


class Untranslatable(Exception):  # noqa: N818 (a word of its own: no mistake of anybody's)
    """What the client asks cannot be said to this provider. Holds: `param` is the client's member."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param
        self.message = message


class Written(Struct, frozen=True):
    """A request in a provider's dialect. Shape: `dropped` lists the client's members that are not in it."""

    body: bytes
    dropped: tuple[str, ...] = ()


_UNSAID: Final[Mapping[str, object]] = dict(
    zip(reversed(Conversation.__struct_fields__), reversed(Conversation.__struct_defaults__), strict=False)
)


_USUAL: Final[Mapping[str, object]] = {
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "logit_bias": {},
    "parallel_tools": True,
    "ImagePart.detail": "auto",
}
"""What some clients say of which everybody takes the same for granted."""


def lost(conversation: Conversation, lacks: Mapping[str, Loss], whom: str) -> tuple[str, ...]:
    """Give the client's members that are dropped. Errors: Untranslatable for one that must not be, and cannot be said to `whom`."""
    dropped = list(conversation.dropped)
    for name, loss in lacks.items():
        if not _says(conversation, name):
            continue
        member = conversation.member(name)
        if not loss.harmless:
            raise Untranslatable(member, f"`{member}` cannot be said to {whom}")
        dropped.append(member)
    return tuple(dict.fromkeys(dropped))


def _says(conversation: Conversation, name: str) -> bool:
    """Whether a field says anything, or a field of anything in the conversation does."""
    kind, _, field = name.rpartition(".")
    if not kind:
        return getattr(conversation, name) not in (_UNSAID[name], _USUAL.get(name, _UNSAID[name]))
    details = (getattr(one, field) for one in _contents(conversation) if type(one).__name__ == kind)
    return any(detail and detail != _USUAL.get(name) for detail in details)


def _contents(conversation: Conversation) -> Iterator[Struct]:
    """Give what has fields of its own: parts, those in results of tools, tools, the form of the answer."""
    for turn in conversation.turns:
        for part in turn.parts:
            yield part
            if isinstance(part, ResultPart):
                yield from part.parts
    yield from conversation.tools
    if conversation.format is not None:
        yield conversation.format


def leading(turns: tuple[Turn, ...]) -> tuple[str, tuple[Turn, ...]]:
    """Give all system text as one, and the other turns, for dialects in which it stands apart.

    Shape: system text from the middle goes to the beginning, as Anthropic's own compatibility layer does it.
    """
    texts = [part.text for turn in turns if turn.role == "system" for part in turn.parts if isinstance(part, TextPart)]
    return "\n\n".join(texts), merged(tuple(turn for turn in turns if turn.role != "system"))


def merged(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """Give turns of which no two of the same role follow each other, and none is empty. Shape: results come first."""
    out: list[Turn] = []
    for role, run in groupby((turn for turn in turns if turn.parts), key=attrgetter("role")):
        parts = [part for turn in run for part in turn.parts]
        out.append(Turn(role, tuple(sorted(parts, key=_is_no_result))))
    return tuple(out)


def _is_no_result(part: Part) -> bool:
    return not isinstance(part, ResultPart)


def id_of_call(given: str, fits: Callable[[str], object]) -> str:
    """Give the id of a call as it is, or, where the provider would refuse it, one that always stands for it."""
    return given if fits(given) else "call_" + sha256(given.encode(errors="surrogatepass")).hexdigest()[:40]


_BUDGETS: Final = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 32768}
"""Source: Google, "OpenAI compatibility", for the mapping of efforts to tokens of thought; xhigh is ours."""


def thinking_budget(conversation: Conversation) -> int | None:
    """Give the tokens that may be thought, by the bound given or else by the effort; None where neither is said."""
    if conversation.thinking_tokens is not None:
        return conversation.thinking_tokens
    return _BUDGETS.get(conversation.effort)


def thinking_effort(conversation: Conversation) -> str:
    """Give the effort, by the word given or else by the bound; '' where neither is said."""
    tokens = conversation.thinking_tokens
    if conversation.effort or tokens is None:
        return conversation.effort
    if tokens <= 0:
        return "none"
    return next(word for word in ("low", "medium", "high", "xhigh") if tokens <= _BUDGETS[word] or word == "xhigh")
