"""A client of Chat Completions: what it asks, and how it reads the answer."""

import json
from typing import Any

from matrix_heard import Call, Heard, Said, Tokens, Wrong, events, object_of


def request(model: str, *, stream: bool, tools: list[Said], thinks: bool) -> Said:
    """Give the members of a request without its turns."""
    functions = [{"type": "function", "function": tool} for tool in tools]
    said: Said = {"model": model, "stream": stream, "tools": functions}
    if stream:
        said["stream_options"] = {"include_usage": True}
    if thinks:
        said["reasoning_effort"] = "medium"
    return {name: value for name, value in said.items() if value != []}


def user(text: str, image: str = "") -> list[Any]:
    """Give a user's turn."""
    if not image:
        return [{"role": "user", "content": text}]
    shown = {"type": "image_url", "image_url": {"url": image}}
    return [{"role": "user", "content": [{"type": "text", "text": text}, shown]}]


def results(calls: list[tuple[str, str]]) -> list[Any]:
    """Give what the tools gave."""
    return [{"role": "tool", "tool_call_id": ident, "content": text} for ident, text in calls]


def with_turns(request: Said, turns: list[Any]) -> Said:
    """Give a whole request."""
    return request | {"messages": turns}


def read_whole(body: bytes) -> Heard:
    """Read a whole answer."""
    said = json.loads(body)
    if "error" in said:
        return Heard(error=error_of(said))
    assert said["object"] == "chat.completion"
    assert said["id"]
    (choice,) = said["choices"]
    assert choice["index"] == 0
    assert choice["message"]["role"] == "assistant"
    heard = _heard(choice["message"])
    heard.end = choice["finish_reason"]
    heard.tokens = _tokens(said["usage"])
    heard.ended = True
    return heard


def read_stream(body: bytes) -> Heard:
    """Read a stream."""
    reading = _Reading()
    for name, data in events(body):
        assert not name
        assert not reading.over
        reading.take(data)
    heard = _heard(reading.message())
    heard.end, heard.tokens = reading.end, reading.tokens
    heard.error, heard.ended = reading.error, reading.ended
    return heard


def error_of(said: Said) -> Wrong:
    """Read an error in its envelope."""
    error = said["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return Wrong(error["type"], error["message"], error["param"] or "", error["code"] or "")


def _heard(message: Said) -> Heard:
    calls = [
        Call(call["id"], call["function"]["name"], object_of(call["function"]["arguments"]))
        for call in message.get("tool_calls") or ()
    ]
    return Heard(
        text=message.get("content") or "",
        thoughts=message.get("reasoning_content") or "",
        refusal=message.get("refusal") or "",
        calls=calls,
        silent=any(not call["function"]["arguments"] for call in message.get("tool_calls") or ()),
        turn=[message],
    )


def _tokens(usage: Said) -> Tokens:
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    return Tokens(usage["prompt_tokens"], usage["completion_tokens"], thought)


class _Reading:
    """Follows the chunks of a stream."""

    def __init__(self) -> None:
        self.idents: set[str] = set()
        self.texts: dict[str, str] = {}
        self.calls: list[Said] = []
        self.details: list[Said] = []
        self.roles = 0
        self.end = ""
        self.tokens: Tokens | None = None
        self.error: Wrong | None = None
        self.ended = False

    @property
    def over(self) -> bool:
        return self.ended or self.error is not None

    def take(self, data: str) -> None:
        if data == "[DONE]":
            assert self.end
            self.ended = True
            return
        said = json.loads(data)
        if "error" in said:
            self.error = error_of(said)
            return
        assert said["object"] == "chat.completion.chunk"
        self.idents.add(said["id"])
        assert len(self.idents) == 1
        assert self.tokens is None
        if not said["choices"]:
            assert self.end
            self.tokens = _tokens(said["usage"])
            return
        (choice,) = said["choices"]
        assert choice["index"] == 0
        self._delta(choice["delta"])
        assert not (self.end and choice["finish_reason"])
        self.end = choice["finish_reason"] or self.end

    def _delta(self, delta: Said) -> None:
        assert not (delta and self.end)
        if "role" in delta:
            assert not self.texts
            self.roles += 1
        assert self.roles == 1
        for name in ("content", "reasoning_content", "refusal"):
            if delta.get(name):
                self.texts[name] = self.texts.get(name, "") + delta[name]
        for call in delta.get("tool_calls", ()):
            self._call(call)
        for detail in delta.get("reasoning_details", ()):
            self._detail(detail)

    def _call(self, piece: Said) -> None:
        if piece["index"] == len(self.calls):
            assert piece["type"] == "function"
            assert piece["function"]["name"]
            self.calls.append({"id": piece["id"], "type": "function", "function": {**piece["function"]}})
            if "extra_content" in piece:
                self.calls[-1]["extra_content"] = piece["extra_content"]
            return
        assert piece.keys() == {"index", "function"}
        assert piece["function"].keys() == {"arguments"}
        self.calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]

    def _detail(self, piece: Said) -> None:
        """Join the pieces of a thought, as official SDKs join what has the same index."""
        if piece["index"] == len(self.details):
            self.details.append({**piece})
            return
        detail = self.details[piece["index"]]
        for name, value in piece.items():
            joins = name in {"text", "data", "signature"}
            detail[name] = detail.get(name, "") + value if joins else value

    def message(self) -> Said:
        """Give the message that was streamed."""
        message: Said = {"role": "assistant", "content": None, **self.texts}
        if self.calls:
            message["tool_calls"] = self.calls if self.ended else []
        if self.details:
            message["reasoning_details"] = self.details
        return message
