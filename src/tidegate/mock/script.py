"""What one request wants the mock to do: the query grammar of `mock?ttft=200ms&fail=reset`, read into a frozen Script.

Pure: text in, values out. One table drives reading, limits, the messages of mistakes and the help text.
"""

import difflib
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal
from urllib.parse import unquote

import msgspec
from msgspec import Struct

Fail = Literal["", "reset", "eof", "truncate", "error", "garbage", "stall"]
Finish = Literal["", "stop", "length", "content_filter"]

MOST_CALLS: Final = 128
"""Parallel calls of one choice."""
LONGEST_QUERY: Final = 4096
"""Characters that one source (model, user, header) may hold."""


class Script(Struct, frozen=True, kw_only=True):
    """What a request wants. Shape: seconds and bytes; `tokens` is per choice, `events` (0 is unset) replaces it."""

    ttft_s: float = 0.0
    itl_s: float = 0.0
    jitter_s: float = 0.0
    tokens: int = 34
    events: int = 0
    reasoning: int = 0
    role_only: int = 1
    bigframe_bytes: int = 0
    tools: int = 0
    noargs: bool = False
    refusal: bool = False
    finish: Finish = ""
    usage: bool = True
    nodone: bool = False
    fail: Fail = ""
    fail_at: int = 0
    status: int = 0
    retry_after: str = ""
    reject: bool = False
    stall: Literal["", "head"] = ""
    json_error: bool = False
    cut_bytes: int = 0
    drip: bool = False
    crlf: bool = False
    nospace: bool = False
    close: bool = False
    comments_s: float = 0.0


