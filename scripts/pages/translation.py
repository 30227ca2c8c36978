"""docs/translation.md: what becomes of what clients ask, and of what providers say. Found by asking the dialects, row by row."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import structs

from pages.samples import ANSWERS, CLIENT_BODIES, CONTENT, ERRORS, FIELDS, MODELS, STATUSES, STREAMS, USAGE
from tidegate.dialect import Dialect, ProviderDialect
from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.conversation import (
    CallPart,
    Conversation,
    RefusalPart,
    TextPart,
    ThoughtPart,
    Turn,
    Untranslatable,
)
from tidegate.dialect.events import Done, Event, Failed, Finished, Origin, Started, UsageSeen
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.openai_responses import OpenAIResponses
from tidegate.exchange import Ask, Usage
from tidegate.upstream.kinds import KINDS
from tidegate.verdict import Refused

CLIENTS: Final[Mapping[str, Dialect]] = {
    "Chat": OpenAIChat(),
    "Responses": OpenAIResponses(),
    "Messages": Anthropic(),
}
ASK: Final = Ask(model="m", stream=True, wants_usage=True, body=b"{}")
ORIGIN: Final = Origin("r", "m", 1, "x")
HI: Final = Turn("user", (TextPart("Hi"),))
ELSEWHERE: Final = {"model": "the address, or a member of the same name"}

HEAD: Final = """# Translation: what becomes of every member

Where client and provider speak the same dialect, bytes pass and nothing here applies. Else a request is read into a neutral
conversation and written in the provider's dialect, and so is the answer, by way of neutral events. Every table was made by asking
the dialects themselves; written by `make docs`, do not edit.

- **yes**: it is said in the provider's words.
- **–**: nothing need be said: the address says it, or the provider does so unasked.
- **dropped**: the answer stays what it is without it; the member is listed in `x-tidegate-dropped`.
- **left out**: it means something to its maker alone, so that others are not told; it is not listed.
- **400**: without it the answer would be another. The error is `untranslatable` and names the client's member.
"""

LOST: Final = """## What changes without a note

- System text from the middle of a conversation goes to its beginning where a dialect keeps it apart (Anthropic, Gemini, Bedrock),
  and neighbouring texts may become one.
- A refusal in an earlier turn goes to Anthropic, Gemini, Bedrock and Ollama as the text that it is.
- Images and documents that a tool gave follow, for chat completions, in the user's own message, with the tool's name.
- Anthropic wants a bound on every answer: without one it is 8,192 tokens, and those of the thoughts.
- Efforts become tokens, tokens efforts, where a model knows one of the two alone; `xhigh`, `max` and `minimal` become the nearest word, bounds are moved
  into the provider's range.
- `detail: original` is `high`; a schema is always kept to, also where `strict` is false, by providers that know no other way.
- A file has a name where the provider wants one, made of its type if need be; Bedrock's names lose characters it does not take. A file by its URL
  loses its name in Responses.
- Ids of calls stay as they are, but for Anthropic and Bedrock those that they would refuse, which become others that always stand for them.
- Who asks is told where Messages says it in up to 64 of the characters `A-Z a-z 0-9 _ . @ : -`, else dropped, and listed. What may be cleared of a long request
  (`clear_thinking_*`, `clear_tool_uses_*`) is dropped, and listed; any other edit of one is refused. What is said of a document stands before it, as text.
- Arguments keep their bytes in Chat and Responses; elsewhere they are an object, and keep its members and their order. Those of an
  earlier call that are none, as where it was cut, are the one member `INVALID_JSON` of an object there.
- Marks up to which a prompt is cached, names of speakers, citations and annotations of earlier answers are dropped, and listed.
- Of an answer: log probabilities, citations, audio, what tools of the provider's own did, and safety ratings are not told.
- Which stop sequence was met is told in Messages, where a provider that speaks it says so; otherwise it, like a provider's own word for why it
  filtered, becomes the client's word for it.
