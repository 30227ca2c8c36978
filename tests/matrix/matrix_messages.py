"""A client of Messages: what it asks, and how it reads the answer."""

import json
from typing import Any

from matrix_heard import Call, Heard, Said, Tokens, Wrong, events, object_of

HEADERS = {"anthropic-version": "2023-06-01"}
_EMPTY: dict[str, Said] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}
_DELTAS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
    "input_json_delta": ("tool_use", "partial_json"),
}


def request(model: str, *, stream: bool, tools: list[Said], thinks: bool) -> Said:
    """Give the members of a request without its turns."""
    given = [{"name": tool["name"], "input_schema": tool["parameters"]} for tool in tools]
    said: Said = {"model": model, "stream": stream, "max_tokens": 4000, "tools": given}
    if thinks:
        said["thinking"] = {"type": "enabled", "budget_tokens": 2048}
    return {name: value for name, value in said.items() if value != []}


def user(text: str, image: str = "") -> list[Any]:
    """Give a user's turn."""
    content: list[Said] = [{"type": "text", "text": text}]
    if image:
        kind, _, data = image.partition(";base64,")
        base64 = {"type": "base64", "media_type": kind.removeprefix("data:"), "data": data}
        content.insert(0, {"type": "image", "source": base64 if data else {"type": "url", "url": image}})
    return [{"role": "user", "content": content}]


def results(calls: list[tuple[str, str]]) -> list[Any]:
    """Give what the tools gave."""
    blocks = [{"type": "tool_result", "tool_use_id": ident, "content": text} for ident, text in calls]
    return [{"role": "user", "content": blocks}]


def with_turns(request: Said, turns: list[Any]) -> Said:
    """Give a whole request."""
    return request | {"messages": turns}


def read_whole(body: bytes) -> Heard:
    """Read a whole answer."""
    said = json.loads(body)
    if said["type"] == "error":
        return Heard(error=error_of(said))
    assert (said["type"], said["role"]) == ("message", "assistant")
    heard = _heard(said["content"])
    heard.end, heard.tokens, heard.ended = said["stop_reason"], _tokens(said["usage"]), True
    return heard


def read_stream(body: bytes) -> Heard:
    """Read a stream."""
    reading = _Reading()
    for name, data in events(body):
        said = json.loads(data)
        assert name == said["type"]
        reading.take(name, said)
    heard = _heard(reading.blocks)
    heard.end, heard.tokens = reading.end, reading.tokens
    heard.error, heard.ended = reading.error, reading.state == "stopped"
    return heard


def error_of(said: Said) -> Wrong:
    """Read an error in its envelope."""
    assert said["type"] == "error"
    error = said["error"]
    return Wrong(error["type"], error["message"], code=error.get("code", ""))


def _heard(blocks: list[Said]) -> Heard:
    heard = Heard(turn=[{"role": "assistant", "content": blocks}])
    for block in blocks:
        match block["type"]:
            case "thinking":
                heard.thoughts += block["thinking"]
            case "text":
                heard.text += block["text"]
            case "tool_use":
                heard.calls.append(Call(block["id"], block["name"], block["input"]))
            case kind:
                assert kind == "redacted_thinking"
                assert block["data"]
    return heard


def _tokens(usage: Said) -> Tokens:
    parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    thought = (usage.get("output_tokens_details") or {}).get("thinking_tokens", 0)
    return Tokens(sum(usage[part] for part in parts), usage["output_tokens"], thought)


class _Reading:
    """Follows the events of a message."""

    def __init__(self) -> None:
        self.state = "before"
        self.blocks: list[Said] = []
        self.json = ""
        self.end = ""
        self.tokens: Tokens | None = None
        self.error: Wrong | None = None

    def take(self, name: str, said: Said) -> None:
        assert self.state not in {"stopped", "failed"}
        match name:
            case "ping":
                assert self.state != "before"
            case "error":
                self.error, self.state = error_of(said), "failed"
            case "message_start":
                assert self.state == "before"
                assert said["message"]["content"] == []
                assert said["message"]["stop_reason"] is None
                self.state = "between"
            case "message_delta":
                assert self.state == "between"
                self.end, self.tokens, self.state = said["delta"]["stop_reason"], _tokens(said["usage"]), "stopping"
            case "message_stop":
                assert self.state == "stopping"
                self.state = "stopped"
            case _:
                self._block(name, said)

    def _block(self, name: str, said: Said) -> None:
        if name == "content_block_start":
            assert (self.state, said["index"]) == ("between", len(self.blocks))
            block = said["content_block"]
            for member, empty in _EMPTY.get(block["type"], {}).items():
                assert block[member] == empty
            self.blocks.append(block)
            self.state, self.json = "inside", ""
            return
        assert (self.state, said["index"]) == ("inside", len(self.blocks) - 1)
        block = self.blocks[-1]
        if name == "content_block_delta":
            delta = said["delta"]
            kind, member = _DELTAS[delta["type"]]
            assert block["type"] == kind
            assert delta.keys() == {"type", member}
            if member == "partial_json":
                self.json += delta[member]
            else:
                block[member] += delta[member]
            return
        assert name == "content_block_stop"
        self.state = "between"
        if block["type"] == "tool_use":
            block["input"] = object_of(self.json or "{}")