class ScriptError(Exception):
    """A query that cannot be obeyed. Holds: `key` is the mistaken key, for `param` of the error body."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.message = message


Fields = dict[str, Any]
Reader = Callable[[str], Fields | None]


class Knob(Struct, frozen=True):
    """One key: how its value is read (None is a bad value), what is expected, what it does."""

    read: Reader
    expects: str
    meaning: str


_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(us|ms|s|m)?")
_SIZE: Final = re.compile(r"([0-9]{1,9})(B|KB|KiB|MB|MiB)?")
_PLUS_MINUS: Final = re.compile(r"±|\+-|~")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_BYTES: Final = {"B": 1, "KB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2}
_FLAGS: Final = {
    **dict.fromkeys(("", "1", "yes", "true", "on"), True),
    **dict.fromkeys(("0", "no", "false", "off"), False),
}


def _seconds(text: str, most_s: float) -> float | None:
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    seconds = float(match[1]) * _SECONDS[match[2] or "ms"]
    return seconds if seconds <= most_s else None


def _duration(field: str, most_s: float) -> Reader:
    def read(text: str) -> Fields | None:
        seconds = _seconds(text, most_s)
        return None if seconds is None else {field: seconds}

    return read


def _pace(most_s: float) -> Reader:
    def read(text: str) -> Fields | None:
        mean, *spread = _PLUS_MINUS.split(text)
        itl = _seconds(mean, most_s)
        jitter = _seconds(spread[0], most_s) if spread else 0.0
        if itl is None or jitter is None or len(spread) > 1 or jitter > itl:
            return None
        return {"itl_s": itl, "jitter_s": jitter}

    return read


def _number(field: str, least: int, most: int) -> Reader:
    def read(text: str) -> Fields | None:
        if _NUMBER.fullmatch(text) is None or not least <= int(text) <= most:
            return None
        return {field: int(text)}

    return read


def _size(field: str, least: int, most: int) -> Reader:
    def read(text: str) -> Fields | None:
        match = _SIZE.fullmatch(text)
        size = int(match[1]) * _BYTES[match[2] or "B"] if match else -1
        return {field: size} if least <= size <= most else None

    return read


def _flag(field: str) -> Reader:
    def read(text: str) -> Fields | None:
        chosen = _FLAGS.get(text)
        return None if chosen is None else {field: chosen}

    return read


def _number_or_flag(field: str, most: int) -> Reader:
    """Read a number; yes is 1."""
    number = _number(field, 0, most)

    def read(text: str) -> Fields | None:
        chosen = _FLAGS.get(text)
        return number(text) if chosen is None else {field: int(chosen)}

    return read


def _word(field: str, *words: str) -> Reader:
    def read(text: str) -> Fields | None:
        return {field: text} if text in words else None

    return read


def _retry_after(text: str) -> Fields | None:
    return {"retry_after": text} if _NUMBER.fullmatch(text) and int(text) <= 86400 else None


_YES_NO: Final = "yes or no"

KNOBS: Final[dict[str, Knob]] = {
    "ttft": Knob(
        _duration("ttft_s", 600.0),
        "a duration up to 10m",
        "silence before the first token; when itl is set, a random phase of less than one itl is added",
    ),
    "itl": Knob(
        _pace(60.0),
        "a duration up to 60s, with ±jitter (or +-, ~) no larger than itself",
        "time between tokens; 0 sends everything at once",
    ),
    "tokens": Knob(
        _number("tokens", 0, 20_000),
        "0 … 20000",
        "words per choice (34); a chat stream has role_only + reasoning + tokens + 1 finish [+ 1 usage] + [DONE] events",
    ),
    "events": Knob(
        _number("events", 1, 20_000),
        "1 … 20000",
        "instead of tokens: exactly so many events (or elements, lines, messages) in all, those without tokens included",
    ),
    "reasoning": Knob(
        _number("reasoning", 0, 20_000),
        "0 … 20000",
        "thoughts before the answer, a word each, signed where the dialect signs them; they count as tokens",
    ),
    "role_only": Knob(
        _number("role_only", 0, 10_000),
        "0 … 10000",
        "frames without content, sent with the head (1): the role, or what begins an answer; with 0 it comes with the first token",
    ),
    "bigframe": Knob(
        _size("bigframe_bytes", 1, 8 * 1024**2),
        "a size up to 8MiB",
        "the token in the middle becomes one frame with so much text",
    ),
    "tools": Knob(
        _number_or_flag("tools", MOST_CALLS),
        f"yes, no or 0 … {MOST_CALLS}",
        "answer with so many parallel calls of the request's tools (yes: 1), their arguments streamed, in turns where the "
        "dialect allows it",
    ),
    "noargs": Knob(_flag("noargs"), _YES_NO, "the calls of `tools` have no arguments at all"),
    "refusal": Knob(_flag("refusal"), _YES_NO, "the answer is a refusal, in the dialect's own way"),
    "finish": Knob(
        _word("finish", "stop", "length", "content_filter"), "stop, length or content_filter", "the finish reason"
    ),
    "usage": Knob(_flag("usage"), _YES_NO, "no: never say usage, even when asked"),
    "nodone": Knob(
        _flag("nodone"),
        _YES_NO,
        "all tokens, then a clean end of the body without the last event: [DONE], message_stop, response.completed, …",
    ),
    "fail": Knob(
        _word("fail", "reset", "eof", "truncate", "error", "garbage", "stall"),
        "reset, eof, truncate, error, garbage or stall",
        "reset: RST; eof: clean end of the body, no finish, no last event; truncate: connection closed inside the body; "
        "error: the dialect's error frame, then a clean end; garbage: a malformed chunk size; stall: silence on an open connection",
    ),
    "fail_at": Knob(
        _number("fail_at", 0, 40_000),
        "0 … the number of tokens",
        "index of the token before which `fail` happens; 0 (default): after the head and role frames",
    ),
    "status": Knob(_number("status", 300, 599), "300 … 599", "answer with this status and an error object"),
    "retry_after": Knob(_retry_after, "0 … 86400 (seconds)", "Retry-After of that answer"),
    "reject": Knob(_flag("reject"), _YES_NO, "RST before any byte of a response"),
    "stall": Knob(_word("stall", "head"), "head", "never send a response head"),
    "json_error": Knob(_flag("json_error"), _YES_NO, "answer 200 and JSON with an error object"),
    "cut": Knob(_size("cut_bytes", 1, 1024**2), "1 … 1MiB", "write the response in fragments of so many bytes"),
    "drip": Knob(_flag("drip"), _YES_NO, "write one byte a millisecond"),
    "crlf": Knob(_flag("crlf"), _YES_NO, "end lines with CR LF"),
    "nospace": Knob(_flag("nospace"), _YES_NO, "no space after `data:` and `event:`"),
    "close": Knob(_flag("close"), _YES_NO, "neither chunks nor a length: the body ends when the connection does"),
    "comments": Knob(
        _duration("comments_s", 600.0),
        "a duration up to 10m",
        "while silent, a `: ping` comment (in JSON an empty line) every so often",
    ),
}


def parse(model: str, user: str = "", header: str = "") -> Script:
    """Give the script that model name, `user` member and `x-mock` header ask for; later ones win.

    Errors: ScriptError for an unknown key, a bad value or a contradiction.
    """
    said: dict[str, str] = {}
    for source, text in (("model", _after(model)), ("user", _of_user(user)), ("x-mock", _of_header(header))):
        for key, value in _pairs(source, text):
            # Both say how long a stream is: a later source must be able to replace the other's word.
            said.pop({"events": "tokens", "tokens": "events"}.get(key, ""), None)
            said[key] = value
    fields: Fields = {}
    for key, value in said.items():
        read = KNOBS[key].read(value)
        if read is None:
            raise ScriptError(key, f"`{key}` must be {KNOBS[key].expects}.")
        fields.update(read)
    _check(said, script := msgspec.convert(fields, Script))
    return script


def describe() -> str:
    """Give the help text: every key in a line of its own."""
    return "\n".join(f"{key:<12} {knob.meaning} ({knob.expects})" for key, knob in KNOBS.items())


def _after(text: str) -> str:
    return text.partition("?")[2]


def _of_user(text: str) -> str:
    # Most user members are plain names; only what looks like a query is one.
    if text.startswith("mock?"):
        return _after(text)
    return text if "=" in text else ""


def _of_header(text: str) -> str:
    return _after(text) if text.startswith("mock?") else text


def _pairs(source: str, text: str) -> Iterator[tuple[str, str]]:
    if len(text) > LONGEST_QUERY:
        raise ScriptError(source, f"The mock's query in `{source}` is longer than {LONGEST_QUERY} characters.")
    for part in filter(None, text.split("&")):
        key, _, value = part.partition("=")
        key = unquote(key).strip()
        if key not in KNOBS:
            raise ScriptError(key[:40], _unknown(key[:40]))
        yield key, unquote(value).strip()


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, KNOBS, n=1)
    hint = f"Did you mean `{near[0]}`?" if near else f"Known keys: {', '.join(KNOBS)}."
    return f"The mock knows no key `{key}`. {hint}"


def _check(said: dict[str, str], script: Script) -> None:
    needs = {"fail_at": bool(script.fail), "retry_after": bool(script.status)}
    for key, met in needs.items():
        if key in said and not met:
            raise ScriptError(key, f"`{key}` needs `{'fail' if key == 'fail_at' else 'status'}`.")
    if script.fail == "garbage" and script.close:
        raise ScriptError("fail", "`fail=garbage` spoils a chunk size; with `close` there are no chunks.")
    if script.tokens < script.tools and not script.noargs:
        raise ScriptError("tokens", "`tools` needs at least one token a call.")
    for key in ("noargs", "refusal"):
        if getattr(script, key) and bool(script.tools) != (key == "noargs"):
            raise ScriptError(key, f"`{key}` {'needs' if key == 'noargs' else 'forbids'} `tools`.")
    if script.reasoning + script.tokens > 20_000:
        raise ScriptError("reasoning", "`reasoning` and `tokens` together may be at most 20000.")