"""


def text() -> str:
    """Give the page."""
    parts = [HEAD, "## What clients ask\n"]
    for name, body in CLIENT_BODIES.items():
        parts += [f"### {name}\n", table(("member", "becomes"), members(CLIENTS[name], *body))]
    kinds = columns()
    parts += [
        "## What providers are told\n",
        legend(kinds),
        table(("field", *kinds), rows(kinds, FIELDS, fate_of_field)),
    ]
    parts += ["## Content\n", table(("content", *kinds), rows(kinds, CONTENT, fate_of_content))]
    parts += ["## Why an answer ended\n", "As providers say it:\n", table(("provider", "word", "is"), reasons_read())]
    parts += ["As clients are told:\n", table(("reason", *CLIENTS), reasons_written())]
    parts += ["## Usage\n", "Input is all input, cached or not; output is all output, thoughts included. What comes later replaces what came before.\n"]  # fmt: skip
    parts += [table(("", "input", "output", "cached", "written to a cache", "thoughts"), usage_read())]
    parts += ["What clients are told of 100 tokens in, of them 20 cached and 5 written to a cache, and 40 out, 10 of them thoughts:\n"]  # fmt: skip
    parts += [table(("client", "usage"), usage_written()), "## Errors\n"]
    parts += ["In mid-stream, by the provider's word for it (before, the status is the provider's own):\n"]
    parts += [table(("provider", "word", "counts as"), errors_read()), "Before a stream, by its status:\n"]
    parts += [table(("status", *CLIENTS), errors_written()), LOST]
    return "\n".join(parts)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Give a table."""
    rule = f"|{'---|' * len(head)}\n"
    first, *rest = (f"| {' | '.join(line)} |\n" for line in (head, *lines))
    return "".join((first, rule, *rest))


# --- requests --------------------------------------------------------------------------------------------------------


def members(client: Dialect, bare: dict[str, Any], samples: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Give each member of a client's request, and what it becomes."""
    known = samples | {name: "x" for name in sorted(client.harmless) if name not in samples}
    return [(f"`{name}`", becomes(client, bare, name, known)) for name in known]


def becomes(client: Dialect, bare: dict[str, Any], name: str, samples: dict[str, Any]) -> str:
    """Give the fields of a conversation that change with a member, or that it is dropped or refused."""
    tools = {"tool_choice": "tools", "function_call": "functions"}.get(name)
    more = {tools: samples[tools]} if tools else {}
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    try:
        without = client.read_conversation(json.dumps(bare | more).encode())
        body = json.dumps(bare | more | {name: samples[name]}).encode()
        client.read_request(body)
        found = client.read_conversation(body)
    except (Refused, Untranslatable):
        return "400"
    ignored = {"members", "dropped"}
    changed = [field for field in found.__struct_fields__ if field not in ignored and getattr(found, field) != getattr(without, field)]  # fmt: skip
    if changed:
        return ", ".join(f"`{field}`" for field in changed)
    return "dropped" if set(found.dropped) - set(without.dropped) else "–"


def columns() -> dict[str, list[tuple[str, ProviderDialect, str]]]:
    """Give the kinds of providers, those alike together, with a model of theirs."""
    found: dict[tuple[str, ...], list[tuple[str, ProviderDialect, str]]] = {}
    for kind, row in ((kind, found_kind.rows[0]) for kind, found_kind in KINDS.items()):
        for note, model in MODELS.get(kind, (("", "m"),)):
            one = (f"{kind} {note}".strip(), row.dialect, model)
            fates = [fate_of_field(one, field) for field in FIELDS] + [fate_of_content(one, name) for name in CONTENT]
            found.setdefault(tuple(fates), []).append(one)
    return {alike[0][0]: alike for alike in found.values()}


def legend(kinds: Mapping[str, list[tuple[str, ProviderDialect, str]]]) -> str:
    """Give which kinds stand for others."""
    alike = [f"{name} stands for {', '.join(one[0] for one in ones[1:])} as well" for name, ones in kinds.items() if ones[1:]]  # fmt: skip
    return "; ".join(alike) + ".\n"


def rows(kinds: Mapping[str, list[Any]], names: Iterable[str], fate: Any) -> Iterable[list[str]]:
    """Give a row for each name."""
    return [[f"`{name}`" if name in FIELDS else name, *(fate(ones[0], name) for ones in kinds.values())] for name in names]  # fmt: skip


def fate_of_field(column: tuple[str, ProviderDialect, str], name: str) -> str:
    """Give what becomes of a field."""
    base, value = FIELDS[name]
    bare = Conversation(**{"turns": (HI,), "members": {name: "it"}, **base})
    said = structs.replace(bare, **(value if isinstance(value, dict) and name not in bare.__struct_fields__ else {name: value}))  # fmt: skip
    return fate(column, bare, said, "–")


def fate_of_content(column: tuple[str, ProviderDialect, str], name: str) -> str:
    """Give what becomes of a part."""
    before, part = CONTENT[name](column[1].name)
    role: Literal["user", "assistant"] = (
        "assistant" if isinstance(part, ThoughtPart | CallPart | RefusalPart) else "user"
    )
    turns = (HI, *before)
    with_it = (*turns, Turn(role, (part, TextPart("x"))), *((HI,) if role == "assistant" else ()))
    without = (*turns, Turn(role, (TextPart("x"),)), *((HI,) if role == "assistant" else ()))
    tools = {"tools": FIELDS["tools"][1]}
    return fate(column, Conversation(turns=without, **tools), Conversation(turns=with_it, **tools), "left out")


def fate(column: tuple[str, ProviderDialect, str], bare: Conversation, said: Conversation, nothing: str) -> str:
    """Give what becomes of what one conversation says more than another."""
    _, dialect, model = column
    try:
        without = dialect.write_conversation(bare, model)
        written = dialect.write_conversation(said, model)
    except Untranslatable:
        return "400"
    if set(written.dropped) - set(without.dropped):
        return "dropped"
    return "yes" if written.body != without.body else nothing


# --- answers ---------------------------------------------------------------------------------------------------------


def reasons_read() -> Iterable[tuple[str, str, str]]:
    """Give each provider's words for why an answer ended, and what they are here."""
    for provider, (dialect, body, words) in ANSWERS.items():
        for word in words:
            last = [event for event in dialect.read_answer(body(word)) if isinstance(event, Finished | Failed)][-1]
            yield provider, f"`{word}`", f"`{last.reason}`" if isinstance(last, Finished) else "an error"


def reasons_written() -> Iterable[list[str]]:
    """Give what each client is told for each reason."""
    for reason in ("stop", "length", "tool_calls", "content_filter", "another"):
        yield [f"`{reason}`", *(_ending(client, reason) for client in CLIENTS.values())]


def _ending(client: Dialect, reason: str) -> str:
    answer = json.loads(answered(client, Finished(0, reason)))
    found = [
        *(choice["finish_reason"] for choice in answer.get("choices", ())),
        *(answer[name] for name in ("stop_reason", "status") if name in answer),
        *((answer.get("incomplete_details") or {}).values()),
    ]
    return ", ".join(f"`{word}`" for word in found)


def answered(client: Dialect, *events: Event) -> bytes:
    """Give a whole body that says these events."""
    return client.write_answer([Started("r", "m", 1), *events, Done()], ASK, ORIGIN)


def usage_read() -> Iterable[list[str]]:
    """Give the members of each provider's usage that each count is the sum of: each member counts with a bit of its own."""
    for provider, (dialect, body, names) in USAGE.items():
        numbers = {name: 1 << number for number, name in enumerate(names)}
        read = next(event.usage for event in dialect.read_answer(body(numbers)) if isinstance(event, UsageSeen))
        counts = (read.input_tokens, read.output_tokens, read.cached_tokens, read.cache_write_tokens, read.reasoning_tokens)  # fmt: skip
        yield [provider, *(" + ".join(f"`{name}`" for name, bit in numbers.items() if count & bit) or "not told" for count in counts)]  # fmt: skip


def usage_written() -> Iterable[tuple[str, str]]:
    """Give what each client is told of the same usage."""
    seen = UsageSeen(Usage(100, 40, cached_tokens=20, reasoning_tokens=10, cache_write_tokens=5))
    for name, client in CLIENTS.items():
        usage = json.loads(answered(client, Finished(0, "stop"), seen))["usage"]
        yield name, f"`{json.dumps(usage, separators=(', ', ': '))}`"


def errors_read() -> Iterable[tuple[str, str, str]]:
    """Give each provider's words for an error in mid-stream, and the status that each counts as."""
    for provider, words in ERRORS.items():
        dialect, frame = STREAMS[provider]
        for word in words:
            failed = [event for event in dialect.decoder(ASK).feed(frame(word)) if isinstance(event, Failed)][-1]
            yield provider, f"`{word}`", str(failed.error.status or "a failure without a status")


def errors_written() -> Iterable[list[str]]:
    """Give the status and type that each client gets for each status."""
    for status in STATUSES:
        cells = []
        for client in CLIENTS.values():
            told = client.status(status)
            error = json.loads(client.error_body("code", "why", kind=None, param=None, status=told))["error"]
            cells.append(f"{told} `{error['type']}`")
        yield [str(status), *cells]
